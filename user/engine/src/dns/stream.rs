//! DNS over TCP: messages with their length in front (RFC 7766 §8), split and joined as the segments please.

use super::held::Held;
use super::{DnsRefusal, NotOn, answer, query, refusal};
use crate::inspector::{Inspection, Judge, Patience, Refusal, ReplyReading};
use crate::stream::Stream;
use seventh_abi::DropReason;
use seventh_parsers::dns::{FRAME_PREFIX_LEN, split_frame};
use std::borrow::Cow;

/// How long a refusal waits at most for answers to queries before it: a server that is slower will not be waited for,
/// as by resolvers.
const AWAIT_NS: u64 = 5_000_000_000;

/// Where in the messages both directions stand.
#[derive(Debug)]
pub(crate) struct DnsInspector {
    refusal: DnsRefusal,
    /// Bytes of the query that has begun and is not complete; they are the tail of the stream.
    taken: usize,
    /// Queries that went on and have not been answered.
    awaited: usize,
    /// When a query was refused for the first time.
    refused_ns: Option<u64>,
    /// The answer that has begun and is not complete.
    answer: Held,
}

/// Why a query may not go on, and what its sender is told.
struct RefusedQuery {
    reason: DropReason,
    answer: Cow<'static, [u8]>,
}

impl DnsInspector {
    pub(crate) fn new(refusal: DnsRefusal) -> Self {
        Self {
            refusal,
            taken: 0,
            awaited: 0,
            refused_ns: None,
            answer: Held::default(),
        }
    }

    /// Bytes of the query that has begun and is not complete.
    pub(crate) const fn pending(&self) -> usize {
        self.taken
    }

    /// Takes new bytes of the opener, which begin at `stream.next()`.
    pub(crate) fn inspect(&mut self, stream: &mut Stream, new: &[u8], judge: &mut Judge<'_>) -> Inspection {
        let mut inspection = Inspection::default();
        let mut rest = new;
        // Each turn takes at least one byte or ends the loop.
        while !rest.is_empty() {
            match self.message(stream, rest, judge) {
                Ok((taken, complete)) => {
                    inspection.allowed += usize::from(complete);
                    rest = rest.get(taken..).unwrap_or_default();
                }
                Err(RefusedQuery { reason, answer }) => {
                    inspection.patience = self.patience(judge.about.time_ns);
                    inspection.refusal = Some(Refusal {
                        reason,
                        passed: new.len() - rest.len(),
                        in_body: false,
                        answer,
                    });
                    break;
                }
            }
        }
        inspection
    }

    /// Takes what `rest` holds of one message: how many bytes, and whether it is complete now.
    fn message(
        &mut self,
        stream: &mut Stream,
        rest: &[u8],
        judge: &mut Judge<'_>,
    ) -> Result<(usize, bool), RefusedQuery> {
        let missing = missing(stream.tail(self.taken), rest);
        let Some(missing) = missing.filter(|missing| *missing <= rest.len()) else {
            stream.append(rest);
            self.taken += rest.len();
            return Ok((rest.len(), false));
        };
        stream.append(rest.get(..missing).unwrap_or_default());
        let framed = stream.tail(self.taken + missing);
        let message = framed.get(FRAME_PREFIX_LEN..).unwrap_or_default();
        let judged = query(judge, message).or_else(|reason| judge.desk.refuse(judge.about, reason));
        if let Err(reason) = judged {
            let answer = framed_refusal(message, reason, self.refusal);
            stream.retract(missing);
            return Err(RefusedQuery { reason, answer });
        }
        self.taken = 0;
        self.awaited += 1;
        Ok((missing, true))
    }

    /// A refusal ends the connection, so what was asked before is answered first; not for ever.
    fn patience(&mut self, now_ns: u64) -> Patience {
        let since_ns = *self.refused_ns.get_or_insert(now_ns);
        if self.awaited > 0 && now_ns.saturating_sub(since_ns) < AWAIT_NS {
            Patience::Endless
        } else {
            Patience::Idle
        }
    }

    /// Bytes of the other side were not shown: what they belong to is forgotten.
    pub(crate) fn answer_lost(&mut self) {
        self.answer = Held::default();
    }

    /// Takes new bytes of the other side, in order. What is not complete cannot be acted on, so it goes on at once; the
    /// bytes that complete an answer do when it is learned.
    pub(crate) fn read_reply(&mut self, new: &[u8], judge: &mut Judge<'_>) -> ReplyReading {
        let not_on = self.read_answers(new, judge).err();
        ReplyReading {
            not_on,
            more: true,
            frames: None,
        }
    }

    /// All answers that end in these bytes are read before the first of them counts as given: if one has to wait, all of
    /// these bytes come again.
    fn read_answers(&mut self, new: &[u8], judge: &mut Judge<'_>) -> Result<(), NotOn> {
        let begun = self.answer.bytes();
        let missing = missing(begun, new).filter(|missing| *missing <= new.len());
        let Some((here, after)) = missing.and_then(|missing| new.split_at_checked(missing)) else {
            return Ok(hold(&mut self.answer, new, judge)?);
        };
        let first = [begun, here].concat();
        let mut answered = Vec::new();
        let mut rest = after;
        let mut next = split_frame(&first).map(|(message, _)| message);
        while let Some(message) = next {
            match answer(judge, message, &answered) {
                Ok(answer) => answered.extend(answer),
                Err(NotOn::Never(reason)) => judge.desk.refuse(judge.about, reason)?,
                Err(later) => return Err(later),
            }
            next = split_frame(rest).map(|(message, after)| {
                rest = after;
                message
            });
        }
        for answered in answered {
            let done = answered.done(judge);
            done.or_else(|reason| judge.desk.refuse(judge.about, reason))?;
            self.awaited = self.awaited.saturating_sub(1);
        }
        self.answer = Held::default();
        Ok(hold(&mut self.answer, rest, judge)?)
    }
}

fn hold(held: &mut Held, more: &[u8], judge: &Judge<'_>) -> Result<(), DropReason> {
    let endpoints = judge.desk.shared.load_policy().endpoints.len();
    held.hold(more, &judge.desk.dns.held, judge.about.id.ifindex, endpoints)
}

/// How many bytes of `rest` belong to the message that begins with `begun`; `None` if that cannot be said yet.
fn missing(begun: &[u8], rest: &[u8]) -> Option<usize> {
    let mut prefix = begun.iter().chain(rest).copied();
    let len = u16::from_be_bytes([prefix.next()?, prefix.next()?]);
    Some((FRAME_PREFIX_LEN + usize::from(len)).saturating_sub(begun.len()))
}

/// Empty if the query is of no form that could be answered: then the connection just ends.
fn framed_refusal(query: &[u8], reason: DropReason, kind: DnsRefusal) -> Cow<'static, [u8]> {
    let answer = refusal(query, reason, kind).unwrap_or_default();
    let Some(len) = u16::try_from(answer.len()).ok().filter(|len| *len > 0) else {
        return Cow::Borrowed(&[]);
    };
    Cow::Owned([&len.to_be_bytes(), answer.as_slice()].concat())
}
