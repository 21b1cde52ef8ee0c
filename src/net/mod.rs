//! Names to addresses, addresses to connections.
//!
//! ```text
//!   "kafka-1:9092" ── HostPort ──► Resolver (helper thread, only for names) ──► addresses ──► Connect (which one, when) ──► ring::open
//!                                      └── deadline passed: typed error, the answer is dropped
//! ```
//! Never: blocks the caller on a lookup, opens a socket itself ([`Connect`] is sans-IO: the owner opens and closes as told),
//! keeps addresses beyond one round of tries (a broker that moved is found again).
//!
//! Invariants: every lookup gets exactly one answer; at most one try to connect is under way per [`Connect`]; between two
//! rounds of tries lies a backoff with jitter.

pub mod connect;
pub mod host;
pub mod resolve;

pub use connect::{Connect, ConnectSettings, Failure, Step};
pub use host::{HostError, HostPort};
pub use resolve::{Resolution, ResolveError, Resolver};
