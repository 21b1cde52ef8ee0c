//! What the bare loops send, made before the clock starts, and how much of an answer must be understood. Written by hand
//! from Kafka's protocol guide, in the versions that Ottla speaks to Kafka 4: Metadata 12, InitProducerId 4, Produce 13,
//! Fetch 13 (the first of Fetch by topic id; later ones differ in tags only).

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};

use crate::workload::{Content, Workload};

pub const BATCH_HEADER_BYTES: usize = 61;
/// In an answer to Produce: behind correlation id, tags, one topic's id, one partition's number.
pub const PRODUCE_ERROR_AT: usize = 4 + 1 + 1 + 16 + 1 + 4;
/// In an answer to Fetch, behind its length: where the list of aborted transactions begins.
const ABORTED_AT: usize = 4 + 1 + 4 + 2 + 4 + 1 + 16 + 1 + 4 + 2 + 8 + 8 + 8;
const FETCH_BYTES_MAX: u32 = 8 << 20;
/// What Ottla's fetches grow to.
const PARTITION_BYTES_MAX: u32 = 4 << 20;

/// A producer as the broker knows it: id and epoch; `None` without idempotence.
pub type ProducerId = Option<(u64, u16)>;
/// A topic's id.
pub type TopicId = [u8; 16];

/// What passed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub records: u64,
    pub batches: u64,
    pub requests: u64,
    /// Of batches, with their headers.
    pub wire_bytes: u64,
}

/// A Produce request of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub records: u64,
    /// Where its batch is.
    pub batch: Range<usize>,
    /// Where in the batch each record's value is.
    pub values: Vec<usize>,
}

impl Passed {
    /// One more frame.
    pub fn add(&mut self, frame: &Frame) {
        self.requests += 1;
        self.batches += 1;
        self.records += frame.records;
        self.wire_bytes += frame.batch.len() as u64;
    }
}

/// An answer that makes no sense.
pub fn strange(what: &str, found: impl std::fmt::Debug) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {found:?}"))
}

fn varint(out: &mut Vec<u8>, n: usize) {
    let mut rest = n;
    while rest > 127 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Lengths and deltas are never negative here, so zigzag is twice the number.
fn zigzag(out: &mut Vec<u8>, n: usize) {
    varint(out, 2 * n);
}

/// A request: length, key, version, correlation id 0, client id, no tags, then what `body` writes.
fn request(key: u16, version: u16, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend([key, version, 0, 0, 4].map(u16::to_be_bytes).as_flattened());
    out.extend(b"bare\0");
    body(&mut out);
    let len = out.len() as u32 - 4;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

/// Asks and reads the whole answer, from behind the header's tags on.
fn ask(mut socket: &TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    socket.write_all(request)?;
    let mut len = [0; 4];
    socket.read_exact(&mut len)?;
    let mut answer = vec![0; u32::from_be_bytes(len) as usize];
    socket.read_exact(&mut answer)?;
    Ok(answer.split_off(5.min(answer.len())))
}

/// Goes through an answer's fields.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(field)
    }

    fn fixed<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| strange("short", N))
    }

    fn varint(&mut self) -> io::Result<usize> {
        let (mut n, mut shift) = (0, 0);
        loop {
            let [byte] = self.fixed()?;
            n |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 || shift > 28 {
                return Ok(n);
            }
        }
    }

    /// Compact: its length and one more comes first, 0 for null.
    fn string(&mut self) -> io::Result<&'a [u8]> {
        let len = self.varint()?;
        self.take(len.saturating_sub(1))
    }
}

/// The id of a topic, which must be there.
pub fn topic_id(socket: &TcpStream, topic: &str) -> io::Result<TopicId> {
    let metadata = request(3, 12, |out| {
        out.push(2); // one topic
        out.extend([0; 16]);
        varint(out, topic.len() + 1);
        out.extend(topic.as_bytes());
        out.extend([0, 0, 0, 0]); // no tags; not created; no operations; no tags
    });
    let answer = ask(socket, &metadata)?;
    let mut fields = Fields(&answer);
    fields.take(4)?; // throttled
    for _ in 1..fields.varint()? {
        fields.take(4)?; // node
        fields.string()?;
        fields.take(4)?; // port
        fields.string()?;
        fields.take(1)?;
    }
    fields.string()?; // cluster
    fields.take(4 + 1)?; // controller; the one topic
    let error: [u8; 2] = fields.fixed()?;
    if error != [0, 0] {
        return Err(strange("no such topic", u16::from_be_bytes(error)));
    }
    fields.string()?;
    fields.fixed()
}

/// An id and epoch, for idempotence.
pub fn producer_id(socket: &TcpStream) -> io::Result<ProducerId> {
    let init = request(22, 4, |out| {
        out.push(0); // no transactions
        out.extend(60_000u32.to_be_bytes());
        out.extend([255; 10]); // none yet
        out.push(0);
    });
    let answer = ask(socket, &init)?;
    let mut fields = Fields(&answer);
    fields.take(4)?;
    let error: [u8; 2] = fields.fixed()?;
    if error != [0, 0] {
        return Err(strange("no producer id", u16::from_be_bytes(error)));
    }
    Ok(Some((u64::from_be_bytes(fields.fixed()?), u16::from_be_bytes(fields.fixed()?))))
}

/// A Produce request of one batch of records `first..first + records`, uncompressed.
pub fn produce_frame(
    topic: &TopicId,
    producer: ProducerId,
    workload: Workload,
    first: u64,
    records: u64,
    now_ms: u64,
) -> Frame {
    let (batch, values) = batch(producer, workload, first, records, now_ms);
    let bytes = request(0, 13, |out| {
        out.push(0); // no transactions
        out.extend([255, 255]); // acks=all
        out.extend(30_000u32.to_be_bytes());
        out.push(2); // one topic
        out.extend(topic);
        out.extend([2, 0, 0, 0, 0]); // one partition: 0
        varint(out, batch.len() + 1);
        out.extend(&batch);
        out.extend([0, 0, 0]);
    });
    // Three bytes of no tags are behind it.
    let end = bytes.len() - 3;
    Frame { bytes, records, batch: end - batch.len()..end, values }
}

fn batch(producer: ProducerId, workload: Workload, first: u64, records: u64, now_ms: u64) -> (Vec<u8>, Vec<usize>) {
    let mut values = Vec::new();
    let mut out = vec![0; BATCH_HEADER_BYTES];
    let (mut content, mut record) = (Content::default(), Vec::new());
    for at in 0..records {
        content.make(workload, first + at);
        record.clear();
        record.extend([0, 0]); // no attributes, no time since the first
        zigzag(&mut record, at as usize);
        if content.key.is_empty() {
            record.push(1); // -1: null
        } else {
            zigzag(&mut record, content.key.len());
            record.extend(&content.key);
        }
        zigzag(&mut record, content.value.len());
        let value_at = record.len();
        record.extend(&content.value);
        zigzag(&mut record, content.headers().count());
        for field in content.headers().flat_map(|(name, value)| [name, value]) {
            zigzag(&mut record, field.len());
            record.extend(field);
        }
        zigzag(&mut out, record.len());
        values.push(out.len() + value_at);
        out.extend(&record);
    }
    let len = (out.len() - 12) as u32;
    out[8..12].copy_from_slice(&len.to_be_bytes());
    out[12..16].fill(255); // leader epoch: not known
    out[16] = 2;
    out[23..27].copy_from_slice(&(records as u32 - 1).to_be_bytes());
    out[27..35].copy_from_slice(&now_ms.to_be_bytes());
    out[35..43].copy_from_slice(&now_ms.to_be_bytes());
    out[43..57].fill(255);
    if let Some((id, epoch)) = producer {
        out[43..51].copy_from_slice(&id.to_be_bytes());
        out[51..53].copy_from_slice(&epoch.to_be_bytes());
        out[53..57].copy_from_slice(&(first as u32 & 0x7fff_ffff).to_be_bytes());
    }
    out[57..61].copy_from_slice(&(records as u32).to_be_bytes());
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &out[21..]) as u32;
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    (out, values)
}

/// How many records of a fixed size a batch of `bytes` has room for, with lengths and deltas of up to three bytes.
pub fn records_of(bytes: u64, record: u64) -> u64 {
    ((bytes - BATCH_HEADER_BYTES as u64) / (record + 10)).max(1)
}

/// A Fetch of one partition, from an offset on that changes.
#[derive(Debug)]
pub struct FetchRequest {
    pub next_offset: u64,
    bytes: Vec<u8>,
    offset_at: usize,
}

impl FetchRequest {
    /// From the partition's begin.
    pub fn new(topic: &TopicId) -> Self {
        let mut offset_at = 0;
        let bytes = request(1, 13, |out| {
            out.extend([255; 4]); // no replica
            out.extend([500, 1, FETCH_BYTES_MAX].map(u32::to_be_bytes).as_flattened());
            out.extend([0, 0, 0, 0, 0, 255, 255, 255, 255, 2]); // uncommitted too; no session; one topic
            out.extend(topic);
            out.extend([2, 0, 0, 0, 0, 255, 255, 255, 255]); // one partition: 0; leader epoch not known
            offset_at = out.len();
            out.extend([0; 8]);
            out.extend([255; 4 + 8]); // no epoch fetched before, no log of our own
            out.extend(PARTITION_BYTES_MAX.to_be_bytes());
            out.extend([0, 0, 1, 1, 0]); // no tags; nothing forgotten; no rack; no tags
        });
        Self { next_offset: 0, bytes, offset_at }
    }

    /// For the offset of now.
    pub fn bytes(&mut self) -> &[u8] {
        self.bytes[self.offset_at..self.offset_at + 8].copy_from_slice(&self.next_offset.to_be_bytes());
        &self.bytes
    }

    /// Reads an answer up to its records: how many bytes of them come now, and how many of anything else come then.
    pub fn records_of(&self, reader: &mut BufReader<&TcpStream>) -> io::Result<(usize, usize)> {
        let mut head = [0; 4 + ABORTED_AT];
        reader.read_exact(&mut head)?;
        let frame = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        // Errors of the answer and of the partition.
        for at in [4 + 9, ABORTED_AT + 4 - 26] {
            if head[at..at + 2] != [0, 0] {
                return Err(strange("Fetch refused", &head[at..at + 2]));
            }
        }
        let mut one = || {
            let mut byte = [0];
            reader.read_exact(&mut byte).map(|()| byte[0])
        };
        let aborted = one()?;
        if aborted > 1 {
            return Err(strange("aborted transactions", aborted));
        }
        for _ in 0..4 {
            one()?; // the preferred replica
        }
        let (mut len, mut bytes, mut shift) = (0, 0, 0);
        loop {
            let byte = one()?;
            len |= usize::from(byte & 127) << shift;
            (bytes, shift) = (bytes + 1, shift + 7);
            if byte & 128 == 0 || shift > 28 {
                break;
            }
        }
        let records = len.saturating_sub(1);
        let behind = frame.checked_sub(ABORTED_AT + 1 + 4 + bytes + records);
        Ok((records, behind.ok_or_else(|| strange("lengths", (frame, records)))?))
    }
}
