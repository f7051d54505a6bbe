//! What a server answers to a ClientHello.

use super::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, SERVER_HELLO};

/// The random value that makes a ServerHello a HelloRetryRequest: the SHA-256 of these words (RFC 8446 §4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// Record header: content type, version, length.
const RECORD_HEADER_LEN: u8 = 5;
/// Message type, three bytes of length, version, random.
const PREFIX_LEN: usize = 4 + 2 + RETRY_RANDOM.len();

/// What became of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAnswer {
    /// It was accepted: no other will be.
    Accepted,
    /// A second one is asked for (HelloRetryRequest, RFC 8446 §4.1.4).
    Retry,
    /// The server speaks something else.
    Other,
}

/// Follows a server's first bytes until its answer is known; it needs no more than the first bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHelloScanner {
    state: State,
    header: [u8; RECORD_HEADER_LEN as usize],
    prefix: [u8; PREFIX_LEN],
    prefix_taken: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header(u8),
    Skip(u16),
    Content(u16),
}

impl Default for ServerHelloScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerHelloScanner {
    /// Before the server's first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Header(0),
            header: [0; RECORD_HEADER_LEN as usize],
            prefix: [0; PREFIX_LEN],
            prefix_taken: 0,
        }
    }

    /// Takes further bytes of a connection with records. `None`: the answer is not known yet. Alerts of the lower kind
    /// may come before it and are passed over.
    pub fn advance(&mut self, bytes: &[u8]) -> Option<ServerAnswer> {
        for &byte in bytes {
            let answer = match self.state {
                State::Header(known) => self.header_byte(known, byte),
                State::Skip(left) => {
                    self.state = next_in_record(left, State::Skip);
                    None
                }
                State::Content(left) => {
                    self.state = next_in_record(left, State::Content);
                    self.message_bytes(&[byte])
                }
            };
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// As [`ServerHelloScanner::advance`], for bytes of handshake messages without records (QUIC).
    pub fn message_bytes(&mut self, bytes: &[u8]) -> Option<ServerAnswer> {
        for &byte in bytes {
            let Some(slot) = self.prefix.get_mut(self.prefix_taken) else {
                break;
            };
            *slot = byte;
            self.prefix_taken += 1;
            if self.prefix_taken == 1 && byte != SERVER_HELLO {
                return Some(ServerAnswer::Other);
            }
        }
        let (_, random) = self.prefix.split_at_checked(PREFIX_LEN - RETRY_RANDOM.len())?;
        if self.prefix_taken < PREFIX_LEN {
            None
        } else if random == RETRY_RANDOM {
            Some(ServerAnswer::Retry)
        } else {
            Some(ServerAnswer::Accepted)
        }
    }

    fn header_byte(&mut self, known: u8, byte: u8) -> Option<ServerAnswer> {
        *self.header.get_mut(usize::from(known))? = byte;
        let [kind, major, _, high, low] = self.header;
        let readable = matches!(kind, HANDSHAKE | ALERT | CHANGE_CIPHER_SPEC) && (known == 0 || major == 3);
        if !readable {
            return Some(ServerAnswer::Other);
        }
        if known + 1 < RECORD_HEADER_LEN {
            self.state = State::Header(known + 1);
            return None;
        }
        let len = u16::from_be_bytes([high, low]);
        if len == 0 {
            return Some(ServerAnswer::Other);
        }
        self.state = if kind == HANDSHAKE {
            State::Content(len)
        } else {
            State::Skip(len)
        };
        None
    }
}

fn next_in_record(left: u16, state: fn(u16) -> State) -> State {
    match left {
        0 | 1 => State::Header(0),
        left => state(left - 1),
    }
}
