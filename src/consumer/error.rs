//! What can go wrong for a consumer.

use std::sync::Arc;

use crate::batch::{BadBatch, BadRecord, Refusal};
use crate::engine::EngineError;

/// Why [`super::Consumer::next`] has no batch. The consumer stays usable: other partitions go on, and this one does after
/// a seek (or [`super::Consumer::skip_bad`] for a bad batch).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A batch that cannot be read: wrong CRC, corrupt or unknown compression, more bytes than the limit. The position
    /// stays in front of it.
    #[error("{topic}-{partition}: {bad}")]
    BadBatch {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What is wrong and where.
        bad: BadBatch,
    },
    /// A record that its producer wrote wrong. The records before it were given out; the ones behind it in its batch
    /// cannot be found.
    #[error("{topic}-{partition}: {bad}")]
    BadRecord {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What is wrong and where.
        bad: BadRecord,
    },
    /// The partition does not move.
    #[error("{topic}-{partition}: {why}")]
    Refused {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// Why.
        why: Refusal,
        /// Whether only a seek helps; else it is tried again by itself.
        stopped: bool,
    },
    /// The batches that the application holds take as much memory, decompressed, as `fetch.memory` allows. Drop some and call again:
    /// nothing is lost.
    #[error(
        "{held} bytes of decompressed batches are held, and fetch.memory is {limit}: drop batches before asking for more"
    )]
    TooMuchHeld {
        /// Decompressed bytes, of all consumers of the engine.
        held: usize,
        /// `fetch.memory`.
        limit: usize,
    },
    /// The partition is not assigned to this consumer.
    #[error("{topic}-{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// No start was given and `auto.offset.reset` is `none`.
    #[error("{topic}-{partition}: no offset given, and auto.offset.reset is none")]
    NoStart {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The engine refuses, was closed, or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
