//! Allocations of the whole client process per record, with the broker in a process of its own: sending, callbacks, reading.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;
#[path = "common/process.rs"]
#[allow(dead_code)]
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla::config::{Compression, Cores};
use ottla::consumer::StartAt;
use ottla::engine::Engine;
use ottla::producer::{Lane, Losses, Record};

/// Whole rounds, at least a million.
const RECORDS: u64 = 1_020_000;
const WARM_UP: u64 = 240_000;
const LONG: Duration = Duration::from_secs(120);

/// At most one allocation per thousand records.
fn counted(what: &str, records: u64, work: impl FnOnce()) {
    let ((), count) = counting::allocations(work);
    println!("{what}: {count} allocations for {records} records");
    assert!(count * 1_000 <= records, "{what}: {count} allocations for {records} records");
}

/// Records between two flushes: as many are on their way at most, in the warm-up as later.
const ROUND: u64 = 60_000;

fn round_ends(lane: &mut Lane, index: u64) {
    if (index + 1).is_multiple_of(ROUND) {
        assert_eq!(lane.flush(LONG), Ok(Losses { failed: 0, unknown: 0 }));
    }
}

static ACKED: AtomicU64 = AtomicU64::new(0);

fn send(lane: &mut Lane, records: u64) {
    for index in 0..records {
        let key = index.to_le_bytes();
        let record = Record::to("t").partition(0).key(&key).value(VALUE).header("h", "1");
        lane.send(record).unwrap();
        round_ends(lane, index);
    }
}

fn send_with(lane: &mut Lane, records: u64) {
    let acked = ACKED.load(Ordering::SeqCst);
    for index in 0..records {
        let key = index.to_le_bytes();
        let record = Record::to("t").partition(0).key(&key).value(VALUE).header("h", "1");
        let told = |result: ottla::producer::DeliveryResult| {
            ACKED.fetch_add(u64::from(result.is_ok()), Ordering::SeqCst);
        };
        lane.send_with(record, told).unwrap();
        round_ends(lane, index);
    }
    assert_eq!(ACKED.load(Ordering::SeqCst) - acked, records);
}

/// As [`send_with`], and the callbacks know something of their own.
fn send_with_context(lane: &mut Lane, records: u64) {
    let sum = Arc::new(AtomicU64::new(0));
    for index in 0..records {
        let key = index.to_le_bytes();
        let record = Record::to("t").partition(0).key(&key).value(VALUE).header("h", "1");
        let told = Arc::clone(&sum);
        let told = move |result: ottla::producer::DeliveryResult| {
            told.fetch_add(result.map_or(0, |_| index), Ordering::SeqCst);
        };
        lane.send_with(record, told).unwrap();
        round_ends(lane, index);
    }
    assert_eq!(sum.load(Ordering::SeqCst), (0..records).sum::<u64>());
}

const VALUE: &str = "{\"temperature\":21.5,\"status\":\"ok\",\"place\":\"a room with a window\",\"battery\":97}";

// One test, so that nothing else allocates meanwhile.
#[test]
fn a_million_records_allocate_at_most_a_thousand_times_each_way() {
    let (_broker, bootstrap) = process::broker(&["--validate", "header", "--topic", "t:1"]);
    let engine = Engine::builder().bootstrap([bootstrap]).cores(Cores::count(1)).build().unwrap();
    // The bench's linger. A batch costs about ten allocations (its pieces, its answer) however many records are in it, and in
    // this unoptimised profile five milliseconds don't fill one.
    let linger = Duration::from_millis(100);
    let producer = engine.producer().compression(Compression::Lz4).linger(linger).build().unwrap();
    let mut lane = producer.lane();
    send(&mut lane, WARM_UP);
    counted("send", RECORDS, || send(&mut lane, RECORDS));
    send_with(&mut lane, WARM_UP);
    counted("send_with", RECORDS, || send_with(&mut lane, RECORDS));
    send_with_context(&mut lane, WARM_UP);
    counted("send_with, callbacks with context", RECORDS, || send_with_context(&mut lane, RECORDS));
    let mut consumer = engine.consumer().assign([("t", 0, StartAt::Earliest)]).build().unwrap();
    let mut bytes = 0;
    let mut read = |records: u64| {
        let mut seen = 0;
        while seen < records {
            let batch = consumer.next(LONG).unwrap().expect("a batch in time");
            for record in &batch {
                seen += 1;
                bytes += record.value().map_or(0, <[u8]>::len);
                assert_eq!(record.headers().count(), 1);
            }
        }
    };
    read(2 * WARM_UP);
    counted("consume", RECORDS, || read(RECORDS));
    assert!(bytes > 0);
    engine.close(LONG).unwrap();
}
