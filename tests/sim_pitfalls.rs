//! Pitfalls by number, where a whole world shows more than the state machine alone: broker, network, threads and handles are
//! all there, in virtual time.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod sim_support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::base::rng::Rng;
use ottla::base::time::Time;
use ottla::batch::RecordSet;
use ottla::config::EngineSettings;
use ottla::producer::{DeliveryError, Producer, Record, RejectReason};
use ottla::testkit::broker::{Reaction, Rule, TopicSpec};
use ottla::testkit::clock::SimClock;
use ottla::testkit::sim::World;
use ottla::wire::messages::ProduceRequest;
use ottla::wire::{ApiKey, ErrorCode};
use sim_support::scene::{Answer, Play, Report, Scene, Told, judge};
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
                let flushed = lane.flush_async().await;
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
