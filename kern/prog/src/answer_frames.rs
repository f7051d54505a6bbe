//! Follows the frames of HTTP/2 that the side sends that was opened to, and copies its header blocks, beside the traffic.
//!
//! Nothing here decides anything. Frames are walked from the connection's first byte on, or, after an upgrade, from the one
//! that the engine names, or not at all: where one begins is never guessed. What goes by repeatedly is passed over, and a
//! gap is survived if it lies inside a frame.
//!
//! While an upgrade is under way the other side's data goes to the engine, and is followed when it comes back; only when
//! all of it has come back is it followed on its way through the kernel. So each byte is walked over once, in its order.
//!
//! A program of its own, to which the one that decided goes on: together they are more than a verifier walks through.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
    programs::TcContext,
};
use seventh_abi::{AnswerPiece, Counter, FlowFlags, FlowState, Frames, PIECE_LEN_MAX, Verdict};

use crate::{
    counters::{PASS, QUIETLY, count},
    maps::{self, ANSWER_PIECES, FLOWS, Scratch},
    packet::{FRAGMENT_NONE, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, some_length},
};

const HEADER_LEN: u32 = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
/// A frame's length at most before anybody allows more (RFC 9113 section 6.5.2).
const FRAME_LEN_AT_FIRST: u32 = 1 << 14;
/// Frames and pieces of one packet at most. A super-packet of 64 KiB has so many if an answer of two frames takes 512
/// bytes.
const STEPS_MAX: u32 = 256;

/// The packet is to be followed if it passes.
pub const IF_IT_PASSES: u32 = 1;
/// It comes from the engine.
const FROM_ENGINE: u32 = 2;
/// Besides, the other side's data need not go to the engine any more, whatever is still there.
const LAST_FROM_ENGINE: u32 = 3;

/// Notes that the packet is to be followed if it passes.
#[inline(always)]
pub fn ask(scratch: &mut Scratch, flow: &FlowState) {
    if flow.frames != Frames::None as u8 && is_data(scratch) {
        scratch.follows = IF_IT_PASSES;
    }
}

/// Notes that the packet, which the engine gives back, is to be followed. `is_last`: see
/// [`LAST_FROM_ENGINE`].
#[inline(always)]
pub fn ask_from_engine(scratch: &mut Scratch, flow: &mut FlowState, start: u32, is_last: bool) {
    if flow.frames == Frames::First as u8 && flow.frame_end != start {
        // What came before was HTTP/1.
        flow.frame_end = start;
        flow.header_held = 0;
    }
    if flow.frames == Frames::None as u8 || !is_data(scratch) {
        flow.flags &= !FlowFlags::PUNT_REPLIES;
        return;
    }
    scratch.follows = if is_last { LAST_FROM_ENGINE } else { FROM_ENGINE };
    scratch.other_key = scratch.key;
}

#[inline(always)]
fn is_data(scratch: &Scratch) -> bool {
    let packet = &scratch.packet;
    packet.payload_length > 0 && packet.tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST) == TCP_ACK
}

/// The program: what was decided is in the scratch memory.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let Some(scratch) = maps::scratch() else {
        return PASS;
    };
    let (follows, action) = (scratch.follows, scratch.action);
    scratch.follows = 0;
    let Some(flow) = FLOWS.get_ptr_mut(&scratch.other_key) else {
        return action;
    };
    // SAFETY: the map gave a pointer to its element; entries are plain data and stay allocated while the program runs.
    let flow = unsafe { &mut *flow };
    follow(ctx, scratch, flow);
    if follows == LAST_FROM_ENGINE || follows == FROM_ENGINE && is_last_byte(&scratch.packet, flow) {
        // Only now: what passes from here on is followed by whoever lets it pass.
        flow.flags &= !FlowFlags::PUNT_REPLIES;
    }
    action
}

/// Whether the packet ends where that side's data does, as far as it was seen.
#[inline(always)]
fn is_last_byte(packet: &Packet, flow: &FlowState) -> bool {
    let mut end = packet.sequence.wrapping_add(packet.payload_length);
    if packet.tcp_flags & TCP_FIN != 0 {
        end = end.wrapping_add(1);
    }
    end == flow.reply_next_seq
}

/// Walks over the packet's new bytes.
#[inline(always)]
fn follow(ctx: &TcContext, scratch: &mut Scratch, flow: &mut FlowState) -> i32 {
    let packet = &scratch.packet;
    let is_asked_for = flow.verdict == Verdict::Inspect as u8 || flow.is_judged_beside();
    if packet.fragment != FRAGMENT_NONE || !is_asked_for {
        return lost_track(flow);
    }
    let behind = flow.walked_to().wrapping_sub(packet.sequence) as i32;
    if behind < 0 && !survives_gap(packet.sequence, flow) {
        return lost_track(flow);
    }
    let at = if behind > 0 { behind as u32 } else { 0 };
    if at >= packet.payload_length {
        return 0;
    }
    scratch.at = at;
    if flow.header_held > 0 && !join_header(ctx, scratch, flow) {
        return 0;
    }
    for _ in 0..STEPS_MAX {
        if !step(ctx, scratch, flow) {
            return 0;
        }
    }
    lost_track(flow)
}

/// Whether it is still known where a frame begins, although bytes before this packet were not seen.
#[inline(always)]
fn survives_gap(sequence: u32, flow: &mut FlowState) -> bool {
    if flow.frames != Frames::Copied as u8 || (flow.frame_end.wrapping_sub(sequence) as i32) < 0 {
        return false;
    }
    lose_piece(flow);
    flow.frames = Frames::Skipped as u8;
    flow.header_held = 0;
    true
}

/// A server that has not said a word of HTTP/2 is no loss.
#[inline(always)]
fn lost_track(flow: &mut FlowState) -> i32 {
    if flow.frames != Frames::First as u8 {
        count(Counter::AnswerLost as u32);
    }
    flow.frames = Frames::None as u8;
    0
}

#[inline(always)]
fn lose_piece(flow: &mut FlowState) {
    flow.pieces = flow.pieces.wrapping_add(1);
    count(Counter::AnswerLost as u32);
}

/// One frame, or the next piece of one; false if the packet has nothing more to follow.
#[inline(never)]
fn step(ctx: &TcContext, scratch: &mut Scratch, flow: &mut FlowState) -> bool {
    let (at, packet) = (scratch.at, &scratch.packet);
    let len = packet.payload_length;
    if at >= len {
        return false;
    }
    let left = flow.frame_end.wrapping_sub(packet.sequence.wrapping_add(at));
    if left > 0 {
        if flow.frames == Frames::Copied as u8 {
            scratch.piece.head.kind = 0;
            copy(ctx, scratch, flow, left);
        } else {
            // A frame is shorter than 2^24 bytes and a packet than 2^20.
            scratch.at = at + left;
        }
        return true;
    }
    if len - at < HEADER_LEN {
        keep_header(ctx, scratch, flow);
        return false;
    }
    let offset = packet.payload_offset + at;
    // SAFETY: nine bytes are there, in this CPU's scratch memory, which nobody else uses.
    let loaded = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            offset,
            (&raw mut scratch.frame_header).cast(),
            HEADER_LEN,
        )
    };
    if loaded != 0 {
        lost_track(flow);
        return false;
    }
    scratch.at = at + HEADER_LEN;
    begin_frame(ctx, scratch, flow)
}

/// A frame whose header stands in the scratch memory and whose payload begins where the walk stands.
#[inline(never)]
fn begin_frame(ctx: &TcContext, scratch: &mut Scratch, flow: &mut FlowState) -> bool {
    let [a, b, c, kind, frame_flags, s0, s1, s2, s3] = scratch.frame_header;
    let frame_len = u32::from_be_bytes([0, a, b, c]);
    let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
    let is_settings = kind == SETTINGS && frame_flags == 0 && stream == 0 && frame_len <= FRAME_LEN_AT_FIRST;
    if flow.frames == Frames::First as u8 && !is_settings {
        lost_track(flow);
        return false;
    }
    let place = scratch.packet.sequence.wrapping_add(scratch.at);
    flow.frame_end = place.wrapping_add(frame_len);
    if kind != HEADERS && kind != CONTINUATION && kind != PUSH_PROMISE {
        flow.frames = Frames::Skipped as u8;
        return true;
    }
    flow.frames = Frames::Copied as u8;
    let head = &mut scratch.piece.head;
    head.kind = kind;
    head.frame_flags = frame_flags;
    head.stream = stream;
    head.frame_len = frame_len;
    copy(ctx, scratch, flow, frame_len);
    true
}

/// Copies the next bytes of the frame, of which so many are left, as a piece: as many as there are and fit.
#[inline(never)]
fn copy(ctx: &TcContext, scratch: &mut Scratch, flow: &mut FlowState, left: u32) -> i32 {
    let Scratch {
        piece,
        packet,
        at,
        other_key,
        ..
    } = scratch;
    let there = packet.payload_length.wrapping_sub(*at);
    let mut len = if left < there { left } else { there };
    if len > PIECE_LEN_MAX as u32 {
        len = PIECE_LEN_MAX as u32;
    }
    let offset = packet.payload_offset + *at;
    *at += len;
    if len == left {
        flow.frames = Frames::Skipped as u8;
    } else {
        flow.copy_from(packet.sequence.wrapping_add(*at));
    }
    // SAFETY: the helper has no preconditions.
    piece.head.time_ns = unsafe { bpf_ktime_get_ns() };
    piece.head.key = *other_key;
    piece.head.base_seq = flow.base_seq;
    piece.head.number = flow.pieces;
    piece.head.len = len as u16;
    piece.head.beside = flow.is_judged_beside() as u8;
    piece.head.pad = 0;
    // The compiler can prove the bound and would drop the mask; the verifier cannot and needs it.
    let len = core::hint::black_box(len) & (2 * PIECE_LEN_MAX as u32 - 1);
    if len > PIECE_LEN_MAX as u32 {
        lose_piece(flow);
        return 0;
    }
    if let Some(len) = some_length(len, PIECE_LEN_MAX as u32) {
        // SAFETY: `len` bytes fit, as just compared; the memory is this CPU's, which nobody else uses.
        let loaded = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut piece.bytes).cast(), len) };
        if loaded != 0 {
            lose_piece(flow);
            return 0;
        }
    }
    // SAFETY: as many bytes of the record.
    let record = unsafe {
        core::slice::from_raw_parts(
            (&raw const *piece).cast::<u8>(),
            size_of::<AnswerPiece>() + len as usize,
        )
    };
    if ANSWER_PIECES.output::<[u8]>(record, QUIETLY).is_err() {
        lose_piece(flow);
        return 0;
    }
    flow.pieces = flow.pieces.wrapping_add(1);
    count(Counter::AnswerCopied as u32);
    0
}

/// Keeps the first bytes of a frame's header, beside those that were kept before, until the others come.
#[inline(never)]
fn keep_header(ctx: &TcContext, scratch: &Scratch, flow: &mut FlowState) -> i32 {
    let (at, packet) = (scratch.at, &scratch.packet);
    let held = flow.header_held as u32;
    for (i, kept) in flow.walk.iter_mut().enumerate() {
        let Some(nth) = (i as u32).checked_sub(held) else {
            continue;
        };
        if at + nth >= packet.payload_length {
            break;
        }
        let Ok(byte) = ctx.load::<u8>((packet.payload_offset + at + nth) as usize) else {
            return lost_track(flow);
        };
        *kept = byte;
    }
    flow.header_held = (held + packet.payload_length.wrapping_sub(at)) as u8;
    0
}

/// The rest of a frame's header, of which some bytes were kept; false if the packet has nothing more to follow.
#[inline(never)]
fn join_header(ctx: &TcContext, scratch: &mut Scratch, flow: &mut FlowState) -> bool {
    let (start, packet) = (scratch.at, &scratch.packet);
    let held = flow.header_held as u32;
    if held >= HEADER_LEN {
        lost_track(flow);
        return false;
    }
    if packet.payload_length - start < HEADER_LEN - held {
        keep_header(ctx, scratch, flow);
        return false;
    }
    let offset = packet.payload_offset;
    for (i, byte) in scratch.frame_header.iter_mut().enumerate() {
        *byte = match (i as u32).checked_sub(held) {
            None => flow.walk[i & 7],
            Some(nth) => {
                let Ok(byte) = ctx.load::<u8>((offset + start + nth) as usize) else {
                    lost_track(flow);
                    return false;
                };
                byte
            }
        };
    }
    scratch.at = start + HEADER_LEN - held;
    flow.header_held = 0;
    begin_frame(ctx, scratch, flow)
}
