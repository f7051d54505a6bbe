//! DNS: which questions may be asked, and what the answers teach.
//!
//! Over UDP each datagram is a message; over TCP [`DnsInspector`] finds the messages in both directions. Either way a
//! query is judged by [`query`] and an answer learned from by [`answer`] before its last byte goes on.
//!
//! What an endpoint was answered counts only if it had asked: the same addresses and ports, id and questions. Everything
//! else an endpoint is sent under a DNS rule is dropped.

mod held;
mod queries;
mod record;
mod stream;

pub use record::{DnsAnswer, DnsRecord};

pub(crate) use stream::DnsInspector;

use crate::counters::EngineCounter;
use crate::decide::Decision;
use crate::inspector::{Change, Judge};
use crate::names::{Answers, LESSON_NAMES_MAX, NotLearned};
use crate::record::{Inside, RecordVerdict};
use crate::shared::EngineLimits;
use held::HeldBytes;
use queries::{Queries, Query, Questions, Slot};
use seventh_abi::DropReason;
use seventh_parsers::dns::{
    Head, Header, Message, OPCODE_QUERY, RCODE_FORMERR, RCODE_NOERROR, RCODE_NXDOMAIN, RCODE_REFUSED, write_refusal,
};
use seventh_policy::{DnsRuleSet, RuleOrigin};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;

/// What is answered to a query that no rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsRefusal {
    /// REFUSED: resolvers try another server, some give up.
    #[default]
    Refused,
    /// NXDOMAIN: resolvers go on with their search list.
    NoSuchName,
}

/// State of one engine that outlives a message.
#[derive(Debug, Default)]
pub(crate) struct DnsDesk {
    queries: Queries,
    /// Bytes of answers over TCP that are not complete.
    held: HeldBytes,
}

/// Why an answer does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOn {
    /// Not yet: the same bytes are to be read again a moment later. If that never helps, this is why they are dropped.
    Later(DropReason),
    /// Never.
    Never(DropReason),
}

impl From<DropReason> for NotOn {
    fn from(reason: DropReason) -> Self {
        Self::Never(reason)
    }
}

/// An answer that may go on: what it answers. Its query is waited for until [`Answered::done`].
struct Answered<'m> {
    slot: Slot,
    /// None for an error that does not say to what.
    questions: Option<Questions>,
    head: Head<'m>,
    whole: Option<Message<'m>>,
}

impl Answered<'_> {
    /// What is dropped next is this.
    fn note(&self, judge: &mut Judge<'_>) {
        note_answer(judge, &self.head, self.whole.as_ref(), 0);
    }

    /// Whether the other may be an answer to the same query.
    fn takes(&self, other: &Answered<'_>) -> bool {
        let same = self.questions == other.questions || self.questions.is_none() || other.questions.is_none();
        self.slot == other.slot && same
    }

    /// The answer goes on, and is recorded.
    ///
    /// # Errors
    /// Its query was answered meanwhile.
    fn done(&self, judge: &mut Judge<'_>) -> Result<(), DropReason> {
        let queries = &mut judge.desk.dns.queries;
        let query = match &self.questions {
            Some(questions) => queries.answered(&self.slot, questions),
            None => queries.answered_any(&self.slot),
        };
        let Some(query) = query else {
            self.note(judge);
            return Err(DropReason::DnsUnsolicitedAnswer);
        };
        let latency_ns = judge.about.time_ns.saturating_sub(query.asked_ns);
        let mut told = false;
        for question in self.head.questions() {
            judge.desk.content.set_dns(|record| {
                record.set_question(&question);
                record.set_answer(&self.head, self.whole.as_ref(), latency_ns);
            });
            tell(judge, query.rule.clone());
            told = true;
        }
        if !told {
            judge.desk.content.set_dns(|record| {
                record.set_asked(&query.questions);
                record.set_answer(&self.head, self.whole.as_ref(), latency_ns);
            });
            tell(judge, query.rule);
        }
        Ok(())
    }
}

impl DnsDesk {
    /// Forgets queries for whose answers nobody waits any more.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        self.queries.expire(now_ns);
    }
}

/// Decides a datagram of either side.
pub(crate) fn datagram(judge: &mut Judge<'_>, payload: &[u8], reply: bool, limits: &EngineLimits) -> Decision {
    if reply {
        let answered = answer(judge, payload, &[]).and_then(|answered| match answered {
            Some(answered) => Ok(answered.done(judge)?),
            None => Ok(()),
        });
        return match answered {
            Ok(()) => Decision::Forward(Change::default()),
            Err(NotOn::Never(reason)) => {
                if reason == DropReason::DnsUnsolicitedAnswer
                    && let Ok(header) = Header::parse(payload)
                {
                    judge.desk.dns.queries.guessed(&Slot::of(judge.about, header.id));
                }
                Decision::Drop(reason)
            }
            Err(NotOn::Later(reason)) => Decision::Park(reason),
        };
    }
    match query(judge, payload) {
        Ok(()) => Decision::Forward(Change::default()),
        Err(reason) => match refusal(payload, reason, limits.dns_refusal) {
            Some(answer) => Decision::Refuse {
                reason,
                repeated: 0,
                answer: Cow::Owned(answer),
            },
            None => Decision::Drop(reason),
        },
    }
}

/// Judges a query: every question must be allowed. An allowed one is recorded, and its answer awaited; a refused one is
/// recorded once its refusal is final.
fn query(judge: &mut Judge<'_>, message: &[u8]) -> Result<(), DropReason> {
    judge.desk.forget_request();
    if judge.policy.rules.observes() {
        return show(judge, message);
    }
    let header = Header::parse(message).map_err(|_| DropReason::DnsMalformed)?;
    if header.is_response() || header.opcode() != OPCODE_QUERY {
        return Err(DropReason::DnsNotQuery);
    }
    let message = Message::parse(message).map_err(|_| DropReason::DnsMalformed)?;
    let head = *message.head();
    let rules = judge.policy.rules.dns().ok_or(DropReason::InspectorMissing)?;
    let mut allowed: SmallVec<[_; 1]> = SmallVec::new();
    for question in head.questions() {
        judge.desk.content.set_dns(|record| record.set_question(&question));
        let Some(rule) = verdict_of_noted(judge, rules) else {
            judge.desk.refuse(judge.about, DropReason::DnsPolicyDenied)?;
            ask(judge, &head, None);
            return Ok(());
        };
        allowed.push(rules.origin(rule).cloned());
    }
    // A message without a question asks something that no rule can be about.
    let rule = allowed.last().ok_or(DropReason::DnsNotQuery)?;
    ask(judge, &head, rule.clone());
    judge.desk.counters.count(EngineCounter::RequestAllowed);
    for (question, rule) in head.questions().zip(allowed) {
        judge.desk.content.set_dns(|record| record.set_question(&question));
        tell(judge, rule);
    }
    Ok(())
}

/// An answer is awaited.
fn ask(judge: &mut Judge<'_>, head: &Head<'_>, rule: Option<Arc<RuleOrigin>>) {
    let query = Query {
        questions: questions(head),
        asked_ns: judge.about.time_ns,
        rule,
    };
    let slot = Slot::of(judge.about, head.header().id);
    judge.desk.dns.queries.ask(slot, query);
}

/// Shows a message of either side: one record, by its first question. Where it repeats none there is nothing to show.
///
/// # Errors
/// It cannot be read so far.
fn show(judge: &mut Judge<'_>, message: &[u8]) -> Result<(), DropReason> {
    let head = Head::parse(message).map_err(|_| DropReason::DnsMalformed)?;
    let Some(first) = head.questions().next() else {
        return Ok(());
    };
    if head.header().is_response() {
        let slot = Slot::of(judge.about, head.header().id);
        let query = judge.desk.dns.queries.answered(&slot, &questions(&head));
        let latency_ns = query.map_or(0, |query| judge.about.time_ns.saturating_sub(query.asked_ns));
        note_answer(judge, &head, Message::parse(message).ok().as_ref(), latency_ns);
    } else {
        ask(judge, &head, None);
        judge.desk.content.set_dns(|record| record.set_question(&first));
    }
    tell(judge, None);
    Ok(())
}

/// Whether a datagram of any port reads as DNS from its first byte to its last: one question, whole sections.
pub(crate) fn reads_as_dns(payload: &[u8]) -> bool {
    Header::parse(payload).is_ok_and(|header| header.questions == 1 && header.opcode() == OPCODE_QUERY)
        && Message::parse(payload).is_ok()
}

/// Notes an answer by its first question, if it repeats one.
fn note_answer(judge: &mut Judge<'_>, head: &Head<'_>, whole: Option<&Message<'_>>, latency_ns: u64) {
    judge.desk.content.set_dns(|record| {
        record.clear();
        if let Some(first) = head.questions().next() {
            record.set_question(&first);
        }
        record.set_answer(head, whole, latency_ns);
    });
}

/// Records that what was noted goes on.
fn tell(judge: &mut Judge<'_>, rule: Option<Arc<RuleOrigin>>) {
    judge.desk.record(judge.about, RecordVerdict::Forwarded, None, rule);
}

/// Index of the rule that allows the name, from the cache or from the rules.
fn verdict(judge: &Judge<'_>, rules: &DnsRuleSet, name: &str) -> Option<u32> {
    let hasher = &judge.desk.shared.hasher;
    let key = hasher
        .begin()
        .number(judge.policy.rules.id())
        .bytes(name.as_bytes())
        .finish();
    judge.desk.cached(&key, || Ok(rules.judge(name))).ok().flatten()
}

/// The same of the name that was noted.
fn verdict_of_noted(judge: &Judge<'_>, rules: &DnsRuleSet) -> Option<u32> {
    match judge.desk.content.inside() {
        Inside::Dns(noted) => verdict(judge, rules, noted.query()),
        _ => None,
    }
}

/// Learns from an answer; it may go on only when this succeeds. Nothing else has changed then: it can be done again.
/// `earlier` answers are about to go on: what they answer is not waited for any more.
/// `None` where there are no rules: it was shown.
fn answer<'m>(
    judge: &mut Judge<'_>,
    message: &'m [u8],
    earlier: &[Answered<'_>],
) -> Result<Option<Answered<'m>>, NotOn> {
    judge.desk.forget_request();
    if judge.policy.rules.observes() {
        show(judge, message)?;
        return Ok(None);
    }
    let head = Head::parse(message).map_err(|_| DropReason::DnsMalformedAnswer)?;
    let header = *head.header();
    // A server that cannot read a query may leave its question out.
    let bare_error = header.questions == 0 && header.rcode() != RCODE_NOERROR;
    let answered = Answered {
        slot: Slot::of(judge.about, header.id),
        questions: (!bare_error).then(|| questions(&head)),
        head,
        whole: Message::parse(message).ok(),
    };
    match take_in(judge, &answered, earlier) {
        Ok(()) => Ok(Some(answered)),
        Err(not_on) => {
            answered.note(judge);
            Err(not_on)
        }
    }
}

fn take_in(judge: &Judge<'_>, answered: &Answered<'_>, earlier: &[Answered<'_>]) -> Result<(), NotOn> {
    let header = answered.head.header();
    if answered.whole.is_none() && !header.is_truncated() {
        return Err(DropReason::DnsMalformedAnswer.into());
    }
    let queries = &judge.desk.dns.queries;
    let waits = queries.waits(&answered.slot, answered.questions.as_deref(), judge.about.time_ns);
    if !header.is_response() || !waits || earlier.iter().any(|earlier| earlier.takes(answered)) {
        return Err(DropReason::DnsUnsolicitedAnswer.into());
    }
    // A cut answer may end anywhere: it goes on, so that the whole one is asked for over TCP, and teaches nothing.
    if let Some(message) = answered.whole.as_ref().filter(|_| header.rcode() == RCODE_NOERROR) {
        match learn(judge, message) {
            // Beside the traffic it has gone on.
            Err(NotOn::Later(_)) if judge.desk.beside.is_some() => {}
            learned => learned?,
        }
    }
    Ok(())
}

fn learn(judge: &Judge<'_>, message: &Message<'_>) -> Result<(), NotOn> {
    let answers = Answers::of(message);
    let names = &judge.desk.shared.names;
    let rules = judge.policy.rules.dns().ok_or(DropReason::InspectorMissing)?;
    let mut learned = 0;
    for question in message.head().questions() {
        let mut lesson = answers.lesson(&question);
        learned += lesson.names.len();
        if learned > LESSON_NAMES_MAX {
            return Err(DropReason::DnsNotLearned.into());
        }
        // A server that may not be asked for a name has no say in it: else a chain that begins in its own names could
        // end in somebody else's.
        lesson.names.retain(|(name, _)| verdict(judge, rules, name).is_some());
        names
            .learn(judge.policy.endpoint_id, &lesson, judge.about.time_ns)
            .map_err(|not| match not {
                NotLearned::Later => NotOn::Later(DropReason::DnsNotLearned),
                NotLearned::Refused => NotOn::Never(DropReason::DnsNotLearned),
            })?;
    }
    Ok(())
}

/// The answer to a query that may not go on, if it can be answered.
fn refusal(query: &[u8], reason: DropReason, refusal: DnsRefusal) -> Option<Vec<u8>> {
    let rcode = match (reason, refusal) {
        (DropReason::DnsMalformed, _) => RCODE_FORMERR,
        (DropReason::DnsPolicyDenied, DnsRefusal::NoSuchName) => RCODE_NXDOMAIN,
        _ => RCODE_REFUSED,
    };
    let mut answer = Vec::new();
    write_refusal(query, rcode, &mut answer).then_some(answer)
}

/// The questions in a form in which equal ones are equal bytes.
fn questions(head: &Head<'_>) -> Questions {
    let mut bytes = Questions::new();
    for question in head.questions() {
        for label in question.name.labels() {
            // A label has 63 bytes at most.
            bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.push(0);
        bytes.extend_from_slice(&question.query_type.to_be_bytes());
        bytes.extend_from_slice(&question.class.to_be_bytes());
    }
    bytes
}
