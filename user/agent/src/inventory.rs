//! Who is there: the endpoints to enforce on, and everybody else whose address has an identity. Policies say what they may.
//!
//! A configuration file names endpoints, a cluster pods, nodes and services: one form for both, so that all that follows
//! from it is the same.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::Result;
use ipnet::IpNet;
use seventh_kube::{Front, NodeAddress, Workload};
use seventh_policy::{
    Compiler, IdentityId, Ipcache, Label, Labels, NamedPorts, Owner, PolicyPatch, ServicePorts, Services, Surroundings,
    identity::{HOST, all_of, prefix_labels},
};

use crate::{
    config::{Config, EndpointConfig},
    fronts,
};

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Inventory {
    /// What to enforce on.
    pub(crate) endpoints: Vec<EndpointConfig>,
    /// Pods of this node on which nothing can be enforced, with the reason.
    pub(crate) unmanaged: Vec<Unmanaged>,
    /// What a cluster adds.
    pub(crate) cluster: Option<ClusterPart>,
}

/// A pod on which nothing is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unmanaged {
    /// `namespace/name`.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// Its addresses.
    pub(crate) ips: Vec<IpAddr>,
    /// Why not, in one word.
    pub(crate) cause: Cause,
    /// Why not.
    pub(crate) reason: String,
}

/// Why nothing is enforced on a pod, or on one of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// It shares the node's network.
    HostNetwork,
    /// It has no address yet.
    NoAddress,
    /// Its device is not known, or is none that can be enforced on.
    NoDevice,
    /// It has further devices.
    FurtherDevice,
}

impl Cause {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::HostNetwork, Self::NoAddress, Self::NoDevice, Self::FurtherDevice];

    /// As metrics say it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::HostNetwork => "host-network",
            Self::NoAddress => "no-address",
            Self::NoDevice => "no-device",
            Self::FurtherDevice => "further-device",
        }
    }
}

/// What a cluster adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterPart {
    /// Its name.
    pub(crate) name: String,
    /// Its pods, those of this node included.
    pub(crate) workloads: Vec<Arc<Workload>>,
    /// Addresses of its nodes and API servers.
    pub(crate) nodes: Vec<NodeAddress>,
    /// Its services with addresses.
    pub(crate) fronts: Vec<Front>,
    /// Its services, for `toServices`.
    pub(crate) services: Services,
    /// Its policies: the name in the place of a file's, and the text.
    pub(crate) texts: Vec<(Arc<str>, Arc<str>)>,
}

impl Inventory {
    /// The endpoints of a configuration.
    pub(crate) fn of_file(config: &Config) -> Self {
        Self {
            endpoints: config.endpoints.clone(),
            ..Self::default()
        }
    }

    /// Numbers of the endpoints, as the first to put them in force gives them.
    pub(crate) fn first_numbers(&self) -> HashMap<u32, String> {
        (1..).zip(self.endpoints.iter().map(EndpointConfig::key)).collect()
    }

    /// What documents refer to besides each other.
    pub(crate) fn surroundings(&self) -> Surroundings {
        self.cluster
            .as_ref()
            .map_or_else(Surroundings::default, |cluster| Surroundings {
                cluster: Some(cluster.name.clone()),
                services: cluster.services.clone(),
                cluster_identities: true,
                ..Surroundings::default()
            })
    }
}

/// Gives identities, and takes them back when nobody has had one for two looks: by the first the address has left the
/// ipcache, so that the second can remove what rules say of it.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    known: HashMap<(Labels, NamedPorts), IdentityId>,
    services: HashMap<Labels, IdentityId>,
    unneeded: HashSet<IdentityId>,
}

/// Who has which identity.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Of the endpoints, in their order.
    pub(crate) endpoints: Vec<IdentityId>,
    /// Of everybody else, by address.
    pub(crate) addresses: HashMap<IpAddr, IdentityId>,
    /// Of addresses that are this node's own, or may turn out to be, if it is another one than [`HOST`].
    pub(crate) own: HashMap<IpAddr, IdentityId>,
    /// Addresses that the API server has given to services. A node may have them on a device (ipvs, a DNS cache of the
    /// node); they are the services' all the same.
    pub(crate) services: HashSet<IpAddr>,
}

impl Holders {
    /// Gives everybody their identity. Patches for policies in force are added to `patches`.
    ///
    /// # Errors
    /// More label sets than there are identities.
    pub(crate) fn hold(
        &mut self,
        compiler: &mut Compiler,
        inventory: &Inventory,
        prefixes: &HashMap<IpNet, IdentityId>,
        patches: &mut Vec<PolicyPatch>,
    ) -> Result<Held> {
        let mut held = Held::default();
        let mut needed = HashSet::new();
        let mut give = |labels: &Labels, ports: &NamedPorts, patches: &mut Vec<PolicyPatch>| -> Result<IdentityId> {
            let id = self.identity(compiler, labels, ports, patches)?;
            needed.insert(id);
            Ok(id)
        };
        if let Some(cluster) = &inventory.cluster {
            for address in &cluster.nodes {
                let id = give(&node_labels(*address), &NamedPorts::default(), patches)?;
                held.addresses.insert(address.ip, id);
                if address.of_node == Some(true) && id != HOST {
                    held.own.insert(address.ip, id);
                }
            }
            for workload in &cluster.workloads {
                let id = give(&workload.labels, &workload.ports, patches)?;
                held.addresses.extend(workload.ips.iter().map(|ip| (*ip, id)));
            }
        }
        let mut own = HashMap::new();
        for endpoint in &inventory.endpoints {
            let id = give(&endpoint.labels, &endpoint.named_ports, patches)?;
            held.endpoints.push(id);
            own.extend(endpoint.ips.iter().map(|ip| (*ip, id)));
        }
        if let Some(cluster) = &inventory.cluster {
            self.front(compiler, (cluster, prefixes), (&own, &mut held), &mut needed, patches)?;
        }
        self.release(compiler, &needed, patches);
        Ok(held)
    }

    /// Addresses of services, and ports of nodes that lead to some.
    fn front(
        &mut self,
        compiler: &mut Compiler,
        (cluster, prefixes): (&ClusterPart, &HashMap<IpNet, IdentityId>),
        (own, held): (&HashMap<IpAddr, IdentityId>, &mut Held),
        needed: &mut HashSet<IdentityId>,
        patches: &mut Vec<PolicyPatch>,
    ) -> Result<()> {
        let mut outside = Ipcache::new();
        for (prefix, identity) in prefixes {
            let owner = Owner {
                identity: *identity,
                ifindex: 0,
            };
            outside.insert(*prefix, owner);
        }
        let known: HashMap<IpAddr, IdentityId> = held.addresses.iter().chain(own).map(|(ip, id)| (*ip, *id)).collect();
        let of = |ip: &IpAddr| {
            let known = known.get(ip).copied();
            known.unwrap_or_else(|| outside.lookup(*ip).identity)
        };
        let nodes: HashMap<IpAddr, NodeAddress> = cluster.nodes.iter().map(|node| (node.ip, *node)).collect();
        let node_ports = fronts::of_nodes(&cluster.fronts, of);
        let behind_nodes = ServicePorts::new(node_ports.clone()).beside_own();
        let behind_nodes = Some(behind_nodes).filter(|ports| !ports.is_empty());
        let of_nodes = nodes.values().filter(|node| node.of_node.is_some());
        let of_nodes: BTreeSet<IdentityId> = of_nodes.map(|node| of(&node.ip)).chain([HOST]).collect();
        for id in of_nodes {
            patches.extend(compiler.set_ports_behind(id, behind_nodes.clone()));
        }
        let mut serve = |labels: Labels, ports| -> Result<IdentityId> {
            let (id, changed) = compiler.set_service(&labels, ports)?;
            patches.extend(changed);
            self.services.insert(labels, id);
            needed.insert(id);
            Ok(id)
        };
        for (ip, fronted) in fronts::by_address(&cluster.fronts, of) {
            if let Some(node) = nodes.get(&ip) {
                // Somebody says that a node's address is his: the node's it stays, with his ports.
                let at_nodes = if node.of_node.is_some() { &node_ports[..] } else { &[] };
                let ports = fronted.ports(at_nodes).beside_own();
                let id = serve(fronted.labels(&node_labels(*node)), ports)?;
                held.addresses.insert(ip, id);
                if node.of_node == Some(true) {
                    held.own.insert(ip, id);
                }
            } else if known.contains_key(&ip) {
                // An address of a pod is nobody else's.
            } else if fronted.is_cluster {
                let id = serve(fronted.labels(&Labels::new([])), fronted.ports(&[]))?;
                held.addresses.insert(ip, id);
                held.services.insert(ip);
            } else {
                let itself = outside_labels_at(&outside, ip, prefixes);
                held.addresses
                    .insert(ip, serve(fronted.labels(&itself), fronted.ports(&[]))?);
                let host = Labels::new([Label::reserved("host")]);
                held.own
                    .insert(ip, serve(fronted.labels(&host), fronted.ports(&node_ports))?);
            }
        }
        Ok(())
    }

    fn identity(
        &mut self,
        compiler: &mut Compiler,
        labels: &Labels,
        ports: &NamedPorts,
        patches: &mut Vec<PolicyPatch>,
    ) -> Result<IdentityId> {
        let key = (labels.clone(), ports.clone());
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let (id, changed) = compiler.add_identity_with_ports(labels, ports)?;
        patches.extend(changed);
        self.known.insert(key, id);
        Ok(id)
    }

    fn release(&mut self, compiler: &mut Compiler, needed: &HashSet<IdentityId>, patches: &mut Vec<PolicyPatch>) {
        let all = self.known.values().chain(self.services.values());
        let unneeded: HashSet<IdentityId> = all.filter(|id| !needed.contains(id)).copied().collect();
        let gone: HashSet<IdentityId> = unneeded.intersection(&self.unneeded).copied().collect();
        self.unneeded = unneeded;
        if gone.is_empty() {
            return;
        }
        self.known.retain(|_, id| !gone.contains(id));
        self.services.retain(|_, id| !gone.contains(id));
        for id in gone {
            self.unneeded.remove(&id);
            patches.extend(compiler.remove_identity(id));
        }
    }

    /// Whether an identity waits for being released.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.unneeded.is_empty()
    }
}

/// Labels of the identity of a node's address.
fn node_labels(address: NodeAddress) -> Labels {
    let of_node = address
        .of_node
        .map(|is_own| if is_own { "host" } else { "remote-node" });
    let api_server = address.is_api_server.then_some("kube-apiserver");
    Labels::new(of_node.into_iter().chain(api_server).map(Label::reserved))
}

/// Labels of an address outside the cluster.
fn outside_labels_at(outside: &Ipcache, ip: IpAddr, prefixes: &HashMap<IpNet, IdentityId>) -> Labels {
    let identity = outside.lookup(ip).identity;
    let prefix = prefixes
        .iter()
        .find(|(_, id)| **id == identity)
        .map(|(prefix, _)| *prefix);
    prefix_labels(prefix.unwrap_or_else(|| all_of(ip.is_ipv6())))
}
