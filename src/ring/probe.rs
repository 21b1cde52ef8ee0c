//! Which backend this machine allows. Asked once per engine, before any shard starts, so that all shards run the same.

use super::epoll::EpollBackend;
use super::{BackendKind, RingSettings};

/// What the user asked for (`io.backend`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendChoice {
    /// io_uring where the machine allows it, else epoll.
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// What a look at the machine found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The implementation to use.
    pub kind: BackendKind,
    /// Why this one: one line for the log and `ottla doctor`.
    pub reason: String,
    /// How io_uring would run here, or why it cannot.
    pub io_uring: Result<String, String>,
    /// How epoll would run here, or why it cannot.
    pub epoll: Result<String, String>,
}

/// Tries each backend as a shard would make it and chooses. A forced choice is kept even when it cannot work: making the
/// backend then fails with the system's error.
pub fn probe(choice: BackendChoice) -> Probe {
    let settings = RingSettings::default();
    let epoll = match EpollBackend::new(&settings) {
        Ok(_) => Ok("edge-triggered".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let io_uring: Result<String, String> = Err("not built into this version".to_owned());
    let (kind, reason) = match (choice, &io_uring) {
        (BackendChoice::Epoll, _) => (BackendKind::Epoll, "chosen by io.backend".to_owned()),
        (BackendChoice::IoUring, _) => (BackendKind::IoUring, "chosen by io.backend".to_owned()),
        (BackendChoice::Auto, Ok(shape)) => (BackendKind::IoUring, shape.clone()),
        (BackendChoice::Auto, Err(refused)) => (BackendKind::Epoll, format!("io_uring is refused: {refused}")),
    };
    Probe { kind, reason, io_uring, epoll }
}
