//! DeleteRecords, versions 0 to 2: moves the log start; -1 means the high watermark.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use crate::wire::ErrorCode;
use crate::wire::messages::delete_records::response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use crate::wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

impl Served for DeleteRecordsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DeleteRecordsResponse> {
        let mut answer = DeleteRecordsResponse::default();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for part in topic.partitions {
                let done = match call.injected(&topic.name, part.partition_index) {
                    Some(code) => Err(code),
                    None => delete(core, call, &topic.name, part.partition_index, part.offset),
                };
                let (low_watermark, code) = match done {
                    Ok(low_watermark) => (low_watermark, ErrorCode::None),
                    Err(code) => (-1, code),
                };
                partitions.push(DeleteRecordsPartitionResult {
                    partition_index: part.partition_index,
                    low_watermark,
                    error_code: core.error(call, code),
                    ..DeleteRecordsPartitionResult::default()
                });
            }
            answer.topics.push(DeleteRecordsTopicResult {
                name: topic.name,
                partitions,
                ..DeleteRecordsTopicResult::default()
            });
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut DeleteRecordsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn delete(core: &mut BrokerCore, call: &Call, topic: &str, partition: i32, offset: i64) -> Result<i64, ErrorCode> {
    let state = core.served_partition(call.node, topic, partition, -1, false)?;
    let end = state.log.next_offset();
    let before = if offset == -1 { end } else { offset };
    if before < 0 || before > end {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    core.delete_records(topic, partition, before).ok_or(ErrorCode::UnknownTopicOrPartition)
}
