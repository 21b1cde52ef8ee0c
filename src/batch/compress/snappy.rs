//! Snappy in the xerial framing of snappy-java: a 16-byte header, then blocks with a big-endian length. We write blocks
//! of 32 KiB as Java does; we read the framing (also repeated) and bare snappy.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::super::chain::Chain;
use super::{Trouble, Unpacked};
use crate::base::chunk::ChunkPool;

/// Raw bytes of a full block.
pub(super) const BLOCK_BYTES: usize = 32 << 10;
/// Bytes of the framing's header.
pub(super) const HEADER_BYTES: usize = XERIAL.len();

/// Magic, version 1, compatible with 1.
const XERIAL: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_MAGIC_BYTES: usize = 8;
/// A three-byte copy makes 64 bytes: nothing in snappy expands more.
const EXPANSION_MAX: usize = 64;

/// Most bytes that blocks of `raw_bytes` take, without the header.
pub(super) fn bound(raw_bytes: usize) -> usize {
    let (full, last) = (raw_bytes / BLOCK_BYTES, raw_bytes % BLOCK_BYTES);
    full * (4 + max_compress_len(BLOCK_BYTES)) + if last > 0 { 4 + max_compress_len(last) } else { 0 }
}

pub(super) struct Compressor {
    encoder: Encoder,
    scratch: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { encoder: Encoder::new(), scratch: vec![0; max_compress_len(BLOCK_BYTES)] }
    }
}

impl Compressor {
    pub(super) fn block(&mut self, raw: &[u8], wire: &mut Chain, pool: &ChunkPool) {
        if wire.len() == 0 {
            wire.put(&XERIAL, pool);
        }
        // The scratch holds the worst case of a full block, the one thing that could fail.
        let len = self.encoder.compress(raw, &mut self.scratch).unwrap_or(0);
        debug_assert!(len > 0);
        wire.put(&(len as u32).to_be_bytes(), pool);
        wire.put(&self.scratch[..len], pool);
    }
}

pub(super) fn unpack(input: &[u8], out: &mut Unpacked) -> Result<(), Trouble> {
    if !input.starts_with(&XERIAL[..XERIAL_MAGIC_BYTES]) {
        return block(input, out);
    }
    let mut rest = input;
    while !rest.is_empty() {
        // Concatenated streams repeat the header; its first four bytes are no sane length.
        if rest.starts_with(&XERIAL[..XERIAL_MAGIC_BYTES]) {
            rest = rest.get(HEADER_BYTES..).ok_or(Trouble::Corrupt("cut off"))?;
            continue;
        }
        let (len, behind) = rest.split_first_chunk().ok_or(Trouble::Corrupt("cut off"))?;
        let len = u32::from_be_bytes(*len) as usize;
        let (compressed, behind) = behind.split_at_checked(len).ok_or(Trouble::Corrupt("cut off"))?;
        block(compressed, out)?;
        rest = behind;
    }
    Ok(())
}

fn block(compressed: &[u8], out: &mut Unpacked) -> Result<(), Trouble> {
    let declared = decompress_len(compressed).map_err(|_| Trouble::Corrupt("bad length"))?;
    if declared > compressed.len().saturating_mul(EXPANSION_MAX) {
        return Err(Trouble::Corrupt("declares more than it can hold"));
    }
    if declared > out.left() {
        return Err(Trouble::TooLarge);
    }
    if declared == 0 {
        // Only the length byte may be there.
        return if compressed.len() == 1 { Ok(()) } else { Err(Trouble::Corrupt("bad block")) };
    }
    let (_, room) = out.room(declared)?;
    let len =
        Decoder::new().decompress(compressed, &mut room[..declared]).map_err(|_| Trouble::Corrupt("bad block"))?;
    out.advance(len)
}
