//! The function that decides a packet at an endpoint's device, and the flow table behind it.
//!
//! Tiers, cheapest first; the first that applies is the answer:
//! 1. back from the engine (mark) or nothing enforced here: pass;
//! 2. not IP, fragment, ICMP: rules of their own;
//! 3. a flow that this side opened, decided under the endpoint's present epoch: obey;
//! 4. a flow that the other side opened: this is a reply, pass;
//! 5. a new flow, or one decided under an older epoch: ask the policy, remember.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use seventh_abi::{
    Addr, ConnectionNumber, Counter, DatapathConfig, Direction, DropReason, Endpoint, EndpointFlags, FlowFlags,
    FlowKey, FlowState, FragmentKey, Hook, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Verdict,
};

use crate::{
    answer, answer_frames, beside,
    checksum::{FilledIn, filled_in},
    counters::{PASS, count, drop_if_enforced, drop_packet, pass, report_flow, shot, tell},
    icmp, inspect,
    maps::{self, CONFIG, ENDPOINTS, FLOWS, FRAGMENTS, Scratch},
    packet::{FRAGMENT_FIRST, FRAGMENT_LATER, Frame, Packet, TCP_ACK, TCP_SYN, parse},
    policy::Question,
};

/// Everything a decision reads, gathered once.
pub struct Scene<'a> {
    /// The frame, as the kernel has it.
    pub ctx: &'a TcContext,
    /// The agent's.
    pub config: &'a DatapathConfig,
    /// At whose device it is.
    pub endpoint: &'a Endpoint,
    /// What was read of it, and room to work.
    pub scratch: &'a mut Scratch,
    /// At which side of the device.
    pub hook: Hook,
    /// Of the flow that the packet belongs to: that of its sender, until it turns out to be a reply.
    pub direction: u8,
    /// Index of the device.
    pub ifindex: u32,
    /// `bpf_ktime_get_ns`, once for all.
    pub now_ns: u64,
}

impl<'a> Scene<'a> {
    /// Leaves in the scratch memory what is known of the packet, for a program that goes on with it.
    #[inline(always)]
    pub fn hand_on(&mut self) {
        self.scratch.hook = self.hook as u8;
        self.scratch.direction = self.direction;
    }

    /// The scene that another program handed on. None without a configuration, or if the endpoint is gone.
    #[inline(always)]
    pub fn resume(ctx: &'a TcContext, scratch: &'a mut Scratch) -> Option<Self> {
        // SAFETY: reads a field of the context that the kernel passed in.
        let ifindex = unsafe { (*ctx.skb.skb).ifindex };
        Some(Self {
            ctx,
            config: CONFIG.get(0)?,
            // SAFETY: the element is plain data; the agent replaces it as a whole.
            endpoint: unsafe { ENDPOINTS.get(&ifindex) }?,
            hook: if scratch.hook == Hook::FromEndpoint as u8 {
                Hook::FromEndpoint
            } else {
                Hook::ToEndpoint
            },
            direction: scratch.direction,
            scratch,
            ifindex,
            // SAFETY: the helper has no preconditions.
            now_ns: unsafe { bpf_ktime_get_ns() },
        })
    }
}

/// Decides one packet. Returns a TC action.
#[inline(always)]
pub fn classify(ctx: &TcContext, hook: Hook) -> i32 {
    let Some(config) = CONFIG.get(0) else {
        return shot(DropReason::NoConfiguration);
    };
    if take_mark(ctx, config.mark) {
        return pass(Counter::Reinjected);
    }
    // SAFETY: reads a field of the context that the kernel passed in.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the element is plain data; the agent replaces it as a whole.
    let Some(endpoint) = (unsafe { ENDPOINTS.get(&ifindex) }) else {
        return shot(DropReason::NoConfiguration);
    };
    if endpoint.flags == 0 && matches!(hook, Hook::ToEndpoint) {
        return pass(Counter::Unmanaged);
    }
    let Some(scratch) = maps::scratch() else {
        return shot(DropReason::NoConfiguration);
    };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let mut scene = Scene {
        ctx,
        config,
        endpoint,
        scratch,
        hook,
        direction: hook.opener_direction() as u8,
        ifindex,
        now_ns,
    };
    let frame = parse(ctx, &mut scene.scratch.packet);
    if changes_afterwards(&scene, &frame) {
        return drop_packet(&scene, 0, DropReason::ChecksumElsewhere as u8);
    }
    if endpoint.flags == 0 {
        return unmanaged(&mut scene);
    }
    match frame {
        Frame::Ip => classify_ip(&mut scene),
        Frame::Arp => pass(Counter::Unmanaged),
        Frame::Drop(reason) => drop_if_enforced(&scene, 0, reason),
    }
}

/// The endpoint has something judged that would leave as something else, of which nobody need know more than that.
#[inline(always)]
fn changes_afterwards(scene: &Scene<'_>, frame: &Frame) -> bool {
    let is_dropped = matches!(frame, Frame::Drop(_)) && scene.endpoint.flags & EndpointFlags::ENFORCE != 0;
    matches!(scene.hook, Hook::FromEndpoint)
        && !is_dropped
        && filled_in(scene.ctx, &scene.scratch.packet) == FilledIn::Elsewhere
}

/// No policy speaks of what this endpoint sends. But policies of others go by its address, so it must be its own.
/// Link-local and unspecified addresses are nobody's identity.
#[inline(always)]
fn unmanaged(scene: &mut Scene<'_>) -> i32 {
    if scene.scratch.packet.ip_version == 0 || owns_or_is_nobodys(scene) {
        return pass(Counter::Unmanaged);
    }
    drop_packet(scene, 0, DropReason::InvalidSourceIp as u8)
}

/// The source is the endpoint's own address, or one that says nothing of who it is.
#[inline(always)]
pub fn owns_or_is_nobodys(scene: &mut Scene<'_>) -> bool {
    is_nobodys(&scene.scratch.packet) || owns_source(scene)
}

/// An IPv6 address of `fe80::/10`.
#[inline(always)]
pub fn is_link_local(addr: &Addr) -> bool {
    addr[0] == 0xfe && addr[1] & 0xc0 == 0x80
}

/// The source is link-local or unspecified.
#[inline(always)]
fn is_nobodys(packet: &Packet) -> bool {
    let link_local = packet.ip_version == 6 && is_link_local(&packet.source);
    let source = u128::from_be_bytes(packet.source);
    link_local || source == 0 || (packet.ip_version == 4 && source == 0xffff_0000_0000)
}

/// True for a frame that the engine gave back; its mark is taken off again.
#[inline(always)]
fn take_mark(ctx: &TcContext, bits: u32) -> bool {
    // SAFETY: reads a field of the context that the kernel passed in.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if bits == 0 || mark & bits != bits {
        return false;
    }
    ctx.set_mark(mark & !bits);
    true
}

#[inline(always)]
fn classify_ip(scene: &mut Scene<'_>) -> i32 {
    let fragment = scene.scratch.packet.fragment;
    if fragment == FRAGMENT_LATER {
        return later_fragment(scene);
    }
    let action = match scene.scratch.packet.protocol {
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => icmp::classify(scene),
        _ => {
            set_flow_key(scene);
            classify_flow(scene)
        }
    };
    if fragment == FRAGMENT_FIRST && action == PASS {
        remember_fragment(scene);
    }
    action
}

/// Key of the flow as if this packet's sender had opened it.
#[inline(always)]
fn set_flow_key(scene: &mut Scene<'_>) {
    let sent_here = matches!(scene.hook, Hook::FromEndpoint);
    let Scratch { packet, key, .. } = &mut *scene.scratch;
    fill_key(key, packet, sent_here, scene.hook.opener_direction(), scene.ifindex);
}

/// Key of a flow of this direction at an endpoint, which sent the packet (`sent_here`) or gets it. Field by field and not by
/// [`FlowKey::of_opener`]: a key by value lies on the stack first, and where the hook is not a constant (`tc_from_punt`) a
/// verifier would walk twice through what comes next.
#[inline(always)]
pub fn fill_key(key: &mut FlowKey, packet: &Packet, sent_here: bool, direction: Direction, ifindex: u32) {
    if sent_here {
        key.local_addr = packet.source;
        key.peer_addr = packet.destination;
        key.local_port = packet.source_port;
        key.peer_port = packet.destination_port;
    } else {
        key.local_addr = packet.destination;
        key.peer_addr = packet.source;
        key.local_port = packet.destination_port;
        key.peer_port = packet.source_port;
    }
    key.direction = direction as u8;
    key.ifindex = ifindex;
    key.protocol = packet.protocol;
    key.pad = [0; 2];
}

/// The direction of flows that the other side of `direction` opened.
#[inline(always)]
fn opposite(direction: u8) -> u8 {
    if direction == Direction::Egress as u8 {
        Direction::Ingress as u8
    } else {
        Direction::Egress as u8
    }
}

/// Tiers 3 to 5 for anything that has flows (TCP, UDP, other transports, ICMP echo), by `scratch.key`.
#[inline(always)]
pub fn classify_flow(scene: &mut Scene<'_>) -> i32 {
    if let Some(flow) = live_flow(scene.config, &scene.scratch.key, scene.now_ns) {
        return forward_packet(scene, flow);
    }
    let packet = &scene.scratch.packet;
    let opens = packet.protocol == PROTOCOL_TCP && packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    if !opens {
        scene.scratch.other_key = scene.scratch.key;
        scene.scratch.other_key.direction = opposite(scene.scratch.key.direction);
        if let Some(flow) = live_flow(scene.config, &scene.scratch.other_key, scene.now_ns) {
            return reply_packet(scene, flow);
        }
    }
    new_flow(scene, opens)
}

/// The entry of this key, unless it has been idle for too long.
#[inline(always)]
pub fn live_flow(config: &DatapathConfig, key: &FlowKey, now_ns: u64) -> Option<&'static mut FlowState> {
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the map gave a pointer to its element; entries are plain data and stay allocated while the program runs.
    let flow = unsafe { &mut *flow };
    if config.idle.is_live(key.protocol, flow, now_ns) {
        Some(flow)
    } else {
        None
    }
}

/// Tier 3: a packet of the side that opened the flow.
#[inline(always)]
fn forward_packet(scene: &mut Scene<'_>, flow: &mut FlowState) -> i32 {
    let packet = &scene.scratch.packet;
    let mut opens = false;
    if packet.protocol == PROTOCOL_TCP {
        if packet.tcp_flags & TCP_SYN != 0 {
            opens = packet.tcp_flags & TCP_ACK == 0;
            if inspect::reuses_numbers(packet, flow) {
                if scene.endpoint.flags & EndpointFlags::ENFORCE != 0 || flow.verdict != Verdict::Forward as u8 {
                    return drop_packet(scene, flow.peer_identity, DropReason::SequenceReused as u8);
                }
                if flow.flags & FlowFlags::AUDIT_INSPECT != 0 {
                    tell(scene, flow.peer_identity, DropReason::SequenceReused as u8);
                }
            }
            let pending_base_seq = packet.sequence.wrapping_add(1);
            if flow.pending_base_seq != pending_base_seq {
                flow.flags &= !FlowFlags::PASSED_UNREAD;
            }
            flow.pending_base_seq = pending_base_seq;
        }
        inspect::track_end(packet, inspect::opener_ends(flow), FlowFlags::OPENER_FIN, flow);
    }
    flow.last_seen_ns = scene.now_ns;
    // A connection that begins under the ports of an earlier one has no right to a name that was open then.
    let opens_by_name = opens && flow.by_name != 0;
    if opens_by_name || flow.epoch != scene.endpoint.epoch {
        let by_name = if opens { 0 } else { flow.by_name };
        scene
            .scratch
            .question
            .decide_again(scene.endpoint, &scene.scratch.key, by_name);
        if !decided_again(scene, flow) {
            return drop_denied(scene);
        }
        beside::ask(scene, beside::ASK_AGAIN);
    }
    if flow.verdict == Verdict::Forward as u8 {
        beside::ask_opener(scene, flow);
        if flow.flags & FlowFlags::READ_LONG_HEADERS != 0 {
            return inspect::settled_quic(scene, flow);
        }
        return pass(Counter::Forwarded);
    }
    inspect::forward(scene, flow)
}

/// Tier 4: a packet of the side that was opened to.
#[inline(always)]
fn reply_packet(scene: &mut Scene<'_>, flow: &mut FlowState) -> i32 {
    scene.direction = scene.scratch.other_key.direction;
    flow.last_seen_ns = scene.now_ns;
    if flow.epoch != scene.endpoint.epoch {
        scene
            .scratch
            .question
            .decide_again(scene.endpoint, &scene.scratch.other_key, flow.by_name);
        if !decided_again(scene, flow) {
            return drop_denied(scene);
        }
        beside::ask(scene, beside::ASK_AGAIN | beside::REPLY);
    }
    beside::ask_reply(scene, flow);
    if scene.scratch.packet.protocol == PROTOCOL_TCP {
        if flow.flags & FlowFlags::EXPECT_ANSWER != 0 {
            answer::copy(scene, flow);
        }
        answer_frames::ask(scene.scratch, flow);
        if let Some(reason) = inspect::track_reply(&scene.scratch.packet, flow, scene.now_ns) {
            return drop_packet(scene, flow.peer_identity, reason as u8);
        }
        if flow.verdict == Verdict::Closed as u8 {
            return drop_packet(scene, flow.peer_identity, DropReason::DeniedConnection as u8);
        }
    }
    flow.raise(FlowFlags::REPLIED);
    if flow.flags & FlowFlags::PUNT_REPLIES != 0 && flow.verdict == Verdict::Inspect as u8 {
        return inspect::reply(scene, flow);
    }
    pass(Counter::ForwardedReply)
}

/// The policy has changed since the flow was decided, and `scratch.question` holds what it says now. False if denied.
#[inline(always)]
fn decided_again(scene: &Scene<'_>, flow: &mut FlowState) -> bool {
    let answer = &scene.scratch.question;
    if answer.verdict == 0 {
        return false;
    }
    count(Counter::FlowRedecided as u32);
    flow.peer_identity = answer.peer_identity;
    flow.rule_set = answer.rule_set;
    flow.flags = flow.flags & !(FlowFlags::READ_LONG_HEADERS | FlowFlags::COPYING) | answer.flow_flags;
    flow.by_name |= answer.by_name;
    if flow.verdict != answer.verdict {
        // What has passed, or will, without being read, is no stream with a known beginning. What lies in the other
        // side's buffers out of order is not known either.
        flow.flags &= !(FlowFlags::BASE_VALID | FlowFlags::BYPASS_VALID | FlowFlags::BOUNDARY_VALID);
    }
    // A connection that the engine closed stays closed: the other side has been reset.
    if flow.verdict != Verdict::Closed as u8 {
        flow.verdict = answer.verdict;
    }
    flow.epoch = scene.endpoint.epoch;
    true
}

/// Drops for what `scratch.question` answered.
#[inline(always)]
pub fn drop_denied(scene: &Scene<'_>) -> i32 {
    let answer = &scene.scratch.question;
    drop_packet(scene, answer.peer_identity, answer.reason)
}

/// Tier 5: nobody knows this flow. `opens` is set for a packet that begins a connection.
#[inline(always)]
fn new_flow(scene: &mut Scene<'_>, opens: bool) -> i32 {
    if !may_speak(scene) {
        return drop_packet(scene, 0, DropReason::InvalidSourceIp as u8);
    }
    if !opens && scene.endpoint.flags & EndpointFlags::TAKES_OVER != 0 && scene.scratch.packet.protocol == PROTOCOL_TCP
    {
        return drop_packet(scene, 0, DropReason::BeingTakenOver as u8);
    }
    scene.scratch.question.decide(scene.endpoint, &scene.scratch.key);
    if scene.scratch.question.verdict == 0 {
        return drop_denied(scene);
    }
    if !opens && scene.scratch.question.verdict == Verdict::Forward as u8 && is_perhaps_a_reply(scene) {
        return drop_packet(
            scene,
            scene.scratch.question.peer_identity,
            DropReason::UnknownConnection as u8,
        );
    }
    fill_new_flow(scene);
    let peer_identity = scene.scratch.question.peer_identity;
    if FLOWS.insert(&scene.scratch.key, &scene.scratch.new_flow, 0).is_err() {
        return drop_if_enforced(scene, peer_identity, DropReason::FlowTableFull);
    }
    count(Counter::FlowCreated as u32);
    let asks = if opens {
        beside::ASK_NEW
    } else {
        beside::ASK_NEW | beside::MIDSTREAM
    };
    beside::ask(scene, asks);
    if scene.scratch.question.verdict == Verdict::Forward as u8 {
        // Who asks also tells, or what would be denied would be told of twice.
        if scene.scratch.beside == 0 {
            report_flow(scene, peer_identity, Verdict::Forward);
        }
        return pass(Counter::Forwarded);
    }
    report_flow(scene, peer_identity, Verdict::Inspect);
    match FLOWS.get_ptr_mut(&scene.scratch.key) {
        // SAFETY: as in `live_flow`.
        Some(flow) => inspect::forward(scene, unsafe { &mut *flow }),
        None => drop_packet(scene, peer_identity, DropReason::FlowTableFull as u8),
    }
}

/// First port that systems give to clients by themselves.
const EPHEMERAL_FIRST: u16 = 32_768;

/// This packet may pass if its sender opened the conversation, but perhaps it answers one that the other side opened and
/// whose entry is gone: it must not open the way for that one, which may be denied, or inspected. An inspected one is
/// always refused; a denied one only where the ports do not tell who is the client. Leaves `scratch.question` as it was.
#[inline(always)]
fn is_perhaps_a_reply(scene: &mut Scene<'_>) -> bool {
    let Scratch {
        packet,
        other_key,
        question,
        ..
    } = &mut *scene.scratch;
    if is_icmp(packet) {
        return false;
    }
    let (peer_identity, by_name) = (question.peer_identity, question.by_name);
    question.decide(scene.endpoint, other_key);
    question.peer_identity = peer_identity;
    question.by_name = by_name;
    let perhaps = answers_such(packet, question);
    question.verdict = Verdict::Forward as u8;
    question.reason = 0;
    question.rule_set = 0;
    question.flow_flags = 0;
    perhaps
}

/// ICMP of either version.
#[inline(always)]
pub fn is_icmp(packet: &Packet) -> bool {
    packet.protocol == PROTOCOL_ICMP || packet.protocol == PROTOCOL_ICMPV6
}

/// `question` holds what is said of the conversation that the packet perhaps answers.
#[inline(always)]
pub fn answers_such(packet: &Packet, question: &Question) -> bool {
    let denied = question.verdict == 0;
    let inspected = question.verdict == Verdict::Inspect as u8;
    let from_client = packet.source_port >= EPHEMERAL_FIRST && packet.destination_port < EPHEMERAL_FIRST;
    inspected || (denied && packet.protocol == PROTOCOL_TCP && !from_client)
}

/// Sets what is known of a flow before anything has passed. The rest is nought: see [`Scratch::new_flow`].
#[inline(always)]
fn fill_new_flow(scene: &mut Scene<'_>) {
    let Scratch {
        packet,
        question,
        new_flow,
        ..
    } = &mut *scene.scratch;
    new_flow.last_seen_ns = scene.now_ns;
    new_flow.epoch = scene.endpoint.epoch;
    new_flow.peer_identity = question.peer_identity;
    new_flow.rule_set = question.rule_set;
    new_flow.connection = ConnectionNumber::new_at(scene.now_ns);
    new_flow.verdict = question.verdict;
    new_flow.flags = question.flow_flags;
    new_flow.by_name = question.by_name;
    new_flow.pending_base_seq = packet.sequence.wrapping_add(1);
}

/// An endpoint may only speak for addresses that the ipcache knows as its own.
#[inline(always)]
fn owns_source(scene: &mut Scene<'_>) -> bool {
    match scene.hook {
        Hook::FromEndpoint => scene.scratch.question.owner(&scene.scratch.packet.source) == scene.ifindex,
        Hook::ToEndpoint => true,
    }
}

/// The same where policy is asked. Where nothing is enforced an endpoint speaks as one does of which no policy speaks: also
/// from link-local and unspecified addresses, which is told of. From somebody else's never: policies of others go by it.
#[inline(always)]
pub fn may_speak(scene: &mut Scene<'_>) -> bool {
    if owns_source(scene) {
        return true;
    }
    if scene.endpoint.flags & EndpointFlags::ENFORCE != 0 || !is_nobodys(&scene.scratch.packet) {
        return false;
    }
    if scene.endpoint.flags & EndpointFlags::AUDIT != 0 {
        tell(scene, 0, DropReason::InvalidSourceIp as u8);
    }
    true
}

#[inline(always)]
fn fragment_key(scene: &Scene<'_>) -> FragmentKey {
    let packet = &scene.scratch.packet;
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        ifindex: scene.ifindex,
        id: packet.fragment_id,
        protocol: packet.protocol,
        hook: scene.hook as u8,
        pad: [0; 2],
    }
}

#[inline(never)]
fn later_fragment(scene: &Scene<'_>) -> i32 {
    if FRAGMENTS.get_ptr(&fragment_key(scene)).is_some() {
        return pass(Counter::Forwarded);
    }
    drop_if_enforced(scene, 0, DropReason::FragmentNotFound)
}

/// The rest of this datagram may pass. The table forgets the oldest datagrams by itself; if it takes no entry the rest
/// is dropped, which is the safe side.
#[inline(never)]
fn remember_fragment(scene: &Scene<'_>) {
    let _ = FRAGMENTS.insert(&fragment_key(scene), &1, 0);
}
