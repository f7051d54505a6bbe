//! The plugin as a runtime runs it: variables and JSON in, JSON and an exit status out. With an agent: the agent's live tests.
#![forbid(unsafe_code)]

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// Exit status 0 or not, and what it wrote; null if nothing.
fn run(variables: &[(&str, &str)], input: &Value) -> (bool, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_seventh-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.success(), said)
}

const POD: &[(&str, &str)] = &[
    ("CNI_CONTAINERID", "c"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"),
];

#[test]
fn versions_are_told() {
    let (good, said) = run(&[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.0.0"}));
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(
        (good, said),
        (true, json!({"cniVersion": "1.0.0", "supportedVersions": supported}))
    );
}

#[test]
fn errors_are_told_in_the_version_of_the_configuration() {
    let config = json!({
        "cniVersion": "0.4.0", "name": "n", "type": "seventh-cni", "socket": "/nowhere/seventh.sock", "timeoutSeconds": 1,
        "prevResult": {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/24"}]},
    });
    let (good, said) = run(&[&[("CNI_COMMAND", "ADD")], POD].concat(), &config);
    assert!(!good);
    assert_eq!((&said["cniVersion"], &said["code"]), (&json!("0.4.0"), &json!(11)));
    let details = said["details"].as_str().unwrap();
    assert!(
        details.contains("a/b") && details.contains("/nowhere/seventh.sock"),
        "{details}"
    );
    let (good, said) = run(&[("CNI_COMMAND", "ADD")], &config);
    assert_eq!((good, &said["code"]), (false, &json!(4)));
}

#[test]
fn ending_a_pod_never_fails_and_says_nothing() {
    assert_eq!(run(&[("CNI_COMMAND", "DEL")], &json!("nonsense")), (true, Value::Null));
}
