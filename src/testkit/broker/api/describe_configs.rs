//! DescribeConfigs, versions 1 to 4: topics (type 2) with all of Kafka's entries, and of brokers (type 4) the few that
//! clients look at.

use super::super::core::{Answer, BrokerCore, Call};
use super::super::options::{ConfigKind, TOPIC_CONFIGS};
use super::super::record::Refusal;
use super::Served;
use crate::wire::ErrorCode;
use crate::wire::messages::describe_configs::response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

/// Resource type of a topic.
pub(super) const TOPIC: i8 = 2;
/// Resource type of a broker.
pub(super) const BROKER: i8 = 4;
/// Config source: set on the topic.
const DYNAMIC_TOPIC: i8 = 1;
/// Config source: in the broker's file.
const STATIC_BROKER: i8 = 4;
/// Config source: Kafka's default.
const DEFAULT: i8 = 5;

struct Entry {
    name: &'static str,
    value: String,
    source: i8,
    kind: ConfigKind,
}

impl Served for DescribeConfigsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DescribeConfigsResponse> {
        let mut answer = DescribeConfigsResponse::default();
        for resource in request.resources {
            let mut told = DescribeConfigsResult {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                error_message: None,
                ..DescribeConfigsResult::default()
            };
            let entries = match call.injected_for_all() {
                Some(code) => Err(Refusal::new(code, "injected")),
                None => entries(core, call, resource.resource_type, &resource.resource_name),
            };
            match entries {
                Err(refusal) => {
                    told.error_code = core.error(call, refusal.code);
                    told.error_message = Some(refusal.message);
                }
                Ok(entries) => {
                    let wanted = |entry: &Entry| {
                        let keys = resource.configuration_keys.as_ref();
                        keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| key == entry.name))
                    };
                    let describe = |entry: Entry| DescribeConfigsResourceResult {
                        name: entry.name.into(),
                        value: Some(entry.value.clone()),
                        read_only: resource.resource_type == BROKER,
                        config_source: entry.source,
                        synonyms: match request.include_synonyms {
                            true => vec![DescribeConfigsSynonym {
                                name: entry.name.into(),
                                value: Some(entry.value),
                                source: entry.source,
                                ..DescribeConfigsSynonym::default()
                            }],
                            false => Vec::new(),
                        },
                        config_type: if call.version >= 3 { entry.kind as i8 } else { 0 },
                        documentation: None,
                        ..DescribeConfigsResourceResult::default()
                    };
                    told.configs = entries.into_iter().filter(wanted).map(describe).collect();
                }
            }
            answer.results.push(told);
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut DescribeConfigsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn entries(core: &BrokerCore, call: &Call, kind: i8, name: &str) -> Result<Vec<Entry>, Refusal> {
    match kind {
        TOPIC => {
            let Some(topic) = core.cluster.topics.get(name) else {
                return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, "No such topic."));
            };
            let entry = |known: &super::super::options::ConfigEntry| {
                let set = topic.configs.get(known.name);
                Entry {
                    name: known.name,
                    value: set.cloned().unwrap_or_else(|| known.default.into()),
                    source: if set.is_some() { DYNAMIC_TOPIC } else { DEFAULT },
                    kind: known.kind,
                }
            };
            Ok(TOPIC_CONFIGS.iter().map(entry).collect())
        }
        BROKER => {
            // An empty name means the cluster-wide dynamic defaults, of which there are none.
            if !name.is_empty() && name.parse() != Ok(call.node) {
                let message = format!("Unexpected broker id, expected {} but received {name}", call.node);
                return Err(Refusal::new(ErrorCode::InvalidRequest, message));
            }
            if name.is_empty() {
                return Ok(Vec::new());
            }
            let options = &core.options;
            let all = [
                ("auto.create.topics.enable", options.auto_create.to_string(), ConfigKind::Boolean),
                ("default.replication.factor", options.default_replication.to_string(), ConfigKind::Int),
                ("message.max.bytes", "1048588".into(), ConfigKind::Int),
                ("node.id", call.node.to_string(), ConfigKind::Int),
                ("num.partitions", options.default_partitions.to_string(), ConfigKind::Int),
                ("socket.request.max.bytes", options.request_bytes_max.to_string(), ConfigKind::Int),
            ];
            Ok(all.map(|(name, value, kind)| Entry { name, value, source: STATIC_BROKER, kind }).into())
        }
        _ => Err(Refusal::new(ErrorCode::InvalidRequest, format!("Unsupported resource type {kind}"))),
    }
}
