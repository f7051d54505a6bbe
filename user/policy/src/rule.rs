//! Checked rules: what documents say after namespaces, entities and port names have become plain conditions. The
//! compiler reads these; the documents are not looked at again.

use std::sync::Arc;

use ipnet::IpNet;
use seventh_abi::Direction;

use crate::finding::RuleOrigin;
use crate::http::HttpRule;
use crate::identity::{HOST, INIT, Identity, WORLD};
use crate::label::{KEY_CLUSTER, SOURCE_CIDR, SOURCE_FQDN, SOURCE_K8S, SOURCE_RESERVED};
use crate::name_pattern::{NamePattern, ServerNamePattern};
use crate::selector::Selector;

/// One rule document entry (`spec` or one of `specs`) for one kind of subject: the unit that selects endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Where it was written.
    pub origin: Arc<RuleOrigin>,
    /// Which endpoints it governs.
    pub subject: Subject,
    /// What it says of connections to them; `None` = nothing.
    pub ingress: Option<DirectionRules>,
    /// What it says of connections from them; `None` = nothing.
    pub egress: Option<DirectionRules>,
}

impl PolicyRule {
    /// The part for a direction.
    #[must_use]
    pub fn direction(&self, direction: Direction) -> Option<&DirectionRules> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// What a policy governs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Endpoints with these labels; never the node itself.
    Endpoints(Selector),
    /// The node itself, if its labels match.
    Nodes(Selector),
}

/// Rules for one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionRules {
    /// Whether they switch the endpoint to default deny.
    pub default_deny: bool,
    /// The rules; none at all still counts for `default_deny`.
    pub rules: Vec<Rule>,
}

/// One rule: peers × ports, what becomes of them, and what is read inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it was written.
    pub origin: Arc<RuleOrigin>,
    /// When it is asked, relative to others.
    pub precedence: Precedence,
    /// What it says.
    pub action: Action,
    /// Of whom.
    pub peers: Peers,
    /// Of which protocols and ports.
    pub ports: Ports,
    /// What is read inside; only with [`Action::Allow`].
    pub l7: Option<L7Rules>,
    /// The connection must be authenticated first.
    pub authentication_required: bool,
}

/// Rules of a smaller value are asked first. Inside one value a deny beats a pass, and a pass an allow; policies of one
/// tier and priority, whose order the standard leaves open, meet there rule by rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Precedence {
    /// The tier.
    pub tier: Tier,
    /// The policy's priority inside the tier.
    pub priority: u32,
    /// The rule's place inside the policy.
    pub rule: u32,
}

impl Precedence {
    /// Of a whole tier whose rules are one heap in which deny wins: all CiliumNetworkPolicies and Kubernetes
    /// NetworkPolicies are one in [`Tier::Normal`].
    #[must_use]
    pub const fn of_tier(tier: Tier) -> Self {
        Self {
            tier,
            priority: 0,
            rule: 0,
        }
    }
}

/// Tiers in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// ClusterNetworkPolicy, tier Admin.
    Admin,
    /// CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, Kubernetes NetworkPolicy.
    Normal,
    /// ClusterNetworkPolicy, tier Baseline.
    Baseline,
    /// What the modes of enforcement add.
    Default,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let it pass (after a look inside, if there are L7 rules).
    Allow,
    /// Let it pass without a look inside, whatever L7 rules others have.
    Bypass,
    /// Drop it.
    Deny,
    /// Ask the next tier.
    Pass,
}

/// Who the other side is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Whoever.
    Any,
    /// Whoever one of these selects; nobody if the list is empty.
    Selected(Vec<PeerSelector>),
}

/// One way to say who is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerSelector {
    /// By labels.
    Labels(Selector),
    /// Outside the cluster, in the prefix and in none of the exceptions.
    Prefix {
        /// The prefix.
        net: IpNet,
        /// Parts of it that are not meant.
        except: Vec<IpNet>,
    },
    /// Outside the cluster, learned under this name.
    Name(NamePattern),
    /// All pods of the local cluster, its nodes and what belongs to them; the name is that of the cluster, if one is
    /// configured.
    Cluster(Option<String>),
}

impl PeerSelector {
    /// Whether it means this identity.
    #[must_use]
    pub fn selects(&self, identity: &Identity) -> bool {
        if identity.service.as_ref().is_some_and(|ports| !ports.has_own()) {
            return false;
        }
        match self {
            PeerSelector::Labels(selector) => selector.matches(&identity.labels),
            PeerSelector::Prefix { net, except } => match identity.prefix {
                Some(prefix) => net.contains(&prefix) && !except.iter().any(|e| e.contains(&prefix)),
                // The world of unknown family belongs to both; the kernel's tables never hold it, it exists for
                // questions that people ask.
                None => identity.id == WORLD && net.prefix_len() == 0,
            },
            PeerSelector::Name(pattern) => identity.is_named_by(pattern),
            PeerSelector::Cluster(cluster) => in_cluster(identity, cluster.as_deref()),
        }
    }
}

/// Reserved identities that belong to the cluster.
const CLUSTER_RESERVED: &[&str] = &[
    "host",
    "remote-node",
    "init",
    "ingress",
    "health",
    "unmanaged",
    "kube-apiserver",
];

fn in_cluster(identity: &Identity, cluster: Option<&str>) -> bool {
    if CLUSTER_RESERVED.iter().any(|name| identity.is_reserved(name)) {
        return true;
    }
    let outside = |source: &str| source == SOURCE_RESERVED || source == SOURCE_CIDR || source == SOURCE_FQDN;
    if identity.labels.iter().any(|l| outside(&l.source)) || identity.labels.as_slice().is_empty() {
        return false;
    }
    // Endpoints without a cluster label are this node's own.
    let mut named = identity.labels.values(SOURCE_K8S, KEY_CLUSTER).peekable();
    match cluster {
        Some(cluster) => named.peek().is_none() || named.any(|c| c == cluster),
        None => true,
    }
}

/// Protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Every protocol, every port.
    All,
    /// Any of these; nothing if the list is empty.
    Some(Vec<PortMatch>),
}

/// One protocol and a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMatch {
    /// IP protocol number.
    pub protocol: u8,
    /// The ports; for ICMP, the types.
    pub ports: PortRange,
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRange {
    /// All of them.
    All,
    /// From the first to the last, both included.
    Numbers(u16, u16),
    /// By name in lower case: the endpoint's own declaration for ingress, the peer's for egress.
    Name(String),
}

/// What is read inside the traffic, in the protocol's own rules. An empty list allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L7Rules {
    /// HTTP requests.
    Http(Vec<Arc<HttpRule>>),
    /// DNS queries.
    Dns(Vec<Arc<DnsRule>>),
    /// Server names in the TLS ClientHello.
    Tls(Vec<Arc<TlsRule>>),
}

/// A DNS rule: the name asked for must match one of the patterns. Without a pattern (`{}`) it matches only the empty
/// name, which no query has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsRule {
    /// The patterns.
    pub patterns: Vec<NamePattern>,
    /// Where it was written.
    pub origin: Arc<RuleOrigin>,
}

/// One entry of `serverNames`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsRule {
    /// The pattern.
    pub pattern: ServerNamePattern,
    /// Where it was written.
    pub origin: Arc<RuleOrigin>,
}

/// Whether the endpoint is the node itself.
#[must_use]
pub fn is_host(labels: &crate::label::Labels) -> bool {
    labels.has(SOURCE_RESERVED, reserved_name(HOST))
}

/// Whether the endpoint's labels are not known yet.
#[must_use]
pub fn is_init(labels: &crate::label::Labels) -> bool {
    labels.has(SOURCE_RESERVED, reserved_name(INIT))
}

fn reserved_name(id: u32) -> &'static str {
    crate::identity::RESERVED
        .iter()
        .find(|(reserved, _)| *reserved == id)
        .map_or("", |(_, name)| name)
}
