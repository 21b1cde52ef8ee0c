//! Records of topics whose metadata is not known yet: kept in order, placed when it arrives (design §3.7).

use super::*;

/// Chooses the partition of an unplaced record, once its topic's partitions are known.
pub trait Placement {
    /// The partition of a record with this body; out of range fails the record.
    fn place(&mut self, producer: ProducerIx, topic: TopicIx, keyed: bool, body: &[u8], leaders: &[LeaderFact]) -> i32;
}

#[derive(Debug)]
struct Held {
    producer: ProducerIx,
    origin: Origin,
    /// -1: to be chosen.
    partition: i32,
    keyed: bool,
    timestamp_ms: i64,
    sent: Time,
    /// When its delivery timeout is over.
    ends: Time,
    len: u32,
    charge: u32,
    /// Ended while it still stood behind others: only its body's place is left.
    gone: bool,
}

#[derive(Debug)]
struct Waiting {
    records: VecDeque<Held>,
    /// The earliest end of any of them: producers differ in their timeouts.
    ends_first: Time,
    /// Somebody flushed since: what is placed does not linger.
    flushed: bool,
    /// The bodies, one behind the other; the first `taken` bytes are of records that are gone.
    bodies: Vec<u8>,
    taken: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        let records = VecDeque::new();
        Self { records, ends_first: Time::NEVER, flushed: false, bodies: Vec::new(), taken: 0 }
    }
}

impl Waiting {
    /// Those that have not ended.
    fn live(self) -> impl Iterator<Item = Held> {
        self.records.into_iter().filter(|held| !held.gone)
    }
}

#[derive(Debug, Default)]
pub(super) struct Unplaced {
    topics: BTreeMap<TopicIx, Waiting>,
}

impl Unplaced {
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub fn next_deadline(&self) -> Time {
        // Looked at rarely: topics wait here for one metadata round trip, as a rule.
        self.topics.values().map(|waiting| waiting.ends_first).min().unwrap_or(Time::NEVER)
    }
}

impl Produce {
    /// Keeps a record until its topic is known. A partition of -1 is chosen then; any other one was asked for. `sent`: the
    /// delivery timeout counts from there, however long the topic is waited for.
    pub fn append_unplaced(
        &mut self,
        sent: Time,
        producer: ProducerIx,
        tp: Tp,
        keyed: bool,
        record: &Arrival<'_>,
        settle: &mut impl Settle,
    ) {
        let Arrival { timestamp_ms, body, ref origin, charge } = *record;
        let timeout = self.producer(producer).map(|producer| producer.settings.delivery_timeout);
        let Some(timeout) = timeout.filter(|_| self.stopped.is_none()) else {
            let why = self.stopped.unwrap_or(Reason::Closed);
            settle.settled(producer, tp, &Run::of(origin), Outcome::Failed(why));
            settle.release(tp, charge);
            self.stats.failed += 1;
            return;
        };
        let Tp { topic, partition } = tp;
        let entry = self.topics.entry(topic).or_default();
        if !entry.known() && !self.unplaced.topics.contains_key(&topic) {
            self.actions.push_back(Action::Refresh { topic, why: Stale::Unknown });
        }
        edge("record: sent -> unplaced");
        let waiting = self.unplaced.topics.entry(topic).or_default();
        let ends = sent + timeout;
        waiting.ends_first = waiting.ends_first.min(ends);
        waiting.bodies.extend_from_slice(body);
        waiting.records.push_back(Held {
            producer,
            origin: *origin,
            partition,
            keyed,
            timestamp_ms,
            sent,
            ends,
            len: body.len() as u32,
            charge: charge as u32,
            gone: false,
        });
    }

    /// What waits for metadata will not linger once it is placed.
    pub(super) fn flush_unplaced(&mut self) {
        self.unplaced.topics.values_mut().for_each(|waiting| waiting.flushed = true);
    }

    /// Whether records of the topic wait for metadata.
    #[inline]
    pub fn has_unplaced(&self, topic: TopicIx) -> bool {
        !self.unplaced.is_empty() && self.unplaced.topics.contains_key(&topic)
    }

    /// Places what waited for a topic, in order, as soon as its partitions are known.
    pub(super) fn place(
        &mut self,
        topic: TopicIx,
        settle: &mut impl Settle,
        choose: &mut impl Placement,
        leaders: &[LeaderFact],
    ) {
        if leaders.is_empty() {
            return;
        }
        let Some(waiting) = self.unplaced.topics.remove(&topic) else { return };
        let mut at = waiting.taken;
        let flushed = waiting.flushed;
        for held in waiting.records {
            let end = at + held.len as usize;
            let body = &waiting.bodies[at..end];
            at = end;
            if held.gone {
                continue;
            }
            let partition = match held.partition {
                -1 => choose.place(held.producer, topic, held.keyed, body, leaders),
                asked => asked,
            };
            let there = usize::try_from(partition).is_ok_and(|partition| partition < leaders.len());
            if !there && held.partition < 0 {
                self.refuse_held(topic, &held, Reason::NoSuchPartition, settle);
                continue;
            }
            let tp = Tp { topic, partition };
            let ix = self.partition(held.producer, tp);
            if let Some(fact) = leaders.get(partition as usize).filter(|_| self.part(ix).leader.is_none()) {
                self.set_leader(ix, *fact, false);
            }
            let Held { timestamp_ms, origin, charge, sent, .. } = held;
            if held.partition < 0 {
                settle.placed(tp, charge as usize);
            }
            let record = Arrival { timestamp_ms, body, origin, charge: charge as usize };
            edge("record: unplaced -> placed");
            self.append(sent, ix, &record, settle);
            if flushed {
                self.make_due(ix);
            }
        }
    }

    /// A broker's last word about a topic as a whole: what a timeout will name (r07). [`ErrorCode::None`]: nothing against it.
    pub fn topic_said(&mut self, topic: TopicIx, code: ErrorCode) {
        self.topics.entry(topic).or_default().said = Some(code);
    }

    /// Memory of records without a partition, in bytes.
    pub fn unplaced_bytes(&self) -> usize {
        let each =
            |waiting: &Waiting| waiting.bodies.capacity() + waiting.records.capacity() * std::mem::size_of::<Held>();
        self.unplaced.topics.values().map(each).sum()
    }

    /// The topic does not exist, or may not be written: what waits for it fails.
    pub fn fail_topic(&mut self, topic: TopicIx, code: ErrorCode, settle: &mut impl Settle) {
        if let Some(waiting) = self.unplaced.topics.remove(&topic) {
            for held in waiting.live() {
                self.refuse_held(topic, &held, Reason::Broker(code), settle);
            }
        }
    }

    fn refuse_held(&mut self, topic: TopicIx, held: &Held, reason: Reason, settle: &mut impl Settle) {
        edge("record: unplaced -> failed");
        self.stats.failed += 1;
        let tp = Tp { topic, partition: held.partition };
        settle.settled(held.producer, tp, &Run::of(&held.origin), Outcome::Failed(reason));
        settle.release(tp, held.charge as usize);
    }

    pub(super) fn expire_unplaced(&mut self, now: Time, settle: &mut impl Settle) {
        if self.unplaced.next_deadline() > now {
            return;
        }
        let mut topics = std::mem::take(&mut self.unplaced.topics);
        for (topic, waiting) in &mut topics {
            let reason = self.topics.get(topic).map_or(Reason::NoMetadata, Topic::timeout);
            if waiting.ends_first > now {
                continue;
            }
            waiting.ends_first = Time::NEVER;
            for held in waiting.records.iter_mut().filter(|held| !held.gone) {
                if held.ends > now {
                    waiting.ends_first = waiting.ends_first.min(held.ends);
                    continue;
                }
                held.gone = true;
                self.refuse_held(*topic, held, reason, settle);
            }
            while let Some(held) = waiting.records.pop_front_if(|held| held.gone) {
                waiting.taken += held.len as usize;
            }
        }
        topics.retain(|_, waiting| !waiting.records.is_empty());
        self.unplaced.topics = topics;
    }

    pub(super) fn stop_unplaced(&mut self, why: Reason, settle: &mut impl Settle) {
        for (topic, waiting) in std::mem::take(&mut self.unplaced.topics) {
            for held in waiting.live() {
                self.refuse_held(topic, &held, why, settle);
            }
        }
    }
}
