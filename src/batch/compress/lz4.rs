//! LZ4 frames. We write independent blocks of 65,536 raw bytes without checksums (FLG 0x60, BD 0x40), with `lz4_flex`'s
//! block codec and a reused table; we read whatever the frame format allows but dictionaries.
//!
//! `lz4_flex` chooses between a 16-bit table (inputs below 65,535 bytes) and a 32-bit one. `CompressTable::large` pins the
//! 32-bit table for every block, also the last one: it saves 18-24 ns a record on telemetry.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, decompress_into_with_dict, get_maximum_output_size,
};

use super::super::chain::Chain;
use super::{Trouble, Unpacked};
use crate::base::chunk::ChunkPool;

/// Raw bytes of a full block.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// Frame header and end mark.
pub(super) const FRAME_BYTES: usize = FRAME_HEADER.len() + 4;

const MAGIC: u32 = 0x184D_2204;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184D_2A50..=0x184D_2A5F;
/// Magic, FLG (version 1, independent blocks), BD (64 KiB), and the second byte of xxh32 over those two.
const FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4D, 0x18, 0x60, 0x40, 0x82];
/// In a block's length: the block is stored as it is.
const STORED: u32 = 1 << 31;
/// What a block may refer back to.
const WINDOW_BYTES: usize = 64 << 10;

/// Most bytes that blocks of `raw_bytes` take, without the frame: a block never takes more than its raw bytes and length.
pub(super) fn bound(raw_bytes: usize) -> usize {
    raw_bytes + 4 * raw_bytes.div_ceil(BLOCK_BYTES)
}

/// Ends a frame.
pub(super) fn end(wire: &mut Chain, pool: &ChunkPool) {
    wire.put(&[0; 4], pool);
}

pub(super) struct Compressor {
    table: CompressTable,
    scratch: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { table: CompressTable::large(), scratch: vec![0; get_maximum_output_size(BLOCK_BYTES)] }
    }
}

impl Compressor {
    pub(super) fn block(&mut self, raw: &[u8], wire: &mut Chain, pool: &ChunkPool) {
        let compressed = match compress_into_with_table(raw, &mut self.scratch, &mut self.table) {
            Ok(len) if len < raw.len() => Some(&self.scratch[..len]),
            _ => None,
        };
        let (word, bytes) = match compressed {
            Some(bytes) => (bytes.len() as u32, bytes),
            None => (raw.len() as u32 | STORED, raw),
        };
        if wire.len() == 0 {
            // Most batches of many partitions are one block.
            wire.begin_with(FRAME_BYTES + 4 + bytes.len(), pool);
            wire.put(&FRAME_HEADER, pool);
        }
        wire.put(&word.to_le_bytes(), pool);
        wire.put(bytes, pool);
    }
}

/// Reads frames one after another.
pub(super) fn unpack(input: &[u8], check_header: bool, out: &mut Unpacked) -> Result<(), Trouble> {
    let mut input = Input(input);
    if input.0.is_empty() {
        return Err(Trouble::Corrupt("no frame"));
    }
    while !input.0.is_empty() {
        let magic = input.u32()?;
        if SKIPPABLE.contains(&magic) {
            let len = input.u32()?;
            input.take(len as usize)?;
        } else if magic == MAGIC {
            frame(&mut input, check_header, out)?;
        } else {
            return Err(Trouble::Corrupt("no frame magic"));
        }
    }
    Ok(())
}

fn frame(input: &mut Input<'_>, check_header: bool, out: &mut Unpacked) -> Result<(), Trouble> {
    let descriptor = input.0;
    let flags = input.u8()?;
    let block_descriptor = input.u8()?;
    if flags >> 6 != 1 {
        return Err(Trouble::Corrupt("unknown frame version"));
    }
    if flags & 1 != 0 {
        return Err(Trouble::Corrupt("frame needs a dictionary"));
    }
    if flags & 2 != 0 || block_descriptor & 0x8f != 0 {
        return Err(Trouble::Corrupt("reserved bits set"));
    }
    let block_bytes_max = match block_descriptor >> 4 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return Err(Trouble::Corrupt("unknown block size")),
    };
    let independent = flags & 0x20 != 0;
    let block_checksums = flags & 0x10 != 0;
    let content_size = if flags & 0x08 != 0 { Some(input.u64()?) } else { None };
    let content_checksum = flags & 0x04 != 0;
    let descriptor = &descriptor[..descriptor.len() - input.0.len()];
    let header_checksum = input.u8()?;
    if check_header && header_checksum != (xxh32(descriptor) >> 8) as u8 {
        return Err(Trouble::Corrupt("header checksum mismatch"));
    }
    let frame_from = out.bytes().len();
    loop {
        let word = input.u32()?;
        if word == 0 {
            break;
        }
        let block = input.take((word & !STORED) as usize)?;
        if block.len() > block_bytes_max {
            return Err(Trouble::Corrupt("block too large"));
        }
        if block_checksums && input.u32()? != xxh32(block) {
            return Err(Trouble::Corrupt("block checksum mismatch"));
        }
        if word & STORED != 0 {
            out.put(block)?;
            continue;
        }
        // A byte of a block makes 255 bytes at most, whatever the frame declares as its block size.
        let possible = block.len().saturating_mul(255).min(block_bytes_max);
        let (before, room) = out.room(possible)?;
        let done = if independent {
            decompress_into(block, room)
        } else {
            let window = &before[frame_from.max(before.len().saturating_sub(WINDOW_BYTES))..];
            decompress_into_with_dict(block, room, window)
        };
        match done {
            Ok(len) if len <= block_bytes_max => out.advance(len)?,
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if possible > out.left() => {
                return Err(Trouble::TooLarge);
            }
            Ok(_) | Err(_) => return Err(Trouble::Corrupt("bad block")),
        }
    }
    let content = &out.bytes()[frame_from..];
    if content_size.is_some_and(|size| size != content.len() as u64) {
        return Err(Trouble::Corrupt("content size mismatch"));
    }
    if content_checksum {
        // Read over, as Java does: the batch's CRC was right over every byte of the frame, and this hash of the
        // decompressed bytes, which franz-go sends along, cost more than decompressing them.
        input.u32()?;
    }
    Ok(())
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Trouble> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Trouble::Corrupt("cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Trouble> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Trouble> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64, Trouble> {
        let (low, high) = (self.u32()?, self.u32()?);
        Ok(u64::from(low) | u64::from(high) << 32)
    }
}

/// xxHash32 with seed 0. Only read frames need it, ours have a constant header and no checksums.
fn xxh32(bytes: &[u8]) -> u32 {
    const P1: u32 = 0x9E37_79B1;
    const P2: u32 = 0x85EB_CA77;
    const P3: u32 = 0xC2B2_AE3D;
    const P4: u32 = 0x27D4_EB2F;
    const P5: u32 = 0x1656_67B1;
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let mut stripes = bytes.chunks_exact(16);
    let mut hash = if bytes.len() >= 16 {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0u32.wrapping_sub(P1)];
        for stripe in &mut stripes {
            for (lane, input) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
                *lane = lane.wrapping_add(word(input).wrapping_mul(P2)).rotate_left(13).wrapping_mul(P1);
            }
        }
        let [a, b, c, d] = lanes;
        a.rotate_left(1).wrapping_add(b.rotate_left(7)).wrapping_add(c.rotate_left(12)).wrapping_add(d.rotate_left(18))
    } else {
        P5
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    let mut words = stripes.remainder().chunks_exact(4);
    for input in &mut words {
        hash = hash.wrapping_add(word(input).wrapping_mul(P3)).rotate_left(17).wrapping_mul(P4);
    }
    for byte in words.remainder() {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(P3);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_byte_is_what_the_hash_says() {
        assert_eq!(xxh32(b""), 0x02CC_5D05);
        assert_eq!(xxh32(b"Nobody inspects the spammish repetition"), 0xE229_3B2F);
        assert_eq!(FRAME_HEADER[6], (xxh32(&FRAME_HEADER[4..6]) >> 8) as u8);
    }

    #[test]
    fn a_full_block_uses_the_wide_table() {
        let mut compressor = Compressor::default();
        let pool = ChunkPool::new(1 << 20);
        let raw: Vec<u8> = (0..BLOCK_BYTES as u32).map(|i| (i / 7 % 251) as u8).collect();
        for raw in [&raw[..], &raw[..100]] {
            let mut wire = Chain::default();
            compressor.block(raw, &mut wire, &pool);
            assert!(matches!(compressor.table, CompressTable::Large(_)));
        }
    }
}
