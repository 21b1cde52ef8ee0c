//! Hostile bytes for the embedded broker: requests of every API, changed in a few places, one after another. It answers in
//! the protocol, or closes the connection for a reason; it never panics, and its memory stays bounded.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod broker_support;
#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;
mod fuzz_support;
#[path = "common/golden.rs"]
#[allow(dead_code)]
mod golden;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use bolero::{check, produce};
use broker_support::{Batch, Client, fetch, produce as produce_request};
use bytes::Bytes;
use counting::peak_bytes;
use fuzz_support::{Recipe, iterations};
use ottla::base::time::{Now, Time};
use ottla::testkit::broker::{Broker, BrokerCore, CloseReason, Options, Outcome, TopicSpec};
use ottla::wire::any::{self, Which};
use ottla::wire::frame::{decode_response_header, encode_request, encode_request_header};
use ottla::wire::messages::*;
use ottla::wire::{ApiKey, Reader, Request};

/// Requests without their length: what Java's classes write of every API and version, and some that mean a topic that is there.
fn requests() -> Vec<Vec<u8>> {
    let apis: Vec<ApiKey> = ApiKey::all().collect();
    let mut all = Vec::new();
    for line in golden::messages() {
        let Some(name) = line.name.strip_suffix("Request") else { continue };
        let Some(api) = apis.iter().find(|api| api.name() == name) else { continue };
        // Arrays of three repeat what one has.
        if line.case != "three" {
            let mut frame = Vec::new();
            encode_request_header(*api, line.version, 77, Some("fuzz"), &mut frame).unwrap();
            frame.extend_from_slice(&line.bytes);
            if served(&frame) {
                all.push(frame);
            }
        }
    }
    let java = all.len();
    // A third of the corpus, though they are few.
    while all.len() < java * 3 / 2 {
        meant(&mut all);
    }
    all
}

/// Whether the broker knows the API in this version.
fn served(frame: &[u8]) -> bool {
    let (mut core, now) = (core(), Now { mono: Time::ZERO, wall_ms: 0 });
    let conn = core.connect(now, 0, "somewhere");
    let outcome = core.handle(now, conn, &Bytes::copy_from_slice(frame), &mut Vec::new());
    !matches!(outcome, Outcome::Close(CloseReason::UnknownApi | CloseReason::UnknownVersion))
}

fn meant(all: &mut Vec<Vec<u8>>) {
    fn put<Q: Request>(all: &mut Vec<Vec<u8>>, version: i16, request: &Q) {
        let mut frame = Vec::new();
        encode_request(version, 78, Some("fuzz"), request, &mut frame).unwrap();
        all.push(frame.split_off(4));
    }
    for (acks, batch) in [(-1, Batch::of(3)), (1, Batch::of(1).sequenced(1000, 0, 0)), (0, Batch::of(5).values_of(200))]
    {
        put(all, 12, &produce_request("t", 0, acks, batch.bytes()));
    }
    for wait in [0, 50] {
        put(all, 12, &fetch("t", &[(0, 0), (1, 5)], wait));
    }
    put(all, 12, &MetadataRequest::default());
    put(all, 4, &InitProducerIdRequest { producer_id: -1, producer_epoch: -1, ..Default::default() });
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 1_000,
        protocol_type: "consumer".into(),
        protocols: vec![join_group::request::JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    };
    put(all, 3, &join);
    put(all, 3, &SyncGroupRequest { group_id: "g".into(), generation_id: 1, ..Default::default() });
    let topic = create_topics::request::CreatableTopic {
        name: "new".into(),
        num_partitions: 3,
        replication_factor: 1,
        ..Default::default()
    };
    put(all, 5, &CreateTopicsRequest { topics: vec![topic], timeout_ms: 100, ..Default::default() });
}

fn core() -> BrokerCore {
    BrokerCore::new(Options { topics: vec![TopicSpec::new("t", 2)], ..Options::default() }).unwrap()
}

/// The most that a few small requests may make the broker hold.
const MEMORY_MAX: usize = 24 << 20;

/// One request: an answer that its asker understands, or none, or the end of the connection. Says whether it goes on.
fn ask(core: &mut BrokerCore, now: &mut Now, conn: ottla::testkit::broker::ConnId, frame: &Bytes) -> bool {
    let mut out = Vec::new();
    let mut outcome = core.handle(*now, conn, frame, &mut out);
    for _ in 0..20 {
        let Outcome::Parked { until } = outcome else { break };
        if until == Time::NEVER {
            return false;
        }
        now.mono = now.mono.max(until);
        core.tick(*now);
        outcome = core.resume(*now, conn, &mut out);
    }
    match outcome {
        Outcome::Answered => {
            let [key, version] = [0, 2].map(|at| i16::from_be_bytes([frame[at], frame[at + 1]]));
            let api = ApiKey::try_from(key).unwrap();
            // KIP-511: whoever asks for versions in one that does not exist is answered in version 0.
            let version = if api.versions().contains(version) { version } else { 0 };
            assert_eq!(out[..4], (out.len() as u32 - 4).to_be_bytes());
            let mut body = Reader::new(&out[4..]);
            let header = decode_response_header(api, version, &mut body).unwrap();
            assert_eq!(header.correlation_id.to_be_bytes(), frame[4..8]);
            assert_eq!(
                any::check(&Which::Response(key), version, body.rest()),
                Ok(body.remaining()),
                "{api:?} {version}"
            );
            true
        }
        Outcome::NoAnswer => {
            assert_eq!(frame[..2], [0, 0], "only Produce has no answer");
            true
        }
        Outcome::Close(reason) => {
            assert_ne!(reason, CloseReason::BrokerFault);
            assert!(core.disconnect(*now, conn, reason));
            false
        }
        // For a member that never comes.
        Outcome::Parked { .. } => false,
    }
}

#[test]
fn fuzz_broker_requests() {
    let corpus = requests();
    assert!(corpus.len() > 300, "{}", corpus.len());
    let recipes = produce::<Vec<Recipe>>().with().len(1..6usize);
    check!().with_iterations(iterations(10_000)).with_generator(recipes).for_each(|recipes| {
        let ((), peak) = peak_bytes(|| {
            let mut core = core();
            let mut now = Now { mono: Time::ZERO, wall_ms: 1_700_000_000_000 };
            let mut conn = core.connect(now, 0, "somewhere");
            for recipe in recipes {
                if !ask(&mut core, &mut now, conn, &Bytes::from(recipe.cook(&corpus))) {
                    conn = core.connect(now, 0, "somewhere");
                }
            }
            // Whatever came before, it serves.
            conn = core.connect(now, 0, "somewhere");
            let mut frame = Vec::new();
            encode_request(4, 1, None, &MetadataRequest::default(), &mut frame).unwrap();
            assert!(ask(&mut core, &mut now, conn, &Bytes::from(frame.split_off(4))));
            assert!(core.stored_bytes() < 1 << 20);
        });
        assert!(peak < MEMORY_MAX, "{peak} bytes held");
    });
}

/// Over a socket: bytes in pieces, whole frames among them, and the end. Every connection ends, for a counted reason.
#[test]
fn fuzz_broker_connections() {
    let corpus = requests();
    let broker = Broker::builder().topic("t", 2).start().unwrap();
    let recipes = produce::<Vec<(Recipe, u8)>>().with().len(1..4usize);
    let tried = std::sync::atomic::AtomicU64::new(0);
    check!().with_iterations(iterations(600)).with_generator(recipes).for_each(|recipes| {
        let mut stream = Client::to(&broker, 0).stream;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut bytes = Vec::new();
        for (recipe, how) in recipes {
            let frame = recipe.cook(&corpus);
            match how {
                0..230 => bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes()),
                230..240 => bytes.extend_from_slice(&(frame.len() as u32 + u32::from(*how)).to_be_bytes()),
                _ => {}
            }
            bytes.extend_from_slice(&frame);
        }
        // The broker may close before it has read all of it.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let mut rest = answers.as_slice();
        while let Some((prefix, behind)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = behind.split_at_checked(u32::from_be_bytes(*prefix) as usize).unwrap();
            assert!(frame.len() >= 4);
            rest = behind;
        }
        assert!(rest.is_empty());
        tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let tried = tried.into_inner();
    let all = |core: &BrokerCore| core.counters().closes.values().sum::<u64>();
    assert!(broker.wait_until(broker_support::PATIENCE, |core| all(core) >= tried), "{:?}", broker.counters().closes);
    let closes = broker.counters().closes;
    println!("{tried} connections: {closes:?}");
    assert!(!closes.contains_key(&CloseReason::BrokerFault));
    assert_eq!(broker.counters().connections_open, 0);
    assert_eq!(Client::to(&broker, 0).call(12, &MetadataRequest::default()).brokers.len(), 1);
}
