//! The system's allocator, counting: allocations of the whole process, and the bytes that each thread holds. A test binary
//! that names this file has it as its allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Bytes held now and at most. What another thread gives back is missing here, so it wraps.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn taken(bytes: usize) {
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now.wrapping_add(bytes);
        held.set((now, most.max(now)));
    });
}

fn given_back(bytes: usize) {
    let _ = HELD.try_with(|held| held.set((held.get().0.wrapping_sub(bytes), held.get().1)));
}

// SAFETY: (owner) every call goes to `System` unchanged, so its guarantees are ours; (bounds, lifetime) the counters are
// plain numbers and touch no allocated memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        taken(layout.size());
        // SAFETY: the caller's promises are the ones `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        taken(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // For a moment there may be both.
        taken(size);
        given_back(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Allocations of this process while `work` ran, on whatever thread.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    let done = work();
    (done, ALLOCATIONS.load(Ordering::SeqCst) - before)
}

/// The most bytes that this thread held at once while `work` ran, beyond what it held before.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let done = work();
    (done, HELD.get().1.wrapping_sub(before))
}
