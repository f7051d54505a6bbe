//! One part of the conversations of a capture: who opened them, and the engine that reads them.
//!
//! There are always as many shards, however many threads work on them: what a replay tells does not depend on that.

use std::sync::Arc;

use seventh_abi::{DropReason, Event, EventKind, FlowKey, Hook, PuntMeta, Verdict as KernelVerdict};
use seventh_engine::{Beside, Denials, EngineLimits, EngineShared, L7Record, PolicyView, Seen};
use seventh_parsers::packet::{Frame, TcpFlags, Transport};
use seventh_policy::L4Decision;

use super::conversations::{Conversation, Conversations, Place, Sender};
use super::world::Endpoints;

/// Shards of a replay; more threads than these have nothing to do.
pub(crate) const SHARDS: usize = 8;
/// Number of the packet of what is told when nothing more comes.
const AFTER_ALL: u64 = u64::MAX;
/// How often, in the time of the capture, quiet connections are looked after; and after how many packets at least, since
/// one look at many connections for each of a few packets is all that a capture of years would be.
const TICK_NS: u64 = 5_000_000_000;
const TICK_PACKETS: u32 = 128;

/// What came of a packet.
#[derive(Debug)]
pub(crate) struct Told {
    /// The packet's number in the replay.
    pub(crate) packet: u64,
    /// Which shard tells it.
    pub(crate) shard: usize,
    pub(crate) what: What,
}

/// See [`Told`].
#[derive(Debug)]
pub(crate) enum What {
    /// Something inside was judged, or shown.
    Record(Arc<L7Record>),
    /// The decision about a conversation that needs no look inside, as the kernel would tell it.
    Decision(Event),
}

/// An IP packet behind a frame's head that was made for it, and when and as which one it was captured.
#[derive(Debug)]
pub(crate) struct Captured<'a> {
    pub(crate) frame: &'a mut [u8],
    pub(crate) time_ns: u64,
    pub(crate) packet: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Shard {
    number: usize,
    shared: Arc<EngineShared>,
    endpoints: Arc<Endpoints>,
    beside: Beside,
    conversations: Conversations,
    tick_ns: u64,
    since_tick: u32,
    last_ns: u64,
}

impl Shard {
    /// One of `of` shards that has seen nothing.
    pub(crate) fn new(
        number: usize,
        of: usize,
        shared: Arc<EngineShared>,
        endpoints: Arc<Endpoints>,
        denials: Denials,
    ) -> Self {
        let whole = EngineLimits::default();
        let limits = EngineLimits {
            // A shard may get more than its share of the connections.
            flows_max: 2 * whole.flows_max / of,
            quic_flows_max: 2 * whole.quic_flows_max / of,
            held_bytes_max: whole.held_bytes_max / of,
            // What is quiet is kept as long as there is room.
            quiet_timeout_ns: whole.idle_timeout_ns,
            ..whole
        };
        Self {
            number,
            beside: Beside::new(Arc::clone(&shared), limits, denials),
            shared,
            endpoints,
            conversations: Conversations::one_of(of),
            tick_ns: 0,
            since_tick: 0,
            last_ns: 0,
        }
    }

    /// Conversations that began.
    pub(crate) fn conversations(&self) -> u64 {
        self.conversations.count
    }

    /// Takes a packet of one of its conversations.
    pub(crate) fn take(&mut self, captured: Captured<'_>, out: &mut Vec<Told>) {
        let Captured { frame, time_ns, packet } = captured;
        self.last_ns = time_ns;
        self.since_tick += 1;
        if time_ns >= self.tick_ns && self.since_tick >= TICK_PACKETS {
            self.beside.tick(time_ns);
            (self.tick_ns, self.since_tick) = (time_ns + TICK_NS, 0);
        }
        // Who dealt it has read its headers.
        let Ok(parsed) = Frame::parse_cut(frame) else { return };
        let (conversation, sender) = self.conversations.meet(&parsed);
        if conversation.is_new {
            conversation.is_new = false;
            let opening = Opening::of(&parsed, sender);
            let view = self.shared.policy();
            conversation.at = opening.places(&self.endpoints, &self.shared, &view);
            if self.endpoints.are_governed() {
                opening.tell(&self.endpoints, &self.shared, &view, time_ns, |event| {
                    out.push(Told {
                        packet,
                        shard: self.number,
                        what: What::Decision(event),
                    });
                });
            }
        }
        let is_tcp = matches!(parsed.transport(), Transport::Tcp(_));
        let is_silent = parsed.payload().is_empty() && parsed.missing() == 0;
        // Of an opener that says nothing there is nothing to read.
        if is_tcp && is_silent && sender == Sender::Opener {
            return;
        }
        if show(&mut self.beside, frame, conversation, sender, is_tcp, time_ns) {
            self.tell_records(packet, out);
        }
    }

    /// Nothing more comes.
    pub(crate) fn finish(&mut self, out: &mut Vec<Told>) {
        self.beside.finish(self.last_ns);
        self.tell_records(AFTER_ALL, out);
    }

    fn tell_records(&self, packet: u64, out: &mut Vec<Told>) {
        while let Some(record) = self.shared.take_record() {
            out.push(Told {
                packet,
                shard: self.number,
                what: What::Record(record),
            });
        }
    }
}

/// Shows the engine the frame at each hook that it passes and where there is more to read. Says whether there was one.
fn show(
    beside: &mut Beside,
    frame: &mut [u8],
    conversation: &mut Conversation,
    sender: Sender,
    is_tcp: bool,
    time_ns: u64,
) -> bool {
    let mut is_shown = false;
    for (hook, place) in HOOKS.into_iter().zip(&mut conversation.at) {
        let Place::Engine(ifindex) = *place else { continue };
        // What comes back passes at the other hook of the same endpoint.
        let taken_at = match sender {
            Sender::Opener => hook,
            Sender::Other => hook.other(),
        };
        let meta = PuntMeta {
            hook: taken_at,
            ifindex,
            base_seq: conversation.base_seq,
            acked_seq: conversation.acked_seq,
            reply_idle: true,
            closed: false,
            reply: sender == Sender::Other,
            frontier: None,
            compared_to: None,
            clean: true,
        };
        if let Some(room) = frame.first_chunk_mut() {
            *room = meta.encode();
        }
        is_shown = true;
        // Datagrams between the same ends may be another conversation each.
        if beside.observe(frame, time_ns) == Seen::Done && is_tcp {
            *place = Place::Done;
        }
    }
    is_shown
}

const HOOKS: [Hook; 2] = [Hook::FromEndpoint, Hook::ToEndpoint];

/// What a policy says without looking inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Allow,
    Inspect,
    Deny(DropReason),
}

/// The first packet of a conversation, as its opener would send it.
struct Opening {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    is_ipv4: bool,
    tcp_flags: u8,
}

impl Opening {
    fn of(frame: &Frame<'_>, sender: Sender) -> Self {
        let (source_port, destination_port) = frame.transport().ports();
        let flags = match frame.transport() {
            Transport::Tcp(tcp) => tcp.flags,
            Transport::Udp(_) => TcpFlags(0),
        };
        let sent = Self {
            source: frame.source(),
            destination: frame.destination(),
            source_port,
            destination_port,
            protocol: frame.transport().protocol(),
            is_ipv4: frame.is_ipv4(),
            tcp_flags: flags.0,
        };
        match sender {
            Sender::Opener => sent,
            Sender::Other => Self {
                source: sent.destination,
                destination: sent.source,
                source_port: sent.destination_port,
                destination_port: sent.source_port,
                ..sent
            },
        }
    }

    /// Where the engine is to look at the conversation.
    fn places(&self, endpoints: &Endpoints, shared: &EngineShared, view: &PolicyView) -> [Place; 2] {
        let mut places = [Place::None; 2];
        let interfaces = endpoints.of(self.source, self.destination);
        for ((hook, ifindex), place) in HOOKS.into_iter().zip(interfaces).zip(&mut places) {
            let Some(ifindex) = ifindex else { continue };
            *place = match self.ask(shared, view, hook, ifindex).1 {
                Says::Inspect => Place::Engine(ifindex),
                Says::Allow | Says::Deny(_) => Place::Done,
            };
        }
        places
    }

    /// The decisions that need no look inside.
    fn tell(
        &self,
        endpoints: &Endpoints,
        shared: &EngineShared,
        view: &PolicyView,
        time_ns: u64,
        mut tell: impl FnMut(Event),
    ) {
        let interfaces = endpoints.of(self.source, self.destination);
        for (hook, ifindex) in HOOKS.into_iter().zip(interfaces) {
            let Some(ifindex) = ifindex else { continue };
            let (identity, says) = self.ask(shared, view, hook, ifindex);
            tell(self.event(hook, ifindex, identity, says, time_ns));
        }
    }

    /// The peer's identity, and the decision of the endpoint's policy.
    fn ask(&self, shared: &EngineShared, view: &PolicyView, hook: Hook, ifindex: u32) -> (u32, Says) {
        let Some(endpoint) = view.endpoints.get(&ifindex) else {
            return (0, Says::Allow);
        };
        let opener = (self.source, self.source_port);
        let other = (self.destination, self.destination_port);
        let flow = FlowKey::of_opener(hook, ifindex, opener, other, self.protocol);
        // There is no kernel that could be under another policy.
        let identity = shared.peer_identity(view, endpoint, &flow).unwrap_or(0);
        let decision = endpoint
            .policy
            .lookup(hook.opener_direction(), identity, self.protocol, self.destination_port);
        let says = match decision {
            L4Decision::Allow => Says::Allow,
            L4Decision::Deny(reason) => Says::Deny(reason),
            L4Decision::Inspect(_) => Says::Inspect,
        };
        (identity, says)
    }

    fn event(&self, hook: Hook, ifindex: u32, peer_identity: u32, says: Says, time_ns: u64) -> Event {
        let (kind, reason, verdict) = match says {
            Says::Allow => (EventKind::FlowDecided, 0, KernelVerdict::Forward as u8),
            Says::Inspect => (EventKind::FlowDecided, 0, KernelVerdict::Inspect as u8),
            Says::Deny(reason) => (EventKind::Drop, reason as u8, 0),
        };
        Event {
            time_ns,
            source: self.source,
            destination: self.destination,
            ifindex,
            peer_identity,
            length: 0,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            tcp_flags: self.tcp_flags,
            kind: kind as u8,
            reason,
            verdict,
            hook: hook as u8,
            ip_version: if self.is_ipv4 { 4 } else { 6 },
            direction: hook.opener_direction() as u8,
            mac_destination: [0; 6],
            mac_source: [0; 6],
            pad: [0; 4],
        }
    }
}
