//! Hubble's services as clients from elsewhere see them: gRPC of another make, on the unix socket and over TCP with mutual
//! TLS.

use std::path::Path;

use serde_json::Value;
use seventh::lab::Lab;

use crate::{
    client::{PATIENCE, fetch},
    http2::{program, python},
    stage::{PUBLIC, binary, lab, policy, until},
};

/// What `hubble_client.py` prints, asked from the friend.
fn ask(lab: &Lab, python: &Path, target: &str, tls: &[&str]) -> Result<Value, String> {
    let descriptors = lab.dir().join("descriptors.bin");
    std::fs::write(&descriptors, seventh_flows::descriptors().encode_to_vec()).unwrap();
    let mut command = lab.endpoint("friend").unwrap().command(python);
    command
        .arg(program("hubble_client.py"))
        .arg(descriptors)
        .arg(target)
        .args(tls)
        .current_dir(lab.dir());
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// The node's address on the friend's line.
fn node(lab: &Lab) -> String {
    let [a, b, c, _] = lab.endpoint("friend").unwrap().ipv4.octets();
    format!("{a}.{b}.{c}.1")
}

fn make_traffic(lab: &Lab) {
    let server = lab.endpoint("server").unwrap().ipv4;
    let client = lab.endpoint("client").unwrap();
    client
        .run(move || fetch(server, "/public/x", PATIENCE))
        .unwrap()
        .unwrap();
    until("the answer is told", || {
        let output = lab
            .ask_agent(binary(), &["observe", "--http-status", "200", "-o", "json"])
            .unwrap();
        !output.stdout.is_empty()
    });
}

#[test]
fn a_client_of_another_make_understands_every_service_on_the_unix_socket() {
    let Some(python) = python() else { return };
    let Some(mut lab) = lab() else { return };
    lab.start_nginx("server", None).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "").unwrap();
    make_traffic(&lab);
    let socket = format!("unix://{}", lab.socket().display());
    let told = ask(&lab, &python, &socket, &[]).unwrap();
    let node = &told["nodes"]["nodes"][0];
    assert_eq!(
        (&node["name"], &node["state"]),
        (&"lab".into(), &"NODE_CONNECTED".into()),
        "{told:#}"
    );
    assert_eq!(node["address"], socket);
    assert!(node.pointer("/tls/enabled").is_none(), "{node}");
    assert_eq!(
        told["namespaces"]["namespaces"],
        serde_json::json!([{"namespace": "default"}])
    );
    assert_eq!(
        (&told["status"]["max_flows"], &told["status"]["num_connected_nodes"]),
        (&"4095".into(), &1.into())
    );
    let flows: Vec<_> = told["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["flow"])
        .collect();
    assert_eq!(flows.len(), 2, "{told:#}");
    assert_eq!(flows[1]["l7"]["http"]["code"], 200);
    assert!(
        told["events"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["agent_event"]["type"] == "AGENT_STARTED")
    );
    assert_eq!(told["debug"], serde_json::json!([]));
    assert_eq!(
        told["peer"],
        serde_json::json!({"name": "lab", "address": socket, "type": "PEER_ADDED"})
    );
    assert_eq!(told["refused"], "INVALID_ARGUMENT");
}

#[test]
fn over_tcp_only_who_shows_a_certificate_is_served_and_learns_where_the_node_is() {
    let Some(python) = python() else { return };
    let Some(mut lab) = lab() else { return };
    lab.certify(&["node.test"]).unwrap();
    lab.start_nginx("server", None).unwrap();
    let tls = "tls: {certFile: server.pem, keyFile: server.key, clientCaFile: ca.pem, serverName: node.test}";
    let config = format!("hubble: {{listen: '0.0.0.0:4244', {tls}}}\n");
    lab.start_agent(binary(), &policy(PUBLIC), &config).unwrap();
    make_traffic(&lab);
    let target = format!("{}:4244", node(&lab));
    let told = ask(
        &lab,
        &python,
        &target,
        &["ca.pem", "server.pem", "server.key", "node.test"],
    )
    .unwrap();
    let peer = &told["peer"];
    let announced = peer["address"].as_str().unwrap();
    assert!(announced.ends_with(".1:4244") && !announced.starts_with("0."), "{peer}");
    assert_eq!(peer["tls"]["server_name"], "node.test");
    assert_eq!(
        told["nodes"]["nodes"][0]["tls"],
        serde_json::json!({"enabled": true, "server_name": "node.test"})
    );
    assert_eq!(told["flows"].as_array().unwrap().len(), 2);
    ask(&lab, &python, &target, &[]).unwrap_err();
    // Whoever asks here learns the same.
    let local = ask(&lab, &python, &format!("unix://{}", lab.socket().display()), &[]).unwrap();
    assert_eq!(local["peer"], told["peer"]);
    observe_over_tls(&lab, &target);
}

/// `observe` reads the same port with its own flags, and says what is wrong without them.
fn observe_over_tls(lab: &Lab, target: &str) {
    let observe = |flags: &[&str]| {
        let mut command = lab.endpoint("friend").unwrap().command(binary());
        command
            .args(["observe", "--protocol", "http", "--server", target])
            .args(flags);
        command.current_dir(lab.dir()).output().unwrap()
    };
    let files = [
        "--tls-client-cert-file",
        "server.pem",
        "--tls-client-key-file",
        "server.key",
    ];
    let authority = [
        "--tls",
        "--tls-ca-cert-files",
        "ca.pem",
        "--tls-server-name",
        "node.test",
    ];
    let seen = observe(&[&authority[..], &files].concat());
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(text.contains("http-response FORWARDED (HTTP/1.1 200"), "{text}{seen:?}");
    for flags in [&authority[..], &files, &["--tls"], &["--timeout", "1s"]] {
        assert!(!observe(flags).status.success(), "{flags:?}");
    }
}
