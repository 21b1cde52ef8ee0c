//! Calls: one request and its reply, as owners submit them and hear of them.

use std::time::Duration;

use super::cause::Cause;
use super::versions::Versions;
use crate::base::chunk::Piece;
use crate::wire::ApiKey;

/// How the reply of a call reaches its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyMode {
    /// There is none (Produce with acks=0): the call ends when its bytes were written ([`Sink::written`]).
    None,
    /// Whole, in one [`Sink::reply`]: in place where it arrived in one piece, else from a reused buffer.
    Whole,
    /// As it arrives, in [`Sink::reply_part`], to be gathered into memory of the owner (a fetch slab). Nothing of it is
    /// kept in the connection.
    Parts,
}

/// One request to send.
#[derive(Debug)]
pub struct Call<'a> {
    /// Chosen by the owner and given back with everything that concerns this call.
    pub tag: u64,
    /// Which API.
    pub api: ApiKey,
    /// The version it was encoded in, from [`Versions::pick`].
    pub version: i16,
    /// The frame from its length prefix on, without what [`Call::inserts`] adds. Length and correlation id are filled in here.
    pub head: &'a [u8],
    /// Shared pieces (sealed batches) and where in `head` they go, by ascending offset. A piece at `head.len()` goes last.
    pub inserts: Vec<(u32, Piece)>,
    /// Time for the answer, from writing on; `request.timeout.ms` if none.
    pub timeout: Option<Duration>,
    /// How the reply comes.
    pub reply: ReplyMode,
}

/// A call that was not accepted, given back.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The call, unchanged.
    pub call: Call<'a>,
    /// Why.
    pub why: RefusedWhy,
}

/// Why a call was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedWhy {
    /// As many calls as allowed are unanswered, or the broker asked for silence. Try again after a reply.
    Busy,
    /// The connection is not ready, or closing.
    NotReady,
    /// The frame is malformed or larger than a frame may be: a mistake of ours.
    Malformed,
}

/// Whether a request that got no answer can have been seen by the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Not one byte of it was given to the kernel: surely not seen.
    No,
    /// Some or all bytes were given to the kernel: unknown.
    Maybe,
}

/// A complete reply.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The call's tag.
    pub tag: u64,
    /// Which API.
    pub api: ApiKey,
    /// The version to decode with.
    pub version: i16,
    /// What follows the response header. Valid for this call only.
    pub body: &'a [u8],
}

/// The next part of a reply in [`ReplyMode::Parts`].
#[derive(Debug)]
pub struct ReplyPart<'a> {
    /// The call's tag.
    pub tag: u64,
    /// Which API.
    pub api: ApiKey,
    /// The version to decode with.
    pub version: i16,
    /// Length of the whole body, known from the first part on. Already checked against the cap for frames.
    pub total: usize,
    /// Where this part belongs in the body.
    pub offset: usize,
    /// The part. May be empty only when `total` is 0, or when it landed. Valid for this call only.
    pub bytes: &'a [u8],
    /// Bytes of the part that are in the owner's memory already ([`Connection::on_landed`](super::Connection::on_landed)).
    pub landed: usize,
}

impl ReplyPart<'_> {
    /// Whether this part ends the body.
    pub fn is_last(&self) -> bool {
        self.offset + self.bytes.len() + self.landed == self.total
    }
}

/// A call that ended without an answer.
#[derive(Debug)]
pub struct Failure<'a> {
    /// The call's tag.
    pub tag: u64,
    /// Which API.
    pub api: ApiKey,
    /// Whether the broker can have seen it.
    pub written: Written,
    /// Why it ended.
    pub cause: &'a Cause,
}

/// What to do after a reply was handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Go on.
    Continue,
    /// The reply's `throttle_time_ms`: stay silent for so long (KIP-219). 0 and less mean nothing.
    Throttle(i32),
    /// The reply cannot be decoded or is nonsense: end the connection, naming what was wrong.
    Kill(&'static str),
}

/// Who hears what happened to calls. Must not call back into the connection.
pub trait Sink {
    /// The handshake is done: calls are accepted from now on.
    fn ready(&mut self, versions: &Versions);
    /// A whole reply came.
    fn reply(&mut self, reply: Reply<'_>) -> Then;
    /// A part of a reply in [`ReplyMode::Parts`] came.
    fn reply_part(&mut self, part: ReplyPart<'_>) -> Then;
    /// All bytes of a call with [`ReplyMode::None`] were written.
    fn written(&mut self, tag: u64, api: ApiKey);
    /// A call ended without an answer.
    fn failed(&mut self, failure: Failure<'_>);
}
