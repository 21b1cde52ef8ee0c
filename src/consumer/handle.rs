//! The consumer itself: what its shards sent, in order, turned into batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::batch::{Batch, Memory, Spares, Whole};
use super::builder::Assign;
use super::error::ConsumeError;
use super::progress::{BatchMark, Progress};
use crate::base::gate::Medium;
use crate::base::ids::{BrokerId, ConsumerIx, ShardIx, Tp};
use crate::base::sync::Waiters;
use crate::base::time::{Clock, Time};
use crate::batch::{Cut, Decompressor, Mark, Payload, Records, RecordsHead, Refusal};
use crate::config::{AutoOffsetReset, ConsumerSettings, StartAt};
use crate::engine::{Engine, EngineClock, Parked, Waiting};
use crate::mesh::command::ShardCommand;
use crate::mesh::{
    FetchCommand, FetchEvent, MailboxReceiver, MailboxSender, OwnershipTable, Sleeper, SnapshotReader, mailbox, sleeper,
};
use crate::proto::cluster::Snapshot;
use crate::proto::fetch::{Chunk, Skipped};

/// Events taken from the mailbox per poll.
const EVENTS_PER_POLL: usize = 256;
/// A batch may decompress to `fetch.memory`, and to this where that is less.
const UNPACKED_BYTES_MIN: usize = 16 << 20;

/// What a consumer needs of its engine.
#[derive(Debug)]
pub(super) struct Wiring {
    pub(super) consumer: ConsumerIx,
    pub(super) shards: Vec<MailboxSender<ShardCommand>>,
    pub(super) ownership: Arc<OwnershipTable>,
    pub(super) snapshots: SnapshotReader<Snapshot>,
    pub(super) medium: Medium,
    pub(super) clock: EngineClock,
    /// Keeps the engine alive, and names topics.
    pub(super) engine: Engine,
}

#[derive(Debug)]
struct Partition {
    topic: Arc<str>,
    shard: ShardIx,
    generation: u32,
    paused: bool,
    /// Where it was told to start.
    start: StartAt,
    /// The next offset to give out; none before the start is known.
    position: Option<i64>,
    progress: Progress,
    /// A batch that cannot be read stands in front.
    bad: Option<Chunk>,
    high_watermark: Option<i64>,
}

/// What is to be given out, in the order it came.
#[derive(Debug)]
enum Ready {
    Chunk(Chunk),
    Refused { tp: Tp, generation: u32, why: Refusal, stopped: bool },
}

/// What is left of a batch with more records than `max.poll.records`.
#[derive(Debug)]
struct Rest {
    tp: Tp,
    generation: u32,
    head: RecordsHead,
    whole: Arc<Whole>,
    from: Mark,
    first_offset: i64,
    next_offset: i64,
    leader_epoch: i32,
}

/// Reads partitions. `Send`, used by one thread or task at a time.
#[derive(Debug)]
pub struct Consumer {
    wiring: Wiring,
    settings: Arc<ConsumerSettings>,
    to_me: MailboxSender<FetchEvent>,
    events: MailboxReceiver<FetchEvent>,
    sleeper: Sleeper,
    waiters: Arc<Waiters>,
    partitions: BTreeMap<Tp, Partition>,
    /// Which shard reads what a broker leads.
    by_leader: BTreeMap<BrokerId, ShardIx>,
    /// Shards that know of this consumer.
    known: BTreeSet<ShardIx>,
    generation: u32,
    ready: VecDeque<Ready>,
    current: Option<Chunk>,
    rest: Option<Rest>,
    /// Something was read, and since then there was a time with nothing to read.
    has_read: bool,
    waited: bool,
    /// Partitions with batches that are not done.
    unsettled: BTreeSet<Tp>,
    decompressor: Decompressor,
    spares: Arc<Spares>,
    skipped: Skipped,
}

impl Consumer {
    pub(super) fn new(wiring: Wiring, settings: Arc<ConsumerSettings>) -> Self {
        let waiters = Arc::new(Waiters::new());
        let woken = Arc::clone(&waiters);
        let (sleeper, doorbell) = sleeper(&wiring.medium, move || woken.wake_all());
        let (to_me, events) = mailbox(doorbell, &wiring.medium);
        let memory = wiring.engine.shared().fetch_memory().clone();
        let limit = memory.capacity_bytes().max(UNPACKED_BYTES_MIN);
        Self {
            wiring,
            settings,
            to_me,
            events,
            sleeper,
            waiters,
            partitions: BTreeMap::new(),
            by_leader: BTreeMap::new(),
            known: BTreeSet::new(),
            generation: 0,
            ready: VecDeque::new(),
            current: None,
            rest: None,
            has_read: false,
            waited: false,
            unsettled: BTreeSet::new(),
            decompressor: Decompressor::new(limit),
            spares: Spares::new(memory),
            skipped: Skipped::default(),
        }
    }

    // ---- Reading ----

    /// The next batch; `None` when `timeout` passed first. Calling it says that batches which were read to their end are
    /// processed. A batch that was dropped before its end (`?`, `break`, a panic, a future that was dropped) is given out
    /// again from its current record, and so is what came behind it of that partition; say [`Batch::done`] to pass over the
    /// rest. An error concerns one partition (or the engine): call again to go on with the others.
    ///
    /// Whoever holds batches and asks for more gets more, up to `fetch.memory`: beyond it, decompressed ones give
    /// [`ConsumeError::TooMuchHeld`], and of uncompressed ones (which stay in the memory they were fetched into) no more come,
    /// so that `None` is returned when `timeout` has passed.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError> {
        self.next_by(&Parked, timeout)
    }

    /// The same, waiting by parking or by running a local engine's shard.
    pub(super) fn next_by(&mut self, by: &impl Waiting, timeout: Duration) -> Result<Option<Batch>, ConsumeError> {
        let clock = self.wiring.clock.clone();
        let deadline = match timeout {
            Duration::MAX => Time::NEVER,
            timeout => clock.now().mono + timeout,
        };
        by.wait_until(deadline, &clock, |context| self.poll_next(context)).transpose()
    }

    /// The next batch, awaited under any executor. Cancel-safe: a future that is dropped has taken nothing.
    pub async fn next_async(&mut self) -> Result<Batch, ConsumeError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Pollable core of [`Consumer::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Batch, ConsumeError>> {
        self.sleeper.waited();
        self.sleeper.turn_begins();
        if let Some(error) = self.settle() {
            return Poll::Ready(Err(error));
        }
        loop {
            self.receive();
            if let Some(found) = self.give() {
                return Poll::Ready(found);
            }
            if self.events.has_items() {
                continue;
            }
            let state = self.wiring.engine.shared().state();
            if state.failed().poll_set(context).is_ready() || state.ended().poll_set(context).is_ready() {
                return Poll::Ready(Err(self.wiring.engine.shared().gone().into()));
            }
            // Before anything was read there is no telling whether the link or the reader is the slower one.
            self.waited |= self.has_read;
            self.waiters.register(context.waker());
            self.sleeper.prepare(Time::NEVER);
            if !self.events.has_items() {
                return Poll::Pending;
            }
            self.sleeper.turn_begins();
        }
    }

    // ---- Partitions ----

    /// Reads these partitions too; one that is assigned already starts over.
    pub fn assign<A: Into<Assign>>(&mut self, partitions: impl IntoIterator<Item = A>) -> Result<(), ConsumeError> {
        for wanted in partitions {
            let Assign { topic, partition, start } = wanted.into();
            let start = match (start, self.settings.auto_offset_reset) {
                (Some(start), _) => start,
                (None, AutoOffsetReset::Earliest) => StartAt::Earliest,
                (None, AutoOffsetReset::Latest) => StartAt::Latest,
                (None, AutoOffsetReset::None) => return Err(ConsumeError::NoStart { topic, partition }),
            };
            let shared = self.wiring.engine.shared();
            let tp = Tp { topic: shared.topic(&topic)?, partition };
            let shard = match self.partitions.get(&tp) {
                Some(state) => state.shard,
                None => self.owner(tp),
            };
            self.introduce(shard)?;
            self.partitions.entry(tp).or_insert_with(|| Partition {
                topic: Arc::from(topic.as_str()),
                shard,
                generation: 0,
                paused: false,
                start,
                position: None,
                progress: Progress::default(),
                bad: None,
                high_watermark: None,
            });
            self.start(tp, start)?;
        }
        Ok(())
    }

    /// Reads a partition no more. Nothing of it is given out after this; its paused state is forgotten.
    pub fn unassign(&mut self, topic: &str, partition: i32) -> Result<(), ConsumeError> {
        let tp = self.find(topic, partition)?;
        self.drop_queued(tp);
        self.unsettled.remove(&tp);
        let Some(gone) = self.partitions.remove(&tp) else { return Ok(()) };
        self.tell(gone.shard, FetchCommand::Unassign { consumer: self.wiring.consumer, tp })
    }

    /// Goes on at another place. What was fetched is dropped; *processed* starts over there.
    pub fn seek(&mut self, topic: &str, partition: i32, start: StartAt) -> Result<(), ConsumeError> {
        let tp = self.find(topic, partition)?;
        self.start(tp, start)
    }

    /// Gives out nothing of a partition until [`Consumer::resume`]. What was fetched of it and not read is dropped, so a
    /// paused partition holds no memory; it is fetched again then.
    pub fn pause(&mut self, topic: &str, partition: i32) -> Result<(), ConsumeError> {
        let tp = self.find(topic, partition)?;
        let consumer = self.wiring.consumer;
        let Some(state) = self.partitions.get_mut(&tp) else { return Ok(()) };
        if std::mem::replace(&mut state.paused, true) {
            return Ok(());
        }
        let (shard, start) = (state.shard, state.position.map_or(state.start, StartAt::Offset));
        self.tell(shard, FetchCommand::Pause { consumer, tp, paused: true })?;
        // Another generation: what is on its way is dropped, too, even where the shard knows the start and we do not yet. What
        // was processed stays as it is.
        self.drop_queued(tp);
        let generation = self.next_generation(tp);
        self.tell(shard, FetchCommand::Assign { consumer, tp, generation, start })
    }

    /// Goes on with a paused partition, where it was or was seeked to.
    pub fn resume(&mut self, topic: &str, partition: i32) -> Result<(), ConsumeError> {
        let tp = self.find(topic, partition)?;
        let consumer = self.wiring.consumer;
        let Some(state) = self.partitions.get_mut(&tp) else { return Ok(()) };
        if !std::mem::replace(&mut state.paused, false) {
            return Ok(());
        }
        let shard = state.shard;
        self.tell(shard, FetchCommand::Pause { consumer, tp, paused: false })
    }

    /// Whether a partition is paused.
    pub fn is_paused(&self, topic: &str, partition: i32) -> Result<bool, ConsumeError> {
        Ok(self.partitions.get(&self.find(topic, partition)?).is_some_and(|state| state.paused))
    }

    /// The offset that comes next; `None` before the start is known.
    pub fn position(&self, topic: &str, partition: i32) -> Result<Option<i64>, ConsumeError> {
        Ok(self.partitions.get(&self.find(topic, partition)?).and_then(|state| state.position))
    }

    /// The offset to commit: everything before it was processed. `None` before the start is known.
    pub fn processed(&self, topic: &str, partition: i32) -> Result<Option<i64>, ConsumeError> {
        Ok(self.partitions.get(&self.find(topic, partition)?).and_then(|state| state.progress.processed()))
    }

    /// The high watermark as the last answer with data had it.
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Result<Option<i64>, ConsumeError> {
        Ok(self.partitions.get(&self.find(topic, partition)?).and_then(|state| state.high_watermark))
    }

    /// Passes over a batch that [`ConsumeError::BadBatch`] told of. False when there is none, or when its header does not
    /// tell where it ends: then only a seek helps.
    pub fn skip_bad(&mut self, topic: &str, partition: i32) -> Result<bool, ConsumeError> {
        let tp = self.find(topic, partition)?;
        let Some(state) = self.partitions.get_mut(&tp) else { return Ok(false) };
        let Some(mut chunk) = state.bad.take() else { return Ok(false) };
        if !chunk.skip_bad() {
            state.bad = Some(chunk);
            return Ok(false);
        }
        state.position = Some(chunk.position());
        state.progress.advance(chunk.position());
        self.ready.push_front(Ready::Chunk(chunk));
        Ok(true)
    }

    /// All partitions, by topic name.
    pub fn assignment(&self) -> Vec<(Arc<str>, i32)> {
        let mut all: Vec<_> = self.partitions.iter().map(|(tp, state)| (state.topic.clone(), tp.partition)).collect();
        all.sort_unstable();
        all
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &ConsumerSettings {
        &self.settings
    }

    // ---- Inside ----

    /// Batches that were exhausted are done now.
    fn settle(&mut self) -> Option<ConsumeError> {
        let (mut error, mut back) = (None, Vec::new());
        let partitions = &mut self.partitions;
        self.unsettled.retain(|tp| {
            let Some(state) = partitions.get_mut(tp) else { return false };
            if error.is_none()
                && let Some(bad) = state.progress.take_bad()
            {
                error = Some(ConsumeError::BadRecord { topic: state.topic.clone(), partition: tp.partition, bad });
            }
            if state.progress.settle() {
                back.extend(state.progress.processed().map(|processed| (*tp, processed)));
            }
            state.progress.is_unsettled()
        });
        for (tp, processed) in back {
            // An engine that is gone says so below.
            let _ = self.start(tp, StartAt::Offset(processed));
        }
        error
    }

    fn receive(&mut self) {
        for _ in 0..EVENTS_PER_POLL {
            let Some(event) = self.events.take() else { return };
            match event {
                FetchEvent::Data(fetched) => {
                    if self.is_current(fetched.tp, fetched.generation) {
                        self.ready.push_back(Ready::Chunk(Chunk::new(fetched, self.settings.isolation_level)));
                    }
                }
                FetchEvent::Resolved { tp, generation, offset } => {
                    if let Some(state) = self.partitions.get_mut(&tp)
                        && state.generation == generation
                    {
                        state.position = Some(offset);
                        state.progress.start(Some(offset));
                    }
                }
                FetchEvent::Refused { tp, generation, why, stopped } => {
                    if self.is_current(tp, generation) {
                        self.ready.push_back(Ready::Refused { tp, generation, why, stopped });
                    }
                }
            }
        }
    }

    fn is_current(&self, tp: Tp, generation: u32) -> bool {
        self.partitions.get(&tp).is_some_and(|state| state.generation == generation)
    }

    /// The next batch or error that can be given out now.
    fn give(&mut self) -> Option<Result<Batch, ConsumeError>> {
        loop {
            if let Some(rest) = self.rest.take()
                && self.is_current(rest.tp, rest.generation)
            {
                return self.give_part(rest).map(Ok);
            }
            if let Some(mut chunk) = self.current.take() {
                // A chunk is dropped with its generation, but the check is cheap and the promise is not.
                if self.is_current(chunk.tp(), chunk.generation()) {
                    if let Some((held, limit)) = self.spares.too_much() {
                        self.current = Some(chunk);
                        return Some(Err(ConsumeError::TooMuchHeld { held, limit }));
                    }
                    match self.give_from(&mut chunk) {
                        Ok(Some(batch)) => {
                            self.current = Some(chunk);
                            return Some(Ok(batch));
                        }
                        Ok(None) => {}
                        Err(error) => {
                            if let Some(state) = self.partitions.get_mut(&chunk.tp()) {
                                state.bad = Some(chunk);
                            }
                            return Some(Err(error));
                        }
                    }
                }
            }
            match self.ready.pop_front()? {
                Ready::Chunk(chunk) => {
                    let (tp, generation) = (chunk.tp(), chunk.generation());
                    let Some(state) = self.partitions.get_mut(&tp) else { continue };
                    if state.generation != generation {
                        continue;
                    }
                    state.high_watermark = Some(chunk.high_watermark);
                    let (consumer, bytes, shard) = (self.wiring.consumer, chunk.records().len(), state.shard);
                    // Only an engine that is gone refuses, and the next poll says so.
                    let waited = std::mem::take(&mut self.waited);
                    let _ = self.tell(shard, FetchCommand::Taken { consumer, tp, generation, bytes, waited });
                    self.has_read = true;
                    self.current = Some(chunk);
                }
                Ready::Refused { tp, generation, why, stopped } => {
                    let state = self.partitions.get_mut(&tp).filter(|state| state.generation == generation);
                    let Some(state) = state else { continue };
                    if let Refusal::Truncated { to, .. } = why {
                        state.position = Some(to);
                        state.progress.rewind(to);
                    }
                    let (topic, partition) = (state.topic.clone(), tp.partition);
                    return Some(Err(ConsumeError::Refused { topic, partition, why, stopped }));
                }
            }
        }
    }

    fn give_from(&mut self, chunk: &mut Chunk) -> Result<Option<Batch>, ConsumeError> {
        let tp = chunk.tp();
        let Some(state) = self.partitions.get_mut(&tp) else { return Ok(None) };
        let mut window = self.spares.take();
        let found = chunk.next_batch(&mut self.decompressor, &mut window.unpacked, &mut self.skipped);
        window.settle();
        let position = chunk.position();
        state.position = Some(position);
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                state.progress.advance(position);
                self.spares.put(window);
                return Ok(None);
            }
            Err(bad) => {
                state.progress.advance(position);
                self.spares.put(window);
                return Err(ConsumeError::BadBatch { topic: state.topic.clone(), partition: tp.partition, bad });
            }
        };
        // What was passed over before this batch counts with what was given out before.
        state.progress.advance(found.first_offset);
        let generation = state.generation;
        if let Some(limit) = self.settings.max_poll_records
            && found.head.count > limit.max(1) as i32
        {
            let memory = match found.payload {
                Payload::InPlace => {
                    self.spares.put(window);
                    Memory::Fetched(chunk.records().slice(found.range.clone()))
                }
                Payload::Unpacked => Memory::Unpacked(window),
            };
            return Ok(self.give_part(Rest {
                tp,
                generation,
                head: found.head,
                whole: Whole::new(memory, self.spares.clone()),
                from: Records::new(found.head, &[]).mark(),
                first_offset: found.first_offset,
                next_offset: found.next_offset,
                leader_epoch: found.leader_epoch,
            }));
        }
        let mark = BatchMark::new(found.first_offset);
        state.progress.give(mark.clone(), found.next_offset);
        self.unsettled.insert(tp);
        let memory = match found.payload {
            Payload::InPlace => {
                self.spares.put(window);
                Memory::Fetched(chunk.records().slice(found.range.clone()))
            }
            Payload::Unpacked => Memory::Unpacked(window),
        };
        Ok(Some(Batch {
            tp,
            topic: state.topic.clone(),
            head: found.head,
            memory,
            cut: None,
            first_offset: found.first_offset,
            next_offset: found.next_offset,
            leader_epoch: found.leader_epoch,
            mark,
            home: self.spares.clone(),
        }))
    }

    /// The next `max.poll.records` of a batch. The records are walked once more for it.
    fn give_part(&mut self, rest: Rest) -> Option<Batch> {
        let state = self.partitions.get_mut(&rest.tp)?;
        let limit = self.settings.max_poll_records.map_or(usize::MAX, |limit| limit.max(1) as usize);
        let bytes = rest.whole.bytes();
        let mut records = Records::resume(rest.head, bytes, rest.from);
        let mut from = records.mark();
        // Only the first part has records that are not wanted.
        while let Some(Ok(record)) = records.next()
            && record.offset < rest.first_offset
        {
            from = records.mark();
        }
        let mut records = Records::resume(rest.head, bytes, from);
        let cut = records.cut(limit);
        let behind = records.mark();
        let next = cut.and_then(|cut| Some((cut, records.next()?.ok()?.offset)));
        let (cut, next_offset) = next.unwrap_or((Cut { from, end: bytes.len() }, rest.next_offset));
        let mark = BatchMark::new(rest.first_offset);
        state.progress.give(mark.clone(), next_offset);
        state.position = Some(next_offset);
        self.unsettled.insert(rest.tp);
        let batch = Batch {
            tp: rest.tp,
            topic: state.topic.clone(),
            head: rest.head,
            memory: Memory::Part(rest.whole.clone()),
            cut: Some(cut),
            first_offset: rest.first_offset,
            next_offset,
            leader_epoch: rest.leader_epoch,
            mark,
            home: self.spares.clone(),
        };
        if next.is_some() {
            self.rest = Some(Rest { from: behind, first_offset: next_offset, ..rest });
        }
        Some(batch)
    }

    /// A partition starts (over).
    fn start(&mut self, tp: Tp, start: StartAt) -> Result<(), ConsumeError> {
        self.drop_queued(tp);
        let generation = self.next_generation(tp);
        let Some(state) = self.partitions.get_mut(&tp) else { return Ok(()) };
        state.start = start;
        state.position = match start {
            StartAt::Offset(offset) => Some(offset),
            _ => None,
        };
        state.progress.start(state.position);
        self.unsettled.remove(&tp);
        let shard = state.shard;
        self.tell(shard, FetchCommand::Assign { consumer: self.wiring.consumer, tp, generation, start })
    }

    fn next_generation(&mut self, tp: Tp) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        if let Some(state) = self.partitions.get_mut(&tp) {
            state.generation = self.generation;
        }
        self.generation
    }

    /// Forgets what was fetched of a partition and not given out.
    fn drop_queued(&mut self, tp: Tp) {
        let of = |ready: &Ready| match ready {
            Ready::Chunk(chunk) => chunk.tp(),
            Ready::Refused { tp, .. } => *tp,
        };
        self.ready.retain(|ready| of(ready) != tp);
        if self.current.as_ref().is_some_and(|chunk| chunk.tp() == tp) {
            self.current = None;
        }
        if self.rest.as_ref().is_some_and(|rest| rest.tp == tp) {
            self.rest = None;
        }
        if let Some(state) = self.partitions.get_mut(&tp) {
            state.bad = None;
        }
    }

    /// The shard that reads a partition. One leader's partitions stay together, so that a broker has one link and one Fetch of a
    /// consumer; while leaders are not known, all are read by one shard.
    fn owner(&mut self, tp: Tp) -> ShardIx {
        self.wiring.snapshots.refresh();
        let snapshot = self.wiring.snapshots.get();
        let Some((leader, _)) = snapshot.leader(tp) else {
            let shards = self.wiring.shards.len().max(1) as u16;
            return ShardIx(self.wiring.consumer.0 % shards);
        };
        if let Some(shard) = self.by_leader.get(&leader) {
            return *shard;
        }
        let led = |tp: &Tp| snapshot.leader(*tp).is_some_and(|(of, _)| of == leader);
        let beside = self.partitions.iter().find(|(tp, _)| led(tp)).map(|(_, state)| state.shard);
        let shard = beside.unwrap_or_else(|| self.wiring.ownership.owner_for_leader(tp, leader));
        self.by_leader.insert(leader, shard);
        shard
    }

    /// Tells a shard of this consumer, once.
    fn introduce(&mut self, shard: ShardIx) -> Result<(), ConsumeError> {
        if self.known.insert(shard) {
            let consumer = self.wiring.consumer;
            let (settings, events) = (Arc::clone(&self.settings), self.to_me.clone());
            self.tell(shard, FetchCommand::AddConsumer { consumer, settings, events })?;
        }
        Ok(())
    }

    fn tell(&self, shard: ShardIx, command: FetchCommand) -> Result<(), ConsumeError> {
        match self.wiring.shards.get(usize::from(shard.0)) {
            Some(to) if to.send(ShardCommand::Fetch(command)).is_ok() => Ok(()),
            _ => Err(self.wiring.engine.shared().gone().into()),
        }
    }

    fn find(&self, topic: &str, partition: i32) -> Result<Tp, ConsumeError> {
        let known = self.wiring.engine.shared().topics().get(topic).map(|topic| Tp { topic, partition });
        known
            .filter(|tp| self.partitions.contains_key(tp))
            .ok_or_else(|| ConsumeError::NotAssigned { topic: topic.to_owned(), partition })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        for shard in &self.known {
            let _ = self.tell(*shard, FetchCommand::RemoveConsumer { consumer: self.wiring.consumer });
        }
    }
}
