//! Outcomes on their way back: one shard to one handle, in order, bounded, nothing lost.
//!
//! The queue itself is bounded (`rtrb`). What does not fit waits with the writer, in order, until the handle has read: the
//! shard calls [`CompletionWriter::flush`] each turn, is rung by a handle that made room, and holds back the memory of records whose outcome is still
//! [`CompletionWriter::pending`], so a handle that never polls is stopped by its budget, not by a growing queue.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll, Waker};

use crate::base::gate::{Gate, Medium};
use crate::base::sync::atomic::{AtomicBool, Ordering, fence};
use crate::base::sync::{Arc, Mutex, Waiters, lock};

/// Makes the pair. `medium` is that of the reading handle.
pub fn completions<T>(capacity: usize, medium: &Medium) -> (CompletionWriter<T>, CompletionReader<T>) {
    let (items, queue) = rtrb::RingBuffer::new(capacity.max(1));
    let shared = Arc::new(Shared {
        waiters: Arc::default(),
        ended: AtomicBool::new(false),
        full: AtomicBool::new(false),
        left: Mutex::new(VecDeque::new()),
    });
    let waiters = shared.waiters.clone();
    let gate = medium.gate_waking(|| Waker::from(std::sync::Arc::new(Nudge(waiters))));
    let writer = CompletionWriter { items, overflow: VecDeque::new(), shared: shared.clone() };
    (writer, CompletionReader { queue, popped: 0, shared, gate })
}

/// Wakes those who wait when the simulator shows them more.
struct Nudge(Arc<Waiters>);

impl std::task::Wake for Nudge {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.wake_all();
    }
}

struct Shared<T> {
    waiters: Arc<Waiters>,
    /// The writer is gone; `left` is final.
    ended: AtomicBool,
    /// Outcomes wait with the writer for room: whoever makes room rings the shard.
    full: AtomicBool,
    /// What a writer that is gone could not push.
    left: Mutex<VecDeque<T>>,
}

/// The shard's end.
pub struct CompletionWriter<T> {
    items: rtrb::Producer<T>,
    overflow: VecDeque<T>,
    shared: Arc<Shared<T>>,
}

impl<T> CompletionWriter<T> {
    /// Adds an outcome behind all others. Never blocks, never loses; [`CompletionWriter::notify`] follows once per turn.
    pub fn push(&mut self, item: T) {
        if !self.overflow.is_empty() {
            self.overflow.push_back(item);
        } else if let Err(rtrb::PushError::Full(item)) = self.items.push(item) {
            self.overflow.push_back(item);
        }
    }

    /// Moves what waited here into the queue as far as it fits, and wakes the handle if it waits.
    pub fn flush(&mut self) {
        self.move_up();
        if !self.overflow.is_empty() {
            self.shared.full.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // Room that was made before that could be seen.
            self.move_up();
        }
        self.notify();
    }

    fn move_up(&mut self) {
        while let Some(item) = self.overflow.pop_front() {
            if let Err(rtrb::PushError::Full(item)) = self.items.push(item) {
                self.overflow.push_front(item);
                break;
            }
        }
    }

    /// Whether [`CompletionWriter::flush`] would move something: the look after [`super::Sleeper::prepare`].
    pub fn can_flush(&self) -> bool {
        !self.overflow.is_empty() && !self.items.is_full()
    }

    /// Wakes the handle if it waits: once after the pushes of a turn.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        self.shared.waiters.wake_all();
    }

    /// Outcomes that did not fit yet.
    pub fn pending(&self) -> usize {
        self.overflow.len()
    }

    /// Whether the handle is gone: outcomes need not be pushed any more.
    pub fn is_closed(&self) -> bool {
        self.items.is_abandoned()
    }
}

impl<T> Drop for CompletionWriter<T> {
    fn drop(&mut self) {
        // What does not fit is left where the handle finds it after the rest.
        *lock(&self.shared.left) = std::mem::take(&mut self.overflow);
        self.shared.ended.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.shared.waiters.wake_all_quietly();
    }
}

impl<T> fmt::Debug for CompletionWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionWriter(pending {})", self.overflow.len())
    }
}

/// The handle's end.
pub struct CompletionReader<T> {
    queue: rtrb::Consumer<T>,
    popped: u64,
    shared: Arc<Shared<T>>,
    gate: Gate,
}

impl<T> CompletionReader<T> {
    /// The oldest outcome, if one is there.
    pub fn pop(&mut self) -> Option<T> {
        let mut pushed = self.popped + self.queue.slots() as u64;
        if self.shared.ended.load(Ordering::SeqCst) {
            // Again: what the writer pushed last, and what it left.
            pushed = self.popped + (self.queue.slots() + lock(&self.shared.left).len()) as u64;
        }
        if self.gate.pass(pushed) <= self.popped {
            return None;
        }
        let item = match self.queue.pop() {
            Ok(item) => item,
            Err(_) => lock(&self.shared.left).pop_front()?,
        };
        self.popped += 1;
        Some(item)
    }

    /// Pollable core of waiting: the oldest outcome, or `None` when the shard is gone and all was read.
    pub fn poll_pop(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        for registered in [false, true] {
            if let Some(item) = self.pop() {
                return Poll::Ready(Some(item));
            }
            if self.is_ended() {
                return Poll::Ready(None);
            }
            if !registered {
                self.shared.waiters.register(context.waker());
            }
        }
        Poll::Pending
    }

    /// Whether outcomes waited for the room that reading made: ring the shard's [`super::Doorbell`]. Asked after reading.
    pub fn made_room(&self) -> bool {
        fence(Ordering::SeqCst);
        self.shared.full.load(Ordering::SeqCst) && self.shared.full.swap(false, Ordering::SeqCst)
    }

    /// Adds a waker that is called when outcomes were pushed. The caller looks again afterwards.
    pub fn register(&self, context: &Context<'_>) {
        self.shared.waiters.register(context.waker());
    }

    /// Whether the shard is gone and all was read.
    pub fn is_ended(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst) && self.queue.is_empty() && lock(&self.shared.left).is_empty()
    }
}

impl<T> fmt::Debug for CompletionReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionReader(popped {})", self.popped)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::sync::park_until;
    use crate::base::time::{Clock, SystemClock};
    use std::time::Duration;

    #[test]
    fn r05_more_than_fits_waits_in_order_and_nothing_is_lost() {
        let (mut writer, mut reader) = completions(4, &Medium::threads());
        for item in 0..100 {
            writer.push(item);
        }
        assert_eq!(writer.pending(), 96);
        let mut got = Vec::new();
        while got.len() < 100 {
            while let Some(item) = reader.pop() {
                got.push(item);
            }
            writer.flush();
        }
        assert!(got.iter().copied().eq(0..100));
    }

    /// A waiting handle had hung: it had read all that fitted, and the shard slept on the rest.
    #[test]
    fn r05_who_makes_room_is_told_that_the_shard_has_more() {
        let (mut writer, mut reader) = completions(4, &Medium::threads());
        (0..6).for_each(|item| writer.push(item));
        assert!(!writer.can_flush() && !reader.made_room());
        writer.flush();
        let read = std::iter::from_fn(|| reader.pop()).count();
        assert_eq!(read, 4);
        assert!(reader.made_room() && writer.can_flush(), "once the handle has read, the shard must have a turn");
        writer.flush();
        assert_eq!(std::iter::from_fn(|| reader.pop()).count(), 2);
        assert!(!reader.made_room() && !writer.can_flush());
    }

    #[test]
    fn a_parked_handle_gets_every_outcome_and_the_end() {
        let (mut writer, mut reader) = completions(8, &Medium::threads());
        let deadline = SystemClock.now().mono + Duration::from_secs(20);
        let shard = std::thread::spawn(move || {
            for item in 0..20_000u32 {
                writer.push(item);
                writer.flush();
            }
        });
        let mut expected = 0;
        while let Some(item) =
            park_until(deadline, &SystemClock, |context| reader.poll_pop(context)).expect("lost wake")
        {
            assert_eq!(item, expected);
            expected += 1;
        }
        assert_eq!(expected, 20_000);
        shard.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::{park_until, thread};
    use crate::base::time::{SystemClock, Time};

    /// The queue itself is not under the model (it is `rtrb`'s): what is checked is that a handle which waits is woken for
    /// what was pushed, also for what the writer left behind when it went away.
    #[test]
    fn loom_a_waiting_handle_is_woken_for_outcomes_and_for_the_end() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let (mut writer, mut reader) = completions(1, &Medium::threads());
            let shard = thread::spawn(move || {
                writer.push(1);
                // No room: left for the handle when the shard ends.
                writer.push(2);
                writer.notify();
            });
            let mut next = || park_until(Time::NEVER, &SystemClock, |context| reader.poll_pop(context)).flatten();
            assert_eq!((next(), next(), next()), (Some(1), Some(2), None));
            shard.join().unwrap();
        });
    }
}
