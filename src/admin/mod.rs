//! The admin client: topics and offsets. Sync and async alike.
//!
//! ```text
//!   engine.admin().create_topics(..) ──► Job (here: what to ask, what answers mean) ──► control (when, to whom, retries)
//!        AdminCall: .wait() or .await ◄── promise ◄── Job::end
//! ```
//! Never: opens a connection, sleeps, holds a lock while waiting. Dropping an [`AdminCall`] does not undo what was asked.
//!
//! Invariants: one outcome per item asked for, in the order of asking, each with the broker's code and words; items named
//! twice are asked for once; what takes longer than the timeout ends with an error that says what stood in the way.

mod describe;
mod offsets;
mod topics;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use describe::{BrokerInfo, ClusterInfo, PartitionInfo, TopicInfo};
pub use offsets::{ListedOffset, OffsetSpec};
pub use topics::{CreatedTopic, NewTopic};

use crate::base::time::{Clock, Time};
use crate::control::{Job, JobError};
use crate::engine::{Engine, EngineClock, Shared};
use crate::mesh::{Answer, Promise, promise};
use crate::wire::{ApiKey, ErrorCode};

/// Control answers at the deadline; this much later it is presumed gone.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// Why something could not be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// A broker refused.
    #[error("{subject}: {} ({}){}{}", .code.name(), .code.text(), if .message.is_empty() { "" } else { ": " }, .message)]
    Broker {
        /// What it is about: a topic, a partition.
        subject: String,
        /// The broker's code.
        code: ErrorCode,
        /// The broker's words, often empty.
        message: String,
    },
    /// The broker's answer did not mention this item.
    #[error("{subject}: the answer to {} does not mention it", .api.name())]
    NotAnswered {
        /// The item.
        subject: String,
        /// What was asked.
        api: ApiKey,
    },
    /// It could not be asked, or not in time.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl AdminError {
    fn broker(subject: impl Into<String>, code: ErrorCode, message: Option<&String>) -> Self {
        Self::Broker { subject: subject.into(), code, message: printable(message.map_or("", String::as_str)) }
    }

    /// The broker's code, when a broker refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Broker { code, .. } => Some(*code),
            Self::Job(JobError::Broker(code, _)) => Some(*code),
            _ => None,
        }
    }
}

/// A broker's words without control characters (escape sequences in logs and terminals), at most 1 KiB.
fn printable(words: &str) -> String {
    words.chars().take(1024).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The admin client of an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    shared: Arc<Shared>,
    timeout: Duration,
}

impl Engine {
    /// An admin client on this engine's connections.
    pub fn admin(&self) -> Admin {
        Admin { shared: Arc::clone(self.shared()), timeout: self.settings().default_api_timeout }
    }
}

impl Admin {
    /// The same with another time for each call, retries included (`default.api.timeout.ms`).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn start<T, J: Job + 'static>(&self, job: impl FnOnce(Promise<Result<T, AdminError>>) -> J) -> AdminCall<T> {
        let (promise, answer) = promise();
        let clock = self.shared.clock().clone();
        let deadline = clock.now().mono + self.timeout;
        self.shared.job(Box::new(job(promise)), deadline);
        AdminCall { answer, clock, deadline, shared: Arc::clone(&self.shared) }
    }

    /// `timeout_ms` of requests that the controller carries out.
    fn broker_timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.min(self.shared.settings().request_timeout).as_millis()).unwrap_or(i32::MAX)
    }
}

/// A call under way: a future, or wait for it. Dropping it does not take back what was asked.
#[must_use = "nothing is known of the outcome before it was waited for"]
pub struct AdminCall<T> {
    answer: Answer<Result<T, AdminError>>,
    clock: EngineClock,
    deadline: Time,
    shared: Arc<Shared>,
}

impl<T> AdminCall<T> {
    /// Parks the thread until the outcome is there, at most the admin client's timeout.
    pub fn wait(mut self) -> Result<T, AdminError> {
        match self.answer.wait(self.deadline + ANSWER_GRACE, &self.clock) {
            Some(Ok(outcome)) => named(outcome, &self.shared),
            Some(Err(_)) => Err(gone(&self.shared)),
            None => Err(JobError::Timeout("control did not answer".to_owned()).into()),
        }
    }
}

impl<T> Future for AdminCall<T> {
    type Output = Result<T, AdminError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.answer.poll_answer(context).map(|answer| match answer {
            Ok(outcome) => named(outcome, &this.shared),
            Err(_) => Err(gone(&this.shared)),
        })
    }
}

impl<T> fmt::Debug for AdminCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminCall")
    }
}

/// A job that ended because the engine failed says why it did.
fn named<T>(outcome: Result<T, AdminError>, shared: &Shared) -> Result<T, AdminError> {
    match outcome {
        Err(AdminError::Job(JobError::Closed)) => Err(gone(shared)),
        outcome => outcome,
    }
}

fn gone(shared: &Shared) -> AdminError {
    match shared.state().failure() {
        Some(why) => AdminError::Failed(why.to_owned()),
        None => JobError::Closed.into(),
    }
}

/// The items of `all` in order, each once (d4-86).
fn deduplicated<T, K: Ord>(all: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    all.into_iter().filter(|item| seen.insert(key(item))).collect()
}
