//! One record of a v2 batch: its body as the lanes carry it, and the lazy, borrowed way to read records back.
//!
//! ```text
//!  length │ attributes │ timestamp delta │ offset delta │ key length │ key │ value length │ value │ headers
//!  └──────── written when the batch takes it ───────────┘ └──────────────── body (encode_body) ───────────┘
//! ```

use super::codec::TimestampType;
use super::error::BadRecord;
use super::legacy;
use super::varint::{push_varint, take_varint, take_varlong, varint_len};

/// Fewest bytes a v2 record takes: length, attributes, both deltas, null key, null value, no headers.
pub(crate) const RECORD_BYTES_MIN: usize = 7;
/// Fewest bytes a header takes: empty key, null value.
const HEADER_FIELD_BYTES_MIN: usize = 2;

#[inline(always)]
fn len_of(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint_len(bytes.len() as i32) + bytes.len(),
        None => 1,
    }
}

/// Bytes that [`encode_body`] will append.
#[inline(always)]
pub fn body_len<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> usize {
    let mut count = 0i32;
    let mut bytes = len_of(key) + len_of(value);
    for (key, value) in headers {
        count += 1;
        bytes += len_of(Some(key.as_bytes())) + len_of(value);
    }
    bytes + varint_len(count)
}

/// Appends a record's body: from the key's length to the last header. Null key, null value and null header values are
/// `None`. The iterator is walked twice: headers are counted first. Lengths must fit Kafka's 31 bits.
pub fn encode_body<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    out: &mut Vec<u8>,
) {
    push_bytes(key, out);
    push_bytes(value, out);
    push_varint(headers.clone().count() as i32, out);
    for (key, value) in headers {
        push_bytes(Some(key.as_bytes()), out);
        push_bytes(value, out);
    }
}

/// As [`encode_body`], into memory of exactly [`body_len`] bytes. Writes nothing beyond it.
///
/// # Panics
/// When `out` is shorter than the body.
#[inline(always)]
pub fn encode_body_at<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    out: &mut [u8],
) {
    let out = put_bytes(key, out);
    let out = put_bytes(value, out);
    let mut out = put_varint(headers.clone().count() as i32, out);
    for (key, value) in headers {
        out = put_bytes(Some(key.as_bytes()), out);
        out = put_bytes(value, out);
    }
}

/// A zigzag varint at the front of `out`; the rest comes back.
#[inline(always)]
fn put_varint(value: i32, out: &mut [u8]) -> &mut [u8] {
    let mut rest = ((value << 1) ^ (value >> 31)) as u32;
    // One byte as a rule, two for most values.
    if rest < 0x80 {
        out[0] = rest as u8;
        return &mut out[1..];
    }
    if rest < 0x4000 {
        out[0] = rest as u8 | 0x80;
        out[1] = (rest >> 7) as u8;
        return &mut out[2..];
    }
    let mut at = 0;
    while rest >= 0x80 {
        out[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    out[at] = rest as u8;
    &mut out[at + 1..]
}

#[inline(always)]
fn put_bytes<'o>(bytes: Option<&[u8]>, out: &'o mut [u8]) -> &'o mut [u8] {
    match bytes {
        Some(bytes) => {
            let out = put_varint(bytes.len() as i32, out);
            let (front, rest) = out.split_at_mut(bytes.len());
            copy(bytes, front);
            rest
        }
        None => put_varint(-1, out),
    }
}

/// Copies `from` over `to`, which is as long. Short fields (keys, header names, small values) are two words that may overlap,
/// instead of a call.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    #[inline(always)]
    fn two<const N: usize>(from: &[u8], to: &mut [u8]) -> bool {
        let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else { return false };
        if let Some(front) = to.first_chunk_mut::<N>() {
            *front = *first;
        }
        if let Some(back) = to.last_chunk_mut::<N>() {
            *back = *last;
        }
        true
    }
    let done = match from.len() {
        8..=16 => two::<8>(from, to),
        17..=32 => two::<16>(from, to),
        33..=64 => two::<32>(from, to),
        4..=7 => two::<4>(from, to),
        _ => false,
    };
    if !done {
        to.copy_from_slice(from);
    }
}

fn push_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => {
            push_varint(bytes.len() as i32, out);
            out.extend_from_slice(bytes);
        }
        None => out.push(1),
    }
}

/// Takes a nullable byte string with a varint length off the front. Inlined wherever it stands: eight calls a record cost
/// as much as what they do.
#[inline(always)]
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    // Up to 63 bytes, up to 8,191: one look tells that the length is that short and not negative.
    let (len, rest) = match **bytes {
        [a, ref rest @ ..] if a & 0x81 == 0 => (usize::from(a >> 1), rest),
        [a, b, ref rest @ ..] if a & 1 == 0 && b < 0x80 => (usize::from(a & 0x7f) >> 1 | usize::from(b) << 6, rest),
        [1, ref rest @ ..] => {
            *bytes = rest;
            return Ok(None);
        }
        _ => return take_other_bytes(bytes),
    };
    let (field, rest) = rest.split_at_checked(len).ok_or("length past the end")?;
    *bytes = rest;
    Ok(Some(field))
}

/// Long, or wrong.
#[cold]
#[inline(never)]
fn take_other_bytes<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let len = take_varint(bytes).map_err(|_| "bad varint")?;
    if len < 0 {
        return if len == -1 { Ok(None) } else { Err("negative length") };
    }
    let (field, rest) = bytes.split_at_checked(len as usize).ok_or("length past the end")?;
    *bytes = rest;
    Ok(Some(field))
}

/// A record, borrowed from its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordView<'a> {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970; the batch's append time under `LogAppendTime`; -1 when there is none (v0).
    pub timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// From the header count on; empty for v0/v1.
    headers: &'a [u8],
    /// From the key's length to the last header; empty for v0/v1.
    body: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The key; `None` for null.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` for null, a tombstone in a compacted topic.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers in order, duplicates included, parsed as they are asked for.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        let mut bytes = self.headers;
        let count = if bytes.is_empty() { Ok(0) } else { take_varint(&mut bytes) };
        match count {
            // Checked against what is there, so that a size hint cannot make anybody reserve too much.
            Ok(count) if count >= 0 && count as usize <= bytes.len() / HEADER_FIELD_BYTES_MIN => {
                Headers { bytes, left: count as usize, after: self.offset - 1, failed: false }
            }
            _ => Headers { bytes: &[], left: 0, after: self.offset - 1, failed: true },
        }
    }

    /// The record's body as [`encode_body`] writes it, to append it to another batch. Empty for v0/v1 records.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    pub(crate) fn legacy(offset: i64, timestamp: i64, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Self {
        Self { offset, timestamp, key, value, headers: &[], body: &[] }
    }
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderView<'a> {
    /// The key as bytes; Kafka says UTF-8, nobody checks.
    pub key: &'a [u8],
    /// The value; `None` for null.
    pub value: Option<&'a [u8]>,
}

impl<'a> HeaderView<'a> {
    /// The key as text.
    pub fn key_str(&self) -> Result<&'a str, std::str::Utf8Error> {
        std::str::from_utf8(self.key)
    }
}

/// A record's headers. A malformed one is the last item, as an error.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    left: usize,
    after: i64,
    failed: bool,
}

impl<'a> Headers<'a> {
    /// Headers not yet read.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether none are left to read.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    #[inline(always)]
    fn read(&mut self) -> Result<HeaderView<'a>, &'static str> {
        let key = take_bytes(&mut self.bytes)?.ok_or("null header key")?;
        let value = take_bytes(&mut self.bytes)?;
        if self.left == 1 && !self.bytes.is_empty() {
            return Err("bytes behind the last header");
        }
        Ok(HeaderView { key, value })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<HeaderView<'a>, BadRecord>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            self.failed = false;
            return Some(Err(BadRecord { after: self.after, what: "bad header count" }));
        }
        if self.left == 0 {
            return None;
        }
        match self.read() {
            Ok(header) => {
                self.left -= 1;
                Some(Ok(header))
            }
            Err(what) => {
                self.left = 0;
                Some(Err(BadRecord { after: self.after, what }))
            }
        }
    }
}

/// What the header says about a batch's records; with their bytes it is enough to walk them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordsHead {
    /// Offset that offset deltas count from.
    pub base_offset: i64,
    /// No record may have a larger offset.
    pub last_offset: i64,
    /// Timestamp that timestamp deltas count from.
    pub base_timestamp: i64,
    /// Every record's timestamp, under `LogAppendTime`.
    pub append_time: Option<i64>,
    /// Records in the batch, checked against the bytes.
    pub count: i32,
    /// 0, 1 or 2.
    pub magic: i8,
    /// Who set the timestamps.
    pub timestamp_type: TimestampType,
}

/// The records of one batch, parsed one by one as they are asked for. A malformed record is the last item, as an error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    head: RecordsHead,
    bytes: &'a [u8],
    at: usize,
    left: i32,
    last: i64,
}

impl<'a> Records<'a> {
    /// The records in `bytes`: what [`super::BatchView::open`] verified and decompressed.
    #[inline]
    pub fn new(head: RecordsHead, bytes: &'a [u8]) -> Self {
        Self { head, bytes, at: 0, left: head.count, last: head.base_offset.wrapping_sub(1) }
    }

    /// Continues a walk that [`Records::mark`] interrupted.
    #[inline]
    pub fn resume(head: RecordsHead, bytes: &'a [u8], mark: Mark) -> Self {
        Self { head, bytes, at: mark.at, left: mark.left, last: mark.last }
    }

    /// Where the walk stands.
    #[inline]
    pub fn mark(&self) -> Mark {
        Mark { at: self.at, left: self.left, last: self.last }
    }

    /// Up to `count` records from here on as a walk of their own, and this walk behind them. `None`, and this walk is of no
    /// more use, when one of them cannot be read.
    pub fn cut(&mut self, count: usize) -> Option<Cut> {
        let from = self.mark();
        let mut taken = 0;
        while (taken as usize) < count && self.left > 0 {
            self.next()?.ok()?;
            taken += 1;
        }
        Some(Cut { from: Mark { left: taken, ..from }, end: self.at })
    }

    /// Records not yet read, as the batch counts them.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.left as usize
    }

    #[inline(always)]
    fn read(&mut self) -> Result<RecordView<'a>, &'static str> {
        if self.head.magic < 2 {
            return legacy::read_inner(&self.head, self.bytes, &mut self.at);
        }
        let mut rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = take_varint(&mut rest).map_err(|_| "bad varint")?;
        let length = usize::try_from(length).map_err(|_| "negative length")?;
        let (mut record, behind) = rest.split_at_checked(length).ok_or("length past the end")?;
        // Attributes: no bit is defined.
        record = record.get(1..).ok_or("bad varint")?;
        let time_delta = take_varlong(&mut record).map_err(|_| "bad varint")?;
        let offset_delta = take_varint(&mut record).map_err(|_| "bad varint")?;
        let body = record;
        let key = take_bytes(&mut record)?;
        let value = take_bytes(&mut record)?;
        let headers = record;
        if headers.is_empty() {
            return Err("no header count");
        }
        let offset = self.head.base_offset.wrapping_add(i64::from(offset_delta));
        if offset <= self.last || offset > self.head.last_offset {
            return Err("offset out of order");
        }
        let timestamp = match self.head.append_time {
            Some(time) => time,
            None => self.head.base_timestamp.wrapping_add(time_delta),
        };
        self.at = self.bytes.len() - behind.len();
        Ok(RecordView { offset, timestamp, key, value, headers, body })
    }
}

/// Where a walk over a batch's records stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    at: usize,
    left: i32,
    last: i64,
}

/// A part of a batch's records: [`Records::resume`] from here over the bytes up to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Where it begins.
    pub from: Mark,
    /// Where it ends in the batch's bytes.
    pub end: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BadRecord>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            // Bytes behind the last record are as wrong as a record that is missing.
            if self.left == 0 && self.at < self.bytes.len() {
                self.left = -1;
                return Some(Err(BadRecord { after: self.last, what: "bytes behind the last record" }));
            }
            return None;
        }
        match self.read() {
            Ok(record) => {
                self.left -= 1;
                self.last = record.offset;
                Some(Ok(record))
            }
            Err(what) => {
                self.left = -1;
                Some(Err(BadRecord { after: self.last, what }))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(0);
        (0, Some(left + 1))
    }
}
