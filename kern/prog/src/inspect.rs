//! Flows under an L7 rule: what may pass in the kernel because there is nothing in it left to read, and what goes to
//! the engine.

use seventh_abi::{ConnectionNumber, Counter, DropReason, FlowFlags, FlowState, Frames, PROTOCOL_TCP, Verdict};

use crate::{
    atomic,
    checksum::{FilledIn, filled_in},
    counters::{drop_packet, pass},
    hook::Scene,
    packet::{FRAGMENT_NONE, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TCP_URG},
    punt, requests,
};

/// `a` comes after `b` on the circle of sequence numbers (RFC 9293 section 3.4).
#[inline(always)]
pub fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// A packet of the side that opened an inspected flow.
#[inline(always)]
pub fn forward(scene: &mut Scene<'_>, flow: &mut FlowState) -> i32 {
    let packet = &scene.scratch.packet;
    if packet.fragment != FRAGMENT_NONE {
        return refuse(scene, flow, DropReason::FragmentOfInspectedFlow);
    }
    if packet.protocol != PROTOCOL_TCP {
        return punt::to_engine(scene, flow, false);
    }
    if packet.tcp_flags & TCP_URG != 0 {
        // Also without data: it may name a byte that comes later, and its reader will not find that byte in the stream.
        return refuse(scene, flow, DropReason::UrgentFlag);
    }
    let has_data = packet.payload_length > 0;
    if packet.tcp_flags & TCP_SYN != 0 {
        return if has_data {
            refuse(scene, flow, DropReason::SynWithData)
        } else {
            pass(Counter::Bypassed)
        };
    }
    if flow.verdict == Verdict::Closed as u8 {
        // The engine answers repeated data and the opener's FIN; bare acknowledgements have nobody to go to.
        if has_data || packet.tcp_flags & TCP_FIN != 0 {
            return punt::to_engine(scene, flow, false);
        }
        return refuse(scene, flow, DropReason::DeniedConnection);
    }
    if !has_data || needs_no_inspection(packet, flow) {
        note_sent(packet, flow);
        return pass(Counter::Bypassed);
    }
    // Whether a request may begin here or not: that these bytes go to the engine is noted there.
    if flow.flags & FlowFlags::BASE_VALID != 0 {
        requests::ask(scene);
    }
    punt::to_engine(scene, flow, false)
}

/// A packet of the other side, on a flow whose answers are read: DNS, or a connection that may leave HTTP.
#[inline(always)]
pub fn reply(scene: &mut Scene<'_>, flow: &mut FlowState) -> i32 {
    let packet = &scene.scratch.packet;
    if packet.fragment != FRAGMENT_NONE {
        return refuse(scene, flow, DropReason::FragmentOfInspectedFlow);
    }
    if packet.protocol == PROTOCOL_TCP && packet.payload_length == 0 {
        return pass(Counter::Bypassed);
    }
    punt::to_engine(scene, flow, true)
}

/// Datagrams that one super-packet holds at most (`UDP_MAX_SEGMENTS`).
const DATAGRAMS_MAX: u32 = 128;
/// First bit of a long header (RFC 9000 section 17.2).
const LONG_HEADER: u8 = 0x80;

/// A datagram of the opener on a flow whose QUIC connections are known. Only a long header can begin another one, and
/// after the handshake there are none. QUIC is never fragmented (RFC 9000 section 14).
#[inline(always)]
pub fn settled_quic(scene: &Scene<'_>, flow: &mut FlowState) -> i32 {
    if scene.scratch.packet.fragment != FRAGMENT_NONE {
        return refuse(scene, flow, DropReason::FragmentOfInspectedFlow);
    }
    if !own_first_bytes(scene) || has_long_header(scene) || filled_in(scene.ctx, &scene.scratch.packet) != FilledIn::Own
    {
        return punt::to_engine(scene, flow, false);
    }
    pass(Counter::Forwarded)
}

/// Makes the first byte of the datagram, or of each of a super-packet's, this packet's own: an endpoint can send out of memory
/// in which it goes on to write (vmsplice, a ring of a packet socket), and what was judged is what must arrive. False if that
/// cannot be done.
#[inline(always)]
fn own_first_bytes(scene: &Scene<'_>) -> bool {
    let packet = &scene.scratch.packet;
    // SAFETY: reads a field of the context that the kernel passed in.
    let is_super = unsafe { (*scene.ctx.skb.skb).gso_size } > 0;
    let len = if is_super || packet.payload_length == 0 {
        packet.payload_length
    } else {
        1
    };
    scene.ctx.pull_data(packet.payload_offset.wrapping_add(len)).is_ok()
}

/// Whether the datagram, or one of a super-packet's, begins with a long header. What cannot be seen is taken for one.
#[inline(never)]
pub fn has_long_header(scene: &Scene<'_>) -> bool {
    let packet = &scene.scratch.packet;
    // SAFETY: reads a field of the context that the kernel passed in.
    let datagram_len = unsafe { (*scene.ctx.skb.skb).gso_size };
    let mut at = 0;
    for _ in 0..DATAGRAMS_MAX {
        if at >= packet.payload_length {
            return false;
        }
        match scene.ctx.load::<u8>((packet.payload_offset + at) as usize) {
            Ok(first) if first & LONG_HEADER == 0 => {}
            _ => return true,
        }
        if datagram_len == 0 {
            return false;
        }
        at += datagram_len;
    }
    true
}

/// The opener's bytes of this packet go to the other side. A packet without any moves nothing, whatever number it
/// claims: else a row of bare FINs could open the way for bytes that nobody has read.
#[inline(always)]
pub fn note_sent(packet: &Packet, flow: &mut FlowState) {
    let end = packet.sequence.wrapping_add(packet.payload_length);
    if packet.payload_length > 0 && after(end, flow.sent_next_seq) {
        flow.sent_next_seq = end;
    }
}

/// Bytes that lie in a range the engine gave free. That the other side has acknowledged bytes is no reason: somebody else
/// may have said so in its name.
#[inline(always)]
fn needs_no_inspection(packet: &Packet, flow: &FlowState) -> bool {
    flow.flags & FlowFlags::BASE_VALID != 0 && lies_in_bypass(packet, flow)
}

/// The same on a flow whose beginning need not be known, because nothing depends on it.
#[inline(always)]
pub fn lies_in_bypass(packet: &Packet, flow: &FlowState) -> bool {
    if flow.flags & FlowFlags::BYPASS_VALID == 0 {
        return false;
    }
    let start = packet.sequence;
    let end = start.wrapping_add(packet.payload_length);
    let (bypass_start, bypass_end) = FlowState::unpack_bypass(flow.bypass);
    // Distances from its beginning: comparing ends alone would take a packet at the far side of the circle for inside.
    let length = bypass_end.wrapping_sub(bypass_start);
    let (from, to) = (start.wrapping_sub(bypass_start), end.wrapping_sub(bypass_start));
    from <= to && to <= length
}

#[inline(always)]
fn refuse(scene: &Scene<'_>, flow: &FlowState, reason: DropReason) -> i32 {
    drop_packet(scene, flow.peer_identity, reason as u8)
}

/// A SYN with the sequence number of the connection that the entry is about. Sent again it is harmless before anything
/// else has gone on; later it would give another connection's bytes the numbers of bytes that were read.
#[inline(always)]
pub fn reuses_numbers(packet: &Packet, flow: &FlowState) -> bool {
    flow.flags & FlowFlags::BASE_VALID != 0
        && packet.sequence.wrapping_add(1) == flow.base_seq
        && (flow.sent_next_seq != flow.base_seq || flow.acked_seq != flow.base_seq)
}

/// How far from what is known of a connection the number of an end may lie: more than what is on its way on any but the
/// fastest paths, and a 512th of the circle. An end that is missed for it costs an idle entry some time.
const END_WINDOW: u32 = 1 << 23;

/// Where the ends of one side may stand.
pub enum Ends {
    /// Anywhere: nothing is known.
    Anywhere,
    /// Between the first, which the other side has acknowledged, and a window past the second, which was sent.
    Between(u32, u32),
}

/// Where the opener's RST and FIN may stand.
#[inline(always)]
pub fn opener_ends(flow: &FlowState) -> Ends {
    if flow.flags & FlowFlags::REPLY_VALID == 0 {
        return Ends::Anywhere;
    }
    Ends::Between(flow.acked_seq, flow.sent_next_seq)
}

/// Where those of the other side may stand. What the opener has acknowledged is not followed.
#[inline(always)]
fn reply_ends(flow: &FlowState) -> Ends {
    if flow.flags & FlowFlags::REPLY_VALID == 0 {
        return Ends::Anywhere;
    }
    Ends::Between(flow.reply_next_seq.wrapping_sub(END_WINDOW), flow.reply_next_seq)
}

/// Notices a RST, or a FIN of the side whose flag this is, if it stands where one may (RFC 9293 section 3.10.7.4, RFC 5961
/// section 3: others are ignored or asked back about). With a FIN of one side alone a connection may live on. So it does if
/// either side speaks on after a RST, be it to ask back: who was reset is silent, and to what comes too late for that the
/// next RST is the answer.
#[inline(always)]
pub fn track_end(packet: &Packet, ends: Ends, own_fin: u16, flow: &mut FlowState) {
    const BOTH: u16 = FlowFlags::OPENER_FIN | FlowFlags::OTHER_FIN;
    if packet.tcp_flags & (TCP_FIN | TCP_RST) == 0 {
        let speaks = packet.tcp_flags & (TCP_ACK | TCP_SYN) == TCP_ACK;
        if flow.flags & FlowFlags::CLOSING != 0 && speaks && flow.flags & BOTH != BOTH {
            flow.flags &= !FlowFlags::CLOSING;
        }
        return;
    }
    if let Ends::Between(acknowledged, sent) = ends {
        let end = packet.sequence.wrapping_add(packet.payload_length);
        if after(acknowledged, end) || after(end, sent.wrapping_add(END_WINDOW)) {
            return;
        }
    }
    if packet.tcp_flags & TCP_FIN != 0 {
        flow.raise(own_fin);
    }
    if packet.tcp_flags & TCP_RST != 0 || flow.flags & BOTH == BOTH {
        flow.raise(FlowFlags::CLOSING);
    }
}

/// Follows what the side that was opened to acknowledges and sends. The reason if the packet must not pass.
#[inline(always)]
pub fn track_reply(packet: &Packet, flow: &mut FlowState, now_ns: u64) -> Option<DropReason> {
    track_end(packet, reply_ends(flow), FlowFlags::OTHER_FIN, flow);
    // A reset ends the connection or is ignored; it moves nothing, whatever number it claims.
    if packet.tcp_flags & TCP_ACK == 0 || packet.tcp_flags & TCP_RST != 0 {
        return None;
    }
    let mut next = packet.sequence.wrapping_add(packet.payload_length);
    if packet.tcp_flags & (TCP_SYN | TCP_FIN) != 0 {
        next = next.wrapping_add(1);
    }
    if packet.tcp_flags & TCP_SYN != 0 {
        return accept_connection(packet, flow, next, now_ns);
    }
    if flow.flags & FlowFlags::REPLY_VALID == 0 {
        return None;
    }
    if flow.verdict == Verdict::Forward as u8 && after(packet.acknowledgement, flow.sent_next_seq) {
        // Nobody follows what is sent on a flow that is not read.
        flow.sent_next_seq = packet.acknowledgement;
    }
    // What was never let through cannot have been received: such an acknowledgement would open the way for bytes that
    // nobody has read.
    let acked = if after(packet.acknowledgement, flow.sent_next_seq) {
        flow.sent_next_seq
    } else {
        packet.acknowledgement
    };
    if after(acked, flow.acked_seq) {
        flow.acked_seq = acked;
    }
    if after(next, flow.reply_next_seq) {
        flow.reply_next_seq = next;
    }
    None
}

/// A SYN-ACK that acknowledges exactly the opener's SYN begins a connection, also on a flow whose last one is over. Of a flow
/// that is read no other passes: the connection that it began would be taken for the one that is known, and be read, and
/// passed, as its rest.
#[inline(always)]
fn accept_connection(packet: &Packet, flow: &mut FlowState, next: u32, now_ns: u64) -> Option<DropReason> {
    let base = packet.acknowledgement;
    let is_known = flow.flags & FlowFlags::BASE_VALID != 0 && flow.base_seq == base;
    if flow.flags & FlowFlags::PASSED_UNREAD != 0 || is_known {
        return None;
    }
    let is_read = flow.verdict != Verdict::Forward as u8 || flow.rule_set != 0;
    if flow.pending_base_seq != base {
        return if is_read {
            Some(DropReason::AcceptsOtherSyn)
        } else {
            None
        };
    }
    let connection = ConnectionNumber::accepted_at(now_ns);
    if is_read && flow.connection == connection {
        return Some(DropReason::ReusedTooSoon);
    }
    // First of all: what the engine said of the connection before it is not applied from now on, or is taken back.
    atomic::store_half(&mut flow.connection, connection);
    atomic::fence(&mut flow.request_ns);
    begin_connection(flow, base, next);
    None
}

/// Nothing that was known of the flow's last connection is known of this one.
#[inline(always)]
fn begin_connection(flow: &mut FlowState, base: u32, next: u32) {
    flow.base_seq = base;
    // Should a flag of the connection before come back, written by another CPU in this moment, it speaks of nothing.
    flow.bypass = FlowState::pack_bypass(base, base);
    flow.acked_seq = base;
    flow.sent_next_seq = base;
    flow.reply_next_seq = next;
    flow.frame_end = next;
    flow.frames = Frames::First as u8;
    flow.header_held = 0;
    flow.pieces = 0;
    flow.begin_requests(base);
    const KEPT: u16 = FlowFlags::PUNT_REPLIES | FlowFlags::COPYING;
    const BEGUN: u16 = FlowFlags::BASE_VALID | FlowFlags::REPLY_VALID | FlowFlags::REPLIED | FlowFlags::BOUNDARY_VALID;
    flow.flags = BEGUN | flow.flags & KEPT;
    // What was said of the connection before, refused or settled, is not said of this one.
    let settled = flow.verdict == Verdict::Forward as u8 && flow.rule_set != 0;
    if flow.verdict == Verdict::Closed as u8 || settled {
        flow.verdict = Verdict::Inspect as u8;
    }
}
