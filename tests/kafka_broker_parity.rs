//! The embedded broker and a real Kafka (`KAFKA_BOOTSTRAP=host:port`, as `ci/kafka start` prints it, when there is one)
//! are asked the same odd questions by raw frames and must give the same answers.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use std::fmt::Debug;

use broker_support::{Batch, Client, batches_in, fetch, produce, seal};
use bytes::Bytes;
use ottla::base::ids::Uuid;
use ottla::testkit::broker::Broker;
use ottla::wire::ErrorCode;
use ottla::wire::messages::create_partitions::request::CreatePartitionsTopic;
use ottla::wire::messages::create_topics::request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use ottla::wire::messages::delete_records::request::{DeleteRecordsPartition, DeleteRecordsTopic};
use ottla::wire::messages::delete_topics::request::DeleteTopicState;
use ottla::wire::messages::describe_configs::request::DescribeConfigsResource;
use ottla::wire::messages::describe_topic_partitions::request::TopicRequest;
use ottla::wire::messages::fetch::request::ForgottenTopic;
use ottla::wire::messages::incremental_alter_configs::request::{AlterConfigsResource, AlterableConfig};
use ottla::wire::messages::join_group::request::JoinGroupRequestProtocol;
use ottla::wire::messages::leave_group::request::MemberIdentity;
use ottla::wire::messages::list_offsets::request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla::wire::messages::metadata::request::MetadataRequestTopic;
use ottla::wire::messages::offset_commit::request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use ottla::wire::messages::offset_fetch::request::OffsetFetchRequestGroup;
use ottla::wire::messages::offset_for_leader_epoch::request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use ottla::wire::messages::*;

/// What a broker said, line by line.
struct Notes {
    at: String,
    lines: Vec<String>,
    client: Client,
    topic: String,
    compacted: String,
}

fn code(error_code: i16) -> &'static str {
    ErrorCode::from(error_code).name()
}

impl Notes {
    fn note(&mut self, what: impl Debug, said: impl Debug) {
        self.lines.push(format!("{what:?}: {said:?}"));
    }

    fn topics(at: &str) -> Self {
        // Names are fresh on every run, so that a real Kafka may be asked twice.
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let (topic, compacted) = (format!("parity-{stamp}"), format!("parity-compacted-{stamp}"));
        let mut notes = Self { at: at.into(), lines: Vec::new(), client: Client::at(at), topic, compacted };
        let mut limited = plain(&notes.topic, 2, 1);
        limited.configs = vec![config("max.message.bytes", "2000")];
        let mut compacted = plain(&notes.compacted, 1, 1);
        compacted.configs = vec![config("cleanup.policy", "compact")];
        let told = notes.client.call(7, &create(vec![limited, compacted]));
        assert!(told.topics.iter().all(|topic| topic.error_code == 0), "{told:?}");
        for topic in [notes.topic.clone(), notes.compacted.clone()] {
            // A real broker takes a moment to lead what it was given.
            let end = std::time::Instant::now() + broker_support::PATIENCE;
            while notes.client.fetch(&topic, 0, 0).error_code != 0 {
                assert!(std::time::Instant::now() < end, "{topic} has no leader");
                std::thread::yield_now();
            }
        }
        notes
    }

    fn produce(&mut self, version: i16, request: &ProduceRequest) -> (&'static str, i64, usize) {
        let Ok(mut answer) = self.client.try_call(version, request) else {
            self.client = Client::at(&self.at);
            return ("closed", 0, 0);
        };
        let told = answer.responses.remove(0).partition_responses.remove(0);
        (code(told.error_code), told.base_offset, told.record_errors.len())
    }

    fn batch(&mut self, what: &str, batch: Vec<u8>) {
        let said = self.produce(12, &produce(&self.topic.clone(), 0, -1, batch));
        self.note(what, said);
    }
}

fn plain(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..CreatableTopic::default()
    }
}

fn config(name: &str, value: &str) -> CreatableTopicConfig {
    CreatableTopicConfig { name: name.into(), value: Some(value.into()), ..CreatableTopicConfig::default() }
}

fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest { topics, timeout_ms: 5000, ..CreateTopicsRequest::default() }
}

fn batches(n: &mut Notes) {
    let changed = |change: &dyn Fn(&mut Vec<u8>), reseal: bool| {
        let mut batch = Batch::of(3).bytes();
        change(&mut batch);
        if reseal {
            seal(&mut batch);
        }
        batch
    };
    n.batch("sound", Batch::of(3).bytes());
    n.batch("a flipped bit", changed(&|b| b[80] ^= 4, false));
    n.batch("a cut record", changed(&|b| b.truncate(100), false));
    n.batch("nothing", Vec::new());
    n.batch("a piece of a header", changed(&|b| b.truncate(30), false));
    n.batch("magic 1", changed(&|b| b[16] = 1, false));
    n.batch("magic 3", changed(&|b| b[16] = 3, false));
    n.batch("two batches", changed(&|b| b.extend_from_within(..), false));
    n.batch("length below the header", changed(&|b| b[11] = 5, false));
    n.batch("a base offset", changed(&|b| b[7] = 9, false));
    n.batch("count above the records", changed(&|b| (b[26], b[60]) = (3, 4), true));
    n.batch("count below the records", changed(&|b| (b[26], b[60]) = (1, 2), true));
    n.batch("count unlike the last delta", changed(&|b| b[60] = 2, true));
    n.batch("no records", changed(&|b| (b[23..27].copy_from_slice(&(-1i32).to_be_bytes()), b[60] = 0).1, true));
    n.batch("a control batch", changed(&|b| b[22] = 0x20, true));
    n.batch("transactional without producer", changed(&|b| b[22] = 0x10, true));
    n.batch("codec 5", changed(&|b| b[22] = 5, true));
    for (codec, name) in [(1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")] {
        n.batch(&format!("{name} that is none"), changed(&|b| b[22] = codec, true));
    }
    n.batch("from the future", Batch::of(1).from(i64::MAX / 2).bytes());
    n.batch("no timestamp", Batch::of(1).from(-1).bytes());
    n.batch("a wrong max timestamp", changed(&|b| b[42] = 0, true));
    n.batch("too large", Batch::of(1).values_of(2000).bytes());
    n.batch("a negative sequence", Batch::of(1).sequenced(5, 0, -1).bytes());
    let compacted = produce(&n.compacted, 0, -1, Batch::of(2).bytes());
    let said = n.produce(12, &compacted);
    n.note("no key in a compacted topic", said);
    let zstd = produce(&n.topic, 0, -1, changed(&|b| b[22] = 4, true));
    let said = n.produce(6, &zstd);
    n.note("zstd at version 6", said);
    for acks in [2, -2, 1] {
        let said = n.produce(12, &produce(&n.topic.clone(), 0, acks, Batch::of(1).bytes()));
        n.note(format!("acks {acks}"), said);
    }
    let said = n.produce(12, &produce(&n.topic.clone(), 7, -1, Batch::of(1).bytes()));
    n.note("an unknown partition", said);
    let mut by_id = produce("", 0, -1, Batch::of(1).bytes());
    by_id.topic_data[0].topic_id = Uuid([7; 16]);
    let said = n.produce(13, &by_id);
    n.note("an unknown topic id", said);
}

fn sequences(n: &mut Notes) {
    let init = InitProducerIdRequest { transactional_id: None, ..InitProducerIdRequest::default() };
    // A real Kafka that just started loads for a moment first.
    let end = std::time::Instant::now() + broker_support::PATIENCE;
    let granted = loop {
        let granted = n.client.call(5, &init);
        if ErrorCode::from(granted.error_code) != ErrorCode::CoordinatorLoadInProgress {
            break granted;
        }
        assert!(std::time::Instant::now() < end, "no producer id");
        std::thread::yield_now();
    };
    n.note("a producer id", (granted.error_code, granted.producer_epoch));
    let pid = granted.producer_id;
    let mut send = |what: &str, epoch: i16, sequence: i32, count: i32| {
        let request = produce(&n.topic.clone(), 1, -1, Batch::of(count).sequenced(pid, epoch, sequence).bytes());
        let said = n.produce(12, &request);
        n.note(what, said);
    };
    send("unknown, from 5", 0, 5, 2);
    (0..5).for_each(|nth| send("next", 0, 7 + 2 * nth, 2));
    send("again, newest", 0, 15, 2);
    send("again, oldest kept", 0, 7, 2);
    send("again, forgotten", 0, 5, 2);
    send("again, split", 0, 15, 1);
    send("a gap", 0, 18, 2);
    send("new epoch, not from 0", 1, 17, 2);
    send("new epoch", 1, 0, 2);
    send("old epoch", 0, 17, 2);
    let odd = [
        InitProducerIdRequest { transactional_id: Some(String::new()), transaction_timeout_ms: 1000, ..init.clone() },
        InitProducerIdRequest { producer_id: 5, producer_epoch: 3, ..init.clone() },
    ];
    for request in odd {
        let told = n.client.call(5, &request);
        n.note("init", (code(told.error_code), told.producer_epoch));
    }
}

fn fetches(n: &mut Notes) {
    let topic = n.topic.clone();
    let ask = |n: &mut Notes, what: &str, version: i16, request: &FetchRequest| {
        let told = n.client.call(version, request);
        let parts: Vec<_> = told.responses.iter().flat_map(|topic| &topic.partitions).collect();
        let said: Vec<_> = parts
            .iter()
            .map(|part| {
                let (offsets, cut) = batches_in(part.records.as_deref().unwrap_or(&[]));
                let marks = (part.high_watermark, part.last_stable_offset, part.log_start_offset);
                let null = (part.records.is_none(), part.aborted_transactions.is_none());
                (part.partition_index, code(part.error_code), marks, offsets, cut, null)
            })
            .collect();
        n.note(what, (code(told.error_code), told.session_id != 0, said));
        told.session_id
    };
    ask(n, "from the start", 12, &fetch(&topic, &[(0, 0), (1, 0)], 0));
    ask(n, "committed only", 12, &FetchRequest { isolation_level: 1, ..fetch(&topic, &[(0, 0)], 0) });
    ask(n, "inside a batch", 12, &fetch(&topic, &[(1, 3)], 0));
    ask(n, "at the end", 12, &fetch(&topic, &[(1, 14)], 0));
    ask(n, "past the end", 12, &fetch(&topic, &[(1, 15)], 0));
    ask(n, "below 0", 12, &fetch(&topic, &[(1, -3)], 0));
    ask(n, "an unknown partition", 12, &fetch(&topic, &[(9, 0)], 0));
    ask(n, "ten bytes", 12, &FetchRequest { max_bytes: 10, ..fetch(&topic, &[(0, 0), (1, 0)], 0) });
    for limit in [0, 10, 110, 250] {
        let mut limited = fetch(&topic, &[(0, 0), (1, 0)], 0);
        limited.topics[0].partitions.iter_mut().for_each(|part| part.partition_max_bytes = limit);
        ask(n, &format!("{limit} bytes each"), 12, &limited);
    }
    let mut by_id = fetch("", &[(0, 0)], 0);
    by_id.topics[0].topic_id = Uuid([7; 16]);
    ask(n, "an unknown topic id", 13, &by_id);
    for (epoch, fetched) in [(0, -1), (1, -1), (0, 0), (0, 3)] {
        let mut epochs = fetch(&topic, &[(1, 14)], 0);
        (epochs.topics[0].partitions[0].current_leader_epoch, epochs.topics[0].partitions[0].last_fetched_epoch) =
            (epoch, fetched);
        ask(n, &format!("epoch {epoch}, fetched {fetched}"), 12, &epochs);
    }
    // Sessions.
    let open = FetchRequest { session_epoch: 0, ..fetch(&topic, &[(0, 3), (1, 14)], 0) };
    let id = ask(n, "open", 12, &open);
    let next =
        |epoch: i32| FetchRequest { session_id: id, session_epoch: epoch, topics: Vec::new(), ..fetch(&topic, &[], 0) };
    ask(n, "records are told again", 12, &next(1));
    ask(n, "the same epoch", 12, &next(1));
    let moved = FetchRequest { session_id: id, session_epoch: 2, ..fetch(&topic, &[(0, 5)], 0) };
    ask(n, "at the end of 0", 12, &moved);
    let out = FetchRequest { session_id: id, session_epoch: 3, ..fetch(&topic, &[(0, 99)], 0) };
    ask(n, "an error is told", 12, &out);
    ask(n, "and again", 12, &next(4));
    let back = FetchRequest { session_id: id, session_epoch: 5, ..fetch(&topic, &[(0, 5)], 0) };
    ask(n, "its end is told", 12, &back);
    ask(n, "once", 12, &next(6));
    ask(n, "another way to name topics", 13, &next(7));
    ask(n, "an unknown session", 12, &FetchRequest { session_id: id ^ 1, ..next(7) });
    let forget = |partitions: &[i32], epoch: i32| FetchRequest {
        forgotten_topics_data: vec![ForgottenTopic {
            topic: topic.clone(),
            partitions: partitions.to_vec(),
            ..ForgottenTopic::default()
        }],
        ..next(epoch)
    };
    ask(n, "forget one", 12, &forget(&[0], 7));
    ask(n, "forget the last", 12, &forget(&[1], 8));
    ask(n, "after the end", 12, &next(9));
    ask(n, "open without partitions", 12, &FetchRequest { session_epoch: 0, ..fetch(&topic, &[], 0) });
    ask(n, "sessionless without partitions", 12, &fetch(&topic, &[], 0));
}

fn offsets(n: &mut Notes) {
    let topic = n.topic.clone();
    for (timestamp, epoch) in [
        (-1, -1),
        (-2, -1),
        (-3, -1),
        (-4, -1),
        (-5, -1),
        (-7, -1),
        (0, -1),
        (1_001, -1),
        (1_002, 0),
        (9_999, -1),
        (-1, 5),
    ] {
        for partition in [0, 1, 7] {
            let part = ListOffsetsPartition {
                partition_index: partition,
                timestamp,
                current_leader_epoch: epoch,
                ..Default::default()
            };
            let asked = ListOffsetsTopic { name: topic.clone(), partitions: vec![part], ..Default::default() };
            let request = ListOffsetsRequest { replica_id: -1, topics: vec![asked], ..Default::default() };
            let told = n.client.call(9, &request).topics.remove(0).partitions.remove(0);
            n.note(
                ("offset of", timestamp, epoch, partition),
                (code(told.error_code), told.timestamp, told.offset, told.leader_epoch),
            );
        }
    }
    for (current, epoch) in [(-1, 0), (0, 0), (0, 3), (2, 0), (-1, -1)] {
        let part = OffsetForLeaderPartition {
            partition: 1,
            current_leader_epoch: current,
            leader_epoch: epoch,
            ..Default::default()
        };
        let asked = OffsetForLeaderTopic { topic: topic.clone(), partitions: vec![part], ..Default::default() };
        let told = n.client.call(4, &OffsetForLeaderEpochRequest { topics: vec![asked], ..Default::default() });
        let told = &told.topics[0].partitions[0];
        n.note(("end of epoch", current, epoch), (code(told.error_code), told.leader_epoch, told.end_offset));
    }
    for (partition, offset) in [(1, 99), (1, -5), (1, 4), (1, 2), (7, 0), (1, -1)] {
        let part = DeleteRecordsPartition { partition_index: partition, offset, ..Default::default() };
        let asked = DeleteRecordsTopic { name: topic.clone(), partitions: vec![part], ..Default::default() };
        let request = DeleteRecordsRequest { topics: vec![asked], timeout_ms: 5000, ..Default::default() };
        let told = n.client.call(2, &request).topics.remove(0).partitions.remove(0);
        n.note(("delete before", partition, offset), (code(told.error_code), told.low_watermark));
    }
}

fn admin(n: &mut Notes) {
    let assigned = |ids: &[&[i32]], from: i32| CreatableTopic {
        assignments: (from..)
            .zip(ids)
            .map(|(index, ids)| CreatableReplicaAssignment {
                partition_index: index,
                broker_ids: ids.to_vec(),
                ..Default::default()
            })
            .collect(),
        ..plain("never", -1, -1)
    };
    let with = |name: &str, value: &str| CreatableTopic { configs: vec![config(name, value)], ..plain("never", 1, 1) };
    let cases = vec![
        ("exists", plain(&n.topic, 1, 1)),
        ("an illegal name", plain("a b", 1, 1)),
        ("no name", plain("", 1, 1)),
        ("two dots", plain("..", 1, 1)),
        ("no partitions", plain("never", 0, 1)),
        ("-2 partitions", plain("never", -2, 1)),
        ("no replicas", plain("never", 1, 0)),
        ("too many replicas", plain("never", 1, 99)),
        ("an unknown node", assigned(&[&[77]], 0)),
        ("twice the same node", assigned(&[&[0, 0]], 0)),
        ("from partition 1", assigned(&[&[0]], 1)),
        ("no nodes", assigned(&[&[]], 0)),
        ("an unknown config", with("no.such.config", "1")),
        ("a bad config", with("max.message.bytes", "many")),
        ("a bad policy", with("cleanup.policy", "burn")),
    ];
    for (what, topic) in cases {
        let request = CreateTopicsRequest { validate_only: true, ..create(vec![topic]) };
        let told = n.client.call(7, &request).topics.remove(0);
        n.note(what, code(told.error_code));
    }
    let twice = CreateTopicsRequest { validate_only: true, ..create(vec![plain("never", 1, 1), plain("never", 1, 1)]) };
    let told: Vec<_> = n.client.call(7, &twice).topics.iter().map(|topic| code(topic.error_code)).collect();
    n.note("named twice", told);
    for (name, count) in [(n.topic.clone(), 2), (n.topic.clone(), 1), (n.topic.clone(), 0), ("never".into(), 5)] {
        let what = ("grow to", count, name == "never");
        let topic = CreatePartitionsTopic { name, count, assignments: None, ..Default::default() };
        let told =
            n.client.call(3, &CreatePartitionsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() });
        n.note(what, code(told.results[0].error_code));
    }
    let state = |name: Option<&str>, id: u8| DeleteTopicState {
        name: name.map(str::to_owned),
        topic_id: Uuid([id; 16]),
        ..Default::default()
    };
    for (what, topic) in [
        ("never", state(Some("never"), 0)),
        ("an unknown id", state(None, 7)),
        ("both", state(Some("never"), 7)),
        ("neither", state(None, 0)),
    ] {
        let told =
            n.client.call(6, &DeleteTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() });
        n.note(
            ("delete", what),
            told.responses.iter().map(|t| (code(t.error_code), t.name.clone())).collect::<Vec<_>>(),
        );
    }
    let alter =
        |name: &str, operation: i8, value: Option<&str>, topic: &str, kind: i8| IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: kind,
                resource_name: topic.into(),
                configs: vec![AlterableConfig {
                    name: name.into(),
                    config_operation: operation,
                    value: value.map(str::to_owned),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            validate_only: true,
            ..Default::default()
        };
    let topic = n.topic.clone();
    for request in [
        alter("retention.ms", 0, Some("1000"), &topic, 2),
        alter("no.such", 0, Some("1"), &topic, 2),
        alter("retention.ms", 0, None, &topic, 2),
        alter("retention.ms", 2, Some("5"), &topic, 2),
        alter("cleanup.policy", 2, Some("compact"), &topic, 2),
        alter("retention.ms", 0, Some("1000"), "never", 2),
    ] {
        let told = n.client.call(1, &request);
        n.note(
            ("alter", &request.resources[0].configs[0].name, request.resources[0].configs[0].config_operation),
            code(told.responses[0].error_code),
        );
    }
    let resource = DescribeConfigsResource {
        resource_type: 2,
        resource_name: topic.clone(),
        configuration_keys: None,
        ..Default::default()
    };
    let told =
        n.client.call(4, &DescribeConfigsRequest { resources: vec![resource], ..Default::default() }).results.remove(0);
    let mut configs: Vec<_> =
        told.configs.into_iter().map(|c| (c.name, c.value, c.config_source, c.config_type)).collect();
    // Tiered storage and compression levels are not ours; `ci/kafka` sets the real broker's segment sizes and delays, and
    // KRaft's min.insync.replicas comes from the cluster's defaults.
    let ours = |name: &str| {
        ottla::testkit::broker::options::topic_config(name).is_some()
            && !name.starts_with("segment")
            && !matches!(name, "file.delete.delay.ms" | "min.insync.replicas")
    };
    configs.retain(|(name, ..)| ours(name));
    configs.sort();
    for entry in configs {
        n.note("config", entry);
    }
    for name in ["never", "a b"] {
        let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() };
        let told = n.client.call(12, &request).topics.remove(0);
        n.note(("metadata", name), (code(told.error_code), told.name));
        let asked = vec![TopicRequest { name: name.into(), ..Default::default() }];
        let told =
            n.client.call(0, &DescribeTopicPartitionsRequest { topics: asked, ..Default::default() }).topics.remove(0);
        n.note(("partitions", name), (code(told.error_code), told.name));
    }
    for version in [9, 12] {
        let topic = MetadataRequestTopic { name: Some(topic.clone()), ..Default::default() };
        let told = n.client.call(version, &MetadataRequest { topics: Some(vec![topic]), ..Default::default() });
        let operations = (told.cluster_authorized_operations, told.topics[0].topic_authorized_operations);
        let epochs: Vec<_> =
            told.topics[0].partitions.iter().map(|part| (part.partition_index, part.leader_epoch)).collect();
        n.note(("metadata", version), (operations, epochs, told.topics[0].topic_id.is_zero()));
    }
    for kind in [1, 2] {
        let told = n.client.call(2, &DescribeClusterRequest { endpoint_type: kind, ..Default::default() });
        n.note(("cluster", kind), code(told.error_code));
    }
    for (name, version) in [("good", "1.0"), ("bad name", "1"), ("", ""), ("-x", "1")] {
        let hello = ApiVersionsRequest {
            client_software_name: name.into(),
            client_software_version: version.into(),
            ..Default::default()
        };
        let told = n.client.call(3, &hello);
        n.note(("software", name), code(told.error_code));
    }
}

fn groups(n: &mut Notes) {
    let group = format!("group-{}", n.topic);
    let join = |id: &str, session: i32, kind: &str, protocol: Option<&str>| JoinGroupRequest {
        group_id: group.clone(),
        session_timeout_ms: session,
        rebalance_timeout_ms: 1000,
        member_id: id.into(),
        protocol_type: kind.into(),
        protocols: protocol
            .map(|name| JoinGroupRequestProtocol {
                name: name.into(),
                metadata: Bytes::from_static(b"m"),
                ..Default::default()
            })
            .into_iter()
            .collect(),
        ..Default::default()
    };
    let find = |n: &mut Notes, kind: i8, key: &str| {
        let request =
            FindCoordinatorRequest { key_type: kind, coordinator_keys: vec![key.into()], ..Default::default() };
        n.client.call(4, &request).coordinators.remove(0).error_code
    };
    // The first lookup makes a real Kafka create its offsets topic; it says so until that is done.
    let end = std::time::Instant::now() + broker_support::PATIENCE;
    while find(n, 0, &group) != 0 {
        assert!(std::time::Instant::now() < end, "no coordinator");
        std::thread::yield_now();
    }
    let beat = |member: &str, generation: i32| HeartbeatRequest {
        group_id: group.clone(),
        generation_id: generation,
        member_id: member.into(),
        ..Default::default()
    };
    // Its partition of the offsets topic takes another moment to load.
    let loading = |code: i16| {
        matches!(
            ErrorCode::from(code),
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress | ErrorCode::CoordinatorNotAvailable
        )
    };
    while loading(n.client.call(4, &beat("m", 1)).error_code) {
        assert!(std::time::Instant::now() < end, "the coordinator does not load");
        std::thread::yield_now();
    }
    let said = code(find(n, 0, ""));
    n.note("coordinator of nothing", said);
    let said = code(n.client.call(4, &beat("m", 1)).error_code);
    n.note("beat of nobody", said);
    for (what, request) in [
        ("a short session", join("", 5, "consumer", Some("range"))),
        ("a member of an unknown group", join("m", 10_000, "consumer", Some("range"))),
        ("no protocols", join("", 10_000, "consumer", None)),
        ("no type", join("", 10_000, "", Some("range"))),
        ("no group", JoinGroupRequest { group_id: String::new(), ..join("", 10_000, "consumer", Some("range")) }),
    ] {
        let told = n.client.call(9, &request);
        n.note(what, (code(told.error_code), told.generation_id, told.protocol_name, told.member_id));
    }
    let first = n.client.call(9, &join("", 10_000, "consumer", Some("range")));
    n.note("without id", (code(first.error_code), first.generation_id, first.member_id.is_empty()));
    let joined = n.client.call(9, &join(&first.member_id, 10_000, "consumer", Some("range")));
    let id = joined.member_id.clone();
    n.note(
        "joined",
        (
            code(joined.error_code),
            joined.generation_id,
            joined.leader == id,
            joined.members.len(),
            joined.protocol_type,
            joined.protocol_name,
        ),
    );
    let said = code(n.client.call(4, &beat(&id, 1)).error_code);
    n.note("beat before sync", said);
    let topic = n.topic.clone();
    let commit = |member: &str, generation: i32, partition: i32, metadata: Option<String>| OffsetCommitRequest {
        group_id: group.clone(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        topics: vec![OffsetCommitRequestTopic {
            name: topic.clone(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: 3,
                committed_metadata: metadata,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let requests = [
        ("commit before sync", commit(&id, 1, 0, None)),
        ("commit of nobody", commit("m", 1, 0, None)),
        ("commit of a generation", commit(&id, 7, 0, None)),
        ("commit without member", commit("", -1, 0, None)),
    ];
    for (what, request) in requests {
        let said = code(n.client.call(9, &request).topics[0].partitions[0].error_code);
        n.lines.push(format!("{what}: {said}"));
    }
    let sync = |member: &str, generation: i32, protocol: &str| SyncGroupRequest {
        group_id: group.clone(),
        generation_id: generation,
        member_id: member.into(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some(protocol.into()),
        ..Default::default()
    };
    for (what, request) in [
        ("sync of nobody", sync("m", 1, "range")),
        ("sync of a generation", sync(&id, 9, "range")),
        ("sync of a protocol", sync(&id, 1, "sticky")),
        ("sync", sync(&id, 1, "range")),
    ] {
        let told = n.client.call(5, &request);
        n.note(what, (code(told.error_code), told.protocol_type, told.protocol_name, told.assignment.len()));
    }
    let again = n.client.call(9, &join(&id, 10_000, "other", Some("range")));
    n.note("another type", code(again.error_code));
    let again = n.client.call(9, &join("", 10_000, "consumer", Some("alien")));
    n.note("another protocol", code(again.error_code));
    let requests = [
        ("commit", commit(&id, 1, 0, Some("note".into()))),
        ("commit to an unknown partition", commit(&id, 1, 9, None)),
        ("a long note", commit(&id, 1, 0, Some("x".repeat(5000)))),
    ];
    for (what, request) in requests {
        let said = code(n.client.call(9, &request).topics[0].partitions[0].error_code);
        n.lines.push(format!("{what}: {said}"));
    }
    for member_group in [group.clone(), "group-never".into()] {
        let asked = OffsetFetchRequestGroup { group_id: member_group.clone(), topics: None, ..Default::default() };
        let told = n.client.call(9, &OffsetFetchRequest { groups: vec![asked], ..Default::default() }).groups.remove(0);
        let parts: Vec<_> = told
            .topics
            .iter()
            .flat_map(|t| &t.partitions)
            .map(|p| {
                (p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata.clone(), p.error_code)
            })
            .collect();
        n.note(("committed", member_group == group), (code(told.error_code), parts));
        for version in [5, 6] {
            let told = n
                .client
                .call(version, &DescribeGroupsRequest { groups: vec![member_group.clone()], ..Default::default() })
                .groups
                .remove(0);
            n.note(
                ("describe", version, member_group == group),
                (code(told.error_code), told.group_state, told.protocol_type, told.protocol_data, told.members.len()),
            );
        }
        let told =
            n.client.call(2, &DeleteGroupsRequest { groups_names: vec![member_group.clone()], ..Default::default() });
        n.note(("remove", member_group == group), code(told.results[0].error_code));
    }
    let leave = |ids: &[&str]| LeaveGroupRequest {
        group_id: group.clone(),
        members: ids.iter().map(|id| MemberIdentity { member_id: (*id).into(), ..Default::default() }).collect(),
        ..Default::default()
    };
    let told = n.client.call(5, &leave(&["m", &id]));
    n.note("leave", (code(told.error_code), told.members.iter().map(|m| code(m.error_code)).collect::<Vec<_>>()));
    let told = n.client.call(2, &DeleteGroupsRequest { groups_names: vec![group.clone()], ..Default::default() });
    n.note("remove the empty one", code(told.results[0].error_code));
}

fn observe(at: &str) -> Vec<String> {
    let mut notes = Notes::topics(at);
    batches(&mut notes);
    sequences(&mut notes);
    fetches(&mut notes);
    offsets(&mut notes);
    admin(&mut notes);
    groups(&mut notes);
    let (topic, compacted) = (notes.topic, notes.compacted);
    notes.lines.iter().map(|line| line.replace(&topic, "TOPIC").replace(&compacted, "COMPACTED")).collect()
}

#[test]
fn the_embedded_broker_answers_as_kafka_does() {
    let broker = Broker::builder().start().unwrap();
    let ours = observe(&broker.bootstrap());
    assert!(ours.len() > 180, "{} questions", ours.len());
    let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP") else { return };
    let theirs = observe(bootstrap.split(',').next().unwrap());
    let differ: Vec<String> = ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("  ours  {ours}\n  Kafka {theirs}"))
        .collect();
    assert!(
        differ.is_empty() && ours.len() == theirs.len(),
        "{} of {} differ:\n{}",
        differ.len(),
        ours.len(),
        differ.join("\n")
    );
}
