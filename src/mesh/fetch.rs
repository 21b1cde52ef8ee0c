//! What consumers tell the shards that fetch for them, and what those tell the consumers.

use std::sync::Arc;

use super::MailboxSender;
use crate::base::ids::{ConsumerIx, Tp};
use crate::batch::{Fetched, Refusal};
use crate::config::{ConsumerSettings, StartAt};

/// From a consumer to one shard. Each sender's order is kept.
#[derive(Debug)]
pub enum FetchCommand {
    /// A consumer exists from now on; comes before everything else of it.
    AddConsumer {
        /// Its number.
        consumer: ConsumerIx,
        /// Checked settings.
        settings: Arc<ConsumerSettings>,
        /// Where its data goes.
        events: MailboxSender<FetchEvent>,
    },
    /// Read a partition from here on; one that is read already starts over (a seek).
    Assign {
        /// Whose.
        consumer: ConsumerIx,
        /// Which.
        tp: Tp,
        /// Rises with each assignment and seek of a consumer; what comes carries it.
        generation: u32,
        /// Where.
        start: StartAt,
    },
    /// Read a partition no more.
    Unassign {
        /// Whose.
        consumer: ConsumerIx,
        /// Which.
        tp: Tp,
    },
    /// Stop or go on.
    Pause {
        /// Whose.
        consumer: ConsumerIx,
        /// Which.
        tp: Tp,
        /// Stop.
        paused: bool,
    },
    /// The consumer has begun to read this much of what came: more may be fetched.
    Taken {
        /// Whose.
        consumer: ConsumerIx,
        /// Which.
        tp: Tp,
        /// As it came.
        generation: u32,
        /// Bytes.
        bytes: usize,
        /// The consumer had nothing to read before it came.
        waited: bool,
    },
    /// The consumer is gone.
    RemoveConsumer {
        /// Which.
        consumer: ConsumerIx,
    },
}

/// From a shard to a consumer.
#[derive(Debug)]
pub enum FetchEvent {
    /// Bytes of one partition.
    Data(Fetched),
    /// Where reading starts is known now.
    Resolved {
        /// Which partition.
        tp: Tp,
        /// As asked.
        generation: u32,
        /// The first offset to come.
        offset: i64,
    },
    /// A partition is in trouble.
    Refused {
        /// Which partition.
        tp: Tp,
        /// As asked.
        generation: u32,
        /// Why.
        why: Refusal,
        /// Whether only a seek helps.
        stopped: bool,
    },
}
