//! Tools for tests: an embedded broker, a simulated network, clock and world, a fault proxy.
//!
//! ```text
//!   sim::World ── seeded turns ──► actors (shards, brokers, applications)     net: SimListener, SimStream
//!   clock: SimClock                broker/ over TCP and over net              proxy: faults on real sockets
//! ```
//! Never built from the client's own state machines: a broker made of them would be wrong together with them.

pub mod broker;
pub mod clock;
pub mod net;
pub mod proxy;
pub mod sim;
mod thread;
