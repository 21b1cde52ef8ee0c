//! What a message is: the traits that generated code implements and that the rest of the house calls.
//!
//! ```text
//!   Message::encode ─► Struct::write ─► Sink (Writer | JSON)      one generated `write` serves bytes and JSON,
//!   Message::decode ─► Struct::read  ─► Source (Reader | JSON)    one generated `read` likewise
//! ```

use std::fmt::Debug;

use bytes::Bytes;

use super::api_key::ApiKey;
use super::error::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind};
use super::reader::Reader;
use super::writer::{OpenTags, Writer};
use crate::base::ids::Uuid;

/// An inclusive range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest version.
    pub min: i16,
    /// The highest version.
    pub max: i16,
}

impl VersionRange {
    /// Whether `version` is in the range.
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// What both ranges have in common, none if nothing.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }
}

/// A tagged field that the version does not define, kept as it came (KIP-482).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTag {
    /// The field's number.
    pub tag: u32,
    /// Its content.
    pub data: Bytes,
}

/// A message of the protocol, at any of its versions.
pub trait Message: Struct {
    /// The name in Kafka's definitions: `ProduceRequest`.
    const NAME: &'static str;
    /// The versions that exist in Kafka 4.3, without unstable ones.
    const VERSIONS: VersionRange;
    /// The first version with compact lengths and tagged fields, `i16::MAX` if none has.
    const FLEXIBLE: i16;

    /// Appends the body at `version`. On error nothing is appended.
    fn encode(&self, version: i16, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        out.start(Self::NAME, version, version >= Self::FLEXIBLE);
        if !Self::VERSIONS.contains(version) {
            return Err(out.error(EncodeErrorKind::Version));
        }
        let start = out.position();
        let done = self.write(out);
        if done.is_err() {
            out.rewind(start);
        }
        done
    }

    /// Reads the body at `version`. Bytes behind it are left in the reader.
    fn decode(version: i16, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.start(Self::NAME, version, version >= Self::FLEXIBLE);
        if !Self::VERSIONS.contains(version) {
            return Err(input.error(DecodeErrorKind::Version));
        }
        Self::read(input)
    }

    /// The body at `version`, alone.
    fn to_bytes(&self, version: i16) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.encode(version, &mut Writer::new(&mut out))?;
        Ok(out)
    }

    /// The message that `input` holds at `version`; bytes left over are an error. Byte fields share `input`'s memory.
    fn from_bytes(version: i16, input: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::shared(input);
        let message = Self::decode(version, &mut reader)?;
        reader.finish()?;
        Ok(message)
    }

    /// The JSON form at `version`, as Kafka's converters have it; record sets by their size.
    #[cfg(feature = "json")]
    fn to_json(&self, version: i16) -> Result<serde_json::Value, EncodeError> {
        self.to_json_with(version, super::json::Records::Size)
    }

    /// The JSON form at `version`, with record sets as asked.
    #[cfg(feature = "json")]
    fn to_json_with(&self, version: i16, records: super::json::Records) -> Result<serde_json::Value, EncodeError> {
        if !Self::VERSIONS.contains(version) {
            let kind = EncodeErrorKind::Version;
            return Err(EncodeError { message: Self::NAME, version, field: "", kind });
        }
        JsonField::write_json(self, super::json::Context { message: Self::NAME, version, records })
    }

    /// The message that `json` is the form of at `version`. Fields of other versions and unknown names are ignored,
    /// tagged fields may be missing.
    #[cfg(feature = "json")]
    fn from_json(version: i16, json: &serde_json::Value) -> Result<Self, DecodeError> {
        if !Self::VERSIONS.contains(version) {
            let kind = DecodeErrorKind::Version;
            return Err(DecodeError { message: Self::NAME, version, field: "", at: 0, kind });
        }
        let context = super::json::Context { message: Self::NAME, version, records: Default::default() };
        <Self as JsonField>::read_json(context, "", json)
    }
}

/// What generated files use.
pub(crate) mod prelude {
    pub(crate) use std::fmt;

    pub(crate) use bytes::Bytes;

    pub(crate) use crate::base::ids::Uuid;
    pub(crate) use crate::wire::{
        ApiKey, DecodeError, EncodeError, Message, RawTag, Request, Response, Sink, Source, Struct, VersionRange,
    };
}

/// A message that a client sends.
pub trait Request: Message {
    /// The API.
    const KEY: ApiKey;
    /// What the broker answers.
    type Response: Response;
}

/// A message that a broker answers with.
pub trait Response: Message {
    /// The API.
    const KEY: ApiKey;
}

/// A structure with fields: a message or a part of one. Implemented by generated code only.
pub trait Struct: Default + Clone + Debug + PartialEq {
    /// The smallest encoding at any version, in bytes.
    const SIZE_MIN: usize;

    /// Writes the fields that the sink's version has.
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError>;

    /// Reads the fields that the source's version has; the others get their defaults.
    fn read<S: Source>(source: &mut S) -> Result<Self, DecodeError>;
}

/// Where a structure's fields go.
pub trait Sink {
    /// The message's version.
    fn version(&self) -> i16;

    /// A field.
    fn put<T: Field>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError>;

    /// A field whose lengths are never compact (the request header's client id).
    fn put_inflexible<T: Field>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        self.put(name, value)
    }

    /// A field of record batches.
    fn put_records(&mut self, name: &'static str, value: &Option<Bytes>) -> Result<(), EncodeError> {
        self.put(name, value)
    }

    /// A field of record batches at a version that does not allow null.
    fn put_some_records(&mut self, name: &'static str, value: &Option<Bytes>) -> Result<(), EncodeError> {
        match value {
            Some(_) => self.put_records(name, value),
            None => Err(self.refuse(name, EncodeErrorKind::Null)),
        }
    }

    /// A nullable field at a version that does not allow null.
    fn put_some<T: Field>(&mut self, name: &'static str, value: &Option<T>) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.put(name, value),
            None => Err(self.refuse(name, EncodeErrorKind::Null)),
        }
    }

    /// The error for a field, never `Ok`.
    fn refuse(&mut self, name: &'static str, kind: EncodeErrorKind) -> EncodeError;

    /// Fails when `is_set`: a field of another version that must not be lost has a value other than the default.
    fn absent(&mut self, name: &'static str, is_set: bool) -> Result<(), EncodeError> {
        if is_set { Err(self.refuse(name, EncodeErrorKind::NotInVersion)) } else { Ok(()) }
    }

    /// Starts the section of tagged fields; unknown ones are written in order between the known ones.
    fn open_tags<'t>(&mut self, unknown: &'t [RawTag]) -> OpenTags<'t>;

    /// A tagged field, written if `is_set`. Called for each field of the version, in the order of their numbers.
    fn put_tag<T: Field>(
        &mut self,
        tags: &mut OpenTags<'_>,
        tag: u32,
        name: &'static str,
        value: &T,
        is_set: bool,
    ) -> Result<(), EncodeError>;

    /// Ends the section of tagged fields.
    fn close_tags(&mut self, tags: OpenTags<'_>) -> Result<(), EncodeError>;

    /// A section of unknown tagged fields only.
    fn put_tags(&mut self, unknown: &[RawTag]) -> Result<(), EncodeError> {
        let tags = self.open_tags(unknown);
        self.close_tags(tags)
    }

    /// A version without tagged fields: there must be none.
    fn no_tags(&mut self, unknown: &[RawTag]) -> Result<(), EncodeError> {
        if unknown.is_empty() { Ok(()) } else { Err(self.refuse("taggedFields", EncodeErrorKind::TagsNotInVersion)) }
    }
}

/// Where a structure's fields come from.
pub trait Source {
    /// The message's version.
    fn version(&self) -> i16;

    /// A field.
    fn get<T: Field>(&mut self, name: &'static str) -> Result<T, DecodeError>;

    /// A field whose lengths are never compact (the request header's client id).
    fn get_inflexible<T: Field>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        self.get(name)
    }

    /// The tagged fields: calls `read` for each present one of `known`, returns the others.
    fn get_tags(
        &mut self,
        known: &[(u32, &'static str)],
        read: impl FnMut(&mut Self, u32) -> Result<(), DecodeError>,
    ) -> Result<Vec<RawTag>, DecodeError>;
}

/// A field's type. With feature `json` also Kafka's JSON form of it.
pub trait Field: Sized + JsonField {
    /// The smallest encoding at any version, in bytes.
    const SIZE_MIN: usize;

    /// Appends the value.
    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError>;

    /// Reads a value.
    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

#[cfg(feature = "json")]
pub use super::json::JsonField;

/// Without feature `json` every type qualifies.
#[cfg(not(feature = "json"))]
pub trait JsonField {}
#[cfg(not(feature = "json"))]
impl<T> JsonField for T {}

/// The primitive types of fixed size.
macro_rules! fixed {
    ($($type:ident $method:ident $size:literal;)*) => {$(
        impl Field for $type {
            const SIZE_MIN: usize = $size;

            #[inline]
            fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
                out.$method(*self);
                Ok(())
            }

            #[inline]
            fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                input.$method()
            }
        }
    )*};
}

fixed! {
    bool bool 1;
    i8 i8 1;
    i16 i16 2;
    u16 u16 2;
    i32 i32 4;
    u32 u32 4;
    i64 i64 8;
    f64 f64 8;
    Uuid uuid 16;
}

impl Field for String {
    // A compact length of one byte.
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        out.nullable_str(Some(self))
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.str().map(str::to_owned)
    }
}

impl Field for Option<String> {
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        out.nullable_str(self.as_deref())
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(input.nullable_str()?.map(str::to_owned))
    }
}

impl Field for Bytes {
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        out.nullable_bytes(Some(self))
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.nullable_bytes()? {
            Some(bytes) => Ok(bytes),
            None => Err(input.error(DecodeErrorKind::Null)),
        }
    }
}

impl Field for Option<Bytes> {
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        out.nullable_bytes(self.as_deref())
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.nullable_bytes()
    }
}

fn write_elements<T: Field>(elements: &[T], out: &mut Writer<'_>) -> Result<(), EncodeError> {
    out.nullable_count(Some(elements.len()))?;
    elements.iter().try_for_each(|element| element.write_to(out))
}

impl<T: Field> Field for Vec<T> {
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        write_elements(self, out)
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.count(T::SIZE_MIN)?;
        input.elements(count)
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        match self {
            Some(elements) => write_elements(elements, out),
            None => out.nullable_count(None),
        }
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.nullable_count(T::SIZE_MIN)? {
            Some(count) => input.elements(count).map(Some),
            None => Ok(None),
        }
    }
}

impl<T: Struct> Field for T {
    const SIZE_MIN: usize = <T as Struct>::SIZE_MIN;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        self.write(out)
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::read(input)
    }
}

/// A nullable structure is preceded by a byte: negative for null (KIP-893).
impl<T: Struct> Field for Option<T> {
    const SIZE_MIN: usize = 1;

    fn write_to(&self, out: &mut Writer<'_>) -> Result<(), EncodeError> {
        match self {
            Some(value) => {
                out.i8(1);
                value.write(out)
            }
            None => {
                out.i8(-1);
                Ok(())
            }
        }
    }

    fn read_from(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.i8()? < 0 { Ok(None) } else { T::read(input).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::{CreateDelegationTokenResponse, MetadataRequest, SaslAuthenticateRequest};

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let request = SaslAuthenticateRequest { auth_bytes: Bytes::from_static(b"hunter2"), ..Default::default() };
        let text = format!("{request:?}");
        assert!(text.contains("<secret>") && !text.contains("hunter2"), "{text}");
        let response = CreateDelegationTokenResponse { hmac: Bytes::from_static(b"hunter2"), ..Default::default() };
        assert!(!format!("{response:?}").contains("hunter2"));
    }

    #[test]
    fn a_refused_message_leaves_nothing_behind_and_names_its_field() {
        let request = MetadataRequest { allow_auto_topic_creation: false, ..Default::default() };
        let mut out = vec![1];
        let error = request.encode(3, &mut Writer::new(&mut out)).unwrap_err();
        assert_eq!(out, [1]);
        assert_eq!(
            error.to_string(),
            "MetadataRequest version 3, field allowAutoTopicCreation: this version cannot carry a value other than the default"
        );
        let error = MetadataRequest { topics: None, ..Default::default() }.to_bytes(0).unwrap_err();
        assert_eq!((error.field, error.kind), ("topics", EncodeErrorKind::Null));
        assert_eq!(request.to_bytes(-1).unwrap_err().kind, EncodeErrorKind::Version);
    }
}
