//! What rules ask of names.

use super::NameClass;
use ipnet::IpNet;
use seventh_abi::Addr;
use seventh_policy::identity::{WORLD_IPV4, WORLD_IPV6, all_of};
use seventh_policy::name_pattern::NamePattern;
use seventh_policy::{IdentityId, Ipcache};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Selectors and prefixes of the policies in force. Replaced as one.
#[derive(Clone, Debug, Default)]
pub struct NameRules {
    /// In ascending order.
    selectors: Vec<NamePattern>,
    /// Selectors that are one name.
    exact: HashMap<Box<str>, u32>,
    /// Selectors with stars.
    patterns: Vec<u32>,
    ipcache: Arc<Ipcache>,
    outside: HashMap<IdentityId, IpNet>,
    node_wide: bool,
    identities: HashMap<NameClass, IdentityId>,
}

impl NameRules {
    /// Selectors of all toFQDNs rules, who owns which address, and the prefixes that policies name with the identities
    /// under which they stand in `ipcache`. What belongs to other identities (pods, nodes) is never opened by a name.
    #[must_use]
    pub fn new(
        mut selectors: Vec<NamePattern>,
        ipcache: Arc<Ipcache>,
        prefixes: impl IntoIterator<Item = (IpNet, IdentityId)>,
    ) -> Self {
        selectors.sort_unstable();
        selectors.dedup();
        let world = [(WORLD_IPV4, all_of(false)), (WORLD_IPV6, all_of(true))];
        let named = prefixes.into_iter().map(|(prefix, identity)| (identity, prefix));
        let mut exact = HashMap::new();
        let mut patterns = Vec::new();
        for (index, selector) in (0..).zip(&selectors) {
            if selector.as_str().contains('*') {
                patterns.push(index);
            } else {
                exact.insert(Box::from(selector.as_str()), index);
            }
        }
        Self {
            selectors,
            exact,
            patterns,
            ipcache,
            outside: world.into_iter().chain(named).collect(),
            node_wide: false,
            identities: HashMap::new(),
        }
    }

    /// Whether what one endpoint resolves opens addresses for all of them. Without it, a name opens addresses only for
    /// the endpoint that resolved it.
    #[must_use]
    pub fn node_wide(mut self, node_wide: bool) -> Self {
        self.node_wide = node_wide;
        self
    }

    /// Identities that the policies in force know.
    #[must_use]
    pub fn with_identities(mut self, identities: HashMap<NameClass, IdentityId>) -> Self {
        self.identities = identities;
        self
    }

    /// The classes of addresses that one selector alone matches, in the rest of the world: most addresses come to lie
    /// in one of them, and having their identities ready saves making them when an answer waits.
    pub fn plain_classes(&self) -> impl Iterator<Item = NameClass> {
        self.selectors
            .iter()
            .flat_map(|selector| [false, true].map(|ipv6| NameClass::new(all_of(ipv6), Arc::from([selector.clone()]))))
    }

    pub(super) fn is_node_wide(&self) -> bool {
        self.node_wide
    }

    /// The identity of a class, if the policies in force know one.
    pub(super) fn identity(&self, class: &NameClass) -> Option<IdentityId> {
        self.identities.get(class).copied()
    }

    pub(super) fn define(&mut self, class: NameClass, identity: IdentityId) {
        self.identities.insert(class, identity);
    }

    /// Selectors that match a name in normal form, as ascending numbers.
    pub(super) fn matching(&self, name: &str) -> Arc<[u32]> {
        let named = self.exact.get(name).copied();
        let matches = |index: u32| self.selector(index).is_some_and(|selector| selector.matches(name));
        let starred = self.patterns.iter().copied().filter(|&index| matches(index));
        let mut matching: Vec<u32> = named.into_iter().chain(starred).collect();
        matching.sort_unstable();
        matching.into()
    }

    /// The selector with this number.
    pub(super) fn selector(&self, index: u32) -> Option<&NamePattern> {
        self.selectors.get(usize::try_from(index).ok()?)
    }

    /// Whether some rule still has this selector.
    pub(super) fn knows(&self, selector: &NamePattern) -> bool {
        self.selectors.binary_search(selector).is_ok()
    }

    /// The class of an address that these selectors match; `None` if it is not outside the cluster or there is none.
    pub(super) fn class(&self, addr: &Addr, selectors: &BTreeSet<&NamePattern>) -> Option<NameClass> {
        if selectors.is_empty() {
            return None;
        }
        let owner = self.ipcache.lookup(IpAddr::V6(Ipv6Addr::from(*addr)));
        let prefix = self.outside.get(&owner.identity)?;
        let selectors = selectors.iter().map(|&selector| selector.clone()).collect();
        Some(NameClass::new(*prefix, selectors))
    }
}
