//! Peers as written: who the other side of a connection is.

use ipnet::IpNet;

use super::cilium::{Position, transpose};
use super::selector::LabelSelector;
use crate::fields::{Field, Object};
use crate::name_pattern::NamePattern;

/// The lists of peers of one rule. Absent and empty differ: nothing present at all means everybody, a list that is
/// present and empty means nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerLists {
    /// `fromEndpoints`, `toEndpoints`.
    pub endpoints: Option<Vec<LabelSelector>>,
    /// `fromCIDR`, `toCIDR`.
    pub prefixes: Option<Vec<IpNet>>,
    /// `fromCIDRSet`, `toCIDRSet`.
    pub prefix_sets: Option<Vec<PrefixRule>>,
    /// `fromEntities`, `toEntities`.
    pub entities: Option<Vec<Entity>>,
    /// `fromNodes`, `toNodes`.
    pub nodes: Option<Vec<LabelSelector>>,
    /// `toServices`.
    pub services: Option<Vec<ServicePeer>>,
    /// `toFQDNs`.
    pub names: Option<Vec<NamePattern>>,
}

/// One item of `fromCIDRSet` or `toCIDRSet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixRule {
    /// Where it stands.
    pub place: super::Place,
    /// Where the prefixes come from.
    pub source: PrefixSource,
    /// Parts that are not meant.
    pub except: Vec<IpNet>,
}

/// Where the prefixes of a [`PrefixRule`] come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixSource {
    /// `cidr`.
    Prefix(IpNet),
    /// `cidrGroupRef`.
    Group(String),
    /// `cidrGroupSelector`.
    Groups(LabelSelector),
}

/// One item of `toServices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePeer {
    /// `k8sService`.
    Name {
        /// Its namespace; absent = every one.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// `k8sServiceSelector`.
    Selector {
        /// Its namespace; absent = every one.
        namespace: Option<String>,
        /// Its labels.
        selector: LabelSelector,
    },
}

macro_rules! entities {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// Peers with names that everybody knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Entity {
            $(#[doc = $doc] $variant,)+
        }

        impl Entity {
            /// Every entity with its name in documents.
            pub const ALL: &[(Entity, &'static str)] = &[$((Entity::$variant, $name)),+];
        }
    };
}

entities! {
    All "all" "Everybody.",
    World "world" "Outside the cluster.",
    WorldIpv4 "world-ipv4" "Outside the cluster, IPv4.",
    WorldIpv6 "world-ipv6" "Outside the cluster, IPv6.",
    Cluster "cluster" "The local cluster: pods, nodes and what belongs to them.",
    ClusterMesh "cluster-mesh" "All connected clusters.",
    Host "host" "The node itself.",
    Init "init" "Endpoints whose labels are not known yet.",
    Ingress "ingress" "The ingress proxy.",
    Unmanaged "unmanaged" "Pods that are not managed.",
    RemoteNode "remote-node" "Other nodes.",
    Health "health" "Health endpoints.",
    None "none" "Nobody.",
    KubeApiserver "kube-apiserver" "The API server of Kubernetes.",
}

impl PeerLists {
    /// Whether no list is present: everybody is meant.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a list is present and empty that takes the others along: nobody is meant, whatever else is listed.
    #[must_use]
    pub fn selects_nobody(&self) -> bool {
        fn empty<T>(list: &Option<Vec<T>>) -> bool {
            list.as_ref().is_some_and(Vec::is_empty)
        }
        empty(&self.endpoints)
            || empty(&self.nodes)
            || empty(&self.entities)
            || empty(&self.prefixes)
            || empty(&self.prefix_sets)
    }

    pub(super) fn read(object: &mut Object<'_>, position: Position) -> Option<Self> {
        let names = if position.egress { &EGRESS } else { &INGRESS };
        let endpoints = object.optional(names.endpoints);
        let prefixes = object.optional(names.prefixes);
        let prefix_sets = object.optional(names.prefix_sets);
        let entities = object.optional(names.entities);
        let nodes = object.optional(names.nodes);
        let groups = object.optional(names.groups);
        let services = if position.egress {
            object.optional("toServices")
        } else {
            None
        };
        let fqdns = if position.egress {
            object.optional("toFQDNs")
        } else {
            None
        };
        let present = [
            (names.endpoints, &endpoints),
            (names.prefixes, &prefixes),
            (names.prefix_sets, &prefix_sets),
            (names.entities, &entities),
            (names.nodes, &nodes),
            (names.groups, &groups),
            ("toServices", &services),
            ("toFQDNs", &fqdns),
        ];
        check_combination(&present)?;
        for (name, field) in &present {
            let Some(field) = field.as_ref().filter(|f| f.is_empty_list()) else {
                continue;
            };
            field.warn(match *name {
                "toServices" | "toFQDNs" => "an empty list selects nobody; leave it out to mean everybody",
                _ => "an empty list selects nobody, whatever else is listed; leave it out to mean everybody",
            });
        }
        if position.deny
            && let Some(field) = &fqdns
        {
            field.fail("names cannot be denied: toFQDNs is not allowed in egressDeny");
            return None;
        }
        if let Some(field) = &groups {
            field.fail("groups of a cloud provider cannot be resolved; list the prefixes in a CiliumCIDRGroup");
            return None;
        }
        if let Some(field) = object.optional(names.requires) {
            field.fail("was removed from the policy language; put the requirement into every endpoint selector");
            return None;
        }
        let endpoints = endpoints.map(|f| f.list_of(LabelSelector::read));
        let prefixes = prefixes.map(|f| f.list_of(prefix));
        let prefix_sets = prefix_sets.map(|f| f.list_of(prefix_rule));
        let entities = entities.map(|f| f.list_of(entity));
        let nodes = nodes.map(|f| f.list_of(LabelSelector::read));
        let services = services.map(|f| f.list_of(service));
        let fqdns = fqdns.map(|f| f.list_of(fqdn));
        Some(Self {
            endpoints: transpose(endpoints)?,
            prefixes: transpose(prefixes)?,
            prefix_sets: transpose(prefix_sets)?,
            entities: transpose(entities)?,
            nodes: transpose(nodes)?,
            services: transpose(services)?,
            names: transpose(fqdns)?,
        })
    }
}

struct PeerFields {
    endpoints: &'static str,
    prefixes: &'static str,
    prefix_sets: &'static str,
    entities: &'static str,
    nodes: &'static str,
    groups: &'static str,
    requires: &'static str,
}

const INGRESS: PeerFields = PeerFields {
    endpoints: "fromEndpoints",
    prefixes: "fromCIDR",
    prefix_sets: "fromCIDRSet",
    entities: "fromEntities",
    nodes: "fromNodes",
    groups: "fromGroups",
    requires: "fromRequires",
};

const EGRESS: PeerFields = PeerFields {
    endpoints: "toEndpoints",
    prefixes: "toCIDR",
    prefix_sets: "toCIDRSet",
    entities: "toEntities",
    nodes: "toNodes",
    groups: "toGroups",
    requires: "toRequires",
};

/// At most one list may have items.
fn check_combination(lists: &[(&str, &Option<Field<'_>>)]) -> Option<()> {
    let filled: Vec<_> = lists
        .iter()
        .filter_map(|(name, field)| {
            let field = field.as_ref()?;
            (!field.is_empty_list()).then_some((*name, field))
        })
        .collect();
    if let [(first, _), (second, field), ..] = filled.as_slice() {
        field.fail(format!(
            "cannot be combined with {first}; write a second rule for {second}"
        ));
        return None;
    }
    Some(())
}

/// A prefix. Host bits may be set; they do not count.
pub(super) fn prefix(field: &Field<'_>) -> Option<IpNet> {
    let text = field.string()?;
    match text.parse::<IpNet>() {
        Ok(net) => {
            if net != net.trunc() {
                field.warn(format!("bits behind the prefix do not count: this is {}", net.trunc()));
            }
            Some(net.trunc())
        }
        Err(_) if text.parse::<std::net::IpAddr>().is_ok() => {
            let bits = if text.contains(':') { 128 } else { 32 };
            field.fail(format!("a bare address is not a prefix; write {text}/{bits}"));
            None
        }
        Err(_) => {
            field.fail(format!("{text:?} is not a prefix such as 10.0.0.0/8 or fd00::/8"));
            None
        }
    }
}

fn prefix_rule(field: &Field<'_>) -> Option<PrefixRule> {
    let mut object = field.object()?;
    let cidr = object.optional("cidr").filter(|f| !f.is_empty_string());
    let group = object.optional("cidrGroupRef").filter(|f| !f.is_empty_string());
    let groups = object.optional("cidrGroupSelector");
    let except = object.optional("except");
    object.finish();
    let source = match (cidr, group, groups) {
        (Some(field), None, None) => PrefixSource::Prefix(prefix(&field)?),
        (None, Some(field), None) => PrefixSource::Group(super::object_name_of(&field)?),
        (None, None, Some(field)) => PrefixSource::Groups(LabelSelector::read(&field)?),
        (None, None, None) => {
            field.fail("one of cidr, cidrGroupRef and cidrGroupSelector must be given");
            return None;
        }
        _ => {
            field.fail("only one of cidr, cidrGroupRef and cidrGroupSelector may be given");
            return None;
        }
    };
    let net = match &source {
        PrefixSource::Prefix(net) => Some(*net),
        PrefixSource::Group(_) | PrefixSource::Groups(_) => None,
    };
    let except = exceptions(except.as_ref(), |inner| {
        let inside = net.is_none_or(|net| net.contains(inner));
        (!inside).then_some("does not lie inside")
    })?;
    Some(PrefixRule {
        place: super::Place::of(field),
        source,
        except,
    })
}

/// Reads `except`. `fault` says what is wrong with a prefix that may not be left out.
pub(super) fn exceptions(
    field: Option<&Field<'_>>,
    fault: impl Fn(&IpNet) -> Option<&'static str>,
) -> Option<Vec<IpNet>> {
    let Some(field) = field else { return Some(Vec::new()) };
    field.list_of(|item| {
        let net = prefix(item)?;
        match fault(&net) {
            None => Some(net),
            Some(fault) => {
                item.fail(format!("{net} {fault} the prefix"));
                None
            }
        }
    })
}

fn entity(field: &Field<'_>) -> Option<Entity> {
    let text = field.string()?;
    let found = Entity::ALL
        .iter()
        .find(|(_, name)| *name == text)
        .map(|(entity, _)| *entity);
    if found.is_none() {
        let known: Vec<&str> = Entity::ALL.iter().map(|(_, name)| *name).collect();
        field.fail(format!("unknown entity {text:?}; known are {}", known.join(", ")));
    }
    found
}

fn service(field: &Field<'_>) -> Option<ServicePeer> {
    let mut object = field.object()?;
    let by_name = object.optional("k8sService");
    let by_selector = object.optional("k8sServiceSelector");
    object.finish();
    match (by_name, by_selector) {
        (Some(field), None) => {
            let mut object = field.object()?;
            let namespace = service_namespace(&mut object);
            let name = object.required("serviceName").and_then(|f| super::object_name_of(&f));
            object.finish();
            Some(ServicePeer::Name {
                namespace: transpose(namespace)?,
                name: name?,
            })
        }
        (None, Some(field)) => {
            let mut object = field.object()?;
            let namespace = service_namespace(&mut object);
            let selector = object.required("selector").and_then(|f| LabelSelector::read(&f));
            object.finish();
            Some(ServicePeer::Selector {
                namespace: transpose(namespace)?,
                selector: selector?,
            })
        }
        _ => {
            field.fail("exactly one of k8sService and k8sServiceSelector must be given");
            None
        }
    }
}

/// The namespace of a service, if one is given.
fn service_namespace(object: &mut Object<'_>) -> Option<Option<String>> {
    let Some(field) = object.optional("namespace").filter(|f| !f.is_empty_string()) else {
        object
            .field()
            .warn("without `namespace`, services of every namespace are meant");
        return None;
    };
    Some(super::object_name_of(&field))
}

fn fqdn(field: &Field<'_>) -> Option<NamePattern> {
    let mut object = field.object()?;
    let name = object.optional("matchName").filter(|f| !f.is_empty_string());
    let pattern = object.optional("matchPattern").filter(|f| !f.is_empty_string());
    object.finish();
    match (name, pattern) {
        (Some(name), None) => name_of(&name, NamePattern::name),
        (None, Some(pattern)) => name_of(&pattern, NamePattern::pattern),
        (Some(_), Some(_)) => {
            field.fail("only one of matchName and matchPattern may be given");
            None
        }
        (None, None) => {
            field.warn("selects only the root name `.`; `matchPattern: \"*\"` selects every name");
            Some(NamePattern::root())
        }
    }
}

/// Reads a name by one of [`NamePattern`]'s constructors.
pub(super) fn name_of(field: &Field<'_>, read: fn(&str) -> Result<NamePattern, String>) -> Option<NamePattern> {
    match read(field.string()?) {
        Ok(pattern) => Some(pattern),
        Err(reason) => {
            field.fail(reason);
            None
        }
    }
}
