//! Jobs round by round, until they are done or late.

use std::sync::Arc;
use std::time::Duration;

use super::calls::Purpose;
use super::job::{CallLost, Job, JobError, Next};
use super::{Control, JOBS_MAX};
use crate::base::backoff::{Backoff, BackoffRange};
use crate::base::time::Time;
use crate::ring::Backend;

/// A job under way.
pub(super) struct JobSlot {
    job: Box<dyn Job>,
    deadline: Time,
    backoff: Backoff,
    phase: Phase,
    /// What stood in the way last.
    trouble: String,
}

enum Phase {
    /// The next round starts at this time.
    Waiting(Time),
    /// So many calls of the round are out, and what the answered ones ask for.
    Running { left: usize, retry: Option<Duration> },
}

impl JobSlot {
    pub fn next_deadline(&self) -> Time {
        match self.phase {
            Phase::Waiting(until) => until.min(self.deadline),
            Phase::Running { .. } => self.deadline,
        }
    }

    pub fn end(self, outcome: Result<(), JobError>) {
        self.job.end(outcome);
    }
}

impl<B: Backend> Control<B> {
    pub(super) fn add_job(&mut self, now: Time, job: Box<dyn Job>, deadline: Time) {
        if self.finishing || self.state.failure().is_some() {
            job.end(Err(JobError::Closed));
        } else if self.jobs.len() >= JOBS_MAX {
            job.end(Err(JobError::TooMany));
        } else {
            let number = self.next_number();
            let range = BackoffRange { first: self.settings.retry_backoff, max: self.settings.retry_backoff_max };
            let backoff = Backoff::new(range);
            let slot = JobSlot { job, deadline, backoff, phase: Phase::Waiting(now), trouble: String::new() };
            self.jobs.insert(number, slot);
        }
    }

    /// Starts rounds that are due and ends jobs that are late.
    pub(super) fn drive_jobs(&mut self, now: Time) {
        let due: Vec<u64> =
            self.jobs.iter().filter(|(_, slot)| slot.next_deadline() <= now).map(|(number, _)| *number).collect();
        for number in due {
            self.drive_job(now, number);
        }
    }

    fn drive_job(&mut self, now: Time, number: u64) {
        let Some(slot) = self.jobs.get_mut(&number) else { return };
        if slot.deadline <= now {
            let trouble = std::mem::take(&mut slot.trouble);
            self.fail_job(number, JobError::Timeout(trouble));
            return;
        }
        if !matches!(slot.phase, Phase::Waiting(until) if until <= now) {
            return;
        }
        let calls = slot.job.calls(&Arc::clone(self.cluster.snapshot()));
        if calls.is_empty() {
            if let Some(slot) = self.jobs.remove(&number) {
                slot.end(Ok(()));
            }
            return;
        }
        slot.phase = Phase::Running { left: calls.len(), retry: None };
        let deadline = slot.deadline.min(now + self.call_time());
        for (index, call) in calls.into_iter().enumerate() {
            self.start_call(now, call, Purpose::Job(number, index), deadline);
        }
    }

    pub(super) fn fail_job(&mut self, number: u64, why: JobError) {
        if let Some(slot) = self.jobs.remove(&number) {
            slot.end(Err(why));
        }
    }

    pub(super) fn on_job_reply(&mut self, now: Time, number: u64, index: usize, version: i16, body: &[u8]) {
        let Some(slot) = self.jobs.get_mut(&number) else { return };
        let next = slot.job.on_reply(index, version, body);
        self.on_call_done(now, number, next);
    }

    pub(super) fn on_job_lost(&mut self, now: Time, number: u64, index: usize, lost: &CallLost) {
        let Some(slot) = self.jobs.get_mut(&number) else { return };
        slot.trouble.clone_from(&lost.why);
        let next = slot.job.on_lost(index, lost);
        self.on_call_done(now, number, next);
    }

    fn on_call_done(&mut self, now: Time, number: u64, next: Next) {
        let Some(slot) = self.jobs.get_mut(&number) else { return };
        let Phase::Running { left, retry } = &mut slot.phase else { return };
        *left -= 1;
        match next {
            Next::Done => {}
            Next::Again => *retry = retry.or(Some(Duration::ZERO)),
            Next::AgainElsewhere => {
                *retry = retry.or(Some(Duration::ZERO));
                self.refresh.on_doubt([]);
            }
            Next::After(wait) => *retry = Some(retry.map_or(wait, |known| known.max(wait))),
            Next::Fail(why) => return self.fail_job(number, why),
        }
        if *left > 0 {
            return;
        }
        match *retry {
            // The next stage, or the end.
            None => {
                slot.backoff.reset();
                slot.phase = Phase::Waiting(now);
                self.drive_job(now, number);
            }
            Some(least) => slot.phase = Phase::Waiting(now + slot.backoff.next(&mut self.rng).max(least)),
        }
    }
}
