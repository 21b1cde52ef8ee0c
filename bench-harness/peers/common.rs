//! What the peers in Rust share: the words of the command line, the records, the sum, and the report in the shape of
//! `ottla bench --json`. Included by path; each peer is a program with a lock file of its own.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::workload::{Content, POOL_RECORDS, Workload, words};

/// One record in so many has its way to the acknowledgement timed, as in `ottla bench`.
pub const ACK_SAMPLE: u64 = 64;

/// What is to be done.
pub struct Job {
    pub bootstrap: String,
    pub topic: String,
    pub produces: bool,
    pub messages: u64,
    pub partitions: i32,
    pub compression: String,
    pub linger: Duration,
    /// One record at a time, each waited for.
    pub waited: bool,
    /// Records a second; as fast as it goes without.
    pub rate: Option<u64>,
    workload: Workload,
    base_ms: i64,
    /// Records made beforehand, in turn.
    pool: Vec<Content>,
}

impl Job {
    /// Reads `-name value` pairs.
    pub fn read() -> Result<Self, String> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let args: BTreeMap<&str, &str> =
            words.chunks_exact(2).map(|pair| (pair[0].trim_start_matches('-'), pair[1].as_str())).collect();
        let of = |name: &str, default: &'static str| args.get(name).copied().unwrap_or(default).to_owned();
        let number = |name: &str, default: &'static str| {
            of(name, default).parse::<u64>().map_err(|error| format!("-{name}: {error}"))
        };
        let workload = match of("workload", "telemetry").as_str() {
            "telemetry" => Workload::Telemetry,
            "telemetry-pool" => Workload::TelemetryPool,
            other => {
                let size = other.strip_prefix("fixed:").and_then(|size| size.parse().ok());
                Workload::Fixed(size.ok_or_else(|| format!("unknown workload {other}"))?)
            }
        };
        let (messages, produces) = (number("n", "1000000")?, of("phase", "produce") == "produce");
        let of_pool = |index| {
            let mut content = Content::default();
            content.make(workload, index);
            content
        };
        let pooled = if produces && workload == Workload::TelemetryPool { POOL_RECORDS.min(messages) } else { 0 };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            bootstrap: of("b", ""),
            topic: of("t", "ottla-bench"),
            produces,
            messages,
            partitions: number("partitions", "1")? as i32,
            compression: of("compression", "lz4"),
            linger: Duration::from_millis(number("linger", "100")?),
            waited: of("mode", "full") == "waited",
            rate: of("mode", "full").strip_prefix("paced:").and_then(|rate| rate.parse().ok()).filter(|rate| *rate > 0),
            workload,
            base_ms: since_1970.as_millis() as i64,
            pool: (0..pooled).map(of_pool).collect(),
        })
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

/// What a phase has to tell that only its client knows.
#[derive(Default)]
pub struct Told {
    pub batches: u64,
    pub requests: u64,
    pub wire_bytes: u64,
    /// Of sampled records, in microseconds; none when reading.
    pub acks_us: Vec<u64>,
    /// `None` when sending.
    pub sum: Option<u64>,
}

impl Meter {
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    /// Prints the report.
    pub fn report(self, job: &Job, mut settings: Value, mut told: Told) {
        let (seconds, process_cpu) = (self.wall.elapsed().as_secs_f64(), cpu());
        let messages = job.messages as f64;
        settings["workload"] = json!(job.workload.to_string());
        let mut row = json!({
            "phase": if job.produces { "produce" } else { "consume" },
            "messages": job.messages,
            "seconds": seconds,
            "messages_per_s": messages / seconds,
            "cpu_us_per_message": (process_cpu - self.cpu) * 1e6 / messages,
            "process_cpu_seconds": process_cpu,
            "context_switches": context_switches(),
            "max_rss_bytes": status("/proc/self/status", "VmHWM:") << 10,
            "batches": told.batches,
            "requests": told.requests,
            "wire_bytes": told.wire_bytes,
        });
        told.acks_us.sort_unstable();
        if let Some(last) = told.acks_us.len().checked_sub(1) {
            let at = |quantile: f64| told.acks_us[((quantile * (last + 1) as f64) as usize).min(last)];
            row["ack_us"] = json!({"p50": at(0.5), "p99": at(0.99), "p999": at(0.999)});
        }
        if let Some(sum) = told.sum {
            row["checksum"] = json!(format!("{sum:016x}"));
        }
        println!("{}", json!({"settings": settings, "phases": [row]}));
    }
}
