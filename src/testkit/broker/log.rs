//! One partition's log: segments of record batches in memory, exactly the bytes that were produced but for the fields
//! a broker sets.
//!
//! ```text
//!  log start                                                        next offset
//!  │ sealed segment (Bytes) │ sealed segment (Bytes) │ active (Vec, growing) │
//!    batch batch batch ...    batch batch ...          batch batch ...
//! ```
//! A batch is never re-encoded: base offset, leader epoch and, for LogAppendTime, attributes and max timestamp are
//! patched in the copy that is kept. A read is a slice of one segment, as in Kafka.

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::{self, HEADER_BYTES};

/// Where a batch lies, and what lookups need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMeta {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Largest timestamp in it, milliseconds.
    pub max_timestamp: i64,
    position: u32,
    len: u32,
}

#[derive(Debug)]
enum Data {
    Active(Vec<u8>),
    Sealed(Bytes),
}

#[derive(Debug)]
struct Segment {
    /// Age among all segments of the broker, for its byte cap.
    born: u64,
    data: Data,
    batches: Vec<BatchMeta>,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Active(bytes) => bytes,
            Data::Sealed(bytes) => bytes,
        }
    }

    fn seal(&mut self) {
        if let Data::Active(bytes) = &mut self.data {
            let mut bytes = std::mem::take(bytes);
            bytes.shrink_to_fit();
            self.batches.shrink_to_fit();
            self.data = Data::Sealed(Bytes::from(bytes));
        }
    }

    fn slice(&self, from: usize, to: usize) -> Bytes {
        match &self.data {
            Data::Active(bytes) => Bytes::copy_from_slice(&bytes[from..to]),
            Data::Sealed(bytes) => bytes.slice(from..to),
        }
    }
}

/// What the broker writes into a batch as it appends it.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The partition leader's epoch.
    pub leader_epoch: i32,
    /// The topic's timestamps are LogAppendTime: this time, milliseconds.
    pub append_time_ms: Option<i64>,
    /// Replaces the batch's max timestamp (CreateTime topics, when walking the records found another one).
    pub max_timestamp: i64,
    /// Age for a segment that this append may open.
    pub born: u64,
}

/// The log of one partition.
#[derive(Debug)]
pub struct Log {
    segments: VecDeque<Segment>,
    start_offset: i64,
    next_offset: i64,
    bytes: u64,
    segment_bytes: usize,
    /// (leader epoch, first offset of that epoch), rising in both.
    epochs: Vec<(i32, i64)>,
}

impl Log {
    /// An empty log that rolls segments at `segment_bytes`.
    pub fn new(segment_bytes: usize) -> Self {
        let segment_bytes = segment_bytes.clamp(HEADER_BYTES, u32::MAX as usize / 2);
        Self { segments: VecDeque::new(), start_offset: 0, next_offset: 0, bytes: 0, segment_bytes, epochs: Vec::new() }
    }

    /// First offset still there.
    pub fn start_offset(&self) -> i64 {
        self.start_offset
    }

    /// Offset of the next record: log end offset and, with virtual replicas always in step, the high watermark.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Bytes of batches kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies one checked batch to the end. Returns its base offset.
    pub fn append(&mut self, batch: &[u8], stamp: Stamp) -> i64 {
        let base_offset = self.next_offset;
        let roll = match self.segments.back() {
            Some(last) => {
                !matches!(last.data, Data::Active(_)) || last.bytes().len() + batch.len() > self.segment_bytes
            }
            None => true,
        };
        if roll {
            if let Some(last) = self.segments.back_mut() {
                last.seal();
            }
            self.segments.push_back(Segment { born: stamp.born, data: Data::Active(Vec::new()), batches: Vec::new() });
        }
        let Some(Segment { data: Data::Active(kept), batches, .. }) = self.segments.back_mut() else {
            return base_offset;
        };
        let position = kept.len();
        kept.extend_from_slice(batch);
        let copy = &mut kept[position..];
        let max_timestamp = record::stamp(copy, base_offset, stamp);
        let last_offset = base_offset + i64::from(record::last_offset_delta(copy));
        batches.push(BatchMeta {
            base_offset,
            last_offset,
            max_timestamp,
            position: position as u32,
            len: batch.len() as u32,
        });
        self.bytes += batch.len() as u64;
        self.next_offset = last_offset + 1;
        if self.epochs.last().is_none_or(|(epoch, _)| *epoch < stamp.leader_epoch) {
            self.epochs.push((stamp.leader_epoch, base_offset));
        }
        base_offset
    }

    /// Leaves a gap: the next batch has this offset, if that lies beyond the end. As compaction leaves them.
    pub fn skip_to(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset);
    }

    /// A new leader starts at the end of the log.
    pub fn start_epoch(&mut self, epoch: i32) {
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.push((epoch, self.next_offset));
        }
    }

    /// Index of the segment and of the batch in it that holds `offset` or follows it.
    fn find(&self, offset: i64) -> Option<(usize, usize)> {
        let ends_before = |segment: &Segment| segment.batches.last().is_none_or(|batch| batch.last_offset < offset);
        let segment = self.segments.partition_point(ends_before);
        let batch = self.segments.get(segment)?.batches.partition_point(|batch| batch.last_offset < offset);
        Some((segment, batch))
    }

    /// Bytes from the batch that holds `offset` up to `end_offset` (exclusive), all segments.
    pub fn bytes_from(&self, offset: i64, end_offset: i64) -> u64 {
        let Some((first, index)) = self.find(offset) else { return 0 };
        let mut total = 0u64;
        for (nth, segment) in self.segments.iter().enumerate().skip(first) {
            let start = if nth == first { index } else { 0 };
            let stop = segment.batches.partition_point(|batch| batch.base_offset < end_offset);
            if stop <= start {
                break;
            }
            let (from, to) = (segment.batches[start], segment.batches[stop - 1]);
            total += u64::from(to.position + to.len - from.position);
        }
        total
    }

    /// Batches from the one that holds `offset`, below `end_offset`, at most `bytes_max` bytes of one segment.
    /// With `one_batch_at_least` the first batch is whole whatever the limit (KIP-74). With `partial` the limit may
    /// cut the last batch, as Kafka's file slices do; never the first one.
    pub fn read(
        &self,
        offset: i64,
        end_offset: i64,
        bytes_max: usize,
        one_batch_at_least: bool,
        partial: bool,
    ) -> Bytes {
        let Some((nth, index)) = self.find(offset) else { return Bytes::new() };
        let segment = &self.segments[nth];
        let stop = segment.batches.partition_point(|batch| batch.base_offset < end_offset);
        if stop <= index {
            return Bytes::new();
        }
        let (first, last) = (segment.batches[index], segment.batches[stop - 1]);
        let (from, end) = (first.position as usize, (last.position + last.len) as usize);
        let limit = if one_batch_at_least { bytes_max.max(first.len as usize) } else { bytes_max };
        if limit < first.len as usize {
            return Bytes::new();
        }
        let mut to = end.min(from.saturating_add(limit));
        if !partial && to < end {
            let whole = segment.batches.partition_point(|batch| ((batch.position + batch.len) as usize) <= to);
            to = (segment.batches[whole - 1].position + segment.batches[whole - 1].len) as usize;
        }
        segment.slice(from, to)
    }

    /// Every batch kept, oldest first.
    pub fn batches(&self) -> impl Iterator<Item = (BatchMeta, Bytes)> + '_ {
        self.segments.iter().flat_map(|segment| {
            let whole =
                |batch: &BatchMeta| segment.slice(batch.position as usize, (batch.position + batch.len) as usize);
            segment.batches.iter().map(move |batch| (*batch, whole(batch)))
        })
    }

    /// The first batch that reaches `timestamp` and holds an offset at or past the log start.
    pub fn first_batch_reaching(&self, timestamp: i64) -> Option<(BatchMeta, Bytes)> {
        self.batch_where(|batch| batch.max_timestamp >= timestamp && batch.last_offset >= self.start_offset)
    }

    /// The earliest batch with the largest timestamp of the log.
    pub fn batch_of_max_timestamp(&self) -> Option<(BatchMeta, Bytes)> {
        let all = self.segments.iter().flat_map(|segment| segment.batches.iter());
        let max = all.filter(|batch| batch.last_offset >= self.start_offset).map(|batch| batch.max_timestamp).max()?;
        self.batch_where(|batch| batch.max_timestamp == max && batch.last_offset >= self.start_offset)
    }

    fn batch_where(&self, wanted: impl Fn(&BatchMeta) -> bool) -> Option<(BatchMeta, Bytes)> {
        self.segments.iter().find_map(|segment| {
            let batch = segment.batches.iter().find(|batch| wanted(batch))?;
            Some((*batch, segment.slice(batch.position as usize, (batch.position + batch.len) as usize)))
        })
    }

    /// The epoch cache's answer to OffsetForLeaderEpoch: (epoch, end offset), (-1, -1) when it cannot tell (KIP-101,
    /// KIP-279).
    pub fn end_of_epoch(&self, epoch: i32) -> (i32, i64) {
        let Some((latest, _)) = self.epochs.last() else { return (-1, -1) };
        if epoch < 0 || epoch > *latest {
            return (-1, -1);
        }
        if epoch == *latest {
            return (epoch, self.next_offset);
        }
        let higher = self.epochs.partition_point(|(known, _)| *known <= epoch);
        let end = self.epochs.get(higher).map_or(self.next_offset, |(_, start)| *start);
        match higher.checked_sub(1).and_then(|floor| self.epochs.get(floor)) {
            Some((floor, _)) => (*floor, end),
            None => (epoch, end),
        }
    }

    /// The epoch that `offset` was written in, -1 when unknown.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        let after = self.epochs.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).map_or(-1, |at| self.epochs[at].0)
    }

    /// Moves the log start to `offset` (DeleteRecords) and frees what lies wholly before it. Returns the bytes freed.
    pub fn delete_before(&mut self, offset: i64) -> u64 {
        self.start_offset = self.start_offset.max(offset.min(self.next_offset));
        let mut freed = 0;
        while let Some(first) = self.segments.front() {
            if first.batches.last().is_some_and(|batch| batch.last_offset >= self.start_offset) {
                break;
            }
            freed += first.bytes().len() as u64;
            self.segments.pop_front();
        }
        self.bytes -= freed;
        freed
    }

    /// Age of the oldest segment, when there is one.
    pub fn oldest_born(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.born)
    }

    /// Bytes of the oldest segment, when there is one.
    pub fn oldest_bytes(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.bytes().len() as u64)
    }

    /// Drops the oldest segment and moves the log start behind it. Returns the bytes freed.
    pub fn drop_oldest(&mut self) -> u64 {
        let Some(last) = self.segments.front().and_then(|segment| segment.batches.last()) else { return 0 };
        self.delete_before(last.last_offset + 1)
    }

    /// Loses every batch that reaches `offset` or beyond, as an unclean leader election may. Returns the bytes lost.
    pub fn truncate(&mut self, offset: i64) -> u64 {
        let mut lost = 0u64;
        while let Some(last) = self.segments.back_mut() {
            let keep = last.batches.partition_point(|batch| batch.last_offset < offset);
            let end =
                if keep == 0 { 0 } else { (last.batches[keep - 1].position + last.batches[keep - 1].len) as usize };
            lost += (last.bytes().len() - end) as u64;
            if keep == 0 {
                self.segments.pop_back();
                continue;
            }
            last.batches.truncate(keep);
            match &mut last.data {
                Data::Active(bytes) => bytes.truncate(end),
                Data::Sealed(bytes) => bytes.truncate(end),
            }
            break;
        }
        self.bytes -= lost;
        let end = self.segments.back().and_then(|segment| segment.batches.last()).map(|batch| batch.last_offset + 1);
        self.next_offset = end.unwrap_or(self.start_offset.min(self.next_offset));
        self.start_offset = self.start_offset.min(self.next_offset);
        let next = self.next_offset;
        self.epochs.retain(|(_, start)| *start < next || (*start == 0 && next == 0));
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::broker::record::tests::batch_of;

    fn stamp(epoch: i32) -> Stamp {
        Stamp { leader_epoch: epoch, append_time_ms: None, max_timestamp: 7, born: 0 }
    }

    #[test]
    fn offsets_run_on_and_reads_start_at_the_holding_batch() {
        let mut log = Log::new(400);
        for count in [3, 1, 2, 5] {
            log.append(&batch_of(count, 50), stamp(0));
        }
        assert_eq!(log.next_offset(), 11);
        let first = batch_of(3, 50).len();
        assert_eq!(log.read(1, 11, 1, true, false).len(), first, "the first batch comes whole");
        assert_eq!(log.read(1, 11, 1, false, false).len(), 0);
        let two = log.read(0, 11, first + 10, true, true);
        assert_eq!(two.len(), first + 10, "a limit cuts the second batch");
        assert_eq!(log.read(0, 11, first + 10, true, false).len(), first);
        assert_eq!(log.read(0, 3, usize::MAX, true, true).len(), first, "nothing at or past the end offset");
        assert_eq!(log.bytes_from(0, 11), log.bytes());
        assert_eq!(log.read(11, 11, 100, true, true).len(), 0);
        assert_eq!(record::base_offset(&log.read(10, 11, 100, true, false)), 6);
    }

    #[test]
    fn dropping_the_oldest_moves_the_start() {
        let mut log = Log::new(1);
        for _ in 0..3 {
            log.append(&batch_of(2, 10), stamp(0));
        }
        let before = log.bytes();
        let freed = log.drop_oldest();
        assert_eq!((log.start_offset(), log.bytes()), (2, before - freed));
        log.delete_before(5);
        assert_eq!(log.start_offset(), 5);
        assert_eq!(record::base_offset(&log.read(5, 6, 100, true, false)), 4, "offset 5 lies inside the batch from 4");
    }

    #[test]
    fn epochs_answer_as_kafkas_cache() {
        let mut log = Log::new(1 << 20);
        log.append(&batch_of(3, 10), stamp(1));
        log.start_epoch(4);
        log.append(&batch_of(2, 10), stamp(4));
        assert_eq!(log.end_of_epoch(4), (4, 5));
        assert_eq!(log.end_of_epoch(1), (1, 3));
        assert_eq!(log.end_of_epoch(2), (1, 3));
        assert_eq!(log.end_of_epoch(0), (0, 0));
        assert_eq!(log.end_of_epoch(5), (-1, -1));
        assert_eq!((log.epoch_of(2), log.epoch_of(3)), (1, 4));
        log.truncate(3);
        assert_eq!((log.next_offset(), log.end_of_epoch(1)), (3, (1, 3)));
    }
}
