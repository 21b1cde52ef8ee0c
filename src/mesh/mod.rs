//! Between cores: everything that passes from one thread to another goes through here.
//!
//! ```text
//!   app thread                                   shard                                   control
//!   LaneWriter ════ bytes, chunks go round ════► LaneReader
//!   CompletionReader ◄══ items ═════════════════ CompletionWriter
//!   Doorbell ──────── rings only a sleeper ────► Sleeper                                 Sleeper ◄── Doorbell
//!   SnapshotReader ◄────────────── versions, one Arc per change ─────────────────────── SnapshotCell
//!   Budget (buffer.memory)  OwnershipTable (partition → shard)  Mailbox (commands, events)  Event, promise
//! ```
//! Built on [`crate::base::sync`] (std | loom). A [`Medium`] says what lies between the threads: nothing, or in the
//! simulator a seeded delay, drawn when a reader first looks, FIFO per queue ([`crate::base::gate`]).
//!
//! Never: a lock or an allocation per record, an unbounded queue of records, a callback under a lock, a random hash seed.
//!
//! Invariants: what was committed before a [`Doorbell`] was rung is seen by the woken reader; a sleeper that published its
//! deadline and then found its queues empty is rung by whoever pushes after that; budget taken is returned exactly once;
//! a partition's owner never changes once chosen. Shown by the `loom_` tests (`RUSTFLAGS="--cfg loom" cargo test --lib
//! --release loom_`) and by `tests` beside each type.

pub mod budget;
pub mod command;
pub mod completion;
pub mod entry;
pub mod event;
pub mod fetch;
pub mod fetch_memory;
pub mod lane;
pub mod mailbox;
pub mod ownership;
pub mod slab;
pub mod sleep;
pub mod snapshot;
pub mod trouble;

pub use crate::base::gate::{Gate, Medium, Weather};
pub use budget::{Budget, BudgetError, Credit, Share};
pub use completion::{CompletionReader, CompletionWriter, completions};
pub use event::{Answer, Event, Lost, Promise, promise};
pub use fetch::{FetchCommand, FetchEvent};
pub use fetch_memory::FetchMemory;
pub use lane::{LaneReader, LaneSettings, LaneWriter, lane};
pub use mailbox::{MailboxReceiver, MailboxSender, mailbox};
pub use ownership::OwnershipTable;
pub use slab::{FetchLink, Slab, SlabPool};
pub use sleep::{Doorbell, Sleeper, sleeper};
pub use snapshot::{SnapshotCell, SnapshotReader};
pub use trouble::Troubles;

pub use crate::base::stream::ReserveError;
