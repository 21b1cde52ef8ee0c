//! Looking at topics and the cluster, by Metadata.

use super::{Admin, AdminCall, AdminError, deduplicated};
use crate::base::ids::Uuid;
use crate::control::{Job, JobCall, JobError, Next, Target};
use crate::mesh::Promise;
use crate::proto::cluster::Snapshot;
use crate::wire::messages::metadata::request::MetadataRequestTopic;
use crate::wire::messages::metadata::response::MetadataResponseTopic;
use crate::wire::messages::{MetadataRequest, MetadataResponse};
use crate::wire::{ApiKey, ErrorCode, Message, Reader};

/// A topic as brokers describe it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id; zero from brokers without topic ids.
    pub id: Uuid,
    /// Kafka's own topic.
    pub internal: bool,
    /// By index.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition as brokers describe it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionInfo {
    /// Its index.
    pub index: i32,
    /// Its leader, if it has one.
    pub leader: Option<i32>,
    /// The leader's epoch; -1 from brokers that do not say.
    pub leader_epoch: i32,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub isr: Vec<i32>,
    /// Those offline.
    pub offline: Vec<i32>,
}

/// The cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterInfo {
    /// Its id.
    pub id: Option<String>,
    /// The controller, or whom brokers name as such.
    pub controller: Option<i32>,
    /// All brokers, by id.
    pub brokers: Vec<BrokerInfo>,
}

/// A broker.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BrokerInfo {
    /// Its `node.id`.
    pub id: i32,
    /// Where it listens.
    pub host: String,
    /// Where it listens.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// What came of a description, by name, in the order of asking.
type Described = Vec<(String, Result<TopicInfo, AdminError>)>;

impl Admin {
    /// All topics that this client may see, by name.
    pub fn list_topics(&self) -> AdminCall<Vec<TopicInfo>> {
        self.start(|promise| {
            Ask::new(None, |_, _, topics| topics.into_iter().filter_map(Result::ok).collect(), promise)
        })
    }

    /// These topics. One that does not exist has an error of its own and is not created by asking.
    pub fn describe_topics<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> AdminCall<Described> {
        let names = deduplicated(names.into_iter().map(Into::into), String::clone);
        let match_up = |names: Vec<String>, _: ClusterInfo, topics: Vec<Result<TopicInfo, AdminError>>| {
            let find = |name: String| {
                let found = topics.iter().find(|topic| subject(topic) == name).cloned();
                let missing = || Err(AdminError::NotAnswered { subject: name.clone(), api: ApiKey::Metadata });
                let found = found.unwrap_or_else(missing);
                (name, found)
            };
            names.into_iter().map(find).collect()
        };
        self.start(|promise| Ask::new(Some(names), match_up, promise))
    }

    /// Brokers, controller and cluster id, as a broker says now.
    pub fn describe_cluster(&self) -> AdminCall<ClusterInfo> {
        self.start(|promise| Ask::new(Some(Vec::new()), |_, cluster, _| cluster, promise))
    }
}

fn subject(topic: &Result<TopicInfo, AdminError>) -> &str {
    match topic {
        Ok(topic) => &topic.name,
        Err(AdminError::Broker { subject, .. }) => subject,
        Err(_) => "",
    }
}

/// What was asked for, the cluster, and the topics answered.
type Finish<T> = fn(Vec<String>, ClusterInfo, Vec<Result<TopicInfo, AdminError>>) -> T;

/// One Metadata question.
struct Ask<T> {
    /// All topics if none.
    names: Option<Vec<String>>,
    finish: Finish<T>,
    answer: Option<(ClusterInfo, Vec<Result<TopicInfo, AdminError>>)>,
    promise: Promise<Result<T, AdminError>>,
}

impl<T> Ask<T> {
    fn new(names: Option<Vec<String>>, finish: Finish<T>, promise: Promise<Result<T, AdminError>>) -> Self {
        Self { names, finish, answer: None, promise }
    }
}

impl<T: Send> Job for Ask<T> {
    fn calls(&mut self, _: &Snapshot) -> Vec<JobCall> {
        if self.answer.is_some() {
            return Vec::new();
        }
        vec![metadata_call(self.names.as_deref())]
    }

    fn on_reply(&mut self, _: usize, version: i16, body: &[u8]) -> Next {
        let Ok(answer) = MetadataResponse::decode(version, &mut Reader::new(body)) else {
            return Next::Fail(JobError::Malformed(ApiKey::Metadata));
        };
        let code = ErrorCode::from(answer.error_code);
        if code != ErrorCode::None {
            return if code.verdict().is_retriable() {
                Next::AgainElsewhere
            } else {
                Next::Fail(JobError::Broker(code, String::new()))
            };
        }
        let mut brokers: Vec<BrokerInfo> = answer
            .brokers
            .into_iter()
            .map(|broker| BrokerInfo { id: broker.node_id, host: broker.host, port: broker.port, rack: broker.rack })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        let controller = (answer.controller_id >= 0).then_some(answer.controller_id);
        let mut topics: Vec<_> = answer.topics.into_iter().map(topic_info).collect();
        topics.sort_by(|a, b| subject(a).cmp(subject(b)));
        self.answer = Some((ClusterInfo { id: answer.cluster_id, controller, brokers }, topics));
        Next::Done
    }

    fn end(self: Box<Self>, outcome: Result<(), JobError>) {
        let this = *self;
        let done = match (outcome, this.answer) {
            (Ok(()), Some((cluster, topics))) => Ok((this.finish)(this.names.unwrap_or_default(), cluster, topics)),
            (Ok(()), None) => Err(JobError::Closed.into()),
            (Err(error), _) => Err(error.into()),
        };
        this.promise.fulfil(done);
    }
}

/// Asks for these topics (all if none) without creating any.
pub(super) fn metadata_call(names: Option<&[String]>) -> JobCall {
    let topic = |name: &String| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() };
    let topics = names.map(|names| names.iter().map(topic).collect());
    let request = MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() };
    // Before version 4 a broker might create what it is asked for.
    JobCall::new(Target::Any, request).within(4, i16::MAX)
}

fn topic_info(topic: MetadataResponseTopic) -> Result<TopicInfo, AdminError> {
    let name = topic.name.unwrap_or_default();
    let code = ErrorCode::from(topic.error_code);
    if code != ErrorCode::None {
        return Err(AdminError::broker(name, code, None));
    }
    let mut partitions: Vec<PartitionInfo> = topic
        .partitions
        .into_iter()
        .map(|partition| PartitionInfo {
            index: partition.partition_index,
            leader: (partition.leader_id >= 0).then_some(partition.leader_id),
            leader_epoch: partition.leader_epoch,
            replicas: partition.replica_nodes,
            isr: partition.isr_nodes,
            offline: partition.offline_replicas,
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    Ok(TopicInfo { name, id: topic.topic_id, internal: topic.is_internal, partitions })
}
