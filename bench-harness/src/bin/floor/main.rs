//! The floor under every client: what a record costs when only what cannot be left out is done, in one loop, in memory.
//!
//! ```text
//!   floor produce N [--at-seal]   generate ─► encode ─► lz4 by 64 KiB as they fill, or all at sealing ─► CRC
//!   floor consume N               CRC ─► lz4 ─► decode, sum up key, value and headers
//! ```
//! Prints what a peer prints, so that the harness shows it beside them. No sockets: the kernel's part is not in it.

mod hot;
mod workload;

use std::fs;
use std::time::Instant;

use hot::{BATCH, consume, produce, words};
use serde_json::json;
use workload::Content;

fn sum_of(content: &Content) -> u64 {
    let of = |(name, value): &(&[u8], &[u8])| words(name).wrapping_mul(5).wrapping_add(words(value).wrapping_mul(7));
    let headers = content.headers().iter().map(of).fold(0, u64::wrapping_add);
    words(&content.key).wrapping_add(words(&content.value).wrapping_mul(3)).wrapping_add(headers)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let count = args.get(2).and_then(|count| count.parse().ok()).unwrap_or(1_000_000).max(BATCH);
    // Of its only thread, in nanoseconds. (Under valgrind there is no vDSO to ask.)
    let cpu = || {
        let stat = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
    };
    let (mut batches, mut wire_bytes, mut verified) = (0, 0, true);
    let (mut kept, mut raw, mut expected) = (Vec::new(), Vec::new(), 0u64);
    let reads = args.get(1).is_some_and(|word| word == "consume");
    // What is read in turn, more than fits a cache; and what is left over at the end.
    let pool = count.min(16 * BATCH) / BATCH * BATCH;
    if reads {
        for records in [pool, count % BATCH] {
            produce(records, false, |wire, crc| kept.push((wire.to_vec(), crc)));
        }
        let mut content = Content::default();
        let mut sums = |records: u64| {
            (0..records).fold(0, |sum: u64, index| {
                content.make(index);
                sum.wrapping_add(sum_of(&content))
            })
        };
        // Every batch of the pool is read as often as another, or once more.
        let (turns, more) = (count / pool, count % pool / BATCH * BATCH);
        expected = sums(pool).wrapping_mul(turns).wrapping_add(sums(more)).wrapping_add(sums(count % BATCH));
    }
    let (start, started) = (Instant::now(), cpu());
    if reads {
        let (mut sum, mut records, whole) = (0u64, 0, (pool / BATCH) as usize);
        let turns = (0..(count / BATCH) as usize).map(|turn| turn % whole);
        for place in turns.chain((!count.is_multiple_of(BATCH)).then_some(whole)) {
            let (wire, crc) = &kept[place];
            let (read, part) = consume(wire, *crc, &mut raw);
            (batches, wire_bytes) = (batches + 1, wire_bytes + wire.len());
            (records, sum) = (records + read, sum.wrapping_add(part));
        }
        verified = records == count && sum == expected;
    } else {
        let at_seal = args.iter().any(|arg| arg == "--at-seal");
        produce(count, at_seal, |wire, _| (batches, wire_bytes) = (batches + 1, wire_bytes + wire.len()));
    }
    let (wall, used) = (start.elapsed().as_secs_f64(), cpu() - started);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|line| line.split_whitespace().next());
    let peak = peak.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
    let cpu_us = used * 1e6 / count as f64;
    let row = json!({"phase": args.get(1), "messages": count, "seconds": wall, "cpu_us_per_message": cpu_us,
        "process_cpu_seconds": used, "max_rss_bytes": peak, "batches": batches, "requests": 0, "wire_bytes": wire_bytes,
        "verified": verified, "verify": "sum"});
    println!("{}", json!({"settings": {"peer": "floor", "batch_messages": BATCH}, "phases": [row]}));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same figure stands in the tests of the other peers' programs.
    #[test]
    fn the_telemetry_workload_has_a_known_sum() {
        let mut content = Content::default();
        let sum = (0..1_000).fold(0u64, |sum, index| {
            content.make(index);
            sum.wrapping_add(sum_of(&content))
        });
        assert_eq!(format!("{sum:016x}"), "dcc558c833cb7022");
    }

    #[test]
    fn what_was_produced_is_what_is_consumed_whenever_it_was_compressed() {
        let count = 2 * BATCH + 17;
        let (mut content, mut expected) = (Content::default(), 0u64);
        for index in 0..count {
            content.make(index);
            expected = expected.wrapping_add(sum_of(&content));
        }
        let made = |at_seal| {
            let mut batches = Vec::new();
            produce(count, at_seal, |wire, crc| batches.push((wire.to_vec(), crc)));
            batches
        };
        let batches = made(false);
        assert_eq!(batches, made(true));
        let mut raw = Vec::new();
        let read = batches.iter().map(|(wire, crc)| consume(wire, *crc, &mut raw));
        let (records, sum) = read.fold((0, 0u64), |(n, sum), (more, part)| (n + more, sum.wrapping_add(part)));
        assert_eq!((records, sum), (count, expected));
    }
}
