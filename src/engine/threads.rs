//! The threads of an engine: each makes its backend, runs its loop, and reports its end whatever happens.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use super::assemble::{ControlSeat, ShardSeat};
use super::cores::pin;
use crate::base::time::{SystemClock, Time};
use crate::control;
use crate::mesh::command::{ShardCommand, ShardEvent};
use crate::net::Resolver;
use crate::ring::{AnyBackend, AnyWaker, Backend, Probe, RingSettings, Wake};
use crate::shard;

/// Where a thread puts its backend's waker once it has one. Before that it does not sleep, so nobody needs to wake it.
#[derive(Debug)]
pub(super) struct WakeSlot<W>(Arc<OnceLock<W>>);

impl<W> Default for WakeSlot<W> {
    fn default() -> Self {
        Self(Arc::new(OnceLock::new()))
    }
}

impl<W: Wake> WakeSlot<W> {
    /// Ends the thread's wait.
    pub fn ring(&self) -> Box<dyn Fn() + Send + Sync> {
        let slot = Arc::clone(&self.0);
        Box::new(move || {
            if let Some(waker) = slot.get() {
                waker.wake();
            }
        })
    }

    pub(super) fn fill(&self, waker: W) {
        // A slot is filled once, by its thread.
        let _ = self.0.set(waker);
    }
}

/// Control speaks to few brokers, rarely and little.
fn control_ring() -> RingSettings {
    RingSettings { submission_entries: 32, completion_entries: 128, buffer_count: 4, ..RingSettings::default() }
}

pub(super) fn start_control(seat: ControlSeat, slot: WakeSlot<AnyWaker>, probe: Probe) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("ottla-control".to_owned()).spawn(move || {
        let (state, shards) = seat.last_words();
        let run = AssertUnwindSafe(|| -> Result<(), String> {
            let backend = AnyBackend::new(&probe, &control_ring()).map_err(|error| error.to_string())?;
            slot.fill(backend.waker());
            let mut control = seat.start(backend, Resolver::new(slot.ring())).map_err(|error| error.to_string())?;
            while control.turn() == control::Turn::Running {}
            Ok(())
        });
        let failure = match catch_unwind(run) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("control cannot start: {error}")),
            Err(panic) => Some(format!("control panicked: {}", words(&*panic))),
        };
        if let Some(why) = failure {
            state.fail(&why);
            for shard in &shards {
                // A shard that is gone needs no stopping.
                let _ = shard.send(ShardCommand::Stop { deadline: Time::ZERO });
            }
        }
        state.ended().set();
    })
}

pub(super) fn start_shard(
    seat: ShardSeat,
    slot: WakeSlot<AnyWaker>,
    probe: Probe,
    cpu: Option<usize>,
) -> io::Result<JoinHandle<()>> {
    let index = seat.shard;
    thread::Builder::new().name(format!("ottla-shard-{}", index.0)).spawn(move || {
        if let Some(cpu) = cpu {
            pin(cpu);
        }
        let (state, events) = seat.last_words();
        let run = AssertUnwindSafe(|| -> Result<(), String> {
            let backend = AnyBackend::new(&probe, &RingSettings::default()).map_err(|error| error.to_string())?;
            slot.fill(backend.waker());
            let mut shard = seat.start(backend, SystemClock);
            while shard.turn() == shard::Turn::Running {}
            Ok(())
        });
        let why = match catch_unwind(run) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(panic) => format!("panicked: {}", words(&*panic)),
        };
        state.fail(&format!("shard {}: {why}", index.0));
        // Control ends the others; if it is gone, it has done so already.
        let _ = events.send(ShardEvent::Failed { shard: index, why });
    })
}

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        _ => "without words",
    }
}
