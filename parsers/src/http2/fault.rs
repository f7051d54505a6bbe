//! What can be wrong with HTTP/2.

use crate::http1::HttpFault;

/// Why bytes can never become requests that everybody reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Http2Fault {
    /// The preface goes on otherwise than it must, or no SETTINGS follow it (RFC 9113 §3.4).
    #[error("the preface is not the one of HTTP/2, or SETTINGS do not follow it")]
    BadPreface,
    /// A frame of a wrong size, on a wrong stream, or where it must not be (RFC 9113 §6).
    #[error("a frame has a wrong size, stream or place")]
    BadFrame,
    /// A header block that cannot be decompressed (RFC 7541).
    #[error("a header block cannot be decompressed")]
    BadCompression,
    /// A pseudo-header is missing, there twice, unknown, after a field, or in trailers (RFC 9113 §8.3).
    #[error("a pseudo-header is missing, repeated, unknown or out of place")]
    BadPseudoHeader,
    /// A name that is not lower case or no token, or a value with control bytes or surrounding space (RFC 9113 §8.2.1).
    #[error("a field's name or value is malformed")]
    BadHeader,
    /// Connection, Proxy-Connection, Keep-Alive, Transfer-Encoding, Upgrade, or TE other than `trailers` (RFC 9113
    /// §8.2.2).
    #[error("a field about the connection")]
    ConnectionHeader,
    /// More than [`super::CONTINUATIONS_MAX`] CONTINUATION frames in one header block.
    #[error("a header block in too many frames")]
    TooManyContinuations,
    /// What is wrong with it is nothing particular to HTTP/2: host, path, method, sizes.
    #[error(transparent)]
    Request(#[from] HttpFault),
}
