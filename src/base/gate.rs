//! What lies between two threads: nothing, or the simulator's weather.
//!
//! A push is counted by its queue; a [`Gate`] in the *reader* decides how many of the counted pushes it sees. With threads
//! it sees all, at the price of one branch per look. In the simulator the pushes found by a look get one delay together,
//! drawn from the seed; what came earlier is never shown later (FIFO per queue), and two queues are independent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::time::Time;

/// The simulator's side of a [`Medium`]: one per reading party (shard, control, application thread).
pub trait Weather: Send + Sync {
    /// Virtual time.
    fn now(&self) -> Time;
    /// How long until pushes found now are shown to this party; zero is allowed.
    fn delay(&self) -> Duration;
    /// Gives the party a turn at `at`, since something becomes visible to it then.
    fn look_again(&self, at: Time);
    /// Calls `waker` at `at`: for queues whose reader is not one party but whoever registered with the queue.
    fn call_at(&self, at: Time, waker: Waker);
}

/// What lies between a reading party and everyone who writes to it. Each queue gets the medium of its *reader*.
#[derive(Clone, Default)]
pub struct Medium(Option<Arc<dyn Weather>>);

impl Medium {
    /// Real threads: a push is visible as soon as the processor shows it.
    pub const fn threads() -> Self {
        Self(None)
    }

    /// The simulator: a push is visible when the weather says so.
    pub fn simulated(weather: Arc<dyn Weather>) -> Self {
        Self(Some(weather))
    }

    /// Whether this is the simulator.
    pub fn is_simulated(&self) -> bool {
        self.0.is_some()
    }

    /// A gate for one queue.
    pub fn gate(&self) -> Gate {
        self.gate_calling(None)
    }

    /// A gate for a queue whose readers wait with wakers: `waker` reaches them all when something becomes visible. Made by
    /// [`crate::mesh`]'s queues, only in the simulator.
    pub fn gate_waking(&self, waker: impl FnOnce() -> Waker) -> Gate {
        self.gate_calling(self.is_simulated().then(waker))
    }

    fn gate_calling(&self, waker: Option<Waker>) -> Gate {
        Gate(
            self.0
                .as_ref()
                .map(|weather| Box::new(Held { weather: weather.clone(), due: VecDeque::new(), shown: 0, waker })),
        )
    }
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_simulated() { "Medium(simulated)" } else { "Medium(threads)" })
    }
}

/// Decides how much of one queue its reader sees. Open with threads.
#[derive(Default)]
pub struct Gate(Option<Box<Held>>);

struct Held {
    weather: Arc<dyn Weather>,
    /// (when, how many of all pushes are visible from then on), both rising.
    due: VecDeque<(Time, u64)>,
    shown: u64,
    waker: Option<Waker>,
}

impl Gate {
    /// How many of the `pushed` pushes since the beginning are visible. Never falls; `pushed` itself with threads.
    #[inline]
    pub fn pass(&mut self, pushed: u64) -> u64 {
        match &mut self.0 {
            None => pushed,
            Some(held) => held.pass(pushed),
        }
    }
}

impl Gate {
    /// The medium it was made of.
    pub fn medium(&self) -> Medium {
        Medium(self.0.as_ref().map(|held| held.weather.clone()))
    }

    /// Counts the first `count` pushes as seen: the reader started with them.
    pub fn start_at(&mut self, count: u64) {
        if let Some(held) = &mut self.0 {
            held.shown = count;
        }
    }
}

impl Held {
    fn pass(&mut self, pushed: u64) -> u64 {
        let now = self.weather.now();
        let (mut latest, known) = self.due.back().copied().unwrap_or((Time::ZERO, self.shown));
        if pushed > known {
            latest = latest.max(now + self.weather.delay());
            self.due.push_back((latest, pushed));
            if latest > now {
                match &self.waker {
                    Some(waker) => self.weather.call_at(latest, waker.clone()),
                    None => self.weather.look_again(latest),
                }
            }
        }
        while let Some((when, count)) = self.due.front().copied()
            && when <= now
        {
            self.shown = count;
            self.due.pop_front();
        }
        self.shown
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Gate(open)"),
            Some(held) => write!(f, "Gate(shown {}, {} held)", held.shown, held.due.len()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use std::sync::Mutex;

    /// Weather for tests: time moves when told to, delays of 0 to 9 ns.
    pub(crate) struct Drizzle(pub Mutex<(u64, Rng, Vec<Time>)>);

    impl Drizzle {
        pub(crate) fn new(seed: u64) -> Arc<Self> {
            Arc::new(Self(Mutex::new((0, Rng::new(seed), Vec::new()))))
        }
        pub(crate) fn advance(&self) {
            self.0.lock().unwrap().0 += 1;
        }
    }

    impl Weather for Drizzle {
        fn now(&self) -> Time {
            Time(self.0.lock().unwrap().0)
        }
        fn delay(&self) -> Duration {
            Duration::from_nanos(self.0.lock().unwrap().1.below(10))
        }
        fn look_again(&self, at: Time) {
            self.0.lock().unwrap().2.push(at);
        }
        fn call_at(&self, at: Time, _: Waker) {
            self.look_again(at);
        }
    }

    #[test]
    fn r13_a_gate_shows_all_in_order_and_asks_for_a_look_at_each_delay() {
        let weather = Drizzle::new(5);
        let mut gate = Medium::simulated(weather.clone()).gate();
        let (mut pushed, mut shown, mut delayed) = (0, 0, false);
        for _ in 0..1000 {
            pushed += 1;
            let visible = gate.pass(pushed);
            assert!(visible >= shown && visible <= pushed);
            delayed |= visible < pushed;
            shown = visible;
            weather.advance();
        }
        assert!(delayed);
        for _ in 0..20 {
            weather.advance();
        }
        assert_eq!(gate.pass(pushed), pushed);
        let looks = &weather.0.lock().unwrap().2;
        assert!(looks.len() > 300 && looks.is_sorted());
    }

    #[test]
    fn with_threads_a_gate_is_open() {
        assert_eq!(Medium::threads().gate().pass(17), 17);
    }
}
