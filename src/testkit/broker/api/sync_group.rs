//! SyncGroup, versions 0 to 5.

use super::super::core::{Answer, BrokerCore, Call, Wait};
use super::super::group::{Synced, sync_refused};
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::base::time::Time;
use crate::wire::ErrorCode;
use crate::wire::messages::{SyncGroupRequest, SyncGroupResponse};

impl Served for SyncGroupRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<SyncGroupResponse> {
        if let Some(code) = wrong_coordinator(core, call, &request.group_id) {
            return Answer::Now(sync_refused(core.error(call, code)));
        }
        let mut deposits = Vec::new();
        let synced = core.groups.sync(call, request, &mut deposits);
        core.deposit_all(deposits);
        match synced {
            Synced::Now(answer) => {
                core.error(call, ErrorCode::from(answer.error_code));
                Answer::Now(answer)
            }
            Synced::Wait => Answer::Later(Wait::Group, Time::NEVER),
        }
    }

    fn throttle(response: &mut SyncGroupResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
