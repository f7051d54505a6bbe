//! What can be wrong with a first flight.

/// Why bytes can never become a ClientHello that everybody reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TlsFault {
    /// The first bytes are no TLS record of a known version (RFC 8446 §5.1).
    #[error("the connection does not speak TLS")]
    NotTls,
    /// A hello in the form of SSL 2 (RFC 5246 appendix E.2), which names no server and which RFC 6176 forbids.
    #[error("the connection begins with an SSL 2 hello")]
    Sslv2Hello,
    /// TLS, but its first handshake message, or its first record, is something else.
    #[error("the connection does not begin with a ClientHello")]
    NotClientHello,
    /// A record of another kind between two parts of the ClientHello (RFC 8446 §5.1).
    #[error("another record stands inside the ClientHello")]
    Interleaved,
    /// A record without content or with more than [`super::RECORD_LEN_MAX`] bytes, or one of another protocol's
    /// version where the ClientHello goes on.
    #[error("a record's header is invalid")]
    BadRecord,
    /// More bytes follow the ClientHello in its last record: no client may send any before it has the server's answer
    /// (RFC 8446 §5.1: a message before a change of keys ends its record).
    #[error("something follows the ClientHello in its record")]
    Coalesced,
    /// More bytes than [`super::Limits::hello_len_max`].
    #[error("the ClientHello is too large")]
    TooLarge,
    /// A length inside does not fit, a list is empty that may not be, or bytes are left over.
    #[error("the ClientHello contradicts itself")]
    Malformed,
    /// An extension occurs twice (RFC 8446 §4.2), so two readers may each take another one.
    #[error("an extension occurs twice")]
    DuplicateExtension,
    /// More than one name, or a name of an unknown kind, in the server name extension (RFC 6066 §3).
    #[error("the server name extension holds more than one name")]
    SeveralNames,
    /// The server name is empty, longer than [`super::SERVER_NAME_LEN_MAX`], or holds bytes that are not visible ASCII
    /// (RFC 6066 §3 wants ASCII; names in other scripts come as `xn--…`).
    #[error("the server name is not plain ASCII text")]
    BadName,
}

/// Why there is no ClientHello (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// What is there can still become one.
    #[error("the ClientHello is not complete")]
    Incomplete,
    /// It cannot.
    #[error(transparent)]
    Invalid(#[from] TlsFault),
}
