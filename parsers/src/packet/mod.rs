//! Ethernet, VLAN, IPv4, IPv6, TCP and UDP headers of one frame.
//!
//! [`Frame::parse`] checks every length once; the view's accessors cannot fail afterwards. The frame's MAC addresses are
//! not looked at: between kernel and engine they hold something else.

mod checksum;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod ip;
#[cfg(test)]
mod tests;
mod transport;

pub use checksum::Checksum;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_frame;
pub use transport::{PROTOCOL_TCP, PROTOCOL_UDP, Tcp, TcpFlags, Transport, Udp};

use ip::Network;

/// Length of an Ethernet header without VLAN tags.
pub const ETHERNET_LEN: usize = 14;
/// VLAN tags at most (IEEE 802.1ad: one service tag, one customer tag).
pub const VLAN_TAGS_MAX: usize = 2;

const ETHERTYPE_OFFSET: usize = 12;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Why a frame is not one that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A header or the length it announces goes past the end of the frame.
    #[error("the {0} header goes past the end of the frame")]
    Truncated(&'static str),
    /// A field contradicts the standard or another field.
    #[error("the {0} header contradicts itself")]
    Malformed(&'static str),
    /// Neither IPv4 nor IPv6, or more than [`VLAN_TAGS_MAX`] VLAN tags.
    #[error("EtherType {0:#06x} is not followed")]
    UnsupportedEtherType(u16),
    /// Neither TCP nor UDP.
    #[error("IP protocol {0} is not followed")]
    UnsupportedProtocol(u8),
    /// A fragment, also one that is the whole datagram: its bytes have no fixed place in the stream.
    #[error("the packet is a fragment")]
    Fragment,
    /// The packet names further hops by which its destination changes (IPv4 source route, IPv6 routing header).
    #[error("the packet is source-routed")]
    SourceRoute,
    /// More IPv6 extension headers than [`EXTENSION_HEADERS_MAX`], or one out of its place.
    #[error("the IPv6 extension headers are too many or out of order")]
    ExtensionHeaders,
    /// The IPv4 header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    NetworkChecksum,
    /// The TCP or UDP checksum is wrong.
    #[error("the transport checksum is wrong")]
    TransportChecksum,
}

pub use ip::EXTENSION_HEADERS_MAX;

/// How much of a packet must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Whole,
    /// Its headers.
    Cut,
}

/// A frame whose headers are complete and consistent.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    link_len: usize,
    network: Network,
    transport: Transport,
}

impl<'a> Frame<'a> {
    /// Reads the headers. Bytes after the length that IP announces (Ethernet padding) belong to nothing and are left
    /// out of every view. Checksums are not verified here: see [`Frame::verify_checksums`].
    ///
    /// # Errors
    /// [`PacketError`] for whatever we do not follow to the end; the caller treats all of them as "do not forward".
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::read(bytes, Extent::Whole)
    }

    /// The same for a copy that may end before the packet does ([`Frame::missing`] says by how much), or was taken
    /// before the sender's device wrote the length of an oversized packet (which is 0 then, and the packet ends where
    /// the copy does).
    ///
    /// # Errors
    /// As [`Frame::parse`]; headers must be complete.
    pub fn parse_cut(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Self::read(bytes, Extent::Cut)
    }

    fn read(bytes: &'a [u8], extent: Extent) -> Result<Self, PacketError> {
        let (ether_type, link_len) = link(bytes)?;
        let packet = bytes.get(link_len..).unwrap_or_default();
        let network = match ether_type {
            ETHERTYPE_IPV4 => Network::parse_v4(packet, extent)?,
            ETHERTYPE_IPV6 => Network::parse_v6(packet, extent)?,
            other => return Err(PacketError::UnsupportedEtherType(other)),
        };
        let segment = packet.get(network.header_len..network.packet_len).unwrap_or_default();
        let transport = Transport::parse(network.protocol, segment, network.missing)?;
        Ok(Self {
            bytes,
            link_len,
            network,
            transport,
        })
    }

    /// Compares the IPv4 header checksum and the TCP or UDP checksum with the bytes. A UDP checksum of 0 means "none"
    /// in IPv4 (RFC 768) and is wrong in IPv6 (RFC 8200 §8.1).
    ///
    /// # Errors
    /// [`PacketError::NetworkChecksum`] or [`PacketError::TransportChecksum`].
    pub fn verify_checksums(&self) -> Result<(), PacketError> {
        if self.is_ipv4() {
            let header = self.packet().get(..self.network.header_len).unwrap_or_default();
            if Checksum::new().plus(header).finish() != 0 {
                return Err(PacketError::NetworkChecksum);
            }
        }
        if let Transport::Udp(udp) = self.transport
            && udp.checksum == 0
        {
            return if self.is_ipv4() {
                Ok(())
            } else {
                Err(PacketError::TransportChecksum)
            };
        }
        let segment = self.segment();
        let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        let pseudo = Checksum::pseudo(
            &self.network.source,
            &self.network.destination,
            self.is_ipv4(),
            self.network.protocol,
            length,
        );
        if pseudo.plus(segment).finish() == 0 {
            Ok(())
        } else {
            Err(PacketError::TransportChecksum)
        }
    }

    /// Ethernet header with its VLAN tags.
    #[must_use]
    pub fn link_header(&self) -> &'a [u8] {
        self.bytes.get(..self.link_len).unwrap_or_default()
    }

    /// Length of [`Frame::link_header`]: 14, 18 or 22.
    #[must_use]
    pub const fn link_len(&self) -> usize {
        self.link_len
    }

    /// The IP packet, without Ethernet padding.
    #[must_use]
    pub fn packet(&self) -> &'a [u8] {
        let end = self.link_len + self.network.packet_len;
        self.bytes.get(self.link_len..end).unwrap_or_default()
    }

    /// The TCP segment or UDP datagram with its header.
    #[must_use]
    pub fn segment(&self) -> &'a [u8] {
        self.packet().get(self.network.header_len..).unwrap_or_default()
    }

    /// What TCP or UDP carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.segment().get(self.transport.header_len()..).unwrap_or_default()
    }

    /// Bytes at the end of the payload that IP announces and that are not there; 0 unless [`Frame::parse_cut`] read it.
    #[must_use]
    pub const fn missing(&self) -> usize {
        self.network.missing
    }

    /// `(TSval, TSecr)` of the TCP timestamps option (RFC 7323 §3.2), if it is there.
    #[must_use]
    pub fn tcp_timestamps(&self) -> Option<(u32, u32)> {
        match self.transport {
            Transport::Tcp(tcp) => transport::timestamps(self.segment().get(..tcp.header_len)?),
            Transport::Udp(_) => None,
        }
    }

    /// Everything before the payload: link, IP and transport headers.
    #[must_use]
    pub fn headers(&self) -> &'a [u8] {
        let len = self.link_len + self.network.header_len + self.transport.header_len();
        self.bytes.get(..len).unwrap_or_default()
    }

    /// Length of the IP header with its options or extension headers.
    #[must_use]
    pub const fn network_header_len(&self) -> usize {
        self.network.header_len
    }

    /// Whether the packet is IPv4 (else IPv6).
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.network.ipv4
    }

    /// IP source; IPv4 mapped into `::ffff:0:0/96`.
    #[must_use]
    pub const fn source(&self) -> [u8; 16] {
        self.network.source
    }

    /// IP destination; IPv4 mapped into `::ffff:0:0/96`.
    #[must_use]
    pub const fn destination(&self) -> [u8; 16] {
        self.network.destination
    }

    /// The transport header.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }
}

/// `EtherType` behind the VLAN tags, and where its packet begins.
fn link(bytes: &[u8]) -> Result<(u16, usize), PacketError> {
    let mut offset = ETHERTYPE_OFFSET;
    for _ in 0..=VLAN_TAGS_MAX {
        let ether_type = be16(bytes, offset).ok_or(PacketError::Truncated("Ethernet"))?;
        if ether_type != ETHERTYPE_VLAN && ether_type != ETHERTYPE_SERVICE_VLAN {
            return Ok((ether_type, offset + 2));
        }
        offset += 4;
    }
    Err(PacketError::UnsupportedEtherType(ETHERTYPE_VLAN))
}

/// Big-endian 16 bits at `offset`.
fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_be_bytes)
}

/// Big-endian 32 bits at `offset`.
fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_be_bytes)
}

/// `N` bytes at `offset`.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
