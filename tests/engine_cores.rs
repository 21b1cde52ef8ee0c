//! Which threads an engine has, where they run, and how they wake each other on one CPU (design §3, rules 11 and 12). The
//! tests look at threads by name and move between CPUs, so they take turns.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ottla::config::{BackendSetting, Cores};
use ottla::engine::{Engine, EngineError};
use ottla::producer::{FlushError, Losses, Record};
use ottla::testkit::broker::{Broker, Reaction, Rule};
use ottla::wire::ApiKey;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const LONG: Duration = Duration::from_secs(30);

static TURN: Mutex<()> = Mutex::new(());

fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name and CPUs of this process' threads that belong to an engine, by name.
fn engine_threads() -> Vec<(String, Vec<usize>)> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        if name.starts_with("ottla-") {
            let status = read("status");
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
            threads.push((name, cpus(list.trim())));
        }
    }
    threads.sort();
    threads
}

/// A thread that was joined may be listed for a moment longer.
fn no_engine_threads() {
    let start = Instant::now();
    while !engine_threads().is_empty() {
        assert!(start.elapsed() < LONG, "{:?}", engine_threads());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// "0-2,5" as numbers.
fn cpus(list: &str) -> Vec<usize> {
    let number = |text: &str| text.parse::<usize>().unwrap();
    list.split(',')
        .flat_map(|part| match part.split_once('-') {
            Some((from, to)) => (number(from)..=number(to)).collect::<Vec<_>>(),
            None => vec![number(part)],
        })
        .collect()
}

fn mine() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// This thread, and what it starts, on one CPU only; as before when dropped.
struct OnOneCpu(CpuSet);

impl OnOneCpu {
    fn now() -> Self {
        let before = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set(mine()[0]);
        sched_setaffinity(None, &one).unwrap();
        Self(before)
    }
}

impl Drop for OnOneCpu {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

fn engine(broker: &Broker, cores: Cores) -> Engine {
    // Those of the test before.
    no_engine_threads();
    Engine::builder().bootstrap([broker.bootstrap()]).backend(BackendSetting::Epoll).cores(cores).build().unwrap()
}

/// Waits until every thread has come up and placed itself.
fn settled(engine: &Engine, broker: &Broker, partitions: i32) {
    engine.topic_info("t", LONG).unwrap();
    let producer = engine.producer().linger(Duration::ZERO).build().unwrap();
    for partition in 0..partitions {
        producer.submit(Record::to("t").partition(partition).value("v")).unwrap().wait().unwrap();
    }
    assert!(broker.counters().connections_open > 0);
}

#[test]
fn r11_by_default_there_is_one_shard_and_it_floats() {
    let _turn = my_turn();
    let broker = Broker::builder().topic("t", 4).start().unwrap();
    let engine = engine(&broker, Cores::default());
    settled(&engine, &broker, 4);
    let all = mine();
    assert_eq!(engine_threads(), [("ottla-control".to_owned(), all.clone()), ("ottla-shard-0".to_owned(), all)]);
    engine.close(LONG).unwrap();
    no_engine_threads();
}

#[test]
fn r11_affinity_pins_a_shard_to_each_cpu_and_explicit_cores_to_theirs() {
    let _turn = my_turn();
    let broker = Broker::builder().topic("t", 16).start().unwrap();
    let all = mine();
    let engine_affine = engine(&broker, Cores::affinity());
    settled(&engine_affine, &broker, 16);
    let shards: Vec<_> = engine_threads().into_iter().filter(|(name, _)| name.starts_with("ottla-shard")).collect();
    let count = shards.len();
    // A quota may allow fewer than the mask does.
    assert!(count >= 1 && count <= all.len().min(Cores::AFFINITY_MAX), "{shards:?}");
    for (index, (name, cpus)) in shards.iter().enumerate() {
        assert_eq!((name, cpus), (&format!("ottla-shard-{index}"), &vec![all[index]]));
    }
    // Control goes where it is let.
    assert!(engine_threads().contains(&("ottla-control".to_owned(), all.clone())));
    engine_affine.close(LONG).unwrap();
    no_engine_threads();

    let last = *all.last().unwrap();
    let engine_explicit = engine(&broker, Cores::explicit([last]));
    settled(&engine_explicit, &broker, 1);
    assert!(engine_threads().contains(&("ottla-shard-0".to_owned(), vec![last])), "{:?}", engine_threads());
    engine_explicit.close(LONG).unwrap();
    let elsewhere = Cores::explicit([CpuSet::MAX_CPU - 1]);
    let refused = Engine::builder().bootstrap([broker.bootstrap()]).cores(elsewhere).build();
    assert!(matches!(refused, Err(EngineError::Setting(error)) if error.key == "cores"));
}

#[test]
fn r11_names_need_one_more_thread_and_no_other() {
    let _turn = my_turn();
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let port = broker.bootstrap().rsplit_once(':').unwrap().1.to_owned();
    no_engine_threads();
    let builder = Engine::builder().bootstrap([format!("localhost:{port}")]).backend(BackendSetting::Epoll);
    let engine = builder.cores(Cores::count(2)).build().unwrap();
    settled(&engine, &broker, 1);
    let names: Vec<String> = engine_threads().into_iter().map(|(name, _)| name).collect();
    let helpers: Vec<&String> =
        names.iter().filter(|name| !name.contains("shard") && !name.contains("control")).collect();
    assert!(names.len() <= 4 && helpers.len() <= 1, "{names:?}");
    engine.close(LONG).unwrap();
}

#[test]
fn r12_on_one_cpu_a_sender_wakes_its_shard_at_four_full_chunks() {
    let _turn = my_turn();
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let _one = OnOneCpu::now();
    let engine = engine(&broker, Cores::default());
    settled(&engine, &broker, 1);
    let producer = engine.producer().linger(Duration::from_secs(60)).build().unwrap();
    let mut lane = producer.lane();
    let value = "x".repeat(1_000);
    let before = engine.stats();
    let megabytes = 16;
    for _ in 0..megabytes * 1_024 {
        lane.send(Record::to("t").partition(0).value(&value)).unwrap();
    }
    assert_eq!(lane.flush(LONG), Ok(Losses { failed: 0, unknown: 0 }));
    let after = engine.stats().since(&before);
    // Four a megabyte; one for the record that opens a batch (1 MB each); the flush. Every chunk would be 16.
    let most = megabytes * (4 + 2) + 4;
    assert!(after.wakes <= most, "{} wakes for {megabytes} MB", after.wakes);
    assert!(after.wakes > 0, "the shard slept and was woken");
    engine.close(LONG).unwrap();
}

#[test]
fn r12_who_waits_parks_and_burns_no_cpu() {
    let _turn = my_turn();
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let _one = OnOneCpu::now();
    let engine = engine(&broker, Cores::default());
    settled(&engine, &broker, 1);
    broker.rule(Rule::new(Reaction::BlackHole).api(ApiKey::Produce));
    let producer = engine.producer().build().unwrap();
    producer.send(Record::to("t").partition(0).value("v")).unwrap();
    let cpu = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (start, used) = (Instant::now(), cpu());
    let turns = engine.stats().turns;
    assert_eq!(producer.flush(Duration::from_secs(1)), Err(FlushError::Timeout));
    let (waited, used) = (start.elapsed(), cpu() - used);
    assert!(waited >= Duration::from_secs(1));
    // Caller, shard, control and the embedded broker together; any of them spinning would use all of the CPU it gets.
    assert!(used < waited / 5, "{used:?} of {waited:?}");
    let turns = engine.stats().turns - turns;
    assert!(turns < 100, "{turns} turns of the shard in a second without work");
    engine.close(Duration::ZERO).ok();
}
