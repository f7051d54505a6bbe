//! Requests after which the connection speaks another protocol, if the server agrees: CONNECT, Upgrade.
//!
//! What follows such a request may be read as HTTP or as something else, and the server decides which by its answer.
//! Until that has been seen nothing that follows goes on. Only after 101 (2xx for CONNECT) the other protocol begins;
//! after any other answer requests go on being judged, so a refused upgrade hides nothing.
//!
//! Which answer belongs to the request is certain only if no other request came before it on the connection: an upgrade
//! is followed only there.

use seventh_abi::DropReason;
use seventh_parsers::http1::{RequestHead, read_head};
use seventh_parsers::http2::PREFACE;

/// Bytes of a request that asks for another protocol at most: its head is kept, to be judged again under other rules.
pub(crate) const UPGRADE_HEAD_MAX: usize = 8 * 1024;
/// Bytes of answers that are read in search of the final one at most. Beyond, nothing was agreed.
const ANSWERS_LEN_MAX: usize = 16 * 1024;

/// What a connection speaks after an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Nothing that is read here.
    Opaque,
    /// HTTP/2 (RFC 7540 §3.2; RFC 9113 has given it up, clients have not).
    Http2,
}

impl Protocol {
    /// What the request asks for; `None` if it asks for nothing.
    ///
    /// # Errors
    /// It asks for more than one, or for none that has a name.
    pub(crate) fn asked_for(head: &RequestHead<'_>) -> Result<Option<Self>, ()> {
        if head.method == "CONNECT" {
            return Ok(Some(Self::Opaque));
        }
        let Some(value) = head.upgrade else { return Ok(None) };
        let name_is_plain = value.iter().all(|b| b.is_ascii_alphanumeric() || b"-._/+".contains(b));
        match value {
            [] => Err(()),
            _ if !name_is_plain => Err(()),
            _ if value.eq_ignore_ascii_case(b"h2c") => Ok(Some(Self::Http2)),
            _ => Ok(Some(Self::Opaque)),
        }
    }
}

/// Whether a request asks for another protocol than HTTP/1; the first of a connection may, if the
/// rules allow it as the request that it is.
///
/// # Errors
/// It asks for what cannot be followed, and is refused whatever the rules say.
pub fn asks_for_upgrade(head: &RequestHead<'_>) -> Result<bool, DropReason> {
    match Protocol::asked_for(head) {
        Ok(asked) => Ok(asked.is_some()),
        Err(()) => Err(DropReason::HttpUpgradeUnsupported),
    }
}

/// A request that has asked, and what has come of its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) protocol: Protocol,
    /// The request's head.
    pub(crate) head: Box<[u8]>,
    is_connect: bool,
    /// How many bytes of HTTP/2's preface the request's body has begun with so far; none once it differs.
    preface: Option<usize>,
    /// The answers so far, from the head that is not complete on.
    answer: Vec<u8>,
    /// Bytes of the server in all.
    read: usize,
    /// Bytes of it up to the end of the last complete head.
    heads_end: usize,
}

/// What the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// Its answer is not complete.
    NotYet,
    /// The connection speaks the other protocol.
    Yes,
    /// It goes on speaking HTTP/1.
    No,
}

impl Asked {
    pub(crate) fn new(protocol: Protocol, head: &[u8]) -> Self {
        let head = head.strip_prefix(b"\r\n").unwrap_or(head);
        Self {
            protocol,
            head: head.into(),
            is_connect: head.starts_with(b"CONNECT "),
            preface: (protocol == Protocol::Http2).then_some(0),
            answer: Vec::new(),
            read: 0,
            heads_end: 0,
        }
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        size_of::<Self>() + self.head.len() + self.answer.capacity()
    }

    /// Takes new bytes of the request's body; false if it begins with the preface. HTTP/2 begins behind the body (RFC 7540
    /// §3.2). A server that agrees at once, and takes what comes next for HTTP/2, would read frames where there are none.
    pub(crate) fn may_be_body(&mut self, new: &[u8]) -> bool {
        let mut preface = self.preface;
        for byte in new {
            let Some(there) = preface else { break };
            preface = (PREFACE.get(there) == Some(byte)).then_some(there + 1);
            if preface == Some(PREFACE.len()) {
                // It stays as it was: the refused bytes come again.
                return false;
            }
        }
        self.preface = preface;
        true
    }

    /// Whether the body's beginning is still looked at.
    pub(crate) const fn reads_body(&self) -> bool {
        self.preface.is_some()
    }

    /// The payload of SETTINGS that came with a request for HTTP/2 (RFC 7540 §3.2.1); `None` if not everybody reads the same.
    pub(crate) fn settings(&self) -> Option<Vec<u8>> {
        let head = read_head(&self.head).ok()?;
        let mut values = head.headers.values("HTTP2-Settings");
        let settings = base64url(values.next()?)?;
        (values.next().is_none() && settings.len().is_multiple_of(6)).then_some(settings)
    }

    /// How many of the server's last `len` bytes come behind the last complete head.
    pub(crate) const fn behind_heads(&self, len: usize) -> usize {
        let behind = self.read.saturating_sub(self.heads_end);
        if behind < len { behind } else { len }
    }

    /// Takes new bytes of the server, in order.
    pub(crate) fn answer(&mut self, new: &[u8]) -> Agreed {
        self.read = self.read.saturating_add(new.len());
        self.answer.extend_from_slice(new.get(..ANSWERS_LEN_MAX).unwrap_or(new));
        // Each turn takes a whole head away.
        while let Some(end) = self.answer.windows(4).position(|w| w == b"\r\n\r\n") {
            self.heads_end += end + 4;
            match status(&self.answer) {
                Some(101) if !self.is_connect => return Agreed::Yes,
                Some(200..=299) if self.is_connect => return Agreed::Yes,
                // Answers before the final one.
                Some(100 | 102..=199) => drop(self.answer.drain(..end + 4)),
                _ => return Agreed::No,
            }
        }
        if self.read > ANSWERS_LEN_MAX {
            Agreed::No
        } else {
            Agreed::NotYet
        }
    }
}

/// Reads base64url without padding (RFC 4648 §5); `None` if it is anything else, or bits are left over that are not zero.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if let Some(left) = count.checked_sub(8) {
            bytes.push(u8::try_from(bits >> left).ok()?);
            count = left;
            bits &= (1 << left) - 1;
        }
    }
    (bits == 0 && count < 6).then_some(bytes)
}

/// The status of an answer (RFC 9112 §4).
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', a, b, c, b' ' | b'\r', ..] = *rest else {
        return None;
    };
    let digit = |b: u8| char::from(b).to_digit(10).and_then(|d| u16::try_from(d).ok());
    Some(digit(a)? * 100 + digit(b)? * 10 + digit(c)?)
}

#[cfg(test)]
mod tests {
    use super::{ANSWERS_LEN_MAX, Agreed, Asked, Protocol, base64url};
    use seventh_parsers::http1::{Limits, parse_head};

    const GET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n";

    fn asked(head: &str) -> Asked {
        Asked::new(Protocol::Opaque, head.as_bytes())
    }

    #[test]
    fn only_the_servers_agreement_counts_cut_anywhere() {
        let connect = "\r\nCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
        for (head, answer, agreed) in [
            (
                GET,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
                Agreed::Yes,
            ),
            (GET, "HTTP/1.1 101\r\n\r\n", Agreed::Yes),
            (
                GET,
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\nHTTP/1.1 101 x\r\n\r\n",
                Agreed::Yes,
            ),
            (GET, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 x\r\n\r\n", Agreed::No),
            (GET, "HTTP/1.1 426 Upgrade Required\r\n\r\n", Agreed::No),
            (GET, "HTTP/1.1 1010\r\n\r\n", Agreed::No),
            (GET, "HTTP/2 101 x\r\n\r\n", Agreed::No),
            (GET, "junk\r\n\r\n", Agreed::No),
            (connect, "HTTP/1.1 200 Connection established\r\n\r\n", Agreed::Yes),
            (connect, "HTTP/1.1 101 x\r\n\r\n", Agreed::No),
            (
                connect,
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                Agreed::No,
            ),
        ] {
            assert_eq!(asked(head).answer(answer.as_bytes()), agreed, "{answer:?}");
            let mut bytewise = asked(head);
            let said: Vec<_> = answer.bytes().map(|byte| bytewise.answer(&[byte])).collect();
            assert_eq!(
                said.iter().find(|said| **said != Agreed::NotYet),
                Some(&agreed),
                "{answer:?}"
            );
            assert_eq!(asked(head).answer(&answer.as_bytes()[..7]), Agreed::NotYet);
            if agreed == Agreed::Yes {
                let mut whole = asked(head);
                let more = [answer.as_bytes(), b"more"].concat();
                let (first, rest) = more.split_at(5);
                whole.answer(first);
                assert_eq!(whole.answer(rest), Agreed::Yes);
                assert_eq!(whole.behind_heads(rest.len()), 4, "{answer:?}");
            }
        }
    }

    #[test]
    fn an_endless_answer_agrees_to_nothing() {
        let mut endless = asked(GET);
        for _ in 0..ANSWERS_LEN_MAX / 64 {
            assert_eq!(endless.answer(&[b'x'; 64]), Agreed::NotYet);
        }
        assert_eq!(endless.answer(b"x"), Agreed::No);
        assert!(endless.answer.len() <= ANSWERS_LEN_MAX + 64);
    }

    #[test]
    fn base64_has_one_reading_or_none() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("AAQAAP__", Some(b"\0\x04\0\0\xff\xff")),
            ("-A", Some(b"\xf8")),
            ("Zm8", Some(b"fo")),
            ("Zg", Some(b"f")),
            ("Zg==", None),
            ("Zh", None),
            ("Zm9", None),
            ("A", None),
            ("AAAAA", None),
            ("AAQAAP//", None),
            ("AAQA AP__", None),
        ] {
            assert_eq!(base64url(text.as_bytes()).as_deref(), bytes, "{text}");
        }
    }

    #[test]
    fn settings_come_once_and_whole_or_are_not_known() {
        let settings = |lines: &str| asked(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).settings();
        assert_eq!(settings(""), None);
        assert_eq!(settings("HTTP2-Settings:\r\n"), Some(Vec::new()));
        let window = "http2-settings: AAQAAP__\r\n";
        assert_eq!(settings(window).as_deref(), Some(&b"\0\x04\0\0\xff\xff"[..]));
        assert_eq!(settings(&window.repeat(2)), None);
        assert_eq!(settings("HTTP2-Settings: AAQAAP__AA\r\n"), None);
        assert_eq!(settings("HTTP2-Settings: AAQAAP//\r\n"), None);
    }

    #[test]
    fn what_is_asked_for_is_one_protocol() {
        let ask = |line: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n");
            Protocol::asked_for(&parse_head(head.as_bytes(), &Limits::default()).unwrap())
        };
        assert_eq!(ask(""), Ok(None));
        assert_eq!(ask("Upgrade: websocket\r\n"), Ok(Some(Protocol::Opaque)));
        assert_eq!(ask("Upgrade: H2C\r\n"), Ok(Some(Protocol::Http2)));
        for several in ["h2c, websocket", "", "websocket;", "a b"] {
            assert_eq!(ask(&format!("Upgrade: {several}\r\n")), Err(()));
        }
    }
}
