//! What most tests begin with: a lab with a server, an agent, and questions to both.

use std::{
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use seventh::lab::{Lab, OUTSIDE, slower};

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_seventh"))
}

pub(crate) const MTU: u32 = 1500;

/// The release of Linux that has tcx; before, programs are attached by clsact.
pub(crate) const TCX: (u32, u32) = (6, 6);
/// The release with what the kernel needs to judge whole requests by itself; before, the engine judges all.
pub(crate) const KERNEL_JUDGES: (u32, u32) = (5, 17);

/// Whether the kernel is of this release or a later one.
pub(crate) fn kernel_has(release: (u32, u32)) -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = text.split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap()) >= release
}

/// The endpoints: a client with HTTP rules, a friend with an L4 rule only, an intruder without any, and the server.
pub(crate) const CAST: &[(&str, &str)] = &[
    ("client", "client"),
    ("friend", "friend"),
    ("intruder", "intruder"),
    ("server", "server"),
];

/// What the client may: `rules` is the inside of `http:`. The friend may everything on the port.
pub(crate) fn policy(rules: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: server, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: {{app: \
         client}}}}]\n    toPorts: [{{ports: [{{port: \"8080\", protocol: TCP}}], rules: {{http: [{rules}]}}}}]\n  - \
         fromEndpoints: [{{matchLabels: {{app: friend}}}}]\n    toPorts: [{{ports: [{{port: \"8080\", protocol: TCP}}]}}]\n"
    )
}

/// The rules of most tests.
pub(crate) const PUBLIC: &str = "{method: \"GET|PUT\", path: \"/(public|bytes)(/.*)?\"}";

/// A lab of the usual cast, or `None` if this machine cannot have one and that is allowed.
pub(crate) fn lab() -> Option<Lab> {
    lab_with_mtu(MTU)
}

/// The usual cast, and beside it `world`, of which the agent does not know: it speaks from any address.
pub(crate) fn lab_with_world() -> Option<Lab> {
    lab_of(&[CAST, &[("world", OUTSIDE)]].concat(), MTU)
}

pub(crate) fn lab_with_mtu(mtu: u32) -> Option<Lab> {
    lab_of(CAST, mtu)
}

/// A lab of this cast, or `None` as [`lab`]. Its agents have the least privileges that they need.
pub(crate) fn lab_of(cast: &[(&str, &str)], mtu: u32) -> Option<Lab> {
    match Lab::new(cast, mtu) {
        Ok(mut lab) => {
            lab.confine();
            Some(lab)
        }
        Err(reason) => {
            skip(&format!("{reason:#}"));
            None
        }
    }
}

/// Passes the present test over, visibly, if that is allowed; else fails it.
pub(crate) fn skip(reason: &str) {
    static SKIPPED: AtomicU32 = AtomicU32::new(0);
    let allowed = std::env::var("SEVENTH_ALLOW_SKIP").is_ok_and(|value| value == "1");
    assert!(
        allowed,
        "live tests cannot run here: {reason} (SEVENTH_ALLOW_SKIP=1 passes them over)"
    );
    let count = 1 + SKIPPED.fetch_add(1, Ordering::Relaxed);
    // Past the runner's capture: a test that was passed over must not look like one that passed.
    let test = thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: {reason}; {count} live tests skipped so far"
    );
}

/// A lab with nginx in the server and an agent that enforces [`policy`] of these rules.
pub(crate) fn stage(rules: &str, more_config: &str) -> Option<Lab> {
    let mut lab = lab()?;
    lab.start_nginx("server", None).unwrap();
    lab.start_agent(binary(), &policy(rules), more_config).unwrap();
    Some(lab)
}

/// What `seventh status -o json` says.
pub(crate) fn status(lab: &Lab) -> Value {
    let output = lab.ask_agent(binary(), &["status", "-o", "json"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("status: {e}: {text}{said}\n{}", lab.agent_log()))
}

/// What nginx answered, in its order. A refused request that came in several segments leaves a line, too: its beginning
/// reached the server, which gave up on it (400) when the connection was reset.
pub(crate) fn served(lab: &Lab) -> Vec<String> {
    let log = lab.nginx_log("server");
    log.lines()
        .filter(|line| line.contains("\" 200 "))
        .map(str::to_owned)
        .collect()
}

/// How often packets or requests were dropped for this reason.
pub(crate) fn drops(lab: &Lab, reason: &str) -> u64 {
    status(lab)["drops"][reason].as_u64().unwrap_or(0)
}

pub(crate) fn revision(lab: &Lab) -> u64 {
    status(lab)["policy"]["revision"].as_u64().unwrap()
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20) * slower().unwrap();
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: it did not come to that");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Puts another policy in the place of the present one, as an editor does, and waits until it is in force.
#[track_caller]
pub(crate) fn replace_policy(lab: &Lab, text: &str) {
    let before = revision(lab);
    write_policy(lab, text);
    until("the new policy is in force", || revision(lab) > before);
}

pub(crate) fn write_policy(lab: &Lab, text: &str) {
    let dir = lab.dir().join("policies");
    std::fs::write(dir.join(".policy.yaml.new"), text).unwrap();
    std::fs::rename(dir.join(".policy.yaml.new"), dir.join("policy.yaml")).unwrap();
}
