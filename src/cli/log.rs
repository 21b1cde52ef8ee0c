//! The engine's warnings and errors on stderr, one line each; only its errors with `-q`. What the engine says at lower levels is for applications
//! with a log of their own.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// From now on, for the whole program.
pub(super) fn to_stderr(quiet: bool) {
    let most = if quiet { Level::ERROR } else { Level::WARN };
    // Only a program that embeds this one has another; then that one is in charge.
    let _ = tracing::subscriber::set_global_default(Stderr { most });
}

struct Stderr {
    most: Level,
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        let level = if *event.metadata().level() == Level::ERROR { "error" } else { "warning" };
        // Whoever closed stderr does not want to know.
        let _ = writeln!(std::io::stderr().lock(), "{level}: {}{}", line.message, line.fields);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// `message (name=value, ...)`
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "why" | "error" => write!(self.fields, ": {value:?}"),
            name => write!(self.fields, " [{name}={value:?}]"),
        };
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
