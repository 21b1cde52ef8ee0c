//! The cluster as its metadata shows it: nodes, topics, partitions, leaders with their epochs. One log per partition
//! stands for all its replicas, which are therefore always in step.

use std::collections::BTreeMap;

use super::log::Log;
use super::options::{Options, TopicSettings, TopicSpec};
use super::producers::Producers;
use super::record::Refusal;
use crate::base::ids::Uuid;
use crate::base::rng::Rng;
use crate::wire::ErrorCode;

/// A virtual broker.
#[derive(Clone, Debug)]
pub struct Node {
    /// `node.id`.
    pub id: i32,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Whether it runs: a stopped node leads nothing and is not in metadata.
    pub up: bool,
}

/// A partition.
#[derive(Debug)]
pub struct Partition {
    /// The node that leads it, -1 for none.
    pub leader: i32,
    /// Rises with every change of leader.
    pub leader_epoch: i32,
    /// Assigned nodes, preferred leader first.
    pub replicas: Vec<i32>,
    /// Nodes in step: the assigned ones that are up.
    pub isr: Vec<i32>,
    /// Its records.
    pub log: Log,
    /// Its idempotent producers.
    pub producers: Producers,
}

impl Partition {
    /// First offset of the oldest open transaction, else the high watermark. Nothing is transactional yet.
    pub fn last_stable_offset(&self) -> i64 {
        self.log.next_offset()
    }
}

/// A topic.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; a topic created again under the same name has another one.
    pub id: Uuid,
    /// Its partitions, by index.
    pub partitions: Vec<Partition>,
    /// Configuration entries that differ from the defaults.
    pub configs: BTreeMap<String, String>,
    /// The same, parsed.
    pub settings: TopicSettings,
}

/// Nodes and topics.
#[derive(Debug)]
pub struct Cluster {
    /// Node n is at index n.
    pub nodes: Vec<Node>,
    /// Topics by name.
    pub topics: BTreeMap<String, Topic>,
    names_by_id: BTreeMap<Uuid, String>,
    rng: Rng,
    next_leader: usize,
    segment_bytes: usize,
}

/// Whether Kafka takes this as a topic name.
pub fn topic_name_is_valid(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}

impl Cluster {
    /// A cluster of `options.brokers` nodes that are up, without topics. Hosts and ports are set once they are bound.
    pub fn new(options: &Options) -> Self {
        let node = |id: usize| Node {
            id: id as i32,
            host: "localhost".into(),
            port: 0,
            rack: options.racks.get(id).cloned(),
            up: true,
        };
        Self {
            nodes: (0..options.brokers.max(1)).map(node).collect(),
            topics: BTreeMap::new(),
            names_by_id: BTreeMap::new(),
            rng: Rng::new(options.seed),
            next_leader: 0,
            segment_bytes: options.segment_bytes,
        }
    }

    /// A random id that is not zero.
    pub fn fresh_uuid(&mut self) -> Uuid {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        id[8..].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        // Version 4, variant 1, as java.util.UUID; Kafka also avoids a leading '-' in its text form.
        id[0] &= 0x7f;
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        Uuid(id)
    }

    /// The node with this id.
    pub fn node(&self, id: i32) -> Option<&Node> {
        usize::try_from(id).ok().and_then(|index| self.nodes.get(index))
    }

    /// Nodes that are up.
    pub fn nodes_up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.up)
    }

    /// The node that stands for the controller: the lowest that is up.
    pub fn controller(&self) -> i32 {
        self.nodes_up().next().map_or(-1, |node| node.id)
    }

    /// The node that coordinates `key` (a group or transactional id), if any node is up.
    pub fn coordinator(&self, key: &str) -> Option<&Node> {
        let up: Vec<&Node> = self.nodes_up().collect();
        // FNV-1a: the same node for the same key on every run.
        let hash = key
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        up.get((hash % up.len().max(1) as u64) as usize).copied()
    }

    /// Name of the topic with this id.
    pub fn name_of(&self, id: Uuid) -> Option<&str> {
        self.names_by_id.get(&id).map(String::as_str)
    }

    /// A partition.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    /// A partition, to change.
    pub fn partition_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::try_from(partition).ok()?)
    }

    /// Creates a topic; `dry` only checks. `assignments` names the replicas of each partition, else they go round.
    pub fn create_topic(
        &mut self,
        spec: &TopicSpec,
        assignments: Option<Vec<Vec<i32>>>,
        options: &Options,
        dry: bool,
    ) -> Result<(), Refusal> {
        let refuse = |code, message: String| Err(Refusal::new(code, message));
        let name = &spec.name;
        if !topic_name_is_valid(name) {
            return refuse(ErrorCode::InvalidTopicException, format!("Topic name '{name}' is illegal"));
        }
        if self.topics.contains_key(name) {
            return refuse(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."));
        }
        // Metrics turn '.' into '_', so Kafka refuses names that would collide there.
        let flat = name.replace('.', "_");
        if let Some(other) = self.topics.keys().find(|other| other.replace('.', "_") == flat) {
            return refuse(
                ErrorCode::InvalidTopicException,
                format!("Topic '{name}' collides with existing topics: {other}"),
            );
        }
        let configs: BTreeMap<String, String> = spec.configs.iter().cloned().collect();
        let settings =
            TopicSettings::parse(&configs).map_err(|message| Refusal::new(ErrorCode::InvalidConfig, message))?;
        let assigned = match assignments {
            Some(assigned) => {
                let sound = |replicas: &Vec<i32>| {
                    let mut seen = replicas.clone();
                    seen.sort_unstable();
                    seen.dedup();
                    !replicas.is_empty()
                        && seen.len() == replicas.len()
                        && replicas.iter().all(|id| self.node(*id).is_some())
                };
                if assigned.is_empty() || !assigned.iter().all(sound) {
                    return refuse(ErrorCode::InvalidReplicaAssignment, "Replica assignment is inconsistent".into());
                }
                assigned
            }
            None => {
                let count = if spec.partitions <= 0 { options.default_partitions } else { spec.partitions };
                let replication = if spec.replication <= 0 {
                    usize::try_from(options.default_replication).unwrap_or(1).min(self.nodes.len())
                } else {
                    spec.replication as usize
                };
                if replication > self.nodes.len() {
                    let brokers = self.nodes.len();
                    let message = format!(
                        "Unable to replicate the partition {replication} time(s): only {brokers} broker(s) are registered."
                    );
                    return refuse(ErrorCode::InvalidReplicationFactor, message);
                }
                (0..count.max(1) as usize).map(|nth| self.round_robin(nth, replication)).collect()
            }
        };
        if dry {
            return Ok(());
        }
        self.next_leader = (self.next_leader + assigned.len()) % self.nodes.len();
        let id = self.fresh_uuid();
        let partitions = assigned.into_iter().map(|replicas| self.new_partition(replicas)).collect();
        self.names_by_id.insert(id, name.clone());
        let topic = Topic { name: name.clone(), id, partitions, configs, settings };
        self.topics.insert(name.clone(), topic);
        Ok(())
    }

    fn round_robin(&self, nth: usize, replication: usize) -> Vec<i32> {
        let nodes = self.nodes.len();
        (0..replication).map(|step| ((self.next_leader + nth + step) % nodes) as i32).collect()
    }

    fn new_partition(&self, replicas: Vec<i32>) -> Partition {
        let isr: Vec<i32> = replicas.iter().copied().filter(|id| self.node(*id).is_some_and(|node| node.up)).collect();
        let leader = isr.first().copied().unwrap_or(-1);
        let mut log = Log::new(self.segment_bytes);
        log.start_epoch(0);
        Partition { leader, leader_epoch: 0, replicas, isr, log, producers: Producers::default() }
    }

    /// Adds partitions up to `count`.
    pub fn grow_topic(&mut self, name: &str, count: usize, assignments: Option<Vec<Vec<i32>>>) {
        let Some(topic) = self.topics.get(name) else { return };
        let (has, replication) = (topic.partitions.len(), topic.partitions.first().map_or(1, |p| p.replicas.len()));
        let fresh: Vec<Partition> = (has..count)
            .map(|nth| {
                let given = assignments.as_ref().and_then(|given| given.get(nth - has).cloned());
                self.new_partition(given.unwrap_or_else(|| self.round_robin(nth, replication)))
            })
            .collect();
        if let Some(topic) = self.topics.get_mut(name) {
            topic.partitions.extend(fresh);
        }
    }

    /// Removes a topic with its records. Returns the bytes freed.
    pub fn delete_topic(&mut self, name: &str) -> Option<u64> {
        let topic = self.topics.remove(name)?;
        self.names_by_id.remove(&topic.id);
        Some(topic.partitions.iter().map(|partition| partition.log.bytes()).sum())
    }

    /// Makes `to` the leader with the next epoch. A node that was no replica takes the old leader's place.
    pub fn move_leader(&mut self, topic: &str, partition: i32, to: i32) -> bool {
        let up = self.node(to).is_some_and(|node| node.up);
        let Some(partition) = self.partition_mut(topic, partition) else { return false };
        if !up {
            return false;
        }
        if !partition.replicas.contains(&to) {
            match partition.replicas.iter_mut().find(|id| **id == partition.leader) {
                Some(old) => *old = to,
                None => partition.replicas = vec![to],
            }
            partition.isr.retain(|id| *id != partition.leader);
        }
        if !partition.isr.contains(&to) {
            partition.isr.push(to);
        }
        partition.leader = to;
        partition.leader_epoch += 1;
        partition.log.start_epoch(partition.leader_epoch);
        true
    }

    /// Stops or starts a node: what it led moves to a replica that is up, or stays without leader until one is.
    pub fn set_up(&mut self, id: i32, up: bool) -> bool {
        let Some(node) = usize::try_from(id).ok().and_then(|index| self.nodes.get_mut(index)) else { return false };
        if node.up == up {
            return false;
        }
        node.up = up;
        for partition in self.topics.values_mut().flat_map(|topic| topic.partitions.iter_mut()) {
            if !partition.replicas.contains(&id) {
                continue;
            }
            if up {
                partition.isr.push(id);
                if partition.leader != -1 {
                    continue;
                }
                partition.leader = id;
            } else {
                // The last replica stays in the ISR: it alone has all records.
                if partition.isr.len() > 1 {
                    partition.isr.retain(|member| *member != id);
                }
                if partition.leader != id {
                    continue;
                }
                partition.leader = partition.isr.iter().copied().find(|member| *member != id).unwrap_or(-1);
            }
            partition.isr.dedup();
            partition.leader_epoch += 1;
            if partition.leader != -1 {
                partition.log.start_epoch(partition.leader_epoch);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(replication: i16) -> Cluster {
        let options = Options { brokers: 3, ..Options::default() };
        let mut cluster = Cluster::new(&options);
        cluster.create_topic(&TopicSpec::new("t", 6).replication(replication), None, &options, false).unwrap();
        cluster
    }

    #[test]
    fn leaders_go_round_and_move_with_their_epoch() {
        let mut cluster = three(1);
        let leaders: Vec<i32> = cluster.topics["t"].partitions.iter().map(|p| p.leader).collect();
        assert_eq!(leaders, [0, 1, 2, 0, 1, 2]);
        assert!(cluster.move_leader("t", 0, 2));
        let moved = cluster.partition("t", 0).unwrap();
        assert_eq!((moved.leader, moved.leader_epoch, &moved.replicas, &moved.isr), (2, 1, &vec![2], &vec![2]));
        assert!(!cluster.move_leader("t", 9, 2) && !cluster.move_leader("t", 0, 9));
    }

    #[test]
    fn a_stopped_nodes_partitions_move_or_wait() {
        let mut cluster = three(1);
        cluster.set_up(1, false);
        assert_eq!(
            (cluster.partition("t", 1).unwrap().leader, cluster.partition("t", 1).unwrap().leader_epoch),
            (-1, 1)
        );
        cluster.set_up(1, true);
        assert_eq!(
            (cluster.partition("t", 1).unwrap().leader, cluster.partition("t", 1).unwrap().leader_epoch),
            (1, 2)
        );
        let mut cluster = three(2);
        cluster.set_up(1, false);
        let partition = cluster.partition("t", 1).unwrap();
        assert_eq!((partition.leader, &partition.isr), (2, &vec![2]));
        cluster.set_up(1, true);
        let partition = cluster.partition("t", 1).unwrap();
        assert_eq!((partition.leader, partition.isr.len()), (2, 2), "the new leader stays");
    }

    #[test]
    fn names_are_checked() {
        let options = Options::default();
        let mut cluster = Cluster::new(&options);
        let mut code = |name: &str| {
            cluster.create_topic(&TopicSpec::new(name, 1), None, &options, false).err().map(|refusal| refusal.code)
        };
        assert_eq!(code("a.b"), None);
        assert_eq!(code("a.b"), Some(ErrorCode::TopicAlreadyExists));
        assert_eq!(code("a_b"), Some(ErrorCode::InvalidTopicException));
        assert_eq!(code("a b"), Some(ErrorCode::InvalidTopicException));
        assert_eq!(code(""), Some(ErrorCode::InvalidTopicException));
    }
}
