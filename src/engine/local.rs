//! The engine inside the caller's own thread: the same shard, run whenever this thread sends, waits or turns it.
//!
//! ```text
//!   this thread: send ─► lane ─┐                                    control thread (metadata, ids, admin)
//!                flush, next ──┼─► Driver ─► Shard::turn_until ─► ring ─► brokers
//!                turn ─────────┘      ▲ a waker of this thread says: poll again, don't sleep
//! ```
//! No hop: a record is encoded straight into its open batch as a rule, else its lane is written and read by one thread;
//! nobody is woken. Control stays a thread of its own; it never
//! touches a record.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use super::assemble::EngineClock;
use super::threads::words;
use super::wait::Waiting;
use super::{CLOSE_GRACE, CloseError, Engine, EngineBuilder, EngineError};
use crate::base::ids::{LaneId, ShardIx};
use crate::base::sync::park_until;
use crate::base::time::{Clock, SystemClock, Time};
use crate::control::EngineState;
use crate::mesh::MailboxSender;
use crate::mesh::command::ShardEvent;
use crate::mesh::entry::EntryHeader;
use crate::ring::{AnyBackend, AnyWaker, Wake as _};
use crate::shard::{InPlace, Shard, Turn};

/// An engine whose shard runs inside the thread that made it: `!Send`, no second data thread, no wake between sender and
/// shard. For loops pinned to one CPU and for handlers that run where their data is.
///
/// The shard has a turn inside every call that waits (`flush`, `next`, a `send` without room, `wait`), in
/// [`LocalEngine::turn`], and in a `send` when 256 KiB were sent or the kernel's clock ticked since its last turn. A
/// thread that does none of these for long lets linger, deadlines and requests of its engine wait.
///
/// Made by [`EngineBuilder::build_local`]; handles by `producer()` and `consumer()`. It ends with [`LocalEngine::close`], or
/// when it and its handles are dropped.
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<ottla::engine::LocalEngine>();
/// ```
#[derive(Clone, Debug)]
pub struct LocalEngine {
    driver: Rc<Driver>,
}

impl LocalEngine {
    /// Starts with Kafka's defaults; end it with [`EngineBuilder::build_local`].
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    pub(super) fn new(driver: Driver) -> Self {
        Self { driver: Rc::new(driver) }
    }

    /// One turn of the shard: takes what was sent, sends what is due, hands out what came. Waits at most `wait` for something
    /// to happen when there is nothing to do ([`Duration::ZERO`]: not at all).
    ///
    /// # Errors
    /// The engine was closed, or failed.
    pub fn turn(&self, wait: Duration) -> Result<(), EngineError> {
        let limit = match wait {
            Duration::ZERO => Time::ZERO,
            wait => SystemClock.now().mono + wait,
        };
        self.driver.bell.notified.store(false, Ordering::SeqCst);
        let mut alive = self.driver.turn(limit);
        if alive && limit != Time::ZERO {
            // What the wait brought goes to whom it belongs.
            alive = self.driver.turn(Time::ZERO);
        }
        if alive { Ok(()) } else { Err(self.driver.engine.shared().gone()) }
    }

    /// The engine without its shard: cluster, statistics, admin calls. Handles made from it belong to other threads, and get
    /// on while this thread turns; for this thread they are made by `producer()` and `consumer()` of [`LocalEngine`].
    pub fn engine(&self) -> &Engine {
        &self.driver.engine
    }

    /// What runs the shard while a handle waits.
    pub(crate) fn driver(&self) -> &Rc<Driver> {
        &self.driver
    }

    /// Settles what is pending, then stops everything; the shard runs in here meanwhile. Returns within `timeout` and a few
    /// tens of milliseconds.
    ///
    /// # Errors
    /// The time was up first, or the engine had failed.
    pub fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        let shared = self.driver.engine.shared();
        let deadline = shared.clock().now().mono + timeout;
        shared.request_close(deadline);
        let ended = shared.state().ended();
        let clock = shared.clock().clone();
        let done = self.driver.wait_until(deadline + CLOSE_GRACE, &clock, |context| ended.poll_set(context));
        self.driver.abandon();
        if done.is_none() {
            return Err(CloseError::Timeout);
        }
        if !shared.join(deadline + CLOSE_GRACE) {
            return Err(CloseError::Timeout);
        }
        match shared.state().failure() {
            Some(why) => Err(CloseError::Failed(why.to_owned())),
            None => Ok(()),
        }
    }
}

/// Ends the shard's wait from anywhere; on its own thread it only says that somebody has to be polled.
#[derive(Debug)]
pub(super) struct LocalBell {
    owner: ThreadId,
    notified: AtomicBool,
    backend: AnyWaker,
}

impl LocalBell {
    pub(super) fn new(backend: AnyWaker) -> Self {
        Self { owner: std::thread::current().id(), notified: AtomicBool::new(false), backend }
    }
}

impl Wake for LocalBell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notified.store(true, Ordering::SeqCst);
        if std::thread::current().id() != self.owner {
            self.backend.wake();
        }
    }
}

/// A thread's shard, and how the thread waits with it.
pub struct Driver {
    shard: RefCell<Option<Shard<AnyBackend, SystemClock>>>,
    bell: Arc<LocalBell>,
    waker: Waker,
    state: EngineState,
    events: MailboxSender<ShardEvent>,
    engine: Engine,
}

impl Driver {
    pub(super) fn new(
        shard: Shard<AnyBackend, SystemClock>,
        bell: LocalBell,
        (state, events): (EngineState, MailboxSender<ShardEvent>),
        engine: Engine,
    ) -> Self {
        let bell = Arc::new(bell);
        let waker = Waker::from(Arc::clone(&bell));
        Self { shard: RefCell::new(Some(shard)), bell, waker, state, events, engine }
    }

    /// One turn, waiting until `limit` at the latest ([`Time::ZERO`]: not at all). False when the shard has ended. From
    /// inside a turn (a waker that runs user code) it does nothing.
    pub fn turn(&self, limit: Time) -> bool {
        self.guarded(|shard| shard.turn_until(limit, || self.bell.notified.load(Ordering::SeqCst)))
    }

    /// Lets the shard do something; what panics in there ends it.
    fn guarded(&self, work: impl FnOnce(&mut Shard<AnyBackend, SystemClock>) -> Turn) -> bool {
        let Ok(mut slot) = self.shard.try_borrow_mut() else { return true };
        let Some(shard) = slot.as_mut() else { return false };
        let failure = match catch_unwind(AssertUnwindSafe(|| work(shard))) {
            Ok(Turn::Running) => return true,
            Ok(Turn::Stopped) => None,
            Err(panic) => Some(panic),
        };
        let ended = slot.take();
        drop(slot);
        if let Some(panic) = failure {
            self.fail(&*panic);
        }
        // What a shard leaves in a panic may panic again; it must not take the caller with it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(ended)));
        false
    }

    /// See [`Shard::append_in_place`]. What panics in there was not counted: it goes to the caller, as it would from a lane.
    #[inline]
    pub(crate) fn append_in_place(
        &self,
        lane: LaneId,
        header: EntryHeader,
        body_len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> InPlace {
        match self.shard.try_borrow_mut().as_deref_mut() {
            Ok(Some(shard)) => shard.append_in_place(lane, header, body_len, write),
            _ => InPlace::Lane,
        }
    }

    /// Takes what is in the lanes, without a turn.
    pub(crate) fn take_lanes(&self) {
        self.guarded(|shard| {
            shard.take_lanes();
            Turn::Running
        });
    }

    /// Ends the shard without waiting for anybody.
    fn abandon(&self) {
        let Ok(mut slot) = self.shard.try_borrow_mut() else { return };
        let left = slot.take();
        drop(slot);
        if let Some(shard) = left
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| shard.abandon(self.state.end_reason())))
        {
            self.fail(&*panic);
        }
    }

    fn fail(&self, panic: &(dyn Any + Send)) {
        let why = format!("panicked: {}", words(panic));
        self.state.fail(&format!("shard 0: {why}"));
        // Control ends the rest; if it is gone, it has done so already.
        let _ = self.events.send(ShardEvent::Failed { shard: ShardIx(0), why });
    }
}

impl Waiting for Driver {
    fn wait_until<T>(
        &self,
        deadline: Time,
        clock: &EngineClock,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let mut context = Context::from_waker(&self.waker);
        loop {
            self.bell.notified.store(false, Ordering::SeqCst);
            // The clock is read before the poll: late enough means that the poll after it was the last one owed.
            let now = if deadline == Time::NEVER { Time::ZERO } else { clock.now().mono };
            if let Poll::Ready(value) = poll(&mut context) {
                return Some(value);
            }
            if now >= deadline || self.shard.try_borrow_mut().is_err() {
                // Who waits from inside a turn waits for himself.
                return None;
            }
            if !self.turn(deadline) {
                // What is left to come is control's.
                return park_until(deadline, clock, poll);
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Nobody can hear of outcomes any more. Other clones of the engine find it closed.
        let shared = self.engine.shared();
        shared.request_close(shared.clock().now().mono);
        self.abandon();
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}
