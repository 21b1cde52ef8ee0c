//! The handles: [`Producer`], which clones share, and [`Lane`], which one thread owns.

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::ids::ProducerIx;
use crate::base::sync::{Mutex, lock};
use crate::base::time::{Clock, Time};
use crate::batch::Codec;
use crate::config::{Acks, Compression, ProducerSettings, SettingError};
use crate::engine::{Engine, EngineError, LocalEngine, Parked, Shared, Waiting};
use crate::mesh::command::{Partitioner, ShardCommand};
use crate::mesh::promise;

use super::core::{Access, Core, Sending, Stop};
use super::inbox::{Inbox, Losses, Waiter};
use super::record::{Record, RejectReason, Rejected};
use super::sent::Sent;
use super::{DeliveryResult, FlushError};

impl Engine {
    /// A producer of this engine: settings first, then `build`.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder { engine: self.clone(), settings: ProducerSettings::default(), partitioner: None }
    }
}

/// Settings of a producer, by name. [`ProducerBuilder::settings`] takes them all at once (from a file, say).
///
/// `E` is the engine it is made for: [`Engine`] gives a [`Producer`], [`LocalEngine`] a [`super::LocalProducer`].
#[derive(Clone, Debug)]
pub struct ProducerBuilder<E = Engine> {
    pub(super) engine: E,
    pub(super) settings: ProducerSettings,
    pub(super) partitioner: Option<Arc<dyn Partitioner>>,
}

impl LocalEngine {
    /// A producer on this thread: settings first, then `build`.
    pub fn producer(&self) -> ProducerBuilder<LocalEngine> {
        ProducerBuilder { engine: self.clone(), settings: ProducerSettings::default(), partitioner: None }
    }
}

impl<E> ProducerBuilder<E> {
    /// All settings at once, in place of what was set before.
    #[must_use]
    pub fn settings(mut self, settings: ProducerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// `acks`. Anything but all switches idempotence off; ask for it again to get the contradiction as an error.
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.settings.acks = acks;
        self.settings.idempotence &= acks == Acks::All;
        self
    }

    /// `enable.idempotence`.
    #[must_use]
    pub fn idempotence(mut self, on: bool) -> Self {
        self.settings.idempotence = on;
        self
    }

    /// `linger.ms`.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// `batch.size`, in bytes on the wire.
    #[must_use]
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.settings.batch_size = bytes;
        self
    }

    /// `batch.num.messages`: most records in a batch.
    #[must_use]
    pub fn batch_count_max(mut self, count: Option<u32>) -> Self {
        self.settings.batch_count_max = count;
        self
    }

    /// `compression.type`.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// `delivery.timeout.ms`.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// `max.block.ms`.
    #[must_use]
    pub fn max_block(mut self, at_most: Duration) -> Self {
        self.settings.max_block = at_most;
        self
    }

    /// Chooses partitions in place of murmur2 and sticky.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Arc<dyn Partitioner>) -> Self {
        self.partitioner = Some(partitioner);
        self
    }
}

impl ProducerBuilder {
    /// Checks the settings and makes the producer. Nothing is connected yet.
    ///
    /// # Errors
    /// Settings that contradict each other, a codec that was not compiled in, an engine that is closed.
    pub fn build(self) -> Result<Producer, EngineError> {
        let Self { engine, settings, partitioner } = self;
        settings.validate()?;
        let shared = Arc::clone(engine.shared());
        let in_flight = shared.settings().max_in_flight_requests;
        if settings.idempotence && in_flight > 5 {
            let reason = format!("{in_flight} with enable.idempotence=true: brokers remember the last 5 batches only");
            return Err(SettingError { key: "max.in.flight.requests.per.connection", reason }.into());
        }
        if let Err(missing) = codec(settings.compression).require() {
            return Err(SettingError { key: "compression.type", reason: missing.to_string() }.into());
        }
        if !shared.is_open() {
            return Err(shared.gone());
        }
        let producer = shared.next_producer()?;
        let settings = Arc::new(settings);
        for commands in shared.shards() {
            let (settings, partitioner) = (Arc::clone(&settings), partitioner.clone());
            if commands.send(ShardCommand::AddProducer { producer, settings, partitioner }).is_err() {
                return Err(shared.gone());
            }
        }
        let life = Arc::new(Life { engine, shared, producer, settings, partitioner, closed: AtomicBool::new(false) });
        let (core, inbox) = life.open();
        Ok(Producer { life, core: Arc::new(Mutex::new(core)), inbox })
    }
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::None => Codec::None,
        Compression::Gzip => Codec::Gzip,
        Compression::Snappy => Codec::Snappy,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
    }
}

/// What all handles of one producer share.
#[derive(Debug)]
pub(super) struct Life {
    /// Keeps the engine running while a handle lives.
    engine: Engine,
    shared: Arc<Shared>,
    producer: ProducerIx,
    pub(super) settings: Arc<ProducerSettings>,
    partitioner: Option<Arc<dyn Partitioner>>,
    pub(super) closed: AtomicBool,
}

impl Life {
    fn open(&self) -> (Core, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::new(self.shared.state().clone()));
        let core = Core::new(&self.shared, self.producer, &self.settings, self.partitioner.clone(), &inbox);
        (core, inbox)
    }

    fn refusal(&self) -> Option<RejectReason> {
        self.closed.load(Ordering::Acquire).then_some(RejectReason::Closed)
    }

    fn block_deadline(&self) -> Time {
        self.shared.clock().now().mono + self.settings.max_block
    }

    /// A record's way in without waiting.
    #[inline(always)]
    pub(super) fn try_place(
        &self,
        mut core: impl Access,
        record: &Record<'_>,
        waiter: &mut Option<Waiter>,
    ) -> Result<(), RejectReason> {
        if let Some(reason) = self.refusal() {
            return Err(reason);
        }
        core.with(|core| match core.place(record, waiter, None) {
            Ok(()) => Ok(()),
            Err(Stop::Reject(reason)) => Err(reason),
            Err(Stop::Memory { .. } | Stop::Room { .. }) => {
                core.press();
                Err(RejectReason::Full)
            }
        })
    }

    /// A record's way in, waiting at most `max.block.ms`.
    #[inline(always)]
    pub(super) fn place(
        &self,
        waiting: &impl Waiting,
        mut core: impl Access,
        record: &Record<'_>,
        waiter: &mut Option<Waiter>,
    ) -> Result<(), RejectReason> {
        if let Some(reason) = self.refusal() {
            return Err(reason);
        }
        match core.with(|core| core.place(record, waiter, None)) {
            Ok(()) => Ok(()),
            Err(Stop::Reject(reason)) => Err(reason),
            Err(_) => self.place_waiting(waiting, core, record, waiter),
        }
    }

    #[cold]
    fn place_waiting(
        &self,
        waiting: &impl Waiting,
        mut core: impl Access,
        record: &Record<'_>,
        waiter: &mut Option<Waiter>,
    ) -> Result<(), RejectReason> {
        let deadline = self.block_deadline();
        let blocked = core.with(|core| Arc::clone(core.blocked()));
        let _inside = blocked.enter();
        let mut sending = Sending::new(&self.shared, deadline);
        let done = waiting.wait_until(deadline, self.shared.clock(), |context| {
            sending.poll(context, Borrowed(&mut core), record, waiter)
        });
        done.unwrap_or(Err(RejectReason::Timeout))
    }

    /// Has `place` place a record whose outcome is waited for.
    pub(super) fn submit(
        &self,
        inbox: &Arc<Inbox>,
        place: impl FnOnce(&mut Option<Waiter>) -> Result<(), RejectReason>,
    ) -> Result<Sent, RejectReason> {
        let (told, answer) = promise();
        place(&mut Some(Waiter::Promise(told)))?;
        Ok(Sent { inbox: Arc::clone(inbox), answer, clock: self.shared.clock().clone() })
    }

    async fn submit_async<'a>(
        &self,
        inbox: &Arc<Inbox>,
        mut core: impl Access,
        record: Record<'a>,
    ) -> Result<Sent, Rejected<'a>> {
        if let Some(reason) = self.refusal() {
            return Err(Rejected { record, reason });
        }
        let (told, answer) = promise();
        let mut waiter = Some(Waiter::Promise(told));
        let mut sending = Sending::new(&self.shared, self.block_deadline());
        let done = poll_fn(|context| sending.poll(context, Borrowed(&mut core), &record, &mut waiter)).await;
        done.map_err(|reason| Rejected { record, reason })?;
        Ok(Sent { inbox: Arc::clone(inbox), answer, clock: self.shared.clock().clone() })
    }

    /// Pollable core of flush.
    fn poll_flush(
        &self,
        context: &mut Context<'_>,
        mut core: impl Access,
        inbox: &Inbox,
        flush: &mut Flush,
    ) -> Poll<Losses> {
        let (blocked, now) = core.with(|core| (Arc::clone(core.blocked()), core.blocked().mark()));
        // d1-22: those who are blocked since before this flush come first.
        if flush.from == Some(0) && blocked.poll_gone(context, *flush.behind.get_or_insert(now)).is_pending() {
            return Poll::Pending;
        }
        while let Some(from) = flush.from {
            match core.with(|core| core.mark(&mut flush.marks, from)) {
                Ok(()) => flush.from = None,
                Err(full) => {
                    flush.from = Some(full);
                    let bytes = crate::mesh::entry::HEADER_BYTES;
                    if core.with(|core| core.poll_room(context, full, bytes)).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        inbox.poll_flushed(context, &flush.marks)
    }

    pub(super) fn flush(
        &self,
        waiting: &impl Waiting,
        mut core: impl Access,
        inbox: &Inbox,
        timeout: Duration,
    ) -> Result<Losses, FlushError> {
        let deadline = self.shared.clock().now().mono + timeout;
        let mut flush = Flush::default();
        let done = waiting.wait_until(deadline, self.shared.clock(), |context| {
            self.poll_flush(context, Borrowed(&mut core), inbox, &mut flush)
        });
        done.map_or(Err(FlushError::Timeout), |losses| self.flushed(losses))
    }

    /// What a flush says whose marks came back, or whose shards are gone.
    fn flushed(&self, losses: Losses) -> Result<Losses, FlushError> {
        if self.shared.state().failed().is_set() { Err(FlushError::EngineFailed) } else { Ok(losses) }
    }
}

/// Where a flush stands.
struct Flush {
    from: Option<usize>,
    /// The mark of who was blocked when it began.
    behind: Option<u64>,
    marks: Vec<(usize, u64)>,
}

impl Default for Flush {
    fn default() -> Self {
        Self { from: Some(0), behind: None, marks: Vec::new() }
    }
}

/// An access lent out for one poll.
struct Borrowed<'a, A>(&'a mut A);

impl<A: Access> Access for Borrowed<'_, A> {
    fn with<R>(&mut self, work: impl FnOnce(&mut Core) -> R) -> R {
        self.0.with(work)
    }
}

/// The core that clones share.
struct Locked<'a>(&'a Mutex<Core>);

impl Access for Locked<'_> {
    fn with<R>(&mut self, work: impl FnOnce(&mut Core) -> R) -> R {
        work(&mut lock(self.0))
    }
}

/// Sends records from anywhere: clones share one lane set under a lock that is uncontended as a rule. A thread that sends a
/// lot takes a [`Lane`] of its own.
///
/// Plain [`Producer::send`] retains nothing; ask for outcomes with [`Producer::submit`] or [`Producer::send_with`]. Losses
/// are counted in any case and reported by [`Producer::flush`].
#[derive(Clone, Debug)]
pub struct Producer {
    life: Arc<Life>,
    core: Arc<Mutex<Core>>,
    inbox: Arc<Inbox>,
}

impl Producer {
    /// A lane of its own: lock-free, ordered within itself only.
    pub fn lane(&self) -> Lane {
        let (core, inbox) = self.life.open();
        Lane { life: Arc::clone(&self.life), core, inbox, nobody: None, not_sync: PhantomData }
    }

    /// Takes the record or gives it back at once, [`RejectReason::Full`] when there is no room.
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        let done = self.life.try_place(Locked(&self.core), &record, &mut None);
        done.map_err(|reason| Rejected { record, reason })
    }

    /// Takes the record, waiting for room at most `max.block.ms`. Blocks the thread: not for async tasks.
    #[inline(always)]
    pub fn send<'a>(&self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        self.place(&record, None).map_err(|reason| Rejected { record, reason })
    }

    /// As [`Producer::send`], awaiting room. Dropping the future before it is ready sends nothing.
    pub async fn send_async<'a>(&self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        if let Some(reason) = self.life.refusal() {
            return Err(Rejected { record, reason });
        }
        let mut sending = Sending::new(&self.life.shared, self.life.block_deadline());
        let done = poll_fn(|context| sending.poll(context, Locked(&self.core), &record, &mut None)).await;
        done.map_err(|reason| Rejected { record, reason })
    }

    /// As [`Producer::send`]; `callback` gets the outcome, exactly once and in order per partition, inside a later
    /// [`Producer::poll`] or [`Producer::flush`] of any clone, while no lock is held.
    pub fn send_with<'a>(
        &self,
        record: Record<'a>,
        callback: impl FnOnce(DeliveryResult) + Send + 'static,
    ) -> Result<(), Rejected<'a>> {
        self.place(&record, Some(self.inbox.callback(callback))).map_err(|reason| Rejected { record, reason })
    }

    // As a lane's: see there.
    #[inline(never)]
    fn place(&self, record: &Record<'_>, mut waiter: Option<Waiter>) -> Result<(), RejectReason> {
        self.life.place(&Parked, Locked(&self.core), record, &mut waiter)
    }

    /// As [`Producer::send`]; the outcome can be awaited or waited for. Its batch does not linger once its broker is idle.
    pub fn submit<'a>(&self, record: Record<'a>) -> Result<Sent, Rejected<'a>> {
        let place = |waiter: &mut _| self.life.place(&Parked, Locked(&self.core), &record, waiter);
        self.life.submit(&self.inbox, place).map_err(|reason| Rejected { record, reason })
    }

    /// As [`Producer::submit`], awaiting room at most `max.block.ms`. Dropping the future before it is ready sends nothing.
    pub async fn submit_async<'a>(&self, record: Record<'a>) -> Result<Sent, Rejected<'a>> {
        self.life.submit_async(&self.inbox, Locked(&self.core), record).await
    }

    /// Runs callbacks whose outcome is there, on this thread. Says how many.
    pub fn poll(&self) -> usize {
        self.inbox.run_callbacks()
    }

    /// Ends linger and waits until every record sent before by this handle and its clones has its outcome and every callback
    /// ran. Returns within `timeout`. Says how many records of this handle were lost since it was made.
    pub fn flush(&self, timeout: Duration) -> Result<Losses, FlushError> {
        self.life.flush(&Parked, Locked(&self.core), &self.inbox, timeout)
    }

    /// As [`Producer::flush`], awaited; without a deadline of its own: records end by `delivery.timeout.ms`.
    ///
    /// # Errors
    /// [`FlushError::EngineFailed`].
    pub async fn flush_async(&self) -> Result<Losses, FlushError> {
        let mut flush = Flush::default();
        let losses =
            poll_fn(|context| self.life.poll_flush(context, Locked(&self.core), &self.inbox, &mut flush)).await;
        self.life.flushed(losses)
    }

    /// Records of this handle and its clones that did not make it, as of the last flush.
    pub fn losses(&self) -> Losses {
        self.inbox.losses()
    }

    /// Refuses further records of all handles of this producer, then flushes this one.
    pub fn close(&self, timeout: Duration) -> Result<Losses, FlushError> {
        self.life.closed.store(true, Ordering::Release);
        self.flush(timeout)
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.life.engine
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &ProducerSettings {
        &self.life.settings
    }
}

/// One thread's way to send: a lane set of its own, no lock. Records of a lane stay in order per partition; there is no
/// order between lanes.
#[derive(Debug)]
pub struct Lane {
    pub(super) life: Arc<Life>,
    pub(super) core: Core,
    pub(super) inbox: Arc<Inbox>,
    /// Always none: who waits for a plain send. Made once, or every send would have one to drop.
    nobody: Option<Waiter>,
    not_sync: PhantomData<Cell<()>>,
}

impl Lane {
    // The caller's crate compiles what makes the record, and a call: the record, some 230 bytes, stays where it is made. By
    // value, or generic, all of a send was compiled there again, with copies of the record between its functions.

    #[inline(never)]
    fn try_place(&mut self, record: &Record<'_>) -> Result<(), RejectReason> {
        self.life.try_place(&mut self.core, record, &mut self.nobody)
    }

    #[inline(never)]
    fn place(&mut self, record: &Record<'_>) -> Result<(), RejectReason> {
        self.life.place(&Parked, &mut self.core, record, &mut self.nobody)
    }

    #[inline(never)]
    fn place_for(&mut self, record: &Record<'_>, waiter: Waiter) -> Result<(), RejectReason> {
        self.life.place(&Parked, &mut self.core, record, &mut Some(waiter))
    }

    /// Takes the record or gives it back at once, [`RejectReason::Full`] when there is no room.
    #[inline(always)]
    pub fn try_send<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        self.try_place(&record).map_err(|reason| Rejected { record, reason })
    }

    /// Takes the record, waiting for room at most `max.block.ms`. Blocks the thread: not for async tasks.
    #[inline(always)]
    pub fn send<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        self.place(&record).map_err(|reason| Rejected { record, reason })
    }

    /// As [`Lane::send`], awaiting room. Dropping the future before it is ready sends nothing.
    pub async fn send_async<'a>(&mut self, record: Record<'a>) -> Result<(), Rejected<'a>> {
        if let Some(reason) = self.life.refusal() {
            return Err(Rejected { record, reason });
        }
        let mut sending = Sending::new(&self.life.shared, self.life.block_deadline());
        let core = &mut self.core;
        let done = poll_fn(|context| sending.poll(context, &mut *core, &record, &mut None)).await;
        done.map_err(|reason| Rejected { record, reason })
    }

    /// As [`Lane::send`]; `callback` gets the outcome, exactly once and in order per partition, inside a later
    /// [`Lane::poll`] or [`Lane::flush`].
    #[inline(always)]
    pub fn send_with<'a>(
        &mut self,
        record: Record<'a>,
        callback: impl FnOnce(DeliveryResult) + Send + 'static,
    ) -> Result<(), Rejected<'a>> {
        let waiter = self.inbox.callback(callback);
        self.place_for(&record, waiter).map_err(|reason| Rejected { record, reason })
    }

    /// As [`Lane::send`]; the outcome can be awaited or waited for, also on another thread.
    pub fn submit<'a>(&mut self, record: Record<'a>) -> Result<Sent, Rejected<'a>> {
        let Self { life, core, inbox, .. } = self;
        let place = |waiter: &mut _| life.place(&Parked, core, &record, waiter);
        life.submit(inbox, place).map_err(|reason| Rejected { record, reason })
    }

    /// As [`Lane::submit`], awaiting room at most `max.block.ms`. Dropping the future before it is ready sends nothing.
    pub async fn submit_async<'a>(&mut self, record: Record<'a>) -> Result<Sent, Rejected<'a>> {
        self.life.submit_async(&self.inbox, &mut self.core, record).await
    }

    /// Runs callbacks whose outcome is there. Says how many.
    pub fn poll(&mut self) -> usize {
        self.inbox.run_callbacks()
    }

    /// Ends linger and waits until every record sent before has its outcome and every callback ran. Returns within
    /// `timeout`. Says how many records of this lane were lost since it was opened.
    pub fn flush(&mut self, timeout: Duration) -> Result<Losses, FlushError> {
        self.life.flush(&Parked, &mut self.core, &self.inbox, timeout)
    }

    /// As [`Lane::flush`], awaited; without a deadline of its own: records end by `delivery.timeout.ms`.
    ///
    /// # Errors
    /// [`FlushError::EngineFailed`].
    pub async fn flush_async(&mut self) -> Result<Losses, FlushError> {
        let Self { life, core, inbox, .. } = self;
        let mut flush = Flush::default();
        let losses = poll_fn(|context| life.poll_flush(context, &mut *core, inbox, &mut flush)).await;
        life.flushed(losses)
    }

    /// Records of this lane that did not make it, as of the last flush.
    pub fn losses(&self) -> Losses {
        self.inbox.losses()
    }
}
