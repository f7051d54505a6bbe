//! The byte automaton of a request head.

use super::{HEADERS_MAX, HttpFault, Limits, is_control, is_field_value, is_token};

/// Bytes of a method at most; the longest registered one has 17.
pub const METHOD_LEN_MAX: u8 = 32;
/// Empty lines before a request line that are skipped (RFC 9112 §2.2: at least one should be).
pub const LEADING_CRLF_MAX: u8 = 1;

/// Where in the head the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start { empty_lines: u8 },
    StartLf,
    Method { len: u8 },
    TargetFirst,
    Target,
    Version { matched: u8 },
    VersionEnd,
    RequestLineLf,
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
}

/// Follows one request head across any number of pieces. `Copy`, so that a caller can step back to where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadScanner {
    state: State,
    /// First bytes of the method, to name HTTP/2's preface.
    method: [u8; 4],
    len: usize,
    headers: usize,
    limits: Limits,
}

type Step = Result<State, HttpFault>;

impl HeadScanner {
    /// A scanner before the first byte of a head.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            state: State::Start { empty_lines: 0 },
            method: [0; 4],
            len: 0,
            headers: 0,
            limits,
        }
    }

    /// Whether no byte was taken since the last head ended.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.len == 0
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.len
    }

    /// Takes further bytes. `Some(n)`: the head ends with the `n`-th of them. `None`: all are taken, the head goes on.
    ///
    /// # Errors
    /// [`HttpFault`] at the first byte after which no valid head is possible; the scanner is then spent.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, HttpFault> {
        let room = self.limits.head_len_max.saturating_sub(self.len);
        let (within, excess) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        match self.walk(within)? {
            Some(taken) => {
                self.len += taken;
                Ok(Some(taken))
            }
            None if !excess.is_empty() => Err(HttpFault::HeadTooLarge),
            None => {
                self.len += within.len();
                Ok(None)
            }
        }
    }

    fn walk(&mut self, bytes: &[u8]) -> Result<Option<usize>, HttpFault> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            self.state = match self.state {
                State::Start { empty_lines } => self.start(byte, empty_lines)?,
                State::StartLf if byte == b'\n' => State::Start {
                    empty_lines: LEADING_CRLF_MAX,
                },
                State::StartLf => return Err(HttpFault::BareLineEnd),
                State::Method { len } => self.method(byte, len)?,
                State::TargetFirst => target_first(byte)?,
                State::Target => {
                    rest = skip_run(rest, byte, u8::is_ascii_graphic);
                    target(byte)?
                }
                State::Version { matched } => self.version(byte, matched)?,
                State::VersionEnd => version_end(byte)?,
                State::RequestLineLf if byte == b'\n' => State::LineStart,
                State::LineStart => self.line_start(byte)?,
                State::Name => {
                    rest = skip_run(rest, byte, |&b| is_token(b));
                    name(byte)?
                }
                State::Value => {
                    rest = skip_run(rest, byte, |&b| is_field_value(b));
                    value(byte)?
                }
                State::ValueLf if byte == b'\n' => State::LineStart,
                State::EndLf if byte == b'\n' => return Ok(Some(bytes.len() - rest.len())),
                State::RequestLineLf | State::ValueLf | State::EndLf => return Err(HttpFault::BareLineEnd),
            };
        }
        Ok(None)
    }

    fn start(&mut self, byte: u8, empty_lines: u8) -> Step {
        match byte {
            b'A'..=b'Z' => self.method(byte, 0),
            b'\r' if empty_lines < LEADING_CRLF_MAX => Ok(State::StartLf),
            b'\r' => Err(HttpFault::EmptyLines),
            b'\n' => Err(HttpFault::BareLineEnd),
            b'a'..=b'z' => Err(HttpFault::LowerCaseMethod),
            0x16 => Err(HttpFault::Tls),
            _ => Err(HttpFault::NotHttp),
        }
    }

    /// Methods are case-sensitive tokens (RFC 9110 §9.1); every registered one is upper case, and a server that takes
    /// `get` for `GET` would do what no rule allowed.
    fn method(&mut self, byte: u8, len: u8) -> Step {
        match byte {
            b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' if len < METHOD_LEN_MAX => {
                if let Some(slot) = self.method.get_mut(usize::from(len)) {
                    *slot = byte;
                }
                Ok(State::Method { len: len + 1 })
            }
            b' ' if len > 0 => Ok(State::TargetFirst),
            b'a'..=b'z' => Err(HttpFault::LowerCaseMethod),
            _ => Err(request_line_fault(byte)),
        }
    }

    fn version(&mut self, byte: u8, matched: u8) -> Step {
        const VERSION: &[u8] = b"HTTP/1.";
        match VERSION.get(usize::from(matched)) {
            Some(&expected) if expected == byte => Ok(State::Version { matched: matched + 1 }),
            None if matches!(byte, b'0' | b'1') => Ok(State::VersionEnd),
            // A first byte that is not an H is more target after a space, or a second space.
            Some(_) if matched == 0 && !matches!(byte, b'h' | b'\r' | b'\n') => Err(request_line_fault(byte)),
            Some(_) if matched == 0 && matches!(byte, b'\r' | b'\n') => Err(HttpFault::OldProtocol),
            Some(_) if matched == 5 && byte == b'2' && self.method == *b"PRI\0" => Err(HttpFault::Http2Preface),
            _ => Err(HttpFault::BadVersion),
        }
    }

    fn line_start(&mut self, byte: u8) -> Step {
        if byte == b'\r' {
            return Ok(State::EndLf);
        }
        match byte {
            _ if is_token(byte) => {}
            b' ' | b'\t' => return Err(HttpFault::FoldedHeader),
            b'\n' => return Err(HttpFault::BareLineEnd),
            _ => return Err(header_fault(byte)),
        }
        self.headers += 1;
        if self.headers > self.limits.headers_max.min(HEADERS_MAX) {
            return Err(HttpFault::TooManyHeaders);
        }
        Ok(State::Name)
    }
}

/// What follows the run of bytes that do not change the state; all of `rest` if `byte`, which stands before it, does.
fn skip_run(rest: &[u8], byte: u8, stays: impl Fn(&u8) -> bool) -> &[u8] {
    if !stays(&byte) {
        return rest;
    }
    let run = rest.iter().position(|b| !stays(b)).unwrap_or(rest.len());
    rest.get(run..).unwrap_or_default()
}

/// `/` begins origin-form, `*` asterisk-form, a letter the scheme of absolute-form or CONNECT's host (RFC 9112 §3.2),
/// a digit or `[` CONNECT's address.
const fn target_first(byte: u8) -> Step {
    match byte {
        b'/' | b'*' | b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'[' => Ok(State::Target),
        _ => Err(request_line_fault(byte)),
    }
}

const fn target(byte: u8) -> Step {
    match byte {
        0x21..=0x7e => Ok(State::Target),
        b' ' => Ok(State::Version { matched: 0 }),
        // A request line that ends after the target is HTTP/0.9: some servers would act on it at once.
        b'\r' | b'\n' => Err(HttpFault::OldProtocol),
        _ => Err(request_line_fault(byte)),
    }
}

const fn version_end(byte: u8) -> Step {
    match byte {
        b'\r' => Ok(State::RequestLineLf),
        b'\n' => Err(HttpFault::BareLineEnd),
        b'0'..=b'9' | b'.' => Err(HttpFault::BadVersion),
        _ => Err(request_line_fault(byte)),
    }
}

const fn name(byte: u8) -> Step {
    match byte {
        b':' => Ok(State::Value),
        _ if is_token(byte) => Ok(State::Name),
        b' ' | b'\t' => Err(HttpFault::SpaceBeforeColon),
        _ => Err(header_fault(byte)),
    }
}

const fn value(byte: u8) -> Step {
    match byte {
        b'\r' => Ok(State::ValueLf),
        _ if is_field_value(byte) => Ok(State::Value),
        b'\n' => Err(HttpFault::BareLineEnd),
        _ => Err(HttpFault::ControlByte),
    }
}

/// In a header's name, or where one should begin.
const fn header_fault(byte: u8) -> HttpFault {
    match byte {
        b'\r' | b'\n' => HttpFault::BadHeader,
        _ if is_control(byte) => HttpFault::ControlByte,
        _ => HttpFault::BadHeader,
    }
}

const fn request_line_fault(byte: u8) -> HttpFault {
    match byte {
        b'\r' | b'\n' | b'\t' => HttpFault::BadRequestLine,
        _ if is_control(byte) => HttpFault::ControlByte,
        _ => HttpFault::BadRequestLine,
    }
}
