//! The kernel's room: sockets, buffers, timers and wakes behind [`Backend`], with three implementations.
//!
//! ```text
//!   link ── send(chain) ──► slots ──► SQE / sendmsg ──► kernel
//!   link ◄─ Events::data ── buffer ring (this turn only) ◄── multishot recv / recv
//!        ◄─ Events::landed ── memory of the link's own (Events::landing) ◄── recv, the rest of long answers
//! ```
//! `uring` (io_uring), `epoll` (readiness, the same events) and `sim` (virtual network and time) behave alike: the same
//! conformance tests run on each. Knows no Kafka. What it never does: hand out memory that outlives a turn, close a
//! socket while the kernel holds one of its buffers, allocate per event.
//!
//! Invariants: one send in flight per socket; a chain handed to [`Backend::send`] is owned by the operation until its last
//! completion and comes back in [`Events::sent`] or dies with [`Events::closed`]; `closed` comes exactly once per socket,
//! after the kernel has let go of everything; memory lent by [`Events::landing`] is the operation's until [`Events::landed`].

mod any;
pub mod epoll;
mod outgoing;
mod probe;
mod settings;
#[cfg(any(test, feature = "testkit"))]
pub mod sim;
mod slots;
mod socket;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

pub use any::{AnyBackend, AnyWaker};
pub use probe::{BackendChoice, Probe, probe, probe_for};
pub use settings::RingSettings;

use crate::base::chunk::Piece;
use crate::base::time::{Now, Time};
use crate::config::EngineSettings;

/// A socket of one backend. The generation makes a reused slot a different socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sock {
    /// Slot in the backend's table.
    pub index: u32,
    /// Counts the slot's uses.
    pub generation: u32,
}

/// What one vectored write is made of, in order. Owned by the operation until its last completion.
#[derive(Debug, Default)]
pub struct SendChain {
    /// The bytes to write, piece by piece.
    pub pieces: Vec<Piece>,
}

/// Socket options a user may set (M4, L-12, L-13). `None` leaves the system's default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `SO_SNDBUF` in bytes.
    pub send_buffer_bytes: Option<u32>,
    /// `SO_RCVBUF` in bytes.
    pub receive_buffer_bytes: Option<u32>,
    /// Its owner has memory for long answers ([`Events::landing`]). Not the user's to set.
    pub lands: bool,
}

impl SocketOptions {
    /// From an engine's settings.
    pub fn new(settings: &EngineSettings) -> Self {
        Self {
            nodelay: settings.nodelay,
            keepalive: settings.keepalive,
            send_buffer_bytes: settings.send_buffer_bytes,
            receive_buffer_bytes: settings.receive_buffer_bytes,
            lands: false,
        }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { nodelay: true, keepalive: true, send_buffer_bytes: None, receive_buffer_bytes: None, lands: false }
    }
}

/// Memory that what a socket receives next is written into, instead of being copied there. Lent to the backend, which gives
/// it back by [`Events::landed`].
#[derive(Debug)]
pub struct Landing {
    /// All of it is initialised.
    pub memory: Vec<u8>,
    /// The part that may be written: not empty, and inside the memory. One that is not is given back unused.
    pub range: Range<usize>,
}

impl Landing {
    /// The part that may be written.
    fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.range.clone()).unwrap_or_default()
    }
}

/// What happened. Called from inside [`Backend::turn`]; must not call back into the backend.
pub trait Events {
    /// The socket is connected and receives from now on.
    fn connected(&mut self, sock: Sock);
    /// Bytes arrived. `bytes` is valid for this call only.
    fn data(&mut self, sock: Sock, bytes: &[u8]);
    /// Asked before something is received on a socket with [`SocketOptions::lands`]: memory to receive it into, if there is
    /// more of an answer to come than is worth a copy.
    fn landing(&mut self, sock: Sock) -> Option<Landing> {
        let _ = sock;
        None
    }
    /// Memory that was lent comes back with `count` more bytes in it, from the beginning of its range; none when the socket
    /// is about to be closed, or nothing came. Once per landing, before [`Events::closed`]; only a backend that is dropped
    /// keeps some.
    fn landed(&mut self, sock: Sock, landing: Landing, count: usize) {
        let _ = (sock, landing, count);
    }
    /// All of a chain was written; the chain is given back so that its vector is reused.
    fn sent(&mut self, sock: Sock, chain: SendChain);
    /// The socket is gone, for good: refused, reset, ended by the peer (`UnexpectedEof`), or closed by us
    /// (`ConnectionAborted`). No buffer of it is with the kernel any more. `unsent` is the chain that was not written completely, if there was one, and
    /// `written` how many bytes of it the kernel took.
    fn closed(&mut self, sock: Sock, why: io::Error, unsent: Option<SendChain>, written: usize);
}

/// Which implementation runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    /// io_uring.
    IoUring,
    /// epoll.
    Epoll,
    /// The simulator.
    Sim,
}

impl BackendKind {
    /// The name in settings and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
            Self::Sim => "sim",
        }
    }
}

/// How long a turn may wait when nothing is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Not at all: collect what is ready.
    Poll,
    /// Until this time, a completion or a wake.
    Until(Time),
    /// Until a completion or a wake.
    Forever,
}

/// Counters since the start, plain fields of the owning thread.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendStats {
    /// Turns taken.
    pub turns: u64,
    /// System calls made.
    pub syscalls: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Wakes received from other threads.
    pub wakes: u64,
    /// Receives that found no buffer and were re-armed.
    pub starved: u64,
}

/// One thread's door to the kernel. Not `Send`: it is made on the thread that uses it.
pub trait Backend {
    /// What another thread needs to end this backend's waiting.
    type Waker: Wake;

    /// Starts connecting. [`Events::connected`] or [`Events::closed`] follows.
    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Sock>;
    /// Writes a chain completely. At most one per socket: gives the chain back while one is in flight, or when the socket
    /// is not connected or closing.
    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain>;
    /// Stops (false) or resumes (true) receiving on a socket, for flow control. Data already received may still come.
    /// While it is stopped the peer's end of the connection may go unnoticed until it is resumed or a send fails.
    fn receive(&mut self, sock: Sock, on: bool);
    /// Shuts the socket down, waits for the kernel to let go, closes it; [`Events::closed`] follows once. No data comes
    /// after this call; a chain that the kernel took completely before is still reported by [`Events::sent`].
    fn close(&mut self, sock: Sock);
    /// Submits what is pending, waits as told, and reports what happened. May return early with nothing to report.
    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()>;
    /// Ends a wait of this backend from another thread. A wake before the wait counts.
    fn waker(&self) -> Self::Waker;
    /// Both clocks, as this backend sees them (virtual in the simulator).
    fn now(&self) -> Now;
    /// Which implementation this is.
    fn kind(&self) -> BackendKind;
    /// Counters so far.
    fn stats(&self) -> BackendStats;
}

/// Ends another thread's wait. Cheap to clone, callable from anywhere.
pub trait Wake: Clone + Send + Sync + 'static {
    /// Ends the wait, or makes the next one return at once.
    fn wake(&self);
}

/// How long draining may take when a backend is dropped before its memory is given up on purpose.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// What [`Events::closed`] says of a socket that we closed.
fn closed_by_us() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}
