//! One phase of a bench through Ottla's library alone, as a service embeds it: public API, manual assignment, threaded or in
//! a LocalEngine (`-local yes`). CPU and memory are a service's, where `ottla bench` also has its command line's.

// A rejected record goes back as it came.
#![allow(clippy::result_large_err)]

#[path = "../../common.rs"]
mod common;
mod klife;
mod send;
#[path = "../../../src/workload.rs"]
mod workload;

use std::time::Duration;

use common::{Job, Meter, Mode, Told, sum_of};
use ottla::config::setting::{Role, State};
use ottla::config::{Layers, Source};
use ottla::consumer::{Batch, ConsumeError, Consumer, LocalConsumer, StartAt};
use ottla::engine::{Engine, LocalEngine};
use send::Sending;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Nothing read for so long is an error.
const STALL: Duration = Duration::from_secs(60);
/// A local engine that sends and reads looks for records between so many sends.
const TURN_RECORDS: u64 = 256;

/// The engine, and the thread's own shard where it has one.
struct Client {
    engine: Engine,
    local: Option<LocalEngine>,
    layers: Layers,
}

fn main() -> Result<(), Failure> {
    let job = Job::read()?;
    let meter = Meter::start();
    let client = client(&job)?;
    let before = client.engine.stats();
    let told = match (job.produces, job.mode) {
        (false, _) => consume(&job, &client)?,
        (true, Mode::Mixed) => mixed(&job, &client)?,
        (true, Mode::KlifeSync(workers)) => klife::sync(&job, &client, workers)?,
        (true, Mode::KlifeAsync(tasks)) => klife::tasks(&job, &client, tasks)?,
        (true, _) => produce(&job, &client)?,
    };
    let cost = meter.end();
    let stats = client.engine.stats().since(&before);
    let settings = effective(&job, &client);
    let counts = if job.produces {
        Told { batches: stats.batches, requests: stats.produce_requests, wire_bytes: stats.wire_bytes, ..told }
    } else {
        Told { requests: stats.fetch_requests, wire_bytes: stats.fetched_bytes, ..told }
    };
    cost.report(&job, settings, counts);
    match &client.local {
        Some(local) => local.close(Duration::from_secs(2))?,
        None => client.engine.close(Duration::from_secs(2))?,
    }
    Ok(())
}

/// Kafka's defaults but for what the job says; `batch.num.messages` as the peers have it.
fn client(job: &Job) -> Result<Client, Failure> {
    let mut layers = Layers::new();
    let (linger, batch_size) = (job.linger.as_millis().to_string(), job.batch_size.to_string());
    let in_flight = job.in_flight.map(|most| most.to_string());
    let mut set = |name: &str, value: &str| layers.set(name, value, Source::Flag("bench".into()));
    set("bootstrap.servers", &job.bootstrap)?;
    set("io.backend", job.word("backend").unwrap_or("auto"))?;
    set("linger.ms", &linger)?;
    set("batch.size", &batch_size)?;
    set("batch.num.messages", "10000")?;
    set("compression.type", &job.compression)?;
    set("acks", "all")?;
    if let Some(in_flight) = in_flight {
        set("max.in.flight.requests.per.connection", &in_flight)?;
    }
    if job.word("local").is_some() {
        let local = LocalEngine::builder().settings(layers.engine()?).build_local()?;
        return Ok(Client { engine: local.engine().clone(), local: Some(local), layers });
    }
    Ok(Client { engine: Engine::builder().settings(layers.engine()?).build()?, local: None, layers })
}

/// Every setting that has an effect, as the engine has it.
fn effective(job: &Job, client: &Client) -> Value {
    let (backend, reason) = client.engine.backend();
    let mut all = json!({
        "peer": "ottla-lib",
        "version": env!("CARGO_PKG_VERSION"),
        "local": client.local.is_some(),
        "assignment": "manual",
        "backend": backend,
        "backend_reason": reason,
        "profile": "lto thin, 1 codegen unit, as Ottla's own release profile",
    });
    let does = |role| match role {
        Role::Producer => job.produces,
        Role::Consumer => !job.produces || job.mode == Mode::Mixed,
        _ => true,
    };
    for (setting, value, _) in client.layers.effective(None) {
        let counts = matches!(setting.state, State::Active) && does(setting.role);
        if counts && !value.is_empty() && value != "[hidden]" {
            all[setting.name] = json!(value);
        }
    }
    all
}

fn produce(job: &Job, client: &Client) -> Result<Told, Failure> {
    let settings = client.layers.producer()?;
    match &client.local {
        Some(local) => {
            let producer = local.producer().settings(settings).build()?;
            Sending::new(job, producer, Some(local))?.run(|_| Ok(()))
        }
        None => Sending::new(job, client.engine.producer().settings(settings).build()?.lane(), None)?.run(|_| Ok(())),
    }
}

/// What was read.
#[derive(Default)]
struct Read {
    count: u64,
    sum: u64,
}

impl Read {
    /// One batch more, or none in time.
    fn take(&mut self, next: Result<Option<Batch>, ConsumeError>) -> Result<bool, Failure> {
        let batch = match next {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(false),
            // It is tried again by itself.
            Err(ConsumeError::Refused { stopped: false, .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for record in &batch {
            let headers = record.headers().map_while(Result::ok);
            let headers = headers.map(|header| (header.key, header.value.unwrap_or_default()));
            let (key, value) = (record.key().unwrap_or_default(), record.value().unwrap_or_default());
            self.sum = self.sum.wrapping_add(sum_of(key, value, headers));
            self.count += 1;
        }
        Ok(true)
    }

    /// Reads what the job says.
    fn all(&mut self, job: &Job, reader: &mut impl Reader) -> Result<(), Failure> {
        while self.count < job.messages || (job.catches_up() && !is_at_end(job, reader.consumer())?) {
            if !self.take(reader.next(STALL))? {
                return Err(format!("nothing came for {} s", STALL.as_secs()).into());
            }
        }
        Ok(())
    }
}

/// Whether every partition is read to its end as it was last told.
fn is_at_end(job: &Job, consumer: &Consumer) -> Result<bool, ConsumeError> {
    for partition in 0..job.partitions {
        let end = consumer.high_watermark(&job.topic, partition)?;
        if end.is_none() || consumer.position(&job.topic, partition)? < end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A consumer of either kind.
trait Reader {
    fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError>;
    fn consumer(&self) -> &Consumer;
}

impl Reader for Consumer {
    fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError> {
        Consumer::next(self, timeout)
    }
    fn consumer(&self) -> &Consumer {
        self
    }
}

impl Reader for LocalConsumer {
    fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError> {
        LocalConsumer::next(self, timeout)
    }
    fn consumer(&self) -> &Consumer {
        self
    }
}

fn partitions(job: &Job) -> impl Iterator<Item = (&str, i32, StartAt)> {
    (0..job.partitions).map(|partition| (job.topic.as_str(), partition, StartAt::Earliest))
}

fn consume(job: &Job, client: &Client) -> Result<Told, Failure> {
    let (settings, mut read) = (client.layers.consumer()?, Read::default());
    match &client.local {
        Some(local) => {
            let mut consumer = local.consumer().settings(settings).assign(partitions(job)).build()?;
            read.all(job, &mut consumer)?;
        }
        None => {
            let mut consumer = client.engine.consumer().settings(settings).assign(partitions(job)).build()?;
            read.all(job, &mut consumer)?;
        }
    }
    if read.count != job.messages && !job.catches_up() {
        return Err(format!("{} records came, not {}", read.count, job.messages).into());
    }
    Ok(Told { messages: Some(read.count), sum: Some(read.sum), ..Told::default() })
}

/// Sends and reads the same records at once.
fn mixed(job: &Job, client: &Client) -> Result<Told, Failure> {
    let mut read = Read::default();
    let told = match &client.local {
        Some(local) => {
            let mut consumer = local.consumer().settings(client.layers.consumer()?).assign(partitions(job)).build()?;
            let producer = local.producer().settings(client.layers.producer()?).build()?;
            let told = Sending::new(job, producer, Some(local))?.run(|index| {
                if index % TURN_RECORDS == 0 {
                    while read.take(consumer.next(Duration::ZERO))? {}
                }
                Ok(())
            })?;
            read.all(job, &mut consumer)?;
            told
        }
        None => {
            let settings = client.layers.consumer()?;
            let mut consumer = client.engine.consumer().settings(settings).assign(partitions(job)).build()?;
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| read.all(job, &mut consumer));
                let told = produce(job, client)?;
                reader.join().map_err(|_| "the reader panicked")??;
                Ok::<_, Failure>(told)
            })?
        }
    };
    Ok(Told { sum: Some(read.sum), ..told })
}
