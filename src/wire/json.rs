//! Kafka's JSON form of every message, as its generated `*JsonConverter` classes have it (feature `json`).
//!
//! Field names in camel case; bytes in base64; UUIDs in Kafka's text form; tagged fields only when they differ from
//! their defaults; unknown tagged fields not at all. Record sets are named by their size, as in the broker's request
//! log (KIP-673: `"recordsSizeInBytes": 72`), or written in base64 ([`Records::Base64`]), which [`from_json`] reads.
//!
//! [`from_json`]: crate::wire::Message::from_json

use bytes::Bytes;
use serde_json::{Map, Value};

use super::error::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind};
use super::message::{Field, RawTag, Sink, Source, Struct};
use super::writer::OpenTags;
use crate::base::ids::Uuid;

/// How record sets are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Records {
    /// By their size: `"recordsSizeInBytes": 72`. What Kafka's converter does when asked not to serialize records.
    #[default]
    Size,
    /// Whole: `"records": "AAAA.."`. Kafka's converter reads this, but writes an empty text in its place.
    Base64,
}

/// What every part of a message needs to know of the whole.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub(crate) message: &'static str,
    pub(crate) version: i16,
    pub(crate) records: Records,
}

impl Context {
    #[cold]
    fn wrong(&self, field: &'static str, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { message: self.message, version: self.version, field, at: 0, kind }
    }
}

/// The JSON form of a field's type.
pub trait JsonField: Sized {
    /// The value's JSON form.
    fn write_json(&self, context: Context) -> Result<Value, EncodeError>;

    /// The value that `json` is the form of; `field` is named in errors.
    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError>;
}

macro_rules! integers {
    ($($type:ident)*) => {$(
        impl JsonField for $type {
            fn write_json(&self, _: Context) -> Result<Value, EncodeError> {
                Ok(Value::from(*self))
            }

            fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
                json.as_i64()
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| context.wrong(field, DecodeErrorKind::Type(stringify!($type))))
            }
        }
    )*};
}

integers!(i8 i16 u16 i32 u32 i64);

impl JsonField for bool {
    fn write_json(&self, _: Context) -> Result<Value, EncodeError> {
        Ok(Value::from(*self))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        json.as_bool().ok_or_else(|| context.wrong(field, DecodeErrorKind::Type("boolean")))
    }
}

impl JsonField for f64 {
    fn write_json(&self, _: Context) -> Result<Value, EncodeError> {
        Ok(Value::from(*self))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        json.as_f64().ok_or_else(|| context.wrong(field, DecodeErrorKind::Type("number")))
    }
}

impl JsonField for Uuid {
    fn write_json(&self, _: Context) -> Result<Value, EncodeError> {
        Ok(Value::from(self.to_string()))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        json.as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| context.wrong(field, DecodeErrorKind::Type("UUID of 22 characters")))
    }
}

impl JsonField for String {
    fn write_json(&self, _: Context) -> Result<Value, EncodeError> {
        Ok(Value::from(self.as_str()))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        match json.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(context.wrong(field, DecodeErrorKind::Type("string"))),
        }
    }
}

impl JsonField for Bytes {
    fn write_json(&self, _: Context) -> Result<Value, EncodeError> {
        Ok(Value::from(base64(self)))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        json.as_str()
            .and_then(unbase64)
            .map(Bytes::from)
            .ok_or_else(|| context.wrong(field, DecodeErrorKind::Type("base64 text")))
    }
}

impl<T: JsonField> JsonField for Vec<T> {
    fn write_json(&self, context: Context) -> Result<Value, EncodeError> {
        Ok(Value::Array(self.iter().map(|element| element.write_json(context)).collect::<Result<_, _>>()?))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        match json.as_array() {
            Some(elements) => elements.iter().map(|element| T::read_json(context, field, element)).collect(),
            None => Err(context.wrong(field, DecodeErrorKind::Type("array"))),
        }
    }
}

impl<T: JsonField> JsonField for Option<T> {
    fn write_json(&self, context: Context) -> Result<Value, EncodeError> {
        self.as_ref().map_or(Ok(Value::Null), |value| value.write_json(context))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        if json.is_null() { Ok(None) } else { T::read_json(context, field, json).map(Some) }
    }
}

impl<T: Struct> JsonField for T {
    fn write_json(&self, context: Context) -> Result<Value, EncodeError> {
        let mut sink = JsonSink { context, object: Map::new() };
        self.write(&mut sink)?;
        Ok(Value::Object(sink.object))
    }

    fn read_json(context: Context, field: &'static str, json: &Value) -> Result<Self, DecodeError> {
        match json.as_object() {
            Some(object) => Self::read(&mut JsonSource { context, object }),
            None => Err(context.wrong(field, DecodeErrorKind::Type("object"))),
        }
    }
}

struct JsonSink {
    context: Context,
    object: Map<String, Value>,
}

impl Sink for JsonSink {
    fn version(&self) -> i16 {
        self.context.version
    }

    fn put<T: Field>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        self.object.insert(name.to_owned(), value.write_json(self.context)?);
        Ok(())
    }

    fn put_records(&mut self, name: &'static str, value: &Option<Bytes>) -> Result<(), EncodeError> {
        match (value, self.context.records) {
            (Some(records), Records::Size) => {
                self.object.insert(format!("{name}SizeInBytes"), Value::from(records.len()));
                Ok(())
            }
            _ => self.put(name, value),
        }
    }

    fn refuse(&mut self, field: &'static str, kind: EncodeErrorKind) -> EncodeError {
        EncodeError { message: self.context.message, version: self.context.version, field, kind }
    }

    fn open_tags<'t>(&mut self, unknown: &'t [RawTag]) -> OpenTags<'t> {
        OpenTags::nowhere(unknown)
    }

    fn put_tag<T: Field>(
        &mut self,
        _: &mut OpenTags<'_>,
        _: u32,
        name: &'static str,
        value: &T,
        is_set: bool,
    ) -> Result<(), EncodeError> {
        if is_set { self.put(name, value) } else { Ok(()) }
    }

    fn close_tags(&mut self, _: OpenTags<'_>) -> Result<(), EncodeError> {
        Ok(())
    }
}

struct JsonSource<'j> {
    context: Context,
    object: &'j Map<String, Value>,
}

impl Source for JsonSource<'_> {
    fn version(&self) -> i16 {
        self.context.version
    }

    fn get<T: Field>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        match self.object.get(name) {
            Some(json) => T::read_json(self.context, name, json),
            None => Err(self.context.wrong(name, DecodeErrorKind::Missing)),
        }
    }

    fn get_tags(
        &mut self,
        known: &[(u32, &'static str)],
        mut read: impl FnMut(&mut Self, u32) -> Result<(), DecodeError>,
    ) -> Result<Vec<RawTag>, DecodeError> {
        for (tag, name) in known {
            if self.object.contains_key(*name) {
                read(self, *tag)?;
            }
        }
        Ok(Vec::new())
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648 §4).
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = (bits >> (18 - 6 * i)) & 63;
            out.push(if i <= chunk.len() { ALPHABET[sextet as usize] as char } else { '=' });
        }
    }
    out
}

/// Reads base64 with padding; none if it is not that.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in &text[..text.len() - padding] {
        bits = bits << 6 | ALPHABET.iter().position(|letter| letter == byte)? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::Message;
    use crate::wire::messages::{FetchResponse, MetadataRequest, ProduceRequest, fetch, produce};

    #[test]
    fn base64_comes_back() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\x00", "//4A")]
        {
            assert_eq!(base64(bytes), text);
            assert_eq!(unbase64(text).as_deref(), Some(bytes));
        }
        for wrong in ["Z", "Zg=", "Zg", "====", "Z*==", "=Zg="] {
            assert_eq!(unbase64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn records_show_their_size_or_themselves() {
        let partition = produce::request::PartitionProduceData {
            index: 7,
            records: Some(Bytes::from_static(b"xyz")),
            ..Default::default()
        };
        let topic = produce::request::TopicProduceData {
            name: "t".into(),
            partition_data: vec![partition],
            ..Default::default()
        };
        let request = ProduceRequest { topic_data: vec![topic], ..Default::default() };
        let json = request.to_json(9).unwrap();
        assert_eq!(json["topicData"][0]["partitionData"][0], json!({"index": 7, "recordsSizeInBytes": 3}));
        assert!(ProduceRequest::from_json(9, &json).is_err(), "the records are not there to be read");
        let json = request.to_json_with(9, Records::Base64).unwrap();
        assert_eq!(json["topicData"][0]["partitionData"][0], json!({"index": 7, "records": "eHl6"}));
        assert_eq!(ProduceRequest::from_json(9, &json).unwrap(), request);
    }

    #[test]
    fn tags_show_when_they_differ_from_the_default() {
        let mut partition = fetch::response::PartitionData { partition_index: 1, ..Default::default() };
        let response = |partition: &fetch::response::PartitionData| FetchResponse {
            responses: vec![fetch::response::FetchableTopicResponse {
                topic: "t".into(),
                partitions: vec![partition.clone()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = response(&partition).to_json(12).unwrap();
        assert_eq!(json["responses"][0]["partitions"][0].get("currentLeader"), None);
        partition.current_leader.leader_id = 3;
        let json = response(&partition).to_json(12).unwrap();
        assert_eq!(json["responses"][0]["partitions"][0]["currentLeader"], json!({"leaderId": 3, "leaderEpoch": -1}));
        assert_eq!(FetchResponse::from_json(12, &json).unwrap(), response(&partition));
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_named() {
        let error = MetadataRequest::from_json(4, &json!({"topics": []})).unwrap_err();
        assert_eq!((error.field, error.kind), ("allowAutoTopicCreation", DecodeErrorKind::Missing));
        let error = MetadataRequest::from_json(4, &json!({"topics": 1, "allowAutoTopicCreation": true})).unwrap_err();
        assert_eq!((error.field, error.kind), ("topics", DecodeErrorKind::Type("array")));
        let error = MetadataRequest::from_json(0, &json!({"topics": null})).unwrap_err();
        assert_eq!((error.field, error.kind), ("topics", DecodeErrorKind::Type("array")));
        assert_eq!(MetadataRequest::from_json(1, &json!({"topics": null})).unwrap().topics, None);
        assert_eq!(MetadataRequest::from_json(99, &json!({})).unwrap_err().kind, DecodeErrorKind::Version);
    }
}
