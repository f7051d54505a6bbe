//! Carrying out a decision: counters, records, the state of the connection, frames of our own.

use crate::answer::{self, Reply};
use crate::counters::{EngineCounter, EngineCounters};
use crate::decide::{Decision, Engine, find_endpoint, policy_of};
use crate::flow::Closed;
use crate::inspector::Change;
use crate::judge::About;
use crate::outbox::Outbox;
use crate::punted::{FlowId, Punted, Segment};
use crate::seq::{before, plus};
use crate::stream::Stream;
use seventh_abi::{DropReason, InjectAction};
use seventh_parsers::packet::TcpFlags;
use std::borrow::Cow;

/// Connections that one [`Engine::tick`] looks at.
const SWEEP_MAX: usize = 1024;

impl Engine {
    /// Does what was decided. The action for the kernel if the very frame goes on.
    pub(crate) fn carry_out(&mut self, decision: Decision, segment: &Segment<'_>, out: &mut Outbox) -> Option<Change> {
        let counters = &self.desk.counters;
        match decision {
            Decision::Forward(change) => {
                counters.count(EngineCounter::Forwarded);
                return Some(change);
            }
            Decision::ForwardPart { payload, change } => {
                counters.count(EngineCounter::ForwardedPart);
                match out.next() {
                    Some(frame) => answer::write_part(frame, segment, &payload, change),
                    None => counters.count(EngineCounter::OutboxFull),
                }
            }
            Decision::Defer => counters.count(EngineCounter::DenialDeferred),
            Decision::Drop(reason) | Decision::Park(reason) => self.record(segment, reason),
            Decision::Reset(reason) => self.reset(segment, reason, out),
            Decision::Refuse {
                reason,
                repeated,
                answer,
            } => self.refuse(segment, reason, repeated, answer, out),
            Decision::Repeat => self.repeat(segment, out),
        }
        None
    }

    /// As [`Engine::carry_out`], for a datagram: nothing to reset, nothing to repeat; a refusal's answer goes to the
    /// opener.
    pub(crate) fn carry_out_datagram(
        &mut self,
        decision: Decision,
        punted: &Punted<'_>,
        out: &mut Outbox,
    ) -> Option<Change> {
        let reason = match decision {
            Decision::Forward(change) => {
                self.desk.counters.count(EngineCounter::Forwarded);
                return Some(change);
            }
            Decision::Defer => return None,
            Decision::Drop(reason) | Decision::Reset(reason) | Decision::Park(reason) => reason,
            Decision::Refuse { reason, answer, .. } => {
                self.desk.counters.count(EngineCounter::RequestDenied);
                match out.next() {
                    Some(frame) => {
                        answer::write_datagram(frame, answer::Line::of(punted), &answer);
                    }
                    None => self.desk.counters.count(EngineCounter::OutboxFull),
                }
                reason
            }
            Decision::ForwardPart { .. } | Decision::Repeat => DropReason::EngineFault,
        };
        self.record_datagram(punted, reason);
        None
    }

    pub(crate) fn record_datagram(&mut self, punted: &Punted<'_>, reason: DropReason) {
        let view = self.desk.shared.load_policy();
        let policy =
            find_endpoint(&view, punted).and_then(|endpoint| policy_of(&self.desk.shared, &view, endpoint, punted));
        self.desk.record_drop(&About::of(punted, policy.as_ref().ok()), reason);
    }

    /// Looks after connections on which nothing happens: heads that were begun and not finished in time are reset,
    /// connections without frames are forgotten. Call it about once a second; each call looks at 1024 connections at
    /// most.
    pub fn tick(&mut self, now_ns: u64, out: &mut Outbox) {
        for id in self.flows.sweep(SWEEP_MAX, |_| true) {
            let Some(flow) = self.flows.get(&id) else { continue };
            let idle_ns = now_ns.saturating_sub(flow.last_seen_ns);
            let (patience_ns, head_since_ns) = match flow.closed {
                Some(_) => (self.limits.closed_timeout_ns, None),
                None if flow.finished => (self.limits.closed_timeout_ns, flow.head_since_ns),
                None if self.limits.take_up && flow.inspector.at_boundary() => (self.limits.quiet_timeout_ns, None),
                None => (self.limits.idle_timeout_ns, flow.head_since_ns),
            };
            if idle_ns >= patience_ns {
                self.forget(&id);
                self.desk.counters.count(EngineCounter::FlowExpired);
            } else if head_since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= self.limits.head_timeout_ns) {
                self.time_out_head(&id, now_ns, out);
            }
        }
        self.expire(now_ns);
    }

    /// Forgets what is too old of the rest, and says how much there is.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        self.desk.dns.expire(now_ns);
        self.quic.expire(now_ns);
        debug_assert_eq!(self.flows.held(), self.flows.held_by_each());
        let held = self.flows.held() + self.quic.held_bytes();
        self.desk
            .counters
            .set(EngineCounter::Flows, self.flows.len() + self.quic.len());
        self.desk.counters.set(EngineCounter::HeldBytes, held);
    }

    fn time_out_head(&mut self, id: &FlowId, now_ns: u64, out: &mut Outbox) {
        self.close(id, Closed::Reset);
        let Some(flow) = self.flows.get(id) else { return };
        let about = About::of_connection(id, flow.base, &flow.policy, now_ns, false);
        self.desk.forget_request();
        self.desk.record_drop(&about, DropReason::HeadTimeout);
        let mut line = Line {
            of: answer::Line {
                id,
                connection: flow.connection,
                link: &flow.link,
            },
            counters: &self.desk.counters,
            out,
        };
        line.reset_opener(flow.last_ack, flow.stream.next());
        line.reset_other(&[flow.stream.next()], flow.last_ack);
    }

    pub(crate) fn record(&mut self, segment: &Segment<'_>, reason: DropReason) {
        let policy = self.flows.get(&segment.punted.id).map(|flow| &flow.policy);
        self.desk.record_drop(&About::of(&segment.punted, policy), reason);
    }

    fn reset(&mut self, segment: &Segment<'_>, reason: DropReason, out: &mut Outbox) {
        self.record(segment, reason);
        let next = self.flows.get(&segment.punted.id).map(|flow| flow.stream.next());
        self.close(&segment.punted.id, Closed::Reset);
        let tcp = &segment.tcp;
        // Where the other side may be.
        let acked = segment.punted.meta.acked_seq.or(segment.punted.meta.compared_to);
        let mut line = Line::of(segment, &self.desk.counters, out);
        if segment.punted.meta.reply {
            line.reset_opener(tcp.seq, tcp.ack);
            line.reset_other(&[tcp.ack], segment.end());
            return;
        }
        line.reset_opener(tcp.ack, segment.end());
        line.reset_other(&[tcp.seq, acked.unwrap_or(tcp.seq), next.unwrap_or(tcp.seq)], tcp.ack);
    }

    fn refuse(
        &mut self,
        segment: &Segment<'_>,
        reason: DropReason,
        repeated: usize,
        answer: Cow<'static, [u8]>,
        out: &mut Outbox,
    ) {
        self.desk.counters.count(EngineCounter::RequestDenied);
        self.record(segment, reason);
        let tcp = &segment.tcp;
        // Where the other side may be.
        let acked = segment.punted.meta.acked_seq.or(segment.punted.meta.compared_to);
        let mut line = Line::of(segment, &self.desk.counters, out);
        line.refuse(segment, &answer);
        // What the other side expects next: our first new byte; this segment's first if its beginning is the rest of
        // a body that was given free; what it last acknowledged if something before was lost.
        line.reset_other(&[plus(tcp.seq, repeated), tcp.seq, acked.unwrap_or(tcp.seq)], tcp.ack);
        let response_seq = tcp.ack;
        self.close(&segment.punted.id, Closed::Refused { response_seq, answer });
    }

    /// The opener's data or FIN after the end. It gets the refusal again if it has not got it, else an acknowledgement, so
    /// that its side of the connection can end. What it acknowledges may be the other side's, which had said more before the
    /// refusal came ([`DropReason::AnswerOvertaken`]).
    fn repeat(&mut self, segment: &Segment<'_>, out: &mut Outbox) {
        self.desk.counters.count(EngineCounter::AnsweredClosed);
        let tcp = &segment.tcp;
        let closed = self.flows.get(&segment.punted.id).and_then(|flow| flow.closed.as_mut());
        if segment.end() == tcp.seq || tcp.flags.any(TcpFlags::RST) {
            return;
        }
        let mut line = Line::of(segment, &self.desk.counters, out);
        match closed {
            Some(Closed::Refused { response_seq, answer }) if !has_got(*response_seq, answer, tcp.ack) => {
                *response_seq = tcp.ack;
                line.refuse(segment, answer);
            }
            Some(Closed::Refused { .. }) => line.acknowledge(segment),
            Some(Closed::Reset) | None => line.reset_opener(tcp.ack, segment.end()),
        }
        // The kernel does not know of the end: the frames that told it were lost, and so was the other side's reset.
        if !segment.punted.meta.closed {
            line.reset_other(&[tcp.seq, segment.punted.meta.acked_seq.unwrap_or(tcp.seq)], tcp.ack);
        }
    }

    /// Ends the connection and gives its memory back.
    fn close(&mut self, id: &FlowId, closed: Closed) {
        let Some(flow) = self.flows.get(id) else { return };
        flow.closed = Some(closed);
        flow.head_since_ns = None;
        flow.stream = Stream::new(flow.stream.next());
        flow.inspector.release(&self.limits);
    }
}

/// Whether an opener that acknowledges this has the answer that began at this number, or is still before it.
fn has_got(response_seq: u32, answer: &[u8], ack: u32) -> bool {
    let end = plus(response_seq, answer.len());
    ack == end || ack == plus(end, 1) || before(ack, response_seq)
}

/// Where frames of one connection are written.
struct Line<'a> {
    of: answer::Line<'a>,
    counters: &'a EngineCounters,
    out: &'a mut Outbox,
}

impl<'a> Line<'a> {
    fn of(segment: &'a Segment<'_>, counters: &'a EngineCounters, out: &'a mut Outbox) -> Self {
        Self {
            of: answer::Line::of(&segment.punted),
            counters,
            out,
        }
    }

    /// The refusal, with FIN, where the opener expects the next byte.
    fn refuse(&mut self, segment: &Segment<'_>, answer: &[u8]) {
        self.send(&Reply {
            payload: answer,
            flags: TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN,
            ..to_opener(segment)
        });
    }

    fn acknowledge(&mut self, segment: &Segment<'_>) {
        self.send(&to_opener(segment));
    }

    /// RFC 9293 §3.10.7.4 and RFC 5961 §3: a reset counts only with exactly the number that is expected next.
    fn reset_opener(&mut self, seq: u32, ack: u32) {
        self.reset(true, seq, ack);
    }

    /// A reset at each of the places where the other side may stand. At others it is ignored or asked back about, and
    /// the kernel lets no such answer through any more.
    fn reset_other(&mut self, places: &[u32], ack: u32) {
        for (index, &seq) in places.iter().enumerate() {
            if places.iter().take(index).any(|&earlier| earlier == seq) {
                continue;
            }
            self.reset(false, seq, ack);
        }
    }

    fn reset(&mut self, to_opener: bool, seq: u32, ack: u32) {
        self.send(&Reply {
            to_opener,
            seq,
            ack,
            flags: TcpFlags::RST | TcpFlags::ACK,
            timestamps: None,
            payload: &[],
            change: InjectAction::Close.into(),
        });
    }

    fn send(&mut self, reply: &Reply<'_>) {
        match self.out.next() {
            Some(frame) => answer::write(frame, self.of, reply),
            None => self.counters.count(EngineCounter::OutboxFull),
        }
    }
}

/// An acknowledgement of all that the segment holds, its FIN included.
fn to_opener(segment: &Segment<'_>) -> Reply<'static> {
    Reply {
        to_opener: true,
        seq: segment.tcp.ack,
        ack: segment.end(),
        flags: TcpFlags::ACK,
        // The last TSval of the other side that the opener has seen, echoed by it: not older than what it expects.
        timestamps: segment.punted.frame.tcp_timestamps().map(|(value, echo)| (echo, value)),
        payload: &[],
        change: InjectAction::Close.into(),
    }
}
