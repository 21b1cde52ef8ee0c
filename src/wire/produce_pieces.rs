//! A Produce request written around record sets that stay where they are.
//!
//! ```text
//!   scaffolding:  length│header│acks..│topic│partition, n bytes:│      │tags│partition, m bytes:│      │tags
//!   on the wire:  ──────────────── up to cut 0 ────────────────►│batch │──── up to cut 1 ──────►│batch │──►
//! ```
//! The caller sends `out[..cut 0]`, the first record set, `out[cut 0..cut 1]`, the second, …, `out[last cut..]`.

use super::api_key::ApiKey;
use super::error::{EncodeError, EncodeErrorKind};
use super::fetch_view::TopicRef;
use super::frame;
use super::message::Message;
use super::messages::ProduceRequest;
use super::writer::Writer;

/// What goes before the first topic.
#[derive(Clone, Copy, Debug)]
pub struct ProduceHead<'a> {
    /// The request's version, 3 to 13.
    pub version: i16,
    /// The request's correlation id.
    pub correlation_id: i32,
    /// The client id.
    pub client_id: Option<&'a str>,
    /// The transactional id, of transactional producers only.
    pub transactional_id: Option<&'a str>,
    /// Whose acknowledgement is asked for: 0 nobody's (there will be no answer), 1 the leader's, -1 all in-sync replicas'.
    pub acks: i16,
    /// How long the broker may wait for replicas, in ms.
    pub timeout_ms: i32,
    /// How many topics follow.
    pub topics: usize,
}

/// Writes one Produce request's scaffolding behind what `out` holds.
#[derive(Debug)]
pub struct ProducePieces<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    in_topic: bool,
    records_bytes: usize,
    failed: bool,
}

impl<'o> ProducePieces<'o> {
    /// Writes the frame's prefix, the header and what goes before the first topic. An error at this or any later step
    /// takes back everything written, and every further step is an error too.
    pub fn begin(head: &ProduceHead<'_>, out: &'o mut Vec<u8>) -> Result<Self, EncodeError> {
        let start = out.len();
        let done = Self::write_head(head, out);
        if let Err(error) = done {
            out.truncate(start);
            return Err(error);
        }
        Ok(Self {
            out,
            start,
            version: head.version,
            topics_left: head.topics,
            partitions_left: 0,
            in_topic: false,
            records_bytes: 0,
            failed: false,
        })
    }

    fn write_head(head: &ProduceHead<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut writer = writer(head.version, out);
        if !ProduceRequest::VERSIONS.contains(head.version) {
            return Err(writer.error(EncodeErrorKind::Version));
        }
        writer.i32(0);
        frame::encode_request_header(ApiKey::Produce, head.version, head.correlation_id, head.client_id, out)?;
        let mut writer = self::writer(head.version, out);
        writer.at("transactionalId").nullable_str(head.transactional_id)?;
        writer.i16(head.acks);
        writer.i32(head.timeout_ms);
        writer.at("topicData").nullable_count(Some(head.topics))
    }

    /// Starts the next topic, with this many partitions: by name up to version 12, by id from 13.
    pub fn topic(&mut self, topic: TopicRef<'_>, partitions: usize) -> Result<(), EncodeError> {
        if self.failed || self.partitions_left > 0 || self.topics_left == 0 {
            return Err(self.fail("topicData", EncodeErrorKind::Pieces));
        }
        self.end_topic();
        let done = self.write_topic(topic, partitions);
        done.map_err(|error| self.undo(error))?;
        self.topics_left -= 1;
        self.partitions_left = partitions;
        self.in_topic = true;
        Ok(())
    }

    fn write_topic(&mut self, topic: TopicRef<'_>, partitions: usize) -> Result<(), EncodeError> {
        let mut writer = writer(self.version, self.out);
        match topic {
            TopicRef::Name(name) if self.version < 13 => writer.at("name").nullable_str(Some(name))?,
            TopicRef::Id(id) if self.version >= 13 => writer.uuid(id),
            TopicRef::Name(_) => return Err(writer.at("name").error(EncodeErrorKind::NotInVersion)),
            TopicRef::Id(_) => return Err(writer.at("topicId").error(EncodeErrorKind::NotInVersion)),
        }
        writer.at("partitionData").nullable_count(Some(partitions))
    }

    /// Writes a partition's scaffolding up to its record set of `records_bytes` bytes, and returns the cut: how many
    /// bytes of `out` (from its start) go before that record set.
    pub fn partition(&mut self, partition: i32, records_bytes: usize) -> Result<usize, EncodeError> {
        if self.failed || self.partitions_left == 0 {
            return Err(self.fail("partitionData", EncodeErrorKind::Pieces));
        }
        self.partitions_left -= 1;
        self.records_bytes += records_bytes;
        let mut writer = writer(self.version, self.out);
        writer.i32(partition);
        let done = writer.at("records").nullable_count(Some(records_bytes));
        done.map_err(|error| self.undo(error))?;
        let cut = self.out.len();
        // Behind the record set: the partition's tagged fields, of which there are none.
        self.no_tags();
        Ok(cut)
    }

    /// Ends the request, fills in its length, and returns the bytes of the whole frame, record sets included.
    pub fn finish(mut self) -> Result<usize, EncodeError> {
        if self.failed || self.partitions_left > 0 || self.topics_left > 0 {
            return Err(self.fail("topicData", EncodeErrorKind::Pieces));
        }
        self.end_topic();
        self.no_tags();
        let total = self.out.len() - self.start + self.records_bytes;
        match i32::try_from(total - frame::PREFIX_BYTES) {
            Ok(length) => {
                self.out[self.start..self.start + frame::PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
                Ok(total)
            }
            Err(_) => Err(self.fail("length", EncodeErrorKind::TooLong(total))),
        }
    }

    fn end_topic(&mut self) {
        if std::mem::take(&mut self.in_topic) {
            self.no_tags();
        }
    }

    fn no_tags(&mut self) {
        if self.version >= ProduceRequest::FLEXIBLE {
            self.out.push(0);
        }
    }

    #[cold]
    fn fail(&mut self, field: &'static str, kind: EncodeErrorKind) -> EncodeError {
        let error = writer(self.version, self.out).at(field).error(kind);
        self.undo(error)
    }

    #[cold]
    fn undo(&mut self, error: EncodeError) -> EncodeError {
        self.out.truncate(self.start);
        self.failed = true;
        error
    }
}

fn writer(version: i16, out: &mut Vec<u8>) -> Writer<'_> {
    let mut writer = Writer::new(out);
    writer.start(ProduceRequest::NAME, version, version >= ProduceRequest::FLEXIBLE);
    writer
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::base::ids::Uuid;
    use crate::wire::messages::produce::request::{PartitionProduceData, TopicProduceData};

    fn request(version: i16, transactional: bool) -> ProduceRequest {
        let partition = |index: i32, len: usize| PartitionProduceData {
            index,
            records: Some(Bytes::from(vec![index as u8; len])),
            ..Default::default()
        };
        let topic = |name: &str, id: u8, partition_data| TopicProduceData {
            name: if version < 13 { name.into() } else { String::new() },
            topic_id: if version >= 13 { Uuid([id; 16]) } else { Uuid::ZERO },
            partition_data,
            ..Default::default()
        };
        ProduceRequest {
            transactional_id: transactional.then(|| "tx".into()),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![
                topic("first", 1, vec![partition(1, 61), partition(2, 0), partition(3, 200)]),
                topic("none", 2, vec![]),
                topic("last", 3, vec![partition(4, 20_000)]),
            ],
            ..Default::default()
        }
    }

    /// The scaffolding of `request` and the pieces put together.
    fn assemble(version: i16, request: &ProduceRequest) -> Vec<u8> {
        let head = ProduceHead {
            version,
            correlation_id: 99,
            client_id: Some("ottla"),
            transactional_id: request.transactional_id.as_deref(),
            acks: request.acks,
            timeout_ms: request.timeout_ms,
            topics: request.topic_data.len(),
        };
        let (mut out, mut cuts) = (vec![0xee; 3], Vec::new());
        let mut pieces = ProducePieces::begin(&head, &mut out).unwrap();
        for topic in &request.topic_data {
            let by = if version >= 13 { TopicRef::Id(topic.topic_id) } else { TopicRef::Name(&topic.name) };
            pieces.topic(by, topic.partition_data.len()).unwrap();
            for partition in &topic.partition_data {
                let records = partition.records.clone().unwrap();
                cuts.push((pieces.partition(partition.index, records.len()).unwrap(), records));
            }
        }
        let total = pieces.finish().unwrap();
        let (mut wire, mut from) = (Vec::new(), 3);
        for (cut, records) in cuts {
            wire.extend_from_slice(&out[from..cut]);
            wire.extend_from_slice(&records);
            from = cut;
        }
        wire.extend_from_slice(&out[from..]);
        assert_eq!(wire.len(), total);
        wire
    }

    #[test]
    fn the_pieces_are_the_codecs_bytes_at_every_version() {
        for version in 3..=13 {
            for transactional in [false, true] {
                let request = request(version, transactional);
                let mut wanted = Vec::new();
                frame::encode_request(version, 99, Some("ottla"), &request, &mut wanted).unwrap();
                assert_eq!(assemble(version, &request), wanted, "version {version}");
            }
        }
    }

    #[test]
    fn counts_that_do_not_hold_are_an_error_and_leave_nothing() {
        let head = |version, topics| ProduceHead {
            version,
            correlation_id: 1,
            client_id: None,
            transactional_id: None,
            acks: 1,
            timeout_ms: 1,
            topics,
        };
        let mut out = vec![1, 2];
        assert_eq!(ProducePieces::begin(&head(2, 0), &mut out).unwrap_err().kind, EncodeErrorKind::Version);
        assert_eq!(ProducePieces::begin(&head(14, 0), &mut out).unwrap_err().kind, EncodeErrorKind::Version);
        let pieces = ProducePieces::begin(&head(9, 1), &mut out).unwrap();
        assert_eq!(pieces.finish().unwrap_err().kind, EncodeErrorKind::Pieces);
        let mut pieces = ProducePieces::begin(&head(9, 1), &mut out).unwrap();
        assert_eq!(pieces.partition(0, 1).unwrap_err().kind, EncodeErrorKind::Pieces);
        let mut pieces = ProducePieces::begin(&head(9, 2), &mut out).unwrap();
        pieces.topic(TopicRef::Name("t"), 1).unwrap();
        assert_eq!(pieces.topic(TopicRef::Name("u"), 1).unwrap_err().kind, EncodeErrorKind::Pieces);
        for (version, topic) in [(13, TopicRef::Name("t")), (12, TopicRef::Id(Uuid::ZERO))] {
            let mut pieces = ProducePieces::begin(&head(version, 1), &mut out).unwrap();
            assert_eq!(pieces.topic(topic, 1).unwrap_err().kind, EncodeErrorKind::NotInVersion);
        }
        let mut pieces = ProducePieces::begin(&head(13, 1), &mut out).unwrap();
        pieces.topic(TopicRef::Id(Uuid::ZERO), 1).unwrap();
        let long = i32::MAX as usize + 1;
        assert_eq!(pieces.partition(0, long).unwrap_err().kind, EncodeErrorKind::TooLong(long));
        assert_eq!(pieces.partition(0, 1).unwrap_err().kind, EncodeErrorKind::Pieces);
        assert_eq!(pieces.topic(TopicRef::Id(Uuid::ZERO), 1).unwrap_err().kind, EncodeErrorKind::Pieces);
        assert_eq!(pieces.finish().unwrap_err().kind, EncodeErrorKind::Pieces);
        assert_eq!(out, [1, 2]);
    }
}
