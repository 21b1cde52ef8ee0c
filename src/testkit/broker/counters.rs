//! What tests read: requests per API and connection, errors answered, sockets, why connections were closed.

use std::collections::{BTreeMap, VecDeque};

use crate::base::time::Time;

/// How many closed connections are remembered.
const CLOSED_KEPT: usize = 10_000;

/// Requests and answers of one API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiCount {
    /// Requests that arrived.
    pub requests: u64,
    /// Answers that were handed to the connection.
    pub answers: u64,
    /// Bytes of the requests, without length prefixes.
    pub request_bytes: u64,
    /// Bytes of the answers, without length prefixes.
    pub answer_bytes: u64,
    /// Requests per version.
    pub versions: BTreeMap<i16, u64>,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnCount {
    /// Its number, from 1.
    pub id: u64,
    /// The node it is connected to.
    pub node: i32,
    /// The client id of its last request.
    pub client_id: String,
    /// `client.software.name` and version of its ApiVersions request (KIP-511).
    pub software: String,
    /// When it was accepted.
    pub opened: Time,
    /// Requests per API key.
    pub requests: BTreeMap<i16, u64>,
    /// Why it was closed, once it was.
    pub closed: Option<CloseReason>,
}

/// Why a connection was closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CloseReason {
    /// The client closed it or went away.
    Client,
    /// The node was stopped.
    NodeStopped,
    /// A length prefix below 0 or above `socket.request.max.bytes`.
    FrameSize,
    /// A header or body that does not parse.
    Malformed,
    /// An API key that this broker does not serve.
    UnknownApi,
    /// A version of a known API that it does not serve.
    UnknownVersion,
    /// Produce with acks=0 met an error (Kafka closes, for want of an answer).
    AcksZeroError,
    /// A fault rule.
    Fault,
    /// The answer could not be encoded in the request's version: a fault of the broker itself.
    BrokerFault,
}

/// All counters of a broker.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By API key.
    pub apis: BTreeMap<i16, ApiCount>,
    /// Errors answered, by (API key, error code).
    pub errors: BTreeMap<(i16, i16), u64>,
    /// Fault rules that fired, by reaction.
    pub faults: BTreeMap<&'static str, u64>,
    /// Connections ever accepted.
    pub connections_opened: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Closed connections by reason.
    pub closes: BTreeMap<CloseReason, u64>,
    /// Batches appended.
    pub batches_appended: u64,
    /// Records appended.
    pub records_appended: u64,
    /// Bytes of batches appended, headers included.
    pub bytes_appended: u64,
    /// Batches recognised as sent before.
    pub batches_duplicate: u64,
    /// Batches refused.
    pub batches_refused: u64,
    /// Bytes dropped by retention.
    pub bytes_dropped: u64,
    /// Fetch sessions created, and evicted to make room.
    pub fetch_sessions_created: u64,
    /// Fetch sessions evicted to make room for others.
    pub fetch_sessions_evicted: u64,
    /// Fetch requests that were part of a session already.
    pub fetches_incremental: u64,
    /// Connections: the last ten thousand closed ones, then (in a snapshot) those that are open.
    pub connections: VecDeque<ConnCount>,
}

impl Counters {
    /// Requests of one API.
    pub fn requests(&self, api: crate::wire::ApiKey) -> u64 {
        self.apis.get(&(api as i16)).map_or(0, |count| count.requests)
    }

    /// Times an error was answered, over all APIs.
    pub fn errors_of(&self, code: crate::wire::ErrorCode) -> u64 {
        self.errors.iter().filter(|((_, known), _)| *known == code.code()).map(|(_, count)| count).sum()
    }

    /// The connection with this number.
    pub fn connection(&self, id: u64) -> Option<&ConnCount> {
        self.connections.iter().rev().find(|conn| conn.id == id)
    }

    pub(super) fn opened(&mut self) {
        self.connections_opened += 1;
        self.connections_open += 1;
    }

    pub(super) fn closed(&mut self, mut conn: ConnCount, reason: CloseReason) {
        conn.closed = Some(reason);
        self.connections_open -= 1;
        *self.closes.entry(reason).or_default() += 1;
        if self.connections.len() == CLOSED_KEPT {
            self.connections.pop_front();
        }
        self.connections.push_back(conn);
    }
}
