//! How users start an engine.

use std::time::Duration;

use super::assemble::{Assembly, EngineClock, Seat, assemble};
use super::cores::CpuPlan;
use super::local::{Driver, LocalBell, LocalEngine};
use super::threads::{WakeSlot, start_control, start_shard};
use super::{Engine, EngineError};
use crate::base::gate::Medium;
use crate::base::sync::lock;
use crate::base::time::SystemClock;
use crate::config::{BackendSetting, Cores, EngineSettings};
use crate::ring::{AnyBackend, AnyWaker, Backend, BackendChoice, BackendKind, Probe, RingSettings, probe_for};

/// Settings of an engine, by name. [`EngineBuilder::settings`] takes them all at once (from a file, say).
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    settings: EngineSettings,
}

impl EngineBuilder {
    /// Kafka's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// All settings at once, in place of what was set before.
    pub fn settings(mut self, settings: EngineSettings) -> Self {
        self.settings = settings;
        self
    }

    /// `bootstrap.servers`: `host:port`, tried in order; one string may hold several, separated by commas.
    pub fn bootstrap<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        let servers = servers.into_iter().map(Into::into);
        self.settings.bootstrap_servers = servers
            .flat_map(|list: String| list.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>())
            .collect();
        self
    }

    /// How many shards run, and on which CPUs.
    pub fn cores(mut self, cores: Cores) -> Self {
        self.settings.cores = cores;
        self
    }

    /// `io.backend`.
    pub fn backend(mut self, backend: BackendSetting) -> Self {
        self.settings.backend = backend;
        self
    }

    /// `client.id`.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.settings.client_id = id.into();
        self
    }

    /// `request.timeout.ms`.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// `buffer.memory`, in bytes.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.settings.buffer_memory = bytes;
        self
    }

    /// `fetch.memory`, in bytes.
    pub fn fetch_memory(mut self, bytes: usize) -> Self {
        self.settings.fetch_memory = bytes;
        self
    }

    /// Checks the settings, finds out which backend works, and starts the threads. Nothing is connected yet: a cluster that
    /// cannot be reached shows when it is needed.
    ///
    /// # Errors
    /// A setting that cannot be, no backend that works here, a thread that cannot be started.
    pub fn build(self) -> Result<Engine, EngineError> {
        self.settings.validate()?;
        let plan = CpuPlan::new(&self.settings.cores)?;
        let slots: Vec<WakeSlot<AnyWaker>> = plan.shards.iter().map(|_| WakeSlot::default()).collect();
        let control_slot = WakeSlot::default();
        let (assembly, probe) = self.assemble(&plan, &control_slot, &slots)?;
        let engine = assembly.engine;
        // Kept as they start: when a later one cannot, dropping the engine stops the earlier ones.
        let alive = &engine.shared().alive;
        let mut threads = lock(&engine.shared().threads);
        for ((seat, slot), cpu) in assembly.shards.into_iter().zip(slots).zip(&plan.shards) {
            threads.push(start_shard(seat, slot, probe.clone(), *cpu, alive).map_err(EngineError::Thread)?);
        }
        threads.push(start_control(assembly.control, control_slot, probe, alive).map_err(EngineError::Thread)?);
        drop(threads);
        Ok(engine)
    }

    /// As [`EngineBuilder::build`], with the one shard inside this thread: see [`LocalEngine`]. `cores` is not looked at.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn build_local(self) -> Result<LocalEngine, EngineError> {
        self.settings.validate()?;
        let plan = CpuPlan::new(&Cores::count(1))?;
        let (slot, control_slot) = (WakeSlot::default(), WakeSlot::default());
        let (assembly, probe) = self.assemble(&plan, &control_slot, std::slice::from_ref(&slot))?;
        let Some(seat) = assembly.shards.into_iter().next() else {
            return Err(EngineError::Backend("no shard".to_owned()));
        };
        let refused = |error| EngineError::Backend(format!("{}: {error}", probe.kind.name()));
        let backend = AnyBackend::new(&probe, &RingSettings::default()).map_err(refused)?;
        slot.fill(backend.waker());
        let bell = LocalBell::new(backend.waker());
        let last_words = seat.last_words();
        let engine = assembly.engine;
        let local = LocalEngine::new(Driver::new(seat.start(backend, SystemClock), bell, last_words, engine.clone()));
        let control = start_control(assembly.control, control_slot, probe, &engine.shared().alive)
            .map_err(EngineError::Thread)?;
        lock(&engine.shared().threads).push(control);
        Ok(local)
    }

    /// Finds out which backend works and wires everything together.
    fn assemble(
        self,
        plan: &CpuPlan,
        control: &WakeSlot<AnyWaker>,
        shards: &[WakeSlot<AnyWaker>],
    ) -> Result<(Assembly, Probe), EngineError> {
        let choice = match self.settings.backend {
            BackendSetting::Auto => BackendChoice::Auto,
            BackendSetting::IoUring => BackendChoice::IoUring,
            BackendSetting::Epoll => BackendChoice::Epoll,
        };
        let probe = probe_for(choice, shards.len() + 1, &RingSettings::default());
        let works = match probe.kind {
            BackendKind::IoUring => &probe.io_uring,
            BackendKind::Epoll | BackendKind::Sim => &probe.epoll,
        };
        if let Err(refused) = works {
            return Err(EngineError::Backend(format!("{}: {refused}", probe.kind.name())));
        }
        let seat = |slot: &WakeSlot<AnyWaker>| Seat { medium: Medium::threads(), ring: slot.ring() };
        let assembly = assemble(
            self.settings,
            EngineClock::system(),
            seat(control),
            shards.iter().map(seat).collect(),
            Medium::threads(),
            (probe.kind.name(), probe.reason.clone()),
            plan.is_single_cpu(),
        )?;
        if choice == BackendChoice::Auto && probe.kind == BackendKind::Epoll {
            tracing::warn!(
                why = %probe.reason,
                "running on epoll instead of io_uring; allow io_uring, or set io.backend=epoll to expect this"
            );
        }
        tracing::info!(
            backend = probe.kind.name(),
            reason = %probe.reason,
            shards = shards.len(),
            cpus = plan.usable,
            "engine starts"
        );
        Ok((assembly, probe))
    }
}
