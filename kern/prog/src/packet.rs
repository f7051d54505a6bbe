//! From frame bytes to the few fields a decision needs.
//!
//! Reads the linear part of the frame; a frame whose headers lie elsewhere is pulled together once and read again.

use core::ptr;

use aya_ebpf::programs::TcContext;
use seventh_abi::{Addr, DropReason, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};

/// Flags of TCP (RFC 9293 section 3.1). The sender is done.
pub const TCP_FIN: u8 = 0x01;
/// A connection begins.
pub const TCP_SYN: u8 = 0x02;
/// It ends at once.
pub const TCP_RST: u8 = 0x04;
/// The reader is not to wait for more.
pub const TCP_PSH: u8 = 0x08;
/// The acknowledgement counts.
pub const TCP_ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const TCP_URG: u8 = 0x20;

/// Not a fragment.
pub const FRAGMENT_NONE: u8 = 0;
/// First fragment: has the L4 header.
pub const FRAGMENT_FIRST: u8 = 1;
/// Later fragment: addresses and id only.
pub const FRAGMENT_LATER: u8 = 2;

const ETHERNET_LENGTH: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Ethernet, two tags, IPv6, four extension headers of 8 bytes, a TCP header with options.
const HEADERS_MAX: u32 = 14 + 8 + 40 + 32 + 60;
const EXTENSION_HEADERS_MAX: usize = 6;

/// What was read. Ports are in host byte order.
#[repr(C, align(8))]
pub struct Packet {
    /// IP source.
    pub source: Addr,
    /// IP destination.
    pub destination: Addr,
    /// Of TCP, else 0.
    pub sequence: u32,
    /// Of TCP, else 0.
    pub acknowledgement: u32,
    /// Bytes after the L4 header, by the IP length.
    pub payload_length: u32,
    /// Which fragmented datagram it is a part of.
    pub fragment_id: u32,
    /// Of the L4 header, from the start of the frame.
    pub l4_offset: u32,
    /// Of what follows the last header that was read, from the start of the frame. 0 if that could not be told.
    pub payload_offset: u32,
    /// Length of the IP packet.
    pub ip_length: u32,
    /// That of the sender; type of ICMP.
    pub source_port: u16,
    /// That of the receiver; code of ICMP.
    pub destination_port: u16,
    /// ICMP echo identifier.
    pub echo_id: u16,
    /// IP protocol number, behind all extension headers.
    pub protocol: u8,
    /// Of TCP, else 0.
    pub tcp_flags: u8,
    /// 4 or 6; 0 if it is not IP.
    pub ip_version: u8,
    /// [`FRAGMENT_NONE`], [`FRAGMENT_FIRST`] or [`FRAGMENT_LATER`].
    pub fragment: u8,
    /// Of IPv6; of IPv4 the time to live.
    pub hop_limit: u8,
}

impl Packet {
    /// Forgets the last packet. Word by word: the compiler would make one call of it, which writes byte by byte.
    #[inline(always)]
    fn clear(&mut self) {
        let words: *mut u64 = ptr::from_mut(self).cast();
        for i in 0..size_of::<Self>() / 8 {
            // SAFETY: inside the packet, which is aligned so; all-zero words are a valid packet.
            unsafe { words.add(i).write_volatile(0) };
        }
    }
}

/// Sets an address of a [`Packet`] by two stores. Byte by byte it would be a call.
#[inline(always)]
fn set_addr(addr: &mut Addr, words: [u64; 2]) {
    // SAFETY: as many bytes; `write_unaligned` asks for no alignment, and the compiler knows that of the packet.
    unsafe { ptr::write_unaligned(ptr::from_mut(addr).cast(), words) };
}

/// An IPv4 address in the mapped form.
#[inline(always)]
fn mapped_words([a, b, c, d]: [u8; 4]) -> [u64; 2] {
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

const _: () = assert!(size_of::<Packet>() & 7 == 0);

/// What a frame is.
pub enum Frame {
    /// IPv4 or IPv6 with a header we can follow.
    Ip,
    /// ARP: needed to reach anybody, carries nothing else.
    Arp,
    /// Cannot be judged.
    Drop(DropReason),
}

/// Reads the frame into `packet`.
#[inline(always)]
pub fn parse(ctx: &TcContext, packet: &mut Packet) -> Frame {
    packet.clear();
    match parse_linear(ctx, packet) {
        Err(Fault::OutOfReach) => {}
        Err(Fault::Invalid(reason)) => return Frame::Drop(reason),
        Ok(frame) => return frame,
    }
    let length = ctx.len();
    let wanted = if length < HEADERS_MAX { length } else { HEADERS_MAX };
    if ctx.pull_data(wanted).is_err() {
        return Frame::Drop(DropReason::FrameAccess);
    }
    match parse_linear(ctx, packet) {
        Ok(frame) => frame,
        Err(Fault::OutOfReach) => Frame::Drop(DropReason::InvalidHeader),
        Err(Fault::Invalid(reason)) => Frame::Drop(reason),
    }
}

enum Fault {
    /// Beyond the linear part: pull and try again.
    OutOfReach,
    Invalid(DropReason),
}

/// Copies a header out of the linear part, bounds checked.
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: `start..start + size_of::<T>()` lies inside the packet, as just compared; T is plain bytes.
    Some(unsafe { ptr::read_unaligned(start as *const T) })
}

/// `len`, if it is 1 to `max`, in a form in which every verifier sees that. Helpers take no length that may be 0, and kernels
/// before 6.8 learn nothing about a number from its being another one than 0: so it is compared as one less. The compiler, which
/// would make one comparison of both, must not know that it is the same number.
#[inline(always)]
pub fn some_length(len: u32, max: u32) -> Option<u32> {
    let one_less = core::hint::black_box(len.wrapping_sub(1));
    if one_less < max { Some(one_less + 1) } else { None }
}

#[inline(never)]
fn parse_linear(ctx: &TcContext, packet: &mut Packet) -> Result<Frame, Fault> {
    let mut offset = ETHERNET_LENGTH;
    let mut ethertype = u16::from_be_bytes(read(ctx, 12).ok_or(Fault::OutOfReach)?);
    // The outer tag may have been moved out of the frame already; up to two are read in band.
    for _ in 0..2 {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        ethertype = u16::from_be_bytes(read(ctx, offset + 2).ok_or(Fault::OutOfReach)?);
        offset += 4;
    }
    let l4_length = match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(ctx, packet, &mut offset)?,
        ETHERTYPE_IPV6 => parse_ipv6(ctx, packet, &mut offset)?,
        ETHERTYPE_ARP => return Ok(Frame::Arp),
        _ => {
            packet.payload_offset = offset as u32;
            return Err(Fault::Invalid(DropReason::UnsupportedL3Protocol));
        }
    };
    packet.l4_offset = offset as u32;
    if packet.fragment == FRAGMENT_LATER {
        packet.payload_offset = offset as u32;
    } else {
        parse_l4(ctx, packet, offset, l4_length)?;
    }
    Ok(Frame::Ip)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_length: u8,
    traffic_class: u8,
    total_length: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

/// Returns the bytes from the L4 header to the end of the IP packet.
#[inline(always)]
fn parse_ipv4(ctx: &TcContext, packet: &mut Packet, offset: &mut usize) -> Result<u32, Fault> {
    let header: Ipv4Header = read(ctx, *offset).ok_or(Fault::OutOfReach)?;
    let header_length = ((header.version_length & 0xf) as u32) << 2;
    if header.version_length >> 4 != 4 || header_length < 20 {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    let total = ip_length(ctx, *offset, u16::from_be_bytes(header.total_length) as u32)?;
    if total < header_length {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    packet.ip_version = 4;
    set_addr(&mut packet.source, mapped_words(header.source));
    set_addr(&mut packet.destination, mapped_words(header.destination));
    packet.protocol = header.protocol;
    packet.hop_limit = header.ttl;
    packet.ip_length = total;
    let fragment = u16::from_be_bytes(header.fragment);
    set_fragment(
        packet,
        u16::from_be_bytes(header.id) as u32,
        fragment & 0x1fff,
        fragment & 0x2000 != 0,
    )?;
    *offset += header_length as usize;
    Ok(total - header_length)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version_class_flow: [u8; 4],
    payload_length: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: Addr,
    destination: Addr,
}

#[inline(always)]
fn parse_ipv6(ctx: &TcContext, packet: &mut Packet, offset: &mut usize) -> Result<u32, Fault> {
    let header: Ipv6Header = read(ctx, *offset).ok_or(Fault::OutOfReach)?;
    if header.version_class_flow[0] >> 4 != 6 {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    let payload = u16::from_be_bytes(header.payload_length) as u32;
    let total = ip_length(ctx, *offset, if payload == 0 { 0 } else { payload + 40 })?;
    packet.ip_version = 6;
    packet.source = header.source;
    packet.destination = header.destination;
    packet.hop_limit = header.hop_limit;
    packet.ip_length = total;
    let start = *offset;
    *offset += 40;
    packet.protocol = skip_extension_headers(ctx, packet, offset, header.next_header)?;
    let headers = (*offset - start) as u32;
    if headers > total {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    Ok(total - headers)
}

/// The IP packet's length as the receiver will take it. A super-packet is cut by the frame's length, whatever its header says:
/// one that says less would arrive with more than was judged. Beyond 64 KiB it carries 0.
#[inline(always)]
fn ip_length(ctx: &TcContext, offset: usize, declared: u32) -> Result<u32, Fault> {
    let available = ctx.len().wrapping_sub(offset as u32);
    // SAFETY: reads a field of the context that the kernel passed in.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    let is_super = gso_size > 0;
    let length = if is_super && declared == 0 { available } else { declared };
    // What is behind a packet may fill its frame up.
    let least = if is_super { available } else { 1 };
    if length < least || length > available {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    Ok(length)
}

const EXTENSION_HOP_BY_HOP: u8 = 0;
const EXTENSION_ROUTING: u8 = 43;
const EXTENSION_FRAGMENT: u8 = 44;
const EXTENSION_DESTINATION: u8 = 60;

/// Walks the extension headers that end in a transport header (RFC 8200 section 4). A routing header may change the
/// destination on the way, so it is refused.
#[inline(always)]
fn skip_extension_headers(ctx: &TcContext, packet: &mut Packet, offset: &mut usize, first: u8) -> Result<u8, Fault> {
    let mut next = first;
    let mut fragment_seen = false;
    for _ in 0..EXTENSION_HEADERS_MAX {
        match next {
            EXTENSION_HOP_BY_HOP | EXTENSION_DESTINATION => {
                let header: [u8; 2] = read(ctx, *offset).ok_or(Fault::OutOfReach)?;
                next = header[0];
                *offset += (header[1] as usize + 1) << 3;
            }
            // A second one could turn a later fragment into a first.
            EXTENSION_FRAGMENT if fragment_seen => {
                return Err(Fault::Invalid(DropReason::InvalidExtensionHeader));
            }
            EXTENSION_FRAGMENT => {
                let header: [u8; 8] = read(ctx, *offset).ok_or(Fault::OutOfReach)?;
                next = header[0];
                fragment_seen = true;
                packet.protocol = next;
                *offset += 8;
                let fragment = u16::from_be_bytes([header[2], header[3]]);
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                set_fragment(packet, id, fragment >> 3, fragment & 1 != 0)?;
                if packet.fragment == FRAGMENT_LATER {
                    return Ok(next);
                }
            }
            EXTENSION_ROUTING => return Err(Fault::Invalid(DropReason::InvalidExtensionHeader)),
            _ => return Ok(next),
        }
    }
    Err(Fault::Invalid(DropReason::InvalidExtensionHeader))
}

#[inline(always)]
fn set_fragment(packet: &mut Packet, id: u32, offset_units: u16, more: bool) -> Result<(), Fault> {
    packet.fragment_id = id;
    packet.fragment = if offset_units != 0 {
        FRAGMENT_LATER
    } else if more {
        FRAGMENT_FIRST
    } else {
        FRAGMENT_NONE
    };
    // A fragment at offset 8 could overwrite the flags of a TCP header (RFC 3128).
    if offset_units == 1 && packet.protocol == PROTOCOL_TCP {
        return Err(Fault::Invalid(DropReason::FragmentOfInspectedFlow));
    }
    Ok(())
}

#[inline(always)]
fn parse_l4(ctx: &TcContext, packet: &mut Packet, offset: usize, l4_length: u32) -> Result<(), Fault> {
    let header_length = match packet.protocol {
        PROTOCOL_TCP => parse_tcp(ctx, packet, offset)?,
        PROTOCOL_UDP => {
            let ports: [u8; 4] = read(ctx, offset).ok_or(Fault::OutOfReach)?;
            set_ports(packet, ports);
            8
        }
        // RFC 9260 section 3.1: ports, verification tag, checksum; chunks follow.
        PROTOCOL_SCTP => {
            let ports: [u8; 4] = read(ctx, offset).ok_or(Fault::OutOfReach)?;
            set_ports(packet, ports);
            12
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
            let header: [u8; 8] = read(ctx, offset).ok_or(Fault::OutOfReach)?;
            packet.source_port = header[0] as u16;
            packet.destination_port = header[1] as u16;
            packet.echo_id = u16::from_be_bytes([header[4], header[5]]);
            4
        }
        _ => 0,
    };
    if header_length > l4_length {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    packet.payload_length = l4_length - header_length;
    packet.payload_offset = offset as u32 + header_length;
    Ok(())
}

#[inline(always)]
fn parse_tcp(ctx: &TcContext, packet: &mut Packet, offset: usize) -> Result<u32, Fault> {
    let header: [u8; 20] = read(ctx, offset).ok_or(Fault::OutOfReach)?;
    set_ports(packet, [header[0], header[1], header[2], header[3]]);
    packet.sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    packet.acknowledgement = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    packet.tcp_flags = header[13];
    let header_length = ((header[12] >> 4) as u32) << 2;
    if header_length < 20 {
        return Err(Fault::Invalid(DropReason::InvalidHeader));
    }
    Ok(header_length)
}

#[inline(always)]
fn set_ports(packet: &mut Packet, ports: [u8; 4]) {
    packet.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    packet.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
}
