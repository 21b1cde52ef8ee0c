//! What an embedded broker is started with, and the configuration entries of its topics.

use std::time::Duration;

use crate::base::ids::Uuid;

/// How closely produced batches are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Validate {
    /// Header, CRC, then decompress and walk every record. The default, and what Kafka does.
    #[default]
    Full,
    /// Header and CRC only: a sink for benchmarks, not a judge of what was sent.
    Header,
}

/// Settings of the whole cluster. Units are in the names; `Default` is a friendly one-broker cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Virtual brokers, node ids 0..N-1. At least 1.
    pub brokers: usize,
    /// `auto.create.topics.enable`: a Metadata request that allows it creates the topic.
    pub auto_create: bool,
    /// `num.partitions`: for topics created without a count.
    pub default_partitions: i32,
    /// `default.replication.factor`, capped at the number of brokers.
    pub default_replication: i16,
    /// How closely produced batches are looked at.
    pub validate: Validate,
    /// Bytes of record batches kept per broker; beyond that the oldest segments go and log start offsets move.
    pub retention_bytes_per_broker: u64,
    /// Bytes of a log segment. One partition's part of a Fetch answer never spans two segments, as in Kafka.
    pub segment_bytes: usize,
    /// Fetch answers may end in a cut-off batch at a byte limit, as Kafka's do.
    pub partial_batches: bool,
    /// `socket.request.max.bytes`: larger frames close the connection.
    pub request_bytes_max: usize,
    /// Decompressed bytes of one batch beyond which it is refused.
    pub decompressed_bytes_max: usize,
    /// `max.incremental.fetch.session.cache.slots`, per broker.
    pub fetch_sessions_max: usize,
    /// `min.incremental.fetch.session.eviction.ms`: a session idle for this long may be evicted for a new one.
    pub fetch_session_idle: Duration,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration: Duration,
    /// `group.initial.rebalance.delay.ms`. Kafka's default is 3 s, ours 0 so that tests are quick.
    pub group_initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`.
    pub group_session_timeout_min: Duration,
    /// `group.max.session.timeout.ms`.
    pub group_session_timeout_max: Duration,
    /// `broker.rack` of each node; nodes beyond the list have none.
    pub racks: Vec<String>,
    /// `cluster.id`.
    pub cluster_id: String,
    /// Seed of everything random: topic ids, percent rules, member ids.
    pub seed: u64,
    /// Topics that exist from the start.
    pub topics: Vec<TopicSpec>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: 1,
            auto_create: false,
            default_partitions: 1,
            default_replication: 1,
            validate: Validate::Full,
            retention_bytes_per_broker: 1 << 30,
            segment_bytes: 8 << 20,
            partial_batches: true,
            request_bytes_max: 104_857_600,
            decompressed_bytes_max: 256 << 20,
            fetch_sessions_max: 1000,
            fetch_session_idle: Duration::from_secs(120),
            producer_id_expiration: Duration::from_secs(86_400),
            group_initial_rebalance_delay: Duration::ZERO,
            group_session_timeout_min: Duration::from_secs(6),
            group_session_timeout_max: Duration::from_secs(1800),
            racks: Vec::new(),
            cluster_id: Uuid(*b"ottla-embedded-b").to_string(),
            seed: 0x0771A,
            topics: Vec::new(),
        }
    }
}

/// A topic to create.
#[derive(Clone, Debug, Default)]
pub struct TopicSpec {
    /// Its name: 1 to 249 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// Partitions; 0 for the cluster's default.
    pub partitions: i32,
    /// Replicas; 0 for the cluster's default.
    pub replication: i16,
    /// Configuration entries that differ from the defaults.
    pub configs: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic with `partitions` partitions and everything else by default.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, ..Self::default() }
    }

    /// Sets the number of replicas.
    pub fn replication(mut self, replicas: i16) -> Self {
        self.replication = replicas;
        self
    }

    /// Adds a configuration entry.
    pub fn config(mut self, name: &str, value: &str) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }
}

/// The type numbers of DescribeConfigs (`ConfigDef.Type` in KIP-133/KIP-226's answer).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i8)]
#[allow(missing_docs)]
pub enum ConfigKind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One configuration entry that topics know.
#[derive(Debug)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: &'static str,
    /// Kafka's default.
    pub default: &'static str,
    /// Its type.
    pub kind: ConfigKind,
    /// Whether this broker acts on it; others are stored and described only.
    pub acted_on: bool,
}

const fn entry(name: &'static str, default: &'static str, kind: ConfigKind, acted_on: bool) -> ConfigEntry {
    ConfigEntry { name, default, kind, acted_on }
}

/// Kafka's topic configuration entries with Kafka's defaults.
pub static TOPIC_CONFIGS: &[ConfigEntry] = &[
    entry("cleanup.policy", "delete", ConfigKind::List, true),
    entry("compression.type", "producer", ConfigKind::String, false),
    entry("delete.retention.ms", "86400000", ConfigKind::Long, false),
    entry("file.delete.delay.ms", "60000", ConfigKind::Long, false),
    entry("flush.messages", "9223372036854775807", ConfigKind::Long, false),
    entry("flush.ms", "9223372036854775807", ConfigKind::Long, false),
    entry("index.interval.bytes", "4096", ConfigKind::Int, false),
    entry("max.compaction.lag.ms", "9223372036854775807", ConfigKind::Long, false),
    entry("max.message.bytes", "1048588", ConfigKind::Int, true),
    entry("message.timestamp.after.max.ms", "3600000", ConfigKind::Long, true),
    entry("message.timestamp.before.max.ms", "9223372036854775807", ConfigKind::Long, true),
    entry("message.timestamp.type", "CreateTime", ConfigKind::String, true),
    entry("min.cleanable.dirty.ratio", "0.5", ConfigKind::Double, false),
    entry("min.compaction.lag.ms", "0", ConfigKind::Long, false),
    entry("min.insync.replicas", "1", ConfigKind::Int, true),
    entry("preallocate", "false", ConfigKind::Boolean, false),
    entry("retention.bytes", "-1", ConfigKind::Long, true),
    entry("retention.ms", "604800000", ConfigKind::Long, false),
    entry("segment.bytes", "1073741824", ConfigKind::Int, false),
    entry("segment.index.bytes", "10485760", ConfigKind::Int, false),
    entry("segment.jitter.ms", "0", ConfigKind::Long, false),
    entry("segment.ms", "604800000", ConfigKind::Long, false),
    entry("unclean.leader.election.enable", "false", ConfigKind::Boolean, false),
];

/// The entry called `name`, if topics know one.
pub fn topic_config(name: &str) -> Option<&'static ConfigEntry> {
    TOPIC_CONFIGS.iter().find(|known| known.name == name)
}

/// A topic's configuration, parsed into what the broker acts on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicSettings {
    /// `max.message.bytes`: the largest batch, with its header.
    pub message_bytes_max: i32,
    /// `message.timestamp.type` is LogAppendTime.
    pub log_append_time: bool,
    /// `cleanup.policy` holds `compact`: records need keys. (Nothing is ever compacted here.)
    pub compacted: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `retention.bytes` per partition; none when -1.
    pub retention_bytes: Option<u64>,
    /// `min.insync.replicas`, for acks=all.
    pub min_insync_replicas: usize,
}

impl TopicSettings {
    /// Parses the entries that differ from the defaults; an error says which one is wrong and why.
    pub fn parse(set: &std::collections::BTreeMap<String, String>) -> Result<Self, String> {
        for (name, value) in set {
            let Some(known) = topic_config(name) else { return Err(format!("Unknown topic config name: {name}")) };
            let fine = match known.kind {
                ConfigKind::Boolean => matches!(value.as_str(), "true" | "false"),
                ConfigKind::Int => value.trim().parse::<i32>().is_ok(),
                ConfigKind::Long => value.trim().parse::<i64>().is_ok(),
                ConfigKind::Double => value.trim().parse::<f64>().is_ok(),
                ConfigKind::String | ConfigKind::List => true,
            };
            if !fine {
                return Err(format!("Invalid value {value} for configuration {name}"));
            }
        }
        let text = |name: &str| {
            set.get(name).map(String::as_str).or(topic_config(name).map(|c| c.default)).unwrap_or("").trim()
        };
        let number =
            |name: &str| text(name).parse::<i64>().map_err(|_| format!("Invalid value for configuration {name}"));
        let policies: Vec<&str> = text("cleanup.policy").split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
        if let Some(odd) = policies.iter().find(|p| !matches!(**p, "delete" | "compact")) {
            return Err(format!("Invalid value {odd} for configuration cleanup.policy"));
        }
        if text("compression.type") != "producer" {
            // Re-encoding would hide what the client sent, which is the point of this broker.
            return Err("compression.type other than `producer` is not supported by the embedded broker".into());
        }
        let log_append_time = match text("message.timestamp.type") {
            "CreateTime" => false,
            "LogAppendTime" => true,
            odd => return Err(format!("Invalid value {odd} for configuration message.timestamp.type")),
        };
        let message_bytes_max = number("max.message.bytes")?;
        let min_insync = number("min.insync.replicas")?;
        if message_bytes_max < 0 || min_insync < 1 {
            return Err("Invalid value for configuration: value must be at least its minimum".into());
        }
        Ok(Self {
            message_bytes_max: i32::try_from(message_bytes_max).unwrap_or(i32::MAX),
            log_append_time,
            compacted: policies.contains(&"compact"),
            timestamp_before_max_ms: number("message.timestamp.before.max.ms")?,
            timestamp_after_max_ms: number("message.timestamp.after.max.ms")?,
            retention_bytes: u64::try_from(number("retention.bytes")?).ok(),
            min_insync_replicas: usize::try_from(min_insync).unwrap_or(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn defaults_parse_and_bad_values_are_named() {
        let plain = TopicSettings::parse(&BTreeMap::new()).unwrap();
        assert_eq!(plain.message_bytes_max, 1_048_588);
        assert!(!plain.log_append_time && !plain.compacted && plain.retention_bytes.is_none());
        for (name, value) in [("max.message.bytes", "many"), ("no.such", "1"), ("cleanup.policy", "burn")] {
            let set = BTreeMap::from([(name.to_string(), value.to_string())]);
            assert!(TopicSettings::parse(&set).is_err(), "{name}={value}");
        }
        let set = BTreeMap::from([("message.timestamp.type".to_string(), "LogAppendTime".to_string())]);
        assert!(TopicSettings::parse(&set).unwrap().log_append_time);
    }
}
