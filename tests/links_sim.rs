//! Links in virtual time: how often a broker is tried, when it is left alone, what moves with it, and what waits behind what.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod sim_support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ottla::admin::AdminError;
use ottla::base::time::Now;
use ottla::config::EngineSettings;
use ottla::config::StartAt;
use ottla::producer::{Losses, Producer, Record};
use ottla::testkit::broker::{Reaction, Rule};
use ottla::testkit::net::{ReadResult, SimListener, SimStream};
use ottla::testkit::sim::World;
use ottla::wire::messages::ApiVersionsResponse;
use ottla::wire::messages::api_versions::response::ApiVersion;
use ottla::wire::{ApiKey, frame};
use sim_support::{Bed, MINUTE, SECOND};

/// What answers at an address where a broker should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stranger {
    Nobody,
    BlackHole,
    HangsUp,
    SaysNothing,
    Http,
    Tls,
    /// Shakes hands as a broker does, and then announces a frame of 2 GiB.
    Oversized,
    /// Shakes hands and closes at the first call.
    Spoils,
}

impl Stranger {
    /// What a user must read: what happened, and what to try.
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::Nobody => ["refused", "bootstrap.servers"],
            Self::BlackHole => ["set-up timeout (connecting)", "firewall"],
            Self::SaysNothing => ["set-up timeout (handshake)", "socket.connection.setup.timeout.ms"],
            Self::HangsUp | Self::Spoils => ["closed the connection", "security.protocol"],
            Self::Http => ["HTTP", "port"],
            Self::Tls => ["TLS", "security.protocol"],
            Self::Oversized => ["frame of 2147483647 bytes", "receive.message.max.bytes"],
        }
    }
}

/// The request's version and correlation id.
fn request_of(bytes: &[u8]) -> (ApiKey, i16, i32) {
    let short = |at: usize| i16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
    let api = if short(4) == ApiKey::ApiVersions as i16 { ApiKey::ApiVersions } else { ApiKey::Metadata };
    (api, short(6), i32::from_be_bytes(bytes[8..12].try_into().unwrap()))
}

fn handshake(version: i16, correlation: i32) -> Vec<u8> {
    let all = |api: ApiKey| ApiVersion {
        api_key: api as i16,
        min_version: api.versions().min,
        max_version: api.versions().max,
        ..Default::default()
    };
    let api_keys = vec![all(ApiKey::ApiVersions), all(ApiKey::Metadata)];
    let mut out = Vec::new();
    let answer = ApiVersionsResponse { api_keys, ..Default::default() };
    frame::encode_response(version, correlation, &answer, &mut out).unwrap();
    out
}

/// Takes a turn of the stranger.
fn strange(who: Stranger, listener: &SimListener, open: &mut Vec<SimStream>) {
    while let Some(stream) = listener.accept() {
        if who != Stranger::HangsUp {
            open.push(stream);
        }
    }
    open.retain(|stream| {
        let mut bytes = [0; 4096];
        let answer = match stream.read(&mut bytes) {
            ReadResult::Pending => return true,
            ReadResult::Ended | ReadResult::Reset => return false,
            ReadResult::Data(_) => match (who, request_of(&bytes)) {
                (Stranger::Http, _) => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
                (Stranger::Tls, _) => vec![0x15, 3, 3, 0, 2, 2, 70],
                (Stranger::Oversized | Stranger::Spoils, (ApiKey::ApiVersions, version, correlation)) => {
                    handshake(version, correlation)
                }
                (Stranger::Oversized, _) => vec![0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1],
                (Stranger::Spoils, _) => return false,
                _ => return true,
            },
        };
        stream.write(&answer).unwrap() == answer.len()
    });
}

/// An engine whose only bootstrap server is a stranger, at an address of its own beside a bed's broker.
fn among_strangers(who: Stranger, settings: EngineSettings) -> (Bed, SocketAddr) {
    let address: SocketAddr = "10.0.9.9:9092".parse().unwrap();
    let mut world = World::calm(7);
    let party = world.party("stranger");
    match who {
        Stranger::Nobody => {}
        Stranger::BlackHole => world.net().hold(address, true),
        _ => {
            let listener = SimListener::bind(world.net(), address, party).unwrap();
            let mut open = Vec::new();
            world.spawn(party, move |_: Now| {
                strange(who, &listener, &mut open);
                None
            });
        }
    }
    (Bed::bootstrapped_by(world, 1, 1, &[("t", 1)], settings, &[address.to_string()]), address)
}

/// Refused, black hole, hung up, silent, HTTP, TLS, oversized frame, spoilt answers: for two minutes somebody wants metadata
/// all the time, never are there more than 20 tries in a second, and the error says who, what, and what to try.
#[test]
fn d4_77_strangers_are_tried_with_measure_and_named_in_the_error() {
    let all = [
        Stranger::Nobody,
        Stranger::BlackHole,
        Stranger::HangsUp,
        Stranger::SaysNothing,
        Stranger::Http,
        Stranger::Tls,
        Stranger::Oversized,
        Stranger::Spoils,
    ];
    for who in all {
        let settings = EngineSettings { connection_setup_timeout: 2 * SECOND, ..EngineSettings::default() };
        let (mut bed, address) = among_strangers(who, settings);
        bed.engine.topic("t").unwrap();
        let asked = bed.engine.admin().timeout(MINUTE).list_topics();
        let asked = bed.start("asked", asked);
        let (mut before, mut most) = (0, 0);
        for _ in 0..120 {
            bed.pass(SECOND);
            let attempts = bed.world.net().attempts(address);
            most = most.max(attempts - before);
            before = attempts;
        }
        assert!(most <= 20, "{who:?}: {most} tries in a second");
        assert!(before >= 4, "{who:?}: given up after {before} tries");
        assert!(before <= 500, "{who:?}: {before} tries in two minutes");
        let error = asked.take().unwrap().unwrap_err();
        assert!(matches!(error, AdminError::Job(_)), "{error}");
        let error = error.to_string();
        let words = who.words();
        for word in [address.to_string().as_str(), words[0], words[1]] {
            assert!(error.contains(word), "{who:?}: {error:?} lacks {word:?}");
        }
    }
}

/// Two bootstrap servers that are black holes cost one set-up time each, one that refuses costs nothing; each was tried once
/// when the last one answers and names the whole cluster.
#[test]
fn m3_bootstrap_goes_on_to_the_next_server_at_once() {
    let strangers: [SocketAddr; 2] = ["10.0.9.1:9092".parse().unwrap(), "10.0.9.2:9092".parse().unwrap()];
    for holes in [1, 2] {
        let world = World::calm(3);
        strangers.iter().take(holes).for_each(|hole| world.net().hold(*hole, true));
        let settings = EngineSettings { connection_setup_timeout: 2 * SECOND, ..EngineSettings::default() };
        let servers = [strangers[0].to_string(), strangers[1].to_string(), "10.0.0.1:9092".to_owned()];
        let mut bed = Bed::bootstrapped_by(world, 3, 1, &[("t", 1)], settings, &servers);
        let start = bed.now();
        let cluster = bed.engine.admin().describe_cluster();
        assert_eq!(bed.run(MINUTE, cluster).unwrap().brokers.len(), 3);
        // Give or take a fifth.
        let (took, each) = (bed.now().since(start), holes as u32 * 2 * SECOND);
        assert!(took >= each * 4 / 5 && took < each * 6 / 5 + SECOND / 4, "{holes} black holes: {took:?}");
        for stranger in strangers {
            assert_eq!(bed.world.net().attempts(stranger), 1, "{stranger}");
        }
    }
}

async fn send(producer: &Producer, partition: i32, value: &str) {
    producer.send_async(Record::to("t").partition(partition).value(value)).await.unwrap();
}

const NONE_LOST: Losses = Losses { failed: 0, unknown: 0 };

/// A data connection that nobody used for connections.max.idle.ms goes; so does one that the broker closed. The next record
/// brings it back, nothing counts as a failure, and nobody else notices.
#[test]
fn d4_76_an_idle_data_connection_goes_and_comes_back_without_a_word() {
    let mut bed = Bed::new(World::calm(5), 1, 1, &[("t", 1)], EngineSettings::default());
    let node = bed.broker.address(0).unwrap();
    let producer = bed.engine.producer().build().unwrap();
    let deliver = |bed: &mut Bed, value: &'static str| {
        let producer = producer.clone();
        let start = bed.now();
        let losses = bed.run(MINUTE, async move {
            send(&producer, 0, value).await;
            producer.flush_async().await.unwrap()
        });
        assert_eq!(losses, NONE_LOST);
        assert!(bed.now().since(start) < SECOND, "{value}: {:?}", bed.now().since(start));
    };
    deliver(&mut bed, "first");
    let connects = bed.engine.stats().connects;
    // Ours: after nine minutes.
    bed.pass(12 * MINUTE);
    let left = bed.world.net().connections(node);
    assert!(left <= 1, "only control, which asks for metadata now and then, may still be connected: {left}");
    deliver(&mut bed, "second");
    assert_eq!(bed.engine.stats().connects, connects + 1);
    // The broker's: it closes what is idle, in an orderly way.
    let asked = bed.broker.look(|core| core.counters().requests(ApiKey::Metadata));
    for value in ["third", "fourth", "fifth"] {
        bed.broker.stop_node(0);
        bed.pass(Duration::from_millis(10));
        bed.broker.start_node(0);
        bed.pass(SECOND);
        assert_eq!(bed.world.net().connections(node), 0, "closed, and nobody has a reason to come back");
        deliver(&mut bed, value);
    }
    let stats = bed.engine.stats();
    assert_eq!((stats.connects, stats.link_failures, stats.retries), (connects + 4, 0, 0));
    let asked = bed.broker.look(|core| core.counters().requests(ApiKey::Metadata)) - asked;
    assert!(asked <= 1, "nobody doubts the metadata: {asked} questions");
    let values: Vec<String> = bed.logs()[&("t".to_owned(), 0)].iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(values, ["first", "second", "third", "fourth", "fifth"]);
}

/// The broker moves while it owes an answer. Whether that batch was written is unknown, so it goes to the new place with the
/// same bytes, and the broker drops the copy; without idempotence the outcome would be a duplicate, not a loss.
#[test]
fn d4_74_a_moved_broker_takes_produce_links_along_and_what_was_in_flight_is_unknown() {
    let mut bed = Bed::new(World::calm(9), 1, 1, &[("t", 1)], EngineSettings::default());
    let old = bed.broker.address(0).unwrap();
    let producer = bed.engine.producer().build().unwrap();
    let first = producer.clone();
    bed.run(MINUTE, async move {
        send(&first, 0, "first").await;
        first.flush_async().await.unwrap()
    });
    // Written and answered to nobody: the connection is held after the broker took the batch.
    bed.broker.with(|core| core.faults.add(Rule::new(Reaction::DelayAnswer(MINUTE)).api(ApiKey::Produce).times(1)));
    let second = producer.clone();
    let sent = bed.start("second", async move {
        send(&second, 0, "second").await;
        second.flush_async().await.unwrap()
    });
    bed.pass(SECOND);
    assert!(sent.borrow().is_none());
    let new = SocketAddr::new(old.ip(), old.port() + 1);
    bed.broker.with(|core| core.cluster.nodes[0].port = new.port());
    // Somebody asks for metadata.
    bed.engine.topic("other").unwrap();
    bed.pass(5 * SECOND);
    assert!(bed.world.net().connections(new) >= 1, "nobody connected to the new place");
    assert_eq!(sent.take(), Some(NONE_LOST));
    let stats = bed.engine.stats();
    assert!(stats.retries >= 1, "the batch in flight was sent again: {stats:?}");
    let counters = bed.broker.look(|core| core.counters());
    assert!(counters.batches_duplicate >= 1, "and the broker had it already");
    let values: Vec<String> = bed.logs()[&("t".to_owned(), 0)].iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(values, ["first", "second"]);
    // The broker notices when its late answer reaches nobody.
    bed.pass(2 * MINUTE);
    assert_eq!(bed.world.net().connections(old), 0, "a connection to the old place is left");
}

/// The formula of docs/ARCHITECTURE.md, counted at the broker: per broker one produce link of every shard that owns one of
/// its partitions, one fetch link of every consumer and shard, one of control; no more, however many partitions.
#[test]
fn m4_sockets_at_the_broker_are_what_the_formula_says() {
    const BROKERS: usize = 3;
    for shards in [1, 2] {
        let mut bed = Bed::new(World::calm(11), BROKERS, shards, &[("t", 60)], EngineSettings::default());
        let producer = bed.engine.producer().build().unwrap();
        for _ in 0..3 {
            let producer = producer.clone();
            let losses = bed.run(MINUTE, async move {
                for partition in 0..60 {
                    send(&producer, partition, "v").await;
                }
                producer.flush_async().await.unwrap()
            });
            assert_eq!(losses, NONE_LOST);
        }
        let nodes: Vec<SocketAddr> = (0..BROKERS as i32).map(|node| bed.broker.address(node).unwrap()).collect();
        let open = |bed: &Bed| nodes.iter().map(|node| bed.world.net().connections(*node)).collect::<Vec<_>>();
        // Control is lazy: it talks to the brokers it needed, the producer's links are exact.
        let links = bed.engine.stats().connects as usize;
        assert!((BROKERS..=BROKERS * shards).contains(&links), "{links} produce links");
        let most = open(&bed).into_iter().max().unwrap();
        assert!(most <= shards + 1, "{shards} shards: {:?}", open(&bed));
        let total: usize = open(&bed).iter().sum();
        assert!((links..=links + BROKERS).contains(&total), "{links} produce links, {:?}", open(&bed));
        if shards == 1 {
            assert_eq!(links, BROKERS, "a producer-only engine of one shard: one data connection per broker");
        }
        // A consumer beside it adds its own.
        let before = open(&bed);
        let all: Vec<_> = (0..60).map(|partition| ("t", partition, StartAt::Latest)).collect();
        let consumer = bed.engine.consumer().assign(all).build().unwrap();
        bed.pass(10 * SECOND);
        for (before, after) in before.iter().zip(open(&bed)) {
            let added = after - before;
            assert!((1..=shards + 1).contains(&added), "{shards} shards: {before} became {after}");
        }
        drop(consumer);
    }
}

/// How many connections each node has.
fn connections(bed: &Bed, nodes: i32) -> Vec<usize> {
    (0..nodes).map(|node| bed.world.net().connections(bed.broker.address(node).unwrap())).collect()
}

/// A fetch link belongs to one consumer: a second consumer of the same partitions adds one per broker, and each takes its own
/// along when it goes.
#[test]
fn m4_each_consumer_has_a_fetch_link_per_broker_and_takes_it_along() {
    const BROKERS: i32 = 3;
    let mut bed = Bed::new(World::calm(23), BROKERS as usize, 1, &[("t", 6)], EngineSettings::default());
    bed.engine.topic("t").unwrap();
    bed.pass(5 * SECOND);
    let plus = |before: &[usize], more: usize| before.iter().map(|count| count + more).collect::<Vec<_>>();
    let before = connections(&bed, BROKERS);
    let assign = |bed: &Bed| {
        let all = (0..6).map(|partition| ("t", partition, StartAt::Latest));
        bed.engine.consumer().assign(all.collect::<Vec<_>>()).build().unwrap()
    };
    let mut consumers = Vec::new();
    for count in 1..=2 {
        consumers.push(assign(&bed));
        bed.pass(5 * SECOND);
        assert_eq!(connections(&bed, BROKERS), plus(&before, count));
    }
    while consumers.pop().is_some() {
        bed.pass(5 * SECOND);
        assert_eq!(connections(&bed, BROKERS), plus(&before, consumers.len()));
    }
}

/// Nothing is opened ahead: handles alone connect nobody, a record opens one data connection, to the leader of its partition.
#[test]
fn m4_links_are_opened_at_first_need() {
    const BROKERS: i32 = 3;
    let mut bed = Bed::new(World::calm(29), BROKERS as usize, 2, &[("t", 6)], EngineSettings::default());
    bed.pass(5 * SECOND);
    assert_eq!(connections(&bed, BROKERS), [0, 0, 0], "an engine that nobody asks for anything");
    let producer = bed.engine.producer().build().unwrap();
    let topic = bed.engine.topic("t").unwrap();
    bed.pass(5 * SECOND);
    assert_eq!(bed.engine.stats().connects, 0, "metadata is control's");
    let control = connections(&bed, BROKERS);
    assert!(control.iter().all(|count| *count <= 1), "{control:?}");
    let leader = bed.engine.cluster().topic(topic).unwrap().partitions[2].leader.unwrap();
    bed.run(MINUTE, async move {
        send(&producer, 2, "v").await;
        producer.flush_async().await.unwrap()
    });
    assert_eq!(bed.engine.stats().connects, 1);
    let leaders = connections(&bed, BROKERS)[leader.0 as usize];
    assert!((1..=2).contains(&leaders), "one of the shard, perhaps one of control: {leaders}");
}

/// A partition's owner stays when its leader changes: the same shard opens one link to the new leader and goes on with the
/// same producer id; the link to the old one is closed when nobody has used it for connections.max.idle.ms.
#[test]
fn m4_the_owner_of_a_partition_follows_its_leader() {
    const BROKERS: i32 = 3;
    let mut bed = Bed::new(World::calm(31), BROKERS as usize, 2, &[("t", 1)], EngineSettings::default());
    let producer = bed.engine.producer().build().unwrap();
    let topic = bed.engine.topic("t").unwrap();
    let deliver = |bed: &mut Bed, value: &'static str| {
        let producer = producer.clone();
        let losses = bed.run(MINUTE, async move {
            send(&producer, 0, value).await;
            producer.flush_async().await.unwrap()
        });
        assert_eq!(losses, NONE_LOST);
    };
    deliver(&mut bed, "first");
    assert_eq!(bed.engine.stats().connects, 1);
    let old = bed.engine.cluster().topic(topic).unwrap().partitions[0].leader.unwrap().0;
    assert!(bed.broker.move_leader("t", 0, (old + 1) % BROKERS));
    for (nth, value) in ["second", "third"].into_iter().enumerate() {
        deliver(&mut bed, value);
        assert_eq!(bed.engine.stats().connects, 2, "{value}");
        assert_eq!(bed.broker.look(|core| core.counters().requests(ApiKey::InitProducerId)), 1, "{value}");
        // The new link is used, the old one is not.
        if nth == 0 {
            bed.pass(5 * MINUTE);
        }
    }
    bed.pass(5 * MINUTE);
    let data: usize = connections(&bed, BROKERS).iter().sum();
    let control = bed.broker.look(|core| core.counters().connections_open) as usize;
    assert_eq!(data, control, "the broker's own count agrees");
    assert!(
        connections(&bed, BROKERS)[old as usize] <= 1,
        "only control may still be there: {:?}",
        connections(&bed, BROKERS)
    );
    let values: Vec<String> = bed.logs()[&("t".to_owned(), 0)].iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(values, ["first", "second", "third"]);
}

/// A broker that takes a request and never answers, on each role of link: the connection ends when request.timeout.ms is over
/// (for a Fetch the time it may wait comes on top), not before, and the call is made again on another one.
#[test]
fn m4_an_unanswered_call_ends_its_link_at_its_deadline_and_is_made_again() {
    let settings = EngineSettings { request_timeout: 5 * SECOND, ..EngineSettings::default() };
    for (api, least, most) in [(ApiKey::Produce, 5, 8), (ApiKey::Fetch, 7, 10), (ApiKey::Metadata, 5, 8)] {
        let mut bed = Bed::new(World::calm(37), 1, 1, &[("t", 1)], settings.clone());
        let producer = bed.engine.producer().build().unwrap();
        let warm = producer.clone();
        bed.run(MINUTE, async move {
            send(&warm, 0, "first").await;
            warm.flush_async().await.unwrap()
        });
        bed.broker.with(|core| core.faults.add(Rule::new(Reaction::BlackHole).api(api).times(1)));
        let start = bed.now();
        match api {
            ApiKey::Produce => {
                let losses = bed.run(MINUTE, async move {
                    send(&producer, 0, "second").await;
                    producer.flush_async().await.unwrap()
                });
                assert_eq!(losses, NONE_LOST);
            }
            ApiKey::Fetch => {
                let consumer = bed.engine.consumer().fetch_max_wait(2 * SECOND);
                let mut consumer = consumer.assign([("t", 0, StartAt::Earliest)]).build().unwrap();
                let read = bed.run(MINUTE, async move { consumer.next_async().await.unwrap().iter().count() });
                assert_eq!(read, 1);
            }
            _ => {
                let cluster = bed.engine.admin().describe_cluster();
                assert_eq!(bed.run(MINUTE, cluster).unwrap().brokers.len(), 1);
            }
        }
        let took = bed.now().since(start);
        assert!(took >= least * SECOND && took < most * SECOND, "{api:?}: {took:?}");
        let failures = u64::from(api != ApiKey::Metadata);
        assert_eq!(bed.engine.stats().link_failures, failures, "{api:?}");
    }
}

/// A long poll may wait longer than request.timeout.ms: that is no broker that does not answer.
#[test]
fn d2_52_a_long_poll_beyond_the_request_timeout_keeps_its_link() {
    let settings = EngineSettings { request_timeout: 5 * SECOND, ..EngineSettings::default() };
    let mut bed = Bed::new(World::calm(41), 1, 1, &[("t", 1)], settings);
    let consumer = bed.engine.consumer().fetch_max_wait(30 * SECOND);
    let mut consumer = consumer.assign([("t", 0, StartAt::Earliest)]).build().unwrap();
    let read = bed.start("consumer", async move { consumer.next_async().await.unwrap().iter().count() });
    bed.pass(10 * MINUTE);
    let stats = bed.engine.stats();
    assert_eq!((stats.connects, stats.link_failures), (1, 0));
    assert!((15..=40).contains(&stats.fetch_requests), "{} Fetches in ten minutes", stats.fetch_requests);
    let producer = bed.engine.producer().build().unwrap();
    let start = bed.now();
    bed.run(MINUTE, async move {
        send(&producer, 0, "v").await;
        producer.flush_async().await.unwrap()
    });
    bed.pass(SECOND);
    assert_eq!(read.take(), Some(1), "and what comes is heard at once: {:?}", bed.now().since(start));
}

/// One flush of 30 ready partitions of one broker is one Produce request.
#[test]
fn r02_a_flush_of_thirty_partitions_of_one_broker_is_one_request() {
    let settings = EngineSettings::default();
    let mut bed = Bed::new(World::calm(13), 1, 1, &[("t", 30)], settings);
    let producer = bed.engine.producer().linger(MINUTE).build().unwrap();
    let warm = producer.clone();
    // Producer id, metadata and the first batch of every partition, which goes alone.
    let fill = |producer: Producer| async move {
        for partition in 0..30 {
            send(&producer, partition, "v").await;
        }
        producer.flush_async().await.unwrap()
    };
    assert_eq!(bed.run(MINUTE, fill(warm)), NONE_LOST);
    for _ in 0..3 {
        let requests = |bed: &Bed| bed.broker.look(|core| core.counters().requests(ApiKey::Produce));
        let before = requests(&bed);
        assert_eq!(bed.run(MINUTE, fill(producer.clone())), NONE_LOST);
        assert_eq!(requests(&bed) - before, 1);
    }
}

/// How long 200 records, one after the other, wait for their acknowledgement; the slowest first.
fn acknowledgements(bed: &mut Bed) -> Vec<Duration> {
    let producer = bed.engine.producer().linger(Duration::ZERO).build().unwrap();
    let clock = bed.world.clock();
    let mut times = bed.run(10 * MINUTE, async move {
        let mut times = Vec::new();
        for n in 0..200 {
            clock.sleep(Duration::from_millis(n % 37)).await;
            let start = clock.time();
            let sent = producer.submit(Record::to("t").partition(0).value("v")).unwrap();
            sent.await.unwrap();
            times.push(clock.time().since(start));
        }
        times
    });
    times.sort_unstable_by(|a, b| b.cmp(a));
    times
}

/// Producing beside a consumer whose long poll has nothing to return: their links are apart, so that records of the same
/// broker are acknowledged as fast as alone.
#[test]
fn d2_52_an_idle_long_poll_does_not_delay_producing_to_the_same_broker() {
    let bed = |seed| Bed::new(World::calm(seed), 1, 1, &[("t", 1), ("quiet", 1)], EngineSettings::default());
    let mut alone = bed(17);
    let alone_times = acknowledgements(&mut alone);
    let mut beside = bed(17);
    let consumer = beside.engine.consumer().fetch_max_wait(30 * SECOND);
    let mut consumer = consumer.assign([("quiet", 0, StartAt::Earliest)]).build().unwrap();
    let heard = Rc::new(RefCell::new(0));
    let count = Rc::clone(&heard);
    beside.world.spawn_task("consumer", async move {
        while let Ok(batch) = consumer.next_async().await {
            *count.borrow_mut() += batch.iter().count();
        }
    });
    beside.pass(5 * SECOND);
    let polls = beside.broker.look(|core| core.counters().requests(ApiKey::Fetch));
    assert!(polls >= 1, "the long poll is out");
    let beside_times = acknowledgements(&mut beside);
    let p99 = |times: &[Duration]| times[times.len() / 100];
    let (alone, with) = (p99(&alone_times), p99(&beside_times));
    assert!(with < 2 * alone, "p99 {with:?} beside a long poll, {alone:?} alone");
    assert_eq!(*heard.borrow(), 0);
}

/// Somebody needs what a link of this role is for, all the time, and asks beside it for what the broker does answer.
fn keep_asking(bed: &mut Bed, purpose: ApiKey) {
    let clock = bed.world.clock();
    match purpose {
        ApiKey::Fetch => {
            let mut consumer = bed.engine.consumer().assign([("t", 0, StartAt::Earliest)]).build().unwrap();
            bed.world.spawn_task("consumer", async move {
                loop {
                    clock.sleep(Duration::from_millis(20)).await;
                    // Asks for offsets, on the same link.
                    consumer.seek("t", 0, StartAt::Earliest).unwrap();
                }
            });
        }
        _ => {
            // Each is a job of its own at control.
            let producers: Vec<Producer> = (0..20).map(|_| bed.engine.producer().build().unwrap()).collect();
            bed.world.spawn_task("producers", async move {
                loop {
                    for producer in &producers {
                        send(producer, 0, "v").await;
                    }
                    clock.sleep(SECOND).await;
                }
            });
        }
    }
}

/// A broker that shakes hands, answers what is asked beside it, and cuts the connection at each call that the link is for.
/// No role of link tries it more than 20 times in a second; each does less and less often, down to about two, with a wait
/// of at most a second.
#[test]
fn d4_85_a_link_whose_purpose_is_never_answered_is_tried_less_and_less_often() {
    for purpose in [ApiKey::Produce, ApiKey::Fetch, ApiKey::InitProducerId] {
        for cut in [Reaction::DropBefore, Reaction::DropAfter, Reaction::WrongCorrelation] {
            let mut bed = Bed::new(World::calm(19), 1, 1, &[("t", 1)], EngineSettings::default());
            let node = bed.broker.address(0).unwrap();
            bed.broker.with(|core| core.faults.add(Rule::new(cut.clone()).api(purpose)));
            keep_asking(&mut bed, purpose);
            let tries = |bed: &Bed| match purpose {
                ApiKey::InitProducerId => bed.world.net().attempts(node),
                _ => bed.engine.stats().connects,
            };
            let (mut before, mut each_second) = (0, Vec::new());
            for _ in 0..60 {
                bed.pass(SECOND);
                each_second.push(tries(&bed) - before);
                before = tries(&bed);
            }
            assert!(each_second.iter().all(|tries| *tries <= 20), "{purpose:?}, {cut:?}: {each_second:?}");
            let late: u64 = each_second[30..].iter().sum();
            assert!((10..=120).contains(&late), "{purpose:?}, {cut:?}: {late} tries in 30 s: {each_second:?}");
        }
    }
}
