//! Memory for decompressed records, reused from batch to batch.

use super::Trouble;

/// Grows as bytes come out, never by what a header declares, and never past its limit (plus slack that holds no data).
#[derive(Debug, Default)]
pub struct Unpacked {
    /// All of it is initialised once and then only overwritten.
    memory: Vec<u8>,
    filled: usize,
    limit: usize,
}

/// Room behind the data that lets block decoders copy in whole words.
#[cfg_attr(not(any(feature = "gzip", feature = "lz4", feature = "zstd")), allow(dead_code))]
const SLACK_BYTES: usize = 64;
const GROWTH_BYTES_MIN: usize = 16 << 10;

impl Unpacked {
    /// Empty, without memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was decompressed.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    /// Forgets the data, keeps the memory.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.memory.capacity()
    }

    /// Gives memory back until at most about `keep_bytes` are held; forgets the data.
    pub fn shrink(&mut self, keep_bytes: usize) {
        self.filled = 0;
        if self.memory.capacity() > keep_bytes {
            self.memory.truncate(keep_bytes);
            self.memory.shrink_to(keep_bytes);
        }
    }

    pub(crate) fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes that may still come out.
    #[cfg_attr(not(feature = "gzip"), allow(dead_code))]
    pub(crate) fn left(&self) -> usize {
        self.limit.saturating_sub(self.filled)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if bytes.len() > self.left() {
            return Err(Trouble::TooLarge);
        }
        self.reserve(bytes.len());
        self.memory[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    /// The data so far, and room behind it: `want` bytes or what the limit leaves, and a little slack. An error when
    /// the limit is reached.
    #[cfg_attr(not(any(feature = "gzip", feature = "lz4", feature = "zstd")), allow(dead_code))]
    pub(crate) fn room(&mut self, want: usize) -> Result<(&[u8], &mut [u8]), Trouble> {
        if self.left() == 0 {
            return Err(Trouble::TooLarge);
        }
        let want = want.min(self.left()) + SLACK_BYTES;
        self.reserve(want);
        let (data, spare) = self.memory.split_at_mut(self.filled);
        Ok((data, &mut spare[..want]))
    }

    /// Declares `count` bytes of the room filled; an error when that passes the limit.
    #[cfg_attr(not(any(feature = "gzip", feature = "lz4", feature = "zstd")), allow(dead_code))]
    pub(crate) fn advance(&mut self, count: usize) -> Result<(), Trouble> {
        if count > self.left() {
            return Err(Trouble::TooLarge);
        }
        self.filled += count;
        Ok(())
    }

    fn reserve(&mut self, want: usize) {
        let need = self.filled + want;
        if need > self.memory.len() {
            let doubled = (self.memory.len() * 2).min(self.limit.saturating_add(SLACK_BYTES));
            // Fresh zeroed memory is only touched when it is written: the larger half may never be.
            let mut grown = vec![0; need.max(doubled).max(GROWTH_BYTES_MIN)];
            grown[..self.filled].copy_from_slice(&self.memory[..self.filled]);
            self.memory = grown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_stops_at_the_limit() {
        let mut out = Unpacked::new();
        out.limit(100_000);
        while let Ok((_, room)) = out.room(1 << 20) {
            assert!(room.len() <= 100_000 + SLACK_BYTES);
            let step = room.len().min(30_000);
            if out.advance(step).is_err() {
                break;
            }
        }
        assert!(out.memory_bytes() <= 100_000 + 2 * SLACK_BYTES);
        assert_eq!(out.put(&[0; 100_001]), Err(Trouble::TooLarge));
        out.shrink(1_000);
        assert!(out.bytes().is_empty() && out.memory_bytes() <= 1_000);
    }
}
