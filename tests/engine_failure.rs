//! What happens to an engine whose thread panics, and how many threads it has. One test per process would be ideal; these
//! look at threads by name, so they take turns.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/panics.rs"]
mod panics;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use ottla::admin::{AdminError, OffsetSpec};
use ottla::base::sync::park_until;
use ottla::base::time::{Clock, SystemClock};
use ottla::config::{BackendSetting, Cores, IsolationLevel};
use ottla::consumer::{ConsumeError, StartAt};
use ottla::engine::{CloseError, Engine, EngineError};
use ottla::mesh::command::Partitioner;
use ottla::producer::{DeliveryError, FlushError, Losses, Reason, Record, RejectReason};
use ottla::testkit::broker::{Broker, Reaction, Rule, TopicSpec};
use ottla::wire::ApiKey;
use panics::Panics;

static TURN: Mutex<()> = Mutex::new(());

const LONG: Duration = Duration::from_secs(40);

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

/// All of this process' engines are gone. Dropped ones end by themselves, and a thread that was joined may be listed for a
/// moment longer.
fn no_engine_threads() {
    let start = Instant::now();
    while !engine_threads().is_empty() {
        assert!(start.elapsed() < LONG, "{:?}", engine_threads());
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// What happens on another thread, to be waited for with a limit.
fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (told, outcome) = mpsc::channel();
    thread::spawn(move || told.send(work()));
    outcome
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
    no_engine_threads();
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
        assert_eq!(sent.wait(), Err(DeliveryError::Unknown(Reason::EngineFailed)));
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

#[test]
fn records_on_other_shards_of_a_failed_engine_end_with_its_reason() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().brokers(2).topic("t", 4).topic("other", 1).start().unwrap();
    let engine = engine(&broker, 2);
    engine.topic_info("t", LONG).unwrap();
    let producer = engine.producer().build().unwrap();
    let to = |partition| Record::to("t").partition(partition).value("v");
    for partition in 0..4 {
        producer.submit(to(partition)).unwrap().wait().unwrap();
    }
    broker.rule(Rule::new(Reaction::BlackHole).api(ApiKey::Produce));
    // In flight on both shards, and open behind that.
    let sent: Vec<_> = (0..12).map(|at| producer.submit(to(at % 4)).unwrap()).collect();
    let failing = engine.producer().partitioner(Arc::new(Panics)).build().unwrap();
    // Its topic is not known to the handle, or the partitioner panics here.
    let _ = catch_unwind(AssertUnwindSafe(|| failing.send(Record::to("other").value("v")).is_ok()));
    let outcomes: Vec<_> = sent.into_iter().map(ottla::producer::Sent::wait).collect();
    for outcome in &outcomes {
        let reason = match outcome {
            Err(DeliveryError::Failed(reason) | DeliveryError::Unknown(reason)) => *reason,
            Ok(at) => panic!("{at:?} although no broker answered"),
        };
        assert_eq!(reason, Reason::EngineFailed, "{outcomes:?}");
    }
    let mut flush = pin!(producer.flush_async());
    let deadline = SystemClock.now().mono + LONG;
    let flushed = park_until(deadline, &SystemClock, |context| flush.as_mut().poll(context));
    assert_eq!(flushed, Some(Err(FlushError::EngineFailed)));
    assert!(matches!(engine.close(LONG), Err(CloseError::Failed(_))));
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
    no_engine_threads();
}

/// A record for a topic that the broker does not have yet, with a partitioner that panics on the shard once it does.
fn plant(engine: &Engine) {
    let producer = engine.producer().partitioner(Arc::new(Panics)).build().unwrap();
    producer.send(Record::to("later").key("k").value("v")).unwrap();
}

#[test]
fn whoever_waits_when_a_shard_panics_is_woken_and_told_why() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in [BackendSetting::Epoll, BackendSetting::Auto] {
        let broker = Broker::builder().topic("t", 1).auto_create(false).start().unwrap();
        let builder = Engine::builder().bootstrap([broker.bootstrap()]).backend(backend).cores(Cores::count(2));
        let engine = builder.buffer_memory(64 << 10).build().unwrap();
        engine.topic_info("t", LONG).unwrap();
        plant(&engine);
        broker.rule(Rule::new(Reaction::BlackHole).api(ApiKey::Produce));
        broker.rule(Rule::new(Reaction::BlackHole).api(ApiKey::ListOffsets));
        let producer = engine.producer().max_block(Duration::from_secs(60)).build().unwrap();
        let sent = producer.submit(Record::to("t").partition(0).value("waited for")).unwrap();
        let sent = beside(move || sent.wait());
        let mut awaited = producer.submit(Record::to("t").partition(0).value("awaited")).unwrap();
        assert!(Pin::new(&mut awaited).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let other = producer.clone();
        let flushed = beside(move || other.flush(Duration::from_secs(60)));
        let other = producer.clone();
        let blocked = beside(move || {
            let value = "x".repeat(8_000);
            loop {
                if let Err(rejected) = other.send(Record::to("t").partition(0).value(&value)) {
                    break rejected.reason;
                }
            }
        });
        let assignment = [("t", 0, StartAt::Earliest)];
        let mut consumer = engine.consumer().assign(assignment).build().unwrap();
        let consumed = beside(move || consumer.next(Duration::from_secs(60)).map(|batch| batch.is_some()));
        let admin = engine.admin().list_offsets([("t", 0, OffsetSpec::Latest)], IsolationLevel::ReadUncommitted);
        let admin = beside(move || admin.wait().map(|_| ()));
        let other = engine.clone();
        let topic = beside(move || other.topic_info("never", Duration::from_secs(60)).map(|_| ()));
        broker.create_topic(&TopicSpec::new("later", 1)).unwrap();
        // Surely not written, where no request with the record had begun.
        let ended = |outcome: &_| matches!(outcome, Err(DeliveryError::Unknown(_) | DeliveryError::Failed(_)));
        let outcome = sent.recv_timeout(LONG).unwrap();
        assert!(ended(&outcome), "{outcome:?}");
        assert_eq!(flushed.recv_timeout(LONG), Ok(Err(FlushError::EngineFailed)));
        let says = |why: &str| why.contains("partitioner that panics");
        let reason = blocked.recv_timeout(LONG).unwrap();
        assert!(matches!(&reason, RejectReason::Failed(why) if says(why)), "{reason:?}");
        let error = consumed.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(&error, ConsumeError::Engine(EngineError::Failed(why)) if says(why)), "{error:?}");
        let error = admin.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(&error, AdminError::Failed(why) if says(why)), "{error:?}");
        let error = topic.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(&error, EngineError::Failed(why) if says(why)), "{error:?}");
        let outcome = pin!(awaited).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(&outcome, Poll::Ready(outcome) if ended(outcome)), "{outcome:?}");
        assert!(matches!(engine.producer().build(), Err(EngineError::Failed(_))));
        assert!(matches!(engine.close(LONG), Err(CloseError::Failed(why)) if says(&why)));
        // And so is whoever comes later.
        let late = producer.send(Record::to("t").partition(0).value("late")).unwrap_err().reason;
        assert!(matches!(&late, RejectReason::Failed(why) if says(why)), "{late:?}");
        no_engine_threads();
    }
}

#[test]
fn a_waker_that_panics_on_a_shard_fails_the_engine_and_takes_nobody_with_it() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let trap = Waker::from(Arc::new(Trap));
    // In the middle of telling outcomes, of giving memory back, of handing out what was fetched.
    for point in ["outcome", "memory", "fetch"] {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let builder = Engine::builder().bootstrap([broker.bootstrap()]).backend(BackendSetting::Epoll);
        let engine = builder.buffer_memory(64 << 10).build().unwrap();
        let producer = engine.producer().build().unwrap();
        producer.submit(Record::to("t").partition(0).value("first")).unwrap().wait().unwrap();
        let slow = Reaction::DelayAnswer(Duration::from_millis(200));
        broker.rule(Rule::new(slow.clone()).api(ApiKey::Produce));
        broker.rule(Rule::new(slow).api(ApiKey::Fetch));
        let mut context = Context::from_waker(&trap);
        let mut sent = producer.submit(Record::to("t").partition(0).value("v")).unwrap();
        let other = producer.submit(Record::to("t").partition(0).value("w")).unwrap();
        let mut consumer = engine.consumer().assign([("t", 0, StartAt::Earliest)]).build().unwrap();
        let big = "x".repeat(8_000);
        let mut full =
            Box::pin(async { while producer.send_async(Record::to("t").partition(0).value(&big)).await.is_ok() {} });
        match point {
            "outcome" => assert!(Pin::new(&mut sent).poll(&mut context).is_pending()),
            "memory" => assert!(full.as_mut().poll(&mut context).is_pending()),
            _ => assert!(consumer.poll_next(&mut context).is_pending()),
        }
        // Answered before, or unknown; not waiting for ever.
        // The trap may go off on that thread, too, when it takes what came for both; then it is that thread's panic.
        match beside(move || other.wait()).recv_timeout(LONG) {
            Ok(Ok(_) | Err(DeliveryError::Unknown(_))) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
            outcome => panic!("{point}: {outcome:?}"),
        }
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            match catch_unwind(AssertUnwindSafe(|| producer.flush(LONG))) {
                Ok(Err(FlushError::EngineFailed)) => break,
                // The trap again, or not yet.
                _ => thread::park_timeout(Duration::from_millis(5)),
            }
        }
        match engine.close(LONG) {
            Err(CloseError::Failed(why)) => assert!(why.contains("waker that panics"), "{point}: {why}"),
            other => panic!("{point}: {other:?}"),
        }
        no_engine_threads();
    }
}

#[test]
fn a_panic_in_users_code_on_their_own_thread_is_theirs() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let engine = engine(&broker, 1);
    engine.topic_info("t", LONG).unwrap();
    let producer = engine.producer().build().unwrap();
    let heard = Arc::new(AtomicU32::new(0));
    for i in 0..10 {
        let heard = Arc::clone(&heard);
        let callback = move |_| match heard.fetch_add(1, Ordering::SeqCst) {
            4 => panic!("a callback that panics"),
            _ => assert!(i < 10),
        };
        producer.send_with(Record::to("t").partition(0).value("v"), callback).unwrap();
    }
    assert!(catch_unwind(AssertUnwindSafe(|| producer.flush(LONG))).is_err());
    assert_eq!(producer.flush(LONG), Ok(Losses { failed: 0, unknown: 0 }));
    assert_eq!(heard.load(Ordering::SeqCst), 10, "the callbacks behind it ran");
    // A partitioner that panics in send: the record is not sent, its producer goes on.
    let picky = engine.producer().partitioner(Arc::new(Panics)).build().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| picky.send(Record::to("t").key("k").value("v")).is_ok())).is_err());
    picky.submit(Record::to("t").partition(0).value("v")).unwrap().wait().unwrap();
    engine.close(LONG).unwrap();
    assert_eq!(broker.with(|core| core.cluster.partition("t", 0).unwrap().log.next_offset()), 11);
}

#[test]
fn an_engine_lives_as_long_as_its_last_handle() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let engine = engine(&broker, 2);
    let producer = engine.producer().build().unwrap();
    let mut consumer = engine.consumer().assign([("t", 0, StartAt::Earliest)]).build().unwrap();
    drop(engine);
    producer.submit(Record::to("t").partition(0).value("v")).unwrap().wait().unwrap();
    assert!(consumer.next(LONG).unwrap().is_some());
    let sent = producer.submit(Record::to("t").partition(0).value("on its way")).unwrap();
    drop((producer, consumer));
    // The last record's wait is no handle: it ends one way or the other.
    assert!(beside(move || sent.wait()).recv_timeout(LONG).is_ok());
    no_engine_threads();
}

/// Blocks the shard until it is let go.
#[derive(Debug)]
struct Hangs(Mutex<mpsc::Receiver<()>>);

impl Partitioner for Hangs {
    fn partition(&self, _: &str, _: Option<&[u8]>, _: Option<&[u8]>, _: i32) -> i32 {
        let _ = self.0.lock().unwrap().recv();
        0
    }
}

#[test]
fn close_returns_in_time_though_a_shard_hangs_in_users_code() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let engine = engine(&broker, 1);
    let (let_go, held) = mpsc::channel();
    let producer = engine.producer().partitioner(Arc::new(Hangs(Mutex::new(held)))).build().unwrap();
    producer.send(Record::to("t").key("k").value("v")).unwrap();
    let closing = engine.clone();
    let start = Instant::now();
    let closed = beside(move || closing.close(Duration::from_millis(200))).recv_timeout(LONG).unwrap();
    assert_eq!(closed, Err(CloseError::Timeout));
    assert!(start.elapsed() >= Duration::from_millis(200));
    drop(let_go);
    no_engine_threads();
}

#[test]
fn nothing_of_the_host_process_is_touched() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let host = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let signals = ["SigBlk", "SigIgn", "SigCgt"];
        let signals: Vec<String> =
            status.lines().filter(|line| signals.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect();
        let files = std::fs::read_link("/proc/self/fd/1").unwrap();
        (signals, std::env::vars_os().collect::<Vec<_>>(), std::env::current_dir().unwrap(), files)
    };
    let before = host();
    let panics = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&panics);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let engine = engine(&broker, 2);
    plant(&engine);
    broker.create_topic(&TopicSpec::new("later", 1)).unwrap();
    engine.topic_info("later", LONG).ok();
    let failed = beside(move || {
        let start = Instant::now();
        while engine.admin().list_topics().wait().is_ok() && start.elapsed() < LONG {}
        engine.close(LONG)
    });
    let failed = failed.recv_timeout(2 * LONG);
    std::panic::set_hook(usual);
    assert!(matches!(failed, Ok(Err(CloseError::Failed(_)))), "{failed:?}");
    // The host's own hook heard of the one panic there was.
    assert_eq!(panics.load(Ordering::SeqCst), 1);
    assert_eq!(host(), before);
}

/// Once in a hundred runs a flush had never come back.
#[test]
fn fifty_engines_one_after_the_other_flush_and_close() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Broker::builder().topic("t", 2).start().unwrap();
    for round in 0..50 {
        let engine = engine(&broker, 1 + round % 2);
        let producer = engine.producer().build().unwrap();
        // Some before the topic is known, some after, from two threads.
        let other = producer.clone();
        let beside = beside(move || {
            for i in 0..20 {
                other.send(Record::to("t").partition(i % 2).value("other")).unwrap();
            }
            other.flush(LONG)
        });
        for _ in 0..20 {
            producer.send(Record::to("t").value("v")).unwrap();
        }
        let flushed = producer.flush(LONG);
        assert_eq!(flushed, Ok(Losses { failed: 0, unknown: 0 }), "round {round}: {:?}", engine.stats());
        assert!(matches!(beside.recv_timeout(LONG), Ok(Ok(_))), "round {round}: {:?}", engine.stats());
        assert_eq!(engine.close(LONG), Ok(()), "round {round}");
    }
    no_engine_threads();
}
