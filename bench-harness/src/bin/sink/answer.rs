//! What the sink says: a request is read as far as it must be, and answered. No sockets, no threads.
//!
//! Few versions of few requests, none with tagged fields but ApiVersions; the layouts are Kafka's protocol guide's. Clients
//! take the greatest. librdkafka asks for more than it uses: without Produce 3 and Fetch 4 it sends legacy messages, without
//! FindCoordinator 0 nothing that is compressed with lz4.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes before the records of a batch: all that is read of it.
pub const BATCH_HEADER_BYTES: usize = 61;
/// What is sent to this topic is kept, to be replayed by topics `canned-N`, which seem to hold N records.
pub const KEPT: &str = "canned";

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const API_VERSIONS: i16 = 18;
const INIT_PRODUCER_ID: i16 = 22;
/// Key, least and greatest version.
const SPOKEN: [(i16, i16, i16); 7] = [
    (PRODUCE, 3, 7),
    (FETCH, 4, 11),
    (LIST_OFFSETS, 1, 5),
    (METADATA, 4, 7),
    (FIND_COORDINATOR, 0, 0),
    (API_VERSIONS, 0, 4),
    (INIT_PRODUCER_ID, 0, 1),
];
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const UNSUPPORTED_VERSION: i16 = 35;

/// A request's bytes, in order.
pub trait Input {
    /// The next bytes.
    fn take(&mut self, len: usize) -> io::Result<&[u8]>;
    /// Goes past bytes that nobody looks at.
    fn skip(&mut self, len: usize) -> io::Result<()>;
}

/// A batch as it was sent.
#[derive(Debug)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// Offset of its first record in the segment.
    start: i64,
}

/// What is known of topics, for all connections.
#[derive(Debug, Default)]
pub struct Book {
    /// Host and port that clients are told.
    address: (String, u16),
    /// Partitions of every topic but `canned-N`, which have one.
    partitions: i32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Records sent to a partition.
    ends: BTreeMap<(String, i32), i64>,
    segment: Vec<Arc<Batch>>,
    /// Records in it.
    records: i64,
    producers: i64,
}

/// An answer without the four bytes of its length: `head`, then these batches at these offsets.
#[derive(Debug, Default)]
pub struct Answer {
    pub head: Vec<u8>,
    pub batches: Vec<(i64, Arc<Batch>)>,
    /// For so long nothing is said: there is nothing to read. In milliseconds.
    pub wait_ms: u64,
}

impl Answer {
    /// Bytes of all of it.
    pub fn len(&self) -> usize {
        self.head.len() + self.batches.iter().map(|(_, batch)| batch.bytes.len()).sum::<usize>()
    }

    fn i16(&mut self, n: i16) {
        self.head.extend_from_slice(&n.to_be_bytes());
    }

    fn i32(&mut self, n: i32) {
        self.head.extend_from_slice(&n.to_be_bytes());
    }

    fn i64(&mut self, n: i64) {
        self.head.extend_from_slice(&n.to_be_bytes());
    }

    fn i16s(&mut self, all: &[i16]) {
        all.iter().for_each(|n| self.i16(*n));
    }

    fn i32s(&mut self, all: &[i32]) {
        all.iter().for_each(|n| self.i32(*n));
    }

    fn string(&mut self, text: &str) {
        self.i16(text.len() as i16);
        self.head.extend_from_slice(text.as_bytes());
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads fields and knows how much of the frame is left.
struct Fields<'a, I> {
    input: &'a mut I,
    left: usize,
}

impl<I: Input> Fields<'_, I> {
    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        self.left = self.left.checked_sub(len).ok_or_else(|| strange("a field reaches beyond its frame"))?;
        self.input.take(len)
    }

    fn skip(&mut self, len: usize) -> io::Result<()> {
        self.left = self.left.checked_sub(len).ok_or_else(|| strange("a field reaches beyond its frame"))?;
        self.input.skip(len)
    }

    fn fixed<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| strange("short"))
    }

    fn i16(&mut self) -> io::Result<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> io::Result<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> io::Result<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// Null is empty.
    fn string(&mut self) -> io::Result<String> {
        let len = usize::try_from(self.i16()?).unwrap_or(0);
        self.take(len).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Reads the next request whole and says what to answer; `None` where no answer is wanted.
pub fn serve(input: &mut impl Input, book: &Book) -> io::Result<Option<Answer>> {
    let left = i32::from_be_bytes(input.take(4)?.try_into().map_err(|_| strange("short"))?);
    let mut fields = Fields { input, left: usize::try_from(left).map_err(|_| strange("a negative length"))? };
    let (key, version) = (fields.i16()?, fields.i16()?);
    let mut answer = Answer::default();
    let correlation = fields.i32()?;
    answer.i32(correlation);
    fields.string()?; // who it is
    let spoken = SPOKEN.iter().any(|&(known, least, greatest)| known == key && (least..=greatest).contains(&version));
    let wanted = match key {
        API_VERSIONS => api_versions(if spoken { version } else { 0 }, spoken, &mut answer),
        _ if !spoken => return Err(strange(&format!("request {key} in version {version}"))),
        PRODUCE => produce(&mut fields, version, book, &mut answer)?,
        FETCH => fetch(&mut fields, version, book, &mut answer)?,
        LIST_OFFSETS => list_offsets(&mut fields, version, book, &mut answer)?,
        METADATA => metadata(&mut fields, version, book, &mut answer)?,
        FIND_COORDINATOR => {
            answer.i16(COORDINATOR_NOT_AVAILABLE);
            answer.i32(-1);
            answer.string("");
            answer.i32(-1);
            true
        }
        _ => init_producer_id(book, &mut answer),
    };
    let left = fields.left;
    fields.skip(left)?;
    Ok(wanted.then_some(answer))
}

/// Versions from 3 on have counts as varints and tagged fields; all small here.
fn api_versions(version: i16, spoken: bool, answer: &mut Answer) -> bool {
    answer.i16(if spoken { 0 } else { UNSUPPORTED_VERSION });
    match version {
        3.. => answer.head.push(SPOKEN.len() as u8 + 1),
        _ => answer.i32(SPOKEN.len() as i32),
    }
    for (key, least, greatest) in SPOKEN {
        answer.i16s(&[key, least, greatest]);
        if version >= 3 {
            answer.head.push(0);
        }
    }
    if version >= 1 {
        answer.i32(0); // throttled
    }
    if version >= 3 {
        answer.head.push(0);
    }
    true
}

fn produce(fields: &mut Fields<'_, impl Input>, version: i16, book: &Book, answer: &mut Answer) -> io::Result<bool> {
    fields.string()?; // transactional id
    let acks = fields.i16()?;
    fields.i32()?; // timeout
    let topics = fields.i32()?;
    answer.i32(topics);
    for _ in 0..topics {
        let topic = fields.string()?;
        answer.string(&topic);
        let partitions = fields.i32()?;
        answer.i32(partitions);
        for _ in 0..partitions {
            let (partition, bytes) = (fields.i32()?, fields.i32()?);
            let rest = usize::try_from(bytes).ok().and_then(|bytes| bytes.checked_sub(BATCH_HEADER_BYTES));
            let rest = rest.ok_or_else(|| strange("no batch"))?;
            let header: [u8; BATCH_HEADER_BYTES] = fields.fixed()?;
            let count = i64::from(records_of(&header));
            let at = if topic == KEPT {
                let batch = [&header, fields.take(rest)?].concat();
                book.keep(batch, count)
            } else {
                fields.skip(rest)?;
                book.count(&topic, partition, count)
            };
            answer.i32(partition);
            answer.i16(0);
            answer.i64(at);
            answer.i64(-1); // time of appending: the records' own
            if version >= 5 {
                answer.i64(0); // the log's start
            }
        }
    }
    answer.i32(0);
    Ok(acks != 0)
}

/// The number of records, which a batch's header ends with.
fn records_of(header: &[u8; BATCH_HEADER_BYTES]) -> i32 {
    header.last_chunk().map_or(0, |count| i32::from_be_bytes(*count))
}

/// Answers for the first partition only, so that the batches are the answer's end.
fn fetch(fields: &mut Fields<'_, impl Input>, version: i16, book: &Book, answer: &mut Answer) -> io::Result<bool> {
    fields.i32()?; // replica
    let wait_ms = fields.i32()?;
    fields.i32()?; // bytes, at least
    let all_max = fields.i32()?;
    fields.take(1)?; // isolation
    answer.i32(0); // throttled
    if version >= 7 {
        fields.take(8)?; // session
        answer.i16(0);
        answer.i32(0); // none
    }
    if fields.i32()? < 1 {
        answer.i32(0);
        answer.wait_ms = u64::try_from(wait_ms).unwrap_or(0);
        return Ok(true);
    }
    let topic = fields.string()?;
    if fields.i32()? < 1 {
        return Err(strange("a topic without partitions"));
    }
    let partition = fields.i32()?;
    if version >= 9 {
        fields.i32()?; // leader epoch
    }
    let offset = fields.i64()?;
    if version >= 5 {
        fields.i64()?; // the log's start
    }
    let max = fields.i32()?.min(all_max);
    let end = book.end(&topic, partition);
    answer.i32(1);
    answer.string(&topic);
    answer.i32s(&[1, partition]);
    answer.i16(0);
    answer.i64(end);
    answer.i64(end);
    if version >= 5 {
        answer.i64(0);
    }
    answer.i32(-1); // nothing was aborted
    if version >= 11 {
        answer.i32(-1); // no better replica
    }
    if canned(&topic).is_some() {
        book.replay(offset, end, usize::try_from(max).unwrap_or(0), &mut answer.batches);
    }
    if answer.batches.is_empty() {
        answer.wait_ms = u64::try_from(wait_ms).unwrap_or(0);
    }
    let bytes: usize = answer.batches.iter().map(|(_, batch)| batch.bytes.len()).sum();
    answer.i32(i32::try_from(bytes).unwrap_or(0));
    Ok(true)
}

fn list_offsets(
    fields: &mut Fields<'_, impl Input>,
    version: i16,
    book: &Book,
    answer: &mut Answer,
) -> io::Result<bool> {
    fields.take(if version >= 2 { 5 } else { 4 })?; // replica, isolation
    if version >= 2 {
        answer.i32(0);
    }
    let topics = fields.i32()?;
    answer.i32(topics);
    for _ in 0..topics {
        let topic = fields.string()?;
        answer.string(&topic);
        let partitions = fields.i32()?;
        answer.i32(partitions);
        for _ in 0..partitions {
            let partition = fields.i32()?;
            if version >= 4 {
                fields.i32()?; // leader epoch
            }
            let earliest = fields.i64()? == -2;
            answer.i32(partition);
            answer.i16(0);
            answer.i64(-1);
            answer.i64(if earliest { 0 } else { book.end(&topic, partition) });
            if version >= 4 {
                answer.i32(0);
            }
        }
    }
    Ok(true)
}

fn metadata(fields: &mut Fields<'_, impl Input>, version: i16, book: &Book, answer: &mut Answer) -> io::Result<bool> {
    answer.i32(0);
    answer.i32(1);
    answer.i32(1); // node 1
    answer.string(&book.address.0);
    answer.i32(i32::from(book.address.1));
    answer.i16(-1); // rack
    answer.string("sink");
    answer.i32(1); // controller
    let topics = fields.i32()?.max(0);
    answer.i32(topics);
    for _ in 0..topics {
        let topic = fields.string()?;
        answer.i16(0);
        answer.string(&topic);
        answer.head.push(0); // not internal
        let partitions = if canned(&topic).is_some() || topic == KEPT { 1 } else { book.partitions };
        answer.i32(partitions);
        for partition in 0..partitions {
            answer.i16(0);
            // Leader 1, in epoch 0; the only replica, in sync; none offline.
            answer.i32s(&[partition, 1]);
            answer.i32s(&[0][..usize::from(version >= 7)]);
            answer.i32s(&[1, 1, 1, 1]);
            answer.i32s(&[0][..usize::from(version >= 5)]);
        }
    }
    Ok(true)
}

fn init_producer_id(book: &Book, answer: &mut Answer) -> bool {
    let mut state = book.lock();
    state.producers += 1;
    answer.i32(0);
    answer.i16(0);
    answer.i64(state.producers);
    answer.i16(0);
    true
}

/// N of `canned-N`.
fn canned(topic: &str) -> Option<i64> {
    topic.strip_prefix(KEPT)?.strip_prefix('-')?.parse().ok()
}

impl Book {
    /// Where it is, and how many partitions each topic has.
    pub fn new(host: &str, port: u16, partitions: i32) -> Self {
        Self { address: (host.to_owned(), port), partitions, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, topic: &str, partition: i32, count: i64) -> i64 {
        let mut state = self.lock();
        let end = state.ends.entry((topic.to_owned(), partition)).or_default();
        *end += count;
        *end - count
    }

    fn keep(&self, bytes: Vec<u8>, count: i64) -> i64 {
        let mut state = self.lock();
        let start = state.records;
        state.segment.push(Arc::new(Batch { bytes, start }));
        state.records += count;
        start
    }

    fn end(&self, topic: &str, partition: i32) -> i64 {
        let state = self.lock();
        match canned(topic) {
            Some(end) => end,
            None if topic == KEPT => state.records,
            None => state.ends.get(&(topic.to_owned(), partition)).copied().unwrap_or(0),
        }
    }

    /// Batches from the one that holds `offset` on, the segment again and again: at least one, and no more than `max`
    /// bytes of them.
    fn replay(&self, offset: i64, end: i64, max: usize, into: &mut Vec<(i64, Arc<Batch>)>) {
        let state = self.lock();
        if state.records == 0 || offset < 0 {
            return;
        }
        let mut round = offset / state.records;
        let mut place = state.segment.partition_point(|batch| batch.start <= offset % state.records) - 1;
        let mut bytes = 0;
        while let Some(batch) = state.segment.get(place) {
            let base = round * state.records + batch.start;
            bytes += batch.bytes.len();
            if base >= end || offset >= end || (bytes > max && !into.is_empty()) {
                return;
            }
            into.push((base, Arc::clone(batch)));
            place += 1;
            if place == state.segment.len() {
                (place, round) = (0, round + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in memory; what was gone past is counted.
    struct Memory<'a>(&'a [u8], usize);

    impl Input for Memory<'_> {
        fn take(&mut self, len: usize) -> io::Result<&[u8]> {
            let (taken, rest) = self.0.split_at_checked(len).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.0 = rest;
            Ok(taken)
        }

        fn skip(&mut self, len: usize) -> io::Result<()> {
            self.1 += len;
            self.take(len).map(drop)
        }
    }

    fn batch(records: i32, body: usize) -> Vec<u8> {
        let mut batch = vec![7; BATCH_HEADER_BYTES - 4];
        batch.extend_from_slice(&records.to_be_bytes());
        batch.resize(BATCH_HEADER_BYTES + body, 9);
        batch
    }

    fn request(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
        let mut head = Answer::default();
        head.i16s(&[key, version, 0, 42]);
        head.string("me");
        [&(head.head.len() as i32 + body.len() as i32).to_be_bytes()[..], &head.head, body].concat()
    }

    fn produce_request(topic: &str, batch: &[u8]) -> Vec<u8> {
        let mut body = Answer::default();
        body.i16s(&[-1, -1]);
        body.i32s(&[1_000, 1]);
        body.string(topic);
        body.i32s(&[1, 3, batch.len() as i32]);
        request(PRODUCE, 7, &[&body.head, batch].concat())
    }

    fn fetch_request(topic: &str, offset: i64, max: i32) -> Vec<u8> {
        let mut body = Answer::default();
        body.i32s(&[-1, 500, 1, 1 << 20]);
        body.head.extend_from_slice(&[0; 9]);
        body.i32(1);
        body.string(topic);
        body.i32s(&[1, 0, -1]);
        body.i64(offset);
        body.i64(0);
        body.i32(max);
        body.i32(0); // nothing forgotten
        body.string("");
        request(FETCH, 11, &body.head)
    }

    fn answered(bytes: &[u8], book: &Book) -> Answer {
        let mut input = Memory(bytes, 0);
        let answer = serve(&mut input, book).unwrap().unwrap();
        assert!(input.0.is_empty(), "{} bytes were not read", input.0.len());
        assert_eq!(answer.head[..4], 42i32.to_be_bytes());
        answer
    }

    #[test]
    fn of_a_batch_sixty_one_bytes_are_read_and_its_records_counted() {
        let book = Book::new("h", 9092, 4);
        let bytes = produce_request("t", &batch(5, 1_000));
        let mut input = Memory(&bytes, 0);
        serve(&mut input, &book).unwrap();
        assert_eq!((input.1, book.end("t", 3), book.end("t", 2)), (1_000, 5, 0));
        let second = answered(&bytes, &book);
        // correlation, one topic "t", one partition 3, no error, and the offset behind the first batch.
        assert_eq!(second.head[4..][4 + 3 + 4 + 4 + 2..][..8], 5i64.to_be_bytes());
    }

    #[test]
    fn what_was_kept_comes_again_and_again_at_its_offset_and_ends_where_it_must() {
        let book = Book::new("h", 9092, 1);
        for (records, body) in [(3, 10), (2, 20)] {
            answered(&produce_request(KEPT, &batch(records, body)), &book);
        }
        let at = |offset, max| {
            let answer = answered(&fetch_request("canned-15", offset, max), &book);
            let sizes = answer.batches.iter().map(|(base, batch)| (*base, batch.bytes.len() - BATCH_HEADER_BYTES));
            assert_eq!(answer.wait_ms > 0, answer.batches.is_empty());
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(at(0, 1), [(0, 10)]);
        assert_eq!(at(4, 1), [(3, 20)]);
        assert_eq!(at(7, 1 << 20), [(5, 10), (8, 20), (10, 10), (13, 20)]);
        assert_eq!(at(15, 1 << 20), []);
        assert_eq!(book.end("canned-15", 0), 15);
    }

    #[test]
    fn requests_it_does_not_speak_end_the_connection_and_versions_are_told() {
        let book = Book::default();
        for bytes in
            [request(PRODUCE, 13, &[]), request(11, 0, &[]), request(FETCH, 3, &[]), produce_request("t", &[0; 60])]
        {
            assert!(serve(&mut Memory(&bytes, 0), &book).is_err());
        }
        let mut lying = request(METADATA, 7, &1i32.to_be_bytes());
        assert!(serve(&mut Memory(&lying, 0), &book).is_err());
        lying[0] = 0x80;
        assert!(serve(&mut Memory(&lying, 0), &book).is_err());
        for (version, error, bytes) in [(0, 0, 4 + 2 + 4 + 42), (4, 0, 4 + 2 + 1 + 49 + 4 + 1), (9, 35, 52)] {
            let answer = answered(&request(API_VERSIONS, version, &[]), &book);
            assert_eq!((answer.head[5], answer.len()), (error, bytes), "version {version}");
        }
    }

    #[test]
    fn offsets_and_leaders_are_told() {
        let book = Book::new("h", 9092, 2);
        answered(&produce_request("t", &batch(5, 0)), &book);
        let ask = |version, at: i64| {
            let mut body = Answer::default();
            body.i32(-1);
            body.head.extend_from_slice(&[0; 1][..usize::from(version >= 2)]);
            body.i32(1);
            body.string("t");
            body.i32s(&[1, 3]);
            if version >= 4 {
                body.i32(-1);
            }
            body.i64(at);
            answered(&request(LIST_OFFSETS, version, &body.head), &book).head
        };
        assert!(ask(1, -1).ends_with(&5i64.to_be_bytes()) && ask(2, -2).ends_with(&0i64.to_be_bytes()));
        assert!(ask(5, -1).ends_with(&[5i64.to_be_bytes().as_slice(), &[0; 4]].concat()));
        let mut body = Answer::default();
        body.i32(1);
        body.string("t");
        body.head.push(0);
        for (version, partition) in [(4, 26), (5, 30), (7, 34)] {
            let told = answered(&request(METADATA, version, &body.head), &book).head;
            assert_eq!(told.len(), 4 + 4 + 4 + (4 + 3 + 4 + 2) + 6 + 4 + 4 + (2 + 3 + 1 + 4) + 2 * partition);
        }
        assert!(answered(&request(INIT_PRODUCER_ID, 1, &[255, 255, 0, 0, 0, 0]), &book).head.len() == 20);
    }
}
