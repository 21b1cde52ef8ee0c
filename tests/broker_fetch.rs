//! The embedded broker's Fetch: long polls, limits, sessions, epochs.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use std::time::{Duration, Instant};

use broker_support::{Batch, Client, PATIENCE, batches_in, fetch, topic_id};
use ottla::testkit::broker::Broker;
use ottla::wire::ErrorCode;
use ottla::wire::messages::fetch::request::ForgottenTopic;
use ottla::wire::messages::list_offsets::request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla::wire::messages::{FetchRequest, FetchResponse, ListOffsetsRequest};

fn broker() -> Broker {
    Broker::builder().brokers(2).topic("t", 4).start().unwrap()
}

fn code(error_code: i16) -> ErrorCode {
    ErrorCode::from(error_code)
}

/// Partitions of "t" led by node 0 of two.
const OF_NODE_0: [i32; 2] = [0, 2];

#[test]
fn every_version_reads_what_was_produced() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, Batch::of(3).bytes());
    client.produce("t", 0, Batch::of(2).bytes());
    for version in 4..=18 {
        let mut request = fetch("t", &[(0, 1)], 0);
        request.isolation_level = 1;
        if version >= 13 {
            request.topics[0].topic.clear();
            request.topics[0].topic_id = topic_id(&broker, "t");
        }
        let answer = client.call(version, &request);
        let told = &answer.responses[0].partitions[0];
        assert_eq!((told.error_code, told.high_watermark, told.last_stable_offset), (0, 5, 5), "version {version}");
        assert_eq!(batches_in(told.records.as_ref().unwrap()), (vec![0, 3], 0), "from the batch that holds offset 1");
    }
}

#[test]
fn a_long_poll_waits_for_its_bytes_and_no_longer() {
    let broker = broker();
    let mut poller = Client::to(&broker, 0);
    let started = Instant::now();
    let empty = poller.call(12, &fetch("t", &[(0, 0)], 150));
    assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
    assert_eq!(empty.responses[0].partitions[0].records.as_ref().unwrap().len(), 0);
    // Twice the bytes of one batch, over two partitions.
    let batch = Batch::of(2).bytes();
    let request = FetchRequest { min_bytes: 2 * batch.len() as i32, ..fetch("t", &[(0, 0), (2, 0)], 60_000) };
    poller.send(12, &request);
    let mut producer = Client::to(&broker, 0);
    producer.produce("t", 0, batch.clone());
    poller.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(poller.frame().is_err(), "one batch is not enough");
    poller.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    producer.produce("t", 2, batch.clone());
    let answer = poller.receive::<FetchRequest>(12).unwrap();
    let sizes: Vec<usize> =
        answer.responses[0].partitions.iter().map(|part| part.records.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [batch.len(), batch.len()]);
}

#[test]
fn limits_cut_batches_but_never_the_first() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let batch = Batch::of(1).values_of(1000).bytes();
    for partition in OF_NODE_0 {
        client.produce("t", partition, batch.clone());
        client.produce("t", partition, batch.clone());
    }
    let mut request = fetch("t", &[(0, 0), (2, 0)], 0);
    request.max_bytes = 10;
    let parts = client.call(12, &request).responses.remove(0).partitions;
    let sizes: Vec<usize> = parts.iter().map(|part| part.records.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [batch.len(), 0], "KIP-74: one whole batch, then the limit holds");
    request.max_bytes = 1 << 20;
    request.topics[0].partitions[0].partition_max_bytes = batch.len() as i32 + 100;
    let parts = client.call(12, &request).responses.remove(0).partitions;
    assert_eq!(batches_in(parts[0].records.as_ref().unwrap()), (vec![0], 100), "a cut-off batch at the end");
    assert_eq!(batches_in(parts[1].records.as_ref().unwrap()), (vec![0, 1], 0));
}

#[test]
fn offsets_and_epochs_are_checked() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    client.produce("t", 0, Batch::of(3).bytes());
    assert_eq!(code(client.fetch("t", 0, 4).error_code), ErrorCode::OffsetOutOfRange);
    assert_eq!(code(client.fetch("t", 0, -1).error_code), ErrorCode::OffsetOutOfRange);
    assert_eq!(client.fetch("t", 0, 3).error_code, 0, "the end is not out of range");
    assert_eq!(code(client.fetch("t", 1, 0).error_code), ErrorCode::NotLeaderOrFollower);
    assert_eq!(code(client.fetch("t", 9, 0).error_code), ErrorCode::UnknownTopicOrPartition);
    assert!(broker.move_leader("t", 0, 1) && broker.move_leader("t", 0, 0));
    let mut with_epoch = |epoch: i32| {
        let mut request = fetch("t", &[(0, 3)], 0);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        code(client.call(12, &request).responses[0].partitions[0].error_code)
    };
    assert_eq!(with_epoch(1), ErrorCode::FencedLeaderEpoch);
    assert_eq!(with_epoch(2), ErrorCode::None);
    assert_eq!(with_epoch(3), ErrorCode::UnknownLeaderEpoch);
    // Epochs moved on by truncation: what the client fetched last is no longer in the log.
    client.produce("t", 0, Batch::of(3).bytes());
    broker.with(|core| core.truncate("t", 0, 3));
    let mut request = fetch("t", &[(0, 6)], 0);
    request.topics[0].partitions[0].last_fetched_epoch = 2;
    let told = client.call(12, &request).responses.remove(0).partitions.remove(0);
    assert_eq!((told.error_code, told.diverging_epoch.end_offset), (0, 3));
}

#[test]
fn a_leader_that_moves_away_answers_the_long_poll() {
    let broker = broker();
    let mut poller = Client::to(&broker, 0);
    poller.send(12, &fetch("t", &[(0, 0)], 60_000));
    assert!(broker.wait_until(PATIENCE, |core| core.counters().requests(ottla::wire::ApiKey::Fetch) == 1));
    assert!(broker.move_leader("t", 0, 1));
    let told = poller.receive::<FetchRequest>(12).unwrap().responses.remove(0).partitions.remove(0);
    assert_eq!(code(told.error_code), ErrorCode::NotLeaderOrFollower);
    assert_eq!((told.current_leader.leader_id, told.current_leader.leader_epoch), (1, 1));
}

/// (partition, records?) of all partitions named in an answer.
fn named(answer: &FetchResponse) -> Vec<(i32, bool)> {
    let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|part| (part.partition_index, !part.records.as_ref().unwrap().is_empty())).collect()
}

#[test]
fn an_incremental_session_tells_only_news() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let mut request = fetch("t", &[(0, 0), (2, 0)], 0);
    request.session_epoch = 0;
    let first = client.call(12, &request);
    assert!(first.session_id > 0);
    assert_eq!(named(&first), [(0, false), (2, false)], "the first answer names all");
    let next = |epoch: i32| FetchRequest {
        topics: Vec::new(),
        session_id: first.session_id,
        session_epoch: epoch,
        ..fetch("t", &[], 0)
    };
    assert_eq!(named(&client.call(12, &next(1))), []);
    client.produce("t", 2, Batch::of(1).bytes());
    assert_eq!(named(&client.call(12, &next(2))), [(2, true)]);
    assert_eq!(named(&client.call(12, &next(3))), [(2, true)], "its offset was not moved");
    let mut moved = fetch("t", &[(2, 1)], 0);
    (moved.session_id, moved.session_epoch) = (first.session_id, 4);
    assert_eq!(named(&client.call(12, &moved)), []);
    assert_eq!(code(client.call(12, &next(4)).error_code), ErrorCode::InvalidFetchSessionEpoch);
    let unknown = FetchRequest { session_id: first.session_id ^ 1, ..next(5) };
    assert_eq!(code(client.call(12, &unknown).error_code), ErrorCode::FetchSessionIdNotFound);
    // An error is told until it ends, and its end is told too.
    broker.move_leader("t", 0, 1);
    assert_eq!(named(&client.call(12, &next(5))), [(0, false)]);
    broker.move_leader("t", 0, 0);
    assert_eq!(named(&client.call(12, &next(6))), [(0, false)]);
    assert_eq!(named(&client.call(12, &next(7))), []);
    let forget = |partitions: Vec<i32>, epoch: i32| FetchRequest {
        forgotten_topics_data: vec![ForgottenTopic { topic: "t".into(), partitions, ..ForgottenTopic::default() }],
        ..next(epoch)
    };
    client.produce("t", 0, Batch::of(1).bytes());
    assert_eq!(named(&client.call(12, &forget(vec![0], 8))), [], "forgotten, so its record is not told");
    let last = client.call(12, &forget(vec![2], 9));
    assert_eq!((last.session_id, named(&last)), (0, vec![]), "an empty session ends");
    assert_eq!(code(client.call(12, &next(10)).error_code), ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn sessions_in_use_are_not_evicted_and_idle_ones_are() {
    let one = |options: &mut ottla::testkit::broker::Options| {
        (options.fetch_sessions_max, options.fetch_session_idle) = (1, Duration::from_secs(3600));
    };
    let broker = Broker::builder().topic("t", 1).with(one).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let request = FetchRequest { session_epoch: 0, ..fetch("t", &[(0, 0)], 0) };
    let first = client.call(12, &request).session_id;
    assert_ne!(first, 0);
    assert_eq!(client.call(12, &request).session_id, 0, "no slot: answered without a session");
    broker.with(|core| core.options.fetch_session_idle = Duration::ZERO);
    assert_ne!(client.call(12, &request).session_id, 0);
    let gone = FetchRequest { session_id: first, session_epoch: 1, ..fetch("t", &[(0, 0)], 0) };
    assert_eq!(code(client.call(12, &gone).error_code), ErrorCode::FetchSessionIdNotFound);
    assert_eq!(broker.counters().fetch_sessions_evicted, 1);
}

#[test]
fn offsets_are_listed_by_position_and_time() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let mut client = Client::to(&broker, 0);
    for base in [1_000, 5_000, 3_000] {
        client.produce("t", 0, Batch::of(10).from(base).bytes());
    }
    let mut list = |version: i16, timestamp: i64| {
        let partition = ListOffsetsPartition { timestamp, ..ListOffsetsPartition::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition], ..ListOffsetsTopic::default() };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..ListOffsetsRequest::default() };
        let told = client.call(version, &request).topics.remove(0).partitions.remove(0);
        assert_eq!(told.error_code, 0);
        (told.timestamp, told.offset)
    };
    for version in 1..=11 {
        assert_eq!(list(version, -2), (-1, 0), "earliest, version {version}");
        assert_eq!(list(version, -1), (-1, 30), "latest, version {version}");
        assert_eq!(list(version, 1_004), (1_004, 4), "version {version}");
        assert_eq!(list(version, 1_500), (5_000, 10));
        assert_eq!(list(version, 6_000), (-1, -1), "past the end");
    }
    assert_eq!(list(7, -3), (5_009, 19), "the largest timestamp");
    broker.with(|core| core.delete_records("t", 0, 13));
    assert_eq!(list(7, -2), (-1, 13));
    assert_eq!(list(7, 0), (5_003, 13), "nothing before the log start");
}
