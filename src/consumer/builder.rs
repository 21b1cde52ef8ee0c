//! Making a consumer.

use std::sync::Arc;
use std::time::Duration;

use super::error::ConsumeError;
use super::handle::{Consumer, Wiring};
use crate::config::{AutoOffsetReset, ConsumerSettings, IsolationLevel, StartAt};
use crate::engine::{Engine, EngineError, LocalEngine};

/// A partition to read, and where to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assign {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where to start; by `auto.offset.reset` if none.
    pub start: Option<StartAt>,
}

impl<T: Into<String>> From<(T, i32)> for Assign {
    fn from((topic, partition): (T, i32)) -> Self {
        Self { topic: topic.into(), partition, start: None }
    }
}

impl<T: Into<String>> From<(T, i32, StartAt)> for Assign {
    fn from((topic, partition, start): (T, i32, StartAt)) -> Self {
        Self { topic: topic.into(), partition, start: Some(start) }
    }
}

impl<T: Into<String>> From<(T, i32, i64)> for Assign {
    fn from((topic, partition, offset): (T, i32, i64)) -> Self {
        Self { topic: topic.into(), partition, start: Some(StartAt::Offset(offset)) }
    }
}

impl Engine {
    /// A consumer to be set up.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder { engine: self.clone(), settings: ConsumerSettings::default(), assign: Vec::new() }
    }
}

impl LocalEngine {
    /// A consumer on this thread, to be set up.
    pub fn consumer(&self) -> ConsumerBuilder<LocalEngine> {
        ConsumerBuilder { engine: self.clone(), settings: ConsumerSettings::default(), assign: Vec::new() }
    }
}

/// Settings and partitions of a consumer that is being made. `E` is the engine it is made for: [`Engine`] gives a
/// [`Consumer`], [`LocalEngine`] a [`super::LocalConsumer`].
#[derive(Debug)]
#[must_use]
pub struct ConsumerBuilder<E = Engine> {
    pub(super) engine: E,
    pub(super) settings: ConsumerSettings,
    pub(super) assign: Vec<Assign>,
}

impl<E> ConsumerBuilder<E> {
    /// All settings at once.
    pub fn settings(mut self, settings: ConsumerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Partitions to read: `("topic", 0)`, `("topic", 0, StartAt::Earliest)`, `("topic", 0, 4711)`. No group call is made.
    pub fn assign<A: Into<Assign>>(mut self, partitions: impl IntoIterator<Item = A>) -> Self {
        self.assign.extend(partitions.into_iter().map(Into::into));
        self
    }

    /// `auto.offset.reset`: where to start when nothing else says so, and after an offset that does not exist.
    pub fn auto_offset_reset(mut self, policy: AutoOffsetReset) -> Self {
        self.settings.auto_offset_reset = policy;
        self
    }

    /// `isolation.level`.
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.settings.isolation_level = level;
        self
    }

    /// `fetch.max.wait.ms`: how long a broker may wait for data.
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.settings.fetch_max_wait = wait;
        self
    }

    /// `fetch.max.bytes`: of one answer.
    pub fn fetch_max_bytes(mut self, bytes: i32) -> Self {
        self.settings.fetch_max_bytes = bytes;
        self
    }

    /// `max.partition.fetch.bytes`: of one partition in one answer, to begin with.
    pub fn max_partition_fetch_bytes(mut self, bytes: i32) -> Self {
        self.settings.max_partition_fetch_bytes = bytes;
        self.settings.max_partition_fetch_bytes_grown = self.settings.max_partition_fetch_bytes_grown.max(bytes);
        self
    }
}

impl ConsumerBuilder {
    /// The consumer. Fetching begins at once.
    pub fn build(self) -> Result<Consumer, ConsumeError> {
        self.settings.validate().map_err(EngineError::from)?;
        let shared = self.engine.shared();
        if !shared.is_open() {
            return Err(shared.gone().into());
        }
        let wiring = Wiring {
            consumer: shared.next_consumer()?,
            shards: shared.shards().to_vec(),
            ownership: Arc::clone(shared.ownership()),
            snapshots: shared.snapshots(),
            medium: shared.medium().clone(),
            clock: shared.clock().clone(),
            engine: self.engine.clone(),
        };
        let mut consumer = Consumer::new(wiring, Arc::new(self.settings));
        consumer.assign(self.assign)?;
        Ok(consumer)
    }
}
