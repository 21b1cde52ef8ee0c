//! How long to wait before the next try: exponential with full jitter.
//!
//! The ceiling doubles from `first` to `max`; the wait is drawn evenly below the ceiling, so clients that failed together do
//! not come back together. Kafka's `reconnect.backoff.ms` and `retry.backoff.ms` (KIP-144, KIP-580) draw only +-20 %.

use std::time::Duration;

use super::rng::Rng;

/// The bounds of a backoff.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackoffRange {
    /// The ceiling of the first wait.
    pub first: Duration,
    /// The ceiling that is never passed.
    pub max: Duration,
}

impl Default for BackoffRange {
    /// 100 ms to 1 s, Kafka's `retry.backoff.ms` and `retry.backoff.max.ms`.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(1) }
    }
}

/// Counts failures in a row and says how long to wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    range: BackoffRange,
    failures: u32,
}

impl Backoff {
    /// No failure so far.
    pub fn new(range: BackoffRange) -> Self {
        Self { range, failures: 0 }
    }

    /// Another failure: the wait before the next try. Never zero, so that a failing loop always yields.
    pub fn next(&mut self, rng: &mut Rng) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
        // At least a hundredth of the ceiling: a wait of nothing would be no backoff.
        let least = (nanos / 100).max(1);
        Duration::from_nanos(least + rng.below(nanos - least + 1))
    }

    /// The longest that [`Backoff::next`] can answer now.
    pub fn ceiling(&self) -> Duration {
        let doubled = 2u32.checked_pow(self.failures).and_then(|times| self.range.first.checked_mul(times));
        doubled.unwrap_or(self.range.max).min(self.range.max)
    }

    /// It worked: the next failure starts from the beginning.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_doubling_ceiling_and_spread() {
        let mut rng = Rng::new(7);
        let mut seen = Vec::new();
        for _ in 0..200 {
            let mut backoff = Backoff::new(BackoffRange::default());
            for ceiling_ms in [100u64, 200, 400, 800, 1000, 1000] {
                assert_eq!(backoff.ceiling(), Duration::from_millis(ceiling_ms));
                let wait = backoff.next(&mut rng);
                assert!(wait > Duration::ZERO && wait <= Duration::from_millis(ceiling_ms), "{wait:?}");
                if ceiling_ms == 800 {
                    seen.push(wait);
                }
            }
        }
        let below_half = seen.iter().filter(|wait| **wait < Duration::from_millis(400)).count();
        assert!((60..140).contains(&below_half), "full jitter spreads evenly, {below_half} of 200 below half");
    }

    #[test]
    fn thousands_of_failures_do_not_overflow() {
        let mut backoff = Backoff::new(BackoffRange::default());
        let mut rng = Rng::new(1);
        for _ in 0..5_000 {
            assert!(backoff.next(&mut rng) <= Duration::from_secs(1));
        }
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(100));
    }
}
