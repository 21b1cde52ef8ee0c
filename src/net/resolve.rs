//! Looking names up without blocking anybody but a helper thread.
//!
//! ```text
//!   owner ── resolve(key, host, deadline) ──► queue ──► helper: getaddrinfo ──► answers ──► notify(), owner: next(now)
//! ```
//! The helper is started by the first name (addresses need none). `getaddrinfo` cannot be stopped, so when a lookup passes
//! its deadline its helper is let go, to end by itself, and the names behind it get a new one.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use thiserror::Error;

use super::host::HostPort;
use crate::base::time::Time;

/// Helpers that may hang in a lookup at the same time, the current one included.
const HELPERS_MAX: usize = 4;

/// Why a name gave no address.
#[derive(Clone, PartialEq, Eq, Error, Debug)]
pub enum ResolveError {
    /// No answer before the deadline.
    #[error("no answer from name resolution in time")]
    TimedOut,
    /// An answer without any address.
    #[error("the name has no address")]
    NoAddress,
    /// What the system's resolver said.
    #[error("{0}")]
    Failed(String),
    /// No helper thread could be started.
    #[error("no thread for name resolution: {0}")]
    NoThread(String),
}

/// The answer to one lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// What the caller gave.
    pub key: u64,
    /// All addresses in the system's order of preference (RFC 6724), each once.
    pub result: Result<Vec<SocketAddr>, ResolveError>,
}

/// The function behind the helper: `getaddrinfo`, or a test's own.
pub type Lookup = dyn Fn(&HostPort) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// One thread's lookups.
pub struct Resolver {
    lookup: Arc<Lookup>,
    notify: Arc<dyn Fn() + Send + Sync>,
    helper: Option<Sender<(u64, HostPort)>>,
    answers: (Sender<Answer>, Receiver<Answer>),
    /// Lookups without an answer, oldest first, and when they end.
    pending: VecDeque<Pending>,
    /// Answers that needed no helper, and timeouts.
    ready: VecDeque<Resolution>,
    sequence: u64,
    /// Helpers in lookups that passed their deadline.
    hanging: Vec<u64>,
}

struct Pending {
    sequence: u64,
    key: u64,
    host: HostPort,
    deadline: Time,
}

struct Answer {
    sequence: u64,
    result: io::Result<Vec<SocketAddr>>,
}

impl Resolver {
    /// A resolver that uses the system's `getaddrinfo`. `notify` runs on the helper after every answer; it wakes the owner.
    pub fn new(notify: impl Fn() + Send + Sync + 'static) -> Self {
        let lookup = |host: &HostPort| (host.host(), host.port()).to_socket_addrs().map(Iterator::collect);
        Self::with_lookup(Arc::new(lookup), notify)
    }

    /// A resolver with a lookup of its own.
    pub fn with_lookup(lookup: Arc<Lookup>, notify: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            lookup,
            notify: Arc::new(notify),
            helper: None,
            answers: unbounded(),
            pending: VecDeque::new(),
            ready: VecDeque::new(),
            sequence: 0,
            hanging: Vec::new(),
        }
    }

    /// Asks for a host's addresses. [`Resolver::next`] answers under `key`, at the latest at `deadline`.
    pub fn resolve(&mut self, key: u64, host: HostPort, deadline: Time) {
        if let Some(address) = host.literal() {
            self.ready.push_back(Resolution { key, result: Ok(vec![address]) });
            return;
        }
        self.sequence += 1;
        let pending = Pending { sequence: self.sequence, key, host, deadline };
        match self.ask(pending.sequence, pending.host.clone()) {
            Ok(()) => self.pending.push_back(pending),
            Err(error) => self.ready.push_back(Resolution { key, result: Err(error) }),
        }
    }

    /// The next answer, if there is one at `now`.
    pub fn next(&mut self, now: Time) -> Option<Resolution> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        while let Ok(Answer { sequence, result }) = self.answers.1.try_recv() {
            self.hanging.retain(|hanging| *hanging != sequence);
            let Some(at) = self.pending.iter().position(|pending| pending.sequence == sequence) else { continue };
            let Some(pending) = self.pending.remove(at) else { continue };
            return Some(Resolution { key: pending.key, result: addresses(result) });
        }
        let at = self.pending.iter().position(|pending| pending.deadline <= now)?;
        let late = self.pending.remove(at)?;
        // The helper works in order: it hangs in the oldest lookup, and the others wait behind it.
        if at == 0 {
            self.replace_helper(late.sequence);
        }
        Some(Resolution { key: late.key, result: Err(ResolveError::TimedOut) })
    }

    /// When [`Resolver::next`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.ready.is_empty() {
            return Some(Time::ZERO);
        }
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    fn ask(&mut self, sequence: u64, host: HostPort) -> Result<(), ResolveError> {
        let helper = match &self.helper {
            Some(helper) => helper,
            None => {
                let (questions, inbox) = unbounded();
                let (lookup, notify, answers) = (self.lookup.clone(), self.notify.clone(), self.answers.0.clone());
                // Detached: it ends when the sender of its questions is dropped.
                thread::Builder::new()
                    .name("ottla-names".to_owned())
                    .spawn(move || help(&inbox, &*lookup, &answers, &*notify))
                    .map_err(|error| ResolveError::NoThread(error.to_string()))?;
                self.helper.insert(questions)
            }
        };
        let gone = helper.send((sequence, host));
        gone.map_err(|_| ResolveError::NoThread("the helper ended".to_owned()))
    }

    /// Lets the helper that hangs in `sequence` go and asks a new one for what waits behind it.
    fn replace_helper(&mut self, sequence: u64) {
        if self.hanging.len() + 1 >= HELPERS_MAX {
            return;
        }
        self.hanging.push(sequence);
        self.helper = None;
        let waiting: Vec<_> = self.pending.iter().map(|pending| (pending.sequence, pending.host.clone())).collect();
        for (sequence, host) in waiting {
            // An answer may come twice if the old helper wakes up: the second finds nothing pending.
            if self.ask(sequence, host).is_err() {
                return;
            }
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({} pending, {} hanging)", self.pending.len(), self.hanging.len())
    }
}

/// The helper's loop. Ends when the questions' sender is dropped, or nobody wants answers.
fn help(
    inbox: &Receiver<(u64, HostPort)>,
    lookup: &Lookup,
    answers: &Sender<Answer>,
    notify: &(dyn Fn() + Send + Sync),
) {
    for (sequence, host) in inbox {
        if answers.send(Answer { sequence, result: lookup(&host) }).is_err() {
            return;
        }
        notify();
    }
}

fn addresses(result: io::Result<Vec<SocketAddr>>) -> Result<Vec<SocketAddr>, ResolveError> {
    let all = result.map_err(|error| ResolveError::Failed(error.to_string()))?;
    let mut each = Vec::with_capacity(all.len());
    for address in all {
        if !each.contains(&address) {
            each.push(address);
        }
    }
    if each.is_empty() { Err(ResolveError::NoAddress) } else { Ok(each) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    /// Counts notifications and lets a test wait for one.
    #[derive(Default)]
    struct Bell(Mutex<usize>, Condvar);

    impl Bell {
        fn ring(&self) {
            *self.0.lock().unwrap() += 1;
            self.1.notify_all();
        }

        fn wait_for(&self, count: usize) {
            let rung = self.1.wait_timeout_while(self.0.lock().unwrap(), Duration::from_secs(20), |n| *n < count);
            assert!(!rung.unwrap().1.timed_out(), "no notification");
        }
    }

    fn host(text: &str) -> HostPort {
        text.parse().unwrap()
    }

    fn with_lookup(
        lookup: impl Fn(&HostPort) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> (Resolver, Arc<Bell>) {
        let bell = Arc::new(Bell::default());
        let rung = bell.clone();
        (Resolver::with_lookup(Arc::new(lookup), move || rung.ring()), bell)
    }

    const AT_1S: Time = Time(1_000_000_000);

    #[test]
    fn an_address_needs_no_thread_and_no_time() {
        let (mut resolver, _) = with_lookup(|_| panic!("looked up an address"));
        resolver.resolve(7, host("[::1]:9092"), Time::ZERO);
        assert_eq!(resolver.next_deadline(), Some(Time::ZERO));
        let answer = resolver.next(AT_1S).unwrap();
        assert_eq!((answer.key, answer.result), (7, Ok(vec!["[::1]:9092".parse().unwrap()])));
        assert!(resolver.next(Time::NEVER).is_none() && resolver.helper.is_none());
    }

    #[test]
    fn the_systems_resolver_knows_localhost() {
        let bell = Arc::new(Bell::default());
        let rung = bell.clone();
        let mut resolver = Resolver::new(move || rung.ring());
        resolver.resolve(1, host("localhost:9092"), Time::NEVER);
        bell.wait_for(1);
        let all = resolver.next(Time::ZERO).unwrap().result.unwrap();
        assert!(all.iter().all(|address| address.ip().is_loopback() && address.port() == 9092), "{all:?}");
    }

    #[test]
    fn d4_81_every_address_comes_once_in_order() {
        let all: Vec<SocketAddr> =
            ["10.0.0.2:1", "[::1]:1", "10.0.0.2:1", "10.0.0.1:1"].map(|text| text.parse().unwrap()).into();
        let given = all.clone();
        let (mut resolver, bell) = with_lookup(move |_| Ok(given.clone()));
        resolver.resolve(1, host("many:1"), Time::NEVER);
        bell.wait_for(1);
        assert_eq!(resolver.next(Time::ZERO).unwrap().result, Ok(vec![all[0], all[1], all[3]]));
    }

    #[test]
    fn failures_are_typed() {
        let (mut resolver, bell) = with_lookup(|host| match host.host() {
            "empty" => Ok(Vec::new()),
            _ => Err(io::Error::other("Name or service not known")),
        });
        resolver.resolve(1, host("empty:1"), Time::NEVER);
        resolver.resolve(2, host("nowhere:1"), Time::NEVER);
        bell.wait_for(2);
        assert_eq!(resolver.next(Time::ZERO).unwrap().result, Err(ResolveError::NoAddress));
        let failed = ResolveError::Failed("Name or service not known".to_owned());
        assert_eq!(resolver.next(Time::ZERO).unwrap().result, Err(failed));
    }

    /// The helper hangs in one name: it gets its error at the deadline, the next name gets its answer, and the late answer
    /// goes nowhere.
    #[test]
    fn a_lookup_that_hangs_holds_up_nobody_else() {
        let gate = Arc::new(Bell::default());
        let inside = gate.clone();
        let (mut resolver, bell) = with_lookup(move |host| {
            if host.host() == "hangs" {
                inside.wait_for(1);
            }
            Ok(vec![SocketAddr::from(([10, 0, 0, 1], host.port()))])
        });
        resolver.resolve(1, host("hangs:1"), AT_1S);
        resolver.resolve(2, host("fine:2"), AT_1S + Duration::from_secs(60));
        assert_eq!(resolver.next_deadline(), Some(AT_1S));
        assert!(resolver.next(Time(AT_1S.0 - 1)).is_none());
        assert_eq!(resolver.next(AT_1S), Some(Resolution { key: 1, result: Err(ResolveError::TimedOut) }));
        bell.wait_for(1);
        let fine = resolver.next(AT_1S).unwrap();
        assert_eq!((fine.key, fine.result.unwrap()[0].port()), (2, 2));
        gate.ring();
        // The hanging one and its copy of the second name.
        bell.wait_for(2);
        assert!(resolver.next(Time::NEVER).is_none());
        assert!(resolver.hanging.is_empty(), "the slot of the hanging helper is free again");
    }

    /// Who shuts down waits for no name server.
    #[test]
    fn r11_a_helper_that_hangs_is_left_behind() {
        let gate = Arc::new(Bell::default());
        let inside = gate.clone();
        let (mut resolver, bell) = with_lookup(move |_| {
            inside.wait_for(1);
            Ok(Vec::new())
        });
        resolver.resolve(1, host("hangs:1"), AT_1S);
        // Joining the helper here would never end: only what comes after lets it go on.
        drop(resolver);
        assert_eq!(*bell.0.lock().unwrap(), 0);
        gate.ring();
    }

    #[test]
    fn helpers_do_not_pile_up() {
        let gate = Arc::new(Bell::default());
        let inside = gate.clone();
        let (mut resolver, _bell) = with_lookup(move |_| {
            inside.wait_for(1);
            Ok(Vec::new())
        });
        for key in 0..20 {
            resolver.resolve(key, host("hangs:1"), AT_1S);
            assert_eq!(resolver.next(AT_1S).unwrap().result, Err(ResolveError::TimedOut));
        }
        assert!(resolver.hanging.len() < HELPERS_MAX);
        gate.ring();
    }
}
