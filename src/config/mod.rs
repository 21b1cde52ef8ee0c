//! Settings as data: plain structs with Kafka's meaning and our defaults.
//!
//! ```text
//!  files, environment, -X key=value ──► EngineSettings   (connections, metadata, threads)
//!  typed builders (engine, producer) ─► ProducerSettings (batching, delivery, idempotence)
//!                                       ConsumerSettings (fetch sizes, positions)
//! ```
//! Depends on nothing but std. Never: opens a file on its own, looks a name up, decides what a broker supports.
//! Invariant: every `validate` is run once before a thread starts; what passed it is not checked again.

mod consumer;
mod engine;
#[cfg(feature = "config-files")]
mod file;
mod layers;
mod producer;
pub mod setting;
pub mod table;

pub use consumer::{AutoOffsetReset, ConsumerSettings, IsolationLevel, StartAt};
pub use engine::{BackendSetting, Cores, EngineSettings};
pub use layers::{ConfigError, Layers, Source};
pub use producer::{Acks, Compression, ProducerSettings};

/// A setting, or a combination of settings, that cannot work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SettingError {
    /// Kafka's name of the setting, e.g. `max.in.flight.requests.per.connection`.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl SettingError {
    fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}

/// Checks `value` against an inclusive range.
fn check_range<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: T,
    min: T,
    max: T,
) -> Result<(), SettingError> {
    if value < min || value > max {
        return Err(SettingError::new(key, format!("{value} is outside {min}..={max}")));
    }
    Ok(())
}
