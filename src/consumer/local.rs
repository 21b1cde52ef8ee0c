//! A consumer inside a local engine's thread: the same consumer, and where it would park it runs the shard.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use super::batch::Batch;
use super::builder::ConsumerBuilder;
use super::error::ConsumeError;
use super::handle::Consumer;
use crate::engine::{Driver, LocalEngine};

impl ConsumerBuilder<LocalEngine> {
    /// The consumer. Fetching begins with the shard's next turn.
    ///
    /// # Errors
    /// As for a threaded engine's consumer.
    pub fn build(self) -> Result<LocalConsumer, ConsumeError> {
        let Self { engine, settings, assign } = self;
        let consumer = ConsumerBuilder { engine: engine.engine().clone(), settings, assign }.build()?;
        Ok(LocalConsumer { consumer, driver: Rc::clone(engine.driver()) })
    }
}

/// Reads partitions on the thread of a [`LocalEngine`]: `!Send`, and otherwise a [`Consumer`] with all of its methods.
#[derive(Debug)]
pub struct LocalConsumer {
    // Before the driver: the shard hears that it is gone.
    consumer: Consumer,
    driver: Rc<Driver>,
}

impl LocalConsumer {
    /// As [`Consumer::next`], running the shard while it waits.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Batch>, ConsumeError> {
        self.consumer.next_by(&*self.driver, timeout)
    }
}

impl Deref for LocalConsumer {
    type Target = Consumer;
    fn deref(&self) -> &Consumer {
        &self.consumer
    }
}

impl DerefMut for LocalConsumer {
    fn deref_mut(&mut self) -> &mut Consumer {
        &mut self.consumer
    }
}
