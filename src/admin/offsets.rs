//! Offsets of partitions: the first, the next, or by time. Leaders answer, so leaders are found first.

use std::collections::BTreeMap;

use super::describe::metadata_call;
use super::{Admin, AdminCall, AdminError, deduplicated};
use crate::base::ids::BrokerId;
use crate::config::IsolationLevel;
use crate::control::{CallLost, Job, JobCall, JobError, Next, Target};
use crate::mesh::Promise;
use crate::proto::cluster::Snapshot;
use crate::wire::messages::list_offsets::request::{ListOffsetsPartition, ListOffsetsTopic};
use crate::wire::messages::{ListOffsetsRequest, ListOffsetsResponse, MetadataResponse};
use crate::wire::{ApiKey, ErrorCode, Message, Reader};

/// Which offset of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetSpec {
    /// Of the first record that still exists.
    Earliest,
    /// Of the next record to be written; with [`IsolationLevel::ReadCommitted`] the last stable offset.
    Latest,
    /// Of the first record with this timestamp (milliseconds since 1970) or a later one.
    At(i64),
    /// Of the record with the highest timestamp (Kafka 3.0 and later).
    MaxTimestamp,
}

impl OffsetSpec {
    const fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::At(ms) => ms,
        }
    }

    /// The first version of ListOffsets that answers with one offset and knows this.
    const fn version_min(self) -> i16 {
        match self {
            Self::MaxTimestamp => 7,
            _ => 1,
        }
    }
}

/// An offset that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedOffset {
    /// The offset; none when no record has the timestamp asked for or a later one.
    pub offset: Option<i64>,
    /// Timestamp of the record at that offset, when the question was about time.
    pub timestamp: Option<i64>,
    /// Epoch of the leader that wrote it; -1 where brokers do not say.
    pub leader_epoch: i32,
}

/// Topic and partition.
type Subject = (String, i32);
type Outcomes = Vec<(Subject, Result<ListedOffset, AdminError>)>;

impl Admin {
    /// Offsets of these partitions. Partitions without a leader are asked for again until the timeout.
    pub fn list_offsets<S: Into<String>>(
        &self,
        wanted: impl IntoIterator<Item = (S, i32, OffsetSpec)>,
        isolation: IsolationLevel,
    ) -> AdminCall<Outcomes> {
        let wanted = wanted.into_iter().map(|(topic, partition, spec)| Item {
            subject: (topic.into(), partition),
            spec,
            leader: None,
            trouble: None,
            outcome: None,
        });
        let items = deduplicated(wanted, |item| item.subject.clone());
        let timeout_ms = self.broker_timeout_ms();
        self.start(|promise| ListOffsets { items, isolation, timeout_ms, round: Vec::new(), promise })
    }
}

struct Item {
    subject: Subject,
    spec: OffsetSpec,
    leader: Option<(BrokerId, i32)>,
    /// What stood in the way last.
    trouble: Option<ErrorCode>,
    outcome: Option<Result<ListedOffset, AdminError>>,
}

/// What a call of the round is about.
enum Asked {
    Leaders,
    /// Which items.
    Offsets(Vec<usize>),
}

struct ListOffsets {
    items: Vec<Item>,
    isolation: IsolationLevel,
    timeout_ms: i32,
    round: Vec<Asked>,
    promise: Promise<Result<Outcomes, AdminError>>,
}

impl ListOffsets {
    /// Calls to every leader known, for the items that lack an outcome.
    fn offset_calls(&mut self) -> Vec<JobCall> {
        let mut by_leader: BTreeMap<BrokerId, Vec<usize>> = BTreeMap::new();
        for (index, item) in self.items.iter().enumerate() {
            if let (None, Some((leader, _))) = (&item.outcome, item.leader) {
                by_leader.entry(leader).or_default().push(index);
            }
        }
        let mut calls = Vec::with_capacity(by_leader.len());
        for (leader, indexes) in by_leader {
            let mut topics: Vec<ListOffsetsTopic> = Vec::new();
            let mut version_min = 1;
            for item in indexes.iter().map(|index| &self.items[*index]) {
                version_min = version_min.max(item.spec.version_min());
                let partition = ListOffsetsPartition {
                    partition_index: item.subject.1,
                    current_leader_epoch: item.leader.map_or(-1, |(_, epoch)| epoch),
                    timestamp: item.spec.timestamp(),
                    ..Default::default()
                };
                match topics.iter_mut().find(|topic| topic.name == item.subject.0) {
                    Some(topic) => topic.partitions.push(partition),
                    None => topics.push(ListOffsetsTopic {
                        name: item.subject.0.clone(),
                        partitions: vec![partition],
                        ..Default::default()
                    }),
                }
            }
            let committed = self.isolation == IsolationLevel::ReadCommitted;
            let request = ListOffsetsRequest {
                replica_id: -1,
                isolation_level: self.isolation.wire(),
                topics,
                timeout_ms: self.timeout_ms,
                ..Default::default()
            };
            // The isolation level exists from version 2 on.
            let version_min = if committed { version_min.max(2) } else { version_min };
            calls.push(JobCall::new(Target::Broker(leader), request).within(version_min, i16::MAX));
            self.round.push(Asked::Offsets(indexes));
        }
        calls
    }

    fn on_leaders(&mut self, version: i16, body: &[u8]) -> Next {
        let Ok(answer) = MetadataResponse::decode(version, &mut Reader::new(body)) else {
            return Next::Fail(JobError::Malformed(ApiKey::Metadata));
        };
        let mut again = false;
        for item in self.items.iter_mut().filter(|item| item.outcome.is_none() && item.leader.is_none()) {
            let topic = answer.topics.iter().find(|topic| topic.name.as_deref() == Some(item.subject.0.as_str()));
            let partition =
                topic.and_then(|topic| topic.partitions.iter().find(|p| p.partition_index == item.subject.1));
            let code = match (topic, partition) {
                (_, Some(partition)) if partition.leader_id >= 0 => {
                    item.leader = Some((BrokerId(partition.leader_id), partition.leader_epoch));
                    continue;
                }
                (_, Some(_)) => ErrorCode::LeaderNotAvailable,
                (Some(topic), None) if topic.error_code != 0 => ErrorCode::from(topic.error_code),
                _ => ErrorCode::UnknownTopicOrPartition,
            };
            item.trouble = Some(code);
            if code == ErrorCode::LeaderNotAvailable {
                again = true;
            } else {
                item.outcome = Some(Err(AdminError::broker(name(&item.subject), code, None)));
            }
        }
        if again { Next::AgainElsewhere } else { Next::Done }
    }

    fn on_offsets(&mut self, indexes: &[usize], version: i16, body: &[u8]) -> Next {
        let Ok(answer) = ListOffsetsResponse::decode(version, &mut Reader::new(body)) else {
            return Next::Fail(JobError::Malformed(ApiKey::ListOffsets));
        };
        let mut again = false;
        for index in indexes {
            let item = &mut self.items[*index];
            let topics = answer.topics.iter().filter(|topic| topic.name == item.subject.0);
            let found = topics.flat_map(|topic| &topic.partitions).find(|p| p.partition_index == item.subject.1);
            let Some(found) = found else {
                let subject = name(&item.subject);
                item.outcome = Some(Err(AdminError::NotAnswered { subject, api: ApiKey::ListOffsets }));
                continue;
            };
            let code = ErrorCode::from(found.error_code);
            if code == ErrorCode::None {
                item.outcome = Some(Ok(ListedOffset {
                    offset: (found.offset >= 0).then_some(found.offset),
                    timestamp: (found.timestamp >= 0).then_some(found.timestamp),
                    leader_epoch: found.leader_epoch,
                }));
            } else if code.verdict().is_retriable() {
                // Fenced, moved, not yet known: whoever leads now is found anew.
                item.trouble = Some(code);
                item.leader = None;
                again = true;
            } else {
                item.outcome = Some(Err(AdminError::broker(name(&item.subject), code, None)));
            }
        }
        if again { Next::AgainElsewhere } else { Next::Done }
    }
}

impl Job for ListOffsets {
    fn calls(&mut self, _: &Snapshot) -> Vec<JobCall> {
        self.round.clear();
        let mut unled: Vec<String> = self
            .items
            .iter()
            .filter(|item| item.outcome.is_none() && item.leader.is_none())
            .map(|item| item.subject.0.clone())
            .collect();
        if !unled.is_empty() {
            unled.sort();
            unled.dedup();
            self.round.push(Asked::Leaders);
            return vec![metadata_call(Some(&unled))];
        }
        self.offset_calls()
    }

    fn on_reply(&mut self, index: usize, version: i16, body: &[u8]) -> Next {
        match self.round.get_mut(index) {
            Some(Asked::Leaders) => self.on_leaders(version, body),
            Some(Asked::Offsets(indexes)) => {
                let indexes = std::mem::take(indexes);
                self.on_offsets(&indexes, version, body)
            }
            None => Next::Done,
        }
    }

    fn on_lost(&mut self, index: usize, _: &CallLost) -> Next {
        if let Some(Asked::Offsets(indexes)) = self.round.get(index) {
            for index in indexes {
                self.items[*index].leader = None;
            }
        }
        Next::AgainElsewhere
    }

    fn end(self: Box<Self>, ended: Result<(), JobError>) {
        let this = *self;
        let late = ended.err();
        if let (Some(error), true) =
            (&late, this.items.iter().all(|item| item.outcome.is_none() && item.trouble.is_none()))
        {
            this.promise.fulfil(Err(error.clone().into()));
            return;
        }
        let outcomes = this.items.into_iter().map(|item| {
            let missing = || {
                Err(match item.trouble {
                    Some(code) => AdminError::broker(name(&item.subject), code, None),
                    None => AdminError::Job(late.clone().unwrap_or(JobError::Closed)),
                })
            };
            let outcome = item.outcome.unwrap_or_else(missing);
            (item.subject, outcome)
        });
        this.promise.fulfil(Ok(outcomes.collect()));
    }
}

fn name((topic, partition): &Subject) -> String {
    format!("{topic}[{partition}]")
}
