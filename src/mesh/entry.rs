//! What a lane carries: one entry per record, or a mark, in the order the handle wrote them.
//!
//! ```text
//!  0        4     5      6    8        12          16            24
//!  | length | kind| flags| -- | topic  | partition | time or id  | record body (key length … last header) |
//!  └──────────────────────── HEADER_BYTES ─────────────────────┘└── as `batch::encode_body` writes it ───┘
//! ```
//! Integers are little-endian and unaligned; `length` counts the header too. Entries never straddle chunks.

use crate::base::ids::{TopicIx, Tp};

/// Bytes before a record's body.
pub const HEADER_BYTES: usize = 24;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// A record whose partition is chosen.
    Record = 1,
    /// A record of a topic without metadata yet: the home shard chooses its partition (design §3.7). Its tickets count
    /// under partition -1.
    Unplaced = 2,
    /// A flush mark. The time field holds the flush's id; what came before it is sealed at once, and a completion says
    /// when all of that is settled.
    Flush = 3,
}

/// Facts about one record that the shard needs beside its body.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EntryFlags(pub u8);

impl EntryFlags {
    /// Somebody waits for this record's outcome (`submit`, `send_with`): completions must name it.
    pub const TRACKED: u8 = 1;
    /// Somebody waits for it *now* (`wait`, a polled future, linger 0): the batch is due at the next free slot.
    pub const URGENT: u8 = 2;
    /// The record has no timestamp of its own; the shard stamps it.
    pub const STAMP: u8 = 4;
    /// The key is not null (so an unplaced record goes by its key).
    pub const KEYED: u8 = 8;

    /// Whether all bits of `flag` are set.
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag == flag
    }
}

/// The fixed part of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// What it is.
    pub kind: EntryKind,
    /// Facts about the record.
    pub flags: EntryFlags,
    /// Where the record goes; partition -1 when it is not chosen. Meaningless in a flush mark.
    pub tp: Tp,
    /// Milliseconds since 1970, or the id of a flush.
    pub time: i64,
}

impl EntryHeader {
    /// A flush mark with its id.
    pub const fn flush(id: u64) -> Self {
        Self {
            kind: EntryKind::Flush,
            flags: EntryFlags(0),
            tp: Tp { topic: TopicIx(0), partition: -1 },
            time: id as i64,
        }
    }

    /// Writes the header of an entry whose body is `body_len` bytes. `out` is at least [`HEADER_BYTES`] long.
    #[inline(always)]
    pub fn write(&self, body_len: usize, out: &mut [u8]) {
        // Three words.
        let what = u64::from(self.kind as u8) << 32 | u64::from(self.flags.0) << 40;
        let whose = u64::from(self.tp.topic.0) | u64::from(self.tp.partition as u32) << 32;
        let words = [what | (HEADER_BYTES + body_len) as u64, whose, self.time as u64];
        for (place, word) in out[..HEADER_BYTES].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// One entry, borrowed from its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The fixed part.
    pub header: EntryHeader,
    /// The record body; empty in a mark.
    pub body: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The entry at the start of `bytes` and its whole length. `None` when the bytes are no entry: a fault of the writer.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = match head[4] {
            1 => EntryKind::Record,
            2 => EntryKind::Unplaced,
            3 => EntryKind::Flush,
            _ => return None,
        };
        let body = bytes.get(HEADER_BYTES..len)?;
        let topic = TopicIx(u32::from_le_bytes([head[8], head[9], head[10], head[11]]));
        let partition = i32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        let time = i64::from_le_bytes([head[16], head[17], head[18], head[19], head[20], head[21], head[22], head[23]]);
        let header = EntryHeader { kind, flags: EntryFlags(head[5]), tp: Tp { topic, partition }, time };
        Some((Self { header, body }, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_written() {
        let record = EntryHeader {
            kind: EntryKind::Record,
            flags: EntryFlags(EntryFlags::TRACKED | EntryFlags::KEYED),
            tp: Tp { topic: TopicIx(70_000), partition: 11 },
            time: 1_700_000_000_123,
        };
        let mut bytes = vec![0; HEADER_BYTES + 5];
        record.write(5, &mut bytes);
        bytes[HEADER_BYTES..].copy_from_slice(b"hello");
        let flush = EntryHeader::flush(u64::MAX);
        let mut mark = [0; HEADER_BYTES];
        flush.write(0, &mut mark);
        bytes.extend_from_slice(&mark);

        let (first, len) = Entry::read(&bytes).unwrap();
        assert_eq!((first.header, first.body, len), (record, &b"hello"[..], HEADER_BYTES + 5));
        assert!(first.header.flags.has(EntryFlags::KEYED) && !first.header.flags.has(EntryFlags::STAMP));
        let (second, len) = Entry::read(&bytes[len..]).unwrap();
        assert_eq!((second.header.kind, second.header.time as u64, len), (EntryKind::Flush, u64::MAX, HEADER_BYTES));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let mut bytes = [0; HEADER_BYTES];
        EntryHeader::flush(1).write(0, &mut bytes);
        assert!(Entry::read(&bytes[..HEADER_BYTES - 1]).is_none());
        for len in [0u32, 23, 25, u32::MAX] {
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            assert!(Entry::read(&bytes).is_none(), "{len}");
        }
        bytes[..4].copy_from_slice(&24u32.to_le_bytes());
        bytes[4] = 9;
        assert!(Entry::read(&bytes).is_none());
    }
}
