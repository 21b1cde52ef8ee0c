//! Sequences, epochs, and what may be in a log: pitfalls d1-1 to d1-12.

use super::super::*;
use super::model::*;

/// A granted rig with `count` batches in flight in requests of their own.
fn in_flight(count: usize) -> (Rig, Vec<Sent>) {
    let mut rig = Rig::granted(grouped());
    (0..count).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    (rig, sent)
}

#[test]
fn d1_01_a_retry_is_byte_identical() {
    let (mut rig, sent) = in_flight(1);
    let first = sent[0].bytes(0);
    rig.refuse(&sent[0], ErrorCode::NotEnoughReplicas);
    rig.send(0, "later");
    let again = rig.call_later(B1);
    assert_eq!(again.bytes(0), first);
    rig.accept(&again);
    rig.produce.flush(P);
    rig.run(B1);
    assert_eq!(rig.log(0), ["first", "0", "later"]);
    rig.check_end();
}

#[test]
fn d1_02_what_may_be_written_is_sent_again_as_it_was_and_not_duplicated() {
    for code in [ErrorCode::RequestTimedOut, ErrorCode::NotEnoughReplicasAfterAppend] {
        let (mut rig, sent) = in_flight(3);
        let bytes: Vec<_> = sent.iter().map(|sent| sent.bytes(0)).collect();
        // All three were appended, the broker says it cannot tell.
        for sent in &sent {
            rig.logs.entry(0).or_default().append(&sent.bytes(0)).unwrap();
            rig.refuse(sent, code);
        }
        for bytes in &bytes {
            let again = rig.call_later(B1);
            assert_eq!(&again.bytes(0), bytes);
            rig.accept(&again);
        }
        assert_eq!(rig.log(0), ["first", "0", "1", "2"]);
        rig.check_end();
    }
}

#[test]
fn d1_02_disconnect_after_the_write_keeps_order_and_duplicates_nothing() {
    let (mut rig, sent) = in_flight(5);
    rig.swallow(&sent[0]);
    rig.swallow(&sent[1]);
    // The others never reached the broker.
    for sent in &sent[2..] {
        rig.produce.on_lost(rig.now, sent.call, true, &mut rig.out);
    }
    rig.run(B1);
    assert_eq!(rig.log(0), ["first", "0", "1", "2", "3", "4"]);
    assert!(rig.ends(0).iter().all(|(_, outcome)| delivered(outcome)));
    rig.check_end();
}

#[test]
fn d1_03_duplicate_sequence_is_success_with_unknown_offset() {
    let (mut rig, sent) = in_flight(1);
    rig.refuse(&sent[0], ErrorCode::DuplicateSequenceNumber);
    assert_eq!(rig.ends(0), [(1, Outcome::Delivered { offset: -1, timestamp_ms: -1 })]);
    rig.check_end();
}

#[test]
fn d1_04_never_more_than_five_unanswered_batches_per_partition() {
    let mut rig = Rig::granted(grouped());
    rig.produce.settings.in_flight_max = 100;
    (0..20).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    assert_eq!(sent.len(), 5);
    rig.accept(&sent[0]);
    assert!(rig.call(B1).is_some());
    assert!(rig.call(B1).is_none());
}

#[test]
fn d1_04_no_more_than_four_batches_pass_one_that_may_have_to_be_sent_again() {
    let (mut rig, sent) = in_flight(5);
    (5..20).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    // The first is appended, but the broker cannot say so; the others are settled.
    rig.logs.entry(0).or_default().append(&sent[0].bytes(0)).unwrap();
    rig.refuse(&sent[0], ErrorCode::NotEnoughReplicasAfterAppend);
    sent[1..].iter().for_each(|sent| rig.accept(sent));
    for _ in 0..3 {
        let again = rig.call_later(B1);
        assert_eq!(again.bytes(0), sent[0].bytes(0));
        assert!(rig.call(B1).is_none(), "a sixth batch would make the broker forget the first");
        rig.refuse(&again, ErrorCode::NotEnoughReplicasAfterAppend);
    }
    rig.run(B1);
    let expected: Vec<_> = ["first".to_owned()].into_iter().chain((0..20).map(|i| i.to_string())).collect();
    assert_eq!(rig.log(0), expected, "nothing twice");
    rig.check_end();
}

#[test]
fn d1_04_without_idempotence_in_flight_one_keeps_order_across_connection_errors() {
    let mut rig = Rig::new(ProducerSettings { idempotence: false, ..grouped() });
    rig.produce.settings.in_flight_max = 1;
    rig.produce.add_producer(P, std::sync::Arc::new(ProducerSettings { idempotence: false, ..grouped() }));
    (0..4).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    for round in 0..20 {
        let sent = rig.call_later(B1);
        assert!(rig.call(B1).is_none(), "one at a time");
        if round % 3 == 2 {
            rig.accept(&sent);
        } else {
            rig.produce.on_lost(rig.now, sent.call, true, &mut rig.out);
        }
        if rig.produce.is_idle() {
            break;
        }
    }
    assert_eq!(rig.log(0), ["0", "1", "2", "3"]);
    rig.check_end();
}

#[test]
fn d1_05_out_of_order_behind_an_open_batch_waits_for_it() {
    let (mut rig, sent) = in_flight(3);
    rig.refuse(&sent[0], ErrorCode::NotEnoughReplicas);
    rig.accept(&sent[1]);
    rig.accept(&sent[2]);
    assert_eq!(rig.log(0), ["first"], "the broker refused what came after the gap");
    rig.run(B1);
    assert_eq!(rig.log(0), ["first", "0", "1", "2"]);
    assert_eq!(rig.produce.stats().bumps, 0, "no epoch spent");
    rig.check_end();
}

#[test]
fn d1_05_out_of_order_at_the_head_bumps_the_epoch_and_goes_on() {
    let (mut rig, sent) = in_flight(3);
    rig.refuse(&sent[0], ErrorCode::OutOfOrderSequenceNumber);
    assert!(rig.call(B1).is_none(), "old-epoch batches are in flight");
    rig.refuse(&sent[1], ErrorCode::OutOfOrderSequenceNumber);
    rig.refuse(&sent[2], ErrorCode::OutOfOrderSequenceNumber);
    let again = rig.call_later(B1);
    assert_eq!(again.stamp(0), (7, 1, 0, 3));
    rig.accept(&again);
    rig.run(B1);
    assert_eq!(rig.log(0), ["first", "0", "1", "2"]);
    rig.check_end();
}

#[test]
fn d1_06_unknown_producer_id_retries_or_bumps() {
    let (mut rig, sent) = in_flight(1);
    rig.answer_with(&sent[0], |_, index, _| Rig::error(index, ErrorCode::UnknownProducerId));
    let again = rig.call_later(B1);
    assert_eq!(again.stamp(0), (7, 0, 3, 3), "log start -1: a plain retry");
    rig.answer_with(&again, |_, index, _| {
        let mut error = Rig::error(index, ErrorCode::UnknownProducerId);
        error.log_start_offset = 50;
        error
    });
    let again = rig.call_later(B1);
    assert_eq!(again.stamp(0), (7, 1, 0, 3), "the log was cut: a new epoch");
    rig.accept(&again);
    rig.check_end();
}

#[test]
fn d1_07_other_partitions_follow_a_bump_when_nothing_old_is_unresolved() {
    let mut rig = Rig::granted(grouped());
    // The first batch under an identity goes alone: both partitions have theirs behind them.
    rig.send(0, "-");
    rig.send(1, "-");
    rig.produce.flush(P);
    let sent = rig.call(B1).unwrap();
    rig.accept(&sent);
    rig.send(0, "0");
    rig.send(1, "1");
    rig.send(1, "2");
    rig.produce.flush(P);
    let first = rig.call(B1).unwrap();
    let second = rig.call(B1).unwrap();
    assert_eq!((first.stamp(0).1, first.stamp(1).1, second.stamp(1)), (0, 0, (7, 0, 6, 3)));
    // Partition 0 needs a new epoch; partition 1's batches may be written.
    rig.answer_with(&first, |rig, index, bytes| {
        if index == 0 {
            return Rig::error(index, ErrorCode::OutOfOrderSequenceNumber);
        }
        rig.logs.entry(1).or_default().append(bytes).unwrap();
        Rig::error(index, ErrorCode::RequestTimedOut)
    });
    let bumped = rig.call_later(B1);
    assert_eq!(bumped.stamp(0), (7, 1, 0, 3));
    rig.accept(&bumped);
    rig.send(1, "3");
    rig.produce.flush(P);
    rig.produce.on_lost(rig.now, second.call, true, &mut rig.out);
    let mut epochs = Vec::new();
    while !rig.produce.is_idle() {
        let sent = rig.call_later(B1);
        epochs.push(sent.stamp(1));
        rig.accept(&sent);
    }
    assert_eq!(epochs, [(7, 0, 3, 3), (7, 0, 6, 3), (7, 1, 0, 3)]);
    assert_eq!(rig.log(1), ["-", "1", "2", "3"]);
    rig.check_end();
}

#[test]
fn d1_13_a_second_batch_is_not_let_in_before_the_first_by_a_broker_that_knows_no_sequence() {
    let mut rig = Rig::granted(grouped());
    rig.send(1, "0");
    rig.send(1, "1");
    rig.produce.flush(P);
    let first = rig.call(B1).unwrap();
    assert_eq!(first.stamp(1), (7, 0, 0, 3));
    assert!(rig.call(B1).is_none(), "the broker would take sequence 1 from an id it does not know");
    rig.refuse(&first, ErrorCode::NotEnoughReplicas);
    rig.run(B1);
    assert_eq!(rig.log(1), ["0", "1"]);
    rig.check_end();
}

#[test]
fn d1_08_after_epoch_32767_a_new_producer_id() {
    let mut rig = Rig::new(grouped());
    rig.send(0, "a");
    rig.produce.flush(P);
    assert!(rig.call(B1).is_none());
    rig.grant(7, i16::MAX);
    let sent = rig.call(B1).unwrap();
    rig.refuse(&sent, ErrorCode::OutOfOrderSequenceNumber);
    assert!(rig.call(B1).is_none());
    rig.grant(8, 0);
    let sent = rig.call(B1).unwrap();
    assert_eq!(sent.stamp(0), (8, 0, 0, 3));
    rig.accept(&sent);
    assert!(rig.ends(0).iter().all(|(_, outcome)| delivered(outcome)));
    rig.check_end();
}

#[test]
fn d1_08_sequences_pass_two_to_the_31_inside_a_batch() {
    let mut rig = Rig::granted(grouped());
    let ix = rig.produce.partition(P, tp(0));
    rig.produce.part(ix).next_sequence = i32::MAX - 1;
    rig.logs.entry(0).or_default().forget(7, i32::MAX - 2);
    (0..4).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent: Vec<_> = std::iter::from_fn(|| rig.call(B1)).collect();
    assert_eq!(sent.iter().map(|sent| sent.stamp(0).2).collect::<Vec<_>>(), [i32::MAX - 1, 1, 4, 7]);
    sent.iter().for_each(|sent| rig.accept(sent));
    assert_eq!(rig.log(0), ["0", "1", "2", "3"]);
}

#[test]
fn d1_09_invalid_producer_epoch_gets_a_new_identity() {
    let (mut rig, sent) = in_flight(2);
    rig.refuse(&sent[0], ErrorCode::InvalidProducerEpoch);
    rig.refuse(&sent[1], ErrorCode::InvalidProducerEpoch);
    rig.grant(9, 3);
    rig.run(B1);
    assert_eq!(rig.log(0), ["first", "0", "1"]);
    assert!(rig.ends(0).iter().all(|(_, outcome)| delivered(outcome)));
    rig.check_end();
}

#[test]
fn d1_10_only_the_failed_batch_fails_and_its_followers_arrive_in_order() {
    for followers in [0, 1, 4] {
        let (mut rig, sent) = in_flight(1 + followers);
        rig.send(0, "later");
        rig.refuse(&sent[0], ErrorCode::InvalidRecord);
        for sent in &sent[1..] {
            rig.accept(sent);
        }
        rig.produce.flush(P);
        rig.run(B1);
        let outcomes = rig.ends(0);
        assert_eq!(outcomes[0], (1, Outcome::Failed(Reason::Broker(ErrorCode::InvalidRecord))));
        assert!(outcomes[1..].iter().all(|(_, outcome)| delivered(outcome)));
        let expected: Vec<String> = ["first".into()]
            .into_iter()
            .chain((1..=followers).map(|i| i.to_string()))
            .chain(["later".into()])
            .collect();
        assert_eq!(rig.log(0), expected);
        rig.check_end();
    }
}

#[test]
fn d1_11_a_batch_that_is_too_large_is_split_in_order() {
    split_with(crate::config::Compression::None);
    #[cfg(feature = "lz4")]
    split_with(crate::config::Compression::Lz4);
}

fn split_with(compression: crate::config::Compression) {
    let mut rig = Rig::granted(ProducerSettings { linger: ms(1_000), compression, ..Default::default() });
    (0..10).for_each(|i| rig.send(0, &i.to_string()));
    rig.produce.flush(P);
    let sent = rig.call(B1).unwrap();
    rig.send(0, "later");
    rig.produce.flush(P);
    let follower = rig.call(B1).unwrap();
    rig.refuse(&sent, ErrorCode::MessageTooLarge);
    rig.accept(&follower);
    rig.run(B1);
    let expected: Vec<_> = (0..10).map(|i| i.to_string()).chain(["later".into()]).collect();
    assert_eq!(rig.log(0)[1..], expected);
    let outcomes = rig.ends(0);
    assert_eq!(outcomes.len(), 11);
    for (i, (ticket, outcome)) in outcomes.iter().enumerate() {
        let offset = i as i64 + 1;
        assert_eq!((*ticket, *outcome), (i as u64 + 1, Outcome::Delivered { offset, timestamp_ms: -1 }));
    }
    rig.check_end();
}

#[test]
fn d1_11_a_lone_record_that_is_too_large_fails_naming_its_sizes() {
    let mut rig = Rig::granted(ProducerSettings { batch_count_max: Some(1), ..grouped() });
    rig.send(0, "0");
    rig.produce.flush(P);
    let sent = rig.call(B1).unwrap();
    let wire = sent.bytes(0).len() as u32;
    rig.refuse(&sent, ErrorCode::MessageTooLarge);
    let outcomes = rig.ends(0);
    assert!(
        matches!(outcomes[0].1, Outcome::Failed(Reason::TooLarge { raw: 8, wire: w }) if w == wire),
        "{outcomes:?}"
    );
    rig.check_end();
}

#[test]
fn d1_12_expiry_with_the_request_on_the_socket() {
    let (mut rig, sent) = in_flight(1);
    rig.send(0, "next");
    rig.produce.flush(P);
    let released = rig.out.released;
    rig.pass(ms(119_999));
    assert!(rig.ends(0).is_empty());
    let next = rig.call(B1).unwrap();
    assert_eq!(next.stamp(0).1, 0);
    rig.pass(ms(1));
    let outcomes = rig.ends(0);
    assert!(
        outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Unknown(Reason::Timeout(_)))),
        "{outcomes:?}"
    );
    assert_eq!(rig.out.released, released, "the kernel may still hold the bytes");
    rig.send(0, "after");
    rig.produce.flush(P);
    assert!(rig.call(B1).is_none(), "old requests are still out");
    rig.produce.on_lost(rig.now, sent[0].call, true, &mut rig.out);
    rig.produce.on_lost(rig.now, next.call, true, &mut rig.out);
    assert_eq!(rig.out.released, released + 600);
    let after = rig.call_later(B1);
    assert_eq!(after.stamp(0), (7, 1, 0, 3), "under a new epoch");
    rig.accept(&after);
    rig.check_end();
}
