//! Pitfalls by number, where a whole world shows more than the state machine alone: broker, network, threads and handles are
//! all there, in virtual time.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod sim_support;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use ottla::base::rng::Rng;
use ottla::base::sync::park_until;
use ottla::base::time::Time;
use ottla::batch::RecordSet;
use ottla::config::EngineSettings;
use ottla::producer::{DeliveryError, FlushError, Losses, Producer, Record, RejectReason};
use ottla::testkit::broker::{Reaction, Rule, TopicSpec};
use ottla::testkit::clock::SimClock;
use ottla::testkit::net::Rates;
use ottla::testkit::sim::{Climate, World};
use ottla::wire::messages::ProduceRequest;
use ottla::wire::{ApiKey, ErrorCode};
use sim_support::scene::{Answer, Play, Report, Scene, Told, judge, within};
use sim_support::{Bed, MINUTE, SECOND, Tally};

const MS: Duration = Duration::from_millis(1);

fn settings() -> EngineSettings {
    EngineSettings { request_timeout: 5 * SECOND, ..EngineSettings::default() }
}

/// Bursts of records to random partitions, each burst awaited; and how long each outcome took.
async fn bursts(
    producer: Producer,
    source: usize,
    count: u32,
    topics: &'static [(&'static str, i32)],
    clock: SimClock,
    seed: u64,
) -> (Report, Vec<Duration>) {
    let mut rng = Rng::new(seed * 131 + source as u64);
    let mut lane = producer.lane();
    let (mut report, mut waits) = (Report::default(), Vec::new());
    let mut number = 0;
    while number < count {
        let mut burst = Vec::new();
        let begun = clock.time();
        for _ in 0..1 + rng.below(6) {
            let (topic, partitions) = topics[rng.below(topics.len() as u64) as usize];
            let asked = rng.below(partitions as u64) as i32;
            let padding = rng.below(900) as usize;
            let value = format!("{source}:{number}:{topic}:{asked}:{padding}:{}", "x".repeat(padding));
            number += 1;
            let sent = lane.submit(Record::to(topic).partition(asked).value(&value));
            let answer = if sent.is_ok() { Answer::Taken } else { Answer::Refused };
            burst.extend(sent.ok().map(|sent| (report.told.len(), sent)));
            report.told.push(Told { topic, asked: Some(asked), value, answer });
        }
        for (index, sent) in burst {
            report.told[index].answer = Answer::Ended(sent.await);
            waits.push(clock.time().since(begun));
        }
        clock.sleep(Duration::from_micros(rng.below(40_000))).await;
    }
    (report, waits)
}

fn plain(seed: u64) -> Scene {
    Scene { play: Play::Plain, ..Scene::new(seed) }
}

/// Judges the logs; and gives what the tally says.
fn judged(bed: &Bed, seed: u64, reports: &[Report]) -> Tally {
    let mut all = Tally::new();
    let scene = Scene { idempotent: true, acks: ottla::config::Acks::All, ..plain(seed) };
    judge(bed, &scene, reports, &mut all);
    bed.tally(&mut all);
    all
}

fn counted(all: &Tally, what: &str) -> u64 {
    all.get(what).copied().unwrap_or(0)
}

const TWO: &[(&str, i32)] = &[("orders", 2), ("prices", 1)];

#[test]
fn d1_12_a_timeout_with_the_request_on_the_socket_misroutes_nothing() {
    let mut unknown = 0;
    for seed in 1..=4 {
        let mut bed = Bed::new(World::calm(seed), 3, 1, TWO, settings());
        let timeout = SECOND;
        let producer = bed.engine.producer().delivery_timeout(timeout).linger(MS).build().unwrap();
        let (broker, net, clock) = (bed.broker.clone(), bed.world.net().clone(), bed.world.clock());
        let mut rng = Rng::new(seed);
        bed.world.spawn_task("stalls", async move {
            for stall in [8, 3, 8, 3] {
                clock.sleep(Duration::from_millis(500 + rng.below(1_000))).await;
                let Some(address) = broker.address(rng.below(3) as i32) else { continue };
                // 3 s: the answer comes after the user was told. 8 s: the connection dies first, with the request.
                net.hold(address, true);
                clock.sleep(stall * SECOND).await;
                if stall > 5 {
                    // Nothing of what was sent arrives late either: the next number is a gap for the broker.
                    net.reset(address);
                    clock.sleep(MS).await;
                }
                net.hold(address, false);
            }
        });
        let clock = bed.world.clock();
        let senders: Vec<_> = (0..2)
            .map(|source| {
                let task = bursts(producer.clone(), source, 700, TWO, clock.clone(), seed);
                bed.start("sender", task)
            })
            .collect();
        bed.world.run(5 * MINUTE, || senders.iter().all(|slot| slot.borrow().is_some()));
        bed.pass(20 * SECOND);
        let mut reports = Vec::new();
        for slot in &senders {
            let (report, waits) = slot.take().unwrap();
            let longest = waits.iter().max().unwrap();
            // Whatever the socket does, the user is told at the deadline.
            assert!(*longest < timeout + 200 * MS, "seed {seed}: an outcome took {longest:?}");
            reports.push(report);
        }
        let all = judged(&bed, seed, &reports);
        unknown += counted(&all, "outcome: unknown");
        // What follows a batch that may or may not be there has a new epoch: no broker ever misses a number.
        assert_eq!(counted(&all, "error: OUT_OF_ORDER_SEQUENCE_NUMBER"), 0, "seed {seed}");
        assert_eq!(counted(&all, "error: INVALID_PRODUCER_EPOCH"), 0, "seed {seed}");
    }
    assert!(unknown >= 6, "the stalls did nothing: {unknown} unknown outcomes");
}

#[test]
fn d1_13_a_new_leader_gets_nothing_before_the_old_one_answered_and_then_one_batch_alone() {
    for seed in 1..=8 {
        // Snapshots tell of the new leader long before the old one answers.
        let settings = EngineSettings { metadata_max_age: 200 * MS, ..EngineSettings::default() };
        let mut bed = Bed::new(World::calm(seed), 3, 1, &[("orders", 1)], settings);
        let producer = bed.engine.producer().linger(Duration::ZERO).batch_count_max(Some(1)).build().unwrap();
        let clock = bed.world.clock();
        let sender = async move {
            let mut lane = producer.lane();
            let mut report = Report::default();
            let mut answers = Vec::new();
            for number in 0..60 {
                let value = format!("0:{number}:orders:0:0:");
                answers.push(lane.submit(Record::to("orders").partition(0).value(&value)).unwrap());
                report.told.push(Told { topic: "orders", asked: Some(0), value, answer: Answer::Taken });
                clock.sleep(10 * MS).await;
            }
            for (told, answer) in report.told.iter_mut().zip(answers) {
                told.answer = Answer::Ended(answer.await);
            }
            report
        };
        let old = bed.broker.look(|core| core.cluster.partition("orders", 0).unwrap().leader);
        let new = (old + 1) % 3;
        let slow = |node, wait| Rule::new(Reaction::DelayAnswer(wait)).api(ApiKey::Produce).node(node);
        let (old_takes, new_takes) = (400 * MS, 150 * MS);
        let seen: Arc<Mutex<Vec<(Time, i32)>>> = Arc::default();
        let log = Arc::clone(&seen);
        bed.broker.with(|core| {
            core.faults.add(slow(old, old_takes));
            core.faults.add(slow(new, new_takes));
            core.control(move |call, _: &ProduceRequest| {
                log.lock().unwrap().push((call.now.mono, call.node));
                None
            });
        });
        let slot = bed.start("sender", sender);
        // The very first batch went alone; now five are on their way, and the old leader is at the first of them.
        bed.pass(600 * MS);
        assert!(bed.broker.move_leader("orders", 0, new));
        bed.world.run(MINUTE, || slot.borrow().is_some());
        let all = judged(&bed, seed, &[slot.take().unwrap()]);
        assert_eq!(counted(&all, "outcome: delivered"), 60, "seed {seed}");
        assert!(counted(&all, "edge: partition: led -> led by another with batches in flight") > 0, "seed {seed}");
        let seen = seen.lock().unwrap();
        let of = |node| seen.iter().filter(move |(_, at)| *at == node).map(|(time, _)| *time).collect::<Vec<_>>();
        let (at_old, at_new) = (of(old), of(new));
        let last_answer = *at_old.last().unwrap() + old_takes;
        assert!(at_old.len() > 3 && at_new.len() > 3, "seed {seed}: {} and {} requests", at_old.len(), at_new.len());
        assert!(
            at_new[0] >= last_answer,
            "seed {seed}: the new leader was asked before the old one answered: {seen:?}"
        );
        assert!(at_new[1] >= at_new[0] + new_takes, "seed {seed}: the first batch was not alone: {seen:?}");
    }
}

#[test]
fn d1_15_a_restarting_broker_that_misses_the_topic_costs_nothing() {
    for seed in 1..=6 {
        let mut bed = Bed::new(World::calm(seed), 3, 2, TWO, settings());
        let producer = bed.engine.producer().linger(2 * MS).build().unwrap();
        let (broker, clock) = (bed.broker.clone(), bed.world.clock());
        let mut rng = Rng::new(seed);
        bed.world.spawn_task("restarts", async move {
            for _ in 0..3 {
                clock.sleep(Duration::from_millis(300 + rng.below(500))).await;
                let node = rng.below(3) as i32;
                broker.stop_node(node);
                clock.sleep(Duration::from_millis(rng.below(800))).await;
                let missing = || Rule::new(Reaction::Error(ErrorCode::UnknownTopicOrPartition)).topic("orders");
                let rules = broker.with(|core| {
                    let rules = [missing().api(ApiKey::Metadata), missing().api(ApiKey::Produce)];
                    rules.map(|rule| core.faults.add(rule))
                });
                broker.start_node(node);
                clock.sleep(Duration::from_millis(200 + rng.below(1_500))).await;
                broker.with(|core| rules.map(|rule| core.faults.remove(rule)));
            }
        });
        let clock = bed.world.clock();
        let slot = bed.start("sender", bursts(producer, 0, 500, TWO, clock, seed));
        bed.world.run(3 * MINUTE, || slot.borrow().is_some());
        let (report, _) = slot.take().unwrap();
        let told = report.told.len() as u64;
        let all = judged(&bed, seed, &[report]);
        assert_eq!(counted(&all, "outcome: delivered"), told, "seed {seed}");
        assert!(counted(&all, "error: UNKNOWN_TOPIC_OR_PARTITION") > 3, "seed {seed}");
        // The numbers went on where they were: no new epoch, no gap.
        for (partition, batches) in [0, 1].map(|partition| (partition, bed.broker.log("orders", partition))) {
            let mut next = 0;
            for batch in &batches {
                let view = RecordSet::new(batch).next().unwrap().unwrap();
                let header = *view.header().unwrap();
                assert_eq!((header.producer_epoch, header.base_sequence), (0, next), "seed {seed}: orders-{partition}");
                next += header.count;
            }
            assert!(next > 50, "seed {seed}");
        }
    }
}

#[test]
fn d1_16_records_for_a_topic_that_stays_missing_fail_after_the_propagation_time_each_time() {
    for seed in 1..=4 {
        let settings = EngineSettings { metadata_propagation_max: 3 * SECOND, ..settings() };
        let mut bed = Bed::new(World::calm(seed), 3, 2, TWO, settings);
        let producer = bed.engine.producer().build().unwrap();
        let clock = bed.world.clock();
        let waits = bed.run(10 * MINUTE, async move {
            let mut lane = producer.lane();
            let mut waits = Vec::new();
            for round in 0..6 {
                let begun = clock.time();
                let sent = lane.submit(Record::to("never").key("k").value("v")).unwrap();
                let flushed = lane.flush_async().await.unwrap();
                assert_eq!(flushed.failed, round + 1);
                let outcome = sent.await;
                assert!(matches!(outcome, Err(DeliveryError::Failed(_))), "{outcome:?}");
                waits.push(clock.time().since(begun));
                clock.sleep(Duration::from_millis(700 * round)).await;
            }
            waits
        });
        // The delivery timeout is 120 s; what is known to be missing is known sooner.
        assert!(waits.iter().all(|wait| *wait < 10 * SECOND), "seed {seed}: {waits:?}");
        assert!(waits[0] >= 2 * SECOND, "seed {seed}: a topic just created had no time to be seen: {waits:?}");
    }
}

#[test]
fn d1_19_records_wait_out_a_time_without_a_leader() {
    const LONELY: &[(&str, i32)] = &[("lonely", 3)];
    for seed in 1..=4 {
        let mut bed = Bed::new(World::calm(seed), 3, 2, TWO, settings());
        bed.watch("lonely");
        // One replica each, and a rolling restart: what a stopped node leads has no leader, the others say.
        bed.broker.with(|core| core.create_topic(&TopicSpec::new("lonely", 3).replication(1))).unwrap();
        let producer = bed.engine.producer().linger(2 * MS).build().unwrap();
        let (broker, clock) = (bed.broker.clone(), bed.world.clock());
        bed.world.spawn_task("rolling restart", async move {
            for node in [2, 0, 1] {
                clock.sleep(400 * MS).await;
                broker.stop_node(node);
                clock.sleep(3 * SECOND).await;
                broker.start_node(node);
            }
        });
        let clock = bed.world.clock();
        let slot = bed.start("sender", bursts(producer, 0, 300, LONELY, clock, seed));
        bed.world.run(3 * MINUTE, || slot.borrow().is_some());
        let (report, waits) = slot.take().unwrap();
        let told = report.told.len() as u64;
        let all = judged(&bed, seed, &[report]);
        assert_eq!(counted(&all, "outcome: delivered"), told, "seed {seed}");
        assert!(counted(&all, "edge: partition: led -> leaderless") > 0, "seed {seed}");
        let longest = waits.iter().max().unwrap();
        assert!((2 * SECOND..15 * SECOND).contains(longest), "seed {seed}: the longest wait was {longest:?}");
    }
}

#[test]
fn d1_24_closing_in_traffic_gives_every_record_one_outcome() {
    let mut met = Tally::new();
    for seed in 1..=10 {
        let mut bed = Bed::new(World::rough(seed), 3, 2, TWO, settings());
        // Answers get lost, so that some outcomes are not known when the end comes.
        bed.broker.with(|core| core.faults.add(Rule::new(Reaction::DropAfter).api(ApiKey::Produce).percent(30)));
        let producer = bed.engine.producer().linger(3 * MS).build().unwrap();
        let (engine, clock) = (bed.engine.clone(), bed.world.clock());
        let closed: Arc<Mutex<Option<Duration>>> = Arc::default();
        let noted = Arc::clone(&closed);
        let patience = Duration::from_millis([0, 20, 500][(seed % 3) as usize]);
        bed.world.spawn_task("closer", async move {
            clock.sleep(Duration::from_millis(150 + seed * 37)).await;
            let begun = clock.time();
            let _ = engine.close_async(patience).await;
            *noted.lock().unwrap() = Some(clock.time().since(begun));
        });
        let clock = bed.world.clock();
        let late = producer.clone();
        let senders: Vec<_> = (0..2)
            .map(|source| {
                let task = bursts(producer.clone(), source, 2_000, TWO, clock.clone(), seed);
                bed.start("sender", task)
            })
            .collect();
        bed.world.run(5 * MINUTE, || senders.iter().all(|slot| slot.borrow().is_some()));
        let took = closed.lock().unwrap().unwrap();
        assert!(took <= patience + 200 * MS, "seed {seed}: close took {took:?} of {patience:?}");
        let reports: Vec<Report> = senders.iter().map(|slot| slot.take().unwrap().0).collect();
        for told in reports.iter().flat_map(|report| &report.told) {
            assert_ne!(told.answer, Answer::Taken, "seed {seed}: {} has no outcome", told.value);
        }
        let refusal = late.try_send(Record::to("orders").value("x")).map_err(|rejected| rejected.reason);
        assert_eq!(refusal, Err(RejectReason::Closed), "seed {seed}");
        for (what, count) in judged(&bed, seed, &reports) {
            *met.entry(what).or_default() += count;
        }
    }
    for outcome in ["delivered", "failed", "unknown", "refused"] {
        assert!(counted(&met, &format!("outcome: {outcome}")) > 0, "no record ended {outcome}: {met:#?}");
    }
}

/// How brokers fall silent.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Silence {
    /// They read and never answer.
    NoAnswers,
    /// Nothing is delivered to them any more.
    Held,
    /// The same since before the first connection: nothing is known of any topic.
    HeldFromTheStart,
}

const LIMITS_MS: [u64; 9] = [0, 1, 5, 20, 50, 100, 333, 1_000, 4_000];

/// Sleeps in a thread of the world.
fn nap(clock: &SimClock, duration: Duration) {
    let _ = park_until::<()>(clock.time() + duration, clock, |_| Poll::Pending);
}

/// How long a call took that had `limit`: between that and 50 ms more; exactly that where threads wake on time.
fn in_time<T>(seed: u64, what: &str, clock: &SimClock, limit: Duration, exactly: bool, call: impl FnOnce() -> T) -> T {
    let begun = clock.time();
    let answer = call();
    let took = clock.time().since(begun);
    let margin = if exactly { Duration::ZERO } else { 50 * MS };
    assert!((limit..=limit + margin).contains(&took), "seed {seed}: {what} with {limit:?} took {took:?}");
    answer
}

#[test]
fn d1_22_flush_and_close_return_within_their_time_and_50_ms_when_brokers_are_silent() {
    const TOPICS: &[(&str, i32)] = &[("orders", 8), ("prices", 1)];
    let silences = [Silence::NoAnswers, Silence::Held, Silence::HeldFromTheStart];
    // With late wakes and pushes every other time; a machine that stalls threads for 50 ms is another matter.
    let late = Climate { stall_per_10_000: 0, ..Climate::rough() };
    for (seed, limit) in (1..).zip(LIMITS_MS.into_iter().cycle().take(18)) {
        let (silence, exactly) = (silences[seed as usize % 3], seed % 2 == 0);
        let world = if exactly { World::calm(seed) } else { World::new(seed, late, Rates::calm()) };
        let mut bed = Bed::new(world, 2, 2, TOPICS, EngineSettings { buffer_memory: 256 << 10, ..settings() });
        let clock = bed.world.clock();
        let (open, sealed) = (bed.engine.producer().linger(100 * SECOND), bed.engine.producer().linger(MS));
        let (open, sealed) = (open.build().unwrap(), sealed.batch_count_max(Some(3)).build().unwrap());
        let hold = |bed: &Bed| (0..2).for_each(|node| bed.world.net().hold(bed.broker.address(node).unwrap(), true));
        if silence == Silence::HeldFromTheStart {
            hold(&bed);
        } else {
            let producers = [open.clone(), sealed.clone()];
            bed.run_thread(MINUTE, move || {
                for (producer, partition) in producers.iter().flat_map(|it| (0..8).map(move |to| (it, to))) {
                    producer.submit(Record::to("orders").partition(partition).value("w")).unwrap().wait().unwrap();
                }
            });
        }
        match silence {
            Silence::NoAnswers => drop(bed.broker.with(|core| core.faults.add(Rule::new(Reaction::BlackHole)))),
            Silence::Held => hold(&bed),
            Silence::HeldFromTheStart => {}
        }
        // Many lanes with something in every stage: in flight (somebody waits), sealed by number, open, without a topic.
        let mut lanes: Vec<_> = (0..24).map(|at| if at % 2 == 0 { open.lane() } else { sealed.lane() }).collect();
        for (at, lane) in lanes.iter_mut().enumerate() {
            let record = |topic: &'static str| Record::to(topic).value("12345678901234567890");
            drop(lane.submit(record("orders").partition(at as i32 % 8)).unwrap());
            (0..10).for_each(|_| lane.send(record("orders").partition(at as i32 % 8)).unwrap());
            (0..3).for_each(|_| lane.send(record("never")).unwrap());
        }
        sealed.send(Record::to("orders").partition(0).value("by the shared handle")).unwrap();
        // And threads that wait for memory, behind whom a flush waits too.
        let blocked: Vec<_> = (0..3)
            .map(|at| {
                let (own, shared) = (open.lane(), open.clone());
                bed.start_thread("blocked", move || {
                    let (mut own, value) = (own, "x".repeat(9_000));
                    let record = Record::to("prices").partition(0).value(&value);
                    while (if at == 0 { own.send(record.clone()) } else { shared.send(record.clone()) }).is_ok() {}
                })
            })
            .collect();
        bed.pass(SECOND);
        assert!(blocked.iter().all(|slot| slot.lock().unwrap().is_none()), "seed {seed}: nobody is blocked");
        let mut calls = Vec::new();
        for lane in lanes.drain(..20) {
            let (mut lane, clock) = (lane, clock.clone());
            calls.push(bed.start_thread("flushes a lane", move || {
                for limit in LIMITS_MS.map(Duration::from_millis) {
                    let flushed = in_time(seed, "Lane::flush", &clock, limit, exactly, || lane.flush(limit));
                    assert_eq!(flushed, Err(FlushError::Timeout), "seed {seed}");
                }
            }));
        }
        for producer in [open.clone(), open.clone(), sealed.clone()] {
            let clock = clock.clone();
            calls.push(bed.start_thread("flushes and closes", move || {
                for limit in LIMITS_MS.map(Duration::from_millis) {
                    let flushed = in_time(seed, "flush", &clock, limit, exactly, || producer.flush(limit));
                    assert_eq!(flushed, Err(FlushError::Timeout), "seed {seed}");
                }
                nap(&clock, SECOND);
                for limit in LIMITS_MS.map(Duration::from_millis) {
                    let closed = in_time(seed, "close", &clock, limit, exactly, || producer.close(limit));
                    assert_eq!(closed, Err(FlushError::Timeout), "seed {seed}");
                }
            }));
        }
        bed.world.run(MINUTE, || calls.iter().all(|slot| slot.lock().unwrap().is_some()));
        // The engine ends, whoever still flushes and sends.
        let flushing: Vec<_> = lanes
            .into_iter()
            .map(|lane| {
                let mut lane = lane;
                bed.start_thread("still flushes", move || lane.flush(100 * SECOND))
            })
            .collect();
        let (engine, limit) = (bed.engine.clone(), Duration::from_millis(limit));
        bed.run_thread(MINUTE, move || {
            nap(&clock, 10 * MS);
            let closed = in_time(seed, "Engine::close", &clock, limit, false, || engine.close(limit));
            assert_eq!(closed, Ok(()), "seed {seed}");
        });
        bed.pass(SECOND);
        assert!(blocked.iter().all(|slot| slot.lock().unwrap().is_some()), "seed {seed}: a sender is still blocked");
        for slot in &flushing {
            let losses = slot.lock().unwrap().take().unwrap().unwrap();
            assert_eq!(losses.failed + losses.unknown, 14, "seed {seed}: {losses:?}");
        }
    }
}

/// What threads that send without end have begun and heard, and where they are told to stop.
#[derive(Default)]
struct Endless {
    begun: AtomicUsize,
    heard: Arc<AtomicUsize>,
    stop: AtomicBool,
}

#[test]
fn d1_22_a_flush_covers_blocked_senders_and_the_last_callback_and_nothing_later() {
    let mut blocked = 0;
    for seed in 1..=8 {
        // Every other time memory is short when the flush begins, and somebody waits for it.
        let short = seed % 2 == 0;
        let memory = if short { 64 << 10 } else { 32 << 20 };
        let mut bed = Bed::new(World::rough(seed), 3, 2, TWO, EngineSettings { buffer_memory: memory, ..settings() });
        let producer = bed.engine.producer().linger(100 * SECOND).delivery_timeout(2_000 * SECOND).build().unwrap();
        let clock = bed.world.clock();
        bed.broker.with(|core| core.faults.add(Rule::new(Reaction::DelayAnswer(60 * MS)).api(ApiKey::Produce)));
        let all: Vec<Arc<Endless>> = (0..3).map(|_| Arc::default()).collect();
        let senders: Vec<_> = all
            .iter()
            .cloned()
            .enumerate()
            .map(|(source, mine)| {
                let (producer, clock) = (producer.clone(), clock.clone());
                bed.start_thread("sends without end", move || {
                    let value = "x".repeat(if short { 3_000 } else { 30 });
                    let record = Record::to(TWO[source % 2].0).partition(source as i32 / 2).value(&value);
                    while !mine.stop.load(Ordering::SeqCst) {
                        mine.begun.fetch_add(1, Ordering::SeqCst);
                        let (heard, timer) = (Arc::clone(&mine.heard), clock.clone());
                        let slow = mine.begun.load(Ordering::SeqCst).is_multiple_of(10);
                        let count = move |outcome: ottla::producer::DeliveryResult| {
                            outcome.unwrap();
                            if slow {
                                nap(&timer, MS);
                            }
                            heard.fetch_add(1, Ordering::SeqCst);
                        };
                        producer.send_with(record.clone(), count).unwrap();
                        nap(&clock, Duration::from_micros(700));
                    }
                })
            })
            .collect();
        // Callbacks run on another thread too, which a flush waits for.
        let (poller, timer, ended) = (producer.clone(), clock.clone(), Arc::clone(&all[0]));
        let polls = bed.start_thread("polls", move || {
            while !ended.stop.load(Ordering::SeqCst) {
                poller.poll();
                nap(&timer, 2 * MS);
            }
        });
        let (flusher, seen, timer) = (producer.clone(), all.clone(), clock.clone());
        let stuck = bed.run_thread(10 * MINUTE, move || {
            let mut stuck = 0;
            for _ in 0..6 {
                nap(&timer, 150 * MS);
                let before: Vec<usize> = seen.iter().map(|it| it.begun.load(Ordering::SeqCst)).collect();
                nap(&timer, 5 * MS);
                let earlier = before;
                let before: Vec<usize> = seen.iter().map(|it| it.begun.load(Ordering::SeqCst)).collect();
                stuck += earlier.iter().zip(&before).filter(|(earlier, now)| earlier == now).count();
                let begun = timer.time();
                assert_eq!(flusher.flush(MINUTE), Ok(Losses { failed: 0, unknown: 0 }), "seed {seed}");
                let took = timer.time().since(begun);
                // Records of one partition are heard of in order, whoever sent them: counts are enough.
                for (mine, before) in seen.iter().zip(&before) {
                    let heard = mine.heard.load(Ordering::SeqCst);
                    assert!(heard >= *before, "seed {seed}: {heard} of {before} outcomes heard when flush returned");
                }
                assert!(took < 40 * SECOND, "seed {seed}: linger did not end, or later records held it up: {took:?}");
            }
            stuck
        });
        blocked += if short { stuck } else { 0 };
        all.iter().for_each(|it| it.stop.store(true, Ordering::SeqCst));
        let flusher = producer.clone();
        let last = bed.start_thread("last flush", move || {
            nap(&clock, SECOND);
            flusher.flush(MINUTE)
        });
        bed.world.run(10 * MINUTE, || {
            last.lock().unwrap().is_some()
                && polls.lock().unwrap().is_some()
                && senders.iter().all(|slot| slot.lock().unwrap().is_some())
        });
        let begun: usize = all.iter().map(|it| it.begun.load(Ordering::SeqCst)).sum();
        let (logged, heard): (usize, usize) =
            (bed.logs().values().map(Vec::len).sum(), all.iter().map(|it| it.heard.load(Ordering::SeqCst)).sum());
        assert_eq!((logged, heard), (begun, begun), "seed {seed}");
    }
    println!("{blocked} threads were blocked when a flush began");
    assert!(blocked > 10, "hardly anybody was blocked when a flush began: {blocked}");
}

#[test]
fn d1_22_a_flush_waits_for_the_callback_that_another_thread_runs() {
    for seed in 1..=4 {
        let mut bed = Bed::new(World::rough(seed), 1, 1, TWO, settings());
        let producer = bed.engine.producer().linger(MS).build().unwrap();
        let clock = bed.world.clock();
        let (begun, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (flags, timer) = ((Arc::clone(&begun), Arc::clone(&ended)), clock.clone());
        let slow = move |_: ottla::producer::DeliveryResult| {
            flags.0.store(true, Ordering::SeqCst);
            nap(&timer, 300 * MS);
            flags.1.store(true, Ordering::SeqCst);
        };
        producer.send_with(Record::to("orders").value("x"), slow).unwrap();
        let (poller, timer) = (producer.clone(), clock.clone());
        bed.start_thread("polls", move || {
            while poller.poll() == 0 {
                nap(&timer, MS);
            }
        });
        bed.run_thread(MINUTE, move || {
            while !begun.load(Ordering::SeqCst) {
                nap(&clock, MS);
            }
            assert!(!ended.load(Ordering::SeqCst));
            assert!(producer.flush(MINUTE).is_ok());
            assert!(ended.load(Ordering::SeqCst), "seed {seed}: the callback still runs");
        });
    }
}

/// The first part of a record's value, padded to `bytes`.
fn padded(name: &str, bytes: usize) -> String {
    format!("{name}:{}", "x".repeat(bytes))
}

/// An engine whose 64 KiB are used up by records on partitions 0 to 3; the broker answers when asked to.
fn exhausted(bed: &mut Bed, producer: &Producer, partitions: i32) -> usize {
    let (broker, sender) = (bed.broker.clone(), producer.clone());
    bed.run(MINUTE, async move {
        for partition in 0..partitions {
            let sent = sender.submit_async(Record::to("orders").partition(partition).value("w")).await.unwrap();
            sent.await.unwrap();
        }
        broker.with(|core| core.faults.add(Rule::new(Reaction::DelayAnswer(100 * MS)).api(ApiKey::Produce)));
        let value = padded("fill", 2_000);
        (0..4)
            .map(|to| {
                let record = Record::to("orders").partition(to).value(&value);
                (0..64).take_while(|_| sender.try_send(record.clone()).is_ok()).count()
            })
            .sum()
    })
}

/// Polls once, and drops the work after `patience` without having polled it again: whoever holds a future may forget it.
async fn begun_and_left<T>(clock: &SimClock, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    if let Poll::Ready(done) = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(done);
    }
    clock.sleep(patience).await;
    None
}

#[test]
fn d1_23_freed_memory_goes_to_those_who_waited_longest_and_linger_ends_for_them() {
    // A partition each: one that holds much waits behind itself, which is another rule (r08).
    const ORDERS: &[(&str, i32)] = &[("orders", 16)];
    let (mut rounds, mut apart) = (0, 0);
    for seed in 1..=6 {
        let settings = EngineSettings { buffer_memory: 64 << 10, max_in_flight_requests: 1, ..settings() };
        let mut bed = Bed::new(World::calm(seed), 1, 1, ORDERS, settings);
        let producer = bed.engine.producer().linger(50 * SECOND).batch_size(5_000).build().unwrap();
        assert!(exhausted(&mut bed, &producer, 16) > 10, "seed {seed}");
        // Those who wait, in this order: large and small ones of partitions that hold nothing.
        let mut rng = Rng::new(seed);
        let sizes: Vec<usize> = (0..12).map(|at| [20_000, 600, 6_000][(at + rng.below(2) as usize) % 3]).collect();
        let begun = bed.now();
        let served: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(at, bytes)| {
                let (producer, clock, value) = (producer.clone(), bed.world.clock(), padded(&at.to_string(), *bytes));
                // Futures and threads stand in one line.
                let record = Record::to("orders").partition(4 + at as i32);
                let slot: Arc<Mutex<Option<Time>>> = Arc::default();
                let note = Arc::clone(&slot);
                if at % 2 == 0 {
                    bed.world.spawn_task("waits", async move {
                        producer.send_async(record.value(&value)).await.unwrap();
                        *note.lock().unwrap() = Some(clock.time());
                    });
                } else {
                    bed.start_thread("waits", move || {
                        producer.send(record.value(&value)).unwrap();
                        *note.lock().unwrap() = Some(clock.time());
                    });
                }
                // It stands in line before the next one comes.
                bed.pass(Duration::from_micros(10));
                slot
            })
            .collect();
        bed.world.run(MINUTE, || served.iter().all(|slot| slot.lock().unwrap().is_some()));
        let served: Vec<Time> = served.iter().map(|slot| slot.lock().unwrap().unwrap()).collect();
        let took: Vec<Duration> = served.iter().map(|at| at.since(begun)).collect();
        assert!(served.is_sorted(), "seed {seed}: {sizes:?} were served after {took:?}");
        assert!(took[0] > MS && took[11] < 20 * SECOND, "seed {seed}: linger is 50 s: {took:?}");
        rounds += 1;
        apart += usize::from(took[11] - took[0] > 90 * MS);
        let losses = bed.run(MINUTE, async move { producer.flush_async().await.unwrap() });
        assert_eq!(losses, Losses::default(), "seed {seed}");
    }
    assert_eq!(apart, rounds, "all were served at once: their order shows nothing");
}

#[test]
fn d1_23_who_stood_behind_one_that_gives_up_goes_on_at_once() {
    for seed in 1..=4 {
        let settings = EngineSettings { buffer_memory: 64 << 10, ..settings() };
        let mut bed = Bed::new(World::calm(seed), 1, 1, &[("orders", 8)], settings);
        let producer = bed.engine.producer().linger(50 * SECOND).max_block(2 * SECOND).build().unwrap();
        let warm = producer.clone();
        bed.run_thread(MINUTE, move || {
            for partition in [0, 4, 5] {
                warm.submit(Record::to("orders").partition(partition).value("w")).unwrap().wait().unwrap();
            }
        });
        bed.world.net().hold(bed.broker.address(0).unwrap(), true);
        let value = padded("held", 2_000);
        (0..6).for_each(|_| producer.try_send(Record::to("orders").partition(0).value(&value)).unwrap());
        // More than is free; a future that is dropped, or a thread whose `max.block.ms` passes.
        let (sender, clock, value) = (producer.clone(), bed.world.clock(), padded("large", 60_000));
        if seed % 2 == 0 {
            bed.world.spawn_task("gives up", async move {
                let send = sender.send_async(Record::to("orders").partition(4).value(&value));
                assert!(begun_and_left(&clock, SECOND, send).await.is_none());
            });
        } else {
            bed.start_thread("gives up", move || {
                let sent = sender.send(Record::to("orders").partition(4).value(&value));
                assert_eq!(sent.unwrap_err().reason, RejectReason::Timeout);
            });
        }
        bed.pass(20 * MS);
        let (begun, clock) = (bed.now(), bed.world.clock());
        let limit = if seed % 2 == 0 { SECOND } else { 2 * SECOND };
        let took = bed.run_thread(MINUTE, move || {
            producer.send(Record::to("orders").partition(5).value("small")).unwrap();
            clock.time().since(begun)
        });
        assert!(
            (limit - 21 * MS..limit + MS).contains(&took),
            "seed {seed}: served after {took:?}, with nothing given back"
        );
    }
}

#[test]
fn d1_23_waiting_senders_that_give_up_hold_nobody_and_nothing() {
    let mut given_up = 0;
    for seed in 1..=12 {
        let world = if seed % 2 == 0 { World::calm(seed) } else { World::rough(seed) };
        let settings = EngineSettings { buffer_memory: 64 << 10, ..settings() };
        let mut bed = Bed::new(world, 1, 1, &[("orders", 8)], settings);
        let producer = bed.engine.producer().linger(50 * SECOND).max_block(2 * SECOND).build().unwrap();
        exhausted(&mut bed, &producer, 8);
        let mut rng = Rng::new(seed);
        let address = bed.broker.address(0).unwrap();
        // Nothing is acknowledged for a while, then one answer after the other.
        bed.world.net().hold(address, true);
        let waiters: Vec<_> = (0..24)
            .map(|at| {
                let (producer, clock) = (producer.clone(), bed.world.clock());
                let value = padded(&at.to_string(), [20_000, 600, 6_000][rng.below(3) as usize]);
                // Threads that wait for their `max.block.ms` only, cancelled futures, and such as nobody polls any more: what
                // those are given they never fetch.
                let patience = Duration::from_micros(rng.below(3_000_000));
                bed.pass(Duration::from_micros(10));
                let partition = 4 + at % 4;
                if at % 3 == 0 {
                    let sends = move || {
                        let sent = producer.send(Record::to("orders").partition(partition).value(&value));
                        sent.map_err(|rejected| assert_eq!(rejected.reason, RejectReason::Timeout)).is_ok()
                    };
                    return bed.start_thread("waits", sends);
                }
                let slot: Arc<Mutex<Option<bool>>> = Arc::default();
                let note = Arc::clone(&slot);
                bed.world.spawn_task("may give up", async move {
                    let send = producer.send_async(Record::to("orders").partition(partition).value(&value));
                    let sent = match at % 3 {
                        1 => within(&clock, patience, send).await,
                        _ => begun_and_left(&clock, patience, send).await,
                    };
                    *note.lock().unwrap() = Some(matches!(sent, Some(Ok(()))));
                });
                slot
            })
            .collect();
        bed.pass(Duration::from_micros(rng.below(2_500_000)));
        bed.world.net().hold(address, false);
        bed.world.run(MINUTE, || waiters.iter().all(|slot| slot.lock().unwrap().is_some()));
        given_up += waiters.iter().filter(|slot| *slot.lock().unwrap() == Some(false)).count();
        // All of it is there again: one record takes nearly everything.
        let last = bed.run(5 * MINUTE, async move {
            let losses = producer.flush_async().await.unwrap();
            let value = padded("last", 60_000);
            let last = producer.send_async(Record::to("orders").partition(0).value(&value)).await;
            (losses, last.map_err(|rejected| rejected.reason))
        });
        assert_eq!(last, (Losses::default(), Ok(())), "seed {seed}");
    }
    println!("{given_up} gave up");
    assert!((40..250).contains(&given_up), "{given_up} of 288 gave up");
}

#[test]
fn d4_84_a_wall_clock_that_jumps_expires_nothing_and_stamps_records() {
    for seed in 1..=4 {
        let mut bed = Bed::new(World::calm(seed), 3, 1, &[("orders", 1)], settings());
        let producer = bed.engine.producer().delivery_timeout(20 * SECOND).linger(20 * MS).build().unwrap();
        let clock = bed.world.clock();
        let sender = async move {
            let mut lane = producer.lane();
            let mut told = Vec::new();
            for number in 0..200i64 {
                // An hour there and back, with records lingering and in flight.
                if number % 10 == 5 {
                    clock.jump_wall(if number % 20 == 5 { 3_600_000 } else { -7_200_000 });
                }
                let wall_ms = ottla::base::time::Clock::now(&clock).wall_ms;
                let value = number.to_string();
                let sent = lane.submit(Record::to("orders").partition(0).value(&value)).unwrap();
                told.push((wall_ms, sent));
                clock.sleep(7 * MS).await;
            }
            let mut outcomes = Vec::new();
            for (wall_ms, sent) in told {
                outcomes.push((wall_ms, sent.await));
            }
            outcomes
        };
        let slot = bed.start("sender", sender);
        bed.world.run(MINUTE, || slot.borrow().is_some());
        let outcomes = slot.take().unwrap();
        assert_eq!(outcomes.len(), 200);
        for (number, (wall_ms, outcome)) in outcomes.iter().enumerate() {
            let delivered =
                outcome.unwrap_or_else(|error: DeliveryError| panic!("seed {seed}: record {number}: {error}"));
            assert_eq!((delivered.offset, delivered.timestamp_ms), (Some(number as i64), *wall_ms), "seed {seed}");
        }
        let stats = bed.engine.stats();
        assert_eq!((stats.retries, stats.link_failures), (0, 0), "seed {seed}: a jump was taken for a timeout");
    }
}

/// The partitions that a request names.
type Named = Vec<(String, i32)>;

#[test]
fn r14_one_request_names_a_partition_once_whoever_sends_there() {
    let mut shared = 0;
    for seed in 1..=4 {
        let mut bed = Bed::new(World::calm(seed), 1, 1, TWO, settings());
        let requests: Arc<Mutex<Vec<Named>>> = Arc::default();
        let log = Arc::clone(&requests);
        let names = bed
            .broker
            .look(|core| core.cluster.topics.values().map(|topic| (topic.id, topic.name.clone())).collect::<Vec<_>>());
        bed.broker.with(|core| {
            core.control(move |_, request: &ProduceRequest| {
                let named = request.topic_data.iter().flat_map(|topic| {
                    let by_id = names.iter().find(|(id, _)| *id == topic.topic_id).map(|(_, name)| name.clone());
                    let name = by_id.unwrap_or_else(|| topic.name.clone());
                    topic.partition_data.iter().map(move |partition| (name.clone(), partition.index))
                });
                log.lock().unwrap().push(named.collect());
                None
            });
        });
        let clock = bed.world.clock();
        let senders: Vec<_> = (0..3)
            .map(|source| {
                // A producer each, all alike: their batches may share requests.
                let producer = bed.engine.producer().linger(5 * MS).build().unwrap();
                bed.start("sender", bursts(producer, source, 200, TWO, clock.clone(), seed))
            })
            .collect();
        bed.world.run(MINUTE, || senders.iter().all(|slot| slot.borrow().is_some()));
        let reports: Vec<Report> = senders.iter().map(|slot| slot.take().unwrap().0).collect();
        let told: usize = reports.iter().map(|report| report.told.len()).sum();
        let all = judged(&bed, seed, &reports);
        assert_eq!(counted(&all, "outcome: delivered"), told as u64, "seed {seed}");
        for request in requests.lock().unwrap().iter() {
            let once: BTreeSet<_> = request.iter().collect();
            assert_eq!(once.len(), request.len(), "seed {seed}: {request:?}");
            shared += usize::from(request.len() > 1);
        }
    }
    assert!(shared > 20, "only {shared} requests had more than one partition");
}
