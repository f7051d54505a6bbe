//! The others, configured to do the same: transparent redirect on the node, original destination, the same rules.
//!
//! Envoy and `HAProxy` get connections by TPROXY and find the destination in them, as Cilium does it. nginx cannot, so it
//! gets them by NAT and has the server's address written down. dnsdist gets queries by NAT.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use seventh::lab::Lab;

use crate::rules;

/// On the node: HTTP arrives here, TLS there, DNS at the third, bulk uploads through nginx at the fourth.
const HTTP_PORT: u16 = 15001;
const TLS_PORT: u16 = 15002;
const DNS_PORT: u16 = 15053;
const UPLOAD_PORT: u16 = 15003;
/// How long a proxy may take to listen.
const READY_MAX: Duration = Duration::from_secs(20);
/// Connections that a proxy must be able to hold.
const CONNECTIONS_MAX: u32 = 15_000;

/// Where each program is.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) seventh: PathBuf,
    pub(crate) envoy: PathBuf,
}

/// Starts Envoy; its process id.
pub(crate) fn start_envoy(lab: &mut Lab, envoy: &Path, workers: u32) -> Result<u32> {
    let config = lab.dir().join("envoy.yaml");
    fs::write(&config, envoy_config())?;
    let mut command = lab.node_command(envoy);
    command
        .args(["--disable-hot-restart", "--log-level", "error", "--concurrency"])
        .arg(workers.to_string())
        .arg("-c")
        .arg(&config);
    divert(lab)?;
    start(lab, "envoy", command, &[HTTP_PORT, TLS_PORT])
}

/// Starts `HAProxy`; its process id.
pub(crate) fn start_haproxy(lab: &mut Lab) -> Result<u32> {
    let config = lab.dir().join("haproxy.cfg");
    fs::write(&config, haproxy_config())?;
    let mut command = lab.node_command("haproxy");
    command.args(["-db", "-f"]).arg(&config);
    divert(lab)?;
    start(lab, "haproxy", command, &[HTTP_PORT, TLS_PORT])
}

/// Starts nginx as a proxy; its process id.
pub(crate) fn start_nginx(lab: &mut Lab, server: Ipv4Addr) -> Result<u32> {
    let dir = lab.dir().join("nginx-proxy");
    fs::create_dir_all(&dir)?;
    let config = dir.join("nginx.conf");
    fs::write(&config, nginx_config(&dir, server))?;
    let mut command = lab.node_command("nginx");
    command.arg("-c").arg(&config).arg("-e").arg(dir.join("error.log"));
    nft(
        lab,
        &format!(
            "table ip bench {{ chain to_proxy {{ type nat hook prerouting priority -100;\n\
             iifname \"v-client\" tcp dport 8080 redirect to :{HTTP_PORT}\n\
             iifname \"v-client\" tcp dport 8081 redirect to :{UPLOAD_PORT}\n}}\n}}\n"
        ),
    )?;
    start(lab, "nginx", command, &[HTTP_PORT, UPLOAD_PORT])
}

/// Starts dnsdist as a forwarder; its process id.
pub(crate) fn start_dnsdist(lab: &mut Lab, server: Ipv4Addr) -> Result<u32> {
    let config = lab.dir().join("dnsdist.conf");
    let pattern = format!("^[^.]+\\\\.{}$", rules::DNS_SUFFIX.replace('.', "\\\\."));
    let text = format!(
        "setLocal('0.0.0.0:{DNS_PORT}')\nsetACL({{'0.0.0.0/0'}})\nsetSecurityPollSuffix('')\n\
         newServer({{address='{server}:53', healthCheckMode='up'}})\n\
         addAction(NotRule(OrRule({{RegexRule('{pattern}'), QNameRule('shop.test')}})), RCodeAction(DNSRCode.REFUSED))\n"
    );
    fs::write(&config, text)?;
    let mut command = lab.node_command("dnsdist");
    command.args(["--supervised", "--disable-syslog", "-C"]).arg(&config);
    nft(
        lab,
        &format!(
            "table ip bench {{ chain to_proxy {{ type nat hook prerouting priority -100;\n\
             iifname \"v-client\" udp dport 53 redirect to :{DNS_PORT}\n}}\n}}\n"
        ),
    )?;
    start(lab, "dnsdist", command, &[DNS_PORT])
}

fn start(lab: &mut Lab, name: &str, mut command: Command, ports: &[u16]) -> Result<u32> {
    let log_path = lab.dir().join(format!("{name}.log"));
    let log = fs::File::create(&log_path)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command
        .spawn()
        .with_context(|| format!("{name}; ./seventh-dev setup installs it"))?;
    let deadline = Instant::now() + READY_MAX;
    for &port in ports {
        let address = (Ipv4Addr::LOCALHOST, port);
        while lab.run_on_node(move || std::net::TcpStream::connect(address).is_err())? {
            let ended = child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(&log_path).unwrap_or_default();
                bail!("{name} does not listen on port {port}:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let pid = child.id();
    lab.adopt(name, child);
    Ok(pid)
}

/// Has the client's connections end in the proxy, by TPROXY.
fn divert(lab: &Lab) -> Result<()> {
    // Connections that the proxy has closed wait in the node's namespace for a minute; early demultiplexing would hand
    // them packets of later connections with the same ports, which are only to be forwarded.
    let output = lab
        .node_command("sysctl")
        .args(["-q", "-w", "net.ipv4.tcp_early_demux=0"])
        .output()?;
    ensure!(
        output.status.success(),
        "sysctl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    lab.node_ip("rule add fwmark 1 lookup 100")?;
    lab.node_ip("route add local 0.0.0.0/0 dev lo table 100")?;
    nft(
        lab,
        &format!(
            "table ip bench {{ chain divert {{ type filter hook prerouting priority -150;\n\
             iifname \"v-client\" tcp dport {{ 8080, 8081 }} tproxy to :{HTTP_PORT} meta mark set 1 accept\n\
             iifname \"v-client\" tcp dport 8443 tproxy to :{TLS_PORT} meta mark set 1 accept\n}}\n}}\n"
        ),
    )
}

fn nft(lab: &Lab, rules: &str) -> Result<()> {
    let file = lab.dir().join("nft.rules");
    fs::write(&file, rules)?;
    let output = lab
        .node_command("nft")
        .arg("-f")
        .arg(&file)
        .output()
        .context("nft; ./seventh-dev setup installs it")?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Headers as Cilium's own translation of HTTP rules matches them.
fn envoy_config() -> String {
    let mut policies = String::new();
    for (n, rule) in rules::HTTP.iter().enumerate() {
        let header = |name: &str, pattern: &str| {
            format!("{{header: {{name: '{name}', string_match: {{safe_regex: {{regex: '{pattern}'}}}}}}}}")
        };
        let _ = writeln!(
            policies,
            "                  r{n:02}: {{principals: [{{any: true}}], permissions: [{{and_rules: {{rules: [{}, {}]}}}}]}}",
            header(":method", rule.method),
            header(":path", rule.path),
        );
    }
    let extension = "type.googleapis.com/envoy.extensions";
    format!(
        "static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 0.0.0.0, port_value: {HTTP_PORT}}}}}
    transparent: true
    listener_filters:
    - name: original_dst
      typed_config: {{'@type': {extension}.filters.listener.original_dst.v3.OriginalDst}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': {extension}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: original, timeout: 0s}}}}]}}
          http_filters:
          - name: rbac
            typed_config:
              '@type': {extension}.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
{policies}          - name: router
            typed_config: {{'@type': {extension}.filters.http.router.v3.Router}}
  - name: tls
    address: {{socket_address: {{address: 0.0.0.0, port_value: {TLS_PORT}}}}}
    transparent: true
    listener_filters:
    - name: original_dst
      typed_config: {{'@type': {extension}.filters.listener.original_dst.v3.OriginalDst}}
    - name: tls_inspector
      typed_config: {{'@type': {extension}.filters.listener.tls_inspector.v3.TlsInspector}}
    filter_chains:
    - filter_chain_match: {{server_names: {names:?}}}
      filters:
      - name: tcp
        typed_config:
          '@type': {extension}.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tls
          cluster: original
  clusters:
  - name: original
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    circuit_breakers:
      thresholds:
      - {{max_connections: {CONNECTIONS_MAX}, max_pending_requests: {CONNECTIONS_MAX}, max_requests: {CONNECTIONS_MAX}}}
",
        names = rules::SERVER_NAMES,
    )
}

fn haproxy_config() -> String {
    let mut allow = String::new();
    for rule in rules::HTTP {
        let _ = writeln!(
            allow,
            "  http-request allow if {{ method -m reg ^({})$ }} {{ path -m reg ^{}$ }}",
            rule.method,
            rule.path.replace('\\', "\\\\")
        );
    }
    format!(
        "global\n  nbthread 1\n  no strict-limits\n  maxconn {CONNECTIONS_MAX}\n\
         defaults\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n  maxconn {CONNECTIONS_MAX}\n\
         frontend http\n  mode http\n  bind 0.0.0.0:{HTTP_PORT} transparent\n{allow}  http-request deny\n  \
         default_backend original\n\
         backend original\n  mode http\n  http-reuse safe\n  server original 0.0.0.0\n\
         frontend tls\n  mode tcp\n  bind 0.0.0.0:{TLS_PORT} transparent\n  tcp-request inspect-delay 5s\n  \
         tcp-request content accept if {{ req.ssl_sni -i {names} }}\n  \
         tcp-request content reject if {{ req.ssl_hello_type 1 }}\n  default_backend original_tls\n\
         backend original_tls\n  mode tcp\n  server original 0.0.0.0\n",
        names = rules::SERVER_NAMES.join(" "),
    )
}

fn nginx_config(dir: &Path, server: Ipv4Addr) -> String {
    let locations = |upstream: &str| {
        let mut text = String::new();
        for rule in rules::HTTP {
            let _ = writeln!(
                text,
                "location ~ \"^{}$\" {{ if ($request_method !~ \"^({})$\") {{ return 403; }} proxy_pass http://{upstream}; }}",
                rule.path, rule.method
            );
        }
        text
    };
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
 events {{ worker_connections {CONNECTIONS_MAX}; }}\n\
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
         fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         keepalive_requests 100000000; client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         upstream small {{ server {server}:8080; keepalive 64; keepalive_requests 100000000; }}\n\
         upstream sink {{ server {server}:8081; keepalive 64; keepalive_requests 100000000; }}\n\
         server {{ listen {HTTP_PORT}; location / {{ return 403; }}\n{small} }}\n\
         server {{ listen {UPLOAD_PORT}; location / {{ return 403; }}\n{sink} }} }}\n",
        dir = dir.display(),
        small = locations("small"),
        sink = locations("sink"),
    )
}
