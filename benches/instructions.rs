//! Instructions per record of the hot paths, for callgrind: `ci/instructions` runs this under valgrind, reads the inclusive
//! cost of the functions named here and compares with `instructions.txt`. Run by itself it only says that it works.
//!
//! ```text
//!   encode            a record's body into memory, and that body into a batch (uncompressed; lz4)
//!   decode            a sealed batch: checked, decompressed, every field read
//!   lane              one entry through a lane, charged to the budget, both ends on one thread
//!   send              `Lane::try_send` of a whole engine
//!   shard_produces    that engine's shard: lanes, batches, requests, answers, outcomes
//!   shard_fetches     that engine's shard: requests, answers into slabs
//!   consume           `Consumer::poll_next` and every field of its records
//! ```
//! The engine lives in a simulated world with an embedded broker: virtual time, no kernel, the same run every time. Each
//! piece of work is done once before it is counted.

#![allow(clippy::unwrap_used)] // a bench that cannot go on stops

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ottla::base::chunk::ChunkPool;
use ottla::base::ids::{LaneId, TopicIx, Tp};
use ottla::base::time::Now;
use ottla::batch::{
    Append, BatchBuilder, BatchSettings, Codec, Codecs, Decompressor, RecordSet, Stamp, Unpacked, body_len,
    encode_body_at,
};
use ottla::config::{Compression, EngineSettings};
use ottla::consumer::{Consumer, StartAt};
use ottla::control;
use ottla::engine::{Engine, EngineClock, Seat, assemble};
use ottla::mesh::entry::{EntryFlags, EntryHeader, EntryKind, HEADER_BYTES};
use ottla::mesh::{Budget, Credit, LaneReader, LaneSettings, LaneWriter, lane};
use ottla::net::Resolver;
use ottla::producer::{Lane, Losses, Record, RejectReason};
use ottla::ring::Wake;
use ottla::ring::sim::SimBackend;
use ottla::shard::{Shard, Turn};
use ottla::testkit::broker::{Options, SimBroker, TopicSpec};
use ottla::testkit::clock::SimClock;
use ottla::testkit::net::Party;
use ottla::testkit::sim::World;

/// Records that each counted function handles.
const RECORDS: usize = 20_000;
/// In one batch, where a scenario makes batches by itself.
const BATCH: usize = 2_000;

/// Telemetry, as in `benches/batch.rs`: a key, some 150 bytes of JSON, three headers.
struct Telemetry {
    key: String,
    value: String,
    trace: String,
}

impl Telemetry {
    fn all() -> Vec<Self> {
        let mut rng = ottla::base::rng::Rng::new(1);
        let mut one = |number: usize| {
            let key = format!("sensor-{:06}", rng.below(100_000));
            let value = format!(
                "{{\"sensor\":\"{key}\",\"sequence\":{number},\"temperature\":{}.{:02},\"humidity\":{}.{:02},\
                 \"unit\":\"celsius\",\"status\":\"nominal\",\"battery\":{},\"firmware\":\"2.11.{}\"}}",
                rng.below(40),
                rng.below(100),
                rng.below(100),
                rng.below(100),
                rng.below(100),
                rng.below(9)
            );
            let trace = format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64());
            Self { key, value, trace }
        };
        (0..RECORDS).map(&mut one).collect()
    }

    fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> + Clone {
        let headers: [(&str, &[u8]); 3] =
            [("trace_id", self.trace.as_bytes()), ("content_type", b"application/json"), ("gateway", b"gw-eu-1")];
        headers.into_iter().map(|(name, value)| (name, Some(value)))
    }

    fn record(&self) -> Record<'_> {
        let record = Record::to(TopicIx(0)).partition(0).key(&self.key).value(&self.value);
        record.header("trace_id", &self.trace).header("content_type", "application/json").header("gateway", "gw-eu-1")
    }
}

/// A lane's entry, as `producer::core` writes it.
#[inline(always)]
fn write_entry(record: &Telemetry, out: &mut [u8], bytes: usize) {
    let tp = Tp { topic: TopicIx(0), partition: 0 };
    let header = EntryHeader { kind: EntryKind::Record, flags: EntryFlags::default(), tp, time: 1_700_000_000_000 };
    header.write(bytes, out);
    let (key, value) = (record.key.as_bytes(), record.value.as_bytes());
    encode_body_at(Some(key), Some(value), record.headers(), &mut out[HEADER_BYTES..]);
}

fn bytes_of(record: &Telemetry) -> usize {
    body_len(Some(record.key.as_bytes()), Some(record.value.as_bytes()), record.headers())
}

#[inline(never)]
fn count_encode_body(records: &[Telemetry], memory: &mut [u8]) {
    for record in records {
        let bytes = bytes_of(record);
        write_entry(record, &mut memory[..HEADER_BYTES + bytes], bytes);
        black_box(&memory);
    }
}

fn build(bodies: &[Vec<u8>], codec: Codec, pool: &ChunkPool, codecs: &Codecs) -> Vec<ottla::batch::SealedBatch> {
    let settings = BatchSettings { size_bytes_max: 4 << 20, ..BatchSettings::with_codec(codec) };
    let mut sealed = Vec::new();
    for bodies in bodies.chunks(BATCH) {
        let mut builder = BatchBuilder::new(&settings, pool, codecs).unwrap();
        for (number, body) in bodies.iter().enumerate() {
            assert_ne!(builder.append(1_700_000_000_000 + number as i64, body), Append::Full);
        }
        sealed.push(builder.seal(Stamp::NONE));
    }
    sealed
}

#[inline(never)]
fn count_encode_batch(bodies: &[Vec<u8>], pool: &ChunkPool, codecs: &Codecs) {
    black_box(build(bodies, Codec::None, pool, codecs));
}

#[inline(never)]
fn count_encode_batch_lz4(bodies: &[Vec<u8>], pool: &ChunkPool, codecs: &Codecs) {
    black_box(build(bodies, Codec::Lz4, pool, codecs));
}

#[inline(never)]
fn count_decode(sets: &[Vec<u8>], decompressor: &mut Decompressor, unpacked: &mut Unpacked) -> usize {
    let mut seen = 0;
    for set in sets {
        for view in RecordSet::new(set) {
            for record in view.unwrap().records(decompressor, unpacked).unwrap() {
                let record = record.unwrap();
                black_box((record.offset, record.timestamp, record.key(), record.value()));
                record.headers().for_each(|header| _ = black_box(header));
                seen += 1;
            }
        }
    }
    seen
}

#[inline(never)]
fn count_lane(records: &[Telemetry], credit: &mut Credit, writer: &mut LaneWriter, reader: &mut LaneReader) {
    for (number, record) in records.iter().enumerate() {
        let bytes = bytes_of(record);
        assert!(credit.try_spend((HEADER_BYTES + bytes) as u64));
        let out = writer.reserve(HEADER_BYTES + bytes).unwrap();
        write_entry(record, out, bytes);
        writer.commit(HEADER_BYTES + bytes);
        if number % 128 == 127 || number + 1 == records.len() {
            loop {
                let len = black_box(reader.readable()).len();
                if len == 0 {
                    break;
                }
                reader.consume(len);
                credit.budget().give_back(len as u64);
            }
        }
    }
}

#[inline(never)]
fn count_send(lane: &mut Lane, records: &[Telemetry], sent: &mut usize) {
    while let Some(record) = records.get(*sent) {
        match lane.try_send(record.record()) {
            Ok(()) => *sent += 1,
            Err(rejected) => {
                assert_eq!(rejected.reason, RejectReason::Full);
                return;
            }
        }
    }
}

#[inline(never)]
fn count_shard_produces(shard: &mut Shard<SimBackend, SimClock>) -> Turn {
    shard.turn()
}

#[inline(never)]
fn count_shard_fetches(shard: &mut Shard<SimBackend, SimClock>) -> Turn {
    // Else the compiler makes one function of two that are alike.
    black_box(());
    shard.turn()
}

#[inline(never)]
fn count_consume(consumer: &mut Consumer) -> usize {
    let mut seen = 0;
    while let Poll::Ready(batch) = consumer.poll_next(&mut Context::from_waker(Waker::noop())) {
        for record in &batch.unwrap() {
            black_box((record.offset(), record.timestamp(), record.key(), record.value()));
            record.headers().for_each(|header| _ = black_box(header));
            seen += 1;
        }
    }
    seen
}

/// What a turn of the shard counts as.
#[derive(Clone, Copy, PartialEq)]
enum Counts {
    Nothing,
    Produce,
    Fetch,
}

/// One shard, one broker of one node, one topic of one partition.
fn engine(world: &mut World, counts: &Arc<std::sync::Mutex<Counts>>) -> Engine {
    let party = world.party("broker");
    let options = Options { topics: vec![TopicSpec::new("t", 1)], seed: 1, ..Options::default() };
    let (broker, mut driver) = SimBroker::new(world.net(), party, options).unwrap();
    world.spawn(party, move |now: Now| driver.turn(now));
    let (control, shard, handles) = (world.party("control"), world.party("shard"), world.party("handles"));
    let seat = |party: Party| {
        let waker = world.sim_waker(party);
        Seat { medium: world.medium(party), ring: Box::new(move || waker.wake()) }
    };
    let settings =
        EngineSettings { bootstrap_servers: vec![broker.bootstrap()], seed: Some(1), ..EngineSettings::default() };
    let (clock, seats) = (EngineClock::new(world.clock()), vec![seat(shard)]);
    let made = assemble(settings, clock, seat(control), seats, world.medium(handles), ("sim", String::new()), false);
    let mut assembly = made.unwrap();
    let resolver = Resolver::with_lookup(Arc::new(|_| Err(io::ErrorKind::NotFound.into())), || {});
    let mut running = assembly.control.start(world.backend(control), resolver).unwrap();
    world.spawn(control, move |_: Now| {
        assert!(running.turn() == control::Turn::Running);
        None
    });
    let mut running = assembly.shards.remove(0).start(world.backend(shard), world.clock());
    let counts = Arc::clone(counts);
    world.spawn(shard, move |_: Now| {
        let counts = *counts.lock().unwrap();
        match counts {
            Counts::Nothing => drop(running.turn()),
            Counts::Produce => drop(count_shard_produces(&mut running)),
            Counts::Fetch => drop(count_shard_fetches(&mut running)),
        }
        None
    });
    assembly.engine
}

fn whole_engine(records: &[Telemetry]) {
    let mut world = World::calm(1);
    let counts = Arc::new(std::sync::Mutex::new(Counts::Nothing));
    let engine = engine(&mut world, &counts);
    let step = Duration::from_millis(1);
    let topic = engine.topic("t").unwrap();
    assert_eq!(topic, TopicIx(0));
    let producer = engine.producer().compression(Compression::Lz4).linger(Duration::from_millis(5)).build().unwrap();
    let mut lane = producer.lane();
    for counted in [false, true] {
        *counts.lock().unwrap() = if counted { Counts::Produce } else { Counts::Nothing };
        let mut sent = 0;
        while sent < records.len() {
            let end = (sent + 500).min(records.len());
            if counted {
                count_send(&mut lane, &records[..end], &mut sent);
            } else {
                lane.try_send(records[sent].record()).unwrap();
                sent += 1;
                if sent % 500 != 0 {
                    continue;
                }
            }
            world.run_until(world.clock().time() + step, || false);
        }
        let mut flush = std::pin::pin!(lane.flush_async());
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(losses) = flush.as_mut().poll(&mut context) {
                assert_eq!(losses, Ok(Losses::default()));
                break;
            }
            world.run_until(world.clock().time() + step, || false);
        }
    }
    *counts.lock().unwrap() = Counts::Nothing;
    let mut consumer = engine.consumer().assign([("t", 0, StartAt::Earliest)]).build().unwrap();
    let mut warm = 0;
    // The first half is read first; what was prefetched of the second by then is a few slabs.
    while warm < records.len() {
        world.run_until(world.clock().time() + step, || false);
        if let Poll::Ready(batch) = consumer.poll_next(&mut Context::from_waker(Waker::noop())) {
            warm += batch.unwrap().iter().count();
        }
    }
    *counts.lock().unwrap() = Counts::Fetch;
    consumer.seek("t", 0, StartAt::Earliest).unwrap();
    let mut seen = 0;
    while seen < 2 * records.len() {
        world.run_until(world.clock().time() + step, || false);
        seen += count_consume(&mut consumer);
    }
    assert_eq!(seen, 2 * records.len());
    let losses = producer.losses();
    assert_eq!(losses, Losses::default());
}

fn main() {
    let records = Telemetry::all();
    let mut memory = vec![0; 4 << 10];
    let bodies: Vec<Vec<u8>> = records
        .iter()
        .map(|record| {
            let bytes = bytes_of(record);
            write_entry(record, &mut memory[..HEADER_BYTES + bytes], bytes);
            memory[HEADER_BYTES..HEADER_BYTES + bytes].to_vec()
        })
        .collect();
    let (pool, codecs) = (ChunkPool::new(64 << 20), Codecs::new());
    // A pool at rest gives memory back; one that works has something out.
    let _busy = pool.take(1);
    build(&bodies, Codec::None, &pool, &codecs);
    count_encode_body(&records, &mut memory);
    count_encode_batch(&bodies, &pool, &codecs);
    let wire = |batch: &ottla::batch::SealedBatch| {
        let mut out = Vec::new();
        batch.copy_to(&mut out);
        out
    };
    let sets: Vec<Vec<u8>> = build(&bodies, Codec::Lz4, &pool, &codecs).iter().map(wire).collect();
    count_encode_batch_lz4(&bodies, &pool, &codecs);
    let (mut decompressor, mut unpacked) = (Decompressor::new(64 << 20), Unpacked::new());
    let one = std::slice::from_ref(&sets[0]);
    for view in RecordSet::new(&one[0]) {
        assert_eq!(view.unwrap().records(&mut decompressor, &mut unpacked).unwrap().count(), BATCH);
    }
    assert_eq!(count_decode(&sets, &mut decompressor, &mut unpacked), RECORDS);

    let (mut writer, mut reader) = lane(LaneId(0), LaneSettings::default());
    let mut credit = Budget::new(32 << 20).credit();
    count_lane(&records, &mut credit, &mut writer, &mut reader);
    whole_engine(&records);
    // What each count is of, for ci/instructions.
    for (name, records) in [
        ("encode_body", RECORDS),
        ("encode_batch", RECORDS),
        ("encode_batch_lz4", RECORDS),
        ("decode", RECORDS),
        ("lane", RECORDS),
        ("send", RECORDS),
        ("shard_produces", RECORDS),
        // What was sent to warm up is read again, too.
        ("shard_fetches", 2 * RECORDS),
        ("consume", 2 * RECORDS),
    ] {
        println!("count {name} {records}");
    }
}
