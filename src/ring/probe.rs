//! Which backend this machine allows. Asked once per engine, before any shard starts, so that all shards run the same.
//!
//! Container runtimes' default seccomp profiles refuse io_uring, and a small `RLIMIT_MEMLOCK` leaves no room for its rings:
//! both are common, so the answer always carries its reason.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Resource, getrlimit};

use super::epoll::EpollBackend;
use super::uring::{Shape, UringBackend};
use super::{Backend, BackendKind, Events, RingSettings, SendChain, Sock, Wait};
use crate::base::chunk::{ChunkPool, Piece};

/// How long the trial of io_uring may take; what works takes less than a millisecond.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(2);

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
    /// What was asked for.
    pub choice: BackendChoice,
    /// The implementation to use.
    pub kind: BackendKind,
    /// Why this one: one line for the log and `ottla doctor`.
    pub reason: String,
    /// How io_uring would run here, or why it cannot.
    pub io_uring: Result<String, String>,
    /// How epoll would run here, or why it cannot.
    pub epoll: Result<String, String>,
}

/// [`probe_for`] one ring.
pub fn probe(choice: BackendChoice) -> Probe {
    probe_for(choice, 1, &RingSettings::default())
}

/// Tries each backend as `rings` threads would make it and chooses. A forced choice is kept even when it cannot work:
/// making the backend then fails with the system's error.
///
/// The io_uring trial makes all rings at once, because locked memory is counted per user, and sends, receives and closes
/// on one of them, because a kernel may know the rings and not the operations.
pub fn probe_for(choice: BackendChoice, rings: usize, settings: &RingSettings) -> Probe {
    let epoll = match EpollBackend::new(settings) {
        Ok(_) => Ok("edge-triggered".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let io_uring = match try_rings(rings, settings) {
        Ok(shape) => Ok(shape.to_string()),
        Err(error) => Err(why_refused(&error)),
    };
    let (kind, reason) = match (choice, &io_uring) {
        (BackendChoice::Epoll, _) => (BackendKind::Epoll, "chosen by io.backend".to_owned()),
        (BackendChoice::IoUring, Ok(shape)) => (BackendKind::IoUring, format!("chosen by io.backend: {shape}")),
        (BackendChoice::IoUring, Err(refused)) => {
            (BackendKind::IoUring, format!("chosen by io.backend, but it cannot run here: {refused}"))
        }
        (BackendChoice::Auto, Ok(shape)) => (BackendKind::IoUring, shape.clone()),
        (BackendChoice::Auto, Err(refused)) => (BackendKind::Epoll, format!("io_uring cannot run here: {refused}")),
    };
    Probe { choice, kind, reason, io_uring, epoll }
}

fn try_rings(rings: usize, settings: &RingSettings) -> io::Result<Shape> {
    let mut made = Vec::new();
    for _ in 0..rings.max(1) {
        made.push(UringBackend::new(settings)?);
    }
    // The last one made: it may have had to be smaller.
    let Some(last) = made.last_mut() else { return Err(io::ErrorKind::InvalidInput.into()) };
    try_operations(last)?;
    Ok(last.shape())
}

/// Sends to a peer, hears it, closes: every operation that a connection needs but connecting.
fn try_operations(backend: &mut UringBackend) -> io::Result<()> {
    const WORD: &[u8] = b"there and back";
    let (ours, peer) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut trial = Trial { peer, heard: Vec::new(), closed: None };
    let sock = backend.adopt(ours);
    let mut chunk = ChunkPool::new(0).take(WORD.len());
    chunk.put(WORD);
    let chain = SendChain { pieces: vec![Piece::whole(chunk)] };
    let end = backend.now().mono + TRIAL_TIME_MAX;
    if backend.send(sock, chain).is_err() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    while trial.heard != WORD && trial.closed.is_none() && backend.now().mono < end {
        backend.turn(Wait::Until(end), &mut trial)?;
    }
    let heard = trial.heard == WORD;
    backend.close(sock);
    while trial.closed.is_none() && backend.now().mono < end {
        backend.turn(Wait::Until(end), &mut trial)?;
    }
    match trial.closed {
        Some(io::ErrorKind::ConnectionAborted) if heard => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "a trial of multishot receive and sendmsg did not work")),
    }
}

/// Says back what it is sent.
struct Trial {
    peer: OwnedFd,
    heard: Vec<u8>,
    closed: Option<io::ErrorKind>,
}

impl Events for Trial {
    fn connected(&mut self, _: Sock) {}

    fn data(&mut self, _: Sock, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
    }

    fn sent(&mut self, _: Sock, chain: SendChain) {
        let mut bytes = vec![0; chain.pieces.iter().map(Piece::len).sum()];
        if rustix::io::read(&self.peer, &mut bytes).is_ok() {
            let _ = rustix::io::write(&self.peer, &bytes);
        }
    }

    fn closed(&mut self, _: Sock, why: io::Error, _: Option<SendChain>, _: usize) {
        self.closed = Some(why.kind());
    }
}

/// The error in words that say what to do.
pub(super) fn why_refused(error: &io::Error) -> String {
    let cause = match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
            Ok(value) if value.trim() != "0" => format!("the sysctl kernel.io_uring_disabled is {}", value.trim()),
            _ => "a security profile refuses it (seccomp, as in most containers)".to_owned(),
        },
        Some(Errno::NOSYS) => "the kernel lacks it, or a seccomp profile hides it".to_owned(),
        Some(Errno::NOMEM) => match getrlimit(Resource::Memlock).current {
            Some(bytes) => format!("not enough memory may be locked: RLIMIT_MEMLOCK is {} KiB", bytes >> 10),
            None => "out of memory".to_owned(),
        },
        Some(Errno::INVAL) => "the kernel is too old".to_owned(),
        _ => return error.to_string(),
    };
    format!("{cause} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_choice_is_kept_and_both_are_described() {
        let epoll = probe(BackendChoice::Epoll);
        assert_eq!((epoll.kind, epoll.reason.as_str()), (BackendKind::Epoll, "chosen by io.backend"));
        let ring = probe(BackendChoice::IoUring);
        assert_eq!(ring.kind, BackendKind::IoUring);
        assert!(ring.reason.starts_with("chosen by io.backend"), "{}", ring.reason);
        assert_eq!((&ring.io_uring, &ring.epoll), (&epoll.io_uring, &epoll.epoll));
        assert!(epoll.epoll.is_ok());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (code, words) in
            [(Errno::NOSYS, "lacks it"), (Errno::NOMEM, "MEMLOCK"), (Errno::INVAL, "too old"), (Errno::MFILE, "files")]
        {
            let text = why_refused(&code.into());
            assert!(text.contains(words) || text.contains("out of memory"), "{text}");
        }
    }
}
