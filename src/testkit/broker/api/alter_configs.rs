//! AlterConfigs, versions 0 to 2: replaces all configuration entries of a topic.
//!
//! Deviations from Kafka: topics only; other resource types are INVALID_REQUEST.

use std::collections::BTreeMap;

use super::super::core::{Answer, BrokerCore, Call};
use super::super::options::TopicSettings;
use super::super::record::Refusal;
use super::Served;
use super::describe_configs::TOPIC;
use crate::wire::ErrorCode;
use crate::wire::messages::alter_configs::response::AlterConfigsResourceResponse;
use crate::wire::messages::{AlterConfigsRequest, AlterConfigsResponse};

/// Gives a topic these entries in place of those it had; `dry` only checks.
pub(super) fn set(
    core: &mut BrokerCore,
    topic: &str,
    configs: BTreeMap<String, String>,
    dry: bool,
) -> Result<(), Refusal> {
    let settings = TopicSettings::parse(&configs).map_err(|message| Refusal::new(ErrorCode::InvalidConfig, message))?;
    let Some(topic) = core.cluster.topics.get_mut(topic) else {
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, "The topic does not exist."));
    };
    if !dry {
        (topic.configs, topic.settings) = (configs, settings);
    }
    Ok(())
}

/// Refuses what is not a topic, or what a rule refuses.
pub(super) fn check(call: &Call, kind: i8, name: &str) -> Result<(), Refusal> {
    if let Some(code) = call.injected(name, -1) {
        return Err(Refusal::new(code, "injected"));
    }
    if kind != TOPIC {
        let message = format!("The embedded broker alters configs of topics only, not of resource type {kind}");
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    Ok(())
}

impl Served for AlterConfigsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<AlterConfigsResponse> {
        let mut answer = AlterConfigsResponse::default();
        for resource in request.resources {
            let mut told = AlterConfigsResourceResponse {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                error_message: None,
                ..AlterConfigsResourceResponse::default()
            };
            let configs =
                resource.configs.into_iter().filter_map(|config| Some((config.name, config.value?))).collect();
            let done = check(call, resource.resource_type, &resource.resource_name)
                .and_then(|()| set(core, &resource.resource_name, configs, request.validate_only));
            if let Err(refusal) = done {
                told.error_code = core.error(call, refusal.code);
                told.error_message = Some(refusal.message);
            }
            answer.responses.push(told);
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut AlterConfigsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
