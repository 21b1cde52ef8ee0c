//! Virtual time as a [`Clock`].

use crate::base::time::{Clock, Now, Time};
use crate::ring::sim::schedule::Schedule;

/// The simulation's clock: stands still during a turn, jumps to the next event between turns.
#[derive(Clone, Debug)]
pub struct SimClock(Schedule);

impl SimClock {
    /// The clock of a schedule.
    pub fn new(schedule: &Schedule) -> Self {
        Self(schedule.clone())
    }

    /// Virtual monotonic time.
    pub fn time(&self) -> Time {
        self.0.time()
    }

    /// Moves the wall clock by some milliseconds, either way. Monotonic time goes on as before.
    pub fn jump_wall(&self, by_ms: i64) {
        self.0.jump_wall_clock(by_ms);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        self.0.now()
    }
}
