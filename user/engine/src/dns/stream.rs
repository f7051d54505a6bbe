//! DNS over TCP: messages with their length in front (RFC 7766 §8), split and joined as the segments please.

use super::{DnsRefusal, answer, query, refusal};
use crate::inspector::{Inspection, Judge, Refusal, ReplyReading};
use crate::stream::Stream;
use seventh_abi::DropReason;
use seventh_parsers::dns::{FRAME_PREFIX_LEN, split_frame};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of answers that are not complete, over all connections of one engine, at most.
const ANSWERS_HELD_MAX: usize = 16 << 20;

/// Where in the messages both directions stand.
#[derive(Debug)]
pub(crate) struct DnsInspector {
    refusal: DnsRefusal,
    /// Bytes of the query that has begun and is not complete; they are the tail of the stream.
    taken: usize,
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
        if let Err(reason) = query(judge, message) {
            let answer = framed_refusal(message, reason, self.refusal);
            stream.retract(missing);
            return Err(RefusedQuery { reason, answer });
        }
        self.taken = 0;
        Ok((missing, true))
    }

    /// Takes new bytes of the other side, in order. What is not complete cannot be acted on, so it goes on at once; the
    /// bytes that complete an answer do when it is learned.
    pub(crate) fn read_reply(&mut self, new: &[u8], judge: &mut Judge<'_>) -> ReplyReading {
        let refusal = self.read_answers(new, judge).err();
        ReplyReading { refusal, more: true }
    }

    fn read_answers(&mut self, new: &[u8], judge: &mut Judge<'_>) -> Result<(), DropReason> {
        let mut rest = new;
        if !self.answer.bytes.is_empty() {
            let missing = missing(&self.answer.bytes, rest).unwrap_or(rest.len());
            let (here, after) = rest.split_at_checked(missing).unwrap_or((rest, &[]));
            self.answer.hold(here, &judge.desk.dns.answers_held)?;
            let Some((message, _)) = split_frame(&self.answer.bytes) else {
                return Ok(());
            };
            answer(judge, message)?;
            self.answer = Held::default();
            rest = after;
        }
        while let Some((message, after)) = split_frame(rest) {
            answer(judge, message)?;
            rest = after;
        }
        self.answer.hold(rest, &judge.desk.dns.answers_held)
    }
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

/// Bytes that count against a bound as long as they are there.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    account: Option<Arc<AtomicUsize>>,
}

impl Held {
    /// Holds `more`, of one message in all.
    ///
    /// # Errors
    /// All connections together hold too much.
    fn hold(&mut self, more: &[u8], account: &Arc<AtomicUsize>) -> Result<(), DropReason> {
        if more.is_empty() {
            return Ok(());
        }
        // Relaxed: one engine counts, in one thread.
        if account.load(Ordering::Relaxed) + more.len() > ANSWERS_HELD_MAX {
            return Err(DropReason::EngineLimit);
        }
        account.fetch_add(more.len(), Ordering::Relaxed);
        self.account.get_or_insert_with(|| Arc::clone(account));
        self.bytes.extend_from_slice(more);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}
