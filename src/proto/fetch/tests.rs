//! Fetching against a small model of a broker, in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::base::backoff::BackoffRange;
use crate::base::chunk::ChunkPool;
use crate::base::ids::{BrokerId, TopicIx, Tp, Uuid};
use crate::base::time::Time;
use crate::batch::{
    Aborted, Append, BatchBuilder, BatchSettings, Codec, Codecs, Decompressor, Fetched, Marker, Payload, Refusal,
    Stamp, Unpacked, encode_body, encode_marker, header,
};
use crate::config::{AutoOffsetReset, ConsumerSettings, IsolationLevel, StartAt};
use crate::proto::cluster::{Cluster, Snapshot, TopicNames};
use crate::wire::messages::fetch::response::{
    AbortedTransaction, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use crate::wire::messages::list_offsets::response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use crate::wire::messages::metadata::response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataResponse};
use crate::wire::{ApiKey, ErrorCode};

mod epochs;
mod pace;

const ID: Uuid = Uuid([7; 16]);
const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
const VERSIONS: FetchVersions = FetchVersions {
    fetch: Some(17),
    fetch_by_name: Some(12),
    list_offsets: Some(10),
    offset_for_leader_epoch: Some(4),
};
const PLENTY: usize = 64 << 20;

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn tp(partition: i32) -> Tp {
    Tp { topic: TopicIx(0), partition }
}

/// A batch with the given offsets, in the place that `base` says.
fn batch(codec: Codec, base: i64, count: i64, stamp: Stamp) -> Vec<u8> {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let settings =
        BatchSettings { size_bytes_max: 16 << 20, raw_bytes_max: 16 << 20, ..BatchSettings::with_codec(codec) };
    let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
    for offset in base..base + count {
        let mut body = Vec::new();
        encode_body(Some(b"k"), Some(format!("value {offset}").as_bytes()), std::iter::empty(), &mut body);
        assert_eq!(builder.append(1_000 + offset, &body), Append::Stored);
    }
    let mut bytes = Vec::new();
    builder.seal(stamp).copy_to(&mut bytes);
    header::assign(&mut bytes, base, 3);
    bytes
}

fn plain(base: i64, count: i64) -> Vec<u8> {
    batch(Codec::Lz4, base, count, Stamp::NONE)
}

fn transactional(producer_id: i64, base: i64, count: i64) -> Vec<u8> {
    let stamp = Stamp { producer_id, producer_epoch: 0, base_sequence: 0, transactional: true };
    batch(Codec::None, base, count, stamp)
}

fn settings(change: impl FnOnce(&mut ConsumerSettings)) -> Arc<ConsumerSettings> {
    let mut settings = ConsumerSettings { auto_offset_reset: AutoOffsetReset::Earliest, ..ConsumerSettings::default() };
    change(&mut settings);
    Arc::new(settings)
}

/// The cluster and what the fetcher says, with a hand in everything.
struct Bed {
    names: TopicNames,
    cluster: Cluster,
    fetcher: Fetcher,
    now: Time,
}

impl Bed {
    /// Topic "t", partition i led by `leaders[i]`.
    fn new(settings: Arc<ConsumerSettings>, leaders: &[i32]) -> Self {
        let names = TopicNames::new();
        names.intern("t").unwrap();
        let mut cluster = Cluster::new(Duration::from_secs(30));
        cluster.on_wanted(at(0), TopicIx(0), &names);
        let fetcher = Fetcher::new(settings, BackoffRange::default(), 1);
        let mut bed = Self { names, cluster, fetcher, now: at(1) };
        bed.metadata(ID, leaders, 1);
        bed
    }

    fn metadata(&mut self, id: Uuid, leaders: &[i32], epoch: i32) {
        let partition = |(index, leader): (usize, &i32)| MetadataResponsePartition {
            partition_index: index as i32,
            leader_id: *leader,
            leader_epoch: epoch,
            error_code: if *leader < 0 { ErrorCode::LeaderNotAvailable.code() } else { 0 },
            ..Default::default()
        };
        let broker =
            |id: i32| MetadataResponseBroker { node_id: id, host: format!("b{id}"), port: 9092, ..Default::default() };
        let answer = MetadataResponse {
            brokers: vec![broker(1), broker(2)],
            topics: vec![MetadataResponseTopic {
                name: Some("t".into()),
                topic_id: id,
                partitions: leaders.iter().enumerate().map(partition).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        self.cluster.on_metadata(self.now, &answer, &self.names).unwrap();
        let snapshot = self.snapshot();
        self.fetcher.on_snapshot(&snapshot);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.cluster.snapshot().clone()
    }

    fn assign(&mut self, partition: i32, generation: u32, start: StartAt) {
        let snapshot = self.snapshot();
        self.fetcher.assign(tp(partition), generation, start, &snapshot);
    }

    fn call(&mut self, broker: BrokerId) -> Option<FetchCall> {
        self.fetcher.next_call(self.now, broker, &VERSIONS, |want| Some(want.bytes.min(PLENTY)))
    }

    fn fetch(&mut self, broker: BrokerId) -> FetchRequest {
        match self.call(broker) {
            Some(FetchCall::Fetch { request, .. }) => request,
            other => panic!("{other:?}"),
        }
    }

    fn lookup(&mut self, broker: BrokerId) -> ListOffsetsRequest {
        match self.call(broker) {
            Some(FetchCall::ListOffsets { request, .. }) => request,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, broker: BrokerId, session: i32, partitions: Vec<PartitionData>) {
        let response = FetchResponse {
            session_id: session,
            responses: vec![FetchableTopicResponse { topic_id: ID, partitions, ..Default::default() }],
            ..Default::default()
        };
        self.fetcher.on_fetched(self.now, broker, response);
    }

    fn offsets(&mut self, broker: BrokerId, answers: &[(i32, ErrorCode, i64)]) {
        let partition = |(index, code, offset): &(i32, ErrorCode, i64)| ListOffsetsPartitionResponse {
            partition_index: *index,
            error_code: code.code(),
            offset: *offset,
            ..Default::default()
        };
        let response = ListOffsetsResponse {
            topics: vec![ListOffsetsTopicResponse {
                name: "t".into(),
                partitions: answers.iter().map(partition).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        self.fetcher.on_offsets(self.now, broker, &response);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.fetcher.next_output()).collect()
    }

    fn data(&mut self) -> Vec<Fetched> {
        let only_data = |output| match output {
            Output::Data(fetched) => Some(fetched),
            _ => None,
        };
        self.outputs().into_iter().filter_map(only_data).collect()
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }
}

fn records(partition: i32, records: Vec<u8>) -> PartitionData {
    PartitionData { partition_index: partition, records: Some(Bytes::from(records)), ..Default::default() }
}

fn error(partition: i32, code: ErrorCode) -> PartitionData {
    PartitionData { partition_index: partition, error_code: code.code(), ..Default::default() }
}

/// (partition, offset) of all that a request asks for.
fn asked(request: &FetchRequest) -> Vec<(i32, i64)> {
    let mut all: Vec<_> =
        request.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition, p.fetch_offset)).collect();
    all.sort_unstable();
    all
}

fn forgotten(request: &FetchRequest) -> Vec<i32> {
    request.forgotten_topics_data.iter().flat_map(|topic| topic.partitions.clone()).collect()
}

/// The offsets that a chunk gives out, or the error it ends with.
fn offsets_of(fetched: Fetched, isolation: IsolationLevel) -> (Vec<i64>, Option<String>, i64) {
    let mut chunk = Chunk::new(fetched, isolation);
    let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
    let (mut found, mut skipped) = (Vec::new(), Skipped::default());
    loop {
        match chunk.next_batch(&mut decompressor, &mut unpacked, &mut skipped) {
            Ok(Some(batch)) => {
                let bytes = match batch.payload {
                    Payload::InPlace => &chunk.records()[batch.range.clone()],
                    Payload::Unpacked => unpacked.bytes(),
                };
                let wanted = batch.records(bytes).map(|record| record.unwrap().offset);
                found.extend(wanted.filter(|offset| *offset >= batch.first_offset));
                assert_eq!(chunk.position(), batch.next_offset);
            }
            Ok(None) => return (found, None, chunk.position()),
            Err(bad) => return (found, Some(bad.to_string()), chunk.position()),
        }
    }
}

fn fetched(offset: i64, records: Vec<u8>) -> Fetched {
    let next_offset = crate::batch::RecordSet::new(&records)
        .map_while(Result::ok)
        .map(|view| view.last_offset() + 1)
        .max()
        .unwrap_or(offset);
    Fetched {
        tp: tp(0),
        generation: 1,
        offset,
        next_offset,
        records: Bytes::from(records),
        aborted: Vec::new(),
        high_watermark: 0,
        last_stable_offset: 0,
        log_start_offset: 0,
    }
}

#[test]
fn earliest_latest_and_timestamps_are_looked_up_at_the_leader() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1, 1, 2]);
    for (partition, start) in
        [StartAt::Earliest, StartAt::Latest, StartAt::Timestamp(5_000), StartAt::Offset(7)].into_iter().enumerate()
    {
        bed.assign(partition as i32, 1, start);
    }
    let request = bed.lookup(ONE);
    assert_eq!(request.isolation_level, 1, "the last stable offset is the end");
    let wanted: Vec<_> = request.topics[0].partitions.iter().map(|p| (p.partition_index, p.timestamp)).collect();
    assert_eq!(wanted, [(0, -2), (1, -1), (2, 5_000)]);
    assert!(request.topics[0].partitions.iter().all(|p| p.current_leader_epoch == 1), "the leader epoch is passed");
    assert!(bed.call(ONE).is_none(), "nothing to fetch yet, and one lookup at a time");
    let request = bed.fetch(TWO);
    assert_eq!(asked(&request), [(3, 7)]);
    assert_eq!(request.topics[0].partitions[0].current_leader_epoch, 1);
    bed.offsets(ONE, &[(0, ErrorCode::None, 3), (1, ErrorCode::None, 900), (2, ErrorCode::None, 44)]);
    let resolved: Vec<_> = bed
        .outputs()
        .into_iter()
        .map(|output| match output {
            Output::Resolved { tp, generation: 1, offset } => (tp.partition, offset),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(resolved, [(0, 3), (1, 900), (2, 44)]);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 3), (1, 900), (2, 44)]);
}

#[test]
fn d2_51_a_timestamp_past_the_end_is_the_end_and_a_leaderless_lookup_is_retried() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1]);
    bed.assign(0, 1, StartAt::Timestamp(99));
    bed.assign(1, 1, StartAt::Earliest);
    bed.lookup(ONE);
    bed.offsets(ONE, &[(0, ErrorCode::None, -1), (1, ErrorCode::LeaderNotAvailable, -1)]);
    assert!(bed.outputs().iter().any(|output| matches!(output, Output::NeedMetadata { stale: true, .. })));
    let request = bed.lookup(ONE);
    let wanted: Vec<_> = request.topics[0].partitions.iter().map(|p| (p.partition_index, p.timestamp)).collect();
    assert_eq!(wanted, [(0, -1)], "the other one waits its backoff");
    bed.offsets(ONE, &[(0, ErrorCode::None, 12)]);
    assert_eq!(bed.fetcher.offset(tp(0)), Some(12));
    let again = bed.fetcher.next_deadline(bed.now);
    assert!(again > bed.now && again <= bed.now + Duration::from_millis(100));
    bed.wait(101);
    // Partition 0 is fetched meanwhile.
    let request = bed.lookup(ONE);
    assert_eq!(request.topics[0].partitions[0].partition_index, 1);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 12)]);
    bed.offsets(ONE, &[(1, ErrorCode::None, 0)]);
    assert_eq!(bed.fetcher.offset(tp(1)), Some(0));
}

#[test]
fn d2_33_fetching_goes_on_behind_the_last_offset_whatever_the_batch_holds() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    let mut compacted = plain(0, 3);
    compacted[23..27].copy_from_slice(&19i32.to_be_bytes());
    header::seal_crc(&mut compacted);
    let mut empty = compacted[..61].to_vec();
    empty[8..12].copy_from_slice(&49i32.to_be_bytes());
    empty[57..61].copy_from_slice(&0i32.to_be_bytes());
    header::assign(&mut empty, 20, 3);
    header::seal_crc(&mut empty);
    let marker = encode_marker(Marker::Commit, 50, 3, 0, 9, 0, 0);
    bed.answer(ONE, 5, vec![records(0, [compacted, empty, marker].concat())]);
    let data = bed.data();
    assert_eq!((data[0].offset, data[0].next_offset), (0, 51));
    assert_eq!(offsets_of(data[0].clone(), IsolationLevel::ReadUncommitted), (vec![0, 1, 2], None, 51));
    bed.fetcher.taken(tp(0), 1, 1 << 20, false);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 51)]);
    // Also when the answer ends with a batch that compaction emptied.
    let mut tail = plain(51, 3);
    tail[23..27].copy_from_slice(&19i32.to_be_bytes());
    header::seal_crc(&mut tail);
    bed.answer(ONE, 5, vec![records(0, tail)]);
    assert_eq!(bed.data()[0].next_offset, 71);
    bed.fetcher.taken(tp(0), 1, 1 << 20, false);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 71)]);
}

#[test]
fn d2_34_records_before_the_asked_offset_are_not_given_out() {
    let found = offsets_of(fetched(7, plain(0, 10)), IsolationLevel::ReadCommitted);
    assert_eq!(found, (vec![7, 8, 9], None, 10));
    // A whole batch before it.
    let found = offsets_of(fetched(10, [plain(0, 10), plain(10, 2)].concat()), IsolationLevel::ReadCommitted);
    assert_eq!(found, (vec![10, 11], None, 12));
}

#[test]
fn d2_34_a_broken_batch_is_an_error_in_its_place_and_stops_the_partition() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.assign(1, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    let mut broken = plain(10, 5);
    broken[16] = 9;
    bed.answer(ONE, 5, vec![records(0, [plain(0, 10), broken].concat()), records(1, plain(0, 1))]);
    let data = bed.data();
    let (found, error, position) = offsets_of(data[0].clone(), IsolationLevel::ReadCommitted);
    assert_eq!((found.len(), position), (10, 10), "what came before is given out, the position stays in front of it");
    assert!(error.unwrap().contains("offset 10"));
    bed.fetcher.taken(tp(0), 1, 1 << 20, false);
    bed.fetcher.taken(tp(1), 1, 1 << 20, false);
    let next = bed.fetch(ONE);
    assert_eq!((asked(&next), forgotten(&next)), (vec![(1, 1)], vec![0]), "no endless refetch, others go on");
    bed.answer(ONE, 5, Vec::new());
    bed.assign(0, 2, StartAt::Offset(15));
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 15)], "a seek gets it going again");
}

#[test]
fn d2_35_a_trailing_partial_batch_is_asked_for_again() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    let second = plain(10, 10);
    bed.answer(ONE, 5, vec![records(0, [plain(0, 10), second[..second.len() - 1].to_vec()].concat())]);
    let data = bed.data();
    assert_eq!(data[0].next_offset, 10);
    assert_eq!(offsets_of(data[0].clone(), IsolationLevel::ReadCommitted), ((0..10).collect(), None, 10));
    bed.fetcher.taken(tp(0), 1, 1 << 20, false);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 10)]);
}

#[test]
fn d2_36_a_first_batch_over_every_limit_is_delivered_and_one_that_is_cut_off_is_told_once() {
    let mut bed = Bed::new(settings(|settings| settings.max_partition_fetch_bytes = 1024), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    assert_eq!(bed.fetch(ONE).topics[0].partitions[0].partition_max_bytes, 1024);
    let large = batch(Codec::None, 0, 6_000, Stamp::NONE);
    assert!(large.len() > 100 << 10);
    bed.answer(ONE, 5, vec![records(0, large.clone())]);
    assert_eq!(bed.data()[0].next_offset, 6_000);
    bed.fetcher.taken(tp(0), 1, large.len(), false);
    bed.fetch(ONE);
    bed.answer(ONE, 5, vec![records(0, large[..2_000].to_vec())]);
    let [Output::Refused { why: Refusal::Oversized { offset: 6_000, have: 2_000, want }, stopped: true, .. }] =
        bed.outputs()[..]
    else {
        panic!()
    };
    assert_eq!(want, Some(large.len()));
    bed.wait(10_000);
    assert!(bed.call(ONE).is_none(), "no endless refetch");
}

#[test]
fn d2_38_a_crc_mismatch_is_an_error_the_position_stays_and_a_skip_is_asked_for() {
    let mut bad = plain(10, 5);
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let fetched = fetched(0, [plain(0, 10), bad, plain(15, 2)].concat());
    let (found, error, position) = offsets_of(fetched.clone(), IsolationLevel::ReadCommitted);
    assert_eq!((found.len(), position), (10, 10));
    assert!(error.unwrap().contains("crc mismatch"));
    // The application may pass over it.
    let mut chunk = Chunk::new(fetched, IsolationLevel::ReadCommitted);
    let (mut decompressor, mut unpacked, mut skipped) =
        (Decompressor::new(1 << 20), Unpacked::new(), Skipped::default());
    assert!(chunk.next_batch(&mut decompressor, &mut unpacked, &mut skipped).unwrap().is_some());
    for _ in 0..2 {
        assert!(chunk.next_batch(&mut decompressor, &mut unpacked, &mut skipped).is_err());
    }
    assert!(chunk.skip_bad());
    let next = chunk.next_batch(&mut decompressor, &mut unpacked, &mut skipped).unwrap().unwrap();
    assert_eq!((next.first_offset, next.next_offset), (15, 17));
}

#[test]
fn d2_39_aborted_transactions_are_hidden_and_markers_never_given_out() {
    let log = [
        transactional(1, 0, 2),
        transactional(2, 2, 2),
        encode_marker(Marker::Abort, 4, 3, 0, 1, 0, 0),
        transactional(1, 5, 2),
        encode_marker(Marker::Commit, 7, 3, 0, 2, 0, 0),
        encode_marker(Marker::Commit, 8, 3, 0, 1, 0, 0),
        plain(9, 1),
    ]
    .concat();
    let mut hidden = fetched(0, log.clone());
    hidden.aborted = vec![Aborted { first_offset: 0, producer_id: 1 }];
    assert_eq!(offsets_of(hidden.clone(), IsolationLevel::ReadCommitted), (vec![2, 3, 5, 6, 9], None, 10));
    let all = vec![0, 1, 2, 3, 5, 6, 9];
    assert_eq!(offsets_of(hidden, IsolationLevel::ReadUncommitted), (all, None, 10), "the list is ignored");

    let mut bed = Bed::new(settings(|settings| settings.isolation_level = IsolationLevel::ReadUncommitted), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    assert_eq!(bed.fetch(ONE).isolation_level, 0);
    let aborted_transactions = Some(vec![AbortedTransaction { producer_id: 1, first_offset: 0, ..Default::default() }]);
    bed.answer(ONE, 0, vec![PartitionData { aborted_transactions, ..records(0, log) }]);
    assert!(bed.data()[0].aborted.is_empty());
}

#[test]
fn d2_41_out_of_range_follows_the_policy() {
    for (policy, timestamp) in [(AutoOffsetReset::Earliest, -2), (AutoOffsetReset::Latest, -1)] {
        let mut bed = Bed::new(settings(|settings| settings.auto_offset_reset = policy), &[1]);
        bed.assign(0, 1, StartAt::Offset(1_000_000));
        bed.fetch(ONE);
        bed.answer(ONE, 0, vec![error(0, ErrorCode::OffsetOutOfRange)]);
        assert_eq!(bed.lookup(ONE).topics[0].partitions[0].timestamp, timestamp);
    }
    let mut bed = Bed::new(settings(|settings| settings.auto_offset_reset = AutoOffsetReset::None), &[1]);
    bed.assign(0, 1, StartAt::Offset(1_000_000));
    bed.fetch(ONE);
    bed.answer(ONE, 0, vec![error(0, ErrorCode::OffsetOutOfRange)]);
    let why = Refusal::OutOfRange { offset: 1_000_000 };
    assert_eq!(bed.outputs(), [Output::Refused { tp: tp(0), generation: 1, why, stopped: true }]);
    bed.wait(60_000);
    assert!(bed.call(ONE).is_none());
}

#[test]
fn d2_42_a_leader_that_moves_disturbs_only_its_partition() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.assign(1, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    let response = FetchResponse {
        session_id: 5,
        responses: vec![FetchableTopicResponse {
            topic_id: ID,
            partitions: vec![
                PartitionData {
                    current_leader: LeaderIdAndEpoch { leader_id: 2, leader_epoch: 2, ..Default::default() },
                    ..error(0, ErrorCode::NotLeaderOrFollower)
                },
                records(1, plain(0, 4)),
            ],
            ..Default::default()
        }],
        node_endpoints: vec![NodeEndpoint { node_id: 2, host: "b2".into(), port: 9092, ..Default::default() }],
        ..Default::default()
    };
    bed.fetcher.on_fetched(bed.now, ONE, response);
    let outputs = bed.outputs();
    let hint = Output::Leader { tp: tp(0), leader: TWO, epoch: 2, endpoint: Some(("b2".into(), 9092)) };
    assert!(matches!(&outputs[..], [first, Output::Data(_)] if *first == hint), "{outputs:?}");
    // At once, without a metadata round trip, with the new epoch.
    let request = bed.fetch(TWO);
    assert_eq!((asked(&request), request.topics[0].partitions[0].current_leader_epoch), (vec![(0, 0)], 2));
    bed.fetcher.taken(tp(1), 1, 1 << 20, false);
    let next = bed.fetch(ONE);
    assert_eq!((asked(&next), forgotten(&next)), (vec![(1, 4)], vec![0]));
    // Metadata that is older than the hint changes nothing; newer does.
    bed.metadata(ID, &[1, 1], 1);
    bed.answer(TWO, 6, vec![records(0, plain(0, 4))]);
    assert_eq!(bed.data().len(), 1);
    bed.metadata(ID, &[1, 1], 3);
    bed.fetcher.taken(tp(0), 1, 1 << 20, false);
    assert!(bed.call(TWO).is_none());
}

#[test]
fn d2_45_an_unknown_leader_epoch_waits_and_a_fenced_one_refreshes() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    bed.answer(ONE, 5, vec![error(0, ErrorCode::UnknownLeaderEpoch)]);
    assert_eq!(bed.outputs(), [], "the same broker, later");
    assert!(bed.call(ONE).is_none());
    bed.wait(101);
    assert_eq!(bed.fetch(ONE).session_epoch, 1, "it is in the session still");
    bed.answer(ONE, 5, vec![error(0, ErrorCode::FencedLeaderEpoch)]);
    assert_eq!(bed.outputs(), [Output::NeedMetadata { topic: TopicIx(0), stale: true }]);
}

#[test]
fn d2_47_sessions_name_only_what_changed_and_a_lost_one_costs_a_full_request_and_no_gap() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1, 1]);
    for partition in 0..3 {
        bed.assign(partition, 1, StartAt::Offset(0));
    }
    let full = bed.fetch(ONE);
    assert_eq!((full.session_id, full.session_epoch, asked(&full).len()), (0, 0, 3));
    bed.answer(ONE, 77, vec![records(1, plain(0, 10))]);
    bed.fetcher.taken(tp(1), 1, 1 << 20, false);
    let next = bed.fetch(ONE);
    assert_eq!((next.session_id, next.session_epoch), (77, 1));
    assert_eq!(asked(&next), [(1, 10)]);
    bed.answer(ONE, 77, Vec::new());
    let idle = bed.fetch(ONE);
    assert!(idle.session_epoch == 2 && idle.topics.is_empty() && idle.forgotten_topics_data.is_empty());
    for code in [ErrorCode::FetchSessionIdNotFound, ErrorCode::InvalidFetchSessionEpoch] {
        let lost = FetchResponse { error_code: code.code(), ..Default::default() };
        bed.fetcher.on_fetched(bed.now, ONE, lost);
        let full = bed.fetch(ONE);
        assert_eq!((full.session_id, full.session_epoch), (0, 0));
        assert_eq!(asked(&full), [(0, 0), (1, 10), (2, 0)], "no gap");
        bed.answer(ONE, 78, Vec::new());
        bed.fetch(ONE);
    }
    // The last partition leaves: forgotten, then nothing is asked for.
    for partition in 0..2 {
        bed.fetcher.unassign(tp(partition));
    }
    bed.answer(ONE, 78, Vec::new());
    let next = bed.fetch(ONE);
    assert_eq!((asked(&next), forgotten(&next)), (vec![], vec![0, 1]));
    bed.answer(ONE, 78, Vec::new());
    bed.fetcher.unassign(tp(2));
    assert!(bed.call(ONE).is_none() && bed.fetcher.is_empty());
}

#[test]
fn d2_47_a_broker_that_fails_every_session_is_not_hammered() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.assign(0, 1, StartAt::Offset(0));
    let mut requests = 0;
    for _ in 0..1_000 {
        if let Some(FetchCall::Fetch { .. }) = bed.call(ONE) {
            requests += 1;
            let lost = FetchResponse { error_code: ErrorCode::FetchSessionIdNotFound.code(), ..Default::default() };
            bed.fetcher.on_fetched(bed.now, ONE, lost);
        }
        bed.wait(1);
    }
    assert!((3..=60).contains(&requests), "{requests} in a second");
}

#[test]
fn d2_47_a_paused_partition_leaves_the_session_once() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.assign(1, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    bed.answer(ONE, 5, Vec::new());
    bed.fetcher.pause(tp(0), true);
    assert_eq!(forgotten(&bed.fetch(ONE)), [0]);
    for _ in 0..3 {
        bed.answer(ONE, 5, Vec::new());
        let next = bed.fetch(ONE);
        assert!(next.topics.is_empty() && next.forgotten_topics_data.is_empty());
    }
    bed.answer(ONE, 5, Vec::new());
    bed.fetcher.pause(tp(0), false);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 0)]);
}

#[test]
fn d2_48_answers_for_seeked_paused_and_revoked_partitions_are_dropped_others_are_not() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1, 1, 1]);
    for partition in 0..4 {
        bed.assign(partition, 1, StartAt::Offset(0));
    }
    bed.fetch(ONE);
    bed.assign(0, 2, StartAt::Offset(500));
    bed.fetcher.pause(tp(1), true);
    bed.fetcher.unassign(tp(2));
    bed.answer(ONE, 5, (0..4).map(|partition| records(partition, plain(0, 10))).collect());
    let data = bed.data();
    assert_eq!(data.iter().map(|data| data.tp.partition).collect::<Vec<_>>(), [3]);
    assert_eq!(asked(&bed.fetch(ONE)), [(0, 500), (3, 10)]);
    // A seek to the very offset that is in flight is a new generation all the same.
    bed.assign(0, 3, StartAt::Offset(500));
    bed.answer(ONE, 5, vec![records(0, plain(500, 10))]);
    assert!(bed.data().is_empty());
    bed.fetcher.pause(tp(1), false);
    assert_eq!(bed.fetcher.offset(tp(1)), Some(0), "a paused one goes on where it was");
    // And the answer to a lookup of an older generation.
    bed.answer(ONE, 5, Vec::new());
    bed.assign(0, 4, StartAt::Earliest);
    bed.lookup(ONE);
    bed.assign(0, 5, StartAt::Offset(9));
    bed.offsets(ONE, &[(0, ErrorCode::None, 0)]);
    assert_eq!(bed.fetcher.offset(tp(0)), Some(9));
}

#[test]
fn d2_49_seek_and_pause_in_either_order_end_at_the_seek() {
    for pause_first in [true, false] {
        let mut bed = Bed::new(settings(|_| {}), &[1]);
        bed.assign(0, 1, StartAt::Offset(0));
        bed.fetch(ONE);
        if pause_first {
            bed.fetcher.pause(tp(0), true);
            bed.assign(0, 2, StartAt::Offset(40));
        } else {
            bed.assign(0, 2, StartAt::Offset(40));
            bed.fetcher.pause(tp(0), true);
        }
        bed.answer(ONE, 5, vec![records(0, plain(0, 10))]);
        assert!(bed.data().is_empty() && bed.call(ONE).is_none());
        bed.fetcher.pause(tp(0), false);
        assert_eq!(asked(&bed.fetch(ONE)), [(0, 40)]);
    }
}

#[test]
fn d2_50_one_partition_in_trouble_and_one_dead_broker_delay_nobody_else() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1, 2]);
    for partition in 0..3 {
        bed.assign(partition, 1, StartAt::Offset(0));
    }
    bed.fetch(ONE);
    bed.fetch(TWO);
    // Broker two dies; partition 0 of broker one answers an error each time.
    bed.fetcher.on_failed(bed.now, TWO, ApiKey::Fetch);
    assert!(bed.outputs().contains(&Output::NeedMetadata { topic: TopicIx(0), stale: true }));
    let (mut requests, mut delivered) = (1, 0);
    for round in 0..200 {
        let mut answer = vec![error(0, ErrorCode::KafkaStorageError)];
        answer.push(records(1, plain(round * 2, 2)));
        bed.answer(ONE, 5, answer);
        delivered += bed.data().len();
        bed.fetcher.taken(tp(1), 1, 1 << 20, false);
        let next = bed.fetch(ONE);
        requests += u32::from(asked(&next).iter().any(|(partition, _)| *partition == 0));
        bed.wait(5);
        assert!(bed.now < at(100) || bed.fetcher.next_deadline(bed.now) > bed.now);
    }
    assert_eq!(delivered, 200);
    assert!(requests < 30, "the one in trouble was asked for {requests} times in a second");
    assert!(bed.fetcher.brokers().contains(&TWO), "its link is wanted still");
}

#[test]
fn d2_54_a_recreated_topic_is_not_read_at_the_old_position() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.assign(0, 1, StartAt::Offset(5_000));
    bed.fetch(ONE);
    bed.answer(ONE, 5, vec![error(0, ErrorCode::UnknownTopicId)]);
    assert_eq!(bed.outputs(), [Output::NeedMetadata { topic: TopicIx(0), stale: true }]);
    bed.metadata(Uuid([9; 16]), &[1], 0);
    assert_eq!(bed.lookup(ONE).topics[0].partitions[0].timestamp, -2);
    bed.offsets(ONE, &[(0, ErrorCode::None, 0)]);
    let next = bed.fetch(ONE);
    assert_eq!((next.topics[0].topic_id, asked(&next)), (Uuid([9; 16]), vec![(0, 0)]));
}

#[test]
fn names_are_used_where_ids_are_not_known() {
    let mut bed = Bed::new(settings(|_| {}), &[1]);
    bed.metadata(Uuid::ZERO, &[1], 2);
    let mut bed_by_name = Bed::new(settings(|_| {}), &[]);
    bed_by_name.metadata(Uuid::ZERO, &[1], 2);
    bed.assign(0, 1, StartAt::Offset(0));
    match bed.fetcher.next_call(bed.now, ONE, &FetchVersions { fetch: Some(12), ..VERSIONS }, |want| Some(want.bytes)) {
        Some(FetchCall::Fetch { version: 12, request, .. }) => {
            assert_eq!((request.topics[0].topic.as_str(), request.topics[0].topic_id), ("t", Uuid::ZERO));
            use crate::wire::Message;
            request.to_bytes(12).unwrap();
            request.to_bytes(4).unwrap();
        }
        other => panic!("{other:?}"),
    }
    let response = FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "t".into(),
            partitions: vec![records(0, plain(0, 3))],
            ..Default::default()
        }],
        ..Default::default()
    };
    bed.fetcher.on_fetched(bed.now, ONE, response);
    assert_eq!(bed.data().len(), 1);
}

#[test]
fn without_sessions_the_first_partition_changes() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1, 1]);
    for partition in 0..3 {
        bed.assign(partition, 1, StartAt::Offset(0));
    }
    let mut first = BTreeMap::new();
    for _ in 0..9 {
        let request = bed.fetch(ONE);
        *first.entry(request.topics[0].partitions[0].partition).or_insert(0) += 1;
        bed.answer(ONE, 0, Vec::new());
    }
    assert_eq!(first, BTreeMap::from([(0, 3), (1, 3), (2, 3)]));
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut bed = Bed::new(settings(|_| {}), &[1, 1]);
    bed.assign(0, 1, StartAt::Offset(0));
    bed.fetch(ONE);
    bed.answer(ONE, 5, vec![records(1, plain(0, 5)), records(99, plain(0, 5)), records(-1, plain(0, 5))]);
    assert!(bed.data().is_empty());
    bed.answer(TWO, 5, vec![records(0, plain(0, 5))]);
    assert!(bed.data().is_empty());
    // Batches that all end before the asked offset are no progress, told once, and not asked for in a loop.
    bed.assign(0, 2, StartAt::Offset(100));
    bed.fetch(ONE);
    let mut requests = 0;
    for _ in 0..1_000 {
        bed.answer(ONE, 5, vec![records(0, plain(0, 5))]);
        while !matches!(bed.call(ONE), Some(FetchCall::Fetch { .. })) {
            bed.wait(1);
        }
        requests += 1;
        if bed.now > at(1_000) {
            break;
        }
    }
    assert!(requests < 60, "{requests}");
    let told = bed.outputs().into_iter().filter(|output| matches!(output, Output::Refused { .. })).count();
    assert_eq!(told, 1);
}

#[test]
fn d2_37_bad_compressed_data_is_one_error_and_no_spin() {
    let mut bad = plain(0, 200);
    let middle = bad.len() / 2;
    bad[61..middle].fill(0xff);
    header::seal_crc(&mut bad);
    let (found, error, position) = offsets_of(fetched(0, bad), IsolationLevel::ReadCommitted);
    assert_eq!((found.len(), position), (0, 0));
    assert!(error.unwrap().contains("corrupt lz4 data"));
}
