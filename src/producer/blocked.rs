//! Threads that are blocked in `send` for memory or room, so that a flush covers their records too (d1-22).

use std::collections::BTreeSet;
use std::task::{Context, Poll};

use crate::base::sync::{Mutex, Waiters, lock};

/// The blocked senders of one handle and its clones. Futures are not among them: whoever holds one may never poll it again.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    state: Mutex<State>,
    gone: Waiters,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    inside: BTreeSet<u64>,
}

/// One blocked sender; it is not blocked any more when this is dropped.
pub(super) struct Inside<'a>(&'a Blocked, u64);

impl Blocked {
    /// A sender blocks.
    pub fn enter(&self) -> Inside<'_> {
        let mut state = lock(&self.state);
        let id = state.next;
        state.next += 1;
        state.inside.insert(id);
        Inside(self, id)
    }

    /// A number that stands for those who are blocked now.
    pub fn mark(&self) -> u64 {
        lock(&self.state).next
    }

    /// Pollable core: ready when none of those at [`Blocked::mark`] is blocked any more. Later ones don't matter.
    pub fn poll_gone(&self, context: &Context<'_>, mark: u64) -> Poll<()> {
        for registered in [false, true] {
            if lock(&self.state).inside.first().is_none_or(|id| *id >= mark) {
                return Poll::Ready(());
            }
            if !registered {
                self.gone.register(context.waker());
            }
        }
        Poll::Pending
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).inside.remove(&self.1);
        self.0.gone.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_22_a_flush_waits_for_those_who_were_blocked_before_it_only() {
        let blocked = Blocked::default();
        let context = Context::from_waker(std::task::Waker::noop());
        let (first, second) = (blocked.enter(), blocked.enter());
        let mark = blocked.mark();
        let later = blocked.enter();
        assert!(blocked.poll_gone(&context, mark).is_pending());
        drop(first);
        assert!(blocked.poll_gone(&context, mark).is_pending());
        drop(second);
        assert!(blocked.poll_gone(&context, mark).is_ready());
        drop(later);
    }
}
