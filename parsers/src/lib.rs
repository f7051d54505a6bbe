//! Bytes to validated, borrowed views: packet headers, HTTP/1 request heads, TLS and QUIC first flights.
//!
//! Every parser here reads bytes that a stranger chose. The rules of this room:
//! - lengths are checked before they are used, nothing indexes, nothing panics, every loop is bounded by its input;
//! - "not enough bytes yet" (`Incomplete`) is another answer than "this can never become valid" (`Invalid`);
//! - what two readers could understand differently is invalid, with a fault that names the class;
//! - no socket, no clock, no policy.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::precedence,
        reason = "tests build frames from small numbers"
    )
)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod dns;
pub mod http1;
pub mod http2;
pub mod packet;
pub mod quic;
pub mod tls;
