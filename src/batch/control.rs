//! Control batches: the records that end transactions. Consumers never see them (KIP-98).

use super::codec::{Codec, TimestampType};
use super::header::{HEADER_BYTES, Header, LOG_OVERHEAD_BYTES, attributes, i16_at, i32_at, seal_crc};
use super::record::{RecordView, encode_body};
use super::varint::{push_varint, varint_len};

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i16)]
pub enum Marker {
    /// Its records are hidden from `read_committed`.
    Abort = 0,
    /// Its records count.
    Commit = 1,
}

/// A control record, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlRecord {
    /// The end of a producer's transaction.
    End {
        /// How it ended.
        marker: Marker,
        /// Epoch of the coordinator that wrote it.
        coordinator_epoch: i32,
    },
    /// A control record of another type (KRaft's, or newer than this build).
    Other {
        /// The type number.
        kind: i16,
    },
}

impl ControlRecord {
    /// Decodes a record of a control batch; `None` when its key or value is too short to be one.
    pub fn read(record: &RecordView<'_>) -> Option<Self> {
        let key = record.key().filter(|key| key.len() >= 4)?;
        let marker = match i16_at(key, 2) {
            0 => Marker::Abort,
            1 => Marker::Commit,
            kind => return Some(Self::Other { kind }),
        };
        let value = record.value().filter(|value| value.len() >= 6)?;
        Some(Self::End { marker, coordinator_epoch: i32_at(value, 2) })
    }
}

/// A whole control batch with one marker, as a broker writes it when a transaction ends.
pub fn encode_marker(
    marker: Marker,
    base_offset: i64,
    partition_leader_epoch: i32,
    timestamp_ms: i64,
    producer_id: i64,
    producer_epoch: i16,
    coordinator_epoch: i32,
) -> Vec<u8> {
    let key = (marker as i16 as u32).to_be_bytes();
    let mut value = [0; 6];
    value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
    let mut body = Vec::new();
    encode_body(Some(&key), Some(&value), std::iter::empty(), &mut body);
    // Attributes, timestamp delta 0, offset delta 0.
    let inner = 3 + body.len();
    let length = HEADER_BYTES - LOG_OVERHEAD_BYTES + varint_len(inner as i32) + inner;
    let header = Header {
        base_offset,
        length: length as i32,
        partition_leader_epoch,
        magic: 2,
        attributes: attributes(Codec::None, TimestampType::CreateTime, true, true),
        base_timestamp: timestamp_ms,
        max_timestamp: timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence: -1,
        count: 1,
        ..Header::default()
    };
    let mut out = header.to_bytes().to_vec();
    push_varint(inner as i32, &mut out);
    out.extend_from_slice(&[0; 3]);
    out.extend_from_slice(&body);
    seal_crc(&mut out);
    out
}
