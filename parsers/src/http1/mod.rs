//! HTTP/1.x requests, strict (RFC 9112, RFC 9110).
//!
//! The question is never "what could this mean?" but "can any two readers understand it differently?". If they can, the
//! request is [`HttpFault`]. Three parts, in the order in which bytes meet them:
//! - [`HeadScanner`] walks a request head byte by byte, across segments, and says as soon as it is certain that the bytes
//!   can never become a valid head. Line ends, spaces and control bytes are judged here, so no prefix that was let
//!   through as "incomplete" is a complete request for a more lenient reader;
//! - [`read_head`] splits a complete head with `httparse` and judges what needs the whole: target forms, Host, the
//!   length of the body, the path as policy matches it. The split must agree with the scanner's;
//! - [`ChunkedFollower`] walks a chunked body to its end.

mod chunked;
#[cfg(test)]
mod corpus;
mod fault;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod head;
mod host;
mod loose;
mod path;
mod scan;
#[cfg(test)]
mod tests;

pub use chunked::{CHUNK_LINE_MAX, ChunkProgress, ChunkedFollower, TRAILER_LINES_MAX, TRAILERS_LEN_MAX};
pub use fault::{HeadError, HttpFault};
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_chunked, fuzz_head, fuzz_path};
pub(crate) use head::content_length;
pub use head::{BodyLength, Headers, RequestHead, Version, parse_head, read_head};
pub use host::HOST_LEN_MAX;
pub(crate) use host::check_host;
pub use loose::{LooseHead, LooseScanner, read_loose};
pub use path::normalise_path;
pub use scan::{HeadScanner, LEADING_CRLF_MAX, METHOD_LEN_MAX};

/// Headers at most, whatever [`Limits`] says.
pub const HEADERS_MAX: usize = 100;

/// What a stranger may make us read for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request head, its empty line included.
    pub head_len_max: usize,
    /// Header lines of a request head; values above [`HEADERS_MAX`] count as [`HEADERS_MAX`].
    pub headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_len_max: 64 * 1024,
            headers_max: HEADERS_MAX,
        }
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'z' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z')
}

/// What a field value may hold (RFC 9110 §5.5): visible ASCII, space, tab and `obs-text`.
pub(crate) const fn is_field_value(byte: u8) -> bool {
    byte >= 0x20 && byte != 0x7f || byte == b'\t'
}

/// C0 control bytes and DEL.
const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}
