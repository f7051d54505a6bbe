//! An agent of a cluster: an API server of the test's own says which namespaces are pods and what they may, and it is
//! looked at what gets through.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use seventh::{
    api::{connect, v1::AwaitEndpointRequest},
    lab::Lab,
};

use crate::{
    api_server::ApiServer,
    client::{Connection, IMPATIENCE, PATIENCE, fetch, is_silence},
    dns::{dig_at, query},
    dns_answers::{answer_by_alias, receive, socket},
    listings::{endpoint, list},
    requests::{ask, in_client},
    stage::{PUBLIC, binary, drops, lab, policy, status, until},
};

/// What a change of the cluster may take until packets meet it.
const SOON: Duration = Duration::from_secs(1);
/// Addresses of services; nobody has them.
pub(crate) const WEB_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DNS_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 53);

/// A lab whose agent takes its orders from a server on the node.
pub(crate) fn cluster(prepare: impl FnOnce(&Lab, &ApiServer)) -> Option<(Lab, ApiServer)> {
    let (mut lab, server) = cluster_with("discoveryS: 1", "", prepare)?;
    lab.launch_agent(binary()).unwrap();
    Some((lab, server))
}

/// The same with settings of one's own (DIR is the lab's directory), and an agent that is still to be started.
pub(crate) fn cluster_with(
    kubernetes: &str,
    more: &str,
    prepare: impl FnOnce(&Lab, &ApiServer),
) -> Option<(Lab, ApiServer)> {
    let lab = lab()?;
    let listener = lab.run_on_node(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let server = ApiServer::start(listener);
    server.define("ciliumnetworkpolicies");
    server.put("namespaces", json!({"metadata": {"name": "default"}}));
    server.put("namespaces", json!({"metadata": {"name": "kube-system"}}));
    let address = json!({"type": "InternalIP", "address": "10.0.1.1"});
    server.put(
        "nodes",
        json!({"metadata": {"name": "lab"}, "status": {"addresses": [address]}}),
    );
    prepare(&lab, &server);
    std::fs::write(lab.dir().join("kubeconfig"), server.kubeconfig()).unwrap();
    let config = format!(
        "node: lab\napi: {}\nbpffs: {}\nkubernetes: {{kubeconfig: kubeconfig, {}}}\n{more}\n",
        lab.socket().display(),
        lab.pin_dir().display(),
        kubernetes.replace("DIR", &lab.dir().display().to_string())
    );
    std::fs::write(lab.dir().join("config.yaml"), config).unwrap();
    Some((lab, server))
}

/// One of the lab's endpoints as a pod of this node.
pub(crate) fn pod(lab: &Lab, name: &str, app: &str) -> Value {
    let ips: Vec<Value> = lab
        .endpoint(name)
        .unwrap()
        .ips()
        .iter()
        .map(|ip| json!({"ip": ip}))
        .collect();
    let port = json!({"name": "http", "containerPort": 8080});
    json!({"metadata": {"namespace": "default", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": "lab", "containers": [{"ports": [port]}]},
        "status": {"phase": "Running", "podIPs": ips}})
}

/// A policy as the API server has it.
pub(crate) fn object(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

fn is_ready(lab: &Lab, name: &str) -> bool {
    let all = list(lab, &["endpoint", "list"]);
    all.iter()
        .any(|endpoint| endpoint["name"] == name && endpoint["state"] == "ready")
}

/// Waits until it is so; says how long that took.
#[track_caller]
fn soon(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    until(what, condition);
    let took = began.elapsed();
    note(what, took);
    assert!(took < SOON, "{what}: only after {took:?}");
    took
}

/// Past the runner's capture: the measures are what one looks for.
fn note(what: &str, took: Duration) {
    let _ = writeln!(std::io::stderr(), "{what}: {took:?}");
}

#[test]
fn pods_and_policies_come_change_and_go() {
    let Some((mut lab, server)) = cluster(|lab, server| {
        server.put("pods", pod(lab, "client", "client"));
        server.put("pods", pod(lab, "server", "server"));
        let mut host = pod(lab, "friend", "host");
        host["metadata"]["name"] = "on-the-node".into();
        host["spec"]["hostNetwork"] = true.into();
        server.put("pods", host);
    }) else {
        return;
    };
    lab.start_nginx("server", None).unwrap();
    assert!(is_ready(&lab, "default/client") && is_ready(&lab, "default/server"));
    let unmanaged = endpoint(&lab, "default/on-the-node");
    assert!(
        unmanaged["state"]
            .as_str()
            .unwrap()
            .starts_with("unmanaged: shares the node's network"),
        "{unmanaged}"
    );
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(200), "no policy yet");

    server.put("ciliumnetworkpolicies", object(&policy(PUBLIC)));
    soon("a policy is in force", || {
        ask(&lab, "client", "/denied", PATIENCE) == Ok(403)
    });
    assert_eq!(ask(&lab, "client", "/public", PATIENCE), Ok(200));

    // Nobody knows the friend: its address is the world's.
    assert!(is_silence(&ask(&lab, "friend", "/denied", IMPATIENCE)));
    let friend = pod(&lab, "friend", "friend");
    let mut coming = friend.clone();
    coming["status"] = json!({"phase": "Pending"});
    server.put("pods", coming);
    soon("a pod without an address is told of", || {
        let all = list(&lab, &["endpoint", "list"]);
        let friend = all.iter().find(|endpoint| endpoint["name"] == "default/friend");
        friend.is_some_and(|friend| friend["state"] == "unmanaged: has no address yet")
    });
    let began = Instant::now();
    network_plugin_waits(&lab, "friend");
    note("a network plugin waited", began.elapsed());
    assert!(began.elapsed() < SOON && is_ready(&lab, "default/friend"));
    server.put("pods", friend.clone());
    assert_eq!(ask(&lab, "friend", "/denied", PATIENCE), Ok(200));

    a_pod_gets_another_label(&lab, &server, friend);
    broken_policies_change_nothing(&lab, &server);
    a_pod_is_made_anew(&lab, &server);

    server.refuse(true);
    until("it is told that nobody answers", || {
        let problems = status(&lab)["problems"].to_string();
        problems.contains("pods are not followed since") && problems.contains("the test refuses")
    });
    assert_eq!(
        ask(&lab, "client", "/denied", PATIENCE),
        Ok(403),
        "what was known last holds"
    );
    server.refuse(false);
    server.delete("ciliumnetworkpolicies", "default", "server");
    until("the policy is gone", || {
        ask(&lab, "client", "/denied", PATIENCE) == Ok(200)
    });
}

/// Also connections that are there lose what the pod has no right to any more.
fn a_pod_gets_another_label(lab: &Lab, server: &ApiServer, mut friend: Value) {
    let target: SocketAddr = (lab.endpoint("server").unwrap().ipv4, 8080).into();
    let (to_test, from_friend) = std::sync::mpsc::channel();
    let (to_friend, from_test) = std::sync::mpsc::channel::<()>();
    let talking = lab.endpoint("friend").unwrap().start(move || {
        let mut connection = Connection::open(target, IMPATIENCE).unwrap();
        let first = connection.get("/x").is_ok();
        to_test.send(first).unwrap();
        from_test.recv().unwrap();
        to_test.send(connection.get("/x").is_ok()).unwrap();
    });
    assert!(from_friend.recv().unwrap());
    friend["metadata"]["labels"]["app"] = "stranger".into();
    server.put("pods", friend);
    soon("another label is another pod", || {
        let labels = endpoint(lab, "default/friend")["labels"].to_string();
        labels.contains("k8s:app=stranger")
    });
    to_friend.send(()).unwrap();
    assert!(!from_friend.recv().unwrap(), "a connection outlived the right to it");
    talking.unwrap().join().unwrap().unwrap();
    assert!(is_silence(&ask(lab, "friend", "/denied", IMPATIENCE)));
}

/// What the plugin that makes a pod's network does: the API server has no address of the pod before it ends.
fn network_plugin_waits(lab: &Lab, name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let request = AwaitEndpointRequest {
        endpoint: format!("default/{name}"),
        ips: lab
            .endpoint(name)
            .unwrap()
            .ips()
            .iter()
            .map(ToString::to_string)
            .collect(),
        ..AwaitEndpointRequest::default()
    };
    runtime.block_on(async {
        let mut agent = connect(&format!("unix://{}", lab.socket().display())).await.unwrap();
        agent.await_endpoint(request).await.unwrap();
    });
}

fn broken_policies_change_nothing(lab: &Lab, server: &ApiServer) {
    let mut broken = object(&policy(PUBLIC));
    broken["spec"]["ingress"][0]["fromEndpoint"] = json!([{}]);
    server.put("ciliumnetworkpolicies", broken);
    soon("a broken policy is told", || {
        let findings = status(lab)["policy"]["findings"].to_string();
        findings.contains("kubernetes:CiliumNetworkPolicy/default/server") && findings.contains("fromEndpoint")
    });
    assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
    assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200));
    let valid = || {
        let policy = server.get("ciliumnetworkpolicies", "default", "server").unwrap();
        policy["status"]["conditions"][0].clone()
    };
    until("its status says so", || valid()["status"] == "False");
    assert!(
        valid()["message"].as_str().unwrap().contains("fromEndpoint"),
        "{}",
        valid()
    );
    until("an event says so", || {
        server.events().iter().any(|event| event["reason"] == "PolicyRejected")
    });
    server.put("ciliumnetworkpolicies", object(&policy(PUBLIC)));
    until("its status is mended", || valid()["status"] == "True");
    let written = server.patches();
    assert!(written <= 3, "{written} patches for three changes");
    soon("it is mended", || {
        status(lab)["policy"]["findings"].as_array().unwrap().is_empty()
    });
}

/// A pod that is gone leaves a device on which nothing more may pass; one of its name is another one.
fn a_pod_is_made_anew(lab: &Lab, server: &ApiServer) {
    let before = endpoint(lab, "default/server")["id"].clone();
    server.delete("pods", "default", "server");
    let gone = || {
        !list(lab, &["endpoint", "list"])
            .iter()
            .any(|endpoint| endpoint["name"] == "default/server")
    };
    soon("a pod is gone", gone);
    let after_its_end = ask(lab, "client", "/denied", IMPATIENCE);
    assert!(after_its_end != Ok(200), "{after_its_end:?}");
    server.put("pods", pod(lab, "server", "server"));
    soon("a pod of the same name is there", || is_ready(lab, "default/server"));
    assert_ne!(endpoint(lab, "default/server")["id"], before);
    assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
    assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200));
}

/// Who answers behind a service, and on which port.
pub(crate) fn slice(service: (&str, &str), protocol: &str, port: u16, ips: &[IpAddr]) -> Value {
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
        .collect();
    json!({"metadata": {"namespace": service.0, "name": format!("{}-{protocol}", service.1.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service.1}},
        "ports": [{"name": protocol, "protocol": protocol, "port": port}], "endpoints": endpoints})
}

pub(crate) fn service(name: (&str, &str), vip: Ipv4Addr, ports: &[(&str, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, port)| json!({"name": protocol, "protocol": protocol, "port": port}))
        .collect();
    json!({"metadata": {"namespace": name.0, "name": name.1},
        "spec": {"clusterIP": vip, "clusterIPs": [vip], "selector": {"app": name.1}, "ports": ports}})
}

/// As kube-proxy does it.
fn translate(lab: &Lab) {
    let (web, dns) = (
        lab.endpoint("server").unwrap().ipv4,
        lab.endpoint("friend").unwrap().ipv4,
    );
    let rules = format!(
        "add table ip nat; add chain ip nat pre {{ type nat hook prerouting priority -100; }}; \
         add rule ip nat pre ip daddr {WEB_VIP} tcp dport 80 dnat to {web}:8080; \
         add rule ip nat pre ip daddr {DNS_VIP} udp dport 53 dnat to {dns}:53; \
         add rule ip nat pre ip daddr {DNS_VIP} tcp dport 53 dnat to {dns}:53"
    );
    assert!(lab.node_command("nft").arg(rules).status().unwrap().success());
}

const OUT: &str = "
metadata: {name: out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, k8s-app: kube-dns}}]
    toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*.shop.test'}, {matchName: named.default.svc.cluster.local}]}}]
  - toFQDNs: [{matchName: www.shop.test}, {matchName: named.default.svc.cluster.local}]
    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]
  - toServices: [{k8sService: {serviceName: web, namespace: default}}]
    toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{path: /public}]}}]
";

pub(crate) fn through_the_service(lab: &Lab, path: &'static str) -> Result<u16, std::io::ErrorKind> {
    in_client(lab, move |_| {
        let connection = Connection::open((WEB_VIP, 80).into(), IMPATIENCE);
        let answer = connection.and_then(|mut connection| connection.get(path));
        answer.map(|answer| answer.status).map_err(|e| e.kind())
    })
}

#[test]
fn services_mean_those_who_answer_behind_them() {
    let Some((mut lab, server)) = cluster(|lab, server| {
        server.put("pods", pod(lab, "client", "client"));
        server.put("pods", pod(lab, "server", "web"));
        let mut dns = pod(lab, "friend", "dns");
        dns["metadata"]["namespace"] = "kube-system".into();
        dns["metadata"]["labels"] = json!({"k8s-app": "kube-dns"});
        server.put("pods", dns);
        let (web, kube_dns) = (("default", "web"), ("kube-system", "kube-dns"));
        server.put("services", service(web, WEB_VIP, &[("TCP", 80)]));
        server.put("services", service(kube_dns, DNS_VIP, &[("UDP", 53), ("TCP", 53)]));
        let ip = |name: &str| IpAddr::V4(lab.endpoint(name).unwrap().ipv4);
        server.put("endpointslices", slice(web, "TCP", 8080, &[ip("server")]));
        server.put("endpointslices", slice(kube_dns, "UDP", 53, &[ip("friend")]));
        server.put("endpointslices", slice(kube_dns, "TCP", 53, &[ip("friend")]));
        let named = json!({"metadata": {"namespace": "default", "name": "named"},
            "spec": {"type": "ExternalName", "externalName": "far.else.test", "clusterIP": ""}});
        server.put("services", named);
        server.put("ciliumnetworkpolicies", object(OUT));
    }) else {
        return;
    };
    translate(&lab);
    lab.start_nginx("server", None).unwrap();
    lab.start_nginx("intruder", None).unwrap();
    let zone = "www.shop.test. 300 IN A 198.18.1.1\nother.test. 300 IN A 198.18.1.2\n";
    lab.start_unbound("friend", zone).unwrap();
    lab.play_outside("intruder", "198.18.0.0/16").unwrap();

    // Names are judged, and learned from answers that come from the service's address.
    let outside =
        |lab: &Lab, last: u8| in_client(lab, move |_| fetch(Ipv4Addr::new(198, 18, 1, last), "/", IMPATIENCE));
    assert!(is_silence(&outside(&lab, 1)));
    let vip = format!("@{DNS_VIP}");
    assert_eq!(dig_at(&lab, &vip, &["www.shop.test"]).0, "NOERROR");
    assert_eq!(dig_at(&lab, &vip, &["+tcp", "www.shop.test"]).0, "NOERROR");
    assert_eq!(dig_at(&lab, &vip, &["other.test"]).0, "REFUSED");
    assert_eq!(outside(&lab, 1), Ok(200));
    assert!(is_silence(&outside(&lab, 2)));
    a_service_that_is_another_name(&mut lab);
    assert_eq!(outside(&lab, 3), Ok(200));

    // Requests are judged by the rules of the port behind, and what is no port of the service is nobody's.
    assert_eq!(through_the_service(&lab, "/public"), Ok(200));
    assert_eq!(through_the_service(&lab, "/denied"), Ok(403));
    let other_port = in_client(&lab, |_| fetch(WEB_VIP, "/public", IMPATIENCE));
    assert!(is_silence(&other_port), "{other_port:?}");

    its_address_on_a_device_of_the_node(&lab);
    addresses_besides(&lab, &server);

    // Somebody joins to whom the client may not speak: who will answer is not known, so nobody may be asked.
    let ip = |name: &str| IpAddr::V4(lab.endpoint(name).unwrap().ipv4);
    server.put("pods", pod(&lab, "intruder", "other"));
    server.put(
        "endpointslices",
        slice(("default", "web"), "TCP", 8080, &[ip("server"), ip("intruder")]),
    );
    let (what, began) = ("one who is not allowed joins", Instant::now());
    until(what, || is_silence(&through_the_service(&lab, "/public")));
    // To find silence takes its own time.
    let took = began.elapsed().saturating_sub(IMPATIENCE);
    note(what, took);
    assert!(took < SOON, "{what}: only after {took:?}");
    server.put(
        "endpointslices",
        slice(("default", "web"), "TCP", 8080, &[ip("server")]),
    );
    until("and leaves", || through_the_service(&lab, "/public") == Ok(200));
    server.put("endpointslices", slice(("default", "web"), "TCP", 8080, &[]));
    until("nobody is left", || {
        is_silence(&through_the_service(&lab, "/public")) && drops(&lab, "service_without_backends") > 0
    });
}

/// The cluster's DNS answers for an `ExternalName` service by the other name and where that leads: the service's name opens
/// it, since it is the one that was asked for.
fn a_service_that_is_another_name(lab: &mut Lab) {
    lab.end("unbound-friend", Signal::SIGTERM).unwrap();
    let dns = lab.endpoint("friend").unwrap().ipv4;
    let (client, dns) = (
        socket(lab, "client", Ipv4Addr::UNSPECIFIED, 0),
        socket(lab, "friend", dns, 53),
    );
    client.connect((DNS_VIP, 53)).unwrap();
    client.send(&query(1, "named.default.svc.cluster.local")).unwrap();
    let (asked, from) = receive(&dns);
    let answer = answer_by_alias(&asked, "far.else.test", Ipv4Addr::new(198, 18, 1, 3));
    dns.send_to(&answer, from).unwrap();
    assert_eq!(receive(&client).0, answer);
}

/// A DNS cache of the node takes the service's address, or kube-proxy all of them: it is the service's all the same.
fn its_address_on_a_device_of_the_node(lab: &Lab) {
    let ip = |args: &str| {
        let done = lab.node_command("ip").args(args.split(' ')).status().unwrap();
        assert!(done.success(), "ip {args}");
    };
    let hosts = || {
        let rows = list(lab, &["bpf", "ipcache", "list"]);
        let of = |row: &&Value| {
            row["prefix"]
                .as_str()
                .is_some_and(|prefix| prefix.starts_with("10.96.0."))
        };
        let labels: Vec<String> = rows.iter().filter(of).map(|row| row["labels"].to_string()).collect();
        assert_eq!(labels.len(), 2, "{labels:?}");
        labels.iter().filter(|labels| labels.contains("host")).count()
    };
    for device in ["nodelocaldns", "kube-ipvs0"] {
        // There it is of the kind `dummy`, which not every kernel has.
        ip(&format!("link add {device} type veth peer name other-end"));
        ip(&format!("addr add {WEB_VIP}/32 dev {device}"));
        // Another address of the node shows that the agent has looked.
        ip(&format!("addr add 192.0.2.{}/32 dev lo", device.len()));
        // The agent looks for those once a second.
        until("the node has got addresses", || {
            let looked = format!("192.0.2.{}/32", device.len());
            list(lab, &["bpf", "ipcache", "list"])
                .iter()
                .any(|row| row["prefix"] == looked)
        });
        assert_eq!(hosts(), 0, "{device}");
        assert_eq!(through_the_service(lab, "/public"), Ok(200), "{device}");
        assert_eq!(through_the_service(lab, "/denied"), Ok(403), "{device}");
        ip(&format!("link del {device}"));
    }
}

/// An external address and a port of the node lead to the same pods: the address itself must be allowed, too.
fn addresses_besides(lab: &Lab, server: &ApiServer) {
    let external = Ipv4Addr::new(203, 0, 113, 7);
    let node = Ipv4Addr::new(10, 0, 1, 1);
    let web = lab.endpoint("server").unwrap().ipv4;
    let rules = format!(
        "add rule ip nat pre ip daddr {external} tcp dport 80 dnat to {web}:8080; \
         add rule ip nat pre ip daddr {node} tcp dport 30080 dnat to {web}:8080"
    );
    assert!(lab.node_command("nft").arg(rules).status().unwrap().success());
    let get = |to: (Ipv4Addr, u16), path: &'static str| {
        in_client(lab, move |_| {
            let answer = Connection::open(to.into(), IMPATIENCE).and_then(|mut connection| connection.get(path));
            answer.map(|answer| answer.status).map_err(|e| e.kind())
        })
    };
    let both = [(external, 80), (node, 30_080)];
    let mut web = service(("default", "web"), WEB_VIP, &[("TCP", 80)]);
    web["spec"]["ports"][0]["nodePort"] = 30_080.into();
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": external}]}});
    server.put("services", web);
    for to in both {
        assert!(
            is_silence(&get(to, "/public")),
            "{to:?}: who answers may, the address itself may not"
        );
    }
    let more = "  - toEntities: [host, world]\n";
    server.put("ciliumnetworkpolicies", object(&format!("{OUT}{more}")));
    for to in both {
        until("the address itself may", || get(to, "/public") == Ok(200));
        assert_eq!(get(to, "/denied"), Ok(403), "{to:?}: what is read behind it is read");
    }
    let only_the_address = format!("{}{more}", OUT.split("  - toServices").next().unwrap());
    server.put("ciliumnetworkpolicies", object(&only_the_address));
    for to in both {
        until("who answers may not", || is_silence(&get(to, "/public")));
    }
    server.put("ciliumnetworkpolicies", object(OUT));
    until("as before", || through_the_service(lab, "/public") == Ok(200));
}
