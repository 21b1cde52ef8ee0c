//! The fetched bytes of one partition, batch by batch, where the records are wanted.

use std::ops::Range;

use bytes::Bytes;

use super::aborted::AbortedRanges;
use crate::base::ids::Tp;
use crate::batch::{
    BadBatch, ControlRecord, Decompressor, Fetched, Marker, Payload, RecordSet, Records, RecordsHead, TimestampType,
    Unpacked,
};
use crate::config::IsolationLevel;

/// One answer's bytes of one partition, and how far they were given out.
#[derive(Debug)]
pub struct Chunk {
    tp: Tp,
    generation: u32,
    records: Bytes,
    /// Where the next batch begins.
    at: usize,
    /// Records before it are not given out.
    position: i64,
    /// The position behind the whole chunk.
    next_offset: i64,
    aborted: AbortedRanges,
    committed_only: bool,
    /// As the broker said with these bytes.
    pub high_watermark: i64,
    /// As the broker said with these bytes; -1 for not at all.
    pub last_stable_offset: i64,
}

/// A batch with records to give out, checked and decompressed.
#[derive(Debug)]
pub struct Found {
    /// How to walk the records.
    pub head: RecordsHead,
    /// Where they are.
    pub payload: Payload,
    /// Their place in [`Chunk::records`] when they are in place.
    pub range: Range<usize>,
    /// The first offset wanted: earlier records of the batch are passed over.
    pub first_offset: i64,
    /// Behind the batch.
    pub next_offset: i64,
    /// Epoch of the leader that appended it; -1 when unknown.
    pub leader_epoch: i32,
}

/// Counts of what a chunk held that is not given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// Control batches.
    pub control: u32,
    /// Batches of aborted transactions.
    pub aborted: u32,
}

impl Chunk {
    /// The bytes as they came.
    pub fn new(fetched: Fetched, isolation: IsolationLevel) -> Self {
        let committed_only = isolation == IsolationLevel::ReadCommitted;
        Self {
            tp: fetched.tp,
            generation: fetched.generation,
            records: fetched.records,
            at: 0,
            position: fetched.offset,
            next_offset: fetched.next_offset,
            aborted: AbortedRanges::new(if committed_only { fetched.aborted } else { Vec::new() }),
            committed_only,
            high_watermark: fetched.high_watermark,
            last_stable_offset: fetched.last_stable_offset,
        }
    }

    /// Which partition.
    pub fn tp(&self) -> Tp {
        self.tp
    }

    /// The generation that the bytes were asked for.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The next offset to be given out.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The bytes; cheap to clone.
    pub fn records(&self) -> &Bytes {
        &self.records
    }

    /// The next batch that has records to give out, its CRC verified and its records decompressed into `unpacked` if need
    /// be. `None` at the end. A batch that cannot be read is an error, the position stays in front of it, and asking again
    /// gives the same error until [`Chunk::skip_bad`].
    pub fn next_batch(
        &mut self,
        decompressor: &mut Decompressor,
        unpacked: &mut Unpacked,
        skipped: &mut Skipped,
    ) -> Result<Option<Found>, BadBatch> {
        loop {
            let rest = self.records.get(self.at..).unwrap_or_default();
            let Some(view) = RecordSet::new(rest).next().transpose()? else {
                self.position = self.position.max(self.next_offset);
                return Ok(None);
            };
            let (end, last) = (self.at + view.bytes().len(), view.last_offset());
            if last < self.position {
                self.at = end;
                continue;
            }
            if view.is_control() {
                // Markers count only if their bytes are right.
                let mut markers = view.records(decompressor, unpacked)?;
                if let Some(Ok(record)) = markers.next()
                    && let Some(ControlRecord::End { marker: Marker::Abort, .. }) = ControlRecord::read(&record)
                {
                    self.aborted.on_abort_marker(view.producer_id(), last);
                }
                skipped.control += 1;
                self.pass(end, last);
                continue;
            }
            if self.committed_only && view.is_transactional() && self.aborted.hides(view.producer_id(), last) {
                // Hidden or not, a batch that was damaged on its way is not passed over silently.
                view.verify()?;
                skipped.aborted += 1;
                self.pass(end, last);
                continue;
            }
            let (head, payload) = view.open(decompressor, unpacked)?;
            if head.count == 0 {
                self.pass(end, last);
                continue;
            }
            let found = Found {
                head,
                payload,
                range: end - view.payload().len()..end,
                first_offset: self.position,
                next_offset: last + 1,
                leader_epoch: view.header().map_or(-1, |header| header.partition_leader_epoch),
            };
            // A v0/v1 message in place is its whole bytes; a payload always ends with its batch.
            debug_assert!(
                view.payload().is_empty()
                    || found.payload == Payload::Unpacked
                    || view.bytes().ends_with(view.payload())
            );
            self.pass(end, last);
            return Ok(Some(found));
        }
    }

    /// Passes over the batch that cannot be read, if its header tells where it ends: the application decided to.
    pub fn skip_bad(&mut self) -> bool {
        let rest = self.records.get(self.at..).unwrap_or_default();
        let Some(Ok(view)) = RecordSet::new(rest).next() else { return false };
        let (len, last) = (view.bytes().len(), view.last_offset());
        self.pass(self.at + len, last);
        true
    }

    fn pass(&mut self, end: usize, last: i64) {
        self.at = end;
        self.position = self.position.max(last + 1);
    }
}

impl Found {
    /// Walks the records, `bytes` being where [`Found::payload`] says they are.
    pub fn records<'a>(&self, bytes: &'a [u8]) -> Records<'a> {
        Records::new(self.head, bytes)
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        self.head.timestamp_type
    }
}
