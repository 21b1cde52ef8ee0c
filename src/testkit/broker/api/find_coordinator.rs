//! FindCoordinator, versions 0 to 6: groups (type 0) and transactional ids (type 1), several keys from version 4
//! (KIP-699). The coordinator of a key is a fixed choice among the nodes that are up.
//!
//! Deviations from Kafka: no share coordinator (type 2): INVALID_REQUEST.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use crate::wire::ErrorCode;
use crate::wire::messages::find_coordinator::response::Coordinator;
use crate::wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse};

/// The error for a group request that came to the wrong node, has no group id, or that a rule refuses.
pub(super) fn wrong_coordinator(core: &BrokerCore, call: &Call, group: &str) -> Option<ErrorCode> {
    if let Some(code) = call.injected_for_all() {
        return Some(code);
    }
    if group.is_empty() {
        return Some(ErrorCode::InvalidGroupId);
    }
    let own = core.cluster.coordinator(group).is_some_and(|node| node.id == call.node);
    (!own).then_some(ErrorCode::NotCoordinator)
}

impl Served for FindCoordinatorRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<FindCoordinatorResponse> {
        let keys = if call.version < 4 { vec![request.key] } else { request.coordinator_keys };
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let node = match (call.injected_for_all(), request.key_type) {
                (Some(code), _) => Err(code),
                (None, 0 | 1) => core.cluster.coordinator(&key).cloned().ok_or(ErrorCode::CoordinatorNotAvailable),
                (None, _) => Err(ErrorCode::InvalidRequest),
            };
            let mut told = Coordinator { key, node_id: -1, port: -1, error_message: None, ..Coordinator::default() };
            match node {
                Ok(node) => (told.node_id, told.host, told.port) = (node.id, node.host, i32::from(node.port)),
                Err(code) => {
                    told.error_code = core.error(call, code);
                    told.error_message = Some(code.text().into());
                }
            }
            found.push(told);
        }
        if call.version >= 4 {
            return Answer::Now(FindCoordinatorResponse { coordinators: found, ..FindCoordinatorResponse::default() });
        }
        let told = found.pop().unwrap_or_default();
        Answer::Now(FindCoordinatorResponse {
            error_code: told.error_code,
            error_message: told.error_message,
            node_id: told.node_id,
            host: told.host,
            port: told.port,
            ..FindCoordinatorResponse::default()
        })
    }

    fn throttle(response: &mut FindCoordinatorResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
