//! The producer in a simulated world: leaders move, connections die, answers are lost, nodes come and go; and nothing
//! acknowledged is lost, duplicated or reordered. A seed that fails is replayed with
//! `OTTLA_SIM_SEED=<seed> cargo test --features testkit --test sim_producer`.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod sim_support;

use std::collections::BTreeMap;
use std::time::Duration;

use ottla::base::rng::Rng;
use ottla::config::{Compression, EngineSettings};
use ottla::producer::{DeliveryError, DeliveryResult, Producer, Record};
use ottla::testkit::clock::SimClock;
use ottla::testkit::sim::{Outcome, World};
use sim_support::{Bed, MINUTE, Replay, SECOND, demand, seeds};

const TOPICS: &[(&str, i32)] = &[("orders", 6), ("prices", 1)];

/// What one sender was told about its record: topic, partition asked for, value, outcome.
type Told = (&'static str, i32, String, DeliveryResult);

/// Sends `count` numbered records over a lane of its own, in bursts and pauses, and waits for every outcome.
async fn sender(producer: Producer, source: usize, count: u32, clock: SimClock, mut rng: Rng) -> Vec<Told> {
    let mut lane = producer.lane();
    let mut sent = Vec::new();
    for number in 0..count {
        let (topic, partitions) = TOPICS[usize::from(rng.percent(20))];
        let partition = rng.below(partitions as u64) as i32;
        let value = format!("{source}:{number}:{}", "x".repeat(rng.below(400) as usize));
        let record = Record::to(topic).partition(partition).key("key").value(&value);
        let answer = lane.submit(record).unwrap();
        sent.push((topic, partition, value, answer));
        if rng.percent(30) {
            clock.sleep(Duration::from_micros(rng.below(60_000))).await;
        }
        if rng.percent(1) {
            let _ = lane.flush_async().await;
        }
    }
    let _ = lane.flush_async().await;
    let mut told = Vec::new();
    for (topic, partition, value, answer) in sent {
        told.push((topic, partition, value, answer.await));
    }
    told
}

/// The promises, from what senders were told and what the logs hold.
fn judge(bed: &Bed, told: &[Vec<Told>], idempotent: bool) {
    let seed = bed.world.schedule().seed();
    let logs = bed.logs();
    let mut places: BTreeMap<&str, Vec<(&str, i32, i64)>> = BTreeMap::new();
    for ((topic, partition), records) in &logs {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for (offset, value) in records {
            places.entry(value).or_default().push((topic, *partition, *offset));
            let mut parts = value.split(':');
            let (source, number) = (parts.next().unwrap(), parts.next().unwrap().parse::<u32>().unwrap());
            if let Some(before) = last.insert(source, number)
                && idempotent
            {
                assert!(
                    before < number,
                    "seed {seed}: {topic}-{partition}: {source}:{number} after {before}; the log:\n{}",
                    bed.describe_log(topic, *partition)
                );
            }
        }
    }
    for (topic, partition, value, outcome) in told.iter().flatten() {
        let short = value.trim_end_matches('x');
        let found = places.get(value.as_str()).map_or(&[][..], Vec::as_slice);
        if idempotent {
            assert!(found.len() <= 1, "seed {seed}: {short} is in the log {} times", found.len());
        }
        match outcome {
            Ok(delivered) => {
                assert_eq!(delivered.partition, *partition, "seed {seed}: {short}");
                let is_there = found.iter().any(|(t, p, offset)| {
                    (t, p) == (topic, partition) && delivered.offset.is_none_or(|told| told == *offset)
                });
                assert!(is_there, "seed {seed}: acknowledged {short} at {delivered:?}, the log has {found:?}");
            }
            Err(DeliveryError::Failed(why)) => {
                assert!(found.is_empty(), "seed {seed}: {short} failed ({why:?}): {found:?}")
            }
            Err(DeliveryError::Unknown(_)) => {}
        }
    }
}

fn settings() -> EngineSettings {
    EngineSettings { request_timeout: 5 * SECOND, ..EngineSettings::default() }
}

/// One run: 3 nodes, 2 shards, 3 senders, a minute of trouble.
fn tormented(seed: u64, all: &mut BTreeMap<String, u64>) -> u64 {
    let _replay = Replay(seed, "sim_producer");
    let mut bed = Bed::new(World::rough(seed), 3, 2, TOPICS, settings());
    bed.add_rules(2);
    bed.torment(MINUTE);
    let compression = [Compression::None, Compression::Lz4][(seed % 2) as usize];
    let producer =
        bed.engine.producer().compression(compression).linger(Duration::from_millis(seed % 3 * 5)).build().unwrap();
    let clock = bed.world.clock();
    let senders: Vec<_> = (0..3)
        .map(|source| {
            let rng = Rng::new(seed * 31 + source);
            let task = sender(producer.clone(), source as usize, 400, clock.clone(), rng);
            bed.start(&format!("sender {source}"), task)
        })
        .collect();
    let done = || senders.iter().all(|slot| slot.borrow().is_some());
    let outcome = bed.world.run_until(bed.now() + 10 * MINUTE, done);
    if outcome != Outcome::Done {
        bed.tally(all);
        let stats = bed.engine.stats();
        let open: Vec<_> =
            (0..3).map(|node| bed.broker.address(node).map(|at| bed.world.net().connections(at))).collect();
        panic!("seed {seed}: {outcome:?} with senders still waiting\n{stats:#?}\nconnections {open:?}\n{all:#?}");
    }
    let told: Vec<Vec<Told>> = senders.iter().map(|slot| slot.take().unwrap()).collect();
    judge(&bed, &told, true);
    for (_, _, _, outcome) in told.iter().flatten() {
        let name = match outcome {
            Ok(_) => "outcome: delivered",
            Err(DeliveryError::Failed(_)) => "outcome: failed",
            Err(DeliveryError::Unknown(_)) => "outcome: unknown",
        };
        *all.entry(name.to_owned()).or_default() += 1;
    }
    bed.tally(all);
    if std::env::var_os("OTTLA_SIM_SEED").is_some() {
        println!("{}\n{}", bed.world.report(), bed.world.turns_by_party());
    }
    bed.world.schedule().trace_hash()
}

#[test]
fn r13_nothing_acknowledged_is_lost_duplicated_or_reordered() {
    let seeds = seeds(12);
    let mut all = BTreeMap::new();
    for seed in &seeds {
        tormented(*seed, &mut all);
    }
    if seeds.len() >= 12 {
        demand(
            &all,
            &[
                "outcome: delivered",
                "weather: leaders moved",
                "weather: nodes stopped",
                "weather: nodes refusing",
                "weather: connections reset",
                "weather: connections refused",
                "weather: connections cut while writing",
                "weather: hosts held",
                "weather: writes fragmented",
                "weather: writes stalled",
                "weather: parties stalled",
                "weather: pushes seen late",
                "weather: wakes that came twice",
                "weather: wall clock jumped",
                "broker: drop-before",
                "broker: drop-after",
                "broker: error",
                "broker: error-after",
                "broker: delay",
                "broker: delay-answer",
                "broker: throttle",
                "broker: truncate",
                "broker: wrong-correlation",
                "broker: black-hole",
                "broker: batches sent twice",
                "engine: batches retried",
                "engine: links lost",
                "error: NOT_LEADER_OR_FOLLOWER",
                "error: REQUEST_TIMED_OUT",
                "error: NOT_ENOUGH_REPLICAS",
                "error: NOT_ENOUGH_REPLICAS_AFTER_APPEND",
            ],
        );
    }
}

#[test]
fn r13_the_same_seed_gives_the_same_run() {
    let run = |seed| tormented(seed, &mut BTreeMap::new());
    assert_eq!(run(3), run(3));
}
