//! Server names enforced on real handshakes, and what they cost afterwards.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Output, Stdio},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use seventh::lab::Lab;
use seventh_parsers::quic::{ConnectionId, InitialKeys, Side, Version};

use crate::{
    http2::{program, python},
    stage::{binary, drops, lab, replace_policy, status, until},
};

/// After so long a worker has told what it did.
const TOLD: Duration = Duration::from_millis(700);

const NAMES: &[&str] = &["allowed.test", "other.test", "**.deep.test"];
/// Names that the server has a certificate for: what it says must not matter.
pub(crate) const CERTIFIED: &[&str] = &["allowed.test", "other.test", "denied.test", "a.b.deep.test"];

fn policy(names: &[&str]) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: names, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: client}}}}\n  egress:\n  - toEndpoints: [{{matchLabels: {{app: \
         server}}}}]\n    toPorts: [{{ports: [{{port: \"443\", protocol: ANY}}], serverNames: {names:?}}}]\n"
    )
}

/// A lab whose server speaks TLS, and whose client may reach [`NAMES`].
fn tls_stage(settings: &str) -> Option<Lab> {
    let mut lab = lab()?;
    lab.start_tls("server", CERTIFIED, settings).unwrap();
    lab.start_agent(binary(), &policy(NAMES), "").unwrap();
    Some(lab)
}

fn server(lab: &Lab) -> SocketAddr {
    (lab.endpoint("server").unwrap().ipv4, 443).into()
}

/// curl's exit status, and what came or was complained of.
pub(crate) fn curl(lab: &Lab, name: &str, path: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = lab.endpoint("client").unwrap().command("curl");
    command
        .args(["-sS", "--max-time", "10", "--cacert"])
        .arg(lab.dir().join("ca.pem"));
    command.args(["--resolve", &format!("{name}:443:{}", server(lab).ip())]);
    command.args(args).arg(format!("https://{name}{path}"));
    said(&command.output().unwrap())
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// `openssl s_client` with these arguments and nothing to say.
fn s_client(lab: &Lab, args: &[&str]) -> (Option<i32>, String) {
    let mut command = lab.endpoint("client").unwrap().command("openssl");
    command
        .args(["s_client", "-connect", &server(lab).to_string()])
        .args(args);
    said(&command.output().unwrap())
}

/// Frames that came to user space so far. Workers tell from time to time, so this waits until what they told is old.
fn frames_received(lab: &Lab) -> u64 {
    thread::sleep(TOLD);
    let status = status(lab);
    let workers = status["workers"].as_array().unwrap();
    workers
        .iter()
        .map(|worker| worker["frames_received"].as_u64().unwrap())
        .sum()
}

/// Verdicts of the client's flows to the server's port, as the kernel has them.
fn kernel_verdicts(lab: &Lab) -> Vec<String> {
    let output = lab
        .ask_agent(binary(), &["bpf", "flows", "list", "-o", "json"])
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let flows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    flows
        .filter(|flow| flow["peer_port"] == 443 && flow["direction"] == "egress")
        .map(|flow| flow["verdict"].as_str().unwrap().to_owned())
        .collect()
}

/// What `observe` tells of drops.
fn dropped(lab: &Lab) -> Vec<Value> {
    let flags = ["observe", "-o", "json", "--verdict", "DROPPED"];
    let output = lab.ask_agent(binary(), &flags).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["flow"].take())
        .collect()
}

/// A TLS connection that stays open.
struct Session {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Session {
    fn open(lab: &Lab, name: &str, args: &[&str]) -> Self {
        let mut command = lab.endpoint("client").unwrap().command("openssl");
        command.args(["s_client", "-quiet", "-verify_quiet", "-servername", name]);
        command.args(["-connect", &server(lab).to_string()]).args(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// One more request on the connection; the server's answer, empty if the connection has ended.
    fn ask(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        if self.input.write_all(request.as_bytes()).is_err() {
            return String::new();
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(b".test\n") {
            match self.output.read(&mut buffer) {
                Ok(0) | Err(_) => return String::new(),
                Ok(len) => answer.extend_from_slice(&buffer[..len]),
            }
        }
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn names_decide_and_clients_say_why() {
    let Some(lab) = tls_stage("") else { return };
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        for name in ["allowed.test", "ALLOWED.test", "a.b.deep.test"] {
            let (code, text) = curl(&lab, name, "/", version);
            assert_eq!(
                (code, text.to_ascii_lowercase()),
                (Some(0), format!("{}\n", name.to_ascii_lowercase())),
                "{version:?}\n{}",
                lab.agent_log()
            );
        }
        let (code, text) = curl(&lab, "denied.test", "/", version);
        assert_eq!(code, Some(35), "{text}");
        assert!(text.contains("unrecognized name"), "{text}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let (code, text) = s_client(&lab, &[version, "-noservername"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("alert number 112"), "{text}");
        let (_, text) = s_client(&lab, &[version, "-servername", "allowed.test"]);
        assert!(text.contains("CN = lab-server"), "{text}");
    }
    assert_eq!(
        (drops(&lab, "tls_policy_denied"), drops(&lab, "tls_no_server_name")),
        (2, 2)
    );
    for (name, reason) in [("denied.test", "tls_policy_denied"), ("", "tls_no_server_name")] {
        until(&format!("{reason} is told"), || {
            dropped(&lab).iter().any(|flow| {
                let sni = flow["l7"]["tls"]["sni"].as_str().unwrap_or_default();
                sni == name && flow["decision"]["reason"] == reason
            })
        });
    }
    // Who has no policy is not looked at.
    let mut command = lab.endpoint("friend").unwrap().command("curl");
    command.args(["-sSk", "--resolve", &format!("denied.test:443:{}", server(&lab).ip())]);
    assert_eq!(
        said(&command.arg("https://denied.test/").output().unwrap()).1,
        "denied.test\n"
    );
}

#[test]
fn after_the_first_flight_nothing_comes_to_user_space() {
    let Some(lab) = tls_stage("") else { return };
    let megabytes = 20;
    fs::write(lab.dir().join("bytes"), vec![b'x'; megabytes << 20]).unwrap();
    // Without TLS 1.3 the hello is all, and the client's next data, which show that it was received; with it, the server's
    // answer comes, too: one flight of a few segments.
    for (version, at_most) in [(&["--tls-max", "1.2"][..], 2), (&["--tlsv1.3"], 5)] {
        let before = frames_received(&lab);
        let sink = ["-o", "/dev/null", "-w", "%{size_download}"];
        let (code, text) = curl(&lab, "allowed.test", "/bytes", &[version, &sink].concat());
        assert_eq!((code, text), (Some(0), (megabytes << 20).to_string()));
        let came = frames_received(&lab) - before;
        assert!((1..=at_most).contains(&came), "{came} frames of {version:?}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let mut session = Session::open(&lab, "allowed.test", &[version]);
        assert!(session.ask("/").ends_with("allowed.test\n"));
        let before = frames_received(&lab);
        for _ in 0..50 {
            assert!(session.ask("/").ends_with("allowed.test\n"));
        }
        assert_eq!(frames_received(&lab), before, "{version}");
        assert!(
            kernel_verdicts(&lab).iter().any(|verdict| verdict == "forward"),
            "{:?}",
            kernel_verdicts(&lab)
        );
    }
}

#[test]
fn a_change_of_policy_ends_what_it_denies_and_leaves_the_rest() {
    let Some(lab) = tls_stage("") else { return };
    let mut staying = Session::open(&lab, "allowed.test", &["-tls1_3"]);
    let mut ending = Session::open(&lab, "other.test", &["-tls1_2"]);
    assert!(staying.ask("/").ends_with("allowed.test\n") && ending.ask("/").ends_with("other.test\n"));
    replace_policy(&lab, &policy(&["allowed.test"]));
    assert!(staying.ask("/").ends_with("allowed.test\n"), "{}", lab.agent_log());
    assert_eq!(ending.ask("/"), "");
    assert_eq!(drops(&lab, "tls_policy_denied"), 1);
    let before = frames_received(&lab);
    assert!(staying.ask("/").ends_with("allowed.test\n"));
    assert_eq!(frames_received(&lab), before, "judged once per policy");
}

#[test]
fn a_download_on_which_only_the_server_speaks_ends_with_its_name() {
    let Some(lab) = tls_stage("limit_rate 400k;") else {
        return;
    };
    fs::write(lab.dir().join("bytes"), vec![b'x'; 40 << 20]).unwrap();
    let mut command = lab.endpoint("client").unwrap().command("curl");
    command.args(["-sSk", "--max-time", "20", "-o", "/dev/null"]);
    command.args([
        "--resolve",
        &format!("other.test:443:{}", server(&lab).ip()),
        "https://other.test/bytes",
    ]);
    let mut child = command.spawn().unwrap();
    until("the download has begun", || {
        kernel_verdicts(&lab).iter().any(|verdict| verdict == "forward")
    });
    replace_policy(&lab, &policy(&["allowed.test"]));
    let ended = child.wait().unwrap();
    assert_eq!(ended.code(), Some(56), "a reset, not the end of curl's patience");
    assert_eq!(drops(&lab, "tls_policy_denied"), 1);
}

#[test]
fn while_the_agent_is_down_what_was_judged_goes_on_and_nothing_new_begins() {
    let Some(mut lab) = tls_stage("") else { return };
    let mut session = Session::open(&lab, "allowed.test", &["-tls1_3"]);
    assert!(session.ask("/").ends_with("allowed.test\n"));
    lab.end("agent", Signal::SIGKILL).unwrap();
    assert!(session.ask("/").ends_with("allowed.test\n"));
    let (code, text) = curl(&lab, "allowed.test", "/", &["--max-time", "2"]);
    assert_eq!(code, Some(28), "{text}");
    lab.launch_agent(binary()).unwrap();
    assert_eq!(curl(&lab, "allowed.test", "/", &[]).0, Some(0));
    // The new agent does not know under which name.
    assert_eq!(session.ask("/"), "");
    assert_eq!(drops(&lab, "mid_stream"), 1);
}

#[test]
fn a_server_that_asks_for_a_second_hello_is_reached() {
    // curl and s_client guess X25519 first.
    let Some(lab) = tls_stage("ssl_ecdh_curve secp384r1;") else {
        return;
    };
    for name in ["allowed.test", "a.b.deep.test"] {
        let (code, text) = curl(&lab, name, "/", &["--tlsv1.3"]);
        assert_eq!((code, text), (Some(0), format!("{name}\n")), "{}", lab.agent_log());
    }
    let (_, text) = s_client(&lab, &["-tls1_3", "-servername", "allowed.test", "-msg"]);
    assert_eq!(text.matches(", ClientHello").count(), 2, "{text}");
    let mut session = Session::open(&lab, "allowed.test", &["-tls1_3"]);
    assert!(session.ask("/").ends_with("allowed.test\n"));
    let before = frames_received(&lab);
    assert!(session.ask("/").ends_with("allowed.test\n"));
    assert_eq!(frames_received(&lab), before);
}

#[test]
fn large_hellos_and_early_data_pass() {
    let Some(lab) = tls_stage("ssl_early_data on;") else {
        return;
    };
    // 180 protocols of 100 bytes: more than a record holds.
    let mut protocols: Vec<String> = (0..180).map(|n| format!("{n:0>100}")).collect();
    protocols.push("http/1.1".to_owned());
    let large = protocols.join(",");
    for (name, mark) in [("allowed.test", "CN = lab-server"), ("denied.test", "alert number 112")] {
        let (_, text) = s_client(&lab, &["-tls1_3", "-servername", name, "-alpn", &large]);
        assert!(text.contains(mark), "{text}\n{}", lab.agent_log());
    }
    let ticket = lab.dir().join("ticket");
    let early = lab.dir().join("early");
    fs::write(&early, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut command = lab.endpoint("client").unwrap().command("openssl");
    command.args([
        "s_client",
        "-tls1_3",
        "-servername",
        "allowed.test",
        "-ign_eof",
        "-sess_out",
        &path(&ticket),
    ]);
    command.args(["-connect", &server(&lab).to_string()]);
    command.stdin(fs::File::open(&early).unwrap());
    let (_, text) = said(&command.output().unwrap());
    assert!(text.contains("Connection: close"), "{text}");
    let resume = [
        "-tls1_3",
        "-servername",
        "allowed.test",
        "-sess_in",
        &path(&ticket),
        "-early_data",
        &path(&early),
        "-ign_eof",
    ];
    let (_, text) = s_client(&lab, &resume);
    assert!(
        text.contains("Early data was accepted") && text.contains("allowed.test\n"),
        "{text}"
    );
    replace_policy(&lab, &policy(&["other.test"]));
    let (_, text) = s_client(&lab, &resume);
    assert!(text.contains("alert number 112"), "{text}");
}

/// The hello has X25519MLKEM768's share, GREASE and an ECH of no meaning, and does not fit into one segment.
#[test]
fn a_browsers_post_quantum_hello_is_judged_by_its_name() {
    let Some(python) = python() else { return };
    let Some(lab) = tls_stage("") else { return };
    let browse = |name: &str| {
        let mut command = lab.endpoint("client").unwrap().command(&python);
        command.arg(program("browser.py")).arg(name);
        command.args([&server(&lab).ip().to_string(), "443"]);
        said(&command.arg(lab.dir().join("ca.pem")).output().unwrap()).1
    };
    assert_eq!(browse("allowed.test"), "200 allowed.test\n", "{}", lab.agent_log());
    let refusal = browse("denied.test");
    assert!(refusal.contains("UNRECOGNIZED_NAME"), "{refusal}");
    until("the refusal is told", || {
        dropped(&lab)
            .iter()
            .any(|flow| flow["l7"]["tls"]["sni"] == "denied.test")
    });
}

#[test]
fn what_is_not_tls_is_denied_with_its_own_reason() {
    let Some(lab) = tls_stage("") else { return };
    let mut command = lab.endpoint("client").unwrap().command("curl");
    command.args(["-sS", "--max-time", "5", &format!("http://{}/", server(&lab))]);
    let (code, text) = said(&command.output().unwrap());
    assert_eq!(code, Some(52), "an empty answer: {text}");
    assert_eq!(drops(&lab, "tls_not_tls"), 1);
}

/// A QUIC client's Initial packet that asks for this name.
fn quic_hello(name: &str, original: &ConnectionId) -> Vec<u8> {
    let vector = |width: usize, content: &[u8]| {
        let len = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&len[4 - width..], content].concat()
    };
    let extension = |kind: u8, content: &[u8]| [&[0, kind][..], &vector(2, content)].concat();
    let name = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
    let extensions = [extension(0, &name), extension(43, &[2, 3, 4])].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 0x01, 1, 0],
        &vector(2, &extensions),
    ]
    .concat();
    let message = [&[1][..], &vector(3, &body)].concat();
    let mut payload = [
        &[6, 0][..],
        &(0x4000 | u16::try_from(message.len()).unwrap()).to_be_bytes(),
        &message,
    ]
    .concat();
    payload.resize(1150, 0);
    let keys = InitialKeys::new(Version::V1, Side::Client, original);
    keys.seal(Version::V1, original, &ConnectionId::default(), 0, &payload)
        .unwrap()
}

/// The server's Initial packet that accepts.
fn quic_accept(original: &ConnectionId) -> Vec<u8> {
    let message = [&[2, 0, 0, 40, 3, 3][..], &[5; 38]].concat();
    let payload = [&[6, 0, 0x40, 44][..], &message].concat();
    let keys = InitialKeys::new(Version::V1, Side::Server, original);
    keys.seal(Version::V1, &ConnectionId::default(), original, 0, &payload)
        .unwrap()
}

/// A server that accepts every hello and echoes everything else.
fn quic_server(socket: &UdpSocket, originals: &[ConnectionId]) {
    let mut buffer = [0; 2000];
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    while let Ok((len, client)) = socket.recv_from(&mut buffer) {
        let known = originals
            .iter()
            .find(|id| buffer.get(6..14) == Some(id.as_bytes()) && buffer[0] & 0x80 != 0);
        let answer = known.map_or_else(|| buffer[..len].to_vec(), quic_accept);
        socket.send_to(&answer, client).unwrap();
    }
}

#[test]
fn quic_of_other_versions_passes_only_if_the_configuration_says_so() {
    for (config, passes) in [("", false), ("tls: {passUnknownQuic: true}", true)] {
        let Some(mut lab) = lab() else { return };
        lab.start_agent(binary(), &policy(NAMES), config).unwrap();
        let address = server(&lab);
        let server = lab.endpoint("server").unwrap();
        let listener = server.run(move || UdpSocket::bind(address).unwrap()).unwrap();
        let job = move || {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.send_to(&[0xc0, 0xff, 0, 0, 29, 8, 1], address).unwrap();
            // It hides no connection that can be read.
            let original = ConnectionId::new(&[9; 8]).unwrap();
            socket.send_to(&quic_hello("denied.test", &original), address).unwrap();
        };
        lab.endpoint("client").unwrap().run(job).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
        let came = listener.recv(&mut [0; 100]);
        assert_eq!(came.is_ok(), passes, "{came:?}\n{}", lab.agent_log());
        assert!(listener.recv(&mut [0; 2000]).is_err(), "one datagram at most");
        until("the drop is told", || {
            passes || drops(&lab, "quic_unknown_version") == 1
        });
    }
}

#[test]
fn quic_is_judged_by_name_and_then_left_to_the_kernel() {
    let Some(lab) = tls_stage("") else { return };
    let address = server(&lab);
    let ids = [1, 2, 3].map(|byte| ConnectionId::new(&[byte; 8]).unwrap());
    let listener = lab
        .endpoint("server")
        .unwrap()
        .run(move || UdpSocket::bind(address).unwrap())
        .unwrap();
    let serving = thread::spawn(move || quic_server(&listener, &ids));
    let client = lab.endpoint("client").unwrap();
    let ask = |name: &'static str, id: ConnectionId, more: usize| {
        let job = move || {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.send(&quic_hello(name, &id)).unwrap();
            let mut buffer = [0; 2000];
            let len = socket.recv(&mut buffer).unwrap_or(0);
            let first = buffer[..len].to_vec();
            let mut echoed = 0;
            for _ in 0..more {
                socket.send(b"@short header").unwrap();
                echoed += usize::from(socket.recv(&mut buffer).is_ok());
            }
            (first, echoed)
        };
        client.run(job).unwrap()
    };
    let before = frames_received(&lab);
    let (first, echoed) = ask("allowed.test", ids[0], 100);
    assert_eq!((first, echoed), (quic_accept(&ids[0]), 100), "{}", lab.agent_log());
    assert_eq!(frames_received(&lab) - before, 2, "the hello and the answer");
    let (first, echoed) = ask("denied.test", ids[1], 1);
    let keys = InitialKeys::new(Version::V1, Side::Server, &ids[1]);
    let mut payload = Vec::new();
    let Ok((seventh_parsers::quic::Packet::Initial(close), _)) = seventh_parsers::quic::split_packet(&first) else {
        panic!("an Initial packet, not {first:?}")
    };
    keys.open(&close, 0, &mut payload).unwrap();
    assert!(
        payload.starts_with(&[0x1c, 0x41, 0x70]),
        "CONNECTION_CLOSE with unrecognized_name"
    );
    assert_eq!((echoed, drops(&lab, "tls_policy_denied") > 0), (0, true));
    serving.join().unwrap();
}

#[test]
fn on_the_ports_of_a_settled_quic_connection_others_are_judged_too() {
    let Some(lab) = tls_stage("") else { return };
    let address = server(&lab);
    let ids = [1, 2, 3].map(|byte| ConnectionId::new(&[byte; 8]).unwrap());
    let server = lab.endpoint("server").unwrap();
    let listener = server.run(move || UdpSocket::bind(address).unwrap()).unwrap();
    let serving = thread::spawn(move || quic_server(&listener, &ids));
    let client = lab.endpoint("client").unwrap();
    let socket = client
        .run(move || {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        })
        .unwrap();
    let ask = |datagram: &[u8]| {
        socket.send(datagram).unwrap();
        let mut buffer = [0; 2000];
        let len = socket.recv(&mut buffer).unwrap_or(0);
        buffer[..len].to_vec()
    };
    assert_eq!(ask(&quic_hello("allowed.test", &ids[0])), quic_accept(&ids[0]));
    assert_eq!(ask(b"@short header"), b"@short header");
    let denied = ask(&quic_hello("denied.test", &ids[1]));
    assert_ne!(denied, quic_accept(&ids[1]), "{}", lab.agent_log());
    assert!(drops(&lab, "tls_policy_denied") > 0);
    assert_eq!(ask(&quic_hello("other.test", &ids[2])), quic_accept(&ids[2]));
    let before = frames_received(&lab);
    for _ in 0..50 {
        assert_eq!(ask(b"@short header"), b"@short header");
    }
    assert_eq!(frames_received(&lab), before);
    serving.join().unwrap();
}
