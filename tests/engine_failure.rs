//! What happens to an engine whose thread panics, and how many threads it has. One test per process would be ideal; these
//! look at threads by name, so they take turns.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use ottla::config::{BackendSetting, Cores};
use ottla::engine::{CloseError, Engine};
use ottla::mesh::command::Partitioner;
use ottla::producer::Record;
use ottla::testkit::broker::Broker;

static TURN: Mutex<()> = Mutex::new(());

const LONG: Duration = Duration::from_secs(10);

fn engine(broker: &Broker, shards: usize) -> Engine {
    let builder = Engine::builder().bootstrap([broker.bootstrap()]).backend(BackendSetting::Epoll);
    builder.cores(Cores::count(shards)).build().unwrap()
}

/// Names of this process' threads that belong to an engine.
fn engine_threads() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("ottla-"))
        .collect();
    names.sort();
    names
}

/// A joined thread leaves `/proc` a moment after it was joined.
fn await_no_engine_threads() {
    let start = Instant::now();
    while !engine_threads().is_empty() {
        assert!(start.elapsed() < LONG, "{:?}", engine_threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Debug)]
struct Panics;

impl Partitioner for Panics {
    fn partition(&self, _: &str, _: Option<&[u8]>, _: Option<&[u8]>, _: i32) -> i32 {
        panic!("a user's partitioner that panics");
    }
}

#[test]
fn p_02_threads_are_shards_and_control_however_many_brokers() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().brokers(20).topic("t", 40).start().unwrap();
    let engine = engine(&broker, 2);
    engine.admin().list_topics().wait().unwrap();
    let producer = engine.producer().linger(Duration::ZERO).build().unwrap();
    for partition in 0..40 {
        producer.send(Record::to("t").partition(partition).value("x")).unwrap();
    }
    producer.flush(LONG).unwrap();
    assert_eq!(engine_threads(), ["ottla-control", "ottla-shard-0", "ottla-shard-1"]);
    assert!(broker.counters().connections_open >= 20, "every broker is connected");
    engine.close(LONG).unwrap();
    await_no_engine_threads();
}

#[test]
fn a_panic_on_a_shard_fails_its_engine_and_nothing_else() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let (broken, healthy) = (engine(&broker, 2), engine(&broker, 1));
    let producer = broken.producer().partitioner(Arc::new(Panics)).build().unwrap();
    // The topic is not known yet, so the record is placed on its home shard.
    let sent = producer.submit(Record::to("t").key("k").value("v"));
    let start = Instant::now();
    if let Ok(sent) = sent {
        let outcome = sent.wait();
        assert!(outcome.is_err(), "{outcome:?}");
    }
    assert!(start.elapsed() < LONG, "nobody waits for the delivery timeout");
    // Everything ends, and says why.
    match broken.close(LONG) {
        Err(CloseError::Failed(why)) => assert!(why.contains("panic"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(broken.admin().list_topics().wait().is_err());
    healthy.admin().list_topics().wait().unwrap();
    healthy.close(LONG).unwrap();
}

/// A waker that panics on the thread that wakes it.
struct Trap;

impl Wake for Trap {
    fn wake(self: Arc<Self>) {
        panic!("a user's waker that panics");
    }
}

#[test]
fn a_panic_on_control_fails_its_engine_and_wakes_everybody() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let slow = ottla::testkit::broker::Reaction::DelayAnswer(Duration::from_millis(300));
    broker.rule(ottla::testkit::broker::Rule::new(slow).api(ottla::wire::ApiKey::Metadata));
    let engine = engine(&broker, 1);
    let other = engine.admin().describe_topics(["t"]);
    let mut trapped = pin!(engine.admin().list_topics());
    let waker = Waker::from(Arc::new(Trap));
    assert!(trapped.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let more: Vec<_> = (0..20).map(|_| engine.admin().describe_cluster()).collect();
    let start = Instant::now();
    // Some were answered before the trap went off, the rest learn that the engine failed.
    let ended: Vec<bool> = more.into_iter().map(|call| call.wait().is_ok()).collect();
    let _ = other.wait();
    assert!(start.elapsed() < LONG && ended.len() == 20);
    match engine.close(LONG) {
        Err(CloseError::Failed(why)) => assert!(why.contains("waker that panics"), "{why}"),
        other => panic!("{other:?}"),
    }
    await_no_engine_threads();
}
