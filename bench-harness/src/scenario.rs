//! What is sent and read: a workload over so many partitions, and how it is sent.

use crate::fault::Fault;
use crate::peer::Phase;
use crate::workload::{POOL_RECORDS, Workload};

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
    /// Nodes of the cluster: 1 or 3, or 0 for the sink. Three keep every partition on all of them, and acknowledge with two.
    pub nodes: u32,
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
    nodes: 1,
    rtt_ms: 0,
    place: Place::Apart,
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

    /// What is run of it.
    pub fn phases(&self) -> &'static [Phase] {
        match self.mode {
            Mode::Full => &[Phase::Produce, Phase::Consume],
            Mode::Waited | Mode::Paced(_) | Mode::Sink(Phase::Produce) => &[Phase::Produce],
            Mode::Idle(_) | Mode::Sink(Phase::Consume) => &[Phase::Consume],
        }
    }

    /// How much of its core the busier one used, of what client and broker used of one each; `None` where waiting is what
    /// is measured and says nothing against a run.
    pub fn busy(&self, client: f64, broker: f64) -> Option<f64> {
        if !matches!(self.mode, Mode::Full | Mode::Sink(_)) || self.rtt_ms > 0 {
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
    fn one_core_is_busy_with_both_and_waiting_scenarios_need_not_be() {
        assert_eq!(one("telemetry").busy(0.6, 0.5), Some(0.6));
        assert_eq!(one("brokers-3").busy(0.6, 0.97), Some(0.97));
        assert_eq!(one("sink-produce").busy(0.96, 0.05), Some(0.96));
        assert_eq!(one("telemetry-one-core").busy(0.6, 0.375), Some(0.975));
        for name in ["rtt-20", "waited", "paced", "idle-1000"] {
            assert_eq!(one(name).busy(0.1, 0.1), None, "{name}");
        }
    }
}
