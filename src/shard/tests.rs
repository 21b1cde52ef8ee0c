//! The shard against a broker in memory.
