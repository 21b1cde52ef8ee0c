//! The completion backend: io_uring, one ring per thread.
//!
//! ```text
//!   open/send/receive/close ──► dirty queue ──► entries ──► one enter per turn (submit, wait, deadline) ──► completions
//!   completion ── user data = kind:8 | generation:24 | index:32 ──► socket's flags ──► Events
//!   received ──► buffer of the ring, lent to Events::data, given back; tail published once per turn
//!            └─► memory of the socket's owner (Events::landing), kept with the operands, given back by Events::landed
//!   bytes of the turn spent ──► backlog, told first in the next turn
//!   no buffer left ──► starved queue ──► re-armed when a quarter of the ring is free again, hungriest first
//! ```
//! Never: closes a socket or frees memory that an operation in flight points to, keeps a buffer beyond its turn, submits
//! from another thread (which is why the backend is not `Send`).
//!
//! Invariants: per socket at most one connect, one send and one receive are with the kernel, and its flags say which; a
//! socket leaves the table when none is; `in_flight` counts them all and the armed wake. Ending is shut down → reap → close.

mod buffers;
mod held;
mod setup;
mod socket;

use std::collections::VecDeque;
use std::io;
use std::mem::forget;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketAddrAny, shutdown};

use self::buffers::Buffers;
use self::held::Held;
pub use self::setup::{Shape, TaskWork};
use self::socket::{Phase, Socket};
use super::outgoing::Outgoing;
use super::slots::{GENERATION_MASK, Slots};
use super::socket::tcp_socket;
use super::{
    Backend, BackendKind, BackendStats, Events, RingSettings, SendChain, Sock, SocketOptions, Wait, Wake, closed_by_us,
};
use crate::base::time::{Clock, Now, SystemClock};

/// What an operation is, in the top byte of its user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Connect = 1,
    Receive = 2,
    Send = 3,
    /// Asks another operation to end; points to nothing.
    Cancel = 4,
    /// The read of the eventfd.
    Wake = 5,
}

fn pack(kind: Kind, sock: Sock) -> u64 {
    u64::from(kind as u8) << 56 | u64::from(sock.generation & GENERATION_MASK) << 32 | u64::from(sock.index)
}

fn unpack(data: u64) -> (Option<Kind>, Sock) {
    let kind = match data >> 56 {
        1 => Some(Kind::Connect),
        2 => Some(Kind::Receive),
        3 => Some(Kind::Send),
        4 => Some(Kind::Cancel),
        5 => Some(Kind::Wake),
        _ => None,
    };
    (kind, Sock { index: data as u32, generation: (data >> 32) as u32 & GENERATION_MASK })
}

/// One thread's ring and its sockets.
pub struct UringBackend {
    // Dropped in this order: the ring before the memory that it knows of.
    ring: IoUring,
    buffers: Option<Buffers>,
    sockets: Slots<Socket>,
    /// Where the kernel writes the eventfd's count.
    wake_count: Option<Held<u64>>,
    wake: Arc<OwnedFd>,
    wake_armed: bool,
    /// Completions taken off the queue but not told yet, because their turn's bytes were spent.
    backlog: VecDeque<Completion>,
    /// Those of them that hold a buffer.
    backlog_buffers: usize,
    dirty: VecDeque<Sock>,
    /// Sockets that found no buffer since they were armed, and those that found some before: the first go first, or the
    /// first to be armed would take every free buffer each time. Only [`UringBackend::rearm`] arms them, before anything
    /// else is submitted: the dirty queue knows another order.
    starved: VecDeque<Sock>,
    fed: VecDeque<Sock>,
    /// How many of them there are buffers for.
    rearm: usize,
    /// Operations with the kernel that point to our memory.
    in_flight: usize,
    /// Events reported in this turn.
    reported: usize,
    shape: Shape,
    turn_bytes_max: usize,
    /// Size of one receive buffer.
    buffer_bytes: u32,
    drain_time_max: Duration,
    stats: BackendStats,
}

impl UringBackend {
    /// A ring for the calling thread, with its buffers registered. `EPERM`, `ENOSYS`, `EACCES`, `ENOMEM` and `Unsupported`
    /// mean that this machine does not allow it: see [`super::probe`].
    pub fn new(settings: &RingSettings) -> io::Result<Self> {
        Self::with_task_work(settings, TaskWork::Deferred)
    }

    /// The same as an older kernel would run it: completions delivered as `best`, or worse.
    pub fn with_task_work(settings: &RingSettings, best: TaskWork) -> io::Result<Self> {
        let (ring, buffers, shape) = setup::build(settings, best)?;
        // Blocking, because the ring answers EAGAIN for a non-blocking descriptor instead of waiting for it.
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        // A turn must be able to free a quarter of the ring, or the starved would wait for ever.
        let quarter = usize::from(settings.buffer_count / 4).max(1) * settings.buffer_bytes as usize;
        Ok(Self {
            ring,
            buffers: Some(buffers),
            sockets: Slots::default(),
            wake_count: Some(Held::new(0)),
            wake,
            wake_armed: false,
            backlog: VecDeque::new(),
            backlog_buffers: 0,
            dirty: VecDeque::new(),
            starved: VecDeque::new(),
            fed: VecDeque::new(),
            rearm: 0,
            in_flight: 0,
            reported: 0,
            shape,
            turn_bytes_max: settings.turn_bytes_max.max(quarter),
            buffer_bytes: settings.buffer_bytes,
            drain_time_max: settings.drain_time_max,
            stats: BackendStats::default(),
        })
    }

    /// Which flags and sizes the machine allowed.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Takes over a connected, blocking stream socket.
    pub(super) fn adopt(&mut self, fd: OwnedFd) -> Sock {
        let sock = self.sockets.insert(Socket::new(fd, None, false));
        self.enqueue(sock);
        sock
    }

    fn enqueue(&mut self, sock: Sock) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        if !socket.queued {
            socket.queued = true;
            self.dirty.push_back(sock);
        }
    }

    /// Submits what a socket needs now. `false`: the queue is full, try again after completions were taken.
    fn prepare(&mut self, sock: Sock, events: &mut dyn Events) -> bool {
        let Self { ring, sockets, stats, in_flight, reported, buffer_bytes, .. } = self;
        let Some(socket) = sockets.get_mut(sock) else { return true };
        socket.queued = false;
        let mut push = |entry: Entry, kind: Kind| push(ring, &mut stats.syscalls, entry.user_data(pack(kind, sock)));
        match &mut socket.phase {
            Phase::New => {
                if !push(socket.connect_entry(), Kind::Connect) {
                    return false;
                }
                (socket.connect, socket.phase) = (true, Phase::Connecting);
                *in_flight += 1;
            }
            Phase::Connecting => {}
            Phase::Open => {
                if !socket.send {
                    match &socket.operands.outgoing {
                        Some(outgoing) if !outgoing.is_done() => {
                            let entry = socket.send_entry();
                            if !push(entry, Kind::Send) {
                                return false;
                            }
                            socket.send = true;
                            *in_flight += 1;
                        }
                        Some(_) => report_sent(socket, sock, events, reported),
                        None => {}
                    }
                }
                if socket.wanted && !socket.receive && !socket.starved {
                    let landing = if socket.lands { events.landing(sock) } else { None };
                    let entry = match landing.map(|landing| socket.landing_entry(landing)) {
                        Some(Ok(entry)) => entry,
                        Some(Err(landing)) => {
                            events.landed(sock, landing, 0);
                            socket.receive_entry(*buffer_bytes)
                        }
                        None => socket.receive_entry(*buffer_bytes),
                    };
                    if !push(entry, Kind::Receive) {
                        if let Some(landing) = socket.operands.landing.take() {
                            events.landed(sock, landing, 0);
                        }
                        return false;
                    }
                    socket.armed();
                    *in_flight += 1;
                } else if !socket.wanted && socket.receive && !socket.cancelled {
                    if !push(cancel(Kind::Receive, sock), Kind::Cancel) {
                        return false;
                    }
                    socket.cancelled = true;
                }
            }
            Phase::Closing { told, .. } => {
                if !*told {
                    // Ends what waits on a connected socket and tells the peer. One that is still connecting would be
                    // connected anew by the ring's next try: there the cancel alone must do.
                    if !socket.connect {
                        let _ = shutdown(&socket.fd, Shutdown::Both);
                    }
                    let held =
                        [(socket.connect, Kind::Connect), (socket.receive, Kind::Receive), (socket.send, Kind::Send)];
                    for (_, kind) in held.into_iter().filter(|(held, _)| *held) {
                        if !push(cancel(kind, sock), Kind::Cancel) {
                            return false;
                        }
                    }
                    *told = true;
                }
                self.end_if_free(sock, events);
            }
        }
        true
    }

    /// Reports and forgets a closing socket of which the kernel has nothing any more.
    fn end_if_free(&mut self, sock: Sock, events: &mut dyn Events) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        if socket.is_held() || !matches!(socket.phase, Phase::Closing { .. }) {
            return;
        }
        // What the kernel took completely before was sent, whatever came after.
        if socket.operands.outgoing.as_ref().is_some_and(Outgoing::is_done) {
            report_sent(socket, sock, events, &mut self.reported);
        }
        let Some(Socket { fd, phase: Phase::Closing { why, .. }, mut operands, .. }) = self.sockets.remove(sock) else {
            return;
        };
        drop(fd);
        let (unsent, written) = match operands.outgoing.take().map(Outgoing::into_parts) {
            Some((chain, written)) => (Some(chain), written),
            None => (None, 0),
        };
        self.reported += 1;
        events.closed(sock, why, unsent, written);
    }

    /// Starts a socket's end, unless it has begun.
    fn fail(&mut self, sock: Sock, why: io::Error) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        if !matches!(socket.phase, Phase::Closing { .. }) {
            socket.phase = Phase::Closing { why, told: false };
        }
    }

    fn arm_wake(&mut self) {
        let Some(count) = &self.wake_count else { return };
        if self.wake_armed {
            return;
        }
        let read = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), count.address().cast(), 8);
        let sock = Sock { index: 0, generation: 0 };
        if push(&mut self.ring, &mut self.stats.syscalls, read.build().user_data(pack(Kind::Wake, sock))) {
            self.wake_armed = true;
            self.in_flight += 1;
        }
    }

    /// Submits everything and waits for `want` completions, not longer than `timeout`.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let entries = self.ring.submission().len() as u32;
        let time = types::Timespec::from(timeout.unwrap_or_default());
        let arguments = match timeout {
            Some(_) => types::SubmitArgs::new().timespec(&time),
            None => types::SubmitArgs::new(),
        };
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        self.stats.syscalls += 1;
        // SAFETY: (owner) the entries' memory belongs to sockets that stay in the table until their completions, see
        // `push`; (bounds) `SubmitArgs` is what EXT_ARG wants; (lifetime) it and `time` outlive the call.
        match unsafe { self.ring.submitter().enter(entries, want, flags.bits(), Some(&arguments)) } {
            Ok(_) => Ok(()),
            // ETIME: nothing was submitted and the time is over. EBUSY, EAGAIN: completions must be taken first.
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes all completions and tells of them, up to the turn's byte budget.
    fn reap(&mut self, events: &mut dyn Events) {
        for completion in self.ring.completion() {
            let (data, result, flags) = (completion.user_data(), completion.result(), completion.flags());
            self.backlog_buffers += usize::from(cqueue::buffer_select(flags).is_some());
            self.backlog.push_back(Completion { data, result, flags });
        }
        let mut bytes = 0;
        while bytes < self.turn_bytes_max {
            let Some(completion) = self.backlog.pop_front() else { break };
            bytes += self.complete(completion, events);
        }
    }

    /// One completion; returns how many bytes it brought.
    fn complete(&mut self, Completion { data, result, flags }: Completion, events: &mut dyn Events) -> usize {
        let (kind, sock) = unpack(data);
        match kind {
            Some(Kind::Connect) => self.connect_done(sock, result, events),
            Some(Kind::Send) => self.send_done(sock, result, events),
            Some(Kind::Receive) => return self.receive_done(sock, result, flags, events),
            Some(Kind::Wake) => self.wake_done(result),
            Some(Kind::Cancel) | None => {}
        }
        0
    }

    fn connect_done(&mut self, sock: Sock, result: i32, events: &mut dyn Events) {
        self.in_flight -= 1;
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.connect = false;
        if matches!(socket.phase, Phase::Connecting) {
            match error_of(result) {
                None => {
                    socket.phase = Phase::Open;
                    self.reported += 1;
                    events.connected(sock);
                }
                // Nothing happened yet: again.
                Some(Errno::INTR | Errno::AGAIN) => socket.phase = Phase::New,
                Some(code) => self.fail(sock, code.into()),
            }
        }
        self.enqueue(sock);
        self.end_if_free(sock, events);
    }

    fn send_done(&mut self, sock: Sock, result: i32, events: &mut dyn Events) {
        self.in_flight -= 1;
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.send = false;
        match (error_of(result), &mut socket.operands.outgoing) {
            // A short count is not the end: the next send goes on, or says why it cannot.
            (None, Some(outgoing)) if result > 0 => {
                outgoing.advance(result as usize);
                self.stats.sent_bytes += result as u64;
                if outgoing.is_done() {
                    report_sent(socket, sock, events, &mut self.reported);
                }
            }
            (None, _) => self.fail(sock, io::ErrorKind::WriteZero.into()),
            (Some(Errno::INTR | Errno::AGAIN), _) => {}
            (Some(code), _) => self.fail(sock, code.into()),
        }
        self.enqueue(sock);
        self.end_if_free(sock, events);
    }

    fn receive_done(&mut self, sock: Sock, result: i32, flags: u32, events: &mut dyn Events) -> usize {
        let Self { sockets, buffers: Some(buffers), stats, reported, .. } = self else { return 0 };
        let mut socket = sockets.get_mut(sock);
        let mut bytes = 0;
        if let Some(socket) = &mut socket
            && let Some(landing) = socket.operands.landing.take()
        {
            if matches!(socket.phase, Phase::Open) && result > 0 {
                bytes = result as usize;
                stats.received_bytes += bytes as u64;
                *reported += 1;
            }
            events.landed(sock, landing, bytes);
        }
        if let Some(index) = cqueue::buffer_select(flags) {
            if let Some(socket) = &mut socket
                && matches!(socket.phase, Phase::Open)
                && result > 0
                && let Some(received) = buffers.bytes(index, result as usize)
            {
                socket.fed = true;
                bytes = received.len();
                stats.received_bytes += bytes as u64;
                *reported += 1;
                events.data(sock, received);
            }
            buffers.give_back(index);
            self.backlog_buffers -= 1;
        }
        if cqueue::more(flags) {
            return bytes;
        }
        self.in_flight -= 1;
        if let Some(socket) = &mut socket {
            (socket.receive, socket.cancelled) = (false, false);
        }
        match error_of(result) {
            None if result == 0 => self.fail(sock, io::ErrorKind::UnexpectedEof.into()),
            None | Some(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Some(Errno::NOBUFS) => {
                self.stats.starved += 1;
                if let Some(socket) = socket {
                    socket.starved = true;
                    let queue = if socket.fed { &mut self.fed } else { &mut self.starved };
                    queue.push_back(sock);
                }
            }
            Some(code) => self.fail(sock, code.into()),
        }
        self.enqueue(sock);
        self.end_if_free(sock, events);
        bytes
    }

    fn wake_done(&mut self, result: i32) {
        self.in_flight -= 1;
        self.wake_armed = false;
        if let (8, Some(count)) = (result, &self.wake_count) {
            self.stats.wakes += **count;
        }
    }

    /// Gives the turn's buffers to the kernel and lets as many of the starved be re-armed as there are free buffers.
    fn refill(&mut self) {
        let Some(buffers) = &self.buffers else { return };
        buffers.publish();
        if self.starved.is_empty() && self.fed.is_empty() {
            return;
        }
        // Every buffer that is not free now is named by a completion that waits in the backlog.
        let count = usize::from(buffers.count());
        let free = count.saturating_sub(self.backlog_buffers);
        if free * 4 < count {
            return;
        }
        self.rearm = free;
    }

    /// Arms starved sockets in the order of their queues. The kernel takes entries in the order they were submitted and
    /// before it looks at sockets that are armed already, so the first of them is sure of a buffer.
    fn rearm(&mut self) {
        for _ in 0..std::mem::take(&mut self.rearm) {
            let Some(sock) = self.starved.front().or_else(|| self.fed.front()).copied() else { return };
            let Self { ring, sockets, stats, .. } = self;
            if let Some(socket) = sockets.get_mut(sock) {
                if matches!(socket.phase, Phase::Open) && socket.wanted && !socket.receive {
                    let entry = socket.receive_entry(self.buffer_bytes).user_data(pack(Kind::Receive, sock));
                    if !push(ring, &mut stats.syscalls, entry) {
                        // The kernel takes nothing now. The buffers are still there in the next turn.
                        self.rearm = 1;
                        return;
                    }
                    socket.armed();
                    self.in_flight += 1;
                }
                // One that is paused is armed when it is resumed.
                socket.starved = false;
            }
            let _ = self.starved.pop_front().or_else(|| self.fed.pop_front());
        }
    }

    /// Takes completions that nobody is told of any more.
    fn count_ended(&mut self) {
        let rest = self.backlog.drain(..).map(|completion| (completion.data, completion.flags));
        let new = self.ring.completion().map(|completion| (completion.user_data(), completion.flags()));
        let ended = rest
            .chain(new)
            .filter(|(data, flags)| !cqueue::more(*flags) && !matches!(unpack(*data).0, Some(Kind::Cancel) | None));
        self.in_flight -= ended.count();
    }

    /// Ends every operation and takes the completions. `false`: some did not end in time.
    fn drain(&mut self) -> bool {
        let end = Instant::now() + self.drain_time_max;
        for socket in self.sockets.values_mut().filter(|socket| !socket.connect) {
            let _ = shutdown(&socket.fd, Shutdown::Both);
        }
        self.count_ended();
        while self.in_flight > 0 && Instant::now() < end {
            // Submitted first: a cancel does not see what is only in our queue.
            let _ = self.ring.submit();
            let patience = types::Timespec::from(Duration::from_millis(50));
            let _ = self.ring.submitter().register_sync_cancel(Some(patience), types::CancelBuilder::any());
            let _ = self.enter(1, Some(Duration::from_millis(5)));
            self.count_ended();
        }
        self.in_flight == 0
    }
}

/// What the kernel said of an operation.
#[derive(Clone, Copy, Debug)]
struct Completion {
    data: u64,
    result: i32,
    flags: u32,
}

/// The code of a failed operation.
fn error_of(result: i32) -> Option<Errno> {
    if result < 0 { Some(Errno::from_raw_os_error(-result)) } else { None }
}

fn cancel(kind: Kind, sock: Sock) -> Entry {
    opcode::AsyncCancel::new(pack(kind, sock)).build()
}

fn report_sent(socket: &mut Socket, sock: Sock, events: &mut dyn Events, reported: &mut usize) {
    if let Some((chain, _)) = socket.operands.outgoing.take().map(Outgoing::into_parts) {
        *reported += 1;
        events.sent(sock, chain);
    }
}

/// Puts an entry into the queue, submitting what is there when it is full. `false`: the kernel takes nothing now.
fn push(ring: &mut IoUring, syscalls: &mut u64, entry: Entry) -> bool {
    loop {
        // SAFETY: (owner) what the entry points to is a socket's operands or the wake count, which the backend owns;
        // (bounds) the entry was made from their own sizes; (lifetime) the caller notes the operation in the socket's
        // flags and in `in_flight`, and neither is dropped before its last completion (`end_if_free`, `Drop`).
        if unsafe { ring.submission().push(&entry) }.is_ok() {
            return true;
        }
        *syscalls += 1;
        match ring.submit() {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

impl Backend for UringBackend {
    type Waker = UringWaker;

    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Sock> {
        let fd = tcp_socket(&address, options, false)?;
        let sock = self.sockets.insert(Socket::new(fd, Some(SocketAddrAny::from(address)), options.lands));
        self.enqueue(sock);
        Ok(sock)
    }

    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain> {
        let Some(socket) = self.sockets.get_mut(sock) else { return Err(chain) };
        if !matches!(socket.phase, Phase::Open) || socket.operands.outgoing.is_some() {
            return Err(chain);
        }
        socket.operands.outgoing = Some(Outgoing::new(chain));
        self.enqueue(sock);
        Ok(())
    }

    fn receive(&mut self, sock: Sock, on: bool) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.wanted = on;
        self.enqueue(sock);
    }

    fn close(&mut self, sock: Sock) {
        self.fail(sock, closed_by_us());
        self.enqueue(sock);
    }

    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()> {
        self.stats.turns += 1;
        self.reported = 0;
        self.arm_wake();
        self.rearm();
        for _ in 0..self.dirty.len() {
            let Some(sock) = self.dirty.pop_front() else { break };
            if !self.prepare(sock, events) {
                self.enqueue(sock);
                break;
            }
        }
        let busy = self.reported > 0
            || !self.dirty.is_empty()
            || !self.starved.is_empty()
            || !self.fed.is_empty()
            || !self.wake_armed
            || !self.backlog.is_empty();
        let timeout = match wait {
            Wait::Until(time) => Some(SystemClock.mono().until(time)),
            Wait::Poll => Some(Duration::ZERO),
            Wait::Forever => None,
        };
        let want = u32::from(!busy && timeout != Some(Duration::ZERO));
        self.enter(want, timeout)?;
        self.reap(events);
        self.refill();
        Ok(())
    }

    fn waker(&self) -> UringWaker {
        UringWaker(self.wake.clone())
    }

    fn now(&self) -> Now {
        SystemClock.now()
    }

    fn kind(&self) -> BackendKind {
        BackendKind::IoUring
    }

    fn stats(&self) -> BackendStats {
        self.stats
    }
}

impl std::fmt::Debug for UringBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("UringBackend");
        fields.field("shape", &self.shape).field("sockets", &self.sockets.len());
        fields.field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Drop for UringBackend {
    fn drop(&mut self) {
        if self.drain() {
            let _ = self.ring.submitter().unregister_buf_ring(buffers::GROUP);
        } else {
            // The kernel may still read or write these. Losing them is the safe end.
            tracing::warn!(in_flight = self.in_flight, "io_uring did not drain in time; its memory is given up");
            forget(std::mem::take(&mut self.sockets));
            forget(self.buffers.take());
            forget(self.wake_count.take());
        }
    }
}

/// Ends the wait of a [`UringBackend`] through its eventfd.
#[derive(Clone, Debug)]
pub struct UringWaker(Arc<OwnedFd>);

impl Wake for UringWaker {
    fn wake(&self) {
        // Can only fail when the counter is at its end, and then a wake is pending anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_keeps_kind_generation_and_index() {
        for kind in [Kind::Connect, Kind::Receive, Kind::Send, Kind::Cancel, Kind::Wake] {
            for (index, generation) in [(0, 0), (u32::MAX, GENERATION_MASK), (7, 1)] {
                let sock = Sock { index, generation };
                assert_eq!(unpack(pack(kind, sock)), (Some(kind), sock));
            }
        }
        assert_eq!(unpack(0).0, None);
    }
}
