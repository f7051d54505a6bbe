//! TCP (RFC 9293) and UDP (RFC 768) headers.

use super::{PacketError, array, be16, be32};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const TCP_HEADER_LEN: usize = 20;
const TCP_OPTION_END: u8 = 0;
const TCP_OPTION_NOP: u8 = 1;
const TCP_OPTION_TIMESTAMPS: u8 = 8;
const UDP_HEADER_LEN: usize = 8;

/// The flag byte of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has finished.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Aborts a connection.
    pub const RST: u8 = 0x04;
    /// Deliver soon.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;

    /// Whether one of the bits of `mask` is set.
    #[must_use]
    pub const fn any(self, mask: u8) -> bool {
        self.0 & mask != 0
    }
}

/// A TCP header whose data offset fits the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number of the first payload byte (of the SYN, if set).
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Window as in the header, not scaled.
    pub window: u16,
    /// With options, in bytes.
    pub header_len: usize,
}

/// A UDP header whose length fits the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// As in the header; 0 = none.
    pub checksum: u16,
}

/// What IP carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp(Tcp),
    /// A UDP datagram.
    Udp(Udp),
}

impl Transport {
    /// `(source, destination)` port.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self {
            Self::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            Self::Udp(udp) => (udp.source_port, udp.destination_port),
        }
    }

    /// IP protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::Tcp(_) => PROTOCOL_TCP,
            Self::Udp(_) => PROTOCOL_UDP,
        }
    }

    pub(super) const fn header_len(&self) -> usize {
        match self {
            Self::Tcp(tcp) => tcp.header_len,
            Self::Udp(_) => UDP_HEADER_LEN,
        }
    }

    pub(super) fn parse(protocol: u8, segment: &[u8], missing: usize) -> Result<Self, PacketError> {
        match protocol {
            PROTOCOL_TCP => parse_tcp(segment).map(Self::Tcp),
            PROTOCOL_UDP => parse_udp(segment, missing).map(Self::Udp),
            other => Err(PacketError::UnsupportedProtocol(other)),
        }
    }
}

/// Walks the options of a TCP header (at most 40 bytes) to the timestamps. Options that do not add up end the walk: only
/// answers of our own depend on it.
pub(super) fn timestamps(header: &[u8]) -> Option<(u32, u32)> {
    let mut options = header.get(TCP_HEADER_LEN..)?;
    loop {
        let (&kind, rest) = options.split_first()?;
        options = match kind {
            TCP_OPTION_END => return None,
            TCP_OPTION_NOP => rest,
            TCP_OPTION_TIMESTAMPS => return Some((be32(rest, 1)?, be32(rest, 5)?)),
            _ => options.get(usize::from(*rest.first()?).max(2)..)?,
        };
    }
}

fn parse_tcp(segment: &[u8]) -> Result<Tcp, PacketError> {
    const SHORT: PacketError = PacketError::Truncated("TCP");
    let header: [u8; TCP_HEADER_LEN] = array(segment, 0).ok_or(SHORT)?;
    let [.., offset, flags, window_hi, window_lo, _, _, _, _] = header;
    let header_len = usize::from(offset >> 4) * 4;
    if header_len < TCP_HEADER_LEN {
        return Err(PacketError::Malformed("TCP"));
    }
    if header_len > segment.len() {
        return Err(SHORT);
    }
    Ok(Tcp {
        source_port: be16(&header, 0).ok_or(SHORT)?,
        destination_port: be16(&header, 2).ok_or(SHORT)?,
        seq: be32(&header, 4).ok_or(SHORT)?,
        ack: be32(&header, 8).ok_or(SHORT)?,
        flags: TcpFlags(flags),
        window: u16::from_be_bytes([window_hi, window_lo]),
        header_len,
    })
}

fn parse_udp(datagram: &[u8], missing: usize) -> Result<Udp, PacketError> {
    let [s0, s1, d0, d1, l0, l1, c0, c1]: [u8; UDP_HEADER_LEN] =
        array(datagram, 0).ok_or(PacketError::Truncated("UDP"))?;
    // A length that differs from IP's leaves bytes that one reader counts and another does not.
    if usize::from(u16::from_be_bytes([l0, l1])) != datagram.len() + missing {
        return Err(PacketError::Malformed("UDP"));
    }
    Ok(Udp {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        checksum: u16::from_be_bytes([c0, c1]),
    })
}
