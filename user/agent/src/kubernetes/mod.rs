//! A cluster as the source of what an agent goes by: its API server says who is there and what they may, this node says
//! which device belongs to whom.

mod announced;
#[cfg(test)]
mod churn;
mod devices;
mod network;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use seventh_kube::{
    Cluster, Connection, FollowSettings, Following, PolicyText, Report, Reports, Workload, connect, follow, report,
};
use seventh_policy::{Finding, Severity};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

pub(crate) use self::announced::Announcements;
use self::{
    announced::with_announced,
    devices::{Device, Devices, Looked},
};
use crate::{
    agent::{Shared, State, reload_aside},
    config::{Config, EndpointConfig, KubernetesConfig},
    inventory::{Cause, ClusterPart, Inventory, Unmanaged},
    publisher::Publisher,
};

/// How soon devices are looked for again that were not there: at first, and at last.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(100);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Devices that come and go are one change until none does for this long.
const DEVICES_SETTLE: Duration = Duration::from_millis(20);
/// Errors of a policy that are told in its status.
const FAULTS_MAX: usize = 5;
/// How often it is told what the start waits for.
const TELL_WAITING: Duration = Duration::from_secs(10);

/// What the agent's other parts know of a cluster.
#[derive(Debug)]
pub(crate) struct ClusterSide {
    /// How it stands with the API server.
    pub(crate) connection: watch::Receiver<Connection>,
    /// Where network plugins tell of new pods.
    pub(crate) announced: Arc<Announcements>,
}

/// A cluster that is followed.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    name: String,
    following: Following,
    devices: Devices,
    links: mpsc::Receiver<()>,
    reports: watch::Sender<Arc<Reports>>,
    announced: Arc<Announcements>,
    /// Devices that were told to be open.
    open: HashSet<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Kubernetes {
    /// Begins to follow the configured cluster.
    ///
    /// # Errors
    /// Nothing says how to reach its API server, or what does is wrong.
    pub(crate) async fn connect(config: &Config, kubernetes: &KubernetesConfig) -> Result<Self> {
        let client = connect(kubernetes.kubeconfig.as_deref()).await.context("kubernetes")?;
        let settings = FollowSettings {
            node: config.node.clone(),
            cluster: kubernetes.cluster.clone(),
            labels: config.identity_labels.clone(),
            discover_every: kubernetes.discover_every,
        };
        let (following, run) =
            follow(client.clone(), &settings).map_err(|reason| anyhow!("identityLabels: {reason}"))?;
        let (changed, links) = mpsc::channel(1);
        let (reports, to_report) = watch::channel(Arc::default());
        let tasks = vec![
            tokio::spawn(run),
            tokio::spawn(follow_links(changed)?),
            tokio::spawn(report(client, config.node.clone(), to_report)),
        ];
        Ok(Self {
            name: kubernetes.cluster.clone(),
            following,
            devices: Devices::new(kubernetes.netns_dirs.clone(), kubernetes.proc_dir.clone()),
            links,
            reports,
            announced: Arc::default(),
            open: HashSet::new(),
            tasks,
        })
    }

    /// What others ask of it while it is followed.
    pub(crate) fn side(&self) -> ClusterSide {
        ClusterSide {
            connection: self.following.connection.clone(),
            announced: Arc::clone(&self.announced),
        }
    }

    /// Who is there, once everything is known.
    pub(crate) async fn first(&mut self) -> Inventory {
        loop {
            let known = timeout(TELL_WAITING, self.following.cluster.wait_for(Option::is_some)).await;
            let cluster = known.ok().and_then(|known| known.ok()?.clone());
            if let Some(cluster) = cluster {
                return self.take_stock(&cluster).await.0;
            }
            let connection = self.following.connection.borrow().clone();
            for problem in problems(&connection) {
                error!("{problem}");
            }
            let awaited: Vec<&str> = connection.awaited.iter().map(|kind| kind.plural()).collect();
            warn!(
                awaited = awaited.join(","),
                "waiting for the API server: nothing new is enforced before"
            );
        }
    }

    /// Brings what changes into the agent.
    pub(crate) async fn follow(mut self, shared: Arc<Shared>) {
        let mut again = LOOK_AGAIN_MIN;
        let mut is_complete = false;
        loop {
            self.tell(&shared);
            tokio::select! {
                changed = self.following.cluster.changed() => {
                    if changed.is_err() {
                        error!("the cluster is no longer followed; restart the agent");
                        return;
                    }
                    again = LOOK_AGAIN_MIN;
                }
                Some(()) = self.links.recv() => {
                    sleep(DEVICES_SETTLE).await;
                    while self.links.try_recv().is_ok() {}
                    again = LOOK_AGAIN_MIN;
                }
                () = self.announced.news() => again = LOOK_AGAIN_MIN,
                () = sleep(again), if !is_complete => again = (again * 2).min(LOOK_AGAIN_MAX),
            }
            let cluster = self.following.cluster.borrow_and_update().clone();
            let Some(cluster) = cluster else { continue };
            let (inventory, found_all) = self.take_stock(&cluster).await;
            is_complete = found_all;
            self.warn_of_open(&inventory);
            if shared.set_inventory(inventory) {
                reload_aside(&shared).await;
            }
        }
    }

    /// Tells once of each device that stays open beside one that does not.
    fn warn_of_open(&mut self, inventory: &Inventory) {
        let open = inventory
            .unmanaged
            .iter()
            .filter(|pod| pod.cause == Cause::FurtherDevice);
        let open: HashSet<String> = open.map(|pod| format!("{}: {}", pod.name, pod.reason)).collect();
        for news in open.difference(&self.open) {
            warn!("{news}");
        }
        self.open = open;
    }

    /// Has the API server told what became of policies.
    fn tell(&self, shared: &Shared) {
        let Some(cluster) = self.following.cluster.borrow().clone() else {
            return;
        };
        let state = shared.state();
        let report = |policy: &Arc<PolicyText>| {
            let file = policy.file();
            Report {
                policy: Arc::clone(policy),
                fault: fault(&file, &state.findings),
            }
        };
        let trouble = trouble(&state);
        // Whoever says that a policy is in force has it in force.
        let policies = cluster.policies.iter().map(report);
        let policies = policies.filter(|report| trouble.is_none() || report.fault.is_some());
        let reports = Reports {
            nodes: cluster.node_names.clone(),
            policies: policies.collect(),
            trouble: trouble.clone(),
        };
        drop(state);
        self.reports.send_if_modified(|known| {
            let is_new = **known != reports;
            if is_new {
                *known = Arc::new(reports);
            }
            is_new
        });
    }

    /// Who is there, and whether every device was found that could be.
    async fn take_stock(&mut self, cluster: &Arc<Cluster>) -> (Inventory, bool) {
        let cluster = &with_announced(cluster, &self.announced.present());
        let mut devices = std::mem::replace(&mut self.devices, Devices::new(Vec::new(), PathBuf::new()));
        let looked_at = Arc::clone(cluster);
        let looking = tokio::task::spawn_blocking(move || {
            let looked = devices.look(&local(&looked_at));
            (devices, looked)
        });
        let looked = match looking.await {
            Ok((devices, looked)) => {
                self.devices = devices;
                looked
            }
            Err(e) => {
                error!(error = format!("{e:#}"), "devices of pods cannot be looked for");
                HashMap::new()
            }
        };
        let inventory = inventory(&self.name, cluster, &looked);
        let found_all = looked.values().all(Result::is_ok) && looked.len() == local(cluster).len();
        (inventory, found_all)
    }
}

/// Pods of this node that have a network of their own, and an address in it.
fn local(cluster: &Cluster) -> Vec<&Workload> {
    let workloads = cluster.workloads.iter().map(Arc::as_ref);
    workloads
        .filter(|pod| pod.is_local && !pod.host_network && !pod.ips.is_empty())
        .collect()
}

/// The cluster as the agent takes it.
fn inventory(name: &str, cluster: &Cluster, looked: &HashMap<String, Looked>) -> Inventory {
    let mut inventory = Inventory::default();
    for pod in cluster.workloads.iter().filter(|pod| pod.is_local) {
        let found = match looked.get(&pod.uid) {
            _ if pod.host_network => Err((
                Cause::HostNetwork,
                "shares the node's network: host policies are not enforced".to_owned(),
            )),
            _ if pod.ips.is_empty() => Err((Cause::NoAddress, "has no address yet".to_owned())),
            Some(found) => found.clone().map_err(|reason| (Cause::NoDevice, reason)),
            None => Err((
                Cause::NoDevice,
                "its device cannot be looked for; see the log".to_owned(),
            )),
        };
        match found {
            Ok(Device { interface, more }) => {
                inventory.unmanaged.extend(more.iter().map(|device| {
                    let reason = format!(
                        "its further device on the node, {device}, is open: only {interface}, that of its address, is enforced"
                    );
                    unmanaged(pod, Cause::FurtherDevice, reason)
                }));
                inventory.endpoints.push(endpoint(pod, interface));
            }
            Err((cause, reason)) => inventory.unmanaged.push(unmanaged(pod, cause, reason)),
        }
    }
    let texts = cluster
        .policies
        .iter()
        .map(|policy| (policy.file().into(), Arc::clone(&policy.text)));
    inventory.cluster = Some(ClusterPart {
        name: name.to_owned(),
        workloads: cluster.workloads.clone(),
        nodes: cluster.nodes.clone(),
        fronts: cluster.fronts.clone(),
        services: cluster.services.clone(),
        texts: texts.collect(),
    });
    inventory
}

fn unmanaged(pod: &Workload, cause: Cause, reason: String) -> Unmanaged {
    Unmanaged {
        name: pod.name.to_string(),
        labels: pod.labels.clone(),
        ips: pod.ips.clone(),
        cause,
        reason,
    }
}

fn endpoint(pod: &Workload, interface: String) -> EndpointConfig {
    EndpointConfig {
        name: pod.name.to_string(),
        instance: pod.uid.clone(),
        labels: pod.labels.clone(),
        ignored_labels: pod.ignored_labels.clone(),
        interface,
        ips: pod.ips.clone(),
        named_ports: pod.ports.clone(),
        audit: false,
        observe: false,
    }
}

/// Why policies are not in force here that are valid.
fn trouble(state: &State) -> Option<String> {
    let shut = state.publisher.iter().flat_map(Publisher::endpoints);
    let shut: Vec<&str> = shut
        .filter(|endpoint| endpoint.shut.is_some())
        .map(|endpoint| endpoint.config.name.as_str())
        .collect();
    let failure = state
        .failure
        .as_ref()
        .map(|failure| format!("not everything is in force: {failure}"));
    let shut = (!shut.is_empty()).then(|| format!("nothing passes at {}: see `seventh status`", shut.join(", ")));
    failure.or(shut)
}

/// What is wrong with a document, in one line: it cannot be used, or does not do what it says. `None` if nothing is.
fn fault(file: &str, findings: &[Finding]) -> Option<String> {
    let own = findings
        .iter()
        .filter(|finding| &*finding.file == file && finding.severity == Severity::Error);
    let said = own.map(|finding| {
        if finding.field.is_empty() {
            finding.reason.clone()
        } else {
            format!("{}: {}", finding.field, finding.reason)
        }
    });
    let said: Vec<String> = said.take(FAULTS_MAX).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// What is wrong between us and the API server, in words.
pub(crate) fn problems(connection: &Connection) -> Vec<String> {
    let now = SystemTime::now();
    let mut problems: Vec<String> = Vec::new();
    for trouble in &connection.troubles {
        let seconds = now.duration_since(trouble.since).unwrap_or_default().as_secs();
        problems.push(format!(
            "{} are not followed since {seconds} s: {}",
            trouble.kind.plural(),
            trouble.reason
        ));
    }
    for (kind, count) in &connection.refused {
        problems.push(format!(
            "{count} {} are too many and not taken into account",
            kind.plural()
        ));
    }
    if let [(kind, name), others @ ..] = connection.unread.as_slice() {
        let others = match others.len() {
            0 => String::new(),
            more => format!(" and {more} other objects"),
        };
        problems.push(format!(
            "{} {name}{others} of the API server cannot be read (see the log); what was known before stays",
            kind.name()
        ));
    }
    problems
}

/// Tells of devices that come, go or change. A full channel means that somebody looks anyway.
fn follow_links(changed: mpsc::Sender<()>) -> Result<impl Future<Output = ()>> {
    let (connection, handle, mut messages) =
        new_multicast_connection(&[MulticastGroup::Link]).context("netlink does not tell of devices")?;
    Ok(async move {
        // As long as it is held, the connection stays open.
        let _handle = handle;
        let connection = tokio::spawn(connection);
        while messages.next().await.is_some() {
            let _ = changed.try_send(());
        }
        connection.abort();
        info!("netlink no longer tells of devices");
    })
}

#[cfg(test)]
mod tests {
    use super::{Device, Looked, fault, inventory};
    use seventh_kube::{Cluster, ObjectName, Workload};
    use seventh_policy::{Labels, NamedPorts, Surroundings, load_text, resolve};
    use std::{collections::HashMap, sync::Arc};

    fn pod(name: &str, change: impl FnOnce(&mut Workload)) -> Arc<Workload> {
        let mut pod = Workload {
            name: ObjectName::new("default", name),
            uid: format!("uid-{name}"),
            is_local: true,
            ips: vec!["10.0.0.1".parse().unwrap()],
            labels: Labels::parse(["app=x"]),
            ignored_labels: Labels::new([]),
            ports: NamedPorts::default(),
            host_network: false,
        };
        change(&mut pod);
        Arc::new(pod)
    }

    #[test]
    fn a_policy_that_cannot_do_what_it_says_is_not_told_to_be_in_force() {
        let host = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: host}\nspec:\n  \
                    nodeSelector: {matchLabels: {role: db}}\n  ingress: [{fromEntities: [cluster]}]\n";
        let loaded = load_text("k8s:host", host);
        assert!(!loaded.has_errors());
        let resolved = resolve(&loaded.documents, &Surroundings::default());
        let said = fault("k8s:host", &resolved.findings).unwrap();
        assert!(
            said.starts_with("spec.nodeSelector: ") && said.contains("host policies"),
            "{said}"
        );
        assert_eq!(fault("k8s:other", &resolved.findings), None);
    }

    fn device(interface: &str, more: &[&str]) -> Device {
        Device {
            interface: interface.into(),
            more: more.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn what_cannot_be_enforced_on_is_told_with_its_reason() {
        let cluster = Cluster {
            workloads: vec![
                pod("found", |_| {}),
                pod("elsewhere", |pod| pod.is_local = false),
                pod("host", |pod| pod.host_network = true),
                pod("new", |pod| pod.ips.clear()),
                pod("macvlan", |_| {}),
            ],
            ..Cluster::default()
        };
        let looked: HashMap<String, Looked> = [
            ("uid-found".to_owned(), Ok(device("veth1", &["veth2"]))),
            ("uid-macvlan".to_owned(), Err("is no veth".to_owned())),
        ]
        .into();
        let inventory = inventory("default", &cluster, &looked);
        let names: Vec<&str> = inventory.endpoints.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["default/found"]);
        let unmanaged: Vec<(&str, &str)> = inventory
            .unmanaged
            .iter()
            .map(|u| (u.name.as_str(), u.reason.as_str()))
            .collect();
        assert_eq!(unmanaged.len(), 4);
        assert!(unmanaged[0].0 == "default/found" && unmanaged[0].1.contains("veth2"));
        assert!(unmanaged[1].1.contains("node's network") && unmanaged[2].1.contains("no address"));
        assert_eq!(unmanaged[3], ("default/macvlan", "is no veth"));
        assert_eq!(inventory.cluster.unwrap().workloads.len(), 5);
    }
}
