//! The short way into a shard, for the thread that runs it: a record that needs no lane.

use super::{InPlace, Shard};
use crate::base::ids::LaneId;
use crate::base::time::Clock;
use crate::mesh::entry::{EntryFlags, EntryHeader, EntryKind, HEADER_BYTES};
use crate::ring::Backend;

impl<B: Backend, C: Clock> Shard<B, C> {
    /// Encodes a record of a lane that is empty straight into its open batch: for the thread that runs this shard and writes
    /// that lane. A record without a timestamp gets the time of the last turn. Counted as what the lane would have carried.
    #[inline]
    pub fn append_in_place(
        &mut self,
        lane: LaneId,
        mut header: EntryHeader,
        body_len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> InPlace {
        let core = &mut self.core;
        if core.ending || header.kind != EntryKind::Record || header.flags.has(EntryFlags::URGENT) {
            return InPlace::Lane;
        }
        if header.flags.has(EntryFlags::STAMP) {
            header.time = core.now.wall_ms;
        }
        let done = core.lanes.append_in_place(lane, &header, body_len, &mut core.produce, write);
        if done == InPlace::Done {
            core.paid += (HEADER_BYTES + body_len) as i64;
        }
        done
    }

    /// Takes what is in the lanes, a bounded piece, and nothing else of a turn.
    pub fn take_lanes(&mut self) {
        if !self.core.ending {
            self.core.begin(self.backend.now());
            self.core.take_lanes();
        }
    }
}
