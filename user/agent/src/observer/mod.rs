//! What happened, as flow records: collected from kernel and engine, kept in a ring, told to whoever asks.
//!
//! ```text
//! kernel events ─┐
//! kernel answers ┼─► collector ─► ring of what happened ─► flows, made for the first who reads: GetFlows, exporters, metrics
//! engine records ┘
//! ```

mod answers;
mod audited;
mod beside;
mod clock;
mod collector;
mod directory;
mod events;
mod missing;
mod names;
mod noted;
mod record;
mod selection;
mod service;
mod streams;
mod trace;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use seventh_flows::{
    Redaction, Ring, RingCapacity, RingWriter,
    pb::{
        flow::{AgentEvent, Flow, LostEvent, LostEventSource},
        observer::{GetAgentEventsResponse, GetFlowsResponse, ServerStatusResponse, get_flows_response::ResponseTypes},
    },
};
use tokio::sync::{Notify, futures::Notified};

pub(crate) use clock::Moment;
pub(crate) use collector::{Collector, Sources};
pub(crate) use directory::{Directory, Node};
pub(crate) use missing::{Busy, Denied, Explain};
pub(crate) use names::SeenNames;
pub(crate) use noted::Noted;
pub(crate) use record::{Scribe, Seen, Uuids, tellings};
pub(crate) use service::{Address, Servers, servers};

/// Records of the agent's own events that are kept.
const AGENT_EVENTS: usize = 1023;
/// The span over which flows per second are counted.
const RATE_SPAN: Duration = Duration::from_secs(60);

/// An address as the kernel and the engine hold it.
pub(crate) fn ip(mapped: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(mapped)).to_canonical()
}

/// What the observer's parts share.
pub(crate) struct Observer {
    node: Node,
    started: Instant,
    flows: Arc<Ring<Noted>>,
    /// Flows among the records that were ever written; the others tell of losses.
    seen: AtomicU64,
    agent_events: Mutex<RingWriter<GetAgentEventsResponse>>,
    agent_ring: Arc<Ring<GetAgentEventsResponse>>,
    directory: ArcSwap<Directory>,
    /// Wakes those who follow.
    news: Notify,
    rate: Mutex<Rate>,
}

/// Seen flows at the beginning of the present and the last span.
#[derive(Clone, Copy)]
struct Rate {
    since: Instant,
    seen: u64,
    before: Option<(Duration, u64)>,
}

impl Observer {
    /// An observer that has seen nothing, and the end at which its collector writes.
    pub(crate) fn new(node: Node, capacity: RingCapacity) -> (Arc<Self>, RingWriter<Noted>) {
        let (writer, flows) = Ring::create(capacity);
        let (agent_events, agent_ring) = Ring::create(RingCapacity::new(AGENT_EVENTS).unwrap_or_default());
        let started = Instant::now();
        let observer = Self {
            node,
            started,
            flows,
            seen: AtomicU64::new(0),
            agent_events: Mutex::new(agent_events),
            agent_ring,
            directory: ArcSwap::default(),
            news: Notify::new(),
            rate: Mutex::new(Rate {
                since: started,
                seen: 0,
                before: None,
            }),
        };
        (Arc::new(observer), writer)
    }

    /// Names and labels by which records speak from now on.
    pub(crate) fn set_directory(&self, directory: Directory) {
        self.directory.store(Arc::new(directory));
    }

    /// The ring of records, for those who read all of them with a cursor of their own.
    pub(crate) fn records(&self) -> &Ring<Noted> {
        &self.flows
    }

    /// Comes when more is written after this call.
    pub(crate) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// Wakes those who wait for [`Self::news`].
    #[cfg(test)]
    pub(crate) fn wake(&self) {
        self.news.notify_waiters();
    }

    /// Tells of the agent itself.
    pub(crate) fn tell(&self, event: AgentEvent) {
        let response = GetAgentEventsResponse {
            agent_event: Some(event),
            node_name: self.node.name.clone(),
            time: Some(SystemTime::now().into()),
        };
        self.agent_events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(response);
        self.news.notify_waiters();
    }

    /// How many flows there are.
    pub(crate) fn status(&self) -> ServerStatusResponse {
        ServerStatusResponse {
            num_flows: self.flows.held(),
            max_flows: self.flows.capacity(),
            // Relaxed: a plain count.
            seen_flows: self.seen.load(Ordering::Relaxed),
            uptime_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            num_connected_nodes: Some(1),
            num_unavailable_nodes: Some(0),
            unavailable_nodes: Vec::new(),
            version: version(),
            flows_rate: self.flows_rate(),
        }
    }

    /// Over the last whole span and what there is of the present one.
    fn flows_rate(&self) -> f64 {
        let rate = *self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let (span, count) = rate.before.unwrap_or_default();
        let span = span + rate.since.elapsed();
        let count = count + self.seen.load(Ordering::Relaxed).saturating_sub(rate.seen);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if span.is_zero() {
            0.0
        } else {
            f64::from(count) / span.as_secs_f64()
        }
    }

    /// After records were written: counts, and wakes those who follow.
    fn written(&self, flows: u64) {
        let seen = self.seen.fetch_add(flows, Ordering::Relaxed) + flows;
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let span = rate.since.elapsed();
        if span >= RATE_SPAN {
            *rate = Rate {
                since: Instant::now(),
                seen,
                before: Some((span, seen.saturating_sub(rate.seen))),
            };
        }
        drop(rate);
        self.news.notify_waiters();
    }
}

/// As Hubble's servers name theirs.
fn version() -> String {
    format!("seventh v{}", env!("CARGO_PKG_VERSION"))
}

/// A flow as it is told.
fn flow_response(mut flow: Flow, redaction: &Redaction) -> GetFlowsResponse {
    redaction.apply(&mut flow);
    #[expect(deprecated, reason = "Hubble's client prints it and makes none of its own")]
    {
        flow.summary = seventh_flows::summary::summary(&flow);
    }
    GetFlowsResponse {
        node_name: flow.node_name.clone(),
        time: flow.time,
        response_types: Some(ResponseTypes::Flow(flow)),
    }
}

/// A loss as it is told.
fn lost_response(node: &str, source: LostEventSource, number: u64) -> GetFlowsResponse {
    GetFlowsResponse {
        node_name: node.to_owned(),
        time: Some(SystemTime::now().into()),
        response_types: Some(ResponseTypes::LostEvents(LostEvent {
            source: source.into(),
            num_events_lost: number,
            ..LostEvent::default()
        })),
    }
}
