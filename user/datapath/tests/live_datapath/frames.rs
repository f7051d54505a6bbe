//! Frames made by hand, for what no socket of the test's own would send.

use std::net::IpAddr;

use super::TCP;

pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

/// Address and port.
pub(super) type End = (&'static str, u16);

/// Under which headers a packet travels.
#[derive(Clone, Default)]
pub(super) struct Wrapping {
    /// VLAN tags, outermost first: protocol and id.
    pub(super) tags: Vec<(u16, u16)>,
    /// Options of IPv4, a multiple of four bytes.
    pub(super) options: Vec<u8>,
    /// Extension headers of IPv6 with their numbers, the first one first. Byte 0 of each is filled in.
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
    /// Hop limit of IPv6, if it is not 64.
    pub(super) hop_limit: Option<u8>,
}

/// The header of the transport with these ports, and four bytes of payload.
fn transport(protocol: u8, from: u16, to: u16) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    match protocol {
        UDP => bytes.extend([0, 12, 0, 0]),
        // Verification tag 0, no checksum: nobody receives it. The chunk is an INIT without a body.
        SCTP => bytes.extend([0, 0, 0, 0, 0, 0, 0, 0]),
        TCP => bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]),
        _ => panic!("no header for protocol {protocol}"),
    }
    bytes.extend([1, 0, 0, 4]);
    bytes
}

/// A whole IP packet.
fn ip_packet(protocol: u8, from: IpAddr, to: IpAddr, inside: &[u8], wrapping: &Wrapping) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = 20 + wrapping.options.len();
            let length = u16::try_from(header + inside.len()).unwrap();
            let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
            packet.extend(length.to_be_bytes());
            packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
            packet.extend([from.octets(), to.octets()].concat());
            packet.extend(&wrapping.options);
            packet.extend(inside);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut numbers: Vec<u8> = wrapping.extensions.iter().map(|(number, _)| *number).collect();
            numbers.push(protocol);
            let mut payload = Vec::new();
            for (at, (_, header)) in wrapping.extensions.iter().enumerate() {
                payload.push(numbers[at + 1]);
                payload.extend(&header[1..]);
            }
            payload.extend(inside);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            packet.extend([numbers[0], wrapping.hop_limit.unwrap_or(64)]);
            packet.extend([from.octets(), to.octets()].concat());
            packet.extend(payload);
            packet
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

fn framed(packet: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (protocol, id) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    let v6 = packet[0] >> 4 == 6;
    frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame
}

/// A frame with one packet of the protocol.
pub(super) fn frame(protocol: u8, from: End, to: End, wrapping: &Wrapping) -> Vec<u8> {
    let inside = transport(protocol, from.1, to.1);
    let (from, to) = (from.0.parse().unwrap(), to.0.parse().unwrap());
    framed(&ip_packet(protocol, from, to, &inside, wrapping), &wrapping.tags)
}

/// A message of `ICMPv6` with its header and a body of zeros.
pub(super) fn icmp_v6(kind: u8, from: &str, to: &str, wrapping: &Wrapping) -> Vec<u8> {
    let mut message = vec![0; 24];
    message[0] = kind;
    framed(
        &ip_packet(ICMP_V6, from.parse().unwrap(), to.parse().unwrap(), &message, wrapping),
        &[],
    )
}

/// An ICMP error of `reporter` to the sender of a packet of `protocol` that went from `from` to `to`: unreachable, or too
/// large.
pub(super) fn icmp_error(reporter: &str, protocol: u8, from: End, to: End) -> Vec<u8> {
    let (sender, receiver): (IpAddr, IpAddr) = (from.0.parse().unwrap(), to.0.parse().unwrap());
    let plain = Wrapping::default();
    let quoted = ip_packet(protocol, sender, receiver, &transport(protocol, from.1, to.1), &plain);
    let (number, kind) = if sender.is_ipv4() { (ICMP, 3) } else { (ICMP_V6, 2) };
    let message = [&[kind, 1, 0, 0, 0, 0, 5, 0], quoted.as_slice()].concat();
    framed(
        &ip_packet(number, reporter.parse().unwrap(), sender, &message, &plain),
        &[],
    )
}
