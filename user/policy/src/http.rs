//! HTTP rules: method, path, host and headers of a request against all rules of a set at once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::automaton::{Found, Patterns};
use crate::finding::RuleOrigin;
use crate::request_table::FieldRules;

/// One HTTP rule as written: every part that is set must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpRule {
    /// Regular expression for the whole method.
    pub method: Option<String>,
    /// Regular expression for the whole path with its query.
    pub path: Option<String>,
    /// Regular expression for the whole authority with its port.
    pub host: Option<String>,
    /// Demands on headers.
    pub headers: Vec<HeaderRule>,
    /// Where it was written.
    pub origin: Arc<RuleOrigin>,
}

impl HttpRule {
    /// Whether it allows every request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.method.is_none() && self.path.is_none() && self.host.is_none() && self.headers.is_empty()
    }
}

/// A demand on one header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderRule {
    /// Name in lower case.
    pub name: String,
    /// The exact value; `None` = any, the header must be there.
    pub value: Option<String>,
    /// What happens if it does not hold.
    pub mismatch: Mismatch,
}

/// What an unfulfilled [`HeaderRule`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mismatch {
    /// The rule does not match.
    Fail,
    /// The rule may match all the same; the header is reported by [`HttpRuleSet::logged_mismatches`].
    Log,
}

/// A request as the rules see it. The caller has parsed and normalised it.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// Path and query: percent-decoded where that cannot change the meaning, `.`, `..` and empty segments resolved.
    /// Anything that could be read in two ways must have been refused before. Empty if it has none, as CONNECT: no
    /// pattern matches that, not even one for any text.
    pub path: &'a str,
    /// The authority (Host, or that of an absolute target) with its port if one was sent; empty if there is none.
    pub host: &'a str,
    /// Names and values of all headers in their order, as sent.
    pub headers: &'a [(&'a str, &'a str)],
}

/// What a rule set says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVerdict {
    /// Allowed.
    Allow {
        /// Index of the rule that allows it; [`HttpRuleSet::origin`] says where it was written.
        rule: u32,
    },
    /// No rule allows it.
    Deny,
}

/// HTTP rules that apply to the same traffic: a request passes if one of them matches.
#[derive(Debug)]
pub struct HttpRuleSet {
    rules: Vec<CompiledRule>,
    methods: Patterns,
    paths: Patterns,
    hosts: Patterns,
    headers_read: Vec<String>,
}

#[derive(Debug)]
struct CompiledRule {
    method: Option<usize>,
    path: Option<usize>,
    host: Option<usize>,
    headers: Vec<HeaderRule>,
    origin: Arc<RuleOrigin>,
}

impl HttpRuleSet {
    /// Compiles rules that were checked one by one before. `allows_all` is a rule without L7 part that covers the same
    /// traffic: it allows what none of the others does.
    ///
    /// # Errors
    /// All patterns of one field together exceed [`crate::pattern::AUTOMATA_BYTES_MAX`].
    pub fn new(rules: &[&HttpRule], allows_all: Option<&Arc<RuleOrigin>>) -> Result<Self, String> {
        let (mut methods, mut paths, mut hosts) = (Interner::default(), Interner::default(), Interner::default());
        let mut compiled: Vec<_> = rules
            .iter()
            .map(|rule| CompiledRule {
                method: methods.intern(rule.method.as_deref()),
                path: paths.intern(rule.path.as_deref()),
                host: hosts.intern(rule.host.as_deref()),
                headers: rule.headers.clone(),
                origin: rule.origin.clone(),
            })
            .collect();
        compiled.extend(allows_all.map(|origin| CompiledRule {
            method: None,
            path: None,
            host: None,
            headers: Vec::new(),
            origin: origin.clone(),
        }));
        let mut headers_read: Vec<String> = rules
            .iter()
            .flat_map(|rule| &rule.headers)
            .map(|header| header.name.clone())
            .collect();
        headers_read.sort();
        headers_read.dedup();
        Ok(Self {
            rules: compiled,
            methods: Patterns::new(&methods.patterns)?,
            paths: Patterns::new(&paths.patterns)?,
            hosts: Patterns::new(&hosts.patterns)?,
            headers_read,
        })
    }

    /// The verdict. Time is linear in the request and the rules. Of several rules that match, the first is named.
    #[must_use]
    pub fn judge(&self, request: &HttpRequest<'_>) -> HttpVerdict {
        let mut matches = Matches::new(self, request);
        for (index, rule) in (0..).zip(&self.rules) {
            if matches.rule(rule) {
                return HttpVerdict::Allow { rule: index };
            }
        }
        HttpVerdict::Deny
    }

    /// Headers with [`Mismatch::Log`] that the rule wanted and the request does not fulfil, for the flow record.
    pub fn logged_mismatches<'a>(
        &'a self,
        rule: u32,
        request: &'a HttpRequest<'_>,
    ) -> impl Iterator<Item = &'a HeaderRule> {
        let rule = usize::try_from(rule).ok().and_then(|index| self.rules.get(index));
        let headers = rule.map_or(&[][..], |rule| &rule.headers);
        headers
            .iter()
            .filter(|h| h.mismatch == Mismatch::Log && !header_holds(h, request))
    }

    /// Whether [`HttpRuleSet::logged_mismatches`] can have anything to say of this rule.
    #[must_use]
    pub fn logs_headers(&self, rule: u32) -> bool {
        let rule = usize::try_from(rule).ok().and_then(|index| self.rules.get(index));
        rule.is_some_and(|rule| rule.headers.iter().any(|h| h.mismatch == Mismatch::Log))
    }

    /// Where the rule with this index was written.
    #[must_use]
    pub fn origin(&self, rule: u32) -> Option<&Arc<RuleOrigin>> {
        self.rules.get(usize::try_from(rule).ok()?).map(|rule| &rule.origin)
    }

    /// How many rules there are.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// Method, path and host.
    pub(crate) fn fields(&self) -> [FieldRules<'_>; 3] {
        let field = |patterns, wanted: fn(&CompiledRule) -> Option<usize>| FieldRules {
            patterns,
            wanted: self.rules.iter().map(wanted).collect(),
        };
        [
            field(&self.methods, |rule| rule.method),
            field(&self.paths, |rule| rule.path),
            field(&self.hosts, |rule| rule.host),
        ]
    }

    /// Names (lower case, sorted) of the headers that the verdict depends on besides method, path and host.
    #[must_use]
    pub fn headers_read(&self) -> &[String] {
        &self.headers_read
    }
}

/// The patterns that match one request, found when the first rule asks.
struct Matches<'a> {
    set: &'a HttpRuleSet,
    request: &'a HttpRequest<'a>,
    method: Option<Found<'a>>,
    path: Option<Found<'a>>,
    host: Option<Found<'a>>,
}

impl HttpRequest<'_> {
    /// Whether a rule with a pattern for the path can match.
    pub(crate) fn has_path(&self) -> bool {
        !self.path.is_empty()
    }
}

impl<'a> Matches<'a> {
    fn new(set: &'a HttpRuleSet, request: &'a HttpRequest<'a>) -> Self {
        Self {
            set,
            request,
            method: None,
            path: None,
            host: None,
        }
    }

    fn rule(&mut self, rule: &CompiledRule) -> bool {
        let (set, request) = (self.set, self.request);
        holds(rule.method, &mut self.method, &set.methods, request.method)
            && (rule.path.is_none() || request.has_path())
            && holds(rule.path, &mut self.path, &set.paths, request.path)
            && holds(rule.host, &mut self.host, &set.hosts, request.host)
            && rule
                .headers
                .iter()
                .all(|h| h.mismatch == Mismatch::Log || header_holds(h, request))
    }
}

fn holds<'a>(wanted: Option<usize>, found: &mut Option<Found<'a>>, patterns: &'a Patterns, text: &'a str) -> bool {
    let Some(wanted) = wanted else { return true };
    found.get_or_insert_with(|| patterns.read(text)).has(wanted)
}

/// Whether the request fulfils the demand. Several values of one header count as one, joined by commas.
pub(crate) fn header_holds(rule: &HeaderRule, request: &HttpRequest<'_>) -> bool {
    let mut values = request
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(&rule.name))
        .map(|(_, value)| *value);
    let Some(first) = values.next() else { return false };
    let Some(wanted) = &rule.value else { return true };
    match values.next() {
        None => equal_in_constant_time(first.as_bytes(), wanted.as_bytes()),
        Some(second) => {
            let joined = [first, second].into_iter().chain(values).collect::<Vec<_>>().join(",");
            equal_in_constant_time(joined.as_bytes(), wanted.as_bytes())
        }
    }
}

/// Header values may be secrets: the time must not tell how much of a guess is right (its length may be told).
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y))) == 0
}

#[derive(Default)]
struct Interner<'a> {
    patterns: Vec<&'a str>,
    index: HashMap<&'a str, usize>,
}

impl<'a> Interner<'a> {
    fn intern(&mut self, pattern: Option<&'a str>) -> Option<usize> {
        let pattern = pattern?;
        Some(*self.index.entry(pattern).or_insert_with(|| {
            self.patterns.push(pattern);
            self.patterns.len() - 1
        }))
    }
}
