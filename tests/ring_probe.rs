//! Where io_uring is refused, epoll runs instead and says why. Each case lives in a process of its own, because seccomp
//! filters and limits cannot be taken back: the test starts this same binary again with the case's name.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod ring_support;

use std::io::{Read, Write};
use std::process::Command;
use std::thread;

use ottla::base::chunk::ChunkPool;
use ottla::ring::{AnyBackend, Backend, BackendChoice, BackendKind, RingSettings, probe, probe_for};
use ring_support::{Log, chain_of, connect, listen, run_until};

/// Names the case in the child.
const CASE: &str = "OTTLA_RING_PROBE_CASE";

fn in_child(name: &str, case: fn()) {
    if std::env::var(CASE).is_ok_and(|wanted| wanted == name) {
        case();
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{name} failed in its child: {said}{}", String::from_utf8_lossy(&child.stdout));
    // A name that no test has would pass without having run anything.
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{name} did not run in its child");
}

/// A request and its answer over whatever backend the probe gives.
fn round_trip(probe: &ottla::ring::Probe) {
    let (listener, address) = listen("127.0.0.1");
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let (mut backend, mut log) = (AnyBackend::new(probe, &RingSettings::default()).unwrap(), Log::default());
    assert_eq!(backend.kind(), probe.kind);
    let sock = connect(&mut backend, &mut log, address);
    backend.send(sock, chain_of(&ChunkPool::new(0), &[b"hello"])).unwrap();
    run_until(&mut backend, &mut log, |log| log.received(sock) == b"hello");
    peer.join().unwrap();
}

#[test]
fn here_both_backends_are_probed_and_run() {
    for choice in [BackendChoice::Auto, BackendChoice::Epoll, BackendChoice::IoUring] {
        let probe = probe(choice);
        assert!(probe.io_uring.is_ok(), "{:?}", probe.io_uring);
        assert_eq!(probe.kind == BackendKind::Epoll, choice == BackendChoice::Epoll);
        assert!(!probe.reason.is_empty());
        round_trip(&probe);
    }
}

/// Makes the three io_uring system calls (425 to 427 on every architecture) answer `EPERM`, as container profiles do.
fn refuse_io_uring() {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0), // seccomp_data.nr
        jump(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 425, 0, 2),
        jump(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 427, 1, 0),
        statement(libc::BPF_RET | libc::BPF_K, REFUSE),
        statement(libc::BPF_RET | libc::BPF_K, ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls only read their arguments, `program` and its filter live across them.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) == 0
    };
    assert!(installed, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_seccomp_profile_without_io_uring_gives_epoll() {
    in_child("a_seccomp_profile_without_io_uring_gives_epoll", || {
        refuse_io_uring();
        let found = probe(BackendChoice::Auto);
        assert_eq!(found.kind, BackendKind::Epoll);
        assert!(found.reason.contains("io_uring cannot run here") && found.reason.contains("seccomp"), "{found:?}");
        assert!(found.io_uring.is_err() && found.epoll.is_ok());
        round_trip(&found);
        // Forced, it is an error and not a silent change of mind.
        let forced = probe(BackendChoice::IoUring);
        assert_eq!(forced.kind, BackendKind::IoUring);
        let refused = AnyBackend::new(&forced, &RingSettings::default()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    });
}

/// Gives up root for good and lowers the limit of locked memory. `false` when not root: then the limits of the user who
/// runs the tests are what they are.
fn become_nobody(memlock_bytes: u64) -> bool {
    if !rustix::process::getuid().is_root() {
        return false;
    }
    let limit = libc::rlimit { rlim_cur: memlock_bytes, rlim_max: memlock_bytes };
    // A user of our own: locked memory is counted per user, and others may run as `nobody`.
    let user = 61_000 + (std::process::id() % 4_000);
    // SAFETY: plain calls without pointers but `limit`, which lives across the call.
    let done = unsafe {
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) == 0 && libc::setgid(user) == 0 && libc::setuid(user) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
    true
}

#[test]
fn little_locked_memory_gives_smaller_rings() {
    in_child("little_locked_memory_gives_smaller_rings", || {
        if !become_nobody(64 << 10) {
            return;
        }
        // The usual sizes do not fit, the small ones do. (128/1024 fits; what a user may set does not.)
        let settings = RingSettings { submission_entries: 256, completion_entries: 4096, ..RingSettings::default() };
        let found = probe_for(BackendChoice::Auto, 1, &settings);
        assert_eq!(found.kind, BackendKind::IoUring, "{found:?}");
        assert!(found.reason.contains("64/512 entries"), "{}", found.reason);
        round_trip(&found);
        // The trial's memory is counted a moment longer than it lives; making a ring anew waits for it.
        for _ in 0..20 {
            round_trip(&probe(BackendChoice::Auto));
        }
    });
}

/// Between the probe and the threads another program of the same user may have taken the memory.
#[test]
fn a_ring_that_no_longer_fits_gives_epoll_unless_io_uring_was_insisted_on() {
    in_child("a_ring_that_no_longer_fits_gives_epoll_unless_io_uring_was_insisted_on", || {
        if !become_nobody(64 << 10) {
            return;
        }
        let (auto, forced) = (probe(BackendChoice::Auto), probe(BackendChoice::IoUring));
        assert_eq!((auto.kind, forced.kind), (BackendKind::IoUring, BackendKind::IoUring), "{auto:?}");
        let mut hoard = Vec::new();
        let refused = loop {
            match AnyBackend::new(&forced, &RingSettings::default()) {
                Ok(backend) => hoard.push(backend),
                Err(error) => break error,
            }
            assert!(hoard.len() < 100, "the limit does not hold");
        };
        assert_eq!(refused.kind(), std::io::ErrorKind::OutOfMemory);
        assert_eq!(AnyBackend::new(&auto, &RingSettings::default()).unwrap().kind(), BackendKind::Epoll);
    });
}

#[test]
fn too_little_locked_memory_gives_epoll_with_the_limit_named() {
    in_child("too_little_locked_memory_gives_epoll_with_the_limit_named", || {
        if !become_nobody(64 << 10) {
            return;
        }
        // One ring fits, ten do not.
        let found = probe_for(BackendChoice::Auto, 10, &RingSettings::default());
        assert_eq!(found.kind, BackendKind::Epoll);
        assert!(found.reason.contains("RLIMIT_MEMLOCK is 64 KiB"), "{}", found.reason);
        round_trip(&found);
    });
}
