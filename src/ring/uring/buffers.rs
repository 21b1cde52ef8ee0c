//! The receive buffers that the kernel picks from: a ring of entries that we fill at its tail, and the memory behind it.
//!
//! ```text
//!   one mapping:  [ entries: 16 bytes each, page-rounded | buffer 0 | buffer 1 | ... | buffer n-1 ]
//!   give_back(i) writes entry tail & mask;  publish() makes them the kernel's, once per turn
//! ```
//! The pages of the buffers are touched, and so counted, only when data arrives.

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The one buffer group of a ring.
pub const GROUP: u16 = 0;
const PAGE: usize = 4096;

/// A registered ring of receive buffers.
#[derive(Debug)]
pub struct Buffers {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    entries_bytes: usize,
    count: u16,
    size: u32,
    /// Where the next entry goes; the kernel knows of it after `publish`.
    tail: u16,
}

impl Buffers {
    /// Maps memory for `count` (a power of two, at most 32,768) buffers of `size` bytes, registers them with the ring and
    /// publishes all of them.
    pub fn register(ring: &IoUring, count: u16, size: u32) -> io::Result<Self> {
        if !count.is_power_of_two() || count > 1 << 15 || size == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let entries_bytes = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let mapping_bytes = entries_bytes + usize::from(count) * size as usize;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let mapping = unsafe {
            mmap_anonymous(null_mut(), mapping_bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = Self { mapping, mapping_bytes, entries_bytes, count, size, tail: 0 };
        // SAFETY: (owner) the mapping is `buffers`'; (bounds) its first `entries_bytes` hold `count` entries and start on a
        // page; (lifetime) the backend drops `buffers` after the ring is closed or the group unregistered.
        unsafe { ring.submitter().register_buf_ring_with_flags(mapping.as_ptr() as u64, count, GROUP, 0)? };
        for index in 0..count {
            buffers.give_back(index);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// How many buffers there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The first `len` bytes of a buffer that a completion named. `None` when index or length are none of ours.
    ///
    /// The borrow ends before [`Buffers::give_back`], which takes `&mut self`.
    pub fn bytes(&self, index: u16, len: usize) -> Option<&[u8]> {
        if index >= self.count || len > self.size as usize {
            return None;
        }
        // SAFETY: (owner) a completion gave this buffer to us, so the kernel does not write to it until it is given back
        // and published, which needs `&mut self`; (bounds) index and length are checked above, and the mapping is zeroed
        // by the kernel, so every byte is initialised; (lifetime) the borrow of `self` keeps the mapping.
        Some(unsafe {
            let start = self.mapping.as_ptr().add(self.offset(index));
            std::slice::from_raw_parts(start, len)
        })
    }

    /// Puts a buffer behind the tail. The kernel may use it after the next [`Buffers::publish`].
    pub fn give_back(&mut self, index: u16) {
        if index >= self.count {
            return;
        }
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: (owner) at most `count` entries are between the kernel's head and the tail, because every buffer is given
        // back once per completion that named it, so the kernel does not read this entry now; (bounds) `slot < count` and
        // `index < count`; (lifetime) as long as the mapping.
        unsafe {
            let address = self.mapping.as_ptr().add(self.offset(index));
            let entry = &mut *self.mapping.as_ptr().cast::<BufRingEntry>().add(slot);
            entry.set_addr(address as u64);
            entry.set_len(self.size);
            entry.set_bid(index);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes what was given back available to the kernel.
    pub fn publish(&self) {
        // SAFETY: (owner) only this thread writes the tail, the kernel reads it; (bounds) the tail is a `u16` inside entry
        // 0 of the mapping, aligned to two bytes; (lifetime) as long as the mapping. The release store orders the entries
        // before the tail, as the kernel's acquire load expects.
        unsafe {
            let tail = BufRingEntry::tail(self.mapping.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    fn offset(&self, index: u16) -> usize {
        self.entries_bytes + usize::from(index) * self.size as usize
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: (owner) the mapping was made in `register` and is unmapped here only; (lifetime) no operation that could
        // pick a buffer is left and the group is unregistered, else the backend forgets `self` instead of dropping it.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
