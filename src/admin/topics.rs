//! Creating, deleting and growing topics: requests that the controller carries out.

use std::time::Duration;

use super::{Admin, AdminCall, AdminError, deduplicated};
use crate::base::ids::Uuid;
use crate::control::{AnyRequest, Job, JobCall, JobError, Next, Target};
use crate::mesh::Promise;
use crate::proto::cluster::Snapshot;
use crate::proto::connection::encode_head;
use crate::wire::messages::create_partitions::request::CreatePartitionsTopic;
use crate::wire::messages::create_topics::request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use crate::wire::messages::delete_topics::request::DeleteTopicState;
use crate::wire::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse,
};
use crate::wire::{ApiKey, DecodeError, EncodeError, ErrorCode, Message, Reader, Verdict};

/// A topic to create.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 takes the broker's default (`num.partitions`).
    pub partitions: i32,
    /// How many replicas of each; -1 takes the broker's default.
    pub replication: i16,
    /// Replicas of each partition by broker, the preferred leader first, in place of the two numbers.
    pub assignments: Vec<Vec<i32>>,
    /// Topic settings, e.g. `cleanup.policy` = `compact`.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with so many partitions and the broker's default of replicas.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, replication: -1, ..Self::default() }
    }

    /// With so many replicas.
    pub fn replication(mut self, replication: i16) -> Self {
        self.replication = replication;
        self
    }

    /// With a topic setting.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((key.into(), value.into()));
        self
    }
}

/// A topic that was created.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id; zero from brokers that do not say.
    pub id: Uuid,
    /// Its partitions; -1 from brokers that do not say.
    pub partitions: i32,
    /// Replicas of each; -1 from brokers that do not say.
    pub replication: i16,
}

/// Outcomes by name, in the order of asking.
type Outcomes<T> = Vec<(String, Result<T, AdminError>)>;

impl Admin {
    /// Creates topics, or only checks whether they could be created. A topic that exists is an error of its own, also when a
    /// lost answer hides that an earlier try of this call has created it.
    pub fn create_topics(
        &self,
        topics: impl IntoIterator<Item = NewTopic>,
        validate_only: bool,
    ) -> AdminCall<Outcomes<CreatedTopic>> {
        let timeout_ms = self.broker_timeout_ms();
        let errand = Create { validate_only, timeout_ms };
        self.start(|promise| PerTopic::new(errand, deduplicated(topics, |topic| topic.name.clone()), promise))
    }

    /// Deletes topics by name.
    pub fn delete_topics<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> AdminCall<Outcomes<()>> {
        let timeout_ms = self.broker_timeout_ms();
        let names = deduplicated(names.into_iter().map(Into::into), String::clone);
        self.start(|promise| PerTopic::new(Delete { timeout_ms }, names, promise))
    }

    /// Grows topics to so many partitions in all.
    pub fn create_partitions<S: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = (S, i32)>,
        validate_only: bool,
    ) -> AdminCall<Outcomes<()>> {
        let timeout_ms = self.broker_timeout_ms();
        let topics =
            deduplicated(topics.into_iter().map(|(name, count)| (name.into(), count)), |(name, _)| name.clone());
        self.start(|promise| PerTopic::new(Grow { validate_only, timeout_ms }, topics, promise))
    }
}

/// One kind of request about several topics.
trait Errand: Send {
    /// What is asked for, per topic.
    type Item: Send;
    /// What comes of it.
    type Done: Send;
    const KEY: ApiKey;

    fn name(item: &Self::Item) -> &str;
    fn call(&self, items: &[&Self::Item]) -> JobCall;
    /// What an answer says.
    fn read(&self, version: i16, body: &[u8]) -> Result<Lines<Self::Done>, DecodeError>;
}

/// One topic's line of an answer: its name, code, words and result.
type Line<T> = (String, ErrorCode, Option<String>, T);

/// Throttle time in milliseconds, and the lines.
type Lines<T> = (i32, Vec<Line<T>>);

/// A topic asked for and, once known, what came of it.
type Open<E> = (<E as Errand>::Item, Option<Result<<E as Errand>::Done, AdminError>>);
type Done<E> = Promise<Result<Outcomes<<E as Errand>::Done>, AdminError>>;

struct PerTopic<E: Errand> {
    errand: E,
    items: Vec<Open<E>>,
    promise: Done<E>,
}

impl<E: Errand> PerTopic<E> {
    fn new(errand: E, items: Vec<E::Item>, promise: Done<E>) -> Self {
        Self { errand, items: items.into_iter().map(|item| (item, None)).collect(), promise }
    }
}

impl<E: Errand> Job for PerTopic<E> {
    fn calls(&mut self, _: &Snapshot) -> Vec<JobCall> {
        let open: Vec<&E::Item> = self.items.iter().filter(|(_, done)| done.is_none()).map(|(item, _)| item).collect();
        if open.is_empty() { Vec::new() } else { vec![self.errand.call(&open)] }
    }

    fn on_reply(&mut self, _: usize, version: i16, body: &[u8]) -> Next {
        let Ok((throttle_ms, lines)) = self.errand.read(version, body) else {
            return Next::Fail(JobError::Malformed(E::KEY));
        };
        let (mut moved, mut quota, mut mentioned) = (false, false, false);
        for (name, code, message, done) in lines {
            let Some((_, outcome)) =
                self.items.iter_mut().find(|(item, outcome)| outcome.is_none() && E::name(item) == name)
            else {
                continue;
            };
            mentioned = true;
            // As Java does: only what surely changed nothing is asked again.
            match code {
                ErrorCode::None => *outcome = Some(Ok(done)),
                ErrorCode::ThrottlingQuotaExceeded => quota = true,
                code if code.verdict() == Verdict::RefreshController => moved = true,
                code => *outcome = Some(Err(AdminError::broker(name, code, message.as_ref()))),
            }
        }
        if quota {
            let wait = u64::try_from(throttle_ms).unwrap_or(0).min(60_000);
            return Next::After(Duration::from_millis(wait));
        }
        if moved {
            return Next::AgainElsewhere;
        }
        if !mentioned {
            return Next::Fail(JobError::Malformed(E::KEY));
        }
        // What a broker passed over in silence is not asked for ever.
        for (item, outcome) in &mut self.items {
            outcome
                .get_or_insert_with(|| Err(AdminError::NotAnswered { subject: E::name(item).to_owned(), api: E::KEY }));
        }
        Next::Done
    }

    fn end(self: Box<Self>, ended: Result<(), JobError>) {
        let this = *self;
        let late = ended.err();
        let all_open = this.items.iter().all(|(_, outcome)| outcome.is_none());
        if let (Some(error), true) = (&late, all_open) {
            this.promise.fulfil(Err(error.clone().into()));
            return;
        }
        let outcomes = this.items.into_iter().map(|(item, outcome)| {
            let missing = || Err(AdminError::Job(late.clone().unwrap_or(JobError::Closed)));
            (E::name(&item).to_owned(), outcome.unwrap_or_else(missing))
        });
        this.promise.fulfil(Ok(outcomes.collect()));
    }
}

struct Create {
    validate_only: bool,
    timeout_ms: i32,
}

impl Errand for Create {
    type Item = NewTopic;
    type Done = CreatedTopic;
    const KEY: ApiKey = ApiKey::CreateTopics;

    fn name(item: &NewTopic) -> &str {
        &item.name
    }

    fn call(&self, items: &[&NewTopic]) -> JobCall {
        let topics = items.iter().map(|topic| {
            let assignments = topic.assignments.iter().zip(0..).map(|(brokers, partition_index)| {
                CreatableReplicaAssignment { partition_index, broker_ids: brokers.clone(), ..Default::default() }
            });
            let configs = topic.configs.iter().map(|(name, value)| CreatableTopicConfig {
                name: name.clone(),
                value: Some(value.clone()),
                ..Default::default()
            });
            // With replicas named one by one both numbers must be -1.
            let by_hand = !topic.assignments.is_empty();
            CreatableTopic {
                name: topic.name.clone(),
                num_partitions: if by_hand { -1 } else { topic.partitions },
                replication_factor: if by_hand { -1 } else { topic.replication },
                assignments: assignments.collect(),
                configs: configs.collect(),
                ..Default::default()
            }
        });
        let request = CreateTopicsRequest {
            topics: topics.collect(),
            timeout_ms: self.timeout_ms,
            validate_only: self.validate_only,
            ..Default::default()
        };
        JobCall::new(Target::Controller, request)
    }

    fn read(&self, version: i16, body: &[u8]) -> Result<Lines<CreatedTopic>, DecodeError> {
        let answer = CreateTopicsResponse::decode(version, &mut Reader::new(body))?;
        let lines = answer.topics.into_iter().map(|topic| {
            let created = CreatedTopic {
                name: topic.name.clone(),
                id: topic.topic_id,
                partitions: topic.num_partitions,
                replication: topic.replication_factor,
            };
            (topic.name, ErrorCode::from(topic.error_code), topic.error_message, created)
        });
        Ok((answer.throttle_time_ms, lines.collect()))
    }
}

struct Delete {
    timeout_ms: i32,
}

/// DeleteTopics has its names in one place up to version 5, in another from version 6 on.
struct DeleteByName {
    names: Vec<String>,
    timeout_ms: i32,
}

impl AnyRequest for DeleteByName {
    fn api(&self) -> ApiKey {
        ApiKey::DeleteTopics
    }

    fn encode(&self, version: i16, client_id: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut request = DeleteTopicsRequest { timeout_ms: self.timeout_ms, ..Default::default() };
        if version >= 6 {
            let state = |name: &String| DeleteTopicState { name: Some(name.clone()), ..Default::default() };
            request.topics = self.names.iter().map(state).collect();
        } else {
            request.topic_names.clone_from(&self.names);
        }
        encode_head(client_id, version, &request, out)
    }
}

impl Errand for Delete {
    type Item = String;
    type Done = ();
    const KEY: ApiKey = ApiKey::DeleteTopics;

    fn name(item: &String) -> &str {
        item
    }

    fn call(&self, items: &[&String]) -> JobCall {
        let names = items.iter().map(|name| (*name).clone()).collect();
        JobCall::new(Target::Controller, DeleteByName { names, timeout_ms: self.timeout_ms })
    }

    fn read(&self, version: i16, body: &[u8]) -> Result<Lines<()>, DecodeError> {
        let answer = DeleteTopicsResponse::decode(version, &mut Reader::new(body))?;
        let lines = answer
            .responses
            .into_iter()
            .map(|topic| (topic.name.unwrap_or_default(), ErrorCode::from(topic.error_code), topic.error_message, ()));
        Ok((answer.throttle_time_ms, lines.collect()))
    }
}

struct Grow {
    validate_only: bool,
    timeout_ms: i32,
}

impl Errand for Grow {
    type Item = (String, i32);
    type Done = ();
    const KEY: ApiKey = ApiKey::CreatePartitions;

    fn name(item: &(String, i32)) -> &str {
        &item.0
    }

    fn call(&self, items: &[&(String, i32)]) -> JobCall {
        let topics = items.iter().map(|(name, count)| CreatePartitionsTopic {
            name: name.clone(),
            count: *count,
            // The brokers choose.
            assignments: None,
            ..Default::default()
        });
        let request = CreatePartitionsRequest {
            topics: topics.collect(),
            timeout_ms: self.timeout_ms,
            validate_only: self.validate_only,
            ..Default::default()
        };
        JobCall::new(Target::Controller, request)
    }

    fn read(&self, version: i16, body: &[u8]) -> Result<Lines<()>, DecodeError> {
        let answer = CreatePartitionsResponse::decode(version, &mut Reader::new(body))?;
        let line = answer.results.into_iter();
        let lines = line.map(|topic| (topic.name, ErrorCode::from(topic.error_code), topic.error_message, ()));
        Ok((answer.throttle_time_ms, lines.collect()))
    }
}
