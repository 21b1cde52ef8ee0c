//! Hostile bytes for everything that reads record batches: sets of format 2, 1 and 0, their records, control batches, and
//! the four codecs. Nothing panics, nothing comes out beyond the limit, and nothing is read that is not there.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/batches.rs"]
mod batches;
#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;
mod fuzz_support;

use std::ops::Range;

use bolero::{TypeGenerator, check, produce};
use counting::peak_bytes;
use fuzz_support::{Recipe, iterations};
use ottla::base::chunk::ChunkPool;
use ottla::batch::header::{HEADER_BYTES, seal_crc};
use ottla::batch::{
    Append, BadBatch, BatchBuilder, BatchSettings, BatchView, Codec, Codecs, ControlRecord, Decompressor, Fault,
    RecordSet, Records, Stamp, Unpacked, dump, encode_body,
};

/// More than any batch of the corpus holds.
const LIMIT: usize = 96 << 10;

/// Our own batches: every codec, few and many records, with and without headers, nulls, and what does not compress.
fn ours() -> Vec<Vec<u8>> {
    let (pool, codecs) = (ChunkPool::new(4 << 20), Codecs::new());
    let mut rng = ottla::base::rng::Rng::new(5);
    let mut all = Vec::new();
    for codec in Codec::ALL {
        for (records, noise) in [(1, 0), (3, 40), (60, 8), (700, 60)] {
            let mut builder = BatchBuilder::new(&BatchSettings::with_codec(codec), &pool, &codecs).unwrap();
            for i in 0..records {
                let mut value = format!("value {} of the same kind", i % 7).into_bytes();
                value.extend((0..noise).map(|_| rng.next_u64() as u8));
                let key = format!("k{i}");
                let headers = [("trace", Some(key.as_bytes())), ("", None)];
                let (key, value) = ((i % 3 > 0).then_some(key.as_bytes()), (i % 5 < 4).then_some(value.as_slice()));
                let mut body = Vec::new();
                encode_body(key, value, headers.into_iter().take(i % 3), &mut body);
                assert_eq!(builder.append(1_700_000_000_000 + i as i64, &body), Append::Stored);
            }
            let mut bytes = Vec::new();
            builder
                .seal(Stamp { producer_id: 7, producer_epoch: 1, base_sequence: 5, transactional: false })
                .copy_to(&mut bytes);
            all.push(bytes);
        }
    }
    all
}

/// Batches alone, and several in a row, the last one cut off.
fn sets() -> Vec<Vec<u8>> {
    let mut all = ours();
    all.extend(batches::batches().map(|(_, bytes)| bytes));
    let (few, many) = (all[1].clone(), all[all.len() - 8].clone());
    all.push([few.clone(), many.clone(), few.clone()].concat());
    all.push([many, few[..few.len() - 3].to_vec()].concat());
    all
}

/// Makes the checksums of all batches right, as far as batches can be told.
fn repair(bytes: &mut [u8]) {
    let mut rest = bytes;
    while let Some(length) = rest.get(8..12).map(|word| i32::from_be_bytes(word.try_into().unwrap())) {
        let Some(batch) = usize::try_from(length).ok().and_then(|length| rest.get_mut(..12 + length)) else { return };
        match batch.get(16) {
            Some(2) if batch.len() >= HEADER_BYTES => assert!(seal_crc(batch)),
            Some(0 | 1) => {
                let mut crc = flate2::Crc::new();
                crc.update(&batch[16..]);
                batch[12..16].copy_from_slice(&crc.sum().to_be_bytes());
            }
            _ => return,
        }
        rest = &mut rest[12 + length as usize..];
    }
}

fn inside(outer: &[u8], inner: &[u8]) -> bool {
    let (outer, inner) = (outer.as_ptr_range(), inner.as_ptr_range());
    inner.is_empty() || inner.start >= outer.start && inner.end <= outer.end
}

/// Walks a batch's records: how many, or what is wrong.
fn walk(view: &BatchView<'_>, limit: usize) -> Result<usize, BadBatch> {
    let (mut decompressor, mut unpacked) = (Decompressor::new(limit), Unpacked::new());
    let opened = view.open(&mut decompressor, &mut unpacked);
    assert!(unpacked.bytes().len() <= limit && unpacked.memory_bytes() <= limit.max(16 << 10) + 256);
    let (head, payload) = opened?;
    let bytes = match payload {
        ottla::batch::Payload::InPlace => view.payload(),
        ottla::batch::Payload::Unpacked => unpacked.bytes(),
    };
    let mut records = Records::new(head, bytes);
    let (mut count, mut last) = (0, i64::MIN);
    loop {
        let mark = records.mark();
        let Some(record) = records.next() else { break };
        let Ok(record) = record else {
            assert!(records.next().is_none(), "an error is the last");
            break;
        };
        count += 1;
        assert!(record.offset > last && record.offset <= head.last_offset);
        last = record.offset;
        for part in [record.key(), record.value(), Some(record.body())].into_iter().flatten() {
            assert!(inside(bytes, part));
        }
        let announced = record.headers().len();
        for header in record.headers().map_while(Result::ok) {
            assert!(inside(bytes, header.key) && header.value.is_none_or(|value| inside(bytes, value)));
        }
        assert!(record.headers().count() <= announced.max(1));
        if view.is_control() {
            let _ = ControlRecord::read(&record);
        }
        // A walk that was interrupted goes on where it was.
        let again = Records::resume(head, bytes, mark).next().unwrap().unwrap();
        assert_eq!((again.offset, again.timestamp, again.value()), (record.offset, record.timestamp, record.value()));
    }
    assert!(count <= head.count.max(0) as usize, "{count} records where {} are announced", head.count);
    Ok(count)
}

#[test]
fn fuzz_record_sets() {
    let corpus = sets();
    check!().with_iterations(iterations(6_000)).with_type::<(Recipe, bool)>().for_each(|(recipe, repaired)| {
        let mut input = recipe.cook(&corpus);
        if *repaired {
            repair(&mut input);
        }
        let (failed, peak) = peak_bytes(|| {
            let (mut set, mut seen, mut failed) = (RecordSet::new(&input), 0, false);
            for view in &mut set {
                let Ok(view) = view else {
                    failed = true;
                    break;
                };
                assert!(inside(&input, view.bytes()) && inside(&input, view.payload()));
                seen += view.bytes().len();
                assert!(view.last_offset() >= view.base_offset() || view.magic() < 2);
                failed |= walk(&view, LIMIT).is_err();
            }
            assert!(seen <= input.len());
            if !failed {
                assert_eq!(set.partial().map_or(0, |partial| partial.have), input.len() - seen);
            }
            failed
        });
        assert!(!(recipe.is_plain() && failed), "a valid set is refused");
        assert!(peak <= 4 * LIMIT, "{peak} bytes taken");
        for part in dump::dump(&input).take(100) {
            let _ = part.to_json();
        }
    });
}

/// Compressed payloads with what is in them, of every codec, ours and Java's, and lz4 frames as others write them.
fn payloads() -> Vec<(Codec, i8, Vec<u8>)> {
    let mut all = Vec::new();
    for bytes in sets() {
        for view in RecordSet::new(&bytes).map_while(Result::ok) {
            let codec = view.codec().unwrap();
            if codec != Codec::None {
                all.push((codec, view.magic(), view.payload().to_vec()));
            }
        }
    }
    let text: Vec<u8> = (0..40_000u32).map(|i| (i / 7 % 251) as u8).collect();
    for (mode, checks) in [(lz4_flex::frame::BlockMode::Linked, true), (lz4_flex::frame::BlockMode::Independent, false)]
    {
        let info = lz4_flex::frame::FrameInfo::new()
            .block_mode(mode)
            .block_checksums(checks)
            .content_checksum(checks)
            .content_size(checks.then_some(text.len() as u64));
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        std::io::Write::write_all(&mut encoder, &text).unwrap();
        all.push((Codec::Lz4, 2, encoder.finish().unwrap()));
    }
    all
}

#[test]
fn fuzz_decompression() {
    let payloads = payloads();
    let corpus: Vec<&[u8]> = payloads.iter().map(|(_, _, bytes)| bytes.as_slice()).collect();
    for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
        assert!(payloads.iter().filter(|(of, ..)| *of == codec).count() >= 4, "{codec}");
    }
    const LIMITS: [usize; 6] = [0, 1, 1_000, 16 << 10, 64 << 10, LIMIT];
    check!().with_iterations(iterations(10_000)).with_type::<(Recipe, u8, u8)>().for_each(|(recipe, limit, other)| {
        let (codec, magic, good) = &payloads[recipe.index(payloads.len())];
        // Now and then for another codec than it was made by.
        let read_as = if *other < 240 { *codec } else { Codec::ALL[usize::from(*other) % Codec::ALL.len()] };
        let input = recipe.cook(&corpus);
        let limit = LIMITS[usize::from(*limit) % LIMITS.len()];
        let mut decompressor = Decompressor::new(limit);
        let mut out = Unpacked::new();
        let (result, peak) = peak_bytes(|| decompressor.decompress(read_as, *magic, &input, &mut out));
        assert!(out.bytes().len() <= limit, "{read_as}: {} bytes, {limit} allowed", out.bytes().len());
        assert!(peak <= 3 * limit + (160 << 10), "{read_as}: {peak} bytes taken, {limit} allowed");
        assert!(!(recipe.is_plain() && limit == LIMIT && read_as == *codec) || result.is_ok(), "{codec}: {result:?}");
        // What went wrong leaves nothing behind: the next one is read.
        if limit == LIMIT {
            out.clear();
            decompressor.decompress(*codec, *magic, good, &mut out).unwrap();
        }
    });
}

/// A sequence of an lz4 block: literals, then a piece of what came before.
#[derive(Clone, Debug, TypeGenerator)]
struct Sequence {
    #[generator(produce::<Vec<u8>>().with().len(0..40usize))]
    literals: Vec<u8>,
    /// Mostly near; 0 and what lies before the beginning are what a hostile block has.
    #[generator(0..300u16)]
    near: u16,
    far: u16,
    #[generator(4..80u16)]
    length: u16,
    /// One of eight is long, one of sixteen is far.
    how: u8,
}

fn encode(sequences: &[Sequence], tail: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    let rest = |block: &mut Vec<u8>, mut value: usize| {
        while value >= 255 {
            block.push(255);
            value -= 255;
        }
        block.push(value as u8);
    };
    let mut put = |literals: &[u8], copy: Option<(u16, usize)>| {
        let length = copy.map_or(0, |(_, length)| length - 4);
        block.push((literals.len().min(15) << 4 | length.min(15)) as u8);
        if literals.len() >= 15 {
            rest(&mut block, literals.len() - 15);
        }
        block.extend_from_slice(literals);
        if let Some((offset, _)) = copy {
            block.extend_from_slice(&offset.to_le_bytes());
            if length >= 15 {
                rest(&mut block, length - 15);
            }
        }
    };
    for Sequence { literals, near, far, length, how } in sequences {
        let offset = if how % 16 == 3 { *far } else { *near };
        let length = if how % 8 == 5 { usize::from(*length) * 97 } else { usize::from(*length) };
        put(literals, Some((offset, length)));
    }
    put(tail, None);
    block
}

/// The block format to the letter, slowly: what it decodes to within `most` bytes, if it can be decoded at all.
fn decode(block: &[u8], most: usize) -> Option<Vec<u8>> {
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, behind) = rest.split_at_checked(count)?;
        *rest = behind;
        Some(taken)
    }
    fn length(rest: &mut &[u8], nibble: u8) -> Option<usize> {
        let mut length = usize::from(nibble);
        let mut more = nibble == 15;
        while more {
            let byte = take(rest, 1)?[0];
            length += usize::from(byte);
            more = byte == 255;
        }
        Some(length)
    }
    let (mut out, mut rest) = (Vec::new(), block);
    loop {
        let token = take(&mut rest, 1)?[0];
        let count = length(&mut rest, token >> 4)?;
        out.extend_from_slice(take(&mut rest, count)?);
        if out.len() > most {
            return None;
        }
        if rest.is_empty() {
            return Some(out);
        }
        let offset = usize::from(u16::from_le_bytes(*take(&mut rest, 2)?.first_chunk()?));
        let count = length(&mut rest, token & 15)? + 4;
        let from = out.len().checked_sub(offset).filter(|from| *from < out.len())?;
        if out.len() + count > most {
            return None;
        }
        (0..count).for_each(|i| out.push(out[from + i]));
    }
}

/// Memory that ends where nothing may be touched: who reads or writes one byte too far ends the test run.
struct Fenced {
    start: *mut u8,
    bytes: usize,
}

const PAGE: usize = 4096;

impl Fenced {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(PAGE);
        // SAFETY: a fresh private mapping; nobody else knows it.
        let start = unsafe {
            let all = libc::mmap(
                std::ptr::null_mut(),
                bytes + PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(all, libc::MAP_FAILED);
            let start = all.cast::<u8>();
            assert_eq!(libc::mprotect(start.add(bytes).cast(), PAGE, libc::PROT_NONE), 0);
            start
        };
        Self { start, bytes }
    }

    /// The last `len` bytes, and those before them.
    fn split(&mut self, len: usize) -> (&mut [u8], &mut [u8]) {
        // SAFETY: (owner) `self` is borrowed for as long; (bounds) `bytes` were mapped; (lifetime) until `drop`.
        let all = unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) };
        let at = all.len() - len;
        let (before, last) = all.split_at_mut(at);
        (last, before)
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no borrow outlives `self`.
        unsafe { libc::munmap(self.start.cast(), self.bytes + PAGE) };
    }
}

/// `lz4_flex` decodes with unchecked copies (its safe codec is left out). Blocks that no compressor writes: whatever is
/// accepted is what the format says, and nothing outside of input and output is touched, read or shown.
#[test]
fn fuzz_lz4_blocks() {
    const BEFORE: Range<usize> = 0..512;
    let sequences = produce::<Vec<Sequence>>().with().len(0..24usize);
    let tail = produce::<Vec<u8>>().with().len(0..30usize);
    check!()
        .with_iterations(iterations(12_000))
        .with_generator((sequences, tail, produce::<Recipe>(), 0..5u8, 0..40_000usize))
        .for_each(|(sequences, tail, recipe, spoil, room)| {
            let mut block = encode(sequences, tail);
            if *spoil == 0 {
                block = recipe.cook(&[block]);
            }
            // As much room as is needed, or anything.
            let needed = decode(&block, 1 << 20);
            let room = match &needed {
                Some(whole) if room % 3 > 0 => whole.len(),
                _ => *room,
            };
            let wanted = needed.filter(|whole| whole.len() <= room);
            let (mut source, mut sink) = (Fenced::new(block.len()), Fenced::new(room + BEFORE.end));
            let (input, _) = source.split(block.len());
            input.copy_from_slice(&block);
            let (output, before) = sink.split(room);
            output.fill(0xA5);
            before.fill(0x5A);
            let found = lz4_flex::block::decompress_into(input, output);
            assert!(before.iter().all(|byte| *byte == 0x5A), "written before the output");
            match (&wanted, found) {
                (Some(wanted), Ok(count)) => assert_eq!(&output[..count], wanted),
                (None, Ok(count)) => panic!("{count} bytes of a block that is none"),
                // The end of a block has rules of its own that only compressors keep: refusing is always right.
                (_, Err(_)) => {}
            }
            // The same inside a frame, by our own reader.
            let mut frame = vec![0x04, 0x22, 0x4D, 0x18, 0x60, 0x40, 0x82];
            frame.extend_from_slice(&(block.len() as u32).to_le_bytes());
            frame.extend_from_slice(&block);
            frame.extend_from_slice(&[0; 4]);
            let (mut decompressor, mut out) = (Decompressor::new(LIMIT), Unpacked::new());
            if !block.is_empty() && decompressor.decompress(Codec::Lz4, 2, &frame, &mut out).is_ok() {
                assert_eq!(Some(out.bytes()), decode(&block, 64 << 10).as_deref());
            }
        });
}

/// The slow decoder is right: it reads what the compressor writes.
#[test]
fn the_reference_decoder_reads_what_compressors_write() {
    for bytes in sets() {
        let block = lz4_flex::block::compress(&bytes);
        assert_eq!(decode(&block, bytes.len()).unwrap(), bytes);
        assert_eq!(decode(&block, bytes.len() - 1), None);
        assert_eq!(decode(&block[..block.len() - 1], bytes.len()), None);
    }
}

/// The repaired sets reach the records: without that, every change would end at the checksum.
#[test]
fn repaired_checksums_are_right() {
    for mut bytes in sets() {
        let original = bytes.clone();
        repair(&mut bytes);
        assert!(bytes == original, "they were right before");
        let end = 12 + i32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        bytes[end - 1] ^= 1;
        let crc_is_right = |bytes: &[u8]| {
            let first = RecordSet::new(bytes).next().unwrap();
            !matches!(first.map(|view| view.verify()), Ok(Err(BadBatch { fault: Fault::Crc { .. }, .. })))
        };
        assert!(!crc_is_right(&bytes));
        repair(&mut bytes);
        assert!(crc_is_right(&bytes));
    }
}
