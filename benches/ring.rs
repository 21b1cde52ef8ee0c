//! io_uring against epoll against a blocking socket, on loopback: `cargo bench --bench ring [-- ROUNDS]`.
//!
//! Client CPU is the client thread's own (user + system). The peer is one blocking thread. Rounds are interleaved, so that
//! a noisy moment hits every row; min / median / max are printed. Nobody reads the payload: these are costs of transport.

#![allow(clippy::unwrap_used)] // a bench that cannot go on stops

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ottla::base::chunk::{ChunkPool, Piece};
use ottla::ring::epoll::EpollBackend;
use ottla::ring::uring::UringBackend;
use ottla::ring::{Backend, Events, RingSettings, SendChain, Sock, SocketOptions, Wait};
use rustix::time::{ClockId, clock_gettime};

const WORD: usize = 64;
const ANSWER: usize = 8 << 20;
const FETCHES: usize = 32; // 256 MiB
const REQUEST: usize = 1 << 20;
const PRODUCES: usize = 256; // 256 MiB
const PINGS: usize = 10_000;

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A peer that answers every `request` bytes with `answer` bytes, on every connection it accepts, one thread each.
fn peer(request: usize, answer: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let (mut asked, answer) = (vec![0; request], vec![7; answer]);
                while stream.read_exact(&mut asked).is_ok() && stream.write_all(&answer).is_ok() {}
            });
        }
    });
    address
}

/// What one run cost.
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    syscalls: u64,
}

fn measure(run: impl FnOnce() -> u64) -> Cost {
    let (start, cpu) = (Instant::now(), thread_cpu());
    let syscalls = run();
    Cost { seconds: start.elapsed().as_secs_f64(), cpu_seconds: (thread_cpu() - cpu).as_secs_f64(), syscalls }
}

#[derive(Default)]
struct Tally {
    connected: usize,
    received: usize,
    sent: Vec<SendChain>,
}

impl Events for Tally {
    fn connected(&mut self, _: Sock) {
        self.connected += 1;
    }

    fn data(&mut self, _: Sock, bytes: &[u8]) {
        self.received += bytes.len();
    }

    fn sent(&mut self, _: Sock, chain: SendChain) {
        self.sent.push(chain);
    }

    fn closed(&mut self, _: Sock, why: std::io::Error, _: Option<SendChain>, _: usize) {
        panic!("the peer went away: {why}");
    }
}

fn chain(bytes: usize) -> SendChain {
    let pool = ChunkPool::new(0);
    let mut pieces = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let mut chunk = pool.take(left.min(64 << 10));
        let part = vec![1; left.min(64 << 10)];
        left -= chunk.put(&part);
        pieces.push(Piece::whole(chunk));
    }
    SendChain { pieces }
}

/// `times` requests one after the other on a backend.
fn on_backend<B: Backend>(mut backend: B, address: SocketAddr, request: usize, answer: usize, times: usize) -> Cost {
    let mut tally = Tally::default();
    let sock = backend.open(address, &SocketOptions::default()).unwrap();
    while tally.connected == 0 {
        backend.turn(Wait::Forever, &mut tally).unwrap();
    }
    tally.sent.push(chain(request));
    measure(|| {
        let before = backend.stats().syscalls;
        for _ in 0..times {
            backend.send(sock, tally.sent.pop().unwrap()).unwrap();
            tally.received = 0;
            while tally.received < answer || tally.sent.is_empty() {
                backend.turn(Wait::Forever, &mut tally).unwrap();
            }
        }
        backend.stats().syscalls - before
    })
}

/// The same on a blocking socket with one reused buffer: the bar to meet.
fn on_std(address: SocketAddr, request: usize, answer: usize, times: usize) -> Cost {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let (asked, mut got) = (vec![1; request], vec![0; answer]);
    measure(|| {
        for _ in 0..times {
            stream.write_all(&asked).unwrap();
            stream.read_exact(&mut got).unwrap();
        }
        0
    })
}

/// 24 connections, one request in flight on each.
fn many<B: Backend>(mut backend: B, address: SocketAddr, times: usize) -> Cost {
    struct Many {
        connected: usize,
        answered: Vec<Sock>,
        chains: Vec<SendChain>,
    }
    impl Events for Many {
        fn connected(&mut self, sock: Sock) {
            self.connected += 1;
            self.answered.push(sock);
        }
        fn data(&mut self, sock: Sock, _: &[u8]) {
            self.answered.push(sock);
        }
        fn sent(&mut self, _: Sock, chain: SendChain) {
            self.chains.push(chain);
        }
        fn closed(&mut self, _: Sock, why: std::io::Error, _: Option<SendChain>, _: usize) {
            panic!("the peer went away: {why}");
        }
    }
    let mut events = Many { connected: 0, answered: Vec::new(), chains: (0..24).map(|_| chain(WORD)).collect() };
    for _ in 0..24 {
        backend.open(address, &SocketOptions::default()).unwrap();
    }
    while events.connected < 24 {
        backend.turn(Wait::Forever, &mut events).unwrap();
    }
    measure(|| {
        let before = backend.stats().syscalls;
        let mut done = 0;
        while done < times {
            while !events.answered.is_empty() && !events.chains.is_empty() {
                let (sock, chain) = (events.answered.pop().unwrap(), events.chains.pop().unwrap());
                // An answer may be reported before the end of its own send: then the next turn.
                if let Err(chain) = backend.send(sock, chain) {
                    events.answered.insert(0, sock);
                    events.chains.push(chain);
                    break;
                }
                done += 1;
            }
            backend.turn(Wait::Forever, &mut events).unwrap();
        }
        backend.stats().syscalls - before
    })
}

fn uring(buffers: u16) -> UringBackend {
    UringBackend::new(&RingSettings { buffer_count: buffers, ..RingSettings::default() }).unwrap()
}

fn epoll() -> EpollBackend {
    EpollBackend::new(&RingSettings::default()).unwrap()
}

fn spread(mut all: Vec<f64>) -> String {
    all.sort_by(f64::total_cmp);
    format!("{:8.3} {:8.3} {:8.3}", all[0], all[all.len() / 2], all[all.len() - 1])
}

/// What one round of a row runs.
type Run = Box<dyn Fn() -> Cost>;

fn table(title: &str, unit: &str, rounds: usize, per: f64, count: f64, rows: Vec<(&str, Run)>) {
    let mut costs: Vec<Vec<Cost>> = rows.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (row, costs) in rows.iter().zip(&mut costs) {
            costs.push(row.1());
        }
    }
    println!("\n{title}\n{:14} | CPU {unit}: min, median, max | wall {unit}: min, median, max | system calls each", "");
    for (row, costs) in rows.iter().zip(&costs) {
        let cpu = spread(costs.iter().map(|cost| cost.cpu_seconds * per / count).collect());
        let wall = spread(costs.iter().map(|cost| cost.seconds * per / count).collect());
        let calls = costs.iter().map(|cost| cost.syscalls).sum::<u64>() as f64 / costs.len() as f64 / count;
        println!("{:14} | {cpu} | {wall} | {calls:.2}", row.0);
    }
}

fn main() {
    // Cargo passes `--bench`; a number is ours.
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(5);
    let ping = peer(WORD, WORD);
    let rows: Vec<(&str, Run)> = vec![
        ("std", Box::new(move || on_std(ping, WORD, WORD, PINGS))),
        ("epoll", Box::new(move || on_backend(epoll(), ping, WORD, WORD, PINGS))),
        ("io_uring", Box::new(move || on_backend(uring(16), ping, WORD, WORD, PINGS))),
    ];
    table("64 B there and back, one connection", "us/trip", rounds, 1e6, PINGS as f64, rows);
    let rows: Vec<(&str, Run)> = vec![
        ("epoll", Box::new(move || many(epoll(), ping, 5 * PINGS))),
        ("io_uring", Box::new(move || many(uring(16), ping, 5 * PINGS))),
    ];
    table("64 B there and back, 24 connections", "us/trip", rounds, 1e6, 5.0 * PINGS as f64, rows);
    let fetch = peer(WORD, ANSWER);
    let rows: Vec<(&str, Run)> = vec![
        ("std", Box::new(move || on_std(fetch, WORD, ANSWER, FETCHES))),
        ("epoll", Box::new(move || on_backend(epoll(), fetch, WORD, ANSWER, FETCHES))),
        ("io_uring 4", Box::new(move || on_backend(uring(4), fetch, WORD, ANSWER, FETCHES))),
        ("io_uring 8", Box::new(move || on_backend(uring(8), fetch, WORD, ANSWER, FETCHES))),
        ("io_uring 16", Box::new(move || on_backend(uring(16), fetch, WORD, ANSWER, FETCHES))),
        ("io_uring 64", Box::new(move || on_backend(uring(64), fetch, WORD, ANSWER, FETCHES))),
    ];
    let gib = (FETCHES * ANSWER) as f64 / (1u64 << 30) as f64;
    table("256 MiB received in answers of 8 MiB", "s/GiB", rounds, 1.0, gib, rows);
    let produce = peer(REQUEST, WORD);
    let rows: Vec<(&str, Run)> = vec![
        ("std", Box::new(move || on_std(produce, REQUEST, WORD, PRODUCES))),
        ("epoll", Box::new(move || on_backend(epoll(), produce, REQUEST, WORD, PRODUCES))),
        ("io_uring", Box::new(move || on_backend(uring(16), produce, REQUEST, WORD, PRODUCES))),
    ];
    table("256 MiB sent in requests of 1 MiB", "s/GiB", rounds, 1.0, gib, rows);
}
