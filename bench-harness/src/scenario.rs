//! What is sent and read: a workload over so many partitions, and how it is sent.

use crate::fault::Fault;
use crate::workload::Workload;

/// One scenario. Every peer makes the same records in it.
#[derive(Debug)]
pub struct Scenario {
    /// By which it is asked for.
    pub name: &'static str,
    /// What it is, for `list` and the report.
    pub what: &'static str,
    /// The records.
    pub workload: Workload,
    /// Partitions of its topic.
    pub partitions: u32,
    /// `lz4` or `none`.
    pub compression: &'static str,
    /// How long a batch waits for more records, in milliseconds.
    pub linger_ms: u32,
    /// The asked numbers of records are divided by this: larger records, or dearer ones.
    pub divide: u64,
    /// Ottla's backend where it is not the one it chooses itself.
    pub backend: Option<&'static str>,
    /// How records are sent.
    pub mode: Mode,
    /// Client and broker share all processors, instead of having one each.
    pub shared_cores: bool,
}

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As fast as it goes; then all peers read.
    Full,
    /// One at a time, each waited for; nobody reads.
    Waited,
    /// So many a second, latencies counted from when each was due; nobody reads.
    Paced(u32),
}

/// The fields that most scenarios share.
const TELEMETRY: Scenario = Scenario {
    name: "telemetry",
    what: "key, JSON value and three headers, 261 bytes, made while sending; 1 partition; lz4, acks=all, idempotent, \
           linger 100 ms",
    workload: Workload::Telemetry,
    partitions: 1,
    compression: "lz4",
    linger_ms: 100,
    // What is compared is the pool; this is what it costs with a generator, and in memory.
    divide: 2,
    backend: None,
    mode: Mode::Full,
    shared_cores: false,
};
const FIXED: Scenario = Scenario { compression: "none", ..TELEMETRY };

/// Every scenario.
pub const ALL: &[Scenario] = &[
    TELEMETRY,
    Scenario {
        name: "telemetry-pool",
        what: "telemetry, of 262,144 records (68 MB) made beforehand, in turn: no generator is measured",
        workload: Workload::TelemetryPool,
        divide: 1,
        ..TELEMETRY
    },
    Scenario {
        name: "telemetry-12",
        what: "telemetry over 12 partitions, placed by key",
        partitions: 12,
        divide: 2,
        ..TELEMETRY
    },
    Scenario { name: "telemetry-200", what: "telemetry over 200 partitions", partitions: 200, divide: 4, ..TELEMETRY },
    Scenario {
        name: "telemetry-1000",
        what: "telemetry over 1,000 partitions",
        partitions: 1_000,
        divide: 4,
        ..TELEMETRY
    },
    Scenario {
        name: "r100",
        what: "values of 100 random bytes, no key, no headers; 1 partition; no compression",
        workload: Workload::Fixed(100),
        ..FIXED
    },
    Scenario {
        name: "r1k",
        what: "values of 1 KiB of random bytes, no key, no headers; 1 partition; no compression",
        workload: Workload::Fixed(1_024),
        divide: 10,
        ..FIXED
    },
    Scenario {
        name: "linger-0",
        what: "telemetry with linger 0: batches are what gathers while requests are under way",
        linger_ms: 0,
        divide: 4,
        ..TELEMETRY
    },
    Scenario {
        name: "waited",
        what: "one telemetry record at a time, each waited for; linger 0, no compression",
        compression: "none",
        linger_ms: 0,
        divide: 600,
        mode: Mode::Waited,
        ..TELEMETRY
    },
    Scenario {
        name: "paced",
        what: "50,000 telemetry records a second, linger 5 ms; latencies from when each was due (coordinated omission)",
        linger_ms: 5,
        divide: 12,
        mode: Mode::Paced(50_000),
        ..TELEMETRY
    },
    Scenario { name: "telemetry-epoll", what: "telemetry, Ottla on epoll", backend: Some("epoll"), ..TELEMETRY },
    Scenario {
        name: "telemetry-shared",
        what: "telemetry, client and broker on all processors together",
        shared_cores: true,
        ..TELEMETRY
    },
];

impl Scenario {
    /// The numbers of records that this scenario makes of the asked ones.
    pub fn counts(&self, asked: &[u64]) -> Vec<u64> {
        asked.iter().map(|count| (count / self.divide).max(1)).collect()
    }
}

/// The scenarios of these names, each once.
pub fn named(names: &[String]) -> Result<Vec<&'static Scenario>, Fault> {
    let mut found: Vec<&'static Scenario> = Vec::new();
    for name in names {
        let scenario = ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
            Fault::Usage(format!("no scenario {name}; there are {}", known.join(", ")))
        })?;
        if !found.iter().any(|known| known.name == scenario.name) {
            found.push(scenario);
        }
    }
    Ok(found)
}
