//! What can be wrong with a batch or a record that came from outside.

use super::codec::NotCompiledIn;
use super::compress::DecompressError;

/// A batch that cannot be read, and where it stands in its partition.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bad batch at offset {offset}: {fault}")]
pub struct BadBatch {
    /// The batch's base offset as its header says it (for v0/v1 wrappers, the wrapper's offset).
    pub offset: i64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a batch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The magic byte is none of 0, 1, 2.
    #[error("unknown magic {0}")]
    Magic(i8),
    /// The length field is smaller than an empty batch.
    #[error("length field {0} is too small for a batch")]
    Length(i32),
    /// The record count is negative or more than the bytes can hold.
    #[error("{count} records cannot be in {bytes} bytes")]
    Count {
        /// The count field.
        count: i32,
        /// Bytes of records, decompressed.
        bytes: usize,
    },
    /// The base offset is negative, the last offset delta is negative, or their sum overflows.
    #[error("last offset delta {0} does not fit the base offset")]
    Offsets(i32),
    /// The stored and the computed CRC differ.
    #[error("crc mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Crc {
        /// As in the batch.
        stored: u32,
        /// Over the batch's bytes.
        computed: u32,
    },
    /// Attribute bits 0-2 name no codec.
    #[error("unknown codec number {0}")]
    Codec(u8),
    /// The codec is left out of this build.
    #[error(transparent)]
    NotCompiledIn(#[from] NotCompiledIn),
    /// The records do not decompress.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// A v0/v1 wrapper holds something else than plain messages of its own version.
    #[error("bad wrapper message: {0}")]
    Wrapper(&'static str),
}

/// A record that cannot be read inside a batch whose CRC was right: its producer wrote it wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bad record after offset {after}: {what}")]
pub struct BadRecord {
    /// Offset of the last good record before it, or the batch's base offset - 1.
    pub after: i64,
    /// What is wrong.
    pub what: &'static str,
}
