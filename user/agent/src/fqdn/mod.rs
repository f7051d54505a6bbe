//! Names: what answers teach reaches the kernel through here, identities for it are made here, and it is kept here from
//! one agent to the next.
//!
//! Order of locks: whoever holds the agent's state may take the table of names, never the other way round. A worker never
//! takes the state: an answer that needs a new identity waits in its engine until [`tend`] has made it.

mod config;
mod journal;
mod state;

pub(crate) use config::{FqdnConfig, FqdnSettings, RawFqdn};

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use seventh_abi::{Addr, Direction, FlowKey, FlowState, NameEntry, NameKey};
use seventh_datapath::{FlowTable, NameTable};
use seventh_engine::{Decided, Lacking, Learning, NameChange, NameSink, Names, SCOPE_NODE};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, warn};

use self::journal::Journal;
use crate::{
    agent::{Shared, State},
    api::v1,
    config::Config,
    observer::ip,
    publisher::Publisher,
};

/// How soon identities that could not be made are tried again.
const DEFINE_AGAIN: Duration = Duration::from_millis(200);
/// How often names are looked after.
const TEND: Duration = Duration::from_secs(1);
/// How often, in looks, lingering addresses are compared with the flow table.
const COLLECT_EVERY: u32 = 10;

/// Endpoints that come while one agent runs at most, as far as numbers of scopes are kept free for them.
const SCOPES_MAX: u32 = 1 << 24;

/// Writing all names down takes one part in so many of the time.
const SAVE_SHARE: u32 = 20;
/// How often it is done at most, as long as what is new can be noted beside them.
const SAVE_PAUSE: Duration = Duration::from_secs(10);

/// Where names meet the kernel.
#[derive(Debug, Default)]
pub(crate) struct KernelNames {
    target: OnceLock<Target>,
    saved: Mutex<Saved>,
    kept: OnceLock<Kept>,
    /// An answer waits for an identity.
    wanted: Notify,
    /// What tells endpoints from each other, by their numbers.
    endpoints: RwLock<HashMap<u32, String>>,
}

/// What was written down last.
#[derive(Debug, Default)]
struct Saved {
    /// [`Names::revision`].
    revision: Option<u64>,
    /// Not again before this, unless it is urgent.
    next: Option<Instant>,
    /// Not even then before this: whoever makes names change has no more of the time than [`SAVE_SHARE`].
    next_urgent: Option<Instant>,
}

/// Where names are kept from one agent to the next.
#[derive(Debug)]
struct Kept {
    state_file: PathBuf,
    /// What was learned since all names were written down.
    journal: Option<Mutex<Journal>>,
}

impl Kept {
    fn journal(&self) -> Option<MutexGuard<'_, Journal>> {
        let journal = self.journal.as_ref()?;
        Some(journal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Target {
    table: Mutex<NameTable>,
    flows: FlowTable,
    /// Scopes of the kernel begin after this one, see [`Target::scope`].
    base: u32,
}

impl Target {
    /// Number of a scope in the kernel: beyond those of an earlier agent, so that each endpoint meets the rows of one
    /// agent only.
    fn scope(&self, scope: u32) -> u32 {
        // `open` has seen that this is no number of an earlier agent.
        self.base.wrapping_add(1).wrapping_add(scope)
    }

    fn table(&self) -> MutexGuard<'_, NameTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's end of it.
#[derive(Debug)]
pub(crate) struct Sink(pub(crate) Arc<KernelNames>);

impl NameSink for Sink {
    fn apply(&self, changes: &[NameChange]) -> Vec<usize> {
        let Some(target) = self.0.target.get() else {
            return (0..changes.len()).collect();
        };
        let row = |change: &NameChange| {
            let key = NameKey {
                addr: change.addr,
                scope: target.scope(change.scope),
            };
            (key, change.entry)
        };
        let rows: Vec<(NameKey, Option<NameEntry>)> = changes.iter().map(row).collect();
        let (refused, reason) = target.table().write(&rows);
        if let Some(reason) = reason {
            error!(error = %reason, refused = refused.len(), of = rows.len(), "names");
        }
        refused
    }

    fn define(&self, _names: &Names, _lacking: &[Lacking]) {
        self.0.want_identities();
    }

    fn note(&self, news: &[Learning], now_ns: u64) {
        let Some(kept) = self.0.kept.get() else { return };
        let Some(mut journal) = kept.journal() else { return };
        // The answer goes on in any case: what is open is open, and a name can be learned anew.
        if let Err(e) = journal.append(state::records(news, &self.0.endpoints(), now_ns)) {
            warn!(
                error = format!("{e:#}"),
                "names cannot be noted: an agent that is killed would forget them"
            );
        }
    }

    fn decided(&self, flow: &FlowKey) -> Decided {
        let Some(target) = self.0.target.get() else {
            return Decided::NoKernel;
        };
        target.flows.get(flow).map_or(Decided::Unknown, |flow| Decided::By {
            peer_identity: flow.peer_identity,
            epoch: flow.epoch,
        })
    }
}

impl KernelNames {
    /// From now on names reach the kernel. Of the rows that are there only those of scopes that an endpoint in the
    /// kernel goes by stay, until [`Self::forget_stale`]: whatever else an earlier agent left (of endpoints that are
    /// gone, or of a start that failed) would be met by an endpoint that gets the number. So there are rows of two agents
    /// at most.
    ///
    /// # Errors
    /// The kernel refuses, or all numbers are used.
    pub(crate) fn open(&self, mut table: NameTable, flows: FlowTable, used: &HashSet<u32>) -> Result<()> {
        let base = used.iter().copied().max().unwrap_or(0);
        ensure!(
            base.checked_add(SCOPES_MAX).is_some(),
            "all numbers of name scopes are used; stop the agent without --keep-enforcing and start it again"
        );
        table.retain_scopes(|scope| used.contains(&scope)).context("names")?;
        let table = Mutex::new(table);
        // Only `start` calls this, once.
        let _ = self.target.set(Target { table, flows, base });
        Ok(())
    }

    /// From now on these are the endpoints, by their numbers: what tells each from all others, also from earlier ones.
    pub(crate) fn set_endpoints(&self, endpoints: HashMap<u32, String>) {
        *self.endpoints.write().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    fn endpoints(&self) -> RwLockReadGuard<'_, HashMap<u32, String>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits for identities: [`tend`] finds what lacks one, and makes it.
    pub(crate) fn want_identities(&self) {
        self.wanted.notify_one();
    }

    /// From now on what is learned is noted for the next agent before its answer goes on. Call it when no other agent runs
    /// and before workers do.
    pub(crate) fn keep(&self, config: &Config) {
        let state_file = config.fqdn.state_file.clone();
        let journal = Journal::open(journal::path_beside(&state_file));
        if let Err(e) = &journal {
            warn!(
                error = format!("{e:#}"),
                "names are written down about once a second only: an agent that is killed forgets the last ones"
            );
        }
        // Only `start` calls this, once.
        let _ = self.kept.set(Kept {
            state_file,
            journal: journal.ok().map(Mutex::new),
        });
    }

    /// The kernel's number of an endpoint's scope; 0 before [`Self::open`].
    pub(crate) fn scope(&self, endpoint_id: u32, node_wide: bool) -> u32 {
        let scope = if node_wide { SCOPE_NODE } else { endpoint_id };
        self.target.get().map_or(0, |target| target.scope(scope))
    }

    /// Forgets what an earlier agent left; call it when every endpoint has its new scope.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn forget_stale(&self) -> Result<()> {
        let Some(target) = self.target.get() else { return Ok(()) };
        target
            .table()
            .retain_scopes(|scope| scope > target.base)
            .context("names")
    }

    /// Every row that the kernel has, with the endpoint's number ([`SCOPE_NODE`] for all).
    pub(crate) fn rows(&self) -> Vec<(u32, Addr, NameEntry)> {
        let Some(target) = self.target.get() else {
            return Vec::new();
        };
        let rows = target.table().entries();
        let own = |(key, entry): (NameKey, NameEntry)| {
            let scope = key.scope.checked_sub(target.scope(SCOPE_NODE))?;
            Some((scope, key.addr, entry))
        };
        rows.into_iter().filter_map(own).collect()
    }

    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes identities for these classes and has every policy know them. One that cannot be made keeps no other from it; says
/// whether all were made.
fn define(state: &mut State, names: &Names, lacking: &[Lacking]) -> bool {
    let State { store, publisher, .. } = state;
    let Some(publisher) = publisher else { return false };
    let mut failed = None;
    for Lacking { scope, class } in lacking {
        let defined = store.define(*scope, class).and_then(|(identity, patches)| {
            publisher.extend(&patches)?;
            Ok(identity)
        });
        match defined {
            Ok(identity) => names.define(class.clone(), identity),
            Err(e) => failed = Some((*scope, e)),
        }
    }
    if let Some((endpoint, e)) = &failed {
        warn!(
            error = format!("{e:#}"),
            endpoint, "no identity for addresses learned by name"
        );
    }
    failed.is_none()
}

/// Looks after names: lets go those whose time is over, makes identities that answers wait for, shuts addresses that
/// linger without a flow, and writes down what is known.
pub(crate) async fn tend(shared: Arc<Shared>) {
    let mut ticks = interval(TEND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks: u32 = 0;
    loop {
        let wanted = tokio::select! {
            _ = ticks.tick() => false,
            () = shared.names.wanted.notified() => true,
        };
        looks = looks.wrapping_add(u32::from(!wanted));
        let looking = Arc::clone(&shared);
        let look = move || {
            let made = look_after(&looking);
            if !wanted {
                look_about(&looking, looks);
            }
            made
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(true) => {}
            // Whoever asks for what cannot be had does not keep us busy with it.
            Ok(false) => sleep(DEFINE_AGAIN).await,
            Err(e) => error!(error = %e, "looking after names failed"),
        }
    }
}

/// Whether everything that lacked an identity has one now.
fn look_after(shared: &Shared) -> bool {
    let mut made = true;
    for names in tables(shared) {
        let lacking = names.tend(shared.now_ns());
        made &= lacking.is_empty() || define(&mut shared.state(), names, &lacking);
    }
    made
}

/// The names that are gone by, and those that were learned beside the traffic.
fn tables(shared: &Shared) -> [&Arc<Names>; 2] {
    [shared.engine.names(), shared.beside.names()]
}

fn look_about(shared: &Shared, looks: u32) {
    let names = shared.engine.names();
    if looks.is_multiple_of(COLLECT_EVERY) && tables(shared).iter().any(|names| names.lingering() > 0) {
        collect(shared);
    }
    let is_due = {
        let journal = shared.names.kept.get().and_then(Kept::journal);
        let is_urgent = journal.is_some_and(|journal| journal.is_long());
        let saved = shared.names.saved();
        let now = Instant::now();
        let next = if is_urgent { saved.next_urgent } else { saved.next };
        saved.revision != Some(names.revision()) && next.is_none_or(|next| next <= now)
    };
    if is_due && let Err(e) = save(shared) {
        warn!(error = format!("{e:#}"), "{NOT_WRITTEN}");
    }
}

/// Shuts lingering addresses to which no flow goes.
fn collect(shared: &Shared) {
    let (flows, limits, endpoints) = {
        let state = shared.state();
        let Some(publisher) = &state.publisher else { return };
        let endpoints = publisher.endpoints().iter().filter_map(|e| Some((e.ifindex?, e.id)));
        (
            publisher.datapath().flows(usize::MAX),
            publisher.datapath().idle_limits(),
            endpoints.collect::<HashMap<u32, u32>>(),
        )
    };
    let now_ns = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos());
    let now_ns = u64::try_from(now_ns).unwrap_or(u64::MAX);
    // What was opened by the address alone has no need of a name, and no right to one.
    let by_name = |(key, flow): &&(FlowKey, FlowState)| key.direction == Direction::Egress as u8 && flow.by_name != 0;
    let outgoing = flows.iter().filter(by_name);
    let mut used: HashSet<(u32, Addr)> = HashSet::new();
    for (key, flow) in outgoing {
        if limits.is_live(key.protocol, flow, now_ns)
            && let Some(&endpoint) = endpoints.get(&key.ifindex)
        {
            used.extend([(endpoint, key.peer_addr), (SCOPE_NODE, key.peer_addr)]);
        }
    }
    // What the kernel does not take is tried again.
    for names in tables(shared) {
        names.collect(|scope, addr| used.contains(&(scope, *addr)));
    }
}

/// What it means that [`save`] fails.
pub(crate) const NOT_WRITTEN: &str = "names are not written down: a restart would forget them";

/// Writes down what is known, for the next agent. One at a time: two would write into the same file.
///
/// # Errors
/// It cannot be written. What is noted beside it stays.
pub(crate) fn save(shared: &Shared) -> Result<()> {
    let Some(kept) = shared.names.kept.get() else {
        return Ok(());
    };
    let mut saved = shared.names.saved();
    let begin = Instant::now();
    let names = shared.engine.names();
    // First the journal, then the list: what is learned in between stands in both.
    let turned = kept.journal().map_or(Ok(()), |mut journal| journal.turn());
    let revision = names.revision();
    let written = state::save(
        &kept.state_file,
        &names.list(),
        &shared.names.endpoints(),
        shared.now_ns(),
    );
    let (end, rest) = (Instant::now(), SAVE_SHARE * begin.elapsed());
    let pause = kept.journal.as_ref().map_or(Duration::ZERO, |_| SAVE_PAUSE);
    *saved = Saved {
        revision: written.is_ok().then_some(revision),
        next: Some(end + pause.max(rest)),
        next_urgent: Some(end + rest),
    };
    written?;
    turned?;
    kept.journal().map_or(Ok(()), |journal| journal.settle())
}

/// Takes up what an earlier agent has written down and noted, and the file of names that are known beforehand.
///
/// # Errors
/// The latter cannot be used. The former is no reason not to start.
pub(crate) fn restore(names: &Names, config: &Config, endpoints: &HashMap<u32, String>, now_ns: u64) -> Result<()> {
    let (learned, faults) = state::load(&config.fqdn.state_file, endpoints, config.fqdn.node_wide, now_ns);
    names.restore(learned, now_ns);
    for e in faults {
        warn!(
            error = format!("{e:#}"),
            "names of the last agent are lost; they are learned anew"
        );
    }
    if let Some(file) = &config.fqdn.pre_cache {
        let scopes = if config.fqdn.node_wide {
            vec![SCOPE_NODE]
        } else {
            endpoints.keys().copied().collect()
        };
        names.restore(state::pre_cache(file, &scopes, now_ns)?, now_ns);
    }
    Ok(())
}

/// What is known, in words.
pub(crate) fn list(shared: &Shared) -> Vec<v1::LearnedName> {
    let endpoints: HashMap<u32, String> = {
        let state = shared.state();
        let all = state.publisher.iter().flat_map(Publisher::endpoints);
        all.map(|endpoint| (endpoint.id, endpoint.config.name.clone()))
            .collect()
    };
    let now_ns = shared.now_ns();
    let learned = shared.engine.names().list().into_iter();
    learned
        .map(|learned| v1::LearnedName {
            endpoint: endpoints.get(&learned.scope).cloned().unwrap_or_default(),
            name: learned.name,
            ip: ip(learned.addr).to_string(),
            ttl_s: learned.expires_ns.saturating_sub(now_ns).div_ceil(1_000_000_000),
            lingers: learned.lingers,
            identity: learned.identity,
        })
        .collect()
}

/// Forgets names that match the pattern, all without one; says how many. Then the next agent does not know them either.
///
/// # Errors
/// The pattern is none, the kernel refuses, or the names that are left cannot be written down.
pub(crate) fn clean(shared: &Shared, pattern: &str) -> Result<usize> {
    let pattern = if pattern.is_empty() { "*" } else { pattern };
    let pattern = seventh_policy::name_pattern::NamePattern::pattern(pattern)
        .map_err(|reason| anyhow::anyhow!("`{pattern}` {reason}"))?;
    let names = shared.engine.names();
    let (forgotten, written) = names.forget(|_, name| pattern.is_everything() || pattern.matches(name));
    ensure!(
        written,
        "{forgotten} names are forgotten, but the kernel's table of names could not be written; it is tried again"
    );
    save(shared).with_context(|| format!("{forgotten} names are forgotten until the agent is started again"))?;
    Ok(forgotten)
}

/// Where names are written down unless the configuration says otherwise: beside the socket, on a file system that lives
/// as long as the kernel's tables do.
fn default_state_file(api: &Path) -> PathBuf {
    api.with_file_name("names.json")
}
