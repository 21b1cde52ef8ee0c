//! gzip (RFC 1952) around raw deflate, so that the deflate state is reused from batch to batch.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::super::chain::Chain;
use super::super::crc::{crc32, crc32_over};
use super::{SLICE_BYTES, Trouble, Unpacked};
use crate::base::chunk::ChunkPool;

/// Magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
const FLAG_HEADER_CRC: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;
const FLAGS_RESERVED: u8 = 0xe0;
/// How much room the inflater gets at a time.
const STEP_BYTES: usize = 64 << 10;

pub(super) struct Compressor {
    level: i32,
    deflate: Compress,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { level: 6, deflate: Compress::new(Compression::new(6), false) }
    }
}

impl Compressor {
    pub(super) fn stream(
        &mut self,
        level: i32,
        raw: &Chain,
        wire: &mut Chain,
        pool: &ChunkPool,
    ) -> Result<(), &'static str> {
        let level = level.clamp(0, 9);
        if level == self.level {
            self.deflate.reset();
        } else {
            *self = Self { level, deflate: Compress::new(Compression::new(level as u32), false) };
        }
        wire.put(&HEADER, pool);
        for slice in raw.slices().flat_map(|piece| piece.chunks(SLICE_BYTES)) {
            let mut slice = slice;
            while !slice.is_empty() {
                let (taken, _) = self.step(slice, FlushCompress::None, wire, pool)?;
                slice = &slice[taken..];
            }
        }
        while self.step(&[], FlushCompress::Finish, wire, pool)?.1 != Status::StreamEnd {}
        wire.put(&crc32_over(raw.slices()).to_le_bytes(), pool);
        wire.put(&(raw.len() as u32).to_le_bytes(), pool);
        Ok(())
    }

    fn step(
        &mut self,
        input: &[u8],
        flush: FlushCompress,
        wire: &mut Chain,
        pool: &ChunkPool,
    ) -> Result<(usize, Status), &'static str> {
        let (taken, made) = (self.deflate.total_in(), self.deflate.total_out());
        let status = self.deflate.compress(input, wire.spare(pool), flush).map_err(|_| "deflate failed")?;
        let (taken, made) = (self.deflate.total_in() - taken, self.deflate.total_out() - made);
        if taken == 0 && made == 0 && status != Status::StreamEnd {
            return Err("deflate makes no progress");
        }
        wire.advance(made as usize);
        Ok((taken as usize, status))
    }
}

pub(super) struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(false))
    }
}

impl Inflater {
    /// Reads members one after another.
    pub(super) fn unpack(&mut self, mut input: &[u8], out: &mut Unpacked) -> Result<(), Trouble> {
        loop {
            input = self.member(input, out)?;
            if input.is_empty() {
                return Ok(());
            }
        }
    }

    fn member<'a>(&mut self, input: &'a [u8], out: &mut Unpacked) -> Result<&'a [u8], Trouble> {
        let mut input = skip_header(input)?;
        let from = out.bytes().len();
        self.0.reset(false);
        loop {
            let (taken, made) = (self.0.total_in(), self.0.total_out());
            // One byte past the limit tells "exactly full" from "too much".
            let full = out.left() == 0;
            let mut one = [0];
            let status = if full {
                self.0.decompress(input, &mut one, FlushDecompress::None)
            } else {
                let (_, room) = out.room(STEP_BYTES)?;
                self.0.decompress(input, room, FlushDecompress::None)
            };
            let status = status.map_err(|_| Trouble::Corrupt("bad deflate data"))?;
            let (taken, made) = (self.0.total_in() - taken, self.0.total_out() - made);
            out.advance(made as usize)?;
            input = input.get(taken as usize..).unwrap_or_default();
            match status {
                Status::StreamEnd => break,
                _ if taken == 0 && made == 0 => return Err(Trouble::Corrupt("cut off")),
                _ => {}
            }
        }
        let (trailer, rest) = input.split_first_chunk::<8>().ok_or(Trouble::Corrupt("cut off"))?;
        let content = &out.bytes()[from..];
        if trailer[..4] != crc32(content).to_le_bytes() {
            return Err(Trouble::Corrupt("crc mismatch"));
        }
        if trailer[4..] != (content.len() as u32).to_le_bytes() {
            return Err(Trouble::Corrupt("length mismatch"));
        }
        Ok(rest)
    }
}

fn skip_header(input: &[u8]) -> Result<&[u8], Trouble> {
    const CUT: Trouble = Trouble::Corrupt("cut off");
    let (head, mut rest) = input.split_first_chunk::<10>().ok_or(CUT)?;
    if head[..3] != HEADER[..3] {
        return Err(Trouble::Corrupt("no gzip header"));
    }
    let flags = head[3];
    if flags & FLAGS_RESERVED != 0 {
        return Err(Trouble::Corrupt("reserved flags set"));
    }
    if flags & FLAG_EXTRA != 0 {
        let (len, behind) = rest.split_first_chunk::<2>().ok_or(CUT)?;
        rest = behind.get(usize::from(u16::from_le_bytes(*len))..).ok_or(CUT)?;
    }
    for flag in [FLAG_NAME, FLAG_COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(CUT)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        let covered = &input[..input.len() - rest.len()];
        let (crc, behind) = rest.split_first_chunk::<2>().ok_or(CUT)?;
        if *crc != (crc32(covered) as u16).to_le_bytes() {
            return Err(Trouble::Corrupt("header crc mismatch"));
        }
        rest = behind;
    }
    Ok(rest)
}
