//! A cluster in which everything changes all the time, with a real agent and real packets: no request is judged wrongly
//! meanwhile, and memory stays as it is.
//!
//! `SEVENTH_SCALE="PODS POLICIES ROUNDS"` makes it larger; what it costs is told on the way (docs/scale.md has the numbers).

use std::{
    io::Write as _,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use seventh::lab::Lab;

use crate::{
    api_server::ApiServer,
    client::{PATIENCE, fetch},
    kubernetes::{cluster_with, object, pod, service, slice},
    requests::ask,
    stage::{PUBLIC, binary, policy, status, until},
};

/// Pods of one deployment, more or less: they share their labels.
const PODS_PER_APP: usize = 10;
const NAMESPACES: usize = 10;
const SERVICES_PER_POD: usize = 20;
/// When the agent has to be ready.
const READY_MAX: Duration = Duration::from_secs(600);
/// Changes between two looks.
const CHANGES: usize = 30;
/// Growth of memory that is noise: a part of it, and MiB.
const NOISE_PART: f64 = 0.1;
const NOISE_MIB: f64 = 8.0;

struct Size {
    pods: usize,
    policies: usize,
    rounds: usize,
}

impl Size {
    fn wanted() -> Self {
        let wanted = std::env::var("SEVENTH_SCALE").unwrap_or_else(|_| "1000 200 20".to_owned());
        let numbers: Vec<usize> = wanted.split(' ').map(|n| n.parse().unwrap()).collect();
        let [pods, policies, rounds] = numbers.as_slice() else {
            panic!("SEVENTH_SCALE: PODS POLICIES ROUNDS")
        };
        Self {
            pods: *pods,
            policies: *policies,
            rounds: *rounds,
        }
    }

    fn apps(&self) -> usize {
        (self.pods / PODS_PER_APP).max(1)
    }

    fn services(&self) -> usize {
        (self.pods / SERVICES_PER_POD).max(1)
    }
}

struct Churn<'a> {
    size: &'a Size,
    server: &'a ApiServer,
    rng: StdRng,
    made: u64,
}

fn namespace(n: usize) -> String {
    format!("ns{}", n % NAMESPACES)
}

/// One of twice as many addresses as there are pods.
fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + u32::try_from(n).unwrap())
}

impl Churn<'_> {
    fn any(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    /// A pod of another node is made, or made anew with another address.
    fn pod(&mut self, n: usize) {
        self.made += 1;
        // An app lives in one namespace.
        let app = self.any(self.size.apps()) / NAMESPACES * NAMESPACES + n % NAMESPACES;
        let ip = address(self.any(2 * self.size.pods));
        let created = format!("2026-01-01T00:{:02}:{:02}Z", self.made / 60 % 60, self.made % 60);
        let pod = json!({"metadata": {"namespace": namespace(n), "name": format!("p{n}"), "uid": format!("u{}", self.made),
                "creationTimestamp": created, "labels": {"app": format!("a{app}"), "tier": "x", "release": "stable",
                    "pod-template-hash": "5c6f7d8b9"},
                "annotations": {"kubernetes.io/config.seen": created, "checksum/config": "0123456789abcdef".repeat(4)}},
            "spec": {"nodeName": format!("node-{}", n % 100), "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "registry.example/some/image:1.2.3",
                    "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]}});
        self.server.put("pods", pod);
    }

    fn policy(&mut self, n: usize) {
        let far = namespace(self.any(NAMESPACES));
        let app = |n: usize| json!({"matchLabels": {"app": format!("a{n}"), "k8s:io.kubernetes.pod.namespace": far}});
        let (one, two) = (app(self.any(self.size.apps())), app(self.any(self.size.apps())));
        let port = |port: u16| json!({"port": port.to_string(), "protocol": "TCP"});
        let of = |app: &str| json!({"matchLabels": {"app": app}});
        let (namespace, mut spec) = match n % 4 {
            0 => (
                namespace(n),
                json!({"ingress": [{"fromEndpoints": [one]}], "endpointSelector": two}),
            ),
            1 => (
                "default".to_owned(),
                json!({"endpointSelector": of("server"), "ingress": [{"fromEndpoints": [one],
                "toPorts": [{"ports": [port(8080)], "rules": {"http": [{"path": format!("/{}", self.made)}]}}]}]}),
            ),
            2 => (
                "default".to_owned(),
                json!({"endpointSelector": of("client"), "egress": [{"toEndpoints": [one, two],
                "toPorts": [{"ports": [port(8000)]}]}]}),
            ),
            _ => (
                "default".to_owned(),
                json!({"endpointSelector": of("server"), "ingress": [{
                "fromCIDR": [format!("172.16.{}.0/24", n % 256)], "toPorts": [{"ports": [port(9000)]}]}]}),
            ),
        };
        spec["description"] = format!("the {n}th of them").into();
        let meta = json!({"namespace": namespace, "name": format!("c{n}")});
        self.server
            .put("ciliumnetworkpolicies", json!({"metadata": meta, "spec": spec}));
    }

    fn service(&mut self, n: usize) {
        let name = (namespace(n), format!("s{n}"));
        let name = (name.0.as_str(), name.1.as_str());
        let vip = Ipv4Addr::from(0x0a60_0000 + 100 + u32::try_from(n).unwrap());
        self.server
            .put("services", service(name, vip, &[("TCP", 80), ("UDP", 53)]));
        let behind: Vec<_> = (0..3).map(|_| address(self.any(2 * self.size.pods)).into()).collect();
        self.server.put("endpointslices", slice(name, "TCP", 8080, &behind));
    }

    fn delete(&self, plural: &str, namespace: &str, name: &str) {
        if self.server.get(plural, namespace, name).is_some() {
            self.server.delete(plural, namespace, name);
        }
    }

    fn change(&mut self) {
        match self.any(10) {
            0 => {
                let n = self.any(self.size.policies);
                self.policy(n);
            }
            1 => {
                let n = self.any(self.size.policies);
                let namespace = if n.is_multiple_of(4) {
                    namespace(n)
                } else {
                    "default".to_owned()
                };
                self.delete("ciliumnetworkpolicies", &namespace, &format!("c{n}"));
            }
            2 => {
                let n = self.any(self.size.services());
                self.service(n);
            }
            3 => {
                let n = self.any(self.size.pods);
                self.delete("pods", &namespace(n), &format!("p{n}"));
            }
            _ => {
                let n = self.any(self.size.pods);
                self.pod(n);
            }
        }
    }
}

/// The client may ask of the server what the rules say, whatever becomes of others.
const BASE: &str = "
metadata: {name: base, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toEndpoints: [{matchLabels: {app: server}}]}]
";

fn populate(lab: &Lab, churn: &mut Churn<'_>) {
    for n in 0..NAMESPACES {
        churn
            .server
            .put("namespaces", json!({"metadata": {"name": namespace(n)}}));
    }
    for name in ["client", "server", "intruder"] {
        churn.server.put("pods", pod(lab, name, name));
    }
    churn.server.put("ciliumnetworkpolicies", object(BASE));
    let mut public = object(&policy(PUBLIC));
    public["metadata"]["namespace"] = "default".into();
    churn.server.put("ciliumnetworkpolicies", public);
    (0..churn.size.pods).for_each(|n| churn.pod(n));
    (0..churn.size.services()).for_each(|n| churn.service(n));
    (0..churn.size.policies).for_each(|n| churn.policy(n));
}

/// Memory in MiB and seconds of CPU of a process so far.
fn cost(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = kib.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
    let ticks: f64 = ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    (kib / 1024.0, ticks / 100.0)
}

fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Asks without a pause until it is told to stop; whatever is answered otherwise than it must be ends it.
fn ask_all_the_time(
    lab: &Lab,
    stop: &Arc<AtomicBool>,
    asked: &Arc<AtomicU64>,
) -> std::thread::JoinHandle<nix::Result<()>> {
    let (stop, asked) = (Arc::clone(stop), Arc::clone(asked));
    let server = lab.endpoint("server").unwrap().ipv4;
    let client = lab.endpoint("client").unwrap();
    client
        .start(move || {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(fetch(server, "/public", PATIENCE), Ok(200));
                assert_eq!(fetch(server, "/denied", PATIENCE), Ok(403));
                asked.fetch_add(2, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        })
        .unwrap()
}

/// The largest cluster takes minutes.
fn wait_until_in_force(lab: &Lab, began: Instant) {
    let in_force = || {
        let said = lab.ask_agent(binary(), &["status", "-o", "json"]).unwrap().stdout;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        said["policy"]["revision"].as_u64() > Some(0)
    };
    while !in_force() {
        assert!(began.elapsed() < READY_MAX, "{}", lab.agent_log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cluster_that_never_rests_brings_no_wrong_verdict_and_takes_no_more_memory() {
    let size = Size::wanted();
    let Some((mut lab, server)) = cluster_with("discoveryS: 1", "", |lab, server| {
        let mut churn = Churn {
            size: &size,
            server,
            rng: StdRng::seed_from_u64(1),
            made: 0,
        };
        populate(lab, &mut churn);
    }) else {
        return;
    };
    lab.start_nginx("server", None).unwrap();
    let began = Instant::now();
    let pid = lab.begin_agent(binary(), &[]).unwrap();
    wait_until_in_force(&lab, began);
    let (mib, cpu) = cost(pid);
    let Size { pods, policies, rounds } = size;
    note(&format!(
        "{pods} pods, {policies} policies: ready in {:?}, {mib:.0} MiB, {cpu:.1} s of CPU",
        began.elapsed()
    ));

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = ask_all_the_time(&lab, &stop, &asked);
    let mut churn = Churn {
        size: &size,
        server: &server,
        rng: StdRng::seed_from_u64(2),
        made: 1_000_000,
    };
    let (mut settled, began) = (0.0, Instant::now());
    for round in 0..rounds {
        (0..CHANGES).for_each(|_| churn.change());
        // What has just become of this pod shows that everything before it has arrived, too.
        let (app, expected) = if round % 2 == 0 {
            ("friend", 200)
        } else {
            ("client", 403)
        };
        server.put("pods", pod(&lab, "intruder", app));
        until("the change is in force", || {
            ask(&lab, "intruder", "/denied", PATIENCE) == Ok(expected)
        });
        if round == rounds / 2 {
            settled = cost(pid).0;
        }
    }
    stop.store(true, Ordering::Relaxed);
    asking.join().unwrap().unwrap();
    let (last_mib, last_cpu) = cost(pid);
    let changes = rounds * (CHANGES + 1);
    note(&format!(
        "{changes} changes in {:?}, {:.2} ms of CPU each; {settled:.0} MiB in the middle, {last_mib:.0} MiB at the end; {} requests",
        began.elapsed(),
        (last_cpu - cpu) * 1000.0 / f64::from(u32::try_from(changes).unwrap()),
        asked.load(Ordering::Relaxed),
    ));
    assert!(asked.load(Ordering::Relaxed) > 20);
    assert!(
        last_mib < settled * (1.0 + NOISE_PART) + NOISE_MIB,
        "{settled} MiB, then {last_mib} MiB"
    );
    let status: Value = status(&lab);
    assert_eq!(status["problems"], json!([]), "{status}");
    let lists = server.requests("/api/v1/pods");
    note(&format!("{lists} requests for pods: pages of the list, and watches"));
}
