//! Records from one thread, through a lane of a threaded engine or a local engine's producer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ottla::engine::LocalEngine;
use ottla::producer::{DeliveryResult, FlushError, Lane, LocalProducer, Losses, Record, Rejected};

use crate::Failure;
use crate::common::{Acks, Job, Told};
use crate::workload::Content;

/// Every record has its outcome by then (`delivery.timeout.ms` and some more).
const FLUSH: Duration = Duration::from_secs(121);
/// Callbacks run between so many sends.
const POLL_RECORDS: u64 = 4_096;
/// Sleeping takes at least about so long.
const SLEEP_MAX: Duration = Duration::from_micros(100);

/// What both kinds of handles can do.
pub trait Way {
    fn send<'r>(&mut self, record: Record<'r>) -> Result<(), Rejected<'r>>;
    fn send_with<'r>(
        &mut self,
        record: Record<'r>,
        callback: impl FnOnce(DeliveryResult) + Send + 'static,
    ) -> Result<(), Rejected<'r>>;
    /// Sends and waits for the outcome.
    fn send_waited<'r>(&mut self, record: Record<'r>) -> Result<DeliveryResult, Rejected<'r>>;
    fn poll(&mut self) -> usize;
    fn flush(&mut self, timeout: Duration) -> Result<Losses, FlushError>;
}

macro_rules! way {
    ($($handle:ty),*) => {$(
        impl Way for $handle {
            #[inline]
            fn send<'r>(&mut self, record: Record<'r>) -> Result<(), Rejected<'r>> {
                <$handle>::send(self, record)
            }
            #[inline]
            fn send_with<'r>(
                &mut self,
                record: Record<'r>,
                callback: impl FnOnce(DeliveryResult) + Send + 'static,
            ) -> Result<(), Rejected<'r>> {
                <$handle>::send_with(self, record, callback)
            }
            fn send_waited<'r>(&mut self, record: Record<'r>) -> Result<DeliveryResult, Rejected<'r>> {
                <$handle>::submit(self, record).map(|sent| sent.wait())
            }
            fn poll(&mut self) -> usize {
                <$handle>::poll(self)
            }
            fn flush(&mut self, timeout: Duration) -> Result<Losses, FlushError> {
                <$handle>::flush(self, timeout)
            }
        }
    )*};
}
way!(Lane, LocalProducer);

/// Acknowledgement times and the first error, shared with callbacks.
pub struct Tally {
    pub acks: Acks,
    error: Option<String>,
}

impl Tally {
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { acks: Acks::new()?, error: None })
    }

    pub fn note(&mut self, since: Instant, result: &DeliveryResult) {
        match result {
            Ok(_) => self.acks.add(since.elapsed()),
            Err(error) => _ = self.error.get_or_insert_with(|| error.to_string()),
        }
    }

    pub fn result(self, losses: Losses) -> Result<Acks, Failure> {
        match self.error {
            Some(error) => Err(error.into()),
            None if losses.failed + losses.unknown > 0 => Err(format!("records were lost: {losses:?}").into()),
            None => Ok(self.acks),
        }
    }
}

/// The record of `content`.
#[inline]
pub fn record<'a>(topic: &'a str, content: &'a Content, timestamp_ms: i64) -> Record<'a> {
    let [key, value, correlation] = content.parts();
    let record = Record::to(topic).value(value).timestamp(timestamp_ms);
    if key.is_empty() {
        return record;
    }
    let record = record.key(key);
    if correlation.is_empty() {
        return record;
    }
    record
        .header("correlationid", correlation)
        .header("client_id", "kafkaclitest-producer")
        .header("app_version", "1.0.0")
}

/// One thread that sends.
pub struct Sending<'a, W> {
    job: &'a Job,
    way: W,
    /// The engine that this thread runs itself, where it does.
    local: Option<&'a LocalEngine>,
    tally: Arc<Mutex<Tally>>,
}

impl<'a, W: Way> Sending<'a, W> {
    pub fn new(job: &'a Job, way: W, local: Option<&'a LocalEngine>) -> Result<Self, Failure> {
        Ok(Self { job, way, local, tally: Arc::new(Mutex::new(Tally::new()?)) })
    }

    /// Sends all records, and flushes; `between` is called before each.
    pub fn run(mut self, mut between: impl FnMut(u64) -> Result<(), Failure>) -> Result<Told, Failure> {
        let job = self.job;
        let (mut made, start) = (Content::default(), Instant::now());
        for index in 0..job.messages {
            between(index)?;
            let due = job.due(start, index);
            if let Some(due) = due {
                self.await_due(due)?;
            }
            let content = job.content(index, &mut made);
            let record = record(&job.topic, content, job.timestamp(index));
            let sent = if job.waited {
                let since = Instant::now();
                self.way.send_waited(record).map(|result| self.tally().note(since, &result))
            } else if job.times(index) {
                let (tally, since) = (Arc::clone(&self.tally), due.unwrap_or_else(Instant::now));
                let note = move |result: DeliveryResult| {
                    tally.lock().unwrap_or_else(PoisonError::into_inner).note(since, &result);
                };
                self.way.send_with(record, note)
            } else {
                self.way.send(record)
            };
            sent.map_err(|rejected| format!("record {index}: {rejected}"))?;
            if index % POLL_RECORDS == 0 {
                self.way.poll();
            }
        }
        let losses = self.way.flush(FLUSH)?;
        let tally = std::mem::replace(&mut *self.tally(), Tally::new()?);
        Ok(Told { acks: Some(tally.result(losses)?), ..Told::default() })
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs callbacks, and the shard where it is this thread's, until it is time.
    fn await_due(&mut self, due: Instant) -> Result<(), Failure> {
        loop {
            self.way.poll();
            let left = due.saturating_duration_since(Instant::now()).min(SLEEP_MAX);
            if left.is_zero() {
                return Ok(());
            }
            match self.local {
                Some(local) => local.turn(left)?,
                None => std::thread::sleep(left),
            }
        }
    }
}

pub fn flush(way: &mut impl Way) -> Result<Losses, FlushError> {
    way.flush(FLUSH)
}
