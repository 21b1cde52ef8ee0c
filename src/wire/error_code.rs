//! Every error code of Kafka 4.3, and the one place that decides what each means for us.

use std::fmt;

/// What a broker's error asks of a client. The machines under `proto` act on it; when and how often is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No error.
    Ok,
    /// The broker has what we sent already; count it as done.
    AlreadyDone,
    /// The same request to the same broker, after a backoff.
    Retry,
    /// Our picture of topics and leaders is old (or not yet true): fetch metadata, then ask the leader.
    RefreshLeader,
    /// Find the group's or transaction's coordinator again, then ask it.
    RefreshCoordinator,
    /// Find the controller again, then ask it.
    RefreshController,
    /// All known brokers are wrong for this cluster: start over from the bootstrap addresses (KIP-1102).
    Rebootstrap,
    /// Open a new fetch or share session; positions stay.
    NewSession,
    /// The position does not exist: apply the reset policy.
    ResetOffset,
    /// The member is out of its group or generation: join again.
    Rejoin,
    /// The broker lost or never had the sequence: only a new producer id or epoch helps (idempotent producers);
    /// transactions abort.
    NewProducerId,
    /// The transaction must be aborted; the producer can then go on.
    AbortTransaction,
    /// Retrying does not help.
    Fail,
}

impl Verdict {
    /// Whether the same request may succeed later without anybody changing it.
    pub const fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::Retry
                | Self::RefreshLeader
                | Self::RefreshCoordinator
                | Self::RefreshController
                | Self::Rebootstrap
                | Self::NewSession
        )
    }
}

/// An error code of a response. Codes that this version of Kafka does not define are kept, named `UNKNOWN_ERROR_CODE`
/// and fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ErrorCode(i16);

macro_rules! error_codes {
    ($($code:literal $constant:ident $name:literal $verdict:ident $text:literal;)*) => {
        #[allow(non_upper_case_globals)]
        impl ErrorCode {
            $(
                #[doc = $text]
                pub const $constant: Self = Self($code);
            )*

            /// All codes of Kafka 4.3, ascending.
            pub const ALL: &'static [Self] = &[$(Self($code)),*];

            /// Kafka's name: `NOT_LEADER_OR_FOLLOWER`.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => $name,)*
                    _ => "UNKNOWN_ERROR_CODE",
                }
            }

            /// Kafka's sentence about it.
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "An error code that this version of Kafka does not define.",
                }
            }

            /// The one place that decides what a broker error means for us.
            pub const fn verdict(self) -> Verdict {
                match self.0 {
                    $($code => Verdict::$verdict,)*
                    _ => Verdict::Fail,
                }
            }
        }
    };
}

// code, constant, Kafka's name, verdict, Kafka's text (org.apache.kafka.common.protocol.Errors, 4.3.1).
error_codes! {
     -1 UnknownServerError "UNKNOWN_SERVER_ERROR" Fail
         "The server experienced an unexpected error when processing the request.";
      0 None "NONE" Ok "No error.";
      1 OffsetOutOfRange "OFFSET_OUT_OF_RANGE" ResetOffset
         "The requested offset is not within the range of offsets maintained by the server.";
      2 CorruptMessage "CORRUPT_MESSAGE" Retry
         "This message has failed its CRC checksum, exceeds the valid size, has a null key for a compacted topic, or \
          is otherwise corrupt.";
      3 UnknownTopicOrPartition "UNKNOWN_TOPIC_OR_PARTITION" RefreshLeader
         "This server does not host this topic-partition.";
      4 InvalidFetchSize "INVALID_FETCH_SIZE" Fail "The requested fetch size is invalid.";
      5 LeaderNotAvailable "LEADER_NOT_AVAILABLE" RefreshLeader
         "There is no leader for this topic-partition as we are in the middle of a leadership election.";
      6 NotLeaderOrFollower "NOT_LEADER_OR_FOLLOWER" RefreshLeader
         "For requests intended only for the leader, this error indicates that the broker is not the current leader. \
          For requests intended for any replica, this error indicates that the broker is not a replica of the topic \
          partition.";
      7 RequestTimedOut "REQUEST_TIMED_OUT" Retry "The request timed out.";
      8 BrokerNotAvailable "BROKER_NOT_AVAILABLE" Retry "The broker is not available.";
      9 ReplicaNotAvailable "REPLICA_NOT_AVAILABLE" RefreshLeader
         "The replica is not available for the requested topic-partition. Produce/Fetch requests and other requests \
          intended only for the leader or follower return NOT_LEADER_OR_FOLLOWER if the broker is not a replica of \
          the topic-partition.";
     10 MessageTooLarge "MESSAGE_TOO_LARGE" Fail
         "The request included a message larger than the max message size the server will accept.";
     11 StaleControllerEpoch "STALE_CONTROLLER_EPOCH" RefreshController "The controller moved to another broker.";
     12 OffsetMetadataTooLarge "OFFSET_METADATA_TOO_LARGE" Fail
         "The metadata field of the offset request was too large.";
     13 NetworkException "NETWORK_EXCEPTION" RefreshLeader "The server disconnected before a response was received.";
     14 CoordinatorLoadInProgress "COORDINATOR_LOAD_IN_PROGRESS" Retry
         "The coordinator is loading and hence can't process requests.";
     15 CoordinatorNotAvailable "COORDINATOR_NOT_AVAILABLE" RefreshCoordinator "The coordinator is not available.";
     16 NotCoordinator "NOT_COORDINATOR" RefreshCoordinator "This is not the correct coordinator.";
     17 InvalidTopicException "INVALID_TOPIC_EXCEPTION" Fail
         "The request attempted to perform an operation on an invalid topic.";
     18 RecordListTooLarge "RECORD_LIST_TOO_LARGE" Fail
         "The request included message batch larger than the configured segment size on the server.";
     19 NotEnoughReplicas "NOT_ENOUGH_REPLICAS" Retry
         "Messages are rejected since there are fewer in-sync replicas than required.";
     20 NotEnoughReplicasAfterAppend "NOT_ENOUGH_REPLICAS_AFTER_APPEND" Retry
         "Messages are written to the log, but to fewer in-sync replicas than required.";
     21 InvalidRequiredAcks "INVALID_REQUIRED_ACKS" Fail
         "Produce request specified an invalid value for required acks.";
     22 IllegalGeneration "ILLEGAL_GENERATION" Rejoin "Specified group generation id is not valid.";
     23 InconsistentGroupProtocol "INCONSISTENT_GROUP_PROTOCOL" Fail
         "The group member's supported protocols are incompatible with those of existing members or first group \
          member tried to join with empty protocol type or empty protocol list.";
     24 InvalidGroupId "INVALID_GROUP_ID" Fail "The group id is invalid.";
     25 UnknownMemberId "UNKNOWN_MEMBER_ID" Rejoin "The coordinator is not aware of this member.";
     26 InvalidSessionTimeout "INVALID_SESSION_TIMEOUT" Fail
         "The session timeout is not within the range allowed by the broker (as configured by \
          group.min.session.timeout.ms and group.max.session.timeout.ms).";
     27 RebalanceInProgress "REBALANCE_IN_PROGRESS" Rejoin "The group is rebalancing, so a rejoin is needed.";
     28 InvalidCommitOffsetSize "INVALID_COMMIT_OFFSET_SIZE" Fail "The committing offset data size is not valid.";
     29 TopicAuthorizationFailed "TOPIC_AUTHORIZATION_FAILED" Fail "Topic authorization failed.";
     30 GroupAuthorizationFailed "GROUP_AUTHORIZATION_FAILED" Fail "Group authorization failed.";
     31 ClusterAuthorizationFailed "CLUSTER_AUTHORIZATION_FAILED" Fail "Cluster authorization failed.";
     32 InvalidTimestamp "INVALID_TIMESTAMP" Fail "The timestamp of the message is out of acceptable range.";
     33 UnsupportedSaslMechanism "UNSUPPORTED_SASL_MECHANISM" Fail
         "The broker does not support the requested SASL mechanism.";
     34 IllegalSaslState "ILLEGAL_SASL_STATE" Fail "Request is not valid given the current SASL state.";
     35 UnsupportedVersion "UNSUPPORTED_VERSION" Fail "The version of API is not supported.";
     36 TopicAlreadyExists "TOPIC_ALREADY_EXISTS" Fail "Topic with this name already exists.";
     37 InvalidPartitions "INVALID_PARTITIONS" Fail "Number of partitions is below 1.";
     38 InvalidReplicationFactor "INVALID_REPLICATION_FACTOR" Fail
         "Replication factor is below 1 or larger than the number of available brokers.";
     39 InvalidReplicaAssignment "INVALID_REPLICA_ASSIGNMENT" Fail "Replica assignment is invalid.";
     40 InvalidConfig "INVALID_CONFIG" Fail "Configuration is invalid.";
     41 NotController "NOT_CONTROLLER" RefreshController "This is not the correct controller for this cluster.";
     42 InvalidRequest "INVALID_REQUEST" Fail
         "This most likely occurs because of a request being malformed by the client library or the message was sent \
          to an incompatible broker. See the broker logs for more details.";
     43 UnsupportedForMessageFormat "UNSUPPORTED_FOR_MESSAGE_FORMAT" Fail
         "The message format version on the broker does not support the request.";
     44 PolicyViolation "POLICY_VIOLATION" Fail "Request parameters do not satisfy the configured policy.";
     45 OutOfOrderSequenceNumber "OUT_OF_ORDER_SEQUENCE_NUMBER" NewProducerId
         "The broker received an out of order sequence number.";
     46 DuplicateSequenceNumber "DUPLICATE_SEQUENCE_NUMBER" AlreadyDone
         "The broker received a duplicate sequence number.";
     47 InvalidProducerEpoch "INVALID_PRODUCER_EPOCH" AbortTransaction
         "Producer attempted to produce with an old epoch.";
     48 InvalidTxnState "INVALID_TXN_STATE" Fail
         "The producer attempted a transactional operation in an invalid state.";
     49 InvalidProducerIdMapping "INVALID_PRODUCER_ID_MAPPING" AbortTransaction
         "The producer attempted to use a producer id which is not currently assigned to its transactional id.";
     50 InvalidTransactionTimeout "INVALID_TRANSACTION_TIMEOUT" Fail
         "The transaction timeout is larger than the maximum value allowed by the broker (as configured by \
          transaction.max.timeout.ms).";
     51 ConcurrentTransactions "CONCURRENT_TRANSACTIONS" Retry
         "The producer attempted to update a transaction while another concurrent operation on the same transaction \
          was ongoing.";
     52 TransactionCoordinatorFenced "TRANSACTION_COORDINATOR_FENCED" Fail
         "Indicates that the transaction coordinator sending a WriteTxnMarker is no longer the current coordinator \
          for a given producer.";
     53 TransactionalIdAuthorizationFailed "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" Fail
         "Transactional Id authorization failed.";
     54 SecurityDisabled "SECURITY_DISABLED" Fail "Security features are disabled.";
     55 OperationNotAttempted "OPERATION_NOT_ATTEMPTED" Fail
         "The broker did not attempt to execute this operation. This may happen for batched RPCs where some \
          operations in the batch failed, causing the broker to respond without trying the rest.";
     56 KafkaStorageError "KAFKA_STORAGE_ERROR" RefreshLeader "Disk error when trying to access log file on the disk.";
     57 LogDirNotFound "LOG_DIR_NOT_FOUND" Fail "The user-specified log directory is not found in the broker config.";
     58 SaslAuthenticationFailed "SASL_AUTHENTICATION_FAILED" Fail "SASL Authentication failed.";
     59 UnknownProducerId "UNKNOWN_PRODUCER_ID" NewProducerId
         "This exception is raised by the broker if it could not locate the producer metadata associated with the \
          producerId in question. This could happen if, for instance, the producer's records were deleted because \
          their retention time had elapsed. Once the last records of the producerId are removed, the producer's \
          metadata is removed from the broker, and future appends by the producer will return this exception.";
     60 ReassignmentInProgress "REASSIGNMENT_IN_PROGRESS" Fail "A partition reassignment is in progress.";
     61 DelegationTokenAuthDisabled "DELEGATION_TOKEN_AUTH_DISABLED" Fail "Delegation Token feature is not enabled.";
     62 DelegationTokenNotFound "DELEGATION_TOKEN_NOT_FOUND" Fail "Delegation Token is not found on server.";
     63 DelegationTokenOwnerMismatch "DELEGATION_TOKEN_OWNER_MISMATCH" Fail
         "Specified Principal is not valid Owner/Renewer.";
     64 DelegationTokenRequestNotAllowed "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED" Fail
         "Delegation Token requests are not allowed on PLAINTEXT/1-way SSL channels and on delegation token \
          authenticated channels.";
     65 DelegationTokenAuthorizationFailed "DELEGATION_TOKEN_AUTHORIZATION_FAILED" Fail
         "Delegation Token authorization failed.";
     66 DelegationTokenExpired "DELEGATION_TOKEN_EXPIRED" Fail "Delegation Token is expired.";
     67 InvalidPrincipalType "INVALID_PRINCIPAL_TYPE" Fail "Supplied principalType is not supported.";
     68 NonEmptyGroup "NON_EMPTY_GROUP" Fail "The group is not empty.";
     69 GroupIdNotFound "GROUP_ID_NOT_FOUND" Fail "The group id does not exist.";
     70 FetchSessionIdNotFound "FETCH_SESSION_ID_NOT_FOUND" NewSession "The fetch session ID was not found.";
     71 InvalidFetchSessionEpoch "INVALID_FETCH_SESSION_EPOCH" NewSession "The fetch session epoch is invalid.";
     72 ListenerNotFound "LISTENER_NOT_FOUND" RefreshLeader
         "There is no listener on the leader broker that matches the listener on which metadata request was \
          processed.";
     73 TopicDeletionDisabled "TOPIC_DELETION_DISABLED" Fail "Topic deletion is disabled.";
     74 FencedLeaderEpoch "FENCED_LEADER_EPOCH" RefreshLeader
         "The leader epoch in the request is older than the epoch on the broker.";
     75 UnknownLeaderEpoch "UNKNOWN_LEADER_EPOCH" RefreshLeader
         "The leader epoch in the request is newer than the epoch on the broker.";
     76 UnsupportedCompressionType "UNSUPPORTED_COMPRESSION_TYPE" Fail
         "The requesting client does not support the compression type of given partition.";
     77 StaleBrokerEpoch "STALE_BROKER_EPOCH" Fail "Broker epoch has changed.";
     78 OffsetNotAvailable "OFFSET_NOT_AVAILABLE" Retry
         "The leader high watermark has not caught up from a recent leader election so the offsets cannot be \
          guaranteed to be monotonically increasing.";
     79 MemberIdRequired "MEMBER_ID_REQUIRED" Rejoin
         "The group member needs to have a valid member id before actually entering a consumer group.";
     80 PreferredLeaderNotAvailable "PREFERRED_LEADER_NOT_AVAILABLE" Retry "The preferred leader was not available.";
     81 GroupMaxSizeReached "GROUP_MAX_SIZE_REACHED" Fail "The group has reached its maximum size.";
     82 FencedInstanceId "FENCED_INSTANCE_ID" Fail
         "The broker rejected this static consumer since another consumer with the same group.instance.id has \
          registered with a different member.id.";
     83 EligibleLeadersNotAvailable "ELIGIBLE_LEADERS_NOT_AVAILABLE" Retry
         "Eligible topic partition leaders are not available.";
     84 ElectionNotNeeded "ELECTION_NOT_NEEDED" Fail "Leader election not needed for topic partition.";
     85 NoReassignmentInProgress "NO_REASSIGNMENT_IN_PROGRESS" Fail "No partition reassignment is in progress.";
     86 GroupSubscribedToTopic "GROUP_SUBSCRIBED_TO_TOPIC" Fail
         "Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it.";
     87 InvalidRecord "INVALID_RECORD" Fail
         "This record has failed the validation on broker and hence will be rejected.";
     88 UnstableOffsetCommit "UNSTABLE_OFFSET_COMMIT" Retry "There are unstable offsets that need to be cleared.";
     89 ThrottlingQuotaExceeded "THROTTLING_QUOTA_EXCEEDED" Retry "The throttling quota has been exceeded.";
     90 ProducerFenced "PRODUCER_FENCED" Fail
         "There is a newer producer with the same transactionalId which fences the current one.";
     91 ResourceNotFound "RESOURCE_NOT_FOUND" Fail "A request illegally referred to a resource that does not exist.";
     92 DuplicateResource "DUPLICATE_RESOURCE" Fail "A request illegally referred to the same resource twice.";
     93 UnacceptableCredential "UNACCEPTABLE_CREDENTIAL" Fail
         "Requested credential would not meet criteria for acceptability.";
     94 InconsistentVoterSet "INCONSISTENT_VOTER_SET" Fail
         "Indicates that the either the sender or recipient of a voter-only request is not one of the expected \
          voters.";
     95 InvalidUpdateVersion "INVALID_UPDATE_VERSION" Fail "The given update version was invalid.";
     96 FeatureUpdateFailed "FEATURE_UPDATE_FAILED" Fail
         "Unable to update finalized features due to an unexpected server error.";
     97 PrincipalDeserializationFailure "PRINCIPAL_DESERIALIZATION_FAILURE" Fail
         "Request principal deserialization failed during forwarding. This indicates an internal error on the broker \
          cluster security setup.";
     98 SnapshotNotFound "SNAPSHOT_NOT_FOUND" Fail "Requested snapshot was not found.";
     99 PositionOutOfRange "POSITION_OUT_OF_RANGE" Fail
         "Requested position is not greater than or equal to zero, and less than the size of the snapshot.";
    100 UnknownTopicId "UNKNOWN_TOPIC_ID" RefreshLeader "This server does not host this topic ID.";
    101 DuplicateBrokerRegistration "DUPLICATE_BROKER_REGISTRATION" Fail "This broker ID is already in use.";
    102 BrokerIdNotRegistered "BROKER_ID_NOT_REGISTERED" Fail "The given broker ID was not registered.";
    103 InconsistentTopicId "INCONSISTENT_TOPIC_ID" RefreshLeader
         "The log's topic ID did not match the topic ID in the request.";
    104 InconsistentClusterId "INCONSISTENT_CLUSTER_ID" Fail
         "The clusterId in the request does not match that found on the server.";
    105 TransactionalIdNotFound "TRANSACTIONAL_ID_NOT_FOUND" Fail "The transactionalId could not be found.";
    106 FetchSessionTopicIdError "FETCH_SESSION_TOPIC_ID_ERROR" NewSession
         "The fetch session encountered inconsistent topic ID usage.";
    107 IneligibleReplica "INELIGIBLE_REPLICA" Fail "The new ISR contains at least one ineligible replica.";
    108 NewLeaderElected "NEW_LEADER_ELECTED" RefreshLeader
         "The AlterPartition request successfully updated the partition state but the leader has changed.";
    109 OffsetMovedToTieredStorage "OFFSET_MOVED_TO_TIERED_STORAGE" ResetOffset
         "The requested offset is moved to tiered storage.";
    110 FencedMemberEpoch "FENCED_MEMBER_EPOCH" Rejoin
         "The member epoch is fenced by the group coordinator. The member must abandon all its partitions and \
          rejoin.";
    111 UnreleasedInstanceId "UNRELEASED_INSTANCE_ID" Fail
         "The instance ID is still used by another member in the consumer group. That member must leave first.";
    112 UnsupportedAssignor "UNSUPPORTED_ASSIGNOR" Fail
         "The assignor or its version range is not supported by the consumer group.";
    113 StaleMemberEpoch "STALE_MEMBER_EPOCH" Rejoin
         "The member epoch is stale. The member must retry after receiving its updated member epoch via the \
          ConsumerGroupHeartbeat API.";
    114 MismatchedEndpointType "MISMATCHED_ENDPOINT_TYPE" Fail "The request was sent to an endpoint of the wrong type.";
    115 UnsupportedEndpointType "UNSUPPORTED_ENDPOINT_TYPE" Fail "This endpoint type is not supported yet.";
    116 UnknownControllerId "UNKNOWN_CONTROLLER_ID" Fail "This controller ID is not known.";
    117 UnknownSubscriptionId "UNKNOWN_SUBSCRIPTION_ID" Fail
         "Client sent a push telemetry request with an invalid or outdated subscription ID.";
    118 TelemetryTooLarge "TELEMETRY_TOO_LARGE" Fail
         "Client sent a push telemetry request larger than the maximum size the broker will accept.";
    119 InvalidRegistration "INVALID_REGISTRATION" Fail
         "The controller has considered the broker registration to be invalid.";
    120 TransactionAbortable "TRANSACTION_ABORTABLE" AbortTransaction
         "The server encountered an error with the transaction. The client can abort the transaction to continue \
          using this transactional ID.";
    121 InvalidRecordState "INVALID_RECORD_STATE" Fail
         "The record state is invalid. The acknowledgement of delivery could not be completed.";
    122 ShareSessionNotFound "SHARE_SESSION_NOT_FOUND" NewSession "The share session was not found.";
    123 InvalidShareSessionEpoch "INVALID_SHARE_SESSION_EPOCH" NewSession "The share session epoch is invalid.";
    124 FencedStateEpoch "FENCED_STATE_EPOCH" Fail
         "The share coordinator rejected the request because the share-group state epoch did not match.";
    125 InvalidVoterKey "INVALID_VOTER_KEY" Fail "The voter key doesn't match the receiving replica's key.";
    126 DuplicateVoter "DUPLICATE_VOTER" Fail "The voter is already part of the set of voters.";
    127 VoterNotFound "VOTER_NOT_FOUND" Fail "The voter is not part of the set of voters.";
    128 InvalidRegularExpression "INVALID_REGULAR_EXPRESSION" Fail "The regular expression is not valid.";
    129 RebootstrapRequired "REBOOTSTRAP_REQUIRED" Rebootstrap
         "Client metadata is stale. The client should rebootstrap to obtain new metadata.";
    130 StreamsInvalidTopology "STREAMS_INVALID_TOPOLOGY" Fail "The supplied topology is invalid.";
    131 StreamsInvalidTopologyEpoch "STREAMS_INVALID_TOPOLOGY_EPOCH" Fail "The supplied topology epoch is invalid.";
    132 StreamsTopologyFenced "STREAMS_TOPOLOGY_FENCED" Fail "The supplied topology epoch is outdated.";
    133 ShareSessionLimitReached "SHARE_SESSION_LIMIT_REACHED" Retry "The limit of share sessions has been reached.";
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn code(self) -> i16 {
        self.0
    }

    /// Whether this is code 0.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// `Ok` for code 0, the error otherwise.
    pub const fn ok(self) -> Result<(), Self> {
        if self.0 == 0 { Ok(()) } else { Err(self) }
    }
}

impl From<i16> for ErrorCode {
    fn from(code: i16) -> Self {
        Self(code)
    }
}

impl From<ErrorCode> for i16 {
    fn from(code: ErrorCode) -> Self {
        code.0
    }
}

impl std::error::Error for ErrorCode {}

/// `NOT_LEADER_OR_FOLLOWER (6)`.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_from_minus_one_on_is_there_once() {
        let codes: Vec<i16> = ErrorCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(codes, (-1..=133).collect::<Vec<i16>>());
        for code in ErrorCode::ALL {
            assert_ne!(code.name(), "UNKNOWN_ERROR_CODE");
            assert!(!code.text().is_empty());
        }
    }

    #[test]
    fn an_unknown_code_is_kept_and_fails() {
        let code = ErrorCode::from(12_345);
        assert_eq!((code.code(), code.verdict()), (12_345, Verdict::Fail));
        assert_eq!(code.to_string(), "UNKNOWN_ERROR_CODE (12345)");
        assert_eq!(code.ok(), Err(code));
        assert_eq!(ErrorCode::None.ok(), Ok(()));
    }

    /// Java's `RetriableException`s of 4.3.1: each must be retriable here too, in one way or another, but 84
    /// (ELECTION_NOT_NEEDED), which is retriable in Java's class tree only: nothing changes by asking again.
    #[test]
    fn what_java_retries_we_retry() {
        let java = [
            2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 70, 71, 72, 74, 75, 78, 80, 83, 88, 89, 100, 103,
            106, 122, 123, 133,
        ];
        for code in java {
            assert!(ErrorCode::from(code).verdict().is_retriable(), "{}", ErrorCode::from(code));
        }
        assert!(!ErrorCode::ElectionNotNeeded.verdict().is_retriable());
        assert!(!ErrorCode::TopicAuthorizationFailed.verdict().is_retriable());
        assert_eq!(ErrorCode::DuplicateSequenceNumber.verdict(), Verdict::AlreadyDone);
    }
}
