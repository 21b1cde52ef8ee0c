//! The control thread: everything rare. Metadata, producer ids, admin calls; later coordinators, groups, transactions.
//!
//! ```text
//!   handles ── ControlRequest ─┐                               ┌─► SnapshotCell (shards, handles)
//!   shards ─── ShardEvent ─────┼─► Control::turn ──────────────┼─► ShardCommand (producer ids, addresses, stop)
//!   names ──── Resolution ─────┤     │  jobs, refresh, links   └─► Job::end (handles' answers)
//!                              │     ▼
//!   brokers ◄── one link per broker for quick calls (ring::Backend) ──► answers
//! ```
//! [`Control`] is a pollable struct, generic over the backend: a thread runs it in life, the simulator in virtual time.
//!
//! Never: touches a record, blocks in a call, spins, aborts the process. What it cannot do in time ends with an error.
//!
//! Invariants: every job ends exactly once; every accepted call is answered or lost exactly once; jobs, calls and waiting
//! topics are bounded; a bootstrap server is used only while no broker can be reached; a shard's failure stops the engine.

mod calls;
mod job;
mod jobs;
mod link;
mod metadata;
mod shards;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

pub use job::{AnyRequest, CallLost, Job, JobCall, JobError, Next, Target};

use crate::base::chunk::ChunkPool;
use crate::base::hash::Map;
use crate::base::ids::{BrokerId, ShardIx, TopicIx};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::batch::Reason;
use crate::config::{EngineSettings, SettingError};
use crate::mesh::command::{ShardCommand, ShardEvent};
use crate::mesh::{Budget, Event, MailboxReceiver, MailboxSender, Promise, Sleeper, SnapshotCell, Troubles};
use crate::net::{ConnectSettings, HostError, HostPort, Resolver};
use crate::proto::cluster::{Cluster, Refresh, RefreshSettings, Snapshot, Topic, TopicNames, TopicState};
use crate::proto::connection::ConnectionSettings;
use crate::ring::{Backend, Events, SendChain, Sock, SocketOptions, Wait};

use calls::CallSlot;
use jobs::JobSlot;
use link::Link;

/// Messages taken from each mailbox per turn.
const MESSAGES_PER_TURN: usize = 1024;
/// Rounds of acting on what connections reported, per turn.
const ROUNDS_PER_TURN: usize = 8;
/// Jobs at a time; more are refused.
const JOBS_MAX: usize = 4096;
/// Handles waiting for a topic at a time; more are refused.
const TOPIC_WAITS_MAX: usize = 65_536;
/// Free chunks kept for requests.
const POOL_KEEP_BYTES: usize = 256 << 10;

/// What handles ask of control.
pub enum ControlRequest {
    /// The topic is in use: keep its metadata in the snapshot.
    UseTopic(TopicIx),
    /// Answer when the topic is known or has failed.
    WaitTopic {
        /// Which.
        topic: TopicIx,
        /// When to give up.
        deadline: Time,
        /// The answer: the topic, also when it failed (see its state).
        promise: Promise<Result<Arc<Topic>, JobError>>,
    },
    /// Do this.
    Job {
        /// What.
        job: Box<dyn Job>,
        /// When to give up.
        deadline: Time,
    },
    /// Stop the shards, then control.
    Close {
        /// When to stop waiting for them.
        deadline: Time,
    },
}

/// How an engine ended, for everybody who holds a part of it.
#[derive(Clone, Debug)]
pub struct EngineState {
    inner: Arc<StateInner>,
}

#[derive(Debug)]
struct StateInner {
    failure: OnceLock<String>,
    failed: Event,
    ended: Event,
    budget: Budget,
}

impl EngineState {
    /// Running. Nobody waits for `budget` beyond the engine's end.
    pub fn new(budget: Budget) -> Self {
        let inner = StateInner { failure: OnceLock::new(), failed: Event::new(), ended: Event::new(), budget };
        Self { inner: Arc::new(inner) }
    }

    /// A thread of the engine failed; the first reason stays.
    pub fn fail(&self, why: &str) {
        if self.inner.failure.set(why.to_owned()).is_ok() {
            tracing::error!(why, "engine failed");
        }
        // Whoever waits for memory waits for parts that are gone. Users' wakers may panic; the others are woken all the same.
        let told = catch_unwind(AssertUnwindSafe(|| self.inner.failed.set()));
        if told.and(catch_unwind(AssertUnwindSafe(|| self.inner.budget.close()))).is_err() {
            tracing::error!("a waker panicked while it was told that the engine failed");
        }
    }

    /// Nothing of the engine runs any more.
    pub fn end(&self) {
        let told = catch_unwind(AssertUnwindSafe(|| self.inner.ended.set()));
        if told.and(catch_unwind(AssertUnwindSafe(|| self.inner.budget.close()))).is_err() {
            tracing::error!("a waker panicked while it was told that the engine ended");
        }
    }

    /// Why the engine failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.inner.failure.get().map(String::as_str)
    }

    /// What ends records that nobody brings to an end any more.
    pub fn end_reason(&self) -> Reason {
        if self.inner.failed.is_set() { Reason::EngineFailed } else { Reason::Closed }
    }

    /// Happens when the engine fails.
    pub fn failed(&self) -> &Event {
        &self.inner.failed
    }

    /// Happens when control has ended, after a close or a failure.
    pub fn ended(&self) -> &Event {
        &self.inner.ended
    }
}

/// What control is made of.
pub struct ControlParts<B: Backend> {
    /// Its door to the kernel.
    pub backend: B,
    /// Names to addresses. Its notice must end the backend's wait.
    pub resolver: Resolver,
    /// What its doorbells ring.
    pub sleeper: Sleeper,
    /// From handles.
    pub requests: MailboxReceiver<ControlRequest>,
    /// From shards.
    pub events: MailboxReceiver<ShardEvent>,
    /// To shards, by [`ShardIx`].
    pub shards: Vec<MailboxSender<ShardCommand>>,
    /// Where snapshots are published.
    pub cell: SnapshotCell<Snapshot>,
    /// The engine's topics.
    pub topics: Arc<TopicNames>,
    /// How the engine is doing.
    pub state: EngineState,
    /// What is known of brokers that cannot be used.
    pub troubles: Troubles,
    /// Checked settings.
    pub settings: EngineSettings,
    /// Seed of backoff and broker choice.
    pub seed: u64,
}

/// Whether a thread goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Call again.
    Running,
    /// It is over.
    Stopped,
}

/// The control thread as a struct; see the module.
pub struct Control<B: Backend> {
    backend: B,
    resolver: Resolver,
    sleeper: Sleeper,
    requests: MailboxReceiver<ControlRequest>,
    events: MailboxReceiver<ShardEvent>,
    shards: Vec<MailboxSender<ShardCommand>>,
    stopped: Vec<bool>,
    cell: SnapshotCell<Snapshot>,
    topics: Arc<TopicNames>,
    state: EngineState,
    troubles: Troubles,
    settings: EngineSettings,
    connection_settings: Rc<ConnectionSettings>,
    connect_settings: ConnectSettings,
    socket_options: SocketOptions,
    pool: ChunkPool,
    rng: Rng,

    seeds: Vec<HostPort>,
    links: BTreeMap<BrokerId, Link>,
    by_sock: Map<Sock, BrokerId>,
    calls: BTreeMap<u64, CallSlot>,
    jobs: BTreeMap<u64, JobSlot>,
    /// Numbers calls and jobs.
    number: u64,
    cluster: Cluster,
    refresh: Refresh,
    published: u64,
    /// The known brokers are not to be trusted: ask the bootstrap servers (KIP-1102).
    rebootstrap: bool,
    /// Since when no broker could be reached.
    unreachable_since: Time,
    /// Which broker could not be reached last, and why; empty while one can be.
    trouble: String,
    topic_waits: Vec<TopicWait>,
    /// Lookups for shards, by the key they are answered under.
    address_waits: BTreeMap<u64, (ShardIx, BrokerId)>,
    happened: VecDeque<Happened>,
    raw: Collector,
    scratch: Vec<u8>,
    /// Close was asked for, with its deadline.
    closing: Option<Time>,
    finishing: bool,
}

struct TopicWait {
    topic: TopicIx,
    deadline: Time,
    promise: Promise<Result<Arc<Topic>, JobError>>,
}

/// What connections reported, to be acted on when nothing is borrowed.
enum Happened {
    Reply {
        call: u64,
        version: i16,
        body: Vec<u8>,
    },
    Lost {
        call: u64,
        lost: CallLost,
    },
    /// This broker cannot be asked: nothing was sent, nor will be.
    Refused {
        call: u64,
        broker: BrokerId,
        why: JobError,
    },
    Ready {
        broker: BrokerId,
        features: Vec<(String, i16)>,
        epoch: i64,
    },
}

/// What the backend reported during its turn. Control is rarely busy, so bytes are copied and looked at afterwards, with
/// the time after the wait.
#[derive(Default)]
struct Collector(Vec<Raw>);

enum Raw {
    Connected(Sock),
    Data(Sock, Vec<u8>),
    Sent(Sock, SendChain),
    Closed { sock: Sock, why: io::Error, written: usize },
}

impl Events for Collector {
    fn connected(&mut self, sock: Sock) {
        self.0.push(Raw::Connected(sock));
    }
    fn data(&mut self, sock: Sock, bytes: &[u8]) {
        self.0.push(Raw::Data(sock, bytes.to_vec()));
    }
    fn sent(&mut self, sock: Sock, chain: SendChain) {
        self.0.push(Raw::Sent(sock, chain));
    }
    fn closed(&mut self, sock: Sock, why: io::Error, _unsent: Option<SendChain>, written: usize) {
        self.0.push(Raw::Closed { sock, why, written });
    }
}

impl<B: Backend> Control<B> {
    /// Assembles control. Nothing is sent before the first turn.
    pub fn new(parts: ControlParts<B>) -> Result<Self, SettingError> {
        let ControlParts {
            backend,
            resolver,
            sleeper,
            requests,
            events,
            shards,
            cell,
            topics,
            state,
            troubles,
            settings,
            seed,
        } = parts;
        let seeds = settings
            .bootstrap_servers
            .iter()
            .map(|server| server.trim().parse::<HostPort>().map_err(|error| bad_server(server, &error)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            backend,
            resolver,
            sleeper,
            requests,
            events,
            stopped: vec![false; shards.len()],
            shards,
            cell,
            topics,
            state,
            troubles,
            connection_settings: Rc::new(ConnectionSettings::new(&settings)),
            connect_settings: ConnectSettings::new(&settings),
            socket_options: SocketOptions::new(&settings),
            pool: ChunkPool::new(POOL_KEEP_BYTES),
            rng: Rng::new(seed),
            seeds,
            links: BTreeMap::new(),
            by_sock: Map::default(),
            calls: BTreeMap::new(),
            jobs: BTreeMap::new(),
            number: 0,
            cluster: Cluster::new(settings.metadata_propagation_max),
            refresh: Refresh::new(RefreshSettings::new(&settings)),
            settings,
            published: 0,
            rebootstrap: false,
            unreachable_since: Time::NEVER,
            trouble: String::new(),
            topic_waits: Vec::new(),
            address_waits: BTreeMap::new(),
            happened: VecDeque::new(),
            raw: Collector::default(),
            scratch: Vec::new(),
            closing: None,
            finishing: false,
        })
    }

    /// Takes what is there, does what is due, and waits until a wait brought nothing new (in simulations the backend's wait
    /// returns at once).
    pub fn turn(&mut self) -> Turn {
        loop {
            self.sleeper.turn_begins();
            let busy = self.advance();
            if self.is_over(self.backend.now().mono) {
                self.end();
                return Turn::Stopped;
            }
            let until = if busy { Time::ZERO } else { self.next_deadline() };
            self.sleeper.prepare(until);
            let wait = match until {
                _ if busy || self.requests.has_items() || self.events.has_items() => Wait::Poll,
                Time::NEVER => Wait::Forever,
                until => Wait::Until(until),
            };
            if let Err(error) = self.backend.turn(wait, &mut self.raw) {
                self.state.fail(&format!("control's I/O failed: {error}"));
                self.end();
                return Turn::Stopped;
            }
            self.sleeper.waited();
            if self.raw.0.is_empty() {
                return Turn::Running;
            }
        }
    }

    /// Everything but waiting. True when more may be there already.
    fn advance(&mut self) -> bool {
        let now = self.backend.now().mono;
        self.take_raw(now);
        let busy = self.take_messages(now);
        self.take_names(now);
        self.on_deadlines(now);
        self.start_metadata(now);
        self.drive_jobs(now);
        self.drive_links(now);
        // Acting on what happened may make more happen (a call that cannot be sent is lost at once), within limits: deadlines
        // and shards must have their turn.
        for _ in 0..ROUNDS_PER_TURN {
            if self.happened.is_empty() {
                break;
            }
            for happened in std::mem::take(&mut self.happened) {
                self.act(now, happened);
            }
            self.start_metadata(now);
            self.drive_links(now);
        }
        let busy = busy || !self.happened.is_empty();
        self.publish();
        self.answer_topic_waits(now);
        busy
    }

    /// The backend, for what only the owner of the thread knows.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// What is known of the cluster.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        self.cluster.snapshot()
    }

    /// When there is something to do although nothing happens.
    fn next_deadline(&self) -> Time {
        let mut next = self.links.values().map(Link::next_deadline).min().unwrap_or(Time::NEVER);
        if !self.finishing {
            next = next.min(self.refresh.next_deadline());
        }
        for deadline in self.calls.values().filter_map(CallSlot::waits_until) {
            next = next.min(deadline);
        }
        for job in self.jobs.values() {
            next = next.min(job.next_deadline());
        }
        for wait in &self.topic_waits {
            next = next.min(wait.deadline);
        }
        next = next.min(self.resolver.next_deadline().unwrap_or(Time::NEVER));
        next.min(self.closing.unwrap_or(Time::NEVER))
    }

    /// True when more may be waiting.
    fn take_messages(&mut self, now: Time) -> bool {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(event) = self.events.take() else { break };
            self.on_shard_event(now, event);
        }
        for _ in 0..MESSAGES_PER_TURN {
            let Some(request) = self.requests.take() else { return false };
            self.on_request(now, request);
        }
        true
    }

    fn on_request(&mut self, now: Time, request: ControlRequest) {
        match request {
            ControlRequest::UseTopic(topic) => self.use_topic(now, topic),
            ControlRequest::WaitTopic { topic, deadline, promise } => {
                if self.topic_waits.len() >= TOPIC_WAITS_MAX {
                    promise.fulfil(Err(JobError::TooMany));
                    return;
                }
                self.use_topic(now, topic);
                self.topic_waits.push(TopicWait { topic, deadline, promise });
            }
            ControlRequest::Job { job, deadline } => self.add_job(now, job, deadline),
            ControlRequest::Close { deadline } => self.close(deadline),
        }
    }

    fn answer_topic_waits(&mut self, now: Time) {
        if self.topic_waits.is_empty() {
            return;
        }
        let snapshot = Arc::clone(self.cluster.snapshot());
        for wait in std::mem::take(&mut self.topic_waits) {
            match snapshot.topic(wait.topic) {
                Some(topic) if topic.state != TopicState::Pending => wait.promise.fulfil(Ok(Arc::clone(topic))),
                _ if wait.deadline <= now => {
                    let why = match self.trouble.as_str() {
                        "" => "the topic's metadata did not come".to_owned(),
                        trouble => format!("the topic's metadata did not come ({trouble})"),
                    };
                    wait.promise.fulfil(Err(JobError::Timeout(why)));
                }
                _ => self.topic_waits.push(wait),
            }
        }
    }

    /// Stops the shards; control ends when they have.
    fn close(&mut self, deadline: Time) {
        if self.closing.is_none_or(|known| known > deadline) {
            self.closing = Some(deadline);
            for shard in &self.shards {
                // A shard that is gone needs no stopping.
                let _ = shard.send(ShardCommand::Stop { deadline, why: self.state.end_reason() });
            }
        }
    }

    /// Shards are done (or out of time) and the links are closed (or out of time).
    fn is_over(&mut self, now: Time) -> bool {
        let Some(deadline) = self.closing else { return false };
        if !self.finishing && (self.stopped.iter().all(|stopped| *stopped) || deadline <= now) {
            self.finishing = true;
            for (_, job) in std::mem::take(&mut self.jobs) {
                job.end(Err(JobError::Closed));
            }
            self.calls.clear();
            for link in self.links.values_mut() {
                link.waiting.clear();
                link.connection.close("the engine is closing");
            }
            self.drive_links(now);
        }
        self.finishing && (deadline <= now || self.links.values().all(|link| link.sock.is_none()))
    }

    /// Nothing works any more: everybody who waits is told.
    fn end(&mut self) {
        for (_, job) in std::mem::take(&mut self.jobs) {
            job.end(Err(JobError::Closed));
        }
        for wait in std::mem::take(&mut self.topic_waits) {
            wait.promise.fulfil(Err(JobError::Closed));
        }
        if self.state.failure().is_some() {
            for shard in &self.shards {
                let _ = shard.send(ShardCommand::Stop { deadline: Time::ZERO, why: Reason::EngineFailed });
            }
        }
        self.state.end();
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

fn bad_server(server: &str, error: &HostError) -> SettingError {
    SettingError { key: "bootstrap.servers", reason: format!("{server:?}: {error}") }
}
