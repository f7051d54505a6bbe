//! Lists of what is in force: documents, identities, and the kernel's own tables.

use serde_json::Value;
use seventh::lab::Lab;

use crate::{
    client::{Connection, PATIENCE, fetch},
    requests::in_client,
    stage::{PUBLIC, binary, policy, replace_policy, stage, status, until, write_policy},
};

/// One object per line.
pub(crate) fn list(lab: &Lab, command: &[&str]) -> Vec<Value> {
    let output = lab.ask_agent(binary(), &[command, &["-o", "json"]].concat()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn text(lab: &Lab, command: &[&str]) -> (Option<i32>, String) {
    let output = lab.ask_agent(binary(), command).unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn holds(labels: &Value, label: &str) -> bool {
    labels.as_array().unwrap().iter().any(|found| found == label)
}

pub(crate) fn endpoint(lab: &Lab, name: &str) -> Value {
    list(lab, &["endpoint", "get", name]).remove(0)
}

#[test]
fn the_documents_in_force_are_shown_as_they_were_written_even_if_their_file_is_broken_now() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let documents = list(&lab, &["policy", "get"]);
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0]["name"], "server");
    assert_eq!(documents[0]["endpoints"], serde_json::json!(["default/server"]));
    assert_eq!(documents[0]["revision"], status(&lab)["policy"]["revision"]);
    assert!(documents[0].get("text").is_none());
    write_policy(&lab, "kind: [");
    until("the file is known to be broken", || {
        !status(&lab)["problems"].as_array().unwrap().is_empty()
    });
    let shown = list(&lab, &["policy", "get", "default/server"]);
    assert_eq!(shown[0]["text"], policy(PUBLIC));
    let (code, written) = text(&lab, &["policy", "get", "default/server"]);
    assert!(code == Some(0) && written.ends_with(&policy(PUBLIC)), "{written}");
    let (code, table) = text(&lab, &["policy", "get"]);
    assert!(
        code == Some(0) && table.starts_with("KIND") && table.contains("Revision 1"),
        "{table}"
    );
    assert_eq!(text(&lab, &["policy", "get", "default/other"]).0, Some(1));
}

#[test]
fn a_group_that_is_not_there_is_a_problem_until_it_comes() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let refers = policy(PUBLIC) + "  - fromCIDRSet: [{cidrGroupRef: partners}]\n";
    replace_policy(&lab, &refers);
    let state = status(&lab);
    assert!(state["problems"].to_string().contains("1 references"), "{state}");
    assert!(state["policy"]["findings"].to_string().contains("partners"), "{state}");
    assert_eq!(text(&lab, &["status"]).0, Some(1));
    let group = "---\napiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: partners}\nspec: {externalCIDRs: \
                 [192.0.2.0/24]}\n";
    replace_policy(&lab, &(refers + group));
    assert_eq!(text(&lab, &["status"]).0, Some(0));
}

#[test]
fn identities_are_those_of_the_endpoints_and_the_reserved_ones() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let identities = list(&lab, &["identity", "list"]);
    let host = identities.iter().find(|identity| identity["id"] == 1).unwrap();
    assert!(holds(&host["labels"], "reserved:host"));
    let server = endpoint(&lab, "default/server");
    let id = server["identity"].as_u64().unwrap();
    assert!(id >= 256);
    let own = list(&lab, &["identity", "get", &id.to_string()]);
    assert_eq!(own[0]["labels"], server["labels"]);
    assert_eq!(own[0]["endpoints"], serde_json::json!(["default/server"]));
    assert_eq!(text(&lab, &["identity", "get", "99"]).0, Some(1));
    assert_eq!(text(&lab, &["identity", "get", "nobody"]).0, Some(2));
}

#[test]
fn the_kernels_tables_are_shown_as_they_are_and_follow_every_change() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let rows = || list(&lab, &["bpf", "policy", "list", "default/server"]);
    let verdict_for = |label: &str| {
        let found = rows();
        let row = found
            .iter()
            .find(|row| holds(&row["labels"], label) && row["direction"] == "ingress");
        row.map(|row| {
            (
                row["verdict"].clone(),
                row["first_port"].clone(),
                row["protocol"].clone(),
            )
        })
    };
    let on_8080 = |verdict: &str| Some((verdict.into(), 8080.into(), 6.into()));
    assert_eq!(verdict_for("k8s:app=client"), on_8080("inspect"));
    assert_eq!(verdict_for("k8s:app=friend"), on_8080("allow"));
    assert_eq!(verdict_for("k8s:app=intruder"), None);
    let policy_id = endpoint(&lab, "default/server")["policy_id"].clone();
    assert!(rows().iter().all(|row| row["policy_id"] == policy_id));

    let entries = list(&lab, &["bpf", "ipcache", "list"]);
    let identity_of = |prefix: &str| {
        let entry = entries.iter().find(|entry| entry["prefix"] == prefix);
        entry.map(|entry| entry["identity"].clone())
    };
    let server = lab.endpoint("server").unwrap();
    let identity = endpoint(&lab, "default/server")["identity"].clone();
    assert_eq!(identity_of(&format!("{}/32", server.ipv4)), Some(identity.clone()));
    assert_eq!(identity_of(&format!("{}/128", server.ipv6)), Some(identity));
    assert_eq!(identity_of("10.0.4.1/32"), Some(1.into()));
    assert_eq!(
        (identity_of("0.0.0.0/0"), identity_of("::/0")),
        (Some(9.into()), Some(10.into()))
    );

    let kept = in_client(&lab, |address| Connection::open(address, PATIENCE).unwrap());
    assert_eq!(in_client(&lab, |to| fetch(to.ip(), "/denied", PATIENCE)), Ok(403));
    let flows = list(&lab, &["bpf", "flows", "list"]);
    let client = lab.endpoint("client").unwrap().ipv4.to_string();
    let of_client = |verdict: &str| {
        let found = flows
            .iter()
            .filter(|flow| flow["verdict"] == verdict && flow["peer_ip"] == client.as_str());
        found
            .filter(|flow| flow["local_port"] == 8080 && flow["direction"] == "ingress")
            .count()
    };
    assert_eq!((of_client("inspect"), of_client("closed")), (1, 1), "{flows:#?}");
    assert_eq!(list(&lab, &["bpf", "flows", "list", "--max", "1"]).len(), 1);
    drop(kept);

    replace_policy(&lab, &policy("{path: /other}").replace("app: friend", "app: intruder"));
    assert_eq!(verdict_for("k8s:app=friend"), None);
    assert_eq!(verdict_for("k8s:app=intruder"), on_8080("allow"));
    assert_ne!(endpoint(&lab, "default/server")["policy_id"], policy_id);
    let (_, table) = text(&lab, &["bpf", "policy", "list"]);
    assert!(
        table.contains("8080/TCP") && table.contains("inspect (rule set "),
        "{table}"
    );
    let (_, table) = text(&lab, &["bpf", "ipcache", "list"]);
    assert!(
        table.starts_with("IP PREFIX/ADDRESS") && table.contains("reserved:host"),
        "{table}"
    );
    let (_, table) = text(&lab, &["bpf", "flows", "list"]);
    assert!(
        table.starts_with("ENDPOINT") && table.contains("default/server"),
        "{table}"
    );
}
