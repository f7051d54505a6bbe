//! Identities: numbers for label sets. Policies speak of labels, the kernel compares numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::label::{Label, Labels, SOURCE_CIDR, SOURCE_FQDN, SOURCE_RESERVED, SOURCE_SERVICE};
use crate::name_pattern::NamePattern;

/// A security identity. 0 is nobody: an address of which nothing is known.
pub type IdentityId = u32;

/// Identities with numbers that everybody knows.
pub const RESERVED: &[(IdentityId, &str)] = &[
    (1, "host"),
    (2, "world"),
    (3, "unmanaged"),
    (4, "health"),
    (5, "init"),
    (6, "remote-node"),
    (7, "kube-apiserver"),
    (8, "ingress"),
    (9, "world-ipv4"),
    (10, "world-ipv6"),
];

/// The node itself.
pub const HOST: IdentityId = 1;
/// Outside the cluster, address family unknown.
pub const WORLD: IdentityId = 2;
/// An endpoint whose labels are not known yet.
pub const INIT: IdentityId = 5;
/// Outside the cluster, IPv4, no prefix of a policy.
pub const WORLD_IPV4: IdentityId = 9;
/// Outside the cluster, IPv6, no prefix of a policy.
pub const WORLD_IPV6: IdentityId = 10;

/// First number of label sets of the cluster.
pub const CLUSTER_SCOPE_FIRST: IdentityId = 256;
/// Last number of label sets of the cluster.
pub const CLUSTER_SCOPE_LAST: IdentityId = (1 << 16) - 1;
/// First number of what only this node knows: prefixes and names outside the cluster.
pub const LOCAL_SCOPE_FIRST: IdentityId = 1 << 24;
/// Last number of what only this node knows.
pub const LOCAL_SCOPE_LAST: IdentityId = (2 << 24) - 1;
/// First number of other nodes with labels of their own.
pub const NODE_SCOPE_FIRST: IdentityId = 2 << 24;
/// Last number of other nodes with labels of their own.
pub const NODE_SCOPE_LAST: IdentityId = (3 << 24) - 1;

/// An identity and what policies may ask of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its number.
    pub id: IdentityId,
    /// Its labels.
    pub labels: Labels,
    /// Prefix that a policy named and to which the addresses belong (label `cidr:`).
    pub prefix: Option<IpNet>,
    /// Named ports of the endpoints with this identity, for egress rules by port name.
    pub named_ports: NamedPorts,
    /// Others answer behind its address, at some ports at least. No selector means one that is nothing but a service's:
    /// what goes for those who answer goes for it.
    #[serde(skip)]
    pub service: Option<Arc<ServicePorts>>,
}

/// Ports of an address behind which others answer, each once and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePorts {
    ports: Vec<ServicePort>,
    own: bool,
}

/// A port of a service's address, and who answers behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// IP protocol number.
    pub protocol: u8,
    /// The port that clients use.
    pub port: u16,
    /// Identities of those who answer, with the ports on which they do; each once and in order.
    pub backends: Vec<(IdentityId, u16)>,
}

impl ServicePorts {
    /// Sorts; of a port that is named twice all backends count.
    pub fn new(ports: impl IntoIterator<Item = ServicePort>) -> Self {
        let mut by_port: BTreeMap<(u8, u16), Vec<(IdentityId, u16)>> = BTreeMap::new();
        for port in ports {
            let known = by_port.entry((port.protocol, port.port)).or_default();
            known.extend(port.backends);
        }
        let sorted = by_port.into_iter().map(|((protocol, port), mut backends)| {
            backends.sort_unstable();
            backends.dedup();
            ServicePort {
                protocol,
                port,
                backends,
            }
        });
        Self {
            ports: sorted.collect(),
            own: false,
        }
    }

    /// The address is also something by itself (a node's, or one outside the cluster), which rules mean by its labels: at
    /// these ports it must be allowed as well as those who answer, at others it alone.
    #[must_use]
    pub fn beside_own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Whether the address is also something by itself.
    #[must_use]
    pub fn has_own(&self) -> bool {
        self.own
    }

    /// Whether there is no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The ports in order.
    pub fn iter(&self) -> std::slice::Iter<'_, ServicePort> {
        self.ports.iter()
    }
}

impl Identity {
    /// Reads the prefix off the labels.
    #[must_use]
    pub fn new(id: IdentityId, labels: Labels) -> Self {
        let prefix = labels.of_source(SOURCE_CIDR).find_map(|l| l.key.parse().ok());
        Self {
            id,
            labels,
            prefix,
            named_ports: NamedPorts::default(),
            service: None,
        }
    }

    /// Whether it has the reserved label of this name.
    #[must_use]
    pub fn is_reserved(&self, name: &str) -> bool {
        self.labels.has(SOURCE_RESERVED, name)
    }

    /// Whether it was learned under this toFQDNs selector.
    #[must_use]
    pub fn is_named_by(&self, pattern: &NamePattern) -> bool {
        self.labels
            .of_source(SOURCE_FQDN)
            .any(|label| label.key == pattern.as_str())
    }
}

/// Port numbers by name, as containers declare them; one name may stand for several numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NamedPorts(Vec<NamedPort>);

/// One declared port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NamedPort {
    /// Its name in lower case.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// IP protocol number; `None` = whichever a rule asks for.
    pub protocol: Option<u8>,
}

impl NamedPorts {
    /// Sorts, lower-cases the names and removes duplicates.
    pub fn new(ports: impl IntoIterator<Item = (String, u16, Option<u8>)>) -> Self {
        let mut ports: Vec<_> = ports
            .into_iter()
            .map(|(name, port, protocol)| NamedPort {
                name: name.to_ascii_lowercase(),
                port,
                protocol,
            })
            .collect();
        ports.sort();
        ports.dedup();
        Self(ports)
    }

    /// Numbers that the name stands for under the protocol.
    pub fn resolve<'a>(&'a self, name: &'a str, protocol: u8) -> impl Iterator<Item = u16> {
        self.0
            .iter()
            .filter(move |p| p.name == name && p.protocol.is_none_or(|own| own == protocol))
            .map(|p| p.port)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The ranges of numbers are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// No number is left for label sets of the cluster.
    #[error(
        "all identities of the cluster scope (256–65535) are in use; release some or use fewer distinct label sets"
    )]
    ClusterScopeFull,
    /// No number is left for prefixes and names.
    #[error("all identities of the local scope are in use")]
    LocalScopeFull,
    /// No number is left for nodes.
    #[error("all identities of the node scope are in use")]
    NodeScopeFull,
}

/// All identities that are known, each label set with one number. Numbers are given in ascending order and a released
/// one comes up again only after the whole range was used, so that what is still under way under an old number does not
/// meet a new owner.
#[derive(Clone, Debug)]
pub struct Identities {
    by_id: BTreeMap<IdentityId, Arc<Identity>>,
    by_labels: HashMap<Labels, IdentityId>,
    next_cluster: IdentityId,
    next_local: IdentityId,
    next_node: IdentityId,
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

impl Identities {
    /// The reserved identities.
    #[must_use]
    pub fn new() -> Self {
        let mut identities = Self {
            by_id: BTreeMap::new(),
            by_labels: HashMap::new(),
            next_cluster: CLUSTER_SCOPE_FIRST,
            next_local: LOCAL_SCOPE_FIRST,
            next_node: NODE_SCOPE_FIRST,
        };
        for &(id, name) in RESERVED {
            let mut labels = vec![Label::reserved(name)];
            // The two families of the world carry the label of the whole as well, so that a selector by
            // `reserved:world` means all of it.
            match id {
                WORLD_IPV4 => labels = prefix_labels(all_of(false)).as_slice().to_vec(),
                WORLD_IPV6 => labels = prefix_labels(all_of(true)).as_slice().to_vec(),
                _ => {}
            }
            identities.put(Identity::new(id, Labels::new(labels)));
        }
        identities
    }

    /// The identity with this number.
    #[must_use]
    pub fn get(&self, id: IdentityId) -> Option<&Arc<Identity>> {
        self.by_id.get(&id)
    }

    /// The number of exactly this label set.
    #[must_use]
    pub fn find(&self, labels: &Labels) -> Option<IdentityId> {
        self.by_labels.get(labels).copied()
    }

    /// All identities by number.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.by_id.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Never: the reserved identities are always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Number of the label set, a new one if it is not known yet. The scope follows from the labels: `cidr:`,
    /// `fqdn:` and `service:` are local, `reserved:remote-node` with more labels is a node, everything else is of the cluster.
    ///
    /// # Errors
    /// The scope has no number left.
    pub fn allocate(&mut self, labels: &Labels) -> Result<IdentityId, AllocateError> {
        if let Some(id) = self.find(labels) {
            return Ok(id);
        }
        let id = self.free(labels)?;
        self.put(Identity::new(id, labels.clone()));
        Ok(id)
    }

    /// A further number for the label set, for endpoints that differ in what is no label: the ports that they declare.
    /// [`Identities::find`] goes on finding the first.
    ///
    /// # Errors
    /// The scope has no number left.
    pub fn allocate_another(&mut self, labels: &Labels) -> Result<IdentityId, AllocateError> {
        let id = self.free(labels)?;
        self.by_id.insert(id, Arc::new(Identity::new(id, labels.clone())));
        Ok(id)
    }

    fn free(&mut self, labels: &Labels) -> Result<IdentityId, AllocateError> {
        let has = |source| labels.of_source(source).next().is_some();
        if has(SOURCE_CIDR) || has(SOURCE_FQDN) || has(SOURCE_SERVICE) {
            take(&self.by_id, &mut self.next_local, LOCAL_SCOPE_FIRST..=LOCAL_SCOPE_LAST)
                .ok_or(AllocateError::LocalScopeFull)
        } else if labels.has(SOURCE_RESERVED, "remote-node") {
            take(&self.by_id, &mut self.next_node, NODE_SCOPE_FIRST..=NODE_SCOPE_LAST)
                .ok_or(AllocateError::NodeScopeFull)
        } else {
            take(
                &self.by_id,
                &mut self.next_cluster,
                CLUSTER_SCOPE_FIRST..=CLUSTER_SCOPE_LAST,
            )
            .ok_or(AllocateError::ClusterScopeFull)
        }
    }

    /// Declares the named ports of the endpoints with this identity. `false` if the number is not known or they are
    /// the same already.
    pub fn set_named_ports(&mut self, id: IdentityId, ports: NamedPorts) -> bool {
        match self.by_id.get_mut(&id) {
            Some(identity) if identity.named_ports != ports => {
                Arc::make_mut(identity).named_ports = ports;
                true
            }
            _ => false,
        }
    }

    /// Says who answers behind the address, if others do. `false` if the number is not known or they are the same already.
    pub fn set_service(&mut self, id: IdentityId, ports: Option<ServicePorts>) -> bool {
        match self.by_id.get_mut(&id) {
            Some(identity) if identity.service.as_deref() != ports.as_ref() => {
                Arc::make_mut(identity).service = ports.map(Arc::new);
                true
            }
            _ => false,
        }
    }

    /// Releases a number; reserved ones stay.
    pub fn remove(&mut self, id: IdentityId) -> bool {
        if RESERVED.iter().any(|(reserved, _)| *reserved == id) {
            return false;
        }
        let Some(identity) = self.by_id.remove(&id) else {
            return false;
        };
        if self.find(&identity.labels) == Some(id) {
            self.by_labels.remove(&identity.labels);
        }
        true
    }

    fn put(&mut self, identity: Identity) {
        self.by_labels.insert(identity.labels.clone(), identity.id);
        self.by_id.insert(identity.id, Arc::new(identity));
    }
}

/// `0.0.0.0/0` or `::/0`.
#[must_use]
pub fn all_of(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::V6(ipnet::Ipv6Net::default())
    } else {
        IpNet::V4(ipnet::Ipv4Net::default())
    }
}

/// Labels of the addresses in a prefix that a policy names. Those of `0.0.0.0/0` and `::/0` are the labels of
/// [`WORLD_IPV4`] and [`WORLD_IPV6`].
#[must_use]
pub fn prefix_labels(prefix: IpNet) -> Labels {
    outside_labels(prefix, [])
}

/// Labels of addresses outside the cluster: the longest prefix of a policy that holds them (`0.0.0.0/0` or `::/0` if
/// none does) and the toFQDNs selectors that match one of the names under which they were learned.
#[must_use]
pub fn outside_labels<'a>(prefix: IpNet, selectors: impl IntoIterator<Item = &'a NamePattern>) -> Labels {
    let family = if prefix.addr().is_ipv4() {
        "world-ipv4"
    } else {
        "world-ipv6"
    };
    let mut labels = vec![
        Label::reserved("world"),
        Label::reserved(family),
        cidr_label(prefix.trunc()),
    ];
    labels.extend(selectors.into_iter().map(|s| Label::new(SOURCE_FQDN, s.as_str(), "")));
    Labels::new(labels)
}

fn cidr_label(prefix: IpNet) -> Label {
    Label::new(SOURCE_CIDR, prefix.to_string(), "")
}

fn take(
    used: &BTreeMap<IdentityId, Arc<Identity>>,
    next: &mut IdentityId,
    range: std::ops::RangeInclusive<IdentityId>,
) -> Option<IdentityId> {
    let free = |id: &IdentityId| !used.contains_key(id);
    let id = (*next..=*range.end())
        .find(free)
        .or_else(|| (*range.start()..*next).find(free))?;
    *next = if id == *range.end() { *range.start() } else { id + 1 };
    Some(id)
}
