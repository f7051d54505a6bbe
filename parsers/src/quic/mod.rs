//! The first flight of a QUIC connection (RFC 9000, RFC 9001, RFC 9369), strict.
//!
//! Initial packets are encrypted with keys that anybody on the way can make from the packet itself (RFC 9001 §5.2), so
//! the ClientHello in them can be read. Three parts, in the order in which bytes meet them:
//! - [`split_packet`] takes the first packet off a datagram, which may hold several;
//! - [`InitialKeys::open`] removes header protection and encryption of an Initial, [`read_frames`] gives its CRYPTO
//!   frames;
//! - [`CryptoStream`] puts the pieces of the handshake together, in whatever order and packets they come;
//!   [`CryptoStream::client_hello`] says when the message is whole. [`crate::tls::read_hello`] reads it.
//!
//! Versions 1 and 2, and for those who look on drafts of version 1 ([`split_packet_or_draft`]). Others cannot be read:
//! their keys and their packets may be anything.

mod crypto;
mod fault;
mod frames;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod packet;
#[cfg(test)]
mod tests;

pub use crypto::{InitialKeys, Side};
pub use fault::QuicFault;
pub use frames::{CryptoStream, PIECES_MAX, read_frames};
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_datagram, fuzz_frames, fuzz_initial};
pub use packet::{
    CONNECTION_ID_LEN_MAX, ConnectionId, Draft, Initial, Packet, Version, split_packet, split_packet_or_draft,
};

/// A variable-length integer (RFC 9000 §16) off the front.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let len = 1_usize << (first >> 6);
    let number = take(bytes, len)?
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    // The two highest bits were the length.
    Some(number & (u64::MAX >> (66 - 8 * len)))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    take(bytes, 1)?.first().copied()
}
