//! The embedded broker on the simulated network: the same bytes in virtual time, and equal runs for equal seeds.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use broker_support::{Batch, fetch, produce};
use ottla::base::time::{Now, Time};
use ottla::ring::sim::net::Connecting;
use ottla::testkit::broker::{Options, Reaction, Rule, SimBroker, TopicSpec};
use ottla::testkit::net::ReadResult;
use ottla::testkit::sim::World;
use ottla::wire::frame::{FrameReader, encode_request};
use ottla::wire::messages::{FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, ResponseHeader};
use ottla::wire::{ApiKey, Message, Reader, Request};

/// Sends the given frames over one connection, one after the other as answers come, and keeps answers with their times.
type Answers = Rc<RefCell<Vec<(Time, Vec<u8>)>>>;

fn client(world: &mut World, broker: &SimBroker, node: i32, frames: Vec<Vec<u8>>) -> (Answers, Rc<Cell<bool>>) {
    let party = world.party("client");
    let net = world.net().clone();
    let end = net.connect(broker.address(node).unwrap(), party);
    let (answers, closed) = (Answers::default(), Rc::new(Cell::new(false)));
    let (kept, over) = (answers.clone(), closed.clone());
    let (mut input, mut next) = (Vec::new(), 0);
    world.spawn(party, move |now: Now| {
        match net.connecting(end) {
            Connecting::Connected => {}
            _ => return None,
        }
        loop {
            if next == kept.borrow().len() && next < frames.len() {
                assert_eq!(net.write(end, &frames[next]).unwrap(), frames[next].len());
                next += 1;
            }
            let mut piece = vec![0; 4096];
            match net.read(end, &mut piece) {
                ReadResult::Data(count) => input.extend_from_slice(&piece[..count]),
                ReadResult::Pending => return None,
                ReadResult::Ended | ReadResult::Reset => {
                    over.set(true);
                    return None;
                }
            }
            while let Some(frame) = FrameReader::default().frame(&input).unwrap().map(<[u8]>::to_vec) {
                input.drain(..4 + frame.len());
                kept.borrow_mut().push((now.mono, frame));
            }
        }
    });
    (answers, closed)
}

fn request<Q: Request>(request: &Q) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_request(12, 1, Some("sim"), request, &mut frame).unwrap();
    frame
}

fn answer<Q: Request>(frame: &[u8]) -> Q::Response {
    let mut body = Reader::new(frame);
    ResponseHeader::decode(Q::KEY.response_header_version(12), &mut body).unwrap();
    Q::Response::decode(12, &mut body).unwrap()
}

fn options() -> Options {
    Options { brokers: 2, topics: vec![TopicSpec::new("t", 2)], ..Options::default() }
}

fn broker(world: &mut World) -> SimBroker {
    let party = world.party("broker");
    let (broker, mut driver) = SimBroker::new(world.net(), party, options()).unwrap();
    world.spawn(party, move |now: Now| driver.turn(now));
    broker
}

/// One run: a long poll on one connection, a delayed produce on another. Its trace hash and times.
fn run(seed: u64) -> (u64, Vec<Time>) {
    let mut world = World::calm(seed);
    let broker = broker(&mut world);
    let delay = Duration::from_secs(5);
    broker.with(|core| core.faults.add(Rule::new(Reaction::Delay(delay)).api(ApiKey::Produce).nth(2)));
    let batch = Batch::of(3).bytes();
    let frames = vec![request(&produce("t", 0, -1, batch.clone())), request(&produce("t", 0, -1, batch))];
    let (produced, _) = client(&mut world, &broker, 0, frames);
    let (fetched, _) = client(&mut world, &broker, 0, vec![request(&fetch("t", &[(0, 3)], 60_000))]);
    let (empty, _) = client(&mut world, &broker, 1, vec![request(&fetch("t", &[(1, 0)], 20_000))]);
    let (p, f, e) = (produced.clone(), fetched.clone(), empty.clone());
    world.run(Duration::from_secs(60), move || p.borrow().len() == 2 && f.borrow().len() == 1 && e.borrow().len() == 1);
    let second: ProduceResponse = answer::<ProduceRequest>(&produced.borrow()[1].1);
    assert_eq!(second.responses[0].partition_responses[0].base_offset, 3);
    let told: FetchResponse = answer::<FetchRequest>(&fetched.borrow()[0].1);
    assert!(!told.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
    let told: FetchResponse = answer::<FetchRequest>(&empty.borrow()[0].1);
    assert!(told.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
    let times = [&produced.borrow()[1], &fetched.borrow()[0], &empty.borrow()[0]].map(|(time, _)| *time).to_vec();
    (world.schedule().trace_hash(), times)
}

#[test]
fn long_polls_and_delays_take_virtual_time() {
    let started = std::time::Instant::now();
    let (_, times) = run(1);
    let seconds: Vec<u64> = times.iter().map(|time| time.as_millis() / 1000).collect();
    assert_eq!(seconds, [5, 5, 20], "the delayed produce, the poll it answers, the poll that ends empty");
    assert!(started.elapsed() < Duration::from_secs(5), "nobody slept");
}

#[test]
fn equal_seeds_give_equal_runs() {
    assert_eq!(run(7), run(7));
}

#[test]
fn a_stopped_node_closes_refuses_and_comes_back() {
    let mut world = World::calm(3);
    let broker = broker(&mut world);
    let polls = vec![request(&fetch("t", &[(1, 0)], 60_000))];
    let (answers, closed) = client(&mut world, &broker, 1, polls.clone());
    let seen = broker.clone();
    world.run(Duration::from_secs(1), move || seen.look(|core| core.counters().requests(ApiKey::Fetch) == 1));
    assert!(broker.stop_node(1));
    let over = closed.clone();
    world.run(Duration::from_secs(1), move || over.get());
    assert!(answers.borrow().is_empty());
    let address = broker.address(1).unwrap();
    let party = world.party("visitor");
    let attempt = |world: &mut World| {
        let net = world.net().clone();
        let end = net.connect(address, party);
        let watch = net.clone();
        world.run(Duration::from_secs(5), move || !matches!(watch.connecting(end), Connecting::Pending));
        matches!(net.connecting(end), Connecting::Connected)
    };
    assert!(!attempt(&mut world));
    assert!(broker.start_node(1));
    // The driver binds at its next turn.
    let soon = world.schedule().time() + Duration::from_millis(1);
    world.run_until(soon, || false);
    assert!(attempt(&mut world));
}
