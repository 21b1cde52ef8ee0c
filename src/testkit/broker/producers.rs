//! What one partition remembers of each idempotent producer: its epoch and its last five batches.
//!
//! Rules as Kafka 4.x: an unknown producer may start at any sequence (its state may have been deleted or expired, so
//! UNKNOWN_PRODUCER_ID never arises here by itself); a lower epoch is INVALID_PRODUCER_EPOCH; a higher epoch starts at
//! 0; otherwise the sequence continues, or the batch is one of the last five and is answered as it was, or it is
//! OUT_OF_ORDER_SEQUENCE_NUMBER.

use std::collections::{BTreeMap, VecDeque};

use super::record::{Header, Refusal};
use crate::base::time::Time;
use crate::wire::ErrorCode;

/// How many batches a producer may have in flight to a partition, because this many are remembered.
pub const BATCHES_REMEMBERED: usize = 5;

#[derive(Clone, Copy, Debug)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    append_time_ms: i64,
}

#[derive(Debug)]
struct Entry {
    epoch: i16,
    batches: VecDeque<Remembered>,
    touched: Time,
}

/// What to do with a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Append it.
    Append,
    /// It is already there: at this base offset, with this timestamp.
    Duplicate {
        /// Offset it was given the first time.
        base_offset: i64,
        /// Its max timestamp, milliseconds.
        append_time_ms: i64,
    },
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub struct Producers(BTreeMap<i64, Entry>);

/// The sequence `delta` records after `sequence`; it wraps to 0 behind 2^31 - 1.
pub fn sequence_after(sequence: i32, delta: i32) -> i32 {
    ((i64::from(sequence) + i64::from(delta)) % (i64::from(i32::MAX) + 1)) as i32
}

impl Producers {
    /// Judges a batch by its producer fields.
    pub fn judge(&self, header: &Header) -> Result<Judgement, Refusal> {
        let Some(entry) = self.0.get(&header.producer_id) else { return Ok(Judgement::Append) };
        let (pid, epoch, first) = (header.producer_id, header.producer_epoch, header.base_sequence);
        if epoch < entry.epoch {
            let message = format!(
                "Epoch of producer {pid} is {epoch}, which is smaller than the last seen epoch {}",
                entry.epoch
            );
            return Err(Refusal::new(ErrorCode::InvalidProducerEpoch, message));
        }
        let out_of_order = |message: String| Err(Refusal::new(ErrorCode::OutOfOrderSequenceNumber, message));
        if epoch > entry.epoch {
            return match first {
                0 => Ok(Judgement::Append),
                _ => out_of_order(format!("Invalid sequence number for new epoch of producer {pid}: {first}")),
            };
        }
        let last = sequence_after(first, header.last_offset_delta);
        let same = |known: &&Remembered| known.first_sequence == first && known.last_sequence == last;
        if let Some(known) = entry.batches.iter().find(same) {
            return Ok(Judgement::Duplicate { base_offset: known.base_offset, append_time_ms: known.append_time_ms });
        }
        match entry.batches.back() {
            Some(newest) if sequence_after(newest.last_sequence, 1) != first => {
                let newest = newest.last_sequence;
                out_of_order(format!(
                    "Out of order sequence number for producer {pid}: {first} (incoming), {newest} (current end)"
                ))
            }
            _ => Ok(Judgement::Append),
        }
    }

    /// Remembers an appended batch.
    pub fn appended(&mut self, header: &Header, base_offset: i64, append_time_ms: i64, now: Time) {
        let fresh = || Entry { epoch: header.producer_epoch, batches: VecDeque::new(), touched: now };
        let entry = self.0.entry(header.producer_id).or_insert_with(fresh);
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        if entry.batches.len() == BATCHES_REMEMBERED {
            entry.batches.pop_front();
        }
        entry.touched = now;
        entry.batches.push_back(Remembered {
            first_sequence: header.base_sequence,
            last_sequence: sequence_after(header.base_sequence, header.last_offset_delta),
            base_offset,
            append_time_ms,
        });
    }

    /// Forgets producers not heard of since `before`.
    pub fn expire(&mut self, before: Time) {
        self.0.retain(|_, entry| entry.touched >= before);
    }

    /// Forgets every producer, as retention or an expiry does.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets batches at or past `offset`, which were lost with a leader.
    pub fn truncate(&mut self, offset: i64) {
        self.0.retain(|_, entry| {
            entry.batches.retain(|batch| batch.base_offset < offset);
            !entry.batches.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32) -> Header {
        Header {
            base_offset: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            count,
        }
    }

    fn code(result: Result<Judgement, Refusal>) -> ErrorCode {
        result.map_or_else(|refusal| refusal.code, |_| ErrorCode::None)
    }

    #[test]
    fn five_batches_are_remembered_and_the_sixth_back_is_out_of_order() {
        let mut known = Producers::default();
        for nth in 0..6 {
            let header = batch(0, nth * 10, 10);
            assert_eq!(known.judge(&header).unwrap(), Judgement::Append);
            known.appended(&header, i64::from(nth) * 10, 55, Time::ZERO);
        }
        let again = known.judge(&batch(0, 10, 10)).unwrap();
        assert_eq!(again, Judgement::Duplicate { base_offset: 10, append_time_ms: 55 });
        assert_eq!(code(known.judge(&batch(0, 0, 10))), ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(code(known.judge(&batch(0, 70, 10))), ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(code(known.judge(&batch(0, 50, 9))), ErrorCode::OutOfOrderSequenceNumber, "split differently");
        assert_eq!(code(known.judge(&batch(1, 60, 1))), ErrorCode::OutOfOrderSequenceNumber, "a new epoch starts at 0");
        known.appended(&batch(1, 0, 1), 60, 55, Time::ZERO);
        assert_eq!(code(known.judge(&batch(0, 60, 1))), ErrorCode::InvalidProducerEpoch);
        known.clear();
        assert_eq!(known.judge(&batch(0, 500, 1)).unwrap(), Judgement::Append, "forgotten, so any sequence is taken");
    }

    #[test]
    fn sequences_wrap() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 3), 1);
        let mut known = Producers::default();
        known.appended(&batch(0, i32::MAX, 1), 0, 0, Time::ZERO);
        assert_eq!(known.judge(&batch(0, 0, 4)).unwrap(), Judgement::Append);
    }
}
