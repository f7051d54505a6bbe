//! Metrics and health, for a scraper.
//!
//! ```text
//! ring of records ─► follow (a cursor of its own) ─► hubble::Plugins ─► families ─┐
//! kernel, engine, workers, policy ─► snapshot, made when somebody asks ───────────┴─► /metrics
//! ```
//!
//! `seventh-metrics` has the name, kind and help of each; nothing is registered here that is not in that table.

mod health;
mod hubble;
mod latency;
mod series;
mod server;
mod snapshot;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use seventh_flows::{
    Cursor, Read,
    pb::{
        flow::LostEventSource,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
};
use seventh_metrics as table;
use tokio::{task::yield_now, time::timeout};
use tracing::{error, info};

use crate::{config::MetricsConfig, observer::Observer, reloaded::Reloaded};
use hubble::Plugins;
pub(crate) use hubble::{PluginSpec, filters};
pub(crate) use latency::{Latency, LatencySum, Sampling};
use series::{Bounded, Maker, Overflow};
pub(crate) use server::{MetricsServer, listen};

/// Records that are counted before somebody else has a turn.
const BATCH: usize = 1024;
/// How long nothing may happen before the file of plugins is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is counted here, for those who scrape and those who count.
pub(crate) struct Metrics {
    own: Registry,
    plugins: ArcSwap<Vec<Arc<Registry>>>,
    lost: Bounded<prometheus_client::metrics::counter::Counter>,
    answers: Bounded<prometheus_client::metrics::counter::Counter>,
    answer_seconds: Bounded<prometheus_client::metrics::histogram::Histogram>,
    overflow: Overflow,
    /// Whether the file of plugins is in force as it is written; `None`: there is no such file.
    file_valid: Mutex<Option<bool>>,
}

impl Metrics {
    pub(crate) fn new(config: &MetricsConfig) -> Self {
        let (mut own, overflow) = (Registry::default(), Overflow::default());
        own.register(table::OVERFLOW.family(), table::OVERFLOW.help, overflow.clone());
        let mut make = Maker {
            registry: &mut own,
            max: config.series_max,
            overflow: &overflow,
        };
        Self {
            lost: make.counter(&table::LOST_EVENTS),
            answers: make.counter(&table::HTTP_HANDLER),
            answer_seconds: make.seconds(&table::HTTP_HANDLER_SECONDS),
            own,
            plugins: ArcSwap::default(),
            overflow,
            file_valid: Mutex::new(config.plugins_file.as_ref().map(|_| false)),
        }
    }

    /// What a scrape shows besides the snapshot.
    fn registries(&self) -> (&Registry, Arc<Vec<Arc<Registry>>>) {
        (&self.own, self.plugins.load_full())
    }

    fn answered(&self, code: u16, took: Duration) {
        let labels = || vec![("code", code.to_string())];
        self.answers.with(labels(), |counter| {
            counter.inc();
        });
        self.answer_seconds
            .with(labels(), |histogram| histogram.observe(took.as_secs_f64()));
    }

    fn lost(&self, source: LostEventSource, number: u64) {
        let labels = vec![("source", source.as_str_name().to_lowercase())];
        self.lost.with(labels, |counter| {
            counter.inc_by(number);
        });
    }

    fn file_valid(&self) -> Option<bool> {
        *self.file_valid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_file_valid(&self, valid: bool) {
        *self.file_valid.lock().unwrap_or_else(PoisonError::into_inner) = Some(valid);
    }
}

/// Counts what is written into the ring until the task is stopped, and follows the file of plugins.
pub(crate) async fn follow(metrics: Arc<Metrics>, observer: Arc<Observer>, config: MetricsConfig) {
    let mut plugins = Plugins::new(config.series_max, metrics.overflow.clone());
    metrics.plugins.store(Arc::new(plugins.set(&config.plugins)));
    let mut file = config.plugins_file.map(Reloaded::new);
    let mut cursor = observer.records().oldest();
    loop {
        if let Some(file) = &mut file
            && let Some(news) = file.look().await
        {
            take_up(&metrics, &mut plugins, file, news);
        }
        // Before looking: what is written after the look wakes this.
        let news = observer.news();
        if count(&metrics, &plugins, &observer, &mut cursor) == BATCH {
            yield_now().await;
        } else {
            // Nothing new is no reason to forget the file.
            let _ = timeout(LOOK, news).await;
        }
    }
}

/// Counts what is there; says how much it was.
fn count(metrics: &Metrics, plugins: &Plugins, observer: &Observer, cursor: &mut Cursor) -> usize {
    for taken in 0..BATCH {
        match observer.records().read(cursor) {
            Read::Nothing => return taken,
            Read::Lost(number) => metrics.lost(LostEventSource::HubbleRingBuffer, number),
            Read::Record(noted) if plugins.is_empty() && !noted.is_loss() => {}
            Read::Record(noted) => count_one(metrics, plugins, &noted.response()),
        }
    }
    BATCH
}

fn count_one(metrics: &Metrics, plugins: &Plugins, record: &GetFlowsResponse) {
    match &record.response_types {
        Some(ResponseTypes::Flow(flow)) => plugins.count(flow),
        Some(ResponseTypes::LostEvents(lost)) => metrics.lost(lost.source(), lost.num_events_lost),
        _ => {}
    }
}

/// Another text of the file: in force, or an error and everything as before.
fn take_up(metrics: &Metrics, plugins: &mut Plugins, file: &Reloaded, news: Result<String, String>) {
    match news.and_then(|text| PluginSpec::parse_file(&text)) {
        Ok(specs) => {
            metrics.plugins.store(Arc::new(plugins.set(&specs)));
            metrics.set_file_valid(true);
            info!(file = %file.path().display(), metrics = specs.len(), "metrics in force");
        }
        Err(e) => {
            metrics.set_file_valid(false);
            error!(file = %file.path().display(), error = e, "metrics stay as they are");
        }
    }
}

/// In seconds since 1970.
pub(crate) fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
