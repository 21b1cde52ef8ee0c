//! Consumers against the embedded broker, over TCP: manual assignment from end to end.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod broker_support;

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use broker_support::{Client, PATIENCE};
use ottla::base::chunk::ChunkPool;
use ottla::batch::{Append, BatchBuilder, BatchSettings, Codec, Codecs, Refusal, Stamp, encode_body};
use ottla::config::{BackendSetting, EngineSettings};
use ottla::consumer::{AutoOffsetReset, Batch, ConsumeError, Consumer, ConsumerSettings, StartAt};
use ottla::engine::Engine;
use ottla::testkit::broker::{Broker, Reaction, Rule};
use ottla::wire::{ApiKey, ErrorCode};

const TOPIC: &str = "readings";
const QUIET: Duration = Duration::from_millis(150);

fn engine_with(broker: &Broker, backend: BackendSetting) -> Engine {
    let settings = EngineSettings {
        bootstrap_servers: broker.bootstrap().split(',').map(str::to_owned).collect(),
        request_timeout: Duration::from_secs(5),
        ..Default::default()
    };
    Engine::builder().settings(settings).backend(backend).build().unwrap()
}

fn engine(broker: &Broker) -> Engine {
    engine_with(broker, BackendSetting::Epoll)
}

fn broker(partitions: i32) -> Broker {
    Broker::builder().topic(TOPIC, partitions).start().unwrap()
}

/// What record `index` holds.
fn value(index: i64) -> String {
    format!("{{\"index\":{index},\"text\":\"the same words again and again\"}}")
}

/// A batch with records `from..to`, whose values say which they are and whose timestamps are theirs.
fn batch(codec: Codec, from: i64, to: i64) -> Vec<u8> {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let settings =
        BatchSettings { size_bytes_max: 64 << 20, raw_bytes_max: 64 << 20, ..BatchSettings::with_codec(codec) };
    let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
    for index in from..to {
        let mut body = Vec::new();
        let key = format!("key-{index}");
        let headers = [("a", Some(&b"1"[..])), ("a", None)];
        let key = (index % 3 != 0).then_some(key.as_bytes());
        encode_body(key, Some(value(index).as_bytes()), headers.into_iter(), &mut body);
        assert_eq!(builder.append(1_000 + index, &body), Append::Stored);
    }
    let mut bytes = Vec::new();
    builder.seal(Stamp::NONE).copy_to(&mut bytes);
    bytes
}

/// Fills a partition with records `0..count` in batches of `size`.
fn fill(broker: &Broker, partition: i32, count: i64, size: i64, codec: Codec) {
    let mut client = Client::to(broker, leader(broker, partition));
    for from in (0..count).step_by(size as usize) {
        let answer = client.produce(TOPIC, partition, batch(codec, from, count.min(from + size)));
        assert_eq!((answer.error_code, answer.base_offset), (0, from));
    }
}

fn leader(broker: &Broker, partition: i32) -> i32 {
    broker.with(|core| core.cluster.partition(TOPIC, partition).unwrap().leader)
}

fn consumer(engine: &Engine, partitions: i32, start: StartAt) -> Consumer {
    let wanted = (0..partitions).map(|partition| (TOPIC, partition, start));
    engine.consumer().assign(wanted).fetch_max_wait(Duration::from_millis(100)).build().unwrap()
}

/// The next batch, or whatever came instead of it.
fn next(consumer: &mut Consumer) -> Batch {
    consumer.next(PATIENCE).unwrap().expect("a batch in time")
}

/// Reads until every one of `partitions` gave out `0..count` in order, checking each record.
fn read_all(consumer: &mut Consumer, partitions: i32, count: i64) {
    let mut expected = vec![0; partitions as usize];
    while expected.iter().any(|next| *next < count) {
        let batch = next(consumer);
        assert_eq!(batch.topic(), TOPIC);
        let index = &mut expected[batch.partition() as usize];
        for record in &batch {
            assert_eq!(record.offset(), *index);
            assert_eq!(record.value().unwrap(), value(*index).as_bytes());
            assert_eq!(record.key().is_none(), *index % 3 == 0);
            assert_eq!(record.timestamp(), 1_000 + *index);
            let headers: Vec<_> = record.headers().map(|header| header.unwrap().value).collect();
            assert_eq!(headers, [Some(&b"1"[..]), None]);
            *index += 1;
        }
    }
    assert!(expected.iter().all(|next| *next == count));
}

#[test]
fn every_record_of_every_codec_comes_once_and_in_order_on_both_backends() {
    for backend in [BackendSetting::Epoll, BackendSetting::Auto] {
        for (codec, partitions) in Codec::ALL.into_iter().zip([1, 3, 12, 1, 3]) {
            let broker = broker(partitions);
            for partition in 0..partitions {
                fill(&broker, partition, 3_000, 700, codec);
            }
            let engine = engine_with(&broker, backend);
            let mut consumer = consumer(&engine, partitions, StartAt::Earliest);
            read_all(&mut consumer, partitions, 3_000);
            assert!(consumer.next(QUIET).unwrap().is_none(), "nothing is left");
            for partition in 0..partitions {
                assert_eq!(consumer.position(TOPIC, partition).unwrap(), Some(3_000));
                assert_eq!(consumer.processed(TOPIC, partition).unwrap(), Some(3_000));
            }
            drop(consumer);
            engine.close(Duration::from_secs(5)).unwrap();
        }
    }
}

#[test]
fn a_manual_assignment_makes_no_group_call() {
    let broker = broker(1);
    fill(&broker, 0, 10, 10, Codec::None);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    read_all(&mut consumer, 1, 10);
    drop(consumer);
    engine.close(Duration::from_secs(5)).unwrap();
    let counters = broker.counters();
    for api in
        [ApiKey::FindCoordinator, ApiKey::JoinGroup, ApiKey::Heartbeat, ApiKey::OffsetCommit, ApiKey::OffsetFetch]
    {
        assert_eq!(counters.requests(api), 0, "{api:?}");
    }
    assert!(counters.requests(ApiKey::Fetch) > 0);
}

#[test]
fn reading_starts_where_it_is_told_to() {
    let broker = broker(5);
    for partition in 0..5 {
        fill(&broker, partition, 100, 30, Codec::Lz4);
    }
    let engine = engine(&broker);
    let starts =
        [StartAt::Earliest, StartAt::Offset(42), StartAt::Timestamp(1_077), StartAt::Timestamp(9_999), StartAt::Latest];
    let wanted = (0..5).zip(starts).map(|(partition, start)| (TOPIC, partition, start));
    let mut consumer = engine.consumer().assign(wanted).build().unwrap();
    let mut first = [None; 5];
    let mut seen = 0;
    while seen < 100 + 58 + 23 {
        let batch = next(&mut consumer);
        for record in &batch {
            first[batch.partition() as usize].get_or_insert(record.offset());
            assert_eq!(record.value().unwrap(), value(record.offset()).as_bytes());
            seen += 1;
        }
    }
    assert_eq!(first, [Some(0), Some(42), Some(77), None, None]);
    // Those at the end get what comes from now on.
    let deadline = Instant::now() + PATIENCE;
    while consumer.position(TOPIC, 4).unwrap().is_none() || consumer.position(TOPIC, 3).unwrap().is_none() {
        assert!(Instant::now() < deadline);
        assert!(consumer.next(Duration::from_millis(10)).unwrap().is_none());
    }
    let mut client = Client::to(&broker, leader(&broker, 4));
    client.produce(TOPIC, 4, batch(Codec::Zstd, 100, 105));
    let batch = next(&mut consumer);
    assert_eq!((batch.partition(), batch.first_offset(), batch.iter().count()), (4, 100, 5));
}

#[test]
fn r01_processed_moves_by_asking_for_more_and_never_by_dropping() {
    let broker = broker(1);
    fill(&broker, 0, 30, 10, Codec::Snappy);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    let first = next(&mut consumer);
    assert_eq!(consumer.position(TOPIC, 0).unwrap(), Some(10));
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(0));
    let mut records = first.iter();
    for asked in 0..10 {
        assert_eq!(records.next().unwrap().offset(), asked);
        assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(asked), "the current one is not processed");
    }
    assert!(records.next().is_none());
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(10));
    drop(first);
    // Left in the middle: by `break`, `?`, a panic, or a future that is dropped, it is all the same.
    let second = next(&mut consumer);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for record in &second {
            assert!(record.offset() != 14, "the handler fails");
        }
    }));
    assert!(panicked.is_err());
    drop(second);
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(14));
    let again = next(&mut consumer);
    assert_eq!((again.first_offset(), again.iter().next().unwrap().offset()), (14, 14));
    again.done();
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(20), "declared done, read or not");
    let third = next(&mut consumer);
    assert_eq!(third.iter().count(), 10);
    assert!(consumer.next(QUIET).unwrap().is_none());
    assert_eq!(consumer.position(TOPIC, 0).unwrap(), Some(30));
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(30));
}

/// Leaves the first batch at record 4 with `leave`; the same consumer, and another one that starts from what was processed,
/// are given that record again, and all behind it.
fn left_at_4(leave: impl FnOnce(&mut Consumer)) {
    let broker = broker(1);
    fill(&broker, 0, 30, 10, Codec::Lz4);
    let engine = engine(&broker);
    let mut first = consumer(&engine, 1, StartAt::Earliest);
    leave(&mut first);
    let processed = first.processed(TOPIC, 0).unwrap().unwrap();
    assert_eq!(processed, 4, "what a commit would say");
    let second = engine.consumer().assign([(TOPIC, 0, processed)]).build().unwrap();
    for mut reader in [first, second] {
        let mut expected = 4;
        while expected < 30 {
            for record in &next(&mut reader) {
                assert_eq!(record.offset(), expected);
                expected += 1;
            }
        }
        assert!(reader.next(QUIET).unwrap().is_none());
        assert_eq!(reader.processed(TOPIC, 0).unwrap(), Some(30));
    }
}

#[test]
fn r01_after_a_question_mark_the_current_record_is_delivered_again() {
    fn work(consumer: &mut Consumer) -> Result<(), String> {
        for record in &next(consumer) {
            if record.offset() == 4 {
                Err("the database is away")?;
            }
        }
        Ok(())
    }
    left_at_4(|consumer| assert!(work(consumer).is_err()));
}

#[test]
fn r01_after_a_break_the_current_record_is_delivered_again() {
    left_at_4(|consumer| {
        for record in &next(consumer) {
            if record.offset() == 4 {
                break;
            }
        }
    });
}

#[test]
fn r01_after_a_panic_the_current_record_is_delivered_again() {
    left_at_4(|consumer| {
        let handler = std::panic::AssertUnwindSafe(|| {
            for record in &next(consumer) {
                assert!(record.offset() != 4, "the handler fails");
            }
        });
        assert!(std::panic::catch_unwind(handler).is_err());
    });
}

/// Wakes a thread that polls.
struct Unparks(std::thread::Thread);

impl std::task::Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn r01_after_a_dropped_future_the_current_record_is_delivered_again() {
    left_at_4(|consumer| {
        let reached = std::cell::Cell::new(false);
        let mut work = Box::pin(async {
            let batch = consumer.next_async().await.unwrap();
            for record in &batch {
                if record.offset() == 4 {
                    reached.set(true);
                    std::future::pending::<()>().await;
                }
            }
        });
        // A timeout around a handler does just this.
        let waker = Arc::new(Unparks(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(work.as_mut().poll(&mut context).is_pending());
            if reached.get() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nobody wakes the reader");
            std::thread::park_timeout(left);
        }
    });
}

#[test]
fn r09_max_poll_records_bounds_what_one_call_gives_out() {
    for codec in [Codec::None, Codec::Zstd] {
        let broker = broker(1);
        fill(&broker, 0, 95, 40, codec);
        let engine = engine(&broker);
        let settings = ConsumerSettings { max_poll_records: Some(7), ..ConsumerSettings::default() };
        let mut consumer = engine.consumer().settings(settings).assign([(TOPIC, 0, 3i64)]).build().unwrap();
        let (mut sizes, mut expected) = (Vec::new(), 3);
        while expected < 95 {
            let batch = next(&mut consumer);
            assert_eq!((batch.first_offset(), consumer.processed(TOPIC, 0).unwrap()), (expected, Some(expected)));
            for record in &batch {
                assert_eq!((record.offset(), record.value().unwrap()), (expected, value(expected).as_bytes()));
                expected += 1;
            }
            assert_eq!(consumer.position(TOPIC, 0).unwrap(), Some(expected));
            sizes.push(batch.iter().count());
            if sizes.len() == 2 {
                // Left in the middle of a part, as of a batch.
                drop(batch);
                consumer.seek(TOPIC, 0, StartAt::Offset(expected)).unwrap();
            }
        }
        assert_eq!(sizes, [7, 7, 7, 7, 7, 2, 7, 7, 7, 7, 7, 5, 7, 7, 1], "{codec:?}");
        assert!(consumer.next(QUIET).unwrap().is_none());
    }
}

#[test]
fn r01_owned_records_are_done_when_they_say_so_wherever_they_are() {
    let broker = broker(1);
    fill(&broker, 0, 10, 10, Codec::Gzip);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    let batch = next(&mut consumer);
    let owned: Vec<_> = batch.iter().map(|record| record.to_owned().unwrap()).collect();
    drop(batch);
    assert!(consumer.next(QUIET).unwrap().is_none());
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(0));
    let (to_worker, work) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        for record in work {
            let record: ottla::consumer::OwnedRecord = record;
            assert_eq!(record.value.as_ref().unwrap(), value(record.offset).as_bytes());
            record.done();
        }
    });
    let (first, rest): (Vec<_>, Vec<_>) = owned.into_iter().partition(|record| record.offset == 0);
    rest.into_iter().for_each(|record| to_worker.send(record).unwrap());
    drop(to_worker);
    worker.join().unwrap();
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(0), "the first one is missing");
    first.into_iter().for_each(ottla::consumer::OwnedRecord::done);
    assert!(consumer.next(QUIET).unwrap().is_none());
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(10));
}

#[test]
fn d2_48_after_seek_pause_and_unassign_nothing_older_is_given_out() {
    let broker = broker(2);
    fill(&broker, 0, 5_000, 100, Codec::Lz4);
    fill(&broker, 1, 5_000, 100, Codec::Lz4);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 2, StartAt::Earliest);
    for round in 0..20 {
        next(&mut consumer);
        consumer.seek(TOPIC, 0, StartAt::Offset(4_900 - round * 7)).unwrap();
        consumer.seek(TOPIC, 1, StartAt::Offset(4_900 - round * 7)).unwrap();
        let batch = next(&mut consumer);
        assert_eq!(batch.first_offset(), 4_900 - round * 7);
        assert_eq!(batch.iter().next().unwrap().offset(), 4_900 - round * 7);
    }
    consumer.seek(TOPIC, 0, StartAt::Offset(0)).unwrap();
    consumer.unassign(TOPIC, 1).unwrap();
    assert!(matches!(consumer.position(TOPIC, 1), Err(ConsumeError::NotAssigned { .. })));
    for _ in 0..30 {
        let batch = next(&mut consumer);
        assert_eq!(batch.partition(), 0);
        batch.done();
    }
    assert_eq!(consumer.assignment().len(), 1);
}

#[test]
fn d2_49_pause_and_resume_keep_the_place_and_a_seek_in_between_wins() {
    let broker = broker(2);
    fill(&broker, 0, 100, 10, Codec::None);
    fill(&broker, 1, 100, 10, Codec::None);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 2, StartAt::Earliest);
    loop {
        let batch = next(&mut consumer);
        let partition = batch.partition();
        batch.done();
        if partition == 0 {
            break;
        }
    }
    consumer.pause(TOPIC, 0).unwrap();
    let place = consumer.position(TOPIC, 0).unwrap().unwrap();
    while let Some(batch) = consumer.next(QUIET).unwrap() {
        assert_eq!(batch.partition(), 1);
        batch.done();
    }
    assert!(consumer.is_paused(TOPIC, 0).unwrap());
    consumer.resume(TOPIC, 0).unwrap();
    let batch = next(&mut consumer);
    assert_eq!((batch.partition(), batch.first_offset()), (0, place));
    consumer.pause(TOPIC, 0).unwrap();
    consumer.seek(TOPIC, 0, StartAt::Offset(77)).unwrap();
    assert!(consumer.next(QUIET).unwrap().is_none());
    consumer.resume(TOPIC, 0).unwrap();
    assert_eq!(next(&mut consumer).first_offset(), 77);
    consumer.seek(TOPIC, 0, StartAt::Offset(55)).unwrap();
    consumer.pause(TOPIC, 0).unwrap();
    consumer.resume(TOPIC, 0).unwrap();
    assert_eq!(next(&mut consumer).first_offset(), 55);
}

#[test]
fn d2_41_out_of_range_is_reset_or_told() {
    let broker = broker(1);
    fill(&broker, 0, 50, 10, Codec::None);
    broker.with(|core| core.delete_records(TOPIC, 0, 20)).unwrap();
    let engine = engine(&broker);
    for (policy, want) in [(AutoOffsetReset::Earliest, Some(20)), (AutoOffsetReset::None, None)] {
        let builder = engine.consumer().assign([(TOPIC, 0, 5i64)]).auto_offset_reset(policy);
        let mut consumer = builder.build().unwrap();
        match (consumer.next(PATIENCE), want) {
            (Ok(Some(batch)), Some(offset)) => assert_eq!(batch.first_offset(), offset),
            (Err(ConsumeError::Refused { why: Refusal::OutOfRange { offset: 5 }, stopped: true, .. }), None) => {
                assert!(consumer.next(QUIET).unwrap().is_none(), "told once");
                consumer.seek(TOPIC, 0, StartAt::Earliest).unwrap();
                assert_eq!(next(&mut consumer).first_offset(), 20);
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    let error = engine.consumer().assign([(TOPIC, 0)]).auto_offset_reset(AutoOffsetReset::None).build().unwrap_err();
    assert!(matches!(error, ConsumeError::NoStart { .. }));
}

#[test]
fn d2_42_a_leader_moves_while_reading_and_no_record_is_lost_or_repeated() {
    let broker = Broker::builder().brokers(3).topic(TOPIC, 6).start().unwrap();
    for partition in 0..6 {
        fill(&broker, partition, 2_000, 20, Codec::Lz4);
    }
    let engine = engine(&broker);
    let mut consumer = engine
        .consumer()
        .assign((0..6).map(|partition| (TOPIC, partition, StartAt::Earliest)))
        .max_partition_fetch_bytes(2_048)
        .fetch_max_wait(Duration::from_millis(50))
        .build()
        .unwrap();
    let mut expected = [0; 6];
    let mut batches = 0;
    while expected.iter().any(|next| *next < 2_000) {
        let batch = next(&mut consumer);
        let index = &mut expected[batch.partition() as usize];
        for record in &batch {
            assert_eq!(record.offset(), *index);
            *index += 1;
        }
        batches += 1;
        if batches % 25 == 0 {
            let partition = (batches / 25) % 6;
            let to = leader(&broker, partition) % 3 + 1;
            broker.move_leader(TOPIC, partition, to);
        }
    }
    assert!(batches >= 600);
}

#[test]
fn d2_42_a_truncated_log_is_told_and_reading_goes_on_where_it_still_is_as_it_was() {
    let broker = Broker::builder().brokers(3).topic(TOPIC, 2).start().unwrap();
    fill(&broker, 0, 50, 10, Codec::Lz4);
    fill(&broker, 1, 50, 10, Codec::Lz4);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 2, StartAt::Earliest);
    read_all(&mut consumer, 2, 50);
    assert!(consumer.next(QUIET).unwrap().is_none());
    // An unclean election: the new leader never had the last twenty.
    assert!(broker.with(|core| core.truncate(TOPIC, 0, 30)));
    let to = leader(&broker, 0) % 3 + 1;
    broker.move_leader(TOPIC, 0, to);
    let mut client = Client::to(&broker, leader(&broker, 0));
    assert_eq!(client.produce(TOPIC, 0, batch(Codec::Lz4, 130, 170)).base_offset, 30);
    match consumer.next(PATIENCE) {
        Err(ConsumeError::Refused { why: Refusal::Truncated { offset: 50, to: 30 }, stopped: false, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(consumer.processed(TOPIC, 0).unwrap(), Some(30));
    let others = next(&mut consumer);
    for (nth, record) in others.iter().enumerate() {
        assert_eq!((record.offset(), record.value().unwrap()), (30 + nth as i64, value(130 + nth as i64).as_bytes()));
    }
    assert_eq!((others.partition(), others.iter().count()), (0, 40));
    assert!(consumer.next(QUIET).unwrap().is_none(), "told once, and nothing twice");
    assert!(broker.counters().requests(ApiKey::OffsetForLeaderEpoch) >= 1);
}

#[test]
fn d2_37_a_batch_that_decompresses_to_more_than_the_memory_stops_its_partition_only() {
    let broker = broker(2);
    // A thousand to one.
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let settings =
        BatchSettings { size_bytes_max: 64 << 20, raw_bytes_max: 64 << 20, ..BatchSettings::with_codec(Codec::Zstd) };
    let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
    let mut body = Vec::new();
    encode_body(None, Some(&vec![0; 1 << 20]), std::iter::empty(), &mut body);
    for _ in 0..20 {
        assert_eq!(builder.append(1, &body), Append::Stored);
    }
    let mut bomb = Vec::new();
    builder.seal(Stamp::NONE).copy_to(&mut bomb);
    assert!(bomb.len() < 32 << 10, "{}", bomb.len());
    let mut client = Client::to(&broker, leader(&broker, 0));
    assert_eq!(client.produce(TOPIC, 0, bomb).error_code, 0);
    fill(&broker, 1, 500, 50, Codec::Zstd);
    let settings =
        EngineSettings { bootstrap_servers: vec![broker.bootstrap()], fetch_memory: 1 << 20, ..Default::default() };
    let engine = Engine::builder().settings(settings).backend(BackendSetting::Epoll).build().unwrap();
    let mut consumer = consumer(&engine, 2, StartAt::Earliest);
    let (mut told, mut read) = (0, 0);
    while read < 500 {
        match consumer.next(PATIENCE) {
            Ok(Some(batch)) => {
                assert_eq!(batch.partition(), 1);
                read += batch.iter().count();
            }
            Err(ConsumeError::BadBatch { partition: 0, bad, .. }) => {
                assert!(bad.to_string().contains("more than"), "{bad}");
                told += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    while let Err(error) = consumer.next(QUIET) {
        assert!(matches!(error, ConsumeError::BadBatch { partition: 0, .. }), "{error}");
        told += 1;
    }
    assert_eq!((told, consumer.position(TOPIC, 0).unwrap()), (1, Some(0)), "once, and in front of it");
    assert!(consumer.skip_bad(TOPIC, 0).unwrap());
}

#[test]
fn d2_47_and_50_lost_sessions_errors_and_cut_connections_leave_no_gap() {
    let broker = broker(3);
    for partition in 0..3 {
        fill(&broker, partition, 2_000, 20, Codec::Lz4);
    }
    broker.rule(Rule::new(Reaction::DropBefore).api(ApiKey::Fetch).every(9));
    broker.rule(Rule::new(Reaction::Error(ErrorCode::NotLeaderOrFollower)).api(ApiKey::Fetch).every(7).partition(1));
    let engine = engine(&broker);
    let mut consumer = engine
        .consumer()
        .assign((0..3).map(|partition| (TOPIC, partition, StartAt::Earliest)))
        .max_partition_fetch_bytes(8_192)
        .fetch_max_wait(Duration::from_millis(50))
        .build()
        .unwrap();
    let leader_of_all = leader(&broker, 0);
    let mut expected = [0; 3];
    let mut batches = 0;
    while expected.iter().any(|next| *next < 2_000) {
        let batch = next(&mut consumer);
        let index = &mut expected[batch.partition() as usize];
        for record in &batch {
            assert_eq!(record.offset(), *index);
            *index += 1;
        }
        batches += 1;
        if batches % 40 == 0 {
            broker.with(|core| core.forget_sessions(leader_of_all));
        }
    }
    assert_eq!(expected, [2_000; 3]);
}

#[test]
fn r09_an_application_that_does_not_read_holds_no_more_than_the_budget() {
    let broker = broker(4);
    for partition in 0..4 {
        fill(&broker, partition, 40_000, 4_000, Codec::None);
    }
    let settings =
        EngineSettings { bootstrap_servers: vec![broker.bootstrap()], fetch_memory: 1 << 20, ..Default::default() };
    let engine = Engine::builder().settings(settings).backend(BackendSetting::Epoll).build().unwrap();
    let mut consumer = consumer(&engine, 4, StartAt::Earliest);
    let first = next(&mut consumer);
    // Nobody reads: fetching ends by itself.
    let served = || broker.counters().requests(ApiKey::Fetch);
    let mut before = served();
    let quiet = Instant::now() + PATIENCE;
    loop {
        std::thread::park_timeout(Duration::from_millis(300));
        if served() == before {
            break;
        }
        before = served();
        assert!(Instant::now() < quiet, "it still fetches");
    }
    drop(first);
    consumer.seek(TOPIC, 0, StartAt::Earliest).unwrap();
    for partition in 1..4 {
        consumer.seek(TOPIC, partition, StartAt::Earliest).unwrap();
    }
    read_all(&mut consumer, 4, 40_000);
}

#[test]
fn r09_whoever_holds_batches_and_asks_for_more_is_told_before_memory_is_gone() {
    let broker = broker(1);
    fill(&broker, 0, 40_000, 4_000, Codec::Lz4);
    let settings =
        EngineSettings { bootstrap_servers: vec![broker.bootstrap()], fetch_memory: 1 << 20, ..Default::default() };
    let engine = Engine::builder().settings(settings).backend(BackendSetting::Epoll).build().unwrap();
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    let mut batches = Vec::new();
    let (held, limit) = loop {
        match consumer.next(PATIENCE) {
            Ok(Some(batch)) => batches.push(batch),
            Err(ConsumeError::TooMuchHeld { held, limit }) => break (held, limit),
            other => panic!("{other:?}"),
        }
        assert!(batches.len() < 10, "ten batches are 3.6 MB");
    };
    assert!(batches.len() >= 2 && limit == 1 << 20, "{} batches, limit {limit}", batches.len());
    assert!((limit..2 * limit).contains(&held), "by no more than the last batch: {held}");
    // It is told as often as it asks, and nothing is lost by it.
    assert!(matches!(consumer.next(PATIENCE), Err(ConsumeError::TooMuchHeld { .. })));
    let mut expected = 0;
    let mut read = |batch: Batch| {
        for record in &batch {
            assert_eq!(record.offset(), expected);
            expected += 1;
        }
        expected < 40_000
    };
    batches.into_iter().for_each(|batch| assert!(read(batch)));
    while read(next(&mut consumer)) {}
}

#[test]
fn d2_38_a_batch_damaged_on_its_way_is_told_and_can_be_skipped_or_fetched_again() {
    let broker = broker(1);
    fill(&broker, 0, 30, 10, Codec::None);
    // The last byte of the records on their way: three tag sections follow it.
    broker.rule(Rule::new(Reaction::FlipBit(-4)).api(ApiKey::Fetch).times(1));
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    for offset in [0, 10] {
        let batch = next(&mut consumer);
        assert_eq!((batch.first_offset(), batch.iter().count()), (offset, 10));
    }
    match consumer.next(PATIENCE) {
        Err(ConsumeError::BadBatch { bad, partition: 0, .. }) => assert_eq!(bad.offset, 20),
        other => panic!("{other:?}"),
    }
    assert_eq!(consumer.position(TOPIC, 0).unwrap(), Some(20), "the position stays in front of it");
    assert!(consumer.skip_bad(TOPIC, 0).unwrap());
    assert!(consumer.next(QUIET).unwrap().is_none());
    assert_eq!(consumer.position(TOPIC, 0).unwrap(), Some(30));
    // It was damaged on its way only.
    consumer.seek(TOPIC, 0, StartAt::Offset(20)).unwrap();
    assert_eq!(next(&mut consumer).iter().count(), 10);
}

#[test]
fn a_closed_engine_wakes_whoever_waits() {
    let broker = broker(1);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    let closing = engine.clone();
    let (told, heard) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        told.send(()).unwrap();
        consumer.next(Duration::MAX)
    });
    heard.recv().unwrap();
    closing.close(Duration::from_secs(5)).unwrap();
    assert!(matches!(waiting.join().unwrap(), Err(ConsumeError::Engine(_))));
}

#[test]
fn a_dropped_future_loses_nothing() {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    let broker = broker(1);
    fill(&broker, 0, 200, 10, Codec::Lz4);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    let mut expected = 0;
    let deadline = Instant::now() + PATIENCE;
    while expected < 200 {
        assert!(Instant::now() < deadline);
        {
            // Asked once and dropped.
            let mut future = pin!(consumer.next_async());
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(batch) = future.as_mut().poll(&mut context) {
                for record in &batch.unwrap() {
                    assert_eq!(record.offset(), expected);
                    expected += 1;
                }
            }
        }
        if let Some(batch) = consumer.next(Duration::from_millis(20)).unwrap() {
            for record in &batch {
                assert_eq!(record.offset(), expected);
                expected += 1;
            }
        }
    }
}

#[test]
fn d2_52_a_long_poll_holds_up_no_other_call() {
    let broker = Broker::builder().topic(TOPIC, 1).topic("other", 3).start().unwrap();
    let engine = engine(&broker);
    let wait = Duration::from_secs(4);
    let mut consumer = engine.consumer().assign([(TOPIC, 0, StartAt::Earliest)]).fetch_max_wait(wait).build().unwrap();
    assert!(broker.wait_until(PATIENCE, |core| core.counters().requests(ApiKey::Fetch) > 0));
    let asked = Instant::now();
    assert_eq!(engine.topic_info("other", PATIENCE).unwrap().partition_count(), 3);
    assert!(asked.elapsed() < wait / 2, "metadata waited behind the long poll: {:?}", asked.elapsed());
    // The poll ends as soon as there is something.
    let asked = Instant::now();
    fill(&broker, 0, 5, 5, Codec::None);
    assert_eq!(next(&mut consumer).iter().count(), 5);
    assert!(asked.elapsed() < wait / 2, "{:?}", asked.elapsed());
    assert!(broker.counters().requests(ApiKey::Fetch) <= 4, "no busy loop");
}

#[test]
fn what_was_fetched_is_counted() {
    let broker = broker(1);
    fill(&broker, 0, 1_000, 100, Codec::None);
    let engine = engine(&broker);
    let mut consumer = consumer(&engine, 1, StartAt::Earliest);
    read_all(&mut consumer, 1, 1_000);
    let deadline = Instant::now() + PATIENCE;
    // Published once per turn.
    while engine.stats().fetched_bytes < 60_000 {
        assert!(Instant::now() < deadline);
        assert!(consumer.next(Duration::from_millis(20)).unwrap().is_none());
    }
    assert!(engine.stats().fetch_requests > 0);
}
