//! OffsetCommit, versions 2 to 10 (topic ids in 10).
//!
//! Deviations from Kafka: offsets never expire.

use super::super::cluster::Cluster;
use super::super::core::{Answer, BrokerCore, Call};
use super::super::group::Committed;
use super::find_coordinator::wrong_coordinator;
use super::{Served, topic_name};
use crate::wire::ErrorCode;
use crate::wire::messages::offset_commit::response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use crate::wire::messages::{OffsetCommitRequest, OffsetCommitResponse};

/// `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

impl Served for OffsetCommitRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<OffsetCommitResponse> {
        let group_id = request.group_id;
        // An error of the whole group is told for each partition; rules aimed at a partition come below.
        let mut group_error =
            wrong_coordinator(core, call, &group_id).filter(|code| call.injected_for_all() != Some(*code));
        if group_error.is_none() {
            let (member, instance) = (&request.member_id, request.group_instance_id.as_deref());
            let code =
                core.groups.check_commit(call.now, &group_id, member, instance, request.generation_id_or_member_epoch);
            group_error = (!code.is_none()).then_some(code);
        }
        let mut answer = OffsetCommitResponse::default();
        for topic in request.topics {
            let name = topic_name(&core.cluster, &topic.name, topic.topic_id);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for part in topic.partitions {
                let injected = name.as_deref().and_then(|name| call.injected(name, part.partition_index));
                let known =
                    name.as_deref().is_some_and(|name| core.cluster.partition(name, part.partition_index).is_some());
                let mut code = match (injected.or(group_error), &name) {
                    (Some(code), _) => code,
                    (None, None) => ErrorCode::UnknownTopicId,
                    (None, Some(_)) if !known => ErrorCode::UnknownTopicOrPartition,
                    _ if part.committed_metadata.as_ref().is_some_and(|note| note.len() > METADATA_BYTES_MAX) => {
                        ErrorCode::OffsetMetadataTooLarge
                    }
                    _ => ErrorCode::None,
                };
                if let (ErrorCode::None, Some(name)) = (code, &name) {
                    let committed = Committed {
                        offset: part.committed_offset,
                        leader_epoch: part.committed_leader_epoch,
                        metadata: part.committed_metadata,
                    };
                    core.groups.entry(&group_id).offsets.insert((name.clone(), part.partition_index), committed);
                    code = call.injected_after(name, part.partition_index).unwrap_or(code);
                }
                partitions.push(OffsetCommitResponsePartition {
                    partition_index: part.partition_index,
                    error_code: core.error(call, code),
                    ..OffsetCommitResponsePartition::default()
                });
            }
            answer.topics.push(OffsetCommitResponseTopic {
                name: topic.name,
                topic_id: topic.topic_id,
                partitions,
                ..OffsetCommitResponseTopic::default()
            });
        }
        Answer::Now(answer)
    }

    fn named(&self, cluster: &Cluster) -> Vec<(String, i32)> {
        let mut named = Vec::new();
        for topic in &self.topics {
            let Some(name) = topic_name(cluster, &topic.name, topic.topic_id) else { continue };
            named.extend(topic.partitions.iter().map(|part| (name.clone(), part.partition_index)));
        }
        named
    }

    fn throttle(response: &mut OffsetCommitResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
