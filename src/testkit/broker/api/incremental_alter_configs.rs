//! IncrementalAlterConfigs, versions 0 and 1: set (0), delete (1), append (2) and subtract (3) entries of a topic.
//!
//! Deviations from Kafka: topics only; other resource types are INVALID_REQUEST.

use std::collections::BTreeMap;

use super::super::core::{Answer, BrokerCore, Call};
use super::super::options::{ConfigKind, topic_config};
use super::super::record::Refusal;
use super::Served;
use super::alter_configs::{check, set};
use crate::wire::ErrorCode;
use crate::wire::messages::incremental_alter_configs::request::AlterConfigsResource;
use crate::wire::messages::incremental_alter_configs::response::AlterConfigsResourceResponse;
use crate::wire::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

impl Served for IncrementalAlterConfigsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<IncrementalAlterConfigsResponse> {
        let mut answer = IncrementalAlterConfigsResponse::default();
        for resource in request.resources {
            let mut told = AlterConfigsResourceResponse {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                error_message: None,
                ..AlterConfigsResourceResponse::default()
            };
            let done = check(call, resource.resource_type, &resource.resource_name)
                .and_then(|()| changed(core, &resource))
                .and_then(|configs| set(core, &resource.resource_name, configs, request.validate_only));
            if let Err(refusal) = done {
                told.error_code = core.error(call, refusal.code);
                told.error_message = Some(refusal.message);
            }
            answer.responses.push(told);
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut IncrementalAlterConfigsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

/// The topic's entries as they will be.
fn changed(core: &BrokerCore, resource: &AlterConfigsResource) -> Result<BTreeMap<String, String>, Refusal> {
    let mut configs = match core.cluster.topics.get(&resource.resource_name) {
        Some(topic) => topic.configs.clone(),
        None => return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, "The topic does not exist.")),
    };
    for change in &resource.configs {
        let (name, value) = (change.name.clone(), change.value.clone());
        let Some(known) = topic_config(&name) else {
            return Err(Refusal::new(ErrorCode::InvalidConfig, format!("Unknown topic config name: {name}")));
        };
        let items = |text: &str| {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        match (change.config_operation, value) {
            (1, _) => drop(configs.remove(&name)),
            (0, Some(value)) => drop(configs.insert(name, value)),
            (operation @ (2 | 3), Some(value)) if known.kind == ConfigKind::List => {
                let mut list = items(configs.get(&name).map_or(known.default, String::as_str));
                for item in items(&value) {
                    list.retain(|old| *old != item);
                    if operation == 2 {
                        list.push(item);
                    }
                }
                configs.insert(name, list.join(","));
            }
            (2 | 3, Some(_)) => {
                let message = format!("Can't append or subtract to {name}: it is not a list.");
                return Err(Refusal::new(ErrorCode::InvalidConfig, message));
            }
            (0 | 2 | 3, None) => return Err(Refusal::new(ErrorCode::InvalidRequest, format!("Null value for {name}"))),
            (other, _) => return Err(Refusal::new(ErrorCode::InvalidRequest, format!("Unknown operation {other}"))),
        }
    }
    Ok(configs)
}
