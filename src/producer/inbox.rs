//! What comes back to a handle: outcomes for those who asked, flush marks for those who flush.
//!
//! ```text
//!  shard ══ Completion ══► reader ─► drain ─┬─ promise fulfilled ──────────► Sent (wait, await)
//!                                           ├─ callback made ready ────────► run by poll / flush, one thread at a time
//!                                           └─ flush mark ─────────────────► flush returns
//! ```
//! Its lock is taken when an outcome was asked for and when somebody waits, never by a plain send, and never while a
//! callback runs. Invariant: every tracked record gets exactly one outcome, in order per partition.

use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Context, Poll};
use std::thread::ThreadId;

use crate::base::hash::Map;
use crate::base::ids::Tp;
use crate::base::sync::{Mutex, Waiters, lock};
use crate::batch::{Outcome, Reason};
use crate::control::EngineState;
use crate::mesh::command::Completion;
use crate::mesh::{CompletionReader, Doorbell, Promise};

use super::{Delivered, DeliveryError, DeliveryResult};

/// Called once with a record's outcome. Its memory is used again for the next callback of its type, so that asking for
/// outcomes allocates nothing in the steady state.
pub(super) struct Callback(Box<dyn Place>);

trait Place: Send {
    fn call(&mut self, result: DeliveryResult);
    fn kind(&self) -> TypeId;
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<F: FnOnce(DeliveryResult) + Send + 'static> Place for Option<F> {
    fn call(&mut self, result: DeliveryResult) {
        if let Some(callback) = self.take() {
            callback(result);
        }
    }
    fn kind(&self) -> TypeId {
        TypeId::of::<Self>()
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// Places of callbacks that ran, by type.
#[derive(Default)]
struct Spares(Map<TypeId, Vec<Box<dyn Place>>>);

/// Places kept per type of callback.
const SPARES_MAX: usize = 64 << 10;

impl Spares {
    fn place<F: FnOnce(DeliveryResult) + Send + 'static>(&mut self, callback: F) -> Callback {
        let spare = self.0.get_mut(&TypeId::of::<Option<F>>()).and_then(Vec::pop);
        if let Some(mut place) = spare
            && let Some(slot) = place.as_any().downcast_mut::<Option<F>>()
        {
            *slot = Some(callback);
            return Callback(place);
        }
        Callback(Box::new(Some(callback)))
    }

    fn keep(&mut self, Callback(place): Callback) {
        let spares = self.0.entry((*place).kind()).or_default();
        if spares.len() < SPARES_MAX {
            spares.push(place);
        }
    }
}

/// Who wants to know.
pub(super) enum Waiter {
    Callback(Callback),
    Promise(Promise<DeliveryResult>),
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Callback(_) => "Callback",
            Self::Promise(_) => "Promise",
        })
    }
}

/// A record whose outcome was asked for.
struct Tracked {
    ticket: u64,
    timestamp_ms: i64,
    waiter: Waiter,
}

/// One shard's way back.
struct Port {
    reader: CompletionReader<Completion>,
    /// The shard that writes there; none in tests of this module.
    bell: Option<Doorbell>,
    tracked: Map<Tp, VecDeque<Tracked>>,
    /// The last flush mark that came back.
    flushed: u64,
    failed: u64,
    unknown: u64,
    ended: bool,
}

type Ready = VecDeque<(Callback, DeliveryResult)>;
type Answers = Vec<(Promise<DeliveryResult>, DeliveryResult)>;

#[derive(Default)]
struct State {
    ports: Vec<Option<Port>>,
    ready: Ready,
    /// Promises to be kept once the lock is free; empty between two drains.
    answers: Answers,
    spares: Spares,
    /// Who runs callbacks now.
    runner: Option<ThreadId>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Inbox {
    /// How the engine does, to say why a shard is gone.
    engine: Option<EngineState>,
    state: Mutex<State>,
    /// Those who wait for something that another thread's drain may bring.
    waiters: Waiters,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

/// Records of one handle that did not make it, since its first one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Losses {
    /// Surely not written.
    pub failed: u64,
    /// Perhaps written.
    pub unknown: u64,
}

impl Inbox {
    /// Nothing on its way.
    pub fn new(engine: EngineState) -> Self {
        Self { engine: Some(engine), ..Self::default() }
    }

    /// Why a shard that is gone left records without an outcome.
    pub fn end_reason(&self) -> Reason {
        self.engine.as_ref().map_or(Reason::Closed, EngineState::end_reason)
    }

    /// Adds a shard's way back.
    pub fn open(&self, shard: usize, reader: CompletionReader<Completion>, bell: Option<Doorbell>) {
        let mut state = lock(&self.state);
        while state.ports.len() <= shard {
            state.ports.push(None);
        }
        let port = Port { reader, bell, tracked: Map::default(), flushed: 0, failed: 0, unknown: 0, ended: false };
        state.ports[shard] = Some(port);
    }

    /// A user's callback, ready to be tracked.
    pub fn callback(&self, callback: impl FnOnce(DeliveryResult) + Send + 'static) -> Waiter {
        Waiter::Callback(lock(&self.state).spares.place(callback))
    }

    /// Remembers who wants a record's outcome; before the record is committed, so that no outcome comes first.
    pub fn track(&self, shard: usize, space: Tp, ticket: u64, timestamp_ms: i64, waiter: Waiter) {
        let mut state = lock(&self.state);
        if let Some(Some(port)) = state.ports.get_mut(shard) {
            port.tracked.entry(space).or_default().push_back(Tracked { ticket, timestamp_ms, waiter });
        }
    }

    /// Takes what came back. Promises are fulfilled here; callbacks become ready.
    fn drain(&self) {
        let mut state = lock(&self.state);
        let State { ports, ready, answers, .. } = &mut *state;
        let mut any = false;
        for port in ports.iter_mut().flatten() {
            while let Some(completion) = port.reader.pop() {
                any = true;
                port.take(completion, ready, answers);
            }
            if port.reader.made_room()
                && let Some(bell) = &port.bell
            {
                bell.notify_now();
            }
            if !port.ended && port.reader.is_ended() {
                any = true;
                port.end(self.end_reason(), ready, answers);
            }
        }
        let mut told = std::mem::take(answers);
        drop(state);
        if !told.is_empty() {
            // Wakers are users' code: no lock is held, and one that panics keeps no other from its answer.
            let mut panic = None;
            for (promise, result) in told.drain(..) {
                if let Err(caught) = catch_unwind(AssertUnwindSafe(|| promise.fulfil(result))) {
                    panic.get_or_insert(caught);
                }
            }
            // Its memory serves the next ones.
            let mut state = lock(&self.state);
            if state.answers.capacity() == 0 {
                state.answers = told;
            }
            drop(state);
            if let Some(panic) = panic {
                self.waiters.wake_all_quietly();
                resume_unwind(panic);
            }
        }
        if any {
            self.waiters.wake_all();
        }
    }

    fn register(&self, context: &Context<'_>) {
        self.waiters.register(context.waker());
        for port in lock(&self.state).ports.iter().flatten() {
            port.reader.register(context);
        }
    }

    /// Runs ready callbacks here, unless another thread is at it. Says how many it ran.
    pub fn run_callbacks(&self) -> usize {
        self.drain();
        let here = std::thread::current().id();
        let mut state = lock(&self.state);
        if state.runner.is_some() || state.ready.is_empty() {
            return 0;
        }
        state.runner = Some(here);
        /// Gives the role back, also when a callback panics.
        struct Role<'a>(&'a Inbox);
        impl Drop for Role<'_> {
            fn drop(&mut self) {
                lock(&self.0.state).runner = None;
                self.0.waiters.wake_all();
            }
        }
        let role = Role(self);
        let mut ran = 0;
        while let Some((mut callback, result)) = state.ready.pop_front() {
            drop(state);
            callback.0.call(result);
            ran += 1;
            state = lock(&self.state);
            state.spares.keep(callback);
        }
        drop(state);
        drop(role);
        ran
    }

    /// Pollable core of flushing: ready when the marks of all ports have come back and no callback of before is left.
    pub fn poll_flushed(&self, context: &mut Context<'_>, marks: &[(usize, u64)]) -> Poll<Losses> {
        for registered in [false, true] {
            self.run_callbacks();
            let state = lock(&self.state);
            let back = marks.iter().all(|(shard, mark)| match state.ports.get(*shard) {
                Some(Some(port)) => port.ended || port.flushed >= *mark,
                _ => true,
            });
            // From inside a callback the rest of the callbacks cannot be waited for.
            let inside = state.runner == Some(std::thread::current().id());
            if back && (inside || (state.ready.is_empty() && state.runner.is_none())) {
                return Poll::Ready(losses(&state));
            }
            drop(state);
            if !registered {
                self.register(context);
            }
        }
        Poll::Pending
    }

    /// Pollable core of waiting for one record: drains until `poll` is ready.
    pub fn poll_until<T>(
        &self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        for registered in [false, true] {
            self.drain();
            if let Poll::Ready(value) = poll(context) {
                return Poll::Ready(value);
            }
            if !registered {
                self.register(context);
            }
        }
        Poll::Pending
    }

    /// Records that did not make it, as far as the last flush marks told.
    pub fn losses(&self) -> Losses {
        self.drain();
        losses(&lock(&self.state))
    }
}

fn losses(state: &State) -> Losses {
    let mut sum = Losses::default();
    for port in state.ports.iter().flatten() {
        sum.failed += port.failed;
        sum.unknown += port.unknown;
    }
    sum
}

impl Port {
    fn take(&mut self, completion: Completion, ready: &mut Ready, answers: &mut Answers) {
        match completion {
            Completion::Flushed { id, failed, unknown } => {
                (self.flushed, self.failed, self.unknown) = (self.flushed.max(id), failed, unknown);
            }
            Completion::Records { space, partition, first, count, outcome } => {
                let Some(tracked) = self.tracked.get_mut(&space) else { return };
                // As a rule at the front; records sent before their topic was known may end in another order.
                let start = tracked.partition_point(|record| record.ticket < first);
                let end = tracked.partition_point(|record| record.ticket < first + u64::from(count));
                for record in tracked.drain(start..end) {
                    let step = record.ticket - first;
                    tell(record, partition, step, outcome, ready, answers);
                }
            }
        }
    }

    /// The shard is gone: what it did not answer is unknown.
    fn end(&mut self, why: Reason, ready: &mut Ready, answers: &mut Answers) {
        self.ended = true;
        let mut left: Vec<(Tp, VecDeque<Tracked>)> = self.tracked.drain().collect();
        left.sort_by_key(|(space, _)| *space);
        for (space, tracked) in left {
            for record in tracked {
                self.unknown += 1;
                tell(record, space.partition, 0, Outcome::Unknown(why), ready, answers);
            }
        }
    }
}

fn tell(record: Tracked, partition: i32, step: u64, outcome: Outcome, ready: &mut Ready, answers: &mut Answers) {
    let result = match outcome {
        Outcome::Delivered { offset, timestamp_ms } => Ok(Delivered {
            partition,
            offset: (offset >= 0).then(|| offset.saturating_add(i64::try_from(step).unwrap_or(i64::MAX))),
            timestamp_ms: if timestamp_ms >= 0 { timestamp_ms } else { record.timestamp_ms },
        }),
        Outcome::Failed(reason) => Err(DeliveryError::Failed(reason)),
        Outcome::Unknown(reason) => Err(DeliveryError::Unknown(reason)),
    };
    match record.waiter {
        Waiter::Callback(callback) => ready.push_back((callback, result)),
        Waiter::Promise(promise) => answers.push((promise, result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::gate::Medium;
    use crate::base::ids::TopicIx;
    use crate::mesh::{CompletionWriter, completions, promise};
    use std::sync::{Arc, Mutex as StdMutex};

    const SPACE: Tp = Tp { topic: TopicIx(0), partition: 3 };

    fn inbox() -> (Arc<Inbox>, CompletionWriter<Completion>) {
        let inbox = Arc::new(Inbox::default());
        let (writer, reader) = completions(8, &Medium::threads());
        inbox.open(0, reader, None);
        (inbox, writer)
    }

    fn delivered(first: u64, count: u32, offset: i64) -> Completion {
        let outcome = Outcome::Delivered { offset, timestamp_ms: -1 };
        Completion::Records { space: SPACE, partition: 3, first, count, outcome }
    }

    #[test]
    fn r05_a_run_tells_each_tracked_record_its_own_offset() {
        let (inbox, mut writer) = inbox();
        let heard = Arc::new(StdMutex::new(Vec::new()));
        for ticket in [1, 4, 9] {
            let heard = Arc::clone(&heard);
            let waiter = inbox.callback(move |result| heard.lock().unwrap().push((ticket, result)));
            inbox.track(0, SPACE, ticket, 77, waiter);
        }
        writer.push(delivered(0, 5, 100));
        assert_eq!(inbox.run_callbacks(), 2);
        let failed = Outcome::Failed(Reason::Closed);
        writer.push(Completion::Records { space: SPACE, partition: 3, first: 5, count: 5, outcome: failed });
        assert_eq!(inbox.run_callbacks(), 1);
        let at = |offset| Ok(Delivered { partition: 3, offset: Some(offset), timestamp_ms: 77 });
        let heard = heard.lock().unwrap();
        assert_eq!(*heard, [(1, at(101)), (4, at(104)), (9, Err(DeliveryError::Failed(Reason::Closed)))]);
    }

    #[test]
    fn r05_records_of_a_shard_that_is_gone_end_unknown_once() {
        let (inbox, mut writer) = inbox();
        let (first, mut one) = promise();
        let (second, mut two) = promise();
        inbox.track(0, SPACE, 0, 0, Waiter::Promise(first));
        inbox.track(0, SPACE, 1, 0, Waiter::Promise(second));
        writer.push(delivered(0, 1, 7));
        drop(writer);
        inbox.run_callbacks();
        assert_eq!(one.try_take(), Some(Ok(Ok(Delivered { partition: 3, offset: Some(7), timestamp_ms: 0 }))));
        assert_eq!(two.try_take(), Some(Ok(Err(DeliveryError::Unknown(Reason::Closed)))));
    }

    #[test]
    fn a_callback_may_poll_and_a_panicking_one_gives_the_role_back() {
        let (inbox, mut writer) = inbox();
        let inner = Arc::clone(&inbox);
        let waiter = inbox.callback(move |_| {
            assert_eq!(inner.run_callbacks(), 0);
            panic!("user code");
        });
        inbox.track(0, SPACE, 0, 0, waiter);
        let ran = Arc::new(StdMutex::new(false));
        let flag = Arc::clone(&ran);
        let waiter = inbox.callback(move |_| *flag.lock().unwrap() = true);
        inbox.track(0, SPACE, 1, 0, waiter);
        writer.push(delivered(0, 2, 0));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inbox.run_callbacks()));
        assert!(caught.is_err());
        assert_eq!(inbox.run_callbacks(), 1);
        assert!(*ran.lock().unwrap());
    }

    #[test]
    fn flush_waits_for_every_port_and_reports_losses() {
        let (inbox, mut writer) = inbox();
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert_eq!(inbox.poll_flushed(&mut context, &[(0, 2)]), Poll::Pending);
        writer.push(Completion::Flushed { id: 1, failed: 0, unknown: 0 });
        assert_eq!(inbox.poll_flushed(&mut context, &[(0, 2)]), Poll::Pending);
        writer.push(Completion::Flushed { id: 2, failed: 3, unknown: 1 });
        assert_eq!(inbox.poll_flushed(&mut context, &[(0, 2)]), Poll::Ready(Losses { failed: 3, unknown: 1 }));
    }
}
