//! The other side: TCP receivers and a server so lenient that it acts on nearly anything.

use super::linux::Linux;
use super::stack::Stack;
use crate::http2::{CONTINUATION, END_HEADERS, HEADERS, PREFACE};
use crate::wire::{RST, Sent};
use crate::world::Connection;
use seventh_parsers::tls::read_hello;
use std::collections::VecDeque;

/// What a stack does with bytes before their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Nothing,
    First,
    Last,
}

/// Accepts bytes in order. Offsets count from the opener's first byte.
#[derive(Debug)]
pub(crate) struct Receiver {
    keeps: Keeps,
    pub(crate) accepted: Vec<u8>,
    waiting: VecDeque<Option<u8>>,
    pub(crate) reset: bool,
    /// Receives in place of the model.
    stack: Option<Stack>,
    /// The same.
    linux: Option<Linux>,
    /// The newest timestamp that was seen (RFC 7323 §5).
    newest: Option<u32>,
}

const WINDOW: usize = 40_000;

impl Receiver {
    pub(crate) fn new(keeps: Keeps) -> Self {
        Self {
            keeps,
            accepted: Vec::new(),
            waiting: vec![None; WINDOW].into(),
            reset: false,
            stack: None,
            linux: None,
            newest: None,
        }
    }

    pub(crate) fn linux(linux: Linux) -> Self {
        Self {
            linux: Some(linux),
            ..Self::new(Keeps::First)
        }
    }

    /// Takes a packet of the opener that carries data, or resets, at `offset`.
    pub(crate) fn packet(&mut self, sent: &Sent, offset: i64) {
        if self.reset || sent.packet[8] <= 1 {
            return; // It has died on its way.
        }
        if let Some(linux) = &mut self.linux {
            let (read, reset) = linux.packet(&sent.packet);
            self.accepted.extend(read);
            self.reset = reset;
            return;
        }
        if let Some((value, _)) = sent.timestamps {
            let newest = *self.newest.get_or_insert(value);
            if (value.wrapping_sub(newest) as i32) < 0 {
                return;
            }
            self.newest = Some(value);
        }
        if sent.flags() & RST != 0 {
            self.reset(offset);
        } else {
            self.data(offset, &sent.payload);
        }
    }

    /// Its application sends, where the stack is to know of that.
    pub(crate) fn says(&mut self, bytes: &[u8]) {
        if let Some(linux) = &mut self.linux {
            linux.says(bytes);
        }
    }

    /// smoltcp's.
    pub(crate) fn smoltcp(connection: &Connection) -> Self {
        Self {
            stack: Some(Stack::new(&connection.shape, connection.base)),
            ..Self::new(Keeps::First)
        }
    }

    /// Takes data at `offset`, which may lie before or after what is expected.
    pub(crate) fn data(&mut self, offset: i64, bytes: &[u8]) {
        if self.reset {
            return;
        }
        if let Some(stack) = &mut self.stack {
            self.accepted.extend(stack.data(offset, bytes));
            return;
        }
        let next = self.accepted.len() as i64;
        for (position, &byte) in (offset..).zip(bytes) {
            let Ok(ahead) = usize::try_from(position - next) else {
                continue;
            };
            if ahead >= WINDOW || (self.keeps == Keeps::Nothing && offset > next) {
                break;
            }
            let place = &mut self.waiting[ahead];
            if place.is_none() || self.keeps == Keeps::Last {
                *place = Some(byte);
            }
        }
        let ready = self.waiting.iter().take_while(|byte| byte.is_some()).count();
        self.accepted.extend(self.waiting.drain(..ready).flatten());
        self.waiting.resize(WINDOW, None);
    }

    /// RFC 5961: only the exact number counts.
    pub(crate) fn reset(&mut self, offset: i64) {
        self.reset |= match &mut self.stack {
            Some(stack) => stack.reset(offset),
            None => offset == self.accepted.len() as i64,
        };
    }
}

/// A request that a lenient server would act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acted {
    pub(crate) line: String,
    /// Offset after the whole request, or after its head if the body is not complete.
    pub(crate) end: usize,
    pub(crate) body_complete: bool,
    /// After a hello that offers TLS 1.3 a server may ask for a second one (RFC 8446 §4.1.4).
    pub(crate) may_retry: bool,
}

/// Reads requests as leniently as servers were ever seen to: lines end with LF, with or without CR; blank lines are
/// skipped; a request line without a version is a request; the last Content-Length that looks like a number counts;
/// Transfer-Encoding wins if it mentions "chunked".
pub(crate) fn serve(stream: &[u8]) -> Vec<Acted> {
    let mut acted = Vec::new();
    let mut at = 0;
    loop {
        let Some((line, after)) = line(stream, at) else {
            return acted;
        };
        at = after;
        if line.is_empty() {
            continue;
        }
        let mut length = 0;
        let mut chunked = false;
        // Without a version there are no headers (HTTP/0.9).
        let mut in_head = line.split(' ').count() > 2;
        while in_head {
            let Some((header, after)) = self::line(stream, at) else {
                return acted;
            };
            at = after;
            in_head = !header.is_empty();
            let (name, value) = header.split_once(':').unwrap_or((&header, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(length),
                "transfer-encoding" => chunked |= value.contains("chunked"),
                _ => {}
            }
        }
        let end = if chunked {
            chunks_end(stream, at)
        } else {
            Some(at + length).filter(|end| *end <= stream.len())
        };
        acted.push(Acted {
            line,
            end: end.unwrap_or(at),
            body_complete: end.is_some(),
            may_retry: false,
        });
        let Some(end) = end else { return acted };
        at = end;
    }
}

fn line(stream: &[u8], at: usize) -> Option<(String, usize)> {
    let len = stream[at..].iter().position(|&b| b == b'\n')?;
    let line = &stream[at..at + len];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some((String::from_utf8_lossy(line).into_owned(), at + len + 1))
}

fn chunks_end(stream: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let (size, after) = line(stream, at)?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).unwrap_or(0);
        at = after + size;
        if at > stream.len() {
            return None;
        }
        let (_, after) = line(stream, at)?;
        at = after;
        if size == 0 {
            return Some(at);
        }
    }
}

/// Reads requests over HTTP/2, with a decompressor that others have written. It acts on a header block with its last
/// byte, whatever comes after, and forgives everything about frames but a broken compression.
pub(crate) fn serve_http2(stream: &[u8]) -> Vec<Acted> {
    let mut acted = Vec::new();
    let mut decoder = fluke_hpack::Decoder::new();
    let mut block = Vec::new();
    let Some(mut rest) = stream.strip_prefix(PREFACE) else {
        return acted;
    };
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let Some((payload, after)) = after.split_at_checked(len) else {
            return acted;
        };
        rest = after;
        let (kind, flags) = (header[3], header[4]);
        if !matches!(kind, HEADERS | CONTINUATION) {
            continue;
        }
        block.extend_from_slice(payload);
        if flags & END_HEADERS == 0 {
            continue;
        }
        let Ok(fields) = decoder.decode(&std::mem::take(&mut block)) else {
            return acted;
        };
        let field = |name: &[u8]| {
            let field = fields.iter().find(|(n, _)| n.as_slice() == name);
            field.map_or(String::new(), |(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        acted.push(Acted {
            line: format!("{} {} HTTP/2", field(b":method"), field(b":path")),
            end: stream.len() - rest.len(),
            body_complete: true,
            may_retry: false,
        });
    }
    acted
}

/// Reads hellos of TLS clients: whatever stands in handshake records one behind the other, other records and messages
/// passed over.
pub(crate) fn serve_tls(stream: &[u8]) -> Vec<Acted> {
    let (mut acted, mut message, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(&[kind, _, _, high, low]) = stream.get(at..).and_then(<[u8]>::first_chunk) {
        let end = at + 5 + usize::from(u16::from_be_bytes([high, low]));
        // What there is of a record counts.
        let content = &stream[at + 5..end.min(stream.len())];
        at = end;
        if kind != 22 {
            continue;
        }
        message.extend_from_slice(content);
        while let Some(&[kind, a, b, c]) = message.first_chunk() {
            let len = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((whole, rest)) = message.split_at_checked(len) else {
                break;
            };
            // Others of the handshake (a key exchange) are no hellos, and name nothing.
            if kind == 1 {
                let hello = read_hello(whole).ok();
                acted.push(Acted {
                    may_retry: hello.as_ref().is_some_and(|hello| hello.offers_tls13),
                    line: hello
                        .and_then(|hello| hello.server_name.map(String::from))
                        .unwrap_or_default(),
                    end: at,
                    body_complete: true,
                });
            }
            message = rest.to_vec();
        }
        if at > stream.len() {
            break;
        }
    }
    acted
}

/// Whether the policy of the tests allows what a lenient server understood.
pub(crate) fn is_allowed(line: &str) -> bool {
    let mut parts = line.split(' ');
    let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match method {
        // Slashes in a row are one.
        "GET" => path.trim_start_matches('/').starts_with("public") && path.starts_with('/') && !path.contains(".."),
        "POST" | "PUT" => path == "/upload",
        "CONNECT" => path == "a:443",
        _ => false,
    }
}
