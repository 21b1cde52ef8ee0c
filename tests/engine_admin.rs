//! Engine, control and admin against the embedded broker, over TCP.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::cell::Cell;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use ottla::admin::{AdminError, NewTopic, OffsetSpec};
use ottla::config::{BackendSetting, EngineSettings, IsolationLevel};
use ottla::engine::Engine;
use ottla::testkit::broker::{Broker, Control, Reaction, Rule};
use ottla::wire::messages::api_versions::response::ApiVersion;
use ottla::wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use ottla::wire::{ApiKey, ErrorCode};

fn settings(servers: &[String]) -> EngineSettings {
    EngineSettings {
        bootstrap_servers: servers.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect(),
        request_timeout: Duration::from_secs(5),
        default_api_timeout: Duration::from_secs(20),
        metadata_propagation_max: Duration::from_millis(300),
        ..Default::default()
    }
}

thread_local! {
    static BACKEND: Cell<BackendSetting> = const { Cell::new(BackendSetting::Epoll) };
}

/// Runs a test on epoll and on what this machine prefers.
fn on_both(test: impl Fn()) {
    for backend in [BackendSetting::Epoll, BackendSetting::Auto] {
        BACKEND.set(backend);
        test();
    }
}

fn engine_with(settings: EngineSettings) -> Engine {
    Engine::builder().settings(settings).backend(BACKEND.get()).build().unwrap()
}

fn engine(broker: &Broker) -> Engine {
    engine_with(settings(&[broker.bootstrap()]))
}

/// An address where nobody listens.
fn refused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn close(engine: &Engine) {
    engine.close(Duration::from_secs(5)).unwrap();
}

fn partitions(engine: &Engine, topic: &str) -> usize {
    let mut topics = engine.admin().describe_topics([topic]).wait().unwrap();
    topics.remove(0).1.unwrap().partitions.len()
}

#[test]
fn topics_are_created_described_grown_listed_and_deleted() {
    on_both(|| {
        let broker = Broker::builder().brokers(3).start().unwrap();
        let engine = engine(&broker);
        let admin = engine.admin();
        let new = || NewTopic::new("orders", 4).replication(2).config("cleanup.policy", "compact");
        let created = admin.create_topics([new(), new()], false).wait().unwrap();
        assert_eq!(created.len(), 1, "asked for twice, created once");
        let orders = created[0].1.as_ref().unwrap();
        assert_eq!((orders.name.as_str(), orders.partitions, orders.replication), ("orders", 4, 2));
        assert!(!orders.id.is_zero());

        let again = admin.create_topics([new(), NewTopic::new("bad name", 1)], false).wait().unwrap();
        let codes: Vec<_> = again.iter().map(|(_, outcome)| outcome.as_ref().unwrap_err().code().unwrap()).collect();
        assert_eq!(codes, [ErrorCode::TopicAlreadyExists, ErrorCode::InvalidTopicException]);

        assert!(admin.create_topics([NewTopic::new("maybe", 1)], true).wait().unwrap()[0].1.is_ok());
        let described = admin.describe_topics(["maybe", "orders"]).wait().unwrap();
        let missing = described[0].1.as_ref().unwrap_err();
        assert_eq!(missing.code(), Some(ErrorCode::UnknownTopicOrPartition));
        let info = described[1].1.as_ref().unwrap();
        assert_eq!((info.id, info.partitions.len(), info.internal), (orders.id, 4, false));
        assert!(info.partitions.iter().zip(0..).all(|(partition, index)| {
            partition.index == index && partition.leader.is_some() && partition.replicas.len() == 2
        }));

        admin.create_partitions([("orders", 6)], false).wait().unwrap().remove(0).1.unwrap();
        assert_eq!(partitions(&engine, "orders"), 6);
        let shrunk = admin.create_partitions([("orders", 2)], false).wait().unwrap().remove(0).1.unwrap_err();
        assert_eq!(shrunk.code(), Some(ErrorCode::InvalidPartitions), "{shrunk}");

        let names: Vec<String> = admin.list_topics().wait().unwrap().into_iter().map(|topic| topic.name).collect();
        assert_eq!(names, ["orders"]);
        let deleted = admin.delete_topics(["orders", "nope", "orders"]).wait().unwrap();
        assert!(deleted[0].1.is_ok() && deleted.len() == 2);
        assert_eq!(deleted[1].1.as_ref().unwrap_err().code(), Some(ErrorCode::UnknownTopicOrPartition));
        assert!(admin.list_topics().wait().unwrap().is_empty());

        let cluster = admin.describe_cluster().wait().unwrap();
        assert_eq!(cluster.brokers.len(), 3);
        assert!(cluster.id.is_some() && cluster.controller.is_some());
        close(&engine);
    });
}

#[test]
fn k_64_software_name_and_version_are_told_to_the_broker() {
    let broker = Broker::builder().start().unwrap();
    let engine = engine(&broker);
    engine.admin().describe_cluster().wait().unwrap();
    let counters = broker.counters();
    let first = counters.connection(0).or_else(|| counters.connection(1)).unwrap();
    assert!(first.software.contains("ottla") && first.software.contains(env!("CARGO_PKG_VERSION")), "{first:?}");
    assert_eq!(first.client_id, "ottla");
    close(&engine);
}

#[test]
fn k_57_bootstrap_servers_are_tried_in_order_until_one_answers() {
    on_both(|| {
        let broker = Broker::builder().topic("t", 2).start().unwrap();
        let engine = engine_with(settings(&[refused(), refused(), broker.bootstrap()]));
        let topic = engine.topic_info("t", Duration::from_secs(10)).unwrap();
        assert_eq!(topic.partition_count(), 2);
        close(&engine);
    });
}

#[test]
fn a_bootstrap_server_that_is_no_broker_is_passed_over() {
    // A controller's listener knows ApiVersions, but no Metadata.
    let controller = Broker::builder().start().unwrap();
    controller.control(|_, _: &ApiVersionsRequest| {
        let only = ApiVersion { api_key: 18, min_version: 0, max_version: 4, ..Default::default() };
        Some(Control::Answer(ApiVersionsResponse { api_keys: vec![only], ..Default::default() }))
    });
    let broker = Broker::builder().topic("t", 2).start().unwrap();
    let engine = engine_with(settings(&[controller.bootstrap(), broker.bootstrap()]));
    assert_eq!(engine.topic_info("t", Duration::from_secs(10)).unwrap().partition_count(), 2);
    assert_eq!(partitions(&engine, "t"), 2);
    close(&engine);
    // Alone it leads nowhere, and that is said in time.
    let engine = engine_with(settings(&[controller.bootstrap()]));
    let started = Instant::now();
    let error = engine.admin().timeout(Duration::from_secs(1)).list_topics().wait().unwrap_err();
    assert!(error.to_string().contains("has no Metadata"), "{error}");
    assert!(started.elapsed() < Duration::from_millis(1_900), "{:?}", started.elapsed());
    close(&engine);
}

#[test]
fn d1_16_a_topic_that_does_not_exist_fails_with_its_code_after_the_time_creation_may_take() {
    let broker = Broker::builder().start().unwrap();
    let engine = engine(&broker);
    let started = Instant::now();
    let topic = engine.topic_info("nowhere", Duration::from_secs(10)).unwrap();
    let state = ottla::proto::cluster::TopicState::Failed(ErrorCode::UnknownTopicOrPartition);
    assert_eq!((topic.state, topic.partition_count()), (state, 0));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(engine.topic_info("no spaces", Duration::from_secs(1)).is_err());
    close(&engine);
}

#[test]
fn offsets_are_listed_from_the_leaders_and_a_moved_leader_is_found() {
    on_both(|| {
        let broker = Broker::builder().brokers(3).start().unwrap();
        let engine = engine(&broker);
        let admin = engine.admin();
        admin.create_topics([NewTopic::new("t", 3).replication(3)], false).wait().unwrap().remove(0).1.unwrap();
        let ask = || {
            let wanted = [("t", 0, OffsetSpec::Earliest), ("t", 1, OffsetSpec::Latest), ("t", 2, OffsetSpec::At(5))];
            admin.list_offsets(wanted, IsolationLevel::ReadCommitted).wait().unwrap()
        };
        let offsets: Vec<_> = ask().into_iter().map(|(_, outcome)| outcome.unwrap().offset).collect();
        assert_eq!(offsets, [Some(0), Some(0), None]);
        // A leader that does not know yet that it leads sends us back once.
        let rule =
            broker.rule(Rule::new(Reaction::Error(ErrorCode::NotLeaderOrFollower)).api(ApiKey::ListOffsets).times(1));
        assert!(ask().iter().all(|(_, outcome)| outcome.is_ok()));
        assert_eq!(broker.remove_rule(rule), Some(1));

        let wrong =
            admin.list_offsets([("t", 9, OffsetSpec::Latest), ("x", 0, OffsetSpec::Latest)], Default::default());
        for (subject, outcome) in wrong.wait().unwrap() {
            assert_eq!(outcome.unwrap_err().code(), Some(ErrorCode::UnknownTopicOrPartition), "{subject:?}");
        }
        close(&engine);
    });
}

#[test]
fn d4_86_a_moved_controller_and_a_quota_are_waited_out() {
    let broker = Broker::builder().start().unwrap();
    let engine = engine(&broker);
    let moved = broker.rule(Rule::new(Reaction::Error(ErrorCode::NotController)).api(ApiKey::CreateTopics).times(2));
    engine.admin().create_topics([NewTopic::new("a", 1)], false).wait().unwrap().remove(0).1.unwrap();
    assert_eq!(broker.remove_rule(moved), Some(2));
    let quota = Rule::new(Reaction::Error(ErrorCode::ThrottlingQuotaExceeded)).api(ApiKey::CreateTopics).times(2);
    let quota = broker.rule(quota);
    engine.admin().create_topics([NewTopic::new("b", 1)], false).wait().unwrap().remove(0).1.unwrap();
    assert_eq!(broker.remove_rule(quota), Some(2));
    close(&engine);
}

#[test]
fn d4_85_answers_that_lie_end_the_connection_and_the_call_is_made_again() {
    on_both(|| {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        // A length that a flipped bit makes 16 MiB larger is refused at once, not waited for.
        let engine =
            engine_with(EngineSettings { receive_message_max_bytes: 1 << 20, ..settings(&[broker.bootstrap()]) });
        let faults = [
            Reaction::WrongCorrelation,
            Reaction::Truncate(20),
            Reaction::FlipBit(0),
            Reaction::DropBefore,
            Reaction::DropAfter,
        ];
        engine.admin().list_topics().wait().unwrap();
        for fault in faults {
            let rule = broker.rule(Rule::new(fault.clone()).api(ApiKey::Metadata).times(1));
            assert_eq!(engine.admin().list_topics().wait().unwrap().len(), 1, "{fault:?}");
            assert_eq!(broker.remove_rule(rule), Some(1), "{fault:?}");
        }
        close(&engine);
    });
}

#[test]
fn d4_72_a_broker_that_drops_new_api_versions_is_asked_in_version_0() {
    on_both(|| {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let rule = broker.rule(Rule::new(Reaction::DropBefore).api(ApiKey::ApiVersions).times(2));
        let engine = engine(&broker);
        assert_eq!(partitions(&engine, "t"), 1);
        assert_eq!(broker.remove_rule(rule), Some(2));
        let versions = &broker.counters().apis[&(ApiKey::ApiVersions as i16)].versions;
        assert!(versions.contains_key(&0), "{versions:?}");
        close(&engine);
    });
}

#[test]
fn d4_75_brokers_on_new_addresses_are_found_through_the_bootstrap_servers() {
    on_both(|| {
        let old = Broker::builder().topic("t", 1).start().unwrap();
        let new = Broker::builder().topic("t", 2).start().unwrap();
        let engine = engine_with(settings(&[old.bootstrap(), new.bootstrap()]));
        assert_eq!(partitions(&engine, "t"), 1);
        // The whole old cluster is gone; the second bootstrap name leads to where it is now.
        drop(old);
        assert_eq!(partitions(&engine, "t"), 2);
        close(&engine);
    });
}

#[test]
fn d4_77_an_http_server_is_named_as_what_it_is() {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut some = [0; 64];
            match stream.read(&mut some) {
                Ok(n) if n > 4 => drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
                _ => return,
            }
        }
    });
    let engine = engine_with(settings(std::slice::from_ref(&address)));
    let error = engine.admin().timeout(Duration::from_secs(1)).list_topics().wait().unwrap_err();
    assert!(error.to_string().contains("HTTP"), "{error}");
    close(&engine);
    drop(std::net::TcpStream::connect(address));
    server.join().unwrap();
}

#[test]
fn p_06_close_returns_in_time_with_a_silent_broker_and_ends_every_call() {
    on_both(|| {
        let broker = Broker::builder().start().unwrap();
        broker.rule(Rule::new(Reaction::BlackHole));
        let engine = engine(&broker);
        let call = engine.admin().list_topics();
        let started = Instant::now();
        engine.close(Duration::from_millis(200)).unwrap();
        assert!(started.elapsed() < Duration::from_millis(1000), "{:?}", started.elapsed());
        let error = call.wait().unwrap_err();
        assert!(matches!(error, AdminError::Job(ottla::control::JobError::Closed)), "{error}");
        assert!(engine.admin().list_topics().wait().is_err(), "after the close nothing hangs");
        assert!(engine.topic("new").is_err());
    });
}

#[test]
fn dropping_the_last_handle_stops_the_threads() {
    on_both(|| {
        let broker = Broker::builder().start().unwrap();
        let engine = engine(&broker);
        engine.admin().list_topics().wait().unwrap();
        let other = engine.clone();
        drop(engine);
        other.admin().list_topics().wait().unwrap();
        drop(other);
        let gone = broker.wait_until(Duration::from_secs(10), |core| core.counters().connections_open == 0);
        assert!(gone, "control closes its connections when nobody holds the engine");
    });
}

#[test]
fn wrong_settings_are_named_before_a_thread_starts() {
    let broken =
        |servers: &[&str]| Engine::builder().bootstrap(servers.iter().copied()).build().unwrap_err().to_string();
    assert!(broken(&[]).contains("bootstrap.servers"));
    assert!(broken(&["host"]).contains("bootstrap.servers"));
    assert!(broken(&["::1:9092"]).contains("brackets"));
    assert!(broken(&["a:1,,b:2"]).contains("entry 2"));
}
