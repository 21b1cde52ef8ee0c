//! What a record costs between two cores: 300-byte records over a lane, with and without budget and doorbell.
//!
//! `cargo bench --bench mesh` prints one line per scenario: nanoseconds per record, the best of several runs. "one core"
//! pins both threads to the same core (`taskset -c N`: the shard is woken at 4 full chunks, the writer parks when full);
//! "two cores" pins them to different ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ottla::base::ids::LaneId;
use ottla::base::stream::StreamSettings;
use ottla::base::sync::park_until;
use ottla::base::time::{Clock, SystemClock, Time};
use ottla::mesh::{Budget, LaneSettings, LaneWriter, Medium, lane, sleeper};

const RECORD: usize = 300;
const RECORDS: u64 = 4_000_000;
const RUNS: usize = 5;

fn main() {
    // Criterion-style arguments of `cargo bench` are accepted and ignored; a number limits the records.
    let records = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(RECORDS);
    let cores = cores();
    let record = [7u8; RECORD];
    report("heavy barrier, another thread running", || barriers(200_000));
    report("copy 300 bytes, no lane", || bare(records, &record));
    report("lane, one thread, reserve + copy + commit + consume", || one_thread(records, &record, false));
    report("lane, one thread, with budget and doorbell check", || one_thread(records, &record, true));
    report("lane, two threads on one core", || two_threads(records, &record, cores[0], cores[0], false));
    if cores.len() > 1 {
        report("lane, two threads on two cores", || two_threads(records, &record, cores[0], cores[1], false));
        report("lane, two cores, a shard that works 50 ns a record", || {
            two_threads(records, &record, cores[0], cores[1], true)
        });
    }
}

fn report(name: &str, run: impl Fn() -> Measured) {
    let mut runs: Vec<Measured> = (0..RUNS).map(|_| run()).collect();
    runs.sort_by(|a, b| a.ns.total_cmp(&b.ns));
    let (best, median) = (&runs[0], &runs[RUNS / 2]);
    println!("{name:<55} {:>7.1} ns best {:>7.1} median   {}", best.ns, median.ns, best.notes);
}

struct Measured {
    ns: f64,
    notes: String,
}

fn measured(records: u64, start: Instant, notes: String) -> Measured {
    Measured { ns: start.elapsed().as_nanos() as f64 / records as f64, notes }
}

/// The cores this process may run on.
fn cores() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).expect("affinity");
    (0..1024).filter(|core| set.is_set(*core)).collect()
}

fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).expect("pin");
}

fn barriers(count: u64) -> Measured {
    ottla::base::sync::prepare_barriers();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let other = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    let start = Instant::now();
    for _ in 0..count {
        ottla::base::sync::heavy_barrier();
    }
    let result = measured(count, start, String::new());
    stop.store(true, Ordering::Relaxed);
    other.join().expect("the spinning thread");
    result
}

fn bare(records: u64, record: &[u8]) -> Measured {
    let mut into = vec![0u8; 64 << 10];
    let start = Instant::now();
    let mut at = 0;
    for _ in 0..records {
        if at + RECORD > into.len() {
            at = 0;
        }
        into[at..at + RECORD].copy_from_slice(std::hint::black_box(record));
        at += RECORD;
    }
    std::hint::black_box(&into);
    measured(records, start, String::new())
}

fn put(writer: &mut LaneWriter, record: &[u8]) -> bool {
    match writer.reserve(RECORD) {
        Ok(room) => {
            room.copy_from_slice(record);
            writer.commit(RECORD);
            true
        }
        Err(_) => false,
    }
}

fn one_thread(records: u64, record: &[u8], all: bool) -> Measured {
    let (mut writer, mut reader) = lane(LaneId(0), LaneSettings::default());
    let (_sleeper, doorbell) = sleeper(&Medium::threads(), || {});
    let budget = Budget::new(32 << 20);
    let mut credit = budget.credit();
    let start = Instant::now();
    for sent in 0..records {
        if all {
            assert!(credit.try_spend(RECORD as u64));
        }
        assert!(put(&mut writer, record));
        if all {
            doorbell.notify(Time(sent));
        }
        if sent % 128 == 127 {
            loop {
                let len = std::hint::black_box(reader.readable()).len();
                if len == 0 {
                    break;
                }
                reader.consume(len);
                if all {
                    budget.give_back(len as u64);
                }
            }
        }
    }
    measured(records, start, String::new())
}

/// CPU time of this thread: what others do on this machine does not count.
fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A chain of multiplications, about 50 ns for 300 bytes: less than lz4 takes.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .fold(1, |sum, word| (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn two_threads(records: u64, record: &[u8], writer_core: usize, reader_core: usize, works: bool) -> Measured {
    let (mut writer, mut reader) =
        lane(LaneId(0), LaneSettings { stream: StreamSettings::default(), medium: Medium::threads() });
    let rung = Arc::new(AtomicBool::new(false));
    let budget = Budget::new(32 << 20);
    let done = Arc::new(AtomicBool::new(false));
    let (flag, freed, ended) = (rung.clone(), budget.clone(), done.clone());
    let (doorbells, from_shard) = std::sync::mpsc::channel();
    let shard = std::thread::spawn(move || {
        pin(reader_core);
        let thread = std::thread::current();
        let (mut sleeper, doorbell) = sleeper(&Medium::threads(), move || {
            flag.store(true, Ordering::SeqCst);
            thread.unpark();
        });
        doorbells.send(doorbell).expect("the main thread waits");
        let (mut sum, mut sleeps) = (0u64, 0u64);
        let mut batch = vec![0u8; 1 << 20];
        let mut at = 0;
        loop {
            sleeper.turn_begins();
            let bytes = reader.readable();
            let len = bytes.len();
            if len > 0 {
                // What the shard does with records: copies them into a batch.
                if at + len > batch.len() {
                    at = 0;
                }
                batch[at..at + len].copy_from_slice(bytes);
                if works {
                    std::hint::black_box(digest(bytes));
                }
                at += len;
                reader.consume(len);
                freed.give_back(len as u64);
                sum += len as u64;
                continue;
            }
            if ended.load(Ordering::SeqCst) {
                return (sum, sleeps, thread_cpu_ns());
            }
            // As a shard with linger does: sleeps 2 ms unless somebody rings.
            sleeper.prepare(SystemClock.now().mono + Duration::from_millis(2));
            if !reader.has_readable() && !ended.load(Ordering::SeqCst) {
                sleeps += 1;
                if !rung.swap(false, Ordering::SeqCst) {
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }
            sleeper.waited();
        }
    });
    pin(writer_core);
    let doorbell = from_shard.recv().expect("the shard starts");
    let mut credit = budget.credit();
    let (mut parked, mut chunk_bytes) = (0u64, 0usize);
    let cpu_before = thread_cpu_ns();
    let start = Instant::now();
    for _ in 0..records {
        if !credit.try_spend(RECORD as u64) {
            doorbell.notify_now();
            budget.take_by(RECORD as u64, Time::NEVER, &SystemClock).expect("budget");
        }
        while !put(&mut writer, record) {
            parked += 1;
            doorbell.notify_now();
            let room = park_until(Time::NEVER, &SystemClock, |context| writer.poll_room(context, RECORD));
            assert_eq!(room, Some(Ok(())));
        }
        // Rings at 4 full chunks, and when a record would be late: here only at chunks, as a busy caller does.
        chunk_bytes += RECORD;
        if chunk_bytes >= 4 << 16 {
            chunk_bytes = 0;
            doorbell.notify_now();
        } else {
            doorbell.notify(Time::NEVER);
        }
    }
    let writer_ns = thread_cpu_ns() - cpu_before;
    done.store(true, Ordering::SeqCst);
    doorbell.force();
    let (sum, sleeps, shard_ns) = shard.join().expect("shard");
    assert_eq!(sum, records * RECORD as u64);
    let per = |ns: u64| ns as f64 / records as f64;
    let cpu = format!("cpu: writer {:.1}, shard {:.1} ns", per(writer_ns), per(shard_ns));
    let (rings, kib) = (doorbell.rings(), writer.allocated_bytes() >> 10);
    let notes = format!("{cpu}; {parked} parks, {rings} rings, {sleeps} sleeps, {kib} KiB");
    measured(records, start, notes)
}
