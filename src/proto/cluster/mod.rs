//! What is known of the cluster: brokers, topics, leaders.
//!
//! ```text
//!   Metadata answers ─┐
//!   leader hints ─────┼─► Cluster (control only) ── on change ──► Arc<Snapshot>, immutable, read by everybody
//!   refusals ─────────┘        │
//!                              └─ Refresh: what to ask next and when
//! ```
//! [`Snapshot`] is what shards, producers and consumers look at. [`Cluster`] merges what brokers say into the next one.
//! [`Refresh`] decides when to ask. [`TopicNames`] gives every topic name its number. Never: sends anything, knows which
//! connection an answer came by.
//!
//! Invariants: a leader epoch never goes down, except after [`STALE_MAX`] answers in a row insisted (a restored cluster,
//! d2-44); a partition count never shrinks while the topic id stays (d1-18); an error never erases what was known
//! (d4-83, d1-15); a new topic id replaces everything known of the topic (d1-17).

mod merge;
mod names;
mod refresh;
mod snapshot;

#[cfg(test)]
mod tests;

pub use merge::{Change, Cluster, MetadataError, STALE_MAX};
pub use names::{NameError, TOPICS_MAX, TopicNames};
pub use refresh::{Ask, Refresh, RefreshSettings};
pub use snapshot::{Broker, Partition, Snapshot, Topic, TopicState};
