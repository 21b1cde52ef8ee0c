//! A record as the caller has it: borrowed, until it is encoded into a lane.

use std::fmt;

use crate::base::ids::TopicIx;

/// Which topic a record is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicRef<'a> {
    /// By name, which is hashed once per send.
    Name(&'a str),
    /// By the number that [`crate::engine::Engine::topic`] gave.
    Ix(TopicIx),
}

impl<'a> From<&'a str> for TopicRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for TopicRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<TopicIx> for TopicRef<'_> {
    fn from(ix: TopicIx) -> Self {
        Self::Ix(ix)
    }
}

/// A header's name and value.
type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Headers kept beside the record.
const NEAR: usize = 4;

/// The headers in order. Nothing outside is ever given a pointer into it while it grows: so a chain of builder calls is kept
/// in registers, where a vector's slow path had the whole record copied for each header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HeaderList<'a> {
    /// The first ones; unused places stay as they were made.
    near: [Header<'a>; NEAR],
    near_count: usize,
    /// All of them, once there are more.
    all: Vec<Header<'a>>,
}

impl Default for HeaderList<'_> {
    #[inline(always)]
    fn default() -> Self {
        Self { near: [("", None); NEAR], near_count: 0, all: Vec::new() }
    }
}

impl<'a> HeaderList<'a> {
    #[inline(always)]
    fn push(&mut self, header: Header<'a>) {
        match self.near.get_mut(self.near_count) {
            Some(place) => {
                *place = header;
                self.near_count += 1;
            }
            None => self.all = more(self.near, std::mem::take(&mut self.all), header),
        }
    }

    /// All of them, in order.
    #[inline]
    pub(super) fn as_slice(&self) -> &[Header<'a>] {
        if self.all.is_empty() { &self.near[..self.near_count] } else { &self.all }
    }
}

/// By value, see [`HeaderList`].
#[cold]
fn more<'a>(near: [Header<'a>; NEAR], mut all: Vec<Header<'a>>, header: Header<'a>) -> Vec<Header<'a>> {
    if all.is_empty() {
        all.extend_from_slice(&near);
    }
    all.push(header);
    all
}

/// A record to send. Everything is borrowed; sending copies it once, into the lane.
///
/// ```
/// use ottla::producer::Record;
/// let record = Record::to("sensors").key("sensor_17").value(br#"{"t":27.3}"#).header("client_id", "roof");
/// assert_eq!(record.key_bytes(), Some(b"sensor_17".as_slice()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub(super) topic: TopicRef<'a>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: HeaderList<'a>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp_ms: Option<i64>,
}

impl<'a> Record<'a> {
    /// A record for a topic, with a null key, a null value and no headers.
    #[inline(always)]
    pub fn to(topic: impl Into<TopicRef<'a>>) -> Self {
        Self {
            topic: topic.into(),
            key: None,
            value: None,
            headers: HeaderList::default(),
            partition: None,
            timestamp_ms: None,
        }
    }

    /// The key: any bytes, also none (`""` is an empty key, not a null one).
    #[inline(always)]
    #[must_use]
    pub fn key<K: AsRef<[u8]> + ?Sized>(mut self, key: &'a K) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// The key, or null.
    #[inline(always)]
    #[must_use]
    pub fn key_or_null(mut self, key: Option<&'a [u8]>) -> Self {
        self.key = key;
        self
    }

    /// The value: any bytes, also none.
    #[inline(always)]
    #[must_use]
    pub fn value<V: AsRef<[u8]> + ?Sized>(mut self, value: &'a V) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// The value, or null (a tombstone in a compacted topic).
    #[inline(always)]
    #[must_use]
    pub fn value_or_null(mut self, value: Option<&'a [u8]>) -> Self {
        self.value = value;
        self
    }

    /// Adds a header behind the others; names may repeat.
    #[inline(always)]
    #[must_use]
    pub fn header<V: AsRef<[u8]> + ?Sized>(mut self, name: &'a str, value: &'a V) -> Self {
        self.headers.push((name, Some(value.as_ref())));
        self
    }

    /// Adds a header that may have a null value.
    #[inline(always)]
    #[must_use]
    pub fn header_or_null(mut self, name: &'a str, value: Option<&'a [u8]>) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The partition, from 0, instead of the partitioner's choice.
    #[inline(always)]
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Milliseconds since 1970, instead of the time of sending.
    #[inline(always)]
    #[must_use]
    pub fn timestamp(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// The key's bytes.
    pub fn key_bytes(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value's bytes.
    pub fn value_bytes(&self) -> Option<&'a [u8]> {
        self.value
    }
}

/// A record that was not taken, given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected<'a> {
    /// The record, untouched.
    pub record: Record<'a>,
    /// Why.
    pub reason: RejectReason,
}

/// Why a record was not taken. Nothing of it was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// `buffer.memory` or the lane is full and the call does not wait.
    Full,
    /// `max.block.ms` passed while `buffer.memory` or the lane was full.
    Timeout,
    /// Larger than `max.request.size`, or than all of `buffer.memory`.
    TooLarge {
        /// Bytes of the encoded record.
        bytes: usize,
        /// What would be taken.
        max: usize,
    },
    /// No such partition, given by the caller or by a custom partitioner.
    NoSuchPartition {
        /// What was given.
        partition: i32,
        /// Partitions the topic has.
        count: i32,
    },
    /// A name that no topic can have, or one topic too many; in words.
    Topic(String),
    /// The producer or its engine was closed.
    Closed,
    /// The engine failed; why.
    Failed(String),
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room now: buffer.memory is used up"),
            Self::Timeout => {
                f.write_str("no room within max.block.ms: buffer.memory is used up by records not acknowledged yet")
            }
            Self::TooLarge { bytes, max } => {
                write!(
                    f,
                    "the record has {bytes} bytes, at most {max} are taken: see max.request.size and buffer.memory"
                )
            }
            Self::NoSuchPartition { partition, count } => write!(f, "no partition {partition}: the topic has {count}"),
            Self::Topic(why) => f.write_str(why),
            Self::Closed => f.write_str("the producer is closed"),
            Self::Failed(why) => write!(f, "the engine failed: {why}"),
        }
    }
}

impl fmt::Display for Rejected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)
    }
}

impl std::error::Error for Rejected<'_> {}
impl std::error::Error for RejectReason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_however_many_there_are() {
        let names: Vec<String> = (0..11).map(|i| format!("h{i}")).collect();
        for count in 0..names.len() {
            let mut record = Record::to("t");
            for name in &names[..count] {
                record = record.header_or_null(name, None);
            }
            let seen: Vec<&str> = record.headers.as_slice().iter().map(|(name, _)| *name).collect();
            assert_eq!(seen, names[..count]);
            assert_eq!(record.clone(), record);
        }
    }
}
