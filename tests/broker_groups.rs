//! The embedded broker as a classic group coordinator: joins, generations, sessions, offsets.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use std::time::Duration;

use broker_support::{Client, PATIENCE};
use bytes::Bytes;
use ottla::testkit::broker::Broker;
use ottla::wire::messages::join_group::request::JoinGroupRequestProtocol;
use ottla::wire::messages::leave_group::request::MemberIdentity;
use ottla::wire::messages::offset_commit::request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use ottla::wire::messages::offset_fetch::request::OffsetFetchRequestGroup;
use ottla::wire::messages::sync_group::request::SyncGroupRequestAssignment;
use ottla::wire::messages::*;
use ottla::wire::{ApiKey, ErrorCode};

fn code(error_code: i16) -> ErrorCode {
    ErrorCode::from(error_code)
}

fn join(member_id: &str) -> JoinGroupRequest {
    let protocol =
        JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"m"), ..Default::default() };
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..JoinGroupRequest::default()
    }
}

/// Joins by the two steps of version 4 and above; the second is only sent.
fn start_join(client: &mut Client) -> String {
    let first = client.call(9, &join(""));
    assert_eq!(code(first.error_code), ErrorCode::MemberIdRequired);
    client.send(9, &join(&first.member_id));
    first.member_id
}

fn sync(member_id: &str, generation_id: i32, assignments: &[(&str, &'static str)]) -> SyncGroupRequest {
    let assignment = |(id, bytes): &(&str, &'static str)| SyncGroupRequestAssignment {
        member_id: (*id).into(),
        assignment: Bytes::from_static(bytes.as_bytes()),
        ..SyncGroupRequestAssignment::default()
    };
    SyncGroupRequest {
        group_id: "g".into(),
        generation_id,
        member_id: member_id.into(),
        assignments: assignments.iter().map(assignment).collect(),
        ..SyncGroupRequest::default()
    }
}

fn beat(client: &mut Client, member_id: &str, generation_id: i32) -> ErrorCode {
    let request =
        HeartbeatRequest { group_id: "g".into(), generation_id, member_id: member_id.into(), ..Default::default() };
    code(client.call(4, &request).error_code)
}

#[test]
fn members_join_sync_rebalance_and_leave() {
    let broker = Broker::builder().topic("t", 2).start().unwrap();
    let (mut a, mut b) = (Client::to(&broker, 0), Client::to(&broker, 0));
    let id_a = start_join(&mut a);
    let joined = a.receive::<JoinGroupRequest>(9).unwrap();
    assert_eq!((joined.generation_id, &joined.leader, joined.members.len()), (1, &id_a, 1));
    let given = a.call(5, &sync(&id_a, 1, &[(&id_a, "all")]));
    assert_eq!((given.error_code, &given.assignment[..]), (0, &b"all"[..]));
    assert_eq!(beat(&mut a, &id_a, 1), ErrorCode::None);
    assert_eq!(beat(&mut a, &id_a, 0), ErrorCode::IllegalGeneration);
    assert_eq!(beat(&mut a, "nobody", 1), ErrorCode::UnknownMemberId);
    // A second member: the first learns it by its heartbeat and joins again.
    let id_b = start_join(&mut b);
    assert!(broker.wait_until(PATIENCE, |core| core.counters().requests(ApiKey::JoinGroup) == 4));
    assert_eq!(beat(&mut a, &id_a, 1), ErrorCode::RebalanceInProgress);
    let again = a.call(9, &join(&id_a));
    let second = b.receive::<JoinGroupRequest>(9).unwrap();
    assert_eq!((again.generation_id, second.generation_id), (2, 2));
    assert_eq!((again.members.len(), second.members.len()), (2, 0), "only the leader sees the members");
    // The follower's sync waits for the leader's.
    b.send(5, &sync(&id_b, 2, &[]));
    assert!(broker.wait_until(PATIENCE, |core| core.counters().requests(ApiKey::SyncGroup) == 2));
    assert_eq!(&a.call(5, &sync(&id_a, 2, &[(&id_a, "first"), (&id_b, "second")])).assignment[..], b"first");
    assert_eq!(&b.receive::<SyncGroupRequest>(5).unwrap().assignment[..], b"second");
    let described = a.call(6, &DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() });
    assert_eq!((described.groups[0].group_state.as_str(), described.groups[0].members.len()), ("Stable", 2));
    assert_eq!(a.call(5, &ListGroupsRequest::default()).groups[0].group_id, "g");
    let busy = a.call(2, &DeleteGroupsRequest { groups_names: vec!["g".into()], ..Default::default() });
    assert_eq!(code(busy.results[0].error_code), ErrorCode::NonEmptyGroup);
    let leave = |id: &str| LeaveGroupRequest {
        group_id: "g".into(),
        members: vec![MemberIdentity { member_id: id.into(), ..MemberIdentity::default() }],
        ..LeaveGroupRequest::default()
    };
    assert_eq!(b.call(5, &leave(&id_b)).members[0].error_code, 0);
    assert_eq!(beat(&mut a, &id_a, 2), ErrorCode::RebalanceInProgress);
    assert_eq!(a.call(9, &join(&id_a)).generation_id, 3);
    assert_eq!(a.call(5, &leave(&id_a)).members[0].error_code, 0);
    let empty = a.call(2, &DeleteGroupsRequest { groups_names: vec!["g".into()], ..Default::default() });
    assert_eq!(empty.results[0].error_code, 0);
}

#[test]
fn a_silent_member_is_expelled_and_the_others_go_on() {
    let broker = Broker::builder().with(|o| o.group_session_timeout_min = Duration::ZERO).start().unwrap();
    let (mut a, mut b) = (Client::to(&broker, 0), Client::to(&broker, 0));
    let short =
        |member_id: &str| JoinGroupRequest { session_timeout_ms: 200, rebalance_timeout_ms: 400, ..join(member_id) };
    // Before version 4 a member joins in one step.
    let first = a.call(3, &short(""));
    assert_eq!(first.error_code, 0);
    a.call(3, &sync(&first.member_id, 1, &[]));
    let second = b.call(3, &short(""));
    assert_eq!(
        (second.error_code, second.generation_id, &second.leader),
        (0, 2, &second.member_id),
        "the first was expelled"
    );
    assert_eq!(beat(&mut a, &first.member_id, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_static_member_keeps_its_place_and_fences_its_old_self() {
    let broker = Broker::builder().start().unwrap();
    let (mut a, mut b) = (Client::to(&broker, 0), Client::to(&broker, 0));
    let fixed = |id: &str| JoinGroupRequest { group_instance_id: Some("i1".into()), ..join(id) };
    let first = a.call(9, &fixed(""));
    assert_eq!((first.error_code, first.generation_id), (0, 1));
    let with_instance = |mut request: SyncGroupRequest| {
        request.group_instance_id = Some("i1".into());
        request
    };
    a.call(5, &with_instance(sync(&first.member_id, 1, &[(&first.member_id, "mine")])));
    let back = b.call(9, &fixed(""));
    assert_eq!((back.error_code, back.generation_id, back.skip_assignment), (0, 1, true), "no rebalance");
    assert_ne!(back.member_id, first.member_id);
    assert_eq!(&b.call(5, &with_instance(sync(&back.member_id, 1, &[]))).assignment[..], b"mine");
    let old = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: first.member_id,
        group_instance_id: Some("i1".into()),
        ..HeartbeatRequest::default()
    };
    assert_eq!(code(a.call(4, &old).error_code), ErrorCode::FencedInstanceId);
}

#[test]
fn offsets_are_kept_by_group_and_guarded_by_generation() {
    let broker = Broker::builder().topic("t", 2).start().unwrap();
    let mut client = Client::to(&broker, 0);
    let commit = |member: &str, generation: i32, partition: i32, offset: i64| OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: offset,
                committed_metadata: Some("note".into()),
                ..OffsetCommitRequestPartition::default()
            }],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    };
    let mut committed =
        |request: &OffsetCommitRequest| code(client.call(9, request).topics[0].partitions[0].error_code);
    assert_eq!(committed(&commit("", -1, 1, 42)), ErrorCode::None, "no group is needed to keep offsets");
    assert_eq!(committed(&commit("", -1, 7, 42)), ErrorCode::UnknownTopicOrPartition);
    let id = start_join(&mut client);
    client.receive::<JoinGroupRequest>(9).unwrap();
    client.call(5, &sync(&id, 1, &[]));
    let mut committed =
        |request: &OffsetCommitRequest| code(client.call(9, request).topics[0].partitions[0].error_code);
    assert_eq!(committed(&commit("", -1, 1, 50)), ErrorCode::UnknownMemberId);
    assert_eq!(committed(&commit(&id, 0, 1, 50)), ErrorCode::IllegalGeneration);
    assert_eq!(committed(&commit(&id, 1, 0, 50)), ErrorCode::None);
    let all = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup { group_id: "g".into(), topics: None, ..Default::default() }],
        ..OffsetFetchRequest::default()
    };
    let told = client.call(9, &all).groups.remove(0).topics.remove(0);
    let seen: Vec<_> =
        told.partitions.iter().map(|p| (p.partition_index, p.committed_offset, p.metadata.as_deref())).collect();
    assert_eq!(seen, [(0, 50, Some("note")), (1, 42, Some("note"))]);
    let found = client
        .call(6, &FindCoordinatorRequest { coordinator_keys: vec!["g".into(), "h".into()], ..Default::default() });
    assert_eq!(found.coordinators.iter().map(|c| c.error_code).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_node_that_is_not_the_coordinator_says_so() {
    let broker = Broker::builder().brokers(3).start().unwrap();
    let find = FindCoordinatorRequest { key: "g".into(), ..FindCoordinatorRequest::default() };
    let right = Client::to(&broker, 0).call(3, &find).node_id;
    let wrong = (right + 1) % 3;
    assert_eq!(beat(&mut Client::to(&broker, wrong), "m", 1), ErrorCode::NotCoordinator);
    assert_eq!(beat(&mut Client::to(&broker, right), "m", 1), ErrorCode::UnknownMemberId);
}
