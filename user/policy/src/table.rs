//! Port tables: what a list of rules comes to for every protocol and port, as longest-prefix entries.
//!
//! Order of decision at one point (protocol, port), first that says something:
//! 1. rules by precedence (tier, then order inside the tier);
//! 2. among rules of equal precedence: deny;
//! 3. then pass: the rest of the tier is skipped;
//! 4. then bypass: allowed without inspection;
//! 5. then allow. All allow rules of that precedence count together: if none has an L7 part, the traffic is allowed; if
//!    some have, it is inspected, and a rule without L7 part beside them makes the inspection allow everything;
//! 6. nothing: default deny, or allow if the direction is not in default deny.

use std::collections::BTreeSet;
use std::sync::Arc;

use seventh_abi::DropReason;

use crate::finding::{Finding, Severity};
use crate::rule::{Action, L7Rules, Rule};
use crate::rule_set::{ByAddress, RuleSet, RuleSetContent, RuleSetRegistry, RuleSetRules};

/// What happens to traffic at L3/L4.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny(DropReason),
    /// The engine decides by these rules.
    Inspect(Arc<RuleSet>),
}

impl PartialEq for Decision {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Decision::Allow, Decision::Allow) => true,
            (Decision::Deny(a), Decision::Deny(b)) => a == b,
            (Decision::Inspect(a), Decision::Inspect(b)) => a.id() == b.id(),
            _ => false,
        }
    }
}

impl Eq for Decision {}

/// A rule and, its port names resolved, what it covers.
pub(crate) type Covering = (Arc<Rule>, Area);

/// Protocols and ports that a rule covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Area {
    /// Everything.
    All,
    /// Spans of ports by protocol; the whole protocol is `0..=u16::MAX`.
    Spans(Vec<(u8, u16, u16)>),
}

impl Area {
    pub(crate) fn covers(&self, protocol: u8, port: u16) -> bool {
        match self {
            Area::All => true,
            Area::Spans(spans) => spans
                .iter()
                .any(|&(p, first, last)| p == protocol && first <= port && port <= last),
        }
    }

    fn covers_protocol(&self, protocol: u8) -> bool {
        match self {
            Area::All => true,
            Area::Spans(spans) => spans
                .iter()
                .any(|&(p, first, last)| p == protocol && first == 0 && last == u16::MAX),
        }
    }
}

/// What the row of a table that decides a flow is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowWidth {
    /// Everything.
    All,
    /// The whole protocol.
    Protocol,
    /// Some of its ports.
    Port,
}

/// Decisions for one direction and one class of peers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct PortTable {
    /// For protocols that are not listed.
    all: Option<Decision>,
    /// By protocol, ascending.
    protocols: Vec<ProtocolTable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ProtocolTable {
    protocol: u8,
    /// For ports that are not listed, if that differs from [`PortTable::all`].
    all: Option<Decision>,
    /// Disjoint, ascending.
    spans: Vec<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    first: u16,
    last: u16,
    decision: Decision,
}

/// One longest-prefix entry: `protocol` is `None` for all; of `port` the first `port_bits` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortPrefix {
    pub(crate) protocol: Option<u8>,
    pub(crate) port: u16,
    pub(crate) port_bits: u32,
}

impl PortTable {
    /// The same for every protocol and port.
    pub(crate) const fn everything(decision: Decision) -> Self {
        Self {
            all: Some(decision),
            protocols: Vec::new(),
        }
    }

    /// Compiles rules. `unmatched` is what becomes of traffic that no rule covers; it is written into the table only
    /// where something wider would hide it, or everywhere if a rule says pass (then a table for other peers could
    /// otherwise answer what this one left open).
    pub(crate) fn build(rules: &[Covering], unmatched: &Decision, decider: &mut Decider<'_>) -> Self {
        let explicit = rules.iter().any(|(rule, _)| rule.action == Action::Pass);
        let widest = |d: Option<Decision>| {
            if explicit {
                d.or_else(|| Some(unmatched.clone()))
            } else {
                d
            }
        };
        let all = widest(decider.decide(rules.iter().filter(|(_, area)| *area == Area::All)));
        let protocols: BTreeSet<u8> = rules
            .iter()
            .flat_map(|(_, area)| match area {
                Area::All => &[][..],
                Area::Spans(spans) => spans,
            })
            .map(|span| span.0)
            .collect();
        let mut table = Self {
            all,
            protocols: Vec::new(),
        };
        for protocol in protocols {
            let built = table.protocol(protocol, rules, unmatched, decider);
            if built.all.is_some() || !built.spans.is_empty() {
                table.protocols.push(built);
            }
        }
        table
    }

    fn protocol(
        &self,
        protocol: u8,
        rules: &[Covering],
        unmatched: &Decision,
        decider: &mut Decider<'_>,
    ) -> ProtocolTable {
        let whole = decider.decide(rules.iter().filter(|(_, area)| area.covers_protocol(protocol)));
        let whole = whole.or_else(|| self.all.is_some().then(|| unmatched.clone()));
        let mut spans: Vec<Span> = Vec::new();
        for (first, last) in elementary_spans(protocol, rules) {
            let found = decider.decide(rules.iter().filter(|(_, area)| area.covers(protocol, first)));
            let found = found.or_else(|| whole.is_some().then(|| unmatched.clone()));
            let Some(decision) = found.filter(|d| Some(d) != whole.as_ref()) else {
                continue;
            };
            match spans.last_mut() {
                Some(before) if before.last.checked_add(1) == Some(first) && before.decision == decision => {
                    before.last = last;
                }
                _ => spans.push(Span { first, last, decision }),
            }
        }
        ProtocolTable {
            protocol,
            all: whole.filter(|d| Some(d) != self.all.as_ref()),
            spans,
        }
    }

    /// The same table, but these points (protocol, port), each once, decided otherwise.
    pub(crate) fn with_points(&self, points: impl IntoIterator<Item = (u8, u16, Decision)>) -> Self {
        let mut table = self.clone();
        for (protocol, port, decision) in points {
            let at = match table.protocols.binary_search_by_key(&protocol, |t| t.protocol) {
                Ok(at) => at,
                Err(at) => {
                    let new = ProtocolTable {
                        protocol,
                        all: None,
                        spans: Vec::new(),
                    };
                    table.protocols.insert(at, new);
                    at
                }
            };
            table.protocols[at].set(port, decision);
        }
        table
    }

    /// What has to be written of the table where those whom it does not answer ask `any` next, and then `unmatched`: rows
    /// that say the same are left out. Only where no wider row would answer in their place.
    pub(crate) fn beyond(&self, any: &Self, unmatched: &Decision) -> Self {
        if self.all.is_some() {
            return self.clone();
        }
        let differs = |protocol: u8, span: &Span| !any.says(protocol, span, unmatched);
        let mut protocols = Vec::with_capacity(self.protocols.len());
        for table in &self.protocols {
            let mut table = table.clone();
            if table.all.is_none() {
                table.spans.retain(|span| differs(table.protocol, span));
            }
            if table.all.is_some() || !table.spans.is_empty() {
                protocols.push(table);
            }
        }
        Self { all: None, protocols }
    }

    /// Whether the table, or `unmatched` where it is silent, decides the whole span as the span does.
    fn says(&self, protocol: u8, span: &Span, unmatched: &Decision) -> bool {
        let spans = self.protocols.binary_search_by_key(&protocol, |t| t.protocol);
        let spans = spans.map_or(&[][..], |at| &self.protocols[at].spans);
        let begins = spans.iter().flat_map(|own| [Some(own.first), own.last.checked_add(1)]);
        let begins = begins.flatten().filter(|port| (span.first..=span.last).contains(port));
        let mut asked = begins.chain([span.first]);
        asked.all(|port| *self.lookup(protocol, port).unwrap_or(unmatched) == span.decision)
    }

    /// Whether it says nothing of anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_none() && self.protocols.is_empty()
    }

    /// The decision for a protocol and port; `None` if the table says nothing of it.
    pub(crate) fn lookup(&self, protocol: u8, port: u16) -> Option<&Decision> {
        self.row(protocol, port).map(|(decision, _)| decision)
    }

    /// The same, with what the row is for.
    pub(crate) fn row(&self, protocol: u8, port: u16) -> Option<(&Decision, RowWidth)> {
        let all = || self.all.as_ref().map(|decision| (decision, RowWidth::All));
        let Ok(at) = self.protocols.binary_search_by_key(&protocol, |t| t.protocol) else {
            return all();
        };
        let table = &self.protocols[at];
        let at = table.spans.partition_point(|s| s.last < port);
        match table.spans.get(at) {
            Some(span) if span.first <= port => Some((&span.decision, RowWidth::Port)),
            _ => match &table.all {
                Some(decision) => Some((decision, RowWidth::Protocol)),
                None => all(),
            },
        }
    }

    /// Every entry, wider ones first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (PortPrefix, &Decision)> {
        let all = self.all.iter().map(|d| {
            (
                PortPrefix {
                    protocol: None,
                    port: 0,
                    port_bits: 0,
                },
                d,
            )
        });
        all.chain(self.protocols.iter().flat_map(|table| {
            let protocol = Some(table.protocol);
            let whole = table.all.iter().map(move |d| {
                (
                    PortPrefix {
                        protocol,
                        port: 0,
                        port_bits: 0,
                    },
                    d,
                )
            });
            whole.chain(table.spans.iter().flat_map(move |span| {
                prefixes(span.first, span.last).map(move |(port, port_bits)| {
                    (
                        PortPrefix {
                            protocol,
                            port,
                            port_bits,
                        },
                        &span.decision,
                    )
                })
            }))
        }))
    }

    /// Every rule set that the table names.
    pub(crate) fn rule_sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        let decisions = self.all.iter().chain(
            self.protocols
                .iter()
                .flat_map(|t| t.all.iter().chain(t.spans.iter().map(|span| &span.decision))),
        );
        decisions.filter_map(|d| {
            if let Decision::Inspect(set) = d {
                Some(set)
            } else {
                None
            }
        })
    }
}

impl ProtocolTable {
    /// Decides one port otherwise.
    fn set(&mut self, port: u16, decision: Decision) {
        let at = self.spans.partition_point(|span| span.last < port);
        let one = |decision| Span {
            first: port,
            last: port,
            decision,
        };
        let Some(around) = self.spans.get(at).filter(|span| span.first <= port).cloned() else {
            self.spans.insert(at, one(decision));
            return;
        };
        let before = port.checked_sub(1).filter(|last| *last >= around.first);
        let before = before.map(|last| Span { last, ..around.clone() });
        let behind = port.checked_add(1).filter(|first| *first <= around.last);
        let behind = behind.map(|first| Span { first, ..around });
        let pieces = before.into_iter().chain([one(decision)]).chain(behind);
        self.spans.splice(at..=at, pieces);
    }
}

/// The ports of a protocol cut wherever a rule begins or ends, without stretches that only whole-protocol rules cover.
fn elementary_spans(protocol: u8, rules: &[Covering]) -> Vec<(u16, u16)> {
    let mut cuts = BTreeSet::from([0_u32, 0x1_0000]);
    for (_, area) in rules {
        if let Area::Spans(spans) = area {
            for &(_, first, last) in spans.iter().filter(|s| s.0 == protocol) {
                cuts.insert(u32::from(first));
                cuts.insert(u32::from(last) + 1);
            }
        }
    }
    let cuts: Vec<u32> = cuts.into_iter().collect();
    let narrow = |u: u32| u16::try_from(u).unwrap_or(u16::MAX);
    cuts.windows(2).map(|w| (narrow(w[0]), narrow(w[1] - 1))).collect()
}

/// The fewest prefixes that cover a span: at most 30.
fn prefixes(first: u16, last: u16) -> impl Iterator<Item = (u16, u32)> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let fits = (end - next).ilog2();
        let free = aligned.min(fits).min(16);
        let prefix = (u16::try_from(next).unwrap_or(u16::MAX), 16 - free);
        next += 1 << free;
        Some(prefix)
    })
}

/// Weighs rules against each other and gives numbers to the rule sets that come out.
pub(crate) struct Decider<'a> {
    pub(crate) registry: &'a mut RuleSetRegistry,
    /// What could not be decided as written and is denied instead.
    pub(crate) conflicts: &'a mut Vec<Conflict>,
}

/// Who has the last word over some traffic.
pub(crate) enum Ruling<'r> {
    /// This rule denies it.
    Deny(&'r Rule),
    /// This rule lets it pass without a look inside.
    Bypass(&'r Rule),
    /// These rules, at least one, allow it together.
    Allow(Vec<&'r Rule>),
}

/// Weighs rules that all cover the same traffic; `None` if none of them says anything.
pub(crate) fn weigh(mut rules: Vec<&Rule>) -> Option<Ruling<'_>> {
    rules.sort_by_key(|rule| rule.precedence);
    let mut rest = rules.as_slice();
    while let Some(head) = rest.first() {
        let level = &head.precedence;
        let (here, behind) = rest.split_at(rest.partition_point(|r| r.precedence == *level));
        let first = |action| here.iter().find(|r| r.action == action).copied();
        if let Some(rule) = first(Action::Deny) {
            return Some(Ruling::Deny(rule));
        }
        if first(Action::Pass).is_some() {
            rest = &behind[behind.partition_point(|r| r.precedence.tier == level.tier)..];
            continue;
        }
        return Some(match first(Action::Bypass) {
            Some(rule) => Ruling::Bypass(rule),
            None => Ruling::Allow(here.to_vec()),
        });
    }
    None
}

/// Rules that contradict each other; the traffic is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The rules.
    pub rules: Vec<Arc<crate::finding::RuleOrigin>>,
    /// Why they cannot hold together.
    pub reason: String,
}

impl Conflict {
    /// What to tell people: the first rule's place, and where the others are.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let (first, others) = self.rules.split_first()?;
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        Some(Finding {
            severity: Severity::Warning,
            file: first.file.clone(),
            document: first.document,
            line: first.line,
            column: 1,
            object: format!("{} {}", first.kind, first.policy()),
            field: first.path.clone(),
            reason: format!("policy_conflict: {}; with {}", self.reason, others.join(" and ")),
        })
    }
}

impl Decider<'_> {
    /// The decision of rules that all cover the same traffic; `None` if none of them says anything.
    fn decide<'r>(&mut self, rules: impl Iterator<Item = &'r Covering>) -> Option<Decision> {
        Some(match weigh(rules.map(|(rule, _)| &**rule).collect())? {
            Ruling::Deny(_) => Decision::Deny(DropReason::PolicyDenyRule),
            Ruling::Bypass(_) => Decision::Allow,
            Ruling::Allow(rules) => self.allow(&rules),
        })
    }

    fn allow(&mut self, rules: &[&Rule]) -> Decision {
        if rules.iter().any(|r| r.authentication_required) {
            return Decision::Deny(DropReason::AuthRequired);
        }
        let allows_all = rules.iter().find(|r| r.l7.is_none()).map(|r| r.origin.clone());
        let mut merged: Option<RuleSetRules> = None;
        for rule in rules {
            let Some(l7) = &rule.l7 else { continue };
            let added = match (merged.as_mut(), l7) {
                (None, l7) => {
                    merged = Some(as_rules(l7));
                    true
                }
                (Some(RuleSetRules::Http(all)), L7Rules::Http(more)) => add(all, more),
                (Some(RuleSetRules::Dns(all)), L7Rules::Dns(more)) => add(all, more),
                (Some(RuleSetRules::Tls(all)), L7Rules::Tls(more)) => add(all, more),
                _ => false,
            };
            if !added {
                let reason = "rules of different L7 protocols cover the same traffic, which is therefore denied".into();
                return self.conflict(rules, reason);
            }
        }
        let Some(content) = merged else { return Decision::Allow };
        match self.registry.intern(RuleSetContent {
            rules: content,
            allows_all,
        }) {
            Ok(set) => Decision::Inspect(set),
            Err(reason) => self.conflict(rules, reason),
        }
    }

    fn conflict(&mut self, rules: &[&Rule], reason: String) -> Decision {
        let conflict = Conflict {
            rules: rules.iter().map(|r| r.origin.clone()).collect(),
            reason,
        };
        if !self.conflicts.contains(&conflict) {
            self.conflicts.push(conflict);
        }
        Decision::Deny(DropReason::PolicyConflict)
    }
}

fn as_rules(l7: &L7Rules) -> RuleSetRules {
    fn shared<T>(rules: &[Arc<T>]) -> Vec<ByAddress<T>> {
        rules.iter().cloned().map(ByAddress).collect()
    }
    match l7 {
        L7Rules::Http(rules) => RuleSetRules::Http(shared(rules)),
        L7Rules::Dns(rules) => RuleSetRules::Dns(shared(rules)),
        L7Rules::Tls(rules) => RuleSetRules::Tls(shared(rules)),
    }
}

/// Adds rules that are not in the list yet.
fn add<T: Eq>(all: &mut Vec<ByAddress<T>>, more: &[Arc<T>]) -> bool {
    for rule in more {
        let rule = ByAddress(rule.clone());
        if !all.contains(&rule) {
            all.push(rule);
        }
    }
    true
}
