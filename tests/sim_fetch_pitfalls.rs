//! Pitfalls of fetching by number, in a whole world: the real consumer and shard, the embedded broker, a simulated network and
//! virtual time. What the state machine's tests show alone is shown here by what applications are given and what brokers are
//! asked for.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too
#![allow(clippy::single_range_in_vec_init)] // lists of ranges of offsets, often of one

mod sim_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::base::chunk::ChunkPool;
use ottla::base::time::Time;
use ottla::batch::{
    Append, BatchBuilder, BatchSettings, Codec, Codecs, Fault, Marker, Refusal, Stamp, encode_body, encode_marker,
    header,
};
use ottla::config::EngineSettings;
use ottla::consumer::{Batch, ConsumeError, Consumer, StartAt};
use ottla::testkit::broker::{Reaction, Rule};
use ottla::testkit::clock::SimClock;
use ottla::testkit::sim::World;
use ottla::wire::messages::FetchRequest;
use ottla::wire::{ApiKey, ErrorCode};
use sim_support::scene::within;
use sim_support::{Bed, MINUTE, SECOND};

const MS: Duration = Duration::from_millis(1);
const TOPIC: &str = "t";

/// A batch of `count` records from `from` on, whose values say their offset and fill up to `size` bytes.
fn batch(codec: Codec, from: i64, count: i64, size: usize) -> Vec<u8> {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let settings =
        BatchSettings { size_bytes_max: 64 << 20, raw_bytes_max: 64 << 20, ..BatchSettings::with_codec(codec) };
    let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
    for offset in from..from + count {
        let (mut body, value) = (Vec::new(), format!("{offset}:{}", "x".repeat(size)));
        encode_body(None, Some(value.as_bytes()), std::iter::empty(), &mut body);
        assert_eq!(builder.append(1_000 + offset, &body), Append::Stored);
    }
    let mut bytes = Vec::new();
    builder.seal(Stamp::NONE).copy_to(&mut bytes);
    bytes
}

/// The same batch with other header fields, its CRC right again.
fn forged(mut batch: Vec<u8>, last_delta: i32, count: i32) -> Vec<u8> {
    batch[23..27].copy_from_slice(&last_delta.to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    assert!(header::seal_crc(&mut batch));
    batch
}

/// What a broker was asked for by one Fetch.
#[derive(Clone, Debug)]
struct Asked {
    time: Time,
    node: i32,
    /// Of its session; 0 names everything.
    epoch: i32,
    offsets: BTreeMap<i32, i64>,
    forgotten: Vec<i32>,
}

/// A world with one topic and one consumer's view of it.
struct Scene {
    bed: Bed,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scene {
    /// `partitions` of one topic on `nodes` brokers.
    fn new(seed: u64, nodes: usize, partitions: i32, settings: EngineSettings) -> Self {
        let bed = Bed::new(World::calm(seed), nodes, 1, &[(TOPIC, partitions)], settings);
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = Arc::clone(&asked);
        bed.broker.with(|core| {
            core.control(move |call, request: &FetchRequest| {
                let all = request.topics.iter().flat_map(|topic| &topic.partitions);
                let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| topic.partitions.clone());
                log.lock().unwrap().push(Asked {
                    time: call.now.mono,
                    node: call.node,
                    epoch: request.session_epoch,
                    offsets: all.map(|part| (part.partition, part.fetch_offset)).collect(),
                    forgotten: forgotten.collect(),
                });
                None
            });
        });
        Self { bed, asked }
    }

    /// Puts a batch at the end of a partition, or further.
    fn plant(&self, partition: i32, at: i64, batch: &[u8]) {
        assert!(self.bed.broker.with(|core| core.plant(TOPIC, partition, at, batch)));
    }

    /// Fills a partition with `count` records in batches of `each`.
    fn fill(&self, partition: i32, count: i64, each: i64, size: usize) {
        for from in (0..count).step_by(each as usize) {
            self.plant(partition, from, &batch(Codec::None, from, each, size));
        }
    }

    fn consumer(&self, partitions: i32) -> Consumer {
        let all = (0..partitions).map(|partition| (TOPIC, partition, StartAt::Offset(0)));
        self.bed.engine.consumer().assign(all).build().unwrap()
    }

    /// Runs `work` with a reader.
    fn read<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        consumer: Consumer,
        work: impl FnOnce(Reader) -> F,
    ) -> T {
        let reader = Reader { consumer, clock: self.bed.world.clock(), given: BTreeMap::new(), errors: Vec::new() };
        self.bed.run(10 * MINUTE, work(reader))
    }

    /// What was asked for since the last call.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn leader(&self, partition: i32) -> i32 {
        self.bed.broker.look(|core| core.cluster.partition(TOPIC, partition).unwrap().leader)
    }

    fn rule(&self, rule: Rule) {
        self.bed.broker.with(|core| core.faults.add(rule));
    }
}

/// Reads and writes down what it is given.
struct Reader {
    consumer: Consumer,
    clock: SimClock,
    /// Offsets by partition, in the order they came.
    given: BTreeMap<i32, Vec<i64>>,
    errors: Vec<ConsumeError>,
}

impl Reader {
    /// Reads for so long; errors are kept.
    async fn for_time(&mut self, duration: Duration) {
        let end = self.clock.time() + duration;
        while self.clock.time() < end {
            let left = end.since(self.clock.time());
            self.step(left).await;
        }
    }

    /// Reads until a partition has given out so many records.
    async fn until(&mut self, partition: i32, count: usize) {
        let end = self.clock.time() + 5 * MINUTE;
        while self.given.get(&partition).is_none_or(|given| given.len() < count) {
            assert!(self.clock.time() < end, "{:?}, {:?}", self.given.get(&partition), self.errors);
            self.step(SECOND).await;
        }
    }

    async fn step(&mut self, patience: Duration) {
        match within(&self.clock, patience, self.consumer.next_async()).await {
            Some(Ok(batch)) => self.take(&batch),
            Some(Err(error)) => self.errors.push(error),
            None => {}
        }
    }

    fn take(&mut self, batch: &Batch) {
        let given = self.given.entry(batch.partition()).or_default();
        for record in batch {
            let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
            let (text, _) = value.split_once(':').unwrap();
            assert_eq!(text.parse(), Ok(record.offset()), "the value of another record");
            given.push(record.offset());
        }
    }

    fn position(&self, partition: i32) -> Option<i64> {
        self.consumer.position(TOPIC, partition).unwrap()
    }

    fn processed(&self, partition: i32) -> Option<i64> {
        self.consumer.processed(TOPIC, partition).unwrap()
    }
}

fn offsets(ranges: &[std::ops::Range<i64>]) -> Vec<i64> {
    ranges.iter().cloned().flatten().collect()
}

#[test]
fn d2_33_gaps_markers_and_empty_batches_are_passed_by_last_offsets() {
    for seed in 1..=3 {
        let mut scene = Scene::new(seed, 1, 1, EngineSettings::default());
        // Compacted to 3 of 20 records; emptied; a marker; a gap; whole; compacted to nothing at its end; a marker at the end.
        scene.plant(0, 0, &forged(batch(Codec::None, 0, 3, 400), 19, 3));
        scene.plant(0, 20, &forged(batch(Codec::None, 0, 1, 0)[..61].to_vec(), 49, 0));
        scene.plant(0, 70, &encode_marker(Marker::Commit, 70, 0, 9, 5, 0, 0));
        scene.plant(0, 100, &batch(Codec::None, 100, 10, 200));
        scene.plant(0, 110, &forged(batch(Codec::None, 110, 2, 600), 89, 2));
        scene.plant(0, 200, &encode_marker(Marker::Abort, 200, 0, 9, 5, 0, 0));
        // Small answers, so that fetching goes on behind each kind of batch.
        let all = [(TOPIC, 0, StartAt::Offset(0))];
        let consumer = scene.bed.engine.consumer().assign(all).max_partition_fetch_bytes(1_024).fetch_max_bytes(1_024);
        let consumer = consumer.build().unwrap();
        let reader = scene.read(consumer, |mut reader| async move {
            reader.for_time(3 * SECOND).await;
            reader
        });
        assert_eq!(reader.given[&0], offsets(&[0..3, 100..112]), "seed {seed}");
        assert!(reader.errors.is_empty(), "seed {seed}: {:?}", reader.errors);
        assert_eq!((reader.position(0), reader.processed(0)), (Some(201), Some(201)), "seed {seed}");
        // Nothing is asked for twice, and never from within a hole; at the end there is one long poll each 500 ms.
        let asked = scene.asked();
        let from: BTreeSet<i64> = asked.iter().filter_map(|asked| asked.offsets.get(&0).copied()).collect();
        assert!(from.iter().all(|offset| [0, 20, 70, 71, 110, 200, 201].contains(offset)), "seed {seed}: {from:?}");
        assert!(from.contains(&201) && asked.len() <= 14, "seed {seed}: {} requests, {from:?}", asked.len());
    }
}

#[test]
fn d2_34_what_lies_before_the_offset_is_left_out_and_what_lies_is_told_with_its_place() {
    for seed in 1..=2 {
        let mut scene = Scene::new(seed, 1, 6, EngineSettings::default());
        scene.fill(0, 10, 10, 5);
        // Ten good ones, then: no bytes for five records; a negative count; a record that is longer than its batch; a magic
        // byte that nobody knows.
        let mut torn = batch(Codec::None, 10, 5, 5);
        torn[61..63].copy_from_slice(&[0xfe, 0x7f]);
        assert!(header::seal_crc(&mut torn));
        let mut strange = batch(Codec::None, 10, 5, 5);
        strange[16] = 9;
        let broken = [
            forged(batch(Codec::None, 10, 5, 5)[..61].to_vec(), 4, 5),
            forged(batch(Codec::None, 10, 5, 5), 4, -5),
            torn,
            strange,
        ];
        for (partition, broken) in (1..).zip(&broken) {
            scene.fill(partition, 10, 10, 5);
            scene.plant(partition, 10, broken);
            scene.plant(partition, 15, &batch(Codec::None, 15, 5, 5));
        }
        scene.fill(5, 100, 5, 5);
        let all = (0..6).map(|partition| (TOPIC, partition, StartAt::Offset(if partition == 0 { 7 } else { 0 })));
        let consumer = scene.bed.engine.consumer().assign(all).build().unwrap();
        let reader = scene.read(consumer, |mut reader| async move {
            reader.for_time(10 * SECOND).await;
            reader
        });
        assert_eq!(reader.given[&0], offsets(&[7..10]), "seed {seed}: from the offset asked for");
        assert_eq!(reader.given[&5], offsets(&[0..100]), "seed {seed}: others go on");
        let mut told = BTreeMap::new();
        for error in &reader.errors {
            let (partition, place) = match error {
                ConsumeError::BadBatch { partition, bad, .. } => (*partition, bad.offset),
                // The last good one before it.
                ConsumeError::BadRecord { partition, bad, .. } => (*partition, bad.after + 1),
                other => panic!("seed {seed}: {other}"),
            };
            assert!(error.to_string().starts_with(&format!("{TOPIC}-{partition}: ")), "{error}");
            assert_eq!((place, told.insert(partition, place)), (10, None), "seed {seed}: {error}");
        }
        assert_eq!(told.into_keys().collect::<Vec<_>>(), [1, 2, 3, 4], "seed {seed}");
        for partition in 1..=4 {
            let given = &reader.given[&partition];
            assert_eq!(given[..10], offsets(&[0..10]), "seed {seed}: partition {partition}");
            assert!(given.iter().all(|offset| !(10..15).contains(offset)), "seed {seed}: {partition}: {given:?}");
        }
        // Silently skipped is none: what is processed ends in front of it.
        for partition in [1, 2, 4] {
            assert_eq!(reader.processed(partition), Some(10), "seed {seed}: partition {partition}");
        }
        let asked = scene.asked().len();
        assert!(asked < 60, "seed {seed}: {asked} requests in ten seconds");
    }
}

#[test]
fn d2_35_batches_that_are_cut_off_come_with_the_next_answer() {
    for seed in 1..=2 {
        let mut scene = Scene::new(seed, 1, 1, EngineSettings::default());
        let one = batch(Codec::None, 0, 4, 80);
        assert!((400..500).contains(&one.len()), "{}", one.len());
        scene.fill(0, 400, 4, 80);
        let all = [(TOPIC, 0, StartAt::Offset(0))];
        let consumer = scene.bed.engine.consumer().assign(all).max_partition_fetch_bytes(1_024).fetch_max_bytes(1_024);
        let reader = scene.read(consumer.build().unwrap(), |mut reader| async move {
            reader.until(0, 400).await;
            reader
        });
        assert_eq!(reader.given[&0], offsets(&[0..400]), "seed {seed}");
        assert!(reader.errors.is_empty(), "seed {seed}: {:?}", reader.errors);
        // Two whole ones fit into each answer, and the third is cut off.
        let from: Vec<i64> = scene.asked().iter().filter_map(|asked| asked.offsets.get(&0).copied()).collect();
        assert!(from.iter().is_sorted() && from.iter().all(|offset| offset % 8 == 0), "seed {seed}: {from:?}");
        assert!(from.len() <= 60, "seed {seed}: {} requests", from.len());
    }
}

#[test]
fn d2_36_a_first_batch_over_every_limit_comes_whole() {
    let mut scene = Scene::new(1, 1, 2, EngineSettings { fetch_memory: 1 << 20, ..EngineSettings::default() });
    scene.plant(0, 0, &batch(Codec::None, 0, 3, 500_000));
    scene.plant(0, 3, &batch(Codec::None, 3, 1, 10));
    scene.fill(1, 50, 5, 10);
    let all = (0..2).map(|partition| (TOPIC, partition, StartAt::Offset(0)));
    let consumer = scene.bed.engine.consumer().assign(all).max_partition_fetch_bytes(1_024).fetch_max_bytes(1_024);
    let reader = scene.read(consumer.build().unwrap(), |mut reader| async move {
        reader.until(0, 4).await;
        reader.until(1, 50).await;
        reader
    });
    assert_eq!((&reader.given[&0], &reader.given[&1]), (&offsets(&[0..4]), &offsets(&[0..50])));
    assert!(reader.errors.is_empty(), "{:?}", reader.errors);
    assert!(scene.asked().len() < 60);
}

#[test]
fn d2_36_a_batch_over_the_hard_cap_is_told_once_and_others_of_its_broker_go_on() {
    for seed in 1..=3 {
        let settings = EngineSettings { receive_message_max_bytes: 100_000, ..EngineSettings::default() };
        let mut scene = Scene::new(seed, 1, 6, settings);
        for partition in 0..6 {
            scene.fill(partition, 100, 10, 400);
        }
        // Two are guilty, behind what can be read.
        for partition in [1, 4] {
            scene.plant(partition, 100, &batch(Codec::None, 100, 1, 150_000));
            scene.plant(partition, 101, &batch(Codec::None, 101, 5, 10));
        }
        let consumer = scene.consumer(6);
        let broker = scene.bed.broker.clone();
        let reader = scene.read(consumer, |mut reader| async move {
            reader.for_time(10 * SECOND).await;
            // Others go on for good, and nobody loses a link any more.
            let lost = || broker.look(|core| core.counters().connections_opened);
            let links = lost();
            for offset in 100..150 {
                broker.with(|core| core.plant(TOPIC, 0, offset, &batch(Codec::None, offset, 1, 10)));
                reader.until(0, offset as usize + 1).await;
                reader.for_time(200 * MS).await;
            }
            assert_eq!(lost(), links);
            assert_eq!((reader.position(1), reader.processed(1)), (Some(100), Some(100)));
            // The application's word gets them going.
            reader.consumer.seek(TOPIC, 1, StartAt::Offset(101)).unwrap();
            reader.until(1, 105).await;
            reader
        });
        for partition in [0, 2, 3, 5] {
            let count = if partition == 0 { 150 } else { 100 };
            assert_eq!(reader.given[&partition], offsets(&[0..count]), "seed {seed}: partition {partition}");
        }
        assert_eq!(reader.given[&1], offsets(&[0..100, 101..106]), "seed {seed}");
        let mut told = Vec::new();
        for error in &reader.errors {
            match error {
                ConsumeError::Refused {
                    topic,
                    partition,
                    why: Refusal::TooLarge { offset: 100, bytes, limit: 100_000 },
                    stopped: true,
                } => {
                    assert!((150_000..151_000).contains(bytes) && &**topic == TOPIC, "seed {seed}: {error}");
                    told.push(*partition);
                }
                other => panic!("seed {seed}: {other}"),
            }
            assert!(error.to_string().contains("receive.message.max.bytes = 100000: raise that"), "{error}");
        }
        told.sort_unstable();
        assert_eq!(told, [1, 4], "seed {seed}: once each");
        let counters = scene.bed.broker.look(|core| core.counters());
        // Two links for each of them, its own at the start, and control's.
        assert!(counters.connections_opened <= 7, "seed {seed}: {} links", counters.connections_opened);
    }
}

#[test]
fn d2_36_answers_stay_below_the_hard_cap_whatever_the_fetch_sizes_say() {
    let settings = EngineSettings { receive_message_max_bytes: 70_000, ..EngineSettings::default() };
    let mut scene = Scene::new(1, 1, 4, settings);
    for partition in 0..4 {
        scene.fill(partition, 200, 10, 2_000);
    }
    // By their defaults an answer would be 1.6 MB.
    let consumer = scene.consumer(4);
    let reader = scene.read(consumer, |mut reader| async move {
        for partition in 0..4 {
            reader.until(partition, 200).await;
        }
        reader
    });
    assert!(reader.errors.is_empty(), "{:?}", reader.errors);
    assert_eq!(scene.bed.engine.stats().link_failures, 0);
}

#[test]
fn d2_37_a_bomb_is_told_once_and_others_go_on() {
    let mut scene = Scene::new(1, 1, 2, EngineSettings { fetch_memory: 1 << 20, ..EngineSettings::default() });
    // A thousand to one, 20 MB; and one whose bytes do not decompress.
    let bomb = batch(Codec::Zstd, 0, 20, 1 << 20);
    assert!(bomb.len() < 32 << 10, "{}", bomb.len());
    scene.plant(0, 0, &bomb);
    let mut bad = batch(Codec::Zstd, 20, 5, 100);
    bad[61] ^= 0xff;
    assert!(header::seal_crc(&mut bad));
    scene.plant(0, 20, &bad);
    scene.plant(0, 25, &batch(Codec::Zstd, 25, 5, 100));
    scene.fill(1, 1_000, 10, 100);
    let consumer = scene.consumer(2);
    let broker = scene.bed.broker.clone();
    let reader = scene.read(consumer, |mut reader| async move {
        reader.for_time(5 * SECOND).await;
        assert_eq!(reader.errors.len(), 1, "{:?}", reader.errors);
        assert_eq!((reader.position(0), reader.processed(0)), (Some(0), Some(0)));
        assert_eq!(reader.given[&1], offsets(&[0..1_000]));
        // Passed over by the application's word; the next one is told the same way, and behind it all is well.
        assert!(reader.consumer.skip_bad(TOPIC, 0).unwrap());
        reader.for_time(5 * SECOND).await;
        assert_eq!((reader.errors.len(), reader.position(0)), (2, Some(20)), "{:?}", reader.errors);
        assert!(reader.consumer.skip_bad(TOPIC, 0).unwrap());
        reader.until(0, 5).await;
        broker.with(|core| core.plant(TOPIC, 1, 1_000, &batch(Codec::None, 1_000, 1, 1)));
        reader.until(1, 1_001).await;
        reader
    });
    assert_eq!(reader.given[&0], offsets(&[25..30]));
    let faults: Vec<_> = reader
        .errors
        .iter()
        .map(|error| match error {
            ConsumeError::BadBatch { partition: 0, bad, .. } => (bad.offset, matches!(bad.fault, Fault::Decompress(_))),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(faults, [(0, true), (20, true)]);
    // No spin: two long polls a second, and what was there.
    let asked = scene.asked();
    assert!(asked.len() < 40, "{} requests in {:?}", asked.len(), asked.last().map(|asked| asked.time));
}

#[test]
fn d2_38_a_damaged_batch_stops_its_partition_in_front_of_it() {
    for seed in 1..=2 {
        let mut scene = Scene::new(seed, 1, 2, EngineSettings::default());
        scene.fill(0, 10, 10, 10);
        let mut bad = batch(Codec::Lz4, 10, 10, 10);
        *bad.last_mut().unwrap() ^= 1;
        scene.plant(0, 10, &bad);
        scene.plant(0, 20, &batch(Codec::None, 20, 10, 10));
        scene.fill(1, 100, 10, 10);
        let consumer = scene.consumer(2);
        let reader = scene.read(consumer, |mut reader| async move {
            reader.for_time(5 * SECOND).await;
            let before = (reader.given[&0].clone(), reader.position(0), reader.processed(0));
            assert_eq!(before, (offsets(&[0..10]), Some(10), Some(10)));
            // Read again, it is as bad, and told again.
            reader.consumer.seek(TOPIC, 0, StartAt::Offset(10)).unwrap();
            reader.for_time(5 * SECOND).await;
            assert!(reader.consumer.skip_bad(TOPIC, 0).unwrap());
            reader.for_time(5 * SECOND).await;
            reader
        });
        assert_eq!(reader.given[&0], offsets(&[0..10, 20..30]), "seed {seed}");
        assert_eq!(reader.given[&1], offsets(&[0..100]), "seed {seed}");
        let crc = |error: &ConsumeError| {
            matches!(error, ConsumeError::BadBatch { partition: 0, bad, .. }
                if bad.offset == 10 && matches!(bad.fault, Fault::Crc { .. }))
        };
        assert_eq!(reader.errors.iter().filter(|error| crc(error)).count(), 2, "seed {seed}: {:?}", reader.errors);
        assert_eq!(reader.errors.len(), 2, "seed {seed}: {:?}", reader.errors);
    }
}

#[test]
fn d2_45_a_fenced_epoch_refreshes_and_an_unknown_one_waits_at_the_same_broker() {
    for (code, refreshes) in [(ErrorCode::FencedLeaderEpoch, true), (ErrorCode::UnknownLeaderEpoch, false)] {
        let mut scene = Scene::new(1, 3, 3, EngineSettings::default());
        scene.fill(0, 10, 10, 10);
        let leader = scene.leader(0);
        let consumer = scene.consumer(3);
        let (broker, counted) = (scene.bed.broker.clone(), scene.bed.broker.clone());
        let metadata = move || counted.look(|core| core.counters().requests(ApiKey::Metadata));
        let (reader, before, after) = scene.read(consumer, |mut reader| async move {
            reader.until(0, 10).await;
            reader.for_time(SECOND).await;
            let before = metadata();
            let rule = Rule::new(Reaction::Error(code)).api(ApiKey::Fetch).topic(TOPIC).partition(0).times(4);
            broker.with(|core| core.faults.add(rule));
            broker.with(|core| core.plant(TOPIC, 0, 10, &batch(Codec::None, 10, 5, 10)));
            reader.until(0, 15).await;
            reader.for_time(SECOND).await;
            let after = metadata();
            (reader, before, after)
        });
        assert_eq!(reader.given[&0], offsets(&[0..15]), "{code:?}");
        assert!(reader.errors.is_empty(), "{code:?}: {:?}", reader.errors);
        assert_eq!(after > before, refreshes, "{code:?}: {before} to {after} metadata requests");
        let of_it = scene.asked().into_iter().filter(|asked| asked.offsets.contains_key(&0)).collect::<Vec<_>>();
        assert!(of_it.iter().all(|asked| asked.node == leader), "{code:?}: another broker was asked");
        // With a backoff between: not more often than it was refused, and some.
        assert!(of_it.len() <= 12, "{code:?}: asked {} times", of_it.len());
    }
}

#[test]
fn d2_47_a_session_that_is_gone_costs_one_full_request_and_no_gap() {
    for seed in 1..=3 {
        let mut scene = Scene::new(seed, 1, 3, EngineSettings::default());
        for partition in 0..3 {
            scene.fill(partition, 600, 3, 100);
        }
        // A broker with room for one session and two consumers, each evicting the other's all the time.
        scene.bed.broker.with(|core| {
            (core.options.fetch_sessions_max, core.options.fetch_session_idle) = (1, Duration::ZERO);
        });
        for code in [ErrorCode::FetchSessionIdNotFound, ErrorCode::InvalidFetchSessionEpoch] {
            scene.rule(Rule::new(Reaction::Error(code)).api(ApiKey::Fetch).percent(10));
        }
        let small = || {
            let all = (0..3).map(|partition| (TOPIC, partition, StartAt::Offset(0)));
            let consumer = scene.bed.engine.consumer().assign(all).max_partition_fetch_bytes(2_048);
            consumer.fetch_max_bytes(4_096).build().unwrap()
        };
        let (one, two) = (small(), small());
        let clock = scene.bed.world.clock();
        let slots = [one, two].map(|consumer| {
            let clock = clock.clone();
            let task = async move {
                let mut reader = Reader { consumer, clock, given: BTreeMap::new(), errors: Vec::new() };
                for partition in 0..3 {
                    reader.until(partition, 600).await;
                }
                reader
            };
            scene.bed.start("reader", task)
        });
        scene.bed.world.run(5 * MINUTE, || slots.iter().all(|slot| slot.borrow().is_some()));
        for slot in slots {
            let reader = slot.take().unwrap();
            for partition in 0..3 {
                assert_eq!(reader.given[&partition], offsets(&[0..600]), "seed {seed}: partition {partition}");
            }
            assert!(reader.errors.is_empty(), "seed {seed}: {:?}", reader.errors);
        }
        let counters = scene.bed.broker.look(|core| core.counters());
        assert!(counters.fetch_sessions_evicted > 10, "seed {seed}: {}", counters.fetch_sessions_evicted);
        for code in [ErrorCode::FetchSessionIdNotFound, ErrorCode::InvalidFetchSessionEpoch] {
            assert!(counters.errors_of(code) > 0, "seed {seed}: {code:?} never came");
        }
    }
}

#[test]
fn d2_47_paused_and_left_partitions_leave_the_session_once() {
    let mut scene = Scene::new(1, 1, 3, EngineSettings::default());
    for partition in 0..3 {
        scene.fill(partition, 10, 10, 10);
    }
    let consumer = scene.consumer(3);
    let asked = Arc::clone(&scene.asked);
    let since = move || std::mem::take(&mut *asked.lock().unwrap());
    scene.read(consumer, |mut reader| async move {
        for partition in 0..3 {
            reader.until(partition, 10).await;
        }
        reader.for_time(SECOND).await;
        since();
        reader.consumer.pause(TOPIC, 0).unwrap();
        reader.for_time(10 * SECOND).await;
        reader.consumer.unassign(TOPIC, 1).unwrap();
        reader.for_time(10 * SECOND).await;
        let seen = since();
        let forgotten: Vec<i32> = seen.iter().flat_map(|asked| asked.forgotten.clone()).collect();
        assert_eq!(forgotten, [0, 1], "each once");
        assert!(seen.iter().all(|asked| asked.epoch > 0), "the session goes on: {seen:?}");
        // Nothing else of it changes, and the long polls stay what they are.
        assert!(seen.iter().all(|asked| asked.offsets.is_empty()), "{seen:?}");
        assert!(seen.len() <= 46, "{} requests in twenty seconds", seen.len());
        // The last one leaves: nobody is asked any more.
        reader.consumer.unassign(TOPIC, 2).unwrap();
        reader.for_time(SECOND).await;
        since();
        reader.for_time(10 * SECOND).await;
        assert!(since().is_empty());
        reader.consumer.resume(TOPIC, 0).unwrap();
        reader.for_time(2 * SECOND).await;
        assert_eq!(reader.given[&0], offsets(&[0..10]));
        assert!(reader.errors.is_empty(), "{:?}", reader.errors);
    });
}

#[test]
fn r10_d2_48_answers_of_an_older_generation_are_dropped_and_others_of_that_answer_are_not() {
    for seed in 1..=3 {
        let mut scene = Scene::new(seed, 1, 4, EngineSettings::default());
        for partition in 0..4 {
            scene.fill(partition, 20, 10, 10);
        }
        // The answer takes its time: what happens meanwhile happens with it in flight.
        scene.rule(Rule::new(Reaction::DelayAnswer(SECOND)).api(ApiKey::Fetch).nth(1));
        let consumer = scene.consumer(4);
        let reader = scene.read(consumer, |mut reader| async move {
            reader.for_time(500 * MS).await;
            assert!(reader.given.is_empty());
            reader.consumer.seek(TOPIC, 0, StartAt::Offset(15)).unwrap();
            reader.consumer.pause(TOPIC, 1).unwrap();
            reader.consumer.unassign(TOPIC, 2).unwrap();
            reader.for_time(10 * SECOND).await;
            reader
        });
        let expected = BTreeMap::from([(0, offsets(&[15..20])), (3, offsets(&[0..20]))]);
        assert_eq!(reader.given, expected, "seed {seed}");
        assert!(reader.errors.is_empty(), "seed {seed}: {:?}", reader.errors);
        // The one that was left alone was not asked for again.
        let asked = scene.asked();
        let of =
            |partition| asked.iter().filter_map(|asked| asked.offsets.get(&partition).copied()).collect::<Vec<_>>();
        assert_eq!((of(3), of(2), of(1)), (vec![0, 20], vec![0], vec![0]), "seed {seed}");
        assert_eq!(of(0), [0, 15, 20], "seed {seed}");
    }
}

#[test]
fn r10_one_leaders_partitions_of_one_consumer_stay_on_one_shard() {
    for seed in 1..=3 {
        let mut bed = Bed::new(World::calm(seed), 3, 2, &[(TOPIC, 12)], EngineSettings::default());
        for partition in 0..12 {
            bed.broker.with(|core| core.plant(TOPIC, partition, 0, &batch(Codec::None, 0, 10, 10)));
        }
        // What is assigned at once, and what is once all leaders are known.
        let all = |from: i32| (from..from + 6).map(|partition| (TOPIC, partition, StartAt::Offset(0)));
        let consumer = bed.engine.consumer().assign(all(0)).build().unwrap();
        let clock = bed.world.clock();
        let mut reader = Reader { consumer, clock, given: BTreeMap::new(), errors: Vec::new() };
        bed.run(MINUTE, async move {
            for partition in 0..6 {
                reader.until(partition, 10).await;
            }
            reader.consumer.assign(all(6)).unwrap();
            for partition in 6..12 {
                reader.until(partition, 10).await;
            }
        });
        let counters = bed.broker.look(|core| core.counters());
        for node in 0..3 {
            let all = counters.connections.iter().filter(|conn| conn.node == node);
            let links = all.filter(|conn| conn.requests.contains_key(&(ApiKey::Fetch as i16))).count();
            assert_eq!(links, 1, "seed {seed}: links that fetch from node {node}");
        }
    }
}

#[test]
fn d2_48_a_seek_to_the_same_place_asks_again() {
    let mut scene = Scene::new(1, 1, 1, EngineSettings::default());
    scene.fill(0, 20, 10, 10);
    scene.rule(Rule::new(Reaction::DelayAnswer(SECOND)).api(ApiKey::Fetch).nth(1));
    let consumer = scene.consumer(1);
    let reader = scene.read(consumer, |mut reader| async move {
        reader.for_time(500 * MS).await;
        reader.consumer.seek(TOPIC, 0, StartAt::Offset(0)).unwrap();
        reader.for_time(5 * SECOND).await;
        reader
    });
    assert_eq!(reader.given[&0], offsets(&[0..20]), "once");
    // What was asked for before the seek does not count: the log comes a second time.
    let log: usize = scene.bed.broker.log(TOPIC, 0).iter().map(|batch| batch.len()).sum();
    let answered = scene.bed.broker.look(|core| core.counters().apis[&(ApiKey::Fetch as i16)].answer_bytes);
    assert!(answered as usize > 2 * log, "{answered} bytes for a log of {log}");
}

#[test]
fn d2_49_seek_and_pause_in_either_order_end_at_the_seek() {
    for seed in 1..=2 {
        for seek_first in [true, false] {
            let mut scene = Scene::new(seed, 1, 2, EngineSettings::default());
            for partition in 0..2 {
                scene.fill(partition, 100, 10, 10);
            }
            scene.rule(Rule::new(Reaction::DelayAnswer(300 * MS)).api(ApiKey::Fetch).percent(50));
            let consumer = scene.consumer(2);
            let asked = Arc::clone(&scene.asked);
            let since = move || std::mem::take(&mut *asked.lock().unwrap());
            let reader = scene.read(consumer, |mut reader| async move {
                reader.until(0, 20).await;
                if seek_first {
                    reader.consumer.seek(TOPIC, 0, StartAt::Offset(70)).unwrap();
                }
                reader.consumer.pause(TOPIC, 0).unwrap();
                if !seek_first {
                    reader.consumer.seek(TOPIC, 0, StartAt::Offset(70)).unwrap();
                }
                reader.given.clear();
                since();
                reader.for_time(5 * SECOND).await;
                assert_eq!(reader.given.get(&0), None, "it is paused");
                assert!(since().iter().all(|asked| asked.offsets.get(&0) != Some(&70)), "nothing is fetched of it");
                assert!(reader.consumer.is_paused(TOPIC, 0).unwrap());
                assert_eq!(reader.position(0), Some(70));
                reader.consumer.resume(TOPIC, 0).unwrap();
                reader.until(0, 30).await;
                // Left and taken again: not paused any more, whatever it was.
                reader.consumer.pause(TOPIC, 0).unwrap();
                reader.consumer.unassign(TOPIC, 0).unwrap();
                reader.consumer.assign([(TOPIC, 0, 95)]).unwrap();
                reader.until(0, 35).await;
                reader
            });
            assert_eq!(reader.given[&0], offsets(&[70..100, 95..100]), "seed {seed}, {seek_first}");
        }
    }
}

#[test]
fn d2_50_empty_fetches_are_long_polls_and_slow_or_dead_brokers_delay_nobody_else() {
    for seed in 1..=2 {
        let mut scene = Scene::new(seed, 3, 3, EngineSettings { request_timeout: 5 * SECOND, ..Default::default() });
        let leaders: Vec<i32> = (0..3).map(|partition| scene.leader(partition)).collect();
        assert_eq!(leaders.iter().collect::<BTreeSet<_>>().len(), 3);
        let consumer = scene.consumer(3);
        let (broker, net, clock) = (scene.bed.broker.clone(), scene.bed.world.net().clone(), scene.bed.world.clock());
        let asked = Arc::clone(&scene.asked);
        let since = move || std::mem::take(&mut *asked.lock().unwrap());
        scene.read(consumer, |mut reader| async move {
            reader.for_time(2 * SECOND).await;
            // A quiet minute.
            since();
            reader.for_time(MINUTE).await;
            let quiet = since();
            for node in &leaders {
                let polls = quiet.iter().filter(|asked| asked.node == *node).count();
                assert!((100..=125).contains(&polls), "seed {seed}: {polls} requests in a quiet minute");
            }
            // One broker is slow and one is a black hole.
            let slow = Rule::new(Reaction::DelayAnswer(4 * SECOND)).api(ApiKey::Fetch).node(leaders[1]);
            broker.with(|core| core.faults.add(slow));
            net.hold(broker.address(leaders[2]).unwrap(), true);
            let mut longest = Duration::ZERO;
            for offset in 0..300 {
                broker.with(|core| core.plant(TOPIC, 0, offset, &batch(Codec::None, offset, 1, 10)));
                let begun = clock.time();
                reader.until(0, offset as usize + 1).await;
                longest = longest.max(clock.time().since(begun));
                reader.for_time(100 * MS).await;
            }
            assert!(longest < 50 * MS, "seed {seed}: a record took {longest:?}");
            assert_eq!(reader.given[&0], offsets(&[0..300]));
            let seen = since();
            let good = seen.iter().filter(|asked| asked.node == leaders[0]).count();
            assert!((300..=700).contains(&good), "seed {seed}: {good} requests for 300 records");
        });
    }
}

#[test]
fn d2_53_a_partition_with_more_than_its_reader_can_take_does_not_hold_up_a_quiet_one() {
    for seed in 1..=2 {
        let settings = EngineSettings { fetch_memory: 8 << 20, ..EngineSettings::default() };
        let mut scene = Scene::new(seed, 1, 2, settings);
        // 16 MiB lie there of the one; each batch of 16 KiB takes its reader 10 ms.
        scene.fill(0, 1_000, 1, 16 << 10);
        let all = (0..2).map(|partition| (TOPIC, partition, StartAt::Offset(0)));
        let consumer = scene.bed.engine.consumer().assign(all).max_partition_fetch_bytes(64 << 10);
        let consumer = consumer.build().unwrap();
        let (broker, clock) = (scene.bed.broker.clone(), scene.bed.world.clock());
        let sent: Arc<Mutex<Vec<Time>>> = Arc::default();
        let log = Arc::clone(&sent);
        scene.bed.world.spawn_task("quiet one", async move {
            for offset in 0..16 {
                clock.sleep(490 * MS).await;
                log.lock().unwrap().push(clock.time());
                broker.with(|core| core.plant(TOPIC, 1, offset, &batch(Codec::None, offset, 1, 10)));
            }
        });
        let (longest, idle, reader) = scene.read(consumer, |mut reader| async move {
            let (mut longest, mut idle) = (Duration::ZERO, Duration::ZERO);
            while reader.given.get(&1).is_none_or(|given| given.len() < 16) {
                let begun = reader.clock.time();
                let batch = within(&reader.clock, SECOND, reader.consumer.next_async()).await.unwrap().unwrap();
                idle = idle.max(reader.clock.time().since(begun));
                reader.take(&batch);
                if batch.partition() == 1 {
                    let at = sent.lock().unwrap()[batch.first_offset() as usize];
                    longest = longest.max(reader.clock.time().since(at));
                } else {
                    reader.clock.sleep(10 * MS).await;
                }
            }
            (longest, idle, reader)
        });
        assert!(longest < 400 * MS, "seed {seed}: a quiet partition's record waited {longest:?}");
        // And nobody sits out a long poll while so much lies there.
        assert!(idle < 40 * MS, "seed {seed}: the reader had nothing to do for {idle:?}");
        assert!(reader.given[&0].len() > 500, "seed {seed}: {}", reader.given[&0].len());
        assert_eq!(reader.given[&0], offsets(&[0..reader.given[&0].len() as i64]), "seed {seed}");
    }
}

#[test]
fn d2_53_a_consumer_that_sleeps_does_not_hold_up_another() {
    let mut scene = Scene::new(1, 1, 2, EngineSettings { fetch_memory: 1 << 20, ..EngineSettings::default() });
    for partition in 0..2 {
        scene.fill(partition, 1_000, 10, 400);
    }
    let (mut asleep, awake) = (scene.consumer(2), scene.consumer(2));
    let reader = scene.read(awake, |mut reader| async move {
        // It takes one batch, and no more.
        let held = within(&reader.clock, SECOND, asleep.next_async()).await.unwrap().unwrap();
        reader.until(0, 1_000).await;
        reader.until(1, 1_000).await;
        assert!(reader.clock.time() < Time::ZERO + 10 * SECOND, "{:?}", reader.clock.time());
        drop((held, asleep));
        reader
    });
    assert_eq!((&reader.given[&0], &reader.given[&1]), (&offsets(&[0..1_000]), &offsets(&[0..1_000])));
}
