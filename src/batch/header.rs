//! The 61-byte header of a v2 batch: where each field stands, reading it, and patching what a broker patches.
//!
//! ```text
//!  0          8      12            16    17  21   23         27        35        43    51    57      61
//!  base offset│length│leader epoch │magic│crc│attr│last delta│base time│max time │pid  │epoch│base seq│count│ records
//!  └─── not under the CRC ─────────┴──────────┴─── under the CRC ──► end
//! ```

use super::codec::{Codec, TimestampType};
use super::crc::crc32c;

/// Bytes of a v2 batch header.
pub const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length field, which the length does not count.
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// Where the CRC starts to count.
pub const CRC_FROM: usize = ATTRIBUTES;

const BASE_OFFSET: usize = 0;
const LENGTH: usize = 8;
const LEADER_EPOCH: usize = 12;
pub(crate) const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const COUNT: usize = 57;

const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// The fields of a v2 batch header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// Offset of the first record as it was produced (compaction may have removed it since).
    pub base_offset: i64,
    /// Bytes of the batch after this field.
    pub length: i32,
    /// Epoch of the leader that appended it; -1 from a producer.
    pub partition_leader_epoch: i32,
    /// Format version, 2.
    pub magic: i8,
    /// CRC-32C from the attributes to the end.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Last offset - base offset; kept by compaction.
    pub last_offset_delta: i32,
    /// The first record's timestamp, or the delete horizon when that attribute is set.
    pub base_timestamp: i64,
    /// The largest timestamp, or the append time.
    pub max_timestamp: i64,
    /// -1 without idempotence.
    pub producer_id: i64,
    /// -1 without idempotence.
    pub producer_epoch: i16,
    /// -1 without idempotence.
    pub base_sequence: i32,
    /// Records in the batch.
    pub count: i32,
}

impl Header {
    /// Reads the header; `None` when there are fewer than 61 bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        Some(Self {
            base_offset: i64_at(bytes, BASE_OFFSET),
            length: i32_at(bytes, LENGTH),
            partition_leader_epoch: i32_at(bytes, LEADER_EPOCH),
            magic: bytes[MAGIC] as i8,
            crc: i32_at(bytes, CRC) as u32,
            attributes: i16_at(bytes, ATTRIBUTES),
            last_offset_delta: i32_at(bytes, LAST_OFFSET_DELTA),
            base_timestamp: i64_at(bytes, BASE_TIMESTAMP),
            max_timestamp: i64_at(bytes, MAX_TIMESTAMP),
            producer_id: i64_at(bytes, PRODUCER_ID),
            producer_epoch: i16_at(bytes, PRODUCER_EPOCH),
            base_sequence: i32_at(bytes, BASE_SEQUENCE),
            count: i32_at(bytes, COUNT),
        })
    }

    /// The header as bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[BASE_OFFSET..LENGTH].copy_from_slice(&self.base_offset.to_be_bytes());
        out[LENGTH..LEADER_EPOCH].copy_from_slice(&self.length.to_be_bytes());
        out[LEADER_EPOCH..MAGIC].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        out[MAGIC] = self.magic as u8;
        out[CRC..ATTRIBUTES].copy_from_slice(&self.crc.to_be_bytes());
        out[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&self.attributes.to_be_bytes());
        out[LAST_OFFSET_DELTA..BASE_TIMESTAMP].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[BASE_TIMESTAMP..MAX_TIMESTAMP].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[PRODUCER_ID..PRODUCER_EPOCH].copy_from_slice(&self.producer_id.to_be_bytes());
        out[PRODUCER_EPOCH..BASE_SEQUENCE].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[BASE_SEQUENCE..COUNT].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[COUNT..].copy_from_slice(&self.count.to_be_bytes());
        out
    }

    /// The codec, if the attribute names one.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_attributes(self.attributes)
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME != 0 { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records, which are never delivered.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }

    /// The last offset; `None` when offset and delta are not sane.
    pub fn last_offset(&self) -> Option<i64> {
        if self.base_offset < 0 || self.last_offset_delta < 0 {
            return None;
        }
        // A next offset must exist too.
        self.base_offset.checked_add(i64::from(self.last_offset_delta)).filter(|last| *last < i64::MAX)
    }
}

/// The attributes of a batch.
pub fn attributes(codec: Codec, timestamps: TimestampType, transactional: bool, control: bool) -> i16 {
    let mut bits = codec as i16;
    if timestamps == TimestampType::LogAppendTime {
        bits |= LOG_APPEND_TIME;
    }
    if transactional {
        bits |= TRANSACTIONAL;
    }
    if control {
        bits |= CONTROL;
    }
    bits
}

/// Sets base offset and leader epoch of a whole v2 batch in place, as a leader does; neither is under the CRC. Returns
/// false, changing nothing, when `batch` is shorter than a header.
pub fn assign(batch: &mut [u8], base_offset: i64, partition_leader_epoch: i32) -> bool {
    if batch.len() < HEADER_BYTES {
        return false;
    }
    batch[BASE_OFFSET..LENGTH].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH..MAGIC].copy_from_slice(&partition_leader_epoch.to_be_bytes());
    true
}

/// Turns a whole v2 batch in place into one with the given append time (`message.timestamp.type=LogAppendTime`), CRC
/// included. Returns false, changing nothing, when `batch` is shorter than a header.
pub fn stamp_append_time(batch: &mut [u8], timestamp_ms: i64) -> bool {
    if batch.len() < HEADER_BYTES {
        return false;
    }
    let attributes = i16_at(batch, ATTRIBUTES) | LOG_APPEND_TIME;
    batch[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&timestamp_ms.to_be_bytes());
    let crc = crc32c(&batch[CRC_FROM..]);
    batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    true
}

/// Puts the CRC over a whole v2 batch in place. Returns false when `batch` is shorter than a header.
pub fn seal_crc(batch: &mut [u8]) -> bool {
    if batch.len() < HEADER_BYTES {
        return false;
    }
    let crc = crc32c(&batch[CRC_FROM..]);
    batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    true
}

// Callers have checked that the field is inside.
pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    i64::from_be_bytes(out)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> i32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    i32::from_be_bytes(out)
}

pub(crate) fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        let header = Header {
            base_offset: 1 << 40,
            length: 49,
            partition_leader_epoch: 7,
            magic: 2,
            crc: 0xdead_beef,
            attributes: attributes(Codec::Zstd, TimestampType::LogAppendTime, true, true),
            last_offset_delta: 11,
            base_timestamp: -5,
            max_timestamp: 1 << 41,
            producer_id: 99,
            producer_epoch: 3,
            base_sequence: i32::MAX,
            count: 12,
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::read(&bytes), Some(header));
        assert_eq!(Header::read(&bytes[..60]), None);
        assert_eq!(header.last_offset(), Some((1 << 40) + 11));
        assert!(header.is_control() && header.is_transactional() && !header.has_delete_horizon());
        assert_eq!((header.codec(), header.timestamp_type()), (Some(Codec::Zstd), TimestampType::LogAppendTime));
    }

    #[test]
    fn offsets_that_overflow_are_no_offsets() {
        let at = |base_offset, last_offset_delta| Header { base_offset, last_offset_delta, ..Header::default() };
        assert_eq!(at(i64::MAX, 0).last_offset(), None);
        assert_eq!(at(i64::MAX - 1, 1).last_offset(), None);
        assert_eq!(at(-1, 1).last_offset(), None);
        assert_eq!(at(0, -1).last_offset(), None);
    }
}
