//! A small network of this machine's own, for the demo, the live tests and the benches: a node in a network namespace,
//! and endpoints in namespaces around it, each joined to the node by a veth.
//!
//! Everything has a name that no other lab uses. A small process of its own, the keeper, takes it down when the [`Lab`]
//! is dropped or when the process that built it is gone, however it ended. Nothing leaves the namespaces. Uses `ip` of
//! iproute2.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long an agent may take to get ready.
const READY_MAX: Duration = Duration::from_secs(20);
/// How long a server may take until it listens.
const LISTEN_MAX: Duration = Duration::from_secs(5);
/// How long a process may take to end.
const END_MAX: Duration = Duration::from_secs(5);

/// How many times slower than a real one this machine is, as `SEVENTH_LAB_SLOWER` says: where the processor is emulated, what is
/// to happen in time has so much more of it. The verifier alone takes most of a minute there.
///
/// # Errors
/// That is no number.
pub fn slower() -> Result<u32> {
    Ok(std::env::var("SEVENTH_LAB_SLOWER").map_or(Ok(1), |times| times.parse())?)
}

static LABS: AtomicU32 = AtomicU32::new(0);

/// Waits until its input ends: the lab was dropped, or its process is gone. Then takes down the lab of this tag and
/// directory. Whatever still runs in its namespaces is the lab's.
const KEEPER: &str = r#"
trap '' HUP INT TERM
read -r _
for netns in $(ip netns list | sed -n "s/^\\($1-[^ ]*\\).*/\\1/p"); do
  for pid in $(ip netns pids "$netns"); do kill -9 "$pid"; done
  ip netns del "$netns"
done
umount -l "$2/bpf"
rm -rf "$2"
"#;

/// Takes a lab down when it is dropped, and outlives this process if need be.
#[derive(Debug)]
struct Keeper(Child);

impl Keeper {
    fn watch(tag: &str, dir: &Path) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper", tag]).arg(dir);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Ctrl-C is for us.
        let child = command.process_group(0).spawn().context("cannot run `sh`")?;
        Ok(Self(child))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A network namespace by name; the keeper removes it.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn create(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    fn ip(&self, command: &str) -> Result<()> {
        let mut args = vec!["-n", &self.name];
        args.extend(command.split_whitespace());
        ip(&args)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        // Ctrl-C is for us: we end our children ourselves, in order.
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<nix::Result<T>>> {
        let path = self.path();
        let file = fs::File::open(&path).with_context(|| path.display().to_string())?;
        Ok(thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).map(|()| job())
        }))
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match self.start(job)?.join() {
            Ok(result) => result.with_context(|| format!("cannot enter network namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("cannot run `ip`; install iproute2")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// One endpoint of the lab.
#[derive(Debug)]
pub struct LabEndpoint {
    /// Name inside namespace `default`; at most 12 bytes.
    pub name: String,
    /// Value of its label `app`.
    pub app: String,
    /// Device on the node.
    pub interface: String,
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    namespace: Namespace,
    number: u8,
    mtu: u32,
}

impl LabEndpoint {
    /// A command that runs inside the endpoint.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        self.namespace.path()
    }

    /// Both addresses.
    #[must_use]
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }

    /// Runs `job` on a thread that lives in the endpoint's network namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// As the job did.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.namespace.run(job)
    }

    /// As [`Self::run`], without waiting for it.
    ///
    /// # Errors
    /// The namespace is not there.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<nix::Result<T>>> {
        self.namespace.start(job)
    }

    /// Runs `ip` with these words inside the endpoint.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
    pub fn ip(&self, command: &str) -> Result<()> {
        self.namespace.ip(command)
    }
}

/// App of endpoints that the agent does not know: to it, they are the world outside.
pub const OUTSIDE: &str = "outside";

/// The node, its endpoints, and the processes started in them.
#[derive(Debug)]
pub struct Lab {
    processes: Vec<(String, Child)>,
    /// The endpoints, in the order they were asked for.
    pub endpoints: Vec<LabEndpoint>,
    node: Namespace,
    dir: PathBuf,
    confined: bool,
    _keeper: Keeper,
}

/// Runs its arguments as an agent runs on a node: these capabilities and no way to others, the root file system read-only
/// but for the lab's directory.
const CONFINED: &str = r#"
dir=$1 capabilities=$2; shift 2
mount --rbind "$dir" "$dir" && mount -o remount,bind,ro / || exit 2
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,"$capabilities" "$@"
"#;
/// What docs/kubernetes.md gives the agent of a host.
const OF_HOST: &str = "+bpf,+net_admin,+net_raw,+perfmon,+ipc_lock";
/// What it gives one of a cluster's nodes, which has to look into pods' namespaces.
const OF_NODE: &str = "+bpf,+net_admin,+net_raw,+perfmon,+ipc_lock,+sys_admin,+sys_ptrace";

impl Lab {
    /// Builds a node with these endpoints `(name, app)` and MTU.
    ///
    /// # Errors
    /// Not root, or a step failed; what was built is taken down.
    pub fn new(endpoints: &[(&str, &str)], mtu: u32) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root; try again with sudo"
        );
        let tag = format!("svd{}x{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("seventh-").tempdir()?.keep();
        let keeper = Keeper::watch(&tag, &dir)?;
        let mut lab = Self {
            processes: Vec::new(),
            endpoints: Vec::new(),
            node: Namespace::create(format!("{tag}-node"))?,
            dir,
            confined: false,
            _keeper: keeper,
        };
        lab.mount_bpffs()?;
        lab.forward()?;
        for (index, (name, app)) in (1..).zip(endpoints) {
            let endpoint = lab.join(&tag, index, name, app, mtu)?;
            lab.endpoints.push(endpoint);
        }
        Ok(lab)
    }

    fn mount_bpffs(&self) -> Result<()> {
        let path = self.dir.join("bpf");
        fs::create_dir(&path)?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a bpf file system; this kernel or container has no BPF")
    }

    fn forward(&self) -> Result<()> {
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.default.accept_dad=0",
        ] {
            let output = self.node.command("sysctl").args(["-q", "-w", setting]).output()?;
            ensure!(
                output.status.success(),
                "sysctl {setting}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn join(&self, tag: &str, number: u8, name: &str, app: &str, mtu: u32) -> Result<LabEndpoint> {
        let endpoint = LabEndpoint {
            name: name.to_owned(),
            app: app.to_owned(),
            interface: format!("v-{name}"),
            ipv4: Ipv4Addr::new(10, 0, number, 2),
            ipv6: Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, 2),
            namespace: Namespace::create(format!("{tag}-{name}"))?,
            number,
            mtu,
        };
        self.connect(&endpoint)?;
        Ok(endpoint)
    }

    fn connect(&self, endpoint: &LabEndpoint) -> Result<()> {
        let LabEndpoint {
            interface: outer,
            namespace: inner,
            number,
            mtu,
            ..
        } = endpoint;
        let pair = format!(
            "link add {outer} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            inner.name
        );
        self.node.ip(&pair)?;
        self.node.ip(&format!("addr add 10.0.{number}.1/24 dev {outer}"))?;
        let ipv6 = format!("addr add fd00:{number:x}::1/64 dev {outer} nodad");
        self.node.ip(&ipv6)?;
        self.node.ip(&format!("link set {outer} up"))?;
        inner.ip(&format!("addr add {}/24 dev eth0", endpoint.ipv4))?;
        inner.ip(&format!("addr add {}/64 dev eth0 nodad", endpoint.ipv6))?;
        inner.ip("link set eth0 up")?;
        inner.ip(&format!("route add default via 10.0.{number}.1"))?;
        inner.ip(&format!("route add default via fd00:{number:x}::1"))
    }

    /// Makes the devices of an endpoint anew, after its interface was removed.
    ///
    /// # Errors
    /// A step failed.
    pub fn rejoin(&self, name: &str) -> Result<()> {
        self.connect(self.endpoint(name)?)
    }

    /// Takes an endpoint's network namespace away, with its devices and everything that runs in it.
    ///
    /// # Errors
    /// There is none of this name, or a step failed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let endpoint = self.endpoint(name)?;
        let namespace = &endpoint.namespace.name;
        let pids = Command::new("ip").args(["netns", "pids", namespace]).output()?;
        for pid in String::from_utf8_lossy(&pids.stdout).lines() {
            // Threads of tests are no processes of the namespace; one that is gone already is gone.
            let _ = kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL);
        }
        ip(&["netns", "del", namespace])
    }

    /// Agents that are started from now on have the least privileges that they need.
    pub fn confine(&mut self) {
        self.confined = true;
    }

    /// The endpoint of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn endpoint(&self, name: &str) -> Result<&LabEndpoint> {
        self.endpoints
            .iter()
            .find(|e| e.name == name)
            .with_context(|| format!("the lab has no endpoint `{name}`"))
    }

    /// A directory that goes with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where an agent of this lab pins.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.dir.join("bpf/seventh")
    }

    /// Socket of the lab's agent.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("seventh.sock")
    }

    /// Configuration of the lab's agent: all endpoints but those of the app [`OUTSIDE`], policies from `policies/` beside it. `more` is added as it is.
    #[must_use]
    pub fn agent_config(&self, more: &str) -> String {
        let mut text = format!(
            "node: lab\npolicyDirs: [policies]\napi: {}\nbpffs: {}\n{more}\nendpoints:\n",
            self.socket().display(),
            self.pin_dir().display()
        );
        for e in self.endpoints.iter().filter(|e| e.app != OUTSIDE) {
            let _ = writeln!(
                text,
                "  - {{name: default/{}, labels: {{app: {}}}, interface: {}, ips: [\"{}\", \"{}\"]}}",
                e.name, e.app, e.interface, e.ipv4, e.ipv6
            );
        }
        text
    }

    /// Writes configuration and policies and starts an agent on the node; returns when it is ready.
    ///
    /// # Errors
    /// It did not get ready in time; the error holds the end of its log.
    pub fn start_agent(&mut self, binary: &Path, policy: &str, more_config: &str) -> Result<u32> {
        fs::create_dir_all(self.dir().join("policies"))?;
        fs::write(self.dir().join("policies/policy.yaml"), policy)?;
        fs::write(self.dir().join("config.yaml"), self.agent_config(more_config))?;
        self.launch_agent(binary)
    }

    /// Starts an agent with the files that are there; returns its process id when it is ready.
    ///
    /// # Errors
    /// As [`Self::start_agent`].
    pub fn launch_agent(&mut self, binary: &Path) -> Result<u32> {
        self.launch_agent_with(binary, &[])
    }

    /// As [`Self::launch_agent`], with more flags.
    ///
    /// # Errors
    /// As [`Self::start_agent`].
    pub fn launch_agent_with(&mut self, binary: &Path, flags: &[&str]) -> Result<u32> {
        let pid = self.begin(binary, flags, "info,seventh=debug")?;
        let deadline = Instant::now() + READY_MAX * slower()?;
        while !self.agent_is_ready(binary) {
            let exited = self.exited("agent")?;
            if exited || Instant::now() > deadline {
                self.forget("agent");
                let log = self.agent_log();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                bail!(
                    "the agent did not get ready:\n{}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(pid)
    }

    /// Starts an agent with the files that are there, with few words in its log; returns its process id at once.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin_agent(&mut self, binary: &Path, flags: &[&str]) -> Result<u32> {
        self.begin(binary, flags, "info")
    }

    fn begin(&mut self, binary: &Path, flags: &[&str], log_filter: &str) -> Result<u32> {
        let log_path = self.dir().join("agent.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log_path)?;
        let config = self.dir().join("config.yaml");
        let mut command = if self.confined {
            let text = fs::read_to_string(&config)?;
            let of_cluster = text.lines().any(|line| line.starts_with("kubernetes:"));
            let capabilities = if of_cluster { OF_NODE } else { OF_HOST };
            let mut command = self.node.command("sh");
            command.args(["-c", CONFINED, "sh"]).arg(self.dir());
            command.arg(capabilities).arg(binary);
            command
        } else {
            self.node.command(binary)
        };
        command.args(["agent", "--config"]).arg(config).args(flags);
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .env("SEVENTH_LOG", log_filter);
        let child = command.spawn().with_context(|| binary.display().to_string())?;
        let pid = child.id();
        self.processes.push(("agent".into(), child));
        Ok(pid)
    }

    fn agent_is_ready(&self, binary: &Path) -> bool {
        let status = self.ask_agent(binary, &["status", "-o", "json"]).ok();
        let status: Option<serde_json::Value> = status.and_then(|output| serde_json::from_slice(&output.stdout).ok());
        // While it waits for a cluster it answers, but nothing is in force.
        status.is_some_and(|status| status["policy"]["revision"].as_u64() > Some(0))
    }

    /// Runs a client command against the lab's agent.
    ///
    /// # Errors
    /// The binary cannot be run.
    pub fn ask_agent(&self, binary: &Path, args: &[&str]) -> Result<Output> {
        let server = format!("unix://{}", self.socket().display());
        Ok(Command::new(binary)
            .args(args)
            .args(["--server", &server])
            .stdin(Stdio::null())
            .output()?)
    }

    /// As [`LabEndpoint::run`], on the node.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// As the job did.
    pub fn run_on_node<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.node.run(job)
    }

    /// A command that runs on the node.
    pub fn node_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.node.command(program)
    }

    /// Starts nginx in an endpoint, on port 8080 of all its addresses, and waits until it listens. `locations` is the
    /// inside of its `server` block; by default everything is answered by 200.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_nginx(&mut self, endpoint: &str, locations: Option<&str>) -> Result<()> {
        let dir = self.dir().join(format!("nginx-{endpoint}"));
        fs::create_dir_all(&dir)?;
        let locations = locations.unwrap_or("location / { return 200 \"hello from nginx\\n\"; }");
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log {dir}/access.log; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             keepalive_requests 100000000; client_max_body_size 0; large_client_header_buffers 4 64k;\n\
             server {{ listen 8080; listen [::]:8080; {locations} }} }}\n",
            dir = dir.display()
        );
        fs::write(dir.join("nginx.conf"), config)?;
        let mut command = self.endpoint(endpoint)?.command("nginx");
        command
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .arg("-e")
            .arg(dir.join("error.log"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot run nginx; install nginx-light")?;
        self.processes.push((format!("nginx-{endpoint}"), child));
        self.wait_until_listening(endpoint, 8080)
    }

    /// Access log of the nginx in this endpoint: which requests it really got.
    #[must_use]
    pub fn nginx_log(&self, endpoint: &str) -> String {
        fs::read_to_string(self.dir().join(format!("nginx-{endpoint}/access.log"))).unwrap_or_default()
    }

    pub(crate) fn wait_until_listening(&self, endpoint: &str, port: u16) -> Result<()> {
        let deadline = Instant::now() + LISTEN_MAX * slower()?;
        let address = (Ipv4Addr::LOCALHOST, port);
        while self
            .endpoint(endpoint)?
            .run(move || std::net::TcpStream::connect(address).is_err())?
        {
            ensure!(
                Instant::now() < deadline,
                "nothing listens on port {port} of {endpoint}"
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Runs `ip` with these words on the node.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
    pub fn node_ip(&self, command: &str) -> Result<()> {
        self.node.ip(command)
    }

    /// What the agents of this lab have logged.
    #[must_use]
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Sends a signal to the process of this name.
    ///
    /// # Errors
    /// There is no such process.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let process = self.processes.iter().find(|(n, _)| n == name);
        let (_, child) = process.with_context(|| format!("no process `{name}`"))?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Keeps a child process until the lab ends.
    pub fn adopt(&mut self, name: &str, child: Child) {
        self.processes.push((name.to_owned(), child));
    }

    /// Sends a signal to the process of this name and waits for its end, for at most five seconds, or as much more as [`slower`]
    /// says.
    ///
    /// # Errors
    /// There is no such process, or it does not end.
    pub fn end(&mut self, name: &str, signal: Signal) -> Result<()> {
        let index = self
            .processes
            .iter()
            .position(|(n, _)| n == name)
            .with_context(|| format!("no process `{name}`"))?;
        let (_, mut child) = self.processes.swap_remove(index);
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let deadline = Instant::now() + END_MAX * slower()?;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("`{name}` did not end on {signal}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends a process at once, if it still runs.
    fn forget(&mut self, name: &str) {
        for (_, mut child) in self.processes.extract_if(.., |(n, _)| n == name) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn exited(&mut self, name: &str) -> Result<bool> {
        match self.processes.iter_mut().find(|(n, _)| n == name) {
            Some((_, child)) => Ok(child.try_wait()?.is_some()),
            None => Ok(true),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The keeper, dropped after this, takes down the rest.
        for (_, child) in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
