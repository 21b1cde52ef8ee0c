//! One setting: its name, its type and range, its default, what it means. Everything else is derived from this.

use std::time::Duration;

/// What kind of text a setting takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number in an inclusive range.
    Int {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// Milliseconds in an inclusive range.
    Millis {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// Bytes in an inclusive range.
    Bytes {
        /// Smallest value allowed.
        min: i64,
        /// Largest value allowed.
        max: i64,
    },
    /// One of the given words. The second word of a pair is what the first one means (an alias).
    Choice(&'static [(&'static str, &'static str)]),
    /// A comma-separated list.
    List,
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
}

/// Who uses a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Connections, threads, metadata: producers and consumers alike.
    Engine,
    /// Producers.
    Producer,
    /// Consumers.
    Consumer,
}

impl Role {
    /// The word used in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// Whether a setting does anything in this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is obeyed.
    Active,
    /// Known, of no effect yet: setting it is reported, and harmless.
    Later,
    /// Known, not available yet, and leaving it out would be unsafe or misleading: any other value than the default is an error.
    Refused,
}

/// One setting, declared once. Documentation, `config list`, range checks and the masked dump come from it.
#[derive(Debug)]
pub struct Setting {
    /// Kafka's own name.
    pub name: &'static str,
    /// Other spellings: librdkafka's and the five clients' (features §1-§5).
    pub aliases: &'static [&'static str],
    /// Who uses it.
    pub role: Role,
    /// Type and range.
    pub kind: Kind,
    /// The default as text; empty for "unset".
    pub default: &'static str,
    /// What it means, what it costs, and how the default differs from other clients'.
    pub what: &'static str,
    /// Whether it does anything in this version.
    pub state: State,
}

impl Setting {
    /// The unit of the value, empty where there is none.
    pub const fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Millis { .. } => "ms",
            Kind::Bytes { .. } => "bytes",
            _ => "",
        }
    }

    /// The type in words.
    pub const fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Bool => "true | false",
            Kind::Int { .. } | Kind::Millis { .. } | Kind::Bytes { .. } => "whole number",
            Kind::Choice(_) => "choice",
            Kind::List => "comma-separated list",
            Kind::Text => "text",
            Kind::Secret => "secret text",
        }
    }

    /// The allowed values in words.
    pub fn range(&self) -> String {
        match self.kind {
            Kind::Bool => "true, false".into(),
            Kind::Int { min, max } | Kind::Millis { min, max } | Kind::Bytes { min, max } => format!("{min} .. {max}"),
            Kind::Choice(words) => {
                let mut seen: Vec<&str> = Vec::new();
                for (word, _) in words {
                    if !seen.contains(word) {
                        seen.push(word);
                    }
                }
                seen.join(", ")
            }
            Kind::List | Kind::Text | Kind::Secret => "any".into(),
        }
    }

    /// Reads a text as this setting's type.
    ///
    /// # Errors
    /// Says in words what was wanted.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self.kind {
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err("expected true or false".into()),
            },
            Kind::Int { min, max } | Kind::Millis { min, max } | Kind::Bytes { min, max } => {
                let unit = if self.unit().is_empty() { String::new() } else { format!(" {}", self.unit()) };
                match text.parse::<i64>() {
                    Ok(number) if (min..=max).contains(&number) => Ok(Value::Int(number)),
                    Ok(_) => Err(format!("expected a whole number from {min} to {max}{unit}")),
                    Err(_) => Err(format!("expected a whole number{unit}, from {min} to {max}")),
                }
            }
            Kind::Choice(words) => {
                let lower = text.to_ascii_lowercase();
                match words.iter().find(|(word, _)| *word == lower) {
                    Some((_, meaning)) => Ok(Value::Text((*meaning).to_owned())),
                    None => Err(format!("expected one of {}", self.range())),
                }
            }
            Kind::List => {
                let items: Vec<String> =
                    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
                if items.is_empty() { Err("expected at least one item".into()) } else { Ok(Value::List(items)) }
            }
            Kind::Text | Kind::Secret => Ok(Value::Text(text.to_owned())),
        }
    }
}

/// A value of the right type and in range.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`], [`Kind::Millis`] and [`Kind::Bytes`].
    Int(i64),
    /// Of [`Kind::Choice`] (the canonical word), [`Kind::Text`] and [`Kind::Secret`].
    Text(String),
    /// Of [`Kind::List`].
    List(Vec<String>),
}

impl Value {
    /// As a truth value; false for other types.
    pub fn bool(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    /// As a number; 0 for other types.
    pub fn int(&self) -> i64 {
        if let Self::Int(number) = self { *number } else { 0 }
    }

    /// As a size or count; 0 for negative numbers and other types.
    pub fn size(&self) -> usize {
        usize::try_from(self.int()).unwrap_or(0)
    }

    /// As a span of milliseconds.
    pub fn millis(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.int()).unwrap_or(0))
    }

    /// As text; empty for other types.
    pub fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    /// As a list; empty for other types.
    pub fn list(&self) -> &[String] {
        if let Self::List(items) = self { items } else { &[] }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::List(items) => f.write_str(&items.join(",")),
        }
    }
}
