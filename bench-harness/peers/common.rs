//! What the peers in Rust share: the words of the command line, the records, the sum, and the report in the shape of
//! `ottla bench --json`. Included by path; each peer is a program with a lock file of its own.
//!
//! All peers but Ottla's own program take the same words, in pairs (`bench-harness/src/peer.rs` says them):
//! ```text
//! -phase produce|consume     -b HOST:PORT,..    -t TOPIC    -n RECORDS    -partitions N
//! -workload telemetry|telemetry-pool|fixed:BYTES|klife      -compression lz4|none      -linger MS
//! -batch-size BYTES          1,000,000 without
//! -in-flight N               requests under way to one broker; as the client has it without
//! -mode full                 as fast as it goes
//!       waited               one record at a time, each waited for
//!       paced:PER_SECOND     latencies counted from when each was due (coordinated omission)
//!       mixed                phase produce; one process sends the records and reads them at once, and is done when it has
//!                            both: its row has acknowledgements and a checksum
//!       klife-sync:WORKERS   phase produce; the topics are TOPIC-0, TOPIC-1, TOPIC-2. So many workers, each: three records,
//!                            one to each topic, waited for together. Latencies are of the three together
//!       klife-async:TASKS    the same topics; so many tasks send to them in turn, nobody waits
//!       catch-up             phase consume; reads at least -n records and until every partition is read to its end as it was
//!                            last told, of a topic that somebody goes on writing to; `messages` tells how many it were
//! -seconds S                 klife only: it ends after so long, or after -n records; `messages` tells how many it were
//! ```
//! Klife's record `index` goes to topic `index % 3` and partition `splitmix64(index) % N`; worker `w` of `W` sends the indices
//! from `w * n / W` on, whole threes. Modes that a peer does not know are an error.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::workload::{Content, Workload, words};

/// One record in so many has its way to the acknowledgement timed, as in `ottla bench`.
pub const ACK_SAMPLE: u64 = 64;
/// Up to an hour, in microseconds; three significant digits.
const ACK_US_MAX: u64 = 3_600_000_000;

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Full,
    Waited,
    /// Records a second.
    Paced(u64),
    Mixed,
    /// Workers.
    KlifeSync(u64),
    /// Tasks.
    KlifeAsync(u64),
    CatchUp,
}

/// What is to be done.
pub struct Job {
    pub bootstrap: String,
    pub topic: String,
    pub produces: bool,
    pub messages: u64,
    pub partitions: i32,
    pub compression: String,
    pub linger: Duration,
    pub batch_size: u64,
    /// Requests under way to one broker; `None` is the client's own.
    #[allow(dead_code, reason = "not every peer can say")]
    pub in_flight: Option<u64>,
    pub mode: Mode,
    /// One record at a time, each waited for.
    pub waited: bool,
    /// Records a second; as fast as it goes without.
    pub rate: Option<u64>,
    /// When Klife's workers end, sent all or not.
    #[allow(dead_code, reason = "not every peer has the mode")]
    pub seconds: Option<Duration>,
    words: BTreeMap<String, String>,
    workload: Workload,
    base_ms: i64,
    /// Records made beforehand, in turn.
    pool: Vec<Content>,
}

impl Job {
    /// Reads `-name value` pairs.
    pub fn read() -> Result<Self, String> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let pairs = words.chunks_exact(2).map(|pair| (pair[0].trim_start_matches('-').to_owned(), pair[1].clone()));
        let words: BTreeMap<String, String> = pairs.collect();
        let of = |name: &str, default: &str| words.get(name).map_or_else(|| default.to_owned(), String::clone);
        let number =
            |name: &str, default: &str| of(name, default).parse::<u64>().map_err(|error| format!("-{name}: {error}"));
        let workload = match of("workload", "telemetry").as_str() {
            "telemetry" => Workload::Telemetry,
            "telemetry-pool" => Workload::TelemetryPool,
            "klife" => Workload::Klife,
            other => {
                let size = other.strip_prefix("fixed:").and_then(|size| size.parse().ok());
                Workload::Fixed(size.ok_or_else(|| format!("unknown workload {other}"))?)
            }
        };
        let mode = mode(&of("mode", "full"))?;
        let (messages, produces) = (number("n", "1000000")?, of("phase", "produce") == "produce");
        let of_pool = |index| {
            let mut content = Content::default();
            content.make(workload, index);
            content
        };
        let pooled = workload.period().filter(|_| produces).map_or(0, |period| period.min(messages));
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            bootstrap: of("b", ""),
            topic: of("t", "ottla-bench"),
            produces,
            messages,
            partitions: number("partitions", "1")? as i32,
            compression: of("compression", "lz4"),
            linger: Duration::from_millis(number("linger", "100")?),
            batch_size: number("batch-size", "1000000")?,
            in_flight: Some(number("in-flight", "0")?).filter(|most| *most > 0),
            mode,
            waited: mode == Mode::Waited,
            rate: if let Mode::Paced(rate) = mode { Some(rate) } else { None },
            seconds: Some(number("seconds", "0")?).filter(|seconds| *seconds > 0).map(Duration::from_secs),
            words,
            workload,
            base_ms: since_1970.as_millis() as i64,
            pool: (0..pooled).map(of_pool).collect(),
        })
    }

    /// A word that only one peer knows.
    #[allow(dead_code, reason = "not every peer has one")]
    pub fn word(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }

    /// Refuses the modes that only some peers know.
    #[allow(dead_code, reason = "some peers know them all")]
    pub fn without_klife(self) -> Result<Self, String> {
        match self.mode {
            Mode::Full | Mode::Waited | Mode::Paced(_) => Ok(self),
            mode => Err(format!("this peer has no mode {mode:?}")),
        }
    }

    /// Whether a reader goes on to the end.
    #[allow(dead_code, reason = "not every peer has the mode")]
    pub fn catches_up(&self) -> bool {
        self.mode == Mode::CatchUp
    }

    /// Record `index`: one of the pool, or made in `made`.
    pub fn content<'a>(&'a self, index: u64, made: &'a mut Content) -> &'a Content {
        if self.pool.is_empty() {
            made.make(self.workload, index);
            return made;
        }
        &self.pool[(index % self.pool.len() as u64) as usize]
    }

    /// Records in the pool; none where they are made while sending.
    #[allow(dead_code, reason = "not every peer keeps a pool of its own kind")]
    pub fn pooled(&self) -> u64 {
        self.pool.len() as u64
    }

    /// When record `index` is due, however late those before it were; `None` as fast as it goes.
    pub fn due(&self, start: Instant, index: u64) -> Option<Instant> {
        self.rate.map(|rate| start + Duration::from_nanos(index * 1_000_000_000 / rate))
    }

    /// Milliseconds since 1970.
    pub fn timestamp(&self, index: u64) -> i64 {
        self.base_ms + (index / 1000) as i64
    }

    /// Klife's topics.
    #[allow(dead_code, reason = "not every peer has the mode")]
    pub fn topics(&self) -> [String; 3] {
        [0, 1, 2].map(|number| format!("{}-{number}", self.topic))
    }

    /// The indices of worker `number` of `workers`: whole threes.
    #[allow(dead_code, reason = "not every peer has the mode")]
    pub fn share(&self, number: u64, workers: u64) -> std::ops::Range<u64> {
        let at = |number: u64| self.messages / 3 * number / workers * 3;
        at(number)..at(number + 1)
    }

    /// Whether a record is timed.
    pub fn times(&self, index: u64) -> bool {
        self.waited || self.rate.is_some() || index % ACK_SAMPLE == 0
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let unknown = || format!("unknown mode {text}");
    let (name, number) = text.split_once(':').unwrap_or((text, ""));
    let number = || number.parse().ok().filter(|number| *number > 0).ok_or_else(unknown);
    match name {
        "full" => Ok(Mode::Full),
        "waited" => Ok(Mode::Waited),
        "paced" => Ok(Mode::Paced(number()?)),
        "mixed" => Ok(Mode::Mixed),
        "catch-up" => Ok(Mode::CatchUp),
        "klife-sync" => Ok(Mode::KlifeSync(number()?)),
        "klife-async" => Ok(Mode::KlifeAsync(number()?)),
        _ => Err(unknown()),
    }
}

/// Times from sending to the acknowledgement.
pub struct Acks(Histogram<u64>);

impl Acks {
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        Histogram::new_with_bounds(1, ACK_US_MAX, 3).map(Self)
    }

    pub fn add(&mut self, took: Duration) {
        self.0.saturating_record(took.as_micros() as u64);
    }

    /// Adds what another thread timed.
    #[allow(dead_code, reason = "not every peer has several")]
    pub fn join(&mut self, other: &Self) -> Result<(), hdrhistogram::AdditionError> {
        self.0.add(&other.0)
    }
}

/// The sum over one record.
pub fn sum_of<'a>(key: &[u8], value: &[u8], headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> u64 {
    let of = |(name, value): (&[u8], &[u8])| words(name).wrapping_mul(5).wrapping_add(words(value).wrapping_mul(7));
    let headers = headers.map(of).fold(0, u64::wrapping_add);
    words(key).wrapping_add(words(value).wrapping_mul(3)).wrapping_add(headers)
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn status(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let of = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok();
    text.lines().find_map(of).unwrap_or(0)
}

fn context_switches() -> u64 {
    let of = |task: fs::DirEntry| {
        let path = task.path().join("status").display().to_string();
        status(&path, "voluntary_ctxt_switches:") + status(&path, "nonvoluntary_ctxt_switches:")
    };
    fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(of).sum()
}

/// Started before the client is made.
pub struct Meter {
    wall: Instant,
    cpu: f64,
}

/// What a phase cost.
pub struct Cost {
    seconds: f64,
    process_cpu: f64,
    phase_cpu: f64,
    context_switches: u64,
    max_rss_bytes: u64,
}

/// What a phase has to tell that only its client knows.
#[derive(Default)]
pub struct Told {
    /// Where it were not as many as were asked for.
    pub messages: Option<u64>,
    pub batches: u64,
    pub requests: u64,
    pub wire_bytes: u64,
    /// None when only reading.
    pub acks: Option<Acks>,
    /// `None` when only sending.
    pub sum: Option<u64>,
}

impl Meter {
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    /// At the end of the phase.
    pub fn end(self) -> Cost {
        let (seconds, process_cpu) = (self.wall.elapsed().as_secs_f64(), cpu());
        Cost {
            seconds,
            process_cpu,
            phase_cpu: process_cpu - self.cpu,
            context_switches: context_switches(),
            max_rss_bytes: status("/proc/self/status", "VmHWM:") << 10,
        }
    }
}

impl Cost {
    /// Prints the report.
    pub fn report(self, job: &Job, mut settings: Value, told: Told) {
        let count = told.messages.unwrap_or(job.messages);
        let messages = count as f64;
        settings["workload"] = json!(job.workload.to_string());
        settings["mode"] = json!(job.word("mode").unwrap_or("full"));
        let mut row = json!({
            "phase": if job.produces { "produce" } else { "consume" },
            "messages": count,
            "seconds": self.seconds,
            "messages_per_s": messages / self.seconds,
            "cpu_us_per_message": self.phase_cpu * 1e6 / messages,
            "process_cpu_seconds": self.process_cpu,
            "context_switches": self.context_switches,
            "max_rss_bytes": self.max_rss_bytes,
            "batches": told.batches,
            "requests": told.requests,
            "wire_bytes": told.wire_bytes,
        });
        if let Some(Acks(acks)) = told.acks {
            let at = |quantile| acks.value_at_quantile(quantile);
            row["ack_us"] = json!({"p50": at(0.5), "p99": at(0.99), "p999": at(0.999)});
            settings["ack_sample"] = if acks.len() >= count / 3 { json!(1) } else { json!(ACK_SAMPLE) };
        }
        if let Some(sum) = told.sum {
            row["checksum"] = json!(format!("{sum:016x}"));
        }
        println!("{}", json!({"settings": settings, "phases": [row]}));
    }
}
