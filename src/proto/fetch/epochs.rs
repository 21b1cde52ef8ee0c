//! OffsetForLeaderEpoch: where the log ends in an epoch, to find out whether it lost what was read (KIP-320).

use std::collections::BTreeMap;

use crate::base::ids::Tp;
use crate::wire::messages::offset_for_leader_epoch::request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proving {
    pub(super) generation: u32,
    /// Where fetching stands.
    pub(super) offset: i64,
    /// Of the leader as we know it.
    pub(super) leader_epoch: i32,
    /// Of the record before `offset`.
    pub(super) last_epoch: i32,
}

/// What an answer says of a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    /// The log holds what was read.
    Whole,
    /// The leader knows nothing of the epoch: no loss that anybody could tell of.
    Unknown,
    /// The log parts from what was read here; the record before has this epoch.
    Parted { epoch: i32, to: i64 },
}

impl Proof {
    /// `epoch` ends at `end_offset` in the leader's log, being the largest one up to `last_epoch`.
    pub(super) fn of(offset: i64, last_epoch: i32, epoch: i32, end_offset: i64) -> Self {
        if epoch < 0 || end_offset < 0 {
            Self::Unknown
        } else if epoch < last_epoch || end_offset < offset {
            Self::Parted { epoch, to: end_offset.min(offset) }
        } else {
            Self::Whole
        }
    }
}

pub(super) fn request(asked: &BTreeMap<Tp, Proving>, name: &impl Fn(Tp) -> String) -> OffsetForLeaderEpochRequest {
    // -1: a consumer.
    let mut request = OffsetForLeaderEpochRequest { replica_id: -1, ..OffsetForLeaderEpochRequest::default() };
    for (tp, proving) in asked {
        let partition = OffsetForLeaderPartition {
            partition: tp.partition,
            current_leader_epoch: proving.leader_epoch,
            leader_epoch: proving.last_epoch,
            ..OffsetForLeaderPartition::default()
        };
        let topic = name(*tp);
        match request.topics.last_mut() {
            Some(last) if last.topic == topic => last.partitions.push(partition),
            _ => {
                let partitions = vec![partition];
                request.topics.push(OffsetForLeaderTopic { topic, partitions, ..OffsetForLeaderTopic::default() });
            }
        }
    }
    request
}
