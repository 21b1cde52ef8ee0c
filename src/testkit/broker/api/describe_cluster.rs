//! DescribeCluster, versions 0 to 2: brokers (endpoint type 1); nodes that are down are fenced brokers, listed from
//! version 2 when asked for.
//!
//! Deviations from Kafka: no controller endpoints (type 2): MISMATCHED_ENDPOINT_TYPE, as a broker's listener answers.

use super::super::cluster::Node;
use super::super::core::{Answer, BrokerCore, Call};
use super::{NO_OPERATIONS, Served};
use crate::wire::ErrorCode;
use crate::wire::messages::describe_cluster::response::DescribeClusterBroker;
use crate::wire::messages::{DescribeClusterRequest, DescribeClusterResponse};

impl Served for DescribeClusterRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<DescribeClusterResponse> {
        let mut answer = DescribeClusterResponse {
            endpoint_type: 1,
            cluster_id: core.options.cluster_id.clone(),
            controller_id: core.cluster.controller(),
            cluster_authorized_operations: NO_OPERATIONS,
            ..DescribeClusterResponse::default()
        };
        let wrong_endpoint = (request.endpoint_type != 1).then_some(ErrorCode::MismatchedEndpointType);
        if let Some(code) = call.injected_for_all().or(wrong_endpoint) {
            answer.error_code = core.error(call, code);
            answer.error_message = Some(code.text().into());
            return Answer::Now(answer);
        }
        let broker = |node: &Node| DescribeClusterBroker {
            broker_id: node.id,
            host: node.host.clone(),
            port: i32::from(node.port),
            rack: node.rack.clone(),
            is_fenced: !node.up && call.version >= 2,
            ..DescribeClusterBroker::default()
        };
        let listed = |node: &&Node| node.up || request.include_fenced_brokers;
        answer.brokers = core.cluster.nodes.iter().filter(listed).map(broker).collect();
        Answer::Now(answer)
    }

    fn throttle(response: &mut DescribeClusterResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
