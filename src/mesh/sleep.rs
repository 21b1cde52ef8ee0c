//! Sleeping and waking across threads: a published deadline, and a bell that rings only a sleeper who would wake too late.
//!
//! ```text
//!   sleeper: publish until ─ heavy barrier ─ look at every queue ─ nothing? sleep    (found something: stay awake)
//!   pusher:  push          ─ light barrier ─ until later than my deadline? ring
//! ```
//! Whichever barrier comes first, one of the two sees the other: no wake is lost. The sleeper's costs microseconds, so that
//! the pusher's, once per record, costs nothing ([`crate::base::sync::light_barrier`]). A wake costs the sender about 7 us, so it
//! happens only when the sleeper's own deadline is too late for what was pushed, and once per sleep.

use std::fmt;

use crate::base::gate::Medium;
use crate::base::sync::Arc;
use crate::base::sync::Padded;
use crate::base::sync::atomic::{AtomicU64, Ordering, fence};
use crate::base::sync::{heavy_barrier, light_barrier, prepare_barriers};
use crate::base::time::Time;

struct Bell {
    /// 0: awake. Otherwise asleep until this time, `u64::MAX` forever.
    until: Padded<AtomicU64>,
    rings: AtomicU64,
    // Called only when a sleeper is really woken, where a system call dwarfs the indirect call.
    ring: Box<dyn Fn() + Send + Sync>,
}

/// Makes the pair. `ring` ends the thread's wait (for a shard: its backend's waker).
pub fn sleeper(medium: &Medium, ring: impl Fn() + Send + Sync + 'static) -> (Sleeper, Doorbell) {
    prepare_barriers();
    let until = Padded(AtomicU64::new(0));
    let bell = Arc::new(Bell { until, rings: AtomicU64::new(0), ring: Box::new(ring) });
    (Sleeper { bell: bell.clone(), simulated: medium.is_simulated() }, Doorbell { bell })
}

/// The waiting side; one per thread.
pub struct Sleeper {
    bell: Arc<Bell>,
    simulated: bool,
}

impl Sleeper {
    /// The turn begins: nobody needs to ring.
    pub fn turn_begins(&mut self) {
        // A read-modify-write, once per turn: all changes of the word then form one chain, which loom needs to order a
        // ringer's swap against the next `prepare`.
        self.bell.until.swap(0, Ordering::AcqRel);
    }

    /// Publishes that this thread sleeps until `until`. The caller now looks at every queue once more, and then either
    /// waits (and calls [`Sleeper::waited`] after) or stays awake ([`Sleeper::turn_begins`]). With [`Time::ZERO`] nothing is
    /// published and nothing paid: the caller only polls.
    pub fn prepare(&mut self, until: Time) {
        if until == Time::ZERO {
            return;
        }
        self.bell.until.swap(until.0.max(1), Ordering::SeqCst);
        if self.simulated {
            fence(Ordering::SeqCst);
        } else {
            heavy_barrier();
        }
    }

    /// The wait returned. In the simulator a backend's wait returns at once while the thread still counts as asleep, until
    /// its next turn begins; with threads it is awake from here on.
    pub fn waited(&mut self) {
        if !self.simulated {
            self.turn_begins();
        }
    }

    /// A doorbell of this sleeper.
    pub fn doorbell(&self) -> Doorbell {
        Doorbell { bell: self.bell.clone() }
    }
}

/// The pushing side. Cheap to clone.
#[derive(Clone)]
pub struct Doorbell {
    bell: Arc<Bell>,
}

impl Doorbell {
    /// After a push: until when the reader sleeps, or `None` while it is awake and will look by itself. One load, ordered
    /// after what was pushed before.
    #[inline]
    pub fn asleep_until(&self) -> Option<Time> {
        light_barrier();
        match self.bell.until.load(Ordering::SeqCst) {
            0 => None,
            until => Some(Time(until)),
        }
    }

    /// After a push that must be handled by `deadline`: wakes the reader if it would sleep longer.
    #[inline]
    pub fn notify(&self, deadline: Time) {
        if self.asleep_until().is_some_and(|until| until > deadline) {
            self.wake_sleeper();
        }
    }

    /// After a push that must be handled now (chunk full, flush, somebody waits).
    #[inline]
    pub fn notify_now(&self) {
        self.notify(Time::ZERO);
    }

    /// Rings once per sleep, whoever comes first.
    #[cold]
    fn wake_sleeper(&self) {
        if self.bell.until.swap(0, Ordering::SeqCst) != 0 {
            self.bell.rings.fetch_add(1, Ordering::Relaxed);
            (self.bell.ring)();
        }
    }

    /// Rings whether or not the reader sleeps: for shutdown and failures.
    pub fn force(&self) {
        self.bell.until.swap(0, Ordering::SeqCst);
        self.bell.rings.fetch_add(1, Ordering::Relaxed);
        (self.bell.ring)();
    }

    /// How often the sleeper was really rung.
    pub fn rings(&self) -> u64 {
        self.bell.rings.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.doorbell().fmt(f)
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Doorbell(until {}, rings {})", self.bell.until.load(Ordering::Relaxed), self.rings())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn counted(medium: &Medium) -> (Sleeper, Doorbell, std::sync::Arc<AtomicU32>) {
        let rung = std::sync::Arc::new(AtomicU32::new(0));
        let count = rung.clone();
        let (sleeper, doorbell) = sleeper(medium, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (sleeper, doorbell, rung)
    }

    #[test]
    fn only_a_sleeper_that_would_be_late_is_rung_and_once() {
        let (mut sleeper, doorbell, rung) = counted(&Medium::threads());
        doorbell.notify_now();
        assert_eq!(rung.load(Ordering::Relaxed), 0, "awake");
        sleeper.prepare(Time(50));
        doorbell.notify(Time(50));
        assert_eq!(rung.load(Ordering::Relaxed), 0, "wakes in time by itself");
        doorbell.notify(Time(49));
        doorbell.notify_now();
        assert_eq!(rung.load(Ordering::Relaxed), 1, "once per sleep");
        sleeper.waited();
        sleeper.prepare(Time::NEVER);
        doorbell.notify(Time(1 << 60));
        assert_eq!(rung.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn r13_in_the_simulator_a_returned_wait_still_sleeps() {
        let weather = crate::base::gate::tests::Drizzle::new(1);
        let (mut sleeper, doorbell, rung) = counted(&Medium::simulated(weather));
        sleeper.prepare(Time::NEVER);
        sleeper.waited();
        doorbell.notify_now();
        assert_eq!(rung.load(Ordering::Relaxed), 1);
        sleeper.turn_begins();
        assert_eq!(doorbell.asleep_until(), None);
    }

    /// Promise 14: a push makes a pending wait end. The reader sleeps for real whenever it finds nothing.
    #[test]
    fn r05_a_million_pushes_lose_no_wake() {
        use crate::base::rng::Rng;
        use std::sync::{Arc, Condvar, Mutex};
        let bell = Arc::new((Mutex::new(false), Condvar::new()));
        let ring = bell.clone();
        let (mut sleeper, doorbell) = sleeper(&Medium::threads(), move || {
            *ring.0.lock().unwrap() = true;
            ring.1.notify_one();
        });
        let pushed = Arc::new(AtomicU64::new(0));
        let answered = Arc::new(AtomicU64::new(0));
        let (count, answer) = (pushed.clone(), answered.clone());
        let rounds = 1_000_000u64;
        let pusher = std::thread::spawn(move || {
            let mut rng = Rng::new(99);
            for round in 1..=rounds {
                count.store(round, Ordering::Release);
                doorbell.notify_now();
                // Now and then let the reader fall asleep first.
                if rng.below(64) == 0 {
                    while answer.load(Ordering::Acquire) < round {
                        std::thread::yield_now();
                    }
                }
            }
        });
        let mut sleeps = 0u64;
        loop {
            sleeper.turn_begins();
            let seen = pushed.load(Ordering::Acquire);
            answered.store(seen, Ordering::Release);
            if seen == rounds {
                break;
            }
            sleeper.prepare(Time::NEVER);
            if pushed.load(Ordering::Acquire) == seen {
                sleeps += 1;
                let mut rung = bell.0.lock().unwrap();
                while !*rung {
                    let (guard, late) = bell.1.wait_timeout(rung, std::time::Duration::from_secs(20)).unwrap();
                    assert!(!late.timed_out(), "lost wake after {seen} of {rounds}");
                    rung = guard;
                }
                *rung = false;
            }
            sleeper.waited();
        }
        pusher.join().unwrap();
        assert!(sleeps > 100, "the reader slept {sleeps} times");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::stream::{StreamSettings, stream};
    use crate::base::sync::thread;
    use crate::base::sync::{Condvar, Mutex, lock};

    #[test]
    fn loom_a_sleeping_reader_is_rung_for_every_commit() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let bell = Arc::new((Mutex::new(false), Condvar::new()));
            let ring = bell.clone();
            let (mut sleeper, doorbell) = sleeper(&Medium::threads(), move || {
                *lock(&ring.0) = true;
                ring.1.notify_one();
            });
            let (mut writer, mut reader) = stream(StreamSettings::default());
            let pusher = thread::spawn(move || {
                for _ in 0..2 {
                    writer.reserve(8).unwrap();
                    writer.commit(8);
                    doorbell.notify_now();
                }
            });
            let mut got = 0;
            while got < 16 {
                sleeper.turn_begins();
                let len = reader.readable_len();
                if len > 0 {
                    reader.consume(len);
                    got += len;
                    continue;
                }
                sleeper.prepare(Time::NEVER);
                if reader.readable_len() == 0 {
                    let mut rung = lock(&bell.0);
                    while !*rung {
                        rung = bell.1.wait(rung).unwrap();
                    }
                    *rung = false;
                }
                sleeper.waited();
            }
            pusher.join().unwrap();
        });
    }
}
