//! Consumers: reading partitions, batch by batch, record by record.
//!
//! ```text
//!   Consumer::next ──► Batch ── for record in &batch ──► Record (borrowed: key, value, headers)
//!      │  ▲               │ iterated, exhausted, done          │ to_owned ──► OwnedRecord ── done()
//!      │  │               ▼                                    ▼
//!      │  └ shards      processed: the contiguous prefix, the only thing that may be committed
//!      └ position: what comes next
//! ```
//! A batch is checked and decompressed where `next` is called; records are parsed as they are asked for and borrow from
//! the batch's memory, which goes back when the batch is dropped.
//!
//! Never: allocates per record, makes a group call for a manual assignment, moves *processed* in a drop.
//!
//! Invariants (design §3.1): record i is processed when the iterator is asked for i+1, a batch when `next` is called after
//! it was exhausted, an owned record by [`OwnedRecord::done`]; `?`, `break`, a panic or a dropped future leave the current
//! record unprocessed (`r01_*`); nothing is given out for a partition that was seeked or revoked since (`d2_48_*`).

mod batch;
mod builder;
mod error;
mod handle;
mod local;
mod progress;

#[cfg(all(test, not(loom)))]
mod tests;

pub use batch::{Batch, Iter, OwnedRecord, Record};
pub use builder::{Assign, ConsumerBuilder};
pub use error::ConsumeError;
pub use handle::Consumer;
pub use local::LocalConsumer;

pub use crate::batch::{HeaderView, Headers};
pub use crate::config::{AutoOffsetReset, ConsumerSettings, IsolationLevel, StartAt};
