//! The demo's TLS scene: handshakes with names that are allowed, denied and missing.

use std::{path::Path, process::Command};

use anstream::println;
use anyhow::{Context as _, Result};

use crate::{
    demo::{DIM, PATIENCE_S, Rows},
    lab::Lab,
};

/// The policy of this scene.
pub(crate) const POLICY: &str = include_str!("../../../deploy/examples/tls.yaml");
/// What the server has a certificate for: what it would answer to must not be what decides.
pub(crate) const CERTIFIED: &[&str] = &["shop.example.test", "img.cdn.example.test", "secret.example.test"];

struct Scene {
    what: &'static str,
    name: &'static str,
    args: &'static [&'static str],
    expected: &'static str,
}

const SCENES: &[Scene] = &[
    Scene {
        what: "TLS 1.3 for shop.example.test",
        name: "shop.example.test",
        args: &["--tlsv1.3"],
        expected: "200",
    },
    Scene {
        what: "TLS 1.2 for img.cdn.example.test",
        name: "img.cdn.example.test",
        args: &["--tls-max", "1.2"],
        expected: "200",
    },
    Scene {
        what: "TLS for secret.example.test: no rule for this name",
        name: "secret.example.test",
        args: &[],
        expected: "unrecognized name",
    },
    Scene {
        what: "TLS without a name",
        name: "",
        args: &["-k"],
        expected: "unrecognized name",
    },
];

/// Plays it; how many verdicts were not as expected.
pub(crate) fn play(lab: &Lab, authority: &Path) -> Result<usize> {
    println!(
        "\nServer names (deploy/examples/tls.yaml):\n\n{DIM}{}{DIM:#}\n",
        POLICY.trim_end()
    );
    let rows = Rows { width: 18 };
    rows.head("HANDSHAKE WITH server:443");
    let mut wrong = 0;
    for scene in SCENES {
        let good = rows.row("client", scene.what, scene.expected, || {
            handshake(lab, authority, scene)
        })?;
        wrong += usize::from(!good);
    }
    Ok(wrong)
}

/// The status code, or what the client says of the failure.
fn handshake(lab: &Lab, authority: &Path, scene: &Scene) -> Result<String> {
    let (client, server) = (lab.endpoint("client")?, lab.endpoint("server")?);
    let mut command: Command = client.command("curl");
    command.args([
        "-sS",
        "--max-time",
        PATIENCE_S,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} ",
        "--cacert",
    ]);
    command.arg(authority).args(scene.args);
    if scene.name.is_empty() {
        // For an address a client sends no name (RFC 6066 §3).
        command.arg(format!("https://{}/", server.ipv4));
    } else {
        command.args(["--resolve", &format!("{}:443:{}", scene.name, server.ipv4)]);
        command.arg(format!("https://{}/", scene.name));
    }
    let output = command.output().context("curl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(if said.contains("unrecognized name") {
        "unrecognized name".to_owned()
    } else if output.status.success() {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    } else {
        said.trim().to_owned()
    })
}
