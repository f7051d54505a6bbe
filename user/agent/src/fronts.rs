//! Addresses behind which others answer: who is there, and what the address is besides.
//!
//! A packet to a service meets the policy before kube-proxy has chosen who will answer. The address that the API server
//! has given a service is nothing but its; at any other (external ones, load balancers', every node at a port of its own)
//! rules for the address itself count as well.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
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

/// What is behind which address; several services may share one. An address that the API server has given to a service is
/// that service's alone, whoever else claims it as an external one.
pub(crate) fn by_address(fronts: &[Front], of: impl Fn(&IpAddr) -> IdentityId) -> BTreeMap<IpAddr, Fronted<'_>> {
    let given_ips: HashSet<&IpAddr> = fronts.iter().flat_map(|front| &front.ips).collect();
    let mut by_address: BTreeMap<IpAddr, Fronted<'_>> = BTreeMap::new();
    for front in fronts {
        let ports = front.ports.iter().map(|port| service_port(port, port.port, &of));
        let ports: Vec<ServicePort> = ports.collect();
        let given = front.ips.iter().map(|ip| (ip, true));
        let claimed = front.externals.iter().filter(|ip| !given_ips.contains(ip));
        for (ip, is_cluster) in given.chain(claimed.map(|ip| (ip, false))) {
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

#[cfg(test)]
mod tests {
    use super::by_address;
    use seventh_kube::{Backend, Front, FrontPort, ObjectName};
    use seventh_policy::Labels;
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn front(name: &str, [given, external]: [&str; 2], backend: &str) -> Front {
        Front {
            name: ObjectName {
                namespace: "n".into(),
                name: name.into(),
            },
            ips: vec![ip(given)],
            externals: vec![ip(external)],
            ports: vec![FrontPort {
                protocol: 17,
                port: 53,
                node_port: None,
                backends: vec![Backend {
                    ip: ip(backend),
                    port: 53,
                }],
            }],
        }
    }

    #[test]
    fn the_address_given_to_a_service_is_its_alone_whoever_claims_it() {
        let dns = front("dns", ["10.96.0.10", "192.0.2.1"], "10.0.0.1");
        let thief = front("thief", ["10.96.0.66", "10.96.0.10"], "10.0.0.66");
        let both = front("both", ["10.96.0.7", "192.0.2.1"], "10.0.0.7");
        let own = [dns.clone()];
        let alone = by_address(&own, |_| 7);
        for fronts in [[dns.clone(), thief.clone(), both.clone()], [thief, both, dns]] {
            let shared = by_address(&fronts, |_| 7);
            let (alone, found) = (&alone[&ip("10.96.0.10")], &shared[&ip("10.96.0.10")]);
            let nothing = Labels::new([]);
            assert_eq!(found.labels(&nothing), alone.labels(&nothing));
            assert_eq!((&found.ports, found.is_cluster), (&alone.ports, true));
            // An external address may be several services'.
            assert_eq!(shared[&ip("192.0.2.1")].names.len(), 2);
            assert!(!shared[&ip("192.0.2.1")].is_cluster);
        }
    }
}
