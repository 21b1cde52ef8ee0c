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
/// More than a frame's header, the lengths of two blocks, and what an incompressible block's own header takes.
const BLOCK_WORDS_MAX: usize = 128;

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
    /// Up to so many raw bytes the batch surely takes: what does not go beyond needs no other check of sizes.
    raw_sure: usize,
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
            raw_sure: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        })
    }

    /// Adds a record: its timestamp in milliseconds since 1970 and its body ([`super::encode_body`]).
    #[inline(always)]
    pub fn append(&mut self, timestamp_ms: i64, body: &[u8]) -> Append {
        let Some(prefix) = self.admit(timestamp_ms, body.len()) else { return Append::Full };
        if !self.write_in_place(&prefix, body.len(), |out| out.copy_from_slice(body)) {
            self.put_slowly(&prefix, body);
        }
        self.took(&prefix, timestamp_ms);
        if self.count < self.count_max { Append::Stored } else { Append::Filled }
    }

    /// Adds a record whose body of `body_len` bytes `write` encodes into place. False: that would need more than room in the
    /// chunk at hand, or be the first or last record; nothing was done, [`BatchBuilder::append`] may do it.
    #[inline(always)]
    pub fn append_in_place(&mut self, timestamp_ms: i64, body_len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        if self.count == 0 || self.count + 1 >= self.count_max {
            return false;
        }
        let Some(prefix) = self.admit(timestamp_ms, body_len) else { return false };
        let done = self.write_in_place(&prefix, body_len, write);
        if done {
            self.took(&prefix, timestamp_ms);
        }
        done
    }

    /// What stands before a record of so many bytes, if the batch takes it.
    #[inline(always)]
    fn admit(&mut self, timestamp_ms: i64, body_len: usize) -> Option<Prefix> {
        let time_delta = if self.count == 0 {
            self.base_timestamp = timestamp_ms;
            0
        } else {
            // Timestamps so far apart that a delta cannot say it go into different batches.
            timestamp_ms.checked_sub(self.base_timestamp)?
        };
        let length = 1 + varlong_len(time_delta) + varint_len(self.count as i32) + body_len;
        let size = varint_len(length as i32) + length;
        let full = self.count >= self.count_max || (self.raw_bytes + size > self.raw_sure && !self.fits(size));
        if full && self.count > 0 {
            return None;
        }
        Some(Prefix { length, time_delta, offset_delta: self.count, size })
    }

    /// As a rule a record goes into one chunk, which it does not fill up: no copy in between, no loop. False: not this one.
    #[inline(always)]
    fn write_in_place(&mut self, prefix: &Prefix, body_len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        let room = PREFIX_BYTES_MAX + body_len;
        let fill = |spare: &mut [u8]| {
            let at = spare.first_chunk_mut().map_or(0, |out| prefix.write(out));
            write(&mut spare[at..at + body_len]);
            at + body_len
        };
        match &mut self.stage {
            Stage::Blocks(raw, block_bytes) => {
                let fits = room < (*block_bytes).min(raw.capacity()) - raw.filled().len();
                if fits {
                    raw.fill(fill);
                }
                fits
            }
            Stage::Direct | Stage::Stream => self.chain.fill(room, fill),
        }
    }

    #[inline(never)]
    fn put_slowly(&mut self, prefix: &Prefix, body: &[u8]) {
        let mut before = [0; PREFIX_BYTES_MAX];
        let at = prefix.write(&mut before);
        self.put(&before[..at]);
        self.put(body);
    }

    #[inline(always)]
    fn took(&mut self, prefix: &Prefix, timestamp_ms: i64) {
        self.count += 1;
        self.raw_bytes += prefix.size;
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
    }

    /// Whether another record of `size` bytes surely fits into the sizes; and how far that goes.
    #[cold]
    fn fits(&mut self, size: usize) -> bool {
        let fits = self.raw_bytes + size <= self.settings.raw_bytes_max
            && self.wire_bytes_with(size) <= self.settings.size_bytes_max;
        if !matches!(self.stage, Stage::Stream) {
            // Twice what is added is more than blocks and their words make of it; the header comes with the first block.
            let room = self.settings.size_bytes_max.saturating_sub(self.wire_bytes_with(0) + BLOCK_WORDS_MAX);
            self.raw_sure = (self.raw_bytes + room / 2).min(self.settings.raw_bytes_max);
        }
        fits
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
                // 4, 16, 32, 64 KiB: the block's chunk moves up as it fills.
                let mut larger = self.pool.take((2 * raw.capacity()).max(CHUNK_SIZES[1]));
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

/// What stands before a record's body.
struct Prefix {
    /// Bytes behind the length itself.
    length: usize,
    time_delta: i64,
    offset_delta: u32,
    /// Bytes of the whole record.
    size: usize,
}

impl Prefix {
    /// Writes length, attributes (none), timestamp delta and offset delta, and says how many bytes that took.
    #[inline(always)]
    fn write(&self, out: &mut [u8; PREFIX_BYTES_MAX]) -> usize {
        let mut at = write_varlong(self.length as i64, out);
        out[at] = 0;
        at += 1;
        at += write_varlong(self.time_delta, &mut out[at..]);
        at + write_varlong(i64::from(self.offset_delta), &mut out[at..])
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
