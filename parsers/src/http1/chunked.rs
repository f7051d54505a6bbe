//! Chunked bodies (RFC 9112 §7.1).

use super::{HttpFault, is_field_value, is_token};

/// Bytes of a chunk's size line at most, extensions included, line end not.
pub const CHUNK_LINE_MAX: u16 = 256;
/// Trailer lines at most.
pub const TRAILER_LINES_MAX: u8 = 32;
/// Bytes of all trailers at most.
pub const TRAILERS_LEN_MAX: u16 = 8 * 1024;
/// Hex digits of a chunk's size at most: 2^60 bytes fit every signed 64-bit counter with room for sums.
const SIZE_DIGITS_MAX: u8 = 15;
/// Names that may not be trailers (RFC 9110 §6.5.1): a reader that merges trailers into the head would let them decide
/// about framing, routing or authority after the verdict.
const HEAD_ONLY: [&[u8]; 14] = [
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content_length",
    b"cookie",
    b"expect",
    b"host",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"transfer_encoding",
    b"upgrade",
];
/// The longest of them.
const HEAD_ONLY_LEN_MAX: usize = 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { digits: u8 },
    Extension { len: u16 },
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl State {
    /// What a byte is that does not fit here.
    const fn fault(self) -> HttpFault {
        match self {
            Self::Size { .. } | Self::SizeLf | Self::Data | Self::DataCr | Self::DataLf | Self::Done => {
                HttpFault::BadChunk
            }
            Self::Extension { .. } => HttpFault::BadChunkExtension,
            Self::TrailerStart | Self::TrailerName | Self::TrailerValue | Self::TrailerLf | Self::EndLf => {
                HttpFault::BadTrailer
            }
        }
    }
}

/// How far [`ChunkedFollower::follow`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkProgress {
    /// All bytes belong to the body and it goes on.
    More,
    /// The body ended after so many of the bytes.
    Done(usize),
}

/// Follows one chunked body across any number of pieces. Keeps no bytes. `Copy`, so that a caller can step back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedFollower {
    state: State,
    /// Size of the chunk while its line is read, then bytes of data still to come.
    size: u64,
    trailer_lines: u8,
    trailers_len: u16,
    /// Beginning of the present trailer's name in lower case, and how long the name is.
    name: [u8; HEAD_ONLY_LEN_MAX],
    name_len: usize,
}

impl Default for ChunkedFollower {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedFollower {
    /// A follower before the first chunk.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Size { digits: 0 },
            size: 0,
            trailer_lines: 0,
            trailers_len: 0,
            name: [0; HEAD_ONLY_LEN_MAX],
            name_len: 0,
        }
    }

    /// Bytes of the present chunk's data that are still to come; 0 outside of chunk data.
    #[must_use]
    pub const fn data_left(&self) -> u64 {
        match self.state {
            State::Data => self.size,
            _ => 0,
        }
    }

    /// Takes further bytes.
    ///
    /// # Errors
    /// [`HttpFault::BadChunk`], [`HttpFault::BadChunkExtension`] or [`HttpFault::BadTrailer`] at the first byte that no
    /// valid body holds; the follower is then spent.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<ChunkProgress, HttpFault> {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != State::Done {
            if self.state == State::Data {
                let take = usize::try_from(self.size).unwrap_or(usize::MAX).min(rest.len());
                self.skip_data(take as u64);
                rest = rest.get(take..).unwrap_or_default();
            } else if let Some((&byte, after)) = rest.split_first() {
                self.state = self.step(byte).ok_or(self.state.fault())?;
                rest = after;
            }
        }
        Ok(if self.state == State::Done {
            ChunkProgress::Done(bytes.len() - rest.len())
        } else {
            ChunkProgress::More
        })
    }

    /// Counts `len` bytes of chunk data as seen, at most [`ChunkedFollower::data_left`].
    pub const fn skip_data(&mut self, len: u64) {
        if let State::Data = self.state {
            self.size = self.size.saturating_sub(len);
            if self.size == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// One byte outside of chunk data; `None` if it is not valid there. Bare CR and LF are valid nowhere, and no space
    /// is between size and extension: servers disagree about all of them.
    fn step(&mut self, byte: u8) -> Option<State> {
        match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() => self.size_digit(digits, byte),
            (State::Size { digits: 1.. }, b'\r') => Some(State::SizeLf),
            (State::Size { digits: 1.. }, b';') => Some(State::Extension { len: 0 }),
            (State::Extension { .. }, b'\r') => Some(State::SizeLf),
            (State::Extension { len }, _) if is_field_value(byte) && byte < 0x80 && len < CHUNK_LINE_MAX => {
                Some(State::Extension { len: len + 1 })
            }
            (State::SizeLf, b'\n') if self.size == 0 => Some(State::TrailerStart),
            (State::SizeLf, b'\n') => Some(State::Data),
            (State::DataCr, b'\r') => Some(State::DataLf),
            (State::DataLf, b'\n') => Some(State::Size { digits: 0 }),
            (State::EndLf, b'\n') => Some(State::Done),
            _ => self.trailer(byte),
        }
    }

    fn size_digit(&mut self, digits: u8, byte: u8) -> Option<State> {
        if digits >= SIZE_DIGITS_MAX {
            return None;
        }
        let value = char::from(byte).to_digit(16)?;
        self.size = if digits == 0 { 0 } else { self.size << 4 } | u64::from(value);
        Some(State::Size { digits: digits + 1 })
    }

    fn trailer_name(&mut self, byte: u8) -> State {
        if let Some(slot) = self.name.get_mut(self.name_len) {
            *slot = byte.to_ascii_lowercase();
        }
        self.name_len += 1;
        State::TrailerName
    }

    /// A name longer than the buffer is none of the list.
    fn may_be_trailer(&self) -> bool {
        self.name
            .get(..self.name_len)
            .is_none_or(|name| !HEAD_ONLY.contains(&name))
    }

    fn trailer(&mut self, byte: u8) -> Option<State> {
        self.trailers_len += 1;
        if self.trailers_len > TRAILERS_LEN_MAX {
            return None;
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Some(State::EndLf),
            (State::TrailerStart, _) if is_token(byte) && self.trailer_lines < TRAILER_LINES_MAX => {
                self.trailer_lines += 1;
                self.name_len = 0;
                Some(self.trailer_name(byte))
            }
            (State::TrailerName, b':') if self.may_be_trailer() => Some(State::TrailerValue),
            (State::TrailerName, _) if is_token(byte) => Some(self.trailer_name(byte)),
            (State::TrailerValue, b'\r') => Some(State::TrailerLf),
            (State::TrailerValue, _) if is_field_value(byte) => Some(State::TrailerValue),
            (State::TrailerLf, b'\n') => Some(State::TrailerStart),
            _ => None,
        }
    }
}
