//! An agent with the least privileges does all of its work, and shows its secrets to nobody.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use nix::sys::signal::Signal;
use seventh::lab::Lab;

use crate::{
    audit::configure,
    client::{Connection, IMPATIENCE, PATIENCE, is_silence},
    requests::{ask, in_client},
    stage::{PUBLIC, binary, lab, policy, status},
};

/// `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_IPC_LOCK`, `CAP_PERFMON` and `CAP_BPF`, by their numbers in linux/capability.h.
const OF_HOST: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 38 | 1 << 39;
/// These, `CAP_SYS_PTRACE` and `CAP_SYS_ADMIN`.
pub(crate) const OF_NODE: u64 = OF_HOST | 1 << 19 | 1 << 21;

/// What the kernel says of a process.
fn process_status(pid: u32) -> HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

pub(crate) fn assert_has_least_privileges(pid: u32, capabilities: u64) {
    let status = process_status(pid);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let has = u64::from_str_radix(&status[set], 16).unwrap();
        assert_eq!(has, capabilities, "{set}: {has:x}");
    }
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let roots: Vec<&str> = mounts
        .lines()
        .filter(|line| line.split(' ').nth(1) == Some("/"))
        .collect();
    assert!(
        roots.iter().all(|root| root.contains(" ro,")) && !roots.is_empty(),
        "{roots:?}"
    );
}

fn assert_enforced(lab: &Lab) {
    assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200));
    assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
    assert_eq!(ask(lab, "friend", "/anything", PATIENCE), Ok(200));
    assert!(is_silence(&ask(lab, "intruder", "/public", IMPATIENCE)));
}

#[test]
fn with_five_capabilities_on_a_read_only_root_an_agent_does_all_of_its_work() {
    let Some(mut lab) = lab() else { return };
    lab.start_nginx("server", None).unwrap();
    let more = "metrics: {listen: \"127.0.0.1:9964\"}\nworkers: 2";
    let pid = lab.start_agent(binary(), &policy(PUBLIC), more).unwrap();
    assert_has_least_privileges(pid, OF_HOST);
    assert_enforced(&lab);
    assert!(configure(&lab, "default/server", "Enabled").status.success());
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(200), "in audit");
    assert!(configure(&lab, "default/server", "Disabled").status.success());
    lab.end("agent", Signal::SIGKILL).unwrap();
    let pid = lab.launch_agent(binary()).unwrap();
    assert_has_least_privileges(pid, OF_HOST);
    assert_enforced(&lab);
    assert_eq!(status(&lab)["problems"].as_array().map(Vec::len), Some(0));
    lab.end("agent", Signal::SIGTERM).unwrap();
    assert!(!lab.pin_dir().exists(), "it took everything along");
}

/// Permissions of what is there.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn nothing_secret_is_in_the_log_or_in_a_sysdump_and_others_can_open_neither_socket_nor_pins() {
    const REQUEST: &str = "GET /public/a?token=s3cret HTTP/1.1\r\nHost: ann:s3cret@server\r\n\
                           Authorization: Bearer s3cret\r\nCookie: s3cret\r\n\r\n";
    const DENIED: &str = "GET /denied?token=s3cret HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer s3cret\r\n\r\n";
    let Some(mut lab) = lab() else { return };
    lab.start_nginx("server", None).unwrap();
    let more = "hubble: {httpHeaders: true}";
    lab.start_agent(binary(), &policy(PUBLIC), more).unwrap();
    for (request, expected) in [
        (REQUEST, 403),
        (&REQUEST.replace("ann:s3cret@", ""), 200),
        (DENIED, 403),
    ] {
        let request = request.to_owned();
        let status = in_client(&lab, move |address| {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            connection.send(request.as_bytes()).unwrap();
            connection.answer().unwrap().status
        });
        assert!(status == expected || expected == 403 && status == 400, "{status}");
    }
    for (path, expected) in [
        (lab.socket(), 0o600),
        (lab.pin_dir(), 0o700),
        (lab.pin_dir().join("links"), 0o700),
    ] {
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    let bundle = lab.dir().join("bundle.tar.gz");
    let file = bundle.to_str().unwrap();
    let output = lab.ask_agent(binary(), &["sysdump", "--output-file", file]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(mode(&bundle), 0o600);
    let again = lab.ask_agent(binary(), &["sysdump", "--output-file", file]).unwrap();
    assert_eq!(again.status.code(), Some(2), "a file that is there stays");
    let unpacked = Command::new("tar").args(["-xzOf", file]).output().unwrap();
    assert!(unpacked.status.success());
    let text = String::from_utf8_lossy(&unpacked.stdout);
    for there in [
        "/public/a?<redacted>",
        "Authorization",
        "\"onAgentDown\"",
        "default/server",
        "v-client",
    ] {
        assert!(text.contains(there), "{there}");
    }
    assert!(!text.contains("s3cret"), "the bundle");
    assert!(!lab.agent_log().contains("s3cret"), "the log: {}", lab.agent_log());
    lab.end("agent", Signal::SIGKILL).unwrap();
    let without = lab.dir().join("without.tar.gz");
    let output = lab
        .ask_agent(binary(), &["sysdump", "--output-file", without.to_str().unwrap()])
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "without an agent there is less in it");
    assert!(String::from_utf8_lossy(&output.stderr).contains("status.json is missing"));
}
