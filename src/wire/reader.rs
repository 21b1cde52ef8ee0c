//! Reads Kafka's primitive types from a slice.

use bytes::Bytes;

use super::error::{DecodeError, DecodeErrorKind};
use super::message::{Field, RawTag, Source};
use crate::base::ids::Uuid;

/// A cursor over one message's bytes. Byte fields are copied, or share the input's memory when made by [`Reader::shared`].
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
    shared: Option<&'a Bytes>,
    version: i16,
    flexible: bool,
    message: &'static str,
    field: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `input`; byte fields of what is decoded are copies.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input, len: input.len(), shared: None, version: 0, flexible: false, message: "", field: "" }
    }

    /// Reads `input`; byte fields of what is decoded are slices of it and keep it alive.
    pub fn shared(input: &'a Bytes) -> Self {
        Self { shared: Some(input), ..Self::new(input) }
    }

    /// Names what is read from here on: the message (for errors), its version, and whether that version is flexible.
    pub(crate) fn start(&mut self, message: &'static str, version: i16, flexible: bool) {
        (self.message, self.version, self.flexible) = (message, version, flexible);
        self.field = "";
    }

    /// Names the field read next, for errors.
    pub(crate) fn at(&mut self, field: &'static str) -> &mut Self {
        self.field = field;
        self
    }

    /// Whether the version being read has compact lengths and tagged fields.
    pub fn is_flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error of this kind, here.
    #[cold]
    pub fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { message: self.message, version: self.version, field: self.field, at: self.position(), kind }
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(n) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error(DecodeErrorKind::Truncated { wanted: n, left: self.rest.len() })),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(self.error(DecodeErrorKind::Truncated { wanted: N, left: self.rest.len() })),
        }
    }

    /// BOOLEAN: any byte but 0 is true.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.array::<1>()?[0] != 0)
    }

    /// INT8.
    #[inline]
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array().map(i8::from_be_bytes)
    }

    /// INT16.
    #[inline]
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    /// UINT16.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// INT32.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    /// UINT32.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// INT64.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// FLOAT64.
    #[inline]
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.array().map(f64::from_be_bytes)
    }

    /// UUID.
    #[inline]
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array().map(Uuid)
    }

    /// UNSIGNED_VARINT: at most 5 bytes, at most 32 bits.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for i in 0..5 {
            let byte = self.array::<1>()?[0];
            if i == 4 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error(DecodeErrorKind::Varint))
    }

    /// UNSIGNED_VARLONG: at most 10 bytes, at most 64 bits.
    #[inline]
    pub fn uvarlong(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for i in 0..10 {
            let byte = self.array::<1>()?[0];
            if i == 9 && byte > 0x01 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error(DecodeErrorKind::Varint))
    }

    /// VARINT: zig-zag, at most 5 bytes.
    #[inline]
    pub fn varint(&mut self) -> Result<i32, DecodeError> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// VARLONG: zig-zag, at most 10 bytes.
    #[inline]
    pub fn varlong(&mut self) -> Result<i64, DecodeError> {
        let raw = self.uvarlong()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A length in the version's form (compact: length + 1 as varint; else INT16 or INT32), none for null.
    #[inline]
    fn length(&mut self, short: bool) -> Result<Option<usize>, DecodeError> {
        let length = if self.flexible {
            i64::from(self.uvarint()?) - 1
        } else if short {
            i64::from(self.i16()?)
        } else {
            i64::from(self.i32()?)
        };
        match length {
            -1 => Ok(None),
            0..=0x7fff => Ok(Some(length as usize)),
            // Java reads lengths into an int, and strings never exceed 32,767 bytes even in compact form.
            0x8000..=0x7fff_ffff if !short => Ok(Some(length as usize)),
            _ => Err(self.error(DecodeErrorKind::Length(length))),
        }
    }

    /// NULLABLE_STRING or COMPACT_NULLABLE_STRING, by the version.
    #[inline]
    pub fn nullable_str(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let Some(length) = self.length(true)? else { return Ok(None) };
        let text = self.take(length)?;
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(self.error(DecodeErrorKind::Utf8)),
        }
    }

    /// STRING or COMPACT_STRING, by the version.
    #[inline]
    pub fn str(&mut self) -> Result<&'a str, DecodeError> {
        match self.nullable_str()? {
            Some(text) => Ok(text),
            None => Err(self.error(DecodeErrorKind::Null)),
        }
    }

    /// NULLABLE_BYTES, RECORDS or their compact forms, by the version.
    #[inline]
    pub fn nullable_slice(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.length(false)? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// NULLABLE_BYTES as [`nullable_slice`](Self::nullable_slice), but owned: shared with the input, or copied.
    pub fn nullable_bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        Ok(self.nullable_slice()?.map(|slice| self.own(slice)))
    }

    fn own(&self, slice: &'a [u8]) -> Bytes {
        match self.shared {
            Some(bytes) => bytes.slice_ref(slice),
            None => Bytes::copy_from_slice(slice),
        }
    }

    /// An array's count, none for null. Refused when `count` elements of at least `element_size_min` bytes each cannot
    /// fit into what remains.
    #[inline]
    pub fn nullable_count(&mut self, element_size_min: usize) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.length(false)? else { return Ok(None) };
        let left = self.rest.len();
        if count > left / element_size_min.max(1) {
            return Err(self.error(DecodeErrorKind::Count { count, left }));
        }
        Ok(Some(count))
    }

    /// An array's count, null refused; as [`nullable_count`](Self::nullable_count).
    #[inline]
    pub fn count(&mut self, element_size_min: usize) -> Result<usize, DecodeError> {
        match self.nullable_count(element_size_min)? {
            Some(count) => Ok(count),
            None => Err(self.error(DecodeErrorKind::Null)),
        }
    }

    /// An array of `count` elements. Reserves no more bytes than the rest of the input has, whatever `count` says.
    pub(crate) fn elements<T: Field>(&mut self, count: usize) -> Result<Vec<T>, DecodeError> {
        let reserve = count.min(1 + self.rest.len() / size_of::<T>().max(1));
        let mut elements = Vec::with_capacity(reserve.min(count));
        for _ in 0..count {
            elements.push(T::read_from(self)?);
        }
        Ok(elements)
    }

    /// Calls `each` with every tagged field's number and a reader over just its content.
    /// Borrowed: for walkers that decode in place. `each` returns whether it read the content; unread content is skipped.
    pub(crate) fn each_tag(
        &mut self,
        mut each: impl FnMut(u32, &mut Self) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.uvarint()? as usize;
        // A tagged field is at least its number and its size.
        if count > self.rest.len() / 2 {
            return Err(self.error(DecodeErrorKind::Count { count, left: self.rest.len() }));
        }
        for _ in 0..count {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let Some((content, behind)) = self.rest.split_at_checked(size) else {
                return Err(self.error(DecodeErrorKind::Truncated { wanted: size, left: self.rest.len() }));
            };
            // The content is read by this same reader, cut off at the field's end, so positions in errors stay right.
            self.rest = content;
            self.len -= behind.len();
            let read = each(tag, self)?;
            if read && !self.rest.is_empty() {
                return Err(self.error(DecodeErrorKind::TagSize(self.rest.len())));
            }
            self.len += behind.len();
            self.rest = behind;
        }
        Ok(())
    }

    /// Skips all tagged fields, if the version has any.
    pub fn skip_tags(&mut self) -> Result<(), DecodeError> {
        if self.flexible { self.each_tag(|_, _| Ok(false)) } else { Ok(()) }
    }

    /// Fails when bytes are left over.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(DecodeErrorKind::Trailing(self.rest.len()))) }
    }
}

impl Source for Reader<'_> {
    fn version(&self) -> i16 {
        self.version
    }

    fn get<T: Field>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        T::read_from(self.at(name))
    }

    fn get_inflexible<T: Field>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let value = T::read_from(self.at(name));
        self.flexible = flexible;
        value
    }

    fn get_tags(
        &mut self,
        known: &[(u32, &'static str)],
        mut read: impl FnMut(&mut Self, u32) -> Result<(), DecodeError>,
    ) -> Result<Vec<RawTag>, DecodeError> {
        let mut unknown = Vec::new();
        self.each_tag(|tag, reader| {
            let is_known = known.iter().any(|(number, _)| *number == tag);
            if is_known {
                read(reader, tag)?;
            } else {
                unknown.push(RawTag { tag, data: reader.own(reader.rest) });
            }
            Ok(is_known)
        })?;
        Ok(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_end_after_five_and_ten_bytes() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).uvarint(), Ok(u32::MAX));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint(), Ok(i32::MIN));
        assert_eq!(Reader::new(&[0x03]).varint(), Ok(-2));
        for overlong in [&[0xff, 0xff, 0xff, 0xff, 0x10][..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]] {
            let error = Reader::new(overlong).uvarint().unwrap_err();
            assert_eq!(error.kind, DecodeErrorKind::Varint);
        }
        let mut ten = [0xff; 10];
        ten[9] = 0x01;
        assert_eq!(Reader::new(&ten).uvarlong(), Ok(u64::MAX));
        assert_eq!(Reader::new(&ten).varlong(), Ok(i64::MIN));
        ten[9] = 0x02;
        assert_eq!(Reader::new(&ten).uvarlong().unwrap_err().kind, DecodeErrorKind::Varint);
        assert!(Reader::new(&[0x80; 11]).uvarlong().is_err());
        assert!(matches!(Reader::new(&[0x80]).uvarint().unwrap_err().kind, DecodeErrorKind::Truncated { .. }));
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_anything_is_reserved() {
        // 2^31 - 1 elements announced, 6 bytes left.
        let input = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
        let error = Reader::new(&input).count(4).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Count { count: 0x7fff_ffff, left: 6 });
        assert_eq!(
            Reader::new(&[0, 0, 0, 1, 9, 9, 9]).count(4).unwrap_err().kind,
            DecodeErrorKind::Count { count: 1, left: 3 }
        );
        assert_eq!(Reader::new(&[0, 0, 0, 1, 9, 9, 9, 9]).count(4), Ok(1));
        let error = Reader::new(&[0xff, 0xff, 0xff, 0xfe, 0]).count(1).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Length(-2));
    }

    #[test]
    fn a_tag_of_four_gigabytes_is_refused() {
        let mut reader = Reader::new(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3]);
        let error = reader.get_tags(&[], |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Truncated { wanted: u32::MAX as usize, left: 3 });
        let error = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]).get_tags(&[], |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Count { count: u32::MAX as usize, left: 2 });
    }

    #[test]
    fn shared_bytes_are_slices_of_the_input() {
        let input = Bytes::from_static(&[0, 0, 0, 3, 1, 2, 3]);
        let bytes = Reader::shared(&input).nullable_bytes().unwrap().unwrap();
        assert_eq!(bytes.as_ptr(), input[4..].as_ptr());
        let copied = Reader::new(&input).nullable_bytes().unwrap().unwrap();
        assert_eq!(copied, bytes);
        assert_ne!(copied.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn strings_are_short_and_utf8() {
        assert_eq!(Reader::new(&[0xff, 0xff]).nullable_str(), Ok(None));
        assert_eq!(Reader::new(&[0xff, 0xff]).str().unwrap_err().kind, DecodeErrorKind::Null);
        assert_eq!(Reader::new(&[0x80, 0x00]).str().unwrap_err().kind, DecodeErrorKind::Length(-32768));
        assert_eq!(Reader::new(&[0, 1, 0xff]).str().unwrap_err().kind, DecodeErrorKind::Utf8);
        let mut long = vec![0x81, 0x80, 0x02]; // compact length 32,768
        long.resize(40_000, b'x');
        let mut reader = Reader::new(&long);
        reader.start("", 0, true);
        assert_eq!(reader.str().unwrap_err().kind, DecodeErrorKind::Length(32_768));
    }
}
