//! Which partition a record goes to: Java's murmur2 for keyed records, uniform sticky (KIP-794) for the others.

use crate::base::rng::Rng;

/// Java's `Utils.murmur2`, as a signed number.
#[inline]
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

/// The partition of a keyed record: `toPositive(murmur2(key)) % partitions`. `partitions` must be positive.
#[inline]
pub fn keyed_partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions.max(1)
}

/// The sticky choice for one topic's unkeyed records: one partition until `batch.size` bytes went to it, then another one,
/// each available one equally likely.
#[derive(Clone, Debug, Default)]
pub struct Sticky {
    partition: i32,
    bytes_left: usize,
}

impl Sticky {
    /// The partition of the next unkeyed record of `bytes` bytes. `available` answers whether a partition has a leader now;
    /// when none has, all count as available (the records wait, d1-19).
    #[inline]
    pub fn partition(
        &mut self,
        bytes: usize,
        switch_bytes: usize,
        partitions: i32,
        rng: &mut Rng,
        available: impl Fn(i32) -> bool,
    ) -> i32 {
        if self.bytes_left == 0 || self.partition >= partitions {
            self.partition = Self::choose(self.partition, partitions, rng, available);
            self.bytes_left = switch_bytes.max(1);
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.partition
    }

    /// Makes the next record choose again: its partition lost its leader, or its metadata changed.
    pub fn reset(&mut self) {
        self.bytes_left = 0;
    }

    fn choose(last: i32, partitions: i32, rng: &mut Rng, available: impl Fn(i32) -> bool) -> i32 {
        let partitions = partitions.max(1);
        let others = (0..partitions).filter(|p| *p != last && available(*p)).count();
        if others == 0 {
            if last < partitions && available(last) {
                return last;
            }
            return rng.below(partitions as u64) as i32;
        }
        // All available ones are equally likely, the last one too: over many switches the load is even.
        let with_last = others + usize::from(last < partitions && available(last));
        let mut pick = rng.below(with_last as u64) as usize;
        for p in 0..partitions {
            if available(p) {
                if pick == 0 {
                    return p;
                }
                pick -= 1;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Java's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_javas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
        assert_eq!(murmur2(b"abc"), 479_470_107);
    }

    #[test]
    fn keyed_partitions_are_in_range_for_negative_hashes() {
        assert_eq!(keyed_partition(b"21", 12), (-973_932_308i32 & i32::MAX) % 12);
        assert!((0..7).contains(&keyed_partition(b"foobar", 7)));
    }

    #[test]
    fn unkeyed_records_stick_for_batch_size_bytes_and_spread_evenly() {
        let (mut sticky, mut rng) = (Sticky::default(), Rng::new(7));
        let mut counts = [0u32; 8];
        for _ in 0..8_000 {
            let first = sticky.partition(100, 1_000, 8, &mut rng, |_| true);
            for _ in 0..9 {
                assert_eq!(sticky.partition(100, 1_000, 8, &mut rng, |_| true), first);
            }
            counts[first as usize] += 1;
        }
        for count in counts {
            assert!((850..1150).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn d1_19_only_partitions_with_a_leader_are_chosen_while_some_have_one() {
        let (mut sticky, mut rng) = (Sticky::default(), Rng::new(7));
        for _ in 0..100 {
            assert_eq!(sticky.partition(10, 10, 4, &mut rng, |p| p == 2), 2);
        }
        let p = sticky.partition(10, 10, 4, &mut rng, |_| false);
        assert!((0..4).contains(&p));
    }
}
