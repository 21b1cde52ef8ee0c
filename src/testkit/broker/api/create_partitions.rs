//! CreatePartitions, versions 0 to 3: more partitions, never fewer.

use super::super::core::{Answer, BrokerCore, Call};
use super::super::record::Refusal;
use super::Served;
use crate::wire::ErrorCode;
use crate::wire::messages::create_partitions::request::CreatePartitionsTopic;
use crate::wire::messages::create_partitions::response::CreatePartitionsTopicResult;
use crate::wire::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

impl Served for CreatePartitionsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<CreatePartitionsResponse> {
        let mut answer = CreatePartitionsResponse::default();
        for topic in &request.topics {
            let done = match call.injected(&topic.name, -1) {
                Some(code) => Err(Refusal::new(code, "injected")),
                None => grow(core, topic, request.validate_only),
            };
            let mut told =
                CreatePartitionsTopicResult { name: topic.name.clone(), ..CreatePartitionsTopicResult::default() };
            if let Err(refusal) = done {
                told.error_code = core.error(call, refusal.code);
                told.error_message = Some(refusal.message);
            }
            answer.results.push(told);
        }
        Answer::Now(answer)
    }

    fn named(&self, _: &super::super::cluster::Cluster) -> Vec<(String, i32)> {
        self.topics.iter().map(|topic| (topic.name.clone(), -1)).collect()
    }

    fn throttle(response: &mut CreatePartitionsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn grow(core: &mut BrokerCore, topic: &CreatePartitionsTopic, dry: bool) -> Result<(), Refusal> {
    let Some(state) = core.cluster.topics.get(&topic.name) else {
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, "No such topic."));
    };
    let (has, replication) = (state.partitions.len(), state.partitions.first().map_or(1, |p| p.replicas.len()));
    let count = usize::try_from(topic.count).unwrap_or(0);
    if count <= has || count > 10_000 {
        let message = format!("Topic currently has {has} partitions, and {} would not be an increase.", topic.count);
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    let assignments: Option<Vec<Vec<i32>>> =
        topic.assignments.as_ref().map(|given| given.iter().map(|assignment| assignment.broker_ids.clone()).collect());
    if let Some(given) = &assignments {
        let sound = |ids: &Vec<i32>| ids.len() == replication && ids.iter().all(|id| core.cluster.node(*id).is_some());
        if given.len() != count - has || !given.iter().all(sound) {
            return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, "Replica assignment does not fit."));
        }
    }
    if !dry {
        core.cluster.grow_topic(&topic.name, count, assignments);
    }
    Ok(())
}
