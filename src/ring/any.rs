//! One type for whichever backend the machine allows: a match instead of a virtual call.

use std::io;
use std::net::SocketAddr;

use super::epoll::{EpollBackend, EpollWaker};
use super::probe::why_refused;
use super::uring::{UringBackend, UringWaker};
use super::{
    Backend, BackendChoice, BackendKind, BackendStats, Events, Probe, RingSettings, SendChain, Sock, SocketOptions,
    Wait, Wake,
};
use crate::base::time::Now;

/// The backend that [`super::probe()`] chose.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per thread, never moved; a box would be a pointer to chase per call"
)]
pub enum AnyBackend {
    /// Readiness.
    Epoll(EpollBackend),
    /// Completions.
    IoUring(UringBackend),
}

/// Forwards to the implementation inside.
macro_rules! each {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self {
            Self::Epoll($inner) => $call,
            Self::IoUring($inner) => $call,
        }
    };
}

impl AnyBackend {
    /// Makes the backend that the probe chose, for the calling thread. A ring that fitted when it was tried and no longer
    /// does (locked memory is shared by all programs of a user) gives epoll and a warning, unless io_uring was insisted on.
    pub fn new(probe: &Probe, settings: &RingSettings) -> io::Result<Self> {
        match probe.kind {
            BackendKind::Epoll => EpollBackend::new(settings).map(Self::Epoll),
            BackendKind::IoUring => match UringBackend::new(settings) {
                Err(error) if probe.choice == BackendChoice::Auto => {
                    tracing::warn!(
                        why = %why_refused(&error),
                        "running on epoll instead of io_uring, which worked a moment ago; allow more, or set io.backend=epoll"
                    );
                    EpollBackend::new(settings).map(Self::Epoll)
                }
                made => made.map(Self::IoUring),
            },
            // The simulator is made by its world, never by a probe.
            BackendKind::Sim => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Backend for AnyBackend {
    type Waker = AnyWaker;

    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Sock> {
        each!(self, inner => inner.open(address, options))
    }

    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain> {
        each!(self, inner => inner.send(sock, chain))
    }

    fn receive(&mut self, sock: Sock, on: bool) {
        each!(self, inner => inner.receive(sock, on))
    }

    fn close(&mut self, sock: Sock) {
        each!(self, inner => inner.close(sock))
    }

    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()> {
        each!(self, inner => inner.turn(wait, events))
    }

    fn waker(&self) -> AnyWaker {
        match self {
            Self::Epoll(inner) => AnyWaker::Epoll(inner.waker()),
            Self::IoUring(inner) => AnyWaker::IoUring(inner.waker()),
        }
    }

    fn now(&self) -> Now {
        each!(self, inner => inner.now())
    }

    fn kind(&self) -> BackendKind {
        each!(self, inner => inner.kind())
    }

    fn stats(&self) -> BackendStats {
        each!(self, inner => inner.stats())
    }
}

/// Ends the wait of an [`AnyBackend`].
#[derive(Clone, Debug)]
pub enum AnyWaker {
    /// Of an [`EpollBackend`].
    Epoll(EpollWaker),
    /// Of a [`UringBackend`].
    IoUring(UringWaker),
}

impl Wake for AnyWaker {
    fn wake(&self) {
        each!(self, inner => inner.wake());
    }
}
