//! DNS in the lab: a resolver with names of its own, and addresses that lie outside the cluster.

use std::{fs, process::Stdio};

use anyhow::{Context as _, Result};

use crate::lab::Lab;

/// The port of [`Lab::start_unbound`].
const DNS_PORT: u16 = 53;

impl Lab {
    /// Starts unbound in an endpoint, on port 53 of all its addresses, and waits until it listens. `zone` is local data:
    /// each line a record, such as `www.shop.test. 60 IN A 192.0.2.1`. Names outside `test.` do not exist.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_unbound(&mut self, endpoint: &str, zone: &str) -> Result<()> {
        let dir = self.dir().join(format!("unbound-{endpoint}"));
        fs::create_dir_all(&dir)?;
        let data: Vec<String> = zone
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| format!("  local-data: '{line}'\n"))
            .collect();
        let config = format!(
            "server:\n  username: \"\"\n  chroot: \"\"\n  directory: \"{dir}\"\n  pidfile: \"{dir}/pid\"\n  use-syslog: no\n  \
             logfile: \"{dir}/log\"\n  do-daemonize: no\n  num-threads: 1\n  interface: 0.0.0.0\n  interface: ::0\n  \
             interface-automatic: yes\n  access-control: 0.0.0.0/0 allow\n  access-control: ::0/0 allow\n  module-config: \
             \"iterator\"\n  edns-tcp-keepalive: yes\n  local-zone: \".\" static\n  local-zone: \"test.\" \
             static\n{data}remote-control:\n  control-enable: no\n",
            dir = dir.display(),
            data = data.concat(),
        );
        fs::write(dir.join("unbound.conf"), config)?;
        let mut command = self.endpoint(endpoint)?.command("unbound");
        command.arg("-d").arg("-c").arg(dir.join("unbound.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot run unbound; install unbound")?;
        self.adopt(&format!("unbound-{endpoint}"), child);
        self.wait_until_listening(endpoint, DNS_PORT)
    }

    /// Has an endpoint answer for every address of a prefix that no endpoint has: to the others it is the world outside.
    ///
    /// # Errors
    /// A route cannot be set.
    pub fn play_outside(&self, endpoint: &str, prefix: &str) -> Result<()> {
        let player = self.endpoint(endpoint)?;
        player.ip(&format!("route add local {prefix} dev lo"))?;
        let gateway = if prefix.contains(':') {
            player.ipv6.to_string()
        } else {
            player.ipv4.to_string()
        };
        self.node_ip(&format!("route add {prefix} via {gateway}"))
    }
}
