//! Compiled tables against the model: random policies, random questions, the same answers. The tables are asked twice,
//! as the engine asks them and as the kernel does.
//!
//! A failure prints its seed; `SEVENTH_SEED=<seed> cargo test -p seventh-policy agreement` repeats that world alone.

use std::net::IpAddr;
use std::sync::Arc;

use rand::prelude::*;
use seventh_abi::{Direction, PolicyVerdict};
use seventh_policy::document::Document;
use seventh_policy::identity::{all_of, prefix_labels};
use seventh_policy::model::{Answer, Model, Peer, Question};
use seventh_policy::{
    CompileOptions, CompiledPolicy, Compiler, EndpointFacts, Enforcement, HttpRequest, HttpVerdict, IdentityId,
    L4Decision, Labels, NamedPorts, RuleSet, Service, Services, Surroundings, load_text, prefixes_of, resolve,
};

use crate::kernel::PolicyTable;
use crate::random::{ADDRESSES, Generator, HOSTS, METHODS, NAMES, PATHS, PORTS, PROTOCOLS, SERVER_NAMES};

const WORLDS: u64 = 2_100;
const QUESTIONS: usize = 40;

#[test]
fn compiled_tables_agree_with_the_model() {
    if let Ok(seed) = std::env::var("SEVENTH_SEED") {
        let seed = seed.parse().expect("SEVENTH_SEED is a number");
        let asked = World::new(seed).check();
        assert!(asked > 0);
        return;
    }
    let first: u64 = rand::rng().random();
    println!("seeds {first} and the {} after it", WORLDS - 1);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    let share = |thread: usize| (0..WORLDS).skip(thread).step_by(threads).map(|n| first.wrapping_add(n));
    let seen = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || check_worlds(share(thread))))
            .collect();
        let mut seen = Seen::default();
        for found in running {
            seen.add(&found.join().expect("a seed is printed above"));
        }
        seen
    });
    let asked = seen.allow + seen.deny + seen.inspect;
    assert!(asked >= 100_000, "only {asked} cases");
    // The vocabulary must keep reaching every kind of answer, or agreement says little.
    assert!(
        seen.allow > 10_000 && seen.deny > 10_000 && seen.inspect > 1_500,
        "{seen:?}"
    );
    assert!(
        seen.passed > 300 && seen.refused > 300 && seen.patched > 1_000,
        "{seen:?}"
    );
}

fn check_worlds(seeds: impl Iterator<Item = u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let world = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.check();
            world.seen
        });
        seen.add(&world.unwrap_or_else(|_| panic!("SEVENTH_SEED={seed} repeats this failure")));
    }
    seen
}

#[derive(Default, Debug)]
struct Seen {
    allow: usize,
    deny: usize,
    inspect: usize,
    passed: usize,
    refused: usize,
    patched: usize,
}

impl Seen {
    fn add(&mut self, more: &Self) {
        self.allow += more.allow;
        self.deny += more.deny;
        self.inspect += more.inspect;
        self.passed += more.passed;
        self.refused += more.refused;
        self.patched += more.patched;
    }
}

/// One question before it is asked.
struct Drawn {
    /// Index of the endpoint.
    at: usize,
    peer: Peer,
    identity: IdentityId,
    direction: Direction,
    protocol: u8,
    port: u16,
}

struct World {
    generator: Generator,
    yaml: String,
    documents: Vec<Arc<Document>>,
    surroundings: Surroundings,
    options: CompileOptions,
    compiler: Compiler,
    endpoints: Vec<EndpointFacts>,
    peers: Vec<(Peer, IdentityId)>,
    table: PolicyTable,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut generator = Generator {
            rng: StdRng::seed_from_u64(seed),
            cluster: false,
        };
        generator.cluster = generator.chance(50);
        let yaml = generator.documents();
        let loaded = load_text("random.yaml", &yaml);
        assert!(!loaded.has_errors(), "{yaml}\n{:#?}", loaded.findings);
        let surroundings = Surroundings {
            cluster: generator.cluster.then(|| "here".to_owned()),
            node_labels: true,
            services: services(),
            ..Surroundings::default()
        };
        let options = CompileOptions {
            enforcement: match generator.rng.random_range(0..20) {
                0 => Enforcement::Never,
                1..=3 => Enforcement::Always,
                _ => Enforcement::Default,
            },
            allow_localhost: generator.chance(30),
        };
        let mut compiler = Compiler::new(options.clone());
        compiler.set_rules(resolve(&loaded.documents, &surroundings).rules);
        let mut world = Self {
            generator,
            yaml,
            documents: loaded.documents,
            surroundings,
            options,
            compiler,
            endpoints: Vec::new(),
            peers: Vec::new(),
            table: PolicyTable::default(),
            seen: Seen::default(),
        };
        for _ in 0..3 {
            let labels = world.generator.labels();
            let named_ports = world.named_ports();
            world.endpoints.push(EndpointFacts {
                labels: Labels::parse(labels.iter().map(String::as_str)),
                named_ports,
            });
        }
        world
    }

    /// Asks, then changes the world (identities, then rules) and asks again. Says how many answers were compared.
    fn check(&mut self) -> usize {
        let rules: Vec<_> = self.compiler.rules().cloned().collect();
        for prefix in prefixes_of(&rules) {
            self.compiler.add_identity(&prefix_labels(prefix)).unwrap();
        }
        self.add_peers(4);
        let mut policies = self.compile();
        let mut asked = self.ask(&policies, QUESTIONS / 2);
        self.add_peers(4);
        self.refresh(&mut policies);
        asked += self.ask(&policies, QUESTIONS / 2);
        self.shrink();
        let policies = self.compile();
        asked + self.ask(&policies, QUESTIONS / 4)
    }

    fn named_ports(&mut self) -> NamedPorts {
        let mut ports = Vec::new();
        if self.generator.chance(60) {
            ports.push((
                "http".to_owned(),
                self.generator.pick(&[80, 8080]),
                self.generator.pick(&[None, Some(6)]),
            ));
        }
        if self.generator.chance(30) {
            ports.push(("dns".to_owned(), 53, Some(17)));
        }
        NamedPorts::new(ports)
    }

    fn add_peers(&mut self, count: usize) {
        for _ in 0..count {
            let (peer, identity) = if self.generator.chance(45) {
                self.outside()
            } else {
                self.labelled()
            };
            // An identity has one set of named ports: the last one that was declared.
            for (known, id) in &mut self.peers {
                if *id == identity {
                    *known = peer.clone();
                }
            }
            self.peers.push((peer, identity));
        }
    }

    fn labelled(&mut self) -> (Peer, IdentityId) {
        let labels = self.generator.labels();
        let labels = Labels::parse(labels.iter().map(String::as_str));
        let named_ports = self.named_ports();
        let (id, patches) = self.compiler.add_identity(&labels).unwrap();
        let more = self.compiler.set_named_ports(id, named_ports.clone());
        self.apply(patches.into_iter().chain(more).collect());
        (Peer::Labelled { labels, named_ports }, id)
    }

    fn outside(&mut self) -> (Peer, IdentityId) {
        let address: IpAddr = self.generator.pick(ADDRESSES).parse().unwrap();
        let names: Vec<String> = NAMES
            .iter()
            .filter(|_| self.generator.chance(25))
            .map(|n| (*n).to_owned())
            .collect();
        let rules: Vec<_> = self.compiler.rules().cloned().collect();
        let prefix = prefixes_of(&rules)
            .into_iter()
            .filter(|net| net.contains(&address))
            .max_by_key(ipnet::IpNet::prefix_len)
            .unwrap_or(all_of(address.is_ipv6()));
        let selectors = seventh_policy::name_selectors_of(&rules);
        let learned = selectors
            .iter()
            .filter(|selector| names.iter().any(|name| selector.matches(name)));
        let labels = seventh_policy::identity::outside_labels(prefix, learned);
        let (id, patches) = self.compiler.add_identity(&labels).unwrap();
        self.apply(patches);
        (Peer::Outside { address, names }, id)
    }

    fn apply(&mut self, patches: Vec<seventh_policy::PolicyPatch>) {
        for patch in patches {
            self.seen.patched += 1;
            self.table.patch(&patch);
        }
    }

    fn compile(&mut self) -> Vec<Arc<CompiledPolicy>> {
        self.table = PolicyTable::default();
        let mut written = Vec::new();
        let mut policies = Vec::new();
        for endpoint in &self.endpoints {
            let policy = self.compiler.compile(endpoint).unwrap();
            if !written.contains(&policy.policy_id()) {
                self.table.write(policy.kernel_entries());
                written.push(policy.policy_id());
            }
            policies.push(policy);
        }
        policies
    }

    /// After patches: the compiler gives the same policies, and their entries are those of the patched table.
    fn refresh(&mut self, policies: &mut [Arc<CompiledPolicy>]) {
        for (endpoint, policy) in self.endpoints.iter().zip(policies) {
            let now = self.compiler.compile(endpoint).unwrap();
            assert_eq!(now.policy_id(), policy.policy_id());
            *policy = now;
        }
    }

    /// Takes some documents away; outside identities stay as they were learned.
    fn shrink(&mut self) {
        let keep = |d: &Arc<Document>| d.origin.kind == "CiliumCIDRGroup" || d.origin.name.ends_with(['0', '2', '4']);
        self.documents.retain(keep);
        self.compiler
            .set_rules(resolve(&self.documents, &self.surroundings).rules);
    }

    fn ask(&mut self, policies: &[Arc<CompiledPolicy>], questions: usize) -> usize {
        for _ in 0..questions {
            let Drawn {
                at,
                peer,
                identity,
                direction,
                protocol,
                port,
            } = self.draw(policies);
            let endpoint = self.endpoints[at].clone();
            let policy = &policies[at];
            let question = Question {
                direction,
                endpoint: &endpoint,
                peer: &peer,
                protocol,
                port,
            };
            let documents = self.documents.clone();
            let surroundings = self.surroundings.clone();
            let options = self.options.clone();
            let model = Model {
                documents: &documents,
                surroundings: &surroundings,
                options: &options,
            };
            let expected = model.answer(&question);
            let found = policy.lookup(direction, identity, protocol, port);
            let context = format!(
                "{}\n{direction:?} of {} with {}\nprotocol {protocol} port {port} peer {} (identity {identity})\n{:?}",
                self.yaml,
                endpoint.labels,
                serde_json::to_string(&endpoint.named_ports).unwrap(),
                show(&peer),
                self.options
            );
            self.compare(&expected, &found, &context);
            self.compare_kernel(policy, &question, identity, &found, &context);
        }
        questions
    }

    /// A random question; inspected traffic is rare, so a part of the draws is repeated in search of some.
    fn draw(&mut self, policies: &[Arc<CompiledPolicy>]) -> Drawn {
        let mut tries = if self.generator.chance(25) { 8 } else { 1 };
        loop {
            tries -= 1;
            let at = self.generator.rng.random_range(0..self.endpoints.len());
            let (peer, identity) = self.peers.choose(&mut self.generator.rng).unwrap().clone();
            let direction = self.generator.pick(&[Direction::Ingress, Direction::Egress]);
            let protocol = self.generator.pick(PROTOCOLS);
            let port = self.generator.pick(PORTS);
            let found = policies[at].lookup(direction, identity, protocol, port);
            if tries == 0 || matches!(found, L4Decision::Inspect(_)) {
                return Drawn {
                    at,
                    peer,
                    identity,
                    direction,
                    protocol,
                    port,
                };
            }
        }
    }

    fn compare(&mut self, expected: &Answer<'_>, found: &L4Decision<'_>, context: &str) {
        match (expected, found) {
            (Answer::Allow, L4Decision::Allow) => self.seen.allow += 1,
            (Answer::Deny, L4Decision::Deny(_)) => self.seen.deny += 1,
            (Answer::Inspect(inspection), L4Decision::Inspect(rules)) => {
                self.seen.inspect += 1;
                self.compare_inside(inspection, rules, context);
            }
            _ => panic!("{context}\nmodel: {expected:#?}\ntables: {found:#?}"),
        }
    }

    fn compare_inside(&mut self, model: &seventh_policy::model::Inspection<'_>, rules: &RuleSet, context: &str) {
        for _ in 0..3 {
            let (expected, found, what) = if let Some(http) = rules.http() {
                let headers: Vec<(&str, &str)> = [("x-token", "1"), ("X-TOKEN", "2"), ("X-Seen", "yes")]
                    .into_iter()
                    .filter(|_| self.generator.chance(40))
                    .collect();
                let request = HttpRequest {
                    method: self.generator.pick(METHODS),
                    path: self.generator.pick(PATHS),
                    host: self.generator.pick(HOSTS),
                    headers: &headers,
                };
                let allowed = matches!(http.judge(&request), HttpVerdict::Allow { .. });
                (model.http(&request), allowed, format!("{request:?}"))
            } else if let Some(dns) = rules.dns() {
                let name = self.generator.pick(NAMES);
                (model.dns(name), dns.judge(name).is_some(), name.to_owned())
            } else {
                let tls = rules.tls().expect("the third kind");
                let name = if self.generator.chance(20) {
                    None
                } else {
                    Some(self.generator.pick(SERVER_NAMES))
                };
                (model.tls(name), tls.judge(name).is_some(), format!("{name:?}"))
            };
            assert_eq!(expected, Some(found), "{context}\n{what}\n{rules:#?}");
            if found {
                self.seen.passed += 1;
            } else {
                self.seen.refused += 1;
            }
        }
    }

    fn compare_kernel(
        &self,
        policy: &CompiledPolicy,
        question: &Question<'_>,
        identity: IdentityId,
        found: &L4Decision<'_>,
        context: &str,
    ) {
        let Question {
            direction,
            protocol,
            port,
            ..
        } = *question;
        let entry = self
            .table
            .lookup(policy.policy_id(), direction, identity, protocol, port);
        let kernel = match entry {
            None if policy.enforced(direction) => (PolicyVerdict::Deny as u8, 0),
            None => (PolicyVerdict::Allow as u8, 0),
            Some(entry) => (entry.verdict, entry.rule_set),
        };
        let engine = match found {
            L4Decision::Allow => (PolicyVerdict::Allow as u8, 0),
            L4Decision::Deny(_) => (PolicyVerdict::Deny as u8, 0),
            L4Decision::Inspect(rules) => (PolicyVerdict::Inspect as u8, rules.id()),
        };
        assert_eq!(kernel, engine, "{context}\nkernel entry: {entry:?}");
    }
}

fn show(peer: &Peer) -> String {
    match peer {
        Peer::Labelled { labels, named_ports } => {
            format!("{labels} with {}", serde_json::to_string(named_ports).unwrap())
        }
        Peer::Outside { address, names } => format!("{address} known as {names:?}"),
    }
}

fn services() -> Services {
    let edge = Labels::parse(["tier=edge"]);
    let front = Service {
        labels: None,
        selector: Some(vec![("app".into(), "a".into())]),
        ..Service::default()
    };
    let outside = Service {
        labels: Some(edge),
        backends: vec!["10.1.2.3/32".parse().unwrap()],
        ..Service::default()
    };
    let at = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    Services([(at("default", "front"), front), (at("shop", "outside"), outside)].into())
}
