//! Leaders that move, topics that come and go: pitfalls d1-13 to d1-19, and unknown topics (r07).

use super::super::*;
use super::model::*;
use crate::base::ids::{LaneId, Uuid};
use crate::batch::encode_body;
use crate::wire::messages::produce::response::{LeaderIdAndEpoch, NodeEndpoint};

fn in_flight(count: usize) -> (Rig, Vec<Sent>) {
    let mut rig = Rig::granted(grouped());
    (0..count).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    (rig, sent)
}

#[test]
fn d1_13_nothing_goes_to_the_new_leader_before_the_old_one_answered_or_died() {
    let (mut rig, sent) = in_flight(5);
    rig.leaders_at(2, &[Some(B2); 4], Uuid([1; 16]));
    for (i, sent) in sent.iter().enumerate() {
        assert!(rig.call(B2).is_none(), "{i} answered");
        if i % 2 == 0 {
            rig.refuse(sent, ErrorCode::NotLeaderOrFollower);
        } else {
            rig.produce.on_lost(rig.now, sent.call, true, &mut rig.out);
        }
    }
    let first = rig.call_later(B2);
    assert!(rig.call(B2).is_none(), "the first one goes alone");
    rig.accept(&first);
    let rest: Vec<_> = std::iter::from_fn(|| rig.call(B2)).collect();
    assert_eq!(rest.len(), 4);
    rest.iter().for_each(|sent| rig.accept(sent));
    assert!(rig.call(B1).is_none());
    assert_eq!(rig.log(0), ["first", "0", "1", "2", "3", "4"]);
    rig.check_end();
}

#[test]
fn d1_14_a_leader_named_in_the_answer_is_followed_at_once() {
    let (mut rig, sent) = in_flight(1);
    let _ = rig.actions();
    let leader = LeaderIdAndEpoch { leader_id: 2, leader_epoch: 5, ..Default::default() };
    let node = NodeEndpoint { node_id: 2, host: "b2".into(), port: 9093, ..Default::default() };
    rig.answer_nodes(&sent[0], vec![node], &mut |_, index, _| {
        let mut error = Rig::error(index, ErrorCode::NotLeaderOrFollower);
        error.current_leader = leader.clone();
        error
    });
    let moved = Action::LeaderMoved { tp: tp(0), leader: B2, epoch: 5, endpoint: Some(("b2".into(), 9093)) };
    assert_eq!(rig.actions(), [moved]);
    let again = rig.call(B2).expect("no backoff, no metadata");
    // Never to a lower epoch: neither by a snapshot nor by an answer.
    rig.leaders_at(4, &[Some(B1); 4], Uuid([1; 16]));
    rig.answer_with(&again, |_, index, _| {
        let mut error = Rig::error(index, ErrorCode::NotLeaderOrFollower);
        error.current_leader = LeaderIdAndEpoch { leader_id: 1, leader_epoch: 4, ..Default::default() };
        error
    });
    let again = rig.call_later(B2);
    rig.accept(&again);
    rig.check_end();
}

#[test]
fn d1_15_records_survive_a_broker_that_misses_the_topic() {
    let (mut rig, sent) = in_flight(2);
    rig.refuse(&sent[0], ErrorCode::UnknownTopicOrPartition);
    rig.refuse(&sent[1], ErrorCode::UnknownTopicOrPartition);
    rig.produce.set_topic(rig.now, T, None, &mut rig.out, &mut ByKey);
    rig.leaders_at(1, &[], Uuid([1; 16]));
    rig.pass(ms(40_000));
    assert!(rig.ends(0).is_empty());
    let again = rig.call_later(B1);
    assert_eq!(again.stamp(0), (7, 0, 3, 3), "with the numbers it had");
    rig.accept(&again);
    rig.run(B1);
    assert_eq!(rig.log(0), ["first", "0", "1"]);
    rig.check_end();
}

#[test]
fn d1_16_a_partition_that_never_appears_fails_after_the_propagation_time() {
    let mut rig = Rig::granted(grouped());
    rig.send(9, "nowhere");
    rig.leaders(&[Some(B1); 4]);
    rig.pass(ms(29_000));
    rig.leaders(&[Some(B1); 4]);
    assert!(rig.ends(9).is_empty());
    rig.pass(ms(1_001));
    rig.leaders(&[Some(B1); 4]);
    assert_eq!(rig.ends(9), [(0, Outcome::Failed(Reason::NoSuchPartition))]);
}

#[test]
fn d1_17_a_recreated_topic_gets_new_sequences_and_no_write_under_the_old_id() {
    let (mut rig, sent) = in_flight(2);
    assert_eq!(sent[0].request.topic_data[0].topic_id, Uuid([1; 16]));
    rig.refuse(&sent[0], ErrorCode::UnknownTopicId);
    rig.refuse(&sent[1], ErrorCode::UnknownTopicId);
    assert!(rig.actions().contains(&Action::Refresh { topic: T, why: Stale::TopicId }));
    rig.leaders_at(0, &[Some(B1); 4], Uuid([2; 16]));
    rig.logs.clear();
    let again = rig.call_later(B1);
    assert_eq!(again.request.topic_data[0].topic_id, Uuid([2; 16]));
    assert_eq!(again.stamp(0).2, 0);
    rig.accept(&again);
    rig.run(B1);
    assert_eq!(rig.log(0), ["0", "1"]);
    rig.check_end();
}

#[test]
fn d1_17_records_of_a_deleted_topic_fail_within_the_delivery_timeout() {
    let (mut rig, sent) = in_flight(1);
    rig.refuse(&sent[0], ErrorCode::UnknownTopicOrPartition);
    rig.produce.set_topic(rig.now, T, None, &mut rig.out, &mut ByKey);
    rig.pass(ms(120_000));
    let timeout = Reason::Timeout(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(rig.ends(0), [(1, Outcome::Failed(timeout))]);
    rig.check_end();
}

#[test]
fn d1_18_new_partitions_take_records_and_stale_metadata_fails_none() {
    let mut rig = Rig::granted(grouped());
    rig.leaders_at(1, &[Some(B1); 6], Uuid([1; 16]));
    rig.send(5, "new");
    rig.leaders_at(1, &[Some(B1); 4], Uuid([1; 16]));
    rig.pass(ms(31_000));
    rig.leaders_at(1, &[Some(B1); 4], Uuid([1; 16]));
    assert!(rig.ends(5).is_empty());
    rig.run(B1);
    assert_eq!(rig.log(5), ["new"]);
}

#[test]
fn d1_19_without_any_leader_records_wait() {
    let mut rig = Rig::granted(grouped());
    rig.leaders_at(2, &[None; 4], Uuid([1; 16]));
    rig.send(0, "a");
    rig.produce.flush(P);
    rig.pass(ms(60_000));
    assert!(rig.call(B1).is_none() && rig.ends(0).is_empty());
    rig.leaders_at(3, &[Some(B2); 4], Uuid([1; 16]));
    rig.run(B2);
    assert_eq!(rig.log(0), ["first", "a"]);
    rig.check_end();
}

#[test]
fn d2_44_an_older_epoch_wins_after_insisting() {
    let mut rig = Rig::granted(grouped());
    rig.leaders_at(9, &[Some(B2); 4], Uuid([1; 16]));
    rig.send(0, "a");
    rig.produce.flush(P);
    for _ in 0..5 {
        rig.leaders_at(3, &[Some(B1); 4], Uuid([1; 16]));
        assert!(rig.call(B1).is_none());
    }
    rig.leaders_at(3, &[Some(B1); 4], Uuid([1; 16]));
    assert!(rig.call(B1).is_some());
}

#[test]
fn r07_records_of_an_unknown_topic_are_placed_in_order_when_metadata_arrives() {
    let mut rig = Rig::granted(grouped());
    let topic = rig.names.intern("late").unwrap();
    let unplaced = |rig: &mut Rig, ticket: u64, value: &str| {
        let mut body = Vec::new();
        encode_body(None, Some(value.as_bytes()), std::iter::empty(), &mut body);
        let origin = Origin { lane: LaneId(1), space: -1, ticket, mark: 0, tracked: true, urgent: false };
        let record = Arrival { timestamp_ms: 5, body: &body, origin, charge: 50 };
        rig.produce.append_unplaced(rig.now, P, Tp { topic, partition: -1 }, false, &record, &mut rig.out);
    };
    (0..4).for_each(|i| unplaced(&mut rig, i, &format!("v{i}")));
    assert_eq!(rig.actions(), [Action::Refresh { topic, why: Stale::Unknown }]);
    rig.pass(ms(10_000));
    assert!(!rig.produce.is_idle());
    // d1-22: the flush holds for what could not be placed yet.
    rig.produce.flush(P);
    let facts = [LeaderFact { leader: Some(B1), epoch: 0 }; 2];
    rig.produce.set_topic(rig.now, topic, Some((Uuid([9; 16]), &facts)), &mut rig.out, &mut ByKey);
    let mut seen = Vec::new();
    while let Some(sent) = rig.call(B1) {
        seen.extend(sent.parts().iter().flat_map(|part| values(&part.records.clone().unwrap())));
        rig.answer_with(&sent, |_, index, _| Rig::ok(index, 0));
    }
    seen.sort();
    assert_eq!(seen, ["v0", "v1", "v2", "v3"]);
    assert_eq!(rig.out.settled.iter().map(|(_, run, _)| run.count).sum::<u32>(), 4);
    assert!(rig.out.settled.iter().all(|(_, run, _)| run.space == -1));
    assert_eq!(rig.out.released, 200);
}

#[test]
fn r07_records_of_a_topic_that_never_appears_fail_surely_not_written() {
    let mut rig = Rig::granted(grouped());
    let topic = rig.names.intern("late").unwrap();
    let origin = Origin { lane: LaneId(1), space: -1, ticket: 0, mark: 0, tracked: true, urgent: false };
    let record = Arrival { timestamp_ms: 5, body: &[1, 1, 0], origin, charge: 50 };
    rig.produce.append_unplaced(rig.now, P, Tp { topic, partition: -1 }, false, &record, &mut rig.out);
    assert_eq!(rig.produce.next_deadline(), rig.now + ms(120_000));
    rig.pass(ms(120_000));
    assert_eq!(rig.out.settled.len(), 1);
    assert_eq!(rig.out.settled[0].2, Outcome::Failed(Reason::NoMetadata), "no broker said that it does not exist");
    assert!(rig.produce.is_idle());
    // Brokers were asked and know no such topic; one with a partition of its own fares alike.
    let ix = rig.produce.partition(P, Tp { topic, partition: 3 });
    rig.produce.append_unplaced(rig.now, P, Tp { topic, partition: -1 }, false, &record, &mut rig.out);
    rig.produce.append(rig.now, ix, &record, &mut rig.out);
    rig.produce.topic_said(topic, ErrorCode::UnknownTopicOrPartition);
    rig.pass(ms(120_000));
    let unknown = Outcome::Failed(Reason::Timeout(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(rig.out.settled[1..].iter().map(|(_, _, outcome)| *outcome).collect::<Vec<_>>(), [unknown; 2]);
}

/// A record of the topic, sent now by the producer, whose body says which partition [`ByKey`] gives it.
fn send_unplaced(rig: &mut Rig, producer: ProducerIx, topic: TopicIx, ticket: u64) {
    let origin = Origin { lane: LaneId(1), space: -1, ticket, mark: 0, tracked: true, urgent: false };
    let record = Arrival { timestamp_ms: 5, body: &[1, 1, 0], origin, charge: 50 };
    rig.produce.append_unplaced(rig.now, producer, Tp { topic, partition: -1 }, false, &record, &mut rig.out);
}

#[test]
fn r07_the_delivery_timeout_counts_from_sending_however_long_the_topic_was_waited_for() {
    let mut rig = Rig::granted(grouped());
    let topic = rig.names.intern("late").unwrap();
    let sent = rig.now;
    send_unplaced(&mut rig, P, topic, 0);
    rig.pass(ms(100_000));
    let facts = [LeaderFact { leader: Some(B1), epoch: 0 }];
    rig.produce.set_topic(rig.now, topic, Some((Uuid([9; 16]), &facts)), &mut rig.out, &mut ByKey);
    // Placed, but its leader takes nothing.
    rig.pass(ms(19_999));
    assert_eq!(rig.out.settled, []);
    rig.pass(ms(1));
    assert_eq!(rig.now, sent + ms(120_000));
    assert_eq!(rig.out.settled.len(), 1, "its time had begun again when it was placed");
    assert!(matches!(rig.out.settled[0].2, Outcome::Failed(Reason::Timeout(_))), "{:?}", rig.out.settled);
}

#[test]
fn r07_a_short_timeout_does_not_wait_behind_a_long_one() {
    let mut rig = Rig::granted(grouped());
    let hasty = ProducerIx(1);
    let settings = ProducerSettings { delivery_timeout: ms(1_000), ..grouped() };
    rig.produce.add_producer(hasty, std::sync::Arc::new(settings));
    let topic = rig.names.intern("late").unwrap();
    for (ticket, producer) in [P, hasty, P].into_iter().enumerate() {
        send_unplaced(&mut rig, producer, topic, ticket as u64);
    }
    assert_eq!(rig.produce.next_deadline(), rig.now + ms(1_000));
    rig.pass(ms(1_000));
    let ended = |rig: &Rig| rig.out.settled.iter().map(|(_, run, _)| run.first).collect::<Vec<_>>();
    assert_eq!(ended(&rig), [1], "the one in the middle ends in time");
    assert_eq!(rig.produce.next_deadline(), rig.now + ms(119_000));
    // The others are placed around its gap, each with its own bytes.
    let facts = [LeaderFact { leader: Some(B1), epoch: 0 }];
    rig.produce.set_topic(rig.now, topic, Some((Uuid([9; 16]), &facts)), &mut rig.out, &mut ByKey);
    rig.produce.flush(P);
    while let Some(sent) = rig.call(B1) {
        rig.answer_with(&sent, |_, index, _| Rig::ok(index, 0));
    }
    assert_eq!(rig.out.settled.iter().map(|(_, run, _)| run.count).sum::<u32>(), 3);
    assert_eq!(rig.out.released, 150);
    assert!(rig.produce.is_idle());
}

#[test]
fn r07_a_record_with_a_partition_queues_behind_those_that_wait_for_one() {
    let mut rig = Rig::granted(grouped());
    let topic = rig.names.intern("late").unwrap();
    let mut tickets = [0, 0];
    for (partition, value) in [(-1, "\u{0}first"), (0, "second"), (-1, "\u{0}third")] {
        let mut body = Vec::new();
        encode_body(None, Some(value.as_bytes()), std::iter::empty(), &mut body);
        let ticket = &mut tickets[(partition + 1) as usize];
        let origin =
            Origin { lane: LaneId(1), space: partition, ticket: *ticket, mark: 0, tracked: true, urgent: false };
        *ticket += 1;
        let record = Arrival { timestamp_ms: 5, body: &body, origin, charge: 0 };
        assert_eq!(rig.produce.has_unplaced(topic), partition == 0 || *ticket == 2);
        rig.produce.append_unplaced(rig.now, P, Tp { topic, partition }, false, &record, &mut rig.out);
    }
    let facts = [LeaderFact { leader: Some(B1), epoch: 0 }];
    rig.produce.set_topic(rig.now, topic, Some((Uuid([9; 16]), &facts)), &mut rig.out, &mut ByKey);
    rig.produce.flush(P);
    let mut seen = Vec::new();
    while let Some(sent) = rig.call(B1) {
        seen.extend(values(&sent.bytes(0)));
        rig.answer_with(&sent, |_, index, _| Rig::ok(index, 0));
    }
    assert_eq!(seen, ["\u{0}first", "second", "\u{0}third"]);
    assert!(!rig.produce.has_unplaced(topic));
}
