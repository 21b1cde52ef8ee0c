//! Kafka's names in Rust's forms.

use crate::model::{Kind, Message};

/// `TopicId` → `topicId`, as in Kafka's JSON form.
pub fn camel(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + chars.as_str())
}

/// `TopicId` → `topic_id`; runs of capitals stay together as Kafka's own generator has it.
pub fn snake(name: &str) -> String {
    let (mut out, mut was_capital) = (String::new(), true);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !was_capital {
            out.push('_');
        }
        was_capital = c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A field's Rust name; keywords get `r#`.
pub fn field(name: &str) -> String {
    let name = snake(name);
    match name.as_str() {
        "type" | "match" | "ref" | "move" | "mod" | "use" | "loop" | "where" | "async" => format!("r#{name}"),
        _ => name,
    }
}

/// `FetchRequest` → `Fetch`.
pub fn api(message: &Message) -> &str {
    let suffix = if message.kind == Kind::Request { "Request" } else { "Response" };
    message.name.strip_suffix(suffix).unwrap_or(&message.name)
}

/// The file a message lives in, without extension: requests and responses share one.
pub fn file(message: &Message) -> String {
    match message.kind {
        Kind::Request | Kind::Response => snake(api(message)),
        Kind::Header | Kind::Data => snake(&message.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafka() {
        assert_eq!(snake("TopicId"), "topic_id");
        assert_eq!(snake("AddOffsetsToTxn"), "add_offsets_to_txn");
        assert_eq!(snake("SSLPort"), "sslport");
        assert_eq!(camel("TopicId"), "topicId");
        assert_eq!(field("Type"), "r#type");
    }
}
