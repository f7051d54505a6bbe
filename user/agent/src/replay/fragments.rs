//! Fragments of IP packets put together again (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! Where pieces overlap the first one counts, and a packet whose pieces never all come is forgotten.

use std::collections::{HashMap, VecDeque};

use super::capture::HEADROOM;
use super::link::IPV4;

/// Packets that are being put together at most; the oldest gives way.
const PACKETS_MAX: usize = 1024;
/// Pieces of one packet at most.
const PIECES_MAX: usize = 128;
/// Bytes of one packet at most.
const LEN_MAX: usize = 65_535;
const V4_HEADER_LEN: usize = 20;
const V6_HEADER_LEN: usize = 40;
const V6_FRAGMENT: u8 = 44;
const V6_EXTENSIONS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: [u8; 16],
    destination: [u8; 16],
    id: u32,
    protocol: u8,
}

#[derive(Debug, Default)]
struct Partial {
    /// Header of the first piece, as it is to be.
    header: Vec<u8>,
    /// Offset and bytes of each piece.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Length of the payload, once the last piece is there.
    len: Option<usize>,
}

/// What a packet is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// No fragment.
    Whole,
    /// One piece of several.
    Kept,
    /// The last piece that was missing: the packet lies in the buffer, from [`HEADROOM`] to here.
    Completed(usize),
}

/// Packets that are being put together.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    partial: HashMap<Key, Partial>,
    order: VecDeque<Key>,
}

/// A piece as its header has it.
struct Piece<'a> {
    key: Key,
    offset: usize,
    more: bool,
    /// The header of the whole packet, but for its length.
    header: Vec<u8>,
    payload: &'a [u8],
}

impl Fragments {
    /// Takes the IP packet; a packet that is whole now is written into `whole`.
    pub(crate) fn take(&mut self, ether_type: u16, packet: &[u8], whole: &mut Vec<u8>) -> Fragment {
        let piece = if ether_type == IPV4 { v4(packet) } else { v6(packet) };
        let Some(piece) = piece else { return Fragment::Whole };
        let key = piece.key;
        if !self.partial.contains_key(&key) {
            self.order.push_back(key);
            if self.order.len() > PACKETS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.partial.remove(&oldest);
            }
        }
        let partial = self.partial.entry(key).or_default();
        partial.add(piece);
        if !partial.is_complete() {
            return Fragment::Kept;
        }
        self.order.retain(|known| *known != key);
        let Some(partial) = self.partial.remove(&key) else {
            return Fragment::Kept;
        };
        Fragment::Completed(partial.write(ether_type, whole))
    }
}

impl Partial {
    fn add(&mut self, piece: Piece<'_>) {
        if piece.offset == 0 && self.header.is_empty() {
            self.header = piece.header;
        }
        if !piece.more {
            self.len.get_or_insert(piece.offset + piece.payload.len());
        }
        let place = self.pieces.partition_point(|(offset, _)| *offset < piece.offset);
        let is_known = self
            .pieces
            .get(place)
            .is_some_and(|(offset, _)| *offset == piece.offset);
        if !is_known && self.pieces.len() < PIECES_MAX && piece.offset + piece.payload.len() <= LEN_MAX {
            self.pieces.insert(place, (piece.offset, piece.payload.to_vec()));
        }
    }

    fn is_complete(&self) -> bool {
        let mut reached = 0;
        for (offset, bytes) in &self.pieces {
            if *offset > reached {
                return false;
            }
            reached = reached.max(offset + bytes.len());
        }
        !self.header.is_empty() && self.len.is_some_and(|len| reached >= len)
    }

    fn write(self, ether_type: u16, whole: &mut Vec<u8>) -> usize {
        let payload_len = self.len.unwrap_or(0);
        whole.clear();
        whole.resize(HEADROOM, 0);
        whole.extend_from_slice(&self.header);
        let start = whole.len();
        for (offset, bytes) in &self.pieces {
            let known = (whole.len() - start).saturating_sub(*offset);
            whole.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
        whole.truncate(start + payload_len);
        let (at, len) = if ether_type == IPV4 {
            (2, self.header.len() + payload_len)
        } else {
            (4, self.header.len() - V6_HEADER_LEN + payload_len)
        };
        let len = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        if let Some(place) = whole.get_mut(HEADROOM + at..HEADROOM + at + 2) {
            place.copy_from_slice(&len);
        }
        whole.len()
    }
}

fn v4(packet: &[u8]) -> Option<Piece<'_>> {
    let field = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?);
    if field & 0x3fff == 0 {
        return None;
    }
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?)).min(packet.len());
    let mut header = packet.get(..header_len.max(V4_HEADER_LEN))?.to_vec();
    let protocol = *header.get(9)?;
    header.get_mut(6..8)?.copy_from_slice(&[0, 0]);
    let (mut source, mut destination) = ([0; 16], [0; 16]);
    source.get_mut(..4)?.copy_from_slice(packet.get(12..16)?);
    destination.get_mut(..4)?.copy_from_slice(packet.get(16..20)?);
    Some(Piece {
        key: Key {
            source,
            destination,
            id: u32::from(u16::from_be_bytes(*packet.get(4..)?.first_chunk()?)),
            protocol,
        },
        offset: usize::from(field & 0x1fff) * 8,
        more: field & 0x2000 != 0,
        header,
        payload: packet.get(header_len..len)?,
    })
}

fn v6(packet: &[u8]) -> Option<Piece<'_>> {
    let payload_len = usize::from(u16::from_be_bytes(*packet.get(4..)?.first_chunk()?));
    let packet = packet.get(..V6_HEADER_LEN + payload_len).unwrap_or(packet);
    let (mut next_at, mut at) = (6, V6_HEADER_LEN);
    for _ in 0..V6_EXTENSIONS_MAX {
        match *packet.get(next_at)? {
            V6_FRAGMENT => break,
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                next_at = at;
                at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
            }
            _ => return None,
        }
    }
    let fragment: [u8; 8] = *packet.get(at..)?.first_chunk()?;
    let [protocol, _, f0, f1, i0, i1, i2, i3] = fragment;
    if *packet.get(next_at)? != V6_FRAGMENT {
        return None;
    }
    let field = u16::from_be_bytes([f0, f1]);
    let mut header = packet.get(..at)?.to_vec();
    *header.get_mut(next_at)? = protocol;
    Some(Piece {
        key: Key {
            source: *packet.get(8..)?.first_chunk()?,
            destination: *packet.get(24..)?.first_chunk()?,
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            protocol,
        },
        offset: usize::from(field & 0xfff8),
        more: field & 1 != 0,
        header,
        payload: packet.get(at + 8..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Fragment, Fragments, PACKETS_MAX};
    use crate::replay::capture::HEADROOM;
    use crate::replay::link::{IPV4, IPV6};

    fn v4(id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        packet.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(payload);
        packet
    }

    fn v6(id: u32, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([44, 64]);
        packet.extend([0xfd; 32]);
        packet.extend([17, 0]);
        packet.extend((offset | u16::from(more)).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(payload);
        packet
    }

    #[test]
    fn pieces_in_any_order_become_the_packet() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            for ether_type in [IPV4, IPV6] {
                let piece = |n: usize| {
                    let (offset, more, bytes) =
                        [(0, true, &b"01234567"[..]), (8, true, b"89abcdef"), (16, false, b"gh")][n];
                    if ether_type == IPV4 {
                        v4(9, offset, more, bytes)
                    } else {
                        v6(9, offset, more, bytes)
                    }
                };
                let (mut fragments, mut whole) = (Fragments::default(), Vec::new());
                let told = order.map(|n| fragments.take(ether_type, &piece(n), &mut whole));
                let [Fragment::Kept, Fragment::Kept, Fragment::Completed(end)] = told else {
                    panic!("{told:?}")
                };
                let packet = &whole[HEADROOM..end];
                assert!(packet.ends_with(b"0123456789abcdefgh"));
                let len = if ether_type == IPV4 {
                    [packet[2], packet[3]]
                } else {
                    [packet[4], packet[5]]
                };
                assert_eq!(usize::from(len[1]), if ether_type == IPV4 { 38 } else { 18 });
                assert_eq!(packet.len(), if ether_type == IPV4 { 38 } else { 58 });
                let again = fragments.take(ether_type, packet, &mut Vec::new());
                assert_eq!((again, fragments.order.len()), (Fragment::Whole, 0));
            }
        }
    }

    #[test]
    fn what_never_becomes_whole_is_bounded() {
        let mut fragments = Fragments::default();
        for id in 0..5000 {
            fragments.take(IPV4, &v4(id, 8, true, &[0; 8]), &mut Vec::new());
        }
        assert!(fragments.partial.len() <= PACKETS_MAX && fragments.order.len() <= PACKETS_MAX);
        for cut in 0..40 {
            fragments.take(IPV4, &v4(1, 8, true, &[0; 20])[..cut], &mut Vec::new());
            fragments.take(IPV6, &v6(1, 8, true, &[0; 20])[..cut], &mut Vec::new());
        }
    }
}
