//! LeaveGroup, versions 0 to 5: one member, or from version 3 several (KIP-345).

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::wire::messages::leave_group::response::MemberResponse;
use crate::wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

impl Served for LeaveGroupRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<LeaveGroupResponse> {
        if let Some(code) = wrong_coordinator(core, call, &request.group_id) {
            let error_code = core.error(call, code);
            return Answer::Now(LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() });
        }
        let mut answer = LeaveGroupResponse::default();
        let mut deposits = Vec::new();
        if call.version < 3 {
            let code = core.groups.leave(call.now, &request.group_id, &request.member_id, None, &mut deposits);
            answer.error_code = core.error(call, code);
        }
        for member in &request.members {
            let instance = member.group_instance_id.as_deref();
            let code = core.groups.leave(call.now, &request.group_id, &member.member_id, instance, &mut deposits);
            answer.members.push(MemberResponse {
                member_id: member.member_id.clone(),
                group_instance_id: member.group_instance_id.clone(),
                error_code: core.error(call, code),
                ..MemberResponse::default()
            });
        }
        core.deposit_all(deposits);
        Answer::Now(answer)
    }

    fn throttle(response: &mut LeaveGroupResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
