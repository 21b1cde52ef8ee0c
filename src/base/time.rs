//! Time as a value: nothing below the shards reads a clock, so tests run in virtual time.

use std::time::Duration;

/// A point of monotonic time, in nanoseconds since its clock's origin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);
    /// Later than anything that will happen.
    pub const NEVER: Self = Self(u64::MAX);

    /// From this point to `later`; zero when `later` is earlier.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }

    /// From `earlier` to this point; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        earlier.until(self)
    }

    /// Whole milliseconds since the clock's origin.
    pub fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;
    /// Saturates at [`Time::NEVER`].
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// One reading of both clocks, taken once per turn and passed down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Monotonic: deadlines, backoff, linger.
    pub mono: Time,
    /// Wall clock, milliseconds since 1970: record timestamps only.
    pub wall_ms: i64,
}

/// Where a loop gets its time from: the system, or a simulation.
pub trait Clock {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The system's clocks. All instances share one origin, so times compare across threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Only the monotonic one.
    pub fn mono(self) -> Time {
        use std::sync::OnceLock;
        use std::time::Instant;
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let origin = *ORIGIN.get_or_init(Instant::now);
        Time(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        use std::time::{SystemTime, UNIX_EPOCH};
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.mono(), wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
    }
}

/// Monotonic time of the kernel's last tick, in nanoseconds: 1 to 10 ms old, at a fraction of a clock reading's price. Only
/// to be compared with itself.
pub fn last_tick() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec)
        .unwrap_or(0)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
