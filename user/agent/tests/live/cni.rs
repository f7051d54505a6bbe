//! The chained CNI plugin behind the reference plugins: a pod's processes start when its policies are in force.

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use seventh::lab::{Lab, OUTSIDE};

use crate::{
    client::{PATIENCE, fetch},
    kubernetes::{cluster, object},
    stage::{MTU, PUBLIC, binary, lab_of, policy, until},
};

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// A pod as a runtime sees it.
struct Pod {
    netns: PathBuf,
    name: &'static str,
}

impl Pod {
    /// Starts a plugin for it, as a runtime does.
    fn start(&self, lab: &Lab, plugin: &Path, command: &str, config: &Value) -> Child {
        let mut runs = lab.node_command(plugin);
        let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.name);
        runs.env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .env("CNI_ARGS", arguments);
        let mut child = piped(&mut runs).unwrap_or_else(|e| panic!("{}: {e}", plugin.display()));
        child
            .stdin
            .take()
            .unwrap()
            .write_all(config.to_string().as_bytes())
            .unwrap();
        child
    }

    fn run(&self, lab: &Lab, plugin: &Path, command: &str, config: &Value) -> Output {
        self.start(lab, plugin, command, config).wait_with_output().unwrap()
    }
}

fn piped(command: &mut Command) -> std::io::Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// What a plugin wrote; `None` if nothing.
fn said(output: &Output) -> Option<Value> {
    (!output.stdout.is_empty()).then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// The code of the error that a plugin told.
fn refused(output: &Output) -> Option<u64> {
    assert!(!output.status.success());
    said(output).and_then(|error| error["code"].as_u64())
}

/// The plugin under test, which is built beside the agent.
fn plugin() -> PathBuf {
    let program = binary().with_file_name("seventh-cni");
    assert!(program.exists(), "{}: build the workspace", program.display());
    program
}

/// A pod's network as the reference plugin `ptp` makes it: its result.
fn make_network(lab: &Lab, pod: &Pod) -> (Value, Value) {
    let config = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "ptp",
        "ipam": {
            "type": "host-local", "dataDir": lab.dir().join("ipam"), "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.9.0.0/24"}]],
        },
    });
    let output = pod.run(lab, &Path::new(REFERENCE).join("ptp"), "ADD", &config);
    let made = said(&output).unwrap_or_default();
    assert!(output.status.success(), "{made}");
    (config, made)
}

/// A pod waits, for as long as it is said; then it starts or does not.
fn without_an_agent(lab: &Lab, pod: &Pod, fails: &Value, opens: &Value) {
    let began = Instant::now();
    assert_eq!(refused(&pod.run(lab, &plugin(), "ADD", fails)), Some(11));
    assert!(
        (800..3000).contains(&began.elapsed().as_millis()),
        "{:?}",
        began.elapsed()
    );
    let open = pod.run(lab, &plugin(), "ADD", opens);
    assert_eq!(
        (open.status.success(), said(&open)),
        (true, Some(opens["prevResult"].clone()))
    );
    assert!(String::from_utf8_lossy(&open.stderr).contains("default/pod"));
    assert_eq!(refused(&pod.run(lab, &plugin(), "STATUS", fails)), Some(50));
}

/// The address in the plugin's result.
fn address(made: &Value) -> (String, Ipv4Addr) {
    let text = made["ips"][0]["address"].as_str().unwrap().strip_suffix("/24").unwrap();
    (text.to_owned(), text.parse().unwrap())
}

#[test]
fn a_pod_starts_when_its_policies_are_in_force_and_not_before() {
    let Some(mut lab) = lab_of(&[("client", "client"), ("pod", OUTSIDE)], MTU) else {
        return;
    };
    lab.node_ip("link del v-pod").unwrap();
    let pod = Pod {
        netns: lab.endpoint("pod").unwrap().netns(),
        name: "pod",
    };
    let (network, made) = make_network(&lab, &pod);
    lab.start_nginx("pod", None).unwrap();
    let (_, ip) = address(&made);
    let config = |timeout: u32, on_timeout: &str| {
        json!({"cniVersion": "1.0.0", "name": "pods", "type": "seventh-cni", "prevResult": made.clone(),
               "socket": lab.socket(), "timeoutSeconds": timeout, "onTimeout": on_timeout})
    };

    without_an_agent(&lab, &pod, &config(1, "fail"), &config(1, "open"));
    let patient = config(15, "fail");
    let mut waits = pod.start(&lab, &plugin(), "ADD", &patient);
    thread::sleep(Duration::from_millis(300));
    assert!(waits.try_wait().unwrap().is_none(), "it waits for an agent");

    // With one: the first request after the plugin's answer meets the policy.
    fs::create_dir_all(lab.dir().join("policies")).unwrap();
    fs::write(
        lab.dir().join("policies/policy.yaml"),
        policy(PUBLIC).replace("app: server", "app: pod"),
    )
    .unwrap();
    let device = &made["interfaces"][0]["name"];
    let endpoint = format!("  - {{name: default/pod, labels: {{app: pod}}, interface: {device}, ips: [{ip}]}}\n");
    fs::write(lab.dir().join("config.yaml"), lab.agent_config("") + &endpoint).unwrap();
    let request = move |path: &'static str| move || fetch(ip, path, PATIENCE);
    let client = lab.endpoint("client").unwrap();
    let first = client
        .start(move || (waits.wait_with_output(), request("/denied")()))
        .unwrap();
    lab.launch_agent(binary()).unwrap();
    let (output, answer) = first.join().unwrap().unwrap();
    let output = output.unwrap();
    assert_eq!((output.status.success(), said(&output)), (true, Some(made.clone())));
    assert_eq!(answer, Ok(403));
    let client = lab.endpoint("client").unwrap();
    assert_eq!(client.run(request("/public")).unwrap(), Ok(200));

    asked_of_a_running_agent(&lab, &pod, &patient);
    assert!(pod.run(&lab, &plugin(), "DEL", &patient).status.success());
    assert!(
        pod.run(&lab, &Path::new(REFERENCE).join("ptp"), "DEL", &network)
            .status
            .success()
    );
    until("the device is gone", || {
        let output = pod.run(&lab, &plugin(), "CHECK", &patient);
        !output.status.success() && refused(&output) == Some(11)
    });
}

fn asked_of_a_running_agent(lab: &Lab, pod: &Pod, config: &Value) {
    for command in ["CHECK", "STATUS", "GC"] {
        let output = pod.run(lab, &plugin(), command, config);
        assert_eq!((output.status.success(), said(&output)), (true, None), "{command}");
    }
    let stranger = Pod {
        netns: pod.netns.clone(),
        name: "other",
    };
    assert_eq!(refused(&stranger.run(lab, &plugin(), "CHECK", config)), Some(11));
    // A pod of the same name that was there before has another address.
    let mut successor = config.clone();
    successor["prevResult"]["ips"][0]["address"] = json!("10.9.0.77/24");
    let output = pod.run(lab, &plugin(), "CHECK", &successor);
    assert_eq!(refused(&output), Some(11));
    assert!(
        said(&output).unwrap()["details"]
            .as_str()
            .unwrap()
            .contains("10.9.0.77")
    );
    // Or another device.
    let mut successor = config.clone();
    successor["prevResult"]["interfaces"][0]["name"] = json!("veth-of-another");
    assert_eq!(refused(&pod.run(lab, &plugin(), "CHECK", &successor)), Some(11));
}

#[test]
fn a_new_pod_of_a_cluster_starts_before_the_api_server_knows_its_addresses() {
    let described = |name: &str, ips: &[String]| {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"metadata": {"namespace": "default", "name": name, "labels": {"app": name}, "uid": format!("uid-{name}")},
               "spec": {"nodeName": "lab"}, "status": {"phase": "Pending", "podIPs": ips}})
    };
    let Some((mut lab, server)) = cluster(|lab, server| {
        let client = lab.endpoint("client").unwrap().ips().map(|ip| ip.to_string());
        server.put("pods", described("client", &client));
        server.put(
            "ciliumnetworkpolicies",
            object(&policy(PUBLIC).replace("app: server", "app: pod")),
        );
    }) else {
        return;
    };
    lab.node_ip("link del v-server").unwrap();
    let pod = Pod {
        netns: lab.endpoint("server").unwrap().netns(),
        name: "pod",
    };
    let (_, made) = make_network(&lab, &pod);
    lab.start_nginx("server", None).unwrap();
    let (address, ip) = address(&made);
    let config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "seventh-cni", "prevResult": made, "socket": lab.socket()});
    let mut waits = pod.start(&lab, &plugin(), "ADD", &config);
    thread::sleep(Duration::from_millis(300));
    assert!(waits.try_wait().unwrap().is_none(), "nobody knows the pod's labels yet");

    let began = Instant::now();
    server.put("pods", described("pod", &[]));
    let output = waits.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", said(&output));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let request = move |path: &'static str| move || fetch(ip, path, PATIENCE);
    let client = lab.endpoint("client").unwrap();
    assert_eq!(client.run(request("/denied")).unwrap(), Ok(403));
    assert_eq!(client.run(request("/public")).unwrap(), Ok(200));

    server.put("pods", described("pod", &[address]));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(client.run(request("/denied")).unwrap(), Ok(403));
    assert!(pod.run(&lab, &plugin(), "CHECK", &config).status.success());
}
