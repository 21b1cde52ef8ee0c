//! One phase of a bench through krafka, tuned as its documentation recommends: `enqueue` with a linger, polls of 10,000
//! records over fetches of 8 MiB; on Tokio's current-thread runtime, which costs it a third of the CPU of the other.

#[path = "../../common.rs"]
mod common;
#[path = "../../../src/workload.rs"]
mod workload;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::{Acks as Timed, Job, Meter, Told, sum_of};
use krafka::consumer::AutoOffsetReset;
use krafka::producer::Acks;
use krafka::{Compression, Kafka, Record};
use serde_json::json;
use workload::Content;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let job = Job::read()?.without_klife()?;
    let meter = Meter::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(async { if job.produces { produce(&job).await } else { consume(&job).await } })?;
    let cost = meter.end();
    let settings = if job.produces {
        json!({"linger_ms": job.linger.as_millis() as u64, "batch_size": job.batch_size, "buffer_memory": 32 << 20,
            "acks": "all", "idempotence": true, "compression": job.compression})
    } else {
        json!({"assignment": "manual", "max_poll_records": 10_000, "max_buffered_records": 20_000,
            "max_partition_fetch_bytes": 8 << 20})
    };
    let mut all = json!({"peer": "krafka", "version": "0.28.1", "runtime": "current_thread"});
    if let (Some(all), Some(more)) = (all.as_object_mut(), settings.as_object()) {
        all.extend(more.clone());
    }
    cost.report(&job, all, told);
    Ok(())
}

async fn produce(job: &Job) -> Result<Told, Failure> {
    let kafka = Kafka::builder(job.bootstrap.as_str()).client_id("bench").connect().await?;
    let compression = if job.compression == "lz4" { Compression::Lz4 } else { Compression::None };
    let producer = kafka.producer().acks(Acks::All).idempotent(true).compression(compression);
    let producer =
        producer.linger(job.linger).batch_size(job.batch_size as usize).buffer_memory(32 << 20).build().await?;
    // A task that waits for a timed record tells how long it took, and is gone.
    let timed = Arc::new(Mutex::new(Timing { acks: Timed::new()?, missing: 0, error: None }));
    let timing = || timed.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut made, mut room) = (Content::default(), BytesMut::new());
    let mut pool: Vec<[Bytes; 3]> = Vec::new();
    for index in 0..job.pooled() {
        pool.push(job.content(index, &mut made).parts().map(|part| taken(&mut room, part)));
    }
    let start = Instant::now();
    for index in 0..job.messages {
        let [key, value, correlation] = match pool.get((index % job.pooled().max(1)) as usize) {
            Some(parts) => parts.clone(),
            None => job.content(index, &mut made).parts().map(|part| taken(&mut room, part)),
        };
        let mut record = Record::new(job.topic.as_str(), value).timestamp(job.timestamp(index));
        if !key.is_empty() {
            record = record.key(key).header("correlationid", correlation);
            record = record.header("client_id", Bytes::from_static(b"kafkaclitest-producer"));
            record = record.header("app_version", Bytes::from_static(b"1.0.0"));
        }
        // Counted from when it is due, however late those before it were.
        let due = job.due(start, index);
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        let sent = due.unwrap_or_else(Instant::now);
        if job.waited {
            let _where = producer.send(record).await?;
            timing().acks.add(sent.elapsed());
            continue;
        }
        let handle = producer.enqueue(record).await?;
        if job.times(index) {
            timing().missing += 1;
            let timed = Arc::clone(&timed);
            tokio::spawn(async move {
                let outcome = handle.await;
                let mut timing = timed.lock().unwrap_or_else(PoisonError::into_inner);
                timing.missing -= 1;
                match outcome {
                    Ok(_) => timing.acks.add(sent.elapsed()),
                    Err(error) => timing.error = Some(error.to_string()),
                }
            });
        }
    }
    producer.flush().await?;
    while timing().missing > 0 {
        tokio::task::yield_now().await;
    }
    let Timing { acks, error, .. } =
        std::mem::replace(&mut *timing(), Timing { acks: Timed::new()?, missing: 0, error: None });
    if let Some(error) = error {
        return Err(error.into());
    }
    let metrics = producer.metrics().producer;
    producer.close().await?;
    if metrics.errors > 0 {
        return Err(format!("{} records failed", metrics.errors).into());
    }
    Ok(Told {
        batches: metrics.batches_sent,
        wire_bytes: metrics.compressed_bytes,
        acks: Some(acks),
        ..Told::default()
    })
}

/// Of the records that are timed.
struct Timing {
    acks: Timed,
    missing: u64,
    error: Option<String>,
}

/// A copy of `part` in memory that is shared with what comes before and behind it: one allocation for many records.
fn taken(room: &mut BytesMut, part: &[u8]) -> Bytes {
    if room.capacity() < part.len() {
        room.reserve(part.len().max(64 << 10));
    }
    room.extend_from_slice(part);
    room.split().freeze()
}

async fn consume(job: &Job) -> Result<Told, Failure> {
    let kafka = Kafka::builder(job.bootstrap.as_str()).client_id("bench").connect().await?;
    let consumer = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest).max_poll_records(10_000);
    let consumer = consumer.max_buffered_records(20_000).max_partition_fetch_bytes(8 << 20).build().await?;
    consumer.assign(&job.topic, (0..job.partitions).collect()).await?;
    let (mut count, mut sum) = (0, 0u64);
    while count < job.messages {
        for record in consumer.poll(Duration::from_secs(1)).await? {
            let headers =
                record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref().unwrap_or_default()));
            let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default());
            sum = sum.wrapping_add(sum_of(key, value, headers));
            count += 1;
        }
    }
    let metrics = consumer.metrics().consumer;
    consumer.close().await?;
    if count != job.messages {
        return Err(format!("{count} records came, not {}", job.messages).into());
    }
    Ok(Told { requests: metrics.fetches, wire_bytes: 0, sum: Some(sum), ..Told::default() })
}
