//! Hostile bytes for everything that reads messages: frames, headers, every message at every version, the view of a fetch
//! answer. Nothing panics, nothing takes more memory than its input justifies, and what is read is what is written again.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;
mod fuzz_support;
#[path = "common/golden.rs"]
#[allow(dead_code)]
mod golden;

use bolero::{check, produce};
use bytes::Bytes;
use counting::peak_bytes;
use fuzz_support::{Recipe, iterations};
use ottla::wire::any::{self, AnyError};
use ottla::wire::frame::{FrameReader, PREFIX_BYTES, decode_request_header, decode_response_header};
use ottla::wire::messages::FetchResponse;
use ottla::wire::{ApiKey, EncodeErrorKind, ErrorCode, FetchView, Message, Reader, TopicRef};

/// What a decoded message may take: a structure of two bytes may be 200 in memory, and vectors grow by doubling.
fn allowed(input: usize) -> usize {
    1024 + 160 * input
}

#[test]
fn fuzz_messages() {
    let golden = golden::messages();
    let corpus: Vec<&[u8]> = golden.iter().map(|line| line.bytes.as_slice()).collect();
    check!().with_iterations(iterations(20_000)).with_type::<(Recipe, u8, u16)>().for_each(
        |(recipe, other_version, other_message)| {
            let line = &golden[recipe.index(golden.len())];
            // Mostly as the message and version that it was; now and then another version, or another message altogether.
            let which = match other_message {
                0..60_000 => &line.which,
                other => &golden[*other as usize % golden.len()].which,
            };
            let versions = any::versions(which).unwrap();
            let version = match other_version {
                0..200 if versions.contains(line.version) => line.version,
                other => versions.min + i16::from(*other) % (versions.max - versions.min + 1),
            };
            let input = recipe.cook(&corpus);
            let (read, peak) = peak_bytes(|| any::check(which, version, &input));
            assert!(peak <= allowed(input.len()), "{which:?} {version}: {peak} bytes for {}", input.len());
            assert!(
                !recipe.is_plain() || *other_message >= 60_000 || version != line.version || read == Ok(input.len())
            );
            let Ok(read) = read else { return };
            assert!(read <= input.len());
            // All of a message: it is written again, and that is read as the same value.
            let whole = Bytes::from(input[..read].to_vec());
            match any::convert(which, version, version, &whole) {
                Ok(again) => {
                    let again = Bytes::from(again);
                    assert_eq!(any::convert(which, version, version, &again).unwrap(), again, "{which:?} {version}");
                    let value = |bytes: &Bytes| any::decode(which, version, bytes, ottla::wire::json::Records::Base64);
                    if let (Ok(first), Ok(second)) = (value(&whole), value(&again)) {
                        assert_eq!(first, second, "{which:?} {version}");
                    }
                }
                // As in Java: tags that nobody knows may come in any order, but are written in theirs only.
                Err(AnyError::Encode(error)) if matches!(error.kind, EncodeErrorKind::TagOrder(_)) => {}
                Err(error) => panic!("{which:?} {version} is read but not written: {error}"),
            }
        },
    );
}

#[test]
fn fuzz_frames() {
    // A stream of frames in pieces, some of them spoilt: frames come whole, in order, or the stream is refused.
    let frames = produce::<Vec<Vec<u8>>>().with().len(0..6usize);
    check!()
        .with_iterations(iterations(30_000))
        .with_generator((frames, produce::<Vec<u8>>().with().len(0..20usize), 4..100usize))
        .for_each(|(frames, spoilt, most)| {
            let mut stream = Vec::new();
            for frame in frames {
                stream.extend_from_slice(&(frame.len() as i32).to_be_bytes());
                stream.extend_from_slice(frame);
            }
            stream.extend_from_slice(spoilt);
            let reader = FrameReader::new(*most);
            let ((), peak) = peak_bytes(|| {
                let mut rest = stream.as_slice();
                for frame in frames {
                    match reader.frame(rest) {
                        Ok(Some(found)) => {
                            assert_eq!(found, frame);
                            assert!((4..=*most).contains(&found.len()));
                            rest = &rest[PREFIX_BYTES + found.len()..];
                        }
                        Ok(None) => panic!("it is all there"),
                        Err(error) => {
                            assert!(!(4..=*most).contains(&frame.len()));
                            assert_eq!(error.announced, frame.len() as i32);
                            return;
                        }
                    }
                }
                while let Ok(Some(found)) = reader.frame(rest) {
                    assert!((4..=*most).contains(&found.len()));
                    rest = &rest[PREFIX_BYTES + found.len()..];
                }
            });
            assert_eq!(peak, 0);
        });
}

#[test]
fn fuzz_headers() {
    let corpus: Vec<Vec<u8>> =
        golden::messages().into_iter().filter(|line| line.name.ends_with("Header")).map(|line| line.bytes).collect();
    assert!(corpus.len() > 10);
    let apis: Vec<ApiKey> = ApiKey::all().collect();
    check!().with_iterations(iterations(20_000)).with_type::<(Recipe, u8, u8)>().for_each(|(recipe, api, version)| {
        let input = recipe.cook(&corpus);
        let api = apis[usize::from(*api) % apis.len()];
        let versions = api.versions();
        let version = versions.min + i16::from(*version) % (versions.max - versions.min + 1);
        let ((), peak) = peak_bytes(|| {
            let mut body = Reader::new(&input);
            if let Ok(header) = decode_response_header(api, version, &mut body) {
                assert_eq!(header.correlation_id.to_be_bytes(), input[..4]);
            }
            let mut body = Reader::new(&input);
            if let Ok((key, header)) = decode_request_header(&mut body) {
                assert_eq!(header.request_api_key.to_be_bytes(), input[..2]);
                assert_eq!(key, ApiKey::try_from(header.request_api_key).ok());
            }
        });
        assert!(peak <= allowed(input.len()), "{peak} bytes for {}", input.len());
    });
}

#[test]
fn fuzz_fetch_view() {
    let golden: Vec<_> = golden::messages().into_iter().filter(|line| line.name == "FetchResponse").collect();
    let corpus: Vec<&[u8]> = golden.iter().map(|line| line.bytes.as_slice()).collect();
    check!().with_iterations(iterations(20_000)).with_type::<Recipe>().for_each(|recipe| {
        let version = golden[recipe.index(golden.len())].version;
        let input = recipe.cook(&corpus);
        // The generated message reads the same bytes, its own way.
        let owned = FetchResponse::from_bytes(version, &Bytes::from(input.clone()));
        let (viewed, peak) = peak_bytes(|| view(version, &input, owned.as_ref().ok()));
        assert!(owned.is_err() || peak == 0, "the view took {peak} bytes");
        match (&owned, &viewed) {
            (Ok(_), Ok(())) | (Err(_), Err(_)) => {}
            // The snapshot id is for replicas: the view passes over it by its size.
            (Err(error), Ok(())) if ["snapshotId", "endOffset", "epoch"].contains(&error.field) => {}
            (owned, viewed) => panic!("version {version}: {:?} but {viewed:?}", owned.as_ref().map(|_| ())),
        }
    });
}

/// Walks an answer to its end, and compares it with the generated message.
fn view(version: i16, input: &[u8], owned: Option<&FetchResponse>) -> Result<(), AnyError> {
    let mut view = FetchView::new(version, input)?;
    if let Some(owned) = owned {
        assert_eq!(view.throttle_time_ms, owned.throttle_time_ms);
        assert_eq!(view.error, ErrorCode::from(owned.error_code));
        assert_eq!(view.session_id, owned.session_id);
    }
    let mut all = owned.map(|owned| {
        owned.responses.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
    });
    while let Some(found) = view.next()? {
        let records = &input[found.records.clone()];
        let aborted = found.aborted.clone().map(Iterator::count);
        let Some(all) = &mut all else { continue };
        let (topic, partition) = all.next().unwrap();
        match found.topic {
            TopicRef::Name(name) => assert_eq!(name, &*topic.topic),
            TopicRef::Id(id) => assert_eq!(id, topic.topic_id),
        }
        assert_eq!(found.partition, partition.partition_index);
        assert_eq!(found.error, ErrorCode::from(partition.error_code));
        assert_eq!(found.high_watermark, partition.high_watermark);
        assert_eq!(found.last_stable_offset, partition.last_stable_offset);
        assert_eq!(found.log_start_offset, partition.log_start_offset);
        assert_eq!(found.preferred_read_replica, partition.preferred_read_replica);
        assert_eq!(aborted, partition.aborted_transactions.as_ref().map(Vec::len));
        assert_eq!(records, partition.records.as_deref().unwrap_or_default());
    }
    assert!(all.is_none_or(|mut all| all.next().is_none()));
    let mut endpoints = owned.map(|owned| owned.node_endpoints.iter());
    view.end(|found| {
        if let Some(endpoint) = endpoints.as_mut().map(|endpoints| endpoints.next().unwrap()) {
            assert_eq!((found.node_id, found.host, found.port), (endpoint.node_id, &*endpoint.host, endpoint.port));
        }
    })?;
    Ok(())
}

/// The harness itself: it finds a reader that trusts a count.
#[test]
fn a_reader_that_trusts_lengths_is_found() {
    let trusting = |input: &[u8]| -> Option<Vec<u8>> {
        let len = u32::from_be_bytes(*input.first_chunk::<4>()?) as usize;
        let mut out = Vec::with_capacity(len.min(1 << 30));
        out.extend_from_slice(input.get(4..4 + len)?);
        Some(out)
    };
    let corpus = [[0, 0, 0, 2, 7, 7]];
    let found = std::sync::atomic::AtomicU32::new(0);
    check!().with_iterations(2_000).with_type::<Recipe>().for_each(|recipe| {
        let input = recipe.cook(&corpus);
        let (_, peak) = peak_bytes(|| trusting(&input));
        found.fetch_add(u32::from(peak > allowed(input.len())), std::sync::atomic::Ordering::Relaxed);
    });
    assert!(found.into_inner() > 10);
}
