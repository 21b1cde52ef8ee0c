//! OffsetFetch, versions 1 to 10: one group, from version 8 several (KIP-709), from version 10 topic ids; null topics
//! for all.
//!
//! Deviations from Kafka: nothing is ever unstable (no transactions yet), so `require_stable` changes nothing.

use super::super::core::{Answer, BrokerCore, Call};
use super::super::group::Committed;
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::base::ids::Uuid;
use crate::wire::ErrorCode;
use crate::wire::messages::offset_fetch::response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use crate::wire::messages::{OffsetFetchRequest, OffsetFetchResponse};

/// A topic asked for: name, id, partitions.
type Asked = (String, Uuid, Vec<i32>);

impl Served for OffsetFetchRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<OffsetFetchResponse> {
        let mut answer = OffsetFetchResponse::default();
        if call.version < 8 {
            let asked = request.topics.map(|topics| {
                topics
                    .into_iter()
                    .map(|topic| (topic.name, Uuid::ZERO, topic.partition_indexes))
                    .collect::<Vec<Asked>>()
            });
            let told = fetch(core, call, &request.group_id, asked);
            answer.error_code = told.error_code;
            let partition = |part: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
                partition_index: part.partition_index,
                committed_offset: part.committed_offset,
                committed_leader_epoch: part.committed_leader_epoch,
                metadata: part.metadata,
                // Before version 2 only partitions can carry a group's error.
                error_code: if call.version < 2 && told.error_code != 0 { told.error_code } else { part.error_code },
                ..OffsetFetchResponsePartition::default()
            };
            let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
                name: topic.name,
                partitions: topic.partitions.into_iter().map(partition).collect(),
                ..OffsetFetchResponseTopic::default()
            };
            answer.topics = told.topics.into_iter().map(topic).collect();
            return Answer::Now(answer);
        }
        for group in request.groups {
            let asked = group.topics.map(|topics| {
                topics
                    .into_iter()
                    .map(|topic| (topic.name, topic.topic_id, topic.partition_indexes))
                    .collect::<Vec<Asked>>()
            });
            let told = fetch(core, call, &group.group_id, asked);
            answer.groups.push(told);
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut OffsetFetchResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn fetch(core: &mut BrokerCore, call: &Call, group_id: &str, asked: Option<Vec<Asked>>) -> OffsetFetchResponseGroup {
    let mut told = OffsetFetchResponseGroup { group_id: group_id.into(), ..OffsetFetchResponseGroup::default() };
    let refused = wrong_coordinator(core, call, group_id);
    if let Some(code) = refused {
        told.error_code = core.error(call, code);
        if call.version >= 2 {
            return told;
        }
    }
    let none = std::collections::BTreeMap::new();
    let offsets = core.groups.get(group_id).map_or(&none, |group| &group.offsets);
    let asked = asked.unwrap_or_else(|| {
        let mut all: Vec<Asked> = Vec::new();
        for (topic, partition) in offsets.keys() {
            match all.last_mut().filter(|last| last.0 == *topic) {
                Some(last) => last.2.push(*partition),
                None => {
                    let id = core.cluster.topics.get(topic).map_or(Uuid::ZERO, |topic| topic.id);
                    all.push((topic.clone(), id, vec![*partition]));
                }
            }
        }
        all
    });
    let mut unknown_ids = 0u64;
    for (topic, id, partitions) in asked {
        let by_id = call.version >= 10;
        let name = if by_id { core.cluster.name_of(id).map(str::to_owned) } else { Some(topic.clone()) };
        let partition = |index: i32| {
            let committed: Option<&Committed> = name.clone().and_then(|name| offsets.get(&(name, index)));
            OffsetFetchResponsePartitions {
                partition_index: index,
                committed_offset: committed.map_or(-1, |committed| committed.offset),
                committed_leader_epoch: committed.map_or(-1, |committed| committed.leader_epoch),
                metadata: Some(committed.and_then(|committed| committed.metadata.clone()).unwrap_or_default()),
                error_code: if name.is_none() { ErrorCode::UnknownTopicId.code() } else { 0 },
                ..OffsetFetchResponsePartitions::default()
            }
        };
        unknown_ids += if name.is_none() { partitions.len() as u64 } else { 0 };
        told.topics.push(OffsetFetchResponseTopics {
            partitions: partitions.into_iter().map(partition).collect(),
            name: if by_id { String::new() } else { topic },
            topic_id: if by_id { id } else { Uuid::ZERO },
            ..OffsetFetchResponseTopics::default()
        });
    }
    for _ in 0..unknown_ids {
        core.error(call, ErrorCode::UnknownTopicId);
    }
    told
}
