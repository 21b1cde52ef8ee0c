//! Metadata as brokers really send it: partial, stale, contradictory. In virtual time.

use std::time::Duration;

use super::*;
use crate::base::backoff::BackoffRange;
use crate::base::ids::{BrokerId, TopicIx, Tp, Uuid};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::wire::ErrorCode;
use crate::wire::messages::MetadataResponse;
use crate::wire::messages::metadata::response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};

const ID: Uuid = Uuid([1; 16]);
const T: TopicIx = TopicIx(0);

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn tp(partition: i32) -> Tp {
    Tp { topic: T, partition }
}

fn broker(id: i32) -> MetadataResponseBroker {
    MetadataResponseBroker { node_id: id, host: format!("b{id}"), port: 9092, ..Default::default() }
}

/// (index, leader, epoch)
fn partition((index, leader, epoch): (i32, i32, i32)) -> MetadataResponsePartition {
    let error = if leader < 0 { ErrorCode::LeaderNotAvailable } else { ErrorCode::None };
    MetadataResponsePartition {
        error_code: error.code(),
        partition_index: index,
        leader_id: leader,
        leader_epoch: epoch,
        replica_nodes: vec![1, 2],
        isr_nodes: vec![1],
        ..Default::default()
    }
}

fn topic(id: Uuid, partitions: &[(i32, i32, i32)]) -> MetadataResponseTopic {
    let partitions = partitions.iter().copied().map(partition).collect();
    MetadataResponseTopic { name: Some("t".into()), topic_id: id, partitions, ..Default::default() }
}

fn failed(code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic { error_code: code.code(), name: Some("t".into()), ..Default::default() }
}

fn answer(topics: Vec<MetadataResponseTopic>) -> MetadataResponse {
    MetadataResponse {
        brokers: vec![broker(1), broker(2)],
        cluster_id: Some("c".into()),
        controller_id: 1,
        topics,
        ..Default::default()
    }
}

struct Bed {
    cluster: Cluster,
    names: TopicNames,
}

impl Bed {
    fn new() -> Self {
        let names = TopicNames::new();
        names.intern("t").unwrap();
        let mut cluster = Cluster::new(Duration::from_secs(30));
        cluster.on_wanted(at(0), T, &names);
        Self { cluster, names }
    }
    fn with(partitions: &[(i32, i32, i32)]) -> Self {
        let mut bed = Self::new();
        bed.tell(0, topic(ID, partitions));
        bed
    }
    fn tell(&mut self, ms: u64, topic: MetadataResponseTopic) -> Change {
        self.cluster.on_metadata(at(ms), &answer(vec![topic]), &self.names).unwrap()
    }
    fn leader(&self, partition: i32) -> Option<(i32, i32)> {
        self.cluster.snapshot().leader(tp(partition)).map(|(broker, epoch)| (broker.0, epoch))
    }
    fn state(&self) -> TopicState {
        self.cluster.snapshot().topic(T).unwrap().state
    }
}

#[test]
fn an_answer_becomes_a_snapshot_and_an_equal_one_changes_nothing() {
    let mut bed = Bed::new();
    assert_eq!(bed.state(), TopicState::Pending);
    let change = bed.tell(1, topic(ID, &[(0, 1, 5), (1, 2, 6)]));
    assert!(change.changed && change.incomplete.is_empty());
    let snapshot = std::sync::Arc::clone(bed.cluster.snapshot());
    assert_eq!(snapshot.topic_by_id(ID).unwrap().name.as_ref(), "t");
    assert_eq!((snapshot.topic(T).unwrap().partition_count(), bed.leader(1)), (2, Some((2, 6))));
    assert_eq!(snapshot.broker(BrokerId(2)).unwrap().host, "b2");
    assert_eq!(snapshot.controller, Some(BrokerId(1)));
    let again = bed.tell(2, topic(ID, &[(0, 1, 5), (1, 2, 6)]));
    assert_eq!(again, Change::default());
    assert_eq!(bed.cluster.snapshot().version, snapshot.version);
}

#[test]
fn d2_44_an_older_leader_epoch_is_ignored_but_not_for_ever() {
    let mut bed = Bed::with(&[(0, 1, 9)]);
    for i in 0..STALE_MAX {
        bed.tell(u64::from(i), topic(ID, &[(0, 2, 8)]));
        assert_eq!(bed.leader(0), Some((1, 9)), "answer {i}");
    }
    bed.tell(100, topic(ID, &[(0, 2, 8)]));
    assert_eq!(bed.leader(0), Some((2, 8)), "the newest metadata wins in the end");
    // A good answer in between starts the count again; -1 counts as older.
    bed.tell(101, topic(ID, &[(0, 2, -1)]));
    bed.tell(102, topic(ID, &[(0, 1, 8)]));
    for _ in 0..STALE_MAX {
        bed.tell(103, topic(ID, &[(0, 2, -1)]));
        assert_eq!(bed.leader(0), Some((1, 8)));
    }
}

#[test]
fn d4_83_errors_do_not_erase_what_is_known() {
    let mut bed = Bed::with(&[(0, 1, 1), (1, 2, 1)]);
    for code in [ErrorCode::LeaderNotAvailable, ErrorCode::UnknownServerError, ErrorCode::TopicAuthorizationFailed] {
        bed.tell(10, failed(code));
        assert_eq!((bed.leader(0), bed.leader(1)), (Some((1, 1)), Some((2, 1))));
        assert_eq!(bed.cluster.snapshot().topic(T).unwrap().error, code);
    }
    assert_eq!(bed.state(), TopicState::Failed(ErrorCode::TopicAuthorizationFailed));
    // One partition in trouble leaves the other alone, and keeps its own leader.
    let mut mixed = topic(ID, &[(0, 2, 2), (1, 2, 1)]);
    mixed.partitions[1].error_code = ErrorCode::UnknownServerError.code();
    mixed.partitions[1].leader_id = -1;
    bed.tell(20, mixed);
    assert_eq!((bed.leader(0), bed.leader(1)), (Some((2, 2)), Some((2, 1))));
    assert_eq!(bed.state(), TopicState::Known);
}

#[test]
fn d4_83_an_answer_without_brokers_or_topics_erases_nothing() {
    let mut bed = Bed::with(&[(0, 1, 1)]);
    let nothing = MetadataResponse { controller_id: -1, ..Default::default() };
    let change = bed.cluster.on_metadata(at(5), &nothing, &bed.names).unwrap();
    assert!(!change.changed && change.brokers_moved.is_empty());
    let failed = MetadataResponse { error_code: ErrorCode::RebootstrapRequired.code(), ..Default::default() };
    let error = bed.cluster.on_metadata(at(5), &failed, &bed.names).unwrap_err();
    assert_eq!(error, MetadataError(ErrorCode::RebootstrapRequired));
    assert_eq!((bed.cluster.snapshot().brokers.len(), bed.leader(0)), (2, Some((1, 1))));
}

#[test]
fn d1_14_a_leader_hint_moves_at_once_and_never_to_a_lower_epoch() {
    let mut bed = Bed::with(&[(0, 1, 5)]);
    assert!(bed.cluster.on_leader_hint(tp(0), BrokerId(2), 6, None).changed);
    assert_eq!(bed.leader(0), Some((2, 6)));
    for epoch in [6, 5, 0, -1] {
        assert!(!bed.cluster.on_leader_hint(tp(0), BrokerId(1), epoch, None).changed, "{epoch}");
    }
    assert_eq!(bed.leader(0), Some((2, 6)));
    // A leader that nobody has heard of needs its address.
    let change = bed.cluster.on_leader_hint(tp(0), BrokerId(3), 7, None);
    assert_eq!((change.changed, change.incomplete), (false, vec![T]));
    assert!(bed.cluster.on_leader_hint(tp(0), BrokerId(3), 7, Some(("b3", 9092))).changed);
    assert_eq!((bed.leader(0), bed.cluster.snapshot().broker(BrokerId(3)).unwrap().port), (Some((3, 7)), 9092));
    // And metadata that has not heard of the move does not undo it.
    bed.tell(9, topic(ID, &[(0, 1, 5)]));
    assert_eq!(bed.leader(0), Some((3, 7)));
    // Hints for what is not known are not believed.
    assert!(!bed.cluster.on_leader_hint(tp(7), BrokerId(2), 9, None).changed);
}

#[test]
fn d1_15_a_restarting_broker_that_misses_the_topic_keeps_its_state() {
    let mut bed = Bed::with(&[(0, 1, 5)]);
    let change = bed.tell(1_000, failed(ErrorCode::UnknownTopicOrPartition));
    assert_eq!((bed.state(), bed.leader(0)), (TopicState::Known, Some((1, 5))));
    assert_eq!(change.incomplete, [T], "and it is asked for again");
    bed.tell(2_000, topic(ID, &[(0, 1, 5)]));
    let known = bed.cluster.snapshot().topic(T).unwrap();
    assert_eq!((known.incarnation, known.failing_since), (0, Time::NEVER));
}

#[test]
fn d1_16_an_unknown_topic_waits_for_propagation_and_then_fails_with_its_code() {
    let mut bed = Bed::new();
    for ms in [10, 10_000, 29_999] {
        let change = bed.tell(ms, failed(ErrorCode::UnknownTopicOrPartition));
        assert_eq!((bed.state(), change.incomplete), (TopicState::Pending, vec![T]), "{ms}");
    }
    bed.tell(30_000, failed(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(bed.state(), TopicState::Failed(ErrorCode::UnknownTopicOrPartition));
    // Created at last.
    bed.tell(31_000, topic(ID, &[(0, 1, 0)]));
    assert_eq!(bed.state(), TopicState::Known);
    // An invalid or forbidden name fails at once.
    let mut bed = Bed::new();
    bed.tell(1, failed(ErrorCode::InvalidTopicException));
    assert_eq!(bed.state(), TopicState::Failed(ErrorCode::InvalidTopicException));
}

#[test]
fn d1_17_a_topic_with_a_new_id_starts_anew() {
    let mut bed = Bed::with(&[(0, 1, 50), (1, 2, 50)]);
    let again = Uuid([2; 16]);
    let change = bed.tell(1, topic(again, &[(0, 2, 0)]));
    assert_eq!(change.recreated, [T]);
    let snapshot = bed.cluster.snapshot();
    assert_eq!(bed.leader(0), Some((2, 0)), "epochs of the old one do not count");
    assert_eq!((snapshot.topic(T).unwrap().partition_count(), snapshot.topic(T).unwrap().incarnation), (1, 1));
    assert!(snapshot.topic_by_id(ID).is_none() && snapshot.topic_by_id(again).is_some());
}

#[test]
fn d1_18_new_partitions_stay_when_a_stale_answer_lacks_them() {
    let mut bed = Bed::with(&[(0, 1, 1)]);
    bed.tell(1, topic(ID, &[(0, 1, 1), (1, 2, 0), (2, 1, 0)]));
    assert_eq!(bed.cluster.snapshot().topic(T).unwrap().partition_count(), 3);
    for i in 0..20 {
        bed.tell(2 + i, topic(ID, &[(0, 1, 1)]));
    }
    assert_eq!((bed.cluster.snapshot().topic(T).unwrap().partition_count(), bed.leader(2)), (3, Some((1, 0))));
    // Without topic ids, insistence is the only sign that a topic was made again with fewer.
    let mut bed = Bed::new();
    bed.tell(1, topic(Uuid::ZERO, &[(0, 1, 1), (1, 1, 1)]));
    for _ in 0..STALE_MAX {
        bed.tell(2, topic(Uuid::ZERO, &[(0, 1, 1)]));
        assert_eq!(bed.cluster.snapshot().topic(T).unwrap().partition_count(), 2);
    }
    bed.tell(3, topic(Uuid::ZERO, &[(0, 1, 1)]));
    assert_eq!(bed.cluster.snapshot().topic(T).unwrap().partition_count(), 1);
}

#[test]
fn d1_19_a_partition_without_leader_is_leaderless_and_asked_for_again() {
    let mut bed = Bed::with(&[(0, 1, 1), (1, 2, 1)]);
    let change = bed.tell(1, topic(ID, &[(0, -1, 2), (1, 2, 1)]));
    assert_eq!((bed.leader(0), bed.leader(1), change.incomplete), (None, Some((2, 1)), vec![T]));
    assert_eq!(bed.state(), TopicState::Known);
    bed.tell(2, topic(ID, &[(0, 2, 3), (1, 2, 1)]));
    assert_eq!(bed.leader(0), Some((2, 3)));
}

#[test]
fn d4_74_moved_and_removed_brokers_are_named() {
    let mut bed = Bed::with(&[(0, 1, 1)]);
    let mut moved = answer(Vec::new());
    moved.brokers[0].port = 9093;
    let change = bed.cluster.on_metadata(at(1), &moved, &bed.names).unwrap();
    assert_eq!(change.brokers_moved, [BrokerId(1)]);
    moved.brokers.truncate(1);
    let change = bed.cluster.on_metadata(at(1), &moved, &bed.names).unwrap();
    assert_eq!(change.brokers_moved, [BrokerId(2)]);
}

#[test]
fn nonsense_reserves_nothing() {
    let mut bed = Bed::new();
    let mut wild = answer(vec![topic(ID, &[(i32::MAX, 1, 1), (-1, 1, 1), (0, 1, 1), (0, 2, 9)])]);
    wild.brokers.extend([
        MetadataResponseBroker { node_id: 3, host: "x".into(), port: 70_000, ..Default::default() },
        MetadataResponseBroker { node_id: 4, host: String::new(), port: 1, ..Default::default() },
        MetadataResponseBroker { node_id: -7, host: "x".into(), port: 1, ..Default::default() },
        MetadataResponseBroker { node_id: 5, host: "x".into(), port: 0, ..Default::default() },
    ]);
    bed.cluster.on_metadata(at(1), &wild, &bed.names).unwrap();
    assert_eq!(bed.cluster.snapshot().brokers.len(), 2);
    assert_eq!((bed.cluster.snapshot().topic(T).unwrap().partitions.len(), bed.leader(0)), (4, Some((1, 1))));
    // Topics that nobody asked for are passed over.
    let other = MetadataResponseTopic { name: Some("other".into()), ..topic(Uuid([9; 16]), &[(0, 1, 1)]) };
    assert!(!bed.tell(2, other).changed);
}

#[test]
fn features_come_from_the_newest_epoch() {
    let mut bed = Bed::new();
    let level = |level| [("transaction.version".to_owned(), level)];
    assert!(bed.cluster.on_features(5, &level(2)).changed);
    assert!(!bed.cluster.on_features(4, &level(1)).changed);
    assert_eq!(bed.cluster.snapshot().feature("transaction.version"), 2);
}

// ---- when to ask ----

fn refresh() -> (Refresh, Rng) {
    let settings = RefreshSettings {
        max_age: Duration::from_secs(300),
        backoff: BackoffRange { first: Duration::from_millis(100), max: Duration::from_secs(1) },
        hedge: Duration::from_secs(2),
    };
    (Refresh::new(settings), Rng::new(1))
}

#[test]
fn all_that_is_used_is_asked_for_at_first_and_again_at_its_age() {
    let (mut refresh, mut rng) = refresh();
    let first = refresh.next(at(0)).unwrap();
    assert!(first.topics.is_empty(), "brokers only");
    refresh.on_answer(at(5), first.number, &[], &mut rng);
    assert!(refresh.use_topic(at(6), T) && !refresh.use_topic(at(6), T));
    let second = refresh.next(at(6)).expect("a new topic waits for nobody's backoff");
    assert_eq!(second.topics, [T]);
    refresh.on_answer(at(7), second.number, &[], &mut rng);
    assert_eq!((refresh.next(at(299_999)), refresh.next_deadline()), (None, at(300_000)));
    assert_eq!(refresh.next(at(300_000)).unwrap().topics, [T]);
}

#[test]
fn doubts_are_asked_about_soon_but_not_in_a_storm() {
    let (mut refresh, mut rng) = refresh();
    refresh.use_topic(at(0), T);
    let ask = refresh.next(at(0)).unwrap();
    refresh.on_answer(at(1), ask.number, &[], &mut rng);
    let mut asked = 0;
    for ms in 1..=1_000 {
        refresh.on_doubt([T, TopicIx(99)]);
        if let Some(ask) = refresh.next(at(ms)) {
            assert_eq!(ask.topics, [T], "only what is in use");
            refresh.on_answer(at(ms), ask.number, &[], &mut rng);
            asked += 1;
        }
    }
    assert!((5..=10).contains(&asked), "{asked} questions in a second of a thousand doubts");
}

#[test]
fn incomplete_answers_are_asked_again_with_growing_waits() {
    let (mut refresh, mut rng) = refresh();
    refresh.use_topic(at(0), T);
    let mut now = at(0);
    let mut asked = 0;
    while now < at(20_000) {
        if let Some(ask) = refresh.next(now) {
            assert_eq!(ask.topics, [T]);
            refresh.on_answer(now, ask.number, &[T], &mut rng);
            asked += 1;
        }
        now = refresh.next_deadline();
    }
    assert!((20..=70).contains(&asked), "{asked} in 20 s with waits growing to at most 1 s");
}

#[test]
fn d4_83_a_question_to_a_dead_broker_does_not_block_the_next() {
    let (mut refresh, mut rng) = refresh();
    refresh.use_topic(at(0), T);
    let dead = refresh.next(at(0)).unwrap();
    assert_eq!((refresh.next(at(1_999)), refresh.next_deadline()), (None, at(2_000)));
    let other = refresh.next(at(2_000)).unwrap();
    assert_eq!(other.topics, [T]);
    refresh.on_answer(at(2_001), other.number, &[], &mut rng);
    // The dead one's failure comes late and changes nothing.
    refresh.on_failed(at(30_000), dead.number, &mut rng);
    assert_eq!(refresh.next_deadline(), at(300_000));
}

#[test]
fn a_failed_question_is_asked_again() {
    let (mut refresh, mut rng) = refresh();
    refresh.use_topic(at(0), T);
    let ask = refresh.next(at(0)).unwrap();
    refresh.on_failed(at(1), ask.number, &mut rng);
    let next = refresh.next_deadline();
    assert!(next > at(1) && next <= at(101));
    assert_eq!(refresh.next(next).unwrap().topics, [T]);
}
