//! The engine inside the caller's thread: the same promises, kept by turns instead of threads, on both backends.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/panics.rs"]
mod panics;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ottla::config::{BackendSetting, Compression, EngineSettings};
use ottla::consumer::{Consumer, StartAt};
use ottla::engine::{CloseError, LocalEngine};
use ottla::producer::{DeliveryError, DeliveryResult, FlushError, Losses, Reason, Record, RejectReason};
use ottla::testkit::broker::{Broker, Reaction, Rule};
use panics::Panics;

const LONG: Duration = Duration::from_secs(60);
const NO_LOSSES: Losses = Losses { failed: 0, unknown: 0 };

fn local_with(broker: &Broker, backend: BackendSetting, change: impl FnOnce(&mut EngineSettings)) -> LocalEngine {
    let mut settings = EngineSettings {
        bootstrap_servers: broker.bootstrap().split(',').map(str::to_owned).collect(),
        backend,
        seed: Some(11),
        ..Default::default()
    };
    change(&mut settings);
    LocalEngine::builder().settings(settings).build_local().unwrap()
}

fn local(broker: &Broker, backend: BackendSetting) -> LocalEngine {
    local_with(broker, backend, |_| {})
}

/// Both backends where this machine has them.
fn backends() -> Vec<BackendSetting> {
    let mut all = vec![BackendSetting::Epoll];
    if ottla::ring::probe(ottla::ring::BackendChoice::IoUring).io_uring.is_ok() {
        all.push(BackendSetting::IoUring);
    }
    all
}

fn consumer(engine: &LocalEngine, partitions: i32) -> ottla::consumer::LocalConsumer {
    engine.consumer().assign((0..partitions).map(|partition| ("t", partition, StartAt::Earliest))).build().unwrap()
}

/// Reads `0..count` of a partition, in order, as they were sent.
fn read_in_order(consumer: &mut ottla::consumer::LocalConsumer, count: i64) {
    let mut next = 0;
    while next < count {
        let batch = consumer.next(LONG).unwrap().expect("a batch in time");
        for record in &batch {
            assert_eq!((record.offset(), record.value().unwrap()), (next, next.to_string().as_bytes()));
            next += 1;
        }
    }
}

fn end_of(broker: &Broker, partition: i32) -> i64 {
    broker.with(|core| core.cluster.partition("t", partition).map_or(-1, |partition| partition.log.next_offset()))
}

#[test]
fn records_go_out_and_come_back_inside_one_thread_on_every_backend() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let engine = local(&broker, backend);
        let mut producer = engine.producer().compression(Compression::Lz4).build().unwrap();
        let mut consumer = consumer(&engine, 1);
        let heard = Arc::new(Mutex::new(Vec::new()));
        for i in 0..20_000i64 {
            let (value, heard) = (i.to_string(), Arc::clone(&heard));
            let record = Record::to("t").partition(0).value(&value);
            match i % 100 {
                0 => producer.send_with(record, move |result| heard.lock().unwrap().push(result.unwrap().offset)),
                _ => producer.send(record),
            }
            .unwrap();
        }
        assert_eq!(producer.flush(LONG), Ok(NO_LOSSES));
        assert_eq!(*heard.lock().unwrap(), (0..200).map(|i| Some(i * 100)).collect::<Vec<_>>());
        read_in_order(&mut consumer, 20_000);
        // The consumer's other methods are there as they are.
        assert_eq!(consumer.position("t", 0).unwrap(), Some(20_000));
        consumer.seek("t", 0, StartAt::Earliest).unwrap();
        read_in_order(&mut consumer, 20_000);
        engine.close(LONG).unwrap();
    }
}

/// Straight into a batch, or through the lane because somebody waits, a batch is full, or a record is larger than a block: a
/// partition's records stay in order, and each outcome is that of its record.
#[test]
fn whichever_way_a_record_takes_its_order_and_outcome_are_its_own() {
    const COUNT: i64 = 12_000;
    for (backend, count_max) in backends().into_iter().flat_map(|backend| [(backend, None), (backend, Some(7))]) {
        let broker = Broker::builder().topic("t", 3).start().unwrap();
        let engine = local(&broker, backend);
        let builder = engine.producer().compression(Compression::Lz4).batch_count_max(count_max);
        let mut producer = builder.linger(Duration::from_millis(2)).build().unwrap();
        let (heard, mut sent) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
        let (mut next, mut expected) = ([0i64; 3], Vec::new());
        for i in 0..COUNT {
            let partition = (i * i / 7 % 3) as usize;
            let mut value = next[partition].to_string();
            if i % 1_999 == 5 {
                value.push_str(&"x".repeat(70_000));
            }
            let record = Record::to("t").partition(partition as i32).value(&value);
            let offset = next[partition];
            next[partition] += 1;
            match i % 50 {
                1 => sent.push((producer.submit(record).unwrap(), offset)),
                2..10 => {
                    let heard = Arc::clone(&heard);
                    let told = move |result: DeliveryResult| heard.lock().unwrap().push((i, result.unwrap().offset));
                    producer.send_with(record, told).unwrap();
                    expected.push((i, Some(offset)));
                }
                10..20 => producer.try_send(record).unwrap(),
                _ => producer.send(record).unwrap(),
            }
            if i % 1_000 == 999 {
                assert_eq!(producer.flush(LONG), Ok(NO_LOSSES));
            }
        }
        assert_eq!(producer.flush(LONG), Ok(NO_LOSSES));
        heard.lock().unwrap().sort_unstable();
        assert_eq!(*heard.lock().unwrap(), expected);
        for (sent, offset) in sent {
            assert_eq!(sent.wait().unwrap().offset, Some(offset));
        }
        let (mut consumer, mut read) = (consumer(&engine, 3), [0i64; 3]);
        while read.iter().sum::<i64>() < COUNT {
            for record in &consumer.next(LONG).unwrap().expect("a batch in time") {
                let at = &mut read[record.partition() as usize];
                let digits: Vec<u8> = record.value().unwrap().iter().copied().filter(u8::is_ascii_digit).collect();
                assert_eq!((record.offset(), digits), (*at, at.to_string().into_bytes()));
                *at += 1;
            }
        }
        engine.close(LONG).unwrap();
    }
}

#[test]
fn an_outcome_is_waited_for_or_awaited_by_turning() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let engine = local(&broker, backend);
        let mut producer = engine.producer().build().unwrap();
        let at = producer.submit(Record::to("t").value("waited")).unwrap().wait().unwrap();
        assert_eq!(at.offset, Some(0));
        let mut again = producer.submit(Record::to("t").value("waited again")).unwrap();
        let at = std::iter::repeat_with(|| again.wait_for(Duration::from_millis(1))).flatten().next();
        assert_eq!(at.unwrap().unwrap().offset, Some(1));
        // As an executor on this thread would have it: one task is polled, another turns.
        let mut sent = pin!(producer.submit(Record::to("t").value("awaited")).unwrap());
        let started = Instant::now();
        let at = loop {
            if let Poll::Ready(at) = sent.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                break at;
            }
            assert!(started.elapsed() < LONG);
            engine.turn(Duration::from_millis(20)).unwrap();
        };
        assert_eq!(at.unwrap().offset, Some(2));
        let mut flush = pin!(producer.flush_async());
        while flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            engine.turn(Duration::from_millis(20)).unwrap();
        }
        engine.close(LONG).unwrap();
    }
}

#[test]
fn a_thread_that_only_sends_needs_no_turns_of_its_own() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let engine = local(&broker, backend);
        let mut producer = engine.producer().build().unwrap();
        let (started, mut sent) = (Instant::now(), 0u64);
        while end_of(&broker, 0) < 1_000 {
            assert!(started.elapsed() < LONG, "{sent} sent, none arrived");
            producer.send(Record::to("t").partition(0).value("v")).unwrap();
            sent += 1;
        }
        engine.close(LONG).unwrap();
        // What close settled is all of it.
        assert_eq!(end_of(&broker, 0), sent as i64);
    }
}

#[test]
fn a_thread_that_sends_now_and_then_gives_the_shard_its_turns() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let engine = local(&broker, BackendSetting::Auto);
    let mut producer = engine.producer().build().unwrap();
    let started = Instant::now();
    // Far too little to fill anything.
    while end_of(&broker, 0) == 0 {
        assert!(started.elapsed() < LONG, "nothing arrived");
        producer.send(Record::to("t").partition(0).value("v")).unwrap();
        std::thread::park_timeout(Duration::from_millis(3));
    }
    engine.close(LONG).unwrap();
}

#[test]
fn r11_a_local_engine_has_one_thread_beside_ours_and_a_full_buffer_is_emptied_by_it() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 3).start().unwrap();
        let engine = local_with(&broker, backend, |settings| settings.buffer_memory = 64 << 10);
        let mut producer = engine.producer().linger(Duration::from_secs(20)).build().unwrap();
        let big = "x".repeat(1_000);
        for i in 0..2_000 {
            producer.send(Record::to("t").partition(i % 3).value(&big)).unwrap();
        }
        assert_eq!(producer.flush(LONG), Ok(NO_LOSSES));
        assert_eq!((0..3).map(|partition| end_of(&broker, partition)).sum::<i64>(), 2_000);
        // Other tests of this process have engines too: none of their threads may be a shard.
        assert_eq!(shards_here(), 0);
        engine.close(LONG).unwrap();
    }
}

fn shards_here() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    names
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("ottla-shard"))
        .count()
}

#[test]
fn d1_24_flush_and_close_return_in_time_with_brokers_that_never_answer() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let engine = local(&broker, backend);
        let mut producer = engine.producer().build().unwrap();
        producer.submit(Record::to("t").value("first")).unwrap().wait().unwrap();
        broker.rule(Rule::new(Reaction::BlackHole));
        let mut sent = producer.submit(Record::to("t").value("lost")).unwrap();
        let started = Instant::now();
        assert_eq!(producer.flush(Duration::from_millis(150)), Err(FlushError::Timeout));
        assert_eq!(sent.wait_for(Duration::from_millis(50)), None);
        assert!(started.elapsed() >= Duration::from_millis(200));
        let closing = Instant::now();
        // Settling takes until the deadline, and then a moment.
        let closed = engine.close(Duration::from_millis(200));
        assert!(closing.elapsed() >= Duration::from_millis(190), "{:?}", closing.elapsed());
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert!(matches!(closed, Ok(()) | Err(CloseError::Timeout)), "{closed:?}");
        assert_eq!(sent.wait(), Err(DeliveryError::Unknown(Reason::Closed)));
        assert_eq!(producer.send(Record::to("t").value("late")).unwrap_err().reason, RejectReason::Closed);
        assert!(engine.turn(Duration::ZERO).is_err());
    }
}

#[test]
fn dropping_everything_without_close_ends_records_and_connections() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let engine = local(&broker, backend);
        let mut producer = engine.producer().linger(Duration::from_secs(20)).build().unwrap();
        let consumer = consumer(&engine, 1);
        producer.submit(Record::to("t").partition(0).value("there")).unwrap().wait().unwrap();
        let outcome = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&outcome);
        let record = Record::to("t").partition(0).value("lingers");
        producer.send_with(record, move |result| *heard.lock().unwrap() = Some(result)).unwrap();
        assert!(broker.counters().connections_open > 0);
        drop((engine, consumer));
        // A handle keeps the engine going.
        producer.submit(Record::to("t").partition(0).value("still there")).unwrap().wait().unwrap();
        drop(producer);
        assert!(broker.wait_until(LONG, |core| core.counters().connections_open == 0));
    }
}

#[test]
fn a_panic_inside_a_turn_fails_the_engine_and_not_the_caller() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let (broken, healthy) = (local(&broker, backend), local(&broker, backend));
        let mut producer = broken.producer().partitioner(Arc::new(Panics)).build().unwrap();
        // The topic is not known yet, so the record is placed by the shard.
        let sent = producer.submit(Record::to("t").key("k").value("v")).unwrap();
        assert_eq!(sent.wait(), Err(DeliveryError::Unknown(Reason::EngineFailed)));
        let refused = producer.send(Record::to("t").partition(0).value("late")).unwrap_err().reason;
        assert!(matches!(&refused, RejectReason::Failed(why) if why.contains("partitioner")), "{refused:?}");
        match broken.close(LONG) {
            Err(CloseError::Failed(why)) => assert!(why.contains("partitioner that panics"), "{why}"),
            other => panic!("{other:?}"),
        }
        let mut producer = healthy.producer().build().unwrap();
        producer.submit(Record::to("t").key("k").value("v")).unwrap().wait().unwrap();
        healthy.close(LONG).unwrap();
    }
}

#[test]
fn handles_on_other_threads_get_on_while_this_one_turns() {
    for backend in backends() {
        let broker = Broker::builder().topic("t", 1).start().unwrap();
        let engine = local(&broker, backend);
        let done = Arc::new(AtomicBool::new(false));
        let (other, flag) = (engine.engine().clone(), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let producer = other.producer().build().unwrap();
            for i in 0..2_000 {
                producer.send(Record::to("t").partition(0).value(&i.to_string())).unwrap();
            }
            let flushed = producer.flush(LONG);
            flag.store(true, Ordering::SeqCst);
            flushed
        });
        let mut mine = consumer(&engine, 1);
        while !done.load(Ordering::SeqCst) {
            engine.turn(Duration::from_millis(10)).unwrap();
        }
        assert_eq!(thread.join().unwrap(), Ok(NO_LOSSES));
        read_in_order(&mut mine, 2_000);
        engine.close(LONG).unwrap();
    }
}

#[test]
fn two_local_engines_share_a_thread() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let (one, two) = (local(&broker, BackendSetting::Auto), local(&broker, BackendSetting::Epoll));
    let (mut left, mut right) = (one.producer().build().unwrap(), two.producer().build().unwrap());
    for _ in 0..100 {
        left.send(Record::to("t").partition(0).value("l")).unwrap();
        right.send(Record::to("t").partition(0).value("r")).unwrap();
    }
    assert_eq!((left.flush(LONG), right.flush(LONG)), (Ok(NO_LOSSES), Ok(NO_LOSSES)));
    one.close(LONG).unwrap();
    right.submit(Record::to("t").value("r")).unwrap().wait().unwrap();
    two.close(LONG).unwrap();
    assert_eq!(end_of(&broker, 0), 201);
}

/// A local consumer is a consumer.
#[test]
fn nothing_of_the_consumer_is_lost() {
    fn is_a_consumer(_: &Consumer) {}
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let engine = local(&broker, BackendSetting::Auto);
    let mut reader = consumer(&engine, 1);
    is_a_consumer(&reader);
    assert!(reader.next(Duration::from_millis(20)).unwrap().is_none());
    engine.close(LONG).unwrap();
    assert!(reader.next(LONG).is_err(), "a closed engine says so at once");
}

/// What takes `limit` at least and ends, within 50 ms more at best: a busy machine holds up some tries, not all.
fn best_in_time(what: &str, limit: Duration, mut tried: impl FnMut() -> Duration) {
    let took: Vec<Duration> = (0..12)
        .map(|_| tried())
        .inspect(|took| assert!(*took >= limit && *took < limit + LONG, "{what}({limit:?}) took {took:?}"))
        .take_while(|took| *took > limit + Duration::from_millis(50))
        .collect();
    assert!(took.len() < 12, "{what}({limit:?}) took {took:?}");
}

#[test]
fn d1_22_flush_and_close_of_a_local_engine_return_in_time_when_no_broker_answers() {
    for limit in [0, 30, 200].map(Duration::from_millis) {
        let stuck = || {
            let broker = Broker::builder().topic("t", 1).start().unwrap();
            let engine = local(&broker, BackendSetting::Auto);
            let mut producer = engine.producer().delivery_timeout(Duration::from_secs(100)).build().unwrap();
            producer.submit(Record::to("t").partition(0).value("first")).unwrap().wait().unwrap();
            broker.rule(Rule::new(Reaction::BlackHole));
            (0..100).for_each(|_| producer.send(Record::to("t").partition(0).value("lost")).unwrap());
            (producer, engine, broker)
        };
        let (mut producer, _engine, _broker) = stuck();
        for what in ["flush", "close"] {
            best_in_time(what, limit, || {
                let started = Instant::now();
                let ended = if what == "flush" { producer.flush(limit) } else { producer.close(limit) };
                let took = started.elapsed();
                assert_eq!(ended, Err(FlushError::Timeout));
                took
            });
        }
        best_in_time("LocalEngine::close", limit, || {
            let (_producer, engine, _broker) = stuck();
            let started = Instant::now();
            // Whether all made it in time is another question.
            let _ = engine.close(limit);
            started.elapsed()
        });
    }
}

/// A way to the broker that opens when it is told to: until then connections are taken and nothing is said.
fn gate(broker: &Broker) -> (String, std::sync::mpsc::Sender<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, behind) = (listener.local_addr().unwrap().to_string(), broker.bootstrap().to_owned());
    let (open, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if opened.recv().is_err() {
            return;
        }
        for near in listener.incoming().map_while(Result::ok) {
            let far = std::net::TcpStream::connect(&behind).unwrap();
            for (mut from, mut to) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far.try_clone().unwrap(), near)]
            {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    (address, open)
}

#[test]
fn r08_records_without_a_partition_take_little_memory_and_go_on_when_it_is_known() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let (address, open) = gate(&broker);
    let engine = local_with(&broker, BackendSetting::Epoll, |settings| settings.bootstrap_servers = vec![address]);
    // Nothing leaves because it lingered or was full: only that the records were placed lets others go on.
    let builder = engine.producer().linger(LONG).batch_size(16 << 20).max_block(LONG / 3);
    let mut producer = builder.build().unwrap();
    let value = "v".repeat(1_000);
    let mut taken: i64 = 0;
    while producer.try_send(Record::to("t").value(&value)).is_ok() {
        taken += 1;
    }
    assert!((2_000..2_200).contains(&taken), "2 MiB of 32: {taken} records");
    open.send(()).unwrap();
    for _ in 0..taken {
        producer.send(Record::to("t").value(&value)).unwrap();
    }
    assert_eq!(producer.flush(LONG), Ok(NO_LOSSES));
    assert_eq!(end_of(&broker, 0), 2 * taken);
    engine.close(LONG).unwrap();
}
