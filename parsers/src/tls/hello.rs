//! A complete ClientHello.

use super::{CLIENT_HELLO, HELLO_LEN_MAX, Limits, Reader, TLS_1_3, TlsFault};
use std::borrow::Cow;

/// Bytes of a server name at most: the longest DNS name.
pub const SERVER_NAME_LEN_MAX: usize = 255;
/// Extensions of a ClientHello at most; browsers send about twenty.
pub const EXTENSIONS_MAX: usize = 128;
/// Protocols that [`Alpn::iter`] gives at most; the list itself is read whole.
pub const ALPN_PROTOCOLS_MAX: usize = 32;

/// Extension types (registry at IANA).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Kind of name in the server name extension (RFC 6066 §3).
const HOST_NAME: u8 = 0;
/// Kind of Encrypted ClientHello that clients send outside (RFC 9849 §5).
const ECH_OUTER: u8 = 0;

/// What a ClientHello says of the server it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The name in lower case; `None` if there is none. With `ech` it is the outer name: all that anybody between the
    /// client and the server can see.
    pub server_name: Option<Cow<'a, str>>,
    /// `legacy_version`: 0x0301 for TLS 1.0 to 0x0303 for TLS 1.2 and 1.3.
    pub legacy_version: u16,
    /// The highest version offered, values of GREASE (RFC 8701) left out.
    pub version: u16,
    /// TLS 1.3 is offered: a server may ask for a second ClientHello.
    pub offers_tls13: bool,
    /// Protocols offered, in the client's order.
    pub alpn: Alpn<'a>,
    /// Encrypted ClientHello (RFC 9849) is offered; clients also pretend to (GREASE), which nobody can tell apart.
    pub ech: bool,
    /// Early data is announced (RFC 8446 §4.2.10).
    pub early_data: bool,
}

/// The list of the ALPN extension (RFC 7301).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alpn<'a>(&'a [u8]);

impl<'a> Alpn<'a> {
    /// The first [`ALPN_PROTOCOLS_MAX`] protocols.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut list = Reader(self.0);
        std::iter::from_fn(move || list.vector_u8().map(|protocol| protocol.0)).take(ALPN_PROTOCOLS_MAX)
    }
}

/// Length of the ClientHello message that begins with `bytes`, its four header bytes included; `None` if too few of
/// them are there to know it.
///
/// # Errors
/// [`TlsFault::NotClientHello`] or [`TlsFault::TooLarge`].
pub fn message_len(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, TlsFault> {
    if bytes.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(TlsFault::NotClientHello);
    }
    let Some(&[_, high, middle, low]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let body = u32::from_be_bytes([0, high, middle, low]);
    let len = usize::try_from(body).unwrap_or(usize::MAX).saturating_add(4);
    if len > limits.hello_len_max.min(HELLO_LEN_MAX) {
        return Err(TlsFault::TooLarge);
    }
    Ok(Some(len))
}

/// Reads a whole ClientHello message, its four header bytes included.
///
/// # Errors
/// [`TlsFault`] if it is none or if two readers could understand it differently.
pub fn read_hello(message: &[u8]) -> Result<ClientHello<'_>, TlsFault> {
    let body = client_hello_body(message)?;
    let (rest, hello) = tls_parser::parse_tls_handshake_client_hello(body).map_err(|_| TlsFault::Malformed)?;
    if !rest.is_empty() || hello.ciphers.is_empty() || hello.comp.is_empty() || hello.version.0 >> 8 != 3 {
        return Err(TlsFault::Malformed);
    }
    let mut read = ClientHello {
        server_name: None,
        legacy_version: hello.version.0,
        version: hello.version.0,
        offers_tls13: false,
        alpn: Alpn::default(),
        ech: false,
        early_data: false,
    };
    read_extensions(Reader(hello.ext.unwrap_or_default()), &mut read)?;
    Ok(read)
}

fn client_hello_body(message: &[u8]) -> Result<&[u8], TlsFault> {
    let (header, body) = message.split_first_chunk::<4>().ok_or(TlsFault::Malformed)?;
    let [kind, high, middle, low] = *header;
    if kind != CLIENT_HELLO {
        return Err(TlsFault::NotClientHello);
    }
    let len = u32::from_be_bytes([0, high, middle, low]);
    if usize::try_from(len) != Ok(body.len()) {
        return Err(TlsFault::Malformed);
    }
    Ok(body)
}

fn read_extensions<'a>(mut list: Reader<'a>, read: &mut ClientHello<'a>) -> Result<(), TlsFault> {
    let mut seen = Vec::new();
    while !list.is_empty() {
        let kind = list.u16().ok_or(TlsFault::Malformed)?;
        let content = list.vector_u16().ok_or(TlsFault::Malformed)?;
        if seen.len() >= EXTENSIONS_MAX {
            return Err(TlsFault::TooLarge);
        }
        seen.push(kind);
        read_extension(kind, content, read)?;
    }
    seen.sort_unstable();
    if seen.array_windows().any(|[a, b]| a == b) {
        return Err(TlsFault::DuplicateExtension);
    }
    Ok(())
}

fn read_extension<'a>(kind: u16, content: Reader<'a>, read: &mut ClientHello<'a>) -> Result<(), TlsFault> {
    match kind {
        SERVER_NAME => {
            let name = read_server_name(content)?;
            read.server_name = Some(lower_case(name));
        }
        ALPN => read.alpn = read_alpn(content)?,
        SUPPORTED_VERSIONS => read_versions(content, read)?,
        EARLY_DATA if content.is_empty() => read.early_data = true,
        EARLY_DATA => return Err(TlsFault::Malformed),
        // The inner form is never sent in the clear; who sends it means to confuse somebody.
        ENCRYPTED_CLIENT_HELLO if content.0.first() == Some(&ECH_OUTER) => read.ech = true,
        ENCRYPTED_CLIENT_HELLO => return Err(TlsFault::Malformed),
        _ => {}
    }
    Ok(())
}

fn read_server_name(mut content: Reader<'_>) -> Result<&str, TlsFault> {
    let mut names = content.vector_u16().ok_or(TlsFault::Malformed)?;
    if !content.is_empty() || names.is_empty() {
        return Err(TlsFault::Malformed);
    }
    if names.u8() != Some(HOST_NAME) {
        // The form of other kinds is not defined, so nothing after it can be read.
        return Err(TlsFault::SeveralNames);
    }
    let name = names.vector_u16().ok_or(TlsFault::Malformed)?;
    if !names.is_empty() {
        return Err(TlsFault::SeveralNames);
    }
    let plain = !name.is_empty() && name.0.len() <= SERVER_NAME_LEN_MAX && name.0.iter().all(u8::is_ascii_graphic);
    if !plain {
        return Err(TlsFault::BadName);
    }
    std::str::from_utf8(name.0).map_err(|_| TlsFault::BadName)
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn read_alpn(mut content: Reader<'_>) -> Result<Alpn<'_>, TlsFault> {
    let list = content.vector_u16().ok_or(TlsFault::Malformed)?;
    let mut rest = list;
    while !rest.is_empty() {
        let protocol = rest.vector_u8().ok_or(TlsFault::Malformed)?;
        if protocol.is_empty() {
            return Err(TlsFault::Malformed);
        }
    }
    if !content.is_empty() || list.is_empty() {
        return Err(TlsFault::Malformed);
    }
    Ok(Alpn(list.0))
}

fn read_versions(mut content: Reader<'_>, read: &mut ClientHello<'_>) -> Result<(), TlsFault> {
    let mut list = content.vector_u8().ok_or(TlsFault::Malformed)?;
    if !content.is_empty() || list.is_empty() {
        return Err(TlsFault::Malformed);
    }
    let mut highest = None;
    while !list.is_empty() {
        let version = list.u16().ok_or(TlsFault::Malformed)?;
        if !is_grease(version) {
            highest = highest.max(Some(version));
            // Drafts of TLS 1.3 (0x7f..) had the second ClientHello, too.
            read.offers_tls13 |= version == TLS_1_3 || version >> 8 == 0x7f;
        }
    }
    // The extension replaces the old field (RFC 8446 §4.2.1).
    read.version = highest.unwrap_or(read.legacy_version);
    Ok(())
}

/// Values that clients sprinkle in so that servers learn to pass over what they do not know (RFC 8701).
const fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && high & 0x0f == 0x0a
}
