//! NetworkPolicy of Kubernetes (networking.k8s.io/v1).

use ipnet::IpNet;

use super::cilium::transpose;
use super::peers::{exceptions, prefix};
use super::ports::{self, Port, PortValue, Protocol};
use super::selector::LabelSelector;
use super::{Body, Place, Reader};
use crate::fields::{Field, Object, Scalar};

/// What a NetworkPolicy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Where it stands.
    pub place: Place,
    /// `podSelector`: the pods of its namespace that it governs.
    pub subject: LabelSelector,
    /// Rules for connections to them; `None` if it is not of type Ingress.
    pub ingress: Option<Vec<NetworkRule>>,
    /// Rules for connections from them; `None` if it is not of type Egress.
    pub egress: Option<Vec<NetworkRule>>,
}

/// One item of `ingress` or `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRule {
    /// Where it stands.
    pub place: Place,
    /// `from` or `to`; empty = everybody.
    pub peers: Vec<NetworkPeer>,
    /// `ports`; empty = every protocol and port.
    pub ports: Vec<Port>,
}

/// One item of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkPeer {
    /// Pods.
    Pods(NamespacedPods),
    /// `ipBlock`.
    Block {
        /// `cidr`.
        net: IpNet,
        /// `except`.
        except: Vec<IpNet>,
    },
}

/// Pods by the labels of their namespaces and their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacedPods {
    /// `namespaceSelector`; `None` = the policy's own namespace.
    pub namespaces: Option<LabelSelector>,
    /// `podSelector`; `None` = all.
    pub pods: Option<LabelSelector>,
}

pub(super) fn read(object: &mut Object<'_>, _: &Reader) -> Option<Body> {
    let field = object.required("spec")?;
    let mut spec = field.object()?;
    let subject = match spec.optional("podSelector") {
        Some(f) => LabelSelector::read_kubernetes(&f),
        None => Some(LabelSelector::default()),
    };
    let ingress = transpose(spec.optional("ingress").map(|f| f.list_of(|item| rule(item, "from"))));
    let egress = transpose(spec.optional("egress").map(|f| f.list_of(|item| rule(item, "to"))));
    let types = transpose(
        spec.optional("policyTypes")
            .map(|f| f.list_of(|item| policy_type(item).map(|t| (t, item.clone())))),
    );
    spec.finish();
    let (ingress, egress, types) = (ingress?, egress?, types?);
    // Without policyTypes, ingress is always meant and egress if there are egress rules.
    let egress_rules = egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let means = |egress: bool| match &types {
        Some(types) if !types.is_empty() => types.iter().any(|(t, _)| *t == egress),
        _ => !egress || egress_rules,
    };
    if egress_rules && !means(true) {
        field.fail("has egress rules, but policyTypes does not list Egress; add it or remove the rules");
        return None;
    }
    if ingress.as_ref().is_some_and(|rules| !rules.is_empty()) && !means(false) {
        field.fail("has ingress rules, but policyTypes does not list Ingress; add it or remove the rules");
        return None;
    }
    Some(Body::Network(NetworkPolicy {
        place: Place::of(&field),
        subject: subject?,
        ingress: means(false).then(|| ingress.unwrap_or_default()),
        egress: means(true).then(|| egress.unwrap_or_default()),
    }))
}

/// Whether the type is Egress.
fn policy_type(field: &Field<'_>) -> Option<bool> {
    match field.string()? {
        "Ingress" => Some(false),
        "Egress" => Some(true),
        other => {
            field.fail(format!("unknown policy type {other:?}; known are Ingress and Egress"));
            None
        }
    }
}

fn rule(field: &Field<'_>, peers: &'static str) -> Option<NetworkRule> {
    let mut object = field.object()?;
    let peers = object.optional(peers).map_or(Some(Vec::new()), |f| f.list_of(peer));
    let ports = object.optional("ports").map_or(Some(Vec::new()), |f| f.list_of(port));
    object.finish();
    Some(NetworkRule {
        place: Place::of(field),
        peers: peers?,
        ports: ports?,
    })
}

fn peer(field: &Field<'_>) -> Option<NetworkPeer> {
    let mut object = field.object()?;
    let namespaces = transpose(
        object
            .optional("namespaceSelector")
            .map(|f| LabelSelector::read_kubernetes(&f)),
    );
    let pods = transpose(
        object
            .optional("podSelector")
            .map(|f| LabelSelector::read_kubernetes(&f)),
    );
    let block = object.optional("ipBlock");
    object.finish();
    let (namespaces, pods) = (namespaces?, pods?);
    let Some(block) = block else {
        if namespaces.is_none() && pods.is_none() {
            field.fail("one of podSelector, namespaceSelector and ipBlock must be given");
            return None;
        }
        return Some(NetworkPeer::Pods(NamespacedPods { namespaces, pods }));
    };
    if namespaces.is_some() || pods.is_some() {
        block.fail("cannot stand beside podSelector or namespaceSelector; write a second item");
        return None;
    }
    let mut object = block.object()?;
    let net = object.required("cidr").and_then(|f| prefix(&f));
    let except = object.optional("except");
    object.finish();
    let net = net?;
    let except = exceptions(except.as_ref(), |inner| {
        let strictly_inside = net.contains(inner) && *inner != net;
        (!strictly_inside).then_some("does not lie strictly inside")
    })?;
    Some(NetworkPeer::Block { net, except })
}

fn port(field: &Field<'_>) -> Option<Port> {
    let mut object = field.object()?;
    let protocol = object
        .optional("protocol")
        .map_or(Some(Protocol::Tcp), |f| match f.string()? {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            other => {
                f.fail(format!("unknown protocol {other:?}; known are TCP, UDP, SCTP"));
                None
            }
        });
    let port = object.optional("port");
    let end = transpose(
        object
            .optional("endPort")
            .map(|f| Some((f.integer(1, 65535)?, f.clone()))),
    );
    object.finish();
    let (protocol, end) = (protocol?, end?);
    let Some(port) = port else {
        if let Some((_, field)) = end {
            field.fail("needs `port`, the first port of the range");
            return None;
        }
        return Some(Port {
            port: PortValue::All,
            protocol,
        });
    };
    let first = match port.integer_or_string()? {
        Scalar::Integer(_) => u16::try_from(port.integer(1, 65535)?).ok()?,
        Scalar::String(text) => {
            if let Some((_, field)) = end {
                field.fail("cannot stand beside a port name");
                return None;
            }
            return Some(Port {
                port: PortValue::Name(ports::name(&port, text)?),
                protocol,
            });
        }
    };
    let last = match end {
        None => first,
        Some((last, field)) => match u16::try_from(last) {
            Ok(last) if last >= first => last,
            _ => {
                field.fail(format!("lies below the port {first}"));
                return None;
            }
        },
    };
    Some(Port {
        port: PortValue::Numbers(first, last),
        protocol,
    })
}
