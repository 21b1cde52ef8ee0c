//! What it takes to wake a thread that sleeps, where we are: how threads of an engine end each other's waits, and nothing
//! else. A shard sleeps in the kernel until its eventfd is written to, a caller sleeps on a futex.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

const ROUNDS: usize = 20_000;

/// One wake each, as half of a round trip by eventfd there and futex back, in nanoseconds.
pub fn round_trips() -> io::Result<Vec<u64>> {
    let (bell, caller, answered) = (eventfd(0, EventfdFlags::CLOEXEC)?, thread::current(), AtomicBool::new(false));
    let mut nanos = Vec::with_capacity(ROUNDS);
    thread::scope(|scope| {
        let shard = scope.spawn(|| -> io::Result<()> {
            for _ in 0..ROUNDS {
                read(&bell, &mut [0; 8])?;
                answered.store(true, Ordering::Release);
                caller.unpark();
            }
            Ok(())
        });
        for _ in 0..ROUNDS {
            let started = Instant::now();
            write(&bell, &1u64.to_ne_bytes())?;
            while !answered.swap(false, Ordering::Acquire) {
                thread::park();
            }
            nanos.push(started.elapsed().as_nanos() as u64 / 2);
        }
        shard.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })?;
    Ok(nanos)
}

#[cfg(test)]
mod tests {
    #[test]
    fn wakes_take_some_time_each() {
        let nanos = super::round_trips().unwrap();
        assert!(nanos.len() == super::ROUNDS && nanos.iter().all(|ns| *ns > 0));
    }
}
