//! One value published to many threads: metadata, settings. Readers keep an `Arc` and compare a version number; the lock is
//! taken only when the value has changed.

use std::fmt;

use crate::base::gate::{Gate, Medium};
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{self, Mutex, lock};

/// The published value. Control writes, shards and handles read through [`SnapshotReader`].
pub struct SnapshotCell<T> {
    inner: sync::Arc<Inner<T>>,
}

struct Inner<T> {
    version: AtomicU64,
    /// The value with its version.
    value: Mutex<(u64, std::sync::Arc<T>)>,
}

impl<T> SnapshotCell<T> {
    /// Publishes a first value, version 1.
    pub fn new(value: T) -> Self {
        let value = Mutex::new((1, std::sync::Arc::new(value)));
        Self { inner: sync::Arc::new(Inner { version: AtomicU64::new(1), value }) }
    }

    /// Publishes another value and says its version. Whoever needs it soon is told by other means (a command, a doorbell).
    pub fn publish(&self, value: std::sync::Arc<T>) -> u64 {
        let mut slot = lock(&self.inner.value);
        slot.0 += 1;
        slot.1 = value;
        self.inner.version.store(slot.0, Ordering::SeqCst);
        slot.0
    }

    /// The newest value. Takes the lock; on hot paths use a reader.
    pub fn load(&self) -> std::sync::Arc<T> {
        lock(&self.inner.value).1.clone()
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::SeqCst)
    }

    /// A reader in the thread whose medium this is. It starts with the newest value.
    pub fn reader(&self, medium: &Medium) -> SnapshotReader<T> {
        let (version, value) = lock(&self.inner.value).clone();
        let mut gate = medium.gate();
        gate.start_at(version);
        SnapshotReader { inner: self.inner.clone(), version, value, gate }
    }
}

impl<T> Clone for SnapshotCell<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T> fmt::Debug for SnapshotCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotCell(version {})", self.version())
    }
}

/// One thread's view. Never goes back to an older value.
pub struct SnapshotReader<T> {
    inner: sync::Arc<Inner<T>>,
    version: u64,
    value: std::sync::Arc<T>,
    gate: Gate,
}

impl<T> SnapshotReader<T> {
    /// Takes over a newer value if there is one; true when the value changed. One load otherwise.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        let published = self.inner.version.load(Ordering::SeqCst);
        self.gate.pass(published) > self.version && self.take()
    }

    #[cold]
    fn take(&mut self) -> bool {
        // The newest, which may be newer than what the gate let pass: a thread may well see two changes at once.
        (self.version, self.value) = lock(&self.inner.value).clone();
        true
    }

    /// The value as of the last [`SnapshotReader::refresh`].
    #[inline]
    pub fn get(&self) -> &std::sync::Arc<T> {
        &self.value
    }

    /// The version of [`SnapshotReader::get`].
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<T> fmt::Debug for SnapshotReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotReader(version {})", self.version)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::gate::tests::Drizzle;
    use std::sync::Arc;

    #[test]
    fn a_reader_sees_each_change_once() {
        let cell = SnapshotCell::new(1);
        let mut reader = cell.reader(&Medium::threads());
        assert!(!reader.refresh());
        cell.publish(Arc::new(2));
        assert_eq!((**reader.get(), reader.refresh(), **reader.get(), reader.refresh()), (1, true, 2, false));
    }

    #[test]
    fn r13_readers_see_snapshots_at_different_steps_and_never_an_older_one() {
        let (wet, dry) = (Drizzle::new(2), Drizzle::new(3));
        let cell = SnapshotCell::new(0u64);
        let mut readers = [cell.reader(&Medium::simulated(wet.clone())), cell.reader(&Medium::simulated(dry.clone()))];
        let (mut differed, mut seen) = (0, [0, 0]);
        for step in 1..500 {
            wet.advance();
            dry.advance();
            if step % 5 == 0 {
                cell.publish(Arc::new(step));
            }
            for (reader, seen) in readers.iter_mut().zip(&mut seen) {
                reader.refresh();
                assert!(**reader.get() >= *seen);
                *seen = **reader.get();
            }
            differed += u32::from(seen[0] != seen[1]);
        }
        assert!(differed > 50, "{differed}");
    }
}
