//! What is generated against the model: everything observed is allowed, nothing else is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rand::prelude::*;
use seventh_abi::Direction;

use super::{Observation, ObservedL4, ObservedL7, ObservedPeer, Options, generate};
use crate::model::{Answer, Model, Peer, Question};
use crate::{CompileOptions, EndpointFacts, HttpRequest, Labels, NamedPorts, Surroundings, load_text};

fn labels(text: &str) -> Labels {
    Labels::parse(text.split(','))
}

fn yaml(observations: &[Observation], options: Options) -> (String, usize) {
    let outcome = generate(observations.iter().cloned(), options).unwrap();
    let documents = outcome
        .policies
        .iter()
        .map(|policy| serde_json::to_string(policy).unwrap());
    let text: Vec<String> = documents.collect();
    (text.join("\n---\n"), outcome.notes.len())
}

/// Endpoints some of which have the labels of others and more.
const ENDPOINTS: &[&str] = &[
    "k8s:app=a,k8s:io.kubernetes.pod.namespace=one",
    "k8s:app=a,k8s:tier=x,k8s:io.kubernetes.pod.namespace=one",
    "k8s:app=a,k8s:tier=y,k8s:io.kubernetes.pod.namespace=one",
    "k8s:app=a,k8s:io.kubernetes.pod.namespace=two",
    "k8s:io.kubernetes.pod.namespace=one",
    "reserved:host",
    "reserved:remote-node",
];
const ADDRESSES: &[(&str, &[&str])] = &[
    ("192.0.2.1", &["a.example."]),
    ("192.0.2.2", &["a.example.", "b.example."]),
    ("192.0.2.3", &["c.example."]),
    ("192.0.2.4", &[]),
    ("2001:db8::1", &[]),
];
const METHODS: &[&str] = &["GET", "PUT"];
/// Each with what it is folded into.
const PATHS: &[(&str, &str)] = &[
    ("/", "/"),
    ("/a", "/a"),
    ("/a.b", "/a.b"),
    ("/aXb", "/aXb"),
    ("/a/1", "/a/N"),
    ("/a/22", "/a/N"),
    ("/a/x", "/a/x"),
    ("/a/", "/a/"),
    ("/a/1/b", "/a/N/b"),
];

struct World {
    rng: StdRng,
}

impl World {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).unwrap()
    }

    /// Something that may be seen. A port has one protocol inside, as it has on a network that works.
    fn observation(&mut self) -> Observation {
        let direction = self.pick(&[Direction::Ingress, Direction::Egress]);
        let subject = labels(self.pick(&ENDPOINTS[..5]));
        let peer = if self.rng.random_bool(0.4) {
            let (address, names) = self.pick(ADDRESSES);
            ObservedPeer::Outside {
                address: address.parse().unwrap(),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            }
        } else {
            ObservedPeer::Labelled(labels(self.pick(ENDPOINTS)))
        };
        let port = |protocol, port| ObservedL4::Port { protocol, port };
        let (l4, l7) = match self.rng.random_range(0..6) {
            0 => (port(6, 80), None),
            1 => (port(6, 81), None),
            2 if direction == Direction::Egress => (
                port(17, 53),
                Some(ObservedL7::Dns {
                    name: self.pick(&["a.example.", "b.example."]).to_owned(),
                }),
            ),
            3 => {
                let server_name = Some(self.pick(&["a.example", "b.example"]).to_owned());
                (port(6, 443), Some(ObservedL7::Tls { server_name }))
            }
            4 => {
                let (v6, kind) = self.pick(&[(false, 8), (true, 128), (false, 0)]);
                (ObservedL4::Icmp { v6, kind }, None)
            }
            _ => {
                let (method, path) = (self.pick(METHODS).to_owned(), self.pick(PATHS).0.to_owned());
                (port(6, 80), Some(ObservedL7::Http { method, path }))
            }
        };
        Observation {
            direction,
            subject,
            peer,
            l4,
            l7,
        }
    }
}

/// What tells observations apart as far as a policy may: the rest is folded by the rules that the head of the module names.
fn folded(observation: &Observation) -> (Labels, bool, String, ObservedL4, String) {
    let egress = observation.direction == Direction::Egress;
    let peer = match &observation.peer {
        ObservedPeer::Labelled(labels) => labels.to_string(),
        // All of these share an address with one another.
        ObservedPeer::Outside { names, .. } if egress && names.iter().any(|n| n == "a.example.") => "a, b".to_owned(),
        ObservedPeer::Outside { names, .. } if egress && !names.is_empty() => names.join(","),
        ObservedPeer::Outside { address, .. } => address.to_string(),
    };
    let inside = match &observation.l7 {
        Some(ObservedL7::Http { method, path }) => {
            let known = PATHS.iter().find(|(known, _)| known == path).unwrap();
            format!("{method} {}", known.1)
        }
        other => format!("{other:?}"),
    };
    (observation.subject.clone(), egress, peer, observation.l4, inside)
}

/// Whether the model lets it pass.
fn passes(model: &Model<'_>, observation: &Observation) -> bool {
    let peer = match &observation.peer {
        ObservedPeer::Labelled(labels) => Peer::Labelled {
            labels: labels.clone(),
            named_ports: NamedPorts::default(),
        },
        ObservedPeer::Outside { address, names } => Peer::Outside {
            address: *address,
            names: names.clone(),
        },
    };
    let (protocol, port) = match observation.l4 {
        ObservedL4::Port { protocol, port } => (protocol, port),
        ObservedL4::Icmp { v6, kind } => (if v6 { 58 } else { 1 }, u16::from(kind)),
    };
    let endpoint = EndpointFacts {
        labels: observation.subject.clone(),
        named_ports: NamedPorts::default(),
    };
    let question = Question {
        direction: observation.direction,
        endpoint: &endpoint,
        peer: &peer,
        protocol,
        port,
    };
    match (model.answer(&question), &observation.l7) {
        (Answer::Deny, _) => false,
        (Answer::Allow, _) | (Answer::Inspect(_), None) => true,
        (Answer::Inspect(inside), Some(ObservedL7::Http { method, path })) => {
            let request = HttpRequest {
                method,
                path,
                host: "h",
                headers: &[],
            };
            inside.http(&request) == Some(true)
        }
        (Answer::Inspect(inside), Some(ObservedL7::Dns { name })) => inside.dns(name) == Some(true),
        (Answer::Inspect(inside), Some(ObservedL7::Tls { server_name })) => {
            inside.tls(server_name.as_deref()) == Some(true)
        }
    }
}

/// Random observations, and random questions about the policy that is made of them. A question about the inside of port
/// 80 is left out where the connection was seen without it, which allows everything inside.
#[test]
fn what_was_seen_passes_and_nothing_else_does() {
    let options = CompileOptions {
        allow_localhost: false,
        ..CompileOptions::default()
    };
    let surroundings = Surroundings::default();
    let (mut allowed, mut denied) = (0, 0);
    for seed in 0..200 {
        let mut world = World {
            rng: StdRng::seed_from_u64(seed),
        };
        let count = world.rng.random_range(1..40);
        let seen: Vec<Observation> = (0..count).map(|_| world.observation()).collect();
        let (text, notes) = yaml(&seen, Options::default());
        assert_eq!(notes, 0, "seed {seed}: {text}");
        let loaded = load_text("generated.yaml", &text);
        assert!(
            loaded.findings.is_empty(),
            "seed {seed}: {text}\n{:#?}",
            loaded.findings
        );
        let model = Model {
            documents: &loaded.documents,
            surroundings: &surroundings,
            options: &options,
        };
        for observation in &seen {
            assert!(passes(&model, observation), "seed {seed}: {observation:?}\n{text}");
        }
        let mut inside: BTreeMap<_, bool> = BTreeMap::new();
        for observation in &seen {
            let (subject, egress, peer, l4, _) = folded(observation);
            *inside.entry((subject, egress, peer, l4)).or_default() |= observation.l7.is_some();
        }
        for _ in 0..200 {
            let question = world.observation();
            // An endpoint of which nothing was seen has no policy, and selectors can exclude only whom they know.
            if !seen.iter().any(|observation| observation.subject == question.subject) || !is_known(&seen, &question) {
                continue;
            }
            let (subject, egress, peer, l4, content) = folded(&question);
            let expected = match inside.get(&(subject, egress, peer, l4)) {
                None => false,
                Some(false) => true,
                Some(true) => question.l7.is_none() || seen.iter().any(|o| folded(o) == folded(&question)),
            };
            assert_eq!(
                passes(&model, &question),
                expected,
                "seed {seed}: {question:?} ({content})\n{text}"
            );
            if expected { allowed += 1 } else { denied += 1 }
        }
    }
    assert!(allowed > 1000 && denied > 5000, "{allowed} allowed, {denied} denied");
}

/// Whether the other side was seen anywhere.
fn is_known(seen: &[Observation], question: &Observation) -> bool {
    let ObservedPeer::Labelled(labels) = &question.peer else {
        return true;
    };
    let is = |observation: &Observation| observation.subject == *labels || observation.peer == question.peer;
    labels.iter().any(|label| label.source == "reserved") || seen.iter().any(is)
}

fn seen(direction: Direction, peer: ObservedPeer, l7: Option<ObservedL7>) -> Observation {
    Observation {
        direction,
        subject: labels(ENDPOINTS[0]),
        peer,
        l4: ObservedL4::Port { protocol: 6, port: 80 },
        l7,
    }
}

#[test]
fn a_direction_without_traffic_is_closed_unless_it_shall_stay_open() {
    let observation = seen(
        Direction::Ingress,
        ObservedPeer::Labelled(labels("reserved:host")),
        None,
    );
    let closed = yaml(std::slice::from_ref(&observation), Options::default()).0;
    assert!(closed.contains(r#""egress":[{}]"#), "{closed}");
    let options = Options {
        leave_unseen_open: true,
        ..Options::default()
    };
    assert!(!yaml(&[observation], options).0.contains("egress"));
}

#[test]
fn what_no_rule_can_say_is_told() {
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let peer = || ObservedPeer::Outside { address, names: vec![] };
    let http = |path: &str| {
        Some(ObservedL7::Http {
            method: "GET".into(),
            path: path.into(),
        })
    };
    let hello = |server_name: Option<&str>| {
        Some(ObservedL7::Tls {
            server_name: server_name.map(str::to_owned),
        })
    };
    let notes = |l7s: Vec<Option<ObservedL7>>| {
        let observations = l7s.into_iter().map(|l7| seen(Direction::Egress, peer(), l7));
        let outcome = generate(observations, Options::default()).unwrap();
        outcome.notes.into_iter().collect::<Vec<_>>().join("\n")
    };
    assert_eq!(notes(vec![http("/a"), None]), "");
    assert!(notes(vec![http("/ä")]).contains("not allowed"));
    assert!(notes(vec![http("/a"), hello(Some("a.example"))]).contains("more than one protocol"));
    assert!(notes(vec![hello(None), hello(Some("a.example"))]).contains("without a server name"));
    let query = Some(ObservedL7::Dns {
        name: "a.example.".into(),
    });
    let asked = seen(Direction::Ingress, peer(), query);
    let outcome = generate([asked], Options::default()).unwrap();
    assert!(
        outcome
            .notes
            .first()
            .is_some_and(|note| note.contains("not allowed on ingress"))
    );
    let nobody = seen(Direction::Egress, ObservedPeer::Labelled(labels("k8s:app=x")), None);
    assert_eq!(generate([nobody], Options::default()).unwrap().notes.len(), 1);
}

#[test]
fn policies_of_like_endpoints_have_names_of_their_own() {
    let peer = || ObservedPeer::Labelled(labels("reserved:host"));
    let mut other = seen(Direction::Ingress, peer(), None);
    other.subject = labels("k8s:role=a,k8s:io.kubernetes.pod.namespace=one");
    let (text, _) = yaml(&[seen(Direction::Ingress, peer(), None), other], Options::default());
    assert!(
        text.contains(r#""name":"observed-a""#) && text.contains(r#""name":"observed-a-2""#),
        "{text}"
    );
}
