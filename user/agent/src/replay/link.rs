//! From a link's header to the IP packet behind it.

/// `EtherType` of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub(crate) const IPV6: u16 = 0x86dd;
/// `EtherType` of Ethernet in GRE.
pub(crate) const ETHERNET_BRIDGED: u16 = 0x6558;
const PPPOE: u16 = 0x8864;
const MPLS: [u16; 2] = [0x8847, 0x8848];
const VLAN: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// Tags and labels that are passed over at most.
const TAGS_MAX: usize = 16;

/// Whether packets of this link type (LINKTYPE_*) are read.
pub(crate) const fn is_known(link: u16) -> bool {
    matches!(
        link,
        0 | 1 | 9 | 12 | 14 | 50 | 51 | 101 | 104 | 108 | 109 | 113 | 228 | 229 | 276
    )
}

/// `EtherType` and place of the IP packet; `None` if there is none.
pub(crate) fn network(link: u16, packet: &[u8]) -> Option<(u16, usize)> {
    match link {
        1 => ethernet(packet, 0),
        // Raw IP under its several numbers.
        12 | 14 | 101 | 228 | 229 => by_version(packet, 0),
        // Cisco's HDLC: address, control, type.
        104 => behind(word(packet, 2)?, packet, 4),
        // BSD's loopback: an address family in somebody's order of bytes.
        0 | 108 => by_version(packet, 4),
        // OpenBSD's enc: family, SPI, flags.
        109 => by_version(packet, 12),
        // PPP, with or without address and control.
        9 | 50 => ppp(packet, if packet.starts_with(&[0xff, 0x03]) { 2 } else { 0 }),
        51 => behind(PPPOE, packet, 0),
        // Linux cooked.
        113 => behind(word(packet, 14)?, packet, 16),
        276 => behind(word(packet, 0)?, packet, 20),
        _ => None,
    }
}

/// The same of a frame of Ethernet that begins at `at`.
pub(crate) fn ethernet(packet: &[u8], at: usize) -> Option<(u16, usize)> {
    behind(word(packet, at + 12)?, packet, at + 14)
}

/// Passes over tags, labels and LLC.
pub(crate) fn behind(ether_type: u16, packet: &[u8], at: usize) -> Option<(u16, usize)> {
    let (mut ether_type, mut at) = (ether_type, at);
    for _ in 0..TAGS_MAX {
        match ether_type {
            IPV4 | IPV6 => return Some((ether_type, at)),
            PPPOE => return ppp(packet, at + 6),
            ETHERNET_BRIDGED => {
                ether_type = word(packet, at + 12)?;
                at += 14;
            }
            tag if VLAN.contains(&tag) => {
                ether_type = word(packet, at + 2)?;
                at += 4;
            }
            label if MPLS.contains(&label) => {
                let is_last = packet.get(at + 2)? & 1 != 0;
                at += 4;
                if is_last {
                    return by_version(packet, at);
                }
            }
            // A length: IEEE 802.3 with LLC and SNAP (RFC 1042).
            ..1536 if packet.get(at..at + 6)? == [0xaa, 0xaa, 3, 0, 0, 0] => {
                ether_type = word(packet, at + 6)?;
                at += 8;
            }
            _ => return None,
        }
    }
    None
}

/// A protocol's number before the packet.
pub(crate) fn ppp(packet: &[u8], at: usize) -> Option<(u16, usize)> {
    match word(packet, at)? {
        0x0021 => Some((IPV4, at + 2)),
        0x0057 => Some((IPV6, at + 2)),
        // The protocol's first byte is left out where it is 0 (RFC 1661 §6.5).
        compressed if compressed >> 8 == 0x21 => Some((IPV4, at + 1)),
        compressed if compressed >> 8 == 0x57 => Some((IPV6, at + 1)),
        _ => None,
    }
}

fn by_version(packet: &[u8], at: usize) -> Option<(u16, usize)> {
    match packet.get(at)? >> 4 {
        4 => Some((IPV4, at)),
        6 => Some((IPV6, at)),
        _ => None,
    }
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{IPV4, IPV6, network};

    #[test]
    fn the_packet_is_found_behind_every_kind_of_link() {
        let macs = [0; 12];
        for (link, head, kind) in [
            (1, [&macs[..], &[0x08, 0]].concat(), IPV4),
            (1, [&macs[..], &[0x81, 0, 0, 7, 0x86, 0xdd]].concat(), IPV6),
            (1, [&macs[..], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]].concat(), IPV4),
            (
                1,
                [&macs[..], &[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0, 0x57]].concat(),
                IPV6,
            ),
            (1, [&macs[..], &[0x88, 0x47, 0, 1, 0, 9, 0, 1, 1, 9]].concat(), IPV4),
            (1, [&macs[..], &[0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat(), IPV4),
            (0, vec![2, 0, 0, 0], IPV4),
            (108, vec![0, 0, 0, 24], IPV6),
            (101, vec![], IPV4),
            (229, vec![], IPV6),
            (9, vec![0xff, 3, 0, 0x21], IPV4),
            (104, vec![0x0f, 0, 8, 0], IPV4),
            (113, [&[0; 14][..], &[8, 0]].concat(), IPV4),
            (276, [&[0x86, 0xdd][..], &[0; 18]].concat(), IPV6),
        ] {
            let packet = [&head[..], &[if kind == IPV4 { 0x45 } else { 0x60 }, 0, 0, 0]].concat();
            assert_eq!(network(link, &packet), Some((kind, head.len())), "{link} {head:?}");
            for cut in 0..packet.len() {
                network(link, &packet[..cut]);
            }
        }
        assert_eq!(network(1, &[&macs[..], &[0x08, 0x06, 0, 1]].concat()), None, "ARP");
        assert_eq!(network(147, &[0x45; 40]), None);
    }
}
