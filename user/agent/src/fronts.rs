//! Addresses behind which others answer: who is there, and what the address is besides.
//!
//! A packet to a service meets the policy before kube-proxy has chosen who will answer. The address that the API server
//! has given a service is nothing but its; at any other (external ones, load balancers', every node at a port of its own)
//! rules for the address itself count as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use seventh_kube::{Front, FrontPort, ObjectName};
use seventh_policy::{IdentityId, Label, Labels, ServicePort, ServicePorts, label::SOURCE_SERVICE};

/// What is behind an address.
#[derive(Debug, Default)]
pub(crate) struct Fronted<'a> {
    /// Services that answer there.
    names: BTreeSet<&'a ObjectName>,
    /// The API server has given it to one of them.
    pub(crate) is_cluster: bool,
    ports: Vec<ServicePort>,
}

impl Fronted<'_> {
    /// Labels of the identity: the services' names, with what the address is itself.
    pub(crate) fn labels(&self, own: &Labels) -> Labels {
        let names = self.names.iter();
        let names = names.map(|name| Label::new(SOURCE_SERVICE, name.to_string(), ""));
        Labels::new(own.as_slice().iter().cloned().chain(names))
    }

    /// The ports, with these besides.
    pub(crate) fn ports(&self, more: &[ServicePort]) -> ServicePorts {
        let ports = ServicePorts::new(self.ports.iter().chain(more).cloned());
        if self.is_cluster { ports } else { ports.beside_own() }
    }
}

/// What is behind which address; several services may share one.
pub(crate) fn by_address(fronts: &[Front], of: impl Fn(&IpAddr) -> IdentityId) -> BTreeMap<IpAddr, Fronted<'_>> {
    let mut by_address: BTreeMap<IpAddr, Fronted<'_>> = BTreeMap::new();
    for front in fronts {
        let ports = front.ports.iter().map(|port| service_port(port, port.port, &of));
        let ports: Vec<ServicePort> = ports.collect();
        let given = front.ips.iter().map(|ip| (ip, true));
        for (ip, is_cluster) in given.chain(front.externals.iter().map(|ip| (ip, false))) {
            let fronted = by_address.entry(*ip).or_default();
            fronted.is_cluster |= is_cluster;
            if fronted.names.insert(&front.name) {
                fronted.ports.extend(ports.iter().cloned());
            }
        }
    }
    by_address
}

/// Ports of every node by which it answers for services.
pub(crate) fn of_nodes(fronts: &[Front], of: impl Fn(&IpAddr) -> IdentityId) -> Vec<ServicePort> {
    let ports = fronts.iter().flat_map(|front| &front.ports);
    ports
        .filter_map(|port| Some(service_port(port, port.node_port?, &of)))
        .collect()
}

fn service_port(port: &FrontPort, number: u16, of: impl Fn(&IpAddr) -> IdentityId) -> ServicePort {
    ServicePort {
        protocol: port.protocol,
        port: number,
        backends: port.backends.iter().map(|b| (of(&b.ip), b.port)).collect(),
    }
}
