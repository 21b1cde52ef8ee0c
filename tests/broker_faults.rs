//! The embedded broker's fault rules and hooks: each reaction, seen from the client.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use std::time::{Duration, Instant};

use broker_support::{Batch, Client, Lost, PATIENCE, fetch, produce};
use ottla::testkit::broker::{Broker, CloseReason, Control, Reaction, Rule};
use ottla::wire::messages::{HeartbeatRequest, HeartbeatResponse, MetadataRequest, ProduceRequest};
use ottla::wire::{ApiKey, ErrorCode};

fn broker() -> Broker {
    Broker::builder().topic("t", 2).start().unwrap()
}

fn on_produce(reaction: Reaction) -> Rule {
    Rule::new(reaction).api(ApiKey::Produce).times(1)
}

fn produced(broker: &Broker) -> Result<i16, Lost> {
    let mut client = Client::to(broker, 0);
    let answer = client.try_call(12, &produce("t", 0, -1, Batch::of(1).bytes()))?;
    Ok(answer.responses[0].partition_responses[0].error_code)
}

#[test]
fn a_dropped_request_is_not_handled_and_a_lost_answer_is() {
    let broker = broker();
    let rule = broker.rule(on_produce(Reaction::DropBefore));
    assert_eq!(produced(&broker), Err(Lost::Closed));
    assert_eq!((broker.log("t", 0).len(), broker.remove_rule(rule)), (0, Some(1)));
    broker.rule(on_produce(Reaction::DropAfter));
    assert_eq!(produced(&broker), Err(Lost::Closed));
    assert_eq!(broker.log("t", 0).len(), 1);
    assert_eq!(produced(&broker), Ok(0), "the rule fired once only");
    assert!(broker.wait_until(PATIENCE, |core| core.counters().closes.get(&CloseReason::Fault) == Some(&2)));
}

#[test]
fn errors_come_instead_of_or_after_handling_and_stay_with_their_partition() {
    let broker = broker();
    broker.rule(on_produce(Reaction::Error(ErrorCode::KafkaStorageError)).topic("t").partition(0));
    let mut request = produce("t", 0, -1, Batch::of(1).bytes());
    let mut other = request.topic_data[0].partition_data[0].clone();
    other.index = 1;
    request.topic_data[0].partition_data.push(other);
    let answer = Client::to(&broker, 0).call(12, &request);
    let codes: Vec<i16> = answer.responses[0].partition_responses.iter().map(|part| part.error_code).collect();
    assert_eq!(codes, [ErrorCode::KafkaStorageError.code(), 0]);
    assert_eq!((broker.log("t", 0).len(), broker.log("t", 1).len()), (0, 1));
    broker.rule(on_produce(Reaction::ErrorAfter(ErrorCode::RequestTimedOut)));
    assert_eq!(produced(&broker), Ok(ErrorCode::RequestTimedOut.code()));
    assert_eq!(broker.log("t", 0).len(), 1, "it was appended all the same");
    assert_eq!(broker.counters().errors_of(ErrorCode::RequestTimedOut), 1);
}

#[test]
fn frames_are_cut_and_spoiled() {
    let broker = broker();
    broker.rule(on_produce(Reaction::Truncate(20)));
    assert!(matches!(produced(&broker), Err(Lost::Broken(_))));
    broker.rule(on_produce(Reaction::WrongCorrelation));
    assert!(matches!(produced(&broker), Err(Lost::Broken(what)) if what.starts_with("correlation")));
    let mut client = Client::to(&broker, 0);
    let good = client.fetch("t", 0, 0).records.unwrap();
    broker.rule(Rule::new(Reaction::FlipBit(-4)).api(ApiKey::Fetch));
    let spoiled = client.fetch("t", 0, 0).records.unwrap();
    assert_eq!(spoiled.len(), good.len());
    assert_eq!(spoiled.iter().zip(&good).filter(|(a, b)| a != b).count(), 1);
}

#[test]
fn delays_hold_one_connection_only() {
    let broker = broker();
    let delay = Duration::from_millis(300);
    broker.rule(on_produce(Reaction::Delay(delay)));
    let mut slow = Client::to(&broker, 0);
    let started = Instant::now();
    slow.send(12, &produce("t", 0, -1, Batch::of(1).bytes()));
    assert!(broker.wait_until(PATIENCE, |core| core.counters().faults.get("delay") == Some(&1)));
    assert_eq!(
        Client::to(&broker, 0).produce("t", 0, Batch::of(1).bytes()).base_offset,
        0,
        "overtakes the delayed one"
    );
    let late = slow.receive::<ProduceRequest>(12).unwrap();
    assert!(started.elapsed() >= delay);
    assert_eq!(late.responses[0].partition_responses[0].base_offset, 1);
    broker.rule(on_produce(Reaction::DelayAnswer(delay)));
    let started = Instant::now();
    slow.send(12, &produce("t", 0, -1, Batch::of(1).bytes()));
    assert!(broker.wait_until(PATIENCE, |core| core.log("t", 0).len() == 3));
    assert_eq!(slow.receive::<ProduceRequest>(12).unwrap().responses[0].partition_responses[0].base_offset, 2);
    assert!(started.elapsed() >= delay);
}

#[test]
fn throttling_answers_at_once_and_then_is_deaf() {
    let broker = broker();
    let time = Duration::from_millis(300);
    broker.rule(on_produce(Reaction::Throttle(time)));
    let mut client = Client::to(&broker, 0);
    let started = Instant::now();
    let answer = client.call(12, &produce("t", 0, -1, Batch::of(1).bytes()));
    assert_eq!(answer.throttle_time_ms, 300);
    client.call(12, &MetadataRequest::default());
    assert!(started.elapsed() >= time, "{:?}", started.elapsed());
}

#[test]
fn a_black_hole_keeps_the_connection() {
    let broker = broker();
    broker.rule(on_produce(Reaction::BlackHole));
    let mut client = Client::to(&broker, 0);
    client.send(12, &produce("t", 0, -1, Batch::of(1).bytes()));
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = std::io::Read::read(&mut client.stream, &mut [0]).unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    drop(client);
    assert!(broker.wait_until(PATIENCE, |core| core.counters().connections_open == 0), "its client's end is noticed");
}

#[test]
fn a_hook_answers_instead_of_the_broker() {
    let broker = broker();
    let mut seen = 0;
    broker.control(move |call, request: &HeartbeatRequest| {
        seen += 1;
        match (request.group_id.as_str(), seen) {
            ("g", 1) => Some(Control::Answer(HeartbeatResponse {
                error_code: ErrorCode::RebalanceInProgress.code(),
                throttle_time_ms: i32::from(call.version),
                ..HeartbeatResponse::default()
            })),
            ("g", 2) => Some(Control::Close),
            _ => None,
        }
    });
    let beat = HeartbeatRequest { group_id: "g".into(), ..HeartbeatRequest::default() };
    let mut client = Client::to(&broker, 0);
    let answer = client.call(4, &beat);
    assert_eq!((answer.error_code, answer.throttle_time_ms), (ErrorCode::RebalanceInProgress.code(), 4));
    assert_eq!(client.try_call(4, &beat), Err(Lost::Closed));
    let own = Client::to(&broker, 0).call(4, &beat);
    assert_eq!(own.error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_connection_is_served_in_order_and_blocks_no_other() {
    let broker = broker();
    let mut client = Client::to(&broker, 0);
    client.send(12, &fetch("t", &[(1, 0)], 400));
    client.send(12, &produce("t", 0, -1, Batch::of(1).bytes()));
    assert!(broker.wait_until(PATIENCE, |core| core.counters().requests(ApiKey::Fetch) == 1));
    assert_eq!(Client::to(&broker, 0).produce("t", 0, Batch::of(1).bytes()).base_offset, 0);
    assert_eq!(broker.counters().requests(ApiKey::Produce), 1, "the one behind the long poll is not looked at");
    let fetched = client.frame().unwrap();
    assert_eq!(fetched[..4], 1i32.to_be_bytes(), "answers come in the order of the requests");
    let answer = client.receive::<ProduceRequest>(12).unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 1);
}
