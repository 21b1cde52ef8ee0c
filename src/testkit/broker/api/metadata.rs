//! Metadata, versions 0 to 13: topics by name, by id from version 12, all, or none; creates topics when the cluster
//! and the request allow it. Like KRaft, a topic that this very request creates is answered with
//! UNKNOWN_TOPIC_OR_PARTITION once; the next request finds it.
//!
//! Deviations from Kafka: authorized operations are never filled (there is no authorizer).

use super::super::cluster::{Cluster, Partition, Topic, topic_name_is_valid};
use super::super::core::{Answer, BrokerCore, Call};
use super::super::options::TopicSpec;
use super::{NO_OPERATIONS, Served};
use crate::wire::ErrorCode;
use crate::wire::messages::metadata::response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::messages::{MetadataRequest, MetadataResponse};

impl Served for MetadataRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<MetadataResponse> {
        let broker = |node: &super::super::cluster::Node| MetadataResponseBroker {
            node_id: node.id,
            host: node.host.clone(),
            port: i32::from(node.port),
            rack: node.rack.clone(),
            ..MetadataResponseBroker::default()
        };
        let mut answer = MetadataResponse {
            brokers: core.cluster.nodes_up().map(broker).collect(),
            cluster_id: Some(core.options.cluster_id.clone()),
            controller_id: core.cluster.controller(),
            cluster_authorized_operations: NO_OPERATIONS,
            ..MetadataResponse::default()
        };
        // Version 0 has no null: an empty list means all topics there.
        let asked = match request.topics {
            None => None,
            Some(topics) if topics.is_empty() && call.version == 0 => None,
            Some(topics) => Some(topics),
        };
        let Some(asked) = asked else {
            let told: Vec<_> = core.cluster.topics.values().map(|topic| describe(&core.cluster, topic)).collect();
            answer.topics = told;
            return Answer::Now(answer);
        };
        let may_create = core.options.auto_create && (call.version < 4 || request.allow_auto_topic_creation);
        for wanted in asked {
            let by_id = !wanted.topic_id.is_zero();
            let name =
                if by_id { core.cluster.name_of(wanted.topic_id).map(str::to_owned) } else { wanted.name.clone() };
            let refused = |name: Option<String>, code: i16| MetadataResponseTopic {
                error_code: code,
                topic_id: wanted.topic_id,
                // Before version 12 a name cannot be null.
                name: if call.version < 12 { Some(name.unwrap_or_default()) } else { name },
                topic_authorized_operations: NO_OPERATIONS,
                ..MetadataResponseTopic::default()
            };
            let injected = call.injected(name.as_deref().unwrap_or(""), -1);
            let told = match (injected, &name) {
                (Some(code), _) => refused(name.clone(), core.error(call, code)),
                (None, None) if by_id => refused(None, core.error(call, ErrorCode::UnknownTopicId)),
                (None, None) => refused(None, core.error(call, ErrorCode::InvalidRequest)),
                (None, Some(known)) => match core.cluster.topics.get(known) {
                    Some(topic) => describe(&core.cluster, topic),
                    None if !topic_name_is_valid(known) => {
                        refused(name.clone(), core.error(call, ErrorCode::InvalidTopicException))
                    }
                    None => {
                        let spec = TopicSpec::new(known.clone(), 0);
                        let code = match may_create.then(|| core.create_topic(&spec)) {
                            Some(Err(refusal)) => refusal.code,
                            _ => ErrorCode::UnknownTopicOrPartition,
                        };
                        refused(name.clone(), core.error(call, code))
                    }
                },
            };
            answer.topics.push(told);
        }
        Answer::Now(answer)
    }

    fn named(&self, cluster: &Cluster) -> Vec<(String, i32)> {
        let topics = self.topics.iter().flatten();
        let name = |topic: &crate::wire::messages::metadata::request::MetadataRequestTopic| {
            topic.name.clone().or_else(|| cluster.name_of(topic.topic_id).map(str::to_owned))
        };
        topics.filter_map(name).map(|name| (name, -1)).collect()
    }

    fn throttle(response: &mut MetadataResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn describe(cluster: &Cluster, topic: &Topic) -> MetadataResponseTopic {
    let partition = |(index, state): (usize, &Partition)| MetadataResponsePartition {
        error_code: if state.leader < 0 { ErrorCode::LeaderNotAvailable.code() } else { 0 },
        partition_index: index as i32,
        leader_id: state.leader,
        leader_epoch: state.leader_epoch,
        replica_nodes: state.replicas.clone(),
        isr_nodes: state.isr.clone(),
        offline_replicas: offline(cluster, state),
        ..MetadataResponsePartition::default()
    };
    MetadataResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.id,
        partitions: topic.partitions.iter().enumerate().map(partition).collect(),
        topic_authorized_operations: NO_OPERATIONS,
        ..MetadataResponseTopic::default()
    }
}

/// Replicas on nodes that are down.
pub(super) fn offline(cluster: &Cluster, state: &Partition) -> Vec<i32> {
    let down = |id: &i32| cluster.node(*id).is_none_or(|node| !node.up);
    state.replicas.iter().copied().filter(down).collect()
}
