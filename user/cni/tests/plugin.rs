//! The plugin as a runtime runs it: variables and JSON in, JSON and an exit status out. With an agent: the agent's live tests.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
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

const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}"#;

/// Whether `check` finds the plugin.
fn is_there(places: &[String]) -> bool {
    let mut check = Command::new(env!("CARGO_BIN_EXE_seventh-cni"));
    check
        .arg("check")
        .args(places)
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A network whose list comes late, and is written anew by whoever made it (as Calico does), loses the plugin for seconds only;
/// nothing ends the process but the signal.
#[test]
fn what_is_kept_waits_for_the_list_and_comes_back_when_it_was_written_anew() {
    let node = tempfile::tempdir().unwrap();
    let [binaries, lists] = ["bin", "net.d"].map(|name| node.path().join(name));
    fs::create_dir(&binaries).unwrap();
    let places =
        [("--bin-dir", &binaries), ("--conf-dir", &lists)].map(|(flag, dir)| format!("{flag}={}", dir.display()));
    let mut kept = Command::new(env!("CARGO_BIN_EXE_seventh-cni"))
        .args(["install", "--keep"])
        .args(&places)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(kept.stderr.take().unwrap()).lines();
    let mut says = |wanted: &str| {
        let line = said.next().unwrap().unwrap();
        assert!(line.contains(wanted), "{line}");
    };
    says("net.d");
    assert!(!is_there(&places));
    fs::create_dir(&lists).unwrap();
    says("no plugin has put its configuration here yet");
    let list = lists.join("10-pods.conflist");
    let write = |path: &Path| fs::write(path, LIST).unwrap();
    write(&list);
    says("so runtimes look for plugins elsewhere");
    fs::write(binaries.join("ptp"), "").unwrap();
    says("chained");
    assert!(is_there(&places));
    write(&list);
    until("it is chained again", || is_there(&places));
    // Somebody has a list that runtimes take before.
    write(&lists.join("05-other.conflist"));
    until("it is chained there, too", || is_there(&places));
    fs::remove_file(binaries.join("seventh-cni")).unwrap();
    until("the program is there again", || is_there(&places));
    assert!(kept.try_wait().unwrap().is_none());
    let end = Command::new("kill").arg(kept.id().to_string()).status().unwrap();
    assert!(end.success() && kept.wait().unwrap().success());
    assert!(is_there(&places), "it stays when the agent's pod ends");
}
