//! Waiting for one thing: a latch that many may wait for ([`Event`]) and an answer for one ([`promise`]). Each can be
//! awaited under any executor, polled, or waited for by a parked thread.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Arc, Mutex, Waiters, lock, park_until, store_load_barrier};
use crate::base::time::{Clock, Time};

/// Happens once and stays so. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Event(Arc<EventInner>);

#[derive(Debug, Default)]
struct EventInner {
    happened: AtomicBool,
    waiters: Waiters,
}

impl Event {
    /// Not yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// It happened; all who wait are woken.
    pub fn set(&self) {
        self.0.happened.swap(true, Ordering::SeqCst);
        store_load_barrier();
        self.0.waiters.wake_all();
    }

    /// Whether it happened.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.happened.load(Ordering::SeqCst)
    }

    /// Pollable core of waiting.
    pub fn poll_set(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_set() {
            self.0.waiters.register(context.waker());
            if !self.is_set() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Parks until it happened (true) or `deadline` (false).
    pub fn wait(&self, deadline: Time, clock: &impl Clock) -> bool {
        park_until(deadline, clock, |context| self.poll_set(context)).is_some()
    }
}

/// The other side was dropped without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answering side is gone")
    }
}

impl std::error::Error for Lost {}

/// Makes a place for one answer.
pub fn promise<T>() -> (Promise<T>, Answer<T>) {
    let slot = Arc::new(Mutex::new(Slot { value: None, ended: false, waker: None }));
    (Promise(Some(slot.clone())), Answer(slot))
}

struct Slot<T> {
    value: Option<T>,
    ended: bool,
    waker: Option<Waker>,
}

/// The answering side. Dropping it unanswered gives [`Lost`] to the other.
pub struct Promise<T>(Option<Arc<Mutex<Slot<T>>>>);

impl<T> Promise<T> {
    /// Answers. Never blocks for long and does not care whether anyone still waits.
    pub fn fulfil(mut self, value: T) {
        self.end(Some(value));
    }

    fn end(&mut self, value: Option<T>) {
        let Some(slot) = self.0.take() else { return };
        let waker = {
            let mut slot = lock(&slot);
            slot.value = value;
            slot.ended = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        // A waker that panics must not make it two panics.
        let _ = catch_unwind(AssertUnwindSafe(|| self.end(None)));
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Promise")
    }
}

/// The waiting side: a future, pollable, or parked on. Cancel-safe: dropping it loses only the answer.
pub struct Answer<T>(Arc<Mutex<Slot<T>>>);

impl<T> Answer<T> {
    /// Pollable core of waiting.
    pub fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Lost>> {
        let mut slot = lock(&self.0);
        if slot.ended {
            return Poll::Ready(slot.value.take().ok_or(Lost));
        }
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            slot.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// The answer if it is there.
    pub fn try_take(&mut self) -> Option<Result<T, Lost>> {
        let mut slot = lock(&self.0);
        slot.ended.then(|| slot.value.take().ok_or(Lost))
    }

    /// Parks until the answer is there, or `deadline`: `None`, and it may be waited for again.
    pub fn wait(&mut self, deadline: Time, clock: &impl Clock) -> Option<Result<T, Lost>> {
        park_until(deadline, clock, |context| self.poll_answer(context))
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Lost>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_answer(context)
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::time::SystemClock;
    use std::time::Duration;

    #[test]
    fn an_event_wakes_everyone_and_stays() {
        let event = Event::new();
        assert!(!event.wait(SystemClock.now().mono, &SystemClock));
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let event = event.clone();
                std::thread::spawn(move || event.wait(SystemClock.now().mono + Duration::from_secs(20), &SystemClock))
            })
            .collect();
        event.set();
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        assert!(event.is_set());
    }

    #[test]
    fn a_promise_is_answered_or_lost() {
        let (promise_a, mut answer) = promise();
        assert_eq!(answer.try_take(), None);
        let thread = std::thread::spawn(move || answer.wait(Time::NEVER, &SystemClock));
        promise_a.fulfil(5);
        assert_eq!(thread.join().unwrap(), Some(Ok(5)));
        let (promise_b, mut answer) = promise::<u8>();
        drop(promise_b);
        assert_eq!(answer.wait(Time::NEVER, &SystemClock), Some(Err(Lost)));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::thread;
    use crate::base::time::SystemClock;

    #[test]
    fn loom_an_event_is_never_missed() {
        loom::model(|| {
            let event = Event::new();
            let other = event.clone();
            let setter = thread::spawn(move || other.set());
            assert!(event.wait(Time::NEVER, &SystemClock));
            setter.join().unwrap();
        });
    }
}
