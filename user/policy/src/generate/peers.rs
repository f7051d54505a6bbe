//! Who is who among the observed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use seventh_abi::Direction;

use super::{Observation, ObservedPeer, output::Selector, written};
use crate::label::{KEY_NAMESPACE, Label, Labels};
use crate::name_pattern::NamePattern;

/// Labels that follow from others, or from the namespace.
const DERIVED: &[&str] = &["io.cilium.k8s.", "io.kubernetes.pod.name"];
/// Reserved labels by which rules name somebody, the narrowest first.
const ENTITIES: &[&str] = &[
    "kube-apiserver",
    "host",
    "health",
    "ingress",
    "init",
    "remote-node",
    "unmanaged",
];

/// The labels by which a rule selects.
pub(super) fn selectable(labels: &Labels) -> Labels {
    let derived =
        |label: &Label| label.key != KEY_NAMESPACE && DERIVED.iter().any(|prefix| label.key.starts_with(prefix));
    Labels::new(labels.iter().filter(|label| !derived(label)).cloned())
}

/// A peer that rules tell apart from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerKey {
    Endpoint(Labels),
    Entity(&'static str),
    /// Addresses that are known by these names, or by others that share an address with them.
    Names(BTreeSet<String>),
    Prefix(IpNet),
}

/// All sets of labels that were seen: a selector must not catch one that it does not mean.
pub(super) struct KnownLabels(BTreeSet<Labels>);

impl KnownLabels {
    pub(super) fn of(observations: &HashSet<Observation>) -> Self {
        let sides = observations.iter().flat_map(|observation| {
            let peer = match &observation.peer {
                ObservedPeer::Labelled(labels) => Some(labels),
                ObservedPeer::Outside { .. } => None,
            };
            peer.into_iter().chain([&observation.subject])
        });
        Self(sides.map(selectable).collect())
    }

    /// Selects those labels, and none of the other sets that have them all and more.
    pub(super) fn selector(&self, labels: &Labels, with_namespace: bool) -> Selector {
        let own: BTreeSet<&Label> = labels.iter().collect();
        let more = self.0.iter().filter(|other| {
            let other: BTreeSet<&Label> = other.iter().collect();
            other.len() > own.len() && own.is_subset(&other)
        });
        // A set of labels has a key but once, so another set that has all of these has a key that is not here.
        let excluded = more.filter_map(|other| other.iter().find(|label| !labels.has(&label.source, &label.key)));
        let excluded: BTreeSet<String> = excluded.map(|label| written(label).0).collect();
        let wanted = labels
            .iter()
            .filter(|label| with_namespace || label.key != KEY_NAMESPACE);
        Selector::new(wanted.map(written).collect(), excluded)
    }
}

/// Names that share addresses, per endpoint.
pub(super) struct Names(BTreeMap<(Labels, IpAddr), BTreeSet<String>>);

impl Names {
    pub(super) fn of(observations: &HashSet<Observation>) -> Self {
        let mut of_address: BTreeMap<(Labels, IpAddr), BTreeSet<String>> = BTreeMap::new();
        for observation in observations {
            let ObservedPeer::Outside { address, names } = &observation.peer else {
                continue;
            };
            if observation.direction == Direction::Egress {
                let normal = names.iter().filter_map(|name| NamePattern::name(name).ok());
                let entry = of_address
                    .entry((selectable(&observation.subject), *address))
                    .or_default();
                entry.extend(normal.map(|name| name.as_str().to_owned()));
            }
        }
        let mut names = Self(of_address);
        names.join();
        names
    }

    /// Addresses that have a name in common have all their names in common, or two rules would cover one connection.
    fn join(&mut self) {
        let mut groups: BTreeMap<&Labels, Vec<BTreeSet<String>>> = BTreeMap::new();
        for ((subject, _), names) in self.0.iter().filter(|(_, names)| !names.is_empty()) {
            let groups = groups.entry(subject).or_default();
            let (touching, apart): (Vec<_>, Vec<_>) = std::mem::take(groups)
                .into_iter()
                .partition(|group| !group.is_disjoint(names));
            *groups = apart;
            groups.push(touching.into_iter().flatten().chain(names.iter().cloned()).collect());
        }
        let joined: Vec<((Labels, IpAddr), BTreeSet<String>)> = self
            .0
            .iter()
            .filter_map(|((subject, address), names)| {
                let group = groups.get(subject)?.iter().find(|group| !group.is_disjoint(names))?;
                Some(((subject.clone(), *address), group.clone()))
            })
            .collect();
        self.0.extend(joined);
    }

    /// The peer of an observation, or `None` if no rule can name it.
    pub(super) fn key(&self, observation: &Observation, notes: &mut BTreeSet<String>) -> Option<PeerKey> {
        let labels = match &observation.peer {
            ObservedPeer::Outside { address, .. } => {
                let names = self.0.get(&(selectable(&observation.subject), *address));
                let named = names.filter(|names| observation.direction == Direction::Egress && !names.is_empty());
                return Some(match named {
                    Some(names) => PeerKey::Names(names.clone()),
                    None => PeerKey::Prefix(IpNet::from(*address)),
                });
            }
            ObservedPeer::Labelled(labels) => labels,
        };
        let entity = ENTITIES.iter().find(|entity| labels.has("reserved", entity));
        if let Some(entity) = entity {
            return Some(PeerKey::Entity(entity));
        }
        let labels = selectable(labels);
        if super::namespace(&labels).is_none() {
            notes.insert(format!("{labels}: no rule can name it; its traffic is not allowed"));
            return None;
        }
        Some(PeerKey::Endpoint(labels))
    }
}
