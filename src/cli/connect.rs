//! From settings to a running engine, and its end.

use std::ops::Deref;
use std::time::Duration;

use super::failure::Failure;
use crate::config::Layers;
use crate::engine::Engine;

/// How long a command waits for its engine to stop.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// An engine that is closed when the command is over.
pub struct Session(Engine);

impl Deref for Session {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.0
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What mattered was flushed by the command; an engine that cannot stop in time ends with the process.
        let _ = self.0.close(CLOSE_TIME);
    }
}

/// Starts an engine.
pub fn engine(layers: &Layers) -> Result<Session, Failure> {
    Ok(Session(Engine::builder().settings(layers.engine()?).build().map_err(Failure::failed)?))
}
