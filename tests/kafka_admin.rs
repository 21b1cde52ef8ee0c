//! The admin client against a real Kafka, when there is one: `KAFKA_BOOTSTRAP=host:port`, as `ci/kafka start` prints it.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla::admin::{NewTopic, OffsetSpec};
use ottla::config::{BackendSetting, IsolationLevel};
use ottla::engine::Engine;
use ottla::producer::Record;
use ottla::wire::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn topics_and_offsets_of_a_real_kafka() {
    let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP") else { return };
    for backend in [BackendSetting::Epoll, BackendSetting::Auto] {
        let engine = Engine::builder().bootstrap([bootstrap.clone()]).backend(backend).build().unwrap();
        let admin = engine.admin().timeout(PATIENCE);
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let name = format!("admin-{stamp}");

        let new = || NewTopic::new(name.as_str(), 3).replication(1).config("retention.ms", "86400000");
        assert!(admin.create_topics([new()], true).wait().unwrap()[0].1.is_ok());
        let created = admin.create_topics([new()], false).wait().unwrap().remove(0).1.unwrap();
        assert_eq!((created.partitions, created.replication, created.id.is_zero()), (3, 1, false));
        let again = admin.create_topics([new(), NewTopic::new("no/such", 1)], false).wait().unwrap();
        let codes: Vec<_> = again.iter().map(|(_, outcome)| outcome.as_ref().unwrap_err().code().unwrap()).collect();
        assert_eq!(codes, [ErrorCode::TopicAlreadyExists, ErrorCode::InvalidTopicException]);

        let known = engine.topic_info(&name, PATIENCE).unwrap();
        assert_eq!((known.partition_count(), known.id), (3, created.id));
        let described = admin.describe_topics([name.clone(), format!("{name}-not")]).wait().unwrap();
        assert_eq!(described[0].1.as_ref().unwrap().id, created.id);
        let missing = described[1].1.as_ref().unwrap_err();
        assert_eq!(missing.code(), Some(ErrorCode::UnknownTopicOrPartition));

        let producer = engine.producer().build().unwrap();
        for nth in 0..10i64 {
            producer.send(Record::to(name.as_str()).partition(1).value("x").timestamp(1_000 + nth)).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        let wanted = [OffsetSpec::Earliest, OffsetSpec::Latest, OffsetSpec::At(1_004), OffsetSpec::MaxTimestamp];
        for (spec, offset) in wanted.into_iter().zip([0, 10, 4, 9]) {
            let mut listed =
                admin.list_offsets([(name.as_str(), 1, spec)], IsolationLevel::ReadCommitted).wait().unwrap();
            assert_eq!(listed.remove(0).1.unwrap().offset, Some(offset), "{spec:?}");
        }
        let late = admin.list_offsets([(name.as_str(), 1, OffsetSpec::At(9_000))], IsolationLevel::ReadUncommitted);
        assert_eq!(late.wait().unwrap().remove(0).1.unwrap().offset, None);

        admin.create_partitions([(name.as_str(), 5)], false).wait().unwrap().remove(0).1.unwrap();
        assert!(
            admin.list_topics().wait().unwrap().iter().any(|topic| topic.name == name && topic.partitions.len() == 5)
        );
        admin.delete_topics([name.as_str()]).wait().unwrap().remove(0).1.unwrap();
        let cluster = admin.describe_cluster().wait().unwrap();
        assert!(cluster.id.is_some() && !cluster.brokers.is_empty());
        engine.close(PATIENCE).unwrap();
    }
}
