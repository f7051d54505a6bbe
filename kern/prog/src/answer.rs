//! A look at what is answered, beside the traffic: the status of a request, and how long it took.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use seventh_abi::{ANSWER_HEAD_LEN, Answer, Counter, FlowFlags, FlowKey, FlowState};

use crate::{
    counters::{QUIETLY, count},
    hook::Scene,
    maps::ANSWERS,
    packet::FRAGMENT_NONE,
};

/// Offset of the first digit of the status in `HTTP/1.1 200`.
const STATUS: usize = 9;

/// Copies the beginning of an answer that nobody has seen yet; a packet sent again or out of turn is none. After an
/// interim answer (1xx, but 101) the next is still expected.
#[inline(always)]
pub fn copy(scene: &Scene<'_>, flow: &mut FlowState) {
    let packet = &scene.scratch.packet;
    if packet.payload_length >= ANSWER_HEAD_LEN as u32
        && packet.fragment == FRAGMENT_NONE
        && packet.sequence == flow.reply_next_seq
    {
        submit(scene, flow, &scene.scratch.other_key);
    }
}

/// `key` is an argument for the reason that `requests::put` gives.
#[inline(never)]
fn submit(scene: &Scene<'_>, flow: &mut FlowState, key: &FlowKey) {
    flow.flags &= !FlowFlags::EXPECT_ANSWER;
    let Some(mut slot) = ANSWERS.reserve::<Answer>(0) else {
        return count(Counter::AnswerLost as u32);
    };
    let answer = slot.as_mut_ptr();
    // SAFETY: `answer` points to reserved memory of this size, which is submitted or given back below and nowhere else
    // used; the fields are written one by one because a whole `Answer` would have to be built on the stack first.
    let loaded = unsafe {
        (*answer).time_ns = scene.now_ns;
        (*answer).latency_ns = scene.now_ns.saturating_sub(flow.request_ns);
        (*answer).key = *key;
        (*answer).beside = flow.is_judged_beside() as u8;
        (*answer).pad = [0; 3];
        bpf_skb_load_bytes(
            scene.ctx.skb.skb.cast(),
            scene.scratch.packet.payload_offset,
            (&raw mut (*answer).head).cast(),
            ANSWER_HEAD_LEN as u32,
        )
    };
    if loaded != 0 {
        slot.discard(QUIETLY);
        return count(Counter::AnswerLost as u32);
    }
    // SAFETY: written just above.
    let [first, second, third] = unsafe {
        [
            (*answer).head[STATUS],
            (*answer).head[STATUS + 1],
            (*answer).head[STATUS + 2],
        ]
    };
    if first == b'1' && (second != b'0' || third != b'1') {
        flow.flags |= FlowFlags::EXPECT_ANSWER;
    }
    slot.submit(QUIETLY);
    count(Counter::AnswerCopied as u32);
}
