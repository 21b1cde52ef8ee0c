//! How records end: acks=0, missing answers, expiry, closing.

use super::super::*;
use super::model::*;
use crate::config::Acks;
use crate::wire::messages::ProduceResponse;

fn plain(acks: Acks) -> ProducerSettings {
    ProducerSettings { acks, idempotence: false, ..settings() }
}

#[test]
fn d1_20_acks_0_completes_on_the_write_and_loss_is_unknown() {
    let mut rig = Rig::new(plain(Acks::None));
    rig.send(0, "a");
    let sent = rig.call(B1).unwrap();
    assert_eq!(sent.request.acks, 0);
    assert!(!rig.produce.call_is_answered(sent.call));
    rig.produce.on_written(rig.now, sent.call, &mut rig.out);
    assert_eq!(rig.outcomes(0), [(0, Outcome::Delivered { offset: -1, timestamp_ms: -1 })]);

    rig.send(0, "b");
    let sent = rig.call(B1).unwrap();
    rig.produce.on_lost(rig.now, sent.call, true, &mut rig.out);
    assert_eq!(rig.outcomes(0)[1], (1, Outcome::Unknown(Reason::ConnectionLost)));

    rig.send(0, "c");
    let sent = rig.call(B1).unwrap();
    rig.produce.on_lost(rig.now, sent.call, false, &mut rig.out);
    let again = rig.call(B1).expect("nothing was written: it goes again");
    rig.produce.on_written(rig.now, again.call, &mut rig.out);
    assert!(delivered(&rig.outcomes(0)[2].1));
    rig.check_end();
}

#[test]
fn a_partition_missing_in_the_answer_is_sent_again() {
    let mut rig = Rig::granted(settings());
    rig.send(0, "a");
    rig.send(1, "b");
    let sent = rig.call(B1).unwrap();
    assert_eq!(sent.parts().len(), 2);
    rig.logs.entry(0).or_default().append(&sent.bytes(0)).unwrap();
    rig.produce.on_answer(rig.now, sent.call, &ProduceResponse::default(), &rig.names, &mut rig.out);
    rig.run(B1);
    assert_eq!((rig.log(0), rig.log(1)), (vec!["first", "a"], vec!["b"]));
    rig.check_end();
}

#[test]
fn answers_about_partitions_that_were_not_asked_are_passed_over() {
    let mut rig = Rig::granted(settings());
    rig.send(0, "a");
    let mut sent = rig.call(B1).unwrap();
    let mut more = sent.request.topic_data[0].partition_data[0].clone();
    more.index = 3;
    sent.request.topic_data[0].partition_data.push(more.clone());
    more.index = 0;
    sent.request.topic_data[0].partition_data.push(more);
    rig.answer_with(&sent, |_, index, _| Rig::ok(index, 1));
    rig.check_end();
}

#[test]
fn r05_outcomes_come_in_order_per_partition() {
    let settings = ProducerSettings { batch_count_max: Some(1), idempotence: false, ..settings() };
    let mut rig = Rig::new(settings);
    (0..3).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    rig.accept(&sent[2]);
    rig.accept(&sent[1]);
    assert!(rig.outcomes(0).is_empty(), "an older one is open");
    rig.accept(&sent[0]);
    assert_eq!(rig.outcomes(0).len(), 3);
    rig.check_end();
}

#[test]
fn r05_offsets_and_append_time_reach_every_run() {
    let mut rig = Rig::granted(settings());
    for i in 0..6u64 {
        rig.send_with(0, "x", |origin| {
            origin.lane = crate::base::ids::LaneId((i / 2) as u32);
        });
    }
    let sent = rig.call(B1).unwrap();
    rig.answer_with(&sent, |_, index, _| {
        let mut ok = Rig::ok(index, 40);
        ok.log_append_time_ms = 77;
        ok
    });
    let told: Vec<_> = rig.out.settled.iter().map(|(_, run, outcome)| (run.lane.0, run.count, *outcome)).collect();
    let at = |offset| Outcome::Delivered { offset, timestamp_ms: 77 };
    assert_eq!(told, [(0, 2, at(40)), (1, 2, at(42)), (2, 2, at(44))]);
}

#[test]
fn a_batch_that_never_left_expires_as_surely_not_written_and_spends_no_epoch() {
    let mut rig = Rig::granted(ProducerSettings { batch_count_max: Some(1), linger: ms(1_000), ..Default::default() });
    rig.leaders_at(2, &[None; 4], crate::base::ids::Uuid([1; 16]));
    rig.send(0, "a");
    rig.pass(ms(60_000));
    rig.send(0, "b");
    rig.pass(ms(60_000));
    assert_eq!(rig.outcomes(0), [(1, Outcome::Failed(Reason::Timeout(ErrorCode::None)))]);
    rig.leaders_at(3, &[Some(B1); 4], crate::base::ids::Uuid([1; 16]));
    let sent = rig.call_later(B1);
    assert_eq!(sent.stamp(0), (7, 0, 1, 1), "the number is given to the next one");
    rig.accept(&sent);
    rig.check_end();
}

#[test]
fn unknown_server_error_is_no_success_and_no_sure_failure() {
    let mut rig = Rig::granted(settings());
    rig.send(0, "a");
    let sent = rig.call(B1).unwrap();
    rig.refuse(&sent, ErrorCode::UnknownServerError);
    assert_eq!(rig.outcomes(0), [(1, Outcome::Unknown(Reason::Broker(ErrorCode::UnknownServerError)))]);
    rig.check_end();
}

#[test]
fn no_producer_id_fails_what_waits_for_it() {
    let mut rig = Rig::new(settings());
    rig.send(0, "a");
    assert!(rig.call(B1).is_none());
    let code = ErrorCode::ClusterAuthorizationFailed;
    rig.produce.on_producer_id(P, Err(code), &mut rig.out);
    assert_eq!(rig.outcomes(0), [(0, Outcome::Failed(Reason::NoProducerId(code)))]);
    rig.check_end();
}

#[test]
fn d1_24_stop_gives_every_record_one_outcome_and_refuses_later_ones() {
    let mut rig = Rig::granted(ProducerSettings { batch_count_max: Some(1), linger: ms(1_000), ..Default::default() });
    (0..7).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    assert_eq!(sent.len(), 5);
    rig.accept(&sent[0]);
    rig.produce.stop(Reason::Closed, &mut rig.out);
    rig.send(0, "late");
    let kinds: Vec<_> = rig
        .outcomes(0)
        .iter()
        .map(|(_, outcome)| match outcome {
            Outcome::Delivered { .. } => 'd',
            Outcome::Failed(Reason::Closed) => 'f',
            Outcome::Unknown(Reason::Closed) => 'u',
            _ => '?',
        })
        .collect();
    assert_eq!(kinds, ['d', 'u', 'u', 'u', 'u', 'f', 'f', 'f']);
    for sent in &sent[1..] {
        rig.produce.on_lost(rig.now, sent.call, true, &mut rig.out);
    }
    rig.check_end();
}

#[test]
fn backoff_grows_with_failures_and_starts_anew_after_success() {
    let mut rig = Rig::granted(settings());
    rig.send(0, "a");
    let mut waits = Vec::new();
    for _ in 0..6 {
        let start = rig.now;
        let sent = rig.call_later(B1);
        waits.push(start.until(rig.now));
        rig.refuse(&sent, ErrorCode::NotEnoughReplicas);
        assert!(rig.call(B1).is_none(), "it backs off");
    }
    assert!(waits.iter().skip(1).all(|wait| *wait <= ms(1_010)), "{waits:?}");
    rig.run(B1);
    rig.check_end();
}
