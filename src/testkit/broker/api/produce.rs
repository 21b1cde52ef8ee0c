//! Produce, versions 3 to 13: acks 0, 1 and all; topic ids from version 13; the new leader in the answer from
//! version 10 (KIP-951).
//!
//! Deviations from Kafka: replicas are virtual and always in step, so acks=all answers at once; transactional batches
//! are refused with INVALID_TXN_STATE (transactions are not served yet). Stricter than Kafka, which lets them pass: bytes
//! behind the batch, inner offsets of an uncompressed batch that do not run on, a client's LogAppendTime, a producer
//! epoch below 0 or a producer id below -1, null records (for which Kafka hangs up).

use bytes::Bytes;

use super::super::core::{Answer, BrokerCore, Call};
use super::super::counters::CloseReason;
use super::super::log::Stamp;
use super::super::options::Validate;
use super::super::producers::Judgement;
use super::super::record::{self, HEADER_BYTES, Refusal};
use super::{Served, topic_name};
use crate::batch::Codec;
use crate::wire::ErrorCode;
use crate::wire::messages::produce::response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use crate::wire::messages::{ProduceRequest, ProduceResponse};

struct Appended {
    base_offset: i64,
    append_time_ms: i64,
    log_start: i64,
}

impl Served for ProduceRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<ProduceResponse> {
        let acks = request.acks;
        let anonymous = request.transactional_id.is_none();
        let mut answer = ProduceResponse::default();
        let mut failed = false;
        let mut moved = Vec::new();
        for topic in &request.topic_data {
            let name = topic_name(&core.cluster, &topic.name, topic.topic_id);
            let mut partitions = Vec::with_capacity(topic.partition_data.len());
            for part in &topic.partition_data {
                let mut told = PartitionProduceResponse { index: part.index, ..PartitionProduceResponse::default() };
                let result = match &name {
                    _ if anonymous
                        && part.records.as_ref().is_some_and(|records| record::says_transactional(records)) =>
                    {
                        let code = ErrorCode::TransactionalIdAuthorizationFailed;
                        Err(Refusal::new(code, "Transactional records without a transactional id"))
                    }
                    Some(name) => append(core, call, acks, name, part.index, part.records.as_ref()),
                    None => Err(Refusal::new(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")),
                };
                let after = name.as_deref().and_then(|name| call.injected_after(name, part.index));
                let result = match (result, after) {
                    (Ok(_), Some(code)) => Err(Refusal::new(code, "injected after appending")),
                    (result, _) => result,
                };
                match result {
                    Ok(appended) => {
                        told.base_offset = appended.base_offset;
                        told.log_append_time_ms = appended.append_time_ms;
                        told.log_start_offset = appended.log_start;
                    }
                    Err(refusal) => {
                        failed = true;
                        told.base_offset = -1;
                        told.error_code = core.error(call, refusal.code);
                        if call.version >= 8 {
                            told.error_message = Some(refusal.message);
                            let of_record = |(index, message)| BatchIndexAndErrorMessage {
                                batch_index: index,
                                batch_index_error_message: Some(message),
                                ..BatchIndexAndErrorMessage::default()
                            };
                            told.record_errors = refusal.records.into_iter().map(of_record).collect();
                        }
                        let state = name.as_deref().and_then(|name| core.cluster.partition(name, part.index));
                        if let (ErrorCode::NotLeaderOrFollower, true, Some(state)) =
                            (refusal.code, call.version >= 10, state)
                        {
                            told.current_leader = LeaderIdAndEpoch {
                                leader_id: state.leader,
                                leader_epoch: state.leader_epoch,
                                ..LeaderIdAndEpoch::default()
                            };
                            moved.push(state.leader);
                        }
                    }
                }
                partitions.push(told);
            }
            answer.responses.push(TopicProduceResponse {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partition_responses: partitions,
                ..TopicProduceResponse::default()
            });
        }
        moved.sort_unstable();
        moved.dedup();
        let endpoint = |node: &super::super::cluster::Node| NodeEndpoint {
            node_id: node.id,
            host: node.host.clone(),
            port: i32::from(node.port),
            rack: node.rack.clone(),
            ..NodeEndpoint::default()
        };
        answer.node_endpoints = moved.iter().filter_map(|id| core.cluster.node(*id)).map(endpoint).collect();
        match (acks, failed) {
            // Nobody waits for an answer; closing is how Kafka tells that something went wrong.
            (0, true) => Answer::Close(CloseReason::AcksZeroError),
            (0, false) => Answer::Silent,
            _ => Answer::Now(answer),
        }
    }

    fn named(&self, cluster: &super::super::cluster::Cluster) -> Vec<(String, i32)> {
        let mut named = Vec::new();
        for topic in &self.topic_data {
            let Some(name) = topic_name(cluster, &topic.name, topic.topic_id) else { continue };
            named.extend(topic.partition_data.iter().map(|part| (name.clone(), part.index)));
        }
        named
    }

    fn throttle(response: &mut ProduceResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn append(
    core: &mut BrokerCore,
    call: &Call,
    acks: i16,
    topic: &str,
    partition: i32,
    records: Option<&Bytes>,
) -> Result<Appended, Refusal> {
    if let Some(code) = call.injected(topic, partition) {
        return Err(Refusal::new(code, "injected"));
    }
    if !matches!(acks, -1..=1) {
        return Err(Refusal::new(ErrorCode::InvalidRequiredAcks, format!("Invalid value {acks} for acks")));
    }
    let Some(records) = records else {
        return Err(Refusal::new(ErrorCode::InvalidRecord, "Produce requests must contain records"));
    };
    let plain = |code: ErrorCode| Refusal::new(code, code.text());
    let state = core.served_partition(call.node, topic, partition, -1, false).map_err(plain)?;
    let settings = match core.cluster.topics.get(topic) {
        Some(topic) => topic.settings,
        None => return Err(plain(ErrorCode::UnknownTopicOrPartition)),
    };
    if acks == -1 && state.isr.len() < settings.min_insync_replicas {
        let (isr, wanted) = (state.isr.len(), settings.min_insync_replicas);
        let message = format!(
            "The size of the current ISR : {isr} is insufficient to satisfy the min.isr requirement of {wanted}"
        );
        return Err(Refusal::new(ErrorCode::NotEnoughReplicas, message));
    }
    let checked = check(core, call, records, &settings);
    let (header, max_timestamp) = match checked {
        Ok(checked) => checked,
        Err(refusal) => {
            core.counters.batches_refused += 1;
            return Err(refusal);
        }
    };
    let born = core.next_born();
    let expiry = core.options.producer_id_expiration;
    let Some(state) = core.cluster.partition_mut(topic, partition) else {
        return Err(plain(ErrorCode::UnknownTopicOrPartition));
    };
    if header.producer_id >= 0 {
        let age = u64::try_from(expiry.as_nanos()).unwrap_or(u64::MAX);
        state.producers.expire(crate::base::time::Time(call.now.mono.0.saturating_sub(age)));
        match state.producers.judge(&header) {
            Ok(Judgement::Append) => {}
            Ok(Judgement::Duplicate { base_offset, append_time_ms }) => {
                let log_start = state.log.start_offset();
                core.counters.batches_duplicate += 1;
                return Ok(Appended { base_offset, append_time_ms, log_start });
            }
            Err(refusal) => {
                core.counters.batches_refused += 1;
                return Err(refusal);
            }
        }
    }
    let append_time_ms = settings.log_append_time.then_some(call.now.wall_ms);
    let stamp = Stamp { leader_epoch: state.leader_epoch, append_time_ms, max_timestamp, born };
    let base_offset = state.log.append(records, stamp);
    if header.producer_id >= 0 {
        state.producers.appended(&header, base_offset, append_time_ms.unwrap_or(max_timestamp), call.now.mono);
    }
    core.counters.batches_appended += 1;
    core.counters.records_appended += u64::from(header.count.unsigned_abs());
    core.counters.bytes_appended += records.len() as u64;
    core.appended(topic, partition, records.len() as u64);
    core.wake(topic, partition);
    let log_start = core.cluster.partition(topic, partition).map_or(-1, |state| state.log.start_offset());
    Ok(Appended { base_offset, append_time_ms: append_time_ms.unwrap_or(-1), log_start })
}

/// Judges the batch itself. Returns its header and its largest timestamp.
fn check(
    core: &mut BrokerCore,
    call: &Call,
    records: &Bytes,
    settings: &super::super::options::TopicSettings,
) -> Result<(record::Header, i64), Refusal> {
    let header = record::check_batch(records, settings)?;
    if header.transactional() {
        return Err(Refusal::new(ErrorCode::InvalidTxnState, "The embedded broker does not serve transactions yet"));
    }
    let Some(codec) = Codec::from_attributes(header.attributes) else {
        return Err(Refusal::new(
            ErrorCode::UnknownServerError,
            format!("Unknown compression type id: {}", header.codec()),
        ));
    };
    if codec == Codec::Zstd && call.version < 7 {
        let message = "Produce requests with version below 7 are not allowed to use ZStandard compression";
        return Err(Refusal::new(ErrorCode::UnsupportedCompressionType, message));
    }
    if core.options.validate == Validate::Header {
        return Ok((header, header.max_timestamp));
    }
    let payload = &records[HEADER_BYTES..];
    let max_timestamp = match codec {
        Codec::None => record::check_records(header, payload, settings, call.now.wall_ms)?,
        _ => {
            let inflated = core.inflate(codec, payload)?;
            record::check_records(header, inflated, settings, call.now.wall_ms)?
        }
    };
    Ok((header, max_timestamp))
}
