//! CreateTopics, versions 2 to 7: counts or assignments, configuration entries, validation only; any node answers as
//! the controller.

use std::collections::BTreeMap;

use super::super::cluster::Cluster;
use super::super::core::{Answer, BrokerCore, Call};
use super::super::options::{TOPIC_CONFIGS, TopicSpec};
use super::super::record::Refusal;
use super::Served;
use crate::wire::ErrorCode;
use crate::wire::messages::create_topics::request::CreatableTopic;
use crate::wire::messages::create_topics::response::{CreatableTopicConfigs, CreatableTopicResult};
use crate::wire::messages::{CreateTopicsRequest, CreateTopicsResponse};

/// More partitions than this at once are refused: KRaft's own limit is 10,000 a request.
const PARTITIONS_MAX: i32 = 10_000;

impl Served for CreateTopicsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<CreateTopicsResponse> {
        let mut answer = CreateTopicsResponse::default();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for topic in &request.topics {
            *named.entry(&topic.name).or_default() += 1;
        }
        for topic in &request.topics {
            // A name given several times is refused once.
            if answer.topics.iter().any(|told| told.name == topic.name) {
                continue;
            }
            let mut told = CreatableTopicResult {
                name: topic.name.clone(),
                num_partitions: -1,
                replication_factor: -1,
                error_message: None,
                configs: None,
                ..CreatableTopicResult::default()
            };
            let done = match call.injected(&topic.name, -1) {
                Some(code) => Err(Refusal::new(code, "injected")),
                None if named.get(topic.name.as_str()).is_some_and(|times| *times > 1) => {
                    Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
                }
                None => create(core, topic, request.validate_only),
            };
            let done = match (done, call.injected_after(&topic.name, -1)) {
                (Ok(()), Some(code)) => Err(Refusal::new(code, "injected after creating")),
                (done, _) => done,
            };
            match done {
                Err(refusal) => {
                    told.error_code = core.error(call, refusal.code);
                    told.error_message = Some(refusal.message);
                }
                Ok(()) => {
                    if let Some(made) = core.cluster.topics.get(&topic.name) {
                        told.topic_id = made.id;
                        told.num_partitions = made.partitions.len() as i32;
                        told.replication_factor = made.partitions.first().map_or(-1, |p| p.replicas.len() as i16);
                        told.configs = Some(describe(&made.configs));
                    }
                }
            }
            answer.topics.push(told);
        }
        Answer::Now(answer)
    }

    fn named(&self, _: &Cluster) -> Vec<(String, i32)> {
        self.topics.iter().map(|topic| (topic.name.clone(), -1)).collect()
    }

    fn throttle(response: &mut CreateTopicsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn create(core: &mut BrokerCore, topic: &CreatableTopic, dry: bool) -> Result<(), Refusal> {
    let refuse = |code, message: &str| Err(Refusal::new(code, message));
    if topic.num_partitions == 0 || topic.num_partitions < -1 {
        return refuse(ErrorCode::InvalidPartitions, "Number of partitions must be larger than 0.");
    }
    if topic.num_partitions > PARTITIONS_MAX {
        return refuse(ErrorCode::InvalidPartitions, "Number of partitions is larger than 10000.");
    }
    if topic.replication_factor == 0 || topic.replication_factor < -1 {
        return refuse(ErrorCode::InvalidReplicationFactor, "Replication factor must be larger than 0.");
    }
    let assignments = match topic.assignments.as_slice() {
        [] => None,
        _ if topic.num_partitions != -1 || topic.replication_factor != -1 => {
            return refuse(ErrorCode::InvalidRequest, "Both counts and replica assignments were given.");
        }
        given => {
            let by_index: BTreeMap<i32, Vec<i32>> =
                given.iter().map(|a| (a.partition_index, a.broker_ids.clone())).collect();
            if by_index.len() != given.len() || !by_index.keys().copied().eq(0..given.len() as i32) {
                return refuse(
                    ErrorCode::InvalidReplicaAssignment,
                    "Partitions should be a consecutive 0-based sequence.",
                );
            }
            Some(by_index.into_values().collect())
        }
    };
    if topic.configs.iter().any(|config| config.value.is_none()) {
        return refuse(ErrorCode::InvalidConfig, "Null value not supported for topic configs.");
    }
    let spec = TopicSpec {
        name: topic.name.clone(),
        partitions: topic.num_partitions.max(0),
        replication: topic.replication_factor.max(0),
        configs: topic.configs.iter().map(|c| (c.name.clone(), c.value.clone().unwrap_or_default())).collect(),
    };
    core.cluster.create_topic(&spec, assignments, &core.options, dry)
}

fn describe(set: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let entry = |known: &super::super::options::ConfigEntry| CreatableTopicConfigs {
        name: known.name.into(),
        value: Some(set.get(known.name).cloned().unwrap_or_else(|| known.default.into())),
        read_only: false,
        // 1: the topic's own, 5: the default (KIP-226).
        config_source: if set.contains_key(known.name) { 1 } else { 5 },
        is_sensitive: false,
        ..CreatableTopicConfigs::default()
    };
    TOPIC_CONFIGS.iter().map(entry).collect()
}
