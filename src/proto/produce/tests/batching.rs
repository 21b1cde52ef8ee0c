//! Sealing, requests, dynamic batching.

use super::super::*;
use super::model::*;

fn lingering(linger: u64) -> ProducerSettings {
    ProducerSettings { linger: ms(linger), idempotence: false, ..Default::default() }
}

#[test]
fn r02_linger_seals_and_other_partitions_of_the_broker_join() {
    let mut rig = Rig::new(lingering(100));
    rig.send(0, "a");
    rig.pass(ms(60));
    rig.send(1, "b");
    rig.pass(ms(39));
    assert!(rig.call(B1).is_none());
    rig.pass(ms(1));
    let sent = rig.call(B1).unwrap();
    assert_eq!(sent.parts().len(), 2, "one request with all open batches");
    rig.accept(&sent);
    assert!(rig.call(B1).is_none());
    rig.check_end();
}

#[test]
fn r02_linger_100_ms_at_1000_records_a_second_is_ten_requests_a_second() {
    let mut rig = Rig::new(lingering(100));
    let mut requests = 0;
    for i in 0..2_000 {
        rig.send(i % 4, "x");
        rig.pass(ms(1));
        while let Some(sent) = rig.call(B1) {
            requests += 1;
            rig.accept(&sent);
        }
    }
    assert!((18..=20).contains(&requests), "{requests} in two seconds");
}

#[test]
fn r02_without_linger_records_join_the_request_after_the_one_in_flight() {
    let mut rig = Rig::new(ProducerSettings { idempotence: false, ..settings() });
    rig.send(0, "a");
    let first = rig.call(B1).unwrap();
    for i in 0..1_000 {
        rig.send(0, &i.to_string());
        assert!(rig.call(B1).is_none(), "a request is in flight");
    }
    rig.accept(&first);
    let second = rig.call(B1).unwrap();
    assert_eq!(second.stamp(0).3, 1_000);
    rig.accept(&second);
    rig.check_end();
}

#[test]
fn r02_sixteen_kib_go_beside_a_request_in_flight() {
    let mut rig = Rig::new(ProducerSettings { idempotence: false, ..settings() });
    rig.send(0, "a");
    let _first = rig.call(B1).unwrap();
    rig.send(0, &"x".repeat(10_000));
    assert!(rig.call(B1).is_none());
    rig.send(0, &"x".repeat(7_000));
    assert!(rig.call(B1).is_some());
}

#[test]
fn r02_a_waiter_ends_linger() {
    let mut rig = Rig::new(lingering(1_000));
    rig.send(0, "a");
    assert!(rig.call(B1).is_none());
    rig.send_with(0, "b", |origin| origin.urgent = true);
    assert_eq!(rig.call(B1).unwrap().stamp(0).3, 2);
}

#[test]
fn r03_size_and_count_seal_a_batch() {
    let mut rig = Rig::new(ProducerSettings { batch_size: 1_000, ..lingering(1_000) });
    for _ in 0..5 {
        rig.send(0, &"x".repeat(300));
    }
    let sent = rig.call(B1).unwrap();
    assert_eq!(sent.stamp(0).3, 3);
    assert!(sent.bytes(0).len() <= 1_000, "with the 61-byte header");

    let mut rig = Rig::new(ProducerSettings { batch_count_max: Some(2), ..lingering(1_000) });
    rig.send_records(0, 0..1);
    assert!(rig.call(B1).is_none());
    rig.send_records(0, 1..2);
    assert_eq!(rig.call(B1).unwrap().stamp(0).3, 2, "sealed with its last record, not by the next one or by linger");
    let mut rig = Rig::new(ProducerSettings { batch_count_max: Some(1), ..lingering(1_000) });
    rig.send(0, "x");
    assert_eq!(rig.call(B1).unwrap().stamp(0).3, 1);
}

#[test]
fn r14_one_request_carries_one_batch_of_every_ready_partition() {
    let mut rig = Rig::new(ProducerSettings { batch_count_max: Some(1), ..lingering(1_000) });
    for round in 0..3 {
        for partition in 0..4 {
            rig.send(partition, &format!("{partition}-{round}"));
        }
    }
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    assert_eq!(sent.iter().map(|sent| sent.parts().len()).collect::<Vec<_>>(), [4, 4, 4]);
    for sent in &sent {
        rig.accept(sent);
    }
    for partition in 0..4 {
        assert_eq!(rig.log(partition), (0..3).map(|round| format!("{partition}-{round}")).collect::<Vec<_>>());
    }
    rig.check_end();
}

#[test]
fn r14_requests_do_not_mix_acks() {
    let mut rig = Rig::new(lingering(1_000));
    let other = ProducerIx(1);
    let leader = ProducerSettings { acks: crate::config::Acks::Leader, ..lingering(1_000) };
    rig.produce.add_producer(other, std::sync::Arc::new(leader));
    rig.send(0, "all");
    let ix = rig.produce.partition(other, tp(0));
    let mut body = Vec::new();
    crate::batch::encode_body(None, Some(b"leader"), std::iter::empty(), &mut body);
    let origin =
        Origin { lane: crate::base::ids::LaneId(2), space: 0, ticket: 0, mark: 0, tracked: false, urgent: false };
    let record = Arrival { timestamp_ms: 5, body: &body, origin, charge: 0 };
    rig.produce.append(rig.now, ix, &record, &mut rig.out);
    rig.produce.pressure();
    let acks: Vec<_> = std::iter::from_fn(|| rig.call(B1)).map(|sent| sent.request.acks).collect();
    assert_eq!(acks, [-1, 1]);
}

#[test]
fn r14_two_producers_of_one_partition_share_no_request() {
    let mut rig = Rig::new(lingering(1_000));
    let other = ProducerIx(1);
    rig.produce.add_producer(other, std::sync::Arc::new(lingering(1_000)));
    for partition in 0..2 {
        rig.send(partition, "first");
        let ix = rig.produce.partition(other, tp(partition));
        let mut body = Vec::new();
        crate::batch::encode_body(None, Some(b"other"), std::iter::empty(), &mut body);
        let origin =
            Origin { lane: crate::base::ids::LaneId(2), space: 0, ticket: 0, mark: 0, tracked: false, urgent: false };
        let record = Arrival { timestamp_ms: 5, body: &body, origin, charge: 0 };
        rig.produce.append(rig.now, ix, &record, &mut rig.out);
    }
    rig.produce.pressure();
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    // All four batches go out, and no request names a partition twice: its answer could not say which batch it is about.
    let mut batches = 0;
    for sent in &sent {
        let named: Vec<i32> = sent.parts().iter().map(|part| part.index).collect();
        let different: std::collections::BTreeSet<_> = named.iter().collect();
        assert_eq!(different.len(), named.len(), "{named:?}");
        batches += named.len();
    }
    assert_eq!(batches, 4);
}

#[test]
fn a_request_stays_within_max_request_size_and_nobody_starves() {
    let size = ProducerSettings { batch_size: 1_000, max_request_size: 2_100, ..lingering(1_000) };
    let mut rig = Rig::new(size);
    for _ in 0..12 {
        for partition in 0..4 {
            rig.send(partition, &"x".repeat(900));
        }
    }
    rig.produce.flush(P);
    let mut served = [0; 4];
    for _ in 0..8 {
        let sent = rig.call(B1).unwrap();
        assert!(sent.parts().len() <= 2);
        sent.parts().iter().for_each(|part| served[part.index as usize] += 1);
        rig.accept(&sent);
    }
    assert_eq!(served, [4; 4]);
}

#[test]
fn r08_memory_pressure_ends_linger() {
    let mut rig = Rig::new(lingering(1_000));
    rig.send(0, "a");
    assert!(rig.call(B1).is_none());
    rig.produce.pressure();
    assert!(rig.call(B1).is_some());
}

#[test]
fn r08_batches_grow_while_answers_will_bring_memory_back() {
    let mut rig = Rig::new(lingering(1_000));
    // Past the first batch of each partition, which goes alone.
    for partition in 0..4 {
        rig.send(partition, "a");
    }
    rig.produce.pressure();
    let sent = rig.call(B1).unwrap();
    rig.accept(&sent);
    let mut on_their_way = Vec::new();
    for partition in 0..2 {
        rig.send(partition, "b");
        rig.produce.pressure();
        on_their_way.push(rig.call(B1).unwrap());
    }
    rig.send(2, "c");
    rig.send(3, "c");
    rig.produce.pressure();
    rig.produce.pressure_on(tp(2));
    assert!(rig.call(B1).is_none(), "two requests are on their way");
    rig.accept(&on_their_way.remove(0));
    rig.produce.pressure_on(tp(2));
    assert_eq!(rig.call(B1).unwrap().parts().len(), 1);
    rig.accept(&on_their_way.remove(0));
    rig.produce.pressure();
    assert_eq!(rig.call(B1).unwrap().parts().len(), 1);
    // A shard that stops waits for nothing.
    rig.send(0, "d");
    rig.send(1, "d");
    rig.produce.pressure();
    assert!(rig.call(B1).is_none());
    rig.produce.hasten();
    assert_eq!(rig.call(B1).unwrap().parts().len(), 2);
}

#[test]
fn d1_22_flush_ends_linger_for_all_partitions() {
    let mut rig = Rig::new(lingering(1_000));
    (0..4).for_each(|partition| rig.send(partition, "a"));
    rig.produce.flush(P);
    assert_eq!(rig.call(B1).unwrap().parts().len(), 4);
}

#[test]
fn names_are_used_where_topic_ids_are_unknown() {
    let mut rig = Rig::new(lingering(0));
    rig.send(0, "a");
    assert_eq!(rig.call(B1).unwrap().version, 13);
    let mut rig = Rig::new(lingering(0));
    rig.leaders_at(1, &[Some(B1)], crate::base::ids::Uuid::ZERO);
    rig.send(0, "a");
    let sent = rig.call(B1).unwrap();
    assert_eq!((sent.version, sent.request.topic_data[0].name.as_str()), (12, "t"));
}

#[test]
fn r03_a_thousand_partitions_preallocate_nothing_and_batches_grow_in_steps() {
    let mut rig = Rig::new(ProducerSettings { batch_size: 200_000, ..lingering(1_000) });
    rig.leaders(&[Some(B1); 1_000]);
    (0..1_000).for_each(|partition| {
        rig.produce.partition(P, tp(partition));
    });
    assert_eq!(rig.produce.pool.out_bytes(), 0, "nothing for a partition without records");
    (0..1_000).for_each(|partition| rig.send(partition, "x"));
    assert_eq!(rig.produce.pool.out_bytes(), 1_000 * (4 << 10), "the first step each");
    let (mut steps, mut before) = (Vec::new(), rig.produce.pool.out_bytes());
    for _ in 0..160 {
        rig.send(7, &"x".repeat(1_000));
        let now = rig.produce.pool.out_bytes();
        steps.extend((now > before).then(|| (now - before) >> 10));
        before = now;
    }
    assert_eq!(steps, [16, 64, 64, 64]);
    rig.produce.flush(P);
    rig.run(B1);
    assert_eq!(rig.produce.pool.out_bytes(), 0);
    rig.check_end();
}

#[test]
fn r03_batch_size_is_what_is_on_the_wire_whatever_the_codec_and_raw_bytes_are_capped() {
    use crate::config::Compression;
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let size = ProducerSettings { batch_size: 20_000, compression, ..lingering(1_000) };
        let mut rig = Rig::new(size);
        let mut rng = crate::base::rng::Rng::new(7);
        for _ in 0..3_000 {
            // Half noise, half not: compresses to something in between.
            let value = format!("{:016x}{}", rng.next_u64(), "x".repeat(16));
            rig.send(0, &value);
        }
        rig.produce.flush(P);
        let mut batches = 0;
        while let Some(sent) = rig.call(B1) {
            let bytes = sent.bytes(0).len();
            assert!(bytes <= 20_000, "{compression:?}: {bytes} with the 61-byte header");
            batches += 1;
            rig.accept(&sent);
        }
        assert!(batches > 1, "{compression:?}");
        rig.check_end();
    }
    // A batch that compresses to nothing ends at its raw size.
    let raw = ProducerSettings { compression: Compression::Zstd, batch_raw_size_max: 100_000, ..lingering(1_000) };
    assert_eq!(ProducerSettings::default().batch_raw_size_max, 4 << 20);
    let mut rig = Rig::new(raw);
    (0..150).for_each(|_| rig.send(0, &"x".repeat(1_000)));
    rig.produce.flush(P);
    let sent = rig.call(B1).unwrap();
    assert!((90..100).contains(&sent.stamp(0).3), "{:?}", sent.stamp(0));
}

#[test]
fn r02_a_thousand_waiters_cost_one_request_per_round_trip_and_four() {
    let mut rig = Rig::new(ProducerSettings { idempotence: false, ..lingering(1_000) });
    let (mut waiting, mut requests) = (0, 0);
    let mut out: VecDeque<(Time, Sent)> = VecDeque::new();
    // A thousand callers, each with one record at a time, on a broker that takes 10 ms.
    let mut left = 10_000;
    (0..1_000).for_each(|i| rig.send_with(i % 4, "x", |origin| origin.urgent = true));
    while left > 0 {
        while let Some(sent) = rig.call(B1) {
            requests += 1;
            waiting += sent.parts().iter().map(|part| sent.stamp(part.index).3).sum::<i32>();
            out.push_back((rig.now + ms(10), sent));
        }
        let Some((at, sent)) = out.pop_front() else { panic!("nobody is served: {left} left, {waiting} waited") };
        rig.pass(rig.now.until(at));
        let answered: i32 = sent.parts().iter().map(|part| sent.stamp(part.index).3).sum();
        rig.accept(&sent);
        left -= answered;
        for i in 0..answered.min(left) {
            rig.send_with(i % 4, "x", |origin| origin.urgent = true);
        }
    }
    let time_in_round_trips = Time(1_000_000_000).until(rig.now).as_millis() as u64 / 10;
    assert!(requests <= time_in_round_trips + 4, "{requests} requests in {time_in_round_trips} round trips");
}

#[test]
fn a_record_appended_late_to_a_batch_that_cannot_leave_keeps_most_of_its_time() {
    let mut rig = Rig::granted(ProducerSettings { linger: ms(5), ..Default::default() });
    rig.leaders_at(2, &[None; 4], crate::base::ids::Uuid([1; 16]));
    // One record a second for the 120 s of delivery.timeout.ms, none can be sent.
    let mut ended = Vec::new();
    for second in 0..300u64 {
        if second < 120 {
            rig.send(0, "x");
        }
        rig.pass(ms(1_000));
        let told = rig.outcomes(0).len();
        ended.resize(told, second + 1);
    }
    assert_eq!(ended.len(), 120);
    for (sent, ended) in (0..).zip(ended) {
        let lived = ended - sent;
        assert!((105..=121).contains(&lived), "record {sent} ended after {lived} s");
    }
    rig.check_end();
}
