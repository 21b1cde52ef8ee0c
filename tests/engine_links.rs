//! What users see when something else than a broker answers, on real sockets: one clear error and one warning that say who,
//! what happened and what to try, and never more than 20 tries a second at a listener of the test's own.

#![cfg(feature = "testkit")]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod ring_support;
#[path = "common/stranger.rs"]
mod stranger;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use ottla::config::{BackendSetting, EngineSettings, StartAt};
use ottla::engine::Engine;
use ottla::producer::Record;
use ottla::testkit::broker::Broker;
use stranger::{Stranger, handshake_or};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::{Event, Level, Metadata, Subscriber};

const LONG: Duration = Duration::from_secs(30);
/// How long somebody asks.
const ASKED: Duration = Duration::from_millis(2_500);

/// Warnings of all engines of this process; tests look for their own address.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collect;

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl Subscriber for Collect {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &SpanRecord<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        WARNINGS.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn warnings(word: &str) -> Vec<String> {
    WARNINGS.lock().unwrap().iter().filter(|line| line.contains(word)).cloned().collect()
}

fn collect_warnings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Collect).unwrap());
}

fn backends() -> Vec<BackendSetting> {
    let mut all = vec![BackendSetting::Epoll];
    if ottla::ring::probe(ottla::ring::BackendChoice::IoUring).io_uring.is_ok() {
        all.push(BackendSetting::IoUring);
    }
    all
}

/// Asks for [`ASKED`] and demands the error's and the warning's words, the latter once. Says how long all of it took.
fn ask(address: SocketAddr, backend: BackendSetting, words: &[&str]) -> Duration {
    collect_warnings();
    let settings = EngineSettings {
        bootstrap_servers: vec![address.to_string()],
        connection_setup_timeout: Duration::from_millis(400),
        backend,
        ..EngineSettings::default()
    };
    let start = Instant::now();
    let engine = Engine::builder().settings(settings).build().unwrap();
    // A producer asks as well, by its topic.
    let producer = engine.producer().build().unwrap();
    producer.send(Record::to("t").value("v")).unwrap();
    let error = engine.admin().timeout(ASKED).list_topics().wait().unwrap_err().to_string();
    let topic = engine.topic_info("t", Duration::from_millis(1)).unwrap_err().to_string();
    // An address is used by one backend after the other.
    let said = warnings(&address.to_string());
    WARNINGS.lock().unwrap().retain(|line| !line.contains(&address.to_string()));
    assert_eq!(said.len(), 1, "one warning, not one per try: {said:?}");
    for text in [&error, &topic, &said[0]] {
        for word in words.iter().copied().chain([address.to_string().as_str()]) {
            assert!(text.contains(word), "{text:?} lacks {word:?}");
        }
    }
    // The record has nowhere to go; nobody waits for it.
    let _ = engine.close(Duration::from_millis(50));
    start.elapsed()
}

fn judge(answer: fn(&[u8]) -> Vec<u8>, words: &[&str]) {
    for backend in backends() {
        let stranger = Stranger::new(answer);
        let took = ask(stranger.address, backend, words);
        let tries = stranger.accepted();
        assert!(tries >= 2, "given up after {tries} tries");
        assert!(tries <= 20 * took.as_secs().max(1), "{tries} tries in {took:?}");
    }
}

#[test]
fn d4_77_a_refused_port_is_named_with_what_to_try() {
    for backend in backends() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        ask(address, backend, &["refused", "check bootstrap.servers"]);
    }
}

#[test]
fn d4_77_a_black_hole_is_named_with_what_to_try() {
    for backend in backends() {
        // A full queue: the kernel drops who comes now.
        let (_full, address) = ring_support::spill_listener();
        ask(address, backend, &["set-up timeout (connecting)", "firewall"]);
    }
}

#[test]
fn d4_77_an_http_server_is_tried_with_measure_and_named() {
    judge(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), &["answers HTTP", "port"]);
}

#[test]
fn d4_77_a_tls_listener_is_tried_with_measure_and_named() {
    judge(|_| vec![0x15, 3, 3, 0, 2, 2, 70], &["expects TLS", "security.protocol=SSL"]);
}

#[test]
fn d4_85_an_oversized_first_frame_is_refused_and_named() {
    judge(|_| vec![0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0], &["frame of 2147483647 bytes", "receive.message.max.bytes"]);
}

#[test]
fn d4_85_an_oversized_frame_after_the_handshake_is_refused_and_named() {
    judge(
        |bytes| handshake_or(bytes, &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1]),
        &["frame of 2147483647 bytes", "receive.message.max.bytes"],
    );
}

#[test]
fn d4_77_a_peer_that_hangs_up_is_tried_with_measure_and_named() {
    judge(|_| Vec::new(), &["closed the connection", "security.protocol"]);
    judge(|bytes| handshake_or(bytes, &[]), &["closed the connection", "security.protocol"]);
}

/// A name with two addresses, of which one refuses: nothing to warn of.
#[test]
fn d4_81_a_name_whose_first_address_refuses_is_no_trouble() {
    collect_warnings();
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let port = broker.bootstrap().rsplit(':').next().unwrap().to_owned();
    let bootstrap = format!("localhost:{port}");
    for backend in backends() {
        let engine = Engine::builder().bootstrap([bootstrap.clone()]).backend(backend).build().unwrap();
        match engine.admin().list_topics().wait() {
            Ok(topics) => assert_eq!(topics.len(), 1),
            Err(error) => panic!("{error}"),
        }
        engine.close(LONG).unwrap();
    }
    assert_eq!(warnings(&bootstrap), Vec::<String>::new());
}

/// Control, produce and fetch links lose their broker together: that is one warning, and another one only when it went again.
#[test]
fn one_warning_for_all_links_of_a_broker_until_it_works_again() {
    collect_warnings();
    let broker = Broker::builder().topic("t", 1).start().unwrap();
    let address = broker.bootstrap();
    let settings = EngineSettings {
        bootstrap_servers: vec![address.clone()],
        reconnect_backoff_max: Duration::from_millis(60),
        retry_backoff_max: Duration::from_millis(100),
        ..EngineSettings::default()
    };
    let engine = Engine::builder().settings(settings).build().unwrap();
    let producer = engine.producer().build().unwrap();
    let mut consumer = engine.consumer().assign([("t", 0, StartAt::Earliest)]).build().unwrap();
    for outages in 1..=2 {
        // Whatever was sent while it was away comes too.
        producer.submit(Record::to("t").partition(0).value("v")).unwrap().wait().unwrap();
        while consumer.processed("t", 0).unwrap() < Some(2 * outages - 1) {
            let batch = consumer.next(LONG).unwrap().expect("a record is there");
            batch.iter().for_each(drop);
        }
        assert_eq!(engine.trouble(), None);
        let failures = engine.stats().link_failures;
        assert!(broker.stop_node(0));
        producer.send(Record::to("t").partition(0).value("while it was away")).unwrap();
        let start = Instant::now();
        while engine.stats().link_failures < failures + 10 {
            assert!(start.elapsed() < LONG, "{:?}", engine.stats());
            assert!(consumer.next(Duration::from_millis(20)).unwrap().is_none());
        }
        let said = warnings(&address);
        assert_eq!(said.len(), outages as usize, "{said:?}");
        let trouble = engine.trouble().unwrap();
        assert!(trouble.contains(&address) && trouble.contains("refused"), "{trouble}");
        broker.start_node(0).unwrap();
    }
    engine.close(LONG).unwrap();
}

/// The kernel's word for it, in case the platform's text ever changes.
#[test]
fn refusals_have_the_kind_that_the_advice_is_given_for() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
