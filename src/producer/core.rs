//! One handle's sending side: partition chosen, record encoded once into the lane of the owning shard.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::base::hash::Map;
use crate::base::ids::{LaneId, ProducerIx, TopicIx, Tp};
use crate::base::rng::Rng;
use crate::base::stream::{ReserveError, StreamSettings};
use crate::base::time::{Clock, Time};
use crate::batch::{body_len, encode_body_at};
use crate::config::ProducerSettings;
use crate::engine::{EngineError, Shared};
use crate::mesh::command::{NewLane, Partitioner, ShardCommand};
use crate::mesh::entry::{EntryFlags, EntryHeader, EntryKind, HEADER_BYTES};
use crate::mesh::{
    Budget, BudgetError, Credit, Doorbell, LaneSettings, LaneWriter, Share, SnapshotReader, completions, lane,
};
use crate::proto::cluster::Snapshot;
use crate::proto::produce::{Sticky, keyed_partition};

use super::blocked::Blocked;
use super::inbox::{Inbox, Waiter};
use super::record::{Record, RejectReason, TopicRef};

/// Outcomes that fit into one way back before they wait at the shard.
const COMPLETIONS: usize = 1_024;
/// A sleeping shard is woken when so much lies in its lane: two full chunks; four where all share one CPU (design §3.12).
const WAKE_BYTES: u64 = 128 << 10;
const WAKE_BYTES_SINGLE_CPU: u64 = 256 << 10;
/// Bytes sent to a partition before its share of the budget hears of them.
const SHARE_STEP_BYTES: u32 = 4 << 10;
/// No owner looked up yet.
const NO_SHARD: u16 = u16::MAX;

/// Why a record was not placed now.
pub(super) enum Stop {
    Reject(RejectReason),
    /// The lane is full.
    Room {
        shard: usize,
        bytes: usize,
    },
    /// `buffer.memory` is used up, or the record's partition holds too much of it.
    Memory {
        bytes: u64,
        share: Share,
    },
}

/// What was taken from the budget for a record that waited for it.
#[derive(Default)]
pub(super) struct Paid {
    bytes: u64,
    /// Where the bytes are counted.
    share: Option<Share>,
}

/// A shorter way than the lane, for the thread that runs the shard itself.
pub(super) trait Near {
    /// Whether there is one now.
    fn is_near(&self) -> bool;
    /// Has `encode` write the record's body into its batch. False: it has to go through the lane.
    fn append(&self, lane: LaneId, header: EntryHeader, body_len: usize, encode: impl FnOnce(&mut [u8])) -> bool;
}

/// No shorter way.
struct Far;

impl Near for Far {
    #[inline(always)]
    fn is_near(&self) -> bool {
        false
    }
    fn append(&self, _: LaneId, _: EntryHeader, _: usize, _: impl FnOnce(&mut [u8])) -> bool {
        false
    }
}

/// One shard's lane.
struct Port {
    writer: LaneWriter,
    bell: Doorbell,
    /// The sleep for which a deadline was compared already: `until` of then.
    compared: Time,
}

#[derive(Clone)]
struct PartitionState {
    shard: u16,
    tickets: u64,
    /// Made with the first record.
    share: Option<Share>,
    /// Bytes sent that `share` has not heard of.
    undeclared: u32,
    /// How many those may become; 0 while the partition holds too much.
    step: u32,
}

impl PartitionState {
    const NEW: Self = Self { shard: NO_SHARD, tickets: 0, share: None, undeclared: 0, step: 0 };

    /// Whether the partition may hold more of the budget, asked every few KiB.
    #[cold]
    fn admits(&mut self, budget: &Budget, tp: Tp) -> bool {
        let share = self.share.get_or_insert_with(|| budget.share(tp));
        share.hold(u64::from(std::mem::take(&mut self.undeclared)));
        let admits = budget.admits(share);
        self.step = if admits { SHARE_STEP_BYTES } else { 0 };
        admits
    }

    /// Lets go of the share if nothing is held; the next record gets it again.
    fn forget_share(&mut self) {
        if let Some(share) = &self.share {
            share.hold(u64::from(std::mem::take(&mut self.undeclared)));
            if share.is_even() {
                (self.share, self.step) = (None, 0);
            }
        }
    }

    #[cold]
    fn share(&mut self, budget: &Budget, tp: Tp) -> Share {
        self.share.get_or_insert_with(|| budget.share(tp)).clone()
    }
}

/// What a handle keeps of a topic.
struct TopicState {
    /// Snapshot version it was taken from; 0 never.
    version: u64,
    /// 0: not known yet.
    partitions: i32,
    states: Vec<PartitionState>,
    unplaced: PartitionState,
    sticky: Sticky,
}

impl TopicState {
    /// The state of a partition that `choose` has met, or of what has none yet.
    #[inline]
    fn state(&mut self, partition: i32) -> &mut PartitionState {
        match usize::try_from(partition) {
            Ok(partition) => &mut self.states[partition],
            Err(_) => &mut self.unplaced,
        }
    }
}

/// See the module.
pub(super) struct Core {
    shared: Arc<Shared>,
    producer: ProducerIx,
    settings: Arc<ProducerSettings>,
    partitioner: Option<Arc<dyn Partitioner>>,
    inbox: Arc<Inbox>,
    blocked: Arc<Blocked>,
    snapshots: SnapshotReader<Snapshot>,
    /// The first name used: most handles send to one topic, and a comparison is less than a hash.
    first_name: Option<(Box<str>, TopicIx)>,
    names: Map<Box<str>, TopicIx>,
    topics: Vec<Option<TopicState>>,
    ports: Vec<Option<Port>>,
    credit: Credit,
    rng: Rng,
    marks: u64,
    wake_bytes: u64,
    /// See [`Core::placed_bytes`].
    placed_bytes: u64,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("producer", &self.producer).finish_non_exhaustive()
    }
}

impl Core {
    pub fn new(
        shared: &Arc<Shared>,
        producer: ProducerIx,
        settings: &Arc<ProducerSettings>,
        partitioner: Option<Arc<dyn Partitioner>>,
        inbox: &Arc<Inbox>,
    ) -> Self {
        let seed = shared.settings().seed.unwrap_or_else(|| shared.clock().now().mono.0);
        Self {
            producer,
            settings: Arc::clone(settings),
            partitioner,
            inbox: Arc::clone(inbox),
            blocked: Arc::default(),
            snapshots: shared.snapshots(),
            first_name: None,
            names: Map::default(),
            topics: Vec::new(),
            ports: (0..shared.shards().len()).map(|_| None).collect(),
            credit: shared.budget().credit(),
            rng: Rng::new(seed ^ (u64::from(producer.0) << 32) ^ 0x5EED),
            marks: 0,
            placed_bytes: 0,
            wake_bytes: if shared.single_cpu() { WAKE_BYTES_SINGLE_CPU } else { WAKE_BYTES },
            shared: Arc::clone(shared),
        }
    }

    /// Places a record, or says what is missing. `paid`: by a record that waited. On success `waiter` was taken.
    #[inline]
    pub fn place(
        &mut self,
        record: &Record<'_>,
        waiter: &mut Option<Waiter>,
        paid: Option<&mut Paid>,
    ) -> Result<(), Stop> {
        self.place_near(record, waiter, paid, &Far)
    }

    /// The same, by a shorter way than the lane where `near` knows one.
    #[inline]
    pub fn place_near(
        &mut self,
        record: &Record<'_>,
        waiter: &mut Option<Waiter>,
        paid: Option<&mut Paid>,
        near: &impl Near,
    ) -> Result<(), Stop> {
        let topic = match record.topic {
            TopicRef::Ix(ix) => ix,
            TopicRef::Name(name) => match &self.first_name {
                Some((first, ix)) if same(first, name) => *ix,
                _ => match self.names.get(name) {
                    Some(ix) => *ix,
                    None => self.learn(name)?,
                },
            },
        };
        self.snapshots.refresh();
        let slot = topic.0 as usize;
        let fresh = matches!(self.topics.get(slot), Some(Some(state)) if state.version == self.snapshots.version());
        if !fresh {
            self.look_up(topic);
        }
        let headers = || record.headers.as_slice().iter().copied();
        let body_bytes = body_len(record.key, record.value, headers());
        if body_bytes > self.settings.max_request_size {
            let reason = RejectReason::TooLarge { bytes: body_bytes, max: self.settings.max_request_size };
            return Err(Stop::Reject(reason));
        }
        let (kind, tp, shard) = self.choose(topic, record, body_bytes)?;
        let bytes = HEADER_BYTES + body_bytes;
        if self.ports[shard].is_none() {
            self.open(shard)?;
        }
        let Some(port) = self.ports[shard].as_mut() else { return Err(Stop::Reject(RejectReason::Closed)) };
        if port.writer.is_closed() {
            // Room that is left in a chunk would take the record, and nobody would ever read it (d1-24).
            return Err(Stop::Reject(gone(&self.shared)));
        }
        let rolls = !port.writer.fits(bytes);
        // What lies in the lane was sent before.
        let near_lane = (near.is_near() && port.writer.unread_bytes() == 0).then(|| port.writer.id());
        let out = match port.writer.reserve(bytes) {
            Ok(out) => out,
            Err(ReserveError::Full) => return Err(Stop::Room { shard, bytes }),
            Err(ReserveError::TooLarge) => {
                return Err(Stop::Reject(RejectReason::TooLarge { bytes, max: lane_bytes(&self.settings) }));
            }
            Err(ReserveError::Closed) => return Err(Stop::Reject(gone(&self.shared))),
        };
        // `choose` made the state.
        let Some(Some(topic_state)) = self.topics.get_mut(slot) else { return Err(Stop::Reject(RejectReason::Closed)) };
        let state = topic_state.state(tp.partition);
        if let Some(paid) = paid.filter(|paid| paid.bytes > 0) {
            debug_assert_eq!(paid.bytes, bytes as u64);
            // The share was told while waiting; it is another one if the topic became known meanwhile.
            let bytes = std::mem::take(&mut paid.bytes);
            if let Some(told) = paid.share.take().filter(|told| told.tp() != tp) {
                told.release(bytes);
                state.share(self.credit.budget(), tp).hold(bytes);
            }
        } else {
            let budget = self.credit.budget();
            let held_up = state.undeclared as usize + bytes > state.step as usize && !state.admits(budget, tp);
            if held_up || !self.credit.try_spend(bytes as u64) {
                let budget = self.credit.budget();
                let capacity = budget.capacity_bytes();
                if bytes as u64 > capacity {
                    let max = usize::try_from(capacity).unwrap_or(usize::MAX);
                    return Err(Stop::Reject(RejectReason::TooLarge { bytes, max }));
                }
                return Err(Stop::Memory { bytes: bytes as u64, share: state.share(budget, tp) });
            }
            // At most `max.request.size`, so it fits.
            state.undeclared += bytes as u32;
        }
        let tracked = waiter.is_some();
        let mut flags = EntryFlags::default();
        let time = match record.timestamp_ms {
            Some(time) => time,
            None if tracked => self.shared.clock().now().wall_ms,
            None => {
                flags.0 |= EntryFlags::STAMP;
                0
            }
        };
        if record.key.is_some() {
            flags.0 |= EntryFlags::KEYED;
        }
        if let Some(who) = waiter {
            flags.0 |= EntryFlags::TRACKED;
            if matches!(who, Waiter::Promise(_)) {
                flags.0 |= EntryFlags::URGENT;
            }
        }
        let header = EntryHeader { kind, flags, tp, time };
        self.placed_bytes += bytes as u64;
        let encode = |out: &mut [u8]| encode_body_at(record.key, record.value, headers(), out);
        let in_lane = near_lane.is_none_or(|lane| !near.append(lane, header, body_bytes, encode));
        if in_lane {
            header.write(body_bytes, out);
            encode(&mut out[HEADER_BYTES..]);
        }
        if let Some(who) = waiter.take() {
            self.inbox.track(shard, tp, state.tickets, time, who);
        }
        state.tickets += 1;
        if !in_lane {
            return Ok(());
        }
        port.writer.commit(bytes);
        port.ring(&self.shared, &self.settings, flags, rolls, self.wake_bytes, bytes);
        Ok(())
    }

    /// A name's first use.
    #[cold]
    fn learn(&mut self, name: &str) -> Result<TopicIx, Stop> {
        match self.shared.topic(name) {
            Ok(ix) => {
                self.first_name.get_or_insert_with(|| (name.into(), ix));
                self.names.insert(name.into(), ix);
                Ok(ix)
            }
            Err(EngineError::Closed) => Err(Stop::Reject(RejectReason::Closed)),
            Err(EngineError::Failed(why)) => Err(Stop::Reject(RejectReason::Failed(why))),
            Err(other) => Err(Stop::Reject(RejectReason::Topic(other.to_string()))),
        }
    }

    /// Takes what the newest snapshot says of a topic.
    #[cold]
    fn look_up(&mut self, topic: TopicIx) {
        let slot = topic.0 as usize;
        while self.topics.len() <= slot {
            self.topics.push(None);
        }
        let state = self.topics[slot].get_or_insert_with(|| TopicState {
            version: 0,
            partitions: 0,
            states: Vec::new(),
            unplaced: PartitionState::NEW,
            sticky: Sticky::default(),
        });
        state.version = self.snapshots.version();
        let count = self.snapshots.get().topic(topic).map_or(0, |topic| topic.partition_count());
        // A broker that just restarted may not know a topic for a moment: what was known stays (d1-15, d1-18).
        if count > state.partitions {
            state.partitions = count;
            state.grow(count);
            state.sticky.reset();
        }
        // Now and then, since snapshots change now and then: what holds nothing need not be remembered.
        for partition in state.states.iter_mut().chain([&mut state.unplaced]) {
            partition.forget_share();
        }
    }

    /// Kind, partition and shard of a record.
    #[inline(always)]
    fn choose(&mut self, topic: TopicIx, record: &Record<'_>, bytes: usize) -> Result<(EntryKind, Tp, usize), Stop> {
        let Some(Some(state)) = self.topics.get_mut(topic.0 as usize) else {
            return Err(Stop::Reject(RejectReason::Closed));
        };
        let count = state.partitions;
        let snapshot = self.snapshots.get();
        let partition = match record.partition {
            Some(partition) => {
                if partition < 0 || (count > 0 && partition >= count) || partition >= PARTITIONS_MAX {
                    return Err(Stop::Reject(RejectReason::NoSuchPartition { partition, count }));
                }
                partition
            }
            None if count == 0 => {
                let home = topic.0 as usize % self.ports.len().max(1);
                return Ok((EntryKind::Unplaced, Tp { topic, partition: -1 }, home));
            }
            None => match (&self.partitioner, record.key) {
                (Some(custom), key) => {
                    let name = self.shared.topics().name(topic);
                    let partition = custom.partition(name.as_deref().unwrap_or_default(), key, record.value, count);
                    if !(0..count).contains(&partition) {
                        return Err(Stop::Reject(RejectReason::NoSuchPartition { partition, count }));
                    }
                    partition
                }
                // Nothing to choose from, nothing to hash.
                (None, Some(_)) if count == 1 && !self.settings.partitioner_ignore_keys => 0,
                (None, Some(key)) if !self.settings.partitioner_ignore_keys => keyed_partition(key, count),
                _ => {
                    let available = |partition| snapshot.leader(Tp { topic, partition }).is_some();
                    state.sticky.partition(bytes, self.settings.batch_size, count, &mut self.rng, available)
                }
            },
        };
        let tp = Tp { topic, partition };
        let place = partition as usize;
        if place >= state.states.len() {
            state.grow(partition + 1);
        }
        let shard = match state.states[place].shard {
            NO_SHARD => {
                let ownership = self.shared.ownership();
                // Records of this handle that wait for metadata on the home shard must not be overtaken on another: what
                // follows them goes there too, and stays there, whoever owns the partition by now for other handles.
                let home = crate::base::ids::ShardIx((topic.0 as usize % self.ports.len().max(1)) as u16);
                let shard = match snapshot.leader(tp) {
                    _ if count == 0 || state.unplaced.tickets > 0 => {
                        ownership.owner_or(tp, || home);
                        home
                    }
                    Some((leader, _)) => ownership.owner_for_leader(tp, leader),
                    None => ownership.owner_or(tp, || home),
                };
                state.states[place].shard = shard.0;
                shard.0
            }
            known => known,
        };
        Ok((EntryKind::Record, tp, usize::from(shard)))
    }

    /// Opens the lane to a shard.
    #[cold]
    fn open(&mut self, shard: usize) -> Result<(), Stop> {
        if !self.shared.is_open() {
            return Err(Stop::Reject(gone(&self.shared)));
        }
        let too_many = |error: EngineError| Stop::Reject(RejectReason::Failed(error.to_string()));
        let id = self.shared.next_lane().map_err(too_many)?;
        let stream = StreamSettings {
            bytes_max: lane_bytes(&self.settings),
            resume_empty: self.shared.single_cpu(),
            ..StreamSettings::default()
        };
        let Some(commands) = self.shared.shards().get(shard) else {
            return Err(Stop::Reject(RejectReason::Closed));
        };
        let (writer, reader) = lane(id, LaneSettings { stream, medium: commands.medium().clone() });
        let (back, inbox) = completions(COMPLETIONS, self.shared.medium());
        let new = NewLane { producer: self.producer, reader, completions: back };
        if commands.send(ShardCommand::AddLane(new)).is_err() {
            return Err(Stop::Reject(gone(&self.shared)));
        }
        let bell = commands.doorbell().clone();
        self.inbox.open(shard, inbox, Some(bell.clone()));
        self.ports[shard] = Some(Port { writer, bell, compared: Time::ZERO });
        Ok(())
    }

    /// Puts a flush mark into every open lane. Says which lanes wait for which mark; lanes without room come back as the
    /// shard's number, to try again from.
    pub fn mark(&mut self, marks: &mut Vec<(usize, u64)>, from: usize) -> Result<(), usize> {
        for shard in from..self.ports.len() {
            let Some(port) = self.ports[shard].as_mut() else { continue };
            match port.writer.reserve(HEADER_BYTES) {
                Ok(out) => {
                    self.marks += 1;
                    EntryHeader::flush(self.marks).write(0, out);
                    port.writer.commit(HEADER_BYTES);
                    port.bell.notify_now();
                    marks.push((shard, self.marks));
                }
                Err(ReserveError::Full) => return Err(shard),
                // Its shard is gone: the inbox knows.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Pollable core of waiting for room in a lane.
    pub fn poll_room(&mut self, context: &mut Context<'_>, shard: usize, bytes: usize) -> Poll<()> {
        match self.ports[shard].as_mut() {
            Some(port) => {
                port.bell.notify_now();
                port.writer.poll_room(context, bytes).map(|_| ())
            }
            None => Poll::Ready(()),
        }
    }

    /// Bytes of records placed so far, each with its header.
    #[inline]
    pub fn placed_bytes(&self) -> u64 {
        self.placed_bytes
    }

    /// Those who are blocked in this handle and its clones.
    pub fn blocked(&self) -> &Arc<Blocked> {
        &self.blocked
    }

    /// Wakes every shard of this handle: somebody waits for memory that they can free.
    pub fn press(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            // Up to half a MiB a lane that the budget knows nothing of.
            port.writer.free_spare();
            port.bell.notify_now();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // What the shares have not heard of will be released all the same.
        for topic in self.topics.iter_mut().flatten() {
            for state in topic.states.iter_mut().chain([&mut topic.unplaced]) {
                if let Some(share) = &state.share {
                    share.hold(u64::from(std::mem::take(&mut state.undeclared)));
                }
            }
        }
    }
}

/// Partition numbers beyond this name nothing in any cluster.
const PARTITIONS_MAX: i32 = 1 << 20;

impl TopicState {
    fn grow(&mut self, count: i32) {
        let count = usize::try_from(count.min(PARTITIONS_MAX)).unwrap_or(0);
        if self.states.len() < count {
            self.states.resize(count, PartitionState::NEW);
        }
    }
}

impl Port {
    /// After a commit: wakes the shard only if it would sleep too long for what was written.
    #[inline]
    fn ring(
        &mut self,
        shared: &Shared,
        settings: &ProducerSettings,
        flags: EntryFlags,
        rolls: bool,
        wake_bytes: u64,
        bytes: usize,
    ) {
        let Some(until) = self.bell.asleep_until() else { return };
        let first = self.writer.unread_bytes() == bytes as u64;
        if flags.has(EntryFlags::URGENT) || (rolls && self.writer.unread_bytes() >= wake_bytes) {
            self.bell.notify_now();
        } else if first || until != self.compared || until == Time::NEVER {
            // Later records have later deadlines: once per sleep is enough, unless it was rung.
            let now = shared.clock().now().mono;
            if until > now + settings.linger {
                self.bell.notify_now();
            } else if first {
                self.writer.note_waiting_since(now);
            }
            self.compared = until;
        }
    }
}

/// Whether two names are the same: those of usual lengths by words that may overlap, where a call costs more than it does.
#[inline(always)]
fn same(one: &str, other: &str) -> bool {
    #[inline(always)]
    fn ends<const N: usize>(bytes: &[u8]) -> (Option<&[u8; N]>, Option<&[u8; N]>) {
        (bytes.first_chunk(), bytes.last_chunk())
    }
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len()
        && match one.len() {
            4..=8 => ends::<4>(one) == ends::<4>(other),
            9..=16 => ends::<8>(one) == ends::<8>(other),
            17..=32 => ends::<16>(one) == ends::<16>(other),
            _ => one == other,
        }
}

/// Room of one lane: enough for the largest record, and for eight chunks.
fn lane_bytes(settings: &ProducerSettings) -> usize {
    StreamSettings::default().bytes_max.max(settings.max_request_size + HEADER_BYTES)
}

fn gone(shared: &Shared) -> RejectReason {
    match shared.gone() {
        EngineError::Failed(why) => RejectReason::Failed(why),
        _ => RejectReason::Closed,
    }
}

/// A way to a handle's core: its own, or behind the lock that clones share.
pub(super) trait Access {
    fn with<R>(&mut self, work: impl FnOnce(&mut Core) -> R) -> R;
}

impl Access for &mut Core {
    fn with<R>(&mut self, work: impl FnOnce(&mut Core) -> R) -> R {
        work(self)
    }
}

/// One record's way in, with its waits. Dropping it before it is ready sends nothing and gives back what was taken.
pub(super) struct Sending {
    shared: Arc<Shared>,
    paid: Paid,
    take: Option<(crate::mesh::budget::Take, u64)>,
    deadline: Time,
}

impl Sending {
    pub fn new(shared: &Arc<Shared>, deadline: Time) -> Self {
        Self { shared: Arc::clone(shared), paid: Paid::default(), take: None, deadline }
    }

    /// Pollable core of `send`.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut core: impl Access,
        record: &Record<'_>,
        waiter: &mut Option<Waiter>,
    ) -> Poll<Result<(), RejectReason>> {
        loop {
            if let Some((take, bytes)) = &mut self.take {
                match Pin::new(take).poll(context) {
                    Poll::Pending => {
                        core.with(|core| core.press());
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) => self.paid.bytes = *bytes,
                    Poll::Ready(Err(error)) => {
                        let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
                        self.take = None;
                        return Poll::Ready(Err(match error {
                            BudgetError::TimedOut => RejectReason::Timeout,
                            BudgetError::Closed => gone(&self.shared),
                            BudgetError::TooLarge => {
                                let max = usize::try_from(self.shared.budget().capacity_bytes()).unwrap_or(usize::MAX);
                                RejectReason::TooLarge { bytes, max }
                            }
                        }));
                    }
                }
                self.take = None;
            }
            match core.with(|core| core.place(record, waiter, Some(&mut self.paid))) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Stop::Reject(reason)) => return Poll::Ready(Err(reason)),
                Err(Stop::Memory { bytes, share }) => {
                    self.paid.share = Some(share.clone());
                    self.take = Some((self.shared.budget().take_for(bytes, share, self.deadline), bytes));
                }
                Err(Stop::Room { shard, bytes }) => {
                    if core.with(|core| core.poll_room(context, shard, bytes)).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Paid { bytes, share } = &self.paid;
        if *bytes > 0 {
            share.iter().for_each(|share| share.release(*bytes));
            self.shared.budget().give_back(*bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn names_are_the_same_when_every_byte_is() {
        for len in 0..70 {
            let name = "abcdefghij".repeat(7)[..len].to_owned();
            assert!(same(&name, &name.clone()));
            assert!(!same(&name, &format!("{name}x")));
            for at in 0..len {
                let mut other = name.clone();
                other.replace_range(at..=at, "x");
                assert!(!same(&name, &other), "{name} {other}");
            }
        }
    }
}
