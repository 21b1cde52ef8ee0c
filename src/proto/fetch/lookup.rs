//! ListOffsets: turning "earliest", "latest" and timestamps into offsets.

use std::collections::BTreeMap;

use crate::base::ids::Tp;
use crate::config::{IsolationLevel, StartAt};
use crate::wire::messages::list_offsets::request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LookedUp {
    pub(super) start: StartAt,
    pub(super) generation: u32,
    pub(super) leader_epoch: i32,
}

pub(super) fn request(
    asked: &BTreeMap<Tp, LookedUp>,
    isolation: IsolationLevel,
    name: &impl Fn(Tp) -> String,
) -> ListOffsetsRequest {
    let mut request =
        ListOffsetsRequest { replica_id: -1, isolation_level: isolation.wire(), ..ListOffsetsRequest::default() };
    for (tp, looked_up) in asked {
        let timestamp = match looked_up.start {
            StartAt::Earliest => EARLIEST,
            StartAt::Latest | StartAt::Offset(_) => LATEST,
            // Negative timestamps mean other things on the wire.
            StartAt::Timestamp(timestamp) => timestamp.max(0),
        };
        let partition = ListOffsetsPartition {
            partition_index: tp.partition,
            current_leader_epoch: looked_up.leader_epoch,
            timestamp,
            ..ListOffsetsPartition::default()
        };
        let name = name(*tp);
        match request.topics.last_mut() {
            Some(last) if last.name == name => last.partitions.push(partition),
            _ => {
                let partitions = vec![partition];
                request.topics.push(ListOffsetsTopic { name, partitions, ..ListOffsetsTopic::default() });
            }
        }
    }
    request
}
