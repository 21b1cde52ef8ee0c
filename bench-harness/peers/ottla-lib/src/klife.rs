//! Klife's two benches: workers that wait for three records at a time, and tasks that only send.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ottla::engine::LocalEngine;
use ottla::producer::{DeliveryResult, LocalProducer, LocalSent, Losses, Record};

use crate::common::{Acks, Job, Told};
use crate::send::{Tally, Way, flush, record};
use crate::workload::{Content, klife_partition};
use crate::{Client, Failure};

/// Nothing acknowledged for so long ends a turn, not the wait.
const TURN: Duration = Duration::from_secs(1);
/// Callbacks run between so many sends of a task.
const POLL_RECORDS: u64 = 256;

/// What one worker or task did.
struct Done {
    messages: u64,
    acks: Acks,
}

fn told(all: Vec<Done>) -> Result<Told, Failure> {
    let mut acks = Acks::new()?;
    let mut messages = 0;
    for done in &all {
        acks.join(&done.acks)?;
        messages += done.messages;
    }
    Ok(Told { messages: Some(messages), acks: Some(acks), ..Told::default() })
}

/// Threads, each with its share of the work.
fn threads(count: u64, work: impl Fn(u64) -> Result<Done, Failure> + Sync) -> Result<Told, Failure> {
    let all = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a worker panicked".into())));
        ends.collect::<Result<Vec<_>, Failure>>()
    })?;
    told(all)
}

struct Work<'a> {
    job: &'a Job,
    topics: [String; 3],
    until: Option<Instant>,
}

impl<'a> Work<'a> {
    fn new(job: &'a Job) -> Self {
        Self { job, topics: job.topics(), until: job.seconds.map(|seconds| Instant::now() + seconds) }
    }

    fn ended(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn record<'r>(&'r self, index: u64, made: &'r mut Content) -> Record<'r> {
        let content = self.job.content(index, made);
        let record = record(&self.topics[(index % 3) as usize], content, self.job.timestamp(index));
        record.partition(klife_partition(index, self.job.partitions))
    }
}

/// Each worker sends three records to three topics and waits for all three.
pub fn sync(job: &Job, client: &Client, workers: u64) -> Result<Told, Failure> {
    let (settings, work) = (client.layers.producer()?, Work::new(job));
    if let Some(local) = &client.local {
        return sync_local(&work, local, local.producer().settings(settings).build()?, workers);
    }
    let producer = client.engine.producer().settings(settings).build()?;
    threads(workers, |number| {
        let (mut lane, mut made) = (producer.lane(), Content::default());
        let mut done = Done { messages: 0, acks: Acks::new()? };
        for first in job.share(number, workers).step_by(3) {
            if work.ended() {
                break;
            }
            let since = Instant::now();
            let mut send = |index| lane.submit(work.record(index, &mut made)).map_err(|rejected| rejected.to_string());
            for sent in [send(first)?, send(first + 1)?, send(first + 2)?] {
                sent.wait()?;
            }
            done.acks.add(since.elapsed());
            done.messages += 3;
        }
        Ok(done)
    })
}

/// A worker of a local engine: all of them are tasks of the one thread.
struct Worker {
    indices: std::iter::StepBy<std::ops::Range<u64>>,
    since: Instant,
    sent: [Option<LocalSent>; 3],
}

impl Worker {
    /// Whether all three are acknowledged.
    fn is_settled(&mut self) -> Result<bool, Failure> {
        let mut context = Context::from_waker(Waker::noop());
        for place in &mut self.sent {
            if let Some(sent) = place {
                let Poll::Ready(result) = Pin::new(sent).poll(&mut context) else { return Ok(false) };
                result?;
                *place = None;
            }
        }
        Ok(true)
    }
}

fn sync_local(
    work: &Work<'_>,
    local: &LocalEngine,
    mut producer: LocalProducer,
    workers: u64,
) -> Result<Told, Failure> {
    let (mut made, mut done) = (Content::default(), Done { messages: 0, acks: Acks::new()? });
    let worker = |number| Worker {
        indices: work.job.share(number, workers).step_by(3),
        since: Instant::now(),
        sent: [None, None, None],
    };
    let mut all: Vec<Worker> = (0..workers).map(worker).collect();
    while !all.is_empty() {
        let mut waiting = Vec::with_capacity(all.len());
        let mut moved = false;
        for mut worker in all {
            let had = worker.sent.iter().any(Option::is_some);
            if !worker.is_settled()? {
                waiting.push(worker);
                continue;
            }
            moved = true;
            if had {
                done.acks.add(worker.since.elapsed());
                done.messages += 3;
            }
            let Some(first) = worker.indices.next().filter(|_| !work.ended()) else { continue };
            worker.since = Instant::now();
            for (place, index) in worker.sent.iter_mut().zip(first..) {
                let sent = producer.submit(work.record(index, &mut made)).map_err(|rejected| rejected.to_string())?;
                *place = Some(sent);
            }
            waiting.push(worker);
        }
        all = waiting;
        // Sending runs the shard too: what came meanwhile is looked at first.
        if !moved {
            local.turn(TURN)?;
        }
    }
    told(vec![done])
}

/// Each task sends, and nobody waits; a local engine's tasks share its thread, which sends what all of them would.
pub fn tasks(job: &Job, client: &Client, tasks: u64) -> Result<Told, Failure> {
    let (settings, work) = (client.layers.producer()?, Work::new(job));
    if let Some(local) = &client.local {
        return told(vec![task(&work, local.producer().settings(settings).build()?, 0, 1)?]);
    }
    let producer = client.engine.producer().settings(settings).build()?;
    threads(tasks, |number| task(&work, producer.lane(), number, tasks))
}

fn task(work: &Work<'_>, mut way: impl Way, number: u64, tasks: u64) -> Result<Done, Failure> {
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let (mut made, mut messages) = (Content::default(), 0);
    for index in work.job.share(number, tasks) {
        if messages % POLL_RECORDS == 0 {
            way.poll();
            if work.ended() {
                break;
            }
        }
        let record = work.record(index, &mut made);
        let sent = if work.job.times(index) {
            let (tally, since) = (Arc::clone(&tally), Instant::now());
            let note = move |result: DeliveryResult| {
                tally.lock().unwrap_or_else(PoisonError::into_inner).note(since, &result);
            };
            way.send_with(record, note)
        } else {
            way.send(record)
        };
        sent.map_err(|rejected| rejected.to_string())?;
        messages += 1;
    }
    let losses: Losses = flush(&mut way)?;
    let tally = std::mem::replace(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner), Tally::new()?);
    Ok(Done { messages, acks: tally.result(losses)? })
}
