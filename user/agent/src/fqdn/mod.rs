//! Names: what answers teach reaches the kernel through here, identities for it are made here, and it is kept here from
//! one agent to the next.
//!
//! Order of locks: whoever holds the agent's state may take the table of names, never the other way round. A worker that
//! needs a new identity for an answer holds neither and waits for the state a moment.

mod config;
mod state;

pub(crate) use config::{FqdnConfig, FqdnSettings, RawFqdn};

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError, Weak},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use seventh_abi::{Addr, Direction, FlowFlags, FlowState, NameKey};
use seventh_datapath::{NameTable, Settings};
use seventh_engine::{NameChange, NameClass, NameSink, Names, NamesNotTaken, SCOPE_NODE};
use seventh_parsers::packet::PROTOCOL_TCP;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use crate::{
    agent::{Shared, State},
    api::v1,
    config::Config,
    observer::ip,
    publisher::Publisher,
};

/// How long an answer waits at most for a new identity while policy is being changed. The client asks again later.
const DEFINE_WAIT: Duration = Duration::from_millis(250);
/// How often a waiting worker looks.
const DEFINE_POLL: Duration = Duration::from_millis(1);
/// Identities that are made while answers wait, between two changes of policy, at most. They are one per combination of
/// selectors; whoever makes more of them plays games.
const CLASSES_MAX: usize = 4096;
/// How often names are looked after.
const TEND: Duration = Duration::from_secs(1);
/// How often, in looks, lingering addresses are compared with the flow table.
const COLLECT_EVERY: u32 = 10;

/// Writing names down takes one part in so many of the time.
const SAVE_SHARE: u32 = 20;

/// Where names meet the kernel.
#[derive(Debug, Default)]
pub(crate) struct KernelNames {
    target: OnceLock<Target>,
    shared: OnceLock<Weak<Shared>>,
    saved: Mutex<Saved>,
}

/// What was written down last.
#[derive(Debug, Default)]
struct Saved {
    /// [`Names::revision`].
    revision: Option<u64>,
    /// Not again before this: writing takes a twentieth of the time at most.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Target {
    table: Mutex<NameTable>,
    /// Scopes of the kernel begin after this one, see [`Target::scope`].
    base: u32,
}

impl Target {
    /// Number of a scope in the kernel: beyond those of an earlier agent, so that each endpoint meets the rows of one
    /// agent only.
    fn scope(&self, scope: u32) -> u32 {
        self.base.wrapping_add(1).wrapping_add(scope)
    }
}

/// The engine's end of it.
#[derive(Debug)]
pub(crate) struct Sink(pub(crate) Arc<KernelNames>);

impl NameSink for Sink {
    fn apply(&self, changes: &[NameChange]) -> Result<(), NamesNotTaken> {
        let target = self.0.target.get().ok_or(NamesNotTaken)?;
        let mut table = target.table.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let key = NameKey {
                addr: change.addr,
                scope: target.scope(change.scope),
            };
            let done = match change.entry {
                Some(entry) => table.set(key, entry),
                None => table.remove(&key),
            };
            done.map_err(|e| {
                error!(error = %e, "names");
                NamesNotTaken
            })?;
        }
        Ok(())
    }

    fn define(&self, names: &Names, classes: &[NameClass]) -> Result<(), NamesNotTaken> {
        let shared = self.0.shared.get().and_then(Weak::upgrade).ok_or(NamesNotTaken)?;
        let deadline = Instant::now() + DEFINE_WAIT;
        let mut state = loop {
            match shared.try_state() {
                Ok(state) => break state,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(DEFINE_POLL),
                Err(TryLockError::WouldBlock) => return Err(NamesNotTaken),
            }
        };
        define(&mut state, names, classes).map_err(|e| {
            warn!(error = format!("{e:#}"), "no identity for addresses learned by name");
            NamesNotTaken
        })
    }
}

impl KernelNames {
    /// From now on names reach the kernel; its scopes begin after `base`.
    pub(crate) fn open(&self, table: NameTable, base: u32) {
        let table = Mutex::new(table);
        // Only `start` calls this, once.
        let _ = self.target.set(Target { table, base });
    }

    /// From now on identities can be made.
    pub(crate) fn serve(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
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
        let mut table = target.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain_scopes(|scope| scope > target.base).context("names")
    }
}

/// Makes identities for these classes and has every policy know them.
///
/// # Errors
/// There are too many, or the kernel refuses; nothing is open by them then.
pub(crate) fn define(state: &mut State, names: &Names, classes: &[NameClass]) -> Result<()> {
    let State { store, publisher, .. } = state;
    let publisher = publisher.as_mut().context("the agent is ending")?;
    for class in classes {
        let (identity, patches) = store.define(class, CLASSES_MAX)?;
        publisher.extend(&patches)?;
        names.define(class.clone(), identity);
    }
    Ok(())
}

/// Looks after names: lets go those whose time is over, addresses that linger without a flow, and writes down what is
/// known.
pub(crate) async fn tend(shared: Arc<Shared>, config: Config) {
    let mut ticks = interval(TEND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks: u32 = 0;
    loop {
        ticks.tick().await;
        looks = looks.wrapping_add(1);
        let (shared, config) = (Arc::clone(&shared), config.clone());
        let look = move || look_after(&shared, &config, looks);
        if let Err(e) = tokio::task::spawn_blocking(look).await {
            error!(error = %e, "looking after names failed");
        }
    }
}

fn look_after(shared: &Shared, config: &Config, looks: u32) {
    let names = shared.engine.names();
    let now_ns = shared.now_ns();
    // Twice: what has got its identity by the first look is opened by the second.
    for _ in 0..2 {
        match names.tend(now_ns) {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => {
                if let Err(e) = define(&mut shared.state(), names, &missing) {
                    warn!(error = format!("{e:#}"), "no identity for addresses learned by name");
                }
            }
            Err(NamesNotTaken) => break,
        }
    }
    if looks.is_multiple_of(COLLECT_EVERY) && names.lingering() > 0 {
        collect(shared);
    }
    let saved = || shared.names.saved.lock().unwrap_or_else(PoisonError::into_inner);
    let revision = names.revision();
    let now = Instant::now();
    if saved().revision != Some(revision) && saved().next.is_none_or(|next| next <= now) {
        save(shared, config);
        *saved() = Saved {
            revision: Some(revision),
            next: Some(now + SAVE_SHARE * now.elapsed()),
        };
    }
}

/// Shuts lingering addresses to which no flow goes.
fn collect(shared: &Shared) {
    let (flows, endpoints) = {
        let state = shared.state();
        let Some(publisher) = &state.publisher else { return };
        let endpoints = publisher.endpoints().iter().filter_map(|e| Some((e.ifindex?, e.id)));
        (
            publisher.datapath().flows(usize::MAX),
            endpoints.collect::<std::collections::HashMap<u32, u32>>(),
        )
    };
    let now_ns = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos());
    let outgoing = flows.iter().filter(|(key, _)| key.direction == Direction::Egress as u8);
    let mut used: HashSet<(u32, Addr)> = HashSet::new();
    for (key, flow) in outgoing {
        if is_live(key.protocol, flow, now_ns)
            && let Some(&endpoint) = endpoints.get(&key.ifindex)
        {
            used.extend([(endpoint, key.peer_addr), (SCOPE_NODE, key.peer_addr)]);
        }
    }
    // What the kernel does not take is tried again.
    let _ = shared
        .engine
        .names()
        .collect(|scope, addr| used.contains(&(scope, *addr)));
}

/// Whether the kernel still goes by the entry (`kern/prog/src/hook.rs::live_flow`).
fn is_live(protocol: u8, flow: &FlowState, now_ns: u128) -> bool {
    let limits = Settings::default();
    let limit_s = if protocol != PROTOCOL_TCP {
        limits.other_idle_s
    } else if flow.flags & FlowFlags::CLOSING != 0 || flow.flags & FlowFlags::REPLIED == 0 {
        limits.tcp_closing_s
    } else {
        limits.tcp_idle_s
    };
    now_ns.saturating_sub(u128::from(flow.last_seen_ns)) <= Duration::from_secs(limit_s).as_nanos()
}

/// Writes down what is known, for the next agent.
pub(crate) fn save(shared: &Shared, config: &Config) {
    let learned = shared.engine.names().list();
    if let Err(e) = state::save(&config.fqdn.state_file, &learned, &config.endpoints, shared.now_ns()) {
        warn!(
            error = format!("{e:#}"),
            "names are not written down: a restart would forget them"
        );
    }
}

/// Takes up what an earlier agent has written down, and the file of names that are known beforehand.
///
/// # Errors
/// The latter cannot be used. The former is no reason not to start.
pub(crate) fn restore(names: &Names, config: &Config, now_ns: u64) -> Result<()> {
    match state::load(&config.fqdn.state_file, config, now_ns) {
        Ok(learned) => names.restore(learned, now_ns),
        Err(e) => warn!(
            error = format!("{e:#}"),
            "names of the last agent are lost; they are learned anew"
        ),
    }
    if let Some(file) = &config.fqdn.pre_cache {
        names.restore(state::pre_cache(file, config, now_ns)?, now_ns);
    }
    Ok(())
}

/// What is known, in words.
pub(crate) fn list(shared: &Shared) -> Vec<v1::LearnedName> {
    let endpoints: std::collections::HashMap<u32, String> = {
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

/// Forgets names that match the pattern, all without one; says how many.
///
/// # Errors
/// The pattern is none, or the kernel refuses.
pub(crate) fn clean(shared: &Shared, pattern: &str) -> Result<usize> {
    let pattern = if pattern.is_empty() { "*" } else { pattern };
    let pattern = seventh_policy::name_pattern::NamePattern::pattern(pattern)
        .map_err(|reason| anyhow::anyhow!("`{pattern}` {reason}"))?;
    let forgotten = shared
        .engine
        .names()
        .forget(|_, name| pattern.is_everything() || pattern.matches(name));
    forgotten.map_err(|NamesNotTaken| anyhow::anyhow!("the kernel's table of names cannot be written"))
}

/// Where names are written down unless the configuration says otherwise: beside the socket, on a file system that lives
/// as long as the kernel's tables do.
fn default_state_file(api: &Path) -> std::path::PathBuf {
    api.with_file_name("names.json")
}
