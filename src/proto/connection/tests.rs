//! The connection against scripted bytes, in virtual time.

use super::*;
use crate::wire::VersionRange;
use crate::wire::messages::api_versions::response::{ApiVersion, SupportedFeatureKey};
use crate::wire::messages::{MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse};

#[derive(Default, Debug)]
struct Heard {
    ready: usize,
    replies: Vec<(u64, Vec<u8>)>,
    parts: Vec<(u64, usize, usize, usize)>,
    gathered: Vec<u8>,
    written: Vec<u64>,
    failed: Vec<(u64, Written, String)>,
    then: Option<Then>,
}

impl Sink for Heard {
    fn ready(&mut self, _: &Versions) {
        self.ready += 1;
    }
    fn reply(&mut self, reply: Reply<'_>) -> Then {
        self.replies.push((reply.tag, reply.body.to_vec()));
        self.then.unwrap_or(Then::Continue)
    }
    fn reply_part(&mut self, part: ReplyPart<'_>) -> Then {
        self.parts.push((part.tag, part.total, part.offset, part.bytes.len()));
        self.gathered.extend_from_slice(part.bytes);
        self.then.unwrap_or(Then::Continue)
    }
    fn written(&mut self, tag: u64, _: ApiKey) {
        self.written.push(tag);
    }
    fn failed(&mut self, failure: Failure<'_>) {
        self.failed.push((failure.tag, failure.written, failure.cause.to_string()));
    }
}

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn settings() -> ConnectionSettings {
    let settings = EngineSettings { client_id: "tester".into(), ..Default::default() };
    ConnectionSettings { frame_bytes_max: 1 << 20, max_in_flight: 3, ..ConnectionSettings::new(&settings) }
}

fn fresh() -> Connection {
    Connection::new(Rc::new(settings()), ChunkPool::new(1 << 20))
}

/// What the next write would put on the wire.
fn written(connection: &mut Connection, now: Time) -> Vec<u8> {
    let mut pieces = Vec::new();
    connection.next_write(now, &mut pieces);
    pieces.iter().flat_map(|piece| piece.bytes().to_vec()).collect()
}

/// (api key, version, correlation id) of each frame.
fn frames_in(mut bytes: &[u8]) -> Vec<(i16, i16, i32)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let len = i32::from_be_bytes(bytes[0..4].try_into().unwrap()) as usize;
        let short = |at: usize| i16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
        found.push((short(4), short(6), i32::from_be_bytes(bytes[8..12].try_into().unwrap())));
        bytes = &bytes[4 + len..];
    }
    found
}

fn reply_frame<R: crate::wire::Response>(version: i16, correlation: i32, message: &R) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_response(version, correlation, message, &mut out).unwrap();
    out
}

fn versions_answer(error: ErrorCode) -> ApiVersionsResponse {
    let key = |api: ApiKey| ApiVersion {
        api_key: api as i16,
        min_version: api.versions().min,
        max_version: api.versions().max,
        ..Default::default()
    };
    ApiVersionsResponse {
        error_code: error.code(),
        api_keys: vec![key(ApiKey::Produce), key(ApiKey::Metadata), key(ApiKey::ApiVersions)],
        ..Default::default()
    }
}

fn highest() -> i16 {
    ApiKey::ApiVersions.versions().max
}

/// A connection that has done its handshake at time 0; its next correlation id is 1.
fn ready() -> (Connection, Heard) {
    let (mut connection, mut heard) = (fresh(), Heard::default());
    connection.connect(at(0));
    connection.on_connected(at(0));
    let sent = frames_in(&written(&mut connection, at(0)));
    connection.on_sent(at(0), &mut heard);
    assert_eq!(sent, [(18, highest(), 0)]);
    let answer = reply_frame(highest(), 0, &versions_answer(ErrorCode::None));
    connection.on_received(at(0), &answer, &mut heard);
    assert_eq!(heard.ready, 1);
    (connection, heard)
}

fn metadata_head() -> Vec<u8> {
    let mut head = Vec::new();
    encode_head("tester", 9, &MetadataRequest::default(), &mut head).unwrap();
    head
}

fn submit(connection: &mut Connection, now: Time, tag: u64, reply: ReplyMode) -> Result<(), RefusedWhy> {
    let head = metadata_head();
    let call = Call { tag, api: ApiKey::Metadata, version: 9, head: &head, inserts: Vec::new(), timeout: None, reply };
    connection.submit(now, call).map_err(|refused| refused.why)
}

fn reset() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

#[test]
fn the_handshake_names_our_software_and_reads_features() {
    let (mut connection, mut heard) = (fresh(), Heard::default());
    connection.connect(at(0));
    connection.on_connected(at(1));
    let bytes = written(&mut connection, at(1));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("ottla") && text.contains(env!("CARGO_PKG_VERSION")) && text.contains("tester"));
    let mut answer = versions_answer(ErrorCode::None);
    answer.supported_features.push(SupportedFeatureKey { name: "x".into(), max_version: 3, ..Default::default() });
    answer.finalized_features.push(crate::wire::messages::api_versions::response::FinalizedFeatureKey {
        name: "transaction.version".into(),
        max_version_level: 2,
        ..Default::default()
    });
    connection.on_received(at(2), &reply_frame(highest(), 0, &answer), &mut heard);
    let versions = connection.versions().unwrap();
    assert_eq!(versions.feature("transaction.version"), 2);
    assert_eq!(versions.pick(ApiKey::Metadata), Some(ApiKey::Metadata.versions().max));
    assert_eq!(versions.offered(ApiKey::Fetch), None::<VersionRange>);
}

#[test]
fn d4_72_an_answer_in_version_0_lowers_the_version() {
    let (mut connection, mut heard) = (fresh(), Heard::default());
    connection.connect(at(0));
    connection.on_connected(at(0));
    written(&mut connection, at(0));
    connection.on_sent(at(0), &mut heard);
    // The broker knows ApiVersions up to 2 and says so, as brokers do, in version 0.
    let mut answer = versions_answer(ErrorCode::UnsupportedVersion);
    answer.api_keys = vec![ApiVersion { api_key: 18, min_version: 0, max_version: 2, ..Default::default() }];
    connection.on_received(at(1), &reply_frame(0, 0, &answer), &mut heard);
    assert_eq!(frames_in(&written(&mut connection, at(1))), [(18, 2, 1)]);
    connection.on_sent(at(1), &mut heard);
    // An older one says nothing but the code.
    connection.on_received(at(2), &[0, 0, 0, 10, 0, 0, 0, 1, 0, 35, 0, 0, 0, 0], &mut heard);
    assert_eq!(frames_in(&written(&mut connection, at(2))), [(18, 0, 2)]);
    connection.on_sent(at(2), &mut heard);
    connection.on_received(at(3), &reply_frame(0, 2, &versions_answer(ErrorCode::None)), &mut heard);
    assert!(connection.is_ready() && heard.ready == 1);
}

#[test]
fn d4_72_a_reset_instead_of_an_answer_lowers_the_version_after_two_tries() {
    let (mut connection, mut heard) = (fresh(), Heard::default());
    let mut tried = Vec::new();
    for i in 0..3 {
        connection.connect(at(i));
        connection.on_connected(at(i));
        tried.push(frames_in(&written(&mut connection, at(i)))[0].1);
        connection.on_closed(&reset(), 0, &mut heard);
    }
    assert_eq!(tried, [highest(), highest(), 0]);
    assert!(heard.failed.is_empty(), "the handshake is nobody's call");
}

#[test]
fn calls_are_pipelined_gathered_into_one_write_and_answered_in_order() {
    let (mut connection, mut heard) = ready();
    for tag in 10..13 {
        submit(&mut connection, at(1), tag, ReplyMode::Whole).unwrap();
    }
    assert_eq!(submit(&mut connection, at(1), 13, ReplyMode::Whole), Err(RefusedWhy::Busy));
    assert_eq!(frames_in(&written(&mut connection, at(1))), [(3, 9, 1), (3, 9, 2), (3, 9, 3)]);
    assert!(written(&mut connection, at(1)).is_empty(), "one write at a time");
    connection.on_sent(at(1), &mut heard);
    let answers: Vec<u8> = (1..4).flat_map(|i| reply_frame(9, i, &MetadataResponse::default())).collect();
    connection.on_received(at(2), &answers, &mut heard);
    assert_eq!(heard.replies.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [10, 11, 12]);
    assert!(connection.is_idle());
}

#[test]
fn replies_decode_alike_however_the_bytes_are_cut() {
    let mut message = MetadataResponse { cluster_id: Some("c".repeat(300)), ..Default::default() };
    message.controller_id = 7;
    let answers = [reply_frame(9, 1, &message), reply_frame(9, 2, &message)].concat();
    let body = message.to_bytes(9).unwrap();
    for step in [1, 2, 3, 5, 8, 9, 13, 100, 311, answers.len()] {
        for mode in [ReplyMode::Whole, ReplyMode::Parts] {
            let (mut connection, mut heard) = ready();
            submit(&mut connection, at(1), 1, mode).unwrap();
            submit(&mut connection, at(1), 2, mode).unwrap();
            written(&mut connection, at(1));
            connection.on_sent(at(1), &mut heard);
            for bytes in answers.chunks(step) {
                connection.on_received(at(2), bytes, &mut heard);
            }
            assert!(connection.is_ready() && connection.is_idle(), "{step} {mode:?}");
            match mode {
                ReplyMode::Whole => assert_eq!(heard.replies, [(1, body.clone()), (2, body.clone())], "{step}"),
                _ => {
                    assert_eq!(heard.gathered, [&body[..], &body[..]].concat(), "{step}");
                    assert!(heard.parts.iter().all(|part| part.1 == body.len()));
                    assert!(connection.partial.capacity() < 64, "nothing of a body is kept");
                }
            }
        }
    }
}

#[test]
fn inserts_go_between_the_bytes_of_the_head() {
    let (mut connection, _) = ready();
    let piece = |text: &[u8]| {
        let mut chunk = ChunkPool::new(0).take(text.len());
        chunk.put(text);
        Piece::whole(chunk)
    };
    let head = metadata_head();
    let n = u32::try_from(head.len()).unwrap();
    let mut inserts = connection.take_inserts();
    inserts.extend([(n - 1, piece(b"<one>")), (n - 1, piece(b"<two>")), (n, piece(b"<end>"))]);
    let (api, reply) = (ApiKey::Metadata, ReplyMode::Whole);
    connection
        .submit(at(1), Call { tag: 1, api, version: 9, head: &head, inserts, timeout: None, reply })
        .map_err(|refused| refused.why)
        .unwrap();
    let bytes = written(&mut connection, at(1));
    let len = i32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    assert_eq!(len, bytes.len() - 4);
    let at_one = head.len() - 1;
    assert_eq!(&bytes[12..at_one], &head[12..at_one]);
    assert_eq!(&bytes[at_one..at_one + 10], b"<one><two>");
    assert_eq!(&bytes[at_one + 10..], [&head[at_one..], &b"<end>"[..]].concat());

    let backwards = vec![(n, piece(b"a")), (n - 1, piece(b"b"))];
    let call = Call { tag: 2, api, version: 9, head: &head, inserts: backwards, timeout: None, reply };
    let refused = connection.submit(at(1), call).unwrap_err();
    assert_eq!((refused.why, refused.call.inserts.len()), (RefusedWhy::Malformed, 2));
}

#[test]
fn d1_20_acks_0_ends_when_written_and_is_unknown_when_the_connection_ends_first() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::None).unwrap();
    let sent = written(&mut connection, at(1)).len();
    assert!(heard.written.is_empty());
    connection.on_sent(at(2), &mut heard);
    assert_eq!(heard.written, [1]);
    assert!(connection.is_idle());

    submit(&mut connection, at(3), 2, ReplyMode::None).unwrap();
    submit(&mut connection, at(3), 3, ReplyMode::None).unwrap();
    written(&mut connection, at(3));
    connection.on_closed(&reset(), sent - 1, &mut heard);
    let outcome: Vec<_> = heard.failed.iter().map(|(tag, written, _)| (*tag, *written)).collect();
    assert_eq!(outcome, [(2, Written::Maybe), (3, Written::No)]);
}

#[test]
fn d4_76_a_closed_connection_says_of_each_call_whether_it_can_have_been_seen() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
    written(&mut connection, at(1));
    connection.on_sent(at(1), &mut heard);
    submit(&mut connection, at(2), 2, ReplyMode::Whole).unwrap();
    written(&mut connection, at(2));
    submit(&mut connection, at(2), 3, ReplyMode::Whole).unwrap();
    // Of the second write not one byte was taken; the third call never left the queue.
    connection.on_closed(&io::Error::from(io::ErrorKind::UnexpectedEof), 0, &mut heard);
    let outcome: Vec<_> = heard.failed.iter().map(|(tag, written, _)| (*tag, *written)).collect();
    assert_eq!(outcome, [(1, Written::Maybe), (2, Written::No), (3, Written::No)]);
    assert_eq!(
        heard.failed[0].2,
        "the broker closed the connection; if this repeats, check security.protocol and the broker's log"
    );
    assert!(connection.is_closed() && connection.is_idle());
    connection.connect(at(3));
    assert!(!connection.is_closed(), "and it can be connected again");
}

#[test]
fn d4_85_a_wrong_correlation_id_kills_the_connection() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
    submit(&mut connection, at(1), 2, ReplyMode::Whole).unwrap();
    written(&mut connection, at(1));
    connection.on_sent(at(1), &mut heard);
    connection.on_received(at(2), &reply_frame(9, 2, &MetadataResponse::default()), &mut heard);
    assert_eq!(connection.wants_close(), Some(&Cause::Peer(PeerMisbehaved::Correlation { expected: 1, got: 2 })));
    assert!(heard.replies.is_empty());
    connection.on_closed(&reset(), 0, &mut heard);
    assert!(heard.failed.iter().all(|(_, written, _)| *written == Written::Maybe) && heard.failed.len() == 2);
}

#[test]
fn d4_85_a_bad_length_kills_the_connection_before_anything_is_allocated() {
    for len in [i32::MIN, -1, 0, 3, (1 << 20) + 1, i32::MAX] {
        let (mut connection, mut heard) = ready();
        submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
        written(&mut connection, at(1));
        connection.on_received(at(2), &len.to_be_bytes(), &mut heard);
        assert_eq!(connection.wants_close(), Some(&Cause::Peer(PeerMisbehaved::FrameLength(len))));
        assert_eq!(connection.partial.capacity(), 0);
        assert_eq!(connection.next_deadline(), Time::NEVER);
    }
    // The largest allowed frame reserves only for what came.
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
    written(&mut connection, at(1));
    connection.on_received(at(2), &[&(1i32 << 20).to_be_bytes()[..], &[0, 0, 0, 1], &[0; 100]].concat(), &mut heard);
    assert!(connection.wants_close().is_none() && connection.partial.capacity() < 1024);
}

#[test]
fn bytes_that_nobody_asked_for_kill_the_connection() {
    let (mut connection, mut heard) = ready();
    connection.on_received(at(1), &reply_frame(9, 1, &MetadataResponse::default()), &mut heard);
    assert_eq!(connection.wants_close(), Some(&Cause::Peer(PeerMisbehaved::Unasked)));
}

#[test]
fn d4_77_http_and_tls_listeners_are_named() {
    let cases: [(&[u8], PeerIncompatible); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n", PeerIncompatible::SpeaksHttp),
        (&[0x15, 3, 1, 0, 2, 2, 0x46], PeerIncompatible::SpeaksTls),
        (&[0x15, 3, 3, 0, 2, 2, 0x46], PeerIncompatible::SpeaksTls),
    ];
    for (bytes, expected) in cases {
        for step in [1, 3, bytes.len()] {
            let (mut connection, mut heard) = (fresh(), Heard::default());
            connection.connect(at(0));
            connection.on_connected(at(0));
            written(&mut connection, at(0));
            for part in bytes.chunks(step) {
                connection.on_received(at(1), part, &mut heard);
            }
            assert_eq!(connection.wants_close(), Some(&Cause::Incompatible(expected.clone())));
        }
    }
}

#[test]
fn d1_21_throttle_time_keeps_this_connection_silent() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
    written(&mut connection, at(1));
    connection.on_sent(at(1), &mut heard);
    submit(&mut connection, at(1), 2, ReplyMode::Whole).unwrap();
    heard.then = Some(Then::Throttle(5_000));
    connection.on_received(at(10), &reply_frame(9, 1, &MetadataResponse::default()), &mut heard);
    assert_eq!(submit(&mut connection, at(11), 3, ReplyMode::Whole), Err(RefusedWhy::Busy));
    assert!(written(&mut connection, at(5_009)).is_empty());
    assert_eq!(connection.next_deadline(), at(5_010));
    assert_eq!(frames_in(&written(&mut connection, at(5_010))), [(3, 9, 2)]);
    assert_eq!(connection.stats().throttled, 1);
}

#[test]
fn d1_21_no_broker_silences_us_for_more_than_a_minute_and_deadlines_keep_running() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
    written(&mut connection, at(1));
    connection.on_sent(at(1), &mut heard);
    submit(&mut connection, at(2), 2, ReplyMode::Whole).unwrap();
    heard.then = Some(Then::Throttle(i32::MAX));
    connection.on_received(at(10), &reply_frame(9, 1, &MetadataResponse::default()), &mut heard);
    assert_eq!(connection.throttled_until(), at(60_010));
    // The call that waits is failed as surely not written, the connection lives.
    assert_eq!(connection.next_deadline(), at(30_002));
    connection.on_deadline(at(30_002), &mut heard);
    let [(2, Written::No, why)] = heard.failed.as_slice() else { panic!("{:?}", heard.failed) };
    assert!(why.starts_with("no answer to Metadata within the request timeout"), "{why}");
    assert!(connection.wants_close().is_none());
}

#[test]
fn d4_78_connect_and_handshake_share_one_deadline() {
    let (mut connection, mut heard) = (fresh(), Heard::default());
    connection.connect(at(0));
    assert_eq!(connection.next_deadline(), at(10_000));
    connection.on_connected(at(9_000));
    written(&mut connection, at(9_000));
    connection.on_deadline(at(9_999), &mut heard);
    assert!(connection.wants_close().is_none());
    connection.on_deadline(at(10_000), &mut heard);
    assert_eq!(connection.wants_close(), Some(&Cause::SetupTimeout("handshake")));
}

#[test]
fn an_unanswered_request_ends_the_connection_at_its_deadline() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Whole).unwrap();
    written(&mut connection, at(5));
    connection.on_sent(at(5), &mut heard);
    assert_eq!(connection.next_deadline(), at(30_005));
    connection.on_deadline(at(30_005), &mut heard);
    assert_eq!(connection.wants_close(), Some(&Cause::RequestTimeout(ApiKey::Metadata)));
    // A late answer is not looked at any more.
    connection.on_received(at(30_006), &reply_frame(9, 1, &MetadataResponse::default()), &mut heard);
    assert!(heard.replies.is_empty());
    connection.on_closed(&reset(), 0, &mut heard);
    assert_eq!(heard.failed[0].1, Written::Maybe);
}

#[test]
fn d4_76_an_idle_connection_closes_itself_and_fails_nobody() {
    let (mut connection, mut heard) = ready();
    let idle = at(9 * 60 * 1000);
    assert_eq!(connection.next_deadline(), idle);
    connection.on_deadline(at(9 * 60 * 1000 - 1), &mut heard);
    assert!(connection.wants_close().is_none());
    connection.on_deadline(idle, &mut heard);
    assert_eq!(connection.wants_close(), Some(&Cause::Idle));
    assert!(!Cause::Idle.is_failure());
    connection.on_closed(&reset(), 0, &mut heard);
    assert!(heard.failed.is_empty());
}

#[test]
fn an_owner_may_kill_the_connection_from_a_reply() {
    let (mut connection, mut heard) = ready();
    submit(&mut connection, at(1), 1, ReplyMode::Parts).unwrap();
    submit(&mut connection, at(1), 2, ReplyMode::Parts).unwrap();
    written(&mut connection, at(1));
    connection.on_sent(at(1), &mut heard);
    heard.then = Some(Then::Kill("nonsense"));
    let answers = [1, 2].map(|i| reply_frame(9, i, &MetadataResponse::default())).concat();
    connection.on_received(at(2), &answers, &mut heard);
    assert_eq!(heard.parts.len(), 1, "nothing is delivered behind what could not be understood");
    connection.on_closed(&reset(), 0, &mut heard);
    assert_eq!(heard.failed.iter().map(|call| call.0).collect::<Vec<_>>(), [2], "each call ends once");
}

#[test]
fn produce_frames_survive_the_real_messages() {
    // The real types, so that a change in the generated code shows here.
    let (mut connection, mut heard) = ready();
    let version = connection.versions().unwrap().pick_by_name(ApiKey::Produce).unwrap();
    let mut head = Vec::new();
    encode_head("tester", version, &ProduceRequest { acks: -1, ..Default::default() }, &mut head).unwrap();
    let call = Call {
        tag: 5,
        api: ApiKey::Produce,
        version,
        head: &head,
        inserts: Vec::new(),
        timeout: None,
        reply: ReplyMode::Whole,
    };
    connection.submit(at(1), call).map_err(|refused| refused.why).unwrap();
    assert_eq!(frames_in(&written(&mut connection, at(1))), [(0, version, 1)]);
    connection.on_sent(at(1), &mut heard);
    connection.on_received(at(2), &reply_frame(version, 1, &ProduceResponse::default()), &mut heard);
    let reply = ProduceResponse::decode(version, &mut Reader::new(&heard.replies[0].1)).unwrap();
    assert_eq!(reply, ProduceResponse::default());
}
