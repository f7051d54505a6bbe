//! Frames (RFC 9113 §4, §6).

use super::Http2Fault;
use crate::http1::{HttpFault, Limits};
use std::borrow::Cow;

/// CONTINUATION frames of one header block at most.
pub const CONTINUATIONS_MAX: u8 = 8;
/// Settings in one SETTINGS frame at most.
pub const SETTINGS_MAX: u32 = 64;
/// Bytes of a GOAWAY frame, or one of an unknown type, at most: the size that every peer must take.
pub const OTHER_LEN_MAX: u32 = 16_384;

const HEADER_LEN: usize = 9;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_LEN: u32 = 5;

/// Types of frames that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of RFC 9113 §6")]
pub enum FrameKind {
    Data,
    Headers,
    Priority,
    ResetStream,
    Settings,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// A type that RFC 9113 does not know; everybody passes over it (§5.5).
    Unknown,
}

/// The nine bytes before each frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload.
    pub len: u32,
    /// Type.
    pub kind: FrameKind,
    /// Flags, as sent.
    pub flags: u8,
    /// Stream, 0 for the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Whether this is SETTINGS or PING that acknowledges.
    #[must_use]
    pub const fn is_ack(&self) -> bool {
        self.flags & ACK != 0 && matches!(self.kind, FrameKind::Settings | FrameKind::Ping)
    }

    /// `None` for `PUSH_PROMISE`, which only servers send.
    fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        let kind = match kind {
            0 => FrameKind::Data,
            1 => FrameKind::Headers,
            2 => FrameKind::Priority,
            3 => FrameKind::ResetStream,
            4 => FrameKind::Settings,
            5 => return None,
            6 => FrameKind::Ping,
            7 => FrameKind::GoAway,
            8 => FrameKind::WindowUpdate,
            9 => FrameKind::Continuation,
            _ => FrameKind::Unknown,
        };
        Some(Self {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            // The highest bit is reserved and ignored (§4.1).
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        })
    }

    /// Whether size and stream are those that the type demands.
    fn is_sound(&self) -> bool {
        let on_connection = self.stream == 0;
        let of_client = self.stream % 2 == 1;
        match self.kind {
            FrameKind::Data => of_client && (self.flags & PADDED == 0 || self.len > 0),
            FrameKind::Headers | FrameKind::Continuation => of_client,
            FrameKind::Priority => !on_connection && self.len == PRIORITY_LEN,
            FrameKind::ResetStream => !on_connection && self.len == 4,
            FrameKind::Settings => {
                on_connection
                    && self.len.is_multiple_of(6)
                    && self.len <= if self.flags & ACK != 0 { 0 } else { 6 * SETTINGS_MAX }
            }
            FrameKind::Ping => on_connection && self.len == 8,
            FrameKind::GoAway => on_connection && (8..=OTHER_LEN_MAX).contains(&self.len),
            FrameKind::WindowUpdate => self.len == 4,
            FrameKind::Unknown => self.len <= OTHER_LEN_MAX,
        }
    }
}

/// What is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A header block, all its frames. [`join_block`] reads it.
    Block {
        /// Stream.
        stream: u32,
        /// No data follows on the stream.
        end_stream: bool,
    },
    /// The beginning of a DATA frame, up to where its payload begins.
    Data {
        /// Stream.
        stream: u32,
        /// The last of the stream.
        end_stream: bool,
        /// Bytes that follow, padding included.
        len: u32,
        /// Bytes of padding among them.
        padding: u32,
    },
    /// Any other frame.
    Frame(FrameHeader),
}

/// Follows one unit across any number of pieces. `Copy`, so that a caller can step back to where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameScanner {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are there.
    have: usize,
    /// The present frame, once its header is complete, and bytes of it that are still to come.
    frame: Option<(FrameHeader, u32)>,
    /// Stream and `END_STREAM` of the header block that has begun.
    block: Option<(u32, bool)>,
    continuations: u8,
    taken: usize,
    head_len_max: usize,
}

impl FrameScanner {
    /// A scanner before the first byte of a unit.
    #[must_use]
    pub const fn new(limits: &Limits) -> Self {
        Self {
            header: [0; HEADER_LEN],
            have: 0,
            frame: None,
            block: None,
            continuations: 0,
            taken: 0,
            head_len_max: limits.head_len_max,
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.taken
    }

    /// The type of the frame that the unit begins with, once that is known.
    #[must_use]
    pub fn kind(&self) -> Option<FrameKind> {
        self.frame.map(|(frame, _)| frame.kind)
    }

    /// Takes further bytes. `Some((n, unit))`: the unit ends with the `n`-th of them. `None`: all are taken, it goes on.
    ///
    /// # Errors
    /// [`Http2Fault`] at the first byte after which no valid unit is possible; the scanner is then spent.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<(usize, Unit)>, Http2Fault> {
        let mut rest = bytes;
        loop {
            let Some((frame, left)) = self.frame else {
                let Some((&byte, after)) = rest.split_first() else {
                    return Ok(None);
                };
                rest = after;
                self.header_byte(byte)?;
                continue;
            };
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (here, after) = rest.split_at_checked(take).unwrap_or((rest, &[]));
            rest = after;
            self.taken += take;
            let left = left - u32::try_from(take).unwrap_or(left);
            self.frame = Some((frame, left));
            if left > 0 {
                return Ok(None);
            }
            let unit = self.end_of_frame(frame, here.last().copied())?;
            if let Some(unit) = unit {
                return Ok(Some((bytes.len() - rest.len(), unit)));
            }
            (self.frame, self.have) = (None, 0);
        }
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), Http2Fault> {
        if let Some(slot) = self.header.get_mut(self.have) {
            *slot = byte;
        }
        self.have += 1;
        self.taken += 1;
        if self.have == HEADER_LEN {
            let frame = FrameHeader::parse(&self.header).ok_or(Http2Fault::BadFrame)?;
            self.frame = Some((frame, self.begin(&frame)?));
        }
        Ok(())
    }

    /// Judges a frame by its header: how many bytes of it belong to the unit.
    fn begin(&mut self, frame: &FrameHeader) -> Result<u32, Http2Fault> {
        let continues = self.block.is_some_and(|(stream, _)| stream == frame.stream);
        if !frame.is_sound() || (frame.kind == FrameKind::Continuation) != self.block.is_some() {
            return Err(Http2Fault::BadFrame);
        }
        match frame.kind {
            FrameKind::Data => return Ok(u32::from(frame.flags & PADDED != 0)),
            FrameKind::Headers => self.block = Some((frame.stream, frame.flags & END_STREAM != 0)),
            FrameKind::Continuation if !continues => return Err(Http2Fault::BadFrame),
            FrameKind::Continuation => {
                self.continuations += 1;
                if self.continuations > CONTINUATIONS_MAX {
                    return Err(Http2Fault::TooManyContinuations);
                }
            }
            _ => return Ok(frame.len),
        }
        let len = usize::try_from(frame.len).unwrap_or(usize::MAX);
        if self.taken.saturating_add(len) > self.head_len_max {
            return Err(HttpFault::HeadTooLarge.into());
        }
        Ok(frame.len)
    }

    /// The unit, if it ends with this frame. `last` is the frame's last byte that belongs to the unit.
    fn end_of_frame(&self, frame: FrameHeader, last: Option<u8>) -> Result<Option<Unit>, Http2Fault> {
        Ok(match (frame.kind, self.block) {
            (FrameKind::Headers | FrameKind::Continuation, Some((stream, end_stream))) => {
                (frame.flags & END_HEADERS != 0).then_some(Unit::Block { stream, end_stream })
            }
            (FrameKind::Data, _) => {
                let padded = u32::from(frame.flags & PADDED != 0);
                let padding = u32::from(last.filter(|_| padded == 1).unwrap_or(0));
                let len = frame.len.saturating_sub(padded);
                if padding > len {
                    return Err(Http2Fault::BadFrame);
                }
                Some(Unit::Data {
                    stream: frame.stream,
                    end_stream: frame.flags & END_STREAM != 0,
                    len,
                    padding,
                })
            }
            _ => Some(Unit::Frame(frame)),
        })
    }
}

/// The header block in a unit that a [`FrameScanner`] has found complete ([`Unit::Block`]).
///
/// # Errors
/// [`Http2Fault::BadFrame`]: padding or priority that does not fit, padding that is not zero (RFC 9113 §6.1 lets a
/// reader refuse it, so nobody can rely on it).
pub fn join_block(unit: &[u8]) -> Result<Cow<'_, [u8]>, Http2Fault> {
    let mut block = Cow::Borrowed(&[][..]);
    let mut rest = unit;
    // At most CONTINUATIONS_MAX + 1 turns.
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let frame = FrameHeader::parse(header).ok_or(Http2Fault::BadFrame)?;
        let len = usize::try_from(frame.len).unwrap_or(usize::MAX);
        let (payload, after) = after.split_at_checked(len).ok_or(Http2Fault::BadFrame)?;
        rest = after;
        let fragment = if frame.kind == FrameKind::Headers {
            fragment(&frame, payload).ok_or(Http2Fault::BadFrame)?
        } else {
            payload
        };
        if block.is_empty() {
            block = Cow::Borrowed(fragment);
        } else {
            block.to_mut().extend_from_slice(fragment);
        }
    }
    Ok(block)
}

/// A HEADERS payload without padding and priority (RFC 9113 §6.2).
fn fragment<'a>(frame: &FrameHeader, payload: &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if frame.flags & PADDED != 0 {
        let (&len, after) = rest.split_first()?;
        (padding, rest) = (usize::from(len), after);
    }
    if frame.flags & PRIORITY != 0 {
        let (dependency, after) = rest.split_first_chunk()?;
        // RFC 7540 §5.3.1: a stream that depends on itself is an error of that stream, which its server resets.
        if u32::from_be_bytes(*dependency) & 0x7fff_ffff == frame.stream {
            return None;
        }
        rest = after.get(PRIORITY_LEN as usize - size_of::<u32>()..)?;
    }
    let (fragment, padding) = rest.split_at_checked(rest.len().checked_sub(padding)?)?;
    padding.iter().all(|&byte| byte == 0).then_some(fragment)
}
