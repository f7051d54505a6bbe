//! What the compiler makes of the rules for one endpoint: tables for kernel and engine.

use ahash::AHashMap as HashMap;
use std::sync::Arc;

use seventh_abi::{
    Direction, DropReason, IDENTITY_ANY, POLICY_PREFIX_ANY_PORT, POLICY_PREFIX_ANY_PROTO, PolicyEntry,
    PolicyEntryFlags, PolicyKey, PolicyVerdict,
};

use crate::compile::index;
use crate::coverage::{Answers, Coverage, Deciders};
use crate::identity::IdentityId;
use crate::rule_set::RuleSet;
use crate::table::{Conflict, Decision, PortPrefix, PortTable, RowWidth};

/// Prefix length, key and value of one element of the kernel's policy table.
pub type KernelEntry = (u32, PolicyKey, PolicyEntry);

/// The policy of one or more endpoints.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    policy_id: u32,
    directions: [CompiledDirection; 2],
    rule_sets: HashMap<u32, Arc<RuleSet>>,
    conflicts: Vec<Conflict>,
    answers: Answers,
    /// By what is looked at what would pass unread.
    shown: Option<Arc<RuleSet>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct CompiledDirection {
    pub(crate) enforced: bool,
    pub(crate) any: Arc<PortTable>,
    /// Only identities whose table differs from `any`.
    pub(crate) by_identity: HashMap<IdentityId, Arc<PortTable>>,
    /// The rules behind `any`.
    pub(crate) coverage: Arc<Coverage>,
    /// Of every identity that a rule names, also where the table is the same.
    pub(crate) coverage_of: HashMap<IdentityId, Arc<Coverage>>,
}

/// By how much of a flow it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matched {
    /// The peer matters: for others the decision is another one.
    pub peer: bool,
    /// What of protocol and port matters.
    pub width: RowWidth,
}

/// What a policy says of a new flow.
#[derive(Clone, Copy, Debug)]
pub enum L4Decision<'a> {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny(DropReason),
    /// The engine decides by these rules.
    Inspect(&'a Arc<RuleSet>),
}

impl CompiledPolicy {
    pub(crate) fn new(policy_id: u32, directions: [CompiledDirection; 2], conflicts: Vec<Conflict>) -> Self {
        let mut policy = Self {
            policy_id,
            directions,
            rule_sets: HashMap::default(),
            conflicts,
            answers: Answers::default(),
            shown: None,
        };
        policy.collect_rule_sets();
        policy
    }

    /// A policy that allows everything and has everything looked at, in both directions: [`RuleSet::observe`].
    #[must_use]
    pub fn observe() -> Self {
        let any = Arc::new(PortTable::everything(Decision::Inspect(Arc::new(RuleSet::observe()))));
        let side = CompiledDirection {
            any,
            ..CompiledDirection::default()
        };
        Self::new(0, [side.clone(), side], Vec::new())
    }

    /// The same policy for who looks on: what passes unread is looked at ([`RuleSet::observe`]). It is none for a kernel.
    #[must_use]
    pub fn observing(&self) -> Self {
        Self {
            shown: Some(Arc::new(RuleSet::observe())),
            ..self.clone()
        }
    }

    /// Its number, never 0 for a policy that a compiler made.
    #[must_use]
    pub fn policy_id(&self) -> u32 {
        self.policy_id
    }

    /// Whether the direction has policy: what no entry allows is dropped.
    #[must_use]
    pub fn enforced(&self, direction: Direction) -> bool {
        self.direction(direction).enforced
    }

    /// The decision for a flow that the endpoint opens (egress) or that is opened to it (ingress). `port` is the
    /// destination port; for ICMP, the type.
    #[must_use]
    pub fn lookup(&self, direction: Direction, peer: IdentityId, protocol: u8, port: u16) -> L4Decision<'_> {
        let side = self.direction(direction);
        let own = side
            .by_identity
            .get(&peer)
            .and_then(|table| table.lookup(protocol, port));
        match own.or_else(|| side.any.lookup(protocol, port)) {
            Some(Decision::Allow) => self.pass(),
            Some(Decision::Deny(reason)) => L4Decision::Deny(*reason),
            Some(Decision::Inspect(rules)) => L4Decision::Inspect(rules),
            None if side.enforced => L4Decision::Deny(DropReason::PolicyDenied),
            None => self.pass(),
        }
    }

    /// Whether it may decide otherwise of one peer than of the other.
    #[must_use]
    pub fn tells_apart(&self, one: IdentityId, other: IdentityId) -> bool {
        let differs = |side: &CompiledDirection| side.by_identity.get(&one) != side.by_identity.get(&other);
        self.directions.iter().any(differs)
    }

    fn pass(&self) -> L4Decision<'_> {
        self.shown.as_ref().map_or(L4Decision::Allow, L4Decision::Inspect)
    }

    /// The rules that decide such a flow: those that allow it together (the L7 part of some of them may be read), or the
    /// one that denies it; none where the direction's default decides. Rules that no document holds are left out. Takes
    /// what [`CompiledPolicy::lookup`] takes, and is made for being asked per flow: answers are kept.
    #[must_use]
    pub fn deciders(&self, direction: Direction, peer: IdentityId, protocol: u8, port: u16) -> Deciders {
        let side = self.direction(direction);
        let coverage = side.coverage_of.get(&peer).unwrap_or(&side.coverage);
        self.answers.deciders(coverage, (direction, peer), (protocol, port))
    }

    /// By what such a flow is decided; `None` where nothing allows it. Takes what [`CompiledPolicy::lookup`] takes.
    #[must_use]
    pub fn matched(&self, direction: Direction, peer: IdentityId, protocol: u8, port: u16) -> Option<Matched> {
        let side = self.direction(direction);
        let own = side.by_identity.get(&peer).and_then(|table| table.row(protocol, port));
        let any = side.any.row(protocol, port);
        match own.or(any) {
            // A row of the peer's own also holds what is said of everybody.
            Some((decision, width)) => Some(Matched {
                peer: any.is_none_or(|(of_all, _)| of_all != decision),
                width,
            }),
            None if side.enforced => None,
            None => Some(Matched {
                peer: false,
                width: RowWidth::All,
            }),
        }
    }

    /// Every element that the kernel's policy table holds for this policy.
    pub fn kernel_entries(&self) -> impl Iterator<Item = KernelEntry> {
        [Direction::Ingress, Direction::Egress]
            .into_iter()
            .flat_map(move |direction| {
                let side = self.direction(direction);
                let own = side
                    .by_identity
                    .iter()
                    .flat_map(move |(id, table)| self.entries(direction, *id, table));
                self.entries(direction, IDENTITY_ANY, &side.any).chain(own)
            })
    }

    /// The rule set with this number, if the policy uses it.
    #[must_use]
    pub fn rule_set(&self, id: u32) -> Option<&Arc<RuleSet>> {
        self.rule_sets.get(&id)
    }

    /// Every rule set that the policy uses.
    pub fn rule_sets(&self) -> impl Iterator<Item = &Arc<RuleSet>> {
        self.rule_sets.values()
    }

    /// Rules that could not hold together; the traffic they cover is denied.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    pub(crate) fn direction(&self, direction: Direction) -> &CompiledDirection {
        &self.directions[index(direction)]
    }

    /// Gives an identity another table (or none of its own) and says what that changes in the kernel.
    pub(crate) fn replace(
        &mut self,
        direction: Direction,
        id: IdentityId,
        table: Option<&Arc<PortTable>>,
        added: &mut Vec<KernelEntry>,
        removed: &mut Vec<(u32, PolicyKey)>,
    ) {
        let own = &mut self.directions[index(direction)].by_identity;
        let old = match table {
            Some(table) => own.insert(id, table.clone()),
            None => own.remove(&id),
        };
        let list = |t: Option<&Arc<PortTable>>| -> Vec<KernelEntry> {
            t.into_iter().flat_map(|t| self.entries(direction, id, t)).collect()
        };
        let (before, after) = (list(old.as_ref()), list(table));
        added.extend(after.iter().filter(|entry| !before.contains(entry)));
        let kept = |key: &(u32, PolicyKey)| after.iter().any(|(bits, k, _)| (*bits, *k) == *key);
        removed.extend(
            before
                .iter()
                .map(|(bits, key, _)| (*bits, *key))
                .filter(|key| !kept(key)),
        );
        self.collect_rule_sets();
    }

    /// Notes which rules speak of an identity now; `None` for those that speak of everybody.
    pub(crate) fn cover(&mut self, direction: Direction, id: IdentityId, coverage: Option<Arc<Coverage>>) {
        let known = &mut self.directions[index(direction)].coverage_of;
        match coverage {
            Some(coverage) => known.insert(id, coverage),
            None => known.remove(&id),
        };
        self.answers = Answers::default();
    }

    pub(crate) fn add_conflicts(&mut self, conflicts: Vec<Conflict>) {
        for conflict in conflicts {
            if !self.conflicts.contains(&conflict) {
                self.conflicts.push(conflict);
            }
        }
    }

    fn collect_rule_sets(&mut self) {
        let tables = self
            .directions
            .iter()
            .flat_map(|side| side.by_identity.values().chain([&side.any]));
        self.rule_sets = tables
            .flat_map(|table| table.rule_sets())
            .map(|set| (set.id(), set.clone()))
            .collect();
    }

    fn entries<'a>(
        &'a self,
        direction: Direction,
        identity: IdentityId,
        table: &'a PortTable,
    ) -> impl Iterator<Item = KernelEntry> + use<'a> {
        let policy_id = self.policy_id;
        table
            .entries()
            .map(move |(prefix, decision)| kernel_entry(policy_id, direction, identity, prefix, decision))
    }
}

fn kernel_entry(
    policy_id: u32,
    direction: Direction,
    identity: IdentityId,
    prefix: PortPrefix,
    decision: &Decision,
) -> KernelEntry {
    let bits = match prefix.protocol {
        None => POLICY_PREFIX_ANY_PROTO,
        Some(_) => POLICY_PREFIX_ANY_PORT + prefix.port_bits,
    };
    let key = PolicyKey::new(
        policy_id,
        identity,
        direction,
        prefix.protocol.unwrap_or(0),
        prefix.port,
    );
    let (verdict, reason, rule_set) = match decision {
        Decision::Allow => (PolicyVerdict::Allow, 0, 0),
        Decision::Deny(reason) => (PolicyVerdict::Deny, *reason as u8, 0),
        Decision::Inspect(rules) => (PolicyVerdict::Inspect, 0, rules.id()),
    };
    // What a DNS server answers is learned from. A TLS server may ask for a second ClientHello; and after a change of
    // policy a connection on which only the server speaks must come up, too.
    let reads_replies =
        |rules: &RuleSet| rules.dns().is_some() || (rules.tls().is_some() && rules.allows_all().is_none());
    let flags = match decision {
        Decision::Inspect(rules) if reads_replies(rules) => PolicyEntryFlags::PUNT_REPLIES,
        _ => 0,
    };
    (
        bits,
        key,
        PolicyEntry {
            verdict: verdict as u8,
            reason,
            flags,
            pad: 0,
            rule_set,
        },
    )
}
