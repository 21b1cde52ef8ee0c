//! Heartbeat, versions 0 to 4.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::wire::messages::{HeartbeatRequest, HeartbeatResponse};

impl Served for HeartbeatRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<HeartbeatResponse> {
        let code = wrong_coordinator(core, call, &request.group_id).unwrap_or_else(|| {
            let instance = request.group_instance_id.as_deref();
            core.groups.heartbeat(call.now, &request.group_id, &request.member_id, instance, request.generation_id)
        });
        let error_code = core.error(call, code);
        Answer::Now(HeartbeatResponse { error_code, ..HeartbeatResponse::default() })
    }

    fn throttle(response: &mut HeartbeatResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
