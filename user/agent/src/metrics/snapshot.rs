//! Numbers that lie elsewhere (kernel, engine, workers, policy), gathered when somebody asks.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, MetricEncoder, NoLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::MetricType,
    registry::Registry,
};
use seventh_abi::{Counter, DropReason, drop_counter};
use seventh_datapath::{FillReader, MapFill};
use seventh_engine::{EngineCounter, EngineCounters};
use seventh_kube::{Connection, Kind};
use seventh_metrics::{self as table, Kind as MetricKind, Metric};

use super::{LatencySum, Metrics, health, seconds_since_1970, series::Labels};
use crate::{
    agent::{Shared, State},
    export::ExporterStatus,
    inventory::{Cause, Unmanaged},
    publisher::Publisher,
    status::kernel_count,
    worker::{Life, Workers},
};

/// How old the counts of the kernel's maps may be: walking a full table takes a moment.
const FILL_AGE_MAX: Duration = Duration::from_secs(15);

/// Makes snapshots.
pub(super) struct Snapshots {
    started: SystemTime,
    fill: Option<FillReader>,
    filled: Option<(Instant, Vec<MapFill>)>,
}

/// Values of metrics at one moment.
#[derive(Debug, Default)]
struct Snapshot(Vec<(&'static Metric, Vec<(Labels, Value)>)>);

#[derive(Debug)]
enum Value {
    Count(u64),
    Level(f64),
    Sizes(LatencySum),
}

impl Snapshots {
    pub(super) fn new(shared: &Shared) -> Self {
        let fill = shared.state().publisher.as_ref().map(|p| p.datapath().fill_reader());
        Self {
            started: SystemTime::now()
                .checked_sub(shared.started.elapsed())
                .unwrap_or(SystemTime::UNIX_EPOCH),
            fill: fill.and_then(|fill| {
                fill.inspect_err(|e| tracing::warn!(error = %e, "how full the maps are is not known"))
                    .ok()
            }),
            filled: None,
        }
    }

    /// Everything as a scraper reads it.
    pub(super) fn text(&mut self, shared: &Arc<Shared>, metrics: &Metrics) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(64 << 10);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.take(shared, metrics)));
        encode_registry(&mut text, &registry)?;
        let (own, plugins) = metrics.registries();
        encode_registry(&mut text, own)?;
        for plugin in plugins.iter() {
            encode_registry(&mut text, plugin)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }

    fn take(&mut self, shared: &Shared, metrics: &Metrics) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.built();
        snapshot.level(&table::START_TIME, vec![], seconds_since_1970(self.started));
        let kernel = {
            let state = shared.state();
            snapshot.level(&table::READY, vec![], truth(health::obstacles(&state).is_empty()));
            of_workers(&mut snapshot, &state.workers);
            of_policy(&mut snapshot, &state);
            let connection = shared
                .cluster
                .as_ref()
                .map(|cluster| cluster.connection.borrow().clone());
            of_cluster(
                &mut snapshot,
                &connection.unwrap_or_default(),
                &state.inventory.unmanaged,
            );
            let datapath = state.publisher.as_ref().map(Publisher::datapath);
            datapath
                .and_then(|datapath| datapath.counters().ok())
                .unwrap_or_default()
        };
        let engine = shared.engine.counters();
        of_kernel(&mut snapshot, &kernel, &engine, shared.engine.records_lost());
        of_engine(&mut snapshot, &engine);
        of_names(&mut snapshot, shared);
        of_exporters(&mut snapshot, shared);
        self.of_maps(&mut snapshot);
        let valid = [
            ("metrics", metrics.file_valid()),
            ("flow_logs", shared.exporters.file_valid()),
        ];
        for (file, valid) in valid.into_iter().filter_map(|(file, valid)| Some((file, valid?))) {
            snapshot.level(&table::CONFIG_VALID, vec![("file", file.to_owned())], truth(valid));
        }
        snapshot
    }

    fn of_maps(&mut self, snapshot: &mut Snapshot) {
        let Some(reader) = &self.fill else { return };
        let fresh = self.filled.take().filter(|(at, _)| at.elapsed() < FILL_AGE_MAX);
        let (at, fills) = fresh.unwrap_or_else(|| (Instant::now(), reader.read()));
        for fill in &fills {
            let labels = || vec![("map", fill.map.to_owned())];
            snapshot.level(&table::MAP_ENTRIES, labels(), level(fill.entries));
            snapshot.level(&table::MAP_CAPACITY, labels(), level(fill.capacity));
        }
        self.filled = Some((at, fills));
    }
}

/// What there is to tell before anything is in force.
pub(super) fn text_while_waiting(connection: &Connection) -> Result<String, fmt::Error> {
    let mut snapshot = Snapshot::default();
    snapshot.built();
    snapshot.level(&table::READY, vec![], truth(false));
    of_cluster(&mut snapshot, connection, &[]);
    let (mut text, mut registry) = (String::new(), Registry::default());
    registry.register_collector(Box::new(snapshot));
    encode_registry(&mut text, &registry)?;
    encode_eof(&mut text)?;
    Ok(text)
}

impl Snapshot {
    fn built(&mut self) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.level(&table::BUILD_INFO, vec![("version", version)], 1.0);
    }

    fn push(&mut self, metric: &'static Metric, labels: Labels, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known.name == metric.name) {
            Some((_, samples)) => samples.push((labels, value)),
            None => self.0.push((metric, vec![(labels, value)])),
        }
    }

    fn count(&mut self, metric: &'static Metric, labels: Labels, value: u64) {
        self.push(metric, labels, Value::Count(value));
    }

    fn level(&mut self, metric: &'static Metric, labels: Labels, value: f64) {
        self.push(metric, labels, Value::Level(value));
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, samples) in &self.0 {
            let kind = match metric.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
                MetricKind::Histogram => MetricType::Histogram,
            };
            // As the registry writes the help of its own.
            let help = format!("{}.", metric.help);
            let mut encoder = encoder.encode_descriptor(metric.family(), &help, None, kind)?;
            for (labels, value) in samples {
                if labels.is_empty() {
                    value.encode(&mut encoder)?;
                } else {
                    value.encode(&mut encoder.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Count(count) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
            Self::Level(level) => encoder.encode_gauge(level),
            Self::Sizes(sum) => {
                encoder.encode_histogram::<NoLabelSet>(sum.seconds(), sum.count(), &sum.buckets(), None)
            }
        }
    }
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Beyond four thousand million it is not told exactly; no table has so many entries.
fn level(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn of_workers(snapshot: &mut Snapshot, workers: &Workers) {
    let mut lives = BTreeMap::from([("alive", 0), ("stuck", 0), ("dead", 0)]);
    for (index, report) in workers.reports().into_iter().enumerate() {
        let life = match report.life {
            Life::Alive => "alive",
            Life::Stuck => "stuck",
            Life::Dead => "dead",
        };
        *lives.entry(life).or_default() += 1;
        let labels = vec![("worker", index.to_string())];
        snapshot.count(&table::WORKER_PANICS, labels.clone(), report.panics);
        let stats = &report.stats;
        let unaccounted = usize::try_from(stats.unaccounted).unwrap_or(usize::MAX);
        snapshot.level(&table::WORKER_UNACCOUNTED, labels, level(unaccounted));
        for (way, count) in [
            ("received", stats.received),
            ("sent", stats.sent),
            ("lost_receiving", stats.lost_receiving),
            ("lost_sending", stats.lost_sending),
        ] {
            let labels = vec![("worker", index.to_string()), ("way", way.to_owned())];
            snapshot.count(&table::WORKER_FRAMES, labels, count);
        }
    }
    for (life, count) in lives {
        snapshot.level(&table::WORKERS, vec![("state", life.to_owned())], level(count));
    }
    snapshot.push(&table::VERDICT_SECONDS, vec![], Value::Sizes(workers.latency()));
}

fn of_policy(snapshot: &mut Snapshot, state: &State) {
    let shut = state
        .publisher
        .iter()
        .flat_map(Publisher::endpoints)
        .any(|endpoint| endpoint.shut.is_some());
    let current = state.failure.is_none() && state.rejections == 0 && !shut;
    snapshot.level(&table::POLICY_CURRENT, vec![], truth(current));
    snapshot.level(&table::POLICY_DOCUMENTS, vec![], level(state.documents));
    let Some(publisher) = &state.publisher else { return };
    let revision = usize::try_from(publisher.revision()).unwrap_or(usize::MAX);
    snapshot.level(&table::POLICY_REVISION, vec![], level(revision));
    if let Some(changed) = publisher.changed_at() {
        snapshot.level(&table::POLICY_CHANGE_TIME, vec![], seconds_since_1970(changed));
    }
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for endpoint in publisher.endpoints() {
        *states.entry(endpoint.state()).or_default() += 1;
    }
    for (word, count) in states {
        snapshot.level(&table::ENDPOINTS, vec![("state", word.to_owned())], level(count));
    }
}

fn of_cluster(snapshot: &mut Snapshot, connection: &Connection, unmanaged: &[Unmanaged]) {
    for cause in Cause::ALL {
        let pods = unmanaged.iter().filter(|pod| pod.cause == cause);
        snapshot.level(&table::UNMANAGED, one("cause", cause.word()), level(pods.count()));
    }
    let now = SystemTime::now();
    for kind in Kind::ALL {
        let trouble = connection.troubles.iter().find(|trouble| trouble.kind == *kind);
        let stale = trouble.map_or(0.0, |trouble| {
            now.duration_since(trouble.since).unwrap_or_default().as_secs_f64()
        });
        snapshot.level(&table::API_STALE, one("kind", kind.plural()), stale);
        let refused = connection.refused.iter().find(|(refused, _)| refused == kind);
        let refused = refused.map_or(0, |(_, count)| *count);
        snapshot.level(&table::API_REFUSED, one("kind", kind.plural()), level(refused));
    }
    snapshot.count(&table::API_UNREADABLE, vec![], connection.unreadable);
}

fn of_kernel(snapshot: &mut Snapshot, kernel: &[u64], engine: &EngineCounters, records_lost: u64) {
    let at = |index| kernel_count(kernel, index);
    for (counter, name) in Counter::ALL {
        let count = at(*counter as u32);
        match counter {
            Counter::FlowCreated => snapshot.count(&table::KERNEL_FLOWS, one("event", "created"), count),
            Counter::FlowRedecided => snapshot.count(&table::KERNEL_FLOWS, one("event", "redecided"), count),
            Counter::EventLost => snapshot.count(&table::LOST, one("source", "kernel_events"), count),
            Counter::AnswerLost => snapshot.count(&table::LOST, one("source", "kernel_answers"), count),
            Counter::CopyLost => snapshot.count(&table::LOST, one("source", "kernel_copies"), count),
            Counter::CopyCut => snapshot.count(&table::LOST, one("source", "kernel_copies_cut"), count),
            Counter::RequestLost => snapshot.count(&table::LOST, one("source", "kernel_requests"), count),
            _ => snapshot.count(&table::PACKETS, one("path", name), count),
        }
    }
    let allowed = at(Counter::RequestAllowed as u32);
    snapshot.count(&table::REQUESTS, judged("kernel", "allowed"), allowed);
    snapshot.count(&table::LOST, one("source", "engine_records"), records_lost);
    let lost = engine.path(EngineCounter::OutboxFull);
    snapshot.count(&table::LOST, one("source", "outbox"), lost);
    for &reason in DropReason::ALL {
        let count = at(drop_counter(reason)) + engine.reason(reason);
        snapshot.count(&table::DROPS, one("reason", reason.name()), count);
    }
}

fn one(label: &'static str, value: &str) -> Labels {
    vec![(label, value.to_owned())]
}

fn judged(judge: &str, verdict: &str) -> Labels {
    vec![("judge", judge.to_owned()), ("verdict", verdict.to_owned())]
}

fn of_engine(snapshot: &mut Snapshot, engine: &EngineCounters) {
    for (counter, name) in EngineCounter::ALL {
        let count = engine.path(*counter);
        let present = level(usize::try_from(count).unwrap_or(usize::MAX));
        match counter {
            EngineCounter::RequestAllowed => snapshot.count(&table::REQUESTS, judged("engine", "allowed"), count),
            EngineCounter::RequestDenied => snapshot.count(&table::REQUESTS, judged("engine", "denied"), count),
            EngineCounter::CacheHit => snapshot.count(&table::CACHE, one("result", "hit"), count),
            EngineCounter::CacheMiss => snapshot.count(&table::CACHE, one("result", "miss"), count),
            EngineCounter::BypassGranted => snapshot.count(&table::BYPASSES, vec![], count),
            EngineCounter::FlowCreated => snapshot.count(&table::CONNECTIONS_EVENTS, one("event", "created"), count),
            EngineCounter::FlowEvicted => snapshot.count(&table::CONNECTIONS_EVENTS, one("event", "evicted"), count),
            EngineCounter::FlowExpired => snapshot.count(&table::CONNECTIONS_EVENTS, one("event", "expired"), count),
            EngineCounter::Flows => snapshot.level(&table::CONNECTIONS, vec![], present),
            EngineCounter::HeldBytes => snapshot.level(&table::HELD_BYTES, vec![], present),
            // Among what is lost.
            EngineCounter::OutboxFull => {}
            _ => snapshot.count(&table::ENGINE_FRAMES, one("outcome", name), count),
        }
    }
}

fn of_names(snapshot: &mut Snapshot, shared: &Shared) {
    let learned = shared.engine.names().list();
    let names: HashSet<(u32, &str)> = learned.iter().map(|l| (l.scope, l.name.as_str())).collect();
    snapshot.level(&table::FQDN_NAMES, vec![], level(names.len()));
    let addresses = shared.engine.names().addresses();
    snapshot.level(&table::FQDN_ADDRESSES, vec![], level(addresses));
}

fn of_exporters(snapshot: &mut Snapshot, shared: &Shared) {
    let statuses = shared.exporters.statuses();
    let active = statuses.iter().filter(|status| status.active).count();
    for (word, count) in [("active", active), ("inactive", statuses.len() - active)] {
        snapshot.level(&table::EXPORTERS, one("status", word), level(count));
    }
    for ExporterStatus { name, active, stats } in &statuses {
        snapshot.level(&table::EXPORTER_UP, one("name", name), truth(*active));
        snapshot.count(&table::EXPORT_WRITTEN, one("exporter", name), stats.written());
        snapshot.count(&table::EXPORT_LOST, one("exporter", name), stats.lost());
        snapshot.count(&table::EXPORT_ERRORS, one("exporter", name), stats.errors());
    }
    if let Some(applied) = shared.exporters.applied() {
        snapshot.level(&table::EXPORTER_HASH, vec![], f64::from(applied.hash));
        snapshot.level(&table::EXPORTER_APPLIED, vec![], seconds_since_1970(applied.at));
        for (op, count) in applied.changes {
            snapshot.count(&table::EXPORTER_CHANGES, one("op", op), count);
        }
    }
}
