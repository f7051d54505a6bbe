//! HTTP/2 requests on a cleartext connection, strict (RFC 9113, RFC 7541).
//!
//! In the order in which bytes meet them:
//! - [`FrameScanner`] walks frames across any number of pieces and says where each ends. A header block with all its
//!   CONTINUATION frames is one unit, so nobody sees half of it;
//! - [`join_block`] takes frame headers, padding and priority away from such a unit;
//! - [`Decoder`] decompresses the block. What it did can be undone ([`Decoder::rollback`]): a block that is refused may
//!   come again with other bytes;
//! - [`read_request`] judges the fields of a request: pseudo-headers, names, values, host, path. [`check_trailers`]
//!   does so for trailers;
//! - [`AnswerReader`] reads the status out of answers, which are watched and not judged.
//!
//! Our own decoder, because no published one can be stepped back, bounds what it writes before it writes it, and tells
//! "malformed" from "too large" all at once.
//!
//! **The table of a reader that allows more or less than we do.** The size of the dynamic table is for the server to
//! limit, in SETTINGS that we do not read. We need not: the table of any reader is the newest part of the same sequence of
//! insertions, so the number of a field means the same field to everybody who still has it. Who has it not, refuses.

mod answer;
mod fault;
mod fields;
mod frame;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod head;
mod hpack;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub use answer::{AnswerHead, AnswerReader};
pub use fault::Http2Fault;
pub use fields::Fields;
pub use frame::{
    CONTINUATIONS_MAX, FrameHeader, FrameKind, FrameScanner, OTHER_LEN_MAX, SETTINGS_MAX, Unit, join_block,
};
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_frames, fuzz_hpack};
pub use head::{Http2Request, check_trailers, read_request};
pub use hpack::{Decoder, TABLE_LEN_MAX};

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
