//! Captures through the engine: what would these policies have done to this traffic? Without policies: what was in it?
//!
//! ```text
//! file ─► capture (pcap, pcapng) ─► link ─► tunnels ─► fragments ─► conversations (who opened it?)
//!                                                                       └─► Beside (the engine) ─► records ─► flows
//! ```
//!
//! Memory is bounded whatever the size of a capture: one packet, and the tables of `fragments`, `conversations` and the
//! engine.

mod capture;
mod conversations;
mod fragments;
mod link;
mod tally;
mod tunnels;
mod world;

use std::cell::RefCell;
use std::io::Read;

use seventh_abi::{Direction, DropReason, Event, EventKind, FlowKey, Hook, PuntMeta, Verdict as KernelVerdict};
use seventh_engine::{Beside, Denials, EngineLimits, PolicyView, Seen};
use seventh_flows::pb::flow::{Flow, Verdict};
use seventh_parsers::packet::{Frame, PacketError, TcpFlags, Transport};
use seventh_policy::L4Decision;

pub(crate) use capture::CaptureError;
pub(crate) use tally::Tally;
pub(crate) use tunnels::Tunnel;
pub(crate) use world::World;

use crate::observer::{Moment, Scribe, SeenNames, Uuids};
use capture::{Capture, HEADROOM, Packet};
use conversations::{Conversation, Conversations, Place, Sender};
use fragments::{Fragment, Fragments};

/// Bytes of a frame before its IP packet.
const FRAME_HEAD: usize = 14;
const TICK_NS: u64 = 1_000_000_000;
/// What a capture without a name of its own node says.
const NODE: &str = "replay";

/// A replay under way.
pub(crate) struct Replay {
    world: World,
    view: std::sync::Arc<PolicyView>,
    beside: Beside,
    audit: bool,
    tunnels: Vec<Tunnel>,
    conversations: Conversations,
    fragments: Fragments,
    /// A packet that was put together.
    whole: Vec<u8>,
    tick_ns: u64,
    last_ns: u64,
    uuids: Uuids,
    names: RefCell<SeenNames>,
    pub(crate) tally: Tally,
}

impl Replay {
    /// One that has seen nothing. With `audit` denials are told as what would have been denied.
    pub(crate) fn new(world: World, audit: bool, tunnels: Vec<Tunnel>) -> Self {
        let denials = if audit { Denials::Audited } else { Denials::Dropped };
        let limits = EngineLimits {
            // Times of a capture are not times of this machine; what is quiet is kept as long as there is room.
            quiet_timeout_ns: EngineLimits::default().idle_timeout_ns,
            ..EngineLimits::default()
        };
        Self {
            view: world.shared.policy(),
            beside: Beside::new(world.shared.clone(), limits, denials),
            world,
            audit,
            tunnels,
            conversations: Conversations::default(),
            fragments: Fragments::default(),
            whole: Vec::new(),
            tick_ns: 0,
            last_ns: 0,
            uuids: Uuids::counted(),
            names: RefCell::default(),
            tally: Tally::default(),
        }
    }

    /// The policies and who is governed by them.
    pub(crate) const fn world(&self) -> &World {
        &self.world
    }

    /// Reads one capture; `tell` gets each flow.
    ///
    /// # Errors
    /// The capture cannot be read (further). What came before counts.
    pub(crate) fn read(&mut self, file: impl Read, tell: &mut dyn FnMut(Flow)) -> Result<(), CaptureError> {
        let mut capture = Capture::open(file)?;
        let mut buffer = Vec::new();
        while let Some(packet) = capture.next(&mut buffer)? {
            self.tally.packets += 1;
            self.tally.bytes += u64::from(packet.wire_len);
            self.packet(&mut buffer, packet, tell);
        }
        Ok(())
    }

    /// Nothing more comes.
    pub(crate) fn finish(&mut self, tell: &mut dyn FnMut(Flow)) {
        self.beside.finish(self.last_ns);
        self.tell_records(tell);
        self.tally.conversations = self.conversations.count;
        self.tally.records_lost = self.world.shared.records_lost();
    }

    fn packet(&mut self, buffer: &mut [u8], packet: Packet, tell: &mut dyn FnMut(Flow)) {
        self.last_ns = packet.time_ns;
        if packet.time_ns >= self.tick_ns {
            self.beside.tick(packet.time_ns);
            self.tick_ns = packet.time_ns + TICK_NS;
        }
        let bytes = buffer.get(packet.start..packet.end).unwrap_or_default();
        let Some((ether_type, at)) = link::network(packet.link, bytes).filter(|_| link::is_known(packet.link)) else {
            self.tally.not_ip += 1;
            return;
        };
        let (ether_type, at) = tunnels::inner(bytes, ether_type, at, &self.tunnels);
        let fragment = self
            .fragments
            .take(ether_type, bytes.get(at..).unwrap_or_default(), &mut self.whole);
        match fragment {
            Fragment::Kept => {}
            Fragment::Whole => self.frame(buffer, packet.start + at, packet.end, ether_type, packet.time_ns, tell),
            Fragment::Completed(end) => {
                let mut whole = std::mem::take(&mut self.whole);
                self.frame(&mut whole, HEADROOM, end, ether_type, packet.time_ns, tell);
                self.whole = whole;
            }
        }
    }

    /// The IP packet between `at` and `end`, before which a frame's head is written.
    fn frame(
        &mut self,
        buffer: &mut [u8],
        at: usize,
        end: usize,
        ether_type: u16,
        time_ns: u64,
        tell: &mut dyn FnMut(Flow),
    ) {
        let Some(frame) = buffer.get_mut(at - FRAME_HEAD..end) else {
            return;
        };
        if let Some(place) = frame.get_mut(12..FRAME_HEAD) {
            place.copy_from_slice(&ether_type.to_be_bytes());
        }
        let parsed = match Frame::parse_cut(frame) {
            Ok(parsed) => parsed,
            Err(PacketError::UnsupportedProtocol(_)) => {
                self.tally.other_protocols += 1;
                return;
            }
            Err(_) => {
                self.tally.not_ip += 1;
                return;
            }
        };
        let (conversation, sender) = self.conversations.meet(&parsed);
        if conversation.is_new {
            conversation.is_new = false;
            let opening = Opening::of(&parsed, sender);
            conversation.at = decide(&self.world, &self.view, &opening);
            let known = conversation.clone();
            self.tell_decisions(&opening, known.at, time_ns, tell);
            self.show(frame, &known, sender, time_ns, tell);
        } else {
            let known = conversation.clone();
            self.show(frame, &known, sender, time_ns, tell);
        }
    }

    /// Shows the engine the frame at each hook that it passes.
    fn show(
        &mut self,
        frame: &mut [u8],
        conversation: &Conversation,
        sender: Sender,
        time_ns: u64,
        tell: &mut dyn FnMut(Flow),
    ) {
        for (hook, place) in [Hook::FromEndpoint, Hook::ToEndpoint].into_iter().zip(conversation.at) {
            let Place::Engine(ifindex) = place else { continue };
            // What comes back passes at the other hook of the same endpoint.
            let taken_at = match (sender, hook) {
                (Sender::Opener, hook) => hook,
                (Sender::Other, Hook::FromEndpoint) => Hook::ToEndpoint,
                (Sender::Other, Hook::ToEndpoint) => Hook::FromEndpoint,
            };
            let meta = PuntMeta {
                hook: taken_at,
                ifindex,
                base_seq: conversation.base_seq,
                acked_seq: conversation.acked_seq,
                reply_idle: true,
                closed: false,
                reply: sender == Sender::Other,
                boundary: false,
                clean: true,
            };
            if let Some(place) = frame.first_chunk_mut() {
                *place = meta.encode();
            }
            let _: Seen = self.beside.observe(frame, time_ns);
        }
        self.tell_records(tell);
    }

    fn tell_records(&mut self, tell: &mut dyn FnMut(Flow)) {
        while let Some(record) = self.world.shared.take_record() {
            let flow = self.scribe().of_engine(&record);
            self.names.borrow_mut().learn(&record);
            self.tally.record(&record, &flow);
            self.world.shared.recycle_record(record);
            tell(flow);
        }
    }

    /// The decisions that need no look inside, where policies judge.
    fn tell_decisions(&mut self, opening: &Opening, at: [Place; 2], time_ns: u64, tell: &mut dyn FnMut(Flow)) {
        if !self.world.judges() {
            return;
        }
        let endpoints = self.world.endpoints_of(opening.source, opening.destination);
        let hooks = [Hook::FromEndpoint, Hook::ToEndpoint].into_iter();
        for ((hook, place), ifindex) in hooks.zip(at).zip(endpoints) {
            let Some(ifindex) = ifindex else { continue };
            let (identity, decision) = opening.ask(&self.world, &self.view, hook, ifindex);
            let event = opening.event(hook, ifindex, identity, decision, time_ns);
            debug_assert!(place == Place::Done || matches!(decision, Told::Inspect));
            let flows = self.scribe().of_kernel(&event);
            for mut flow in flows {
                if self.audit && flow.verdict() == Verdict::Dropped {
                    flow.set_verdict(Verdict::Audit);
                }
                self.tally.flow(&flow);
                tell(flow);
            }
        }
    }

    fn scribe(&self) -> Scribe<'_> {
        Scribe {
            node: NODE,
            directory: &self.world.directory,
            view: &self.view,
            moment: Moment::of_captures(),
            uuids: &self.uuids,
            names: &self.names,
        }
    }
}

/// What a policy says without looking inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
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

    /// The peer's identity, and the decision of the endpoint's policy.
    fn ask(&self, world: &World, view: &PolicyView, hook: Hook, ifindex: u32) -> (u32, Told) {
        let Some(endpoint) = view.endpoints.get(&ifindex) else {
            return (0, Told::Allow);
        };
        let opener = (self.source, self.source_port);
        let other = (self.destination, self.destination_port);
        let direction = direction_of(hook);
        let (local, peer) = match direction {
            Direction::Egress => (opener, other),
            Direction::Ingress => (other, opener),
        };
        let flow = FlowKey {
            local_addr: local.0,
            peer_addr: peer.0,
            ifindex,
            local_port: local.1,
            peer_port: peer.1,
            protocol: self.protocol,
            direction: direction as u8,
            pad: [0; 2],
        };
        // There is no kernel that could be under another policy.
        let identity = world.shared.peer_identity(view, endpoint, &flow).unwrap_or(0);
        let decision = endpoint
            .policy
            .lookup(direction, identity, self.protocol, self.destination_port);
        let told = match decision {
            L4Decision::Allow => Told::Allow,
            L4Decision::Deny(reason) => Told::Deny(reason),
            L4Decision::Inspect(_) => Told::Inspect,
        };
        (identity, told)
    }

    fn event(&self, hook: Hook, ifindex: u32, peer_identity: u32, told: Told, time_ns: u64) -> Event {
        let (kind, reason, verdict) = match told {
            Told::Allow => (EventKind::FlowDecided, 0, KernelVerdict::Forward as u8),
            Told::Inspect => (EventKind::FlowDecided, 0, KernelVerdict::Inspect as u8),
            Told::Deny(reason) => (EventKind::Drop, reason as u8, 0),
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
            direction: direction_of(hook) as u8,
        }
    }
}

/// Of what the opener sends.
const fn direction_of(hook: Hook) -> Direction {
    match hook {
        Hook::FromEndpoint => Direction::Egress,
        Hook::ToEndpoint => Direction::Ingress,
    }
}

/// Where the engine is to look at a conversation.
fn decide(world: &World, view: &PolicyView, opening: &Opening) -> [Place; 2] {
    let endpoints = world.endpoints_of(opening.source, opening.destination);
    let mut at = [Place::None; 2];
    let hooks = [Hook::FromEndpoint, Hook::ToEndpoint].into_iter();
    for ((hook, ifindex), place) in hooks.zip(endpoints).zip(&mut at) {
        let Some(ifindex) = ifindex else { continue };
        *place = match opening.ask(world, view, hook, ifindex).1 {
            Told::Inspect => Place::Engine(ifindex),
            Told::Allow | Told::Deny(_) => Place::Done,
        };
    }
    at
}
