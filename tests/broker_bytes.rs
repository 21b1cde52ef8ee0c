//! The embedded broker against bytes that no client should send: closed with a counted reason, and alive afterwards.
#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)]

mod broker_support;

use std::io::Write;

use broker_support::{Batch, Client, Lost, PATIENCE, fetch, produce};
use ottla::testkit::broker::{Broker, CloseReason};
use ottla::wire::frame::encode_request;
use ottla::wire::messages::api_versions::response::ApiVersion;
use ottla::wire::messages::*;
use ottla::wire::{ApiKey, ErrorCode, Message, Reader, Request};

fn closed_for(broker: &Broker, bytes: &[u8], reason: CloseReason) {
    let before = broker.counters().closes.get(&reason).copied().unwrap_or(0);
    let mut client = Client::to(broker, 0);
    client.stream.write_all(bytes).unwrap();
    assert_eq!(client.frame(), Err(Lost::Closed), "{reason:?}");
    let counted = broker.wait_until(PATIENCE, |core| core.counters().closes.get(&reason) == Some(&(before + 1)));
    assert!(counted, "{reason:?}: {:?}", broker.counters().closes);
}

#[test]
fn garbage_closes_the_connection_with_a_reason() {
    let broker = Broker::builder().start().unwrap();
    closed_for(&broker, b"GET / HTTP/1.1\r\n\r\n", CloseReason::FrameSize);
    closed_for(&broker, &(-1i32).to_be_bytes(), CloseReason::FrameSize);
    closed_for(&broker, &(104_857_601i32).to_be_bytes(), CloseReason::FrameSize);
    closed_for(&broker, &0i32.to_be_bytes(), CloseReason::FrameSize);
    closed_for(&broker, b"\x00\x00\x00\x0a\x03\xe7\x00\x00\x00\x00\x00\x01\xff\xff", CloseReason::UnknownApi);
    closed_for(&broker, b"\x00\x00\x00\x0a\x00\x03\x03\xe7\x00\x00\x00\x01\xff\xff", CloseReason::UnknownVersion);
    closed_for(&broker, b"\x00\x00\x00\x0a\x00\x03\x00\x01\x00\x00\x00\x01\x7f\xff", CloseReason::Malformed);
    // Produce 0 to 2 are listed for the sake of old librdkafka, but refused.
    closed_for(&broker, b"\x00\x00\x00\x0a\x00\x00\x00\x02\x00\x00\x00\x01\xff\xff", CloseReason::UnknownVersion);
    let after = Client::to(&broker, 0).call(12, &MetadataRequest::default());
    assert_eq!(after.brokers.len(), 1);
}

#[test]
fn every_truncation_of_a_request_is_malformed() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut add = |result: Result<(), ottla::wire::EncodeError>, frame: Vec<u8>| {
        result.unwrap();
        frames.push(frame);
    };
    let mut frame = Vec::new();
    add(encode_request(12, 1, None, &produce("t", 0, -1, Batch::of(2).bytes()), &mut frame), frame.clone());
    frame.clear();
    add(encode_request(12, 1, None, &fetch("t", &[(0, 0)], 0), &mut frame), frame.clone());
    for frame in frames {
        for end in 14..frame.len() - 4 {
            let mut cut = ((end) as i32).to_be_bytes().to_vec();
            cut.extend_from_slice(&frame[4..4 + end]);
            closed_for(&broker, &cut, CloseReason::Malformed);
        }
    }
    assert_eq!(broker.log("t", 0).len(), 0);
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let broker = Broker::builder().start().unwrap();
    let mut client = Client::to(&broker, 0);
    let mut raw = b"\x00\x00\x00\x0f\x00\x12\x00\x63\x00\x00\x00\x07\xff\xff\x00\x02x\x02y\x00".to_vec();
    raw[3] = (raw.len() - 4) as u8;
    client.stream.write_all(&raw).unwrap();
    let frame = client.frame().unwrap();
    let mut body = Reader::shared(&frame);
    assert_eq!(body.i32().unwrap(), 7, "correlation id");
    let answer = ApiVersionsResponse::decode(0, &mut body).unwrap();
    assert_eq!(answer.error_code, ErrorCode::UnsupportedVersion.code());
    assert!(answer.api_keys.iter().any(|listed| listed.api_key == 18 && listed.max_version == 4));
    assert_eq!(client.call(4, &versions_request()).error_code, 0, "the connection goes on");
}

fn versions_request() -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
        ..ApiVersionsRequest::default()
    }
}

/// Sends a default request of every listed version of one API; any well-formed answer will do.
fn sweep<Q: Request>(broker: &Broker, listed: &[ApiVersion]) {
    let listed = listed.iter().find(|listed| listed.api_key == Q::KEY as i16).unwrap();
    assert_eq!(listed.max_version, Q::VERSIONS.max, "{}", Q::NAME);
    for version in Q::VERSIONS.min..=Q::VERSIONS.max {
        let mut client = Client::to(broker, 0);
        client.try_call(version, &Q::default()).unwrap_or_else(|lost| panic!("{} v{version}: {lost:?}", Q::NAME));
    }
}

#[test]
fn every_listed_version_of_every_api_is_answered() {
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let listed = Client::to(&broker, 0).call(4, &versions_request());
    assert!(listed.finalized_features.iter().any(|feature| feature.name == "metadata.version"));
    let keys = listed.api_keys;
    macro_rules! sweep_all {
        ($($request:ident)*) => { [$({ sweep::<$request>(&broker, &keys); $request::KEY as i16 }),*] };
    }
    let mut swept = sweep_all! {
        FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest OffsetFetchRequest FindCoordinatorRequest
        JoinGroupRequest HeartbeatRequest LeaveGroupRequest SyncGroupRequest DescribeGroupsRequest ListGroupsRequest
        ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest DeleteRecordsRequest InitProducerIdRequest
        OffsetForLeaderEpochRequest DescribeConfigsRequest AlterConfigsRequest CreatePartitionsRequest DeleteGroupsRequest
        IncrementalAlterConfigsRequest DescribeClusterRequest DescribeTopicPartitionsRequest
    }
    .to_vec();
    // Its default has acks=0, to which there is no answer; tests/broker_produce.rs sweeps it.
    swept.push(ApiKey::Produce as i16);
    swept.sort_unstable();
    assert_eq!(swept, keys.iter().map(|listed| listed.api_key).collect::<Vec<_>>());
}
