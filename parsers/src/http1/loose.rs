//! Requests as a forgiving server might read them: for those who look on, not for those who decide.
//!
//! [`super::read_head`] refuses whatever two readers could understand differently. Beside the traffic, where nothing is
//! refused, such a request is still a request: it is shown with what can be said of it, and what follows is looked for
//! where most readers would look for it.

use super::{BodyLength, HttpFault, Limits, Version, is_token};

/// Follows one head of any kind of line ends across any number of pieces, if it begins with `METHOD target HTTP/1.x`.
/// `Copy`, so that a caller can step back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseScanner {
    /// The request line has ended.
    in_headers: bool,
    /// The present line has no byte but CR so far.
    is_empty: bool,
    len: usize,
    head_len_max: usize,
}

impl LooseScanner {
    /// A scanner before the first byte of a head.
    #[must_use]
    pub const fn new(limits: &Limits) -> Self {
        Self {
            in_headers: false,
            is_empty: true,
            len: 0,
            head_len_max: limits.head_len_max,
        }
    }

    /// Whether the request line is complete.
    #[must_use]
    pub const fn has_request_line(&self) -> bool {
        self.in_headers
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.len
    }

    /// Takes further bytes. `Some(n)`: the head ends with the `n`-th of them. `None`: all are taken, the head goes on.
    ///
    /// # Errors
    /// [`HttpFault::HeadTooLarge`].
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, HttpFault> {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.is_empty && self.in_headers => {
                    self.len += at + 1;
                    return Ok(Some(at + 1));
                }
                b'\n' => {
                    self.in_headers |= !self.is_empty;
                    self.is_empty = true;
                }
                b'\r' => {}
                _ => self.is_empty = false,
            }
        }
        self.len += bytes.len();
        if self.len > self.head_len_max {
            return Err(HttpFault::HeadTooLarge);
        }
        Ok(None)
    }
}

/// What can be said of a request that is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseHead<'a> {
    /// As sent.
    pub method: &'a str,
    /// As sent, up to the first byte that is not ASCII.
    pub target: &'a str,
    /// Value of the first Host header, else the authority of the target; empty if there is none.
    pub host: &'a str,
    /// What most readers would take for the body's length.
    pub body: BodyLength,
    /// Version.
    pub version: Version,
}

/// Reads what can be read of a head, complete or cut off; `None` if it does not begin with a request line of HTTP/1.
#[must_use]
pub fn read_loose(head: &[u8]) -> Option<LooseHead<'_>> {
    let mut lines = head
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (method, target, version) = request_line(lines.find(|line| !line.is_empty())?)?;
    let mut host = None;
    let mut body = BodyLength::None;
    for line in lines {
        let Some((name, value)) = split_header(line) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"host") && host.is_none() {
            host = std::str::from_utf8(value).ok();
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && names_chunked(value) {
            body = BodyLength::Chunked;
        } else if name.eq_ignore_ascii_case(b"content-length") && body == BodyLength::None {
            body = length(value);
        }
    }
    Some(LooseHead {
        method,
        target,
        host: host.unwrap_or_else(|| authority(target)),
        body,
        version,
    })
}

/// Method, target and version; spaces of any number stand between them.
fn request_line(line: &[u8]) -> Option<(&str, &str, Version)> {
    let method_len = line.iter().position(|&byte| !is_token(byte))?;
    let (method, rest) = line.split_at_checked(method_len)?;
    let end = rest.windows(8).rposition(|part| part.starts_with(b" HTTP/1."))?;
    let (target, version) = rest.split_at_checked(end)?;
    let target = target.trim_ascii();
    if method.is_empty() || !rest.starts_with(b" ") || target.is_empty() {
        return None;
    }
    let ascii = target.iter().position(|byte| !byte.is_ascii()).unwrap_or(target.len());
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let version = if version.starts_with(b" HTTP/1.0") {
        Version::Http10
    } else {
        Version::Http11
    };
    Some((text(method)?, text(target.get(..ascii)?)?, version))
}

fn split_header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at_checked(line.iter().position(|&byte| byte == b':')?)?;
    Some((name.trim_ascii(), value.get(1..)?.trim_ascii()))
}

/// Wherever in the list it stands: most readers look for the word.
fn names_chunked(value: &[u8]) -> bool {
    let mut codings = value.split(|&byte| byte == b',');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

fn length(value: &[u8]) -> BodyLength {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match number.unwrap_or(0) {
        0 => BodyLength::None,
        len => BodyLength::Fixed(len),
    }
}

/// Authority of a target in absolute form.
fn authority(target: &str) -> &str {
    let after = target.split_once("://").map_or("", |(_, rest)| rest);
    after.split(['/', '?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{LooseHead, LooseScanner, read_loose};
    use crate::http1::{BodyLength, HttpFault, Limits, Version};

    fn loose(
        method: &'static str,
        target: &'static str,
        host: &'static str,
        body: BodyLength,
    ) -> Option<LooseHead<'static>> {
        Some(LooseHead {
            method,
            target,
            host,
            body,
            version: Version::Http11,
        })
    }

    #[test]
    fn what_is_refused_elsewhere_is_still_shown() {
        for (head, expected) in [
            ("GET / HTTP/1.1\n\n", loose("GET", "/", "", BodyLength::None)),
            (
                "post  /a b HTTP/1.1\r\nhost : x:8\r\n y\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
                loose("post", "/a b", "x:8", BodyLength::Fixed(3)),
            ),
            (
                "GET http://h/p HTTP/1.0\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 9\r\n\r\n",
                loose("GET", "http://h/p", "h", BodyLength::Chunked).map(|head| LooseHead {
                    version: Version::Http10,
                    ..head
                }),
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
                loose("POST", "/", "", BodyLength::Chunked),
            ),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", loose("GET", "/", "", BodyLength::None)),
            (
                "GET / HTTP/1.1\r\nHost: cut",
                loose("GET", "/", "cut", BodyLength::None),
            ),
            ("GET /\r\n\r\n", None),
            ("INVITE sip:a SIP/2.0\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(read_loose(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn the_end_is_found_wherever_it_is_cut() {
        for head in ["GET / HTTP/1.1\nHost: a\n\n", "\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n"] {
            for cut in 0..head.len() {
                let mut scanner = LooseScanner::new(&Limits::default());
                let (first, second) = head.as_bytes().split_at(cut);
                assert_eq!(scanner.advance(first), Ok(None));
                assert_eq!(scanner.advance(&[second, b"more"].concat()), Ok(Some(second.len())));
                assert_eq!(scanner.taken(), head.len());
            }
        }
    }

    #[test]
    fn it_is_bounded() {
        let limits = Limits {
            head_len_max: 10,
            ..Limits::default()
        };
        let mut scanner = LooseScanner::new(&limits);
        assert_eq!(scanner.advance(b"0123456789"), Ok(None));
        assert_eq!(scanner.advance(b"x"), Err(HttpFault::HeadTooLarge));
    }
}
