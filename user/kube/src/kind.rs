//! The kinds of objects that are watched.

use kube::api::ApiResource;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Pods of the whole cluster: who has an address.
    Pod,
    /// Namespaces, for their labels.
    Namespace,
    /// Nodes, for their addresses.
    Node,
    /// Services, for their addresses and ports.
    Service,
    /// What is behind services.
    EndpointSlice,
    /// Policies of Kubernetes.
    NetworkPolicy,
    /// Policies of a namespace.
    CiliumNetworkPolicy,
    /// Policies of the whole cluster.
    CiliumClusterwideNetworkPolicy,
    /// Groups of prefixes.
    CiliumCidrGroup,
    /// Policies of administrators, in tiers.
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Pod,
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
        Self::CiliumCidrGroup,
        Self::ClusterNetworkPolicy,
    ];

    /// Group and versions in which it may be served, the preferred one first; then the kind's name and its plural.
    const fn names(self) -> (&'static str, &'static [&'static str], &'static str, &'static str) {
        match self {
            Self::Pod => ("", &["v1"], "Pod", "pods"),
            Self::Namespace => ("", &["v1"], "Namespace", "namespaces"),
            Self::Node => ("", &["v1"], "Node", "nodes"),
            Self::Service => ("", &["v1"], "Service", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", &["v1"], "EndpointSlice", "endpointslices"),
            Self::NetworkPolicy => ("networking.k8s.io", &["v1"], "NetworkPolicy", "networkpolicies"),
            Self::CiliumNetworkPolicy => ("cilium.io", &["v2"], "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
            Self::CiliumClusterwideNetworkPolicy => (
                "cilium.io",
                &["v2"],
                "CiliumClusterwideNetworkPolicy",
                "ciliumclusterwidenetworkpolicies",
            ),
            Self::CiliumCidrGroup => ("cilium.io", &["v2", "v2alpha1"], "CiliumCIDRGroup", "ciliumcidrgroups"),
            Self::ClusterNetworkPolicy => (
                "policy.networking.k8s.io",
                &["v1alpha2"],
                "ClusterNetworkPolicy",
                "clusternetworkpolicies",
            ),
        }
    }

    /// Its name, as `kind:` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.names().2
    }

    /// Its plural, as roles name it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.names().3
    }

    /// Its API group, empty for the core.
    #[must_use]
    pub const fn group(self) -> &'static str {
        self.names().0
    }

    /// Versions in which it may be served, the preferred one first.
    #[must_use]
    pub const fn versions(self) -> &'static [&'static str] {
        self.names().1
    }

    /// Whether every cluster serves it. Others are defined by who installs them, perhaps later.
    #[must_use]
    pub const fn is_everywhere(self) -> bool {
        matches!(
            self,
            Self::Pod | Self::Namespace | Self::Node | Self::Service | Self::EndpointSlice | Self::NetworkPolicy
        )
    }

    /// Whether its objects are documents for the policy loader.
    #[must_use]
    pub const fn is_document(self) -> bool {
        !matches!(
            self,
            Self::Pod | Self::Namespace | Self::Node | Self::Service | Self::EndpointSlice
        )
    }

    /// Whether its objects have a status in which it is told whether they are valid.
    #[must_use]
    pub const fn has_conditions(self) -> bool {
        matches!(self, Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy)
    }

    /// Objects of this kind that are kept at most; what comes beyond is refused, and told.
    pub(crate) const fn objects_max(self) -> usize {
        if self.is_document() { 50_000 } else { 1_000_000 }
    }

    /// How to ask for it in this version.
    pub(crate) fn resource(self, version: &str) -> ApiResource {
        let (group, _, kind, plural) = self.names();
        let api_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn a_resource_is_asked_for_under_its_group() {
        let pods = Kind::Pod.resource("v1");
        assert_eq!((pods.api_version.as_str(), pods.plural.as_str()), ("v1", "pods"));
        let group = Kind::CiliumCidrGroup.resource("v2alpha1");
        assert_eq!(group.api_version, "cilium.io/v2alpha1");
    }

    #[test]
    fn what_is_not_everywhere_is_a_document() {
        let defined = Kind::ALL.iter().filter(|kind| !kind.is_everywhere());
        assert!(defined.clone().count() == 4 && defined.clone().all(|kind| kind.is_document()));
    }
}
