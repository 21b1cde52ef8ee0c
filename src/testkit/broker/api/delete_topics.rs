//! DeleteTopics, versions 1 to 6: by name, from version 6 also by id.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use crate::base::ids::Uuid;
use crate::wire::ErrorCode;
use crate::wire::messages::delete_topics::response::DeletableTopicResult;
use crate::wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

impl Served for DeleteTopicsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DeleteTopicsResponse> {
        let asked: Vec<(Option<String>, Uuid)> = if call.version >= 6 {
            request.topics.into_iter().map(|topic| (topic.name, topic.topic_id)).collect()
        } else {
            request.topic_names.into_iter().map(|name| (Some(name), Uuid::ZERO)).collect()
        };
        let mut answer = DeleteTopicsResponse::default();
        for (name, id) in asked {
            let by_id = !id.is_zero();
            let found = if by_id { core.cluster.name_of(id).map(str::to_owned) } else { name.clone() };
            let topic_id = found.as_deref().and_then(|name| core.cluster.topics.get(name)).map_or(id, |topic| topic.id);
            let code = match (&found, call.injected(found.as_deref().unwrap_or(""), -1)) {
                (_, Some(code)) => code,
                _ if by_id && name.is_some() => ErrorCode::InvalidRequest,
                (None, None) if by_id => ErrorCode::UnknownTopicId,
                (None, None) => ErrorCode::InvalidRequest,
                (Some(name), None) if core.delete_topic(name) => ErrorCode::None,
                (Some(_), None) => ErrorCode::UnknownTopicOrPartition,
            };
            answer.responses.push(DeletableTopicResult {
                name: found.or(name),
                topic_id,
                error_code: core.error(call, code),
                error_message: (!code.is_none()).then(|| code.text().into()),
                ..DeletableTopicResult::default()
            });
        }
        Answer::Now(answer)
    }

    fn named(&self, cluster: &super::super::cluster::Cluster) -> Vec<(String, i32)> {
        let by_state = self
            .topics
            .iter()
            .filter_map(|t| t.name.clone().or_else(|| cluster.name_of(t.topic_id).map(str::to_owned)));
        by_state.chain(self.topic_names.iter().cloned()).map(|name| (name, -1)).collect()
    }

    fn throttle(response: &mut DeleteTopicsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
