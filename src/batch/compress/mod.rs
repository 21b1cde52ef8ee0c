//! The codecs, with state that is reused: [`Codecs`] to compress (one per core), [`Decompressor`] to decompress.
//!
//! ```text
//!   lz4, snappy   blocks, each compressed as it fills     raw block ─► Codecs ─► wire chunks
//!   gzip, zstd    one stream, fed at sealing in slices    raw chunks ─► Codecs ─► wire chunks
//!
//!   any payload ─► Decompressor (limit) ─► Unpacked
//! ```
//! Never: allocates by a size that the input declares; what a codec claims is checked against what its format could
//! make of the bytes that are there, and growth stops at the limit. Every codec sits behind its cargo feature.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
mod unpacked;
#[cfg(feature = "zstd")]
mod zstd;

use std::cell::RefCell;
use std::rc::Rc;

use super::chain::Chain;
use super::codec::{Codec, NotCompiledIn};
use crate::base::chunk::ChunkPool;
pub use unpacked::Unpacked;

/// Largest slice that a stream codec is fed at once, in bytes.
pub const SLICE_BYTES: usize = 64 << 10;
/// Default limit of decompressed bytes per batch: 64 MiB.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;

/// Compressed bytes that do not decompress.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// The codec is left out of this build.
    #[error(transparent)]
    NotCompiledIn(#[from] NotCompiledIn),
    /// More bytes than the limit would come out.
    #[error("more than {limit} bytes decompressed")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The bytes are not what the codec writes.
    #[error("corrupt {codec} data: {what}")]
    Corrupt {
        /// The codec.
        codec: Codec,
        /// What is wrong.
        what: &'static str,
    },
}

/// A library refused to compress, which it does for want of memory only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{codec} compression failed: {what}")]
pub struct CompressError {
    /// The codec.
    pub codec: Codec,
    /// What the library says.
    pub what: &'static str,
}

/// The compression state of one core: made at first use, reused for every batch. Clones share it.
#[derive(Clone, Default)]
pub struct Codecs(Rc<RefCell<Compressors>>);

impl std::fmt::Debug for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codecs")
    }
}

#[derive(Default)]
struct Compressors {
    #[cfg(feature = "gzip")]
    gzip: Option<gzip::Compressor>,
    #[cfg(feature = "snappy")]
    snappy: Option<snappy::Compressor>,
    #[cfg(feature = "lz4")]
    lz4: Option<lz4::Compressor>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Compressor>,
    /// Wire bytes per raw byte that the stream codecs are expected to give.
    ratios: [Option<f32>; Codec::ALL.len()],
}

impl Codecs {
    /// No state yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one block of a block codec (lz4: at most 65,536 bytes; snappy: at most 32 KiB) with its length, stored raw
    /// when that is not larger and the format can say so. Writes the frame's header before the first one.
    pub(super) fn block(&self, codec: Codec, raw: &[u8], wire: &mut Chain, pool: &ChunkPool) {
        let state = &mut *self.0.borrow_mut();
        let _ = (&state, raw, &wire, pool);
        match codec {
            #[cfg(feature = "snappy")]
            Codec::Snappy => state.snappy.get_or_insert_default().block(raw, wire, pool),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => state.lz4.get_or_insert_default().block(raw, wire, pool),
            _ => {}
        }
    }

    /// Ends what [`Codecs::block`] wrote.
    pub(super) fn end_blocks(codec: Codec, wire: &mut Chain, pool: &ChunkPool) {
        let _ = (&wire, pool);
        match codec {
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::end(wire, pool),
            _ => {}
        }
    }

    /// Most bytes that `raw_bytes` in blocks take on the wire besides the frame header.
    pub(super) fn blocks_bound(codec: Codec, raw_bytes: usize) -> usize {
        let _ = raw_bytes;
        match codec {
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::bound(raw_bytes),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::bound(raw_bytes),
            _ => raw_bytes,
        }
    }

    /// Raw bytes of a full block, for the block codecs.
    pub(super) const fn block_bytes(codec: Codec) -> Option<usize> {
        match codec {
            #[cfg(feature = "snappy")]
            Codec::Snappy => Some(snappy::BLOCK_BYTES),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => Some(lz4::BLOCK_BYTES),
            _ => None,
        }
    }

    /// Bytes of the frame header that comes before the first block and the mark behind the last.
    pub(super) const fn frame_bytes(codec: Codec) -> usize {
        match codec {
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::HEADER_BYTES,
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::FRAME_BYTES,
            _ => 0,
        }
    }

    /// Compresses all of `raw` with a stream codec.
    pub(super) fn stream(
        &self,
        codec: Codec,
        level: i32,
        raw: &Chain,
        wire: &mut Chain,
        pool: &ChunkPool,
    ) -> Result<(), CompressError> {
        let state = &mut *self.0.borrow_mut();
        let _ = (level, raw, &wire, pool);
        let done = match codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => state.gzip.get_or_insert_default().stream(level, raw, wire, pool),
            #[cfg(feature = "zstd")]
            Codec::Zstd => match &mut state.zstd {
                Some(zstd) => zstd.stream(level, raw, wire, pool),
                none => zstd::Compressor::new().and_then(|zstd| none.insert(zstd).stream(level, raw, wire, pool)),
            },
            _ => Err("not a stream codec"),
        };
        done.map_err(|what| CompressError { codec, what })?;
        if raw.len() > 0 {
            let seen = wire.len() as f32 / raw.len() as f32;
            let ratio = &mut state.ratios[codec as usize];
            // Quick to believe that batches got larger, slow to believe that they got smaller.
            *ratio = Some(match *ratio {
                Some(old) if seen < old => old + (seen - old) * 0.2,
                _ => seen,
            });
        }
        Ok(())
    }

    /// What a stream codec is expected to make of `raw_bytes`, with a margin of 5 %; nothing is expected of it before
    /// the first batch.
    pub(super) fn stream_estimate(&self, codec: Codec, raw_bytes: usize) -> usize {
        match self.0.borrow().ratios[codec as usize] {
            Some(ratio) => (raw_bytes as f32 * (ratio * 1.05).min(1.0)) as usize + 64,
            None => raw_bytes,
        }
    }
}

/// Decompression state that is reused, with a hard limit of bytes per batch.
#[derive(Default)]
pub struct Decompressor {
    limit: usize,
    #[cfg(feature = "gzip")]
    gzip: Option<gzip::Inflater>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Inflater>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Decompressor {
    /// A decompressor that refuses batches of more than `limit` decompressed bytes.
    #[allow(clippy::needless_update, reason = "without any codec `limit` is the only field")]
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Appends to `out` what `input`, a payload of a batch of version `magic`, decompresses to.
    pub fn decompress(
        &mut self,
        codec: Codec,
        magic: i8,
        input: &[u8],
        out: &mut Unpacked,
    ) -> Result<(), DecompressError> {
        codec.require()?;
        out.limit(self.limit);
        let _ = magic;
        let corrupt = |what| match what {
            Trouble::TooLarge => DecompressError::TooLarge { limit: self.limit },
            Trouble::Corrupt(what) => DecompressError::Corrupt { codec, what },
        };
        match codec {
            Codec::None => out.put(input),
            #[cfg(feature = "gzip")]
            Codec::Gzip => self.gzip.get_or_insert_default().unpack(input, out),
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::unpack(input, out),
            // Java's v0 producers computed the header checksum over the wrong bytes (KAFKA-3160).
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::unpack(input, magic > 0, out),
            #[cfg(feature = "zstd")]
            Codec::Zstd => match &mut self.zstd {
                Some(zstd) => zstd.unpack(input, out),
                none => zstd::Inflater::new().and_then(|zstd| none.insert(zstd).unpack(input, out)),
            },
            #[allow(unreachable_patterns)]
            _ => Err(Trouble::Corrupt("not compiled in")),
        }
        .map_err(corrupt)
    }
}

/// Why a codec stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    TooLarge,
    #[cfg_attr(not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")), allow(dead_code))]
    Corrupt(&'static str),
}
