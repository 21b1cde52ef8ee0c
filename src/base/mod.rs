//! Ground floor: identifiers, time, backoff, pooled chunks, threads' primitives, checksums. Knows no Kafka API.
//!
//! ```text
//!  ids   time   rng   backoff   chunk (pool of byte chunks)   sync (std | loom)   gate (sim)   stream (the lane's queue)   crc
//! ```
//! Never: reads a clock on its own (callers pass [`time::Now`]), hashes with a random seed, knows what a broker is.

pub mod backoff;
pub mod chunk;
pub mod edge;
pub mod gate;
pub mod hash;
pub mod ids;
pub mod rng;
pub mod stream;
pub mod sync;
pub mod time;
