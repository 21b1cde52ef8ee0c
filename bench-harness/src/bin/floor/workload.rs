//! The telemetry records of every peer: a pure function of their index.

pub const NAMES: [&[u8]; 3] = [b"correlationid", b"client_id", b"app_version"];

/// One record's content; see `src/cli/workload.rs`.
#[derive(Default)]
pub struct Content {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    correlation: Vec<u8>,
}

impl Content {
    /// Makes record `index`.
    pub fn make(&mut self, index: u64) {
        let mut state = index;
        let mut random = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let Self { key, value, correlation } = self;
        [&mut *key, value, correlation].into_iter().for_each(Vec::clear);
        key.extend_from_slice(b"sensor_");
        number(key, index);
        let measures = random();
        value.extend_from_slice(b"{\"message_index\":");
        number(value, index);
        value.extend_from_slice(
            b",\"event_type\":\"sensor_reading\",\"timestamp\":\"2026-06-02T08:00:00Z\",\"data\":{\"temperature\":",
        );
        hundredths(value, 1_000 + (measures & 0xffff_ffff) % 3_000);
        value.extend_from_slice(b",\"humidity\":");
        hundredths(value, 2_000 + (measures >> 32) % 7_000);
        value.extend_from_slice(b",\"status\":\"active\"}}");
        let (high, low) = ((random() & !0xf000) | 0x4000, (random() & !(0b11 << 62)) | (0b10 << 62));
        let bits = (u128::from(high) << 64) | u128::from(low);
        for digit in 0..32 {
            if matches!(digit, 8 | 12 | 16 | 20) {
                correlation.push(b'-');
            }
            correlation.push(b"0123456789abcdef"[(bits >> (124 - 4 * digit)) as usize & 15]);
        }
    }

    /// Names and values.
    pub fn headers(&self) -> [(&[u8], &[u8]); 3] {
        [(NAMES[0], &self.correlation), (NAMES[1], b"kafkaclitest-producer"), (NAMES[2], b"1.0.0")]
    }
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
