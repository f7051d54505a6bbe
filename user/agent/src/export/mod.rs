//! Flow records into files: each exporter has a cursor of its own in the ring, so that one whose disk is slow loses records
//! (and counts them) and nobody else waits.
//!
//! ```text
//! ring ─► exporter (task) ─► sink (blocking): filters ─► mask ─► groups ─► file, rotated ─► compressed
//! ```

mod groups;
mod sink;
mod spec;
mod target;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use seventh_flows::{Cursor, Read, pb::observer::GetFlowsResponse};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking, yield_now},
    time::{sleep, timeout},
};
use tracing::{error, info};

use crate::{observer::Observer, reloaded::Reloaded};
use sink::Sink;
pub(crate) use spec::{ExportSpec, RawExport, check_all};

/// Records that are written before anything else is looked at.
const BATCH: usize = 512;
/// How often groups, ends and the file of exporters are looked at when nothing happens.
const LOOK: Duration = Duration::from_millis(500);
/// How long an exporter may take to write what is left when it ends.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// What an exporter counts. It writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct ExportStats {
    written: AtomicU64,
    lost: AtomicU64,
    errors: AtomicU64,
}

// Relaxed throughout: plain counts.
impl ExportStats {
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// An exporter for people.
pub(crate) struct ExporterStatus {
    pub(crate) name: String,
    pub(crate) active: bool,
    pub(crate) stats: Arc<ExportStats>,
}

/// When the file of exporters was put in force.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) hash: u32,
    pub(crate) at: SystemTime,
    pub(crate) changes: [(&'static str, u64); 3],
}

/// All exporters of an agent, for those who look at them.
#[derive(Default)]
pub(crate) struct Exporters {
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    exporters: BTreeMap<String, (bool, Arc<ExportStats>)>,
    applied: Option<Applied>,
    file_valid: Option<bool>,
}

impl Exporters {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn statuses(&self) -> Vec<ExporterStatus> {
        let known = self.known();
        let status = |(name, (active, stats)): (&String, &(bool, Arc<ExportStats>))| ExporterStatus {
            name: name.clone(),
            active: *active,
            stats: Arc::clone(stats),
        };
        known.exporters.iter().map(status).collect()
    }

    pub(crate) fn applied(&self) -> Option<Applied> {
        self.known().applied.clone()
    }

    /// Whether the file of exporters is in force as it is written; `None`: there is no such file.
    pub(crate) fn file_valid(&self) -> Option<bool> {
        self.known().file_valid
    }

    fn set_active(&self, name: &str, is_active: bool) {
        if let Some((active, _)) = self.known().exporters.get_mut(name) {
            *active = is_active;
        }
    }
}

/// Runs the exporters of the configuration, and those of a file that is reloaded live, until told to stop.
pub(crate) struct Manager {
    pub(crate) exporters: Arc<Exporters>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) fixed: Vec<ExportSpec>,
    pub(crate) file: Option<Reloaded>,
}

/// One that runs.
struct Running {
    spec: ExportSpec,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Manager {
    /// Until `stop` is set; then what is in the ring is written, for a short time.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut running = Vec::new();
        for spec in std::mem::take(&mut self.fixed) {
            running.push(self.start(spec));
        }
        let fixed = running.len();
        self.exporters.known().file_valid = self.file.as_ref().map(|_| false);
        while !*stop.borrow() {
            if let Some(file) = &mut self.file
                && let Some(news) = file.look().await
            {
                self.take_up(&mut running, fixed, news).await;
            }
            // Told to stop, or nobody is left who could tell.
            if timeout(LOOK, stop.changed()).await.is_ok_and(|told| told.is_err()) {
                break;
            }
        }
        for exporter in running {
            exporter.end().await;
        }
    }

    /// Another text of the file: in force, or an error and everything as before.
    async fn take_up(&mut self, running: &mut Vec<Running>, fixed: usize, news: Result<String, String>) {
        let names = running.iter().take(fixed).map(|exporter| &exporter.spec);
        let checked = news.and_then(|text| Ok((hash(&text), spec::parse_file(&text, names)?)));
        let path = self
            .file
            .as_ref()
            .map_or_else(String::new, |file| file.path().display().to_string());
        match checked {
            Ok((hash, specs)) => {
                info!(file = path, exporters = specs.len(), "exporters in force");
                self.apply(running, fixed, specs, hash).await;
            }
            Err(e) => {
                error!(file = path, error = e, "exporters stay as they are");
                self.exporters.known().file_valid = Some(false);
            }
        }
    }

    /// Those that stay as they were are not touched.
    async fn apply(&mut self, running: &mut Vec<Running>, fixed: usize, specs: Vec<ExportSpec>, hash: u32) {
        let mut before = running.split_off(fixed);
        let (mut added, mut updated, mut removed) = (0, 0, 0);
        let mut new = Vec::new();
        for spec in specs {
            match before.iter().position(|exporter| exporter.spec.name == spec.name) {
                Some(index) if before.get(index).is_some_and(|exporter| exporter.spec == spec) => {
                    running.push(before.swap_remove(index));
                }
                Some(index) => {
                    updated += 1;
                    before.swap_remove(index).end().await;
                    new.push(spec);
                }
                None => {
                    added += 1;
                    new.push(spec);
                }
            }
        }
        // Before new ones begin: one of them may write the same file under another name.
        for exporter in before {
            removed += 1;
            self.exporters.known().exporters.remove(&exporter.spec.name);
            exporter.end().await;
        }
        for spec in new {
            running.push(self.start(spec));
        }
        let mut known = self.exporters.known();
        let so_far = known
            .applied
            .take()
            .map_or([0; 3], |applied| applied.changes.map(|(_, count)| count));
        known.file_valid = Some(true);
        known.applied = Some(Applied {
            hash,
            at: SystemTime::now(),
            changes: [
                ("add", so_far[0] + added),
                ("update", so_far[1] + updated),
                ("remove", so_far[2] + removed),
            ],
        });
    }

    fn start(&self, spec: ExportSpec) -> Running {
        let stats = {
            let mut known = self.exporters.known();
            let entry = known.exporters.entry(spec.name.clone()).or_default();
            entry.0 = true;
            Arc::clone(&entry.1)
        };
        let (stop, stopped) = watch::channel(false);
        let exporter = Exporter {
            cursor: self.observer.records().newest(),
            observer: Arc::clone(&self.observer),
            exporters: Arc::clone(&self.exporters),
            name: spec.name.clone(),
            end: spec.end,
            stats: Arc::clone(&stats),
        };
        let task = tokio::spawn(exporter.run(Sink::new(&spec, stats), stopped));
        Running { spec, stop, task }
    }
}

impl Running {
    async fn end(mut self) {
        // Gone already: its end has come.
        let _ = self.stop.send(true);
        if timeout(LAST_WRITES, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// A number that is another one with another text, small enough for any scraper's numbers.
fn hash(text: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    u32::try_from(hasher.finish() >> 32).unwrap_or(0)
}

/// One exporter's way through the ring.
struct Exporter {
    cursor: Cursor,
    observer: Arc<Observer>,
    exporters: Arc<Exporters>,
    name: String,
    end: Option<SystemTime>,
    stats: Arc<ExportStats>,
}

impl Exporter {
    async fn run(mut self, mut sink: Sink, mut stop: watch::Receiver<bool>) {
        loop {
            let observer = Arc::clone(&self.observer);
            // Before looking: what is written after the look wakes this.
            let news = observer.news();
            let ends = *stop.borrow() || self.end.is_some_and(|end| end <= SystemTime::now());
            let batch = self.take();
            let more = batch.len() == BATCH;
            let now = Instant::now();
            // One at a time: the next batch is taken when this one is on the disk.
            let written = spawn_blocking(move || {
                sink.write(&batch, now);
                if ends && !more {
                    sink.finish();
                }
                sink
            });
            let Ok(back) = written.await else { break };
            sink = back;
            if more {
                yield_now().await;
                continue;
            }
            if ends {
                break;
            }
            tokio::select! {
                () = news => {}
                () = sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
        }
        self.exporters.set_active(&self.name, false);
    }

    fn take(&mut self) -> Vec<Arc<GetFlowsResponse>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match self.observer.records().read(&mut self.cursor) {
                Read::Record(noted) => batch.push(noted.response()),
                // Relaxed: see `ExportStats`.
                Read::Lost(number) => drop(self.stats.lost.fetch_add(number, Ordering::Relaxed)),
                Read::Nothing => break,
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests;
