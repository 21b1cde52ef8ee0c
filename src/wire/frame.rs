//! Frames: a 4-byte length, a header, a message body.
//!
//! ```text
//!   INT32 length │ request header (v1, v2) or response header (v0, v1) │ body
//! ```
//! A frame's length is checked against a cap before anybody makes room for it.

use super::api_key::ApiKey;
use super::error::{DecodeError, EncodeError};
use super::message::{Message, Request};
pub use super::messages::{RequestHeader, ResponseHeader};
use super::reader::Reader;
use super::writer::Writer;

/// The most bytes a frame may announce unless the caller says otherwise: Kafka's `socket.request.max.bytes` default,
/// 100 MiB. A fetch link uses its grant instead.
pub const FRAME_BYTES_MAX: usize = 100 << 20;

/// The length prefix, in bytes.
pub const PREFIX_BYTES: usize = 4;

/// A length prefix that no frame can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes was announced, {max} are allowed{}", self.hint())]
pub struct FrameLengthError {
    /// What the prefix says.
    pub announced: i32,
    /// What was allowed.
    pub max: usize,
}

impl FrameLengthError {
    /// What the peer speaks instead of Kafka's protocol, judging by these four bytes.
    pub fn peer_speaks(&self) -> Option<&'static str> {
        match self.announced.to_be_bytes() {
            [b'H', b'T', b'T', b'P'] => Some("HTTP"),
            // A TLS record: alert or handshake, then the protocol's major version, which is 3 for all of TLS.
            [0x15 | 0x16, 3, _, _] => Some("TLS"),
            _ => None,
        }
    }

    fn hint(&self) -> String {
        self.peer_speaks().map_or(String::new(), |what| format!(" (the peer seems to speak {what}, check the port)"))
    }
}

/// Cuts a stream of bytes into frames. Holds nothing but the cap: the bytes stay where they are.
#[derive(Clone, Copy, Debug)]
pub struct FrameReader {
    bytes_max: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }
}

impl FrameReader {
    /// Allows frames of up to `bytes_max` bytes, not counting the prefix.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max }
    }

    /// The length that a frame's prefix announces, none while fewer than 4 bytes are there.
    /// At least 4: every frame begins with an API key and version, or a correlation id.
    pub fn length(&self, input: &[u8]) -> Result<Option<usize>, FrameLengthError> {
        let Some(prefix) = input.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let announced = i32::from_be_bytes(*prefix);
        match usize::try_from(announced) {
            Ok(length) if (4..=self.bytes_max).contains(&length) => Ok(Some(length)),
            _ => Err(FrameLengthError { announced, max: self.bytes_max }),
        }
    }

    /// The first whole frame of `input` without its prefix, none while it is incomplete. The next frame begins
    /// [`PREFIX_BYTES`] + its length later.
    pub fn frame<'a>(&self, input: &'a [u8]) -> Result<Option<&'a [u8]>, FrameLengthError> {
        Ok(self.length(input)?.and_then(|length| input.get(PREFIX_BYTES..PREFIX_BYTES + length)))
    }
}

/// Fills the length prefix that begins at `start`, once everything behind it is written.
pub fn fill_length(start: usize, out: &mut [u8]) -> bool {
    let Some(length) = out.len().checked_sub(start + PREFIX_BYTES) else { return false };
    let Ok(length) = i32::try_from(length) else { return false };
    out[start..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    true
}

/// Appends the header of a request of `key` at `version`, without a length prefix. The header's own version follows
/// from both.
pub fn encode_request_header(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    // By hand, because the generated header would own a copy of the client id.
    let mut writer = Writer::new(out);
    writer.start(RequestHeader::NAME, version, false);
    let start = writer.position();
    writer.i16(key as i16);
    writer.i16(version);
    writer.i32(correlation_id);
    let done = writer.at("clientId").nullable_str(client_id);
    if done.is_err() {
        writer.rewind(start);
    } else if key.request_header_version(version) >= 2 {
        // No tagged fields.
        writer.uvarint(0);
    }
    done
}

/// Appends a whole request frame: length, header, body. On error nothing is appended.
pub fn encode_request<R: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    let done = encode_request_header(R::KEY, version, correlation_id, client_id, out)
        .and_then(|()| request.encode(version, &mut Writer::new(out)));
    finish(start, done, out)
}

/// Appends a whole response frame to the request of `correlation_id`: length, header, body. For brokers. On error
/// nothing is appended.
pub fn encode_response<R: super::Response>(
    version: i16,
    correlation_id: i32,
    response: &R,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    let header = ResponseHeader { correlation_id, ..ResponseHeader::default() };
    let done = header
        .encode(R::KEY.response_header_version(version), &mut Writer::new(out))
        .and_then(|()| response.encode(version, &mut Writer::new(out)));
    finish(start, done, out)
}

fn finish(start: usize, done: Result<(), EncodeError>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if done.is_err() {
        out.truncate(start);
        return done;
    }
    if !fill_length(start, out) {
        let kind = super::EncodeErrorKind::TooLong(out.len() - start);
        out.truncate(start);
        return Err(EncodeError { message: "frame", version: 0, field: "length", kind });
    }
    Ok(())
}

/// Reads a request frame's header (the frame without its prefix), leaving the body in the reader. For brokers.
/// None for an API that clients do not use. Any version is accepted here: a broker answers an unknown version of
/// ApiVersions instead of hanging up (KIP-511).
pub fn decode_request_header(input: &mut Reader<'_>) -> Result<(Option<ApiKey>, RequestHeader), DecodeError> {
    let mut peek = input.clone();
    peek.start(RequestHeader::NAME, 1, false);
    let key = ApiKey::try_from(peek.at("requestApiKey").i16()?).ok();
    let version = peek.at("requestApiVersion").i16()?;
    let header_version = key.map_or(1, |key| key.request_header_version(version));
    Ok((key, RequestHeader::decode(header_version, input)?))
}

/// Reads a response frame's header (the frame without its prefix), leaving the body in the reader.
pub fn decode_response_header(
    key: ApiKey,
    version: i16,
    input: &mut Reader<'_>,
) -> Result<ResponseHeader, DecodeError> {
    ResponseHeader::decode(key.response_header_version(version), input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::{ApiVersionsRequest, ApiVersionsResponse};

    #[test]
    fn d1_77_a_peer_that_speaks_http_or_tls_is_named() {
        for (answer, what) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Some("HTTP")),
            (&[0x15, 3, 1, 0, 2, 2, 40], Some("TLS")),
            (&[0x16, 3, 3, 0, 100], Some("TLS")),
            (&[0x7f, 0xff, 0xff, 0xff], None),
        ] {
            let error = FrameReader::default().length(answer).unwrap_err();
            assert_eq!(error.peer_speaks(), what);
            assert_eq!(error.to_string().contains("the peer seems to speak"), what.is_some(), "{error}");
        }
    }

    #[test]
    fn d1_85_a_frame_is_refused_by_its_length_before_it_is_there() {
        let reader = FrameReader::new(1000);
        assert_eq!(reader.length(&[0, 0, 3]), Ok(None));
        assert_eq!(reader.length(&[0, 0, 3, 0xe8]), Ok(Some(1000)));
        for wrong in
            [[0, 0, 3, 0xe9], [0xff, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 3]]
        {
            let announced = i32::from_be_bytes(wrong);
            assert_eq!(reader.length(&wrong), Err(FrameLengthError { announced, max: 1000 }));
        }
        let two = [0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 5, 1];
        assert_eq!(reader.frame(&two), Ok(Some(&two[4..8])));
        assert_eq!(reader.frame(&two[8..]), Ok(None));
    }

    #[test]
    fn a_request_frame_comes_back() {
        let mut out = vec![7];
        let request = ApiVersionsRequest { client_software_name: "ottla".into(), ..Default::default() };
        encode_request(3, 42, Some("me"), &request, &mut out).unwrap();
        let frame = FrameReader::default().frame(&out[1..]).unwrap().unwrap();
        let wanted = RequestHeader {
            request_api_key: 18,
            request_api_version: 3,
            correlation_id: 42,
            client_id: Some("me".into()),
            ..Default::default()
        };
        assert!(frame.starts_with(&wanted.to_bytes(2).unwrap()));
        let mut reader = Reader::new(frame);
        let (key, header) = decode_request_header(&mut reader).unwrap();
        assert_eq!(key, Some(ApiKey::ApiVersions));
        assert_eq!((header.correlation_id, header.client_id.as_deref()), (42, Some("me")));
        assert_eq!(ApiVersionsRequest::decode(3, &mut reader).unwrap(), request);
        reader.finish().unwrap();
    }

    #[test]
    fn the_answer_to_api_versions_has_the_old_header_at_every_version() {
        for version in 0..=4 {
            assert_eq!(ApiKey::ApiVersions.response_header_version(version), 0);
        }
        assert_eq!(ApiKey::Metadata.response_header_version(9), 1);
        let mut out = Vec::new();
        encode_response(3, 9, &ApiVersionsResponse::default(), &mut out).unwrap();
        let mut reader = Reader::new(&out[4..]);
        assert_eq!(decode_response_header(ApiKey::ApiVersions, 3, &mut reader).unwrap().correlation_id, 9);
        assert_eq!(reader.position(), 4);
    }

    #[test]
    fn a_failed_encoding_leaves_nothing_behind() {
        let mut out = vec![1, 2, 3];
        let request = ApiVersionsRequest { client_software_name: "x".repeat(40_000), ..Default::default() };
        assert!(encode_request(3, 1, None, &request, &mut out).is_err());
        assert!(encode_request(99, 1, None, &request, &mut out).is_err());
        assert_eq!(out, [1, 2, 3]);
    }
}
