//! Every setting there is, declared once, in the order in which `ottla config list` prints them.

use super::setting::Kind::{Bool, Bytes, Choice, Int, List, Millis, Secret, Text};
use super::setting::Role::{Consumer, Engine, Producer};
use super::setting::State::{Active, Later, Refused};
use super::setting::{Kind, Role, Setting, State};

const INT_MAX: i64 = i32::MAX as i64;
/// A day in milliseconds: no wait needs to be longer.
const DAY_MS: i64 = 86_400_000;
const GIB: i64 = 1 << 30;

const CODECS: &[(&str, &str)] =
    &[("none", "none"), ("gzip", "gzip"), ("snappy", "snappy"), ("lz4", "lz4"), ("zstd", "zstd")];
const ACKS: &[(&str, &str)] = &[("all", "all"), ("-1", "all"), ("1", "1"), ("0", "0")];
const RESETS: &[(&str, &str)] = &[
    ("earliest", "earliest"),
    ("smallest", "earliest"),
    ("beginning", "earliest"),
    ("latest", "latest"),
    ("largest", "latest"),
    ("end", "latest"),
    ("none", "none"),
    ("error", "none"),
];
const BACKENDS: &[(&str, &str)] = &[("auto", "auto"), ("io_uring", "io_uring"), ("epoll", "epoll")];
const ISOLATION: &[(&str, &str)] = &[("read_committed", "read_committed"), ("read_uncommitted", "read_uncommitted")];
const PROTOCOLS: &[(&str, &str)] =
    &[("plaintext", "PLAINTEXT"), ("ssl", "SSL"), ("sasl_plaintext", "SASL_PLAINTEXT"), ("sasl_ssl", "SASL_SSL")];
const PARTITIONERS: &[(&str, &str)] = &[("murmur2", "murmur2"), ("murmur2_random", "murmur2"), ("default", "murmur2")];
const GROUP_PROTOCOLS: &[(&str, &str)] = &[("consumer", "consumer"), ("classic", "classic")];

const fn setting(
    name: &'static str,
    aliases: &'static [&'static str],
    role: Role,
    kind: Kind,
    default: &'static str,
    state: State,
    what: &'static str,
) -> Setting {
    Setting { name, aliases, role, kind, default, what, state }
}

/// All settings. Names are Kafka's; aliases are what librdkafka and the five clients call the same thing.
pub static SETTINGS: &[Setting] = &[
    // Engine
    setting(
        "bootstrap.servers",
        &["bootstrap_servers", "metadata.broker.list", "seed_brokers"],
        Engine,
        List,
        "localhost:9092",
        Active,
        "brokers to start from, host:port each, tried in order; the whole cluster is found from any one of them",
    ),
    setting(
        "client.id",
        &["client_id"],
        Engine,
        Text,
        "ottla",
        Active,
        "name that brokers show in logs, quotas and metrics",
    ),
    setting(
        "io.backend",
        &["io_backend"],
        Engine,
        Choice(BACKENDS),
        "auto",
        Active,
        "how shards talk to the kernel: io_uring where it is allowed, else epoll; forced by name",
    ),
    setting(
        "shards",
        &["cores"],
        Engine,
        Int { min: 1, max: 256 },
        "1",
        Active,
        "shard threads; each owns its connections and partitions. Threads in all: shards + control + at most one helper",
    ),
    setting(
        "cpu.affinity",
        &[],
        Engine,
        Text,
        "",
        Active,
        "processors to pin shards to, such as 0,2-3; empty leaves threads unpinned (other clients never pin)",
    ),
    setting(
        "request.timeout.ms",
        &["request_timeout", "socket.timeout.ms"],
        Engine,
        Millis { min: 100, max: DAY_MS },
        "30000",
        Active,
        "how long one request may go unanswered before its connection is given up. Java 30000, librdkafka 60000",
    ),
    setting(
        "socket.connection.setup.timeout.ms",
        &["connect_timeout"],
        Engine,
        Millis { min: 100, max: DAY_MS },
        "10000",
        Active,
        "how long one connection attempt may take, to the end of the handshake. Java 10000, librdkafka 30000",
    ),
    setting(
        "socket.connection.setup.timeout.max.ms",
        &[],
        Engine,
        Millis { min: 100, max: DAY_MS },
        "30000",
        Active,
        "that time doubles up to this while attempts end by it; a smaller one changes nothing. Java 30000",
    ),
    setting(
        "reconnect.backoff.ms",
        &["reconnect_timeout"],
        Engine,
        Millis { min: 1, max: DAY_MS },
        "50",
        Active,
        "first wait before a broker is tried again; doubles up to reconnect.backoff.max.ms, full jitter. Java 50, librdkafka 100",
    ),
    setting(
        "reconnect.backoff.max.ms",
        &[],
        Engine,
        Millis { min: 1, max: DAY_MS },
        "1000",
        Active,
        "longest wait before a broker is tried again. Java 1000, librdkafka 10000",
    ),
    setting(
        "retry.backoff.ms",
        &["retry_backoff"],
        Engine,
        Millis { min: 1, max: DAY_MS },
        "100",
        Active,
        "first wait before a failed request is sent again; doubles up to retry.backoff.max.ms, full jitter",
    ),
    setting(
        "retry.backoff.max.ms",
        &["max_retry_backoff"],
        Engine,
        Millis { min: 1, max: DAY_MS },
        "1000",
        Active,
        "longest wait before a failed request is sent again",
    ),
    setting(
        "connections.max.idle.ms",
        &[],
        Engine,
        Millis { min: 1_000, max: 7 * DAY_MS },
        "540000",
        Active,
        "an unused connection is closed after this; below the brokers' 10 minutes",
    ),
    setting(
        "metadata.max.age.ms",
        &["topic.metadata.refresh.interval.ms", "metadata_refresh_interval"],
        Engine,
        Millis { min: 100, max: 7 * DAY_MS },
        "300000",
        Active,
        "metadata of topics in use is refreshed at least this often. Java and librdkafka 300000",
    ),
    setting(
        "default.api.timeout.ms",
        &["operation.timeout.ms"],
        Engine,
        Millis { min: 100, max: DAY_MS },
        "60000",
        Active,
        "whole time of an admin or control call with its retries",
    ),
    setting(
        "topic.metadata.propagation.max.ms",
        &[],
        Engine,
        Millis { min: 0, max: DAY_MS },
        "30000",
        Active,
        "how long a topic just created may be unknown to brokers before that is an error",
    ),
    setting(
        "metadata.recovery.rebootstrap.trigger.ms",
        &[],
        Engine,
        Millis { min: 0, max: 7 * DAY_MS },
        "300000",
        Active,
        "without any reachable broker for so long, start again from bootstrap.servers with fresh DNS (KIP-1102)",
    ),
    setting(
        "allow.auto.create.topics",
        &[],
        Engine,
        Bool,
        "true",
        Active,
        "whether asking for an unknown topic may create it, where brokers permit it. librdkafka's consumer false",
    ),
    setting(
        "socket.keepalive.enable",
        &[],
        Engine,
        Bool,
        "true",
        Active,
        "SO_KEEPALIVE: the kernel notices a vanished broker on an idle connection. Java true, librdkafka false",
    ),
    setting("socket.nagle.disable", &[], Engine, Bool, "true", Active, "TCP_NODELAY. Java true, librdkafka false"),
    setting(
        "send.buffer.bytes",
        &["socket.send.buffer.bytes"],
        Engine,
        Bytes { min: 0, max: GIB },
        "0",
        Active,
        "SO_SNDBUF; 0 leaves it to the kernel. Java 131072",
    ),
    setting(
        "receive.buffer.bytes",
        &["socket.receive.buffer.bytes"],
        Engine,
        Bytes { min: 0, max: GIB },
        "0",
        Active,
        "SO_RCVBUF; 0 leaves it to the kernel. Java 65536",
    ),
    setting(
        "receive.message.max.bytes",
        &["socket.request.max.bytes"],
        Engine,
        Bytes { min: 65_536, max: INT_MAX },
        "104857600",
        Active,
        "largest answer accepted; a larger frame ends the connection before anything is reserved",
    ),
    setting(
        "security.protocol",
        &["security_protocol"],
        Engine,
        Choice(PROTOCOLS),
        "plaintext",
        Refused,
        "how connections are secured; TLS and SASL are not part of this version",
    ),
    setting(
        "sasl.mechanism",
        &["sasl.mechanisms"],
        Engine,
        Text,
        "",
        Refused,
        "how to authenticate; not part of this version",
    ),
    setting("sasl.username", &[], Engine, Text, "", Refused, "user name for SASL; not part of this version"),
    setting("sasl.password", &[], Engine, Secret, "", Refused, "password for SASL; not part of this version"),
    setting("sasl.token", &[], Engine, Secret, "", Refused, "token for SASL; not part of this version"),
    setting("sasl.jaas.config", &[], Engine, Secret, "", Refused, "Java's login configuration; never read"),
    setting(
        "sasl.oauthbearer.token.endpoint.url",
        &[],
        Engine,
        Text,
        "",
        Refused,
        "where tokens come from; not part of this version",
    ),
    setting("sasl.oauthbearer.client.id", &[], Engine, Text, "", Refused, "OAuth client; not part of this version"),
    setting(
        "sasl.oauthbearer.client.secret",
        &[],
        Engine,
        Secret,
        "",
        Refused,
        "OAuth secret; not part of this version",
    ),
    setting(
        "ssl.truststore.location",
        &["ssl.ca.location"],
        Engine,
        Text,
        "",
        Refused,
        "trusted certificates; not part of this version",
    ),
    setting(
        "ssl.keystore.location",
        &["ssl.certificate.location"],
        Engine,
        Text,
        "",
        Refused,
        "client certificate; not part of this version",
    ),
    setting(
        "ssl.keystore.key.location",
        &["ssl.key.location"],
        Engine,
        Text,
        "",
        Refused,
        "client key; not part of this version",
    ),
    setting(
        "ssl.key.password",
        &["ssl.keystore.password"],
        Engine,
        Secret,
        "",
        Refused,
        "password of the client key; not part of this version",
    ),
    setting(
        "statistics.interval.ms",
        &[],
        Engine,
        Millis { min: 0, max: DAY_MS },
        "0",
        Later,
        "how often statistics are handed to the callback; 0 = never",
    ),
    setting(
        "metrics.prometheus.port",
        &[],
        Engine,
        Int { min: 0, max: 65_535 },
        "0",
        Later,
        "port of the metrics page; 0 = none",
    ),
    // Producer
    setting(
        "acks",
        &["request.required.acks", "required_acks"],
        Producer,
        Choice(ACKS),
        "all",
        Active,
        "who must have a batch before it counts as delivered: all in-sync replicas, the leader (1), nobody (0). K's client 1, others all",
    ),
    setting(
        "enable.idempotence",
        &["idempotence", "idempotent"],
        Producer,
        Bool,
        "true",
        Active,
        "no duplicates and no reordering by retries; needs acks=all. Java true, librdkafka false",
    ),
    setting(
        "linger.ms",
        &["queue.buffering.max.ms", "linger_ms"],
        Producer,
        Millis { min: 0, max: 900_000 },
        "5",
        Active,
        "how long a batch that is not full may wait for more records. Java 5 since 4.0, librdkafka 5, the five clients 0",
    ),
    setting(
        "batch.size",
        &["batch.bytes", "batch_size_bytes", "max_batch_size"],
        Producer,
        Bytes { min: 1_024, max: 100_000_000 },
        "1000000",
        Active,
        "largest batch on the wire, 61-byte header included; also limited by the topic's max.message.bytes. Java 16384, librdkafka 1000000",
    ),
    setting(
        "batch.raw.size.max",
        &[],
        Producer,
        Bytes { min: 1_024, max: GIB },
        "4194304",
        Active,
        "largest batch before compression: what a reader must unpack at once",
    ),
    setting(
        "max.request.size",
        &["message.max.bytes"],
        Producer,
        Bytes { min: 1_024, max: 1_000_000_000 },
        "1048576",
        Active,
        "largest record before compression, and the size of a request to which no further batch is added. Java 1048576",
    ),
    setting(
        "partitioner.ignore.keys",
        &[],
        Producer,
        Bool,
        "false",
        Active,
        "spread records with a key like records without one",
    ),
    setting(
        "batch.num.messages",
        &["batch_num_messages"],
        Producer,
        Int { min: 0, max: 10_000_000 },
        "0",
        Active,
        "most records in a batch; 0 = no limit. librdkafka 10000, K's client 1000",
    ),
    setting(
        "compression.type",
        &["compression.codec", "compression_type", "compression_codec"],
        Producer,
        Choice(CODECS),
        "none",
        Active,
        "codec of new batches; lz4 costs least, zstd packs best",
    ),
    setting(
        "compression.level",
        &[],
        Producer,
        Int { min: 0, max: 22 },
        "0",
        Active,
        "level for gzip (1..9) and zstd (1..22); 0 = the codec's own default, zstd 1 (Java 3)",
    ),
    setting(
        "partitioner",
        &["partitioner.class"],
        Producer,
        Choice(PARTITIONERS),
        "murmur2",
        Active,
        "records with a key: murmur2 as in Java; without: uniform sticky (KIP-794). librdkafka consistent_random",
    ),
    setting(
        "max.in.flight.requests.per.connection",
        &["max.in.flight", "max_in_flight_requests"],
        Engine,
        Int { min: 1, max: 1_000 },
        "5",
        Active,
        "unanswered requests per broker; at most 5 with idempotence, because brokers remember the last five batches",
    ),
    setting(
        "retries",
        &["message.send.max.retries", "max_retries"],
        Producer,
        Int { min: 0, max: INT_MAX },
        "2147483647",
        Later,
        "attempts after the first; delivery.timeout.ms alone decides in this version. K's client 3, B's 2",
    ),
    setting(
        "delivery.timeout.ms",
        &["message.timeout.ms", "delivery_timeout_ms"],
        Producer,
        Millis { min: 1, max: 7 * DAY_MS },
        "120000",
        Active,
        "from send to a final outcome: delivered, failed, or unknown. librdkafka 300000",
    ),
    setting(
        "buffer.memory",
        &["max_buffer_bytesize"],
        Engine,
        Bytes { min: 65_536, max: 1 << 40 },
        "33554432",
        Active,
        "memory for records that are not acknowledged yet: lanes, open, sealed and in-flight batches",
    ),
    setting(
        "max.block.ms",
        &["max_block_ms"],
        Producer,
        Millis { min: 0, max: DAY_MS },
        "60000",
        Active,
        "how long send may wait for memory before it gives the record back",
    ),
    setting(
        "transactional.id",
        &["transactional_id"],
        Producer,
        Text,
        "",
        Refused,
        "identity of a transactional producer; not part of this version",
    ),
    // Consumer
    setting(
        "auto.offset.reset",
        &["auto_offset_reset"],
        Consumer,
        Choice(RESETS),
        "latest",
        Active,
        "where to start when there is no valid position: earliest, latest, or none (an error)",
    ),
    setting(
        "initial_offset_smallest",
        &[],
        Consumer,
        Bool,
        "false",
        Active,
        "K's spelling of auto.offset.reset: true = earliest, false = latest; auto.offset.reset wins when both are set",
    ),
    setting(
        "fetch.min.bytes",
        &["min_bytes"],
        Consumer,
        Bytes { min: 0, max: INT_MAX },
        "1",
        Active,
        "an answer waits for this much data, at most fetch.max.wait.ms",
    ),
    setting(
        "fetch.max.wait.ms",
        &["fetch.wait.max.ms", "max_wait_time"],
        Consumer,
        Millis { min: 0, max: DAY_MS },
        "500",
        Active,
        "longest wait of a fetch without data; also how fast a stop is noticed by the broker",
    ),
    setting(
        "fetch.max.bytes",
        &["max_bytes"],
        Consumer,
        Bytes { min: 1_024, max: GIB },
        "4194304",
        Active,
        "most data of one answer; a first batch that is larger still comes whole (KIP-74). Java 52428800, K's client 1048576",
    ),
    setting(
        "max.partition.fetch.bytes",
        &["fetch.message.max.bytes", "max_bytes_per_partition"],
        Consumer,
        Bytes { min: 1_024, max: GIB },
        "1048576",
        Active,
        "most data of one partition in one answer; grows to 2 MiB while the partition keeps its link busy",
    ),
    setting(
        "fetch.memory",
        &["queued.max.messages.bytes"],
        Engine,
        Bytes { min: 1 << 20, max: 1 << 40 },
        "67108864",
        Active,
        "memory for fetched data that the application has not released, compressed bytes counted 1:1",
    ),
    setting(
        "max.poll.records",
        &[],
        Consumer,
        Int { min: 0, max: INT_MAX },
        "0",
        Later,
        "most records of one delivery; 0 = a batch as it comes. Java 500",
    ),
    setting(
        "isolation.level",
        &["isolation_level"],
        Consumer,
        Choice(ISOLATION),
        "read_committed",
        Active,
        "whether records of aborted and open transactions are hidden. Java read_uncommitted, librdkafka read_committed",
    ),
    setting("check.crcs", &[], Consumer, Bool, "true", Refused, "checksums are always verified; only true is accepted"),
    setting(
        "client.rack",
        &["client_rack", "broker.rack"],
        Consumer,
        Text,
        "",
        Later,
        "rack of this client, to read from the closest replica (KIP-392)",
    ),
    setting(
        "group.id",
        &["group_id"],
        Consumer,
        Text,
        "",
        Later,
        "consumer group; manual assignment makes no group call",
    ),
    setting("group.instance.id", &[], Consumer, Text, "", Later, "static member's id (KIP-345)"),
    setting(
        "group.protocol",
        &[],
        Consumer,
        Choice(GROUP_PROTOCOLS),
        "consumer",
        Later,
        "group protocol: consumer (KIP-848) or classic",
    ),
    setting(
        "session.timeout.ms",
        &["session_timeout"],
        Consumer,
        Millis { min: 1, max: DAY_MS },
        "45000",
        Later,
        "a group member silent for this long is removed",
    ),
    setting(
        "heartbeat.interval.ms",
        &["heartbeat_interval"],
        Consumer,
        Millis { min: 1, max: DAY_MS },
        "3000",
        Later,
        "how often a classic group member reports",
    ),
    setting(
        "max.poll.interval.ms",
        &[],
        Consumer,
        Millis { min: 1, max: DAY_MS },
        "300000",
        Later,
        "longest time between two batches before a member leaves its group",
    ),
    setting(
        "enable.auto.commit",
        &[],
        Consumer,
        Bool,
        "true",
        Later,
        "whether processed offsets are committed on their own; needs a group",
    ),
    setting(
        "auto.commit.interval.ms",
        &["offset_commit_interval"],
        Consumer,
        Millis { min: 0, max: DAY_MS },
        "5000",
        Later,
        "how often processed offsets are committed",
    ),
];

/// The setting of this name, by Kafka's name or an alias.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name || setting.aliases.contains(&name))
}

/// The known name most like `name`, when one is close enough to be meant.
pub fn closest(name: &str) -> Option<&'static str> {
    SETTINGS
        .iter()
        .flat_map(|setting| std::iter::once(setting.name).chain(setting.aliases.iter().copied()))
        .map(|known| (distance(name, known), known))
        .min()
        .filter(|(steps, known)| *steps <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

/// Insertions, deletions and replacements between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_alias_is_unique() {
        let mut names: Vec<&str> =
            SETTINGS.iter().flat_map(|s| std::iter::once(s.name).chain(s.aliases.iter().copied())).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(all, names.len());
    }

    #[test]
    fn every_default_is_in_its_range() {
        for setting in SETTINGS {
            if !setting.default.is_empty() {
                assert!(setting.parse(setting.default).is_ok(), "{}: default {}", setting.name, setting.default);
            }
        }
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_name_that_was_meant() {
        assert_eq!(closest("lingr.ms"), Some("linger.ms"));
        assert_eq!(closest("bootstrap.server"), Some("bootstrap.servers"));
        assert_eq!(closest("entirely-different-thing-altogether"), None);
    }
}
