//! A punted frame that could be read.

use crate::seq::plus;
use seventh_abi::{DropReason, Hook, PuntMeta, PuntedType};
use seventh_parsers::packet::{Frame, PacketError, Tcp, TcpFlags};
use std::hash::{Hash, Hasher};

/// Bytes of punt and inject metadata at the head of a frame.
pub(crate) const META_LEN: usize = 12;
/// Bytes of a VLAN tag, the type of which comes first.
const TAG_LEN: usize = 4;
/// `EtherType` of a tag, and of one that has another inside.
const TAG: &[u8; 2] = &[0x81, 0x00];
const SERVICE_TAG: &[u8; 2] = &[0x88, 0xa8];

/// Takes the number of its connection out of a punted frame and puts back the `EtherType` in whose place it came. `None` if
/// there is none.
pub(crate) fn take_connection(frame: &mut [u8]) -> Option<u16> {
    let at = match frame.get(META_LEN..)?.first_chunk()? {
        TAG | SERVICE_TAG => META_LEN + TAG_LEN,
        _ => META_LEN,
    };
    let place = frame.get_mut(at..)?.first_chunk_mut()?;
    let punted = PuntedType::decode(*place)?;
    *place = punted.ether_type.to_be_bytes();
    Some(punted.connection)
}

/// VLAN tags of a frame and its `EtherType`: what stands between the MAC addresses and the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkType {
    bytes: [u8; 10],
    len: usize,
}

impl LinkType {
    fn of(frame: &Frame<'_>) -> Self {
        let mut bytes = [0; 10];
        let from = frame.link_header().get(META_LEN..).unwrap_or_default();
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = *from;
        }
        Self {
            bytes,
            len: from.len().min(10),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Names a connection at one hook of one endpoint; source is the side that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowId {
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) ifindex: u32,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) hook: Hook,
    pub(crate) ipv4: bool,
}

impl FlowId {
    /// As the other side's frames have it.
    const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            hook: self.hook.other(),
            ..self
        }
    }
}

/// In one piece: the table's hasher pays per piece.
impl Hash for FlowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [i0, i1, i2, i3] = self.ifindex.to_ne_bytes();
        let [s0, s1] = self.source_port.to_ne_bytes();
        let [d0, d1] = self.destination_port.to_ne_bytes();
        let (hook, ipv4) = (self.hook as u8, u8::from(self.ipv4));
        let rest = [i0, i1, i2, i3, s0, s1, d0, d1, hook, ipv4, 0, 0, 0, 0, 0, 0];
        state.write([self.source, self.destination, rest].as_flattened());
    }
}

/// Metadata and headers of a frame whose checksums are right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Punted<'a> {
    pub(crate) meta: PuntMeta,
    /// See [`PuntedType::connection`].
    pub(crate) connection: u16,
    pub(crate) frame: Frame<'a>,
    pub(crate) id: FlowId,
    pub(crate) link: LinkType,
    pub(crate) now_ns: u64,
}

impl<'a> Punted<'a> {
    /// A frame whose connection's number was taken out of it, see [`take_connection`].
    ///
    /// # Errors
    /// Why the frame must not go on.
    pub(crate) fn read(bytes: &'a [u8], connection: u16, now_ns: u64) -> Result<Self, DropReason> {
        let meta = bytes.first_chunk().and_then(PuntMeta::decode);
        let meta = meta.ok_or(DropReason::EngineInvalidHeader)?;
        let frame = Frame::parse(bytes).map_err(|error| packet_reason(&error))?;
        frame.verify_checksums().map_err(|error| packet_reason(&error))?;
        Ok(Self::new(meta, connection, frame, now_ns))
    }

    /// The same for a copy: it may be cut, and its checksums may not be complete yet. Nothing was closed, nothing waits
    /// for an answer to pass.
    ///
    /// # Errors
    /// Why nothing can be said about it.
    pub(crate) fn read_beside(bytes: &'a [u8], now_ns: u64) -> Result<Self, DropReason> {
        let meta = bytes.first_chunk().and_then(PuntMeta::decode);
        let meta = meta.ok_or(DropReason::EngineInvalidHeader)?;
        let frame = Frame::parse_cut(bytes).map_err(|error| packet_reason(&error))?;
        let meta = PuntMeta {
            closed: false,
            reply_idle: true,
            ..meta
        };
        // Nothing goes back to the kernel for which it had to know the number.
        Ok(Self::new(meta, 0, frame, now_ns))
    }

    fn new(meta: PuntMeta, connection: u16, frame: Frame<'a>, now_ns: u64) -> Self {
        let (source_port, destination_port) = frame.transport().ports();
        let sent = FlowId {
            source: frame.source(),
            destination: frame.destination(),
            ifindex: meta.ifindex,
            source_port,
            destination_port,
            hook: meta.hook,
            ipv4: frame.is_ipv4(),
        };
        let id = if meta.reply { sent.reversed() } else { sent };
        Self {
            meta,
            connection,
            frame,
            id,
            link: LinkType::of(&frame),
            now_ns,
        }
    }
}

/// A TCP segment, of the side that opened the connection unless its metadata say `reply`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) punted: Punted<'a>,
    pub(crate) tcp: Tcp,
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    /// Number after the last byte, and after the FIN if there is one.
    pub(crate) fn end(&self) -> u32 {
        let fin = usize::from(self.tcp.flags.any(TcpFlags::FIN));
        plus(self.tcp.seq, self.payload.len() + fin)
    }
}

const fn packet_reason(error: &PacketError) -> DropReason {
    match error {
        PacketError::NetworkChecksum | PacketError::TransportChecksum => DropReason::BadChecksum,
        PacketError::Fragment
        | PacketError::Truncated(_)
        | PacketError::Malformed(_)
        | PacketError::UnsupportedEtherType(_)
        | PacketError::UnsupportedProtocol(_)
        | PacketError::SourceRoute
        | PacketError::ExtensionHeaders => DropReason::EngineInvalidHeader,
    }
}

#[cfg(test)]
mod tests {
    use super::take_connection;
    use seventh_abi::PuntedType;

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        [&[2; 12], parts.concat().as_slice()].concat()
    }

    #[test]
    fn the_number_is_taken_out_before_and_behind_a_tag_that_was_put_in() {
        let tag = [0x81, 0, 0, 7];
        for (ether_type, behind) in [
            (0x0800_u16, [0x45, 0]),
            (0x86dd, [0x60, 0]),
            (0x88a8, [0, 9]),
            (0x8100, [0, 9]),
        ] {
            let punted = PuntedType {
                ether_type,
                connection: 4711,
            };
            let (code, own) = (punted.encode().unwrap(), ether_type.to_be_bytes());
            for before in [&[][..], &tag] {
                let mut punted = frame(&[before, &code, &behind]);
                assert_eq!(take_connection(&mut punted), Some(4711));
                assert_eq!(punted, frame(&[before, &own, &behind]));
            }
        }
    }

    #[test]
    fn a_frame_without_a_number_stays_as_it_is() {
        for behind in [
            &[][..],
            &[0],
            &[0x81, 0, 0, 7, 0x86, 0xdd, 0x60, 0],
            &[0x81, 0, 0, 7],
            &[0x81, 0, 0, 7, 0],
            &[0x86, 0xdd, 0x60, 0, 0, 0],
        ] {
            let mut whole = frame(&[behind]);
            assert_eq!(take_connection(&mut whole), None);
            assert_eq!(whole, frame(&[behind]));
        }
        assert_eq!(take_connection(&mut [2; 5]), None);
    }
}
