//! One network: a client, a server with nginx, and what is enforced between them.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use seventh::lab::Lab;

use crate::wrk::{Load, Sample, parse};

const MTU: u32 = 1500;
/// What nginx answers; without a log, which would cost the server more than the network does.
const LOCATIONS: &str = "access_log off; location / { return 200 \"hello\\n\"; }";

/// What is enforced at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Enforcement {
    /// No agent runs.
    None,
    /// The port is allowed to the client, everything else denied.
    L4,
    /// The same, and five HTTP rules.
    Http,
}

impl Enforcement {
    /// In the order of the table.
    pub(crate) const ALL: &[Enforcement] = &[Enforcement::None, Enforcement::L4, Enforcement::Http];

    /// As the table names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Enforcement::None => "none",
            Enforcement::L4 => "L4 rule",
            Enforcement::Http => "HTTP rules",
        }
    }

    fn policy(self) -> Option<String> {
        let rules = match self {
            Enforcement::None => return None,
            Enforcement::L4 => "",
            Enforcement::Http => {
                r#"
          rules:
            http:
              - {method: GET, path: "/api/v[0-9]+/items(/[0-9]+)?"}
              - {method: POST, path: "/api/v[0-9]+/items"}
              - {method: "GET|HEAD", path: "/static/.*"}
              - {method: GET, path: "/health"}
              - {method: GET, path: "/users/[a-z0-9-]+/orders(/.*)?"}"#
            }
        };
        Some(format!(
            r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: server, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: server}}}}
  ingress:
    - fromEndpoints: [{{matchLabels: {{app: client}}}}]
      toPorts:
        - ports: [{{port: "8080", protocol: TCP}}]{rules}
"#
        ))
    }
}

/// A network that stands until it is dropped.
pub(crate) struct Setup {
    pub(crate) enforcement: Enforcement,
    lab: Lab,
    agent: Option<u32>,
}

impl Setup {
    /// Builds it, starts nginx and the agent, and sees that the policy is what it should be.
    pub(crate) fn build(enforcement: Enforcement, binary: &Path) -> Result<Setup> {
        let mut lab = Lab::new(&[("client", "client"), ("server", "server")], MTU)?;
        lab.start_nginx("server", Some(LOCATIONS))?;
        let agent = match enforcement.policy() {
            Some(policy) => Some(lab.start_agent(binary, &policy, "")?),
            None => None,
        };
        let setup = Setup {
            enforcement,
            lab,
            agent,
        };
        ensure!(
            setup.status("/api/v1/items/42")? == "200",
            "the allowed request is not answered"
        );
        let denied = setup.status("/admin")?;
        let expected = if enforcement == Enforcement::Http { "403" } else { "200" };
        ensure!(denied == expected, "GET /admin: {denied} instead of {expected}");
        Ok(setup)
    }

    /// One run of wrk, with the agent's own CPU time during it.
    pub(crate) fn measure(&self, load: Load, duration: Duration) -> Result<Sample> {
        let before = self.agent_cpu()?;
        let mut command = self.lab.endpoint("client")?.command("wrk");
        command.args([
            "-t1",
            "--latency",
            "-c",
            &load.connections.to_string(),
            "-d",
            &format!("{}s", duration.as_secs()),
        ]);
        if !load.keep_alive {
            command.args(["-H", "Connection: close"]);
        }
        let output = command
            .arg(self.url("/api/v1/items/42")?)
            .output()
            .context("wrk; ./seventh-dev setup installs it")?;
        ensure!(
            output.status.success(),
            "wrk: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let spent = self.agent_cpu()?.saturating_sub(before);
        let mut sample = parse(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("{} under {}", load.name(), self.enforcement.name()))?;
        sample.agent_cpu = spent;
        Ok(sample)
    }

    fn status(&self, path: &str) -> Result<String> {
        let mut curl = self.lab.endpoint("client")?.command("curl");
        curl.args(["-s", "-o", "/dev/null", "--max-time", "5", "-w", "%{http_code}"])
            .arg(self.url(path)?);
        Ok(String::from_utf8_lossy(&curl.output().context("curl")?.stdout).into_owned())
    }

    fn url(&self, path: &str) -> Result<String> {
        Ok(format!("http://{}:8080{path}", self.lab.endpoint("server")?.ipv4))
    }

    /// CPU time of the agent since it started.
    fn agent_cpu(&self) -> Result<Duration> {
        let Some(pid) = self.agent else {
            return Ok(Duration::ZERO);
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent has died")?;
        // The name in parentheses may hold spaces; user and system time are the 12th and 13th field after it.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat without a name")?;
        let ticks: u64 = fields
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?
            .and_then(|ticks| u64::try_from(ticks).ok())
            .unwrap_or(100);
        Ok(Duration::from_millis(ticks * 1000 / per_second.max(1)))
    }
}
