//! Reads the message definitions out of a kafka-clients jar (`common/message/*.json`: JSON with `//` comments).

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::model::{Field, Kind, Message, Struct, Type, Versions};

/// All messages of the client's side: requests that brokers listen for, their responses, headers and data schemas.
pub fn read_jar(path: &Path) -> Result<Vec<Message>> {
    let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut jar = zip::ZipArchive::new(file).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut messages = Vec::new();
    for i in 0..jar.len() {
        let mut entry = jar.by_index(i).map_err(|e| e.to_string())?;
        let name = entry.name().to_string();
        if !name.starts_with("common/message/") || !name.ends_with(".json") {
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).map_err(|e| format!("{name}: {e}"))?;
        messages.extend(read_message(&text).map_err(|e| format!("{name}: {e}"))?);
    }
    if messages.is_empty() {
        return Err(format!("{} holds no message definitions", path.display()));
    }
    Ok(select(messages))
}

/// Keeps what a client needs, and gives responses the (clamped) versions of their requests. Sorted: requests first.
fn select(mut messages: Vec<Message>) -> Vec<Message> {
    let served: Vec<(Option<i16>, Versions)> = messages
        .iter()
        .filter(|m| m.kind == Kind::Request && m.listeners.iter().any(|listener| listener == "broker"))
        .map(|m| (m.api, m.versions))
        .collect();
    messages.retain(|m| m.api.is_none() || served.iter().any(|(api, _)| *api == m.api));
    for message in messages.iter_mut().filter(|m| m.kind == Kind::Response) {
        if let Some((_, versions)) = served.iter().find(|(api, _)| *api == message.api) {
            message.versions = *versions;
        }
    }
    messages.sort_by(|a, b| (a.kind as u8, &a.name).cmp(&(b.kind as u8, &b.name)));
    messages
}

/// One definition; none when no version of it is left.
fn read_message(text: &str) -> Result<Option<Message>> {
    let json: Value = serde_json::from_str(&without_comments(text)).map_err(|e| e.to_string())?;
    let Some(mut versions) = versions(&json, "validVersions")? else { return Ok(None) };
    if json.get("latestVersionUnstable").and_then(Value::as_bool) == Some(true) {
        versions.hi -= 1;
        if versions.hi < versions.lo {
            return Ok(None);
        }
    }
    let kind = match text_of(&json, "type")? {
        "request" => Kind::Request,
        "response" => Kind::Response,
        "header" => Kind::Header,
        "data" => Kind::Data,
        other => return Err(format!("unknown kind {other}")),
    };
    let api = json.get("apiKey").and_then(Value::as_i64).and_then(|key| i16::try_from(key).ok());
    let listeners = json.get("listeners").and_then(Value::as_array);
    let listeners = listeners.map(|l| l.iter().filter_map(Value::as_str).map(str::to_string).collect());
    let mut structs = Vec::new();
    for item in json.get("commonStructs").and_then(Value::as_array).into_iter().flatten() {
        structs.push(Struct {
            name: text_of(item, "name")?.to_string(),
            versions: self::versions(item, "versions")?.ok_or("a structure without versions")?,
            fields: fields(item)?,
        });
    }
    Ok(Some(Message {
        kind,
        name: text_of(&json, "name")?.to_string(),
        api,
        versions,
        flexible: self::versions(&json, "flexibleVersions")?.map(|v| v.lo),
        listeners: listeners.unwrap_or_default(),
        structs,
        fields: fields(&json)?,
    }))
}

fn fields(json: &Value) -> Result<Vec<Field>> {
    json.get("fields").and_then(Value::as_array).into_iter().flatten().map(field).collect()
}

fn field(json: &Value) -> Result<Field> {
    let name = text_of(json, "name")?.to_string();
    let tagged = versions(json, "taggedVersions")?;
    let tag = json.get("tag").and_then(Value::as_u64).and_then(|tag| u32::try_from(tag).ok());
    if tag.is_some() != tagged.is_some() {
        return Err(format!("{name}: tag and taggedVersions go together"));
    }
    let default = match json.get("default") {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    Ok(Field {
        ty: Type::parse(text_of(json, "type")?)?,
        versions: versions(json, "versions")?.or(tagged).ok_or_else(|| format!("{name}: no versions"))?,
        nullable: versions(json, "nullableVersions")?,
        tag: tag.zip(tagged),
        default,
        ignorable: flag(json, "ignorable"),
        key: flag(json, "mapKey"),
        inflexible: json.get("flexibleVersions").and_then(Value::as_str) == Some("none"),
        about: shortened(json.get("about").and_then(Value::as_str).unwrap_or_default()),
        fields: fields(json)?,
        name,
    })
}

fn flag(json: &Value, name: &str) -> bool {
    json.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn versions(json: &Value, name: &str) -> Result<Option<Versions>> {
    json.get(name).and_then(Value::as_str).map_or(Ok(None), Versions::parse)
}

fn text_of<'a>(json: &'a Value, name: &str) -> Result<&'a str> {
    json.get(name).and_then(Value::as_str).ok_or_else(|| format!("no {name}"))
}

/// The first sentence, with a full stop.
fn shortened(about: &str) -> String {
    let flat = about.split_whitespace().collect::<Vec<_>>().join(" ");
    let first = flat.split_once(". ").map_or(flat.as_str(), |(first, _)| first);
    // "e.g. x" and "i.e. x" end no sentence.
    let first = if first.ends_with("e.g") || first.ends_with("i.e") || first.ends_with("etc") { &flat } else { first };
    if first.is_empty() { String::new() } else { format!("{}.", first.trim_end_matches('.')) }
}

/// Blanks `//` comments that stand outside of strings.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let (mut in_string, mut escaped, mut end) = (false, false, line.len());
        for (i, byte) in line.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'/' if !in_string && line[i..].starts_with("//") => {
                    end = i;
                    break;
                }
                _ => {}
            }
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_at_the_line_and_strings_keep_their_slashes() {
        assert_eq!(without_comments("a // b\n\"c // d\" // e"), "a \n\"c // d\" \n");
    }

    #[test]
    fn an_unstable_last_version_is_left_out_also_of_the_response() {
        let definition = |kind: &str, more: &str| {
            format!(
                r#"{{"apiKey": 22, "type": "{kind}", "name": "X", "validVersions": "0-6", "flexibleVersions": "2+",
                    "listeners": ["broker"], {more} "fields": []}}"#
            )
        };
        let request = read_message(&definition("request", r#""latestVersionUnstable": true,"#)).unwrap().unwrap();
        let response = read_message(&definition("response", "")).unwrap().unwrap();
        let selected = select(vec![request, response]);
        assert_eq!(selected.iter().map(|m| m.versions.hi).collect::<Vec<_>>(), [5, 5]);
    }

    #[test]
    fn a_broker_must_listen_for_it() {
        let text = r#"{"apiKey": 9, "type": "request", "name": "X", "validVersions": "0", "flexibleVersions": "0+",
            "listeners": ["controller"], "fields": []}"#;
        assert!(select(vec![read_message(text).unwrap().unwrap()]).is_empty());
    }
}
