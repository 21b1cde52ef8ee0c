//! Runs Ottla and its peers over the same bytes, in turn, and reports what each cost, with ratios to franz-go.
//!
//! ```text
//!  scenario × peer × run                             one core                 another core
//!  for each round, for each scenario:              ┌──────────────┐         ┌─────────────┐
//!    every peer sends     (order turns per round) ─► peer program ├────────►│ real Kafka  │──► counts by a foreign reader
//!    every peer reads one and the same topic      ─► peer program │◄────────┤             │
//!                                                  └──────┬───────┘         └─────────────┘
//!    (each with a short run and a long one)                │
//!                                            one JSON object per phase ──► slope, median, ratio ──► table, JSON, page
//! ```
//! Peers are programs of their own (`bench-harness/peers`, and `ottla bench`), so this crate compiles neither the engine
//! nor anybody's client. What it never does: average over runs, compare figures of different runs, or leave a process.

mod broker;
mod counts;
mod expected;
mod explained;
mod fault;
mod groups;
mod html;
mod machine;
mod peer;
mod published;
mod report;
mod run;
mod running;
mod sample;
mod scenario;
mod stats;
mod sums;
mod table;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use fault::Fault;

#[derive(Parser, Debug)]
#[command(name = "bench-harness", about = "Ottla beside its peers: scenario, peer, run, report", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run scenarios over peers and report.
    Run(Box<RunArgs>),
    /// Run the published table again: groups of scenarios, each with its own peers and numbers of records.
    Table(Box<TableArgs>),
    /// Name the scenarios, peers and groups there are.
    List,
}

/// Options of `run`.
#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// Scenarios, by name (see `list`).
    #[arg(long, value_delimiter = ',', default_value = "telemetry")]
    pub scenario: Vec<String>,
    /// Peers, by name (see `list`).
    #[arg(long, value_delimiter = ',', default_value = "ottla,franz-go")]
    pub peers: Vec<String>,
    /// Records of a short run and of a long one, of which CPU per record is the slope; or of one plain run.
    #[arg(
        long,
        value_name = "SHORT,LONG",
        value_delimiter = ',',
        default_value = "2000000,12000000",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub messages: Vec<u64>,
    #[command(flatten)]
    pub common: Common,
}

/// Options of `table`.
#[derive(Args, Debug, Clone)]
pub struct TableArgs {
    /// Only these groups (see `list`).
    #[arg(long, value_delimiter = ',')]
    pub group: Vec<String>,
    /// Only these of the groups' peers.
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<String>,
    /// One round of a hundredth of the records: whether it works, no figures.
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What both have.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Rounds; every peer runs once in each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Records sent and read before the first round, so that the broker's code is compiled and its pages are there.
    #[arg(long, default_value_t = 1_000_000)]
    pub warm_up: u64,
    /// Use these brokers, host:port,..., instead of starting one.
    #[arg(short, long, value_name = "HOST:PORT,..", conflicts_with = "broker")]
    pub bootstrap: Option<String>,
    /// Process ids of the brokers given with -b, to report their CPU time (they must be on this host).
    #[arg(long, value_name = "PID,..", value_delimiter = ',', requires = "bootstrap")]
    pub broker_pid: Vec<u32>,
    /// The broker to start.
    #[arg(long, value_enum, default_value_t = BrokerKind::Kafka)]
    pub broker: BrokerKind,
    /// An `ottla` program instead of building one in the release profile.
    #[arg(long, value_name = "PATH")]
    pub ottla: Option<PathBuf>,
    /// Peer whose records all consumers read; franz-go where it takes part, else the first peer.
    #[arg(long, value_name = "PEER")]
    pub read_from: Option<String>,
    /// Also what is of one peer only and compares nobody (see `list`).
    #[arg(long)]
    pub aside: bool,
    /// Why a peer is more than 15 % off the ratio to franz-go that others measured, or the floor more than 5 % slower than
    /// when it was last published; without it such a run fails.
    #[arg(long, value_name = "PEER=REASON", value_parser = reason)]
    pub accept: Vec<(String, String)>,
    /// Clients on one core, the broker on another: the default.
    #[arg(long, conflicts_with = "no_pin")]
    pub pin: bool,
    /// Leave processes where the kernel puts them.
    #[arg(long)]
    pub no_pin: bool,
    /// Stop a peer that has not finished a phase after this many seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_seconds: u64,
    /// Write one JSON object to a file, or to standard output instead of the table.
    #[arg(long, value_name = "FILE|-", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<String>,
    /// Write a page with plots: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Brokers that the harness can start.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    /// Apache Kafka, by `ci/kafka`.
    Kafka,
    /// The embedded one, by `ottla broker`: for a smoke test, not for figures.
    Embedded,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => groups::asked(&args)
            .and_then(|plan| run::run(&args.common, &[plan], &|_| Ok(())))
            .and_then(|report| tell(&args.common, &report)),
        Command::Table(args) => table(&args),
        Command::List => list(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("bench-harness: {}", fault.text());
            ExitCode::from(fault.code())
        }
    }
}

/// Reads `PEER=REASON`.
fn reason(text: &str) -> Result<(String, String), String> {
    let found = text.split_once('=').filter(|(peer, reason)| !peer.is_empty() && !reason.trim().is_empty());
    found.map(|(peer, reason)| (peer.to_owned(), reason.to_owned())).ok_or_else(|| "expected PEER=REASON".to_owned())
}

/// Everything again, kept as far as it came: the files are written after every scenario of every round.
fn table(args: &TableArgs) -> Result<(), Fault> {
    let plans = groups::planned(args)?;
    if !args.common.quiet {
        eprint!("{}", groups::schedule(&plans));
    }
    let report = run::run(&args.common, &plans, &|report| keep(&args.common, report))?;
    tell(&args.common, &report)
}

/// Writes the files that were asked for, each whole or not at all.
fn keep(args: &Common, report: &report::Report) -> Result<(), Fault> {
    let write = |path: &Path, text: String| {
        let beside = path.with_added_extension("part");
        fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).map_err(Fault::failed(path.display()))
    };
    if let Some(path) = &args.html {
        write(path, report.html())?;
    }
    match args.json.as_deref() {
        Some("-") | None => Ok(()),
        Some(path) => write(Path::new(path), format!("{:#}\n", report.json())),
    }
}

/// Writes what was asked for, also of a run that then fails for a peer's ratio.
fn tell(args: &Common, report: &report::Report) -> Result<(), Fault> {
    keep(args, report)?;
    match args.json.as_deref() {
        Some("-") => report::to_stdout(&format!("{}\n", report.json()))?,
        _ => report::to_stdout(&report.text())?,
    }
    report.check()
}

fn list() -> Result<(), Fault> {
    let mut text = String::from("scenarios\n");
    for scenario in scenario::ALL {
        text += &format!("  {:18} {}\n", scenario.name, scenario.what);
    }
    text += "peers\n";
    for peer in peer::ALL {
        text += &format!("  {:18} {}\n", peer.name, peer.what);
    }
    text += "groups of the published table\n";
    for group in groups::ALL {
        text += &format!("  {:18} {}\n", group.name, group.text());
    }
    report::to_stdout(&text)
}
