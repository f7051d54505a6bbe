//! Why traffic passes or not: the verdict of the compiled tables, the rule that gave it, and for a denial the rule that
//! came nearest and what it missed.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use seventh_abi::{Direction, DropReason};

use crate::compile::{CompileOptions, Compiler, EndpointFacts, PolicyIdsUsedUp, governs};
use crate::compiled::L4Decision;
use crate::finding::RuleOrigin;
use crate::http::{HttpRequest, HttpVerdict};
use crate::identity::{AllocateError, Identity, IdentityId, NamedPorts, WORLD, all_of, outside_labels};
use crate::label::Labels;
use crate::misses::{Miss, misses_of};
use crate::name_pattern::{NamePattern, normal_name};
use crate::party::Party;
use crate::resolve::{name_selectors_of, prefixes_of};
use crate::rule::{Action, PolicyRule, Rule};
use crate::rule_set::RuleSet;
use crate::table::{Ruling, weigh};

/// The traffic in question.
#[derive(Clone, Debug)]
pub struct Traffic<'a> {
    /// Who opens the connection.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; for ICMP, the type.
    pub port: u16,
    /// What is in it.
    pub content: Option<Content<'a>>,
}

/// What the traffic carries.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// An HTTP request.
    Http(HttpRequest<'a>),
    /// An HTTP request that is refused before any rule is asked, for this reason.
    BadHttp(DropReason),
    /// A DNS query for this name.
    Dns(&'a str),
    /// A TLS ClientHello with this server name; empty = without one.
    Tls(&'a str),
}

/// The outcome of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It passes.
    Allowed,
    /// The connection is opened; what is in it decides, and the question did not say what that is.
    Inspected,
    /// It does not pass.
    Denied,
}

/// The answer for both ends.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// The worse of the two.
    pub verdict: Outcome,
    /// Egress at the opener; `None` if no policy of this node governs it.
    pub egress: Option<Leg>,
    /// Ingress at the other side; `None` if no policy of this node governs it.
    pub ingress: Option<Leg>,
}

/// The answer at one endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Leg {
    /// The verdict.
    pub verdict: Outcome,
    /// Name of the drop reason, if denied.
    pub reason: Option<&'static str>,
    /// Whether policies apply to the endpoint in this direction at all.
    pub enforced: bool,
    /// The rule that decided; `None` if no rule did (default deny, or nothing is enforced).
    pub rule: Option<Arc<RuleOrigin>>,
    /// Rules that contradict each other, if that is what denied.
    pub conflicting: Vec<Arc<RuleOrigin>>,
    /// The policies that put the endpoint into default deny, if that is what denied.
    pub default_deny_by: Vec<Arc<RuleOrigin>>,
    /// The allow rule that came nearest, if denied.
    pub nearest: Option<NearMiss>,
}

/// A rule that would have allowed the traffic but for what it missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NearMiss {
    /// The rule.
    pub rule: Arc<RuleOrigin>,
    /// What did not match.
    pub misses: Vec<Miss>,
}

/// A question that cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// See [`AllocateError`].
    #[error(transparent)]
    Identity(#[from] AllocateError),
    /// See [`PolicyIdsUsedUp`].
    #[error(transparent)]
    Policy(#[from] PolicyIdsUsedUp),
}

/// Answers questions about a set of rules.
#[derive(Debug)]
pub struct Tracer {
    compiler: Compiler,
    prefixes: Vec<IpNet>,
    names: Vec<NamePattern>,
}

impl Tracer {
    /// A tracer for these rules.
    #[must_use]
    pub fn new(rules: Vec<Arc<PolicyRule>>, options: CompileOptions) -> Self {
        let prefixes = prefixes_of(&rules);
        let names = name_selectors_of(&rules);
        let mut compiler = Compiler::new(options);
        compiler.set_rules(rules);
        Self {
            compiler,
            prefixes,
            names,
        }
    }

    /// Answers for the opener's egress and the other side's ingress.
    ///
    /// # Errors
    /// Numbers of identities or policies are used up.
    pub fn trace(&mut self, traffic: &Traffic<'_>) -> Result<Trace, TraceError> {
        let egress = self.leg(Direction::Egress, &traffic.from, &traffic.to, traffic)?;
        let ingress = self.leg(Direction::Ingress, &traffic.to, &traffic.from, traffic)?;
        let verdicts = [&egress, &ingress].into_iter().flatten().map(|leg| leg.verdict);
        Ok(Trace {
            verdict: verdicts.max().unwrap_or(Outcome::Allowed),
            egress,
            ingress,
        })
    }

    fn leg(
        &mut self,
        direction: Direction,
        own: &Party,
        peer: &Party,
        traffic: &Traffic<'_>,
    ) -> Result<Option<Leg>, TraceError> {
        let Some(endpoint) = own.governed() else {
            return Ok(None);
        };
        let (labels, ports) = self.labels(peer, traffic.protocol);
        let (id, _) = self.compiler.add_identity(&labels)?;
        self.compiler.set_named_ports(id, ports);
        let Some(identity) = self.compiler.identities().get(id).cloned() else {
            return Ok(None);
        };
        let policy = self.compiler.compile(endpoint)?;
        let rules = self.compiler.rules_for(direction, endpoint);
        let case = Case {
            direction,
            endpoint,
            identity: &identity,
            rules: &rules,
            port: (traffic.protocol, traffic.port),
            content: traffic.content,
        };
        let mut leg = Leg {
            verdict: Outcome::Allowed,
            reason: None,
            enforced: policy.enforced(direction),
            rule: None,
            conflicting: Vec::new(),
            default_deny_by: Vec::new(),
            nearest: None,
        };
        match policy.lookup(direction, id, traffic.protocol, traffic.port) {
            L4Decision::Allow => leg.rule = self.deciders(&case).into_iter().next(),
            L4Decision::Inspect(rules) => self.judge(rules, &case, &mut leg),
            L4Decision::Deny(reason) => {
                leg.verdict = Outcome::Denied;
                leg.reason = Some(reason.name());
                let mut deciders = self.deciders(&case);
                if reason == DropReason::PolicyConflict {
                    leg.conflicting = deciders;
                } else if deciders.is_empty() {
                    leg.default_deny_by = self.default_deny_by(&case);
                    leg.nearest = nearest(&case);
                } else {
                    leg.rule = Some(deciders.swap_remove(0));
                }
            }
        }
        Ok(Some(leg))
    }

    fn judge(&self, rules: &Arc<RuleSet>, case: &Case<'_>, leg: &mut Leg) {
        let denied = match (case.content, rules.http(), rules.dns(), rules.tls()) {
            (None, ..) => {
                leg.verdict = Outcome::Inspected;
                leg.rule = self.deciders(case).into_iter().next();
                return;
            }
            (Some(Content::Http(request)), Some(http), ..) => match http.judge(&request) {
                HttpVerdict::Allow { rule } => {
                    leg.rule = http.origin(rule).cloned();
                    None
                }
                HttpVerdict::Deny => Some(DropReason::HttpPolicyDenied),
            },
            (Some(Content::BadHttp(reason)), Some(_), ..) => {
                leg.verdict = Outcome::Denied;
                leg.reason = Some(reason.name());
                return;
            }
            (Some(Content::Dns(name)), _, Some(dns), _) => match dns.judge(&normal_name(name)) {
                Some(rule) => {
                    leg.rule = dns.origin(rule).cloned();
                    None
                }
                None => Some(DropReason::DnsPolicyDenied),
            },
            (Some(Content::Tls(name)), .., Some(tls)) => match tls.judge(Some(name).filter(|name| !name.is_empty())) {
                Some(rule) => {
                    leg.rule = tls.origin(rule).cloned();
                    None
                }
                None if name.is_empty() => Some(DropReason::TlsNoServerName),
                None => Some(DropReason::TlsPolicyDenied),
            },
            // The rules are of another protocol than the content: it is not what they expect to read.
            (Some(Content::Tls(_)), Some(_), ..) => Some(DropReason::HttpTlsOnHttpRule),
            (_, Some(_), ..) => Some(DropReason::HttpNotHttp),
            (_, _, Some(_), _) => Some(DropReason::DnsMalformed),
            _ => Some(DropReason::TlsNotTls),
        };
        if let Some(reason) = denied {
            leg.verdict = Outcome::Denied;
            leg.reason = Some(reason.name());
            leg.nearest = nearest(case);
        }
    }

    /// Labels and declared ports of a party as its peer sees them.
    fn labels(&self, party: &Party, protocol: u8) -> (Labels, NamedPorts) {
        let (address, name) = match party {
            Party::Labelled(facts) => return (facts.labels.clone(), facts.named_ports.clone()),
            Party::Address(address) => (Some(*address), None),
            Party::Name(name) => (None, Some(normal_name(name))),
        };
        // Without an address the family is open, except that ICMP tells it.
        let ipv6 = address.map_or(protocol == crate::document::ICMP_V6, |a| a.is_ipv6());
        let holding = self
            .prefixes
            .iter()
            .filter(|net| address.is_some_and(|a| net.contains(&a)));
        let prefix = holding
            .max_by_key(|net| net.prefix_len())
            .copied()
            .unwrap_or(all_of(ipv6));
        let learned = self
            .names
            .iter()
            .filter(|pattern| name.as_ref().is_some_and(|n| pattern.matches(n)));
        (outside_labels(prefix, learned), NamedPorts::default())
    }

    /// Who has the last word over the traffic, whatever is in it.
    fn deciders(&self, case: &Case<'_>) -> Vec<Arc<RuleOrigin>> {
        let covering = case
            .rules
            .iter()
            .map(|rule| &**rule)
            .filter(|rule| case.covered_by(rule));
        match weigh(covering.collect()) {
            None => Vec::new(),
            Some(Ruling::Deny(rule) | Ruling::Bypass(rule)) => vec![rule.origin.clone()],
            Some(Ruling::Allow(rules)) => {
                // Those that weigh most first: authentication, then no L7 part, then the order of the documents.
                let mut rules = rules;
                rules.sort_by_key(|r| (!r.authentication_required, r.l7.is_some()));
                rules.into_iter().map(|r| r.origin.clone()).collect()
            }
        }
    }

    fn default_deny_by(&self, case: &Case<'_>) -> Vec<Arc<RuleOrigin>> {
        let demands = |rule: &&Arc<PolicyRule>| rule.direction(case.direction).is_some_and(|part| part.default_deny);
        let governing = self
            .compiler
            .rules()
            .filter(|rule| governs(&rule.subject, &case.endpoint.labels));
        governing.filter(demands).map(|rule| rule.origin.clone()).collect()
    }
}

/// The allow rule that misses least. Peers weigh more than ports, ports more than what is inside.
fn nearest(case: &Case<'_>) -> Option<NearMiss> {
    let allows = case.rules.iter().filter(|rule| rule.action == Action::Allow);
    let missing = allows
        .flat_map(|rule| case.near_misses(rule))
        .filter(|near| !near.misses.is_empty());
    missing.min_by_key(|near| near.misses.iter().map(Miss::weight).sum::<u32>())
}

/// The rule that came nearest to allowing traffic that an endpoint's policy, made of all documents, denies; `None` if none
/// allows anything in this direction. A peer that is not known is the world. `port` is the IP protocol number and the destination port.
#[must_use]
pub fn nearest_rule(
    compiler: &Compiler,
    (direction, endpoint): (Direction, &EndpointFacts),
    peer: IdentityId,
    port: (u8, u16),
    content: Option<Content<'_>>,
) -> Option<NearMiss> {
    let rules = compiler.rules_for(direction, endpoint);
    let known = compiler.identities();
    let identity = known.get(peer).or_else(|| known.get(WORLD))?;
    nearest(&Case {
        direction,
        endpoint,
        identity,
        rules: &rules,
        port,
        content,
    })
}

/// One question at one endpoint.
struct Case<'a> {
    direction: Direction,
    endpoint: &'a EndpointFacts,
    identity: &'a Identity,
    rules: &'a [Arc<Rule>],
    /// IP protocol number and destination port.
    port: (u8, u16),
    content: Option<Content<'a>>,
}

impl Case<'_> {
    fn near_misses(&self, rule: &Rule) -> Vec<NearMiss> {
        let content = self.content.as_ref();
        let missed = misses_of(rule, self.direction, self.endpoint, self.identity, self.port, content);
        missed
            .into_iter()
            .map(|(rule, misses)| NearMiss { rule, misses })
            .collect()
    }

    fn covered_by(&self, rule: &Rule) -> bool {
        let found = misses_of(rule, self.direction, self.endpoint, self.identity, self.port, None);
        found.iter().all(|(_, misses)| misses.is_empty())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, leg) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            match leg {
                Some(leg) => writeln!(f, "{name}: {leg}")?,
                None => writeln!(f, "{name}: outside, no policy applies")?,
            }
        }
        write!(f, "verdict: {}", self.verdict)
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if let Some(reason) = self.reason {
            write!(f, " ({reason})")?;
        }
        match &self.rule {
            Some(rule) => write!(f, "\n  by {rule}")?,
            None if !self.enforced => write!(f, "\n  no policy applies to this endpoint in this direction")?,
            None => {}
        }
        for rule in &self.conflicting {
            write!(f, "\n  contradicted by {rule}")?;
        }
        for policy in &self.default_deny_by {
            write!(f, "\n  no rule allows it, and default deny is on by {policy}")?;
        }
        if let Some(near) = &self.nearest {
            write!(f, "\n  nearest: {}", near.rule)?;
            for miss in &near.misses {
                write!(f, "\n    {miss}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Allowed => "allowed",
            Outcome::Inspected => "inspected",
            Outcome::Denied => "denied",
        })
    }
}
