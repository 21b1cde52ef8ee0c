//! How the records of a batch end: said by the produce machine, carried by the mesh, heard by the user.

use crate::wire::ErrorCode;

/// How a record ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// In the log, as far as `acks` promises.
    Delivered {
        /// Offset of the first record it is said of; -1 when no broker told (acks=0, a recognised duplicate).
        offset: i64,
        /// The broker's append time where the topic is set so; -1: the record's own timestamp holds.
        timestamp_ms: i64,
    },
    /// Surely not in the log.
    Failed(Reason),
    /// It may or may not be in the log.
    Unknown(Reason),
}

/// Why a record was not delivered, or may not have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A broker's error code.
    Broker(ErrorCode),
    /// `delivery.timeout.ms` passed; the last broker error about its partition or topic, or [`ErrorCode::None`] when no
    /// broker said anything against it (none could be reached, or none answered).
    Timeout(ErrorCode),
    /// `delivery.timeout.ms` passed and no broker ever told anything about the topic: none could be reached.
    NoMetadata,
    /// One record larger than the topic takes: its bytes before compression and on the wire (d1-11).
    TooLarge {
        /// Bytes of the batch before compression.
        raw: u32,
        /// Bytes of the batch on the wire.
        wire: u32,
    },
    /// The connection ended before an answer, and nothing is retried (acks=0).
    ConnectionLost,
    /// The producer or the engine was closed first.
    Closed,
    /// A thread of the engine failed first; closing the engine says why.
    EngineFailed,
    /// The partition does not exist.
    NoSuchPartition,
    /// No producer id could be had.
    NoProducerId(ErrorCode),
    /// The record cannot be put into any batch.
    Invalid,
}
