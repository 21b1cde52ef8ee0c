//! Choosing what goes into the next request of a broker, and following leaders and identities.

use super::accumulate::stamp_of;
use super::partition::{State, Tried, sequence_after};
use super::*;
use crate::base::ids::Uuid;
use crate::batch::SealedBatch;

impl Produce {
    /// Makes the next request for a broker, if anything is due there and a slot is free: one batch of every ready partition
    /// that shares the first one's request key, up to `max.request.size`. The caller encodes it with
    /// [`Produce::encode_call`], submits it, and reports its end exactly once.
    pub fn next_call(&mut self, broker_id: BrokerId) -> Option<CallIx> {
        let broker = self.brokers.get_mut(&broker_id)?;
        if broker.in_flight >= self.settings.in_flight_max {
            return None;
        }
        if broker.urgent {
            self.promote_urgent(broker_id);
        }
        let broker = self.brokers.get_mut(&broker_id)?;
        let waiting = broker.ready.len();
        if waiting == 0 {
            return None;
        }
        let slot = self.calls_free.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() as u32 - 1
        });
        let call_ix = CallIx(slot);
        let mut parts = self.spare_parts.pop().unwrap_or_default();
        let mut owner: Option<ProducerIx> = None;
        let mut mixed = false;
        let mut bytes = 0usize;
        for _ in 0..waiting {
            let Some(ix) = self.brokers.get_mut(&broker_id).and_then(|broker| broker.ready.pop_front()) else { break };
            self.part(ix).in_ready = false;
            let part = &self.parts[ix.0 as usize];
            if part.leader != Some(broker_id) {
                self.touch(ix);
                continue;
            }
            let fits = match owner {
                None => true,
                Some(first) => {
                    mixed |= first != part.producer;
                    // Answers go by topic and partition, and a broker keeps one of two batches: no partition twice (r14).
                    self.same_key(first, part.producer)
                        && !(mixed && parts.iter().any(|entry| self.parts[entry.part.0 as usize].tp == part.tp))
                }
            };
            let Some(at) = (if fits { self.pick(ix, owner.map(|_| bytes)) } else { None }) else {
                if !fits || self.would_exceed(ix, bytes) {
                    // It stays first in line for the next request.
                    self.touch(ix);
                }
                continue;
            };
            let part = &mut self.parts[ix.0 as usize];
            let batch = &mut part.queue[at];
            if batch.tried != Tried::Never {
                self.stats.retries += 1;
            }
            edge(match batch.tried {
                Tried::Never => "batch: sealed -> in flight",
                Tried::Refused => "batch: refused -> in flight",
                Tried::Maybe => "batch: perhaps written -> in flight",
            });
            batch.state = State::InFlight(call_ix);
            part.in_flight += 1;
            bytes += batch.sealed.wire_len();
            parts.push(CallPart { part: ix, no: batch.no, late_charge: 0, answered: false });
            owner = owner.or(Some(part.producer));
        }
        // Behind those that found no room, so that nobody is passed over twice.
        for entry in &parts {
            self.touch(entry.part);
        }
        let Some((producer, owner)) = owner.and_then(|ix| Some((ix, self.producers.get(usize::from(ix.0))?.as_ref()?)))
        else {
            self.spare_parts.push(parts);
            self.calls_free.push(slot);
            return None;
        };
        let acks = owner.key.acks;
        let all = &self.parts;
        parts.sort_unstable_by_key(|entry| all[entry.part.0 as usize].tp);
        self.stats.requests += 1;
        self.stats.wire_bytes += bytes as u64;
        self.calls[slot as usize] = Some(CallState { broker: broker_id, producer, acks, parts });
        if let Some(broker) = self.brokers.get_mut(&broker_id) {
            broker.in_flight += 1;
        }
        Some(call_ix)
    }

    /// Batches with a waiter: due when nothing is in flight or a request goes out anyway; larger ones at once (r02).
    fn promote_urgent(&mut self, broker_id: BrokerId) {
        let Some(broker) = self.brokers.get_mut(&broker_id) else { return };
        let all = broker.in_flight == 0 || !broker.ready.is_empty();
        let mut open = std::mem::take(&mut broker.open);
        let mut left = false;
        open.retain(|ix| {
            let part = &mut self.parts[ix.0 as usize];
            let Some(batch) = part.open.as_ref().filter(|_| part.leader == Some(broker_id)) else {
                part.in_open = false;
                return false;
            };
            if batch.urgent && !batch.due {
                if all || batch.builder.raw_bytes() >= URGENT_BYTES {
                    self.make_due(*ix);
                } else {
                    left = true;
                }
            }
            true
        });
        if let Some(broker) = self.brokers.get_mut(&broker_id) {
            broker.open = open;
            broker.urgent = left;
        }
    }

    fn same_key(&self, a: ProducerIx, b: ProducerIx) -> bool {
        let key = |ix: ProducerIx| self.producers.get(usize::from(ix.0)).and_then(Option::as_ref).map(|p| &p.key);
        a == b || key(a) == key(b)
    }

    fn would_exceed(&self, ix: PartIx, bytes: usize) -> bool {
        let part = &self.parts[ix.0 as usize];
        let Some(producer) = self.producers.get(usize::from(part.producer.0)).and_then(Option::as_ref) else {
            return false;
        };
        let next = match part.next_ready() {
            Some(at) => part.queue[at].sealed.wire_len(),
            None => part.open.as_ref().map_or(0, |open| open.builder.wire_bytes_estimate()),
        };
        bytes > 0 && bytes + next > producer.settings.max_request_size
    }

    /// The batch of this partition to send now, stamped; `taken` is the request's size so far.
    fn pick(&mut self, ix: PartIx, taken: Option<usize>) -> Option<usize> {
        if taken.is_some_and(|bytes| self.would_exceed(ix, bytes)) {
            return None;
        }
        let part = &mut self.parts[ix.0 as usize];
        let producer = self.producers.get_mut(usize::from(part.producer.0))?.as_mut()?;
        let limit = if part.probation { 1 } else { producer.in_flight_per_partition };
        if part.regroup || part.backing_off || part.in_flight >= limit || !part.has_work() {
            return None;
        }
        if producer.idempotent {
            self.follow_identity(ix);
        }
        let part = &mut self.parts[ix.0 as usize];
        let at = match part.next_ready() {
            Some(at) => at,
            None => {
                self.seal(ix);
                self.parts[ix.0 as usize].next_ready()?
            }
        };
        let part = &mut self.parts[ix.0 as usize];
        let producer = self.producers.get(usize::from(part.producer.0))?.as_ref()?;
        if !producer.idempotent {
            return Some(at);
        }
        // The broker recognises the last five batches only: while an older one may have to be sent again, at most four
        // may follow it, whatever became of them (d1-4).
        if at >= IDEMPOTENT_IN_FLIGHT_MAX as usize {
            return None;
        }
        let batch = &mut part.queue[at];
        if batch.tried == Tried::Maybe {
            // Byte-identical, under the identity it had (d1-1, d1-2).
            return Some(at);
        }
        let Identity::Have(current) = producer.identity else { return None };
        if part.bump || part.ident != Some(current) {
            return None;
        }
        if batch.stamp.is_none_or(|(ident, _)| ident != current) {
            batch.stamp = Some((current, part.next_sequence));
            batch.sealed.restamp(stamp_of(current, part.next_sequence, &producer.key));
            part.next_sequence = sequence_after(part.next_sequence, batch.sealed.count());
        }
        Some(at)
    }

    /// Brings the partition to its producer's present identity, once nothing of the old one is unresolved (d1-7).
    fn follow_identity(&mut self, ix: PartIx) {
        let part = &mut self.parts[ix.0 as usize];
        let who = part.producer;
        let Some(producer) = self.producers.get_mut(usize::from(who.0)).and_then(Option::as_mut) else { return };
        let current = match &producer.identity {
            Identity::Have(current) => *current,
            Identity::Missing { previous } => {
                let previous = *previous;
                producer.identity = Identity::Asked { previous };
                self.actions.push_back(Action::GetProducerId { producer: who, previous });
                return;
            }
            Identity::None | Identity::Asked { .. } => return,
        };
        if part.ident == Some(current) && !part.bump {
            return;
        }
        if part.unresolved() {
            return;
        }
        let mut next = current;
        if part.bump && part.ident == Some(current) {
            // Nobody bumped since this partition used its numbers up.
            let Some(epoch) = current.epoch.checked_add(1) else {
                // d1-8: out of epochs, a new id.
                producer.identity = Identity::Asked { previous: Some(current) };
                self.actions.push_back(Action::GetProducerId { producer: who, previous: Some(current) });
                return;
            };
            next = Ident { id: current.id, epoch };
            edge("identity: epoch -> next epoch");
            producer.identity = Identity::Have(next);
            self.stats.bumps += 1;
        }
        part.bump = false;
        part.ident = Some(next);
        // A broker that knows nothing of an id takes any first sequence number from it: a second batch on its way together
        // with a first one that is refused would be let in before it. So the first goes alone until it is acknowledged.
        part.probation = true;
        edge("partition: old identity -> new identity");
        part.next_sequence = 0;
        part.unstamp(0);
    }

    /// The batches of a call with their partitions, by topic and partition.
    pub(super) fn call_batches(&self, call: CallIx) -> impl Iterator<Item = (Tp, Uuid, &SealedBatch)> {
        let parts = self.calls.get(call.0 as usize).and_then(Option::as_ref).map_or(&[][..], |call| &call.parts);
        parts.iter().filter_map(|entry| {
            let part = &self.parts[entry.part.0 as usize];
            let at = part.position_of(entry.no)?;
            let id = self.topics.get(&part.tp.topic).map_or(Uuid::ZERO, |topic| topic.id);
            Some((part.tp, id, &part.queue[at].sealed))
        })
    }

    /// What the newest snapshot says about a topic: its id (zero when the broker has none), and each partition's leader in
    /// order. `None`: the topic is not in it.
    pub fn set_topic(
        &mut self,
        now: Time,
        topic: TopicIx,
        facts: Option<(Uuid, &[LeaderFact])>,
        settle: &mut impl Settle,
        choose: &mut impl Placement,
    ) {
        let entry = self.topics.entry(topic).or_default();
        let Some((id, leaders)) = facts else {
            // A restarting broker may miss topics: what is buffered waits (d1-15).
            return;
        };
        let remade = !entry.id.is_zero() && !id.is_zero() && entry.id != id;
        entry.id = id;
        if remade || leaders.len() >= entry.leaders.len() {
            entry.leaders.clear();
            entry.leaders.extend_from_slice(leaders);
        }
        let parts = std::mem::take(&mut entry.parts);
        for ix in &parts {
            if remade {
                self.start_anew(*ix);
            }
            let partition = self.part(*ix).tp.partition;
            let fact = usize::try_from(partition).ok().and_then(|at| leaders.get(at));
            match fact {
                Some(fact) => self.set_leader(*ix, *fact, remade),
                // d1-18: stale metadata that lacks a partition again does not fail its records.
                None if self.part(*ix).known => {}
                None => self.missing(now, *ix, settle),
            }
        }
        if let Some(entry) = self.topics.get_mut(&topic) {
            let added = std::mem::replace(&mut entry.parts, parts);
            entry.parts.extend(added);
        }
        self.place(topic, settle, choose, leaders);
    }

    /// The topic was deleted and made again (d1-17): its log is empty, nothing sent before is in it.
    fn start_anew(&mut self, ix: PartIx) {
        edge("partition: old topic id -> new topic id");
        let part = self.part(ix);
        part.leader_epoch = -1;
        part.last_offset = -1;
        if part.in_flight == 0 {
            for batch in part.queue.iter_mut().filter(|batch| batch.state == State::Ready) {
                batch.tried = Tried::Refused;
                batch.stamp = None;
            }
            part.next_sequence = 0;
        } else {
            part.bump = true;
        }
    }

    pub(super) fn set_leader(&mut self, ix: PartIx, fact: LeaderFact, force: bool) {
        let part = &mut self.parts[ix.0 as usize];
        let older = fact.epoch >= 0 && fact.epoch < part.leader_epoch;
        if older && !force && part.older_epochs < OLDER_EPOCHS_MAX {
            part.older_epochs += 1;
            return;
        }
        part.older_epochs = 0;
        let tp = part.tp;
        let Some(leader) = fact.leader else {
            // Between leaders: what is queued waits, and the old leader gets no more (d1-19).
            if part.leader.take().is_some() {
                edge("partition: led -> leaderless");
                self.leave(ix);
            }
            if !self.part(ix).is_idle() {
                self.actions.push_back(Action::Refresh { topic: tp.topic, why: Stale::NoLeader });
            }
            return;
        };
        part.leader_epoch = fact.epoch;
        part.missing_since = None;
        if part.leader == Some(leader) {
            return;
        }
        let moved = part.known;
        edge(match (moved, part.in_flight > 0) {
            (false, _) => "partition: unknown -> led",
            (true, false) => "partition: led -> led by another",
            (true, true) => "partition: led -> led by another with batches in flight",
        });
        part.known = true;
        part.leader = Some(leader);
        // d1-13: old answers first, then one batch alone.
        part.probation = moved;
        part.regroup = part.in_flight > 0;
        self.leave(ix);
        let part = &mut self.parts[ix.0 as usize];
        if let Some(open) = &part.open {
            part.in_open = true;
            let broker = self.brokers.entry(leader).or_default();
            broker.open.push(ix);
            broker.urgent |= open.urgent;
        }
        self.touch(ix);
    }

    /// Takes the partition off every broker's lists.
    fn leave(&mut self, ix: PartIx) {
        let part = self.part(ix);
        let (ready, open) = (std::mem::take(&mut part.in_ready), std::mem::take(&mut part.in_open));
        if ready || open {
            for broker in self.brokers.values_mut() {
                broker.ready.retain(|other| *other != ix);
                broker.open.retain(|other| *other != ix);
            }
        }
    }

    /// The topic exists without this partition, which was never seen: not forever (d1-16).
    fn missing(&mut self, now: Time, ix: PartIx, settle: &mut impl Settle) {
        let limit = self.settings.propagation_max;
        let part = self.part(ix);
        let since = *part.missing_since.get_or_insert(now);
        if part.is_idle() {
            return;
        }
        let topic = part.tp.topic;
        if since + limit > now {
            self.actions.push_back(Action::Refresh { topic, why: Stale::NoLeader });
            return;
        }
        self.seal(ix);
        for at in 0..self.part(ix).queue.len() {
            if self.part(ix).queue[at].state == State::Ready {
                self.conclude(ix, at, Outcome::Failed(Reason::NoSuchPartition));
            }
        }
        self.settle_front(ix, settle);
    }

    /// Control's answer to [`Action::GetProducerId`]. An error ends what waits for the id, as surely not written.
    pub fn on_producer_id(&mut self, producer: ProducerIx, grant: Result<Ident, ErrorCode>, settle: &mut impl Settle) {
        let Some(state) = self.producer(producer) else { return };
        let Identity::Asked { previous } = state.identity else { return };
        let mine = |part: &Partition| part.producer == producer;
        match grant {
            Ok(ident) => {
                edge("identity: asked -> granted");
                state.identity = Identity::Have(ident);
                for ix in (0..self.parts.len()).filter(|ix| mine(&self.parts[*ix])).collect::<Vec<_>>() {
                    self.touch(PartIx(ix as u32));
                }
            }
            Err(code) => {
                edge("identity: asked -> refused");
                state.identity = Identity::Missing { previous };
                for ix in (0..self.parts.len()).filter(|ix| mine(&self.parts[*ix])).collect::<Vec<_>>() {
                    let ix = PartIx(ix as u32);
                    self.seal(ix);
                    for at in 0..self.part(ix).queue.len() {
                        let batch = &self.part(ix).queue[at];
                        if batch.state == State::Ready && batch.tried != Tried::Maybe {
                            self.part(ix).queue[at].stamp = None;
                            self.conclude(ix, at, Outcome::Failed(Reason::NoProducerId(code)));
                        }
                    }
                    self.settle_front(ix, settle);
                }
            }
        }
    }
}
