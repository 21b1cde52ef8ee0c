//! Which address to try next, and when: the policy of one connection, without a socket and without a clock.
//!
//! ```text
//!   Idle ─ start ─► Resolve ─► Resolving ─ addresses ─► Open(a1) ─► Trying ─ ready ─► Up ─ an answer ─► failures forgotten
//!                      ▲           │ error                 │ refused, or setup time over: Close, then Open(a2) ...
//!                      │           ▼                       ▼ no address left
//!                      └──── Waiting (backoff, jitter) ◄───┴──────────────── Up lost ◄──
//! ```
//! A round tries every address of the name (KIP-302) before it waits; names are looked up anew in each round, because a
//! broker that moved has another address now. Each try has the whole setup time, from opening to [`Connect::on_ready`]:
//! a peer that accepts and then says nothing is given up as well. Failures are forgotten only when a call was answered: a
//! peer that shakes hands and then spoils every answer must not be tried at the first, short backoff for ever.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use super::host::HostPort;
use super::resolve::ResolveError;
use crate::base::backoff::{Backoff, BackoffRange};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::config::EngineSettings;

/// The thousandths of its set-up time that a try is given, at least and at most.
const SETUP_SHARE: (u64, u64) = (800, 1_200);

/// Times of a connection's policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectSettings {
    /// `socket.connection.setup.timeout.ms`: one try, from opening the socket to the end of the handshake.
    pub setup_timeout: Duration,
    /// `socket.connection.setup.timeout.max.ms`: the time of a try doubles up to this with each that ended by it (KIP-601),
    /// give or take a fifth, as in Java: clients that a slow broker failed together don't come back together.
    pub setup_timeout_max: Duration,
    /// Between rounds: `reconnect.backoff.ms` and `reconnect.backoff.max.ms`.
    pub backoff: BackoffRange,
}

impl Default for ConnectSettings {
    fn default() -> Self {
        let backoff = BackoffRange { first: Duration::from_millis(50), max: Duration::from_secs(1) };
        Self { setup_timeout: Duration::from_secs(10), setup_timeout_max: Duration::from_secs(30), backoff }
    }
}

impl ConnectSettings {
    /// From an engine's settings.
    pub fn new(settings: &EngineSettings) -> Self {
        Self {
            setup_timeout: settings.connection_setup_timeout,
            setup_timeout_max: settings.connection_setup_timeout_max,
            backoff: BackoffRange { first: settings.reconnect_backoff, max: settings.reconnect_backoff_max },
        }
    }
}

/// What the owner does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Look the name up, at the latest by this time, and report [`Connect::on_resolved`].
    Resolve(Time),
    /// Open a socket to this address and report [`Connect::on_connected`] or [`Connect::on_closed`].
    Open(SocketAddr),
    /// The setup time is over: close the socket. Its end need not be reported, the next address follows.
    Close,
}

/// Why there is no connection.
#[derive(Clone, PartialEq, Eq, Error, Debug)]
pub enum Failure {
    /// The name gave no address.
    #[error("{0}")]
    Resolve(ResolveError),
    /// The last address that was tried, or was connected, and what became of it.
    #[error("{0}: {1}")]
    Socket(SocketAddr, io::ErrorKind),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    /// A lookup is to be started.
    Lookup,
    Resolving,
    /// The next address is to be opened.
    Next,
    Trying {
        address: SocketAddr,
        until: Time,
        connected: bool,
    },
    Up {
        address: SocketAddr,
    },
    Waiting {
        until: Time,
    },
}

/// The policy of one connection. Its owner calls [`Connect::next_step`] until it gives nothing, after every event and at
/// [`Connect::next_deadline`].
#[derive(Clone, Debug)]
pub struct Connect {
    host: HostPort,
    settings: ConnectSettings,
    phase: Phase,
    addresses: VecDeque<SocketAddr>,
    backoff: Backoff,
    /// Tries in a row that ended by their time.
    late: u32,
    /// How long the last try was given.
    try_time: Duration,
    failure: Option<Failure>,
}

impl Connect {
    /// A policy that wants nothing until [`Connect::start`].
    pub fn new(host: HostPort, settings: ConnectSettings) -> Self {
        let backoff = Backoff::new(settings.backoff);
        let (phase, addresses, try_time) = (Phase::Idle, VecDeque::new(), settings.setup_timeout);
        Self { host, settings, phase, addresses, backoff, late: 0, try_time, failure: None }
    }

    /// Whom this connects to.
    pub fn host(&self) -> &HostPort {
        &self.host
    }

    /// The longest wait between two rounds.
    pub fn backoff_max(&self) -> Duration {
        self.settings.backoff.max
    }

    /// Somebody wants the connection. Nothing changes when it is wanted already.
    pub fn start(&mut self) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Lookup;
        }
    }

    /// Nobody wants it any more. The owner closes a socket that is open; backoff and last failure are kept.
    pub fn stop(&mut self) {
        self.phase = Phase::Idle;
        self.addresses.clear();
    }

    /// The broker moved (d4-74): the next round goes to another host.
    pub fn set_host(&mut self, host: HostPort) {
        if host != self.host {
            self.host = host;
            self.addresses.clear();
            self.forget_failures();
        }
    }

    /// How long the last [`Step::Open`] may take.
    pub fn try_time(&self) -> Duration {
        self.try_time
    }

    fn draw_try_time(&self, rng: &mut Rng) -> Duration {
        let ConnectSettings { setup_timeout, setup_timeout_max, .. } = self.settings;
        let doubled = 2u32.checked_pow(self.late).and_then(|times| setup_timeout.checked_mul(times));
        let most = setup_timeout_max.max(setup_timeout);
        let share = SETUP_SHARE.0 + rng.below(SETUP_SHARE.1 - SETUP_SHARE.0 + 1);
        let drawn = doubled.unwrap_or(most).min(most).mul_f64(share as f64 / 1_000.0);
        drawn.min(most)
    }

    /// What to do at `now`, if anything.
    pub fn next_step(&mut self, now: Time, rng: &mut Rng) -> Option<Step> {
        match self.phase {
            Phase::Waiting { until } if until <= now => {
                self.phase = Phase::Resolving;
                Some(Step::Resolve(now + self.settings.setup_timeout))
            }
            Phase::Lookup => {
                self.phase = Phase::Resolving;
                Some(Step::Resolve(now + self.settings.setup_timeout))
            }
            Phase::Next => match self.addresses.pop_front() {
                Some(address) => {
                    self.try_time = self.draw_try_time(rng);
                    let until = now + self.try_time;
                    self.phase = Phase::Trying { address, until, connected: false };
                    Some(Step::Open(address))
                }
                None => {
                    self.wait(now, rng);
                    None
                }
            },
            Phase::Trying { address, until, .. } if until <= now => {
                self.fail(address, io::ErrorKind::TimedOut);
                self.phase = Phase::Next;
                Some(Step::Close)
            }
            _ => None,
        }
    }

    /// The lookup ended.
    pub fn on_resolved(&mut self, now: Time, result: Result<Vec<SocketAddr>, ResolveError>, rng: &mut Rng) {
        if self.phase != Phase::Resolving {
            return; // the answer to a lookup that nobody waits for
        }
        match result {
            Ok(addresses) => {
                self.addresses = addresses.into();
                self.phase = Phase::Next;
            }
            Err(error) => {
                self.failure = Some(Failure::Resolve(error));
                self.wait(now, rng);
            }
        }
    }

    /// The socket is connected; the handshake begins.
    pub fn on_connected(&mut self) {
        if let Phase::Trying { connected, .. } = &mut self.phase {
            *connected = true;
        }
    }

    /// The handshake is through: the try has succeeded.
    pub fn on_ready(&mut self) {
        if let Phase::Trying { address, .. } = self.phase {
            self.phase = Phase::Up { address };
            self.addresses.clear();
            self.late = 0;
            self.failure = None;
        }
    }

    /// The connection has served a call: earlier failures do not count any more.
    pub fn forget_failures(&mut self) {
        self.backoff.reset();
        self.late = 0;
    }

    /// The socket is gone: refused, or lost after it was up; `TimedOut` when its time was over. Not to be called for the end of a socket that
    /// [`Step::Close`] or [`Connect::stop`] gave up.
    pub fn on_closed(&mut self, now: Time, why: io::ErrorKind, rng: &mut Rng) {
        match self.phase {
            Phase::Trying { address, .. } => {
                self.fail(address, why);
                self.phase = Phase::Next;
            }
            Phase::Up { address } => {
                self.failure = Some(Failure::Socket(address, why));
                self.wait(now, rng);
            }
            _ => {}
        }
    }

    /// When [`Connect::next_step`] must be called at the latest; `Time::ZERO` for at once.
    pub fn next_deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Lookup | Phase::Next => Some(Time::ZERO),
            Phase::Waiting { until } | Phase::Trying { until, .. } => Some(until),
            Phase::Idle | Phase::Resolving | Phase::Up { .. } => None,
        }
    }

    /// Whether the handshake is through.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// The address being tried or connected.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.phase {
            Phase::Trying { address, .. } | Phase::Up { address } => Some(address),
            _ => None,
        }
    }

    /// What went wrong last, until the next success.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    fn fail(&mut self, address: SocketAddr, why: io::ErrorKind) {
        self.late = if why == io::ErrorKind::TimedOut { self.late.saturating_add(1) } else { 0 };
        self.failure = Some(Failure::Socket(address, why));
    }

    fn wait(&mut self, now: Time, rng: &mut Rng) {
        self.addresses.clear();
        self.phase = Phase::Waiting { until: now + self.backoff.next(rng) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> (Connect, Rng) {
        (Connect::new("broker:9092".parse().unwrap(), ConnectSettings::default()), Rng::new(1))
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn addresses() -> Vec<SocketAddr> {
        vec!["10.0.0.1:9092".parse().unwrap(), "[::7]:9092".parse().unwrap()]
    }

    const REFUSED: io::ErrorKind = io::ErrorKind::ConnectionRefused;

    #[test]
    fn d4_81_every_address_is_tried_before_the_backoff() {
        let (mut connect, mut rng) = policy();
        assert_eq!((connect.next_step(at(0), &mut rng), connect.next_deadline()), (None, None));
        connect.start();
        connect.start();
        assert_eq!(connect.next_step(at(0), &mut rng), Some(Step::Resolve(at(10_000))));
        assert_eq!(connect.next_step(at(0), &mut rng), None);
        connect.on_resolved(at(1), Ok(addresses()), &mut rng);
        assert_eq!(connect.next_step(at(1), &mut rng), Some(Step::Open(addresses()[0])));
        assert_eq!(connect.next_deadline(), Some(at(1) + connect.try_time()));
        connect.on_closed(at(2), REFUSED, &mut rng);
        assert_eq!(connect.next_deadline(), Some(Time::ZERO));
        assert_eq!(connect.next_step(at(2), &mut rng), Some(Step::Open(addresses()[1])));
        connect.on_closed(at(3), REFUSED, &mut rng);
        assert_eq!(connect.next_step(at(3), &mut rng), None);
        let wait = connect.next_deadline().unwrap();
        assert!(wait > at(3) && wait <= at(53), "the first backoff is at most 50 ms: {wait:?}");
        assert_eq!(connect.next_step(Time(wait.0 - 1), &mut rng), None);
        // The name is looked up anew.
        assert!(matches!(connect.next_step(wait, &mut rng), Some(Step::Resolve(_))));
        assert_eq!(connect.failure(), Some(&Failure::Socket(addresses()[1], REFUSED)));
    }

    #[test]
    fn a_try_without_an_end_is_closed_at_its_time_and_the_next_address_follows() {
        let (mut connect, mut rng) = policy();
        connect.start();
        connect.next_step(at(0), &mut rng);
        connect.on_resolved(at(0), Ok(addresses()), &mut rng);
        connect.next_step(at(0), &mut rng);
        // Connected, but the handshake never ends.
        connect.on_connected();
        assert!(!connect.is_up());
        let end = connect.next_deadline().unwrap();
        assert!(end >= at(8_000) && end <= at(12_000), "{end:?}");
        assert_eq!(connect.next_step(Time(end.0 - 1), &mut rng), None);
        assert_eq!(connect.next_step(end, &mut rng), Some(Step::Close));
        assert_eq!(connect.failure(), Some(&Failure::Socket(addresses()[0], io::ErrorKind::TimedOut)));
        assert_eq!(connect.next_step(end, &mut rng), Some(Step::Open(addresses()[1])));
        connect.on_connected();
        connect.on_ready();
        assert!(connect.is_up() && connect.failure().is_none() && connect.next_deadline().is_none());
    }

    #[test]
    fn failed_rounds_wait_longer_and_success_forgets_them() {
        let (mut connect, mut rng) = policy();
        connect.start();
        let mut now = at(0);
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            assert!(matches!(connect.next_step(now, &mut rng), Some(Step::Resolve(_))));
            connect.on_resolved(now, Err(ResolveError::NoAddress), &mut rng);
            let until = connect.next_deadline().unwrap();
            longest = longest.max(now.until(until));
            now = until;
        }
        assert!(longest > Duration::from_millis(500) && longest <= Duration::from_secs(1), "{longest:?}");
        assert_eq!(connect.failure(), Some(&Failure::Resolve(ResolveError::NoAddress)));
        connect.next_step(now, &mut rng);
        connect.on_resolved(now, Ok(addresses()), &mut rng);
        connect.next_step(now, &mut rng);
        connect.on_connected();
        connect.on_ready();
        connect.forget_failures();
        // Lost after it worked: a short wait again, not the long one.
        connect.on_closed(now, io::ErrorKind::UnexpectedEof, &mut rng);
        assert!(now.until(connect.next_deadline().unwrap()) <= Duration::from_millis(50));
    }

    /// When 50 rounds are over that each end so far, and not by being refused.
    fn end_of_rounds(handshake: bool, why: io::ErrorKind) -> Time {
        let (mut connect, mut rng) = policy();
        connect.start();
        let mut now = at(0);
        for _ in 0..50 {
            connect.next_step(now, &mut rng);
            connect.on_resolved(now, Ok(vec![addresses()[0]]), &mut rng);
            assert!(matches!(connect.next_step(now, &mut rng), Some(Step::Open(_))));
            connect.on_connected();
            if handshake {
                connect.on_ready();
            }
            connect.on_closed(now, why, &mut rng);
            connect.next_step(now, &mut rng);
            now = connect.next_deadline().unwrap();
        }
        now
    }

    /// A peer that shakes hands and then spoils every answer: at the first backoff that would be 40 tries a second.
    #[test]
    fn d4_85_a_handshake_alone_does_not_forget_failures() {
        let end = end_of_rounds(true, io::ErrorKind::InvalidData);
        assert!(end > at(5_000), "50 rounds took only {end:?}");
    }

    /// A peer that accepts and hangs up at once, as a wrong listener does (d4-77).
    #[test]
    fn connecting_alone_does_not_forget_failures() {
        let end = end_of_rounds(false, io::ErrorKind::UnexpectedEof);
        assert!(end > at(5_000), "50 rounds took only {end:?}");
    }

    /// The times of a broker's first tries when each ends by its time; then one is refused, which is not slow at all.
    fn try_times(seed: u64) -> Vec<Duration> {
        let (mut connect, _) = policy();
        let mut rng = Rng::new(seed);
        connect.start();
        let mut now = at(0);
        let mut times = Vec::new();
        for refused in [false, false, false, false, true, false] {
            connect.next_step(now, &mut rng);
            connect.on_resolved(now, Ok(vec![addresses()[0]]), &mut rng);
            connect.next_step(now, &mut rng);
            times.push(connect.try_time());
            assert_eq!(connect.next_deadline(), Some(now + connect.try_time()));
            if refused {
                connect.on_closed(now, REFUSED, &mut rng);
            } else {
                now = connect.next_deadline().unwrap();
                assert_eq!(connect.next_step(now, &mut rng), Some(Step::Close));
            }
            connect.next_step(now, &mut rng);
            now = connect.next_deadline().unwrap();
        }
        times
    }

    #[test]
    fn k_601_a_slow_broker_gets_twice_the_time_at_each_try_give_or_take_a_fifth_up_to_the_maximum() {
        let runs: Vec<_> = (0..200).map(try_times).collect();
        assert_eq!(runs[7], try_times(7), "one seed, one run");
        for (nth, (least, most)) in [(8, 12), (16, 24), (24, 30), (24, 30), (24, 30), (8, 12)].into_iter().enumerate() {
            let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
            let drawn = || runs.iter().map(|times| times[nth]);
            assert!(drawn().all(|time| time >= least && time <= most), "{nth}: {:?}", drawn().max());
            let (low, high) = (least + (most - least) / 10, most - (most - least) / 10);
            assert!(drawn().any(|time| time < low) && drawn().any(|time| time > high), "{nth}: no spread");
        }
    }

    #[test]
    fn late_and_foreign_events_change_nothing() {
        let (mut connect, mut rng) = policy();
        connect.on_resolved(at(0), Ok(addresses()), &mut rng);
        connect.on_connected();
        connect.on_ready();
        connect.on_closed(at(0), REFUSED, &mut rng);
        assert_eq!((connect.next_step(at(0), &mut rng), connect.address()), (None, None));
        connect.start();
        connect.next_step(at(0), &mut rng);
        connect.stop();
        connect.on_resolved(at(1), Ok(addresses()), &mut rng);
        assert_eq!(connect.next_step(at(60_000), &mut rng), None);
    }

    #[test]
    fn d4_74_a_moved_broker_is_tried_at_its_new_host_in_the_next_round() {
        let (mut connect, mut rng) = policy();
        connect.start();
        connect.next_step(at(0), &mut rng);
        connect.on_resolved(at(0), Ok(addresses()), &mut rng);
        connect.next_step(at(0), &mut rng);
        connect.set_host("elsewhere:9093".parse().unwrap());
        connect.on_closed(at(1), REFUSED, &mut rng);
        assert_eq!(connect.next_step(at(1), &mut rng), None, "no old address is tried again");
        let until = connect.next_deadline().unwrap();
        assert!(matches!(connect.next_step(until, &mut rng), Some(Step::Resolve(_))));
        assert_eq!(connect.host().to_string(), "elsewhere:9093");
    }
}
