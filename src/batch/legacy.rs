//! Message sets of format v0 and v1, as brokers before 4.0 may still return them. Read only.
//!
//! ```text
//!  offset │ size │ crc │ magic │ attributes │ timestamp (v1) │ key │ value          a message
//!  value of a compressed message = a whole message set                             a wrapper
//! ```
//! A v1 wrapper carries its *last* inner offset and the inner offsets count from 0; in v0 they are absolute.

use super::codec::{Codec, TimestampType};
use super::crc::crc32;
use super::error::Fault;
use super::header::{LOG_OVERHEAD_BYTES, MAGIC, i32_at, i64_at};
use super::record::{RecordView, RecordsHead};

const CRC: usize = 12;
const ATTRIBUTES: usize = 17;
const LOG_APPEND_TIME: u8 = 1 << 3;

/// Fewest bytes of a message, offset and size included.
pub(crate) const fn bytes_min(magic: i8) -> usize {
    // crc, magic, attributes, key length, value length; v1 has a timestamp.
    LOG_OVERHEAD_BYTES + if magic == 0 { 14 } else { 22 }
}

/// One message, fields only; nothing is verified yet but that they are inside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) offset: i64,
    pub(crate) magic: i8,
    pub(crate) attributes: u8,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) stored_crc: u32,
    /// All of the message, offset and size included.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the message that is all of `bytes`.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let magic = *bytes.get(MAGIC).ok_or("too short")? as i8;
        if !(0..=1).contains(&magic) {
            return Err("not a v0 or v1 message");
        }
        if bytes.len() < bytes_min(magic) {
            return Err("too short");
        }
        let (timestamp, mut at) = if magic == 0 { (-1, 18) } else { (i64_at(bytes, 18), 26) };
        let key = read_field(bytes, &mut at)?;
        let value = read_field(bytes, &mut at)?;
        if at != bytes.len() {
            return Err("bytes behind the value");
        }
        Ok(Self {
            offset: i64_at(bytes, 0),
            magic,
            attributes: bytes[ATTRIBUTES],
            timestamp,
            key,
            value,
            stored_crc: i32_at(bytes, CRC) as u32,
            bytes,
        })
    }

    pub(crate) fn computed_crc(&self) -> u32 {
        crc32(&self.bytes[MAGIC..])
    }

    pub(crate) fn codec(&self) -> Option<Codec> {
        Codec::from_attributes(i16::from(self.attributes & 7))
    }

    pub(crate) fn timestamp_type(&self) -> TimestampType {
        match (self.magic, self.attributes & LOG_APPEND_TIME) {
            (0, _) => TimestampType::NoTimestamp,
            (_, 0) => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }
}

fn read_field<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, &'static str> {
    let from = at.checked_add(4).filter(|from| *from <= bytes.len()).ok_or("length past the end")?;
    let len = i32_at(bytes, *at);
    *at = from;
    if len < 0 {
        return if len == -1 { Ok(None) } else { Err("negative length") };
    }
    let end = from.checked_add(len as usize).ok_or("length past the end")?;
    let field = bytes.get(from..end).ok_or("length past the end")?;
    *at = end;
    Ok(Some(field))
}

/// Splits the next whole message off `bytes` at `at`.
fn next_message<'a>(bytes: &'a [u8], at: usize) -> Result<(Message<'a>, usize), &'static str> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.len() < LOG_OVERHEAD_BYTES {
        return Err("length past the end");
    }
    let size = usize::try_from(i32_at(rest, 8)).map_err(|_| "negative length")?;
    let end = size.checked_add(LOG_OVERHEAD_BYTES).filter(|end| *end <= rest.len()).ok_or("length past the end")?;
    Ok((Message::read(&rest[..end])?, at + end))
}

/// Walks the message set inside a wrapper once and says how to read it: how many messages there are, and what their
/// offsets count from.
pub(crate) fn open_wrapper(wrapper: &Message<'_>, inner: &[u8]) -> Result<RecordsHead, Fault> {
    let (mut at, mut count, mut last) = (0, 0i32, -1);
    while at < inner.len() {
        let (message, next) = next_message(inner, at).map_err(Fault::Wrapper)?;
        if message.magic != wrapper.magic {
            return Err(Fault::Wrapper("message of another version inside"));
        }
        if message.codec() != Some(Codec::None) {
            return Err(Fault::Wrapper("compressed message inside"));
        }
        // The CRC of a message does not cover its offset.
        if message.offset <= last {
            return Err(Fault::Wrapper("offsets out of order"));
        }
        (at, last) = (next, message.offset);
        count = count.checked_add(1).ok_or(Fault::Wrapper("too many messages"))?;
    }
    if count == 0 {
        return Err(Fault::Wrapper("nothing inside"));
    }
    // An offset of 0 on a v1 wrapper with more inside comes from certain librdkafka versions: nothing to subtract then.
    let base_offset = match wrapper.magic {
        1 if wrapper.offset != 0 => wrapper.offset.checked_sub(last).ok_or(Fault::Wrapper("offsets overflow"))?,
        _ => 0,
    };
    let last_offset = base_offset.checked_add(last).ok_or(Fault::Wrapper("offsets overflow"))?;
    let timestamp_type = wrapper.timestamp_type();
    Ok(RecordsHead {
        base_offset,
        last_offset,
        base_timestamp: 0,
        append_time: (timestamp_type == TimestampType::LogAppendTime).then_some(wrapper.timestamp),
        count,
        magic: wrapper.magic,
        timestamp_type,
    })
}

/// The head of a message that is no wrapper.
pub(crate) fn open_single(message: &Message<'_>) -> RecordsHead {
    RecordsHead {
        base_offset: 0,
        last_offset: message.offset,
        base_timestamp: 0,
        append_time: None,
        count: 1,
        magic: message.magic,
        timestamp_type: message.timestamp_type(),
    }
}

/// The next message of a set as a record. The outer CRC was verified; each inner message has one of its own.
pub(crate) fn read_inner<'a>(
    head: &RecordsHead,
    bytes: &'a [u8],
    at: &mut usize,
) -> Result<RecordView<'a>, &'static str> {
    let (message, next) = next_message(bytes, *at)?;
    if message.stored_crc != message.computed_crc() {
        return Err("crc mismatch");
    }
    let offset = head.base_offset.checked_add(message.offset).ok_or("offset overflows")?;
    *at = next;
    Ok(RecordView::legacy(offset, head.append_time.unwrap_or(message.timestamp), message.key, message.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_inside_whose_offsets_do_not_grow_is_refused() {
        let message = |offset: i64| {
            let mut bytes = offset.to_be_bytes().to_vec();
            bytes.extend_from_slice(&14i32.to_be_bytes());
            // Magic 0, no attributes, neither key nor value.
            let rest = [[0, 0].as_slice(), &[0xff; 8]].concat();
            bytes.extend_from_slice(&crc32(&rest).to_be_bytes());
            bytes.extend_from_slice(&rest);
            bytes
        };
        let wrapper = message(9);
        let wrapper = Message::read(&wrapper).unwrap();
        let open =
            |offsets: &[i64]| open_wrapper(&wrapper, &offsets.iter().flat_map(|at| message(*at)).collect::<Vec<_>>());
        let head = open(&[3, 5, 9]).unwrap();
        assert_eq!((head.base_offset, head.last_offset, head.count), (0, 9, 3));
        for offsets in [[3, 3, 9], [5, 3, 9], [3, 9, 5], [-2, 5, 9]] {
            assert_eq!(open(&offsets), Err(Fault::Wrapper("offsets out of order")));
        }
    }
}
