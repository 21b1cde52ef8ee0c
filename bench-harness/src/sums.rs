//! The sum that every reader makes of the records it read: what it must come to.

use crate::workload::{Content, Workload, words};

/// The sum of records `0..count`; their order does not matter.
pub fn sum(workload: Workload, count: u64) -> u64 {
    let mut content = Content::default();
    let mut of = |indices: std::ops::Range<u64>| {
        indices.fold(0u64, |sum, index| {
            content.make(workload, index);
            sum.wrapping_add(sum_of(&content))
        })
    };
    let Some(period) = workload.period() else { return of(0..count) };
    let whole = if count >= period { of(0..period) } else { 0 };
    whole.wrapping_mul(count / period).wrapping_add(of(0..count % period))
}

fn sum_of(content: &Content) -> u64 {
    let of = |(name, value): (&[u8], &[u8])| words(name).wrapping_mul(5).wrapping_add(words(value).wrapping_mul(7));
    let headers = content.headers().map(of).fold(0, u64::wrapping_add);
    words(&content.key).wrapping_add(words(&content.value).wrapping_mul(3)).wrapping_add(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::POOL_RECORDS;

    /// The same figures stand in the tests of the other peers' programs and of the engine.
    #[test]
    fn workloads_have_known_sums() {
        assert_eq!(format!("{:016x}", sum(Workload::Telemetry, 1_000)), "dcc558c833cb7022");
        assert_eq!(sum(Workload::TelemetryPool, 1_000), sum(Workload::Telemetry, 1_000));
        assert_eq!(format!("{:016x}", sum(Workload::Fixed(100), 1_000)), "c8e77a511267e02f");
        assert_eq!(format!("{:016x}", sum(Workload::Klife, 1_000)), "0a4e38bb6d5b7c05");
    }

    #[test]
    fn the_pool_comes_round() {
        let (all, some) = (sum(Workload::Telemetry, POOL_RECORDS), sum(Workload::Telemetry, 7));
        assert_eq!(sum(Workload::TelemetryPool, 2 * POOL_RECORDS + 7), all.wrapping_mul(2).wrapping_add(some));
    }
}
