//! Workloads of features §6.1: every record is a pure function of its index, so a reader makes it again and compares.
//!
//! Timestamps run from a base that the first record read tells (`base + index / 1000` milliseconds): old enough for any
//! `message.timestamp.after.max.ms`, young enough for retention.

use crate::base::rng::Rng;

/// A known stream of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Workload {
    /// Key, JSON value of about 153 bytes, three headers; generated while sending.
    #[default]
    Telemetry,
    /// The same, made beforehand: [`POOL_RECORDS`] records (over 64 MiB) in turn, so that no generator is measured.
    TelemetryPool,
    /// Values of this many bytes, no key, no headers.
    Fixed(usize),
}

/// Records in the pool: 64 MiB at 261 bytes of key, value and headers, and some more.
pub const POOL_RECORDS: u64 = 262_144;
/// The three header names, in order.
pub const HEADER_NAMES: [&str; 3] = ["correlationid", "client_id", "app_version"];
const CLIENT_ID: &[u8] = b"kafkaclitest-producer";
const APP_VERSION: &[u8] = b"1.0.0";
const FIXED_BYTES_MAX: usize = 1_000_000;

impl Workload {
    /// Reads `telemetry`, `telemetry-pool` or `fixed:SIZE`.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "telemetry" => Ok(Self::Telemetry),
            "telemetry-pool" => Ok(Self::TelemetryPool),
            _ => text
                .strip_prefix("fixed:")
                .and_then(|size| size.parse().ok())
                .filter(|size| (1..=FIXED_BYTES_MAX).contains(size))
                .map(Self::Fixed)
                .ok_or_else(|| {
                    format!("expected telemetry, telemetry-pool or fixed:SIZE with 1 to {FIXED_BYTES_MAX} bytes")
                }),
        }
    }

    /// The index whose content record `index` has.
    pub fn content_index(self, index: u64) -> u64 {
        if self == Self::TelemetryPool { index % POOL_RECORDS } else { index }
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Telemetry => f.write_str("telemetry"),
            Self::TelemetryPool => f.write_str("telemetry-pool"),
            Self::Fixed(size) => write!(f, "fixed:{size}"),
        }
    }
}

/// The timestamp of record `index`, in milliseconds.
pub fn timestamp(base_ms: i64, index: u64) -> i64 {
    base_ms + i64::try_from(index / 1_000).unwrap_or(i64::MAX / 2)
}

/// One record's content, in buffers that are used again and again.
#[derive(Clone, Debug)]
pub struct Content {
    key: Vec<u8>,
    value: Vec<u8>,
    correlation: [u8; 36],
    fixed: bool,
}

impl Default for Content {
    fn default() -> Self {
        Self { key: Vec::new(), value: Vec::new(), correlation: [b'0'; 36], fixed: false }
    }
}

impl Content {
    /// The key, or `None` for the fixed workload.
    pub fn key(&self) -> Option<&[u8]> {
        (!self.fixed).then_some(&self.key)
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The values of [`HEADER_NAMES`], or nothing for the fixed workload.
    pub fn header_values(&self) -> Option<[&[u8]; 3]> {
        (!self.fixed).then_some([&self.correlation, CLIENT_ID, APP_VERSION])
    }

    /// Bytes of key, value, header names and values.
    pub fn payload_bytes(&self) -> usize {
        let headers = match self.header_values() {
            Some(values) => (0..3).map(|i| HEADER_NAMES[i].len() + values[i].len()).sum(),
            None => 0,
        };
        self.key().map_or(0, <[u8]>::len) + self.value.len() + headers
    }

    /// Makes the content of record `index`.
    pub fn make(&mut self, workload: Workload, index: u64) {
        match workload {
            Workload::Fixed(size) => self.make_fixed(size, index),
            _ => self.make_telemetry(workload.content_index(index)),
        }
    }

    fn make_fixed(&mut self, size: usize, index: u64) {
        self.fixed = true;
        self.key.clear();
        self.value.clear();
        // The index stands in front, so that order and identity can be checked where there is room for it.
        self.value.extend_from_slice(&index.to_be_bytes());
        let mut rng = Rng::new(index);
        while self.value.len() < size {
            self.value.extend_from_slice(&rng.next_u64().to_le_bytes());
        }
        self.value.truncate(size);
    }

    fn make_telemetry(&mut self, index: u64) {
        self.fixed = false;
        let mut rng = Rng::new(index);
        self.key.clear();
        self.key.extend_from_slice(b"sensor_");
        push_number(&mut self.key, index);
        let measures = rng.next_u64();
        self.value.clear();
        self.value.extend_from_slice(b"{\"message_index\":");
        push_number(&mut self.value, index);
        self.value.extend_from_slice(
            b",\"event_type\":\"sensor_reading\",\"timestamp\":\"2026-06-02T08:00:00Z\",\"data\":{\"temperature\":",
        );
        push_hundredths(&mut self.value, 1_000 + (measures & 0xffff_ffff) % 3_000);
        self.value.extend_from_slice(b",\"humidity\":");
        push_hundredths(&mut self.value, 2_000 + (measures >> 32) % 7_000);
        self.value.extend_from_slice(b",\"status\":\"active\"}}");
        self.make_correlation(rng.next_u64(), rng.next_u64());
    }

    /// A UUID version 4 in text form.
    fn make_correlation(&mut self, high: u64, low: u64) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let high = (high & !0xf000) | 0x4000;
        let low = (low & !(0b11 << 62)) | (0b10 << 62);
        let bits = (u128::from(high) << 64) | u128::from(low);
        let mut shift = 128;
        for (i, place) in self.correlation.iter_mut().enumerate() {
            *place = if matches!(i, 8 | 13 | 18 | 23) {
                b'-'
            } else {
                shift -= 4;
                HEX[((bits >> shift) & 15) as usize]
            };
        }
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_hundredths(out: &mut Vec<u8>, hundredths: u64) {
    push_number(out, hundredths / 100);
    let rest = (hundredths % 100) as u8;
    out.extend_from_slice(&[b'.', b'0' + rest / 10, b'0' + rest % 10]);
}

/// The index that a record claims to have, read from its value. `None` where it says none.
pub fn claimed_index(workload: Workload, value: &[u8]) -> Option<u64> {
    match workload {
        Workload::Fixed(size) => {
            let front = value.first_chunk::<8>()?;
            (size >= 8).then(|| u64::from_be_bytes(*front))
        }
        _ => {
            let rest = value.strip_prefix(b"{\"message_index\":")?;
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_has_the_documented_shape() {
        let mut content = Content::default();
        content.make(Workload::Telemetry, 123_456);
        assert_eq!(content.key(), Some(b"sensor_123456".as_slice()));
        let value: serde_json::Value = serde_json::from_slice(content.value()).unwrap();
        assert_eq!(value["message_index"], 123_456);
        assert_eq!(value["data"]["status"], "active");
        let [correlation, client, app] = content.header_values().unwrap();
        assert_eq!((correlation.len(), correlation[14], client, app), (36, b'4', CLIENT_ID, APP_VERSION));
        assert_eq!(claimed_index(Workload::Telemetry, content.value()), Some(123_456));
    }

    #[test]
    fn content_is_a_function_of_the_index_alone() {
        let (mut a, mut b) = (Content::default(), Content::default());
        for index in [0, 1, 999_999] {
            b.make(Workload::Telemetry, index + 1);
            a.make(Workload::Telemetry, index);
            b.make(Workload::Telemetry, index);
            assert_eq!((a.value(), a.key(), a.header_values()), (b.value(), b.key(), b.header_values()));
        }
    }

    #[test]
    fn a_record_of_the_headline_is_about_261_bytes() {
        let mut content = Content::default();
        let sum: usize = (0..10_000u64)
            .map(|i| {
                content.make(Workload::Telemetry, i * 100);
                content.payload_bytes()
            })
            .sum();
        assert!((255..266).contains(&(sum / 10_000)), "{}", sum / 10_000);
    }

    #[test]
    fn fixed_values_have_their_size_and_tell_their_index() {
        let mut content = Content::default();
        for size in [1, 7, 8, 100, 1_024] {
            content.make(Workload::Fixed(size), 77);
            assert_eq!(content.value().len(), size);
            assert_eq!(claimed_index(Workload::Fixed(size), content.value()), (size >= 8).then_some(77));
        }
    }

    #[test]
    fn workloads_are_read_by_name() {
        assert_eq!(Workload::parse("fixed:100"), Ok(Workload::Fixed(100)));
        assert!(Workload::parse("fixed:0").is_err() && Workload::parse("x").is_err());
    }
}
