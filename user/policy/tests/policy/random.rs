//! Random policies out of a small vocabulary, so that rules meet each other often.

use rand::prelude::*;
use serde_json::{Value, json};

pub(crate) const NAMESPACES: &[&str] = &["default", "shop"];
const APPS: &[&str] = &["a", "b", "c"];
const ENVS: &[&str] = &["prod", "dev"];
const PREFIXES: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "::/0",
    "fd00::/8",
    "fd00:1::/32",
];
pub(crate) const ADDRESSES: &[&str] = &[
    "10.1.2.3",
    "10.1.2.4",
    "10.1.9.9",
    "10.200.0.1",
    "192.0.2.1",
    "fd00:1::1",
    "fd00:2::1",
    "2001:db8::1",
];
pub(crate) const NAMES: &[&str] = &[
    "example.com.",
    "www.example.com.",
    "a.www.example.com.",
    "example.org.",
    ".",
];
const PATTERNS: &[&str] = &[
    "*",
    "*.example.com",
    "**.example.com",
    "*example.com",
    "w*.example.*",
    "example.*",
];
pub(crate) const SERVER_NAMES: &[&str] = &["example.com", "www.example.com", "a.www.example.com", "example.org"];
const SERVER_PATTERNS: &[&str] = &["*", "**", "*.example.com", "**.example.com", "www.*.com", "example.org"];
pub(crate) const METHODS: &[&str] = &["GET", "POST", "DELETE", "CONNECT"];
const METHOD_PATTERNS: &[&str] = &["GET", "POST", "GET|HEAD", "P.*", ".*"];
pub(crate) const PATHS: &[&str] = &["", "/", "/a", "/a/b", "/b?x=1", "/public"];
const PATH_PATTERNS: &[&str] = &[
    "/",
    "/a",
    "/a/?.*",
    "/[ab].*",
    "/public$",
    "^/b\\?x=\\d+",
    ".*",
    "(/.*)?",
];
pub(crate) const HOSTS: &[&str] = &["", "example.com", "example.com:8080"];
const HOST_PATTERNS: &[&str] = &["example.com", "example.com(:\\d+)?", ".*"];
pub(crate) const PORTS: &[u16] = &[0, 1, 53, 53, 79, 80, 80, 80, 81, 85, 443, 443, 8080, 9000, 65535];
pub(crate) const PROTOCOLS: &[u8] = &[1, 6, 6, 6, 6, 6, 6, 6, 17, 17, 17, 47, 58, 132];
const ENTITIES: &[&str] = &[
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "cluster-mesh",
    "host",
    "init",
    "ingress",
    "unmanaged",
    "remote-node",
    "health",
    "none",
    "kube-apiserver",
];

pub(crate) struct Generator {
    pub(crate) rng: StdRng,
    pub(crate) cluster: bool,
}

impl Generator {
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("a choice")
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn some<T>(&mut self, min: usize, max: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.rng.random_range(min..=max);
        (0..count).map(|_| make(self)).collect()
    }

    /// A set of documents, as one YAML stream.
    pub(crate) fn documents(&mut self) -> String {
        let count = self.rng.random_range(1..=6);
        let mut stream = String::new();
        for number in 0..count {
            let document = self.document(number);
            stream.push_str(&format!("---\n{document}\n"));
        }
        for (name, prefixes) in [("group-a", &PREFIXES[2..4]), ("group-b", &PREFIXES[6..7])] {
            let group = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
                "metadata": {"name": name, "labels": {"group": "some"}}, "spec": {"externalCIDRs": prefixes}});
            stream.push_str(&format!("---\n{group}\n"));
        }
        stream
    }

    fn document(&mut self, number: usize) -> Value {
        let name = format!("policy-{number}");
        match self.rng.random_range(0..10) {
            0..=5 => json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                "metadata": {"name": name, "namespace": self.pick(NAMESPACES)}, "specs": self.some(1, 2, |g| g.rule(true))}),
            6 => json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
                "metadata": {"name": name}, "spec": self.rule(false)}),
            7 | 8 => self.network_policy(&name),
            _ => self.cluster_policy(&name),
        }
    }

    fn rule(&mut self, namespaced: bool) -> Value {
        let mut rule = json!({});
        let host = !namespaced && self.chance(25);
        rule[if host { "nodeSelector" } else { "endpointSelector" }] = self.selector(60, false);
        let lists = [
            ("ingress", false, false),
            ("egress", true, false),
            ("ingressDeny", false, true),
            ("egressDeny", true, true),
        ];
        let mut any = false;
        for (name, egress, deny) in lists {
            if self.chance(if deny { 15 } else { 60 }) {
                any = true;
                rule[name] = self.some(1, 3, |g| g.direction(egress, deny, host)).into();
            }
        }
        if !any {
            rule["ingress"] = json!([{}]);
        }
        if self.chance(10) {
            rule["enableDefaultDeny"] = json!({"ingress": self.chance(30), "egress": self.chance(30)});
        }
        rule
    }

    /// A selector over the vocabulary's labels; `empty` is the chance of `{}`.
    fn selector(&mut self, empty: u32, namespaces: bool) -> Value {
        if self.chance(empty) {
            return json!({});
        }
        let source = self.pick(&["", "k8s:", "any:"]);
        let mut labels = json!({});
        if self.chance(70) {
            labels[format!("{source}app")] = self.pick(APPS).into();
        }
        if self.chance(20) {
            labels["env"] = self.pick(ENVS).into();
        }
        if namespaces && self.chance(15) {
            labels["k8s:io.kubernetes.pod.namespace"] = self.pick(NAMESPACES).into();
        }
        if namespaces && self.chance(5) {
            labels["io.cilium.k8s.namespace.labels.team"] = self.pick(&["red", "blue"]).into();
        }
        if self.chance(5) {
            labels[format!("reserved:{}", self.pick(&["host", "world", "init"]))] = "".into();
        }
        let mut selector = json!({"matchLabels": labels});
        if self.chance(20) {
            let operator = self.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
            let mut expression = json!({"key": self.pick(&["app", "env", "k8s:role"]), "operator": operator});
            if operator.ends_with("In") {
                expression["values"] = self.some(1, 2, |g| g.pick(&["a", "b", "prod"])).into();
            }
            selector["matchExpressions"] = json!([expression]);
        }
        selector
    }

    fn direction(&mut self, egress: bool, deny: bool, host: bool) -> Value {
        let mut item = json!({});
        self.peers(&mut item, egress, deny);
        match self.rng.random_range(0..10) {
            0..=5 => item["toPorts"] = self.some(0, 2, |g| g.port_rule(egress, deny, host)).into(),
            6 => {
                let fields = self.some(
                    1,
                    2,
                    |g| json!({"family": g.pick(&["IPv4", "IPv6"]), "type": g.pick(&[0, 1, 80])}),
                );
                item["icmps"] = json!([{"fields": fields}]);
            }
            _ => {}
        }
        if !deny && self.chance(3) {
            item["authentication"] = json!({"mode": self.pick(&["required", "disabled"])});
        }
        item
    }

    fn peers(&mut self, item: &mut Value, egress: bool, deny: bool) {
        let side = if egress { "to" } else { "from" };
        match self.rng.random_range(0..100) {
            0..=24 => {}
            25..=29 => item[format!("{side}Endpoints")] = json!([]),
            30..=52 => item[format!("{side}Endpoints")] = self.some(1, 2, |g| g.selector(20, true)).into(),
            53..=60 => item[format!("{side}CIDR")] = self.some(0, 2, |g| g.pick(PREFIXES)).into(),
            61..=72 => item[format!("{side}CIDRSet")] = self.some(1, 2, Self::prefix_rule).into(),
            73..=84 => item[format!("{side}Entities")] = self.some(0, 2, |g| g.pick(ENTITIES)).into(),
            85..=87 => item[format!("{side}Nodes")] = json!([self.selector(50, false)]),
            88..=91 if egress => item["toServices"] = json!([self.service()]),
            _ if egress && !deny => {
                item["toFQDNs"] = self
                    .some(1, 2, |g| {
                        if g.chance(40) {
                            json!({"matchName": g.pick(NAMES).trim_end_matches('.').to_owned()})
                        } else {
                            json!({"matchPattern": g.pick(PATTERNS)})
                        }
                    })
                    .into();
            }
            _ => item[format!("{side}Entities")] = json!(["all"]),
        }
        if self.chance(4) {
            let empty = format!("{side}{}", self.pick(&["CIDR", "CIDRSet", "Nodes", "Entities"]));
            if item.get(&empty).is_none() {
                item[empty] = json!([]);
            }
        }
    }

    fn service(&mut self) -> Value {
        match self.rng.random_range(0..3) {
            0 => json!({"k8sService": {"serviceName": self.pick(&["front", "outside", "missing"])}}),
            1 => json!({"k8sService": {"serviceName": "front", "namespace": self.pick(NAMESPACES)}}),
            _ => json!({"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "edge"}}}}),
        }
    }

    fn prefix_rule(&mut self) -> Value {
        match self.rng.random_range(0..6) {
            0 => {
                json!({"cidrGroupRef": self.pick(&["group-a", "group-b"]), "except": self.some(0, 1, |g| g.pick(&PREFIXES[3..5]))})
            }
            1 => json!({"cidrGroupSelector": {"matchLabels": {"group": "some"}}}),
            2 | 3 => json!({"cidr": "10.0.0.0/8", "except": self.some(0, 2, |g| g.pick(&PREFIXES[2..5]))}),
            4 => json!({"cidr": "0.0.0.0/0", "except": self.some(0, 2, |g| g.pick(&PREFIXES[1..5]))}),
            _ => json!({"cidr": "::/0", "except": self.some(0, 1, |g| g.pick(&PREFIXES[6..8]))}),
        }
    }

    fn port_rule(&mut self, egress: bool, deny: bool, host: bool) -> Value {
        if !deny && !host && self.chance(75) {
            return self.l7_rule(egress);
        }
        json!({"ports": self.some(0, 3, Self::port)})
    }

    fn port(&mut self) -> Value {
        match self.rng.random_range(0..10) {
            0 => json!({"port": "0", "protocol": self.pick(&["TCP", "UDP", "ANY"])}),
            1 => json!({"protocol": "GRE"}),
            2 => json!({"port": self.pick(&["http", "dns", "HTTP"]), "protocol": self.pick(&["TCP", "ANY"])}),
            3 | 4 => {
                let (first, last) = self.pick(&[(79, 81), (80, 8080), (1, 65535), (443, 444), (85, 80)]);
                json!({"port": format!("{first}"), "endPort": last, "protocol": self.pick(&["TCP", "UDP", "ANY"])})
            }
            _ => {
                json!({"port": format!("{}", self.pick(&PORTS[1..])), "protocol": self.pick(&["TCP", "UDP", "SCTP", "ANY", ""])})
            }
        }
    }

    fn l7_rule(&mut self, egress: bool) -> Value {
        match self.rng.random_range(0..10) {
            0 | 1 if egress => {
                let ports = json!([{"port": "53", "protocol": self.pick(&["UDP", "ANY", "TCP"])}]);
                let rules = self.some(0, 2, |g| match g.rng.random_range(0..4) {
                    0 => json!({}),
                    1 => json!({"matchName": g.pick(NAMES).trim_end_matches('.').to_owned()}),
                    _ => json!({"matchPattern": g.pick(PATTERNS)}),
                });
                json!({"ports": ports, "rules": {"dns": rules}})
            }
            2 | 3 => {
                let ports = json!([{"port": self.pick(&["443", "80"]), "protocol": self.pick(&["TCP", "UDP", "ANY"])}]);
                json!({"ports": ports, "serverNames": self.some(1, 2, |g| g.pick(SERVER_PATTERNS))})
            }
            _ => {
                let ports = self.some(1, 2, |g| {
                    if g.chance(15) {
                        json!({"port": "79", "endPort": 8080, "protocol": "TCP"})
                    } else if g.chance(10) {
                        json!({"port": "http", "protocol": "TCP"})
                    } else {
                        json!({"port": g.pick(&["80", "81", "8080"]), "protocol": "TCP"})
                    }
                });
                json!({"ports": ports, "rules": {"http": self.some(0, 3, Self::http_rule)}})
            }
        }
    }

    fn http_rule(&mut self) -> Value {
        let mut rule = json!({});
        if self.chance(60) {
            rule["method"] = self.pick(METHOD_PATTERNS).into();
        }
        if self.chance(60) {
            rule["path"] = self.pick(PATH_PATTERNS).into();
        }
        if self.chance(20) {
            rule["host"] = self.pick(HOST_PATTERNS).into();
        }
        if self.chance(20) {
            rule["headers"] = json!([self.pick(&["X-Token: 1", "X-Token", "x-token 1,2"])]);
        }
        if self.chance(10) {
            rule["headerMatches"] = json!([{"name": "X-Seen", "value": "yes", "mismatch": self.pick(&["LOG", ""])}]);
        }
        rule
    }

    fn kubernetes_selector(&mut self) -> Value {
        match self.rng.random_range(0..4) {
            0 => json!({}),
            1 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [self.pick(APPS)]}]}),
            _ => json!({"matchLabels": {"app": self.pick(APPS)}}),
        }
    }

    fn namespace_selector(&mut self) -> Value {
        match self.rng.random_range(0..3) {
            0 => json!({}),
            1 => json!({"matchLabels": {"team": self.pick(&["red", "blue"])}}),
            _ => json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}),
        }
    }

    fn network_policy(&mut self, name: &str) -> Value {
        let mut spec = json!({"podSelector": self.kubernetes_selector()});
        if self.chance(70) {
            spec["ingress"] = self.some(0, 2, |g| g.network_rule("from")).into();
        }
        if self.chance(50) {
            spec["egress"] = self.some(0, 2, |g| g.network_rule("to")).into();
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
        }
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": self.pick(NAMESPACES)}, "spec": spec})
    }

    fn network_rule(&mut self, side: &str) -> Value {
        let mut rule = json!({});
        if self.chance(75) {
            rule[side] = self
                .some(0, 2, |g| match g.rng.random_range(0..4) {
                    0 => json!({"podSelector": g.kubernetes_selector()}),
                    1 => json!({"namespaceSelector": g.namespace_selector()}),
                    2 => json!({"namespaceSelector": g.namespace_selector(), "podSelector": g.kubernetes_selector()}),
                    _ => json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}),
                })
                .into();
        }
        if self.chance(60) {
            rule["ports"] = self
                .some(0, 2, |g| match g.rng.random_range(0..4) {
                    0 => json!({"protocol": g.pick(&["TCP", "UDP"])}),
                    1 => json!({"port": "http"}),
                    2 => json!({"port": 80, "endPort": 8080}),
                    _ => json!({"port": g.pick(&PORTS[1..]), "protocol": g.pick(&["TCP", "UDP", "SCTP"])}),
                })
                .into();
        }
        rule
    }

    fn cluster_policy(&mut self, name: &str) -> Value {
        let subject = if self.chance(50) {
            json!({"namespaces": self.namespace_selector()})
        } else {
            json!({"pods": {"namespaceSelector": self.namespace_selector(), "podSelector": self.kubernetes_selector()}})
        };
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
            "spec": {"tier": self.pick(&["Admin", "Baseline"]), "priority": self.pick(&[1, 2]), "subject": subject,
                "ingress": self.some(0, 3, |g| g.tiered_rule(false)), "egress": self.some(0, 3, |g| g.tiered_rule(true))}})
    }

    fn tiered_rule(&mut self, egress: bool) -> Value {
        let mut action = self.pick(&["Accept", "Deny", "Pass"]);
        let peers = self.some(1, 2, |g| match g.rng.random_range(0..6) {
            0 | 1 => json!({"namespaces": g.namespace_selector()}),
            2 | 3 => {
                json!({"pods": {"namespaceSelector": g.namespace_selector(), "podSelector": g.kubernetes_selector()}})
            }
            4 if egress => json!({"networks": [g.pick(PREFIXES)]}),
            5 if egress => json!({"domainNames": ["*.example.com"]}),
            _ => json!({"namespaces": {}}),
        });
        if peers.iter().any(|p| p.get("domainNames").is_some()) {
            action = "Accept";
        }
        let mut rule = json!({"action": action, (if egress { "to" } else { "from" }): peers});
        if self.chance(50) {
            rule["protocols"] = self
                .some(1, 2, |g| match g.rng.random_range(0..3) {
                    0 => json!({"tcp": {"destinationPort": {"number": g.pick(&PORTS[1..])}}}),
                    1 => json!({"udp": {"destinationPort": {"range": {"start": 50, "end": 100}}}}),
                    _ => json!({"destinationNamedPort": "http"}),
                })
                .into();
        }
        rule
    }

    /// Labels of an endpoint or another thing with labels.
    pub(crate) fn labels(&mut self) -> Vec<String> {
        if self.chance(15) {
            let name = self.pick(&[
                "host",
                "remote-node",
                "init",
                "health",
                "ingress",
                "unmanaged",
                "kube-apiserver",
            ]);
            return vec![format!("reserved:{name}")];
        }
        let namespace = self.pick(NAMESPACES);
        let team = if namespace == "shop" { "red" } else { "blue" };
        let mut labels = vec![
            format!("k8s:app={}", self.pick(APPS)),
            format!("k8s:io.kubernetes.pod.namespace={namespace}"),
            format!("k8s:io.cilium.k8s.namespace.labels.team={team}"),
        ];
        if self.chance(50) {
            labels.push(format!("{}:env={}", self.pick(&["k8s", "container"]), self.pick(ENVS)));
        }
        if self.cluster {
            labels.push(format!(
                "k8s:io.cilium.k8s.policy.cluster={}",
                self.pick(&["here", "here", "there"])
            ));
        }
        labels
    }
}
