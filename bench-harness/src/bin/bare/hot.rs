//! A client without a client: one blocking socket, frames that were made beforehand, answers of which only what cannot be
//! left out is looked at. Nothing is encoded, checked or decoded here (`work.rs` does where it is asked to).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::frames::{BATCH_HEADER_BYTES, FetchRequest, Frame, PRODUCE_ERROR_AT, Passed, strange};

/// Produce requests under way, as with idempotence.
const IN_FLIGHT: u64 = 5;
/// As one buffer of Ottla's ring.
const RECEIVE_BYTES: usize = 64 << 10;
/// Where a request's correlation id is, behind length, key and version.
const CORRELATION_AT: usize = 8;

/// Sends these frames in turn, `count` in all, then the last one, with up to five unanswered; in the end all are answered.
/// `make` is given each before it goes, and the number of its first record.
pub fn produce(
    socket: &TcpStream,
    all: &mut [Frame],
    count: u64,
    last: Option<Frame>,
    mut make: impl FnMut(&mut Frame, u64),
) -> io::Result<Passed> {
    let (mut reader, mut writer) = (BufReader::with_capacity(4096, socket), socket);
    let (mut passed, mut answered, mut last) = (Passed::default(), 0, last);
    loop {
        let place = (passed.requests % all.len().max(1) as u64) as usize;
        let next = if passed.requests < count { all.get_mut(place) } else { last.as_mut() };
        let Some(frame) = next.filter(|_| passed.requests <= count) else { break };
        if passed.requests - answered == IN_FLIGHT {
            acknowledged(&mut reader, answered)?;
            answered += 1;
        }
        make(frame, passed.records);
        frame.bytes[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&(passed.requests as u32).to_be_bytes());
        writer.write_all(&frame.bytes)?;
        passed.add(frame);
    }
    while answered < passed.requests {
        acknowledged(&mut reader, answered)?;
        answered += 1;
    }
    Ok(passed)
}

/// Sends frames one by one, each when the one before is answered; how long each took, in nanoseconds.
pub fn waited(socket: &TcpStream, frames: &mut [Frame], nanos: &mut Vec<u64>) -> io::Result<Passed> {
    let (mut reader, mut writer) = (BufReader::with_capacity(4096, socket), socket);
    let mut passed = Passed::default();
    for frame in frames {
        frame.bytes[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&(passed.requests as u32).to_be_bytes());
        let started = Instant::now();
        writer.write_all(&frame.bytes)?;
        acknowledged(&mut reader, passed.requests)?;
        nanos.push(started.elapsed().as_nanos() as u64);
        passed.add(frame);
    }
    Ok(passed)
}

/// Reads one answer to Produce: it must be that request's, and without an error.
fn acknowledged(reader: &mut BufReader<&TcpStream>, request: u64) -> io::Result<()> {
    let mut head = [0; PRODUCE_ERROR_AT + 2];
    reader.read_exact(&mut head[..4])?;
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    reader.read_exact(&mut head)?;
    let rest = len.checked_sub(head.len()).ok_or_else(|| strange("short answer", len))?;
    go_past(reader, rest)?;
    match (head[..4] == (request as u32).to_be_bytes(), &head[PRODUCE_ERROR_AT..]) {
        (true, [0, 0]) => Ok(()),
        (_, error) => Err(strange("refused, or another's answer", error)),
    }
}

/// Reads until `records` were seen: of each batch its header, which tells where the next one begins, and the rest by `read`.
pub fn consume(
    socket: &TcpStream,
    mut request: FetchRequest,
    records: u64,
    mut read: impl FnMut(&mut BufReader<&TcpStream>, &[u8; BATCH_HEADER_BYTES], usize) -> io::Result<()>,
) -> io::Result<Passed> {
    let (mut reader, mut writer) = (BufReader::with_capacity(RECEIVE_BYTES, socket), socket);
    let mut passed = Passed::default();
    while passed.records < records {
        writer.write_all(request.bytes())?;
        passed.requests += 1;
        let (mut left, behind) = request.records_of(&mut reader)?;
        while left >= BATCH_HEADER_BYTES {
            let mut header = [0; BATCH_HEADER_BYTES];
            reader.read_exact(&mut header)?;
            left -= BATCH_HEADER_BYTES;
            let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            // The length counts what is behind itself.
            let body = (number(8) as usize + 12)
                .checked_sub(BATCH_HEADER_BYTES)
                .ok_or_else(|| strange("short batch", number(8)))?;
            if body > left {
                break; // cut off: it comes again, whole
            }
            read(&mut reader, &header, body)?;
            left -= body;
            let base = u64::from(number(0)) << 32 | u64::from(number(4));
            request.next_offset = base + u64::from(number(23)) + 1;
            passed.batches += 1;
            passed.records += u64::from(number(57));
            passed.wire_bytes += (BATCH_HEADER_BYTES + body) as u64;
        }
        go_past(&mut reader, left + behind)?;
    }
    Ok(passed)
}

/// Receives bytes into memory that is used again, and no more.
pub fn go_past(reader: &mut BufReader<&TcpStream>, mut len: usize) -> io::Result<()> {
    while len > 0 {
        let here = reader.fill_buf()?.len().min(len);
        if here == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.consume(here);
        len -= here;
    }
    Ok(())
}
