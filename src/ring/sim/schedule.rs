//! Virtual time, and whose turn is next.
//!
//! A *party* is what would be a thread or a process elsewhere: a shard, control, an application thread, a broker. It gets a
//! turn when something woke it or when the deadline of its last turn has come, never otherwise: a lost wake stays lost, as
//! it would with threads. Everything random comes from one seed, and every turn, byte and fault goes into one trace hash:
//! the same seed gives the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::base::gate::{Medium, Weather};
use crate::base::rng::Rng;
use crate::base::time::{Clock, Now, Time};

/// A party of one [`Schedule`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Party(pub u32);

/// How rough the threads' world is. Network faults are in [`super::net::Rates`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Climate {
    /// A turn takes between these: a party that keeps itself busy still lets time pass.
    pub turn: (Duration, Duration),
    /// Longest delay until a push through a queue is seen by its reader (half of them are seen at once).
    pub queue_delay_max: Duration,
    /// Longest delay of a wake.
    pub wake_delay_max: Duration,
    /// Wakes of a hundred that come twice.
    pub wake_twice_percent: u64,
    /// Turns of ten thousand before which the party is not scheduled for up to [`Climate::stall_max`].
    pub stall_per_10_000: u64,
    /// Longest stall.
    pub stall_max: Duration,
}

impl Climate {
    /// No surprises; still the order of the turns is drawn from the seed.
    pub const fn calm() -> Self {
        let micro = Duration::from_micros(1);
        Self {
            turn: (micro, micro),
            queue_delay_max: Duration::ZERO,
            wake_delay_max: Duration::ZERO,
            wake_twice_percent: 0,
            stall_per_10_000: 0,
            stall_max: Duration::ZERO,
        }
    }

    /// A busy machine: pushes up to 200 us late, wakes up to 500 us late and sometimes twice, rare stalls of up to 50 ms.
    pub const fn rough() -> Self {
        Self {
            turn: (Duration::from_micros(1), Duration::from_micros(40)),
            queue_delay_max: Duration::from_micros(200),
            wake_delay_max: Duration::from_micros(500),
            wake_twice_percent: 10,
            stall_per_10_000: 20,
            stall_max: Duration::from_millis(50),
        }
    }
}

/// The simulation's clock, seed and timetable. Cheap to clone.
#[derive(Clone)]
pub struct Schedule(Arc<Mutex<Inner>>);

struct Inner {
    seed: u64,
    now: Time,
    /// Wall clock minus virtual time, in milliseconds; may jump.
    wall_offset_ms: i64,
    rng: Rng,
    climate: Climate,
    parties: Vec<PartyState>,
    wakes: BTreeSet<(Time, Party)>,
    /// Wakers to call at a time, in the order in which they were set.
    timers: BTreeMap<(Time, u64), Waker>,
    next_timer: u64,
    counts: BTreeMap<&'static str, u64>,
    trace: u64,
    turns: u64,
}

struct PartyState {
    name: String,
    deadline: Time,
    stopped: bool,
    turns: u64,
}

impl Schedule {
    /// Virtual time zero; the wall clock stands at 2026-01-01T00:00:00Z.
    pub fn new(seed: u64, climate: Climate) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            seed,
            now: Time::ZERO,
            wall_offset_ms: 1_767_225_600_000,
            rng: Rng::new(seed),
            climate,
            parties: Vec::new(),
            wakes: BTreeSet::new(),
            timers: BTreeMap::new(),
            next_timer: 0,
            counts: BTreeMap::new(),
            trace: seed,
            turns: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.lock().seed
    }

    /// Adds a party, due for a first turn now.
    pub fn party(&self, name: &str) -> Party {
        let mut inner = self.lock();
        let party = Party(u32::try_from(inner.parties.len()).unwrap_or(u32::MAX));
        inner.parties.push(PartyState { name: name.to_owned(), deadline: Time::NEVER, stopped: false, turns: 0 });
        let now = inner.now;
        inner.wakes.insert((now, party));
        party
    }

    /// The party gets no turn any more (or does again).
    pub fn set_stopped(&self, party: Party, stopped: bool) {
        let mut inner = self.lock();
        if let Some(state) = inner.parties.get_mut(party.0 as usize) {
            state.stopped = stopped;
        }
    }

    /// A party's name.
    pub fn name(&self, party: Party) -> String {
        self.lock().parties.get(party.0 as usize).map(|state| state.name.clone()).unwrap_or_default()
    }

    /// Virtual time.
    pub fn time(&self) -> Time {
        self.lock().now
    }

    /// Moves the wall clock, not monotonic time.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        let mut inner = self.lock();
        inner.wall_offset_ms = inner.wall_offset_ms.saturating_add(by_ms);
        inner.count("wall clock jumped");
    }

    /// Changes the climate from now on.
    pub fn set_climate(&self, climate: Climate) {
        self.lock().climate = climate;
    }

    /// A number below `limit` (at least 1) from the seed.
    pub fn below(&self, limit: u64) -> u64 {
        self.lock().rng.below(limit.max(1))
    }

    /// True in `per_10_000` of ten thousand cases, and then counted under `fault`. Draws nothing when the rate is 0.
    pub fn strikes(&self, per_10_000: u64, fault: &'static str) -> bool {
        if per_10_000 == 0 {
            return false;
        }
        let mut inner = self.lock();
        let strikes = inner.rng.below(10_000) < per_10_000;
        if strikes {
            inner.count(fault);
        }
        strikes
    }

    /// A duration from `range`, both ends included.
    pub fn duration(&self, range: (Duration, Duration)) -> Duration {
        self.lock().duration(range)
    }

    /// Counts one occurrence of something.
    pub fn count(&self, what: &'static str) {
        self.lock().count(what);
    }

    /// How often something occurred.
    pub fn counted(&self, what: &str) -> u64 {
        self.lock().counts.get(what).copied().unwrap_or(0)
    }

    /// Everything that occurred, by name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    /// Mixes a fact into the run's trace hash.
    pub fn trace(&self, fact: u64) {
        self.lock().mix(fact);
    }

    /// The hash of all that happened so far.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace
    }

    /// Turns given so far.
    pub fn turns(&self) -> u64 {
        self.lock().turns
    }

    /// Turns given to one party.
    pub fn turns_of(&self, party: Party) -> u64 {
        self.lock().parties.get(party.0 as usize).map_or(0, |state| state.turns)
    }

    /// Gives the party a turn at `at` (now, if that is past), whatever its deadline.
    pub fn wake_at(&self, party: Party, at: Time) {
        let mut inner = self.lock();
        let at = at.max(inner.now);
        inner.wakes.insert((at, party));
    }

    /// Gives the party a turn after a wake from another thread: late, perhaps twice.
    pub fn wake(&self, party: Party) {
        let mut inner = self.lock();
        inner.count("wakes");
        let max = inner.climate.wake_delay_max;
        let at = inner.now + inner.duration((Duration::ZERO, max));
        inner.wakes.insert((at, party));
        let percent = inner.climate.wake_twice_percent;
        if percent > 0 && inner.rng.percent(percent) {
            inner.count("wakes that came twice");
            let again = at + inner.duration((Duration::ZERO, max.max(Duration::from_micros(1)) * 4));
            inner.wakes.insert((again, party));
        }
    }

    /// The party wants a turn at `at` unless it is woken before. Holds until its next turn begins; the earliest counts.
    pub fn sleep_until(&self, party: Party, at: Time) {
        let mut inner = self.lock();
        let at = if at == Time::NEVER { at } else { at.max(inner.now) };
        if let Some(state) = inner.parties.get_mut(party.0 as usize) {
            state.deadline = state.deadline.min(at);
        }
    }

    /// Calls a task's waker at `at`: the timer behind sleeping tasks.
    pub fn call_at(&self, at: Time, waker: Waker) {
        let mut inner = self.lock();
        let id = inner.next_timer;
        inner.next_timer += 1;
        inner.timers.insert((at, id), waker);
    }

    /// The party has work left: another turn as soon as this one is over.
    pub fn again(&self, party: Party) {
        let mut inner = self.lock();
        let turn = inner.climate.turn;
        let at = inner.now + inner.duration(turn).max(Duration::from_nanos(1));
        inner.wakes.insert((at, party));
    }

    /// When anything happens next; `None` when nothing ever will.
    pub fn next_time(&self) -> Option<Time> {
        self.lock().next_time()
    }

    /// Moves time to the next moment at which somebody has a turn and gives everyone who has one, in an order drawn from
    /// the seed. `None`: nobody will ever have a turn again.
    pub fn advance(&self) -> Option<Vec<Party>> {
        loop {
            let mut inner = self.lock();
            let at = inner.next_time()?;
            inner.now = inner.now.max(at);
            let now = inner.now;
            if let Some(timer) = inner.timers.first_entry()
                && timer.key().0 <= now
            {
                let waker = timer.remove();
                // A waker comes back here and takes the lock.
                drop(inner);
                waker.wake();
                continue;
            }
            let mut due: Vec<Party> = Vec::new();
            while let Some((when, party)) = inner.wakes.first().copied()
                && when <= now
            {
                inner.wakes.pop_first();
                due.push(party);
            }
            for (index, state) in inner.parties.iter().enumerate() {
                if state.deadline <= now {
                    due.push(Party(index as u32));
                }
            }
            due.sort_unstable();
            due.dedup();
            due.retain(|party| !inner.parties[party.0 as usize].stopped);
            inner.shuffle(&mut due);
            inner.hold_back(&mut due);
            for party in &due {
                inner.parties[party.0 as usize].deadline = Time::NEVER;
                inner.parties[party.0 as usize].turns += 1;
                inner.turns += 1;
                inner.mix(now.0 ^ (u64::from(party.0) << 56));
            }
            if !due.is_empty() {
                return Some(due);
            }
        }
    }

    /// What lies between other threads and this party.
    pub fn medium(&self, party: Party) -> Medium {
        Medium::simulated(Arc::new(PartyWeather { schedule: self.clone(), party }))
    }

    /// A line per party that is not stopped: its name and when it would have a turn.
    pub fn describe(&self) -> String {
        let inner = self.lock();
        let mut text = String::new();
        for (index, state) in inner.parties.iter().enumerate().filter(|(_, state)| !state.stopped) {
            let party = Party(index as u32);
            let woken = inner.wakes.iter().find(|(_, woken)| *woken == party).map(|(at, _)| at.0);
            let deadline = (state.deadline != Time::NEVER).then_some(state.deadline.0);
            text.push_str(&format!("  {}: next wake {woken:?}, deadline {deadline:?}\n", state.name));
        }
        text
    }
}

impl Inner {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    fn mix(&mut self, fact: u64) {
        // The finalizer of SplitMix64 over a running sum: order matters, and no run of zeros is invisible.
        self.trace = Rng::new(self.trace.rotate_left(17) ^ fact).next_u64();
    }

    fn duration(&mut self, (least, most): (Duration, Duration)) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX - 1);
        if span == 0 { least } else { least + Duration::from_nanos(self.rng.below(span + 1)) }
    }

    fn next_time(&self) -> Option<Time> {
        let woken = self.wakes.first().map(|(at, _)| *at);
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let waiting = self.parties.iter().filter(|state| !state.stopped).map(|state| state.deadline);
        let deadline = waiting.min().filter(|deadline| *deadline != Time::NEVER);
        [woken, timer, deadline].into_iter().flatten().min()
    }

    fn shuffle(&mut self, parties: &mut [Party]) {
        for last in (1..parties.len()).rev() {
            let other = self.rng.below(last as u64 + 1) as usize;
            parties.swap(last, other);
        }
    }

    /// Some are not scheduled for a while although they could run.
    fn hold_back(&mut self, due: &mut Vec<Party>) {
        let rate = self.climate.stall_per_10_000;
        if rate == 0 {
            return;
        }
        let now = self.now;
        let mut kept = Vec::with_capacity(due.len());
        for party in due.drain(..) {
            if self.rng.below(10_000) < rate {
                self.count("parties stalled");
                let max = self.climate.stall_max;
                let at = now + self.duration((Duration::from_nanos(1), max));
                self.wakes.insert((at, party));
                // Its deadline is overdue and must not bring time to a stop; the wake above stands for it.
                self.parties[party.0 as usize].deadline = Time::NEVER;
            } else {
                kept.push(party);
            }
        }
        *due = kept;
    }
}

impl Clock for Schedule {
    fn now(&self) -> Now {
        let inner = self.lock();
        let wall_ms = inner.wall_offset_ms.saturating_add(i64::try_from(inner.now.as_millis()).unwrap_or(i64::MAX));
        Now { mono: inner.now, wall_ms }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(f, "Schedule(seed {}, at {:?}, {} turns)", inner.seed, inner.now, inner.turns)
    }
}

struct PartyWeather {
    schedule: Schedule,
    party: Party,
}

impl Weather for PartyWeather {
    fn now(&self) -> Time {
        self.schedule.time()
    }

    fn delay(&self) -> Duration {
        let mut inner = self.schedule.lock();
        let max = inner.climate.queue_delay_max;
        if max.is_zero() || inner.rng.percent(50) {
            return Duration::ZERO;
        }
        inner.count("pushes seen late");
        inner.duration((Duration::from_nanos(1), max))
    }

    fn look_again(&self, at: Time) {
        self.schedule.wake_at(self.party, at);
    }

    fn call_at(&self, at: Time, waker: Waker) {
        self.schedule.call_at(at, waker);
    }
}
