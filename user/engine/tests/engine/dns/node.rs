//! A node that enforces DNS rules: an engine, a compiler, and a kernel that is a map.

use super::message;
use crate::wire::{self, Shape, v4};
use ipnet::IpNet;
use seventh_abi::{Addr, DropReason, FlowKey, Hook, InjectMeta, NameEntry, PuntMeta};
use seventh_engine::{
    Decided, EndpointView, Engine, EngineLimits, EngineShared, Fate, Lacking, NameChange, NameClass, NameLimits,
    NameRules, NameSink, Names, Outbox, PolicyView,
};
use seventh_parsers::packet::Frame;
use seventh_policy::identity::prefix_labels;
use seventh_policy::name_pattern::NamePattern;
use seventh_policy::{
    CompileOptions, Compiler, EndpointFacts, IdentityId, Ipcache, L4Decision, Labels, NamedPorts, Owner, Surroundings,
    load_text, name_selectors_of, prefixes_of, resolve,
};
use seventh_verdict_cache::KeyHasher;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

pub(super) const SECOND: u64 = 1_000_000_000;
/// Interface and number of the endpoint, and those of another under the same policy.
pub(super) const SHOP: (u32, u32) = (7, 12);
pub(super) const OTHER: (u32, u32) = (8, 13);
/// Last byte of the resolver's address.
const RESOLVER: u8 = 53;
/// Of every flow.
const NUMBER: u16 = 0x1234;
/// An address of a pod.
pub(super) const POD: Addr = v4_of([10, 0, 9, 9]);

/// Names may be asked of 10.0.0.53. Port 443 is open to names, and every port of 203.0.113.0/24 but that one.
pub(super) const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toCIDR: [10.0.0.53/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns:
        - matchName: allowed.example
        - matchPattern: "*.shop.example"
        - matchPattern: "**.wide.example"
  - toFQDNs:
    - matchName: allowed.example
    - matchPattern: "*.shop.example"
    toPorts:
    - ports: [{port: "443", protocol: TCP}]
  - toFQDNs:
    - matchName: other.wide.example
    toPorts:
    - ports: [{port: "8443", protocol: TCP}]
  - toCIDR: [203.0.113.0/24]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
"#;

pub(super) const fn v4_of(bytes: [u8; 4]) -> Addr {
    seventh_abi::mapped_v4(bytes)
}

/// What the sink knows.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) names: HashMap<(u32, Addr), NameEntry>,
    /// It takes nothing.
    pub(super) broken: bool,
    /// Rows of these addresses it does not take.
    pub(super) refused: HashSet<Addr>,
    /// It makes no identity.
    pub(super) stubborn: bool,
    /// By whom it let flows to an address begin; others it does not know.
    pub(super) flows: HashMap<Addr, Decided>,
    /// Calls of [`NameSink::apply`].
    pub(super) writes: usize,
    /// Identities made while an answer waited.
    pub(super) defined: usize,
    pub(super) compiler: Compiler,
    selectors: Vec<NamePattern>,
    prefixes: HashMap<IpNet, IdentityId>,
    classes: HashMap<NameClass, IdentityId>,
    shared: Weak<EngineShared>,
    epoch: u32,
}

#[derive(Clone, Debug)]
struct Sink(Arc<Mutex<Kernel>>);

impl NameSink for Sink {
    fn apply(&self, changes: &[NameChange]) -> Vec<usize> {
        let mut kernel = self.0.lock().unwrap();
        kernel.writes += 1;
        let mut refused = Vec::new();
        for (place, change) in changes.iter().enumerate() {
            if kernel.broken || kernel.refused.contains(&change.addr) {
                refused.push(place);
                continue;
            }
            let key = (change.scope, change.addr);
            match change.entry {
                Some(entry) => drop(kernel.names.insert(key, entry)),
                None => drop(kernel.names.remove(&key)),
            }
        }
        refused
    }

    fn define(&self, names: &Names, lacking: &[Lacking]) {
        let mut kernel = self.0.lock().unwrap();
        if kernel.stubborn {
            return;
        }
        let mut made = Vec::new();
        for Lacking { class, .. } in lacking {
            made.push((class.clone(), kernel.identity(class)));
            kernel.defined += 1;
        }
        kernel.publish();
        drop(kernel);
        for (class, identity) in made {
            names.define(class, identity);
        }
    }

    fn decided(&self, flow: &FlowKey) -> Decided {
        let kernel = self.0.lock().unwrap();
        kernel.flows.get(&flow.peer_addr).copied().unwrap_or(Decided::NoKernel)
    }
}

impl Kernel {
    fn identity(&mut self, class: &NameClass) -> IdentityId {
        let (identity, _) = self.compiler.add_identity(&class.labels()).unwrap();
        self.classes.insert(class.clone(), identity);
        identity
    }

    fn ipcache(&self) -> Ipcache {
        let mut ipcache = Ipcache::new();
        for (prefix, identity) in &self.prefixes {
            ipcache.insert(
                *prefix,
                Owner {
                    identity: *identity,
                    ifindex: 0,
                },
            );
        }
        let pod = IpAddr::V6(Ipv6Addr::from(POD)).to_canonical();
        ipcache.insert(
            IpNet::from(pod),
            Owner {
                identity: 300,
                ifindex: 3,
            },
        );
        ipcache
    }

    fn publish(&mut self) {
        let facts = EndpointFacts {
            labels: Labels::parse(["app=web", "io.kubernetes.pod.namespace=shop"]),
            named_ports: NamedPorts::default(),
        };
        let policy = self.compiler.compile(&facts).unwrap();
        let endpoint = |id| EndpointView {
            id,
            name: "shop/web".into(),
            epoch: self.epoch,
            policy: policy.clone(),
        };
        self.shared.upgrade().unwrap().set_policy(Arc::new(PolicyView {
            endpoints: [SHOP, OTHER].map(|(ifindex, id)| (ifindex, endpoint(id))).into(),
            ipcache: Arc::new(self.ipcache()),
        }));
    }
}

pub(super) struct Node {
    pub(super) shared: Arc<EngineShared>,
    pub(super) engine: Engine,
    pub(super) now_ns: u64,
    kernel: Arc<Mutex<Kernel>>,
}

/// What became of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Became {
    Passed,
    Answered(Vec<u8>),
    Nothing,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(EngineLimits::default(), NameLimits::default(), false)
    }

    pub(super) fn with(limits: EngineLimits, name_limits: NameLimits, node_wide: bool) -> Self {
        let kernel = Arc::new(Mutex::new(Kernel {
            names: HashMap::new(),
            broken: false,
            refused: HashSet::new(),
            flows: HashMap::new(),
            stubborn: false,
            writes: 0,
            defined: 0,
            compiler: Compiler::new(CompileOptions::default()),
            selectors: Vec::new(),
            prefixes: HashMap::new(),
            classes: HashMap::new(),
            shared: Weak::new(),
            epoch: 0,
        }));
        let names = Names::new(name_limits, Box::new(Sink(kernel.clone())));
        let shared = Arc::new(EngineShared::new(KeyHasher::from_secret([3; 16]), 1024, 64).with_names(Arc::new(names)));
        kernel.lock().unwrap().shared = Arc::downgrade(&shared);
        let mut node = Self {
            engine: Engine::new(shared.clone(), limits),
            shared,
            now_ns: SECOND,
            kernel,
        };
        node.set_policy(POLICY, node_wide);
        node
    }

    pub(super) fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap()
    }

    /// Puts a policy in force in the agent's order: identities, the engine's view, names.
    pub(super) fn set_policy(&mut self, text: &str, node_wide: bool) {
        let loaded = load_text("test.yaml", text);
        assert!(!loaded.has_errors(), "{:?}", loaded.findings);
        let rules = resolve(&loaded.documents, &Surroundings::default()).rules;
        let mut kernel = self.kernel();
        let selectors = name_selectors_of(&rules);
        kernel.prefixes.clear();
        for prefix in prefixes_of(&rules) {
            let (identity, _) = kernel.compiler.add_identity(&prefix_labels(prefix)).unwrap();
            kernel.prefixes.insert(prefix, identity);
        }
        let ipcache = Arc::new(kernel.ipcache());
        let prefixes: Vec<_> = kernel.prefixes.iter().map(|(prefix, id)| (*prefix, *id)).collect();
        kernel.selectors.clone_from(&selectors);
        let names = NameRules::new(selectors, ipcache, prefixes).node_wide(node_wide);
        let needed = self.shared.names().classes_under(&names);
        for class in needed.into_iter().chain(names.plain_classes()) {
            kernel.identity(&class);
        }
        kernel.compiler.set_rules(rules);
        kernel.epoch += 1;
        kernel.publish();
        let names = names.with_identities(kernel.classes.clone());
        drop(kernel);
        assert_eq!(self.shared.names().set_rules(&names, false), Ok(()));
    }

    /// Sends a query from a port of the endpoint.
    pub(super) fn ask(&mut self, (ifindex, _): (u32, u32), port: u16, query: &[u8]) -> Became {
        let mut shape = Shape::new(1, RESOLVER, 53);
        (shape.protocol, shape.source_port) = (17, port);
        self.datagram(&shape, &wire::punt(Hook::FromEndpoint, ifindex), query)
    }

    /// The resolver answers to that port.
    pub(super) fn reply(&mut self, endpoint: (u32, u32), port: u16, answer: &[u8]) -> Became {
        self.reply_from(RESOLVER, endpoint, port, answer)
    }

    pub(super) fn reply_from(&mut self, server: u8, (ifindex, _): (u32, u32), port: u16, answer: &[u8]) -> Became {
        let mut shape = Shape::new(server, 1, port);
        (shape.protocol, shape.source_port) = (17, 53);
        let meta = PuntMeta {
            reply: true,
            ..wire::punt(Hook::ToEndpoint, ifindex)
        };
        self.datagram(&shape, &meta, answer)
    }

    fn datagram(&mut self, shape: &Shape, meta: &PuntMeta, payload: &[u8]) -> Became {
        let mut frame = shape.frame(meta, 0, 0, 0, payload);
        wire::number(&mut frame, NUMBER);
        let mut out = Outbox::new();
        match self.engine.decide(&mut frame, self.now_ns, &mut out) {
            Fate::Forward => {
                let inject = InjectMeta::decode(frame.first_chunk().unwrap(), 0).unwrap();
                assert_eq!((inject.reverse, inject.hook), (meta.reply, Hook::FromEndpoint));
                assert_eq!(inject.connection, NUMBER);
                assert_eq!(out.frames().count(), 0);
                Became::Passed
            }
            Fate::Consumed => match out.frames().next() {
                None => Became::Nothing,
                Some(made) => {
                    let inject = InjectMeta::decode(made.first_chunk().unwrap(), 0).unwrap();
                    assert!(
                        inject.connection == NUMBER && inject.reverse && inject.ifindex == meta.ifindex && !meta.reply
                    );
                    let made = Frame::parse(made).unwrap();
                    assert_eq!(made.verify_checksums(), Ok(()));
                    assert_eq!((made.source(), made.destination()), (shape.destination, shape.source));
                    assert_eq!(made.transport().ports(), (shape.destination_port, shape.source_port));
                    Became::Answered(made.payload().to_vec())
                }
            },
        }
    }

    /// Asks for a name's addresses and answers with these records; the answer must pass.
    #[track_caller]
    pub(super) fn resolve(&mut self, endpoint: (u32, u32), name: &str, records: &[Vec<u8>]) {
        let port = 2000;
        assert_eq!(
            self.ask(endpoint, port, &message::query(1, name, 1)),
            Became::Passed,
            "{name}"
        );
        let answer = message::answer(1, name, 1, records);
        assert_eq!(self.reply(endpoint, port, &answer), Became::Passed, "{name}");
    }

    /// Whether the kernel would let the endpoint open a connection to this port: the table of names, the ipcache, the
    /// policy.
    pub(super) fn opens(&self, endpoint: (u32, u32), addr: Addr, port: u16, known_flow: bool) -> bool {
        let view = self.shared.policy();
        let kernel = self.kernel();
        let entry = [endpoint.1, 0]
            .iter()
            .find_map(|scope| kernel.names.get(&(*scope, addr)));
        let by_name = entry.map_or(0, |e| if known_flow { e.flow_identity } else { e.identity });
        let identity = match by_name {
            0 => view.ipcache.lookup(IpAddr::V6(Ipv6Addr::from(addr))).identity,
            identity => identity,
        };
        let policy = &view.endpoints[&endpoint.0].policy;
        matches!(
            policy.lookup(seventh_abi::Direction::Egress, identity, 6, port),
            L4Decision::Allow
        )
    }

    /// Whether the endpoint may open port 443 there.
    pub(super) fn open(&self, addr: Addr) -> bool {
        self.opens(SHOP, addr, 443, false)
    }

    /// Makes the identities that [`Names::tend`] has found missing.
    pub(super) fn define_missing(&self) {
        let lacking = self.shared.names().tend(self.now_ns);
        Sink(self.kernel.clone()).define(self.shared.names(), &lacking);
    }

    /// Decides again what waits; how many frames went on.
    pub(super) fn retry(&mut self) -> usize {
        let mut out = Outbox::new();
        self.engine.retry(self.now_ns, &mut out);
        out.frames().count()
    }

    /// Rules of the policy in force, without the identities of what is known.
    pub(super) fn rules_without_identities(&self) -> NameRules {
        let kernel = self.kernel();
        NameRules::new(
            kernel.selectors.clone(),
            Arc::new(kernel.ipcache()),
            kernel.prefixes.iter().map(|(prefix, id)| (*prefix, *id)),
        )
    }

    /// Identity of addresses in the rest of the world that the selector of one name alone matches.
    pub(super) fn identity_of(&self, name: &str) -> IdentityId {
        let kernel = self.kernel();
        let labelled = |class: &NameClass| {
            let labels = class.labels().to_string();
            labels.contains(&format!("fqdn:{name}.")) && labels.matches("fqdn:").count() == 1
        };
        let mut of_name = kernel.classes.iter().filter(|(class, _)| labelled(class));
        *of_name.next().unwrap().1
    }

    pub(super) fn reason(&self, reason: DropReason) -> u64 {
        self.shared.counters().reason(reason)
    }

    pub(super) fn pass_time(&mut self, seconds: u64) {
        self.now_ns += seconds * SECOND;
        assert_eq!(self.shared.names().tend(self.now_ns), []);
    }
}

/// An outside address.
pub(super) fn address(last: u8) -> Addr {
    v4_of([192, 0, 2, last])
}

/// The resolver's address.
pub(super) fn resolver() -> Addr {
    v4(RESOLVER)
}
