//! Packets of a datagram (RFC 9000 §12.2, §17).

use super::{QuicFault, take, take_u8, take_varint};
use std::ops::Range;

/// Bytes of a connection id at most in versions 1 and 2 (RFC 9000 §17.2).
pub const CONNECTION_ID_LEN_MAX: usize = 20;

/// A connection id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ConnectionId {
    bytes: [u8; CONNECTION_ID_LEN_MAX],
    len: u8,
}

impl ConnectionId {
    /// `None` if it is too long.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; CONNECTION_ID_LEN_MAX];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let len = u8::try_from(id.len()).ok()?;
        Some(Self { bytes, len })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A version whose Initial packets can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 9000.
    V1,
    /// RFC 9369.
    V2,
    /// A draft of version 1; see [`split_packet_or_draft`].
    Draft(Draft),
}

/// A draft of version 1 whose Initial packets differ from it in nothing but their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Draft(u32);

impl Draft {
    /// draft-ietf-quic-transport-22 to -34, and what mvfst made of -22 and -27.
    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0xff00_0016..=0xff00_0022 | MVFST_22 | MVFST_27 => Some(Self(number)),
            _ => None,
        }
    }

    /// Which draft it is, or is made of.
    pub(super) const fn base(self) -> u32 {
        match self.0 {
            MVFST_22 => 22,
            MVFST_27 => 27,
            number => number & 0xff,
        }
    }
}

const MVFST_22: u32 = 0xface_b001;
const MVFST_27: u32 = 0xface_b002;

impl Version {
    /// The version with this number, as it was published.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            n if n == Self::V1.number() => Some(Self::V1),
            n if n == Self::V2.number() => Some(Self::V2),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V1 => 0x0000_0001,
            Self::V2 => 0x6b33_43cf,
            Self::Draft(Draft(number)) => number,
        }
    }

    /// First byte of an Initial packet, without the length of its number.
    pub(super) const fn initial_first_byte(self) -> u8 {
        match self {
            Self::V1 | Self::Draft(_) => 0xc0,
            Self::V2 => 0xd0,
        }
    }

    /// What the two bits of a long header's packet type say (RFC 9000 §17.2, RFC 9369 §3.2).
    const fn kind(self, bits: u8) -> Kind {
        let shifted = match self {
            Self::V1 | Self::Draft(_) => bits,
            Self::V2 => bits.wrapping_sub(1) & 3,
        };
        match shifted {
            0 => Kind::Initial,
            1 => Kind::ZeroRtt,
            2 => Kind::Handshake,
            _ => Kind::Retry,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

/// One packet of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The first packets of a connection, of either side.
    Initial(Initial<'a>),
    /// Early data.
    ZeroRtt,
    /// Encrypted with keys of the handshake.
    Handshake,
    /// A server wants the client's address proven; the client begins again with another connection id.
    Retry,
    /// A server names the versions it speaks.
    VersionNegotiation,
    /// A short header, or bytes that are no packet: it takes the rest of the datagram.
    Short,
    /// A long header of a version that cannot be read: it takes the rest of the datagram.
    UnknownVersion(u32),
}

/// An Initial packet, still encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initial<'a> {
    /// Its version.
    pub version: Version,
    /// Destination connection id. The client's first one makes the keys.
    pub destination: ConnectionId,
    /// Source connection id.
    pub source: ConnectionId,
    /// The whole packet.
    pub(super) bytes: &'a [u8],
    /// Where the protected packet number begins.
    pub(super) number_at: usize,
}

/// The first packet of `datagram`, and what follows it.
///
/// # Errors
/// [`QuicFault::BadPacket`] if its header cannot be read.
pub fn split_packet(datagram: &[u8]) -> Result<(Packet<'_>, &[u8]), QuicFault> {
    split(datagram, Version::from_number)
}

/// The same, but drafts of version 1 are read, too: for those who look on. Nobody has to speak them any more, so who
/// decides need not know them.
///
/// # Errors
/// As [`split_packet`].
pub fn split_packet_or_draft(datagram: &[u8]) -> Result<(Packet<'_>, &[u8]), QuicFault> {
    split(datagram, |number| {
        Version::from_number(number).or_else(|| Draft::from_number(number).map(Version::Draft))
    })
}

fn split(datagram: &[u8], version: impl Fn(u32) -> Option<Version>) -> Result<(Packet<'_>, &[u8]), QuicFault> {
    let mut rest = datagram;
    let first = take_u8(&mut rest).ok_or(QuicFault::BadPacket)?;
    if first & 0x80 == 0 {
        return Ok((Packet::Short, &[]));
    }
    let number = take(&mut rest, 4)
        .and_then(|bytes| bytes.first_chunk().copied())
        .map(u32::from_be_bytes)
        .ok_or(QuicFault::BadPacket)?;
    if number == 0 {
        return Ok((Packet::VersionNegotiation, &[]));
    }
    let Some(version) = version(number) else {
        return Ok((Packet::UnknownVersion(number), &[]));
    };
    // The fixed bit: without it the packet is none of these versions (RFC 9000 §17.2).
    if first & 0x40 == 0 {
        return Err(QuicFault::BadPacket);
    }
    let kind = version.kind(first >> 4 & 3);
    if kind == Kind::Retry {
        return Ok((Packet::Retry, &[]));
    }
    let long = long_header(rest, kind).ok_or(QuicFault::BadPacket)?;
    let header_len = datagram.len() - rest.len() + long.number.start;
    let (bytes, after) = datagram
        .split_at_checked(header_len + long.number.len())
        .ok_or(QuicFault::BadPacket)?;
    let packet = match kind {
        Kind::Initial => Packet::Initial(Initial {
            version,
            destination: long.destination,
            source: long.source,
            bytes,
            number_at: header_len,
        }),
        Kind::ZeroRtt => Packet::ZeroRtt,
        Kind::Handshake | Kind::Retry => Packet::Handshake,
    };
    Ok((packet, after))
}

struct LongHeader {
    destination: ConnectionId,
    source: ConnectionId,
    /// Packet number and payload, from the byte after the version on.
    number: Range<usize>,
}

fn long_header(bytes: &[u8], kind: Kind) -> Option<LongHeader> {
    let mut rest = bytes;
    let destination = connection_id(&mut rest)?;
    let source = connection_id(&mut rest)?;
    if kind == Kind::Initial {
        let len = usize::try_from(take_varint(&mut rest)?).ok()?;
        take(&mut rest, len)?;
    }
    let len = usize::try_from(take_varint(&mut rest)?).ok()?;
    let start = bytes.len() - rest.len();
    take(&mut rest, len)?;
    Some(LongHeader {
        destination,
        source,
        number: start..start + len,
    })
}

fn connection_id(rest: &mut &[u8]) -> Option<ConnectionId> {
    let len = take_u8(rest)?;
    take(rest, usize::from(len)).and_then(ConnectionId::new)
}
