//! Names, the addresses under them, and what each address means because of them.

mod pending;

use super::{Lacking, Lesson, NameChange, NameClass, NameRules, SCOPE_NODE};
use ahash::AHashMap as HashMap;
use pending::{LINGERING_MAX, Pending};
use seventh_abi::{Addr, NameEntry};
use seventh_policy::IdentityId;
use seventh_policy::name_pattern::NamePattern;
use std::cmp::{Ordering as CmpOrdering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

const SECOND_NS: u64 = 1_000_000_000;
/// Longest time for which one answer opens an address, as resolvers cap it (RFC 8767 §4): whoever could forge one answer is
/// not served for 68 years.
pub const TTL_MAX_NS: u64 = 86_400 * SECOND_NS;

/// Bounds and waiting times of the table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameLimits {
    /// Names per endpoint at most (or for all together, if they share). The one not learned for longest goes, and of
    /// those first one that no rule asks for.
    pub names_max: usize,
    /// Addresses under one name at most; the one that ends first goes.
    pub addresses_per_name_max: usize,
    /// Addresses under all names of all endpoints at most, an address under two names counted twice; the endpoint that
    /// has most gives up names. Not more than the kernel's map holds.
    pub addresses_max: usize,
    /// Shortest time for which an address is open, whatever the answer says: time for its first connection.
    pub ttl_min_ns: u64,
    /// How much longer than that, for clients that use answers beyond their time.
    pub grace_ns: u64,
}

impl Default for NameLimits {
    fn default() -> Self {
        Self {
            names_max: 10_000,
            addresses_per_name_max: 1000,
            addresses_max: 250_000,
            ttl_min_ns: 60 * SECOND_NS,
            grace_ns: 0,
        }
    }
}

impl NameLimits {
    /// Rows of the kernel's map that the table fills at most.
    #[must_use]
    pub const fn rows_max(&self) -> usize {
        self.addresses_max + LINGERING_MAX
    }

    fn held_ns(&self, ttl_ns: u64) -> u64 {
        ttl_ns
            .min(TTL_MAX_NS)
            .max(self.ttl_min_ns)
            .saturating_add(self.grace_ns)
    }
}

/// An address under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedName {
    /// [`SCOPE_NODE`] or an endpoint's number.
    pub scope: u32,
    /// The name in normal form; of an address that lingers, the selector that it was open for.
    pub name: String,
    /// The address, IPv4 mapped.
    pub addr: Addr,
    /// When its time is over.
    pub expires_ns: u64,
    /// Its time is over, but a flow may still use it.
    pub lingers: bool,
    /// Identity that new flows to it get by name, 0 if none.
    pub identity: IdentityId,
}

/// What an answer has added under one name: new addresses, and those whose time has become longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learning {
    /// [`SCOPE_NODE`] or an endpoint's number.
    pub scope: u32,
    /// The name in normal form.
    pub name: Arc<str>,
    /// Addresses (IPv4 mapped), each with the time at which it ends.
    pub addresses: Vec<(Addr, u64)>,
}

/// What [`Table::due`] has found.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) changes: Vec<NameChange>,
    pub(super) lacking: Vec<Lacking>,
}

/// How the addresses of a lesson stand.
#[derive(Debug)]
pub(super) enum Stand {
    /// The kernel knows what each of them means.
    Open,
    /// The kernel did not take one.
    Refused,
    /// Some have no identity.
    Lacking(Vec<Lacking>),
}

#[derive(Debug)]
pub(super) struct Table {
    limits: NameLimits,
    rules: NameRules,
    scopes: BTreeMap<u32, Scope>,
    /// Addresses under names, over all scopes.
    pairs: usize,
    /// When the first address of each name ends, or a little earlier.
    ends: BTreeSet<(u64, u32, Arc<str>)>,
    pending: Pending,
    /// Addresses that wait for an identity.
    waiting: BTreeSet<(u32, Addr)>,
    /// Addresses that the kernel did not take, or did not let go.
    refused: BTreeSet<(u32, Addr)>,
    /// Number of the last lesson.
    lesson: u64,
    /// Raised with every change of what is known.
    revision: u64,
}

/// Names that open addresses for the same endpoints.
#[derive(Debug, Default)]
struct Scope {
    names: HashMap<Arc<str>, NameState>,
    /// By whether a rule asks for it, then by lesson.
    order: BTreeSet<(bool, u64, Arc<str>)>,
    /// Only addresses under names that a rule asks for.
    addresses: HashMap<Addr, AddressState>,
    pairs: usize,
    /// Names whose time was over when they were taken up from an earlier agent, until the first rules are there: then
    /// they linger.
    ended: Vec<(Box<str>, Addr)>,
}

#[derive(Debug)]
struct NameState {
    /// With the time at which each ends. In ascending order, each once.
    addresses: Vec<(Addr, u64)>,
    /// Numbers of the selectors that match.
    selectors: Arc<[u32]>,
    /// When it was learned last.
    lesson: u64,
    /// As it stands in [`Table::ends`].
    ends_ns: u64,
}

#[derive(Debug, Default)]
struct AddressState {
    /// Selectors that match names above it, with the number of those names.
    live: BTreeMap<u32, u32>,
    /// Selectors of names above it whose time is over.
    lingering: BTreeSet<NamePattern>,
    written: Option<NameEntry>,
    /// It lost a selector since it was written.
    shrunk: bool,
}

impl Table {
    pub(super) fn new(limits: NameLimits) -> Self {
        Self {
            limits,
            rules: NameRules::default(),
            scopes: BTreeMap::new(),
            pairs: 0,
            ends: BTreeSet::new(),
            pending: Pending::default(),
            waiting: BTreeSet::new(),
            refused: BTreeSet::new(),
            lesson: 0,
            revision: 0,
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns what was not known before, or ends in a later second.
    pub(super) fn learn(&mut self, endpoint_id: u32, lesson: &Lesson, now_ns: u64) -> Vec<Learning> {
        let scope = self.scope(endpoint_id);
        let mut news = Vec::new();
        for (name, name_s) in &lesson.names {
            let credits = lesson.addresses.iter().map(|(addr, addr_s)| {
                let ttl_ns = u64::from(*name_s.min(addr_s)) * SECOND_NS;
                (*addr, now_ns.saturating_add(self.limits.held_ns(ttl_ns)))
            });
            let credits: Vec<_> = credits.collect();
            if !self.again(scope, name, &credits) {
                news.extend(self.credit(scope, name, &credits));
            }
        }
        self.keep_bounds(scope);
        news
    }

    fn scope(&self, endpoint_id: u32) -> u32 {
        if self.rules.is_node_wide() {
            SCOPE_NODE
        } else {
            endpoint_id
        }
    }

    /// How the addresses of a lesson stand that was learned and whose changes were written.
    pub(super) fn stand(&self, endpoint_id: u32, lesson: &Lesson) -> Stand {
        let number = self.scope(endpoint_id);
        let mut classes = BTreeSet::new();
        for (addr, _) in &lesson.addresses {
            if self.refused.contains(&(number, *addr)) {
                return Stand::Refused;
            }
            if self.waiting.contains(&(number, *addr)) {
                let scope = self.scopes.get(&number);
                let address = scope.and_then(|scope| scope.addresses.get(addr));
                classes.extend(address.into_iter().flat_map(|a| a.meaning(addr, &self.rules).1));
            }
        }
        if classes.is_empty() {
            return Stand::Open;
        }
        let lacking = classes.into_iter().map(|class| Lacking { scope: number, class });
        Stand::Lacking(lacking.collect())
    }

    /// Whether the kernel has all that it is to know.
    pub(super) fn is_written(&self) -> bool {
        self.refused.is_empty()
    }

    pub(super) fn restore(&mut self, learned: &LearnedName, now_ns: u64) {
        if learned.lingers {
            if let Ok(selector) = NamePattern::pattern(&learned.name)
                && self.pending.may_linger(learned.scope, learned.addr)
            {
                let scope = self.scopes.entry(learned.scope).or_default();
                let address = scope.addresses.entry(learned.addr).or_default();
                address.lingering.insert(selector);
                self.pending.dirty.insert((learned.scope, learned.addr));
            }
        } else if learned.expires_ns > now_ns {
            self.credit(learned.scope, &learned.name, &[(learned.addr, learned.expires_ns)]);
            self.keep_bounds(learned.scope);
        } else {
            let scope = self.scopes.entry(learned.scope).or_default();
            scope.ended.push((learned.name.as_str().into(), learned.addr));
        }
    }

    pub(super) fn define(&mut self, class: NameClass, identity: IdentityId) {
        self.rules.define(class, identity);
        self.pending.dirty.append(&mut self.waiting);
    }

    /// Sorts everything by other rules.
    pub(super) fn set_rules(&mut self, rules: NameRules) {
        self.rules = rules;
        for (&number, scope) in &mut self.scopes {
            for address in scope.addresses.values_mut() {
                address.live.clear();
                address.shrunk = true;
            }
            scope.order.clear();
            for (name, state) in &mut scope.names {
                state.selectors = self.rules.matching(name);
                let asked = !state.selectors.is_empty();
                scope.order.insert((asked, state.lesson, name.clone()));
                for (addr, _) in &state.addresses {
                    hold(&mut scope.addresses, *addr, &state.selectors);
                }
            }
            for (name, addr) in std::mem::take(&mut scope.ended) {
                let matching = self.rules.matching(&name);
                let selectors = matching.iter().filter_map(|&index| self.rules.selector(index));
                for selector in selectors {
                    if self.pending.may_linger(number, addr) {
                        let address = scope.addresses.entry(addr).or_default();
                        address.lingering.insert(selector.clone());
                    }
                }
            }
            self.pending
                .dirty
                .extend(scope.addresses.keys().map(|addr| (number, *addr)));
        }
        self.scopes.retain(|_, scope| !scope.is_empty());
        self.waiting.clear();
    }

    pub(super) fn classes_under(&self, rules: &NameRules) -> HashSet<NameClass> {
        let mut classes = HashSet::new();
        for scope in self.scopes.values() {
            let mut selected: HashMap<Addr, BTreeSet<u32>> = HashMap::default();
            for (name, state) in &scope.names {
                let matching = rules.matching(name);
                if !matching.is_empty() {
                    for (addr, _) in &state.addresses {
                        selected.entry(*addr).or_default().extend(matching.iter());
                    }
                }
            }
            for (addr, address) in &scope.addresses {
                if !address.lingering.is_empty() {
                    selected.entry(*addr).or_default();
                }
            }
            let mut ended: HashMap<Addr, BTreeSet<u32>> = HashMap::default();
            for (name, addr) in &scope.ended {
                ended.entry(*addr).or_default().extend(rules.matching(name).iter());
                selected.entry(*addr).or_default();
            }
            for (addr, indices) in selected {
                let mut selectors: BTreeSet<_> = indices.iter().filter_map(|&index| rules.selector(index)).collect();
                classes.extend(rules.class(&addr, &selectors));
                let lingering = scope.addresses.get(&addr).into_iter().flat_map(|a| &a.lingering);
                selectors.extend(lingering.filter(|selector| rules.knows(selector)));
                let ended = ended.get(&addr).into_iter().flatten();
                selectors.extend(ended.filter_map(|&index| rules.selector(index)));
                classes.extend(rules.class(&addr, &selectors));
            }
        }
        classes
    }

    /// Lets addresses go whose time is over.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while self.ends.first().is_some_and(|(ends_ns, ..)| *ends_ns <= now_ns) {
            let Some((_, scope, name)) = self.ends.pop_first() else {
                break;
            };
            self.end_addresses(scope, &name, |_, expires_ns| expires_ns <= now_ns);
        }
        // What waits for an identity, or for the kernel, is looked at again.
        self.pending.dirty.append(&mut self.waiting);
        self.pending.dirty.append(&mut self.refused);
    }

    pub(super) fn forget(&mut self, which: impl Fn(u32, &str) -> bool) -> usize {
        let mut chosen = Vec::new();
        for (&number, scope) in &self.scopes {
            chosen.extend(
                scope
                    .names
                    .keys()
                    .filter(|name| which(number, name))
                    .map(|name| (number, name.clone())),
            );
        }
        for (scope, name) in &chosen {
            self.end_addresses(*scope, name, |_, _| true);
        }
        chosen.len()
    }

    pub(super) fn lingering(&self) -> usize {
        self.pending.lingering().len()
    }

    pub(super) fn collect(&mut self, has_flow: impl Fn(u32, &Addr) -> bool) {
        let over: Vec<_> = self
            .pending
            .lingering()
            .iter()
            .filter(|(scope, addr)| !has_flow(*scope, addr))
            .copied()
            .collect();
        self.revision += u64::from(!over.is_empty());
        for key in over {
            self.pending.no_longer(key);
            self.shut(key);
        }
    }

    /// What lingers at the address goes.
    fn shut(&mut self, (scope, addr): (u32, Addr)) {
        self.pending.dirty.insert((scope, addr));
        if let Some(address) = self.scopes.get_mut(&scope).and_then(|s| s.addresses.get_mut(&addr)) {
            address.lingering.clear();
            address.shrunk = true;
        }
    }

    pub(super) fn list(&self) -> Vec<LearnedName> {
        let mut list = Vec::new();
        for (&number, scope) in &self.scopes {
            let identity = |addr: &Addr| {
                let written = scope.addresses.get(addr).and_then(|address| address.written);
                written.map_or(0, |entry| entry.identity)
            };
            let mut names: Vec<_> = scope.names.iter().collect();
            names.sort_unstable_by(|a, b| a.0.cmp(b.0));
            for (name, state) in names {
                list.extend(state.addresses.iter().map(|&(addr, expires_ns)| LearnedName {
                    scope: number,
                    name: name.to_string(),
                    addr,
                    expires_ns,
                    lingers: false,
                    identity: identity(&addr),
                }));
            }
            for (addr, address) in &scope.addresses {
                list.extend(address.lingering.iter().map(|selector| LearnedName {
                    scope: number,
                    name: selector.as_str().to_owned(),
                    addr: *addr,
                    expires_ns: 0,
                    lingers: true,
                    identity: identity(addr),
                }));
            }
        }
        list
    }

    /// What is to be written, and classes that lack an identity. Changes stay due until [`Table::written`].
    pub(super) fn due(&mut self) -> Due {
        let given_up = self.pending.take_given_up();
        self.revision += u64::from(!given_up.is_empty());
        for key in given_up {
            self.shut(key);
        }
        let mut due = Due::default();
        let mut settled = Vec::new();
        for &(number, addr) in &self.pending.dirty {
            let address = self.scopes.get(&number).and_then(|scope| scope.addresses.get(&addr));
            let Some(address) = address else {
                settled.push((number, addr));
                continue;
            };
            let (entry, missing) = address.meaning(&addr, &self.rules);
            if missing.is_empty() {
                self.waiting.remove(&(number, addr));
            } else {
                let lacking = |class| Lacking { scope: number, class };
                due.lacking.extend(missing.into_iter().map(lacking));
                self.waiting.insert((number, addr));
            }
            if entry == address.written {
                settled.push((number, addr));
            } else {
                due.changes.push(NameChange {
                    scope: number,
                    addr,
                    entry,
                });
            }
        }
        for (number, addr) in settled {
            self.settle(number, addr);
        }
        due.lacking.sort_unstable();
        due.lacking.dedup();
        due
    }

    /// The changes were not taken: they are due again when names are looked after, or when the address is learned.
    pub(super) fn refused(&mut self, changes: &[NameChange]) {
        for change in changes {
            let key = (change.scope, change.addr);
            self.pending.dirty.remove(&key);
            self.refused.insert(key);
        }
    }

    /// The changes are in force.
    pub(super) fn written(&mut self, changes: &[NameChange]) {
        for change in changes {
            let scope = self.scopes.get_mut(&change.scope);
            if let Some(address) = scope.and_then(|scope| scope.addresses.get_mut(&change.addr)) {
                address.written = change.entry;
            }
            self.settle(change.scope, change.addr);
        }
    }

    /// Nothing is due for this address; if it means nothing any more, it goes.
    fn settle(&mut self, number: u32, addr: Addr) {
        self.pending.dirty.remove(&(number, addr));
        self.refused.remove(&(number, addr));
        let Some(scope) = self.scopes.get_mut(&number) else {
            return;
        };
        if let Some(address) = scope.addresses.get_mut(&addr) {
            address.shrunk = false;
            if address.live.is_empty() && address.lingering.is_empty() && address.written.is_none() {
                scope.addresses.remove(&addr);
            }
        }
        self.drop_empty(number);
    }

    /// A scope of which nothing is known goes: its endpoint may be gone.
    fn drop_empty(&mut self, number: u32) {
        if self.scopes.get(&number).is_some_and(Scope::is_empty) {
            self.scopes.remove(&number);
        }
    }

    /// The same answer again, within the second: its addresses end a little later, and nothing else changes. The name keeps
    /// its place in [`Table::ends`], where it comes up too early and is put back. False if there is more to it.
    fn again(&mut self, number: u32, name: &str, addresses: &[(Addr, u64)]) -> bool {
        let state = self.scopes.get_mut(&number).and_then(|scope| scope.names.get_mut(name));
        let Some(state) = state.filter(|_| self.waiting.is_empty() && self.refused.is_empty()) else {
            return false;
        };
        // Who is asked for all the time must not become the one that was not learned for longest.
        let is_roomy = self.pairs < self.limits.addresses_max / 8 * 7;
        let stays_young = is_roomy && (self.lesson - state.lesson).saturating_mul(8) < self.limits.names_max as u64;
        stays_young && state.extend(addresses)
    }

    /// Credits addresses, each with the time at which it ends and in ascending order, to a name. Returns what was not
    /// known before.
    fn credit(&mut self, number: u32, name: &str, addresses: &[(Addr, u64)]) -> Option<Learning> {
        self.lesson += 1;
        self.revision += 1;
        let scope = self.scopes.entry(number).or_default();
        let (name, mut state) = match scope.names.remove_entry(name) {
            Some((name, state)) => {
                scope
                    .order
                    .remove(&(!state.selectors.is_empty(), state.lesson, name.clone()));
                self.ends.remove(&(state.ends_ns, number, name.clone()));
                (name, state)
            }
            None => (Arc::from(name), NameState::new(self.rules.matching(name))),
        };
        state.lesson = self.lesson;
        for &(addr, _) in addresses {
            let key = (number, addr);
            if self.waiting.contains(&key) || self.refused.remove(&key) {
                self.pending.dirty.insert(key);
            }
        }
        let merged = state.merge(addresses, self.limits.addresses_per_name_max.max(1));
        scope.pairs = scope.pairs + merged.new.len() - merged.gone.len();
        self.pairs = self.pairs + merged.new.len() - merged.gone.len();
        if !state.selectors.is_empty() {
            for addr in merged.new {
                hold(&mut scope.addresses, addr, &state.selectors);
                self.pending.dirty.insert((number, addr));
            }
        }
        for addr in merged.gone {
            release(scope, number, addr, &state.selectors, &self.rules, &mut self.pending);
        }
        state.ends_ns = state.addresses.iter().map(|(_, at)| *at).min().unwrap_or(0);
        self.ends.insert((state.ends_ns, number, name.clone()));
        scope
            .order
            .insert((!state.selectors.is_empty(), state.lesson, name.clone()));
        let news = (!merged.news.is_empty()).then(|| Learning {
            scope: number,
            name: name.clone(),
            addresses: merged.news,
        });
        scope.names.insert(name, state);
        news
    }

    /// Ends the addresses under a name for which `over` (address, time at which it ends) is true; the name goes with its
    /// last one.
    fn end_addresses(&mut self, number: u32, name: &Arc<str>, over: impl Fn(&Addr, u64) -> bool) {
        let Some(scope) = self.scopes.get_mut(&number) else {
            return;
        };
        self.revision += 1;
        let Some(mut state) = scope.names.remove(name) else {
            return;
        };
        self.ends.remove(&(state.ends_ns, number, name.clone()));
        let (gone, kept) = state.addresses.iter().partition(|(addr, at)| over(addr, *at));
        let gone: Vec<(Addr, u64)> = gone;
        state.addresses = kept;
        scope.pairs -= gone.len();
        self.pairs -= gone.len();
        for (addr, _) in gone {
            release(scope, number, addr, &state.selectors, &self.rules, &mut self.pending);
        }
        if state.addresses.is_empty() {
            scope
                .order
                .remove(&(!state.selectors.is_empty(), state.lesson, name.clone()));
            self.drop_empty(number);
            return;
        }
        state.ends_ns = state.addresses.iter().map(|(_, at)| *at).min().unwrap_or(0);
        self.ends.insert((state.ends_ns, number, name.clone()));
        scope.names.insert(name.clone(), state);
    }

    fn keep_bounds(&mut self, number: u32) {
        let crowded = |table: &Self| {
            let scope = table.scopes.get(&number);
            scope.is_some_and(|scope| scope.names.len() > table.limits.names_max.max(1))
        };
        while crowded(self) && self.evict(number) {}
        while self.pairs > self.limits.addresses_max.max(1) {
            let largest = self.scopes.iter().max_by_key(|(_, scope)| scope.pairs);
            let Some(largest) = largest.map(|(&number, _)| number) else {
                return;
            };
            if !self.evict(largest) {
                return;
            }
        }
    }

    /// Ends the name that goes first. False if there is none.
    fn evict(&mut self, number: u32) -> bool {
        let scope = self.scopes.get(&number);
        let Some((_, _, name)) = scope.and_then(|scope| scope.order.first()).cloned() else {
            return false;
        };
        self.end_addresses(number, &name, |_, _| true);
        true
    }
}

impl Scope {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.addresses.is_empty() && self.ended.is_empty()
    }
}

impl NameState {
    fn new(selectors: Arc<[u32]>) -> Self {
        Self {
            addresses: Vec::new(),
            selectors,
            lesson: 0,
            ends_ns: 0,
        }
    }

    /// Has addresses end later. False, and nothing has changed, if one is not known or ends in a later second.
    fn extend(&mut self, lesson: &[(Addr, u64)]) -> bool {
        let place = |known: &[(Addr, u64)], addr: &Addr| known.binary_search_by_key(addr, |(addr, _)| *addr).ok();
        let is_known = |(addr, at): &(Addr, u64)| {
            let known = place(&self.addresses, addr).and_then(|place| self.addresses.get(place));
            known.is_some_and(|(_, known_at)| at / SECOND_NS <= known_at / SECOND_NS)
        };
        if !lesson.iter().all(is_known) {
            return false;
        }
        for (addr, at) in lesson {
            if let Some((_, known_at)) = place(&self.addresses, addr).and_then(|place| self.addresses.get_mut(place)) {
                *known_at = (*known_at).max(*at);
            }
        }
        true
    }

    /// Takes in addresses, in ascending order and each once, and keeps `max` of all: those of this lesson before others,
    /// and those that end later. One pass over both lists, and one sort if there are too many.
    fn merge(&mut self, lesson: &[(Addr, u64)], max: usize) -> Merged {
        let mut all = Vec::with_capacity(self.addresses.len() + lesson.len());
        let (mut old, mut new) = (self.addresses.iter().peekable(), lesson.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => CmpOrdering::Less,
                (None, Some(_)) => CmpOrdering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let known = if order.is_le() { old.next() } else { None };
            let learned = if order.is_ge() { new.next() } else { None };
            let ends_ns = known.into_iter().chain(learned).map(|(_, at)| *at).max().unwrap_or(0);
            all.extend(known.or(learned).map(|&(addr, _)| Kept {
                addr,
                // A shorter time never takes away what an earlier answer gave.
                ends_ns,
                known: known.is_some(),
                learned: learned.is_some(),
                is_news: known.is_none_or(|(_, at)| at / SECOND_NS < ends_ns / SECOND_NS),
            }));
        }
        let mut merged = Merged::default();
        if all.len() > max {
            all.sort_unstable_by_key(|kept| Reverse((kept.learned, kept.ends_ns)));
            merged.gone = all.drain(max..).filter(|kept| kept.known).map(|k| k.addr).collect();
            all.sort_unstable_by_key(|kept| kept.addr);
        }
        merged.news = all.iter().filter(|k| k.is_news).map(|k| (k.addr, k.ends_ns)).collect();
        merged.new = all.iter().filter(|kept| !kept.known).map(|kept| kept.addr).collect();
        self.addresses = all.into_iter().map(|kept| (kept.addr, kept.ends_ns)).collect();
        merged
    }
}

/// An address while lists of them are merged.
#[derive(Debug)]
struct Kept {
    addr: Addr,
    ends_ns: u64,
    known: bool,
    learned: bool,
    /// It was not known, or ends in a later second than was known.
    is_news: bool,
}

/// What [`NameState::merge`] has changed.
#[derive(Debug, Default)]
struct Merged {
    news: Vec<(Addr, u64)>,
    new: Vec<Addr>,
    gone: Vec<Addr>,
}

impl AddressState {
    /// What is to be written, and the classes that lack an identity for it. While an identity is made for an address
    /// that more names lead to, it stays what it was; one that fewer names lead to is shut meanwhile.
    fn meaning(&self, addr: &Addr, rules: &NameRules) -> (Option<NameEntry>, Vec<NameClass>) {
        let mut missing = Vec::new();
        let mut identity_of = |selectors: &BTreeSet<&NamePattern>| {
            let Some(class) = rules.class(addr, selectors) else {
                return 0;
            };
            rules.identity(&class).unwrap_or_else(|| {
                missing.push(class);
                0
            })
        };
        let mut selectors: BTreeSet<_> = self.live.keys().filter_map(|&index| rules.selector(index)).collect();
        let identity = identity_of(&selectors);
        selectors.extend(self.lingering.iter().filter(|selector| rules.knows(selector)));
        let flow_identity = identity_of(&selectors);
        if !missing.is_empty() && !self.shrunk {
            return (self.written, missing);
        }
        let entry = NameEntry {
            identity,
            flow_identity,
        };
        ((entry != NameEntry::default()).then_some(entry), missing)
    }
}

/// One more name with these selectors leads to the address.
fn hold(addresses: &mut HashMap<Addr, AddressState>, addr: Addr, selectors: &[u32]) {
    if selectors.is_empty() {
        return;
    }
    let address = addresses.entry(addr).or_default();
    for &selector in selectors {
        *address.live.entry(selector).or_default() += 1;
    }
}

/// One name less leads to the address. What no other name gives stays for flows that are there.
fn release(scope: &mut Scope, number: u32, addr: Addr, selectors: &[u32], rules: &NameRules, pending: &mut Pending) {
    let Some(address) = scope.addresses.get_mut(&addr) else {
        return;
    };
    for &selector in selectors {
        let Some(names) = address.live.get_mut(&selector) else {
            continue;
        };
        *names -= 1;
        if *names == 0 {
            address.live.remove(&selector);
            address.shrunk = true;
            if let Some(pattern) = rules.selector(selector)
                && pending.may_linger(number, addr)
            {
                address.lingering.insert(pattern.clone());
            }
        }
    }
    pending.dirty.insert((number, addr));
}

#[cfg(test)]
mod tests;
