//! Application threads in a simulated world: real ones, of which one runs at a time, while the world waits for it.
//!
//! ```text
//!   world's thread: turn ── go ──► application thread: runs to its next wait ── waits until.. / is over ──► world
//! ```
//! So that blocking calls (`flush(d)`, `close(d)`, a `send` that waits for memory) are tested as they are, in virtual time.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Waker;
use std::thread::{Builder, JoinHandle};

use super::sim::Actor;
use crate::base::sync::{Stage, enter_stage};
use crate::base::time::{Now, Time};

/// What a thread says at the end of its turn.
enum Said {
    /// It waits, until then at the latest.
    Waits(Time),
    /// It has ended, perhaps with a panic.
    Over(Option<Box<dyn Any + Send>>),
}

/// The world's side.
pub(super) struct ThreadActor {
    /// Gone when the thread is over.
    go: Option<Sender<()>>,
    said: Receiver<Said>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's side.
struct OnStage {
    waker: Waker,
    go: Receiver<()>,
    say: Sender<Said>,
}

/// What a thread unwinds with when its world is gone.
struct WorldIsGone;

impl ThreadActor {
    /// A thread that begins with its first turn. `waker` gives it turns.
    pub fn start(waker: Waker, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (go, heard) = channel();
        let (say, said) = channel();
        let thread = Builder::new().name("ottla-sim-app".to_owned()).spawn(move || {
            if heard.recv().is_err() {
                return;
            }
            enter_stage(Rc::new(OnStage { waker, go: heard, say: say.clone() }));
            let end = catch_unwind(AssertUnwindSafe(work)).err();
            // Nobody hears it when the world is gone.
            let _ = say.send(Said::Over(end));
        })?;
        Ok(Self { go: Some(go), said, thread: Some(thread) })
    }

    fn end(&mut self) {
        self.go = None;
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been said.
            let _ = thread.join();
        }
    }
}

impl Actor for ThreadActor {
    fn turn(&mut self, _: Now) -> Option<Time> {
        self.go.as_ref()?.send(()).ok()?;
        match self.said.recv() {
            Ok(Said::Waits(until)) => (until != Time::NEVER).then_some(until),
            Ok(Said::Over(None)) | Err(_) => {
                self.end();
                None
            }
            Ok(Said::Over(Some(panic))) => {
                self.end();
                resume_unwind(panic)
            }
        }
    }
}

impl Drop for ThreadActor {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for ThreadActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ThreadActor")
    }
}

impl Stage for OnStage {
    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn sleep(&self, until: Time) {
        let gone = self.say.send(Said::Waits(until)).is_err() || self.go.recv().is_err();
        if gone && !std::thread::panicking() {
            resume_unwind(Box::new(WorldIsGone));
        }
    }
}
