//! Fetch, versions 4 to 18: sessions (KIP-227), long polls, whole first batches (KIP-74), isolation levels, leader
//! epochs (KIP-320), fetching from followers in step (KIP-392, from version 11), diverging epochs, topic ids from
//! version 13, the new leader in the answer (KIP-951, endpoints from version 16).
//!
//! Deviations from Kafka: no preferred read replica is ever named; followers' fetches (a replica id) are served as
//! consumers'; as in Kafka a partition's part comes from one segment, but segments are 8 MiB.

use bytes::Bytes;

use super::super::cluster::{Cluster, Node, Partition};
use super::super::core::{Answer, BrokerCore, Call, Wait};
use super::super::session::{FINAL_EPOCH, INITIAL_EPOCH, Key, Told, Want};
use super::{Served, topic_name};
use crate::base::ids::Uuid;
use crate::wire::ErrorCode;
use crate::wire::messages::fetch::response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use crate::wire::messages::{FetchRequest, FetchResponse};

/// `fetch.max.bytes` of a broker: no answer is larger, but for a first batch.
const BYTES_MAX: i32 = 55 << 20;

/// A fetch whose answer may have to wait.
pub(crate) struct FetchWait {
    node: i32,
    wants: Vec<(Key, Want)>,
    watched: Vec<(Uuid, i32)>,
    min_bytes: i32,
    bytes_max: i32,
    committed_only: bool,
    follower_ok: bool,
    /// The session to answer in, and whether only news is told.
    session: Option<(i32, bool)>,
}

impl Served for FetchRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<FetchResponse> {
        // A rule without topic fails the request as a whole, where its version can say so.
        if let (Some(code), true) = (call.injected("", -1), call.version >= 7) {
            let error_code = core.error(call, code);
            return Answer::Now(FetchResponse { error_code, ..FetchResponse::default() });
        }
        let (wants, session) = match open(core, call, &request) {
            Ok(opened) => opened,
            Err(code) => {
                let error_code = core.error(call, code);
                return Answer::Now(FetchResponse { error_code, ..FetchResponse::default() });
            }
        };
        let mut wait = FetchWait {
            node: call.node,
            watched: Vec::new(),
            wants,
            min_bytes: request.min_bytes,
            bytes_max: request.max_bytes.min(BYTES_MAX),
            committed_only: request.isolation_level == 1,
            follower_ok: call.version >= 11,
            session,
        };
        if request.max_wait_ms <= 0 || wait.wants.is_empty() || call.injected_any() || wait.is_ready(core) {
            return Answer::Now(wait.complete(core, call));
        }
        let id_of = |key: &Key| {
            Some((core.cluster.topics.get(&topic_name(&core.cluster, &key.topic, key.topic_id)?)?.id, key.partition))
        };
        wait.watched = wait.wants.iter().filter_map(|(key, _)| id_of(key)).collect();
        let until = call.now.mono + std::time::Duration::from_millis(request.max_wait_ms.unsigned_abs().into());
        Answer::Later(Wait::Fetch(Box::new(wait)), until)
    }

    fn named(&self, cluster: &Cluster) -> Vec<(String, i32)> {
        let mut named = Vec::new();
        for topic in &self.topics {
            let Some(name) = topic_name(cluster, &topic.topic, topic.topic_id) else { continue };
            named.extend(topic.partitions.iter().map(|part| (name.clone(), part.partition)));
        }
        named
    }

    fn throttle(response: &mut FetchResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

type Opened = (Vec<(Key, Want)>, Option<(i32, bool)>);

/// Finds or makes the session of a request and what is to be fetched.
fn open(core: &mut BrokerCore, call: &Call, request: &FetchRequest) -> Result<Opened, ErrorCode> {
    let by_ids = call.version >= 13;
    let mut asked = Vec::new();
    for topic in &request.topics {
        for part in &topic.partitions {
            let key = Key { topic: topic.topic.clone(), topic_id: topic.topic_id, partition: part.partition };
            let want = Want {
                offset: part.fetch_offset,
                bytes_max: part.partition_max_bytes,
                leader_epoch: part.current_leader_epoch,
                last_fetched_epoch: part.last_fetched_epoch,
            };
            asked.push((key, want));
        }
    }
    let (id, epoch) = (request.session_id, request.session_epoch);
    if call.version < 7 {
        return Ok((asked, None));
    }
    let now = call.now.mono;
    let sessions = core.sessions.entry(call.node).or_default();
    if epoch == FINAL_EPOCH || epoch == INITIAL_EPOCH {
        if id != 0 {
            sessions.close(id);
        }
        if epoch == FINAL_EPOCH {
            return Ok((asked, None));
        }
        let fresh = loop {
            let fresh = 1 + core.rng.below(i32::MAX as u64 - 1) as i32;
            if !sessions.knows(fresh) {
                break fresh;
            }
        };
        let (slots, idle) = (core.options.fetch_sessions_max, core.options.fetch_session_idle);
        let Some((session, evicted)) = sessions.open(fresh, by_ids, slots, idle, now) else { return Ok((asked, None)) };
        for (key, want) in &asked {
            session.want(key.clone(), *want);
        }
        core.counters.fetch_sessions_created += 1;
        core.counters.fetch_sessions_evicted += u64::from(evicted);
        return Ok((asked, Some((fresh, false))));
    }
    let session = sessions.step(id, epoch, by_ids, now)?;
    for (key, want) in asked {
        session.want(key, want);
    }
    for topic in &request.forgotten_topics_data {
        for partition in &topic.partitions {
            session.forget(&Key { topic: topic.topic.clone(), topic_id: topic.topic_id, partition: *partition });
        }
    }
    core.counters.fetches_incremental += 1;
    if session.is_empty() {
        // Nothing left to fetch: the session ends, and the answer says so with id 0.
        sessions.close(id);
        return Ok((Vec::new(), None));
    }
    Ok((session.wants(), Some((id, true))))
}

/// What a partition has for a fetch.
struct Found<'a> {
    state: &'a Partition,
    end: i64,
    diverging: Option<(i32, i64)>,
}

impl FetchWait {
    /// The partitions whose change may make it ready.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (Uuid, i32)> + '_ {
        self.watched.iter().copied()
    }

    fn find<'a>(&self, core: &'a BrokerCore, key: &Key, want: &Want) -> Result<Found<'a>, ErrorCode> {
        let name = topic_name(&core.cluster, &key.topic, key.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
        let state = core.served_partition(self.node, &name, key.partition, want.leader_epoch, self.follower_ok)?;
        // All replicas are in step and nothing is transactional yet: high watermark = last stable offset = log end.
        let end = if self.committed_only { state.last_stable_offset() } else { state.log.next_offset() };
        if want.last_fetched_epoch >= 0 {
            let (epoch, end_offset) = state.log.end_of_epoch(want.last_fetched_epoch);
            if end_offset < 0 {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            if epoch < want.last_fetched_epoch || end_offset < want.offset {
                return Ok(Found { state, end, diverging: Some((epoch, end_offset)) });
            }
        }
        if want.offset < state.log.start_offset() || want.offset > state.log.next_offset() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        Ok(Found { state, end, diverging: None })
    }

    /// Whether the answer need not wait longer: enough bytes, or something to say at once.
    pub(crate) fn is_ready(&self, core: &BrokerCore) -> bool {
        let mut bytes = 0u64;
        for (key, want) in &self.wants {
            match self.find(core, key, want) {
                Err(_) | Ok(Found { diverging: Some(_), .. }) => return true,
                Ok(found) => {
                    let there = found.state.log.bytes_from(want.offset, found.end);
                    bytes += there.min(u64::try_from(want.bytes_max).unwrap_or(0));
                }
            }
            if bytes >= u64::try_from(self.min_bytes).unwrap_or(0) {
                return true;
            }
        }
        false
    }

    /// Reads what is there now and tells it.
    pub(crate) fn complete(&self, core: &mut BrokerCore, call: &Call) -> FetchResponse {
        let mut left = usize::try_from(self.bytes_max).unwrap_or(0);
        let mut any = false;
        let mut moved: Vec<i32> = Vec::new();
        let mut answer = FetchResponse::default();
        let partial = core.options.partial_batches;
        for (key, want) in &self.wants {
            let name = topic_name(&core.cluster, &key.topic, key.topic_id);
            let injected = name.as_deref().and_then(|name| call.injected(name, key.partition));
            let found = match injected {
                Some(code) => Err(code),
                None => self.find(core, key, want),
            };
            let mut told = PartitionData {
                partition_index: key.partition,
                records: Some(Bytes::new()),
                aborted_transactions: None,
                preferred_read_replica: -1,
                ..PartitionData::default()
            };
            let mut error = ErrorCode::None;
            match found {
                Ok(found) => {
                    told.high_watermark = found.state.log.next_offset();
                    told.last_stable_offset = found.state.last_stable_offset();
                    told.log_start_offset = found.state.log.start_offset();
                    if self.committed_only {
                        told.aborted_transactions = Some(Vec::new());
                    }
                    if let Some((epoch, end_offset)) = found.diverging {
                        told.diverging_epoch = EpochEndOffset { epoch, end_offset, ..EpochEndOffset::default() };
                    } else {
                        let limit = usize::try_from(want.bytes_max).unwrap_or(0).min(left);
                        let records = found.state.log.read(want.offset, found.end, limit, !any, partial);
                        any |= !records.is_empty();
                        left = left.saturating_sub(records.len());
                        told.records = Some(records);
                    }
                }
                Err(code) => {
                    error = code;
                    told.high_watermark = -1;
                    told.log_start_offset = -1;
                    told.last_stable_offset = -1;
                    let state = name.as_deref().and_then(|name| core.cluster.partition(name, key.partition));
                    let leader_news = matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
                    if let (true, true, Some(state)) = (leader_news, call.version >= 12, state) {
                        told.current_leader = LeaderIdAndEpoch {
                            leader_id: state.leader,
                            leader_epoch: state.leader_epoch,
                            ..LeaderIdAndEpoch::default()
                        };
                        moved.push(state.leader);
                    }
                    // As Kafka: what its metadata lacks is answered with an empty list, not with null.
                    if matches!(code, ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId) {
                        told.aborted_transactions = Some(Vec::new());
                    }
                    told.error_code = core.error(call, code);
                }
            }
            if let Some((id, incremental)) = self.session {
                let fact = Told {
                    high_watermark: told.high_watermark,
                    log_start: told.log_start_offset,
                    has_records: told.records.as_ref().is_some_and(|records| !records.is_empty()),
                    is_special: !error.is_none() || told.diverging_epoch.epoch >= 0,
                    is_error: !error.is_none(),
                };
                let session = core.sessions.get_mut(&call.node).and_then(|sessions| sessions.get_mut(id));
                let tell = session.is_none_or(|session| session.must_tell(key, fact));
                if incremental && !tell {
                    continue;
                }
            }
            match answer.responses.last_mut().filter(|last| last.topic == key.topic && last.topic_id == key.topic_id) {
                Some(topic) => topic.partitions.push(told),
                None => answer.responses.push(FetchableTopicResponse {
                    topic: key.topic.clone(),
                    topic_id: key.topic_id,
                    partitions: vec![told],
                    ..FetchableTopicResponse::default()
                }),
            }
        }
        answer.session_id = self.session.map_or(0, |(id, _)| id);
        if call.version >= 16 {
            moved.sort_unstable();
            moved.dedup();
            let endpoint = |node: &Node| NodeEndpoint {
                node_id: node.id,
                host: node.host.clone(),
                port: i32::from(node.port),
                rack: node.rack.clone(),
                ..NodeEndpoint::default()
            };
            answer.node_endpoints = moved.iter().filter_map(|id| core.cluster.node(*id)).map(endpoint).collect();
        }
        answer
    }
}
