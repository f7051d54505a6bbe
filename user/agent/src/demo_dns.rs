//! The demo's DNS scene: names that may be asked for and names that may not, and connections to what was resolved.

use std::process::Command;

use anstream::println;
use anyhow::{Context as _, Result};

use crate::{
    demo::{DIM, PATIENCE_S, Rows},
    lab::{Lab, OUTSIDE},
};

/// The policy of this scene.
pub(crate) const POLICY: &str = include_str!("../../../deploy/examples/dns.yaml");
/// Its endpoints: who asks, who answers, and the world outside, which the agent does not know.
pub(crate) const CAST: &[(&str, &str)] = &[("shopper", "shopper"), ("resolver", "resolver"), ("outside", OUTSIDE)];

const WORLD: &str = "198.18.0.0/24";
const ZONE: &str = "
    www.shop.test. 60 IN A 198.18.0.1
    partner.test. 60 IN A 198.18.0.2
    secret.test. 60 IN A 198.18.0.3
";

struct Scene {
    what: &'static str,
    act: Act,
    expected: &'static str,
}

enum Act {
    /// Asks for the addresses of a name, over TCP if so.
    Resolve(&'static str, bool),
    /// GET of this URL.
    Get(&'static str),
}

const SCENES: &[Scene] = &[
    Scene {
        what: "GET http://198.18.0.1:8080: nobody has resolved it",
        act: Act::Get("http://198.18.0.1:8080/"),
        expected: "no connection",
    },
    Scene {
        what: "which address has www.shop.test?",
        act: Act::Resolve("www.shop.test", false),
        expected: "198.18.0.1",
    },
    Scene {
        what: "GET http://198.18.0.1:8080: at once after the answer",
        act: Act::Get("http://198.18.0.1:8080/"),
        expected: "200",
    },
    Scene {
        what: "which address has secret.test? no rule for this name",
        act: Act::Resolve("secret.test", false),
        expected: "REFUSED",
    },
    Scene {
        what: "the same over TCP",
        act: Act::Resolve("secret.test", true),
        expected: "REFUSED",
    },
    Scene {
        what: "GET http://198.18.0.3:8080: the address of secret.test",
        act: Act::Get("http://198.18.0.3:8080/"),
        expected: "no connection",
    },
    Scene {
        what: "which address has partner.test? over TCP",
        act: Act::Resolve("partner.test", true),
        expected: "198.18.0.2",
    },
    Scene {
        what: "GET http://198.18.0.2:8080",
        act: Act::Get("http://198.18.0.2:8080/"),
        expected: "200",
    },
];

/// Starts the resolver and the world outside.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    lab.start_unbound("resolver", ZONE)?;
    lab.start_nginx("outside", None)?;
    lab.play_outside("outside", WORLD)
}

/// Plays it; how many verdicts were not as expected.
pub(crate) fn play(lab: &Lab) -> Result<usize> {
    println!(
        "\nNames (deploy/examples/dns.yaml):\n\n{DIM}{}{DIM:#}\n",
        POLICY.trim_end()
    );
    let rows = Rows { width: 18 };
    rows.head("QUESTION OR REQUEST");
    let mut wrong = 0;
    for scene in SCENES {
        let good = rows.row("shopper", scene.what, scene.expected, || match scene.act {
            Act::Resolve(name, over_tcp) => resolve(lab, name, over_tcp),
            Act::Get(url) => get(lab, url),
        })?;
        wrong += usize::from(!good);
    }
    Ok(wrong)
}

/// The addresses, or how the question was refused.
fn resolve(lab: &Lab, name: &str, over_tcp: bool) -> Result<String> {
    let server = format!("@{}", lab.endpoint("resolver")?.ipv4);
    let mut command: Command = lab.endpoint("shopper")?.command("dig");
    command.args([
        "+tries=1",
        "+noall",
        "+comments",
        "+answer",
        "+time=1",
        &server,
        name,
        "A",
    ]);
    if over_tcp {
        command.arg("+tcp");
    }
    let output = command.output().context("dig")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let addresses: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with(';'))
        .filter_map(|line| line.split_whitespace().nth(4))
        .collect();
    if !addresses.is_empty() {
        return Ok(addresses.join(" "));
    }
    let status = text.split_once("status: ").and_then(|(_, rest)| rest.split(',').next());
    Ok(status.unwrap_or("no answer").to_owned())
}

fn get(lab: &Lab, url: &str) -> Result<String> {
    let mut command: Command = lab.endpoint("shopper")?.command("curl");
    command.args([
        "-s",
        "--max-time",
        PATIENCE_S,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        url,
    ]);
    let output = command.output().context("curl")?;
    let code = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(if code == "000" {
        "no connection".to_owned()
    } else {
        code
    })
}
