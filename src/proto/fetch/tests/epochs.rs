//! Positions after leader changes and truncations (KIP-320).

use super::*;
use crate::wire::messages::offset_for_leader_epoch::response::{EpochEndOffset, OffsetForLeaderTopicResult};
use crate::wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

impl Bed {
    fn prove(&mut self, broker: BrokerId) -> OffsetForLeaderEpochRequest {
        match self.call(broker) {
            Some(FetchCall::OffsetForLeaderEpoch { request, .. }) => request,
            other => panic!("{other:?}"),
        }
    }

    /// (partition, error, epoch, end offset) each.
    fn epochs(&mut self, broker: BrokerId, answers: &[(i32, ErrorCode, i32, i64)]) {
        let partition = |(partition, code, leader_epoch, end_offset): &(i32, ErrorCode, i32, i64)| EpochEndOffset {
            partition: *partition,
            error_code: code.code(),
            leader_epoch: *leader_epoch,
            end_offset: *end_offset,
            ..Default::default()
        };
        let partitions = answers.iter().map(partition).collect();
        let topics = vec![OffsetForLeaderTopicResult { topic: "t".into(), partitions, ..Default::default() }];
        let response = OffsetForLeaderEpochResponse { topics, ..Default::default() };
        self.fetcher.on_epochs(self.now, broker, &response);
    }
}

/// One broker, so many partitions, each read up to offset 50, whose last record is of epoch 3.
fn read_to_50(partitions: i32, policy: AutoOffsetReset) -> Bed {
    let leaders = vec![1; partitions as usize];
    let mut bed = Bed::new(settings(|settings| settings.auto_offset_reset = policy), &leaders);
    bed.metadata(ID, &leaders, 3);
    for partition in 0..partitions {
        bed.assign(partition, 1, StartAt::Offset(0));
    }
    bed.fetch(ONE);
    bed.answer(ONE, 5, (0..partitions).map(|partition| records(partition, plain(0, 50))).collect());
    assert_eq!(bed.data().len(), partitions as usize);
    for partition in 0..partitions {
        bed.fetcher.taken(tp(partition), 1, usize::MAX, false);
    }
    bed
}

fn truncated(offset: i64, to: i64, stopped: bool) -> Output {
    Output::Refused { tp: tp(0), generation: 1, why: Refusal::Truncated { offset, to }, stopped }
}

#[test]
fn d2_42_after_a_leader_change_the_position_is_proven_before_more_is_fetched() {
    let mut bed = read_to_50(2, AutoOffsetReset::Earliest);
    bed.metadata(ID, &[2, 1], 4);
    // The one whose epoch rose without another leader, too; each at its own.
    for (broker, partition) in [(ONE, 1), (TWO, 0)] {
        let request = bed.prove(broker);
        let asked = &request.topics[0].partitions;
        assert_eq!((request.replica_id, asked.len()), (-1, 1));
        assert_eq!((asked[0].partition, asked[0].current_leader_epoch, asked[0].leader_epoch), (partition, 4, 3));
        assert!(bed.call(broker).is_none(), "nothing is fetched before");
        bed.epochs(broker, &[(partition, ErrorCode::None, 3, 50)]);
        let fetch = bed.fetch(broker);
        let wanted = &fetch.topics[0].partitions[0];
        assert_eq!((wanted.fetch_offset, wanted.last_fetched_epoch, wanted.current_leader_epoch), (50, 3, 4));
    }
    assert!(bed.outputs().iter().all(|output| !matches!(output, Output::Refused { .. })));
    // A partition of which nothing was read yet has nothing to prove.
    bed.assign(0, 2, StartAt::Offset(7));
    bed.metadata(ID, &[1, 1], 5);
    bed.prove(ONE);
    bed.answer(ONE, 5, Vec::new());
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 7)]);
}

#[test]
fn d2_42_a_truncated_log_rewinds_and_tells_the_loss() {
    for (policy, stopped) in [(AutoOffsetReset::Earliest, false), (AutoOffsetReset::None, true)] {
        let mut bed = read_to_50(1, policy);
        bed.metadata(ID, &[2], 4);
        bed.prove(TWO);
        bed.epochs(TWO, &[(0, ErrorCode::None, 2, 31)]);
        assert_eq!(bed.outputs(), [truncated(50, 31, stopped)]);
        if stopped {
            assert!(bed.call(TWO).is_none(), "the application decides");
            bed.assign(0, 2, StartAt::Offset(31));
        }
        let fetch = bed.fetch(TWO);
        let wanted = &fetch.topics[0].partitions[0];
        let last_epoch = if stopped { -1 } else { 2 };
        assert_eq!((wanted.fetch_offset, wanted.last_fetched_epoch), (31, last_epoch));
    }
}

#[test]
fn d2_42_a_diverging_epoch_in_a_fetch_rewinds_and_tells_the_loss() {
    let mut bed = read_to_50(1, AutoOffsetReset::Latest);
    bed.fetch(ONE);
    let diverging =
        crate::wire::messages::fetch::response::EpochEndOffset { epoch: 2, end_offset: 44, ..Default::default() };
    bed.answer(ONE, 5, vec![PartitionData { diverging_epoch: diverging, ..records(0, Vec::new()) }]);
    assert_eq!(bed.outputs(), [truncated(50, 44, false)]);
    let fetch = bed.fetch(ONE);
    let wanted = &fetch.topics[0].partitions[0];
    assert_eq!((wanted.fetch_offset, wanted.last_fetched_epoch), (44, 2));
    bed.answer(ONE, 5, vec![records(0, plain(44, 3))]);
    assert_eq!(bed.data()[0].offset, 44);
}

#[test]
fn d2_42_an_epoch_that_the_leader_does_not_know_is_no_loss() {
    let mut bed = read_to_50(1, AutoOffsetReset::None);
    bed.metadata(ID, &[2], 4);
    bed.prove(TWO);
    bed.epochs(TWO, &[(0, ErrorCode::None, -1, -1)]);
    assert_eq!(bed.outputs(), []);
    let fetch = bed.fetch(TWO);
    let wanted = &fetch.topics[0].partitions[0];
    assert_eq!((wanted.fetch_offset, wanted.last_fetched_epoch), (50, -1), "and is not named again");
}

#[test]
fn d2_42_a_broker_that_cannot_say_is_fetched_from_as_before() {
    let mut bed = read_to_50(1, AutoOffsetReset::None);
    bed.metadata(ID, &[2], 4);
    let old = FetchVersions { fetch: Some(11), fetch_by_name: Some(11), offset_for_leader_epoch: None, ..VERSIONS };
    match bed.fetcher.next_call(bed.now, TWO, &old, |want| Some(want.bytes)) {
        Some(FetchCall::Fetch { version: 11, request, .. }) => {
            let wanted = &request.topics[0].partitions[0];
            assert_eq!((wanted.fetch_offset, wanted.last_fetched_epoch), (50, -1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn d2_43_an_answer_that_comes_while_a_position_is_proven_is_not_given_out_twice() {
    let mut bed = read_to_50(1, AutoOffsetReset::Earliest);
    bed.fetch(ONE);
    bed.metadata(ID, &[2], 4);
    bed.prove(TWO);
    // The old leader answers late; its records may not be in the new leader's log.
    bed.answer(ONE, 5, vec![records(0, plain(50, 5))]);
    assert!(bed.data().is_empty());
    bed.epochs(TWO, &[(0, ErrorCode::None, 3, 50)]);
    assert_eq!(asked(&bed.fetch(TWO)), [(0, 50)]);
    bed.answer(TWO, 6, vec![records(0, plain(50, 5))]);
    assert_eq!(bed.data().len(), 1);
    assert_eq!(bed.fetcher.offset(tp(0)), Some(55));
    // A proof for what is not asked any more proves nothing.
    bed.metadata(ID, &[1], 5);
    bed.prove(ONE);
    bed.assign(0, 2, StartAt::Offset(9));
    bed.epochs(ONE, &[(0, ErrorCode::None, 1, 3)]);
    assert_eq!((bed.outputs(), bed.fetcher.offset(tp(0))), (Vec::new(), Some(9)));
}

#[test]
fn d2_43_leader_changes_in_a_row_make_no_storm_of_proofs() {
    let mut bed = read_to_50(3, AutoOffsetReset::Earliest);
    let mut proofs = 0;
    for change in 0..200 {
        bed.metadata(ID, &[1; 3], 4 + change);
        if matches!(bed.call(ONE), Some(FetchCall::OffsetForLeaderEpoch { .. })) {
            proofs += 1;
        }
        assert!(bed.call(ONE).is_none());
    }
    assert_eq!(proofs, 1, "one in flight, whatever happens meanwhile");
    // Its answer is of an epoch that is past; the next one counts. Then errors are waited out.
    bed.epochs(ONE, &[(0, ErrorCode::None, 3, 50), (1, ErrorCode::None, 3, 50), (2, ErrorCode::None, 3, 50)]);
    for _ in 0..1_000 {
        if let Some(FetchCall::OffsetForLeaderEpoch { request, .. }) = bed.call(ONE) {
            assert_eq!(request.topics[0].partitions[0].current_leader_epoch, 203);
            proofs += 1;
            let fenced = [0, 1, 2].map(|partition| (partition, ErrorCode::FencedLeaderEpoch, -1, -1));
            bed.epochs(ONE, &fenced);
        }
        bed.wait(1);
    }
    assert!((3..20).contains(&proofs), "{proofs} proofs in a second of errors");
}

#[test]
fn d2_41_an_offset_said_not_to_exist_is_checked_for_truncation_before_the_policy() {
    let mut bed = read_to_50(1, AutoOffsetReset::None);
    for end in [Some(80), None] {
        bed.fetch(ONE);
        bed.answer(ONE, 5, vec![error(0, ErrorCode::OffsetOutOfRange)]);
        if let Some(end) = end {
            bed.prove(ONE);
            bed.epochs(ONE, &[(0, ErrorCode::None, 3, end)]);
            assert_eq!(bed.outputs(), [], "the log holds it: asked once more");
        }
    }
    let why = Refusal::OutOfRange { offset: 50 };
    assert_eq!(bed.outputs(), [Output::Refused { tp: tp(0), generation: 1, why, stopped: true }]);
    // Truncated: that is what is told, not a reset to the start.
    let mut bed = read_to_50(1, AutoOffsetReset::Earliest);
    bed.fetch(ONE);
    bed.answer(ONE, 5, vec![error(0, ErrorCode::OffsetOutOfRange)]);
    bed.prove(ONE);
    bed.epochs(ONE, &[(0, ErrorCode::None, 3, 20)]);
    assert_eq!(bed.outputs(), [truncated(50, 20, false)]);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 20)]);
}
