//! `fetch.memory` as the operating system sees it: a thousand partitions of well compressible data, an application that
//! sleeps, and the broker in another process. One test, so that the process's memory is its own.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod broker_support;
#[path = "common/process.rs"]
mod process;

use std::time::{Duration, Instant};

use broker_support::{Client, PATIENCE};
use ottla::base::chunk::ChunkPool;
use ottla::batch::{Append, BatchBuilder, BatchSettings, Codec, Codecs, Stamp, encode_body};
use ottla::config::EngineSettings;
use ottla::consumer::StartAt;
use ottla::engine::Engine;
use process::memory;

const PARTITIONS: i32 = 1_000;
const FETCH_MEMORY: usize = 64 << 20;
/// Raw bytes of a batch; a tenth of it on the wire.
const RAW_BYTES: usize = 1 << 20;

/// About ten to one: every value is a tenth noise, the rest the same each time.
fn batch() -> (Vec<u8>, usize) {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut settings = BatchSettings::with_codec(Codec::Lz4);
    (settings.size_bytes_max, settings.raw_bytes_max) = (2 << 20, 2 * RAW_BYTES);
    let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
    let mut rng = ottla::base::rng::Rng::new(7);
    let mut raw = 0;
    while raw < RAW_BYTES {
        let mut value: Vec<u8> = (0..80).map(|_| rng.next_u64() as u8).collect();
        value.resize(1_000, b'x');
        let mut body = Vec::new();
        encode_body(None, Some(&value), std::iter::empty(), &mut body);
        assert_eq!(builder.append(1, &body), Append::Stored);
        raw += body.len();
    }
    let mut bytes = Vec::new();
    builder.seal(Stamp::NONE).copy_to(&mut bytes);
    (bytes, raw)
}

#[test]
fn r09_a_sleeping_application_with_a_thousand_compressible_partitions_holds_no_more_than_fetch_memory() {
    let (_broker, bootstrap) = process::broker(&["--topic", &format!("wide:{PARTITIONS}")]);
    let (bytes, raw) = batch();
    let ratio = raw as f64 / bytes.len() as f64;
    assert!((8.0..13.0).contains(&ratio), "{ratio}");
    let mut client = Client::at(bootstrap.as_str());
    for partition in 0..PARTITIONS {
        for _ in 0..2 {
            assert_eq!(client.produce("wide", partition, bytes.clone()).error_code, 0);
        }
    }
    let stored = 2 * PARTITIONS as usize * bytes.len();
    assert!(stored > 2 * FETCH_MEMORY);
    let settings =
        EngineSettings { bootstrap_servers: vec![bootstrap], fetch_memory: FETCH_MEMORY, ..EngineSettings::default() };
    let engine = Engine::builder().settings(settings).build().unwrap();
    // Idle: all is assigned and known, and there is nothing to come.
    let all = |start| (0..PARTITIONS).map(move |partition| ("wide", partition, start));
    let mut consumer = engine.consumer().assign(all(StartAt::Latest)).build().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while (0..PARTITIONS).any(|partition| consumer.position("wide", partition).unwrap().is_none()) {
        assert!(Instant::now() < deadline);
        assert!(consumer.next(Duration::from_millis(50)).unwrap().is_none());
    }
    drop((bytes, client));
    let idle = memory("VmRSS");
    process::forget_peak_memory();
    consumer.assign(all(StartAt::Earliest)).unwrap();
    // It takes one batch, and sleeps with it in its hands.
    let held = consumer.next(PATIENCE).unwrap().unwrap();
    assert!(held.iter().count() > 500);
    // Another one on the same shard and broker reads while it sleeps: with each of these batches the sleeper's link had its turn,
    // as often as it had memory to ask for more.
    let some = (0..20).map(|partition| ("wide", partition, StartAt::Earliest));
    let mut awake = engine.consumer().assign(some).max_partition_fetch_bytes(256 << 10).build().unwrap();
    for _ in 0..40 {
        assert!(awake.next(PATIENCE).unwrap().unwrap().iter().count() > 500);
    }
    let fetched = engine.stats().fetched_bytes;
    let peak = memory("VmHWM");
    let more = peak.saturating_sub(idle);
    println!("idle {} KiB, peak {} KiB: {} KiB more; fetched {fetched} bytes", idle >> 10, peak >> 10, more >> 10);
    assert!(fetched as usize > FETCH_MEMORY / 4, "it did fetch: {fetched}");
    assert!(more <= FETCH_MEMORY / 10 * 11, "{} MiB more than idle", more >> 20);
    // And when it wakes, all of it comes.
    drop((held, awake));
    let mut records = 0;
    let per_partition = 2 * raw.div_ceil(1_004);
    while records < per_partition * 20 {
        records += consumer.next(PATIENCE).unwrap().unwrap().iter().count();
    }
    let peak = memory("VmHWM").saturating_sub(idle);
    println!("while reading: {} KiB more than idle", peak >> 10);
    assert!(peak <= FETCH_MEMORY / 10 * 11, "{} MiB more than idle while reading", peak >> 20);
    drop(consumer);
    engine.close(Duration::from_secs(5)).unwrap();
}
