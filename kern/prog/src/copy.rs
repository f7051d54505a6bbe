//! Copies of what passes, for whoever judges beside the traffic. Nothing here holds, changes or drops a packet.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_RING_SIZE},
    helpers::generated::bpf_skb_load_bytes,
};
use seventh_abi::{
    COPY_ROOMS, CopyHeader, CopySkip, Counter, DropReason, FlowFlags, FlowKey, FlowState, PROTOCOL_TCP, PROTOCOL_UDP,
    PuntMeta, Verdict,
};

use crate::{
    counters::{QUIETLY, count, tell},
    hook::Scene,
    inspect,
    maps::{COPIES, COPY_SKIPS},
    packet::{FRAGMENT_NONE, TCP_SYN, TCP_URG},
};

/// The ring's reader comes round every few milliseconds by itself. It is woken once when so large a part of the ring is
/// full: waking it for every frame would cost more than the copy.
const WAKE_SHARE: u64 = 8;
/// Bytes beyond that share within which it is woken; a reader that does not come in spite of it is not called again.
const WAKE_SPAN: u64 = 256 << 10;
/// Ethernet and the shortest IP header.
const FRAME_MIN: u32 = 34;

/// A packet of the side that opened the flow.
#[inline(always)]
pub fn forward(scene: &Scene<'_>, flow: &mut FlowState) {
    let packet = &scene.scratch.packet;
    if flow.flags & FlowFlags::AUDIT_INSPECT != 0 {
        tell_refused(scene, flow);
    }
    if flow.flags & FlowFlags::COPY == 0 || packet.fragment != FRAGMENT_NONE || packet.payload_length == 0 {
        return;
    }
    if flow.flags & FlowFlags::COPIED != 0 {
        // Only a long header can begin another connection of QUIC under the same ports.
        // Where nothing is refused nobody gains by changing the byte afterwards, so that it is not made the packet's own.
        if packet.protocol == PROTOCOL_UDP && inspect::has_long_header(scene) {
            submit(scene, flow, &scene.scratch.key, false);
        }
        return;
    }
    note_skips(flow, &scene.scratch.key);
    if flow.flags & FlowFlags::COPIED == 0 && !inspect::lies_in_bypass(packet, flow) {
        submit(scene, flow, &scene.scratch.key, false);
        if packet.protocol == PROTOCOL_TCP {
            // Perhaps it is the end of a request.
            flow.flags |= FlowFlags::EXPECT_ANSWER;
            flow.request_ns = scene.now_ns;
        }
    }
}

/// A packet of the other side.
#[inline(always)]
pub fn reply(scene: &Scene<'_>, flow: &mut FlowState) {
    let packet = &scene.scratch.packet;
    if flow.flags & FlowFlags::COPY_REPLIES == 0 || packet.fragment != FRAGMENT_NONE || packet.payload_length == 0 {
        return;
    }
    note_skips(flow, &scene.scratch.other_key);
    if flow.flags & FlowFlags::COPIED == 0 {
        submit(scene, flow, &scene.scratch.other_key, true);
    }
}

/// What an inspected flow would be refused, whatever is in it.
#[inline(always)]
fn tell_refused(scene: &Scene<'_>, flow: &FlowState) {
    let packet = &scene.scratch.packet;
    let reason = if packet.fragment != FRAGMENT_NONE {
        DropReason::FragmentOfInspectedFlow
    } else if packet.protocol == PROTOCOL_TCP && packet.tcp_flags & TCP_URG != 0 {
        DropReason::UrgentFlag
    } else if packet.protocol == PROTOCOL_TCP && packet.tcp_flags & TCP_SYN != 0 && packet.payload_length > 0 {
        DropReason::SynWithData
    } else {
        return;
    };
    tell(scene, flow.peer_identity, reason as u8);
}

/// Takes over what user space said of the connection, if it did so under the flow's epoch, so that the next packet asks the
/// flow alone.
#[inline(always)]
fn note_skips(flow: &mut FlowState, key: &FlowKey) {
    // SAFETY: the element is plain data; a torn one at worst copies too much or leaves a gap.
    let Some(skip) = (unsafe { COPY_SKIPS.get(key) }) else {
        return;
    };
    if skip.epoch != flow.epoch || skip.base_seq != flow.base_seq {
        return;
    }
    if skip.flags & CopySkip::ALL != 0 {
        flow.flags |= FlowFlags::COPIED;
    } else {
        flow.bypass = FlowState::pack_bypass(skip.start, skip.end);
        flow.flags |= FlowFlags::BYPASS_VALID;
    }
}

/// A record of [`COPIES`].
#[repr(C)]
struct Record<const ROOM: usize> {
    header: CopyHeader,
    frame: [u8; ROOM],
}

/// The smallest room that takes a frame; what is long is cut short when the reader does not keep up. It is mostly a body that
/// nobody needs, of which the reader could not say so yet, and whoever sends the next head begins a frame with it.
#[inline(always)]
fn submit(scene: &Scene<'_>, flow: &FlowState, key: &FlowKey, reply: bool) {
    let length = scene.ctx.len() as usize;
    if length <= COPY_ROOMS[0] {
        put::<{ COPY_ROOMS[0] }>(scene, flow, key, reply);
    } else if length <= COPY_ROOMS[1] {
        put::<{ COPY_ROOMS[1] }>(scene, flow, key, reply);
    } else if is_half_full() {
        count(Counter::CopyCut as u32);
        put::<{ COPY_ROOMS[1] }>(scene, flow, key, reply);
    } else if length <= COPY_ROOMS[2] {
        put::<{ COPY_ROOMS[2] }>(scene, flow, key, reply);
    } else {
        put::<{ COPY_ROOMS[3] }>(scene, flow, key, reply);
    }
}

#[inline(never)]
fn put<const ROOM: usize>(scene: &Scene<'_>, flow: &FlowState, key: &FlowKey, reply: bool) {
    // The compiler must not know more of the length than the verifier.
    let length = core::hint::black_box(scene.ctx.len());
    let captured = if length > ROOM as u32 { ROOM as u32 } else { length };
    if captured < FRAME_MIN {
        return;
    }
    let Some(mut slot) = COPIES.reserve::<Record<ROOM>>(0) else {
        return count(Counter::CopyLost as u32);
    };
    let record = slot.as_mut_ptr();
    // SAFETY: `record` points to reserved memory of this size, which is submitted or given back below and nowhere else
    // used, and `captured` bytes fit into its frame. The fields are written one by one because a whole header would have to
    // be built on the stack first.
    let loaded = unsafe {
        let header = &raw mut (*record).header;
        (*header).time_ns = scene.now_ns;
        (*header).key = *key;
        (*header).epoch = flow.epoch;
        (*header).base_seq = flow.base_seq;
        (*header).length = length;
        (*header).sequence = scene.scratch.packet.sequence;
        (*header).captured = captured;
        bpf_skb_load_bytes(scene.ctx.skb.skb.cast(), 0, (&raw mut (*record).frame).cast(), captured)
    };
    if loaded != 0 {
        slot.discard(QUIETLY);
        return count(Counter::CopyLost as u32);
    }
    // SAFETY: every frame has room for its first twelve bytes.
    unsafe {
        (&raw mut (*record).frame)
            .cast::<[u8; 12]>()
            .write_unaligned(meta(scene, flow, reply))
    };
    slot.submit(if ROOM >= COPY_ROOMS[2] { wake_flag() } else { QUIETLY });
    count(Counter::Copied as u32);
}

#[inline(always)]
fn meta(scene: &Scene<'_>, flow: &FlowState, reply: bool) -> [u8; 12] {
    PuntMeta {
        hook: scene.hook,
        ifindex: scene.ifindex,
        base_seq: flow.known_base_seq(),
        acked_seq: flow.known_acked_seq(),
        reply_idle: false,
        closed: flow.verdict == Verdict::Closed as u8,
        reply,
        frontier: None,
        compared_to: None,
        clean: false,
    }
    .encode()
}

#[inline(always)]
fn is_half_full() -> bool {
    COPIES.query(BPF_RB_AVAIL_DATA as u64) > COPIES.query(BPF_RB_RING_SIZE as u64) / 2
}

#[inline(always)]
fn wake_flag() -> u64 {
    let level = COPIES.query(BPF_RB_RING_SIZE as u64) / WAKE_SHARE;
    let filled = COPIES.query(BPF_RB_AVAIL_DATA as u64);
    if filled >= level && filled - level < WAKE_SPAN {
        BPF_RB_FORCE_WAKEUP as u64
    } else {
        QUIETLY
    }
}
