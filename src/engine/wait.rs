//! How a blocking call waits: by parking its thread, or by running the shard that lives on it.

use std::task::{Context, Poll};

use super::assemble::EngineClock;
use crate::base::sync::park_until;
use crate::base::time::Time;

/// A way to wait for a pollable core.
pub trait Waiting {
    /// Polls until ready, or until `deadline`: `None`, after one more poll.
    fn wait_until<T>(
        &self,
        deadline: Time,
        clock: &EngineClock,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T>;
}

/// Parks the thread: for engines with threads of their own.
#[derive(Clone, Copy, Debug)]
pub struct Parked;

impl Waiting for Parked {
    fn wait_until<T>(
        &self,
        deadline: Time,
        clock: &EngineClock,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        park_until(deadline, clock, poll)
    }
}
