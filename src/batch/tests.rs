//! Batches as a whole: what goes in comes out, what is broken is told, and nothing else happens.

use std::io::Read;

use proptest::prelude::*;

use super::header::{HEADER_BYTES, seal_crc};
use super::*;
use crate::base::chunk::ChunkPool;

/// A record that owns its parts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Rec {
    pub(super) timestamp: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Rec {
    pub(super) fn of(timestamp: i64, key: &str, value: &str) -> Self {
        Self { timestamp, key: Some(key.into()), value: Some(value.into()), headers: Vec::new() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let headers = || self.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
        let mut out = Vec::new();
        encode_body(self.key.as_deref(), self.value.as_deref(), headers(), &mut out);
        assert_eq!(out.len(), body_len(self.key.as_deref(), self.value.as_deref(), headers()));
        out
    }

    fn from_view(view: &RecordView<'_>) -> Result<Self, BadRecord> {
        let mut headers = Vec::new();
        for header in view.headers() {
            let header = header?;
            headers.push((String::from_utf8_lossy(header.key).into_owned(), header.value.map(<[u8]>::to_vec)));
        }
        Ok(Self {
            timestamp: view.timestamp,
            key: view.key().map(<[u8]>::to_vec),
            value: view.value().map(<[u8]>::to_vec),
            headers,
        })
    }
}

pub(super) fn telemetry(count: u32) -> Vec<Rec> {
    (0..count)
        .map(|i| Rec {
            timestamp: 1_700_000_000_000 + i64::from(i),
            key: Some(format!("sensor-{:08}", i % 1000).into()),
            value: Some(format!("{{\"id\":{i},\"temperature\":{}.{},\"status\":\"ok\"}}", i % 40, i % 10).into()),
            headers: vec![
                ("trace".to_owned(), Some(format!("{:032x}", u64::from(i).wrapping_mul(0x9E37_79B9)).into())),
                ("content-type".to_owned(), Some(b"application/json".to_vec())),
                ("gateway".to_owned(), None),
            ],
        })
        .collect()
}

pub(super) fn seal(settings: &BatchSettings, records: &[Rec], stamp: Stamp) -> SealedBatch {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut builder = BatchBuilder::new(settings, &pool, &codecs).unwrap();
    for record in records {
        assert_eq!(builder.append(record.timestamp, &record.body()), Append::Stored);
    }
    builder.seal(stamp)
}

pub(super) fn bytes_of(codec: Codec, records: &[Rec]) -> Vec<u8> {
    let settings =
        BatchSettings { size_bytes_max: 1 << 30, raw_bytes_max: 1 << 30, ..BatchSettings::with_codec(codec) };
    let mut out = Vec::new();
    seal(&settings, records, Stamp::NONE).copy_to(&mut out);
    out
}

fn read_all(bytes: &[u8], limit: usize) -> Result<Vec<(i64, Rec)>, String> {
    let (mut decompressor, mut unpacked) = (Decompressor::new(limit), Unpacked::new());
    let mut found = Vec::new();
    for view in RecordSet::new(bytes) {
        let view = view.map_err(|bad| bad.to_string())?;
        for record in view.records(&mut decompressor, &mut unpacked).map_err(|bad| bad.to_string())? {
            let record = record.map_err(|bad| bad.to_string())?;
            found.push((record.offset, Rec::from_view(&record).map_err(|bad| bad.to_string())?));
        }
    }
    Ok(found)
}

#[test]
fn encoded_in_place_or_appended_a_record_is_the_same() {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    for codec in Codec::ALL {
        let settings = BatchSettings { size_bytes_max: 200_000, count_max: 3_000, ..BatchSettings::with_codec(codec) };
        let mut rng = crate::base::rng::Rng::new(5);
        let (mut appended, mut placed) = [(); 2].map(|()| BatchBuilder::new(&settings, &pool, &codecs).unwrap()).into();
        let mut in_place = 0;
        loop {
            let body: Vec<u8> = (0..rng.below(400)).map(|_| rng.below(200) as u8).collect();
            let timestamp = rng.below(1 << 20) as i64;
            let stored = appended.append(timestamp, &body);
            if placed.append_in_place(timestamp, body.len(), |out| out.copy_from_slice(&body)) {
                in_place += 1;
                assert_eq!(stored, Append::Stored);
            } else {
                assert_eq!(placed.append(timestamp, &body), stored);
            }
            assert_eq!(appended.wire_bytes_estimate(), placed.wire_bytes_estimate());
            if stored != Append::Stored {
                break;
            }
        }
        assert!(in_place * 10 > placed.count() * 9, "{codec}: {in_place} of {}", placed.count());
        let [appended, placed] = [appended, placed].map(|builder| {
            let mut bytes = Vec::new();
            builder.seal(Stamp::NONE).copy_to(&mut bytes);
            bytes
        });
        assert!(appended == placed, "{codec}");
    }
}

fn numbered(records: &[Rec]) -> Vec<(i64, Rec)> {
    records.iter().enumerate().map(|(i, record)| (i as i64, record.clone())).collect()
}

fn any_record() -> impl Strategy<Value = Rec> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
    let headers = proptest::collection::vec(("[a-c]{0,3}", bytes()), 0..4);
    (any::<i32>(), bytes(), bytes(), headers).prop_map(|(timestamp, key, value, headers)| Rec {
        timestamp: i64::from(timestamp),
        key,
        value,
        headers,
    })
}

/// Decompresses a batch's payload with somebody else's decoder.
fn foreign(codec: Codec, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match codec {
        Codec::None => out.extend_from_slice(payload),
        Codec::Gzip => drop(flate2::read::MultiGzDecoder::new(payload).read_to_end(&mut out).unwrap()),
        Codec::Lz4 => drop(lz4_flex::frame::FrameDecoder::new(payload).read_to_end(&mut out).unwrap()),
        Codec::Zstd => out = zstd::decode_all(payload).unwrap(),
        Codec::Snappy => {
            let mut rest = &payload[16..];
            while let Some((len, behind)) = rest.split_first_chunk() {
                let (block, behind) = behind.split_at(u32::from_be_bytes(*len) as usize);
                out.extend(snap::raw::Decoder::new().decompress_vec(block).unwrap());
                rest = behind;
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_codec_gives_back_what_went_in(records in proptest::collection::vec(any_record(), 1..120)) {
        let plain = bytes_of(Codec::None, &records);
        for codec in Codec::ALL {
            let bytes = bytes_of(codec, &records);
            prop_assert_eq!(read_all(&bytes, 1 << 24).unwrap(), numbered(&records));
            let view = RecordSet::new(&bytes).next().unwrap().unwrap();
            let used = view.codec().unwrap();
            prop_assert!(used == codec || used == Codec::None);
            prop_assert_eq!(foreign(used, view.payload()), &plain[HEADER_BYTES..]);
        }
    }

    #[test]
    fn no_bytes_at_all_make_the_reader_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400), magic in 0u8..4, codec in 0u8..8, fix: bool,
    ) {
        // Make them look like a batch so that the inner checks are reached.
        if bytes.len() > HEADER_BYTES {
            let length = (bytes.len() - 12) as u32;
            bytes[..8].copy_from_slice(&7u64.to_be_bytes());
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[16] = magic;
            bytes[22] = codec;
            bytes[23..27].copy_from_slice(&1000u32.to_be_bytes());
            bytes[57..61].copy_from_slice(&3u32.to_be_bytes());
            if fix {
                seal_crc(&mut bytes);
            }
        }
        let _ = read_all(&bytes, 1 << 20);
        let _ = dump::dump(&bytes).count();
        for codec in Codec::ALL {
            let mut out = Unpacked::new();
            let _ = Decompressor::new(1 << 16).decompress(codec, magic as i8, &bytes, &mut out);
            prop_assert!(out.bytes().len() <= 1 << 16);
        }
    }
}

#[test]
fn large_batches_of_every_codec_come_back() {
    let records = telemetry(6_000);
    let plain = bytes_of(Codec::None, &records);
    for codec in Codec::ALL {
        let bytes = bytes_of(codec, &records);
        assert_eq!(read_all(&bytes, 1 << 24).unwrap(), numbered(&records), "{codec}");
        let view = RecordSet::new(&bytes).next().unwrap().unwrap();
        assert_eq!(view.codec().unwrap(), codec);
        assert_eq!(foreign(codec, view.payload()), &plain[HEADER_BYTES..], "{codec}");
        assert!(codec == Codec::None || bytes.len() * 2 < plain.len(), "{codec} {} of {}", bytes.len(), plain.len());
    }
}

#[test]
fn state_is_reused_and_batches_do_not_depend_on_it() {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    for codec in Codec::ALL {
        let mut first = Vec::new();
        for round in 0..3 {
            let mut builder = BatchBuilder::new(&BatchSettings::with_codec(codec), &pool, &codecs).unwrap();
            for record in telemetry(500) {
                assert_eq!(builder.append(record.timestamp, &record.body()), Append::Stored);
            }
            let mut bytes = Vec::new();
            builder.seal(Stamp::NONE).copy_to(&mut bytes);
            if round == 0 {
                first = bytes;
            } else {
                assert_eq!(bytes, first, "{codec}");
            }
        }
    }
    assert_eq!(pool.out_bytes(), 0);
}

#[test]
fn lz4_blocks_are_exactly_64_kib_and_the_estimate_is_a_bound() {
    let settings = BatchSettings::with_codec(Codec::Lz4);
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
    let mut raw = 0;
    for record in telemetry(3_000) {
        assert_eq!(builder.append(record.timestamp, &record.body()), Append::Stored);
        assert!(builder.wire_bytes_estimate() <= settings.size_bytes_max);
        raw = builder.raw_bytes();
    }
    let bound = builder.wire_bytes_estimate();
    let memory = builder.memory_bytes();
    assert!(memory < raw / 2, "compressed as it fills: {memory} of {raw}");
    let sealed = builder.seal(Stamp::NONE);
    assert!(sealed.wire_len() <= bound);
    assert!(bound - sealed.wire_len() <= 65_536 + 8);
    let mut bytes = Vec::new();
    sealed.copy_to(&mut bytes);
    // Walk the frame: every block but the last decompresses to exactly 65,536 bytes.
    let mut rest = &bytes[HEADER_BYTES + 7..];
    let mut sizes = Vec::new();
    while let Some((word, behind)) = rest.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*word) as usize;
        if len == 0 {
            break;
        }
        let (block, behind) = behind.split_at(len);
        let mut out = vec![0; 1 << 17];
        sizes.push(lz4_flex::block::decompress_into(block, &mut out).unwrap());
        rest = behind;
    }
    let (last, full) = sizes.split_last().unwrap();
    assert!(full.len() >= 3 && full.iter().all(|size| *size == 65_536));
    assert_eq!(full.len() * 65_536 + last, raw);
    assert_eq!(bytes[HEADER_BYTES..][..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
}

#[test]
fn size_count_and_raw_limits_say_full_and_an_empty_batch_never_does() {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    for codec in Codec::ALL {
        let small = BatchSettings { size_bytes_max: 5_000, ..BatchSettings::with_codec(codec) };
        let mut builder = BatchBuilder::new(&small, &pool, &codecs).unwrap();
        let body = Rec::of(0, "k", &"x".repeat(400)).body();
        while builder.append(0, &body) == Append::Stored {}
        assert!(builder.wire_bytes_estimate() <= 5_000, "{codec}");
        let count = builder.count();
        assert!(count >= 8);
        let sealed = builder.seal(Stamp::NONE);
        assert!(sealed.wire_len() <= 5_000 && sealed.count() == count, "{codec}");

        // Nothing was learnt about this data yet, so nothing is expected of a stream codec.
        let mut lone = BatchBuilder::new(&small, &pool, &Codecs::new()).unwrap();
        let mut rng = crate::base::rng::Rng::new(1);
        let noise: Vec<u8> = (0..200_000).map(|_| rng.next_u64() as u8).collect();
        assert_eq!(lone.append(0, &noise), Append::Stored);
        assert_eq!(lone.append(0, &body), Append::Full);
    }
    let two = BatchSettings { count_max: 2, ..BatchSettings::default() };
    let mut builder = BatchBuilder::new(&two, &pool, &codecs).unwrap();
    assert_eq!((builder.append(1, b"abc"), builder.append(1, b"abc")), (Append::Stored, Append::Filled));
    assert_eq!(builder.append(1, b"abc"), Append::Full);
    let mut far = BatchBuilder::new(&BatchSettings::default(), &pool, &codecs).unwrap();
    assert_eq!(far.append(i64::MIN, b"abc"), Append::Stored);
    assert_eq!(far.append(1, b"abc"), Append::Full, "a timestamp delta that does not fit starts a new batch");
}

#[test]
fn an_uncompressed_batch_knows_its_size_exactly() {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut builder = BatchBuilder::new(&BatchSettings::default(), &pool, &codecs).unwrap();
    for record in telemetry(300) {
        assert_eq!(builder.append(record.timestamp, &record.body()), Append::Stored);
    }
    let estimate = builder.wire_bytes_estimate();
    assert_eq!(estimate, HEADER_BYTES + builder.raw_bytes());
    assert_eq!(builder.seal(Stamp::NONE).wire_len(), estimate);
}

#[test]
fn open_batches_grow_and_do_not_preallocate() {
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut open = Vec::new();
    for _ in 0..1_000 {
        let mut builder = BatchBuilder::new(&BatchSettings::default(), &pool, &codecs).unwrap();
        assert_eq!(builder.append(0, &[1; 100]), Append::Stored);
        assert_eq!(builder.memory_bytes(), 4 << 10);
        open.push(builder);
    }
    assert_eq!(pool.out_bytes(), 1_000 * (4 << 10));
    let mut steps = Vec::new();
    let mut one = open.pop().unwrap();
    for _ in 0..1_500 {
        assert_eq!(one.append(0, &[1; 100]), Append::Stored);
        steps.push(one.memory_bytes() >> 10);
    }
    steps.dedup();
    assert_eq!(steps, [4, 20, 84, 148, 212]);
}

#[test]
fn d1_01_a_restamped_batch_shares_its_body_and_leaves_the_old_header_alone() {
    let stamp = Stamp { producer_id: 7, producer_epoch: 1, base_sequence: 100, transactional: false };
    for codec in Codec::ALL {
        let mut sealed = seal(&BatchSettings::with_codec(codec), &telemetry(50), stamp);
        let in_flight: Vec<_> = sealed.pieces().cloned().collect();
        let before: Vec<u8> = in_flight.iter().flat_map(|piece| piece.bytes()).copied().collect();
        let retried: Vec<u8> = sealed.pieces().flat_map(|piece| piece.bytes()).copied().collect();
        assert_eq!(retried, before, "a retry is byte-identical");

        sealed.restamp(Stamp { producer_epoch: 2, base_sequence: 0, ..stamp });
        let after: Vec<u8> = in_flight.iter().flat_map(|piece| piece.bytes()).copied().collect();
        assert_eq!(after, before, "memory that may be in flight does not change");
        for (old, new) in in_flight.iter().zip(sealed.pieces()).skip(1) {
            assert_eq!(old.bytes().as_ptr(), new.bytes().as_ptr());
        }
        let mut bytes = Vec::new();
        sealed.copy_to(&mut bytes);
        let view = RecordSet::new(&bytes).next().unwrap().unwrap();
        view.verify().unwrap();
        let header = view.header().unwrap();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 2, 0));
        assert_eq!(header.count, 50);
        assert_eq!(bytes.len(), before.len());
        assert_eq!(bytes[HEADER_BYTES..], before[HEADER_BYTES..]);
    }
}

#[test]
fn d1_11_what_a_codec_makes_larger_goes_raw() {
    let mut rng = crate::base::rng::Rng::new(5);
    for (count, size) in [(1, 300), (1, 900_000), (3, 60_000), (40, 5_000)] {
        let records: Vec<Rec> = (0..count)
            .map(|i| Rec {
                timestamp: i,
                value: Some((0..size).map(|_| rng.next_u64() as u8).collect()),
                ..Rec::default()
            })
            .collect();
        let plain = bytes_of(Codec::None, &records);
        for codec in Codec::ALL {
            assert_eq!(bytes_of(codec, &records), plain, "{codec} {count} x {size}");
        }
    }
    for codec in Codec::ALL {
        assert_eq!(bytes_of(codec, &[Rec::of(0, "k", "v")]), bytes_of(Codec::None, &[Rec::of(0, "k", "v")]));
    }
}

#[test]
fn d2_33_the_last_offset_comes_from_the_header_not_from_the_count() {
    let mut bytes = bytes_of(Codec::None, &telemetry(3));
    header::assign(&mut bytes, 1_000, 4);
    // As compaction leaves it: the tail is gone, the last offset delta stays.
    bytes[23..27].copy_from_slice(&99i32.to_be_bytes());
    seal_crc(&mut bytes);
    // An empty batch behind it keeps a producer's sequence.
    let mut empty = bytes[..HEADER_BYTES].to_vec();
    empty[8..12].copy_from_slice(&49i32.to_be_bytes());
    empty[57..61].copy_from_slice(&0i32.to_be_bytes());
    header::assign(&mut empty, 1_100, 4);
    seal_crc(&mut empty);
    bytes.extend_from_slice(&empty);
    let control = encode_marker(Marker::Abort, 1_200, 4, 5, 9, 0, 3);
    bytes.extend_from_slice(&control);

    let views: Vec<_> = RecordSet::new(&bytes).map(Result::unwrap).collect();
    let found: Vec<_> = views.iter().map(|view| (view.base_offset(), view.last_offset(), view.count())).collect();
    assert_eq!(found, [(1_000, 1_099, Some(3)), (1_100, 1_199, Some(0)), (1_200, 1_200, Some(1))]);
    assert_eq!(read_all(&bytes, 1 << 20).unwrap().len(), 4);
    assert!(views[2].is_control() && views[2].is_transactional());
    let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
    let record = views[2].records(&mut decompressor, &mut unpacked).unwrap().next().unwrap().unwrap();
    assert_eq!(ControlRecord::read(&record), Some(ControlRecord::End { marker: Marker::Abort, coordinator_epoch: 3 }));
}

#[test]
fn d2_34_counts_and_lengths_that_cannot_be_are_errors_that_name_the_offset() {
    let good = bytes_of(Codec::None, &telemetry(3));
    let patched = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        header::assign(&mut bad, 500, 0);
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        seal_crc(&mut bad);
        read_all(&bad, 1 << 20).unwrap_err()
    };
    for count in [-1, i32::MIN, i32::MAX, 4, 2] {
        let error = patched(57, &count.to_be_bytes());
        assert!(error.contains("offset 50"), "{count}: {error}");
    }
    assert!(patched(23, &(-1i32).to_be_bytes()).contains("offset 500"));
    assert!(patched(23, &1i32.to_be_bytes()).contains("offset out of order"), "records past the last offset");
    for length in [0xff, 0x80, 0x01, 0x00] {
        assert!(patched(HEADER_BYTES, &[length]).contains("offset 499"), "{length:#x}");
    }
    assert!(patched(22, &[5]).contains("unknown codec number 5"));
    // Claims records, has no bytes.
    let mut none = good[..HEADER_BYTES].to_vec();
    none[8..12].copy_from_slice(&49i32.to_be_bytes());
    seal_crc(&mut none);
    assert!(read_all(&none, 1 << 20).unwrap_err().contains("3 records cannot be in 0 bytes"));
    // Length fields that no batch can have.
    for length in [-1, 0, 13, 48, i32::MIN] {
        let mut bad = good.clone();
        bad[8..12].copy_from_slice(&length.to_be_bytes());
        assert!(read_all(&bad, 1 << 20).is_err(), "{length}");
    }
    for magic in [3, 0x7f, 0xff] {
        let mut bad = good.clone();
        bad[16] = magic;
        assert!(read_all(&bad, 1 << 20).unwrap_err().contains("unknown magic"));
    }
}

#[test]
fn d2_35_a_trailing_partial_batch_is_no_error_wherever_it_is_cut() {
    let first = bytes_of(Codec::Lz4, &telemetry(5));
    let second = bytes_of(Codec::None, &telemetry(2));
    let both = [first.clone(), second.clone()].concat();
    for cut in 0..=second.len() {
        let bytes = &both[..first.len() + cut];
        let found = read_all(bytes, 1 << 20).unwrap();
        assert_eq!(found.len(), if cut == second.len() { 7 } else { 5 });
        let mut set = RecordSet::new(bytes);
        let whole = set.by_ref().count();
        assert_eq!(whole, if cut == second.len() { 2 } else { 1 });
        match set.partial() {
            None => assert!(cut == 0 || cut == second.len()),
            Some(partial) => {
                assert_eq!(partial.have, cut);
                assert_eq!(partial.want, (cut >= 12).then_some(second.len()));
            }
        }
    }
}

/// The expansion bombs of every codec, as payloads.
fn bombs(size: usize) -> Vec<(Codec, Vec<u8>)> {
    use std::io::Write;
    let zeros = vec![0; size];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    gzip.write_all(&zeros).unwrap();
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&zeros).unwrap();
    let snappy = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    vec![
        (Codec::Gzip, gzip.finish().unwrap()),
        (Codec::Lz4, lz4.finish().unwrap()),
        (Codec::Zstd, zstd::encode_all(&zeros[..], 19).unwrap()),
        (Codec::Zstd, zstd::bulk::compress(&zeros, 19).unwrap()),
        (Codec::Snappy, snappy),
    ]
}

#[test]
fn d2_37_bombs_stop_at_the_limit_and_bad_data_is_one_error() {
    let limit = 1 << 20;
    for (codec, payload) in bombs(64 << 20) {
        let (mut decompressor, mut out) = (Decompressor::new(limit), Unpacked::new());
        let error = decompressor.decompress(codec, 2, &payload, &mut out).unwrap_err();
        assert_eq!(error, DecompressError::TooLarge { limit }, "{codec}");
        assert!(out.memory_bytes() <= limit + (128 << 10), "{codec}: {}", out.memory_bytes());
        // The state is as good as new afterwards.
        let small = bytes_of(codec, &telemetry(200));
        let view = RecordSet::new(&small).next().unwrap().unwrap();
        assert_eq!(view.records(&mut decompressor, &mut out).unwrap().count(), 200, "{codec}");
    }
    // Exactly the limit is not too much.
    for (codec, payload) in bombs(1 << 20) {
        let mut out = Unpacked::new();
        Decompressor::new(limit).decompress(codec, 2, &payload, &mut out).unwrap();
        assert_eq!(out.bytes().len(), limit, "{codec}");
        let mut out = Unpacked::new();
        let error = Decompressor::new(limit - 1).decompress(codec, 2, &payload, &mut out).unwrap_err();
        assert_eq!(error, DecompressError::TooLarge { limit: limit - 1 }, "{codec}");
    }
}

#[test]
fn d2_37_declared_sizes_reserve_nothing() {
    let mut out = Unpacked::new();
    let mut decompressor = Decompressor::new(64 << 20);
    // Snappy that declares 60 MiB in six bytes; zstd with an 8-byte content size and a 128 MiB window.
    let snappy = [0x80, 0x80, 0x80, 0x1e, 0x00, 0x00];
    assert!(decompressor.decompress(Codec::Snappy, 2, &snappy, &mut out).is_err());
    let zstd = [0x28, 0xB5, 0x2F, 0xFD, 0xC0, 0x88, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0];
    let _ = decompressor.decompress(Codec::Zstd, 2, &zstd, &mut out);
    assert!(out.bytes().is_empty() && out.memory_bytes() <= 256 << 10, "{}", out.memory_bytes());
    // A window above 128 MiB is refused.
    let wide = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x90, 1, 0, 0];
    assert!(decompressor.decompress(Codec::Zstd, 2, &wide, &mut out).is_err());
}

#[test]
fn compressed_payloads_cut_anywhere_are_errors() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bytes = bytes_of(codec, &telemetry(40));
        let payload = &bytes[HEADER_BYTES..];
        let mut decompressor = Decompressor::new(1 << 20);
        for end in 0..payload.len() {
            let mut out = Unpacked::new();
            let done = decompressor.decompress(codec, 2, &payload[..end], &mut out);
            // Snappy's framing has no end mark: a cut after its header or a block is all there is to see.
            assert!(done.is_err() || codec == Codec::Snappy && (end == 8 || end == 16), "{codec} {end}");
        }
        let mut out = Unpacked::new();
        decompressor.decompress(codec, 2, payload, &mut out).unwrap();
        for at in 0..payload.len() {
            let mut bad = payload.to_vec();
            bad[at] ^= 0x41;
            let mut out = Unpacked::new();
            let _ = decompressor.decompress(codec, 2, &bad, &mut out);
        }
    }
}

#[test]
fn d2_38_any_flipped_bit_under_the_crc_is_noticed() {
    for codec in Codec::ALL {
        let good = bytes_of(codec, &telemetry(12));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            let read = read_all(&bad, 1 << 20);
            match at {
                // Base offset and leader epoch are the broker's to change and not under the CRC. A longer length
                // is a batch that is cut off.
                0..16 => {}
                _ => assert!(read.is_err(), "{codec} byte {at}"),
            }
        }
        for end in 0..good.len() {
            assert_eq!(read_all(&good[..end], 1 << 20), Ok(Vec::new()));
        }
    }
}

#[test]
fn lz4_frames_of_others_are_read() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    let records = telemetry(3_000);
    let plain = bytes_of(Codec::None, &records);
    let raw = &plain[HEADER_BYTES..];
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
            for checks in [false, true] {
                let info = FrameInfo::new()
                    .block_mode(mode)
                    .block_size(size)
                    .block_checksums(checks)
                    .content_checksum(checks)
                    .content_size(checks.then_some(raw.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(raw).unwrap();
                let frame = encoder.finish().unwrap();
                let mut decompressor = Decompressor::new(1 << 24);
                let mut out = Unpacked::new();
                decompressor.decompress(Codec::Lz4, 2, &frame, &mut out).unwrap();
                assert!(out.bytes() == raw);
                // Two frames and a skippable one between them.
                let skip = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
                let twice = [&frame[..], &skip, &frame].concat();
                out.clear();
                decompressor.decompress(Codec::Lz4, 2, &twice, &mut out).unwrap();
                assert!(out.bytes() == [raw, raw].concat());
                if checks {
                    for at in [4, 6, frame.len() / 2] {
                        let mut bad = frame.clone();
                        bad[at] ^= 0x20;
                        out.clear();
                        assert!(decompressor.decompress(Codec::Lz4, 2, &bad, &mut out).is_err(), "{at}");
                    }
                    // The hash of the content stands there, but the batch's CRC is what counts.
                    let mut other = frame.clone();
                    other[frame.len() - 1] ^= 0x20;
                    out.clear();
                    decompressor.decompress(Codec::Lz4, 2, &other, &mut out).unwrap();
                    assert!(out.bytes() == raw);
                    out.clear();
                    let cut = &frame[..frame.len() - 1];
                    assert!(decompressor.decompress(Codec::Lz4, 2, cut, &mut out).is_err());
                }
            }
        }
    }
}

#[test]
fn gzip_snappy_and_zstd_of_others_are_read() {
    use std::io::Write;
    let plain = bytes_of(Codec::None, &telemetry(1_000));
    let raw = &plain[HEADER_BYTES..];
    let mut decompressor = Decompressor::new(1 << 24);
    let mut check = |codec, payload: &[u8], want: &[u8]| {
        let mut out = Unpacked::new();
        decompressor.decompress(codec, 2, payload, &mut out).unwrap();
        assert!(out.bytes() == want, "{codec}");
    };
    let mut gzip = flate2::GzBuilder::new()
        .filename("segment")
        .comment("two parts")
        .extra(vec![1, 2, 3])
        .write(Vec::new(), flate2::Compression::fast());
    gzip.write_all(raw).unwrap();
    let member = gzip.finish().unwrap();
    check(Codec::Gzip, &member, raw);
    check(Codec::Gzip, &[&member[..], &member].concat(), &[raw, raw].concat());

    let bare = snap::raw::Encoder::new().compress_vec(raw).unwrap();
    check(Codec::Snappy, &bare, raw);
    let header = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let block = |raw: &[u8]| {
        let block = snap::raw::Encoder::new().compress_vec(raw).unwrap();
        [&(block.len() as u32).to_be_bytes()[..], &block].concat()
    };
    let streams = [&header[..], &block(&raw[..70_000]), &header, &block(&raw[70_000..])].concat();
    check(Codec::Snappy, &streams, raw);

    let mut streamed = zstd::stream::Encoder::new(Vec::new(), 7).unwrap();
    streamed.include_checksum(true).unwrap();
    streamed.include_contentsize(false).unwrap();
    streamed.write_all(raw).unwrap();
    let frame = streamed.finish().unwrap();
    check(Codec::Zstd, &frame, raw);
    check(Codec::Zstd, &[&frame[..], &frame].concat(), &[raw, raw].concat());
    check(Codec::Zstd, &zstd::bulk::compress(raw, 3).unwrap(), raw);
}

#[test]
fn append_time_replaces_every_timestamp() {
    let mut bytes = bytes_of(Codec::Zstd, &telemetry(30));
    header::stamp_append_time(&mut bytes, 42);
    let found = read_all(&bytes, 1 << 20).unwrap();
    assert!(found.len() == 30 && found.iter().all(|(_, record)| record.timestamp == 42));
}

#[test]
fn a_walk_can_be_left_and_resumed() {
    let bytes = bytes_of(Codec::Lz4, &telemetry(10));
    let view = RecordSet::new(&bytes).next().unwrap().unwrap();
    let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
    let (head, payload) = view.open(&mut decompressor, &mut unpacked).unwrap();
    assert_eq!(payload, Payload::Unpacked);
    let mut walk = Records::new(head, unpacked.bytes());
    assert_eq!(walk.by_ref().take(4).count(), 4);
    let rest = Records::resume(head, unpacked.bytes(), walk.mark());
    let offsets: Vec<_> = rest.map(|record| record.unwrap().offset).collect();
    assert_eq!(offsets, [4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_record_goes_from_batch_to_batch_by_its_body() {
    let records = telemetry(20);
    let bytes = bytes_of(Codec::Zstd, &records);
    let view = RecordSet::new(&bytes).next().unwrap().unwrap();
    let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 20), Unpacked::new());
    let (pool, codecs) = (ChunkPool::new(1 << 20), Codecs::new());
    let mut builder = BatchBuilder::new(&BatchSettings::default(), &pool, &codecs).unwrap();
    for record in view.records(&mut decompressor, &mut unpacked).unwrap() {
        let record = record.unwrap();
        assert_eq!(builder.append(record.timestamp, record.body()), Append::Stored);
    }
    let mut copy = Vec::new();
    builder.seal(Stamp::NONE).copy_to(&mut copy);
    assert_eq!(copy, bytes_of(Codec::None, &records));
}

#[test]
fn a_dump_shows_batches_records_and_what_is_wrong() {
    let stamp = Stamp { producer_id: 9, producer_epoch: 2, base_sequence: 4, transactional: true };
    let mut bytes = Vec::new();
    seal(&BatchSettings::with_codec(Codec::Lz4), &telemetry(30), stamp).copy_to(&mut bytes);
    header::assign(&mut bytes, 70, 3);
    bytes.extend(encode_marker(Marker::Commit, 100, 3, 1, 9, 2, 0));
    let broken = bytes.len();
    let mut bad = bytes_of(Codec::None, &[Rec::of(1, "k", "v")]);
    bad[HEADER_BYTES] ^= 1;
    bytes.extend(&bad);
    bytes.extend(&bad[..20]);
    let found: Vec<_> = dump::dump(&bytes).collect();
    let [dump::Dumped::Batch(data), dump::Dumped::Batch(marker), dump::Dumped::Batch(bad), partial] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!((data.base_offset, data.last_offset, data.count, data.crc_ok), (70, 99, 30, true));
    assert_eq!((data.producer_id, data.producer_epoch, data.base_sequence, data.transactional), (9, 2, 4, true));
    assert_eq!(data.records.len(), 30);
    assert!(marker.control && marker.records[0].control.is_some());
    assert!(!bad.crc_ok && bad.position == broken && bad.error.is_some());
    assert!(matches!(partial, dump::Dumped::Partial { .. }));
    let text = found.iter().map(|found| format!("{found}\n")).collect::<String>();
    assert!(text.contains("compresscodec: lz4") && text.contains("control: commit") && text.contains("crc mismatch"));
    #[cfg(feature = "json")]
    {
        let json = found[0].to_json();
        assert_eq!(json["base_offset"], 70);
        assert_eq!(json["records"][0]["headers"][2]["value"], serde_json::Value::Null);
        assert_eq!(found[1].to_json()["records"][0]["control"], "commit");
    }
}

#[test]
fn a_body_written_in_place_is_the_body_that_is_pushed() {
    let long = vec![7u8; 300];
    let headers = [("", None), ("h", Some(b"".as_slice())), ("name", Some(long.as_slice()))];
    for key in [None, Some(b"".as_slice()), Some(b"key")] {
        for value in [None, Some(b"".as_slice()), Some(long.as_slice())] {
            for count in 0..=headers.len() {
                let headers = || headers[..count].iter().copied();
                let mut pushed = Vec::new();
                encode_body(key, value, headers(), &mut pushed);
                let mut placed = vec![0xee; body_len(key, value, headers()) + 3];
                encode_body_at(key, value, headers(), &mut placed);
                assert_eq!(placed[..pushed.len()], pushed);
                assert_eq!(placed[pushed.len()..], [0xee; 3]);
            }
        }
    }
}
