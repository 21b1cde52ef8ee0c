//! The bytes of a Fetch answer or a log segment as batches, and a batch as records.

use super::codec::{Codec, TimestampType};
use super::compress::{Decompressor, Unpacked};
use super::crc::crc32c;
use super::error::{BadBatch, Fault};
use super::header::{CRC_FROM, HEADER_BYTES, Header, LOG_OVERHEAD_BYTES, MAGIC, i32_at, i64_at};
use super::legacy::{self, Message};
use super::record::{RECORD_BYTES_MIN, Records, RecordsHead};

/// Batches one after another. A partial batch at the end ends the walk and is no error (brokers cut answers by size);
/// a batch that cannot be one is an error and ends the walk too, since nobody knows where the next one starts.
#[derive(Clone, Debug)]
pub struct RecordSet<'a> {
    rest: &'a [u8],
    failed: bool,
}

/// The batch that the bytes end inside of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialBatch {
    /// Bytes of it that are there.
    pub have: usize,
    /// Its size when the length field is there.
    pub want: Option<usize>,
}

impl<'a> RecordSet<'a> {
    /// The batches in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, failed: false }
    }

    /// What is left when [`Iterator::next`] returned `None`: a batch that was cut off, or nothing.
    pub fn partial(&self) -> Option<PartialBatch> {
        if self.rest.is_empty() || self.failed {
            return None;
        }
        let want = (self.rest.len() >= LOG_OVERHEAD_BYTES)
            .then(|| LOG_OVERHEAD_BYTES + usize::try_from(i32_at(self.rest, 8)).unwrap_or(0));
        Some(PartialBatch { have: self.rest.len(), want })
    }

    fn read(&mut self) -> Result<Option<BatchView<'a>>, BadBatch> {
        if self.rest.len() < LOG_OVERHEAD_BYTES {
            return Ok(None);
        }
        let offset = i64_at(self.rest, 0);
        let length = i32_at(self.rest, 8);
        let bad = |fault| BadBatch { offset, fault };
        // The smallest thing that can stand here is an empty v0 message.
        if (length as i64) < legacy::bytes_min(0) as i64 - LOG_OVERHEAD_BYTES as i64 {
            return Err(bad(Fault::Length(length)));
        }
        // Magic is in the smallest of them, so a partial batch of an unknown version is told apart early.
        let Some(magic) = self.rest.get(MAGIC) else { return Ok(None) };
        let magic = *magic as i8;
        if !(0..=2).contains(&magic) {
            return Err(bad(Fault::Magic(magic)));
        }
        let size = LOG_OVERHEAD_BYTES + length as usize;
        let size_min = if magic == 2 { HEADER_BYTES } else { legacy::bytes_min(magic) };
        if size < size_min {
            return Err(bad(Fault::Length(length)));
        }
        if self.rest.len() < size {
            return Ok(None);
        }
        let (bytes, rest) = self.rest.split_at(size);
        let kind = if magic == 2 {
            let Some(header) = Header::read(bytes) else { return Err(bad(Fault::Length(length))) };
            let last = header.last_offset().ok_or_else(|| bad(Fault::Offsets(header.last_offset_delta)))?;
            Kind::V2(header, last)
        } else {
            let message = Message::read(bytes).map_err(|what| bad(Fault::Wrapper(what)))?;
            if message.offset < 0 || message.offset == i64::MAX {
                return Err(bad(Fault::Offsets(0)));
            }
            Kind::Legacy(message)
        };
        self.rest = rest;
        Ok(Some(BatchView { bytes, kind }))
    }
}

impl<'a> Iterator for RecordSet<'a> {
    type Item = Result<BatchView<'a>, BadBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let read = self.read();
        self.failed = read.is_err();
        read.transpose()
    }
}

/// One whole batch (v2), message or wrapper (v0/v1), borrowed. Only its header was read.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
    kind: Kind<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    V2(Header, i64),
    Legacy(Message<'a>),
}

/// Where a batch's records are after [`BatchView::open`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// In the batch's own bytes, [`BatchView::payload`]: it was not compressed.
    InPlace,
    /// In the [`Unpacked`] that was passed.
    Unpacked,
}

impl<'a> BatchView<'a> {
    /// All of the batch's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Format version: 0, 1 or 2.
    pub fn magic(&self) -> i8 {
        match &self.kind {
            Kind::V2(header, _) => header.magic,
            Kind::Legacy(message) => message.magic,
        }
    }

    /// The header of a v2 batch.
    pub fn header(&self) -> Option<&Header> {
        match &self.kind {
            Kind::V2(header, _) => Some(header),
            Kind::Legacy(_) => None,
        }
    }

    /// The base offset; for v0/v1 the offset of the message or wrapper, which for a wrapper is its *last* offset.
    pub fn base_offset(&self) -> i64 {
        match &self.kind {
            Kind::V2(header, _) => header.base_offset,
            Kind::Legacy(message) => message.offset,
        }
    }

    /// The last offset: fetching goes on at this + 1, whatever the batch still holds.
    pub fn last_offset(&self) -> i64 {
        match &self.kind {
            Kind::V2(_, last) => *last,
            Kind::Legacy(message) => message.offset,
        }
    }

    /// Records in the batch as its header says, unchecked; for v0/v1 unknown before it is opened.
    pub fn count(&self) -> Option<i32> {
        self.header().map(|header| header.count)
    }

    /// The codec; an error for a number Kafka does not define.
    pub fn codec(&self) -> Result<Codec, BadBatch> {
        let (codec, bits) = match &self.kind {
            Kind::V2(header, _) => (header.codec(), header.attributes as u8 & 7),
            Kind::Legacy(message) => (message.codec(), message.attributes & 7),
        };
        codec.ok_or_else(|| self.bad(Fault::Codec(bits)))
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        match &self.kind {
            Kind::V2(header, _) => header.timestamp_type(),
            Kind::Legacy(message) => message.timestamp_type(),
        }
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.header().is_some_and(Header::is_transactional)
    }

    /// Whether the batch holds control records, which are never delivered.
    pub fn is_control(&self) -> bool {
        self.header().is_some_and(Header::is_control)
    }

    /// The producer's id, -1 without idempotence.
    pub fn producer_id(&self) -> i64 {
        self.header().map_or(-1, |header| header.producer_id)
    }

    /// The records' bytes as they stand in the batch, compressed or not.
    pub fn payload(&self) -> &'a [u8] {
        match &self.kind {
            Kind::V2(..) => &self.bytes[HEADER_BYTES..],
            // A message that is no wrapper is a set of one.
            Kind::Legacy(message) if message.codec() == Some(Codec::None) => self.bytes,
            Kind::Legacy(message) => message.value.unwrap_or_default(),
        }
    }

    /// The stored CRC and the one over the bytes.
    pub fn crcs(&self) -> (u32, u32) {
        match &self.kind {
            Kind::V2(header, _) => (header.crc, crc32c(&self.bytes[CRC_FROM..])),
            Kind::Legacy(message) => (message.stored_crc, message.computed_crc()),
        }
    }

    /// An error unless the CRC is right.
    pub fn verify(&self) -> Result<(), BadBatch> {
        let (stored, computed) = self.crcs();
        if stored == computed { Ok(()) } else { Err(self.bad(Fault::Crc { stored, computed })) }
    }

    /// Verifies the CRC, decompresses into `unpacked` when there is need to, checks the count against the bytes, and
    /// says how to walk the records.
    pub fn open(
        &self,
        decompressor: &mut Decompressor,
        unpacked: &mut Unpacked,
    ) -> Result<(RecordsHead, Payload), BadBatch> {
        self.verify()?;
        let codec = self.codec()?;
        let payload = if codec == Codec::None {
            Payload::InPlace
        } else {
            unpacked.clear();
            decompressor
                .decompress(codec, self.magic(), self.payload(), unpacked)
                .map_err(|error| self.bad(error.into()))?;
            Payload::Unpacked
        };
        let head = match &self.kind {
            Kind::V2(header, last_offset) => {
                let bytes = if payload == Payload::InPlace { self.payload().len() } else { unpacked.bytes().len() };
                let count = header.count;
                if count < 0 || count as usize > bytes / RECORD_BYTES_MIN {
                    return Err(self.bad(Fault::Count { count, bytes }));
                }
                let timestamp_type = header.timestamp_type();
                RecordsHead {
                    base_offset: header.base_offset,
                    last_offset: *last_offset,
                    base_timestamp: header.base_timestamp,
                    append_time: (timestamp_type == TimestampType::LogAppendTime).then_some(header.max_timestamp),
                    count,
                    magic: 2,
                    timestamp_type,
                }
            }
            Kind::Legacy(message) if payload == Payload::InPlace => legacy::open_single(message),
            Kind::Legacy(message) => {
                legacy::open_wrapper(message, unpacked.bytes()).map_err(|fault| self.bad(fault))?
            }
        };
        Ok((head, payload))
    }

    /// [`BatchView::open`] and the walk in one.
    pub fn records<'b>(
        &'b self,
        decompressor: &mut Decompressor,
        unpacked: &'b mut Unpacked,
    ) -> Result<Records<'b>, BadBatch> {
        let (head, payload) = self.open(decompressor, unpacked)?;
        let bytes = match payload {
            Payload::InPlace => self.payload(),
            Payload::Unpacked => unpacked.bytes(),
        };
        Ok(Records::new(head, bytes))
    }

    fn bad(&self, fault: Fault) -> BadBatch {
        BadBatch { offset: self.base_offset(), fault }
    }
}
