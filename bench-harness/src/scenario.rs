//! What is sent and read: a workload over so many partitions, and how it is sent.

use crate::fault::Fault;
use crate::peer::Phase;
use crate::workload::{POOL_RECORDS, Workload};

/// One scenario. Every peer makes the same records in it.
#[derive(Clone, Copy, Debug)]
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
    /// Most bytes of a batch before compression, where it is not the 1,000,000 of all others.
    pub batch_size: Option<u32>,
    /// Most requests under way to one broker, where it is not what the client chooses itself.
    pub in_flight: Option<u32>,
    /// Nodes of the cluster: 1 or 3, or 0 for the sink.
    pub nodes: u32,
    /// Replicas of each partition, all but one of which (all of two) must have a record before it is acknowledged.
    pub replicas: u32,
    /// What a proxy makes of the round trip to the broker, in milliseconds; 0 without one.
    pub rtt_ms: u32,
    /// Where client and broker run.
    pub place: Place,
}

/// Where client and broker run; a proxy is always where the broker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A core each.
    Apart,
    /// One core for both.
    OneCore,
    /// All cores for both.
    Anywhere,
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
    /// To the sink, or of its canned segment: nobody waits for a Kafka, and nobody is compared with who did.
    Sink(Phase),
    /// Nobody sends: a reader of all partitions waits for so many seconds; "records" of the report are those seconds.
    Idle(u32),
    /// All readers begin with records that are there while somebody else goes on writing so many a second, and are done when
    /// they stand at the end of every partition.
    CatchUp(u32),
    /// One process sends the records and reads them at the same time.
    Mixed,
    /// So many workers, each of which sends three records to three topics and waits for all three.
    KlifeSync(u32),
    /// So many tasks that send to three topics for [`KLIFE_SECONDS`] and wait for nothing.
    KlifeAsync(u32),
}

/// How long a short and a long run of Klife's tasks send.
pub const KLIFE_SECONDS: [u32; 2] = [2, 10];
/// Where they end before: 5 GB in two replicas in the memory of this machine.
const KLIFE_RECORDS_MAX: u64 = 2_500_000;

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
    batch_size: None,
    in_flight: None,
    nodes: 1,
    replicas: 1,
    rtt_ms: 0,
    place: Place::Apart,
};
const FIXED: Scenario = Scenario { compression: "none", ..TELEMETRY };
/// What Klife's benches have in common, as its repository has them.
const KLIFE: Scenario = Scenario {
    workload: Workload::Klife,
    partitions: 30,
    compression: "none",
    linger_ms: 0,
    batch_size: Some(512_000),
    in_flight: Some(1),
    nodes: 3,
    replicas: 2,
    ..TELEMETRY
};

/// Klife's sync bench: few workers wait longer for fewer records.
const fn klife_sync(name: &'static str, what: &'static str, workers: u32) -> Scenario {
    Scenario { name, what, mode: Mode::KlifeSync(workers), divide: 1_600 / workers as u64, ..KLIFE }
}

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
    Scenario { name: "telemetry-10", what: "telemetry over 10 partitions", partitions: 10, divide: 4, ..TELEMETRY },
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
        place: Place::Anywhere,
        ..TELEMETRY
    },
    Scenario {
        name: "telemetry-one-core",
        what: "telemetry, client and broker on one core together",
        place: Place::OneCore,
        ..TELEMETRY
    },
    Scenario {
        name: "brokers-3",
        what: "telemetry over 12 partitions of a cluster of 3 nodes, 3 replicas, acknowledged by 2",
        partitions: 12,
        nodes: 3,
        replicas: 3,
        divide: 4,
        ..TELEMETRY
    },
    Scenario {
        name: "rtt-20",
        what: "telemetry to 1 partition behind a proxy that makes a round trip take 20 ms; the order kept is compared",
        rtt_ms: 20,
        divide: 4,
        ..TELEMETRY
    },
    Scenario {
        name: "rtt-20-small",
        what: "the same with batches of 100,000 bytes: what limits it are round trips, not processors",
        rtt_ms: 20,
        batch_size: Some(100_000),
        divide: 20,
        ..TELEMETRY
    },
    Scenario {
        name: "idle-1000",
        what: "a reader of 1,000 partitions without records: CPU microseconds per second of the 20 s behind the first 10",
        partitions: 1_000,
        mode: Mode::Idle(20),
        ..TELEMETRY
    },
    Scenario {
        name: "sink-produce",
        what: "SINK MODE: telemetry to a broker that acknowledges at once and drops what it gets",
        divide: 2,
        nodes: 0,
        mode: Mode::Sink(Phase::Produce),
        ..TELEMETRY
    },
    Scenario {
        name: "sink-consume",
        what: "CANNED RESULTS: telemetry-pool, of which a sink replays one segment again and again",
        workload: Workload::TelemetryPool,
        divide: 2,
        nodes: 0,
        mode: Mode::Sink(Phase::Consume),
        ..TELEMETRY
    },
    Scenario {
        name: "catch-up",
        what: "readers of 12 partitions full of telemetry while 50,000 records a second more are written: until they stand \
               at the end",
        partitions: 12,
        mode: Mode::CatchUp(50_000),
        divide: 4,
        ..TELEMETRY
    },
    Scenario {
        name: "mixed",
        what: "telemetry sent and read by one process at the same time; CPU of both together, linger 5 ms",
        linger_ms: 5,
        mode: Mode::Mixed,
        divide: 4,
        ..TELEMETRY
    },
    klife_sync(
        "klife-sync-1",
        "Klife's: 1 worker sends 3 records of 1,050 bytes to 3 topics of 30 partitions, and waits",
        1,
    ),
    klife_sync("klife-sync-2", "the same by 2 workers", 2),
    klife_sync("klife-sync-4", "the same by 4 workers", 4),
    klife_sync("klife-sync-8", "the same by 8 workers", 8),
    klife_sync(
        "klife-sync-16",
        "the same by 16 workers; all of them: 3 brokers, 2 replicas, linger 0, 1 request in flight",
        16,
    ),
    Scenario {
        name: "klife-async",
        what: "Klife's: 16 tasks send to the same topics for 10 s and wait for nothing",
        mode: Mode::KlifeAsync(16),
        divide: 1,
        ..KLIFE
    },
];

impl Scenario {
    /// The numbers of records that this scenario makes of the asked ones.
    pub fn counts(&self, asked: &[u64]) -> Vec<u64> {
        let mut counts: Vec<u64> = asked.iter().map(|count| (count / self.divide).max(1)).collect();
        if self.mode == Mode::Sink(Phase::Consume) {
            // The segment holds the pool once, and its last batch must not be cut.
            counts.iter_mut().for_each(|count| *count = count.next_multiple_of(POOL_RECORDS));
            counts.dedup();
        }
        counts
    }

    /// Records and, where time is what ends a run, seconds of each run.
    pub fn lengths(&self, asked: &[u64]) -> Vec<(u64, Option<u32>)> {
        let counts = self.counts(asked);
        match self.mode {
            Mode::KlifeAsync(_) => {
                let seconds = &KLIFE_SECONDS[KLIFE_SECONDS.len().saturating_sub(counts.len())..];
                counts
                    .into_iter()
                    .map(|count| count.min(KLIFE_RECORDS_MAX))
                    .zip(seconds.iter().copied().map(Some))
                    .collect()
            }
            // Threes for every worker.
            Mode::KlifeSync(workers) => {
                let whole = 3 * u64::from(workers);
                counts.into_iter().map(|count| (count.div_ceil(whole) * whole, None)).collect()
            }
            _ => counts.into_iter().map(|count| (count, None)).collect(),
        }
    }

    /// The names of its topics, made of one.
    pub fn topics(&self, name: &str) -> Vec<String> {
        match self.mode {
            Mode::KlifeSync(_) | Mode::KlifeAsync(_) => (0..3).map(|number| format!("{name}-{number}")).collect(),
            _ => vec![name.to_owned()],
        }
    }

    /// Records sent as fast as it goes to a topic like this one's, to warm up or to be read later.
    pub fn plain(&self) -> Self {
        Self { workload: Workload::Telemetry, mode: Mode::Full, in_flight: None, rtt_ms: 0, ..*self }
    }

    /// What is run of it.
    pub fn phases(&self) -> &'static [Phase] {
        match self.mode {
            Mode::Full => &[Phase::Produce, Phase::Consume],
            Mode::Waited | Mode::Paced(_) | Mode::Mixed | Mode::KlifeSync(_) | Mode::KlifeAsync(_) => &[Phase::Produce],
            Mode::Idle(_) | Mode::CatchUp(_) | Mode::Sink(Phase::Consume) => &[Phase::Consume],
            Mode::Sink(Phase::Produce) => &[Phase::Produce],
        }
    }

    /// How much of its core the busier one used, of what client and broker used of one each; `None` where waiting is what
    /// is measured and says nothing against a run.
    pub fn busy(&self, client: f64, broker: f64) -> Option<f64> {
        let waits = matches!(self.mode, Mode::Waited | Mode::Paced(_) | Mode::Idle(_) | Mode::KlifeSync(_));
        if waits || self.rtt_ms > 0 {
            return None;
        }
        Some(if self.place == Place::OneCore { client + broker } else { client.max(broker) })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> &'static Scenario {
        named(&[name.to_owned()]).unwrap()[0]
    }

    #[test]
    fn names_are_known_once_each_and_clusters_are_of_one_or_three() {
        let names: Vec<_> = ALL.iter().map(|scenario| scenario.name.to_owned()).collect();
        assert_eq!(named(&names).unwrap().len(), ALL.len());
        for scenario in ALL {
            assert_eq!(scenario.nodes == 0, matches!(scenario.mode, Mode::Sink(_)));
            assert!([0, 1, 3].contains(&scenario.nodes) && scenario.divide > 0 && !scenario.phases().is_empty());
            assert!(scenario.replicas <= scenario.nodes.max(1));
            // A proxy stands in front of one node.
            assert!(scenario.rtt_ms == 0 || scenario.nodes == 1, "{}", scenario.name);
        }
        let fault = named(&["telemetrie".to_owned()]).unwrap_err();
        assert!(
            matches!(&fault, Fault::Usage(text) if text.contains("there are telemetry, telemetry-pool")),
            "{fault:?}"
        );
    }

    #[test]
    fn a_scenario_makes_its_own_counts() {
        assert_eq!(one("telemetry-12").counts(&[2_000_000, 12_000_000]), [1_000_000, 6_000_000]);
        assert_eq!(one("waited").counts(&[100]), [1], "never nothing");
        assert_eq!(one("sink-produce").counts(&[2_000_000]), [1_000_000]);
        assert_eq!(one("sink-consume").counts(&[1, 2_000_000]), [POOL_RECORDS, 4 * POOL_RECORDS]);
        assert_eq!(one("sink-consume").counts(&[1, 2]), [POOL_RECORDS], "no slope between two runs that are the same");
    }

    #[test]
    fn klifes_runs_are_threes_for_each_worker_or_seconds() {
        let asked = [2_000_000, 12_000_000];
        assert_eq!(one("klife-sync-16").lengths(&asked), [(20_016, None), (120_000, None)]);
        assert_eq!(one("klife-sync-1").lengths(&asked), [(1_251, None), (7_500, None)]);
        assert_eq!(one("klife-async").lengths(&asked), [(2_000_000, Some(2)), (2_500_000, Some(10))]);
        assert_eq!(one("klife-async").lengths(&[9]), [(9, Some(10))]);
        assert_eq!(one("telemetry").lengths(&asked), [(1_000_000, None), (6_000_000, None)]);
        assert_eq!(one("klife-async").topics("t"), ["t-0", "t-1", "t-2"]);
        assert_eq!(one("mixed").topics("t"), ["t"]);
    }

    #[test]
    fn one_core_is_busy_with_both_and_waiting_scenarios_need_not_be() {
        assert_eq!(one("telemetry").busy(0.6, 0.5), Some(0.6));
        assert_eq!(one("brokers-3").busy(0.6, 0.97), Some(0.97));
        assert_eq!(one("sink-produce").busy(0.96, 0.05), Some(0.96));
        assert_eq!(one("telemetry-one-core").busy(0.6, 0.375), Some(0.975));
        assert_eq!(one("klife-async").busy(0.6, 0.5), Some(0.6));
        for name in ["rtt-20", "waited", "paced", "idle-1000", "klife-sync-16"] {
            assert_eq!(one(name).busy(0.1, 0.1), None, "{name}");
        }
    }
}
