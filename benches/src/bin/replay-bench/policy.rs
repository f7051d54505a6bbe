//! One hundred rules for the clients of the capture.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Of each kind; together one hundred.
const HTTP_RULES: usize = 40;
const DNS_RULES: usize = 30;
const SERVER_NAMES: usize = 30;
/// Clients that become endpoints at most.
const CLIENTS_MAX: usize = 512;

/// The policy, and the endpoints that it governs.
pub(crate) struct Files {
    pub(crate) policy: PathBuf,
    pub(crate) endpoints: PathBuf,
}

/// Writes both.
pub(crate) fn write(dir: &Path, clients: &BTreeSet<IpAddr>) -> Result<Files> {
    let files = Files {
        policy: dir.join("policy.yaml"),
        endpoints: dir.join("endpoints.yaml"),
    };
    for (path, text) in [(&files.policy, policy()), (&files.endpoints, endpoints(clients))] {
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(files)
}

fn endpoints(clients: &BTreeSet<IpAddr>) -> String {
    let mut text = "endpoints:\n".to_owned();
    for (number, address) in clients.iter().take(CLIENTS_MAX).enumerate() {
        let _ = writeln!(
            text,
            "  - {{name: default/client-{number}, ips: [\"{address}\"], labels: {{app: client}}}}"
        );
    }
    text
}

/// Many rules of each kind that match nothing here, and one at the end that matches most, as long lists have it.
fn policy() -> String {
    let mut text =
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: bench, namespace: default}\nspec:\n  \
                    endpointSelector: {matchLabels: {app: client}}\n  egress:\n"
            .to_owned();
    let ports = |numbers: &[u16], protocol: &str| -> String {
        let port = |number: &u16| format!("{{port: \"{number}\", protocol: {protocol}}}");
        numbers.iter().map(port).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(
        text,
        "    - toPorts:\n        - ports: [{}]\n          rules:\n            http:",
        ports(&[80, 81, 3000, 8000, 8080, 8888], "TCP")
    );
    for number in 1..HTTP_RULES {
        let _ = writeln!(
            text,
            "              - {{method: 'GET|PUT', path: '/service-{number}/v[0-9]+/items(/[a-z0-9-]+)*'}}"
        );
    }
    text.push_str("              - {method: 'GET|HEAD|POST', path: '/.*'}\n");
    let _ = writeln!(
        text,
        "    - toPorts:\n        - ports: [{}]\n          rules:\n            dns:",
        ports(&[53], "ANY")
    );
    for number in 1..DNS_RULES {
        let _ = writeln!(
            text,
            "              - {{matchPattern: '*.service-{number}.example.test'}}"
        );
    }
    text.push_str("              - {matchPattern: '*'}\n");
    let names: Vec<String> = (1..SERVER_NAMES)
        .map(|number| format!("api-{number}.example.test"))
        .chain(["*.com".to_owned()])
        .collect();
    let _ = writeln!(
        text,
        "    - toPorts:\n        - ports: [{}]\n          serverNames: {names:?}",
        ports(&[443, 4433, 8443], "TCP")
    );
    text
}
