//! One file per API, named after it. Each file's head says which versions it serves and where it deviates from Kafka.
//!
//! ```text
//!  dispatch ─► BrokerCore::run::<XRequest> ─► decode ─ rules ─ hook ─► Served::serve(core, call, request) ─► Answer
//! ```
//! Served versions are those of Kafka 4.3 unless the table below narrows them.

pub(super) mod alter_configs;
pub(super) mod api_versions;
pub(super) mod create_partitions;
pub(super) mod create_topics;
pub(super) mod delete_groups;
pub(super) mod delete_records;
pub(super) mod delete_topics;
pub(super) mod describe_cluster;
pub(super) mod describe_configs;
pub(super) mod describe_groups;
pub(super) mod describe_topic_partitions;
pub(super) mod fetch;
pub(super) mod find_coordinator;
pub(super) mod heartbeat;
pub(super) mod incremental_alter_configs;
pub(super) mod init_producer_id;
pub(super) mod join_group;
pub(super) mod leave_group;
pub(super) mod list_groups;
pub(super) mod list_offsets;
pub(super) mod metadata;
pub(super) mod offset_commit;
pub(super) mod offset_fetch;
pub(super) mod offset_for_leader_epoch;
pub(super) mod produce;
pub(super) mod sync_group;

use bytes::Bytes;

use super::cluster::Cluster;
use super::core::{Answer, BrokerCore, Call, Outcome};
use crate::base::ids::Uuid;
use crate::wire::messages::*;
use crate::wire::{ApiKey, Message, Reader, Request, VersionRange};

/// "Not asked for", as Kafka writes it where authorized operations would be.
pub(super) const NO_OPERATIONS: i32 = i32::MIN;

/// A request this broker serves.
pub(super) trait Served: Request + 'static {
    /// Handles it.
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<Self::Response>;

    /// The partitions it names, for fault rules; partition -1 stands for a whole topic.
    fn named(&self, _cluster: &Cluster) -> Vec<(String, i32)> {
        Vec::new()
    }

    /// Sets `throttle_time_ms` of an answer.
    fn throttle(response: &mut Self::Response, ms: i32);
}

/// A topic's name: as given, or looked up by id where the request has only that.
pub(super) fn topic_name(cluster: &Cluster, name: &str, id: Uuid) -> Option<String> {
    if name.is_empty() && !id.is_zero() { cluster.name_of(id).map(str::to_owned) } else { Some(name.to_owned()) }
}

macro_rules! table {
    ($($request:ident)*) => {
        /// The versions of `api` that this broker serves; `None` when it does not serve it.
        pub(super) fn served(api: ApiKey) -> Option<VersionRange> {
            match api {
                $(<$request as Request>::KEY => Some(<$request as Message>::VERSIONS),)*
                _ => None,
            }
        }

        /// Every served API with its versions.
        pub(super) const SERVED: &[(ApiKey, VersionRange)] =
            &[$((<$request as Request>::KEY, <$request as Message>::VERSIONS)),*];

        /// Hands a request to its handler.
        pub(super) fn dispatch(
            core: &mut BrokerCore,
            call: Call,
            frame: &Bytes,
            body: Reader<'_>,
            decided: bool,
            out: &mut Vec<u8>,
        ) -> Outcome {
            match call.api {
                $(<$request as Request>::KEY => core.run::<$request>(call, frame, body, decided, out),)*
                _ => Outcome::Close(super::counters::CloseReason::UnknownApi),
            }
        }
    };
}

table! {
    ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest
    OffsetCommitRequest OffsetFetchRequest FindCoordinatorRequest
    JoinGroupRequest HeartbeatRequest LeaveGroupRequest SyncGroupRequest
    DescribeGroupsRequest ListGroupsRequest
    ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest DeleteRecordsRequest
    InitProducerIdRequest OffsetForLeaderEpochRequest
    DescribeConfigsRequest AlterConfigsRequest CreatePartitionsRequest DeleteGroupsRequest
    IncrementalAlterConfigsRequest DescribeClusterRequest DescribeTopicPartitionsRequest
}
