//! What becomes of a packet after its decision: programs of their own, together with which the deciding one would be more
//! than a verifier walks through. None of them changes what was decided.

use aya_ebpf::programs::TcContext;

use crate::{
    answer_frames::IF_IT_PASSES,
    counters::{PASS, SHOT},
    maps::{self, Scratch, TAILS},
};

/// Places in [`TAILS`]. [`crate::answer_frames`].
const ANSWERS: u32 = 0;
/// [`crate::beside`].
const BESIDE: u32 = 1;
/// [`crate::requests`]: the deciding program goes on there before all others, with a packet that is not decided.
pub const REQUESTS: u32 = 2;

/// Goes on to those that were asked for; says what was decided if there are none.
#[inline(always)]
pub fn go_on(ctx: &TcContext, action: i32) -> i32 {
    let Some(scratch) = maps::scratch() else {
        return action;
    };
    if action != SHOT && scratch.beside != 0 {
        scratch.action = action;
        // SAFETY: the helper only comes back if there is no such program; then what was decided holds all the same.
        unsafe { TAILS.tail_call(ctx, BESIDE) };
    }
    follow(ctx, scratch, action)
}

/// Goes on with what the engine gave back.
#[inline(always)]
pub fn go_on_from_engine(ctx: &TcContext, action: i32) -> i32 {
    match maps::scratch() {
        Some(scratch) => follow(ctx, scratch, action),
        None => action,
    }
}

/// The last part of the way.
#[inline(always)]
pub fn follow(ctx: &TcContext, scratch: &mut Scratch, action: i32) -> i32 {
    scratch.beside = 0;
    if scratch.follows != 0 && (scratch.follows != IF_IT_PASSES || action == PASS) {
        scratch.action = action;
        // SAFETY: as in `go_on`.
        unsafe { TAILS.tail_call(ctx, ANSWERS) };
    }
    // Of this packet only.
    scratch.follows = 0;
    action
}
