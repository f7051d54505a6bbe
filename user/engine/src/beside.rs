//! The same decisions beside the traffic: frames that have passed, copies of frames, frames of a capture.
//!
//! Streams, inspectors and judge are the engine's own. What differs is that nothing can be held, answered or asked for
//! again. So:
//! - a denial is recorded and then taken for allowed, and reading goes on as if the request had passed;
//! - what is shown before its turn waits, bounded, until what is missing before it is shown, or until it is certain that
//!   it never will be: the other side has acknowledged it, or too much waits;
//! - bytes that are never shown are the rest of a body if one is that long. Else track of the connection is lost, and
//!   requests are looked for where further segments begin; where none is found the connection is given up.

use crate::ahead::{Ahead, Piece};
use crate::counters::EngineCounter;
use crate::decide::{Decision, Engine, Turn};
use crate::dns::NotOn;
use crate::flow::{BesideState, Flow, FlowPolicy};
use crate::inspector::{Change, Inspector, Patience};
use crate::judge::About;
use crate::outbox::Outbox;
use crate::punted::{FlowId, Punted, Segment};
use crate::record::RecordVerdict;
use crate::seq::{before, between, plus};
use crate::shared::{EngineLimits, EngineShared};
use crate::stream::{Place, Stream};
use seventh_abi::{DropReason, InjectAction};
use seventh_parsers::packet::{TcpFlags, Transport};
use std::sync::Arc;

/// Segments in a row at whose beginning nothing was found, after which a connection is given up.
const MISSES_MAX: u16 = 256;
/// How long what is missing is waited for.
const GAP_PATIENCE_NS: u64 = 5_000_000_000;
/// Connections that one [`Beside::tick`] looks at.
const SWEEP_MAX: usize = 1024;

/// How a denial is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denials {
    /// [`RecordVerdict::Audit`]: it passed, and would not have.
    Audited,
    /// [`RecordVerdict::Dropped`]: as enforcement would record it.
    Dropped,
}

/// What the caller needs not show of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing in particular.
    More,
    /// Bytes of the opener before this sequence number: the rest of a body.
    Skip {
        /// One past the last of them.
        until: u32,
    },
    /// Anything, as long as the endpoint's policy stays.
    Done,
    /// The frame cannot be read; it was counted.
    Unreadable,
}

/// An engine that judges and does nothing about it.
#[derive(Debug)]
pub struct Beside {
    engine: Engine,
    /// For answers that nobody sends.
    unsent: Outbox,
}

impl Beside {
    /// One without any connection.
    #[must_use]
    pub fn new(shared: Arc<EngineShared>, limits: EngineLimits, denials: Denials) -> Self {
        let mut engine = Engine::new(shared, limits);
        engine.desk.beside = Some(match denials {
            Denials::Audited => RecordVerdict::Audit,
            Denials::Dropped => RecordVerdict::Dropped,
        });
        Self {
            engine,
            unsent: Outbox::new(),
        }
    }

    /// Takes one frame, with [`seventh_abi::PuntMeta`] in place of its MAC addresses: of either side
    /// (`PuntMeta::reply`), whole or cut short; checksums are not looked at. Of the metadata, `base_seq` and `acked_seq`
    /// help where they are known. Work is linear in what is read; memory is bounded by [`EngineLimits`].
    pub fn observe(&mut self, frame: &[u8], now_ns: u64) -> Seen {
        self.engine.desk.forget_request();
        let punted = match Punted::read_beside(frame, now_ns) {
            Ok(punted) => punted,
            Err(reason) => {
                self.engine.desk.counters.count_reason(reason);
                return Seen::Unreadable;
            }
        };
        match *punted.frame.transport() {
            Transport::Tcp(tcp) => {
                let segment = Segment {
                    punted,
                    tcp,
                    payload: punted.frame.payload(),
                };
                if punted.meta.reply {
                    self.engine.observe_reply(&segment)
                } else {
                    self.engine.observe_opener(&segment)
                }
            }
            Transport::Udp(_) => self.observe_udp(&punted),
        }
    }

    /// Looks after connections on which nothing happens. Call it every few seconds of the time that frames have; each
    /// call looks at 1024 connections at most.
    pub fn tick(&mut self, now_ns: u64) {
        self.engine.tick_beside(now_ns);
    }

    /// Nothing more will be shown: what waits for what was missing is read.
    pub fn finish(&mut self, now_ns: u64) {
        for id in self.engine.flows.sweep(usize::MAX, |flow| flow.beside.is_waiting()) {
            self.engine.close_gaps(&id, now_ns);
        }
    }

    fn observe_udp(&mut self, punted: &Punted<'_>) -> Seen {
        let decision = self.engine.decide_datagram(punted, &mut self.unsent);
        self.unsent.clear();
        match decision.unwrap_or_else(|early| early) {
            Decision::Forward(Change {
                action: InjectAction::Forward { .. } | InjectAction::ForwardQuic { .. },
                ..
            }) => Seen::Done,
            Decision::Forward(_) | Decision::Defer => Seen::More,
            Decision::Drop(reason) | Decision::Reset(reason) | Decision::Refuse { reason, .. } => {
                self.engine.record_datagram(punted, reason);
                Seen::More
            }
            Decision::ForwardPart { .. } | Decision::Park(_) | Decision::Repeat => Seen::More,
        }
    }
}

/// Bytes of a segment as far as they are shown.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    seq: u32,
    ack: u32,
    bytes: &'a [u8],
    /// Bytes behind them that are not shown.
    cut: usize,
}

impl<'a> Shown<'a> {
    const fn of(segment: &Segment<'a>) -> Self {
        // The SYN has a number of its own; data may come with it (RFC 7413).
        let syn = segment.tcp.flags.any(TcpFlags::SYN) as u32;
        Self {
            seq: segment.tcp.seq.wrapping_add(syn),
            ack: segment.tcp.ack,
            bytes: segment.payload,
            cut: segment.punted.frame.missing(),
        }
    }

    fn end(&self) -> u32 {
        plus(self.seq, self.bytes.len() + self.cut)
    }

    fn to_piece(self) -> Piece {
        Piece {
            seq: self.seq,
            ack: self.ack,
            bytes: self.bytes.to_vec(),
            cut: self.cut,
        }
    }
}

/// Which gaps are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gaps {
    /// Those that the receiver has not: it has acknowledged what was never shown.
    Acknowledged,
    /// All of them.
    All,
}

impl Engine {
    fn observe_opener(&mut self, segment: &Segment<'_>) -> Seen {
        let shown = Shown::of(segment);
        if segment.tcp.flags.any(TcpFlags::RST) || shown.end() == shown.seq {
            return Seen::More;
        }
        let place = match self.admit_beside(segment) {
            Ok(place) => place,
            Err(seen) => return seen,
        };
        self.acknowledge(place, segment.punted.meta.acked_seq);
        if let Some(flow) = self.flows.at(place) {
            if flow.inspector.is_settled() {
                return Seen::Done;
            }
            flow.last_ack = segment.tcp.ack;
        }
        let now_ns = segment.punted.now_ns;
        self.take(place, shown, now_ns);
        self.drain(place, now_ns, Gaps::Acknowledged);
        self.drain_replies(place, now_ns, Gaps::Acknowledged);
        let Some(flow) = self.flows.at(place) else {
            return Seen::Done;
        };
        let next = flow.stream.next();
        if flow.inspector.is_settled() {
            Seen::Done
        } else if before(shown.end(), next) {
            Seen::Skip { until: next }
        } else {
            Seen::More
        }
    }

    fn observe_reply(&mut self, segment: &Segment<'_>) -> Seen {
        let Some(place) = self.flows.touch(&segment.punted.id) else {
            return Seen::More;
        };
        let Some(flow) = self.flows.at(place) else {
            return Seen::More;
        };
        let now_ns = segment.punted.now_ns;
        flow.last_seen_ns = now_ns;
        if flow.inspector.is_settled() {
            return Seen::Done;
        }
        if segment.tcp.flags.any(TcpFlags::ACK) {
            self.acknowledge(place, Some(segment.tcp.ack));
        }
        let shown = Shown::of(segment);
        if shown.end() != shown.seq && !segment.tcp.flags.any(TcpFlags::RST) {
            self.take_reply(place, shown, now_ns);
        }
        self.drain_replies(place, now_ns, Gaps::Acknowledged);
        self.drain(place, now_ns, Gaps::Acknowledged);
        Seen::More
    }

    /// The place of the connection; or what is to be told instead.
    fn admit_beside(&mut self, segment: &Segment<'_>) -> Result<usize, Seen> {
        let id = segment.punted.id;
        // A connection that the rules of this moment read otherwise is begun anew, once.
        let admitted = match self.admit(segment) {
            Err(Decision::Reset(_)) if self.flows.get(&id).is_some() => {
                self.forget(&id);
                self.admit(segment)
            }
            admitted => admitted,
        };
        admitted.map_err(|decision| {
            match decision {
                // Engine and kernel are under different policies for a moment.
                Decision::Park(_) => return Seen::More,
                Decision::Drop(reason) | Decision::Reset(reason) => self.record(segment, reason),
                _ => {}
            }
            Seen::Done
        })
    }

    /// A connection that was not known: from its first byte if that is close, else from here.
    pub(crate) fn create_beside(&mut self, segment: &Segment<'_>, policy: FlowPolicy, inspector: Inspector) -> usize {
        let seq = Shown::of(segment).seq;
        let is_close = |base: &u32| !before(seq, *base) && between(*base, seq) <= self.limits.flow_bytes_max;
        match segment.punted.meta.base_seq.filter(is_close) {
            Some(base) => self.create(segment, policy, inspector, base),
            None => {
                let inspector = Inspector::after_loss(&policy.rules, &self.limits);
                self.create(segment, policy, inspector, seq)
            }
        }
    }

    fn acknowledge(&mut self, place: usize, acked: Option<u32>) {
        let (Some(acked), Some(flow)) = (acked, self.flows.at(place)) else {
            return;
        };
        if flow.beside.acked.is_none_or(|known| before(known, acked)) {
            flow.beside.acked = Some(acked);
            // What the other side has and was never shown is not forgotten here, but missed below.
            if !before(flow.stream.next(), acked) {
                flow.stream.acknowledged(acked, flow.inspector.pending());
            }
        }
    }

    /// Takes bytes of the opener: those that come next are read, later ones wait.
    fn take(&mut self, place: usize, shown: Shown<'_>, now_ns: u64) {
        let Some(flow) = self.flows.at(place) else { return };
        let Place::Repeats(repeated) = flow.stream.place(shown.seq, shown.bytes.len()) else {
            flow.beside.ahead.hold(shown.to_piece());
            return;
        };
        let old = shown.bytes.get(..repeated).unwrap_or_default();
        if !flow.stream.repeats(shown.seq, old) {
            self.record_beside(place, DropReason::RetransmissionDiffers, now_ns);
        }
        let new = shown.bytes.get(repeated..).unwrap_or_default();
        let seq = plus(shown.seq, repeated);
        if !new.is_empty() {
            self.read_shown(
                place,
                Shown {
                    seq,
                    bytes: new,
                    ..shown
                },
                now_ns,
            );
        }
        if shown.cut > 0 {
            self.skip_to(place, shown.end());
        }
    }

    /// Reads bytes that come next.
    fn read_shown(&mut self, place: usize, shown: Shown<'_>, now_ns: u64) {
        let Some(flow) = self.flows.at(place) else { return };
        if flow.beside.waits {
            flow.beside.ahead.hold(shown.to_piece());
            return;
        }
        if let Err(decision) = self.make_room(place, shown.bytes.len()) {
            if let Decision::Drop(reason) = decision {
                self.desk.counters.count_reason(reason);
            }
            return self.lose_track(place, shown.end());
        }
        let was_sniffing = matches!(
            self.flows.at(place).map(|flow| &flow.inspector),
            Some(Inspector::Sniff(_))
        );
        let turn = Turn {
            now_ns,
            ack: shown.ack,
            reply_idle: true,
        };
        let Ok(inspection) = self.read_new(place, shown.bytes, turn) else {
            return;
        };
        let Some(flow) = self.flows.at(place) else { return };
        if was_sniffing && flow.inspector.reads_replies() && !flow.inspector.is_settled() {
            flow.reply_next = flow.reply_next.or(Some(shown.ack));
        }
        match inspection.refusal {
            None => {
                flow.beside.misses = 0;
                if flow.inspector.grant(&mut flow.stream).is_some() {
                    self.desk.counters.count(EngineCounter::BypassGranted);
                }
                if flow.inspector.is_settled() {
                    flow.stream = Stream::new(flow.stream.next());
                    flow.beside = BesideState::default();
                }
            }
            Some(_) if inspection.patience == Patience::Endless => {
                let next = flow.stream.next();
                let rest = shown.bytes.get(between(shown.seq, next)..).unwrap_or_default();
                flow.beside.waits = true;
                flow.beside.ahead.hold(
                    Shown {
                        seq: next,
                        bytes: rest,
                        ..shown
                    }
                    .to_piece(),
                );
            }
            Some(refusal) => {
                if !was_sniffing {
                    self.record_beside(place, refusal.reason, now_ns);
                }
                self.lose_track(place, plus(shown.seq, shown.bytes.len()));
            }
        }
    }

    /// Reads what waited, as far as nothing is missing before it.
    fn drain(&mut self, place: usize, now_ns: u64, gaps: Gaps) {
        // Each turn takes a piece, or closes the gap before one.
        while let Some(flow) = self.flows.at(place) {
            let too_much = flow.beside.ahead.is_too_much(self.limits.flow_bytes_max);
            if flow.beside.waits {
                if too_much || gaps == Gaps::All {
                    // The answer was not shown.
                    flow.beside.waits = false;
                    flow.reply_next = None;
                    flow.inspector.reply_lost();
                    continue;
                }
                return;
            }
            if let Some(piece) = flow.beside.ahead.take_ready(flow.stream.next()) {
                let shown = Shown {
                    seq: piece.seq,
                    ack: piece.ack,
                    bytes: &piece.bytes,
                    cut: piece.cut,
                };
                self.take(place, shown, now_ns);
                continue;
            }
            let Some(first) = flow.beside.ahead.first() else { return };
            let is_acked = flow.beside.acked.is_some_and(|acked| !before(acked, first));
            if !is_acked && !too_much && gaps == Gaps::Acknowledged {
                return;
            }
            self.skip_to(place, first);
        }
    }

    /// Takes bytes of the other side, if they are read.
    fn take_reply(&mut self, place: usize, shown: Shown<'_>, now_ns: u64) {
        let Some(flow) = self.flows.at(place) else { return };
        let Some(next) = flow.reply_next else { return };
        if before(next, shown.seq) {
            flow.beside.replies_ahead.hold(shown.to_piece());
            return;
        }
        let repeated = between(shown.seq, next).min(shown.bytes.len());
        let new = shown.bytes.get(repeated..).unwrap_or_default();
        if !new.is_empty()
            && let Ok(reading) = self.read_reply(place, new, now_ns)
            && let Some(not_on) = reading.not_on
        {
            if let NotOn::Never(reason) = not_on {
                self.record_beside(place, reason, now_ns);
            }
            self.skip_reply_to(place, plus(shown.seq, shown.bytes.len()));
        }
        if shown.cut > 0 {
            self.skip_reply_to(place, shown.end());
        }
        if let Some(flow) = self.flows.at(place) {
            // Nothing more is read: the question is answered.
            flow.beside.waits &= flow.reply_next.is_some();
        }
    }

    fn drain_replies(&mut self, place: usize, now_ns: u64, gaps: Gaps) {
        // Each turn takes a piece, or closes the gap before one.
        while let Some(flow) = self.flows.at(place) {
            let Some(next) = flow.reply_next else {
                flow.beside.replies_ahead = Ahead::default();
                return;
            };
            if let Some(piece) = flow.beside.replies_ahead.take_ready(next) {
                let shown = Shown {
                    seq: piece.seq,
                    ack: piece.ack,
                    bytes: &piece.bytes,
                    cut: piece.cut,
                };
                self.take_reply(place, shown, now_ns);
                continue;
            }
            let Some(first) = flow.beside.replies_ahead.first() else {
                return;
            };
            let is_acked = !before(flow.last_ack, first);
            if !is_acked
                && gaps == Gaps::Acknowledged
                && !flow.beside.replies_ahead.is_too_much(self.limits.flow_bytes_max)
            {
                return;
            }
            self.skip_reply_to(place, first);
        }
    }

    /// The opener's bytes before this number will never be shown.
    fn skip_to(&mut self, place: usize, seq: u32) {
        let Some(flow) = self.flows.at(place) else { return };
        let next = flow.stream.next();
        if !before(next, seq) {
            return;
        }
        if flow.inspector.skip(u64::from(seq.wrapping_sub(next))) {
            flow.stream = Stream::new(seq);
        } else {
            self.lose_track(place, seq);
        }
    }

    /// The same of the other side's.
    fn skip_reply_to(&mut self, place: usize, seq: u32) {
        let Some(flow) = self.flows.at(place) else { return };
        if flow.reply_next.is_some_and(|next| before(next, seq)) {
            flow.reply_next = flow.inspector.reply_lost().then_some(seq);
        }
    }

    /// It is not known what the bytes before this number were, or they were nothing that can be read.
    fn lose_track(&mut self, place: usize, seq: u32) {
        let Self {
            desk, flows, limits, ..
        } = self;
        let Some(flow) = flows.at(place) else { return };
        flow.stream = Stream::new(seq);
        flow.head_since_ns = None;
        flow.reply_next = None;
        flow.beside.waits = false;
        flow.beside.misses += 1;
        if flow.beside.misses >= MISSES_MAX {
            desk.counters.count(EngineCounter::GivenUp);
            flow.inspector = Inspector::GivenUp;
            flow.beside = BesideState::default();
        } else {
            if !matches!(flow.inspector, Inspector::Sniff(_)) {
                desk.counters.count(EngineCounter::LostTrack);
            }
            flow.inspector = Inspector::after_loss(&flow.policy.rules, limits);
        }
    }

    fn record_beside(&mut self, place: usize, reason: DropReason, now_ns: u64) {
        let Self { desk, flows, .. } = self;
        let Some(flow) = flows.at(place) else { return };
        let about = About::of_connection(&flow.id, flow.base, &flow.policy, now_ns, true);
        desk.record_drop(&about, reason);
    }

    fn close_gaps(&mut self, id: &FlowId, now_ns: u64) {
        let Some(place) = self.flows.touch(id) else { return };
        self.drain_replies(place, now_ns, Gaps::All);
        self.drain(place, now_ns, Gaps::All);
    }

    fn tick_beside(&mut self, now_ns: u64) {
        let limits = self.limits;
        let idle_ns = |flow: &Flow| now_ns.saturating_sub(flow.last_seen_ns);
        let is_over = |flow: &Flow| {
            let patience_ns = if flow.inspector.at_boundary() {
                limits.quiet_timeout_ns
            } else {
                limits.idle_timeout_ns
            };
            idle_ns(flow) >= patience_ns
        };
        let waits_in_vain = |flow: &Flow| flow.beside.is_waiting() && idle_ns(flow) >= GAP_PATIENCE_NS;
        let due = self.flows.sweep(SWEEP_MAX, |flow| is_over(flow) || waits_in_vain(flow));
        for id in due {
            self.close_gaps(&id, now_ns);
            if self.flows.get(&id).is_some_and(|flow| is_over(flow)) {
                self.forget(&id);
                self.desk.counters.count(EngineCounter::FlowExpired);
            }
        }
        self.expire(now_ns);
    }
}
