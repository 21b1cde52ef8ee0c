//! When the next record is due, for a bench at a given rate.

use std::time::{Duration, Instant};

/// Sleeping takes at least about so long; records that came due meanwhile go out together.
const SLEEP_MAX: Duration = Duration::from_micros(100);

/// An even rate from a first moment on.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Instant,
    per_second: u32,
}

impl Pace {
    /// Record 0 is due at `start`.
    pub fn new(start: Instant, per_second: u32) -> Self {
        Self { start, per_second: per_second.max(1) }
    }

    /// When record `index` is due, however late the ones before it were.
    pub fn due(&self, index: u64) -> Instant {
        let rate = u64::from(self.per_second);
        let rest = Duration::from_nanos(index % rate * 1_000_000_000 / rate);
        self.start + Duration::from_secs(index / rate) + rest
    }
}

/// How long to pause at once until `due`; `None` when it is time.
pub fn pause(due: Instant, now: Instant) -> Option<Duration> {
    let left = due.saturating_duration_since(now);
    (!left.is_zero()).then(|| left.min(SLEEP_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_evenly_whatever_happened_before() {
        let start = Instant::now();
        let pace = Pace::new(start, 50_000);
        assert_eq!(pace.due(0), start);
        assert_eq!(pace.due(1) - start, Duration::from_micros(20));
        assert_eq!(pace.due(1_000_001) - start, Duration::from_micros(20_000_020));
    }

    #[test]
    fn a_late_record_does_not_pause() {
        let now = Instant::now();
        assert_eq!(pause(now, now), None);
        assert_eq!(pause(now, now + SLEEP_MAX), None);
        assert_eq!(pause(now + Duration::from_micros(7), now), Some(Duration::from_micros(7)));
        assert_eq!(pause(now + Duration::from_secs(7), now), Some(SLEEP_MAX));
    }
}
