//! A broker that is never the limit: it takes batches and drops them, and replays one segment for ever.
//!
//! ```text
//!   producers ──► 61 bytes of each batch are read, the rest is dropped in the kernel ──► acknowledged at once
//!   whoever sends to topic `canned` ──► kept ──► readers of topic `canned-N` get it again and again, N records in all
//! ```
//! Figures made with it are of clients only, never of a client beside a Kafka: the harness shows them in a table of their
//! own. Every topic exists, on this one node; offsets are counted, so that kcat can check how much was sent. A thread per
//! connection, no queue, no log. Prints `{"bootstrap":"HOST:PORT"}` and ends when its standard input does.

mod answer;

use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use answer::{Answer, Book, Input, serve};
use rustix::net::{RecvFlags, recv};
use serde_json::json;

/// What one read asks for: the head of a request and of its first batch, and little more.
const HEAD_BYTES: usize = 256;
/// What one read drops at most.
const DROP_BYTES: usize = 1 << 20;

/// A connection's bytes.
struct Wire {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer was read and not taken.
    start: usize,
    end: usize,
    /// Never written to: the kernel wants a length.
    nowhere: Vec<u8>,
}

impl Input for Wire {
    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() < len {
                self.buffer.resize(len, 0);
            }
            while self.end < len {
                match self.socket.read(&mut self.buffer[self.end..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => self.end += count,
                }
            }
        }
        self.start += len;
        Ok(&self.buffer[self.start - len..self.start])
    }

    fn skip(&mut self, len: usize) -> io::Result<()> {
        let here = len.min(self.end - self.start);
        self.start += here;
        let mut left = len - here;
        while left > 0 {
            let part = left.min(DROP_BYTES);
            match recv(&self.socket, &mut self.nowhere[..part], RecvFlags::TRUNC | RecvFlags::WAITALL)?.1 {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => left -= count.min(left),
            }
        }
        Ok(())
    }
}

/// Writes an answer: its length, its head, and batches whose first eight bytes, the offset, are replaced.
fn write(mut socket: &TcpStream, answer: &Answer) -> io::Result<()> {
    let head = [&(answer.len() as u32).to_be_bytes()[..], &answer.head].concat();
    let offsets: Vec<[u8; 8]> = answer.batches.iter().map(|(base, _)| base.to_be_bytes()).collect();
    let mut pieces = vec![IoSlice::new(&head)];
    for ((_, batch), offset) in answer.batches.iter().zip(&offsets) {
        pieces.extend([IoSlice::new(offset), IoSlice::new(&batch.bytes[offset.len()..])]);
    }
    let mut rest = &mut pieces[..];
    while !rest.is_empty() {
        match socket.write_vectored(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => IoSlice::advance_slices(&mut rest, count),
        }
    }
    Ok(())
}

fn converse(socket: TcpStream, book: &Book) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut wire = Wire { socket, buffer: vec![0; HEAD_BYTES], start: 0, end: 0, nowhere: vec![0; DROP_BYTES] };
    loop {
        if let Some(answer) = serve(&mut wire, book)? {
            // What a broker without new records does.
            thread::sleep(Duration::from_millis(answer.wait_ms));
            write(&wire.socket, &answer)?;
        }
    }
}

fn run(partitions: i32) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let book = Arc::new(Book::new("127.0.0.1", port, partitions));
    println!("{}", json!({"bootstrap": format!("127.0.0.1:{port}")}));
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let book = Arc::clone(&book);
            thread::spawn(move || match converse(socket, &book) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => eprintln!("sink: {error}"),
                // Whoever has what he wanted goes.
                _ => {}
            });
        }
    });
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let partitions = match words[..] {
        [] => Some(1),
        ["--partitions", count] => count.parse().ok().filter(|count| (1..=100_000).contains(count)),
        _ => None,
    };
    let Some(partitions) = partitions else {
        eprintln!("sink [--partitions N]");
        return ExitCode::from(2);
    };
    match run(partitions) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sink: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_and_dropped_over_a_socket_and_answers_arrive_whole() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        let writer = thread::spawn(move || {
            let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
            peer.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).unwrap();
            answer
        });
        let mut wire = Wire { socket, buffer: vec![0; HEAD_BYTES], start: 0, end: 0, nowhere: vec![0; DROP_BYTES] };
        let mut at = 0usize;
        for (taken, skipped) in [(10, 0), (61, 2_000_000), (4, 3), (1_000, 900_000)] {
            let expected: Vec<u8> = (at..at + taken).map(|n| (n % 251) as u8).collect();
            assert_eq!(wire.take(taken).unwrap(), expected, "at {at}");
            wire.skip(skipped).unwrap();
            at += taken + skipped;
        }
        assert!(wire.nowhere.iter().all(|byte| *byte == 0), "dropped bytes were copied");
        write(&wire.socket, &Answer { head: vec![7; 5], ..Answer::default() }).unwrap();
        wire.skip(3_000_000 - at).unwrap();
        drop(wire);
        assert_eq!(writer.join().unwrap(), [0, 0, 0, 5, 7, 7, 7, 7, 7]);
    }
}
