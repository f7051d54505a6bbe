//! The documents.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use seventh_abi::Direction;

use super::{
    ObservedL4, Options, Seen, namespace,
    peers::{KnownLabels, PeerKey},
};
use crate::label::Labels;

/// Ports of one item at most, as documents may have.
const PORTS_MAX: usize = 40;
/// Bytes of a policy's name at most, before what tells it from others.
const NAME_MAX: usize = 48;

/// A `CiliumNetworkPolicy`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GeneratedPolicy {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, Serialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    endpoint_selector: Selector,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress: Vec<Rule>,
}

/// Those who have the labels and lack the keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Expression {
    key: String,
    operator: &'static str,
}

impl Selector {
    pub(super) fn new(match_labels: BTreeMap<String, String>, excluded: BTreeSet<String>) -> Self {
        let lacks = |key| Expression {
            key,
            operator: "DoesNotExist",
        };
        Self {
            match_labels,
            match_expressions: excluded.into_iter().map(lacks).collect(),
        }
    }
}

/// One direction's item; an empty one allows nothing and puts the endpoint into default deny.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_endpoints: Vec<Selector>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from_entities: Vec<&'static str>,
    #[serde(rename = "fromCIDR", skip_serializing_if = "Vec::is_empty")]
    from_cidr: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to_endpoints: Vec<Selector>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to_entities: Vec<&'static str>,
    #[serde(rename = "toCIDR", skip_serializing_if = "Vec::is_empty")]
    to_cidr: Vec<String>,
    #[serde(rename = "toFQDNs", skip_serializing_if = "Vec::is_empty")]
    to_fqdns: Vec<MatchName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to_ports: Vec<PortRule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    icmps: Vec<Icmps>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct MatchName {
    match_name: String,
}

/// Ports and what may be inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortRule {
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    server_names: Vec<String>,
    #[serde(skip_serializing_if = "L7::is_empty")]
    rules: L7,
    #[serde(skip)]
    icmp: Option<IcmpField>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Port {
    port: String,
    protocol: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct L7 {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http: Vec<Http>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns: Vec<MatchName>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Http {
    method: String,
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Icmps {
    fields: Vec<IcmpField>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct IcmpField {
    family: &'static str,
    r#type: u8,
}

impl L7 {
    fn is_empty(&self) -> bool {
        self.http.is_empty() && self.dns.is_empty()
    }
}

impl PortRule {
    pub(super) fn new(at: ObservedL4) -> Self {
        let mut rule = Self::default();
        match at {
            ObservedL4::Port { protocol, port } => rule.ports.push(Port {
                port: port.to_string(),
                protocol: match protocol {
                    6 => "TCP",
                    17 => "UDP",
                    132 => "SCTP",
                    _ => "ANY",
                },
            }),
            ObservedL4::Icmp { v6, kind } => {
                rule.icmp = Some(IcmpField {
                    family: if v6 { "IPv6" } else { "IPv4" },
                    r#type: kind,
                });
            }
        }
        rule
    }

    pub(super) fn http(&mut self, method: &str, path: String) {
        self.rules.http.push(Http {
            method: regex_syntax::escape(method),
            path,
        });
    }

    pub(super) fn dns(&mut self, names: BTreeSet<String>) {
        self.rules.dns = names.into_iter().map(|match_name| MatchName { match_name }).collect();
    }

    pub(super) fn server_names(&mut self, names: BTreeSet<String>) {
        self.server_names = names.into_iter().collect();
    }

    fn is_plain(&self) -> bool {
        self.rules.is_empty() && self.server_names.is_empty()
    }
}

/// Makes policies, each with a name of its own.
pub(super) struct Builder<'a> {
    known: &'a KnownLabels,
    options: Options,
    names: BTreeSet<(String, String)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(known: &'a KnownLabels, options: Options) -> Self {
        Self {
            known,
            options,
            names: BTreeSet::new(),
        }
    }

    pub(super) fn policy(
        &mut self,
        subject: &Labels,
        ingress: Option<Seen>,
        egress: Option<Seen>,
        notes: &mut BTreeSet<String>,
    ) -> GeneratedPolicy {
        let namespace = namespace(subject).unwrap_or_default().to_owned();
        let mut rules = |seen: Option<Seen>, direction| match seen {
            Some(seen) => self.rules(subject, seen, direction, notes),
            None if self.options.leave_unseen_open => Vec::new(),
            None => vec![Rule::default()],
        };
        let spec = Spec {
            ingress: rules(ingress, Direction::Ingress),
            egress: rules(egress, Direction::Egress),
            endpoint_selector: self.known.selector(subject, false),
        };
        GeneratedPolicy {
            api_version: "cilium.io/v2",
            kind: "CiliumNetworkPolicy",
            metadata: Metadata {
                name: self.name(subject, &namespace),
                namespace,
            },
            spec,
        }
    }

    /// Of the values of its labels; a number tells it from others.
    fn name(&mut self, subject: &Labels, namespace: &str) -> String {
        let values = subject
            .iter()
            .filter(|label| label.value != namespace)
            .map(|label| label.value.as_str());
        let text: String = values.collect::<Vec<_>>().join("-");
        let letter = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let text: String = text.chars().map(letter).take(NAME_MAX).collect();
        let name = format!("observed-{}", text.trim_matches('-'));
        let name = name.trim_end_matches('-').to_owned();
        let mut candidate = name.clone();
        let mut number = 1;
        while !self.names.insert((namespace.to_owned(), candidate.clone())) {
            number += 1;
            candidate = format!("{name}-{number}");
        }
        candidate
    }

    /// Peers of one kind to whom the same is allowed share an item.
    fn rules(&self, subject: &Labels, seen: Seen, direction: Direction, notes: &mut BTreeSet<String>) -> Vec<Rule> {
        let mut items: BTreeMap<(u8, Vec<PortRule>), Vec<PeerKey>> = BTreeMap::new();
        for (peer, ports) in seen {
            let kind = match peer {
                PeerKey::Endpoint(_) => 0,
                PeerKey::Entity(_) => 1,
                PeerKey::Names(_) => 2,
                PeerKey::Prefix(_) => 3,
            };
            let rules = ports.into_iter().map(|(at, inside)| {
                let place = format!("{subject} {direction:?} {at:?}");
                inside.rule(at, &place, self.options, notes)
            });
            items.entry((kind, rules.collect())).or_default().push(peer);
        }
        let rules = items.into_iter().flat_map(|((_, ports), peers)| {
            let mut rule = Rule::default();
            for peer in peers {
                self.add_peer(&mut rule, peer, direction);
            }
            with_ports(&rule, ports)
        });
        rules.collect()
    }

    fn add_peer(&self, rule: &mut Rule, peer: PeerKey, direction: Direction) {
        let ingress = direction == Direction::Ingress;
        match peer {
            PeerKey::Endpoint(labels) => {
                let selector = self.known.selector(&labels, true);
                let list = if ingress {
                    &mut rule.from_endpoints
                } else {
                    &mut rule.to_endpoints
                };
                list.push(selector);
            }
            PeerKey::Entity(entity) => {
                let list = if ingress {
                    &mut rule.from_entities
                } else {
                    &mut rule.to_entities
                };
                list.push(entity);
            }
            PeerKey::Prefix(prefix) => {
                let list = if ingress {
                    &mut rule.from_cidr
                } else {
                    &mut rule.to_cidr
                };
                list.push(prefix.to_string());
            }
            PeerKey::Names(names) => {
                rule.to_fqdns
                    .extend(names.into_iter().map(|match_name| MatchName { match_name }));
            }
        }
    }
}

/// Ports that may carry anything share a list; ICMP stands in an item of its own.
fn with_ports(peers: &Rule, ports: Vec<PortRule>) -> Vec<Rule> {
    let (icmp, ports): (Vec<_>, Vec<_>) = ports.into_iter().partition(|rule| rule.icmp.is_some());
    let (plain, inspected): (Vec<_>, Vec<_>) = ports.into_iter().partition(PortRule::is_plain);
    let plain: Vec<Port> = plain.into_iter().flat_map(|rule| rule.ports).collect();
    let lists = plain.chunks(PORTS_MAX).map(|ports| PortRule {
        ports: ports.to_vec(),
        ..PortRule::default()
    });
    let to_ports: Vec<PortRule> = lists.chain(inspected).collect();
    let fields: Vec<IcmpField> = icmp.into_iter().filter_map(|rule| rule.icmp).collect();
    let mut rules = Vec::new();
    if !to_ports.is_empty() {
        rules.push(Rule {
            to_ports,
            ..peers.clone()
        });
    }
    rules.extend(fields.chunks(PORTS_MAX).map(|fields| Rule {
        icmps: vec![Icmps {
            fields: fields.to_vec(),
        }],
        ..peers.clone()
    }));
    rules
}
