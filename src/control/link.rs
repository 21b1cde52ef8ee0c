//! One broker as control talks to it: a connection, its socket, and what waits for it.
//!
//! ```text
//!   Idle ──a call waits──► net::Connect: resolve, address after address ──► handshake ──► ready ──► idle-closed
//!                                 │ round failed: what waits is lost, backoff                │ lost: backoff
//! ```

use std::collections::VecDeque;
use std::rc::Rc;

use crate::base::chunk::{ChunkPool, Piece};
use crate::base::ids::BrokerId;
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::mesh::Troubles;
use crate::net::{Connect, ConnectSettings, Failure, HostPort, Resolution, Resolver, Step};
use crate::proto::connection::{Cause, Connection, ConnectionSettings};
use crate::ring::{Backend, SendChain, Sock, SocketOptions};

/// One broker, or one bootstrap server (negative ids).
#[derive(Debug)]
pub(super) struct Link {
    pub id: BrokerId,
    /// Its number among all links ever made: what lookups are answered under.
    pub key: u64,
    pub connection: Connection,
    pub sock: Option<Sock>,
    /// Numbers of calls that wait for the connection, oldest first.
    pub waiting: VecDeque<u64>,
    connect: Connect,
    /// Rounds of tries that failed since the connection was last ready.
    failures: u32,
    /// The last round failed, or the connection was lost, and the wait has not passed.
    backing_off: bool,
    /// Asked to close the socket already.
    closing: bool,
    /// Since when the socket was connected, or the last one.
    connected_at: Time,
    /// Why its last connection ended, in words.
    last_words: String,
    troubles: Troubles,
    /// When the last try began.
    tried_at: Time,
    /// Pieces' vector given back by the backend.
    spare: Vec<Piece>,
}

impl Link {
    pub fn new(
        id: BrokerId,
        key: u64,
        host: HostPort,
        settings: &Rc<ConnectionSettings>,
        connect: ConnectSettings,
        pool: &ChunkPool,
        troubles: Troubles,
    ) -> Self {
        Self {
            id,
            key,
            connection: Connection::new(Rc::clone(settings), pool.clone()),
            sock: None,
            waiting: VecDeque::new(),
            connect: Connect::new(host, connect),
            failures: 0,
            backing_off: false,
            closing: false,
            connected_at: Time::ZERO,
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

    /// Failed rounds in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It works, is being tried, or may be tried now.
    pub fn is_hopeful(&self, now: Time) -> bool {
        self.connection.is_ready() || !self.backing_off || self.connect.next_deadline().is_none_or(|until| until <= now)
    }

    /// When something is to be done for it although nothing happens.
    pub fn next_deadline(&self) -> Time {
        let connection = self.connection.next_deadline();
        if self.sock.is_some() || self.waiting.is_empty() {
            return connection;
        }
        connection.min(self.connect.next_deadline().unwrap_or(Time::NEVER))
    }

    /// Writes what is to be written, closes what is to be closed, connects if somebody waits. True when a round of tries
    /// has failed: what waits is to be given up.
    pub fn drive<B: Backend>(
        &mut self,
        now: Time,
        backend: &mut B,
        options: &SocketOptions,
        resolver: &mut Resolver,
        rng: &mut Rng,
    ) -> bool {
        if let Some(sock) = self.sock {
            if self.connection.wants_close().is_none() {
                self.write(now, sock, backend);
            }
            if self.connection.wants_close().is_some() && !self.closing {
                self.closing = true;
                backend.close(sock);
            }
            return false;
        }
        if self.waiting.is_empty() {
            return false;
        }
        self.connect.start();
        while let Some(step) = self.connect.next_step(now, rng) {
            self.tried_at = now;
            self.backing_off = false;
            match step {
                Step::Resolve(deadline) => resolver.resolve(self.key, self.connect.host().clone(), deadline),
                Step::Open(address) => match backend.open(address, options) {
                    Ok(sock) => {
                        self.sock = Some(sock);
                        self.closing = false;
                        self.connection.connect_within(now, self.connect.try_time());
                        return false;
                    }
                    Err(error) => {
                        tracing::debug!(broker = self.id.0, %address, %error, "cannot open a socket");
                        self.connect.on_closed(now, error.kind(), rng);
                    }
                },
                // The connection watches the setup time; a try without a socket has none.
                Step::Close => {}
            }
        }
        let backing_off = self.connect.next_deadline().is_some();
        let failed = backing_off && !self.backing_off;
        if failed {
            self.failures += 1;
            self.warn(now);
        }
        self.backing_off = backing_off;
        failed
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

    /// Its name was looked up.
    pub fn on_resolved(&mut self, now: Time, resolution: Resolution, rng: &mut Rng) {
        self.connect.on_resolved(now, resolution.result, rng);
    }

    /// The socket is connected.
    pub fn on_connected(&mut self, now: Time) {
        self.connected_at = now;
        self.connect.on_connected();
        self.connection.on_connected(now);
    }

    /// The handshake is done.
    pub fn on_ready(&mut self) {
        self.connect.on_ready();
        self.failures = 0;
    }

    /// It works, but cannot do what is needed of any broker.
    pub fn on_useless(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Its socket is gone. True when that is a failure, not our own wish or a broker's that closed what was idle.
    pub fn on_gone(&mut self, now: Time, cause: &Cause, rng: &mut Rng) -> bool {
        self.sock = None;
        self.closing = false;
        // Calls of many kinds go this way. A broker that answers some of them and cuts at others at once does not work.
        let lasted = now.since(self.connected_at) >= self.connect.backoff_max();
        let worked = self.connection.has_answered() && lasted;
        if worked {
            self.connect.forget_failures();
            self.troubles.worked(self.connection.answered_call_at().unwrap_or_default(), &self.host().to_string());
        }
        if !cause.is_failure() {
            self.connect.stop();
            return false;
        }
        self.last_words = cause.to_string();
        if self.connect.is_up() {
            // What waits may wait for the next round; before it was up, the round goes on.
            self.backing_off = true;
            if !worked {
                self.warn(now);
            }
        }
        self.connect.on_closed(now, cause.io_kind(), rng);
        true
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
            self.failures = 0;
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
