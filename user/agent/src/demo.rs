//! `seventh demo`: a policy enforced on live traffic, every request with the verdict that was expected and the one that
//! was seen.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    demo_dns, demo_tls,
    lab::{Lab, LabEndpoint},
};

const POLICY: &str = include_str!("../../../deploy/examples/http.yaml");
const MTU: u32 = 1500;
/// A client that gets no answer gives up after so many seconds.
pub(crate) const PATIENCE_S: &str = "1";

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const DIM: Style = AnsiColor::BrightBlack.on_default();

/// Runs the demo; true if every verdict was as expected.
///
/// # Errors
/// It cannot run here (the message names the next step), or was interrupted.
pub async fn run() -> Result<bool> {
    check_requirements()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let mut play = tokio::task::spawn_blocking(move || play(&flag));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = &mut play => return result?,
        _ = interrupt.recv() => {}
        _ = term.recv() => {}
        _ = hangup.recv() => {}
    }
    // The lab is taken down by the thread that built it.
    interrupted.store(true, Ordering::Relaxed);
    play.await??;
    bail!("interrupted; everything is taken down")
}

fn check_requirements() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and needs root; try `sudo`"
    );
    for (program, package) in [
        ("ip", "iproute2"),
        ("nginx", "nginx-light"),
        ("curl", "curl"),
        ("openssl", "openssl"),
        ("sysctl", "procps"),
        ("unbound", "unbound"),
        ("dig", "bind9-dnsutils"),
    ] {
        let found = env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .any(|dir| dir.join(program).exists());
        ensure!(
            found,
            "the demo needs `{program}`; next step: `./seventh-dev setup`, or apt-get install {package}"
        );
    }
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "this kernel has no BTF (/sys/kernel/btf/vmlinux); the demo needs a kernel built with CONFIG_DEBUG_INFO_BTF"
    );
    Ok(())
}

/// One request, or several on one connection, and what must come of it.
struct Scene {
    what: &'static str,
    from: &'static str,
    act: Act,
    expected: &'static str,
}

enum Act {
    /// curl with these arguments; `{4}` and `{6}` stand for the server's addresses.
    Curl(&'static [&'static str]),
    /// These bytes in one segment.
    Pipelined(&'static str),
}

const SCENES: &[Scene] = &[
    Scene {
        what: "GET /public",
        from: "client",
        act: Act::Curl(&["http://{4}:8080/public"]),
        expected: "200",
    },
    Scene {
        what: "GET /private: no rule for this path",
        from: "client",
        act: Act::Curl(&["http://{4}:8080/private"]),
        expected: "403",
    },
    Scene {
        what: "DELETE /public: no rule for this method",
        from: "client",
        act: Act::Curl(&["-X", "DELETE", "http://{4}:8080/public"]),
        expected: "403",
    },
    Scene {
        what: "POST /v1/items with a body",
        from: "client",
        act: Act::Curl(&["-d", "name=seventh", "http://{4}:8080/v1/items"]),
        expected: "200",
    },
    Scene {
        what: "GET /public/../private: the normalised path counts",
        from: "client",
        act: Act::Curl(&["--path-as-is", "http://{4}:8080/public/../private"]),
        expected: "403",
    },
    Scene {
        what: "GET /token without the header",
        from: "client",
        act: Act::Curl(&["http://{4}:8080/token"]),
        expected: "403",
    },
    Scene {
        what: "GET /token with the header",
        from: "client",
        act: Act::Curl(&["-H", "X-Token: open-sesame", "http://{4}:8080/token"]),
        expected: "200",
    },
    Scene {
        what: "GET /public: this client is not in the policy",
        from: "intruder",
        act: Act::Curl(&["http://{4}:8080/public"]),
        expected: "no connection",
    },
    Scene {
        what: "three requests on one connection",
        from: "client",
        act: Act::Curl(&[
            "http://{4}:8080/public/1",
            "http://{4}:8080/public/2",
            "http://{4}:8080/private",
        ]),
        expected: "200 200 403",
    },
    Scene {
        what: "two requests in one segment",
        from: "client",
        act: Act::Pipelined("GET /public HTTP/1.1\r\nHost: a\r\n\r\nGET /private HTTP/1.1\r\nHost: a\r\n\r\n"),
        expected: "200 403",
    },
    Scene {
        what: "GET /public over IPv6",
        from: "client",
        act: Act::Curl(&["http://{6}:8080/public"]),
        expected: "200",
    },
    Scene {
        what: "GET /private over IPv6",
        from: "client",
        act: Act::Curl(&["http://{6}:8080/private"]),
        expected: "403",
    },
];

/// Lines about what was tried, what must come of it and what came of it.
pub(crate) struct Rows {
    /// Columns of what is expected and of what is seen.
    pub(crate) width: usize,
}

impl Rows {
    pub(crate) fn head(&self, what: &str) {
        let width = self.width;
        println!("{:<10} {what:<56} {:<width$} {:<width$}", "FROM", "EXPECTED", "SEEN");
    }

    /// Tries it; true if what is seen is what is expected. What is awaited stands there before it is tried.
    pub(crate) fn row(
        &self,
        from: &str,
        what: &str,
        expected: &str,
        try_it: impl FnOnce() -> Result<String>,
    ) -> Result<bool> {
        let width = self.width;
        print!("{from:<10} {what:<56} {expected:<width$} ");
        let seen = try_it()?;
        let good = seen == expected;
        let (style, mark) = if good { (GOOD, "✓") } else { (BAD, "✗ UNEXPECTED") };
        println!("{style}{seen:<width$} {mark}{style:#}");
        Ok(good)
    }
}

fn play(interrupted: &AtomicBool) -> Result<bool> {
    let started = Instant::now();
    let binary = env::current_exe().context("cannot find this program")?;
    println!("{DIM}building a node with its endpoints in network namespaces ...{DIM:#}");
    let http: &[(&str, &str)] = &[("client", "client"), ("intruder", "intruder"), ("server", "server")];
    let cast = [http, demo_dns::CAST].concat();
    let mut lab = Lab::new(&cast, MTU)?;
    let authority = lab.start_tls("server", demo_tls::CERTIFIED, "")?;
    demo_dns::prepare(&mut lab)?;
    let policies = [POLICY, demo_tls::POLICY, demo_dns::POLICY].join("\n---\n");
    lab.start_agent(&binary, &policies, "")?;
    println!(
        "The policy in force (deploy/examples/http.yaml):\n\n{DIM}{}{DIM:#}\n",
        POLICY.trim_end()
    );
    let rows = Rows { width: 14 };
    rows.head("REQUEST TO server:8080");
    let mut wrong = 0;
    for scene in SCENES {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let good = rows.row(scene.from, scene.what, scene.expected, || act(&lab, scene))?;
        wrong += usize::from(!good);
    }
    wrong += demo_tls::play(&lab, &authority)?;
    wrong += demo_dns::play(&lab)?;
    wrong += usize::from(!nginx_saw_nothing_denied(&lab));
    println!("\nWhat the agent counted:\n");
    let status = lab.ask_agent(&binary, &["status"])?;
    print!("{}", String::from_utf8_lossy(&status.stdout));
    lab.end("agent", Signal::SIGTERM)?;
    drop(lab);
    let took = started.elapsed().as_secs_f32();
    if wrong == 0 {
        println!("\n{GOOD}all verdicts as expected{GOOD:#}, {took:.1} s, everything taken down");
    } else {
        println!("\n{BAD}{wrong} verdicts not as expected{BAD:#}");
    }
    Ok(wrong == 0)
}

fn nginx_saw_nothing_denied(lab: &Lab) -> bool {
    let log = lab.nginx_log("server");
    let (seen, denied) = (
        log.lines().count(),
        log.lines().filter(|line| line.contains("private")).count(),
    );
    let style = if denied == 0 { GOOD } else { BAD };
    println!("\nnginx saw {seen} requests, {style}{denied} of them denied ones{style:#}");
    denied == 0
}

fn act(lab: &Lab, scene: &Scene) -> Result<String> {
    let (client, server) = (lab.endpoint(scene.from)?, lab.endpoint("server")?);
    match scene.act {
        Act::Curl(args) => curl(client, server, args),
        Act::Pipelined(bytes) => {
            let address = SocketAddr::from((server.ipv4, 8080));
            client.run(move || status_codes(address, bytes))?
        }
    }
}

fn curl(client: &LabEndpoint, server: &LabEndpoint, args: &[&str]) -> Result<String> {
    let mut command: Command = client.command("curl");
    command.args(["-s", "-g", "--max-time", PATIENCE_S, "-w", "%{http_code} "]);
    for arg in args {
        let arg = arg
            .replace("{4}", &server.ipv4.to_string())
            .replace("{6}", &format!("[{}]", server.ipv6));
        if arg.starts_with("http") {
            command.args(["-o", "/dev/null"]);
        }
        command.arg(arg);
    }
    let output = command.output().context("curl")?;
    let codes = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(if codes == "000" {
        "no connection".to_owned()
    } else {
        codes
    })
}

/// Sends the bytes at once and returns the status codes of all answers until the server closes.
fn status_codes(address: SocketAddr, bytes: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(bytes.as_bytes())?;
    let mut answer = Vec::new();
    // A reset after the answers is how a denied connection may end.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let codes: Vec<&str> = text
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|part| part.split_whitespace().next())
        .collect();
    Ok(codes.join(" "))
}
