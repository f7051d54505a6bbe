//! Every exit of a program increments exactly one counter; drops and first decisions also make an event.

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns, programs::TcContext};
use seventh_abi::{Counter, DropReason, EndpointFlags, Event, EventKind, Hook, Verdict, drop_counter};

use crate::{
    hook::Scene,
    maps::{COUNTERS, EVENTS},
    packet::{Packet, read},
};

/// The packet goes on to whoever else is attached, then to the stack.
pub const PASS: i32 = -1;
/// The packet ends here.
pub const SHOT: i32 = 2;
/// How records are submitted: whoever reads the rings looks by itself, so nobody has to be woken on a packet's way.
pub const QUIETLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// Adds one to a counter.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the map gave a pointer to this CPU's element, alive while the program runs.
        unsafe { *value += 1 };
    }
}

/// Counts a path and lets the packet pass.
#[inline(always)]
pub fn pass(counter: Counter) -> i32 {
    count(counter as u32);
    PASS
}

/// Counts a drop that concerns no readable packet.
#[inline(always)]
pub fn shot(reason: DropReason) -> i32 {
    count(drop_counter(reason));
    SHOT
}

/// Counts and reports a drop.
#[inline(always)]
pub fn drop_packet(scene: &Scene<'_>, peer_identity: u32, reason: u8) -> i32 {
    count(reason as u32);
    emit(
        scene.ctx,
        &scene.scratch.packet,
        scene.hook,
        peer_identity,
        u32::from_be_bytes([scene.direction, EventKind::Drop as u8, reason, 0]),
    );
    SHOT
}

/// Drops, unless nothing is enforced at the endpoint: then it passes, and is told of if the endpoint is in audit.
#[inline(always)]
pub fn drop_if_enforced(scene: &Scene<'_>, peer_identity: u32, reason: DropReason) -> i32 {
    if scene.endpoint.flags & EndpointFlags::ENFORCE != 0 {
        return drop_packet(scene, peer_identity, reason as u8);
    }
    if scene.endpoint.flags & EndpointFlags::AUDIT != 0 {
        tell(scene, peer_identity, reason as u8);
    }
    pass(Counter::Forwarded)
}

/// Tells of a packet that passes and would be dropped if what is in audit were enforced.
#[inline(always)]
pub fn tell(scene: &Scene<'_>, peer_identity: u32, reason: u8) {
    count(Counter::Audited as u32);
    let tag = u32::from_be_bytes([scene.direction, EventKind::Audited as u8, reason, 0]);
    emit(scene.ctx, &scene.scratch.packet, scene.hook, peer_identity, tag);
}

/// Reports the first decision of a flow.
#[inline(always)]
pub fn report_flow(scene: &Scene<'_>, peer_identity: u32, verdict: Verdict) {
    let tag = u32::from_be_bytes([scene.direction, EventKind::FlowDecided as u8, 0, verdict as u8]);
    emit(scene.ctx, &scene.scratch.packet, scene.hook, peer_identity, tag);
}

/// `tag` holds direction, kind, reason and verdict: a function of BPF takes five arguments.
#[inline(never)]
fn emit(ctx: &TcContext, packet: &Packet, hook: Hook, peer_identity: u32, tag: u32) {
    let Some(mut slot) = EVENTS.reserve::<Event>(0) else {
        return count(Counter::EventLost as u32);
    };
    let event = slot.as_mut_ptr();
    let [direction, kind, reason, verdict] = tag.to_be_bytes();
    let [a, b, c, d, e, f, g, h, i, j, k, l] = read::<[u8; 12]>(ctx, 0).unwrap_or_default();
    // SAFETY: `event` points to reserved memory of this size, which is submitted below and nowhere else used; the
    // fields are written one by one because a whole `Event` would have to be built on the stack first.
    unsafe {
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).source = packet.source;
        (*event).destination = packet.destination;
        (*event).ifindex = (*ctx.skb.skb).ifindex;
        (*event).peer_identity = peer_identity;
        (*event).length = (*ctx.skb.skb).len;
        (*event).source_port = packet.source_port;
        (*event).destination_port = packet.destination_port;
        (*event).protocol = packet.protocol;
        (*event).tcp_flags = packet.tcp_flags;
        (*event).kind = kind;
        (*event).reason = reason;
        (*event).verdict = verdict;
        (*event).hook = hook as u8;
        (*event).ip_version = packet.ip_version;
        (*event).direction = direction;
        (*event).mac_destination = [a, b, c, d, e, f];
        (*event).mac_source = [g, h, i, j, k, l];
        (*event).pad = [0; 4];
    }
    slot.submit(QUIETLY);
}
