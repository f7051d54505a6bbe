//! Addresses of a node: those that its object has, and those that its network gives it.
//!
//! On an overlay, what a node itself sends to a pod of another one does not come from the node's address but from that of its
//! tunnel device. Without it, the node would be somebody outside the cluster.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::object::bounded;

/// The backend of flannel whose device has the first address of the node's range.
const FLANNEL_VXLAN: &str = "vxlan";

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its addresses, internal and external.
    pub ips: Vec<IpAddr>,
    /// Addresses of its tunnels, which come out of what pods get theirs from: where a pod has one, it is the pod's.
    pub tunnels: Vec<IpAddr>,
}

impl Node {
    /// Keeps what is needed of a Node object.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn read(value: Value) -> Result<Self, serde_json::Error> {
        let raw = RawNode::deserialize(value)?;
        let addresses = raw.status.addresses.into_iter();
        let of_network = addresses.filter(|a| a.kind == "InternalIP" || a.kind == "ExternalIP");
        Ok(Self {
            ips: bounded(of_network.filter_map(|a| a.address.parse().ok()).collect()),
            tunnels: bounded(tunnels(&raw.metadata.annotations, raw.spec)),
        })
    }
}

fn tunnels(annotations: &RawAnnotations, spec: RawNodeSpec) -> Vec<IpAddr> {
    // Sources: Calico's `node/pkg/allocateip` and its Node annotations; flannel's `pkg/backend/vxlan`.
    let of_calico = [
        &annotations.calico_vxlan,
        &annotations.calico_vxlan_v6,
        &annotations.calico_ipip,
        &annotations.calico_wireguard,
        &annotations.calico_wireguard_v6,
    ];
    let mut tunnels: Vec<IpAddr> = of_calico
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    if annotations.flannel_backend.as_deref() == Some(FLANNEL_VXLAN) {
        let ranges = spec.pod_cidrs.into_iter().chain([spec.pod_cidr]);
        tunnels.extend(ranges.filter_map(|range| Some(range.parse::<IpNet>().ok()?.network())));
    }
    tunnels
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: RawMeta,
    spec: RawNodeSpec,
    status: RawNodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMeta {
    annotations: RawAnnotations,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawAnnotations {
    #[serde(rename = "projectcalico.org/IPv4VXLANTunnelAddr")]
    calico_vxlan: Option<String>,
    #[serde(rename = "projectcalico.org/IPv6VXLANTunnelAddr")]
    calico_vxlan_v6: Option<String>,
    #[serde(rename = "projectcalico.org/IPv4IPIPTunnelAddr")]
    calico_ipip: Option<String>,
    #[serde(rename = "projectcalico.org/IPv4WireguardInterfaceAddr")]
    calico_wireguard: Option<String>,
    #[serde(rename = "projectcalico.org/IPv6WireguardInterfaceAddr")]
    calico_wireguard_v6: Option<String>,
    #[serde(rename = "flannel.alpha.coreos.com/backend-type")]
    flannel_backend: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    addresses: Vec<RawNodeAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[cfg(test)]
mod tests {
    use super::Node;
    use serde_json::{Value, json};

    fn tunnels(annotations: &Value, spec: &Value) -> Vec<String> {
        let node = Node::read(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap();
        node.tunnels.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_has_the_addresses_of_its_tunnels() {
        let calico = json!({
            "projectcalico.org/IPv4VXLANTunnelAddr": "10.244.1.64",
            "projectcalico.org/IPv6VXLANTunnelAddr": "fd00:1::40",
            "projectcalico.org/IPv4IPIPTunnelAddr": "10.244.1.65",
            "projectcalico.org/IPv4WireguardInterfaceAddr": "10.244.1.66",
            "projectcalico.org/IPv6WireguardInterfaceAddr": "none",
            "projectcalico.org/IPv4Address": "192.0.2.1/24",
        });
        let ranges = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]});
        let of_calico = ["10.244.1.64", "fd00:1::40", "10.244.1.65", "10.244.1.66"];
        assert_eq!(tunnels(&calico, &ranges), of_calico);
        let flannel = |backend: &str| json!({"flannel.alpha.coreos.com/backend-type": backend});
        assert_eq!(tunnels(&flannel("vxlan"), &ranges), ["10.244.1.0", "fd00:1::"]);
        assert_eq!(
            tunnels(&flannel("vxlan"), &json!({"podCIDR": "10.244.1.0/24"})),
            ["10.244.1.0"]
        );
        // Others have no such device, or another address on it.
        assert!(tunnels(&flannel("host-gw"), &ranges).is_empty() && tunnels(&json!({}), &ranges).is_empty());
        assert!(tunnels(&flannel("vxlan"), &json!({"podCIDR": "10.244.1.0"})).is_empty());
    }

    #[test]
    fn an_object_that_says_nothing_is_a_node_without_addresses() {
        let node = Node::read(json!({})).unwrap();
        assert!(node.ips.is_empty() && node.tunnels.is_empty());
    }
}
