//! From what brokers say to the next snapshot.

use std::sync::Arc;
use std::time::Duration;

use super::names::TopicNames;
use super::snapshot::{Broker, Partition, Snapshot, Topic, TopicState};
use crate::base::hash::{Map, Set};
use crate::base::ids::{BrokerId, TopicIx, Tp, Uuid};
use crate::base::time::Time;
use crate::wire::messages::MetadataResponse;
use crate::wire::messages::metadata::response::{MetadataResponsePartition, MetadataResponseTopic};
use crate::wire::{ErrorCode, Verdict};

/// After so many answers in a row with an older leader epoch (or fewer partitions), the newest answer wins: the cluster was
/// restored, or is no Kafka (d2-44; franz-go allows 5 as well).
pub const STALE_MAX: u8 = 5;
/// The most brokers that are believed.
const BROKERS_MAX: usize = 100_000;

/// A Metadata answer that is an error as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", .0.text())]
pub struct MetadataError(pub ErrorCode);

/// What a merge changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// There is a new snapshot.
    pub changed: bool,
    /// Brokers that are gone, or listen elsewhere now: their connections close (d4-74).
    pub brokers_moved: Vec<BrokerId>,
    /// Topics whose id changed (d1-17).
    pub recreated: Vec<TopicIx>,
    /// Topics that have no usable answer yet, or partitions without a leader: ask again.
    pub incomplete: Vec<TopicIx>,
    /// The answer came from another cluster than before.
    pub other_cluster: bool,
}

/// Keeps the newest snapshot and merges what brokers say into the next.
#[derive(Debug)]
pub struct Cluster {
    current: Arc<Snapshot>,
    /// Answers in a row that were older than what is known, per partition.
    stale: Map<Tp, u8>,
    /// Answers in a row with fewer partitions than known, per topic.
    shrunk: Map<TopicIx, u8>,
    propagation_max: Duration,
}

impl Cluster {
    /// Nothing known. `propagation_max`: how long a topic may be unknown to brokers before that is believed (d1-16).
    pub fn new(propagation_max: Duration) -> Self {
        Self { current: Arc::new(Snapshot::empty()), stale: Map::default(), shrunk: Map::default(), propagation_max }
    }

    /// What is known now.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// A Metadata answer. Topics that nobody interned are passed over.
    pub fn on_metadata(
        &mut self,
        now: Time,
        answer: &MetadataResponse,
        names: &TopicNames,
    ) -> Result<Change, MetadataError> {
        let code = ErrorCode::from(answer.error_code);
        if code != ErrorCode::None {
            return Err(MetadataError(code));
        }
        let mut change = Change::default();
        let mut next = Snapshot::clone(&self.current);
        self.merge_brokers(answer, &mut next, &mut change);
        for topic in &answer.topics {
            let known = match &topic.name {
                Some(name) => names.get(name),
                None => next.by_id.get(&topic.topic_id).copied(),
            };
            if let Some(ix) = known
                && let Some(name) = names.name(ix)
            {
                self.merge_topic(now, ix, name, topic, &mut next, &mut change);
            }
        }
        self.publish(next, &mut change);
        Ok(change)
    }

    /// A broker's own word on who leads a partition (KIP-951), for a topic under `topic_id` if that is known. False when it
    /// is not newer than what is known: nothing changes.
    pub fn on_leader_hint(&mut self, tp: Tp, leader: BrokerId, epoch: i32, endpoint: Option<(&str, u16)>) -> Change {
        let mut change = Change::default();
        // Equal epochs have equal leaders; a lower one is old news, and -1 is no news at all.
        let known = self.current.partition(tp).map_or(i32::MAX, |partition| partition.leader_epoch);
        if epoch <= known || leader.0 < 0 {
            return change;
        }
        let mut next = Snapshot::clone(&self.current);
        if let Some((host, port)) = endpoint
            && !host.is_empty()
            && port != 0
        {
            let rack = next.broker(leader).and_then(|broker| broker.rack.clone());
            let broker = Broker { id: leader, host: host.to_owned(), port, rack };
            match next.brokers.binary_search_by_key(&leader, |broker| broker.id) {
                Ok(at) if next.brokers[at] == broker => {}
                Ok(at) => {
                    next.brokers[at] = broker;
                    change.brokers_moved.push(leader);
                }
                Err(at) if next.brokers.len() < BROKERS_MAX => next.brokers.insert(at, broker),
                Err(_) => {}
            }
        }
        if next.broker(leader).is_none() {
            // A leader whose address nobody knows is of no use: ask for metadata instead.
            change.incomplete.push(tp.topic);
            return change;
        }
        if let Some(topic) = next.topics.get_mut(tp.topic.0 as usize).and_then(Option::as_mut)
            && let Some(partition) =
                usize::try_from(tp.partition).ok().and_then(|index| Arc::make_mut(topic).partitions.get_mut(index))
        {
            partition.leader = Some(leader);
            partition.leader_epoch = epoch;
            partition.error = ErrorCode::None;
            self.stale.remove(&tp);
        }
        self.publish(next, &mut change);
        change
    }

    /// A handshake told the cluster's finalized features. Older epochs are ignored.
    pub fn on_features(&mut self, epoch: i64, features: &[(String, i16)]) -> Change {
        let mut change = Change::default();
        if epoch > self.current.features_epoch || (self.current.features.is_empty() && !features.is_empty()) {
            let mut next = Snapshot::clone(&self.current);
            next.features = features.to_vec();
            next.features_epoch = epoch;
            self.publish(next, &mut change);
        }
        change
    }

    /// A topic is in use from now on: it is listed as pending until brokers say more.
    pub fn on_wanted(&mut self, now: Time, ix: TopicIx, names: &TopicNames) -> Change {
        let mut change = Change::default();
        if self.current.topic(ix).is_none()
            && let Some(name) = names.name(ix)
        {
            let mut next = Snapshot::clone(&self.current);
            put_topic(&mut next, pending(now, ix, name));
            self.publish(next, &mut change);
        }
        change
    }

    /// A topic is not in use any more.
    pub fn forget(&mut self, ix: TopicIx) -> Change {
        let mut change = Change::default();
        if let Some(topic) = self.current.topic(ix) {
            let mut next = Snapshot::clone(&self.current);
            next.by_id.remove(&topic.id);
            next.topics[ix.0 as usize] = None;
            self.stale.retain(|tp, _| tp.topic != ix);
            self.shrunk.remove(&ix);
            self.publish(next, &mut change);
        }
        change
    }

    fn publish(&mut self, mut next: Snapshot, change: &mut Change) {
        if next != *self.current {
            next.version = self.current.version + 1;
            self.current = Arc::new(next);
            change.changed = true;
        }
    }

    fn merge_brokers(&self, answer: &MetadataResponse, next: &mut Snapshot, change: &mut Change) {
        let mut brokers: Vec<Broker> = answer
            .brokers
            .iter()
            .take(BROKERS_MAX)
            .filter_map(|broker| {
                let port = u16::try_from(broker.port).ok().filter(|port| *port != 0)?;
                (broker.node_id >= 0 && !broker.host.is_empty()).then(|| Broker {
                    id: BrokerId(broker.node_id),
                    host: broker.host.clone(),
                    port,
                    rack: broker.rack.clone(),
                })
            })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        brokers.dedup_by_key(|broker| broker.id);
        // A broker that is starting may know nobody; that is no reason to forget all.
        if !brokers.is_empty() {
            for old in &next.brokers {
                let same = |new: &Broker| new.host == old.host && new.port == old.port;
                if !brokers.binary_search_by_key(&old.id, |new| new.id).is_ok_and(|at| same(&brokers[at])) {
                    change.brokers_moved.push(old.id);
                }
            }
            next.brokers = brokers;
        }
        if answer.controller_id >= 0 {
            next.controller = Some(BrokerId(answer.controller_id));
        }
        if let Some(id) = answer.cluster_id.as_deref().filter(|id| !id.is_empty())
            && next.cluster_id.as_deref() != Some(id)
        {
            change.other_cluster = next.cluster_id.is_some();
            next.cluster_id = Some(id.into());
        }
    }

    fn merge_topic(
        &mut self,
        now: Time,
        ix: TopicIx,
        name: Arc<str>,
        answer: &MetadataResponseTopic,
        next: &mut Snapshot,
        change: &mut Change,
    ) {
        let code = ErrorCode::from(answer.error_code);
        let mut topic = next.topic(ix).map_or_else(|| pending(now, ix, name), |topic| Topic::clone(topic));
        topic.error = code;
        if code != ErrorCode::None {
            topic.failing_since = topic.failing_since.min(now);
            topic.state = self.state_of(now, &topic, code);
            if let TopicState::Failed(_) = topic.state {
                // A snapshot that differs in nothing else would not be published, and nobody would fail those records.
                topic.failures = topic.failures.wrapping_add(1);
            }
            if topic.state == TopicState::Pending || matches!(code.verdict(), Verdict::RefreshLeader | Verdict::Retry) {
                change.incomplete.push(ix);
            }
            put_topic(next, topic);
            return;
        }
        topic.failing_since = Time::NEVER;
        topic.failures = 0;
        topic.state = TopicState::Known;
        topic.internal = answer.is_internal;
        if !answer.topic_id.is_zero() && answer.topic_id != topic.id {
            next.by_id.remove(&topic.id);
            if !topic.id.is_zero() {
                // Deleted and made again: nothing known of the old one holds for the new one.
                topic.incarnation += 1;
                topic.partitions.clear();
                self.stale.retain(|tp, _| tp.topic != ix);
                self.shrunk.remove(&ix);
                change.recreated.push(ix);
            }
            topic.id = answer.topic_id;
            next.by_id.insert(topic.id, ix);
        }
        let complete = self.merge_partitions(&mut topic, &answer.partitions);
        if topic.partitions.is_empty() {
            topic.state = TopicState::Pending;
            topic.failing_since = now;
        }
        if !complete || topic.partitions.is_empty() {
            change.incomplete.push(ix);
        }
        put_topic(next, topic);
    }

    /// What an error about the whole topic means. What was known of it is kept either way.
    fn state_of(&self, now: Time, topic: &Topic, code: ErrorCode) -> TopicState {
        match code.verdict() {
            // Not there (yet), or no leader for all of it: believed after the time that propagation may take.
            Verdict::RefreshLeader | Verdict::Retry if now.since(topic.failing_since) < self.propagation_max => {
                if topic.partitions.is_empty() { TopicState::Pending } else { TopicState::Known }
            }
            // A leader election that takes long is no reason to fail a topic that is known to exist.
            Verdict::RefreshLeader | Verdict::Retry
                if code != ErrorCode::UnknownTopicOrPartition && !topic.partitions.is_empty() =>
            {
                TopicState::Known
            }
            _ => TopicState::Failed(code),
        }
    }

    /// Whether every partition has a leader afterwards.
    fn merge_partitions(&mut self, topic: &mut Topic, answers: &[MetadataResponsePartition]) -> bool {
        // Indexes are dense from 0, so one at or above the number of entries is nonsense and reserves nothing.
        let count = answers.len();
        if count < topic.partitions.len() {
            let seen = self.shrunk.entry(topic.ix).or_insert(0);
            *seen += 1;
            if *seen > STALE_MAX && topic.id.is_zero() {
                // Without topic ids a recreated topic cannot be told from a stale answer but by insistence.
                topic.partitions.truncate(count);
                self.shrunk.remove(&topic.ix);
            }
        } else {
            self.shrunk.remove(&topic.ix);
            topic.partitions.resize_with(count, Partition::unknown);
        }
        let mut seen = Set::default();
        for answer in answers {
            let index = match usize::try_from(answer.partition_index) {
                Ok(index) if index < count && index < topic.partitions.len() && seen.insert(index) => index,
                _ => continue,
            };
            let tp = Tp { topic: topic.ix, partition: answer.partition_index };
            self.merge_partition(tp, &mut topic.partitions[index], answer);
        }
        topic.partitions.iter().all(|partition| partition.leader.is_some())
    }

    fn merge_partition(&mut self, tp: Tp, known: &mut Partition, answer: &MetadataResponsePartition) {
        let code = ErrorCode::from(answer.error_code);
        let has_leader = answer.leader_id >= 0;
        // A replica that is down is the replica's trouble; a missing leader is news; any other error tells us nothing.
        if !matches!(code, ErrorCode::None | ErrorCode::ReplicaNotAvailable | ErrorCode::LeaderNotAvailable) {
            known.error = code;
            return;
        }
        if answer.leader_epoch < known.leader_epoch {
            let seen = self.stale.entry(tp).or_insert(0);
            *seen += 1;
            if *seen <= STALE_MAX {
                return;
            }
        }
        self.stale.remove(&tp);
        *known = Partition {
            leader: has_leader.then_some(BrokerId(answer.leader_id)),
            leader_epoch: answer.leader_epoch.max(-1),
            replicas: ids(&answer.replica_nodes),
            isr: ids(&answer.isr_nodes),
            offline: ids(&answer.offline_replicas),
            error: code,
        };
    }
}

fn ids(nodes: &[i32]) -> Box<[BrokerId]> {
    nodes.iter().map(|node| BrokerId(*node)).collect()
}

fn pending(now: Time, ix: TopicIx, name: Arc<str>) -> Topic {
    Topic {
        ix,
        name,
        id: Uuid::ZERO,
        incarnation: 0,
        internal: false,
        state: TopicState::Pending,
        error: ErrorCode::None,
        failing_since: now,
        failures: 0,
        partitions: Vec::new(),
    }
}

fn put_topic(next: &mut Snapshot, topic: Topic) {
    let at = topic.ix.0 as usize;
    if next.topics.len() <= at {
        next.topics.resize(at + 1, None);
    }
    next.topics[at] = Some(Arc::new(topic));
}
