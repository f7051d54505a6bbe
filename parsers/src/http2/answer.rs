//! The little that is wanted of answers: their status.
//!
//! Answers are watched beside the traffic, so a block may be missing. What the dynamic table holds is not known any more
//! then, but most servers write the usual statuses in a form that needs no table. So reading goes on, without
//! it: what can only be said with the table is then not known, and never guessed.

use super::hpack::Reader;
use super::table::Table;
use super::{Decoder, Fields};
use crate::http1::{HEADERS_MAX, Limits};

const STATUS: &[u8] = b":status";
const GRPC_STATUS: &[u8] = b"grpc-status";
/// Bytes that the fields of an answer may have; more counts as a block that cannot be read.
const LIMITS: Limits = Limits {
    head_len_max: 64 * 1024,
    headers_max: HEADERS_MAX,
};

/// What a header block of a server says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerHead {
    /// Status of the answer. Trailers have none.
    pub status: Option<u16>,
    /// Status of a call of gRPC: 0 is success.
    pub grpc_status: Option<u32>,
    /// The block has fields that are not known: one of them may be what is missing above.
    pub is_partial: bool,
}

impl AnswerHead {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        match name {
            STATUS => self.status = number(value).filter(|_| value.len() == 3),
            GRPC_STATUS => self.grpc_status = number(value),
            _ => {}
        }
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(digits).ok()?;
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads the header blocks of one connection's server, in order. Memory: a [`Decoder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerReader {
    /// None once a block was missed.
    decoder: Option<Decoder>,
}

impl Default for AnswerReader {
    fn default() -> Self {
        Self::new()
    }
}

impl AnswerReader {
    /// At the connection's first block.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            decoder: Some(Decoder::new()),
        }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.as_ref().map_or(0, Decoder::held)
    }

    /// A block was missed.
    pub fn miss(&mut self) {
        self.decoder = None;
    }

    /// Reads the next block. One that cannot be read counts as missed.
    pub fn read(&mut self, block: &[u8]) -> AnswerHead {
        let mut head = AnswerHead::default();
        let mut fields = Fields::default();
        if let Some(decoder) = &mut self.decoder
            && decoder.decode(block, &LIMITS, &mut fields).is_ok()
        {
            decoder.commit();
            fields.iter().for_each(|(name, value)| head.take(name, value));
            return head;
        }
        self.miss();
        if without_table(block, &mut head).is_none() {
            head = AnswerHead {
                is_partial: true,
                ..AnswerHead::default()
            };
        }
        head
    }
}

/// What can be told without the dynamic table; `None` if the block is malformed.
fn without_table(block: &[u8], head: &mut AnswerHead) -> Option<()> {
    let mut reader = Reader {
        rest: block,
        room: LIMITS.head_len_max,
    };
    let (mut name, mut value) = (Vec::new(), Vec::new());
    // Each turn takes a byte at least.
    while let Some(&first) = reader.rest.first() {
        if first & 0xe0 == 0x20 {
            reader.integer(5).ok()?;
            continue;
        }
        if first & 0x80 != 0 {
            match Table::fixed(reader.integer(7).ok()?) {
                Some((name, value)) => head.take(name.as_bytes(), value.as_bytes()),
                None => head.is_partial = true,
            }
            continue;
        }
        let index = reader.integer(if first & 0x40 != 0 { 6 } else { 4 }).ok()?;
        name.clear();
        value.clear();
        match Table::fixed(index) {
            _ if index == 0 => reader.string(&mut name).ok()?,
            Some((fixed, _)) => name.extend_from_slice(fixed.as_bytes()),
            None => head.is_partial = true,
        }
        reader.string(&mut value).ok()?;
        head.take(&name, &value);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{AnswerHead, AnswerReader};
    use proptest::prelude::*;

    const OK: AnswerHead = AnswerHead {
        status: Some(200),
        grpc_status: None,
        is_partial: false,
    };
    /// `:status: 200`, `x-a: b` for the table.
    const FIRST: &[u8] = b"\x88\x40\x03x-a\x01b";
    /// `:status: 418` for the table; then the same by its number, and `x-a: b` by its own.
    const TEAPOT: &[u8] = b"\x48\x03418";
    const AGAIN: &[u8] = b"\xbe\xbf";

    #[test]
    fn a_status_is_read_in_every_form() {
        let status = |block: &[u8]| AnswerReader::new().read(block).status;
        assert_eq!(status(b"\x88"), Some(200));
        assert_eq!(status(b"\x20\x3f\xe1\x1f\x8d"), Some(404));
        for literal in [
            &b"\x48\x03418"[..],
            b"\x08\x03418",
            b"\x18\x03418",
            b"\x00\x07:status\x03418",
        ] {
            assert_eq!(status(literal), Some(418));
        }
        assert_eq!(status(b"\x08\x83\x68\x2f\x7f"), Some(418), "in the Huffman code");
        for none in [
            &b"\x08\x02\x34\x31"[..],
            b"\x08\x04+418",
            b"\x08\x030x1",
            b"\x08\x044180",
            b"",
        ] {
            assert_eq!(status(none), None, "{none:?}");
        }
        let mut reader = AnswerReader::new();
        assert_eq!(reader.read(FIRST), OK);
        assert_eq!(reader.read(TEAPOT).status, Some(418));
        let again = reader.read(AGAIN);
        assert_eq!((again.status, again.is_partial), (Some(418), false));
    }

    #[test]
    fn trailers_of_grpc_have_a_status_of_their_own() {
        let mut reader = AnswerReader::new();
        assert_eq!(reader.read(b"\x88\x5f\x10application/grpc"), OK);
        let trailers = reader.read(b"\x40\x0bgrpc-status\x017");
        assert_eq!((trailers.status, trailers.grpc_status), (None, Some(7)));
        assert_eq!(reader.read(b"\xbe").grpc_status, Some(7));
    }

    #[test]
    fn after_a_missed_block_nothing_is_guessed() {
        let mut reader = AnswerReader::new();
        reader.read(FIRST);
        reader.miss();
        assert_eq!(reader.read(b"\x88"), OK, "everybody knows it by this number");
        assert_eq!(reader.read(b"\x08\x03418").status, Some(418));
        for unknown in [&b"\xbe"[..], b"\x7e\x03418", AGAIN] {
            let head = reader.read(unknown);
            assert_eq!((head.status, head.is_partial), (None, true), "{unknown:?}");
        }
        // Nor is anything that comes later taken for known: what it stands behind is not.
        reader.read(TEAPOT);
        assert_eq!(reader.read(b"\xbe").status, None);
        assert_eq!(reader.held(), 0);
    }

    #[test]
    fn a_malformed_block_counts_as_missed() {
        for malformed in [&b"\xff\xff\xff\xff\xff\xff"[..], b"\x88\x40\x7fx", b"\xc0"] {
            let mut reader = AnswerReader::new();
            reader.read(FIRST);
            let head = reader.read(malformed);
            assert!(head.is_partial && head.grpc_status.is_none(), "{malformed:?}");
            assert_eq!(reader.read(b"\xbe").status, None);
        }
    }

    proptest! {
        /// A reader that has missed blocks says less than one that has not, and nothing else.
        #[test]
        fn missing_blocks_makes_no_other_statuses(blocks in prop::collection::vec(prop::collection::vec(0..6u8, 0..5), 1..12), missed: prop::sample::Index) {
            let forms = [FIRST, TEAPOT, b"\x88", b"\xbe", b"\x0f\x2f\x03418", b"\x40\x0bgrpc-status\x012"];
            let missed = missed.index(blocks.len());
            let (mut whole, mut partial) = (AnswerReader::new(), AnswerReader::new());
            for (at, parts) in blocks.iter().enumerate() {
                let block: Vec<u8> = parts.iter().flat_map(|&part| forms[usize::from(part)]).copied().collect();
                let truth = whole.read(&block);
                if at == missed {
                    partial.miss();
                    continue;
                }
                let told = partial.read(&block);
                if !truth.is_partial && !told.is_partial {
                    prop_assert_eq!(told, truth);
                }
            }
        }
    }
}
