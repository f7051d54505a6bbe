//! Endpoints and policies that a capture is judged by.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use seventh_abi::mapped_v4;
use seventh_engine::{EndpointView, EngineShared, PolicyView};
use seventh_policy::{CompiledPolicy, Ipcache, Owner, RuleOrigin, RuleSetKind, Severity};
use seventh_verdict_cache::KeyHasher;

use crate::config::Config;
use crate::observer::Directory;
use crate::policy_store::{Loaded, PolicyStore};
use crate::publisher::Enforced;

/// Interface of the one endpoint that everything passes where there are no policies.
pub(crate) const EVERYWHERE: u32 = 1;
/// Verdicts that are remembered.
const VERDICTS_MAX: usize = 1 << 16;
/// Records between two looks at the queue: what waited for a missing segment is read at once, 256 KiB of the smallest
/// requests.
const RECORDS_MAX: usize = 1 << 15;
/// The keys' hash need not be secret: nobody can choose the capture after it.
const HASH_KEY: [u8; 16] = *b"seventh replays!";

/// See the module's head.
pub(crate) struct World {
    pub(crate) shared: Arc<EngineShared>,
    pub(crate) directory: Directory,
    /// Interfaces of the endpoints by their addresses; none where everything is only shown.
    endpoints: Option<HashMap<[u8; 16], u32>>,
    /// Every L7 rule, once.
    pub(crate) rules: Vec<Arc<RuleOrigin>>,
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
        let shared = engine_shared();
        shared.set_policy(Arc::new(PolicyView {
            endpoints: [(EVERYWHERE, endpoint)].into(),
            ipcache: Arc::new(Ipcache::new()),
        }));
        Self {
            shared,
            directory: Directory::default(),
            endpoints: None,
            rules: Vec::new(),
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
        let shared = engine_shared();
        let (mut store, identities) = PolicyStore::new(&config)?;
        let loaded = store.load(&config.endpoints, shared.names())?;
        refuse_errors(&loaded)?;
        let enforced: Vec<Enforced> = (1..)
            .zip(config.endpoints.iter().zip(identities))
            .zip(&loaded.policies)
            .map(|((id, (endpoint, identity)), policy)| Enforced::at(endpoint, id, identity, Arc::clone(policy)))
            .collect();
        let ipcache = Arc::new(ipcache(&enforced, &loaded));
        let names = shared.names().set_rules(&loaded.names.rules(&ipcache), false);
        names.ok().context("names cannot be sorted by these rules")?;
        let views = enforced.iter().filter_map(|endpoint| {
            let view = EndpointView {
                id: endpoint.id,
                name: endpoint.config.name.as_str().into(),
                epoch: endpoint.epoch,
                policy: endpoint.policy.clone()?,
            };
            Some((endpoint.ifindex?, view))
        });
        shared.set_policy(Arc::new(PolicyView {
            endpoints: views.collect(),
            ipcache,
        }));
        let addresses = enforced.iter().flat_map(|endpoint| {
            let ips = endpoint.config.ips.iter();
            ips.filter_map(|ip| Some((mapped(*ip), endpoint.ifindex?)))
        });
        Ok(Self {
            directory: Directory::new(&enforced, store.identities(), 1),
            endpoints: Some(addresses.collect()),
            rules: rules(&loaded.policies),
            shared,
        })
    }

    /// Whether policies judge.
    pub(crate) const fn judges(&self) -> bool {
        self.endpoints.is_some()
    }

    /// Interface of the endpoint that opens, and of the one that is opened to.
    pub(crate) fn endpoints_of(&self, opener: [u8; 16], other: [u8; 16]) -> [Option<u32>; 2] {
        match &self.endpoints {
            None => [Some(EVERYWHERE), None],
            Some(known) => [opener, other].map(|address| known.get(&address).copied()),
        }
    }
}

fn engine_shared() -> Arc<EngineShared> {
    Arc::new(EngineShared::new(
        KeyHasher::from_secret(HASH_KEY),
        VERDICTS_MAX,
        RECORDS_MAX,
    ))
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

fn ipcache(endpoints: &[Enforced], loaded: &Loaded) -> Ipcache {
    let mut ipcache = Ipcache::new();
    for (prefix, identity) in &loaded.prefixes {
        let owner = Owner {
            identity: *identity,
            ifindex: 0,
        };
        ipcache.insert(*prefix, owner);
    }
    for endpoint in endpoints {
        for address in &endpoint.config.ips {
            let owner = Owner {
                identity: endpoint.identity,
                ifindex: endpoint.ifindex.unwrap_or(0),
            };
            ipcache.insert(IpNet::from(*address), owner);
        }
    }
    ipcache
}

/// Every rule of every rule set, in the order of files and lines.
fn rules(policies: &[Arc<CompiledPolicy>]) -> Vec<Arc<RuleOrigin>> {
    let mut rules: Vec<Arc<RuleOrigin>> = Vec::new();
    for set in policies.iter().flat_map(|policy| policy.rule_sets()) {
        let origin = |index: u32| match set.kind() {
            RuleSetKind::Http(rules) => rules.origin(index),
            RuleSetKind::Dns(rules) => rules.origin(index),
            RuleSetKind::Tls(rules) => rules.origin(index),
            RuleSetKind::Observe => None,
        };
        rules.extend((0..).map_while(origin).cloned());
    }
    rules.sort_by(|a, b| (&a.file, a.line, &a.path).cmp(&(&b.file, b.line, &b.path)));
    rules.dedup_by(|a, b| (&a.file, a.line, &a.path) == (&b.file, b.line, &b.path));
    rules
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => mapped_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}
