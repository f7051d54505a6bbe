//! What the policy in audit would do, and what is copied for whoever judges beside the traffic. The policy in audit is asked
//! of what was decided already; its answer is told and never obeyed.
//!
//! The deciding program only notes what is to be asked ([`ask`]); the rest is a program of its own ([`run`]), so that
//! traffic of endpoints that nobody looks at pays nothing.

use aya_ebpf::programs::TcContext;
use seventh_abi::{
    Direction, DropReason, Endpoint, EndpointFlags, FlowFlags, FlowState, PROTOCOL_TCP, PROTOCOL_UDP, Verdict,
};

use crate::{
    copy,
    counters::{PASS, report_flow, tell},
    hook::{Scene, answers_such, is_icmp},
    inspect,
    maps::{self, FLOWS, Scratch},
    onward,
};

/// Bits of [`Scratch::beside`]. A flow that has just been decided for the first time.
pub const ASK_NEW: u32 = 1;
/// A flow that has just been decided again.
pub const ASK_AGAIN: u32 = 2;
/// A packet without a flow, which is judged by its ICMP type.
pub const ASK_TYPE: u32 = 4;
/// The packet is to be copied, unless it turns out that nobody needs it.
pub const COPY: u32 = 8;
/// The packet is a reply: its flow is that of `other_key`.
pub const REPLY: u32 = 16;
/// The new flow does not begin with the beginning of a connection.
pub const MIDSTREAM: u32 = 32;

/// Notes a question, if the endpoint has anything to ask.
#[inline(always)]
pub fn ask(scene: &mut Scene<'_>, what: u32) {
    if scene.endpoint.flags & EndpointFlags::BESIDE != 0 {
        scene.scratch.beside |= what;
        scene.hand_on();
    }
}

/// Notes that a packet of the opener, on a flow that passes, is to be copied.
#[inline(always)]
pub fn ask_opener(scene: &mut Scene<'_>, flow: &FlowState) {
    if flow.flags & FlowFlags::COPY == 0 {
        return;
    }
    let packet = &scene.scratch.packet;
    let is_over = flow.flags & FlowFlags::COPIED != 0 && packet.protocol != PROTOCOL_UDP;
    if packet.payload_length > 0 && !is_over && !inspect::lies_in_bypass(packet, flow) {
        ask(scene, COPY);
    }
}

/// The same of the other side.
#[inline(always)]
pub fn ask_reply(scene: &mut Scene<'_>, flow: &FlowState) {
    const WANTED: u16 = FlowFlags::COPY_REPLIES | FlowFlags::COPIED;
    let is_wanted = flow.flags & WANTED == FlowFlags::COPY_REPLIES && flow.verdict == Verdict::Forward as u8;
    if is_wanted && scene.scratch.packet.payload_length > 0 {
        ask(scene, COPY | REPLY);
    }
}

/// The program: what was decided is in the scratch memory.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let Some(scratch) = maps::scratch() else {
        return PASS;
    };
    if let Some(mut scene) = Scene::resume(ctx, scratch) {
        look(&mut scene);
    }
    let action = scratch.action;
    onward::follow(ctx, scratch, action)
}

#[inline(always)]
fn look(scene: &mut Scene<'_>) {
    let wanted = scene.scratch.beside;
    if wanted & ASK_TYPE != 0 {
        return ask_type(scene);
    }
    let reply = wanted & REPLY != 0;
    let key = if reply {
        &scene.scratch.other_key
    } else {
        &scene.scratch.key
    };
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: the map gave a pointer to its element; entries are plain data and stay allocated while the program runs.
    let flow = unsafe { &mut *flow };
    if wanted & (ASK_NEW | ASK_AGAIN) != 0 {
        ask_flow(scene, flow, wanted);
    }
    if reply {
        copy::reply(scene, flow);
    } else {
        copy::forward(scene, flow);
    }
}

/// Tells of a flow that would be denied. What would be read is copied, unless it is read indeed.
#[inline(always)]
fn ask_flow(scene: &mut Scene<'_>, flow: &mut FlowState, wanted: u32) {
    let passes = scene.scratch.question.verdict == Verdict::Forward as u8;
    flow.flags &= !(FlowFlags::COPYING | FlowFlags::COPIED);
    if passes {
        flow.flags &= !FlowFlags::BYPASS_VALID;
        flow.flags |= observed(scene.endpoint, scene.scratch.packet.protocol);
    }
    if scene.endpoint.flags & EndpointFlags::AUDIT != 0 {
        ask_audit(scene, flow, wanted & REPLY != 0, passes);
        if scene.scratch.audit.verdict == 0 {
            let (peer_identity, reason) = (scene.scratch.audit.peer_identity, scene.scratch.audit.reason);
            return tell(scene, peer_identity, reason);
        }
        if wanted & MIDSTREAM != 0 && is_perhaps_a_reply(scene) {
            let peer_identity = scene.scratch.audit.peer_identity;
            return tell(scene, peer_identity, DropReason::UnknownConnection as u8);
        }
    }
    if wanted & ASK_NEW != 0 && passes {
        report_flow(scene, flow.peer_identity, Verdict::Forward);
    }
}

/// What is copied of a flow that is to be shown. What TCP brings back is long, and what it says is in its beginning.
#[inline(always)]
fn observed(endpoint: &Endpoint, protocol: u8) -> u16 {
    if endpoint.flags & EndpointFlags::OBSERVE == 0 {
        0
    } else if protocol == PROTOCOL_TCP {
        FlowFlags::COPY
    } else {
        FlowFlags::COPY | FlowFlags::COPY_REPLIES
    }
}

/// The answer is in `scratch.audit`.
#[inline(always)]
fn ask_audit(scene: &mut Scene<'_>, flow: &mut FlowState, reply: bool, passes: bool) {
    let Scratch {
        key, other_key, audit, ..
    } = &mut *scene.scratch;
    let key = if reply { other_key } else { key };
    audit.decide_audit(scene.endpoint, key);
    if !passes {
        return;
    }
    if audit.verdict == Verdict::Inspect as u8 {
        flow.flags |= FlowFlags::COPY | FlowFlags::AUDIT_INSPECT;
        if audit.flow_flags & FlowFlags::PUNT_REPLIES != 0 {
            flow.flags |= FlowFlags::COPY_REPLIES;
        }
    }
    let by_name = scene.endpoint.flags & EndpointFlags::AUDIT_NAMES != 0;
    if audit.verdict == 0 && by_name && key.direction == Direction::Egress as u8 {
        flow.flags |= FlowFlags::COPY;
    }
}

/// As `is_perhaps_a_reply` of `hook`, under the policy in audit, whose answer is in `scratch.audit`.
#[inline(always)]
fn is_perhaps_a_reply(scene: &mut Scene<'_>) -> bool {
    let Scratch {
        packet,
        other_key,
        audit,
        ..
    } = &mut *scene.scratch;
    if audit.verdict != Verdict::Forward as u8 || is_icmp(packet) {
        return false;
    }
    audit.decide_audit(scene.endpoint, other_key);
    answers_such(packet, audit)
}

#[inline(always)]
fn ask_type(scene: &mut Scene<'_>) {
    if scene.endpoint.flags & EndpointFlags::AUDIT == 0 {
        return;
    }
    let Scratch { packet, audit, .. } = &mut *scene.scratch;
    let (_, peer) = scene.hook.local_and_peer(&packet.source, &packet.destination);
    let direction = scene.hook.opener_direction() as u8;
    audit.audit_port(scene.endpoint, peer, direction, packet.protocol, packet.source_port);
    if audit.verdict == Verdict::Forward as u8 {
        return;
    }
    let reason = if audit.verdict == 0 {
        audit.reason
    } else {
        DropReason::PolicyDenied as u8
    };
    let peer_identity = audit.peer_identity;
    tell(scene, peer_identity, reason);
}
