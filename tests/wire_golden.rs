//! Every message × version against what Kafka's own Java classes write (`tests/golden/messages.gz`, written by
//! `ci/golden/Golden.java`; `ci/golden/run` writes it anew, compares, and lets Java read what we write).
//!
//! Lines are `name|version|case|hex|json`. Cases: full (all fields non-default), null (nullables null), empty and three
//! (arrays of 0 and 3; full has 1), default, notags, unknown (tagged fields that nobody defines in every structure).

// The whole file is a test; clippy only knows that of functions marked so.
#![allow(clippy::unwrap_used)]

#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;
#[path = "common/golden.rs"]
mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;
use counting::peak_bytes;
use golden::{Golden, messages as golden, unpack};
use ottla::base::ids::Uuid;
use ottla::wire::any::{self, AnyError, Which};
use ottla::wire::json::{Records, base64};
use ottla::wire::{ApiKey, EncodeErrorKind, ErrorCode, FetchView, ProduceHead, ProducePieces, TopicRef, VersionRange};
use serde_json::Value;

/// What the file must at least hold: messages, message versions, lines, and lines per case.
const MESSAGES: usize = 166;
const MESSAGE_VERSIONS: usize = 575;
const CASES: [(&str, usize); 7] =
    [("full", 575), ("null", 288), ("empty", 456), ("three", 456), ("default", 509), ("notags", 20), ("unknown", 317)];

/// Lines of `versions.gz`; what is written, refused, refused by the field's own name, refused for being null, at other
/// versions.
const VERSIONS: (usize, usize, usize, usize, usize) = (3011, 7202, 1709, 369, 36);

#[test]
fn the_golden_file_covers_every_message_version_and_case() {
    let golden = golden();
    let mut versions: BTreeMap<&str, BTreeSet<i16>> = BTreeMap::new();
    let mut cases: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &golden {
        versions.entry(&line.name).or_default().insert(line.version);
        *cases.entry(&line.case).or_default() += 1;
    }
    let all: usize = versions.values().map(BTreeSet::len).sum();
    println!("golden: {} messages, {all} message versions, {} lines {cases:?}", versions.len(), golden.len());
    assert_eq!((versions.len(), all), (MESSAGES, MESSAGE_VERSIONS));
    assert_eq!(cases, CASES.into_iter().collect());
    for (name, versions) in &versions {
        let VersionRange { min, max } = any::versions(&Which::Named((*name).to_owned())).unwrap();
        assert_eq!(*versions, (min..=max).collect::<BTreeSet<_>>(), "{name}");
    }
    // Both directions of every API, and the twelve headers and schemas.
    for key in ApiKey::all() {
        for suffix in ["Request", "Response"] {
            assert!(versions.contains_key(format!("{}{suffix}", key.name()).as_str()), "{key:?} {suffix}");
        }
    }
    assert_eq!(versions.len(), 2 * ApiKey::all().count() + 12);
}

#[test]
fn docs_protocol_lists_every_api_and_version() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).unwrap();
    let written: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| key")).collect();
    let rows: Vec<String> = ApiKey::all()
        .map(|api| {
            let VersionRange { min, max } = api.versions();
            let flexible = (min..=max).find(|version| api.is_flexible(*version));
            let flexible = flexible.map_or("never".to_owned(), |from| from.to_string());
            format!("| {} | {} | {min}-{max} | {flexible} |", api as i16, api.name())
        })
        .collect();
    assert_eq!(written, rows);
}

/// `tests/golden/errors.txt`: code|NAME|text of every error of Kafka's `Errors`.
#[test]
fn error_codes_are_javas() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/errors.txt")).unwrap();
    let mut codes = Vec::new();
    for line in text.lines() {
        let [code, name, sentence] = line.splitn(3, '|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let code = ErrorCode::from(code.parse::<i16>().unwrap());
        assert_eq!(code.name(), name);
        assert_eq!(code.text(), if code.is_none() { "No error." } else { sentence });
        codes.push(code);
    }
    assert_eq!(codes, ErrorCode::ALL);
    assert_eq!(codes.len(), 135);
}

#[test]
fn javas_bytes_decode_and_encode_to_the_same_bytes() {
    for line in golden() {
        let body = Bytes::from(line.bytes.clone());
        let decoded = any::decode(&line.which, line.version, &body, Records::Size);
        let decoded = decoded.unwrap_or_else(|error| panic!("{}: {error}", line.at()));
        assert_eq!(any::hex(&decoded.bytes), any::hex(&line.bytes), "{}", line.at());
    }
}

#[test]
fn what_is_decoded_is_javas_json() {
    for line in golden() {
        let body = Bytes::from(line.bytes.clone());
        let decoded = any::decode(&line.which, line.version, &body, Records::Size).unwrap();
        assert_eq!(decoded.json, line.json(), "{}", line.at());
    }
}

#[test]
fn javas_json_encodes_to_javas_bytes() {
    let mut encoded = 0;
    // JSON does not show unknown tagged fields.
    for line in golden().into_iter().filter(|line| line.case != "unknown") {
        let bytes = any::encode(&line.which, line.version, &with_records(line.json()));
        let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", line.at()));
        assert_eq!(any::hex(&bytes), any::hex(&line.bytes), "{}", line.at());
        encoded += 1;
    }
    assert_eq!(encoded, CASES.iter().map(|(_, count)| count).sum::<usize>() - 317);
}

/// `versions.gz`: one field set (or null, "field?"), written at every other version: Java's bytes, or the same refusal of
/// the same field. This is where ignorable and other fields part.
#[test]
fn a_field_that_a_version_lacks_is_dropped_or_refused_as_java_does() {
    let (mut lines, mut written, mut refused, mut named, mut nulls) = (0, 0, 0, 0, 0);
    for line in unpack("versions.gz").lines() {
        let [name, from, path, hex, results] = line.splitn(5, '|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (which, from) = (Which::Named(name.to_owned()), from.parse().unwrap());
        let body = Bytes::from(any::unhex(hex).unwrap());
        lines += 1;
        for result in results.split(';').filter(|result| !result.is_empty()) {
            let (to, wanted) = result.split_once('=').unwrap();
            let at = format!("{name} {path} from version {from} to {to}");
            let ours = any::convert(&which, from, to.parse().unwrap(), &body);
            match (wanted.strip_prefix('!'), ours) {
                (None, Ok(bytes)) => {
                    assert_eq!(any::hex(&bytes), wanted, "{at}");
                    written += 1;
                }
                (Some("null"), Err(AnyError::Encode(error))) => {
                    assert_eq!(error.kind, EncodeErrorKind::Null, "{at}");
                    nulls += 1;
                }
                (Some("taggedFields"), Err(AnyError::Encode(error))) => {
                    assert_eq!(error.kind, EncodeErrorKind::TagsNotInVersion, "{at}");
                    refused += 1;
                }
                (Some(field), Err(AnyError::Encode(error))) => {
                    assert_eq!(error.kind, EncodeErrorKind::NotInVersion, "{at}");
                    // Of a whole structure several fields may be refused, and which one is named first is not the point.
                    let last = path.rsplit('.').next().unwrap().replace(['_', '?'], "");
                    if last == field.to_lowercase() {
                        assert_eq!(error.field, field, "{at}");
                        named += 1;
                    }
                    refused += 1;
                }
                (_, ours) => panic!("{at}: {ours:?}, java: {wanted}"),
            }
        }
    }
    println!(
        "golden: {lines} fields, at other versions {written} written, {refused} refused ({named} named), {nulls} nulls refused"
    );
    assert_eq!((lines, written, refused, named, nulls), VERSIONS);
}

/// Puts the record sets in place of their sizes: `Golden.java` fills them with bytes that follow from the size.
fn with_records(json: Value) -> Value {
    match json {
        Value::Array(all) => all.into_iter().map(with_records).collect(),
        Value::Object(all) => all
            .into_iter()
            .map(|(name, value)| match value.as_u64() {
                Some(size) if name == "recordsSizeInBytes" => {
                    let records: Vec<u8> = (0..size).map(|i| (size + 37 * i) as u8).collect();
                    ("records".to_owned(), Value::from(base64(&records)))
                }
                _ => (name, with_records(value)),
            })
            .collect(),
        other => other,
    }
}

/// Values of our own, so that Java reads what it did not write itself: every number, text and truth differs from the
/// golden ones, and arrays are one longer. Written to the file that `OTTLA_GOLDEN_OURS` names, in the golden form.
#[test]
fn what_we_write_is_put_down_for_java_to_read() {
    let mut out = String::new();
    let mut lines = 0;
    for line in golden() {
        let (name, version) = (&line.name, line.version);
        let mut put = |case: &str, bytes: &[u8]| {
            let again = any::decode(&line.which, version, &Bytes::copy_from_slice(bytes), Records::Size).unwrap();
            assert_eq!(again.bytes, bytes);
            writeln!(out, "{name}|{version}|{case}|{}|{}", any::hex(bytes), again.json).unwrap();
            lines += 1;
        };
        // Our encoding of Java's value, unknown tags included.
        let body = Bytes::from(line.bytes.clone());
        put(&line.case, &any::decode(&line.which, version, &body, Records::Size).unwrap().bytes);
        if matches!(line.case.as_str(), "full" | "three" | "null") {
            let changed = changed(with_records(line.json()));
            let bytes = any::encode(&line.which, version, &changed);
            put("ours", &bytes.unwrap_or_else(|error| panic!("{}: {error}\n{changed}", line.at())));
        }
    }
    println!("golden: {lines} lines for java to read");
    assert_eq!(lines, 2621 + 575 + 456 + 288);
    if let Ok(path) = std::env::var("OTTLA_GOLDEN_OURS") {
        std::fs::write(path, out).unwrap();
    }
}

fn changed(json: Value) -> Value {
    match json {
        Value::Array(all) => {
            let mut all: Vec<Value> = all.into_iter().map(changed).collect();
            all.extend(all.last().cloned());
            Value::Array(all)
        }
        Value::Object(all) => all.into_iter().map(|(name, value)| (name, changed(value))).collect(),
        Value::Bool(value) => Value::Bool(!value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Value::from(number + 1),
            None => Value::from(number.as_f64().unwrap() + 1.25),
        },
        // `Golden.java` writes texts as "s12" and "s15-é..": not UUIDs, not base64.
        Value::String(text)
            if text.starts_with('s') && text[1..].chars().take_while(|c| *c != '-').all(|c| c.is_ascii_digit()) =>
        {
            Value::from(text + " ours: äß€")
        }
        other => other,
    }
}

/// Runs `each` on all lines, on two threads.
fn on_two_threads(each: impl Fn(&Golden) -> usize + Sync) -> usize {
    let golden = golden();
    std::thread::scope(|scope| {
        let half = |parity: usize| {
            let (golden, each) = (&golden, &each);
            scope.spawn(move || golden.iter().skip(parity).step_by(2).map(each).sum::<usize>())
        };
        let threads = [half(0), half(1)];
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

#[test]
fn every_truncation_is_an_error() {
    let truncations = on_two_threads(|line| {
        for end in 0..line.bytes.len() {
            let short = any::check(&line.which, line.version, &line.bytes[..end]);
            assert!(short.is_err(), "{} is read from {end} of {} bytes", line.at(), line.bytes.len());
        }
        assert_eq!(any::check(&line.which, line.version, &line.bytes), Ok(line.bytes.len()), "{}", line.at());
        line.bytes.len()
    });
    println!("golden: {truncations} truncations refused");
    assert!(truncations > 400_000);
}

/// The two hot paths, over Java's own bytes: every FetchResponse walked and every Produce request's scaffolding written
/// without taking one byte of memory.
#[test]
fn the_hot_paths_allocate_nothing() {
    let (mut partitions, mut versions) = (0, BTreeSet::new());
    for line in golden().iter().filter(|line| line.name == "FetchResponse") {
        let (_, peak) = peak_bytes(|| {
            let mut view = FetchView::new(line.version, &line.bytes).unwrap();
            while let Some(partition) = view.next().unwrap() {
                partitions += 1;
                assert!(partition.aborted.is_none_or(|aborted| aborted.count() <= 3));
            }
            view.end(|_| {}).unwrap();
        });
        assert_eq!(peak, 0, "{}", line.at());
        versions.insert(line.version);
    }
    assert_eq!(versions, (4..=18).collect());
    assert_eq!(partitions, 179);
    let mut out = Vec::with_capacity(4096);
    for version in 3..=13 {
        out.clear();
        let head = ProduceHead {
            version,
            correlation_id: 1,
            client_id: Some("ottla"),
            transactional_id: Some("tx"),
            acks: -1,
            timeout_ms: 1,
            topics: 3,
        };
        let (_, peak) = peak_bytes(|| {
            let mut pieces = ProducePieces::begin(&head, &mut out).unwrap();
            for _ in 0..3 {
                let topic = if version >= 13 { TopicRef::Id(Uuid([7; 16])) } else { TopicRef::Name("topic") };
                pieces.topic(topic, 10).unwrap();
                for partition in 0..10 {
                    pieces.partition(partition, 1_000_000).unwrap();
                }
            }
            pieces.finish().unwrap();
        });
        assert_eq!(peak, 0, "version {version}");
    }
}

/// A count that the input could just hold, over bytes that are no element: at most the input's size is reserved for it,
/// although an element takes many times its smallest encoding in memory.
#[test]
fn a_plausible_count_reserves_no_more_than_the_input() {
    // MetadataResponse version 1: no brokers, controller -1, then topics that each fail at their name.
    let mut input = vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x20, 0];
    input.resize(100_000, 0xff);
    let which = Which::Response(ApiKey::Metadata as i16);
    let (_, peak) = peak_bytes(|| assert!(any::check(&which, 1, &input).is_err()));
    println!("golden: {peak} bytes reserved for 8192 announced elements in {} bytes", input.len());
    assert!(peak > 50_000, "the count was refused, so this shows nothing");
    assert!(peak <= input.len() + 1024);
}

/// Every byte of every message becomes, in turn, the start of an enormous, negative or slightly wrong length or count:
/// no panic, and never more memory than the input's size justifies.
#[test]
fn changed_lengths_never_panic_and_never_reserve_more_than_the_input_justifies() {
    const LENGTHS: [&[u8]; 9] = [
        &[0x00],
        &[0x01],
        &[0x7f],
        &[0x80],
        &[0xff],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x80, 0x00, 0x00, 0x00],
        &[0x00, 0x0f, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
    ];
    let tried = on_two_threads(|line| {
        let mut changed = line.bytes.clone();
        let mut tried = 0;
        // Arrays of three and unknown tags repeat what the other cases hold: a sample of their many bytes is enough.
        let step = if matches!(line.case.as_str(), "three" | "unknown") { 7 } else { 1 };
        for at in (0..line.bytes.len()).step_by(step) {
            for length in LENGTHS {
                let end = line.bytes.len().min(at + length.len());
                changed[at..end].copy_from_slice(&length[..end - at]);
                let (_, peak) = peak_bytes(|| {
                    // Whether it is an error depends on what the byte was.
                    let _ = any::check(&line.which, line.version, &changed);
                });
                assert!(peak <= allowed(changed.len()), "{}, byte {at} = {length:x?}: {peak} bytes taken", line.at());
                changed[at..end].copy_from_slice(&line.bytes[at..end]);
                tried += 1;
            }
        }
        tried
    });
    println!("golden: {tried} changed messages survived");
    assert!(tried > 850_000);
}

/// A value takes more memory than its bytes: a structure of two bytes may be 200 in memory, and vectors grow by doubling.
fn allowed(input: usize) -> usize {
    1024 + 160 * input
}
