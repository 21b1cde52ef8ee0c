//! A batch that no answer may hold: larger than `receive.message.max.bytes`, so that its frame ends the link (d2-36).
//!
//! ```text
//!   frame too large ─► all that was asked for is suspect ─► asked for one by one, alone, without waiting
//!                                                             ├─ answered: innocent, and its data is given out
//!                                                             └─ too large again: told and stopped, others go on
//! ```
//! A first batch comes whole whatever the limits (KIP-74), and a frame's length does not say whose it is. So the link is lost
//! twice per such batch (once where only one partition was asked for), and no more.

use super::cursor::At;
use super::{Fetcher, Output};
use crate::base::ids::{BrokerId, Tp};
use crate::base::time::Time;
use crate::batch::Refusal;

impl Fetcher {
    /// The answer to a Fetch was a frame of `bytes`, more than the `limit`, and the link is gone with it.
    pub fn on_too_large(&mut self, now: Time, broker: BrokerId, bytes: usize, limit: usize) {
        let Some(side) = self.sides.get_mut(&broker) else { return };
        side.fetching = false;
        side.dirty = true;
        side.wait_until = now + side.backoff.next(&mut self.rng);
        let asked = std::mem::take(&mut side.session.partitions);
        side.session.reset();
        side.suspects.clear();
        let mut all = asked.iter();
        let (Some((tp, asked_for)), None) = (all.next(), all.next()) else {
            side.suspects = asked.into_keys().collect();
            return;
        };
        let Some(cursor) = self.cursors.get_mut(tp) else { return };
        if cursor.generation != asked_for.generation || cursor.at != At::Offset(asked_for.offset) {
            return;
        }
        cursor.at = At::Stopped;
        self.topology += 1;
        let why = Refusal::TooLarge { offset: asked_for.offset, bytes, limit };
        self.outputs.push_back(Output::Refused { tp: *tp, generation: cursor.generation, why, stopped: true });
    }

    /// The partition to be asked for alone, while it is not known whose batch was too large.
    pub(super) fn next_suspect(&mut self, now: Time, broker: BrokerId) -> Option<Tp> {
        let (cursors, side) = (&self.cursors, self.sides.get_mut(&broker)?);
        // What cannot be asked for now is suspected again when it is guilty.
        side.suspects.retain(|tp| {
            let cursor = cursors.get(tp).filter(|cursor| cursor.leader == Some(broker));
            cursor.is_some_and(|cursor| cursor.is_fetchable(now) && cursor.is_under_share())
        });
        side.suspects.first().copied()
    }

    /// An answer came: whoever was asked for alone is innocent.
    pub(super) fn acquit(&mut self, broker: BrokerId) {
        let Some(side) = self.sides.get_mut(&broker) else { return };
        if !side.suspects.is_empty() {
            let asked = &side.session.partitions;
            side.suspects.retain(|tp| !asked.contains_key(tp));
        }
    }
}
