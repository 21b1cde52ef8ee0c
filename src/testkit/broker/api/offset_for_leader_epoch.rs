//! OffsetForLeaderEpoch, versions 2 to 4 (KIP-101, KIP-279, KIP-320).

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use crate::wire::messages::offset_for_leader_epoch::request::OffsetForLeaderTopic;
use crate::wire::messages::offset_for_leader_epoch::response::{EpochEndOffset, OffsetForLeaderTopicResult};
use crate::wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

impl Served for OffsetForLeaderEpochRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<OffsetForLeaderEpochResponse> {
        let mut answer = OffsetForLeaderEpochResponse::default();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for part in topic.partitions {
                let found = match call.injected(&topic.topic, part.partition) {
                    Some(code) => Err(code),
                    None => {
                        core.served_partition(call.node, &topic.topic, part.partition, part.current_leader_epoch, false)
                    }
                };
                let found = found.map(|state| state.log.end_of_epoch(part.leader_epoch));
                let mut told = EpochEndOffset {
                    partition: part.partition,
                    leader_epoch: -1,
                    end_offset: -1,
                    ..EpochEndOffset::default()
                };
                match found {
                    Ok((epoch, end_offset)) => (told.leader_epoch, told.end_offset) = (epoch, end_offset),
                    Err(code) => told.error_code = core.error(call, code),
                }
                partitions.push(told);
            }
            answer.topics.push(OffsetForLeaderTopicResult {
                topic: topic.topic,
                partitions,
                ..OffsetForLeaderTopicResult::default()
            });
        }
        Answer::Now(answer)
    }

    fn named(&self, _: &super::super::cluster::Cluster) -> Vec<(String, i32)> {
        let of = |topic: &OffsetForLeaderTopic| {
            let name = topic.topic.clone();
            topic.partitions.iter().map(move |part| (name.clone(), part.partition)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of).collect()
    }

    fn throttle(response: &mut OffsetForLeaderEpochResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
