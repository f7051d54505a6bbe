//! Reads the kernel's rings of events and answers.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use seventh_abi::{Answer, Event};

/// Takes records of one kind out of a ring; readable when [`AsFd::as_fd`] polls readable.
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

impl<T> AsRawFd for RingReader<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl<T> AsFd for RingReader<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
