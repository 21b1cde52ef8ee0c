//! The fetch side of a shard: one machine per consumer, its calls, and the slabs that answers are gathered into.
//!
//! ```text
//!   FetchCommand ─► Fetcher ─ next_call ─► fetch link of (consumer, broker) ─► parts ─► Slab ─► FetchEvent
//!                      ▲                                                                 │
//!                      └── memory came home ◄── SlabPool ◄───────────────────────────────┘
//! ```
//! The rest of a long answer is received into its slab: the slab's memory is lent to the backend meanwhile.
//! The shard's loop owns the links and feeds what they say in here. Never: reads a record, waits for a consumer, fetches
//! without memory for the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::base::backoff::BackoffRange;
use crate::base::ids::{BrokerId, ConsumerIx};
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::mesh::command::{LeaderHint, MetadataReason, ShardEvent};
use crate::mesh::{FetchCommand, FetchEvent, FetchLink, MailboxSender, Slab, SlabPool};
use crate::proto::cluster::Snapshot;
use crate::proto::connection::{
    Call, Cause, Connection, Failure, PeerMisbehaved, Reply, ReplyMode, ReplyPart, Then, Versions, encode_head,
};
use crate::proto::fetch::{FetchCall, FetchVersions, Fetcher, Output, Want};
use crate::ring::Landing;
use crate::wire::messages::{FetchResponse, ListOffsetsResponse, OffsetForLeaderEpochResponse};
use crate::wire::{ApiKey, Message, Reader};

/// An answer's bytes are received into its slab while more than this is to come; less is copied there.
pub(super) const LANDING_BYTES_MIN: usize = 16 << 10;
/// As much is received at once: what a turn may bring.
const LANDING_BYTES_MAX: usize = 512 << 10;

/// All consumers of one shard.
#[derive(Debug)]
pub(super) struct FetchLanes {
    lanes: BTreeMap<ConsumerIx, Lane>,
    slabs: SlabPool,
    backoff: BackoffRange,
    /// `receive.message.max.bytes`.
    frame_bytes_max: usize,
    rng: Rng,
    /// Which links are wanted, as of the lanes' topologies.
    wanted: BTreeSet<(ConsumerIx, BrokerId)>,
    wanted_stale: bool,
    /// Slabs whose memory the backend has.
    lent: BTreeMap<FetchLink, Slab>,
    scratch: Vec<u8>,
    requests: u64,
    bytes: u64,
    /// Answers for which there was no memory.
    skipped: u64,
}

#[derive(Debug)]
struct Lane {
    fetcher: Fetcher,
    events: MailboxSender<FetchEvent>,
    answers: BTreeMap<BrokerId, Answer>,
    topology: u64,
}

/// A Fetch in flight.
#[derive(Debug)]
struct Answer {
    reserved: usize,
    slab: Option<Slab>,
    /// There is no memory for it.
    skipped: bool,
}

impl FetchLanes {
    /// Without consumers.
    pub(super) fn new(slabs: SlabPool, backoff: BackoffRange, frame_bytes_max: usize, seed: u64) -> Self {
        Self {
            lanes: BTreeMap::new(),
            slabs,
            backoff,
            frame_bytes_max,
            rng: Rng::new(seed),
            wanted: BTreeSet::new(),
            wanted_stale: false,
            lent: BTreeMap::new(),
            scratch: Vec::new(),
            requests: 0,
            bytes: 0,
            skipped: 0,
        }
    }

    /// Fetch requests made, and bytes of record sets that came.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.requests, self.bytes)
    }

    // ---- What happened ----

    /// A consumer said something.
    pub(super) fn on_command(&mut self, command: FetchCommand, snapshot: &Snapshot) {
        self.wanted_stale = true;
        match command {
            FetchCommand::AddConsumer { consumer, settings, events } => {
                let fetcher = Fetcher::new(settings, self.backoff, self.rng.next_u64());
                self.lanes.insert(consumer, Lane { fetcher, events, answers: BTreeMap::new(), topology: 0 });
            }
            FetchCommand::Assign { consumer, tp, generation, start } => {
                if let Some(lane) = self.lanes.get_mut(&consumer) {
                    lane.fetcher.assign(tp, generation, start, snapshot);
                }
            }
            FetchCommand::Unassign { consumer, tp } => {
                if let Some(lane) = self.lanes.get_mut(&consumer) {
                    lane.fetcher.unassign(tp);
                }
            }
            FetchCommand::Pause { consumer, tp, paused } => {
                if let Some(lane) = self.lanes.get_mut(&consumer) {
                    lane.fetcher.pause(tp, paused);
                }
            }
            FetchCommand::Taken { consumer, tp, generation, bytes, waited } => {
                if let Some(lane) = self.lanes.get_mut(&consumer) {
                    lane.fetcher.taken(tp, generation, bytes, waited);
                }
            }
            FetchCommand::RemoveConsumer { consumer } => {
                if let Some(lane) = self.lanes.remove(&consumer) {
                    // A slab that was begun goes home by itself.
                    let answers = lane.answers.into_iter();
                    answers.for_each(|(broker, answer)| self.slabs.release((consumer, broker), answer.reserved));
                }
            }
        }
    }

    /// A newer snapshot of the cluster.
    pub(super) fn on_snapshot(&mut self, snapshot: &Snapshot) {
        self.wanted_stale = true;
        self.lanes.values_mut().for_each(|lane| lane.fetcher.on_snapshot(snapshot));
    }

    /// The next part of a Fetch answer came.
    pub(super) fn on_part(&mut self, now: Time, consumer: ConsumerIx, broker: BrokerId, part: &ReplyPart<'_>) -> Then {
        // A consumer that is gone has no use for it; the frame is read to its end all the same.
        let Some(lane) = self.lanes.get_mut(&consumer) else { return Then::Continue };
        let Some(answer) = lane.answers.get_mut(&broker) else { return Then::Continue };
        let link = (consumer, broker);
        if answer.slab.is_none() && !answer.skipped {
            match self.slabs.take(link, part.total, answer.reserved) {
                Some(slab) => (answer.slab, answer.reserved) = (Some(slab), 0),
                // Read to its end and asked for again when there is room: the link goes on, and memory is kept to.
                None => answer.skipped = true,
            }
        }
        let store = |slab: &mut Slab| slab.put(part.bytes) && slab.advance(part.landed);
        let stored = answer.skipped || answer.slab.as_mut().is_some_and(store);
        if stored && !part.is_last() {
            return Then::Continue;
        }
        let Some(answer) = lane.answers.remove(&broker) else { return Then::Continue };
        self.slabs.release(link, answer.reserved);
        if answer.skipped {
            self.skipped += 1;
            lane.fetcher.on_no_room(broker, part.total);
            return Then::Continue;
        }
        let body = answer.slab.map(Slab::share).unwrap_or_default();
        match decode(part.version, &body) {
            Some(response) if stored => {
                let throttle = response.throttle_time_ms;
                lane.fetcher.on_fetched(now, broker, response);
                Then::Throttle(throttle)
            }
            _ => {
                lane.fetcher.on_failed(now, broker, ApiKey::Fetch);
                Then::Kill("a malformed Fetch answer")
            }
        }
    }

    /// Memory for the next bytes of an answer of which `rest` are to come, at most `LANDING_BYTES_MAX`: where they belong.
    pub(super) fn lend(&mut self, link: FetchLink, rest: usize) -> Option<Landing> {
        let (consumer, broker) = link;
        let answer = self.lanes.get_mut(&consumer)?.answers.get_mut(&broker)?;
        let mut slab = answer.slab.take()?;
        let (memory, filled) = slab.lend();
        self.lent.insert(link, slab);
        let end = (filled + rest.min(LANDING_BYTES_MAX)).min(memory.len());
        Some(Landing { memory, range: filled..end })
    }

    /// Memory came back. When nobody wants its answer any more it goes home.
    pub(super) fn restore(&mut self, link: FetchLink, memory: Vec<u8>) {
        let Some(mut slab) = self.lent.remove(&link) else { return };
        slab.restore(memory);
        if let Some(answer) = self.lanes.get_mut(&link.0).and_then(|lane| lane.answers.get_mut(&link.1))
            && !answer.skipped
            && answer.slab.is_none()
        {
            answer.slab = Some(slab);
        }
    }

    /// Offsets, or ends of epochs, were answered.
    pub(super) fn on_reply(&mut self, now: Time, consumer: ConsumerIx, broker: BrokerId, reply: &Reply<'_>) -> Then {
        let Some(lane) = self.lanes.get_mut(&consumer) else { return Then::Continue };
        let (version, mut reader) = (reply.version, Reader::new(reply.body));
        let throttle = match reply.api {
            ApiKey::OffsetForLeaderEpoch => {
                OffsetForLeaderEpochResponse::decode(version, &mut reader).map(|response| {
                    lane.fetcher.on_epochs(now, broker, &response);
                    response.throttle_time_ms
                })
            }
            _ => ListOffsetsResponse::decode(version, &mut reader).map(|response| {
                lane.fetcher.on_offsets(now, broker, &response);
                response.throttle_time_ms
            }),
        };
        match throttle {
            Ok(throttle) => Then::Throttle(throttle),
            Err(_) => {
                lane.fetcher.on_failed(now, broker, reply.api);
                Then::Kill("a malformed answer about offsets")
            }
        }
    }

    /// A call ended without an answer.
    pub(super) fn on_failed(&mut self, now: Time, consumer: ConsumerIx, broker: BrokerId, failure: &Failure<'_>) {
        let Some(lane) = self.lanes.get_mut(&consumer) else { return };
        let (api, fetch) = (failure.api, failure.api == ApiKey::Fetch);
        if fetch && let Some(answer) = lane.answers.remove(&broker) {
            self.slabs.release((consumer, broker), answer.reserved);
        }
        if let Cause::Peer(PeerMisbehaved::FrameLength(bytes)) = failure.cause
            && let Ok(bytes) = usize::try_from(*bytes)
            && bytes > self.frame_bytes_max
            && fetch
        {
            return lane.fetcher.on_too_large(now, broker, bytes, self.frame_bytes_max);
        }
        lane.fetcher.on_failed(now, broker, api);
    }

    // ---- What to do next ----

    /// Takes back memory that came home.
    pub(super) fn collect(&mut self) {
        if self.slabs.collect() {
            self.lanes.values_mut().for_each(|lane| lane.fetcher.on_memory());
        }
    }

    /// Whether memory came home: the look before sleeping.
    pub(super) fn has_returns(&mut self) -> bool {
        self.slabs.has_returns()
    }

    /// The links that are wanted: one per consumer and broker that leads partitions of it.
    pub(super) fn wanted(&mut self) -> &BTreeSet<(ConsumerIx, BrokerId)> {
        let moved = self.lanes.values().any(|lane| lane.topology != lane.fetcher.topology());
        if std::mem::take(&mut self.wanted_stale) || moved {
            self.wanted.clear();
            for (consumer, lane) in &mut self.lanes {
                lane.topology = lane.fetcher.topology();
                self.wanted.extend(lane.fetcher.brokers().into_iter().map(|broker| (*consumer, broker)));
            }
            // Shares of memory change with the number of links.
            self.slabs.set_links(self.wanted.len());
            self.lanes.values_mut().for_each(|lane| lane.fetcher.on_memory());
        }
        &self.wanted
    }

    /// Whether a consumer is here.
    pub(super) fn knows(&self, consumer: ConsumerIx) -> bool {
        self.lanes.contains_key(&consumer)
    }

    /// Whether a link is wanted, as of the last [`FetchLanes::wanted`].
    pub(super) fn wants(&self, consumer: ConsumerIx, broker: BrokerId) -> bool {
        self.wanted.contains(&(consumer, broker))
    }

    /// Submits what there is for one link whose connection is ready. True when something is to be written.
    pub(super) fn submit(
        &mut self,
        now: Time,
        consumer: ConsumerIx,
        broker: BrokerId,
        connection: &mut Connection,
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(&consumer) else { return false };
        if !lane.fetcher.may_call(now, broker) {
            return false;
        }
        let Some(versions) = connection.versions().map(|versions| common(versions)) else { return false };
        let mut any = false;
        while connection.free_slots(now) > 0 {
            let slabs = &mut self.slabs;
            // Whatever the consumer's settings say, no answer but a first batch is larger than what is accepted.
            let most = self.frame_bytes_max;
            let reserve = |Want { bytes, least, whole }: Want| {
                slabs.reserve((consumer, broker), bytes.min(most), least.min(most), whole)
            };
            let Some(call) = lane.fetcher.next_call(now, broker, &versions, reserve) else { break };
            self.scratch.clear();
            let client_id = &connection.settings().client_id;
            let (api, version, encoded, reserve) = match &call {
                FetchCall::ListOffsets { version, request } => {
                    (ApiKey::ListOffsets, *version, encode_head(client_id, *version, request, &mut self.scratch), 0)
                }
                FetchCall::OffsetForLeaderEpoch { version, request } => {
                    let encoded = encode_head(client_id, *version, request, &mut self.scratch);
                    (ApiKey::OffsetForLeaderEpoch, *version, encoded, 0)
                }
                FetchCall::Fetch { version, request, reserve } => {
                    (ApiKey::Fetch, *version, encode_head(client_id, *version, request, &mut self.scratch), *reserve)
                }
            };
            // A broker may sit out a long poll; only then its time for an answer begins.
            let timeout = match &call {
                FetchCall::Fetch { request, .. } => {
                    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or_default());
                    Some(connection.settings().request_timeout + wait)
                }
                _ => None,
            };
            let fetch = api == ApiKey::Fetch;
            let reply = if fetch { ReplyMode::Parts } else { ReplyMode::Whole };
            let (inserts, tag) = (connection.take_inserts(), api as u64);
            let head = &self.scratch[..];
            let accepted = encoded.is_ok()
                && connection.submit(now, Call { tag, api, version, head, inserts, timeout, reply }).is_ok();
            if !accepted {
                // A request that cannot be said or is not taken is as good as lost: backoff, then again.
                self.slabs.release((consumer, broker), reserve);
                lane.fetcher.on_failed(now, broker, api);
                break;
            }
            any = true;
            if fetch {
                self.requests += 1;
                lane.answers.insert(broker, Answer { reserved: reserve, slab: None, skipped: false });
            }
        }
        any
    }

    /// Carries what the machines say to the consumers, and to control into `events`.
    pub(super) fn deliver(&mut self, events: &mut Vec<ShardEvent>) {
        for lane in self.lanes.values_mut() {
            while let Some(output) = lane.fetcher.next_output() {
                let event = match output {
                    Output::Data(fetched) => {
                        self.bytes += fetched.records.len() as u64;
                        FetchEvent::Data(fetched)
                    }
                    Output::Resolved { tp, generation, offset } => FetchEvent::Resolved { tp, generation, offset },
                    Output::Refused { tp, generation, why, stopped } => {
                        FetchEvent::Refused { tp, generation, why, stopped }
                    }
                    Output::NeedMetadata { topic, stale } => {
                        let why = if stale { MetadataReason::StaleLeader } else { MetadataReason::NoLeader };
                        events.push(ShardEvent::NeedMetadata { topics: vec![topic], why });
                        continue;
                    }
                    Output::Leader { tp, leader, epoch, endpoint } => {
                        events.push(ShardEvent::Leader(LeaderHint { tp, leader, epoch, endpoint }));
                        continue;
                    }
                };
                // A consumer that is gone has said so, or will.
                let _ = lane.events.send(event);
            }
        }
    }

    /// When something is to be done although nothing happens.
    pub(super) fn next_deadline(&self, now: Time) -> Time {
        self.lanes.values().map(|lane| lane.fetcher.next_deadline(now)).min().unwrap_or(Time::NEVER)
    }
}

fn decode(version: i16, body: &Bytes) -> Option<FetchResponse> {
    FetchResponse::decode(version, &mut Reader::shared(body)).ok()
}

fn common(versions: &Versions) -> FetchVersions {
    FetchVersions {
        fetch: versions.pick(ApiKey::Fetch),
        fetch_by_name: versions.pick_by_name(ApiKey::Fetch),
        list_offsets: versions.pick_within(ApiKey::ListOffsets, 1, i16::MAX),
        // From version 3 on the request says whose epoch it is that asks: a follower, or none.
        offset_for_leader_epoch: versions.pick_within(ApiKey::OffsetForLeaderEpoch, 3, i16::MAX),
    }
}
