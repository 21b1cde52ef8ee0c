//! The cluster as it was known at one moment. Immutable; shared as `Arc<Snapshot>`.

use std::sync::Arc;

use crate::base::hash::Map;
use crate::base::ids::{BrokerId, TopicIx, Tp, Uuid};
use crate::base::time::Time;
use crate::wire::ErrorCode;

/// One broker and where it listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broker {
    /// Its `node.id`.
    pub id: BrokerId,
    /// Host name or address, as the broker advertises it.
    pub host: String,
    /// Port, 1..=65535.
    pub port: u16,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its leader; none while there is no leader or it is not known.
    pub leader: Option<BrokerId>,
    /// The leader's epoch; -1 where brokers do not say.
    pub leader_epoch: i32,
    /// All replicas.
    pub replicas: Box<[BrokerId]>,
    /// Those in sync.
    pub isr: Box<[BrokerId]>,
    /// Those offline.
    pub offline: Box<[BrokerId]>,
    /// The error of this partition in the last answer; [`ErrorCode::None`] mostly.
    pub error: ErrorCode,
}

impl Partition {
    /// A partition of which nothing is known.
    pub fn unknown() -> Self {
        Self {
            leader: None,
            leader_epoch: -1,
            replicas: Box::default(),
            isr: Box::default(),
            offline: Box::default(),
            error: ErrorCode::None,
        }
    }
}

/// Whether a topic can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicState {
    /// Its partitions are known.
    Known,
    /// Not known (yet): just created, just asked for, or brokers contradict each other. Wait.
    Pending,
    /// It does not exist, beyond the time that propagation may take; or it is forbidden, or its name is invalid. The code
    /// says which. Partitions known earlier are kept.
    Failed(ErrorCode),
}

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Its number in this engine.
    pub ix: TopicIx,
    /// Its name.
    pub name: Arc<str>,
    /// Its id; zero where brokers do not give ids or it is not known yet.
    pub id: Uuid,
    /// How often the id changed: the topic was deleted and made again.
    pub incarnation: u32,
    /// Kafka's own topic (`__consumer_offsets`).
    pub internal: bool,
    /// Whether it can be used.
    pub state: TopicState,
    /// The error in the last answer about it; [`ErrorCode::None`] mostly.
    pub error: ErrorCode,
    /// Since when every answer has had an error; [`Time::NEVER`] without one.
    pub failing_since: Time,
    /// Answers that said so again once [`TopicState::Failed`]: each is news for records that came to wait since.
    pub failures: u32,
    /// By partition index. Empty until known.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// How many partitions there are; 0 until known.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// One partition.
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// The cluster at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Rises with every change.
    pub version: u64,
    /// The cluster's id, once known.
    pub cluster_id: Option<Arc<str>>,
    /// The controller (KRaft: any broker that forwards to it), once known.
    pub controller: Option<BrokerId>,
    /// All brokers, by id.
    pub brokers: Vec<Broker>,
    /// Finalized features and their level, by name.
    pub features: Vec<(String, i16)>,
    /// Epoch of the finalized features; 0 until known.
    pub features_epoch: i64,
    /// Topics in use by their number, so that looking one up is an index.
    pub(super) topics: Vec<Option<Arc<Topic>>>,
    /// Topics in use by id.
    pub(super) by_id: Map<Uuid, TopicIx>,
}

impl Snapshot {
    /// Nothing is known.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A broker by id.
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.binary_search_by_key(&id, |broker| broker.id).ok().map(|at| &self.brokers[at])
    }

    /// A topic in use.
    pub fn topic(&self, ix: TopicIx) -> Option<&Arc<Topic>> {
        self.topics.get(ix.0 as usize)?.as_ref()
    }

    /// A topic in use, by its id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topic(*self.by_id.get(&id)?)
    }

    /// A partition.
    pub fn partition(&self, tp: Tp) -> Option<&Partition> {
        self.topic(tp.topic)?.partition(tp.partition)
    }

    /// The leader of a partition and its epoch, when there is one.
    pub fn leader(&self, tp: Tp) -> Option<(BrokerId, i32)> {
        let partition = self.partition(tp)?;
        partition.leader.map(|leader| (leader, partition.leader_epoch))
    }

    /// All topics in use.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter().flatten()
    }

    /// The finalized level of a feature; 0 when it is not finalized.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.iter().find(|(have, _)| have == name).map_or(0, |(_, level)| *level)
    }
}
