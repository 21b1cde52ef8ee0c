//! One partition's side of one producer: its open batch and its queue of sealed ones.
//!
//! ```text
//!  queue:  [in flight][in flight][ready][ready]   open batch (grows)
//!           oldest ─────────────────────► newest
//!  Ready ──sent──► InFlight ──answer──► Done ──all older ones done──► gone
//!    ▲                │
//!    └── retriable ───┘   bytes, sequence and epoch stay as they are
//! ```
//! Invariants: batches settle in queue order; those that may have been written form a prefix of the queue; a batch that may
//! have been written is never renumbered inside its epoch, split or re-encoded.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{CallIx, Outcome};
use crate::base::backoff::Backoff;
use crate::base::ids::{BrokerId, LaneId, ProducerIx, Tp};
use crate::base::time::Time;
use crate::batch::{BatchBuilder, SealedBatch};
use crate::wire::ErrorCode;

/// A partition of the accumulator: dense, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PartIx(pub u32);

/// Where a record came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The lane.
    pub lane: LaneId,
    /// The partition its ticket counts under: the record's own, or -1 when it was sent unplaced.
    pub space: i32,
    /// Its number among the lane's records of that partition, from 0.
    pub ticket: u64,
    /// Flush marks that went through the lane before it.
    pub mark: u32,
    /// Somebody asked for its outcome.
    pub tracked: bool,
    /// Somebody waits for it now.
    pub urgent: bool,
}

/// One record on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The body, as `batch::encode_body` writes it.
    pub body: &'a [u8],
    /// Where it came from.
    pub origin: Origin,
    /// Bytes of the budget that it holds.
    pub charge: usize,
}

/// Neighbouring records of one lane in one batch, with consecutive tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The lane.
    pub lane: LaneId,
    /// The partition the tickets count under.
    pub space: i32,
    /// The first ticket.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Flush marks of the lane before these records.
    pub mark: u32,
    /// Whether any outcome was asked for.
    pub tracked: bool,
}

impl Run {
    pub(super) fn of(origin: &Origin) -> Self {
        Self {
            lane: origin.lane,
            space: origin.space,
            first: origin.ticket,
            count: 1,
            mark: origin.mark,
            tracked: origin.tracked,
        }
    }

    /// Takes the record in when it continues this run.
    #[inline]
    pub(super) fn extend(&mut self, origin: &Origin) -> bool {
        let goes_on = self.lane == origin.lane
            && self.space == origin.space
            && self.mark == origin.mark
            && self.first + u64::from(self.count) == origin.ticket;
        if goes_on {
            self.count += 1;
            self.tracked |= origin.tracked;
        }
        goes_on
    }
}

pub(super) type Runs = SmallVec<[Run; 1]>;

/// Batches of a partition are numbered in steps of this, so that halves of a split one find numbers in between.
pub(super) const NO_STEP: u64 = 1 << 20;

/// The batch that records are appended to.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub no: u64,
    pub builder: BatchBuilder,
    pub runs: Runs,
    pub charge: usize,
    pub created: Time,
    /// May be sealed as soon as a request has room for it.
    pub due: bool,
    /// Somebody waits for one of its records.
    pub urgent: bool,
}

/// Who a batch says it is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ident {
    /// `producerId`.
    pub id: i64,
    /// `producerEpoch`.
    pub epoch: i16,
}

/// What is known about earlier sends of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tried {
    /// Never left.
    Never,
    /// A broker refused it: surely not in the log.
    Refused,
    /// It may be in the log.
    Maybe,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Ready,
    InFlight(CallIx),
    Done(Outcome),
}

/// A sealed batch on its way.
#[derive(Debug)]
pub(super) struct Batch {
    pub no: u64,
    pub sealed: SealedBatch,
    /// The identity and base sequence in its header, or none while it waits for one.
    pub stamp: Option<(Ident, i32)>,
    pub runs: Runs,
    pub charge: usize,
    pub created: Time,
    pub state: State,
    pub tried: Tried,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub producer: ProducerIx,
    pub tp: Tp,
    pub leader: Option<BrokerId>,
    pub leader_epoch: i32,
    /// Snapshots in a row that named an older leader epoch than ours (d2-44: bounded).
    pub older_epochs: u8,
    pub open: Option<OpenBatch>,
    pub queue: VecDeque<Batch>,
    pub in_flight: u32,
    /// The identity that the sequence numbers below count under.
    pub ident: Option<Ident>,
    pub next_sequence: i32,
    /// The numbers are spent: continue under a new epoch once nothing old is unresolved.
    pub bump: bool,
    /// After a retriable error: wait until all in flight are back, then go on from the head.
    pub regroup: bool,
    pub backing_off: bool,
    pub backoff: Backoff,
    /// The first batch to a new leader, or under a new identity, goes alone until it is acknowledged.
    pub probation: bool,
    pub in_ready: bool,
    pub in_open: bool,
    pub batch_no: u64,
    /// When it was first reported missing, while it never had a leader.
    pub missing_since: Option<Time>,
    /// It had a leader once: it exists, whatever a restarting broker says (d1-15).
    pub known: bool,
    pub last_offset: i64,
    /// What the last answer said, for the words of a timeout.
    pub last_error: ErrorCode,
}

impl Partition {
    pub fn new(producer: ProducerIx, tp: Tp, backoff: Backoff) -> Self {
        Self {
            producer,
            tp,
            leader: None,
            leader_epoch: -1,
            older_epochs: 0,
            open: None,
            queue: VecDeque::new(),
            in_flight: 0,
            ident: None,
            next_sequence: 0,
            bump: false,
            regroup: false,
            backing_off: false,
            backoff,
            probation: false,
            in_ready: false,
            in_open: false,
            batch_no: 0,
            missing_since: None,
            known: false,
            last_offset: -1,
            last_error: ErrorCode::None,
        }
    }

    /// Whether something could be sent if there were a slot.
    pub fn has_work(&self) -> bool {
        self.next_ready().is_some() || self.open.as_ref().is_some_and(|open| open.due)
    }

    /// The oldest batch that waits to be sent.
    pub fn next_ready(&self) -> Option<usize> {
        self.queue.iter().position(|batch| batch.state == State::Ready)
    }

    /// Whether a batch of the present identity may be in a log, or is on its way there.
    pub fn unresolved(&self) -> bool {
        self.in_flight > 0 || self.queue.iter().any(|batch| batch.tried == Tried::Maybe)
    }

    pub fn position_of(&self, no: u64) -> Option<usize> {
        let at = self.queue.partition_point(|batch| batch.no < no);
        (self.queue.get(at)?.no == no).then_some(at)
    }

    /// Forgets the numbers of everything that is surely not written, from `from` on, so that they are given again.
    pub fn unstamp(&mut self, from: usize) {
        for batch in self.queue.iter_mut().skip(from).filter(|batch| batch.state == State::Ready) {
            batch.stamp = None;
        }
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.queue.is_empty() && self.in_flight == 0
    }
}

/// The sequence number `count` records after `sequence`: 2^31 - 1 is followed by 0.
pub fn sequence_after(sequence: i32, count: u32) -> i32 {
    ((sequence as u32).wrapping_add(count) & (i32::MAX as u32)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_08_sequences_wrap_to_zero() {
        assert_eq!(sequence_after(0, 10), 10);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
    }

    #[test]
    fn runs_take_consecutive_tickets_of_one_lane_only() {
        let origin = |lane, ticket| Origin {
            lane: LaneId(lane),
            space: 0,
            ticket,
            mark: 0,
            tracked: ticket == 6,
            urgent: false,
        };
        let mut run = Run::of(&origin(1, 5));
        assert!(run.extend(&origin(1, 6)) && run.tracked);
        assert!(!run.extend(&origin(1, 8)), "a gap");
        assert!(!run.extend(&origin(2, 7)), "another lane");
        assert!(!run.extend(&Origin { mark: 1, ..origin(1, 7) }), "behind a flush");
        assert_eq!((run.first, run.count), (5, 2));
    }
}
