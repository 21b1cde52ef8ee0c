//! Writes Kafka's primitive types to the end of a byte vector.

use super::error::{EncodeError, EncodeErrorKind};
use super::message::{Field, RawTag, Sink};
use crate::base::ids::Uuid;

/// Appends one message's bytes to a vector.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    version: i16,
    flexible: bool,
    message: &'static str,
    field: &'static str,
}

/// A section of tagged fields that is being written.
#[derive(Debug)]
pub struct OpenTags<'t> {
    /// Where the section's count stands, in bytes from the vector's start.
    at: usize,
    count: u32,
    unknown: &'t [RawTag],
    unknown_last: Option<u32>,
}

#[cfg(feature = "json")]
impl<'t> OpenTags<'t> {
    /// A section that is not written as bytes.
    pub(crate) fn nowhere(unknown: &'t [RawTag]) -> Self {
        Self { at: 0, count: 0, unknown, unknown_last: None }
    }
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, version: 0, flexible: false, message: "", field: "" }
    }

    /// Names what is written from here on: the message (for errors), its version, and whether that version is flexible.
    pub(crate) fn start(&mut self, message: &'static str, version: i16, flexible: bool) {
        (self.message, self.version, self.flexible) = (message, version, flexible);
        self.field = "";
    }

    /// Names the field written next, for errors.
    pub(crate) fn at(&mut self, field: &'static str) -> &mut Self {
        self.field = field;
        self
    }

    /// Bytes in the vector.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Drops what was written behind `position`.
    pub(crate) fn rewind(&mut self, position: usize) {
        self.out.truncate(position);
    }

    #[cold]
    pub(crate) fn error(&self, kind: EncodeErrorKind) -> EncodeError {
        EncodeError { message: self.message, version: self.version, field: self.field, kind }
    }

    /// Bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// BOOLEAN.
    pub fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    /// INT8.
    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    /// INT16.
    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    /// UINT16.
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// INT32.
    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    /// UINT32.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// INT64.
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// FLOAT64.
    pub fn f64(&mut self, value: f64) {
        self.raw(&value.to_be_bytes());
    }

    /// UUID.
    pub fn uuid(&mut self, value: Uuid) {
        self.raw(&value.0);
    }

    /// UNSIGNED_VARINT.
    pub fn uvarint(&mut self, value: u32) {
        let (bytes, len) = uvarint_bytes(value);
        self.raw(&bytes[..len]);
    }

    /// VARINT: zig-zag.
    pub fn varint(&mut self, value: i32) {
        self.uvarint(((value << 1) ^ (value >> 31)) as u32);
    }

    /// VARLONG: zig-zag.
    pub fn varlong(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            self.out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }

    /// STRING, NULLABLE_STRING or their compact forms, by the version.
    pub fn nullable_str(&mut self, value: Option<&str>) -> Result<(), EncodeError> {
        match value {
            Some(text) if text.len() > 0x7fff => return Err(self.error(EncodeErrorKind::TooLong(text.len()))),
            Some(text) if self.flexible => self.uvarint(text.len() as u32 + 1),
            Some(text) => self.i16(text.len() as i16),
            None if self.flexible => self.uvarint(0),
            None => self.i16(-1),
        }
        self.raw(value.unwrap_or("").as_bytes());
        Ok(())
    }

    /// BYTES, RECORDS, their nullable and compact forms, by the version.
    pub fn nullable_bytes(&mut self, value: Option<&[u8]>) -> Result<(), EncodeError> {
        self.nullable_count(value.map(<[u8]>::len))?;
        self.raw(value.unwrap_or(&[]));
        Ok(())
    }

    /// The count of an array (or length of bytes), by the version; none for null.
    pub fn nullable_count(&mut self, count: Option<usize>) -> Result<(), EncodeError> {
        match count {
            Some(count) => match i32::try_from(count) {
                Ok(count) if self.flexible => self.uvarint(count as u32 + 1),
                Ok(count) => self.i32(count),
                Err(_) => return Err(self.error(EncodeErrorKind::TooLong(count))),
            },
            None if self.flexible => self.uvarint(0),
            None => self.i32(-1),
        }
        Ok(())
    }

    /// Writes `value` as a varint at `at`, where one byte was left for it, and moves what follows if it needs more.
    fn fill_uvarint(&mut self, at: usize, value: u32) {
        let (bytes, len) = uvarint_bytes(value);
        self.out.splice(at..=at, bytes[..len].iter().copied());
    }

    /// Unknown tagged fields below `limit` that were not written yet.
    fn unknown_below(&mut self, tags: &mut OpenTags<'_>, limit: u64) -> Result<(), EncodeError> {
        while let Some((first, rest)) = tags.unknown.split_first() {
            if u64::from(first.tag) >= limit {
                if u64::from(first.tag) == limit {
                    return Err(self.error(EncodeErrorKind::TagOrder(first.tag)));
                }
                break;
            }
            if tags.unknown_last.is_some_and(|last| last >= first.tag) {
                return Err(self.error(EncodeErrorKind::TagOrder(first.tag)));
            }
            tags.unknown_last = Some(first.tag);
            self.uvarint(first.tag);
            match u32::try_from(first.data.len()) {
                Ok(len) => self.uvarint(len),
                Err(_) => return Err(self.error(EncodeErrorKind::TooLong(first.data.len()))),
            }
            self.raw(&first.data);
            tags.count += 1;
            tags.unknown = rest;
        }
        Ok(())
    }
}

/// A varint's bytes and how many of them count.
fn uvarint_bytes(value: u32) -> ([u8; 5], usize) {
    let (mut bytes, mut len, mut rest) = ([0; 5], 0, value);
    while rest >= 0x80 {
        bytes[len] = rest as u8 | 0x80;
        rest >>= 7;
        len += 1;
    }
    bytes[len] = rest as u8;
    (bytes, len + 1)
}

impl Sink for Writer<'_> {
    fn version(&self) -> i16 {
        self.version
    }

    fn put<T: Field>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        self.field = name;
        value.write_to(self)
    }

    fn put_inflexible<T: Field>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let done = self.put(name, value);
        self.flexible = flexible;
        done
    }

    fn refuse(&mut self, name: &'static str, kind: EncodeErrorKind) -> EncodeError {
        self.field = name;
        self.error(kind)
    }

    fn open_tags<'t>(&mut self, unknown: &'t [RawTag]) -> OpenTags<'t> {
        let at = self.out.len();
        self.out.push(0);
        OpenTags { at, count: 0, unknown, unknown_last: None }
    }

    fn put_tag<T: Field>(
        &mut self,
        tags: &mut OpenTags<'_>,
        tag: u32,
        name: &'static str,
        value: &T,
        is_set: bool,
    ) -> Result<(), EncodeError> {
        self.field = name;
        self.unknown_below(tags, u64::from(tag))?;
        if is_set {
            tags.count += 1;
            tags.unknown_last = Some(tag);
            self.uvarint(tag);
            let at = self.out.len();
            self.out.push(0);
            value.write_to(self)?;
            let size = self.out.len() - at - 1;
            let Ok(size) = u32::try_from(size) else { return Err(self.error(EncodeErrorKind::TooLong(size))) };
            self.fill_uvarint(at, size);
        }
        Ok(())
    }

    fn close_tags(&mut self, mut tags: OpenTags<'_>) -> Result<(), EncodeError> {
        self.unknown_below(&mut tags, u64::MAX)?;
        self.fill_uvarint(tags.at, tags.count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;

    #[test]
    fn varints_come_back() {
        for value in [0, 1, -1, 63, 64, -64, -65, 8191, 1 << 20, i32::MAX, i32::MIN] {
            let mut out = Vec::new();
            Writer::new(&mut out).varint(value);
            assert_eq!(Reader::new(&out).varint(), Ok(value));
            let (mut out, long) = (Vec::new(), i64::from(value) << 31);
            Writer::new(&mut out).varlong(long);
            assert_eq!(Reader::new(&out).varlong(), Ok(long));
        }
    }

    #[test]
    fn unknown_tags_are_ordered_around_the_known_one() {
        let raw = |tag| RawTag { tag, data: vec![tag as u8].into() };
        let write = |unknown: &[RawTag]| {
            let mut out = Vec::new();
            let mut writer = Writer::new(&mut out);
            let mut tags = writer.open_tags(unknown);
            writer.put_tag(&mut tags, 3, "three", &7i16, true)?;
            writer.close_tags(tags)?;
            Ok::<_, EncodeError>(out)
        };
        assert_eq!(write(&[]).unwrap(), [1, 3, 2, 0, 7]);
        assert_eq!(write(&[raw(1), raw(5)]).unwrap(), [3, 1, 1, 1, 3, 2, 0, 7, 5, 1, 5]);
        for wrong in [&[raw(3)][..], &[raw(5), raw(1)], &[raw(1), raw(1)], &[raw(5), raw(5)], &[raw(5), raw(4)]] {
            assert!(matches!(write(wrong).unwrap_err().kind, EncodeErrorKind::TagOrder(_)), "{wrong:?}");
        }
    }

    #[test]
    fn long_tag_sections_move_what_follows() {
        let unknown: Vec<RawTag> = (0..200).map(|tag| RawTag { tag, data: vec![1; 300].into() }).collect();
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        let tags = writer.open_tags(&unknown);
        writer.close_tags(tags).unwrap();
        let mut reader = Reader::new(&out);
        let back = crate::wire::Source::get_tags(&mut reader, &[], |_, _| Ok(())).unwrap();
        assert_eq!(back, unknown);
        reader.finish().unwrap();
    }
}
