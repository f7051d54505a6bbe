//! Puts a loaded policy in force, in the order in which no packet meets half of it:
//! 1. the engine's view, under the new epochs;
//! 2. changes of policies that keep their number, and rows of new policies, under numbers no endpoint names yet;
//! 3. the ipcache: identities that rules now tell apart are added;
//! 4. each endpoint, by one update that switches policy and epoch together;
//! 5. new devices are attached;
//! 6. what nobody needs any more is removed: prefixes, then rows.
//!
//! A step that fails leaves the endpoints that it was about under what they had, and keeps no other from going on; the next
//! attempt tries it again. An endpoint that had nothing is shut, so that it is never open for want of a policy.
//!
//! The table of rows has an end. While both the old and the new policy of an endpoint do not fit, endpoints are switched one
//! after another, and if that brings no room, those that wait are shut until their rows are there. A policy that does not
//! fit at all shuts the endpoints under it: a part of a policy is none.

mod devices;
mod requests;
mod rows;
mod views;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow};
use seventh_abi::{Direction, Endpoint, EndpointFlags, IpcacheEntry, POLICY_SHUT};
use seventh_datapath::{Datapath, IpcachePrefix};
use seventh_engine::{EngineShared, SCOPE_NODE};
use seventh_policy::{CompiledPolicy, IdentityId, Ipcache, PolicyPatch};
use tracing::{error, info};

pub(crate) use self::views::{ipcache, view};
use self::{
    requests::KernelRequests,
    rows::Rows,
    views::{kernel_ipcache, view_by},
};
use crate::{
    config::{Config, EndpointConfig},
    fqdn::KernelNames,
    node::addresses,
    observer::ip,
    policy_store::{EndpointPolicy, Loaded, LoadedNames, PolicyStore},
};

/// How often names are sorted anew because others were learned meanwhile. What lacks an identity after the last time is
/// shut until it has one.
const SORT_ATTEMPTS: u32 = 8;

/// An endpoint as it is enforced.
pub(crate) struct Enforced {
    pub(crate) config: EndpointConfig,
    pub(crate) id: u32,
    pub(crate) identity: IdentityId,
    /// Its host-side device, if it is there.
    pub(crate) ifindex: Option<u32>,
    /// What the engine goes by.
    pub(crate) epoch: u32,
    pub(crate) policy: Option<Arc<CompiledPolicy>>,
    /// What it is judged by beside the traffic, if that is something else.
    pub(crate) audit: Option<Arc<CompiledPolicy>>,
    /// The endpoint as a whole is in audit.
    pub(crate) is_audited: bool,
    /// Why nothing passes there, if it is shut.
    pub(crate) shut: Option<String>,
    /// Its policy in audit is not in the kernel, and why.
    pub(crate) unaudited: Option<String>,
    /// The kernel goes by the same.
    in_kernel: bool,
    /// By which policies the kernel goes, by the compiler's numbers; the second is the one in audit.
    goes_by: [Option<u32>; 2],
    /// The programs sit on its device.
    attached: bool,
}

impl Enforced {
    fn new(config: &EndpointConfig, id: u32, identity: IdentityId, epoch: u32) -> Self {
        Self {
            config: config.clone(),
            id,
            identity,
            ifindex: None,
            epoch,
            policy: None,
            audit: None,
            is_audited: false,
            shut: None,
            unaudited: None,
            in_kernel: false,
            goes_by: [None; 2],
            attached: false,
        }
    }

    /// An endpoint that is only judged by: its number stands for its device.
    pub(crate) fn at(config: &EndpointConfig, id: u32, identity: IdentityId, policy: Arc<CompiledPolicy>) -> Self {
        Self {
            ifindex: Some(id),
            policy: Some(policy),
            ..Self::new(config, id, identity, 1)
        }
    }

    /// Both policies.
    fn policies(&self) -> impl Iterator<Item = &Arc<CompiledPolicy>> {
        self.policy.iter().chain(&self.audit)
    }

    fn awaits_kernel(&self) -> bool {
        self.ifindex.is_some() && !self.in_kernel
    }

    /// Goes by a policy that knows more identities, if it is this endpoint's.
    pub(crate) fn adopt(&mut self, patch: &PolicyPatch) {
        for policy in [&mut self.policy, &mut self.audit].into_iter().flatten() {
            if policy.policy_id() == patch.policy.policy_id() {
                *policy = Arc::clone(&patch.policy);
            }
        }
    }

    /// One word for people.
    pub(crate) fn state(&self) -> &'static str {
        match (self.ifindex, self.in_kernel && self.attached) {
            (None, _) => "no-interface",
            (Some(_), _) if self.shut.is_some() => "shut",
            (Some(_), true) => "ready",
            (Some(_), false) => "not-ready",
        }
    }

    /// Its device is another one, or none.
    fn lose_device(&mut self) {
        self.in_kernel = false;
        self.goes_by = [None; 2];
        self.attached = false;
        self.shut = None;
    }
}

/// Owns the datapath and everything that is written into it.
pub(crate) struct Publisher {
    datapath: Datapath,
    engine: Arc<EngineShared>,
    /// Judges copies, by what is in audit.
    beside: Arc<EngineShared>,
    endpoints: Vec<Enforced>,
    /// The last number that an endpoint got: none is given twice.
    last_id: u32,
    /// Epochs of new endpoints begin after this one: beyond every epoch that a flow of an earlier agent may carry.
    first_epoch: u32,
    /// Devices of endpoints that are gone: what was enforced on them stays until they are gone, too.
    leaving: HashMap<u32, String>,
    rows: Rows,
    node_addresses: Vec<IpAddr>,
    ipcache: HashMap<IpcachePrefix, IpcacheEntry>,
    names: Arc<KernelNames>,
    node_wide_names: bool,
    /// What the table of names goes by.
    named: Option<LoadedNames>,
    revision: u64,
    /// When that was last.
    changed_at: Option<SystemTime>,
    /// Enforcement was there before this agent.
    took_over: bool,
    /// What requests the kernel judges by itself, if it may.
    requests: Option<KernelRequests>,
    /// Devices at which an earlier agent's policy is in force: its rule sets have the same numbers.
    earlier: HashSet<u32>,
    /// What an earlier agent enforced on devices that are nobody's now stays.
    keeps_unknown: bool,
}

impl Publisher {
    /// Without endpoints; the first [`Self::publish`] brings them.
    pub(crate) fn new(
        mut datapath: Datapath,
        [engine, beside]: [Arc<EngineShared>; 2],
        names: Arc<KernelNames>,
        config: &Config,
    ) -> Self {
        let earlier = datapath.endpoints();
        Self {
            endpoints: Vec::new(),
            last_id: 0,
            first_epoch: earlier.values().map(|old| old.epoch).max().unwrap_or(0),
            leaving: HashMap::new(),
            rows: Rows::new(
                earlier
                    .values()
                    .map(|old| old.policy_id.max(old.audit_policy_id))
                    .max()
                    .unwrap_or(0),
            ),
            took_over: datapath.takes_over(),
            requests: KernelRequests::new(&config.inspection, &mut datapath),
            earlier: earlier.keys().copied().collect(),
            datapath,
            engine,
            beside,
            node_addresses: Vec::new(),
            ipcache: HashMap::new(),
            names,
            node_wide_names: config.fqdn.node_wide,
            // An endpoint that is no longer in a configuration is not to be enforced; a pod that is not found is.
            keeps_unknown: config.kubernetes.is_some(),
            named: None,
            revision: 0,
            changed_at: None,
        }
    }

    /// The endpoints, in the order of the configuration.
    pub(crate) fn endpoints(&self) -> &[Enforced] {
        &self.endpoints
    }

    /// The datapath, for its counters.
    pub(crate) fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// How often something has been put in force.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// When something was last put in force.
    pub(crate) fn changed_at(&self) -> Option<SystemTime> {
        self.changed_at
    }

    /// Whether an earlier agent's enforcement was found and continued.
    pub(crate) fn took_over(&self) -> bool {
        self.took_over
    }

    /// Puts it in force; says whether that changed anything. Endpoints whose policy stays the same are not touched.
    ///
    /// # Errors
    /// What was not done, and why; see the head of this file.
    pub(crate) fn publish(&mut self, loaded: &Loaded, store: &mut PolicyStore) -> Result<bool> {
        let mut failures = Vec::new();
        let moved = self.follow_endpoints(loaded, &mut failures) | self.follow_devices(&mut failures);
        match addresses() {
            Ok(addresses) => self.node_addresses = addresses,
            Err(e) => failures.push(format!("{e:#}")),
        }
        let ipcache = ipcache(&loaded.prefixes, &loaded.held, &self.node_addresses, &self.endpoints);
        let wanted = kernel_ipcache(&ipcache);
        self.decide_again(&ipcache, &wanted);
        let changing = loaded.patches.iter().filter(|patch| patch.changes_rows());
        let patched: HashSet<u32> = changing.map(|patch| patch.policy.policy_id()).collect();
        self.choose(&loaded.policies, &patched);
        let changed = self.endpoints.iter().filter(|e| e.awaits_kernel()).count();
        let ipcache = Arc::new(ipcache);
        if changed == 0 && !moved && wanted == self.ipcache {
            if !loaded.patches.is_empty() {
                self.tell_engines(&ipcache);
            }
            if let Err(e) = self.sort_names(&loaded.names, &ipcache, store) {
                failures.push(format!("{e:#}"));
            }
            return told(&failures, false);
        }
        self.tell_engines(&ipcache);
        self.apply_all(&loaded.patches, &mut failures);
        let prepared = self.add_to_ipcache(&wanted).and_then(|()| {
            self.named = None;
            self.sort_names(&loaded.names, &ipcache, store)
        });
        if let Err(e) = prepared {
            // Policies go by who is who: nobody is switched to one on half of that.
            failures.push(format!("{e:#}"));
            self.shut_new(&mut failures);
            for endpoint in &mut self.endpoints {
                endpoint.in_kernel = false;
            }
            return told(&failures, true);
        }
        self.switch_all(&ipcache, &mut failures);
        if failures.is_empty() {
            let stale = self.ipcache.keys().filter(|prefix| !wanted.contains_key(prefix));
            match self.datapath.remove_from_ipcache(stale.copied()) {
                Ok(()) => self.ipcache = wanted,
                Err(e) => failures.push(format!("ipcache: {e}")),
            }
        }
        self.set_requests();
        self.revision += 1;
        self.changed_at = Some(SystemTime::now());
        info!(
            revision = self.revision,
            endpoints = changed,
            documents = loaded.documents,
            "policy in force"
        );
        told(&failures, true)
    }

    /// Switches every endpoint that waits for it, as far as there is room.
    fn switch_all(&mut self, ipcache: &Arc<Ipcache>, failures: &mut Vec<String>) {
        if self.revision == 0
            && let Err(e) = self.datapath.write_policy(rows::shut().into_iter())
        {
            // Default deny goes for it all the same; only the reason is lost.
            failures.push(e.to_string());
        }
        let (mut has_shut, mut waited) = (false, usize::MAX);
        loop {
            let lacking = self.write_all();
            self.switch_written(&lacking, failures);
            let freed = self.drop_unused(failures);
            let lacks = |at: &usize| self.endpoints[*at].policy.as_ref().map(|policy| policy.policy_id());
            let waiting = self
                .waiting()
                .filter(|at| lacks(at).is_some_and(|id| lacking.contains_key(&id)));
            let waiting: Vec<usize> = waiting.collect();
            let Some(reason) = lacking.into_values().next().filter(|_| !waiting.is_empty()) else {
                return;
            };
            if freed && waiting.len() < waited {
                waited = waiting.len();
                continue;
            }
            // What they had may be what takes the room.
            for index in waiting {
                self.shut(index, &reason, failures);
            }
            self.tell_engines(ipcache);
            if has_shut || !self.drop_unused(failures) {
                return;
            }
            has_shut = true;
            for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.shut.is_some()) {
                endpoint.in_kernel = false;
            }
        }
    }

    /// Endpoints that the kernel has to be told of, or is told of in vain.
    fn waiting(&self) -> impl Iterator<Item = usize> {
        let waiting = self.endpoints.iter().enumerate();
        waiting
            .filter(|(_, endpoint)| endpoint.awaits_kernel())
            .map(|(index, _)| index)
    }

    /// Writes the policies of all who wait, the smallest first; says which there is no room for, and why.
    fn write_all(&mut self) -> HashMap<u32, String> {
        let waiting = self.waiting().flat_map(|index| self.endpoints[index].policies());
        let mut policies: HashMap<u32, (usize, Arc<CompiledPolicy>)> = HashMap::new();
        for policy in waiting.filter(|policy| !self.rows.has(policy.policy_id())) {
            let size = || (policy.kernel_entries().count(), Arc::clone(policy));
            policies.entry(policy.policy_id()).or_insert_with(size);
        }
        let mut policies: Vec<(usize, Arc<CompiledPolicy>)> = policies.into_values().collect();
        policies.sort_by_key(|(size, policy)| (*size, policy.policy_id()));
        let mut lacking = HashMap::new();
        for (size, policy) in policies {
            if let Err(e) = self.rows.write(&mut self.datapath, &policy) {
                let reason = format!("its policy of {size} rows is not in the kernel (see policyRowsMax): {e}");
                lacking.insert(policy.policy_id(), reason);
            }
        }
        lacking
    }

    /// Switches those whose rows are there. A policy in audit that lacks its rows keeps none from being enforced.
    fn switch_written(&mut self, lacking: &HashMap<u32, String>, failures: &mut Vec<String>) {
        let devices: Vec<u32> = self
            .waiting()
            .map(|index| &self.endpoints[index])
            .filter(|endpoint| self.speaks_of(endpoint))
            .filter_map(|endpoint| endpoint.ifindex)
            .collect();
        if let Err(e) = self.datapath.forget_unmanaged(devices.into_iter()) {
            failures.push(e.to_string());
        }
        for index in self.waiting().collect::<Vec<_>>() {
            let Some(endpoint) = self.endpoints.get_mut(index) else {
                continue;
            };
            let lacks = |policy: &Option<Arc<CompiledPolicy>>| lacking.get(&policy.as_ref()?.policy_id()).cloned();
            if lacks(&endpoint.policy).is_some() {
                continue;
            }
            endpoint.unaudited = lacks(&endpoint.audit);
            if let Err(e) = self.switch(index) {
                failures.push(format!("{e:#}"));
            }
        }
        for endpoint in &mut self.endpoints {
            if endpoint.ifindex.is_some() && (endpoint.in_kernel || endpoint.shut.is_some()) {
                attach(&mut self.datapath, endpoint, failures);
            }
        }
    }

    /// Removes the rows by which no endpoint goes; says whether there were any.
    fn drop_unused(&mut self, failures: &mut Vec<String>) -> bool {
        let in_use: HashSet<u32> = self.endpoints.iter().flat_map(|e| e.goes_by).flatten().collect();
        self.rows.retain(&mut self.datapath, &in_use).unwrap_or_else(|e| {
            failures.push(e.to_string());
            false
        })
    }

    /// Something is enforced at the endpoint by its policies, or looked at.
    fn speaks_of(&self, endpoint: &Enforced) -> bool {
        let enforced = endpoint.policy.as_ref().map_or(0, |policy| flags(policy));
        enforced | beside_flags(endpoint, self.named.as_ref()) != 0
    }

    /// Lets nothing pass at an endpoint's device.
    fn shut(&mut self, index: usize, reason: &str, failures: &mut Vec<String>) {
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return;
        };
        let Some(ifindex) = endpoint.ifindex else { return };
        if endpoint.shut.as_deref() != Some(reason) {
            error!(endpoint = endpoint.config.name, reason, "nothing passes there");
        }
        endpoint.epoch = endpoint.epoch.wrapping_add(1);
        let value = Endpoint {
            id: endpoint.id,
            identity: endpoint.identity,
            policy_id: POLICY_SHUT,
            epoch: endpoint.epoch,
            flags: EndpointFlags::ENFORCE,
            name_scope: self.names.scope(endpoint.id, self.node_wide_names),
            audit_policy_id: 0,
        };
        if let Err(e) = self.datapath.forget_unmanaged(std::iter::once(ifindex)) {
            failures.push(e.to_string());
        }
        let set = self.datapath.set_endpoint(ifindex, value);
        if let Err(e) = &set {
            failures.push(format!("endpoint {}: {e}", endpoint.config.name));
        } else {
            self.earlier.remove(&ifindex);
            endpoint.goes_by = [None; 2];
            endpoint.shut = Some(reason.to_owned());
            endpoint.in_kernel = true;
        }
        // A device without an entry passes nothing either.
        attach(&mut self.datapath, endpoint, failures);
    }

    /// Shuts devices at which neither this agent nor an earlier one has put anything in force.
    fn shut_new(&mut self, failures: &mut Vec<String>) {
        let known = self.datapath.endpoints();
        let is_new = |endpoint: &Enforced| endpoint.ifindex.is_some_and(|ifindex| !known.contains_key(&ifindex));
        let new: Vec<usize> = self.waiting().filter(|at| is_new(&self.endpoints[*at])).collect();
        for index in new {
            self.shut(index, "it came while changes could not be put in force", failures);
        }
    }

    /// Lets go of what an earlier agent attached and this one does not; call after the first [`Self::publish`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn forget_stale(&mut self) -> Result<()> {
        if self.keeps_unknown {
            self.keep_unknown();
        }
        self.names.forget_stale()?;
        self.datapath.forget_stale()?;
        self.rows.settle();
        let stays = self.datapath.endpoints();
        self.earlier.retain(|ifindex| stays.contains_key(ifindex));
        self.set_requests();
        Ok(())
    }

    /// Ends enforcement, or leaves it pinned.
    ///
    /// # Errors
    /// Something could not be removed.
    pub(crate) async fn stop(self, keep: bool) -> Result<()> {
        Ok(self.datapath.stop(keep).await?)
    }

    /// Has endpoints decide their flows again whose policy tells apart what an address was and what it is now: flows that
    /// are there were decided by the former.
    fn decide_again(&mut self, ipcache: &Ipcache, wanted: &HashMap<IpcachePrefix, IpcacheEntry>) {
        let before = Arc::clone(&self.engine.policy().ipcache);
        let changed = |prefix: &IpcachePrefix| {
            self.ipcache.get(prefix).map(|e| e.identity) != wanted.get(prefix).map(|e| e.identity)
        };
        let came = wanted.keys().filter(|prefix| changed(prefix));
        let went = self.ipcache.keys().filter(|prefix| !wanted.contains_key(prefix));
        let pairs: HashSet<(IdentityId, IdentityId)> = came
            .chain(went)
            .map(|prefix| {
                let address = ip(prefix.addr);
                (before.lookup(address).identity, ipcache.lookup(address).identity)
            })
            .filter(|(old, new)| old != new)
            .collect();
        if self.ipcache.is_empty() || pairs.is_empty() {
            return;
        }
        for endpoint in &mut self.endpoints {
            let differs = |policy: &Arc<CompiledPolicy>| pairs.iter().any(|(old, new)| policy.tells_apart(*old, *new));
            if endpoint.policies().any(differs) {
                endpoint.in_kernel = false;
            }
        }
    }

    /// Writes what is new in the ipcache. The first time nobody knows what an earlier agent left in it.
    fn add_to_ipcache(&mut self, wanted: &HashMap<IpcachePrefix, IpcacheEntry>) -> Result<()> {
        if self.ipcache.is_empty() {
            self.datapath.sync_ipcache(wanted).context("ipcache")?;
            self.ipcache.clone_from(wanted);
            return Ok(());
        }
        let news = wanted
            .iter()
            .filter(|(prefix, entry)| self.ipcache.get(prefix) != Some(entry));
        let news: Vec<(IpcachePrefix, IpcacheEntry)> = news.map(|(prefix, entry)| (*prefix, *entry)).collect();
        for (prefix, entry) in news {
            self.datapath.add_to_ipcache(prefix, entry).context("ipcache")?;
            self.ipcache.insert(prefix, entry);
        }
        Ok(())
    }

    /// Gives every endpoint its policy; those that the kernel has to be told of get the next epoch.
    fn choose(&mut self, policies: &[EndpointPolicy], patched: &HashSet<u32>) {
        let id = |policy: &Option<Arc<CompiledPolicy>>| policy.as_ref().map(|policy| policy.policy_id());
        for (endpoint, policy) in self.endpoints.iter_mut().zip(policies) {
            let enforced = Some(policy.enforced.policy_id());
            let same = (id(&endpoint.policy), id(&endpoint.audit)) == (enforced, id(&policy.audit))
                && endpoint.is_audited == policy.is_audited
                && !endpoint.policies().any(|policy| patched.contains(&policy.policy_id()));
            endpoint.in_kernel &= same && endpoint.shut.is_none() && endpoint.unaudited.is_none();
            if endpoint.awaits_kernel() {
                endpoint.epoch = endpoint.epoch.wrapping_add(1);
            }
            endpoint.policy = Some(Arc::clone(&policy.enforced));
            endpoint.audit.clone_from(&policy.audit);
            endpoint.is_audited = policy.is_audited;
        }
    }

    /// Sorts names by these rules, unless they are. What was learned since the rules were loaded may lack an identity
    /// under them: it is made first, so that nothing that is open is shut.
    fn sort_names(&mut self, loaded: &LoadedNames, ipcache: &Arc<Ipcache>, store: &mut PolicyStore) -> Result<()> {
        if self.named.as_ref() == Some(loaded) {
            return Ok(());
        }
        let mut sorted = loaded.clone();
        for engine in [Arc::clone(&self.engine), Arc::clone(&self.beside)] {
            for attempt in 1..=SORT_ATTEMPTS {
                let rules = sorted.rules(ipcache);
                let Err(lacking) = engine.names().set_rules(&rules, attempt == SORT_ATTEMPTS) else {
                    break;
                };
                for class in lacking {
                    let (identity, patches) = store.define(SCOPE_NODE, &class)?;
                    self.extend(&patches)?;
                    sorted.insert(class, identity);
                }
            }
        }
        self.named = Some(sorted);
        Ok(())
    }

    /// Has policies know more identities: their rows first, then the engine's view. No flow has these identities yet, so
    /// nothing is decided again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn extend(&mut self, patches: &[PolicyPatch]) -> Result<()> {
        let mut failures = Vec::new();
        self.apply_all(patches, &mut failures);
        for patch in patches {
            for endpoint in &mut self.endpoints {
                endpoint.adopt(patch);
            }
        }
        let ipcache = Arc::clone(&self.engine.policy().ipcache);
        self.tell_engines(&ipcache);
        told(&failures, ())
    }

    /// Changes policies that keep their numbers. Where that fails, nobody goes by them any more.
    fn apply_all(&mut self, patches: &[PolicyPatch], failures: &mut Vec<String>) {
        for patch in patches {
            let id = patch.policy.policy_id();
            let Err(e) = self.rows.patch(&mut self.datapath, patch) else {
                continue;
            };
            let reason = format!("a change of its policy is not in the kernel (see policyRowsMax): {e}");
            for index in 0..self.endpoints.len() {
                if self.endpoints[index].goes_by.contains(&Some(id)) {
                    self.shut(index, &reason, failures);
                    self.endpoints[index].in_kernel = false;
                }
            }
            self.drop_unused(failures);
        }
    }

    fn tell_engines(&self, ipcache: &Arc<Ipcache>) {
        self.engine
            .set_policy(Arc::new(view(&self.endpoints, Arc::clone(ipcache))));
        let beside = view_by(&self.endpoints, Arc::clone(ipcache), |endpoint| {
            let policy = endpoint.audit.as_ref();
            if endpoint.config.observe {
                let policy = policy.or(endpoint.policy.as_ref())?;
                return Some(Arc::new(policy.observing()));
            }
            policy.cloned()
        });
        self.beside.set_policy(Arc::new(beside));
    }

    /// Step 4 for one endpoint. Its device is attached when its entry is there, since one without an entry passes nothing.
    fn switch(&mut self, index: usize) -> Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return Ok(());
        };
        let (Some(policy), Some(ifindex)) = (&endpoint.policy, endpoint.ifindex) else {
            return Ok(());
        };
        let audit = endpoint.audit.as_ref().filter(|_| endpoint.unaudited.is_none());
        let number = |policy: &Arc<CompiledPolicy>| self.rows.number(policy.policy_id()).map_err(|e| anyhow!(e));
        let value = Endpoint {
            id: endpoint.id,
            identity: endpoint.identity,
            policy_id: number(policy)?,
            epoch: endpoint.epoch,
            flags: flags(policy) | beside_flags(endpoint, self.named.as_ref()),
            name_scope: self.names.scope(endpoint.id, self.node_wide_names),
            audit_policy_id: audit.map_or(Ok(0), number)?,
        };
        let goes_by = [Some(policy.policy_id()), audit.map(|audit| audit.policy_id())];
        let set = self.datapath.set_endpoint(ifindex, value);
        if set.is_err() && !endpoint.attached {
            // Nothing passes there then.
            let attached = self.datapath.attach_endpoint(&endpoint.config.interface);
            endpoint.attached = attached.is_ok();
        }
        set.with_context(|| format!("endpoint {}", endpoint.config.name))?;
        self.earlier.remove(&ifindex);
        endpoint.goes_by = goes_by;
        endpoint.shut = None;
        endpoint.in_kernel = true;
        Ok(())
    }
}

/// Step 5 for one endpoint, unless the programs sit on its device.
fn attach(datapath: &mut Datapath, endpoint: &mut Enforced, failures: &mut Vec<String>) {
    if endpoint.attached {
        return;
    }
    match datapath.attach_endpoint(&endpoint.config.interface) {
        Ok(_) => endpoint.attached = true,
        Err(e) => {
            endpoint.in_kernel = false;
            failures.push(format!("endpoint {}: {e}", endpoint.config.name));
        }
    }
}

/// What could not be done is one error.
fn told<T>(failures: &[String], done: T) -> Result<T> {
    if failures.is_empty() {
        return Ok(done);
    }
    Err(anyhow!(failures.join("; ")))
}

fn flags(policy: &CompiledPolicy) -> u32 {
    let flag = |direction, bit| if policy.enforced(direction) { bit } else { 0 };
    flag(Direction::Ingress, EndpointFlags::ENFORCE_INGRESS) | flag(Direction::Egress, EndpointFlags::ENFORCE_EGRESS)
}

/// What is done beside the traffic.
fn beside_flags(endpoint: &Enforced, names: Option<&LoadedNames>) -> u32 {
    let observe = if endpoint.config.observe {
        EndpointFlags::OBSERVE
    } else {
        0
    };
    let Some(audit) = endpoint.audit.as_ref().filter(|_| endpoint.unaudited.is_none()) else {
        return observe;
    };
    let bit = |on: bool, bit| if on { bit } else { 0 };
    observe
        | EndpointFlags::AUDIT
        | bit(audit.enforced(Direction::Ingress), EndpointFlags::AUDIT_INGRESS)
        | bit(audit.enforced(Direction::Egress), EndpointFlags::AUDIT_EGRESS)
        | bit(
            names.is_some_and(LoadedNames::are_asked_for),
            EndpointFlags::AUDIT_NAMES,
        )
}
