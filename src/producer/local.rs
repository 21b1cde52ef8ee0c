//! A producer inside a local engine's thread: a lane like any other, and where others park it runs the shard.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::time::{Clock, Time, last_tick};
use crate::config::ProducerSettings;
use crate::engine::{Driver, EngineError, LocalEngine, Waiting};

use super::handle::{Lane, ProducerBuilder};
use super::inbox::{Losses, Waiter};
use super::record::{Record, RejectReason, Rejected};
use super::sent::Sent;
use super::{DeliveryError, DeliveryResult, FlushError, Reason};

/// So much in the lane gives the shard a turn: a chunk, which then is still in the cache.
const TURN_BYTES: u64 = 64 << 10;

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

/// Sends records from the thread of a [`LocalEngine`]: `!Send`, no lock, no wake. What it promises of order, outcomes and
/// memory is what [`Lane`] promises.
///
/// A `send` gives the shard a turn when 64 KiB were written since the last one, or the kernel's clock ticked (1 to 10 ms): a
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
    pub fn try_send<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        let Lane { life, core, .. } = &mut self.lane;
        match life.try_place(&mut *core, record, &mut None) {
            Err(Rejected { record, reason: RejectReason::Full }) => {
                self.driver.turn(Time::ZERO);
                life.try_place(&mut *core, record, &mut None)?;
            }
            Ok(()) => {}
            Err(other) => return Err(other),
        }
        self.turn_if_due();
        Ok(())
    }

    /// Takes the record, running the shard for at most `max.block.ms` until there is room.
    #[inline]
    pub fn send<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        self.place(record, &mut None)
    }

    /// As [`LocalProducer::send`]; `callback` gets the outcome, exactly once and in order per partition, inside a later
    /// [`LocalProducer::poll`] or [`LocalProducer::flush`].
    pub fn send_with<'a>(
        &mut self,
        record: Record<'a>,
        callback: impl FnOnce(DeliveryResult) + Send + 'static,
    ) -> Result<(), Rejected<'a>> {
        let waiter = self.lane.inbox.callback(callback);
        self.place(record, &mut Some(waiter))
    }

    /// As [`LocalProducer::send`]; the outcome can be awaited or waited for.
    pub fn submit<'a>(&mut self, record: Record<'a>) -> Result<LocalSent, Rejected<'a>> {
        let Self { lane: Lane { life, core, inbox, .. }, driver, .. } = self;
        let place = |record, waiter: &mut _| life.place(&**driver, core, record, waiter);
        let sent = life.submit(inbox, place, record)?;
        let sent = LocalSent { sent, driver: Rc::clone(driver) };
        self.turn_if_due();
        Ok(sent)
    }

    // By reference as long as nothing stands in the way: a record has some 230 bytes, and each layer that takes it by value
    // copies it.
    #[inline(always)]
    fn place<'a>(&mut self, record: Record<'a>, waiter: &mut Option<Waiter>) -> Result<(), Rejected<'a>> {
        let Lane { life, core, .. } = &mut self.lane;
        if life.closed.load(Ordering::Acquire) || core.place(&record, waiter, &mut 0).is_err() {
            return self.place_waiting(record, waiter);
        }
        self.turn_if_due();
        Ok(())
    }

    #[cold]
    fn place_waiting<'a>(&mut self, record: Record<'a>, waiter: &mut Option<Waiter>) -> Result<(), Rejected<'a>> {
        let Lane { life, core, .. } = &mut self.lane;
        let sent = life.place(&*self.driver, &mut *core, record, waiter);
        // It had its turns in there.
        (self.turned_at, self.tick) = (core.committed_bytes(), last_tick());
        sent
    }

    /// The shard's turn inside a send.
    #[inline]
    fn turn_if_due(&mut self) {
        let (written, tick) = (self.lane.core.committed_bytes(), last_tick());
        if written.wrapping_sub(self.turned_at) >= TURN_BYTES || tick != self.tick {
            (self.turned_at, self.tick) = (written, tick);
            self.driver.turn(Time::ZERO);
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
