//! Pooled byte chunks of one shard: what open and sealed batches are made of, and what the ring writes from.
//!
//! A [`Chunk`] is filled by one owner, frozen, and then shared by reference count within its shard until the kernel and
//! the retry queue have both let go; dropping the last reference gives it back to its pool. Nothing here crosses threads.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// What streams and batches grow by as they fill, in bytes.
pub const CHUNK_SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
/// The sizes a pool keeps, in bytes: those, what holds a batch's header, and what wastes less where a size is known. A request
/// for more gets an exact, unpooled chunk.
const SHELVES: [usize; 6] = [64, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

/// What is kept when no chunk is out, in bytes.
const KEPT_AT_REST_BYTES: usize = 4 << 20;

/// A shard's pool of chunks, with a count of what is out.
#[derive(Clone, Debug)]
pub struct ChunkPool(Rc<RefCell<Shelves>>);

#[derive(Debug)]
struct Shelves {
    free: [Vec<Box<[u8]>>; SHELVES.len()],
    kept_bytes: usize,
    bytes_max: usize,
    out_bytes: usize,
}

impl ChunkPool {
    /// A pool that keeps free chunks for reuse as long as all its chunks, those that are out included, take at most
    /// `bytes_max` bytes, and 4 MiB when none is out; what comes back beyond that is freed.
    pub fn new(bytes_max: usize) -> Self {
        Self(Rc::new(RefCell::new(Shelves { free: Default::default(), kept_bytes: 0, bytes_max, out_bytes: 0 })))
    }

    /// An empty chunk with room for at least `size` bytes.
    pub fn take(&self, size: usize) -> Chunk {
        let mut shelves = self.0.borrow_mut();
        let memory = match SHELVES.iter().position(|kept| *kept >= size) {
            Some(shelf) => match shelves.free[shelf].pop() {
                Some(memory) => {
                    shelves.kept_bytes -= memory.len();
                    memory
                }
                None => shelves.make(SHELVES[shelf]),
            },
            None => shelves.make(size),
        };
        shelves.out_bytes += memory.len();
        Chunk { memory, len: 0, pool: Rc::downgrade(&self.0) }
    }

    /// Bytes of chunks that are out now, by capacity.
    pub fn out_bytes(&self) -> usize {
        self.0.borrow().out_bytes
    }

    /// Bytes of free chunks kept for reuse.
    pub fn kept_bytes(&self) -> usize {
        self.0.borrow().kept_bytes
    }
}

impl Shelves {
    /// New memory, in place of what is kept in other sizes where there would be too much.
    #[cold]
    fn make(&mut self, size: usize) -> Box<[u8]> {
        self.keep(self.bytes_max.saturating_sub(self.out_bytes + size));
        vec![0; size].into_boxed_slice()
    }

    /// Frees what is kept beyond `bytes`, the largest first.
    fn keep(&mut self, bytes: usize) {
        for shelf in self.free.iter_mut().rev() {
            while self.kept_bytes > bytes {
                let Some(memory) = shelf.pop() else { break };
                self.kept_bytes -= memory.len();
            }
        }
    }
}

/// A pooled piece of memory, filled from the front. Returns itself to its pool when dropped.
#[derive(Debug)]
pub struct Chunk {
    memory: Box<[u8]>,
    len: usize,
    pool: Weak<RefCell<Shelves>>,
}

impl Chunk {
    /// What was written so far.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// What was written so far, to patch in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// The room left behind what was written.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.len..]
    }

    /// Declares the first `count` bytes of [`Chunk::spare_mut`] written.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.memory.len() - self.len, "advanced past the end of a chunk");
        self.len += count;
    }

    /// Appends as much of `bytes` as fits and says how much that was.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.memory.len() - self.len);
        self.memory[self.len..self.len + count].copy_from_slice(&bytes[..count]);
        self.len += count;
        count
    }

    /// Has `write` fill the front of what is unwritten; it says how many bytes it used.
    #[inline(always)]
    pub fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let count = write(&mut self.memory[self.len..]);
        self.advance(count);
    }

    /// Room in all, in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        let memory = std::mem::take(&mut self.memory);
        let mut shelves = pool.borrow_mut();
        shelves.out_bytes -= memory.len();
        let Some(shelf) = SHELVES.iter().position(|kept| *kept == memory.len()) else { return };
        if shelves.kept_bytes + shelves.out_bytes + memory.len() <= shelves.bytes_max {
            shelves.kept_bytes += memory.len();
            shelves.free[shelf].push(memory);
        }
        if shelves.out_bytes == 0 {
            shelves.keep(KEPT_AT_REST_BYTES);
        }
    }
}

/// A frozen part of a chunk, shared within its shard: what a vectored write is made of.
#[derive(Clone, Debug)]
pub struct Piece {
    chunk: Rc<Chunk>,
    start: u32,
    end: u32,
}

impl Piece {
    /// All that was written to `chunk`.
    pub fn whole(chunk: Chunk) -> Self {
        let end = u32::try_from(chunk.len).unwrap_or(u32::MAX);
        Self { chunk: Rc::new(chunk), start: 0, end }
    }

    /// The bytes from `start` to `end` of this piece, sharing its memory. Both must be in range.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.len(), "sliced past the end of a piece");
        // Both fit: they are at most `self.len()`, itself a difference of two u32.
        Self { chunk: Rc::clone(&self.chunk), start: self.start + start as u32, end: self.start + end as u32 }
    }

    /// The bytes; their address does not change while any clone lives.
    pub fn bytes(&self) -> &[u8] {
        &self.chunk.memory[self.start as usize..self.end as usize]
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_when_the_last_piece_goes() {
        let pool = ChunkPool::new(1 << 20);
        let mut chunk = pool.take(9_000);
        assert_eq!(chunk.capacity(), 16 << 10);
        assert_eq!(chunk.put(b"abc"), 3);
        let piece = Piece::whole(chunk);
        let other = piece.clone();
        drop(piece);
        assert_eq!(other.bytes(), b"abc");
        assert_eq!(pool.out_bytes(), 16 << 10);
        drop(other);
        assert_eq!((pool.out_bytes(), pool.kept_bytes()), (0, 16 << 10));
    }

    #[test]
    fn slices_share_their_piece() {
        let mut chunk = ChunkPool::new(0).take(1);
        chunk.put(b"abcdef");
        let piece = Piece::whole(chunk);
        let slice = piece.slice(1, 5);
        assert_eq!((slice.bytes(), slice.slice(1, 3).bytes(), slice.slice(4, 4).len()), (&b"bcde"[..], &b"cd"[..], 0));
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_may() {
        let pool = ChunkPool::new(12 << 10);
        let (a, b, c) = (pool.take(4 << 10), pool.take(4 << 10), pool.take(8 << 10));
        drop(a);
        assert_eq!((pool.out_bytes(), pool.kept_bytes()), (12 << 10, 0), "16 KiB were out");
        drop(c);
        assert_eq!((pool.out_bytes(), pool.kept_bytes()), (4 << 10, 8 << 10));
        // Another size takes the place of what is kept.
        let d = pool.take(4 << 10);
        assert_eq!((pool.out_bytes(), pool.kept_bytes()), (8 << 10, 0));
        drop((b, d));
        assert_eq!((pool.out_bytes(), pool.kept_bytes()), (0, 8 << 10));
    }

    #[test]
    fn a_pool_at_rest_keeps_little() {
        let pool = ChunkPool::new(32 << 20);
        let mut out: Vec<_> = (0..128).map(|_| pool.take(64 << 10)).collect();
        out.truncate(1);
        assert_eq!(pool.kept_bytes(), 127 * (64 << 10));
        drop(out);
        assert_eq!((pool.out_bytes(), pool.kept_bytes()), (0, KEPT_AT_REST_BYTES));
    }

    #[test]
    fn chunks_are_little_larger_than_asked() {
        let pool = ChunkPool::new(0);
        let sizes = [1, 61, 65, 4_097, 10_000, 20_000, 65_536, 70_000].map(|size| pool.take(size).capacity());
        assert_eq!(sizes, [64, 64, 4_096, 8_192, 16_384, 32_768, 65_536, 70_000]);
    }
}
