//! Kafka's record integers: zigzag varints of 1-5 bytes and varlongs of 1-10 bytes.

/// Longest varint, in bytes.
pub const VARINT_BYTES_MAX: usize = 5;
/// Longest varlong, in bytes.
pub const VARLONG_BYTES_MAX: usize = 10;

/// A varint ran past the end of the bytes, past its longest form, or past its type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadVarint;

/// Bytes that `value` takes as a varint.
#[inline]
pub const fn varint_len(value: i32) -> usize {
    varlong_len(value as i64)
}

/// Bytes that `value` takes as a varlong.
#[inline]
pub const fn varlong_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    match zigzag {
        ..0x80 => 1,
        0x80..0x4000 => 2,
        // Seven bits a byte.
        _ => (70 - zigzag.leading_zeros() as usize) / 7,
    }
}

/// Writes `value` to the front of `out` and says how many bytes that took. `out` must have [`VARLONG_BYTES_MAX`] bytes.
#[inline]
pub fn write_varlong(value: i64, out: &mut [u8]) -> usize {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    if zigzag < 0x80 {
        out[0] = zigzag as u8;
        return 1;
    }
    let mut at = 0;
    while zigzag >= 0x80 {
        out[at] = zigzag as u8 | 0x80;
        zigzag >>= 7;
        at += 1;
    }
    out[at] = zigzag as u8;
    at + 1
}

/// Appends `value`.
#[inline]
pub fn push_varint(value: i32, out: &mut Vec<u8>) {
    let mut bytes = [0; VARLONG_BYTES_MAX];
    let len = write_varlong(i64::from(value), &mut bytes);
    out.extend_from_slice(&bytes[..len]);
}

/// Reads a varint at `at` and moves `at` behind it.
#[inline]
pub fn read_varint(bytes: &[u8], at: &mut usize) -> Result<i32, BadVarint> {
    let first = *bytes.get(*at).ok_or(BadVarint)?;
    if first < 0x80 {
        *at += 1;
        return Ok(unzigzag(u64::from(first)) as i32);
    }
    let zigzag = read_long(bytes, at, VARINT_BYTES_MAX)?;
    if zigzag > u64::from(u32::MAX) {
        return Err(BadVarint);
    }
    Ok(unzigzag(zigzag) as i32)
}

/// Reads a varlong at `at` and moves `at` behind it.
#[inline]
pub fn read_varlong(bytes: &[u8], at: &mut usize) -> Result<i64, BadVarint> {
    let first = *bytes.get(*at).ok_or(BadVarint)?;
    if first < 0x80 {
        *at += 1;
        return Ok(unzigzag(u64::from(first)));
    }
    Ok(unzigzag(read_long(bytes, at, VARLONG_BYTES_MAX)?))
}

/// Takes a varint off the front. Lengths and deltas of up to three bytes are read in place: a batch of telemetry has
/// fifteen of them a record.
#[inline(always)]
pub fn take_varint(bytes: &mut &[u8]) -> Result<i32, BadVarint> {
    let (zigzag, rest) = match **bytes {
        [a, ref rest @ ..] if a < 0x80 => (u32::from(a), rest),
        [a, b, ref rest @ ..] if b < 0x80 => (u32::from(a & 0x7f) | u32::from(b) << 7, rest),
        [a, b, c, ref rest @ ..] if c < 0x80 => {
            (u32::from(a & 0x7f) | u32::from(b & 0x7f) << 7 | u32::from(c) << 14, rest)
        }
        _ => return take_long_varint(bytes),
    };
    *bytes = rest;
    Ok((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32))
}

/// As [`take_varint`], for a varlong.
#[inline(always)]
pub fn take_varlong(bytes: &mut &[u8]) -> Result<i64, BadVarint> {
    let (zigzag, rest) = match **bytes {
        [a, ref rest @ ..] if a < 0x80 => (u64::from(a), rest),
        [a, b, ref rest @ ..] if b < 0x80 => (u64::from(a & 0x7f) | u64::from(b) << 7, rest),
        _ => return take_long_varlong(bytes),
    };
    *bytes = rest;
    Ok(unzigzag(zigzag))
}

#[cold]
#[inline(never)]
fn take_long_varlong(bytes: &mut &[u8]) -> Result<i64, BadVarint> {
    let mut at = 0;
    let value = read_varlong(bytes, &mut at)?;
    *bytes = &bytes[at..];
    Ok(value)
}

#[cold]
#[inline(never)]
fn take_long_varint(bytes: &mut &[u8]) -> Result<i32, BadVarint> {
    let mut at = 0;
    let value = read_varint(bytes, &mut at)?;
    *bytes = &bytes[at..];
    Ok(value)
}

#[inline]
const fn unzigzag(zigzag: u64) -> i64 {
    (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
}

#[inline]
fn read_long(bytes: &[u8], at: &mut usize, bytes_max: usize) -> Result<u64, BadVarint> {
    let rest = bytes.get(*at..).ok_or(BadVarint)?;
    let mut value = 0u64;
    for (i, byte) in rest.iter().take(bytes_max).enumerate() {
        // The tenth byte of a varlong has room for one bit.
        if i == 9 && *byte > 1 {
            return Err(BadVarint);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            *at += i + 1;
            return Ok(value);
        }
    }
    Err(BadVarint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back(value: i64, small in -300i64..300) {
            for value in [value, small] {
                let mut bytes = [0xff; VARLONG_BYTES_MAX];
                let len = write_varlong(value, &mut bytes);
                prop_assert_eq!(len, varlong_len(value));
                let mut at = 0;
                prop_assert_eq!(read_varlong(&bytes, &mut at), Ok(value));
                prop_assert_eq!(at, len);
                for end in 0..len {
                    prop_assert_eq!(read_varlong(&bytes[..end], &mut 0), Err(BadVarint));
                }
                let as_int = read_varint(&bytes, &mut 0);
                let mut rest = &bytes[..];
                prop_assert_eq!(take_varint(&mut rest), as_int);
                prop_assert_eq!(rest.len(), if as_int.is_ok() { bytes.len() - len } else { bytes.len() });
                for end in 0..len {
                    prop_assert_eq!(take_varint(&mut &bytes[..end]), Err(BadVarint));
                }
                prop_assert_eq!(as_int, i32::try_from(value).map_err(|_| BadVarint));
            }
        }
    }

    #[test]
    fn overlong_forms_are_refused() {
        assert_eq!(read_varint(&[0x80; 6], &mut 0), Err(BadVarint));
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0x1f], &mut 0), Err(BadVarint));
        assert_eq!(read_varlong(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], &mut 0), Err(BadVarint));
        assert_eq!(read_varlong(&[], &mut 3), Err(BadVarint));
    }

    #[test]
    fn the_extremes_have_kafkas_lengths() {
        assert_eq!((varlong_len(0), varlong_len(-64), varlong_len(64)), (1, 1, 2));
        assert_eq!((varint_len(i32::MIN), varint_len(i32::MAX)), (5, 5));
        assert_eq!((varlong_len(i64::MIN), varlong_len(i64::MAX)), (10, 10));
    }
}
