//! Checksums that the kernel, or a device, fills in after the verdict. Whoever sends raw frames may name any two bytes of a frame
//! for one (`PACKET_VNET_HDR`): a port, an address, a byte of a request.

use aya_ebpf::{EbpfContext as _, Global, helpers::generated::bpf_probe_read_kernel, programs::TcContext};
use seventh_abi::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, SkbLayout};

use crate::packet::Packet;

/// The loader puts in what it knows. A constant to the verifier: what kernels cannot do of which nothing is known it does not see.
#[unsafe(no_mangle)]
static SKB_LAYOUT: Global<SkbLayout> = Global::new(SkbLayout::UNKNOWN);

/// `CHECKSUM_PARTIAL` of `ip_summed`, which has two bits.
const PARTIAL: u64 = 3;

/// Where a checksum will be filled in.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FilledIn {
    /// At its own place, or nowhere.
    Own,
    /// Behind the header of the transport, where tunnels have others.
    Payload,
    /// In what was judged.
    Elsewhere,
}

/// Where the frame's checksum will be filled in. What cannot be read is taken for the worst.
#[inline(never)]
pub fn filled_in(ctx: &TcContext, packet: &Packet) -> FilledIn {
    let layout = SKB_LAYOUT.load();
    if layout.head == 0 {
        return FilledIn::Own;
    }
    let Some([low, high]) = read(ctx, layout.checksum) else {
        return FilledIn::Elsewhere;
    };
    let summed = if layout.summed < 64 {
        low >> layout.summed
    } else {
        high >> (layout.summed - 64)
    };
    if summed & PARTIAL != PARTIAL {
        return FilledIn::Own;
    }
    let Some([head, data]) = read(ctx, layout.head) else {
        return FilledIn::Elsewhere;
    };
    let (start, offset) = ((high >> 32) as u16, (high >> 48) as u16);
    match (start as u32 + offset as u32).checked_sub(data.wrapping_sub(head) as u32) {
        Some(place) => of_place(packet, place),
        None => FilledIn::Elsewhere,
    }
}

/// The same by the place, from the start of the frame.
#[inline(always)]
fn of_place(packet: &Packet, place: u32) -> FilledIn {
    let (own, nests) = match packet.protocol {
        PROTOCOL_TCP => (16, false),
        PROTOCOL_UDP => (6, true),
        PROTOCOL_SCTP => (8, true),
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => (2, false),
        _ => (0, true),
    };
    if packet.payload_offset == 0 {
        FilledIn::Elsewhere
    } else if own > 0 && place == packet.l4_offset + own {
        FilledIn::Own
    } else if nests && place >= packet.payload_offset {
        FilledIn::Payload
    } else {
        FilledIn::Elsewhere
    }
}

/// Sixteen bytes of the `sk_buff`, which is what the context is a view of.
#[inline(always)]
fn read(ctx: &TcContext, offset: u32) -> Option<[u64; 2]> {
    let mut words = [0_u64; 2];
    let source = ctx.as_ptr().wrapping_byte_add(offset as usize);
    // SAFETY: the helper writes as many bytes as there are, and reads from any address, or says that it cannot.
    let result = unsafe { bpf_probe_read_kernel(words.as_mut_ptr().cast(), 16, source) };
    if result == 0 { Some(words) } else { None }
}
