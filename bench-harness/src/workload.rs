//! The records of every peer: a pure function of their index.
//!
//! The same as `src/cli/workload.rs` and `src/cli/commands/bench/sum.rs` of the engine, written again because a judge
//! shares no code with who is judged.

/// Names of a telemetry record's headers.
#[allow(dead_code, reason = "some of the programs that include this know them")]
pub const NAMES: [&[u8]; 3] = [b"correlationid", b"client_id", b"app_version"];
/// Records in the pool: 64 MiB at 261 bytes of key, value and headers, and some more.
pub const POOL_RECORDS: u64 = 262_144;
/// Different records of [`Workload::Klife`], made beforehand too.
pub const KLIFE_RECORDS: u64 = 1_024;

/// A known stream of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Key, JSON value and three headers, 261 bytes, made while sending.
    Telemetry,
    /// The same, of [`POOL_RECORDS`] made beforehand, in turn.
    #[allow(dead_code, reason = "some of the programs that include this send it")]
    TelemetryPool,
    /// Values of this many random bytes; no key, no headers.
    Fixed(u32),
    /// Klife's: 50 random bytes of key, 1,000 of value, no headers; [`KLIFE_RECORDS`] of them, in turn.
    #[allow(dead_code, reason = "some of the programs that include this send it")]
    Klife,
}

impl Workload {
    /// After so many records their contents come again; `None` where they never do.
    pub fn period(self) -> Option<u64> {
        match self {
            Self::TelemetryPool => Some(POOL_RECORDS),
            Self::Klife => Some(KLIFE_RECORDS),
            Self::Telemetry | Self::Fixed(_) => None,
        }
    }

    /// The index whose content record `index` has.
    pub fn content_index(self, index: u64) -> u64 {
        self.period().map_or(index, |period| index % period)
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Telemetry => f.write_str("telemetry"),
            Self::TelemetryPool => f.write_str("telemetry-pool"),
            Self::Fixed(size) => write!(f, "fixed:{size}"),
            Self::Klife => f.write_str("klife"),
        }
    }
}

/// One record's content.
#[derive(Default)]
pub struct Content {
    /// Empty (null) for [`Workload::Fixed`].
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// Empty for [`Workload::Fixed`], which has no headers.
    correlation: Vec<u8>,
}

/// splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The partition that Klife's record `index` is sent to; its topic is the third of them that `index % 3` says.
#[allow(dead_code, reason = "some of the programs that include this send it")]
pub fn klife_partition(index: u64, partitions: i32) -> i32 {
    let mut state = index;
    (random(&mut state) % partitions.max(1) as u64) as i32
}

/// `size` bytes: `index`, and random ones from `state` on. Returns the state behind them.
fn fill(out: &mut Vec<u8>, mut state: u64, index: u64, size: usize) -> u64 {
    out.extend_from_slice(&index.to_be_bytes());
    while out.len() < size {
        out.extend_from_slice(&random(&mut state).to_le_bytes());
    }
    out.truncate(size);
    state
}

impl Content {
    /// Makes record `index`.
    pub fn make(&mut self, workload: Workload, index: u64) {
        let Self { key, value, correlation } = self;
        [&mut *key, &mut *value, correlation].into_iter().for_each(Vec::clear);
        match workload {
            Workload::Fixed(size) => _ = fill(value, index, index, size as usize),
            Workload::Klife => {
                let index = workload.content_index(index);
                let state = fill(value, index, index, 1_000);
                fill(key, state, index, 50);
            }
            Workload::Telemetry | Workload::TelemetryPool => self.make_telemetry(workload.content_index(index)),
        }
    }

    fn make_telemetry(&mut self, index: u64) {
        let Self { key, value, correlation } = self;
        let mut state = index;
        key.extend_from_slice(b"sensor_");
        number(key, index);
        let measures = random(&mut state);
        value.extend_from_slice(b"{\"message_index\":");
        number(value, index);
        value.extend_from_slice(
            b",\"event_type\":\"sensor_reading\",\"timestamp\":\"2026-06-02T08:00:00Z\",\"data\":{\"temperature\":",
        );
        hundredths(value, 1_000 + (measures & 0xffff_ffff) % 3_000);
        value.extend_from_slice(b",\"humidity\":");
        hundredths(value, 2_000 + (measures >> 32) % 7_000);
        value.extend_from_slice(b",\"status\":\"active\"}}");
        let high = (random(&mut state) & !0xf000) | 0x4000;
        let low = (random(&mut state) & !(0b11 << 62)) | (0b10 << 62);
        let bits = (u128::from(high) << 64) | u128::from(low);
        for digit in 0..32 {
            if matches!(digit, 8 | 12 | 16 | 20) {
                correlation.push(b'-');
            }
            correlation.push(b"0123456789abcdef"[(bits >> (124 - 4 * digit)) as usize & 15]);
        }
    }

    /// Key, value and the one header value that is not the same in all records.
    #[allow(dead_code, reason = "some of the programs that include this want it")]
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.key, &self.value, &self.correlation]
    }

    /// Names and values; none without a key.
    #[allow(dead_code, reason = "some of the programs that include this know them")]
    #[inline]
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let values: [&[u8]; 3] = [&self.correlation, b"kafkaclitest-producer", b"1.0.0"];
        NAMES.into_iter().zip(values).take(if self.correlation.is_empty() { 0 } else { 3 })
    }
}

/// Length plus the little-endian 64-bit words of a field; the last word overlaps the one before it, and fields under
/// eight bytes are one word.
#[allow(dead_code, reason = "some of the programs that include this want it")]
#[inline]
pub fn words(field: &[u8]) -> u64 {
    let (whole, rest) = field.as_chunks::<8>();
    let Some(last) = field.last_chunk::<8>() else {
        return field.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)) + field.len() as u64;
    };
    let sum = whole.iter().fold(field.len() as u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    if rest.is_empty() { sum } else { sum.wrapping_add(u64::from_le_bytes(*last)) }
}

fn number(out: &mut Vec<u8>, mut rest: u64) {
    let (mut digits, mut at) = ([0; 20], 20);
    while at == 20 || rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

fn hundredths(out: &mut Vec<u8>, n: u64) {
    number(out, n / 100);
    out.extend_from_slice(&[b'.', b'0' + (n % 100 / 10) as u8, b'0' + (n % 10) as u8]);
}
