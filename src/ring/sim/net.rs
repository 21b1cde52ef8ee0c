//! The virtual network: listeners, and connections made of two pipes with latency and faults.
//!
//! ```text
//!   client end ── pipe: segments, each due at a time, FIFO ──► server end      one schedule, one seed
//!              ◄─ pipe ───────────────────────────────────────
//! ```
//! Within a pipe order is kept; between connections anything goes. A pipe takes bytes until its window is full, as a socket
//! buffer does. What was written is cut into segments at random places, each with its own latency. There is no background
//! activity: bytes are there once their time has come, and whoever reads next has a turn scheduled for that time.
//!
//! Faults come by rate ([`Rates`]) from the seed, or by order (`reset`, `hold`, `refuse`); each occurrence is counted in the
//! schedule. A *held* connection is a black hole: everything is kept, nothing arrives, nobody is told, as when packets are
//! dropped; released, it delivers what TCP would have retransmitted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::schedule::{Party, Schedule};
use crate::base::time::Time;

/// Latency and the rates of random faults. A rate is a number of ten thousand.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// One-way latency of a segment, from and to.
    pub latency: (Duration, Duration),
    /// Bytes that a pipe holds before its writer must wait.
    pub window_bytes: usize,
    /// Writes cut into several segments.
    pub fragment: u64,
    /// Connection attempts that are refused.
    pub refuse: u64,
    /// Writes during which the connection is reset, after a random part of the bytes.
    pub cut: u64,
    /// Writes that arrive only after up to [`Rates::stall_max`], and everything behind them.
    pub stall: u64,
    /// Longest stall.
    pub stall_max: Duration,
    /// Writes from which on the connection is held for good, until somebody gives it up.
    pub black_hole: u64,
}

impl Rates {
    /// 50 us each way, no faults.
    pub const fn calm() -> Self {
        let latency = Duration::from_micros(50);
        Self {
            latency: (latency, latency),
            window_bytes: 256 << 10,
            fragment: 0,
            refuse: 0,
            cut: 0,
            stall: 0,
            stall_max: Duration::ZERO,
            black_hole: 0,
        }
    }

    /// Uneven latency, fragments, stalls up to 2 s, refused and reset connections, now and then a black hole.
    pub const fn rough() -> Self {
        Self {
            latency: (Duration::from_micros(20), Duration::from_millis(5)),
            window_bytes: 64 << 10,
            fragment: 3_000,
            refuse: 500,
            cut: 30,
            stall: 50,
            stall_max: Duration::from_secs(2),
            black_hole: 5,
        }
    }
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadResult {
    /// This many bytes, at least 1.
    Data(usize),
    /// Nothing now. The party has a turn when there is.
    Pending,
    /// The peer has ended its direction, and everything before was read.
    Ended,
    /// The connection was reset. Nothing more can be read or written.
    Reset,
}

/// The network. Cheap to clone; used from one thread.
#[derive(Clone)]
pub struct Network {
    core: Arc<Mutex<Core>>,
    schedule: Schedule,
}

struct Core {
    rates: Rates,
    listeners: BTreeMap<SocketAddr, Listener>,
    refused: BTreeSet<SocketAddr>,
    held: BTreeSet<SocketAddr>,
    conns: BTreeMap<u64, Conn>,
    /// Connections started, by where to.
    attempts: BTreeMap<SocketAddr, u64>,
    next_conn: u64,
    next_port: u16,
}

struct Listener {
    party: Party,
    backlog: VecDeque<(Time, u64)>,
}

struct Conn {
    /// What the client connected to.
    address: SocketAddr,
    client: SocketAddr,
    /// The client's view of the attempt.
    attempt: Attempt,
    /// Held: nothing arrives.
    held: bool,
    /// Reset: nothing sent from now on arrives, also while the sides do not know it yet.
    broken: bool,
    /// Client, server.
    ends: [End; 2],
    /// From the client, from the server.
    pipes: [Pipe; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Answered at this time.
    Accepted(Time),
    Refused(Time),
    /// Nobody will ever answer.
    Silent,
}

struct End {
    party: Party,
    /// Closed by its own side.
    closed: bool,
    /// Resets are seen from this time on.
    reset: Option<Time>,
}

#[derive(Default)]
struct Pipe {
    segments: VecDeque<(Time, VecDeque<u8>)>,
    buffered: usize,
    /// Nothing may arrive before what was sent earlier.
    last_due: Time,
    /// The writer has ended; seen after all segments.
    ended: Option<Time>,
    /// The writer found the window full.
    blocked: bool,
}

/// One end of one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EndId {
    conn: u64,
    /// 0: the client's, 1: the server's.
    side: u8,
}

impl EndId {
    fn me(self) -> usize {
        usize::from(self.side)
    }
    fn peer(self) -> usize {
        1 - self.me()
    }
}

/// What became of a connection attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connecting {
    /// Not known yet.
    Pending,
    /// Established.
    Connected,
    /// Refused by the other host.
    Refused,
}

impl Network {
    /// A network without hosts.
    pub fn new(schedule: Schedule, rates: Rates) -> Self {
        let core = Core {
            rates,
            listeners: BTreeMap::new(),
            refused: BTreeSet::new(),
            held: BTreeSet::new(),
            conns: BTreeMap::new(),
            attempts: BTreeMap::new(),
            next_conn: 0,
            next_port: 49_152,
        };
        Self { core: Arc::new(Mutex::new(core)), schedule }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The schedule it runs on.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Latency and fault rates from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// Latency and fault rates now.
    pub fn rates(&self) -> Rates {
        self.lock().rates
    }

    /// Accepts connections to `address` for `party`. Port 0 picks a free one.
    pub fn listen(&self, mut address: SocketAddr, party: Party) -> io::Result<SocketAddr> {
        let mut core = self.lock();
        while address.port() == 0 || (core.listeners.contains_key(&address) && address.port() >= 49_152) {
            address.set_port(core.next_port);
            core.next_port = core.next_port.checked_add(1).unwrap_or(49_152);
        }
        if core.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        core.listeners.insert(address, Listener { party, backlog: VecDeque::new() });
        Ok(address)
    }

    /// Stops accepting. Connections that exist, also those not accepted yet, are reset when `reset`.
    pub fn stop_listening(&self, address: SocketAddr, reset: bool) {
        let backlog = self.lock().listeners.remove(&address).map(|listener| listener.backlog).unwrap_or_default();
        for (_, conn) in backlog {
            self.reset_conn(conn);
        }
        if reset {
            self.reset(address);
        }
    }

    /// The oldest connection to `address` that is waiting: the server's end.
    pub fn accept(&self, address: SocketAddr) -> Option<(EndId, SocketAddr)> {
        let mut core = self.lock();
        let now = self.schedule.time();
        let listener = core.listeners.get_mut(&address)?;
        let (due, conn) = *listener.backlog.front()?;
        if due > now {
            return None;
        }
        listener.backlog.pop_front();
        let client = core.conns.get(&conn).map(|conn| conn.client)?;
        self.schedule.trace(conn);
        Some((EndId { conn, side: 1 }, client))
    }

    /// Starts a connection to `address`.
    pub fn connect(&self, address: SocketAddr, party: Party) -> EndId {
        let now = self.schedule.time();
        let mut core = self.lock();
        *core.attempts.entry(address).or_default() += 1;
        let there = now + self.schedule.duration(core.rates.latency);
        let back = there + self.schedule.duration(core.rates.latency);
        let refused = core.refused.contains(&address)
            || !core.listeners.contains_key(&address)
            || self.schedule.strikes(core.rates.refuse, "connections refused");
        let held = core.held.contains(&address);
        let id = core.next_conn;
        core.next_conn += 1;
        let port = core.next_port;
        core.next_port = core.next_port.checked_add(1).unwrap_or(49_152);
        let attempt = match (held, refused) {
            (true, _) => Attempt::Silent,
            (false, true) => Attempt::Refused(back),
            (false, false) => Attempt::Accepted(back),
        };
        let mut server = party;
        if let Attempt::Accepted(_) = attempt
            && let Some(listener) = core.listeners.get_mut(&address)
        {
            listener.backlog.push_back((there, id));
            // Arrival times in the backlog need not be sorted; the queue is. Nobody is accepted before who came first.
            let latest = listener.backlog.iter().map(|(due, _)| *due).max().unwrap_or(there);
            if let Some(last) = listener.backlog.back_mut() {
                last.0 = latest;
            }
            server = listener.party;
            self.schedule.wake_at(server, latest);
        }
        if attempt != Attempt::Silent {
            self.schedule.wake_at(party, back);
        }
        let end = |party| End { party, closed: false, reset: None };
        let client = SocketAddr::new([127, 0, 0, 1].into(), port);
        let ends = [end(party), end(server)];
        core.conns.insert(
            id,
            Conn { address, client, attempt, held, broken: false, ends, pipes: [Pipe::default(), Pipe::default()] },
        );
        EndId { conn: id, side: 0 }
    }

    /// How often somebody tried to connect to `address`, whatever became of it.
    pub fn attempts(&self, address: SocketAddr) -> u64 {
        self.lock().attempts.get(&address).copied().unwrap_or(0)
    }

    /// What became of [`Network::connect`].
    pub fn connecting(&self, end: EndId) -> Connecting {
        let now = self.schedule.time();
        match self.lock().conns.get(&end.conn).map(|conn| conn.attempt) {
            Some(Attempt::Accepted(at)) if at <= now => Connecting::Connected,
            Some(Attempt::Refused(at)) if at <= now => Connecting::Refused,
            Some(_) => Connecting::Pending,
            None => Connecting::Refused,
        }
    }

    /// Writes as much as the window takes and says how much. 0: the party has a turn when there is room. An error: reset,
    /// or ended by this side.
    pub fn write(&self, end: EndId, bytes: &[u8]) -> io::Result<usize> {
        let now = self.schedule.time();
        let mut core = self.lock();
        let rates = core.rates;
        let Some(conn) = core.conns.get_mut(&end.conn) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        if conn.ends[end.me()].reset.is_some_and(|at| at <= now) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let peer_closed = conn.ends[end.peer()].closed;
        let reader = conn.ends[end.peer()].party;
        let pipe = &mut conn.pipes[end.me()];
        if pipe.ended.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut count = bytes.len().min(rates.window_bytes.saturating_sub(pipe.buffered));
        if count < bytes.len() {
            pipe.blocked = true;
        }
        if count == 0 {
            return Ok(0);
        }
        if peer_closed {
            // The other host answers with a reset, a round trip later.
            let at = now + self.schedule.duration(rates.latency) + self.schedule.duration(rates.latency);
            conn.ends[end.me()].reset.get_or_insert(at);
            self.schedule.wake_at(conn.ends[end.me()].party, at);
            return Ok(count);
        }
        if conn.broken {
            return Ok(count);
        }
        let taken = count;
        let cut = self.schedule.strikes(rates.cut, "connections cut while writing");
        if cut {
            count = self.schedule.below(count as u64 + 1) as usize;
        }
        let mut earliest = now;
        if self.schedule.strikes(rates.stall, "writes stalled") {
            earliest = now + self.schedule.duration((Duration::from_millis(1), rates.stall_max));
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let mut len = rest.len();
            if len > 1 && self.schedule.strikes(rates.fragment, "writes fragmented") {
                len = 1 + self.schedule.below(len as u64 - 1) as usize;
            }
            let due = (earliest + self.schedule.duration(rates.latency)).max(pipe.last_due);
            pipe.last_due = due;
            pipe.buffered += len;
            self.schedule.trace(due.0 ^ (len as u64) << 40);
            if !conn.held {
                self.schedule.wake_at(reader, due);
            }
            // Small fragments share a segment when they arrive together anyway.
            match pipe.segments.back_mut() {
                Some((last, bytes)) if *last == due => bytes.extend(&rest[..len]),
                _ => pipe.segments.push_back((due, rest[..len].iter().copied().collect())),
            }
            rest = &rest[len..];
        }
        if !cut && self.schedule.strikes(rates.black_hole, "connections held for good") {
            conn.held = true;
        }
        drop(core);
        if cut {
            self.reset_conn(end.conn);
        }
        Ok(taken)
    }

    /// Reads what has arrived.
    pub fn read(&self, end: EndId, into: &mut [u8]) -> ReadResult {
        let now = self.schedule.time();
        let mut core = self.lock();
        let latency = core.rates.latency;
        let Some(conn) = core.conns.get_mut(&end.conn) else { return ReadResult::Reset };
        if conn.ends[end.me()].reset.is_some_and(|at| at <= now) {
            return ReadResult::Reset;
        }
        if conn.held {
            return ReadResult::Pending;
        }
        let writer = conn.ends[end.peer()].party;
        let pipe = &mut conn.pipes[end.peer()];
        let mut count = 0;
        while count < into.len()
            && let Some((due, bytes)) = pipe.segments.front_mut()
            && *due <= now
        {
            let (front, _) = bytes.as_slices();
            let len = front.len().min(into.len() - count);
            into[count..count + len].copy_from_slice(&front[..len]);
            bytes.drain(..len);
            count += len;
            if bytes.is_empty() {
                pipe.segments.pop_front();
            }
        }
        pipe.buffered -= count;
        if count > 0 {
            if pipe.blocked {
                pipe.blocked = false;
                self.schedule.wake_at(writer, now + self.schedule.duration(latency));
            }
            self.schedule.trace(count as u64);
            return ReadResult::Data(count);
        }
        match pipe.ended {
            Some(at) if at <= now && pipe.segments.is_empty() => ReadResult::Ended,
            _ => ReadResult::Pending,
        }
    }

    /// Whether a read would find something (bytes, end or reset) now.
    pub fn is_readable(&self, end: EndId) -> bool {
        let now = self.schedule.time();
        let core = self.lock();
        let Some(conn) = core.conns.get(&end.conn) else { return true };
        let pipe = &conn.pipes[end.peer()];
        let arrived = pipe.segments.front().map_or(pipe.ended, |(due, _)| Some(*due));
        conn.ends[end.me()].reset.is_some_and(|at| at <= now) || (!conn.held && arrived.is_some_and(|at| at <= now))
    }

    /// Ends this side's direction: the peer reads the rest, then the end. Reading goes on.
    pub fn end_writing(&self, end: EndId) {
        let now = self.schedule.time();
        let mut core = self.lock();
        let latency = core.rates.latency;
        let Some(conn) = core.conns.get_mut(&end.conn) else { return };
        let (held, reader) = (conn.held, conn.ends[end.peer()].party);
        let pipe = &mut conn.pipes[end.me()];
        if pipe.ended.is_none() {
            let due = (now + self.schedule.duration(latency)).max(pipe.last_due);
            pipe.ended = Some(due);
            if !held {
                self.schedule.wake_at(reader, due);
            }
        }
    }

    /// Closes this end. The peer reads the rest, then the end; what it writes afterwards is answered with a reset.
    pub fn close(&self, end: EndId) {
        self.end_writing(end);
        let mut core = self.lock();
        let Some(conn) = core.conns.get_mut(&end.conn) else { return };
        conn.ends[end.me()].closed = true;
        let gone = conn.ends[0].closed && (conn.ends[1].closed || !matches!(conn.attempt, Attempt::Accepted(_)));
        if gone {
            core.conns.remove(&end.conn);
        }
    }

    /// Resets every connection to `address`, as when its host dies.
    pub fn reset(&self, address: SocketAddr) {
        let conns: Vec<u64> = {
            let core = self.lock();
            core.conns.iter().filter(|(_, conn)| conn.address == address).map(|(id, _)| *id).collect()
        };
        for conn in conns {
            self.reset_conn(conn);
        }
    }

    /// Resets one connection; each side learns it at its own time, and what had not arrived by then is lost.
    fn reset_conn(&self, id: u64) {
        let now = self.schedule.time();
        let mut core = self.lock();
        let latency = core.rates.latency;
        let Some(conn) = core.conns.get_mut(&id) else { return };
        self.schedule.count("connections reset");
        conn.broken = true;
        for end in &mut conn.ends {
            let at = now + self.schedule.duration(latency);
            end.reset = Some(end.reset.map_or(at, |known| known.min(at)));
            if !end.closed {
                self.schedule.wake_at(end.party, at);
            }
        }
    }

    /// A black hole: connections to `address`, present and future, deliver nothing and tell nobody (true); or deliver
    /// again, what was kept first (false). Attempts made meanwhile stay unanswered.
    pub fn hold(&self, address: SocketAddr, hold: bool) {
        let now = self.schedule.time();
        let mut core = self.lock();
        let latency = core.rates.latency;
        if hold {
            self.schedule.count("hosts held");
            core.held.insert(address);
        } else {
            core.held.remove(&address);
        }
        for conn in core.conns.values_mut().filter(|conn| conn.address == address && conn.held != hold) {
            conn.held = hold;
            if hold {
                continue;
            }
            let at = now + self.schedule.duration(latency);
            for (pipe, reader) in conn.pipes.iter_mut().zip([1, 0]) {
                pipe.segments.iter_mut().for_each(|(due, _)| *due = (*due).max(at));
                pipe.last_due = pipe.last_due.max(at);
                pipe.ended = pipe.ended.map(|due| due.max(pipe.last_due));
                let (last, ended) = (pipe.last_due, pipe.ended);
                self.schedule.wake_at(conn.ends[reader].party, last);
                self.schedule.wake_at(conn.ends[reader].party, ended.unwrap_or(at));
            }
        }
    }

    /// Connection attempts to `address` are refused although somebody listens (true), or no longer (false).
    pub fn refuse(&self, address: SocketAddr, refuse: bool) {
        let mut core = self.lock();
        if refuse {
            core.refused.insert(address);
        } else {
            core.refused.remove(&address);
        }
    }

    /// Open connections to `address`.
    pub fn connections(&self, address: SocketAddr) -> usize {
        self.lock().conns.values().filter(|conn| conn.address == address).count()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.lock();
        write!(f, "Network({} listeners, {} connections)", core.listeners.len(), core.conns.len())
    }
}
