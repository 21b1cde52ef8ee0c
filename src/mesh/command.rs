//! What control and the handles tell a shard, and what a shard tells control. Plain values through mailboxes; a record
//! never travels here.
//!
//! ```text
//!  engine, control ── ShardCommand ──► shard      shard ── ShardEvent ──► control
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use super::FetchCommand;
use super::{CompletionWriter, LaneReader};
use crate::base::ids::{BrokerId, ProducerIx, ShardIx, TopicIx, Tp};
use crate::base::time::Time;
use crate::batch::{Outcome, Reason};
use crate::config::ProducerSettings;

/// Chooses partitions in place of the built-in partitioner.
pub trait Partitioner: Send + Sync + std::fmt::Debug {
    /// The partition, `0..partitions`, for a record of `topic`. Called where the record is sent, or on its home shard when
    /// the topic's metadata was not known yet; it must not block. An answer out of range fails the record.
    fn partition(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, partitions: i32) -> i32;
}

/// What a shard is told.
#[derive(Debug)]
pub enum ShardCommand {
    /// A producer exists from now on.
    AddProducer {
        /// Its number.
        producer: ProducerIx,
        /// Checked settings.
        settings: Arc<ProducerSettings>,
        /// The user's partitioner, for records of unknown topics.
        partitioner: Option<Arc<dyn Partitioner>>,
    },
    /// A handle opened a lane to this shard; its producer was added before.
    AddLane(NewLane),
    /// The producer id asked for with [`ShardEvent::NeedProducerId`].
    ProducerId {
        /// Whose.
        producer: ProducerIx,
        /// The id, or why there is none; refusals that are worth another try are tried again by control first.
        grant: Result<ProducerIdGrant, Refusal>,
    },
    /// The addresses asked for with [`ShardEvent::NeedAddresses`].
    Addresses {
        /// Whose.
        broker: BrokerId,
        /// At least one, in the order to try, or why the name did not resolve.
        addresses: Result<Vec<SocketAddr>, String>,
    },
    /// From a consumer, for the fetch side.
    Fetch(FetchCommand),
    /// A newer cluster snapshot is in the cell. Only a wake: shards look at the cell's version each turn.
    SnapshotChanged,
    /// Settle everything until the deadline, then fail what is left (surely not written, or unknown), close the links and
    /// answer [`ShardEvent::Stopped`].
    Stop {
        /// When to give up.
        deadline: Time,
        /// What ends records that are left then: [`Reason::Closed`] or [`Reason::EngineFailed`].
        why: Reason,
    },
}

/// A lane's shard side.
#[derive(Debug)]
pub struct NewLane {
    /// Whose records it carries.
    pub producer: ProducerIx,
    /// Where they come from.
    pub reader: LaneReader,
    /// Where outcomes go.
    pub completions: CompletionWriter<Completion>,
}

/// What a handle hears of its lane's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Neighbouring records ended alike. Sent for runs in which a record is tracked.
    Records {
        /// The partition their tickets count under; partition -1 for those sent unplaced.
        space: Tp,
        /// The partition they went to; -1 when they were never placed.
        partition: i32,
        /// The first one's ticket.
        first: u64,
        /// How many.
        count: u32,
        /// How they ended; the offset is the first one's.
        outcome: Outcome,
    },
    /// All that came before a flush mark has ended.
    Flushed {
        /// The mark's id.
        id: u64,
        /// Records of the lane that failed so far, surely not written.
        failed: u64,
        /// Records of the lane that ended unknown so far.
        unknown: u64,
    },
}

/// An idempotent producer's identity on one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerIdGrant {
    /// `producerId`, at least 0.
    pub id: i64,
    /// `producerEpoch`, at least 0.
    pub epoch: i16,
}

/// Why control could not get something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Kafka's error code, or 0 when no broker answered.
    pub code: i16,
    /// The broker's words or ours.
    pub message: String,
}

/// Why a shard asks for metadata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MetadataReason {
    /// A record's topic is not in the snapshot.
    UnknownTopic,
    /// A partition has no leader in the snapshot, or its leader cannot be reached.
    NoLeader,
    /// A broker said that it does not lead a partition (or does not know it), without naming the leader.
    StaleLeader,
    /// A broker knows the topic under another id: deleted and made again.
    StaleTopicId,
}

/// A broker's own word on who leads a partition (KIP-951).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderHint {
    /// Which partition.
    pub tp: Tp,
    /// Its leader.
    pub leader: BrokerId,
    /// The leader's epoch.
    pub epoch: i32,
    /// Host and port of that leader, when the answer had them.
    pub endpoint: Option<(String, u16)>,
}

/// What control is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardEvent {
    /// Metadata of these topics is wanted, now: control applies its own backoff.
    NeedMetadata {
        /// Which topics.
        topics: Vec<TopicIx>,
        /// Why.
        why: MetadataReason,
    },
    /// A leader as a broker named it: merge it into the snapshot unless its epoch is older.
    Leader(LeaderHint),
    /// An idempotent producer has records on this shard and no id, or its epochs ran out, or its id became unknown.
    NeedProducerId {
        /// Who.
        shard: ShardIx,
        /// Whose.
        producer: ProducerIx,
        /// The id and epoch it had, if any: a new epoch of the same id is fine, where the broker grants it.
        previous: Option<ProducerIdGrant>,
    },
    /// A broker's name has to be resolved.
    NeedAddresses {
        /// Who.
        shard: ShardIx,
        /// Whose addresses.
        broker: BrokerId,
        /// Its host, as the snapshot has it.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A link broke or could not be opened; the shard tries again by itself. Control refreshes metadata.
    LinkFailed {
        /// Who.
        shard: ShardIx,
        /// Whose.
        broker: BrokerId,
        /// What happened.
        why: String,
    },
    /// The shard has stopped as told; nothing comes after this.
    Stopped {
        /// Who.
        shard: ShardIx,
    },
    /// The shard cannot go on; every pending record has ended as unknown. Nothing comes after this.
    Failed {
        /// Who.
        shard: ShardIx,
        /// What happened.
        why: String,
    },
}
