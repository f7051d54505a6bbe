//! Who is there: the endpoints to enforce on, and everybody else whose address has an identity. Policies say what they may.
//!
//! A configuration file names endpoints, a cluster pods, nodes and services: one form for both, so that all that follows
//! from it is the same.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::Result;
use ipnet::IpNet;
use seventh_kube::{Front, NodeAddress, Workload};
use seventh_policy::{
    Compiler, IdentityId, Ipcache, Label, Labels, NamedPorts, PolicyPatch, ServicePort, ServicePorts, Services,
    Surroundings, identity::HOST, label::SOURCE_SERVICE,
};

use crate::config::{Config, EndpointConfig};

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
    /// Why not.
    pub(crate) reason: String,
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
    /// Of this node's own addresses, if it is another one than [`HOST`].
    pub(crate) own: HashMap<IpAddr, IdentityId>,
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
            let mut outside = Ipcache::new();
            for (prefix, identity) in prefixes {
                let owner = seventh_policy::Owner {
                    identity: *identity,
                    ifindex: 0,
                };
                outside.insert(*prefix, owner);
            }
            let of = |ip: &IpAddr| {
                let known = own.get(ip).or_else(|| held.addresses.get(ip)).copied();
                known.unwrap_or_else(|| outside.lookup(*ip).identity)
            };
            let mut fronts = HashMap::new();
            for front in &cluster.fronts {
                let labels = Labels::new([Label::new(SOURCE_SERVICE, front.name.to_string(), "")]);
                let (id, changed) = compiler.set_service(&labels, service_ports(front, of))?;
                patches.extend(changed);
                self.services.insert(labels, id);
                needed.insert(id);
                fronts.extend(front.ips.iter().map(|ip| (*ip, id)));
            }
            // An address of a service is nobody else's; if somebody says so, who is known by it goes first.
            for (ip, id) in fronts {
                held.addresses.entry(ip).or_insert(id);
            }
        }
        self.release(compiler, &needed, patches);
        Ok(held)
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

fn service_ports(front: &Front, of: impl Fn(&IpAddr) -> IdentityId) -> ServicePorts {
    let ports = front.ports.iter().map(|port| ServicePort {
        protocol: port.protocol,
        port: port.port,
        backends: port.backends.iter().map(|b| (of(&b.ip), b.port)).collect(),
    });
    ServicePorts::new(ports)
}
