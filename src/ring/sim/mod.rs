//! The simulator's backend: virtual network and virtual time behind the same trait as io_uring and epoll.
//!
//! ```text
//!   testkit::sim::World ── turns ──► parties: shards on a SimBackend, brokers on testkit::net, applications
//!        └── Schedule: clock, seed, timetable, trace ◄── Network: listeners, pipes, faults
//! ```
//! Nothing here waits: a turn with nothing to do notes until when it would have slept, and the world calls the party again
//! when that time has come or something woke it. Never: reads a real clock, draws from anything but the seed.
//!
//! Invariants: same seed, same parties → same run (trace hash); bytes of one connection arrive in order, or not at all.

mod backend;
pub mod net;
pub mod schedule;

pub use backend::{SimBackend, SimWaker};
