//! What can be wrong with a request.

/// Why bytes can never become a request that everybody reads alike. Each fault stands for one class and is reported as
/// one drop reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HttpFault {
    /// Not `METHOD SP target SP HTTP/1.x CRLF` (RFC 9112 §3): spaces, a method longer than [`super::METHOD_LEN_MAX`], a
    /// target that begins like no form, bytes outside ASCII.
    #[error("the request line is not `METHOD SP target SP HTTP/1.x`")]
    BadRequestLine,
    /// Methods are case-sensitive (RFC 9110 §9.1), and not every server keeps to it.
    #[error("the method has lower-case letters")]
    LowerCaseMethod,
    /// The version is not HTTP/1.0 or HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    BadVersion,
    /// The request line ends after the target: HTTP/0.9.
    #[error("the request line has no version")]
    OldProtocol,
    /// A NUL or other control byte in the head.
    #[error("a control byte in the request head")]
    ControlByte,
    /// CR without LF, or LF without CR (RFC 9112 §2.2).
    #[error("a line ends with a bare CR or LF")]
    BareLineEnd,
    /// More empty lines before the request than [`super::LEADING_CRLF_MAX`].
    #[error("too many empty lines before the request")]
    EmptyLines,
    /// More bytes than [`super::Limits::head_len_max`].
    #[error("the request head is too large")]
    HeadTooLarge,
    /// More header lines than [`super::Limits::headers_max`].
    #[error("the request has too many headers")]
    TooManyHeaders,
    /// A header line that is not `name: value CRLF` (RFC 9112 §5) in a way that has no fault of its own: no colon, an
    /// empty name, a name of other bytes than a token's.
    #[error("a header line is malformed")]
    BadHeader,
    /// A header line begins with a space or tab (RFC 9112 §5.2).
    #[error("a header line is folded")]
    FoldedHeader,
    /// Space or tab in a name or before its colon (RFC 9112 §5.1).
    #[error("space before the colon of a header")]
    SpaceBeforeColon,
    /// `Content_Length` or `Transfer_Encoding`: gateways that make environment variables of names read it as the other.
    #[error("a header about framing is written with an underscore")]
    UnderscoreHeader,
    /// Content-Length and Transfer-Encoding together (RFC 9112 §6.1).
    #[error("both Content-Length and Transfer-Encoding are there")]
    AmbiguousLength,
    /// More than one Content-Length, equal ones too.
    #[error("Content-Length is there more than once")]
    RepeatedLength,
    /// Content-Length is not plain digits without a leading zero, or exceeds a signed 64-bit number.
    #[error("Content-Length is not a plain number")]
    BadLength,
    /// Transfer-Encoding is not exactly one `chunked` (RFC 9112 §6.1).
    #[error("Transfer-Encoding is not exactly `chunked`")]
    BadTransferCoding,
    /// Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1).
    #[error("Transfer-Encoding in HTTP/1.0")]
    TransferCodingInOldVersion,
    /// HTTP/1.1 without Host (RFC 9112 §3.2).
    #[error("there is no host")]
    MissingHost,
    /// More than one Host (RFC 9112 §3.2).
    #[error("Host is there more than once")]
    RepeatedHost,
    /// The host is not `name[:port]` or `[address][:port]`.
    #[error("the host is invalid")]
    BadHost,
    /// Host is another than the authority in the target (RFC 9112 §3.2.2).
    #[error("Host contradicts the target")]
    HostContradictsTarget,
    /// The form of the target does not fit the method (RFC 9112 §3.2): `*` without OPTIONS, a scheme other than http, a
    /// bare authority without CONNECT, CONNECT with anything else.
    #[error("the target has not the form that its method wants")]
    BadTargetForm,
    /// The path has no single normal form (RFC 3986 §6.2.2): see [`super::normalise_path`].
    #[error("the path cannot be normalised to one meaning")]
    AmbiguousPath,
    /// Expect is not exactly one `100-continue` (RFC 9110 §10.1.1), or stands in HTTP/1.0.
    #[error("Expect is not `100-continue`")]
    BadExpectation,
    /// More than one Upgrade header.
    #[error("Upgrade is there more than once")]
    RepeatedUpgrade,
    /// A chunk's size or end is malformed (RFC 9112 §7.1).
    #[error("a chunk is malformed")]
    BadChunk,
    /// A chunk's extension is malformed or longer than [`super::CHUNK_LINE_MAX`] (RFC 9112 §7.1.1).
    #[error("the extension of a chunk is malformed")]
    BadChunkExtension,
    /// A trailer is malformed, too long, or names what must stand in the head (RFC 9110 §6.5.1).
    #[error("a trailer is malformed or not allowed")]
    BadTrailer,
    /// The client preface of HTTP/2 (RFC 9113 §3.4).
    #[error("the connection speaks HTTP/2")]
    Http2Preface,
    /// A TLS record where a request should begin (RFC 8446 §5.1: content type 22).
    #[error("the connection speaks TLS")]
    Tls,
    /// Anything else where a request should begin.
    #[error("the connection does not begin with a request")]
    NotHttp,
}

/// Why there is no request head (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// What is there can still become a valid head.
    #[error("the request head is not complete")]
    Incomplete,
    /// It cannot.
    #[error(transparent)]
    Invalid(#[from] HttpFault),
}
