//! Packets in packets.

use clap::ValueEnum;
use seventh_abi::PROTOCOL_UDP;

use super::link::{self, IPV4, IPV6};

/// Tunnels in tunnels at most.
const DEPTH_MAX: usize = 4;
const GRE: u8 = 47;
/// What GRE calls PPP in PPTP (RFC 2637 §4.1).
const PPTP: u16 = 0x880b;
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;

/// Kinds of tunnels that can be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tunnel {
    /// RFC 2784, with Ethernet or IP inside, and RFC 2637 (PPTP)
    Gre,
    /// RFC 7348
    Vxlan,
    /// RFC 8926
    Geneve,
    /// IPv4 or IPv6 in either
    Ipip,
}

/// The innermost packet: `EtherType` and place.
pub(crate) fn inner(packet: &[u8], ether_type: u16, at: usize, looked_into: &[Tunnel]) -> (u16, usize) {
    let mut found = (ether_type, at);
    if looked_into.is_empty() {
        return found;
    }
    for _ in 0..DEPTH_MAX {
        match step(packet, found.0, found.1, looked_into) {
            Some(deeper) => found = deeper,
            None => break,
        }
    }
    found
}

fn step(packet: &[u8], ether_type: u16, at: usize, looked_into: &[Tunnel]) -> Option<(u16, usize)> {
    let (protocol, payload) = if ether_type == IPV4 {
        let header_len = usize::from(packet.get(at)? & 0x0f) * 4;
        let fragment = u16::from_be_bytes(*packet.get(at + 6..)?.first_chunk()?);
        if fragment & 0x3fff != 0 {
            return None;
        }
        (*packet.get(at + 9)?, at + header_len.max(20))
    } else {
        (*packet.get(at + 6)?, at + 40)
    };
    let has = |tunnel| looked_into.contains(&tunnel);
    match protocol {
        4 if has(Tunnel::Ipip) => Some((IPV4, payload)),
        41 if has(Tunnel::Ipip) => Some((IPV6, payload)),
        GRE if has(Tunnel::Gre) => gre(packet, payload),
        PROTOCOL_UDP => match u16::from_be_bytes(*packet.get(payload + 2..)?.first_chunk()?) {
            // Flags with the bit for a network number.
            VXLAN_PORT if has(Tunnel::Vxlan) && packet.get(payload + 8)? & 0x08 != 0 => {
                link::ethernet(packet, payload + 16)
            }
            GENEVE_PORT if has(Tunnel::Geneve) => {
                let options = usize::from(packet.get(payload + 8)? & 0x3f) * 4;
                let kind = u16::from_be_bytes(*packet.get(payload + 10..)?.first_chunk()?);
                link::behind(kind, packet, payload + 16 + options)
            }
            _ => None,
        },
        _ => None,
    }
}

/// RFC 2784 and RFC 2890: checksum, key and number are there if their bits are.
fn gre(packet: &[u8], at: usize) -> Option<(u16, usize)> {
    let flags = *packet.get(at)?;
    let version = packet.get(at + 1)? & 0x07;
    let kind = u16::from_be_bytes(*packet.get(at + 2..)?.first_chunk()?);
    let bit = |mask: u8| usize::from(flags & mask != 0) * 4;
    if version == 1 && kind == PPTP {
        // The key is always there; then the packet's number and an acknowledgement, if their bits are.
        let acknowledgement = usize::from(packet.get(at + 1)? & 0x80 != 0) * 4;
        let behind = at + 8 + bit(0x10) + acknowledgement;
        let has_address = packet.get(behind..)?.starts_with(&[0xff, 0x03]);
        return link::ppp(packet, behind + 2 * usize::from(has_address));
    }
    if version != 0 {
        return None;
    }
    link::behind(kind, packet, at + 4 + bit(0x80) + bit(0x20) + bit(0x10))
}

#[cfg(test)]
mod tests {
    use super::{Tunnel, inner};
    use crate::replay::link::{IPV4, IPV6};
    use clap::ValueEnum as _;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2];
        packet.extend(payload);
        packet
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        [&[9, 9][..], &port.to_be_bytes(), &[0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn each_tunnel_is_looked_into_only_if_asked_for() {
        let inside = v4(6, b"inside");
        let frame = [&[0; 12][..], &[8, 0], &inside].concat();
        for (tunnel, outside) in [
            (Tunnel::Ipip, v4(4, &inside)),
            (Tunnel::Gre, v4(47, &[&[0, 0, 8, 0][..], &inside].concat())),
            (
                Tunnel::Gre,
                v4(47, &[&[0xb0, 0, 0x65, 0x58][..], &[0; 12], &frame].concat()),
            ),
            (
                Tunnel::Gre,
                v4(
                    47,
                    &[&[0x30, 0x81, 0x88, 0x0b][..], &[0; 12], &[0xff, 3, 0, 0x21], &inside].concat(),
                ),
            ),
            (
                Tunnel::Vxlan,
                v4(17, &udp(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &frame].concat())),
            ),
            (
                Tunnel::Geneve,
                v4(
                    17,
                    &udp(
                        6081,
                        &[&[1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 4][..], &frame].concat(),
                    ),
                ),
            ),
        ] {
            let (kind, at) = inner(&outside, IPV4, 0, &[tunnel]);
            assert_eq!((kind, &outside[at..]), (IPV4, &inside[..]), "{tunnel:?}");
            let others: Vec<Tunnel> = Tunnel::value_variants()
                .iter()
                .copied()
                .filter(|t| *t != tunnel)
                .collect();
            assert_eq!(inner(&outside, IPV4, 0, &others), (IPV4, 0), "{tunnel:?}");
            for cut in 0..outside.len() {
                inner(&outside[..cut], IPV4, 0, Tunnel::value_variants());
                inner(&outside[..cut], IPV6, 0, Tunnel::value_variants());
            }
        }
    }
}
