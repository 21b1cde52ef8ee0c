//! What a backend is made with.

use std::time::Duration;

use super::DRAIN_TIME_MAX;

/// Sizes of one backend. The defaults are what was measured best on one shard with 1 to 24 connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSettings {
    /// Entries of the submission queue (io_uring), 1 to 32,768; a power of two.
    pub submission_entries: u32,
    /// Entries of the completion queue (io_uring), at least `2 * buffer_count` and one per operation in flight.
    pub completion_entries: u32,
    /// Receive buffers in the ring (io_uring), 2 to 32,768; a power of two. Few, so that they stay in the cache.
    pub buffer_count: u16,
    /// Size of one receive buffer in bytes, 4 KiB to 1 MiB.
    pub buffer_bytes: u32,
    /// Bytes received in one turn before the turn ends, so that one socket cannot keep its shard from its other work.
    /// With io_uring the buffers themselves are a second limit.
    pub turn_bytes_max: usize,
    /// How long dropping the backend may wait for the kernel to give its memory back before it is lost on purpose.
    pub drain_time_max: Duration,
}

impl Default for RingSettings {
    fn default() -> Self {
        Self {
            submission_entries: 128,
            completion_entries: 1024,
            buffer_count: 8,
            buffer_bytes: 64 << 10,
            turn_bytes_max: 512 << 10,
            drain_time_max: DRAIN_TIME_MAX,
        }
    }
}
