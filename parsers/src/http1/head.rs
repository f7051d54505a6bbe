//! A complete request head as a validated view.

use super::host::check_host;
use super::path::normalise_path;
use super::{HEADERS_MAX, HeadError, HeadScanner, HttpFault, Limits, LooseHead};
use std::borrow::Cow;

/// Most requests have fewer headers; clearing the larger table would cost more than reading them.
const HEADERS_USUAL: usize = 24;

/// Version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2; [`crate::http2`] reads it.
    Http2,
}

impl Version {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What follows the head (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Nothing.
    None,
    /// So many bytes, not 0.
    Fixed(u64),
    /// Chunks: see [`super::ChunkedFollower`].
    Chunked,
}

/// A request head in which every part has one meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// Upper-case token.
    pub method: &'a str,
    /// As sent.
    pub target: &'a str,
    /// What policy matches: normalised path with the query as sent; `*` for `OPTIONS *`; empty for CONNECT, which names
    /// no path.
    pub path: Cow<'a, str>,
    /// `host[:port]` as sent; only HTTP/1.0 may lack it.
    pub host: Option<&'a str>,
    /// Version.
    pub version: Version,
    /// Length of the body.
    pub body: BodyLength,
    /// Value of the Upgrade header, if there is one: the client offers to speak something else (RFC 9110 §7.8).
    pub upgrade: Option<&'a [u8]>,
    /// Header lines.
    pub headers: Headers<'a>,
    /// Bytes of the head, leading and final empty line included; 0 for HTTP/2, which has no lines.
    pub head_len: usize,
}

impl<'a> RequestHead<'a> {
    /// As a request that is only shown.
    #[must_use]
    pub fn loosely(&self) -> LooseHead<'a> {
        LooseHead {
            method: self.method,
            target: self.target,
            host: self.host.unwrap_or_default(),
            body: self.body,
            version: self.version,
        }
    }
}

/// The header lines of a head, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    /// `name: value CRLF` lines that the scanner has accepted, without the final empty line.
    lines: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Of lines that were made from fields whose names and values are sound.
    pub(crate) const fn of_lines(lines: &'a [u8]) -> Self {
        Self { lines }
    }

    /// `(name as sent, value without surrounding space)` of each line.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut lines = self.lines;
        std::iter::from_fn(move || {
            let (name, rest) = lines.split_at_checked(lines.iter().position(|&b| b == b':')?)?;
            let rest = rest.get(1..)?;
            let (value, rest) = rest.split_at_checked(rest.iter().position(|&b| b == b'\r')?)?;
            lines = rest.get(2..)?;
            Some((std::str::from_utf8(name).ok()?, trim(value)))
        })
    }

    /// Values of all lines of this name (any case), in order.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Reads the request head that `bytes` begin with.
///
/// # Errors
/// [`HeadError::Incomplete`] if the bytes can become a valid head, [`HeadError::Invalid`] as soon as they cannot.
pub fn parse_head<'a>(bytes: &'a [u8], limits: &Limits) -> Result<RequestHead<'a>, HeadError> {
    let end = HeadScanner::new(*limits).advance(bytes)?.ok_or(HeadError::Incomplete)?;
    Ok(read_head(bytes.get(..end).unwrap_or_default())?)
}

/// Reads a head that a [`HeadScanner`] has found complete: `head` ends with its empty line.
///
/// # Errors
/// The [`HttpFault`] that only the whole head shows.
pub fn read_head(head: &[u8]) -> Result<RequestHead<'_>, HttpFault> {
    let mut usual = [httparse::EMPTY_HEADER; HEADERS_USUAL];
    let mut request = httparse::Request::new(&mut usual);
    match request.parse(head) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut all = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut request = httparse::Request::new(&mut all);
            let status = request.parse(head);
            judge(head, status, &request)
        }
        status => judge(head, status, &request),
    }
}

fn judge<'a>(
    head: &'a [u8],
    status: Result<httparse::Status<usize>, httparse::Error>,
    request: &httparse::Request<'_, 'a>,
) -> Result<RequestHead<'a>, HttpFault> {
    // The scanner has accepted these bytes as one whole head; a splitter that sees it otherwise ends the matter.
    if status != Ok(httparse::Status::Complete(head.len())) {
        return Err(HttpFault::BadHeader);
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HttpFault::BadRequestLine);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let facts = Facts::gather(request.headers)?;
    if version == Version::Http11 && facts.host.is_none() {
        return Err(HttpFault::MissingHost);
    }
    if version == Version::Http10 && facts.expects {
        return Err(HttpFault::BadExpectation);
    }
    let path = policy_path(method, target, facts.host)?;
    Ok(RequestHead {
        method,
        target,
        path,
        host: facts.host,
        version,
        body: facts.body(version)?,
        upgrade: facts.upgrade,
        headers: Headers {
            lines: header_lines(head),
        },
        head_len: head.len(),
    })
}

/// The path of a target of any form (RFC 9112 §3.2).
fn policy_path<'a>(method: &str, target: &'a str, host: Option<&str>) -> Result<Cow<'a, str>, HttpFault> {
    if method == "CONNECT" {
        return connect_path(target, host);
    }
    if target.starts_with('/') {
        return normalise_path(target);
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok(Cow::Borrowed(target))
        } else {
            Err(HttpFault::BadTargetForm)
        };
    }
    let rest = match target.split_at_checked("http://".len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ => return Err(HttpFault::BadTargetForm),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = check_host(authority.as_bytes())?;
    // RFC 9112 §3.2.2: the target wins over Host. Not every server does it so; only agreement has one meaning.
    if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
        return Err(HttpFault::HostContradictsTarget);
    }
    if path.starts_with('/') {
        normalise_path(path)
    } else {
        normalise_path(&format!("/{path}")).map(|p| p.into_owned().into())
    }
}

/// CONNECT's target is `host:port` (RFC 9112 §3.2.3), and Host says the same.
fn connect_path<'a>(target: &str, host: Option<&str>) -> Result<Cow<'a, str>, HttpFault> {
    let has_port = target.rsplit_once(':').is_some_and(|(name, _)| !name.ends_with(':'));
    if !has_port || target.contains('/') {
        return Err(HttpFault::BadTargetForm);
    }
    let authority = check_host(target.as_bytes())?;
    if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
        return Err(HttpFault::HostContradictsTarget);
    }
    Ok(Cow::Borrowed(""))
}

/// What the header lines say about framing.
#[derive(Default)]
struct Facts<'a> {
    host: Option<&'a str>,
    content_length: Option<u64>,
    chunked: bool,
    upgrade: Option<&'a [u8]>,
    expects: bool,
}

impl<'a> Facts<'a> {
    fn gather(headers: &[httparse::Header<'a>]) -> Result<Self, HttpFault> {
        let mut facts = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            match header.name.len() {
                4 if is("host") && facts.host.replace(check_host(header.value)?).is_some() => {
                    return Err(HttpFault::RepeatedHost);
                }
                6 if is("expect") => {
                    if facts.expects || !header.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(HttpFault::BadExpectation);
                    }
                    facts.expects = true;
                }
                7 if is("upgrade") && facts.upgrade.replace(header.value).is_some() => {
                    return Err(HttpFault::RepeatedUpgrade);
                }
                14 if is("content-length") => {
                    let length = content_length(header.value).ok_or(HttpFault::BadLength)?;
                    if facts.content_length.replace(length).is_some() {
                        return Err(HttpFault::RepeatedLength);
                    }
                }
                17 if is("transfer-encoding") => {
                    if header.value != b"chunked" || facts.chunked {
                        return Err(HttpFault::BadTransferCoding);
                    }
                    facts.chunked = true;
                }
                // Gateways that turn names into environment variables cannot tell `_` from `-`.
                14 if is("content_length") => return Err(HttpFault::UnderscoreHeader),
                17 if is("transfer_encoding") => return Err(HttpFault::UnderscoreHeader),
                _ => {}
            }
        }
        Ok(facts)
    }

    const fn body(&self, version: Version) -> Result<BodyLength, HttpFault> {
        match (self.content_length, self.chunked, version) {
            (None | Some(0), false, _) => Ok(BodyLength::None),
            (Some(length), false, _) => Ok(BodyLength::Fixed(length)),
            (Some(_), true, _) => Err(HttpFault::AmbiguousLength),
            (None, true, Version::Http11) => Ok(BodyLength::Chunked),
            (None, true, Version::Http10 | Version::Http2) => Err(HttpFault::TransferCodingInOldVersion),
        }
    }
}

/// Plain digits without a leading zero, up to what a signed 64-bit number holds: beyond that servers wrap or refuse.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    let plain = value == b"0" || (!value.starts_with(b"0") && value.iter().all(u8::is_ascii_digit));
    let number = std::str::from_utf8(value).ok().filter(|_| plain)?.parse::<u64>().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

/// The bytes between request line and final empty line.
fn header_lines(head: &[u8]) -> &[u8] {
    let skip = if head.starts_with(b"\r\n") { 2 } else { 0 };
    let request = head.get(skip..).unwrap_or_default();
    let start = request
        .iter()
        .position(|&b| b == b'\n')
        .map_or(request.len(), |at| at + 1);
    request.get(start..request.len().saturating_sub(2)).unwrap_or_default()
}

/// Without surrounding spaces and tabs (`OWS` of RFC 9110 §5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
