//! The engine inside the caller's thread against a real Kafka, when there is one: `KAFKA_BOOTSTRAP=host:port`, as
//! `ci/kafka start` prints it.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ottla::admin::NewTopic;
use ottla::config::{BackendSetting, Compression, EngineSettings};
use ottla::consumer::StartAt;
use ottla::engine::LocalEngine;
use ottla::producer::{Losses, Record};

const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: i64 = 30_000;

#[test]
fn records_go_to_kafka_and_back_inside_one_thread_on_both_backends() {
    let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP") else { return };
    for backend in [BackendSetting::Epoll, BackendSetting::Auto] {
        let bootstrap_servers = bootstrap.split(',').map(str::to_owned).collect();
        let settings = EngineSettings { bootstrap_servers, backend, ..Default::default() };
        let engine = LocalEngine::builder().settings(settings).build_local().unwrap();
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let topic = format!("local-{nanos}");
        let created = engine.engine().admin().create_topics([NewTopic::new(&topic, 3)], false).wait().unwrap();
        assert!(created[0].1.is_ok(), "{created:?}");
        let mut producer = engine.producer().compression(Compression::Lz4).build().unwrap();
        let offsets = Arc::new(Mutex::new(Vec::new()));
        for index in 0..RECORDS {
            let (value, offsets) = (index.to_string(), Arc::clone(&offsets));
            let record = Record::to(&topic).partition((index % 3) as i32).value(&value).header("h", "1");
            let told =
                move |result: ottla::producer::DeliveryResult| offsets.lock().unwrap().push(result.unwrap().offset);
            if index % 300 == 0 { producer.send_with(record, told) } else { producer.send(record) }.unwrap();
        }
        assert_eq!(producer.flush(PATIENCE), Ok(Losses { failed: 0, unknown: 0 }));
        let expected: Vec<_> = (0..RECORDS / 300).map(|i| Some(i * 100)).collect();
        assert_eq!(*offsets.lock().unwrap(), expected);
        let from = (0..3).map(|partition| (topic.as_str(), partition, StartAt::Earliest));
        let mut consumer = engine.consumer().assign(from).build().unwrap();
        let mut next = [0, 1, 2];
        while next.iter().any(|index| *index < RECORDS) {
            let batch = consumer.next(PATIENCE).unwrap().expect("a batch in time");
            let index = &mut next[batch.partition() as usize];
            for record in &batch {
                assert_eq!(record.value().unwrap(), index.to_string().as_bytes());
                *index += 3;
            }
        }
        engine.engine().admin().delete_topics([topic.as_str()]).wait().unwrap();
        engine.close(PATIENCE).unwrap();
    }
}
