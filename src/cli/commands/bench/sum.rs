//! The sum over keys, values and headers that every client's bench program makes of what it read, so that all of them
//! touch every byte and none of them pays for more. `bench-harness/peers` has the same function in other languages.

use crate::cli::workload::{Content, HEADER_NAMES, Workload};

/// Sum of all records so far; the order of records does not matter, that of bytes and what they are does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Takes one record in.
    pub fn record<'a>(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) {
        let mut sum = words(key.unwrap_or_default());
        sum = sum.wrapping_add(words(value.unwrap_or_default()).wrapping_mul(3));
        for (name, value) in headers {
            sum = sum.wrapping_add(words(name).wrapping_mul(5));
            sum = sum.wrapping_add(words(value.unwrap_or_default()).wrapping_mul(7));
        }
        self.0 = self.0.wrapping_add(sum);
    }

    /// The sum of a whole workload, made again from its indices.
    pub fn expected(workload: Workload, messages: u64) -> Self {
        let (mut sum, mut content) = (Self::default(), Content::default());
        for index in 0..messages {
            content.make(workload, index);
            let values = content.header_values().into_iter().flatten().map(Some);
            let headers = HEADER_NAMES.iter().map(|name| name.as_bytes()).zip(values);
            sum.record(content.key(), Some(content.value()), headers);
        }
        sum
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Length plus the little-endian 64-bit words of a field; the last word overlaps the one before it, and fields under eight
/// bytes are one word.
fn words(field: &[u8]) -> u64 {
    let mut sum = field.len() as u64;
    let Some(last) = field.last_chunk::<8>() else {
        return field.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)).wrapping_add(sum);
    };
    let (whole, rest) = field.as_chunks::<8>();
    for word in whole {
        sum = sum.wrapping_add(u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        sum = sum.wrapping_add(u64::from_le_bytes(*last));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_field() {
        assert_eq!(words(b""), 0);
        assert_eq!(words(&[1, 2]), 2 + 0x0201);
        assert_eq!(words(&[1, 0, 0, 0, 0, 0, 0, 0]), 8 + 1);
        // The last word is bytes 1 to 8.
        assert_eq!(words(&[1, 0, 0, 0, 0, 0, 0, 0, 1]), 9 + 1 + (1 << 56));
    }

    /// The same figures stand in the tests of the other clients' programs.
    #[test]
    fn workloads_have_known_sums() {
        assert_eq!(Sum::expected(Workload::Telemetry, 1_000).to_string(), "dcc558c833cb7022");
        assert_eq!(Sum::expected(Workload::Fixed(100), 1_000).to_string(), "c8e77a511267e02f");
    }

    #[test]
    fn what_a_field_is_matters() {
        let sum = |key: &[u8], value: &[u8]| {
            let mut sum = Sum::default();
            sum.record(Some(key), Some(value), std::iter::empty());
            sum
        };
        assert_ne!(sum(b"a", b"b"), sum(b"b", b"a"));
    }
}
