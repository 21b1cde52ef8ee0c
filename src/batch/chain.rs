//! Bytes in pooled chunks that grow as they fill: 4, then 16, then 64 KiB each. Nothing is preallocated or moved.

use crate::base::chunk::{CHUNK_SIZES, Chunk, ChunkPool, Piece};

/// Frozen pieces and the chunk being filled behind them.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    done: Vec<Piece>,
    open: Option<Chunk>,
    len: usize,
    memory_bytes: usize,
}

impl Chain {
    /// Bytes written.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of chunks held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Appends `bytes`.
    #[inline]
    pub(crate) fn put(&mut self, mut bytes: &[u8], pool: &ChunkPool) {
        self.len += bytes.len();
        if let Some(open) = &mut self.open {
            let count = open.put(bytes);
            bytes = &bytes[count..];
        }
        while !bytes.is_empty() {
            let count = self.grow(pool).put(bytes);
            bytes = &bytes[count..];
        }
    }

    /// Before the first byte: `bytes` are known to come, up to the largest chunk into one that is little larger.
    #[cfg_attr(not(feature = "lz4"), allow(dead_code))]
    pub(crate) fn begin_with(&mut self, bytes: usize, pool: &ChunkPool) {
        debug_assert!(self.open.is_none() && self.done.is_empty(), "there are bytes already");
        let chunk = pool.take(bytes.min(CHUNK_SIZES[CHUNK_SIZES.len() - 1]));
        self.memory_bytes += chunk.capacity();
        self.open = Some(chunk);
    }

    /// Has `write` fill the front of at least `room` unwritten bytes of the open chunk. False: there are not so many.
    #[inline]
    pub(crate) fn fill(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.capacity() - open.filled().len() >= room) else {
            return false;
        };
        let before = open.filled().len();
        open.fill(write);
        self.len += open.filled().len() - before;
        true
    }

    /// Unwritten memory, at least one byte; [`Chain::advance`] says how much of it was used.
    #[cfg_attr(not(any(feature = "gzip", feature = "zstd")), allow(dead_code))]
    pub(crate) fn spare(&mut self, pool: &ChunkPool) -> &mut [u8] {
        if self.open.as_ref().is_none_or(|open| open.filled().len() == open.capacity()) {
            return self.grow(pool).spare_mut();
        }
        self.open.as_mut().map(Chunk::spare_mut).unwrap_or_default()
    }

    /// Declares the first `count` bytes of [`Chain::spare`] written.
    #[cfg_attr(not(any(feature = "gzip", feature = "zstd")), allow(dead_code))]
    pub(crate) fn advance(&mut self, count: usize) {
        if let Some(open) = &mut self.open {
            open.advance(count);
            self.len += count;
        }
    }

    fn grow(&mut self, pool: &ChunkPool) -> &mut Chunk {
        if let Some(full) = self.open.take() {
            self.done.push(Piece::whole(full));
        }
        let size = CHUNK_SIZES[self.done.len().min(CHUNK_SIZES.len() - 1)];
        let chunk = pool.take(size);
        self.memory_bytes += chunk.capacity();
        self.open.insert(chunk)
    }

    /// All the bytes, in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.done.iter().map(Piece::bytes).chain(self.open.as_ref().map(Chunk::filled))
    }

    /// The bytes as pieces.
    pub(crate) fn freeze(mut self) -> (Vec<Piece>, usize) {
        if let Some(open) = self.open.take() {
            self.done.push(Piece::whole(open));
        }
        (self.done, self.memory_bytes)
    }
}
