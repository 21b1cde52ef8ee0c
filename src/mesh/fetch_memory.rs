//! `fetch.memory`: what all shards and consumers of an engine may hold of fetched data, compressed bytes 1:1.
//!
//! ```text
//!   shard's pool ── reserve (a Fetch is sent) ─► used ◄─ out, kept ── slab home ─► free ─► bell of pools that wait
//!   consumer ───── window (decompressed) ──────► windows, an eighth set aside for them
//!   links: each may hold capacity / (links + 1), so that no slow reader takes what others need, nor a new one
//! ```
//! An answer may be larger than any limit, for a broker sends its first batch whole (KIP-74). Then what its reservation
//! lacks comes out of the free bytes, and if those do not suffice, out of the one reserve that an engine has for it.
//!
//! Never: blocks, hands out what is not there.

use std::fmt;

use super::Doorbell;
use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::base::sync::{self, Mutex, lock};

/// One part in so many is set aside for decompression.
const WINDOWS_PART: usize = 8;

/// The engine's. Cheap to clone.
#[derive(Clone)]
pub struct FetchMemory(sync::Arc<Inner>);

struct Inner {
    capacity: usize,
    /// Reserved for answers, held by slabs that are out, kept by pools.
    used: AtomicUsize,
    /// Decompressed bytes that consumers hold.
    windows: AtomicUsize,
    /// Fetch links of all shards.
    links: AtomicUsize,
    /// An oversized answer is out.
    oversized: AtomicBool,
    /// A pool was refused: it wants its bell rung, and others are to keep nothing.
    waiting: AtomicBool,
    bells: Mutex<Vec<Doorbell>>,
}

impl FetchMemory {
    /// `capacity` bytes, all free.
    pub fn new(capacity: usize) -> Self {
        Self(sync::Arc::new(Inner {
            capacity,
            used: AtomicUsize::new(0),
            windows: AtomicUsize::new(0),
            links: AtomicUsize::new(0),
            oversized: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            bells: Mutex::new(Vec::new()),
        }))
    }

    /// All there is, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.0.capacity
    }

    /// Bytes reserved, out, or kept for the next answer. More than the capacity only by rounding.
    pub fn used_bytes(&self) -> usize {
        self.0.used.load(Ordering::SeqCst)
    }

    /// Decompressed bytes that consumers hold.
    pub fn window_bytes(&self) -> usize {
        self.0.windows.load(Ordering::SeqCst)
    }

    /// Bytes that can be reserved now.
    pub fn free_bytes(&self) -> usize {
        let aside = self.window_bytes().max(self.0.capacity / WINDOWS_PART);
        self.0.capacity.saturating_sub(self.used_bytes().saturating_add(aside))
    }

    /// Bytes that one link may hold.
    pub fn share_bytes(&self) -> usize {
        (self.0.capacity - self.0.capacity / WINDOWS_PART) / (self.0.links.load(Ordering::Relaxed) + 1)
    }

    /// A consumer's buffer grew by `bytes`.
    pub fn window_grew(&self, bytes: usize) {
        self.0.windows.fetch_add(bytes, Ordering::SeqCst);
    }

    /// A consumer's buffer shrank by `bytes`, or is gone.
    pub fn window_shrank(&self, bytes: usize) {
        self.0.windows.fetch_sub(bytes, Ordering::SeqCst);
        self.came_free();
    }

    pub(super) fn add_bell(&self, bell: Doorbell) {
        lock(&self.0.bells).push(bell);
    }

    pub(super) fn change_links(&self, before: usize, now: usize) {
        // Never below zero: each pool takes away what it added.
        self.0.links.fetch_add(now, Ordering::Relaxed);
        self.0.links.fetch_sub(before, Ordering::Relaxed);
    }

    /// Takes `bytes` if they are free.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        if bytes > self.free_bytes() {
            return false;
        }
        self.0.used.fetch_add(bytes, Ordering::SeqCst);
        // Another shard may have been as quick.
        if self.used_bytes() > self.0.capacity {
            self.give(bytes);
            return false;
        }
        true
    }

    /// Takes `bytes` in any case: rounding.
    pub(super) fn force(&self, bytes: usize) {
        self.0.used.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn give(&self, bytes: usize) {
        if bytes > 0 {
            self.0.used.fetch_sub(bytes, Ordering::SeqCst);
            self.came_free();
        }
    }

    /// Takes the engine's one reserve for an answer that exceeds all limits.
    pub(super) fn take_reserve(&self) -> bool {
        !self.0.oversized.swap(true, Ordering::SeqCst)
    }

    pub(super) fn give_reserve(&self) {
        self.0.oversized.store(false, Ordering::SeqCst);
        self.came_free();
    }

    pub(super) fn is_reserve_free(&self) -> bool {
        !self.0.oversized.load(Ordering::SeqCst)
    }

    /// Asks to be rung when memory comes free, and others to let go of what they only keep.
    pub(super) fn wait(&self) {
        if !self.0.waiting.swap(true, Ordering::SeqCst) {
            self.ring();
        }
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed)
    }

    fn came_free(&self) {
        fence(Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) && self.0.waiting.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        lock(&self.0.bells).iter().for_each(Doorbell::notify_now);
    }
}

impl fmt::Debug for FetchMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, windows) = (self.used_bytes(), self.window_bytes());
        write!(f, "FetchMemory({used} used, {windows} decompressed, of {})", self.0.capacity)
    }
}
