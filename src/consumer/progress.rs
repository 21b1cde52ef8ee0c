//! What of a partition was processed: the contiguous prefix over the batches that were given out.
//!
//! ```text
//!   given out, oldest first:   [exhausted ✓] [half read ..    ] [exhausted ✓]
//!   processed ────────────────────────────────────┘   the last one counts only when the one before it is done
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::batch::BadRecord;

/// How far one batch was processed. Shared by the consumer, the batch and its owned records, each on any thread.
#[derive(Debug)]
pub(super) struct BatchMark {
    /// Behind the last record that iteration left behind.
    processed: AtomicI64,
    /// The iterator was asked for more than there is, or the batch was declared done.
    exhausted: AtomicBool,
    /// Somebody has owned records of it.
    owned: AtomicBool,
    /// Offsets of owned records that are not done.
    pending: Mutex<BTreeSet<i64>>,
    /// The iterator met a record that cannot be read, and ended there.
    bad: OnceLock<BadRecord>,
}

impl BatchMark {
    pub(super) fn new(first_offset: i64) -> Arc<Self> {
        Arc::new(Self {
            processed: AtomicI64::new(first_offset),
            exhausted: AtomicBool::new(false),
            owned: AtomicBool::new(false),
            pending: Mutex::default(),
            bad: OnceLock::new(),
        })
    }

    /// The iterator was asked for the record behind the one that ends before `offset`. Never goes back.
    #[inline]
    pub(super) fn pass(&self, offset: i64) {
        // One batch is iterated by one thread at a time, so a load and a store are enough.
        if offset > self.processed.load(Ordering::Relaxed) {
            self.processed.store(offset, Ordering::Release);
        }
    }

    /// Every record was asked for. A walk that met a bad record is over, but its batch is not.
    pub(super) fn exhaust(&self) {
        if self.bad.get().is_none() {
            self.exhausted.store(true, Ordering::Release);
        }
    }

    /// The walk ended at a record that cannot be read.
    pub(super) fn spoil(&self, bad: BadRecord) {
        let _ = self.bad.set(bad);
    }

    /// The batch is done with, read or not.
    pub(super) fn finish(&self, next_offset: i64) {
        self.pass(next_offset);
        self.exhausted.store(true, Ordering::Release);
    }

    /// A record was taken out: it is done when it says so, whatever the iterator does.
    pub(super) fn own(&self, offset: i64) {
        self.owned.store(true, Ordering::Release);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(offset);
    }

    /// An owned record is done.
    pub(super) fn done(&self, offset: i64) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&offset);
    }

    fn first_pending(&self) -> Option<i64> {
        if !self.owned.load(Ordering::Acquire) {
            return None;
        }
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).first().copied()
    }

    /// The contiguous prefix inside this batch.
    fn prefix(&self) -> i64 {
        let passed = self.processed.load(Ordering::Acquire);
        self.first_pending().map_or(passed, |pending| pending.min(passed))
    }

    fn is_done(&self) -> bool {
        self.exhausted.load(Ordering::Acquire) && self.first_pending().is_none()
    }
}

#[derive(Debug)]
struct Given {
    mark: Arc<BatchMark>,
    /// Behind the batch, and behind what followed it without being given out.
    next_offset: i64,
    /// Nothing behind this counts: the log was cut off here.
    end: i64,
    /// Its bad record was told.
    told: bool,
}

/// One partition's.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Behind all batches that are done; none before the start is known.
    base: Option<i64>,
    given: VecDeque<Given>,
    /// A batch with a bad record was dropped: nothing behind it will ever count, so nothing behind it is kept.
    stuck: bool,
}

impl Progress {
    /// Reading starts here: a lookup was answered, or a seek.
    pub(super) fn start(&mut self, offset: Option<i64>) {
        *self = Self { base: offset, given: VecDeque::new(), stuck: false };
    }

    /// A batch is given out.
    pub(super) fn give(&mut self, mark: Arc<BatchMark>, next_offset: i64) {
        if !self.stuck {
            self.given.push_back(Given { mark, next_offset, end: i64::MAX, told: false });
        }
    }

    /// Reading went on to `position` without giving anything out (markers, aborted transactions, compacted tails).
    pub(super) fn advance(&mut self, position: i64) {
        match self.given.back_mut() {
            Some(last) => last.next_offset = last.next_offset.max(position),
            None if self.stuck => {}
            None => self.base = self.base.max(Some(position)),
        }
    }

    /// `next` was called: batches that were exhausted before are done. True when the first one that is not was dropped:
    /// reading has to go back to [`Progress::processed`].
    pub(super) fn settle(&mut self) -> bool {
        while let Some(first) = self.given.front() {
            if first.mark.is_done() {
                self.base = self.base.max(Some(first.next_offset));
                self.given.pop_front();
                continue;
            }
            // Only we know of it any more: nobody can finish it.
            if Arc::strong_count(&first.mark) == 1 {
                if first.mark.bad.get().is_none() {
                    return true;
                }
                // Going back would only meet the same record again.
                self.stuck = true;
                self.given.truncate(1);
            }
            break;
        }
        false
    }

    /// The log was cut off at `to`: what was given out behind it is gone.
    pub(super) fn rewind(&mut self, to: i64) {
        let processed = self.processed();
        if processed.is_none_or(|processed| processed >= to) {
            return self.start(Some(to));
        }
        for given in &mut self.given {
            given.next_offset = given.next_offset.min(to);
            given.end = given.end.min(to);
        }
    }

    /// A bad record that was met since the last time, told once.
    pub(super) fn take_bad(&mut self) -> Option<BadRecord> {
        let given = self.given.iter_mut().find(|given| !given.told && given.mark.bad.get().is_some())?;
        given.told = true;
        given.mark.bad.get().copied()
    }

    /// Whether there is anything that [`Progress::settle`] could move.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.given.is_empty() && !self.stuck
    }

    /// The next offset to commit.
    pub(super) fn processed(&self) -> Option<i64> {
        match self.given.front() {
            Some(first) => self.base.max(Some(first.mark.prefix().min(first.end))),
            None => self.base,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r01_processed_is_the_contiguous_prefix_over_batches_in_any_order() {
        let mut progress = Progress::default();
        progress.start(Some(100));
        let (a, b) = (BatchMark::new(100), BatchMark::new(110));
        progress.give(a.clone(), 110);
        progress.give(b.clone(), 125);
        b.pass(120);
        b.exhaust();
        progress.settle();
        assert_eq!(progress.processed(), Some(100));
        a.pass(104);
        assert_eq!(progress.processed(), Some(104));
        a.pass(102);
        assert_eq!(progress.processed(), Some(104), "never back");
        a.pass(110);
        a.exhaust();
        assert_eq!(progress.processed(), Some(110));
        progress.settle();
        assert_eq!(progress.processed(), Some(125), "and what follows it without records");
        progress.advance(130);
        assert_eq!(progress.processed(), Some(130));
    }

    #[test]
    fn r01_owned_records_hold_it_back_until_they_are_done() {
        let mut progress = Progress::default();
        progress.start(Some(0));
        let mark = BatchMark::new(0);
        progress.give(mark.clone(), 10);
        for offset in 0..10 {
            mark.own(offset);
            mark.pass(offset + 1);
        }
        mark.exhaust();
        progress.settle();
        assert_eq!(progress.processed(), Some(0));
        for offset in [1, 0, 5, 2] {
            mark.done(offset);
        }
        assert_eq!(progress.processed(), Some(3));
        (0..10).for_each(|offset| mark.done(offset));
        progress.settle();
        assert_eq!(progress.processed(), Some(10));
    }

    #[test]
    fn r01_a_batch_dropped_half_read_sends_reading_back_to_its_current_record() {
        let mut progress = Progress::default();
        progress.start(Some(0));
        let (first, second) = (BatchMark::new(0), BatchMark::new(10));
        progress.give(first.clone(), 10);
        progress.give(second.clone(), 20);
        first.pass(4);
        second.exhaust();
        drop(second);
        assert!(!progress.settle(), "the first one is held on to");
        drop(first);
        assert!(progress.settle());
        assert_eq!(progress.processed(), Some(4));
        // And when an owned record was dropped undone.
        progress.start(Some(0));
        let mark = BatchMark::new(0);
        progress.give(mark.clone(), 10);
        (3..5).for_each(|offset| mark.own(offset));
        mark.pass(10);
        mark.exhaust();
        mark.done(4);
        assert!(!progress.settle());
        drop(mark);
        assert!(progress.settle());
        assert_eq!(progress.processed(), Some(3));
    }

    #[test]
    fn d2_42_a_log_that_was_cut_off_takes_processed_back_with_it() {
        let mut progress = Progress::default();
        progress.start(Some(0));
        progress.advance(100);
        progress.rewind(60);
        assert_eq!(progress.processed(), Some(60));
        let (held, new) = (BatchMark::new(60), BatchMark::new(65));
        progress.give(held.clone(), 70);
        progress.rewind(65);
        assert_eq!(progress.processed(), Some(60), "what is being read counts on");
        progress.give(new.clone(), 80);
        held.pass(70);
        assert_eq!(progress.processed(), Some(65), "but not behind the end");
        held.exhaust();
        progress.settle();
        assert_eq!(progress.processed(), Some(65));
        new.pass(70);
        assert_eq!(progress.processed(), Some(70));
    }

    #[test]
    fn r01_a_bad_record_stops_it_and_costs_no_memory() {
        let mut progress = Progress::default();
        progress.start(Some(0));
        let first = BatchMark::new(0);
        progress.give(first.clone(), 10);
        first.pass(4);
        first.spoil(BadRecord { after: 3, what: "a test" });
        drop(first);
        for i in 1..1_000 {
            progress.settle();
            let mark = BatchMark::new(i * 10);
            progress.give(mark.clone(), i * 10 + 10);
            mark.exhaust();
            progress.advance(i * 10 + 10);
        }
        assert_eq!((progress.processed(), progress.given.len()), (Some(4), 1));
        progress.start(Some(4));
        assert_eq!(progress.processed(), Some(4));
    }
}
