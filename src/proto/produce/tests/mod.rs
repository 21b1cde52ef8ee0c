//! The produce machine against a scripted broker in virtual time. Tests are named after the pitfall or design rule they show.

mod batching;
mod idempotence;
mod leaders;
mod model;
mod outcomes;
mod weather;
