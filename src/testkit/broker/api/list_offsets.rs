//! ListOffsets, versions 1 to 11: earliest (-2), latest (-1, the last stable offset under read_committed), maximum
//! timestamp (-3, KIP-734), earliest local (-4) and latest tiered (-5) (KIP-405), earliest pending upload (-6), and the
//! first record at or after a timestamp.
//!
//! Deviations from Kafka: no tiered storage, so -5 and -6 answer "unknown" (-1).

use super::super::core::{Answer, BrokerCore, Call};
use super::super::log::BatchMeta;
use super::super::record::{self, HEADER_BYTES, Walk};
use super::Served;
use crate::batch::Codec;
use crate::wire::ErrorCode;
use crate::wire::messages::list_offsets::response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use crate::wire::messages::{ListOffsetsRequest, ListOffsetsResponse};

impl Served for ListOffsetsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<ListOffsetsResponse> {
        let mut answer = ListOffsetsResponse::default();
        let committed_only = request.isolation_level == 1;
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for part in &topic.partitions {
                let mut told = ListOffsetsPartitionResponse {
                    partition_index: part.partition_index,
                    timestamp: -1,
                    offset: -1,
                    leader_epoch: -1,
                    ..ListOffsetsPartitionResponse::default()
                };
                let found = match call.injected(&topic.name, part.partition_index) {
                    Some(code) => Err(code),
                    None => find(
                        core,
                        call,
                        &topic.name,
                        part.partition_index,
                        part.current_leader_epoch,
                        part.timestamp,
                        committed_only,
                    ),
                };
                match found {
                    Ok((timestamp, offset, epoch)) => {
                        (told.timestamp, told.offset) = (timestamp, offset);
                        if call.version >= 4 {
                            told.leader_epoch = epoch;
                        }
                    }
                    Err(code) => told.error_code = core.error(call, code),
                }
                partitions.push(told);
            }
            answer.topics.push(ListOffsetsTopicResponse {
                name: topic.name.clone(),
                partitions,
                ..ListOffsetsTopicResponse::default()
            });
        }
        Answer::Now(answer)
    }

    fn named(&self, _: &super::super::cluster::Cluster) -> Vec<(String, i32)> {
        let of = |topic: &crate::wire::messages::list_offsets::request::ListOffsetsTopic| {
            let name = topic.name.clone();
            topic.partitions.iter().map(move |part| (name.clone(), part.partition_index)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of).collect()
    }

    fn throttle(response: &mut ListOffsetsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

/// (timestamp, offset, leader epoch), -1 where there is none.
fn find(
    core: &mut BrokerCore,
    call: &Call,
    topic: &str,
    partition: i32,
    epoch: i32,
    timestamp: i64,
    committed_only: bool,
) -> Result<(i64, i64, i32), ErrorCode> {
    // The special timestamps came one by one, each with a version.
    let since = match timestamp {
        -1 | -2 => 1,
        -3 => 7,
        -4 => 8,
        -5 => 9,
        -6 => 11,
        special if special < 0 => i16::MAX,
        _ => 1,
    };
    if call.version < since {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let state = core.served_partition(call.node, topic, partition, epoch, false)?;
    let log = &state.log;
    let (start, end) = (log.start_offset(), log.next_offset());
    let (by_timestamp, batch) = match timestamp {
        -1 => {
            let end = if committed_only { state.last_stable_offset() } else { end };
            return Ok((-1, end, state.leader_epoch));
        }
        -2 | -4 => return Ok((-1, start, if start < end { log.epoch_of(start) } else { state.leader_epoch })),
        -5 | -6 => return Ok((-1, -1, -1)),
        -3 => (None, log.batch_of_max_timestamp()),
        other => (Some(other), log.first_batch_reaching(other)),
    };
    let Some((meta, bytes)) = batch else { return Ok((-1, -1, -1)) };
    let wanted = by_timestamp.unwrap_or(meta.max_timestamp);
    let leader_epoch = log.epoch_of(meta.base_offset);
    let (timestamp, offset) =
        record_reaching(core, meta, &bytes, wanted, start).unwrap_or((meta.max_timestamp, meta.base_offset));
    Ok((timestamp, offset, leader_epoch))
}

/// The first record of a batch at or after a timestamp and at or past the log start.
fn record_reaching(
    core: &mut BrokerCore,
    meta: BatchMeta,
    batch: &[u8],
    wanted: i64,
    start: i64,
) -> Option<(i64, i64)> {
    let header = record::header(batch);
    if header.log_append_time() {
        return Some((header.max_timestamp, meta.base_offset.max(start)));
    }
    let payload = &batch[HEADER_BYTES..];
    let records = match Codec::from_attributes(header.attributes)? {
        Codec::None => payload,
        codec => core.inflate(codec, payload).ok()?,
    };
    let found = Walk::new(header, records)
        .map_while(Result::ok)
        .find(|record| record.timestamp >= wanted && meta.base_offset + i64::from(record.offset_delta) >= start)?;
    Some((found.timestamp, meta.base_offset + i64::from(found.offset_delta)))
}
