//! Record batch v2 as the broker judges it: its own header parser and its own record walker, on purpose not the
//! client's, so that both cannot be wrong together.
//!
//! Layout (docs: "Record Batch"): base offset 0..8, length 8..12, leader epoch 12..16, magic 16, CRC 17..21 over
//! everything from 21; attributes 21..23, last offset delta 23..27, base timestamp 27..35, max timestamp 35..43,
//! producer id 43..51, epoch 51..53, base sequence 53..57, count 57..61, records.

use crc_fast::{CrcAlgorithm, checksum};

use super::log::Stamp;
use super::options::TopicSettings;
use crate::wire::ErrorCode;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;
const LOG_APPEND_TIME: i16 = 1 << 3;

fn be<const N: usize>(batch: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(bytes) = batch.get(at..at + N) {
        field.copy_from_slice(bytes);
    }
    field
}

/// Offset of the first record of a batch; 0 for fewer bytes than it takes.
pub fn base_offset(batch: &[u8]) -> i64 {
    i64::from_be_bytes(be(batch, 0))
}

/// Last offset minus base offset.
pub fn last_offset_delta(batch: &[u8]) -> i32 {
    i32::from_be_bytes(be(batch, 23))
}

/// The largest timestamp as the header has it; none when that is not all there.
pub fn max_timestamp(batch: &[u8]) -> Option<i64> {
    (batch.len() >= HEADER_BYTES).then(|| i64::from_be_bytes(be(batch, 35)))
}

/// Writes the broker's fields into a whole batch, with a new CRC when one of them is under it. Returns the max timestamp.
pub fn stamp(batch: &mut [u8], base_offset: i64, stamp: Stamp) -> i64 {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&stamp.leader_epoch.to_be_bytes());
    let attributes = i16::from_be_bytes(be(batch, 21));
    let (attributes_now, max_now) = match stamp.append_time_ms {
        Some(time) => (attributes | LOG_APPEND_TIME, time),
        None => (attributes, stamp.max_timestamp),
    };
    if attributes_now != attributes || max_now != i64::from_be_bytes(be(batch, 35)) {
        batch[21..23].copy_from_slice(&attributes_now.to_be_bytes());
        batch[35..43].copy_from_slice(&max_now.to_be_bytes());
        let crc = crc_of(batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    max_now
}

fn crc_of(batch: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32
}

/// A batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record; 0 from a producer.
    pub base_offset: i64,
    /// Attributes: codec 0..3, timestamp type, transactional, control.
    pub attributes: i16,
    /// Last offset minus base offset.
    pub last_offset_delta: i32,
    /// First record's timestamp, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, -1 without idempotence.
    pub producer_id: i64,
    /// Producer epoch, -1 without idempotence.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 without idempotence.
    pub base_sequence: i32,
    /// Records.
    pub count: i32,
}

impl Header {
    /// Codec number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are unknown.
    pub fn codec(&self) -> u8 {
        (self.attributes & 7) as u8
    }

    /// Whether the batch belongs to a transaction.
    pub fn transactional(&self) -> bool {
        self.attributes & (1 << 4) != 0
    }

    /// Whether the batch holds control records.
    pub fn control(&self) -> bool {
        self.attributes & (1 << 5) != 0
    }

    /// Whether its timestamps are the broker's.
    pub fn log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }
}

/// Whether the bytes claim to be a transactional v2 batch.
pub fn says_transactional(records: &[u8]) -> bool {
    records.len() >= HEADER_BYTES && records[16] == 2 && header(records).transactional()
}

/// Why a batch is not appended: what the Produce answer says about its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `error_code` of the partition.
    pub code: ErrorCode,
    /// `error_message` of the partition.
    pub message: String,
    /// `record_errors` (KIP-467): record index and what is wrong with it.
    pub records: Vec<(i32, String)>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRecord, message)
    }
}

/// Checks that `records`, one partition's part of a Produce request, is exactly one sound v2 batch from a client:
/// length, magic, CRC, count against offsets, producer fields.
pub fn check_batch(records: &[u8], settings: &TopicSettings) -> Result<Header, Refusal> {
    let one_batch = "Produce requests are only allowed to contain exactly one record batch per partition";
    if records.len() > 16 && records[16] < 2 {
        return Err(Refusal::invalid("Produce requests with version 3 or above are only allowed magic version 2"));
    }
    if records.len() < HEADER_BYTES {
        return Err(Refusal::invalid(one_batch));
    }
    if records[16] != 2 {
        return Err(Refusal::new(ErrorCode::CorruptMessage, format!("Invalid magic found in record: {}", records[16])));
    }
    let length = i32::from_be_bytes(be(records, 8));
    let size = usize::try_from(length).map_or(0, |length| length.saturating_add(12));
    if size > records.len() {
        return Err(Refusal::invalid(one_batch));
    }
    if size < HEADER_BYTES {
        return Err(Refusal::new(ErrorCode::CorruptMessage, format!("batch length {length} does not fit its bytes")));
    }
    if size < records.len() {
        return Err(Refusal::invalid(one_batch));
    }
    if size > usize::try_from(settings.message_bytes_max).unwrap_or(0) {
        let limit = settings.message_bytes_max;
        let message = format!("The record batch size is {size} bytes, which exceeds max.message.bytes {limit}");
        return Err(Refusal::new(ErrorCode::MessageTooLarge, message));
    }
    let crc = u32::from_be_bytes(be(records, 17));
    if crc != crc_of(records) {
        return Err(Refusal::new(
            ErrorCode::CorruptMessage,
            "Record is corrupt: stored crc differs from the computed one",
        ));
    }
    let header = header(records);
    if header.base_offset != 0 {
        let offset = header.base_offset;
        return Err(Refusal::invalid(format!("The baseOffset of the record batch should be 0, but it is {offset}")));
    }
    if header.control() {
        return Err(Refusal::invalid("Clients are not allowed to write control records"));
    }
    if header.count <= 0 || header.last_offset_delta < 0 || header.last_offset_delta != header.count - 1 {
        let (count, delta) = (header.count, header.last_offset_delta);
        return Err(Refusal::invalid(format!("Inconsistent batch: {count} records, last offset delta {delta}")));
    }
    let idempotent = header.producer_id >= 0;
    if idempotent && (header.producer_epoch < 0 || header.base_sequence < 0) {
        let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
        return Err(Refusal::invalid(format!("Invalid sequence {sequence} or epoch {epoch} of an idempotent batch")));
    }
    if !idempotent && (header.producer_id != -1 || header.transactional()) {
        return Err(Refusal::invalid(format!("Invalid producer id {}", header.producer_id)));
    }
    Ok(header)
}

/// Reads the fields of a header; the caller checked that all its bytes are there.
pub fn header(batch: &[u8]) -> Header {
    Header {
        base_offset: base_offset(batch),
        attributes: i16::from_be_bytes(be(batch, 21)),
        last_offset_delta: last_offset_delta(batch),
        base_timestamp: i64::from_be_bytes(be(batch, 27)),
        max_timestamp: i64::from_be_bytes(be(batch, 35)),
        producer_id: i64::from_be_bytes(be(batch, 43)),
        producer_epoch: i16::from_be_bytes(be(batch, 51)),
        base_sequence: i32::from_be_bytes(be(batch, 53)),
        count: i32::from_be_bytes(be(batch, 57)),
    }
}

/// A record's place in its batch, and whether it has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Timestamp, milliseconds.
    pub timestamp: i64,
    /// Offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Whether the key is not null.
    pub has_key: bool,
}

/// Walks the decompressed records of a batch. Each error is final.
pub struct Walk<'a> {
    rest: &'a [u8],
    index: i32,
    header: Header,
}

impl<'a> Walk<'a> {
    /// Over `records`, the bytes behind `header` after decompression.
    pub fn new(header: Header, records: &'a [u8]) -> Self {
        Self { rest: records, index: 0, header }
    }

    fn take_one(&mut self) -> Result<Record, String> {
        let mut outer = Bytes(self.rest);
        let length = outer.varint().ok_or("no record length")?;
        let length = usize::try_from(length).map_err(|_| "negative record length")?;
        let body = outer.take(length).ok_or("record is longer than its batch")?;
        self.rest = outer.0;
        let mut body = Bytes(body);
        let fine = |value: Option<i64>, what: &'static str| value.ok_or(what);
        body.take(1).ok_or("no attributes")?;
        let timestamp_delta = fine(body.varint(), "bad timestamp delta")?;
        let offset_delta = fine(body.varint(), "bad offset delta")?;
        let key = fine(body.varint(), "bad key length")?;
        if key >= 0 {
            body.take(key as usize).ok_or("key is longer than its record")?;
        }
        let value = fine(body.varint(), "bad value length")?;
        if value >= 0 {
            body.take(value as usize).ok_or("value is longer than its record")?;
        }
        let headers = fine(body.varint(), "bad header count")?;
        if headers < 0 || headers as u64 > body.0.len() as u64 {
            return Err(format!("{headers} headers in {} bytes", body.0.len()));
        }
        for _ in 0..headers {
            let name = fine(body.varint(), "bad header key length")?;
            let name = usize::try_from(name).map_err(|_| "negative header key length")?;
            body.take(name).ok_or("header key is longer than its record")?;
            let value = fine(body.varint(), "bad header value length")?;
            if value >= 0 {
                body.take(value as usize).ok_or("header value is longer than its record")?;
            }
        }
        if !body.0.is_empty() {
            return Err(format!("{} bytes behind the last header", body.0.len()));
        }
        let offset_delta = i32::try_from(offset_delta).map_err(|_| "offset delta out of range")?;
        let timestamp = self.header.base_timestamp.wrapping_add(timestamp_delta);
        Ok(Record { timestamp, offset_delta, has_key: key >= 0 })
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Record, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.header.count {
            if self.rest.is_empty() {
                return None;
            }
            let left = std::mem::take(&mut self.rest).len();
            return Some(Err(format!("{left} bytes behind the last of {} records", self.header.count)));
        }
        self.index += 1;
        let record = self.take_one();
        if record.is_err() {
            self.index = self.header.count;
            self.rest = &[];
        }
        Some(record)
    }
}

/// Walks all records and holds them to the topic's rules. Returns the largest timestamp found.
pub fn check_records(header: Header, records: &[u8], settings: &TopicSettings, wall_ms: i64) -> Result<i64, Refusal> {
    if header.log_append_time() {
        let message = "Invalid timestamp type. Producer should not set timestamp type to LogAppendTime.";
        return Err(Refusal::new(ErrorCode::InvalidTimestamp, message));
    }
    // All records that break a rule of the topic are named (KIP-467).
    let mut bad: Option<Refusal> = None;
    let mut refuse = |code: ErrorCode, index: i32, message: String| {
        let refusal = bad.get_or_insert_with(|| Refusal::new(code, "One or more records have been rejected"));
        if code == ErrorCode::InvalidTimestamp {
            refusal.code = code;
        }
        refusal.records.push((index, message));
    };
    let mut max_timestamp = i64::MIN;
    let (earliest, latest) = match settings.log_append_time {
        true => (i64::MIN, i64::MAX),
        false => (
            wall_ms.saturating_sub(settings.timestamp_before_max_ms),
            wall_ms.saturating_add(settings.timestamp_after_max_ms),
        ),
    };
    for (index, record) in (0..).zip(Walk::new(header, records)) {
        let record = record.map_err(|what| Refusal::invalid(format!("Record {index}: {what}")))?;
        if record.offset_delta != index {
            let message = format!("Inner record should have offset {index}, but it has {}", record.offset_delta);
            refuse(ErrorCode::InvalidRecord, index, message);
        }
        if settings.compacted && !record.has_key {
            refuse(ErrorCode::InvalidRecord, index, "Compacted topic cannot accept message without key".into());
        }
        // -1 is "no timestamp" and is let through, as Kafka does.
        if record.timestamp != -1 && !(earliest..=latest).contains(&record.timestamp) {
            let message = format!("Timestamp {} is out of range [{earliest}, {latest}]", record.timestamp);
            refuse(ErrorCode::InvalidTimestamp, index, message);
        }
        max_timestamp = max_timestamp.max(record.timestamp);
    }
    bad.map_or(Ok(max_timestamp), Err)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A zigzag varint of at most ten bytes.
    #[inline]
    fn varint(&mut self) -> Option<i64> {
        let mut value = 0u64;
        for (nth, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                self.0 = &self.0[nth + 1..];
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn put_varint(out: &mut Vec<u8>, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }

    /// An uncompressed batch of `count` records with null keys and values of `value` bytes, timestamps 1000, 1001, ...
    pub fn batch_of(count: i32, value: usize) -> Vec<u8> {
        let mut records = Vec::new();
        for index in 0..i64::from(count) {
            let mut body = vec![0];
            put_varint(&mut body, index);
            put_varint(&mut body, index);
            put_varint(&mut body, -1);
            put_varint(&mut body, value as i64);
            body.resize(body.len() + value, b'v');
            put_varint(&mut body, 0);
            put_varint(&mut records, body.len() as i64);
            records.extend_from_slice(&body);
        }
        let mut batch = vec![0; HEADER_BYTES];
        batch[8..12].copy_from_slice(&((HEADER_BYTES - 12 + records.len()) as i32).to_be_bytes());
        batch[16] = 2;
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&1000i64.to_be_bytes());
        batch[35..43].copy_from_slice(&(999 + i64::from(count)).to_be_bytes());
        batch[43..57].fill(0xff);
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        batch.extend_from_slice(&records);
        recrc(&mut batch);
        batch
    }

    /// Makes the CRC right again after a test changed something.
    pub fn recrc(batch: &mut [u8]) {
        let crc = crc_of(batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }

    fn settings() -> TopicSettings {
        TopicSettings::parse(&BTreeMap::new()).unwrap()
    }

    fn refused(batch: &[u8]) -> ErrorCode {
        match check_batch(batch, &settings()) {
            Err(refusal) => refusal.code,
            Ok(header) => match check_records(header, &batch[HEADER_BYTES..], &settings(), 2000) {
                Err(refusal) => refusal.code,
                Ok(_) => ErrorCode::None,
            },
        }
    }

    #[test]
    fn a_sound_batch_passes_and_each_flaw_is_named() {
        let good = batch_of(3, 20);
        assert_eq!(refused(&good), ErrorCode::None);
        let broken = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut batch = good.clone();
            change(&mut batch);
            refused(&batch)
        };
        let fixed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut batch = good.clone();
            change(&mut batch);
            recrc(&mut batch);
            refused(&batch)
        };
        assert_eq!(broken(&|b| b[70] ^= 1), ErrorCode::CorruptMessage);
        assert_eq!(broken(&|b| b.truncate(60)), ErrorCode::InvalidRecord);
        assert_eq!(broken(&|b| b.truncate(100)), ErrorCode::InvalidRecord);
        assert_eq!(broken(&|b| b[11] = 5), ErrorCode::CorruptMessage);
        assert_eq!(broken(&|b| b[16] = 1), ErrorCode::InvalidRecord);
        assert_eq!(broken(&|b| b.extend_from_within(..)), ErrorCode::InvalidRecord);
        assert_eq!(broken(&|b| b[7] = 1), ErrorCode::InvalidRecord);
        assert_eq!(fixed(&|b| b[60] = 4), ErrorCode::InvalidRecord);
        assert_eq!(fixed(&|b| (b[26], b[60]) = (1, 2)), ErrorCode::InvalidRecord, "bytes behind the last record");
        assert_eq!(fixed(&|b| (b[26], b[60]) = (3, 4)), ErrorCode::InvalidRecord, "a record is missing");
        assert_eq!(fixed(&|b| b[22] = 1 << 5), ErrorCode::InvalidRecord);
        assert_eq!(fixed(&|b| b[22] = 1 << 4), ErrorCode::InvalidRecord);
        assert_eq!(fixed(&|b| b[22] = 1 << 3), ErrorCode::InvalidTimestamp);
        assert_eq!(fixed(&|b| b[64] = 2), ErrorCode::InvalidRecord, "first offset delta is not 0");
        assert_eq!(fixed(&|b| b[29] = 1), ErrorCode::InvalidTimestamp, "far in the future");
    }

    #[test]
    fn compacted_topics_need_keys() {
        let set = BTreeMap::from([("cleanup.policy".to_string(), "compact".to_string())]);
        let compacted = TopicSettings::parse(&set).unwrap();
        let batch = batch_of(1, 5);
        let header = check_batch(&batch, &compacted).unwrap();
        let refusal = check_records(header, &batch[HEADER_BYTES..], &compacted, 2000).unwrap_err();
        assert_eq!((refusal.code, refusal.records.len()), (ErrorCode::InvalidRecord, 1));
    }

    #[test]
    fn stamping_changes_the_crc_only_when_it_must() {
        let mut batch = batch_of(2, 5);
        let crc = batch[17..21].to_vec();
        let plain = Stamp { leader_epoch: 9, append_time_ms: None, max_timestamp: 1001, born: 0 };
        assert_eq!(stamp(&mut batch, 77, plain), 1001);
        assert_eq!((base_offset(&batch), &batch[17..21]), (77, crc.as_slice()));
        assert_eq!(stamp(&mut batch, 77, Stamp { append_time_ms: Some(5000), ..plain }), 5000);
        assert_ne!(&batch[17..21], crc.as_slice());
        assert!(header(&batch).log_append_time());
        assert_eq!(u32::from_be_bytes(be(&batch, 17)), crc_of(&batch));
    }

    #[test]
    fn truncated_records_never_panic() {
        let batch = batch_of(4, 30);
        let header = header(&batch);
        for end in HEADER_BYTES..batch.len() {
            assert!(Walk::new(header, &batch[HEADER_BYTES..end]).any(|record| record.is_err()), "cut at {end}");
        }
    }
}
