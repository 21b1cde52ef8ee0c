//! Virtual time as a [`Clock`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

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

    /// A future that is ready after `duration` of virtual time from now.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { schedule: self.0.clone(), until: self.0.time() + duration, registered: None }
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

/// Ready at a point of virtual time.
#[derive(Debug)]
pub struct Sleep {
    schedule: Schedule,
    until: Time,
    /// Set once: a timer per poll would wake the task as often, and each of those polls set timers of its own.
    registered: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.schedule.time() >= self.until {
            return Poll::Ready(());
        }
        if !self.registered.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            self.schedule.call_at(self.until, context.waker().clone());
            self.registered = Some(context.waker().clone());
        }
        Poll::Pending
    }
}
