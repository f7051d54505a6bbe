//! DNS messages, strict (RFC 1035, 2181, 3596, 6891, 9460).
//!
//! [`Head`] is the header and every question; [`Message`] is all of it, with the records that say where a name leads.
//! Both borrow the bytes: a name is a place in the message, checked once and walked again when somebody wants its
//! letters ([`Name::write`]). Nothing is allocated.
//!
//! Bounds: a name is 255 bytes at most and holds at most [`POINTERS_MAX`] compression pointers, each of which points
//! strictly backwards (no loop is possible); at most [`QUESTIONS_MAX`] questions; records are bounded by the message's
//! length, which is 65 535 bytes at most.
//!
//! Over TCP a message comes with its length in front: [`split_frame`]. [`write_refusal`] makes the answer to a query that
//! may not be asked.

mod fault;
mod frame;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod message;
mod name;
mod record;
mod refusal;
#[cfg(test)]
mod tests;

pub use fault::DnsFault;
pub use frame::{FRAME_PREFIX_LEN, split_frame};
#[cfg(any(test, fuzzing))]
pub use fuzz::{fuzz_frames, fuzz_message};
pub use message::{Edns, Head, Header, MESSAGE_LEN_MAX, Message, OPCODE_QUERY, QUESTIONS_MAX, Question};
pub use name::{Labels, NAME_LEN_MAX, Name, POINTERS_MAX};
pub use record::{CLASS_IN, Record, RecordData, ServiceBinding, record_type, type_name};
pub use refusal::{RCODE_FORMERR, RCODE_NOERROR, RCODE_NXDOMAIN, RCODE_REFUSED, write_refusal};

use fault::DnsFault as Fault;

/// Reads a message from the front; each read says if the bytes do not reach.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(len).ok_or(Fault::Truncated)?;
        let bytes = self.message.get(self.at..end).ok_or(Fault::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| Fault::Truncated)
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }
}
