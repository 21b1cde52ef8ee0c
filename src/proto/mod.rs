//! State machines of the protocol: no I/O, no clock.
//!
//! ```text
//!   connection: one broker connection   cluster: what is known of the cluster   produce, fetch: what shards do
//! ```
//! Each takes what happened and the time as arguments and is drained for what to do next. Never: opens a socket, reads a
//! clock, knows a ring or a thread.

pub mod cluster;
pub mod connection;
pub mod fetch;
pub mod produce;
