//! What the agent answers about itself.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use seventh_abi::{Counter, Direction, DropReason, drop_counter};
use seventh_datapath::{AttachMode, Datapath, PolicyRow};
use seventh_engine::EngineCounter;
use seventh_policy::Identity;

use crate::{
    agent::{Shared, State},
    api::{Answers, Flow, NameRow, Prefix, v1},
    fqdn,
    inventory::Unmanaged,
    kubernetes, listings,
    metrics::LatencySum,
    publisher::{Enforced, Publisher},
    settings,
    worker::{Life, WorkerReport},
};

impl Answers for Shared {
    fn status(&self) -> v1::StatusResponse {
        let mut changed = settings::list(self);
        changed.retain(|setting| setting.value != setting.configured);
        let state = self.state();
        let reports = state.workers.reports();
        let mut problems = problems(&state, &reports);
        if let Some(cluster) = &self.cluster {
            problems.extend(kubernetes::problems(&cluster.connection.borrow()));
        }
        if self.copies.is_dead() {
            problems.push("copies are not read any more: nothing is audited or observed; restart the agent".to_owned());
        }
        let publisher = state.publisher.as_ref();
        let (packets, drops) = publisher.map(|p| self.counts(p.datapath())).unwrap_or_default();
        v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            attach: publisher
                .map_or("none", |p| attach_name(p.datapath().attach_mode()))
                .to_owned(),
            policy: Some(v1::PolicyStatus {
                revision: publisher.map_or(0, Publisher::revision),
                documents: u32::try_from(state.documents).unwrap_or(u32::MAX),
                findings: state.findings.iter().map(ToString::to_string).collect(),
                errors: u32::try_from(state.rejections + state.dangling).unwrap_or(u32::MAX),
            }),
            workers: (0..)
                .zip(&reports)
                .map(|(index, report)| worker_status(index, report))
                .collect(),
            paths: packets,
            drops,
            endpoints: publisher.map_or(0, |p| u32::try_from(p.endpoints().len()).unwrap_or(u32::MAX)),
            problems,
            engine: self.engine_counts(),
            verdicts: verdict_times(&state.workers.latency()),
            changed,
            audit: Some(self.audit_status(&state)),
        }
    }

    fn endpoints(&self) -> Vec<v1::Endpoint> {
        let state = self.state();
        let publisher = state.publisher.iter();
        let unmanaged = state.inventory.unmanaged.iter().map(describe_unmanaged);
        publisher
            .flat_map(|publisher| {
                // The numbers by which the kernel has it.
                let in_kernel = publisher.datapath().endpoints();
                let endpoints = publisher.endpoints().iter();
                endpoints.map(move |endpoint| {
                    let entry = endpoint.ifindex.and_then(|ifindex| in_kernel.get(&ifindex));
                    describe_endpoint(endpoint, entry.map_or(0, |entry| entry.policy_id))
                })
            })
            .chain(unmanaged)
            .collect()
    }

    fn in_force(&self, wanted: &v1::AwaitEndpointRequest) -> Result<v1::Endpoint> {
        let ip = |text: &String| {
            text.parse::<IpAddr>()
                .with_context(|| format!("`{text}` is no address"))
        };
        let ips = wanted.ips.iter().map(ip).collect::<Result<Vec<IpAddr>>>()?;
        let state = self.state();
        let publisher = running(&state)?;
        let mut endpoints = publisher.endpoints().iter();
        let endpoint = endpoints.find(|endpoint| endpoint.config.name == wanted.endpoint);
        let lacking = ips
            .iter()
            .find(|ip| endpoint.is_none_or(|endpoint| !endpoint.config.ips.contains(ip)));
        if let Some((cluster, _)) = self.cluster.as_ref().zip(lacking) {
            // Its API server learns of the addresses only after we have answered.
            cluster.announced.announce(&wanted.endpoint, &wanted.uid, ips.clone());
        }
        let Some(endpoint) = endpoint else {
            let mut unmanaged = state.inventory.unmanaged.iter();
            let known = unmanaged.find(|pod| pod.name == wanted.endpoint);
            bail!(
                "the agent does not enforce on this endpoint: {}",
                known.map_or("it does not know it", |pod| &pod.reason)
            );
        };
        if let Some(ip) = lacking {
            bail!("the agent knows this endpoint without the address {ip}");
        }
        ensure!(
            wanted.uid.is_empty() || endpoint.config.instance.is_empty() || wanted.uid == endpoint.config.instance,
            "the agent knows an earlier endpoint of this name"
        );
        let interface = &endpoint.config.interface;
        ensure!(
            wanted.interfaces.is_empty() || wanted.interfaces.contains(interface),
            "the agent knows this endpoint at another device, {interface}"
        );
        ensure!(endpoint.state() == "ready", "the endpoint is {}", endpoint.state());
        let in_kernel = publisher.datapath().endpoints();
        let entry = endpoint.ifindex.and_then(|ifindex| in_kernel.get(&ifindex));
        Ok(describe_endpoint(endpoint, entry.map_or(0, |entry| entry.policy_id)))
    }

    fn set_audit(&self, endpoint: &str, audit: bool) -> Result<()> {
        Self::set_audit(self, endpoint, audit)
    }

    fn policy(&self, name: &str) -> Vec<v1::PolicyDocument> {
        listings::policy(&self.state(), name)
    }

    fn names(&self) -> Vec<v1::LearnedName> {
        fqdn::list(self)
    }

    fn clean_names(&self, pattern: &str) -> Result<usize> {
        fqdn::clean(self, pattern)
    }

    fn identities(&self) -> Vec<Arc<Identity>> {
        self.state().store.identities().iter().cloned().collect()
    }

    fn describe_identities(&self, identities: &[Arc<Identity>]) -> Vec<v1::Identity> {
        listings::identities(&self.state(), identities)
    }

    fn policy_rows(&self) -> Result<Vec<PolicyRow>> {
        let mut rows = running(&self.state())?.datapath().policy_rows()?;
        rows.sort_by_key(|(bits, key, _)| {
            (
                key.policy_id,
                key.direction,
                key.identity,
                key.protocol,
                key.port,
                *bits,
            )
        });
        Ok(rows)
    }

    fn describe_policy_rows(&self, rows: &[PolicyRow]) -> Vec<v1::PolicyRow> {
        listings::policy_rows(&self.state(), rows)
    }

    fn ipcache(&self) -> Result<Vec<Prefix>> {
        let mut prefixes: Vec<Prefix> = running(&self.state())?.datapath().ipcache()?.into_iter().collect();
        prefixes.sort_by_key(|(prefix, _)| (prefix.addr, prefix.prefix_len));
        Ok(prefixes)
    }

    fn describe_ipcache(&self, prefixes: &[Prefix]) -> Vec<v1::IpcacheEntry> {
        listings::ipcache(&self.state(), prefixes)
    }

    fn name_rows(&self) -> Vec<NameRow> {
        let mut rows = self.names.rows();
        rows.sort_unstable_by_key(|(scope, addr, _)| (*scope, *addr));
        rows
    }

    fn describe_name_rows(&self, rows: &[NameRow]) -> Vec<v1::NameRow> {
        listings::name_rows(&self.state(), rows)
    }

    fn flows(&self, max: usize) -> Result<Vec<Flow>> {
        let mut flows = running(&self.state())?.datapath().flows(max);
        flows.sort_by_key(|(key, _)| (key.ifindex, key.peer_addr, key.peer_port, key.local_port));
        Ok(flows)
    }

    fn describe_flows(&self, flows: &[Flow]) -> Vec<v1::FlowEntry> {
        listings::flows(&self.state(), flows)
    }

    fn settings(&self, name: &str) -> Vec<v1::Setting> {
        match name {
            "" => settings::list(self),
            name => settings::find(self, name).into_iter().collect(),
        }
    }

    fn set(&self, name: &str, value: Option<&str>) -> Result<v1::Setting> {
        settings::set(self, name, value)
    }
}

fn running(state: &State) -> Result<&Publisher> {
    state.publisher.as_ref().context("the agent is ending")
}

/// One of the kernel's counters, 0 if they could not be read.
pub(crate) fn kernel_count(kernel: &[u64], index: u32) -> u64 {
    usize::try_from(index)
        .ok()
        .and_then(|i| kernel.get(i))
        .copied()
        .unwrap_or(0)
}

impl Shared {
    /// Paths and drops that happened; drops are the kernel's and the engine's together.
    fn counts(&self, datapath: &Datapath) -> (Vec<v1::NamedCount>, Vec<v1::NamedCount>) {
        let kernel = datapath.counters().unwrap_or_default();
        let at = |index| kernel_count(&kernel, index);
        let engine = self.engine.counters();
        let paths = Counter::ALL
            .iter()
            .map(|(counter, name)| named(name, at(*counter as u32)));
        let drops = DropReason::ALL
            .iter()
            .map(|&reason| named(reason.name(), at(drop_counter(reason)) + engine.reason(reason)));
        (paths.filter(happened).collect(), drops.filter(happened).collect())
    }

    fn audit_status(&self, state: &State) -> v1::AuditStatus {
        let number = |is: fn(&Enforced) -> bool| {
            let all = state.publisher.iter().flat_map(Publisher::endpoints);
            u32::try_from(all.filter(|endpoint| is(endpoint)).count()).unwrap_or(u32::MAX)
        };
        let kernel = state.publisher.as_ref().and_then(|p| p.datapath().counters().ok());
        let at = |counter: Counter| {
            let value = kernel.as_ref().and_then(|counters| counters.get(counter as usize));
            value.copied().unwrap_or(0)
        };
        v1::AuditStatus {
            endpoints_in_audit: number(|endpoint| endpoint.is_audited),
            endpoints_under_policies_in_audit: number(|endpoint| endpoint.audit.is_some() && !endpoint.is_audited),
            endpoints_observed: number(|endpoint| endpoint.config.observe),
            copied: at(Counter::Copied),
            lost: at(Counter::CopyLost),
            judged: self.copies.judged(),
        }
    }

    fn engine_counts(&self) -> Vec<v1::NamedCount> {
        let engine = self.engine.counters();
        let paths = EngineCounter::ALL
            .iter()
            .map(|(counter, name)| named(name, engine.path(*counter)));
        let lost = named("record_lost", self.engine.records_lost());
        paths.chain([lost]).filter(happened).collect()
    }
}

fn named(name: &str, count: u64) -> v1::NamedCount {
    v1::NamedCount {
        name: name.to_owned(),
        count,
    }
}

fn happened(count: &v1::NamedCount) -> bool {
    count.count > 0
}

fn worker_status(index: u32, report: &WorkerReport) -> v1::WorkerStatus {
    v1::WorkerStatus {
        index,
        alive: report.life == Life::Alive,
        frames_received: report.stats.received,
        frames_sent: report.stats.sent,
        frames_lost: report.stats.lost(),
    }
}

/// How long verdicts took.
fn verdict_times(latency: &LatencySum) -> Vec<v1::LatencyBucket> {
    let buckets = latency.counts().map(|(up_to_ns, count)| v1::LatencyBucket {
        up_to_ns: up_to_ns.unwrap_or(0),
        count,
    });
    buckets.collect()
}

fn problems(state: &State, workers: &[WorkerReport]) -> Vec<String> {
    let mut problems: Vec<String> = (0..)
        .zip(workers)
        .flat_map(|(index, report)| report.problems(index))
        .collect();
    for endpoint in state.publisher.iter().flat_map(Publisher::endpoints) {
        if endpoint.ifindex.is_none() {
            problems.push(format!(
                "endpoint {}: there is no interface `{}`",
                endpoint.config.name, endpoint.config.interface
            ));
        }
        if let Some(reason) = &endpoint.shut {
            problems.push(format!(
                "endpoint {}: nothing passes (policy_incomplete): {reason}",
                endpoint.config.name
            ));
        }
        if let Some(reason) = &endpoint.unaudited {
            problems.push(format!("endpoint {}: is not audited: {reason}", endpoint.config.name));
        }
    }
    if let Some(publisher) = &state.publisher {
        problems.extend(
            publisher.datapath().lost_devices().into_iter().map(|device| {
                format!("punt device `{device}` is gone: flows of L7 rules are dropped; restart the agent")
            }),
        );
    }
    if state
        .publisher
        .as_ref()
        .is_some_and(|publisher| !publisher.datapath().is_pinned())
    {
        problems.push(
            "the pins on the bpf file system are gone: what is in force ends with this agent; mount it and restart the agent"
                .to_owned(),
        );
    }
    if state.rejections > 0 {
        problems.push(format!(
            "{} errors in policy documents: what was in force from these files stays in force",
            state.rejections
        ));
    }
    if state.dangling > 0 {
        problems.push(format!(
            "{} references in policy documents lead nowhere (see the findings): these rules select, or govern, nobody",
            state.dangling
        ));
    }
    if state.conflicts > 0 {
        problems.push(format!(
            "{} contradictions between rules (see the findings): their traffic is denied (policy_conflict)",
            state.conflicts
        ));
    }
    problems.extend(
        state
            .failure
            .iter()
            .map(|reason| format!("not everything is in force: {reason}")),
    );
    problems
}

fn describe_endpoint(endpoint: &Enforced, policy_id: u32) -> v1::Endpoint {
    let policy = endpoint.policy.as_ref();
    let enforced = |direction| policy.is_some_and(|policy| policy.enforced(direction));
    v1::Endpoint {
        id: endpoint.id,
        name: endpoint.config.name.clone(),
        identity: endpoint.identity,
        labels: endpoint.config.labels.iter().map(ToString::to_string).collect(),
        ips: endpoint.config.ips.iter().map(ToString::to_string).collect(),
        interface: endpoint.config.interface.clone(),
        ingress_enforced: enforced(Direction::Ingress),
        egress_enforced: enforced(Direction::Egress),
        policy_id,
        epoch: endpoint.epoch,
        state: endpoint.state().to_owned(),
        in_audit: endpoint.is_audited,
        under_policies_in_audit: endpoint.audit.is_some() && !endpoint.is_audited,
        observed: endpoint.config.observe,
    }
}

/// A pod on which nothing is enforced has no number.
fn describe_unmanaged(pod: &Unmanaged) -> v1::Endpoint {
    v1::Endpoint {
        name: pod.name.clone(),
        labels: pod.labels.iter().map(ToString::to_string).collect(),
        ips: pod.ips.iter().map(ToString::to_string).collect(),
        state: format!("unmanaged: {}", pod.reason),
        ..v1::Endpoint::default()
    }
}

fn attach_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Auto => "auto",
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    }
}
