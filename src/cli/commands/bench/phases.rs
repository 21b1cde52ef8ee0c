//! The two phases: all records out, all records in.

// A rejected record goes back as it came.
#![allow(clippy::result_large_err)]

use std::iter::from_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;

use super::Plan;
use super::meter::Meter;
use super::pace::{Pace, pause};
use super::report::Row;
use super::sum::Sum;
use super::verify::{Seen, Verifier, indices_of};
use crate::cli::args::Verify;
use crate::cli::connect::Session;
use crate::cli::failure::Failure;
use crate::cli::workload::{Content, HEADER_NAMES, POOL_RECORDS, Workload, timestamp};
use crate::config::StartAt;
use crate::consumer::{Batch, ConsumeError, Consumer, LocalConsumer};
use crate::engine::LocalEngine;
use crate::producer::{DeliveryResult, FlushError, Lane, LocalProducer, Losses, Record, Rejected};

/// One record in so many has its way to the acknowledgement timed.
pub const ACK_SAMPLE: u64 = 64;
/// The progress bar moves in steps of so many records.
const STEP: u64 = 4_096;

/// Acknowledgement times and errors, shared with callbacks.
struct Acks {
    histogram: Histogram<u64>,
    first_error: Option<String>,
}

pub fn produce(plan: &Plan<'_>, session: &Session) -> Result<(Row, i64), Failure> {
    let args = plan.args;
    let settings = plan.layers.producer()?;
    // Up to an hour, three significant digits.
    let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).map_err(Failure::failed)?;
    let acks = Arc::new(Mutex::new(Acks { histogram, first_error: None }));
    let pool = (args.workload == Workload::TelemetryPool).then(|| pool(args.workload, args.messages));
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let base_ms = i64::try_from(since_1970.as_millis()).unwrap_or(0);
    let bar = plan.output.progress("produce", args.messages);
    let before = session.stats();
    let lanes = u64::from(args.lanes);
    let stop = AtomicBool::new(false);
    let meter = Meter::start(plan.broker_pid);
    let send = |lane: Lane, number: u64| {
        let mut sender =
            Sender { plan, local: None, lane, base_ms, acks: &acks, bar: &bar, pool: pool.as_deref(), stop: &stop };
        let sent = sender.run(number, lanes);
        if sent.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        sent
    };
    if let Some(local) = session.local() {
        let lane = local.producer().settings(settings).build().map_err(Failure::failed)?;
        Sender { plan, local: Some(local), lane, base_ms, acks: &acks, bar: &bar, pool: pool.as_deref(), stop: &stop }
            .run(0, 1)?;
    } else if lanes == 1 {
        send(session.producer().settings(settings).build().map_err(Failure::failed)?.lane(), 0)?;
    } else {
        let producer = session.producer().settings(settings).build().map_err(Failure::failed)?;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes)
                .map(|number| {
                    let (lane, send) = (producer.lane(), &send);
                    scope.spawn(move || send(lane, number))
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(Failure::Failed("a sending thread panicked".into())))
            })
        })?;
    }
    let cost = meter.read();
    bar.finish_and_clear();
    let acks = acks.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = &acks.first_error {
        return Err(Failure::Failed(error.clone()));
    }
    let stats = session.stats().since(&before);
    let ack = |quantile| acks.histogram.value_at_quantile(quantile);
    let row = Row {
        phase: "produce",
        messages: args.messages,
        cost,
        ack_us: Some([ack(0.5), ack(0.99), ack(0.999)]),
        batches: stats.batches,
        requests: stats.produce_requests,
        wire_bytes: stats.wire_bytes,
        verified: None,
        checksum: None,
    };
    Ok((row, base_ms))
}

/// All contents of the pool.
fn pool(workload: Workload, messages: u64) -> Vec<Content> {
    (0..POOL_RECORDS.min(messages))
        .map(|index| {
            let mut content = Content::default();
            content.make(workload, index);
            content
        })
        .collect()
}

/// What a sending thread has: a lane of a threaded engine, or a local engine's producer.
trait Way {
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

struct Sender<'a, L> {
    plan: &'a Plan<'a>,
    /// The engine that this thread runs itself, where it does.
    local: Option<&'a LocalEngine>,
    lane: L,
    base_ms: i64,
    acks: &'a Arc<Mutex<Acks>>,
    bar: &'a ProgressBar,
    pool: Option<&'a [Content]>,
    stop: &'a AtomicBool,
}

impl<L: Way> Sender<'_, L> {
    fn run(&mut self, number: u64, lanes: u64) -> Result<(), Failure> {
        let args = self.plan.args;
        let mut made = Content::default();
        let mut unshown = 0;
        let pace = args.rate.map(|rate| Pace::new(Instant::now(), rate));
        for index in indices_of(number, args.messages, lanes) {
            let due = pace.map(|pace| pace.due(index));
            if let Some(due) = due {
                self.await_due(due)?;
            }
            let content = match self.pool {
                Some(pool) => &pool[usize::try_from(index % pool.len() as u64).unwrap_or(0)],
                None => {
                    made.make(args.workload, index);
                    &made
                }
            };
            let record = Record::to(args.topic.as_str())
                .key_or_null(content.key())
                .value(content.value())
                .timestamp(timestamp(self.base_ms, index));
            let record = match content.header_values() {
                Some([correlation, client, app]) => record
                    .header(HEADER_NAMES[0], correlation)
                    .header(HEADER_NAMES[1], client)
                    .header(HEADER_NAMES[2], app),
                None => record,
            };
            let sent = if args.waited {
                let started = Instant::now();
                self.lane.send_waited(record).map(|result| note(self.acks, started, &result))
            } else if due.is_some() || index % ACK_SAMPLE == 0 {
                let (acks, started) = (Arc::clone(self.acks), due.unwrap_or_else(Instant::now));
                self.lane.send_with(record, move |result| note(&acks, started, &result))
            } else {
                self.lane.send(record)
            };
            sent.map_err(|rejected| Failure::Failed(format!("record {index}: {rejected}")))?;
            unshown += 1;
            if unshown == STEP {
                self.lane.poll();
                self.bar.inc(unshown);
                unshown = 0;
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        }
        self.bar.inc(unshown);
        let deadline = self.lane_timeout();
        let losses = self.lane.flush(deadline).map_err(Failure::failed)?;
        if losses.failed + losses.unknown > 0 {
            let first = self.acks.lock().unwrap_or_else(PoisonError::into_inner).first_error.clone();
            let first = first.map_or_else(String::new, |first| format!("; one of them: {first}"));
            let text = format!("{} records failed, {} have an unknown outcome{first}", losses.failed, losses.unknown);
            return Err(Failure::Failed(text));
        }
        Ok(())
    }

    /// Runs callbacks, and the shard where it is this thread's, until it is time.
    fn await_due(&mut self, due: Instant) -> Result<(), Failure> {
        loop {
            self.lane.poll();
            let Some(left) = pause(due, Instant::now()) else { return Ok(()) };
            match self.local {
                Some(local) => local.turn(left).map_err(Failure::failed)?,
                None => std::thread::sleep(left),
            }
        }
    }

    /// Every record has its outcome by then.
    fn lane_timeout(&self) -> Duration {
        self.plan.layers.producer().map_or(self.plan.stall(), |settings| settings.delivery_timeout)
            + Duration::from_secs(1)
    }
}

fn note(acks: &Mutex<Acks>, started: Instant, result: &DeliveryResult) {
    let mut acks = acks.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(_) => acks.histogram.saturating_record(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)),
        Err(error) => {
            acks.first_error.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Reads all records and compares them. `starts` are the offsets to begin at, the beginning where there is none.
pub fn consume(
    plan: &Plan<'_>,
    session: &Session,
    starts: &[Option<i64>],
    base_ms: Option<i64>,
) -> Result<(Row, Result<(), String>), Failure> {
    let args = plan.args;
    let bar = plan.output.progress("consume", args.messages);
    let before = session.stats();
    let partitions = starts.len();
    let mut check = Check::new(plan, partitions, base_ms);
    let meter = Meter::start(plan.broker_pid);
    let assignment = starts
        .iter()
        .zip(0..)
        .map(|(start, partition)| (args.topic.as_str(), partition, start.map_or(StartAt::Earliest, StartAt::Offset)));
    let settings = plan.layers.consumer()?;
    let mut reader: Box<dyn Reader> = match session.local() {
        Some(local) => {
            Box::new(local.consumer().settings(settings).assign(assignment).build().map_err(Failure::failed)?)
        }
        None => Box::new(session.consumer().settings(settings).assign(assignment).build().map_err(Failure::failed)?),
    };
    let mut batches = 0;
    let mut damage = None;
    while !(check.counted() >= args.messages && (!args.catch_up || at_end(&*reader, &args.topic, partitions)?)) {
        let batch = match reader.next(plan.stall()) {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                damage = Some(format!("nothing came for {} s", plan.stall().as_secs()));
                break;
            }
            Err(ConsumeError::Refused { stopped: false, .. }) => continue,
            Err(error) => return Err(Failure::failed(error)),
        };
        let counted = check.counted();
        check.batch(&batch);
        batches += 1;
        bar.inc(check.counted() - counted);
    }
    let cost = meter.read();
    bar.finish_and_clear();
    let stats = session.stats().since(&before);
    let messages = check.counted();
    let (verdict, checksum) = match args.catch_up {
        true if messages < args.messages => {
            (Err(format!("{messages} records read, {} were there", args.messages)), None)
        }
        true => (Ok(()), None),
        false => check.verdict(args.workload, args.messages),
    };
    let verdict = match (verdict, damage) {
        (Err(what), Some(damage)) => Err(format!("{what}; {damage}")),
        (verdict, _) => verdict,
    };
    let row = Row {
        phase: "consume",
        messages,
        cost,
        ack_us: None,
        batches,
        requests: stats.fetch_requests,
        wire_bytes: stats.fetched_bytes,
        verified: (!args.catch_up).then_some((verdict.is_ok(), args.verify)),
        checksum,
    };
    Ok((row, verdict))
}

/// A consumer of a threaded engine, or of a local one.
trait Reader {
    fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError>;
    /// Where the next record is read, and the end as it was last told.
    fn place(&self, topic: &str, partition: i32) -> Result<(Option<i64>, Option<i64>), ConsumeError>;
}

macro_rules! reader {
    ($($consumer:ty),*) => {$(
        impl Reader for $consumer {
            fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError> {
                <$consumer>::next(self, timeout)
            }
            fn place(&self, topic: &str, partition: i32) -> Result<(Option<i64>, Option<i64>), ConsumeError> {
                Ok((self.position(topic, partition)?, self.high_watermark(topic, partition)?))
            }
        }
    )*};
}
reader!(Consumer, LocalConsumer);

/// Whether every partition is read to its end.
fn at_end(reader: &dyn Reader, topic: &str, partitions: usize) -> Result<bool, Failure> {
    for (partition, _) in (0..).zip(0..partitions) {
        match reader.place(topic, partition).map_err(Failure::failed)? {
            (Some(position), Some(end)) if position >= end => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// What is done with the records read.
enum Check {
    Full(Box<Verifier>),
    Sum { counted: u64, sum: Sum },
}

impl Check {
    fn new(plan: &Plan<'_>, partitions: usize, base_ms: Option<i64>) -> Self {
        let args = plan.args;
        match args.verify {
            Verify::Full => Self::Full(Box::new(Verifier::new(
                args.workload,
                args.messages,
                partitions,
                u64::from(args.lanes),
                base_ms,
            ))),
            Verify::Sum => Self::Sum { counted: 0, sum: Sum::default() },
        }
    }

    fn counted(&self) -> u64 {
        match self {
            Self::Full(verifier) => verifier.counted(),
            Self::Sum { counted, .. } => *counted,
        }
    }

    fn batch(&mut self, batch: &Batch) {
        match self {
            Self::Full(verifier) => {
                for record in batch {
                    let seen = Seen {
                        partition: record.partition(),
                        offset: record.offset(),
                        timestamp: record.timestamp(),
                        key: record.key(),
                        value: record.value(),
                    };
                    // A malformed header ends the walk and shows as a header that is missing.
                    let headers = record.headers().map_while(Result::ok).map(|header| (header.key, header.value));
                    verifier.record(&seen, headers);
                }
            }
            Self::Sum { counted, sum } => {
                for record in batch {
                    // Inlined, other than `map_while`.
                    let mut headers = record.headers();
                    let headers = from_fn(move || match headers.next() {
                        Some(Ok(header)) => Some((header.key, header.value)),
                        _ => None,
                    });
                    sum.record(record.key(), record.value(), headers);
                    *counted += 1;
                }
            }
        }
    }

    /// Whether all came as it was sent, and the sum where that is what was made. Not part of what is measured.
    fn verdict(&self, workload: Workload, messages: u64) -> (Result<(), String>, Option<String>) {
        match self {
            Self::Full(verifier) => (verifier.verdict(), None),
            Self::Sum { counted, .. } if *counted != messages => {
                (Err(format!("{counted} records read, {messages} sent")), None)
            }
            Self::Sum { sum, .. } => {
                let expected = Sum::expected(workload, messages);
                let same = if *sum == expected { Ok(()) } else { Err(format!("sum {sum}, expected {expected}")) };
                (same, Some(sum.to_string()))
            }
        }
    }
}
