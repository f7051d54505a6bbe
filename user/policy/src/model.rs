//! The model: what documents mean, written to be read and checked line by line, not to be fast.
//!
//! It works on the documents themselves and shares nothing with resolver, compiler and tables but the types it reads
//! and the matching of one label requirement and of one name pattern. Tests hold the compiled tables against it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use regex_automata::meta::Regex;
use seventh_abi::Direction;

use crate::compile::{CompileOptions, EndpointFacts, Enforcement};
use crate::document::{
    Authentication, Body, CiliumRule, ClusterPolicy, DnsRuleText, Document, Entity, HttpRuleText, L7Text,
    LabelSelector, NamespacedPods, NetworkPeer, NetworkPolicy, NetworkRule, PeerLists, Port, PortRule, PortValue,
    PrefixRule, PrefixSource, Protocol, RuleDirection, RuleSubject, ServicePeer, TieredPeer, TieredRule,
};
use crate::http::{HttpRequest, Mismatch};
use crate::identity::NamedPorts;
use crate::label::{KEY_CLUSTER, KEY_NAMESPACE, KEY_NAMESPACE_LABELS, Label, Labels};
use crate::name_pattern::NamePattern;
use crate::resolve::Surroundings;
use crate::rule::{Action, Tier};
use crate::selector::{Requirement, SelectorKey};

/// Everything that verdicts depend on besides the question.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The policies and what they refer to.
    pub documents: &'a [Arc<Document>],
    /// What is there besides.
    pub surroundings: &'a Surroundings,
    /// The modes.
    pub options: &'a CompileOptions,
}

/// A new connection (or datagram, or ICMP message) at an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who opens it: [`Direction::Egress`] if the endpoint does.
    pub direction: Direction,
    /// The endpoint whose policy is asked.
    pub endpoint: &'a EndpointFacts,
    /// The other side.
    pub peer: &'a Peer,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; for ICMP, the type.
    pub port: u16,
}

/// The other side of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Something with labels: an endpoint, a node, the host.
    Labelled {
        /// All its labels.
        labels: Labels,
        /// Ports that it declares.
        named_ports: NamedPorts,
    },
    /// An address outside the cluster.
    Outside {
        /// The address.
        address: IpAddr,
        /// Names (in normal form) under which it was learned.
        names: Vec<String>,
    },
}

/// What the policies say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// What is in it decides.
    Inspect(Inspection<'a>),
}

/// How the inside of a connection is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection<'a> {
    /// All L7 rules that cover the connection; they are of one protocol.
    rules: Vec<&'a L7Text>,
    /// A rule without L7 part covers it too, so that nothing inside is refused.
    everything: bool,
}

/// Where peers are looked for that name no namespace.
enum Scope<'a> {
    /// In the policy's own.
    Namespace(&'a str),
    /// In every one.
    Cluster,
    /// Anywhere: the policy governs endpoints that have no namespace yet.
    ClusterAndInit,
}

/// One rule that covers a question.
struct Statement<'a> {
    /// Tier, priority and place in the policy: smaller ones are asked first, equal ones together.
    order: (Tier, u32, usize),
    action: Action,
    l7: Option<&'a L7Text>,
    authentication: bool,
}

impl<'a> Model<'a> {
    /// The answer to a question.
    #[must_use]
    pub fn answer(&self, question: &Question<'_>) -> Answer<'a> {
        if self.options.enforcement == Enforcement::Never {
            return Answer::Allow;
        }
        let mut statements = Vec::new();
        let mut has_policy = false;
        let mut default_deny = false;
        for document in self.documents {
            match &document.body {
                Body::Cilium(rules) => {
                    for rule in rules {
                        if let Some(deny) = self.cilium(document, rule, question, &mut statements) {
                            has_policy = true;
                            default_deny |= deny;
                        }
                    }
                }
                Body::Network(policy) => {
                    if self.network(document, policy, question, &mut statements) {
                        has_policy = true;
                        default_deny = true;
                    }
                }
                Body::Cluster(policy) => has_policy |= self.cluster(policy, question, &mut statements),
                Body::CidrGroup(_) => {}
            }
        }
        if default_deny {
            statements.retain(|s| s.order.0 != Tier::Baseline);
        }
        let denied_by_mode =
            self.options.enforcement == Enforcement::Always || has_reserved(&question.endpoint.labels, "init");
        if !has_policy && !denied_by_mode {
            return Answer::Allow;
        }
        if self.options.allow_localhost
            && question.direction == Direction::Ingress
            && !has_reserved(&question.endpoint.labels, "host")
            && matches!(question.peer, Peer::Labelled { labels, .. } if has_reserved(labels, "host"))
        {
            let order = (Tier::Normal, 0, 0);
            statements.push(Statement {
                order,
                action: Action::Bypass,
                l7: None,
                authentication: false,
            });
        }
        weigh(statements, default_deny || denied_by_mode)
    }

    /// `None` if the rule has nothing to say to the endpoint in this direction, else whether it demands default deny.
    fn cilium(
        &self,
        document: &'a Document,
        rule: &'a CiliumRule,
        question: &Question<'_>,
        statements: &mut Vec<Statement<'a>>,
    ) -> Option<bool> {
        let labels = &question.endpoint.labels;
        let namespace = &*document.origin.namespace;
        let governs = match &rule.subject {
            RuleSubject::Nodes(selector) => has_reserved(labels, "host") && matches(selector, labels),
            RuleSubject::Endpoints(selector) => {
                !has_reserved(labels, "host")
                    && if namespace.is_empty() {
                        matches(selector, labels)
                    } else {
                        // The own namespace is always meant, another one written there does not count.
                        let own = |key: &SelectorKey| key.source == "k8s" && key.key == KEY_NAMESPACE;
                        let rest = selector.labels.iter().filter(|(key, _)| !own(key)).cloned().collect();
                        let rest = LabelSelector {
                            labels: rest,
                            expressions: selector.expressions.clone(),
                        };
                        in_namespace(labels, namespace) && matches(&rest, labels)
                    }
            }
        };
        let scope = match namespace {
            "" if rule.subject.names_init() => Scope::ClusterAndInit,
            "" => Scope::Cluster,
            own => Scope::Namespace(own),
        };
        let (allow, deny, default_deny) = match question.direction {
            Direction::Ingress => (&rule.ingress, &rule.ingress_deny, rule.default_deny_ingress),
            Direction::Egress => (&rule.egress, &rule.egress_deny, rule.default_deny_egress),
        };
        if !governs || (allow.is_empty() && deny.is_empty()) {
            return None;
        }
        for (items, action) in [(allow, Action::Allow), (deny, Action::Deny)] {
            for item in items
                .iter()
                .filter(|item| self.peer_is_meant(&scope, &item.peers, question.peer))
            {
                let authentication = matches!(
                    item.authentication,
                    Some(Authentication::Required | Authentication::TestAlwaysFail)
                );
                let order = (Tier::Normal, 0, 0);
                for l7 in covering_parts(item, question) {
                    statements.push(Statement {
                        order,
                        action,
                        l7,
                        authentication,
                    });
                }
            }
        }
        Some(default_deny.unwrap_or(true))
    }

    /// Whether any list of peers means the other side; everybody is meant if there is no list at all.
    fn peer_is_meant(&self, scope: &Scope<'_>, lists: &PeerLists, peer: &Peer) -> bool {
        let PeerLists {
            endpoints,
            prefixes,
            prefix_sets,
            entities,
            nodes,
            services,
            names,
        } = lists;
        let absent = endpoints.is_none()
            && prefixes.is_none()
            && prefix_sets.is_none()
            && entities.is_none()
            && nodes.is_none()
            && services.is_none()
            && names.is_none();
        // One of these that is present and empty means nobody, whatever else is listed.
        let nobody = [
            endpoints.as_ref().map(Vec::len),
            nodes.as_ref().map(Vec::len),
            entities.as_ref().map(Vec::len),
        ]
        .contains(&Some(0))
            || [prefixes.as_ref().map(Vec::len), prefix_sets.as_ref().map(Vec::len)].contains(&Some(0));
        absent
            || !nobody
                && (endpoints
                    .iter()
                    .flatten()
                    .any(|selector| self.endpoint_is_meant(scope, selector, peer))
                    || prefixes.iter().flatten().any(|net| lies_in(peer, net, &[]))
                    || prefix_sets
                        .iter()
                        .flatten()
                        .any(|rule| self.prefix_rule_means(rule, peer))
                    || entities
                        .iter()
                        .flatten()
                        .any(|entity| self.entity_is_meant(*entity, peer))
                    || nodes
                        .iter()
                        .flatten()
                        .any(|selector| self.node_is_meant(selector, peer))
                    || services
                        .iter()
                        .flatten()
                        .any(|service| self.service_is_meant(service, peer))
                    || names.iter().flatten().any(|pattern| is_named(peer, pattern)))
    }

    fn endpoint_is_meant(&self, scope: &Scope<'_>, selector: &LabelSelector, peer: &Peer) -> bool {
        let labels = labels_of(peer);
        if !matches(selector, &labels) {
            return false;
        }
        let keys = selector
            .labels
            .iter()
            .map(|(key, _)| key)
            .chain(selector.expressions.iter().map(|r| &r.key));
        let keys: Vec<&SelectorKey> = keys.collect();
        if keys.iter().any(|key| key.source == "reserved") {
            return true;
        }
        let names = |wanted: &dyn Fn(&str) -> bool| {
            keys.iter()
                .any(|key| (key.source == "k8s" || key.source == "any") && wanted(&key.key))
        };
        let by_name = names(&|key| key == KEY_NAMESPACE);
        let by_label = names(&|key| key.starts_with(KEY_NAMESPACE_LABELS));
        let namespace_fits = match scope {
            Scope::Namespace(own) => by_name || by_label || in_namespace(&labels, own),
            Scope::Cluster => by_name || has_namespace(&labels),
            Scope::ClusterAndInit => true,
        };
        namespace_fits && self.cluster_fits(selector, &labels)
    }

    fn node_is_meant(&self, selector: &LabelSelector, peer: &Peer) -> bool {
        let labels = labels_of(peer);
        has_reserved(&labels, "remote-node") && matches(selector, &labels) && self.cluster_fits(selector, &labels)
    }

    /// A selector that names no cluster means the local one, if that has a name.
    fn cluster_fits(&self, selector: &LabelSelector, labels: &Labels) -> bool {
        let names_cluster = selector.labels.iter().any(|(key, _)| key.key == KEY_CLUSTER)
            || selector.expressions.iter().any(|r| r.key.key == KEY_CLUSTER);
        match &self.surroundings.cluster {
            Some(cluster) if !names_cluster => labels.iter().any(|l| *l == Label::new("k8s", KEY_CLUSTER, cluster)),
            _ => true,
        }
    }

    fn prefix_rule_means(&self, rule: &PrefixRule, peer: &Peer) -> bool {
        let in_group = |document: &Document| match &document.body {
            Body::CidrGroup(group) => group.prefixes.iter().any(|net| lies_in(peer, net, &rule.except)),
            _ => false,
        };
        match &rule.source {
            PrefixSource::Prefix(net) => lies_in(peer, net, &rule.except),
            PrefixSource::Group(name) => self.documents.iter().any(|d| *d.origin.name == **name && in_group(d)),
            PrefixSource::Groups(selector) => self
                .documents
                .iter()
                .any(|d| matches(selector, &d.labels) && in_group(d)),
        }
    }

    fn entity_is_meant(&self, entity: Entity, peer: &Peer) -> bool {
        let labels = labels_of(peer);
        let is = |name: &str| has_reserved(&labels, name);
        let pod = || {
            !labels.as_slice().is_empty()
                && labels
                    .iter()
                    .all(|l| !["reserved", "cidr", "fqdn"].contains(&l.source.as_str()))
        };
        let node_or_part_of_one = || {
            [
                "host",
                "remote-node",
                "init",
                "ingress",
                "health",
                "unmanaged",
                "kube-apiserver",
            ]
            .iter()
            .any(|n| is(n))
        };
        let of_cluster = |cluster: &Option<String>| {
            let own = labels
                .iter()
                .filter(|l| l.source == "k8s" && l.key == KEY_CLUSTER)
                .map(|l| &l.value);
            let own: Vec<&String> = own.collect();
            cluster.is_none() || own.is_empty() || own.contains(&cluster.as_ref().unwrap_or(&String::new()))
        };
        match entity {
            Entity::All => true,
            Entity::None => false,
            Entity::World => is("world") || is("world-ipv4") || is("world-ipv6"),
            Entity::WorldIpv4 => is("world-ipv4"),
            Entity::WorldIpv6 => is("world-ipv6"),
            Entity::Cluster => node_or_part_of_one() || (pod() && of_cluster(&self.surroundings.cluster)),
            Entity::ClusterMesh => node_or_part_of_one() || pod(),
            Entity::Host => is("host"),
            Entity::Init => is("init"),
            Entity::Ingress => is("ingress"),
            Entity::Unmanaged => is("unmanaged"),
            Entity::RemoteNode => is("remote-node"),
            Entity::Health => is("health"),
            Entity::KubeApiserver => is("kube-apiserver"),
        }
    }

    fn service_is_meant(&self, wanted: &ServicePeer, peer: &Peer) -> bool {
        let labels = labels_of(peer);
        self.surroundings
            .services
            .0
            .iter()
            .any(|((service_namespace, service_name), service)| {
                let (wanted_namespace, named) = match wanted {
                    ServicePeer::Name { namespace, name } => (namespace, name == service_name),
                    ServicePeer::Selector { namespace, selector } => (
                        namespace,
                        service.labels.as_ref().is_some_and(|labels| matches(selector, labels)),
                    ),
                };
                let here = named && wanted_namespace.as_ref().is_none_or(|n| n == service_namespace);
                let cluster = self.surroundings.cluster.as_ref();
                let local = cluster.is_none_or(|c| labels.iter().any(|l| *l == Label::new("k8s", KEY_CLUSTER, c)));
                let behind = service.selector.as_ref().is_some_and(|pods| {
                    local
                        && in_namespace(&labels, service_namespace)
                        && pods
                            .iter()
                            .all(|(key, value)| labels.iter().any(|l| *l == Label::new("k8s", key, value)))
                });
                here && (behind || service.backends.iter().any(|net| lies_in(peer, net, &[])))
            })
    }

    /// Whether the policy governs the endpoint in this direction.
    fn network(
        &self,
        document: &'a Document,
        policy: &'a NetworkPolicy,
        question: &Question<'_>,
        statements: &mut Vec<Statement<'a>>,
    ) -> bool {
        let labels = &question.endpoint.labels;
        let namespace = &*document.origin.namespace;
        let governs =
            !has_reserved(labels, "host") && in_namespace(labels, namespace) && matches(&policy.subject, labels);
        let rules = match question.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let Some(rules) = rules.as_ref().filter(|_| governs) else {
            return false;
        };
        for NetworkRule { peers, ports, .. } in rules {
            let means = |peer: &NetworkPeer| match peer {
                NetworkPeer::Pods(pods) => {
                    pods_are_meant(namespace, pods, &labels_of(question.peer))
                        && self.cluster_fits(&LabelSelector::default(), &labels_of(question.peer))
                }
                NetworkPeer::Block { net, except } => lies_in(question.peer, net, except),
            };
            let peer_fits = peers.is_empty() || peers.iter().any(means);
            let port_fits = ports.is_empty() || ports.iter().any(|port| port_covers(port, question, false));
            if peer_fits && port_fits {
                let order = (Tier::Normal, 0, 0);
                statements.push(Statement {
                    order,
                    action: Action::Allow,
                    l7: None,
                    authentication: false,
                });
            }
        }
        true
    }

    /// Whether the policy governs the endpoint in this direction.
    fn cluster(&self, policy: &'a ClusterPolicy, question: &Question<'_>, statements: &mut Vec<Statement<'a>>) -> bool {
        let labels = &question.endpoint.labels;
        let rules = match question.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        if has_reserved(labels, "host") || !pods_are_meant("", &policy.subject, labels) || rules.is_empty() {
            return false;
        }
        for (
            place,
            TieredRule {
                action, peers, ports, ..
            },
        ) in rules.iter().enumerate()
        {
            let means = |peer: &TieredPeer| match peer {
                TieredPeer::Pods(pods) => {
                    let labels = labels_of(question.peer);
                    // `namespaces` means those of every cluster, `pods` the local cluster's.
                    let here = pods.pods.is_none() || self.cluster_fits(&LabelSelector::default(), &labels);
                    here && pods_are_meant("", pods, &labels)
                }
                TieredPeer::Nodes(selector) => self.node_is_meant(selector, question.peer),
                TieredPeer::Networks(nets) => nets.iter().any(|net| lies_in(question.peer, net, &[])),
                TieredPeer::Names(names) => names.iter().any(|name| is_named(question.peer, name)),
            };
            let port_fits = ports
                .as_ref()
                .is_none_or(|ports| ports.iter().any(|p| port_covers(p, question, false)));
            if port_fits && peers.iter().any(means) {
                let order = (policy.tier, policy.priority, place);
                statements.push(Statement {
                    order,
                    action: *action,
                    l7: None,
                    authentication: false,
                });
            }
        }
        true
    }
}

fn pods_are_meant(namespace: &str, pods: &NamespacedPods, labels: &Labels) -> bool {
    let namespace_fits = match &pods.namespaces {
        None => in_namespace(labels, namespace),
        Some(selector) => {
            let lent = |key: &SelectorKey| SelectorKey::new("k8s", format!("{KEY_NAMESPACE_LABELS}{}", key.key));
            let lent_labels = selector
                .labels
                .iter()
                .map(|(key, value)| (lent(key), value.clone()))
                .collect();
            let lent_expressions = selector
                .expressions
                .iter()
                .map(|r| Requirement {
                    key: lent(&r.key),
                    operator: r.operator.clone(),
                })
                .collect();
            let selector = LabelSelector {
                labels: lent_labels,
                expressions: lent_expressions,
            };
            has_namespace(labels) && matches(&selector, labels)
        }
    };
    namespace_fits && pods.pods.as_ref().is_none_or(|selector| matches(selector, labels))
}

/// The parts of a rule that cover the question's protocol and port, with their L7 rules.
fn covering_parts<'a>(item: &'a RuleDirection, question: &Question<'_>) -> Vec<Option<&'a L7Text>> {
    if let Some(icmps) = &item.icmps {
        let covers = icmps
            .iter()
            .any(|m| m.protocol == question.protocol && u16::from(m.kind) == question.port);
        return if covers { vec![None] } else { Vec::new() };
    }
    match item.ports.as_deref() {
        // A rule that says nothing at all (`{}`) allows nothing; one with peers alone means every port.
        None | Some([]) => {
            if item.peers.is_absent() {
                Vec::new()
            } else {
                vec![None]
            }
        }
        Some(parts) => parts
            .iter()
            .filter(|PortRule { ports, l7, .. }| {
                let over_udp = matches!(l7, Some(L7Text::Dns(_) | L7Text::Tls(_)));
                ports.is_empty() || ports.iter().any(|port| port_covers(port, question, over_udp))
            })
            .map(|part| part.l7.as_ref())
            .collect(),
    }
}

fn port_covers(port: &Port, question: &Question<'_>, over_udp: bool) -> bool {
    let protocol = question.protocol;
    let protocol_fits = match port.protocol {
        Protocol::Any => protocol == 6 || protocol == 17 || (protocol == 132 && !over_udp),
        other => other.numbers() == [protocol],
    };
    let declared = match (question.direction, question.peer) {
        (Direction::Ingress, _) => Some(&question.endpoint.named_ports),
        (Direction::Egress, Peer::Labelled { named_ports, .. }) => Some(named_ports),
        (Direction::Egress, Peer::Outside { .. }) => None,
    };
    protocol_fits
        && match &port.port {
            PortValue::All => true,
            PortValue::Numbers(first, last) => (*first..=*last).contains(&question.port),
            PortValue::Name(name) => declared.is_some_and(|d| d.resolve(name, protocol).any(|p| p == question.port)),
        }
}

/// Weighs the statements that cover a question. The rules of precedence:
/// 1. tiers in their order, and inside a tier the smaller order first;
/// 2. among equals deny, then pass (the rest of the tier is skipped), then bypass (no look inside), then allow;
/// 3. in the end default deny, or allow where only policies without it apply. In the latter case L7 rules refuse nothing.
fn weigh<'a>(mut statements: Vec<Statement<'a>>, default_deny: bool) -> Answer<'a> {
    statements.sort_by_key(|s| s.order);
    while let Some(first) = statements.first() {
        let order = first.order;
        let equals: Vec<&Statement<'_>> = statements.iter().filter(|s| s.order == order).collect();
        if equals.iter().any(|s| s.action == Action::Deny) {
            return Answer::Deny;
        }
        if equals.iter().any(|s| s.action == Action::Pass) {
            statements.retain(|s| s.order.0 != order.0);
            continue;
        }
        if equals.iter().any(|s| s.action == Action::Bypass) {
            return Answer::Allow;
        }
        if equals.iter().any(|s| s.authentication) {
            return Answer::Deny;
        }
        let rules: Vec<&'a L7Text> = equals.iter().filter_map(|s| s.l7).collect();
        let Some(kind) = rules.first().map(|rule| std::mem::discriminant(*rule)) else {
            return Answer::Allow;
        };
        if rules.iter().any(|rule| std::mem::discriminant(*rule) != kind) {
            return Answer::Deny;
        }
        let everything = !default_deny || equals.iter().any(|s| s.l7.is_none());
        return Answer::Inspect(Inspection { rules, everything });
    }
    if default_deny { Answer::Deny } else { Answer::Allow }
}

impl Inspection<'_> {
    /// Whether an HTTP request passes; `None` if the rules are not about HTTP.
    #[must_use]
    pub fn http(&self, request: &HttpRequest<'_>) -> Option<bool> {
        let rules = self.rules.iter().map(|rule| {
            if let L7Text::Http(rules) = rule {
                Some(rules)
            } else {
                None
            }
        });
        let rules: Vec<&Vec<HttpRuleText>> = rules.collect::<Option<_>>()?;
        Some(self.everything || rules.into_iter().flatten().any(|rule| http_rule_matches(rule, request)))
    }

    /// Whether a query for a name (in normal form) passes; `None` if the rules are not about DNS.
    #[must_use]
    pub fn dns(&self, name: &str) -> Option<bool> {
        let rules = self.rules.iter().map(|rule| {
            if let L7Text::Dns(rules) = rule {
                Some(rules)
            } else {
                None
            }
        });
        let rules: Vec<&Vec<DnsRuleText>> = rules.collect::<Option<_>>()?;
        let patterns = rules.into_iter().flatten().flat_map(|rule| &rule.patterns);
        Some(self.everything || patterns.into_iter().any(|p| p.is_everything() || p.matches(name)))
    }

    /// Whether a ClientHello with this server name passes; `None` if the rules are not about TLS.
    #[must_use]
    pub fn tls(&self, server_name: Option<&str>) -> Option<bool> {
        let rules = self.rules.iter().map(|rule| {
            if let L7Text::Tls(rules) = rule {
                Some(rules)
            } else {
                None
            }
        });
        let rules: Vec<_> = rules.collect::<Option<_>>()?;
        let mut patterns = rules.into_iter().flatten().map(|name| &name.pattern);
        Some(self.everything || server_name.is_some_and(|name| patterns.any(|p| p.matches(name))))
    }
}

/// Everything that is set must match.
fn http_rule_matches(rule: &HttpRuleText, request: &HttpRequest<'_>) -> bool {
    let whole = |pattern: &Option<String>, text: &str| match pattern {
        None => true,
        Some(pattern) => {
            text.is_ascii() && Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(text))
        }
    };
    whole(&rule.method, request.method)
        // What has no path, as CONNECT, fits no pattern for one.
        && (rule.path.is_none() || !request.path.is_empty())
        && whole(&rule.path, request.path)
        && whole(&rule.host, request.host)
        && rule
            .headers
            .iter()
            .filter(|h| h.mismatch == Mismatch::Fail)
            .all(|wanted| {
                let values: Vec<&str> = request
                    .headers
                    .iter()
                    .filter(|(name, _)| name.to_ascii_lowercase() == wanted.name)
                    .map(|(_, value)| *value)
                    .collect();
                !values.is_empty() && wanted.value.as_ref().is_none_or(|value| *value == values.join(","))
            })
}

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let LabelSelector {
        labels: wanted,
        expressions,
    } = selector;
    wanted
        .iter()
        .all(|(key, value)| labels.values(&key.source, &key.key).any(|v| v == value))
        && expressions.iter().all(|requirement| requirement.matches(labels))
}

fn has_reserved(labels: &Labels, name: &str) -> bool {
    labels.iter().any(|l| l.source == "reserved" && l.key == name)
}

fn has_namespace(labels: &Labels) -> bool {
    labels.iter().any(|l| l.source == "k8s" && l.key == KEY_NAMESPACE)
}

fn in_namespace(labels: &Labels, namespace: &str) -> bool {
    labels.iter().any(|l| *l == Label::new("k8s", KEY_NAMESPACE, namespace))
}

/// The labels of the other side; an address outside has those of the world.
fn labels_of(peer: &Peer) -> Labels {
    match peer {
        Peer::Labelled { labels, .. } => labels.clone(),
        Peer::Outside { address, .. } => {
            let family = if address.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
            Labels::new(vec![Label::reserved("world"), Label::reserved(family)])
        }
    }
}

fn lies_in(peer: &Peer, net: &IpNet, except: &[IpNet]) -> bool {
    match peer {
        Peer::Outside { address, .. } => net.contains(address) && !except.iter().any(|e| e.contains(address)),
        Peer::Labelled { .. } => false,
    }
}

fn is_named(peer: &Peer, pattern: &NamePattern) -> bool {
    match peer {
        Peer::Outside { names, .. } => names.iter().any(|name| pattern.matches(name)),
        Peer::Labelled { .. } => false,
    }
}
