//! A producer inside a local engine's thread: where others park it runs the shard.
//!
//! ```text
//!   send ─┬─ lane empty, batch open, room in its chunk ──► encoded straight into the batch
//!         └─ else ──► lane ──► drained at once, or by the next turn
//! ```

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::ids::LaneId;
use crate::base::time::{Clock, Time, last_tick};
use crate::config::ProducerSettings;
use crate::engine::{Driver, EngineError, LocalEngine, Waiting};
use crate::mesh::entry::EntryHeader;
use crate::shard::InPlace;

use super::core::Near;
use super::handle::{Lane, ProducerBuilder};
use super::inbox::{Losses, Waiter};
use super::record::{Record, RejectReason, Rejected};
use super::sent::Sent;
use super::{DeliveryError, DeliveryResult, FlushError, Reason};

/// So much gives the shard a turn: its batches have grown by what was encoded into them, so all that a turn does is look at
/// the kernel. M: 0.267 us a record, 0.276 with a turn at every 64 KiB.
const TURN_BYTES: u64 = 256 << 10;

impl ProducerBuilder<LocalEngine> {
    /// Checks the settings and makes the producer. Nothing is connected yet.
    ///
    /// # Errors
    /// As for a threaded engine's producer.
    pub fn build(self) -> Result<LocalProducer, EngineError> {
        let Self { engine, settings, partitioner } = self;
        let producer = ProducerBuilder { engine: engine.engine().clone(), settings, partitioner }.build()?;
        let driver = Rc::clone(engine.driver());
        Ok(LocalProducer { lane: producer.lane(), driver, turned_at: 0, tick: last_tick() })
    }
}

/// Straight into the batch: this thread runs the shard. Only within one tick of a turn, so that no record is stamped with an
/// old time, and a thread that sends now and then turns as it did.
struct Here<'a> {
    driver: &'a Driver,
    now: bool,
    /// The lane is to be drained at once.
    drain: Cell<bool>,
}

impl Near for Here<'_> {
    #[inline(always)]
    fn is_near(&self) -> bool {
        self.now
    }

    #[inline(always)]
    fn append(&self, lane: LaneId, header: EntryHeader, body_len: usize, encode: impl FnOnce(&mut [u8])) -> bool {
        let done = self.driver.append_in_place(lane, header, body_len, encode);
        self.drain.set(done == InPlace::Drain);
        done == InPlace::Done
    }
}

/// Sends records from the thread of a [`LocalEngine`]: `!Send`, no lock, no wake. What it promises of order, outcomes and
/// memory is what [`Lane`] promises.
///
/// A `send` gives the shard a turn when 256 KiB were written since the last one, or the kernel's clock ticked (1 to 10 ms): a
/// thread that goes on sending needs no other call for its records to leave. One that stops sending calls
/// [`LocalEngine::turn`], or waits for something.
#[derive(Debug)]
pub struct LocalProducer {
    // Before the driver: its end of the lane goes first.
    lane: Lane,
    driver: Rc<Driver>,
    /// Lane bytes at the last turn.
    turned_at: u64,
    /// The kernel's tick then.
    tick: u64,
}

impl LocalProducer {
    /// Takes the record or gives it back, [`RejectReason::Full`] when a turn of the shard made no room.
    #[inline(always)]
    pub fn try_send<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        self.try_place(&record).map_err(|reason| Rejected { record, reason })
    }

    /// Takes the record, running the shard for at most `max.block.ms` until there is room.
    #[inline(always)]
    pub fn send<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        self.place(&record).map_err(|reason| Rejected { record, reason })
    }

    /// As [`LocalProducer::send`]; `callback` gets the outcome, exactly once and in order per partition, inside a later
    /// [`LocalProducer::poll`] or [`LocalProducer::flush`].
    #[inline(always)]
    pub fn send_with<'a>(
        &mut self,
        record: Record<'a>,
        callback: impl FnOnce(DeliveryResult) + Send + 'static,
    ) -> Result<(), Rejected<'a>> {
        let waiter = self.lane.inbox.callback(callback);
        self.place_for(&record, waiter).map_err(|reason| Rejected { record, reason })
    }

    /// As [`LocalProducer::send`]; the outcome can be awaited or waited for.
    pub fn submit<'a>(&mut self, record: Record<'a>) -> Result<LocalSent, Rejected<'a>> {
        let Self { lane: Lane { life, core, inbox, .. }, driver, .. } = self;
        let place = |waiter: &mut _| life.place(&**driver, core, &record, waiter);
        let sent = match life.submit(inbox, place) {
            Ok(sent) => LocalSent { sent, driver: Rc::clone(driver) },
            Err(reason) => return Err(Rejected { record, reason }),
        };
        self.turn_if_due();
        Ok(sent)
    }

    // Not generic and by reference, as a lane's: see there.

    #[inline(never)]
    fn try_place(&mut self, record: &Record<'_>) -> Result<(), RejectReason> {
        if self.place_now(record, &mut None) {
            return Ok(());
        }
        let Lane { life, core, .. } = &mut self.lane;
        match life.try_place(&mut *core, record, &mut None) {
            Err(RejectReason::Full) => {
                self.driver.turn(Time::ZERO);
                life.try_place(&mut *core, record, &mut None)?;
            }
            other => other?,
        }
        self.turn_if_due();
        Ok(())
    }

    #[inline(never)]
    fn place(&mut self, record: &Record<'_>) -> Result<(), RejectReason> {
        let waiter = &mut None;
        if self.place_now(record, waiter) { Ok(()) } else { self.place_waiting(record, waiter) }
    }

    #[inline(never)]
    fn place_for(&mut self, record: &Record<'_>, waiter: Waiter) -> Result<(), RejectReason> {
        let waiter = &mut Some(waiter);
        if self.place_now(record, waiter) { Ok(()) } else { self.place_waiting(record, waiter) }
    }

    /// Into its batch or the lane, and a turn if one is due. False: something stands in the way.
    #[inline(always)]
    fn place_now(&mut self, record: &Record<'_>, waiter: &mut Option<Waiter>) -> bool {
        let Lane { life, core, .. } = &mut self.lane;
        let tick = last_tick();
        let near = Here { driver: &self.driver, now: tick == self.tick, drain: Cell::new(false) };
        if life.closed.load(Ordering::Acquire) || core.place_near(record, waiter, None, &near).is_err() {
            return false;
        }
        let drain = near.drain.get();
        if core.placed_bytes().wrapping_sub(self.turned_at) >= TURN_BYTES || tick != self.tick {
            self.turn(tick);
        } else if drain {
            self.driver.take_lanes();
        }
        true
    }

    #[cold]
    fn turn(&mut self, tick: u64) {
        (self.turned_at, self.tick) = (self.lane.core.placed_bytes(), tick);
        self.driver.turn(Time::ZERO);
    }

    #[cold]
    fn place_waiting(&mut self, record: &Record<'_>, waiter: &mut Option<Waiter>) -> Result<(), RejectReason> {
        let Lane { life, core, .. } = &mut self.lane;
        let sent = life.place(&*self.driver, &mut *core, record, waiter);
        // It had its turns in there.
        (self.turned_at, self.tick) = (core.placed_bytes(), last_tick());
        sent
    }

    /// The shard's turn inside a send.
    #[inline]
    fn turn_if_due(&mut self) {
        let tick = last_tick();
        if self.lane.core.placed_bytes().wrapping_sub(self.turned_at) >= TURN_BYTES || tick != self.tick {
            self.turn(tick);
        }
    }

    /// Runs callbacks whose outcome is there; says how many. Outcomes come with the shard's turns.
    pub fn poll(&mut self) -> usize {
        self.lane.poll()
    }

    /// Ends linger and runs the shard until every record sent before has its outcome and every callback ran. Returns within
    /// `timeout`. Says how many records of this producer were lost since it was made.
    ///
    /// # Errors
    /// The time was up first.
    pub fn flush(&mut self, timeout: Duration) -> Result<Losses, FlushError> {
        let Lane { life, core, inbox, .. } = &mut self.lane;
        life.flush(&*self.driver, core, inbox, timeout)
    }

    /// As [`LocalProducer::flush`], awaited: the shard is run by other tasks of this thread ([`LocalEngine::turn`]).
    ///
    /// # Errors
    /// [`FlushError::EngineFailed`].
    pub async fn flush_async(&mut self) -> Result<Losses, FlushError> {
        self.lane.flush_async().await
    }

    /// Refuses further records, then flushes.
    ///
    /// # Errors
    /// The time was up first.
    pub fn close(&mut self, timeout: Duration) -> Result<Losses, FlushError> {
        self.lane.life.closed.store(true, Ordering::Release);
        self.flush(timeout)
    }

    /// Records that did not make it, as of the last flush.
    pub fn losses(&self) -> Losses {
        self.lane.losses()
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &ProducerSettings {
        &self.lane.life.settings
    }
}

/// The outcome of a record submitted on a local engine's thread. Waiting runs the shard; as a future it relies on other
/// tasks of the thread to run it. Dropping it loses only the answer.
#[derive(Debug)]
pub struct LocalSent {
    sent: Sent,
    driver: Rc<Driver>,
}

impl LocalSent {
    /// Runs the shard until the record has its outcome, at most `delivery.timeout.ms` and a little.
    pub fn wait(mut self) -> DeliveryResult {
        self.wait_by(Time::NEVER).unwrap_or(Err(DeliveryError::Unknown(Reason::Closed)))
    }

    /// Runs the shard for at most `timeout`; `None` when the record has no outcome by then. It may be waited for again.
    pub fn wait_for(&mut self, timeout: Duration) -> Option<DeliveryResult> {
        let deadline = self.sent.clock.now().mono + timeout;
        self.wait_by(deadline)
    }

    fn wait_by(&mut self, deadline: Time) -> Option<DeliveryResult> {
        let clock = self.sent.clock.clone();
        self.driver.wait_until(deadline, &clock, |context| self.sent.poll_outcome(context))
    }
}

impl Future for LocalSent {
    type Output = DeliveryResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DeliveryResult> {
        self.sent.poll_outcome(context)
    }
}
