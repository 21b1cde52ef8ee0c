//! The simulated world: actors take turns in an order drawn from one seed, time jumps to the next event, nothing waits.
//!
//! ```text
//!   World::run ─► Schedule::advance ─► due parties, shuffled ─► Actor::turn(now) ─► deadline
//!                  ▲ wakes (late, twice), bytes, queue gates, deadlines
//! ```
//! An actor that nothing woke and whose deadline has not come gets no turn, so a lost wake shows as [`Outcome::Stuck`]. When
//! a test panics the world prints its seed and how often each fault occurred.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use super::clock::{SimClock, Sleep};
use super::net::{Party, Rates, SimNet};
use super::thread;
use crate::base::gate::Medium;
use crate::base::time::{Clock, Now, Time};
use crate::ring::sim::{SimBackend, SimWaker};

pub use crate::ring::sim::schedule::{Climate, Schedule};

/// What takes turns in a [`World`].
pub trait Actor {
    /// Does what can be done now, and says when it wants another turn at the latest (`None`: only when woken). A
    /// [`SimBackend`] that it turned has noted its own wait already.
    fn turn(&mut self, now: Now) -> Option<Time>;
}

impl<F: FnMut(Now) -> Option<Time>> Actor for F {
    fn turn(&mut self, now: Now) -> Option<Time> {
        self(now)
    }
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The condition holds.
    Done,
    /// Virtual time is up.
    TimeUp,
    /// More turns than allowed without reaching the time: a busy loop.
    TurnsUp,
    /// Nobody will ever have a turn again, and the condition does not hold: a deadlock or a lost wake.
    Stuck,
}

/// Turns that [`World::run_until`] allows.
const TURNS_MAX: u64 = 50_000_000;

/// Schedule, network and actors of one simulation.
pub struct World {
    schedule: Schedule,
    net: SimNet,
    actors: Vec<Option<Box<dyn Actor>>>,
}

impl World {
    /// A world without actors.
    pub fn new(seed: u64, climate: Climate, rates: Rates) -> Self {
        let schedule = Schedule::new(seed, climate);
        let net = SimNet::new(schedule.clone(), rates);
        Self { schedule, net, actors: Vec::new() }
    }

    /// No surprises but the order of turns.
    pub fn calm(seed: u64) -> Self {
        Self::new(seed, Climate::calm(), Rates::calm())
    }

    /// Late pushes and wakes, stalls, and an unreliable network.
    pub fn rough(seed: u64) -> Self {
        Self::new(seed, Climate::rough(), Rates::rough())
    }

    /// The timetable.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The network.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// The clock.
    pub fn clock(&self) -> SimClock {
        SimClock::new(&self.schedule)
    }

    /// Names a party before its actor exists, so that its backend, queues and listeners can be made.
    pub fn party(&mut self, name: &str) -> Party {
        let party = self.schedule.party(name);
        self.actors.push(None);
        party
    }

    /// What lies between others and a party: for every queue that this party reads.
    pub fn medium(&self, party: Party) -> Medium {
        self.schedule.medium(party)
    }

    /// A backend for a party.
    pub fn backend(&self, party: Party) -> SimBackend {
        SimBackend::new(&self.net, party)
    }

    /// Wakes a party as another thread would: late, sometimes twice.
    pub fn sim_waker(&self, party: Party) -> SimWaker {
        SimWaker::new(&self.schedule, party)
    }

    /// The same as a task's waker.
    pub fn waker(&self, party: Party) -> Waker {
        Waker::from(Arc::new(self.sim_waker(party)))
    }

    /// Gives a party its actor; its first turn is due at once.
    pub fn spawn(&mut self, party: Party, actor: impl Actor + 'static) {
        self.schedule.set_stopped(party, false);
        self.schedule.wake_at(party, self.schedule.time());
        if let Some(slot) = self.actors.get_mut(party.0 as usize) {
            *slot = Some(Box::new(actor));
        }
    }

    /// Makes a party of a future: an application written with `async`. Wakes reach it late and twice like any other.
    pub fn spawn_task(&mut self, name: &str, task: impl Future<Output = ()> + 'static) -> Party {
        let party = self.party(name);
        let mut task = Some(Box::pin(task));
        let waker = self.waker(party);
        self.spawn(party, move |_: Now| {
            if let Some(running) = &mut task
                && running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                task = None;
            }
            None
        });
        party
    }

    /// Makes a party of a thread: an application written with blocking calls. It has its turn from one wait to the next, and
    /// nobody else has one meanwhile; waits that `base::sync` knows nothing of would stop the world.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn_thread(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Party> {
        let party = self.party(name);
        let actor = thread::ThreadActor::start(self.waker(party), work)?;
        self.spawn(party, actor);
        Ok(party)
    }

    /// A future that is ready after `duration` of virtual time, for tasks.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.clock().sleep(duration)
    }

    /// Drops a party's actor, as when its thread or process dies: no turn any more until it is spawned again.
    pub fn kill(&mut self, party: Party) {
        self.schedule.set_stopped(party, true);
        if let Some(slot) = self.actors.get_mut(party.0 as usize) {
            *slot = None;
        }
    }

    /// Everyone due at the next moment has a turn. False: nobody ever will.
    pub fn step(&mut self) -> bool {
        let Some(due) = self.schedule.advance() else { return false };
        for party in due {
            let Some(actor) = self.actors.get_mut(party.0 as usize).and_then(Option::as_mut) else { continue };
            if let Some(deadline) = actor.turn(self.schedule.now()) {
                self.schedule.sleep_until(party, deadline);
            }
        }
        true
    }

    /// Runs until `done` holds, virtual time `until`, or nothing is left to happen.
    pub fn run_until(&mut self, until: Time, mut done: impl FnMut() -> bool) -> Outcome {
        let turns = self.schedule.turns();
        loop {
            if done() {
                return Outcome::Done;
            }
            if self.schedule.turns() - turns > TURNS_MAX {
                return Outcome::TurnsUp;
            }
            match self.schedule.next_time() {
                None => return Outcome::Stuck,
                Some(next) if next > until => return Outcome::TimeUp,
                Some(_) => {}
            }
            if !self.step() {
                return if done() { Outcome::Done } else { Outcome::Stuck };
            }
        }
    }

    /// Runs until `done` holds; panics with the report when it does not within `limit` of virtual time from now.
    pub fn run(&mut self, limit: Duration, done: impl FnMut() -> bool) {
        let outcome = self.run_until(self.schedule.time() + limit, done);
        assert_eq!(outcome, Outcome::Done, "seed {}\n{}", self.schedule.seed(), self.schedule.describe());
    }

    /// Turns of each party, to find who never rests.
    pub fn turns_by_party(&self) -> String {
        let parties = (0..self.actors.len()).map(|index| Party(index as u32));
        let line = |party| format!("{:>9} turns  {}", self.schedule.turns_of(party), self.schedule.name(party));
        parties.map(line).collect::<Vec<_>>().join("\n")
    }

    /// Seed, virtual time, trace hash, and how often each fault occurred.
    pub fn report(&self) -> String {
        let (seed, time) = (self.schedule.seed(), self.schedule.time());
        let (turns, hash) = (self.schedule.turns(), self.schedule.trace_hash());
        let mut text =
            format!("seed {seed}: {} ms of virtual time, {turns} turns, trace {hash:016x}", time.as_millis());
        for (what, count) in self.schedule.counts() {
            text.push_str(&format!("\n  {count:>8}  {what}"));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation failed\n{}\n{}", self.report(), self.schedule.describe());
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({:?})", self.schedule)
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
