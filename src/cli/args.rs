//! What may be typed. Parsed without side effects; each command turns its part into a plan of its own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Kafka producer and consumer engine for Linux, at the command line.
///
/// Settings come from --config FILE, KAFKA_* variables and -X key=value, later ones winning; `ottla config list` shows
/// all keys. Data goes to standard output, words to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or
/// configuration, 3 a check failed.
#[derive(Parser, Debug)]
#[command(name = "ottla", version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Clone, Default)]
pub struct Common {
    /// A setting by Kafka's name; may be given again.
    #[arg(short = 'X', value_name = "KEY=VALUE", global = true)]
    pub settings: Vec<String>,
    /// Settings from a TOML or YAML file.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print JSON instead of tables and text.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bar, notes and warnings on standard error; errors are still printed.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure: produce and consume a known workload and compare every record.
    Bench(BenchArgs),
    /// Send lines from standard input.
    Produce(ProduceArgs),
    /// Print records.
    Consume(ConsumeArgs),
    /// Prove that what was acknowledged is there, once, in order and unharmed.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// List, describe, create and delete topics.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Run the embedded broker: a strict single-process Kafka broker that keeps its logs in memory.
    Broker(BrokerArgs),
    /// Delay what passes between clients and one broker, which must tell its clients to come here (its advertised listener).
    Proxy(ProxyArgs),
    /// Show settings: all of them, or one with its meaning.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check this host: io_uring, locked memory, processors.
    Doctor,
    /// Kafka's messages, for debugging.
    #[command(subcommand)]
    Wire(WireCommand),
    /// Record batches, for debugging.
    #[command(subcommand)]
    Batch(BatchCommand),
}

#[derive(Args, Debug, Clone)]
pub struct BenchArgs {
    /// What to run; both by default.
    #[arg(value_enum, default_value_t = Phase::Both)]
    pub phase: Phase,
    /// Brokers, host:port,...; without it an embedded broker runs in a process of its own.
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
    /// Records to send and to read.
    #[arg(long, default_value_t = 1_000_000)]
    pub messages: u64,
    /// telemetry, telemetry-pool, or fixed:SIZE with the record's size in bytes.
    #[arg(long, default_value = "telemetry", value_parser = super::workload::Workload::parse)]
    pub workload: super::workload::Workload,
    /// The topic; created when it does not exist.
    #[arg(short, long, default_value = "ottla-bench")]
    pub topic: String,
    /// Partitions of the topic when it is created.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub partitions: u32,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long)]
    pub compression: Option<String>,
    /// all, 1 or 0.
    #[arg(long)]
    pub acks: Option<String>,
    /// How long a batch waits for more records, in milliseconds.
    #[arg(long)]
    pub linger_ms: Option<u32>,
    /// Most records in one batch; 0 = no limit.
    #[arg(long)]
    pub batch_messages: Option<u32>,
    /// Threads that send, each with a lane of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub lanes: u32,
    /// Send so many records a second, evenly; every acknowledgement is timed from when its record was due, not from when it was
    /// sent, so that a stall counts for all records that it holds up.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Send one record at a time and wait for its acknowledgement.
    #[arg(long, conflicts_with = "rate")]
    pub waited: bool,
    /// Read until at least so many records were read and every partition is read to its end as it was last told: for a topic
    /// that somebody goes on writing to. Only counts are compared.
    #[arg(long)]
    pub catch_up: bool,
    /// Run the shard inside the sending and reading thread (a LocalEngine) instead of threads of its own.
    #[arg(long)]
    pub local: bool,
    /// Process id of the broker, to report its CPU and memory too (the embedded one is known).
    #[arg(long, value_name = "PID")]
    pub broker_pid: Option<u32>,
    /// How the records read are checked.
    #[arg(long, value_enum, default_value_t = Verify::Full)]
    pub verify: Verify,
    /// Give up after this many seconds without any progress.
    #[arg(long, default_value_t = 60)]
    pub stall_seconds: u64,
    /// Afterwards leave the embedded broker running until standard input ends, so that other clients can look.
    #[arg(long, conflicts_with = "bootstrap")]
    pub keep_broker: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Every record is made again and compared: content, order, timestamp, nothing lost or twice.
    Full,
    /// Key, value and all headers are read into a sum that is compared at the end, as other clients' programs do.
    Sum,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Send only.
    Produce,
    /// Read only: the topic must hold the workload.
    Consume,
    /// Send, then read.
    Both,
}

#[derive(Args, Debug)]
pub struct ProduceArgs {
    /// Brokers, host:port,...
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
    /// The topic.
    #[arg(short, long)]
    pub topic: String,
    /// What separates key and value in a line; without it lines are values and keys are null.
    #[arg(short = 'K', long, value_name = "SEP")]
    pub key_separator: Option<String>,
    /// A header for every record, name=value (name alone: null value); may be given again.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(short = 'z', long, value_name = "CODEC")]
    pub compression: Option<String>,
    /// The partition; without it the partitioner chooses.
    #[arg(short, long)]
    pub partition: Option<i32>,
    /// Lines are JSON objects as `consume --json` prints them: key and value (text, null or {"hex":".."}), headers,
    /// partition, timestamp.
    #[arg(long)]
    pub from_json: bool,
    /// An empty value is null (a tombstone).
    #[arg(short = 'Z', long)]
    pub empty_is_null: bool,
}

#[derive(Args, Debug)]
pub struct ConsumeArgs {
    /// Brokers, host:port,...
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
    /// The topic.
    #[arg(short, long)]
    pub topic: String,
    /// The partition; all without it.
    #[arg(short, long)]
    pub partition: Option<i32>,
    /// Where to start: beginning, end, an offset, or @MILLIS since 1970.
    #[arg(short, long, default_value = "beginning", value_parser = parse_start)]
    pub offset: Start,
    /// Stop after this many records.
    #[arg(short, long)]
    pub count: Option<u64>,
    /// Stop at the end that each partition had at the start.
    #[arg(short, long)]
    pub exit: bool,
    /// How to print a record: %s value, %k key, %o offset, %p partition, %t topic, %T timestamp, %h headers, %S and %K
    /// lengths, %% and \n \t \\.
    #[arg(short, long, default_value = "%s\\n", conflicts_with = "json")]
    pub format: String,
}

/// Where a consumer starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the first record there is.
    Beginning,
    /// Behind the last.
    End,
    /// At this offset.
    Offset(i64),
    /// At the first record with this timestamp or a later one.
    Millis(i64),
}

fn parse_start(text: &str) -> Result<Start, String> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    match text {
        "beginning" | "earliest" => Ok(Start::Beginning),
        "end" | "latest" => Ok(Start::End),
        _ => match text.strip_prefix('@') {
            Some(millis) => number(millis).map(Start::Millis),
            None => number(text).map(Start::Offset),
        }
        .ok_or_else(|| "expected beginning, end, an offset, or @MILLIS".to_owned()),
    }
}

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Send records that tell who they are, and write down what was told of each.
    Produce(AuditProduceArgs),
    /// Read such records, and write down what was delivered in which order.
    Consume(AuditConsumeArgs),
    /// Compare both files with the topics; exit code 3 when a promise is broken.
    Check(AuditCheckArgs),
}

#[derive(Args, Debug)]
pub struct AuditProduceArgs {
    /// Brokers, host:port,...
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
    /// Topics and their partitions; created when they do not exist.
    #[arg(long, value_name = "NAME:PARTITIONS,..", required = true, value_delimiter = ',', value_parser = parse_topic)]
    pub topics: Vec<(String, i32)>,
    /// Records to send, all producers together.
    #[arg(short = 'n', long)]
    pub messages: u64,
    /// Records per second, all producers together; 0 = as fast as they are taken.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// What is promised.
    #[arg(long, value_enum, default_value_t = AuditMode::Idempotent)]
    pub mode: AuditMode,
    /// A name for this run, in every record: letters, digits, . _ -
    #[arg(long, value_name = "ID", value_parser = parse_run)]
    pub run: String,
    /// JSON lines: what was told of each record.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Threads that send, each with a producer of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub producers: u32,
    /// Bytes of a payload at most; they differ from record to record.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=900_000))]
    pub payload: u32,
    /// Stop sending when standard input ends.
    #[arg(long)]
    pub exit_with_stdin: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// Each record once and in order.
    Idempotent,
    /// Each record at least once.
    Atleast,
    /// Transactions (comes later).
    Txn,
}

#[derive(Args, Debug)]
pub struct AuditConsumeArgs {
    /// Brokers, host:port,...
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
    /// Topics, all their partitions.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', required_unless_present = "assign")]
    pub topics: Vec<String>,
    /// Only these partitions.
    #[arg(long, value_name = "NAME:PARTITION,..", value_delimiter = ',', value_parser = parse_partition, conflicts_with = "group")]
    pub assign: Vec<(String, i32)>,
    /// A consumer group (comes later).
    #[arg(long)]
    pub group: Option<String>,
    /// The group's protocol: consumer, classic or share (comes later).
    #[arg(long, value_parser = ["consumer", "classic", "share"])]
    pub protocol: Option<String>,
    /// Stop after so many seconds.
    #[arg(long, required_unless_present_any = ["exit", "exit_with_stdin"])]
    pub seconds: Option<u64>,
    /// Stop at the end that each partition had at the start.
    #[arg(short, long)]
    pub exit: bool,
    /// When standard input ends, go on to the end that each partition has then, and stop.
    #[arg(long, conflicts_with = "exit")]
    pub exit_with_stdin: bool,
    /// What this consumer is called in the file.
    #[arg(long, default_value_t = 0)]
    pub consumer: u32,
    /// JSON lines: what was delivered.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct AuditCheckArgs {
    /// Brokers, host:port,...: read the topics themselves too.
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
    /// The file of `audit produce`.
    #[arg(long, value_name = "FILE")]
    pub produced: PathBuf,
    /// Files of `audit consume`: several are one reading together.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub consumed: Vec<PathBuf>,
    /// What `kcat -C -J` printed, - for standard input: several are one reading together.
    #[arg(long = "dump", value_name = "FILE", num_args = 1..)]
    pub dumps: Vec<PathBuf>,
    /// How many records the produce file must have.
    #[arg(long)]
    pub records: Option<u64>,
    /// No record may have ended as fail or unknown.
    #[arg(long)]
    pub all_ok: bool,
}

fn parse_topic(text: &str) -> Result<(String, i32), String> {
    parse_pair(text, 1).ok_or_else(|| "expected NAME:PARTITIONS".to_owned())
}

fn parse_partition(text: &str) -> Result<(String, i32), String> {
    parse_pair(text, 0).ok_or_else(|| "expected NAME:PARTITION".to_owned())
}

fn parse_pair(text: &str, min: i32) -> Option<(String, i32)> {
    let (name, number) = text.rsplit_once(':')?;
    let number = number.parse().ok().filter(|number| *number >= min)?;
    (!name.is_empty()).then(|| (name.to_owned(), number))
}

fn parse_run(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    // A lone - stands for nothing in a record's value.
    let is_legal = !text.is_empty() && text != "-" && text.bytes().all(legal);
    is_legal.then(|| text.to_owned()).ok_or_else(|| "expected letters, digits, . _ -".to_owned())
}

#[derive(Args, Debug, Clone)]
pub struct Brokers {
    /// Brokers, host:port,...
    #[arg(short, long, value_name = "HOST:PORT,..")]
    pub bootstrap: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum TopicsCommand {
    /// Names, partitions and replication of all topics.
    List {
        #[command(flatten)]
        brokers: Brokers,
    },
    /// Partitions, leaders and offsets of topics.
    Describe {
        #[command(flatten)]
        brokers: Brokers,
        /// The topics.
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Create a topic.
    Create {
        #[command(flatten)]
        brokers: Brokers,
        /// Its name.
        topic: String,
        /// Its partitions; -1 leaves the number to the broker.
        #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
        partitions: i32,
        /// Replicas of each partition; -1 leaves the number to the broker.
        #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
        replication_factor: i16,
        /// A topic setting, key=value; may be given again.
        #[arg(long = "topic-config", value_name = "KEY=VALUE")]
        configs: Vec<String>,
    },
    /// Delete topics.
    Delete {
        #[command(flatten)]
        brokers: Brokers,
        /// The topics.
        #[arg(required = true)]
        topics: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub struct BrokerArgs {
    /// First address; further brokers take the ports behind it, or free ports when the port is 0.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub listen: String,
    /// How many virtual brokers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub brokers: u32,
    /// A topic to start with; may be given again.
    #[arg(long = "topic", value_name = "NAME:PARTITIONS")]
    pub topics: Vec<String>,
    /// Create topics when clients ask for them.
    #[arg(long)]
    pub auto_create: bool,
    /// How much of a batch is checked: full walks every record, header is for sink measurements.
    #[arg(long, value_enum, default_value_t = Validate::Full)]
    pub validate: Validate,
    /// End when standard input ends: for programs that run a broker as their child.
    #[arg(long)]
    pub exit_with_stdin: bool,
}

#[derive(Args, Debug)]
pub struct ProxyArgs {
    /// Where it listens; port 0 is any.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    pub listen: String,
    /// The broker.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// How much longer every byte takes, each way, in milliseconds: half of a round trip.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub delay_ms: u64,
    /// End when standard input ends: for programs that run a proxy as their child.
    #[arg(long)]
    pub exit_with_stdin: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validate {
    /// Checksum, structure, decompression, every record.
    Full,
    /// The batch header.
    Header,
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// All keys with unit, default, range and meaning.
    List {
        /// Only what engine, producer or consumer use.
        #[arg(long)]
        role: Option<String>,
    },
    /// One key with everything known of it.
    Explain {
        /// The key or an alias.
        key: String,
    },
    /// The effective configuration with the source of every value, secrets masked.
    Show,
}

#[derive(Subcommand, Debug)]
pub enum WireCommand {
    /// Read JSON lines {"key":0,"version":3,"kind":"request|response","hex":".."} and print what the bytes mean.
    ///
    /// Per line: {"json":{fields under Kafka's names},"hex":".."} or {"error":".."}. The bytes are a
    /// message's body, without frame length and header.
    Decode {
        /// Read from this file instead of standard input.
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub enum BatchCommand {
    /// Print every batch and its records, from a .log segment or bytes.
    ///
    /// FILE is a log segment. Without it, lines {"hex":".."} are read from standard input.
    Dump {
        /// A .log segment.
        file: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn starts_are_read() {
        assert_eq!(parse_start("beginning"), Ok(Start::Beginning));
        assert_eq!(parse_start("17"), Ok(Start::Offset(17)));
        assert_eq!(parse_start("@1700000000000"), Ok(Start::Millis(1_700_000_000_000)));
        assert!(parse_start("-3").is_err() && parse_start("@").is_err() && parse_start("soon").is_err());
    }
}
