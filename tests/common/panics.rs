//! A user's code that panics inside the engine.

use ottla::mesh::command::Partitioner;

/// Panics where it is asked: on the shard while a topic is unknown, else in the caller's thread.
#[derive(Debug)]
pub struct Panics;

impl Partitioner for Panics {
    fn partition(&self, _: &str, _: Option<&[u8]>, _: Option<&[u8]>, _: i32) -> i32 {
        panic!("a user's partitioner that panics");
    }
}
