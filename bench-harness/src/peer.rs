//! The peers: how each is built, and with which words it runs a phase.
//!
//! A peer is a program that runs one phase and prints one JSON object, `{"settings":{..},"phases":[{..}]}`, as
//! `ottla bench --json` does. Adding one is a line in [`ALL`] and a program under `bench-harness/peers`. The words that all
//! of them take stand at the head of `bench-harness/peers/common.rs`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fault::Fault;
use crate::scenario::{Mode, Scenario};

/// Sending or reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From the first record to the last acknowledgement.
    Produce,
    /// From the first request to the last record.
    Consume,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
        })
    }
}

/// One thing a peer can do.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Sending or reading.
    pub phase: Phase,
    /// Empty for what all peers do alike; else what is different.
    pub variant: &'static str,
    /// Arguments of that variant.
    args: &'static [&'static str],
    /// Left out unless it is asked for: it tells something about one peer and compares nobody.
    pub aside: bool,
}

impl Step {
    const fn new(phase: Phase, variant: &'static str, args: &'static [&'static str]) -> Self {
        Self { phase, variant, args, aside: false }
    }

    const fn aside(phase: Phase, variant: &'static str, args: &'static [&'static str]) -> Self {
        Self { phase, variant, args, aside: true }
    }
}

/// A client program.
#[derive(Debug, PartialEq, Eq)]
pub struct Peer {
    /// By which it is asked for.
    pub name: &'static str,
    /// What it is, for `list`.
    pub what: &'static str,
    kind: Kind,
    /// What it does; the first step of a phase is the one that is compared.
    pub steps: &'static [Step],
}

/// How a program is built, and what words it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ottla,
    /// A program of this crate that talks to nobody.
    Floor,
    /// A program of this crate that talks to a broker and is no client.
    Bare,
    /// `bench-harness/peers/NAME`, built by these words; `OUT` is where the program belongs, and all take the same words.
    Foreign {
        build: &'static [&'static str],
        needs: &'static str,
    },
    /// The same by Cargo, with a workspace and a lock file of its own.
    Crate,
}

/// The peer that ratios are to.
pub const REFERENCE: &str = "franz-go";
/// The peer that does only what cannot be left out.
pub const FLOOR: &str = "floor";
/// The peer that leaves the kernel's part and the broker's, and nothing of a client's.
pub const BARE: &str = "bare";
/// Its variant that makes records and looks at them.
pub const WITH_RECORDS: &str = "with records";

const GO: Kind =
    Kind::Foreign { build: &["go", "build", "-mod=readonly", "-ldflags", "-s -w", "-o", "OUT", "."], needs: "Go 1.26" };
/// Who sends and reads at once, and who knows Klife's benches.
const MIXERS: &[&str] = &["ottla-lib", REFERENCE, "java", "rust-rdkafka"];
/// Who tells when it stands at the end of every partition.
const CATCHERS: &[&str] = &["ottla", "ottla-lib", REFERENCE, "java", "librdkafka", "rust-rdkafka"];
const ALIKE: &[Step] = &[Step::new(Phase::Produce, "", &[]), Step::new(Phase::Consume, "", &[])];

/// Every peer.
pub const ALL: &[Peer] = &[
    Peer {
        name: "ottla",
        what: "this project, as `ottla bench`: threaded and in a LocalEngine; aside: every record read made again",
        kind: Kind::Ottla,
        steps: &[
            Step::new(Phase::Produce, "", &[]),
            Step::new(Phase::Produce, "LocalEngine", &["--local"]),
            Step::new(Phase::Consume, "", &["--verify", "sum"]),
            Step::new(Phase::Consume, "LocalEngine", &["--local", "--verify", "sum"]),
            Step::aside(Phase::Consume, "all compared", &["--verify", "full"]),
        ],
    },
    Peer {
        name: "ottla-lib",
        what: "the same in a program that links the library only: CPU and memory of an embedding service",
        kind: Kind::Crate,
        steps: &[
            Step::new(Phase::Produce, "", &[]),
            Step::new(Phase::Produce, "LocalEngine", &["-local", "yes"]),
            Step::new(Phase::Consume, "", &[]),
            Step::new(Phase::Consume, "LocalEngine", &["-local", "yes"]),
        ],
    },
    Peer {
        name: REFERENCE,
        what: "franz-go 1.22.2; reads also with its pools",
        kind: GO,
        steps: &[
            Step::new(Phase::Produce, "", &[]),
            Step::new(Phase::Consume, "", &[]),
            Step::new(Phase::Consume, "pooled", &["-pooled"]),
        ],
    },
    Peer {
        name: "java",
        what: "Apache Kafka's own client 4.4.0; the slope leaves out what its JVM compiles in the short run",
        kind: Kind::Foreign { build: &["./build", "OUT"], needs: "a JDK 17 with Maven" },
        steps: ALIKE,
    },
    Peer {
        name: "librdkafka",
        what: "librdkafka as installed, by its C API; reads by the batch queue",
        kind: Kind::Foreign {
            build: &["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", "OUT", "main.c", "-lrdkafka"],
            needs: "a C compiler with librdkafka-dev",
        },
        steps: ALIKE,
    },
    Peer {
        name: "rust-rdkafka",
        what: "rust-rdkafka 0.39.0 with its librdkafka 2.12.1: ThreadedProducer, BaseConsumer::poll",
        kind: Kind::Crate,
        steps: ALIKE,
    },
    Peer {
        name: "confluent-kafka-go",
        what: "confluent-kafka-go 2.11.1 with its librdkafka: Produce without delivery reports, and with them; Poll",
        kind: GO,
        steps: &[
            Step::new(Phase::Produce, "", &[]),
            Step::new(Phase::Produce, "delivery reports", &["-reports"]),
            Step::new(Phase::Consume, "", &[]),
        ],
    },
    Peer {
        name: "rskafka",
        what: "rskafka 0.6.0, pure Rust: batches made by the caller, 5 under way, not idempotent; its streams",
        kind: Kind::Crate,
        steps: ALIKE,
    },
    Peer {
        name: "krafka",
        what: "krafka 0.28.1, pure Rust on Tokio's current-thread runtime, with its larger polls and fetches",
        kind: Kind::Crate,
        steps: ALIKE,
    },
    Peer {
        name: BARE,
        what: "no client: a socket, frames made beforehand, answers received and not looked at; one partition, uncompressed; \
               also with values and CRC made, and read and summed up, in that loop",
        kind: Kind::Bare,
        steps: &[
            Step::new(Phase::Produce, "", &[]),
            Step::new(Phase::Produce, WITH_RECORDS, &["-records", "yes"]),
            Step::new(Phase::Consume, "", &[]),
            Step::new(Phase::Consume, WITH_RECORDS, &["-records", "yes"]),
        ],
    },
    Peer {
        name: FLOOR,
        what: "no client: generate, encode, lz4, CRC and back, in memory; aside: all of a batch compressed at sealing",
        kind: Kind::Floor,
        steps: &[
            Step::new(Phase::Produce, "", &[]),
            Step::aside(Phase::Produce, "lz4 at sealing", &["--at-seal"]),
            Step::new(Phase::Consume, "", &[]),
        ],
    },
];

/// The peers of these names, each once.
pub fn named(names: &[String]) -> Result<Vec<&'static Peer>, Fault> {
    let mut found: Vec<&'static Peer> = Vec::new();
    for name in names {
        let peer = ALL.iter().find(|peer| peer.name == name).ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|peer| peer.name).collect();
            Fault::Usage(format!("no peer {name}; there are {}", known.join(", ")))
        })?;
        if !found.contains(&peer) {
            found.push(peer);
        }
    }
    Ok(found)
}

/// What a program needs to know for one phase.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The brokers.
    pub bootstrap: &'a str,
    /// The topic; it exists.
    pub topic: &'a str,
    /// Records to send or to read.
    pub messages: u64,
    /// When it ends before.
    pub seconds: Option<u32>,
    /// Partitions and workload.
    pub scenario: &'a Scenario,
}

impl Peer {
    /// Builds the program. The builders do nothing where nothing changed.
    pub fn build(&self, root: &Path, ottla: Option<&Path>) -> Result<PathBuf, Fault> {
        match (self.kind, ottla) {
            (Kind::Ottla, Some(path)) if path.is_file() => Ok(path.to_path_buf()),
            (Kind::Ottla, Some(path)) => Err(Fault::Usage(format!("--ottla {}: no such program", path.display()))),
            (Kind::Ottla, None) => cargo(root, "ottla", &["--features", "cli"]),
            (Kind::Floor | Kind::Bare, _) => own_program(root, self.name),
            (Kind::Crate, _) => {
                let out = target(root).join("bench-harness").join("crates");
                let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.args(["build", "--release", "--locked", "-j2", "--target-dir"]).arg(&out);
                command.current_dir(root.join("bench-harness/peers").join(self.name));
                built(&mut command, self.name, "or leave the peer out with --peers")?;
                Ok(out.join("release").join(self.name))
            }
            (Kind::Foreign { build, needs }, _) => {
                let programs = target(root).join("bench-harness");
                fs::create_dir_all(&programs).map_err(Fault::failed(programs.display()))?;
                let out = programs.join(self.name);
                let words: Vec<String> = build.iter().map(|word| word.replace("OUT", &out.to_string_lossy())).collect();
                let [program, args @ ..] = words.as_slice() else { return Ok(out) };
                let mut command = Command::new(program);
                command.args(args).current_dir(root.join("bench-harness/peers").join(self.name));
                built(&mut command, self.name, &format!("{needs} is needed, or leave the peer out with --peers"))?;
                Ok(out)
            }
        }
    }

    /// Whether it is this project's.
    pub fn is_ours(&self) -> bool {
        matches!(self.name, "ottla" | "ottla-lib")
    }

    /// Whether a step means something in a scenario.
    pub fn takes_part(&self, step: &Step, scenario: &Scenario) -> bool {
        if self.kind == Kind::Bare {
            let one = scenario.partitions == 1 && scenario.compression == "none" && scenario.nodes == 1;
            return one && (scenario.mode == Mode::Full || (scenario.mode == Mode::Waited && step.variant.is_empty()));
        }
        match scenario.mode {
            Mode::Full | Mode::Sink(_) => true,
            // Who sends nothing has nothing to wait for.
            Mode::Waited | Mode::Paced(_) => self.has_broker(),
            // Nothing is read that a variant of reading could do otherwise; only where it runs makes a difference.
            Mode::Idle(_) => self.has_broker() && ["", "LocalEngine"].contains(&step.variant),
            // It compares nothing: which records come depends on when it is done.
            Mode::CatchUp(_) => CATCHERS.contains(&self.name) && !step.aside,
            Mode::Mixed | Mode::KlifeSync(_) | Mode::KlifeAsync(_) => MIXERS.contains(&self.name),
        }
    }

    /// Why it has no part in a scenario; `None` where it has one.
    pub fn why_not(&self, scenario: &Scenario) -> Option<&'static str> {
        let mut steps = self.steps.iter().filter(|step| scenario.phases().contains(&step.phase));
        if steps.any(|step| self.takes_part(step, scenario)) {
            return None;
        }
        Some(match (self.kind, scenario.mode) {
            (Kind::Floor, _) => "it talks to nobody, so there is nothing to wait for",
            (Kind::Bare, _) => {
                "it has one kind of frame: one partition of one broker, uncompressed, as fast as it goes or waited"
            }
            (Kind::Ottla, _) => "`ottla bench` sends or reads, one topic: see ottla-lib",
            (_, Mode::CatchUp(_)) => "it does not tell when it stands at the end, or its program here does not ask",
            _ => "its program here has no such mode",
        })
    }

    /// Whether it is somebody's client, which makes and reads records.
    pub fn is_client(&self) -> bool {
        !matches!(self.kind, Kind::Floor | Kind::Bare)
    }

    /// Whether it talks to a broker.
    pub fn has_broker(&self) -> bool {
        self.kind != Kind::Floor
    }

    /// The command that runs one step.
    pub fn command(&self, program: &Path, step: &Step, job: Job<'_>) -> Command {
        let mut command = Command::new(program);
        let scenario = job.scenario;
        let (messages, partitions) = (job.messages.to_string(), scenario.partitions.to_string());
        let (phase, linger) = (step.phase.to_string(), scenario.linger_ms.to_string());
        let workload = scenario.workload.to_string();
        match self.kind {
            Kind::Ottla => {
                command.args(["bench", &phase, "-q", "--json", "-b", job.bootstrap, "-t", job.topic]);
                command.args(["--messages", &messages, "--partitions", &partitions, "--workload", &workload]);
                command.args(["--compression", scenario.compression, "--linger-ms", &linger]);
                match scenario.mode {
                    Mode::Waited => _ = command.arg("--waited"),
                    Mode::Paced(rate) => _ = command.args(["--rate", &rate.to_string()]),
                    Mode::CatchUp(_) => _ = command.arg("--catch-up"),
                    // It does not take part in what is not as fast as it goes.
                    _ => {}
                }
                let limits = [
                    ("batch.size", scenario.batch_size),
                    ("max.in.flight.requests.per.connection", scenario.in_flight),
                ];
                for (key, value) in limits.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                    command.args(["-X", &format!("{key}={value}")]);
                }
                if let Some(backend) = scenario.backend {
                    command.args(["-X", &format!("io.backend={backend}")]);
                }
                without_settings(&mut command);
            }
            Kind::Foreign { .. } | Kind::Crate | Kind::Bare => {
                command.args(["-phase", &phase, "-b", job.bootstrap, "-t", job.topic, "-n", &messages]);
                command.args(["-partitions", &partitions, "-workload", &workload]);
                command.args(["-compression", scenario.compression, "-linger", &linger]);
                let mode = match scenario.mode {
                    Mode::Full | Mode::Sink(_) | Mode::Idle(_) => None,
                    Mode::Waited => Some("waited".to_owned()),
                    Mode::Paced(rate) => Some(format!("paced:{rate}")),
                    Mode::CatchUp(_) => Some("catch-up".to_owned()),
                    Mode::Mixed => Some("mixed".to_owned()),
                    Mode::KlifeSync(workers) => Some(format!("klife-sync:{workers}")),
                    Mode::KlifeAsync(tasks) => Some(format!("klife-async:{tasks}")),
                };
                if let Some(mode) = mode {
                    command.args(["-mode", &mode]);
                }
                let limits = [
                    ("-batch-size", scenario.batch_size),
                    ("-in-flight", scenario.in_flight),
                    ("-seconds", job.seconds),
                ];
                for (word, value) in limits.into_iter().filter_map(|(word, value)| Some((word, value?))) {
                    command.args([word, &value.to_string()]);
                }
                if let Some(backend) = scenario.backend.filter(|_| self.name == "ottla-lib") {
                    command.args(["-backend", backend]);
                }
            }
            Kind::Floor => {
                command.args([&phase, &messages, &workload, scenario.compression]);
            }
        }
        command.args(step.args);
        command
    }
}

/// Nobody's settings but the scenario's.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KAFKA_")) {
        command.env_remove(name);
    }
}

/// A program of this crate: as we were built where that is not for figures, else in the release profile.
pub fn own_program(root: &Path, name: &str) -> Result<PathBuf, Fault> {
    let beside = std::env::current_exe().map_err(Fault::failed("own program"))?.with_file_name(name);
    let for_figures = beside.parent().is_some_and(|directory| directory.ends_with("release"));
    if beside.is_file() && !for_figures {
        return Ok(beside);
    }
    cargo(root, name, &["-p", "bench-harness"])
}

/// Builds one of our own programs in the release profile.
fn cargo(root: &Path, name: &str, args: &[&str]) -> Result<PathBuf, Fault> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--locked", "--bin", name]).args(args);
    built(command.current_dir(root), name, "or give an ottla with --ottla PATH")?;
    Ok(target(root).join("release").join(name))
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn built(command: &mut Command, what: &str, hint: &str) -> Result<(), Fault> {
    let program = command.get_program().display().to_string();
    // Standard output is the report's.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.map_err(Fault::failed(format!("building {what} with {program} ({hint})")))?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::Failed(format!("building {what} with {program} ended with {status} ({hint})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    fn words(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_peer_can_do_what_is_compared() {
        for peer in ALL {
            for phase in [Phase::Produce, Phase::Consume] {
                assert!(peer.steps.iter().any(|step| step.phase == phase && step.variant.is_empty()), "{}", peer.name);
            }
        }
        assert!(ALL.iter().any(|peer| peer.name == REFERENCE));
    }

    #[test]
    fn peers_are_found_by_name_once() {
        let names = ["ottla", "franz-go", "ottla"].map(str::to_owned);
        let found: Vec<_> = named(&names).unwrap().iter().map(|peer| peer.name).collect();
        assert_eq!(found, ["ottla", "franz-go"]);
        let fault = named(&["kafkajs".to_owned()]).unwrap_err();
        assert!(
            matches!(&fault, Fault::Usage(text) if text.contains("there are ottla, ottla-lib, franz-go")),
            "{fault:?}"
        );
    }

    #[test]
    fn a_job_becomes_each_peers_own_words() {
        let scenario = scenario::named(&["telemetry-12".to_owned()]).unwrap()[0];
        let job = Job { bootstrap: "b:1", topic: "t", messages: 7, seconds: None, scenario };
        let peers = named(&["ottla", REFERENCE, FLOOR].map(str::to_owned)).unwrap();
        let said = peers
            .iter()
            .filter_map(|peer| Some(words(&peer.command(Path::new("x"), peer.steps.last()?, job)).join(" ")));
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                "bench consume -q --json -b b:1 -t t --messages 7 --partitions 12 --workload telemetry --compression lz4 \
                 --linger-ms 100 --verify full",
                "-phase consume -b b:1 -t t -n 7 -partitions 12 -workload telemetry -compression lz4 -linger 100 -pooled",
                "consume 7 telemetry lz4",
            ]
        );
        let waited = Job { scenario: scenario::named(&["waited".to_owned()]).unwrap()[0], ..job };
        let paced = Job { scenario: scenario::named(&["paced".to_owned()]).unwrap()[0], ..job };
        let said = |peer: &Peer, job| words(&peer.command(Path::new("x"), &peer.steps[0], job)).join(" ");
        assert!(said(peers[0], waited).contains("--compression none --linger-ms 0 --waited"));
        assert!(said(peers[0], paced).ends_with("--linger-ms 5 --rate 50000"));
        assert!(said(peers[1], waited).ends_with("-linger 0 -mode waited"));
        assert!(said(peers[1], paced).ends_with("-linger 5 -mode paced:50000"));
        let of = |name: &str| Job { seconds: Some(9), scenario: scenario::named(&[name.into()]).unwrap()[0], ..job };
        let klife = "-workload klife -compression none -linger 0 -mode klife-async:16 -batch-size 512000 -in-flight 1 -seconds 9";
        assert!(said(peers[1], of("klife-async")).ends_with(klife));
        assert!(said(peers[1], Job { seconds: None, ..of("mixed") }).ends_with("-linger 5 -mode mixed"));
        let reads = words(&peers[0].command(Path::new("x"), &peers[0].steps[2], of("catch-up"))).join(" ");
        assert!(reads.starts_with("bench consume") && reads.ends_with("--catch-up --verify sum"), "{reads}");
    }

    #[test]
    fn waiting_is_for_those_who_have_somebody_to_wait_for() {
        let waits = |peer: &str, scenario: &str, variant: &str| {
            let (peer, scenario) = (named(&[peer.into()]).unwrap()[0], scenario::named(&[scenario.into()]).unwrap()[0]);
            let step = peer.steps.iter().rfind(|step| step.variant == variant).unwrap();
            peer.takes_part(step, scenario)
        };
        assert!(waits(FLOOR, "telemetry", "") && !waits(FLOOR, "paced", "") && !waits(FLOOR, "idle-1000", ""));
        assert!(waits(REFERENCE, "idle-1000", "") && !waits(REFERENCE, "idle-1000", "pooled"));
        assert!(
            !waits("ottla", "mixed", "")
                && waits("ottla-lib", "mixed", "LocalEngine")
                && !waits("krafka", "catch-up", "")
        );
        assert!(waits("ottla", "idle-1000", "LocalEngine") && waits(REFERENCE, "rtt-20", "pooled"));
    }

    #[test]
    fn whoever_cannot_has_a_reason() {
        let why = |peer: &str, scenario: &str| {
            named(&[peer.into()]).unwrap()[0].why_not(scenario::named(&[scenario.into()]).unwrap()[0])
        };
        assert!(why("ottla", "klife-async").is_some_and(|why| why.contains("ottla-lib")));
        assert!(why("krafka", "catch-up").is_some_and(|why| why.contains("the end")));
        assert!(why(FLOOR, "paced").is_some() && why(BARE, "telemetry").is_some() && why("rskafka", "mixed").is_some());
        for (peer, scenario) in
            [("krafka", "paced"), (BARE, "waited"), ("ottla-lib", "klife-async"), ("ottla", "idle-1000")]
        {
            assert_eq!(why(peer, scenario), None, "{peer} {scenario}");
        }
    }

    #[test]
    fn bare_sockets_take_part_where_nothing_is_compressed_in_one_partition() {
        let bare = named(&[BARE.to_owned()]).unwrap()[0];
        assert!(bare.has_broker() && !bare.is_client());
        let takes = |scenario: &&scenario::Scenario| bare.takes_part(&bare.steps[0], scenario);
        let names: Vec<_> = scenario::ALL.iter().filter(takes).map(|scenario| scenario.name).collect();
        assert_eq!(names, ["r100", "r1k", "waited"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_told_before_anything_runs() {
        let fault = ALL[0].build(Path::new("."), Some(Path::new("no/ottla"))).unwrap_err();
        assert_eq!(fault, Fault::Usage("--ottla no/ottla: no such program".into()));
    }
}
