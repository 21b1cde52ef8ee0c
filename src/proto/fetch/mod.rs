//! Fetching: which offsets to ask which broker for, and what the answers mean. No I/O, no clock.
//!
//! ```text
//!   assign, seek, pause ─► Fetcher (one per consumer and shard)
//!                            cursor per partition: offset, generation, leader, share
//!                            session per broker (KIP-227)
//!   snapshot, replies ───►   │
//!                            ├─ next_call ─► Fetch, ListOffsets, OffsetForLeaderEpoch (one of each in flight per broker)
//!                            └─ next_output ─► Data (bytes, next offset), Resolved, Refused, NeedMetadata, Leader
//!
//!   Data ─► Chunk (where the records are wanted) ─ CRC, decompression, aborted ranges ─► batches
//! ```
//! The shard only walks batch headers to learn the next offset; checking and decompressing happen in [`Chunk`], on the
//! caller for a consumer. Never: parses a record, delivers a control batch, keeps bytes.
//!
//! Invariants: the next offset is the last batch's last offset + 1 (`d2_33_*`); an answer counts only for the generation
//! and the offset it was asked for (`d2_48_*`); a partition in trouble waits alone (`d2_50_*`, `d2_53_*`, `d2_36_*`); after a leader change nothing is
//! fetched before the new leader's log is known to hold what was read (`d2_42_*`, `d2_43_*`).

mod aborted;
mod chunk;
mod cursor;
mod epochs;
mod fetcher;
mod lookup;
mod output;
mod session;
mod too_large;

#[cfg(test)]
mod tests;

pub use aborted::AbortedRanges;
pub use chunk::{Chunk, Found, Skipped};
pub use fetcher::{FetchCall, FetchVersions, Fetcher, Want};
pub use output::Output;
