//! The two checksums of Kafka's formats: CRC-32C for v2 batches, CRC-32 (IEEE) for v0/v1 messages and gzip.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C (Castagnoli) of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32 (IEEE 802.3) of `bytes`.
#[inline]
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(bytes)
}

/// CRC-32C over several slices as if they were one.
pub(crate) fn crc32c_over<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    over(CrcAlgorithm::Crc32Iscsi, pieces)
}

/// CRC-32 over several slices as if they were one.
#[cfg_attr(not(feature = "gzip"), allow(dead_code))]
pub(crate) fn crc32_over<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    over(CrcAlgorithm::Crc32IsoHdlc, pieces)
}

fn over<'a>(algorithm: CrcAlgorithm, pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut digest = Digest::new(algorithm);
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_values_of_both_polynomials() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    proptest! {
        #[test]
        fn crc32c_agrees_with_the_oracle_however_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000), cut: prop::sample::Index,
        ) {
            let cut = cut.index(bytes.len() + 1);
            let (a, b) = bytes.split_at(cut);
            prop_assert_eq!(crc32c(&bytes), ::crc32c::crc32c(&bytes));
            prop_assert_eq!(crc32c_over([a, b].into_iter()), ::crc32c::crc32c(&bytes));
        }
    }
}
