//! Jobs: what handles ask control to do. A job knows the protocol of its errand; control knows connections, time and retries.
//!
//! ```text
//!   calls() ──► one or more requests, sent side by side ──► on_reply / on_failed per call ─┐
//!      ▲                                                                                  │ all answered
//!      └──────── at once (all said Done) │ after a backoff (one said Again) ◄─────────────┘
//!   calls() gives nothing: end(Ok)       deadline, Fail, engine closed: end(Err)
//! ```

use std::fmt;
use std::time::Duration;

use crate::base::ids::BrokerId;
use crate::proto::cluster::Snapshot;
use crate::proto::connection::{Versions, Written, encode_head};
use crate::wire::{ApiKey, EncodeError, ErrorCode, Request};

/// To whom a call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Any broker.
    Any,
    /// The controller, or (KRaft) whom brokers name as such.
    Controller,
    /// This one.
    Broker(BrokerId),
}

/// A request whose version is chosen when its connection is known.
pub trait AnyRequest: Send {
    /// Which API.
    fn api(&self) -> ApiKey;
    /// Appends the whole frame at `version`.
    fn encode(&self, version: i16, client_id: &str, out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

impl<R: Request + Send> AnyRequest for R {
    fn api(&self) -> ApiKey {
        R::KEY
    }
    fn encode(&self, version: i16, client_id: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_head(client_id, version, self, out)
    }
}

/// One call of a job.
pub struct JobCall {
    /// To whom.
    pub to: Target,
    /// What.
    pub request: Box<dyn AnyRequest>,
    /// The lowest version that can say it.
    pub version_min: i16,
    /// The highest version that can say it (below the versions that name topics by id, for instance).
    pub version_max: i16,
}

impl JobCall {
    /// A call in any version that both sides know.
    pub fn new(to: Target, request: impl AnyRequest + 'static) -> Self {
        Self { to, request: Box::new(request), version_min: 0, version_max: i16::MAX }
    }

    /// The same within these versions.
    pub fn within(self, min: i16, max: i16) -> Self {
        Self { version_min: min, version_max: max, ..self }
    }

    /// The version for a broker.
    pub(super) fn version(&self, versions: &Versions) -> Option<i16> {
        versions.pick_within(self.request.api(), self.version_min, self.version_max)
    }
}

impl fmt::Debug for JobCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobCall({} to {:?})", self.request.api().name(), self.to)
    }
}

/// What an answer means for its job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// This call has done its part.
    Done,
    /// Some of it is to be asked again, after a backoff.
    Again,
    /// As `Again`, with fresh metadata first (another controller, other leaders: d4-86).
    AgainElsewhere,
    /// As `Again`, not before this time has passed (a quota, d4-86).
    After(Duration),
    /// It cannot be done.
    Fail(JobError),
}

/// Why a job could not be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JobError {
    /// Its deadline passed; what stood in the way last.
    #[error("not done within the time for the call (default.api.timeout.ms){}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Timeout(String),
    /// The engine was closed, or failed.
    #[error("the engine is closed")]
    Closed,
    /// No version of this API is known on both sides.
    #[error("the broker has no {} that we can use", .0.name())]
    Unsupported(ApiKey),
    /// What was asked for cannot be said in a version that the broker knows.
    #[error("{0}")]
    Unencodable(String),
    /// A broker's error code, with its words if it had any.
    #[error("{} ({}){}{}", .0.name(), .0.text(), if .1.is_empty() { "" } else { ": " }, .1)]
    Broker(ErrorCode, String),
    /// An answer that could not be understood.
    #[error("a malformed answer to {}", .0.name())]
    Malformed(ApiKey),
    /// Too many jobs at once.
    #[error("too many requests at once in this engine")]
    TooMany,
}

/// Why a call of a job got no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallLost {
    /// Whether the broker can have seen it.
    pub written: Written,
    /// What happened.
    pub why: String,
}

/// Something rare that control does for somebody: see the module.
pub trait Job: Send {
    /// The calls to make now, by what is known of the cluster. None: the job is done.
    fn calls(&mut self, cluster: &Snapshot) -> Vec<JobCall>;
    /// The answer to the call at `index` of the last [`Job::calls`], body only.
    fn on_reply(&mut self, index: usize, version: i16, body: &[u8]) -> Next;
    /// That call was lost with its connection. What it does must be harmless when done twice, or this must say `Fail`.
    fn on_lost(&mut self, _index: usize, _lost: &CallLost) -> Next {
        Next::Again
    }
    /// It is over. Called once.
    fn end(self: Box<Self>, outcome: Result<(), JobError>);
}
