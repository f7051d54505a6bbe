//! Decompressing header blocks (RFC 7541).

use super::table::Table;
use super::{Fields, Http2Fault, huffman};
use crate::http1::{HEADERS_MAX, HttpFault, Limits};

/// The largest dynamic table that a client may use, in bytes as RFC 7541 §4.1 counts them. What a server allows beyond
/// is refused.
pub const TABLE_LEN_MAX: usize = 16 * 1024;
/// Changes of the table's size at the beginning of a block: the smallest since the last block and the final one (RFC
/// 7541 §4.2).
const SIZE_UPDATES_MAX: usize = 2;
/// Bytes of an integer after its prefix: values up to 2^28 and a little more.
const INTEGER_BYTES_MAX: u32 = 4;
/// What a field counts in a list beside its name and value (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// Pseudo-headers of a request at most (RFC 9113 §8.3.1, RFC 8441 §4): they are not counted as headers.
const PSEUDO_HEADERS_MAX: usize = 5;

/// Decompresses the header blocks of one connection, in order. Memory: the dynamic table, [`TABLE_LEN_MAX`] at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoder {
    table: Table,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Before the first block.
    #[must_use]
    pub const fn new() -> Self {
        Self { table: Table::new() }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.table.held()
    }

    /// Decompresses a whole block into `fields`, which is emptied first. Follow with [`Decoder::commit`] if the block
    /// counts, with [`Decoder::rollback`] if it is as if it had not come (also after an error).
    ///
    /// # Errors
    /// [`Http2Fault::BadCompression`]; [`HttpFault::HeadTooLarge`] if names and values and 32 bytes for each field
    /// exceed the limit, [`HttpFault::TooManyHeaders`], both before anything larger is written.
    pub fn decode(&mut self, block: &[u8], limits: &Limits, fields: &mut Fields) -> Result<(), Http2Fault> {
        fields.clear();
        let mut reader = Reader {
            rest: block,
            room: limits.head_len_max,
        };
        let mut updates = 0;
        let count_max = limits.headers_max.min(HEADERS_MAX) + PSEUDO_HEADERS_MAX;
        while let Some(&first) = reader.rest.first() {
            if first & 0xe0 == 0x20 {
                updates += 1;
                let size = reader.integer(5)?;
                if !fields.is_empty() || updates > SIZE_UPDATES_MAX || size > TABLE_LEN_MAX {
                    return Err(Http2Fault::BadCompression);
                }
                self.table.resize(size);
                continue;
            }
            if fields.len() >= count_max {
                return Err(HttpFault::TooManyHeaders.into());
            }
            reader.take_room(FIELD_OVERHEAD)?;
            self.field(first, &mut reader, fields)?;
        }
        Ok(())
    }

    /// Keeps what the last block did to the table.
    pub fn commit(&mut self) {
        self.table.commit();
    }

    /// Undoes what the last block did to the table.
    pub fn rollback(&mut self) {
        self.table.rollback();
    }

    fn field(&mut self, first: u8, reader: &mut Reader<'_>, fields: &mut Fields) -> Result<(), Http2Fault> {
        if first & 0x80 != 0 {
            let index = reader.integer(7)?;
            let (name, value) = self.table.get(index).ok_or(Http2Fault::BadCompression)?;
            reader.take_room(name.len() + value.len())?;
            let buffer = fields.buffer();
            buffer.extend_from_slice(name);
            let name_end = buffer.len();
            buffer.extend_from_slice(value);
            fields.finish(name_end);
            return Ok(());
        }
        let is_indexed = first & 0x40 != 0;
        let index = reader.integer(if is_indexed { 6 } else { 4 })?;
        if index == 0 {
            reader.string(fields.buffer())?;
        } else {
            let (name, _) = self.table.get(index).ok_or(Http2Fault::BadCompression)?;
            reader.take_room(name.len())?;
            fields.buffer().extend_from_slice(name);
        }
        let name_end = fields.buffer().len();
        reader.string(fields.buffer())?;
        fields.finish(name_end);
        if is_indexed {
            let (name, value) = fields.last();
            self.table.insert(name, value);
        }
        Ok(())
    }
}

/// What is left of a block, and of the bytes that its fields may have.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
    pub(super) room: usize,
}

impl Reader<'_> {
    fn take_room(&mut self, len: usize) -> Result<(), Http2Fault> {
        self.room = self.room.checked_sub(len).ok_or(HttpFault::HeadTooLarge)?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Http2Fault> {
        let (&byte, rest) = self.rest.split_first().ok_or(Http2Fault::BadCompression)?;
        self.rest = rest;
        Ok(byte)
    }

    /// RFC 7541 §5.1; the prefix has `bits` bits.
    pub(super) fn integer(&mut self, bits: u32) -> Result<usize, Http2Fault> {
        let full = (1 << bits) - 1;
        let mut value = usize::from(self.byte()?) & full;
        if value < full {
            return Ok(value);
        }
        for at in 0..INTEGER_BYTES_MAX {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Http2Fault::BadCompression)
    }

    /// RFC 7541 §5.2.
    pub(super) fn string(&mut self, out: &mut Vec<u8>) -> Result<(), Http2Fault> {
        let is_huffman = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let len = self.integer(7)?;
        let (coded, rest) = self.rest.split_at_checked(len).ok_or(Http2Fault::BadCompression)?;
        self.rest = rest;
        if !is_huffman {
            self.take_room(len)?;
            out.extend_from_slice(coded);
            return Ok(());
        }
        let before = out.len();
        // One byte more than there is room for tells too large from malformed.
        let decoded = huffman::decode(coded, self.room + 1, out);
        self.take_room(out.len() - before)?;
        decoded.ok_or(Http2Fault::BadCompression)
    }
}
