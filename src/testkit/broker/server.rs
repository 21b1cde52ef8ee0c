//! The broker over TCP: a listener per node, a thread per connection, one lock around the core.
//!
//! ```text
//!  acceptor per node ─► connection thread: read a frame ─ lock ─ handle ─ unlock ─ one write
//!                           └ parked: waits on its own gate until woken or due, then resumes
//!  ticker: group sessions and rebalances
//! ```
//! It is a test broker: blocking sockets and one lock are enough for a few million records a second.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::{BrokerCore, Call, ConnId, Control, Outcome};
use super::counters::{CloseReason, Counters};
use super::fault::{Rule, RuleId};
use super::options::{Options, TopicSpec, Validate};
use super::record::Refusal;
use crate::base::time::{Clock, Now, SystemClock};
use crate::wire::Request;
use crate::wire::frame::FrameReader;

/// Receive buffer of a connection; larger frames get memory of their own as their bytes arrive.
const STAGE_BYTES: usize = 64 << 10;
/// Buffers beyond this are given back after a request.
const KEEP_BYTES: usize = 8 << 20;
/// How often a parked connection looks whether its client has gone.
const PEEK_EVERY: Duration = Duration::from_millis(250);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Settings of a broker to start. See [`Broker::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    options: Options,
    listen: String,
}

impl Builder {
    /// Virtual brokers.
    pub fn brokers(mut self, count: usize) -> Self {
        self.options.brokers = count.max(1);
        self
    }

    /// A topic that exists from the start.
    pub fn topic(self, name: &str, partitions: i32) -> Self {
        self.topic_with(TopicSpec::new(name, partitions))
    }

    /// A topic that exists from the start, with replication and configuration.
    pub fn topic_with(mut self, spec: TopicSpec) -> Self {
        self.options.topics.push(spec);
        self
    }

    /// Whether Metadata requests create topics.
    pub fn auto_create(mut self, on: bool) -> Self {
        self.options.auto_create = on;
        self
    }

    /// How closely produced batches are looked at.
    pub fn validate(mut self, validate: Validate) -> Self {
        self.options.validate = validate;
        self
    }

    /// `host:port` of the first node; node n listens on port + n, or each on a port of the kernel's choice for port 0.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.into();
        self
    }

    /// Changes any other setting.
    pub fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Binds all ports and starts.
    pub fn start(self) -> io::Result<Broker> {
        let (host, _) = self.listen.rsplit_once(':').ok_or_else(|| invalid("listen address is not host:port"))?;
        let host = host.trim_matches(|c| c == '[' || c == ']').to_owned();
        let first = self.listen.to_socket_addrs()?.next().ok_or_else(|| invalid("listen address does not resolve"))?;
        let mut core = BrokerCore::new(self.options).map_err(|refusal| invalid(&refusal.message))?;
        let mut listeners = Vec::new();
        for (nth, node) in core.cluster.nodes.iter_mut().enumerate() {
            let port = match first.port() {
                0 => 0,
                port => port.checked_add(nth as u16).ok_or_else(|| invalid("too many brokers for that port"))?,
            };
            let listener = TcpListener::bind(SocketAddr::new(first.ip(), port))?;
            (node.host, node.port) = (host.clone(), listener.local_addr()?.port());
            listeners.push(listener);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            request_bytes_max: core.options.request_bytes_max,
            core: Mutex::new(core),
            changed: Condvar::new(),
            ticks: Condvar::new(),
            gates: Mutex::new(BTreeMap::new()),
            listening: Mutex::default(),
            closed: Condvar::new(),
            threads: Mutex::new(Vec::new()),
            stopping: AtomicBool::new(false),
            addresses,
        });
        for (node, listener) in listeners.into_iter().enumerate() {
            shared.accept_on(node as i32, listener)?;
        }
        let ticker = Arc::clone(&shared);
        shared.spawn("broker-ticker", move || ticker.tick())?;
        Ok(Broker { shared })
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.to_owned())
}

/// Where a connection's thread waits while its request is parked, and how others reach its socket.
struct Gate {
    node: i32,
    stream: TcpStream,
    woken: Mutex<bool>,
    opened: Condvar,
    /// Set by whoever shuts the socket down, so that the thread tells the true reason.
    reason: Mutex<Option<CloseReason>>,
}

impl Gate {
    fn open(&self) {
        *lock(&self.woken) = true;
        self.opened.notify_one();
    }

    /// Waits to be woken. False: the time was up first.
    fn wait(&self, at_most: Duration) -> bool {
        let woken = lock(&self.woken);
        let (mut woken, _) =
            self.opened.wait_timeout_while(woken, at_most, |woken| !*woken).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *woken)
    }

    fn shut(&self, reason: CloseReason) {
        lock(&self.reason).get_or_insert(reason);
        let _ = self.stream.shutdown(Shutdown::Both);
        self.open();
    }
}

struct Shared {
    core: Mutex<BrokerCore>,
    /// Something happened: for tests that wait for it.
    changed: Condvar,
    /// The ticker's next deadline may have moved.
    ticks: Condvar,
    gates: Mutex<BTreeMap<ConnId, Arc<Gate>>>,
    /// Nodes with a listener, which may still be there for a moment when its node is down.
    listening: Mutex<BTreeSet<i32>>,
    /// A listener was closed.
    closed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: AtomicBool,
    addresses: Vec<SocketAddr>,
    request_bytes_max: usize,
}

fn now() -> Now {
    SystemClock.now()
}

impl Shared {
    /// Does something under the lock, then wakes whom it concerns.
    fn with<R>(&self, work: impl FnOnce(&mut BrokerCore) -> R) -> R {
        let (result, woken, timers) = {
            let mut core = lock(&self.core);
            let result = work(&mut core);
            (result, if core.has_woken() { core.take_woken() } else { Vec::new() }, core.next_deadline().is_some())
        };
        self.changed.notify_all();
        if timers {
            self.ticks.notify_all();
        }
        self.open_gates(&woken);
        result
    }

    fn open_gates(&self, woken: &[ConnId]) {
        if !woken.is_empty() {
            let gates = lock(&self.gates);
            woken.iter().filter_map(|conn| gates.get(conn)).for_each(|gate| gate.open());
        }
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    fn is_up(&self, node: i32) -> bool {
        !self.stopping.load(Ordering::Acquire) && lock(&self.core).cluster.node(node).is_some_and(|node| node.up)
    }

    fn accept_on(self: &Arc<Self>, node: i32, listener: TcpListener) -> io::Result<()> {
        let shared = Arc::clone(self);
        lock(&self.listening).insert(node);
        let spawned = self.spawn("broker-accept", move || {
            shared.accept(node, &listener);
            drop(listener);
            lock(&shared.listening).remove(&node);
            shared.closed.notify_all();
        });
        if spawned.is_err() {
            lock(&self.listening).remove(&node);
        }
        spawned
    }

    fn accept(self: &Arc<Self>, node: i32, listener: &TcpListener) {
        for stream in listener.incoming() {
            if !self.is_up(node) {
                return;
            }
            let Ok(stream) = stream else { continue };
            // A failed set-up is the client's to notice: its connection closes.
            let _ = self.connected(node, stream);
        }
    }

    fn connected(self: &Arc<Self>, node: i32, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let host = stream.peer_addr()?.ip().to_string();
        let gate = Gate {
            node,
            stream: stream.try_clone()?,
            woken: Mutex::new(false),
            opened: Condvar::new(),
            reason: Mutex::new(None),
        };
        let gate = Arc::new(gate);
        let conn = self.with(|core| core.connect(now(), node, &host));
        lock(&self.gates).insert(conn, Arc::clone(&gate));
        // The node may have been stopped since it was accepted.
        if !self.is_up(node) {
            gate.shut(CloseReason::NodeStopped);
        }
        let shared = Arc::clone(self);
        self.spawn("broker-conn", move || {
            let reason = shared.serve(conn, &gate, stream);
            let reason = lock(&gate.reason).unwrap_or(reason);
            lock(&shared.gates).remove(&conn);
            shared.with(|core| core.disconnect(now(), conn, reason));
            let _ = gate.stream.shutdown(Shutdown::Both);
        })
    }

    /// Serves a connection until it ends.
    fn serve(&self, conn: ConnId, gate: &Gate, mut stream: TcpStream) -> CloseReason {
        let mut frames = Frames::new(self.request_bytes_max);
        let mut out = Vec::new();
        loop {
            let frame = match frames.next(&mut stream) {
                Ok(frame) => frame,
                Err(reason) => return reason,
            };
            let mut outcome = self.with(|core| core.handle(now(), conn, &frame, &mut out));
            while let Outcome::Parked { until } = outcome {
                let woken = gate.wait(now().mono.until(until).min(PEEK_EVERY));
                if lock(&gate.reason).is_some() || has_gone(&stream) {
                    return CloseReason::Client;
                }
                if woken || until <= now().mono {
                    outcome = self.with(|core| core.resume(now(), conn, &mut out));
                }
            }
            frames.give_back(frame);
            if !out.is_empty() && stream.write_all(&out).is_err() {
                return CloseReason::Client;
            }
            if out.capacity() > KEEP_BYTES {
                out = Vec::new();
            }
            out.clear();
            if let Outcome::Close(reason) = outcome {
                return reason;
            }
        }
    }

    fn tick(&self) {
        let mut core = lock(&self.core);
        while !self.stopping.load(Ordering::Acquire) {
            core.tick(now());
            if core.has_woken() {
                let woken = core.take_woken();
                drop(core);
                self.open_gates(&woken);
                core = lock(&self.core);
                continue;
            }
            let pause = core.next_deadline().map_or(Duration::from_secs(3600), |deadline| now().mono.until(deadline));
            core = self.ticks.wait_timeout(core, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the accept loop of a node, whose `up` is false already: a connection wakes it.
    fn wake_acceptor(&self, node: i32) {
        if let Some(address) = usize::try_from(node).ok().and_then(|index| self.addresses.get(index)) {
            let _ = TcpStream::connect_timeout(address, Duration::from_secs(1));
        }
    }

    fn shut_connections(&self, node: Option<i32>) {
        let gates: Vec<Arc<Gate>> = lock(&self.gates).values().cloned().collect();
        let of_node = |gate: &&Arc<Gate>| node.is_none_or(|node| gate.node == node);
        gates.iter().filter(of_node).for_each(|gate| gate.shut(CloseReason::NodeStopped));
    }
}

/// Whether the peer closed its end while nobody was reading.
fn has_gone(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let restored = stream.set_nonblocking(false).is_ok();
    match peeked {
        Ok(bytes) => bytes == 0 || !restored,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock || !restored,
    }
}

/// Cuts what arrives into frames.
struct Frames {
    limits: FrameReader,
    stage: Vec<u8>,
    start: usize,
    end: usize,
    /// Memory for large frames, reused.
    large: Vec<u8>,
}

impl Frames {
    fn new(bytes_max: usize) -> Self {
        let limits = FrameReader::new(bytes_max);
        Self { limits, stage: vec![0; STAGE_BYTES], start: 0, end: 0, large: Vec::new() }
    }

    /// The next frame without its length prefix.
    fn next(&mut self, stream: &mut TcpStream) -> Result<Bytes, CloseReason> {
        loop {
            let there = &self.stage[self.start..self.end];
            if let Some(length) = self.limits.length(there).map_err(|_| CloseReason::FrameSize)? {
                let whole = length + 4;
                if there.len() >= whole {
                    let frame = Bytes::copy_from_slice(&there[4..whole]);
                    self.start += whole;
                    return Ok(frame);
                }
                if whole > STAGE_BYTES {
                    return self.next_large(stream, length);
                }
            }
            self.stage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.end += read(stream, &mut self.stage[self.end..])?;
        }
    }

    /// The rest of a frame that does not fit the stage. Memory grows with what arrived, not with what was announced.
    fn next_large(&mut self, stream: &mut TcpStream, length: usize) -> Result<Bytes, CloseReason> {
        let mut frame = std::mem::take(&mut self.large);
        let mut filled = self.end - self.start - 4;
        if frame.len() < filled {
            frame.resize(filled.max(2 * STAGE_BYTES).min(length), 0);
        }
        frame[..filled].copy_from_slice(&self.stage[self.start + 4..self.end]);
        (self.start, self.end) = (0, 0);
        while filled < length {
            if frame.len() == filled {
                frame.resize((2 * filled).min(length), 0);
            }
            let room = frame.len().min(length);
            filled += read(stream, &mut frame[filled..room])?;
        }
        Ok(Bytes::from(frame).slice(..length))
    }

    /// Takes back the memory of a large frame that nobody else holds.
    fn give_back(&mut self, frame: Bytes) {
        if frame.len() + 4 > STAGE_BYTES && frame.len() <= KEEP_BYTES && frame.is_unique() {
            self.large = Vec::from(frame);
        }
    }
}

fn read(stream: &mut TcpStream, into: &mut [u8]) -> Result<usize, CloseReason> {
    loop {
        match stream.read(into) {
            Ok(0) => return Err(CloseReason::Client),
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(CloseReason::Client),
        }
    }
}

/// A broker that runs. Stops when dropped.
pub struct Broker {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({})", self.bootstrap())
    }
}

impl Broker {
    /// A broker to be: one node on a free local port, no topics, nothing created by itself.
    pub fn builder() -> Builder {
        Builder { options: Options::default(), listen: "127.0.0.1:0".into() }
    }

    /// `host:port` of all nodes, with commas.
    pub fn bootstrap(&self) -> String {
        let core = lock(&self.shared.core);
        let nodes: Vec<String> = core.cluster.nodes.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
        nodes.join(",")
    }

    /// Where a node listens.
    pub fn address(&self, node: i32) -> Option<SocketAddr> {
        self.shared.addresses.get(usize::try_from(node).ok()?).copied()
    }

    /// Does anything to the broker's core, as one step that no request sees half done.
    pub fn with<R>(&self, work: impl FnOnce(&mut BrokerCore) -> R) -> R {
        self.shared.with(work)
    }

    /// Waits until `ready`, which is asked after every request. False: the time was up first.
    pub fn wait_until(&self, at_most: Duration, mut ready: impl FnMut(&BrokerCore) -> bool) -> bool {
        let end = Instant::now() + at_most;
        let mut core = lock(&self.shared.core);
        while !ready(&core) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            core = self.shared.changed.wait_timeout(core, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Creates a topic.
    pub fn create_topic(&self, spec: &TopicSpec) -> Result<(), Refusal> {
        self.with(|core| core.create_topic(spec))
    }

    /// Makes `to` the leader of a partition, with the next leader epoch. False: no such partition, or node, or it is down.
    pub fn move_leader(&self, topic: &str, partition: i32, to: i32) -> bool {
        self.with(|core| core.move_leader(topic, partition, to))
    }

    /// Stops a node: its port refuses, its connections close, what it led moves to replicas in step or has no leader.
    pub fn stop_node(&self, node: i32) -> bool {
        if !self.with(|core| core.set_up(node, false)) {
            return false;
        }
        self.shared.wake_acceptor(node);
        self.shared.shut_connections(Some(node));
        true
    }

    /// Starts a node that was stopped, on its old port.
    pub fn start_node(&self, node: i32) -> io::Result<()> {
        let address = self.address(node).ok_or_else(|| invalid("no such node"))?;
        if self.shared.is_up(node) {
            return Err(invalid("the node is up"));
        }
        // The old listener closes when its thread notices; until then the port is taken.
        let listening = lock(&self.shared.listening);
        let open = |nodes: &mut BTreeSet<i32>| nodes.contains(&node);
        let waited = self.shared.closed.wait_timeout_while(listening, Duration::from_secs(5), open);
        drop(waited);
        let listener = TcpListener::bind(address)?;
        if !self.with(|core| core.set_up(node, true)) {
            return Err(invalid("the node is up"));
        }
        self.shared.accept_on(node, listener)
    }

    /// Adds a fault rule.
    pub fn rule(&self, rule: Rule) -> RuleId {
        self.with(|core| core.faults.add(rule))
    }

    /// Removes a fault rule and says how often it fired.
    pub fn remove_rule(&self, rule: RuleId) -> Option<u64> {
        self.with(|core| core.faults.remove(rule))
    }

    /// A test answers requests of type `Q` itself: where the hook returns none, the broker handles them.
    pub fn control<Q: Request + 'static>(
        &self,
        hook: impl FnMut(&Call, &Q) -> Option<Control<Q::Response>> + Send + 'static,
    ) {
        self.with(|core| core.control(hook));
    }

    /// All counters as they are now.
    pub fn counters(&self) -> Counters {
        lock(&self.shared.core).counters()
    }

    /// A partition's batches as they lie in its log, oldest first.
    pub fn log(&self, topic: &str, partition: i32) -> Vec<Bytes> {
        lock(&self.shared.core).log(topic, partition)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let nodes = self.shared.addresses.len() as i32;
        (0..nodes).for_each(|node| self.shared.wake_acceptor(node));
        // Under the lock, so that the ticker cannot miss it between its check and its wait.
        drop(lock(&self.shared.core));
        self.shared.ticks.notify_all();
        loop {
            self.shared.shut_connections(None);
            let Some(thread) = lock(&self.shared.threads).pop() else { break };
            let _ = thread.join();
        }
    }
}

/// Starts a broker, tells where it listens, and serves until the process ends. What `ottla broker` is made of.
pub fn run(builder: Builder, ready: impl FnOnce(&Broker)) -> io::Result<()> {
    let broker = builder.start()?;
    ready(&broker);
    loop {
        std::thread::park();
    }
}
