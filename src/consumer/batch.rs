//! What users hold: a batch, its records, and records that outlive it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::progress::BatchMark;
use crate::base::ids::Tp;
use crate::batch::{BadRecord, Cut, HeaderView, Headers, RecordView, Records, RecordsHead, TimestampType, Unpacked};
use crate::mesh::FetchMemory;

/// Decompression buffers kept by a consumer for its next batches.
const SPARES_MAX: usize = 2;
/// A buffer that grew beyond this goes back to the allocator instead.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// A decompression buffer that the books of `fetch.memory` know of, to the byte.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) unpacked: Unpacked,
    counted: usize,
    memory: FetchMemory,
}

impl Window {
    /// What decompression grew it by is counted.
    pub(super) fn settle(&mut self) {
        let bytes = self.unpacked.memory_bytes();
        match bytes.checked_sub(self.counted) {
            Some(0) => {}
            Some(more) => self.memory.window_grew(more),
            None => self.memory.window_shrank(self.counted - bytes),
        }
        self.counted = bytes;
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.memory.window_shrank(self.counted);
        }
    }
}

/// Where a consumer's decompression buffers wait for their next batch.
#[derive(Debug)]
pub(super) struct Spares {
    windows: Mutex<Vec<Window>>,
    /// Windows that batches have.
    out: AtomicUsize,
    memory: FetchMemory,
}

impl Spares {
    pub(super) fn new(memory: FetchMemory) -> Arc<Self> {
        Arc::new(Self { windows: Mutex::default(), out: AtomicUsize::new(0), memory })
    }

    /// Decompressed bytes and the limit, when this consumer's application holds batches and no more can be decompressed. Whoever
    /// holds none gets one in any case.
    pub(super) fn too_much(&self) -> Option<(usize, usize)> {
        let (held, limit) = (self.memory.window_bytes(), self.memory.capacity_bytes());
        (held >= limit && self.out.load(Ordering::Relaxed) > 0).then_some((held, limit))
    }

    pub(super) fn take(&self) -> Window {
        self.out.fetch_add(1, Ordering::Relaxed);
        let spare = self.windows.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Window { unpacked: Unpacked::new(), counted: 0, memory: self.memory.clone() })
    }

    pub(super) fn put(&self, mut window: Window) {
        self.out.fetch_sub(1, Ordering::Relaxed);
        window.settle();
        // What decompression may have without asking is all that lies idle.
        let bytes = window.counted;
        if bytes > SPARE_BYTES_MAX.min(self.memory.capacity_bytes() / 8) || bytes == 0 {
            return;
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() < SPARES_MAX {
            windows.push(window);
        }
    }
}

/// Where a batch's records are.
#[derive(Debug)]
pub(super) enum Memory {
    /// In the fetched slab.
    Fetched(Bytes),
    /// Decompressed.
    Unpacked(Window),
    /// One of the above, of a batch that is given out in parts.
    Part(Arc<Whole>),
}

/// The memory of a batch that is given out in parts.
#[derive(Debug)]
pub(super) struct Whole {
    memory: Memory,
    home: Arc<Spares>,
}

impl Whole {
    pub(super) fn new(memory: Memory, home: Arc<Spares>) -> Arc<Self> {
        Arc::new(Self { memory, home })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // Emptied, for the buffer goes back.
        if let Memory::Unpacked(window) = std::mem::replace(&mut self.memory, Memory::Fetched(Bytes::new())) {
            self.home.put(window);
        }
    }
}

impl Memory {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Fetched(bytes) => bytes,
            Self::Unpacked(window) => window.unpacked.bytes(),
            Self::Part(whole) => whole.bytes(),
        }
    }
}

/// Records of one partition that were produced together (at most `max.poll.records` of them), checked and decompressed. Owned, `Send`, and cheap: records
/// borrow from it. Iterate by reference: `for record in &batch`.
pub struct Batch {
    pub(super) tp: Tp,
    pub(super) topic: Arc<str>,
    pub(super) head: RecordsHead,
    pub(super) memory: Memory,
    /// The part of the records that this is; none for all of them.
    pub(super) cut: Option<Cut>,
    pub(super) first_offset: i64,
    pub(super) next_offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) mark: Arc<BatchMark>,
    pub(super) home: Arc<Spares>,
}

impl Batch {
    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.tp.partition
    }

    /// Records in the batch as it was written. Fewer are given out when reading starts inside it, or under
    /// `max.poll.records`.
    pub fn count(&self) -> usize {
        usize::try_from(self.head.count).unwrap_or(0)
    }

    /// The first offset that can come.
    pub fn first_offset(&self) -> i64 {
        self.first_offset
    }

    /// Where the next batch begins: behind this one's last offset, which compaction may have emptied.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Epoch of the leader that appended it; -1 when unknown.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        self.head.timestamp_type
    }

    /// The records, from the first. Asking for the next record says that the one before is processed.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        let bytes = self.memory.bytes();
        let records = match self.cut {
            None => Records::new(self.head, bytes),
            Some(Cut { from, end }) => Records::resume(self.head, bytes.get(..end).unwrap_or_default(), from),
        };
        Iter { records, batch: self, given: None }
    }

    /// Declares all of the batch processed, read or not.
    pub fn done(self) {
        self.mark.finish(self.next_offset);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}-{}, {}..{})", self.topic, self.tp.partition, self.first_offset, self.next_offset)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Emptied, for the buffer goes back.
        if let Memory::Unpacked(window) = std::mem::replace(&mut self.memory, Memory::Fetched(Bytes::new())) {
            self.home.put(window);
        }
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = Record<'a>;
    type IntoIter = Iter<'a>;
    #[inline]
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// A batch's records, parsed one by one.
#[derive(Debug)]
pub struct Iter<'a> {
    records: Records<'a>,
    batch: &'a Batch,
    /// Behind the record given out last.
    given: Option<i64>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Record<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Record<'a>> {
        if let Some(passed) = self.given.take() {
            self.batch.mark.pass(passed);
        }
        loop {
            match self.records.next() {
                Some(Ok(view)) => {
                    if view.offset < self.batch.first_offset {
                        continue;
                    }
                    self.given = Some(view.offset + 1);
                    return Some(Record { view, batch: self.batch });
                }
                Some(Err(bad)) => {
                    self.batch.mark.spoil(bad);
                    return None;
                }
                None => {
                    // A walk that met a bad record is over, but the batch is not.
                    self.batch.mark.exhaust();
                    return None;
                }
            }
        }
    }
}

/// A record, borrowed from its batch.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    view: RecordView<'a>,
    batch: &'a Batch,
}

impl<'a> Record<'a> {
    /// The topic's name.
    pub fn topic(&self) -> &'a str {
        &self.batch.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.batch.tp.partition
    }

    /// The offset.
    #[inline]
    pub fn offset(&self) -> i64 {
        self.view.offset
    }

    /// Milliseconds since 1970; -1 when there is none.
    #[inline]
    pub fn timestamp(&self) -> i64 {
        self.view.timestamp
    }

    /// The key; `None` for null.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.view.key()
    }

    /// The value; `None` for null.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.view.value()
    }

    /// The headers in order, duplicates included. A malformed one is the last item, as an error.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        self.view.headers()
    }

    /// The record as it stands in its batch, from the key's length to the last header ([`crate::batch::encode_body`]).
    pub fn body(&self) -> &'a [u8] {
        self.view.body()
    }

    /// A copy that outlives the batch. From now on this record is processed by [`OwnedRecord::done`] only, whatever the
    /// iterator does; dropping it undone leaves it to be delivered again.
    pub fn to_owned(&self) -> Result<OwnedRecord, BadRecord> {
        let headers: Result<Vec<_>, BadRecord> = self
            .headers()
            .map(|header| {
                let HeaderView { key, value } = header?;
                Ok((Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice)))
            })
            .collect();
        let headers = headers?;
        self.batch.mark.own(self.view.offset);
        Ok(OwnedRecord {
            topic: self.batch.topic.clone(),
            partition: self.batch.tp.partition,
            offset: self.view.offset,
            timestamp: self.view.timestamp,
            key: self.key().map(Bytes::copy_from_slice),
            value: self.value().map(Bytes::copy_from_slice),
            headers,
            mark: self.batch.mark.clone(),
        })
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}-{} @ {})", self.batch.topic, self.batch.tp.partition, self.view.offset)
    }
}

/// A record that outlives its batch, for work that goes on elsewhere.
#[derive(Debug)]
pub struct OwnedRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Milliseconds since 1970; -1 when there is none.
    pub timestamp: i64,
    /// The key; `None` for null.
    pub key: Option<Bytes>,
    /// The value; `None` for null.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    mark: Arc<BatchMark>,
}

impl OwnedRecord {
    /// The record is processed. *Processed* moves on when all records before it are, too.
    pub fn done(self) {
        self.mark.done(self.offset);
    }
}
