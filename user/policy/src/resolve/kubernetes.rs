//! NetworkPolicy and ClusterNetworkPolicy to plain rules.

use super::{Resolver, port_matches};
use crate::document::{
    ClusterPolicy, LabelSelector, NamespacedPods, NetworkPeer, NetworkPolicy, NetworkRule, Port, TieredPeer, TieredRule,
};
use crate::label::{KEY_NAMESPACE_LABELS, SOURCE_K8S};
use crate::rule::{Action, DirectionRules, PeerSelector, Peers, PolicyRule, Ports, Precedence, Rule, Subject, Tier};
use crate::selector::{Requirement, Selector, SelectorKey};

impl Resolver<'_> {
    pub(super) fn network_policy(&mut self, policy: &NetworkPolicy) -> PolicyRule {
        let own = self.namespace().unwrap_or_default();
        let subject = Subject::Endpoints(policy.subject.selector().in_namespace(own));
        let direction = |rules: &Vec<NetworkRule>| DirectionRules {
            default_deny: true,
            rules: rules.iter().map(|rule| self.network_rule(rule)).collect(),
        };
        let ingress = policy.ingress.as_ref().map(direction);
        let egress = policy.egress.as_ref().map(direction);
        PolicyRule {
            origin: self.origin(&policy.place),
            subject,
            ingress,
            egress,
        }
    }

    fn network_rule(&self, rule: &NetworkRule) -> Rule {
        let peer = |peer: &NetworkPeer| match peer {
            NetworkPeer::Pods(pods) => PeerSelector::Labels(self.local(self.pods(pods))),
            NetworkPeer::Block { net, except } => PeerSelector::Prefix {
                net: *net,
                except: except.clone(),
            },
        };
        let peers = match rule.peers.as_slice() {
            [] => Peers::Any,
            some => Peers::Selected(some.iter().map(peer).collect()),
        };
        Rule {
            origin: self.origin(&rule.place),
            precedence: Precedence::of_tier(Tier::Normal),
            action: Action::Allow,
            peers,
            ports: if rule.ports.is_empty() {
                Ports::All
            } else {
                some_ports(&rule.ports)
            },
            l7: None,
            authentication_required: false,
        }
    }

    pub(super) fn cluster_policy(&mut self, policy: &ClusterPolicy) -> PolicyRule {
        // Pods only, never the node.
        let subject = Subject::Endpoints(self.pods(&policy.subject));
        let ingress = self.tiered(policy, &policy.ingress);
        let egress = self.tiered(policy, &policy.egress);
        for rule in &policy.egress {
            if rule.peers.iter().any(|peer| matches!(peer, TieredPeer::Nodes(_))) {
                self.warn_of_nodes(&rule.place);
            }
        }
        PolicyRule {
            origin: self.origin(&policy.place),
            subject,
            ingress,
            egress,
        }
    }

    fn tiered(&self, policy: &ClusterPolicy, rules: &[TieredRule]) -> Option<DirectionRules> {
        if rules.is_empty() {
            return None;
        }
        let rule = |(place, rule): (u32, &TieredRule)| Rule {
            origin: self.origin(&rule.place),
            precedence: Precedence {
                tier: policy.tier,
                priority: policy.priority,
                rule: place,
            },
            action: rule.action,
            peers: Peers::Selected(rule.peers.iter().flat_map(|peer| self.tiered_peer(peer)).collect()),
            ports: rule.ports.as_deref().map_or(Ports::All, some_ports),
            l7: None,
            authentication_required: false,
        };
        Some(DirectionRules {
            default_deny: false,
            rules: (0..).zip(rules).map(rule).collect(),
        })
    }

    fn tiered_peer(&self, peer: &TieredPeer) -> Vec<PeerSelector> {
        match peer {
            // `namespaces` means those of every cluster, `pods` the local cluster's.
            TieredPeer::Pods(pods) if pods.pods.is_none() => vec![PeerSelector::Labels(self.pods(pods))],
            TieredPeer::Pods(pods) => vec![PeerSelector::Labels(self.local(self.pods(pods)))],
            TieredPeer::Nodes(nodes) => vec![PeerSelector::Labels(self.node(nodes))],
            TieredPeer::Networks(nets) => nets
                .iter()
                .map(|net| PeerSelector::Prefix {
                    net: *net,
                    except: Vec::new(),
                })
                .collect(),
            TieredPeer::Names(names) => names.iter().cloned().map(PeerSelector::Name).collect(),
        }
    }

    /// Pods of the namespaces with these labels (or of the policy's own), with these labels of their own.
    fn pods(&self, pods: &NamespacedPods) -> Selector {
        let own = pods
            .pods
            .as_ref()
            .map_or_else(Selector::default, LabelSelector::selector);
        match &pods.namespaces {
            None => own.in_namespace(self.namespace().unwrap_or_default()),
            Some(namespaces) => namespaces
                .selector()
                .requirements()
                .iter()
                .fold(own.in_any_namespace(), |selector, r| selector.and(of_namespace(r))),
        }
    }
}

/// A demand on a namespace's label as one on the label that it lends its pods.
fn of_namespace(requirement: &Requirement) -> Requirement {
    let key = format!("{KEY_NAMESPACE_LABELS}{}", requirement.key.key);
    Requirement {
        key: SelectorKey::new(SOURCE_K8S, key),
        operator: requirement.operator.clone(),
    }
}

fn some_ports(ports: &[Port]) -> Ports {
    Ports::Some(ports.iter().flat_map(|port| port_matches(port, false)).collect())
}
