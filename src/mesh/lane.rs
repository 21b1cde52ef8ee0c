//! A lane: one handle's FIFO of encoded records to one shard. The byte stream of [`crate::base::stream`], a place to wait
//! for room, and the reader's gate.

use std::task::{Context, Poll};

use crate::base::gate::{Gate, Medium};
use crate::base::ids::LaneId;
use crate::base::stream::{ReserveError, StreamReader, StreamSettings, StreamWriter, stream};
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{Arc, Waiters};
use crate::base::time::Time;

/// The bounds of a lane, and what lies between its ends.
#[derive(Clone, Debug, Default)]
pub struct LaneSettings {
    /// Memory and chunk sizes.
    pub stream: StreamSettings,
    /// The medium of the reading shard.
    pub medium: Medium,
}

/// Makes a lane.
pub fn lane(id: LaneId, settings: LaneSettings) -> (LaneWriter, LaneReader) {
    let (writer, reader) = stream(settings.stream);
    let room = Arc::new(Waiters::new());
    let since = Arc::new(AtomicU64::new(Time::NEVER.0));
    let writer = LaneWriter { id, stream: writer, room: room.clone(), since: since.clone() };
    (writer, LaneReader { id, stream: reader, room, gate: settings.medium.gate(), since })
}

/// The handle's end: records are encoded into place, one entry each.
#[derive(Debug)]
pub struct LaneWriter {
    id: LaneId,
    stream: StreamWriter,
    room: Arc<Waiters>,
    since: Arc<AtomicU64>,
}

impl LaneWriter {
    /// Which lane this is.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Room for one entry of `len` bytes, contiguous, holding arbitrary old bytes. Never blocks; replaces a reservation
    /// that was not committed.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<&mut [u8], ReserveError> {
        self.stream.reserve(len)
    }

    /// Publishes the first `len` reserved bytes as one entry. Ring the shard's [`super::Doorbell`] afterwards.
    #[inline(always)]
    pub fn commit(&mut self, len: usize) {
        self.stream.commit(len);
    }

    /// Pollable core of waiting for room: ready when [`LaneWriter::reserve`] of `len` succeeds, or never will (the error).
    /// Wakes when half of the lane is free. Any number of tasks and threads may wait (clones that share a lane).
    pub fn poll_room(&mut self, context: &mut Context<'_>, len: usize) -> Poll<Result<(), ReserveError>> {
        for registered in [false, true] {
            match self.stream.reserve(len) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(ReserveError::Full) if !registered => {
                    self.room.register(context.waker());
                    self.stream.ask_for_room();
                    if self.stream.is_closed() {
                        return Poll::Ready(Err(ReserveError::Closed));
                    }
                }
                Err(ReserveError::Full) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }

    /// Whether an entry of `len` bytes fits into the current chunk.
    #[inline]
    pub fn fits(&self, len: usize) -> bool {
        self.stream.fits(len)
    }

    /// Committed bytes that the shard has not taken, as far as is known here.
    pub fn unread_bytes(&self) -> u64 {
        self.stream.unread_bytes()
    }

    /// Notes when the oldest unread entry was committed, for a reader that sleeps: linger counts from there.
    #[inline]
    pub fn note_waiting_since(&self, now: Time) {
        self.since.store(now.0, Ordering::Relaxed);
    }

    /// Bytes committed since the beginning.
    pub fn committed_total(&self) -> u64 {
        self.stream.committed_total()
    }

    /// Chunk memory of the lane, in bytes.
    pub fn allocated_bytes(&self) -> usize {
        self.stream.allocated_bytes()
    }

    /// Frees chunks kept for reuse while memory is short; see [`StreamWriter::free_spare`].
    pub fn free_spare(&mut self) {
        self.stream.free_spare();
    }

    /// Frees chunks kept for reuse.
    pub fn shrink(&mut self) {
        self.stream.shrink();
    }

    /// Whether the shard dropped its end.
    pub fn is_closed(&self) -> bool {
        self.stream.is_closed()
    }
}

/// The shard's end.
#[derive(Debug)]
pub struct LaneReader {
    id: LaneId,
    stream: StreamReader,
    room: Arc<Waiters>,
    gate: Gate,
    since: Arc<AtomicU64>,
}

impl LaneReader {
    /// Which lane this is.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Whole entries, contiguous, of the current chunk; empty when there is nothing. The shard may take any prefix made of
    /// whole entries and come back for the rest.
    #[inline]
    pub fn readable(&mut self) -> &[u8] {
        let start = self.stream.consumed_total();
        let committed = start + self.stream.readable_len() as u64;
        let visible = self.gate.pass(committed).saturating_sub(start) as usize;
        let bytes = self.stream.readable();
        &bytes[..visible.min(bytes.len())]
    }

    /// When the oldest of what is readable was committed, if the writer noted that while this end slept. It may be of an entry
    /// read before: the caller knows when it looked last.
    pub fn take_waiting_since(&mut self) -> Option<Time> {
        let since = Time(self.since.load(Ordering::Relaxed));
        if since == Time::NEVER {
            return None;
        }
        self.since.store(Time::NEVER.0, Ordering::Relaxed);
        Some(since)
    }

    /// Whether [`LaneReader::readable`] would be non-empty: the look after [`super::Sleeper::prepare`].
    #[inline]
    pub fn has_readable(&mut self) -> bool {
        !self.readable().is_empty()
    }

    /// Gives up the first `len` readable bytes; wakes writers that wait for room when there is enough.
    #[inline]
    pub fn consume(&mut self, len: usize) {
        if self.stream.consume(len) {
            self.room.wake_all();
        }
    }

    /// Whether the handle dropped its end. What it committed before can still be read.
    pub fn is_closed(&self) -> bool {
        self.stream.is_closed()
    }

    /// Bytes consumed since the beginning.
    pub fn consumed_total(&self) -> u64 {
        self.stream.consumed_total()
    }
}

impl Drop for LaneReader {
    fn drop(&mut self) {
        // Those who wait for room find the lane closed.
        self.stream.close();
        self.room.wake_all_quietly();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::gate::tests::Drizzle;
    use crate::base::rng::Rng;
    use crate::base::sync::park_until;
    use crate::base::time::{Clock, SystemClock};
    use std::time::Duration;

    fn put(writer: &mut LaneWriter, number: u64) {
        writer.reserve(8).expect("room").copy_from_slice(&number.to_le_bytes());
        writer.commit(8);
    }

    #[test]
    fn r13_a_gated_lane_delays_and_keeps_order() {
        let weather = Drizzle::new(21);
        let settings = LaneSettings { medium: Medium::simulated(weather.clone()), ..Default::default() };
        let (mut writer, mut reader) = lane(LaneId(1), settings);
        let (mut rng, mut sent, mut got, mut late) = (Rng::new(4), 0u64, 0u64, 0);
        while got < 5_000 {
            weather.advance();
            if rng.percent(50) && sent < 5_000 {
                put(&mut writer, sent);
                sent += 1;
            }
            late += u32::from(reader.readable().len() < 8 * (sent - got) as usize);
            let len = {
                let bytes = reader.readable();
                for entry in bytes.chunks(8) {
                    assert_eq!(u64::from_le_bytes(entry.try_into().unwrap()), got);
                    got += 1;
                }
                bytes.len()
            };
            reader.consume(len);
        }
        assert!(late > 500, "the gate held something back {late} times");
    }

    #[test]
    fn a_parked_writer_is_woken_when_half_is_free_and_when_the_reader_goes() {
        let settings =
            LaneSettings { stream: StreamSettings { bytes_max: 64 << 10, ..Default::default() }, ..Default::default() };
        let (mut writer, mut reader) = lane(LaneId(1), settings);
        let deadline = SystemClock.now().mono + Duration::from_secs(20);
        let entries = 40_000u64;
        let sender = std::thread::spawn(move || {
            let mut parked = 0;
            for number in 0..entries {
                if writer.reserve(8).is_err() {
                    parked += 1;
                    let room = park_until(deadline, &SystemClock, |context| writer.poll_room(context, 8));
                    assert_eq!(room, Some(Ok(())), "lost wake");
                }
                put(&mut writer, number);
            }
            // Until the reader is gone.
            let end = loop {
                match park_until(deadline, &SystemClock, |context| writer.poll_room(context, 4_000)) {
                    Some(Ok(())) => {
                        writer.reserve(4_000).unwrap();
                        writer.commit(4_000);
                    }
                    other => break other,
                }
            };
            (parked, end)
        });
        // The first wait is certain, the others come as they come.
        while !reader.room.is_armed() {
            std::thread::yield_now();
        }
        let mut got = 0;
        while got < entries {
            let len = (reader.readable().len() / 8 * 8).min(800).min(((entries - got) * 8) as usize);
            got += len as u64 / 8;
            if len == 0 {
                std::thread::yield_now();
            } else {
                reader.consume(len);
            }
        }
        drop(reader);
        let (parked, end) = sender.join().unwrap();
        assert_eq!(end, Some(Err(ReserveError::Closed)));
        assert!(parked > 0);
    }
}
