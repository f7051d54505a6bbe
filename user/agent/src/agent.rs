//! The running agent: starts everything in order, follows the policy directories, answers, and ends in order.

use std::{
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use notify::{RecursiveMode, Watcher as _};
use seventh_abi::Counter;
use seventh_datapath::{AnswerReader, CounterReader, Datapath, EventReader, PieceReader, RequestReader, Settings};
use seventh_engine::{EngineLimits, EngineShared, Names};
use seventh_policy::{Finding, Severity};
use seventh_verdict_cache::KeyHasher;
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{error, info, warn};

use crate::{
    api,
    audit::{AuditModes, AuditSink, CopyCounts, look_on},
    background::Background,
    config::Config,
    confine::confine,
    export,
    fqdn::{self, KernelNames},
    hubble,
    inventory::Inventory,
    kubernetes::{ClusterSide, Kubernetes},
    log_filter::LogFilter,
    metrics::{self, Metrics},
    node::{NodeLock, interface_index, raise_open_files},
    observer::{self, Address, Busy, Collector, Directory, Explain, Node, Observer, Sources},
    policy_store::{Loaded, PolicyStore},
    publisher::Publisher,
    reloaded::Reloaded,
    waiting::Waiting,
    way::Ways,
    worker::{Workers, nanoseconds},
};

/// How long answers may take that are being given when the agent ends.
const LAST_ANSWERS: Duration = Duration::from_millis(300);
/// Changes of files are one change until none comes for this long, but not for longer than the second.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Request verdicts that are remembered, and records that wait for a reader.
const VERDICTS_MAX: usize = 65_536;
const RECORDS_MAX: usize = 8192;
/// How often the agent looks after its workers, devices and addresses.
const WATCHDOG: Duration = Duration::from_secs(1);
/// Every so many looks policies are read again whatever the file system tells: it tells nothing of a directory that was
/// replaced, or on a network file system; and a change that could not be put in force is tried again.
const RELOAD_EVERY: u32 = 30;
/// Every so many looks it is written down which policies were sound.
const KEEP_EVERY: u32 = 10;

/// What the parts share. One lock: nothing here is on a packet's way.
pub(crate) struct Shared {
    pub(crate) node: String,
    /// As the agent began.
    pub(crate) config: Config,
    pub(crate) log: LogFilter,
    pub(crate) started: Instant,
    pub(crate) engine: Arc<EngineShared>,
    /// Judges copies, by what is in audit.
    pub(crate) beside: Arc<EngineShared>,
    pub(crate) copies: Arc<CopyCounts>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) names: Arc<KernelNames>,
    pub(crate) exporters: Arc<export::Exporters>,
    /// The cluster that is served.
    pub(crate) cluster: Option<ClusterSide>,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) store: PolicyStore,
    /// Who is there, as the next [`reload`] takes it.
    pub(crate) inventory: Arc<Inventory>,
    /// Taken out when the agent ends.
    pub(crate) publisher: Option<Publisher>,
    pub(crate) workers: Workers,
    /// From the kernel to them.
    pub(crate) ways: Ways,
    beside: Background,
    pub(crate) findings: Vec<Finding>,
    pub(crate) rejections: usize,
    pub(crate) dangling: usize,
    pub(crate) conflicts: usize,
    pub(crate) documents: usize,
    /// Why the last change was not put in force.
    pub(crate) failure: Option<String>,
}

impl State {
    /// After the first load was put in force.
    fn new(
        (store, inventory, loaded): (PolicyStore, Inventory, Loaded),
        publisher: Publisher,
        workers: Workers,
        beside: Background,
    ) -> Self {
        let prober = publisher.datapath().prober();
        let prober =
            prober.inspect_err(|e| warn!(error = %e, "there are no probes: health says nothing of the data path"));
        let mut state = Self {
            store,
            ways: Ways::new(prober.ok()),
            inventory: Arc::new(inventory),
            publisher: Some(publisher),
            workers,
            beside,
            findings: Vec::new(),
            rejections: 0,
            dangling: 0,
            conflicts: 0,
            documents: 0,
            failure: None,
        };
        state.note(loaded);
        state
    }

    /// What a load that is in force has found.
    fn note(&mut self, loaded: Loaded) {
        self.findings = loaded.findings;
        self.rejections = loaded.rejections;
        self.dangling = loaded.dangling;
        self.conflicts = loaded.conflicts;
        self.documents = loaded.documents;
        self.failure = None;
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Whatever panicked has been reported; the state is replaced as a whole by the next load.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an endpoint as a whole in audit, or has its policies enforced; in force, for live flows too, when this returns.
    ///
    /// # Errors
    /// It cannot be written down, or the change is not in force.
    pub(crate) fn set_audit(&self, endpoint: &str, audit: bool) -> Result<()> {
        self.state().store.set_audit(endpoint, audit)?;
        reload(self);
        match &self.state().failure {
            None => Ok(()),
            Some(reason) => bail!("it is set, but not in force yet; it is tried again: {reason}"),
        }
    }

    /// Who is there from the next [`reload`] on; says whether that is something new.
    pub(crate) fn set_inventory(&self, inventory: Inventory) -> bool {
        let mut state = self.state();
        let is_new = *state.inventory != inventory;
        if is_new {
            state.inventory = Arc::new(inventory);
        }
        is_new
    }

    /// Now, on the engine's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        nanoseconds(self.started)
    }
}

/// Runs until SIGTERM or SIGINT. With `keep`, what is enforced then stays pinned. The log can be filtered anew meanwhile.
///
/// # Errors
/// It could not start, or could not clean up.
pub async fn run(config: Config, keep: bool, log: LogFilter) -> Result<()> {
    raise_open_files()?;
    confine()?;
    let mut stop = StopSignals::new()?;
    let _lock = NodeLock::take(&config.bpffs)?;
    let mut listener = api::listen(&config.api)?;
    let (reload, changes) = mpsc::channel(1);
    let _watcher = watch_policies(&config, reload)?;
    let hubble = match &config.hubble.listen {
        Some(listen) => Some(hubble::listen(listen).await?),
        None => None,
    };
    let local = Address {
        address: format!("unix://{}", config.api.display()),
        tls_server_name: None,
    };
    // Who asks here learns where others find this node, if they can.
    let address = hubble.as_ref().map_or(local, |server| server.address().clone());
    let scraped = match &config.metrics {
        Some(metrics) => Some((metrics::listen(metrics.listen).await?, metrics.clone())),
        None => None,
    };
    let mut inventory = Inventory::of_file(&config);
    let mut cluster = match &config.kubernetes {
        Some(kubernetes) => Some(Kubernetes::connect(&config, kubernetes).await?),
        None => None,
    };
    if let Some(cluster) = &mut cluster {
        let waiting = Arc::new(Waiting::new(&config.node, cluster.side().connection));
        let page = scraped.as_ref().map(|(server, _)| server);
        let first = tokio::select! {
            first = answering(&mut listener, page, waiting, cluster.first()) => first?,
            () = stop.wait() => return Ok(()),
        };
        inventory = first;
    }
    let side = cluster.as_ref().map(Kubernetes::side);
    let (shared, collector) = start(&config, (inventory, side), log).await?;
    let collecting = collector.start()?;
    let mut tasks = vec![
        tokio::spawn(follow_changes(Arc::clone(&shared), changes)),
        tokio::spawn(keep_watch(Arc::clone(&shared))),
        tokio::spawn(fqdn::tend(Arc::clone(&shared))),
    ];
    tasks.extend(cluster.map(|cluster| tokio::spawn(cluster.follow(Arc::clone(&shared)))));
    tasks.extend(hubble.map(|server| tokio::spawn(server.serve(Arc::clone(&shared.observer)))));
    if let Some((server, config)) = scraped {
        let metrics = Arc::new(Metrics::new(&config));
        tasks.push(tokio::spawn(server.serve(Arc::clone(&shared), Arc::clone(&metrics))));
        tasks.push(tokio::spawn(metrics::follow(
            metrics,
            Arc::clone(&shared.observer),
            config,
        )));
    }
    let (stop_exporters, stopped) = watch::channel(false);
    let exporters = tokio::spawn(exporters(&shared, &config).run(stopped));
    let endpoints = shared.state().inventory.endpoints.len();
    info!(api = %config.api.display(), endpoints, "ready");
    let served = serve_until(&mut stop, listener, &shared, &address).await;
    let _ = stop_exporters.send(true);
    let _ = exporters.await;
    drop(collecting);
    // Whoever loses the API has not asked for an open gate.
    end(&shared, tasks, keep || served.is_err()).await?;
    // Somebody may have removed it already; a dead socket is replaced by the next agent anyway.
    let _ = std::fs::remove_file(&config.api);
    info!(kept = keep, "stopped");
    served
}

/// Says that it waits as long as it does. Nothing is enforced by a part of what there is; what an earlier agent left pinned
/// holds meanwhile.
async fn answering<T>(
    listener: &mut UnixListener,
    page: Option<&metrics::MetricsServer>,
    waiting: Arc<Waiting>,
    awaited: impl Future<Output = T>,
) -> Result<T> {
    let second = listener.as_fd().try_clone_to_owned().context("API")?;
    let second = UnixListener::from_std(second.into()).context("API")?;
    let (closing, closed) = oneshot::channel();
    let closed = async move {
        // Dropped or sent: both mean the end.
        let _ = closed.await;
    };
    let pages = async {
        match page {
            Some(server) => server.serve_waiting(Arc::clone(&waiting)).await,
            None => std::future::pending().await,
        }
    };
    let server = api::serve(second, Arc::clone(&waiting), None, closed);
    tokio::pin!(server);
    let first = tokio::select! {
        first = awaited => first,
        served = &mut server => return Err(served.err().unwrap_or_else(|| anyhow!("API: it has ended"))),
        () = pages => bail!("metrics: no more connections"),
    };
    // Who still asks is told to come back.
    drop::<oneshot::Sender<()>>(closing);
    let _ = timeout(LAST_ANSWERS, server).await;
    Ok(first)
}

fn exporters(shared: &Shared, config: &Config) -> export::Manager {
    export::Manager {
        exporters: Arc::clone(&shared.exporters),
        observer: Arc::clone(&shared.observer),
        fixed: config.hubble.flow_logs.clone(),
        file: config.hubble.flow_logs_file.clone().map(Reloaded::new),
    }
}

/// Serves until a signal comes. Answers that are being given may be finished, but a watcher does not hold up the end.
async fn serve_until(
    stop: &mut StopSignals,
    listener: UnixListener,
    shared: &Arc<Shared>,
    address: &Address,
) -> Result<()> {
    let (closing, closed) = oneshot::channel();
    let closed = async move {
        // Dropped or sent: both mean the end.
        let _ = closed.await;
    };
    let services = observer::servers(&shared.observer, address);
    let server = api::serve(listener, Arc::clone(shared), Some(services), closed);
    tokio::pin!(server);
    tokio::select! {
        served = &mut server => return served,
        () = stop.wait() => {}
    }
    drop::<oneshot::Sender<()>>(closing);
    timeout(LAST_ANSWERS, server).await.unwrap_or(Ok(()))
}

struct StopSignals {
    term: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on these signals do not kill.
    fn new() -> Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => info!("SIGTERM"),
            _ = self.interrupt.recv() => info!("SIGINT"),
        }
    }
}

/// Everything that can be wrong in files and names is found before the kernel is touched. Then kernel programs, policy,
/// workers, attachment: in this order, so that the first packet at an attached device meets a complete policy and
/// somebody who inspects.
async fn start(
    config: &Config,
    (inventory, cluster): (Inventory, Option<ClusterSide>),
    log: LogFilter,
) -> Result<(Arc<Shared>, Collector)> {
    let started = Instant::now();
    let mut store = PolicyStore::new(config, AuditModes::kept(config)?);
    let names = Arc::new(KernelNames::default());
    let [engine, beside] = engines(config, &names)?;
    let numbers = inventory.first_numbers();
    fqdn::restore(engine.names(), config, &numbers, nanoseconds(started))?;
    let loaded = store.load(&inventory, &[engine.names(), beside.names()])?;
    log_findings(&loaded.findings);
    check_loaded(&loaded)?;
    check_interfaces(config)?;
    let (mut datapath, channels) = Datapath::start(settings(config)).await?;
    let rings = Rings::take(&mut datapath);
    let copies = datapath.take_copies();
    let kernel_lost = kernel_lost(datapath.counter_reader());
    if let Some(table) = datapath.take_names() {
        let scopes = datapath.endpoints().values().map(|old| old.name_scope).collect();
        names.open(table, datapath.flow_table()?, &scopes)?;
    }
    names.set_endpoints(numbers);
    names.keep(config);
    let mut workers = Workers::new(channels, &engine, limits(config), started);
    let engines = [Arc::clone(&engine), Arc::clone(&beside)];
    let mut publisher = Publisher::new(datapath, engines, Arc::clone(&names), config);
    let begun = put_in_force(&mut publisher, &mut workers, &mut store, &loaded, cluster.is_some());
    let failure = match begun {
        Ok(failure) => failure,
        Err(e) => {
            workers.stop();
            // Enforcement that an earlier agent left stays; what this one began does not.
            let keep = publisher.took_over();
            if let Err(cleaning) = publisher.stop(keep).await {
                error!(error = format!("{cleaning:#}"), "cleaning up");
            }
            return Err(e);
        }
    };
    let (observer, writer) = Observer::new(node(config), config.hubble.capacity);
    observer.set_directory(directory(&publisher, &store, &inventory));
    observer.agent_started(publisher.endpoints());
    let counts = Arc::new(CopyCounts::default());
    let looking = look_on(copies, &beside, limits(config), started, &counts)?;
    let shared = Arc::new(Shared {
        node: config.node.clone(),
        config: config.clone(),
        log,
        started,
        engine,
        beside,
        copies: counts,
        observer: Arc::clone(&observer),
        names: Arc::clone(&names),
        exporters: Arc::default(),
        cluster,
        state: Mutex::new(State::new((store, inventory, loaded), publisher, workers, looking)),
    });
    shared.state().failure = failure;
    let sources = sources(&shared, config, rings, kernel_lost);
    let collector = Collector::new(
        observer,
        writer,
        sources,
        config.hubble.redaction.clone(),
        explain(&shared),
    );
    Ok((shared, collector))
}

/// What the kernel tells.
struct Rings {
    events: Option<EventReader>,
    answers: Option<AnswerReader>,
    pieces: Option<PieceReader>,
    requests: Option<RequestReader>,
}

impl Rings {
    fn take(datapath: &mut Datapath) -> Self {
        Self {
            events: datapath.take_events(),
            answers: datapath.take_answers(),
            pieces: datapath.take_pieces(),
            requests: datapath.take_requests(),
        }
    }
}

/// What the engine goes by that decides, and the one that only looks on.
fn engines(config: &Config, names: &Arc<KernelNames>) -> Result<[Arc<EngineShared>; 2]> {
    let hasher = || KeyHasher::random().map_err(|e| anyhow!("no random bytes from the system: {e}"));
    let new = |names| -> Result<_> {
        let shared = EngineShared::new(hasher()?, VERDICTS_MAX, RECORDS_MAX);
        Ok(Arc::new(shared.with_names(names)))
    };
    let limits = config.fqdn.limits;
    let table = Arc::new(Names::new(limits, Box::new(fqdn::Sink(Arc::clone(names)))));
    let beside = Names::new(limits, Box::new(AuditSink(Arc::clone(names))));
    let beside = beside.with_others(Arc::clone(&table));
    Ok([new(table)?, new(Arc::new(beside))?])
}

fn sources(shared: &Shared, config: &Config, rings: Rings, kernel_lost: Box<dyn Fn() -> u64 + Send>) -> Sources {
    Sources {
        engine: Arc::clone(&shared.engine),
        beside: Arc::clone(&shared.beside),
        name_limits: config.fqdn.limits,
        workers_began: shared.started,
        events: rings.events,
        answers: rings.answers,
        pieces: rings.pieces,
        requests: rings.requests,
        record_headers: limits(config).record_headers,
        kernel_lost,
    }
}

/// Names and labels by which records speak.
fn directory(publisher: &Publisher, store: &PolicyStore, inventory: &Inventory) -> Directory {
    let workloads = inventory.cluster.as_ref().map_or(&[][..], |cluster| &cluster.workloads);
    Directory::new(
        publisher.endpoints(),
        workloads,
        store.identities(),
        publisher.revision(),
    )
}

/// A document of this node that is wrong is its administrator's to mend. One of a cluster may be anybody's, and must not
/// keep an agent from starting; it is told in its status.
fn check_loaded(loaded: &Loaded) -> Result<()> {
    ensure!(
        loaded.rejections_in_files == 0,
        "{} errors in policy documents (see above; `seventh policy validate PATH` shows them, too); an agent does not \
         start with a part of its policies",
        loaded.rejections_in_files
    );
    Ok(())
}

fn limits(config: &Config) -> EngineLimits {
    EngineLimits {
        dns_refusal: config.fqdn.refusal,
        deny_ech: config.tls.deny_ech,
        pass_unknown_quic: config.tls.pass_unknown_quic,
        record_headers: config.hubble.http_headers,
        ..config.inspection
    }
}

/// This node in flow records.
fn node(config: &Config) -> Node {
    let labels = &config.hubble.node_labels;
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    Node::new(&config.hubble.cluster, &config.node, labels.collect())
}

/// Looks for the rule that came nearest.
fn explain(shared: &Arc<Shared>) -> Explain {
    // The ring of records, which asks, is the agent's own.
    let shared = Arc::downgrade(shared);
    Box::new(move |denied, revision| {
        let shared = shared.upgrade().ok_or(Busy)?;
        // Who reads records does not wait for a change of policy.
        let state = shared.state.try_lock().map_err(|_| Busy)?;
        let publisher = state
            .publisher
            .as_ref()
            .filter(|p| p.revision() == revision)
            .ok_or(Busy)?;
        let mut endpoints = publisher.endpoints().iter();
        let endpoint = endpoints.find(|endpoint| endpoint.ifindex == Some(denied.ifindex));
        Ok(endpoint.and_then(|endpoint| state.store.nearest(&endpoint.config, denied)))
    })
}

/// How many records the kernel's rings had no room for. Asked every second by whoever empties them, who must not wait for
/// a change of policy.
fn kernel_lost(counters: CounterReader) -> Box<dyn Fn() -> u64 + Send> {
    Box::new(move || {
        let at = |counter: Counter| counters.read(counter as u32).unwrap_or(0);
        at(Counter::EventLost) + at(Counter::AnswerLost) + at(Counter::CopyLost) + at(Counter::RequestLost)
    })
}

fn put_in_force(
    publisher: &mut Publisher,
    workers: &mut Workers,
    store: &mut PolicyStore,
    loaded: &Loaded,
    is_cluster: bool,
) -> Result<Option<String>> {
    // Frames of flows that an earlier agent left wait in the sockets until the engine has its view.
    let failure = match publisher.publish(loaded, store) {
        Ok(_) => None,
        // Pods come and go while they are looked at: one that fails is tried again, and keeps no other from its policy.
        Err(e) if is_cluster && publisher.revision() > 0 => Some(e),
        Err(e) => return Err(e),
    };
    workers.start()?;
    publisher.forget_stale()?;
    Ok(failure.map(|e| {
        error!(error = format!("{e:#}"), "not everything is in force");
        format!("{e:#}")
    }))
}

fn check_interfaces(config: &Config) -> Result<()> {
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        if interface_index(&endpoint.interface).is_none() {
            bail!(
                "{}: endpoints[{index}].interface ({}): there is no device `{}` in this network namespace (see `ip link`)",
                config.file.display(),
                endpoint.name,
                endpoint.interface
            );
        }
    }
    Ok(())
}

fn settings(config: &Config) -> Settings {
    Settings {
        bpffs: config.bpffs.clone(),
        workers: config.workers,
        mark: config.mark,
        attach: config.attach,
        flows_max: config.flows_max,
        policy_entries_max: config.policy_rows_max,
        ipcache_entries_max: config.ipcache_max,
        open_without_agent: config.open_without_agent,
        // While one agent takes over from another, rows of both are there.
        names_max: u32::try_from(2 * config.fqdn.limits.rows_max()).unwrap_or(u32::MAX),
        ..Settings::default()
    }
}

async fn end(shared: &Shared, tasks: Vec<JoinHandle<()>>, keep: bool) -> Result<()> {
    for task in tasks {
        task.abort();
    }
    let publisher = {
        let mut state = shared.state();
        state.workers.stop();
        state.beside.end();
        state.publisher.take()
    };
    keep_policies(shared).await;
    if let Err(e) = fqdn::save(shared) {
        warn!(error = format!("{e:#}"), "{}", fqdn::NOT_WRITTEN);
    }
    match publisher {
        Some(publisher) => publisher.stop(keep).await.context("cleaning up"),
        None => Ok(()),
    }
}

/// Watches for changes; a path that is not there is an error, since its policies would be missed. A file is watched
/// through its directory: editors put a new file in its place.
fn watch_policies(config: &Config, reload: mpsc::Sender<()>) -> Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is no change of it. A full channel means that a reload is due already.
        if event.map_or(true, |event| !event.kind.is_access()) {
            let _ = reload.try_send(());
        }
    })?;
    for path in &config.policy_dirs {
        let failed = || format!("{}: policyDirs: cannot watch {}", config.file.display(), path.display());
        let metadata = std::fs::metadata(path).with_context(failed)?;
        // Whoever reads a pipe waits for somebody who writes.
        ensure!(
            metadata.is_dir() || metadata.is_file(),
            "{}: it is neither a file nor a directory",
            failed()
        );
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let (watched, mode) = if metadata.is_dir() {
            (path.as_path(), RecursiveMode::Recursive)
        } else {
            (parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)
        };
        watcher.watch(watched, mode).with_context(failed)?;
    }
    if config.policy_dirs.is_empty() && config.kubernetes.is_none() {
        warn!("policyDirs is empty: there are no policies");
    }
    Ok(watcher)
}

async fn follow_changes(shared: Arc<Shared>, mut changes: mpsc::Receiver<()>) {
    while changes.recv().await.is_some() {
        let first = Instant::now();
        while first.elapsed() < SETTLE_MAX && timeout(SETTLE, changes.recv()).await.is_ok_and(|c| c.is_some()) {}
        reload_aside(&shared).await;
    }
}

/// Reloads on a thread where it may take its time.
pub(crate) async fn reload_aside(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    if let Err(e) = tokio::task::spawn_blocking(move || reload(&shared)).await {
        error!(error = %e, "reloading policies failed; the policy in force stays in force");
    }
}

/// Reads what has changed and puts it in force; if that fails, why is in the state.
pub(crate) fn reload(shared: &Shared) {
    let mut state = shared.state();
    let State {
        store,
        publisher,
        inventory,
        ..
    } = &mut *state;
    let Some(publisher) = publisher else { return };
    let loaded = store.load(inventory, &[shared.engine.names(), shared.beside.names()]);
    let published = loaded.map(|loaded| {
        let published = publisher.publish(&loaded, store);
        (loaded, published)
    });
    shared.observer.set_directory(directory(publisher, store, inventory));
    let failure = match published {
        Ok((loaded, published)) => {
            if published.as_ref().is_ok_and(|changed| *changed) {
                shared
                    .observer
                    .policy_updated(publisher.endpoints(), publisher.revision(), loaded.documents);
            }
            if loaded.findings != state.findings {
                log_findings(&loaded.findings);
            }
            // What is wrong with documents is known, whatever the kernel says.
            state.note(loaded);
            published.err()
        }
        Err(e) => Some(e),
    };
    if let Some(e) = failure {
        error!(error = format!("{e:#}"), "not everything is in force");
        let endpoints = state.publisher.as_ref().map_or(&[][..], Publisher::endpoints);
        shared.observer.policy_failed(endpoints, &format!("{e:#}"));
        state.failure = Some(format!("{e:#}"));
    }
}

fn log_findings(findings: &[Finding]) {
    for finding in findings {
        match finding.severity {
            Severity::Error => error!("{finding}"),
            Severity::Warning => warn!("{finding}"),
        }
    }
}

/// Writes down, beside the runtime, what the next agent has to know of policies.
async fn keep_policies(shared: &Shared) {
    let Some(kept) = shared.state().store.take_kept() else {
        return;
    };
    let written = tokio::task::spawn_blocking(move || kept.write()).await;
    if let Err(e) = written.map_err(anyhow::Error::from).flatten() {
        warn!(
            error = format!("{e:#}"),
            "an agent that starts anew does not know how policies were that are broken then"
        );
    }
}

/// Looks after what changes without a file: workers, devices of endpoints, addresses of the node.
async fn keep_watch(shared: Arc<Shared>) {
    let mut ticks = interval(WATCHDOG);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks: u32 = 0;
    loop {
        ticks.tick().await;
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(KEEP_EVERY) {
            keep_policies(&shared).await;
        }
        let due = {
            let mut state = shared.state();
            for problem in state.workers.look(Instant::now()) {
                error!("{problem}");
            }
            let State { ways, workers, .. } = &mut *state;
            ways.look(workers.reports().into_iter().map(|report| report.stats));
            let changed = state.publisher.as_ref().is_some_and(Publisher::surroundings_changed);
            changed || state.store.is_waiting() || looks.is_multiple_of(RELOAD_EVERY)
        };
        if due {
            reload_aside(&shared).await;
        }
    }
}
