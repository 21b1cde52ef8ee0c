//! From settings to a running engine, and its end.

use std::ops::Deref;
use std::time::Duration;

use super::failure::Failure;
use crate::config::Layers;
use crate::engine::{Engine, LocalEngine};

/// How long a command waits for its engine to stop.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// An engine that is closed when the command is over.
pub struct Session {
    engine: Engine,
    local: Option<LocalEngine>,
}

impl Session {
    /// The engine inside this thread, if that was asked for.
    pub fn local(&self) -> Option<&LocalEngine> {
        self.local.as_ref()
    }
}

impl Deref for Session {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What mattered was flushed by the command; an engine that cannot stop in time ends with the process.
        let _ = match &self.local {
            Some(local) => local.close(CLOSE_TIME),
            None => self.engine.close(CLOSE_TIME),
        };
    }
}

/// Starts an engine.
pub fn engine(layers: &Layers) -> Result<Session, Failure> {
    let engine = Engine::builder().settings(layers.engine()?).build().map_err(Failure::failed)?;
    Ok(Session { engine, local: None })
}

/// Starts an engine whose shard runs in this thread.
pub fn engine_local(layers: &Layers) -> Result<Session, Failure> {
    let local = LocalEngine::builder().settings(layers.engine()?).build_local().map_err(Failure::failed)?;
    Ok(Session { engine: local.engine().clone(), local: Some(local) })
}
