//! Whether two shards do twice the work of one: the same producer on one core and on two, over an in-process null transport
//! that acknowledges at once, so that no kernel socket and no broker is what they share.
//!
//! ```text
//!   core a: handle ─► lane ─► shard 0 ─► NullBackend: requests are read as far as they must be, answered in place
//!   core b: handle ─► lane ─► shard 1 ─► NullBackend         (61 bytes of a batch are looked at, nothing is copied)
//! ```
//! Handle and shard of a partition share a core; each runs pinned. `cargo bench --bench shards -- [RECORDS] [--rounds N]
//! [--json]`; in each round one shard runs on each core by itself, then two run together. Wanted: 0.9 of the records per CPU
//! second, 1.8 times the records per second. Both cores must be free for the latter: the load is shown.

#![allow(clippy::unwrap_used)] // a bench that cannot go on stops

#[path = "../bench-harness/src/bin/sink/answer.rs"]
#[allow(dead_code, reason = "nothing is fetched here")]
mod answer;
#[path = "../bench-harness/src/workload.rs"]
#[allow(dead_code, reason = "one workload is sent")]
mod workload;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use ottla::base::chunk::Piece;
use ottla::base::ids::TopicIx;
use ottla::base::time::{Clock, Now, SystemClock};
use ottla::config::{Compression, EngineSettings};
use ottla::control;
use ottla::engine::{Engine, EngineClock, Seat, assemble};
use ottla::mesh::Medium;
use ottla::net::Resolver;
use ottla::producer::{Losses, Record};
use ottla::ring::{Backend, BackendKind, BackendStats, Events, SendChain, Sock, SocketOptions, Wait, Wake};
use ottla::shard;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use answer::{Book, Input, serve};
use workload::{Content, NAMES, Workload};

const RECORDS: u64 = 5_000_000;
const ROUNDS: usize = 5;
/// Different records, sent in turn by all.
const POOL: u64 = 65_536;
const PORT: u16 = 9092;
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS_PER_CPU_SECOND_MIN: f64 = 0.9;
const SPEED_MIN: f64 = 1.8;

// ------------------------------------------------------------------------------------------ the transport

/// A chain's bytes.
struct Pieces<'a> {
    pieces: &'a [Piece],
    /// Of the first piece.
    offset: usize,
    taken: Vec<u8>,
}

impl Pieces<'_> {
    fn is_empty(&self) -> bool {
        self.pieces.iter().map(Piece::len).sum::<usize>() == self.offset
    }

    fn each(&mut self, mut len: usize, mut see: impl FnMut(&[u8])) -> io::Result<()> {
        while len > 0 {
            let (first, rest) = self.pieces.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
            let here = &first.bytes()[self.offset..];
            let count = here.len().min(len);
            see(&here[..count]);
            (self.offset, len) = (self.offset + count, len - count);
            if self.offset == first.len() {
                (self.pieces, self.offset) = (rest, 0);
            }
        }
        Ok(())
    }
}

impl Input for Pieces<'_> {
    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        let mut taken = std::mem::take(&mut self.taken);
        taken.clear();
        self.each(len, |bytes| taken.extend_from_slice(bytes))?;
        self.taken = taken;
        Ok(&self.taken)
    }

    fn skip(&mut self, len: usize) -> io::Result<()> {
        self.each(len, |_| {})
    }
}

/// Ends a [`NullBackend`]'s wait.
#[derive(Clone)]
struct NullWaker(Arc<(AtomicBool, Thread)>);

impl Wake for NullWaker {
    fn wake(&self) {
        if !self.0.0.swap(true, Ordering::SeqCst) {
            self.0.1.unpark();
        }
    }
}

struct Socket {
    open: bool,
    closing: bool,
    outgoing: Option<SendChain>,
}

/// A broker in the same thread: what is sent is answered in the next turn.
struct NullBackend {
    book: Arc<Book>,
    sockets: Vec<Option<Socket>>,
    waker: NullWaker,
    stats: BackendStats,
    /// Bytes sent, for others to see.
    sent: Arc<AtomicU64>,
}

impl NullBackend {
    fn new(book: &Arc<Book>, sent: Arc<AtomicU64>) -> Self {
        let waker = NullWaker(Arc::new((AtomicBool::new(false), thread::current())));
        Self { book: Arc::clone(book), sockets: Vec::new(), waker, stats: BackendStats::default(), sent }
    }

    fn answer(&mut self, sock: Sock, chain: SendChain, events: &mut dyn Events) -> io::Result<()> {
        let mut answers = Vec::new();
        let mut input = Pieces { pieces: &chain.pieces, offset: 0, taken: Vec::new() };
        while !input.is_empty() {
            if let Some(answer) = serve(&mut input, &self.book)? {
                answers.extend_from_slice(&(answer.len() as u32).to_be_bytes());
                answers.extend_from_slice(&answer.head);
            }
        }
        self.stats.sent_bytes += chain.pieces.iter().map(Piece::len).sum::<usize>() as u64;
        self.sent.store(self.stats.sent_bytes, Ordering::Relaxed);
        self.stats.received_bytes += answers.len() as u64;
        events.sent(sock, chain);
        events.data(sock, &answers);
        Ok(())
    }
}

impl Backend for NullBackend {
    type Waker = NullWaker;

    fn open(&mut self, _: SocketAddr, _: &SocketOptions) -> io::Result<Sock> {
        self.sockets.push(Some(Socket { open: false, closing: false, outgoing: None }));
        Ok(Sock { index: self.sockets.len() as u32 - 1, generation: 1 })
    }

    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain> {
        match self.sockets.get_mut(sock.index as usize) {
            Some(Some(socket)) if socket.open && !socket.closing && socket.outgoing.is_none() => {
                socket.outgoing = Some(chain);
                Ok(())
            }
            _ => Err(chain),
        }
    }

    fn receive(&mut self, _: Sock, _: bool) {}

    fn close(&mut self, sock: Sock) {
        if let Some(Some(socket)) = self.sockets.get_mut(sock.index as usize) {
            socket.closing = true;
        }
    }

    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()> {
        self.stats.turns += 1;
        let mut active = false;
        for index in 0..self.sockets.len() {
            let sock = Sock { index: index as u32, generation: 1 };
            let Some(socket) = &mut self.sockets[index] else { continue };
            if socket.closing {
                let unsent = socket.outgoing.take();
                self.sockets[index] = None;
                events.closed(sock, io::ErrorKind::ConnectionAborted.into(), unsent, 0);
                active = true;
            } else if !socket.open {
                socket.open = true;
                events.connected(sock);
                active = true;
            } else if let Some(chain) = socket.outgoing.take() {
                self.answer(sock, chain, events)?;
                active = true;
            }
        }
        let woken = &self.waker.0.0;
        if !active && !woken.load(Ordering::SeqCst) {
            match wait {
                Wait::Poll => {}
                Wait::Forever => thread::park(),
                Wait::Until(time) => thread::park_timeout(SystemClock.now().mono.until(time)),
            }
        }
        if woken.swap(false, Ordering::SeqCst) {
            self.stats.wakes += 1;
        }
        Ok(())
    }

    fn waker(&self) -> NullWaker {
        self.waker.clone()
    }

    fn now(&self) -> Now {
        SystemClock.now()
    }

    fn kind(&self) -> BackendKind {
        BackendKind::Sim
    }

    fn stats(&self) -> BackendStats {
        self.stats
    }
}

// ------------------------------------------------------------------------------------------ the engine

/// Ends a thread's wait once it has a backend; before that it does not sleep.
fn ring(slot: &Arc<OnceLock<NullWaker>>) -> Box<dyn Fn() + Send + Sync> {
    let slot = Arc::clone(slot);
    Box::new(move || {
        if let Some(waker) = slot.get() {
            waker.wake();
        }
    })
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap();
}

/// An engine with a shard on each of these cores, and its threads.
fn start(cores: &[usize], sent: &[Arc<AtomicU64>]) -> (Engine, Vec<JoinHandle<()>>) {
    let book = Arc::new(Book::new("127.0.0.1", PORT, cores.len() as i32));
    let settings = EngineSettings {
        bootstrap_servers: vec![format!("127.0.0.1:{PORT}")],
        buffer_memory: 64 << 20,
        ..EngineSettings::default()
    };
    let slots: Vec<Arc<OnceLock<NullWaker>>> = (0..=cores.len()).map(|_| Arc::default()).collect();
    let seat = |slot: &Arc<OnceLock<NullWaker>>| Seat { medium: Medium::threads(), ring: ring(slot) };
    let seats = slots[1..].iter().map(seat).collect();
    let clock = EngineClock::system();
    let name = ("null", String::new());
    let assembly = assemble(settings, clock, seat(&slots[0]), seats, Medium::threads(), name, false).unwrap();
    let mut threads = Vec::new();
    let (control, slot, its_book) = (assembly.control, Arc::clone(&slots[0]), Arc::clone(&book));
    threads.push(thread::spawn(move || {
        let backend = NullBackend::new(&its_book, Arc::default());
        let _ = slot.set(backend.waker());
        let mut control = control.start(backend, Resolver::new(ring(&slot))).unwrap();
        while control.turn() == control::Turn::Running {}
    }));
    for (place, (shard, core)) in assembly.shards.into_iter().zip(cores.iter().copied()).enumerate() {
        let (slot, sent) = (&slots[1 + place], Arc::clone(&sent[place]));
        let (slot, its_book) = (Arc::clone(slot), Arc::clone(&book));
        threads.push(thread::spawn(move || {
            pin(core);
            let backend = NullBackend::new(&its_book, sent);
            let _ = slot.set(backend.waker());
            let mut shard = shard.start(backend, SystemClock);
            while shard.turn() == shard::Turn::Running {}
        }));
    }
    (assembly.engine, threads)
}

#[derive(Clone, Copy)]
struct Measured {
    /// Records of all shards.
    records: u64,
    wall: f64,
    cpu: f64,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.records as f64 / self.wall
    }

    fn per_cpu_second(&self) -> f64 {
        self.records as f64 / self.cpu
    }
}

fn process_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Sends `records` through each of as many shards as there are cores.
fn run(cores: &[usize], records: u64, pool: &[Content]) -> Measured {
    let sent: Vec<Arc<AtomicU64>> = cores.iter().map(|_| Arc::default()).collect();
    let (engine, threads) = start(cores, &sent);
    let topic = engine.topic("t").unwrap();
    engine.topic_info("t", PATIENCE).unwrap();
    let producer = engine.producer().compression(Compression::Lz4).linger(Duration::from_millis(100)).build().unwrap();
    let mut lanes: Vec<_> = cores.iter().map(|_| producer.lane()).collect();
    // The first use of a partition chooses its shard: one after the other, so that each has one.
    for (partition, lane) in lanes.iter_mut().enumerate() {
        lane.send(record(topic, partition, &pool[0])).unwrap();
        assert_eq!(lane.flush(PATIENCE).unwrap(), Losses::default());
    }
    let begin = Barrier::new(cores.len() + 1);
    let (mut started, mut cpu_before) = (Instant::now(), 0.0);
    let sent_before = engine.stats();
    thread::scope(|scope| {
        for (partition, (mut lane, core)) in lanes.drain(..).zip(cores.iter().copied()).enumerate() {
            let begin = &begin;
            scope.spawn(move || {
                pin(core);
                begin.wait();
                let mut place = 0;
                for _ in 0..records {
                    lane.send(record(topic, partition, &pool[place])).unwrap();
                    place = if place + 1 == pool.len() { 0 } else { place + 1 };
                }
                assert_eq!(lane.flush(PATIENCE).unwrap(), Losses::default());
            });
        }
        begin.wait();
        (started, cpu_before) = (Instant::now(), process_cpu());
    });
    let (wall, cpu) = (started.elapsed().as_secs_f64(), process_cpu() - cpu_before);
    let all = records * cores.len() as u64;
    assert_eq!(engine.stats().records - sent_before.records, all);
    let sent: Vec<u64> = sent.iter().map(|sent| sent.load(Ordering::Relaxed)).collect();
    assert!(sent.iter().all(|one| *one > sent[0] / 2), "one shard did the work: {sent:?}");
    drop(producer);
    engine.close(PATIENCE).unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Measured { records: all, wall, cpu }
}

fn record(topic: TopicIx, partition: usize, content: &Content) -> Record<'_> {
    let [key, value, correlation] = content.parts();
    let record = Record::to(topic).partition(partition as i32).key(key).value(value);
    let name = |place: usize| std::str::from_utf8(NAMES[place]).unwrap_or_default();
    record.header(name(0), correlation).header(name(1), "kafkaclitest-producer").header(name(2), "1.0.0")
}

// ------------------------------------------------------------------------------------------ the report

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1)?.parse().ok());
    let rounds = after("--rounds").unwrap_or(ROUNDS).max(1);
    let records = args.first().and_then(|arg| arg.parse().ok()).unwrap_or(RECORDS);
    let allowed = sched_getaffinity(None).unwrap();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(2).collect();
    assert_eq!(cores.len(), 2, "two cores are needed");
    let pool: Vec<Content> = (0..POOL)
        .map(|index| {
            let mut content = Content::default();
            content.make(Workload::Telemetry, index);
            content
        })
        .collect();
    let load_before = load();
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let [a, b] = [cores[0], cores[1]].map(|core| run(&[core], records, &pool));
        // Cores differ when somebody else uses one.
        ones.push(Measured { records: a.records + b.records, wall: a.wall + b.wall, cpu: a.cpu + b.cpu });
        twos.push(run(&cores, records, &pool));
    }
    let pairs = || ones.iter().zip(&twos);
    let efficiency = median(pairs().map(|(one, two)| two.per_cpu_second() / one.per_cpu_second()));
    let speed = median(pairs().map(|(one, two)| two.per_second() / one.per_second()));
    let row = |shards: usize, of: &[Measured]| -> Value {
        json!({"shards": shards, "records": of[0].records,
            "records_per_s": median(of.iter().map(Measured::per_second)),
            "records_per_cpu_s": median(of.iter().map(Measured::per_cpu_second)),
            "cpu_us_per_record": median(of.iter().map(|one| 1e6 / one.per_cpu_second()))})
    };
    let rows = [row(1, &ones), row(2, &twos)];
    if args.iter().any(|arg| arg == "--json") {
        let report = json!({"transport": "null", "rounds": rounds, "load_before": load_before, "load_after": load(),
            "results": rows, "records_per_cpu_s_to_one_shard": efficiency, "records_per_s_to_one_shard": speed});
        println!("{report}");
        return;
    }
    println!(
        "NULL TRANSPORT: no kernel, no broker; telemetry, lz4; medians of {rounds} rounds; load {load_before} to {}",
        load()
    );
    println!("{:>6} {:>14} {:>18} {:>14}", "shards", "records/s", "records/CPU s", "CPU us/record");
    for row in &rows {
        let figure = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "{:>6} {:>14.0} {:>18.0} {:>14.3}",
            row["shards"],
            figure("records_per_s"),
            figure("records_per_cpu_s"),
            figure("cpu_us_per_record")
        );
    }
    let verdict = |found: f64, wanted: f64| if found >= wanted { "reached" } else { "missed" };
    println!(
        "two shards to one: {efficiency:.3} of the records per CPU second (>= {RECORDS_PER_CPU_SECOND_MIN}: {}), \
         {speed:.2} times the records per second (>= {SPEED_MIN}: {})",
        verdict(efficiency, RECORDS_PER_CPU_SECOND_MIN),
        verdict(speed, SPEED_MIN)
    );
}
