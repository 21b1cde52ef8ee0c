//! What cannot be left out, in one loop, with no engine around it: encode, lz4, CRC, and back. The same libraries and
//! block sizes as Ottla, none of its types.

use crc_fast::{CrcAlgorithm, checksum};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use crate::workload::{Content, Workload, words};

const BLOCK: usize = 64 << 10;

/// What is made.
pub struct Job {
    pub workload: Workload,
    /// Records of a batch.
    pub batch: u64,
    pub lz4: bool,
    /// All of a batch compressed when it is full, not block by block as they fill.
    pub at_seal: bool,
    /// Records made beforehand, in turn; empty where they are made one by one.
    pub pool: Vec<Content>,
}

/// Sends batches of records `0..count` to `done`, in memory that is used again.
pub fn produce(job: &Job, count: u64, mut done: impl FnMut(&[u8], u32)) {
    let (mut made, mut raw, mut wire) = (Content::default(), Vec::with_capacity(BLOCK + 4096), Vec::new());
    let (mut table, mut scratch) = (CompressTable::large(), vec![0; get_maximum_output_size(BLOCK)]);
    let (mut in_batch, mut in_pool) = (0, 0);
    for index in 0..count {
        let content = match job.pool.get(in_pool) {
            Some(content) => content,
            None => {
                made.make(job.workload, index);
                &made
            }
        };
        encode(content, in_batch, if job.lz4 { &mut raw } else { &mut wire });
        if raw.len() >= BLOCK && !job.at_seal {
            compress(&mut raw, false, &mut table, &mut scratch, &mut wire);
        }
        (in_batch, in_pool) = (in_batch + 1, in_pool + 1);
        if in_pool == job.pool.len() {
            in_pool = 0;
        }
        if in_batch == job.batch || index + 1 == count {
            compress(&mut raw, true, &mut table, &mut scratch, &mut wire);
            done(&wire, checksum(CrcAlgorithm::Crc32Iscsi, &wire) as u32);
            wire.clear();
            in_batch = 0;
        }
    }
}

/// Reads a batch: how many records, and the sum over them.
pub fn consume(wire: &[u8], crc: u32, lz4: bool, raw: &mut Vec<u8>) -> (u64, u64) {
    assert_eq!(checksum(CrcAlgorithm::Crc32Iscsi, wire) as u32, crc, "CRC");
    let (mut rest, mut len) = (if lz4 { wire } else { &[] }, 0);
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let (block, after) = after.split_at(u32::from_le_bytes(*head) as usize);
        raw.resize(raw.len().max(len + BLOCK), 0);
        len += decompress_into(block, &mut raw[len..]).unwrap_or(0);
        rest = after;
    }
    let (mut at, mut count, mut sum) = (if lz4 { &raw[..len] } else { wire }, 0, 0u64);
    while !at.is_empty() {
        let mut record = &field(&mut at)[1..];
        let _deltas = (read_varint(&mut record), read_varint(&mut record));
        sum = sum.wrapping_add(words(field(&mut record)));
        sum = sum.wrapping_add(words(field(&mut record)).wrapping_mul(3));
        for _ in 0..read_varint(&mut record) {
            sum = sum.wrapping_add(words(field(&mut record)).wrapping_mul(5));
            sum = sum.wrapping_add(words(field(&mut record)).wrapping_mul(7));
        }
        count += 1;
    }
    (count, sum)
}

/// Appends record `at` of a batch: length, attributes, deltas, body. (A null key costs what an empty one costs.)
fn encode(content: &Content, at: u64, out: &mut Vec<u8>) {
    let field = |bytes: &[u8]| varint_len(bytes.len() as u64) + bytes.len();
    let (mut names, mut headers) = (0, 0);
    for (name, value) in content.headers() {
        (names, headers) = (names + 1, headers + field(name) + field(value));
    }
    let len = 2 + varint_len(at / 1000) + varint_len(at) + field(&content.key) + field(&content.value) + headers;
    varint(out, len as u64);
    out.push(0);
    varint(out, at / 1000);
    varint(out, at);
    for bytes in [&content.key, &content.value] {
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
    varint(out, names);
    for bytes in content.headers().flat_map(|(name, value)| [name, value]) {
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Compresses blocks of `raw` behind `wire`: all of it, or only whole ones.
fn compress(raw: &mut Vec<u8>, all: bool, table: &mut CompressTable, scratch: &mut [u8], wire: &mut Vec<u8>) {
    let whole = if all { raw.len() } else { raw.len() / BLOCK * BLOCK };
    for block in raw[..whole].chunks(BLOCK) {
        let len = compress_into_with_table(block, scratch, table).unwrap_or(0);
        wire.extend_from_slice(&(len as u32).to_le_bytes());
        wire.extend_from_slice(&scratch[..len]);
    }
    raw.drain(..whole);
}

fn field<'a>(at: &mut &'a [u8]) -> &'a [u8] {
    let len = read_varint(at);
    let (field, rest) = at.split_at(len);
    *at = rest;
    field
}

/// Lengths and deltas are never negative here, so zigzag is twice the number.
fn varint(out: &mut Vec<u8>, n: u64) {
    let mut rest = n * 2;
    while rest > 127 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn varint_len(n: u64) -> usize {
    (70 - ((n * 2) | 1).leading_zeros() as usize) / 7
}

fn read_varint(at: &mut &[u8]) -> usize {
    let (mut n, mut shift) = (0, 0);
    while let Some((byte, rest)) = at.split_first() {
        *at = rest;
        n |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            break;
        }
    }
    n / 2
}
