//! The producer's rules (design §3) in virtual time: a whole engine and an embedded broker in a calm world, so that
//! figures are exact. What goes wrong by chance is `sim_producer`'s matter.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod sim_support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::base::rng::Rng;
use ottla::base::time::Time;
use ottla::config::EngineSettings;
use ottla::producer::{DeliveryError, DeliveryResult, Lane, Producer, Reason, Record, RejectReason};
use ottla::testkit::broker::{Reaction, Rule};
use ottla::testkit::clock::SimClock;
use ottla::testkit::sim::{Outcome, World};
use ottla::wire::{ApiKey, ErrorCode};
use sim_support::{Bed, MINUTE, Replay, SECOND};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn bed(seed: u64, nodes: usize, shards: usize, topics: &[(&str, i32)], settings: EngineSettings) -> Bed {
    Bed::new(World::calm(seed), nodes, shards, topics, settings)
}

/// One delivered record per partition, so that ids, leaders and connections are there.
fn warm_up(bed: &mut Bed, producer: &Producer, topics: &'static [(&'static str, i32)]) {
    let producer = producer.clone();
    bed.run(MINUTE, async move {
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                let sent = producer.submit_async(Record::to(*topic).partition(partition).value("warm")).await.unwrap();
                sent.await.unwrap();
            }
        }
    });
}

fn produce_requests(bed: &Bed) -> u64 {
    bed.broker.look(|core| core.counters().requests(ApiKey::Produce))
}

/// Leaves a partition without a leader, or gives it back to node 0.
fn set_leader(bed: &Bed, topic: &str, partition: i32, there: bool) {
    bed.broker.with(|core| {
        let state = core.cluster.partition_mut(topic, partition).unwrap();
        state.leader = if there { 0 } else { -1 };
        state.leader_epoch += 1;
    });
}

#[test]
fn r02_linger_of_100_ms_at_1000_records_a_second_is_ten_requests_a_second_and_broker() {
    const TOPICS: &[(&str, i32)] = &[("t", 8)];
    let mut bed = bed(1, 2, 1, TOPICS, EngineSettings::default());
    let producer = bed.engine.producer().linger(ms(100)).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let before = produce_requests(&bed);
    let clock = bed.world.clock();
    let sender = producer.clone();
    bed.run(MINUTE, async move {
        for i in 0..5_000 {
            sender.send_async(Record::to("t").partition(i % 8).value("x")).await.unwrap();
            clock.sleep(ms(1)).await;
        }
    });
    let requests = produce_requests(&bed) - before;
    assert!((90..=100).contains(&requests), "{requests} requests to two brokers in five seconds");
}

#[test]
fn r02_a_record_lingers_as_long_as_asked_for_and_no_longer() {
    const TOPICS: &[(&str, i32)] = &[("t", 2)];
    let mut bed = bed(12, 2, 1, TOPICS, EngineSettings::default());
    let producer = bed.engine.producer().linger(ms(100)).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let (clock, told) = (bed.world.clock(), Arc::new(Mutex::new(Vec::new())));
    let (sender, heard) = (producer.clone(), Arc::clone(&told));
    bed.run(MINUTE, async move {
        for i in 0..3_000u64 {
            if i < 2_000 {
                let (start, clock, heard) = (clock.time(), clock.clone(), Arc::clone(&heard));
                let record = Record::to("t").partition((i % 2) as i32).value("x");
                let late = move |outcome: DeliveryResult| {
                    outcome.unwrap();
                    heard.lock().unwrap().push(start.until(clock.time()));
                };
                sender.send_with(record, late).unwrap();
            }
            clock.sleep(ms(1)).await;
            sender.poll();
        }
    });
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 2_000);
    let longest = told.iter().max().unwrap();
    assert!(*longest <= ms(105), "linger is 100 ms, one record took {longest:?}");
    assert!(told.iter().sum::<Duration>() / 2_000 >= ms(40), "and they were batched");
}

#[test]
fn r02_a_thousand_waiters_cost_one_request_per_round_trip_and_four() {
    const TOPICS: &[(&str, i32)] = &[("t", 4)];
    let mut bed = bed(2, 1, 1, TOPICS, EngineSettings::default());
    let producer = bed.engine.producer().linger(ms(500)).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let answers_take = ms(10);
    bed.broker.with(|core| core.faults.add(Rule::new(Reaction::DelayAnswer(answers_take)).api(ApiKey::Produce)));
    let (before, start) = (produce_requests(&bed), bed.now());
    let waiters: Vec<_> = (0..1_000)
        .map(|waiter| {
            let producer = producer.clone();
            bed.start("waiter", async move {
                for _ in 0..5 {
                    let record = Record::to("t").partition(waiter % 4).value("x");
                    producer.submit_async(record).await.unwrap().await.unwrap();
                }
            })
        })
        .collect();
    bed.world.run(MINUTE, || waiters.iter().all(|slot| slot.borrow().is_some()));
    let (requests, took) = (produce_requests(&bed) - before, start.until(bed.now()));
    let round_trips = took.as_nanos().div_ceil(answers_take.as_nanos()) as u64;
    assert!(requests <= round_trips + 4, "{requests} requests in {round_trips} round trips ({took:?})");
    assert!(took < ms(500), "nobody waited for linger: {took:?}");
}

#[test]
fn r02_thirty_ready_partitions_of_a_broker_are_flushed_in_one_request() {
    const TOPICS: &[(&str, i32)] = &[("t", 30)];
    let mut bed = bed(3, 1, 1, TOPICS, EngineSettings::default());
    let producer = bed.engine.producer().linger(10 * SECOND).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let before = produce_requests(&bed);
    let sender = producer.clone();
    bed.run(MINUTE, async move {
        for i in 0..300 {
            sender.send_async(Record::to("t").partition(i % 30).value("x")).await.unwrap();
        }
        sender.flush_async().await.unwrap()
    });
    assert_eq!(produce_requests(&bed) - before, 1);
}

#[test]
fn r04_one_producer_id_per_producer_and_shard() {
    const TOPICS: &[(&str, i32)] = &[("t", 8)];
    let mut bed = bed(4, 2, 2, TOPICS, EngineSettings::default());
    let producers: Vec<_> = (0..3).map(|_| bed.engine.producer().build().unwrap()).collect();
    producers.iter().for_each(|producer| warm_up(&mut bed, producer, TOPICS));
    let asked = bed.broker.look(|core| core.counters().requests(ApiKey::InitProducerId));
    assert_eq!(asked, 3 * 2, "three producers, two shards");
}

/// Sends to `topic` as fast as memory allows until `end`.
async fn flood(mut lane: Lane, topic: &'static str, clock: SimClock, end: Time, sent: Rc<Cell<u64>>) {
    let value = "y".repeat(500);
    while clock.time() < end {
        match lane.send_async(Record::to(topic).partition(0).value(&value)).await {
            Ok(()) => sent.set(sent.get() + 1),
            Err(rejected) => assert_eq!(rejected.reason, RejectReason::Timeout),
        }
        clock.sleep(Duration::from_micros(500)).await;
    }
}

/// Ack times of a record to `a` every 10 ms for 60 s, while another sender floods `b`, whose leader is gone, or not.
fn ack_times(outage: bool) -> (Vec<Duration>, u64) {
    const TOPICS: &[(&str, i32)] = &[("a", 1), ("b", 1)];
    let settings = EngineSettings { buffer_memory: 1 << 20, ..EngineSettings::default() };
    let mut bed = bed(5, 1, 1, TOPICS, settings);
    let producer = bed.engine.producer().max_block(5 * SECOND).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let (clock, end) = (bed.world.clock(), bed.now() + MINUTE);
    let flooded = Rc::new(Cell::new(0));
    if outage {
        set_leader(&bed, "b", 0, false);
        let task = flood(producer.lane(), "b", clock.clone(), end, Rc::clone(&flooded));
        bed.start("flood", task);
    }
    let times = bed.run(2 * MINUTE, async move {
        let mut times = Vec::new();
        while clock.time() < end {
            let start = clock.time();
            let sent = producer.submit_async(Record::to("a").partition(0).value("x")).await.unwrap();
            sent.await.unwrap();
            times.push(start.until(clock.time()));
            clock.sleep(ms(10)).await;
        }
        times
    });
    if outage {
        assert!(bed.engine.stats().delivered <= times.len() as u64 + 1_000, "b was away");
    }
    (times, flooded.get())
}

#[test]
fn r08_a_topic_without_a_leader_for_a_minute_does_not_slow_another_one() {
    let p99 = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() * 99 / 100]
    };
    let (alone, beside) = (ack_times(false), ack_times(true));
    assert!(alone.0.len() > 4_000 && beside.0.len() > 4_000);
    let filled = beside.1 * 500;
    assert!(filled > 400 << 10, "b took as much as it may: {filled}");
    assert!(filled < 700 << 10, "and no more than its share: {filled}");
    let (alone, beside) = (p99(alone.0), p99(beside.0));
    assert!(beside.as_secs_f64() <= 1.1 * alone.as_secs_f64(), "p99 of acks: alone {alone:?}, beside {beside:?}");
}

#[test]
fn r08_a_thousand_partitions_with_a_record_each_count_by_their_chunks() {
    const TOPICS: &[(&str, i32)] = &[("t", 1_000)];
    let settings = EngineSettings { buffer_memory: 1 << 20, ..EngineSettings::default() };
    let mut bed = bed(6, 1, 1, TOPICS, settings);
    let producer = bed.engine.producer().build().unwrap();
    warm_up(&mut bed, &producer, &[("t", 1)]);
    let (net, address) = (bed.world.net().clone(), bed.broker.address(0).unwrap());
    net.hold(address, true);
    let (clock, sender) = (bed.world.clock(), producer.clone());
    bed.run(MINUTE, async move {
        let record = |partition| Record::to("t").partition(partition).value("x");
        let mut taken = 0;
        let refused = loop {
            match sender.try_send(record(taken)) {
                Ok(()) => taken += 1,
                Err(refused) => break refused.reason,
            }
            clock.sleep(ms(1)).await;
        };
        // A record of a few bytes in a batch of its own holds a chunk of 4 KiB.
        assert_eq!(refused, RejectReason::Full);
        assert!((220..=265).contains(&taken), "{taken} chunks in 1 MiB");
        net.hold(address, false);
        sender.send_async(record(0)).await.unwrap();
    });
    let losses = bed.run(MINUTE, async move { producer.flush_async().await.unwrap() });
    assert_eq!((losses.failed, losses.unknown), (0, 0));
}

#[test]
fn r06_send_async_awaits_the_budget_in_order_and_is_cancel_safe() {
    const TOPICS: &[(&str, i32)] = &[("t", 1)];
    let settings = EngineSettings { buffer_memory: 64 << 10, ..EngineSettings::default() };
    let mut bed = bed(7, 1, 1, TOPICS, settings);
    let producer = bed.engine.producer().max_block(MINUTE).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let net = bed.world.net().clone();
    let address = bed.broker.address(0).unwrap();
    net.hold(address, true);
    let (clock, sent) = (bed.world.clock(), Rc::new(RefCell::new(Vec::new())));
    // Fifty senders of 4 KB: the first few fit, the rest waits; of those every third is dropped.
    let tasks: Vec<_> = (0..50u64)
        .map(|i| {
            let (producer, clock, sent) = (producer.clone(), clock.clone(), Rc::clone(&sent));
            bed.start("sender", async move {
                clock.sleep(ms(i)).await;
                let value = format!("{i}:{}", "x".repeat(4_000));
                let record = Record::to("t").partition(0).value(&value);
                if i % 3 == 0 {
                    let mut send = std::pin::pin!(producer.send_async(record));
                    let mut pause = std::pin::pin!(clock.sleep(ms(100)));
                    let race = std::future::poll_fn(|context| {
                        if let std::task::Poll::Ready(done) = send.as_mut().poll(context) {
                            return std::task::Poll::Ready(Some(done));
                        }
                        pause.as_mut().poll(context).map(|()| None)
                    });
                    if race.await.is_some_and(|done| done.is_ok()) {
                        sent.borrow_mut().push(i);
                    }
                    return;
                }
                producer.send_async(record).await.unwrap();
                sent.borrow_mut().push(i);
            })
        })
        .collect();
    bed.pass(SECOND);
    let early = sent.borrow().len();
    assert!((3..20).contains(&early), "{early} fit into 64 KiB");
    net.hold(address, false);
    bed.world.run(MINUTE, || tasks.iter().all(|slot| slot.borrow().is_some()));
    let flushing = producer.clone();
    let losses = bed.run(MINUTE, async move { flushing.flush_async().await.unwrap() });
    assert_eq!((losses.failed, losses.unknown), (0, 0));
    let log = bed.logs().remove(&("t".to_owned(), 0)).unwrap();
    let arrived: Vec<u64> =
        log[1..].iter().map(|(_, value)| value.split(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(arrived, *sent.borrow(), "those that were accepted, in that order, and nothing of the dropped ones");
    // First come, first served; those served together (64 KiB) run in any order.
    let mut in_order = arrived.clone();
    in_order.sort_unstable();
    for (at, i) in arrived.iter().enumerate() {
        let place = in_order.iter().position(|other| other == i).unwrap();
        assert!(place.abs_diff(at) <= 16, "{i} was passed over: {arrived:?}");
    }
    assert!(arrived.len() < 50 && arrived.len() > 33, "{arrived:?}");
    // Nothing stuck to the dropped futures: as much as at first fits again.
    net.hold(address, true);
    let again = bed.run(MINUTE, async move {
        let value = "x".repeat(4_000);
        (0..50).take_while(|_| producer.try_send(Record::to("t").partition(0).value(&value)).is_ok()).count()
    });
    assert!(again + 1 >= early, "{again} fit after the storm, {early} before");
}

/// What became of records whose time came: how long each lived, and how it ended.
async fn lives(
    producer: Producer,
    topic: &'static str,
    count: u32,
    every: Duration,
    clock: SimClock,
) -> Vec<(Duration, DeliveryResult)> {
    let ended = Rc::new(RefCell::new(Vec::new()));
    for i in 0..count {
        let start = clock.time();
        let record = Record::to(topic).value("x");
        let record = if i % 2 == 0 { record.partition(0) } else { record };
        let sent = producer.submit_async(record).await.unwrap();
        ended.borrow_mut().push((start, sent));
        clock.sleep(every).await;
    }
    let mut all = Vec::new();
    for (start, sent) in ended.take() {
        let outcome = sent.await;
        all.push((start.until(clock.time()), outcome));
    }
    all
}

#[test]
fn r05_brokers_that_are_gone_for_good_leave_every_record_its_typed_outcome_at_its_deadline() {
    const TOPICS: &[(&str, i32)] = &[("t", 2)];
    let mut bed = bed(8, 3, 2, TOPICS, EngineSettings::default());
    let timeout = 20 * SECOND;
    let producer = bed.engine.producer().delivery_timeout(timeout).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    for node in 0..3 {
        let address = bed.broker.address(node).unwrap();
        bed.world.net().refuse(address, true);
        bed.world.net().reset(address);
    }
    let clock = bed.world.clock();
    let lived = bed.run(10 * MINUTE, lives(producer, "t", 100, ms(10), clock));
    assert_eq!(lived.len(), 100);
    let mut sure = 0;
    for (lived, outcome) in lived {
        match outcome {
            Err(DeliveryError::Failed(Reason::Timeout(ErrorCode::None))) => sure += 1,
            // It was on a connection when that was reset.
            Err(DeliveryError::Unknown(Reason::Timeout(ErrorCode::None))) => {}
            other => panic!("{other:?}"),
        }
        // A batch ends as a whole, an eighth of the time after its first record at the latest.
        assert!(lived <= timeout + ms(50) && lived >= timeout * 7 / 8 - ms(50), "after {lived:?}");
    }
    assert!(sure > 90, "{sure} of 100 surely not written");
}

#[test]
fn r07_without_any_broker_the_error_says_so_and_with_one_that_knows_no_such_topic_it_names_that() {
    const TOPICS: &[(&str, i32)] = &[("t", 1)];
    let timeout = 10 * SECOND;
    for reachable in [false, true] {
        let mut bed = bed(9, 1, 1, TOPICS, EngineSettings::default());
        let address = bed.broker.address(0).unwrap();
        bed.world.net().refuse(address, !reachable);
        let producer = bed.engine.producer().delivery_timeout(timeout).build().unwrap();
        let clock = bed.world.clock();
        let lived = bed.run(10 * MINUTE, lives(producer, "absent", 10, ms(1), clock));
        for (lived, outcome) in lived {
            let expected = match reachable {
                true => Reason::Timeout(ErrorCode::UnknownTopicOrPartition),
                false => Reason::NoMetadata,
            };
            assert_eq!(outcome, Err(DeliveryError::Failed(expected)), "reachable: {reachable}");
            assert!(lived <= timeout + ms(50) && lived >= timeout * 7 / 8 - ms(50), "after {lived:?}");
        }
    }
}

#[test]
fn r07_an_unknown_topic_holds_at_most_its_share_and_its_records_stay_in_order() {
    const TOPICS: &[(&str, i32)] = &[("a", 1)];
    let settings = EngineSettings { buffer_memory: 1 << 20, ..EngineSettings::default() };
    let mut bed = bed(10, 1, 1, TOPICS, settings);
    let producer = bed.engine.producer().build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    let sender = producer.clone();
    let held = bed.run(MINUTE, async move {
        let value = "x".repeat(1_000);
        let mut held = 0;
        while sender.try_send(Record::to("late").value(&format!("{held}:{value}"))).is_ok() {
            held += 1;
        }
        // The other topic goes on.
        for _ in 0..1_000 {
            sender.submit_async(Record::to("a").partition(0).value(&value)).await.unwrap().await.unwrap();
        }
        held
    });
    assert!((200..600).contains(&held), "{held} KB of 1 MiB");
    bed.broker.with(|core| core.create_topic(&ottla::testkit::broker::TopicSpec::new("late", 1)).unwrap());
    let losses = bed.run(5 * MINUTE, async move { producer.flush_async().await.unwrap() });
    assert_eq!((losses.failed, losses.unknown), (0, 0));
    let mut numbers = Vec::new();
    for batch in bed.broker.log("late", 0) {
        let text = String::from_utf8_lossy(&batch).into_owned();
        numbers.extend(text.split('x').filter_map(|part| {
            let digits: String = part.strip_suffix(':')?.chars().rev().take_while(char::is_ascii_digit).collect();
            digits.chars().rev().collect::<String>().parse::<usize>().ok()
        }));
    }
    assert_eq!(numbers.len(), held);
}

#[test]
fn d1_22_a_flush_is_not_held_up_by_what_is_sent_after_it() {
    const TOPICS: &[(&str, i32)] = &[("t", 2)];
    let mut bed = bed(13, 1, 1, TOPICS, EngineSettings::default());
    let producer = bed.engine.producer().linger(10 * SECOND).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    bed.broker.with(|core| core.faults.add(Rule::new(Reaction::DelayAnswer(ms(20))).api(ApiKey::Produce)));
    // Somebody never stops sending.
    let (clock, endless) = (bed.world.clock(), producer.clone());
    bed.world.spawn_task("endless", async move {
        for i in 0.. {
            endless.send_async(Record::to("t").partition(i % 2).value("x")).await.unwrap();
            clock.sleep(Duration::from_micros(500)).await;
        }
    });
    let (clock, heard) = (bed.world.clock(), Arc::new(Mutex::new(0)));
    for _ in 0..10 {
        let (sender, clock, mine) = (producer.clone(), clock.clone(), Arc::clone(&heard));
        let told = Arc::clone(&heard);
        *told.lock().unwrap() = 0;
        let took = bed.run(MINUTE, async move {
            for i in 0..50 {
                let mine = Arc::clone(&mine);
                let count = move |outcome: DeliveryResult| {
                    outcome.unwrap();
                    *mine.lock().unwrap() += 1;
                };
                sender.send_with(Record::to("t").partition(i % 2).value("mine"), count).unwrap();
            }
            let start = clock.time();
            let losses = sender.flush_async().await.unwrap();
            assert_eq!((losses.failed, losses.unknown), (0, 0));
            start.until(clock.time())
        });
        assert_eq!(*told.lock().unwrap(), 50, "after the last callback");
        assert!(took < ms(150), "linger ended, and what came later did not extend it: {took:?}");
    }
}

/// Records of two topics through stalls longer than `delivery.timeout.ms`: what is in the logs is what was sent there.
fn stalled(seed: u64, counts: &mut BTreeMap<&'static str, u64>) {
    const TOPICS: &[(&str, i32)] = &[("left", 2), ("right", 3)];
    let _replay = Replay(seed, "sim_produce_rules");
    let settings = EngineSettings { request_timeout: 5 * SECOND, ..EngineSettings::default() };
    let mut bed = bed(seed, 2, 2, TOPICS, settings);
    let producer = bed.engine.producer().delivery_timeout(SECOND).build().unwrap();
    warm_up(&mut bed, &producer, TOPICS);
    bed.broker.with(|core| {
        for reaction in [Reaction::DelayAnswer(3 * SECOND), Reaction::Delay(3 * SECOND)] {
            core.faults.add(Rule::new(reaction).api(ApiKey::Produce).percent(5));
        }
    });
    let (net, clock) = (bed.world.net().clone(), bed.world.clock());
    let addresses: Vec<_> = (0..2).map(|node| bed.broker.address(node).unwrap()).collect();
    let stop = bed.now() + 30 * SECOND;
    bed.world.spawn_task("stalls", async move {
        for round in 0.. {
            clock.sleep(ms(2_500)).await;
            if clock.time() >= stop {
                break;
            }
            net.hold(addresses[round % 2], true);
            clock.sleep(3 * SECOND).await;
            net.hold(addresses[round % 2], false);
        }
    });
    let clock = bed.world.clock();
    let senders: Vec<_> = (0..2u64)
        .map(|source| {
            let (producer, clock, mut rng) = (producer.clone(), clock.clone(), Rng::new(seed * 7 + source));
            bed.start("sender", async move {
                let mut lane = producer.lane();
                let mut sent = Vec::new();
                for number in 0..1_500 {
                    let (topic, partitions) = TOPICS[rng.below(2) as usize];
                    let partition = rng.below(partitions as u64) as i32;
                    let value =
                        format!("{topic}/{partition}/{source}/{number}/{}", "z".repeat(rng.below(300) as usize));
                    let answer = lane.submit_async(Record::to(topic).partition(partition).value(&value)).await.unwrap();
                    sent.push((value, answer));
                    clock.sleep(Duration::from_micros(rng.below(40_000))).await;
                }
                let mut told = Vec::new();
                for (value, answer) in sent {
                    told.push((value, answer.await));
                }
                told
            })
        })
        .collect();
    let limit = bed.now() + 5 * MINUTE;
    assert_eq!(bed.world.run_until(limit, || senders.iter().all(|slot| slot.borrow().is_some())), Outcome::Done);
    // Answers that are still on their way may yet append.
    bed.pass(10 * SECOND);
    let logs = bed.logs();
    let mut places = BTreeMap::new();
    for ((topic, partition), records) in &logs {
        for (offset, value) in records.iter().filter(|(_, value)| value != "warm") {
            let mut parts = value.split('/');
            assert_eq!(parts.next(), Some(topic.as_str()), "seed {seed}: misrouted: {value}");
            assert_eq!(parts.next(), Some(partition.to_string().as_str()), "seed {seed}: misrouted: {value}");
            assert_eq!(places.insert(value.clone(), *offset), None, "seed {seed}: twice: {value}");
        }
    }
    for (value, outcome) in senders.iter().flat_map(|slot| slot.take().unwrap()) {
        let place = places.remove(&value);
        let kind = match outcome {
            Ok(delivered) => {
                assert!(place.is_some_and(|at| delivered.offset.is_none_or(|told| told == at)), "seed {seed}: {value}");
                "delivered"
            }
            Err(DeliveryError::Failed(_)) => {
                assert_eq!(place, None, "seed {seed}: {value} failed, surely not written");
                "failed"
            }
            Err(DeliveryError::Unknown(_)) if place.is_some() => "unknown, written",
            Err(DeliveryError::Unknown(_)) => "unknown, not written",
        };
        *counts.entry(kind).or_default() += 1;
    }
    assert!(places.is_empty(), "seed {seed}: in the logs and sent by nobody: {:?}", places.keys().next());
}

#[test]
fn d1_12_stalls_longer_than_the_delivery_timeout_misroute_and_corrupt_nothing() {
    let mut counts = BTreeMap::new();
    (1..=6).for_each(|seed| stalled(seed, &mut counts));
    println!("{counts:?}");
    for kind in ["delivered", "failed", "unknown, written", "unknown, not written"] {
        assert!(counts.get(kind).is_some_and(|count| *count > 0), "{kind} never occurred: {counts:?}");
    }
}
