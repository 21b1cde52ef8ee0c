//! Records into open batches, open batches into the queue, and the clocks on both: linger, backoff, delivery timeout.

use super::partition::{Batch, OpenBatch, Runs, State, Tried, sequence_after};
use super::*;
use crate::batch::{Append, BatchBuilder, Codec, Stamp};
use crate::config::Compression;

/// How a producer's batches are built.
pub(super) fn batch_settings(settings: &ProducerSettings) -> BatchSettings {
    let codec = match settings.compression {
        Compression::None => Codec::None,
        Compression::Gzip => Codec::Gzip,
        Compression::Snappy => Codec::Snappy,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
    };
    BatchSettings {
        codec,
        level: settings.compression_level.unwrap_or(codec.default_level()),
        size_bytes_max: settings.batch_size,
        raw_bytes_max: settings.batch_raw_size_max,
        count_max: settings.batch_count_max.unwrap_or(i32::MAX as u32),
    }
}

impl Produce {
    /// Appends one record to its partition's open batch. `now`: when it was sent, as far as that is known; linger and the
    /// delivery timeout count from there.
    #[inline(always)]
    pub fn append(&mut self, now: Time, ix: PartIx, record: &Arrival<'_>, settle: &mut impl Settle) {
        let Arrival { timestamp_ms, body, origin, charge } = record;
        let part = &mut self.parts[ix.0 as usize];
        if let Some(open) = &mut part.open {
            let appended = open.builder.append(*timestamp_ms, body);
            if appended != Append::Full {
                if !open.runs.last_mut().is_some_and(|run| run.extend(origin)) {
                    open.runs.push(Run::of(origin));
                }
                open.charge += charge;
                self.stats.records += 1;
                if origin.urgent && !open.urgent {
                    open.urgent = true;
                    self.mark_urgent(ix);
                }
                if appended == Append::Filled {
                    self.seal_and_touch(ix);
                }
                return;
            }
            self.seal_and_touch(ix);
        }
        self.append_first(now, ix, record, settle);
    }

    /// As [`Produce::append`] for a record whose body of `body_len` bytes `write` encodes into the open batch: if there is one
    /// and that needs nothing but room. False: nothing was done.
    #[inline(always)]
    pub fn append_in_place(
        &mut self,
        ix: PartIx,
        (timestamp_ms, body_len): (i64, usize),
        origin: &Origin,
        charge: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> bool {
        let Some(open) = &mut self.parts[ix.0 as usize].open else { return false };
        if !open.builder.append_in_place(timestamp_ms, body_len, write) {
            return false;
        }
        if !open.runs.last_mut().is_some_and(|run| run.extend(origin)) {
            open.runs.push(Run::of(origin));
        }
        open.charge += charge;
        self.stats.records += 1;
        true
    }

    /// The first record of a new batch.
    #[cold]
    #[inline(never)]
    fn append_first(&mut self, now: Time, ix: PartIx, record: &Arrival<'_>, settle: &mut impl Settle) {
        let Arrival { timestamp_ms, body, ref origin, charge } = *record;
        self.stats.records += 1;
        let part = &mut self.parts[ix.0 as usize];
        let (who, tp) = (part.producer, part.tp);
        let refuse = |settle: &mut dyn FnMut(Outcome)| {
            settle(Outcome::Failed(self.stopped.unwrap_or(Reason::Invalid)));
        };
        let producer = self.producers.get_mut(usize::from(who.0)).and_then(Option::as_mut);
        let Some(producer) = producer.filter(|_| self.stopped.is_none()) else {
            refuse(&mut |outcome| settle.settled(who, tp, &Run::of(origin), outcome));
            settle.release(tp, charge);
            self.stats.failed += 1;
            return;
        };
        // The codec was checked when the producer was built; a lone record always fits.
        let builder = BatchBuilder::new(&producer.batch, &self.pool, &self.codecs).ok().and_then(|mut builder| {
            let appended = builder.append(timestamp_ms, body);
            (appended != Append::Full).then_some((builder, appended == Append::Filled))
        });
        let Some((builder, filled)) = builder else {
            refuse(&mut |outcome| settle.settled(who, tp, &Run::of(origin), outcome));
            settle.release(tp, charge);
            self.stats.failed += 1;
            return;
        };
        if let Identity::Missing { previous } = producer.identity {
            // Asked for with the first record, so that it is there when linger ends.
            edge("identity: missing -> asked");
            producer.identity = Identity::Asked { previous };
            self.actions.push_back(Action::GetProducerId { producer: who, previous });
        }
        edge("batch: none -> open");
        part.batch_no += partition::NO_STEP;
        let no = part.batch_no;
        let mut runs = Runs::new();
        runs.push(Run::of(origin));
        let urgent = origin.urgent || producer.settings.linger.is_zero();
        part.open = Some(OpenBatch { no, builder, runs, charge, created: now, due: false, urgent });
        let leader = part.leader;
        let listed = part.in_open;
        part.in_open |= leader.is_some();
        producer.live_batches += 1;
        if !producer.settings.linger.is_zero() {
            insert_by_time(&mut producer.lingering, (now + producer.settings.linger, ix, no));
        }
        let grown = now + producer.settings.delivery_timeout / OPEN_PART_OF_TIMEOUT;
        insert_by_time(&mut producer.aging, (grown, ix, no));
        if producer.expiring.len() > 1024 + 4 * producer.live_batches {
            let parts = &self.parts;
            producer.expiring.retain(|(_, ix, no)| {
                let part = &parts[ix.0 as usize];
                part.open.as_ref().is_some_and(|open| open.no == *no) || part.position_of(*no).is_some()
            });
        }
        insert_by_time(&mut producer.expiring, (now + producer.settings.delivery_timeout, ix, no));
        if let Some(leader) = leader.filter(|_| !listed) {
            self.brokers.entry(leader).or_default().open.push(ix);
        }
        if urgent {
            self.mark_urgent(ix);
        }
        if filled {
            self.seal_and_touch(ix);
        }
    }

    /// The open batch takes nothing more.
    #[cold]
    fn seal_and_touch(&mut self, ix: PartIx) {
        self.seal(ix);
        self.touch(ix);
    }

    /// Somebody waits for a record in the open batch.
    #[cold]
    fn mark_urgent(&mut self, ix: PartIx) {
        let part = &mut self.parts[ix.0 as usize];
        if let (Some(open), Some(leader)) = (&mut part.open, part.leader) {
            open.urgent = true;
            self.brokers.entry(leader).or_default().urgent = true;
        }
    }

    /// Moves the open batch to the queue, with its final bytes where its numbers are known.
    pub(super) fn seal(&mut self, ix: PartIx) {
        let part = &mut self.parts[ix.0 as usize];
        let Some(open) = part.open.take() else { return };
        let Some(producer) = self.producers.get(usize::from(part.producer.0)).and_then(Option::as_ref) else { return };
        let count = open.builder.count();
        let mut stamp = None;
        let mut bytes = Stamp::NONE;
        if let Identity::Have(ident) = producer.identity {
            let follows = part.queue.back().is_none_or(|last| last.stamp.is_some());
            if part.ident == Some(ident) && !part.bump && follows {
                stamp = Some((ident, part.next_sequence));
                bytes = stamp_of(ident, part.next_sequence, &producer.key);
                part.next_sequence = sequence_after(part.next_sequence, count);
            }
        }
        edge(if stamp.is_some() { "batch: open -> sealed and stamped" } else { "batch: open -> sealed" });
        let sealed = open.builder.seal(bytes);
        self.stats.batches += 1;
        self.stats.raw_bytes += sealed.raw_bytes() as u64;
        part.queue.push_back(Batch {
            no: open.no,
            sealed,
            stamp,
            runs: open.runs,
            charge: open.charge,
            created: open.created,
            state: State::Ready,
            tried: Tried::Never,
        });
    }

    /// Puts the partition on its broker's list when it can send.
    pub(super) fn touch(&mut self, ix: PartIx) {
        let part = &mut self.parts[ix.0 as usize];
        let Some(leader) = part.leader else { return };
        if part.in_ready || part.backing_off || part.regroup || !part.has_work() {
            return;
        }
        part.in_ready = true;
        self.brokers.entry(leader).or_default().ready.push_back(ix);
    }

    /// All open batches of a producer are due: its lanes were flushed.
    pub fn flush(&mut self, producer: ProducerIx) {
        self.flush_unplaced();
        for ix in 0..self.parts.len() {
            if self.parts[ix].producer == producer {
                self.make_due(PartIx(ix as u32));
            }
        }
    }

    /// Nothing lingers any longer: the shard stops.
    pub fn hasten(&mut self) {
        self.flush_unplaced();
        for ix in 0..self.parts.len() {
            self.make_due(PartIx(ix as u32));
        }
    }

    /// Senders wait for memory: nothing lingers any longer (d1-23), but for brokers whose answers will bring memory back
    /// anyway. Many small requests there would cost more and bring nothing sooner.
    pub fn pressure(&mut self) {
        self.flush_unplaced();
        let idle = |broker: &Broker| broker.in_flight < PRESSED_IN_FLIGHT_MAX && !broker.open.is_empty();
        let mut after = std::ops::Bound::Unbounded;
        while let Some((id, broker)) = self.brokers.range_mut((after, std::ops::Bound::Unbounded)).next() {
            let id = *id;
            after = std::ops::Bound::Excluded(id);
            if idle(broker) {
                self.make_all_due(id);
            }
        }
    }

    /// All open batches of a broker are due.
    fn make_all_due(&mut self, broker: BrokerId) {
        let Some(found) = self.brokers.get_mut(&broker) else { return };
        let open = std::mem::take(&mut found.open);
        for ix in &open {
            self.make_due(*ix);
        }
        if let Some(found) = self.brokers.get_mut(&broker) {
            found.open = open;
        }
    }

    /// As [`Produce::pressure`], for a partition that holds more than its part of the memory.
    pub fn pressure_on(&mut self, tp: Tp) {
        for producer in 0..self.producers.len() {
            let Some(ix) = self.index.get(&(ProducerIx(producer as u16), tp)).copied() else { continue };
            let broker = self.parts[ix.0 as usize].leader.and_then(|leader| self.brokers.get(&leader));
            if broker.is_none_or(|broker| broker.in_flight < PRESSED_IN_FLIGHT_MAX) {
                self.make_due(ix);
            }
        }
    }

    pub(super) fn make_due(&mut self, ix: PartIx) {
        if let Some(open) = &mut self.parts[ix.0 as usize].open
            && !open.due
        {
            open.due = true;
            self.touch(ix);
        }
    }

    /// Time passed: linger ends, backoffs end, batches expire.
    pub fn on_deadline(&mut self, now: Time, settle: &mut impl Settle) {
        while let Some(std::cmp::Reverse((at, ix))) = self.backing_off.peek().copied() {
            if at > now {
                break;
            }
            self.backing_off.pop();
            self.part(ix).backing_off = false;
            self.touch(ix);
        }
        for slot in 0..self.producers.len() {
            self.end_linger(now, slot);
            self.end_growth(now, slot);
            self.expire(now, slot, settle);
        }
        self.expire_unplaced(now, settle);
    }

    /// When one batch of a broker is due, its other open batches go with it: so there are at most 1 / linger requests per
    /// second and broker, whatever the number of partitions (r02).
    fn end_linger(&mut self, now: Time, slot: usize) {
        loop {
            let Some(producer) = self.producers[slot].as_mut() else { return };
            let Some((due, ix, no)) = producer.lingering.front().copied() else { return };
            let part = &self.parts[ix.0 as usize];
            let current = part.open.as_ref().is_some_and(|open| open.no == no && !open.due);
            if current && due > now {
                return;
            }
            producer.lingering.pop_front();
            if !current {
                continue;
            }
            let leader = part.leader;
            self.make_due(ix);
            if let Some(leader) = leader {
                self.make_all_due(leader);
            }
        }
    }

    /// Batches that stayed open for long, because their broker takes nothing, are sealed.
    fn end_growth(&mut self, now: Time, slot: usize) {
        loop {
            let Some(producer) = self.producers[slot].as_mut() else { return };
            let Some((at, ix, no)) = producer.aging.front().copied() else { return };
            let open = self.parts[ix.0 as usize].open.as_ref().is_some_and(|open| open.no == no);
            if open && at > now {
                return;
            }
            producer.aging.pop_front();
            if open {
                self.seal(ix);
                self.touch(ix);
            }
        }
    }

    /// `delivery.timeout.ms` passed for the oldest batches.
    fn expire(&mut self, now: Time, slot: usize, settle: &mut impl Settle) {
        loop {
            let Some(producer) = self.producers[slot].as_mut() else { return };
            let Some((deadline, ix, no)) = producer.expiring.front().copied() else { return };
            let part = &self.parts[ix.0 as usize];
            let open = part.open.as_ref().is_some_and(|open| open.no == no);
            let queued = part.position_of(no).is_some();
            if (open || queued) && deadline > now {
                return;
            }
            producer.expiring.pop_front();
            if open {
                self.seal(ix);
            }
            if open || queued {
                self.expire_batch(ix, no, settle);
            }
        }
    }

    fn expire_batch(&mut self, ix: PartIx, no: u64, settle: &mut impl Settle) {
        let part = &mut self.parts[ix.0 as usize];
        let Some(at) = part.position_of(no) else { return };
        let batch = &part.queue[at];
        if let State::Done(_) = batch.state {
            return;
        }
        let maybe = matches!(batch.state, State::InFlight(_)) || batch.tried == Tried::Maybe;
        let reason = match part.last_error {
            ErrorCode::None => self.topics.get(&part.tp.topic).map_or(Reason::NoMetadata, Topic::timeout),
            said => Reason::Timeout(said),
        };
        let outcome = if maybe { Outcome::Unknown(reason) } else { Outcome::Failed(reason) };
        edge(match batch.state {
            State::InFlight(_) => "batch: in flight -> timed out",
            _ if maybe => "batch: perhaps written -> timed out",
            _ => "batch: sealed -> timed out",
        });
        self.conclude(ix, at, outcome);
        self.settle_front(ix, settle);
        self.touch(ix);
    }

    /// Ends a batch that will not be (or may not have been) written, and decides how its followers go on.
    pub(super) fn conclude(&mut self, ix: PartIx, at: usize, outcome: Outcome) {
        let part = &mut self.parts[ix.0 as usize];
        let batch = &mut part.queue[at];
        let maybe = matches!(outcome, Outcome::Unknown(_));
        if let State::InFlight(call) = batch.state {
            // The kernel may still read the bytes: their budget is released when the call ends.
            let no = batch.no;
            let charge = std::mem::take(&mut batch.charge);
            if let Some(Some(call)) = self.calls.get_mut(call.0 as usize)
                && let Some(entry) = call.parts.iter_mut().find(|entry| entry.part == ix && entry.no == no)
            {
                entry.late_charge += charge;
            }
        }
        batch.state = State::Done(outcome);
        let Some((ident, sequence)) = batch.stamp else { return };
        if part.ident != Some(ident) {
            return;
        }
        let followers_out =
            part.queue.iter().skip(at + 1).any(|batch| batch.state != State::Ready || batch.tried == Tried::Maybe);
        if maybe || followers_out {
            // The broker may or may not count these numbers as used: go on under a new epoch.
            edge("numbers: used -> spent");
            part.bump = true;
        } else {
            edge("numbers: used -> given again");
            // Nobody ever saw these numbers used: give them to the followers.
            part.next_sequence = sequence;
            part.unstamp(at + 1);
        }
    }

    /// Reports what has ended, from the front of the queue on.
    pub(super) fn settle_front(&mut self, ix: PartIx, settle: &mut impl Settle) {
        let part = &mut self.parts[ix.0 as usize];
        let producer = part.producer;
        while let Some(Batch { state: State::Done(outcome), .. }) = part.queue.front() {
            let outcome = *outcome;
            edge(match outcome {
                Outcome::Delivered { .. } => "batch: done -> delivered",
                Outcome::Failed(_) => "batch: done -> failed",
                Outcome::Unknown(_) => "batch: done -> unknown",
            });
            let Some(batch) = part.queue.pop_front() else { return };
            if let Some(producer) = self.producers.get_mut(usize::from(producer.0)).and_then(Option::as_mut) {
                producer.live_batches -= 1;
            }
            let count = u64::from(batch.sealed.count());
            match outcome {
                Outcome::Delivered { .. } => self.stats.delivered += count,
                Outcome::Failed(_) => self.stats.failed += count,
                Outcome::Unknown(_) => self.stats.unknown += count,
            }
            let mut delta = 0;
            for run in &batch.runs {
                let outcome = match outcome {
                    Outcome::Delivered { offset, timestamp_ms } if offset >= 0 => {
                        Outcome::Delivered { offset: offset + delta, timestamp_ms }
                    }
                    other => other,
                };
                settle.settled(producer, part.tp, run, outcome);
                delta += i64::from(run.count);
            }
            settle.release(part.tp, batch.charge);
        }
    }

    /// Ends everything for this reason: what is surely not written fails, the rest is unknown. Later records are refused.
    pub fn stop(&mut self, why: Reason, settle: &mut impl Settle) {
        self.stopped = Some(why);
        for ix in 0..self.parts.len() {
            let ix = PartIx(ix as u32);
            self.seal(ix);
            for at in 0..self.part(ix).queue.len() {
                let batch = &self.part(ix).queue[at];
                let outcome = match batch.state {
                    State::Done(_) => continue,
                    State::InFlight(_) => Outcome::Unknown(why),
                    State::Ready if batch.tried == Tried::Maybe => Outcome::Unknown(why),
                    State::Ready => Outcome::Failed(why),
                };
                // Nothing is sent any more, so no number has to be saved.
                self.part(ix).queue[at].stamp = None;
                self.conclude(ix, at, outcome);
            }
            self.settle_front(ix, settle);
        }
        self.stop_unplaced(why, settle);
    }
}

/// At its place by time: the end, or close to it, as lanes tell of records that arrived a little earlier.
fn insert_by_time(queue: &mut VecDeque<(Time, PartIx, u64)>, entry: (Time, PartIx, u64)) {
    let mut place = queue.len();
    while place > 0 && queue[place - 1].0 > entry.0 {
        place -= 1;
    }
    queue.insert(place, entry);
}

/// What goes into a batch header.
pub(super) fn stamp_of(ident: Ident, sequence: i32, key: &RequestKey) -> Stamp {
    Stamp {
        producer_id: ident.id,
        producer_epoch: ident.epoch,
        base_sequence: sequence,
        transactional: key.transactional_id.is_some(),
    }
}
