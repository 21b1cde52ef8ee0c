//! One phase of a bench through rust-rdkafka (librdkafka 2.12.1 built by its crate): `ThreadedProducer` with a linger,
//! `BaseConsumer::poll` with a long local queue, as its documentation recommends. Whoever waits for one record is woken by the
//! delivery callback, as its `FutureProducer` does it; `BaseProducer::poll` would wait out its time in every case.

#[path = "../../common.rs"]
mod common;
mod klife;
#[path = "../../../src/workload.rs"]
mod workload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use common::{Acks, Job, Meter, Mode, Told, sum_of};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use serde_json::{Value, json};
use workload::Content;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What librdkafka is asked for its value of, set or not.
const PRODUCER_SETTINGS: &[&str] = &[
    "linger.ms",
    "batch.size",
    "batch.num.messages",
    "compression.codec",
    "enable.idempotence",
    "request.required.acks",
    "max.in.flight.requests.per.connection",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "message.timeout.ms",
    "partitioner",
    "socket.nagle.disable",
];
const CONSUMER_SETTINGS: &[&str] = &[
    "group.id",
    "enable.auto.commit",
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "fetch.max.bytes",
    "max.partition.fetch.bytes",
    "check.crcs",
    "socket.nagle.disable",
];

/// What came back.
struct Outcomes {
    acked: AtomicU64,
    failed: AtomicU64,
    acks: Mutex<Acks>,
}

impl Outcomes {
    fn new() -> Result<Self, Failure> {
        Ok(Self { acked: AtomicU64::new(0), failed: AtomicU64::new(0), acks: Mutex::new(Acks::new()?) })
    }

    /// Once all is acknowledged.
    fn told(&self) -> Result<Told, Failure> {
        let failed = self.failed.load(Ordering::Relaxed);
        if failed > 0 {
            return Err(format!("{failed} records failed").into());
        }
        let acks = std::mem::replace(&mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner), Acks::new()?);
        Ok(Told { messages: Some(self.acked.load(Ordering::Acquire)), acks: Some(acks), ..Told::default() })
    }
}

#[derive(Clone)]
struct Context {
    outcomes: Arc<Outcomes>,
    start: Instant,
    /// Who waits for each record.
    waits: Option<Thread>,
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
            let took = self.start.elapsed().saturating_sub(Duration::from_micros(sent_us as u64));
            self.outcomes.acks.lock().unwrap_or_else(PoisonError::into_inner).add(took);
        }
        self.outcomes.acked.fetch_add(1, Ordering::Release);
        if let Some(thread) = &self.waits {
            thread.unpark();
        }
    }
}

fn main() -> Result<(), Failure> {
    let job = Job::read()?;
    let meter = Meter::start();
    let told = match (job.produces, job.mode) {
        (false, _) => consume(&job)?,
        (true, Mode::Mixed) => std::thread::scope(|scope| {
            let reader = scope.spawn(|| consume(&job));
            let sent = produce(&job)?;
            let read = reader.join().map_err(|_| "the reader panicked")??;
            Ok::<_, Failure>(Told { sum: read.sum, ..sent })
        })?,
        (true, Mode::KlifeSync(workers)) => klife::sync(&job, workers)?,
        (true, Mode::KlifeAsync(tasks)) => klife::tasks(&job, tasks)?,
        (true, _) => produce(&job)?,
    };
    let cost = meter.end();
    let mut all = json!({"peer": "rust-rdkafka", "version": "0.39.0", "assignment": "manual",
        "librdkafka": rdkafka::util::get_rdkafka_version().1});
    effective(&mut all, &producer_config(&job), job.produces.then_some(PRODUCER_SETTINGS))?;
    let reads = !job.produces || job.mode == Mode::Mixed;
    effective(&mut all, &consumer_config(&job), reads.then_some(CONSUMER_SETTINGS))?;
    cost.report(&job, all, told);
    Ok(())
}

fn effective(all: &mut Value, config: &ClientConfig, names: Option<&[&str]>) -> Result<(), Failure> {
    let config = config.create_native_config()?;
    for name in names.unwrap_or_default() {
        all[*name] = Value::from(config.get(name)?);
    }
    Ok(())
}

fn producer_config(job: &Job) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &job.bootstrap)
        .set("linger.ms", job.linger.as_millis().to_string())
        .set("batch.size", job.batch_size.to_string())
        .set("batch.num.messages", "10000")
        .set("compression.type", &job.compression)
        .set("enable.idempotence", "true")
        .set("acks", "all");
    if let Some(most) = job.in_flight {
        config.set("max.in.flight.requests.per.connection", most.to_string());
    }
    config
}

fn consumer_config(job: &Job) -> ClientConfig {
    let mut config = ClientConfig::new();
    // Nobody joins this group: partitions are assigned by hand.
    config
        .set("bootstrap.servers", &job.bootstrap)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("queued.min.messages", "1000000")
        .set("fetch.queue.backoff.ms", "1")
        .set("check.crcs", "true")
        .set("enable.partition.eof", job.catches_up().to_string());
    config
}

/// The producer's queue has room for it again at some time.
fn send<'a, C>(producer: &ThreadedProducer<C>, mut record: BaseRecord<'a, [u8], [u8], usize>) -> Result<(), Failure>
where
    C: ProducerContext<DeliveryOpaque = usize> + 'static,
{
    while let Err((error, back)) = producer.send(record) {
        if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(1));
        record = back;
    }
    Ok(())
}

/// Record `index`, with what its delivery is told.
fn record<'a>(
    job: &'a Job,
    index: u64,
    made: &'a mut Content,
    sent_us: usize,
) -> Result<BaseRecord<'a, [u8], [u8], usize>, Failure> {
    let content = job.content(index, made);
    let record = BaseRecord::with_opaque_to(&job.topic, sent_us).payload(content.value.as_slice());
    let record = record.timestamp(job.timestamp(index));
    if content.key.is_empty() {
        return Ok(record);
    }
    let mut headers = OwnedHeaders::new_with_capacity(3);
    for (name, value) in content.headers() {
        headers = headers.insert(Header { key: std::str::from_utf8(name)?, value: Some(value) });
    }
    Ok(record.key(content.key.as_slice()).headers(headers))
}

fn produce(job: &Job) -> Result<Told, Failure> {
    let (start, outcomes) = (Instant::now(), Arc::new(Outcomes::new()?));
    let waits = job.waited.then(std::thread::current);
    let context = Context { outcomes: Arc::clone(&outcomes), start, waits };
    let producer: ThreadedProducer<Context> = producer_config(job).create_with_context(context)?;
    let acked = || outcomes.acked.load(Ordering::Acquire);
    let mut made = Content::default();
    for index in 0..job.messages {
        let due = job.due(start, index);
        while let Some(left) =
            due.map(|due| due.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
        {
            std::thread::sleep(left);
        }
        let sent = due.unwrap_or_else(Instant::now).saturating_duration_since(start).as_micros() as usize;
        let sent_us = if job.times(index) { sent.max(1) } else { 0 };
        send(&producer, record(job, index, &mut made, sent_us)?)?;
        while job.waited && acked() <= index {
            std::thread::park();
        }
    }
    producer.flush(Duration::from_secs(600))?;
    // Its thread may still be telling.
    while acked() < job.messages {
        std::thread::sleep(Duration::from_millis(1));
    }
    outcomes.told()
}

fn consume(job: &Job) -> Result<Told, Failure> {
    let consumer: BaseConsumer = consumer_config(job).create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..job.partitions {
        all.add_partition_offset(&job.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut count, mut sum) = (0, 0u64);
    // To catch up is to have stood at the end of every partition; all of them hold records at the start.
    let mut behind = vec![job.catches_up(); job.partitions as usize];
    while count < job.messages || behind.contains(&true) {
        let message = match consumer.poll(Duration::from_secs(1)) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                if let Some(behind) = behind.get_mut(partition as usize) {
                    *behind = false;
                }
                continue;
            }
            Some(message) => message?,
        };
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let headers = headers.map(|header| (header.key.as_bytes(), header.value.unwrap_or_default()));
        let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        sum = sum.wrapping_add(sum_of(key, value, headers));
        count += 1;
    }
    Ok(Told { messages: job.catches_up().then_some(count), sum: Some(sum), ..Told::default() })
}
