//! Rule sets: the L7 rules that apply to the same traffic, under a number that the kernel carries.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use crate::finding::RuleOrigin;
use crate::http::{HttpRule, HttpRuleSet};
use crate::rule::{DnsRule, TlsRule};

/// Rules that apply to the same traffic.
#[derive(Debug)]
pub struct RuleSet {
    id: u32,
    kind: RuleSetKind,
    allows_all: Option<Arc<RuleOrigin>>,
}

/// Rules of one protocol.
#[derive(Debug)]
pub enum RuleSetKind {
    /// HTTP requests.
    Http(HttpRuleSet),
    /// DNS queries.
    Dns(DnsRuleSet),
    /// TLS server names.
    Tls(TlsRuleSet),
    /// No rules: every protocol that is known by its content is read, on any port, and nothing is refused.
    Observe,
}

/// Number of the rule set that has no rules.
const OBSERVE_ID: u32 = u32::MAX;

impl RuleSet {
    /// The rule set that shows traffic and judges none of it.
    #[must_use]
    pub const fn observe() -> Self {
        Self {
            id: OBSERVE_ID,
            kind: RuleSetKind::Observe,
            allows_all: None,
        }
    }

    /// Whether it only shows traffic.
    #[must_use]
    pub const fn observes(&self) -> bool {
        matches!(self.kind, RuleSetKind::Observe)
    }

    /// Its number: never 0, never given to another content within a process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The rules.
    #[must_use]
    pub fn kind(&self) -> &RuleSetKind {
        &self.kind
    }

    /// Where its rules stand, one by one.
    pub fn origins(&self) -> impl Iterator<Item = &Arc<RuleOrigin>> {
        (0..).map_while(|index| match &self.kind {
            RuleSetKind::Http(rules) => rules.origin(index),
            RuleSetKind::Dns(rules) => rules.origin(index),
            RuleSetKind::Tls(rules) => rules.origin(index),
            RuleSetKind::Observe => None,
        })
    }

    /// The rule without L7 part that covers the same traffic, if there is one: then whatever is well-formed is allowed
    /// and the L7 rules only make it visible.
    #[must_use]
    pub fn allows_all(&self) -> Option<&Arc<RuleOrigin>> {
        self.allows_all.as_ref()
    }

    /// The HTTP rules, if it has such.
    #[must_use]
    pub fn http(&self) -> Option<&HttpRuleSet> {
        if let RuleSetKind::Http(rules) = &self.kind {
            Some(rules)
        } else {
            None
        }
    }

    /// The DNS rules, if it has such.
    #[must_use]
    pub fn dns(&self) -> Option<&DnsRuleSet> {
        if let RuleSetKind::Dns(rules) = &self.kind {
            Some(rules)
        } else {
            None
        }
    }

    /// The TLS rules, if it has such.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsRuleSet> {
        if let RuleSetKind::Tls(rules) = &self.kind {
            Some(rules)
        } else {
            None
        }
    }
}

/// Rules of which the first that matches decides, and behind them the rule without L7 part, if there is one.
#[derive(Debug)]
struct Ordered<T> {
    rules: Vec<Arc<T>>,
    allows_all: Option<Arc<RuleOrigin>>,
}

impl<T> Ordered<T> {
    fn new(rules: &[ByAddress<T>], allows_all: Option<&Arc<RuleOrigin>>) -> Self {
        Self {
            rules: rules.iter().map(|rule| rule.0.clone()).collect(),
            allows_all: allows_all.cloned(),
        }
    }

    /// Index of the first rule that matches, or of the allow-all rule behind the last.
    fn first(&self, matches: impl Fn(&T) -> bool) -> Option<u32> {
        let first = self.rules.iter().position(|rule| matches(rule));
        let index = first.or(self.allows_all.as_ref().map(|_| self.rules.len()))?;
        u32::try_from(index).ok()
    }

    fn origin<'a>(&'a self, rule: u32, origin: impl Fn(&'a T) -> &'a Arc<RuleOrigin>) -> Option<&'a Arc<RuleOrigin>> {
        let index = usize::try_from(rule).ok()?;
        match self.rules.get(index) {
            Some(rule) => Some(origin(rule)),
            None => self.allows_all.as_ref().filter(|_| index == self.rules.len()),
        }
    }
}

/// DNS rules: a query passes if one of them matches its name.
#[derive(Debug)]
pub struct DnsRuleSet(Ordered<DnsRule>);

impl DnsRuleSet {
    /// Index of the first rule that allows a query for this name, which must be in normal form
    /// ([`crate::name_pattern::normal_name`]).
    #[must_use]
    pub fn judge(&self, name: &str) -> Option<u32> {
        self.0
            .first(|rule| rule.patterns.iter().any(|p| p.is_everything() || p.matches(name)))
    }

    /// Where the rule with this index was written.
    #[must_use]
    pub fn origin(&self, rule: u32) -> Option<&Arc<RuleOrigin>> {
        self.0.origin(rule, |rule| &rule.origin)
    }
}

/// TLS rules: a connection passes if one of them matches its server name.
#[derive(Debug)]
pub struct TlsRuleSet(Ordered<TlsRule>);

impl TlsRuleSet {
    /// Index of the first rule that allows this server name; a ClientHello without one passes none.
    #[must_use]
    pub fn judge(&self, server_name: Option<&str>) -> Option<u32> {
        self.0
            .first(|rule| server_name.is_some_and(|name| rule.pattern.matches(name)))
    }

    /// Where the rule with this index was written.
    #[must_use]
    pub fn origin(&self, rule: u32) -> Option<&Arc<RuleOrigin>> {
        self.0.origin(rule, |rule| &rule.origin)
    }
}

/// What a rule set is made of; equal content has the same number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RuleSetContent {
    pub(crate) rules: RuleSetRules,
    pub(crate) allows_all: Option<Arc<RuleOrigin>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RuleSetRules {
    Http(Vec<ByAddress<HttpRule>>),
    Dns(Vec<ByAddress<DnsRule>>),
    Tls(Vec<ByAddress<TlsRule>>),
}

/// A shared rule, equal to others of the same content; the same allocation is recognised without comparing.
#[derive(Clone, Debug)]
pub(crate) struct ByAddress<T>(pub(crate) Arc<T>);

impl<T: PartialEq> PartialEq for ByAddress<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: Eq> Eq for ByAddress<T> {}

impl<T: Hash> Hash for ByAddress<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl RuleSetContent {
    fn compile(&self) -> Result<RuleSetKind, String> {
        let allows_all = self.allows_all.as_ref();
        Ok(match &self.rules {
            RuleSetRules::Http(rules) => {
                let rules: Vec<&HttpRule> = rules.iter().map(|r| &*r.0).collect();
                RuleSetKind::Http(HttpRuleSet::new(&rules, allows_all)?)
            }
            RuleSetRules::Dns(rules) => RuleSetKind::Dns(DnsRuleSet(Ordered::new(rules, allows_all))),
            RuleSetRules::Tls(rules) => RuleSetKind::Tls(TlsRuleSet(Ordered::new(rules, allows_all))),
        })
    }
}

/// What a content came to.
#[derive(Debug)]
enum Known {
    Set(Weak<RuleSet>),
    /// Why it cannot be compiled: finding that out may have taken long, and many cells have the same content.
    Fault(String),
}

/// Gives numbers to contents. What nobody holds any more, and what could not be compiled, is forgotten when the table has
/// doubled since the last look; a number is not used again.
#[derive(Debug, Default)]
pub(crate) struct RuleSetRegistry {
    known: HashMap<RuleSetContent, Known>,
    last_id: u32,
    sweep_at: usize,
}

impl RuleSetRegistry {
    /// # Errors
    /// The patterns together are too large, or all numbers were used.
    pub(crate) fn intern(&mut self, content: RuleSetContent) -> Result<Arc<RuleSet>, String> {
        match self.known.get(&content) {
            Some(Known::Set(set)) => {
                if let Some(set) = set.upgrade() {
                    return Ok(set);
                }
            }
            Some(Known::Fault(fault)) => return Err(fault.clone()),
            None => {}
        }
        let kind = match content.compile() {
            Ok(kind) => kind,
            Err(fault) => {
                self.remember(content, Known::Fault(fault.clone()));
                return Err(fault);
            }
        };
        let id = self
            .last_id
            .checked_add(1)
            .filter(|id| *id != OBSERVE_ID)
            .ok_or("all rule set numbers of this process were used; restart it")?;
        self.last_id = id;
        let set = Arc::new(RuleSet {
            id,
            kind,
            allows_all: content.allows_all.clone(),
        });
        self.remember(content, Known::Set(Arc::downgrade(&set)));
        Ok(set)
    }

    fn remember(&mut self, content: RuleSetContent, known: Known) {
        self.known.insert(content, known);
        if self.known.len() >= self.sweep_at {
            self.known
                .retain(|_, known| matches!(known, Known::Set(set) if set.strong_count() > 0));
            self.sweep_at = (self.known.len() * 2).max(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ByAddress, Known, RuleSetContent, RuleSetRegistry, RuleSetRules};
    use crate::finding::RuleOrigin;
    use crate::http::HttpRule;
    use crate::label::Labels;
    use std::sync::Arc;

    fn content(path: &str) -> RuleSetContent {
        let origin = RuleOrigin {
            file: "a.yaml".into(),
            document: 1,
            line: 1,
            kind: "CiliumNetworkPolicy",
            namespace: "".into(),
            name: "a".into(),
            labels: Labels::new(Vec::new()),
            log: None,
            audit: false,
            path: String::new(),
        };
        let rule = HttpRule {
            method: None,
            path: Some(path.to_owned()),
            host: None,
            headers: Vec::new(),
            origin: Arc::new(origin),
        };
        RuleSetContent {
            rules: RuleSetRules::Http(vec![ByAddress(Arc::new(rule))]),
            allows_all: None,
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_not_tried_again_until_the_next_sweep() {
        let mut registry = RuleSetRegistry::default();
        // A first sweep, after which there are none for a while.
        let first = registry.intern(content("/first")).unwrap();
        let fault = registry.intern(content("(")).unwrap_err();
        let Some(Known::Fault(remembered)) = registry.known.get_mut(&content("(")) else {
            panic!("{registry:?}")
        };
        assert_eq!(*remembered, fault);
        *remembered = "as remembered".to_owned();
        assert_eq!(registry.intern(content("(")).unwrap_err(), "as remembered");
        let sets: Vec<_> = (0..64)
            .map(|n| registry.intern(content(&format!("/{n}"))).unwrap())
            .collect();
        assert_eq!(registry.intern(content("(")).unwrap_err(), fault, "it was swept out");
        assert_eq!(
            (first.id(), sets[63].id()),
            (1, 65),
            "what cannot be compiled uses up no number"
        );
    }
}
