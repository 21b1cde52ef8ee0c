//! The outcome of one record that was submitted: awaited under any executor, or waited for by a parked thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::sync::park_until;
use crate::base::time::{Clock, Time};
use crate::engine::EngineClock;
use crate::mesh::Answer;

use super::inbox::Inbox;
use super::{DeliveryError, DeliveryResult, Reason};

/// The outcome of a submitted record, when it comes. Dropping it loses only the answer: the record goes its way.
#[derive(Debug)]
pub struct Sent {
    pub(super) inbox: Arc<Inbox>,
    pub(super) answer: Answer<DeliveryResult>,
    pub(super) clock: EngineClock,
}

impl Sent {
    /// Parks until the record has its outcome, at most `delivery.timeout.ms` and a little.
    pub fn wait(mut self) -> DeliveryResult {
        let outcome = park_until(Time::NEVER, &self.clock.clone(), |context| self.poll_outcome(context));
        outcome.unwrap_or(Err(DeliveryError::Unknown(Reason::Closed)))
    }

    /// Parks at most `timeout`; `None` when it has no outcome by then. It may be waited for again.
    pub fn wait_for(&mut self, timeout: Duration) -> Option<DeliveryResult> {
        let deadline = self.clock.now().mono + timeout;
        park_until(deadline, &self.clock.clone(), |context| self.poll_outcome(context))
    }

    /// Pollable core.
    pub fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<DeliveryResult> {
        let Self { inbox, answer, .. } = self;
        // An answering side that is gone without an answer is an engine that failed.
        inbox
            .poll_until(context, |context| answer.poll_answer(context))
            .map(|answer| answer.unwrap_or_else(|_| Err(DeliveryError::Unknown(inbox.end_reason()))))
    }
}

impl Future for Sent {
    type Output = DeliveryResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<DeliveryResult> {
        self.poll_outcome(context)
    }
}
