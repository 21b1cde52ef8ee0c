//! A bare client for the embedded broker's tests: frames over a socket, one call at a time, nothing clever.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use ottla::base::ids::Uuid;
use ottla::testkit::broker::Broker;
use ottla::wire::frame::encode_request;
use ottla::wire::messages::fetch::request::{FetchPartition, FetchTopic};
use ottla::wire::messages::fetch::response::PartitionData;
use ottla::wire::messages::produce::request::{PartitionProduceData, TopicProduceData};
use ottla::wire::messages::produce::response::PartitionProduceResponse;
use ottla::wire::messages::*;
use ottla::wire::{Message, Reader, Request};

/// Long enough for a loaded machine; nothing here waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    correlation_id: i32,
}

/// What came instead of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// The broker closed the connection.
    Closed,
    /// A frame that is cut short, or not an answer to the request.
    Broken(String),
}

impl Client {
    pub fn to(broker: &Broker, node: i32) -> Self {
        Self::at(broker.address(node).unwrap())
    }

    pub fn at(address: impl std::net::ToSocketAddrs) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, correlation_id: 0 }
    }

    /// Sends a request and returns its correlation id.
    pub fn send<Q: Request>(&mut self, version: i16, request: &Q) -> i32 {
        self.correlation_id += 1;
        let mut frame = Vec::new();
        encode_request(version, self.correlation_id, Some("test"), request, &mut frame).unwrap();
        self.stream.write_all(&frame).unwrap();
        self.correlation_id
    }

    /// The next frame without its prefix.
    pub fn frame(&mut self) -> Result<Bytes, Lost> {
        let mut prefix = [0; 4];
        if self.stream.read_exact(&mut prefix).is_err() {
            return Err(Lost::Closed);
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(prefix)).unwrap()];
        self.stream.read_exact(&mut frame).map_err(|error| Lost::Broken(error.to_string()))?;
        Ok(Bytes::from(frame))
    }

    /// The answer to the request sent last of type `Q`.
    pub fn receive<Q: Request>(&mut self, version: i16) -> Result<Q::Response, Lost> {
        let frame = self.frame()?;
        let mut body = Reader::shared(&frame);
        let header = ResponseHeader::decode(Q::KEY.response_header_version(version), &mut body).unwrap();
        if header.correlation_id != self.correlation_id {
            return Err(Lost::Broken(format!("correlation id {}", header.correlation_id)));
        }
        let answer = Q::Response::decode(version, &mut body).unwrap();
        body.finish().unwrap();
        Ok(answer)
    }

    pub fn try_call<Q: Request>(&mut self, version: i16, request: &Q) -> Result<Q::Response, Lost> {
        self.send(version, request);
        self.receive::<Q>(version)
    }

    pub fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.try_call(version, request).unwrap()
    }

    /// Produces one batch to `topic`-`partition` by name (version 12).
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Vec<u8>) -> PartitionProduceResponse {
        let mut answer = self.call(12, &produce(topic, partition, -1, batch));
        answer.responses.remove(0).partition_responses.remove(0)
    }

    /// Fetches one partition without session or waiting, by name (version 12).
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let mut answer = self.call(12, &fetch(topic, &[(partition, offset)], 0));
        answer.responses.remove(0).partitions.remove(0)
    }
}

/// A Produce request by name with one batch.
pub fn produce(topic: &str, partition: i32, acks: i16, batch: Vec<u8>) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData {
                index: partition,
                records: Some(batch.into()),
                ..PartitionProduceData::default()
            }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

/// A sessionless Fetch by name of (partition, offset) pairs, at least one byte, at most 1 MiB each.
pub fn fetch(topic: &str, wants: &[(i32, i64)], max_wait_ms: i32) -> FetchRequest {
    let partition = |(partition, offset): &(i32, i64)| FetchPartition {
        partition: *partition,
        fetch_offset: *offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 8 << 20,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: wants.iter().map(partition).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// The id of a topic.
pub fn topic_id(broker: &Broker, topic: &str) -> Uuid {
    broker.with(|core| core.cluster.topics[topic].id)
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// An uncompressed batch made by hand: null keys, values `v0`, `v1`, ..., timestamps `base`, `base + 1`, ...
#[derive(Clone, Copy)]
pub struct Batch {
    pub count: i32,
    pub value_bytes: usize,
    pub base_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
}

impl Batch {
    pub fn of(count: i32) -> Self {
        Self { count, value_bytes: 10, base_timestamp: 1_000, producer_id: -1, producer_epoch: -1, base_sequence: -1 }
    }

    pub fn sequenced(self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        Self { producer_id, producer_epoch, base_sequence, ..self }
    }

    pub fn values_of(self, value_bytes: usize) -> Self {
        Self { value_bytes, ..self }
    }

    pub fn from(self, base_timestamp: i64) -> Self {
        Self { base_timestamp, ..self }
    }

    pub fn bytes(self) -> Vec<u8> {
        let mut records = Vec::new();
        for index in 0..self.count {
            let mut body = vec![0];
            varint(&mut body, index.into());
            varint(&mut body, index.into());
            varint(&mut body, -1);
            varint(&mut body, self.value_bytes as i64);
            let start = body.len();
            body.extend_from_slice(format!("v{index}").as_bytes());
            body.resize(start + self.value_bytes, b'.');
            varint(&mut body, 0);
            varint(&mut records, body.len() as i64);
            records.extend_from_slice(&body);
        }
        let mut batch = Vec::new();
        batch.extend_from_slice(&0i64.to_be_bytes());
        batch.extend_from_slice(&((49 + records.len()) as i32).to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.push(2);
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&0i16.to_be_bytes());
        batch.extend_from_slice(&(self.count - 1).to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp.to_be_bytes());
        batch.extend_from_slice(&(self.base_timestamp + i64::from(self.count) - 1).to_be_bytes());
        batch.extend_from_slice(&self.producer_id.to_be_bytes());
        batch.extend_from_slice(&self.producer_epoch.to_be_bytes());
        batch.extend_from_slice(&self.base_sequence.to_be_bytes());
        batch.extend_from_slice(&self.count.to_be_bytes());
        batch.extend_from_slice(&records);
        seal(&mut batch);
        batch
    }
}

/// Makes a batch's CRC right after a change.
pub fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Base offsets of the batches in `records`, and the bytes behind the last whole one.
pub fn batches_in(records: &[u8]) -> (Vec<i64>, usize) {
    let (mut rest, mut offsets) = (records, Vec::new());
    while rest.len() >= 12 {
        let size = 12 + i32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        if size > rest.len() {
            break;
        }
        offsets.push(i64::from_be_bytes(rest[..8].try_into().unwrap()));
        rest = &rest[size..];
    }
    (offsets, rest.len())
}
