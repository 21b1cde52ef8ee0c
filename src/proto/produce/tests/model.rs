//! A broker that keeps logs and checks sequences as Kafka does, and a rig that drives the machine against it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use crate::base::chunk::ChunkPool;
use crate::base::ids::{LaneId, Uuid};
use crate::batch::{Decompressor, RecordSet, Unpacked, encode_body};
use crate::proto::cluster::TopicNames;
use crate::wire::messages::produce::request::PartitionProduceData;
use crate::wire::messages::produce::response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use crate::wire::messages::{ProduceRequest, ProduceResponse};
use crate::wire::{Message, Reader};

pub const B1: BrokerId = BrokerId(1);
pub const B2: BrokerId = BrokerId(2);
pub const T: TopicIx = TopicIx(0);
pub const P: ProducerIx = ProducerIx(0);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn tp(partition: i32) -> Tp {
    Tp { topic: T, partition }
}

#[derive(Default)]
pub struct Outcomes {
    pub settled: Vec<(Tp, Run, Outcome)>,
    pub released: usize,
}

impl Settle for Outcomes {
    fn settled(&mut self, _: ProducerIx, tp: Tp, run: &Run, outcome: Outcome) {
        self.settled.push((tp, *run, outcome));
    }
    fn release(&mut self, _: Tp, bytes: usize) {
        self.released += bytes;
    }
    fn placed(&mut self, _: Tp, _: usize) {}
}

pub struct ByKey;
impl Placement for ByKey {
    fn place(&mut self, _: ProducerIx, _: TopicIx, _: bool, body: &[u8], leaders: &[LeaderFact]) -> i32 {
        i32::from(body[1]) % leaders.len() as i32
    }
}

/// One request as the broker got it.
#[derive(Debug)]
pub struct Sent {
    pub call: CallIx,
    pub version: i16,
    pub request: ProduceRequest,
}

impl Sent {
    pub fn parts(&self) -> Vec<&PartitionProduceData> {
        self.request.topic_data.iter().flat_map(|topic| &topic.partition_data).collect()
    }
    pub fn bytes(&self, partition: i32) -> Vec<u8> {
        let part = self.parts().into_iter().find(|part| part.index == partition).expect("in the request");
        part.records.clone().expect("records").to_vec()
    }
    /// (producer id, epoch, base sequence, records) of a partition's batch.
    pub fn stamp(&self, partition: i32) -> (i64, i16, i32, i32) {
        let bytes = self.bytes(partition);
        let batch = RecordSet::new(&bytes).next().expect("a batch").expect("well-formed");
        batch.verify().expect("crc");
        let header = *batch.header().expect("v2");
        (header.producer_id, header.producer_epoch, header.base_sequence, header.count)
    }
}

/// Records that the rig sends for one value, where a test asks for batches of several: so every number that is counted by
/// batches instead of records shows.
pub const GROUP: u32 = 3;

/// Small batches with a long linger: each holds the records of one [`Rig::send`].
pub fn grouped() -> ProducerSettings {
    ProducerSettings { batch_count_max: Some(GROUP), linger: ms(1_000), ..Default::default() }
}

/// The model's own arithmetic: sequences count modulo 2^31.
fn after(sequence: i32, count: i64) -> i32 {
    ((i64::from(sequence) + count) % (1 << 31)) as i32
}

/// The values without their places in the group; a group that is not whole and in order shows as it is.
fn by_group(records: &[String]) -> Vec<&str> {
    let mut seen = Vec::new();
    let mut rest = records;
    while let [first, more @ ..] = rest {
        seen.push(first.as_str());
        let whole = |(i, record): (usize, &String)| *record == format!("{first}/{}", i + 1);
        let taken = more.len().min(GROUP as usize - 1);
        let grouped = taken == GROUP as usize - 1 && more[..taken].iter().enumerate().all(whole);
        rest = if grouped { &more[taken..] } else { more };
    }
    seen
}

pub fn values(batch: &[u8]) -> Vec<String> {
    let view = RecordSet::new(batch).next().unwrap().unwrap();
    let mut unpacked = Unpacked::new();
    let records = view.records(&mut Decompressor::new(1 << 20), &mut unpacked).unwrap();
    records.map(|record| String::from_utf8(record.unwrap().value().unwrap().to_vec()).unwrap()).collect()
}

/// First and last sequence and base offset.
type Known = (i32, i32, i64);

/// A partition's log and what Kafka remembers of its producers.
#[derive(Default)]
pub struct Log {
    pub records: Vec<String>,
    /// By producer id: epoch and the last five batches (first sequence, last sequence, offset).
    producers: BTreeMap<i64, (i16, Vec<Known>)>,
}

impl Log {
    /// As if this producer's last batch had ended with `last`, and all records were gone since.
    pub fn forget(&mut self, producer: i64, last: i32) {
        self.records.clear();
        self.producers.insert(producer, (0, vec![(last, last, 0)]));
    }

    /// Appends as `ProducerStateManager` would allow.
    pub fn append(&mut self, bytes: &[u8]) -> Result<i64, ErrorCode> {
        let batch = RecordSet::new(bytes).next().unwrap().unwrap();
        batch.verify().unwrap();
        let header = *batch.header().unwrap();
        if header.producer_id >= 0 {
            let (epoch, seen) = self.producers.entry(header.producer_id).or_insert((header.producer_epoch, vec![]));
            let first = header.base_sequence;
            let last = after(first, i64::from(header.count) - 1);
            if header.producer_epoch < *epoch {
                return Err(ErrorCode::InvalidProducerEpoch);
            }
            if header.producer_epoch > *epoch {
                if first != 0 {
                    return Err(ErrorCode::OutOfOrderSequenceNumber);
                }
                (*epoch, *seen) = (header.producer_epoch, vec![]);
            }
            if let Some(known) = seen.iter().find(|known| known.0 == first && known.1 == last) {
                let _ = known;
                return Err(ErrorCode::DuplicateSequenceNumber);
            }
            if seen.last().is_some_and(|known| after(known.1, 1) != first) {
                return Err(ErrorCode::OutOfOrderSequenceNumber);
            }
            seen.push((first, last, self.records.len() as i64));
            if seen.len() > 5 {
                seen.remove(0);
            }
        }
        let base = self.records.len() as i64;
        self.records.extend(values(bytes));
        Ok(base)
    }
}

pub struct Rig {
    pub produce: Produce,
    pub now: Time,
    pub out: Outcomes,
    pub names: TopicNames,
    pub logs: BTreeMap<i32, Log>,
    tickets: BTreeMap<i32, u64>,
    pub charged: usize,
    /// Records per value.
    group: u32,
}

pub fn settings() -> ProducerSettings {
    ProducerSettings { linger: Duration::ZERO, ..Default::default() }
}

impl Rig {
    pub fn new(settings: ProducerSettings) -> Self {
        let shared = ProduceSettings {
            request_timeout: Duration::from_secs(30),
            retry_backoff: BackoffRange::default(),
            in_flight_max: 5,
            propagation_max: Duration::from_secs(30),
            seed: 1,
        };
        let names = TopicNames::new();
        assert_eq!(names.intern("t"), Ok(T));
        let mut produce = Produce::new(shared, ChunkPool::new(1 << 20));
        let group = settings.batch_count_max.unwrap_or(1);
        produce.add_producer(P, Arc::new(settings));
        let mut rig = Self {
            produce,
            now: Time(1_000_000_000),
            out: Outcomes::default(),
            names,
            logs: BTreeMap::new(),
            tickets: BTreeMap::new(),
            charged: 0,
            group,
        };
        rig.leaders(&[Some(B1); 4]);
        rig
    }

    /// A rig whose producer has its id already.
    pub fn granted(settings: ProducerSettings) -> Self {
        let mut rig = Self::new(settings);
        rig.send(0, "first");
        rig.produce.flush(P);
        assert!(rig.call(B1).is_none(), "waits for the id");
        rig.grant(7, 0);
        let first = rig.call(B1).expect("sent");
        rig.accept(&first);
        rig.out = Outcomes::default();
        rig.charged = 0;
        rig
    }

    pub fn leaders_at(&mut self, epoch: i32, leaders: &[Option<BrokerId>], id: Uuid) {
        let facts: Vec<_> = leaders.iter().map(|leader| LeaderFact { leader: *leader, epoch }).collect();
        self.produce.set_topic(self.now, T, Some((id, &facts)), &mut self.out, &mut ByKey);
    }

    pub fn leaders(&mut self, leaders: &[Option<BrokerId>]) {
        self.leaders_at(1, leaders, Uuid([1; 16]));
    }

    pub fn send_with(&mut self, partition: i32, value: &str, change: impl Fn(&mut Origin)) {
        let mut body = Vec::new();
        encode_body(None, Some(value.as_bytes()), std::iter::empty(), &mut body);
        let ticket = self.tickets.entry(partition).or_default();
        let mut origin =
            Origin { lane: LaneId(1), space: partition, ticket: *ticket, mark: 0, tracked: true, urgent: false };
        change(&mut origin);
        *ticket += 1;
        let ix = self.produce.partition(P, tp(partition));
        self.charged += 100;
        let record = Arrival { timestamp_ms: 5, body: &body, origin, charge: 100 };
        self.produce.append(self.now, ix, &record, &mut self.out);
    }

    /// One record, or with `batch_count_max` a whole batch: `value`, `value/1`, ...
    pub fn send(&mut self, partition: i32, value: &str) {
        self.send_with(partition, value, |_| {});
        (1..self.group).for_each(|i| self.send_with(partition, &format!("{value}/{i}"), |_| {}));
    }

    /// Exactly `count` records.
    pub fn send_records(&mut self, partition: i32, values: std::ops::Range<usize>) {
        values.for_each(|i| self.send_with(partition, &i.to_string(), |_| {}));
    }

    pub fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.produce.next_action()).collect()
    }

    pub fn grant(&mut self, id: i64, epoch: i16) {
        let asked = self.actions().into_iter().any(|action| matches!(action, Action::GetProducerId { .. }));
        assert!(asked, "nobody asked for an id");
        self.produce.on_producer_id(P, Ok(Ident { id, epoch }), &mut self.out);
    }

    /// The next request to a broker, decoded from its bytes.
    pub fn call(&mut self, broker: BrokerId) -> Option<Sent> {
        let call = self.produce.next_call(broker)?;
        let version = self.produce.call_version_max(call).min(13);
        let (mut head, mut inserts) = (Vec::new(), Vec::new());
        assert!(self.produce.encode_call(call, version, "tester", &self.names, &mut head, &mut inserts));
        let mut bytes = Vec::new();
        let mut from = 0;
        for (at, piece) in &inserts {
            bytes.extend_from_slice(&head[from..*at as usize]);
            bytes.extend_from_slice(piece.bytes());
            from = *at as usize;
        }
        bytes.extend_from_slice(&head[from..]);
        let mut reader = Reader::new(&bytes[4..]);
        let (key, header) = crate::wire::frame::decode_request_header(&mut reader).expect("header");
        assert_eq!((key, header.request_api_version), (Some(crate::wire::ApiKey::Produce), version));
        assert_eq!(header.client_id.as_deref(), Some("tester"));
        let request = ProduceRequest::decode(version, &mut reader).expect("request");
        assert_eq!(reader.remaining(), 0);
        let sent = Sent { call, version, request };
        let mut seen: Vec<_> = sent.parts().iter().map(|part| part.index).collect();
        seen.dedup();
        assert_eq!(seen.len(), sent.parts().len(), "r14: at most one batch per partition and request");
        Some(sent)
    }

    /// Answers each partition as `each` says.
    pub fn answer_with(
        &mut self,
        sent: &Sent,
        mut each: impl FnMut(&mut Self, i32, &[u8]) -> PartitionProduceResponse,
    ) {
        self.answer_nodes(sent, vec![], &mut each);
    }

    pub fn answer_nodes(
        &mut self,
        sent: &Sent,
        node_endpoints: Vec<NodeEndpoint>,
        each: &mut dyn FnMut(&mut Self, i32, &[u8]) -> PartitionProduceResponse,
    ) {
        let mut responses = Vec::new();
        for topic in &sent.request.topic_data {
            let mut partition_responses = Vec::new();
            for part in &topic.partition_data {
                let bytes = part.records.clone().unwrap();
                partition_responses.push(each(self, part.index, &bytes));
            }
            responses.push(TopicProduceResponse {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partition_responses,
                ..Default::default()
            });
        }
        let answer = ProduceResponse { responses, node_endpoints, ..Default::default() };
        self.produce.on_answer(self.now, sent.call, &answer, &self.names, &mut self.out);
    }

    pub fn ok(index: i32, base_offset: i64) -> PartitionProduceResponse {
        PartitionProduceResponse { index, base_offset, log_append_time_ms: -1, ..Default::default() }
    }

    pub fn error(index: i32, code: ErrorCode) -> PartitionProduceResponse {
        PartitionProduceResponse {
            index,
            error_code: code.code(),
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            current_leader: LeaderIdAndEpoch { leader_id: -1, leader_epoch: -1, ..Default::default() },
            ..Default::default()
        }
    }

    /// The broker appends what its rules allow and answers.
    pub fn accept(&mut self, sent: &Sent) {
        self.answer_with(sent, |rig, index, bytes| match rig.logs.entry(index).or_default().append(bytes) {
            Ok(base) => Self::ok(index, base),
            Err(code) => Self::error(index, code),
        });
    }

    /// The broker appends, its answer is lost.
    pub fn swallow(&mut self, sent: &Sent) {
        for part in sent.parts() {
            let _ = self.logs.entry(part.index).or_default().append(&part.records.clone().unwrap());
        }
        self.produce.on_lost(self.now, sent.call, true, &mut self.out);
    }

    pub fn refuse(&mut self, sent: &Sent, code: ErrorCode) {
        self.answer_with(sent, |_, index, _| Self::error(index, code));
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.produce.on_deadline(self.now, &mut self.out);
    }

    /// Passes time until something can be sent to `broker`.
    pub fn call_later(&mut self, broker: BrokerId) -> Sent {
        for _ in 0..200 {
            if let Some(sent) = self.call(broker) {
                return sent;
            }
            self.pass(ms(10));
        }
        panic!("nothing to send within two seconds");
    }

    /// Accepts requests until nothing is left.
    pub fn run(&mut self, broker: BrokerId) {
        for _ in 0..200 {
            while let Some(sent) = self.call(broker) {
                self.accept(&sent);
            }
            self.pass(ms(10));
            if self.produce.is_idle() {
                return;
            }
        }
        panic!("did not finish: {:?}", self.produce.stats());
    }

    /// Outcomes of a partition by ticket, in the order they were told.
    pub fn outcomes(&self, partition: i32) -> Vec<(u64, Outcome)> {
        let runs = self.out.settled.iter().filter(|(tp, ..)| tp.partition == partition);
        runs.flat_map(|(_, run, outcome)| {
            (0..u64::from(run.count)).map(|i| match *outcome {
                Outcome::Delivered { offset, timestamp_ms } if offset >= 0 => {
                    (run.first + i, Outcome::Delivered { offset: offset + i as i64, timestamp_ms })
                }
                other => (run.first + i, other),
            })
        })
        .collect()
    }

    /// As [`Rig::outcomes`], by value: all records of a group must have ended alike, at consecutive offsets. Tells the
    /// group's number and the first record's outcome.
    pub fn ends(&self, partition: i32) -> Vec<(u64, Outcome)> {
        let outcomes = self.outcomes(partition);
        let mut ends = Vec::new();
        for group in outcomes.chunks(self.group as usize) {
            let (first, end) = group[0];
            assert_eq!(group.len(), self.group as usize, "a part of a group ended: {outcomes:?}");
            assert_eq!(first % u64::from(self.group), 0, "{outcomes:?}");
            for (i, (ticket, outcome)) in (0..).zip(group) {
                let expected = match end {
                    Outcome::Delivered { offset, timestamp_ms } if offset >= 0 => {
                        Outcome::Delivered { offset: offset + i, timestamp_ms }
                    }
                    other => other,
                };
                assert_eq!((*ticket, *outcome), (first + i as u64, expected), "{outcomes:?}");
            }
            ends.push((first / u64::from(self.group), end));
        }
        ends
    }

    /// The log, by value: see [`Rig::send`].
    pub fn log(&self, partition: i32) -> Vec<&str> {
        self.logs.get(&partition).map(|log| by_group(&log.records)).unwrap_or_default()
    }

    /// Everything ended once, in order, and the budget is whole.
    pub fn check_end(&self) {
        assert!(self.produce.is_idle());
        assert_eq!(self.out.released, self.charged, "budget");
        for partition in self.tickets.keys() {
            let tickets: Vec<u64> = self.outcomes(*partition).iter().map(|(ticket, _)| *ticket).collect();
            assert!(tickets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order, exactly once: {tickets:?}");
        }
    }
}

pub fn delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { .. })
}
