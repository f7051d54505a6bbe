//! Messages on a stream.

/// Bytes of the length in front of a message.
pub const FRAME_PREFIX_LEN: usize = 2;

/// The first message of a stream's bytes and what follows it (RFC 7766 §8: two bytes of length, then so many bytes of
/// message). `None` while it is not complete. A message can be empty; it is no valid one then.
#[must_use]
pub fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, rest) = bytes.split_first_chunk::<FRAME_PREFIX_LEN>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*prefix)))
}
