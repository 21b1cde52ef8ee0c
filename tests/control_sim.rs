//! Control and admin in virtual time, against the embedded broker on the simulated network. A seed that fails is replayed by
//! setting `OTTLA_SIM_SEED`.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ottla::admin::{Admin, AdminError, NewTopic, OffsetSpec};
use ottla::base::time::{Now, Time};
use ottla::config::{EngineSettings, IsolationLevel};
use ottla::control;
use ottla::engine::{Engine, EngineClock, Seat, assemble};
use ottla::net::Resolver;
use ottla::ring::Wake;
use ottla::shard;
use ottla::testkit::broker::{Options, SimBroker, TopicSpec};
use ottla::testkit::net::{Party, SimNet};
use ottla::testkit::sim::World;
use ottla::wire::{ApiKey, ErrorCode};

/// A world with a broker and an engine of one shard.
struct Bed {
    world: World,
    broker: SimBroker,
    engine: Engine,
}

fn topic(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec::new(name, partitions)
}

impl Bed {
    fn new(mut world: World, brokers: usize, topics: Vec<TopicSpec>) -> Self {
        let party = world.party("broker");
        let options = Options { brokers, topics, ..Options::default() };
        let (broker, mut driver) = SimBroker::new(world.net(), party, options).unwrap();
        world.spawn(party, move |now: Now| driver.turn(now));
        let (control, shard, app) = (world.party("control"), world.party("shard"), world.party("handles"));
        let seat = |party: Party| {
            let waker = world.sim_waker(party);
            Seat { medium: world.medium(party), ring: Box::new(move || waker.wake()) }
        };
        let settings = EngineSettings {
            bootstrap_servers: broker.bootstrap().split(',').map(str::to_owned).collect(),
            allow_auto_create_topics: false,
            seed: Some(world.schedule().seed()),
            ..EngineSettings::default()
        };
        let clock = EngineClock::new(world.clock());
        let (control_seat, shards) = (seat(control), vec![seat(shard)]);
        let made = assemble(settings, clock, control_seat, shards, world.medium(app), ("sim", String::new()), false);
        let mut assembly = made.unwrap();
        // Only addresses here: a helper thread would not be repeatable.
        let resolver = Resolver::with_lookup(Arc::new(|_| Err(io::ErrorKind::NotFound.into())), || {});
        let mut running = Some(assembly.control.start(world.backend(control), resolver).unwrap());
        world.spawn(control, move |_: Now| {
            if running.as_mut().is_some_and(|control| control.turn() == control::Turn::Stopped) {
                running = None;
            }
            None
        });
        let mut running = Some(assembly.shards.remove(0).start(world.backend(shard), world.clock()));
        world.spawn(shard, move |_: Now| {
            if running.as_mut().is_some_and(|shard| shard.turn() == shard::Turn::Stopped) {
                running = None;
            }
            None
        });
        Self { world, broker, engine: assembly.engine }
    }

    fn calm(brokers: usize, topics: Vec<TopicSpec>) -> Self {
        Self::new(World::calm(1), brokers, topics)
    }

    /// Runs a task to its end and gives what it returned.
    fn run<T: 'static>(&mut self, limit: Duration, task: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let out = Rc::clone(&slot);
        self.world.spawn_task("app", async move {
            let value = task.await;
            *out.borrow_mut() = Some(value);
        });
        self.world.run(limit, || slot.borrow().is_some());
        slot.take().unwrap()
    }

    fn sleep(&mut self, duration: Duration) {
        let sleep = self.world.sleep(duration);
        self.run(duration + SECOND, sleep);
    }

    fn admin(&self) -> Admin {
        self.engine.admin()
    }

    fn requests(&self, api: ApiKey) -> u64 {
        self.broker.look(|core| core.counters().requests(api))
    }

    fn nodes(&self) -> Vec<SocketAddr> {
        (0..).map_while(|node| self.broker.address(node)).collect()
    }

    fn net(&self) -> SimNet {
        self.world.net().clone()
    }

    fn now(&self) -> Time {
        self.world.schedule().time()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

async fn errands(admin: Admin) -> Vec<i64> {
    // Under faults an answer may be lost after the topic was created: that it exists is good enough.
    loop {
        match admin.create_topics([NewTopic::new("t", 6).replication(3)], false).await {
            Ok(outcomes) if outcomes[0].1.is_ok() => break,
            Ok(outcomes) if outcomes[0].1.as_ref().unwrap_err().code() == Some(ErrorCode::TopicAlreadyExists) => break,
            Ok(_) | Err(_) => {}
        }
    }
    loop {
        let wanted = (0..6).map(|partition| ("t", partition, OffsetSpec::Latest));
        if let Ok(listed) = admin.list_offsets(wanted, IsolationLevel::ReadUncommitted).await
            && listed.iter().all(|(_, outcome)| outcome.is_ok())
        {
            return listed.into_iter().filter_map(|(_, outcome)| outcome.unwrap().offset).collect();
        }
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("OTTLA_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=30).collect(),
    }
}

#[test]
fn r13_errands_are_done_whatever_the_network_does() {
    let mut faults = 0;
    for seed in seeds() {
        let mut bed = Bed::new(World::rough(seed), 3, Vec::new());
        let admin = bed.admin();
        let offsets = bed.run(30 * MINUTE, errands(admin));
        assert_eq!(offsets, [0; 6], "seed {seed}");
        faults += bed.world.schedule().counted("connections reset");
    }
    assert!(faults > 0, "the weather was too fine to prove anything");
}

#[test]
fn r13_the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut bed = Bed::new(World::rough(seed), 3, Vec::new());
        let admin = bed.admin();
        bed.run(30 * MINUTE, errands(admin));
        (bed.world.schedule().trace_hash(), bed.now())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[test]
fn d4_75_an_outage_of_all_brokers_is_survived_without_a_storm() {
    let mut bed = Bed::calm(3, vec![topic("t", 3)]);
    let admin = bed.admin();
    bed.run(MINUTE, admin.list_topics()).unwrap();
    let (net, nodes) = (bed.net(), bed.nodes());
    nodes.iter().for_each(|node| {
        net.refuse(*node, true);
        net.reset(*node);
    });
    let refused = |bed: &Bed| bed.world.schedule().turns();
    let before = refused(&bed);
    let admin = bed.admin().timeout(20 * SECOND);
    let error = bed.run(MINUTE, admin.list_topics()).unwrap_err();
    assert!(matches!(error, AdminError::Job(control::JobError::Timeout(_))), "{error}");
    assert!(error.to_string().contains("refused"), "says what stood in the way: {error}");
    bed.sleep(10 * MINUTE);
    // Backoff reaches a second: some 620 s of outage are not many thousand tries.
    let turns = refused(&bed) - before;
    assert!(turns < 20_000, "{turns} turns");
    nodes.iter().for_each(|node| net.refuse(*node, false));
    let back = bed.now();
    let admin = bed.admin();
    bed.run(MINUTE, admin.list_topics()).unwrap();
    assert!(bed.now().since(back) < 5 * SECOND, "recovered within seconds: {:?}", bed.now().since(back));
}

#[test]
fn d4_83_a_black_hole_delays_metadata_by_seconds_only() {
    let mut bed = Bed::calm(3, vec![topic("t", 3), topic("u", 1)]);
    let engine = bed.engine.clone();
    let t = engine.topic("t").unwrap();
    bed.sleep(SECOND);
    assert!(engine.cluster().topic(t).is_some_and(|topic| topic.partition_count() == 3));
    // Whoever control talks to goes silent without a word.
    let (net, nodes) = (bed.net(), bed.nodes());
    for node in nodes.iter().filter(|node| net.connections(**node) > 0) {
        net.hold(*node, true);
    }
    let held = nodes.iter().filter(|node| net.connections(**node) > 0).count();
    assert!(held < 3, "somebody is left to answer");
    let u = engine.topic("u").unwrap();
    bed.sleep(4 * SECOND);
    assert!(engine.cluster().topic(u).is_some_and(|topic| topic.partition_count() == 1));
}

#[test]
fn d1_16_a_topic_created_late_is_found_while_somebody_waits() {
    let mut bed = Bed::calm(1, Vec::new());
    let engine = bed.engine.clone();
    let late = engine.topic("late").unwrap();
    bed.sleep(10 * SECOND);
    assert_eq!(engine.cluster().topic(late).unwrap().state, ottla::proto::cluster::TopicState::Pending);
    let asked = bed.requests(ApiKey::Metadata);
    assert!((8..100).contains(&asked), "asked again with backoff: {asked} times in 10 s");
    bed.broker.with(|core| core.create_topic(&topic("late", 4)).unwrap());
    bed.sleep(2 * SECOND);
    assert_eq!(engine.cluster().topic(late).unwrap().partition_count(), 4);
}

#[test]
fn d1_15_a_topic_that_brokers_miss_for_a_while_keeps_its_leaders() {
    let mut bed = Bed::calm(1, vec![topic("t", 2)]);
    let engine = bed.engine.clone();
    let t = engine.topic("t").unwrap();
    bed.sleep(SECOND);
    let before = engine.cluster().topic(t).unwrap().partitions.clone();
    let error = ottla::testkit::broker::Reaction::Error(ErrorCode::UnknownTopicOrPartition);
    let rule = ottla::testkit::broker::Rule::new(error).api(ApiKey::Metadata).topic("t");
    bed.broker.with(|core| core.faults.add(rule));
    // Something makes control ask: another topic.
    engine.topic("other").unwrap();
    bed.sleep(6 * MINUTE);
    let after = engine.cluster().topic(t).unwrap().clone();
    assert_eq!((after.partitions.clone(), after.incarnation), (before, 0));
    assert_ne!(after.error, ErrorCode::None, "the fault was seen");
}

#[test]
fn p_15_an_idle_engine_asks_for_metadata_once_per_age_and_keeps_no_loop() {
    let mut bed = Bed::calm(3, vec![topic("t", 100)]);
    bed.engine.topic("t").unwrap();
    bed.sleep(10 * SECOND);
    let (asked, turns) = (bed.requests(ApiKey::Metadata), bed.world.schedule().turns());
    bed.sleep(60 * MINUTE);
    let asked = bed.requests(ApiKey::Metadata) - asked;
    assert!((11..=13).contains(&asked), "{asked} questions in an hour of 5-minute ages");
    let turns = bed.world.schedule().turns() - turns;
    assert!(turns < 2_000, "{turns} turns of all parties in an idle hour");
}

#[test]
fn d4_74_a_broker_that_moves_takes_its_connections_along() {
    let mut bed = Bed::calm(2, vec![topic("t", 2)]);
    let admin = bed.admin();
    let ask = move || {
        let wanted = [("t", 0, OffsetSpec::Latest), ("t", 1, OffsetSpec::Latest)];
        let call = admin.list_offsets(wanted, IsolationLevel::ReadUncommitted);
        async move { call.await.unwrap().into_iter().map(|(_, outcome)| outcome.is_ok()).collect::<Vec<_>>() }
    };
    assert_eq!(bed.run(MINUTE, ask()), [true, true]);
    let (net, node) = (bed.net(), bed.broker.address(1).unwrap());
    assert_eq!(net.connections(node), 1);
    let address = node.port();
    bed.broker.with(|core| core.cluster.nodes[1].port = address + 1);
    // Metadata tells of the move: the connection to the old place ends although it works.
    bed.engine.topic("t").unwrap();
    bed.sleep(5 * SECOND);
    assert_eq!(net.connections(node), 0);
    // Nobody listens at the new place yet; then it is back.
    bed.broker.with(|core| core.cluster.nodes[1].port = address);
    assert_eq!(bed.run(MINUTE, ask()), [true, true]);
}

#[test]
fn d4_76_connections_that_brokers_close_when_idle_come_back_silently() {
    let mut bed = Bed::calm(1, vec![topic("t", 1)]);
    let admin = bed.admin();
    bed.run(MINUTE, admin.list_topics()).unwrap();
    let (net, node) = (bed.net(), bed.nodes()[0]);
    for _ in 0..5 {
        net.reset(node);
        bed.sleep(SECOND);
        let start = bed.now();
        let admin = bed.admin();
        bed.run(MINUTE, admin.list_topics()).unwrap();
        assert!(bed.now().since(start) < SECOND);
    }
}

#[test]
fn p_06_close_ends_everything_in_virtual_time_too() {
    for seed in 1..=20 {
        let mut bed = Bed::new(World::rough(seed), 2, vec![topic("t", 2)]);
        let engine = bed.engine.clone();
        engine.topic("t").unwrap();
        let call = bed.admin().list_topics();
        bed.sleep(SECOND / 2);
        let start = bed.now();
        let closed = bed.run(30 * SECOND, async move { engine.close_async(SECOND).await });
        assert_eq!(closed, Ok(()), "seed {seed}");
        assert!(bed.now().since(start) < 3 * SECOND, "seed {seed}: {:?}", bed.now().since(start));
        // Done before the close, or ended by it: either way it ends.
        let _ = bed.run(30 * SECOND, call);
    }
}
