//! Slabs: the memory that fetched bytes live in. Taken by a shard, filled by it, read on any thread, and back home when
//! the last reader lets go.
//!
//! ```text
//!   shard: SlabPool ── take ──► Slab ── fill ──► Bytes (shared) ──► consumer's records
//!             ▲                                      │ last one dropped, on whatever thread
//!             └──────── mailbox ◄────────────────────┘
//! ```
//! The pool keeps one shard's books of `fetch.memory` ([`super::FetchMemory`]): a grant is reserved when a Fetch is sent,
//! what came stays reserved by the slab's capacity, and all of it is free again when the slab is home. A slab that is kept
//! for the next answer counts, too, and is let go of as soon as anybody needs the memory.
//!
//! Never: allocates by what a peer announces without a reservation's say, loses count of a slab, blocks in a drop.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Doorbell, FetchMemory, MailboxReceiver, MailboxSender, mailbox};
use crate::base::gate::Medium;
use crate::base::ids::{BrokerId, ConsumerIx};

/// Slabs are multiples of this; the smallest too.
const STEP_BYTES: usize = 4 << 10;
/// Above this, slabs are multiples of [`LARGE_STEP_BYTES`], so that answers of similar size reuse each other's.
const LARGE_FROM_BYTES: usize = 256 << 10;
const LARGE_STEP_BYTES: usize = 256 << 10;
/// Free slabs kept at most.
const KEPT_MAX: usize = 16;
/// A free slab that none of so many answers could use is given back to the allocator.
const KEPT_TAKES: u64 = 16;

/// A fetch link: its consumer and its broker.
pub type FetchLink = (ConsumerIx, BrokerId);

/// What comes home.
#[derive(Debug)]
struct Returned {
    memory: Vec<u8>,
    link: FetchLink,
    /// It was the one that the engine has a reserve for: its memory was not counted.
    oversized: bool,
}

/// What a refused link waits for.
#[derive(Clone, Copy, Debug)]
struct Short {
    bytes: usize,
    reserve: bool,
}

/// One shard's slabs.
#[derive(Debug)]
pub struct SlabPool {
    memory: FetchMemory,
    /// With the count of takes when they came home, and whose they were.
    free: Vec<(u64, FetchLink, Vec<u8>)>,
    takes: u64,
    /// Bytes of [`SlabPool::free`].
    kept_bytes: usize,
    home: MailboxSender<Returned>,
    returns: MailboxReceiver<Returned>,
    /// Reserved or out, by link.
    held: BTreeMap<FetchLink, usize>,
    links: usize,
    short: Option<Short>,
}

impl SlabPool {
    /// A pool for the thread that `doorbell` wakes.
    pub fn new(memory: FetchMemory, doorbell: Doorbell, medium: &Medium) -> Self {
        memory.add_bell(doorbell.clone());
        let (home, returns) = mailbox(doorbell, medium);
        let (free, held) = (Vec::new(), BTreeMap::new());
        Self { memory, free, takes: 0, kept_bytes: 0, home, returns, held, links: 0, short: None }
    }

    /// Takes back what came home. True when refused reservations may succeed now.
    pub fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some(Returned { memory, link, oversized }) = self.returns.take() {
            any = true;
            self.let_go(link, memory.len());
            if oversized {
                self.memory.give_reserve();
            } else {
                self.keep(link, memory);
            }
        }
        if self.kept_bytes > 0 && self.short.is_none() && self.memory.is_waited_for() {
            self.drop_kept(0);
        }
        if self.short.is_some_and(|short| self.suffices(short)) {
            self.short = None;
            any = true;
        }
        any
    }

    /// Whether [`SlabPool::collect`] has something to do: the look after [`super::Sleeper::prepare`].
    pub fn has_returns(&mut self) -> bool {
        if self.returns.has_items() {
            return true;
        }
        let Some(short) = self.short else {
            return self.kept_bytes > 0 && self.memory.is_waited_for();
        };
        // First asked to be rung, then looked: whoever gives memory back does it the other way round.
        self.memory.wait();
        self.suffices(short)
    }

    fn suffices(&self, short: Short) -> bool {
        self.memory.free_bytes() + self.kept_bytes >= short.bytes && (!short.reserve || self.memory.is_reserve_free())
    }

    /// How many links this pool serves.
    pub fn set_links(&mut self, links: usize) {
        self.memory.change_links(self.links, links);
        self.links = links;
    }

    /// Bytes of the engine's memory that are reserved, out or kept.
    pub fn used_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    /// Reserves up to `want` bytes for the answer to a Fetch of a link, at least `floor` (less where the link's share is
    /// small). With `need`, as many, for an answer that was too large before; if that is more than the link may ever have,
    /// what is there, provided that the engine's reserve is free.
    pub fn reserve(&mut self, link: FetchLink, want: usize, floor: usize, need: usize) -> Option<usize> {
        let share = self.memory.share_bytes();
        let left = share.saturating_sub(self.held.get(&link).copied().unwrap_or(0));
        let reserve = need > share;
        let floor = match need {
            0 => floor.min(share / 2).max(1),
            need if reserve => 1.min(need),
            need => need,
        };
        if reserve && !self.memory.is_reserve_free() {
            self.short = Some(Short { bytes: 0, reserve: true });
            return None;
        }
        let want = want.max(need.min(share)).min(left).max(usize::from(reserve));
        if want < floor {
            // The link's own slabs will come home.
            return None;
        }
        loop {
            let free = self.memory.free_bytes();
            let take = want.min(free);
            if take >= floor && self.memory.try_take(take) {
                *self.held.entry(link).or_default() += take;
                return Some(take);
            }
            if take >= floor {
                // Another shard was quicker.
                continue;
            }
            if !self.drop_oldest() {
                self.short = Some(Short { bytes: floor, reserve: false });
                return None;
            }
        }
    }

    /// Gives a reservation back: no answer came.
    pub fn release(&mut self, link: FetchLink, bytes: usize) {
        self.let_go(link, bytes);
        self.memory.give(bytes);
    }

    /// An empty slab with room for `size` bytes, in place of a link's reservation of `reserved` bytes, which is smaller
    /// when the broker sent a batch that exceeds what was asked for (KIP-74). `None` when there is no memory for it: then
    /// the reservation stays, and the answer is to be asked for again.
    pub fn take(&mut self, link: FetchLink, size: usize, reserved: usize) -> Option<Slab> {
        let step = if size > LARGE_FROM_BYTES { LARGE_STEP_BYTES } else { STEP_BYTES };
        let mut oversized = false;
        if size > reserved {
            let more = size - reserved;
            while !self.memory.try_take(more) {
                if self.drop_oldest() {
                    continue;
                }
                if !self.memory.take_reserve() {
                    return None;
                }
                oversized = true;
                break;
            }
            if !oversized {
                *self.held.entry(link).or_default() += more;
            }
        }
        let paid = if oversized { reserved } else { reserved.max(size) };
        self.let_go(link, paid);
        let memory = if oversized { None } else { self.take_kept(size, step) };
        let memory = match memory {
            // Its memory was paid for as long as it was kept.
            Some(memory) => {
                self.memory.give(paid);
                memory
            }
            None => {
                self.drop_outgrown(link, size);
                let memory = vec![0; size.max(1).next_multiple_of(step)];
                if oversized {
                    self.memory.give(paid);
                } else {
                    // Rounding.
                    self.memory.force(memory.len());
                    self.memory.give(paid);
                }
                memory
            }
        };
        *self.held.entry(link).or_default() += memory.len();
        self.takes += 1;
        while let Some((came, ..)) = self.free.first()
            && came + KEPT_TAKES < self.takes
        {
            self.drop_oldest();
        }
        Some(Slab { memory, filled: 0, link, oversized, home: self.home.clone() })
    }

    /// The smallest kept one that fits and does not waste more than a step or a quarter.
    fn take_kept(&mut self, size: usize, step: usize) -> Option<Vec<u8>> {
        let fits = |memory: &Vec<u8>| memory.len() >= size && memory.len() <= size + step.max(size / 4);
        let all = 0..self.free.len();
        let best = all.filter(|at| fits(&self.free[*at].2)).min_by_key(|at| self.free[*at].2.len())?;
        let (.., memory) = self.free.remove(best);
        self.kept_bytes -= memory.len();
        Some(memory)
    }

    /// A link whose answers grow leaves smaller slabs behind: one goes for each larger one that has to be made.
    fn drop_outgrown(&mut self, link: FetchLink, size: usize) {
        let outgrown = |(_, of, memory): &(u64, FetchLink, Vec<u8>)| *of == link && memory.len() < size;
        if let Some(at) = self.free.iter().position(outgrown) {
            let (.., memory) = self.free.remove(at);
            self.kept_bytes -= memory.len();
            self.memory.give(memory.len());
        }
    }

    fn let_go(&mut self, link: FetchLink, bytes: usize) {
        if let Some(held) = self.held.get_mut(&link) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(&link);
            }
        }
    }

    fn keep(&mut self, link: FetchLink, memory: Vec<u8>) {
        // No more than half the memory lies idle, and not many.
        let too_much = self.kept_bytes + memory.len() > self.memory.capacity_bytes() / 2;
        if too_much || self.memory.is_waited_for() {
            self.memory.give(memory.len());
            return;
        }
        if self.free.len() == KEPT_MAX {
            self.drop_oldest();
        }
        self.kept_bytes += memory.len();
        self.free.push((self.takes, link, memory));
    }

    fn drop_kept(&mut self, down_to: usize) {
        while self.kept_bytes > down_to && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        if self.free.is_empty() {
            return false;
        }
        let (.., memory) = self.free.remove(0);
        self.kept_bytes -= memory.len();
        let bytes = memory.len();
        drop(memory);
        self.memory.give(bytes);
        true
    }
}

impl Drop for SlabPool {
    fn drop(&mut self) {
        self.drop_kept(0);
        self.set_links(0);
    }
}

/// Memory of a pool, filled from the front. Goes home when dropped.
#[derive(Debug)]
pub struct Slab {
    memory: Vec<u8>,
    filled: usize,
    link: FetchLink,
    oversized: bool,
    home: MailboxSender<Returned>,
}

impl Slab {
    /// Appends `bytes`; false, and nothing appended, when they do not fit.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.memory.get_mut(self.filled..self.filled + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.filled += bytes.len();
        true
    }

    /// Lends the memory, which is then written elsewhere: what is filled ends there. [`Slab::restore`] must follow before it
    /// goes home.
    pub fn lend(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.memory), self.filled)
    }

    /// The memory that was lent.
    pub fn restore(&mut self, memory: Vec<u8>) {
        debug_assert!(self.memory.is_empty() && memory.len() >= self.filled);
        self.memory = memory;
    }

    /// Declares `count` more bytes filled, written while the memory was lent; false when there is no room for them.
    pub fn advance(&mut self, count: usize) -> bool {
        let fits = count <= self.memory.len() - self.filled;
        self.filled += if fits { count } else { 0 };
        fits
    }

    /// What was filled, shared from now on. The slab goes home with the last of its slices.
    pub fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Bytes filled.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing was filled.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // The shard may be gone: then so is the memory.
        let _ = self.home.send(Returned { memory, link: self.link, oversized: self.oversized });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mesh::sleeper;

    const A: FetchLink = (ConsumerIx(1), BrokerId(1));
    const B: FetchLink = (ConsumerIx(1), BrokerId(2));

    fn pools(capacity: usize, count: usize) -> (FetchMemory, Vec<SlabPool>) {
        let memory = FetchMemory::new(capacity);
        let pool = |_| {
            let (_, doorbell) = sleeper(&Medium::threads(), || {});
            SlabPool::new(memory.clone(), doorbell, &Medium::threads())
        };
        (memory.clone(), (0..count).map(pool).collect())
    }

    fn pool(capacity: usize) -> SlabPool {
        pools(capacity, 1).1.remove(0)
    }

    #[test]
    fn r09_a_slab_is_counted_until_its_last_slice_is_dropped_on_another_thread() {
        let mut pool = pool(1 << 20);
        assert_eq!(pool.reserve(A, 300_000, 1, 0), Some(300_000));
        assert_eq!(pool.used_bytes(), 300_000);
        let mut slab = pool.take(A, 10_000, 300_000).unwrap();
        assert_eq!(pool.used_bytes(), 12_288, "what came, not what was asked for");
        assert!(slab.put(&[7; 10_000]) && !slab.put(&[7; 3_000]) && slab.len() == 10_000);
        let bytes = slab.share();
        let slice = bytes.slice(9_000..);
        drop(bytes);
        assert!(!pool.collect());
        std::thread::spawn(move || assert_eq!(slice.len(), 1_000)).join().unwrap();
        assert!(pool.collect());
        assert_eq!((pool.used_bytes(), pool.kept_bytes), (12_288, 12_288), "kept, and counted");
        // And it is used again.
        let again = pool.take(A, 9_000, 0).unwrap();
        assert_eq!((again.memory.len(), pool.kept_bytes, pool.used_bytes()), (12_288, 0, 12_288));
    }

    #[test]
    fn r09_one_oversized_answer_has_a_reserve_and_the_next_one_waits_for_it() {
        let (memory, mut pools) = pools(1 << 20, 2);
        let [first, second] = &mut pools[..] else { panic!() };
        first.set_links(1);
        second.set_links(1);
        let reserved = first.reserve(A, 200_000, 1, 0).unwrap();
        let slab = first.take(A, 3 << 20, reserved).unwrap();
        assert!(slab.oversized && memory.used_bytes() == 0, "not out of the others' memory");
        let reserved = second.reserve(B, 200_000, 1, 0).unwrap();
        assert!(second.take(B, 2 << 20, reserved).is_none(), "there is one reserve");
        second.release(B, reserved);
        assert_eq!(second.reserve(B, 200_000, 1, 2 << 20), None);
        assert!(!second.has_returns() && !second.collect());
        drop(slab);
        assert!(first.collect());
        assert!(second.has_returns() && second.collect(), "told across shards");
        let reserved = second.reserve(B, 200_000, 1, 2 << 20).unwrap();
        assert!(second.take(B, 2 << 20, reserved).is_some_and(|slab| slab.oversized));
        second.collect();
        assert!(memory.is_reserve_free() && memory.used_bytes() == 0 && first.kept_bytes == 0);
    }

    #[test]
    fn r09_memory_is_the_engines_and_each_link_has_its_share_of_it() {
        let (memory, mut pools) = pools(8 << 20, 2);
        let [first, second] = &mut pools[..] else { panic!() };
        first.set_links(1);
        // An eighth is for decompression, half of the rest for a link that comes later.
        let whole = (7 << 20) / 2;
        assert_eq!(first.reserve(A, 64 << 20, 64 << 10, 0), Some(whole));
        assert_eq!(first.reserve(A, 64 << 20, 64 << 10, 0), None, "its share is all out");
        second.set_links(1);
        let third = (7 << 20) / 3;
        assert_eq!(second.reserve(B, 64 << 20, 64 << 10, 0), Some(third), "whatever the other holds");
        // What decompression takes beyond its part is taken from nobody, but nothing is reserved meanwhile.
        memory.window_grew(4 << 20);
        second.release(B, third);
        assert_eq!(second.reserve(B, 1 << 20, 64 << 10, 0), Some((8 << 20) - (4 << 20) - whole));
        second.release(B, (8 << 20) - (4 << 20) - whole);
        memory.window_grew(1 << 20);
        assert_eq!(second.reserve(B, 1 << 20, 64 << 10, 0), None);
        assert!(!second.has_returns());
        memory.window_shrank(5 << 20);
        assert!(second.has_returns() && second.collect());
        first.release(A, whole);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn r09_what_one_shard_keeps_another_can_have() {
        let (memory, mut pools) = pools(8 << 20, 2);
        let [first, second] = &mut pools[..] else { panic!() };
        let reserved = first.reserve(A, 3 << 20, 1, 0).unwrap();
        let slabs: Vec<_> = (0..3).map(|_| first.take(A, 1 << 20, reserved / 3).unwrap()).collect();
        drop(slabs);
        assert!(first.collect() && first.kept_bytes == 3 << 20);
        assert_eq!(second.reserve(B, 6 << 20, 6 << 20, 0), Some(4 << 20), "what is free");
        second.release(B, 4 << 20);
        assert_eq!(second.reserve(B, 6 << 20, 6 << 20, 5 << 20), None, "an answer that needs more");
        assert!(!second.has_returns());
        assert!(first.has_returns(), "is asked to let go");
        first.collect();
        assert_eq!((first.kept_bytes, memory.used_bytes()), (0, 0));
        assert!(second.has_returns() && second.collect());
        assert!(second.reserve(B, 6 << 20, 6 << 20, 5 << 20).is_some());
    }

    #[test]
    fn slabs_that_nobody_uses_are_given_back() {
        let mut pool = pool(64 << 20);
        drop(pool.take(A, 4 << 20, 0));
        pool.collect();
        assert_eq!(pool.kept_bytes, 4 << 20);
        for _ in 0..=KEPT_TAKES {
            drop(pool.take(A, 100, 0));
            pool.collect();
        }
        assert_eq!((pool.kept_bytes, pool.used_bytes()), (4 << 10, 4 << 10));
    }

    #[test]
    fn a_link_that_outgrew_its_slabs_gives_them_back() {
        let mut pool = pool(64 << 20);
        let (small, other) = (pool.take(A, 1 << 20, 0).unwrap(), pool.take(B, 1 << 20, 0).unwrap());
        drop((small, other));
        pool.collect();
        let large = pool.take(A, 2 << 20, 0).unwrap();
        assert_eq!((pool.kept_bytes, pool.used_bytes()), (1 << 20, 3 << 20), "its own, not the other's");
        drop(large);
        pool.collect();
        assert_eq!(pool.take(B, 1 << 20, 0).unwrap().memory.len(), 1 << 20);
    }

    #[test]
    fn memory_that_is_lent_is_counted_and_comes_back_filled() {
        let mut pool = pool(1 << 20);
        let mut slab = pool.take(A, 20_000, 0).unwrap();
        assert!(slab.put(&[1; 5_000]));
        let (mut memory, filled) = slab.lend();
        memory[filled..filled + 4].copy_from_slice(&[2; 4]);
        assert_eq!((filled, pool.used_bytes()), (5_000, 20_480));
        slab.restore(memory);
        assert!(slab.advance(4) && !slab.advance(15_477) && slab.len() == 5_004);
        assert_eq!(slab.share()[4_999..], [1, 2, 2, 2, 2]);
        pool.collect();
        assert_eq!((pool.kept_bytes, pool.used_bytes()), (20_480, 20_480));
    }

    #[test]
    fn small_answers_do_not_hold_large_slabs() {
        let mut pool = pool(64 << 20);
        drop(pool.take(A, 4 << 20, 0));
        pool.collect();
        let small = pool.take(A, 100, 0).unwrap();
        assert_eq!(small.memory.len(), 4 << 10);
    }
}
