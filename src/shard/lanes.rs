//! The lanes of one shard: entries in, outcomes out, flush marks.

use std::collections::VecDeque;

use super::Settlements;
use crate::base::hash::Map;
use crate::base::ids::{LaneId, ProducerIx, TopicIx, Tp};
use crate::base::time::{Now, Time};
use crate::batch::Outcome;
use crate::mesh::command::{Completion, NewLane};
use crate::mesh::entry::{Entry, EntryFlags, EntryHeader, EntryKind, HEADER_BYTES};
use crate::mesh::{CompletionWriter, LaneReader};
use crate::proto::produce::{Arrival, Origin, PartIx, Produce, Run};

/// Bytes taken from one lane before the next one's turn.
const LANE_BYTES_PER_PASS: usize = 64 << 10;

/// One partition as one lane knows it.
#[derive(Debug)]
struct Slot {
    tp: Tp,
    /// None for unplaced records.
    part: Option<PartIx>,
    next_ticket: u64,
}

/// Records between two flush marks.
#[derive(Debug, Default)]
struct Bucket {
    outstanding: u64,
    /// The mark behind them, once it came.
    flush: Option<u64>,
}

/// One handle's lane.
#[derive(Debug)]
struct Lane {
    producer: ProducerIx,
    reader: LaneReader,
    completions: CompletionWriter<Completion>,
    slots: Vec<Slot>,
    index: Map<Tp, u32>,
    last: usize,
    /// When it was looked at last.
    looked: Time,
    /// Oldest first; the last one is still growing.
    buckets: VecDeque<Bucket>,
    /// Marks that are done: the number of the first bucket.
    marks_done: u32,
    failed: u64,
    unknown: u64,
    /// Outcomes were pushed since the last notice.
    dirty: bool,
}

/// What a pass over the lanes found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Drained {
    /// Bytes taken.
    pub bytes: usize,
    /// As much of it as handles paid the budget for: records, not marks.
    pub paid: usize,
    /// There may be more.
    pub more: bool,
}

/// What became of a record that was to go straight into its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InPlace {
    /// It is there.
    Done,
    /// It has to go through the lane, and whoever drains that at once can go on in place.
    Drain,
    /// It has to go through the lane.
    Lane,
}

/// All lanes of a shard.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    by_id: Map<LaneId, usize>,
    next: usize,
}

impl Lanes {
    pub fn add(&mut self, lane: NewLane) {
        let NewLane { producer, reader, completions } = lane;
        self.by_id.insert(reader.id(), self.lanes.len());
        self.lanes.push(Lane {
            producer,
            reader,
            completions,
            slots: Vec::new(),
            index: Map::default(),
            last: 0,
            looked: Time::ZERO,
            buckets: VecDeque::from([Bucket::default()]),
            marks_done: 0,
            failed: 0,
            unknown: 0,
            dirty: false,
        });
    }

    /// Whether any lane has something to read: the look before sleeping.
    pub fn has_records(&mut self) -> bool {
        self.lanes.iter_mut().any(|lane| lane.reader.has_readable())
    }

    /// Whether a handle made room for outcomes that wait here: the look before sleeping, too.
    pub fn can_tell(&self) -> bool {
        self.lanes.iter().any(|lane| lane.completions.can_flush())
    }

    /// Takes up to `bytes_max` bytes, a piece of every lane in turn. `met` learns of topics to be fed to the machine: met for
    /// the first time, or with a record that was sent before its handle knew them.
    pub fn drain(
        &mut self,
        now: Now,
        bytes_max: usize,
        produce: &mut Produce,
        settled: &mut Settlements,
        met: &mut Vec<TopicIx>,
    ) -> Drained {
        let (mut taken, mut paid) = (0, 0);
        let count = self.lanes.len();
        let mut idle = 0;
        while idle < count && taken < bytes_max {
            self.next = (self.next + 1) % count;
            let (bytes, marks) = self.lanes[self.next].drain(now, LANE_BYTES_PER_PASS, produce, settled, met);
            paid += bytes - marks;
            idle = if bytes == 0 { idle + 1 } else { 0 };
            taken += bytes;
        }
        Drained { bytes: taken, paid, more: idle < count }
    }

    /// Encodes a record of a lane that is empty straight into its open batch.
    #[inline]
    pub fn append_in_place(
        &mut self,
        lane: LaneId,
        header: &EntryHeader,
        body_len: usize,
        produce: &mut Produce,
        write: impl FnOnce(&mut [u8]),
    ) -> InPlace {
        // Most local engines have one lane.
        let at = match self.lanes.first() {
            Some(first) if first.reader.id() == lane => 0,
            _ => match self.by_id.get(&lane) {
                Some(at) => *at,
                None => return InPlace::Lane,
            },
        };
        self.lanes[at].append_in_place(header, body_len, produce, write)
    }

    /// Tells handles how their records ended.
    pub fn settle(&mut self, settled: &mut Settlements) {
        for (tp, run, outcome) in settled.list.drain(..) {
            if let Some(lane) = self.by_id.get(&run.lane).and_then(|at| self.lanes.get_mut(*at)) {
                lane.settle(tp, &run, outcome);
            }
        }
        for lane in &mut self.lanes {
            lane.end_flushes();
            if std::mem::take(&mut lane.dirty) || lane.completions.pending() > 0 {
                lane.completions.flush();
            }
        }
    }

    /// Forgets lanes whose handle is gone and whose records have ended.
    pub fn reap(&mut self) {
        let over = |lane: &mut Lane| {
            lane.reader.is_closed() && lane.buckets.iter().all(|b| b.outstanding == 0) && !lane.reader.has_readable()
        };
        let mut at = 0;
        while at < self.lanes.len() {
            if over(&mut self.lanes[at]) {
                let gone = self.lanes.swap_remove(at);
                self.by_id.remove(&gone.reader.id());
                if let Some(moved) = self.lanes.get(at) {
                    self.by_id.insert(moved.reader.id(), at);
                }
            } else {
                at += 1;
            }
        }
    }
}

impl Lane {
    /// Takes what is there. Says how many bytes, and how many of them were marks.
    fn drain(
        &mut self,
        now: Now,
        bytes_max: usize,
        produce: &mut Produce,
        settled: &mut Settlements,
        met: &mut Vec<TopicIx>,
    ) -> (usize, usize) {
        let id = self.reader.id();
        let Self { producer, reader, slots, index, last, looked, buckets, marks_done, .. } = self;
        let looked = std::mem::replace(looked, now.mono);
        if !reader.has_readable() {
            return (0, 0);
        }
        // What waited while the shard slept lingers since then.
        let sent = reader.take_waiting_since().map_or(now.mono, |since| since.clamp(looked.min(now.mono), now.mono));
        let bytes = reader.readable();
        let mut at = 0;
        let (mut records, mut marks) = (0, 0);
        while at < bytes.len() && at < bytes_max {
            let Some((entry, len)) = Entry::read(&bytes[at..]) else {
                // Only a fault of ours can do that; the shard's guard turns it into a failed engine.
                panic!("a lane holds what is no entry");
            };
            at += len;
            let header = entry.header;
            if header.kind == EntryKind::Flush {
                marks += len;
                if let Some(bucket) = buckets.back_mut() {
                    bucket.outstanding += std::mem::take(&mut records);
                    bucket.flush = Some(header.time as u64);
                }
                buckets.push_back(Bucket::default());
                produce.flush(*producer);
                continue;
            }
            if slots.get(*last).is_none_or(|slot| slot.tp != header.tp) {
                *last = find_slot(*producer, header.tp, slots, index, produce, met);
            }
            let slot = &mut slots[*last];
            let origin = Origin {
                lane: id,
                space: header.tp.partition,
                ticket: slot.next_ticket,
                mark: *marks_done + buckets.len() as u32 - 1,
                tracked: header.flags.has(EntryFlags::TRACKED),
                urgent: header.flags.has(EntryFlags::URGENT),
            };
            slot.next_ticket += 1;
            records += 1;
            let timestamp_ms = if header.flags.has(EntryFlags::STAMP) { now.wall_ms } else { header.time };
            let record = Arrival { timestamp_ms, body: entry.body, origin, charge: len };
            match slot.part {
                Some(part) if !produce.has_unplaced(header.tp.topic) => {
                    produce.append(sent, part, &record, settled);
                }
                _ => {
                    // The handle had not seen the snapshot that this shard has placed others by: nobody would place this
                    // one before the next snapshot, and all records behind it would wait as well.
                    if produce.knows(header.tp.topic) && !met.contains(&header.tp.topic) {
                        met.push(header.tp.topic);
                    }
                    let keyed = header.flags.has(EntryFlags::KEYED);
                    produce.append_unplaced(sent, *producer, header.tp, keyed, &record, settled);
                }
            }
        }
        if let Some(bucket) = buckets.back_mut() {
            bucket.outstanding += records;
        }
        if at > 0 {
            reader.consume(at);
        }
        (at, marks)
    }

    #[inline]
    fn append_in_place(
        &mut self,
        header: &EntryHeader,
        body_len: usize,
        produce: &mut Produce,
        write: impl FnOnce(&mut [u8]),
    ) -> InPlace {
        let tp = header.tp;
        if self.slots.get(self.last).is_none_or(|slot| slot.tp != tp) {
            let Some(slot) = self.index.get(&tp) else { return InPlace::Lane };
            self.last = *slot as usize;
        }
        let slot = &mut self.slots[self.last];
        let Some(part) = slot.part.filter(|_| !produce.has_unplaced(tp.topic)) else { return InPlace::Lane };
        let origin = Origin {
            lane: self.reader.id(),
            space: tp.partition,
            ticket: slot.next_ticket,
            mark: self.marks_done + self.buckets.len() as u32 - 1,
            tracked: header.flags.has(EntryFlags::TRACKED),
            urgent: false,
        };
        // Nothing is counted before it is written.
        if !produce.append_in_place(part, (header.time, body_len), &origin, HEADER_BYTES + body_len, write) {
            return InPlace::Drain;
        }
        slot.next_ticket += 1;
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.outstanding += 1;
        }
        InPlace::Done
    }

    fn settle(&mut self, tp: Tp, run: &Run, outcome: Outcome) {
        match outcome {
            Outcome::Delivered { .. } => {}
            Outcome::Failed(_) => self.failed += u64::from(run.count),
            Outcome::Unknown(_) => self.unknown += u64::from(run.count),
        }
        let bucket = self.buckets.get_mut(run.mark.wrapping_sub(self.marks_done) as usize);
        if let Some(bucket) = bucket {
            bucket.outstanding = bucket.outstanding.saturating_sub(u64::from(run.count));
        }
        if run.tracked && !self.completions.is_closed() {
            let space = Tp { topic: tp.topic, partition: run.space };
            let (partition, first, count) = (tp.partition, run.first, run.count);
            self.completions.push(Completion::Records { space, partition, first, count, outcome });
            self.dirty = true;
        }
    }

    /// Marks with nothing outstanding before them are done.
    fn end_flushes(&mut self) {
        while let Some(Bucket { outstanding: 0, flush: Some(id) }) = self.buckets.front() {
            let (id, failed, unknown) = (*id, self.failed, self.unknown);
            self.buckets.pop_front();
            self.marks_done = self.marks_done.wrapping_add(1);
            if !self.completions.is_closed() {
                self.completions.push(Completion::Flushed { id, failed, unknown });
                self.dirty = true;
            }
        }
    }
}

/// The lane's entry for a partition, made at first use.
#[cold]
fn find_slot(
    producer: ProducerIx,
    tp: Tp,
    slots: &mut Vec<Slot>,
    index: &mut Map<Tp, u32>,
    produce: &mut Produce,
    met: &mut Vec<TopicIx>,
) -> usize {
    let slot = index.entry(tp).or_insert_with(|| {
        if !produce.knows(tp.topic) && !met.contains(&tp.topic) {
            met.push(tp.topic);
        }
        let part = (tp.partition >= 0).then(|| produce.partition(producer, tp));
        slots.push(Slot { tp, part, next_ticket: 0 });
        slots.len() as u32 - 1
    });
    *slot as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::backoff::BackoffRange;
    use crate::base::chunk::ChunkPool;
    use crate::base::gate::Medium;
    use crate::base::ids::{BrokerId, Uuid};
    use crate::batch::{body_len, encode_body};
    use crate::config::ProducerSettings;
    use crate::mesh::{LaneSettings, LaneWriter, completions, lane};
    use crate::proto::cluster::TopicNames;
    use crate::proto::produce::{LeaderFact, Placement, ProduceSettings};
    use std::collections::BTreeSet;
    use std::time::Duration;

    const PRODUCER: ProducerIx = ProducerIx(0);
    const TOPIC: TopicIx = TopicIx(0);

    struct First;
    impl Placement for First {
        fn place(&mut self, _: ProducerIx, _: TopicIx, _: bool, _: &[u8], _: &[LeaderFact]) -> i32 {
            0
        }
    }

    fn write(writer: &mut LaneWriter, partition: i32) {
        write_value(writer, partition, b"v");
    }

    fn write_value(writer: &mut LaneWriter, partition: i32, value: &[u8]) {
        let mut body = Vec::new();
        encode_body(None, Some(value), std::iter::empty(), &mut body);
        assert_eq!(body.len(), body_len(None, Some(value), std::iter::empty()));
        let kind = if partition < 0 { EntryKind::Unplaced } else { EntryKind::Record };
        let header = EntryHeader { kind, flags: EntryFlags(0), tp: Tp { topic: TOPIC, partition }, time: 1 };
        let out = writer.reserve(HEADER_BYTES + body.len()).unwrap();
        header.write(body.len(), out);
        out[HEADER_BYTES..].copy_from_slice(&body);
        writer.commit(HEADER_BYTES + body.len());
    }

    fn machine() -> Produce {
        let settings = ProduceSettings {
            request_timeout: Duration::from_secs(30),
            retry_backoff: BackoffRange { first: Duration::from_millis(100), max: Duration::from_secs(1) },
            in_flight_max: 5,
            propagation_max: Duration::from_secs(30),
            seed: 1,
        };
        let mut produce = Produce::new(settings, ChunkPool::new(0));
        produce.add_producer(PRODUCER, std::sync::Arc::new(ProducerSettings::default()));
        produce
    }

    #[test]
    fn r12_a_turn_takes_a_bounded_piece_of_every_lane() {
        let (mut produce, mut lanes) = (machine(), Lanes::default());
        let (mut settled, mut met) = (Settlements::default(), Vec::new());
        let now = Now { mono: Time(1), wall_ms: 1 };
        let facts = [LeaderFact { leader: Some(BrokerId(1)), epoch: 0 }];
        produce.set_topic(now.mono, TOPIC, Some((Uuid::ZERO, &facts)), &mut settled, &mut First);
        let value = [7; 1_000];
        let mut handles = Vec::new();
        for id in 0..3 {
            let (mut writer, reader) = lane(LaneId(id), LaneSettings::default());
            let (back, inbox) = completions(8, &Medium::threads());
            lanes.add(NewLane { producer: PRODUCER, reader, completions: back });
            (0..400).for_each(|_| write_value(&mut writer, 0, &value));
            handles.push((writer, inbox));
        }
        let (per_turn, slack) = (256 << 10, LANE_BYTES_PER_PASS + 2_000);
        let total: usize = handles.iter().map(|(writer, _)| writer.committed_total() as usize).sum();
        let mut taken = 0;
        while taken < total {
            let drained = lanes.drain(now, per_turn, &mut produce, &mut settled, &mut met);
            assert!(drained.bytes <= per_turn + slack, "{drained:?}");
            assert!(drained.bytes >= per_turn.min(total - taken), "{drained:?}");
            taken += drained.bytes;
            // Nobody is a pass ahead of the others while they have something.
            let read: Vec<u64> = lanes.lanes.iter().map(|lane| lane.reader.consumed_total()).collect();
            let (least, most) = (read.iter().min().unwrap(), read.iter().max().unwrap());
            assert!(most - least <= slack as u64, "{read:?}");
            assert!(drained.more || taken == total);
        }
        assert_eq!(produce.stats().records, 1_200);
    }

    /// A flush had hung for the age of the metadata: the shard placed what waited, and then met records of a handle that
    /// had looked at the snapshot a moment earlier.
    #[test]
    fn r07_a_record_sent_before_its_handle_saw_the_topic_does_not_wait_for_the_next_snapshot() {
        let mut produce = machine();
        let (mut lanes, mut settled, mut met) = (Lanes::default(), Settlements::default(), Vec::new());
        let (mut writer, reader) = lane(LaneId(1), LaneSettings::default());
        let (back, _inbox) = completions(8, &Medium::threads());
        lanes.add(NewLane { producer: PRODUCER, reader, completions: back });
        let now = Now { mono: Time(1), wall_ms: 1 };
        let facts = [LeaderFact { leader: Some(BrokerId(1)), epoch: 0 }];
        let mut feed = |lanes: &mut Lanes, produce: &mut Produce| {
            lanes.drain(now, usize::MAX, produce, &mut settled, &mut met);
            let fed = met.len();
            for topic in met.drain(..) {
                produce.set_topic(now.mono, topic, Some((Uuid::ZERO, &facts)), &mut settled, &mut First);
            }
            fed
        };
        write(&mut writer, -1);
        assert_eq!(feed(&mut lanes, &mut produce), 1, "met for the first time");
        assert!(!produce.has_unplaced(TOPIC) && produce.knows(TOPIC));
        // The handle has not seen the topic yet, sees it, and goes on.
        write(&mut writer, -1);
        write(&mut writer, 0);
        assert_eq!(feed(&mut lanes, &mut produce), 1);
        assert!(!produce.has_unplaced(TOPIC), "records wait for a snapshot that may never come");
        assert_eq!(produce.stats().records, 3);
        write(&mut writer, 0);
        assert_eq!(feed(&mut lanes, &mut produce), 0);
        assert_eq!(produce.stats().records, 4);
    }

    /// A shard, one lane into it, and all that came out.
    struct Side {
        produce: Produce,
        lanes: Lanes,
        settled: Settlements,
        writer: LaneWriter,
        requests: Vec<Vec<u8>>,
        names: TopicNames,
        known: BTreeSet<TopicIx>,
        in_place: usize,
    }

    impl Side {
        const NOW: Now = Now { mono: Time(5), wall_ms: 5 };

        fn new(settings: &ProducerSettings) -> Self {
            let (mut produce, mut lanes, names) = (machine(), Lanes::default(), TopicNames::new());
            produce.add_producer(PRODUCER, std::sync::Arc::new(settings.clone()));
            for name in ["a", "b"] {
                names.intern(name).unwrap();
            }
            let (writer, reader) = lane(LaneId(7), LaneSettings::default());
            lanes.add(NewLane { producer: PRODUCER, reader, completions: completions(8, &Medium::threads()).0 });
            let settled = Settlements::default();
            let (requests, known) = (Vec::new(), BTreeSet::new());
            let mut side = Self { produce, lanes, settled, writer, requests, names, known, in_place: 0 };
            side.learn(TopicIx(0));
            side
        }

        fn learn(&mut self, topic: TopicIx) {
            self.known.insert(topic);
            let facts = [LeaderFact { leader: Some(BrokerId(1)), epoch: 0 }; 3];
            self.produce.set_topic(Self::NOW.mono, topic, Some((Uuid::ZERO, &facts)), &mut self.settled, &mut First);
        }

        fn drain(&mut self) {
            let (mut met, Self { produce, lanes, settled, .. }) = (Vec::new(), &mut *self);
            lanes.drain(Self::NOW, usize::MAX, produce, settled, &mut met);
            // The shard knows of a topic what its snapshot says.
            met.retain(|topic| self.known.contains(topic));
            met.into_iter().for_each(|topic| self.learn(topic));
        }

        fn write(&mut self, header: &EntryHeader, body: &[u8]) {
            if self.writer.reserve(HEADER_BYTES + body.len()).is_err() {
                self.drain();
            }
            let out = self.writer.reserve(HEADER_BYTES + body.len()).unwrap();
            header.write(body.len(), out);
            out[HEADER_BYTES..].copy_from_slice(body);
            self.writer.commit(HEADER_BYTES + body.len());
        }

        /// As a local engine's producer does it.
        fn place(&mut self, header: &EntryHeader, body: &[u8], drain: bool) {
            let near = header.kind == EntryKind::Record && !header.flags.has(EntryFlags::URGENT);
            let Self { produce, lanes, .. } = self;
            let way = match near && self.writer.unread_bytes() == 0 {
                true => lanes.append_in_place(LaneId(7), header, body.len(), produce, |out| out.copy_from_slice(body)),
                false => InPlace::Lane,
            };
            self.in_place += usize::from(way == InPlace::Done);
            if way != InPlace::Done {
                self.write(header, body);
            }
            if way == InPlace::Drain || drain {
                self.drain();
            }
        }

        fn flush(&mut self, id: u64) {
            self.write(&EntryHeader::flush(id), &[]);
            self.drain();
            while let Some(call) = self.produce.next_call(BrokerId(1)) {
                let (mut head, mut inserts) = (Vec::new(), Vec::new());
                assert!(self.produce.encode_call(call, 9, "tester", &self.names, &mut head, &mut inserts));
                inserts.iter().for_each(|(_, piece)| head.extend_from_slice(piece.bytes()));
                self.requests.push(head);
                self.produce.on_written(Self::NOW.mono, call, &mut self.settled);
            }
        }
    }

    /// Whatever is mixed: known and unknown topics, waiters, flushes, full and oversized batches.
    #[test]
    fn r05_straight_into_the_batch_or_by_the_lane_all_that_comes_out_is_the_same() {
        let mut in_place = 0;
        for seed in 0..60 {
            let mut rng = crate::base::rng::Rng::new(seed);
            let settings = ProducerSettings {
                acks: crate::config::Acks::None,
                idempotence: false,
                compression: [crate::config::Compression::None, crate::config::Compression::Lz4][seed as usize % 2],
                batch_count_max: rng.percent(30).then_some(9),
                batch_size: if rng.percent(50) { 3_000 } else { 1_000_000 },
                ..ProducerSettings::default()
            };
            let (mut by_lane, mut mixed) = (Side::new(&settings), Side::new(&settings));
            let known_at = rng.below(400);
            for step in 0..600 {
                if step == known_at {
                    for side in [&mut by_lane, &mut mixed] {
                        side.drain();
                        side.learn(TopicIx(1));
                    }
                }
                if rng.percent(3) {
                    by_lane.flush(step);
                    mixed.flush(step);
                }
                let topic = TopicIx(u32::from(rng.percent(30)));
                // Some handles learn of a topic later than the shard.
                let unplaced = topic == TopicIx(1) && rng.percent(if step < known_at { 50 } else { 5 });
                let (kind, partition) =
                    if unplaced { (EntryKind::Unplaced, -1) } else { (EntryKind::Record, rng.below(3) as i32) };
                let waited = [0, 0, 0, EntryFlags::TRACKED, EntryFlags::TRACKED | EntryFlags::URGENT];
                let kinds = if rng.percent(20) { 5 } else { 4 };
                let flags = EntryFlags(waited[rng.below(kinds) as usize]);
                let header = EntryHeader { kind, flags, tp: Tp { topic, partition }, time: rng.below(1 << 20) as i64 };
                let longest = if rng.percent(1) { 90_000 } else { 300 };
                let value = vec![step as u8; rng.below(longest) as usize];
                let mut body = Vec::new();
                encode_body(None, Some(&value), std::iter::empty(), &mut body);
                by_lane.write(&header, &body);
                mixed.place(&header, &body, rng.percent(40));
            }
            for side in [&mut by_lane, &mut mixed] {
                side.flush(1_000);
                side.produce.stop(crate::batch::Reason::Closed, &mut side.settled);
            }
            assert!(by_lane.requests == mixed.requests, "seed {seed}: other batches");
            assert_eq!(by_lane.settled.list, mixed.settled.list, "seed {seed}");
            assert_eq!(by_lane.settled.released, mixed.settled.released, "seed {seed}");
            assert_eq!(by_lane.produce.stats().records, 600, "seed {seed}");
            in_place += mixed.in_place;
        }
        assert!(in_place > 60 * 200, "only {in_place} went straight");
    }
}
