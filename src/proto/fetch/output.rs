//! What a [`super::Fetcher`] says.

use crate::base::ids::{BrokerId, TopicIx, Tp};
use crate::batch::{Fetched, Refusal};

/// What happened, for the consumer or for control.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Bytes came.
    Data(Fetched),
    /// Where reading starts is known now.
    Resolved {
        /// Which partition.
        tp: Tp,
        /// The generation that was looked up.
        generation: u32,
        /// The first offset to be fetched.
        offset: i64,
    },
    /// A partition is in trouble. Told once per kind of trouble.
    Refused {
        /// Which partition.
        tp: Tp,
        /// Its generation.
        generation: u32,
        /// Why.
        why: Refusal,
        /// Whether only a seek gets it going again; else it is tried again.
        stopped: bool,
    },
    /// Metadata of a topic is wanted.
    NeedMetadata {
        /// Which.
        topic: TopicIx,
        /// Whether a broker contradicted what we know, rather than we know nothing.
        stale: bool,
    },
    /// A broker named a partition's leader (KIP-951).
    Leader {
        /// Which partition.
        tp: Tp,
        /// Its leader.
        leader: BrokerId,
        /// The leader's epoch.
        epoch: i32,
        /// Host and port, when the answer had them.
        endpoint: Option<(String, u16)>,
    },
}
