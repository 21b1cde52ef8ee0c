//! An engine, an embedded broker and a nemesis in one simulated world, and the oracle that reads the logs back.

#![allow(dead_code)] // each test binary uses a part

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use ottla::base::edge::take_edges;
use ottla::base::gate::Medium;
use ottla::base::rng::Rng;
use ottla::base::time::{Now, Time};
use ottla::batch::{Decompressor, RecordSet, Unpacked};
use ottla::config::EngineSettings;
use ottla::control;
use ottla::engine::{Engine, EngineClock, Seat, assemble};
use ottla::net::Resolver;
use ottla::ring::Wake;
use ottla::shard;
use ottla::testkit::broker::{Options, Reaction, Rule, SimBroker, TopicSpec};
use ottla::testkit::net::Party;
use ottla::testkit::sim::World;
use ottla::wire::{ApiKey, ErrorCode};

mod prompt;
pub mod scene;

use prompt::Prompt;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);

/// The seeds of a run: `OTTLA_SIM_SEED` replays one, `OTTLA_SIM_SEEDS` asks for another number of fixed ones, and
/// `OTTLA_SIM_FRESH` for so many that no run had before.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("OTTLA_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let mut seeds: Vec<u64> = (1..=number("OTTLA_SIM_SEEDS").unwrap_or(count)).collect();
            let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let mut fresh = Rng::new(since_1970.as_nanos() as u64);
            seeds.extend((0..number("OTTLA_SIM_FRESH").unwrap_or(0)).map(|_| fresh.next_u64() >> 16));
            println!("{} seeds, the last is {:?}", seeds.len(), seeds.last());
            seeds
        }
    }
}

/// Which kind of engine a seed has: every fourth a local one, whatever it plays.
pub fn kind_of(seed: u64) -> Kind {
    if seed / 8 % 4 == 3 { Kind::Local } else { Kind::Threads(2) }
}

/// Prints the line that replays a seed when its run panics.
pub struct Replay(pub u64, pub &'static str);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, test) = self;
            eprintln!("an engine of {:?}", kind_of(*seed));
            eprintln!("replay: OTTLA_SIM_SEED={seed} cargo test --features testkit --test {test} -- --nocapture");
        }
    }
}

/// How often something occurred, by name.
pub type Tally = BTreeMap<String, u64>;

/// Runs every seed, on as many threads as there are processors (a world stays on one), and adds up what they counted. The
/// first seed that fails ends the rest.
pub fn each_seed(seeds: &[u64], run: impl Fn(u64, &mut Tally) + Sync) -> Tally {
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Tally::new());
    let work = || {
        /// Nobody begins another seed when one has failed.
        struct Last<'a>(&'a AtomicUsize);
        impl Drop for Last<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(usize::MAX / 2, Ordering::Relaxed);
                }
            }
        }
        let _last = Last(&next);
        let mut mine = Tally::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            run(*seed, &mut mine);
        }
        let mut total = total.lock().unwrap();
        for (what, count) in mine {
            *total.entry(what).or_default() += count;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    total.into_inner().unwrap()
}

/// Who turns the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// So many, each with a thread of its own.
    Threads(usize),
    /// One, inside the thread of those who use it, as in a `LocalEngine`: its turns come between theirs, nothing lies between
    /// its lanes and them, and while they are stalled it is too.
    Local,
}

/// Tasks that share a thread with a shard.
type Tasks = Rc<RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>>;

/// World, broker and engine.
pub struct Bed {
    pub world: World,
    pub broker: SimBroker,
    pub engine: Engine,
    kind: Kind,
    /// Of a local engine: its party, and the tasks that are to begin there.
    local: Option<(Party, Tasks)>,
    nodes: i32,
    topics: Vec<(String, i32)>,
}

impl Bed {
    /// `brokers` nodes with `topics` (three replicas where there are three nodes), an engine of `shards` shards.
    pub fn new(world: World, brokers: usize, shards: usize, topics: &[(&str, i32)], settings: EngineSettings) -> Self {
        Self::bootstrapped_by(world, brokers, shards, topics, settings, &[])
    }

    /// The same with other bootstrap servers than the broker's nodes, unless there are none.
    pub fn bootstrapped_by(
        world: World,
        brokers: usize,
        shards: usize,
        topics: &[(&str, i32)],
        settings: EngineSettings,
        servers: &[String],
    ) -> Self {
        Self::of_kind(world, brokers, Kind::Threads(shards), topics, settings, servers)
    }

    /// The same with shards of either kind.
    pub fn of_kind(
        mut world: World,
        brokers: usize,
        kind: Kind,
        topics: &[(&str, i32)],
        settings: EngineSettings,
        servers: &[String],
    ) -> Self {
        let seed = world.schedule().seed();
        // What an earlier world of this thread went through is not ours.
        let _ = take_edges();
        let party = world.party("broker");
        let specs =
            topics.iter().map(|(name, partitions)| TopicSpec::new(*name, *partitions).replication(brokers as i16));
        let options = Options { brokers, topics: specs.collect(), seed, ..Options::default() };
        let (broker, mut driver) = SimBroker::new(world.net(), party, options).unwrap();
        world.spawn(party, move |now: Now| driver.turn(now));
        let control = world.party("control");
        let shards = if let Kind::Threads(shards) = kind { shards } else { 1 };
        let parties: Vec<Party> = (0..shards).map(|index| world.party(&format!("shard {index}"))).collect();
        let handles = world.party("handles");
        let seat = |party: Party| {
            let waker = world.sim_waker(party);
            let direct = kind == Kind::Local && party != control;
            let medium = if direct { Medium::threads() } else { world.medium(party) };
            Seat { medium, ring: Box::new(move || waker.wake()) }
        };
        let settings = EngineSettings {
            bootstrap_servers: match servers {
                [] => broker.bootstrap().split(',').map(str::to_owned).collect(),
                servers => servers.to_vec(),
            },
            allow_auto_create_topics: false,
            seed: Some(seed),
            ..settings
        };
        let clock = EngineClock::new(world.clock());
        let (control_seat, seats) = (seat(control), parties.iter().map(|party| seat(*party)).collect());
        let medium = if kind == Kind::Local { Medium::threads() } else { world.medium(handles) };
        let made = assemble(settings, clock, control_seat, seats, medium, ("sim", String::new()), false);
        let assembly = made.unwrap();
        // Only addresses here: a helper thread would not be repeatable.
        let resolver = Resolver::with_lookup(Arc::new(|_| Err(io::ErrorKind::NotFound.into())), || {});
        let mut running = Some(assembly.control.start(world.backend(control), resolver).unwrap());
        world.spawn(control, move |_: Now| {
            if running.as_mut().is_some_and(|control| control.turn() == control::Turn::Stopped) {
                running = None;
            }
            None
        });
        let mut local = None;
        for (seat, party) in assembly.shards.into_iter().zip(parties) {
            let mut running = Some(seat.start(Prompt::new(world.backend(party)), world.clock()));
            let tasks = Tasks::default();
            if kind == Kind::Local {
                local = Some((party, Rc::clone(&tasks)));
            }
            let waker = world.waker(party);
            let mut begun = Vec::new();
            world.spawn(party, move |_: Now| {
                let mut poll_all = || {
                    begun.append(&mut tasks.borrow_mut());
                    begun.retain_mut(|task| task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                };
                poll_all();
                if running.as_mut().is_some_and(|shard| shard.turn() == shard::Turn::Stopped) {
                    running = None;
                }
                // What the turn brought goes to whom it belongs.
                poll_all();
                None
            });
        }
        let topics = topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
        Self { world, broker, engine: assembly.engine, kind, local, nodes: brokers as i32, topics }
    }

    /// Starts a task, in the shard's own thread where that is the application's; its result appears in the cell.
    pub fn start<T: 'static>(&mut self, name: &str, task: impl Future<Output = T> + 'static) -> Rc<RefCell<Option<T>>> {
        let slot = Rc::new(RefCell::new(None));
        let out = Rc::clone(&slot);
        let task = async move {
            let value = task.await;
            *out.borrow_mut() = Some(value);
        };
        match &self.local {
            Some((party, tasks)) => {
                tasks.borrow_mut().push(Box::pin(task));
                self.world.schedule().wake_at(*party, self.now());
            }
            None => drop(self.world.spawn_task(name, task)),
        }
        slot
    }

    /// Starts a thread of blocking calls; its result appears in the cell.
    pub fn start_thread<T: Send + 'static>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Arc<Mutex<Option<T>>> {
        let slot = Arc::new(Mutex::new(None));
        let out = Arc::clone(&slot);
        let said = self.world.spawn_thread(name, move || {
            let value = work();
            *out.lock().unwrap() = Some(value);
        });
        said.unwrap();
        slot
    }

    /// Runs a thread of blocking calls to its end and gives what it returned.
    pub fn run_thread<T: Send + 'static>(&mut self, limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
        let slot = self.start_thread("thread", work);
        self.world.run(limit, || slot.lock().unwrap().is_some());
        slot.lock().unwrap().take().unwrap()
    }

    /// A topic that is made, remade or deleted while the world runs: its log is read too.
    pub fn watch(&mut self, topic: &str) {
        self.topics.push((topic.to_owned(), 0));
    }

    /// Runs a task to its end and gives what it returned.
    pub fn run<T: 'static>(&mut self, limit: Duration, task: impl Future<Output = T> + 'static) -> T {
        let slot = self.start("task", task);
        self.world.run(limit, || slot.borrow().is_some());
        slot.take().unwrap()
    }

    /// Lets virtual time pass.
    pub fn pass(&mut self, duration: Duration) {
        let sleep = self.world.sleep(duration);
        self.run(duration + MINUTE, sleep);
    }

    pub fn now(&self) -> Time {
        self.world.schedule().time()
    }

    /// Answers that go wrong in every way a broker's can, each a few times in a hundred.
    pub fn add_rules(&self, percent: u64) {
        let produce = [
            Reaction::DropBefore,
            Reaction::DropAfter,
            Reaction::Error(ErrorCode::NotLeaderOrFollower),
            Reaction::Error(ErrorCode::NotEnoughReplicas),
            Reaction::Error(ErrorCode::UnknownTopicOrPartition),
            Reaction::Error(ErrorCode::LeaderNotAvailable),
            Reaction::ErrorAfter(ErrorCode::RequestTimedOut),
            Reaction::ErrorAfter(ErrorCode::NotEnoughReplicasAfterAppend),
            Reaction::Delay(Duration::from_millis(700)),
            Reaction::DelayAnswer(Duration::from_millis(1_500)),
            Reaction::Throttle(Duration::from_millis(300)),
            Reaction::Truncate(10),
            Reaction::WrongCorrelation,
        ];
        let others = [
            (ApiKey::Metadata, Reaction::DropAfter),
            (ApiKey::Metadata, Reaction::DelayAnswer(SECOND)),
            (ApiKey::InitProducerId, Reaction::Error(ErrorCode::CoordinatorLoadInProgress)),
            (ApiKey::InitProducerId, Reaction::DropAfter),
            (ApiKey::ApiVersions, Reaction::DropBefore),
        ];
        let all = produce.into_iter().map(|reaction| (ApiKey::Produce, reaction)).chain(others);
        self.broker.with(|core| {
            for (api, reaction) in all {
                core.faults.add(Rule::new(reaction).api(api).percent(percent));
            }
            core.faults.add(Rule::new(Reaction::BlackHole).api(ApiKey::Produce).percent(1).times(2));
        });
    }

    /// Moves leaders, stops and starts nodes, resets, refuses and holds their connections, for `duration`; then all is well
    /// again, also the rules and the network's random faults.
    pub fn torment(&mut self, duration: Duration) {
        let (broker, net, clock) = (self.broker.clone(), self.world.net().clone(), self.world.clock());
        let schedule = self.world.schedule().clone();
        let mut rng = Rng::new(schedule.seed() ^ 0x4E4D_4553);
        let (nodes, topics) = (self.nodes, self.topics.clone());
        let end = self.now() + duration;
        self.world.spawn_task("nemesis", async move {
            while clock.time() < end {
                clock.sleep(Duration::from_millis(20 + rng.below(900))).await;
                let node = rng.below(nodes as u64) as i32;
                let Some(address) = broker.address(node) else { continue };
                match rng.below(10) {
                    0..=4 => {
                        let known: Vec<_> = topics.iter().filter(|(_, partitions)| *partitions > 0).collect();
                        let (topic, partitions) = known[rng.below(known.len() as u64) as usize];
                        if broker.move_leader(topic, rng.below(*partitions as u64) as i32, node) {
                            schedule.count("leaders moved");
                        }
                    }
                    5 => {
                        schedule.count("nodes stopped");
                        broker.stop_node(node);
                        clock.sleep(Duration::from_millis(rng.below(3_000))).await;
                        broker.start_node(node);
                    }
                    6 => net.reset(address),
                    7 => {
                        net.hold(address, true);
                        clock.sleep(Duration::from_millis(rng.below(8_000))).await;
                        net.hold(address, false);
                    }
                    8 => {
                        schedule.count("nodes refusing");
                        net.refuse(address, true);
                        net.reset(address);
                        clock.sleep(Duration::from_millis(rng.below(2_000))).await;
                        net.refuse(address, false);
                    }
                    _ => clock.jump_wall(rng.below(7_200_000) as i64 - 3_600_000),
                }
            }
            broker.with(|core| core.faults.clear());
            net.set_rates(ottla::testkit::net::Rates::calm());
        });
    }

    /// Every record in the logs: value, by topic and partition, in log order, with its offset.
    pub fn logs(&self) -> BTreeMap<(String, i32), Vec<(i64, String)>> {
        let mut logs = BTreeMap::new();
        let (mut decompressor, mut unpacked) = (Decompressor::new(64 << 20), Unpacked::new());
        let count = |topic: &str| {
            self.broker.look(|core| core.cluster.topics.get(topic).map_or(0, |topic| topic.partitions.len() as i32))
        };
        for (topic, _) in &self.topics {
            for partition in 0..count(topic) {
                let mut records = Vec::new();
                for batch in self.broker.log(topic, partition) {
                    for view in RecordSet::new(&batch) {
                        for record in view.unwrap().records(&mut decompressor, &mut unpacked).unwrap() {
                            let record = record.unwrap();
                            let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                            records.push((record.offset, value));
                        }
                    }
                }
                logs.insert((topic.clone(), partition), records);
            }
        }
        logs
    }

    /// A partition's batches, one line each.
    pub fn describe_log(&self, topic: &str, partition: i32) -> String {
        let (mut decompressor, mut unpacked) = (Decompressor::new(64 << 20), Unpacked::new());
        let mut text = String::new();
        for batch in self.broker.log(topic, partition) {
            for view in RecordSet::new(&batch).map(Result::unwrap) {
                let header = *view.header().unwrap();
                let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
                text.push_str(&format!("  {:>5}: id {id} epoch {epoch} sequence {sequence}:", view.base_offset()));
                for record in view.records(&mut decompressor, &mut unpacked).unwrap() {
                    let record = record.unwrap();
                    let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
                    text.push_str(&format!(" {}", value.rsplit_once(':').map_or(value.as_str(), |(short, _)| short)));
                }
                text.push('\n');
            }
        }
        text
    }

    /// Adds this run's occurrences to `all`.
    pub fn tally(&self, all: &mut BTreeMap<String, u64>) {
        for (what, count) in self.world.schedule().counts() {
            *all.entry(format!("weather: {what}")).or_default() += count;
        }
        let counters = self.broker.look(|core| core.counters());
        for (what, count) in &counters.faults {
            *all.entry(format!("broker: {what}")).or_default() += count;
        }
        for ((_, code), count) in counters.errors.iter().filter(|((_, code), _)| *code != 0) {
            *all.entry(format!("error: {}", ErrorCode::from(*code).name())).or_default() += count;
        }
        *all.entry("broker: batches sent twice".to_owned()).or_default() += counters.batches_duplicate;
        let kind = if self.kind == Kind::Local { "local" } else { "threads" };
        *all.entry(format!("engine: {kind}")).or_default() += 1;
        let stats = self.engine.stats();
        *all.entry("engine: batches retried".to_owned()).or_default() += stats.retries;
        *all.entry("engine: links lost".to_owned()).or_default() += stats.link_failures;
        *all.entry("engine: records delivered".to_owned()).or_default() += stats.delivered;
        for (edge, count) in take_edges() {
            *all.entry(format!("edge: {edge}")).or_default() += count;
        }
    }
}

/// What goes wrong in every torment, whoever is tormented.
pub const EVERYDAY: &[&str] = &[
    "weather: leaders moved",
    "weather: nodes stopped",
    "weather: nodes refusing",
    "weather: connections reset",
    "weather: connections refused",
    "weather: hosts held",
    "weather: writes fragmented",
    "weather: parties stalled",
    "weather: pushes seen late",
    "weather: wakes that came twice",
    "broker: drop-before",
    "broker: drop-after",
    "broker: error",
    "broker: delay",
    "broker: delay-answer",
    "broker: throttle",
    "broker: truncate",
    "broker: wrong-correlation",
    "broker: black-hole",
    "engine: links lost",
    "engine: local",
    "engine: threads",
    "error: NOT_LEADER_OR_FOLLOWER",
    "error: UNKNOWN_TOPIC_OR_PARTITION",
    "edge: connection: connecting -> closed",
    "edge: connection: negotiating -> ready",
    "edge: connection: ready -> closed",
    "edge: connection: ready -> draining",
    "edge: connection: draining -> closed",
];

/// Prints the table and demands that everything in `expected` occurred.
pub fn demand(all: &BTreeMap<String, u64>, expected: &[&[&str]]) {
    let table: Vec<String> = all.iter().map(|(what, count)| format!("{count:>9}  {what}")).collect();
    println!("{}", table.join("\n"));
    let expected = expected.iter().copied().flatten();
    let missing: Vec<_> = expected.filter(|what| all.get(**what).is_none_or(|count| *count == 0)).collect();
    assert!(missing.is_empty(), "never occurred: {missing:?}");
}

/// Runs each seed twice, the second time on another thread, so that nothing of a thread's own plays a part; both runs
/// come to the same.
pub fn same_again<T: PartialEq + Debug + Send + 'static>(
    seeds: impl IntoIterator<Item = u64>,
    run: impl Fn(u64) -> T + Copy + Send + 'static,
) {
    for seed in seeds {
        let again = std::thread::spawn(move || run(seed)).join().unwrap();
        assert_eq!(run(seed), again, "seed {seed}");
    }
}
