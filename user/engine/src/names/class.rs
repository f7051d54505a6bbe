//! Classes of addresses.

use ipnet::IpNet;
use seventh_policy::Labels;
use seventh_policy::identity::outside_labels;
use seventh_policy::name_pattern::NamePattern;
use std::sync::Arc;

/// Addresses that no rule tells apart: the longest prefix of a policy that holds them, and the toFQDNs selectors that
/// match a name under which they were learned. Each class has one identity, however many addresses there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameClass {
    prefix: IpNet,
    selectors: Arc<[NamePattern]>,
}

impl NameClass {
    /// `selectors` in ascending order, each once.
    pub(super) fn new(prefix: IpNet, selectors: Arc<[NamePattern]>) -> Self {
        Self { prefix, selectors }
    }

    /// The labels of its identity.
    #[must_use]
    pub fn labels(&self) -> Labels {
        outside_labels(self.prefix, self.selectors.iter())
    }
}
