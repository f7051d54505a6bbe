//! Whole requests that the kernel judges by itself, with the automata of their rule set; anything else goes to the engine.
//!
//! A segment is judged here if it is exactly one request without a body, if nothing of the connection before it is
//! under way, and if the engine has nothing of it either: then its bytes are all that the other side will read. What is
//! let through moves the boundary in [`FlowState::request`] by one exchange of that word, so that of several CPUs that
//! have bytes for the same place only one does, and none while the engine has any. A hash of the request is kept: if it
//! comes again it must be equal.

use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
    programs::TcContext,
};
use seventh_abi::{
    ConfigFlags, Counter, DropReason, FlowFlags, FlowKey, FlowState, InjectAction, PassedRequest, REQUEST_BYTES,
    REQUEST_LEN_MAX, REQUEST_ROOMS, RequestRules, RequestStep, RequestWalk,
};

use crate::{
    atomic,
    counters::{QUIETLY, count, drop_packet, pass, shot},
    hook::Scene,
    inspect::{after, note_sent},
    maps::{self, FLOWS, REQUEST_RULES, REQUEST_STATES, REQUESTS, Request, Scratch, TAILS},
    onward,
    packet::{Packet, TCP_ACK, TCP_PSH, some_length},
    punt, sip_hash,
};

/// No request is shorter: `GET / HTTP/1.1`, two line ends.
const REQUEST_LEN_MIN: u32 = 18;
/// Bytes of one turn of the walk.
const STEPS_PER_TURN: u32 = 8;
/// No window is larger (RFC 7323 section 2.3). So far at most requests are judged here one after the other: then the engine has
/// one, and says anew where it stands, before the numbers that it knows come round.
const NEAR: u32 = 1 << 30;
/// How often the word is tried to be exchanged that others may be changing.
const EXCHANGES_MAX: usize = 8;

/// Goes on to [`run`] with bytes of the opener that have to be read. Comes back where there is no such program: the engine
/// reads everything then.
#[inline(always)]
pub fn ask(scene: &mut Scene<'_>) {
    scene.hand_on();
    // SAFETY: the helper only comes back if there is no such program, and has changed nothing then.
    unsafe { TAILS.tail_call(scene.ctx, onward::REQUESTS) };
}

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let Some(mut scene) = maps::scratch().and_then(|scratch| Scene::resume(ctx, scratch)) else {
        return shot(DropReason::NoConfiguration);
    };
    match FLOWS.get_ptr_mut(&scene.scratch.key) {
        // SAFETY: the map gave a pointer to its element; entries are plain data and stay allocated while the program runs.
        Some(flow) => decide(&mut scene, unsafe { &mut *flow }),
        None => drop_packet(&scene, 0, DropReason::FlowTableFull as u8),
    }
}

#[inline(always)]
fn decide(scene: &mut Scene<'_>, flow: &mut FlowState) -> i32 {
    let request = atomic::load(&flow.request);
    let packet = &scene.scratch.packet;
    let end = packet.sequence.wrapping_add(packet.payload_length);
    let compared_to = repeats_kept(scene, flow);
    if compared_to == Some(end) {
        return pass(Counter::Bypassed);
    }
    if stands_alone(scene, flow, request)
        && let Some(rule) = judge(scene, flow.rule_set)
        && let_through(scene, flow, request, rule)
    {
        return pass(Counter::RequestAllowed);
    }
    if !note_punted(&scene.scratch.packet, flow) {
        return drop_packet(scene, flow.peer_identity, DropReason::RequestContended as u8);
    }
    punt::to_engine_with(scene, flow, false, compared_to)
}

/// The packet begins with the request that was let through last, byte for byte: where that ends. Sequence numbers come round:
/// where nothing has been sent yet, nothing is repeated.
///
/// Another CPU may let the next request through meanwhile. So the length is read once, and what counts is where it ended that
/// was compared: nobody may ask the entry again.
#[inline(always)]
fn repeats_kept(scene: &mut Scene<'_>, flow: &FlowState) -> Option<u32> {
    let len = atomic::load_half(&flow.kept_len) as u32;
    let packet = &scene.scratch.packet;
    let sequence = packet.sequence;
    let end = sequence.wrapping_add(len);
    let may_repeat = len > 0
        && sequence == flow.kept_seq
        && !after(end, flow.sent_next_seq)
        && packet.payload_length >= len
        && load(scene, len);
    let repeats = may_repeat && hash(scene, sequence, len) == atomic::load(&flow.kept_hash);
    if repeats { Some(end) } else { None }
}

/// The packet may be a request and nothing else, and its place is that of the next request: everything before it has been
/// received, and nothing from there on was let through or is with the engine.
#[inline(always)]
fn stands_alone(scene: &Scene<'_>, flow: &FlowState, request: u64) -> bool {
    const NEEDED: u16 = FlowFlags::BASE_VALID | FlowFlags::REPLY_VALID | FlowFlags::BOUNDARY_VALID;
    /// Bits of the flags that say something: the others are about congestion.
    const MEANING: u8 = 0x3f;
    let packet = &scene.scratch.packet;
    let (punted_next, boundary) = FlowState::unpack_request(request);
    // SAFETY: reads a field of the context that the kernel passed in.
    let gso_size = unsafe { (*scene.ctx.skb.skb).gso_size };
    scene.config.flags & ConfigFlags::HANDS_OVER == 0
        && flow.flags & (NEEDED | FlowFlags::PUNT_REPLIES) == NEEDED
        && packet.tcp_flags & MEANING & !TCP_PSH == TCP_ACK
        && gso_size == 0
        && packet.sequence == boundary
        && boundary.wrapping_sub(flow.told_seq) < NEAR
        && flow.acked_seq == boundary
        && flow.sent_next_seq == boundary
        && !after(punted_next, boundary)
}

/// Index of the rule that allows the request.
#[inline(always)]
fn judge(scene: &mut Scene<'_>, rule_set: u32) -> Option<u32> {
    // SAFETY: the element is plain data; user space never changes one that is there.
    let rules = unsafe { REQUEST_RULES.get(&rule_set) }?;
    let len = scene.scratch.packet.payload_length;
    if len < REQUEST_LEN_MIN || len > rules.len_max as u32 || !load(scene, len) {
        return None;
    }
    walk(&mut scene.scratch.request, rules, len);
    scene.scratch.request.walk.allowed_by()
}

/// What a turn of the walk needs. The helper hands on nothing but a pointer to the stack.
#[repr(C)]
struct Steps<'a> {
    request: &'a mut Request,
    rules: &'a RequestRules,
    len: u32,
}

/// Walks through the bytes until the automata say what they are. They are wrong if that is not at the last.
#[inline(always)]
fn walk(request: &mut Request, rules: &RequestRules, len: u32) {
    request.walk = RequestWalk::begin(rules);
    request.at = 0;
    let mut steps = Steps { request, rules, len };
    let callback = take as unsafe extern "C" fn(u64, *mut Steps<'_>) -> i64;
    // SAFETY: the helper calls `take` at most `len` times with the pointer that it is given, before it comes back. The
    // verifier walks through one turn instead of all, which a loop of our own would be too much for.
    unsafe { bpf_loop(len, callback as *mut _, (&raw mut steps).cast(), 0) };
    if steps.request.at != len {
        steps.request.walk.state = RequestStep::REFUSE;
    }
}

/// Takes the next bytes, up to one at which the automata say more than where to go on; 1 ends the walk.
unsafe extern "C" fn take(_: u64, steps: *mut Steps<'_>) -> i64 {
    // SAFETY: `walk` hands on its own, which nobody else uses meanwhile.
    let steps = unsafe { &mut *steps };
    let mut at = steps.request.at;
    for _ in 0..STEPS_PER_TURN {
        if at >= steps.len || at >= REQUEST_LEN_MAX as u32 {
            return 1;
        }
        // SAFETY: the place was just compared with the buffer's length.
        let byte = unsafe { *steps.request.bytes.as_ptr().add(at as usize) };
        let Some(state) = REQUEST_STATES.get(steps.request.walk.state as u32) else {
            return 1;
        };
        // The compiler must not know that this is the same number, or it leaves the mask out, which the verifier needs.
        let index = core::hint::black_box(byte as u64) & (REQUEST_BYTES as u64 - 1);
        let next = if byte < REQUEST_BYTES as u8 {
            state.next[index as usize]
        } else {
            RequestStep::REFUSE
        };
        at += 1;
        steps.request.at = at;
        if next >= RequestStep::FIRST {
            let goes_on = steps.request.walk.turn(steps.rules, state.rules, next, at as u16 - 1);
            return !goes_on as i64;
        }
        steps.request.walk.state = next;
    }
    0
}

/// Moves the boundary behind the request, unless another CPU has moved it, or gave bytes to the engine. Then keeps what a
/// repetition is compared with, and tells.
#[inline(always)]
fn let_through(scene: &mut Scene<'_>, flow: &mut FlowState, request: u64, rule: u32) -> bool {
    let packet = &scene.scratch.packet;
    let (sequence, len, acknowledgement) = (packet.sequence, packet.payload_length, packet.acknowledgement);
    let hash = hash(scene, sequence, len);
    // What went to the engine ended before this place, as was compared; the place itself says that as well, and stays near.
    let moved = FlowState::pack_request(sequence, sequence.wrapping_add(len));
    if atomic::compare_exchange(&mut flow.request, request, moved) != request {
        return false;
    }
    keep(flow, sequence, len, acknowledgement, hash);
    // What was given free has all been received. It must not come round.
    flow.bypass = FlowState::pack_bypass(sequence, sequence);
    note_sent(&scene.scratch.packet, flow);
    flow.flags |= FlowFlags::EXPECT_ANSWER;
    flow.request_ns = scene.now_ns;
    tell(scene, flow, rule);
    true
}

/// In an order in which no other CPU takes one request's hash for another's.
#[inline(always)]
fn keep(flow: &mut FlowState, sequence: u32, len: u32, acknowledgement: u32, hash: u64) {
    // SAFETY: fields of the entry, which is there while the program runs.
    unsafe {
        (&raw mut flow.kept_len).write_volatile(0);
        (&raw mut flow.kept_seq).write_volatile(sequence);
        (&raw mut flow.kept_ack).write_volatile(acknowledgement);
        (&raw mut flow.kept_hash).write_volatile(hash);
        (&raw mut flow.kept_len).write_volatile(len as u16);
    }
}

/// The engine gets these bytes: nothing is judged here until it has said where the next request begins. False if other CPUs
/// do not cease to change the word.
///
/// How far is reckoned from what was let through, which nobody but the gate moves: reckoned from each other, a packet with a
/// number of its sender's choice would be taken for the furthest, and what the engine still has before it would be forgotten.
#[inline(always)]
fn note_punted(packet: &Packet, flow: &mut FlowState) -> bool {
    let sent = flow.sent_next_seq;
    let end = packet.sequence.wrapping_add(packet.payload_length);
    for _ in 0..EXCHANGES_MAX {
        let request = atomic::load(&flow.request);
        let (punted_next, boundary) = FlowState::unpack_request(request);
        let is_noted = after(punted_next, sent) && punted_next.wrapping_sub(sent) >= end.wrapping_sub(sent);
        if is_noted || !after(end, sent) {
            return true;
        }
        let noted = FlowState::pack_request(end, boundary);
        if atomic::compare_exchange(&mut flow.request, request, noted) == request {
            return true;
        }
    }
    false
}

/// The engine says that a request begins at this place (`is_valid`), or that none does. What it says late, of bytes that came
/// again, is older than what is known: it neither goes back nor takes anything back.
#[inline(always)]
pub fn tell_boundary(flow: &mut FlowState, seq: u32, is_valid: bool) {
    let is_late = is_late(flow, seq);
    // Written so, or the compiler reads parts of actions that this one does not have, which the verifier of 5.10 refuses.
    if !is_valid {
        if !is_late {
            flow.flags &= !FlowFlags::BOUNDARY_VALID;
        }
        return;
    }
    if is_late {
        return;
    }
    atomic::store_low(&mut flow.request, seq);
    flow.told_seq = seq;
    flow.flags |= FlowFlags::BOUNDARY_VALID;
}

/// It is known of a later place already that a request begins there.
#[inline(always)]
fn is_late(flow: &FlowState, seq: u32) -> bool {
    let (_, boundary) = FlowState::unpack_request(atomic::load(&flow.request));
    flow.flags & FlowFlags::BOUNDARY_VALID != 0 && !after(seq, boundary)
}

/// Bytes of the opener go on from the engine. If it did not say where the next request begins, and they go beyond the last
/// place where one did, that is no place any more at which anybody could begin.
#[inline(always)]
pub fn note_onward(packet: &Packet, action: &InjectAction, flow: &mut FlowState) {
    let (_, boundary) = FlowState::unpack_request(flow.request);
    let end = packet.sequence.wrapping_add(packet.payload_length);
    let since_kept = end.wrapping_sub(flow.kept_seq);
    if (NEAR..3 * NEAR).contains(&since_kept) {
        // Before its place comes round.
        flow.kept_len = 0;
    }
    if packet.payload_length > 0 && matches!(action, InjectAction::Keep) && after(end, boundary) {
        flow.flags &= !FlowFlags::BOUNDARY_VALID;
    }
}

/// Loads the first `len` bytes of the payload, and makes them this packet's own before: an endpoint can send out of memory in
/// which it goes on to write (sendfile, vmsplice), and what was judged is what must arrive.
#[inline(always)]
fn load(scene: &mut Scene<'_>, len: u32) -> bool {
    let Some(len) = some_length(len, REQUEST_LEN_MAX as u32) else {
        return false;
    };
    let Scratch { packet, request, .. } = &mut *scene.scratch;
    if scene.ctx.pull_data(packet.payload_offset.wrapping_add(len)).is_err() {
        return false;
    }
    let tail = request.bytes.as_mut_ptr().wrapping_add((len & !7) as usize);
    // SAFETY: eight bytes from a multiple of eight on, at most `REQUEST_LEN_MAX`, lie in the buffer, which is aligned so;
    // and so do its first `len`.
    unsafe {
        tail.cast::<u64>().write(0);
        bpf_skb_load_bytes(
            scene.ctx.skb.skb.cast(),
            packet.payload_offset,
            request.bytes.as_mut_ptr().cast(),
            len,
        ) == 0
    }
}

/// Of the first `len` bytes that were loaded, and of their place: what is read of an entry while another CPU writes it is then
/// equal to nothing.
#[inline(always)]
fn hash(scene: &Scene<'_>, sequence: u32, len: u32) -> u64 {
    sip_hash::of(&scene.scratch.request, &scene.config.hash_key, sequence, len)
}

/// A record of [`REQUESTS`].
#[repr(C)]
struct Record<const ROOM: usize> {
    header: PassedRequest,
    bytes: [u8; ROOM],
}

#[inline(always)]
fn tell(scene: &Scene<'_>, flow: &FlowState, rule: u32) {
    let len = scene.scratch.packet.payload_length as usize;
    if len <= REQUEST_ROOMS[0] {
        put::<{ REQUEST_ROOMS[0] }>(scene, flow, &scene.scratch.key, rule);
    } else if len <= REQUEST_ROOMS[1] {
        put::<{ REQUEST_ROOMS[1] }>(scene, flow, &scene.scratch.key, rule);
    } else {
        put::<{ REQUEST_ROOMS[2] }>(scene, flow, &scene.scratch.key, rule);
    }
}

/// `key` is an argument so that the compiler knows it for no part of the record: of what is read through `scene` it does not, and
/// calls a function that copies byte by byte.
#[inline(never)]
fn put<const ROOM: usize>(scene: &Scene<'_>, flow: &FlowState, key: &FlowKey, rule: u32) {
    let packet = &scene.scratch.packet;
    let Some(len) = some_length(packet.payload_length, ROOM as u32) else {
        return;
    };
    let Some(mut slot) = REQUESTS.reserve::<Record<ROOM>>(0) else {
        return count(Counter::RequestLost as u32);
    };
    let record = slot.as_mut_ptr();
    // SAFETY: `record` points to reserved memory of this size, which is submitted or given back below and nowhere else
    // used, and `len` bytes fit into it. The fields are written one by one because a whole header would have to be built
    // on the stack first.
    let loaded = unsafe {
        let header = &raw mut (*record).header;
        (*header).time_ns = scene.now_ns;
        (*header).key = *key;
        (*header).peer_identity = flow.peer_identity;
        (*header).rule_set = flow.rule_set;
        (*header).base_seq = flow.base_seq;
        (*header).rule = rule;
        (*header).len = len;
        bpf_skb_load_bytes(
            scene.ctx.skb.skb.cast(),
            packet.payload_offset,
            (&raw mut (*record).bytes).cast(),
            len,
        )
    };
    if loaded != 0 {
        slot.discard(QUIETLY);
        return count(Counter::RequestLost as u32);
    }
    slot.submit(QUIETLY);
}
