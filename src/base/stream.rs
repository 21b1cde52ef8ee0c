//! The lane's queue: a single-producer, single-consumer stream of bytes in a chain of pooled chunks. The one queue of ours
//! with `unsafe` in it.
//!
//! ```text
//!           reader                                             writer
//!   retire ◄─ [ chunk 64 K ] ─next─► [ chunk 64 K ] ─next─► [ chunk 64 K      |····reserved····|     ]
//!     │        consumed ▲     committed (per chunk) only grows ▲ at, committed
//!     └────────────── returned: a stack, pushed by the reader, taken whole by the writer ─────────────► reused
//! ```
//! An entry is what one [`StreamWriter::reserve`] + [`StreamWriter::commit`] wrote. Entries never straddle chunks, so the
//! reader always sees whole entries, contiguous. The first chunk has 4 KiB; a writer that runs ahead of its reader steps up
//! to 16 and 64 KiB; an entry larger than the largest chunk gets one of exactly its size. In steady state nothing is
//! allocated: chunks go round.
//!
//! Bounded: chunks in the chain plus chunks kept for reuse never pass `bytes_max`, nor eight chunks of the largest size unless
//! an entry is larger than those; only a last chunk that was read to its
//! end is not counted, since it goes back as soon as the next one is linked.
//!
//! Ownership, which every SAFETY comment below refers to: a chunk is owned (may be freed, its counters reset) by
//! (1) the writer while it is on `free` or reserved but not linked (a chunk is linked by the first commit to it), (2) nobody alone while it is in the chain: the writer may write
//! `memory[committed..]` of the *last* chunk, the reader may read `memory[..committed]`, both may look at its atomics,
//! (3) the reader once it saw `next` non-null and everything committed consumed: the writer has left such a chunk for good,
//! (4) the `returned` stack, whose taker becomes (1).

use super::chunk::CHUNK_SIZES;
use super::sync::Arc;
use super::sync::Padded;
use super::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::fmt;
use std::ptr;

/// The bounds of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamSettings {
    /// Chunk memory in bytes that the stream may hold, at least 4 KiB. Also the largest entry.
    pub bytes_max: usize,
    /// The largest pooled chunk in bytes, one of [`CHUNK_SIZES`].
    pub chunk_bytes_max: usize,
    /// A writer out of room is told when the reader has read everything, not when half is free: where both ends take turns on
    /// one CPU, each word costs two switches.
    pub resume_empty: bool,
}

impl Default for StreamSettings {
    /// 8 chunks of 64 KiB: measured to be enough (design §2).
    fn default() -> Self {
        Self { bytes_max: 8 * CHUNK_SIZES[2], chunk_bytes_max: CHUNK_SIZES[2], resume_empty: false }
    }
}

/// Why nothing was reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveError {
    /// No room now; there will be when the reader has read more.
    Full,
    /// Larger than the stream may ever hold.
    TooLarge,
    /// The reader is gone: nothing written here would ever be read.
    Closed,
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the lane is full",
            Self::TooLarge => "the entry is larger than the lane",
            Self::Closed => "the lane's reader is gone",
        })
    }
}

impl std::error::Error for ReserveError {}

/// One chunk of the chain. Aligned, so that the writer's counter is not on a line with a chunk that the reader reads.
#[repr(align(128))]
struct Link {
    /// Bytes at the front that the reader may read. Stored by the writer only.
    committed: AtomicUsize,
    /// In the chain: the next chunk, null while this is the last. On a stack: the one below.
    next: AtomicPtr<Link>,
    /// From `Box<[u8]>::into_raw`, `capacity` bytes, initialised.
    memory: *mut u8,
    capacity: usize,
}

impl Link {
    fn allocate(capacity: usize) -> *mut Self {
        let memory = Box::into_raw(vec![0u8; capacity].into_boxed_slice()).cast::<u8>();
        let link = Self { committed: AtomicUsize::new(0), next: AtomicPtr::new(ptr::null_mut()), memory, capacity };
        Box::into_raw(Box::new(link))
    }

    /// Frees a chunk.
    ///
    /// # Safety
    /// `link` came from [`Link::allocate`], is owned by the caller alone (see the module's list), and is not used again.
    unsafe fn free(link: *mut Self) {
        // SAFETY: (owner, lifetime) the caller owns the chunk alone and forgets it; both pointers came from `Box::into_raw`
        // in `allocate`; (bounds) `capacity` never changes.
        unsafe {
            let link = Box::from_raw(link);
            drop(Box::from_raw(ptr::slice_from_raw_parts_mut(link.memory, link.capacity)));
        }
    }

    /// Frees a chain or stack from `link` on.
    ///
    /// # Safety
    /// As [`Link::free`], for each chunk reachable by `next`.
    unsafe fn free_all(mut link: *mut Self) {
        while !link.is_null() {
            // SAFETY: (owner) as the caller promises; `next` is read before the chunk goes.
            unsafe {
                let next = (*link).next.load(Ordering::Acquire);
                Self::free(link);
                link = next;
            }
        }
    }
}

/// What both halves hold.
struct Shared {
    /// Bytes consumed since the beginning. Stored by the reader only.
    consumed: Padded<AtomicU64>,
    /// `consumed` at which a writer out of room wants to be told; `u64::MAX`: it does not.
    resume_at: Padded<AtomicU64>,
    /// Chunks given back. Pushed by the reader only, taken whole by the writer only: no ABA.
    returned: AtomicPtr<Link>,
    /// Where the chain begins, left behind by a reader that is gone.
    head_left: AtomicPtr<Link>,
    reader_gone: AtomicBool,
    writer_gone: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: (owner) both halves are gone: the writer freed its own list, the reader left its chain here, and what lies
        // on the stack belongs to nobody else; chain and stack are disjoint, as a chunk leaves one to enter the other.
        unsafe {
            Link::free_all(self.head_left.load(Ordering::Acquire));
            Link::free_all(self.returned.load(Ordering::Acquire));
        }
    }
}

/// Makes a stream. The first chunk is allocated with it.
pub fn stream(settings: StreamSettings) -> (StreamWriter, StreamReader) {
    let chunk_bytes_max = settings.chunk_bytes_max.clamp(CHUNK_SIZES[0], CHUNK_SIZES[2]);
    let bytes_max = settings.bytes_max.max(CHUNK_SIZES[0]);
    let first = Link::allocate(CHUNK_SIZES[0]);
    let shared = Arc::new(Shared {
        consumed: Padded(AtomicU64::new(0)),
        resume_at: Padded(AtomicU64::new(u64::MAX)),
        returned: AtomicPtr::new(ptr::null_mut()),
        head_left: AtomicPtr::new(ptr::null_mut()),
        reader_gone: AtomicBool::new(false),
        writer_gone: AtomicBool::new(false),
    });
    let writer = StreamWriter {
        shared: shared.clone(),
        tail: first,
        linked: first,
        at: 0,
        reserved: 0,
        total: 0,
        free: Vec::new(),
        step: 0,
        allocated: CHUNK_SIZES[0],
        allocations: 1,
        settings: StreamSettings { bytes_max, chunk_bytes_max, ..settings },
    };
    (writer, StreamReader { shared, head: first, at: 0, total: 0 })
}

/// The writing half.
pub struct StreamWriter {
    shared: Arc<Shared>,
    /// The chunk written to: the chain's last, or one that the next commit links behind it.
    tail: *mut Link,
    /// The chain's last chunk.
    linked: *mut Link,
    /// Committed bytes of `tail`.
    at: usize,
    /// Length of the open reservation behind `at`.
    reserved: usize,
    /// Committed bytes since the beginning.
    total: u64,
    /// Chunks for reuse, all of the size of `step`.
    free: Vec<*mut Link>,
    /// Index into [`CHUNK_SIZES`] of the chunks made now.
    step: usize,
    /// Bytes of chunks in the chain, on the way back, and in `free`.
    allocated: usize,
    /// Chunks allocated since the beginning.
    allocations: u64,
    settings: StreamSettings,
}

// SAFETY: (owner) the half is used by one thread at a time (`&mut self` for all that touches chunks); the raw pointers go
// with it, and what they point to is reached by both threads only as the module's list says, through atomics.
unsafe impl Send for StreamWriter {}

impl StreamWriter {
    /// Room for one entry of `len` bytes, contiguous. Its contents are arbitrary old bytes. A new reservation replaces one
    /// that was not committed.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<&mut [u8], ReserveError> {
        // SAFETY: (owner) `tail` is ours or the chain's last chunk, so it cannot be retired while we hold it.
        let tail = unsafe { &*self.tail };
        if tail.capacity - self.at < len {
            self.roll(len)?;
        }
        self.reserved = len;
        // SAFETY: (owner) only the writer touches `memory[at..]` of the last chunk, the reader stays below `committed` ==
        // `at`; (bounds) `capacity - at >= len`, checked above or by `roll`; (lifetime) the slice borrows `self`, and the
        // chunk stays last until the next `reserve`.
        Ok(unsafe { std::slice::from_raw_parts_mut((*self.tail).memory.add(self.at), len) })
    }

    /// Publishes the first `len` bytes of the reservation as one entry.
    #[inline(always)]
    pub fn commit(&mut self, len: usize) {
        assert!(len <= self.reserved, "committed more than was reserved");
        self.reserved = 0;
        self.at += len;
        self.total += len as u64;
        // A plain release store: whoever looks next whether the reader sleeps orders that look (`sync::light_barrier`).
        if self.tail == self.linked {
            // SAFETY: (owner) `tail` is the last chunk of the chain; its counters live as long as it is in the chain.
            unsafe { (*self.tail).committed.store(self.at, Ordering::Release) };
        } else if len > 0 {
            // SAFETY: (owner) `tail` is the writer's until it is linked. `linked` is the last chunk of the chain; after the
            // second store it is the reader's to retire and the writer never touches it again. That store releases `tail`'s counters
            // and memory and all commits to `linked`.
            unsafe {
                (*self.tail).committed.store(self.at, Ordering::Relaxed);
                (*self.linked).next.store(self.tail, Ordering::Release);
            }
            self.linked = self.tail;
        }
    }

    /// Goes on to another chunk, with room for `len` bytes. The commit links it.
    #[cold]
    #[inline(never)]
    fn roll(&mut self, len: usize) -> Result<(), ReserveError> {
        if self.shared.reader_gone.load(Ordering::Acquire) {
            return Err(ReserveError::Closed);
        }
        if len > self.settings.bytes_max {
            return Err(ReserveError::TooLarge);
        }
        let unread = self.unread_bytes();
        // SAFETY: (owner) `linked` is the chain's last chunk; `capacity` never changes.
        let last_capacity = unsafe { (*self.linked).capacity };
        // Step up only for a writer that runs ahead: a lane with a record now and then stays small.
        let larger = CHUNK_SIZES.get(self.step + 1).is_some_and(|size| *size <= self.settings.chunk_bytes_max);
        if larger && unread as usize >= last_capacity / 2 && last_capacity >= CHUNK_SIZES[self.step] {
            self.step += 1;
            self.drop_free();
        }
        if self.tail != self.linked {
            // Reserved and never committed to.
            let abandoned = std::mem::replace(&mut self.tail, self.linked);
            // SAFETY: (owner) `linked` is the chain's last chunk; nobody else stores to `committed`.
            self.at = unsafe { (*self.linked).committed.load(Ordering::Relaxed) };
            self.keep(abandoned);
        }
        self.take_returned();
        self.tail = self.choose(len, unread == 0, last_capacity).ok_or(ReserveError::Full)?;
        self.at = 0;
        Ok(())
    }

    /// Keeps a chunk of the current size for reuse, frees any other. It must be the writer's alone.
    fn keep(&mut self, link: *mut Link) {
        // SAFETY: (owner) as the callers say: never linked, or taken from the returned stack.
        unsafe {
            if (*link).capacity == CHUNK_SIZES[self.step] {
                (*link).committed.store(0, Ordering::Relaxed);
                (*link).next.store(ptr::null_mut(), Ordering::Relaxed);
                self.free.push(link);
            } else {
                self.allocated -= (*link).capacity;
                Link::free(link);
            }
        }
    }

    /// A chunk for an entry of `len`: one kept, or a new one within the bound, or none.
    fn choose(&mut self, len: usize, drained: bool, last_capacity: usize) -> Option<*mut Link> {
        if CHUNK_SIZES[self.step] >= len
            && let Some(link) = self.free.pop()
        {
            return Some(link);
        }
        // The wanted size first, smaller pooled ones if the bound forbids it, an exact one for what no pooled chunk holds.
        let (step, chunk_max) = (self.step, self.settings.chunk_bytes_max);
        let exact = (len > chunk_max).then_some(len);
        let larger = len > CHUNK_SIZES[step];
        let above = CHUNK_SIZES.into_iter().filter(move |size| larger && *size >= len && *size <= chunk_max);
        let pooled = CHUNK_SIZES[..=step].iter().rev().copied().filter(move |size| *size >= len);
        let sizes = exact.into_iter().chain(above).chain(pooled);
        // A last chunk that was read to its end goes back as soon as the next one is linked.
        let leaving = if drained { last_capacity } else { 0 };
        for size in sizes {
            let max = if size > self.settings.chunk_bytes_max { self.settings.bytes_max } else { self.pooled_max() };
            if self.allocated - leaving + size > max {
                self.drop_free();
            }
            if self.allocated - leaving + size <= max {
                self.allocated += size;
                self.allocations += 1;
                return Some(Link::allocate(size));
            }
        }
        None
    }

    /// The bound where no single entry is larger than a chunk. Measured: more than eight chunks make nothing faster.
    fn pooled_max(&self) -> usize {
        self.settings.bytes_max.min(8 * self.settings.chunk_bytes_max)
    }

    /// Takes back what the reader returned: chunks of the current size are kept, others freed.
    fn take_returned(&mut self) {
        let mut link = self.shared.returned.swap(ptr::null_mut(), Ordering::Acquire);
        while !link.is_null() {
            // SAFETY: (owner) the stack was taken whole, so its chunks are the writer's alone; Acquire pairs with the
            // reader's push, so its last reads of the memory happened before.
            let next = unsafe { (*link).next.load(Ordering::Relaxed) };
            self.keep(link);
            link = next;
        }
    }

    fn drop_free(&mut self) {
        for link in self.free.drain(..) {
            // SAFETY: (owner) chunks in `free` are the writer's alone.
            unsafe {
                self.allocated -= (*link).capacity;
                Link::free(link);
            }
        }
    }

    /// Frees what is kept for reuse, for a lane that fell idle. What is in the chain stays.
    pub fn shrink(&mut self) {
        self.free_spare();
        self.step = 0;
    }

    /// As [`StreamWriter::shrink`], for a lane that only waits: its next chunk is as large as the last one.
    pub fn free_spare(&mut self) {
        self.take_returned();
        self.drop_free();
    }

    /// Committed bytes that the reader has not consumed, as far as is known here.
    pub fn unread_bytes(&self) -> u64 {
        self.total - self.shared.consumed.load(Ordering::SeqCst)
    }

    /// Bytes committed since the beginning.
    pub fn committed_total(&self) -> u64 {
        self.total
    }

    /// Whether a reservation of `len` bytes needs no other chunk: one subtraction.
    #[inline]
    pub fn fits(&self, len: usize) -> bool {
        // SAFETY: (owner) `tail` is ours or in the chain; `capacity` never changes.
        unsafe { (*self.tail).capacity - self.at >= len }
    }

    /// Chunk memory held now, in bytes: in the chain, on its way back, and kept.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated
    }

    /// Chunks allocated since the beginning; stands still in steady state.
    pub fn allocations(&self) -> u64 {
        self.allocations
    }

    /// The bounds, as they are applied.
    pub fn settings(&self) -> StreamSettings {
        self.settings
    }

    /// Whether the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.reader_gone.load(Ordering::SeqCst)
    }

    /// Asks the reader to say so ([`StreamReader::consume`] returns true) when half of the bound is unread (nothing, with
    /// [`StreamSettings::resume_empty`]), or at least something more than now was consumed. The caller looks again after this.
    pub fn ask_for_room(&mut self) {
        let consumed = self.shared.consumed.load(Ordering::SeqCst);
        let unread = if self.settings.resume_empty { 0 } else { self.pooled_max() as u64 / 2 };
        self.shared.resume_at.swap(self.total.saturating_sub(unread).max(consumed + 1), Ordering::SeqCst);
        super::sync::store_load_barrier();
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if self.tail != self.linked {
            self.keep(self.tail);
        }
        self.drop_free();
        self.shared.writer_gone.store(true, Ordering::SeqCst);
    }
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter").field("total", &self.total).field("allocated", &self.allocated).finish()
    }
}

/// The reading half.
pub struct StreamReader {
    shared: Arc<Shared>,
    head: *mut Link,
    /// Consumed bytes of `head`.
    at: usize,
    /// Consumed bytes since the beginning.
    total: u64,
}

// SAFETY: as for the writer: one thread at a time, pointers go with the half.
unsafe impl Send for StreamReader {}

impl StreamReader {
    /// What is committed and not consumed in the current chunk: whole entries, contiguous; empty when there is nothing.
    #[inline]
    pub fn readable(&mut self) -> &[u8] {
        let len = self.readable_len();
        // SAFETY: (owner) `head` is in the chain or ours; (bounds) `at + len <= committed <= capacity`, and the writer never
        // writes below `committed` again; the acquire load of `committed` made those bytes visible; (lifetime) the slice
        // borrows `self`, and only `consume` retires the chunk.
        unsafe { std::slice::from_raw_parts((*self.head).memory.add(self.at), len) }
    }

    /// The length of what [`StreamReader::readable`] would give; moves to the next chunk where this one is finished.
    #[inline]
    pub fn readable_len(&mut self) -> usize {
        loop {
            // SAFETY: (owner) `head` is in the chain, and only this reader retires it.
            let head = unsafe { &*self.head };
            let committed = head.committed.load(Ordering::Acquire);
            if committed > self.at {
                return committed - self.at;
            }
            if !self.advance() {
                return 0;
            }
        }
    }

    /// Leaves a finished chunk for the next one, if there is one.
    fn advance(&mut self) -> bool {
        // SAFETY: (owner) `head` is in the chain, and only this reader retires it.
        let head = unsafe { &*self.head };
        let next = head.next.load(Ordering::Acquire);
        // The writer linked `next` after its last commit to this chunk, so this second look is final.
        if next.is_null() || head.committed.load(Ordering::Relaxed) > self.at {
            return !next.is_null();
        }
        let retired = self.head;
        self.head = next;
        self.at = 0;
        let mut below = self.shared.returned.load(Ordering::Relaxed);
        loop {
            // SAFETY: (owner) the chunk has a successor and is consumed: it is the reader's alone until the push succeeds.
            unsafe { (*retired).next.store(below, Ordering::Relaxed) };
            // Release: our reads of its memory happened before the writer reuses it.
            match self.shared.returned.compare_exchange_weak(below, retired, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => below = now,
            }
        }
    }

    /// Gives up the first `len` readable bytes; their memory goes back once its chunk is finished. True: the writer is out
    /// of room and asked to be told now.
    #[inline]
    pub fn consume(&mut self, len: usize) -> bool {
        // SAFETY: (owner) `head` is in the chain, and only this reader retires it.
        let committed = unsafe { (*self.head).committed.load(Ordering::Relaxed) };
        assert!(len <= committed - self.at, "consumed more than was readable");
        self.at += len;
        self.total += len as u64;
        if self.at == committed {
            // Before `consumed` is published: a writer that sees everything consumed finds all but the last chunk returned.
            self.advance();
        }
        self.shared.consumed.swap(self.total, Ordering::SeqCst);
        super::sync::store_load_barrier();
        let resume_at = self.shared.resume_at.load(Ordering::SeqCst);
        if self.total < resume_at {
            return false;
        }
        self.shared.resume_at.store(u64::MAX, Ordering::SeqCst);
        true
    }

    /// Bytes consumed since the beginning.
    pub fn consumed_total(&self) -> u64 {
        self.total
    }

    /// Tells the writer that nothing more will be read. Dropping does so too.
    pub fn close(&mut self) {
        self.shared.reader_gone.store(true, Ordering::SeqCst);
        super::sync::store_load_barrier();
    }

    /// Whether the writer is gone. What it committed before can still be read.
    pub fn is_closed(&self) -> bool {
        self.shared.writer_gone.load(Ordering::SeqCst)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.shared.head_left.store(self.head, Ordering::Release);
        self.close();
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader").field("total", &self.total).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn put(writer: &mut StreamWriter, entry: &[u8]) -> Result<(), ReserveError> {
        writer.reserve(entry.len())?.copy_from_slice(entry);
        writer.commit(entry.len());
        Ok(())
    }

    /// An entry that can be checked alone: length, sequence number, bytes derived from it.
    fn entry(sequence: u32, len: usize) -> Vec<u8> {
        let mut bytes = (len as u32).to_le_bytes().to_vec();
        bytes.extend(sequence.to_le_bytes());
        bytes.extend((8..len).map(|i| (sequence as usize + i) as u8));
        bytes
    }

    /// Takes whole entries off the front of `bytes`, checks each, returns how many bytes that was.
    fn check(mut bytes: &[u8], expected: &mut u32) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() {
            let len = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
            assert_eq!(bytes[..len], entry(*expected, len), "entry {expected} arrives whole and in order");
            *expected += 1;
            bytes = &bytes[len..];
        }
        all
    }

    #[test]
    fn entries_come_out_in_order_whole_and_contiguous() {
        let (mut writer, mut reader) = stream(StreamSettings::default());
        let (mut rng, mut sent, mut got) = (Rng::new(3), 0u32, 0u32);
        while got < 20_000 {
            if rng.percent(60) {
                let len = 8 + rng.below(900) as usize;
                if put(&mut writer, &entry(sent, len)).is_ok() {
                    sent += 1;
                }
            } else {
                let len = check(reader.readable(), &mut got);
                reader.consume(len);
            }
            assert!(writer.allocated_bytes() <= 512 << 10);
        }
    }

    #[test]
    fn memory_is_bounded_and_full_is_reported() {
        let (mut writer, mut reader) = stream(StreamSettings { bytes_max: 100_000, ..Default::default() });
        let mut sent = 0;
        while put(&mut writer, &entry(sent, 1_000)).is_ok() {
            sent += 1;
        }
        assert!(writer.allocated_bytes() <= 100_000);
        assert!(sent > 60, "{sent} entries of 1,000 bytes in 100,000");
        assert_eq!(writer.reserve(100_001).map(|room| room.len()), Err(ReserveError::TooLarge));
        let mut got = 0;
        while got < sent {
            let len = check(reader.readable(), &mut got);
            reader.consume(len);
        }
        // All consumed: even the largest entry goes in now, and again, and again.
        for _ in 0..3 {
            put(&mut writer, &entry(got, 100_000)).unwrap();
            assert_eq!(writer.reserve(100_000).map(|room| room.len()), Err(ReserveError::Full));
            let len = check(reader.readable(), &mut got);
            assert_eq!(len, 100_000);
            reader.consume(len);
        }
    }

    #[test]
    fn a_steady_state_allocates_nothing() {
        let (mut writer, mut reader) = stream(StreamSettings::default());
        let (mut sent, mut got) = (0, 0);
        let mut round = |writer: &mut StreamWriter, reader: &mut StreamReader| {
            for _ in 0..800 {
                put(writer, &entry(sent, 300)).unwrap();
                sent += 1;
            }
            while got < sent {
                let len = check(reader.readable(), &mut got);
                reader.consume(len);
            }
        };
        for _ in 0..5 {
            round(&mut writer, &mut reader);
        }
        let (allocations, allocated) = (writer.allocations(), writer.allocated_bytes());
        for _ in 0..50 {
            round(&mut writer, &mut reader);
        }
        assert_eq!((writer.allocations(), writer.allocated_bytes()), (allocations, allocated));
        writer.shrink();
        assert!(writer.allocated_bytes() <= 64 << 10, "only the last chunk stays: {}", writer.allocated_bytes());
    }

    #[test]
    fn a_slow_lane_stays_at_its_first_size() {
        let (mut writer, mut reader) = stream(StreamSettings::default());
        let mut got = 0;
        for sent in 0..1_000 {
            put(&mut writer, &entry(sent, 300)).unwrap();
            let len = check(reader.readable(), &mut got);
            reader.consume(len);
        }
        assert!(writer.allocated_bytes() <= 8 << 10, "{}", writer.allocated_bytes());
    }

    #[test]
    fn an_entry_larger_than_a_chunk_gets_its_own() {
        let (mut writer, mut reader) = stream(StreamSettings { bytes_max: 1 << 20, ..Default::default() });
        let mut got = 0;
        for (sent, len) in [100, 200_000, 100, 65_537, 65_536, 8].into_iter().enumerate() {
            put(&mut writer, &entry(sent as u32, len)).unwrap();
        }
        while got < 6 {
            let len = check(reader.readable(), &mut got);
            assert!(len > 0);
            reader.consume(len);
        }
    }

    #[test]
    fn an_abandoned_reservation_is_not_seen() {
        let (mut writer, mut reader) = stream(StreamSettings::default());
        writer.reserve(100).unwrap().fill(7);
        writer.reserve(5_000).unwrap().fill(8);
        assert_eq!(reader.readable(), b"");
        put(&mut writer, b"abc").unwrap();
        assert_eq!(reader.readable(), b"abc");
        writer.reserve(10).unwrap()[..2].copy_from_slice(b"de");
        writer.commit(2);
        assert_eq!(reader.readable(), b"abcde");
        reader.consume(4);
        assert_eq!(reader.readable(), b"e");
    }

    #[test]
    fn what_was_committed_survives_the_writer_and_a_gone_reader_closes() {
        let (mut writer, mut reader) = stream(StreamSettings::default());
        put(&mut writer, b"abc").unwrap();
        drop(writer);
        assert!(reader.is_closed());
        assert_eq!(reader.readable(), b"abc");
        let (mut writer, reader) = stream(StreamSettings::default());
        put(&mut writer, b"abc").unwrap();
        drop(reader);
        assert!(writer.is_closed());
        assert_eq!(writer.reserve(5_000).map(|room| room.len()), Err(ReserveError::Closed));
    }

    #[test]
    fn a_full_writer_is_told_at_half_or_when_nothing_is_left() {
        for resume_empty in [false, true] {
            let (mut writer, mut reader) = stream(StreamSettings { resume_empty, ..Default::default() });
            while put(&mut writer, &[7; 1_000]).is_ok() {}
            writer.ask_for_room();
            let (all, mut told) = (writer.unread_bytes(), 0);
            while told == 0 && writer.unread_bytes() > 0 {
                let len = reader.readable().len().min(10_000);
                if reader.consume(len) {
                    told = all - writer.unread_bytes();
                }
            }
            let half = all - writer.settings().bytes_max as u64 / 2;
            let expected = if resume_empty { all..=all } else { half..=half + 10_000 };
            assert!(expected.contains(&told), "{told} of {all}");
        }
    }

    #[test]
    fn two_threads_move_everything_in_order() {
        let settings = StreamSettings { bytes_max: 128 << 10, ..Default::default() };
        // Miri is slow; the interleavings, not the count, matter there.
        let count = if cfg!(miri) { 300 } else { 300_000 };
        let (mut writer, mut reader) = stream(settings);
        let sender = std::thread::spawn(move || {
            let mut rng = Rng::new(11);
            for sequence in 0..count {
                let len = 8 + rng.below(if sequence % 1000 == 0 { 100_000 } else { 400 }) as usize;
                let entry = entry(sequence, len);
                while put(&mut writer, &entry).is_err() {
                    std::thread::yield_now();
                }
                assert!(writer.allocated_bytes() <= (128 << 10) + 100_008);
            }
        });
        let mut got = 0;
        while got < count {
            let len = check(reader.readable(), &mut got);
            if len == 0 {
                std::thread::yield_now();
            } else {
                reader.consume(len);
            }
        }
        sender.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::thread;

    /// Entries of 2,000 bytes: every third one needs another chunk, so linking, retiring and reuse are all in the model.
    #[test]
    fn loom_entries_arrive_whole_across_chunks() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let (mut writer, mut reader) = stream(StreamSettings { bytes_max: 8 << 10, ..Default::default() });
            let sender = thread::spawn(move || {
                let mut sent = 0u8;
                while sent < 5 {
                    match writer.reserve(2_000) {
                        Ok(room) => {
                            room[0] = sent;
                            room[1_999] = sent;
                            writer.commit(2_000);
                            sent += 1;
                        }
                        Err(error) => {
                            assert_eq!(error, ReserveError::Full);
                            thread::yield_now();
                        }
                    }
                }
            });
            let mut got = 0u8;
            while got < 5 {
                let bytes = reader.readable();
                let len = bytes.len();
                assert_eq!(len % 2_000, 0);
                for entry in bytes.chunks(2_000) {
                    assert_eq!((entry[0], entry[1_999]), (got, got));
                    got += 1;
                }
                if len == 0 {
                    thread::yield_now();
                } else {
                    reader.consume(len);
                }
            }
            sender.join().unwrap();
        });
    }

    #[test]
    fn loom_either_half_may_go_first() {
        loom::model(|| {
            let (mut writer, mut reader) = stream(StreamSettings { bytes_max: 8 << 10, ..Default::default() });
            let sender = thread::spawn(move || {
                for _ in 0..2 {
                    if writer.reserve(3_000).is_ok() {
                        writer.commit(3_000);
                    }
                }
            });
            let len = reader.readable().len();
            if len > 0 {
                reader.consume(len);
            }
            drop(reader);
            sender.join().unwrap();
        });
    }
}
