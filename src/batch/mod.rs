//! Record batches: building, reading, compressing. Public and usable alone.
//!
//! ```text
//!  body (encode_body) ─► BatchBuilder ─ open chunks, compressed block by block ─► SealedBatch = header piece + body pieces
//!
//!  bytes of a Fetch ──► RecordSet ─► BatchView ─ CRC, Decompressor ─► Records ─► RecordView (borrowed)
//!                          │            └ v0/v1 message sets take the same way
//!                          └ a trailing partial batch ends the walk, it is no error
//! ```
//! Knows bytes, batches and records; knows no broker, no time, no retries.
//!
//! Never: allocates per record; trusts a length or a count before checking it against the bytes that are there; hands
//! out a record of a batch whose CRC was not verified; holds more decompressed bytes than the caller allowed.
//!
//! Invariants worth naming:
//! * What was sealed never changes: [`SealedBatch::restamp`] makes a new header piece, because the old one may be in
//!   flight (`d1_01_*`).
//! * The next offset to fetch is a batch's *last offset* + 1; the count of records says nothing about it (`d2_33_*`).
//! * `size_bytes_max` bounds the bytes on the wire with the 61-byte header, not the raw bytes.

mod builder;
mod chain;
mod codec;
pub mod compress;
mod control;
mod crc;
pub mod dump;
mod error;
mod fetched;
pub mod header;
mod legacy;
mod outcome;
mod reader;
mod record;
mod sealed;
#[cfg(test)]
mod tests;
pub mod varint;

pub use builder::{Append, BatchBuilder, BatchSettings};
pub use codec::{Codec, NotCompiledIn, TimestampType, UnknownCodec};
pub use compress::{Codecs, DecompressError, Decompressor, Unpacked};
pub use control::{ControlRecord, Marker, encode_marker};
pub use crc::crc32c;
pub use error::{BadBatch, BadRecord, Fault};
pub use fetched::{Aborted, Fetched, Refusal};
pub use outcome::{Outcome, Reason};
pub use reader::{BatchView, PartialBatch, Payload, RecordSet};
pub use record::{
    Cut, HeaderView, Headers, Mark, RecordView, Records, RecordsHead, body_len, encode_body, encode_body_at,
};
pub use sealed::{SealedBatch, Stamp};
