//! The broker without I/O: a request's bytes go in, an answer's bytes come out, now or later. Time is an argument.
//!
//! ```text
//!  driver (TCP threads | simulated network)
//!    connect ─► conn      handle(now, conn, frame, out) ─► Answered | Parked{until} | NoAnswer | Close
//!                         resume(now, conn, out)        ─► the same, for a parked connection: at its deadline,
//!                                                          and when `take_woken` names it
//! ```
//! A connection has at most one request under way, as Kafka mutes a channel until the answer is sent; the driver hands
//! over the next frame only then. Parked connections do not block others.

use std::any::Any;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::api;
use super::api::fetch::FetchWait;
use super::cluster::{Cluster, Partition};
use super::counters::{CloseReason, ConnCount, Counters};
use super::fault::{Faults, Fired, Reaction};
use super::group::{Deposit, Groups};
use super::log::Stamp;
use super::options::{Options, TopicSpec};
use super::record::{self, Refusal};
use super::session::Sessions;
use crate::base::ids::Uuid;
use crate::base::rng::Rng;
use crate::base::time::{Now, Time};
use crate::batch::{Codec, Decompressor, Unpacked};
use crate::wire::frame::{PREFIX_BYTES, decode_request_header, encode_response};
use crate::wire::{ApiKey, ErrorCode, Reader, Request};

/// Names a connection of a broker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The answer's frame was appended to `out`: send it.
    Answered,
    /// There is no answer to this request (Produce with acks=0).
    NoAnswer,
    /// The answer comes later: call [`BrokerCore::resume`] at this time, or when the connection is woken.
    Parked {
        /// Latest time to ask again.
        until: Time,
    },
    /// Send what was appended to `out`, if anything, and close the connection.
    Close(CloseReason),
}

/// A request under way: who asks what, and the fault that was decided for it.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it is handled.
    pub now: Now,
    /// The node that was asked.
    pub node: i32,
    /// The connection it came on.
    pub conn: ConnId,
    /// The API.
    pub api: ApiKey,
    /// Version of the request, and so of the answer.
    pub version: i16,
    /// Correlation id of the request.
    pub correlation_id: i32,
    /// `client.id`.
    pub client_id: String,
    fired: Option<Fired>,
}

impl Call {
    /// The error a rule wants for this partition instead of handling it (partition -1: the whole topic).
    pub(super) fn injected(&self, topic: &str, partition: i32) -> Option<ErrorCode> {
        let fired = self.fired.as_ref()?;
        match fired.reaction {
            Reaction::Error(code) if fired.covers(topic, partition) => Some(code),
            _ => None,
        }
    }

    /// Whether a rule wants an error for some partition.
    pub(super) fn injected_any(&self) -> bool {
        matches!(self.reaction(), Some(Reaction::Error(_) | Reaction::ErrorAfter(_)))
    }

    /// The error a rule wants for the whole request instead of handling it.
    pub(super) fn injected_for_all(&self) -> Option<ErrorCode> {
        match self.fired.as_ref()?.reaction {
            Reaction::Error(code) | Reaction::ErrorAfter(code) => Some(code),
            _ => None,
        }
    }

    /// The error a rule wants for this partition although it was handled.
    pub(super) fn injected_after(&self, topic: &str, partition: i32) -> Option<ErrorCode> {
        let fired = self.fired.as_ref()?;
        match fired.reaction {
            Reaction::ErrorAfter(code) if fired.covers(topic, partition) => Some(code),
            _ => None,
        }
    }

    fn reaction(&self) -> Option<&Reaction> {
        self.fired.as_ref().map(|fired| &fired.reaction)
    }
}

/// What a test's hook does with a request.
pub enum Control<R> {
    /// Answers it.
    Answer(R),
    /// Never answers it.
    Silence,
    /// Closes the connection.
    Close,
}

type Hook<Q> = Box<dyn FnMut(&Call, &Q) -> Option<Control<<Q as Request>::Response>> + Send>;

/// What an API's handler says.
pub(super) enum Answer<R> {
    Now(R),
    Later(Wait, Time),
    Silent,
    Close(CloseReason),
}

/// What a parked connection waits for.
pub(super) enum Wait {
    /// The time at which this answer may leave.
    Frame(Vec<u8>, Option<CloseReason>),
    /// The time at which this request may be handled; `true`: its faults were decided already.
    Request(Bytes, bool),
    /// Enough bytes.
    Fetch(Box<FetchWait>),
    /// A rebalance.
    Group,
    /// Nothing: a black hole.
    Forever,
}

struct Parked {
    call: Call,
    until: Time,
    wait: Wait,
}

struct Conn {
    node: i32,
    host: String,
    count: ConnCount,
    parked: Option<Parked>,
    deaf_until: Time,
}

/// The broker's state and its one entrance.
pub struct BrokerCore {
    /// What it was started with.
    pub options: Options,
    /// Nodes and topics.
    pub cluster: Cluster,
    /// Fault rules.
    pub faults: Faults,
    pub(super) counters: Counters,
    pub(super) sessions: BTreeMap<i32, Sessions>,
    pub(super) groups: Groups,
    decompressor: Decompressor,
    inflated: Unpacked,
    pub(super) rng: Rng,
    pub(super) next_producer_id: i64,
    /// transactional.id → (producer id, epoch).
    pub(super) transactional_ids: BTreeMap<String, (i64, i16)>,
    hooks: BTreeMap<i16, Box<dyn Any + Send>>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    woken: Vec<ConnId>,
    watchers: BTreeMap<(Uuid, i32), Vec<ConnId>>,
    deposits: BTreeMap<ConnId, Deposit>,
    stored_bytes: u64,
    segments_born: u64,
}

impl BrokerCore {
    /// A cluster with the topics of `options`; an error names the one that cannot be.
    pub fn new(options: Options) -> Result<Self, Refusal> {
        let mut core = Self {
            cluster: Cluster::new(&options),
            faults: Faults::new(options.seed),
            counters: Counters::default(),
            sessions: BTreeMap::new(),
            groups: Groups::default(),
            decompressor: Decompressor::new(options.decompressed_bytes_max),
            inflated: Unpacked::new(),
            rng: Rng::new(options.seed ^ 0x6E0),
            next_producer_id: 1000,
            transactional_ids: BTreeMap::new(),
            hooks: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            woken: Vec::new(),
            watchers: BTreeMap::new(),
            deposits: BTreeMap::new(),
            stored_bytes: 0,
            segments_born: 0,
            options,
        };
        for spec in core.options.topics.clone() {
            core.create_topic(&spec)?;
        }
        Ok(core)
    }

    // Connections.

    /// A client connected to `node` from `host`.
    pub fn connect(&mut self, now: Now, node: i32, host: &str) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let count = ConnCount { id: id.0, node, opened: now.mono, ..ConnCount::default() };
        let conn = Conn { node, host: host.into(), count, parked: None, deaf_until: Time::ZERO };
        self.conns.insert(id, conn);
        self.counters.opened();
        id
    }

    /// A connection ended. Says whether it was still known.
    pub fn disconnect(&mut self, now: Now, conn: ConnId, reason: CloseReason) -> bool {
        self.unwatch(conn);
        self.deposits.remove(&conn);
        let Some(gone) = self.conns.remove(&conn) else { return false };
        self.counters.closed(gone.count, reason);
        if let Some(Parked { wait: Wait::Group, .. }) = gone.parked {
            self.groups.disconnected(conn, now);
        }
        true
    }

    /// Open connections to `node`.
    pub fn connections_of(&self, node: i32) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, conn)| conn.node == node).map(|(id, _)| *id).collect()
    }

    pub(super) fn host_of(&self, conn: ConnId) -> String {
        self.conns.get(&conn).map(|conn| conn.host.clone()).unwrap_or_default()
    }

    pub(super) fn set_software(&mut self, conn: ConnId, software: String) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.count.software = software;
        }
    }

    // Requests.

    /// Handles one request frame, without its length prefix.
    pub fn handle(&mut self, now: Now, conn: ConnId, frame: &Bytes, out: &mut Vec<u8>) -> Outcome {
        let Some(state) = self.conns.get(&conn) else { return Outcome::Close(CloseReason::Client) };
        if state.deaf_until > now.mono {
            let until = state.deaf_until;
            let call = self.call(now, conn, ApiKey::ApiVersions, 0, 0, String::new());
            return self.park(call, Wait::Request(frame.clone(), false), until);
        }
        self.handle_frame(now, conn, frame, false, out)
    }

    fn call(&self, now: Now, conn: ConnId, api: ApiKey, version: i16, correlation_id: i32, client_id: String) -> Call {
        let node = self.conns.get(&conn).map_or(-1, |conn| conn.node);
        Call { now, node, conn, api, version, correlation_id, client_id, fired: None }
    }

    fn handle_frame(&mut self, now: Now, conn: ConnId, frame: &Bytes, decided: bool, out: &mut Vec<u8>) -> Outcome {
        // Key and version come first: they decide how the rest of the header is read.
        let [key_0, key_1, version_0, version_1, ..] = frame[..] else { return Outcome::Close(CloseReason::Malformed) };
        let (key, version) = (i16::from_be_bytes([key_0, key_1]), i16::from_be_bytes([version_0, version_1]));
        let served = ApiKey::try_from(key).ok().and_then(|api| Some((api, api::served(api)?)));
        let Some((api, versions)) = served else { return Outcome::Close(CloseReason::UnknownApi) };
        if !versions.contains(version) && api != ApiKey::ApiVersions {
            return Outcome::Close(CloseReason::UnknownVersion);
        }
        let mut body = Reader::shared(frame);
        let Ok((_, header)) = decode_request_header(&mut body) else { return Outcome::Close(CloseReason::Malformed) };
        if !decided {
            let count = self.counters.apis.entry(api as i16).or_default();
            count.requests += 1;
            count.request_bytes += frame.len() as u64;
            *count.versions.entry(version).or_default() += 1;
        }
        let client_id = header.client_id.unwrap_or_default();
        if let (false, Some(conn)) = (decided, self.conns.get_mut(&conn)) {
            *conn.count.requests.entry(api as i16).or_default() += 1;
            if conn.count.client_id != client_id {
                conn.count.client_id.clone_from(&client_id);
            }
        }
        let call = self.call(now, conn, api, version, header.correlation_id, client_id);
        if !versions.contains(version) {
            // KIP-511: the answer is in version 0, so that any client can read it.
            let call = Call { version: 0, ..call };
            let answer = api::api_versions::unsupported(self);
            return self.finish(call, Answer::Now(answer), |_, _| {}, out);
        }
        api::dispatch(self, call, frame, body, decided, out)
    }

    /// Decodes, asks rules and hook, handles and answers one request of type `Q`.
    pub(super) fn run<Q: api::Served>(
        &mut self,
        mut call: Call,
        frame: &Bytes,
        mut body: Reader<'_>,
        decided: bool,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let request = match Q::decode(call.version, &mut body).and_then(|request| body.finish().map(|()| request)) {
            Ok(request) => request,
            Err(_) => return Outcome::Close(CloseReason::Malformed),
        };
        if !decided && !self.faults.is_empty() {
            let named = request.named(&self.cluster);
            call.fired = self.faults.fire(call.api, call.node, &named);
        }
        if let Some(reaction) = call.reaction() {
            *self.counters.faults.entry(reaction.name()).or_default() += 1;
            match *reaction {
                Reaction::DropBefore => return Outcome::Close(CloseReason::Fault),
                Reaction::BlackHole => return self.park(call, Wait::Forever, Time::NEVER),
                Reaction::Delay(delay) => {
                    let until = call.now.mono + delay;
                    return self.park(call, Wait::Request(frame.clone(), true), until);
                }
                _ => {}
            }
        }
        let hook = self.hooks.get_mut(&(call.api as i16)).and_then(|hook| hook.downcast_mut::<Hook<Q>>());
        let answer = match hook.and_then(|hook| hook(&call, &request)) {
            Some(Control::Answer(response)) => Answer::Now(response),
            Some(Control::Silence) => Answer::Later(Wait::Forever, Time::NEVER),
            Some(Control::Close) => Answer::Close(CloseReason::Fault),
            None => Q::serve(self, &call, request),
        };
        self.finish(call, answer, Q::throttle, out)
    }

    /// Turns a handler's answer into bytes or a parked connection, and lets the rule that fired spoil it.
    fn finish<R: crate::wire::Response>(
        &mut self,
        call: Call,
        answer: Answer<R>,
        throttle: fn(&mut R, i32),
        out: &mut Vec<u8>,
    ) -> Outcome {
        let mut response = match answer {
            Answer::Now(response) => response,
            Answer::Later(wait, until) => return self.park(call, wait, until),
            Answer::Silent => return Outcome::NoAnswer,
            Answer::Close(reason) => return Outcome::Close(reason),
        };
        if let Some(Reaction::Throttle(time)) = call.reaction() {
            throttle(&mut response, i32::try_from(time.as_millis()).unwrap_or(i32::MAX));
            if let Some(conn) = self.conns.get_mut(&call.conn) {
                conn.deaf_until = call.now.mono + *time;
            }
        }
        let start = out.len();
        if encode_response(call.version, call.correlation_id, &response, out).is_err() {
            return Outcome::Close(CloseReason::BrokerFault);
        }
        let count = self.counters.apis.entry(call.api as i16).or_default();
        count.answers += 1;
        count.answer_bytes += (out.len() - start - PREFIX_BYTES) as u64;
        let len = out.len() - start;
        match call.reaction() {
            Some(Reaction::DropAfter) => {
                out.truncate(start);
                Outcome::Close(CloseReason::Fault)
            }
            Some(Reaction::Truncate(bytes)) => {
                out.truncate(start + len.min(*bytes));
                Outcome::Close(CloseReason::Fault)
            }
            Some(Reaction::FlipBit(at)) => {
                let at = if *at < 0 { len.checked_add_signed(*at) } else { usize::try_from(*at).ok() };
                if let Some(byte) = at.and_then(|at| out.get_mut(start + at)) {
                    *byte ^= 1;
                }
                Outcome::Answered
            }
            Some(Reaction::WrongCorrelation) => {
                out[start + PREFIX_BYTES] ^= 0x40;
                Outcome::Answered
            }
            Some(Reaction::DelayAnswer(delay)) => {
                let until = call.now.mono + *delay;
                let frame = out.split_off(start);
                self.park(call, Wait::Frame(frame, None), until)
            }
            _ => Outcome::Answered,
        }
    }

    fn park(&mut self, call: Call, wait: Wait, until: Time) -> Outcome {
        let conn = call.conn;
        if let Wait::Fetch(wait) = &wait {
            for key in wait.watched() {
                self.watchers.entry(key).or_default().push(conn);
            }
        }
        if let Some(state) = self.conns.get_mut(&conn) {
            state.parked = Some(Parked { call, until, wait });
        }
        // A rebalance may have ended while its request was being handled.
        if self.deposits.contains_key(&conn) {
            self.woken.push(conn);
        }
        Outcome::Parked { until }
    }

    fn unwatch(&mut self, conn: ConnId) {
        let Some(Parked { wait: Wait::Fetch(wait), .. }) = self.conns.get(&conn).and_then(|conn| conn.parked.as_ref())
        else {
            return;
        };
        for key in wait.watched() {
            if let Some(waiting) = self.watchers.get_mut(&key) {
                waiting.retain(|other| *other != conn);
                if waiting.is_empty() {
                    self.watchers.remove(&key);
                }
            }
        }
    }

    /// Asks again for the answer of a parked connection.
    pub fn resume(&mut self, now: Now, conn: ConnId, out: &mut Vec<u8>) -> Outcome {
        let Some(state) = self.conns.get(&conn) else { return Outcome::Close(CloseReason::Client) };
        let Some(parked) = &state.parked else { return Outcome::NoAnswer };
        let (until, due) = (parked.until, parked.until <= now.mono);
        let ready = match &parked.wait {
            Wait::Frame(..) | Wait::Request(..) => due,
            Wait::Fetch(wait) => due || wait.is_ready(self),
            Wait::Group => self.deposits.contains_key(&conn),
            Wait::Forever => false,
        };
        if !ready {
            return Outcome::Parked { until };
        }
        self.unwatch(conn);
        let Some(Parked { mut call, wait, .. }) = self.conns.get_mut(&conn).and_then(|conn| conn.parked.take()) else {
            return Outcome::NoAnswer;
        };
        call.now = now;
        match wait {
            Wait::Frame(frame, close) => {
                out.extend_from_slice(&frame);
                close.map_or(Outcome::Answered, Outcome::Close)
            }
            Wait::Request(frame, decided) => self.handle_frame(now, conn, &frame, decided, out),
            Wait::Fetch(wait) => {
                let answer = wait.complete(self, &call);
                self.finish(call, Answer::Now(answer), |r, ms| r.throttle_time_ms = ms, out)
            }
            Wait::Group => match self.deposits.remove(&conn) {
                Some(Deposit::Join(answer)) => {
                    self.finish(call, Answer::Now(answer), |r, ms| r.throttle_time_ms = ms, out)
                }
                Some(Deposit::Sync(answer)) => {
                    self.finish(call, Answer::Now(answer), |r, ms| r.throttle_time_ms = ms, out)
                }
                None => Outcome::Parked { until },
            },
            Wait::Forever => Outcome::Parked { until },
        }
    }

    /// Connections to [`BrokerCore::resume`] because something they wait for may have happened.
    pub fn take_woken(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.woken)
    }

    /// Whether [`BrokerCore::take_woken`] has something.
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// The next time at which [`BrokerCore::tick`] has something to do: group timers. Parked requests have their own.
    pub fn next_deadline(&self) -> Option<Time> {
        self.groups.next_deadline()
    }

    /// Ends what is due: sessions of group members, rebalances.
    pub fn tick(&mut self, now: Now) {
        let deposits = self.groups.tick(now);
        self.deposit_all(deposits);
    }

    pub(super) fn deposit_all(&mut self, deposits: Vec<(ConnId, Deposit)>) {
        for (conn, deposit) in deposits {
            if self.conns.contains_key(&conn) {
                self.deposits.insert(conn, deposit);
                self.woken.push(conn);
            }
        }
    }

    // What tests and handlers do to the cluster.

    /// A test answers requests of type `Q` itself: where the hook returns none, the broker handles them.
    pub fn control<Q: Request + 'static>(
        &mut self,
        hook: impl FnMut(&Call, &Q) -> Option<Control<Q::Response>> + Send + 'static,
    ) {
        let hook: Hook<Q> = Box::new(hook);
        self.hooks.insert(Q::KEY as i16, Box::new(hook));
    }

    /// Ends a [`BrokerCore::control`].
    pub fn uncontrol(&mut self, api: ApiKey) {
        self.hooks.remove(&(api as i16));
    }

    /// All counters as they are now, open connections included.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.connections.extend(self.conns.values().map(|conn| conn.count.clone()));
        counters
    }

    /// Counts an answered error and gives its number.
    pub(super) fn error(&mut self, call: &Call, code: ErrorCode) -> i16 {
        if !code.is_none() {
            *self.counters.errors.entry((call.api as i16, code.code())).or_default() += 1;
        }
        code.code()
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, spec: &TopicSpec) -> Result<(), Refusal> {
        self.cluster.create_topic(spec, None, &self.options, false)
    }

    /// Deletes a topic and its records; fetches that wait for it are answered.
    pub fn delete_topic(&mut self, name: &str) -> bool {
        self.wake_topic(name);
        match self.cluster.delete_topic(name) {
            Some(bytes) => {
                self.stored_bytes -= bytes;
                true
            }
            None => false,
        }
    }

    /// Makes node `to` the leader of a partition, with the next leader epoch.
    pub fn move_leader(&mut self, topic: &str, partition: i32, to: i32) -> bool {
        self.wake(topic, partition);
        self.cluster.move_leader(topic, partition, to)
    }

    /// Stops or starts a node. The driver closes or opens its sockets.
    pub fn set_up(&mut self, node: i32, up: bool) -> bool {
        let changed = self.cluster.set_up(node, up);
        if changed {
            let all: Vec<String> = self.cluster.topics.keys().cloned().collect();
            all.iter().for_each(|topic| self.wake_topic(topic));
            self.sessions.remove(&node);
        }
        changed
    }

    /// Loses the records of a partition from `offset` on, with a new leader epoch, as an unclean election does.
    pub fn truncate(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        self.wake(topic, partition);
        let Some(state) = self.cluster.partition_mut(topic, partition) else { return false };
        self.stored_bytes -= state.log.truncate(offset);
        state.producers.truncate(offset);
        state.leader_epoch += 1;
        state.log.start_epoch(state.leader_epoch);
        true
    }

    /// Moves a partition's log start, as DeleteRecords and retention do. Returns the new log start offset.
    pub fn delete_records(&mut self, topic: &str, partition: i32, before: i64) -> Option<i64> {
        let state = self.cluster.partition_mut(topic, partition)?;
        let freed = state.log.delete_before(before);
        self.stored_bytes -= freed;
        self.counters.bytes_dropped += freed;
        let start = state.log.start_offset();
        self.wake(topic, partition);
        Some(start)
    }

    /// Puts a batch into a log as it is, unchecked, its first record at `at` or at the end if that is further: what producers
    /// cannot write, as markers, batches that compaction thinned out and gaps between them, damaged or forged ones. False
    /// for what is no batch header at all.
    pub fn plant(&mut self, topic: &str, partition: i32, at: i64, batch: &[u8]) -> bool {
        let born = self.next_born();
        let Some(state) = self.cluster.partition_mut(topic, partition) else { return false };
        let Some(max_timestamp) = record::max_timestamp(batch) else { return false };
        let leader_epoch = state.leader_epoch;
        state.log.skip_to(at);
        state.log.append(batch, Stamp { leader_epoch, append_time_ms: None, max_timestamp, born });
        self.appended(topic, partition, batch.len() as u64);
        self.wake(topic, partition);
        true
    }

    /// Forgets the producers of a partition, as `producer.id.expiration.ms` does.
    pub fn forget_producers(&mut self, topic: &str, partition: i32) -> bool {
        self.cluster.partition_mut(topic, partition).map(|state| state.producers.clear()).is_some()
    }

    /// Forgets all fetch sessions of a node.
    pub fn forget_sessions(&mut self, node: i32) {
        self.sessions.remove(&node);
    }

    /// A partition's batches as they lie in its log, oldest first.
    pub fn log(&self, topic: &str, partition: i32) -> Vec<Bytes> {
        let state = self.cluster.partition(topic, partition);
        state.map(|state| state.log.batches().map(|(_, bytes)| bytes).collect()).unwrap_or_default()
    }

    /// Bytes of batches kept by all nodes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    pub(super) fn wake_topic(&mut self, topic: &str) {
        let count = self.cluster.topics.get(topic).map_or(0, |topic| topic.partitions.len());
        (0..count).for_each(|partition| self.wake(topic, partition as i32));
    }

    /// Wakes the fetches that wait for a partition.
    pub(super) fn wake(&mut self, topic: &str, partition: i32) {
        let Some(topic) = self.cluster.topics.get(topic) else { return };
        if let Some(waiting) = self.watchers.get(&(topic.id, partition)) {
            self.woken.extend(waiting.iter().copied());
        }
    }

    /// Accounts for appended bytes and drops what retention no longer keeps.
    pub(super) fn appended(&mut self, topic: &str, partition: i32, bytes: u64) {
        self.stored_bytes += bytes;
        let own_limit = self.cluster.topics.get(topic).and_then(|topic| topic.settings.retention_bytes);
        if let (Some(limit), Some(state)) = (own_limit, self.cluster.partition_mut(topic, partition)) {
            let mut freed = 0;
            // As Kafka: a segment goes when what stays is still at least `retention.bytes`.
            while state.log.oldest_bytes().is_some_and(|oldest| state.log.bytes() - oldest >= limit.max(1)) {
                freed += state.log.drop_oldest();
            }
            self.stored_bytes -= freed;
            self.counters.bytes_dropped += freed;
        }
        let cap = self.options.retention_bytes_per_broker.saturating_mul(self.cluster.nodes.len() as u64);
        while self.stored_bytes > cap {
            let all = self.cluster.topics.values_mut().flat_map(|topic| topic.partitions.iter_mut());
            let aged = all.filter_map(|state: &mut Partition| Some((state.log.oldest_born()?, state)));
            let Some((_, oldest)) = aged.min_by_key(|(born, _)| *born) else { break };
            let freed = oldest.log.drop_oldest();
            if freed == 0 {
                break;
            }
            self.stored_bytes -= freed;
            self.counters.bytes_dropped += freed;
        }
    }

    /// Decompresses a batch's payload into the broker's scratch memory.
    pub(super) fn inflate(&mut self, codec: Codec, payload: &[u8]) -> Result<&[u8], Refusal> {
        self.inflated.clear();
        let done = self.decompressor.decompress(codec, 2, payload, &mut self.inflated);
        // Kafka is surprised by this while it iterates, and answers so.
        done.map_err(|error| Refusal::new(ErrorCode::UnknownServerError, error.to_string()))?;
        Ok(self.inflated.bytes())
    }

    /// An age for a segment that may be opened now.
    pub(super) fn next_born(&mut self) -> u64 {
        self.segments_born += 1;
        self.segments_born
    }

    /// The partition as `node` may serve it to a client that believes in `epoch` (-1: does not say).
    /// `follower_ok`: a replica that does not lead may serve it too (KIP-392).
    pub(super) fn served_partition(
        &self,
        node: i32,
        topic: &str,
        partition: i32,
        epoch: i32,
        follower_ok: bool,
    ) -> Result<&Partition, ErrorCode> {
        let state = self.cluster.partition(topic, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !state.replicas.contains(&node) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        if epoch >= 0 && epoch < state.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if epoch > state.leader_epoch {
            return Err(ErrorCode::UnknownLeaderEpoch);
        }
        let serves = state.leader == node || (follower_ok && state.isr.contains(&node));
        if serves { Ok(state) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }
}
