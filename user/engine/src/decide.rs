//! The decision.

use crate::answer;
use crate::counters::EngineCounter;
use crate::dns;
use crate::flow::{BesideState, Flow, FlowPolicy, FlowTable, Grant};
use crate::inspector::{Change, Inspection, Inspector, Judge, Patience, Refusal};
use crate::judge::{About, Desk};
use crate::outbox::Outbox;
use crate::parked::{Parked, Parking};
use crate::punted::{self, FlowId, Punted, Segment};
use crate::quic_flows::QuicFlows;
use crate::seq::{before, plus};
use crate::shared::{EndpointView, EngineLimits, EngineShared, PolicyView};
use crate::stream::{Place, Stream};
use seventh_abi::{Direction, DropReason, FlowKey, Frontier, Hook, InjectAction, Replies};
use seventh_parsers::packet::{TcpFlags, Transport};
use seventh_policy::{L4Decision, RuleSetKind};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Connections that one frame may push out when memory is short.
const PRESSURE_EVICTIONS_MAX: usize = 4;
/// Distance behind the stream at which the kernel is told to forget a range, long before its sequence numbers come
/// round again.
const GRANT_STALE: u32 = 1 << 26;

/// What the caller does with the frame it handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Transmit this very frame: its MAC bytes now hold [`seventh_abi::InjectMeta`].
    Forward,
    /// Forget it. What is to be sent instead, if anything, is in the outbox.
    Consumed,
}

/// A decision about one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The whole frame goes on.
    Forward(Change),
    /// A copy with only these bytes of its payload goes on.
    ForwardPart { payload: Range<usize>, change: Change },
    /// Nothing goes on; the retransmission will be judged again.
    Defer,
    /// The frame waits here for something that will be there in a moment, and is decided again. If it never is, the frame
    /// is dropped for this reason.
    Park(DropReason),
    /// Nothing goes on, nobody is told.
    Drop(DropReason),
    /// The connection ends: a reset to each side.
    Reset(DropReason),
    /// The connection ends: `answer` to the opener, a reset to the other side. The first `repeated` bytes of the payload
    /// had been let through before.
    Refuse {
        reason: DropReason,
        repeated: usize,
        answer: Cow<'static, [u8]>,
    },
    /// The connection has ended: the opener is told again what it was told then.
    Repeat,
}

impl Decision {
    /// The first `gone` of the `len` bytes were acknowledged, but perhaps by somebody who only pretends to be the other
    /// side. They cannot be compared any more, so none of them goes on. If nothing else is left, an empty segment in
    /// their place makes the other side acknowledge again.
    fn without(self, gone: usize, len: usize) -> Self {
        match self {
            Self::Forward(change) if gone > 0 => Self::ForwardPart {
                payload: gone..len,
                change,
            },
            Self::ForwardPart { payload, change } => Self::ForwardPart {
                payload: gone.min(payload.end)..payload.end,
                change,
            },
            other => other,
        }
    }
}

/// What is known of a segment beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) now_ns: u64,
    pub(crate) ack: u32,
    /// See [`seventh_abi::PuntMeta::reply_idle`].
    pub(crate) reply_idle: bool,
}

impl Turn {
    pub(crate) const fn of(segment: &Segment<'_>) -> Self {
        Self {
            now_ns: segment.punted.now_ns,
            ack: segment.tcp.ack,
            reply_idle: segment.punted.meta.reply_idle,
        }
    }
}

/// Decides punted frames. One per worker; a connection always meets the same one.
#[derive(Debug)]
pub struct Engine {
    pub(crate) desk: Desk,
    pub(crate) flows: FlowTable,
    pub(crate) limits: EngineLimits,
    pub(crate) quic: QuicFlows,
    pub(crate) parked: Parked,
}

impl Engine {
    /// An engine without any connection.
    #[must_use]
    pub fn new(shared: Arc<EngineShared>, limits: EngineLimits) -> Self {
        Self {
            desk: Desk::new(shared, &limits),
            flows: FlowTable::new(limits.flows_max),
            limits,
            quic: QuicFlows::new(&limits),
            parked: Parked::default(),
        }
    }

    /// Decides one punted frame at `now_ns`. The tiers, in order; the first that has an answer ends the matter:
    ///
    /// 1. **Read**: punt metadata, headers, checksums. What cannot be read is dropped. `punted::take_connection`,
    ///    `Punted::read`
    /// 2. **Policy**: what the endpoint's policy of this moment says of the flow. One that it allows or denies without
    ///    looking inside leaves here. `policy_of`
    /// 3. **Connection**: known, new at its first byte, or under way without us (reset). `Engine::admit`
    /// 4. **Closed**: a connection that was refused gets the same answer again. `Decision::Repeat`
    /// 5. **Stream**: a gap is dropped, repeated bytes must be equal. `Engine::place`
    /// 6. **Requests**: the new bytes complete heads; each head is judged. `Engine::inspect`, which asks
    ///    `Inspector::inspect` (where a head ends) and `Desk::judge` (verdict cache, then rules)
    ///
    /// Data of the side that was opened to, where it is read at all, takes tiers 1, 2 and a simpler 5 and 6:
    /// `Engine::decide_reply`.
    ///
    /// Then the decision is carried out by `Engine::carry_out`: this frame goes on, or frames of our own go to `out`,
    /// to be sent in their order. Work is linear in the frame's length; memory is bounded by [`EngineLimits`].
    pub fn decide(&mut self, frame: &mut [u8], now_ns: u64, out: &mut Outbox) -> Fate {
        let Some(connection) = punted::take_connection(frame) else {
            self.desk.counters.count_reason(DropReason::EngineInvalidHeader);
            return Fate::Consumed;
        };
        match self.try_decide(frame, connection, now_ns, out) {
            Ok(fate) => fate,
            Err(parking) => {
                self.park(frame, parking, now_ns);
                Fate::Consumed
            }
        }
    }

    /// As [`Engine::decide`], but leaves a frame that has to wait to the caller. Its connection's number was taken out of it.
    pub(crate) fn try_decide(
        &mut self,
        frame: &mut [u8],
        connection: u16,
        now_ns: u64,
        out: &mut Outbox,
    ) -> Result<Fate, Parking> {
        self.desk.forget_request();
        let punted = match Punted::read(frame, connection, now_ns) {
            Ok(punted) => punted,
            Err(reason) => {
                self.desk.counters.count_reason(reason);
                return Ok(Fate::Consumed);
            }
        };
        let change = match *punted.frame.transport() {
            Transport::Tcp(tcp) => {
                let segment = Segment {
                    punted,
                    tcp,
                    payload: punted.frame.payload(),
                };
                let decision = if punted.meta.reply {
                    self.decide_reply(&segment)
                } else {
                    self.decide_segment(&segment)
                };
                let decision = decision.unwrap_or_else(|early| early);
                if let Decision::Park(reason) = decision {
                    return Err(Parking::of(&punted, reason));
                }
                self.carry_out(decision, &segment, out)
            }
            Transport::Udp(_) => {
                let decision = self.decide_datagram(&punted, out).unwrap_or_else(|early| early);
                if let Decision::Park(reason) = decision {
                    return Err(Parking::of(&punted, reason));
                }
                self.carry_out_datagram(decision, &punted, out)
            }
        };
        let Some(meta) = change.map(|change| answer::onward(&punted, change)) else {
            return Ok(Fate::Consumed);
        };
        let Some(macs) = frame.first_chunk_mut() else {
            return Ok(Fate::Consumed);
        };
        *macs = meta;
        Ok(Fate::Forward)
    }

    /// Tiers 2 to 6 for TCP. `Err` is a decision too: the one of an early tier.
    fn decide_segment(&mut self, segment: &Segment<'_>) -> Result<Decision, Decision> {
        let flags = segment.tcp.flags;
        if segment.payload.is_empty() && !self.is_closed(segment) {
            return Ok(Decision::Forward(Change::default()));
        }
        if flags.any(TcpFlags::SYN | TcpFlags::RST) || !flags.any(TcpFlags::ACK) {
            return Err(Decision::Drop(DropReason::EngineInvalidHeader));
        }
        if flags.any(TcpFlags::URG) {
            return Err(Decision::Drop(DropReason::UrgentData));
        }
        let place = self.admit(segment)?;
        let repeated = self.place(segment, place)?;
        let gone = self.gone(segment, place)?;
        let decision = self.decide_placed(segment, place, repeated)?;
        let flow = self.flow(place)?;
        // A FIN counts where it stands (RFC 9293 §3.10.7.4): behind the last byte of the stream, and if it goes on.
        let is_last = plus(segment.tcp.seq, segment.payload.len()) == flow.stream.next();
        flow.finished |= flags.any(TcpFlags::FIN) && is_last && matches!(decision, Decision::Forward(_));
        Ok(decision.without(gone, segment.payload.len()))
    }

    /// How many of the segment's first bytes cannot be compared with what was let through in their place.
    fn gone(&mut self, segment: &Segment<'_>, place: usize) -> Result<usize, Decision> {
        let stream = &self.flow(place)?.stream;
        // The kernel has compared them, up to where what is known here begins.
        if segment.punted.meta.compared_to == Some(stream.floor()) {
            return Ok(0);
        }
        Ok(stream.gone(segment.tcp.seq, segment.payload.len()))
    }

    /// Tier 6, if there is anything new.
    fn decide_placed(&mut self, segment: &Segment<'_>, place: usize, repeated: usize) -> Result<Decision, Decision> {
        if repeated == segment.payload.len() {
            let flow = self.flow(place)?;
            let mut change = forward_change(flow, segment, None);
            if flow.reply_next.is_some() && !flow.inspector.reads_replies() {
                // The frame that told the kernel so may have been lost.
                change.replies = Replies::Punt;
            }
            return Ok(Decision::Forward(change));
        }
        self.make_room(place, segment.payload.len() - repeated)?;
        self.inspect(segment, place, repeated)
    }

    /// Datagrams of both sides (`punted.meta.reply` tells which). `Err` is a decision too: the one of an early tier.
    pub(crate) fn decide_datagram(&mut self, punted: &Punted<'_>, out: &mut Outbox) -> Result<Decision, Decision> {
        let view = self.desk.shared.load_policy();
        let endpoint = find_endpoint(&view, punted)?;
        let policy = policy_of(&self.desk.shared, &view, endpoint, punted)?;
        let about = About::of(punted, Some(&policy));
        let mut judge = Judge {
            desk: &mut self.desk,
            policy: &policy,
            about: &about,
        };
        match policy.rules.kind() {
            RuleSetKind::Tls(_) => self.decide_quic(punted, &policy, out),
            RuleSetKind::Dns(_) => Ok(dns::datagram(
                &mut judge,
                punted.frame.payload(),
                punted.meta.reply,
                &self.limits,
            )),
            RuleSetKind::Observe => self.observe_datagram(punted, &policy, out),
            RuleSetKind::Http(_) => Err(Decision::Drop(DropReason::InspectorMissing)),
        }
    }

    /// Tiers 2 and 3: the place of the connection, which is now under the endpoint's policy of this moment.
    pub(crate) fn admit(&mut self, segment: &Segment<'_>) -> Result<usize, Decision> {
        let punted = &segment.punted;
        let view = self.desk.shared.load_policy();
        let endpoint = find_endpoint(&view, punted)?;
        if let Some(place) = self.meet(punted) {
            let flow = self.flow(place)?;
            flow.last_seen_ns = punted.now_ns;
            if flow.closed.is_none() && flow.policy.epoch != endpoint.epoch {
                self.judge_again(place, punted, policy_of(&self.desk.shared, &view, endpoint, punted))?;
            }
            self.catch_up(place, segment)?;
            return match self.passes(place, punted)? {
                Some(action) => Err(Decision::Forward(action.into())),
                None => Ok(place),
            };
        }
        if punted.meta.closed {
            return Err(Decision::Repeat);
        }
        let policy = policy_of(&self.desk.shared, &view, endpoint, punted)?;
        let inspector = Inspector::new(&policy.rules, &self.limits);
        let mut inspector = inspector.ok_or(Decision::Reset(DropReason::InspectorMissing))?;
        let frontier = punted.meta.frontier.filter(|_| self.limits.take_up);
        if frontier.is_some_and(|frontier| punted.meta.base_seq != Some(frontier.seq)) {
            inspector.taken_up();
        }
        if self.desk.beside.is_some() {
            return Ok(self.create_beside(segment, policy, inspector));
        }
        let start = first_byte(segment, frontier).ok_or(Decision::Reset(DropReason::MidStream))?;
        if inspector.reads_replies() && !punted.meta.reply_idle {
            // Where the other side's bytes begin is not known: only the opener says so, and it may lie.
            return Err(Decision::Defer);
        }
        let place = self.create(segment, policy, inspector, start);
        self.flow(place)?.request_ack = unanswered(segment, frontier);
        Ok(place)
    }

    /// The frame's connection, if it is known. What is known of another one under the same addresses and ports is over.
    pub(crate) fn meet(&mut self, punted: &Punted<'_>) -> Option<usize> {
        let place = self.flows.touch(&punted.id)?;
        let flow = self.flows.at(place)?;
        if flow.is_met_by(punted) {
            flow.connection = punted.connection;
            return Some(place);
        }
        self.forget(&punted.id);
        None
    }

    /// The kernel has let requests pass by itself since the connection was last seen here: what is known of it begins where the
    /// next one does.
    fn catch_up(&mut self, place: usize, segment: &Segment<'_>) -> Result<(), Decision> {
        let looks_on = self.desk.beside.is_some();
        let flow = self.flow(place)?;
        let meta = &segment.punted.meta;
        let unknown = meta.frontier.is_none() && !meta.clean && meta.acked_seq == Some(flow.stream.next());
        if unknown && flow.closed.is_none() && !looks_on {
            // Something went on behind what is known here: the bytes that come now may not take its place.
            return Err(Decision::Defer);
        }
        let frontier = meta.frontier.filter(|_| flow.closed.is_none());
        let Some(frontier) = frontier.filter(|frontier| before(flow.stream.next(), frontier.seq)) else {
            return Ok(());
        };
        if !flow.inspector.at_boundary() {
            return Err(Decision::Reset(DropReason::MidStream));
        }
        flow.stream = Stream::new(frontier.seq);
        flow.inspector.taken_up();
        flow.grant = None;
        flow.request_ack = unanswered(segment, Some(frontier));
        Ok(())
    }

    /// What the kernel is told if it may carry the connection alone from now on, see [`Flow::may_pass`].
    pub(crate) fn passes(&mut self, place: usize, punted: &Punted<'_>) -> Result<Option<InjectAction>, Decision> {
        let flow = self.flow(place)?;
        let passes = flow.closed.is_none() && flow.may_pass(&punted.meta);
        let epoch = flow.policy.epoch;
        Ok(passes.then_some(InjectAction::Forward { epoch }))
    }

    /// The policy has changed: the connection goes on under it, or it ends, or it is the engine's no longer.
    pub(crate) fn judge_again(
        &mut self,
        place: usize,
        punted: &Punted<'_>,
        policy: Result<FlowPolicy, Decision>,
    ) -> Result<(), Decision> {
        match policy {
            Ok(policy) => {
                let Self { desk, flows, .. } = self;
                let flow = flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
                if !flow.inspector.serves(&policy.rules) {
                    return Err(Decision::Reset(DropReason::MidStream));
                }
                flow.policy = policy;
                let about = About::of(punted, Some(&flow.policy));
                let mut judge = Judge {
                    desk,
                    policy: &flow.policy,
                    about: &about,
                };
                flow.inspector.judge_again(&mut judge).map_err(Decision::Reset)
            }
            Err(decision) => {
                if matches!(decision, Decision::Forward(_)) {
                    self.forget(&punted.id);
                }
                Err(decision)
            }
        }
    }

    pub(crate) fn create(
        &mut self,
        segment: &Segment<'_>,
        policy: FlowPolicy,
        inspector: Inspector,
        start: u32,
    ) -> usize {
        let flow = Flow {
            id: segment.punted.id,
            connection: segment.punted.connection,
            link: segment.punted.link,
            policy,
            base: segment.punted.meta.base_seq.unwrap_or(start),
            stream: Stream::new(start),
            // Nothing of the other side is under way (`reply_idle`): what the opener expects next is what comes next.
            reply_next: inspector.reads_replies().then_some(segment.tcp.ack),
            frames_from: None,
            inspector,
            settled_at: None,
            passes: false,
            request_ack: None,
            last_ack: segment.tcp.ack,
            grant: None,
            closed: None,
            finished: false,
            last_seen_ns: segment.punted.now_ns,
            head_since_ns: None,
            beside: BesideState::default(),
        };
        self.desk.counters.count(EngineCounter::FlowCreated);
        let (place, evicted) = self.flows.insert(flow);
        if evicted.is_some() {
            self.desk.counters.count(EngineCounter::FlowEvicted);
        }
        place
    }

    /// Tiers 4 and 5: how many of the first bytes are repeated ones, all equal to what was inspected.
    fn place(&mut self, segment: &Segment<'_>, place: usize) -> Result<usize, Decision> {
        let (tcp, meta) = (&segment.tcp, &segment.punted.meta);
        let flow = self.flow(place)?;
        if flow.closed.is_some() || meta.closed {
            return Err(Decision::Repeat);
        }
        flow.last_ack = tcp.ack;
        if let Some(acked) = meta.acked_seq {
            // The other side has bytes (or more than a FIN) that we have never seen.
            if before(flow.stream.next().wrapping_add(1), acked) {
                return Err(Decision::Reset(DropReason::MidStream));
            }
            flow.stream.acknowledged(acked, flow.inspector.pending());
        }
        let Place::Repeats(repeated) = flow.stream.place(tcp.seq, segment.payload.len()) else {
            // What is missing here was let through by the kernel, and will not come again.
            let never_comes = meta.compared_to.is_some_and(|end| before(flow.stream.next(), end));
            return Err(if never_comes {
                Decision::Reset(DropReason::MidStream)
            } else {
                Decision::Drop(DropReason::OutOfOrder)
            });
        };
        let old = segment.payload.get(..repeated).unwrap_or_default();
        if !flow.stream.repeats(tcp.seq, old) {
            return Err(Decision::Drop(DropReason::RetransmissionDiffers));
        }
        Ok(repeated)
    }

    /// Sees that the new bytes can be held: connections that were not used lately give way.
    pub(crate) fn make_room(&mut self, place: usize, new: usize) -> Result<(), Decision> {
        let limits = self.limits;
        let flow = self.flow(place)?;
        let id = flow.id;
        if flow.stream.kept_len() + new > limits.flow_bytes_max {
            return Err(Decision::Drop(DropReason::EngineLimit));
        }
        for _ in 0..PRESSURE_EVICTIONS_MAX {
            if self.flows.held() + new <= limits.held_bytes_max {
                return Ok(());
            }
            if self.evict().is_some_and(|evicted| evicted.id == id) {
                break;
            }
        }
        Err(Decision::Drop(DropReason::EngineLimit))
    }

    /// Tier 6.
    fn inspect(&mut self, segment: &Segment<'_>, place: usize, repeated: usize) -> Result<Decision, Decision> {
        let new = segment.payload.get(repeated..).unwrap_or_default();
        let mut inspection = self.read_new(place, new, Turn::of(segment))?;
        let Self { desk, flows, .. } = self;
        let flow = flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
        let decision = match inspection.refusal.take() {
            None => {
                let grant = flow.inspector.grant(&mut flow.stream).map(|(start, end)| Grant {
                    start,
                    end,
                    boundary: flow.inspector.at_boundary(),
                });
                if grant.is_some() {
                    desk.counters.count(EngineCounter::BypassGranted);
                }
                let mut change = forward_change(flow, segment, grant);
                if flow.may_pass(&segment.punted.meta) {
                    change.action = InjectAction::Forward {
                        epoch: flow.policy.epoch,
                    };
                }
                change.replies = inspection.replies;
                Decision::Forward(change)
            }
            Some(refusal) => refused(flow, segment, repeated, &inspection, refusal),
        };
        self.relieve();
        Ok(decision)
    }

    /// What was read has made more to be kept: connections that were not used lately give way.
    pub(crate) fn relieve(&mut self) {
        for _ in 0..PRESSURE_EVICTIONS_MAX {
            if self.flows.held() <= self.limits.held_bytes_max {
                return;
            }
            self.evict();
        }
    }

    /// Has new bytes of the opener read, which begin at the stream's end.
    pub(crate) fn read_new(&mut self, place: usize, new: &[u8], turn: Turn) -> Result<Inspection, Decision> {
        let Self { desk, flows, .. } = self;
        let flow = flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
        let pending_before = flow.inspector.pending();
        let about = About::of_connection(&flow.id, flow.base, &flow.policy, turn.now_ns, turn.reply_idle);
        let mut judge = Judge {
            desk,
            policy: &flow.policy,
            about: &about,
        };
        let inspection = flow.inspector.inspect(&mut flow.stream, new, &mut judge);
        if inspection.allowed > 0 {
            flow.request_ack = Some(turn.ack);
        }
        if flow.inspector.pending() == 0 {
            flow.head_since_ns = None;
        } else if pending_before == 0 || inspection.allowed > 0 {
            flow.head_since_ns = Some(turn.now_ns);
        }
        match inspection.replies {
            // One that is followed already is followed on. Else the inspector has seen to it that nothing of the other
            // side is under way, so that the opener's word for what comes next is the kernel's, too.
            Replies::Punt | Replies::PuntAndCopy => flow.reply_next = flow.reply_next.or(Some(turn.ack)),
            Replies::Pass => flow.reply_next = None,
            Replies::Keep | Replies::Copy => {}
        }
        Ok(inspection)
    }

    pub(crate) fn forget(&mut self, id: &FlowId) {
        self.flows.remove(id);
    }

    fn evict(&mut self) -> Option<Box<Flow>> {
        let evicted = self.flows.evict()?;
        self.desk.counters.count(EngineCounter::FlowEvicted);
        Some(evicted)
    }

    fn flow(&mut self, place: usize) -> Result<&mut Flow, Decision> {
        self.flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))
    }

    fn is_closed(&mut self, segment: &Segment<'_>) -> bool {
        let known = self.flows.get(&segment.punted.id);
        segment.punted.meta.closed || known.is_some_and(|flow| flow.closed.is_some())
    }
}

/// A refusal is told at once only if nothing of earlier requests is under way, in either direction: the 403 would take
/// the sequence numbers of an answer, the reset would cut off a body. Else what comes before the refused bytes goes on
/// and the rest will come again. Of several earlier requests without an answer only the last is known to be one.
fn refused(
    flow: &mut Flow,
    segment: &Segment<'_>,
    repeated: usize,
    inspection: &Inspection,
    refusal: Refusal,
) -> Decision {
    let meta = &segment.punted.meta;
    let begin = flow
        .stream
        .next()
        .wrapping_sub(u32::try_from(flow.inspector.pending()).unwrap_or(0));
    let received = match meta.acked_seq {
        Some(acked) => !before(acked, begin),
        // What the kernel let through comes again.
        None => meta.frontier.is_some() || meta.compared_to.is_none(),
    };
    let answered = flow.request_ack != Some(segment.tcp.ack);
    // A broken body is the fault of the request itself: its server waits for the rest and will not answer first.
    let is_time = match inspection.patience {
        Patience::Answered => refusal.in_body || (received && answered),
        Patience::Idle => true,
        Patience::Endless => false,
        Patience::Over => return Decision::Reset(refusal.reason),
    };
    if meta.reply_idle && inspection.allowed == 0 && is_time {
        return Decision::Refuse {
            reason: refusal.reason,
            repeated,
            answer: refusal.answer,
        };
    }
    match repeated + refusal.passed {
        0 => Decision::Defer,
        len => Decision::ForwardPart {
            payload: 0..len,
            change: Change {
                replies: inspection.replies,
                ..forward_change(flow, segment, None)
            },
        },
    }
}

/// What the kernel is told with a frame that goes on: a new range; the last one again if the frame shows that it was
/// not told (bytes of the range would not have come); to forget one whose numbers would otherwise come round again;
/// that a request begins after this frame, so that another engine may take the connection up there.
fn forward_change(flow: &mut Flow, segment: &Segment<'_>, new: Option<Grant>) -> Change {
    if new.is_some() {
        flow.grant = new;
    }
    let next = flow.stream.next();
    let segment_end = plus(segment.tcp.seq, segment.payload.len());
    let nothing = Grant {
        start: next,
        end: next,
        boundary: flow.inspector.at_boundary(),
    };
    let tell = match flow.grant {
        Some(grant) if segment_end == next && next.wrapping_sub(grant.end) > GRANT_STALE && before(grant.end, next) => {
            flow.grant = None;
            Some(nothing)
        }
        Some(grant) if new.is_some() || (before(segment.tcp.seq, grant.end) && before(grant.start, segment_end)) => {
            Some(grant)
        }
        _ if nothing.boundary && segment_end == next => Some(nothing),
        _ => None,
    };
    tell.map_or_else(Change::default, |Grant { start, end, boundary }| {
        InjectAction::Bypass { start, end, boundary }.into()
    })
}

pub(crate) fn find_endpoint<'a>(view: &'a PolicyView, punted: &Punted<'_>) -> Result<&'a EndpointView, Decision> {
    let endpoint = view.endpoints.get(&punted.meta.ifindex);
    endpoint.ok_or(Decision::Drop(DropReason::EngineNoPolicy))
}

/// What the endpoint's policy says of the flow: the rules that judge its requests, or the decision.
pub(crate) fn policy_of(
    shared: &EngineShared,
    view: &PolicyView,
    endpoint: &EndpointView,
    punted: &Punted<'_>,
) -> Result<FlowPolicy, Decision> {
    let id = &punted.id;
    let protocol = punted.frame.transport().protocol();
    let direction = match id.hook {
        Hook::FromEndpoint => Direction::Egress,
        Hook::ToEndpoint => Direction::Ingress,
    };
    let flow = flow_key(id, direction, protocol);
    let peer_identity = shared
        .peer_identity(view, endpoint, &flow)
        .ok_or(Decision::Park(DropReason::EngineNoPolicy))?;
    match endpoint
        .policy
        .lookup(direction, peer_identity, protocol, id.destination_port)
    {
        L4Decision::Allow => Err(Decision::Forward(
            InjectAction::Forward { epoch: endpoint.epoch }.into(),
        )),
        L4Decision::Deny(reason) => Err(Decision::Reset(reason)),
        L4Decision::Inspect(rules) => Ok(FlowPolicy {
            epoch: endpoint.epoch,
            endpoint_id: endpoint.id,
            peer_identity,
            rules: rules.clone(),
        }),
    }
}

/// The kernel's key of the flow.
fn flow_key(id: &FlowId, direction: Direction, protocol: u8) -> FlowKey {
    let (opener, other) = ((id.source, id.source_port), (id.destination, id.destination_port));
    let (local, peer) = match direction {
        Direction::Egress => (opener, other),
        Direction::Ingress => (other, opener),
    };
    FlowKey {
        local_addr: local.0,
        peer_addr: peer.0,
        ifindex: id.ifindex,
        local_port: local.1,
        peer_port: peer.1,
        protocol,
        direction: direction as u8,
        pad: [0; 2],
    }
}

/// Number of the first byte to read of a connection that is not known: where a request begins, if the kernel knows, else the
/// opener's first byte if none was let through yet. Only then is it certain that no byte of a request went by
/// unseen.
fn first_byte(segment: &Segment<'_>, frontier: Option<Frontier>) -> Option<u32> {
    let meta = &segment.punted.meta;
    let first = || meta.base_seq.filter(|base| meta.clean && meta.acked_seq == Some(*base));
    frontier.map(|frontier| frontier.seq).or_else(first)
}

/// What the opener acknowledges while it has no answer to the request that the kernel let pass last, see
/// [`Flow::request_ack`].
fn unanswered(segment: &Segment<'_>, frontier: Option<Frontier>) -> Option<u32> {
    frontier.filter(|frontier| !frontier.answered).map(|_| segment.tcp.ack)
}
