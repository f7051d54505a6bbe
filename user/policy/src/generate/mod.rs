//! Least privilege from what was seen: observed traffic to policies that allow it and nothing else.
//!
//! ```text
//! Observation ─► per endpoint, direction, peer and port: what was inside ─► rules ─► CiliumNetworkPolicy
//! ```
//!
//! Four things are seen as one, because no policy could tell them apart or nobody would want it to: endpoints with the same
//! labels; addresses that were known by a common name; paths that differ in numbers (see [`Options::siblings_max`]); and
//! all query strings of a path that was seen with one. Everything else that was not seen is not allowed.

mod output;
mod paths;
mod peers;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use seventh_abi::Direction;

use crate::label::{KEY_NAMESPACE, Label, Labels};
use crate::name_pattern::{NamePattern, ServerNamePattern};
pub use output::GeneratedPolicy;
use output::{Builder, PortRule};
use paths::Paths;
use peers::{KnownLabels, Names, PeerKey};

/// Different observations at most: what does not fit into memory is not a policy that anybody could read.
pub const OBSERVATIONS_MAX: usize = 1 << 20;

/// A connection, or something inside one, that was seen at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// Who opened it: [`Direction::Egress`] if the endpoint did.
    pub direction: Direction,
    /// All labels of the endpoint, that of its namespace among them.
    pub subject: Labels,
    /// The other side.
    pub peer: ObservedPeer,
    /// Where it went.
    pub l4: ObservedL4,
    /// What was inside; `None` if it is the connection itself.
    pub l7: Option<ObservedL7>,
}

/// The other side of something observed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObservedPeer {
    /// Something with labels: an endpoint, or one with reserved labels such as the host.
    Labelled(Labels),
    /// An address outside the cluster and the names under which it was known then.
    Outside {
        /// The address.
        address: IpAddr,
        /// Its names; of use in egress only.
        names: Vec<String>,
    },
}

/// Protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObservedL4 {
    /// A protocol with ports, by its number: TCP 6, UDP 17, SCTP 132.
    Port {
        /// IP protocol number.
        protocol: u8,
        /// Destination port.
        port: u16,
    },
    /// An ICMP message.
    Icmp {
        /// `ICMPv6`.
        v6: bool,
        /// Its type.
        kind: u8,
    },
}

/// What was inside a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObservedL7 {
    /// A request.
    Http {
        /// Its method.
        method: String,
        /// Its normalised path, with its query.
        path: String,
    },
    /// A query.
    Dns {
        /// The name that was asked for.
        name: String,
    },
    /// A `ClientHello`; `None`: without a server name.
    Tls {
        /// The name.
        server_name: Option<String>,
    },
}

/// What becomes of the choices that observations leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Segments of a path that stand side by side, beyond which they are taken for a parameter. Numbers, UUIDs and long
    /// hexadecimal texts always are.
    pub siblings_max: usize,
    /// A direction in which nothing was seen is left open.
    pub leave_unseen_open: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            siblings_max: 10,
            leave_unseen_open: false,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// One policy per set of labels.
    pub policies: Vec<GeneratedPolicy>,
    /// What no policy can say and is therefore not allowed, or is allowed without its inside.
    pub notes: BTreeSet<String>,
}

/// Something observed cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// See [`OBSERVATIONS_MAX`].
    #[error("more than {OBSERVATIONS_MAX} different observations; narrow them with filters")]
    TooMany,
}

/// What was seen at one port of one peer.
#[derive(Clone, Debug, Default)]
struct Inside {
    http: BTreeMap<String, Paths>,
    dns: BTreeSet<String>,
    server_names: BTreeSet<String>,
    /// Why no rule can be about it.
    unnameable: Option<&'static str>,
}

/// What was seen at one endpoint in one direction.
type Seen = BTreeMap<PeerKey, BTreeMap<ObservedL4, Inside>>;

/// Policies that allow what was observed and nothing else.
///
/// # Errors
/// Too much to make a policy of.
pub fn generate(
    observations: impl IntoIterator<Item = Observation>,
    options: Options,
) -> Result<Outcome, GenerateError> {
    let mut distinct = HashSet::new();
    for observation in observations {
        distinct.insert(observation);
        if distinct.len() > OBSERVATIONS_MAX {
            return Err(GenerateError::TooMany);
        }
    }
    let known = KnownLabels::of(&distinct);
    let names = Names::of(&distinct);
    let mut outcome = Outcome::default();
    let mut subjects: BTreeMap<Labels, [Option<Seen>; 2]> = BTreeMap::new();
    for observation in &distinct {
        let subject = peers::selectable(&observation.subject);
        if namespace(&subject).is_none() {
            outcome
                .notes
                .insert(format!("{subject}: no endpoint of a namespace; passed over"));
            continue;
        }
        let Some(peer) = names.key(observation, &mut outcome.notes) else {
            continue;
        };
        let [ingress, egress] = subjects.entry(subject).or_default();
        let seen = match observation.direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        };
        let inside = seen.get_or_insert_default().entry(peer).or_default();
        inside
            .entry(observation.l4)
            .or_default()
            .add(observation, &mut outcome.notes);
    }
    let mut builder = Builder::new(&known, options);
    for (subject, [ingress, egress]) in subjects {
        let policy = builder.policy(&subject, ingress, egress, &mut outcome.notes);
        outcome.policies.push(policy);
    }
    Ok(outcome)
}

/// The namespace that labels name.
fn namespace(labels: &Labels) -> Option<&str> {
    labels
        .values("k8s", KEY_NAMESPACE)
        .next()
        .filter(|name| !name.is_empty())
}

impl Inside {
    fn add(&mut self, observation: &Observation, notes: &mut BTreeSet<String>) {
        match &observation.l7 {
            None => {}
            Some(ObservedL7::Http { method, path }) => {
                if !Paths::takes(method, path) {
                    notes.insert("requests whose method or path no rule can name are not allowed".to_owned());
                    return;
                }
                self.http.entry(method.clone()).or_default().insert(path);
            }
            Some(ObservedL7::Dns { .. }) if observation.direction == Direction::Ingress => {
                self.unnameable = Some("DNS rules are not allowed on ingress");
            }
            Some(ObservedL7::Dns { name }) => match NamePattern::name(name) {
                Ok(name) => {
                    self.dns.insert(name.as_str().to_owned());
                }
                Err(e) => {
                    notes.insert(format!("a query that no rule can name is not allowed: it {e}"));
                }
            },
            Some(ObservedL7::Tls { server_name }) => match server_name.as_deref().map(server_name_of) {
                Some(Ok(name)) => {
                    self.server_names.insert(name);
                }
                Some(Err(_)) => self.unnameable = Some("a server name that no rule can name"),
                None => self.unnameable = Some("a hello without a server name"),
            },
        }
    }

    /// The rule about the inside, or none if there is nothing that one rule could say.
    fn rule(self, at: ObservedL4, place: &str, options: Options, notes: &mut BTreeSet<String>) -> PortRule {
        let kinds = [
            !self.http.is_empty(),
            !self.dns.is_empty(),
            !self.server_names.is_empty(),
        ];
        let kinds = kinds.into_iter().filter(|there| *there).count();
        let mut rule = PortRule::new(at);
        let mixed = (kinds > 1).then_some("more than one protocol");
        if let Some(why) = self.unnameable.or(mixed) {
            notes.insert(format!("{place}: {why}; allowed without looking inside"));
            return rule;
        }
        for (method, mut paths) in self.http {
            paths.fold(options.siblings_max);
            for path in paths.patterns() {
                rule.http(&method, path);
            }
        }
        rule.dns(self.dns);
        rule.server_names(self.server_names);
        rule
    }
}

fn server_name_of(name: &str) -> Result<String, String> {
    let name = name.to_ascii_lowercase();
    if name.contains('*') {
        return Err("holds a star".to_owned());
    }
    ServerNamePattern::new(&name).map(|_| name)
}

/// Texts of labels as documents write them: key with its source, and value.
fn written(label: &Label) -> (String, String) {
    (format!("{}:{}", label.source, label.key), label.value.clone())
}

#[cfg(test)]
mod tests;
