//! The consumer in a simulated world: leaders move, connections die, answers are lost or wrong, sessions are forgotten,
//! memory is short, applications seek, pause, stop in the middle of a batch; and every record of the log between a start
//! and the end is given out once and in order. A seed that fails is replayed with
//! `OTTLA_SIM_SEED=<seed> cargo test --features testkit --test sim_consumer`.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod sim_support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ottla::base::rng::Rng;
use ottla::config::{Compression, EngineSettings};
use ottla::consumer::{AutoOffsetReset, Batch, ConsumeError, Consumer, ConsumerSettings, StartAt};
use ottla::producer::{DeliveryError, Producer, Record};
use ottla::testkit::broker::{Reaction, Rule};
use ottla::testkit::clock::SimClock;
use ottla::testkit::sim::{Outcome, World};
use ottla::wire::{ApiKey, ErrorCode};
use sim_support::{Bed, EVERYDAY, MINUTE, Replay, SECOND, demand, each_seed, kind_of, same_again, seeds};

const TOPICS: &[(&str, i32)] = &[("orders", 4), ("prices", 1)];
const SENDERS: u64 = 2;
const RECORDS: u32 = 300;

type Place = (String, i32);
type Counts = Rc<RefCell<BTreeMap<String, u64>>>;

/// What one partition gave out since it was last started: where that was, if it was said, and what came.
#[derive(Clone, Debug)]
struct Run {
    start: Option<i64>,
    records: Vec<(i64, String)>,
}

/// What readers and the test tell each other.
#[derive(Clone)]
struct Shared {
    counts: Counts,
    /// No more records will come, and the weather is fine.
    calm: Rc<Cell<bool>>,
    /// Every run of every partition of every reader.
    runs: Rc<RefCell<Vec<(usize, Place, Run)>>>,
    /// Where each reader stands, for a run that does not end.
    stands: Rc<RefCell<BTreeMap<usize, String>>>,
}

impl Shared {
    fn count(&self, what: &str) {
        *self.counts.borrow_mut().entry(format!("reader: {what}")).or_default() += 1;
    }
}

/// What the test believes of a partition of a reader.
struct Model {
    /// Where the next record must be; none while a lookup decides.
    next: Option<i64>,
    paused: bool,
    run: Run,
    /// Batches that are held on to, unread, oldest first.
    held: Vec<Batch>,
}

/// A reader with its model.
struct Reader {
    index: usize,
    consumer: Consumer,
    clock: SimClock,
    rng: Rng,
    shared: Shared,
    models: BTreeMap<Place, Model>,
}

impl Reader {
    /// The next batch or error, or nothing for this long.
    async fn next(&mut self, patience: Duration) -> Option<Result<Batch, ConsumeError>> {
        let mut sleep = pin!(self.clock.sleep(patience));
        let consumer = &mut self.consumer;
        poll_fn(|context| {
            if let Poll::Ready(found) = consumer.poll_next(context) {
                return Poll::Ready(Some(found));
            }
            sleep.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    fn model(&mut self, topic: &str, partition: i32) -> &mut Model {
        self.models.get_mut(&(topic.to_owned(), partition)).unwrap()
    }

    /// What was given out up to now is a run of its own.
    fn restart(&mut self, place: &Place, start: StartAt) {
        let at = match start {
            StartAt::Offset(offset) => Some(offset),
            _ => None,
        };
        self.consumer.seek(&place.0, place.1, start).unwrap();
        let model = self.models.get_mut(place).unwrap();
        let ended = std::mem::replace(&mut model.run, Run { start: at, records: Vec::new() });
        model.next = at;
        model.held.clear();
        self.shared.runs.borrow_mut().push((self.index, place.clone(), ended));
        assert_eq!(self.consumer.position(&place.0, place.1).unwrap(), at);
    }

    fn read(&mut self, batch: Batch) {
        let (topic, partition) = (batch.topic().to_owned(), batch.partition());
        let (index, leave) = (self.index, self.rng.percent(6));
        let left_at = self.rng.below(batch.count().max(1) as u64) as usize;
        let hold = self.rng.percent(8);
        let model = self.model(&topic, partition);
        assert!(!model.paused, "reader {index}: {batch:?} of a paused partition");
        if let Some(next) = model.next {
            assert_eq!(batch.first_offset(), next, "reader {index}: {batch:?}");
        }
        if hold || !model.held.is_empty() {
            model.next = Some(batch.next_offset());
            model.held.push(batch);
            return;
        }
        let mut left = None;
        for (nth, record) in batch.iter().enumerate() {
            if leave && nth == left_at {
                left = Some(record.offset());
                break;
            }
            model.run.records.push(text(record));
        }
        model.next = Some(left.unwrap_or(batch.next_offset()));
        drop(batch);
        if let Some(offset) = left {
            // The record in work when the batch was left is the one to be given out again.
            self.shared.count("left in the middle of a batch");
            assert_eq!(self.consumer.processed(&topic, partition).unwrap(), Some(offset));
            let place = (topic, partition);
            let fresh = Run { start: Some(offset), records: Vec::new() };
            let ended = std::mem::replace(&mut self.models.get_mut(&place).unwrap().run, fresh);
            self.shared.runs.borrow_mut().push((self.index, place, ended));
        }
    }

    fn trouble(&mut self, error: ConsumeError) {
        match error {
            ConsumeError::Refused { topic, partition, why, stopped } => {
                let name = format!("{why:?}");
                let name = name.split([' ', '{']).next().unwrap();
                self.shared.count(&format!("refused {name}{}", if stopped { ", stopped" } else { "" }));
                if stopped {
                    let place = (topic.to_string(), partition);
                    let next = self.models[&place].next;
                    self.restart(&place, next.map_or(StartAt::Earliest, StartAt::Offset));
                }
            }
            other => panic!("reader {}: {other:?}", self.index),
        }
    }

    /// Something an application may do between two batches.
    async fn whim(&mut self) {
        let places: Vec<Place> = self.models.keys().cloned().collect();
        let place = places[self.rng.below(places.len() as u64) as usize].clone();
        let paused = self.models[&place].paused;
        match self.rng.below(100) {
            0..=4 => {
                self.shared.count("seeks to an offset");
                let high = self.models[&place].next.unwrap_or(0).max(1);
                let to = self.rng.below(high as u64 + 1) as i64;
                self.restart(&place, StartAt::Offset(to));
            }
            5 => {
                self.shared.count("seeks to the start");
                self.restart(&place, StartAt::Earliest);
            }
            6..=9 if !paused => {
                self.shared.count("pauses");
                self.consumer.pause(&place.0, place.1).unwrap();
                self.models.get_mut(&place).unwrap().paused = true;
            }
            10..=19 if paused => {
                self.shared.count("resumes");
                self.consumer.resume(&place.0, place.1).unwrap();
                self.models.get_mut(&place).unwrap().paused = false;
            }
            20..=24 => self.read_held(),
            25..=29 => {
                self.shared.count("naps");
                let nap = Duration::from_millis(self.rng.below(1_500));
                self.clock.sleep(nap).await;
            }
            30 => {
                // Revoked and assigned again: it goes on where the application says.
                self.shared.count("partitions left and taken again");
                let next = self.models[&place].next.unwrap_or(0);
                self.consumer.unassign(&place.0, place.1).unwrap();
                let patience = Duration::from_millis(self.rng.below(50));
                if let Some(Ok(batch)) = self.next(patience).await {
                    assert!((batch.topic(), batch.partition()) != (&place.0, place.1), "{batch:?} after unassign");
                    self.read(batch);
                }
                self.consumer.assign([(place.0.as_str(), place.1, next)]).unwrap();
                let model = self.models.get_mut(&place).unwrap();
                model.paused = false;
                self.restart(&place, StartAt::Offset(next));
            }
            _ => {}
        }
    }

    /// Reads what was held back, oldest first.
    fn read_held(&mut self) {
        for model in self.models.values_mut() {
            for batch in model.held.drain(..) {
                self.shared.count("batches read later");
                model.run.records.extend(batch.iter().map(text));
            }
        }
    }

    /// The two numbers agree with the model: what is held back and unread is given out and not processed.
    fn check_numbers(&self) {
        for ((topic, partition), model) in &self.models {
            let (position, processed) = (
                self.consumer.position(topic, *partition).unwrap(),
                self.consumer.processed(topic, *partition).unwrap(),
            );
            let Some(next) = model.next else { continue };
            // A position may be ahead by what has no records; here every offset has one.
            assert_eq!(position, Some(next), "reader {}: position of {topic}-{partition}", self.index);
            let done = model.held.first().map_or(next, Batch::first_offset);
            assert_eq!(processed, Some(done), "reader {}: processed of {topic}-{partition}", self.index);
        }
    }

    /// Reads until every partition is at its end in calm weather.
    async fn work(mut self, ends: impl Fn() -> BTreeMap<Place, i64>) -> usize {
        loop {
            let patience = Duration::from_millis(1 + self.rng.below(300));
            match self.next(patience).await {
                Some(Ok(batch)) => {
                    self.read(batch);
                }
                Some(Err(error)) => self.trouble(error),
                None => {
                    self.shared.count("waits that ended without data");
                    self.check_numbers();
                }
            }
            if !self.shared.calm.get() {
                self.whim().await;
                continue;
            }
            self.read_held();
            let paused: Vec<Place> =
                self.models.iter().filter(|(_, model)| model.paused).map(|(place, _)| place.clone()).collect();
            for place in paused {
                self.consumer.resume(&place.0, place.1).unwrap();
                self.models.get_mut(&place).unwrap().paused = false;
            }
            let ends = ends();
            let stand = |(place, model): (&Place, &Model)| {
                let position = self.consumer.position(&place.0, place.1);
                format!("{place:?}: next {:?}, position {position:?}, end {}", model.next, ends[place])
            };
            let stands = self.models.iter().map(stand).collect::<Vec<_>>().join("; ");
            self.shared.stands.borrow_mut().insert(self.index, stands);
            if self.models.iter().all(|(place, model)| model.next == Some(ends[place])) {
                // Nothing comes twice afterwards, either.
                if let Some(more) = self.next(3 * SECOND).await {
                    panic!("reader {}: behind the end: {more:?}", self.index);
                }
                self.check_numbers();
                for (place, model) in std::mem::take(&mut self.models) {
                    self.shared.runs.borrow_mut().push((self.index, place, model.run));
                }
                return self.index;
            }
        }
    }
}

fn text(record: ottla::consumer::Record<'_>) -> (i64, String) {
    (record.offset(), String::from_utf8(record.value().unwrap().to_vec()).unwrap())
}

/// Sends numbered records of mixed sizes, in bursts and pauses.
/// How many of its records a sender was told are in the log, and how many are surely not.
async fn sender(producer: Producer, source: u64, clock: SimClock, mut rng: Rng) -> (usize, usize) {
    let mut lane = producer.lane();
    let mut sent = Vec::new();
    for number in 0..RECORDS {
        let (topic, partitions) = TOPICS[usize::from(rng.percent(20))];
        let partition = rng.below(partitions as u64) as i32;
        let size = if rng.percent(3) { 6_000 } else { rng.below(300) };
        // Not compressible, so that sizes on the wire differ.
        let filler: String = (0..size).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
        let value = format!("{source}:{number}:{filler}");
        let record = Record::to(topic).partition(partition).value(&value);
        sent.push(lane.submit(record).unwrap());
        if rng.percent(30) {
            clock.sleep(Duration::from_micros(rng.below(150_000))).await;
        }
    }
    lane.flush_async().await.unwrap();
    let (mut written, mut failed) = (0, 0);
    for answer in sent {
        match answer.await {
            Ok(_) => written += 1,
            // A wall clock that jumped an hour makes timestamps that brokers refuse, for one.
            Err(DeliveryError::Failed(_)) => failed += 1,
            Err(DeliveryError::Unknown(_)) => {}
        }
    }
    (written, failed)
}

/// Answers to consumers that go wrong in every way a broker's can.
fn add_rules(bed: &Bed, percent: u64) {
    let fetch = [
        Reaction::DropBefore,
        Reaction::DropAfter,
        Reaction::Error(ErrorCode::FetchSessionIdNotFound),
        Reaction::Error(ErrorCode::InvalidFetchSessionEpoch),
        Reaction::Error(ErrorCode::UnknownServerError),
        Reaction::Delay(Duration::from_millis(700)),
        Reaction::DelayAnswer(Duration::from_millis(1_500)),
        Reaction::Throttle(Duration::from_millis(300)),
        Reaction::Truncate(10),
        Reaction::Truncate(90),
        Reaction::WrongCorrelation,
    ];
    let partitions = [
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::OffsetOutOfRange,
        ErrorCode::FencedLeaderEpoch,
        ErrorCode::UnknownLeaderEpoch,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::UnknownTopicId,
        ErrorCode::OffsetNotAvailable,
        ErrorCode::KafkaStorageError,
    ];
    let others = [
        (ApiKey::Metadata, Reaction::DropAfter),
        (ApiKey::Metadata, Reaction::DelayAnswer(SECOND)),
        (ApiKey::ListOffsets, Reaction::DropAfter),
        (ApiKey::ListOffsets, Reaction::Truncate(9)),
        (ApiKey::ListOffsets, Reaction::Error(ErrorCode::NotLeaderOrFollower)),
        (ApiKey::ListOffsets, Reaction::Error(ErrorCode::OffsetNotAvailable)),
        (ApiKey::ListOffsets, Reaction::Delay(Duration::from_millis(900))),
        (ApiKey::OffsetForLeaderEpoch, Reaction::DropBefore),
        (ApiKey::OffsetForLeaderEpoch, Reaction::DropAfter),
        (ApiKey::OffsetForLeaderEpoch, Reaction::Truncate(9)),
        (ApiKey::OffsetForLeaderEpoch, Reaction::DelayAnswer(Duration::from_millis(1_200))),
        (ApiKey::OffsetForLeaderEpoch, Reaction::Error(ErrorCode::FencedLeaderEpoch)),
        (ApiKey::OffsetForLeaderEpoch, Reaction::Error(ErrorCode::UnknownLeaderEpoch)),
        (ApiKey::OffsetForLeaderEpoch, Reaction::Error(ErrorCode::NotLeaderOrFollower)),
        (ApiKey::OffsetForLeaderEpoch, Reaction::Error(ErrorCode::KafkaStorageError)),
        (ApiKey::ApiVersions, Reaction::DropBefore),
    ];
    bed.broker.with(|core| {
        for (nth, code) in partitions.into_iter().enumerate() {
            let (topic, count) = TOPICS[usize::from(nth % 4 == 3)];
            for partition in 0..count {
                let rule = Rule::new(Reaction::Error(code)).api(ApiKey::Fetch).topic(topic).partition(partition);
                core.faults.add(rule.percent(percent));
            }
        }
        for reaction in fetch {
            core.faults.add(Rule::new(reaction).api(ApiKey::Fetch).percent(percent));
        }
        for (api, reaction) in others {
            core.faults.add(Rule::new(reaction).api(api).percent(4 * percent));
        }
        core.faults.add(Rule::new(Reaction::BlackHole).api(ApiKey::Fetch).percent(1).times(3));
    });
}

/// Settings that make a consumer's life hard, by the seed.
fn hardship(seed: u64, reader: u64) -> ConsumerSettings {
    let mut rng = Rng::new(seed ^ reader << 32 ^ 0x4841_5244);
    let any = |rng: &mut Rng, list: &[i32]| list[rng.below(list.len() as u64) as usize];
    let part = any(&mut rng, &[1_024, 4_096, 1 << 20]);
    ConsumerSettings {
        auto_offset_reset: AutoOffsetReset::None,
        max_partition_fetch_bytes: part,
        max_partition_fetch_bytes_grown: part.max(any(&mut rng, &[1_024, 16_384, 4 << 20])),
        fetch_max_bytes: any(&mut rng, &[1_024, 20_000, 8 << 20]),
        max_poll_records: [None, Some(1), Some(5)][rng.below(3) as usize],
        fetch_max_wait: Duration::from_millis(any(&mut rng, &[20, 100, 500]) as u64),
        ..ConsumerSettings::default()
    }
}

/// One run: 3 nodes, 2 shards or a local one, 2 senders, 2 readers, a minute of trouble, then everything is read to its end.
fn tormented(seed: u64, all: &mut BTreeMap<String, u64>) -> u64 {
    let _replay = Replay(seed, "sim_consumer");
    let settings = EngineSettings {
        request_timeout: 5 * SECOND,
        fetch_memory: [64 << 10, 200_000, 8 << 20][(seed % 3) as usize],
        ..EngineSettings::default()
    };
    let mut bed = Bed::of_kind(World::rough(seed), 3, kind_of(seed), TOPICS, settings, &[]);
    add_rules(&bed, 1);
    bed.torment(MINUTE);
    let forgetful = (bed.broker.clone(), bed.world.clock(), bed.now() + MINUTE);
    let shared = Shared { counts: Counts::default(), calm: Rc::default(), runs: Rc::default(), stands: Rc::default() };
    let (counts, mut rng) = (shared.counts.clone(), Rng::new(seed ^ 0x464F_5247));
    bed.world.spawn_task("forgetful", async move {
        let (broker, clock, end) = forgetful;
        while clock.time() < end {
            clock.sleep(Duration::from_millis(500 + rng.below(5_000))).await;
            broker.with(|core| core.forget_sessions(rng.below(3) as i32));
            *counts.borrow_mut().entry("weather: sessions forgotten".to_owned()).or_default() += 1;
        }
    });
    let clock = bed.world.clock();
    let compression = [Compression::None, Compression::Lz4][(seed % 2) as usize];
    let producer = bed.engine.producer().compression(compression).linger(Duration::from_millis(5)).build().unwrap();
    let senders: Vec<_> = (0..SENDERS)
        .map(|source| {
            let task = sender(producer.clone(), source, clock.clone(), Rng::new(seed * 31 + source));
            bed.start(&format!("sender {source}"), task)
        })
        .collect();
    let ends = {
        let broker = bed.broker.clone();
        move || {
            let places =
                TOPICS.iter().flat_map(|(topic, count)| (0..*count).map(move |part| (topic.to_string(), part)));
            let end = |place: &Place| {
                broker.look(|core| core.cluster.partition(&place.0, place.1).unwrap().log.next_offset())
            };
            places.map(|place| (place.clone(), end(&place))).collect::<BTreeMap<Place, i64>>()
        }
    };
    let readers: Vec<_> = (0..2)
        .map(|index| {
            let starts = ends().into_keys().map(|(topic, partition)| (topic, partition, StartAt::Earliest));
            let builder = bed.engine.consumer().settings(hardship(seed, index)).assign(starts);
            let consumer = builder.build().unwrap();
            let fresh =
                || Model { next: None, paused: false, run: Run { start: Some(0), records: Vec::new() }, held: vec![] };
            let models = ends().into_keys().map(|place| (place, fresh())).collect();
            let (clock, shared) = (clock.clone(), shared.clone());
            let rng = Rng::new(seed * 57 + index);
            let reader = Reader { index: index as usize, consumer, clock, rng, shared, models };
            bed.start(&format!("reader {index}"), reader.work(ends.clone()))
        })
        .collect();
    let sent = || senders.iter().all(|slot| slot.borrow().is_some());
    let outcome = bed.world.run_until(bed.now() + 10 * MINUTE, sent);
    assert_eq!(outcome, Outcome::Done, "seed {seed}: the senders");
    let end_of_trouble = bed.now().max(ottla::base::time::Time::ZERO + 70 * SECOND);
    bed.world.run_until(end_of_trouble, || false);
    shared.calm.set(true);
    let outcome = bed.world.run_until(bed.now() + 5 * MINUTE, || readers.iter().all(|slot| slot.borrow().is_some()));
    bed.tally(all);
    for (what, count) in shared.counts.borrow().iter() {
        *all.entry(what.clone()).or_default() += count;
    }
    if outcome != Outcome::Done {
        let waiting: Vec<_> = readers.iter().map(|slot| slot.borrow().is_none()).collect();
        panic!(
            "seed {seed}: {outcome:?} with readers still waiting {waiting:?}: {:#?}\n{:#?}\n{all:#?}",
            shared.stands.borrow(),
            bed.engine.stats()
        );
    }
    let told: Vec<_> = senders.iter().filter_map(|slot| *slot.borrow()).collect();
    judge(&bed, &shared, &told, all);
    if std::env::var_os("OTTLA_SIM_SEED").is_some() {
        println!("{:?}\n{}\n{}", kind_of(seed), bed.world.report(), bed.world.turns_by_party());
    }
    bed.world.schedule().trace_hash()
}

/// Every run is the log from its start on, without a gap, a repetition or a wrong value.
fn judge(bed: &Bed, shared: &Shared, told: &[(usize, usize)], all: &mut BTreeMap<String, u64>) {
    let seed = bed.world.schedule().seed();
    let logs = bed.logs();
    let mut given = 0;
    for (reader, place, run) in shared.runs.borrow().iter() {
        let log = &logs[place];
        let first = run.start.or(run.records.first().map(|(offset, _)| *offset)).unwrap_or(0);
        for (nth, (offset, value)) in run.records.iter().enumerate() {
            let want = first + nth as i64;
            assert_eq!(*offset, want, "seed {seed}: reader {reader}, {place:?} from {first}");
            let (at, there) = &log[want as usize];
            assert_eq!((at, there), (offset, value), "seed {seed}: reader {reader}, {place:?}");
            given += 1;
        }
    }
    let in_logs: usize = logs.values().map(Vec::len).sum();
    let written: usize = told.iter().map(|(written, _)| written).sum();
    let failed: usize = told.iter().map(|(_, failed)| failed).sum();
    let possible = SENDERS as usize * RECORDS as usize - failed;
    assert!(
        (written..=possible).contains(&in_logs),
        "seed {seed}: {in_logs} in the logs, {written} to {possible} told"
    );
    assert!(written > 0, "seed {seed}: nothing to read");
    let ends: usize = shared.runs.borrow().iter().map(|(_, _, run)| run.records.len()).sum();
    assert!(ends >= 2 * in_logs, "seed {seed}: two readers, each all of it");
    *all.entry("reader: records given out".to_owned()).or_default() += given;
}

/// What a run over several seeds must have met beside [`EVERYDAY`].
const MET: &[&str] = &[
    "weather: sessions forgotten",
    "error: OFFSET_OUT_OF_RANGE",
    "error: FENCED_LEADER_EPOCH",
    "error: UNKNOWN_LEADER_EPOCH",
    "error: UNKNOWN_TOPIC_ID",
    "error: OFFSET_NOT_AVAILABLE",
    "error: KAFKA_STORAGE_ERROR",
    "error: FETCH_SESSION_ID_NOT_FOUND",
    "error: INVALID_FETCH_SESSION_EPOCH",
    "error: UNKNOWN_SERVER_ERROR",
    "reader: seeks to an offset",
    "reader: seeks to the start",
    "reader: pauses",
    "reader: resumes",
    "reader: naps",
    "reader: batches read later",
    "reader: left in the middle of a batch",
    "reader: partitions left and taken again",
    "reader: records given out",
    "edge: fetch session: asked -> open",
    "edge: fetch session: open -> continued",
    "edge: fetch session: open -> lost",
];

#[test]
fn r13_every_record_comes_once_and_in_order_whatever_happens() {
    let seeds = seeds(12);
    let all = each_seed(&seeds, |seed, all| {
        tormented(seed, all);
    });
    // The first local engine is seed 24.
    if seeds.len() >= 32 {
        demand(&all, &[EVERYDAY, MET]);
    }
}

#[test]
fn r13_the_same_seed_gives_the_same_run() {
    same_again((3..=5).chain([24]), |seed| tormented(seed, &mut BTreeMap::new()));
}
