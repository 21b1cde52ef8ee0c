//! `buffer.memory`: bytes that all handles of an engine may hold in lanes, batches and requests in flight.
//!
//! ```text
//!   handle ── Credit (≤ 4 KiB unspent) ──► free ◄── give_back ── shard, when a batch is done
//!                     ▲      taken back when somebody waits     └► waiters, first come first served, by freed bytes
//! ```
//! Taken before a record enters its lane, returned when the shard has no more use for its memory, so shards never need
//! budget to make progress. A waiter that is cancelled or times out leaves no trace; what it was just given goes on to the
//! next. Nobody passes a waiter: with one in the queue, [`Budget::try_take`] refuses.
//!
//! Issue 4 adds the dynamic share per partition (at most half of what is free): its place is the key of a waiter, beside
//! `bytes` in `Waiter`, and a queue per partition in `Queue`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::base::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::base::sync::{self, Mutex, heavy_barrier, light_barrier, lock, park_until, prepare_barriers};
use crate::base::time::{Clock, Time};

/// The most that a handle holds unspent, in bytes.
pub const GRANT_BYTES: u64 = 4 << 10;

/// Why no budget was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetError {
    /// More than the whole budget.
    TooLarge,
    /// Not within `max.block.ms`.
    TimedOut,
    /// The engine is closing.
    Closed,
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the record is larger than buffer.memory",
            Self::TimedOut => "no buffer memory became free within max.block.ms",
            Self::Closed => "the engine is closing",
        })
    }
}

impl std::error::Error for BudgetError {}

/// The engine's budget. Cheap to clone.
#[derive(Clone)]
pub struct Budget(sync::Arc<Inner>);

struct Inner {
    capacity: u64,
    free: AtomicU64,
    /// Length of `Queue::waiting`, so that returning costs one load while nobody waits.
    waiting: AtomicUsize,
    closed: AtomicBool,
    queue: Mutex<Queue>,
    /// Unspent grants of all handles.
    credits: Mutex<Vec<std::sync::Weak<CreditCell>>>,
}

#[derive(Default)]
struct Queue {
    next_id: u64,
    /// By age.
    waiting: BTreeMap<u64, Waiter>,
    /// Decided, not yet fetched by who waited. An `Ok` holds bytes.
    decided: BTreeMap<u64, Result<u64, BudgetError>>,
}

struct Waiter {
    bytes: u64,
    deadline: Time,
    waker: Waker,
}

impl Budget {
    /// A budget of `capacity` bytes, all free.
    pub fn new(capacity: u64) -> Self {
        Self(sync::Arc::new(Inner {
            capacity,
            free: AtomicU64::new(capacity),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            queue: Mutex::new(Queue::default()),
            credits: Mutex::new(Vec::new()),
        }))
    }

    /// Takes `bytes` now, unless they are not free or somebody waits for budget already.
    pub fn try_take(&self, bytes: u64) -> bool {
        !self.is_pressed() && self.0.deduct(bytes)
    }

    /// Returns `bytes` taken before; wakes as many waiters as they suffice for, oldest first.
    pub fn give_back(&self, bytes: u64) {
        let before = self.0.free.fetch_add(bytes, Ordering::SeqCst);
        debug_assert!(before + bytes <= self.0.capacity, "more budget returned than taken");
        fence(Ordering::SeqCst);
        if self.is_pressed() {
            self.serve();
        }
    }

    /// Waits for `bytes` until `deadline`. A future and a pollable core; dropping it cancels. Its deadline is carried out by
    /// [`Budget::expire`] (any thread with a clock), or by the parked thread itself in [`Budget::take_by`].
    pub fn take(&self, bytes: u64, deadline: Time) -> Take {
        Take { budget: self.clone(), bytes, deadline, id: None }
    }

    /// Parks until `bytes` were taken.
    pub fn take_by(&self, bytes: u64, deadline: Time, clock: &impl Clock) -> Result<(), BudgetError> {
        let mut take = self.take(bytes, deadline);
        park_until(deadline, clock, |context| take.poll_take(context)).unwrap_or(Err(BudgetError::TimedOut))
    }

    /// Ends the waits whose deadline has passed. Says when to call again.
    pub fn expire(&self, now: Time) -> Time {
        if !self.is_pressed() {
            return Time::NEVER;
        }
        let mut wakers = Vec::new();
        let mut next = Time::NEVER;
        {
            let mut queue = lock(&self.0.queue);
            let Queue { waiting, decided, .. } = &mut *queue;
            waiting.retain(|id, waiter| {
                if waiter.deadline > now {
                    next = next.min(waiter.deadline);
                    return true;
                }
                decided.insert(*id, Err(BudgetError::TimedOut));
                wakers.push(waiter.waker.clone());
                false
            });
            // A large one at the front may have been all that kept the next from its bytes.
            self.0.serve(&mut queue, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
        next
    }

    /// The engine closes: all waits end, none starts.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        let mut wakers = Vec::new();
        {
            let mut queue = lock(&self.0.queue);
            let Queue { waiting, decided, .. } = &mut *queue;
            for (id, waiter) in std::mem::take(waiting) {
                decided.insert(id, Err(BudgetError::Closed));
                wakers.push(waiter.waker);
            }
            self.0.waiting.store(0, Ordering::SeqCst);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A handle's credit.
    pub fn credit(&self) -> Credit {
        prepare_barriers();
        let cell = std::sync::Arc::new(CreditCell::default());
        let mut credits = lock(&self.0.credits);
        credits.retain(|known| known.strong_count() > 0);
        credits.push(std::sync::Arc::downgrade(&cell));
        Credit { budget: self.clone(), cell }
    }

    /// Whether somebody waits for budget: shards then seal open batches at once (design §3.2).
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }

    /// Bytes free now. Unspent credit counts as taken.
    pub fn free_bytes(&self) -> u64 {
        self.0.free.load(Ordering::SeqCst)
    }

    /// The whole budget in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        self.0.capacity
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }

    fn serve(&self) {
        let mut wakers = Vec::new();
        self.0.serve(&mut lock(&self.0.queue), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Moves the unspent credit of all handles that do not act right now back to what is free.
    fn take_back_credit(&self) -> u64 {
        let mut credits = lock(&self.0.credits);
        credits.retain(|credit| credit.strong_count() > 0);
        let cells: Vec<_> = credits.iter().filter_map(std::sync::Weak::upgrade).collect();
        if cells.iter().all(|cell| cell.unspent.load(Ordering::Relaxed) == 0) {
            return 0;
        }
        cells.iter().for_each(|cell| cell.wanted.store(true, Ordering::Relaxed));
        heavy_barrier();
        let mut sum = 0;
        for cell in &cells {
            // Not busy: whoever spends from here on sees `wanted` and comes for the lock that we hold.
            if !cell.busy.load(Ordering::Acquire) {
                sum += cell.unspent.swap(0, Ordering::Relaxed);
            }
            cell.wanted.store(false, Ordering::Release);
        }
        self.0.free.fetch_add(sum, Ordering::SeqCst);
        sum
    }
}

impl Inner {
    fn deduct(&self, bytes: u64) -> bool {
        let mut free = self.free.load(Ordering::SeqCst);
        while free >= bytes {
            match self.free.compare_exchange_weak(free, free - bytes, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }

    /// Gives to the oldest waiters what is free, and stops at the first for whom it does not suffice.
    fn serve(&self, queue: &mut Queue, wakers: &mut Vec<Waker>) {
        while let Some(oldest) = queue.waiting.first_entry() {
            if !self.deduct(oldest.get().bytes) {
                break;
            }
            let (id, waiter) = oldest.remove_entry();
            queue.decided.insert(id, Ok(waiter.bytes));
            wakers.push(waiter.waker);
        }
        self.waiting.store(queue.waiting.len(), Ordering::SeqCst);
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {} free, {} waiting)", self.free_bytes(), self.0.capacity, self.waiters())
    }
}

/// A wait for budget. Ready with `Ok`: the bytes are the caller's to give back.
#[derive(Debug)]
pub struct Take {
    budget: Budget,
    bytes: u64,
    deadline: Time,
    /// In the queue, or decided there.
    id: Option<u64>,
}

impl Take {
    /// Pollable core.
    pub fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BudgetError>> {
        let inner = &*self.budget.0;
        let Some(id) = self.id else {
            if inner.closed.load(Ordering::SeqCst) {
                return Poll::Ready(Err(BudgetError::Closed));
            }
            if self.bytes > inner.capacity {
                return Poll::Ready(Err(BudgetError::TooLarge));
            }
            if self.budget.try_take(self.bytes) {
                return Poll::Ready(Ok(()));
            }
            return self.enqueue(context);
        };
        let mut queue = lock(&inner.queue);
        if let Some(decision) = queue.decided.remove(&id) {
            self.id = None;
            return Poll::Ready(decision.map(|_| ()));
        }
        if let Some(waiter) = queue.waiting.get_mut(&id)
            && !waiter.waker.will_wake(context.waker())
        {
            waiter.waker = context.waker().clone();
        }
        Poll::Pending
    }

    fn enqueue(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BudgetError>> {
        let inner = &*self.budget.0;
        let mut wakers = Vec::new();
        let decision = {
            let mut queue = lock(&inner.queue);
            let id = queue.next_id;
            queue.next_id += 1;
            let waiter = Waiter { bytes: self.bytes, deadline: self.deadline, waker: context.waker().clone() };
            queue.waiting.insert(id, waiter);
            // Who returns from here on sees it and serves; what was returned before is found below.
            inner.waiting.store(queue.waiting.len(), Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.budget.take_back_credit();
            inner.serve(&mut queue, &mut wakers);
            if inner.closed.load(Ordering::SeqCst) && queue.waiting.remove(&id).is_some() {
                inner.waiting.store(queue.waiting.len(), Ordering::SeqCst);
                queue.decided.insert(id, Err(BudgetError::Closed));
            }
            let decision = queue.decided.remove(&id);
            self.id = decision.is_none().then_some(id);
            decision
        };
        // Our own waker may be among them: harmless. Others are, when credit taken back suffices for them too.
        wakers.into_iter().for_each(Waker::wake);
        decision.map_or(Poll::Pending, |decision| Poll::Ready(decision.map(|_| ())))
    }
}

impl Future for Take {
    type Output = Result<(), BudgetError>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_take(context)
    }
}

impl Drop for Take {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut wakers = Vec::new();
        {
            let inner = &*self.budget.0;
            let mut queue = lock(&inner.queue);
            queue.waiting.remove(&id);
            if let Some(Ok(bytes)) = queue.decided.remove(&id) {
                inner.free.fetch_add(bytes, Ordering::SeqCst);
            }
            // Without this one, those behind it may have enough.
            inner.serve(&mut queue, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A handle's unspent grant. Others take it back when they wait, so an idle handle holds nothing that is needed.
#[derive(Debug)]
pub struct Credit {
    budget: Budget,
    cell: std::sync::Arc<CreditCell>,
}

/// Spent from by its handle without any read-modify-write (that would be a full barrier per record), taken from by whoever
/// waits for budget, holding the lock of `Inner::credits`.
///
/// Handle: `busy`, light barrier, `wanted`? no: spend. Taker: `wanted`, heavy barrier, `busy`? no: take. One sees the other.
#[derive(Debug, Default)]
struct CreditCell {
    unspent: AtomicU64,
    busy: AtomicBool,
    wanted: AtomicBool,
}

impl Credit {
    /// Spends `bytes` for a record, taking another grant if needed. False: nothing was spent; wait with [`Budget::take`]
    /// (for the record's bytes alone), or refuse.
    #[inline]
    pub fn try_spend(&mut self, bytes: u64) -> bool {
        let cell = &*self.cell;
        cell.busy.store(true, Ordering::Relaxed);
        light_barrier();
        let mut spent = false;
        if !cell.wanted.load(Ordering::Acquire) {
            let unspent = cell.unspent.load(Ordering::Relaxed);
            let grant = if unspent >= bytes { Some(0) } else { self.grant(bytes - unspent) };
            if let Some(grant) = grant {
                cell.unspent.store(unspent + grant - bytes, Ordering::Relaxed);
                spent = true;
            }
        }
        cell.busy.store(false, Ordering::Release);
        spent || self.spend_slowly(bytes)
    }

    /// Takes a grant of at least `need` bytes.
    #[cold]
    fn grant(&self, need: u64) -> Option<u64> {
        [need.max(GRANT_BYTES), need].into_iter().find(|bytes| self.budget.try_take(*bytes))
    }

    /// Somebody takes credit back, or the budget has no whole grant left.
    #[cold]
    fn spend_slowly(&mut self, bytes: u64) -> bool {
        let rest = self.take_rest();
        let grant = if rest >= bytes { Some(0) } else { self.grant(bytes - rest) };
        if let Some(grant) = grant {
            let _credits = lock(&self.budget.0.credits);
            self.cell.unspent.store(rest + grant - bytes, Ordering::Relaxed);
            return true;
        }
        self.budget.give_back(rest);
        // Others' unspent grants may suffice; while somebody waits they are his.
        !self.budget.is_pressed() && self.budget.take_back_credit() > 0 && self.budget.try_take(bytes)
    }

    /// Empties the cell, with those who take from it kept out.
    fn take_rest(&mut self) -> u64 {
        let _credits = lock(&self.budget.0.credits);
        self.cell.unspent.swap(0, Ordering::Relaxed)
    }

    /// Returns what is unspent, for a handle that knows it pauses.
    pub fn release(&mut self) {
        let rest = self.take_rest();
        if rest > 0 {
            self.budget.give_back(rest);
        }
    }

    /// The budget it is taken from.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, not(loom)))]
#[path = "budget_tests.rs"]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::thread;
    use crate::base::time::SystemClock;

    #[test]
    fn loom_a_waiter_gets_what_is_given_back() {
        loom::model(|| {
            let budget = Budget::new(10);
            assert!(budget.try_take(8));
            let other = budget.clone();
            let giver = thread::spawn(move || {
                other.give_back(3);
                other.give_back(5);
            });
            assert_eq!(budget.take_by(9, Time::NEVER, &SystemClock), Ok(()));
            giver.join().unwrap();
            assert_eq!(budget.free_bytes(), 1);
        });
    }

    #[test]
    fn loom_credit_is_spent_or_taken_back_never_both() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let budget = Budget::new(GRANT_BYTES);
            let other = budget.clone();
            let handle = thread::spawn(move || {
                let mut credit = other.credit();
                let spent = u64::from(credit.try_spend(100)) + u64::from(credit.try_spend(100));
                drop(credit);
                other.give_back(spent * 100);
            });
            assert_eq!(budget.take_by(GRANT_BYTES, Time::NEVER, &SystemClock), Ok(()));
            handle.join().unwrap();
            assert_eq!(budget.free_bytes(), 0);
        });
    }
}
