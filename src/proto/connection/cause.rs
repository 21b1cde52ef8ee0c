//! Why a connection ended, sorted by whose doing it was.

use std::io;

use crate::wire::{ApiKey, ErrorCode};

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Cause {
    /// The network or the kernel: refused, reset, unreachable.
    #[error("{message}{}", advice(*.kind))]
    Transport {
        /// The kernel's error.
        kind: io::ErrorKind,
        /// Its text.
        message: String,
    },
    /// The broker ended the connection in an orderly way (restart, its own idle limit).
    #[error("the broker closed the connection; if this repeats, check security.protocol and the broker's log")]
    PeerClosed,
    /// Connecting or the handshake took longer than `socket.connection.setup.timeout.ms`.
    #[error(
        "nothing came back within the set-up timeout ({0}): check the address, a firewall, and that Kafka runs there; \
             socket.connection.setup.timeout.ms allows more time"
    )]
    SetupTimeout(&'static str),
    /// A request was not answered within `request.timeout.ms`; later answers cannot be told apart, so all ends.
    #[error("no answer to {} within the request timeout: is the broker overloaded or cut off? request.timeout.ms allows more \
             time", .0.name())]
    RequestTimeout(ApiKey),
    /// The broker sent what the protocol forbids.
    #[error("the broker misbehaved: {0}")]
    Peer(#[from] PeerMisbehaved),
    /// What answers is no Kafka broker that we can talk to.
    #[error("{0}")]
    Incompatible(#[from] PeerIncompatible),
    /// Unused for `connections.max.idle.ms`.
    #[error("idle")]
    Idle,
    /// The broker closed it while nothing was asked: its own `connections.max.idle.ms`, or its shutdown.
    #[error("the broker closed the idle connection")]
    IdleByPeer,
    /// Closed by its owner (shutdown, broker gone, address changed).
    #[error("closed: {0}")]
    Owner(&'static str),
}

/// What a broker must not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// A frame length below 4 or above `receive.message.max.bytes`.
    #[error(
        "frame of {0} bytes: does Kafka listen at this port? Answers that large need a higher \
             receive.message.max.bytes"
    )]
    FrameLength(i32),
    /// Answers must come in the order of requests.
    #[error("correlation id {got} where {expected} was due")]
    Correlation {
        /// Of the oldest unanswered request.
        expected: i32,
        /// What came.
        got: i32,
    },
    /// Bytes while nothing was asked.
    #[error("an answer without a request")]
    Unasked,
    /// The response header does not fit its frame.
    #[error("a malformed response header")]
    Header,
    /// A reply that cannot be decoded.
    #[error("a malformed answer: {0}")]
    Malformed(&'static str),
    /// ApiVersions failed for another reason than its version.
    #[error("ApiVersions answered {0:?}")]
    ApiVersions(ErrorCode),
}

/// Whom we cannot talk to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerIncompatible {
    /// The listener answered in HTTP.
    #[error("the address answers HTTP, not Kafka: is this the port of an HTTP service?")]
    SpeaksHttp,
    /// The listener answered with a TLS record.
    #[error("the address expects TLS: set security.protocol=SSL or SASL_SSL, or use the plaintext port")]
    SpeaksTls,
    /// ApiVersions is refused in every version.
    #[error("the broker refuses ApiVersions in every version")]
    NoApiVersions,
}

/// What to try, where the kernel's words leave it open.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => ": nothing listens there; check bootstrap.servers and that the broker runs",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ": check the address and the network",
        io::ErrorKind::ConnectionReset => "; if this repeats, check security.protocol and the broker's log",
        _ => "",
    }
}

impl Cause {
    /// From what the kernel said when a socket ended.
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::PeerClosed,
            kind => Self::Transport { kind, message: error.to_string() },
        }
    }

    /// Whether the broker could not be reached or did not answer, as opposed to a planned or harmless end.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Idle | Self::IdleByPeer | Self::Owner(_))
    }

    /// What the kernel would call it.
    pub fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Transport { kind, .. } => *kind,
            Self::PeerClosed | Self::IdleByPeer => io::ErrorKind::UnexpectedEof,
            Self::SetupTimeout(_) | Self::RequestTimeout(_) => io::ErrorKind::TimedOut,
            Self::Peer(_) | Self::Incompatible(_) => io::ErrorKind::InvalidData,
            Self::Idle | Self::Owner(_) => io::ErrorKind::ConnectionAborted,
        }
    }
}
