//! Assembly only: threads, pinning, wiring the rooms together, shutting down. [`Engine`] is what users start with.
//!
//! ```text
//!   Engine::builder() ── probe, cores ──► assemble: mailboxes, sleepers, cells ──► seats
//!                                            seats ──► threads (life): N shards, control
//!                                                  ├─► LocalEngine: control a thread, the shard in the caller's own
//!                                                  └─► actors (simulation): polled in virtual time
//! ```
//! Producers, consumers and the admin client are made by rooms above, from the shared state in [`Shared`].
//!
//! Never: formats a request, touches a record, blocks in `drop`, aborts the process.
//!
//! Invariants: threads = shards + control (+ at most one helper for names); a panic in any of them fails the engine, wakes
//! everybody and takes nobody else down; `close(d)` returns within `d` and a little.

mod assemble;
mod builder;
mod cores;
mod local;
mod threads;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use threads::Alive;

pub use assemble::{Assembly, ControlSeat, EngineClock, Seat, ShardSeat, assemble};
pub use builder::EngineBuilder;
pub use cores::CpuPlan;
pub use local::{Driver, LocalEngine};
pub use wait::{Parked, Waiting};

use crate::base::gate::Medium;
use crate::base::ids::{ConsumerIx, LaneId, ProducerIx, TopicIx};
use crate::base::sync::{Mutex, lock, park_until};
use crate::base::time::{Clock, Time};
use crate::config::{EngineSettings, SettingError};
use crate::control::{ControlRequest, EngineState, Job, JobError};
use crate::mesh::command::ShardCommand;
use crate::mesh::{
    Answer, Budget, FetchMemory, MailboxSender, OwnershipTable, SnapshotCell, SnapshotReader, Troubles, promise,
};
use crate::proto::cluster::{NameError, Snapshot, Topic, TopicNames};
use crate::telemetry::{ShardCounters, ShardStats};

/// Threads and clock have so long, beyond a close's deadline, to notice it.
const CLOSE_GRACE: Duration = Duration::from_millis(40);

/// Why an engine could not be started, or cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting, or a combination of settings.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A name that no topic can have.
    #[error("{name:?}: {error}")]
    Topic {
        /// The name.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// No I/O backend can be used here.
    #[error("no I/O backend: {0}")]
    Backend(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
    /// A thread of the engine failed.
    #[error("the engine failed: {0}")]
    Failed(String),
    /// Too many of these in one engine.
    #[error("too many {0} in one engine")]
    TooMany(&'static str),
    /// What was asked of the cluster could not be done.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// How a close ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseError {
    /// The deadline passed first; threads end by themselves, records that were left have ended as failed or unknown.
    #[error("not closed in time")]
    Timeout,
    /// The engine had failed before.
    #[error("the engine failed: {0}")]
    Failed(String),
}

/// An engine: shards and a control thread for one cluster. Cheap to clone; all clones are the same engine. It ends with
/// [`Engine::close`], or when the last handle (engine, producer, consumer) is dropped.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Starts with Kafka's defaults.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// The number of a topic, to name it without hashing. Its metadata is kept up to date from now on.
    pub fn topic(&self, name: &str) -> Result<TopicIx, EngineError> {
        self.shared.topic(name)
    }

    /// Waits until the topic's metadata is known; an error when it does not exist (beyond the time that creation may take
    /// to spread), is forbidden, or `timeout` passes.
    pub fn topic_info(&self, name: &str, timeout: Duration) -> Result<Arc<Topic>, EngineError> {
        let deadline = self.shared.clock.now().mono + timeout;
        let mut answer = self.shared.wait_topic(self.topic(name)?, deadline)?;
        match answer.wait(deadline + CLOSE_GRACE, &self.shared.clock) {
            Some(Ok(Err(JobError::Closed))) => Err(self.shared.gone()),
            Some(Ok(known)) => Ok(known?),
            Some(Err(_)) => Err(self.shared.gone()),
            None => Err(JobError::Timeout("control did not answer".to_owned()).into()),
        }
    }

    /// Which broker cannot be used, why, and what to try; none when all that were tried work, as far as is known.
    pub fn trouble(&self) -> Option<String> {
        self.shared.troubles.last()
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &EngineSettings {
        &self.shared.settings
    }

    /// The I/O backend in use and why: `io_uring`, `epoll`, `sim`.
    pub fn backend(&self) -> (&'static str, &str) {
        (self.shared.backend.0, &self.shared.backend.1)
    }

    /// The cluster as control knows it now.
    pub fn cluster(&self) -> Arc<Snapshot> {
        self.shared.cell.load()
    }

    /// What the shards counted since the start, summed. Each figure is as of its shard's last turn; what a record's outcome
    /// or a flush told is counted.
    pub fn stats(&self) -> ShardStats {
        let mut sum = ShardStats::default();
        for shard in &self.shared.counters {
            sum.add(&shard.read());
        }
        sum
    }

    /// Settles what is pending, then stops everything. Returns within `timeout` and a few tens of milliseconds.
    pub fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        let deadline = self.shared.clock.now().mono + timeout;
        self.shared.request_close(deadline);
        if !self.shared.state.ended().wait(deadline + CLOSE_GRACE, &self.shared.clock) {
            return Err(CloseError::Timeout);
        }
        if !self.shared.join(deadline + CLOSE_GRACE) {
            return Err(CloseError::Timeout);
        }
        match self.shared.state.failure() {
            Some(why) => Err(CloseError::Failed(why.to_owned())),
            None => Ok(()),
        }
    }

    /// The same as a future, under any executor: control ends everything by the deadline, so this needs no timer of its own.
    pub async fn close_async(&self, timeout: Duration) -> Result<(), CloseError> {
        self.shared.request_close(self.shared.clock.now().mono + timeout);
        std::future::poll_fn(|context| self.shared.state.ended().poll_set(context)).await;
        match self.shared.state.failure() {
            Some(why) => Err(CloseError::Failed(why.to_owned())),
            None => Ok(()),
        }
    }

    /// What handles are made from.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// What all handles of an engine share.
#[derive(Debug)]
pub struct Shared {
    settings: EngineSettings,
    topics: Arc<TopicNames>,
    cell: SnapshotCell<Snapshot>,
    control: MailboxSender<ControlRequest>,
    shards: Vec<MailboxSender<ShardCommand>>,
    state: EngineState,
    troubles: Troubles,
    budget: Budget,
    fetch_memory: FetchMemory,
    ownership: Arc<OwnershipTable>,
    clock: EngineClock,
    medium: Medium,
    backend: (&'static str, String),
    single_cpu: bool,
    counters: Vec<Arc<ShardCounters>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    alive: Alive,
    closing: AtomicBool,
    producers: AtomicU32,
    consumers: AtomicU32,
    lanes: AtomicU32,
}

impl Shared {
    /// Checked settings.
    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// All topic names.
    pub fn topics(&self) -> &Arc<TopicNames> {
        &self.topics
    }

    /// A view of the cluster for a handle.
    pub fn snapshots(&self) -> SnapshotReader<Snapshot> {
        self.cell.reader(&self.medium)
    }

    /// Commands to shards, by number.
    pub fn shards(&self) -> &[MailboxSender<ShardCommand>] {
        &self.shards
    }

    /// `buffer.memory`.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// `fetch.memory`.
    pub fn fetch_memory(&self) -> &FetchMemory {
        &self.fetch_memory
    }

    /// Partition to shard.
    pub fn ownership(&self) -> &Arc<OwnershipTable> {
        &self.ownership
    }

    /// The engine's clock.
    pub fn clock(&self) -> &EngineClock {
        &self.clock
    }

    /// What lies between the engine's threads and the handles that read from them.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Everything runs on one CPU: callers wake shards late and never spin (design §3.12).
    pub fn single_cpu(&self) -> bool {
        self.single_cpu
    }

    /// How the engine is doing.
    pub fn state(&self) -> &EngineState {
        &self.state
    }

    /// Interns a topic and keeps its metadata from now on.
    pub fn topic(&self, name: &str) -> Result<TopicIx, EngineError> {
        if let Some(known) = self.topics.get(name) {
            return Ok(known);
        }
        let error = |error| EngineError::Topic { name: name.to_owned(), error };
        let topic = self.topics.intern(name).map_err(error)?;
        self.ask(ControlRequest::UseTopic(topic))?;
        Ok(topic)
    }

    /// Waits for a topic's metadata.
    pub fn wait_topic(
        &self,
        topic: TopicIx,
        deadline: Time,
    ) -> Result<Answer<Result<Arc<Topic>, JobError>>, EngineError> {
        let (promise, answer) = promise();
        self.ask(ControlRequest::WaitTopic { topic, deadline, promise })?;
        Ok(answer)
    }

    /// Gives control a job. When the engine is gone the job ends at once.
    pub fn job(&self, job: Box<dyn Job>, deadline: Time) {
        let request = ControlRequest::Job { job, deadline };
        let refused = match self.is_open() {
            true => self.control.send(request),
            false => Err(request),
        };
        if let Err(ControlRequest::Job { job, .. }) = refused {
            job.end(Err(JobError::Closed));
        }
    }

    /// A number for a producer.
    pub fn next_producer(&self) -> Result<ProducerIx, EngineError> {
        next(&self.producers, u32::from(u16::MAX))
            .map(|n| ProducerIx(n as u16))
            .ok_or(EngineError::TooMany("producers"))
    }

    /// A number for a consumer.
    pub fn next_consumer(&self) -> Result<ConsumerIx, EngineError> {
        next(&self.consumers, u32::from(u16::MAX))
            .map(|n| ConsumerIx(n as u16))
            .ok_or(EngineError::TooMany("consumers"))
    }

    /// A number for a lane.
    pub fn next_lane(&self) -> Result<LaneId, EngineError> {
        next(&self.lanes, u32::MAX).map(LaneId).ok_or(EngineError::TooMany("lanes"))
    }

    /// Neither closed nor failed.
    pub fn is_open(&self) -> bool {
        !self.closing.load(Ordering::Acquire) && !self.state.failed().is_set()
    }

    /// Why nothing can be done any more.
    pub fn gone(&self) -> EngineError {
        match self.state.failure() {
            Some(why) => EngineError::Failed(why.to_owned()),
            None => EngineError::Closed,
        }
    }

    fn ask(&self, request: ControlRequest) -> Result<(), EngineError> {
        if !self.is_open() {
            return Err(self.gone());
        }
        self.control.send(request).map_err(|_| self.gone())
    }

    /// Stops shards and control by `deadline`.
    pub fn request_close(&self, deadline: Time) {
        self.closing.store(true, Ordering::Release);
        if self.control.send(ControlRequest::Close { deadline }).is_err() {
            // Control is gone already (or never started), and with it the engine.
            for shard in &self.shards {
                // A shard that is gone needs no stopping.
                let _ = shard.send(ShardCommand::Stop { deadline: Time::ZERO, why: self.state.end_reason() });
            }
            self.state.end();
        }
    }

    /// Joins the threads, if all have ended by `deadline`. One that hangs in user code (a partitioner) is left to itself.
    fn join(&self, deadline: Time) -> bool {
        let mine = lock(&self.threads).iter().any(|thread| thread.thread().id() == std::thread::current().id());
        if mine || park_until(deadline, &self.clock, |context| self.alive.poll_none(context)).is_none() {
            return mine;
        }
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A panic was caught and reported where it happened.
            let _ = thread.join();
        }
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody can hear of outcomes any more. The threads end by themselves; dropping never waits.
        if !self.closing.load(Ordering::Acquire) {
            self.request_close(self.clock.now().mono);
        }
    }
}

/// Counts up to `max` and never wraps.
fn next(counter: &AtomicU32, max: u32) -> Option<u32> {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).ok()
}
