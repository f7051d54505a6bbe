//! What to tell people about their documents before traffic is: errors, and rules that do something else than they seem
//! to.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::finding::{Finding, RuleOrigin, Severity};
use crate::load::{Sources, load_paths};
use crate::resolve::{Surroundings, resolve};
use crate::rule::{
    Action, DirectionRules, L7Rules, PeerSelector, Peers, PolicyRule, PortMatch, PortRange, Ports, Precedence, Rule,
    Subject, Tier,
};

/// Pairs of rules, and of policies, that are compared at most; beyond that the comparison stops and says so.
const PAIRS_MAX: usize = 1_000_000;
const POLICY_PAIRS_MAX: usize = 10_000_000;

/// What was found in a set of documents.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Validation {
    /// Documents without error.
    pub valid: usize,
    /// Objects of other kinds that were passed over.
    pub others: usize,
    /// Errors and warnings, by file and line.
    pub findings: Vec<Finding>,
    /// What was read, for quotations.
    #[serde(skip)]
    pub sources: Sources,
}

impl Validation {
    /// Whether nothing is wrong; warnings are not.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(|f| f.severity != Severity::Error)
    }
}

/// Checks files and directory trees.
pub fn validate<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, surroundings: &Surroundings) -> Validation {
    let loaded = load_paths(paths);
    let resolved = resolve(&loaded.documents, surroundings);
    let mut findings = loaded.findings;
    findings.extend(resolved.findings);
    for rule in &resolved.rules {
        for part in [&rule.ingress, &rule.egress].into_iter().flatten() {
            default_deny_off(rule, part, &mut findings);
        }
    }
    equal_priorities(&resolved.rules, &mut findings);
    overlaps(resolved.rules.iter().map(|rule| &**rule), &mut findings);
    findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    findings.dedup();
    Validation {
        valid: loaded.documents.len(),
        others: loaded.others,
        findings,
        sources: loaded.sources,
    }
}

/// Without default deny, L7 rules refuse nothing.
fn default_deny_off(policy: &PolicyRule, part: &DirectionRules, findings: &mut Vec<Finding>) {
    if part.default_deny {
        return;
    }
    for rule in part.rules.iter().filter(|r| r.l7.is_some()) {
        let reason = "with enableDefaultDeny: false these L7 rules refuse nothing, unless another policy switches \
                      default deny on for the same endpoints";
        findings.push(warning(&rule.origin, &policy.origin, reason.to_owned()));
    }
}

/// Policies of one tier and priority: the standard leaves their order open.
fn equal_priorities(policies: &[Arc<PolicyRule>], findings: &mut Vec<Finding>) {
    let mut first: HashMap<(Tier, u32), &RuleOrigin> = HashMap::new();
    for policy in policies {
        let parts = [&policy.ingress, &policy.egress].into_iter().flatten();
        let Some(rule) = parts
            .flat_map(|part| &part.rules)
            .find(|r| matches!(r.precedence.tier, Tier::Admin | Tier::Baseline))
        else {
            continue;
        };
        let Precedence { tier, priority, .. } = rule.precedence;
        let before = first.entry((tier, priority)).or_insert(&policy.origin);
        if !std::ptr::eq(*before, &*policy.origin) {
            let reason =
                format!("{before} has the same tier and priority; their rules are asked side by side, and deny wins");
            findings.push(warning(&policy.origin, &policy.origin, reason));
        }
    }
}

/// Rules for the same endpoints and peers that void or contradict each other.
fn overlaps<'a>(rules: impl Iterator<Item = &'a PolicyRule>, findings: &mut Vec<Finding>) {
    let policies: Vec<&PolicyRule> = rules.collect();
    let (mut pairs, mut policy_pairs) = (0, 0);
    for (at, first) in policies.iter().enumerate() {
        for second in policies.iter().skip(at) {
            policy_pairs += 1;
            let meeting = Meeting::of(&first.subject, &second.subject);
            if policy_pairs <= POLICY_PAIRS_MAX && meeting.is_none() {
                continue;
            }
            for (a, b) in [(&first.ingress, &second.ingress), (&first.egress, &second.egress)] {
                let (Some(a), Some(b)) = (a, b) else { continue };
                pairs += a.rules.len() * b.rules.len();
                if pairs > PAIRS_MAX || policy_pairs > POLICY_PAIRS_MAX {
                    let reason = format!(
                        "more than {PAIRS_MAX} pairs of rules, or {POLICY_PAIRS_MAX} of policies: overlaps behind this \
                         one are not looked for"
                    );
                    findings.push(warning(&first.origin, &first.origin, reason));
                    return;
                }
                let Some(meeting) = meeting else { continue };
                compare(a, b, meeting.second_covers, findings);
                if !std::ptr::eq(*first, *second) {
                    compare(b, a, meeting.first_covers, findings);
                }
            }
        }
    }
}

/// Two subjects one of which plainly means all that the other means.
#[derive(Clone, Copy)]
struct Meeting {
    first_covers: bool,
    second_covers: bool,
}

impl Meeting {
    fn of(first: &Subject, second: &Subject) -> Option<Self> {
        let ((Subject::Endpoints(first), Subject::Endpoints(second)) | (Subject::Nodes(first), Subject::Nodes(second))) =
            (first, second)
        else {
            return None;
        };
        let (first_covers, second_covers) = (first.covers(second), second.covers(first));
        (first_covers || second_covers).then_some(Self {
            first_covers,
            second_covers,
        })
    }
}

/// `covered`: the second policy governs all endpoints that the first governs.
fn compare(a: &DirectionRules, b: &DirectionRules, covered: bool, findings: &mut Vec<Finding>) {
    for x in a.rules.iter().filter(|r| r.action == Action::Allow) {
        for y in b.rules.iter().filter(|r| r.action == Action::Allow) {
            match (&x.l7, &y.l7) {
                (Some(one), Some(other)) if kind(one) != kind(other) && peers_meet(x, y) && ports_meet(x, y) => {
                    let reason = format!(
                        "{} rules here and {} rules at {} cover the same traffic, which is therefore denied",
                        kind(one),
                        kind(other),
                        y.origin
                    );
                    findings.push(warning(&x.origin, &x.origin, reason));
                }
                (Some(_), None) if covered => void(x, y, findings),
                _ => {}
            }
        }
    }
}

/// Notes L7 rules whose traffic another rule allows whatever is in it.
fn void(l7: &Rule, plain: &Rule, findings: &mut Vec<Finding>) {
    if plain.peers_cover(l7) && ports_meet(l7, plain) {
        let reason = format!(
            "these L7 rules refuse nothing: {} allows the same traffic whatever is in it",
            plain.origin
        );
        findings.push(warning(&l7.origin, &l7.origin, reason));
    }
}

impl Rule {
    /// Whether it plainly means everybody whom the other means.
    fn peers_cover(&self, other: &Rule) -> bool {
        match (&self.peers, &other.peers) {
            (Peers::Any, _) => true,
            (Peers::Selected(_), Peers::Any) => false,
            (Peers::Selected(all), Peers::Selected(some)) => some.iter().all(|s| all.iter().any(|a| peer_covers(a, s))),
        }
    }
}

/// Whether one selector plainly means everybody whom the other means.
fn peer_covers(all: &PeerSelector, some: &PeerSelector) -> bool {
    match (all, some) {
        (PeerSelector::Labels(all), PeerSelector::Labels(some)) => all.covers(some),
        (PeerSelector::Prefix { net, except }, PeerSelector::Prefix { net: inner, .. }) => {
            all == some || (net.contains(inner) && except.is_empty())
        }
        _ => all == some,
    }
}

/// Whether the two plainly mean some of the same peers: everybody, or a selector that covers one of the other.
fn peers_meet(a: &Rule, b: &Rule) -> bool {
    let meet = |x: &PeerSelector, y: &PeerSelector| peer_covers(x, y) || peer_covers(y, x);
    match (&a.peers, &b.peers) {
        (Peers::Any, _) | (_, Peers::Any) => true,
        (Peers::Selected(a), Peers::Selected(b)) => a.iter().any(|x| b.iter().any(|y| meet(x, y))),
    }
}

fn ports_meet(a: &Rule, b: &Rule) -> bool {
    let meet = |x: &PortMatch, y: &PortMatch| {
        x.protocol == y.protocol
            && match (&x.ports, &y.ports) {
                (PortRange::All, _) | (_, PortRange::All) => true,
                (PortRange::Numbers(a, b), PortRange::Numbers(c, d)) => a <= d && c <= b,
                (x, y) => x == y,
            }
    };
    match (&a.ports, &b.ports) {
        (Ports::All, _) | (_, Ports::All) => true,
        (Ports::Some(a), Ports::Some(b)) => a.iter().any(|x| b.iter().any(|y| meet(x, y))),
    }
}

fn kind(rules: &L7Rules) -> &'static str {
    match rules {
        L7Rules::Http(_) => "HTTP",
        L7Rules::Dns(_) => "DNS",
        L7Rules::Tls(_) => "TLS",
    }
}

fn warning(at: &RuleOrigin, policy: &RuleOrigin, reason: String) -> Finding {
    Finding {
        severity: Severity::Warning,
        file: at.file.clone(),
        document: at.document,
        line: at.line,
        column: 1,
        object: format!("{} {}", policy.kind, policy.policy()),
        field: at.path.clone(),
        reason,
    }
}
