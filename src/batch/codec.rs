//! The compression types of a record batch (attribute bits 0-2) and what this build can do with them.

use std::fmt;
use std::str::FromStr;

/// How the records of a batch are compressed. The numbers are Kafka's attribute values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// Snappy in xerial framing, 32 KiB blocks.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard (KIP-110).
    Zstd = 4,
}

/// The codec exists in Kafka, but this build leaves it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("codec {codec} is not compiled in: build with the cargo feature \"{feature}\"")]
pub struct NotCompiledIn {
    /// The codec asked for.
    pub codec: Codec,
    /// The cargo feature that brings it.
    pub feature: &'static str,
}

/// A codec number or name that Kafka does not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown compression codec {0:?}: one of none, gzip, snappy, lz4, zstd")]
pub struct UnknownCodec(pub String);

impl Codec {
    /// All codecs, by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec in the low three bits of a batch's attributes; `None` for 5-7, which Kafka does not define.
    pub const fn from_attributes(attributes: i16) -> Option<Self> {
        match attributes & 7 {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Kafka's name (`compression.type`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can compress and decompress with it.
    pub const fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// An error naming the missing cargo feature when this build leaves the codec out.
    pub fn require(self) -> Result<(), NotCompiledIn> {
        if self.is_available() { Ok(()) } else { Err(NotCompiledIn { codec: self, feature: self.name() }) }
    }

    /// The level used when none is set: gzip 6, zstd 1 (faster *and* smaller than 3 on telemetry); others have none.
    pub const fn default_level(self) -> i32 {
        match self {
            Self::Gzip => 6,
            Self::Zstd => 1,
            Self::None | Self::Snappy | Self::Lz4 => 0,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;
    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| UnknownCodec(name.to_owned()))
    }
}

/// Who set the records' timestamps (attribute bit 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimestampType {
    /// The producer (`CreateTime`).
    CreateTime,
    /// The broker, when it appended the batch (`LogAppendTime`): every record has the batch's max timestamp.
    LogAppendTime,
    /// Format v0 has no timestamps.
    NoTimestamp,
}

impl TimestampType {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
            Self::NoTimestamp => "NoTimestampType",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_both_ways() {
        for codec in Codec::ALL {
            assert_eq!(codec.name().parse(), Ok(codec));
            assert_eq!(Codec::from_attributes(codec as i16 | 0x30), Some(codec));
        }
        assert!("lzma".parse::<Codec>().is_err());
        assert_eq!(Codec::from_attributes(5), None);
    }

    #[test]
    fn a_missing_codec_names_its_cargo_feature() {
        for codec in Codec::ALL {
            match codec.require() {
                Ok(()) => assert!(codec.is_available()),
                Err(missing) => assert!(missing.to_string().contains(&format!("\"{}\"", codec.name()))),
            }
        }
    }
}
