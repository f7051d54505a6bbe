//! What all engines of a process share with the rest of it.

use crate::counters::EngineCounters;
use crate::dns::DnsRefusal;
use crate::names::{Names, Peer};
use crate::record::{L7Record, RecordQueue};
use ahash::AHashMap as HashMap;
use arc_swap::ArcSwap;
use seventh_abi::{Direction, FlowKey};
use seventh_parsers::{http1, tls};
use seventh_policy::{CompiledPolicy, IdentityId, Ipcache, L4Decision};
use seventh_verdict_cache::{KeyHasher, VerdictCache};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// One endpoint as the engine sees it.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Number that people see.
    pub id: u32,
    /// `namespace/name`.
    pub name: Arc<str>,
    /// As in [`seventh_abi::Endpoint::epoch`]: raised with every change of the policy.
    pub epoch: u32,
    /// Its policy.
    pub policy: Arc<CompiledPolicy>,
}

/// A whole, consistent state of policy. Replaced as one; never changed in place.
#[derive(Clone, Debug, Default)]
pub struct PolicyView {
    /// By host-side interface.
    pub endpoints: HashMap<u32, EndpointView>,
    /// Address to identity.
    pub ipcache: Arc<Ipcache>,
}

/// Bounds and waiting times of one engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Connections at most; the least recently used gives way (second-chance order).
    pub flows_max: usize,
    /// Bytes held for all connections together.
    pub held_bytes_max: usize,
    /// Bytes held for one connection: a head that is not complete, and inspected bytes that the other side has not
    /// acknowledged.
    pub flow_bytes_max: usize,
    /// Sizes of request heads.
    pub http: http1::Limits,
    /// Sizes of TLS hellos.
    pub tls: tls::Limits,
    /// Records tell the headers of requests.
    pub record_headers: bool,
    /// Refuses every ClientHello with ECH (browsers pretend to send it). Else its outer name is what is judged.
    pub deny_ech: bool,
    /// Lets QUIC of versions that cannot be read pass. Else it is dropped where server names are demanded.
    pub pass_unknown_quic: bool,
    /// QUIC connections at most; the least recently used gives way.
    pub quic_flows_max: usize,
    /// What is answered to a DNS query that no rule allows.
    pub dns_refusal: DnsRefusal,
    /// How long a request head may take from its first byte to its last.
    pub head_timeout_ns: u64,
    /// How long a connection is remembered after its last frame.
    pub idle_timeout_ns: u64,
    /// The same for one between two requests, which costs nothing to forget: it is taken up again with the next.
    pub quiet_timeout_ns: u64,
    /// Takes connections up in their middle where the kernel knows that a request begins; else they are reset. Without it
    /// a quiet connection is remembered as long as any other.
    pub take_up: bool,
    /// The kernel judges by itself what it can, if `take_up` is set: the engine knows nothing of those requests.
    pub kernel_judges: bool,
    /// How long a connection is remembered that was refused or whose opener has finished, to answer retransmissions.
    pub closed_timeout_ns: u64,
}

impl Default for EngineLimits {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            flows_max: 32_768,
            held_bytes_max: 64 << 20,
            flow_bytes_max: 256 << 10,
            http: http1::Limits::default(),
            tls: tls::Limits::default(),
            record_headers: false,
            deny_ech: false,
            pass_unknown_quic: false,
            quic_flows_max: 32_768,
            dns_refusal: DnsRefusal::default(),
            head_timeout_ns: 60 * SECOND,
            // As conntrack of the neighbours: six hours.
            idle_timeout_ns: 6 * 3600 * SECOND,
            quiet_timeout_ns: 30 * SECOND,
            take_up: true,
            kernel_judges: true,
            closed_timeout_ns: 60 * SECOND,
        }
    }
}

/// Shared by all engines (one per worker) and the agent.
#[derive(Debug)]
pub struct EngineShared {
    policy: ArcSwap<PolicyView>,
    pub(crate) request_verdicts: VerdictCache,
    pub(crate) hasher: KeyHasher,
    pub(crate) records: RecordQueue,
    pub(crate) names: Arc<Names>,
    counters: Mutex<Vec<Arc<EngineCounters>>>,
}

impl EngineShared {
    /// State without any endpoint. `verdicts_max` bounds the cache of request verdicts, `records_max` the queue of
    /// records; both are allocated now.
    #[must_use]
    pub fn new(hasher: KeyHasher, verdicts_max: usize, records_max: usize) -> Self {
        Self {
            policy: ArcSwap::default(),
            request_verdicts: VerdictCache::new(verdicts_max),
            hasher,
            records: RecordQueue::new(records_max),
            names: Arc::default(),
            counters: Mutex::default(),
        }
    }

    /// Has names learned into another table, whose sink opens their addresses.
    #[must_use]
    pub fn with_names(mut self, names: Arc<Names>) -> Self {
        self.names = names;
        self
    }

    /// The names that were learned.
    #[must_use]
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Whether the policy of this moment denies the flow by its addresses and `port`, the one that a policy names (of ICMP:
    /// the type). Where it cannot be said at this moment, or the endpoint has no policy here, whoever asks is taken at his
    /// word: it is denied.
    #[must_use]
    pub fn denies(&self, flow: &FlowKey, port: u16) -> bool {
        let view = self.load_policy();
        let Some(endpoint) = view.endpoints.get(&flow.ifindex) else {
            return true;
        };
        let direction = if flow.direction == Direction::Egress as u8 {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let identity = self.peer_identity(&view, endpoint, flow);
        identity.is_none_or(|identity| {
            let decision = endpoint.policy.lookup(direction, identity, flow.protocol, port);
            matches!(decision, L4Decision::Deny(_))
        })
    }

    /// Switches every engine to another state of policy; takes effect with the next frame of each.
    pub fn set_policy(&self, view: Arc<PolicyView>) {
        self.policy.store(view);
    }

    /// The present state of policy.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicyView> {
        self.policy.load_full()
    }

    /// The identity of the peer of an endpoint's flow. As the kernel does: what an endpoint opens goes by the names it has
    /// learned first. `None` while engine and kernel are not under the same policy.
    #[must_use]
    pub fn peer_identity(&self, view: &PolicyView, endpoint: &EndpointView, flow: &FlowKey) -> Option<IdentityId> {
        let peer = if flow.direction == Direction::Egress as u8 {
            self.names.peer(endpoint, flow)
        } else {
            Peer::Address
        };
        match peer {
            Peer::Address => {
                let address = IpAddr::V6(Ipv6Addr::from(flow.peer_addr));
                Some(view.ipcache.lookup(address).identity)
            }
            Peer::Identity(identity) => Some(identity),
            Peer::Changing => None,
        }
    }

    pub(crate) fn load_policy(&self) -> arc_swap::Guard<Arc<PolicyView>> {
        self.policy.load()
    }

    /// The oldest record that nobody has taken.
    #[must_use]
    pub fn take_record(&self) -> Option<Arc<L7Record>> {
        self.records.pop()
    }

    /// Gives a record back when it was read, so that its memory is used again.
    pub fn recycle_record(&self, record: Arc<L7Record>) {
        self.records.recycle(record);
    }

    /// Records that found the queue full.
    #[must_use]
    pub fn records_lost(&self) -> u64 {
        self.records.lost()
    }

    /// The sum of all engines' counters.
    #[must_use]
    pub fn counters(&self) -> EngineCounters {
        let sum = EngineCounters::default();
        for counters in self.registered().iter() {
            sum.merge(counters);
        }
        sum
    }

    /// Counters for one more engine. They stay in the sum when the engine is gone.
    pub(crate) fn register(&self) -> Arc<EngineCounters> {
        let counters = Arc::new(EngineCounters::default());
        self.registered().push(counters.clone());
        counters
    }

    /// Locked only to add or read counters, never by a decision.
    fn registered(&self) -> std::sync::MutexGuard<'_, Vec<Arc<EngineCounters>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
