//! A record's value that tells which record it is, and whether it is whole:
//! `HV1 <run> <producer> <seq> <topic> <partition|-1> <key|-> <txn|-> <payload length> <crc32c hex> <payload>`.
//!
//! The checksum is that of the payload. Fields are separated by single spaces and contain none; the payload is the rest.

use std::io::Write;

/// What one value says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value<'a> {
    pub run: &'a str,
    pub producer: u32,
    pub seq: u64,
    pub topic: &'a str,
    /// The partition that the application asked for; none when the partitioner chose.
    pub partition: Option<i32>,
    pub key: Option<&'a str>,
    pub txn: Option<&'a str>,
    pub payload: &'a [u8],
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No value of this format.
    Format,
    /// The payload is shorter or longer than its length says.
    Length,
    /// The payload is not what was sent.
    Checksum,
    /// The value was made for another topic.
    Topic,
    /// The record has another key than its value says.
    Key,
    /// The application asked for another partition.
    Partition,
}

impl Fault {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::Topic => "topic",
            Self::Key => "key",
            Self::Partition => "partition",
        }
    }
}

impl<'a> Value<'a> {
    /// Appends the value's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing into memory cannot fail.
        let _ = write!(
            out,
            "HV1 {} {} {} {} {} {} {} {} {:08x} ",
            self.run,
            self.producer,
            self.seq,
            self.topic,
            self.partition.unwrap_or(-1),
            self.key.unwrap_or("-"),
            self.txn.unwrap_or("-"),
            self.payload.len(),
            crc_fast::crc32_iscsi(self.payload),
        );
        out.extend_from_slice(self.payload);
    }

    /// Reads a value and compares length and checksum.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = bytes;
        let mut field = || -> Result<&'a str, Fault> {
            let at = rest.iter().position(|byte| *byte == b' ').ok_or(Fault::Format)?;
            let (field, behind) = rest.split_at(at);
            rest = &behind[1..];
            std::str::from_utf8(field).map_err(|_| Fault::Format)
        };
        if field()? != "HV1" {
            return Err(Fault::Format);
        }
        let run = field()?;
        let producer = field()?.parse().map_err(|_| Fault::Format)?;
        let seq = field()?.parse().map_err(|_| Fault::Format)?;
        let topic = field()?;
        let partition = field()?.parse::<i32>().map_err(|_| Fault::Format)?;
        let key = Some(field()?).filter(|key| *key != "-");
        let txn = Some(field()?).filter(|txn| *txn != "-");
        let length: usize = field()?.parse().map_err(|_| Fault::Format)?;
        let checksum = u32::from_str_radix(field()?, 16).map_err(|_| Fault::Format)?;
        if rest.len() != length {
            return Err(Fault::Length);
        }
        if crc_fast::crc32_iscsi(rest) != checksum {
            return Err(Fault::Checksum);
        }
        let partition = (partition >= 0).then_some(partition);
        Ok(Self { run, producer, seq, topic, partition, key, txn, payload: rest })
    }

    /// Reads the value of a record found in `topic` and `partition` under `key`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn of_record(topic: &str, partition: i32, key: Option<&[u8]>, value: Option<&'a [u8]>) -> Result<Self, Fault> {
        let said = Self::parse(value.ok_or(Fault::Format)?)?;
        if said.topic != topic {
            return Err(Fault::Topic);
        }
        if said.key.map(str::as_bytes) != key {
            return Err(Fault::Key);
        }
        if said.partition.is_some_and(|asked| asked != partition) {
            return Err(Fault::Partition);
        }
        Ok(said)
    }
}

/// Where Java's default partitioner puts a key: `toPositive(murmur2(key)) % partitions`.
pub fn java_partition(key: &[u8], partitions: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let (words, rest) = key.as_chunks::<4>();
    let mut hash = SEED ^ length;
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(M);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(M) ^ mixed.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u32, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    i32::try_from(hash & 0x7fff_ffff).unwrap_or(0) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Value<'_> = Value {
        run: "r1",
        producer: 3,
        seq: 70_000_000_000,
        topic: "t1",
        partition: None,
        key: Some("k17"),
        txn: None,
        payload: b"abc d",
    };

    fn bytes(value: Value<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        value.write(&mut out);
        out
    }

    #[test]
    fn a_value_has_the_documented_form() {
        // CRC-32C of the check string "123456789" is e3069283.
        let value = Value { seq: 9, partition: Some(2), key: None, txn: Some("x"), payload: b"123456789", ..SAID };
        assert_eq!(bytes(value), b"HV1 r1 3 9 t1 2 - x 9 e3069283 123456789");
        assert_eq!(Value::parse(&bytes(value)), Ok(value));
        assert_eq!(Value::parse(&bytes(SAID)), Ok(SAID));
        let empty = Value { payload: b"", ..SAID };
        assert_eq!(Value::parse(&bytes(empty)), Ok(empty));
    }

    #[test]
    fn every_changed_or_missing_byte_of_the_payload_is_noticed() {
        let whole = bytes(SAID);
        for cut in 0..whole.len() {
            assert!(Value::parse(&whole[..cut]).is_err(), "{cut}");
        }
        for at in whole.len() - SAID.payload.len()..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(Value::parse(&changed), Err(Fault::Checksum));
        }
        assert_eq!(Value::parse(&[whole, b"x".to_vec()].concat()), Err(Fault::Length));
    }

    #[test]
    fn a_record_elsewhere_than_its_value_says_is_noticed() {
        let asked = bytes(Value { partition: Some(1), key: None, ..SAID });
        let keyed = bytes(SAID);
        let of = |topic, partition, key: Option<&'static [u8]>, value| Value::of_record(topic, partition, key, value);
        assert!(of("t1", 1, None, Some(&asked)).is_ok() && of("t1", 7, Some(b"k17"), Some(&keyed)).is_ok());
        assert_eq!(of("t1", 0, None, Some(&asked)), Err(Fault::Partition));
        assert_eq!(of("t2", 7, Some(b"k17"), Some(&keyed)), Err(Fault::Topic));
        assert_eq!(of("t1", 7, Some(b"k18"), Some(&keyed)), Err(Fault::Key));
        assert_eq!(of("t1", 7, None, Some(&keyed)), Err(Fault::Key));
        assert_eq!(of("t1", 7, None, None), Err(Fault::Format));
    }

    #[test]
    fn keys_are_placed_as_java_places_them() {
        // Kafka's own UtilsTest.testMurmur2, as positive numbers.
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(java_partition(key, i32::MAX), (hash & i32::MAX) % i32::MAX, "{key:?}");
        }
    }
}
