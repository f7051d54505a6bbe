//! What the rules say of one request, and what is told about it.

use crate::counters::{EngineCounter, EngineCounters};
use crate::dns::DnsDesk;
use crate::flow::FlowPolicy;
use crate::http::{HeadJudge, Judged, http_reason};
use crate::inspector::Judge;
use crate::punted::{FlowId, Punted};
use crate::record::{Content, Http2Stream, Inside, L7Record, LoggedHeader, RecordVerdict};
use crate::shared::{EngineLimits, EngineShared};
use crate::upgrade::Protocol;
use seventh_abi::DropReason;
use seventh_parsers::http1::{BodyLength, LooseHead, RequestHead, read_head, read_loose};
use seventh_parsers::packet::PROTOCOL_TCP;
use seventh_policy::{HttpRequest, HttpRuleSet, HttpVerdict, RuleOrigin, RuleSet, RuleSetKind};
use seventh_verdict_cache::Key;
use std::sync::Arc;

/// Request verdicts depend on nothing but what their key holds: a rule set's number is never given to other rules.
const REQUEST_EPOCH: u32 = 0;
/// Cached form of "no rule allows it"; a rule's index is cached as index + 1.
const CACHED_DENY: u32 = 0;

/// Judges requests and keeps the books of one engine.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) shared: Arc<EngineShared>,
    pub(crate) counters: Arc<EngineCounters>,
    pub(crate) dns: DnsDesk,
    /// What was judged last and is not recorded yet.
    pub(crate) content: Content,
    /// See [`crate::EngineLimits::deny_ech`].
    pub(crate) deny_ech: bool,
    /// See [`crate::EngineLimits::record_headers`].
    record_headers: bool,
    /// Beside the traffic nothing is refused; this is recorded of what enforcement would refuse.
    pub(crate) beside: Option<RecordVerdict>,
}

/// Whom a record is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) time_ns: u64,
    pub(crate) id: &'a FlowId,
    pub(crate) protocol: u8,
    /// See [`seventh_abi::PuntMeta::reply_idle`].
    pub(crate) reply_idle: bool,
    /// See [`L7Record::base_seq`].
    pub(crate) base_seq: Option<u32>,
    /// None if no policy was found.
    pub(crate) policy: Option<&'a FlowPolicy>,
}

impl<'a> About<'a> {
    pub(crate) fn of(punted: &'a Punted<'_>, policy: Option<&'a FlowPolicy>) -> Self {
        Self {
            time_ns: punted.now_ns,
            id: &punted.id,
            protocol: punted.frame.transport().protocol(),
            reply_idle: punted.meta.reply_idle,
            base_seq: punted.meta.base_seq,
            policy,
        }
    }

    /// The same of a TCP connection, by the parts of its [`crate::flow::Flow`] that stay as they are while it is read.
    pub(crate) const fn of_connection(
        id: &'a FlowId,
        base: u32,
        policy: &'a FlowPolicy,
        time_ns: u64,
        reply_idle: bool,
    ) -> Self {
        Self {
            time_ns,
            id,
            protocol: PROTOCOL_TCP,
            reply_idle,
            base_seq: Some(base),
            policy: Some(policy),
        }
    }
}

impl HeadJudge for Judge<'_> {
    fn head(&mut self, head: &[u8], may_switch: bool) -> Result<Judged, DropReason> {
        self.desk.forget_request();
        let lines = head;
        let head = match read_head(lines).map_err(http_reason) {
            Ok(head) => head,
            Err(reason) => return self.loose(lines, reason),
        };
        // While bytes of the server are under way it is not known where its answer begins. The refusal is not told
        // then; the request comes again.
        let may_switch = may_switch && self.about.reply_idle;
        let asked = Protocol::asked_for(&head);
        // Whether CONNECT has a body, readers do not agree (RFC 9110 §9.3.6).
        let has_odd_body = head.method == "CONNECT" && head.body != BodyLength::None;
        let further = match asked {
            Err(()) => Err(DropReason::HttpUpgradeUnsupported),
            Ok(Some(_)) if !may_switch || has_odd_body => Err(DropReason::HttpUpgradeUnsupported),
            Ok(_) => Ok(()),
        };
        self.desk.judge(&head, None, self.policy, self.about, further)?;
        Ok(Judged {
            body: head.body,
            protocol: asked.unwrap_or_default(),
        })
    }

    fn loose(&mut self, head: &[u8], reason: DropReason) -> Result<Judged, DropReason> {
        let head = read_loose(head).filter(|_| self.is_beside()).ok_or(reason)?;
        self.refuse(Some(&head), reason)?;
        Ok(Judged {
            body: head.body,
            protocol: None,
        })
    }

    fn request(&mut self, head: &RequestHead<'_>, stream: Http2Stream) -> Result<(), DropReason> {
        self.desk.judge(head, Some(stream), self.policy, self.about, Ok(()))
    }

    fn again(&mut self, head: &RequestHead<'_>) -> Result<(), DropReason> {
        self.desk.verdict(&self.policy.rules, head).map(|_| ())
    }

    fn refuse(&mut self, request: Option<&LooseHead<'_>>, reason: DropReason) -> Result<(), DropReason> {
        if let Some(request) = request {
            self.desk.note_request(request, request.target);
        }
        self.desk.refuse(self.about, reason)
    }

    fn is_beside(&self) -> bool {
        self.desk.beside.is_some()
    }

    fn now_ns(&self) -> u64 {
        self.about.time_ns
    }
}

impl Desk {
    pub(crate) fn new(shared: Arc<EngineShared>, limits: &EngineLimits) -> Self {
        Self {
            counters: shared.register(),
            shared,
            dns: DnsDesk::default(),
            content: Content::default(),
            deny_ech: limits.deny_ech,
            record_headers: limits.record_headers,
            beside: None,
        }
    }

    /// Judges a request: the rules, then `further`, which says whether what they allow can be followed. An allowed
    /// request is recorded here; a refused one by [`Desk::record_drop`], once its refusal is final.
    fn judge(
        &mut self,
        head: &RequestHead<'_>,
        stream: Option<Http2Stream>,
        policy: &FlowPolicy,
        about: &About<'_>,
        further: Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        self.note_request(&head.loosely(), &head.path);
        if self.record_headers {
            self.content.set_headers(head.headers.iter());
        }
        if let Some(stream) = stream {
            self.content.set_stream(stream);
        } else if Protocol::asked_for(head) == Ok(Some(Protocol::Http2)) {
            self.content.set_asks_http2();
        }
        let verdict = self.verdict(&policy.rules, head);
        match verdict.and_then(|rule| further.map(|()| rule)) {
            Ok(rule) => {
                let allowed_by = policy.rules.http().zip(rule);
                if let Some((rules, rule)) = allowed_by
                    && rules.logs_headers(rule)
                {
                    self.note_logged_headers(rules, rule, head)?;
                }
                let origin = allowed_by.and_then(|(rules, rule)| rules.origin(rule).cloned());
                self.record_allowed(about, origin);
                Ok(())
            }
            Err(reason) => self.refuse(about, reason),
        }
    }

    /// Notes the headers that the rule wants and does not insist on.
    fn note_logged_headers(
        &mut self,
        rules: &HttpRuleSet,
        rule: u32,
        head: &RequestHead<'_>,
    ) -> Result<(), DropReason> {
        let headers = headers_read(rules, head)?;
        let request = as_request(head, &headers);
        let sent = |name: &str| headers.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name));
        let missed = rules.logged_mismatches(rule, &request).map(|header| LoggedHeader {
            name: header.name.clone(),
            sent: sent(&header.name),
        });
        self.content.set_logged(missed);
        Ok(())
    }

    /// Notes what is being judged, for the record of its verdict.
    pub(crate) fn note(&mut self, inside: Inside) {
        self.content.set(inside);
    }

    /// The same of a request of HTTP; `path` is what policy matches.
    fn note_request(&mut self, head: &LooseHead<'_>, path: &str) {
        self.content.set_http(head.version.name(), head, path);
    }

    /// Records that what was noted last is allowed.
    pub(crate) fn record_allowed(&mut self, about: &About<'_>, rule: Option<Arc<RuleOrigin>>) {
        self.counters.count(EngineCounter::RequestAllowed);
        self.record(about, RecordVerdict::Forwarded, None, rule);
    }

    /// What becomes of a request that is not to pass: beside the traffic it is recorded, and taken for allowed.
    ///
    /// # Errors
    /// The reason, where it is refused.
    pub(crate) fn refuse(&mut self, about: &About<'_>, reason: DropReason) -> Result<(), DropReason> {
        if self.beside.is_none() {
            return Err(reason);
        }
        self.counters.count(EngineCounter::RequestDenied);
        self.record_drop(about, reason);
        Ok(())
    }

    /// Forgets the request that was judged last: what is dropped next is not it.
    pub(crate) fn forget_request(&mut self) {
        self.content.clear();
    }

    /// Records a refused request or a dropped frame.
    pub(crate) fn record_drop(&mut self, about: &About<'_>, reason: DropReason) {
        self.counters.count_reason(reason);
        let verdict = match self.beside {
            None => RecordVerdict::Dropped,
            Some(_) if about.policy.is_some_and(|policy| policy.rules.observes()) => {
                // What is only shown is a request, or it is nothing.
                if self.content.is_empty() {
                    return;
                }
                RecordVerdict::Forwarded
            }
            Some(verdict) => verdict,
        };
        self.record(about, verdict, Some(reason), None);
    }

    /// Index of the rule that allows the request; none where there are no rules.
    fn verdict(&self, rules: &RuleSet, head: &RequestHead<'_>) -> Result<Option<u32>, DropReason> {
        match rules.kind() {
            RuleSetKind::Http(http) => self.ask_cache(http, rules.id(), head).map(Some),
            RuleSetKind::Observe => Ok(None),
            RuleSetKind::Dns(_) | RuleSetKind::Tls(_) => Err(DropReason::InspectorMissing),
        }
    }

    /// Index of the rule that allows the request.
    fn ask_cache(&self, rules: &HttpRuleSet, rule_set: u32, head: &RequestHead<'_>) -> Result<u32, DropReason> {
        let key = self.request_key(rules, rule_set, head);
        let rule = self.cached(&key, || {
            ask(rules, head).map(|verdict| match verdict {
                HttpVerdict::Allow { rule } => Some(rule),
                HttpVerdict::Deny => None,
            })
        })?;
        rule.ok_or(DropReason::HttpPolicyDenied)
    }

    /// Index of the rule that allows what `key` stands for, from the cache or by asking.
    pub(crate) fn cached(
        &self,
        key: &Key,
        ask: impl FnOnce() -> Result<Option<u32>, DropReason>,
    ) -> Result<Option<u32>, DropReason> {
        let cache = &self.shared.request_verdicts;
        let cached = if let Some(cached) = cache.lookup(key, REQUEST_EPOCH) {
            self.counters.count(EngineCounter::CacheHit);
            cached
        } else {
            self.counters.count(EngineCounter::CacheMiss);
            let cached = ask()?.map_or(CACHED_DENY, |rule| rule.saturating_add(1));
            cache.insert(key, REQUEST_EPOCH, cached);
            cached
        };
        Ok(cached.checked_sub(1))
    }

    /// Hash of all that the verdict depends on: method, path, host and the headers that the rules read, with how often
    /// each of them occurs.
    fn request_key(&self, rules: &HttpRuleSet, rule_set: u32, head: &RequestHead<'_>) -> Key {
        let mut key = self
            .shared
            .hasher
            .begin()
            .number(rule_set)
            .bytes(head.method.as_bytes())
            .bytes(head.path.as_bytes())
            .bytes(head.host.unwrap_or_default().as_bytes());
        for name in rules.headers_read() {
            let mut count = 0;
            for value in head.headers.values(name) {
                key = key.bytes(value);
                count += 1;
            }
            key = key.number(count);
        }
        key.finish()
    }

    pub(crate) fn record(
        &mut self,
        about: &About<'_>,
        verdict: RecordVerdict,
        reason: Option<DropReason>,
        rule: Option<Arc<RuleOrigin>>,
    ) {
        let record = L7Record {
            time_ns: about.time_ns,
            verdict,
            reason,
            hook: about.id.hook,
            ifindex: about.id.ifindex,
            endpoint_id: about.policy.map_or(0, |policy| policy.endpoint_id),
            peer_identity: about.policy.map_or(0, |policy| policy.peer_identity),
            source: about.id.source,
            destination: about.id.destination,
            source_port: about.id.source_port,
            destination_port: about.id.destination_port,
            protocol: about.protocol,
            base_seq: about.base_seq,
            rule_set: about.policy.map_or(0, |policy| policy.rules.id()),
            rule,
            content: std::mem::take(&mut self.content),
        };
        self.content = self.shared.records.push(record);
    }
}

/// Asks the rules.
fn ask(rules: &HttpRuleSet, head: &RequestHead<'_>) -> Result<HttpVerdict, DropReason> {
    let headers = headers_read(rules, head)?;
    Ok(rules.judge(&as_request(head, &headers)))
}

/// The headers that the rules read. A value that is not UTF-8 is none they could name, so the request is refused rather than
/// shown with the value changed.
fn headers_read<'a>(rules: &HttpRuleSet, head: &RequestHead<'a>) -> Result<Vec<(&'a str, &'a str)>, DropReason> {
    let read = |name: &str| rules.headers_read().iter().any(|read| read.eq_ignore_ascii_case(name));
    head.headers
        .iter()
        .filter(|(name, _)| read(name))
        .map(|(name, value)| std::str::from_utf8(value).map(|value| (name, value)))
        .collect::<Result<_, _>>()
        .map_err(|_| DropReason::HttpBadHeader)
}

fn as_request<'a>(head: &'a RequestHead<'_>, headers: &'a [(&'a str, &'a str)]) -> HttpRequest<'a> {
    HttpRequest {
        method: head.method,
        path: &head.path,
        host: head.host.unwrap_or_default(),
        headers,
    }
}
