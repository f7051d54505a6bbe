//! Pods of which a network plugin told before their API server could: an address is in a pod's status only after its
//! network was made, and the plugin that makes it waits until policies are in force.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use seventh_kube::{Cluster, Workload};
use tokio::sync::Notify;

/// Announcements that are kept at most, and for how long: by then the API server has the address, or the pod is gone.
const ANNOUNCED_MAX: usize = 4096;
const KEPT: Duration = Duration::from_secs(300);

/// What network plugins told.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    pods: Mutex<HashMap<String, Announced>>,
    news: Notify,
}

/// A pod's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// The pod's UID; empty if the plugin does not know it.
    pub(super) uid: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) at: Instant,
}

impl Announcements {
    /// The pod of this name has these addresses. Who may say so is root on this node.
    pub(crate) fn announce(&self, name: &str, uid: &str, ips: Vec<IpAddr>) {
        let announced = Announced {
            uid: uid.to_owned(),
            ips,
            at: Instant::now(),
        };
        let mut pods = self.pods();
        pods.retain(|_, known| known.at.elapsed() < KEPT);
        let is_known = pods
            .get(name)
            .is_some_and(|known| (&known.uid, &known.ips) == (&announced.uid, &announced.ips));
        if !is_known && (pods.len() < ANNOUNCED_MAX || pods.contains_key(name)) {
            pods.insert(name.to_owned(), announced);
            self.news.notify_one();
        }
    }

    /// Comes when there was something new.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// What was told, and still holds.
    pub(super) fn present(&self) -> HashMap<String, Announced> {
        let mut pods = self.pods();
        pods.retain(|_, known| known.at.elapsed() < KEPT);
        pods.clone()
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Announced>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cluster with the addresses of pods of this node that have none yet, but were announced. An address that was given
/// to them is nobody else's any more.
pub(super) fn with_announced(cluster: &Arc<Cluster>, announced: &HashMap<String, Announced>) -> Arc<Cluster> {
    let lacks = |pod: &Workload| pod.is_local && !pod.host_network && pod.ips.is_empty();
    let told = |pod: &Workload| {
        let announced = announced.get(&pod.name.to_string())?;
        (announced.uid.is_empty() || announced.uid == pod.uid).then_some(announced)
    };
    let given: HashSet<IpAddr> = cluster
        .workloads
        .iter()
        .filter(|pod| lacks(pod))
        .filter_map(|pod| told(pod))
        .flat_map(|announced| announced.ips.iter().copied())
        .collect();
    if given.is_empty() {
        return Arc::clone(cluster);
    }
    let mut with = (**cluster).clone();
    for pod in &mut with.workloads {
        if let Some(announced) = told(pod).filter(|_| lacks(pod)) {
            Arc::make_mut(pod).ips.clone_from(&announced.ips);
        } else if pod.ips.iter().any(|ip| given.contains(ip)) {
            Arc::make_mut(pod).ips.retain(|ip| !given.contains(ip));
        }
    }
    Arc::new(with)
}

#[cfg(test)]
mod tests {
    use super::{ANNOUNCED_MAX, Announcements, with_announced};
    use seventh_kube::{Cluster, ObjectName, Workload};
    use seventh_policy::{Labels, NamedPorts};
    use std::{net::IpAddr, sync::Arc};

    fn pod(name: &str, ips: &[&str]) -> Arc<Workload> {
        Arc::new(Workload {
            name: ObjectName::new("default", name),
            uid: format!("uid-{name}"),
            is_local: true,
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            labels: Labels::new([]),
            ignored_labels: Labels::new([]),
            ports: NamedPorts::default(),
            host_network: false,
        })
    }

    fn ips(cluster: &Cluster, at: usize) -> String {
        let ips: Vec<String> = cluster.workloads[at].ips.iter().map(ToString::to_string).collect();
        ips.join(" ")
    }

    #[test]
    fn what_was_announced_holds_until_the_api_server_knows_better() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let announcements = Announcements::default();
        announcements.announce("default/new", "uid-new", vec![address]);
        announcements.announce("default/known", "", vec!["10.0.0.9".parse().unwrap()]);
        announcements.announce(
            "default/other",
            "uid-of-an-earlier-one",
            vec!["10.0.0.8".parse().unwrap()],
        );
        let cluster = Arc::new(Cluster {
            workloads: vec![
                pod("new", &[]),
                pod("old", &["10.0.0.1", "fd00::1"]),
                pod("known", &["10.0.0.2"]),
                pod("other", &[]),
            ],
            ..Cluster::default()
        });
        let with = with_announced(&cluster, &announcements.present());
        assert_eq!(ips(&with, 0), "10.0.0.1");
        assert_eq!(ips(&with, 1), "fd00::1", "the address was given again");
        assert_eq!((ips(&with, 2), ips(&with, 3)), ("10.0.0.2".into(), String::new()));
        let none = with_announced(&cluster, &Announcements::default().present());
        assert!(Arc::ptr_eq(&none, &cluster));
    }

    #[test]
    fn announcements_are_bounded() {
        let announcements = Announcements::default();
        for n in 0..2 * ANNOUNCED_MAX {
            announcements.announce(&format!("default/p{n}"), "", Vec::new());
        }
        assert_eq!(announcements.present().len(), ANNOUNCED_MAX);
    }
}
