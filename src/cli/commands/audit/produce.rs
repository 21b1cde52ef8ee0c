//! `ottla audit produce`: records that tell who they are, and one line for the outcome of each.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;

use super::reader;
use super::value::Value;
use crate::admin::{AdminError, NewTopic};
use crate::base::rng::Rng;
use crate::cli::args::{AuditMode, AuditProduceArgs};
use crate::cli::connect::{Session, engine};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, grouped, span};
use crate::config::{Layers, Source};
use crate::producer::{DeliveryError, DeliveryResult, Lane, Record, RejectReason};
use crate::wire::ErrorCode;

/// Bytes gathered before they are written.
const OUT_BYTES: usize = 256 << 10;
/// Records between two looks at what came back.
const POLL_RECORDS: u64 = 64;
/// A sender that is ahead of its rate sleeps at most so long before it looks at what came back.
const NAP: Duration = Duration::from_millis(2);
/// Different keys per run.
const KEYS: u64 = 1_000;
/// What flushing may take longer than the last record's own deadline.
const FLUSH_SLACK: Duration = Duration::from_secs(5);
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";

pub fn run(args: &AuditProduceArgs, layers: &mut Layers, output: &Output) -> Result<(), Failure> {
    let (mode, idempotence) = match args.mode {
        AuditMode::Idempotent => ("idempotent", "true"),
        AuditMode::Atleast => ("atleast", "false"),
        AuditMode::Txn => {
            return Err(Failure::Usage("--mode txn comes later: transactions are not there yet".into()));
        }
    };
    layers.set("enable.idempotence", idempotence, Source::Flag("--mode".into()))?;
    if !layers.is_set("acks") {
        layers.set("acks", "all", Source::Flag("--mode".into()))?;
    }
    let settings = layers.producer()?;
    let session = engine(layers)?;
    make_topics(&session, &args.topics)?;
    let file = File::create(&args.out).map_err(|error| Failure::Failed(format!("{}: {error}", args.out.display())))?;
    let mut out = BufWriter::with_capacity(OUT_BYTES, file);
    let topics: serde_json::Map<String, serde_json::Value> =
        args.topics.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    writeln!(out, "{}", json!({"run": args.run, "mode": mode, "partitioner": "java", "topics": topics}))?;
    let names: Vec<Box<str>> = args.topics.iter().map(|(name, _)| name.as_str().into()).collect();
    let book = Arc::new(Book { names, pages: Mutex::new(Pages { out, tally: Tally::default() }) });
    let bar = output.progress("produce", args.messages);
    let started = Instant::now();
    let plan = Plan {
        args,
        book: &book,
        bar: &bar,
        started,
        stop: if args.exit_with_stdin { reader::stdin_ended() } else { Arc::default() },
        sent: AtomicU64::new(0),
        flush: settings.delivery_timeout + FLUSH_SLACK,
    };
    let mut lanes = Vec::new();
    for number in 0..args.producers {
        let producer = session.producer().settings(settings.clone()).build().map_err(Failure::failed)?;
        lanes.push((number, producer.lane(), producer));
    }
    let ended: Result<(), Failure> = thread::scope(|scope| {
        let senders: Vec<_> = lanes
            .iter_mut()
            .map(|(number, lane, _)| {
                let plan = &plan;
                scope.spawn(move || Sender { plan, number: *number, lane }.run())
            })
            .collect();
        let joined = senders
            .into_iter()
            .map(|sender| sender.join().unwrap_or_else(|_| Err(Failure::Failed("a sending thread panicked".into()))));
        // All of them are waited for before the first failure is told.
        joined.collect::<Vec<_>>().into_iter().collect()
    });
    bar.finish_and_clear();
    let elapsed = started.elapsed();
    let mut pages = book.pages.lock().unwrap_or_else(PoisonError::into_inner);
    pages.out.flush()?;
    let sent = plan.sent.load(Ordering::Relaxed);
    report(output, args, mode, sent, &pages.tally, elapsed)?;
    ended?;
    let tally = &pages.tally;
    if let Some(error) = &tally.write_error {
        return Err(Failure::Failed(format!("{}: {error}", args.out.display())));
    }
    match sent.saturating_sub(tally.told()) {
        0 => Ok(()),
        missing => Err(Failure::Failed(format!("{missing} of {sent} records have no outcome"))),
    }
}

fn report(
    output: &Output,
    args: &AuditProduceArgs,
    mode: &str,
    sent: u64,
    tally: &Tally,
    elapsed: Duration,
) -> Result<(), Failure> {
    let rate = sent as f64 / elapsed.as_secs_f64().max(1e-9);
    if output.json {
        return output.json(&json!({
            "run": args.run,
            "mode": mode,
            "records": sent,
            "ok": tally.ok,
            "fail": tally.fail,
            "unknown": tally.unknown,
            "seconds": elapsed.as_secs_f64(),
            "records_per_s": rate,
            "slowest_ok_ms": tally.slowest_ok.as_millis(),
            "slowest_loss_ms": tally.slowest_loss.as_millis(),
            "first_error": tally.first_error,
        }));
    }
    output.text(&format!(
        "{} records in {} ({} records/s): {} ok, {} fail, {} unknown; slowest outcome {}",
        grouped(sent),
        span(elapsed),
        grouped(rate as u64),
        grouped(tally.ok),
        grouped(tally.fail),
        grouped(tally.unknown),
        span(tally.slowest_ok.max(tally.slowest_loss))
    ))?;
    match &tally.first_error {
        Some(error) => output.text(&format!("first not delivered: {error}")),
        None => Ok(()),
    }
}

/// Creates the topics that are not there, and compares the partitions of the others.
fn make_topics(session: &Session, topics: &[(String, i32)]) -> Result<(), Failure> {
    let admin = session.admin();
    let wanted = topics.iter().map(|(name, count)| NewTopic::new(name.as_str(), *count));
    for (name, outcome) in admin.create_topics(wanted, false).wait().map_err(Failure::failed)? {
        match outcome {
            Ok(_) | Err(AdminError::Broker { code: ErrorCode::TopicAlreadyExists, .. }) => {}
            Err(error) => return Err(Failure::Failed(format!("{name}: {error}"))),
        }
    }
    for (name, wanted) in topics {
        let info = session.topic_info(name, session.settings().default_api_timeout).map_err(Failure::failed)?;
        let count = info.partition_count();
        if count != *wanted {
            return Err(Failure::Usage(format!("--topics {name}:{wanted}: it has {count} partitions")));
        }
    }
    Ok(())
}

/// The file, shared by all callbacks.
struct Book {
    names: Vec<Box<str>>,
    pages: Mutex<Pages>,
}

struct Pages {
    out: BufWriter<File>,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    ok: u64,
    fail: u64,
    unknown: u64,
    /// From send to outcome.
    slowest_ok: Duration,
    slowest_loss: Duration,
    first_error: Option<String>,
    write_error: Option<io::Error>,
}

impl Tally {
    fn told(&self) -> u64 {
        self.ok + self.fail + self.unknown
    }
}

/// Which record a line is about.
#[derive(Clone, Copy)]
struct Which {
    producer: u32,
    seq: u64,
    topic: usize,
    key: Option<u64>,
    since: Instant,
}

/// What came of it.
enum End {
    Told(DeliveryResult),
    /// It was not taken: surely not written.
    Rejected(RejectReason),
}

impl Book {
    fn tell(&self, which: &Which, end: &End) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let Pages { out, tally } = &mut *pages;
        let took = which.since.elapsed();
        let (outcome, delivered) = match end {
            End::Told(Ok(delivered)) => {
                tally.ok += 1;
                tally.slowest_ok = tally.slowest_ok.max(took);
                ("ok", Some(delivered))
            }
            End::Told(Err(DeliveryError::Unknown(_))) => {
                tally.unknown += 1;
                ("unknown", None)
            }
            End::Told(Err(DeliveryError::Failed(_))) | End::Rejected(_) => {
                tally.fail += 1;
                ("fail", None)
            }
        };
        if outcome != "ok" {
            tally.slowest_loss = tally.slowest_loss.max(took);
            tally.first_error.get_or_insert_with(|| match end {
                End::Told(Err(error)) => error.to_string(),
                End::Rejected(reason) => reason.to_string(),
                End::Told(Ok(_)) => String::new(),
            });
        }
        let name = &self.names[which.topic];
        let Which { producer, seq, key, .. } = which;
        let mut line = || -> io::Result<()> {
            write!(out, r#"{{"p":{producer},"s":{seq},"t":"{name}","#)?;
            match key {
                Some(key) => write!(out, r#""k":"k{key}","#)?,
                None => out.write_all(br#""k":null,"#)?,
            }
            write!(out, r#""x":null,"o":"{outcome}","#)?;
            match delivered {
                Some(delivered) => write!(out, r#""part":{},"#, delivered.partition)?,
                None => out.write_all(br#""part":null,"#)?,
            }
            match delivered.and_then(|delivered| delivered.offset) {
                Some(offset) => writeln!(out, r#""off":{offset}}}"#),
                None => out.write_all(b"\"off\":null}\n"),
            }
        };
        if let Err(error) = line() {
            tally.write_error.get_or_insert(error);
        }
    }
}

/// What all senders share.
struct Plan<'a> {
    args: &'a AuditProduceArgs,
    book: &'a Arc<Book>,
    bar: &'a ProgressBar,
    started: Instant,
    stop: Arc<AtomicBool>,
    /// Records that must have a line.
    sent: AtomicU64,
    flush: Duration,
}

struct Sender<'a> {
    plan: &'a Plan<'a>,
    number: u32,
    lane: &'a mut Lane,
}

impl Sender<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let Plan { args, book, bar, .. } = self.plan;
        let (number, producers) = (u64::from(self.number), u64::from(args.producers));
        let records = args.messages / producers + u64::from(number < args.messages % producers);
        let mut maker = Maker::new(args, self.number);
        let mut ended = Ok(());
        for seq in 0..records {
            if self.plan.stop.load(Ordering::Relaxed) {
                break;
            }
            // Of all records sent so far, this producer's share.
            self.keep_pace(seq * producers + number);
            let choice = maker.make(seq);
            let which =
                Which { producer: self.number, seq, topic: choice.topic, key: choice.key, since: Instant::now() };
            let (topic, _) = &args.topics[choice.topic];
            let key = choice.key.map(|_| maker.key.as_bytes());
            let mut record = Record::to(topic.as_str()).key_or_null(key).value(&maker.value);
            if let Some(partition) = choice.partition {
                record = record.partition(partition);
            }
            self.plan.sent.fetch_add(1, Ordering::Relaxed);
            let to = Arc::clone(book);
            if let Err(rejected) = self.lane.send_with(record, move |result| to.tell(&which, &End::Told(result))) {
                let reason = rejected.reason;
                let over = matches!(reason, RejectReason::Closed | RejectReason::Failed(_));
                let words = over.then(|| reason.to_string());
                book.tell(&which, &End::Rejected(reason));
                if let Some(words) = words {
                    ended = Err(Failure::Failed(words));
                    break;
                }
            }
            if seq % POLL_RECORDS == POLL_RECORDS - 1 {
                self.lane.poll();
                bar.inc(POLL_RECORDS);
            }
        }
        let flushed = self.lane.flush(self.plan.flush);
        ended?;
        flushed.map(|_| ()).map_err(Failure::failed)
    }

    /// Waits until record `index` of all is due. A sender that was held up catches up.
    fn keep_pace(&mut self, index: u64) {
        let rate = self.plan.args.rate;
        if rate == 0 {
            return;
        }
        let due = self.plan.started + Duration::from_secs_f64(index as f64 / rate as f64);
        loop {
            let early = due.saturating_duration_since(Instant::now());
            if early.is_zero() || self.plan.stop.load(Ordering::Relaxed) {
                return;
            }
            self.lane.poll();
            thread::sleep(early.min(NAP));
        }
    }
}

/// Where a record goes and why.
struct Choice {
    topic: usize,
    partition: Option<i32>,
    key: Option<u64>,
}

/// Makes records, each a function of producer and sequence alone: a quarter with the partition given, a quarter with
/// neither partition nor key, the rest with keys.
struct Maker<'a> {
    args: &'a AuditProduceArgs,
    producer: u32,
    key: String,
    value: Vec<u8>,
    payload: Vec<u8>,
}

impl<'a> Maker<'a> {
    fn new(args: &'a AuditProduceArgs, producer: u32) -> Self {
        Self { args, producer, key: String::new(), value: Vec::new(), payload: Vec::new() }
    }

    fn make(&mut self, seq: u64) -> Choice {
        use std::fmt::Write as _;
        let mut rng = Rng::new(seq ^ u64::from(self.producer) << 48);
        let index = rng.below(self.args.topics.len() as u64) as usize;
        let (topic, partitions) = &self.args.topics[index];
        let draw = rng.next_u64();
        let (partition, key) = match draw % 4 {
            0 => (i32::try_from(draw / 4 % u64::from(partitions.unsigned_abs())).ok(), None),
            1 => (None, None),
            _ => (None, Some(draw / 4 % KEYS)),
        };
        self.key.clear();
        if let Some(key) = key {
            // Writing into memory cannot fail.
            let _ = write!(self.key, "k{key}");
        }
        self.payload.clear();
        let length = rng.below(u64::from(self.args.payload) + 1) as usize;
        while self.payload.len() < length {
            self.payload.extend(rng.next_u64().to_le_bytes().map(|byte| LETTERS[usize::from(byte % 32)]));
        }
        self.payload.truncate(length);
        self.value.clear();
        let value = Value {
            run: &self.args.run,
            producer: self.producer,
            seq,
            topic,
            partition,
            key: key.map(|_| self.key.as_str()),
            txn: None,
            payload: &self.payload,
        };
        value.write(&mut self.value);
        Choice { topic: index, partition, key }
    }
}
