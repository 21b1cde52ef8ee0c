//! A link: one broker connection and its socket, for one role.
//!
//! ```text
//!   nothing to send ─► Idle        something to send ─► name, address, socket, handshake ─► ready ─► idle-closed
//!                                                          └── failed: next address, then backoff ──┘
//! ```

use std::rc::Rc;

use crate::base::chunk::{ChunkPool, Piece};
use crate::base::ids::{BrokerId, ConsumerIx};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::mesh::Troubles;
use crate::net::{Connect, ConnectSettings, Failure, HostPort, Step};
use crate::proto::connection::{Cause, Connection, ConnectionSettings};
use crate::ring::{Backend, SendChain, Sock, SocketOptions};

/// What a link is for. Kafka serves one request per connection at a time, so what may block has a link of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Role {
    /// Produce requests of all producers.
    Produce,
    /// Fetches of one consumer: they wait for data.
    Fetch(ConsumerIx),
}

/// One connection of a shard.
#[derive(Debug)]
pub(super) struct Link {
    pub broker: BrokerId,
    pub role: Role,
    pub connection: Connection,
    pub sock: Option<Sock>,
    connect: Connect,
    /// Asked to close the socket already.
    closing: bool,
    /// The last lookup was asked of control and not answered yet.
    resolving: bool,
    /// What the link is for was answered on this socket, or the last one. Lookups beside it don't count: a broker that answers
    /// those and cuts every Fetch is to be tried less and less often.
    served: bool,
    /// Why its last connection ended, in words.
    last_words: String,
    troubles: Troubles,
    /// When the last try began.
    tried_at: Time,
    /// Pieces' vector given back by the backend.
    spare: Vec<Piece>,
}

/// What a link needs of its shard.
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// The addresses of its host.
    Addresses,
    /// To know that a round of tries has failed.
    Failed,
}

impl Link {
    pub fn new(
        broker: BrokerId,
        role: Role,
        host: HostPort,
        settings: &Rc<ConnectionSettings>,
        connect: ConnectSettings,
        pool: &ChunkPool,
        troubles: Troubles,
    ) -> Self {
        Self {
            broker,
            role,
            connection: Connection::new(Rc::clone(settings), pool.clone()),
            sock: None,
            connect: Connect::new(host, connect),
            closing: false,
            resolving: false,
            served: false,
            last_words: String::new(),
            troubles,
            tried_at: Time::ZERO,
            spare: Vec::new(),
        }
    }

    /// Whom it talks to.
    pub fn host(&self) -> &HostPort {
        self.connect.host()
    }

    /// When something is to be done although nothing happens.
    pub fn next_deadline(&self, wanted: bool) -> Time {
        let connection = self.connection.next_deadline();
        if self.sock.is_some() || !wanted || self.resolving {
            return connection;
        }
        connection.min(self.connect.next_deadline().unwrap_or(Time::NEVER))
    }

    /// Writes what is to be written, closes what is to be closed, connects if `wanted`.
    pub fn drive<B: Backend>(
        &mut self,
        now: Time,
        wanted: bool,
        backend: &mut B,
        options: &SocketOptions,
        rng: &mut Rng,
    ) -> Need {
        if let Some(sock) = self.sock {
            if self.connection.wants_close().is_none() {
                self.write(now, sock, backend);
            }
            if self.connection.wants_close().is_some() && !self.closing {
                self.closing = true;
                backend.close(sock);
            }
            return Need::Nothing;
        }
        if !wanted || self.resolving {
            return Need::Nothing;
        }
        self.connect.start();
        while let Some(step) = self.connect.next_step(now, rng) {
            self.tried_at = now;
            match step {
                Step::Resolve(_) => match self.connect.host().literal() {
                    Some(address) => self.connect.on_resolved(now, Ok(vec![address]), rng),
                    None => {
                        self.resolving = true;
                        return Need::Addresses;
                    }
                },
                Step::Open(address) => match backend.open(address, options) {
                    Ok(sock) => {
                        self.sock = Some(sock);
                        self.closing = false;
                        self.served = false;
                        self.connection.connect_within(now, self.connect.try_time());
                        return Need::Nothing;
                    }
                    Err(error) => {
                        tracing::debug!(broker = self.broker.0, %address, %error, "cannot open a socket");
                        self.connect.on_closed(now, error.kind(), rng);
                    }
                },
                // The connection watches the setup time; a try without a socket has none.
                Step::Close => {}
            }
        }
        if self.connect.failure().is_none() {
            return Need::Nothing;
        }
        if !self.served {
            self.warn(now);
        }
        Need::Failed
    }

    /// Says what is wrong, once until it works again: not every link and try is worth a line.
    fn warn(&self, now: Time) {
        let why = self.trouble();
        if self.troubles.occurred(now, self.tried_at, &self.host().to_string(), &why) {
            tracing::warn!(why, "a broker cannot be used; it is tried again until it can");
        }
    }

    fn write<B: Backend>(&mut self, now: Time, sock: Sock, backend: &mut B) {
        let mut pieces = std::mem::take(&mut self.spare);
        if !self.connection.next_write(now, &mut pieces) {
            self.spare = pieces;
        } else if backend.send(sock, SendChain { pieces }).is_err() {
            // Cannot be while the connection is open: give it up rather than lose a call silently.
            self.connection.close("the socket refused a write");
        }
    }

    /// Control looked its name up.
    pub fn on_addresses(&mut self, now: Time, addresses: Result<Vec<std::net::SocketAddr>, String>, rng: &mut Rng) {
        if !std::mem::take(&mut self.resolving) {
            return;
        }
        let result = addresses.map_err(crate::net::ResolveError::Failed);
        self.connect.on_resolved(now, result, rng);
    }

    /// The socket is connected.
    pub fn on_connected(&mut self, now: Time) {
        self.connect.on_connected();
        self.connection.on_connected(now);
    }

    /// The handshake is done.
    pub fn on_ready(&mut self) {
        self.connect.on_ready();
    }

    /// A call that it is for was answered.
    pub fn on_served(&mut self) {
        if !std::mem::replace(&mut self.served, true) {
            self.tell_worked();
        }
    }

    fn tell_worked(&self) {
        self.troubles.worked(self.connection.answered_call_at().unwrap_or_default(), &self.host().to_string());
    }

    /// Its socket is gone. True when that is a failure, not our own wish or a broker's that closed what was idle.
    pub fn on_gone(&mut self, now: Time, cause: &Cause, rng: &mut Rng) -> bool {
        self.sock = None;
        self.closing = false;
        if self.served {
            self.connect.forget_failures();
            self.tell_worked();
        }
        match cause {
            // Nobody's failure, but no reason to come back at once either.
            Cause::IdleByPeer if !self.served => self.connect.on_closed(now, cause.io_kind(), rng),
            cause if !cause.is_failure() => self.connect.stop(),
            cause => {
                self.last_words = cause.to_string();
                self.connect.on_closed(now, cause.io_kind(), rng);
            }
        }
        cause.is_failure()
    }

    /// The vector of a chain came back.
    pub fn give_back(&mut self, chain: SendChain) {
        let mut pieces = chain.pieces;
        pieces.clear();
        self.spare = pieces;
    }

    /// It listens elsewhere now: the connection ends, the next one goes there (d4-74).
    pub fn move_to(&mut self, host: HostPort) {
        if *self.connect.host() != host {
            self.connect.set_host(host);
            self.connection.close("the broker moved");
        }
    }

    /// What went wrong last.
    pub fn trouble(&self) -> String {
        match self.connect.failure() {
            Some(Failure::Resolve(error)) => format!("{}: {error}; check the name and the resolver", self.host()),
            _ if self.last_words.is_empty() => format!("{}: no connection", self.host()),
            _ => format!("{}: {}", self.host(), self.last_words),
        }
    }
}
