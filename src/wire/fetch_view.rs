//! A FetchResponse read in place: no allocation, nothing copied, record sets given as byte ranges.
//!
//! ```text
//!   FetchView::new ─► throttle, error, session
//!        next() ─► one partition at a time: topic, error, offsets, aborted transactions, records range, leader hint
//!        end()  ─► the brokers that leader hints speak of (KIP-951)
//! ```
//! Everything about a partition is checked before it is handed out; a malformed answer ends in an error, and partitions
//! handed out before it were well-formed.

use std::ops::Range;

use super::error::DecodeError;
use super::error_code::ErrorCode;
use super::message::{Field, Message, Struct};
use super::messages::FetchResponse;
use super::messages::fetch::response::{AbortedTransaction, FetchableTopicResponse, NodeEndpoint, PartitionData};
use super::reader::Reader;
use crate::base::ids::Uuid;

/// A topic as a request or an answer names it: by name in older versions, by id in newer ones (KIP-516).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRef<'a> {
    /// By name.
    Name(&'a str),
    /// By id.
    Id(Uuid),
}

/// A cursor over the body of a FetchResponse (no length prefix, no header), versions 4 to 18.
#[derive(Clone, Debug)]
pub struct FetchView<'a> {
    /// How long the broker asks us to wait, in ms; also when it already waited itself.
    pub throttle_time_ms: i32,
    /// The error of the whole answer (fetch sessions).
    pub error: ErrorCode,
    /// The fetch session, 0 for none.
    pub session_id: i32,
    version: i16,
    reader: Reader<'a>,
    topic: TopicRef<'a>,
    topics_left: usize,
    partitions_left: usize,
    in_topic: bool,
}

/// One partition's answer. Offsets are -1 where the version or the broker does not say.
#[derive(Clone, Debug)]
pub struct FetchedPartition<'a> {
    /// The topic: by name up to version 12, by id from 13.
    pub topic: TopicRef<'a>,
    /// The partition's index.
    pub partition: i32,
    /// The partition's error.
    pub error: ErrorCode,
    /// The offset behind the last replicated record.
    pub high_watermark: i64,
    /// The offset behind the last record of which all transactions are decided.
    pub last_stable_offset: i64,
    /// The first offset there is (version 5 on).
    pub log_start_offset: i64,
    /// Where the log parts from what we last fetched (version 12 on).
    pub diverging_epoch: Option<EpochEnd>,
    /// Who leads now (version 12 on; sent with leader errors).
    pub current_leader: Option<LeaderHint>,
    /// The replica to fetch from next, -1 for none (version 11 on).
    pub preferred_read_replica: i32,
    /// Transactions in this range that were aborted; none when the broker sent null (read_uncommitted).
    pub aborted: Option<AbortedTransactions<'a>>,
    /// Where the record batches are, in bytes from the body's start. Empty also for null.
    pub records: Range<usize>,
}

/// The largest epoch both logs share, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: i32,
    /// The offset behind its last record.
    pub end_offset: i64,
}

/// A partition's leader according to the answering broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader's node id, -1 if unknown.
    pub leader_id: i32,
    /// Its epoch.
    pub leader_epoch: i32,
}

/// An address that a leader hint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerEndpoint<'a> {
    /// The broker's node id.
    pub node_id: i32,
    /// Its host name or address.
    pub host: &'a str,
    /// Its port, as the broker wrote it.
    pub port: i32,
    /// Its rack.
    pub rack: Option<&'a str>,
}

/// The aborted transactions of one partition, in the broker's order.
#[derive(Clone, Debug)]
pub struct AbortedTransactions<'a> {
    reader: Reader<'a>,
    left: usize,
}

/// (producer id, first offset) of each.
impl Iterator for AbortedTransactions<'_> {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<(i64, i64)> {
        self.left = self.left.checked_sub(1)?;
        // Checked when the partition was handed out, so this ends early only if that check is wrong.
        read_aborted(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for AbortedTransactions<'_> {}

fn read_aborted(reader: &mut Reader<'_>) -> Result<(i64, i64), DecodeError> {
    let both = (reader.at("producerId").i64()?, reader.at("firstOffset").i64()?);
    reader.skip_tags()?;
    Ok(both)
}

impl<'a> FetchView<'a> {
    /// Reads the answer's head; `body` follows the response header.
    pub fn new(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        reader.start(FetchResponse::NAME, version, version >= FetchResponse::FLEXIBLE);
        if !FetchResponse::VERSIONS.contains(version) {
            return Err(reader.error(super::DecodeErrorKind::Version));
        }
        let throttle_time_ms = reader.at("throttleTimeMs").i32()?;
        let (mut error, mut session_id) = (ErrorCode::None, 0);
        if version >= 7 {
            error = ErrorCode::from(reader.at("errorCode").i16()?);
            session_id = reader.at("sessionId").i32()?;
        }
        let topics_left = reader.at("responses").count(<FetchableTopicResponse as Struct>::SIZE_MIN)?;
        Ok(Self {
            throttle_time_ms,
            error,
            session_id,
            version,
            reader,
            topic: TopicRef::Id(Uuid::ZERO),
            topics_left,
            partitions_left: 0,
            in_topic: false,
        })
    }

    /// The next partition, none behind the last.
    // Not an `Iterator`: a malformed answer is an error once, then nothing more can be read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<FetchedPartition<'a>>, DecodeError> {
        while self.partitions_left == 0 {
            if self.in_topic {
                self.reader.at("responses").skip_tags()?;
                self.in_topic = false;
            }
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.in_topic = true;
            self.topic = if self.version >= 13 {
                TopicRef::Id(self.reader.at("topicId").uuid()?)
            } else {
                TopicRef::Name(self.reader.at("topic").str()?)
            };
            self.partitions_left = self.reader.at("partitions").count(<PartitionData as Struct>::SIZE_MIN)?;
        }
        self.partitions_left -= 1;
        self.partition().map(Some)
    }

    fn partition(&mut self) -> Result<FetchedPartition<'a>, DecodeError> {
        let (version, r) = (self.version, &mut self.reader);
        let partition = r.at("partitionIndex").i32()?;
        let error = ErrorCode::from(r.at("errorCode").i16()?);
        let high_watermark = r.at("highWatermark").i64()?;
        let last_stable_offset = r.at("lastStableOffset").i64()?;
        let log_start_offset = if version >= 5 { r.at("logStartOffset").i64()? } else { -1 };
        let aborted = match r.at("abortedTransactions").nullable_count(<AbortedTransaction as Struct>::SIZE_MIN)? {
            Some(count) => {
                let aborted = AbortedTransactions { reader: r.clone(), left: count };
                for _ in 0..count {
                    read_aborted(r)?;
                }
                Some(aborted)
            }
            None => None,
        };
        let preferred_read_replica = if version >= 11 { r.at("preferredReadReplica").i32()? } else { -1 };
        let records_len = r.at("records").nullable_slice()?.map_or(0, <[u8]>::len);
        let records = r.position() - records_len..r.position();
        let (mut diverging_epoch, mut current_leader) = (None, None);
        if r.is_flexible() {
            r.each_tag(|tag, r| {
                match tag {
                    0 => {
                        let (epoch, end_offset) = (r.at("divergingEpoch").i32()?, r.i64()?);
                        diverging_epoch = Some(EpochEnd { epoch, end_offset });
                    }
                    1 => {
                        let (leader_id, leader_epoch) = (r.at("currentLeader").i32()?, r.i32()?);
                        current_leader = Some(LeaderHint { leader_id, leader_epoch });
                    }
                    // SnapshotId speaks to replicas only.
                    _ => return Ok(false),
                }
                r.skip_tags()?;
                Ok(true)
            })?;
        }
        Ok(FetchedPartition {
            topic: self.topic,
            partition,
            error,
            high_watermark,
            last_stable_offset,
            log_start_offset,
            diverging_epoch,
            current_leader,
            preferred_read_replica,
            aborted,
            records,
        })
    }

    /// Reads on to the end (past partitions that were not asked for), calls `each` with the addresses that leader hints
    /// need, and fails when bytes are left over.
    pub fn end(mut self, mut each: impl FnMut(BrokerEndpoint<'a>)) -> Result<(), DecodeError> {
        while self.next()?.is_some() {}
        let version = self.version;
        let reader = &mut self.reader;
        if reader.is_flexible() {
            reader.at("taggedFields").each_tag(|tag, r| {
                if tag != 0 || version < 16 {
                    return Ok(false);
                }
                for _ in 0..r.at("nodeEndpoints").count(<NodeEndpoint as Field>::SIZE_MIN)? {
                    let (node_id, host) = (r.at("nodeId").i32()?, r.at("host").str()?);
                    let (port, rack) = (r.at("port").i32()?, r.at("rack").nullable_str()?);
                    r.skip_tags()?;
                    each(BrokerEndpoint { node_id, host, port, rack });
                }
                Ok(true)
            })?;
        }
        self.reader.finish()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::messages::fetch::response::{EpochEndOffset, LeaderIdAndEpoch, SnapshotId};

    /// Two topics, the first with three partitions (plain, empty, in error with a leader hint), as far as `version` can.
    fn sample(version: i16) -> FetchResponse {
        let partition = |index: i32| PartitionData {
            partition_index: index,
            error_code: 0,
            high_watermark: 100 + i64::from(index),
            last_stable_offset: 90,
            log_start_offset: if version >= 5 { 5 } else { -1 },
            aborted_transactions: Some(
                (0..index.into())
                    .map(|i| AbortedTransaction { producer_id: 1000 + i, first_offset: i, ..Default::default() })
                    .collect(),
            ),
            preferred_read_replica: if version >= 11 { 7 } else { -1 },
            records: Some(Bytes::from(vec![index as u8; 10 * index as usize])),
            ..Default::default()
        };
        let mut odd = PartitionData { error_code: 6, aborted_transactions: None, records: None, ..partition(3) };
        if version >= 12 {
            odd.diverging_epoch = EpochEndOffset { epoch: 4, end_offset: 44, ..Default::default() };
            odd.current_leader = LeaderIdAndEpoch { leader_id: 2, leader_epoch: 9, ..Default::default() };
            odd.snapshot_id = SnapshotId { end_offset: 1, epoch: 1, ..Default::default() };
        }
        let topic = |name: &str, id: u8, partitions| FetchableTopicResponse {
            topic: if version < 13 { name.into() } else { String::new() },
            topic_id: if version >= 13 { Uuid([id; 16]) } else { Uuid::ZERO },
            partitions,
            ..Default::default()
        };
        let endpoint = |rack: Option<&str>| NodeEndpoint {
            node_id: 2,
            host: "b2".into(),
            port: 9092,
            rack: rack.map(Into::into),
            ..Default::default()
        };
        FetchResponse {
            throttle_time_ms: 3,
            error_code: if version >= 7 { 70 } else { 0 },
            session_id: if version >= 7 { 71 } else { 0 },
            responses: vec![
                topic("a", 1, vec![partition(1), partition(0), odd]),
                topic("empty", 2, vec![]),
                topic("b", 3, vec![partition(2)]),
            ],
            node_endpoints: if version >= 16 { vec![endpoint(None), endpoint(Some("r"))] } else { vec![] },
            ..Default::default()
        }
    }

    #[test]
    fn the_view_says_what_the_codec_says_at_every_version() {
        for version in 4..=18 {
            let response = sample(version);
            let body = response.to_bytes(version).unwrap();
            let mut view = FetchView::new(version, &body).unwrap();
            assert_eq!(view.throttle_time_ms, response.throttle_time_ms);
            assert_eq!((view.error.code(), view.session_id), (response.error_code, response.session_id));
            for topic in &response.responses {
                for wanted in &topic.partitions {
                    let got = view.next().unwrap().unwrap();
                    match got.topic {
                        TopicRef::Name(name) => assert_eq!((name, version < 13), (topic.topic.as_str(), true)),
                        TopicRef::Id(id) => assert_eq!((id, version >= 13), (topic.topic_id, true)),
                    }
                    assert_eq!(got.partition, wanted.partition_index);
                    assert_eq!(got.error.code(), wanted.error_code);
                    assert_eq!(got.high_watermark, wanted.high_watermark);
                    assert_eq!(got.last_stable_offset, wanted.last_stable_offset);
                    assert_eq!(got.log_start_offset, wanted.log_start_offset);
                    assert_eq!(got.preferred_read_replica, wanted.preferred_read_replica);
                    let aborted = got.aborted.map(|aborted| aborted.collect::<Vec<_>>());
                    let wanted_aborted = wanted.aborted_transactions.as_ref();
                    let wanted_aborted =
                        wanted_aborted.map(|all| all.iter().map(|a| (a.producer_id, a.first_offset)).collect());
                    assert_eq!(aborted, wanted_aborted);
                    assert_eq!(&body[got.records], wanted.records.as_deref().unwrap_or_default());
                    let epoch = got.diverging_epoch.map_or((-1, -1), |e| (e.epoch, e.end_offset));
                    assert_eq!(epoch, (wanted.diverging_epoch.epoch, wanted.diverging_epoch.end_offset));
                    let leader = got.current_leader.map_or((-1, -1), |l| (l.leader_id, l.leader_epoch));
                    assert_eq!(leader, (wanted.current_leader.leader_id, wanted.current_leader.leader_epoch));
                }
            }
            assert!(view.next().unwrap().is_none());
            let mut endpoints = Vec::new();
            view.end(|e| endpoints.push((e.node_id, e.host.to_owned(), e.port, e.rack.map(str::to_owned)))).unwrap();
            let wanted: Vec<_> =
                response.node_endpoints.into_iter().map(|e| (e.node_id, e.host, e.port, e.rack)).collect();
            assert_eq!(endpoints, wanted);
        }
    }

    fn walk(version: i16, body: &[u8]) -> Result<(), DecodeError> {
        let mut view = FetchView::new(version, body)?;
        while let Some(partition) = view.next()? {
            assert!(body.get(partition.records).is_some());
            if let Some(aborted) = partition.aborted {
                assert_eq!(aborted.len(), aborted.count());
            }
        }
        view.end(|_| {})
    }

    #[test]
    fn every_truncation_is_an_error_and_so_is_a_byte_too_many() {
        for version in 4..=18 {
            let mut body = sample(version).to_bytes(version).unwrap();
            for end in 0..body.len() {
                assert!(walk(version, &body[..end]).is_err(), "version {version}, {end} bytes");
            }
            walk(version, &body).unwrap();
            body.push(0);
            assert!(walk(version, &body).is_err());
        }
        assert!(FetchView::new(3, &[0; 100]).is_err());
        assert!(FetchView::new(19, &[0; 100]).is_err());
    }

    /// Whatever one byte becomes, the view never panics, and it accepts exactly what the codec accepts.
    #[test]
    fn one_changed_byte_never_panics_and_the_codec_agrees() {
        for version in [4, 11, 12, 13, 18] {
            let body = sample(version).to_bytes(version).unwrap();
            for at in 0..body.len() {
                for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                    let mut changed = body.clone();
                    changed[at] = value;
                    let codec = FetchResponse::from_bytes(version, &Bytes::from(changed.clone()));
                    // The view skips what it has no use for (unknown tags' insides, the snapshot id) unread.
                    if codec.is_ok() {
                        walk(version, &changed).unwrap();
                    } else if version < 12 {
                        assert!(walk(version, &changed).is_err(), "version {version}, byte {at} = {value}");
                    } else {
                        let _ = walk(version, &changed);
                    }
                }
            }
        }
    }
}
