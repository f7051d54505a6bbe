//! Puts a loaded policy in force, in the order in which no packet meets half of it:
//! 1. the engine's view, under the new epochs;
//! 2. changes of policies that keep their number, and rows of new policies, under numbers no endpoint names yet;
//! 3. the ipcache: identities that rules now tell apart are added;
//! 4. each endpoint, by one update that switches policy and epoch together;
//! 5. new devices are attached;
//! 6. what nobody needs any more is removed: prefixes, then rows.
//!
//! A step that fails leaves the endpoints that were not reached under what they had; the next attempt begins again under
//! numbers of its own.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use seventh_abi::{Direction, Endpoint, EndpointFlags, IpcacheEntry, PolicyKey};
use seventh_datapath::{Datapath, IpcachePrefix, PolicyRow};
use seventh_engine::{EndpointView, EngineLimits, EngineShared, PolicyView, SCOPE_NODE};
use seventh_policy::{
    CompiledPolicy, IdentityId, Ipcache, Owner, PolicyPatch, RequestLimits, RequestTable, RuleSet, identity::HOST,
};
use tracing::{info, warn};

use crate::{
    config::{Config, EndpointConfig},
    fqdn::KernelNames,
    inventory::Held,
    node::{addresses, interface_index},
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
    /// The kernel goes by the same.
    in_kernel: bool,
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
            in_kernel: false,
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
            (Some(_), true) => "ready",
            (Some(_), false) => "not-ready",
        }
    }
}

/// Owns the datapath and everything that is written into it.
pub(crate) struct Publisher {
    datapath: Datapath,
    engine: Arc<EngineShared>,
    /// Judges copies, by what is in audit.
    onlooker: Arc<EngineShared>,
    endpoints: Vec<Enforced>,
    /// The last number that an endpoint got: none is given twice.
    last_id: u32,
    /// Epochs of new endpoints begin after this one: beyond every epoch that a flow of an earlier agent may carry.
    first_epoch: u32,
    /// Devices of endpoints that are gone: what was enforced on them stays until they are gone, too.
    leaving: HashMap<u32, String>,
    /// The compiler's policy numbers begin after this one: numbers of an earlier agent, or of an attempt that failed,
    /// may still be in the kernel.
    policy_id_base: u32,
    /// Policies whose rows are in the kernel, by the compiler's numbers.
    written: HashSet<u32>,
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
    /// What requests the kernel may judge by itself, if it may.
    request_limits: Option<RequestLimits>,
    /// By rule set; none for those that the kernel cannot judge by.
    request_tables: HashMap<u32, Option<RequestTable>>,
    /// No flow goes by rule sets of an earlier agent any more, whose numbers are the same.
    is_alone: bool,
}

impl Publisher {
    /// Without endpoints; the first [`Self::publish`] brings them.
    pub(crate) fn new(
        datapath: Datapath,
        [engine, onlooker]: [Arc<EngineShared>; 2],
        names: Arc<KernelNames>,
        config: &Config,
    ) -> Self {
        let earlier = datapath.endpoints();
        Self {
            endpoints: Vec::new(),
            last_id: 0,
            first_epoch: earlier.values().map(|old| old.epoch).max().unwrap_or(0),
            leaving: HashMap::new(),
            policy_id_base: earlier
                .values()
                .map(|old| old.policy_id.max(old.audit_policy_id))
                .max()
                .unwrap_or(0),
            took_over: !earlier.is_empty(),
            request_limits: request_limits(&config.inspection),
            request_tables: HashMap::new(),
            is_alone: false,
            datapath,
            engine,
            onlooker,
            written: HashSet::new(),
            node_addresses: Vec::new(),
            ipcache: HashMap::new(),
            names,
            node_wide_names: config.fqdn.node_wide,
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

    /// Whether devices or addresses are others than those in force, so that [`Self::publish`] has something to do.
    pub(crate) fn surroundings_changed(&self) -> bool {
        let moved = |endpoint: &Enforced| interface_index(&endpoint.config.interface) != endpoint.ifindex;
        let left = |(ifindex, interface): (&u32, &String)| interface_index(interface) != Some(*ifindex);
        self.endpoints.iter().any(moved)
            || self.leaving.iter().any(left)
            || addresses().is_ok_and(|now| now != self.node_addresses)
    }

    /// Puts it in force; says whether that changed anything. Endpoints whose policy stays the same are not touched.
    ///
    /// # Errors
    /// The kernel refuses; see the head of this file.
    pub(crate) fn publish(&mut self, loaded: &Loaded, store: &mut PolicyStore) -> Result<bool> {
        let result = self.try_publish(loaded, store);
        if result.is_err() {
            self.policy_id_base += self.written.drain().max().unwrap_or(0);
            for endpoint in &mut self.endpoints {
                endpoint.in_kernel = false;
            }
        }
        result
    }

    fn try_publish(&mut self, loaded: &Loaded, store: &mut PolicyStore) -> Result<bool> {
        let moved = self.follow_endpoints(loaded)? | self.follow_devices()?;
        self.node_addresses = addresses()?;
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
            self.sort_names(&loaded.names, &ipcache, store)?;
            return Ok(false);
        }
        self.tell_engines(&ipcache);
        for patch in &loaded.patches {
            self.apply(patch)?;
        }
        for policy in &loaded.policies {
            self.write(&policy.enforced)?;
            policy.audit.as_ref().map_or(Ok(()), |audit| self.write(audit))?;
        }
        self.add_to_ipcache(&wanted)?;
        self.named = None;
        self.sort_names(&loaded.names, &ipcache, store)?;
        for index in 0..self.endpoints.len() {
            self.switch(index)?;
        }
        let stale = self.ipcache.keys().filter(|prefix| !wanted.contains_key(prefix));
        self.datapath.remove_from_ipcache(stale.copied()).context("ipcache")?;
        self.ipcache = wanted;
        self.datapath.retain_policies()?;
        // Exactly those that an endpoint in the kernel names are still there.
        let with_device = self.endpoints.iter().filter(|endpoint| endpoint.ifindex.is_some());
        let in_use: HashSet<u32> = with_device
            .flat_map(|endpoint| endpoint.policies().map(|policy| policy.policy_id()))
            .collect();
        self.written.retain(|id| in_use.contains(id));
        self.set_requests();
        self.revision += 1;
        self.changed_at = Some(SystemTime::now());
        info!(
            revision = self.revision,
            endpoints = changed,
            documents = loaded.documents,
            "policy in force"
        );
        Ok(true)
    }

    /// Lets go of what an earlier agent attached and this one does not; call after the first [`Self::publish`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn forget_stale(&mut self) -> Result<()> {
        self.names.forget_stale()?;
        self.datapath.forget_stale()?;
        self.is_alone = true;
        self.set_requests();
        Ok(())
    }

    /// Has the kernel judge requests by the rule sets that are in force. A rule set's number means the same as long as this
    /// agent runs, so it matters little when it does.
    fn set_requests(&mut self) {
        let Some(limits) = self.request_limits.filter(|_| self.is_alone) else {
            return;
        };
        let policies = self.endpoints.iter().filter_map(|endpoint| endpoint.policy.as_ref());
        let http = |rules: &Arc<RuleSet>| rules.http().is_some();
        let in_force = policies
            .flat_map(|policy| policy.rule_sets())
            .filter(|rules| http(rules));
        let in_force: HashMap<u32, &Arc<RuleSet>> = in_force.map(|rules| (rules.id(), rules)).collect();
        self.request_tables.retain(|id, _| in_force.contains_key(id));
        for (id, rules) in in_force {
            self.request_tables
                .entry(id)
                .or_insert_with(|| RequestTable::new(rules.http()?, limits));
        }
        let tables = self.request_tables.iter();
        let tables = tables.filter_map(|(id, table)| Some((*id, table.as_ref()?)));
        if let Err(error) = self.datapath.set_requests(tables) {
            warn!(error = %error, "the kernel does not judge requests by itself");
        }
    }

    /// Ends enforcement, or leaves it pinned.
    ///
    /// # Errors
    /// Something could not be removed.
    pub(crate) async fn stop(self, keep: bool) -> Result<()> {
        Ok(self.datapath.stop(keep).await?)
    }

    /// Takes up endpoints that came and lets go those that went; says whether any did.
    fn follow_endpoints(&mut self, loaded: &Loaded) -> Result<bool> {
        let before = std::mem::take(&mut self.endpoints).into_iter();
        let mut before: HashMap<String, Enforced> = before.map(|endpoint| (endpoint.config.key(), endpoint)).collect();
        let mut changed = false;
        for (config, identity) in loaded.endpoints.iter().zip(&loaded.held.endpoints) {
            let known = before.remove(&config.key());
            changed |= known.is_none();
            let mut endpoint = known.unwrap_or_else(|| {
                self.last_id += 1;
                Enforced::new(config, self.last_id, *identity, self.first_epoch)
            });
            if endpoint.config != *config || endpoint.identity != *identity {
                changed = true;
                endpoint.in_kernel = false;
                if endpoint.config.interface != config.interface
                    && let Some(old) = endpoint.ifindex.take()
                {
                    endpoint.attached = false;
                    self.leaving.insert(old, endpoint.config.interface.clone());
                }
                endpoint.config.clone_from(config);
                endpoint.identity = *identity;
            }
            self.endpoints.push(endpoint);
        }
        for gone in before.into_values() {
            changed = true;
            info!(endpoint = gone.config.name, "endpoint is gone");
            self.leaving
                .extend(gone.ifindex.map(|ifindex| (ifindex, gone.config.interface.clone())));
            for engine in [&self.engine, &self.onlooker] {
                engine.names().forget(|scope, _| scope == gone.id);
            }
        }
        if changed {
            let ids = self
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.id, endpoint.config.key()));
            self.names.set_endpoints(ids.collect());
        }
        self.let_go()?;
        Ok(changed)
    }

    /// Detaches from devices whose endpoints are gone when they are, too: whoever still sends there has no address of its
    /// own any more, and no way past the policy that was in force.
    fn let_go(&mut self) -> Result<()> {
        let gone = |(ifindex, interface): (&u32, &String)| interface_index(interface) != Some(*ifindex);
        let gone: Vec<u32> = self
            .leaving
            .iter()
            .filter(|left| gone(*left))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in gone {
            self.datapath.detach_endpoint(ifindex)?;
            self.leaving.remove(&ifindex);
        }
        Ok(())
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

    /// Notices devices that came, went or were made anew; says whether any did.
    fn follow_devices(&mut self) -> Result<bool> {
        let mut moved = false;
        for endpoint in &mut self.endpoints {
            let now = interface_index(&endpoint.config.interface);
            if now == endpoint.ifindex {
                continue;
            }
            moved = true;
            if let Some(old) = endpoint.ifindex.take() {
                warn!(
                    endpoint = endpoint.config.name,
                    interface = endpoint.config.interface,
                    "interface is gone"
                );
                self.datapath.detach_endpoint(old)?;
            }
            endpoint.ifindex = now;
            endpoint.in_kernel = false;
            endpoint.attached = false;
            if let Some(now) = now {
                self.leaving.remove(&now);
            }
        }
        Ok(moved)
    }

    /// Gives every endpoint its policy; those that the kernel has to be told of get the next epoch.
    fn choose(&mut self, policies: &[EndpointPolicy], patched: &HashSet<u32>) {
        let id = |policy: &Option<Arc<CompiledPolicy>>| policy.as_ref().map(|policy| policy.policy_id());
        for (endpoint, policy) in self.endpoints.iter_mut().zip(policies) {
            let enforced = Some(policy.enforced.policy_id());
            let same = (id(&endpoint.policy), id(&endpoint.audit)) == (enforced, id(&policy.audit))
                && endpoint.is_audited == policy.is_audited
                && !endpoint.policies().any(|policy| patched.contains(&policy.policy_id()));
            endpoint.in_kernel &= same;
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
        for engine in [Arc::clone(&self.engine), Arc::clone(&self.onlooker)] {
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
        for patch in patches {
            self.apply(patch)?;
            for endpoint in &mut self.endpoints {
                endpoint.adopt(patch);
            }
        }
        let ipcache = Arc::clone(&self.engine.policy().ipcache);
        self.tell_engines(&ipcache);
        Ok(())
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
        self.onlooker.set_policy(Arc::new(beside));
    }

    fn apply(&mut self, patch: &PolicyPatch) -> Result<()> {
        if !self.written.contains(&patch.policy.policy_id()) {
            return Ok(());
        }
        let base = self.policy_id_base;
        self.datapath
            .write_policy(patch.added.iter().map(|row| moved(base, *row)))?;
        self.datapath
            .remove_policy_rows(patch.removed.iter().map(|(bits, key)| (*bits, moved_key(base, *key))))?;
        Ok(())
    }

    fn write(&mut self, policy: &CompiledPolicy) -> Result<()> {
        let base = self.policy_id_base;
        ensure!(
            base.checked_add(policy.policy_id()).is_some(),
            "all policy numbers are used; stop the agent without --keep-enforcing and start it again"
        );
        if self.written.insert(policy.policy_id()) {
            self.datapath
                .write_policy(policy.kernel_entries().map(|row| moved(base, row)))
                .context("policy table")?;
        }
        Ok(())
    }

    /// Steps 4 and 5 for one endpoint: a device is attached when its entry is there, since one without an entry passes
    /// nothing.
    fn switch(&mut self, index: usize) -> Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return Ok(());
        };
        let (Some(policy), Some(ifindex)) = (&endpoint.policy, endpoint.ifindex) else {
            return Ok(());
        };
        if !endpoint.in_kernel {
            let value = Endpoint {
                id: endpoint.id,
                identity: endpoint.identity,
                policy_id: self.policy_id_base + policy.policy_id(),
                epoch: endpoint.epoch,
                flags: flags(policy) | beside_flags(endpoint, self.named.as_ref()),
                name_scope: self.names.scope(endpoint.id, self.node_wide_names),
                audit_policy_id: endpoint
                    .audit
                    .as_ref()
                    .map_or(0, |audit| self.policy_id_base + audit.policy_id()),
            };
            self.datapath.set_endpoint(ifindex, value)?;
            endpoint.in_kernel = true;
        }
        if !endpoint.attached {
            self.datapath
                .attach_endpoint(&endpoint.config.interface)
                .with_context(|| format!("endpoint {}", endpoint.config.name))?;
            endpoint.attached = true;
        }
        Ok(())
    }
}

fn request_limits(limits: &EngineLimits) -> Option<RequestLimits> {
    limits.kernel_judges.then_some(RequestLimits {
        len_max: limits.http.head_len_max,
        lines_max: limits.http.headers_max,
    })
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
    let Some(audit) = &endpoint.audit else { return observe };
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

/// Under the number that the row has in the kernel; `write` has seen that it fits.
fn moved(base: u32, (bits, key, entry): PolicyRow) -> PolicyRow {
    (bits, moved_key(base, key), entry)
}

fn moved_key(base: u32, key: PolicyKey) -> PolicyKey {
    PolicyKey {
        policy_id: base.wrapping_add(u32::from_be_bytes(key.policy_id)).to_be_bytes(),
        ..key
    }
}

/// What the engine goes by: the endpoints that are there, with their policies.
pub(crate) fn view(endpoints: &[Enforced], ipcache: Arc<Ipcache>) -> PolicyView {
    view_by(endpoints, ipcache, |endpoint| endpoint.policy.clone())
}

fn view_by(
    endpoints: &[Enforced],
    ipcache: Arc<Ipcache>,
    policy: impl Fn(&Enforced) -> Option<Arc<CompiledPolicy>>,
) -> PolicyView {
    let endpoints = endpoints.iter().filter_map(|endpoint| {
        let view = EndpointView {
            id: endpoint.id,
            name: endpoint.config.name.as_str().into(),
            epoch: endpoint.epoch,
            policy: policy(endpoint)?,
        };
        Some((endpoint.ifindex?, view))
    });
    PolicyView {
        endpoints: endpoints.collect(),
        ipcache,
    }
}

/// Whose addresses are whose: those that rules name, everybody's, the node's own, and the endpoints'.
pub(crate) fn ipcache(
    prefixes: &HashMap<IpNet, IdentityId>,
    held: &Held,
    node_addresses: &[IpAddr],
    endpoints: &[Enforced],
) -> Ipcache {
    let owner = |identity, ifindex| Owner { identity, ifindex };
    let mut ipcache = Ipcache::new();
    for (prefix, identity) in prefixes {
        ipcache.insert(*prefix, owner(*identity, 0));
    }
    for (address, identity) in &held.addresses {
        ipcache.insert(IpNet::from(*address), owner(*identity, 0));
    }
    for address in node_addresses {
        let identity = held.own.get(address).copied().unwrap_or(HOST);
        ipcache.insert(IpNet::from(*address), owner(identity, 0));
    }
    for endpoint in endpoints {
        for address in &endpoint.config.ips {
            let owner = owner(endpoint.identity, endpoint.ifindex.unwrap_or(0));
            ipcache.insert(IpNet::from(*address), owner);
        }
    }
    ipcache
}

fn kernel_ipcache(ipcache: &Ipcache) -> HashMap<IpcachePrefix, IpcacheEntry> {
    ipcache
        .kernel_entries()
        .map(|(prefix_len, key, entry)| {
            let prefix = IpcachePrefix {
                addr: key.addr,
                prefix_len,
            };
            (prefix, entry)
        })
        .collect()
}
