//! ICMP and ICMPv6: echo has flows, errors belong to the flow they speak of, the rest is judged by its type.

use seventh_abi::{Addr, Counter, Direction, DropReason, Hook, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Verdict, mapped_v4};

use crate::{
    beside,
    counters::{drop_packet, pass},
    hook::{Scene, classify_flow, drop_denied, fill_key, is_link_local, live_flow, may_speak, owns_or_is_nobodys},
    maps::Scratch,
    packet::{FRAGMENT_NONE, Packet, read},
};

/// Echo request and reply, and the errors, by version (RFC 792, RFC 4443).
const V4_ECHO_REPLY: u16 = 0;
const V4_UNREACHABLE: u16 = 3;
const V4_ECHO_REQUEST: u16 = 8;
const V4_TIME_EXCEEDED: u16 = 11;
const V4_PARAMETER_PROBLEM: u16 = 12;
const V6_ERROR_LAST: u16 = 4;
const V6_ECHO_REQUEST: u16 = 128;
const V6_ECHO_REPLY: u16 = 129;
const V6_LISTENER_QUERY: u16 = 130;
const V6_LISTENER_REPORT: u16 = 131;
const V6_LISTENER_DONE: u16 = 132;
const V6_ROUTER_SOLICITATION: u16 = 133;
const V6_ROUTER_ADVERTISEMENT: u16 = 134;
const V6_NEIGHBOUR_ADVERTISEMENT: u16 = 136;
const V6_LISTENER_REPORT_V2: u16 = 143;

/// Decides an ICMP packet that is not a later fragment.
#[inline(always)]
pub fn classify(scene: &mut Scene<'_>) -> i32 {
    let kind = scene.scratch.packet.source_port;
    let v4 = scene.scratch.packet.protocol == PROTOCOL_ICMP;
    if !v4 && keeps_the_link_alive(scene) {
        return pass(Counter::Unmanaged);
    }
    if (v4 && kind == V4_ECHO_REQUEST) || (!v4 && kind == V6_ECHO_REQUEST) {
        set_echo_key(scene, scene.hook.opener_direction());
        return classify_flow(scene);
    }
    if (v4 && kind == V4_ECHO_REPLY) || (!v4 && kind == V6_ECHO_REPLY) {
        set_echo_key(scene, scene.hook.other().opener_direction());
        return echo_reply(scene);
    }
    let is_error = if v4 {
        matches!(kind, V4_UNREACHABLE | V4_TIME_EXCEEDED | V4_PARAMETER_PROBLEM)
    } else {
        (1..=V6_ERROR_LAST).contains(&kind)
    };
    if is_error && speaks_of_allowed_flow(scene) {
        return pass(Counter::ForwardedReply);
    }
    by_type(scene)
}

/// Neighbour discovery (RFC 4861) and multicast listener messages (RFC 2710, RFC 3810), without which IPv6 does not work at
/// all, in the form that no router forwards: what passes beside the policy must not reach further than the link. Redirect
/// (137) is left to the policy, as is what only a router says, if an endpoint says it.
#[inline(never)]
fn keeps_the_link_alive(scene: &mut Scene<'_>) -> bool {
    let packet = &scene.scratch.packet;
    // ICMPv6 inside IPv4 is nobody's control message, and fragments of one are ignored (RFC 6980).
    if packet.ip_version != 6 || packet.fragment != FRAGMENT_NONE {
        return false;
    }
    let leaves = matches!(scene.hook, Hook::FromEndpoint);
    match packet.source_port {
        V6_ROUTER_ADVERTISEMENT | V6_LISTENER_QUERY if leaves => false,
        V6_LISTENER_QUERY => {
            packet.hop_limit == 1 && is_link_local(&packet.source) && is_multicast(&packet.destination)
        }
        V6_LISTENER_REPORT | V6_LISTENER_DONE | V6_LISTENER_REPORT_V2 => {
            let from_here = is_link_local(&packet.source) || packet.source == [0; 16];
            packet.hop_limit == 1 && from_here && is_multicast(&packet.destination)
        }
        V6_ROUTER_SOLICITATION..=V6_NEIGHBOUR_ADVERTISEMENT => {
            packet.hop_limit == 255 && stays_on_link(packet) && (!leaves || owns_or_is_nobodys(scene))
        }
        _ => false,
    }
}

/// A receiver takes neighbour discovery only with hop limit 255, but a router forwards what goes to a stranger: the
/// destination is multicast, link-local, or of the sender's network, where gateways are probed by their own addresses.
#[inline(always)]
fn stays_on_link(packet: &Packet) -> bool {
    let network = |addr: &Addr| [addr[0], addr[1], addr[2], addr[3], addr[4], addr[5], addr[6], addr[7]];
    is_multicast(&packet.destination)
        || is_link_local(&packet.destination)
        || network(&packet.source) == network(&packet.destination)
}

#[inline(always)]
fn is_multicast(addr: &Addr) -> bool {
    addr[0] == 0xff
}

#[inline(always)]
fn set_echo_key(scene: &mut Scene<'_>, direction: Direction) {
    let sent_here = matches!(scene.hook, Hook::FromEndpoint);
    let Scratch { packet, key, .. } = &mut *scene.scratch;
    fill_key(key, packet, sent_here, direction, scene.ifindex);
    key.local_port = packet.echo_id;
    key.peer_port = 0;
}

#[inline(always)]
fn echo_reply(scene: &mut Scene<'_>) -> i32 {
    match live_flow(scene.config, &scene.scratch.key, scene.now_ns) {
        Some(flow) if flow.epoch == scene.endpoint.epoch => {
            flow.last_seen_ns = scene.now_ns;
            pass(Counter::ForwardedReply)
        }
        _ => by_type(scene),
    }
}

/// No flow: the policy decides each packet by its type.
#[inline(always)]
fn by_type(scene: &mut Scene<'_>) -> i32 {
    if !may_speak(scene) {
        return drop_packet(scene, 0, DropReason::InvalidSourceIp as u8);
    }
    let direction = scene.hook.opener_direction() as u8;
    let Scratch { packet, question, .. } = &mut *scene.scratch;
    let (_, peer) = scene.hook.local_and_peer(&packet.source, &packet.destination);
    question.decide_port(scene.endpoint, peer, direction, packet.protocol, packet.source_port);
    if question.verdict == Verdict::Forward as u8 {
        beside::ask(scene, beside::ASK_TYPE);
        return pass(Counter::Forwarded);
    }
    if question.verdict != 0 {
        question.reason = DropReason::PolicyDenied as u8;
    }
    drop_denied(scene)
}

/// An error quotes the packet it is about. It passes if that packet belongs to a flow that is allowed, whoever opened
/// it, and if it names the endpoint where the error itself does.
#[inline(always)]
fn speaks_of_allowed_flow(scene: &mut Scene<'_>) -> bool {
    if set_quoted_key(scene).is_none() {
        return false;
    }
    let Scratch { packet, other_key, .. } = &mut *scene.scratch;
    let (own_address, _) = scene.hook.local_and_peer(&packet.source, &packet.destination);
    if other_key.local_addr != *own_address {
        return false;
    }
    other_key.direction = Direction::Egress as u8;
    if flow_is_allowed(scene) {
        return true;
    }
    scene.scratch.other_key.direction = Direction::Ingress as u8;
    flow_is_allowed(scene)
}

#[inline(always)]
fn flow_is_allowed(scene: &Scene<'_>) -> bool {
    match live_flow(scene.config, &scene.scratch.other_key, scene.now_ns) {
        Some(flow) => flow.verdict != Verdict::Closed as u8 && flow.epoch == scene.endpoint.epoch,
        None => false,
    }
}

/// Key of the quoted packet's flow, but for its direction, into `scratch.other_key`. A function of its own for its stack:
/// Linux 6.1 rounds each frame up to 32 bytes, and those of the longest chain of calls together must stay within 512.
#[inline(never)]
fn set_quoted_key(scene: &mut Scene<'_>) -> Option<()> {
    // Six extension headers of at most 2 KiB lie before it; the verifier wants to see a bound.
    let offset = (scene.scratch.packet.l4_offset & 0x3fff) as usize + 8;
    let (source, destination, protocol, l4_offset) = if scene.scratch.packet.protocol == PROTOCOL_ICMP {
        quoted_ipv4(scene, offset)?
    } else {
        quoted_ipv6(scene, offset)?
    };
    let ports: [u8; 8] = read(scene.ctx, l4_offset)?;
    let is_echo = protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6;
    let (source_port, destination_port) = if is_echo {
        let id = u16::from_be_bytes([ports[4], ports[5]]);
        (id, id)
    } else {
        (
            u16::from_be_bytes([ports[0], ports[1]]),
            u16::from_be_bytes([ports[2], ports[3]]),
        )
    };
    let key = &mut scene.scratch.other_key;
    // An error that goes to the endpoint quotes what the endpoint sent, and the other way round.
    let (local, peer) = scene
        .hook
        .other()
        .local_and_peer((&source, source_port), (&destination, destination_port));
    key.local_addr = *local.0;
    key.peer_addr = *peer.0;
    key.local_port = local.1;
    key.peer_port = peer.1;
    if is_echo {
        key.peer_port = 0;
    }
    key.ifindex = scene.ifindex;
    key.protocol = protocol;
    key.pad = [0; 2];
    Some(())
}

#[inline(always)]
fn quoted_ipv4(scene: &Scene<'_>, offset: usize) -> Option<(Addr, Addr, u8, usize)> {
    let header: [u8; 20] = read(scene.ctx, offset)?;
    let header_length = ((header[0] & 0xf) as usize) << 2;
    if header[0] >> 4 != 4 || header_length < 20 {
        return None;
    }
    let source = mapped_v4([header[12], header[13], header[14], header[15]]);
    let destination = mapped_v4([header[16], header[17], header[18], header[19]]);
    Some((source, destination, header[9], offset + header_length))
}

/// Only a packet without extension headers is followed.
#[inline(always)]
fn quoted_ipv6(scene: &Scene<'_>, offset: usize) -> Option<(Addr, Addr, u8, usize)> {
    let head: [u8; 8] = read(scene.ctx, offset)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let source: Addr = read(scene.ctx, offset + 8)?;
    let destination: Addr = read(scene.ctx, offset + 24)?;
    Some((source, destination, head[6], offset + 40))
}
