//! Where one partition is read.

use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::ids::{BrokerId, Tp, Uuid};
use crate::base::time::Time;
use crate::config::StartAt;
use crate::wire::ErrorCode;

/// Where fetching goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// To be looked up at the leader.
    Nowhere(StartAt),
    /// At this offset.
    Offset(i64),
    /// Not at all, until a seek.
    Stopped,
}

/// What went wrong last, so that the application hears of it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Nothing,
    Broker(ErrorCode),
    NoProgress,
}

#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) tp: Tp,
    /// Counts assignments and seeks: answers for an older one are dropped.
    pub(super) generation: u32,
    pub(super) at: At,
    pub(super) paused: bool,
    /// From the snapshot; the name is empty while the topic is unknown.
    pub(super) name: Arc<str>,
    pub(super) topic_id: Uuid,
    pub(super) leader: Option<BrokerId>,
    pub(super) leader_epoch: i32,
    /// Epoch of the leader that appended the record before `at`; -1 when unknown (after a seek).
    pub(super) last_epoch: i32,
    /// The leader's epoch rose, or the offset is said not to exist: the log may have lost records that were read, so its
    /// end in `last_epoch` is asked for before anything more is fetched (KIP-320).
    pub(super) unproven: bool,
    /// The log was found whole up to here after this offset was said not to exist.
    pub(super) proven: Option<i64>,
    /// Bytes given out and not yet taken by the consumer.
    pub(super) queued_bytes: usize,
    /// `partition_max_bytes` of the next request, at most.
    pub(super) bytes_max: i32,
    /// Sizes of its batches, as far as they are known.
    pub(super) sizes: Sizes,
    /// What may be read ends here, as the last answer said; -1 before.
    pub(super) end: i64,
    /// Asked for last: the share of the consumer's queue that it may have.
    pub(super) share: usize,
    /// The last answer was as large as it may be.
    pub(super) full: bool,
    /// Left out of the session because the consumer does not keep up.
    pub(super) held: bool,
    pub(super) wait_until: Time,
    pub(super) backoff: Backoff,
    pub(super) told: Told,
}

/// How large a partition's batches are. A byte limit that falls into a batch has the broker send a part of it for nothing: with
/// batches of half the limit or more, up to half of what comes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    /// The largest of the last answers; 0 when none came yet.
    batch: usize,
    /// Of the batch that comes next, when its beginning came with the last answer; else 0.
    next: usize,
    /// They vary: how many fit cannot be told.
    vary: bool,
}

/// As much of the next batch tells its size.
const SIZE_BYTES: usize = 12;

impl Sizes {
    /// An answer's batches: the largest and the smallest, and the size of one that was cut off at the end.
    pub(super) fn note(&mut self, largest: usize, smallest: usize, next: Option<usize>) {
        self.vary = smallest.min(next.unwrap_or(smallest)) < largest.max(self.batch) / 8 * 7;
        self.batch = largest.max(self.batch - self.batch / 8);
        self.next = next.unwrap_or(0);
    }

    /// Bytes to ask for: whole batches, as many as `most` allows, but one in any case where that is no more than `one_max`; and as
    /// much of the one behind as tells its size. What is not known exactly is taken a thirty-second larger, and where large ones
    /// vary, one is enough. None before anything is known.
    pub(super) fn fit(&self, most: usize, one_max: usize) -> Option<usize> {
        let each = self.batch + self.batch / 32;
        let first = if self.next > 0 { self.next } else { each };
        match most.checked_sub(first) {
            _ if each == 0 => None,
            Some(_) if self.next > 0 && self.vary && each > most / 8 => Some(first + SIZE_BYTES),
            Some(left) => Some((first + left / each * each + SIZE_BYTES).min(most)),
            None if first <= one_max => Some((first + SIZE_BYTES).min(one_max)),
            None => Some(most),
        }
    }
}

impl Cursor {
    /// Whether it may be part of a Fetch to its leader now, as far as it is concerned itself.
    pub(super) fn is_fetchable(&self, now: Time) -> bool {
        let is_known = matches!(self.at, At::Offset(_)) && !self.unproven;
        is_known && !self.paused && self.leader.is_some() && self.wait_until <= now
    }

    /// Whether the consumer has taken enough of what came to ask for more.
    pub(super) fn is_under_share(&self) -> bool {
        self.queued_bytes < self.share.div_ceil(2)
    }

    /// Whether it got more than its share and even the answer after that lies untouched.
    pub(super) fn is_far_over_share(&self) -> bool {
        self.queued_bytes >= 2 * self.share
    }

    /// Another generation: everything in flight for the old one is dropped.
    pub(super) fn restart(&mut self, generation: u32, start: StartAt) {
        self.generation = generation;
        self.at = match start {
            StartAt::Offset(offset) => At::Offset(offset),
            start => At::Nowhere(start),
        };
        self.forget_epoch();
        self.queued_bytes = 0;
        self.sizes = Sizes::default();
        self.full = false;
        self.held = false;
        self.wait_until = Time::ZERO;
        self.backoff.reset();
        self.told = Told::Nothing;
    }

    /// Whether there is more to read than was asked for, as far as is known.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self.at, At::Offset(offset) if offset < self.end)
    }

    /// Nothing is known of the record before `at`.
    pub(super) fn forget_epoch(&mut self) {
        (self.last_epoch, self.unproven, self.proven) = (-1, false, None);
    }
}
