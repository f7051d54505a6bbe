//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use super::{Extent, PacketError, array, be16};

/// IPv6 extension headers that are followed at most.
pub const EXTENSION_HEADERS_MAX: usize = 8;

const V4_HEADER_LEN: usize = 20;
const V4_FRAGMENT_MASK: u16 = 0x3fff;
const V4_OPTION_END: u8 = 0;
const V4_OPTION_NOP: u8 = 1;
const V4_OPTION_LSRR: u8 = 131;
const V4_OPTION_SSRR: u8 = 137;
const V6_HEADER_LEN: usize = 40;
const V6_HOP_BY_HOP: u8 = 0;
const V6_ROUTING: u8 = 43;
const V6_FRAGMENT: u8 = 44;
const V6_DESTINATION: u8 = 60;

/// An IP header whose lengths fit the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    /// IPv4, else IPv6.
    pub(super) ipv4: bool,
    /// With options or extension headers.
    pub(super) header_len: usize,
    /// Header and payload as far as they are there, `header_len <= packet_len`.
    pub(super) packet_len: usize,
    /// Bytes of the payload that are announced and not there.
    pub(super) missing: usize,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    /// Of the payload, behind all extension headers.
    pub(super) protocol: u8,
}

impl Network {
    pub(super) fn parse_v4(packet: &[u8], extent: Extent) -> Result<Self, PacketError> {
        const NAME: &str = "IPv4";
        let header: [u8; V4_HEADER_LEN] = array(packet, 0).ok_or(PacketError::Truncated(NAME))?;
        let [
            version_ihl,
            _,
            len_hi,
            len_lo,
            _,
            _,
            fragment_hi,
            fragment_lo,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        let announced = usize::from(u16::from_be_bytes([len_hi, len_lo]));
        let announced = if announced == 0 && extent == Extent::Cut {
            packet.len()
        } else {
            announced
        };
        if version_ihl >> 4 != 4 || header_len < V4_HEADER_LEN || announced < header_len {
            return Err(PacketError::Malformed(NAME));
        }
        let packet_len = shown(announced, packet.len(), header_len, extent).ok_or(PacketError::Truncated(NAME))?;
        if u16::from_be_bytes([fragment_hi, fragment_lo]) & V4_FRAGMENT_MASK != 0 {
            return Err(PacketError::Fragment);
        }
        check_v4_options(packet.get(V4_HEADER_LEN..header_len).unwrap_or_default())?;
        Ok(Self {
            ipv4: true,
            header_len,
            packet_len,
            missing: announced - packet_len,
            source: mapped([s0, s1, s2, s3]),
            destination: mapped([d0, d1, d2, d3]),
            protocol,
        })
    }

    pub(super) fn parse_v6(packet: &[u8], extent: Extent) -> Result<Self, PacketError> {
        const NAME: &str = "IPv6";
        let header: [u8; V6_HEADER_LEN] = array(packet, 0).ok_or(PacketError::Truncated(NAME))?;
        let payload_len = usize::from(be16(&header, 4).ok_or(PacketError::Truncated(NAME))?);
        let source = array(&header, 8).ok_or(PacketError::Truncated(NAME))?;
        let destination = array(&header, 24).ok_or(PacketError::Truncated(NAME))?;
        let [first, _, _, _, _, _, next_header, ..] = header;
        let payload_len = if payload_len == 0 && extent == Extent::Cut {
            packet.len() - V6_HEADER_LEN
        } else {
            payload_len
        };
        // A payload length of 0 would be a jumbogram (RFC 2675), which no punt pair carries.
        if first >> 4 != 6 || payload_len == 0 {
            return Err(PacketError::Malformed(NAME));
        }
        // Mapped addresses have no place on the wire (RFC 4291 §2.5.5.2 is about the API); they would pass for IPv4.
        if is_mapped(&source) || is_mapped(&destination) {
            return Err(PacketError::Malformed(NAME));
        }
        let announced = V6_HEADER_LEN + payload_len;
        let packet_len = shown(announced, packet.len(), V6_HEADER_LEN, extent).ok_or(PacketError::Truncated(NAME))?;
        let packet = packet.get(..packet_len).ok_or(PacketError::Truncated(NAME))?;
        let (protocol, header_len) = skip_extension_headers(packet, next_header)?;
        Ok(Self {
            ipv4: false,
            header_len,
            packet_len,
            missing: announced - packet_len,
            source,
            destination,
            protocol,
        })
    }
}

/// Bytes of a packet of `announced` bytes that are among the `there` ones; `None` if they do not suffice.
fn shown(announced: usize, there: usize, header_len: usize, extent: Extent) -> Option<usize> {
    match extent {
        Extent::Whole => (announced <= there).then_some(announced),
        Extent::Cut => (header_len <= there).then_some(announced.min(there)),
    }
}

/// Protocol behind the extension headers and where its header begins. Followed are hop-by-hop (in the first place
/// only, RFC 8200 §4.1), destination options and routing headers that are used up.
fn skip_extension_headers(packet: &[u8], first: u8) -> Result<(u8, usize), PacketError> {
    const NAME: &str = "IPv6 extension";
    let mut next = first;
    let mut offset = V6_HEADER_LEN;
    for place in 0..=EXTENSION_HEADERS_MAX {
        match next {
            V6_HOP_BY_HOP if place != 0 => return Err(PacketError::ExtensionHeaders),
            V6_HOP_BY_HOP | V6_ROUTING | V6_DESTINATION => {}
            V6_FRAGMENT => return Err(PacketError::Fragment),
            protocol => return Ok((protocol, offset)),
        }
        let [following, units, _, segments_left]: [u8; 4] =
            array(packet, offset).ok_or(PacketError::Truncated(NAME))?;
        if next == V6_ROUTING && segments_left != 0 {
            return Err(PacketError::SourceRoute);
        }
        offset += (usize::from(units) + 1) * 8;
        if offset > packet.len() {
            return Err(PacketError::Truncated(NAME));
        }
        next = following;
    }
    Err(PacketError::ExtensionHeaders)
}

/// Walks the options (at most 40 bytes): source routes and lengths that do not add up are refused.
fn check_v4_options(mut options: &[u8]) -> Result<(), PacketError> {
    const NAME: &str = "IPv4 option";
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            V4_OPTION_END => return Ok(()),
            V4_OPTION_NOP => options = rest,
            V4_OPTION_LSRR | V4_OPTION_SSRR => return Err(PacketError::SourceRoute),
            _ => {
                let len = usize::from(*rest.first().ok_or(PacketError::Malformed(NAME))?);
                if len < 2 {
                    return Err(PacketError::Malformed(NAME));
                }
                options = options.get(len..).ok_or(PacketError::Malformed(NAME))?;
            }
        }
    }
    Ok(())
}

fn is_mapped(address: &[u8; 16]) -> bool {
    address.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
}

const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
