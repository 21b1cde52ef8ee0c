//! DeleteGroups, versions 0 to 2: groups without members, with their offsets.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::wire::ErrorCode;
use crate::wire::messages::delete_groups::response::DeletableGroupResult;
use crate::wire::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

impl Served for DeleteGroupsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DeleteGroupsResponse> {
        let mut answer = DeleteGroupsResponse::default();
        for group_id in request.groups_names {
            let code = match wrong_coordinator(core, call, &group_id) {
                Some(code) => code,
                None => core.groups.delete(&group_id).err().unwrap_or(ErrorCode::None),
            };
            let error_code = core.error(call, code);
            answer.results.push(DeletableGroupResult { group_id, error_code, ..DeletableGroupResult::default() });
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut DeleteGroupsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
