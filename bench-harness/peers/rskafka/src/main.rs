//! One phase of a bench through rskafka, pure Rust on Tokio's current-thread runtime. It leaves making batches to its caller:
//! here of at most `-batch-size` bytes before compression (some 3,700 telemetry records) or after the linger, five under way
//! at once. It has no idempotence, so a batch sent again may be twice in the log, and keys place nothing: partitions are
//! chosen by hash of the index. Reading is its stream of records, one per partition.

#[path = "../../common.rs"]
mod common;
#[path = "../../../src/workload.rs"]
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::DateTime;
use common::{Acks, Job, Meter, Told, sum_of};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use rskafka::client::consumer::{StartOffset, StreamConsumerBuilder};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use serde_json::json;
use tokio::task::JoinSet;
use workload::{Content, klife_partition};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Batches under way, where `-in-flight` says nothing.
const IN_FLIGHT: u64 = 5;
/// Bytes of a fetch: with its own 50 MiB every record of some 800,000 is in memory at once, a gigabyte.
const FETCH_BYTES_MAX: i32 = 8 << 20;
/// What a record takes in a batch beside its bytes, about.
const RECORD_OVERHEAD: usize = 7;

fn main() -> Result<(), Failure> {
    let job = Job::read()?.without_klife()?;
    let meter = Meter::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(async { if job.produces { produce(&job).await } else { consume(&job).await } })?;
    let cost = meter.end();
    let mut settings =
        json!({"peer": "rskafka", "version": "0.6.0", "runtime": "current_thread", "idempotence": false});
    if job.produces {
        settings["acks"] = json!("all");
        settings["linger_ms"] = json!(job.linger.as_millis() as u64);
        settings["batch_size"] = json!(job.batch_size);
        settings["in_flight"] = json!(job.in_flight.unwrap_or(IN_FLIGHT));
        settings["compression"] = json!(job.compression);
        settings["partitioner"] = json!("splitmix64 of the index");
    } else {
        settings["assignment"] = json!("manual");
        settings["max_batch_size"] = json!(FETCH_BYTES_MAX);
        // Its defaults.
        settings["min_batch_size"] = json!(1);
        settings["max_wait_ms"] = json!(500);
    }
    cost.report(&job, settings, told);
    Ok(())
}

/// One client for each partition.
async fn partitions(job: &Job) -> Result<Vec<Arc<PartitionClient>>, Failure> {
    let brokers = job.bootstrap.split(',').map(str::to_owned).collect();
    let client: Client = ClientBuilder::new(brokers).client_id("bench").build().await?;
    let mut all = Vec::new();
    for partition in 0..job.partitions {
        let client = client.partition_client(job.topic.as_str(), partition, UnknownTopicHandling::Retry).await?;
        all.push(Arc::new(client));
    }
    Ok(all)
}

/// What gathers for one partition.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    bytes: usize,
    /// When its timed records were sent, or due.
    since: Vec<Instant>,
}

/// All that is gathered or under way.
struct Sender {
    partitions: Vec<(Arc<PartitionClient>, Batch)>,
    compression: Compression,
    in_flight: usize,
    under_way: JoinSet<Result<Vec<Instant>, rskafka::client::error::Error>>,
    acks: Acks,
    batches: u64,
}

impl Sender {
    /// Sends what is gathered for a partition, once there is room.
    async fn seal(&mut self, partition: usize) -> Result<(), Failure> {
        let (client, batch) = &mut self.partitions[partition];
        if batch.records.is_empty() {
            return Ok(());
        }
        let (Batch { records, since, .. }, client) = (std::mem::take(batch), Arc::clone(client));
        batch.records.reserve(records.len());
        let compression = self.compression;
        while self.under_way.len() >= self.in_flight {
            self.settle().await?;
        }
        self.batches += 1;
        self.under_way.spawn(async move { client.produce(records, compression).await.map(|_| since) });
        // It starts to run only when this gives way.
        tokio::task::yield_now().await;
        while let Some(outcome) = self.under_way.try_join_next() {
            self.note(outcome??);
        }
        Ok(())
    }

    /// Waits for one outcome.
    async fn settle(&mut self) -> Result<(), Failure> {
        if let Some(outcome) = self.under_way.join_next().await {
            self.note(outcome??);
        }
        Ok(())
    }

    fn note(&mut self, since: Vec<Instant>) {
        since.iter().for_each(|since| self.acks.add(since.elapsed()));
    }

    async fn seal_all(&mut self) -> Result<(), Failure> {
        for partition in 0..self.partitions.len() {
            self.seal(partition).await?;
        }
        Ok(())
    }
}

async fn produce(job: &Job) -> Result<Told, Failure> {
    let mut sender = Sender {
        partitions: partitions(job).await?.into_iter().map(|client| (client, Batch::default())).collect(),
        compression: if job.compression == "lz4" { Compression::Lz4 } else { Compression::NoCompression },
        in_flight: job.in_flight.unwrap_or(IN_FLIGHT) as usize,
        under_way: JoinSet::new(),
        acks: Acks::new()?,
        batches: 0,
    };
    let (mut made, start) = (Content::default(), Instant::now());
    let mut sealed = start;
    for index in 0..job.messages {
        let due = job.due(start, index);
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        // All batches linger together: who gathers for less than the linger waits less.
        if (due.is_some() || index % 64 == 0) && sealed.elapsed() >= job.linger {
            sender.seal_all().await?;
            sealed = Instant::now();
        }
        let content = job.content(index, &mut made);
        let headers = content.headers();
        let headers = headers.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()));
        let record = Record {
            key: (!content.key.is_empty()).then(|| content.key.clone()),
            value: Some(content.value.clone()),
            headers: headers.collect(),
            timestamp: DateTime::from_timestamp_millis(job.timestamp(index)).unwrap_or_default(),
        };
        let size = record.approximate_size() + RECORD_OVERHEAD;
        let partition = klife_partition(index, job.partitions) as usize;
        if sender.partitions[partition].1.bytes + size > job.batch_size as usize {
            sender.seal(partition).await?;
        }
        let batch = &mut sender.partitions[partition].1;
        batch.bytes += size;
        batch.records.push(record);
        if job.times(index) {
            batch.since.push(due.unwrap_or_else(Instant::now));
        }
        if job.waited {
            sender.seal(partition).await?;
            while !sender.under_way.is_empty() {
                sender.settle().await?;
            }
        }
    }
    sender.seal_all().await?;
    while !sender.under_way.is_empty() {
        sender.settle().await?;
    }
    Ok(Told { batches: sender.batches, requests: sender.batches, acks: Some(sender.acks), ..Told::default() })
}

async fn consume(job: &Job) -> Result<Told, Failure> {
    let streams = partitions(job).await?.into_iter();
    let stream =
        |client| StreamConsumerBuilder::new(client, StartOffset::Earliest).with_max_batch_size(FETCH_BYTES_MAX);
    let mut records = select_all(streams.map(|client| stream(client).build()));
    let (mut count, mut sum) = (0, 0u64);
    while count < job.messages {
        let next = tokio::time::timeout(Duration::from_secs(60), records.next()).await?;
        let (found, _) = next.ok_or("the stream ended")??;
        let record = &found.record;
        let headers = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default());
        sum = sum.wrapping_add(sum_of(key, value, headers));
        count += 1;
    }
    Ok(Told { sum: Some(sum), ..Told::default() })
}
