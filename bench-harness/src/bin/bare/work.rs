//! What no client of these records can leave out: values made into the frame and a CRC over them, and back: CRC, decoding,
//! a sum over every value. Only for fixed values, which have no keys and no headers.

use std::io::{self, BufReader, Read};
use std::net::TcpStream;

use crc_fast::{CrcAlgorithm, checksum};

use crate::frames::{BATCH_HEADER_BYTES, Frame, strange};
use crate::workload::{Content, Workload, words};

/// Where in a batch its CRC is, and where that begins to count.
const CRC: std::ops::Range<usize> = 17..21;

/// Makes a frame's records anew, from record `first` on.
pub fn make(frame: &mut Frame, first: u64, workload: Workload, content: &mut Content) {
    let batch = &mut frame.bytes[frame.batch.clone()];
    for (index, at) in (first..).zip(&frame.values) {
        content.make(workload, index);
        batch[*at..*at + content.value.len()].copy_from_slice(&content.value);
    }
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &batch[CRC.end..]) as u32;
    batch[CRC].copy_from_slice(&crc.to_be_bytes());
}

/// Reads a batch's records, checks their CRC and adds up their values.
pub fn read(
    reader: &mut BufReader<&TcpStream>,
    header: &[u8; BATCH_HEADER_BYTES],
    len: usize,
    memory: &mut Vec<u8>,
    sum: &mut u64,
) -> io::Result<()> {
    memory.resize(BATCH_HEADER_BYTES + len, 0);
    memory[..BATCH_HEADER_BYTES].copy_from_slice(header);
    reader.read_exact(&mut memory[BATCH_HEADER_BYTES..])?;
    if (checksum(CrcAlgorithm::Crc32Iscsi, &memory[CRC.end..]) as u32).to_be_bytes() != header[CRC] {
        return Err(strange("CRC", &header[CRC]));
    }
    let mut rest = &memory[BATCH_HEADER_BYTES..];
    while !rest.is_empty() {
        let len = number(&mut rest)?;
        let (mut record, after) = rest.split_at_checked(len).ok_or_else(|| strange("length", len))?;
        rest = after;
        record = record.get(1..).unwrap_or_default();
        let _deltas = (number(&mut record)?, number(&mut record)?);
        let _null_key = number(&mut record)?;
        let len = number(&mut record)?;
        let value = record.get(..len).ok_or_else(|| strange("value", len))?;
        // The sum that all readers make: of the (empty) key, and three times of the value.
        *sum = sum.wrapping_add(words(value).wrapping_mul(3));
    }
    Ok(())
}

/// A zigzag number; negative ones, which are nulls here, come out at 0.
fn number(at: &mut &[u8]) -> io::Result<usize> {
    let (mut n, mut shift) = (0, 0);
    while let Some((byte, rest)) = at.split_first() {
        *at = rest;
        n |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            return Ok(n / 2);
        }
        if shift > 28 {
            break;
        }
    }
    Err(strange("number", n))
}
