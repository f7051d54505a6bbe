//! Beside the traffic: what was shown before its turn.

use crate::seq::before;
use std::collections::VecDeque;

/// Pieces of one direction of one connection at most.
pub(crate) const PIECES_MAX: usize = 512;

/// Payload of a segment before which something is missing.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) seq: u32,
    /// The segment's acknowledgement.
    pub(crate) ack: u32,
    pub(crate) bytes: Vec<u8>,
    /// Bytes behind them that the segment had, and that were not shown.
    pub(crate) cut: usize,
}

/// Pieces in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    pieces: VecDeque<Piece>,
    len: usize,
}

impl Ahead {
    /// Keeps a piece, unless the same is there.
    pub(crate) fn hold(&mut self, piece: Piece) {
        let place = self.pieces.partition_point(|held| before(held.seq, piece.seq));
        let is_known = self
            .pieces
            .get(place)
            .is_some_and(|held| held.seq == piece.seq && held.bytes.len() >= piece.bytes.len());
        if !is_known {
            self.len += piece.bytes.len();
            self.pieces.insert(place, piece);
        }
    }

    /// The first piece, if nothing is missing before it.
    pub(crate) fn take_ready(&mut self, next: u32) -> Option<Piece> {
        if before(next, self.first()?) {
            return None;
        }
        let piece = self.pieces.pop_front()?;
        self.len -= piece.bytes.len();
        Some(piece)
    }

    /// Number of the first byte.
    pub(crate) fn first(&self) -> Option<u32> {
        self.pieces.front().map(|piece| piece.seq)
    }

    /// Whether there are more pieces, or bytes, than may be waited with.
    pub(crate) fn is_too_much(&self, bytes_max: usize) -> bool {
        self.pieces.len() > PIECES_MAX || self.len > bytes_max
    }

    /// Memory held, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.len + self.pieces.capacity() * size_of::<Piece>()
    }
}

#[cfg(test)]
mod tests {
    use super::{Ahead, PIECES_MAX, Piece};

    fn piece(seq: u32, len: usize) -> Piece {
        Piece {
            seq,
            ack: 0,
            bytes: vec![0; len],
            cut: 0,
        }
    }

    #[test]
    fn pieces_come_out_in_order_across_the_wrap() {
        let mut ahead = Ahead::default();
        for seq in [5, u32::MAX - 4, 0, 5] {
            ahead.hold(piece(seq, 5));
        }
        assert_eq!((ahead.first(), ahead.len), (Some(u32::MAX - 4), 15));
        assert!(ahead.take_ready(u32::MAX - 5).is_none());
        let order: Vec<u32> = std::iter::from_fn(|| ahead.take_ready(100))
            .map(|piece| piece.seq)
            .collect();
        assert_eq!((order, ahead.len), (vec![u32::MAX - 4, 0, 5], 0));
    }

    #[test]
    fn the_bounds_are_told() {
        let mut ahead = Ahead::default();
        for n in 0..=PIECES_MAX {
            assert!(!ahead.is_too_much(10_000));
            ahead.hold(piece(u32::try_from(n).unwrap() * 10, 1));
        }
        assert!(ahead.is_too_much(10_000));
        let mut ahead = Ahead::default();
        ahead.hold(piece(0, 101));
        assert!(ahead.is_too_much(100) && !ahead.is_too_much(101));
    }
}
