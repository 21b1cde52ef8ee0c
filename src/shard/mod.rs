//! One core: its loop, its lanes, its links. Where the produce machine meets connections and the kernel; it stays thin.
//!
//! ```text
//!   commands ─┐                                     ┌─► completions, per batch and lane
//!   lanes ────┼─► turn: take ─► proto::produce ─► links (connection + socket) ─► one vectored write ─► backend
//!   snapshot ─┘            ▲                                                                        │
//!                          └──────────── replies, decoded in place during backend.turn ◄────────────┘
//! ```
//! [`Shard`] is a pollable struct, generic over the backend and the clock: a thread runs it in life, the simulator in virtual
//! time, an application's own thread in a local engine. Links by role: one produce link per broker; one fetch link per consumer
//! and broker stands beside it (`Role`, [`fetch`]).
//!
//! Never: allocates per record, takes a lock per record, blocks outside of `backend.turn`, closes a socket while the kernel
//! holds a piece of it (the backend sees to that; pieces are shared by count, so an expired batch keeps its memory).
//!
//! Invariants: a turn takes a bounded number of lane bytes (design §3.12); before it sleeps it has published until when and
//! looked at every queue again; every record that entered a lane ends in one outcome, also when the shard is told to stop;
//! a panic ends the shard, its handles find their lanes closed, and what was pending counts as unknown.

mod events;
mod fetch;
mod lanes;
mod link;
mod near;
mod place;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::backoff::BackoffRange;
use crate::base::chunk::ChunkPool;
use crate::base::hash::Map;
use crate::base::ids::{BrokerId, ConsumerIx, ProducerIx, ShardIx, TopicIx, Tp};
use crate::base::rng::Rng;
use crate::base::time::{Clock, Now, Time};
use crate::batch::Reason;
use crate::config::EngineSettings;
use crate::mesh::command::{LeaderHint, MetadataReason, ProducerIdGrant, ShardCommand, ShardEvent};
use crate::mesh::{
    Budget, FetchMemory, MailboxReceiver, MailboxSender, Share, SlabPool, Sleeper, SnapshotReader, Troubles,
};
use crate::net::{ConnectSettings, HostPort};
use crate::proto::cluster::{Snapshot, TopicNames, TopicState};
use crate::proto::connection::{Call, ConnectionSettings, ReplyMode};
use crate::proto::produce::{Action, CallIx, Ident, LeaderFact, Outcome, Produce, ProduceSettings, Run, Settle, Stale};
use crate::ring::{Backend, Sock, SocketOptions, Wait};
use crate::telemetry::{ShardCounters, ShardStats};
use crate::wire::{ApiKey, ErrorCode};
use events::LinkSink;
use fetch::FetchLanes;
pub use lanes::InPlace;
use lanes::Lanes;
use link::{Link, Need, Role};
use place::Placer;

/// Lane bytes taken per turn (design §3.12).
const LANE_BYTES_PER_TURN: usize = 256 << 10;
/// What chunks take beyond what was paid is told to the budget in steps of this.
const CORRECTION_STEP_BYTES: i64 = 4 << 10;
/// So many partitions' shares of the budget a shard keeps without a look at which are in use.
const SHARES_KEPT_MIN: usize = 256;
/// Commands taken per turn.
const COMMANDS_PER_TURN: usize = 1024;
/// The oldest Produce version with v2 batches.
const PRODUCE_VERSION_MIN: i16 = 3;

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardParts<B, C> {
    /// Its door to the kernel, made on its thread.
    pub backend: B,
    /// The backend's clock.
    pub clock: C,
    /// Its number.
    pub shard: ShardIx,
    /// What its doorbells ring.
    pub sleeper: Sleeper,
    /// From control and handles.
    pub commands: MailboxReceiver<ShardCommand>,
    /// To control.
    pub events: MailboxSender<ShardEvent>,
    /// Its view of the cluster.
    pub snapshots: SnapshotReader<Snapshot>,
    /// The engine's topics.
    pub topics: Arc<TopicNames>,
    /// `buffer.memory`.
    pub budget: Budget,
    /// `fetch.memory`, of the whole engine.
    pub fetch_memory: FetchMemory,
    /// What is known of brokers that cannot be used.
    pub troubles: Troubles,
    /// Checked settings.
    pub settings: EngineSettings,
    /// Seed of backoff, jitter and sticky partitions.
    pub seed: u64,
}

/// Whether there is another turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Go on.
    Running,
    /// The shard has ended and said so.
    Stopped,
}

/// One shard.
#[derive(Debug)]
pub struct Shard<B, C> {
    backend: B,
    sleeper: Sleeper,
    commands: MailboxReceiver<ShardCommand>,
    counters: Arc<ShardCounters>,
    core: Core<C>,
}

/// Outcomes told during one phase of a turn, handed to the lanes together.
#[derive(Debug, Default)]
struct Settlements {
    list: Vec<(Tp, Run, Outcome)>,
    released: usize,
    /// By partition, what it holds less (or, as a target of `moved`, more).
    shares: Vec<(Tp, i64)>,
}

impl Settle for Settlements {
    fn settled(&mut self, _: ProducerIx, tp: Tp, run: &Run, outcome: Outcome) {
        self.list.push((tp, *run, outcome));
    }
    fn release(&mut self, tp: Tp, bytes: usize) {
        self.released += bytes;
        self.shares.push((tp, bytes as i64));
    }
    fn placed(&mut self, tp: Tp, bytes: usize) {
        self.shares.push((Tp { partition: -1, ..tp }, bytes as i64));
        self.shares.push((tp, -(bytes as i64)));
    }
}

/// All but the backend, so that the backend's events can reach it.
#[derive(Debug)]
struct Core<C> {
    clock: C,
    now: Now,
    /// `now` was read since the wait ended.
    fresh: bool,
    shard: ShardIx,
    events: MailboxSender<ShardEvent>,
    snapshots: SnapshotReader<Snapshot>,
    topics: Arc<TopicNames>,
    budget: Budget,
    connection_settings: Rc<ConnectionSettings>,
    connect_settings: ConnectSettings,
    socket_options: SocketOptions,
    pool: ChunkPool,
    rng: Rng,
    produce: Produce,
    placer: Placer,
    lanes: Lanes,
    fetch: FetchLanes,
    links: Vec<Link>,
    troubles: Troubles,
    by_sock: Map<Sock, usize>,
    /// Where brokers are that answers named before the snapshot did.
    hinted: BTreeMap<BrokerId, (String, u16)>,
    settled: Settlements,
    shares: Map<Tp, Share>,
    /// With more of them, those that hold nothing are let go of.
    shares_max: usize,
    /// Partitions that somebody waits for to hold less.
    held_up: Vec<Tp>,
    /// Bytes that handles paid for records which are here now.
    paid: i64,
    /// What this shard's chunks take of the budget beyond that; below zero where compression saves memory.
    correction: i64,
    stopping: Option<Time>,
    /// What ends the records that are left then.
    end_reason: Reason,
    ending: bool,
    /// Something was handed to the backend in this turn.
    written: bool,
    /// The backend told of something that there is work to do for: of more than the end of a write that waits for its answer.
    stirred: bool,
    head: Vec<u8>,
    facts: Vec<LeaderFact>,
    met: Vec<TopicIx>,
    brokers: Vec<BrokerId>,
    fetching: Vec<(ConsumerIx, BrokerId)>,
    told: Vec<ShardEvent>,
    connects: u64,
    link_failures: u64,
}

impl<B: Backend, C: Clock> Shard<B, C> {
    /// A shard without producers.
    pub fn new(parts: ShardParts<B, C>) -> Self {
        let ShardParts {
            backend,
            clock,
            shard,
            sleeper,
            commands,
            events,
            snapshots,
            topics,
            budget,
            fetch_memory,
            troubles,
            settings,
            seed,
        } = parts;
        let mut rng = Rng::new(seed);
        // While records flow, memory of acknowledged batches is that of the next ones: new memory costs more than a batch.
        let pool = ChunkPool::new(settings.buffer_memory);
        let retry_backoff = BackoffRange { first: settings.retry_backoff, max: settings.retry_backoff_max };
        let produce = ProduceSettings {
            request_timeout: settings.request_timeout,
            retry_backoff,
            in_flight_max: u32::try_from(settings.max_in_flight_requests).unwrap_or(u32::MAX),
            propagation_max: settings.metadata_propagation_max,
            seed: rng.next_u64(),
        };
        let slabs = SlabPool::new(fetch_memory, sleeper.doorbell(), &commands.medium());
        let core = Core {
            now: clock.now(),
            clock,
            fresh: true,
            shard,
            events,
            snapshots,
            budget,
            connection_settings: Rc::new(ConnectionSettings::new(&settings)),
            connect_settings: ConnectSettings::new(&settings),
            socket_options: SocketOptions::new(&settings),
            produce: Produce::new(produce, pool.clone()),
            placer: Placer::new(Arc::clone(&topics), rng.next_u64()),
            topics,
            pool,
            rng,
            lanes: Lanes::default(),
            fetch: FetchLanes::new(slabs, retry_backoff, settings.receive_message_max_bytes, seed),
            links: Vec::new(),
            troubles,
            by_sock: Map::default(),
            hinted: BTreeMap::new(),
            settled: Settlements::default(),
            shares: Map::default(),
            shares_max: SHARES_KEPT_MIN,
            held_up: Vec::new(),
            paid: 0,
            correction: 0,
            stopping: None,
            end_reason: Reason::Closed,
            ending: false,
            written: false,
            stirred: false,
            head: Vec::new(),
            facts: Vec::new(),
            met: Vec::new(),
            brokers: Vec::new(),
            fetching: Vec::new(),
            told: Vec::new(),
            connects: 0,
            link_failures: 0,
        };
        Self { backend, sleeper, commands, counters: Arc::default(), core }
    }

    /// Publishes its counters there from now on, once per turn.
    pub fn publish_to(&mut self, counters: Arc<ShardCounters>) {
        self.counters = counters;
    }

    /// Takes what is there, does what is due, and waits for more (in simulations the backend's wait returns at once).
    pub fn turn(&mut self) -> Turn {
        self.turn_until(Time::NEVER, || false)
    }

    /// The same, waiting until `limit` at the latest ([`Time::ZERO`]: not at all), and not when `hurry`, asked right before
    /// the wait, says that somebody on this thread has something to do.
    pub fn turn_until(&mut self, limit: Time, hurry: impl FnOnce() -> bool) -> Turn {
        self.sleeper.turn_begins();
        self.core.begin(self.backend.now());
        let mut busy = false;
        for taken in 0..COMMANDS_PER_TURN {
            let Some(command) = self.commands.take() else { break };
            self.core.obey(command);
            busy = taken + 1 == COMMANDS_PER_TURN;
        }
        busy |= self.core.work(&mut self.backend);
        let written = std::mem::take(&mut self.core.written) && limit > self.core.now.mono;
        if written {
            // On its way before anything else is done; its completion, there at once as a rule, then ends no sleep.
            if self.turn_backend(Wait::Poll) == Turn::Stopped {
                return Turn::Stopped;
            }
            busy |= self.core.stirred;
        }
        self.tell();
        if self.core.is_over() {
            let shard = self.core.shard;
            // Control may be gone already; then nobody waits for this.
            let _ = self.core.events.send(ShardEvent::Stopped { shard });
            return Turn::Stopped;
        }
        // What is there already saves the preparation, which has a price.
        busy |= self.commands.has_items() || self.core.lanes.has_records() || self.core.fetch.has_returns();
        busy |= self.core.lanes.can_tell();
        busy |= limit <= self.core.now.mono || hurry();
        if busy && written {
            return Turn::Running;
        }
        let until = if busy { Time::ZERO } else { self.core.next_deadline().min(limit) };
        self.sleeper.prepare(until);
        let wait = match until {
            _ if busy || self.commands.has_items() || self.core.lanes.has_records() => Wait::Poll,
            _ if self.core.fetch.has_returns() || self.core.lanes.can_tell() => Wait::Poll,
            Time::NEVER => Wait::Forever,
            until if until <= self.core.now.mono => Wait::Poll,
            until => Wait::Until(until),
        };
        if self.turn_backend(wait) == Turn::Stopped {
            return Turn::Stopped;
        }
        self.tell();
        self.sleeper.waited();
        Turn::Running
    }

    /// What a backend cannot do ends the shard.
    fn turn_backend(&mut self, wait: Wait) -> Turn {
        (self.core.fresh, self.core.stirred) = (false, false);
        let Err(error) = self.backend.turn(wait, &mut self.core) else { return Turn::Running };
        let (shard, why) = (self.core.shard, format!("I/O failed: {error}"));
        self.core.end_reason = Reason::EngineFailed;
        self.core.give_up();
        self.tell();
        let _ = self.core.events.send(ShardEvent::Failed { shard, why });
        Turn::Stopped
    }

    /// Outcomes are counted before they are told: whoever knows of one finds it in [`Shard::stats`].
    fn tell(&mut self) {
        self.counters.publish(&self.stats());
        self.core.tell();
    }

    /// Ends at once, waiting for nobody: what is pending ends as failed or unknown, control is told. The backend sees to what
    /// the kernel still holds.
    pub fn abandon(mut self, why: Reason) {
        self.core.begin(self.backend.now());
        self.core.end_reason = why;
        self.core.give_up();
        self.tell();
        let shard = self.core.shard;
        // Control may be gone already; then nobody waits for this.
        let _ = self.core.events.send(ShardEvent::Stopped { shard });
    }

    /// Turns until it stops. A panic ends the shard with [`ShardEvent::Failed`], nothing else.
    pub fn run(mut self) {
        let (events, shard) = (self.core.events.clone(), self.core.shard);
        let run = AssertUnwindSafe(move || while self.turn() == Turn::Running {});
        if let Err(panic) = catch_unwind(run) {
            let words = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                (Some(words), _) => words,
                (_, Some(words)) => words.as_str(),
                _ => "without words",
            };
            let _ = events.send(ShardEvent::Failed { shard, why: format!("shard {} panicked: {words}", shard.0) });
        }
    }

    /// What it counted so far.
    pub fn stats(&self) -> ShardStats {
        let (produce, backend) = (self.core.produce.stats(), self.backend.stats());
        let (fetch_requests, fetched_bytes) = self.core.fetch.counts();
        ShardStats {
            fetch_requests,
            fetched_bytes,
            records: produce.records,
            batches: produce.batches,
            produce_requests: produce.requests,
            retries: produce.retries,
            wire_bytes: produce.wire_bytes,
            raw_bytes: produce.raw_bytes,
            delivered: produce.delivered,
            failed: produce.failed,
            unknown: produce.unknown,
            connects: self.core.connects,
            link_failures: self.core.link_failures,
            turns: backend.turns,
            syscalls: backend.syscalls,
            wakes: backend.wakes,
            sent_bytes: backend.sent_bytes,
            received_bytes: backend.received_bytes,
        }
    }
}

impl<C: Clock> Core<C> {
    fn begin(&mut self, now: Now) {
        self.now = now;
        self.fresh = true;
    }

    /// The time, read once after a wait.
    fn time(&mut self) -> Time {
        if !self.fresh {
            self.now = self.clock.now();
            self.fresh = true;
        }
        self.now.mono
    }

    fn obey(&mut self, command: ShardCommand) {
        let now = self.now.mono;
        match command {
            ShardCommand::AddProducer { producer, settings, partitioner } => {
                self.placer.add(producer, &settings, partitioner);
                self.produce.add_producer(producer, settings);
            }
            ShardCommand::AddLane(lane) => self.lanes.add(lane),
            ShardCommand::ProducerId { producer, grant } => {
                let grant = grant
                    .map(|ProducerIdGrant { id, epoch }| Ident { id, epoch })
                    .map_err(|refusal| ErrorCode::from(refusal.code));
                self.produce.on_producer_id(producer, grant, &mut self.settled);
            }
            ShardCommand::Addresses { broker, addresses } => {
                for link in self.links.iter_mut().filter(|link| link.broker == broker) {
                    link.on_addresses(now, addresses.clone(), &mut self.rng);
                }
            }
            ShardCommand::Fetch(command) => self.fetch.on_command(command, self.snapshots.get()),
            ShardCommand::SnapshotChanged => {}
            ShardCommand::Stop { deadline, why } => {
                self.stopping = Some(self.stopping.map_or(deadline, |earlier| earlier.min(deadline)));
                self.end_reason = why;
            }
        }
    }

    /// One turn's work. True when there is more to do at once.
    fn work<B: Backend>(&mut self, backend: &mut B) -> bool {
        let now = self.now.mono;
        if self.snapshots.refresh() {
            self.on_snapshot();
        }
        let more = self.take_lanes();
        if self.produce.next_deadline() <= now {
            self.produce.on_deadline(now, &mut self.settled);
        }
        self.budget.expire(now);
        // A stopping shard lingers no longer, nor one whose senders wait for memory.
        if self.stopping.is_some() {
            self.produce.hasten();
        } else if self.budget.is_pressed() {
            self.produce.pressure();
        }
        self.budget.held_up(&mut self.held_up);
        for tp in &self.held_up {
            self.produce.pressure_on(*tp);
        }
        self.end_calls(now);
        self.fetch.collect();
        self.send(now);
        self.send_fetches(now);
        self.act();
        // Before the links are driven: the turn that gives up also begins to close them, nothing else would wake it.
        self.stop_when_done(now);
        self.drive(now, backend);
        more
    }

    /// Records out of the lanes into batches. True when there may be more.
    fn take_lanes(&mut self) -> bool {
        let mut met = std::mem::take(&mut self.met);
        let drained = self.lanes.drain(self.now, LANE_BYTES_PER_TURN, &mut self.produce, &mut self.settled, &mut met);
        for topic in met.drain(..) {
            self.feed_topic(topic);
        }
        self.met = met;
        self.paid += drained.paid as i64;
        drained.more
    }

    /// Connections whose time is up: setup, an answer, idleness.
    fn end_calls(&mut self, now: Time) {
        for at in 0..self.links.len() {
            let link = &self.links[at];
            if let Some(sock) = link.sock.filter(|_| link.connection.next_deadline() <= now) {
                self.with_link(sock, |now, link, sink, _| link.connection.on_deadline(now, sink));
            }
        }
    }

    /// Requests for every broker that something is ready for, as far as its link takes them.
    fn send(&mut self, now: Time) {
        let mut brokers = std::mem::take(&mut self.brokers);
        brokers.extend(self.produce.brokers_ready());
        for broker in brokers.drain(..) {
            let Some(at) = self.produce_link(broker) else { continue };
            while self.links[at].connection.free_slots(now) > 0 {
                let Some(call) = self.produce.next_call(broker) else { break };
                self.submit(now, at, call);
            }
        }
        self.brokers = brokers;
    }

    fn submit(&mut self, now: Time, at: usize, call: CallIx) {
        let connection = &mut self.links[at].connection;
        let max = self.produce.call_version_max(call);
        let version =
            connection.versions().and_then(|have| have.pick_within(ApiKey::Produce, PRODUCE_VERSION_MIN, max));
        let Some(version) = version else {
            return self.produce.on_refused(now, call, ErrorCode::UnsupportedVersion, &mut self.settled);
        };
        let mut inserts = connection.take_inserts();
        let client_id = &self.connection_settings.client_id;
        if !self.produce.encode_call(call, version, client_id, &self.topics, &mut self.head, &mut inserts) {
            return self.produce.on_refused(now, call, ErrorCode::InvalidRequest, &mut self.settled);
        }
        let reply = if self.produce.call_is_answered(call) { ReplyMode::Whole } else { ReplyMode::None };
        let tag = u64::from(call.0);
        let call_bytes = Call { tag, api: ApiKey::Produce, version, head: &self.head, inserts, timeout: None, reply };
        if connection.submit(now, call_bytes).is_err() {
            // A free slot was there, so the frame is beyond what a frame may be; nothing was written.
            self.produce.on_refused(now, call, ErrorCode::InvalidRequest, &mut self.settled);
        }
    }

    /// Fetches and lookups for every consumer and broker, as far as their links take them.
    fn send_fetches(&mut self, now: Time) {
        if self.ending {
            return;
        }
        let mut fetching = std::mem::take(&mut self.fetching);
        fetching.extend(self.fetch.wanted());
        for (consumer, broker) in fetching.drain(..) {
            if let Some(at) = self.link(broker, Role::Fetch(consumer)) {
                self.fetch.submit(now, consumer, broker, &mut self.links[at].connection);
            }
        }
        self.fetching = fetching;
    }

    /// Where the link for a broker's Produce requests is, made at first use. None while nobody knows the broker's address.
    fn produce_link(&mut self, broker: BrokerId) -> Option<usize> {
        self.link(broker, Role::Produce)
    }

    fn link(&mut self, broker: BrokerId, role: Role) -> Option<usize> {
        let found = self.links.iter().position(|link| link.broker == broker && link.role == role);
        if found.is_some() {
            return found;
        }
        let host = self.host_of(broker)?;
        let (settings, connect) = (&self.connection_settings, self.connect_settings);
        let link = Link::new(broker, role, host, settings, connect, &self.pool, self.troubles.clone());
        // The place of a consumer that is gone is free for another one. Places don't move: sockets know theirs.
        let free = |link: &Link| match link.role {
            Role::Fetch(consumer) => link.sock.is_none() && !self.fetch.knows(consumer),
            Role::Produce => false,
        };
        match self.links.iter().position(free) {
            Some(at) => {
                self.links[at] = link;
                Some(at)
            }
            None => {
                self.links.push(link);
                Some(self.links.len() - 1)
            }
        }
    }

    fn wants(&self, link: &Link) -> bool {
        match link.role {
            Role::Produce => self.produce.wants(link.broker),
            Role::Fetch(consumer) => self.fetch.wants(consumer, link.broker),
        }
    }

    fn host_of(&self, broker: BrokerId) -> Option<HostPort> {
        let known = self.snapshots.get().broker(broker).map(|broker| (broker.host.as_str(), broker.port));
        let (host, port) = known.or_else(|| self.hinted.get(&broker).map(|(host, port)| (host.as_str(), *port)))?;
        HostPort::new(host, i32::from(port)).ok()
    }

    fn drive<B: Backend>(&mut self, now: Time, backend: &mut B) {
        for at in 0..self.links.len() {
            let wanted = self.wants(&self.links[at]) && !self.ending;
            let link = &mut self.links[at];
            if self.ending {
                link.connection.close("the engine stops");
            }
            if let Role::Fetch(consumer) = link.role
                && !self.fetch.knows(consumer)
            {
                link.connection.close("the consumer is gone");
            }
            let had = link.sock;
            let wrote = link.connection.is_writing();
            let options = SocketOptions { lands: matches!(link.role, Role::Fetch(_)), ..self.socket_options };
            let need = link.drive(now, wanted, backend, &options, &mut self.rng);
            if let Some(sock) = link.sock.filter(|sock| had != Some(*sock)) {
                self.connects += 1;
                self.by_sock.insert(sock, at);
            }
            self.written |= !wrote && link.connection.is_writing();
            let broker = link.broker;
            match need {
                Need::Nothing | Need::Failed => {}
                Need::Addresses => {
                    let (host, port) = (link.host().host().to_owned(), link.host().port());
                    self.report(ShardEvent::NeedAddresses { shard: self.shard, broker, host, port });
                }
            }
        }
    }

    /// What the produce machine wants of control.
    fn act(&mut self) {
        while let Some(action) = self.produce.next_action() {
            match action {
                Action::Refresh { topic, why } => {
                    let why = match why {
                        Stale::Unknown => MetadataReason::UnknownTopic,
                        Stale::NoLeader => MetadataReason::NoLeader,
                        Stale::NotLeader => MetadataReason::StaleLeader,
                        Stale::TopicId => MetadataReason::StaleTopicId,
                    };
                    // Known by now, when the topic was met in this turn.
                    if why != MetadataReason::UnknownTopic || !self.produce.knows(topic) {
                        self.report(ShardEvent::NeedMetadata { topics: vec![topic], why });
                    }
                }
                Action::GetProducerId { producer, previous } => {
                    let previous = previous.map(|Ident { id, epoch }| ProducerIdGrant { id, epoch });
                    self.report(ShardEvent::NeedProducerId { shard: self.shard, producer, previous });
                }
                Action::LeaderMoved { tp, leader, epoch, endpoint } => {
                    if let Some(endpoint) = &endpoint {
                        self.hinted.insert(leader, endpoint.clone());
                    }
                    self.report(ShardEvent::Leader(LeaderHint { tp, leader, epoch, endpoint }));
                }
            }
        }
        let mut told = std::mem::take(&mut self.told);
        self.fetch.deliver(&mut told);
        for event in told.drain(..) {
            if let ShardEvent::Leader(LeaderHint { leader, endpoint: Some(endpoint), .. }) = &event {
                self.hinted.insert(*leader, endpoint.clone());
            }
            self.report(event);
        }
        self.told = told;
    }

    fn report(&self, event: ShardEvent) {
        // Without control the engine is ending; a Stop is on its way.
        let _ = self.events.send(event);
    }

    fn on_snapshot(&mut self) {
        let topics: Vec<TopicIx> = self.produce.topics().collect();
        for topic in topics {
            self.feed_topic(topic);
        }
        let snapshot = Arc::clone(self.snapshots.get());
        self.fetch.on_snapshot(&snapshot);
        for link in &mut self.links {
            if let Some(broker) = snapshot.broker(link.broker) {
                self.hinted.remove(&link.broker);
                if let Ok(host) = HostPort::new(&broker.host, i32::from(broker.port)) {
                    link.move_to(host);
                }
            }
        }
    }

    /// Tells the produce machine what the snapshot says of a topic.
    fn feed_topic(&mut self, ix: TopicIx) {
        let Some(topic) = self.snapshots.get().topic(ix).cloned() else { return };
        let now = self.now.mono;
        if let TopicState::Failed(code) = topic.state {
            self.produce.fail_topic(ix, code, &mut self.settled);
        }
        if topic.error != ErrorCode::None || topic.state == TopicState::Known {
            self.produce.topic_said(ix, topic.error);
        }
        if topic.partitions.is_empty() {
            return;
        }
        let mut facts = std::mem::take(&mut self.facts);
        facts.clear();
        let fact = |p: &crate::proto::cluster::Partition| LeaderFact { leader: p.leader, epoch: p.leader_epoch };
        facts.extend(topic.partitions.iter().map(fact));
        self.produce.set_topic(now, ix, Some((topic.id, &facts)), &mut self.settled, &mut self.placer);
        self.facts = facts;
    }

    /// Hands outcomes to the lanes and freed memory to the budget.
    fn tell(&mut self) {
        if self.shares.len() > self.shares_max {
            // Their partitions are asleep: the next record brings them back.
            self.shares.retain(|_, share| !share.is_even());
            self.shares_max = SHARES_KEPT_MIN.max(2 * self.shares.len());
        }
        let placed = self.settled.shares.iter().any(|(tp, _)| tp.partition < 0);
        for (tp, bytes) in self.settled.shares.drain(..) {
            self.shares.entry(tp).or_insert_with(|| self.budget.share(tp)).adjust(bytes);
        }
        let released = std::mem::take(&mut self.settled.released) as i64;
        self.paid -= released;
        // Design §3.8: the budget counts chunks, not records: a lone record of an open batch holds 4 KiB, compressed ones
        // hold less than was paid for them.
        let held = self.pool.out_bytes() + self.produce.unplaced_bytes();
        let correction = held as i64 - self.paid;
        let change = correction - self.correction;
        if released > 0 || change.abs() >= CORRECTION_STEP_BYTES {
            self.correction = correction;
            self.budget.adjust(released - change);
        }
        if placed {
            // Who waited for that may go on, though no memory became free.
            self.budget.give_back(0);
        }
        self.lanes.settle(&mut self.settled);
    }

    fn stop_when_done(&mut self, now: Time) {
        let Some(deadline) = self.stopping else {
            self.lanes.reap();
            return;
        };
        let done = self.produce.is_settled() && !self.lanes.has_records();
        if !self.ending && (done || now >= deadline) {
            self.give_up();
        }
    }

    /// Ends every record and begins to close the links.
    fn give_up(&mut self) {
        self.ending = true;
        self.produce.stop(self.end_reason, &mut self.settled);
        // What still is in the lanes is refused by the stopped machine.
        let mut met = Vec::new();
        loop {
            let drained = self.lanes.drain(self.now, usize::MAX, &mut self.produce, &mut self.settled, &mut met);
            self.paid += drained.paid as i64;
            if !drained.more {
                break;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.ending && self.links.iter().all(|link| link.sock.is_none())
    }

    fn next_deadline(&mut self) -> Time {
        let mut next = self.produce.next_deadline().min(self.fetch.next_deadline(self.now.mono));
        for link in &self.links {
            next = next.min(link.next_deadline(self.wants(link)));
            let silent = link.connection.throttled_until();
            if silent > self.now.mono {
                next = next.min(silent);
            }
        }
        if let Some(deadline) = self.stopping.filter(|_| !self.ending) {
            next = next.min(deadline);
        }
        next.min(self.budget.expire(self.now.mono))
    }

    /// Lets a link's connection speak to the produce machine.
    fn with_link(&mut self, sock: Sock, act: impl FnOnce(Time, &mut Link, &mut LinkSink<'_>, &mut Rng)) {
        let now = self.time();
        let Some(link) = self.by_sock.get(&sock).and_then(|at| self.links.get_mut(*at)) else { return };
        let mut sink = LinkSink {
            now,
            ready: false,
            served: false,
            role: link.role,
            broker: link.broker,
            fetch: &mut self.fetch,
            produce: &mut self.produce,
            topics: &self.topics,
            settled: &mut self.settled,
        };
        act(now, link, &mut sink, &mut self.rng);
        let LinkSink { ready, served, .. } = sink;
        if ready {
            link.on_ready();
        }
        if served {
            link.on_served();
        }
    }
}
