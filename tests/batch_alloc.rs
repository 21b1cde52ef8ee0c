//! The hot path does not allocate: appending and reading records, counted by the allocator.

#![allow(clippy::unwrap_used)]

#[path = "common/counting.rs"]
#[allow(dead_code)]
mod counting;

use counting::allocations as counted;
use ottla::base::chunk::ChunkPool;
use ottla::batch::{
    Append, BatchBuilder, BatchSettings, Codec, Codecs, Decompressor, RecordSet, Stamp, Unpacked, encode_body,
};

// One test, so that nothing else allocates meanwhile.
#[test]
fn no_allocation_per_record_in_steady_state() {
    let (pool, codecs) = (ChunkPool::new(16 << 20), Codecs::new());
    let bodies: Vec<Vec<u8>> = (0..4_000u32)
        .map(|i| {
            let mut body = Vec::new();
            let trace = format!("{i:032x}");
            let value =
                format!("{{\"id\":{i},\"temperature\":{},\"status\":\"ok\",\"pad\":\"{:060}\"}}", i % 40, i % 7);
            encode_body(
                Some(b"sensor"),
                Some(value.as_bytes()),
                [("trace", Some(trace.as_bytes()))].into_iter(),
                &mut body,
            );
            body
        })
        .collect();
    for codec in Codec::ALL {
        let settings = BatchSettings::with_codec(codec);
        let build = |count: usize| {
            let mut builder = BatchBuilder::new(&settings, &pool, &codecs).unwrap();
            for body in &bodies[..count] {
                assert_eq!(builder.append(1_700_000_000_000, body), Append::Stored);
            }
            builder.seal(Stamp::NONE)
        };
        for _ in 0..3 {
            drop(build(4_000));
        }
        let (small, few) = counted(|| build(2_000));
        drop(small);
        let (sealed, many) = counted(|| build(4_000));
        // What remains is per chunk: the vector of pieces and a reference count each.
        assert!(many <= 3 * (sealed.raw_bytes() as u64 >> 16) + 16, "{codec}: {few} for 2,000, {many} for 4,000");
        assert!(many - few <= 2 * (sealed.raw_bytes() as u64 >> 17) + 4, "{codec}: {few} for 2,000, {many} for 4,000");

        let mut bytes = Vec::new();
        sealed.copy_to(&mut bytes);
        let (mut decompressor, mut unpacked) = (Decompressor::new(1 << 24), Unpacked::new());
        let mut read = || {
            let mut sum = 0;
            for view in RecordSet::new(&bytes) {
                let view = view.unwrap();
                for record in view.records(&mut decompressor, &mut unpacked).unwrap() {
                    let record = record.unwrap();
                    sum += record.value().map_or(0, <[u8]>::len)
                        + record.headers().map(|h| h.unwrap().key.len()).sum::<usize>();
                }
            }
            sum
        };
        read();
        let (sum, allocations) = counted(read);
        assert!(sum > 400_000);
        assert_eq!(allocations, 0, "{codec}");
    }
}
