//! Any message by its API key (or name) and version, decided at run time: bytes → JSON → bytes (feature `json`).
//!
//! This serves `ottla wire decode` and the golden tests. Bodies only: no length prefix and no header.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::{DecodeError, EncodeError};
use super::json::Records;
use super::message::Message;
use super::messages::each::{self, Visitor};
use super::{ApiKey, Reader};

/// Which message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The request of the API with this key.
    Request(i16),
    /// The response of the API with this key.
    Response(i16),
    /// A message, header or schema by Kafka's name: `FetchRequest`, `ConsumerProtocolSubscription`.
    Named(String),
}

/// Why nothing came out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnyError {
    /// No API of this key that clients use.
    #[error("clients use no API with key {0}")]
    Key(i16),
    /// No message of this name.
    #[error("there is no message {0}")]
    Name(String),
    /// The bytes or the JSON are not this message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The value cannot be written at this version.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The line is not what [`decode_line`] takes.
    #[error("{0}")]
    Line(&'static str),
}

/// A message that was decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Its JSON form.
    pub json: Value,
    /// The decoded value, encoded again.
    pub bytes: Vec<u8>,
}

fn visit<T, V>(which: &Which, visitor: V) -> Result<T, AnyError>
where
    V: Visitor<Out = Result<T, AnyError>>,
{
    match which {
        Which::Request(key) => each::request(ApiKey::try_from(*key).map_err(AnyError::Key)?, visitor),
        Which::Response(key) => each::response(ApiKey::try_from(*key).map_err(AnyError::Key)?, visitor),
        Which::Named(name) => each::named(name, visitor).unwrap_or_else(|| Err(AnyError::Name(name.clone()))),
    }
}

/// Decodes `body`, all of it, and encodes the value again.
pub fn decode(which: &Which, version: i16, body: &Bytes, records: Records) -> Result<Decoded, AnyError> {
    struct Decode<'b>(i16, &'b Bytes, Records);
    impl Visitor for Decode<'_> {
        type Out = Result<Decoded, AnyError>;
        fn visit<M: Message>(self) -> Self::Out {
            let message = M::from_bytes(self.0, self.1)?;
            Ok(Decoded { json: message.to_json_with(self.0, self.2)?, bytes: message.to_bytes(self.0)? })
        }
    }
    visit(which, Decode(version, body, records))
}

/// Only decodes `body`, from a borrowed slice: for tests of hostile input. Returns how many bytes were read.
pub fn check(which: &Which, version: i16, body: &[u8]) -> Result<usize, AnyError> {
    struct Check<'b>(i16, &'b [u8]);
    impl Visitor for Check<'_> {
        type Out = Result<usize, AnyError>;
        fn visit<M: Message>(self) -> Self::Out {
            let mut reader = Reader::new(self.1);
            M::decode(self.0, &mut reader)?;
            Ok(reader.position())
        }
    }
    visit(which, Check(version, body))
}

/// Decodes `body` at version `from` and encodes it at version `to`.
pub fn convert(which: &Which, from: i16, to: i16, body: &Bytes) -> Result<Vec<u8>, AnyError> {
    struct Convert<'b>(i16, i16, &'b Bytes);
    impl Visitor for Convert<'_> {
        type Out = Result<Vec<u8>, AnyError>;
        fn visit<M: Message>(self) -> Self::Out {
            Ok(M::from_bytes(self.0, self.2)?.to_bytes(self.1)?)
        }
    }
    visit(which, Convert(from, to, body))
}

/// The body that a JSON form stands for.
pub fn encode(which: &Which, version: i16, json: &Value) -> Result<Vec<u8>, AnyError> {
    struct Encode<'j>(i16, &'j Value);
    impl Visitor for Encode<'_> {
        type Out = Result<Vec<u8>, AnyError>;
        fn visit<M: Message>(self) -> Self::Out {
            Ok(M::from_json(self.0, self.1)?.to_bytes(self.0)?)
        }
    }
    visit(which, Encode(version, json))
}

/// The versions of a message.
pub fn versions(which: &Which) -> Result<super::VersionRange, AnyError> {
    struct Versions;
    impl Visitor for Versions {
        type Out = Result<super::VersionRange, AnyError>;
        fn visit<M: Message>(self) -> Self::Out {
            Ok(M::VERSIONS)
        }
    }
    visit(which, Versions)
}

/// One line in, one line out, both JSON.
///
/// In: `{"key": 0, "version": 3, "kind": "request" | "response", "hex": ".."}`, where `hex` is a message's body: no
/// length prefix, no header. Instead of `key` and `kind` also `"name": "RequestHeader"`. With `"records": "base64"`
/// record sets are shown whole instead of by size.
///
/// Out: `{"json": {fields under Kafka's names}, "hex": "<the decoded value, encoded again>"}` or `{"error": ".."}`.
pub fn decode_line(line: &str) -> String {
    let answer = match decode_object(line) {
        Ok(decoded) => json!({"json": decoded.json, "hex": hex(&decoded.bytes)}),
        Err(error) => json!({"error": error.to_string()}),
    };
    answer.to_string()
}

fn decode_object(line: &str) -> Result<Decoded, AnyError> {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else { return Err(AnyError::Line("not a JSON object")) };
    let number = |name: &str| object.get(name).and_then(Value::as_i64).and_then(|number| i16::try_from(number).ok());
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let version = number("version").ok_or(AnyError::Line("\"version\" must be a 16-bit number"))?;
    let which = which(&object, number("key"))?;
    let body = text("hex").and_then(unhex).ok_or(AnyError::Line("\"hex\" must be hexadecimal text"))?;
    let records = if text("records") == Some("base64") { Records::Base64 } else { Records::Size };
    decode(&which, version, &Bytes::from(body), records)
}

fn which(object: &Map<String, Value>, key: Option<i16>) -> Result<Which, AnyError> {
    if let Some(name) = object.get("name").and_then(Value::as_str) {
        return Ok(Which::Named(name.to_owned()));
    }
    let key = key.ok_or(AnyError::Line("\"key\" must be a 16-bit number"))?;
    match object.get("kind").and_then(Value::as_str) {
        Some("request") => Ok(Which::Request(key)),
        Some("response") => Ok(Which::Response(key)),
        _ => Err(AnyError::Line("\"kind\" must be \"request\" or \"response\"")),
    }
}

/// Lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| DIGITS[usize::from(digit)] as char).collect()
}

/// Reads hexadecimal text of either case; none if it is not that.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>()?;
    rest.is_empty().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_decoded_and_encoded_again() {
        // MetadataRequest version 4: one topic "t", no automatic creation.
        let line = r#"{"key":3,"version":4,"kind":"request","hex":"00000001000174 00"}"#.replace(' ', "");
        let answer: Value = serde_json::from_str(&decode_line(&line)).unwrap();
        assert_eq!(answer["json"], json!({"topics": [{"name": "t"}], "allowAutoTopicCreation": false}));
        assert_eq!(answer["hex"], "0000000100017400");
    }

    #[test]
    fn a_header_is_found_by_name() {
        let line = r#"{"name":"RequestHeader","version":2,"hex":"000300090000002a00026d6500"}"#;
        let answer: Value = serde_json::from_str(&decode_line(line)).unwrap();
        assert_eq!(answer["json"]["clientId"], "me");
        assert_eq!(answer["hex"], "000300090000002a00026d6500");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, why) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"key":3,"kind":"request","hex":""}"#, "\"version\""),
            (r#"{"version":0,"kind":"request","hex":""}"#, "\"key\""),
            (r#"{"key":3,"version":0,"hex":""}"#, "\"kind\""),
            (r#"{"key":3,"version":0,"kind":"request","hex":"0"}"#, "hexadecimal"),
            (r#"{"key":3,"version":0,"kind":"request","hex":"zz"}"#, "hexadecimal"),
            (r#"{"key":4,"version":0,"kind":"request","hex":""}"#, "clients use no API with key 4"),
            (r#"{"key":3,"version":99,"kind":"request","hex":""}"#, "this version does not exist"),
            (r#"{"key":3,"version":0,"kind":"request","hex":"0000"}"#, "field topics, byte 0: 4 bytes wanted, 2 left"),
            (r#"{"key":3,"version":0,"kind":"request","hex":"0000000000"}"#, "1 bytes left over"),
            (r#"{"name":"Nothing","version":0,"hex":""}"#, "there is no message Nothing"),
        ] {
            let answer: Value = serde_json::from_str(&decode_line(line)).unwrap();
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
