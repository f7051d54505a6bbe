//! Frames of Initial packets, and the handshake that their pieces make.

use super::{QuicFault, take, take_varint};
use crate::tls::{HELLO_LEN_MAX, Limits, TlsFault, message_len};

/// Ranges of received bytes that do not join, at most. Browsers cut a ClientHello into some ten pieces on purpose.
pub const PIECES_MAX: usize = 64;

/// Types of frames that Initial packets may hold (RFC 9000 §12.4, table 3).
const PADDING: u64 = 0x00;
const PING: u64 = 0x01;
const ACK: u64 = 0x02;
const ACK_ECN: u64 = 0x03;
const CRYPTO: u64 = 0x06;
const CONNECTION_CLOSE: u64 = 0x1c;

/// Gives each CRYPTO frame of an opened packet's payload to `piece`, with its offset.
///
/// # Errors
/// [`QuicFault::BadFrame`], or what `piece` says.
pub fn read_frames<'a>(
    payload: &'a [u8],
    mut piece: impl FnMut(u64, &'a [u8]) -> Result<(), QuicFault>,
) -> Result<(), QuicFault> {
    let mut rest = payload;
    if rest.is_empty() {
        // RFC 9000 §12.4: a payload holds at least one frame.
        return Err(QuicFault::BadFrame);
    }
    while !rest.is_empty() {
        if let Some((offset, data)) = read_frame(&mut rest).ok_or(QuicFault::BadFrame)? {
            piece(offset, data)?;
        }
    }
    Ok(())
}

/// Offset and data if it is a CRYPTO frame; `None` outside if it is invalid.
#[expect(clippy::option_option, reason = "valid or not, of interest or not")]
fn read_frame<'a>(rest: &mut &'a [u8]) -> Option<Option<(u64, &'a [u8])>> {
    match take_varint(rest)? {
        PADDING => {
            // A thousand of these are common.
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            take(rest, zeros)?;
        }
        PING => {}
        kind @ (ACK | ACK_ECN) => {
            take_varint(rest)?;
            take_varint(rest)?;
            let ranges = take_varint(rest)?;
            take_varint(rest)?;
            // Each turn takes at least two bytes or ends the loop.
            for _ in 0..ranges {
                take_varint(rest)?;
                take_varint(rest)?;
            }
            if kind == ACK_ECN {
                take_varint(rest)?;
                take_varint(rest)?;
                take_varint(rest)?;
            }
        }
        CRYPTO => {
            let offset = take_varint(rest)?;
            let len = usize::try_from(take_varint(rest)?).ok()?;
            return take(rest, len).map(|data| Some((offset, data)));
        }
        CONNECTION_CLOSE => {
            take_varint(rest)?;
            take_varint(rest)?;
            let len = usize::try_from(take_varint(rest)?).ok()?;
            take(rest, len)?;
        }
        _ => return None,
    }
    Some(None)
}

/// The handshake bytes of one side, put together from pieces in any order, and all kept: a byte that was read must never
/// come again with another value. Bounded by [`HELLO_LEN_MAX`] twice over (a second ClientHello may follow) and
/// [`PIECES_MAX`].
#[derive(Clone, Debug, Default)]
pub struct CryptoStream {
    bytes: Vec<u8>,
    /// Received ranges, ascending, none touching another.
    ranges: Vec<(usize, usize)>,
    /// Bytes at the beginning that were read.
    read: usize,
}

impl CryptoStream {
    /// Without any piece.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            ranges: Vec::new(),
            read: 0,
        }
    }

    /// Memory held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.capacity() + self.ranges.capacity() * size_of::<(usize, usize)>()
    }

    /// Takes a piece.
    ///
    /// # Errors
    /// [`QuicFault::PiecesDiffer`] if it overlaps an earlier piece with other bytes; [`QuicFault::TooLarge`].
    pub fn insert(&mut self, offset: u64, data: &[u8]) -> Result<(), QuicFault> {
        let start = usize::try_from(offset).map_err(|_| QuicFault::TooLarge)?;
        let end = start
            .checked_add(data.len())
            .filter(|end| *end <= self.read.min(HELLO_LEN_MAX) + HELLO_LEN_MAX)
            .ok_or(QuicFault::TooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        for &(from, to) in &self.ranges {
            let (from, to) = (from.max(start), to.min(end));
            if from < to && self.bytes.get(from..to) != data.get(from - start..to - start) {
                return Err(QuicFault::PiecesDiffer);
            }
        }
        self.bytes
            .get_mut(start..end)
            .ok_or(QuicFault::TooLarge)?
            .copy_from_slice(data);
        self.join(start, end)
    }

    /// Whether every piece was read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.ranges.last().is_none_or(|(_, end)| *end <= self.read)
    }

    /// The bytes after those that were read, without a gap.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        match self.ranges.first() {
            Some(&(0, end)) => self.bytes.get(self.read..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The message that follows those that were read, if it is whole.
    ///
    /// # Errors
    /// [`TlsFault`] if it is no ClientHello or too large.
    pub fn client_hello(&self, limits: &Limits) -> Result<Option<&[u8]>, TlsFault> {
        let unread = self.unread();
        Ok(message_len(unread, limits)?.and_then(|len| unread.get(..len)))
    }

    /// The first `len` bytes after those that were read are read now.
    pub fn advance(&mut self, len: usize) {
        self.read += len.min(self.unread().len());
    }

    /// Adds a range to the received ones.
    fn join(&mut self, mut start: usize, mut end: usize) -> Result<(), QuicFault> {
        self.ranges.retain(|&(from, to)| {
            let apart = to < start || end < from;
            if !apart {
                start = start.min(from);
                end = end.max(to);
            }
            apart
        });
        if self.ranges.len() >= PIECES_MAX {
            return Err(QuicFault::TooLarge);
        }
        let at = self.ranges.partition_point(|(from, _)| *from < start);
        self.ranges.insert(at, (start, end));
        Ok(())
    }
}

#[cfg(test)]
impl CryptoStream {
    pub(super) fn ranges(&self) -> &[(usize, usize)] {
        &self.ranges
    }
}
