//! From checked rules to the tables of an endpoint.
//!
//! A table per direction holds entries for single identities and entries for any identity. The kernel asks the peer's
//! own entries first and the others only if none of those matched, so an identity that any rule names gets the rules
//! for everybody merged into its own entries: the first lookup that matches is final.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ahash::AHashMap;
use seventh_abi::{Direction, DropReason, PolicyKey};

use crate::compiled::{CompiledDirection, CompiledPolicy, KernelEntry};
use crate::coverage::Coverage;
use crate::finding::RuleOrigin;
use crate::identity::{AllocateError, Identities, Identity, IdentityId, NamedPorts, ServicePorts};
use crate::label::{Labels, SOURCE_RESERVED};
use crate::rule::{
    Action, DirectionRules, PeerSelector, Peers, PolicyRule, PortMatch, PortRange, Ports, Precedence, Rule, Subject,
    Tier, is_host, is_init,
};
use crate::rule_set::RuleSetRegistry;
use crate::selector::{Operator, Requirement, Selector, SelectorKey};
use crate::subject_index::SubjectIndex;
use crate::table::{Area, Conflict, Decider, Decision, PortTable};

/// When an endpoint is in default deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// Per direction, once a policy with default deny selects it.
    #[default]
    Default,
    /// Always, even without any policy.
    Always,
    /// Never; policies are not enforced at all.
    Never,
}

/// Settings that change what rules mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// Mode of enforcement.
    pub enforcement: Enforcement,
    /// The node may always reach its endpoints, past L7 rules too, unless a deny rule says otherwise (kubelet's probes).
    pub allow_localhost: bool,
}

/// What the rules ask of the endpoint they govern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointFacts {
    /// All its labels.
    pub labels: Labels,
    /// Ports that its containers declare, for ingress rules by port name.
    pub named_ports: NamedPorts,
}

/// Which documents a policy is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Documents {
    /// None at all: nothing is enforced, in any mode of enforcement.
    None,
    /// Those that are enforced.
    Enforced,
    /// All, as if those in audit were enforced.
    All,
}

/// Compiles and remembers: rules, identities, which identities a selector means, and the policies that came out, so
/// that a change costs only what it touches.
///
/// Order of publication, so that no packet meets half of a change: entries of a policy before the endpoint is switched
/// to it; patches for a new identity before its addresses enter the ipcache.
#[derive(Debug)]
pub struct Compiler {
    options: CompileOptions,
    rules: Vec<NumberedRule>,
    subjects: SubjectIndex,
    last_rule: u64,
    identities: Identities,
    selections: HashMap<PeerSelector, Vec<IdentityId>>,
    registry: RuleSetRegistry,
    policies: HashMap<PolicyContent, Built>,
    last_policy_id: u32,
}

#[derive(Clone, Debug)]
struct NumberedRule {
    number: u64,
    rule: Arc<PolicyRule>,
}

/// All that decides what a policy comes to, apart from the identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PolicyContent {
    /// Numbers of the rules that select the endpoint, in their order.
    rules: Vec<u64>,
    default_deny: [bool; 2],
    /// Whether the rules are asked at all.
    asked: bool,
    /// Only if a rule for ingress names a port.
    named_ports: NamedPorts,
    localhost: bool,
}

/// A policy with what is needed to extend it.
#[derive(Debug)]
struct Built {
    policy: Arc<CompiledPolicy>,
    plans: [Plan; 2],
}

/// The rules of one direction, ready to be applied to identities.
#[derive(Debug)]
pub(crate) struct Plan {
    direction: Direction,
    enforced: bool,
    rules: Vec<Arc<Rule>>,
    own_ports: NamedPorts,
    pub(crate) unmatched: Decision,
    pub(crate) any: Ruled,
    /// By which rules apply.
    classes: HashMap<Class, Ruled>,
}

/// What rules come to for a class of peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruled {
    pub(crate) table: Arc<PortTable>,
    pub(crate) coverage: Arc<Coverage>,
}

/// Rules that name an identity, with the port numbers that its port names stand for.
pub(crate) type Class = Vec<(usize, Area)>;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Compiler {
    /// A compiler without rules that knows the reserved identities.
    #[must_use]
    pub fn new(options: CompileOptions) -> Self {
        Self {
            options,
            rules: Vec::new(),
            subjects: SubjectIndex::default(),
            last_rule: 0,
            identities: Identities::new(),
            selections: HashMap::new(),
            registry: RuleSetRegistry::default(),
            policies: HashMap::new(),
            last_policy_id: 0,
        }
    }

    /// Settings that change what rules mean.
    #[must_use]
    pub fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// The same, to change them: [`Compiler::compile`] goes by what they are then.
    pub fn options_mut(&mut self) -> &mut CompileOptions {
        &mut self.options
    }

    /// The identities as they are.
    #[must_use]
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The rules in force.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<PolicyRule>> {
        self.rules.iter().map(|r| &r.rule)
    }

    /// Replaces the rules. Rules that were there before with the same content keep what was compiled from them, so that
    /// [`Compiler::compile`] gives endpoints they alone govern the same policy as before.
    pub fn set_rules(&mut self, rules: impl IntoIterator<Item = Arc<PolicyRule>>) {
        let mut old: HashMap<Arc<RuleOrigin>, Vec<NumberedRule>> = HashMap::new();
        for rule in self.rules.drain(..) {
            old.entry(rule.rule.origin.clone()).or_default().push(rule);
        }
        for rule in rules {
            let known = old.get_mut(&rule.origin).and_then(|same_place| {
                let at = same_place.iter().position(|r| r.rule == rule)?;
                Some(same_place.swap_remove(at))
            });
            self.rules.push(known.unwrap_or_else(|| {
                self.last_rule += 1;
                NumberedRule {
                    number: self.last_rule,
                    rule,
                }
            }));
        }
        self.subjects = SubjectIndex::new(self.rules.iter().map(|r| &r.rule));
        self.forget_unused();
    }

    /// The policy of an endpoint, made of all documents. Endpoints that the same rules govern share one.
    ///
    /// # Errors
    /// All numbers of policies were used.
    pub fn compile(&mut self, endpoint: &EndpointFacts) -> Result<Arc<CompiledPolicy>, PolicyIdsUsedUp> {
        self.compile_of(endpoint, Documents::All)
    }

    /// Whether a rule in audit governs the endpoint.
    #[must_use]
    pub fn is_audited(&self, endpoint: &EndpointFacts) -> bool {
        self.governing(endpoint).iter().any(|r| r.rule.origin.audit)
    }

    /// As [`Compiler::compile`], of some of the documents only.
    ///
    /// # Errors
    /// All numbers of policies were used.
    pub fn compile_of(
        &mut self,
        endpoint: &EndpointFacts,
        documents: Documents,
    ) -> Result<Arc<CompiledPolicy>, PolicyIdsUsedUp> {
        let mut selected = self.governing(endpoint);
        selected.retain(|r| match documents {
            Documents::None => false,
            Documents::Enforced => !r.rule.origin.audit,
            Documents::All => true,
        });
        let mut content = self.content(&selected, endpoint);
        if documents == Documents::None {
            content.default_deny = [false; 2];
        }
        if let Some(built) = self.policies.get(&content) {
            return Ok(built.policy.clone());
        }
        self.last_policy_id = self.last_policy_id.checked_add(1).ok_or(PolicyIdsUsedUp)?;
        let built = self.build(self.last_policy_id, &content, &selected);
        let policy = built.policy.clone();
        self.policies.insert(content, built);
        Ok(policy)
    }

    /// The rules that are asked for an endpoint, those included that the modes of enforcement add. Their order is not
    /// that in which they are asked.
    #[must_use]
    pub fn rules_for(&self, direction: Direction, endpoint: &EndpointFacts) -> Vec<Arc<Rule>> {
        let selected = self.governing(endpoint);
        let content = self.content(&selected, endpoint);
        self.plan(direction, &content, &selected).rules
    }

    /// Number of a label set. For a new one, every policy whose rules mean it is patched.
    ///
    /// # Errors
    /// The scope has no number left.
    pub fn add_identity(&mut self, labels: &Labels) -> Result<(IdentityId, Vec<PolicyPatch>), AllocateError> {
        if let Some(id) = self.identities.find(labels) {
            return Ok((id, Vec::new()));
        }
        let id = self.identities.allocate(labels)?;
        Ok((id, self.identity_changed(id)))
    }

    /// Number of the endpoints with these labels that declare these ports. Endpoints of one label set that declare others
    /// have a number of their own: what a port's name means for egress to them is decided for each.
    ///
    /// # Errors
    /// The scope has no number left.
    pub fn add_identity_with_ports(
        &mut self,
        labels: &Labels,
        ports: &NamedPorts,
    ) -> Result<(IdentityId, Vec<PolicyPatch>), AllocateError> {
        // Of a new label set none is looked for among all others.
        let id = if self.identities.find(labels).is_none() {
            self.identities.allocate(labels)?
        } else {
            let mut known = self.identities.iter().filter(|i| i.labels == *labels);
            if let Some(known) = known.find(|i| i.named_ports == *ports) {
                return Ok((known.id, Vec::new()));
            }
            drop(known);
            self.identities.allocate_another(labels)?
        };
        self.identities.set_named_ports(id, ports.clone());
        Ok((id, self.identity_changed(id)))
    }

    /// Declares the named ports of the endpoints with this identity.
    pub fn set_named_ports(&mut self, id: IdentityId, ports: NamedPorts) -> Vec<PolicyPatch> {
        if self.identities.set_named_ports(id, ports) {
            self.identity_changed(id)
        } else {
            Vec::new()
        }
    }

    /// Number of a service's address, and who answers behind it. Its labels are its name, and what the address is besides.
    /// The backends' identities must be known.
    ///
    /// # Errors
    /// The scope has no number left.
    pub fn set_service(
        &mut self,
        labels: &Labels,
        ports: ServicePorts,
    ) -> Result<(IdentityId, Vec<PolicyPatch>), AllocateError> {
        let id = self.identities.allocate(labels)?;
        Ok((id, self.set_ports_behind(id, Some(ports))))
    }

    /// Says who answers behind the addresses of an identity that is known, if others do at some ports.
    pub fn set_ports_behind(&mut self, id: IdentityId, ports: Option<ServicePorts>) -> Vec<PolicyPatch> {
        if self.identities.set_service(id, ports) {
            self.identity_changed(id)
        } else {
            Vec::new()
        }
    }

    /// Releases an identity. Its addresses must have left the ipcache before.
    pub fn remove_identity(&mut self, id: IdentityId) -> Vec<PolicyPatch> {
        if self.identities.remove(id) {
            self.identity_changed(id)
        } else {
            Vec::new()
        }
    }

    fn governing(&self, endpoint: &EndpointFacts) -> Vec<NumberedRule> {
        let candidates = self.subjects.candidates(&endpoint.labels).into_iter();
        let governing = candidates
            .filter_map(|at| self.rules.get(at))
            .filter(|r| governs(&r.rule.subject, &endpoint.labels));
        governing.cloned().collect()
    }

    fn content(&self, selected: &[NumberedRule], endpoint: &EndpointFacts) -> PolicyContent {
        let named = selected.iter().filter_map(|r| r.rule.ingress.as_ref()).any(names_ports);
        PolicyContent {
            rules: selected.iter().map(|r| r.number).collect(),
            default_deny: DIRECTIONS.map(|d| self.default_deny(d, selected, &endpoint.labels)),
            asked: self.options.enforcement != Enforcement::Never,
            named_ports: if named {
                endpoint.named_ports.clone()
            } else {
                NamedPorts::default()
            },
            localhost: self.options.allow_localhost && !is_host(&endpoint.labels),
        }
    }

    fn default_deny(&self, direction: Direction, selected: &[NumberedRule], labels: &Labels) -> bool {
        match self.options.enforcement {
            Enforcement::Always => true,
            Enforcement::Never => false,
            Enforcement::Default => {
                is_init(labels)
                    || selected
                        .iter()
                        .filter_map(|r| r.rule.direction(direction))
                        .any(|part| part.default_deny)
            }
        }
    }

    fn build(&mut self, policy_id: u32, content: &PolicyContent, selected: &[NumberedRule]) -> Built {
        let mut conflicts = Vec::new();
        let [ingress, egress] = DIRECTIONS.map(|direction| {
            let mut plan = self.plan(direction, content, selected);
            let compiled = self.apply(&mut plan, &mut conflicts);
            (compiled, plan)
        });
        let policy = CompiledPolicy::new(policy_id, [ingress.0, egress.0], conflicts);
        Built {
            policy: Arc::new(policy),
            plans: [ingress.1, egress.1],
        }
    }

    fn plan(&self, direction: Direction, content: &PolicyContent, selected: &[NumberedRule]) -> Plan {
        let default_deny = content.default_deny[index(direction)];
        let mut rules = Vec::new();
        if content.asked {
            let parts: Vec<_> = selected.iter().filter_map(|r| r.rule.direction(direction)).collect();
            // Default deny of the Normal tier is a final word: the Baseline tier behind it is not asked.
            let final_word = parts.iter().any(|part| part.default_deny);
            let asked = parts.iter().flat_map(|part| &part.rules);
            let asked = asked.filter(|rule| !(final_word && rule.precedence.tier == Tier::Baseline));
            rules.extend(asked.map(|rule| Arc::new(rule.clone())));
            if !parts.is_empty() && !default_deny {
                let read_only = rules.iter().filter(|r| r.l7.is_some()).map(|r| Arc::new(without_l7(r)));
                rules.extend(read_only.collect::<Vec<_>>());
                rules.push(Arc::new(allow_instead_of_default_deny()));
            }
        }
        let enforced = default_deny || !rules.is_empty();
        if enforced && direction == Direction::Ingress && content.localhost {
            rules.push(Arc::new(allow_localhost()));
        }
        let unmatched = if default_deny {
            Decision::Deny(DropReason::PolicyDenied)
        } else {
            Decision::Allow
        };
        Plan {
            direction,
            enforced,
            rules,
            own_ports: content.named_ports.clone(),
            unmatched,
            any: Ruled::default(),
            classes: HashMap::new(),
        }
    }

    /// Applies a plan to all identities.
    fn apply(&mut self, plan: &mut Plan, conflicts: &mut Vec<Conflict>) -> CompiledDirection {
        plan.any = plan.ruled(&Class::new(), &mut self.registry, conflicts);
        let mut named: BTreeMap<IdentityId, Class> = BTreeMap::new();
        for (at, rule) in plan.rules.iter().enumerate() {
            for id in self.meant(plan, rule) {
                let Some(identity) = self.identities.get(id) else {
                    continue;
                };
                named
                    .entry(id)
                    .or_default()
                    .push((at, plan.area(rule, Some(&identity.named_ports))));
            }
        }
        let mut by_identity = AHashMap::with_capacity(named.len());
        let mut coverage_of = AHashMap::with_capacity(named.len());
        for (id, class) in named {
            let Ruled { table, coverage } = plan.ruled(&class, &mut self.registry, conflicts);
            if plan.is_worth_writing(&table) {
                by_identity.insert(id, table);
            }
            coverage_of.insert(id, coverage);
        }
        if plan.direction == Direction::Egress && plan.enforced {
            let (identities, registry) = (&self.identities, &mut self.registry);
            for front in identities.iter() {
                let Some(ports) = front.service.as_deref() else {
                    continue;
                };
                let Ruled { table, coverage } = plan.fronted(front, ports, identities, registry, conflicts);
                by_identity.remove(&front.id);
                if plan.is_worth_writing(&table) {
                    by_identity.insert(front.id, table);
                }
                coverage_of.insert(front.id, coverage);
            }
        }
        CompiledDirection {
            enforced: plan.enforced,
            any: plan.any.table.clone(),
            by_identity,
            coverage: plan.any.coverage.clone(),
            coverage_of,
        }
    }

    /// Identities that a rule treats apart from everybody.
    fn meant(&mut self, plan: &Plan, rule: &Rule) -> Vec<IdentityId> {
        match &rule.peers {
            Peers::Any if plan.needs_peer_ports(rule) => self
                .identities
                .iter()
                .filter(|i| !i.named_ports.is_empty())
                .map(|i| i.id)
                .collect(),
            Peers::Any => Vec::new(),
            Peers::Selected(selectors) => match selectors.as_slice() {
                [one] => self.selection(one).to_vec(),
                many => {
                    let mut ids: Vec<_> = many.iter().flat_map(|s| self.selection(s).to_vec()).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    ids
                }
            },
        }
    }

    fn selection(&mut self, selector: &PeerSelector) -> &[IdentityId] {
        if !self.selections.contains_key(selector) {
            let ids = self
                .identities
                .iter()
                .filter(|i| selector.selects(i))
                .map(|i| i.id)
                .collect();
            self.selections.insert(selector.clone(), ids);
        }
        self.selections.get(selector).map_or(&[], Vec::as_slice)
    }

    /// Brings selections and policies up to date with an identity that came, went or changed.
    fn identity_changed(&mut self, id: IdentityId) -> Vec<PolicyPatch> {
        let identity = self.identities.get(id).cloned();
        for (selector, ids) in &mut self.selections {
            let selected = identity.as_ref().is_some_and(|i| selector.selects(i));
            match (ids.binary_search(&id), selected) {
                (Ok(at), false) => drop(ids.remove(at)),
                (Err(at), true) => ids.insert(at, id),
                _ => {}
            }
        }
        let mut patches = Vec::new();
        for built in self.policies.values_mut() {
            let (identities, registry) = (&self.identities, &mut self.registry);
            if let Some(patch) = built.identity_changed(id, identity.as_deref(), identities, registry) {
                patches.push(patch);
            }
        }
        patches
    }

    /// Drops selections that no rule uses and policies that no endpoint holds or whose rules are gone.
    fn forget_unused(&mut self) {
        let numbers: std::collections::HashSet<u64> = self.rules.iter().map(|r| r.number).collect();
        self.policies.retain(|content, built| {
            content.rules.iter().all(|n| numbers.contains(n)) && Arc::strong_count(&built.policy) > 1
        });
        let rules = self
            .rules
            .iter()
            .flat_map(|r| [&r.rule.ingress, &r.rule.egress])
            .flatten()
            .flat_map(|p| &p.rules);
        let used: std::collections::HashSet<&PeerSelector> = rules
            .flat_map(|r| match &r.peers {
                Peers::Any => &[][..],
                Peers::Selected(selectors) => selectors,
            })
            .collect();
        self.selections.retain(|selector, _| used.contains(selector));
    }
}

impl Built {
    fn identity_changed(
        &mut self,
        id: IdentityId,
        identity: Option<&Identity>,
        identities: &Identities,
        registry: &mut RuleSetRegistry,
    ) -> Option<PolicyPatch> {
        let mut conflicts = Vec::new();
        let mut changes = Vec::new();
        for plan in &mut self.plans {
            let service = identity.and_then(|front| Some((front, front.service.as_deref()?)));
            let service = service.filter(|_| plan.direction == Direction::Egress && plan.enforced);
            let ruled = if let Some((front, ports)) = service {
                Some(plan.fronted(front, ports, identities, registry, &mut conflicts))
            } else {
                let class = identity.map(|i| plan.class(i)).unwrap_or_default();
                (!class.is_empty()).then(|| plan.ruled(&class, registry, &mut conflicts))
            };
            let (table, coverage) = ruled.map(|ruled| (ruled.table, ruled.coverage)).unzip();
            let table = table.filter(|table| plan.is_worth_writing(table));
            let before = self.policy.direction(plan.direction);
            let same_coverage = before.coverage_of.get(&id).map(Arc::as_ptr) == coverage.as_ref().map(Arc::as_ptr);
            if table.as_ref() != before.by_identity.get(&id) || !same_coverage {
                changes.push((plan.direction, table, coverage));
            }
        }
        if changes.is_empty() {
            return None;
        }
        let policy = Arc::make_mut(&mut self.policy);
        let mut patch = PolicyPatch {
            policy: Arc::default(),
            added: Vec::new(),
            removed: Vec::new(),
        };
        for (direction, table, coverage) in changes {
            policy.replace(direction, id, table.as_ref(), &mut patch.added, &mut patch.removed);
            policy.cover(direction, id, coverage);
        }
        policy.add_conflicts(conflicts);
        patch.policy = self.policy.clone();
        Some(patch)
    }
}

impl Plan {
    /// The rules that name this identity.
    pub(crate) fn class(&self, identity: &Identity) -> Class {
        let named = |rule: &Rule| match &rule.peers {
            Peers::Any => self.needs_peer_ports(rule) && !identity.named_ports.is_empty(),
            Peers::Selected(selectors) => selectors.iter().any(|s| s.selects(identity)),
        };
        let rules = self.rules.iter().enumerate().filter(|(_, rule)| named(rule));
        rules
            .map(|(at, rule)| (at, self.area(rule, Some(&identity.named_ports))))
            .collect()
    }

    /// The table of identities that exactly these rules name: they and the rules for everybody.
    pub(crate) fn ruled(
        &mut self,
        class: &Class,
        registry: &mut RuleSetRegistry,
        conflicts: &mut Vec<Conflict>,
    ) -> Ruled {
        if let Some(known) = self.classes.get(class) {
            return known.clone();
        }
        let for_all = self.rules.iter().filter(|r| r.peers == Peers::Any);
        let for_all = for_all.map(|rule| (rule.clone(), self.area(rule, None)));
        let named = class
            .iter()
            .filter_map(|(at, area)| Some((self.rules.get(*at)?.clone(), area.clone())));
        let coverage = Coverage::new(for_all.chain(named).collect());
        let mut decider = Decider { registry, conflicts };
        let mut table = PortTable::build(coverage.rules(), &self.unmatched, &mut decider);
        if !class.is_empty() {
            table = table.beyond(&self.any.table, &self.unmatched);
        }
        let ruled = Ruled {
            table: Arc::new(table),
            coverage: Arc::new(coverage),
        };
        self.classes.insert(class.clone(), ruled.clone());
        ruled
    }

    /// Whether the kernel would answer otherwise without this table of a single identity.
    fn is_worth_writing(&self, table: &Arc<PortTable>) -> bool {
        !table.is_empty() && *table != self.any.table
    }

    fn needs_peer_ports(&self, rule: &Rule) -> bool {
        self.direction == Direction::Egress && rule_names_ports(rule)
    }

    /// Protocols and ports of a rule, port names resolved: for ingress by the endpoint, for egress by the peer. A name
    /// that nobody declares covers nothing.
    fn area(&self, rule: &Rule, peer_ports: Option<&NamedPorts>) -> Area {
        let Ports::Some(matches) = &rule.ports else {
            return Area::All;
        };
        let declared = if self.direction == Direction::Ingress {
            Some(&self.own_ports)
        } else {
            peer_ports
        };
        let mut spans = Vec::with_capacity(matches.len());
        for PortMatch { protocol, ports } in matches {
            match ports {
                PortRange::All => spans.push((*protocol, 0, u16::MAX)),
                PortRange::Numbers(first, last) => spans.push((*protocol, *first, *last)),
                PortRange::Name(name) => {
                    let numbers = declared.into_iter().flat_map(|d| d.resolve(name, *protocol));
                    spans.extend(numbers.map(|port| (*protocol, port, port)));
                }
            }
        }
        Area::Spans(spans)
    }
}

/// A change of a policy in force that needs no new number: entries of one identity.
#[derive(Clone, Debug)]
pub struct PolicyPatch {
    /// The policy as it is now; its number is the old one.
    pub policy: Arc<CompiledPolicy>,
    /// Entries to write; with none of these and none of [`PolicyPatch::removed`], only the names of rules changed.
    pub added: Vec<KernelEntry>,
    /// Keys to delete.
    pub removed: Vec<(u32, PolicyKey)>,
}

impl PolicyPatch {
    /// Whether what the kernel holds changes.
    #[must_use]
    pub fn changes_rows(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty()
    }
}

/// All numbers of policies that a process can give were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all policy numbers of this process were used; restart the agent")]
pub struct PolicyIdsUsedUp;

/// Whether a rule governs an endpoint: the node itself is governed only by rules with a node selector, and they govern
/// nothing else.
#[must_use]
pub fn governs(subject: &Subject, labels: &Labels) -> bool {
    match subject {
        Subject::Endpoints(selector) => !is_host(labels) && selector.matches(labels),
        Subject::Nodes(selector) => is_host(labels) && selector.matches(labels),
    }
}

pub(crate) fn index(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

fn names_ports(part: &DirectionRules) -> bool {
    part.rules.iter().any(rule_names_ports)
}

fn rule_names_ports(rule: &Rule) -> bool {
    match &rule.ports {
        Ports::All => false,
        Ports::Some(matches) => matches.iter().any(|m| matches!(m.ports, PortRange::Name(_))),
    }
}

fn without_l7(rule: &Rule) -> Rule {
    Rule {
        l7: None,
        ..rule.clone()
    }
}

/// Stands in for default deny where only policies with `enableDefaultDeny: false` select the endpoint.
fn allow_instead_of_default_deny() -> Rule {
    built_in("default-allow", Tier::Default, Peers::Any)
}

fn allow_localhost() -> Rule {
    let host = Requirement {
        key: SelectorKey::new(SOURCE_RESERVED, "host"),
        operator: Operator::Exists,
    };
    let host = PeerSelector::Labels(Selector::new(vec![host]));
    Rule {
        action: Action::Bypass,
        ..built_in("allow-localhost", Tier::Normal, Peers::Selected(vec![host]))
    }
}

/// A rule that no document holds.
fn built_in(name: &str, tier: Tier, peers: Peers) -> Rule {
    let origin = RuleOrigin {
        file: "".into(),
        document: RuleOrigin::NO_DOCUMENT,
        line: 0,
        kind: "built-in",
        namespace: "".into(),
        name: name.into(),
        labels: Labels::new(Vec::new()),
        log: None,
        audit: false,
        path: String::new(),
    };
    Rule {
        origin: Arc::new(origin),
        precedence: Precedence::of_tier(tier),
        action: Action::Allow,
        peers,
        ports: Ports::All,
        l7: None,
        authentication_required: false,
    }
}
