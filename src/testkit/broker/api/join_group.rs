//! JoinGroup, versions 0 to 9. See [`super::super::group`] for what is kept from Kafka.
//!
//! Deviations from Kafka: `group.initial.rebalance.delay.ms` is 0 unless set; no group has a maximum size.

use super::super::core::{Answer, BrokerCore, Call, Wait};
use super::super::group::{Joined, join_refused};
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::base::time::Time;
use crate::wire::ErrorCode;
use crate::wire::messages::{JoinGroupRequest, JoinGroupResponse};

impl Served for JoinGroupRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<JoinGroupResponse> {
        let bounds = core.options.group_session_timeout_min..=core.options.group_session_timeout_max;
        let session = std::time::Duration::from_millis(u64::try_from(request.session_timeout_ms).unwrap_or(0));
        let refused = if let Some(code) = wrong_coordinator(core, call, &request.group_id) {
            Some(code)
        } else if bounds.contains(&session) {
            None
        } else {
            Some(ErrorCode::InvalidSessionTimeout)
        };
        if let Some(code) = refused {
            let code = core.error(call, code);
            return Answer::Now(join_refused(call.version, &request.member_id, code));
        }
        let mut deposits = Vec::new();
        let host = core.host_of(call.conn);
        let joined = core.groups.join(call, host, core.options.group_initial_rebalance_delay, request, &mut deposits);
        core.deposit_all(deposits);
        match joined {
            Joined::Now(answer) => {
                core.error(call, ErrorCode::from(answer.error_code));
                Answer::Now(answer)
            }
            Joined::Wait => Answer::Later(Wait::Group, Time::NEVER),
        }
    }

    fn throttle(response: &mut JoinGroupResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
