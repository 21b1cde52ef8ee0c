//! The embedded broker's Produce: what it appends, what it refuses, what it remembers of producers.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use broker_support::{Batch, Client, Lost, batches_in, produce, seal, topic_id};
use bytes::Bytes;
use ottla::testkit::broker::{Broker, CloseReason, TopicSpec};
use ottla::wire::ErrorCode;
use ottla::wire::messages::{InitProducerIdRequest, ProduceRequest};

fn broker() -> Broker {
    Broker::builder().topic("t", 2).start().unwrap()
}

fn code(error_code: i16) -> ErrorCode {
    ErrorCode::from(error_code)
}

#[test]
fn every_version_appends_and_the_log_holds_the_bytes_that_were_sent() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let id = topic_id(&broker, "t");
    let sent = Batch::of(3).bytes();
    for (nth, version) in (3..=13).enumerate() {
        let mut request = produce("t", 0, -1, sent.clone());
        if version >= 13 {
            request.topic_data[0].name.clear();
            request.topic_data[0].topic_id = id;
        }
        let answer = client.call(version, &request);
        let told = &answer.responses[0].partition_responses[0];
        assert_eq!((told.error_code, told.base_offset), (0, 3 * nth as i64), "version {version}");
        assert_eq!(told.log_append_time_ms, -1);
    }
    for (nth, kept) in broker.log("t", 0).iter().enumerate() {
        assert_eq!(kept[..8], (3 * nth as i64).to_be_bytes(), "base offset");
        assert_eq!(kept[12..16], 0i32.to_be_bytes(), "leader epoch");
        assert_eq!((&kept[8..12], &kept[16..]), (&sent[8..12], &sent[16..]), "and nothing else changed");
    }
    assert_eq!(broker.counters().records_appended, 33);
}

#[test]
fn duplicates_are_answered_with_their_first_offset_and_gaps_are_refused() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    let producer = client.call(5, &InitProducerIdRequest { transactional_id: None, ..Default::default() });
    assert_eq!((producer.error_code, producer.producer_epoch), (0, 0));
    let pid = producer.producer_id;
    for nth in 0..6 {
        assert_eq!(
            client.produce("t", 0, Batch::of(2).sequenced(pid, 0, nth * 2).bytes()).base_offset,
            i64::from(nth) * 2
        );
    }
    for nth in 1..6 {
        let again = client.produce("t", 0, Batch::of(2).sequenced(pid, 0, nth * 2).bytes());
        assert_eq!((again.error_code, again.base_offset), (0, i64::from(nth) * 2), "batch {nth} of the last five");
    }
    let old = client.produce("t", 0, Batch::of(2).sequenced(pid, 0, 0).bytes());
    assert_eq!(code(old.error_code), ErrorCode::OutOfOrderSequenceNumber, "the sixth back is forgotten");
    let gap = client.produce("t", 0, Batch::of(2).sequenced(pid, 0, 14).bytes());
    assert_eq!(code(gap.error_code), ErrorCode::OutOfOrderSequenceNumber);
    let bumped_wrong = client.produce("t", 0, Batch::of(2).sequenced(pid, 1, 12).bytes());
    assert_eq!(code(bumped_wrong.error_code), ErrorCode::OutOfOrderSequenceNumber, "a new epoch starts at 0");
    let bumped = client.produce("t", 0, Batch::of(2).sequenced(pid, 1, 0).bytes());
    assert_eq!((bumped.error_code, bumped.base_offset), (0, 12));
    let fenced = client.produce("t", 0, Batch::of(2).sequenced(pid, 0, 12).bytes());
    assert_eq!(code(fenced.error_code), ErrorCode::InvalidProducerEpoch);
    assert_eq!(broker.log("t", 0).len(), 7, "nothing else was appended");
    // Partitions know nothing of each other, and a forgotten producer may start anywhere.
    assert_eq!(client.produce("t", 1, Batch::of(2).sequenced(pid, 1, 40).bytes()).error_code, 0);
    broker.with(|core| core.forget_producers("t", 0));
    assert_eq!(client.produce("t", 0, Batch::of(2).sequenced(pid, 1, 99).bytes()).error_code, 0);
    assert_eq!(broker.counters().batches_duplicate, 5);
}

#[test]
fn unsound_batches_are_refused_by_name_and_leave_no_trace() {
    let broker =
        Broker::builder().topic_with(TopicSpec::new("t", 1).config("max.message.bytes", "2000")).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let changed = |change: &dyn Fn(&mut Vec<u8>), reseal: bool| {
        let mut batch = Batch::of(3).bytes();
        change(&mut batch);
        if reseal {
            seal(&mut batch);
        }
        batch
    };
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("a flipped bit", changed(&|b| b[80] ^= 4, false), ErrorCode::CorruptMessage),
        ("cut off", changed(&|b| b.truncate(100), false), ErrorCode::InvalidRecord),
        ("nothing", Vec::new(), ErrorCode::InvalidRecord),
        ("magic 1", changed(&|b| b[16] = 1, false), ErrorCode::InvalidRecord),
        ("two batches", changed(&|b| b.extend_from_within(..), false), ErrorCode::InvalidRecord),
        ("a base offset", changed(&|b| b[7] = 9, false), ErrorCode::InvalidRecord),
        ("count above the records", changed(&|b| (b[26], b[60]) = (3, 4), true), ErrorCode::InvalidRecord),
        ("count below the records", changed(&|b| (b[26], b[60]) = (1, 2), true), ErrorCode::InvalidRecord),
        ("count unlike the last delta", changed(&|b| b[60] = 2, true), ErrorCode::InvalidRecord),
        ("a control batch", changed(&|b| b[22] = 0x20, true), ErrorCode::InvalidRecord),
        (
            "transactional without producer",
            changed(&|b| b[22] = 0x10, true),
            ErrorCode::TransactionalIdAuthorizationFailed,
        ),
        ("an unknown codec", changed(&|b| b[22] = 5, true), ErrorCode::UnknownServerError),
        ("lz4 that is none", changed(&|b| b[22] = 3, true), ErrorCode::UnknownServerError),
        ("zstd that is none", changed(&|b| b[22] = 4, true), ErrorCode::UnknownServerError),
        // Stricter than Kafka, see api/produce.rs.
        ("a byte behind", changed(&|b| b.push(0), false), ErrorCode::InvalidRecord),
        ("a first delta of 1", changed(&|b| b[64] = 2, true), ErrorCode::InvalidRecord),
        ("append time of the client's", changed(&|b| b[22] = 8, true), ErrorCode::InvalidTimestamp),
        ("producer -2", Batch::of(1).sequenced(-2, 0, 0).bytes(), ErrorCode::InvalidRecord),
        ("from the future", Batch::of(1).from(i64::MAX / 2).bytes(), ErrorCode::InvalidTimestamp),
        ("too large", Batch::of(1).values_of(2000).bytes(), ErrorCode::MessageTooLarge),
        ("a negative epoch", Batch::of(1).sequenced(5, -1, 0).bytes(), ErrorCode::InvalidRecord),
    ];
    for (what, batch, expected) in &cases {
        let told = client.produce("t", 0, batch.clone());
        assert_eq!((code(told.error_code), told.base_offset), (*expected, -1), "{what}");
        assert!(told.error_message.is_some(), "{what}");
    }
    assert_eq!(broker.log("t", 0), Vec::<Bytes>::new());
    // The transactional one is refused before it is looked at.
    assert_eq!(broker.counters().batches_refused, cases.len() as u64 - 1);
    assert_eq!(client.produce("t", 0, Batch::of(1).bytes()).base_offset, 0);
}

#[test]
fn header_validation_skips_the_records_only() {
    let broker = Broker::builder().topic("t", 1).validate(ottla::testkit::broker::Validate::Header).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let mut hollow = Batch::of(3).bytes();
    hollow[70] = 0x7f;
    assert_eq!(code(client.produce("t", 0, hollow.clone()).error_code), ErrorCode::CorruptMessage);
    seal(&mut hollow);
    assert_eq!(client.produce("t", 0, hollow).error_code, 0);
}

#[test]
fn acks_0_is_silent_and_an_error_closes_the_connection() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    client.send(12, &produce("t", 0, 0, Batch::of(4).bytes()));
    // The next answer on the connection is the next request's.
    assert_eq!(client.produce("t", 0, Batch::of(1).bytes()).base_offset, 4);
    client.send(12, &produce("nowhere", 0, 0, Batch::of(1).bytes()));
    assert_eq!(client.receive::<ProduceRequest>(12), Err(Lost::Closed));
    let counters = broker.counters();
    assert_eq!(counters.closes.get(&CloseReason::AcksZeroError), Some(&1));
    let wrong = Client::to(&broker, 0).call(12, &produce("t", 0, 2, Batch::of(1).bytes()));
    assert_eq!(code(wrong.responses[0].partition_responses[0].error_code), ErrorCode::InvalidRequiredAcks);
}

#[test]
fn log_append_time_is_the_brokers_and_the_crc_follows() {
    let spec = TopicSpec::new("t", 1).config("message.timestamp.type", "LogAppendTime");
    let broker = Broker::builder().topic_with(spec).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let told = client.produce("t", 0, Batch::of(2).bytes());
    assert!(told.log_append_time_ms > 1_600_000_000_000, "{}", told.log_append_time_ms);
    let kept = &broker.log("t", 0)[0];
    assert_eq!(kept[22] & 8, 8, "timestamp type");
    assert_eq!(kept[35..43], told.log_append_time_ms.to_be_bytes());
    assert_eq!(kept[17..21], crc32c::crc32c(&kept[21..]).to_be_bytes());
}

#[test]
fn too_few_replicas_in_step_refuse_acks_all_only() {
    let spec = TopicSpec::new("t", 1).replication(2).config("min.insync.replicas", "2");
    let broker = Broker::builder().brokers(2).topic_with(spec).start().unwrap();
    assert!(broker.stop_node(1));
    let mut client = Client::to(&broker, 0);
    assert_eq!(code(client.produce("t", 0, Batch::of(1).bytes()).error_code), ErrorCode::NotEnoughReplicas);
    let leader_only = client.call(12, &produce("t", 0, 1, Batch::of(1).bytes()));
    assert_eq!(leader_only.responses[0].partition_responses[0].error_code, 0);
    broker.start_node(1).unwrap();
    assert_eq!(client.produce("t", 0, Batch::of(1).bytes()).base_offset, 1);
}

#[test]
fn the_wrong_node_names_the_right_one() {
    let broker = Broker::builder().brokers(3).topic("t", 1).start().unwrap();
    assert!(broker.move_leader("t", 0, 2));
    let answer = Client::to(&broker, 0).call(12, &produce("t", 0, -1, Batch::of(1).bytes()));
    let told = &answer.responses[0].partition_responses[0];
    assert_eq!(code(told.error_code), ErrorCode::NotLeaderOrFollower);
    assert_eq!((told.current_leader.leader_id, told.current_leader.leader_epoch), (2, 1));
    let port = i32::from(broker.address(2).unwrap().port());
    assert_eq!(answer.node_endpoints.iter().map(|n| (n.node_id, n.port)).collect::<Vec<_>>(), [(2, port)]);
    assert_eq!(Client::to(&broker, 2).produce("t", 0, Batch::of(1).bytes()).base_offset, 0);
    assert_eq!(broker.log("t", 0)[0][12..16], 1i32.to_be_bytes(), "the new leader's epoch is in the batch");
}

#[test]
fn retention_drops_the_oldest_bytes_of_the_broker() {
    let small = |options: &mut ottla::testkit::broker::Options| {
        (options.segment_bytes, options.retention_bytes_per_broker) = (4_000, 40_000);
    };
    let broker = Broker::builder().topic("t", 2).with(small).start().unwrap();
    let mut client = Client::to(&broker, 0);
    for nth in 0..100 {
        client.produce("t", nth % 2, Batch::of(10).values_of(100).bytes());
        assert!(broker.with(|core| core.stored_bytes()) <= 40_000);
    }
    let told = client.produce("t", 0, Batch::of(1).bytes());
    assert_eq!(told.base_offset, 500);
    assert!(told.log_start_offset > 200, "{}", told.log_start_offset);
    let first = &broker.log("t", 0)[0];
    assert_eq!(batches_in(first).0, [told.log_start_offset]);
    let gone = client.fetch("t", 0, 0);
    assert_eq!(code(gone.error_code), ErrorCode::OffsetOutOfRange);
}
