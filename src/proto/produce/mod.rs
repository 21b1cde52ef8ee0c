//! From records to Produce requests and back to outcomes, for one shard. Owns no socket, reads no clock.
//!
//! ```text
//!  append ─► open batch ─ size │ count ─────────────► sealed queue ─┐  next_call: one request per broker, one batch
//!    (producer, partition)  └─ linger │ flush │ urgent │ pressure ──┴► of every ready partition ─► encode_call
//!                                                                                   │
//!  Settle ◄─ runs of tickets, in queue order ◄─ verdict per partition ◄─ on_answer / on_written / on_lost ◄─┘
//! ```
//! Methods are of four kinds. *What the owner wants*: [`Produce::append`], [`Produce::flush`], [`Produce::pressure`],
//! [`Produce::stop`]. *What happened*: [`Produce::set_topic`], [`Produce::on_producer_id`], [`Produce::on_answer`],
//! [`Produce::on_written`], [`Produce::on_lost`], [`Produce::on_deadline`]. *What to do next*: [`Produce::next_call`],
//! [`Produce::next_action`], [`Produce::next_deadline`]. The rest only looks.
//!
//! Never: allocates per record; sends two batches of a partition in one request; sends a batch of a partition to a new
//! leader while an old one may still answer (`d1_13_*`); renumbers, splits or drops a batch that may be in the log inside
//! its epoch (`d1_01_*`, `d1_02_*`).
//!
//! Invariants: every appended record ends in exactly one [`Settle::settled`]; a partition's records settle in order;
//! what was charged to the budget is released exactly once, and not before the kernel can have let go of it.

mod accumulate;
mod answer;
mod partition;
mod partitioner;
mod request;
mod send;
mod unplaced;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use partition::{Arrival, Ident, Origin, PartIx, Run, sequence_after};
pub use partitioner::{Sticky, keyed_partition, murmur2};
pub use unplaced::Placement;

use crate::base::backoff::{Backoff, BackoffRange};
use crate::base::chunk::ChunkPool;
use crate::base::edge::edge;
use crate::base::hash::Map;
use crate::base::ids::{BrokerId, ProducerIx, TopicIx, Tp};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::batch::{BatchSettings, Codecs};
pub use crate::batch::{Outcome, Reason};
use crate::config::ProducerSettings;
use crate::wire::ErrorCode;
use partition::Partition;

/// Batches of one partition that a broker remembers for an idempotent producer: more are never in flight (d1-4).
pub const IDEMPOTENT_IN_FLIGHT_MAX: u32 = 5;
/// A batch that somebody waits for goes out beside other requests once it has this many bytes (design §3.2).
const URGENT_BYTES: usize = 16 << 10;
/// With fewer requests on their way to a broker, senders that wait for memory end the linger of its batches.
const PRESSED_IN_FLIGHT_MAX: u32 = 2;
/// An open batch is sealed after this part of `delivery.timeout.ms` even if nobody can take it: a batch expires as a whole,
/// counted from its first record, and later ones must not lose more of their time than that.
const OPEN_PART_OF_TIMEOUT: u32 = 8;
/// Snapshots in a row with an older leader epoch before the newest metadata wins after all (d2-44).
const OLDER_EPOCHS_MAX: u8 = 5;

/// What all producers of one shard share.
#[derive(Clone, PartialEq, Debug)]
pub struct ProduceSettings {
    /// `request.timeout.ms`: the broker's own time limit in the request.
    pub request_timeout: Duration,
    /// `retry.backoff.ms` and its maximum.
    pub retry_backoff: BackoffRange,
    /// `max.in.flight.requests.per.connection`: Produce requests unanswered per broker.
    pub in_flight_max: u32,
    /// `topic.metadata.propagation.max.ms`: how long a partition that never had a leader may be missing.
    pub propagation_max: Duration,
    /// Seed of the backoff's jitter and of sticky partitions.
    pub seed: u64,
}

/// One Produce request on its way, until it is answered, written (acks=0) or lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CallIx(pub u32);

/// Who hears of outcomes. Called from inside the methods that take it.
pub trait Settle {
    /// All records of `run` ended alike. In [`Outcome::Delivered`] the offset is that of the run's first record; records of
    /// a run have consecutive offsets.
    fn settled(&mut self, producer: ProducerIx, tp: Tp, run: &Run, outcome: Outcome);
    /// So many bytes that a record of this partition had been charged with are free again.
    fn release(&mut self, tp: Tp, bytes: usize);
    /// A record charged to the topic without a partition (-1) went to this one.
    fn placed(&mut self, tp: Tp, bytes: usize);
}

/// What the owner should do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Fetch metadata of a topic.
    Refresh {
        /// Which.
        topic: TopicIx,
        /// Why.
        why: Stale,
    },
    /// Get a producer id; answer with [`Produce::on_producer_id`].
    GetProducerId {
        /// For whom.
        producer: ProducerIx,
        /// What it had.
        previous: Option<Ident>,
    },
    /// A broker named a leader (KIP-951); already applied here.
    LeaderMoved {
        /// Which partition.
        tp: Tp,
        /// To whom.
        leader: BrokerId,
        /// Since which epoch.
        epoch: i32,
        /// Where that broker is, if the answer said.
        endpoint: Option<(String, u16)>,
    },
}

/// What about a topic's metadata is wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stale {
    /// Nothing is known about the topic.
    Unknown,
    /// A partition has no leader.
    NoLeader,
    /// A broker says it is not the leader.
    NotLeader,
    /// The topic was made anew.
    TopicId,
}

/// What the cluster snapshot says about one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderFact {
    /// Its leader, if there is one.
    pub leader: Option<BrokerId>,
    /// The leader's epoch; -1 when the broker does not say.
    pub epoch: i32,
}

/// Counters since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ProduceStats {
    /// Records appended.
    pub records: u64,
    /// Batches sealed.
    pub batches: u64,
    /// Produce requests made.
    pub requests: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Bytes of batches handed out for sending, retries included.
    pub wire_bytes: u64,
    /// Bytes of records before compression in sealed batches.
    pub raw_bytes: u64,
    /// Records delivered.
    pub delivered: u64,
    /// Records failed, surely not written.
    pub failed: u64,
    /// Records that ended unknown.
    pub unknown: u64,
    /// Epochs bumped.
    pub bumps: u64,
}

/// What a producer's requests must have in common (design §3.14).
#[derive(Clone, PartialEq, Eq, Debug)]
struct RequestKey {
    acks: i16,
    timeout_ms: i32,
    transactional_id: Option<String>,
}

#[derive(Debug)]
enum Identity {
    /// Not idempotent.
    None,
    /// Idempotent, not asked yet.
    Missing { previous: Option<Ident> },
    /// Asked for.
    Asked { previous: Option<Ident> },
    /// Granted.
    Have(Ident),
}

#[derive(Debug)]
struct Producer {
    settings: Arc<ProducerSettings>,
    batch: BatchSettings,
    key: RequestKey,
    identity: Identity,
    idempotent: bool,
    in_flight_per_partition: u32,
    /// Open batches by the time they become due; stale entries are skipped.
    lingering: VecDeque<(Time, PartIx, u64)>,
    /// Open batches by the time they have grown long enough, whether or not they can be sent.
    aging: VecDeque<(Time, PartIx, u64)>,
    /// Batches by the time they expire; settled ones are skipped.
    expiring: VecDeque<(Time, PartIx, u64)>,
    live_batches: usize,
}

/// One broker's side: who could send there.
#[derive(Debug, Default)]
struct Broker {
    in_flight: u32,
    /// Partitions with something sendable, oldest first.
    ready: VecDeque<PartIx>,
    /// Partitions with an open batch.
    open: Vec<PartIx>,
    /// An open batch has a waiter.
    urgent: bool,
}

#[derive(Debug)]
struct CallPart {
    part: PartIx,
    no: u64,
    /// Budget of a batch that ended before its call did: the kernel may still hold its memory (d1-12).
    late_charge: usize,
    answered: bool,
}

#[derive(Debug)]
struct CallState {
    broker: BrokerId,
    producer: ProducerIx,
    acks: i16,
    parts: Vec<CallPart>,
}

#[derive(Debug, Default)]
struct Topic {
    id: crate::base::ids::Uuid,
    parts: Vec<PartIx>,
    /// As of the newest snapshot; empty until one had the topic.
    leaders: Vec<LeaderFact>,
    /// A broker's last word about the whole topic, if there was one.
    said: Option<ErrorCode>,
}

impl Topic {
    fn known(&self) -> bool {
        !self.leaders.is_empty()
    }

    /// What to say when a record's time is up and no broker said anything about its partition.
    fn timeout(&self) -> Reason {
        match self.said {
            Some(code) => Reason::Timeout(code),
            None if self.known() => Reason::Timeout(ErrorCode::None),
            None => Reason::NoMetadata,
        }
    }
}

/// The produce side of one shard; see the module.
#[derive(Debug)]
pub struct Produce {
    settings: ProduceSettings,
    pool: ChunkPool,
    codecs: Codecs,
    rng: Rng,
    producers: Vec<Option<Producer>>,
    parts: Vec<Partition>,
    index: Map<(ProducerIx, Tp), PartIx>,
    topics: BTreeMap<TopicIx, Topic>,
    brokers: BTreeMap<BrokerId, Broker>,
    calls: Vec<Option<CallState>>,
    calls_free: Vec<u32>,
    spare_parts: Vec<Vec<CallPart>>,
    /// Partitions that wait out a backoff.
    backing_off: BinaryHeap<std::cmp::Reverse<(Time, PartIx)>>,
    unplaced: unplaced::Unplaced,
    actions: VecDeque<Action>,
    stats: ProduceStats,
    /// Nothing is taken any more, and why.
    stopped: Option<Reason>,
}

impl Produce {
    /// Without producers. Batches take their memory from `pool`.
    pub fn new(settings: ProduceSettings, pool: ChunkPool) -> Self {
        let rng = Rng::new(settings.seed);
        Self {
            settings,
            pool,
            codecs: Codecs::default(),
            rng,
            producers: Vec::new(),
            parts: Vec::new(),
            index: Map::default(),
            topics: BTreeMap::new(),
            brokers: BTreeMap::new(),
            calls: Vec::new(),
            calls_free: Vec::new(),
            spare_parts: Vec::new(),
            backing_off: BinaryHeap::new(),
            unplaced: unplaced::Unplaced::default(),
            actions: VecDeque::new(),
            stats: ProduceStats::default(),
            stopped: None,
        }
    }

    /// Adds a producer with checked settings.
    pub fn add_producer(&mut self, ix: ProducerIx, settings: Arc<ProducerSettings>) {
        let slot = usize::from(ix.0);
        while self.producers.len() <= slot {
            self.producers.push(None);
        }
        let idempotent = settings.idempotence;
        let timeout_ms = i32::try_from(self.settings.request_timeout.as_millis()).unwrap_or(i32::MAX);
        let key =
            RequestKey { acks: settings.acks.wire(), timeout_ms, transactional_id: settings.transactional_id.clone() };
        let limit = self.settings.in_flight_max.max(1);
        self.producers[slot] = Some(Producer {
            batch: accumulate::batch_settings(&settings),
            key,
            identity: if idempotent { Identity::Missing { previous: None } } else { Identity::None },
            idempotent,
            in_flight_per_partition: if idempotent { limit.min(IDEMPOTENT_IN_FLIGHT_MAX) } else { limit },
            lingering: VecDeque::new(),
            aging: VecDeque::new(),
            expiring: VecDeque::new(),
            live_batches: 0,
            settings,
        });
    }

    /// The accumulator's partition of a producer, made at first use.
    pub fn partition(&mut self, producer: ProducerIx, tp: Tp) -> PartIx {
        if let Some(ix) = self.index.get(&(producer, tp)) {
            return *ix;
        }
        let ix = PartIx(self.parts.len() as u32);
        self.index.insert((producer, tp), ix);
        let mut part = Partition::new(producer, tp, Backoff::new(self.settings.retry_backoff));
        let topic = self.topics.entry(tp.topic).or_default();
        // Another producer may have heard of a newer leader than the snapshot.
        let twin = topic.parts.iter().map(|ix| &self.parts[ix.0 as usize]).find(|twin| twin.tp == tp);
        if let Some(twin) = twin {
            (part.leader, part.leader_epoch, part.known) = (twin.leader, twin.leader_epoch, twin.known);
        } else if let Some(fact) = usize::try_from(tp.partition).ok().and_then(|at| topic.leaders.get(at)) {
            (part.leader, part.leader_epoch, part.known) = (fact.leader, fact.epoch, fact.leader.is_some());
        }
        topic.parts.push(ix);
        if part.leader.is_none() {
            let why = if topic.known() { Stale::NoLeader } else { Stale::Unknown };
            self.actions.push_back(Action::Refresh { topic: tp.topic, why });
        }
        self.parts.push(part);
        ix
    }

    /// The next thing to do, if any.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Counters so far.
    pub fn stats(&self) -> ProduceStats {
        self.stats
    }

    /// Topics whose metadata matters here, for feeding [`Produce::set_topic`] after a snapshot changed.
    pub fn topics(&self) -> impl Iterator<Item = TopicIx> + '_ {
        self.topics.keys().copied()
    }

    /// Whether [`Produce::set_topic`] told of this topic's partitions.
    pub fn knows(&self, topic: TopicIx) -> bool {
        self.topics.get(&topic).is_some_and(Topic::known)
    }

    /// Brokers that something could be sent to now.
    pub fn brokers_ready(&self) -> impl Iterator<Item = BrokerId> + '_ {
        let ready = |broker: &Broker| {
            broker.in_flight < self.settings.in_flight_max && (!broker.ready.is_empty() || broker.urgent)
        };
        self.brokers.iter().filter(move |(_, broker)| ready(broker)).map(|(id, _)| *id)
    }

    /// Whether anything waits for this broker, or is on its way there.
    pub fn wants(&self, broker: BrokerId) -> bool {
        self.brokers
            .get(&broker)
            .is_some_and(|broker| broker.in_flight > 0 || !broker.ready.is_empty() || broker.urgent)
    }

    /// Produce requests to a broker without an answer yet.
    pub fn in_flight(&self, broker: BrokerId) -> u32 {
        self.brokers.get(&broker).map_or(0, |broker| broker.in_flight)
    }

    /// Whether no record is left: none open, queued, in flight or unplaced.
    pub fn is_idle(&self) -> bool {
        self.unplaced.is_empty() && self.parts.iter().all(Partition::is_idle)
    }

    /// Whether every record has its outcome; calls of expired batches may still be out.
    pub fn is_settled(&self) -> bool {
        self.unplaced.is_empty() && self.parts.iter().all(|part| part.open.is_none() && part.queue.is_empty())
    }

    /// When [`Produce::on_deadline`] wants to be called next.
    pub fn next_deadline(&mut self) -> Time {
        let mut next = self.unplaced.next_deadline();
        let parts = &self.parts;
        for producer in self.producers.iter_mut().flatten() {
            let lingers = |ix: PartIx, no| parts[ix.0 as usize].open.as_ref().is_some_and(|o| o.no == no && !o.due);
            let lives = |ix: PartIx, no| {
                let part = &parts[ix.0 as usize];
                part.open.as_ref().is_some_and(|open| open.no == no) || part.position_of(no).is_some()
            };
            next = next.min(first_current(&mut producer.lingering, lingers));
            let grows = |ix: PartIx, no| parts[ix.0 as usize].open.as_ref().is_some_and(|open| open.no == no);
            next = next.min(first_current(&mut producer.aging, grows));
            next = next.min(first_current(&mut producer.expiring, lives));
        }
        match self.backing_off.peek() {
            Some(std::cmp::Reverse((at, _))) => next.min(*at),
            None => next,
        }
    }

    fn producer(&mut self, ix: ProducerIx) -> Option<&mut Producer> {
        self.producers.get_mut(usize::from(ix.0))?.as_mut()
    }

    fn part(&mut self, ix: PartIx) -> &mut Partition {
        &mut self.parts[ix.0 as usize]
    }
}

/// The time of the first entry that still means something; what is before it goes.
fn first_current(queue: &mut VecDeque<(Time, PartIx, u64)>, current: impl Fn(PartIx, u64) -> bool) -> Time {
    while let Some((at, ix, no)) = queue.front() {
        if current(*ix, *no) {
            return *at;
        }
        queue.pop_front();
    }
    Time::NEVER
}
