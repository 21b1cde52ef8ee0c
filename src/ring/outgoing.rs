//! A chain on its way: how much of it the kernel took and what to offer next.

use std::io::IoSlice;

use super::SendChain;

/// Most vectors of one `sendmsg` (Linux, `UIO_MAXIOV`).
pub const VECTORS_MAX: usize = 1024;

/// A chain and the place up to which it was written.
#[derive(Debug)]
pub struct Outgoing {
    chain: SendChain,
    /// The first piece that is not written completely.
    piece: usize,
    /// How much of that piece is written.
    offset: usize,
    written: usize,
}

impl Outgoing {
    /// Nothing written yet.
    pub fn new(chain: SendChain) -> Self {
        let mut outgoing = Self { chain, piece: 0, offset: 0, written: 0 };
        outgoing.skip_written();
        outgoing
    }

    /// Whether every byte was taken.
    pub fn is_done(&self) -> bool {
        self.piece == self.chain.pieces.len()
    }

    /// What is left, in order, at most [`VECTORS_MAX`] parts.
    pub fn rest(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let first = self.offset;
        let pieces = self.chain.pieces[self.piece..].iter().enumerate();
        pieces
            .map(move |(i, piece)| IoSlice::new(&piece.bytes()[if i == 0 { first } else { 0 }..]))
            .filter(|slice| !slice.is_empty())
            .take(VECTORS_MAX)
    }

    /// The kernel took `count` more bytes, no more than were left.
    pub fn advance(&mut self, count: usize) {
        self.written += count;
        let mut count = count + self.offset;
        while let Some(piece) = self.chain.pieces.get(self.piece) {
            if count < piece.len() {
                break;
            }
            count -= piece.len();
            self.piece += 1;
        }
        self.offset = count;
        debug_assert!(self.offset == 0 || !self.is_done(), "the kernel took more than it was offered");
    }

    fn skip_written(&mut self) {
        self.advance(0);
    }

    /// The chain, for giving it back, and how much of it was written.
    pub fn into_parts(self) -> (SendChain, usize) {
        (self.chain, self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chunk::{ChunkPool, Piece};

    fn chain(lens: &[usize]) -> SendChain {
        let pool = ChunkPool::new(0);
        let mut next = 0u8;
        let mut piece = |len: &usize| {
            let mut chunk = pool.take(*len);
            for _ in 0..*len {
                chunk.put(&[next]);
                next = next.wrapping_add(1);
            }
            Piece::whole(chunk)
        };
        SendChain { pieces: lens.iter().map(&mut piece).collect() }
    }

    #[test]
    fn every_split_of_a_chain_offers_the_same_bytes() {
        let lens = [0, 3, 0, 0, 5, 1, 0];
        for first in 0..=9usize {
            for second in 0..=9 - first {
                let mut outgoing = Outgoing::new(chain(&lens));
                let mut seen = Vec::new();
                for count in [first, second, 9 - first - second] {
                    let rest: Vec<u8> = outgoing.rest().flat_map(|slice| slice.to_vec()).collect();
                    seen.extend_from_slice(&rest[..count]);
                    outgoing.advance(count);
                }
                assert!(outgoing.is_done());
                assert_eq!((seen, outgoing.into_parts().1), ((0..9).collect::<Vec<u8>>(), 9));
            }
        }
    }

    #[test]
    fn a_long_chain_is_offered_in_parts() {
        let mut outgoing = Outgoing::new(chain(&vec![1; VECTORS_MAX + 1]));
        assert_eq!(outgoing.rest().count(), VECTORS_MAX);
        outgoing.advance(VECTORS_MAX);
        assert!(!outgoing.is_done());
        assert_eq!(outgoing.rest().count(), 1);
    }

    #[test]
    fn a_chain_without_bytes_is_done_at_once() {
        assert!(Outgoing::new(chain(&[])).is_done());
        assert!(Outgoing::new(chain(&[0, 0])).is_done());
    }
}
