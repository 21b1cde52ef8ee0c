//! DescribeGroups, versions 0 to 6. A group that is not there is "Dead", from version 6 with GROUP_ID_NOT_FOUND
//! (KIP-1043).

use super::super::core::{Answer, BrokerCore, Call};
use super::super::group::Member;
use super::find_coordinator::wrong_coordinator;
use super::{NO_OPERATIONS, Served};
use crate::wire::ErrorCode;
use crate::wire::messages::describe_groups::response::{DescribedGroup, DescribedGroupMember};
use crate::wire::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

impl Served for DescribeGroupsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DescribeGroupsResponse> {
        let mut answer = DescribeGroupsResponse::default();
        for id in request.groups {
            let mut told = DescribedGroup {
                group_id: id.clone(),
                authorized_operations: NO_OPERATIONS,
                ..DescribedGroup::default()
            };
            let wrong = wrong_coordinator(core, call, &id);
            match (wrong, core.groups.get(&id)) {
                (Some(code), _) => told.error_code = core.error(call, code),
                (None, None) => {
                    told.group_state = "Dead".into();
                    if call.version >= 6 {
                        told.error_code = core.error(call, ErrorCode::GroupIdNotFound);
                        told.error_message = Some(format!("Group {id} not found."));
                    }
                }
                (None, Some(group)) => {
                    let member = |(id, member): (&String, &Member)| DescribedGroupMember {
                        member_id: id.clone(),
                        group_instance_id: member.instance_id.clone(),
                        client_id: member.client_id.clone(),
                        client_host: format!("/{}", member.host),
                        member_metadata: match member
                            .protocols
                            .iter()
                            .find(|(name, _)| Some(name) == group.protocol.as_ref())
                        {
                            Some((_, metadata)) => metadata.clone(),
                            None => bytes::Bytes::new(),
                        },
                        member_assignment: member.assignment.clone(),
                        ..DescribedGroupMember::default()
                    };
                    told.group_state = group.state.name().into();
                    told.protocol_type = group.protocol_type.clone();
                    told.protocol_data = group.protocol.clone().unwrap_or_default();
                    told.members = group.members.iter().map(member).collect();
                }
            }
            answer.groups.push(told);
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut DescribeGroupsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
