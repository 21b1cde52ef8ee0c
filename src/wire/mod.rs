//! Kafka's messages: bytes to values and back. Public and usable alone.
//!
//! ```text
//!   bytes ⇄ frame (4-byte length, header) ⇄ reader / writer (primitives) ⇄ message (Struct, Message, Request)
//!                                                                              │ generated
//!   schema/*.facts ──ci/generate──► messages/<api>.rs (request, response), api_key.rs
//!   error_code: every code, its name, text and the one verdict        fetch_view / produce_pieces: the two hot paths in place
//!   json, any (feature `json`): Kafka's JSON form of every message
//! ```
//! Never: opens a socket, reads a clock, knows what a retry is beyond naming it ([`Verdict`]).
//!
//! Invariants:
//! * Nothing is reserved on the word of the peer: a count is checked against the bytes that remain, and a reservation
//!   never takes more bytes than the rest of the input has (`tests/wire_golden.rs` mutates every length it meets).
//! * Decoding never panics; every proper prefix of a message is an error.
//! * What Kafka's Java classes write is what we write, byte for byte, and the other way round (`tests/wire_golden.rs`).

#[cfg(feature = "json")]
pub mod any;
pub mod api_key;
pub mod error;
pub mod error_code;
pub mod fetch_view;
pub mod frame;
#[cfg(feature = "json")]
pub mod json;
pub mod message;
pub mod messages;
pub mod produce_pieces;
mod reader;
mod writer;

pub use api_key::ApiKey;
pub use error::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind};
pub use error_code::{ErrorCode, Verdict};
pub use fetch_view::{FetchView, FetchedPartition, TopicRef};
pub use message::{Field, Message, RawTag, Request, Response, Sink, Source, Struct, VersionRange};
pub use produce_pieces::{ProduceHead, ProducePieces};
pub use reader::Reader;
pub use writer::{OpenTags, Writer};
