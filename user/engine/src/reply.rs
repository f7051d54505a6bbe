//! Data of the side that was opened to, on connections whose answers are read.
//!
//! Nothing here guards the other side's reader: whoever answers may answer what it likes. What is kept is the order, so
//! that an inspector sees each byte once and none is let through before it was read.

use crate::decide::{Decision, Engine, find_endpoint, policy_of};
use crate::dns::NotOn;
use crate::flow::Flow;
use crate::inspector::{Change, Judge, ReplyReading};
use crate::judge::About;
use crate::punted::Segment;
use crate::seq::{before, between, plus};
use seventh_abi::{DropReason, InjectAction, PuntMeta, Replies};
use seventh_parsers::packet::TcpFlags;

/// After an upgrade to HTTP/2 the other side's data comes here until all of it that did is back in the kernel, so that its
/// frames are followed in their order; but no more of it than so many bytes.
const HANDED_OVER_LEN_MAX: usize = 64 * 1024;

impl Engine {
    /// Decides a segment of the side that was opened to. `Err` is a decision too: the one of an early tier.
    pub(crate) fn decide_reply(&mut self, segment: &Segment<'_>) -> Result<Decision, Decision> {
        if segment.payload.is_empty() {
            return Ok(Decision::Forward(Change::default()));
        }
        if segment.tcp.flags.any(TcpFlags::SYN | TcpFlags::RST) || !segment.tcp.flags.any(TcpFlags::ACK) {
            return Err(Decision::Drop(DropReason::EngineInvalidHeader));
        }
        let place = self.admit_reply(segment)?;
        let flow = self.flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
        if flow.closed.is_some() {
            return Err(Decision::Drop(DropReason::DeniedConnection));
        }
        let Some(next) = flow.reply_next else {
            return Ok(Decision::Forward(not_read(flow, segment.tcp.seq)));
        };
        if before(next, segment.tcp.seq) {
            return Err(Decision::Drop(DropReason::OutOfOrder));
        }
        let repeated = between(segment.tcp.seq, next).min(segment.payload.len());
        let new = segment.payload.get(repeated..).unwrap_or_default();
        if new.is_empty() {
            return Ok(Decision::Forward(Change::default()));
        }
        let reading = self.read_reply(place, new, segment.punted.now_ns)?;
        let flow = self.flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
        let passes = flow.may_pass(&segment.punted.meta);
        if flow.inspector.pending() == 0 {
            // The connection may be settled by this answer, whatever its opener has begun meanwhile.
            flow.head_since_ns = None;
        }
        match reading.not_on {
            Some(NotOn::Never(reason)) => return Err(Decision::Reset(reason)),
            Some(NotOn::Later(reason)) => return Err(Decision::Park(reason)),
            None => {}
        }
        let change = if reading.more {
            Change::default()
        } else {
            not_read(flow, segment.tcp.seq)
        };
        let action = if passes {
            InjectAction::Forward {
                epoch: flow.policy.epoch,
            }
        } else {
            change.action
        };
        self.relieve();
        Ok(Decision::Forward(Change { action, ..change }))
    }

    /// Has new bytes read, which begin where the other side's bytes are to be read next.
    pub(crate) fn read_reply(&mut self, place: usize, new: &[u8], now_ns: u64) -> Result<ReplyReading, Decision> {
        let flow = self.flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
        let about = About::of_connection(&flow.id, flow.base, &flow.policy, now_ns, false);
        let reading = flow.inspector.read_reply(
            new,
            &mut Judge {
                desk: &mut self.desk,
                policy: &flow.policy,
                about: &about,
            },
        );
        if reading.not_on.is_some() {
            return Ok(reading);
        }
        flow.reply_next = flow.reply_next.map(|next| plus(next, new.len()));
        if let (Some(next), Some(frames)) = (flow.reply_next, reading.frames) {
            flow.frames_from = Some(next.wrapping_sub(u32::try_from(frames).unwrap_or(0)));
        }
        flow.reply_next = flow.reply_next.filter(|_| reading.more);
        Ok(reading)
    }

    /// The place of the connection, under the endpoint's policy of this moment.
    fn admit_reply(&mut self, segment: &Segment<'_>) -> Result<usize, Decision> {
        let punted = &segment.punted;
        let view = self.desk.shared.load_policy();
        let endpoint = find_endpoint(&view, punted)?;
        let Some(place) = self.meet(punted) else {
            let policy = policy_of(&self.desk.shared, &view, endpoint, punted);
            if policy.as_ref().is_ok_and(|policy| policy.rules.tls().is_some()) && nothing_asked(&punted.meta) {
                // A server that speaks first, on a connection that is judged by what its opener says.
                return Err(Decision::Forward(Change::default()));
            }
            // An answer to nothing that this engine has seen.
            return Err(policy.err().unwrap_or(Decision::Reset(DropReason::MidStream)));
        };
        let flow = self.flows.at(place).ok_or(Decision::Drop(DropReason::EngineFault))?;
        flow.last_seen_ns = punted.now_ns;
        if flow.closed.is_none() && flow.policy.epoch != endpoint.epoch {
            self.judge_again(place, punted, policy_of(&self.desk.shared, &view, endpoint, punted))?;
        }
        match self.passes(place, punted)? {
            Some(action) => Err(Decision::Forward(Change {
                action,
                replies: Replies::Pass,
            })),
            None => Ok(place),
        }
    }
}

/// What a segment of the other side that begins here tells the kernel, if nothing of it is to be read (any more).
fn not_read(flow: &Flow, seq: u32) -> Change {
    match flow.frames_from {
        None => Change {
            replies: Replies::Pass,
            ..Change::default()
        },
        Some(start) => Change {
            action: InjectAction::FollowFrames { start },
            replies: if before(seq, start) || between(start, seq) < HANDED_OVER_LEN_MAX {
                Replies::Keep
            } else {
                Replies::Pass
            },
        },
    }
}

/// The other side has received nothing of the opener.
fn nothing_asked(meta: &PuntMeta) -> bool {
    meta.base_seq.is_some() && meta.acked_seq == meta.base_seq
}
