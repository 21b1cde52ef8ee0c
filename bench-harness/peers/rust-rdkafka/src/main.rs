//! One phase of a bench through rust-rdkafka (librdkafka 2.12.1 built by its crate): `ThreadedProducer` with a linger,
//! `BaseConsumer::poll` with a long local queue, as its documentation recommends.

#[path = "../../common.rs"]
mod common;
#[path = "../../../src/workload.rs"]
mod workload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{ACK_SAMPLE, Job, Meter, Told, sum_of};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use serde_json::{Value, json};
use workload::Content;

type Failure = Box<dyn std::error::Error>;

/// What came back.
#[derive(Default)]
struct Outcomes {
    acked: AtomicU64,
    failed: AtomicU64,
    acks_us: Mutex<Vec<u64>>,
}

#[derive(Clone)]
struct Context {
    outcomes: Arc<Outcomes>,
    start: Instant,
}

impl ClientContext for Context {}

impl ProducerContext for Context {
    /// Microseconds from the start to when the record was sent, or due; 0 where it is not timed. (A box for each record would
    /// be one more allocation.)
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sent_us: usize) {
        if result.is_err() {
            self.outcomes.failed.fetch_add(1, Ordering::Relaxed);
        }
        if sent_us > 0 {
            let took = (self.start.elapsed().as_micros() as u64).saturating_sub(sent_us as u64);
            self.outcomes.acks_us.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        }
        self.outcomes.acked.fetch_add(1, Ordering::Release);
    }
}

fn main() -> Result<(), Failure> {
    let job = Job::read()?;
    let linger = job.linger.as_millis().to_string();
    let settings: &[(&str, &str)] = if job.produces {
        &[
            ("linger.ms", &linger),
            ("batch.size", "1000000"),
            ("batch.num.messages", "10000"),
            ("compression.type", &job.compression),
            ("enable.idempotence", "true"),
            ("acks", "all"),
        ]
    } else {
        // Nobody joins this group: partitions are assigned by hand.
        &[
            ("group.id", "bench"),
            ("enable.auto.commit", "false"),
            ("queued.min.messages", "1000000"),
            ("fetch.queue.backoff.ms", "1"),
            ("check.crcs", "true"),
        ]
    };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &job.bootstrap);
    let mut all =
        json!({"peer": "rust-rdkafka", "version": "0.39.0", "librdkafka": rdkafka::util::get_rdkafka_version().1});
    for (name, value) in settings {
        config.set(*name, *value);
        all[*name] = Value::from(*value);
    }
    let meter = Meter::start();
    let told = if job.produces { produce(&job, &config)? } else { consume(&job, &config)? };
    meter.report(&job, all, told);
    Ok(())
}

fn produce(job: &Job, config: &ClientConfig) -> Result<Told, Failure> {
    let (start, outcomes) = (Instant::now(), Arc::new(Outcomes::default()));
    let context = Context { outcomes: Arc::clone(&outcomes), start };
    let producer: ThreadedProducer<Context> = config.create_with_context(context)?;
    let acked = || outcomes.acked.load(Ordering::Acquire);
    let mut made = Content::default();
    for index in 0..job.messages {
        let due = job.due(start, index);
        while let Some(left) =
            due.map(|due| due.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
        {
            std::thread::sleep(left);
        }
        let content = job.content(index, &mut made);
        let timed = due.is_some() || job.waited || index % ACK_SAMPLE == 0;
        let sent = due.unwrap_or_else(Instant::now).saturating_duration_since(start).as_micros() as usize;
        let sent_us = if timed { sent.max(1) } else { 0 };
        let mut record = BaseRecord::with_opaque_to(&job.topic, sent_us).payload(&content.value);
        record = record.timestamp(job.timestamp(index));
        if !content.key.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(3);
            for (name, value) in content.headers() {
                headers = headers.insert(Header { key: std::str::from_utf8(name)?, value: Some(value) });
            }
            record = record.key(&content.key).headers(headers);
        }
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(1));
            record = back;
        }
        while job.waited && acked() <= index {
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    producer.flush(Duration::from_secs(600))?;
    // Its thread may still be telling.
    while acked() < job.messages {
        std::thread::sleep(Duration::from_millis(1));
    }
    let failed = outcomes.failed.load(Ordering::Relaxed);
    if failed > 0 {
        return Err(format!("{failed} records failed").into());
    }
    let acks_us = std::mem::take(&mut *outcomes.acks_us.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Told { acks_us, ..Told::default() })
}

fn consume(job: &Job, config: &ClientConfig) -> Result<Told, Failure> {
    let consumer: BaseConsumer = config.create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..job.partitions {
        all.add_partition_offset(&job.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut count, mut sum) = (0, 0u64);
    while count < job.messages {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let headers = headers.map(|header| (header.key.as_bytes(), header.value.unwrap_or_default()));
        let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        sum = sum.wrapping_add(sum_of(key, value, headers));
        count += 1;
    }
    Ok(Told { sum: Some(sum), ..Told::default() })
}
