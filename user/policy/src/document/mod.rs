//! Documents as written, checked field by field: nothing that we do not understand gets past here.
//!
//! Lists keep the difference between absent (`None`) and empty (`Some` of nothing): an absent list of peers means
//! everybody, an empty one nobody.

use std::sync::Arc;

use crate::fields::{Field, Log, Object, nearest};
use crate::finding::{Finding, RuleOrigin};
use crate::label::{Label, Labels, SOURCE_K8S};
use crate::yaml::Node;

mod cidr_group;
mod cilium;
mod cluster_policy;
mod http;
mod icmp;
mod kubernetes;
mod l7;
mod peers;
mod ports;
mod selector;

pub use cidr_group::CidrGroup;
pub use cilium::{Authentication, CiliumRule, RuleDirection, RuleSubject};
pub use cluster_policy::{ClusterPolicy, TieredPeer, TieredRule};
pub use http::HttpRuleText;
pub use icmp::{ICMP_V4, ICMP_V6, IcmpMatch};
pub use kubernetes::{NamespacedPods, NetworkPeer, NetworkPolicy, NetworkRule};
pub use l7::{DnsRuleText, L7Text, ServerNameText};
pub use peers::{Entity, PeerLists, PrefixRule, PrefixSource, ServicePeer};
pub use ports::{Port, PortRule, PortValue, Protocol};
pub use selector::LabelSelector;

/// Where something stands in its document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Line in the file, from 1.
    pub line: u32,
    /// Path of the field.
    pub path: String,
}

impl Place {
    fn of(field: &Field<'_>) -> Self {
        Self {
            line: field.line(),
            path: field.path().to_owned(),
        }
    }
}

/// One document that is a policy or belongs to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// File, document and name; the path is empty.
    pub origin: Arc<RuleOrigin>,
    /// Labels of the object itself.
    pub labels: Labels,
    /// What it says.
    pub body: Body,
    /// As it was written; for an item of a `List`, the whole list.
    pub text: Arc<str>,
}

/// What a document says, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.
    Cilium(Vec<CiliumRule>),
    /// CiliumCIDRGroup.
    CidrGroup(CidrGroup),
    /// NetworkPolicy.
    Network(NetworkPolicy),
    /// ClusterNetworkPolicy.
    Cluster(ClusterPolicy),
}

/// What became of one document's text.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// A policy; its warnings are in the findings.
    Read(Box<Document>),
    /// An object of another kind, which is none of our business.
    Other,
    /// Not usable; why is in the findings.
    Rejected,
}

/// Where a document came from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<str>,
    pub(crate) document: u32,
    pub(crate) text: Arc<str>,
}

/// Reads one parsed document: an object, or a `List` of objects. `findings` receives what is wrong.
pub(crate) fn read(node: &Node, source: &Source, findings: &mut Vec<Finding>) -> Vec<Outcome> {
    let log = Log::default();
    let root = Field::root(node, &log);
    let Some(items) = list_items(&root) else {
        return vec![read_one(node, "", source, findings)];
    };
    let outcomes = items
        .iter()
        .map(|item| read_one(item.node(), item.path(), source, findings))
        .collect();
    report(log, source, "List", findings);
    outcomes
}

/// The items of a `List`, if the object is one.
fn list_items<'a>(root: &Field<'a>) -> Option<Vec<Field<'a>>> {
    if !root.says("kind", "List") || !root.says("apiVersion", "v1") {
        return None;
    }
    let mut object = root.object()?;
    for name in ["apiVersion", "kind", "metadata"] {
        object.ignore(name);
    }
    let items = object.required("items").and_then(|f| f.list());
    object.finish();
    Some(items.unwrap_or_default())
}

fn read_one(node: &Node, path: &str, source: &Source, findings: &mut Vec<Finding>) -> Outcome {
    let log = Log::default();
    let root = Field::at(node, path, &log);
    let mut name = String::new();
    let document = read_object(&root, source, &mut name);
    if document.is_none() && !log.has_errors() {
        root.fail("cannot be read");
    }
    match (report(log, source, &name, findings), document) {
        (false, Some(Some(document))) => Outcome::Read(Box::new(document)),
        (false, Some(None)) => Outcome::Other,
        _ => Outcome::Rejected,
    }
}

/// Hands the faults on as findings; says whether an error was among them.
fn report(log: Log, source: &Source, object: &str, findings: &mut Vec<Finding>) -> bool {
    let failed = log.has_errors();
    findings.extend(log.into_faults().into_iter().map(|fault| Finding {
        severity: fault.severity,
        file: source.file.clone(),
        document: source.document,
        line: fault.line,
        column: fault.column,
        object: object.to_owned(),
        field: fault.field,
        reason: fault.reason,
    }));
    failed
}

fn read_object(root: &Field<'_>, source: &Source, object_name: &mut String) -> Option<Option<Document>> {
    let mut object = root.object()?;
    let api = object.required("apiVersion").and_then(|f| f.string());
    let kind = object.required("kind").and_then(|f| f.string());
    let (api, kind) = (api?, kind?);
    kind.clone_into(object_name);
    let reader = match reader_of(api, kind) {
        Ok(Some(reader)) => reader,
        Ok(None) => return Some(None),
        Err(reason) => {
            root.fail(reason);
            return None;
        }
    };
    let meta = Meta::read(&mut object, reader)?;
    let origin = Arc::new(RuleOrigin {
        file: source.file.clone(),
        document: source.document,
        line: root.line(),
        kind: reader.kind,
        labels: meta.policy_labels(reader.kind),
        log: None,
        audit: meta.audit,
        namespace: meta.namespace.into(),
        name: meta.name.into(),
        path: String::new(),
    });
    *object_name = format!("{kind} {}", origin.policy());
    let body = (reader.read)(&mut object, reader);
    object.ignore("status");
    object.finish();
    Some(Some(Document {
        origin,
        labels: meta.labels,
        body: body?,
        text: source.text.clone(),
    }))
}

/// How a kind is read.
pub(crate) struct Reader {
    kind: &'static str,
    /// Whether its objects live in a namespace.
    pub(crate) namespaced: bool,
    /// Whether it is a policy.
    governs: bool,
    read: fn(&mut Object<'_>, &Reader) -> Option<Body>,
}

const READERS: &[(&str, &str, Reader)] = &[
    (
        "cilium.io/v2",
        "CiliumNetworkPolicy",
        Reader {
            kind: "CiliumNetworkPolicy",
            namespaced: true,
            governs: true,
            read: cilium::read,
        },
    ),
    (
        "cilium.io/v2",
        "CiliumClusterwideNetworkPolicy",
        Reader {
            kind: "CiliumClusterwideNetworkPolicy",
            namespaced: false,
            governs: true,
            read: cilium::read,
        },
    ),
    (
        "cilium.io/v2",
        "CiliumCIDRGroup",
        Reader {
            kind: "CiliumCIDRGroup",
            namespaced: false,
            governs: false,
            read: cidr_group::read,
        },
    ),
    (
        "cilium.io/v2alpha1",
        "CiliumCIDRGroup",
        Reader {
            kind: "CiliumCIDRGroup",
            namespaced: false,
            governs: false,
            read: cidr_group::read,
        },
    ),
    (
        "networking.k8s.io/v1",
        "NetworkPolicy",
        Reader {
            kind: "NetworkPolicy",
            namespaced: true,
            governs: true,
            read: kubernetes::read,
        },
    ),
    (
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        Reader {
            kind: "ClusterNetworkPolicy",
            namespaced: false,
            governs: true,
            read: cluster_policy::read,
        },
    ),
];

/// How an object is read; `None` if it is none of our business. Whatever looks like a policy is our business.
fn reader_of(api: &str, kind: &str) -> Result<Option<&'static Reader>, String> {
    if let Some((_, _, reader)) = READERS.iter().find(|(a, k, _)| *a == api && *k == kind) {
        return Ok(Some(reader));
    }
    if let Some((wanted, ..)) = READERS.iter().find(|(_, k, _)| *k == kind) {
        return Err(format!("apiVersion {api:?} of {kind} is not supported; use {wanted}"));
    }
    let known: Vec<&str> = READERS.iter().map(|(_, k, _)| *k).collect();
    if let Some(near) = nearest(kind, &known) {
        return Err(format!("unknown kind {kind:?}; did you mean {near}?"));
    }
    let ours = ["cilium.io/", "networking.k8s.io/", "policy.networking.k8s.io/"];
    if kind.contains("Policy") && ours.iter().any(|group| api.starts_with(group)) {
        return Err(format!(
            "kind {kind:?} of {api} is not supported; supported are {}",
            known.join(", ")
        ));
    }
    Ok(None)
}

/// Annotation that puts a policy in audit: `"true"` or `"false"`.
pub const AUDIT: &str = "seventh.io/audit";
/// What begins so is ours.
const OWN_ANNOTATIONS: &str = "seventh.io/";

struct Meta {
    audit: bool,
    namespace: String,
    name: String,
    uid: Option<String>,
    labels: Labels,
}

impl Meta {
    fn read(object: &mut Object<'_>, reader: &Reader) -> Option<Self> {
        let mut meta = object.required("metadata")?.object()?;
        let name = meta.required("name").and_then(|f| object_name_of(&f));
        let namespace = meta.optional("namespace");
        let namespace = match (reader.namespaced, namespace) {
            (true, Some(field)) => object_name_of(&field),
            (true, None) => Some("default".to_owned()),
            (false, Some(field)) => {
                field.fail(format!("a {} is not namespaced", reader.kind));
                None
            }
            (false, None) => Some(String::new()),
        };
        let labels = meta
            .optional("labels")
            .map_or(Some(Vec::new()), |field| object_labels(&field));
        let audit = meta
            .optional("annotations")
            .map_or(Some(false), |field| is_in_audit(&field, reader));
        for foreign in ["creationTimestamp", "finalizers", "generateName", "generation"] {
            meta.ignore(foreign);
        }
        for foreign in ["managedFields", "ownerReferences", "resourceVersion", "selfLink"] {
            meta.ignore(foreign);
        }
        let uid = meta.optional("uid").and_then(|f| f.string()).map(str::to_owned);
        meta.finish();
        Some(Self {
            audit: audit?,
            uid,
            namespace: namespace?,
            name: name?,
            labels: Labels::new(labels?),
        })
    }

    /// Labels that tell where a rule comes from, as Cilium writes them.
    fn policy_labels(&self, kind: &str) -> Labels {
        let label = |part: &str, value: &str| Label::new(SOURCE_K8S, format!("io.cilium.k8s.policy.{part}"), value);
        let mut labels = vec![label("derived-from", kind), label("name", &self.name)];
        if !self.namespace.is_empty() {
            labels.push(label("namespace", &self.namespace));
        }
        labels.extend(self.uid.as_ref().map(|uid| label("uid", uid)));
        Labels::new(labels)
    }
}

/// Reads our own annotations; those of others are none of our business.
fn is_in_audit(field: &Field<'_>, reader: &Reader) -> Option<bool> {
    let mut audit = false;
    let own = field.object()?.all().into_iter();
    for (key, value) in own.filter(|(key, _)| key.name.starts_with(OWN_ANNOTATIONS)) {
        if key.name != AUDIT {
            value.fail(format!("unknown annotation; there is only `{AUDIT}`"));
            return None;
        }
        audit = match value.string()? {
            "true" => true,
            "false" => false,
            other => {
                value.fail(format!("must be \"true\" or \"false\", is {other:?}"));
                return None;
            }
        };
        if audit && !reader.governs {
            value.fail(format!(
                "a {} denies nothing; annotate the policies that use it",
                reader.kind
            ));
            return None;
        }
    }
    Some(audit)
}

fn object_labels(field: &Field<'_>) -> Option<Vec<Label>> {
    let entries = field.object()?.all();
    let labels = entries
        .into_iter()
        .map(|(key, value)| Some(Label::new(SOURCE_K8S, key.name.clone(), value.string()?)));
    labels.collect()
}

/// A name as Kubernetes takes it for objects: a DNS subdomain.
fn object_name_of(field: &Field<'_>) -> Option<String> {
    let name = field.string()?;
    let valid_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(valid_label) {
        return Some(name.to_owned());
    }
    field.fail(format!(
        "{name:?} is not a name: up to 253 of a-z, 0-9, - and ., no label empty or with - at its end"
    ));
    None
}
