//! Building a v2 batch record by record.
//!
//! ```text
//!   none         body ─────────────────────────────► wire chunks
//!   lz4, snappy  body ─► raw block ─ when full ────► wire chunks   (memory = compressed + one block)
//!   gzip, zstd   body ─► raw chunks ─ at sealing ──► wire chunks
//! ```

use super::chain::Chain;
use super::codec::{Codec, NotCompiledIn};
use super::compress::{Codecs, CompressError, Decompressor, UNPACKED_BYTES_MAX, Unpacked};
use super::header::HEADER_BYTES;
use super::sealed::{Parts, SealedBatch, Stamp};
use super::varint::{VARLONG_BYTES_MAX, varint_len, varlong_len, write_varlong};
use crate::base::chunk::{CHUNK_SIZES, Chunk, ChunkPool};

/// Longest length, attributes and deltas before a body.
const PREFIX_BYTES_MAX: usize = 4 * VARLONG_BYTES_MAX;

/// How batches are built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchSettings {
    /// How records are compressed.
    pub codec: Codec,
    /// Level of gzip (0-9) and zstd (-7..=22); others have none.
    pub level: i32,
    /// Most bytes on the wire with the 61-byte header (`batch.size`). A lone record may be larger: callers refuse it.
    pub size_bytes_max: usize,
    /// Most bytes of records before compression.
    pub raw_bytes_max: usize,
    /// Most records.
    pub count_max: u32,
}

impl Default for BatchSettings {
    /// Design §3.3: 1,000,000 bytes on the wire, 4 MiB raw, no count cap, not compressed.
    fn default() -> Self {
        Self {
            codec: Codec::None,
            level: 0,
            size_bytes_max: 1_000_000,
            raw_bytes_max: 4 << 20,
            count_max: i32::MAX as u32,
        }
    }
}

impl BatchSettings {
    /// The defaults with a codec at its default level.
    pub fn with_codec(codec: Codec) -> Self {
        Self { codec, level: codec.default_level(), ..Self::default() }
    }

    /// Most bytes that a batch of one record with this body takes on the wire, whatever the codec makes of it.
    pub fn lone_record_wire_bytes(body_len: usize) -> usize {
        // What compresses badly is sent raw.
        HEADER_BYTES + PREFIX_BYTES_MAX + body_len
    }
}

/// What became of an appended record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Append {
    /// The batch has it.
    Stored,
    /// The batch has it and takes no further one (`batch.num.messages`): seal it.
    Filled,
    /// It does not fit any more: seal the batch and append to the next one. An empty batch never says so.
    Full,
}

/// An open batch.
#[derive(Debug)]
pub struct BatchBuilder {
    settings: BatchSettings,
    pool: ChunkPool,
    codecs: Codecs,
    stage: Stage,
    /// Finished wire bytes behind the header; the raw records for the stream codecs.
    chain: Chain,
    count: u32,
    count_max: u32,
    raw_bytes: usize,
    base_timestamp: i64,
    max_timestamp: i64,
}

#[derive(Debug)]
enum Stage {
    Direct,
    Stream,
    /// The raw block being filled, and the size at which it is compressed.
    Blocks(Chunk, usize),
}

impl BatchBuilder {
    /// An empty batch. An error when the build leaves the codec out.
    pub fn new(settings: &BatchSettings, pool: &ChunkPool, codecs: &Codecs) -> Result<Self, NotCompiledIn> {
        settings.codec.require()?;
        let stage = match (settings.codec, Codecs::block_bytes(settings.codec)) {
            (Codec::None, _) => Stage::Direct,
            (_, Some(block_bytes)) => Stage::Blocks(pool.take(CHUNK_SIZES[0]), block_bytes),
            (_, None) => Stage::Stream,
        };
        Ok(Self {
            settings: *settings,
            pool: pool.clone(),
            codecs: codecs.clone(),
            stage,
            chain: Chain::default(),
            count: 0,
            count_max: settings.count_max.min(i32::MAX as u32),
            raw_bytes: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        })
    }

    /// Adds a record: its timestamp in milliseconds since 1970 and its body ([`super::encode_body`]).
    #[inline]
    pub fn append(&mut self, timestamp_ms: i64, body: &[u8]) -> Append {
        let delta = if self.count == 0 {
            0
        } else {
            // Timestamps so far apart that a delta cannot say it go into different batches.
            match timestamp_ms.checked_sub(self.base_timestamp) {
                Some(delta) => delta,
                None => return Append::Full,
            }
        };
        let inner = 1 + varlong_len(delta) + varint_len(self.count as i32) + body.len();
        let size = varint_len(inner as i32) + inner;
        if self.count == 0 {
            self.base_timestamp = timestamp_ms;
        } else if !self.fits(size) {
            return Append::Full;
        }
        let mut prefix = [0; PREFIX_BYTES_MAX];
        let mut at = write_varlong(inner as i64, &mut prefix);
        // The attributes byte stays 0.
        at += 1;
        at += write_varlong(delta, &mut prefix[at..]);
        at += write_varlong(i64::from(self.count), &mut prefix[at..]);
        self.put(&prefix[..at]);
        self.put(body);
        self.count += 1;
        self.raw_bytes += size;
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        if self.count < self.count_max { Append::Stored } else { Append::Filled }
    }

    fn fits(&self, size: usize) -> bool {
        self.count < self.count_max
            && self.raw_bytes + size <= self.settings.raw_bytes_max
            && self.wire_bytes_with(size) <= self.settings.size_bytes_max
    }

    fn wire_bytes_with(&self, more: usize) -> usize {
        let codec = self.settings.codec;
        HEADER_BYTES
            + match &self.stage {
                Stage::Direct => self.chain.len() + more,
                Stage::Stream => self.codecs.stream_estimate(codec, self.raw_bytes + more),
                Stage::Blocks(raw, _) => {
                    let blocks = Codecs::blocks_bound(codec, raw.filled().len() + more);
                    // The frame's header is in the chain once the first block is.
                    self.chain.len() + Codecs::frame_bytes(codec) + blocks
                }
            }
    }

    #[inline]
    fn put(&mut self, mut bytes: &[u8]) {
        let Stage::Blocks(raw, block_bytes) = &mut self.stage else {
            return self.chain.put(bytes, &self.pool);
        };
        loop {
            let room = (*block_bytes).min(raw.capacity()) - raw.filled().len();
            let count = raw.put(&bytes[..bytes.len().min(room)]);
            bytes = &bytes[count..];
            if raw.filled().len() == *block_bytes {
                self.codecs.block(self.settings.codec, raw.filled(), &mut self.chain, &self.pool);
                raw.clear();
            }
            if bytes.is_empty() {
                return;
            }
            if raw.filled().len() == raw.capacity() {
                // 4, 16, 64 KiB: the block's chunk moves up as it fills.
                let mut larger = self.pool.take(raw.capacity() + 1);
                larger.put(raw.filled());
                *raw = larger;
            }
        }
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of records before compression.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Bytes on the wire if it were sealed now. Exact without compression; an upper bound for lz4 and snappy (exact for
    /// finished blocks); expected from earlier batches for gzip and zstd.
    pub fn wire_bytes_estimate(&self) -> usize {
        self.wire_bytes_with(0)
    }

    /// Bytes of chunks held, by capacity.
    pub fn memory_bytes(&self) -> usize {
        let staged = match &self.stage {
            Stage::Blocks(raw, _) => raw.capacity(),
            Stage::Direct | Stage::Stream => 0,
        };
        self.chain.memory_bytes() + staged
    }

    /// The first record's timestamp.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// Finishes the batch. What compression makes larger is sent raw.
    pub fn seal(self, stamp: Stamp) -> SealedBatch {
        let Self { settings, pool, codecs, stage, mut chain, count, raw_bytes, base_timestamp, max_timestamp, .. } =
            self;
        debug_assert!(count > 0, "an empty batch was sealed");
        let mut codec = settings.codec;
        match stage {
            Stage::Direct => {}
            Stage::Stream => {
                let mut wire = Chain::default();
                // A library that fails for want of memory still leaves us the raw records.
                let compressed: Result<(), CompressError> =
                    codecs.stream(codec, settings.level, &chain, &mut wire, &pool);
                if compressed.is_ok() && wire.len() < raw_bytes {
                    chain = wire;
                } else {
                    codec = Codec::None;
                }
            }
            Stage::Blocks(raw, _) => {
                let only = chain.len() == 0;
                if !raw.filled().is_empty() {
                    codecs.block(codec, raw.filled(), &mut chain, &pool);
                }
                Codecs::end_blocks(codec, &mut chain, &pool);
                if chain.len() >= raw_bytes {
                    let mut plain = Chain::default();
                    if only {
                        plain.put(raw.filled(), &pool);
                        (chain, codec) = (plain, Codec::None);
                    } else if let Some(records) = unpack(codec, &chain) {
                        plain.put(records.bytes(), &pool);
                        (chain, codec) = (plain, Codec::None);
                    }
                }
            }
        }
        let (body, memory_bytes) = chain.freeze();
        let count = count as i32;
        let parts = Parts { body, memory_bytes, codec, count, base_timestamp, max_timestamp, raw_bytes };
        SealedBatch::new(parts, stamp, pool)
    }
}

/// Takes several incompressible blocks apart again: rare, so it may allocate.
fn unpack(codec: Codec, chain: &Chain) -> Option<Unpacked> {
    let mut wire = Vec::with_capacity(chain.len());
    chain.slices().for_each(|slice| wire.extend_from_slice(slice));
    let mut records = Unpacked::new();
    let limit = UNPACKED_BYTES_MAX.max(chain.len().saturating_mul(2));
    Decompressor::new(limit).decompress(codec, 2, &wire, &mut records).ok()?;
    Some(records)
}
