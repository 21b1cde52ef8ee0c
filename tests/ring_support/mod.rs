//! What the ring's tests share: a log of events, a loop with a deadline, chains, listeners.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ottla::base::chunk::{ChunkPool, Piece};
use ottla::ring::{Backend, Events, Landing, SendChain, Sock, SocketOptions, Wait};

/// How a socket ended.
#[derive(Debug)]
pub struct Closed {
    pub sock: Sock,
    pub kind: ErrorKind,
    pub unsent: Option<SendChain>,
    pub written: usize,
}

/// Everything that was reported.
#[derive(Debug, Default)]
pub struct Log {
    pub connected: Vec<Sock>,
    pub sent: Vec<(Sock, SendChain)>,
    pub closed: Vec<Closed>,
    pub data_after_close: usize,
    /// Lends memory of this size for every other receive, where the socket lands.
    pub lends: usize,
    /// Landings that are out, and bytes that landed.
    pub out: usize,
    pub landed: usize,
    asked: usize,
    received: BTreeMap<(u32, u32), Vec<u8>>,
}

impl Log {
    /// Lends `lends` bytes for every other receive.
    pub fn lending(lends: usize) -> Self {
        Self { lends, ..Self::default() }
    }

    pub fn received(&self, sock: Sock) -> &[u8] {
        self.received.get(&(sock.index, sock.generation)).map_or(&[], Vec::as_slice)
    }

    pub fn closed(&self, sock: Sock) -> &Closed {
        let mut all = self.closed.iter().filter(|closed| closed.sock == sock);
        let first = all.next().expect("the socket was not closed");
        assert!(all.next().is_none(), "closed came twice");
        first
    }
}

impl Events for Log {
    fn connected(&mut self, sock: Sock) {
        self.connected.push(sock);
    }

    fn data(&mut self, sock: Sock, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.data_after_close += usize::from(self.closed.iter().any(|closed| closed.sock == sock));
        self.received.entry((sock.index, sock.generation)).or_default().extend_from_slice(bytes);
    }

    fn landing(&mut self, sock: Sock) -> Option<Landing> {
        assert!(self.closed.iter().all(|closed| closed.sock != sock) && self.out == 0, "one receive at a time");
        self.asked += 1;
        if self.lends == 0 || self.asked.is_multiple_of(2) {
            return None;
        }
        self.out += 1;
        Some(Landing { memory: vec![0xee; self.lends + 10], range: 3..3 + self.lends })
    }

    fn landed(&mut self, sock: Sock, landing: Landing, count: usize) {
        assert!(self.closed.iter().all(|closed| closed.sock != sock), "before the end");
        self.out -= 1;
        self.landed += count;
        let Landing { memory, range } = landing;
        assert!(range == (3..3 + self.lends) && count <= range.len() && memory.len() == self.lends + 10);
        let (before, behind) = (&memory[..3], &memory[3 + count..]);
        assert!(before.iter().chain(behind).all(|byte| *byte == 0xee), "only what is told was written");
        self.received.entry((sock.index, sock.generation)).or_default().extend_from_slice(&memory[3..3 + count]);
    }

    fn sent(&mut self, sock: Sock, chain: SendChain) {
        self.sent.push((sock, chain));
    }

    fn closed(&mut self, sock: Sock, why: std::io::Error, unsent: Option<SendChain>, written: usize) {
        self.closed.push(Closed { sock, kind: why.kind(), unsent, written });
    }
}

/// Turns until `done`, at most 30 s.
pub fn run_until<B: Backend>(backend: &mut B, log: &mut Log, done: impl Fn(&Log) -> bool) {
    let start = Instant::now();
    while !done(log) {
        let end = backend.now().mono + Duration::from_secs(5);
        backend.turn(Wait::Until(end), log).unwrap();
        if start.elapsed() > Duration::from_secs(30) {
            let received: usize = log.received.values().map(Vec::len).sum();
            panic!("nothing more happens: {received} bytes received, {:?}", backend.stats());
        }
    }
}

/// Opens a socket and waits until it is connected.
pub fn connect<B: Backend>(backend: &mut B, log: &mut Log, address: SocketAddr) -> Sock {
    let sock = backend.open(address, &SocketOptions::default()).unwrap();
    run_until(backend, log, |log| log.connected.contains(&sock));
    sock
}

/// A listener on a port of the kernel's choice.
pub fn listen(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A listener whose queue is full: who connects now gets no answer. Keep what it returns.
pub fn spill_listener() -> (impl Sized, SocketAddr) {
    let (listener, address) = listen("127.0.0.1");
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    // Loopback answers in microseconds; a connect that takes this long found the queue full.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 64, "the queue does not fill");
    }
    ((listener, waiting), address)
}

/// Bytes that repeat nowhere near: a shifted or swapped part is seen.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// One piece per part.
pub fn chain_of(pool: &ChunkPool, parts: &[&[u8]]) -> SendChain {
    let piece = |part: &&[u8]| {
        let mut chunk = pool.take(part.len());
        assert_eq!(chunk.put(part), part.len());
        Piece::whole(chunk)
    };
    SendChain { pieces: parts.iter().map(piece).collect() }
}
