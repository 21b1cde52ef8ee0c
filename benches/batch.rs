//! What a record costs in `batch`, without sockets: `cargo bench --bench batch [-- ROUNDS]`.
//!
//! Thread CPU per record, interleaved rounds, min / median / max. The records are telemetry: a 13-byte key, a JSON value of
//! about 150 bytes, three headers. Distinct batches are rotated, so that no branch predictor learns one by heart.

#![allow(clippy::unwrap_used)] // a bench that cannot go on stops

use std::time::Duration;

use ottla::base::chunk::ChunkPool;
use ottla::base::rng::Rng;
use ottla::batch::{
    Append, BatchBuilder, BatchSettings, Codec, Codecs, Decompressor, RecordSet, Stamp, Unpacked, encode_body,
};
use rustix::time::{ClockId, clock_gettime};

const RECORDS: usize = 2_500;
const BATCHES: usize = 16;

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn bodies() -> Vec<Vec<Vec<u8>>> {
    let mut rng = Rng::new(1);
    let mut body = |i: usize| {
        let mut out = Vec::new();
        let key = format!("sensor-{:06}", rng.below(100_000));
        let value = format!(
            "{{\"sensor\":\"{key}\",\"sequence\":{i},\"temperature\":{}.{:02},\"humidity\":{}.{:02},\"unit\":\"celsius\",\
             \"status\":\"nominal\",\"battery\":{},\"firmware\":\"2.11.{}\"}}",
            rng.below(40),
            rng.below(100),
            rng.below(100),
            rng.below(100),
            rng.below(100),
            rng.below(9)
        );
        let trace = format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64());
        let headers = [
            ("trace_id", Some(trace.as_bytes())),
            ("content_type", Some(&b"application/json"[..])),
            ("gateway", Some(&b"gw-eu-1"[..])),
        ];
        encode_body(Some(key.as_bytes()), Some(value.as_bytes()), headers.into_iter(), &mut out);
        out
    };
    (0..BATCHES).map(|_| (0..RECORDS).map(&mut body).collect()).collect()
}

fn main() {
    let rounds: usize = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(9);
    let (pool, codecs) = (ChunkPool::new(16 << 20), Codecs::new());
    let bodies = bodies();
    let build = |codec: Codec, bodies: &[Vec<u8>]| {
        let settings = BatchSettings { size_bytes_max: 4 << 20, ..BatchSettings::with_codec(codec) };
        let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
        for (i, body) in bodies.iter().enumerate() {
            assert_eq!(builder.append(1_700_000_000_000 + i as i64, body), Append::Stored);
        }
        builder.seal(Stamp::NONE)
    };
    let (mut decompressor, mut unpacked) = (Decompressor::new(64 << 20), Unpacked::new());
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        let mut at = 0;
        let mut note = |name: String, spent: Duration| {
            if rows.len() == at {
                rows.push((name, Vec::new()));
            }
            rows[at].1.push(spent.as_nanos() as f64 / (RECORDS * BATCHES) as f64);
            at += 1;
        };
        for codec in Codec::ALL {
            let started = thread_cpu();
            let sealed: Vec<_> = bodies.iter().map(|bodies| build(codec, bodies)).collect();
            note(format!("{codec:>6} build and seal"), thread_cpu() - started);
            let wire: Vec<Vec<u8>> = sealed
                .iter()
                .map(|sealed| {
                    let mut bytes = Vec::new();
                    sealed.copy_to(&mut bytes);
                    bytes
                })
                .collect();
            drop(sealed);
            for headers in [false, true] {
                let (started, mut sum) = (thread_cpu(), 0);
                for bytes in &wire {
                    for view in RecordSet::new(bytes) {
                        let view = view.unwrap();
                        for record in view.records(&mut decompressor, &mut unpacked).unwrap() {
                            let record = record.unwrap();
                            sum += record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len);
                            if headers {
                                sum += record.headers().map(|header| header.unwrap().key.len()).sum::<usize>();
                            }
                        }
                    }
                }
                assert!(sum > 0);
                let what = if headers { "read with headers" } else { "read keys and values" };
                note(format!("{codec:>6} {what}"), thread_cpu() - started);
            }
        }
    }
    let raw: usize = bodies.iter().flatten().map(Vec::len).sum::<usize>() / (RECORDS * BATCHES);
    println!(
        "{RECORDS} records a batch, {raw} bytes of body a record; ns of CPU a record: min / median / max of {rounds}"
    );
    for (name, mut seen) in rows {
        seen.sort_by(f64::total_cmp);
        println!("{name:<28} {:>7.1} {:>7.1} {:>7.1}", seen[0], seen[seen.len() / 2], seen[seen.len() - 1]);
    }
}
