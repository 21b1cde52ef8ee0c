//! What a fetch brings of one partition, on its way from the shard that asked for it to whoever reads it.

use bytes::Bytes;

use crate::base::ids::Tp;
use crate::wire::ErrorCode;

/// An aborted transaction as a Fetch answer lists it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Aborted {
    /// Its first offset in the partition.
    pub first_offset: i64,
    /// Whose.
    pub producer_id: i64,
}

/// Bytes of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// Which.
    pub tp: Tp,
    /// The generation they were asked for.
    pub generation: u32,
    /// The offset asked for: records before it are not wanted.
    pub offset: i64,
    /// Where fetching goes on.
    pub next_offset: i64,
    /// Batches, the last one possibly cut off. Shares the answer's memory.
    pub records: Bytes,
    /// Aborted transactions among them; empty under `read_uncommitted`.
    pub aborted: Vec<Aborted>,
    /// First offset not yet replicated everywhere.
    pub high_watermark: i64,
    /// First offset of an open transaction; -1 where the broker does not say.
    pub last_stable_offset: i64,
    /// First offset that still exists; -1 where the broker does not say.
    pub log_start_offset: i64,
}

/// Why a partition does not move until somebody does something about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The offset does not exist and the policy is to ask the application (`auto.offset.reset=none`).
    #[error("offset {offset} is out of range and auto.offset.reset is none")]
    OutOfRange {
        /// The offset asked for.
        offset: i64,
    },
    /// The topic was deleted and made again; its offsets mean something else now.
    #[error("the topic was deleted and made again")]
    Recreated,
    /// Data loss: the log no longer holds what was read from it. Records from `to` on, which may have been given out, are
    /// gone or others now (an unclean leader election). Reading goes on at `to`, or after a seek when `auto.offset.reset` is
    /// `none` (KIP-320).
    #[error("the log was truncated: read up to offset {offset}, the same only up to {to}")]
    Truncated {
        /// Where fetching stood.
        offset: i64,
        /// The end of what is still as it was.
        to: i64,
    },
    /// The broker refuses for good; it is asked again now and then.
    #[error("the broker answers {}", .0.name())]
    Broker(ErrorCode),
    /// A batch that is larger than every limit and was cut off.
    #[error("the batch at offset {offset} was cut off at {have} bytes")]
    Oversized {
        /// The offset asked for.
        offset: i64,
        /// Bytes that came.
        have: usize,
        /// Its size, if its length field came.
        want: Option<usize>,
    },
    /// The next batch makes an answer that is larger than `receive.message.max.bytes`, even alone. It was not received, and is not
    /// asked for again until a seek.
    #[error(
        "the batch at offset {offset} makes an answer of {bytes} bytes, more than receive.message.max.bytes = {limit}: raise that \
             (and have {bytes} bytes of memory to spare), or seek past the batch"
    )]
    TooLarge {
        /// The offset asked for.
        offset: i64,
        /// Bytes of the answer's frame.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The broker sends batches that end before the offset asked for.
    #[error("the broker sends nothing at or behind offset {offset}")]
    NoProgress {
        /// The offset asked for.
        offset: i64,
    },
}
