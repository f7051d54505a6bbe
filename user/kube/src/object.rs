//! Objects as they are kept: trimmed the moment they arrive, and bounded.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;
use seventh_policy::{
    Label, LabelFilter, Labels, NamedPorts,
    label::{KEY_CLUSTER, KEY_NAMESPACE, KEY_NAMESPACE_LABELS, SOURCE_K8S},
};

use crate::{Kind, node::Node};

/// Labels of a pod, a namespace or a service that are taken at most. A pod with more is an endpoint of which nothing is
/// known, see [`Pod::is_oversized`].
pub const LABELS_MAX: usize = 256;
/// Named ports of a pod at most, with the same consequence.
pub const NAMED_PORTS_MAX: usize = 256;
/// Addresses of a pod, a node or a service at most; more are not used.
pub const ADDRESSES_MAX: usize = 16;
/// External addresses of a service at most; more are taken for addresses that are nobody's.
pub const EXTERNALS_MAX: usize = 256;
/// Digits of the UID that the kubelet gives to a pod from a file.
const FILE_UID_LEN: usize = 32;
/// Ports of a service or a slice at most; Kubernetes allows 100 in a slice.
pub const SERVICE_PORTS_MAX: usize = 1000;
/// Backends of a slice at most; Kubernetes allows 1000.
pub const BACKENDS_MAX: usize = 1000;

/// Keys that only we write into the labels of an endpoint: whoever could give them to a pod of theirs would choose its
/// namespace.
const OWN_KEYS: &[&str] = &[KEY_NAMESPACE, KEY_NAMESPACE_LABELS, KEY_CLUSTER, KEY_SERVICE_ACCOUNT];
/// Key of the label that holds an endpoint's service account.
pub const KEY_SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// Label of a slice that names its service.
const KEY_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace (empty for objects without one) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// Both parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(Pod),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A service.
    Service(Service),
    /// Backends of a service.
    Slice(Slice),
    /// A policy, or what policies refer to.
    Policy(Arc<PolicyText>),
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Tells it from others of its name.
    pub uid: String,
    /// By which UID the node knows it, if it is said to be one that the kubelet has from a file and only shows here.
    pub mirrors: Option<String>,
    /// The node it runs on, empty before that is decided.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its own labels that count.
    pub labels: Labels,
    /// Its other labels, if it runs here.
    pub ignored_labels: Labels,
    /// Ports that its containers name.
    pub ports: NamedPorts,
    /// Its service account.
    pub service_account: String,
    /// It shares the node's network.
    pub host_network: bool,
    /// It has ended: its addresses may belong to others by now.
    pub ended: bool,
    /// When it was made, in the form of RFC 3339.
    pub created: String,
    /// It has more labels or named ports than are taken. No label of it is trusted.
    pub is_oversized: bool,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels, as its pods carry them.
    pub labels: Labels,
    /// It has more labels than are taken: nothing is known of its pods.
    pub is_oversized: bool,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its cluster addresses; none if it is headless or only a name.
    pub ips: Vec<IpAddr>,
    /// Addresses outside the cluster under which nodes answer for it: external ones, and those of load balancers.
    pub externals: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Labels of the pods behind it, if it selects pods.
    pub selector: Option<Vec<(String, String)>>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The name outside the cluster for which it is only another one.
    pub external_name: Option<String>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, by which slices speak of it; empty if it is the only one.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
    /// The port by which every node answers for it, if one does.
    pub node_port: Option<u16>,
}

/// Backends of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The service's name; its namespace is the slice's.
    pub service: String,
    /// Ports, with the numbers on which backends listen.
    pub ports: Vec<ServicePort>,
    /// Addresses of those that get connections.
    pub ips: Vec<IpAddr>,
}

/// A policy, or what policies refer to, as the loader reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// Its kind.
    pub kind: Kind,
    /// The version of the API in which it was read.
    pub version: &'static str,
    /// Its name.
    pub name: ObjectName,
    /// Tells it from others of its name.
    pub uid: String,
    /// Raised with every change of what it says.
    pub generation: i64,
    /// What it says, as JSON.
    pub text: Arc<str>,
    /// What its status says.
    pub conditions: Vec<Value>,
}

impl PolicyText {
    /// The name under which findings speak of it, in the place of a file's.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{FILE_PREFIX}{}/{}", self.kind.name(), self.name)
    }
}

/// With what [`PolicyText::file`] begins.
pub const FILE_PREFIX: &str = "kubernetes:";

/// Why an object cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It has no name.
    #[error("has no name")]
    Unnamed,
    /// It is not of the form that its kind has.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
}

/// Trims objects.
#[derive(Debug)]
pub struct Trim {
    filter: LabelFilter,
    node: String,
    /// Label sets that many pods share are kept once.
    shared: HashSet<Labels>,
}

/// Label sets that are shared at most; then sharing begins anew.
const SHARED_MAX: usize = 65_536;

impl Trim {
    /// For the agent of this node; the filter tells labels that count.
    #[must_use]
    pub fn new(filter: LabelFilter, node: impl Into<String>) -> Self {
        Self {
            filter,
            node: node.into(),
            shared: HashSet::new(),
        }
    }

    /// Keeps what is needed of an object of this kind, as the API server (in this version of the kind's API) sent it.
    ///
    /// # Errors
    /// It is none of this kind.
    pub fn object(
        &mut self,
        kind: Kind,
        version: &'static str,
        mut value: Value,
    ) -> Result<(ObjectName, Object), ObjectError> {
        let meta = value.get("metadata").cloned().unwrap_or_default();
        let meta = Meta::deserialize(meta)?;
        if meta.name.is_empty() {
            return Err(ObjectError::Unnamed);
        }
        let name = ObjectName::new(meta.namespace.clone(), meta.name.clone());
        let object = match kind {
            Kind::Pod => Object::Pod(self.pod(meta, RawPod::deserialize(value)?)),
            Kind::Namespace => Object::Namespace(namespace(&meta)),
            Kind::Node => Object::Node(Node::read(value)?),
            Kind::Service => Object::Service(service(&meta, RawService::deserialize(value)?)),
            Kind::EndpointSlice => Object::Slice(slice(&meta, RawSlice::deserialize(value)?)),
            Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCidrGroup
            | Kind::ClusterNetworkPolicy => {
                Object::Policy(Arc::new(policy((kind, version), name.clone(), meta, &mut value)?))
            }
        };
        Ok((name, object))
    }

    fn pod(&mut self, meta: Meta, raw: RawPod) -> Pod {
        let RawPod { spec, status } = raw;
        let is_here = spec.node_name == self.node;
        let always = |container: &RawContainer| container.restart_policy == "Always";
        let containers = spec.containers.iter();
        let containers = containers.chain(spec.init_containers.iter().filter(|c| always(c)));
        let ports: Vec<_> = containers
            .flat_map(|container| &container.ports)
            .filter(|port| !port.name.is_empty())
            .filter_map(|port| Some((port.name.clone(), port.container_port, Some(protocol(&port.protocol)?))))
            .take(NAMED_PORTS_MAX + 1)
            .collect();
        let is_oversized = meta.labels.len() > LABELS_MAX || ports.len() > NAMED_PORTS_MAX;
        let all = if is_oversized {
            Labels::new([])
        } else {
            Labels::new(own_labels(&meta.labels))
        };
        let labels = self.filter.apply(&all);
        let ignored = all
            .iter()
            .filter(|label| is_here && !labels.iter().any(|l| l == *label));
        let mut ips: Vec<IpAddr> = status.pod_ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
        if ips.is_empty() {
            ips.extend(status.pod_ip.parse::<IpAddr>().ok());
        }
        // The kubelet makes such an UID of the file, without hyphens, so that no other pod can have it.
        let of_file = |uid: &String| uid.len() == FILE_UID_LEN && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
        Pod {
            mirrors: meta
                .annotations
                .and_then(|all| all.mirror)
                .filter(|uid| is_here && of_file(uid)),
            uid: meta.uid,
            node: spec.node_name,
            ips: bounded(ips),
            ignored_labels: Labels::new(ignored.cloned()),
            labels: self.share(labels),
            ports: NamedPorts::new(if is_oversized { Vec::new() } else { ports }),
            service_account: spec.service_account_name,
            host_network: spec.host_network,
            ended: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            created: meta.creation_timestamp,
            is_oversized,
        }
    }

    fn share(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.shared.get(&labels) {
            return known.clone();
        }
        if self.shared.len() >= SHARED_MAX {
            self.shared.clear();
        }
        self.shared.insert(labels.clone());
        labels
    }
}

/// A pod's own labels, without those that only we write.
fn own_labels(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Label> {
    let own = labels
        .iter()
        .filter(|(key, _)| !OWN_KEYS.iter().any(|own| key.starts_with(own)));
    own.map(|(key, value)| Label::new(SOURCE_K8S, key, value))
}

/// Each once, and not more than are taken.
pub(crate) fn bounded(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    ips.retain(|ip| seen.insert(*ip));
    ips.truncate(ADDRESSES_MAX);
    ips
}

fn namespace(meta: &Meta) -> Namespace {
    let is_oversized = meta.labels.len() > LABELS_MAX;
    let labels = meta.labels.iter().filter(|_| !is_oversized);
    Namespace {
        labels: Labels::new(
            labels.map(|(key, value)| Label::new(SOURCE_K8S, format!("{KEY_NAMESPACE_LABELS}{key}"), value)),
        ),
        is_oversized,
    }
}

fn service(meta: &Meta, raw: RawService) -> Service {
    let spec = raw.spec;
    let mut ips = spec.cluster_ips;
    if ips.is_empty() {
        ips.push(spec.cluster_ip);
    }
    let labels = meta.labels.iter().take(LABELS_MAX);
    let balanced = raw.status.load_balancer.ingress.into_iter().map(|balancer| balancer.ip);
    let externals = spec.external_ips.into_iter().chain(balanced);
    let externals: BTreeSet<IpAddr> = externals.filter_map(|ip| ip.parse().ok()).take(EXTERNALS_MAX).collect();
    Service {
        ips: bounded(ips.iter().filter_map(|ip| ip.parse().ok()).collect()),
        externals: externals.into_iter().collect(),
        labels: Labels::new(labels.map(|(key, value)| Label::new(SOURCE_K8S, key, value))),
        selector: Some(spec.selector)
            .filter(|selector| !selector.is_empty())
            .map(|selector| selector.into_iter().take(LABELS_MAX).collect()),
        ports: service_ports(spec.ports),
        external_name: (spec.kind == "ExternalName").then_some(spec.external_name),
    }
}

fn slice(meta: &Meta, raw: RawSlice) -> Slice {
    // Who is asked to leave still gets the connections that it has, and new ones if nobody else is there.
    let gets_connections =
        |endpoint: &RawEndpoint| endpoint.conditions.ready != Some(false) || endpoint.conditions.serving == Some(true);
    let endpoints = raw.endpoints.into_iter().take(BACKENDS_MAX).filter(gets_connections);
    let ips = endpoints.flat_map(|endpoint| endpoint.addresses.into_iter().take(ADDRESSES_MAX));
    Slice {
        service: meta.labels.get(KEY_SERVICE_NAME).cloned().unwrap_or_default(),
        ports: service_ports(raw.ports),
        ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
    }
}

fn service_ports(ports: Vec<RawServicePort>) -> Vec<ServicePort> {
    let ports = ports.into_iter().take(SERVICE_PORTS_MAX);
    let known = ports.filter_map(|port| {
        Some(ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref().unwrap_or_default())?,
            port: port.port?,
            node_port: port.node_port.filter(|port| *port != 0),
        })
    });
    known.collect()
}

fn policy(
    (kind, version): (Kind, &'static str),
    name: ObjectName,
    meta: Meta,
    value: &mut Value,
) -> Result<PolicyText, ObjectError> {
    let resource = kind.resource(version);
    let mut conditions = Vec::new();
    if let Some(object) = value.as_object_mut() {
        // Items of a list do not say what they are.
        object.insert("apiVersion".to_owned(), resource.api_version.into());
        object.insert("kind".to_owned(), resource.kind.into());
        if let Some(Value::Object(mut status)) = object.remove("status")
            && let Some(Value::Array(written)) = status.remove("conditions")
        {
            conditions = written;
        }
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in [
                "managedFields",
                "resourceVersion",
                "ownerReferences",
                "finalizers",
                "selfLink",
            ] {
                meta.remove(key);
            }
            if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
    }
    Ok(PolicyText {
        kind,
        version,
        name,
        uid: meta.uid,
        generation: meta.generation,
        text: serde_json::to_string_pretty(&value)?.into(),
        conditions,
    })
}

/// IP protocol number of what Kubernetes calls a protocol; TCP if it says nothing.
fn protocol(name: &str) -> Option<u8> {
    match name {
        "" | "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    generation: i64,
    creation_timestamp: String,
    labels: BTreeMap<String, String>,
    annotations: Option<RawAnnotations>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawAnnotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPod {
    spec: RawPodSpec,
    status: RawPodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodSpec {
    node_name: String,
    host_network: bool,
    service_account_name: String,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawContainer {
    restart_policy: String,
    ports: Vec<RawContainerPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawContainerPort {
    name: String,
    container_port: u16,
    protocol: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<RawIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawIp {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawService {
    spec: RawServiceSpec,
    status: RawServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawServiceStatus {
    load_balancer: RawLoadBalancer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawLoadBalancer {
    #[serde(deserialize_with = "or_default")]
    ingress: Vec<RawBalancer>,
}

/// One that is known by its name only has no address.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawBalancer {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
    external_name: String,
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    external_ips: Vec<String>,
    selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawServicePort>,
}

/// Of a service or a slice; in a slice everything may be missing, or null.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawServicePort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
    node_port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlice {
    #[serde(deserialize_with = "or_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawEndpoint {
    addresses: Vec<String>,
    conditions: RawConditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
}

/// A list that may be written as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn trim() -> Trim {
        Trim::new(LabelFilter::new([]).unwrap(), "node-a")
    }

    fn pod(value: Value) -> Pod {
        match trim().object(Kind::Pod, "v1", value).unwrap().1 {
            Object::Pod(pod) => pod,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_a_pod_only_what_is_needed_is_kept() {
        let pod = pod(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "pod-template-hash": "x"}},
            "spec": {"nodeName": "node-a", "serviceAccountName": "sa",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 1}]}],
                "initContainers": [
                    {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9, "protocol": "UDP"}]},
                    {"ports": [{"name": "gone", "containerPort": 7}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}
        }));
        assert_eq!(pod.labels.to_string(), "k8s:app=web");
        assert_eq!(pod.ignored_labels.to_string(), "k8s:pod-template-hash=x");
        assert_eq!(pod.ips.len(), 2);
        assert_eq!(pod.ports.resolve("http", 6).collect::<Vec<_>>(), [8080]);
        assert_eq!(pod.ports.resolve("side", 17).collect::<Vec<_>>(), [9]);
        assert_eq!(pod.ports.resolve("gone", 6).count(), 0);
        assert!(!pod.ended && !pod.host_network && !pod.is_oversized);
    }

    #[test]
    fn a_pod_from_a_file_is_known_by_the_uid_of_the_file() {
        let of = |uid: &str, node: &str| {
            let annotations = json!({"kubernetes.io/config.mirror": uid, "kubernetes.io/config.source": "file"});
            let meta = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "annotations": annotations},
                "spec": {"nodeName": node}});
            pod(meta).mirrors
        };
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(of(hash, "node-a").as_deref(), Some(hash));
        // It is no other pod's, whatever it says.
        let theirs = "8dbc3c3b-1a2b-4c5d-8e9f-0123456789ab";
        assert_eq!(
            (of(theirs, "node-a"), of("", "node-a"), of(hash, "node-b")),
            (None, None, None)
        );
        assert_eq!(
            pod(json!({"metadata": {"name": "p", "annotations": null}})).mirrors,
            None
        );
    }

    #[test]
    fn a_pod_cannot_choose_its_namespace_by_a_label() {
        let labels = json!({"io.kubernetes.pod.namespace": "kube-system", "app": "x",
            "io.cilium.k8s.namespace.labels.team": "admin", "io.cilium.k8s.policy.serviceaccount": "root",
            "io.cilium.k8s.policy.cluster": "other"});
        let pod = pod(json!({"metadata": {"name": "p", "namespace": "mine", "labels": labels}}));
        assert_eq!(pod.labels.to_string(), "k8s:app=x");
    }

    #[test]
    fn of_a_pod_with_too_many_labels_none_is_trusted() {
        let labels: BTreeMap<String, String> = (0..=LABELS_MAX).map(|n| (format!("l{n}"), "v".into())).collect();
        let many = pod(json!({"metadata": {"name": "p", "namespace": "n", "labels": labels}}));
        assert!(many.is_oversized && many.labels.as_slice().is_empty());
        let ports: Vec<Value> = (0..=NAMED_PORTS_MAX)
            .map(|n| json!({"name": format!("p{n}"), "containerPort": n}))
            .collect();
        let spec = json!({"containers": [{"ports": ports}]});
        let many = pod(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}}, "spec": spec}));
        assert!(many.is_oversized && many.labels.as_slice().is_empty() && many.ports.is_empty());
    }

    #[test]
    fn a_slice_counts_who_gets_connections_and_takes_null_for_nothing() {
        let value = json!({"metadata": {"name": "s", "namespace": "n", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}, {"port": null}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.4"], "conditions": {}}]});
        let Object::Slice(slice) = trim().object(Kind::EndpointSlice, "v1", value).unwrap().1 else {
            panic!("a slice")
        };
        let ips: Vec<String> = slice.ips.iter().map(ToString::to_string).collect();
        assert_eq!(
            (ips.join(" "), slice.ports.len()),
            ("10.0.0.1 10.0.0.3 10.0.0.4".into(), 1)
        );
        let empty = json!({"metadata": {"name": "s"}, "ports": null, "endpoints": null});
        assert!(trim().object(Kind::EndpointSlice, "v1", empty).is_ok());
    }

    #[test]
    fn a_headless_service_has_no_address() {
        let value =
            json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        let Object::Service(service) = trim().object(Kind::Service, "v1", value).unwrap().1 else {
            panic!("a service")
        };
        assert!(service.ips.is_empty() && service.selector.is_none());
    }

    #[test]
    fn a_policy_is_a_document_without_what_the_server_keeps_in_it() {
        let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3,
                "managedFields": [{}], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"endpointSelector": {}, "ingress": [{}]}, "status": {"conditions": [{"type": "Valid"}]}});
        let (name, object) = trim().object(Kind::CiliumNetworkPolicy, "v2", value).unwrap();
        let Object::Policy(policy) = object else {
            panic!("a policy")
        };
        assert_eq!(
            (name.to_string(), policy.generation, policy.conditions.len()),
            ("n/p".into(), 3, 1)
        );
        assert_eq!(policy.file(), "kubernetes:CiliumNetworkPolicy/n/p");
        let loaded = seventh_policy::load_text(&policy.file(), &policy.text);
        assert!(
            !loaded.has_errors() && loaded.documents.len() == 1,
            "{:?}",
            loaded.findings
        );
    }

    #[test]
    fn what_has_no_name_or_another_form_is_an_error() {
        assert!(trim().object(Kind::Pod, "v1", json!({})).is_err());
        let odd = json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": "maybe"}});
        assert!(trim().object(Kind::Pod, "v1", odd).is_err());
    }
}
