//! Reads the kernel's rings of events and answers.

use std::marker::PhantomData;

use aya::maps::{MapData, RingBuf};
use seventh_abi::{Answer, AnswerPiece, Event};

/// Takes records of one kind out of a ring. Nobody is woken when one comes: look from time to time.
pub struct RingReader<T> {
    ring: RingBuf<MapData>,
    kind: PhantomData<T>,
}

/// Drops, and first decisions of flows.
pub type EventReader = RingReader<Event>;
/// Beginnings of answers.
pub type AnswerReader = RingReader<Answer>;

/// A record of a ring.
pub trait RingRecord: Copy + private::PlainData {}

impl RingRecord for Event {}
impl RingRecord for Answer {}

mod private {
    /// Any bytes are a value: `RingReader` relies on it.
    pub trait PlainData {}

    impl PlainData for super::Event {}
    impl PlainData for super::Answer {}
}

impl<T: RingRecord> RingReader<T> {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self {
            ring,
            kind: PhantomData,
        }
    }

    /// The next record, if one is there. Records of another size are skipped.
    pub fn next_record(&mut self) -> Option<T> {
        loop {
            let item = self.ring.next()?;
            if item.len() == size_of::<T>() {
                // SAFETY: the record has the size of a `T`, which any bytes are a value of (`PlainData`).
                return Some(unsafe { item.as_ptr().cast::<T>().read_unaligned() });
            }
        }
    }
}

/// Takes pieces of answers' header blocks out of their ring. Nobody is woken when one comes.
pub struct PieceReader {
    ring: RingBuf<MapData>,
}

impl PieceReader {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Reads the next piece, if one is there: what is known of it, and its bytes. Records of another size are skipped.
    pub fn next_piece<R>(&mut self, read: impl FnOnce(&AnswerPiece, &[u8]) -> R) -> Option<R> {
        loop {
            let item = self.ring.next()?;
            let Some((head, bytes)) = item.split_at_checked(size_of::<AnswerPiece>()) else {
                continue;
            };
            // SAFETY: `head` has the size of an `AnswerPiece`, which any bytes are a value of: integers and arrays of them,
            // without padding.
            let head = unsafe { head.as_ptr().cast::<AnswerPiece>().read_unaligned() };
            if bytes.len() == usize::from(head.len) {
                return Some(read(&head, bytes));
            }
        }
    }
}
