//! An engine under a policy, and a connection that sends it segments.

use crate::wire::{self, Sent, Shape};
use seventh_abi::{Direction, DropReason, Frontier, Hook, PuntMeta};
use seventh_engine::{
    EndpointView, Engine, EngineCounter, EngineLimits, EngineShared, Fate, L7Record, Outbox, PolicyView,
};
use seventh_policy::{
    CompileOptions, Compiler, EndpointFacts, Ipcache, L4Decision, Labels, NamedPorts, RequestLimits, RequestTable,
    RequestWalker, Surroundings, identity, load_text, resolve,
};
use seventh_verdict_cache::KeyHasher;
use std::sync::{Arc, OnceLock};

/// Interface of the endpoint that the policies below govern.
pub(crate) const IFINDEX: u32 = 7;
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Number of the first connection on its addresses and ports.
pub(crate) const NUMBER: u16 = 77;

/// Port 80: HTTP rules. 443: server names. 81: allowed without looking inside. 53 (egress): DNS rules. Others: denied.
pub(crate) const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: "/public.*"}
        - {method: "POST|PUT", path: "/upload"}
        - {method: GET, path: "/token", headers: ["X-Token: secret"]}
        - {method: GET, path: "/h", host: "a.example"}
        - {method: OPTIONS, path: "[*]"}
        - method: GET
          path: /logged
          headerMatches: [{name: X-Team, value: a, mismatch: LOG}, {name: X-Run, mismatch: LOG}]
  - toPorts:
    - ports: [{port: "81", protocol: TCP}]
  - toPorts:
    - ports: [{port: "443", protocol: TCP}]
      serverNames: ["a.example"]
  egress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: "/out"}
  - toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns: [{matchPattern: "*"}]
"#;

pub(crate) struct World {
    pub(crate) shared: Arc<EngineShared>,
    pub(crate) engine: Engine,
    pub(crate) now_ns: u64,
    /// Number of the connection whose frames are decided.
    pub(crate) connection: u16,
    compiler: Compiler,
    epoch: u32,
}

/// What became of one frame.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The frame itself, if it went on.
    pub(crate) forwarded: Option<Sent>,
    /// Frames that the engine made.
    pub(crate) made: Vec<Sent>,
}

impl Outcome {
    /// The frame went on whole and nothing else happened.
    #[track_caller]
    pub(crate) fn forwarded(&self) -> &Sent {
        assert!(self.made.is_empty(), "{self:?}");
        self.forwarded.as_ref().expect("forwarded")
    }

    /// Nothing left the engine.
    #[track_caller]
    pub(crate) fn nothing(&self) {
        assert!(self.forwarded.is_none() && self.made.is_empty(), "{self:?}");
    }

    /// The first frame is a refusal to the opener; the others are resets to the other side.
    #[track_caller]
    pub(crate) fn refusal(&self) -> &Sent {
        assert!(self.forwarded.is_none(), "{self:?}");
        let (refusal, resets) = self.made.split_first().expect("a refusal");
        assert!(refusal.payload.starts_with(b"HTTP/1.1 403 Forbidden\r\n"), "{self:?}");
        assert!(
            resets
                .iter()
                .all(|r| !r.meta.reverse && r.flags() == wire::RST | wire::ACK)
        );
        refusal
    }

    /// Resets to both sides, the opener first.
    #[track_caller]
    pub(crate) fn resets(&self) -> (&Sent, &[Sent]) {
        assert!(self.forwarded.is_none(), "{self:?}");
        let (opener, others) = self.made.split_first().expect("resets");
        assert!(
            opener.meta.reverse && self.made.iter().all(|r| r.flags() == wire::RST | wire::ACK),
            "{self:?}"
        );
        assert!(!others.is_empty() && others.iter().all(|r| !r.meta.reverse), "{self:?}");
        (opener, others)
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_limits(EngineLimits::default())
    }

    /// As [`World::new`], with the policy compiled once for all: compiling would take most of a simulation's time.
    pub(crate) fn simulated() -> Self {
        static VIEW: OnceLock<Arc<PolicyView>> = OnceLock::new();
        let world = Self::empty(EngineLimits::default());
        world.shared.set_policy(VIEW.get_or_init(Self::simulated_view).clone());
        world
    }

    /// What the kernel judges requests by under the policy of [`World::simulated`].
    pub(crate) fn simulated_table() -> RequestWalker {
        static TABLE: OnceLock<RequestWalker> = OnceLock::new();
        let table = || {
            let view = Self::simulated().shared.policy();
            let policy = &view.endpoints[&IFINDEX].policy;
            let L4Decision::Inspect(rules) = policy.lookup(Direction::Ingress, identity::WORLD_IPV4, 6, 80) else {
                panic!("port 80 has HTTP rules")
            };
            let limits = RequestLimits {
                len_max: 4096,
                lines_max: 100,
            };
            RequestTable::new(rules.http().unwrap(), limits)
                .and_then(|table| table.walker())
                .expect("rules that the kernel can judge by")
        };
        TABLE.get_or_init(table).clone()
    }

    /// [`POLICY`] without demands on headers, by which the kernel cannot judge, and what proxies are asked for.
    fn simulated_view() -> Arc<PolicyView> {
        let (before, rest) = POLICY.split_once("        - {method: GET, path: \"/token\"").unwrap();
        let (_, rest) = rest.split_once("]}\n").unwrap();
        let (between, rest) = rest.split_once("        - {method: OPTIONS").unwrap();
        let (_, rest) = rest.split_once("mismatch: LOG}]\n").unwrap();
        let policy = format!("{before}{between}        - {{method: CONNECT, host: \"a:443\"}}\n{rest}");
        let mut world = Self::empty(EngineLimits::default());
        world.set_policy(&policy);
        world.shared.policy()
    }

    pub(crate) fn with_limits(limits: EngineLimits) -> Self {
        let mut world = Self::empty(limits);
        world.set_policy(POLICY);
        world
    }

    fn empty(limits: EngineLimits) -> Self {
        let shared = Arc::new(EngineShared::new(KeyHasher::from_secret([3; 16]), 1024, 64));
        Self {
            engine: Engine::new(shared.clone(), limits),
            shared,
            now_ns: SECOND,
            connection: NUMBER,
            compiler: Compiler::new(CompileOptions::default()),
            epoch: 0,
        }
    }

    /// Compiles `text` for the endpoint and switches the engine to it under the next epoch.
    pub(crate) fn set_policy(&mut self, text: &str) {
        let loaded = load_text("test.yaml", text);
        assert!(!loaded.has_errors(), "{:?}", loaded.findings);
        self.compiler
            .set_rules(resolve(&loaded.documents, &Surroundings::default()).rules);
        let facts = EndpointFacts {
            labels: Labels::parse(["app=web", "io.kubernetes.pod.namespace=shop"]),
            named_ports: NamedPorts::default(),
        };
        self.epoch += 1;
        let endpoint = EndpointView {
            id: 12,
            name: "shop/web".into(),
            epoch: self.epoch,
            policy: self.compiler.compile(&facts).unwrap(),
        };
        self.shared.set_policy(Arc::new(PolicyView {
            endpoints: [(IFINDEX, endpoint)].into(),
            ipcache: Arc::new(Ipcache::new()),
        }));
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn decide(&mut self, mut frame: Vec<u8>) -> Outcome {
        let before = frame.clone();
        wire::number(&mut frame, self.connection);
        let mut out = Outbox::new();
        let forwarded = match self.engine.decide(&mut frame, self.now_ns, &mut out) {
            Fate::Forward => {
                assert_eq!(
                    before[12..],
                    frame[12..],
                    "only the MAC bytes of a frame that goes on may change"
                );
                Some(frame)
            }
            Fate::Consumed => None,
        };
        Outcome {
            forwarded: forwarded.map(|frame| Sent::read(&frame)),
            made: out.frames().map(Sent::read).collect(),
        }
    }

    pub(crate) fn tick(&mut self) -> Vec<Sent> {
        let mut out = Outbox::new();
        self.engine.tick(self.now_ns, &mut out);
        out.frames().map(Sent::read).collect()
    }

    /// Has the engine compare what it says it holds with what its connections hold, as debug builds do whenever they look
    /// after them.
    pub(crate) fn weigh(&mut self) {
        let sent = self.tick();
        assert!(sent.is_empty(), "{sent:?}");
    }

    pub(crate) fn count(&self, counter: EngineCounter) -> u64 {
        self.shared.counters().path(counter)
    }

    pub(crate) fn reason(&self, reason: DropReason) -> u64 {
        self.shared.counters().reason(reason)
    }

    pub(crate) fn records(&self) -> Vec<L7Record> {
        std::iter::from_fn(|| self.shared.take_record())
            .map(Arc::unwrap_or_clone)
            .collect()
    }
}

/// A connection to port 80 of the endpoint, as its opener and the kernel see it. Segments are named by their offset in
/// the opener's stream.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) shape: Shape,
    pub(crate) meta: PuntMeta,
    pub(crate) base: u32,
    /// The opener's acknowledgement number.
    pub(crate) ack: u32,
    pub(crate) flags: u8,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self::at(1000)
    }

    pub(crate) fn at(base: u32) -> Self {
        let mut meta = wire::punt(Hook::ToEndpoint, IFINDEX);
        meta.base_seq = Some(base);
        meta.acked_seq = Some(base);
        Self {
            shape: Shape::new(1, 2, 80),
            meta,
            base,
            ack: 5000,
            flags: wire::ACK | wire::PSH,
        }
    }

    pub(crate) fn seq(&self, offset: usize) -> u32 {
        self.base.wrapping_add(offset as u32)
    }

    pub(crate) fn frame(&self, offset: usize, payload: impl AsRef<[u8]>) -> Vec<u8> {
        self.shape
            .frame(&self.meta, self.seq(offset), self.ack, self.flags, payload.as_ref())
    }

    pub(crate) fn send(&self, world: &mut World, offset: usize, payload: impl AsRef<[u8]>) -> Outcome {
        world.decide(self.frame(offset, payload))
    }

    /// The kernel knows that a request begins at `offset`, before which everything has been let through and answered.
    pub(crate) fn request_begins_at(&mut self, offset: usize) {
        self.meta.frontier = Some(Frontier {
            seq: self.seq(offset),
            answered: true,
        });
    }

    /// The other side has acknowledged everything before `offset` and answered `answer` bytes, which the opener has.
    pub(crate) fn answered(&mut self, offset: usize, answer: u32) {
        self.meta.acked_seq = Some(self.seq(offset));
        self.ack = self.ack.wrapping_add(answer);
    }
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

pub(crate) fn post(len: usize) -> String {
    format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
}
