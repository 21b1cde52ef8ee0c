//! The wiring: who holds which end of what. Threads and simulations start from the same seats.

use std::fmt;
use std::sync::Arc;

use super::Engine;
use super::Shared;
use crate::base::gate::Medium;
use crate::base::ids::ShardIx;
use crate::base::rng::Rng;
use crate::base::time::{Clock, Now, SystemClock};
use crate::config::{EngineSettings, SettingError};
use crate::control::{Control, ControlParts, ControlRequest, EngineState};
use crate::mesh::command::{ShardCommand, ShardEvent};
use crate::mesh::{
    Budget, Doorbell, FetchMemory, MailboxReceiver, MailboxSender, OwnershipTable, Sleeper, SnapshotCell,
    SnapshotReader, Troubles, mailbox, sleeper,
};
use crate::net::{HostPort, Resolver};
use crate::proto::cluster::{Snapshot, TopicNames};
use crate::ring::Backend;
use crate::shard::{Shard, ShardParts};
use crate::telemetry::ShardCounters;

/// The clock of an engine's handles: the system's, or a simulation's.
#[derive(Clone)]
pub struct EngineClock(Arc<dyn Clock + Send + Sync>);

impl EngineClock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(SystemClock))
    }

    /// Another one.
    pub fn new(clock: impl Clock + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }
}

impl Clock for EngineClock {
    fn now(&self) -> Now {
        self.0.now()
    }
}

impl fmt::Debug for EngineClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineClock")
    }
}

/// Where a shard or control will sit: how others reach it, and how its wait is ended.
pub struct Seat {
    /// What lies between others and this party.
    pub medium: Medium,
    /// Ends its wait.
    pub ring: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({:?})", self.medium)
    }
}

/// What control needs but its backend. May move to its thread.
#[derive(Debug)]
pub struct ControlSeat {
    sleeper: Sleeper,
    requests: MailboxReceiver<ControlRequest>,
    events: MailboxReceiver<ShardEvent>,
    shards: Vec<MailboxSender<ShardCommand>>,
    cell: SnapshotCell<Snapshot>,
    topics: Arc<TopicNames>,
    state: EngineState,
    troubles: Troubles,
    settings: EngineSettings,
    seed: u64,
}

impl ControlSeat {
    /// Control, on the thread that made `backend`. `resolver`'s notice must end the backend's wait.
    pub fn start<B: Backend>(self, backend: B, resolver: Resolver) -> Result<Control<B>, SettingError> {
        Control::new(ControlParts {
            backend,
            resolver,
            sleeper: self.sleeper,
            requests: self.requests,
            events: self.events,
            shards: self.shards,
            cell: self.cell,
            topics: self.topics,
            state: self.state,
            troubles: self.troubles,
            settings: self.settings,
            seed: self.seed,
        })
    }

    /// What a thread needs to report its end when control itself cannot.
    pub(super) fn last_words(&self) -> (EngineState, Vec<MailboxSender<ShardCommand>>) {
        (self.state.clone(), self.shards.clone())
    }
}

/// What a shard needs but its backend and clock. May move to its thread.
#[derive(Debug)]
pub struct ShardSeat {
    /// Its number.
    pub shard: ShardIx,
    sleeper: Sleeper,
    commands: MailboxReceiver<ShardCommand>,
    events: MailboxSender<ShardEvent>,
    snapshots: SnapshotReader<Snapshot>,
    topics: Arc<TopicNames>,
    budget: Budget,
    fetch_memory: FetchMemory,
    state: EngineState,
    troubles: Troubles,
    settings: EngineSettings,
    counters: Arc<ShardCounters>,
    seed: u64,
}

impl ShardSeat {
    /// The shard, on the thread that made `backend`; `clock` is the backend's.
    pub fn start<B: Backend, C: Clock>(self, backend: B, clock: C) -> Shard<B, C> {
        let mut shard = Shard::new(ShardParts {
            backend,
            clock,
            shard: self.shard,
            sleeper: self.sleeper,
            commands: self.commands,
            events: self.events,
            snapshots: self.snapshots,
            topics: self.topics,
            budget: self.budget,
            fetch_memory: self.fetch_memory,
            troubles: self.troubles,
            settings: self.settings,
            seed: self.seed,
        });
        shard.publish_to(self.counters);
        shard
    }

    /// What a thread needs to report its end when the shard itself cannot.
    pub(super) fn last_words(&self) -> (EngineState, MailboxSender<ShardEvent>) {
        (self.state.clone(), self.events.clone())
    }
}

/// An engine whose threads have not been started.
#[derive(Debug)]
pub struct Assembly {
    /// What users hold.
    pub engine: Engine,
    /// Control's seat.
    pub control: ControlSeat,
    /// The shards' seats.
    pub shards: Vec<ShardSeat>,
}

/// Wires an engine together. `medium` lies between the engine and its handles; `backend` is the name of what will run it,
/// and why.
pub fn assemble(
    settings: EngineSettings,
    clock: EngineClock,
    control: Seat,
    shards: Vec<Seat>,
    medium: Medium,
    backend: (&'static str, String),
    single_cpu: bool,
) -> Result<Assembly, SettingError> {
    settings.validate()?;
    for server in &settings.bootstrap_servers {
        if let Err(error) = server.trim().parse::<HostPort>() {
            return Err(SettingError { key: "bootstrap.servers", reason: format!("{server:?}: {error}") });
        }
    }
    let mut rng = Rng::new(settings.seed.unwrap_or_else(|| seed_of(clock.now())));
    let topics = Arc::new(TopicNames::new());
    let cell = SnapshotCell::new(Snapshot::empty());
    let budget = Budget::new(settings.buffer_memory as u64);
    let state = EngineState::new(budget.clone());
    let troubles = Troubles::default();
    let fetch_memory = FetchMemory::new(settings.fetch_memory);
    let (control_sleeper, control_bell) = sleeper(&control.medium, control.ring);
    let (to_control, requests) = mailbox(control_bell.clone(), &control.medium);
    let (events_to_control, events) = mailbox(control_bell, &control.medium);
    let count = u16::try_from(shards.len()).unwrap_or(u16::MAX);
    let mut to_shards = Vec::with_capacity(shards.len());
    let mut seats = Vec::with_capacity(shards.len());
    let mut counters = Vec::with_capacity(shards.len());
    for (index, seat) in (0..count).zip(shards) {
        let (sleeper, bell): (Sleeper, Doorbell) = sleeper(&seat.medium, seat.ring);
        let (to_shard, commands) = mailbox(bell, &seat.medium);
        to_shards.push(to_shard);
        let published = Arc::new(ShardCounters::default());
        counters.push(Arc::clone(&published));
        seats.push(ShardSeat {
            shard: ShardIx(index),
            sleeper,
            commands,
            events: events_to_control.clone(),
            snapshots: cell.reader(&seat.medium),
            topics: Arc::clone(&topics),
            budget: budget.clone(),
            fetch_memory: fetch_memory.clone(),
            state: state.clone(),
            troubles: troubles.clone(),
            settings: settings.clone(),
            counters: published,
            seed: rng.next_u64(),
        });
    }
    let control = ControlSeat {
        sleeper: control_sleeper,
        requests,
        events,
        shards: to_shards.clone(),
        cell: cell.clone(),
        topics: Arc::clone(&topics),
        state: state.clone(),
        troubles: troubles.clone(),
        settings: settings.clone(),
        seed: rng.next_u64(),
    };
    let shared = Shared {
        settings,
        topics,
        cell,
        control: to_control,
        shards: to_shards,
        state,
        troubles,
        budget,
        fetch_memory,
        ownership: Arc::new(OwnershipTable::new(count.max(1))),
        clock,
        medium,
        backend,
        single_cpu,
        counters,
        threads: Default::default(),
        alive: Default::default(),
        closing: Default::default(),
        producers: Default::default(),
        consumers: Default::default(),
        lanes: Default::default(),
    };
    Ok(Assembly { engine: Engine { shared: Arc::new(shared) }, control, shards: seats })
}

/// Different for engines of one process and for processes of one machine.
fn seed_of(now: Now) -> u64 {
    let process = u64::from(std::process::id()) << 32;
    Rng::new(now.mono.0 ^ process ^ now.wall_ms.unsigned_abs()).next_u64()
}
