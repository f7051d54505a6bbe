//! Documents to plain rules: namespaces and clusters are written into the selectors, entities, groups and services are
//! replaced by what they stand for, default deny is settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use seventh_abi::PROTOCOL_SCTP;

use crate::document::{
    Authentication, Body, CidrGroup, CiliumRule, Document, Entity, L7Text, LabelSelector, Place, Port, PortRule,
    PortValue, PrefixRule, PrefixSource, RuleDirection, RuleSubject, ServicePeer,
};
use crate::finding::{Finding, RuleOrigin, Severity};
use crate::http::HttpRule;
use crate::identity::all_of;
use crate::label::{KEY_NAMESPACE, Label, Labels, SOURCE_ANY, SOURCE_K8S, SOURCE_RESERVED};
use crate::name_pattern::NamePattern;
use crate::rule::{
    Action, DirectionRules, DnsRule, L7Rules, PeerSelector, Peers, PolicyRule, PortMatch, PortRange, Ports, Precedence,
    Rule, Subject, Tier, TlsRule,
};
use crate::selector::{Operator, Requirement, Selector, SelectorKey};

mod kubernetes;

/// What documents refer to besides each other.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Name of the local cluster. With it, peers that name no cluster mean the local one; endpoints must then carry
    /// the label `k8s:io.cilium.k8s.policy.cluster`.
    pub cluster: Option<String>,
    /// Whether other nodes have identities with the labels of their Node objects (source `node`): without, `fromNodes`,
    /// `toNodes` and `nodes` mean nobody.
    pub node_labels: bool,
    /// Whether the node itself is an endpoint: without, policies with a `nodeSelector` govern nobody.
    pub host_endpoint: bool,
    /// Services that `toServices` may name.
    pub services: Services,
    /// Whether the identities `health`, `kube-apiserver`, `ingress`, `remote-node` and `unmanaged` are given to anybody.
    pub cluster_identities: bool,
}

/// Services by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(pub BTreeMap<(String, String), Service>);

/// A service, as far as policies ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its labels, source k8s.
    pub labels: Option<Labels>,
    /// Labels of the pods behind it, if it selects pods.
    pub selector: Option<Vec<(String, String)>>,
    /// Prefixes of backends outside the cluster, if it selects no pods.
    pub backends: Vec<IpNet>,
    /// It is only another name for this one, which DNS tells; nobody answers behind it here.
    pub external_name: Option<String>,
}

/// Rules and what is wrong with what they refer to.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The rules, in the order of the documents.
    pub rules: Vec<Arc<PolicyRule>>,
    /// References to things that are not there. The rules are in force all the same: what is not there selects nobody.
    pub findings: Vec<Finding>,
}

/// Resolves documents against each other and their surroundings.
#[must_use]
pub fn resolve(documents: &[Arc<Document>], surroundings: &Surroundings) -> Resolved {
    let mut groups = Vec::new();
    for document in documents {
        if let Body::CidrGroup(group) = &document.body {
            groups.push(Group {
                name: &document.origin.name,
                labels: &document.labels,
                group,
            });
        }
    }
    let mut resolved = Resolved::default();
    for document in documents {
        let mut resolver = Resolver {
            document,
            rule_origin: document.origin.clone(),
            governs_init: false,
            groups: &groups,
            surroundings,
            findings: &mut resolved.findings,
        };
        let rules = match &document.body {
            Body::Cilium(rules) => rules.iter().map(|rule| resolver.cilium(rule)).collect(),
            Body::Network(policy) => vec![resolver.network_policy(policy)],
            Body::Cluster(policy) => vec![resolver.cluster_policy(policy)],
            Body::CidrGroup(_) => Vec::new(),
        };
        resolved.rules.extend(rules.into_iter().map(Arc::new));
    }
    resolved
}

struct Group<'a> {
    name: &'a str,
    labels: &'a Labels,
    group: &'a CidrGroup,
}

struct Resolver<'a> {
    document: &'a Document,
    /// The document's origin, with the labels and the log value of the rule at hand.
    rule_origin: Arc<RuleOrigin>,
    /// The rule at hand is about endpoints whose labels are not known yet; they have no namespace.
    governs_init: bool,
    groups: &'a [Group<'a>],
    surroundings: &'a Surroundings,
    findings: &'a mut Vec<Finding>,
}

impl Resolver<'_> {
    fn namespace(&self) -> Option<&str> {
        Some(&*self.document.origin.namespace).filter(|n| !n.is_empty())
    }

    fn origin(&self, place: &Place) -> Arc<RuleOrigin> {
        Arc::new(self.rule_origin.at(place.line, place.path.clone()))
    }

    fn missing(&mut self, place: &Place, severity: Severity, reason: String) {
        let origin = &self.document.origin;
        self.findings.push(Finding {
            severity,
            file: origin.file.clone(),
            document: origin.document,
            line: place.line,
            column: 1,
            object: format!("{} {}", origin.kind, origin.policy()),
            field: place.path.clone(),
            reason,
        });
    }

    fn cilium(&mut self, rule: &CiliumRule) -> PolicyRule {
        let document = &self.document.origin;
        let labels = document.labels.iter().chain(&rule.labels).cloned();
        let log = rule.log.as_deref().map(Arc::from);
        self.rule_origin = Arc::new(RuleOrigin {
            labels: Labels::new(labels),
            log,
            ..(**document).clone()
        });
        self.governs_init = rule.subject.names_init();
        let subject = match &rule.subject {
            RuleSubject::Endpoints(selector) => Subject::Endpoints(self.subject(selector, &rule.place)),
            RuleSubject::Nodes(selector) => {
                self.refuse_host_policy(&rule.place);
                Subject::Nodes(selector.selector())
            }
        };
        let mut direction = |allow: &[RuleDirection], deny: &[RuleDirection], default_deny: Option<bool>| {
            if allow.is_empty() && deny.is_empty() {
                return None;
            }
            let mut rules = Vec::new();
            for (items, action) in [(allow, Action::Allow), (deny, Action::Deny)] {
                for item in items {
                    self.direction(item, action, &mut rules);
                }
            }
            Some(DirectionRules {
                default_deny: default_deny.unwrap_or(true),
                rules,
            })
        };
        let ingress = direction(&rule.ingress, &rule.ingress_deny, rule.default_deny_ingress);
        let egress = direction(&rule.egress, &rule.egress_deny, rule.default_deny_egress);
        PolicyRule {
            origin: self.origin(&rule.place),
            subject,
            ingress,
            egress,
        }
    }

    /// Says what becomes of a namespace in the `endpointSelector` of a namespaced policy that is not its own.
    fn warn_of_foreign_namespace(&mut self, selector: &LabelSelector, own: &str, rule: &Place) {
        let is_namespace = |key: &SelectorKey, source: &str| key.key == KEY_NAMESPACE && key.source == source;
        let foreign = |source: &str| {
            let mut labels = selector.labels.iter();
            labels.any(|(key, value)| is_namespace(key, source) && value != own)
        };
        let own_labels = Labels::new([Label::new(SOURCE_K8S, KEY_NAMESPACE, own)]);
        let excludes_own = |r: &Requirement| {
            (is_namespace(&r.key, SOURCE_K8S) || is_namespace(&r.key, SOURCE_ANY)) && !r.matches(&own_labels)
        };
        let reason = if foreign(SOURCE_ANY) || selector.expressions.iter().any(excludes_own) {
            format!("governs nobody: a policy governs its own namespace only, which is {own:?}, and this excludes it")
        } else if foreign(SOURCE_K8S) {
            format!(
                "a policy governs its own namespace only: this one governs {own:?}, whatever namespace it names here"
            )
        } else {
            return;
        };
        let place = Place {
            path: format!("{}.endpointSelector", rule.path),
            ..rule.clone()
        };
        self.missing(&place, Severity::Warning, reason);
    }

    fn refuse_host_policy(&mut self, rule: &Place) {
        if !self.surroundings.host_endpoint {
            let place = Place {
                path: format!("{}.nodeSelector", rule.path),
                ..rule.clone()
            };
            let reason = "governs nobody: the node itself is no endpoint here, so its own connections are not restricted; \
                          host policies are not enforced yet";
            self.missing(&place, Severity::Error, reason.to_owned());
        }
    }

    /// The selector of the governed endpoints: a namespaced policy governs its own namespace, whatever it says.
    fn subject(&mut self, selector: &LabelSelector, rule: &Place) -> Selector {
        let Some(namespace) = self.namespace().map(str::to_owned) else {
            return selector.selector();
        };
        self.warn_of_foreign_namespace(selector, &namespace, rule);
        let mut selector = selector.clone();
        selector
            .labels
            .retain(|(key, _)| !(key.source == SOURCE_K8S && key.key == KEY_NAMESPACE));
        selector.selector().in_namespace(&namespace)
    }

    /// One item of a direction: a rule for each item of `toPorts`.
    fn direction(&mut self, item: &RuleDirection, action: Action, rules: &mut Vec<Rule>) {
        let peers = self.peers(item);
        let authentication_required = matches!(
            item.authentication,
            Some(Authentication::Required | Authentication::TestAlwaysFail)
        );
        let mut push = |origin, ports, l7| {
            rules.push(Rule {
                origin,
                precedence: Precedence::of_tier(Tier::Normal),
                action,
                peers: peers.clone(),
                ports,
                l7,
                authentication_required,
            });
        };
        if let Some(icmps) = &item.icmps {
            let types = icmps.iter().map(|m| PortMatch {
                protocol: m.protocol,
                ports: PortRange::Numbers(m.kind.into(), m.kind.into()),
            });
            return push(self.origin(&item.place), Ports::Some(types.collect()), None);
        }
        let port_rules = item.ports.as_deref().unwrap_or_default();
        if port_rules.is_empty() {
            // Presence of the peers decides: `{}` and an empty list of peers select nobody.
            if !item.peers.is_absent() {
                push(self.origin(&item.place), Ports::All, None);
            }
            return;
        }
        for port_rule in port_rules {
            let origin = self.origin(&port_rule.place);
            let l7 = port_rule.l7.as_ref().map(|l7| self.l7(l7));
            push(origin, ports_of(port_rule), l7);
        }
    }

    fn peers(&mut self, item: &RuleDirection) -> Peers {
        let lists = &item.peers;
        if lists.is_absent() {
            return Peers::Any;
        }
        if lists.selects_nobody() {
            return Peers::Selected(Vec::new());
        }
        let mut selectors = Vec::new();
        for selector in lists.endpoints.iter().flatten() {
            selectors.push(PeerSelector::Labels(self.peer(selector)));
        }
        let prefixes = lists.prefixes.iter().flatten();
        selectors.extend(prefixes.map(|net| PeerSelector::Prefix {
            net: *net,
            except: Vec::new(),
        }));
        for rule in lists.prefix_sets.iter().flatten() {
            self.prefix_set(rule, &mut selectors);
        }
        for entity in lists.entities.iter().flatten() {
            self.warn_of_entity(*entity, &item.place);
            match self.entity(*entity) {
                Some(more) => selectors.extend(more),
                None => return Peers::Any,
            }
        }
        for selector in lists.nodes.iter().flatten() {
            selectors.push(PeerSelector::Labels(self.node(selector)));
            self.warn_of_nodes(&item.place);
        }
        for service in lists.services.iter().flatten() {
            self.service(service, &item.place, &mut selectors);
        }
        selectors.extend(
            lists
                .names
                .iter()
                .flatten()
                .map(|name| PeerSelector::Name(name.clone())),
        );
        Peers::Selected(selectors)
    }

    /// The selector of a peer: without a namespace it means the policy's own, and in a cluster-wide policy whoever lives
    /// in one. Reserved peers have neither namespace nor cluster.
    fn peer(&self, selector: &LabelSelector) -> Selector {
        let plain = selector.selector();
        if plain.is_reserved() {
            return plain;
        }
        self.local(match self.namespace() {
            Some(namespace) if !plain.names_namespace() => plain.in_namespace(namespace),
            None if !plain.names_namespace_itself() && !self.governs_init => plain.in_any_namespace(),
            _ => plain,
        })
    }

    fn node(&self, selector: &LabelSelector) -> Selector {
        let remote = SelectorKey::new(SOURCE_RESERVED, "remote-node");
        self.local(selector.selector().and(Requirement {
            key: remote,
            operator: Operator::Exists,
        }))
    }

    fn warn_of_entity(&mut self, entity: Entity, place: &Place) {
        const OF_A_CLUSTER: &[Entity] = &[
            Entity::Health,
            Entity::Ingress,
            Entity::KubeApiserver,
            Entity::RemoteNode,
            Entity::Unmanaged,
        ];
        if self.surroundings.cluster_identities || !OF_A_CLUSTER.contains(&entity) {
            return;
        }
        let name = Entity::ALL.iter().find(|(known, _)| *known == entity);
        let name = name.map_or("", |(_, name)| *name);
        let reason = format!(
            "the entity {name:?} is nobody here: addresses get this identity from a cluster only; name its address in a \
             CIDR rule"
        );
        self.missing(place, Severity::Warning, reason);
    }

    fn warn_of_nodes(&mut self, place: &Place) {
        if !self.surroundings.node_labels {
            let reason = "selects nobody: the identities of nodes do not carry the labels of their Node objects";
            self.missing(place, Severity::Warning, reason.to_owned());
        }
    }

    fn local(&self, selector: Selector) -> Selector {
        match &self.surroundings.cluster {
            Some(cluster) if !selector.names_cluster() => selector.in_cluster(cluster),
            _ => selector,
        }
    }

    /// What an entity stands for; `None` for everybody.
    fn entity(&self, entity: Entity) -> Option<Vec<PeerSelector>> {
        let reserved = |name: &str| {
            let key = SelectorKey::new(SOURCE_RESERVED, name);
            PeerSelector::Labels(Selector::new(vec![Requirement {
                key,
                operator: Operator::Exists,
            }]))
        };
        Some(match entity {
            Entity::All => return None,
            Entity::None => Vec::new(),
            Entity::World => vec![reserved("world"), reserved("world-ipv4"), reserved("world-ipv6")],
            Entity::WorldIpv4 => vec![reserved("world-ipv4")],
            Entity::WorldIpv6 => vec![reserved("world-ipv6")],
            Entity::Cluster => vec![PeerSelector::Cluster(self.surroundings.cluster.clone())],
            Entity::ClusterMesh => vec![PeerSelector::Cluster(None)],
            Entity::Host => vec![reserved("host")],
            Entity::Init => vec![reserved("init")],
            Entity::Ingress => vec![reserved("ingress")],
            Entity::Unmanaged => vec![reserved("unmanaged")],
            Entity::RemoteNode => vec![reserved("remote-node")],
            Entity::Health => vec![reserved("health")],
            Entity::KubeApiserver => vec![reserved("kube-apiserver")],
        })
    }

    fn prefix_set(&mut self, rule: &PrefixRule, selectors: &mut Vec<PeerSelector>) {
        let mut nets: Vec<IpNet> = Vec::new();
        match &rule.source {
            PrefixSource::Prefix(net) => nets.push(*net),
            PrefixSource::Group(name) => match self.groups.iter().find(|g| g.name == name) {
                Some(found) => nets.extend(&found.group.prefixes),
                None => self.missing(
                    &rule.place,
                    Severity::Error,
                    format!("there is no CiliumCIDRGroup {name:?}; the rule selects nobody until there is one"),
                ),
            },
            PrefixSource::Groups(selector) => {
                let selector = selector.selector();
                let before = nets.len();
                let matching = self.groups.iter().filter(|g| selector.matches(g.labels));
                nets.extend(matching.flat_map(|g| &g.group.prefixes));
                if nets.len() == before {
                    let reason =
                        format!("no CiliumCIDRGroup matches {selector}; the rule selects nobody until one does");
                    self.missing(&rule.place, Severity::Warning, reason);
                }
            }
        }
        selectors.extend(nets.into_iter().map(|net| PeerSelector::Prefix {
            net,
            except: rule.except.clone(),
        }));
    }

    fn service(&mut self, peer: &ServicePeer, place: &Place, selectors: &mut Vec<PeerSelector>) {
        let (namespace, what) = match peer {
            ServicePeer::Name { namespace, name } => (namespace, name.clone()),
            ServicePeer::Selector { namespace, selector } => (namespace, selector.selector().to_string()),
        };
        let means = |at: &(String, String), service: &Service| {
            namespace.as_ref().is_none_or(|n| *n == at.0)
                && match peer {
                    ServicePeer::Name { name, .. } => *name == at.1,
                    ServicePeer::Selector { selector, .. } => service
                        .labels
                        .as_ref()
                        .is_some_and(|labels| selector.selector().matches(labels)),
                }
        };
        let services = &self.surroundings.services.0;
        let found: Vec<_> = services.iter().filter(|(at, service)| means(at, service)).collect();
        if found.is_empty() {
            let reason = format!("no service {what:?} is known; the rule selects nobody until there is one");
            self.missing(place, Severity::Warning, reason);
        }
        for ((namespace, _), service) in found {
            if let Some(name) = &service.external_name {
                let reason = format!(
                    "the service {what:?} is only a name for {name:?} and selects nobody; use toFQDNs with the name that the pods \
                     resolve"
                );
                self.missing(place, Severity::Warning, reason);
            }
            if let Some(pods) = &service.selector {
                let labels = pods.iter().map(|(key, value)| Requirement {
                    key: SelectorKey::new(SOURCE_K8S, key.clone()),
                    operator: Operator::In(vec![value.clone()]),
                });
                let pods = Selector::new(labels.collect()).in_namespace(namespace);
                selectors.push(PeerSelector::Labels(self.local(pods)));
            }
            let backends = service.backends.iter();
            selectors.extend(backends.map(|net| PeerSelector::Prefix {
                net: *net,
                except: Vec::new(),
            }));
        }
    }

    fn l7(&self, l7: &L7Text) -> L7Rules {
        match l7 {
            L7Text::Http(rules) => L7Rules::Http(
                rules
                    .iter()
                    .map(|rule| {
                        Arc::new(HttpRule {
                            method: rule.method.clone(),
                            path: rule.path.clone(),
                            host: rule.host.clone(),
                            headers: rule.headers.clone(),
                            origin: self.origin(&rule.place),
                        })
                    })
                    .collect(),
            ),
            L7Text::Dns(rules) => {
                let dns = |rule: &crate::document::DnsRuleText| {
                    Arc::new(DnsRule {
                        patterns: rule.patterns.clone(),
                        origin: self.origin(&rule.place),
                    })
                };
                L7Rules::Dns(rules.iter().map(dns).collect())
            }
            L7Text::Tls(names) => {
                let tls = |name: &crate::document::ServerNameText| {
                    Arc::new(TlsRule {
                        pattern: name.pattern.clone(),
                        origin: self.origin(&name.place),
                    })
                };
                L7Rules::Tls(names.iter().map(tls).collect())
            }
        }
    }
}

fn ports_of(rule: &PortRule) -> Ports {
    if rule.ports.is_empty() {
        return Ports::All;
    }
    let over_udp = matches!(rule.l7, Some(L7Text::Dns(_) | L7Text::Tls(_)));
    Ports::Some(
        rule.ports
            .iter()
            .flat_map(|port| port_matches(port, over_udp))
            .collect(),
    )
}

/// A port for each protocol that it means. DNS and TLS have no SCTP form that is read: such traffic could not be inspected
/// and stays denied.
fn port_matches(port: &Port, over_udp: bool) -> impl Iterator<Item = PortMatch> {
    let ports = match &port.port {
        PortValue::All => PortRange::All,
        PortValue::Numbers(first, last) => PortRange::Numbers(*first, *last),
        PortValue::Name(name) => PortRange::Name(name.clone()),
    };
    let protocols = port
        .protocol
        .numbers()
        .iter()
        .filter(move |p| !(over_udp && **p == PROTOCOL_SCTP));
    protocols.map(move |protocol| PortMatch {
        protocol: *protocol,
        ports: ports.clone(),
    })
}

/// Every prefix for which the ipcache needs an entry so that the rules can tell addresses apart: prefixes and their
/// exceptions, and the two families of the world.
#[must_use]
pub fn prefixes_of(rules: &[Arc<PolicyRule>]) -> Vec<IpNet> {
    let mut prefixes = vec![all_of(false), all_of(true)];
    let parts = rules.iter().flat_map(|r| [&r.ingress, &r.egress]).flatten();
    for rule in parts.flat_map(|part| &part.rules) {
        let Peers::Selected(selectors) = &rule.peers else {
            continue;
        };
        for selector in selectors {
            if let PeerSelector::Prefix { net, except } = selector {
                prefixes.push(*net);
                prefixes.extend(except);
            }
        }
    }
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

/// Every toFQDNs selector: an address that is learned under a name gets the identity of those that match the name.
#[must_use]
pub fn name_selectors_of(rules: &[Arc<PolicyRule>]) -> Vec<NamePattern> {
    let parts = rules.iter().filter_map(|r| r.egress.as_ref());
    let peers = parts.flat_map(|part| &part.rules).map(|rule| &rule.peers);
    let selectors = peers.flat_map(|peers| {
        if let Peers::Selected(selectors) = peers {
            selectors.as_slice()
        } else {
            &[]
        }
    });
    let names = selectors.filter_map(|s| {
        if let PeerSelector::Name(name) = s {
            Some(name.clone())
        } else {
            None
        }
    });
    let mut names: Vec<NamePattern> = names.collect();
    names.sort();
    names.dedup();
    names
}
