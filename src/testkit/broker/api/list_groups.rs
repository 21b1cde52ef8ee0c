//! ListGroups, versions 0 to 5: each node lists the groups it coordinates, filtered by state and type.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use crate::wire::messages::list_groups::response::ListedGroup;
use crate::wire::messages::{ListGroupsRequest, ListGroupsResponse};

impl Served for ListGroupsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<ListGroupsResponse> {
        let mut answer = ListGroupsResponse::default();
        if let Some(code) = call.injected_for_all() {
            answer.error_code = core.error(call, code);
            return Answer::Now(answer);
        }
        let passes =
            |filter: &[String], what: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(what));
        for (id, group) in core.groups.iter() {
            let own = core.cluster.coordinator(id).is_some_and(|node| node.id == call.node);
            let state = group.state.name();
            if own && passes(&request.states_filter, state) && passes(&request.types_filter, "classic") {
                answer.groups.push(ListedGroup {
                    group_id: id.clone(),
                    protocol_type: group.protocol_type.clone(),
                    group_state: state.into(),
                    group_type: "classic".into(),
                    ..ListedGroup::default()
                });
            }
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut ListGroupsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
