//! Bare sockets: what the kernel and the broker take of a record, with nobody in between.
//!
//! ```text
//!   -phase produce               frames made beforehand ─► one socket, up to five unanswered ─► acknowledgements
//!   -phase produce -mode waited  one record ─► its answer ─► the next; and what it takes to wake a thread, and be woken
//!   -records yes                 values and CRC made before each frame goes, and read and summed up behind each Fetch
//!   -phase consume               Fetch ─► 64 KiB used again ─► batch headers ─► the next offset
//! ```
//! Takes the words that all peers take and prints what they print. One partition, no compression, a broker of one node.
//! Without `-records` none is made, checked or looked at, and there is no sum over them. The loops are in `hot.rs`, which must
//! stay within 150 lines.

mod frames;
mod hot;
#[cfg(test)]
#[path = "../../sums.rs"]
mod sums;
mod wake;
mod work;
#[path = "../../workload.rs"]
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use frames::{FetchRequest, Frame, Passed, ProducerId, TopicId, produce_frame, producer_id, records_of, topic_id};
use hot::{consume, go_past, produce, waited};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use workload::{Content, Workload};

/// As Ottla's `batch.size`.
const BATCH_BYTES: u64 = 1_000_000;
/// Different frames: what is sent was not sent a moment ago.
const FRAMES: u64 = 8;

/// The words of the command line.
struct Words {
    bootstrap: String,
    topic: String,
    messages: u64,
    reads: bool,
    waits: bool,
    /// Records are made and looked at.
    works: bool,
    workload: Workload,
}

fn words(args: &[String]) -> Option<Words> {
    let pairs: BTreeMap<&str, &str> = args.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    let one_of = |name: &str, all: [&str; 2]| all.iter().position(|known| pairs.get(name) == Some(known));
    let known =
        ["-b", "-t", "-n", "-phase", "-mode", "-workload", "-partitions", "-compression", "-linger", "-records"];
    if !args.len().is_multiple_of(2) || pairs.keys().any(|name| !known.contains(name)) {
        return None;
    }
    // What it cannot do it does not do another way.
    if pairs.get("-partitions").is_some_and(|count| *count != "1") || pairs.get("-compression") != Some(&"none") {
        return None;
    }
    let workload = match *pairs.get("-workload")? {
        "telemetry" => Workload::Telemetry,
        other => Workload::Fixed(other.strip_prefix("fixed:")?.parse().ok().filter(|size| *size > 0)?),
    };
    let works = pairs.contains_key("-records") && one_of("-records", ["no", "yes"])? == 1;
    if works && workload == Workload::Telemetry {
        return None;
    }
    Some(Words {
        bootstrap: (*pairs.get("-b")?).to_owned(),
        topic: (*pairs.get("-t")?).to_owned(),
        messages: pairs.get("-n")?.parse().ok().filter(|count| *count > 0)?,
        reads: one_of("-phase", ["produce", "consume"])? == 1,
        waits: pairs.contains_key("-mode") && one_of("-mode", ["full", "waited"])? == 1,
        works,
        workload,
    })
}

/// Frames of so many records in all: whole ones, sent in turn, and one for what is left over.
fn frames(words: &Words, topic: &TopicId, producer: ProducerId) -> (Vec<Frame>, u64, Option<Frame>) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let of = |first, records| produce_frame(topic, producer, words.workload, first, records, now_ms);
    if words.waits {
        return ((0..words.messages).map(|index| of(index, 1)).collect(), words.messages, None);
    }
    let size = if let Workload::Fixed(size) = words.workload { size.into() } else { 290 };
    let records = records_of(BATCH_BYTES, size);
    let (whole, rest) = (words.messages / records, words.messages % records);
    let different = (0..FRAMES.min(whole)).map(|place| of(place * records, records)).collect();
    (different, whole, (rest > 0).then(|| of(whole * records, rest)))
}

/// CPU time of the only thread, in seconds, up to now.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Median, 99 % and 99.9 % in microseconds, with their fractions.
fn quantiles(nanos: &mut [u64]) -> Value {
    nanos.sort_unstable();
    let at = |quantile: f64| nanos.get((nanos.len() as f64 * quantile) as usize).map_or(0.0, |ns| *ns as f64 / 1e3);
    json!({"p50": at(0.5), "p99": at(0.99), "p999": at(0.999)})
}

fn run(words: &Words) -> io::Result<Value> {
    let socket = TcpStream::connect(&words.bootstrap)?;
    socket.set_nodelay(true)?;
    let topic = topic_id(&socket, &words.topic)?;
    let (mut nanos, mut sum, mut memory) = (Vec::new(), 0, Vec::new());
    let begin = || (Instant::now(), cpu());
    let (passed, (started, cpu_before)): (Passed, _) = if words.reads {
        let start = begin();
        let request = FetchRequest::new(&topic);
        let passed = if words.works {
            consume(&socket, request, words.messages, |reader, header, len| {
                work::read(reader, header, len, &mut memory, &mut sum)
            })?
        } else {
            consume(&socket, request, words.messages, |reader, _, len| go_past(reader, len))?
        };
        (passed, start)
    } else {
        let producer = if words.waits { producer_id(&socket)? } else { None };
        let (mut all, whole, rest) = frames(words, &topic, producer);
        nanos.reserve(all.len());
        let start = begin();
        let mut content = Content::default();
        let passed = if words.waits {
            waited(&socket, &mut all, &mut nanos)?
        } else if words.works {
            produce(&socket, &mut all, whole, rest, |frame, first| {
                work::make(frame, first, words.workload, &mut content)
            })?
        } else {
            produce(&socket, &mut all, whole, rest, |_, _| {})?
        };
        (passed, start)
    };
    let (seconds, used) = (started.elapsed().as_secs_f64(), cpu() - cpu_before);
    let mut row = json!({
        "phase": if words.reads { "consume" } else { "produce" }, "messages": passed.records, "seconds": seconds,
        "cpu_us_per_message": used * 1e6 / passed.records as f64, "process_cpu_seconds": cpu(),
        "max_rss_bytes": status("VmHWM:") << 10, "batches": passed.batches, "requests": passed.requests,
        "wire_bytes": passed.wire_bytes,
        "context_switches": status("voluntary_ctxt_switches:") + status("nonvoluntary_ctxt_switches:"),
    });
    if words.reads && words.works {
        row["checksum"] = json!(format!("{sum:016x}"));
    }
    if words.waits {
        row["ack_us"] = quantiles(&mut nanos);
        row["wake_us"] = quantiles(&mut wake::round_trips()?);
    }
    let settings = json!({"peer": "bare", "workload": words.workload.to_string(), "topic": words.topic,
        "messages": words.messages, "records_made": words.works, "in_flight": if words.waits { 1 } else { 5 }, "idempotence": words.waits,
        "compression": "none", "acks": "all", "linger_ms": "0", "batch_size": BATCH_BYTES.to_string()});
    Ok(json!({"settings": settings, "phases": [row]}))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(words) = words(&args) else {
        eprintln!(
            "bare -b HOST:PORT -t TOPIC -n RECORDS -phase produce|consume [-mode full|waited] [-records yes] -workload telemetry|fixed:SIZE \
             -compression none [-partitions 1] [-linger MS]"
        );
        return ExitCode::from(2);
    };
    match run(&words) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bare: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread::{JoinHandle, spawn};

    fn of(text: &str) -> Option<Words> {
        words(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    /// Hears whole frames, and says what `answer` makes of the correlation id and the rest of each.
    fn peer(answer: impl Fn([u8; 4], &[u8]) -> Vec<u8> + Send + 'static) -> (SocketAddr, JoinHandle<Vec<Vec<u8>>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let hears = move || {
            let (mut socket, mut heard, mut len) = (listener.accept().unwrap().0, Vec::new(), [0; 4]);
            while socket.read_exact(&mut len).is_ok() {
                let mut frame = vec![0; u32::from_be_bytes(len) as usize];
                socket.read_exact(&mut frame).unwrap();
                let said = answer(frame[4..8].try_into().unwrap(), &frame[8..]);
                let said = [&(said.len() as u32 + 4).to_be_bytes()[..], &frame[4..8], &said].concat();
                // Whoever got an answer he does not like is gone.
                let _ = socket.write_all(&said);
                heard.push(frame);
            }
            heard
        };
        (address, spawn(hears))
    }

    /// To Produce: tags, one topic, one partition, an error, and what nobody looks at.
    fn acknowledgement(error: u8) -> Vec<u8> {
        let mut said = vec![0; frames::PRODUCE_ERROR_AT - 4];
        said.extend([0, error]);
        said.resize(said.len() + 40, 9);
        said
    }

    #[test]
    fn the_hot_loops_stay_short() {
        assert!(include_str!("hot.rs").lines().count() <= 150);
    }

    #[test]
    fn all_frames_are_sent_and_answered_in_turn_and_an_error_is_noticed() {
        let words = of("-b x -t t -n 100 -phase produce -workload fixed:100000 -compression none").unwrap();
        let (mut all, whole, rest) = frames(&words, &[7; 16], None);
        assert_eq!((all.len() as u64, whole, rest.as_ref().map(|frame| frame.records)), (FRAMES, 11, Some(1)));
        let sent: Vec<Vec<u8>> = all.iter().map(|frame| frame.bytes.clone()).collect();
        let (address, heard) = peer(|_, _| acknowledgement(0));
        let socket = TcpStream::connect(address).unwrap();
        let passed = produce(&socket, &mut all, whole, rest, |_, _| {}).unwrap();
        drop(socket);
        assert_eq!((passed.records, passed.requests), (100, 12));
        let heard = heard.join().unwrap();
        assert_eq!(heard.len(), 12);
        for (place, frame) in heard[..11].iter().enumerate() {
            assert_eq!(frame[4..8], (place as u32).to_be_bytes());
            assert_eq!(frame[8..], sent[place % FRAMES as usize][12..]);
        }
        let (address, _heard) = peer(|_, _| acknowledgement(87));
        let refused = produce(&TcpStream::connect(address).unwrap(), &mut all, 1, None, |_, _| {}).unwrap_err();
        assert!(refused.to_string().contains("refused"), "{refused}");
    }

    #[test]
    fn records_are_waited_for_one_by_one_with_sequences() {
        let words = of("-b x -t t -n 30 -phase produce -mode waited -workload telemetry -compression none").unwrap();
        let (mut all, ..) = frames(&words, &[7; 16], Some((5, 1)));
        let (address, heard) = peer(|_, _| acknowledgement(0));
        let (socket, mut nanos) = (TcpStream::connect(address).unwrap(), Vec::new());
        let passed = waited(&socket, &mut all, &mut nanos).unwrap();
        drop(socket);
        assert_eq!((passed.records, passed.batches, nanos.len(), heard.join().unwrap().len()), (30, 30, 30, 30));
        let at = all[29].batch.start;
        assert_eq!(all[29].bytes[at + 53..at + 57], 29u32.to_be_bytes());
    }

    #[test]
    fn batches_are_walked_and_what_is_cut_off_comes_again() {
        let words = of("-b x -t t -n 9 -phase produce -workload fixed:400000 -compression none").unwrap();
        let (all, whole, rest) = frames(&words, &[7; 16], None);
        assert_eq!((whole, rest.is_some()), (4, true));
        // Batches as a log has them: with their offsets.
        let mut log = Vec::new();
        for (place, frame) in all.iter().chain(&rest).enumerate() {
            let mut batch = frame.bytes[frame.batch.clone()].to_vec();
            batch[..8].copy_from_slice(&(2 * place as u64).to_be_bytes());
            log.push(batch);
        }
        let wire: usize = log.iter().map(Vec::len).sum();
        let (address, heard) = peer(move |_, request| {
            let at = request.len() - 5 - 4 - 12 - 8;
            let offset = u64::from_be_bytes(request[at..at + 8].try_into().unwrap());
            let mut records: Vec<u8> = log[offset as usize / 2..].concat();
            records.truncate(1_000_000); // one whole batch, and part of the next
            let mut said = vec![0; 1 + 4 + 2 + 4 + 1 + 16 + 1 + 4 + 2 + 24];
            said.extend([0, 255, 255, 255, 255]);
            let mut len = records.len() + 1;
            while len > 127 {
                said.push(len as u8 | 128);
                len >>= 7;
            }
            said.push(len as u8);
            [said, records, vec![0; 3]].concat()
        });
        let socket = TcpStream::connect(address).unwrap();
        let (mut memory, mut sum) = (Vec::new(), 0);
        let passed = consume(&socket, FetchRequest::new(&[7; 16]), 9, |reader, header, len| {
            work::read(reader, header, len, &mut memory, &mut sum)
        });
        let passed = passed.unwrap();
        assert_eq!(sum, sums::sum(words.workload, 9));
        drop(socket);
        assert_eq!(passed, Passed { records: 9, batches: 5, requests: 5, wire_bytes: wire as u64 });
        assert_eq!(heard.join().unwrap().len(), 5);
    }

    #[test]
    fn a_frame_made_anew_is_the_one_of_those_records() {
        let made = |first| produce_frame(&[7; 16], None, Workload::Fixed(1_000), first, 70, 5);
        let mut frame = made(0);
        work::make(&mut frame, 140, Workload::Fixed(1_000), &mut Content::default());
        assert_eq!(frame, made(140));
    }

    #[test]
    fn what_it_cannot_do_is_refused() {
        let fine = "-b x -t t -n 7 -phase consume -workload fixed:9 -compression none";
        assert!(of(fine).is_some());
        for wrong in [
            "-partitions 2",
            "-compression lz4",
            "-workload telemetry-pool",
            "-n 0",
            "-phase both",
            "-x 1",
            "-mode paced:1",
            "-records maybe",
            "-workload telemetry -records yes",
        ] {
            assert!(of(&format!("{fine} {wrong}")).is_none(), "{wrong}");
        }
    }

    #[test]
    fn frames_hold_the_records_that_all_peers_send() {
        assert_eq!(sums::sum(Workload::Fixed(100), 1_000), 0xc8e7_7a51_1267_e02f);
        let frame = produce_frame(&[1; 16], None, Workload::Fixed(100), 3, 2, 0);
        let mut content = workload::Content::default();
        for index in [3, 4] {
            content.make(Workload::Fixed(100), index);
            assert!(frame.bytes.windows(100).any(|bytes| bytes == content.value), "record {index}");
        }
    }
}
