//! A finished batch: what goes to the broker, as often as it must.

use super::codec::{Codec, TimestampType};
use super::crc::crc32c_over;
use super::header::{CRC_FROM, HEADER_BYTES, Header, LOG_OVERHEAD_BYTES, attributes};
use crate::base::chunk::{ChunkPool, Piece};

/// Who a batch is from: what idempotence and transactions write into its header (KIP-98).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// -1 without idempotence.
    pub producer_id: i64,
    /// -1 without idempotence.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 without idempotence.
    pub base_sequence: i32,
    /// Whether the batch is part of a transaction.
    pub transactional: bool,
}

impl Stamp {
    /// No idempotence.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1, transactional: false };
}

/// A sealed batch: a header piece of 61 bytes and the body behind it. Cloning shares the memory.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    header: Piece,
    body: Vec<Piece>,
    fields: Header,
    raw_bytes: usize,
    memory_bytes: usize,
    pool: ChunkPool,
}

/// What a builder knows when it seals.
pub(crate) struct Parts {
    pub(crate) body: Vec<Piece>,
    pub(crate) memory_bytes: usize,
    pub(crate) codec: Codec,
    pub(crate) count: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) raw_bytes: usize,
}

impl SealedBatch {
    pub(crate) fn new(parts: Parts, stamp: Stamp, pool: ChunkPool) -> Self {
        let Parts { body, memory_bytes, codec, count, base_timestamp, max_timestamp, raw_bytes } = parts;
        let body_len: usize = body.iter().map(Piece::len).sum();
        let fields = Header {
            base_offset: 0,
            // A builder refuses what would not fit.
            length: i32::try_from(HEADER_BYTES - LOG_OVERHEAD_BYTES + body_len).unwrap_or(i32::MAX),
            partition_leader_epoch: -1,
            magic: 2,
            attributes: attributes(codec, TimestampType::CreateTime, false, false),
            last_offset_delta: count - 1,
            base_timestamp,
            max_timestamp,
            count,
            ..Header::default()
        };
        let (fields, header) = stamped(fields, stamp, &body, &pool);
        Self { header, body, fields, raw_bytes, memory_bytes, pool }
    }

    /// Gives the batch another identity: a *new* header piece with its own CRC. The old piece may be in flight, and its
    /// memory is never touched.
    pub fn restamp(&mut self, stamp: Stamp) {
        (self.fields, self.header) = stamped(self.fields, stamp, &self.body, &self.pool);
    }

    /// The header piece and the body's, in the order they go on the wire.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        std::iter::once(&self.header).chain(&self.body)
    }

    /// Bytes on the wire, header included.
    pub fn wire_len(&self) -> usize {
        LOG_OVERHEAD_BYTES + self.fields.length as usize
    }

    /// Records in the batch.
    pub fn count(&self) -> u32 {
        self.fields.count as u32
    }

    /// Bytes of the records before compression.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Bytes of chunks that the batch keeps, by capacity.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.header.len()
    }

    /// The codec it was sealed with; [`Codec::None`] also when compression did not pay.
    pub fn codec(&self) -> Codec {
        self.fields.codec().unwrap_or_default()
    }

    /// The header's fields.
    pub fn header(&self) -> &Header {
        &self.fields
    }

    /// Sequence of the first record, -1 without idempotence.
    pub fn base_sequence(&self) -> i32 {
        self.fields.base_sequence
    }

    /// Appends the whole batch to `out`, contiguous: to split it, or to look at it.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.wire_len());
        for piece in self.pieces() {
            out.extend_from_slice(piece.bytes());
        }
    }
}

fn stamped(mut fields: Header, stamp: Stamp, body: &[Piece], pool: &ChunkPool) -> (Header, Piece) {
    let codec = fields.codec().unwrap_or_default();
    fields.attributes = attributes(codec, TimestampType::CreateTime, stamp.transactional, false);
    fields.producer_id = stamp.producer_id;
    fields.producer_epoch = stamp.producer_epoch;
    fields.base_sequence = stamp.base_sequence;
    let bytes = fields.to_bytes();
    fields.crc = crc32c_over(std::iter::once(&bytes[CRC_FROM..]).chain(body.iter().map(Piece::bytes)));
    let mut chunk = pool.take(HEADER_BYTES);
    chunk.put(&fields.to_bytes());
    (fields, Piece::whole(chunk))
}
