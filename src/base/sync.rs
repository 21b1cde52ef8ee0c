//! Threads' primitives: the standard library's, or loom's when a model is being checked (`--cfg loom`).
//!
//! Only [`super::stream`] and `mesh` are built on these; everything above talks through them. Values that users share keep
//! `std::sync::Arc`, so that the rest of the crate compiles unchanged under loom.
//!
//! Waiting has one form: a *pollable core* takes a [`Context`] and registers its waker. [`park_until`] turns any such core
//! into a blocking call; a future calls the same core; a simulated application is polled by the simulator.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Context, Poll, Waker};

use super::time::{Clock, Time};

#[cfg(not(loom))]
pub use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub use std::thread;

#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub use loom::thread;

/// Atomics and fences, std's or loom's.
pub mod atomic {
    #[cfg(loom)]
    pub use loom::sync::atomic::*;
    #[cfg(not(loom))]
    pub use std::sync::atomic::*;
}

/// The counted pointer behind shared state inside `base` and `mesh`: loom's under loom, so that drops are modelled too.
#[cfg(loom)]
pub use loom::sync::Arc;
/// The counted pointer behind shared state inside `base` and `mesh`: loom's under loom, so that drops are modelled too.
#[cfg(not(loom))]
pub use std::sync::Arc;

use atomic::{AtomicBool, Ordering, fence};

/// Locks, whether or not a holder panicked: our critical sections leave their data whole at every step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Half of every "store, then look whether the other side waits" is on a path taken per record, the other half before a
/// thread goes to sleep. The pair [`light_barrier`] / [`heavy_barrier`] puts the whole price on the second: the sleeper makes
/// the kernel run a barrier on every core that runs us (`membarrier(2)`, private expedited), and the record's path keeps its
/// stores in the store buffer. Measured for a 300-byte record on two cores with a shard that works 50 ns on each: 71-84 ns,
/// against 440-490 ns with a full barrier per record, which has to wait until the record's lines have come from the other
/// core; on one core there is no difference. The heavy one takes 2-5 us.
///
/// Where the kernel refuses the call (and under loom and Miri) both are plain `SeqCst` fences.
mod asymmetric {
    use super::atomic::{Ordering, fence};

    #[cfg(not(any(loom, miri)))]
    mod kernel {
        use std::sync::atomic::{AtomicBool, Ordering};

        /// Set once, before the first heavy barrier that relies on it. A light barrier that does not see it yet is a full
        /// fence, which is right with either kind of heavy one.
        pub(super) static REGISTERED: AtomicBool = AtomicBool::new(false);

        pub(super) fn register() {
            use rustix::thread::{MembarrierCommand, membarrier};
            if !REGISTERED.load(Ordering::Acquire) && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() {
                REGISTERED.store(true, Ordering::Release);
            }
        }

        pub(super) fn barrier() {
            use rustix::thread::{MembarrierCommand, membarrier};
            if REGISTERED.load(Ordering::Acquire) && membarrier(MembarrierCommand::PrivateExpedited).is_err() {
                // It worked when it was registered; from here on light barriers are full ones.
                REGISTERED.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Asks the kernel once whether it runs barriers for us. Idempotent.
    pub fn prepare_barriers() {
        #[cfg(not(any(loom, miri)))]
        kernel::register();
    }

    /// Orders what this thread stored before against what it loads after, together with a [`heavy_barrier`] of the other
    /// side. Costs nothing where the kernel helps.
    #[inline(always)]
    pub fn light_barrier() {
        #[cfg(not(any(loom, miri)))]
        if kernel::REGISTERED.load(Ordering::Relaxed) {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
            return;
        }
        fence(Ordering::SeqCst);
    }

    /// The other side of [`light_barrier`]: a few microseconds. Before sleeping, or before taking something from a thread
    /// that does not act.
    pub fn heavy_barrier() {
        fence(Ordering::SeqCst);
        #[cfg(not(any(loom, miri)))]
        kernel::barrier();
        fence(Ordering::SeqCst);
    }
}
pub use asymmetric::{heavy_barrier, light_barrier, prepare_barriers};

/// Orders a `SeqCst` read-modify-write before against a `SeqCst` load after. That is their order already; it is only spelled
/// out for loom, which treats `SeqCst` accesses as acquire-release.
#[inline]
pub fn store_load_barrier() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Keeps what one core writes often away from what another core reads often (two lines: the prefetcher takes pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// One thread's place to sleep. A notice given before the sleep is not lost, and costs no system call: nobody sleeps yet.
#[derive(Debug)]
struct Parker {
    state: Mutex<Parking>,
    condvar: Condvar,
}

#[derive(Debug, Default)]
struct Parking {
    notified: bool,
    /// Sleeps, and nobody is about to end that.
    asleep: bool,
}

impl Parker {
    fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self { state: Mutex::new(Parking::default()), condvar: Condvar::new() })
    }

    /// Sleeps until notified or `timeout` passed; takes the notice.
    fn park(&self, timeout: Option<std::time::Duration>) {
        let mut state = lock(&self.state);
        if !state.notified {
            state.asleep = true;
            state = match timeout {
                None => self.condvar.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(timeout) => match self.condvar.wait_timeout(state, timeout) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                },
            };
        }
        *state = Parking::default();
    }
}

impl std::task::Wake for Parker {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        let mut state = lock(&self.state);
        state.notified = true;
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.condvar.notify_one();
        }
    }
}

#[cfg(not(loom))]
mod cached {
    use super::{Parker, Waker};
    use std::cell::Cell;
    use std::sync::Arc;
    thread_local! {
        // Taken while in use: a wait inside a callback inside a wait must not eat the outer one's notice.
        static PARKER: Cell<Option<(Arc<Parker>, Waker)>> = const { Cell::new(None) };
    }
    pub(super) fn take() -> (Arc<Parker>, Waker) {
        PARKER.try_with(Cell::take).ok().flatten().unwrap_or_else(|| {
            let parker = Parker::new();
            (parker.clone(), Waker::from(parker))
        })
    }
    pub(super) fn put_back(pair: (Arc<Parker>, Waker)) {
        // A thread that is ending has no place for it any more.
        let _ = PARKER.try_with(|cell| cell.set(Some(pair)));
    }
}
#[cfg(loom)]
mod cached {
    use super::{Parker, Waker};
    use std::sync::Arc;
    pub(super) fn take() -> (Arc<Parker>, Waker) {
        let parker = Parker::new();
        (parker.clone(), Waker::from(parker))
    }
    pub(super) fn put_back(_: (Arc<Parker>, Waker)) {}
}

/// How a thread that a simulation runs waits: it tells the simulator, whose wakes reach it late and twice like any other's.
#[cfg(feature = "testkit")]
pub trait Stage {
    /// Gives the thread its next turn.
    fn waker(&self) -> Waker;
    /// Ends the turn; returns in the next one, at `until` at the latest ([`Time::NEVER`]: only when woken).
    fn sleep(&self, until: Time);
}

#[cfg(feature = "testkit")]
mod staged {
    use super::Stage;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    thread_local! {
        static WAITS: Cell<u32> = const { Cell::new(0) };
        static STAGE: RefCell<Option<Rc<dyn Stage>>> = const { RefCell::new(None) };
    }
    /// From here on this thread belongs to a simulation.
    pub fn enter_stage(stage: Rc<dyn Stage>) {
        STAGE.with_borrow_mut(|place| *place = Some(stage));
    }
    /// One wait of this thread, perhaps in a callback inside another one.
    pub(super) struct Wait(u32);
    impl Wait {
        pub(super) fn begin() -> Self {
            Self(WAITS.replace(WAITS.get() + 1))
        }
        pub(super) fn is_inner(&self) -> bool {
            self.0 > 0
        }
    }
    impl Drop for Wait {
        fn drop(&mut self) {
            WAITS.set(self.0);
        }
    }
    pub(super) fn current() -> Option<Rc<dyn Stage>> {
        STAGE.try_with(|place| place.borrow().clone()).ok().flatten()
    }
}
#[cfg(feature = "testkit")]
pub use staged::enter_stage;

/// Blocks this thread until `poll` is ready, or until `deadline` ([`Time::NEVER`] waits forever). `None` means that the
/// time was up: `poll` was asked once more after the deadline, so an answer that came in time is never dropped.
pub fn park_until<T>(deadline: Time, clock: &impl Clock, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    #[cfg(feature = "testkit")]
    if let Some(stage) = staged::current() {
        let waker = stage.waker();
        let wait = staged::Wait::begin();
        let answer = sleep_until(deadline, clock, poll, &waker, |_| stage.sleep(deadline));
        if wait.is_inner() {
            // Threads have a parker per wait. This one may have eaten the notice of the wait around it.
            waker.wake();
        }
        return answer;
    }
    let (parker, waker) = cached::take();
    let answer = sleep_until(deadline, clock, poll, &waker, |now| match deadline {
        Time::NEVER => parker.park(None),
        deadline => parker.park(Some(now.until(deadline))),
    });
    cached::put_back((parker, waker));
    answer
}

/// The loop of [`park_until`]; `sleep` gets the time.
fn sleep_until<T>(
    deadline: Time,
    clock: &impl Clock,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    waker: &Waker,
    sleep: impl Fn(Time),
) -> Option<T> {
    let mut context = Context::from_waker(waker);
    loop {
        // The clock is read before the poll: late enough means that the poll after it was the last one owed.
        let now = if deadline == Time::NEVER { Time::ZERO } else { clock.now().mono };
        if let Poll::Ready(answer) = poll(&mut context) {
            return Some(answer);
        }
        if deadline != Time::NEVER && now >= deadline {
            return None;
        }
        sleep(now);
    }
}

/// Who waits for one thing to change. Registering takes a lock; a change costs one load while nobody waits.
///
/// The protocol on both sides, without which a wake could be lost:
/// - waiting: [`Waiters::register`], *then* look at the condition again, and only then return `Pending`;
/// - changing: change the condition by a `SeqCst` operation (or call `fence(SeqCst)` after), *then* [`Waiters::wake_all`].
#[derive(Debug, Default)]
pub struct Waiters {
    armed: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Waiters {
    /// Nobody waits.
    pub fn new() -> Self {
        Self { armed: AtomicBool::new(false), wakers: Mutex::new(Vec::new()) }
    }

    /// Adds a waker, once. The caller looks at its condition again afterwards.
    pub fn register(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.armed.store(true, Ordering::SeqCst);
        drop(wakers);
        // Orders the store against the caller's second look, whatever ordering that look uses.
        fence(Ordering::SeqCst);
    }

    /// Whether somebody may wait: one load.
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }

    /// Wakes all that registered. Wakers run outside the lock.
    #[inline]
    pub fn wake_all(&self) {
        if self.is_armed() {
            self.wake_all_slow();
        }
    }

    #[cold]
    fn wake_all_slow(&self) {
        let woken = {
            let mut wakers = lock(&self.wakers);
            self.armed.store(false, Ordering::SeqCst);
            std::mem::take(&mut *wakers)
        };
        wake_each(woken);
    }

    /// The same from a drop: a waker that panics must not make it two panics.
    pub fn wake_all_quietly(&self) {
        // What it said is lost with the party that ends.
        let _ = catch_unwind(AssertUnwindSafe(|| self.wake_all()));
    }
}

/// Wakes everybody, also behind a waker (user code) that panics; then the first panic goes on.
pub fn wake_each(wakers: impl IntoIterator<Item = Waker>) {
    let mut panic = None;
    for waker in wakers {
        if let Err(caught) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
            panic.get_or_insert(caught);
        }
    }
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::time::SystemClock;
    use std::time::Duration;

    #[test]
    fn park_until_returns_what_came_and_none_when_late() {
        let clock = SystemClock;
        let soon = clock.now().mono + Duration::from_millis(5);
        assert_eq!(park_until::<()>(soon, &clock, |_| Poll::Pending), None);
        assert!(clock.now().mono >= soon);
        assert_eq!(park_until(Time::ZERO, &clock, |_| Poll::Ready(3)), Some(3));
    }

    #[test]
    fn a_wait_inside_a_wait_does_not_eat_the_outer_notice() {
        let clock = SystemClock;
        let mut polls = 0;
        let answer = park_until(clock.now().mono + Duration::from_secs(20), &clock, |outer| {
            polls += 1;
            if polls == 1 {
                outer.waker().wake_by_ref();
                let soon = clock.now().mono + Duration::from_millis(1);
                assert_eq!(park_until::<()>(soon, &clock, |_| Poll::Pending), None);
                return Poll::Pending;
            }
            Poll::Ready(polls)
        });
        assert_eq!(answer, Some(2));
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_from_being_woken() {
        struct Trap;
        impl std::task::Wake for Trap {
            fn wake(self: std::sync::Arc<Self>) {
                panic!("a user's waker");
            }
        }
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let flag = std::sync::Arc::new(Flag(false.into()));
        let waiters = Waiters::new();
        waiters.register(&Waker::from(std::sync::Arc::new(Trap)));
        waiters.register(&Waker::from(flag.clone()));
        waiters.register(&Waker::from(std::sync::Arc::new(Trap)));
        assert!(catch_unwind(AssertUnwindSafe(|| waiters.wake_all())).is_err());
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
        waiters.register(&Waker::from(std::sync::Arc::new(Trap)));
        waiters.wake_all_quietly();
        assert!(!waiters.is_armed());
    }

    #[test]
    fn waiters_are_woken_once_and_deduplicated() {
        struct Count(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = std::sync::Arc::new(Count(0.into()));
        let waker = Waker::from(count.clone());
        let waiters = Waiters::new();
        waiters.wake_all();
        waiters.register(&waker);
        waiters.register(&waker);
        waiters.wake_all();
        waiters.wake_all();
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::atomic::AtomicU32;
    use super::*;
    use crate::base::time::SystemClock;

    #[test]
    fn loom_a_change_is_never_missed_by_a_waiter() {
        loom::model(|| {
            let shared = Arc::new((AtomicU32::new(0), Waiters::new()));
            let other = shared.clone();
            let changer = thread::spawn(move || {
                other.0.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                other.1.wake_all();
            });
            let seen = park_until(Time::NEVER, &SystemClock, |context| {
                if shared.0.load(Ordering::Acquire) == 1 {
                    return Poll::Ready(1);
                }
                shared.1.register(context.waker());
                if shared.0.load(Ordering::Acquire) == 1 { Poll::Ready(1) } else { Poll::Pending }
            });
            assert_eq!(seen, Some(1));
            changer.join().unwrap();
        });
    }
}
