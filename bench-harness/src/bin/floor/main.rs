//! The floor under every client: what a record costs when only what cannot be left out is done, in one loop, in memory.
//!
//! ```text
//!   floor produce N WORKLOAD CODEC [--at-seal]   generate ─► encode ─► lz4 by 64 KiB as they fill ─► copy ─► CRC
//!   floor consume N WORKLOAD CODEC               CRC ─► lz4 ─► decode, sum up key, value and headers
//! ```
//! Prints what a peer prints, so that the harness shows it beside them. No sockets: the kernel's part is not in it. The
//! hot loops are in `hot.rs`, which must stay within 150 lines.

mod hot;
#[cfg(test)]
#[path = "../../sums.rs"]
mod sums;
#[path = "../../workload.rs"]
mod workload;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use hot::{Job, consume, produce};
use serde_json::json;
use workload::{Content, POOL_RECORDS, Workload};

/// As the other peers: at most so many records and so many bytes in a batch.
const BATCH_RECORDS: u64 = 10_000;
const BATCH_BYTES: u64 = 1_000_000;

/// The words of the command line as a job.
fn job(args: &[String]) -> Option<(bool, u64, Job)> {
    let [phase, count, workload, codec, rest @ ..] = args else { return None };
    let workload = match workload.as_str() {
        "telemetry" => Workload::Telemetry,
        "telemetry-pool" => Workload::TelemetryPool,
        other => Workload::Fixed(other.strip_prefix("fixed:")?.parse().ok().filter(|size| *size > 0)?),
    };
    let batch = match workload {
        Workload::Fixed(size) => (BATCH_BYTES / (u64::from(size) + 8)).clamp(1, BATCH_RECORDS),
        _ => BATCH_RECORDS,
    };
    let at_seal = rest.iter().any(|word| word == "--at-seal");
    let lz4 = [("lz4", true), ("none", false)].iter().find(|(name, _)| name == codec)?.1;
    let reads = [("consume", true), ("produce", false)].iter().find(|(name, _)| name == phase)?.1;
    let count: u64 = count.parse().ok()?;
    let of_pool = |index| {
        let mut content = Content::default();
        content.make(workload, index);
        content
    };
    let made = if workload == Workload::TelemetryPool { POOL_RECORDS.min(count) } else { 0 };
    Some((reads, count, Job { workload, batch, lz4, at_seal, pool: (0..made).map(of_pool).collect() }))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((reads, count, job)) = job(&args).filter(|(_, count, _)| *count > 0) else {
        eprintln!("floor produce|consume N WORKLOAD lz4|none [--at-seal]");
        return ExitCode::from(2);
    };
    // Of its only thread, in nanoseconds. (Under valgrind there is no vDSO to ask.)
    let cpu = || {
        let stat = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
    };
    // What is read in turn, more than fits a cache; and what is left over at the end.
    let pool = count.min(16 * job.batch) / job.batch * job.batch;
    let (mut batches, mut wire_bytes, mut kept, mut raw) = (0, 0, Vec::new(), Vec::new());
    if reads {
        for records in [pool, count % job.batch] {
            produce(&job, records, |wire, crc| kept.push((wire.to_vec(), crc)));
        }
    }
    let (start, started) = (Instant::now(), cpu());
    let mut records = 0;
    if reads {
        let (mut sum, whole) = (0u64, (pool / job.batch) as usize);
        let turns = (0..(count / job.batch) as usize).map(|turn| turn % whole);
        for place in turns.chain((!count.is_multiple_of(job.batch)).then_some(whole)) {
            let (wire, crc) = &kept[place];
            let (read, part) = consume(wire, *crc, job.lz4, &mut raw);
            (batches, wire_bytes) = (batches + 1, wire_bytes + wire.len());
            (records, sum) = (records + read, sum.wrapping_add(part));
        }
        // The sum is made, and has no meaning: some batches were read many times.
        std::hint::black_box(sum);
    } else {
        produce(&job, count, |wire, _| (batches, wire_bytes) = (batches + 1, wire_bytes + wire.len()));
        records = count;
    }
    let (wall, used) = (start.elapsed().as_secs_f64(), cpu() - started);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|line| line.split_whitespace().next());
    let peak = peak.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
    let cpu_us = used * 1e6 / count as f64;
    let row = json!({"phase": args.first(), "messages": records, "seconds": wall, "cpu_us_per_message": cpu_us,
        "process_cpu_seconds": used, "max_rss_bytes": peak, "batches": batches, "requests": 0, "wire_bytes": wire_bytes});
    let settings = json!({"peer": "floor", "workload": job.workload.to_string(), "batch_messages": job.batch,
        "compression": args.get(3), "lz4_block_bytes": 64 << 10});
    println!("{}", json!({"settings": settings, "phases": [row]}));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job_of(words: &str) -> Option<(bool, u64, Job)> {
        job(&words.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_was_produced_is_what_is_consumed_whenever_it_was_compressed() {
        for (workload, codec) in [("telemetry", "lz4"), ("telemetry-pool", "lz4"), ("fixed:100", "none")] {
            let made = |words: &str| {
                let (_, count, job) = job_of(words).unwrap();
                let mut batches = Vec::new();
                produce(&job, count, |wire, crc| batches.push((wire.to_vec(), crc)));
                (job, batches)
            };
            let (job, batches) = made(&format!("produce 20017 {workload} {codec}"));
            assert_eq!(batches, made(&format!("produce 20017 {workload} {codec} --at-seal")).1);
            let mut raw = Vec::new();
            let read = batches.iter().map(|(wire, crc)| consume(wire, *crc, job.lz4, &mut raw));
            let (records, sum) = read.fold((0, 0u64), |(n, sum), (more, part)| (n + more, sum.wrapping_add(part)));
            assert_eq!((records, sum), (20_017, sums::sum(job.workload, 20_017)), "{workload}");
        }
    }

    #[test]
    fn the_hot_loops_stay_short() {
        assert!(include_str!("hot.rs").lines().count() <= 150);
    }

    #[test]
    fn words_that_make_no_sense_are_refused() {
        for words in ["produce 7 telemetry gzip", "produce x telemetry lz4", "read 7 telemetry lz4", "produce 7"] {
            assert!(job_of(words).is_none(), "{words}");
        }
    }
}
