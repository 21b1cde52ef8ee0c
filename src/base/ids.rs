//! Identifiers that several rooms share.

use std::fmt;

/// A 128-bit Kafka UUID (topic ids, directory ids, member ids of KIP-848).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The all-zero id, Kafka's "no id".
    pub const ZERO: Self = Self([0; 16]);

    /// Whether this is Kafka's "no id".
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

/// Kafka's text form: URL-safe base64 without padding, 22 characters.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from_be_bytes(self.0);
        for i in 0..22u32 {
            // 128 bits are 21 whole sextets and two bits, padded with four zero bits at the end.
            let sextet = if i < 21 { (bits >> (122 - 6 * i)) & 63 } else { (bits << 4) & 63 };
            write!(f, "{}", ALPHABET[sextet as usize] as char)?;
        }
        Ok(())
    }
}

/// Text that is not a UUID in Kafka's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID: 22 characters of URL-safe base64 expected")]
pub struct UuidError;

/// Reads Kafka's text form.
impl std::str::FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let mut bits = 0u128;
        let letters = text.as_bytes();
        if letters.len() != 22 {
            return Err(UuidError);
        }
        for (i, letter) in letters.iter().enumerate() {
            let sextet = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return Err(UuidError),
            };
            // The last letter carries two bits, and four that must be zero.
            bits = match (i, sextet & 15) {
                (21, 0) => bits << 2 | u128::from(sextet >> 4),
                (21, _) => return Err(UuidError),
                _ => bits << 6 | u128::from(sextet),
            };
        }
        Ok(Self(bits.to_be_bytes()))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A topic name interned by an engine: dense, never reused during the engine's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicIx(pub u32);

/// One partition of an interned topic. `partition` is -1 where the partition is not chosen yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tp {
    /// The topic.
    pub topic: TopicIx,
    /// The partition's index in the topic, from 0.
    pub partition: i32,
}

/// A producer of an engine (its settings and outcome queues), dense.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ProducerIx(pub u16);

/// A consumer of an engine, dense.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConsumerIx(pub u16);

/// A shard of an engine, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardIx(pub u16);

/// A lane: one handle's queue to one shard, unique in an engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LaneId(pub u32);

/// A broker's `node.id`. Negative ids stand for bootstrap addresses whose node id is not known yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BrokerId(pub i32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_reads_what_it_prints() {
        for id in [Uuid::ZERO, Uuid([0xff; 16]), Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for wrong in
            ["", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAA=", "_____________________+"]
        {
            assert_eq!(wrong.parse::<Uuid>(), Err(UuidError));
        }
    }

    #[test]
    fn uuid_prints_as_kafka_prints_it() {
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid([0xff; 16]).to_string(), "_____________________w");
    }
}
