//! Slabs: the memory that fetched bytes live in. Taken by a shard, filled by it, read on any thread, and back home when
//! the last reader lets go.
//!
//! ```text
//!   shard: SlabPool ── take ──► Slab ── fill ──► Bytes (shared) ──► consumer's records
//!             ▲                                      │ last one dropped, on whatever thread
//!             └──────── mailbox ◄────────────────────┘
//! ```
//! The pool keeps the books of `fetch.memory`: a grant is reserved when a Fetch is sent, what came stays reserved by the
//! slab's capacity, and all of it is free again when the slab is home.
//!
//! Never: allocates by what a peer announces without a reservation's say, loses count of a slab, blocks in a drop.

use bytes::Bytes;

use super::{Doorbell, MailboxReceiver, MailboxSender, mailbox};
use crate::base::gate::Medium;

/// Slabs are multiples of this; the smallest too.
const STEP_BYTES: usize = 4 << 10;
/// Above this, slabs are multiples of [`LARGE_STEP_BYTES`], so that answers of similar size reuse each other's.
const LARGE_FROM_BYTES: usize = 256 << 10;
const LARGE_STEP_BYTES: usize = 256 << 10;
/// Free slabs kept at most.
const KEPT_MAX: usize = 16;
/// A free slab that none of so many answers could use is given back to the allocator.
const KEPT_TAKES: u64 = 16;

/// One shard's slabs.
#[derive(Debug)]
pub struct SlabPool {
    /// With the count of takes when they came home.
    free: Vec<(u64, Vec<u8>)>,
    takes: u64,
    /// Bytes of [`SlabPool::free`].
    kept_bytes: usize,
    home: MailboxSender<Vec<u8>>,
    returns: MailboxReceiver<Vec<u8>>,
    capacity_bytes: usize,
    /// Reserved for answers that have not come, and held by slabs that are out.
    used_bytes: usize,
}

impl SlabPool {
    /// A pool with a budget of `capacity_bytes`, for the thread that `doorbell` wakes.
    pub fn new(capacity_bytes: usize, doorbell: Doorbell, medium: &Medium) -> Self {
        let (home, returns) = mailbox(doorbell, medium);
        Self { free: Vec::new(), takes: 0, kept_bytes: 0, home, returns, capacity_bytes, used_bytes: 0 }
    }

    /// Takes back what came home. True when something did: refused reservations may succeed now.
    pub fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some(memory) = self.returns.take() {
            self.used_bytes -= memory.len();
            any = true;
            self.keep(memory);
        }
        any
    }

    /// Whether something came home: the look after [`super::Sleeper::prepare`].
    pub fn has_returns(&mut self) -> bool {
        self.returns.has_items()
    }

    /// Bytes that can be reserved now.
    pub fn free_bytes(&self) -> usize {
        self.capacity_bytes.saturating_sub(self.used_bytes)
    }

    /// Bytes reserved or out.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Reserves for an answer that is asked for. Callers keep within [`SlabPool::free_bytes`].
    pub fn reserve(&mut self, bytes: usize) {
        self.used_bytes += bytes;
    }

    /// Gives a reservation back: no answer came.
    pub fn release(&mut self, bytes: usize) {
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
    }

    /// An empty slab with room for `size` bytes, in place of a reservation of `reserved` bytes. An answer may be larger
    /// than its reservation by one batch (KIP-74): the books then show more than the budget until it is home.
    pub fn take(&mut self, size: usize, reserved: usize) -> Slab {
        self.release(reserved);
        // The smallest that fits and does not waste more than as much again.
        let fits = |memory: &Vec<u8>| memory.len() >= size && memory.len() <= 2 * size.max(STEP_BYTES);
        let all = 0..self.free.len();
        let best = all.filter(|at| fits(&self.free[*at].1)).min_by_key(|at| self.free[*at].1.len());
        let memory = match best {
            Some(at) => {
                let (_, memory) = self.free.remove(at);
                self.kept_bytes -= memory.len();
                memory
            }
            None => {
                let step = if size > LARGE_FROM_BYTES { LARGE_STEP_BYTES } else { STEP_BYTES };
                vec![0; size.max(1).next_multiple_of(step)]
            }
        };
        self.used_bytes += memory.len();
        self.takes += 1;
        while let Some((came, memory)) = self.free.first()
            && came + KEPT_TAKES < self.takes
        {
            self.kept_bytes -= memory.len();
            self.free.remove(0);
        }
        Slab { memory, filled: 0, home: self.home.clone() }
    }

    fn keep(&mut self, memory: Vec<u8>) {
        // No more than half the budget lies idle, and not many.
        if self.kept_bytes + memory.len() > self.capacity_bytes / 2 {
            return;
        }
        if self.free.len() == KEPT_MAX {
            let (_, oldest) = self.free.remove(0);
            self.kept_bytes -= oldest.len();
        }
        self.kept_bytes += memory.len();
        self.free.push((self.takes, memory));
    }
}

/// Memory of a pool, filled from the front. Goes home when dropped.
#[derive(Debug)]
pub struct Slab {
    memory: Vec<u8>,
    filled: usize,
    home: MailboxSender<Vec<u8>>,
}

impl Slab {
    /// Appends `bytes`; false, and nothing appended, when they do not fit.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.memory.get_mut(self.filled..self.filled + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.filled += bytes.len();
        true
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
        // The shard may be gone: then so is the memory.
        let _ = self.home.send(std::mem::take(&mut self.memory));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mesh::sleeper;

    fn pool(capacity: usize) -> SlabPool {
        let (_, doorbell) = sleeper(&Medium::threads(), || {});
        SlabPool::new(capacity, doorbell, &Medium::threads())
    }

    #[test]
    fn r09_a_slab_is_counted_until_its_last_slice_is_dropped_on_another_thread() {
        let mut pool = pool(1 << 20);
        pool.reserve(300_000);
        assert_eq!(pool.free_bytes(), (1 << 20) - 300_000);
        let mut slab = pool.take(10_000, 300_000);
        assert_eq!(pool.used_bytes(), 12_288, "what came, not what was asked for");
        assert!(slab.put(&[7; 10_000]) && !slab.put(&[7; 3_000]) && slab.len() == 10_000);
        let bytes = slab.share();
        let slice = bytes.slice(9_000..);
        drop(bytes);
        assert!(!pool.collect());
        std::thread::spawn(move || assert_eq!(slice.len(), 1_000)).join().unwrap();
        assert!(pool.collect());
        assert_eq!(pool.used_bytes(), 0);
        // And it is used again.
        let again = pool.take(9_000, 0);
        assert_eq!((again.memory.len(), pool.kept_bytes), (12_288, 0));
    }

    #[test]
    fn r09_an_oversized_answer_is_taken_and_paid_back_later() {
        let mut pool = pool(1 << 20);
        pool.reserve(1 << 20);
        let slab = pool.take(3 << 20, 1 << 20);
        assert_eq!((pool.free_bytes(), pool.used_bytes()), (0, 3 << 20));
        drop(slab);
        pool.collect();
        assert_eq!(pool.free_bytes(), 1 << 20);
        assert_eq!(pool.kept_bytes, 0, "too large to keep");
    }

    #[test]
    fn slabs_that_nobody_uses_are_given_back() {
        let mut pool = pool(64 << 20);
        drop(pool.take(4 << 20, 0));
        pool.collect();
        assert_eq!(pool.kept_bytes, 4 << 20);
        for _ in 0..=KEPT_TAKES {
            drop(pool.take(100, 0));
            pool.collect();
        }
        assert_eq!(pool.kept_bytes, 4 << 10);
    }

    #[test]
    fn small_answers_do_not_hold_large_slabs() {
        let mut pool = pool(64 << 20);
        drop(pool.take(4 << 20, 0));
        pool.collect();
        let small = pool.take(100, 0);
        assert_eq!(small.memory.len(), 4 << 10);
    }
}
