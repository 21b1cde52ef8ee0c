//! Why a message could not be written or read. Whose fault it is shows in the type: an [`EncodeError`] is our caller's,
//! a [`DecodeError`] the peer's.

/// A value that cannot be written at the asked version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} version {version}, field {field}: {kind}")]
pub struct EncodeError {
    /// The message's name, as in Kafka's definitions.
    pub message: &'static str,
    /// The version asked for.
    pub version: i16,
    /// The field, in Kafka's camel case.
    pub field: &'static str,
    /// What is wrong with it.
    pub kind: EncodeErrorKind,
}

/// What is wrong with a value that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeErrorKind {
    /// The version is outside what the message has.
    #[error("this version does not exist")]
    Version,
    /// The version lacks the field, the field is not ignorable, and its value is not the default.
    #[error("this version cannot carry a value other than the default")]
    NotInVersion,
    /// A null where the version does not allow one.
    #[error("null is not allowed")]
    Null,
    /// Longer than the length prefix can say (strings: 32,767 bytes; arrays and bytes: 2³¹ - 1).
    #[error("too long: {0}")]
    TooLong(usize),
    /// Unknown tagged fields on a version that has no tagged fields.
    #[error("this version has no tagged fields")]
    TagsNotInVersion,
    /// Unknown tagged fields out of order, twice, or under a number that the version defines.
    #[error("unknown tagged field {0} is out of order or is defined by this version")]
    TagOrder(u32),
    /// A request written in pieces does not have the topics and partitions that were announced.
    #[error("not as many parts as announced")]
    Pieces,
}

/// Bytes that are not the message they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} version {version}, field {field}, byte {at}: {kind}")]
pub struct DecodeError {
    /// The message's name, as in Kafka's definitions.
    pub message: &'static str,
    /// The version read.
    pub version: i16,
    /// The field being read, in Kafka's camel case.
    pub field: &'static str,
    /// Where in the input, in bytes from its start. 0 when reading JSON.
    pub at: usize,
    /// What is wrong there.
    pub kind: DecodeErrorKind,
}

/// What is wrong with the bytes (or the JSON) of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The version is outside what the message has.
    #[error("this version does not exist")]
    Version,
    /// The input ends before the value does.
    #[error("{wanted} bytes wanted, {left} left")]
    Truncated {
        /// Bytes the value needs.
        wanted: usize,
        /// Bytes the input has.
        left: usize,
    },
    /// A count of elements that the rest of the input cannot hold.
    #[error("{count} elements cannot fit into the {left} bytes left")]
    Count {
        /// Elements announced.
        count: usize,
        /// Bytes the input has.
        left: usize,
    },
    /// A length below -1, or above what Kafka allows for the type.
    #[error("invalid length {0}")]
    Length(i64),
    /// A null where the version does not allow one.
    #[error("null is not allowed")]
    Null,
    /// A varint of more than 5 (32 bit) or 10 (64 bit) bytes, or beyond its type.
    #[error("overlong varint")]
    Varint,
    /// Text that is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// A tagged field whose content is shorter than its announced size.
    #[error("{0} bytes left over in a tagged field")]
    TagSize(usize),
    /// Bytes behind the end of the message.
    #[error("{0} bytes left over behind the message")]
    Trailing(usize),
    /// JSON: a field that this version must have is missing.
    #[error("missing in the JSON")]
    Missing,
    /// JSON: a value of another type, or a number out of range.
    #[error("{0} expected in the JSON")]
    Type(&'static str),
}
