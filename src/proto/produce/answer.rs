//! What became of a request: answers, partition by partition, in the order the batches were queued.
//!
//! | answer | was it written? | what next |
//! |---|---|---|
//! | none, DUPLICATE_SEQUENCE_NUMBER | yes | settled |
//! | leader and topic errors | not this time | same bytes, to whoever leads now |
//! | REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, no answer | maybe | same bytes, same numbers, until a broker says |
//! | other retriable errors | not this time | same bytes after a backoff |
//! | OUT_OF_ORDER_SEQUENCE_NUMBER behind an unsettled batch | no | wait for that one, then again |
//! | the same at the head, UNKNOWN_PRODUCER_ID | no | new epoch, numbers from 0 |
//! | INVALID_PRODUCER_EPOCH | no | new identity from the cluster |
//! | MESSAGE_TOO_LARGE | no | split; a lone record fails |
//! | anything else | no | fails; the others go on |

use super::partition::{Batch, Runs, State, Tried};
use super::*;
use crate::batch::compress::UNPACKED_BYTES_MAX;
use crate::batch::{BatchBuilder, Decompressor, RecordSet, Unpacked};
use crate::proto::cluster::TopicNames;
use crate::wire::messages::ProduceResponse;
use crate::wire::messages::produce::response::PartitionProduceResponse;

/// How a call ended for one of its partitions.
enum End<'a> {
    Answer(&'a PartitionProduceResponse),
    /// acks=0: all bytes are with the kernel.
    Written,
    /// No answer.
    Lost {
        maybe: bool,
    },
    /// The request as a whole was refused.
    Refused(ErrorCode),
}

impl Produce {
    /// The broker answered. `names` as for [`Produce::encode_call`].
    pub fn on_answer(
        &mut self,
        now: Time,
        call: CallIx,
        answer: &ProduceResponse,
        names: &TopicNames,
        settle: &mut impl Settle,
    ) {
        let Some(mut state) = self.take_call(call) else { return };
        for topic in &answer.responses {
            let ix = if topic.name.is_empty() {
                self.topics.iter().find(|(_, known)| known.id == topic.topic_id).map(|(ix, _)| *ix)
            } else {
                names.get(&topic.name)
            };
            let Some(ix) = ix else { continue };
            for partition in &topic.partition_responses {
                let tp = Tp { topic: ix, partition: partition.index };
                let found = state.parts.binary_search_by_key(&tp, |entry| self.parts[entry.part.0 as usize].tp);
                let Ok(at) = found else { continue };
                let entry = &mut state.parts[at];
                if std::mem::replace(&mut entry.answered, true) {
                    continue;
                }
                let leader = &partition.current_leader;
                let endpoint = answer
                    .node_endpoints
                    .iter()
                    .find(|node| node.node_id == leader.leader_id)
                    .and_then(|node| Some((node.host.clone(), u16::try_from(node.port).ok()?)));
                self.ended(now, &state.parts[at], End::Answer(partition), endpoint, settle);
            }
        }
        // A partition that the broker left out: it may have taken the batch.
        for entry in state.parts.iter().filter(|entry| !entry.answered) {
            self.ended(now, entry, End::Lost { maybe: true }, None, settle);
        }
        self.finish_call(state);
    }

    /// All bytes of a call that expects no answer are with the kernel (acks=0, d1-20).
    pub fn on_written(&mut self, now: Time, call: CallIx, settle: &mut impl Settle) {
        self.end_all(now, call, || End::Written, settle);
    }

    /// No answer will come. `maybe`: the broker can have seen the request.
    pub fn on_lost(&mut self, now: Time, call: CallIx, maybe: bool, settle: &mut impl Settle) {
        self.end_all(now, call, || End::Lost { maybe }, settle);
    }

    /// The request cannot be made or was refused as a whole; nothing of it was written.
    pub fn on_refused(&mut self, now: Time, call: CallIx, code: ErrorCode, settle: &mut impl Settle) {
        self.end_all(now, call, || End::Refused(code), settle);
    }

    fn end_all<'a>(&mut self, now: Time, call: CallIx, end: impl Fn() -> End<'a>, settle: &mut impl Settle) {
        let Some(state) = self.take_call(call) else { return };
        for entry in &state.parts {
            self.ended(now, entry, end(), None, settle);
        }
        self.finish_call(state);
    }

    fn take_call(&mut self, call: CallIx) -> Option<CallState> {
        let state = self.calls.get_mut(call.0 as usize)?.take()?;
        self.calls_free.push(call.0);
        if let Some(broker) = self.brokers.get_mut(&state.broker) {
            broker.in_flight -= 1;
        }
        Some(state)
    }

    fn finish_call(&mut self, mut state: CallState) {
        state.parts.clear();
        self.spare_parts.push(state.parts);
    }

    fn ended(
        &mut self,
        now: Time,
        entry: &CallPart,
        end: End<'_>,
        endpoint: Option<(String, u16)>,
        settle: &mut impl Settle,
    ) {
        let ix = entry.part;
        let part = self.part(ix);
        let tp = part.tp;
        part.in_flight -= 1;
        if part.in_flight == 0 {
            part.regroup = false;
        }
        if entry.late_charge > 0 {
            settle.release(tp, entry.late_charge);
        }
        if let Some(at) = part.position_of(entry.no) {
            match end {
                End::Answer(answer) => self.answered(now, ix, at, answer, endpoint),
                End::Written => self.deliver(ix, at, -1, -1),
                End::Lost { maybe: true } if self.acks(ix) == 0 => {
                    self.conclude_answered(ix, at, Outcome::Unknown(Reason::ConnectionLost));
                }
                End::Lost { maybe } => self.again(now, ix, at, maybe, false),
                End::Refused(code) => self.fail(ix, at, code),
            }
        }
        self.settle_front(ix, settle);
        self.touch(ix);
    }

    fn acks(&self, ix: PartIx) -> i16 {
        let producer = self.parts[ix.0 as usize].producer;
        self.producers.get(usize::from(producer.0)).and_then(Option::as_ref).map_or(-1, |producer| producer.key.acks)
    }

    fn deliver(&mut self, ix: PartIx, at: usize, offset: i64, timestamp_ms: i64) {
        let part = self.part(ix);
        part.backoff.reset();
        edge(if part.probation { "partition: on probation -> trusted" } else { "batch: in flight -> acknowledged" });
        part.probation = false;
        part.last_error = ErrorCode::None;
        part.last_offset = part.last_offset.max(offset);
        part.queue[at].state = State::Done(Outcome::Delivered { offset, timestamp_ms });
        part.queue[at].tried = Tried::Never;
    }

    /// A refusal for good. What an earlier, unanswered attempt did stays unknown.
    fn fail(&mut self, ix: PartIx, at: usize, code: ErrorCode) {
        let reason = Reason::Broker(code);
        let maybe = self.part(ix).queue[at].tried == Tried::Maybe || code == ErrorCode::UnknownServerError;
        self.conclude_answered(ix, at, if maybe { Outcome::Unknown(reason) } else { Outcome::Failed(reason) });
    }

    /// As `conclude`, for a batch whose call has ended: nothing of it is with the kernel.
    fn conclude_answered(&mut self, ix: PartIx, at: usize, outcome: Outcome) {
        self.part(ix).queue[at].state = State::Ready;
        self.conclude(ix, at, outcome);
    }

    fn answered(
        &mut self,
        now: Time,
        ix: PartIx,
        at: usize,
        answer: &PartitionProduceResponse,
        endpoint: Option<(String, u16)>,
    ) {
        let code = ErrorCode::from(answer.error_code);
        let part = self.part(ix);
        part.last_error = code;
        let topic = part.tp.topic;
        match code {
            ErrorCode::None => self.deliver(ix, at, answer.base_offset, answer.log_append_time_ms),
            // d1-3: an earlier attempt was written.
            ErrorCode::DuplicateSequenceNumber => self.deliver(ix, at, -1, -1),
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId if part.queue[at].stamp.is_some() => {
                self.out_of_order(now, ix, at, code, answer.log_start_offset);
            }
            ErrorCode::InvalidProducerEpoch if part.queue[at].stamp.is_some() => self.stale_epoch(now, ix, at),
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => self.too_large(ix, at, code),
            ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::ReplicaNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
            | ErrorCode::KafkaStorageError => {
                let moved = self.follow_hint(ix, answer, endpoint);
                if !moved {
                    let why = match code {
                        ErrorCode::UnknownTopicId | ErrorCode::InconsistentTopicId => Stale::TopicId,
                        _ => Stale::NotLeader,
                    };
                    self.actions.push_back(Action::Refresh { topic, why });
                }
                self.again(now, ix, at, false, !moved);
            }
            // d1-2: it may be in the leader's log already.
            ErrorCode::RequestTimedOut | ErrorCode::NotEnoughReplicasAfterAppend | ErrorCode::NetworkException => {
                self.again(now, ix, at, true, true);
            }
            ErrorCode::CorruptMessage => self.again(now, ix, at, false, true),
            code if code.verdict().is_retriable() => self.again(now, ix, at, false, true),
            code => self.fail(ix, at, code),
        }
    }

    /// The batch goes again, its bytes as they are; first everything of this partition comes back, so that order is kept.
    fn again(&mut self, now: Time, ix: PartIx, at: usize, maybe: bool, back_off: bool) {
        let part = &mut self.parts[ix.0 as usize];
        let batch = &mut part.queue[at];
        batch.state = State::Ready;
        edge(if maybe { "batch: in flight -> perhaps written" } else { "batch: in flight -> refused" });
        if maybe {
            batch.tried = Tried::Maybe;
        } else if batch.tried == Tried::Never {
            batch.tried = Tried::Refused;
        }
        part.regroup = part.in_flight > 0;
        if back_off && !part.backing_off {
            edge("partition: sending -> backing off");
            part.backing_off = true;
            let wait = part.backoff.next(&mut self.rng);
            self.backing_off.push(std::cmp::Reverse((now + wait, ix)));
        }
    }

    /// d1-14: the answer named the leader. True when that sends the partition elsewhere at once.
    fn follow_hint(&mut self, ix: PartIx, answer: &PartitionProduceResponse, endpoint: Option<(String, u16)>) -> bool {
        let part = self.part(ix);
        let (leader, epoch) = (BrokerId(answer.current_leader.leader_id), answer.current_leader.leader_epoch);
        // Never to an older or equal epoch: that is what we knew when we asked the wrong one.
        if leader.0 < 0 || epoch <= part.leader_epoch || part.leader == Some(leader) {
            return false;
        }
        edge("partition: led -> led by whom the answer named");
        let tp = part.tp;
        // Every producer's view of the partition moves.
        let twins = self.topics.get(&tp.topic).map(|topic| topic.parts.clone()).unwrap_or_default();
        for twin in twins.into_iter().filter(|twin| self.parts[twin.0 as usize].tp == tp).collect::<Vec<_>>() {
            self.set_leader(twin, LeaderFact { leader: Some(leader), epoch }, false);
        }
        self.actions.push_back(Action::LeaderMoved { tp, leader, epoch, endpoint });
        true
    }

    /// d1-5, d1-6: the broker misses numbers before this batch's.
    fn out_of_order(&mut self, now: Time, ix: PartIx, at: usize, code: ErrorCode, log_start: i64) {
        let part = self.part(ix);
        let waits_for_older = part.queue.iter().take(at).any(|batch| !matches!(batch.state, State::Done(_)));
        let unknown_start = code == ErrorCode::UnknownProducerId && log_start < 0;
        part.queue[at].tried = Tried::Refused;
        if waits_for_older || unknown_start {
            return self.again(now, ix, at, false, unknown_start);
        }
        // It is not in the log, so nothing behind it can be (with these numbers).
        for batch in part.queue.iter_mut().skip(at) {
            if batch.state == State::Ready {
                batch.tried = Tried::Refused;
            }
        }
        part.bump = true;
        // Once is a matter of course; a broker that goes on refusing is not hurried.
        let repeated = part.backoff.failures() > 0;
        if !repeated {
            let _ = part.backoff.next(&mut Rng::new(0));
        }
        self.again(now, ix, at, false, repeated);
    }

    /// d1-9: somebody has a newer epoch of this producer id; the cluster gives out another.
    fn stale_epoch(&mut self, now: Time, ix: PartIx, at: usize) {
        let part = &self.parts[ix.0 as usize];
        let batch = &part.queue[at];
        let (who, stamp) = (part.producer, batch.stamp);
        if batch.tried == Tried::Maybe {
            self.fail(ix, at, ErrorCode::InvalidProducerEpoch);
        } else {
            self.again(now, ix, at, false, true);
        }
        let Some(producer) = self.producer(who) else { return };
        if let (Identity::Have(current), Some((ident, _))) = (&producer.identity, stamp)
            && *current == ident
        {
            producer.identity = Identity::Asked { previous: Some(ident) };
            self.actions.push_back(Action::GetProducerId { producer: who, previous: Some(ident) });
        }
    }

    /// d1-11: two halves take the place of a batch that is too large; their numbers are the ones it had.
    fn too_large(&mut self, ix: PartIx, at: usize, code: ErrorCode) {
        let part = &self.parts[ix.0 as usize];
        let batch = &part.queue[at];
        let (raw, wire) = (batch.sealed.raw_bytes() as u32, batch.sealed.wire_len() as u32);
        if batch.tried == Tried::Maybe {
            return self.fail(ix, at, code);
        }
        let halves = if batch.sealed.count() > 1 { self.split(ix, at) } else { None };
        let Some((first, second)) = halves else {
            return self.conclude_answered(ix, at, Outcome::Failed(Reason::TooLarge { raw, wire }));
        };
        let part = &mut self.parts[ix.0 as usize];
        let who = part.producer;
        let (deadline, no) = (second.created, second.no);
        part.queue[at] = first;
        part.queue.insert(at + 1, second);
        part.regroup = part.in_flight > 0;
        self.stats.batches += 1;
        if let Some(producer) = self.producer(who) {
            producer.live_batches += 1;
            let deadline = deadline + producer.settings.delivery_timeout;
            let place = producer.expiring.partition_point(|(other, _, _)| *other <= deadline);
            producer.expiring.insert(place, (deadline, ix, no));
        }
    }

    fn split(&mut self, ix: PartIx, at: usize) -> Option<(Batch, Batch)> {
        let part = &self.parts[ix.0 as usize];
        let batch = &part.queue[at];
        let next_no = part.queue.get(at + 1).map(|next| next.no).or(part.open.as_ref().map(|open| open.no));
        let gap = next_no.unwrap_or(batch.no + partition::NO_STEP) - batch.no;
        if gap < 2 {
            return None;
        }
        let producer = self.producers.get(usize::from(part.producer.0))?.as_ref()?;
        let mut bytes = Vec::new();
        batch.sealed.copy_to(&mut bytes);
        let view = RecordSet::new(&bytes).next()?.ok()?;
        let mut unpacked = Unpacked::new();
        let records = view.records(&mut Decompressor::new(UNPACKED_BYTES_MAX), &mut unpacked).ok()?;
        let half = batch.sealed.count() / 2;
        // Each half is surely smaller than the whole, so only the count decides.
        let roomy = BatchSettings { size_bytes_max: usize::MAX / 2, raw_bytes_max: usize::MAX / 2, ..producer.batch };
        let mut first = BatchBuilder::new(&roomy, &self.pool, &self.codecs).ok()?;
        let mut second = BatchBuilder::new(&roomy, &self.pool, &self.codecs).ok()?;
        for (i, record) in (0..).zip(records) {
            let record = record.ok()?;
            let half = if i < half { &mut first } else { &mut second };
            let _ = half.append(record.timestamp, record.body());
        }
        if first.count() != half || second.count() != batch.sealed.count() - half {
            return None;
        }
        let (stamp_first, stamp_second) = match batch.stamp {
            Some((ident, sequence)) => (Some((ident, sequence)), Some((ident, sequence_after(sequence, half)))),
            None => (None, None),
        };
        let bytes_of = |stamp: Option<(Ident, i32)>| {
            stamp.map_or(crate::batch::Stamp::NONE, |(ident, sequence)| {
                accumulate::stamp_of(ident, sequence, &producer.key)
            })
        };
        let (runs_first, runs_second) = split_runs(&batch.runs, half);
        let charge_first = batch.charge / 2;
        let make = |no, sealed, stamp, runs, charge| Batch {
            no,
            sealed,
            stamp,
            runs,
            charge,
            created: batch.created,
            state: State::Ready,
            tried: Tried::Refused,
        };
        let first_sealed = first.seal(bytes_of(stamp_first));
        let second_sealed = second.seal(bytes_of(stamp_second));
        Some((
            make(batch.no, first_sealed, stamp_first, runs_first, charge_first),
            make(batch.no + gap / 2, second_sealed, stamp_second, runs_second, batch.charge - charge_first),
        ))
    }
}

/// The runs of the first `count` records, and those of the rest.
fn split_runs(runs: &Runs, mut count: u32) -> (Runs, Runs) {
    let (mut first, mut second) = (Runs::new(), Runs::new());
    for run in runs {
        let here = run.count.min(count);
        count -= here;
        if here > 0 {
            first.push(Run { count: here, ..*run });
        }
        if here < run.count {
            second.push(Run { first: run.first + u64::from(here), count: run.count - here, ..*run });
        }
    }
    (first, second)
}
