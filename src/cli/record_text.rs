//! Records as text and as JSON lines: what `consume` prints and `produce --from-json` reads.
//!
//! JSON form: `{"topic":..,"partition":..,"offset":..,"timestamp":..,"key":..,"value":..,"headers":[[name,value],..]}`. Keys,
//! values and header values are strings, `null`, or `{"hex":".."}` where they are not UTF-8.

use serde_json::{Value, json};

use crate::wire::any::{hex, unhex};

/// A record's parts, borrowed.
#[derive(Debug)]
pub struct Shown<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// A record to send, as JSON gave it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub partition: Option<i32>,
    pub timestamp: Option<i64>,
}

fn bytes_json(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({ "hex": hex(bytes) }),
        },
    }
}

impl Shown<'_> {
    /// One JSON object.
    pub fn to_json(&self) -> Value {
        let headers: Vec<Value> =
            self.headers.iter().map(|(name, value)| json!([bytes_json(Some(name)), bytes_json(*value)])).collect();
        json!({
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            "key": bytes_json(self.key),
            "value": bytes_json(self.value),
            "headers": headers,
        })
    }
}

/// A parsed `-f` format.
#[derive(Debug, PartialEq, Eq)]
pub struct Format(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Key,
    Value,
    Offset,
    Partition,
    Topic,
    Timestamp,
    Headers,
    KeyLength,
    ValueLength,
}

impl Format {
    /// Reads a format.
    ///
    /// # Errors
    /// Names the token that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '%' => match chars.next() {
                    Some('s') => Part::Value,
                    Some('k') => Part::Key,
                    Some('o') => Part::Offset,
                    Some('p') => Part::Partition,
                    Some('t') => Part::Topic,
                    Some('T') => Part::Timestamp,
                    Some('h') => Part::Headers,
                    Some('K') => Part::KeyLength,
                    Some('S') => Part::ValueLength,
                    Some('%') => {
                        plain.push(b'%');
                        continue;
                    }
                    other => {
                        let token = other.map_or_else(String::new, |c| c.to_string());
                        return Err(format!("%{token}: expected one of %s %k %o %p %t %T %h %S %K %%"));
                    }
                },
                '\\' => {
                    plain.push(match chars.next() {
                        Some('n') => b'\n',
                        Some('t') => b'\t',
                        Some('r') => b'\r',
                        Some('0') => 0,
                        Some('\\') => b'\\',
                        _ => return Err("expected one of \\n \\t \\r \\0 \\\\ behind a backslash".into()),
                    });
                    continue;
                }
                c => {
                    let mut utf8 = [0; 4];
                    plain.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                    continue;
                }
            };
            if !plain.is_empty() {
                parts.push(Part::Bytes(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Bytes(plain));
        }
        Ok(Self(parts))
    }

    /// Appends a record. Null keys and values are empty; their lengths are -1.
    pub fn write(&self, record: &Shown<'_>, out: &mut Vec<u8>) {
        let length = |bytes: Option<&[u8]>| bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.len().to_string());
        for part in &self.0 {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Part::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Part::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                Part::Partition => out.extend_from_slice(record.partition.to_string().as_bytes()),
                Part::Topic => out.extend_from_slice(record.topic.as_bytes()),
                Part::Timestamp => out.extend_from_slice(record.timestamp.to_string().as_bytes()),
                Part::KeyLength => out.extend_from_slice(length(record.key).as_bytes()),
                Part::ValueLength => out.extend_from_slice(length(record.value).as_bytes()),
                Part::Headers => {
                    for (i, (name, value)) in record.headers.iter().enumerate() {
                        if i > 0 {
                            out.push(b',');
                        }
                        out.extend_from_slice(name);
                        out.push(b'=');
                        out.extend_from_slice(value.unwrap_or(b"NULL"));
                    }
                }
            }
        }
    }
}

impl Given {
    /// Reads one JSON line.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let fields = value.as_object().ok_or("expected a JSON object")?;
        let mut given = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "key" => given.key = bytes_from(value).map_err(|error| format!("key: {error}"))?,
                "value" => given.value = bytes_from(value).map_err(|error| format!("value: {error}"))?,
                "partition" => {
                    let number = value.as_i64().and_then(|n| i32::try_from(n).ok()).filter(|n| *n >= 0);
                    given.partition = Some(number.ok_or("partition: expected a whole number of 0 or more")?);
                }
                "timestamp" => given.timestamp = Some(value.as_i64().ok_or("timestamp: expected milliseconds")?),
                "headers" => {
                    for pair in value.as_array().ok_or("headers: expected [[name, value], ..]")? {
                        let pair = pair.as_array().filter(|pair| pair.len() == 2);
                        let pair = pair.ok_or("headers: expected [[name, value], ..]")?;
                        let name = pair[0].as_str().ok_or("headers: expected names as text")?;
                        let value = bytes_from(&pair[1]).map_err(|error| format!("header {name}: {error}"))?;
                        given.headers.push((name.to_owned(), value));
                    }
                }
                // As `consume --json` prints them; they say where a record was, not where it goes.
                "topic" | "offset" => {}
                other => return Err(format!("{}: unknown field", other.escape_debug())),
            }
        }
        Ok(given)
    }
}

fn bytes_from(value: &Value) -> Result<Option<Vec<u8>>, String> {
    if let Some(text) = value.as_str() {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    if value.is_null() {
        return Ok(None);
    }
    let wanted = "expected text, null or {\"hex\":\"..\"}";
    let hex = value.get("hex").and_then(Value::as_str).ok_or(wanted)?;
    unhex(hex).map(Some).ok_or_else(|| wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Shown<'a> {
        let headers = vec![(b"h".as_slice(), Some(b"1".as_slice())), (b"h".as_slice(), None)];
        Shown { topic: "t", partition: 3, offset: 42, timestamp: 7, key, value, headers }
    }

    #[test]
    fn formats_print_every_part() {
        let format = Format::parse("%t/%p/%o %T %k=%s (%K,%S) %h%%\\n").unwrap();
        let mut out = Vec::new();
        format.write(&shown(None, Some(b"v")), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "t/3/42 7 =v (-1,1) h=1,h=NULL%\n");
        assert!(Format::parse("%x").is_err() && Format::parse("a\\").is_err() && Format::parse("%").is_err());
    }

    #[test]
    fn what_consume_prints_produce_reads() {
        for (key, value) in
            [(None, Some(b"".as_slice())), (Some(b"k".as_slice()), None), (Some(b"\xff\x00"), Some(b"x"))]
        {
            let line = shown(key, value).to_json().to_string();
            let given = Given::parse(&line).unwrap();
            assert_eq!((given.key.as_deref(), given.value.as_deref()), (key, value));
            assert_eq!(given.headers, [("h".to_owned(), Some(b"1".to_vec())), ("h".to_owned(), None)]);
            assert_eq!((given.partition, given.timestamp), (Some(3), Some(7)));
        }
    }

    #[test]
    fn bad_json_is_named() {
        assert!(Given::parse("{\"key\":5}").unwrap_err().starts_with("key:"));
        assert!(Given::parse("{\"kye\":\"x\"}").unwrap_err().contains("unknown field"));
        assert!(Given::parse("[]").is_err());
    }
}
