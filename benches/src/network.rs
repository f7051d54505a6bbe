//! One network: a client, a server, and what stands between them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use seventh::lab::Lab;

use crate::{
    bulk,
    cost::{self, Meter},
    dnsperf, h2load,
    load::{Kind, Load, Sample},
    proxies::{self, Programs},
    resolve, rules,
    way::Way,
    wrk,
};

const MTU: u32 = 1500;
const HTTP_PORT: u16 = 8080;
const DNS_PORT: u16 = 53;
const SINK_PORT: u16 = 8081;
const TLS_PORT: u16 = 8443;
/// Runs a command with a hosts file of our own: `ip netns exec` has given it a mount namespace.
const WITH_HOSTS: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Of one run of wrk and dnsperf.
    pub(crate) seconds: u64,
    /// Of one bulk transfer.
    pub(crate) bulk_bytes: u64,
}

/// A network that stands until it is dropped.
pub(crate) struct Network {
    pub(crate) way: Way,
    lab: Lab,
    enforcer: Option<u32>,
    server: Ipv4Addr,
    client: Ipv4Addr,
    bulk_bytes: u64,
}

impl Network {
    /// Builds it, starts servers and enforcer, and sees that what is to be denied is denied.
    pub(crate) fn build(way: Way, programs: &Programs, scale: Scale) -> Result<Network> {
        let lab = Lab::new(&[("client", "client"), ("server", "server")], MTU)?;
        let address = |name| lab.endpoint(name).map(|endpoint| endpoint.ipv4);
        let mut network = Network {
            way,
            server: address("server")?,
            client: address("client")?,
            enforcer: None,
            bulk_bytes: scale.bulk_bytes,
            lab,
        };
        network.tune()?;
        network.start_servers()?;
        network.enforcer = network.enforce(programs)?;
        for kind in [Kind::Http, Kind::Tls, Kind::Dns] {
            if way.handles(kind) {
                network.check(kind)?;
            }
        }
        Ok(network)
    }

    /// The same settings for all: many connections one after the other from one address.
    fn tune(&self) -> Result<()> {
        let set = |mut command: Command, settings: &[&str]| -> Result<()> {
            let output = command.args(["-q", "-w"]).args(settings).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "sysctl: {said}");
            Ok(())
        };
        let client = self.lab.endpoint("client")?.command("sysctl");
        set(
            client,
            &["net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=2000 65000"],
        )?;
        let server = self.lab.endpoint("server")?.command("sysctl");
        set(server, &["net.core.somaxconn=4096"])?;
        set(
            self.lab.node_command("sysctl"),
            &["net.ipv4.tcp_early_demux=0", "net.core.somaxconn=4096"],
        )
    }

    fn start_servers(&mut self) -> Result<()> {
        self.lab.certify(rules::SERVER_NAMES)?;
        let dir = self.lab.dir().to_path_buf();
        fs::create_dir_all(dir.join("download"))?;
        fs::File::create(dir.join(&rules::DOWNLOAD_PATH[1..]))?.set_len(self.bulk_bytes)?;
        fs::write(
            dir.join("hosts"),
            format!("{} {}\n", self.server, rules::SERVER_NAMES.join(" ")),
        )?;
        fs::write(dir.join("questions"), rules::questions())?;
        fs::write(
            dir.join("nginx.conf"),
            format!(
                "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
 events {{ worker_connections 15000; }}\n\
                 http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
                 fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
                 keepalive_requests 100000000; sendfile on; server_tokens off;\n\
                 server {{ listen {HTTP_PORT} backlog=4096; root {dir}; location /download/ {{ }}\n\
                 location / {{ return 200 \"hello\\n\"; }} }}\n\
                 server {{ listen {TLS_PORT} ssl backlog=4096; ssl_certificate {dir}/server.pem;\n\
                 ssl_certificate_key {dir}/server.key; ssl_protocols TLSv1.3; ssl_session_tickets off;\n\
                 location / {{ return 200 \"hello\\n\"; }} }} }}\n",
                dir = dir.display(),
            ),
        )?;
        let mut command = self.lab.endpoint("server")?.command("nginx");
        command
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .arg("-e")
            .arg(dir.join("error.log"));
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nginx")?;
        self.lab.adopt("server", child);
        self.lab.endpoint("server")?.start(|| -> std::io::Result<()> {
            bulk::serve_sink(&bulk::listen(SINK_PORT)?);
            Ok(())
        })?;
        for port in [HTTP_PORT, SINK_PORT, TLS_PORT] {
            self.wait_for(port)?;
        }
        if self.way.handles(Kind::Dns) {
            self.lab.start_unbound("server", &rules::zone())?;
        }
        Ok(())
    }

    fn wait_for(&self, port: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let server = self.lab.endpoint("server")?;
        while server.run(move || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err())? {
            ensure!(
                Instant::now() < deadline,
                "nothing listens on port {port} of the server"
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The process id of what enforces.
    fn enforce(&mut self, programs: &Programs) -> Result<Option<u32>> {
        let policy = match self.way {
            Way::None => return Ok(None),
            Way::SeventhL4 => rules::http_policy(false),
            Way::SeventhHttp => rules::http_policy(true),
            Way::SeventhTls => rules::tls_policy(),
            Way::SeventhDns => rules::dns_policy(),
            Way::SeventhAudit => rules::audit_policy(),
            Way::Envoy1 => return proxies::start_envoy(&mut self.lab, &programs.envoy, 1).map(Some),
            Way::Envoy2 => return proxies::start_envoy(&mut self.lab, &programs.envoy, 2).map(Some),
            Way::Haproxy => return proxies::start_haproxy(&mut self.lab).map(Some),
            Way::Nginx => return proxies::start_nginx(&mut self.lab, self.server).map(Some),
            Way::Dnsdist => return proxies::start_dnsdist(&mut self.lab, self.server).map(Some),
        };
        let audit = if self.way == Way::SeventhAudit {
            "audit: true\n"
        } else {
            ""
        };
        self.lab.start_agent(&programs.seventh, &policy, audit).map(Some)
    }

    /// What is allowed passes and what is not does not: numbers of an enforcer that does not enforce say nothing.
    fn check(&self, kind: Kind) -> Result<()> {
        let denies = self.way.denies();
        match kind {
            Kind::Http => {
                let status = self.http_status(rules::ALLOWED_PATH)?;
                ensure!(status == "200", "the allowed request is answered by {status}");
                let expected = if self.way.judges_requests() { "403" } else { "200" };
                let status = self.http_status(rules::DENIED_PATH)?;
                ensure!(
                    status == expected,
                    "GET {}: {status} instead of {expected}",
                    rules::DENIED_PATH
                );
            }
            Kind::Tls => {
                let ok = self.tls_works(rules::ALLOWED_SERVER)?;
                ensure!(ok, "the allowed handshake fails");
                let passes = self.tls_works(rules::DENIED_SERVER)?;
                ensure!(passes != denies, "a handshake for another name passes: {passes}");
            }
            Kind::Dns => {
                let name = format!("n1.{}", rules::DNS_SUFFIX);
                let status = self.dns_status(&name)?;
                ensure!(status == "NOERROR", "the allowed query is answered by {status}");
                let status = self.dns_status("denied.test")?;
                ensure!(
                    (status == "REFUSED") == denies,
                    "a query for another name is answered by {status}"
                );
            }
        }
        Ok(())
    }

    /// One run, with what it cost.
    pub(crate) fn measure(&self, load: Load, meter: &Meter, scale: Scale) -> Result<Sample> {
        let spent = || -> Result<(f64, Option<f64>)> {
            Ok((meter.total()?, self.enforcer.map(cost::process_cpu).transpose()?))
        };
        let before = spent()?;
        // Connections that are held stay until their memory has been read.
        let mut held = Vec::new();
        let mut sample = match load {
            Load::KeepAlive(connections) => self.wrk(connections, true, scale.seconds),
            Load::Paced(rate) => self.h2load(rate, scale.seconds),
            Load::Close(connections) => self.wrk(connections, false, scale.seconds),
            Load::Tls(connections) => self.wrk_tls(connections, scale.seconds),
            Load::Dns(1) => self.resolve(scale.seconds),
            Load::Dns(outstanding) => self.dnsperf(outstanding, scale.seconds),
            Load::Download => self.transfer(HTTP_PORT, rules::DOWNLOAD_PATH, bulk::download),
            Load::Upload => self.transfer(SINK_PORT, rules::UPLOAD_PATH, bulk::upload),
            Load::Held(count) => {
                let begin = Instant::now();
                let to = SocketAddr::from((self.server, HTTP_PORT));
                let hold = move || bulk::hold(to, rules::ALLOWED_PATH, count);
                held = self.lab.endpoint("client")?.run(hold)??;
                Ok(Sample {
                    amount: f64::from(count),
                    seconds: begin.elapsed().as_secs_f64(),
                    ..Sample::default()
                })
            }
        }?;
        let after = spent()?;
        sample.system_cpu = after.0 - before.0;
        sample.enforcer_cpu = before.1.zip(after.1).map(|(before, after)| after - before);
        sample.enforcer_mib = self.enforcer.map(cost::process_mib).transpose()?;
        drop(held);
        Ok(sample)
    }

    fn wrk(&self, connections: u32, keep_alive: bool, seconds: u64) -> Result<Sample> {
        let mut command = self.lab.endpoint("client")?.command("wrk");
        command.args(wrk::arguments(connections, keep_alive, seconds));
        command.arg(format!("http://{}:{HTTP_PORT}{}", self.server, rules::ALLOWED_PATH));
        wrk::parse(&said(command)?)
    }

    fn h2load(&self, rate: u32, seconds: u64) -> Result<Sample> {
        let log = self.lab.dir().join("h2load.log");
        let mut command = self.lab.endpoint("client")?.command("h2load");
        command.args(h2load::arguments(rate, seconds));
        command.arg(format!("--log-file={}", log.display()));
        command.arg(format!("http://{}:{HTTP_PORT}{}", self.server, rules::ALLOWED_PATH));
        let report = said(command)?;
        let requests = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        fs::remove_file(&log)?;
        h2load::parse(&report, &requests)
    }

    fn wrk_tls(&self, connections: u32, seconds: u64) -> Result<Sample> {
        let mut command = self.lab.endpoint("client")?.command("sh");
        command
            .args(["-c", WITH_HOSTS])
            .arg(self.lab.dir().join("hosts"))
            .arg("wrk");
        command.args(wrk::arguments(connections, false, seconds));
        command.arg(format!("https://{}:{TLS_PORT}/", rules::ALLOWED_SERVER));
        wrk::parse(&said(command)?)
    }

    fn resolve(&self, seconds: u64) -> Result<Sample> {
        let server = SocketAddr::from((self.server, DNS_PORT));
        let questions = rules::questions();
        let names = questions.lines().filter_map(|line| line.split(' ').next());
        let names: Vec<String> = names.map(str::to_owned).collect();
        self.lab
            .endpoint("client")?
            .run(move || resolve::ask(server, &names, seconds))?
    }

    fn dnsperf(&self, outstanding: u32, seconds: u64) -> Result<Sample> {
        let mut command = self.lab.endpoint("client")?.command("dnsperf");
        command.args(["-s", &self.server.to_string(), "-a", &self.client.to_string()]);
        command.args([
            "-l",
            &seconds.to_string(),
            "-q",
            &outstanding.to_string(),
            "-c",
            "1",
            "-T",
            "1",
        ]);
        command.arg("-d").arg(self.lab.dir().join("questions"));
        dnsperf::parse(&said(command)?)
    }

    fn transfer(
        &self,
        port: u16,
        path: &'static str,
        transfer: fn(SocketAddr, &str, u64) -> Result<Duration>,
    ) -> Result<Sample> {
        let (to, bytes) = (SocketAddr::from((self.server, port)), self.bulk_bytes);
        let took = self.lab.endpoint("client")?.run(move || transfer(to, path, bytes))??;
        Ok(Sample {
            amount: bytes as f64 / 1e6,
            seconds: took.as_secs_f64(),
            ..Sample::default()
        })
    }

    fn http_status(&self, path: &str) -> Result<String> {
        let mut curl = self.curl()?;
        curl.args(["-w", "%{http_code}"])
            .arg(format!("http://{}:{HTTP_PORT}{path}", self.server));
        Ok(String::from_utf8_lossy(&curl.output()?.stdout).into_owned())
    }

    fn tls_works(&self, name: &str) -> Result<bool> {
        let mut curl = self.curl()?;
        curl.args(["-k", "--resolve", &format!("{name}:{TLS_PORT}:{}", self.server)]);
        curl.arg(format!("https://{name}:{TLS_PORT}/"));
        Ok(curl.output()?.status.success())
    }

    fn curl(&self) -> Result<Command> {
        let mut curl = self.lab.endpoint("client")?.command("curl");
        curl.args(["-s", "-o", "/dev/null", "--max-time", "5"]);
        Ok(curl)
    }

    fn dns_status(&self, name: &str) -> Result<String> {
        let mut dig = self.lab.endpoint("client")?.command("dig");
        dig.args(["+tries=1", "+time=2", &format!("@{}", self.server), name, "A"]);
        let text = said(dig)?;
        let status = text.split_once("status: ").and_then(|(_, rest)| rest.split(',').next());
        Ok(status.unwrap_or("nothing").to_owned())
    }
}

/// What a program wrote; an error if it failed.
fn said(mut command: Command) -> Result<String> {
    let program = format!("{:?}", command.get_program());
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().collect();
        bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
