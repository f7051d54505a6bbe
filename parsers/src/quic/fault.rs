//! What can be wrong with a first flight.

/// Why a datagram's beginning cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum QuicFault {
    /// A packet's header is cut short or contradicts itself (RFC 9000 §17.2).
    #[error("a packet's header is invalid")]
    BadPacket,
    /// The keys that the packet names do not open it (RFC 9001 §5.3).
    #[error("an Initial packet cannot be decrypted")]
    Undecryptable,
    /// Reserved bits are set (RFC 9000 §17.2), a frame is cut short or of a kind that Initial packets may not hold
    /// (RFC 9000 §12.4).
    #[error("an Initial packet holds an invalid frame")]
    BadFrame,
    /// Two pieces of the handshake differ where they overlap: two readers could each take another one.
    #[error("pieces of the handshake contradict each other")]
    PiecesDiffer,
    /// The pieces lie beyond what a ClientHello may have, or are more than [`super::PIECES_MAX`] that do not join.
    #[error("the handshake is too large or in too many pieces")]
    TooLarge,
}
