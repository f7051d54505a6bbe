//! Who is who: names and labels of endpoints and identities.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use seventh_flows::pb::flow::{self, Endpoint, NetworkInterface};
use seventh_kube::Workload;
use seventh_policy::{Identities, IdentityId, Ipcache};

use crate::publisher::Enforced;

/// Part of a label that names the cluster of an identity.
const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster=";

/// How records name the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its cluster; empty if nobody has said.
    pub(crate) cluster: String,
    /// `cluster/node`, or the node alone.
    pub(crate) name: String,
    /// `key=value` each.
    pub(crate) labels: Vec<String>,
}

impl Node {
    /// That of this name, in a cluster if that has one.
    pub(crate) fn new(cluster: &str, name: &str, labels: Vec<String>) -> Self {
        Self {
            cluster: cluster.to_owned(),
            name: if cluster.is_empty() {
                name.to_owned()
            } else {
                format!("{cluster}/{name}")
            },
            labels,
        }
    }
}

/// A consistent state of names. Replaced as one.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    by_interface: HashMap<u32, Local>,
    /// Pods by their addresses.
    by_address: HashMap<IpAddr, Arc<Workload>>,
    labels: HashMap<IdentityId, Vec<String>>,
    revision: u64,
}

#[derive(Debug)]
struct Local {
    end: Endpoint,
    interface: String,
}

impl Directory {
    /// What is known of these endpoints, pods and identities.
    pub(crate) fn new(
        endpoints: &[Enforced],
        workloads: &[Arc<Workload>],
        identities: &Identities,
        revision: u64,
    ) -> Self {
        let labels: HashMap<IdentityId, Vec<String>> = identities
            .iter()
            .map(|identity| (identity.id, identity.labels.iter().map(ToString::to_string).collect()))
            .collect();
        let local = |endpoint: &Enforced| {
            let (namespace, name) = endpoint
                .config
                .name
                .split_once('/')
                .unwrap_or(("", &endpoint.config.name));
            let end = Endpoint {
                id: endpoint.id,
                identity: endpoint.identity,
                namespace: namespace.to_owned(),
                labels: endpoint.config.labels.iter().map(ToString::to_string).collect(),
                pod_name: name.to_owned(),
                // An endpoint of the configuration belongs to nothing larger.
                workloads: vec![flow::Workload {
                    name: name.to_owned(),
                    kind: "Pod".to_owned(),
                }],
                cluster_name: String::new(),
            };
            let interface = endpoint.config.interface.clone();
            Some((endpoint.ifindex?, Local { end, interface }))
        };
        Self {
            by_interface: endpoints.iter().filter_map(local).collect(),
            by_address: workloads
                .iter()
                .flat_map(|workload| workload.ips.iter().map(move |ip| (*ip, Arc::clone(workload))))
                .collect(),
            labels,
            revision,
        }
    }

    /// The side of a flow that has this address; `identity` is what the kernel or the engine took it for, 0 if nothing.
    /// An endpoint of this node, or a pod that is known, is in the node's `cluster`, if its labels do not say otherwise.
    pub(super) fn end(&self, address: IpAddr, identity: IdentityId, ipcache: &Ipcache, cluster: &str) -> Endpoint {
        let owner = ipcache.lookup(address);
        if let Some(local) = self.by_interface.get(&owner.ifindex) {
            return Endpoint {
                cluster_name: cluster.to_owned(),
                ..local.end.clone()
            };
        }
        let identity = if identity == 0 { owner.identity } else { identity };
        let labels = self.labels.get(&identity).cloned().unwrap_or_default();
        let named = labels.iter().find_map(|label| Some(label.split_once(CLUSTER_LABEL)?.1));
        let named = named.map(str::to_owned);
        match self.by_address.get(&address) {
            Some(workload) => Endpoint {
                identity,
                cluster_name: named.unwrap_or_else(|| cluster.to_owned()),
                labels,
                namespace: workload.name.namespace.clone(),
                pod_name: workload.name.name.clone(),
                ..Endpoint::default()
            },
            None => Endpoint {
                identity,
                cluster_name: named.unwrap_or_default(),
                labels,
                ..Endpoint::default()
            },
        }
    }

    /// The endpoint's host-side device.
    pub(super) fn interface(&self, ifindex: u32) -> NetworkInterface {
        NetworkInterface {
            index: ifindex,
            name: self
                .by_interface
                .get(&ifindex)
                .map_or_else(String::new, |local| local.interface.clone()),
        }
    }

    /// Namespaces of the endpoints, each once.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .by_interface
            .values()
            .map(|local| local.end.namespace.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// How often something has been put in force.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }
}
