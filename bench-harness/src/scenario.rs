//! What is sent and read: a workload over so many partitions.

use crate::fault::Fault;

/// One scenario. A peer makes the same records in each.
#[derive(Debug)]
pub struct Scenario {
    /// By which it is asked for.
    pub name: &'static str,
    /// What it is, for `list`.
    pub what: &'static str,
    /// Partitions of its topic.
    pub partitions: u32,
}

/// Every scenario.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "telemetry",
        what: "key, JSON value and three headers, 261 bytes; 1 partition; lz4, acks=all, idempotent, linger 100 ms",
        partitions: 1,
    },
    Scenario { name: "telemetry-12", what: "the same over 12 partitions, placed by key", partitions: 12 },
];

/// The scenarios of these names.
pub fn named(names: &[String]) -> Result<Vec<&'static Scenario>, Fault> {
    names
        .iter()
        .map(|name| {
            ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
                let known: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
                Fault::Usage(format!("no scenario {name}; there are {}", known.join(", ")))
            })
        })
        .collect()
}
