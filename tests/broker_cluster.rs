//! The embedded broker as a cluster: topics, configuration, nodes that stop and start, counters.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use broker_support::{Batch, Client, Lost, PATIENCE, topic_id};
use ottla::base::ids::Uuid;
use ottla::testkit::broker::{Broker, CloseReason, TopicSpec};
use ottla::wire::ErrorCode;
use ottla::wire::messages::create_topics::request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use ottla::wire::messages::delete_topics::request::DeleteTopicState;
use ottla::wire::messages::describe_configs::request::DescribeConfigsResource;
use ottla::wire::messages::incremental_alter_configs::request::{AlterConfigsResource, AlterableConfig};
use ottla::wire::messages::metadata::request::MetadataRequestTopic;
use ottla::wire::messages::metadata::response::MetadataResponseTopic;
use ottla::wire::messages::offset_for_leader_epoch::request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use ottla::wire::messages::*;

fn code(error_code: i16) -> ErrorCode {
    ErrorCode::from(error_code)
}

fn metadata(client: &mut Client, name: &str) -> MetadataResponseTopic {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..MetadataRequestTopic::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
    client.call(12, &request).topics.remove(0)
}

#[test]
fn topics_are_created_described_grown_and_deleted() {
    let broker = Broker::builder().brokers(3).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let create =
        |topic: CreatableTopic| CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() };
    let plain = |name: &str, partitions: i32, replicas: i16| CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..CreatableTopic::default()
    };
    for version in 2..=7 {
        let name = format!("v{version}");
        let told = client.call(version, &create(plain(&name, 2, 3))).topics.remove(0);
        assert_eq!(told.error_code, 0, "version {version}");
        assert_eq!(
            code(client.call(version, &create(plain(&name, 2, 3))).topics[0].error_code),
            ErrorCode::TopicAlreadyExists
        );
        let seen = metadata(&mut client, &name);
        assert_eq!((seen.partitions.len(), seen.partitions[0].replica_nodes.len()), (2, 3));
    }
    let mut refused = |topic: CreatableTopic| code(client.call(7, &create(topic)).topics[0].error_code);
    assert_eq!(refused(plain("x y", 1, 1)), ErrorCode::InvalidTopicException);
    assert_eq!(refused(plain("x", 0, 1)), ErrorCode::InvalidPartitions);
    assert_eq!(refused(plain("x", 1, 4)), ErrorCode::InvalidReplicationFactor);
    let config = |name: &str, value: &str| CreatableTopicConfig {
        name: name.into(),
        value: Some(value.into()),
        ..Default::default()
    };
    let with_config = |config| CreatableTopic { configs: vec![config], ..plain("x", 1, 1) };
    assert_eq!(refused(with_config(config("max.message.bytes", "huge"))), ErrorCode::InvalidConfig);
    let assigned = |ids: &[i32]| CreatableTopic {
        assignments: vec![CreatableReplicaAssignment {
            partition_index: 0,
            broker_ids: ids.to_vec(),
            ..Default::default()
        }],
        ..plain("placed", -1, -1)
    };
    assert_eq!(refused(assigned(&[7])), ErrorCode::InvalidReplicaAssignment);
    assert_eq!(refused(assigned(&[2, 0])), ErrorCode::None);
    assert_eq!(metadata(&mut client, "placed").partitions[0].leader_id, 2);
    let dry = CreateTopicsRequest { validate_only: true, ..create(plain("dry", 1, 1)) };
    assert_eq!(client.call(7, &dry).topics[0].error_code, 0);
    assert_eq!(code(metadata(&mut client, "dry").error_code), ErrorCode::UnknownTopicOrPartition);
    // By name and, from version 6, by id.
    let by_name = DeleteTopicsRequest { topic_names: vec!["v2".into(), "v2".into()], ..Default::default() };
    let told = client.call(5, &by_name).responses;
    assert_eq!(
        told.iter().map(|t| code(t.error_code)).collect::<Vec<_>>(),
        [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]
    );
    let old_id = topic_id(&broker, "v3");
    let state = DeleteTopicState { name: None, topic_id: old_id, ..Default::default() };
    let by_id = DeleteTopicsRequest { topics: vec![state], ..Default::default() };
    assert_eq!(client.call(6, &by_id).responses[0].name.as_deref(), Some("v3"));
    assert_eq!(code(client.call(6, &by_id).responses[0].error_code), ErrorCode::UnknownTopicId);
    client.call(7, &create(plain("v3", 1, 1)));
    assert_ne!(topic_id(&broker, "v3"), old_id, "created again is another topic");
}

#[test]
fn metadata_creates_when_allowed_and_names_topics_by_id() {
    let broker = Broker::builder().auto_create(true).with(|o| o.default_partitions = 3).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let wanted = MetadataRequestTopic { name: Some("new".into()), ..Default::default() };
    let shy = MetadataRequest { topics: Some(vec![wanted]), allow_auto_topic_creation: false, ..Default::default() };
    for _ in 0..2 {
        assert_eq!(code(client.call(12, &shy).topics[0].error_code), ErrorCode::UnknownTopicOrPartition);
    }
    assert_eq!(
        code(metadata(&mut client, "new").error_code),
        ErrorCode::UnknownTopicOrPartition,
        "it is being created"
    );
    let seen = metadata(&mut client, "new");
    assert_eq!((seen.error_code, seen.partitions.len()), (0, 3));
    let by_id = |id: Uuid| {
        let topic = MetadataRequestTopic { name: None, topic_id: id, ..Default::default() };
        MetadataRequest { topics: Some(vec![topic]), ..Default::default() }
    };
    assert_eq!(client.call(12, &by_id(seen.topic_id)).topics[0].name.as_deref(), Some("new"));
    assert_eq!(code(client.call(12, &by_id(Uuid([9; 16]))).topics[0].error_code), ErrorCode::UnknownTopicId);
    let all = MetadataRequest { topics: None, ..Default::default() };
    assert_eq!(client.call(12, &all).topics.len(), 1);
    let none = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    assert_eq!(client.call(12, &none).topics.len(), 0);
    assert_eq!(client.call(0, &none).topics.len(), 1, "version 0 means all by an empty list");
}

#[test]
fn configs_change_what_the_broker_does() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let set = |name: &str, operation: i8, value: Option<&str>| IncrementalAlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            configs: vec![AlterableConfig {
                name: name.into(),
                config_operation: operation,
                value: value.map(str::to_owned),
                ..AlterableConfig::default()
            }],
            ..AlterConfigsResource::default()
        }],
        ..IncrementalAlterConfigsRequest::default()
    };
    assert_eq!(client.call(1, &set("max.message.bytes", 0, Some("200"))).responses[0].error_code, 0);
    assert_eq!(
        code(client.produce("t", 0, Batch::of(5).values_of(100).bytes()).error_code),
        ErrorCode::MessageTooLarge
    );
    let describe = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            configuration_keys: Some(vec!["max.message.bytes".into(), "cleanup.policy".into()]),
            ..DescribeConfigsResource::default()
        }],
        ..DescribeConfigsRequest::default()
    };
    let told = client.call(4, &describe).results.remove(0).configs;
    let seen: Vec<_> = told.iter().map(|c| (c.name.as_str(), c.value.as_deref().unwrap(), c.config_source)).collect();
    assert_eq!(seen, [("cleanup.policy", "delete", 5), ("max.message.bytes", "200", 1)]);
    assert_eq!(client.call(1, &set("max.message.bytes", 1, None)).responses[0].error_code, 0);
    assert_eq!(client.produce("t", 0, Batch::of(5).values_of(100).bytes()).error_code, 0);
    assert_eq!(client.call(1, &set("cleanup.policy", 2, Some("compact"))).responses[0].error_code, 0);
    let keyless = client.produce("t", 0, Batch::of(1).bytes());
    assert_eq!((code(keyless.error_code), keyless.record_errors.len()), (ErrorCode::InvalidRecord, 1));
    assert_eq!(code(client.call(1, &set("no.such", 0, Some("1"))).responses[0].error_code), ErrorCode::InvalidConfig);
}

#[test]
fn a_stopped_node_refuses_and_its_partitions_move_or_wait() {
    let topics = |builder: ottla::testkit::broker::Builder| {
        builder.topic_with(TopicSpec::new("two", 3).replication(2)).topic("one", 3)
    };
    let broker = topics(Broker::builder().brokers(3)).start().unwrap();
    let mut on_1 = Client::to(&broker, 1);
    on_1.produce("two", 1, Batch::of(2).bytes());
    assert!(broker.stop_node(1));
    assert_eq!(on_1.frame(), Err(Lost::Closed));
    assert!(broker.wait_until(PATIENCE, |core| core.counters().closes.get(&CloseReason::NodeStopped) == Some(&1)));
    let refused = |broker: &Broker| std::net::TcpStream::connect(broker.address(1).unwrap()).is_err();
    // The listener's thread closes it when it is woken, which stop_node did.
    let end = std::time::Instant::now() + PATIENCE;
    while !refused(&broker) {
        assert!(std::time::Instant::now() < end, "still listening");
        std::thread::yield_now();
    }
    let mut on_2 = Client::to(&broker, 2);
    let two = metadata(&mut on_2, "two");
    assert_eq!(
        (two.partitions[1].leader_id, two.partitions[1].leader_epoch, &two.partitions[1].isr_nodes),
        (2, 1, &vec![2])
    );
    assert_eq!(two.partitions[1].offline_replicas, [1]);
    let one = metadata(&mut on_2, "one");
    assert_eq!((one.partitions[1].leader_id, code(one.partitions[1].error_code)), (-1, ErrorCode::LeaderNotAvailable));
    assert_eq!(on_2.produce("two", 1, Batch::of(1).bytes()).base_offset, 2, "the new leader has all records");
    broker.start_node(1).unwrap();
    let one = metadata(&mut on_2, "one");
    assert_eq!((one.partitions[1].leader_id, one.partitions[1].leader_epoch), (1, 2));
    assert_eq!(Client::to(&broker, 1).produce("one", 1, Batch::of(1).bytes()).base_offset, 0);
    let epochs = |epoch: i32| OffsetForLeaderEpochRequest {
        topics: vec![OffsetForLeaderTopic {
            topic: "two".into(),
            partitions: vec![OffsetForLeaderPartition {
                partition: 1,
                leader_epoch: epoch,
                current_leader_epoch: 1,
                ..Default::default()
            }],
            ..OffsetForLeaderTopic::default()
        }],
        ..OffsetForLeaderEpochRequest::default()
    };
    let mut end_of = |epoch: i32| {
        let told = on_2.call(4, &epochs(epoch)).topics.remove(0).partitions.remove(0);
        (told.error_code, told.leader_epoch, told.end_offset)
    };
    assert_eq!([end_of(0), end_of(1), end_of(5)], [(0, 0, 2), (0, 1, 3), (0, -1, -1)]);
}

#[test]
fn counters_tell_apis_connections_and_software() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let hello = ApiVersionsRequest {
        client_software_name: "probe".into(),
        client_software_version: "7".into(),
        ..Default::default()
    };
    client.call(4, &hello);
    client.produce("t", 0, Batch::of(9).bytes());
    client.fetch("t", 0, 0);
    client.fetch("t", 0, 5_000);
    drop(client);
    assert!(broker.wait_until(PATIENCE, |core| core.counters().connections_open == 0));
    let counters = broker.counters();
    assert_eq!((counters.connections_opened, counters.records_appended, counters.batches_appended), (1, 9, 1));
    assert_eq!(
        (counters.requests(ottla::wire::ApiKey::Fetch), counters.errors_of(ErrorCode::OffsetOutOfRange)),
        (2, 1)
    );
    let conn = &counters.connections[0];
    assert_eq!(
        (conn.client_id.as_str(), conn.software.as_str(), conn.closed),
        ("test", "probe 7", Some(CloseReason::Client))
    );
    assert_eq!(conn.requests.iter().map(|(api, count)| (*api, *count)).collect::<Vec<_>>(), [(0, 1), (1, 2), (18, 1)]);
}

#[test]
fn two_brokers_of_one_process_do_not_meet() {
    let (a, b) = (Broker::builder().topic("a", 1).start().unwrap(), Broker::builder().topic("b", 1).start().unwrap());
    assert_ne!(a.bootstrap(), b.bootstrap());
    assert_eq!(code(metadata(&mut Client::to(&b, 0), "a").error_code), ErrorCode::UnknownTopicOrPartition);
    let address = a.address(0).unwrap();
    drop(a);
    assert!(std::net::TcpStream::connect(address).is_err(), "a dropped broker no longer listens");
}
