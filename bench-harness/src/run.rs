//! The rounds: who runs when, what is checked, what is collected.

use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::counts::Reader;
use crate::fault::Fault;
use crate::machine::{self, Cores, spawn_on};
use crate::peer::{self, Job, Peer, Phase, REFERENCE, Step};
use crate::report::Report;
use crate::sample::{Sample, Take};
use crate::scenario::{self, Mode, Scenario};
use crate::sums::sum;
use crate::workload::Workload;
use crate::{BrokerKind, RunArgs};

/// How long a new topic may be unknown to its broker.
const TOPIC_SECONDS_MAX: Duration = Duration::from_secs(60);

/// What all rounds share.
struct Race<'a> {
    args: &'a RunArgs,
    root: PathBuf,
    ottla: PathBuf,
    broker: Broker,
    cores: Option<Cores>,
    reader: Reader,
    /// Peers with their programs.
    peers: Vec<(&'static Peer, PathBuf)>,
    /// Whose records are read.
    source: &'static Peer,
    /// What readers of so many records must come to, as far as it was needed.
    sums: RefCell<Vec<((Workload, u64), u64)>>,
}

/// Builds the peers, starts the broker, runs every round.
pub fn run(args: &RunArgs) -> Result<Report, Fault> {
    let scenarios = scenario::named(&args.scenario)?;
    let peers = peer::named(&args.peers)?;
    let source = source(&peers, args.read_from.as_deref())?;
    let root = root()?;
    let say = |text: &str| say(args, text);
    let mut built = Vec::new();
    for peer in peers {
        say(&format!("building {}", peer.name));
        built.push((peer, peer.build(&root, args.ottla.as_deref())?));
    }
    // Topics are made and removed with it even where it does not take part.
    let ottla = match built.iter().find(|(peer, _)| peer.name == "ottla") {
        Some((_, program)) => program.clone(),
        None => peer::named(&["ottla".to_owned()])?[0].build(&root, args.ottla.as_deref())?,
    };
    let cores = if args.no_pin { None } else { machine::cores()? };
    if cores.is_none() && !args.no_pin {
        say("only one core: client and broker share it");
    }
    let broker_core = cores.map(|cores| cores.broker);
    let broker = match (&args.bootstrap, args.broker) {
        (Some(bootstrap), _) => Broker::given(bootstrap, &args.broker_pid),
        (None, BrokerKind::Kafka) => Broker::kafka(&root, broker_core)?,
        (None, BrokerKind::Embedded) => Broker::embedded(&ottla, broker_core)?,
    };
    say(&format!("{} at {}", broker.name, broker.bootstrap));
    let (reader, sums) = (Reader::find(), RefCell::default());
    let race = Race { args, root, ottla, broker, cores, reader, peers: built, source, sums };
    let load_before = machine::load();
    race.warm_up(scenarios.first().copied())?;
    let mut report = Report { accepted: args.accept.clone(), ..Report::default() };
    for round in 0..args.runs {
        for scenario in &scenarios {
            race.round(round, scenario, &mut report)?;
        }
    }
    let mut machine = machine::facts();
    machine["load_before"] = json!(load_before);
    machine["load_after"] = json!(machine::load());
    machine["client_core"] = json!(cores.map(|cores| cores.client));
    machine["broker_core"] = json!(cores.map(|cores| cores.broker));
    report.facts = json!({
        "machine": machine,
        "broker": race.broker.name,
        "runs": args.runs,
        "messages": args.messages,
        "read_from": race.source.name,
        "counts_checked_by": race.reader.name(),
    });
    Ok(report)
}

/// Whose topic all consumers read.
fn source(peers: &[&'static Peer], asked: Option<&str>) -> Result<&'static Peer, Fault> {
    let mut writers = peers.iter().copied().filter(|peer| peer.has_broker());
    let by_name = |name: &str| writers.clone().find(|peer| peer.name == name);
    match asked {
        Some(name) => by_name(name).ok_or_else(|| Fault::Usage(format!("--read-from {name}: no writer among --peers"))),
        None => by_name(REFERENCE)
            .or_else(|| writers.next())
            .ok_or_else(|| Fault::Usage("--peers names nobody who writes to a broker".to_owned())),
    }
}

/// The repository: where `ci/kafka` is, from here or from our own program upwards.
fn root() -> Result<PathBuf, Fault> {
    let starts = [std::env::current_dir(), std::env::current_exe()];
    let found = starts.iter().flatten().flat_map(|start| start.ancestors()).find(|dir| dir.join("ci/kafka").is_file());
    found
        .map(Path::to_path_buf)
        .ok_or_else(|| Fault::Failed("run it inside the repository: ci/kafka is not found".into()))
}

fn say(args: &RunArgs, text: &str) {
    if !args.quiet {
        eprintln!("bench-harness: {text}");
    }
}

impl Race<'_> {
    /// A fresh broker compiles its code while it serves: that is not what is measured.
    fn warm_up(&self, scenario: Option<&Scenario>) -> Result<(), Fault> {
        let Some(scenario) = scenario.filter(|_| self.args.warm_up > 0) else { return Ok(()) };
        say(self.args, &format!("warming up with {} records", self.args.warm_up));
        let Some((peer, program)) = self.peers.iter().find(|(peer, _)| peer.has_broker()) else { return Ok(()) };
        let topic = format!("warm-{}", std::process::id());
        self.topic("create", &topic, Some(scenario.partitions))?;
        let waits = scenario.mode != Mode::Full;
        let messages = if waits { scenario.counts(&[self.args.warm_up])[0] } else { self.args.warm_up };
        let job = Job { bootstrap: &self.broker.bootstrap, topic: &topic, messages, scenario };
        for phase in [Phase::Produce, Phase::Consume] {
            if let Some(step) = peer.steps.iter().find(|step| step.phase == phase) {
                self.take(peer, program, step, job)?;
            }
        }
        self.topic("delete", &topic, None)
    }

    /// Every peer sends, the counts are checked, every peer reads.
    fn round(&self, round: u32, scenario: &'static Scenario, report: &mut Report) -> Result<(), Fault> {
        // The order turns, so that nobody always comes first.
        let mut order: Vec<_> = self.peers.iter().collect();
        let turn = round as usize % order.len();
        order.rotate_left(turn);
        let topic_of = |peer: &Peer, place: usize, messages: u64| {
            format!("{}-{}-{place}-{}-{round}-{messages}", scenario.name, peer.name, std::process::id())
        };
        let mut kept = Vec::new();
        let phases: &[Phase] =
            if scenario.mode == Mode::Full { &[Phase::Produce, Phase::Consume] } else { &[Phase::Produce] };
        for phase in phases.iter().copied() {
            // Variants take turns too: one of each peer after the other.
            let steps_most = order.iter().map(|(peer, _)| peer.steps.len()).max().unwrap_or(0);
            for place in 0..steps_most {
                for (peer, program) in &order {
                    let steps =
                        peer.steps.iter().filter(|step| step.phase == phase && (self.args.aside || !step.aside));
                    let Some(step) = steps.clone().nth(place) else { continue };
                    // It sends nothing, so there is nothing to wait for.
                    if scenario.mode != Mode::Full && !peer.has_broker() {
                        continue;
                    }
                    let mut takes = Vec::new();
                    for messages in scenario.counts(&self.args.messages) {
                        let writes = phase == Phase::Produce && peer.has_broker();
                        let topic = if phase == Phase::Produce {
                            topic_of(peer, place, messages)
                        } else {
                            topic_of(self.source, 0, messages)
                        };
                        if writes {
                            self.topic("create", &topic, Some(scenario.partitions))?;
                        }
                        let job = Job { bootstrap: &self.broker.bootstrap, topic: &topic, messages, scenario };
                        takes.push(self.take(peer, program, step, job)?);
                        if writes {
                            self.check_count(&topic, scenario, messages)?;
                            if peer.name == self.source.name && place == 0 {
                                kept.push(topic);
                            } else {
                                // The broker's memory is what holds it.
                                self.topic("delete", &topic, None)?;
                            }
                        }
                    }
                    let Some((long, settings)) = takes.pop() else { continue };
                    let short = takes.pop().map(|(short, _)| short);
                    let sample = Sample { round, scenario, peer, step, short, long, settings };
                    let (cpu, rate) = (sample.cpu_us(), sample.messages_per_s());
                    say(
                        self.args,
                        &format!(
                            "round {} of {}: {} {phase} {} {}: {cpu:.3} us CPU a record, {rate:.0} records/s",
                            round + 1,
                            self.args.runs,
                            scenario.name,
                            peer.name,
                            step.variant,
                        ),
                    );
                    report.samples.push(sample);
                }
            }
        }
        kept.iter().try_for_each(|topic| self.topic("delete", topic, None))
    }

    fn check_count(&self, topic: &str, scenario: &Scenario, sent: u64) -> Result<(), Fault> {
        let found = self.reader.count(&self.root, &self.broker.bootstrap, topic, scenario.partitions)?;
        if found == sent {
            return Ok(());
        }
        Err(Fault::Check(format!("{topic} holds {found} records by {}, {sent} were sent", self.reader.name())))
    }

    /// A reader must have read what was sent: the sum says so, or the peer itself where it compared every record.
    fn check_sum(&self, take: &Take, step: &Step, said: &Value, workload: Workload) -> Result<(), Fault> {
        if step.phase == Phase::Produce {
            return Ok(());
        }
        let Some(read) = take.checksum else {
            let compared = said["phases"][0]["verified"] == true;
            return if compared { Ok(()) } else { Err(Fault::Check("it made no sum of what it read".into())) };
        };
        let asked = (workload, take.messages);
        let known = self.sums.borrow().iter().find(|(of, _)| *of == asked).map(|(_, sum)| *sum);
        let expected = known.unwrap_or_else(|| {
            let expected = sum(workload, take.messages);
            self.sums.borrow_mut().push((asked, expected));
            expected
        });
        if read == expected {
            return Ok(());
        }
        Err(Fault::Check(format!("read the sum {read:016x}, {expected:016x} was sent")))
    }

    /// Creates or deletes a topic.
    fn topic(&self, verb: &str, topic: &str, partitions: Option<u32>) -> Result<(), Fault> {
        let mut command = Command::new(&self.ottla);
        command.args(["topics", verb, topic, "-b", &self.broker.bootstrap]);
        if let Some(partitions) = partitions {
            command.args(["--partitions", &partitions.to_string()]);
        }
        peer::without_settings(&mut command);
        let said = command.stdin(Stdio::null()).output().map_err(Fault::failed("ottla topics"))?;
        if said.status.success() {
            return partitions.map_or(Ok(()), |partitions| self.until_empty_topic(topic, partitions));
        }
        Err(Fault::Failed(format!("ottla topics {verb} {topic}: {}", String::from_utf8_lossy(&said.stderr).trim())))
    }

    /// A broker that says a topic is created may not know of it for a moment.
    fn until_empty_topic(&self, topic: &str, partitions: u32) -> Result<(), Fault> {
        let until = Instant::now() + TOPIC_SECONDS_MAX;
        loop {
            match self.reader.count(&self.root, &self.broker.bootstrap, topic, partitions) {
                Ok(0) => return Ok(()),
                Ok(found) => return Err(Fault::Check(format!("{topic} holds {found} records and is new"))),
                Err(fault) if Instant::now() > until => return Err(fault),
                Err(_) => std::thread::sleep(Duration::from_millis(50)), // between two questions, not instead of one
            }
        }
    }

    /// Runs one step of one peer to its end: what it cost, and its settings.
    fn take(&self, peer: &Peer, program: &Path, step: &Step, job: Job<'_>) -> Result<(Take, Value), Fault> {
        let mut command = peer.command(program, step, job);
        let what = format!("{} {} {}", peer.name, step.phase, job.topic);
        let broker_before = self.broker.cpu();
        let limit = Duration::from_secs(self.args.timeout_seconds);
        let core = self.cores.filter(|_| !job.scenario.shared_cores).map(|cores| cores.client);
        let said = output_within(limit, core, &mut command, &what)?;
        let broker_cpu = self.broker.cpu().zip(broker_before).map(|(after, before)| after.saturating_sub(before));
        let broker_cpu = broker_cpu.filter(|_| peer.has_broker());
        let said: Value = serde_json::from_str(&said).map_err(Fault::failed(format!("{what}: its report")))?;
        let take = Take::read(step.phase, job.messages, &said, broker_cpu).and_then(|take| {
            if peer.has_broker() {
                self.check_sum(&take, step, &said, job.scenario.workload)?;
            }
            Ok(take)
        });
        let take = take.map_err(|fault| match fault {
            Fault::Check(text) => Fault::Check(format!("{what}: {text}")),
            other => Fault::Failed(format!("{what}: {}", other.text())),
        })?;
        Ok((take, said["settings"].clone()))
    }
}

/// Standard output of a program that must end well and in time; it is stopped by its id when it does not.
fn output_within(limit: Duration, core: Option<usize>, command: &mut Command, what: &str) -> Result<String, Fault> {
    let mut child = spawn_on(core, command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let (tell, told) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.read_to_string(&mut text);
            // Nobody listens any more when the time was up.
            let _ = tell.send(read.map(|_| text));
        });
    }
    let text = told.recv_timeout(limit);
    if text.is_err() {
        // It has its pipe open still, so it has not ended.
        let _ = child.kill();
    }
    let status = child.wait().map_err(Fault::failed(what))?;
    let text = text
        .map_err(|_| Fault::Failed(format!("{what} did not end in {} s (--timeout-seconds)", limit.as_secs())))?
        .map_err(Fault::failed(what))?;
    match status.code() {
        Some(0) => Ok(text),
        Some(3) => Err(Fault::Check(format!("{what}: what was read is not what was sent: {}", text.trim()))),
        _ => Err(Fault::Failed(format!("{what} ended with {status}; what it said stands above"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_peer_that_hangs_is_stopped_and_named() {
        let fault =
            output_within(Duration::from_millis(50), None, &mut shell("exec sleep 1000"), "peer x").unwrap_err();
        assert_eq!(fault, Fault::Failed("peer x did not end in 0 s (--timeout-seconds)".into()));
    }

    #[test]
    fn exit_codes_keep_their_meaning() {
        let run = |script: &str| output_within(Duration::from_secs(60), None, &mut shell(script), "peer x");
        assert_eq!(run("echo good"), Ok("good\n".into()));
        assert!(matches!(run("echo {}; exit 3"), Err(Fault::Check(text)) if text.contains("peer x")));
        assert!(matches!(run("exit 1"), Err(Fault::Failed(_))));
    }

    #[test]
    fn all_read_what_franz_go_wrote_unless_told_otherwise() {
        let peers = peer::named(&["ottla".to_owned(), "franz-go".to_owned()]).unwrap();
        assert_eq!(source(&peers, None).unwrap().name, "franz-go");
        assert_eq!(source(&peers, Some("ottla")).unwrap().name, "ottla");
        assert_eq!(source(&peers[..1], None).unwrap().name, "ottla");
        assert!(matches!(source(&peers, Some("java")), Err(Fault::Usage(_))));
    }
}
