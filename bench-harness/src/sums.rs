//! The sum that every reader makes of the records it read: what it must come to.

use crate::workload::{Content, POOL_RECORDS, Workload, words};

/// The sum of records `0..count`; their order does not matter.
pub fn sum(workload: Workload, count: u64) -> u64 {
    let mut content = Content::default();
    let mut of = |indices: std::ops::Range<u64>| {
        indices.fold(0u64, |sum, index| {
            content.make(workload, index);
            sum.wrapping_add(sum_of(&content))
        })
    };
    if workload != Workload::TelemetryPool {
        return of(0..count);
    }
    let whole = if count >= POOL_RECORDS { of(0..POOL_RECORDS) } else { 0 };
    whole.wrapping_mul(count / POOL_RECORDS).wrapping_add(of(0..count % POOL_RECORDS))
}

fn sum_of(content: &Content) -> u64 {
    let of = |(name, value): (&[u8], &[u8])| words(name).wrapping_mul(5).wrapping_add(words(value).wrapping_mul(7));
    let headers = content.headers().map(of).fold(0, u64::wrapping_add);
    words(&content.key).wrapping_add(words(&content.value).wrapping_mul(3)).wrapping_add(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same figures stand in the tests of the other peers' programs and of the engine.
    #[test]
    fn workloads_have_known_sums() {
        assert_eq!(format!("{:016x}", sum(Workload::Telemetry, 1_000)), "dcc558c833cb7022");
        assert_eq!(sum(Workload::TelemetryPool, 1_000), sum(Workload::Telemetry, 1_000));
        assert_eq!(format!("{:016x}", sum(Workload::Fixed(100), 1_000)), "c8e77a511267e02f");
    }

    #[test]
    fn the_pool_comes_round() {
        let (all, some) = (sum(Workload::Telemetry, POOL_RECORDS), sum(Workload::Telemetry, 7));
        assert_eq!(sum(Workload::TelemetryPool, 2 * POOL_RECORDS + 7), all.wrapping_mul(2).wrapping_add(some));
    }
}
