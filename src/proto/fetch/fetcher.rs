//! The machine: cursors, sessions, and what each answer means for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cursor::{At, Cursor, Sizes, Told};
use super::epochs::{self, Proof, Proving};
use super::lookup::{self, LookedUp};
use super::output::Output;
use super::session::{Asked, Session};
use crate::base::backoff::{Backoff, BackoffRange};
use crate::base::edge::edge;
use crate::base::hash::Map;
use crate::base::ids::{BrokerId, TopicIx, Tp, Uuid};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::batch::{Aborted, Fetched, RecordSet, Refusal};
use crate::config::{AutoOffsetReset, ConsumerSettings, IsolationLevel, StartAt};
use crate::proto::cluster::{Snapshot, TopicState};
use crate::wire::messages::fetch::response::{EpochEndOffset, NodeEndpoint, PartitionData};
use crate::wire::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use crate::wire::{ApiKey, ErrorCode, Verdict};

/// A Fetch for less than this is not worth its round trip: wait until memory comes back.
const GRANT_BYTES_MIN: usize = 64 << 10;
/// What an answer has beside records, about: of itself and of each partition.
const ANSWER_BYTES: usize = 128;
const ANSWER_PARTITION_BYTES: usize = 96;
/// How long a broker may hold an answer while a partition that is read waits for something else than data: its reader, an
/// offset, a backoff. It could not be asked for before. Doubles with every answer that brings nothing.
const WITHHELD_WAIT: Duration = Duration::from_millis(5);
/// Smallest `partition_max_bytes` of a partition whose consumer does not keep up.
const PARTITION_BYTES_MIN: i32 = 64 << 10;
/// Fetch from here on names topics by id.
const FETCH_BY_ID_FROM: i16 = 13;
/// Fetch from here on says the epoch of the record before, and is told where logs part.
const FETCH_LAST_EPOCH_FROM: i16 = 12;

/// The versions that a broker and we have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchVersions {
    /// The highest of Fetch, if there is one.
    pub fetch: Option<i16>,
    /// The highest of Fetch that names topics, for topics whose id is not known.
    pub fetch_by_name: Option<i16>,
    /// The highest of ListOffsets.
    pub list_offsets: Option<i16>,
    /// The highest of OffsetForLeaderEpoch that tells fenced epochs; without, nothing is proven after a leader change.
    pub offset_for_leader_epoch: Option<i16>,
}

/// A request to send to a broker.
#[derive(Clone, PartialEq, Debug)]
pub enum FetchCall {
    /// Offsets are looked up.
    ListOffsets {
        /// To encode with.
        version: i16,
        /// What to send.
        request: ListOffsetsRequest,
    },
    /// Positions are proven after a leader change.
    OffsetForLeaderEpoch {
        /// To encode with.
        version: i16,
        /// What to send.
        request: OffsetForLeaderEpochRequest,
    },
    /// Records are fetched.
    Fetch {
        /// To encode with.
        version: i16,
        /// What to send.
        request: FetchRequest,
        /// Bytes of memory that the answer may need (KIP-74: a larger first batch may still come).
        reserve: usize,
    },
}

/// Memory for the answer to a Fetch, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// At most.
    pub bytes: usize,
    /// With less than this the request would not be worth its round trip.
    pub least: usize,
    /// The size of an answer for which there was no room before, else 0: nothing less will do.
    pub whole: usize,
}

/// One broker, as far as this consumer fetches from it on this shard.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) session: Session,
    pub(super) fetching: bool,
    looking: Option<BTreeMap<Tp, LookedUp>>,
    proving: Option<BTreeMap<Tp, Proving>>,
    pub(super) wait_until: Time,
    pub(super) backoff: Backoff,
    /// Something changed since the partitions were last looked at.
    pub(super) dirty: bool,
    /// When a partition's own wait ends.
    look_again: Time,
    /// Full requests begin with another partition each time.
    turn: usize,
    /// Answers without data since a reader took some.
    empty: u32,
    /// The reader had nothing to read since the last request.
    starves: bool,
    /// Size of an answer that there was no room for.
    whole: usize,
    /// `max_bytes` of the last request, less what was answered.
    left: usize,
    /// Of these one may have a batch that no answer may hold.
    pub(super) suspects: BTreeSet<Tp>,
}

/// All partitions of one consumer on one shard.
#[derive(Debug)]
pub struct Fetcher {
    settings: Arc<ConsumerSettings>,
    backoff: BackoffRange,
    pub(super) cursors: BTreeMap<Tp, Cursor>,
    pub(super) sides: BTreeMap<BrokerId, Side>,
    by_id: Map<Uuid, TopicIx>,
    by_name: Map<Arc<str>, TopicIx>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) rng: Rng,
    pub(super) topology: u64,
}

impl Fetcher {
    /// Without partitions. `seed` is for backoff's jitter.
    pub fn new(settings: Arc<ConsumerSettings>, backoff: BackoffRange, seed: u64) -> Self {
        Self {
            settings,
            backoff,
            cursors: BTreeMap::new(),
            sides: BTreeMap::new(),
            by_id: Map::default(),
            by_name: Map::default(),
            outputs: VecDeque::new(),
            rng: Rng::new(seed),
            topology: 0,
        }
    }

    // ---- What the consumer wants ----

    /// Reads a partition from `start` on; a partition it has already starts over (a seek). `generation` tells old answers
    /// from new ones and must rise. `snapshot` gives the leader.
    pub fn assign(&mut self, tp: Tp, generation: u32, start: StartAt, snapshot: &Snapshot) {
        let known = self.cursors.contains_key(&tp);
        let cursor = self.cursors.entry(tp).or_insert_with(|| Cursor {
            tp,
            generation,
            at: At::Stopped,
            paused: false,
            name: Arc::from(""),
            topic_id: Uuid::ZERO,
            leader: None,
            leader_epoch: -1,
            last_epoch: -1,
            unproven: false,
            proven: None,
            queued_bytes: 0,
            full: false,
            bytes_max: self.settings.max_partition_fetch_bytes,
            sizes: Sizes::default(),
            end: -1,
            share: self.settings.max_partition_fetch_bytes as usize,
            held: false,
            wait_until: Time::ZERO,
            backoff: Backoff::new(self.backoff),
            told: Told::Nothing,
        });
        cursor.restart(generation, start);
        if !known {
            self.locate(tp, snapshot);
        }
        self.touch(tp);
    }

    /// Reads a partition no more. Answers in flight for it are dropped.
    pub fn unassign(&mut self, tp: Tp) {
        self.touch(tp);
        self.cursors.remove(&tp);
        self.topology += 1;
    }

    /// Stops or goes on fetching a partition. Answers in flight for a paused one are dropped and asked for again.
    pub fn pause(&mut self, tp: Tp, paused: bool) {
        if let Some(cursor) = self.cursors.get_mut(&tp) {
            cursor.paused = paused;
            self.touch(tp);
        }
    }

    /// The consumer took `bytes` of what was given out for this generation. If it `waited` for them and they were all that
    /// one answer may bring, the next answer may bring more: the link is what keeps it.
    pub fn taken(&mut self, tp: Tp, generation: u32, bytes: usize, waited: bool) {
        if let Some(cursor) = self.cursors.get_mut(&tp)
            && cursor.generation == generation
        {
            cursor.queued_bytes = cursor.queued_bytes.saturating_sub(bytes);
            if waited && cursor.full {
                let grown = cursor.bytes_max.saturating_mul(2).min(self.settings.max_partition_fetch_bytes_grown);
                cursor.bytes_max = grown.max(cursor.bytes_max);
            }
            if let Some(side) = cursor.leader.and_then(|leader| self.sides.get_mut(&leader)) {
                side.empty = 0;
                side.starves |= waited;
            }
            self.touch(tp);
        }
    }

    /// Memory came back: what was refused for want of it may be asked again.
    pub fn on_memory(&mut self) {
        self.sides.values_mut().for_each(|side| side.dirty = true);
    }

    // ---- What happened ----

    /// A newer snapshot of the cluster.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot) {
        let all: Vec<Tp> = self.cursors.keys().copied().collect();
        for tp in all {
            self.locate(tp, snapshot);
        }
    }

    /// A Fetch was answered. Call it once per request, whatever became of the answer's memory.
    pub fn on_fetched(&mut self, now: Time, broker: BrokerId, response: FetchResponse) {
        let Some(side) = self.sides.get_mut(&broker) else { return };
        side.fetching = false;
        side.dirty = true;
        let code = ErrorCode::from(response.error_code);
        if code != ErrorCode::None {
            let was_new = side.session.is_new();
            side.session.reset();
            // A lost session is normal and costs one full request; anything else, or twice in a row, waits.
            if code.verdict() != Verdict::NewSession || was_new {
                side.wait_until = now + side.backoff.next(&mut self.rng);
            }
            return;
        }
        side.backoff.reset();
        side.session.on_answer(response.session_id);
        side.empty = side.empty.saturating_add(1);
        side.whole = 0;
        let parts = response.responses.iter().flat_map(|topic| &topic.partitions);
        let records: usize = parts.filter_map(|part| part.records.as_ref()).map(Bytes::len).sum();
        side.left = side.left.saturating_sub(records);
        self.acquit(broker);
        for topic in response.responses {
            let ix = if topic.topic_id.is_zero() {
                self.by_name.get(topic.topic.as_str())
            } else {
                self.by_id.get(&topic.topic_id)
            };
            // What was not asked for is nobody's.
            let Some(ix) = ix.copied() else { continue };
            for partition in topic.partitions {
                let tp = Tp { topic: ix, partition: partition.partition_index };
                self.on_partition(now, broker, tp, partition, &response.node_endpoints);
            }
        }
    }

    /// A Fetch was answered with more than there is memory for (KIP-74), and its records were not kept. It is asked for again
    /// when there is room.
    pub fn on_no_room(&mut self, broker: BrokerId, bytes: usize) {
        self.acquit(broker);
        let Some(side) = self.sides.get_mut(&broker) else { return };
        side.fetching = false;
        side.dirty = true;
        // The broker believes that we have it.
        side.session.reset();
        side.whole = bytes;
    }

    /// Offsets were answered.
    pub fn on_offsets(&mut self, now: Time, broker: BrokerId, response: &ListOffsetsResponse) {
        let Some(side) = self.sides.get_mut(&broker) else { return };
        side.dirty = true;
        side.backoff.reset();
        let Some(mut asked) = side.looking.take() else { return };
        for topic in &response.topics {
            let Some(ix) = self.by_name.get(topic.name.as_str()).copied() else { continue };
            for partition in &topic.partitions {
                let tp = Tp { topic: ix, partition: partition.partition_index };
                let Some(looked_up) = asked.remove(&tp) else { continue };
                let Some(cursor) = self.cursors.get_mut(&tp) else { continue };
                if cursor.generation != looked_up.generation || cursor.at != At::Nowhere(looked_up.start) {
                    continue;
                }
                match (ErrorCode::from(partition.error_code), partition.offset) {
                    (ErrorCode::None, offset @ 0..) => {
                        edge("cursor: looked up -> read");
                        cursor.at = At::Offset(offset);
                        cursor.backoff.reset();
                        cursor.told = Told::Nothing;
                        let generation = cursor.generation;
                        self.outputs.push_back(Output::Resolved { tp, generation, offset });
                    }
                    // No record is that young: at the end.
                    (ErrorCode::None, _) if matches!(looked_up.start, StartAt::Timestamp(_)) => {
                        cursor.at = At::Nowhere(StartAt::Latest);
                    }
                    (ErrorCode::None, _) => cursor.wait_until = now + cursor.backoff.next(&mut self.rng),
                    (code, _) => self.on_refused(now, tp, code),
                }
            }
        }
        // Left out of the answer: asked again, not at once.
        for tp in asked.into_keys() {
            if let Some(cursor) = self.cursors.get_mut(&tp) {
                cursor.wait_until = now + cursor.backoff.next(&mut self.rng);
            }
        }
    }

    /// Ends of epochs were answered.
    pub fn on_epochs(&mut self, now: Time, broker: BrokerId, response: &OffsetForLeaderEpochResponse) {
        let Some(side) = self.sides.get_mut(&broker) else { return };
        side.dirty = true;
        side.backoff.reset();
        let Some(mut asked) = side.proving.take() else { return };
        for topic in &response.topics {
            let Some(ix) = self.by_name.get(topic.topic.as_str()).copied() else { continue };
            for partition in &topic.partitions {
                let tp = Tp { topic: ix, partition: partition.partition };
                let Some(proving) = asked.remove(&tp) else { continue };
                let Some(cursor) = self.cursors.get_mut(&tp) else { continue };
                let is_current = cursor.generation == proving.generation
                    && cursor.at == At::Offset(proving.offset)
                    && cursor.unproven
                    && cursor.leader_epoch == proving.leader_epoch;
                if !is_current {
                    // What is asked for now is asked for again.
                    continue;
                }
                match ErrorCode::from(partition.error_code) {
                    ErrorCode::None => {
                        cursor.backoff.reset();
                        let (epoch, end) = (partition.leader_epoch, partition.end_offset);
                        self.on_proof(tp, Proof::of(proving.offset, proving.last_epoch, epoch, end));
                    }
                    code => self.on_refused(now, tp, code),
                }
            }
        }
        // Left out of the answer: asked again, not at once.
        for tp in asked.into_keys() {
            if let Some(cursor) = self.cursors.get_mut(&tp) {
                cursor.wait_until = now + cursor.backoff.next(&mut self.rng);
            }
        }
    }

    /// A request ended without an answer, or its answer was no answer. The session is over, positions stay.
    pub fn on_failed(&mut self, now: Time, broker: BrokerId, api: ApiKey) {
        let Some(side) = self.sides.get_mut(&broker) else { return };
        side.dirty = true;
        side.session.reset();
        match api {
            ApiKey::Fetch => side.fetching = false,
            ApiKey::OffsetForLeaderEpoch => side.proving = None,
            _ => side.looking = None,
        }
        side.wait_until = now + side.backoff.next(&mut self.rng);
        let topics: BTreeSet<TopicIx> = self
            .cursors
            .values()
            .filter(|cursor| cursor.leader == Some(broker))
            .map(|cursor| cursor.tp.topic)
            .collect();
        self.outputs.extend(topics.into_iter().map(|topic| Output::NeedMetadata { topic, stale: true }));
    }

    // ---- What to do next ----

    /// Whether [`Fetcher::next_call`] may have something: a look that costs nothing.
    pub fn may_call(&self, now: Time, broker: BrokerId) -> bool {
        let may = |side: &Side| side.wait_until <= now && (side.dirty || side.look_again <= now);
        self.sides.get(&broker).is_some_and(may)
    }

    /// The next request for a broker whose connection is ready. `reserve` takes memory for the answer to a Fetch and says how
    /// much; after `None` it is asked again when [`Fetcher::on_memory`] says so. After `Some` the request is in flight until
    /// `on_fetched`, `on_no_room`, `on_too_large`, `on_offsets`, `on_epochs` or `on_failed`.
    pub fn next_call(
        &mut self,
        now: Time,
        broker: BrokerId,
        versions: &FetchVersions,
        reserve: impl FnMut(Want) -> Option<usize>,
    ) -> Option<FetchCall> {
        if !self.may_call(now, broker) {
            return None;
        }
        let side = self.sides.get_mut(&broker)?;
        side.dirty = false;
        let waits = self.cursors.values().filter(|cursor| cursor.leader == Some(broker) && cursor.wait_until > now);
        side.look_again = waits.map(|cursor| cursor.wait_until).min().unwrap_or(Time::NEVER);
        if side.looking.is_none()
            && let Some(version) = versions.list_offsets
            && let Some(call) = self.lookup(now, broker, version)
        {
            return Some(call);
        }
        if let Some(call) = self.prove(now, broker, versions.offset_for_leader_epoch) {
            return Some(call);
        }
        self.fetch(now, broker, versions, reserve)
    }

    /// What happened, oldest first.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Fetcher::next_call`] may have something without anything happening before.
    pub fn next_deadline(&self, now: Time) -> Time {
        let ends = self.sides.values().map(|side| match side.wait_until {
            wait if wait > now => wait,
            _ if side.look_again > now => side.look_again,
            _ => Time::NEVER,
        });
        ends.min().unwrap_or(Time::NEVER)
    }

    /// The brokers that lead partitions to be read.
    pub fn brokers(&self) -> BTreeSet<BrokerId> {
        let moving = self.cursors.values().filter(|cursor| cursor.at != At::Stopped && !cursor.paused);
        moving.filter_map(|cursor| cursor.leader).collect()
    }

    /// Changes whenever [`Fetcher::brokers`] may have.
    pub fn topology(&self) -> u64 {
        self.topology
    }

    /// Whether there are no partitions.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// Where fetching a partition goes on, once known.
    pub fn offset(&self, tp: Tp) -> Option<i64> {
        match self.cursors.get(&tp)?.at {
            At::Offset(offset) => Some(offset),
            At::Nowhere(_) | At::Stopped => None,
        }
    }

    /// What a broker was asked for last.
    #[cfg(test)]
    pub(super) fn sides_asked(&self, broker: BrokerId) -> Vec<Tp> {
        self.sides[&broker].session.partitions.keys().copied().collect()
    }

    // ---- Inside ----

    /// Takes over what the snapshot says of a partition.
    fn locate(&mut self, tp: Tp, snapshot: &Snapshot) {
        let Some(cursor) = self.cursors.get_mut(&tp) else { return };
        let Some(topic) = snapshot.topic(tp.topic) else {
            self.outputs.push_back(Output::NeedMetadata { topic: tp.topic, stale: false });
            return;
        };
        if let TopicState::Failed(code) = topic.state {
            self.refuse(tp, Refusal::Broker(code), Told::Broker(code));
            return;
        }
        if !topic.id.is_zero() {
            if !cursor.topic_id.is_zero() && cursor.topic_id != topic.id {
                // Another topic of the same name: old offsets mean nothing in it, and all of it is new.
                if self.settings.auto_offset_reset == AutoOffsetReset::None {
                    cursor.at = At::Stopped;
                    let generation = cursor.generation;
                    let why = Refusal::Recreated;
                    self.outputs.push_back(Output::Refused { tp, generation, why, stopped: true });
                } else {
                    cursor.at = At::Nowhere(StartAt::Earliest);
                }
                cursor.leader_epoch = -1;
                cursor.forget_epoch();
            }
            cursor.topic_id = topic.id;
            self.by_id.insert(topic.id, tp.topic);
        }
        if cursor.name != topic.name {
            cursor.name = topic.name.clone();
            self.by_name.insert(topic.name.clone(), tp.topic);
        }
        let Some((leader, epoch)) = snapshot.leader(tp) else {
            self.outputs.push_back(Output::NeedMetadata { topic: tp.topic, stale: false });
            return;
        };
        // An answer may have told of a newer leader than the snapshot knows.
        if cursor.leader.is_none() || epoch >= cursor.leader_epoch {
            self.lead(tp, leader, epoch);
        }
    }

    fn lead(&mut self, tp: Tp, leader: BrokerId, epoch: i32) {
        let Some(cursor) = self.cursors.get_mut(&tp) else { return };
        if cursor.leader != Some(leader) || cursor.leader_epoch != epoch {
            // What a new leader lacks of what was read, it will never have.
            if cursor.last_epoch >= 0 && epoch > cursor.leader_epoch {
                edge("cursor: read -> in doubt after a leader change");
                cursor.unproven = true;
            }
            (cursor.leader, cursor.leader_epoch) = (Some(leader), epoch);
            cursor.wait_until = Time::ZERO;
            self.topology += 1;
        }
        let backoff = self.backoff;
        self.sides.entry(leader).or_insert_with(|| Side {
            session: Session::default(),
            fetching: false,
            looking: None,
            proving: None,
            wait_until: Time::ZERO,
            backoff: Backoff::new(backoff),
            dirty: true,
            look_again: Time::NEVER,
            turn: 0,
            empty: 0,
            starves: true,
            whole: 0,
            left: 0,
            suspects: BTreeSet::new(),
        });
        self.touch(tp);
    }

    fn touch(&mut self, tp: Tp) {
        let leader = self.cursors.get(&tp).and_then(|cursor| cursor.leader);
        if let Some(side) = leader.and_then(|leader| self.sides.get_mut(&leader)) {
            side.dirty = true;
        }
    }

    fn lookup(&mut self, now: Time, broker: BrokerId, version: i16) -> Option<FetchCall> {
        let mut asked = BTreeMap::new();
        for cursor in self.cursors.values() {
            if let At::Nowhere(start) = cursor.at
                && cursor.leader == Some(broker)
                && cursor.wait_until <= now
            {
                let (generation, leader_epoch) = (cursor.generation, cursor.leader_epoch);
                asked.insert(cursor.tp, LookedUp { start, generation, leader_epoch });
            }
        }
        if asked.is_empty() {
            return None;
        }
        let request = lookup::request(&asked, self.settings.isolation_level, &|tp| self.name(tp));
        let side = self.sides.get_mut(&broker)?;
        side.looking = Some(asked);
        // Others may be fetched meanwhile.
        side.dirty = true;
        Some(FetchCall::ListOffsets { version, request })
    }

    fn prove(&mut self, now: Time, broker: BrokerId, version: Option<i16>) -> Option<FetchCall> {
        let side = self.sides.get_mut(&broker)?;
        if side.proving.is_some() {
            return None;
        }
        let mut asked = BTreeMap::new();
        for cursor in self.cursors.values_mut().filter(|cursor| cursor.leader == Some(broker) && cursor.unproven) {
            let At::Offset(offset) = cursor.at else { continue };
            if version.is_none() {
                // A broker that cannot say: as before KIP-320.
                cursor.unproven = false;
            } else if !cursor.paused && cursor.wait_until <= now {
                let Cursor { generation, leader_epoch, last_epoch, .. } = *cursor;
                asked.insert(cursor.tp, Proving { generation, offset, leader_epoch, last_epoch });
            }
        }
        let version = version.filter(|_| !asked.is_empty())?;
        let request = epochs::request(&asked, &|tp| self.name(tp));
        let side = self.sides.get_mut(&broker)?;
        side.proving = Some(asked);
        // Others may be fetched meanwhile.
        side.dirty = true;
        Some(FetchCall::OffsetForLeaderEpoch { version, request })
    }

    /// What was found out about the record before a position.
    fn on_proof(&mut self, tp: Tp, proof: Proof) {
        let Some(cursor) = self.cursors.get_mut(&tp) else { return };
        let At::Offset(offset) = cursor.at else { return };
        cursor.unproven = false;
        edge(match proof {
            Proof::Whole => "cursor: in doubt -> proven",
            Proof::Unknown => "cursor: in doubt -> not to be proven",
            Proof::Parted { .. } => "cursor: in doubt -> truncated",
        });
        match proof {
            Proof::Whole => {}
            // Not said again, lest a broker that does not know it refuses the offset.
            Proof::Unknown => cursor.last_epoch = -1,
            Proof::Parted { epoch, to } => {
                cursor.last_epoch = epoch;
                let stopped = self.settings.auto_offset_reset == AutoOffsetReset::None;
                cursor.at = if stopped { At::Stopped } else { At::Offset(to) };
                let (generation, why) = (cursor.generation, Refusal::Truncated { offset, to });
                self.outputs.push_back(Output::Refused { tp, generation, why, stopped });
            }
        }
    }

    fn fetch(
        &mut self,
        now: Time,
        broker: BrokerId,
        versions: &FetchVersions,
        mut reserve: impl FnMut(Want) -> Option<usize>,
    ) -> Option<FetchCall> {
        if self.sides.get(&broker)?.fetching {
            return None;
        }
        let alone = self.next_suspect(now, broker);
        let side = self.sides.get_mut(&broker)?;
        let (mut wanted, mut sum, mut useful, mut all_ids) = (BTreeMap::new(), 0usize, 0usize, true);
        let mut withheld = false;
        // What there is to read is asked for in equal parts, so that the broker does not fill its answer with the first ones.
        let behind = self.cursors.values().filter(|cursor| cursor.leader == Some(broker) && cursor.is_behind()).count();
        let part = (self.settings.fetch_max_bytes as usize / behind.max(1)).max(PARTITION_BYTES_MIN as usize);
        let one_max = self.settings.max_partition_fetch_bytes;
        let here = |cursor: &&mut Cursor| cursor.leader == Some(broker) && alone.is_none_or(|tp| tp == cursor.tp);
        for cursor in self.cursors.values_mut().filter(here) {
            let At::Offset(offset) = cursor.at else {
                withheld |= cursor.at != At::Stopped && !cursor.paused;
                continue;
            };
            if !cursor.is_fetchable(now) {
                withheld |= !cursor.paused;
                continue;
            }
            let taken = cursor.is_under_share();
            if taken {
                if std::mem::take(&mut cursor.held) {
                    edge("cursor: left out -> in the session");
                }
            } else if cursor.held || cursor.is_far_over_share() {
                if !cursor.held {
                    edge("cursor: in the session -> left out");
                    cursor.held = true;
                    cursor.bytes_max = (cursor.bytes_max / 2).max(PARTITION_BYTES_MIN);
                }
                withheld = true;
                continue;
            }
            let before = side.session.partitions.get(&cursor.tp);
            let bytes_max =
                match before.filter(|before| before.offset == offset && before.generation == cursor.generation) {
                    // The next batch is larger than was asked for.
                    Some(before) if cursor.is_behind() && side.left > before.bytes_max as usize => {
                        cursor.bytes_max.max(one_max)
                    }
                    // An idle one does not change in the session.
                    Some(before) => before.bytes_max,
                    None => {
                        let most = part.min(cursor.bytes_max as usize);
                        let fit = cursor.sizes.fit(most, one_max as usize);
                        fit.and_then(|fit| i32::try_from(fit).ok()).unwrap_or(cursor.bytes_max)
                    }
                };
            cursor.share = bytes_max as usize;
            useful += if taken { bytes_max as usize } else { 0 };
            sum = sum.saturating_add(bytes_max as usize);
            all_ids &= !cursor.topic_id.is_zero();
            let (generation, topic_id) = (cursor.generation, cursor.topic_id);
            let Cursor { leader_epoch, last_epoch, .. } = *cursor;
            wanted.insert(cursor.tp, Asked { offset, leader_epoch, last_epoch, bytes_max, topic_id, generation });
        }
        // While the reader has enough, the next answer is not asked for before half of the last one was taken: more than two would
        // lie there.
        if useful == 0 || (useful < sum / 2 && !side.starves) {
            return None;
        }
        let version = if all_ids { versions.fetch } else { versions.fetch_by_name }?;
        let beside = ANSWER_BYTES + ANSWER_PARTITION_BYTES * wanted.len();
        let bytes = sum.min(self.settings.fetch_max_bytes as usize) + beside;
        // Without, memory will come back and say so.
        let reserved = reserve(Want { bytes, least: bytes.min(GRANT_BYTES_MIN), whole: side.whole })?;
        let bytes_max = reserved.saturating_sub(beside).clamp(1, self.settings.fetch_max_bytes as usize);
        if version < FETCH_LAST_EPOCH_FROM {
            wanted.values_mut().for_each(|asked| asked.last_epoch = -1);
        }
        let max_wait = match withheld {
            _ if alone.is_some() => Duration::ZERO,
            true => self.settings.fetch_max_wait.min(WITHHELD_WAIT.saturating_mul(1 << side.empty.min(16))),
            false => self.settings.fetch_max_wait,
        };
        let mut request = FetchRequest {
            max_wait_ms: i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: self.settings.fetch_min_bytes,
            max_bytes: bytes_max as i32,
            isolation_level: self.settings.isolation_level.wire(),
            ..FetchRequest::default()
        };
        let cursors = &self.cursors;
        let name = |tp: Tp| cursors.get(&tp).map_or_else(String::new, |cursor| cursor.name.to_string());
        let by_name = &self.by_name;
        // A partition that is forgotten may have no cursor any more, but its topic has a name.
        let name = |tp: Tp| match name(tp) {
            empty if empty.is_empty() => {
                by_name.iter().find(|(_, ix)| **ix == tp.topic).map_or_else(String::new, |(name, _)| name.to_string())
            }
            name => name,
        };
        side.session.fill(wanted, version >= FETCH_BY_ID_FROM, &name, &mut request);
        if side.session.is_new() {
            // Without a session the broker fills its answer from the front.
            side.turn = side.turn.wrapping_add(1);
            rotate(&mut request.topics, side.turn);
            if let [only] = &mut request.topics[..] {
                rotate(&mut only.partitions, side.turn);
            }
        }
        (side.fetching, side.starves) = (true, false);
        side.left = bytes_max;
        Some(FetchCall::Fetch { version, request, reserve: reserved })
    }

    fn name(&self, tp: Tp) -> String {
        self.cursors.get(&tp).map_or_else(String::new, |cursor| cursor.name.to_string())
    }

    fn on_partition(&mut self, now: Time, broker: BrokerId, tp: Tp, data: PartitionData, endpoints: &[NodeEndpoint]) {
        let Some(asked) = self.sides.get(&broker).and_then(|side| side.session.partitions.get(&tp)).copied() else {
            return;
        };
        let Some(cursor) = self.cursors.get_mut(&tp) else { return };
        if cursor.generation != asked.generation || cursor.at != At::Offset(asked.offset) || cursor.paused {
            return;
        }
        if cursor.unproven {
            // Of a leader whose log may be another than the one to go on with.
            return;
        }
        let code = ErrorCode::from(data.error_code);
        if code != ErrorCode::None {
            let (leader, epoch) = (data.current_leader.leader_id, data.current_leader.leader_epoch);
            if leader >= 0 && epoch > cursor.leader_epoch {
                let endpoint = endpoints.iter().find(|endpoint| endpoint.node_id == leader);
                let endpoint = endpoint.and_then(|at| Some((at.host.clone(), u16::try_from(at.port).ok()?)));
                let leader = BrokerId(leader);
                self.outputs.push_back(Output::Leader { tp, leader, epoch, endpoint });
                self.lead(tp, leader, epoch);
                return;
            }
            self.on_refused(now, tp, code);
            return;
        }
        cursor.backoff.reset();
        let EpochEndOffset { epoch, end_offset, .. } = data.diverging_epoch;
        if epoch >= 0 && end_offset >= 0 {
            self.on_proof(tp, Proof::of(asked.offset, asked.last_epoch, epoch, end_offset));
            return;
        }
        cursor.proven = None;
        cursor.end = match self.settings.isolation_level {
            IsolationLevel::ReadCommitted if data.last_stable_offset >= 0 => data.last_stable_offset,
            _ => data.high_watermark,
        };
        let records = data.records.unwrap_or_default();
        if records.is_empty() {
            cursor.told = Told::Nothing;
            return;
        }
        let (mut next, mut whole, mut broken, mut last_epoch) = (asked.offset, 0, false, -1);
        let (mut largest, mut smallest) = (0, usize::MAX);
        let mut set = RecordSet::new(&records);
        for view in set.by_ref() {
            match view {
                Ok(view) => {
                    whole += 1;
                    (largest, smallest) = (largest.max(view.bytes().len()), smallest.min(view.bytes().len()));
                    next = next.max(view.last_offset() + 1);
                    last_epoch = view.header().map_or(-1, |header| header.partition_leader_epoch);
                }
                // Whoever reads the chunk meets it in its place and says so.
                Err(_) => broken = true,
            }
        }
        let generation = cursor.generation;
        if broken {
            cursor.at = At::Stopped;
        } else if whole == 0 {
            let (have, want) = (records.len(), set.partial().and_then(|partial| partial.want));
            let why = Refusal::Oversized { offset: asked.offset, have, want };
            cursor.at = At::Stopped;
            self.outputs.push_back(Output::Refused { tp, generation, why, stopped: true });
            return;
        } else if next == asked.offset {
            cursor.wait_until = now + cursor.backoff.next(&mut self.rng);
            self.refuse(tp, Refusal::NoProgress { offset: asked.offset }, Told::NoProgress);
            return;
        } else {
            cursor.at = At::Offset(next);
            cursor.last_epoch = last_epoch;
            cursor.sizes.note(largest, smallest, set.partial().and_then(|partial| partial.want));
        }
        cursor.told = Told::Nothing;
        cursor.queued_bytes += records.len();
        cursor.full = records.len() >= asked.bytes_max as usize / 4 * 3;
        if let Some(side) = self.sides.get_mut(&broker) {
            side.empty = 0;
        }
        let aborted = if self.settings.isolation_level == IsolationLevel::ReadCommitted {
            data.aborted_transactions.unwrap_or_default()
        } else {
            Vec::new()
        };
        self.outputs.push_back(Output::Data(Fetched {
            tp,
            generation,
            offset: asked.offset,
            next_offset: next,
            records,
            aborted: aborted
                .into_iter()
                .map(|aborted| Aborted { first_offset: aborted.first_offset, producer_id: aborted.producer_id })
                .collect(),
            high_watermark: data.high_watermark,
            last_stable_offset: data.last_stable_offset,
            log_start_offset: data.log_start_offset,
        }));
    }

    /// A broker's error for one partition, in a Fetch or a lookup.
    fn on_refused(&mut self, now: Time, tp: Tp, code: ErrorCode) {
        let Some(cursor) = self.cursors.get_mut(&tp) else { return };
        let (verdict, generation) = (code.verdict(), cursor.generation);
        match (verdict, cursor.at) {
            (Verdict::ResetOffset, At::Offset(offset)) => {
                if cursor.last_epoch >= 0 && cursor.proven != Some(offset) {
                    edge("cursor: read -> in doubt when out of range");
                    // The log may have been truncated: then reading goes on where it still is as it was.
                    (cursor.unproven, cursor.proven) = (true, Some(offset));
                    return;
                }
                cursor.forget_epoch();
                match self.settings.auto_offset_reset {
                    AutoOffsetReset::Earliest => cursor.at = At::Nowhere(StartAt::Earliest),
                    AutoOffsetReset::Latest => cursor.at = At::Nowhere(StartAt::Latest),
                    AutoOffsetReset::None => {
                        edge("cursor: read -> stopped out of range");
                        cursor.at = At::Stopped;
                        let why = Refusal::OutOfRange { offset };
                        self.outputs.push_back(Output::Refused { tp, generation, why, stopped: true });
                    }
                }
                return;
            }
            (Verdict::RefreshLeader, _) if code != ErrorCode::UnknownLeaderEpoch => {
                self.outputs.push_back(Output::NeedMetadata { topic: tp.topic, stale: true });
            }
            _ => {}
        }
        cursor.wait_until = now + cursor.backoff.next(&mut self.rng);
        if !verdict.is_retriable() {
            self.refuse(tp, Refusal::Broker(code), Told::Broker(code));
        }
    }

    /// Tells the application, once per kind of trouble.
    fn refuse(&mut self, tp: Tp, why: Refusal, told: Told) {
        let Some(cursor) = self.cursors.get_mut(&tp) else { return };
        if cursor.told != told {
            cursor.told = told;
            let generation = cursor.generation;
            self.outputs.push_back(Output::Refused { tp, generation, why, stopped: false });
        }
    }
}

fn rotate<T>(list: &mut [T], by: usize) {
    if !list.is_empty() {
        list.rotate_left(by % list.len());
    }
}
