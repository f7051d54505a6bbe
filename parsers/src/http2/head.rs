//! The fields of a request and of trailers (RFC 9113 §8).

use super::{Fields, Http2Fault};
use crate::http1::{
    BodyLength, HttpFault, METHOD_LEN_MAX, RequestHead, Version, check_host, content_length, is_field_value, is_token,
    normalise_path,
};
use std::borrow::Cow;

/// A request whose every part has one meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Request<'a> {
    /// As policy matches it. [`RequestHead::body`] is what Content-Length promises.
    pub head: RequestHead<'a>,
    /// Content-Length; the data of the stream must be as long.
    pub content_length: Option<u64>,
    /// It speaks gRPC: refusals are told otherwise.
    pub is_grpc: bool,
}

/// Pseudo-headers by their names.
#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a str>,
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
}

/// Reads a request's fields. `lines` is emptied and then holds the header lines that [`RequestHead::headers`] shows;
/// pieces of a cookie are joined (RFC 9113 §8.2.3).
///
/// # Errors
/// The [`Http2Fault`] of the first thing that is not right.
pub fn read_request<'a>(fields: &'a Fields, lines: &'a mut Vec<u8>) -> Result<Http2Request<'a>, Http2Fault> {
    lines.clear();
    let mut pseudo = Pseudo::default();
    let mut facts = Facts::default();
    let mut cookies = Vec::new();
    let mut in_pseudo = true;
    for (name, value) in fields.iter() {
        if name.first() == Some(&b':') {
            if !in_pseudo {
                return Err(Http2Fault::BadPseudoHeader);
            }
            pseudo.take(name, value)?;
            continue;
        }
        in_pseudo = false;
        check_field(name, value)?;
        facts.take(name, value)?;
        if name == b"cookie" {
            cookies.push(value);
        } else {
            push_line(lines, name, value);
        }
    }
    if !cookies.is_empty() {
        push_line(lines, b"cookie", &cookies.join(&b"; "[..]));
    }
    let (method, target, path, host) = pseudo.request(&facts)?;
    let body = match facts.content_length {
        None | Some(0) => BodyLength::None,
        Some(length) => BodyLength::Fixed(length),
    };
    Ok(Http2Request {
        head: RequestHead::of_http2(method, target, path, host, body, lines),
        content_length: facts.content_length,
        is_grpc: facts.is_grpc,
    })
}

/// Judges the fields of trailers: no pseudo-header, nothing that belongs into the head.
///
/// # Errors
/// [`Http2Fault`] of the first field that is not right.
pub fn check_trailers(fields: &Fields) -> Result<(), Http2Fault> {
    for (name, value) in fields.iter() {
        if name.first() == Some(&b':') {
            return Err(Http2Fault::BadPseudoHeader);
        }
        check_field(name, value)?;
        if matches!(
            name,
            b"host" | b"content-length" | b"content_length" | b"expect" | b"authorization" | b"cookie"
        ) {
            return Err(HttpFault::BadTrailer.into());
        }
    }
    Ok(())
}

impl<'a> Pseudo<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Http2Fault> {
        let slot = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":protocol" => &mut self.protocol,
            _ => return Err(Http2Fault::BadPseudoHeader),
        };
        let text = std::str::from_utf8(value).map_err(|_| Http2Fault::BadHeader)?;
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Http2Fault::BadHeader);
        }
        match slot.replace(text) {
            None => Ok(()),
            Some(_) => Err(Http2Fault::BadPseudoHeader),
        }
    }

    /// Method, target, path and host, if they fit each other (RFC 9113 §8.3.1, §8.5; RFC 8441 §4).
    fn request(&self, facts: &Facts<'a>) -> Result<(&'a str, &'a str, Cow<'a, str>, &'a str), Http2Fault> {
        let method = self.method.ok_or(Http2Fault::BadPseudoHeader)?;
        check_method(method)?;
        let host = match (self.authority, facts.host) {
            (Some(authority), other) => {
                let authority = check_host(authority.as_bytes())?;
                if other.is_some_and(|other| !other.eq_ignore_ascii_case(authority)) {
                    return Err(HttpFault::HostContradictsTarget.into());
                }
                authority
            }
            (None, Some(host)) => host,
            (None, None) => return Err(HttpFault::MissingHost.into()),
        };
        if method == "CONNECT" && self.protocol.is_none() {
            let authority = self.authority.ok_or(Http2Fault::BadPseudoHeader)?;
            return if self.scheme.is_none() && self.path.is_none() {
                Ok((method, authority, Cow::Borrowed(""), host))
            } else {
                Err(Http2Fault::BadPseudoHeader)
            };
        }
        let (Some(path), Some(scheme)) = (self.path, self.scheme) else {
            return Err(Http2Fault::BadPseudoHeader);
        };
        if !matches!(scheme, "http" | "https") || (self.protocol.is_some() && method != "CONNECT") {
            return Err(Http2Fault::BadPseudoHeader);
        }
        if path == "*" && method == "OPTIONS" {
            return Ok((method, path, Cow::Borrowed(path), host));
        }
        if !path.starts_with('/') {
            return Err(HttpFault::BadTargetForm.into());
        }
        Ok((method, path, normalise_path(path)?, host))
    }
}

/// What the fields say beside the pseudo-headers.
#[derive(Default)]
struct Facts<'a> {
    host: Option<&'a str>,
    content_length: Option<u64>,
    is_grpc: bool,
    expects: bool,
}

impl<'a> Facts<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), HttpFault> {
        match name {
            b"host" if self.host.replace(check_host(value)?).is_some() => return Err(HttpFault::RepeatedHost),
            b"content-length" => {
                let length = content_length(value).ok_or(HttpFault::BadLength)?;
                if self.content_length.replace(length).is_some() {
                    return Err(HttpFault::RepeatedLength);
                }
            }
            b"content_length" | b"transfer_encoding" => return Err(HttpFault::UnderscoreHeader),
            b"expect" => {
                if self.expects || !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HttpFault::BadExpectation);
                }
                self.expects = true;
            }
            b"content-type" => self.is_grpc |= value.starts_with(b"application/grpc"),
            _ => {}
        }
        Ok(())
    }
}

/// As for HTTP/1: an upper-case token.
fn check_method(method: &str) -> Result<(), HttpFault> {
    if method.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(HttpFault::LowerCaseMethod);
    }
    let sound = method
        .bytes()
        .all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_'));
    if sound && (1..=usize::from(METHOD_LEN_MAX)).contains(&method.len()) {
        Ok(())
    } else {
        Err(HttpFault::BadRequestLine)
    }
}

fn check_field(name: &[u8], value: &[u8]) -> Result<(), Http2Fault> {
    let name_is_sound = !name.is_empty() && name.iter().all(|&b| is_token(b) && !b.is_ascii_uppercase());
    let value_is_sound =
        value.iter().all(|&b| is_field_value(b)) && !matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    if !name_is_sound || !value_is_sound {
        return Err(Http2Fault::BadHeader);
    }
    match name {
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" | b"http2-settings" => {
            Err(Http2Fault::ConnectionHeader)
        }
        b"te" if value != b"trailers" => Err(Http2Fault::ConnectionHeader),
        _ => Ok(()),
    }
}

/// Neither names nor values hold a line end or (names) a colon by now.
fn push_line(lines: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        lines.extend_from_slice(part);
    }
}

impl<'a> RequestHead<'a> {
    fn of_http2(
        method: &'a str,
        target: &'a str,
        path: Cow<'a, str>,
        host: &'a str,
        body: BodyLength,
        lines: &'a [u8],
    ) -> Self {
        Self {
            method,
            target,
            path,
            host: Some(host),
            version: Version::Http2,
            body,
            upgrade: None,
            headers: crate::http1::Headers::of_lines(lines),
            head_len: 0,
        }
    }
}
