//! `buffer.memory`: bytes that all handles of an engine may hold in lanes, batches and requests in flight.
//!
//! ```text
//!   handle ── Credit (≤ 4 KiB unspent) ──► free ◄── give_back ── shard, when a batch is done
//!                     ▲      taken back when somebody waits     ├► waiters, first come first served, by freed bytes
//!   Share of the record's partition: held ≤ free? ◄── release ──┘  those of a partition that holds too much are passed
//! ```
//! Taken before a record enters its lane, returned when the shard has no more use for its memory, so shards never need
//! budget to make progress. A waiter that is cancelled or times out leaves no trace; what it was just given goes on to the
//! next. Nobody passes a waiter for bytes: with one in the queue, [`Budget::try_take`] refuses.
//!
//! A handle pays for a record's own bytes; a shard settles the difference to the chunks that they really occupy with
//! [`Budget::adjust`], which may leave the budget below zero: then nobody is given any until it is above.
//!
//! A partition may hold as much as is free, that is at most half of what would be free without it (design §3.8): one that
//! is dead leaves the other half to the rest, n dead ones leave 1 / (n + 1). Waiters of a partition above that wait behind
//! each other only, and keep nobody else from the bytes that are free. Records without a partition, since
//! their topic's metadata is not there yet, hold much less, [`unplaced_bytes_max`]: they are kept as they came, and no broker
//! is kept busier by more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::base::hash::Map;
use crate::base::ids::Tp;
use crate::base::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::base::sync::{self, Mutex, heavy_barrier, light_barrier, lock, park_until, prepare_barriers, wake_each};
use crate::base::time::{Clock, Time};

/// The most that a handle holds unspent, in bytes.
pub const GRANT_BYTES: u64 = 4 << 10;

/// What records of a topic without metadata may hold of any budget, in bytes.
const UNPLACED_BYTES_MIN: u64 = 256 << 10;

/// Most bytes that a topic's records without a partition may hold of a budget of `capacity` bytes.
pub fn unplaced_bytes_max(capacity: u64) -> u64 {
    (capacity / 16).max(UNPLACED_BYTES_MIN)
}

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
    /// An `i64`: below zero when chunks turned out larger than what was paid for.
    free: AtomicU64,
    /// Waiters for bytes, so that returning costs one load while nobody waits.
    waiting: AtomicUsize,
    /// Waiters whose partition holds too much.
    held_up: AtomicUsize,
    closed: AtomicBool,
    queue: Mutex<Queue>,
    /// Unspent grants of all handles.
    credits: Mutex<Vec<std::sync::Weak<CreditCell>>>,
    shares: Mutex<Shares>,
}

/// What is remembered of partitions, for as long as they hold something or somebody keeps their share.
#[derive(Default)]
struct Shares {
    by_partition: Map<Tp, Share>,
    /// So many are looked through for what is not needed any more.
    look_through_at: usize,
}

/// Fewer are not worth a look.
const SHARES_MIN: usize = 256;

/// What records of one partition hold of the budget, all handles together. Partition -1 stands for records of a topic
/// that have no partition yet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Share {
    tp: Tp,
    /// An `i64`: handles declare what they sent a few KiB late, so it may be below zero for a while.
    held: std::sync::Arc<AtomicU64>,
}

impl Share {
    /// So many more bytes are held.
    pub fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::SeqCst);
    }

    /// So many fewer bytes are held. Give them back to the budget afterwards, which serves those who wait for this.
    pub fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// [`Share::release`], or with a negative `bytes` [`Share::hold`].
    pub fn adjust(&self, bytes: i64) {
        self.held.fetch_sub(bytes as u64, Ordering::SeqCst);
    }

    /// Whose it is.
    pub fn tp(&self) -> Tp {
        self.tp
    }

    /// Nothing is held, and nobody owes a declaration that a release came before: it may be forgotten.
    pub fn is_even(&self) -> bool {
        self.held_bytes() == 0
    }

    /// Bytes held, as far as declared.
    pub fn held_bytes(&self) -> i64 {
        self.held.load(Ordering::SeqCst) as i64
    }
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
    share: Option<Share>,
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
            held_up: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            queue: Mutex::new(Queue::default()),
            credits: Mutex::new(Vec::new()),
            shares: Mutex::default(),
        }))
    }

    /// Takes `bytes` now, unless they are not free or somebody waits for budget already.
    pub fn try_take(&self, bytes: u64) -> bool {
        !self.is_pressed() && self.0.deduct(bytes)
    }

    /// Returns `bytes` taken before; wakes as many waiters as they suffice for, oldest first.
    pub fn give_back(&self, bytes: u64) {
        let before = self.0.free.fetch_add(bytes, Ordering::SeqCst);
        let after = (before as i64).saturating_add(bytes as i64);
        debug_assert!(after <= self.0.capacity as i64, "more budget returned than taken");
        fence(Ordering::SeqCst);
        if self.waiters() > 0 {
            self.serve();
        }
    }

    /// Gives back, or with a negative `bytes` takes without asking: what shards hold differs from what handles paid.
    pub fn adjust(&self, bytes: i64) {
        match bytes {
            0 => {}
            1.. => self.give_back(bytes as u64),
            _ => {
                self.0.free.fetch_sub(bytes.unsigned_abs(), Ordering::SeqCst);
                if self.0.free_now() < 0 {
                    // A grant of 4 KiB could become a hundred chunks.
                    self.take_back_credit();
                }
            }
        }
    }

    /// A partition's share, made at first use. Takes a lock: keep the clone while the partition is in use.
    pub fn share(&self, tp: Tp) -> Share {
        let mut shares = lock(&self.0.shares);
        if let Some(known) = shares.by_partition.get(&tp) {
            return known.clone();
        }
        if shares.by_partition.len() >= shares.look_through_at.max(SHARES_MIN) {
            // Nobody takes one without this lock: those that only this map keeps are forgotten once they hold nothing.
            shares.by_partition.retain(|_, share| std::sync::Arc::strong_count(&share.held) > 1 || !share.is_even());
            shares.look_through_at = 2 * shares.by_partition.len();
        }
        let made = Share { tp, held: std::sync::Arc::new(AtomicU64::new(0)) };
        shares.by_partition.insert(tp, made.clone());
        made
    }

    /// How many partitions are remembered.
    pub fn shares(&self) -> usize {
        lock(&self.0.shares).by_partition.len()
    }

    /// Whether a partition may hold more now.
    pub fn admits(&self, share: &Share) -> bool {
        self.0.admits(share)
    }

    /// Waits for `bytes` until `deadline`. A future and a pollable core; dropping it cancels. Its deadline is carried out by
    /// [`Budget::expire`] (any thread with a clock), or by the parked thread itself in [`Budget::take_by`].
    pub fn take(&self, bytes: u64, deadline: Time) -> Take {
        Take { budget: self.clone(), bytes, share: None, deadline, id: None }
    }

    /// As [`Budget::take`], for a record of one partition: waits until that may hold more, too, and counts the bytes there.
    pub fn take_for(&self, bytes: u64, share: Share, deadline: Time) -> Take {
        Take { budget: self.clone(), bytes, share: Some(share), deadline, id: None }
    }

    /// Parks until `bytes` were taken.
    pub fn take_by(&self, bytes: u64, deadline: Time, clock: &impl Clock) -> Result<(), BudgetError> {
        let mut take = self.take(bytes, deadline);
        park_until(deadline, clock, |context| take.poll_take(context)).unwrap_or(Err(BudgetError::TimedOut))
    }

    /// Ends the waits whose deadline has passed. Says when to call again.
    pub fn expire(&self, now: Time) -> Time {
        if self.waiters() == 0 {
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
        wake_each(wakers);
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
            self.0.held_up.store(0, Ordering::SeqCst);
        }
        wake_each(wakers);
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

    /// The partitions that hold too much for somebody who waits: shards seal what is open of those at once.
    pub fn held_up(&self, partitions: &mut Vec<Tp>) {
        partitions.clear();
        if self.0.held_up.load(Ordering::SeqCst) > 0 {
            let queue = lock(&self.0.queue);
            partitions.extend(queue.waiting.values().filter_map(|waiter| Some(waiter.share.as_ref()?.tp)));
            drop(queue);
            partitions.sort_unstable();
            partitions.dedup();
        }
    }

    /// Bytes free now. Unspent credit counts as taken.
    pub fn free_bytes(&self) -> u64 {
        u64::try_from(self.0.free_now()).unwrap_or(0)
    }

    /// The whole budget in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        self.0.capacity
    }

    /// How many wait, for bytes or for their partition to hold less.
    pub fn waiters(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst) + self.0.held_up.load(Ordering::SeqCst)
    }

    fn serve(&self) {
        let mut wakers = Vec::new();
        self.0.serve(&mut lock(&self.0.queue), &mut wakers);
        wake_each(wakers);
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
    fn free_now(&self) -> i64 {
        self.free.load(Ordering::SeqCst) as i64
    }

    fn deduct(&self, bytes: u64) -> bool {
        let mut free = self.free.load(Ordering::SeqCst);
        while free as i64 >= bytes as i64 {
            let rest = (free as i64 - bytes as i64) as u64;
            match self.free.compare_exchange_weak(free, rest, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }

    /// One that holds nothing is always let in: so everybody gets on.
    fn admits(&self, share: &Share) -> bool {
        let held = share.held_bytes();
        let unplaced = share.tp.partition < 0;
        held <= 0 || (held <= self.free_now() && (!unplaced || held as u64 <= unplaced_bytes_max(self.capacity)))
    }

    /// Gives to the oldest waiters what is free, and stops at the first for whom it does not suffice. Those of a partition
    /// that holds too much are passed over, one behind the other.
    fn serve(&self, queue: &mut Queue, wakers: &mut Vec<Waker>) {
        let Queue { waiting, decided, .. } = queue;
        let (mut full, mut left, mut served, mut over) = (false, 0, Vec::new(), BTreeSet::new());
        for (id, waiter) in waiting.iter() {
            if let Some(share) = &waiter.share
                && (over.contains(&share.tp) || !self.admits(share))
            {
                over.insert(share.tp);
                left += 1;
                continue;
            }
            full = full || !self.deduct(waiter.bytes);
            if !full {
                waiter.share.iter().for_each(|share| share.hold(waiter.bytes));
                served.push(*id);
            }
        }
        for id in served {
            let Some(waiter) = waiting.remove(&id) else { continue };
            decided.insert(id, Ok(waiter.bytes));
            wakers.push(waiter.waker);
        }
        self.waiting.store(waiting.len() - left, Ordering::SeqCst);
        self.held_up.store(left, Ordering::SeqCst);
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
    share: Option<Share>,
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
            if self.share.as_ref().is_none_or(|share| inner.admits(share)) && self.budget.try_take(self.bytes) {
                self.share.iter().for_each(|share| share.hold(self.bytes));
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
            let (share, waker) = (self.share.clone(), context.waker().clone());
            queue.waiting.insert(id, Waiter { bytes: self.bytes, share, deadline: self.deadline, waker });
            // Who returns from here on sees it and serves; what was returned before is found below.
            inner.waiting.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.budget.take_back_credit();
            inner.serve(&mut queue, &mut wakers);
            if inner.closed.load(Ordering::SeqCst) && queue.waiting.remove(&id).is_some() {
                inner.serve(&mut queue, &mut wakers);
                queue.decided.insert(id, Err(BudgetError::Closed));
            }
            let decision = queue.decided.remove(&id);
            self.id = decision.is_none().then_some(id);
            decision
        };
        // Our own waker may be among them: harmless. Others are, when credit taken back suffices for them too.
        wake_each(wakers);
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
                self.share.iter().for_each(|share| share.release(bytes));
            }
            // Without this one, those behind it may have enough.
            inner.serve(&mut queue, &mut wakers);
        }
        wake_each(wakers);
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
    #[inline(always)]
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

    /// d1-23: the first in line gives up while memory comes back; the next one gets it.
    #[test]
    fn loom_a_waiter_that_gives_up_passes_its_turn_on() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let budget = Budget::new(10);
            assert!(budget.try_take(10));
            let mut first = budget.take(8, Time::NEVER);
            let idle = std::task::Waker::noop();
            assert!(first.poll_take(&mut Context::from_waker(idle)).is_pending());
            let giver = budget.clone();
            let giver = thread::spawn(move || giver.give_back(10));
            let quitter = thread::spawn(move || drop(first));
            assert_eq!(budget.take_by(6, Time::NEVER, &SystemClock), Ok(()));
            giver.join().unwrap();
            quitter.join().unwrap();
            assert_eq!(budget.free_bytes(), 4, "what was set aside for the one that gave up is back");
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
