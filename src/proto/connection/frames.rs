//! Where frames begin and end in what arrives.
//!
//! ```text
//!   │ length i32 │ correlation id i32 │ tagged fields (flexible APIs) │ body … │
//! ```
//! Nothing is reserved by a length alone: a straddling frame's buffer grows by what arrived, and its length is checked
//! against the cap first (d4-85).

use super::cause::{Cause, PeerIncompatible, PeerMisbehaved};

/// Bytes of length prefix and correlation id.
pub(super) const FIXED: usize = 8;
/// The most bytes of tagged fields in a response header; Kafka sends one byte.
const TAGS_BYTES_MAX: usize = 4096;

/// What the oldest unanswered call says about the frame that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub correlation: i32,
    /// The response header has tagged fields.
    pub flexible: bool,
    /// The body may be given out before it is complete.
    pub parts: bool,
}

/// What the front of a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Front {
    /// Not enough yet: come again with this many bytes of the frame.
    Short(usize),
    /// All of it is there: body from `start` to `end`.
    Whole { start: usize, end: usize },
    /// The header is there and the body, from `start` to `end`, may be given out as it comes.
    Parts { start: usize, end: usize },
}

/// Looks at a frame's bytes so far. `first` is true until the peer has proven to be a Kafka broker.
pub(super) fn inspect(bytes: &[u8], due: Option<Due>, len_max: usize, first: bool) -> Result<Front, Cause> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(Front::Short(4)) };
    if first && let Some(stranger) = stranger(prefix) {
        return Err(stranger.into());
    }
    let len = i32::from_be_bytes(*prefix);
    let body_len = match usize::try_from(len) {
        Ok(len) if (4..=len_max).contains(&len) => len,
        _ => return Err(PeerMisbehaved::FrameLength(len).into()),
    };
    let end = 4 + body_len;
    let Some(due) = due else { return Err(PeerMisbehaved::Unasked.into()) };
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(Front::Short(FIXED)) };
    let got = i32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    if got != due.correlation {
        return Err(PeerMisbehaved::Correlation { expected: due.correlation, got }.into());
    }
    if !due.parts && bytes.len() < end {
        return Ok(Front::Short(end));
    }
    let start = if due.flexible {
        let header = &bytes[FIXED..bytes.len().min(end)];
        match skip_tags(header) {
            Some(len) => FIXED + len,
            // Incomplete: fine while the frame is not all here and the header not absurd.
            None if bytes.len() < end && header.len() < TAGS_BYTES_MAX => return Ok(Front::Short(bytes.len() + 1)),
            None => return Err(PeerMisbehaved::Header.into()),
        }
    } else {
        FIXED
    };
    Ok(if due.parts { Front::Parts { start, end } } else { Front::Whole { start, end } })
}

/// The length of a tagged fields section, if it is complete and sane.
fn skip_tags(bytes: &[u8]) -> Option<usize> {
    let (count, mut at) = varint(bytes, 0)?;
    // A tag is at least two bytes: its number and its length.
    for _ in 0..count {
        let (_tag, next) = varint(bytes, at)?;
        let (len, next) = varint(bytes, next)?;
        at = next.checked_add(len as usize)?;
        if at > bytes.len() {
            return None;
        }
    }
    Some(at)
}

/// An unsigned varint of at most 32 bits at `at`, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let mut value = 0u64;
    for i in 0..5 {
        let byte = *bytes.get(at + i)?;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, at + i + 1));
        }
    }
    None
}

/// Recognises the first bytes of an HTTP answer or of a TLS alert or handshake record (d4-77).
fn stranger(prefix: &[u8; 4]) -> Option<PeerIncompatible> {
    match prefix {
        b"HTTP" => Some(PeerIncompatible::SpeaksHttp),
        [0x15 | 0x16, 0x03, 0..=4, _] => Some(PeerIncompatible::SpeaksTls),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: Due = Due { correlation: 7, flexible: true, parts: false };

    fn frame(len: i32, correlation: i32, rest: &[u8]) -> Vec<u8> {
        [&len.to_be_bytes()[..], &correlation.to_be_bytes(), rest].concat()
    }

    #[test]
    fn a_frame_is_whole_only_with_its_last_byte() {
        let bytes = frame(7, 7, &[0, 1, 2]);
        for cut in 0..bytes.len() {
            assert!(matches!(inspect(&bytes[..cut], Some(DUE), 100, false), Ok(Front::Short(n)) if n > cut), "{cut}");
        }
        assert_eq!(inspect(&bytes, Some(DUE), 100, false), Ok(Front::Whole { start: 9, end: 11 }));
        let parts = Due { parts: true, ..DUE };
        assert_eq!(inspect(&bytes[..9], Some(parts), 100, false), Ok(Front::Parts { start: 9, end: 11 }));
    }

    #[test]
    fn header_tags_are_skipped_and_must_fit() {
        let tagged = frame(4 + 5 + 1, 7, &[1, 9, 2, 0xaa, 0xbb, 0xcc]);
        assert_eq!(inspect(&tagged, Some(DUE), 100, false), Ok(Front::Whole { start: 13, end: 14 }));
        let lying = frame(4 + 3, 7, &[1, 9, 200]);
        assert_eq!(inspect(&lying, Some(DUE), 100, false), Err(PeerMisbehaved::Header.into()));
        let overlong = frame(4 + 6, 7, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
        assert_eq!(inspect(&overlong, Some(DUE), 100, false), Err(PeerMisbehaved::Header.into()));
    }
}
