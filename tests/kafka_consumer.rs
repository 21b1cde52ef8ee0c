//! Consumers against a real Kafka, when there is one: `KAFKA_BOOTSTRAP=host:port`, as `ci/kafka start` prints it.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ottla::admin::NewTopic;
use ottla::base::chunk::ChunkPool;
use ottla::batch::{Append, BatchBuilder, BatchSettings, Codec, Codecs, Stamp, encode_body};
use ottla::config::{BackendSetting, EngineSettings};
use ottla::consumer::{Consumer, IsolationLevel, StartAt};
use ottla::engine::Engine;
use ottla::wire::frame::encode_request;
use ottla::wire::messages::add_partitions_to_txn::request::AddPartitionsToTxnTopic;
use ottla::wire::messages::produce::request::{PartitionProduceData, TopicProduceData};
use ottla::wire::messages::*;
use ottla::wire::{Message, Reader, Request};

const PATIENCE: Duration = Duration::from_secs(30);

/// A bare connection that writes what the test wants written.
struct Writer {
    stream: TcpStream,
}

impl Writer {
    fn to(bootstrap: &str) -> Self {
        let stream = TcpStream::connect(bootstrap).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        let mut frame = Vec::new();
        encode_request(version, 1, Some("writer"), request, &mut frame).unwrap();
        self.stream.write_all(&frame).unwrap();
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut answer).unwrap();
        let answer = Bytes::from(answer);
        let mut body = Reader::shared(&answer);
        ResponseHeader::decode(Q::KEY.response_header_version(version), &mut body).unwrap();
        Q::Response::decode(version, &mut body).unwrap()
    }

    fn produce(&mut self, topic: &str, partition: i32, transaction: Option<&str>, batch: Vec<u8>) -> i64 {
        let data = PartitionProduceData { index: partition, records: Some(batch.into()), ..Default::default() };
        let request = ProduceRequest {
            transactional_id: transaction.map(str::to_owned),
            acks: -1,
            timeout_ms: 5_000,
            topic_data: vec![TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() }],
            ..Default::default()
        };
        let partition = |answer: &ProduceResponse| answer.responses[0].partition_responses[0].clone();
        partition(&self.until(9, &request, |answer| partition(answer).error_code)).base_offset
    }

    /// Asks until the answer is not "later".
    fn until<Q: Request>(&mut self, version: i16, request: &Q, code: impl Fn(&Q::Response) -> i16) -> Q::Response {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call(version, request);
            match code(&answer) {
                0 => return answer,
                // A topic that is not everywhere yet; a coordinator that is loading, missing or elsewhere; concurrent
                // transactions.
                3 | 5 | 6 | 14 | 15 | 16 | 51 => std::thread::park_timeout(Duration::from_millis(50)),
                other => panic!("{} answers {other}", Q::NAME),
            }
            assert!(Instant::now() < deadline);
        }
    }
}

fn value(index: i64) -> String {
    format!("{{\"index\":{index},\"text\":\"the same words again and again\"}}")
}

fn batch(codec: Codec, from: i64, to: i64, stamp: Stamp) -> Vec<u8> {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut builder = BatchBuilder::new(&BatchSettings::with_codec(codec), &pool, &codecs).unwrap();
    for index in from..to {
        let mut body = Vec::new();
        let headers = [("a", Some(&b"1"[..])), ("a", None)];
        encode_body(Some(b"k"), Some(value(index).as_bytes()), headers.into_iter(), &mut body);
        assert_eq!(builder.append(1_000 + index, &body), Append::Stored);
    }
    let mut bytes = Vec::new();
    builder.seal(stamp).copy_to(&mut bytes);
    bytes
}

/// An engine and a fresh topic, if there is a Kafka.
fn setting(partitions: i32, backend: BackendSetting) -> Option<(String, Engine, String)> {
    let bootstrap = std::env::var("KAFKA_BOOTSTRAP").ok()?;
    let bootstrap = bootstrap.split(',').next()?.to_owned();
    let settings = EngineSettings { bootstrap_servers: vec![bootstrap.clone()], ..Default::default() };
    let engine = Engine::builder().settings(settings).backend(backend).build().unwrap();
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let topic = format!("consumer-{nanos}");
    let created = engine.admin().create_topics([NewTopic::new(&topic, partitions)], false).wait().unwrap();
    assert!(created[0].1.is_ok(), "{created:?}");
    Some((bootstrap, engine, topic))
}

fn read(consumer: &mut Consumer, partitions: i32, count: i64) {
    let mut expected = vec![0; partitions as usize];
    while expected.iter().any(|next| *next < count) {
        let batch = consumer.next(PATIENCE).unwrap().expect("a batch in time");
        let index = &mut expected[batch.partition() as usize];
        for record in &batch {
            assert_eq!((record.offset(), record.timestamp()), (*index, 1_000 + *index));
            assert_eq!(record.value().unwrap(), value(*index).as_bytes());
            let headers: Vec<_> = record.headers().map(|header| header.unwrap().value).collect();
            assert_eq!(headers, [Some(&b"1"[..]), None]);
            *index += 1;
        }
    }
}

#[test]
fn every_codec_is_read_back_from_kafka_in_order_on_both_backends() {
    for backend in [BackendSetting::Epoll, BackendSetting::Auto] {
        let Some((bootstrap, engine, topic)) = setting(5, backend) else { return };
        let mut writer = Writer::to(&bootstrap);
        for (partition, codec) in (0..5).zip(Codec::ALL) {
            for from in (0..3_000).step_by(500) {
                assert_eq!(writer.produce(&topic, partition, None, batch(codec, from, from + 500, Stamp::NONE)), from);
            }
        }
        let wanted = |start| (0..5).map(move |partition| (partition, start));
        let assign = wanted(StartAt::Earliest).map(|(partition, start)| (topic.as_str(), partition, start));
        let mut consumer = engine
            .consumer()
            .assign(assign)
            .max_partition_fetch_bytes(20_000)
            .fetch_max_wait(Duration::from_millis(100))
            .build()
            .unwrap();
        read(&mut consumer, 5, 3_000);
        assert!(consumer.next(Duration::from_millis(250)).unwrap().is_none());
        for partition in 0..5 {
            assert_eq!(consumer.processed(&topic, partition).unwrap(), Some(3_000));
            assert_eq!(consumer.high_watermark(&topic, partition).unwrap(), Some(3_000));
        }
        // Seeks: by offset, by timestamp, past the end, behind which only new records come.
        consumer.seek(&topic, 3, StartAt::Offset(2_345)).unwrap();
        assert_eq!(consumer.next(PATIENCE).unwrap().unwrap().iter().next().unwrap().offset(), 2_345);
        consumer.seek(&topic, 3, StartAt::Timestamp(1_000 + 2_777)).unwrap();
        assert_eq!(consumer.next(PATIENCE).unwrap().unwrap().iter().next().unwrap().offset(), 2_777);
        consumer.seek(&topic, 3, StartAt::Timestamp(1 << 50)).unwrap();
        while consumer.position(&topic, 3).unwrap().is_none() {
            assert!(consumer.next(Duration::from_millis(20)).unwrap().is_none());
        }
        writer.produce(&topic, 3, None, batch(Codec::Lz4, 3_000, 3_010, Stamp::NONE));
        let fresh = consumer.next(PATIENCE).unwrap().unwrap();
        assert_eq!((fresh.partition(), fresh.first_offset(), fresh.iter().count()), (3, 3_000, 10));
        drop(consumer);
        engine.close(Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn d2_39_aborted_transactions_of_kafka_are_hidden() {
    let Some((bootstrap, engine, topic)) = setting(1, BackendSetting::Epoll) else { return };
    let mut writer = Writer::to(&bootstrap);
    let transaction = format!("{topic}-tx");
    // A single node coordinates everything; the lookup creates the coordinator's topic.
    let find =
        FindCoordinatorRequest { key_type: 1, coordinator_keys: vec![transaction.clone()], ..Default::default() };
    writer.until(4, &find, |answer| answer.coordinators[0].error_code);
    let mut expected = Vec::new();
    let mut offset = 0;
    for round in 0..6 {
        let init = InitProducerIdRequest {
            transactional_id: Some(transaction.clone()),
            transaction_timeout_ms: 30_000,
            ..Default::default()
        };
        let init = writer.until(4, &init, |answer| answer.error_code);
        let (producer_id, producer_epoch) = (init.producer_id, init.producer_epoch);
        let add = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: transaction.clone(),
            v3_and_below_producer_id: producer_id,
            v3_and_below_producer_epoch: producer_epoch,
            v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                name: topic.clone(),
                partitions: vec![0],
                ..Default::default()
            }],
            ..Default::default()
        };
        let code = |answer: &AddPartitionsToTxnResponse| {
            answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        };
        writer.until(3, &add, code);
        let stamp = Stamp { producer_id, producer_epoch, base_sequence: 0, transactional: true };
        let base = writer.produce(&topic, 0, Some(&transaction), batch(Codec::Zstd, offset, offset + 7, stamp));
        // Somebody else's records in between count at once.
        let plain = writer.produce(&topic, 0, None, batch(Codec::None, 0, 3, Stamp::NONE));
        assert_eq!(plain, base + 7);
        let committed = round % 2 == 0;
        if committed {
            expected.extend(base..base + 7);
        }
        expected.extend(plain..plain + 3);
        let end = EndTxnRequest {
            transactional_id: transaction.clone(),
            producer_id,
            producer_epoch,
            committed,
            ..Default::default()
        };
        writer.until(3, &end, |answer| answer.error_code);
        offset = plain + 4;
    }
    for (level, hidden) in [(IsolationLevel::ReadCommitted, 21), (IsolationLevel::ReadUncommitted, 0)] {
        let mut consumer = engine
            .consumer()
            .assign([(topic.as_str(), 0, StartAt::Earliest)])
            .isolation_level(level)
            .fetch_max_wait(Duration::from_millis(100))
            .build()
            .unwrap();
        let mut found: Vec<i64> = Vec::new();
        while found.len() < 60 - hidden {
            let batch = consumer.next(PATIENCE).unwrap().expect("a batch in time");
            found.extend(batch.iter().map(|record| record.offset()));
        }
        if hidden > 0 {
            assert_eq!(found, expected);
        }
        assert!(consumer.next(Duration::from_millis(250)).unwrap().is_none());
        // Six markers, none given out, all passed.
        assert_eq!(consumer.position(&topic, 0).unwrap(), Some(66));
        assert_eq!(consumer.processed(&topic, 0).unwrap(), Some(66));
    }
    engine.close(Duration::from_secs(5)).unwrap();
}
