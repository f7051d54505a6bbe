//! The way to the engine and back.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    programs::TcContext,
};
use seventh_abi::{
    ConfigFlags, Counter, DropReason, FlowFlags, FlowKey, FlowState, Frontier, Hook, InjectAction, InjectMeta,
    PROTOCOL_TCP, PuntMeta, PuntedType, Replies, Verdict, WORKERS_MAX,
};

use crate::{
    answer_frames, atomic,
    counters::{count, drop_packet, pass, shot},
    hook::{Scene, fill_key},
    inspect,
    maps::{self, CONFIG, FLOWS, Scratch, XSKS},
    packet::{Frame, Packet, parse, read},
    requests,
};

/// Sends the frame to the worker of its flow; the MAC addresses of an opener's frame stay behind in the flow entry.
#[inline(always)]
pub fn to_engine(scene: &Scene<'_>, flow: &mut FlowState, reply: bool) -> i32 {
    to_engine_with(scene, flow, reply, None)
}

/// The same; the packet's bytes before `compared_to` are those of the request that was let through last.
///
/// What refuses is told here and not in [`hand_over`]: to tell takes a frame of stack, and the frames of one chain of calls
/// must not be over 512 bytes, each rounded up to 32 (by kernels before 6.8; later ones round to 16).
#[inline(always)]
pub fn to_engine_with(scene: &Scene<'_>, flow: &mut FlowState, reply: bool, compared_to: Option<u32>) -> i32 {
    // In two words: the verifier does not let the second half of nothing be handed on.
    let (is_compared, end) = match compared_to {
        Some(end) => (true, end),
        None => (false, 0),
    };
    let action = hand_over(scene, flow, reply, is_compared, end);
    if action >= REFUSED {
        return drop_packet(scene, flow.peer_identity, (action - REFUSED) as u8);
    }
    action
}

/// Added to a reason: the packet is to be dropped for it. More than any action.
const REFUSED: i32 = 1 << 8;

/// The action, or [`REFUSED`] and a reason.
#[inline(never)]
fn hand_over(scene: &Scene<'_>, flow: &mut FlowState, reply: bool, is_compared: bool, compared_to: u32) -> i32 {
    let workers = scene.config.workers;
    if workers == 0 || workers as usize > WORKERS_MAX {
        return refused(DropReason::NoWorker);
    }
    // The compiler can prove the bound and would drop the mask; the verifier cannot and needs it.
    let worker = core::hint::black_box(flow_hash(&scene.scratch.key) % workers) as usize & (WORKERS_MAX - 1);
    if scene.config.flags & ConfigFlags::OPEN_WITHOUT_AGENT != 0
        && flow.verdict == Verdict::Inspect as u8
        && XSKS.get(worker as u32).is_none()
    {
        return pass_unread(flow);
    }
    if !fits(scene) {
        return refused(DropReason::PuntTooLarge);
    }
    let Some(head) = read::<[u8; 14]>(scene.ctx, 0) else {
        return refused(DropReason::FrameAccess);
    };
    let ether_type = u16::from_be_bytes([head[12], head[13]]);
    let connection = flow.connection;
    let Some([high, low]) = (PuntedType { ether_type, connection }).encode() else {
        return refused(DropReason::UnsupportedL3Protocol);
    };
    if !reply {
        flow.mac_destination = [head[0], head[1], head[2], head[3], head[4], head[5]];
        flow.mac_source = [head[6], head[7], head[8], head[9], head[10], head[11]];
    }
    let frontier = if reply {
        None
    } else {
        frontier(&scene.scratch.packet, flow)
    };
    let meta = PuntMeta {
        hook: scene.hook,
        ifindex: scene.ifindex,
        base_seq: flow.known_base_seq(),
        acked_seq: flow.known_acked_seq(),
        reply_idle: flow.flags & FlowFlags::REPLY_VALID != 0
            && flow.reply_next_seq == scene.scratch.packet.acknowledgement,
        closed: flow.verdict == Verdict::Closed as u8,
        reply,
        frontier,
        compared_to: if is_compared { Some(compared_to) } else { None },
        clean: match frontier {
            Some(frontier) => frontier.seq == flow.acked_seq,
            None => flow.sent_next_seq == flow.acked_seq,
        },
    };
    let [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11] = meta.encode();
    let head = [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, high, low];
    if scene.ctx.store(0, &head, 0).is_err() {
        return refused(DropReason::FrameAccess);
    }
    count(Counter::Punted as u32);
    // SAFETY: the helper only records where the frame goes; an unknown device drops it.
    unsafe { bpf_redirect(scene.config.punt_ifindex[worker], 0) as i32 }
}

/// The agent is gone (its sockets live as long as it does), and the gate is to be open then. What passes has no known place
/// in the stream: the next agent must not take the connection for one whose beginning it can still learn.
#[inline(always)]
fn pass_unread(flow: &mut FlowState) -> i32 {
    flow.flags &= !(FlowFlags::BASE_VALID | FlowFlags::BYPASS_VALID | FlowFlags::BOUNDARY_VALID);
    flow.flags |= FlowFlags::PASSED_UNREAD;
    pass(Counter::PassedUnread)
}

/// See [`PuntMeta::frontier`]. Where the engine itself has said last where a request begins, it follows the stream and is to
/// know what has been acknowledged, unless that comes to the same.
#[inline(always)]
fn frontier(packet: &Packet, flow: &FlowState) -> Option<Frontier> {
    const NEEDED: u16 = FlowFlags::BASE_VALID | FlowFlags::REPLY_VALID | FlowFlags::BOUNDARY_VALID;
    let (_, boundary) = FlowState::unpack_request(flow.request);
    let is_own = boundary != flow.told_seq;
    if flow.flags & NEEDED != NEEDED
        || flow.verdict != Verdict::Inspect as u8
        || inspect::after(flow.sent_next_seq, boundary)
        || !(is_own || boundary == flow.acked_seq)
    {
        return None;
    }
    Some(Frontier {
        seq: boundary,
        answered: !is_own || packet.acknowledgement != flow.kept_ack,
    })
}

/// A super-packet is cut to its segment size on the way; anything else must fit as it is.
#[inline(always)]
fn fits(scene: &Scene<'_>) -> bool {
    // SAFETY: reads a field of the context that the kernel passed in.
    let gso_size = unsafe { (*scene.ctx.skb.skb).gso_size };
    let ip_length = if gso_size > 0 {
        scene
            .scratch
            .packet
            .ip_length
            .wrapping_sub(scene.scratch.packet.payload_length)
            .wrapping_add(gso_size)
    } else {
        scene.scratch.packet.ip_length
    };
    ip_length <= scene.config.punt_mtu
}

/// The same for both directions of a connection, so that it always meets the same worker.
#[inline(always)]
fn flow_hash(key: &FlowKey) -> u32 {
    let mut hash = (key.local_port ^ key.peer_port) as u32 ^ (key.protocol as u32) << 16;
    for i in 0..4 {
        let word = |a: &[u8; 16]| u32::from_ne_bytes([a[i * 4], a[i * 4 + 1], a[i * 4 + 2], a[i * 4 + 3]]);
        hash = (hash ^ word(&key.local_addr) ^ word(&key.peer_addr)).wrapping_mul(0x9e37_79b1);
        hash ^= hash >> 15;
    }
    hash
}

#[inline(always)]
fn refused(reason: DropReason) -> i32 {
    REFUSED + reason as i32
}

/// `tc_from_punt`: a frame from the engine continues where its flow was taken, or goes back to the opener.
#[inline(always)]
pub fn inject(ctx: &TcContext) -> i32 {
    let Some(config) = CONFIG.get(0) else {
        return shot(DropReason::NoConfiguration);
    };
    let Some(scratch) = maps::scratch() else {
        return shot(DropReason::NoConfiguration);
    };
    scratch.follows = 0;
    if !matches!(parse(ctx, &mut scratch.packet), Frame::Ip) {
        return shot(DropReason::InjectInvalid);
    }
    let Some(meta) = read_meta(ctx, &scratch.packet) else {
        return shot(DropReason::InjectInvalid);
    };
    set_injected_key(&meta, scratch);
    let Some(flow) = FLOWS.get_ptr_mut(&scratch.key) else {
        return shot(DropReason::InjectFlowGone);
    };
    // SAFETY: the map gave a pointer to its element; entries are plain data and stay allocated while the program runs.
    let flow = unsafe { &mut *flow };
    if atomic::load_half(&flow.connection) != meta.connection {
        return shot(DropReason::InjectOtherConnection);
    }
    if is_overtaken(&meta, &scratch.packet, flow) {
        return shot(DropReason::AnswerOvertaken);
    }
    apply(&meta, flow);
    if scratch.packet.protocol == PROTOCOL_TCP && !meta.reverse {
        inspect::note_sent(&scratch.packet, flow);
        requests::note_onward(&scratch.packet, &meta.action, flow);
    }
    if !is_still(meta.connection, flow) {
        take_back(&meta, flow);
        return shot(DropReason::InjectOtherConnection);
    }
    let macs = if meta.reverse {
        join(&flow.mac_source, &flow.mac_destination)
    } else {
        join(&flow.mac_destination, &flow.mac_source)
    };
    if ctx.store(0, &macs, 0).is_err() {
        return shot(DropReason::FrameAccess);
    }
    ctx.set_mark(config.mark);
    let to_ingress = matches!(meta.hook, Hook::FromEndpoint) != meta.reverse;
    // SAFETY: the helper only records where the frame goes; an unknown device drops it.
    let action = unsafe { bpf_redirect(meta.ifindex, if to_ingress { BPF_F_INGRESS as u64 } else { 0 }) as i32 };
    if let InjectAction::FollowFrames { start } = meta.action {
        let is_last = matches!(meta.replies, Replies::Pass);
        answer_frames::ask_from_engine(scratch, flow, start, is_last);
    }
    action
}

#[inline(always)]
fn read_meta(ctx: &TcContext, packet: &Packet) -> Option<InjectMeta> {
    let bytes = read::<[u8; 12]>(ctx, 0)?;
    let payload_end = if packet.protocol == PROTOCOL_TCP {
        packet.sequence.wrapping_add(packet.payload_length)
    } else {
        0
    };
    InjectMeta::decode(&bytes, payload_end)
}

/// Whether the flow is this connection's after it was changed, too. If it is, whoever begins the next one, on another CPU,
/// has not begun to: it gives the flow its number before it changes anything.
#[inline(always)]
fn is_still(connection: u16, flow: &mut FlowState) -> bool {
    atomic::fence(&mut flow.request_ns);
    atomic::load_half(&flow.connection) == connection
}

/// Another connection began while the flow was changed for the one before. Less is known of it then than could be: that is
/// the safe side.
#[inline(always)]
fn take_back(meta: &InjectMeta, flow: &mut FlowState) {
    flow.bypass = 0;
    flow.flags &= !(FlowFlags::BYPASS_VALID | FlowFlags::BOUNDARY_VALID);
    if !matches!(
        meta.action,
        InjectAction::Keep | InjectAction::Bypass { .. } | InjectAction::FollowFrames { .. }
    ) {
        flow.verdict = Verdict::Inspect as u8;
    }
}

/// Key of the flow whose opener's frame this is, or whose opener it answers, into `scratch.key`.
#[inline(always)]
fn set_injected_key(meta: &InjectMeta, scratch: &mut Scratch) {
    let Scratch { packet, key, .. } = scratch;
    let sent_here = matches!(meta.hook, Hook::FromEndpoint) != meta.reverse;
    fill_key(key, packet, sent_here, meta.hook.opener_direction(), meta.ifindex);
}

/// The other side has said more while the engine refused a request of this connection: behind those bytes the refusal would
/// stand in the middle of something. Nothing comes from there any more once the connection is closed.
#[inline(always)]
fn is_overtaken(meta: &InjectMeta, packet: &Packet, flow: &FlowState) -> bool {
    matches!(meta.action, InjectAction::Close)
        && meta.reverse
        && packet.protocol == PROTOCOL_TCP
        && packet.payload_length > 0
        && flow.verdict != Verdict::Closed as u8
        && flow.flags & FlowFlags::REPLY_VALID != 0
        && inspect::after(flow.reply_next_seq, packet.sequence)
}

#[inline(always)]
fn apply(meta: &InjectMeta, flow: &mut FlowState) {
    match meta.replies {
        Replies::Keep => {}
        Replies::Punt => flow.flags |= FlowFlags::PUNT_REPLIES,
        // When the frame has been followed.
        Replies::Pass if matches!(meta.action, InjectAction::FollowFrames { .. }) => {}
        Replies::Pass => flow.flags &= !FlowFlags::PUNT_REPLIES,
        Replies::Copy => expect_answer(flow),
        Replies::PuntAndCopy => {
            flow.flags |= FlowFlags::PUNT_REPLIES;
            expect_answer(flow);
        }
    }
    match meta.action {
        InjectAction::Keep | InjectAction::FollowFrames { .. } => {}
        InjectAction::Bypass { start, end, boundary } => {
            flow.bypass = FlowState::pack_bypass(start, end);
            flow.flags |= FlowFlags::BYPASS_VALID;
            requests::tell_boundary(flow, end, boundary);
        }
        InjectAction::Forward { epoch } => {
            settle(epoch, flow);
            flow.flags &= !FlowFlags::READ_LONG_HEADERS;
        }
        InjectAction::ForwardQuic { epoch } => {
            settle(epoch, flow);
            flow.flags |= FlowFlags::READ_LONG_HEADERS;
        }
        InjectAction::Close => flow.verdict = Verdict::Closed as u8,
    }
}

#[inline(always)]
fn expect_answer(flow: &mut FlowState) {
    flow.flags |= FlowFlags::EXPECT_ANSWER;
    // SAFETY: the helper has no preconditions.
    flow.request_ns = unsafe { bpf_ktime_get_ns() };
}

/// What passes from now on is not read: see `decided_again`.
#[inline(always)]
fn settle(epoch: u32, flow: &mut FlowState) {
    flow.verdict = Verdict::Forward as u8;
    flow.epoch = epoch;
    flow.flags &= !(FlowFlags::BASE_VALID | FlowFlags::BYPASS_VALID | FlowFlags::BOUNDARY_VALID);
}

#[inline(always)]
fn join(a: &[u8; 6], b: &[u8; 6]) -> [u8; 12] {
    [a[0], a[1], a[2], a[3], a[4], a[5], b[0], b[1], b[2], b[3], b[4], b[5]]
}
