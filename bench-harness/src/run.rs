//! The rounds: who runs when, what is checked, what is collected.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::{Broker, Proxy};
use crate::counts::Reader;
use crate::explained::Explained;
use crate::fault::Fault;
use crate::groups::{self, Plan};
use crate::machine::{self, Cores, cpu_of};
use crate::peer::{self, FLOOR, Job, Peer, Phase, REFERENCE, Step};
use crate::published::Floors;
use crate::report::Report;
use crate::running::Running;
use crate::sample::{Sample, Take};
use crate::scenario::{Mode, Place, Scenario};
use crate::sums::sum;
use crate::workload::{POOL_RECORDS, Workload};
use crate::{BrokerKind, Common};

/// How long a new topic may be unknown to its broker.
const TOPIC_SECONDS_MAX: Duration = Duration::from_secs(60);
/// How long a reader that waits is left alone before its CPU time counts: connections, metadata, what a JVM compiles.
const SETTLE_SECONDS: u32 = 10;

/// The sink keeps what is sent to this topic; topics `canned-N` are made of it.
const CANNED: &str = "canned";

/// What all rounds of a plan share.
struct Race<'a> {
    args: &'a Common,
    plan: &'a Plan,
    root: &'a Path,
    ottla: &'a Path,
    broker: &'a Broker,
    cores: Option<Cores>,
    /// Where the broker is now; it starts on its own core.
    placed: &'a Cell<Place>,
    reader: Reader,
    /// Peers with their programs; guests stand behind the others.
    peers: Vec<(&'static Peer, &'a Path)>,
    /// Whose records are read.
    source: &'static Peer,
    /// What readers of so many records must come to, as far as it was needed.
    sums: &'a RefCell<Sums>,
}

type Sums = Vec<((Workload, u64), u64)>;

/// A broker that runs.
struct Started {
    broker: Broker,
    nodes: u32,
    /// It has compiled its code.
    warm: bool,
    placed: Cell<Place>,
}

/// Builds the peers, starts the brokers, runs every round of every plan. `keep` is called after every scenario of every
/// round. A single plan ends with its first fault; of several, a fault costs the scenario it came in.
pub fn run(args: &Common, plans: &[Plan], keep: &dyn Fn(&Report) -> Result<(), Fault>) -> Result<Report, Fault> {
    let root = root()?;
    let say = |text: &str| say(args, text);
    let mut sources = Vec::new();
    let mut built: Vec<(&'static Peer, PathBuf)> = Vec::new();
    for plan in plans {
        sources.push(source(&plan.peers, args.read_from.as_deref())?);
        for peer in plan.all_peers() {
            if built.iter().all(|(known, _)| *known != peer) {
                say(&format!("building {}", peer.name));
                built.push((peer, peer.build(&root, args.ottla.as_deref())?));
            }
        }
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
    let reader = Reader::find();
    let mut report = Report { accepted: args.accept.clone(), explained: Explained::read(&root)?, ..Report::default() };
    report.facts = facts(args, plans, &sources, cores, reader);
    if plans.iter().flat_map(Plan::all_peers).any(|peer| peer.name == FLOOR) {
        let runs = root.join("bench-harness/runs");
        let slopes = plans.iter().all(|plan| plan.messages.len() == 2);
        report.floors = Floors::read(&runs, &report.facts["machine"]["processor"], slopes)?;
    }
    let (sums, mut started, mut brokers) = (RefCell::default(), None::<Started>, Vec::new());
    for (number, (plan, source)) in (1..).zip(plans.iter().zip(sources)) {
        let begun = Instant::now();
        if plans.len() > 1 {
            let left = groups::seconds(&plans[number - 1..]).div_ceil(60);
            say(&format!("group {number} of {}, {}: about {left} minutes are left", plans.len(), plan.name));
        }
        report.skip(plan, |skipped| say(&skipped.text()));
        for scenarios in by_cluster(&plan.scenarios, args.bootstrap.is_some()) {
            let mut failed: Vec<&str> = Vec::new();
            for round in 0..plan.runs {
                for scenario in scenarios.iter().copied() {
                    if failed.contains(&scenario.name) {
                        continue;
                    }
                    let done = (|| {
                        let ready = match started.take() {
                            Some(ready) if ready.serves(scenario, args) => ready,
                            ended => {
                                drop(ended);
                                let broker = start(args, &root, &ottla, scenario, broker_core)?;
                                say(&format!("{} at {}", broker.name, broker.bootstrap));
                                if !brokers.contains(&broker.name) {
                                    brokers.push(broker.name.clone());
                                    report.facts["broker"] = json!(brokers.join("; "));
                                }
                                let placed = Cell::new(Place::Apart);
                                Started { broker, nodes: scenario.nodes, warm: false, placed }
                            }
                        };
                        let programs = plan.all_peers().filter_map(|peer| built.iter().find(|(one, _)| *one == peer));
                        let race = Race {
                            args,
                            plan,
                            root: &root,
                            ottla: &ottla,
                            broker: &ready.broker,
                            cores,
                            placed: &ready.placed,
                            reader,
                            peers: programs.map(|(peer, program)| (*peer, program.as_path())).collect(),
                            source,
                            sums: &sums,
                        };
                        if !ready.warm {
                            race.warm_up(&scenarios)?;
                        }
                        race.round(round, scenario, &mut report)?;
                        started = Some(Started { warm: true, ..ready });
                        Ok(())
                    })();
                    match done {
                        Ok(()) => {}
                        Err(fault) if plan.name.is_empty() => return Err(fault),
                        // The broker that was there is gone by now, with all that lay in it.
                        Err(fault) => {
                            say(&format!("{} failed: {}", scenario.name, fault.text()));
                            failed.push(scenario.name);
                            report.failed.push((scenario.name, round, fault.text().to_owned()));
                        }
                    }
                    report.facts["machine"]["load_after"] = json!(machine::load());
                    keep(&report)?;
                }
            }
        }
        if let Some(group) = report.facts["groups"].get_mut(number - 1) {
            group["seconds"] = json!(begun.elapsed().as_secs());
        }
    }
    report.facts["complete"] = json!(report.failed.is_empty());
    Ok(report)
}

/// What a report begins with; what is not known before the end is added as it comes.
fn facts(args: &Common, plans: &[Plan], sources: &[&'static Peer], cores: Option<Cores>, reader: Reader) -> Value {
    let mut machine = machine::facts();
    machine["load_before"] = json!(machine::load());
    machine["client_core"] = json!(cores.map(|cores| cores.client));
    machine["broker_core"] = json!(cores.map(|cores| cores.broker));
    let mut facts = json!({
        "machine": machine,
        "broker": "",
        "runs": if plans.len() == 1 { plans[0].runs } else { args.runs },
        "messages": plans.iter().map(|plan| &plan.messages).max_by_key(|counts| counts.iter().max()),
        "read_from": sources.first().map(|source| source.name),
        "counts_checked_by": reader.name(),
        "complete": false,
    });
    let of_group = |plan: &Plan| {
        json!({
            "group": plan.name,
            "scenarios": plan.scenarios.iter().map(|scenario| scenario.name).collect::<Vec<_>>(),
            "peers": plan.peers.iter().map(|peer| peer.name).collect::<Vec<_>>(),
            "once": plan.guests.iter().map(|peer| peer.name).collect::<Vec<_>>(),
            "messages": plan.messages,
            "runs": plan.runs,
        })
    };
    if plans.iter().any(|plan| !plan.name.is_empty()) {
        facts["groups"] = plans.iter().map(of_group).collect();
    }
    facts
}

impl Started {
    /// Brokers that are given stand for all but the sink.
    fn serves(&self, scenario: &Scenario, args: &Common) -> bool {
        self.nodes == scenario.nodes || (args.bootstrap.is_some() && self.nodes > 0 && scenario.nodes > 0)
    }
}

fn start(args: &Common, root: &Path, ottla: &Path, scenario: &Scenario, core: Option<usize>) -> Result<Broker, Fault> {
    match (&args.bootstrap, args.broker) {
        _ if scenario.nodes == 0 => Broker::sink(&peer::own_program(root, "sink")?, core),
        (Some(bootstrap), _) => Ok(Broker::given(bootstrap, &args.broker_pid)),
        (None, BrokerKind::Kafka) => Broker::kafka(root, scenario.nodes, core),
        (None, BrokerKind::Embedded) => Broker::embedded(ottla, core),
    }
}

/// One cluster runs at a time: the scenarios of each, in the order of their first ones. Brokers that are given stand for all
/// but the sink.
fn by_cluster(scenarios: &[&'static Scenario], given: bool) -> Vec<Vec<&'static Scenario>> {
    let mut clusters: Vec<Vec<&'static Scenario>> = Vec::new();
    for scenario in scenarios.iter().copied() {
        match clusters.iter_mut().find(|known| {
            let (one, other) = (known[0].nodes, scenario.nodes);
            one == other || (given && one > 0 && other > 0)
        }) {
            Some(known) => known.push(scenario),
            None => clusters.push(vec![scenario]),
        }
    }
    clusters
}

/// Whose topic all consumers read.
fn source(peers: &[&'static Peer], asked: Option<&str>) -> Result<&'static Peer, Fault> {
    let mut writers = peers.iter().copied().filter(|peer| peer.is_client());
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

fn say(args: &Common, text: &str) {
    if !args.quiet {
        eprintln!("bench-harness: {text}");
    }
}

impl Race<'_> {
    /// A fresh broker compiles its code while it serves: that is not what is measured.
    fn warm_up(&self, scenarios: &[&'static Scenario]) -> Result<(), Fault> {
        if self.broker.sink {
            return self.can(scenarios);
        }
        let sends = |scenario: &&&Scenario| !matches!(scenario.mode, Mode::Idle(_)) && self.args.warm_up > 0;
        let Some(scenario) = scenarios.iter().find(sends) else { return Ok(()) };
        say(self.args, &format!("warming up with {} records", self.args.warm_up));
        let Some(&(peer, program)) = self.peers.iter().find(|(peer, _)| peer.is_client()) else { return Ok(()) };
        let (topic, scenario) = (format!("warm-{}", std::process::id()), &scenario.plain());
        self.create(scenario, &topic)?;
        let messages = self.args.warm_up;
        let job = Job { bootstrap: &self.broker.bootstrap, topic: &topic, messages, seconds: None, scenario };
        for phase in [Phase::Produce, Phase::Consume] {
            if let Some(step) = peer.steps.iter().find(|step| step.phase == phase) {
                self.take(peer, program, step, job)?;
            }
        }
        self.delete(scenario, &topic)
    }

    /// Sends the segment that the sink replays.
    fn can(&self, scenarios: &[&'static Scenario]) -> Result<(), Fault> {
        let reads = |scenario: &&&Scenario| scenario.phases().contains(&Phase::Consume);
        let Some(scenario) = scenarios.iter().find(reads) else { return Ok(()) };
        say(self.args, &format!("{} makes the segment that is replayed", self.source.name));
        let (writer, write) = self.writer()?;
        let (bootstrap, topic) = (&self.broker.bootstrap, CANNED);
        self.take(
            writer.0,
            writer.1,
            write,
            Job { bootstrap, topic, messages: POOL_RECORDS, seconds: None, scenario },
        )?;
        self.check_count(topic, scenario, POOL_RECORDS..=POOL_RECORDS)
    }

    /// Every peer sends, the counts are checked, every peer reads.
    fn round(&self, round: u32, scenario: &'static Scenario, report: &mut Report) -> Result<(), Fault> {
        self.place(scenario.place)?;
        let core = self.cores.map(|cores| cores.broker);
        let proxy = (scenario.rtt_ms > 0).then(|| self.broker.proxy(self.ottla, scenario.rtt_ms, core)).transpose()?;
        // The order turns, so that nobody always comes first.
        let mut order = self.peers.clone();
        let guests = order.split_off(self.plan.peers.len());
        let turn = round as usize % order.len();
        order.rotate_left(turn);
        if round == 0 {
            order.extend(guests);
        }
        let mut kept = Vec::new();
        for phase in scenario.phases().iter().copied() {
            // Variants take turns too: one of each peer after the other.
            let steps_most = order.iter().map(|(peer, _)| peer.steps.len()).max().unwrap_or(0);
            for place in 0..steps_most {
                for (peer, program) in order.iter().copied() {
                    let steps =
                        peer.steps.iter().filter(|step| step.phase == phase && (self.args.aside || !step.aside));
                    let Some(step) = steps.clone().nth(place).filter(|step| peer.takes_part(step, scenario)) else {
                        continue;
                    };
                    let run = Run { round, scenario, peer, program, step, place, proxy: proxy.as_ref() };
                    let (short, long, settings) = match scenario.mode {
                        Mode::Idle(seconds) => self.idle(&run, seconds)?,
                        Mode::CatchUp(rate) => self.catch_up(&run, rate)?,
                        _ => self.takes(&run, &mut kept)?,
                    };
                    let sample = Sample { round, scenario, peer, step, short, long, settings };
                    let (cpu, rate) = (sample.cpu_us(), sample.messages_per_s());
                    let unit = if matches!(scenario.mode, Mode::Idle(_)) { "second" } else { "record" };
                    say(
                        self.args,
                        &format!(
                            "round {} of {}: {} {phase} {} {}: {cpu:.3} us CPU a {unit}, {rate:.0} {unit}s/s",
                            round + 1,
                            self.plan.runs,
                            scenario.name,
                            peer.name,
                            step.variant,
                        ),
                    );
                    report.samples.push(sample);
                }
            }
        }
        kept.iter().try_for_each(|topic| self.delete(scenario, topic))
    }

    /// A short and a long run, or a plain one.
    fn takes(&self, run: &Run<'_>, kept: &mut Vec<String>) -> Result<(Option<Take>, Take, Value), Fault> {
        let Run { scenario, peer, program, step, .. } = *run;
        let writes = step.phase == Phase::Produce && peer.has_broker();
        let mut takes = Vec::new();
        for (messages, seconds) in scenario.lengths(&self.plan.messages) {
            let topic =
                if step.phase == Phase::Produce { run.topic(messages) } else { run.source(self.source, messages) };
            if writes {
                self.create(scenario, &topic)?;
            }
            let bootstrap = run.proxy.map_or(&self.broker.bootstrap, |proxy| &proxy.address);
            let proxy_before = run.proxy.and_then(|proxy| cpu_of(proxy.pid));
            let job = Job { bootstrap, topic: &topic, messages, seconds, scenario };
            let (mut take, settings) = self.take(peer, program, step, job)?;
            let proxy_after = run.proxy.and_then(|proxy| cpu_of(proxy.pid));
            take.proxy_cpu_seconds =
                proxy_after.zip(proxy_before).map(|(after, before)| after.saturating_sub(before).as_secs_f64());
            takes.push((take, settings));
            if writes {
                self.check_count(&topic, scenario, take.messages..=take.messages)?;
                if run.proxy.is_some() {
                    self.reader.check_order(&self.broker.bootstrap, &topic, messages)?;
                }
                if peer.name == self.source.name && run.place == 0 && scenario.phases().contains(&Phase::Consume) {
                    kept.push(topic);
                } else {
                    // The broker's memory is what holds it.
                    self.delete(scenario, &topic)?;
                }
            }
        }
        pair(takes)
    }

    /// A reader of a topic that is full while somebody writes on, until it has caught up: a short and a long backlog.
    fn catch_up(&self, run: &Run<'_>, rate: u32) -> Result<(Option<Take>, Take, Value), Fault> {
        let Run { scenario, peer, program, step, .. } = *run;
        let ((writer, writes), write) = self.writer()?;
        let (plain, limit) = (scenario.plain(), u64::from(rate) * self.args.timeout_seconds);
        let paced = Scenario { mode: Mode::Paced(rate), linger_ms: 5, ..plain };
        let mut takes = Vec::new();
        for (messages, seconds) in scenario.lengths(&self.plan.messages) {
            let topic = run.topic(messages);
            self.create(scenario, &topic)?;
            let job = Job { bootstrap: &self.broker.bootstrap, topic: &topic, messages, seconds, scenario };
            self.take(writer, writes, write, Job { scenario: &plain, ..job })?;
            self.check_count(&topic, scenario, messages..=messages)?;
            // It ends when this is over; where the broker is, so that it costs no reader anything.
            let mut beside = writer.command(writes, write, Job { messages: limit, scenario: &paced, ..job });
            let core = self.cores.map(|cores| cores.broker);
            let mut beside = Running::start(core, &mut beside, &format!("{} beside {topic}", writer.name))?;
            let until = Instant::now() + TOPIC_SECONDS_MAX;
            while self.reader.count(self.root, job.bootstrap, &topic, scenario.partitions)? == messages {
                beside.cpu()?;
                if Instant::now() > until {
                    return Err(Fault::Failed(format!("{} writes nothing beside {topic}", writer.name)));
                }
            }
            takes.push(self.take(peer, program, step, job)?);
            beside.cpu()?;
            drop(beside);
            let read = takes.last().map_or(0, |(take, _)| take.messages);
            self.check_count(&topic, scenario, read..=u64::MAX)?;
            self.delete(scenario, &topic)?;
        }
        pair(takes)
    }

    /// A reader of a topic without records, by its CPU time so far after [`SETTLE_SECONDS`] and after so many seconds
    /// more; seconds stand in for records. Then comes one record, and that it is read shows that the reader was there.
    fn idle(&self, run: &Run<'_>, seconds: u32) -> Result<(Option<Take>, Take, Value), Fault> {
        let Run { scenario, peer, program, step, .. } = *run;
        let topic = &run.topic(1);
        self.create(scenario, topic)?;
        let job = Job { bootstrap: &self.broker.bootstrap, topic, messages: 1, seconds: None, scenario };
        let what = format!("{} {} {topic}", peer.name, step.phase);
        let started = Instant::now();
        let mut reader = Running::start(self.client_core(scenario), &mut peer.command(program, step, job), &what)?;
        let mut points = Vec::new();
        for at in [SETTLE_SECONDS, SETTLE_SECONDS + seconds] {
            // What is measured is that time passes.
            sleep(Duration::from_secs(at.into()).saturating_sub(started.elapsed()));
            points.push((u64::from(at), reader.cpu()?, started.elapsed(), self.broker.cpu()));
        }
        let (writer, write) = self.writer()?;
        self.take(writer.0, writer.1, write, job)?;
        let said = reader.output(Duration::from_secs(self.args.timeout_seconds))?.0;
        let (take, settings) = self.read(peer, step, job, &what, &said, None)?;
        self.delete(scenario, topic)?;
        let broker_before = points[0].3;
        let mut takes = points.into_iter().map(|(at, cpu, since, broker)| {
            let broker = broker.zip(broker_before).map(|(now, before)| now.saturating_sub(before));
            take.at(at, cpu, since, broker)
        });
        let short = takes.next();
        takes.next().map(|long| (short, long, settings)).ok_or_else(|| Fault::Failed(format!("{what}: no figures")))
    }

    /// Somebody who writes what others read.
    fn writer(&self) -> Result<((&'static Peer, &Path), &'static Step), Fault> {
        let writer = self.peers.iter().copied().find(|(peer, _)| peer.name == self.source.name);
        let step = self.source.steps.iter().find(|step| step.phase == Phase::Produce);
        writer.zip(step).ok_or_else(|| Fault::Usage(format!("{} does not write", self.source.name)))
    }

    /// Where clients run.
    fn client_core(&self, scenario: &Scenario) -> Option<usize> {
        let cores = self.cores?;
        match scenario.place {
            Place::Apart => Some(cores.client),
            Place::OneCore => Some(cores.broker),
            Place::Anywhere => None,
        }
    }

    /// Moves the broker, where it is ours to move.
    fn place(&self, place: Place) -> Result<(), Fault> {
        let core = |place| if place == Place::Anywhere { None } else { self.cores.map(|cores| cores.broker) };
        let (from, to) = (core(self.placed.replace(place)), core(place));
        if from == to {
            return Ok(());
        }
        self.broker.pids.iter().try_for_each(|pid| machine::move_to(to, *pid))
    }

    fn check_count(&self, topic: &str, scenario: &Scenario, sent: RangeInclusive<u64>) -> Result<(), Fault> {
        let counts = scenario
            .topics(topic)
            .into_iter()
            .map(|topic| self.reader.count(self.root, &self.broker.bootstrap, &topic, scenario.partitions));
        let found = counts.sum::<Result<u64, Fault>>()?;
        if sent.contains(&found) {
            return Ok(());
        }
        let (name, sent) = (self.reader.name(), sent.start());
        Err(Fault::Check(format!("{topic} holds {found} records by {name}, {sent} were sent or read")))
    }

    /// A reader must have read what was sent: the sum says so, or the peer itself where it compared every record.
    fn check_sum(&self, take: &Take, step: &Step, said: &Value, scenario: &Scenario) -> Result<(), Fault> {
        let (workload, mode) = (scenario.workload, scenario.mode);
        // Which records came while it caught up depends on when it did.
        if matches!(mode, Mode::CatchUp(_)) || (step.phase == Phase::Produce && mode != Mode::Mixed) {
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

    /// Creates a scenario's topics, and waits until they are there. A sink has every topic.
    fn create(&self, scenario: &Scenario, topic: &str) -> Result<(), Fault> {
        if self.broker.sink {
            return Ok(());
        }
        let (partitions, replicas) = (scenario.partitions.to_string(), scenario.replicas.to_string());
        let needed = format!("min.insync.replicas={}", scenario.replicas.min(2));
        scenario.topics(topic).iter().try_for_each(|topic| {
            self.topics(&[
                "create",
                topic,
                "--partitions",
                &partitions,
                "--replication-factor",
                &replicas,
                "--topic-config",
                &needed,
            ])?;
            self.until_empty_topic(topic, scenario.partitions)
        })
    }

    fn delete(&self, scenario: &Scenario, topic: &str) -> Result<(), Fault> {
        if self.broker.sink {
            return Ok(());
        }
        scenario.topics(topic).iter().try_for_each(|topic| self.topics(&["delete", topic]))
    }

    /// Runs `ottla topics`.
    fn topics(&self, args: &[&str]) -> Result<(), Fault> {
        let mut command = Command::new(self.ottla);
        command.arg("topics").args(args).args(["-b", &self.broker.bootstrap]);
        peer::without_settings(&mut command);
        let said = command.stdin(Stdio::null()).output().map_err(Fault::failed("ottla topics"))?;
        if said.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&said.stderr);
        Err(Fault::Failed(format!("ottla topics {}: {}", args.join(" "), words.trim())))
    }

    /// A broker that says a topic is created may not know of it for a moment.
    fn until_empty_topic(&self, topic: &str, partitions: u32) -> Result<(), Fault> {
        let until = Instant::now() + TOPIC_SECONDS_MAX;
        loop {
            match self.reader.count(self.root, &self.broker.bootstrap, topic, partitions) {
                Ok(0) => return Ok(()),
                Ok(found) => return Err(Fault::Check(format!("{topic} holds {found} records and is new"))),
                Err(fault) if Instant::now() > until => return Err(fault),
                Err(_) => sleep(Duration::from_millis(50)), // between two questions, not instead of one
            }
        }
    }

    /// Runs one step of one peer to its end: what it cost, and its settings.
    fn take(&self, peer: &Peer, program: &Path, step: &Step, job: Job<'_>) -> Result<(Take, Value), Fault> {
        let what = format!("{} {} {}", peer.name, step.phase, job.topic);
        let broker_before = self.broker.cpu();
        let limit = Duration::from_secs(self.args.timeout_seconds);
        let mut command = peer.command(program, step, job);
        let (said, cpu) = Running::start(self.client_core(job.scenario), &mut command, &what)?.output(limit)?;
        let broker_cpu = self.broker.cpu().zip(broker_before).map(|(after, before)| after.saturating_sub(before));
        let (mut take, settings) =
            self.read(peer, step, job, &what, &said, broker_cpu.filter(|_| peer.has_broker()))?;
        take.user_system_seconds = cpu;
        Ok((take, settings))
    }

    /// What a program said, checked.
    fn read(
        &self,
        peer: &Peer,
        step: &Step,
        job: Job<'_>,
        what: &str,
        said: &str,
        broker_cpu: Option<Duration>,
    ) -> Result<(Take, Value), Fault> {
        let said: Value = serde_json::from_str(said).map_err(Fault::failed(format!("{what}: its report")))?;
        let take = Take::read(&job, step.phase, &said, broker_cpu).and_then(|take| {
            if peer.is_client() || take.checksum.is_some() {
                self.check_sum(&take, step, &said, job.scenario)?;
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

/// The runs of one step: perhaps a short one, and the last with its settings.
fn pair(mut takes: Vec<(Take, Value)>) -> Result<(Option<Take>, Take, Value), Fault> {
    let (long, settings) = takes.pop().ok_or_else(|| Fault::Usage("--messages: no number".into()))?;
    Ok((takes.pop().map(|(short, _)| short), long, settings))
}

/// One step of one peer in one round of one scenario.
struct Run<'a> {
    round: u32,
    scenario: &'static Scenario,
    peer: &'static Peer,
    program: &'a Path,
    step: &'static Step,
    /// Among the steps of its phase.
    place: usize,
    proxy: Option<&'a Proxy>,
}

impl Run<'_> {
    /// Of its own.
    fn topic(&self, messages: u64) -> String {
        self.named(self.peer, self.place, messages)
    }

    /// What the one wrote that all read of.
    fn source(&self, source: &Peer, messages: u64) -> String {
        match self.scenario.mode {
            Mode::Sink(_) => format!("{CANNED}-{messages}"),
            _ => self.named(source, 0, messages),
        }
    }

    fn named(&self, peer: &Peer, place: usize, messages: u64) -> String {
        let (scenario, round, process) = (self.scenario.name, self.round, std::process::id());
        format!("{scenario}-{}-{place}-{process}-{round}-{messages}", peer.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn all_read_what_franz_go_wrote_unless_told_otherwise() {
        let peers = peer::named(&["ottla".to_owned(), "franz-go".to_owned()]).unwrap();
        assert_eq!(source(&peers, None).unwrap().name, "franz-go");
        assert_eq!(source(&peers, Some("ottla")).unwrap().name, "ottla");
        assert_eq!(source(&peers[..1], None).unwrap().name, "ottla");
        assert!(matches!(source(&peers, Some("java")), Err(Fault::Usage(_))));
    }

    #[test]
    fn one_cluster_after_the_other_unless_they_are_given() {
        let asked = scenario::named(&["brokers-3", "telemetry", "rtt-20"].map(str::to_owned)).unwrap();
        let names = |given| {
            let clusters = by_cluster(&asked, given);
            clusters.iter().map(|one| one.iter().map(|one| one.name).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), [vec!["brokers-3"], vec!["telemetry", "rtt-20"]]);
        assert_eq!(names(true), [["brokers-3", "telemetry", "rtt-20"]]);
    }
}
