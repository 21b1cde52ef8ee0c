//! The readiness backend: epoll, `recv` and `sendmsg` on non-blocking sockets. Runs where io_uring is refused, which in
//! containers is the common case, so it meets the same tests and the same budget.
//!
//! ```text
//!   epoll_wait (edges) ──► flags of the socket ──► ready queue ──► connect result │ sendmsg │ recv into the one buffer
//!   send / receive / close ───────────────────────►   ▲   └── work left, byte budget used up: again next turn
//! ```
//! Every socket is registered once, edge-triggered; what an edge said is kept in the socket's flags until `EAGAIN`, a short
//! count or the end takes it back. Never: allocates in steady state, calls `epoll_ctl` after the socket was opened.
//!
//! Invariants: a socket with work that it can do now is in the ready queue exactly once; `epoll_wait` does not block while
//! the queue has entries.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg, sockopt};
use smallvec::SmallVec;

use super::outgoing::{Outgoing, VECTORS_MAX};
use super::slots::Slots;
use super::socket::tcp_socket;
use super::{
    Backend, BackendKind, BackendStats, Events, Landing, RingSettings, SendChain, Sock, SocketOptions, Wait, Wake,
    closed_by_us,
};
use crate::base::time::{Clock, Now, SystemClock};

/// Edges collected per `epoll_wait`.
const EDGES_MAX: usize = 256;
/// Buffers' worth of bytes one socket may receive before the next socket has its turn.
const RECEIVES_PER_VISIT: usize = 4;
/// Longest single wait: what fits the milliseconds of `epoll_pwait`, so that `epoll_pwait2`, which older kernels and
/// sandboxes lack, is never needed. Waking once a day for nothing is allowed.
const WAIT_MAX: Duration = Duration::from_secs(86_400);
/// `user data` of the eventfd; no socket has it, because a socket's index is a position in memory.
const WAKE: u64 = u64::MAX;

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// `close` was called: the next visit ends it.
    Closing,
    /// `connect` was refused at once with this code.
    Refused(Errno),
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    phase: Phase,
    outgoing: Option<Outgoing>,
    /// Edges not used up yet.
    readable: bool,
    writable: bool,
    /// The peer has ended or an error waits: read on after a short count.
    ended: bool,
    /// Flow control: the user wants data.
    receive: bool,
    /// Its owner may lend memory: asked before each receive.
    lands: bool,
    /// Is in the ready queue.
    queued: bool,
}

impl Socket {
    fn has_work(&self) -> bool {
        match self.phase {
            Phase::Connecting => self.writable,
            Phase::Open => (self.readable && self.receive) || (self.writable && self.outgoing.is_some()),
            Phase::Closing | Phase::Refused(_) => true,
        }
    }
}

/// What a visit to a socket came to.
enum Visit {
    Goes,
    Ends(io::Error),
}

/// One thread's epoll instance and its sockets.
pub struct EpollBackend {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    sockets: Slots<Socket>,
    ready: VecDeque<Sock>,
    edges: Vec<epoll::Event>,
    buffer: Box<[u8]>,
    turn_bytes_max: usize,
    /// The last turn did not look for new edges because there was work already.
    skipped: bool,
    stats: BackendStats,
}

impl EpollBackend {
    /// An epoll instance, an eventfd for wakes, one receive buffer.
    pub fn new(settings: &RingSettings) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            sockets: Slots::default(),
            ready: VecDeque::new(),
            edges: Vec::with_capacity(EDGES_MAX),
            buffer: vec![0; settings.buffer_bytes as usize].into_boxed_slice(),
            turn_bytes_max: settings.turn_bytes_max,
            skipped: false,
            stats: BackendStats::default(),
        })
    }

    /// Puts a socket into the ready queue if there is something to do for it and it is not there yet.
    fn enqueue(&mut self, sock: Sock) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        if !socket.queued && socket.has_work() {
            socket.queued = true;
            self.ready.push_back(sock);
        }
    }

    /// Waits for edges and notes them.
    fn collect(&mut self, wait: Wait) -> io::Result<()> {
        let timeout = if !self.ready.is_empty() {
            Some(Timespec::default())
        } else {
            match wait {
                Wait::Poll => Some(Timespec::default()),
                Wait::Until(time) => Timespec::try_from(self.now().mono.until(time).min(WAIT_MAX)).ok(),
                Wait::Forever => None,
            }
        };
        self.edges.clear();
        self.stats.syscalls += 1;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.edges), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for i in 0..self.edges.len() {
            let edge = self.edges[i];
            let (data, flags) = (edge.data.u64(), edge.flags);
            if data == WAKE {
                self.take_wakes();
                continue;
            }
            let sock = unpack(data);
            let Some(socket) = self.sockets.get_mut(sock) else { continue };
            use epoll::EventFlags as Flags;
            socket.readable |= flags.intersects(Flags::IN | Flags::RDHUP | Flags::HUP | Flags::ERR);
            socket.writable |= flags.intersects(Flags::OUT | Flags::HUP | Flags::ERR);
            socket.ended |= flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
            self.enqueue(sock);
        }
        Ok(())
    }

    fn take_wakes(&mut self) {
        let mut count = [0; 8];
        self.stats.syscalls += 1;
        // Fails only when another look already took the count; then there is nothing to count.
        if rustix::io::read(&*self.wake, &mut count).is_ok() {
            self.stats.wakes += u64::from_ne_bytes(count);
        }
    }

    /// Does what can be done for one socket now.
    fn visit(&mut self, sock: Sock, events: &mut dyn Events, budget: &mut usize) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.queued = false;
        let visit = match socket.phase {
            Phase::Closing => Visit::Ends(closed_by_us()),
            Phase::Refused(code) => Visit::Ends(code.into()),
            Phase::Connecting => finish_connect(socket, sock, events, &mut self.stats),
            Phase::Open => Visit::Goes,
        };
        let visit = match visit {
            Visit::Goes => write(socket, sock, events, &mut self.stats),
            ends => ends,
        };
        let visit = match visit {
            Visit::Goes => read(socket, sock, events, &mut self.stats, &mut self.buffer, budget),
            ends => ends,
        };
        match visit {
            Visit::Goes => self.enqueue(sock),
            Visit::Ends(why) => self.end(sock, why, events),
        }
    }

    fn end(&mut self, sock: Sock, why: io::Error, events: &mut dyn Events) {
        let Some(Socket { fd, outgoing, .. }) = self.sockets.remove(sock) else { return };
        // Closing takes it out of the epoll set: nobody else holds this description.
        drop(fd);
        let (unsent, written) = match outgoing.map(Outgoing::into_parts) {
            Some((chain, written)) => (Some(chain), written),
            None => (None, 0),
        };
        events.closed(sock, why, unsent, written);
    }
}

fn finish_connect(socket: &mut Socket, sock: Sock, events: &mut dyn Events, stats: &mut BackendStats) -> Visit {
    if !socket.writable {
        return Visit::Goes;
    }
    stats.syscalls += 1;
    match sockopt::socket_error(&socket.fd) {
        Ok(Ok(())) => {
            socket.phase = Phase::Open;
            events.connected(sock);
            Visit::Goes
        }
        Ok(Err(code)) | Err(code) => Visit::Ends(code.into()),
    }
}

fn write(socket: &mut Socket, sock: Sock, events: &mut dyn Events, stats: &mut BackendStats) -> Visit {
    if socket.phase != Phase::Open {
        return Visit::Goes;
    }
    while let Some(outgoing) = &mut socket.outgoing {
        if !outgoing.is_done() {
            if !socket.writable {
                return Visit::Goes;
            }
            let slices: SmallVec<[IoSlice<'_>; VECTORS_MAX]> = outgoing.rest().collect();
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            stats.syscalls += 1;
            match sendmsg(&socket.fd, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(count) => {
                    drop(slices);
                    outgoing.advance(count);
                    stats.sent_bytes += count as u64;
                    // The socket's buffer is full: the next edge says when there is room again.
                    socket.writable = count == offered;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => socket.writable = false,
                Err(code) => return Visit::Ends(code.into()),
            }
            if !outgoing.is_done() {
                continue;
            }
        }
        if let Some((chain, _)) = socket.outgoing.take().map(Outgoing::into_parts) {
            events.sent(sock, chain);
        }
    }
    Visit::Goes
}

fn read(
    socket: &mut Socket,
    sock: Sock,
    events: &mut dyn Events,
    stats: &mut BackendStats,
    buffer: &mut [u8],
    budget: &mut usize,
) -> Visit {
    if socket.phase != Phase::Open {
        return Visit::Goes;
    }
    for _ in 0..RECEIVES_PER_VISIT {
        if !socket.readable || !socket.receive || *budget == 0 {
            break;
        }
        stats.syscalls += 1;
        let mut landing = if socket.lands { events.landing(sock) } else { None };
        let room = landing.as_mut().map(Landing::room).filter(|room| !room.is_empty());
        let (in_place, room) = (room.is_some(), room.unwrap_or(&mut *buffer));
        let len = room.len();
        let received = recv(&socket.fd, room, RecvFlags::empty());
        if let Some(landing) = landing {
            let count = if in_place { received.as_ref().map_or(0, |(count, _)| *count) } else { 0 };
            events.landed(sock, landing, count);
        }
        match received {
            Ok((0, _)) => return Visit::Ends(io::ErrorKind::UnexpectedEof.into()),
            Ok((count, _)) => {
                stats.received_bytes += count as u64;
                *budget = budget.saturating_sub(count);
                // A short count means that the socket was empty; what came later made a new edge. Only an end that came
                // together with the data has no edge of its own left.
                socket.readable = count == len || socket.ended;
                if !in_place {
                    events.data(sock, &buffer[..count]);
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => socket.readable = false,
            Err(code) => return Visit::Ends(code.into()),
        }
    }
    Visit::Goes
}

fn pack(sock: Sock) -> u64 {
    u64::from(sock.generation) << 32 | u64::from(sock.index)
}

fn unpack(data: u64) -> Sock {
    Sock { index: (data & u64::from(u32::MAX)) as u32, generation: (data >> 32) as u32 }
}

impl std::fmt::Debug for EpollBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollBackend").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

impl Backend for EpollBackend {
    type Waker = EpollWaker;

    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Sock> {
        let fd = tcp_socket(&address, options, true)?;
        self.stats.syscalls += 1;
        let phase = match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Phase::Connecting,
            Err(code) => Phase::Refused(code),
        };
        if phase == Phase::Connecting {
            use epoll::EventFlags as Flags;
            let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
            let data = epoll::EventData::new_u64(pack(self.sockets.next_key()));
            self.stats.syscalls += 1;
            epoll::add(&self.epoll, &fd, data, flags)?;
        }
        let sock = self.sockets.insert(Socket {
            fd,
            phase,
            outgoing: None,
            readable: false,
            writable: false,
            ended: false,
            receive: true,
            lands: options.lands,
            queued: false,
        });
        self.enqueue(sock);
        Ok(sock)
    }

    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain> {
        let Some(socket) = self.sockets.get_mut(sock) else { return Err(chain) };
        if socket.phase != Phase::Open || socket.outgoing.is_some() {
            return Err(chain);
        }
        let outgoing = Outgoing::new(chain);
        // A chain without bytes is finished by the next turn, whether the socket is writable or not.
        let visit = outgoing.is_done() && !socket.queued;
        socket.outgoing = Some(outgoing);
        if visit {
            socket.queued = true;
            self.ready.push_back(sock);
        }
        self.enqueue(sock);
        Ok(())
    }

    fn receive(&mut self, sock: Sock, on: bool) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.receive = on;
        self.enqueue(sock);
    }

    fn close(&mut self, sock: Sock) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        if !matches!(socket.phase, Phase::Refused(_)) {
            socket.phase = Phase::Closing;
        }
        self.enqueue(sock);
    }

    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()> {
        self.stats.turns += 1;
        // Work that is there already saves the look for new edges, but not twice in a row.
        self.skipped = !self.ready.is_empty() && !self.skipped;
        if !self.skipped {
            self.collect(wait)?;
        }
        let mut budget = self.turn_bytes_max;
        // What is queued from here on belongs to the next turn. A spent budget ends this one: who was not visited is first
        // in the next, or a loud socket at the front would keep the others out for ever.
        for _ in 0..self.ready.len() {
            if budget == 0 {
                break;
            }
            let Some(sock) = self.ready.pop_front() else { break };
            self.visit(sock, events, &mut budget);
        }
        Ok(())
    }

    fn waker(&self) -> EpollWaker {
        EpollWaker(self.wake.clone())
    }

    fn now(&self) -> Now {
        SystemClock.now()
    }

    fn kind(&self) -> BackendKind {
        BackendKind::Epoll
    }

    fn stats(&self) -> BackendStats {
        self.stats
    }
}

/// Ends the wait of an [`EpollBackend`] through its eventfd.
#[derive(Clone, Debug)]
pub struct EpollWaker(Arc<OwnedFd>);

impl Wake for EpollWaker {
    fn wake(&self) {
        // Can only fail when the counter is at its end, and then a wake is pending anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}
