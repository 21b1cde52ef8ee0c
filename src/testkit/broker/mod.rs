//! A strict single-process Kafka broker: several virtual nodes, over TCP ([`Broker`]) and over the simulated network.
//! It serves other people's clients; ours is only one of them.
//!
//! ```text
//!  server (TCP, a thread per connection)  │  sim (simulated network, virtual time)
//!        └──────────── frames, now ───────┴────────────┐
//!  core: one request per connection at a time, parked requests, hooks     counters: what tests read
//!    ├─ fault: condition → reaction                                       options: settings, topic configs
//!    └─ api/<name>: one file per API ─► cluster (nodes, topics, leaders, epochs)
//!                                         └ log (segments), producers (sequences), record (strict v2 checks)
//!                                       session (KIP-227), group (classic groups, offsets)
//! ```
//! What it is for: proving clients. So it refuses what Kafka refuses, and counts what it saw.
//! Never: uses the client's state machines (`proto`), its accumulators or its record decoder; re-encodes a batch;
//! forgives a malformed request; panics on bytes.
//!
//! Invariants:
//! * A log holds the bytes that were produced, but for the fields a broker sets (`broker_produce`).
//! * A connection's next request is not looked at before the answer to the last one left (`broker_faults`).
//! * Bytes kept per node stay below the cap; the oldest go first (`broker_produce`).

mod api;
pub mod cluster;
pub mod core;
pub mod counters;
pub mod fault;
pub mod group;
pub mod log;
pub mod options;
pub mod producers;
pub mod record;
mod server;
pub mod session;
pub mod sim;

pub use self::core::{BrokerCore, Call, ConnId, Control, Outcome};
pub use self::counters::{CloseReason, Counters};
pub use self::fault::{Reaction, Rule, RuleId};
pub use self::options::{Options, TopicSpec, Validate};
pub use self::record::Refusal;
pub use self::server::{Broker, Builder, run};
pub use self::sim::{SimBroker, SimDriver};
