//! DescribeTopicPartitions, version 0 (KIP-966): topics by name, in the order of their names, in pages.
//!
//! Deviations from Kafka: eligible leader replicas are never tracked; both lists are empty, not null, because Java's
//! admin client cannot take the null that the protocol allows.

use super::super::cluster::topic_name_is_valid;
use super::super::core::{Answer, BrokerCore, Call};
use super::metadata::offline;
use super::{NO_OPERATIONS, Served};
use crate::wire::ErrorCode;
use crate::wire::messages::describe_topic_partitions::response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use crate::wire::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

/// `max.request.partition.size.limit`.
const PARTITIONS_MAX: usize = 2000;

impl Served for DescribeTopicPartitionsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DescribeTopicPartitionsResponse> {
        let mut answer = DescribeTopicPartitionsResponse::default();
        let mut left = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
        let mut names: Vec<String> = match request.topics.is_empty() {
            true => core.cluster.topics.keys().cloned().collect(),
            false => request.topics.into_iter().map(|topic| topic.name).collect(),
        };
        names.sort_unstable();
        names.dedup();
        let (from_topic, from_partition) = match request.cursor {
            Some(cursor) => (cursor.topic_name, usize::try_from(cursor.partition_index).unwrap_or(0)),
            None => (String::new(), 0),
        };
        for name in names.into_iter().filter(|name| *name >= from_topic) {
            let first = if name == from_topic { from_partition } else { 0 };
            let mut told = DescribeTopicPartitionsResponseTopic {
                name: Some(name.clone()),
                topic_authorized_operations: NO_OPERATIONS,
                ..DescribeTopicPartitionsResponseTopic::default()
            };
            let injected = call.injected(&name, -1);
            let known = core.cluster.topics.get(&name);
            match (injected, known) {
                (Some(code), _) => told.error_code = core.error(call, code),
                (None, None) if !topic_name_is_valid(&name) => {
                    told.error_code = core.error(call, ErrorCode::InvalidTopicException);
                }
                (None, None) => told.error_code = core.error(call, ErrorCode::UnknownTopicOrPartition),
                (None, Some(topic)) => {
                    if left == 0 {
                        let (topic_name, partition_index) = (name, first as i32);
                        answer.next_cursor = Some(Cursor { topic_name, partition_index, ..Cursor::default() });
                        break;
                    }
                    told.topic_id = topic.id;
                    let page = topic.partitions.iter().enumerate().skip(first).take(left);
                    told.partitions = page
                        .map(|(index, state)| DescribeTopicPartitionsResponsePartition {
                            error_code: if state.leader < 0 { ErrorCode::LeaderNotAvailable.code() } else { 0 },
                            partition_index: index as i32,
                            leader_id: state.leader,
                            leader_epoch: state.leader_epoch,
                            replica_nodes: state.replicas.clone(),
                            isr_nodes: state.isr.clone(),
                            eligible_leader_replicas: Some(Vec::new()),
                            last_known_elr: Some(Vec::new()),
                            offline_replicas: offline(&core.cluster, state),
                            ..DescribeTopicPartitionsResponsePartition::default()
                        })
                        .collect();
                    left -= told.partitions.len();
                    let next = first + told.partitions.len();
                    if next < topic.partitions.len() {
                        let (topic_name, partition_index) = (name, next as i32);
                        answer.next_cursor = Some(Cursor { topic_name, partition_index, ..Cursor::default() });
                        answer.topics.push(told);
                        break;
                    }
                }
            }
            answer.topics.push(told);
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut DescribeTopicPartitionsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
