//! Endpoints and policies that a capture is judged by.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use seventh_abi::mapped;
use seventh_engine::{EndpointView, EngineShared, Lacking, Names, PolicyView};
use seventh_policy::{CompiledPolicy, Ipcache, RuleOrigin, Severity};
use seventh_verdict_cache::KeyHasher;

use super::shard::SHARDS;
use crate::audit::AuditModes;
use crate::config::Config;
use crate::inventory::Inventory;
use crate::observer::Directory;
use crate::policy_store::{EndpointPolicy, Loaded, PolicyStore};
use crate::publisher::{Enforced, ipcache, view};

/// Interface of the one endpoint that everything passes where there are no policies.
pub(crate) const EVERYWHERE: u32 = 1;
/// Verdicts that all engines remember.
const VERDICTS_MAX: usize = 1 << 16;
/// Records of one engine between two looks at its queue: what waited for a missing segment is read at once, 256 KiB of the smallest
/// requests.
const RECORDS_MAX: usize = 1 << 15;
/// The keys' hash need not be secret: nobody can choose the capture after it.
const HASH_KEY: [u8; 16] = *b"seventh replays!";

/// See the module's head.
pub(crate) struct World {
    /// What the engine of each shard knows.
    pub(crate) shared: Vec<Arc<EngineShared>>,
    /// The policies in force.
    pub(crate) view: Arc<PolicyView>,
    pub(crate) directory: Directory,
    pub(crate) endpoints: Arc<Endpoints>,
    /// Every L7 rule, once.
    pub(crate) rules: Vec<Arc<RuleOrigin>>,
    naming: Option<Naming>,
}

/// Who is governed.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// Interfaces of the endpoints by their addresses; none where everything is only shown.
    by_address: Option<HashMap<[u8; 16], u32>>,
}

/// Rules mention names, so what one conversation learns decides about others.
struct Naming {
    store: PolicyStore,
    enforced: Vec<Enforced>,
    ipcache: Arc<Ipcache>,
}

impl Endpoints {
    /// Whether policies judge.
    pub(crate) const fn are_governed(&self) -> bool {
        self.by_address.is_some()
    }

    /// Interface of the endpoint that opens, and of the one that is opened to.
    pub(crate) fn of(&self, opener: [u8; 16], other: [u8; 16]) -> [Option<u32>; 2] {
        match &self.by_address {
            None => [Some(EVERYWHERE), None],
            Some(known) => [opener, other].map(|address| known.get(&address).copied()),
        }
    }
}

impl World {
    /// One without policies: everything is shown.
    pub(crate) fn visibility() -> Self {
        let endpoint = EndpointView {
            id: 0,
            name: "".into(),
            epoch: 1,
            policy: Arc::new(CompiledPolicy::observe()),
        };
        let view = Arc::new(PolicyView {
            endpoints: [(EVERYWHERE, endpoint)].into(),
            ipcache: Arc::new(Ipcache::new()),
        });
        Self {
            shared: engines(SHARDS, &view),
            view,
            directory: Directory::default(),
            endpoints: Arc::new(Endpoints { by_address: None }),
            rules: Vec::new(),
            naming: None,
        }
    }

    /// The endpoints of a file under the policies of others.
    ///
    /// # Errors
    /// One of them cannot be read or has an error; every one is told.
    pub(crate) fn under_policies(policies: &[PathBuf], endpoints: &Path) -> Result<Self> {
        let mut config = Config::load_endpoints(endpoints)?;
        ensure!(
            !config.endpoints.is_empty(),
            "{}: has no endpoints, so no policy applies to anything",
            endpoints.display()
        );
        config.policy_dirs = policies.to_vec();
        let mut store = PolicyStore::new(&config, AuditModes::configured(&config));
        let loaded = store.load(&Inventory::of_file(&config), &[&Names::default()])?;
        refuse_errors(&loaded)?;
        let enforced: Vec<Enforced> = (1..)
            .zip(config.endpoints.iter().zip(&loaded.held.endpoints))
            .zip(&loaded.policies)
            .map(|((id, (endpoint, &identity)), policy)| Enforced::at(endpoint, id, identity, Arc::clone(policy.all())))
            .collect();
        let ipcache = Arc::new(ipcache(&loaded.prefixes, &loaded.held, &[], &enforced));
        let by_name = loaded.names.are_asked_for();
        // Names are learned in one table, in the order of the capture.
        let shards = if by_name { 1 } else { SHARDS };
        let view = Arc::new(view(&enforced, Arc::clone(&ipcache)));
        let shared = engines(shards, &view);
        for shared in &shared {
            let sorted = shared.names().set_rules(&loaded.names.rules(&ipcache), false);
            sorted.ok().context("names cannot be sorted by these rules")?;
        }
        let addresses = enforced.iter().flat_map(|endpoint| {
            let ips = endpoint.config.ips.iter();
            ips.filter_map(|ip| Some((mapped(*ip), endpoint.ifindex?)))
        });
        Ok(Self {
            directory: Directory::new(&enforced, &[], store.identities(), 1),
            endpoints: Arc::new(Endpoints {
                by_address: Some(addresses.collect()),
            }),
            rules: rules(&loaded.policies),
            shared,
            view,
            naming: by_name.then_some(Naming {
                store,
                enforced,
                ipcache,
            }),
        })
    }

    /// Whether rules mention names: [`Self::tend`] has something to do.
    pub(crate) const fn is_by_name(&self) -> bool {
        self.naming.is_some()
    }

    /// Lets names go whose time is over, and gives identities to what was learned under several of them.
    pub(crate) fn tend(&mut self, now_ns: u64) {
        let (Some(naming), Some(shared)) = (&mut self.naming, self.shared.first()) else {
            return;
        };
        for Lacking { scope, class } in shared.names().tend(now_ns) {
            // Without one the addresses stay shut, as they do for an agent.
            let Ok((identity, patches)) = naming.store.define(scope, &class) else {
                continue;
            };
            for endpoint in &mut naming.enforced {
                patches.iter().for_each(|patch| endpoint.adopt(patch));
            }
            self.view = Arc::new(view(&naming.enforced, Arc::clone(&naming.ipcache)));
            shared.set_policy(Arc::clone(&self.view));
            shared.names().define(class, identity);
            self.directory = Directory::new(&naming.enforced, &[], naming.store.identities(), 1);
        }
    }
}

fn engines(count: usize, view: &Arc<PolicyView>) -> Vec<Arc<EngineShared>> {
    let engine = |_| {
        let shared = EngineShared::new(KeyHasher::from_secret(HASH_KEY), VERDICTS_MAX / count, RECORDS_MAX);
        shared.set_policy(Arc::clone(view));
        Arc::new(shared)
    };
    (0..count).map(engine).collect()
}

fn refuse_errors(loaded: &Loaded) -> Result<()> {
    let errors: Vec<_> = loaded
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    for error in &errors {
        anstream::eprintln!("{error}");
    }
    ensure!(
        errors.is_empty(),
        "{} errors in policy documents: mend them first (`seventh policy validate` shows warnings, too)",
        errors.len()
    );
    ensure!(
        loaded.documents > 0,
        "there is no policy document in what `--policy` names"
    );
    Ok(())
}

/// Every rule of every rule set, in the order of files and lines.
fn rules(policies: &[EndpointPolicy]) -> Vec<Arc<RuleOrigin>> {
    let sets = policies.iter().flat_map(|policy| policy.all().rule_sets());
    let mut rules: Vec<Arc<RuleOrigin>> = sets.flat_map(|set| set.origins().cloned()).collect();
    rules.sort_by(|a, b| (&a.file, a.line, &a.path).cmp(&(&b.file, b.line, &b.path)));
    rules.dedup_by(|a, b| (&a.file, a.line, &a.path) == (&b.file, b.line, &b.path));
    rules
}
