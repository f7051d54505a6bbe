//! The byte automaton of the records that carry a ClientHello.

use super::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, CLIENT_HELLO, HANDSHAKE, HelloError, Limits, TlsFault, message_len,
};
use std::borrow::Cow;

/// Content of a record at most (RFC 8446 §5.1).
pub const RECORD_LEN_MAX: u16 = 1 << 14;
/// Content type, version, length.
const RECORD_HEADER_LEN: usize = 5;
/// Message type and length.
const MESSAGE_HEADER_LEN: usize = 4;

/// Where in the records the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a record's header, of which so many bytes are known.
    Header(u8),
    /// In a record that is passed over, of which so many bytes are still to come.
    Skip(u16),
    /// In a record of the ClientHello, of which so many bytes are still to come.
    Content(u16),
}

/// What may stand before the records of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing: it is the connection's first.
    Nothing,
    /// A first ClientHello was sent: alerts, the empty ChangeCipherSpec of RFC 8446 appendix D.4.
    Hello,
    /// The same, and early data.
    HelloAndEarlyData,
}

/// Follows the records of one ClientHello across any number of pieces. `Copy`, so that a caller can step back to where
/// it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloScanner {
    state: State,
    before: Before,
    header: [u8; RECORD_HEADER_LEN],
    /// First bytes of the message.
    message: [u8; MESSAGE_HEADER_LEN],
    /// Bytes of the message taken.
    message_taken: usize,
    /// Bytes taken since the first byte of the ClientHello's first record.
    len: usize,
    limits: Limits,
}

impl HelloScanner {
    /// Before the first byte of a connection.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self::with(Before::Nothing, limits)
    }

    /// After a ClientHello, where only a second one (RFC 8446 §4.1.2) is of interest: alerts and ChangeCipherSpec are
    /// passed over, as is early data if the first one announced such (RFC 8446 §4.2.10: a server that asks for a second
    /// ClientHello skips it).
    #[must_use]
    pub const fn after_hello(early_data: bool, limits: Limits) -> Self {
        Self::with(
            if early_data {
                Before::HelloAndEarlyData
            } else {
                Before::Hello
            },
            limits,
        )
    }

    /// Bytes taken of a ClientHello that has begun, its record headers included.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.len
    }

    /// Takes further bytes. `Some(n)`: the ClientHello, and with it its record, ends with the `n`-th of them. `None`:
    /// all are taken, and it goes on.
    ///
    /// # Errors
    /// [`TlsFault`] at the first byte after which no valid ClientHello is possible; the scanner is then spent.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, TlsFault> {
        let mut rest = bytes;
        // Each turn takes at least one byte.
        while let Some((&byte, after)) = rest.split_first() {
            match self.state {
                State::Header(known) => {
                    rest = after;
                    self.header_byte(known, byte)?;
                }
                State::Skip(left) => {
                    let take = usize::from(left).min(rest.len());
                    rest = rest.get(take..).unwrap_or_default();
                    self.state = continue_record(left, take, State::Skip);
                }
                State::Content(left) => {
                    let take = usize::from(left).min(rest.len());
                    let (content, after) = rest.split_at_checked(take).unwrap_or((rest, &[]));
                    rest = after;
                    self.state = continue_record(left, take, State::Content);
                    self.len += take;
                    if self.content(content, usize::from(left))? {
                        return Ok(Some(bytes.len() - rest.len()));
                    }
                }
            }
        }
        Ok(None)
    }

    const fn with(before: Before, limits: Limits) -> Self {
        Self {
            state: State::Header(0),
            before,
            header: [0; RECORD_HEADER_LEN],
            message: [0; MESSAGE_HEADER_LEN],
            message_taken: 0,
            len: 0,
            limits,
        }
    }

    fn header_byte(&mut self, known: u8, byte: u8) -> Result<(), TlsFault> {
        if let Some(slot) = self.header.get_mut(usize::from(known)) {
            *slot = byte;
        }
        let [kind, major, minor, high, low] = self.header;
        match known {
            0 => self.kind(byte)?,
            1 if kind & 0x80 == 0 && byte != 3 => return Err(self.unreadable()),
            2 if kind & 0x80 != 0 => {
                // Two bytes of length, then SSL 2's own CLIENT-HELLO.
                let sslv2 = byte == CLIENT_HELLO;
                return Err(if sslv2 { TlsFault::Sslv2Hello } else { TlsFault::NotTls });
            }
            2 if byte > 4 => return Err(self.unreadable()),
            _ => {}
        }
        if kind == HANDSHAKE {
            self.len += 1;
        }
        if usize::from(known) + 1 < RECORD_HEADER_LEN {
            self.state = State::Header(known + 1);
            return Ok(());
        }
        debug_assert!(major == 3 && minor <= 4);
        self.state = self.record(kind, u16::from_be_bytes([high, low]))?;
        Ok(())
    }

    /// A record's content type.
    fn kind(&self, kind: u8) -> Result<(), TlsFault> {
        let within = self.message_taken > 0;
        match (kind, self.before) {
            (HANDSHAKE, _) => Ok(()),
            (CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA, _) if within => Err(TlsFault::Interleaved),
            (CHANGE_CIPHER_SPEC | ALERT, Before::Hello | Before::HelloAndEarlyData)
            | (APPLICATION_DATA, Before::HelloAndEarlyData) => Ok(()),
            (CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA, _) => Err(TlsFault::NotClientHello),
            // The high bit marks the two-byte header of SSL 2; its third byte tells.
            (0x80.., Before::Nothing) if !within => Ok(()),
            _ => Err(self.unreadable()),
        }
    }

    const fn unreadable(&self) -> TlsFault {
        if matches!(self.before, Before::Nothing) && self.message_taken == 0 {
            TlsFault::NotTls
        } else {
            TlsFault::BadRecord
        }
    }

    fn record(&self, kind: u8, len: u16) -> Result<State, TlsFault> {
        match kind {
            HANDSHAKE if len == 0 || len > RECORD_LEN_MAX => Err(TlsFault::BadRecord),
            HANDSHAKE => Ok(State::Content(len)),
            // The one byte that it always is, or the two of an alert that is not encrypted.
            CHANGE_CIPHER_SPEC if len != 1 => Err(TlsFault::BadRecord),
            ALERT if len != 2 => Err(TlsFault::BadRecord),
            // Encrypted records may be 256 bytes longer (RFC 8446 §5.2).
            _ if len == 0 || len > RECORD_LEN_MAX + 256 => Err(TlsFault::BadRecord),
            _ => Ok(State::Skip(len)),
        }
    }

    /// Content of the message; `record_left` bytes of its record were to come before it. True if it is complete.
    fn content(&mut self, content: &[u8], record_left: usize) -> Result<bool, TlsFault> {
        let taken_before = self.message_taken;
        let open = self.message.iter_mut().skip(taken_before);
        for (slot, byte) in open.zip(content) {
            *slot = *byte;
        }
        self.message_taken += content.len();
        let known = self.message.get(..self.message_taken).unwrap_or(&self.message);
        let Some(len) = message_len(known, &self.limits)? else {
            return Ok(false);
        };
        // Its record ends with it, or later: then something else follows in it.
        if len < taken_before.saturating_add(record_left) {
            return Err(TlsFault::Coalesced);
        }
        Ok(self.message_taken == len)
    }
}

fn continue_record(left: u16, taken: usize, state: fn(u16) -> State) -> State {
    match left.saturating_sub(u16::try_from(taken).unwrap_or(u16::MAX)) {
        0 => State::Header(0),
        left => state(left),
    }
}

/// The content of `records`, which [`HelloScanner`] has walked from the first byte of the ClientHello to its last. What
/// lies in one record is borrowed.
///
/// # Errors
/// [`TlsFault::BadRecord`] if these are not whole records.
pub fn join_records(records: &[u8]) -> Result<Cow<'_, [u8]>, TlsFault> {
    let (first, mut rest) = split_record(records)?;
    if rest.is_empty() {
        return Ok(Cow::Borrowed(first));
    }
    let mut joined = first.to_vec();
    while !rest.is_empty() {
        let (content, after) = split_record(rest)?;
        joined.extend_from_slice(content);
        rest = after;
    }
    Ok(Cow::Owned(joined))
}

fn split_record(records: &[u8]) -> Result<(&[u8], &[u8]), TlsFault> {
    let (header, rest) = records
        .split_first_chunk::<RECORD_HEADER_LEN>()
        .ok_or(TlsFault::BadRecord)?;
    let [.., high, low] = *header;
    rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))
        .ok_or(TlsFault::BadRecord)
}

/// The first ClientHello of a connection that begins with `bytes`: its message without record headers, and how many of
/// the bytes it takes.
///
/// # Errors
/// [`HelloError::Incomplete`] if it can still become one.
pub fn parse_hello<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Cow<'a, [u8]>, usize), HelloError> {
    let end = HelloScanner::new(*limits)
        .advance(bytes)?
        .ok_or(HelloError::Incomplete)?;
    Ok((join_records(bytes.get(..end).unwrap_or_default())?, end))
}
