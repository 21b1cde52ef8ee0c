//! Zstandard with one context each way, reused from batch to batch.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::super::chain::Chain;
use super::{SLICE_BYTES, Trouble, Unpacked};
use crate::base::chunk::ChunkPool;

/// Largest window we read, as a power of two: 128 MiB, what level 22 writes.
const WINDOW_LOG_MAX: u32 = 27;
/// How much room the decoder gets at a time.
const STEP_BYTES: usize = 128 << 10;
/// Smallest block on the wire (a run): three bytes of header and the byte; it makes 128 KiB at most.
const EXPANSION_MAX: usize = (128 << 10) / 4;
/// A context that grew beyond this for one batch is given back.
const CONTEXT_BYTES_KEPT: usize = 16 << 20;
/// A frame that declares no more than this is decoded in one call straight into its place.
const ONE_SHOT_BYTES_MAX: usize = 1 << 20;

pub(super) struct Compressor(CCtx<'static>);

impl Compressor {
    pub(super) fn new() -> Result<Self, &'static str> {
        CCtx::try_create().map(Self).ok_or("out of memory")
    }

    pub(super) fn stream(
        &mut self,
        level: i32,
        raw: &Chain,
        wire: &mut Chain,
        pool: &ChunkPool,
    ) -> Result<(), &'static str> {
        let name = zstd::zstd_safe::get_error_name;
        self.0.reset(ResetDirective::SessionOnly).map_err(name)?;
        self.0.set_parameter(CParameter::CompressionLevel(level)).map_err(name)?;
        self.0.set_pledged_src_size(Some(raw.len() as u64)).map_err(name)?;
        for slice in raw.slices().flat_map(|piece| piece.chunks(SLICE_BYTES)) {
            let mut input = InBuffer::around(slice);
            while input.pos < slice.len() {
                let mut output = OutBuffer::around(wire.spare(pool));
                let done = self.0.compress_stream(&mut output, &mut input);
                let made = output.pos();
                wire.advance(made);
                done.map_err(name)?;
            }
        }
        loop {
            let mut output = OutBuffer::around(wire.spare(pool));
            let left = self.0.end_stream(&mut output);
            let made = output.pos();
            wire.advance(made);
            if left.map_err(name)? == 0 {
                return Ok(());
            }
        }
    }
}

pub(super) struct Inflater(DCtx<'static>);

impl Inflater {
    pub(super) fn new() -> Result<Self, Trouble> {
        let mut context = DCtx::try_create().ok_or(Trouble::Corrupt("out of memory"))?;
        let limited = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
        limited.map_err(|code| Trouble::Corrupt(zstd::zstd_safe::get_error_name(code)))?;
        Ok(Self(context))
    }

    /// Reads frames one after another.
    pub(super) fn unpack(&mut self, input: &[u8], out: &mut Unpacked) -> Result<(), Trouble> {
        let done = self.frames(input, out);
        // The window is sized by the frame's header: address space only, until data comes.
        if self.0.sizeof() > CONTEXT_BYTES_KEPT {
            *self = Self::new()?;
        }
        done
    }

    fn frames(&mut self, input: &[u8], out: &mut Unpacked) -> Result<(), Trouble> {
        let name = |code| Trouble::Corrupt(zstd::zstd_safe::get_error_name(code));
        self.0.reset(ResetDirective::SessionOnly).map_err(name)?;
        if self.one_shot(input, out)? {
            return Ok(());
        }
        let mut input = InBuffer::around(input);
        loop {
            // One byte past the limit tells "exactly full" from "too much".
            let full = out.left() == 0;
            let mut one = [0];
            let room = if full { &mut one[..] } else { out.room(STEP_BYTES)?.1 };
            let (taken, size) = (input.pos, room.len());
            let mut output = OutBuffer::around(room);
            let hint = self.0.decompress_stream(&mut output, &mut input);
            let made = output.pos();
            out.advance(made)?;
            let hint = hint.map_err(name)?;
            let fed_all = input.pos == input.src.len();
            if hint == 0 && fed_all {
                return Ok(());
            }
            if made == 0 && input.pos == taken || fed_all && made < size && hint != 0 {
                return Err(Trouble::Corrupt("cut off"));
            }
        }
    }

    /// A single frame with a declared size that its bytes could hold goes straight to its place, without a window.
    fn one_shot(&mut self, input: &[u8], out: &mut Unpacked) -> Result<bool, Trouble> {
        let Ok(Some(declared)) = zstd::zstd_safe::get_frame_content_size(input) else { return Ok(false) };
        let possible = input.len().saturating_mul(EXPANSION_MAX).min(ONE_SHOT_BYTES_MAX.max(input.len() * 32));
        let Ok(declared) = usize::try_from(declared) else { return Ok(false) };
        if declared == 0 || declared > possible {
            return Ok(false);
        }
        if declared > out.left() {
            return Err(Trouble::TooLarge);
        }
        if zstd::zstd_safe::find_frame_compressed_size(input) != Ok(input.len()) {
            return Ok(false);
        }
        let (_, room) = out.room(declared)?;
        let made = self.0.decompress(&mut room[..declared], input);
        let made = made.map_err(|code| Trouble::Corrupt(zstd::zstd_safe::get_error_name(code)))?;
        out.advance(made)?;
        Ok(true)
    }
}
