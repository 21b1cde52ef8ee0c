//! Record batches against Java's own: `tests/data/batches.txt` was written by `ci/golden/Batches.java` with
//! kafka-clients 4.3.1. What Java wrote is read, and what we build uncompressed is Java's bytes.
//!
//! With `OTTLA_JAVA_CLASSPATH` (compiled Batches.java and the client's jars) Java reads what we build, too.

#![allow(clippy::unwrap_used)]

#[path = "common/batches.rs"]
mod batches;

use std::collections::BTreeMap;
use std::io::Write;

use ottla::base::chunk::ChunkPool;
use ottla::batch::{
    Append, BatchBuilder, BatchSettings, Codec, Codecs, ControlRecord, Decompressor, Marker, RecordSet, SealedBatch,
    Stamp, TimestampType, Unpacked, encode_body, encode_marker, header,
};

type Row = (i64, Option<String>, Option<String>, Vec<(&'static str, Option<&'static str>)>);

/// What `Batches.java` puts into every batch.
fn rows(headers: bool) -> Vec<Row> {
    let text = |text: &str| Some(text.to_owned());
    let first = if headers { vec![("a", Some("1")), ("a", Some("2")), ("", None)] } else { Vec::new() };
    let mut rows = vec![
        (1_700_000_000_000, text("key"), text("value"), first),
        (1_700_000_000_005, None, text("no key"), Vec::new()),
        (1_699_999_999_000, text("tombstone"), None, Vec::new()),
        (1_700_000_000_007, text(""), text(""), Vec::new()),
    ];
    for i in 0..20 {
        let value = format!("the same words again and again, number {i}");
        rows.push((1_700_000_000_010 + i, Some(format!("k{i}")), Some(value), Vec::new()));
    }
    rows
}

fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    batches::batches().collect()
}

fn body(row: &Row) -> Vec<u8> {
    let headers = row.3.iter().map(|(key, value)| (*key, value.map(str::as_bytes)));
    let mut out = Vec::new();
    encode_body(row.1.as_deref().map(str::as_bytes), row.2.as_deref().map(str::as_bytes), headers, &mut out);
    out
}

fn build(codec: Codec, rows: &[Row], stamp: Stamp) -> SealedBatch {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut builder = BatchBuilder::new(&BatchSettings::with_codec(codec), &pool, &codecs).unwrap();
    for row in rows {
        assert_eq!(builder.append(row.0, &body(row)), Append::Stored);
    }
    builder.seal(stamp)
}

fn wire(sealed: &SealedBatch, base_offset: i64, leader_epoch: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    sealed.copy_to(&mut bytes);
    assert!(header::assign(&mut bytes, base_offset, leader_epoch));
    bytes
}

#[test]
fn every_batch_of_javas_is_read_in_every_version_and_codec() {
    let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
    let mut seen = 0;
    for (name, bytes) in golden() {
        let words: Vec<&str> = name.split(' ').collect();
        let [version, codec, time] = words[..] else { panic!("{name}") };
        if !time.ends_with("Time") {
            continue;
        }
        seen += 1;
        let legacy = version != "v2";
        let expected = rows(!legacy);
        let mut found = Vec::new();
        for view in RecordSet::new(&bytes) {
            let view = view.unwrap();
            assert_eq!(view.codec().unwrap().name(), codec, "{name}");
            match version {
                "v0" => assert_eq!(view.timestamp_type(), TimestampType::NoTimestamp),
                _ => assert_eq!(view.timestamp_type().name(), time, "{name}"),
            }
            let records = view.records(&mut decompressor, &mut unpacked).unwrap();
            for record in records {
                let record = record.unwrap();
                let owned = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                let headers: Vec<(String, Option<String>)> = record
                    .headers()
                    .map(|header| header.unwrap())
                    .map(|header| (header.key_str().unwrap().to_owned(), owned(header.value)))
                    .collect();
                found.push((record.offset, record.timestamp, owned(record.key()), owned(record.value()), headers));
            }
            assert_eq!(view.last_offset(), found.last().unwrap().0, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");
        for (i, (row, found)) in expected.iter().zip(found).enumerate() {
            let timestamp = match (version, time) {
                ("v0", _) => -1,
                (_, "LogAppendTime") => 1_800_000_000_000,
                _ => row.0,
            };
            let headers: Vec<_> = row.3.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
            assert_eq!(found, (1_000 + i as i64, timestamp, row.1.clone(), row.2.clone(), headers), "{name}");
        }
    }
    assert_eq!(seen, 22);
}

#[test]
fn what_we_build_is_byte_for_byte_what_java_builds() {
    let golden = golden();
    assert_eq!(wire(&build(Codec::None, &rows(true), Stamp::NONE), 1_000, 5), golden["v2 none CreateTime"]);
    let text = |text: &str| Some(text.to_owned());
    let two = [(1, text("k"), text("v"), Vec::new()), (2, text("l"), text("w"), Vec::new())];
    let stamp = Stamp { producer_id: 4711, producer_epoch: 3, base_sequence: 99, transactional: true };
    assert_eq!(wire(&build(Codec::None, &two, stamp), 2_000, 7), golden["v2 none transactional"]);
    let stamp = Stamp { producer_epoch: 0, base_sequence: i32::MAX, transactional: false, ..stamp };
    assert_eq!(wire(&build(Codec::None, &two, stamp), 0, -1), golden["v2 none idempotent"]);
    for (marker, name) in [(Marker::Commit, "v2 marker COMMIT"), (Marker::Abort, "v2 marker ABORT")] {
        assert_eq!(encode_marker(marker, 3_000, 7, 1_700_000_000_000, 4711, 3, 12), golden[name]);
    }
}

#[test]
fn javas_markers_are_decoded() {
    let golden = golden();
    for (marker, name) in [(Marker::Commit, "v2 marker COMMIT"), (Marker::Abort, "v2 marker ABORT")] {
        let view = RecordSet::new(&golden[name]).next().unwrap().unwrap();
        assert!(view.is_control() && view.is_transactional());
        let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
        let record = view.records(&mut decompressor, &mut unpacked).unwrap().next().unwrap().unwrap();
        assert_eq!(ControlRecord::read(&record), Some(ControlRecord::End { marker, coordinator_epoch: 12 }));
    }
}

#[test]
fn every_cut_and_every_flipped_byte_of_javas_batches_is_noticed_or_harmless() {
    let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
    let mut read = |bytes: &[u8]| -> Result<usize, String> {
        let mut count = 0;
        for view in RecordSet::new(bytes) {
            let view = view.map_err(|bad| bad.to_string())?;
            for record in view.records(&mut decompressor, &mut unpacked).map_err(|bad| bad.to_string())? {
                record.map_err(|bad| bad.to_string())?;
                count += 1;
            }
        }
        Ok(count)
    };
    for (name, bytes) in golden() {
        let whole = read(&bytes).unwrap();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).unwrap_or(0) < whole, "{name} cut at {end}");
        }
        let single = RecordSet::new(&bytes).count() == 1;
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let found = read(&bad);
            // Offsets, the leader epoch and a length that grew past the end are not under the CRC.
            let covered = at >= if name.starts_with("v2") { 16 } else { 12 };
            assert!(!(single && covered) || found.is_err(), "{name} byte {at}");
        }
    }
}

#[test]
fn java_reads_what_we_build() {
    // Set by the CI lane that has the client's jars; interop with a real broker covers the same ground.
    let Ok(classpath) = std::env::var("OTTLA_JAVA_CLASSPATH") else { return };
    let mut input = String::new();
    for codec in Codec::ALL {
        let hex: String =
            wire(&build(codec, &rows(true), Stamp::NONE), 1_000, 5).iter().map(|byte| format!("{byte:02x}")).collect();
        input += &format!("{codec}\t{hex}\n");
    }
    let mut java = std::process::Command::new("java")
        .args(["-cp", &classpath, "Batches", "verify"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    java.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = java.wait_with_output().unwrap();
    let quoted = |text: Option<&str>| text.map_or("null".to_owned(), |text| format!("\"{text}\""));
    let mut expected = String::new();
    for codec in Codec::ALL {
        expected += codec.name();
        for (i, row) in rows(true).iter().enumerate() {
            let (key, value) = (quoted(row.1.as_deref()), quoted(row.2.as_deref()));
            expected += &format!("\t{}|{}|{key}|{value}|", 1_000 + i, row.0);
            row.3.iter().for_each(|(key, value)| expected += &format!("{key}={};", quoted(*value)));
        }
        expected += "\n";
    }
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
