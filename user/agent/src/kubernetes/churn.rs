//! A cluster in which everything changes all the time: what an agent makes of it change by change must be what another
//! one makes of the same cluster from scratch.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use seventh_abi::Direction;
use seventh_engine::Names;
use seventh_kube::{Change, Deriver, Kind, ObjectName, Picture, Trim};
use seventh_policy::{Ipcache, L4Decision, LabelFilter};

use super::{
    devices::{Device, Looked},
    inventory,
};
use crate::{
    audit::AuditModes,
    config::Config,
    policy_store::{Loaded, PolicyStore},
    publisher::ipcache,
};

const PODS: usize = 1000;
const POLICIES: usize = 200;
const NAMESPACES: usize = 10;
const APPS: usize = 40;
const SERVICES: usize = 20;
/// Pods that run where the agent does.
const LOCAL_ONE_IN: usize = 50;
const STEPS: usize = 120;
const COMPARE_EVERY: usize = 15;
const CHANGES_PER_STEP: usize = 8;

/// The cluster as its API server would have it.
struct Truth {
    rng: StdRng,
    trim: Trim,
    picture: Picture,
    pods: BTreeMap<usize, usize>,
}

/// An agent without a kernel.
struct Mind {
    deriver: Deriver,
    store: PolicyStore,
}

fn filter() -> LabelFilter {
    LabelFilter::new([]).unwrap()
}

impl Mind {
    fn new() -> Self {
        let text = "node: node-0\nkubernetes: {}\n";
        let config = Config::parse(Path::new("/nowhere/config.yaml"), text).unwrap();
        let modes = AuditModes::configured(&config);
        Self {
            deriver: Deriver::new("node-0", "default", filter()),
            store: PolicyStore::new(&config, modes),
        }
    }

    fn take_up(&mut self, picture: &Picture) -> Loaded {
        let cluster = self.deriver.derive(picture);
        let local = cluster.workloads.iter().filter(|pod| pod.is_local);
        let looked: HashMap<String, Looked> = local
            .map(|pod| {
                let device = Device {
                    interface: format!("v{}", pod.uid),
                    more: Vec::new(),
                };
                (pod.uid.clone(), Ok(device))
            })
            .collect();
        let inventory = inventory("default", &cluster, &looked);
        let loaded = self.store.load(&inventory, &[&Names::default()]).unwrap();
        assert_eq!(loaded.rejections, 0, "{:?}", loaded.findings);
        loaded
    }
}

impl Truth {
    fn new(seed: u64) -> Self {
        let mut truth = Self {
            rng: StdRng::seed_from_u64(seed),
            trim: Trim::new(filter(), "node-0"),
            picture: Picture::default(),
            pods: BTreeMap::new(),
        };
        for kind in Kind::ALL {
            truth.picture.apply(Change::Absent(*kind));
        }
        for n in 0..NAMESPACES {
            truth.namespace(n);
        }
        for n in 0..PODS {
            truth.pod(n);
        }
        for n in 0..SERVICES {
            truth.service(n);
        }
        for n in 0..POLICIES {
            truth.policy(n);
        }
        truth
    }

    fn any(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    fn put(&mut self, kind: Kind, value: Value) {
        let version = kind.versions()[0];
        let (name, object) = self.trim.object(kind, version, value).unwrap();
        self.picture.apply(Change::Applied(kind, name, object));
    }

    fn namespace(&mut self, n: usize) {
        let team = format!("t{}", self.any(3));
        self.put(
            Kind::Namespace,
            json!({"metadata": {"name": format!("ns{n}"), "labels": {"team": team}}}),
        );
    }

    /// A pod is made, or made anew with another address: addresses are given again, too.
    fn pod(&mut self, n: usize) {
        let address = self.any(PODS * 2);
        let incarnation = self.pods.entry(n).or_default();
        *incarnation += 1;
        let uid = format!("u{n}x{incarnation}");
        let created = format!("2026-01-01T00:00:{incarnation:02}Z");
        let (app, tier) = (self.any(APPS), self.any(3));
        let phase = if self.any(20) == 0 { "Succeeded" } else { "Running" };
        self.put(
            Kind::Pod,
            json!({"metadata": {"namespace": format!("ns{}", n % NAMESPACES), "name": format!("p{n}"), "uid": uid,
                    "creationTimestamp": created, "labels": {"app": format!("a{app}"), "tier": format!("t{tier}")}},
                "spec": {"nodeName": format!("node-{}", n % LOCAL_ONE_IN),
                    "containers": [{"ports": [{"name": "http", "containerPort": 8000 + app % 3}]}]},
                "status": {"phase": phase, "podIPs": [{"ip": Self::address(address)}]}}),
        );
    }

    fn address(n: usize) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap()).into()
    }

    fn service(&mut self, n: usize) {
        let namespace = format!("ns{}", n % NAMESPACES);
        let vip = Ipv4Addr::from(0x0a60_0000 + u32::try_from(n).unwrap());
        let meta = json!({"namespace": namespace, "name": format!("s{n}")});
        self.put(
            Kind::Service,
            json!({"metadata": meta, "spec": {"clusterIPs": [vip], "selector": {"app": format!("a{n}")},
                "ports": [{"name": "x", "port": 80}]}}),
        );
        let ips: Vec<IpAddr> = (0..self.any(4)).map(|_| Self::address(self.any(PODS * 2))).collect();
        let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
        self.put(
            Kind::EndpointSlice,
            json!({"metadata": {"namespace": namespace, "name": format!("s{n}"),
                    "labels": {"kubernetes.io/service-name": format!("s{n}")}},
                "ports": [{"name": "x", "port": 8000 + n % 3}], "endpoints": endpoints}),
        );
    }

    fn policy(&mut self, n: usize) {
        let mut app = || json!({"matchLabels": {"app": format!("a{}", self.rng.random_range(0..APPS))}});
        let (subject, one, two) = (app(), app(), app());
        let team = json!({"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": format!("t{}", n % 3)}});
        let port = json!({"port": (8000 + n % 3).to_string(), "protocol": "TCP"});
        let rule = match n % 4 {
            0 => json!({"ingress": [{"fromEndpoints": [one], "toPorts": [{"ports": [port],
                "rules": {"http": [{"path": format!("/{n}")}]}}]}]}),
            1 => json!({"egress": [{"toEndpoints": [one, two], "toPorts": [{"ports": [port]}]}]}),
            2 => json!({"ingress": [{"fromEndpoints": [team]}], "egress": [{"toEndpoints": [one],
                "toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}]}]}]}),
            _ => json!({"egress": [{"toEntities": ["all"]}], "egressDeny": [{"toEndpoints": [two]}]}),
        };
        let mut spec = json!({"endpointSelector": subject});
        spec.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let name = json!({"namespace": format!("ns{}", n % NAMESPACES), "name": format!("c{n}")});
        self.put(Kind::CiliumNetworkPolicy, json!({"metadata": name, "spec": spec}));
    }

    fn change(&mut self) {
        match self.any(20) {
            0 => {
                let n = self.any(NAMESPACES);
                self.namespace(n);
            }
            1..=3 => {
                let n = self.any(POLICIES);
                self.policy(n);
            }
            4 => {
                let n = self.any(POLICIES);
                let name = ObjectName::new(format!("ns{}", n % NAMESPACES), format!("c{n}"));
                self.picture.apply(Change::Gone(Kind::CiliumNetworkPolicy, name));
            }
            5..=7 => {
                let n = self.any(SERVICES);
                self.service(n);
            }
            8..=9 => {
                let n = self.any(PODS);
                let name = ObjectName::new(format!("ns{}", n % NAMESPACES), format!("p{n}"));
                self.picture.apply(Change::Gone(Kind::Pod, name));
            }
            _ => {
                let n = self.any(PODS);
                self.pod(n);
            }
        }
    }
}

/// What every endpoint may with some addresses, in words that do not depend on numbers.
fn verdicts(loaded: &Loaded, asked: &[IpAddr]) -> BTreeMap<(String, IpAddr, u16, bool), String> {
    let addresses: Ipcache = ipcache(&loaded.prefixes, &loaded.held, &[], &[]);
    let mut verdicts = BTreeMap::new();
    for (endpoint, policy) in loaded.endpoints.iter().zip(&loaded.policies) {
        for ip in asked {
            let peer = addresses.lookup(*ip).identity;
            for (direction, port) in [Direction::Ingress, Direction::Egress]
                .into_iter()
                .flat_map(|direction| [80, 8000, 8001, 8002].map(|port| (direction, port)))
            {
                let said = match policy.enforced.lookup(direction, peer, 6, port) {
                    L4Decision::Allow => "allow".to_owned(),
                    L4Decision::Deny(reason) => reason.name().to_owned(),
                    L4Decision::Inspect(rules) => {
                        let mut origins: Vec<String> = rules
                            .origins()
                            .map(|origin| origin.path.clone() + &origin.name)
                            .collect();
                        origins.sort();
                        format!("{} {}", rules.allows_all().is_some(), origins.join(","))
                    }
                };
                verdicts.insert((endpoint.key(), *ip, port, direction == Direction::Egress), said);
            }
        }
    }
    verdicts
}

#[test]
fn change_by_change_comes_to_the_same_as_from_scratch() {
    let mut truth = Truth::new(7);
    let mut mind = Mind::new();
    let mut most = 0;
    for step in 0..STEPS {
        for _ in 0..CHANGES_PER_STEP {
            truth.change();
        }
        let loaded = mind.take_up(&truth.picture);
        if step % COMPARE_EVERY != 0 {
            continue;
        }
        let mut fresh = Mind::new();
        let from_scratch = fresh.take_up(&truth.picture);
        let services = (0..SERVICES).map(|n| IpAddr::from(Ipv4Addr::from(0x0a60_0000 + u32::try_from(n).unwrap())));
        let pods = (0..100).map(|n| Truth::address(n * 20)).collect::<Vec<_>>();
        let asked: Vec<IpAddr> = services.chain(pods).collect();
        let (known, expected) = (verdicts(&loaded, &asked), verdicts(&from_scratch, &asked));
        assert!(expected.len() > 10_000 && expected.values().any(|said| said.contains("spec.ingress")));
        for (question, said) in &expected {
            assert_eq!(known.get(question), Some(said), "step {step}: {question:?}");
        }
        assert_eq!(known.len(), expected.len());
        // What nobody has any more goes: it does not pile up.
        let (held, needed) = (mind.store.identities().len(), fresh.store.identities().len());
        most = most.max(held);
        assert!(
            held < needed + 2 * CHANGES_PER_STEP + 100,
            "step {step}: {held} identities, {needed} needed"
        );
    }
    assert!(most > 500, "{most}: there was nothing to let go");
}
