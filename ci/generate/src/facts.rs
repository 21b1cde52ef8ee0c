//! The fact file: one line per field, indented by depth. Written from the definitions, read by `generate rust`.

use std::fmt::Write;

use crate::Result;
use crate::model::{Field, Kind, Message, Struct, Type, Versions};

const HEAD: &str = "\
# Facts from Kafka's message definitions (kafka-clients 4.3.1, Apache License 2.0). Written by ci/generate; do not edit.
# field: Name type versions [null VERSIONS] [tag N VERSIONS] [default VALUE] [ignorable] [key] [inflexible] | about
";

/// The fact file of these messages.
pub fn print(messages: &[Message]) -> String {
    let mut out = HEAD.to_string();
    for message in messages {
        let kind = match message.kind {
            Kind::Request => "request",
            Kind::Response => "response",
            Kind::Header => "header",
            Kind::Data => "data",
        };
        out.push('\n');
        push(&mut out, format_args!("{kind} {}", message.name));
        if let Some(api) = message.api {
            push(&mut out, format_args!(" api {api}"));
        }
        push(&mut out, format_args!(" versions {}", message.versions));
        match message.flexible {
            Some(flexible) => push(&mut out, format_args!(" flexible {flexible}+")),
            None => out.push_str(" flexible none"),
        }
        if !message.listeners.is_empty() {
            push(&mut out, format_args!(" listeners {}", message.listeners.join(",")));
        }
        out.push('\n');
        print_fields(&message.fields, 1, &mut out);
        for item in &message.structs {
            push(&mut out, format_args!("  struct {} {}\n", item.name, item.versions));
            print_fields(&item.fields, 2, &mut out);
        }
    }
    out
}

/// Writing to a string cannot fail.
fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(what);
}

fn print_fields(fields: &[Field], depth: usize, out: &mut String) {
    for field in fields {
        push(out, format_args!("{:depth$}{} {} {}", "", field.name, field.ty, field.versions, depth = depth * 2));
        if let Some(nullable) = field.nullable {
            push(out, format_args!(" null {nullable}"));
        }
        if let Some((tag, versions)) = field.tag {
            push(out, format_args!(" tag {tag} {versions}"));
        }
        if let Some(default) = &field.default {
            push(out, format_args!(" default {}", if default.is_empty() { "\"\"" } else { default }));
        }
        for (is_set, word) in [(field.ignorable, "ignorable"), (field.key, "key"), (field.inflexible, "inflexible")] {
            if is_set {
                push(out, format_args!(" {word}"));
            }
        }
        if !field.about.is_empty() {
            push(out, format_args!(" | {}", field.about));
        }
        out.push('\n');
        print_fields(&field.fields, depth + 1, out);
    }
}

/// Reads a fact file back.
pub fn parse(text: &str) -> Result<Vec<Message>> {
    let lines: Vec<(usize, &str)> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| ((line.len() - line.trim_start().len()) / 2, line.trim()))
        .collect();
    let mut lines = lines.as_slice();
    let mut messages = Vec::new();
    while let [(0, head), rest @ ..] = lines {
        lines = rest;
        let mut message = parse_head(head).map_err(|why| format!("{head}: {why}"))?;
        loop {
            match lines {
                [(1, line), rest @ ..] if line.starts_with("struct ") => {
                    lines = rest;
                    message.structs.push(parse_struct(line, &mut lines)?);
                }
                [(1, _), ..] => {
                    let fields = parse_fields(&mut lines, 1)?;
                    message.fields.extend(fields);
                }
                _ => break,
            }
        }
        messages.push(message);
    }
    match lines.first() {
        None => Ok(messages),
        Some((_, line)) => Err(format!("wrong indentation: {line}")),
    }
}

fn parse_head(line: &str) -> Result<Message> {
    let mut words = line.split(' ');
    let kind = match words.next() {
        Some("request") => Kind::Request,
        Some("response") => Kind::Response,
        Some("header") => Kind::Header,
        Some("data") => Kind::Data,
        _ => return Err("unknown kind".to_string()),
    };
    let name = words.next().ok_or("no name")?.to_string();
    let (mut api, mut versions, mut flexible, mut listeners) = (None, None, None, Vec::new());
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        match word {
            "api" => api = Some(value.parse().map_err(|_| "bad api")?),
            "versions" => versions = Versions::parse(value)?,
            "flexible" => flexible = Versions::parse(value)?.map(|v| v.lo),
            "listeners" => listeners = value.split(',').map(str::to_string).collect(),
            other => return Err(format!("unknown word {other}")),
        }
    }
    let versions = versions.ok_or("no versions")?;
    Ok(Message { kind, name, api, versions, flexible, listeners, structs: Vec::new(), fields: Vec::new() })
}

fn parse_struct(line: &str, lines: &mut &[(usize, &str)]) -> Result<Struct> {
    let [_, name, versions] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(format!("bad: {line}")) };
    let versions = Versions::parse(versions)?.ok_or("a structure without versions")?;
    Ok(Struct { name: name.to_string(), versions, fields: parse_fields(lines, 2)? })
}

fn parse_fields(lines: &mut &[(usize, &str)], depth: usize) -> Result<Vec<Field>> {
    let mut fields = Vec::new();
    while let [(at, line), rest @ ..] = *lines {
        if *at != depth || line.starts_with("struct ") {
            break;
        }
        *lines = rest;
        let mut field = parse_field(line).map_err(|why| format!("{line}: {why}"))?;
        field.fields = parse_fields(lines, depth + 1)?;
        fields.push(field);
    }
    Ok(fields)
}

fn parse_field(line: &str) -> Result<Field> {
    let (facts, about) = line.split_once(" | ").unwrap_or((line, ""));
    let mut words = facts.split(' ');
    let mut next = || words.next().ok_or("too short");
    let (name, ty, versions) = (next()?.to_string(), Type::parse(next()?)?, Versions::parse(next()?)?);
    let mut field = Field {
        name,
        ty,
        versions: versions.ok_or("no versions")?,
        nullable: None,
        tag: None,
        default: None,
        ignorable: false,
        key: false,
        inflexible: false,
        about: about.to_string(),
        fields: Vec::new(),
    };
    while let Ok(word) = next() {
        match word {
            "null" => field.nullable = Versions::parse(next()?)?,
            "tag" => {
                let tag = next()?.parse().map_err(|_| "bad tag")?;
                field.tag = Some((tag, Versions::parse(next()?)?.ok_or("no tagged versions")?));
            }
            "default" => field.default = Some(next()?.trim_matches('"').to_string()),
            "ignorable" => field.ignorable = true,
            "key" => field.key = true,
            "inflexible" => field.inflexible = true,
            other => return Err(format!("unknown word {other}")),
        }
    }
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        let text = "\
request XRequest api 7 versions 1-4 flexible 3+ listeners broker,controller
  Names []string 1+ null 2+ default null ignorable | The names.
  Rows []Row 1+
    Id uuid 3+ key
    Part Part 2+ tag 0 3+
  Empty string 1+ default \"\" inflexible
  struct Part 2+
    Value int32 2+ default -1 | A value.

header H versions 0 flexible none
";
        let messages = parse(text).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].fields[1].fields[1].tag, Some((0, Versions { lo: 3, hi: i16::MAX })));
        assert_eq!(messages[0].structs[0].fields[0].default.as_deref(), Some("-1"));
        let printed = print(&messages);
        assert_eq!(parse(&printed).unwrap(), messages);
        assert!(printed.contains(text.lines().nth(1).unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in
            ["request X", "thing X versions 0", "data X versions 0\n    Deep int8 0+", "data X versions 0\n  A int9 0+"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
