//! ClusterNetworkPolicy of the Kubernetes network policy API (policy.networking.k8s.io/v1alpha2).

use ipnet::IpNet;

use super::cilium::transpose;
use super::kubernetes::NamespacedPods;
use super::peers::prefix;
use super::ports::{self, Port, PortValue, Protocol};
use super::selector::LabelSelector;
use super::{Body, Place, Reader};
use crate::fields::{Field, Object};
use crate::label::SOURCE_NODE;
use crate::name_pattern::NamePattern;
use crate::rule::{Action, Tier};

/// Rules of one direction, peers of one rule, protocols of one rule, networks or names of one peer at most.
const ITEMS_MAX: usize = 25;

/// What a ClusterNetworkPolicy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Where it stands.
    pub place: Place,
    /// [`Tier::Admin`] or [`Tier::Baseline`].
    pub tier: Tier,
    /// Smaller values are asked first.
    pub priority: u32,
    /// The pods that it governs.
    pub subject: NamespacedPods,
    /// Rules for connections to them, the first that matches counts.
    pub ingress: Vec<TieredRule>,
    /// Rules for connections from them, the first that matches counts.
    pub egress: Vec<TieredRule>,
}

/// One item of `ingress` or `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TieredRule {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub action: Action,
    /// `from` or `to`; never empty.
    pub peers: Vec<TieredPeer>,
    /// `protocols`; `None` = every protocol and port.
    pub ports: Option<Vec<Port>>,
}

/// One item of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TieredPeer {
    /// `namespaces` or `pods`.
    Pods(NamespacedPods),
    /// `nodes`.
    Nodes(LabelSelector),
    /// `networks`.
    Networks(Vec<IpNet>),
    /// `domainNames`.
    Names(Vec<NamePattern>),
}

pub(super) fn read(object: &mut Object<'_>, _: &Reader) -> Option<Body> {
    let field = object.required("spec")?;
    let mut spec = field.object()?;
    let tier = spec.required("tier").and_then(|f| match f.string()? {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            f.fail(format!("unknown tier {other:?}; known are Admin and Baseline"));
            None
        }
    });
    let priority = spec
        .required("priority")
        .and_then(|f| u32::try_from(f.integer(0, 1000)?).ok());
    let subject = spec.required("subject").and_then(|f| {
        let mut object = f.object()?;
        let pods = pods(&mut object);
        object.finish();
        let pods = pods?;
        if pods.is_none() {
            f.fail("exactly one of namespaces and pods must be given");
        }
        pods
    });
    let ingress = spec.optional("ingress").map_or(Some(Vec::new()), |f| rules(&f, false));
    let egress = spec.optional("egress").map_or(Some(Vec::new()), |f| rules(&f, true));
    spec.finish();
    Some(Body::Cluster(ClusterPolicy {
        place: Place::of(&field),
        tier: tier?,
        priority: priority?,
        subject: subject?,
        ingress: ingress?,
        egress: egress?,
    }))
}

/// A list with at least one item and not more than are taken.
fn bounded<'a, T>(field: &Field<'a>, read: impl FnMut(&Field<'a>) -> Option<T>) -> Option<Vec<T>> {
    let items = field.list_of(read)?;
    if items.is_empty() || items.len() > ITEMS_MAX {
        field.fail(format!("must have 1 to {ITEMS_MAX} items, has {}", items.len()));
        return None;
    }
    Some(items)
}

fn rules(field: &Field<'_>, egress: bool) -> Option<Vec<TieredRule>> {
    let rules = field.list_of(|item| rule(item, egress))?;
    if rules.len() > ITEMS_MAX {
        field.fail(format!("has {} rules, at most {ITEMS_MAX} are taken", rules.len()));
        return None;
    }
    Some(rules)
}

fn rule(field: &Field<'_>, egress: bool) -> Option<TieredRule> {
    let mut object = field.object()?;
    if let Some(name) = object.optional("name")
        && name.string()?.chars().count() > 100
    {
        name.fail("has more than 100 characters");
    }
    let action = object.required("action").and_then(|f| match f.string()? {
        "Accept" => Some(Action::Allow),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        other => {
            f.fail(format!("unknown action {other:?}; known are Accept, Deny, Pass"));
            None
        }
    });
    let peers_field = object.required(if egress { "to" } else { "from" });
    let peers = peers_field.as_ref().and_then(|f| bounded(f, |item| peer(item, egress)));
    let ports = transpose(object.optional("protocols").map(|f| bounded(&f, protocol)));
    object.finish();
    let (action, peers) = (action?, peers?);
    if action != Action::Allow && peers.iter().any(|p| matches!(p, TieredPeer::Names(_))) {
        peers_field
            .as_ref()
            .unwrap_or(field)
            .fail("domainNames can only be accepted, not denied or passed");
        return None;
    }
    Some(TieredRule {
        place: Place::of(field),
        action,
        peers,
        ports: ports?,
    })
}

fn peer(field: &Field<'_>, egress: bool) -> Option<TieredPeer> {
    let mut object = field.object()?;
    let pods = pods(&mut object);
    let (mut nodes, mut networks, mut names) = (None, None, None);
    if egress {
        nodes = object.optional("nodes");
        networks = object.optional("networks");
        names = object.optional("domainNames");
    }
    object.finish();
    match (pods?, nodes, networks, names) {
        (Some(pods), None, None, None) => Some(TieredPeer::Pods(pods)),
        (None, Some(f), None, None) => LabelSelector::read_from(SOURCE_NODE, &f).map(TieredPeer::Nodes),
        (None, None, Some(f), None) => {
            f.warn("means addresses outside the cluster only; pods are selected by namespaces or pods");
            bounded(&f, prefix).map(TieredPeer::Networks)
        }
        (None, None, None, Some(f)) => {
            f.warn("means addresses that were learned under these names; DNS rules must let the queries be inspected");
            bounded(&f, domain_name).map(TieredPeer::Names)
        }
        _ => {
            let kinds = if egress {
                "namespaces, pods, nodes, networks and domainNames"
            } else {
                "namespaces and pods"
            };
            field.fail(format!("exactly one of {kinds} must be given"));
            None
        }
    }
}

/// `namespaces` or `pods`. The outer `None` = unreadable, the inner one = neither is there.
fn pods(object: &mut Object<'_>) -> Option<Option<NamespacedPods>> {
    let namespaces = object.optional("namespaces");
    let pods = object.optional("pods");
    match (namespaces, pods) {
        (None, None) => Some(None),
        (Some(f), None) => Some(Some(NamespacedPods {
            namespaces: Some(LabelSelector::read_kubernetes(&f)?),
            pods: None,
        })),
        (None, Some(f)) => {
            let mut object = f.object()?;
            let namespaces = match object.optional("namespaceSelector") {
                Some(f) => LabelSelector::read_kubernetes(&f),
                None => Some(LabelSelector::default()),
            };
            let pods = object
                .required("podSelector")
                .and_then(|f| LabelSelector::read_kubernetes(&f));
            object.finish();
            Some(Some(NamespacedPods {
                namespaces: Some(namespaces?),
                pods: Some(pods?),
            }))
        }
        (Some(_), Some(f)) => {
            f.fail("cannot stand beside namespaces; write a second item");
            None
        }
    }
}

/// `*.` at the head stands for one or more whole labels.
fn domain_name(field: &Field<'_>) -> Option<NamePattern> {
    let text = field.string()?;
    let (stars, rest) = text.strip_prefix("*.").map_or(("", text), |rest| ("**.", rest));
    if rest.contains('*') || !rest.trim_end_matches('.').contains('.') {
        field.fail(format!(
            "{text:?} is not a domain name: at least two labels, and `*.` only at the head"
        ));
        return None;
    }
    match NamePattern::pattern(&format!("{stars}{rest}")) {
        Ok(pattern) => Some(pattern),
        Err(reason) => {
            field.fail(reason);
            None
        }
    }
}

fn protocol(field: &Field<'_>) -> Option<Port> {
    let mut object = field.object()?;
    let given: Vec<_> = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)]
        .into_iter()
        .filter_map(|(name, protocol)| Some((object.optional(name)?, protocol)))
        .collect();
    let named = object.optional("destinationNamedPort");
    object.finish();
    match (given.as_slice(), named) {
        ([(field, protocol)], None) => {
            let mut object = field.object()?;
            let port = object.required("destinationPort").and_then(|f| destination_port(&f));
            object.finish();
            Some(Port {
                port: port?,
                protocol: *protocol,
            })
        }
        ([], Some(field)) => Some(Port {
            port: PortValue::Name(ports::name(&field, field.string()?)?),
            protocol: Protocol::Any,
        }),
        _ => {
            field.fail("exactly one of tcp, udp, sctp and destinationNamedPort must be given");
            None
        }
    }
}

fn destination_port(field: &Field<'_>) -> Option<PortValue> {
    let mut object = field.object()?;
    let number = object.optional("number");
    let range = object.optional("range");
    object.finish();
    let read = |f: &Field<'_>| u16::try_from(f.integer(1, 65535)?).ok();
    match (number, range) {
        (Some(f), None) => read(&f).map(|port| PortValue::Numbers(port, port)),
        (None, Some(f)) => {
            let mut object = f.object()?;
            let first = object.required("start").and_then(|f| read(&f));
            let last = object.required("end").and_then(|f| read(&f));
            object.finish();
            let (first, last) = (first?, last?);
            if first >= last {
                f.fail("`start` must be smaller than `end`");
                return None;
            }
            Some(PortValue::Numbers(first, last))
        }
        _ => {
            field.fail("exactly one of number and range must be given");
            None
        }
    }
}
