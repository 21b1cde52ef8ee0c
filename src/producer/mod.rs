//! What users send records with.
//!
//! ```text
//!   Record ─► Producer (clones share one lane set under an uncontended lock) ─┐
//!          └► Lane (its own lane set, no lock, `&mut self`) ─────────────────┴─► core: partition, budget, encode ─► shard
//!   LocalProducer: a Lane whose thread runs the shard where others park
//!   Sent, callbacks, flush ◄─ inbox ◄─ completions ◄──────────────────────────────────────────────────────────── shard
//! ```
//! Knows records, outcomes and waiting; knows no socket, no frame. Never: copies a record more than once; holds a lock while
//! user code runs; retains anything of a record whose outcome nobody asked for.
//!
//! Invariants: what was accepted ends in exactly one outcome, delivered, failed (surely not written) or unknown; outcomes
//! of one partition come in order (`r05_*`); records sent by one lane, or by clones in happens-before order, stay in order
//! per partition (`r06_*`); dropping any future here loses nothing but the wait.

// A rejected record goes back as it came, without an allocation.
#![allow(clippy::result_large_err)]

mod blocked;
mod core;
mod handle;
mod inbox;
mod local;
mod record;
mod sent;

pub use handle::{Lane, Producer, ProducerBuilder};
pub use inbox::Losses;
pub use local::{LocalProducer, LocalSent};
pub use record::{Record, RejectReason, Rejected, TopicRef};
pub use sent::Sent;

pub use crate::batch::Reason;
pub use crate::mesh::command::Partitioner;

/// Where a record ended up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Its partition.
    pub partition: i32,
    /// Its offset; `None` when no broker told (acks=0, or a duplicate that the broker recognised).
    pub offset: Option<i64>,
    /// Its timestamp in the log, milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// Why a record was not delivered, or may not have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// It is surely not in the log: sending it again makes no duplicate.
    #[error("not delivered: {}", reason_text(.0))]
    Failed(Reason),
    /// It may be in the log or not: sending it again may make a duplicate.
    #[error("outcome unknown: {}", reason_text(.0))]
    Unknown(Reason),
}

/// A record's outcome.
pub type DeliveryResult = Result<Delivered, DeliveryError>;

/// Why a flush or a close did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FlushError {
    /// The time was up first; records are still on their way, and keep their own deadlines.
    #[error("not all records were settled in time; they keep their own delivery.timeout.ms")]
    Timeout,
    /// A thread of the engine failed with records on their way: nobody knows how those ended that were not flushed before
    /// (their callbacks and futures say so one by one). [`crate::engine::Engine::close`] says why.
    #[error("the engine failed; records that were not flushed before may or may not have been written")]
    EngineFailed,
}

fn reason_text(reason: &Reason) -> String {
    match reason {
        Reason::Broker(code) => format!("the broker said {}: {}", code.name(), code.text()),
        Reason::Timeout(code) if code.code() == 0 => "delivery.timeout.ms passed; no broker answered".to_owned(),
        Reason::NoMetadata => "delivery.timeout.ms passed; no broker could be asked about the topic".to_owned(),
        Reason::Timeout(code) => format!("delivery.timeout.ms passed; the broker last said {}", code.name()),
        Reason::TooLarge { raw, wire } => {
            format!("the topic takes no record of {raw} bytes ({wire} bytes on the wire): see its max.message.bytes")
        }
        Reason::ConnectionLost => "the connection ended, and acks=0 has no retries".to_owned(),
        Reason::Closed => "the producer was closed first".to_owned(),
        Reason::EngineFailed => "a thread of the engine failed first".to_owned(),
        Reason::NoSuchPartition => "the partition does not exist".to_owned(),
        Reason::NoProducerId(code) => format!("no producer id for idempotence: {}", code.name()),
        Reason::Invalid => "the record fits into no batch".to_owned(),
    }
}
