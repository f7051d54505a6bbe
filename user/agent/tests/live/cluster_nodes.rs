//! What a cluster's node may be like: pods on a bridge, pods that hide or have several devices, an API server that does not
//! answer yet, kube-proxy with iptables.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Child, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use seventh::lab::Lab;

use crate::{
    api_server::ApiServer,
    client::{IMPATIENCE, PATIENCE, fetch, is_silence},
    kubernetes::{WEB_VIP, cluster_with, object, pod, service, slice, through_the_service},
    listings::{endpoint, list},
    metrics::{LISTEN, page},
    policies::large,
    privileges::{OF_NODE, assert_has_least_privileges},
    requests::{ask, in_client},
    stage::{PUBLIC, binary, policy, status, until},
};

const SUBNET: &str = "10.9.0";

fn on_node(lab: &Lab, program: &str, arguments: &str) {
    let done = lab
        .node_command(program)
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(done.success(), "{program} {arguments}");
}

/// Address of a pod on the bridge.
fn bridged(last: u8) -> Ipv4Addr {
    format!("{SUBNET}.{last}").parse().unwrap()
}

/// The client and the server on one bridge of the node, as the reference plugin `bridge` joins them: the node has a route to
/// all of them together only.
fn join_by_a_bridge(lab: &Lab) {
    on_node(lab, "ip", "link add cni0 type bridge");
    on_node(lab, "ip", &format!("addr add {SUBNET}.1/24 dev cni0"));
    on_node(lab, "ip", "link set cni0 up");
    for (name, last) in [("client", 2), ("server", 3)] {
        let end = lab.endpoint(name).unwrap();
        on_node(lab, "ip", &format!("addr flush dev {}", end.interface));
        on_node(lab, "ip", &format!("link set {} master cni0", end.interface));
        for command in [
            "addr flush dev eth0".to_owned(),
            format!("addr add {}/24 dev eth0", bridged(last)),
            format!("route add default via {SUBNET}.1"),
        ] {
            end.ip(&command).unwrap();
        }
    }
}

/// A process in a pod's network that the kubelet would have put into the pod's control group: of `proc` only that is shown.
fn play_process(lab: &Lab, name: &str, uid: &str) -> Child {
    let child = lab
        .endpoint(name)
        .unwrap()
        .command("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let process = lab.dir().join("proc").join(child.id().to_string());
    std::fs::create_dir_all(process.join("ns")).unwrap();
    std::fs::write(process.join("cgroup"), format!("0::/kubepods/besteffort/pod{uid}/c1\n")).unwrap();
    let netns = format!("/proc/{}/ns/net", child.id());
    std::os::unix::fs::symlink(netns, process.join("ns/net")).unwrap();
    child
}

fn bridge_pod(lab: &Lab, name: &str, (uid, last): (&str, u8)) -> Value {
    let mut pod = pod(lab, name, name);
    pod["metadata"]["uid"] = uid.into();
    pod["status"]["podIPs"] = json!([{"ip": bridged(last)}]);
    pod
}

/// The same of a pod that the kubelet has from a file: what the API server has mirrors it under another UID.
fn static_pod(lab: &Lab, name: &str, (uid, last): (&str, u8)) -> Value {
    let mut pod = bridge_pod(lab, name, ("33333333-3333-4333-8333-333333333333", last));
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": uid, "kubernetes.io/config.source": "file"});
    pod
}

fn get(lab: &Lab, path: &'static str) -> Result<u16, std::io::ErrorKind> {
    in_client(lab, move |_| fetch(bridged(3), path, IMPATIENCE))
}

fn state(lab: &Lab, name: &str) -> String {
    let all = list(lab, &["endpoint", "list"]);
    let mut named = all.iter().filter(|endpoint| endpoint["name"] == name);
    named
        .next()
        .map_or(String::new(), |endpoint| endpoint["state"].as_str().unwrap().to_owned())
}

/// As the kubelet makes it of a file.
const CLIENT: &str = "11111111111141118111111111111111";
const SERVER: &str = "22222222-2222-4222-8222-222222222222";

#[test]
fn pods_on_a_bridge_are_enforced_whatever_they_do_to_their_addresses() {
    let mut processes = Vec::new();
    let Some((mut lab, server)) = cluster_with("netnsDirs: [none], procDir: DIR/proc", "", |lab, server| {
        join_by_a_bridge(lab);
        processes.push(play_process(lab, "client", CLIENT));
        processes.push(play_process(lab, "server", SERVER));
        // It has taken its address away before anybody has seen it, and has a device of a second network.
        lab.endpoint("server")
            .unwrap()
            .ip("addr del 10.9.0.3/24 dev eth0")
            .unwrap();
        on_node(lab, "ip", "link add second type veth peer name net1");
        let netns = lab.endpoint("server").unwrap().netns();
        on_node(
            lab,
            "ip",
            &format!("link set net1 netns {}", netns.file_name().unwrap().to_str().unwrap()),
        );
        server.put("pods", static_pod(lab, "client", (CLIENT, 2)));
        server.put("pods", bridge_pod(lab, "server", (SERVER, 3)));
        server.put("ciliumnetworkpolicies", object(&policy(PUBLIC)));
    }) else {
        return;
    };
    let pid = lab.launch_agent(binary()).unwrap();
    assert_has_least_privileges(pid, OF_NODE);
    assert_eq!(
        state(&lab, "default/server"),
        "ready",
        "{:?}",
        list(&lab, &["endpoint", "list"])
    );
    for (pod, interface) in [("default/client", "v-client"), ("default/server", "v-server")] {
        assert_eq!(endpoint(&lab, pod)["interface"], interface);
    }
    let unmanaged = list(&lab, &["endpoint", "list"]);
    let second = |endpoint: &&Value| endpoint["state"].as_str().unwrap_or_default().contains("second");
    assert_eq!(unmanaged.iter().filter(second).count(), 1, "{unmanaged:?}");
    lab.endpoint("server")
        .unwrap()
        .ip("addr add 10.9.0.3/24 dev eth0")
        .unwrap();
    lab.start_nginx("server", None).unwrap();
    assert_eq!((get(&lab, "/public"), get(&lab, "/denied")), (Ok(200), Ok(403)));

    // An agent that cannot say whose device it is takes nothing off it.
    lab.end("agent", Signal::SIGKILL).unwrap();
    server.delete("pods", "default", "server");
    lab.launch_agent(binary()).unwrap();
    assert_eq!(state(&lab, "default/server"), "");
    let asked = get(&lab, "/denied");
    assert_ne!(asked, Ok(200), "{asked:?}");
    server.put("pods", bridge_pod(&lab, "server", (SERVER, 3)));
    until("it is found again", || state(&lab, "default/server") == "ready");
    assert_eq!((get(&lab, "/public"), get(&lab, "/denied")), (Ok(200), Ok(403)));
    for mut process in processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn an_agent_that_waits_for_its_cluster_says_so_and_one_whose_way_is_cut_too() {
    let more = format!("metrics: {{listen: '{LISTEN}'}}\npolicyRowsMax: 1024");
    let Some((mut lab, server)) = cluster_with("discoveryS: 1", &more, |lab, server| {
        for name in ["client", "friend", "server"] {
            server.put("pods", pod(lab, name, name));
        }
        server.put("ciliumnetworkpolicies", object(&policy(PUBLIC)));
        server.refuse(true);
    }) else {
        return;
    };
    lab.begin_agent(binary(), &["--keep-enforcing"]).unwrap();
    let answers = || !lab.ask_agent(binary(), &["status"]).unwrap().stdout.is_empty();
    until("it answers", answers);
    let problems = || status(&lab)["problems"].to_string();
    until("it knows why", || problems().contains("pods are not followed since"));
    assert!(problems().contains("waits for the API server"), "{}", problems());
    assert_eq!(page(&lab, "/healthz").0, 200);
    let (code, text) = page(&lab, "/readyz");
    assert!(code == 503 && text.contains("waits for the API server"), "{text}");
    let metrics = page(&lab, "/metrics").1;
    assert!(metrics.contains("seventh_ready 0") && metrics.contains("seventh_kubernetes_stale_seconds{kind=\"pods\"}"));
    server.refuse(false);
    until("it is ready", || page(&lab, "/readyz").0 == 200);
    assert_eq!(state(&lab, "default/server"), "ready");

    // The worker gets nothing more of what the kernel sends it.
    on_node(&lab, "ip", "link set seventh0x down");
    until("it is not well", || page(&lab, "/healthz").0 == 503);
    assert!(page(&lab, "/healthz").1.contains("probes"));
    on_node(&lab, "ip", "link set seventh0x up");
    until("it is well again", || page(&lab, "/healthz").0 == 200);
    trouble_of_a_node_is_its_event(&server);
    what_was_known_last_holds_for_the_next_agent(&mut lab, &server);
}

/// A policy for which there is no room is told as an Event of the node, and so is the end of it.
fn trouble_of_a_node_is_its_event(server: &ApiServer) {
    let told = |reason: &str| {
        let of_node = |event: &Value| {
            let about = &event["involvedObject"];
            (about["kind"].as_str(), about["name"].as_str()) == (Some("Node"), Some("lab"))
        };
        server
            .events()
            .iter()
            .any(|event| of_node(event) && event["reason"] == reason)
    };
    let mut large = object(&large("server"));
    large["metadata"]["namespace"] = "default".into();
    server.put("ciliumnetworkpolicies", large);
    until("the trouble is an event", || told("PoliciesNotInForce"));
    assert!(!told("PoliciesInForce"));
    server.delete("ciliumnetworkpolicies", "default", "large-server");
    until("its end is one, too", || told("PoliciesInForce"));
}

/// An agent that begins while no API server answers leaves in force what is; when one answers, a policy that is broken by then
/// stays as it was.
fn what_was_known_last_holds_for_the_next_agent(lab: &mut Lab, server: &ApiServer) {
    lab.start_nginx("server", None).unwrap();
    assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
    lab.end("agent", Signal::SIGTERM).unwrap();
    server.refuse(true);
    let mut broken = object(&policy(PUBLIC));
    broken["spec"]["ingress"][0]["fromEndpoint"] = json!([{}]);
    server.put("ciliumnetworkpolicies", broken);
    lab.begin_agent(binary(), &[]).unwrap();
    until("it waits", || {
        let said = lab.ask_agent(binary(), &["status"]).unwrap();
        String::from_utf8_lossy(&said.stdout).contains("waits for the API server")
    });
    assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200), "the kernel judges");
    for (from, path) in [("client", "/denied"), ("intruder", "/public")] {
        assert!(is_silence(&ask(lab, from, path, IMPATIENCE)), "{from} {path}");
    }
    server.refuse(false);
    until("it is ready", || page(lab, "/readyz").0 == 200);
    assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
    assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200));
    assert!(is_silence(&ask(lab, "intruder", "/public", IMPATIENCE)));
    let findings = status(lab)["policy"]["findings"].to_string();
    assert!(findings.contains("fromEndpoint"), "{findings}");
}

#[test]
fn what_kube_proxy_translates_by_iptables_is_judged_before() {
    let out = "metadata: {name: out, namespace: default}\nspec:\n  endpointSelector: {matchLabels: {app: client}}\n  egress:\n  \
               - toServices: [{k8sService: {serviceName: web, namespace: default}}]\n    toPorts: [{ports: [{port: '8080', \
               protocol: TCP}], rules: {http: [{path: /public}]}}]\n";
    let Some((mut lab, server)) = cluster_with("discoveryS: 1", "", |lab, server| {
        server.put("pods", pod(lab, "client", "client"));
        server.put("pods", pod(lab, "server", "web"));
        server.put("services", service(("default", "web"), WEB_VIP, &[("TCP", 80)]));
        let ip = IpAddr::V4(lab.endpoint("server").unwrap().ipv4);
        server.put("endpointslices", slice(("default", "web"), "TCP", 8080, &[ip]));
        // A name for something outside has no address, and so nothing that could be judged as a service.
        let named = json!({"metadata": {"namespace": "default", "name": "named"},
            "spec": {"type": "ExternalName", "externalName": "www.shop.test", "clusterIP": ""}});
        server.put("services", named);
        server.put("ciliumnetworkpolicies", object(out));
        // As kube-proxy writes it: a chain of the service, one of each who answers, replies by the connection table.
        let ip = lab.endpoint("server").unwrap().ipv4;
        for rule in [
            "-N KUBE-SERVICES".to_owned(),
            "-N KUBE-SVC-WEB".to_owned(),
            "-N KUBE-SEP-WEB".to_owned(),
            "-A PREROUTING -j KUBE-SERVICES".to_owned(),
            format!("-A KUBE-SERVICES -d {WEB_VIP}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB"),
            "-A KUBE-SVC-WEB -j KUBE-SEP-WEB".to_owned(),
            format!("-A KUBE-SEP-WEB -p tcp -m tcp -j DNAT --to-destination {ip}:8080"),
        ] {
            on_node(lab, "iptables", &format!("-t nat {rule}"));
        }
    }) else {
        return;
    };
    lab.launch_agent(binary()).unwrap();
    lab.start_nginx("server", None).unwrap();
    assert_eq!(through_the_service(&lab, "/public"), Ok(200));
    assert_eq!(through_the_service(&lab, "/denied"), Ok(403));
    server.delete("ciliumnetworkpolicies", "default", "out");
    server.put(
        "ciliumnetworkpolicies",
        object(&out.replace("serviceName: web", "serviceName: named")),
    );
    until("a name opens nothing", || {
        is_silence(&through_the_service(&lab, "/public"))
    });
    assert!(
        status(&lab)["policy"]["findings"].to_string().contains("named"),
        "{}",
        status(&lab)
    );
}
