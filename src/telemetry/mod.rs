//! Counters that threads keep for themselves and anyone may read.
//!
//! ```text
//!   shard (adds in plain fields, stores once per turn) ──► ShardCounters (relaxed atomics) ──► Engine::stats
//! ```
//! Never: locks, allocates after start, or orders anything: figures of one moment may be some turns apart.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a shard counted since its start, at one moment. Sums over shards with [`ShardStats::add`].
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct ShardStats {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl ShardStats {
            /// Adds another shard's figures.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// What was counted since `before`, of the same shards.
            #[must_use]
            pub fn since(&self, before: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(before.$name),)+ }
            }
        }

        /// A shard's published counters. One writer, any number of readers.
        #[derive(Default, Debug)]
        pub struct ShardCounters {
            $($name: AtomicU64,)+
        }

        impl ShardCounters {
            /// Publishes: once per turn, by the shard alone.
            pub fn publish(&self, stats: &ShardStats) {
                $(self.$name.store(stats.$name, Ordering::Relaxed);)+
            }

            /// Reads what was last published.
            pub fn read(&self) -> ShardStats {
                ShardStats { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Records taken from lanes.
    records,
    /// Batches sealed.
    batches,
    /// Produce requests made.
    produce_requests,
    /// Batches sent again.
    retries,
    /// Bytes of batches handed out for sending, headers and retries included.
    wire_bytes,
    /// Bytes of records before compression in sealed batches.
    raw_bytes,
    /// Records delivered.
    delivered,
    /// Records failed, surely not written.
    failed,
    /// Records that ended unknown.
    unknown,
    /// Fetch requests made.
    fetch_requests,
    /// Bytes of record sets fetched.
    fetched_bytes,
    /// Connections opened.
    connects,
    /// Connections that broke or could not be opened.
    link_failures,
    /// Turns of the loop.
    turns,
    /// System calls.
    syscalls,
    /// Wakes by other threads.
    wakes,
    /// Bytes sent on sockets.
    sent_bytes,
    /// Bytes received on sockets.
    received_bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_read_summed_and_subtracted() {
        let counters = ShardCounters::default();
        counters.publish(&ShardStats { records: 7, turns: 3, ..Default::default() });
        let mut sum = counters.read();
        sum.add(&ShardStats { records: 1, ..Default::default() });
        assert_eq!((sum.records, sum.turns), (8, 3));
        assert_eq!(sum.since(&counters.read()).records, 1);
    }
}
