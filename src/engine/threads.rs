//! The threads of an engine: each makes its backend, runs its loop, and reports its end whatever happens.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use super::assemble::{ControlSeat, ShardSeat};
use super::cores::pin;
use crate::base::sync::Waiters;
use crate::base::time::{SystemClock, Time};
use crate::batch::Reason;
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

/// How many of an engine's threads have not ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Alive(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    threads: AtomicUsize,
    waiters: Waiters,
}

/// One of them.
struct Life(Alive);

impl Alive {
    fn enter(&self) -> Life {
        self.0.threads.fetch_add(1, Ordering::SeqCst);
        Life(self.clone())
    }

    /// Pollable core of waiting for the last one's end.
    pub fn poll_none(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.threads.load(Ordering::SeqCst) > 0 {
            self.0.waiters.register(context.waker());
            if self.0.threads.load(Ordering::SeqCst) > 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.0.threads.fetch_sub(1, Ordering::SeqCst);
        self.0.0.waiters.wake_all_quietly();
    }
}

/// Makes a party and runs it to its end; a panic in it goes no further. `fail` learns of a failure before the party is
/// dropped, so that whoever is woken by its end finds the reason.
fn guarded<P>(
    make: impl FnOnce() -> Result<P, String>,
    run: impl FnOnce(&mut P),
    fail: impl FnOnce(&str),
) -> Result<(), String> {
    let panicked = |panic: Box<dyn Any + Send>| format!("panicked: {}", words(&*panic));
    let made = catch_unwind(AssertUnwindSafe(make)).map_err(panicked).and_then(|made| made);
    let (failure, party) = match made {
        Ok(mut party) => (catch_unwind(AssertUnwindSafe(|| run(&mut party))).map_err(panicked), Some(party)),
        Err(why) => (Err(why), None),
    };
    if let Err(why) = &failure {
        fail(why);
    }
    // What a party leaves in a panic may panic again; it has said enough.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(party)));
    failure
}

pub(super) fn start_control(
    seat: ControlSeat,
    slot: WakeSlot<AnyWaker>,
    probe: Probe,
    alive: &Alive,
) -> io::Result<JoinHandle<()>> {
    let life = alive.enter();
    thread::Builder::new().name("ottla-control".to_owned()).spawn(move || {
        let _life = life;
        let (state, shards) = seat.last_words();
        let make = || {
            let backend = AnyBackend::new(&probe, &control_ring()).map_err(|error| error.to_string())?;
            slot.fill(backend.waker());
            seat.start(backend, Resolver::new(slot.ring())).map_err(|error| error.to_string())
        };
        let ended = guarded(
            make,
            |control| while control.turn() == control::Turn::Running {},
            |why| state.fail(&format!("control: {why}")),
        );
        if ended.is_err() {
            for shard in &shards {
                // A shard that is gone needs no stopping.
                let _ = shard.send(ShardCommand::Stop { deadline: Time::ZERO, why: Reason::EngineFailed });
            }
        }
        state.end();
    })
}

pub(super) fn start_shard(
    seat: ShardSeat,
    slot: WakeSlot<AnyWaker>,
    probe: Probe,
    cpu: Option<usize>,
    alive: &Alive,
) -> io::Result<JoinHandle<()>> {
    let index = seat.shard;
    let life = alive.enter();
    thread::Builder::new().name(format!("ottla-shard-{}", index.0)).spawn(move || {
        let _life = life;
        if let Some(cpu) = cpu {
            pin(cpu);
        }
        let (state, events) = seat.last_words();
        let make = || {
            let backend = AnyBackend::new(&probe, &RingSettings::default()).map_err(|error| error.to_string())?;
            slot.fill(backend.waker());
            Ok(seat.start(backend, SystemClock))
        };
        let ended = guarded(
            make,
            |shard| while shard.turn() == shard::Turn::Running {},
            |why| state.fail(&format!("shard {}: {why}", index.0)),
        );
        if let Err(why) = ended {
            // Control ends the others; if it is gone, it has done so already.
            let _ = events.send(ShardEvent::Failed { shard: index, why });
        }
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
