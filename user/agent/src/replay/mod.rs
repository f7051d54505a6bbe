//! Captures through the engine: what would these policies have done to this traffic? Without policies: what was in it?
//!
//! ```text
//! file ─► capture (pcap, pcapng) ─► link ─► tunnels ─► fragments ─► crew ─► shards: conversations (who opened it?)
//!                                                                     │              └─► Beside (the engine)
//!                                          report ◄─ tally ◄─ flows ◄─┘ what came of it, in the order of packets
//! ```
//!
//! Memory is bounded whatever the size of a capture: two batches of packets, and the tables of `fragments`, of the
//! shards and of `tally`.

mod capture;
mod conversations;
mod crew;
mod fragments;
mod link;
mod page;
mod shard;
mod tally;
#[cfg(test)]
mod tests;
mod timeline;
mod tunnels;
mod world;

use std::io::Read;
use std::sync::Arc;

use seventh_engine::{Denials, L7Record};
use seventh_flows::pb::flow::{Flow, Verdict};
use seventh_parsers::packet::{Frame, PacketError};

pub(crate) use capture::CaptureError;
pub(crate) use page::page;
pub(crate) use shard::SHARDS;
pub(crate) use tally::Tally;
pub(crate) use tunnels::Tunnel;
pub(crate) use world::World;

use crate::observer::{Moment, Node, Scribe, Seen, SeenNames, Uuids, tellings};
use capture::{Capture, HEADROOM, Packet};
use crew::Crew;
use fragments::{Fragment, Fragments};
use shard::{Captured, Shard, Told, What};

/// Bytes of a frame before its IP packet.
const FRAME_HEAD: usize = 14;
const TEND_NS: u64 = 1_000_000_000;
/// What a capture without a name of its own node says.
const NODE: &str = "replay";

/// A replay under way.
pub(crate) struct Replay {
    crew: Crew,
    teller: Teller,
    tunnels: Vec<Tunnel>,
    fragments: Fragments,
    /// A packet that was put together.
    whole: Vec<u8>,
    tend_ns: u64,
    /// What was told and not yet passed on.
    told: Vec<Told>,
}

/// Makes flows of what shards tell.
struct Teller {
    world: World,
    audit: bool,
    uuids: Uuids,
    node: Node,
    names: SeenNames,
    tally: Tally,
    /// Flows are wanted, not only counts.
    is_telling: bool,
}

impl Replay {
    /// One that has seen nothing. With `audit` denials are told as what would have been denied. `threads` read
    /// conversations; what is told does not depend on their number.
    pub(crate) fn new(world: World, audit: bool, tunnels: Vec<Tunnel>, threads: usize) -> Self {
        let denials = if audit { Denials::Audited } else { Denials::Dropped };
        let of = world.shared.len();
        let shard = |(number, shared): (usize, &Arc<_>)| {
            Shard::new(number, of, Arc::clone(shared), Arc::clone(&world.endpoints), denials)
        };
        Self {
            crew: Crew::new(world.shared.iter().enumerate().map(shard).collect(), threads),
            teller: Teller {
                world,
                audit,
                uuids: Uuids::counted(),
                node: Node::new("", NODE, Vec::new()),
                names: SeenNames::default(),
                tally: Tally::default(),
                is_telling: true,
            },
            tunnels,
            fragments: Fragments::default(),
            whole: Vec::new(),
            tend_ns: 0,
            told: Vec::new(),
        }
    }

    /// From now on `tell` gets nothing, and most flows are not made.
    pub(crate) fn only_count(&mut self) {
        self.teller.is_telling = false;
    }

    /// Reads one capture; `tell` gets each flow.
    ///
    /// # Errors
    /// The capture cannot be read (further). What came before counts.
    pub(crate) fn read(&mut self, file: impl Read, tell: &mut dyn FnMut(Flow)) -> Result<(), CaptureError> {
        let mut capture = Capture::open(file)?;
        let mut buffer = Vec::new();
        while let Some(packet) = capture.next(&mut buffer)? {
            self.teller.tally.packet(packet.wire_len, packet.time_ns);
            self.packet(&mut buffer, packet, tell);
        }
        Ok(())
    }

    /// Nothing more comes. What it came to, and every L7 rule.
    pub(crate) fn finish(self, tell: &mut dyn FnMut(Flow)) -> (Tally, World) {
        let Self {
            crew,
            mut teller,
            mut told,
            ..
        } = self;
        let shards = crew.finish(&mut told);
        teller.pass_on(&mut told, tell);
        teller.tally.conversations = shards.iter().map(Shard::conversations).sum();
        teller.tally.records_lost = teller.world.shared.iter().map(|shared| shared.records_lost()).sum();
        (teller.tally, teller.world)
    }

    fn packet(&mut self, buffer: &mut [u8], packet: Packet, tell: &mut dyn FnMut(Flow)) {
        let bytes = buffer.get(packet.start..packet.end).unwrap_or_default();
        let Some((ether_type, at)) = link::network(packet.link, bytes).filter(|_| link::is_known(packet.link)) else {
            self.teller.tally.not_ip += 1;
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
        let shard = match Frame::parse_cut(frame) {
            Ok(parsed) => shard_of(&parsed, self.crew.shards()),
            Err(PacketError::UnsupportedProtocol(_)) => {
                self.teller.tally.other_protocols += 1;
                return;
            }
            Err(_) => {
                self.teller.tally.not_ip += 1;
                return;
            }
        };
        if self.teller.world.is_by_name() && time_ns >= self.tend_ns {
            self.teller.world.tend(time_ns);
            self.tend_ns = time_ns + TEND_NS;
        }
        let captured = Captured {
            frame,
            time_ns,
            packet: self.teller.tally.packets,
        };
        self.crew.deal(shard, captured, &mut self.told);
        self.teller.pass_on(&mut self.told, tell);
    }
}

/// The same for both directions of a conversation.
fn shard_of(frame: &Frame<'_>, shards: usize) -> usize {
    /// 2^64 by the golden ratio: neighbours land far apart.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let end = |address: [u8; 16], port: u16| {
        let address = u128::from_be_bytes(address);
        let halves = (address >> 64) ^ (address & u128::from(u64::MAX));
        let halves = u64::try_from(halves).unwrap_or_default();
        (halves ^ u64::from(port) << 32).wrapping_mul(SPREAD) >> 17
    };
    let (source_port, destination_port) = frame.transport().ports();
    let sum = end(frame.source(), source_port).wrapping_add(end(frame.destination(), destination_port));
    let of = u64::try_from(shards.max(1)).unwrap_or(1);
    usize::try_from(sum % of).unwrap_or(0)
}

impl Teller {
    fn pass_on(&mut self, told: &mut Vec<Told>, tell: &mut dyn FnMut(Flow)) {
        for Told { shard, what, .. } in told.drain(..) {
            match what {
                What::Record(record) => {
                    self.record(&record, tell);
                    if self.world.is_by_name() && record.dns().is_some() {
                        self.world.tend(record.time_ns);
                    }
                    if let Some(shared) = self.world.shared.get(shard) {
                        shared.recycle_record(record);
                    }
                }
                What::Decision(event) => {
                    let seen = self.seen(event.time_ns, event.ifindex, event.source, event.destination);
                    for telling in tellings(&event) {
                        let mut flow = scribe(&self.world, &self.node, &self.uuids).of_kernel(&event, *telling, &seen);
                        if self.audit && flow.verdict() == Verdict::Dropped {
                            flow.set_verdict(Verdict::Audit);
                        }
                        self.tally.event(&event, &flow);
                        if self.is_telling {
                            tell(flow);
                        }
                    }
                }
            }
        }
    }

    fn record(&mut self, record: &L7Record, tell: &mut dyn FnMut(Flow)) {
        let seen = if self.is_telling {
            self.seen(record.time_ns, record.ifindex, record.source, record.destination)
        } else {
            // Counts need neither names nor times.
            Seen::default()
        };
        let scribe = scribe(&self.world, &self.node, &self.uuids);
        if !self.is_telling {
            self.tally.record(record, || scribe.of_engine(record, &seen));
            return;
        }
        let flow = scribe.of_engine(record, &seen);
        self.tally.record(record, || flow.clone());
        self.names.learn(record);
        tell(flow);
    }

    fn seen(&self, time_ns: u64, ifindex: u32, source: [u8; 16], destination: [u8; 16]) -> Seen {
        let moment = Moment::of_captures();
        let view = &self.world.view;
        Seen {
            time: moment.wall(moment.monotonic(time_ns)),
            names: self
                .names
                .of_ends(view, ifindex, source, destination, moment.engine_ns()),
        }
    }
}

fn scribe<'a>(world: &'a World, node: &'a Node, uuids: &'a Uuids) -> Scribe<'a> {
    Scribe {
        node,
        directory: &world.directory,
        view: &world.view,
        uuids,
    }
}
