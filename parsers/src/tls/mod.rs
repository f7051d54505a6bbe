//! The first flight of a TLS connection (RFC 8446, RFC 5246, RFC 6066), strict.
//!
//! Only what is sent in the clear before any key exists is read, and of that only what names a server. Four parts, in
//! the order in which bytes meet them:
//! - [`HelloScanner`] walks records byte by byte, across segments, until a whole ClientHello is there, however it was
//!   cut: a record may hold one byte of it, and it may be larger than a record;
//! - [`join_records`] takes the record headers away;
//! - [`read_hello`] reads the message: `tls-parser` splits its fixed part, its extensions are judged here. QUIC carries
//!   the same message without records and comes in here;
//! - [`ServerHelloScanner`] tells whether a server accepted the ClientHello or asks for a second one
//!   (HelloRetryRequest). Only until then can a client name another server.

mod fault;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod hello;
mod records;
mod server;
#[cfg(test)]
mod tests;

pub use fault::{HelloError, TlsFault};
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_hello, fuzz_records, fuzz_server_hello};
pub use hello::{ALPN_PROTOCOLS_MAX, Alpn, ClientHello, EXTENSIONS_MAX, SERVER_NAME_LEN_MAX, message_len, read_hello};
pub use records::{HelloScanner, RECORD_LEN_MAX, join_records, parse_hello};
pub use server::{ServerAnswer, ServerHelloScanner};

/// Bytes of a ClientHello message at most, whatever its records. Post-quantum key shares make a few thousand; common
/// TLS libraries refuse more than this.
pub const HELLO_LEN_MAX: usize = 64 * 1024;

/// What a stranger may make us read for one ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the message, its four header bytes included; values above [`HELLO_LEN_MAX`] count as
    /// [`HELLO_LEN_MAX`]. With a record for each byte it comes as six times as many bytes.
    pub hello_len_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_len_max: HELLO_LEN_MAX,
        }
    }
}

/// Handshake message types (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Content types of records (RFC 8446 §5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// TLS 1.3, as extensions name it.
const TLS_1_3: u16 = 0x0304;

/// The lengths and numbers of TLS, taken from the front.
#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    /// A vector with one byte of length.
    fn vector_u8(&mut self) -> Option<Self> {
        let len = self.u8()?;
        self.take(usize::from(len)).map(Self)
    }

    /// A vector with two bytes of length.
    fn vector_u16(&mut self) -> Option<Self> {
        let len = self.u16()?;
        self.take(usize::from(len)).map(Self)
    }
}
