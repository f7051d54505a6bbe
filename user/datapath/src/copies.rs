//! Copies of frames that passed, for whoever judges beside the traffic.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use seventh_abi::{CopyHeader, CopySkip, FlowKey, names};

use crate::{DatapathError, maps};

/// The reader's end of the ring of copies, and the table by which it says what it needs no copy of.
pub struct CopyReader {
    ring: RingBuf<MapData>,
    skips: HashMap<MapData, FlowKey, CopySkip>,
}

impl std::fmt::Debug for CopyReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyReader").finish_non_exhaustive()
    }
}

impl CopyReader {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            ring: maps::take(object, names::COPIES)?,
            skips: maps::take(object, names::COPY_SKIPS)?,
        })
    }

    /// Reads the next copy, if one is there: what is known of it, and the bytes of the frame, with
    /// [`seventh_abi::PuntMeta`] in place of its MAC addresses. Records that are too short are skipped.
    pub fn next_copy<R>(&mut self, read: impl FnOnce(&CopyHeader, &[u8]) -> R) -> Option<R> {
        loop {
            let item = self.ring.next()?;
            let Some((head, bytes)) = item.split_first_chunk::<{ size_of::<CopyHeader>() }>() else {
                continue;
            };
            // SAFETY: as many bytes as a `CopyHeader` has, which is integers without padding: any bytes are a value.
            let head = unsafe { head.as_ptr().cast::<CopyHeader>().read_unaligned() };
            if let Some(frame) = bytes.get(..head.captured as usize) {
                return Some(read(&head, frame));
            }
        }
    }

    /// From now on the kernel leaves out what `skip` names.
    ///
    /// # Errors
    /// The kernel refuses; more is copied than is needed then.
    pub fn skip(&mut self, key: &FlowKey, skip: CopySkip) -> Result<(), DatapathError> {
        self.skips
            .insert(key, skip, 0)
            .map_err(DatapathError::map(names::COPY_SKIPS))
    }

    /// Sleeps until the ring begins to fill, at most for `timeout`. The kernel does not call for every copy: come round
    /// every few milliseconds while there are any.
    ///
    /// # Errors
    /// The ring cannot be polled.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        // SAFETY: the ring owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(timeout)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
