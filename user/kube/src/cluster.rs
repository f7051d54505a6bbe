//! Who is who in the cluster: what follows from its objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use seventh_policy::{
    Label, LabelFilter, Labels, NamedPorts, Service as NamedService, Services,
    label::{KEY_CLUSTER, KEY_NAMESPACE, SOURCE_K8S},
};

use crate::{
    Kind, ObjectName, Picture,
    object::{KEY_SERVICE_ACCOUNT, Namespace, Object, Pod, PolicyText, Service, ServicePort, Slice},
};

/// Service through which pods reach the API server; its backends are API servers. Only the slice of the same name counts,
/// which the API server itself keeps writing: whoever may make others in the namespace makes no API server of anybody.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// What an agent needs to know of its cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Pods that have not ended, by name: all that have an address of their own, and all of this node.
    pub workloads: Vec<Arc<Workload>>,
    /// Addresses of nodes and of API servers.
    pub nodes: Vec<NodeAddress>,
    /// Names of the nodes.
    pub node_names: Vec<String>,
    /// Services with addresses of their own, by name.
    pub fronts: Vec<Front>,
    /// All services, as `toServices` asks for them.
    pub services: Services,
    /// Documents for the policy loader.
    pub policies: Vec<Arc<PolicyText>>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub name: ObjectName,
    /// Tells it from others of its name: the UID by which its node knows it.
    pub uid: String,
    /// It runs on this node.
    pub is_local: bool,
    /// Its addresses; none if it shares the node's, or another pod that was made later has them.
    pub ips: Vec<IpAddr>,
    /// The labels that make its identity.
    pub labels: Labels,
    /// Its other labels, if it runs here.
    pub ignored_labels: Labels,
    /// Ports that its containers name.
    pub ports: NamedPorts,
    /// It shares the node's network.
    pub host_network: bool,
}

/// An address of a node, or of an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// The address.
    pub ip: IpAddr,
    /// Whether a node has it: `Some(true)` is this node.
    pub of_node: Option<bool>,
    /// Whether an API server answers there.
    pub is_api_server: bool,
}

/// A service with addresses of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// Its name.
    pub name: ObjectName,
    /// Its addresses in the cluster, which the API server has given it.
    pub ips: Vec<IpAddr>,
    /// Other addresses under which nodes answer for it: those that its author wrote, and those of load balancers. They may
    /// be anybody's.
    pub externals: Vec<IpAddr>,
    /// Its ports and who is behind them.
    pub ports: Vec<FrontPort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontPort {
    /// IP protocol number.
    pub protocol: u8,
    /// The port that clients use.
    pub port: u16,
    /// The port of every node that clients may use, too.
    pub node_port: Option<u16>,
    /// Who answers, each once, in order.
    pub backends: Vec<Backend>,
}

/// Where connections to a service end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The address.
    pub ip: IpAddr,
    /// The port on which it listens.
    pub port: u16,
}

/// Makes clusters of pictures. What did not change is not made again.
#[derive(Debug)]
pub struct Deriver {
    node: String,
    cluster: String,
    filter: LabelFilter,
    known: HashMap<ObjectName, Known>,
}

/// A workload and what it was made of.
#[derive(Debug)]
struct Known {
    pod: Arc<Object>,
    namespace: Option<Arc<Object>>,
    ips: Vec<IpAddr>,
    workload: Arc<Workload>,
}

impl Deriver {
    /// For the agent of this node, in the cluster of this name. The filter tells labels of namespaces that count.
    #[must_use]
    pub fn new(node: impl Into<String>, cluster: impl Into<String>, filter: LabelFilter) -> Self {
        Self {
            node: node.into(),
            cluster: cluster.into(),
            filter,
            known: HashMap::new(),
        }
    }

    /// The cluster in the picture.
    pub fn derive(&mut self, picture: &Picture) -> Cluster {
        let slices = slices(picture);
        let owners = owners(picture);
        Cluster {
            workloads: self.workloads(picture, &owners),
            nodes: self.nodes(picture, &owners),
            node_names: picture.objects(Kind::Node).map(|(name, _)| name.name.clone()).collect(),
            fronts: fronts(picture, &slices),
            services: services(picture, &slices),
            policies: picture.policies().cloned().collect(),
        }
    }

    fn workloads(&mut self, picture: &Picture, owners: &Owners<'_>) -> Vec<Arc<Workload>> {
        let mirrors = mirrors(picture);
        let mut before = std::mem::take(&mut self.known);
        let mut workloads = Vec::new();
        for (name, object) in picture.objects(Kind::Pod) {
            let Object::Pod(pod) = &**object else { continue };
            let is_local = !self.node.is_empty() && pod.node == self.node;
            let own = |ip: &&IpAddr| owners.get(ip).is_some_and(|(_, owner)| *owner == name);
            let ips: Vec<IpAddr> = pod.ips.iter().filter(own).copied().collect();
            if pod.ended || (ips.is_empty() && !is_local) {
                continue;
            }
            let namespace = picture.get(Kind::Namespace, &ObjectName::new("", &name.namespace));
            let of_file = pod.mirrors.as_deref();
            let of_file = of_file.filter(|uid| mirrors.get(uid).is_some_and(|(_, first)| *first == name));
            let uid = of_file.unwrap_or(&pod.uid);
            let same = |known: &Known| {
                Arc::ptr_eq(&known.pod, object)
                    && known.workload.uid == uid
                    && known.ips == ips
                    && known.namespace.as_ref().map(Arc::as_ptr) == namespace.map(Arc::as_ptr)
            };
            let known = before.remove(name).filter(same);
            let known = known.unwrap_or_else(|| Known {
                workload: Arc::new(self.workload((name, uid), pod, namespace, ips.clone())),
                pod: Arc::clone(object),
                namespace: namespace.cloned(),
                ips,
            });
            workloads.push(Arc::clone(&known.workload));
            self.known.insert(name.clone(), known);
        }
        workloads
    }

    fn workload(
        &self,
        (name, uid): (&ObjectName, &str),
        pod: &Pod,
        namespace: Option<&Arc<Object>>,
        ips: Vec<IpAddr>,
    ) -> Workload {
        let namespace = namespace.and_then(|object| match &**object {
            Object::Namespace(namespace) => Some(namespace),
            _ => None,
        });
        Workload {
            name: name.clone(),
            uid: uid.to_owned(),
            is_local: !self.node.is_empty() && pod.node == self.node,
            ips,
            labels: self.labels(name, pod, namespace),
            ignored_labels: pod.ignored_labels.clone(),
            ports: pod.ports.clone(),
            host_network: pod.host_network,
        }
    }

    /// Labels of a pod's identity. Where they are not known, or not to be trusted, it is the identity `init`: nobody
    /// selects it by labels, and it is always in default deny.
    fn labels(&self, name: &ObjectName, pod: &Pod, namespace: Option<&Namespace>) -> Labels {
        let Some(namespace) = namespace.filter(|namespace| !namespace.is_oversized && !pod.is_oversized) else {
            return Labels::new([Label::reserved("init")]);
        };
        let mut labels: Vec<Label> = self.filter.apply(&namespace.labels).as_slice().to_vec();
        labels.push(Label::new(SOURCE_K8S, KEY_NAMESPACE, &name.namespace));
        labels.push(Label::new(SOURCE_K8S, KEY_CLUSTER, &self.cluster));
        if !pod.service_account.is_empty() {
            labels.push(Label::new(SOURCE_K8S, KEY_SERVICE_ACCOUNT, &pod.service_account));
        }
        labels.extend(pod.labels.iter().cloned());
        Labels::new(labels)
    }

    fn nodes(&self, picture: &Picture, owners: &Owners<'_>) -> Vec<NodeAddress> {
        let mut addresses: BTreeMap<IpAddr, NodeAddress> = BTreeMap::new();
        for (name, object) in picture.objects(Kind::Node) {
            let Object::Node(node) = &**object else { continue };
            let is_own = name.name == self.node;
            let tunnels = node.tunnels.iter().filter(|ip| !owners.contains_key(ip));
            for ip in node.ips.iter().chain(tunnels) {
                let address = addresses.entry(*ip).or_insert(NodeAddress {
                    ip: *ip,
                    of_node: Some(is_own),
                    is_api_server: false,
                });
                address.of_node = Some(is_own || address.of_node == Some(true));
            }
        }
        let api_servers = picture.get(Kind::EndpointSlice, &ObjectName::new(API_SERVER.0, API_SERVER.1));
        let api_servers = api_servers.into_iter().filter_map(|object| match &**object {
            Object::Slice(slice) if slice.service == API_SERVER.1 => Some(slice),
            _ => None,
        });
        for ip in api_servers.flat_map(|slice| &slice.ips) {
            let address = addresses.entry(*ip).or_insert(NodeAddress {
                ip: *ip,
                of_node: None,
                is_api_server: true,
            });
            address.is_api_server = true;
        }
        addresses.into_values().collect()
    }
}

/// Who has which address, and when it was made.
type Owners<'a> = HashMap<&'a IpAddr, ((&'a str, &'a str), &'a ObjectName)>;

/// Whose address is it, where several pods say that it is theirs: an address is given again while the pod that had it is
/// still told of. The one that was made last has it.
fn owners(picture: &Picture) -> Owners<'_> {
    let mut owners = Owners::new();
    for (name, object) in picture.objects(Kind::Pod) {
        let Object::Pod(pod) = &**object else { continue };
        if pod.ended || pod.host_network {
            continue;
        }
        let rank = (pod.created.as_str(), pod.uid.as_str());
        for ip in &pod.ips {
            let owner = owners.entry(ip).or_insert((rank, name));
            if owner.0 < rank {
                *owner = (rank, name);
            }
        }
    }
    owners
}

/// Which pod shows a file of this UID: the one that was made first, since anybody may say so of his.
fn mirrors(picture: &Picture) -> HashMap<&str, ((&str, &str), &ObjectName)> {
    let mut mirrors: HashMap<&str, ((&str, &str), &ObjectName)> = HashMap::new();
    for (name, object) in picture.objects(Kind::Pod) {
        let Object::Pod(pod) = &**object else { continue };
        let Some(uid) = pod.mirrors.as_deref().filter(|_| !pod.ended) else {
            continue;
        };
        let rank = (pod.created.as_str(), pod.uid.as_str());
        let first = mirrors.entry(uid).or_insert((rank, name));
        if rank < first.0 {
            *first = (rank, name);
        }
    }
    mirrors
}

/// Slices by the namespace and name of their service.
type Slices<'a> = HashMap<(&'a str, &'a str), Vec<&'a Slice>>;

fn slices(picture: &Picture) -> Slices<'_> {
    let mut slices = Slices::new();
    for (name, object) in picture.objects(Kind::EndpointSlice) {
        if let Object::Slice(slice) = &**object {
            let key = (name.namespace.as_str(), slice.service.as_str());
            slices.entry(key).or_default().push(slice);
        }
    }
    slices
}

fn each_service(picture: &Picture) -> impl Iterator<Item = (&ObjectName, &Service)> {
    picture
        .objects(Kind::Service)
        .filter_map(|(name, object)| match &**object {
            Object::Service(service) => Some((name, service)),
            _ => None,
        })
}

/// Who has no address in the cluster has no others either: nodes do nothing for it.
fn fronts(picture: &Picture, slices: &Slices<'_>) -> Vec<Front> {
    let with_address = each_service(picture).filter(|(_, service)| !service.ips.is_empty());
    let front = |(name, service): (&ObjectName, &Service)| {
        let behind = slices.get(&(name.namespace.as_str(), name.name.as_str()));
        let behind = behind.map_or(&[][..], Vec::as_slice);
        Front {
            name: name.clone(),
            ips: service.ips.clone(),
            externals: service.externals.clone(),
            ports: service.ports.iter().map(|port| front_port(port, behind)).collect(),
        }
    };
    with_address.map(front).collect()
}

fn front_port(port: &ServicePort, behind: &[&Slice]) -> FrontPort {
    let mut backends = BTreeSet::new();
    for slice in behind {
        let same = |of_slice: &&ServicePort| of_slice.name == port.name && of_slice.protocol == port.protocol;
        for target in slice.ports.iter().filter(same) {
            backends.extend(slice.ips.iter().map(|ip| Backend {
                ip: *ip,
                port: target.port,
            }));
        }
    }
    FrontPort {
        protocol: port.protocol,
        port: port.port,
        node_port: port.node_port,
        backends: backends.into_iter().collect(),
    }
}

fn services(picture: &Picture, slices: &Slices<'_>) -> Services {
    let named = |(name, service): (&ObjectName, &Service)| {
        let behind = slices.get(&(name.namespace.as_str(), name.name.as_str()));
        let mut backends: Vec<IpNet> = Vec::new();
        if service.selector.is_none() {
            let ips = behind.into_iter().flatten().flat_map(|slice| &slice.ips);
            let ips: HashSet<&IpAddr> = ips.collect();
            backends.extend(ips.into_iter().map(|ip| IpNet::from(*ip)));
            backends.sort();
        }
        let service = NamedService {
            labels: Some(service.labels.clone()),
            selector: service.selector.clone(),
            backends,
            external_name: service.external_name.clone(),
        };
        ((name.namespace.clone(), name.name.clone()), service)
    };
    Services(each_service(picture).map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Trim};
    use serde_json::{Value, json};

    struct Told {
        trim: Trim,
        picture: Picture,
        deriver: Deriver,
    }

    impl Told {
        fn new() -> Self {
            let filter = || LabelFilter::new([]).unwrap();
            let mut told = Self {
                trim: Trim::new(filter(), "node-a"),
                picture: Picture::default(),
                deriver: Deriver::new("node-a", "blue", filter()),
            };
            told.put(
                Kind::Namespace,
                json!({"metadata": {"name": "n", "labels": {"team": "red"}}}),
            );
            told
        }

        fn put(&mut self, kind: Kind, value: Value) {
            let (name, object) = self.trim.object(kind, kind.versions()[0], value).unwrap();
            self.picture.apply(Change::Applied(kind, name, object));
        }

        fn pod(&mut self, name: &str, ip: &str, more: &Value) {
            let mut pod = json!({"metadata": {"namespace": "n", "name": name, "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": "node-b"}, "status": {"phase": "Running", "podIPs": [{"ip": ip}]}});
            for part in ["metadata", "spec", "status"] {
                if let Some(more) = more[part].as_object() {
                    pod[part].as_object_mut().unwrap().extend(more.clone());
                }
            }
            self.put(Kind::Pod, pod);
        }

        fn cluster(&mut self) -> Cluster {
            self.deriver.derive(&self.picture)
        }

        /// Who has the address.
        fn owner(&mut self, ip: &str) -> Option<String> {
            let ip: IpAddr = ip.parse().unwrap();
            let cluster = self.cluster();
            let mut owners = cluster.workloads.iter().filter(|pod| pod.ips.contains(&ip));
            let owner = owners.next().map(|pod| pod.name.name.clone());
            assert!(owners.next().is_none());
            owner
        }
    }

    #[test]
    fn labels_of_a_pod_are_its_own_and_those_of_its_surroundings() {
        let mut told = Told::new();
        told.pod("web", "10.0.0.1", &json!({"spec": {"serviceAccountName": "sa"}}));
        let labels = told.cluster().workloads[0].labels.to_string();
        assert_eq!(
            labels,
            "k8s:app=web,k8s:io.cilium.k8s.namespace.labels.team=red,k8s:io.cilium.k8s.policy.cluster=blue,\
             k8s:io.cilium.k8s.policy.serviceaccount=sa,k8s:io.kubernetes.pod.namespace=n"
        );
        told.put(
            Kind::Namespace,
            json!({"metadata": {"name": "n", "labels": {"team": "green"}}}),
        );
        assert!(told.cluster().workloads[0].labels.to_string().contains("team=green"));
    }

    #[test]
    fn of_a_pod_in_a_namespace_that_nobody_knows_nothing_is_known() {
        let mut told = Told::new();
        told.pod("web", "10.0.0.1", &json!({"metadata": {"namespace": "unknown"}}));
        assert_eq!(told.cluster().workloads[0].labels.to_string(), "reserved:init");
    }

    #[test]
    fn an_address_belongs_to_the_pod_that_was_made_last_and_has_not_ended() {
        let mut told = Told::new();
        let made = |at: &str| json!({"metadata": {"creationTimestamp": at}});
        told.pod("old", "10.0.0.1", &made("2026-01-01T00:00:00Z"));
        assert_eq!(told.owner("10.0.0.1").as_deref(), Some("old"));
        told.pod("new", "10.0.0.1", &made("2026-01-02T00:00:00Z"));
        assert_eq!(told.owner("10.0.0.1").as_deref(), Some("new"));
        let mut ended = made("2026-01-02T00:00:00Z");
        ended["status"] = json!({"phase": "Succeeded"});
        told.pod("new", "10.0.0.1", &ended);
        assert_eq!(told.owner("10.0.0.1").as_deref(), Some("old"));
        told.pod(
            "host",
            "10.0.0.1",
            &json!({"spec": {"hostNetwork": true}, "metadata": {"creationTimestamp": "2027"}}),
        );
        assert_eq!(told.owner("10.0.0.1").as_deref(), Some("old"));
    }

    #[test]
    fn only_the_first_pod_that_shows_a_file_has_its_uid() {
        let mut told = Told::new();
        let hash = "0123456789abcdef0123456789abcdef";
        let mirror = |created: &str| {
            let annotations = json!({"kubernetes.io/config.mirror": hash});
            json!({"metadata": {"creationTimestamp": created, "annotations": annotations}, "spec": {"nodeName": "node-a"}})
        };
        told.pod("b-claims-it", "10.0.0.2", &mirror("2026-01-02T00:00:00Z"));
        told.pod("real", "10.0.0.1", &mirror("2026-01-01T00:00:00Z"));
        told.pod("a-claims-it", "10.0.0.3", &mirror("2026-01-03T00:00:00Z"));
        let uids: Vec<String> = told.cluster().workloads.iter().map(|pod| pod.uid.clone()).collect();
        assert_eq!(uids, ["a-claims-it", "b-claims-it", hash]);
    }

    #[test]
    fn pods_of_this_node_are_told_of_also_without_an_address() {
        let mut told = Told::new();
        told.pod("here", "none", &json!({"spec": {"nodeName": "node-a"}}));
        told.pod("there", "none", &json!({}));
        let cluster = told.cluster();
        assert_eq!(cluster.workloads.len(), 1);
        assert!(cluster.workloads[0].is_local && cluster.workloads[0].ips.is_empty());
    }

    #[test]
    fn what_did_not_change_is_not_made_again() {
        let mut told = Told::new();
        told.pod("a", "10.0.0.1", &json!({}));
        told.pod("b", "10.0.0.2", &json!({}));
        let before = told.cluster();
        told.pod("b", "10.0.0.3", &json!({}));
        let after = told.cluster();
        assert!(Arc::ptr_eq(&before.workloads[0], &after.workloads[0]));
        assert!(!Arc::ptr_eq(&before.workloads[1], &after.workloads[1]));
    }

    #[test]
    fn nodes_and_api_servers_have_their_addresses() {
        let mut told = Told::new();
        for (node, ip) in [("node-a", "192.0.2.1"), ("node-b", "192.0.2.2")] {
            let address = json!({"type": "InternalIP", "address": ip});
            let name = json!({"type": "Hostname", "address": "192.0.2.9"});
            told.put(
                Kind::Node,
                json!({"metadata": {"name": node}, "status": {"addresses": [address, name]}}),
            );
        }
        let slice = |namespace: &str, name: &str, service: &str, ip: &str| {
            json!({"metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "https", "port": 6443}], "endpoints": [{"addresses": [ip, "192.0.2.2"]}]})
        };
        let own = "kubernetes";
        told.put(Kind::EndpointSlice, slice("default", own, own, "198.51.100.1"));
        // What others say of theirs.
        told.put(Kind::EndpointSlice, slice("elsewhere", own, own, "198.51.100.2"));
        told.put(Kind::EndpointSlice, slice("default", "mine", own, "198.51.100.3"));
        told.put(Kind::EndpointSlice, slice("default", "other", "web", "198.51.100.4"));
        let nodes = told.cluster().nodes;
        let told: Vec<_> = nodes
            .iter()
            .map(|n| (n.ip.to_string(), n.of_node, n.is_api_server))
            .collect();
        let node = |ip: &str, of_node, is_api_server| (ip.to_owned(), of_node, is_api_server);
        assert_eq!(
            told,
            [
                node("192.0.2.1", Some(true), false),
                node("192.0.2.2", Some(false), true),
                node("198.51.100.1", None, true)
            ]
        );
    }

    #[test]
    fn what_a_node_sends_from_its_tunnel_is_the_node_s_unless_a_pod_has_that_address() {
        let mut told = Told::new();
        let annotations = json!({"flannel.alpha.coreos.com/backend-type": "vxlan"});
        told.put(
            Kind::Node,
            json!({"metadata": {"name": "node-b", "annotations": annotations}, "spec": {"podCIDR": "10.0.1.0/24"}}),
        );
        let tunnel: IpAddr = "10.0.1.0".parse().unwrap();
        let [node] = told.cluster().nodes.try_into().unwrap();
        assert_eq!(
            (node.ip, node.of_node, node.is_api_server),
            (tunnel, Some(false), false)
        );
        told.pod("web", "10.0.1.0", &json!({}));
        assert!(told.cluster().nodes.is_empty());
        assert_eq!(told.owner("10.0.1.0").as_deref(), Some("web"));
    }

    #[test]
    fn a_service_that_is_only_a_name_has_no_address_and_selects_nobody() {
        let mut told = Told::new();
        told.put(
            Kind::Service,
            json!({"metadata": {"namespace": "n", "name": "s"},
                "spec": {"type": "ExternalName", "externalName": "www.example.org", "clusterIP": "", "ports": null}}),
        );
        let cluster = told.cluster();
        assert!(cluster.fronts.is_empty());
        let named = &cluster.services.0[&("n".to_owned(), "s".to_owned())];
        assert_eq!(named.external_name.as_deref(), Some("www.example.org"));
        assert!(named.selector.is_none() && named.backends.is_empty());
    }

    #[test]
    fn a_service_has_the_backends_of_its_slices_port_by_port() {
        let mut told = Told::new();
        told.put(
            Kind::Service,
            json!({"metadata": {"namespace": "n", "name": "s"}, "spec": {"clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.5"],
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 80, "nodePort": 30080},
                    {"name": "none", "port": 1}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.6"}, {"hostname": "lb.example"}]}}}),
        );
        let slice = |name: &str, port: Value, ip: &str| {
            json!({"metadata": {"namespace": "n", "name": name, "labels": {"kubernetes.io/service-name": "s"}},
                "ports": [port], "endpoints": [{"addresses": [ip]}]})
        };
        let dns = json!({"name": "dns", "port": 5353, "protocol": "UDP"});
        told.put(Kind::EndpointSlice, slice("s-1", dns.clone(), "10.0.0.1"));
        told.put(Kind::EndpointSlice, slice("s-2", dns, "10.0.0.2"));
        told.put(
            Kind::EndpointSlice,
            slice("s-3", json!({"name": "web", "port": 8080}), "10.0.0.1"),
        );
        let cluster = told.cluster();
        let [front] = cluster.fronts.as_slice() else {
            panic!("{:?}", cluster.fronts)
        };
        let ips = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(
            (ips(&front.ips), ips(&front.externals)),
            ("10.96.0.1".into(), "192.0.2.5 192.0.2.6".into())
        );
        assert_eq!(
            front.ports.iter().map(|p| p.node_port).collect::<Vec<_>>(),
            [None, Some(30_080), None]
        );
        let ports: Vec<_> = front
            .ports
            .iter()
            .map(|p| (p.protocol, p.port, p.backends.len()))
            .collect();
        assert_eq!(ports, [(17, 53, 2), (6, 80, 1), (6, 1, 0)]);
        assert_eq!(front.ports[1].backends[0].port, 8080);
        let named = &cluster.services.0[&("n".to_owned(), "s".to_owned())];
        assert_eq!(
            named.backends.len(),
            2,
            "it selects no pods, so its backends are prefixes"
        );
    }
}
