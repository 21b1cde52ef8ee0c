//! Klife's two benches: workers that wait for three records at a time, and tasks that only send; threads of one producer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::common::{Acks, Job, Told};
use crate::workload::{Content, klife_partition};
use crate::{Context, Failure, Outcomes, producer_config, send};

/// A worker, and how many of its three records are not acknowledged.
#[derive(Default)]
struct Seat {
    thread: OnceLock<Thread>,
    missing: AtomicU64,
}

#[derive(Clone)]
struct Seats {
    seats: Arc<Vec<Seat>>,
    outcomes: Arc<Outcomes>,
}

impl ClientContext for Seats {}

impl ProducerContext for Seats {
    /// The worker's number.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, worker: usize) {
        if result.is_err() {
            self.outcomes.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.outcomes.acked.fetch_add(1, Ordering::Release);
        let seat = &self.seats[worker];
        if seat.missing.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(thread) = seat.thread.get()
        {
            thread.unpark();
        }
    }
}

fn ended(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

fn record<'a>(
    job: &'a Job,
    topics: &'a [String; 3],
    index: u64,
    made: &'a mut Content,
    opaque: usize,
) -> BaseRecord<'a, [u8], [u8], usize> {
    let content = job.content(index, made);
    BaseRecord::with_opaque_to(&topics[(index % 3) as usize], opaque)
        .partition(klife_partition(index, job.partitions))
        .timestamp(job.timestamp(index))
        .key(content.key.as_slice())
        .payload(content.value.as_slice())
}

/// Runs `work` in so many threads.
fn threads(count: u64, work: impl Fn(u64) -> Result<(), Failure> + Sync) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| Err("a worker panicked".into())))
    })
}

/// Each worker sends three records to three topics and waits for all three.
pub fn sync(job: &Job, workers: u64) -> Result<Told, Failure> {
    let seats: Arc<Vec<Seat>> = Arc::new((0..workers).map(|_| Seat::default()).collect());
    let outcomes = Arc::new(Outcomes::new()?);
    let context = Seats { seats: Arc::clone(&seats), outcomes: Arc::clone(&outcomes) };
    let producer: ThreadedProducer<Seats> = producer_config(job).create_with_context(context)?;
    let (topics, until) = (job.topics(), job.seconds.map(|seconds| Instant::now() + seconds));
    threads(workers, |number| {
        let (seat, mut made, mut acks) = (&seats[number as usize], Content::default(), Acks::new()?);
        let _ = seat.thread.set(std::thread::current());
        for first in job.share(number, workers).step_by(3) {
            if ended(until) {
                break;
            }
            let since = Instant::now();
            seat.missing.store(3, Ordering::Release);
            for index in first..first + 3 {
                send(&producer, record(job, &topics, index, &mut made, number as usize))?;
            }
            while seat.missing.load(Ordering::Acquire) > 0 {
                std::thread::park();
            }
            acks.add(since.elapsed());
        }
        Ok(outcomes.acks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).join(&acks)?)
    })?;
    outcomes.told()
}

/// Each task sends, and nobody waits.
pub fn tasks(job: &Job, tasks: u64) -> Result<Told, Failure> {
    let (start, outcomes) = (Instant::now(), Arc::new(Outcomes::new()?));
    let context = Context { outcomes: Arc::clone(&outcomes), start, waits: None };
    let producer: ThreadedProducer<Context> = producer_config(job).create_with_context(context)?;
    let (topics, until) = (job.topics(), job.seconds.map(|seconds| start + seconds));
    let sent = AtomicU64::new(0);
    threads(tasks, |number| {
        let (mut made, mut count) = (Content::default(), 0);
        for index in job.share(number, tasks) {
            if count % 256 == 0 && ended(until) {
                break;
            }
            let sent_us = if job.times(index) { start.elapsed().as_micros().max(1) as usize } else { 0 };
            send(&producer, record(job, &topics, index, &mut made, sent_us))?;
            count += 1;
        }
        sent.fetch_add(count, Ordering::AcqRel);
        Ok(())
    })?;
    producer.flush(Duration::from_secs(600))?;
    // Its thread may still be telling.
    while outcomes.acked.load(Ordering::Acquire) < sent.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
    }
    outcomes.told()
}
