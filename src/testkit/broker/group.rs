//! Classic consumer groups: members, generations, committed offsets.
//!
//! ```text
//!   Empty ─join─► Preparing ─all joined, or deadline─► Completing ─leader's sync─► Stable
//!                    ▲                                     │                          │
//!                    └──── a member joins anew, leaves, or its session ends ──────────┘   nobody left ─► Empty
//! ```
//! A JoinGroup or SyncGroup that must wait parks its connection; the end of the rebalance leaves it a [`Deposit`].
//! Kept from Kafka: MEMBER_ID_REQUIRED from version 4 (KIP-394), static members (KIP-345) that come back without a
//! rebalance when their subscription is the same, the leader's SKIP_ASSIGNMENT (KIP-814), fencing of old instances.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::core::{Call, ConnId};
use crate::base::time::{Now, Time};
use crate::wire::ErrorCode;
use crate::wire::messages::join_group::response::JoinGroupResponseMember;
use crate::wire::messages::{JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse};

/// The answer that a parked member gets when its rebalance moved on.
#[derive(Debug)]
pub(super) enum Deposit {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
}

/// Answers for other connections that a step produced.
pub(super) type Deposits = Vec<(ConnId, Deposit)>;

/// Where a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GroupState {
    /// No members; offsets may be there.
    #[default]
    Empty,
    /// Waits for members to join.
    Preparing,
    /// Waits for the leader's assignment.
    Completing,
    /// Everybody has an assignment.
    Stable,
}

impl GroupState {
    /// Kafka's name, as DescribeGroups and ListGroups give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A member of a group.
#[derive(Debug)]
pub struct Member {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// Its protocols with their metadata, preferred first.
    pub protocols: Vec<(String, Bytes)>,
    /// What the leader gave it.
    pub assignment: Bytes,
    session: Duration,
    rebalance: Duration,
    session_ends: Time,
    /// The connection parked in JoinGroup, and its version.
    joining: Option<(ConnId, i16)>,
    /// The connection parked in SyncGroup.
    syncing: Option<ConnId>,
    nth: u64,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 when not given.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: Option<String>,
}

/// A group.
#[derive(Debug, Default)]
pub struct Group {
    /// Where it is.
    pub state: GroupState,
    /// Rises with each finished rebalance.
    pub generation: i32,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// The assignor all members know.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Members by id.
    pub members: BTreeMap<String, Member>,
    /// Committed offsets by topic and partition.
    pub offsets: BTreeMap<(String, i32), Committed>,
    /// Ids given out with MEMBER_ID_REQUIRED that have not joined yet.
    pending: BTreeMap<String, Time>,
    rebalance_ends: Option<Time>,
    /// The first members of an empty group wait for others until `rebalance_ends`.
    initial: bool,
    next_nth: u64,
}

/// All groups.
#[derive(Debug, Default)]
pub struct Groups {
    by_id: BTreeMap<String, Group>,
    next_member: u64,
}

/// What a join leads to.
pub(super) enum Joined {
    Now(JoinGroupResponse),
    Wait,
}

/// What a sync leads to.
pub(super) enum Synced {
    Now(SyncGroupResponse),
    Wait,
}

/// A JoinGroup answer that carries an error only.
pub(super) fn join_refused(version: i16, member_id: &str, error_code: i16) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code,
        generation_id: -1,
        // Null only from version 7 on.
        protocol_name: (version < 7).then(String::new),
        member_id: member_id.into(),
        ..JoinGroupResponse::default()
    }
}

/// A SyncGroup answer that carries an error only.
pub(super) fn sync_refused(error_code: i16) -> SyncGroupResponse {
    SyncGroupResponse { error_code, ..SyncGroupResponse::default() }
}

impl Group {
    fn knows_protocols(&self, protocols: &[(String, Bytes)]) -> bool {
        let common = |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(known, _)| known == name));
        self.members.is_empty() || protocols.iter().any(|(name, _)| common(name))
    }

    fn instance_owner(&self, instance: &str) -> Option<&str> {
        let owns = |(_, member): &(&String, &Member)| member.instance_id.as_deref() == Some(instance);
        self.members.iter().find(owns).map(|(id, _)| id.as_str())
    }

    /// Checks who speaks: the member is known, and still is its instance.
    pub(super) fn check_member(&self, member_id: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            return match self.instance_owner(instance) {
                Some(owner) if owner == member_id => Ok(()),
                Some(_) => Err(ErrorCode::FencedInstanceId),
                None => Err(ErrorCode::UnknownMemberId),
            };
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    fn start_rebalance(&mut self, now: Time, initial_delay: Duration, deposits: &mut Deposits) {
        for member in self.members.values_mut() {
            if let Some(conn) = member.syncing.take() {
                let answer = sync_refused(ErrorCode::RebalanceInProgress.code());
                deposits.push((conn, Deposit::Sync(answer)));
            }
        }
        self.initial = self.state == GroupState::Empty && !initial_delay.is_zero();
        let longest = self.members.values().map(|member| member.rebalance).max().unwrap_or_default();
        self.rebalance_ends = Some(now + if self.initial { initial_delay } else { longest });
        self.state = GroupState::Preparing;
    }

    fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some())
    }

    /// Ends the joining phase when everybody is there, or when its time is up.
    fn finish_joining(&mut self, now: Time, deposits: &mut Deposits) {
        if self.state != GroupState::Preparing {
            return;
        }
        let due = self.rebalance_ends.is_some_and(|ends| ends <= now);
        if !due && (self.initial || !self.all_joined()) {
            return;
        }
        if due {
            // Static members may be away for as long as their session lasts.
            self.members.retain(|_, member| member.joining.is_some() || member.instance_id.is_some());
        }
        self.rebalance_ends = None;
        self.initial = false;
        self.generation += 1;
        if self.members.is_empty() {
            (self.state, self.leader, self.protocol) = (GroupState::Empty, None, None);
            return;
        }
        self.state = GroupState::Completing;
        let first = self.members.iter().filter(|(_, m)| m.joining.is_some()).min_by_key(|(_, m)| m.nth);
        let still = self.leader.as_ref().is_some_and(|id| self.members.get(id).is_some_and(|m| m.joining.is_some()));
        if !still {
            self.leader = first.map(|(id, _)| id.clone());
        }
        self.protocol = self.vote();
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined_answer(&id, false);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.session_ends = now + member.session;
            member.assignment = Bytes::new();
            if let Some((conn, _)) = member.joining.take() {
                deposits.push((conn, Deposit::Join(answer)));
            }
        }
    }

    /// The protocol that all members know and most prefer.
    fn vote(&self) -> Option<String> {
        let everybody_knows =
            |name: &str| self.members.values().all(|member| member.protocols.iter().any(|(known, _)| known == name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| everybody_knows(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    fn joined_answer(&self, member_id: &str, skip_assignment: bool) -> JoinGroupResponse {
        let leads = self.leader.as_deref() == Some(member_id);
        let metadata = |member: &Member| {
            let chosen = member.protocols.iter().find(|(name, _)| Some(name) == self.protocol.as_ref());
            chosen.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
        };
        let member = |(id, member): (&String, &Member)| JoinGroupResponseMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: metadata(member),
            ..JoinGroupResponseMember::default()
        };
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: Some(self.protocol_type.clone()),
            protocol_name: Some(self.protocol.clone().unwrap_or_default()),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment,
            member_id: member_id.into(),
            members: if leads { self.members.iter().map(member).collect() } else { Vec::new() },
            ..JoinGroupResponse::default()
        }
    }

    fn synced_answer(&self, member_id: &str) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: Some(self.protocol_type.clone()),
            protocol_name: self.protocol.clone(),
            assignment: self.members.get(member_id).map(|member| member.assignment.clone()).unwrap_or_default(),
            ..SyncGroupResponse::default()
        }
    }

    fn remove(&mut self, member_id: &str, now: Time, deposits: &mut Deposits) {
        if let Some(gone) = self.members.remove(member_id) {
            let code = ErrorCode::UnknownMemberId.code();
            if let Some((conn, version)) = gone.joining {
                deposits.push((conn, Deposit::Join(join_refused(version, member_id, code))));
            }
            if let Some(conn) = gone.syncing {
                deposits.push((conn, Deposit::Sync(sync_refused(code))));
            }
            match self.state {
                GroupState::Stable | GroupState::Completing => {
                    self.start_rebalance(now, Duration::ZERO, deposits);
                    self.finish_joining(now, deposits);
                }
                _ => self.finish_joining(now, deposits),
            }
        }
    }
}

impl Groups {
    /// A group.
    pub fn get(&self, id: &str) -> Option<&Group> {
        self.by_id.get(id)
    }

    /// A group, made when it is not there.
    pub(super) fn entry(&mut self, id: &str) -> &mut Group {
        self.by_id.entry(id.to_owned()).or_default()
    }

    /// All groups by id.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.by_id.iter()
    }

    /// Removes a group without members.
    pub(super) fn delete(&mut self, id: &str) -> Result<(), ErrorCode> {
        match self.by_id.get(id) {
            None => Err(ErrorCode::GroupIdNotFound),
            Some(group) if group.state != GroupState::Empty => Err(ErrorCode::NonEmptyGroup),
            Some(_) => {
                self.by_id.remove(id);
                Ok(())
            }
        }
    }

    /// A parked member's connection is gone. Kafka does not notice either: the session ends on its own.
    pub(super) fn disconnected(&mut self, _conn: ConnId, _now: Now) {}

    /// The next time at which [`Groups::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let of_group = |group: &Group| {
            let sessions = group.members.values().filter(|m| m.joining.is_none()).map(|m| m.session_ends);
            sessions.chain(group.pending.values().copied()).chain(group.rebalance_ends).min()
        };
        self.by_id.values().filter_map(of_group).min()
    }

    /// Ends sessions and rebalances that are due.
    pub(super) fn tick(&mut self, now: Now) -> Deposits {
        let mut deposits = Vec::new();
        for group in self.by_id.values_mut() {
            group.pending.retain(|_, ends| *ends > now.mono);
            let late = |member: &Member| member.joining.is_none() && member.session_ends <= now.mono;
            let gone: Vec<String> = group.members.iter().filter(|(_, m)| late(m)).map(|(id, _)| id.clone()).collect();
            for id in gone {
                group.remove(&id, now.mono, &mut deposits);
            }
            group.finish_joining(now.mono, &mut deposits);
        }
        deposits
    }

    fn fresh_id(&mut self, client_id: &str, instance: Option<&str>) -> String {
        self.next_member += 1;
        let prefix = instance.unwrap_or(client_id);
        format!("{prefix}-{:08x}-0000-4000-8000-{:012x}", self.next_member, self.next_member)
    }

    /// A member joins. Others' answers are put into `deposits`.
    pub(super) fn join(
        &mut self,
        call: &Call,
        host: String,
        initial_delay: Duration,
        request: JoinGroupRequest,
        deposits: &mut Deposits,
    ) -> Joined {
        let now = call.now.mono;
        let refuse = |id: &str, code: ErrorCode| Joined::Now(join_refused(call.version, id, code.code()));
        let protocols: Vec<(String, Bytes)> =
            request.protocols.into_iter().map(|protocol| (protocol.name, protocol.metadata)).collect();
        let session = Duration::from_millis(request.session_timeout_ms.unsigned_abs().into());
        let rebalance_ms =
            if request.rebalance_timeout_ms < 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
        let rebalance = Duration::from_millis(rebalance_ms.unsigned_abs().into());
        let mut member_id = request.member_id.clone();
        if !member_id.is_empty() && !self.by_id.contains_key(&request.group_id) {
            return refuse(&member_id, ErrorCode::UnknownMemberId);
        }
        let fresh = member_id.is_empty().then(|| self.fresh_id(&call.client_id, request.group_instance_id.as_deref()));
        let group = self.by_id.entry(request.group_id).or_default();
        let inconsistent = request.protocol_type.is_empty()
            || protocols.is_empty()
            || (!group.members.is_empty() && group.protocol_type != request.protocol_type)
            || !group.knows_protocols(&protocols);
        if inconsistent {
            return refuse(&member_id, ErrorCode::InconsistentGroupProtocol);
        }
        if let Some(fresh) = fresh {
            member_id = fresh;
            let old = request.group_instance_id.as_deref().and_then(|instance| group.instance_owner(instance));
            if let Some(old) = old.map(str::to_owned) {
                // A static member is back under a new id: the old one is fenced, its place is kept.
                let Some(mut member) = group.members.remove(&old) else {
                    return refuse(&old, ErrorCode::UnknownMemberId);
                };
                let fenced = ErrorCode::FencedInstanceId.code();
                if let Some((conn, version)) = member.joining.take() {
                    deposits.push((conn, Deposit::Join(join_refused(version, &old, fenced))));
                }
                if let Some(conn) = member.syncing.take() {
                    deposits.push((conn, Deposit::Sync(sync_refused(fenced))));
                }
                let same = member.protocols == protocols;
                (member.session, member.rebalance, member.session_ends) = (session, rebalance, now + session);
                member.protocols = protocols;
                group.members.insert(member_id.clone(), member);
                let led = group.leader.as_deref() == Some(old.as_str());
                if led {
                    group.leader = Some(member_id.clone());
                }
                if group.state == GroupState::Stable && same {
                    // KIP-814: the leader learns that it need not assign anew; older clients sync as followers.
                    let mut answer = group.joined_answer(&member_id, led && call.version >= 9);
                    if led && call.version < 9 {
                        answer.leader = old;
                        answer.members.clear();
                    }
                    return Joined::Now(answer);
                }
            } else if request.group_instance_id.is_none() && call.version >= 4 {
                group.pending.insert(member_id.clone(), now + session);
                return refuse(&member_id, ErrorCode::MemberIdRequired);
            } else {
                group.add(&member_id, call, &host, request.group_instance_id, session, rebalance, protocols);
            }
        } else if group.pending.remove(&member_id).is_some() {
            group.add(&member_id, call, &host, request.group_instance_id, session, rebalance, protocols);
        } else {
            if let Err(code) = group.check_member(&member_id, request.group_instance_id.as_deref()) {
                return refuse(&member_id, code);
            }
            let leads = group.leader.as_deref() == Some(member_id.as_str());
            let Some(member) = group.members.get_mut(&member_id) else {
                return refuse(&member_id, ErrorCode::UnknownMemberId);
            };
            let same = member.protocols == protocols;
            (member.session, member.rebalance, member.session_ends) = (session, rebalance, now + session);
            member.protocols = protocols;
            let known = match group.state {
                // The answer was lost: it is given again.
                GroupState::Completing => same,
                GroupState::Stable => same && !leads,
                GroupState::Empty | GroupState::Preparing => false,
            };
            if known {
                return Joined::Now(group.joined_answer(&member_id, false));
            }
        }
        group.protocol_type = request.protocol_type;
        if group.state != GroupState::Preparing {
            group.start_rebalance(now, initial_delay, deposits);
        }
        if let Some(member) = group.members.get_mut(&member_id) {
            member.joining = Some((call.conn, call.version));
        }
        group.finish_joining(now, deposits);
        Joined::Wait
    }

    /// A member asks for, or as leader brings, assignments.
    pub(super) fn sync(&mut self, call: &Call, request: SyncGroupRequest, deposits: &mut Deposits) -> Synced {
        let refuse = |code: ErrorCode| Synced::Now(sync_refused(code.code()));
        let Some(group) = self.by_id.get_mut(&request.group_id) else { return refuse(ErrorCode::UnknownMemberId) };
        if let Err(code) = group.check_member(&request.member_id, request.group_instance_id.as_deref()) {
            return refuse(code);
        }
        if request.generation_id != group.generation {
            return refuse(ErrorCode::IllegalGeneration);
        }
        let differs =
            |given: &Option<String>, own: Option<&str>| given.as_deref().is_some_and(|given| Some(given) != own);
        if differs(&request.protocol_type, Some(&group.protocol_type))
            || differs(&request.protocol_name, group.protocol.as_deref())
        {
            return refuse(ErrorCode::InconsistentGroupProtocol);
        }
        match group.state {
            GroupState::Empty => return refuse(ErrorCode::UnknownMemberId),
            GroupState::Preparing => return refuse(ErrorCode::RebalanceInProgress),
            GroupState::Stable => return Synced::Now(group.synced_answer(&request.member_id)),
            GroupState::Completing => {}
        }
        if let Some(member) = group.members.get_mut(&request.member_id) {
            member.syncing = Some(call.conn);
            member.session_ends = call.now.mono + member.session;
        }
        if group.leader.as_deref() == Some(request.member_id.as_str()) {
            for given in request.assignments {
                if let Some(member) = group.members.get_mut(&given.member_id) {
                    member.assignment = given.assignment;
                }
            }
            group.state = GroupState::Stable;
            let ids: Vec<String> = group.members.keys().cloned().collect();
            for id in ids {
                let answer = group.synced_answer(&id);
                let Some(member) = group.members.get_mut(&id) else { continue };
                member.session_ends = call.now.mono + member.session;
                if let Some(conn) = member.syncing.take() {
                    deposits.push((conn, Deposit::Sync(answer)));
                }
            }
        }
        Synced::Wait
    }

    /// A member lives.
    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        group: &str,
        member_id: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        let Some(group) = self.by_id.get_mut(group) else { return ErrorCode::UnknownMemberId };
        if let Err(code) = group.check_member(member_id, instance) {
            return code;
        }
        if generation != group.generation {
            return ErrorCode::IllegalGeneration;
        }
        if let Some(member) = group.members.get_mut(member_id) {
            member.session_ends = now.mono + member.session;
        }
        match group.state {
            GroupState::Preparing => ErrorCode::RebalanceInProgress,
            _ => ErrorCode::None,
        }
    }

    /// A member leaves.
    pub(super) fn leave(
        &mut self,
        now: Now,
        group: &str,
        member_id: &str,
        instance: Option<&str>,
        deposits: &mut Deposits,
    ) -> ErrorCode {
        let Some(group) = self.by_id.get_mut(group) else { return ErrorCode::UnknownMemberId };
        if group.pending.remove(member_id).is_some() {
            group.finish_joining(now.mono, deposits);
            return ErrorCode::None;
        }
        // An administrator removes a static member by its instance id alone.
        let owner = match (member_id.is_empty(), instance) {
            (true, Some(instance)) => group.instance_owner(instance).map(str::to_owned),
            _ => match group.check_member(member_id, instance) {
                Ok(()) => Some(member_id.to_owned()),
                Err(code) => return code,
            },
        };
        let Some(owner) = owner else { return ErrorCode::UnknownMemberId };
        group.remove(&owner, now.mono, deposits);
        ErrorCode::None
    }

    /// Whether offsets may be committed by this member in this generation.
    pub(super) fn check_commit(
        &mut self,
        now: Now,
        id: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        let Some(group) = self.by_id.get_mut(id) else {
            // Without a generation the group is only a place for offsets.
            return if generation < 0 { ErrorCode::None } else { ErrorCode::IllegalGeneration };
        };
        if generation < 0 && member.is_empty() && group.members.is_empty() {
            return ErrorCode::None;
        }
        if let Err(code) = group.check_member(member, instance) {
            return code;
        }
        if generation != group.generation {
            return ErrorCode::IllegalGeneration;
        }
        if let Some(member) = group.members.get_mut(member) {
            member.session_ends = now.mono + member.session;
        }
        if group.state == GroupState::Completing { ErrorCode::RebalanceInProgress } else { ErrorCode::None }
    }
}

impl Group {
    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        member_id: &str,
        call: &Call,
        host: &str,
        instance_id: Option<String>,
        session: Duration,
        rebalance: Duration,
        protocols: Vec<(String, Bytes)>,
    ) {
        self.next_nth += 1;
        let member = Member {
            instance_id,
            client_id: call.client_id.clone(),
            host: host.into(),
            protocols,
            assignment: Bytes::new(),
            session,
            rebalance,
            session_ends: call.now.mono + session,
            joining: None,
            syncing: None,
            nth: self.next_nth,
        };
        self.members.insert(member_id.into(), member);
    }
}
