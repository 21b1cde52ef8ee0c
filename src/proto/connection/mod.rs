//! The protocol side of one broker connection. It owns no socket and never reads a clock.
//!
//! ```text
//!            connect        on_connected          ApiVersions answered
//!  Closed ───────────► Connecting ────────► Negotiating ────────────► Ready ──┐ submit, next_write, on_received
//!    ▲                     │                (Authenticating: later)    │ ◄────┘
//!    │      on_closed      ▼ deadline            ▼ nonsense            ▼ deadline, idle, misbehaviour, close
//!    └───────────────── Draining: the socket is being closed; the kernel may still hold our pieces
//! ```
//! Methods are of four kinds. *What happened*: [`Connection::on_connected`], [`on_received`](Connection::on_received),
//! [`on_sent`](Connection::on_sent), [`on_deadline`](Connection::on_deadline), [`on_closed`](Connection::on_closed).
//! *What the owner wants*: [`connect`](Connection::connect), [`submit`](Connection::submit),
//! [`close`](Connection::close), [`throttle`](Connection::throttle). *What to do next*:
//! [`next_write`](Connection::next_write), [`wants_close`](Connection::wants_close),
//! [`next_deadline`](Connection::next_deadline). The rest only looks. After anything happened the owner writes while
//! `next_write` gives something and no write is in flight, closes the socket when told, and waits until the deadline.
//!
//! Never: allocates by a length that the peer claims, answers out of order, retries a call on its own.
//!
//! Invariants: every accepted call ends exactly once (reply, last part, `written`, or `failed`), at the latest in
//! `on_closed`; at most one write is in flight; at most `max_in_flight` calls are unanswered.

mod call;
mod cause;
mod frames;
mod handshake;
mod versions;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

pub use call::{Call, Failure, Refused, RefusedWhy, Reply, ReplyMode, ReplyPart, Sink, Then, Written};
pub use cause::{Cause, PeerIncompatible, PeerMisbehaved};
pub use versions::Versions;

use crate::base::chunk::{ChunkPool, Piece};
use crate::base::edge::edge;
use crate::base::time::Time;
use crate::config::EngineSettings;
use crate::wire::frame;
use crate::wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use crate::wire::{ApiKey, EncodeError, ErrorCode, Message, Reader, Request};
use frames::{Due, Front};
use handshake::Handshake;

/// No broker may silence a connection for longer than this, whatever it says.
pub const THROTTLE_MAX: Duration = Duration::from_secs(60);
/// The reused buffer of straddling frames is given up beyond this size.
const PARTIAL_KEEP_BYTES: usize = 256 << 10;
/// Bytes of length prefix, API key, version and correlation id: what every request frame begins with.
const HEAD_BYTES_MIN: usize = 12;
/// Lists for inserts kept for reuse.
const SPARE_LISTS_MAX: usize = 16;

/// What the connections of one engine share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionSettings {
    /// `client.id`.
    pub client_id: String,
    /// Time for connecting and the handshake together.
    pub setup_timeout: Duration,
    /// Time for one answer, from writing on.
    pub request_timeout: Duration,
    /// Unused for so long: closed.
    pub max_idle: Duration,
    /// Calls without an answer at a time, at least 1.
    pub max_in_flight: usize,
    /// The largest frame accepted, in bytes without its length prefix.
    pub frame_bytes_max: usize,
}

impl ConnectionSettings {
    /// From an engine's settings.
    pub fn new(settings: &EngineSettings) -> Self {
        Self {
            client_id: settings.client_id.clone(),
            setup_timeout: settings.connection_setup_timeout,
            request_timeout: settings.request_timeout,
            max_idle: settings.connections_max_idle,
            max_in_flight: settings.max_in_flight_requests.max(1),
            frame_bytes_max: settings.receive_message_max_bytes,
        }
    }
}

/// Appends a whole request frame, as [`Call::head`] wants it, to `out`.
pub fn encode_head<R: Request>(
    client_id: &str,
    version: i16,
    request: &R,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    frame::encode_request(version, 0, Some(client_id), request, out)
}

/// Counters of one connection since it was made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ConnectionStats {
    /// Requests handed out for writing.
    pub requests: u64,
    /// Replies received completely.
    pub replies: u64,
    /// Bytes handed out for writing.
    pub written_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Answers that asked for silence.
    pub throttled: u64,
    /// Handshakes completed.
    pub handshakes: u64,
}

#[derive(Debug)]
enum Phase {
    /// No socket.
    Closed,
    /// The socket connects.
    Connecting { deadline: Time },
    /// ApiVersions is under way.
    Negotiating { deadline: Time },
    /// Calls are accepted.
    Ready { versions: Rc<Versions> },
    /// The socket is to be closed; calls end when it is.
    Draining { cause: Cause },
}

/// Who a call belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    /// Our own ApiVersions.
    Handshake,
    /// The owner's.
    Owner { tag: u64, reply: ReplyMode },
}

#[derive(Debug)]
struct Unanswered {
    whose: Whose,
    api: ApiKey,
    version: i16,
    correlation: i32,
    timeout: Duration,
    /// Of the answer once written, of the whole while queued.
    deadline: Time,
    /// Where its bytes begin in the write in flight; `u64::MAX` once that write is done.
    write_at: u64,
}

impl Unanswered {
    /// When it was handed out for writing.
    fn sent_at(&self) -> Time {
        Time(self.deadline.0.saturating_sub(u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[derive(Debug)]
struct Queued {
    unanswered: Unanswered,
    head: Piece,
    inserts: Vec<(u32, Piece)>,
    bytes: usize,
}

/// The rest of a body that is given out as it comes.
#[derive(Debug, Clone, Copy)]
struct Stream {
    offset: usize,
    total: usize,
}

/// One broker connection; see the module.
#[derive(Debug)]
pub struct Connection {
    settings: Rc<ConnectionSettings>,
    pool: ChunkPool,
    phase: Phase,
    handshake: Handshake,
    correlation: i32,
    /// Accepted, not yet handed out for writing.
    queue: VecDeque<Queued>,
    /// Handed out, unanswered, oldest first. Without those that expect no reply.
    in_flight: VecDeque<Unanswered>,
    /// Handed out in the write in flight and expecting no reply.
    unreplied: Vec<Unanswered>,
    writing: bool,
    /// The frame that straddles receives, from its length prefix on.
    partial: Vec<u8>,
    /// What `partial` must hold before looking at it again.
    partial_need: usize,
    stream: Option<Stream>,
    /// Nothing of a broker was understood yet on this socket.
    first: bool,
    /// When the call of the owner was sent that was last answered on this socket, or the last one.
    answered: Option<Time>,
    silent_until: Time,
    used_at: Time,
    scratch: Vec<u8>,
    spare_lists: Vec<Vec<(u32, Piece)>>,
    stats: ConnectionStats,
}

impl Connection {
    /// A closed connection. `pool` is where the bytes of requests are kept until they are written.
    pub fn new(settings: Rc<ConnectionSettings>, pool: ChunkPool) -> Self {
        Self {
            settings,
            pool,
            phase: Phase::Closed,
            handshake: Handshake::new(),
            correlation: 0,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            unreplied: Vec::new(),
            writing: false,
            partial: Vec::new(),
            partial_need: 0,
            stream: None,
            first: true,
            answered: None,
            silent_until: Time::ZERO,
            used_at: Time::ZERO,
            scratch: Vec::new(),
            spare_lists: Vec::new(),
            stats: ConnectionStats::default(),
        }
    }

    // ---- What the owner wants ----

    /// The owner opens a socket now. Only from closed; otherwise nothing happens.
    pub fn connect(&mut self, now: Time) {
        self.connect_within(now, self.settings.setup_timeout);
    }

    /// As [`Connection::connect`], with another time for connecting and the handshake than the settings'.
    pub fn connect_within(&mut self, now: Time, setup_time: Duration) {
        if matches!(self.phase, Phase::Closed) {
            edge("connection: closed -> connecting");
            self.answered = None;
            self.phase = Phase::Connecting { deadline: now + setup_time };
        }
    }

    /// Accepts a call, or gives it back. It goes out with the next write.
    pub fn submit<'a>(&mut self, now: Time, mut call: Call<'a>) -> Result<(), Refused<'a>> {
        if !matches!(self.phase, Phase::Ready { .. }) {
            return Err(Refused { call, why: RefusedWhy::NotReady });
        }
        if self.free_slots(now) == 0 {
            return Err(Refused { call, why: RefusedWhy::Busy });
        }
        let mut last = HEAD_BYTES_MIN;
        let mut bytes = call.head.len();
        for (at, piece) in &call.inserts {
            if (*at as usize) < last || *at as usize > call.head.len() {
                return Err(Refused { call, why: RefusedWhy::Malformed });
            }
            last = *at as usize;
            bytes += piece.len();
        }
        if call.head.len() < HEAD_BYTES_MIN || i32::try_from(bytes - 4).is_err() {
            return Err(Refused { call, why: RefusedWhy::Malformed });
        }
        let inserts = std::mem::take(&mut call.inserts);
        let whose = Whose::Owner { tag: call.tag, reply: call.reply };
        let timeout = call.timeout.unwrap_or(self.settings.request_timeout);
        self.enqueue(now, whose, call.api, call.version, call.head, inserts, bytes, timeout);
        Ok(())
    }

    /// Ends the connection: [`Connection::wants_close`] says so, and all calls fail in `on_closed`.
    pub fn close(&mut self, why: &'static str) {
        self.drain(Cause::Owner(why));
    }

    /// Keeps silent for a throttle time that the owner learned elsewhere than from [`Sink::reply`].
    pub fn throttle(&mut self, now: Time, throttle_ms: i32) {
        let Ok(ms @ 1..) = u64::try_from(throttle_ms) else { return };
        self.stats.throttled += 1;
        self.silent_until = self.silent_until.max(now + Duration::from_millis(ms).min(THROTTLE_MAX));
    }

    /// An empty list for [`Call::inserts`] with room from earlier use.
    pub fn take_inserts(&mut self) -> Vec<(u32, Piece)> {
        self.spare_lists.pop().unwrap_or_default()
    }

    // ---- What happened ----

    /// The socket is connected: the handshake begins.
    pub fn on_connected(&mut self, now: Time) {
        let Phase::Connecting { deadline } = self.phase else { return };
        edge("connection: connecting -> negotiating");
        self.phase = Phase::Negotiating { deadline };
        self.first = true;
        self.used_at = now;
        self.negotiate(now, self.handshake.version());
    }

    /// Bytes arrived. `bytes` is not needed after this call.
    pub fn on_received(&mut self, now: Time, bytes: &[u8], sink: &mut impl Sink) {
        self.stats.received_bytes += bytes.len() as u64;
        self.used_at = now;
        let mut rest = bytes;
        while !rest.is_empty() && matches!(self.phase, Phase::Negotiating { .. } | Phase::Ready { .. }) {
            let taken = match self.stream {
                Some(stream) => self.receive_stream(now, stream, rest, 0, sink),
                None if self.partial.is_empty() => self.receive_in_place(now, rest, sink),
                None => self.receive_partial(now, rest, sink),
            };
            match taken {
                Ok(count) => rest = &rest[count..],
                Err(cause) => self.drain(cause),
            }
        }
    }

    /// Bytes that are still to come of a body that is given out in parts: so many may be received into its owner's memory, and
    /// told by [`Connection::on_landed`].
    pub fn body_rest(&self) -> usize {
        match (&self.phase, self.stream) {
            (Phase::Ready { .. }, Some(Stream { offset, total })) => total - offset,
            _ => 0,
        }
    }

    /// `count` bytes arrived in the owner's memory, no more than [`Connection::body_rest`].
    pub fn on_landed(&mut self, now: Time, count: usize, sink: &mut impl Sink) {
        self.stats.received_bytes += count as u64;
        self.used_at = now;
        if let (Phase::Ready { .. }, Some(stream)) = (&self.phase, self.stream)
            && let Err(cause) = self.receive_stream(now, stream, &[], count, sink)
        {
            self.drain(cause);
        }
    }

    /// All bytes of the last write were taken by the kernel. True when there is something to do now: calls that nobody
    /// answers have ended by it, or more can be written.
    pub fn on_sent(&mut self, now: Time, sink: &mut impl Sink) -> bool {
        self.writing = false;
        self.used_at = now;
        let goes_on = !self.unreplied.is_empty() || !self.queue.is_empty();
        for call in self.unreplied.drain(..) {
            if let Whose::Owner { tag, .. } = call.whose {
                sink.written(tag, call.api);
            }
        }
        for call in self.in_flight.iter_mut().rev() {
            if call.write_at == u64::MAX {
                break;
            }
            call.write_at = u64::MAX;
        }
        goes_on
    }

    /// A write is in flight.
    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// Time has passed.
    pub fn on_deadline(&mut self, now: Time, sink: &mut impl Sink) {
        match self.phase {
            Phase::Connecting { deadline } if deadline <= now => self.drain(Cause::SetupTimeout("connecting")),
            Phase::Negotiating { deadline } if deadline <= now => self.drain(Cause::SetupTimeout("handshake")),
            Phase::Ready { .. } => {
                if let Some(late) = self.in_flight.iter().chain(&self.unreplied).find(|call| call.deadline <= now) {
                    self.drain(Cause::RequestTimeout(late.api));
                    return;
                }
                self.expire_queued(now, sink);
                if self.is_idle() && self.used_at + self.settings.max_idle <= now {
                    self.drain(Cause::Idle);
                }
            }
            _ => {}
        }
    }

    /// The socket is gone. `written` is how many bytes of the write in flight the kernel took. Every call that is left
    /// ends here; the connection can be connected again.
    pub fn on_closed(&mut self, error: &io::Error, written: usize, sink: &mut impl Sink) {
        let negotiating = matches!(self.phase, Phase::Negotiating { .. });
        edge(match self.phase {
            Phase::Closed | Phase::Connecting { .. } => "connection: connecting -> closed",
            Phase::Negotiating { .. } => "connection: negotiating -> closed",
            Phase::Ready { .. } => "connection: ready -> closed",
            Phase::Draining { .. } => "connection: draining -> closed",
        });
        let cause = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Draining { cause } => cause,
            _ => Cause::from_io(error),
        };
        if negotiating {
            self.handshake.on_reset();
        }
        let written = written as u64;
        let mut fail = |call: Unanswered, written: Written| {
            if let Whose::Owner { tag, .. } = call.whose {
                sink.failed(Failure { tag, api: call.api, written, cause: &cause });
            }
        };
        // In the order of submission, as far as replies order them.
        let seen = |call: &Unanswered| match call.write_at {
            at if at != u64::MAX && at >= written => Written::No,
            _ => Written::Maybe,
        };
        for call in self.in_flight.drain(..) {
            let written = seen(&call);
            fail(call, written);
        }
        for call in self.unreplied.drain(..) {
            let written = seen(&call);
            fail(call, written);
        }
        for queued in self.queue.drain(..) {
            fail(queued.unanswered, Written::No);
        }
        self.writing = false;
        self.partial = Vec::new();
        self.stream = None;
        self.silent_until = Time::ZERO;
    }

    // ---- What to do next ----

    /// Gathers everything that may be written now into `pieces`, in order. False, and nothing added, when there is nothing
    /// to write or a write is in flight. After true the owner writes them and reports `on_sent` or `on_closed`.
    pub fn next_write(&mut self, now: Time, pieces: &mut Vec<Piece>) -> bool {
        if self.writing
            || self.queue.is_empty()
            || !matches!(self.phase, Phase::Negotiating { .. } | Phase::Ready { .. })
            || (self.silent_until > now && !matches!(self.phase, Phase::Negotiating { .. }))
        {
            return false;
        }
        let mut at = 0u64;
        while let Some(Queued { mut unanswered, head, mut inserts, bytes }) = self.queue.pop_front() {
            let mut from = 0;
            for (until, piece) in inserts.drain(..) {
                let until = until as usize;
                if until > from {
                    pieces.push(head.slice(from, until));
                }
                pieces.push(piece);
                from = until;
            }
            if from < head.len() {
                pieces.push(head.slice(from, head.len()));
            }
            if self.spare_lists.len() < SPARE_LISTS_MAX && inserts.capacity() > 0 {
                self.spare_lists.push(inserts);
            }
            unanswered.write_at = at;
            unanswered.deadline = now + unanswered.timeout;
            at += bytes as u64;
            self.stats.requests += 1;
            match unanswered.whose {
                Whose::Owner { reply: ReplyMode::None, .. } => self.unreplied.push(unanswered),
                _ => self.in_flight.push_back(unanswered),
            }
        }
        self.stats.written_bytes += at;
        self.writing = true;
        self.used_at = now;
        true
    }

    /// Why the owner must close the socket now; none when it need not.
    pub fn wants_close(&self) -> Option<&Cause> {
        match &self.phase {
            Phase::Draining { cause } => Some(cause),
            _ => None,
        }
    }

    /// Why the connection ended, to be asked when its socket is gone and before [`Connection::on_closed`]: our own reason, or
    /// the kernel's. A broker that closes what is idle and has served before does nobody harm (d4-76).
    pub fn end_of(&self, error: &io::Error) -> Cause {
        match &self.phase {
            Phase::Draining { cause } => cause.clone(),
            Phase::Ready { .. }
                if self.has_answered() && self.is_idle() && error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Cause::IdleByPeer
            }
            _ => Cause::from_io(error),
        }
    }

    /// When [`Connection::on_deadline`] or [`Connection::next_write`] has something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Time {
        match self.phase {
            Phase::Closed | Phase::Draining { .. } => Time::NEVER,
            Phase::Connecting { deadline } | Phase::Negotiating { deadline } => deadline,
            Phase::Ready { .. } => {
                let calls = self.in_flight.iter().chain(&self.unreplied).map(|call| call.deadline);
                let queued = self.queue.iter().map(|queued| queued.unanswered.deadline);
                let mut next = calls.chain(queued).min().unwrap_or(Time::NEVER);
                if !self.queue.is_empty() && self.silent_until > Time::ZERO && !self.writing {
                    next = next.min(self.silent_until);
                }
                if self.is_idle() { next.min(self.used_at + self.settings.max_idle) } else { next }
            }
        }
    }

    // ---- Only looking ----

    /// What the broker can do, once the handshake is done.
    pub fn versions(&self) -> Option<&Rc<Versions>> {
        match &self.phase {
            Phase::Ready { versions } => Some(versions),
            _ => None,
        }
    }

    /// Calls are accepted (if there is a free slot).
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// There is no socket: [`Connection::connect`] may be called.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// No call is queued or unanswered.
    pub fn is_idle(&self) -> bool {
        self.unanswered() == 0
    }

    /// Whether a call was answered since the last [`Connection::connect`]; still told after the end.
    pub fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// When the last of those calls was sent: at some time after that the broker worked.
    pub fn answered_call_at(&self) -> Option<Time> {
        self.answered
    }

    /// Calls queued or unanswered.
    pub fn unanswered(&self) -> usize {
        self.queue.len() + self.in_flight.len() + self.unreplied.len()
    }

    /// How many calls may be submitted now: 0 when not ready, throttled or full.
    pub fn free_slots(&self, now: Time) -> usize {
        if !self.is_ready() || self.silent_until > now {
            return 0;
        }
        self.settings.max_in_flight.saturating_sub(self.unanswered())
    }

    /// For how long the oldest call that was handed out for writing has had no answer; zero without one. A hint that the
    /// broker may be dead long before its deadline proves it.
    pub fn silent_for(&self, now: Time) -> Duration {
        self.in_flight.front().map_or(Duration::ZERO, |call| (now + call.timeout).since(call.deadline))
    }

    /// Until when the broker asked for silence; in the past when it did not.
    pub fn throttled_until(&self) -> Time {
        self.silent_until
    }

    /// Counters.
    pub fn stats(&self) -> ConnectionStats {
        self.stats
    }

    /// The shared settings.
    pub fn settings(&self) -> &Rc<ConnectionSettings> {
        &self.settings
    }

    // ---- Inside ----

    fn drain(&mut self, cause: Cause) {
        if !matches!(self.phase, Phase::Closed | Phase::Draining { .. }) {
            edge(match self.phase {
                Phase::Connecting { .. } => "connection: connecting -> draining",
                Phase::Negotiating { .. } => "connection: negotiating -> draining",
                _ => "connection: ready -> draining",
            });
            self.phase = Phase::Draining { cause };
        }
    }

    fn negotiate(&mut self, now: Time, version: i16) {
        let request = ApiVersionsRequest {
            client_software_name: "ottla".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        let encoded = encode_head(&self.settings.client_id, version, &request, &mut head);
        match encoded {
            Ok(()) => {
                let bytes = head.len();
                let timeout = self.settings.setup_timeout;
                let api = ApiKey::ApiVersions;
                self.enqueue(now, Whose::Handshake, api, version, &head, Vec::new(), bytes, timeout);
            }
            Err(_) => self.drain(PeerIncompatible::NoApiVersions.into()),
        }
        self.scratch = head;
    }

    #[expect(clippy::too_many_arguments)]
    fn enqueue(
        &mut self,
        now: Time,
        whose: Whose,
        api: ApiKey,
        version: i16,
        head: &[u8],
        inserts: Vec<(u32, Piece)>,
        bytes: usize,
        timeout: Duration,
    ) {
        let correlation = self.correlation;
        self.correlation = self.correlation.checked_add(1).unwrap_or(0);
        let mut chunk = self.pool.take(head.len());
        chunk.put(head);
        let filled = chunk.filled_mut();
        // The caller checked that all of it fits an i32.
        filled[0..4].copy_from_slice(&((bytes - 4) as i32).to_be_bytes());
        filled[8..12].copy_from_slice(&correlation.to_be_bytes());
        let deadline = now + timeout;
        let unanswered = Unanswered { whose, api, version, correlation, timeout, deadline, write_at: u64::MAX };
        self.queue.push_back(Queued { unanswered, head: Piece::whole(chunk), inserts, bytes });
    }

    /// Fails what waited too long to be written at all (throttled).
    fn expire_queued(&mut self, now: Time, sink: &mut impl Sink) {
        if self.queue.iter().all(|queued| queued.unanswered.deadline > now) {
            return;
        }
        self.queue.retain(|queued| {
            let call = &queued.unanswered;
            let late = call.deadline <= now;
            if let (true, Whose::Owner { tag, .. }) = (late, call.whose) {
                let cause = Cause::RequestTimeout(call.api);
                sink.failed(Failure { tag, api: call.api, written: Written::No, cause: &cause });
            }
            !late
        });
    }

    fn due(&self) -> Option<Due> {
        self.in_flight.front().map(|call| Due {
            correlation: call.correlation,
            flexible: call.api.response_header_version(call.version) >= 1,
            parts: matches!(call.whose, Whose::Owner { reply: ReplyMode::Parts, .. }),
        })
    }

    /// A frame that begins at the front of `bytes`. How many bytes were used.
    fn receive_in_place(&mut self, now: Time, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Cause> {
        match frames::inspect(bytes, self.due(), self.settings.frame_bytes_max, self.first)? {
            Front::Short(need) => {
                self.partial.extend_from_slice(bytes);
                self.partial_need = need;
                Ok(bytes.len())
            }
            Front::Whole { start, end } => {
                self.finish_whole(now, &bytes[start..end], sink)?;
                Ok(end)
            }
            Front::Parts { start, end } => {
                self.start_stream(now, end - start, sink)?;
                Ok(start)
            }
        }
    }

    /// The continuation of a frame that began earlier. How many bytes were used.
    fn receive_partial(&mut self, now: Time, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Cause> {
        let count = self.partial_need.saturating_sub(self.partial.len()).min(bytes.len());
        self.partial.extend_from_slice(&bytes[..count]);
        if self.partial.len() < self.partial_need {
            return Ok(count);
        }
        match frames::inspect(&self.partial, self.due(), self.settings.frame_bytes_max, self.first)? {
            Front::Short(need) => self.partial_need = need,
            Front::Whole { start, end } => {
                let mut partial = std::mem::take(&mut self.partial);
                let done = self.finish_whole(now, &partial[start..end], sink);
                if partial.capacity() <= PARTIAL_KEEP_BYTES {
                    partial.clear();
                    self.partial = partial;
                }
                done?;
            }
            Front::Parts { start, end } => {
                // `inspect` asks for no more than the header, but may have been given body bytes before it knew.
                let partial = std::mem::take(&mut self.partial);
                self.start_stream(now, end - start, sink)?;
                let mut early = &partial[start..];
                while let (Some(stream), false) = (self.stream, early.is_empty()) {
                    let used = self.receive_stream(now, stream, early, 0, sink)?;
                    early = &early[used..];
                }
            }
        }
        Ok(count)
    }

    fn start_stream(&mut self, now: Time, total: usize, sink: &mut impl Sink) -> Result<(), Cause> {
        self.first = false;
        let stream = Stream { offset: 0, total };
        self.stream = Some(stream);
        if total == 0 {
            self.receive_stream(now, stream, &[], 0, sink)?;
        }
        Ok(())
    }

    /// The next part of a body that is given out as it comes: `bytes`, or so many that landed. How many were used.
    fn receive_stream(
        &mut self,
        now: Time,
        stream: Stream,
        bytes: &[u8],
        landed: usize,
        sink: &mut impl Sink,
    ) -> Result<usize, Cause> {
        let Stream { offset, total } = stream;
        let bytes = &bytes[..bytes.len().min(total - offset)];
        let landed = landed.min(total - offset - bytes.len());
        let count = bytes.len() + landed;
        let Some(Unanswered { whose: Whose::Owner { tag, .. }, api, version, .. }) = self.in_flight.front() else {
            return Err(PeerMisbehaved::Unasked.into());
        };
        let part = ReplyPart { tag: *tag, api: *api, version: *version, total, offset, bytes, landed };
        let then = if part.is_last() {
            // The call ends with this part, whatever the owner says about it.
            self.stream = None;
            self.stats.replies += 1;
            let then = sink.reply_part(part);
            let call = self.in_flight.pop_front();
            if !matches!(then, Then::Kill(_)) {
                self.answered = call.map(|call| call.sent_at());
            }
            then
        } else {
            self.stream = Some(Stream { offset: offset + count, total });
            sink.reply_part(part)
        };
        self.follow(now, then)?;
        Ok(count)
    }

    fn finish_whole(&mut self, now: Time, body: &[u8], sink: &mut impl Sink) -> Result<(), Cause> {
        self.first = false;
        let Some(call) = self.in_flight.pop_front() else { return Err(PeerMisbehaved::Unasked.into()) };
        self.stats.replies += 1;
        let sent_at = call.sent_at();
        match call.whose {
            Whose::Handshake => self.negotiated(now, call.version, body, sink),
            Whose::Owner { tag, .. } => {
                let then = sink.reply(Reply { tag, api: call.api, version: call.version, body });
                if !matches!(then, Then::Kill(_)) {
                    self.answered = Some(sent_at);
                }
                self.follow(now, then)
            }
        }
    }

    fn follow(&mut self, now: Time, then: Then) -> Result<(), Cause> {
        match then {
            Then::Continue => Ok(()),
            Then::Throttle(ms) => {
                self.throttle(now, ms);
                Ok(())
            }
            Then::Kill(what) => Err(PeerMisbehaved::Malformed(what).into()),
        }
    }

    fn negotiated(&mut self, now: Time, sent: i16, body: &[u8], sink: &mut impl Sink) -> Result<(), Cause> {
        // The error code comes first in every version; a broker that does not know the version answers in version 0.
        let code = match body.first_chunk::<2>() {
            Some(code) => ErrorCode::from(i16::from_be_bytes(*code)),
            None => return Err(PeerMisbehaved::Malformed("ApiVersions").into()),
        };
        let unsupported = code == ErrorCode::UnsupportedVersion;
        let decoded = ApiVersionsResponse::decode(if unsupported { 0 } else { sent }, &mut Reader::new(body));
        if unsupported {
            let offered = decoded.ok().and_then(|answer| versions_of(&answer).offered(ApiKey::ApiVersions));
            let Some(next) = self.handshake.on_unsupported(sent, offered) else {
                return Err(PeerIncompatible::NoApiVersions.into());
            };
            self.negotiate(now, next);
            return Ok(());
        }
        if code != ErrorCode::None {
            return Err(PeerMisbehaved::ApiVersions(code).into());
        }
        let Ok(answer) = decoded else { return Err(PeerMisbehaved::Malformed("ApiVersions").into()) };
        let versions = Rc::new(versions_of(&answer));
        self.handshake.on_success(versions.offered(ApiKey::ApiVersions));
        self.stats.handshakes += 1;
        self.throttle(now, answer.throttle_time_ms);
        edge("connection: negotiating -> ready");
        self.phase = Phase::Ready { versions: Rc::clone(&versions) };
        sink.ready(&versions);
        Ok(())
    }
}

fn versions_of(answer: &ApiVersionsResponse) -> Versions {
    let apis = answer.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version));
    let features = answer.finalized_features.iter().map(|feature| (feature.name.clone(), feature.max_version_level));
    Versions::new(apis).with_features(answer.finalized_features_epoch, features)
}
