//! HTTP/2, gRPC and websockets with clients and servers that others have written.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use seventh::lab::Lab;

use crate::flows::flows;
use crate::stage::{PUBLIC, binary, drops, lab, policy, skip, status, until};

const PORT: u16 = 8081;

/// Python with grpcio and websockets in it, as `./seventh-dev setup` makes it.
pub(crate) fn python() -> Option<PathBuf> {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/python/bin/python");
    if python.exists() {
        return Some(python);
    }
    skip("there is no .tools/python; `./seventh-dev setup` makes it");
    None
}

pub(crate) fn program(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/live/programs")
        .join(name)
}

/// A lab whose client may what `rules` say on [`PORT`] of the server.
fn stage(rules: &str) -> Option<Lab> {
    let mut lab = lab()?;
    let policy = policy(rules).replace("8080", &PORT.to_string());
    lab.start_agent(binary(), &policy, "").unwrap();
    Some(lab)
}

/// Starts a server in the endpoint of that name and waits until it listens.
fn serve(lab: &mut Lab, mut command: Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    lab.adopt("program", child);
    let server = lab.endpoint("server").unwrap();
    let address = (server.ipv4, PORT);
    until("the server listens", || {
        server.run(move || TcpStream::connect(address).is_ok()).unwrap()
    });
}

fn python_server(lab: &mut Lab, python: &PathBuf, name: &str, address: &[String]) {
    let server = lab.endpoint("server").unwrap();
    let mut command = server.command(python);
    command.arg(program(name)).args(address).arg(log(lab));
    serve(lab, command);
}

fn log(lab: &Lab) -> PathBuf {
    lab.dir().join("program.log")
}

fn logged(lab: &Lab) -> Vec<String> {
    let text = fs::read_to_string(log(lab)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn target(lab: &Lab) -> String {
    format!("{}:{PORT}", lab.endpoint("server").unwrap().ipv4)
}

/// What the program says in the client, line by line.
fn ask(lab: &Lab, mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{text}{complaints}\n{}\n{}",
        status(lab),
        lab.agent_log()
    );
    text.lines().map(str::to_owned).collect()
}

fn python_client(lab: &Lab, python: &PathBuf, name: &str, words: &[&str]) -> Vec<String> {
    let mut command = lab.endpoint("client").unwrap().command(python);
    command.arg(program(name)).arg(target(lab)).args(words);
    ask(lab, command)
}

fn h2load(lab: &Lab, path: &str, args: &[&str]) -> String {
    let mut command = lab.endpoint("client").unwrap().command("h2load");
    command.args(args).arg(format!("http://{}{path}", target(lab)));
    ask(lab, command).join("\n")
}

/// Body, then status and version.
fn curl(lab: &Lab, path: &str) -> Vec<String> {
    let mut command = lab.endpoint("client").unwrap().command("curl");
    command.args(["-sS", "--http2-prior-knowledge", "--max-time", "20"]);
    command.args(["-w", "%{http_code} %{http_version}"]);
    command.arg(format!("http://{}{path}", target(lab)));
    ask(lab, command)
}

#[test]
fn http_2_requests_are_judged_on_every_stream() {
    let Some(mut lab) = stage(PUBLIC) else { return };
    let server = "listen 8081 http2; location / { return 200 \"hello\\n\"; } location /public/no { return 404; }\n\
                  location /public/teapot { return 418; }";
    lab.start_nginx("server", Some(server)).unwrap();
    let said = h2load(&lab, "/public", &["-n", "3000", "-c", "4", "-m", "10"]);
    assert!(said.contains("status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    let said = h2load(&lab, "/denied", &["-n", "1", "-c", "1"]);
    assert!(said.contains("status codes: 0 2xx, 0 3xx, 1 4xx, 0 5xx"), "{said}");
    assert_eq!(curl(&lab, "/public"), ["hello", "200 2"]);
    assert_eq!(curl(&lab, "/denied"), ["Access denied", "403 2"]);
    assert_eq!(drops(&lab, "http_policy_denied"), 2);
    let log = lab.nginx_log("server");
    let count = |path: &str| {
        log.lines()
            .filter(|line| line.contains(path) && line.contains("HTTP/2.0"))
            .count()
    };
    assert_eq!(
        (count("GET /public "), count("/denied")),
        (3001, 0),
        "what the server saw"
    );
    assert_answers_are_told(&lab);
}

/// Each answer of a crowd of streams with its own status, also one that needs the compression's table.
fn assert_answers_are_told(lab: &Lab) {
    for (path, code) in [("/public/no", "404"), ("/public/teapot", "418")] {
        h2load(lab, path, &["-n", "300", "-c", "3", "-m", "20"]);
        let told = flows(lab, 300, &["--all", "--protocol", "http", "--http-status", code]);
        assert_eq!(told.len(), 300);
        for answer in &told {
            let l7 = &answer["l7"];
            assert_eq!(
                (&l7["type"], &l7["http"]["method"]),
                (&"RESPONSE".into(), &"GET".into())
            );
            assert_eq!(l7["http"]["protocol"], "HTTP/2");
            assert!(l7["http"]["url"].as_str().unwrap().ends_with(path), "{answer}");
            let latency: u64 = l7["latency_ns"].as_str().unwrap().parse().unwrap();
            assert!((1..5_000_000_000).contains(&latency), "{latency}");
            assert_eq!(answer["source"]["pod_name"], "server");
        }
    }
}

/// How often each client asks: the server says what it says first in two segments, and cuts it elsewhere each time.
const UPGRADES: usize = 12;

#[test]
fn answers_after_an_upgrade_to_http_2_are_told() {
    let Some(python) = python() else { return };
    let Some(mut lab) = stage("{method: \"GET|POST\", path: \"/public/.*\"}") else {
        return;
    };
    let address = ["0.0.0.0".to_owned(), PORT.to_string()];
    python_server(&mut lab, &python, "h2c_server.py", &address);
    let url = |path: &str| format!("http://{}{path}", target(&lab));
    let client = |name: &str, args: &[&str]| {
        let mut command = lab.endpoint("client").unwrap().command(name);
        command.args(args);
        command
    };
    let paths = [("/public/index", "200"), ("/public/no", "404"), ("/public/gone", "410")];
    let urls = paths.map(|(path, _)| url(path));
    for _ in 0..UPGRADES {
        // One asks for everything at once, the other for one after the other.
        ask(
            &lab,
            client(
                "nghttp",
                &[&["--upgrade", "--null-out"][..], &urls.each_ref().map(String::as_str)].concat(),
            ),
        );
        let flags =
            "-sS --http2 --max-time 20 -w %{http_code}/%{http_version}\n -o /dev/null -o /dev/null -o /dev/null";
        let mut command = client("curl", &flags.split(' ').collect::<Vec<_>>());
        command.args(&urls);
        assert_eq!(ask(&lab, command), ["200/2", "404/2", "410/2"]);
    }
    for (path, code) in paths {
        let told = flows(
            &lab,
            2 * UPGRADES,
            &["--all", "--protocol", "http", "--http-status", code],
        );
        assert_eq!(told.len(), 2 * UPGRADES, "each once");
        for answer in told {
            let http = &answer["l7"]["http"];
            assert_eq!((&http["protocol"], &http["method"]), (&"HTTP/2".into(), &"GET".into()));
            assert!(http["url"].as_str().unwrap().ends_with(path), "{answer}");
            assert_eq!(answer["source"]["pod_name"], "server");
        }
    }
    // That the server agreed is not the answer.
    assert!(flows(&lab, 0, &["--all", "--http-status", "101"]).is_empty());
    // Where it does not agree, its answer is told all the same.
    let mut command = client("curl", &["-sS", "--http2", "-d", "x", "-w", "%{http_version}"]);
    command.arg(url("/public/index"));
    assert_eq!(ask(&lab, command), ["x1.1"]);
    let told = flows(&lab, 1, &["--http-method", "POST", "--http-status", "200"]);
    assert_eq!(told[0]["l7"]["http"]["protocol"], "HTTP/1.1");
}

#[test]
fn an_upload_over_http_2_arrives_whole() {
    let Some(mut lab) = stage(PUBLIC) else { return };
    let server = "listen 8081 http2; client_body_in_single_buffer on; client_max_body_size 0;\n\
                  location /public { dav_methods PUT; create_full_put_path on; root BODY; }";
    let root = lab.dir().join("uploads");
    fs::create_dir(&root).unwrap();
    // The worker drops its rights.
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    lab.start_nginx("server", Some(&server.replace("BODY", &root.display().to_string())))
        .unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_be_bytes).collect();
    let file = lab.dir().join("upload");
    fs::write(&file, &bytes).unwrap();
    let mut command = lab.endpoint("client").unwrap().command("curl");
    command.args([
        "-sS",
        "--http2-prior-knowledge",
        "--max-time",
        "60",
        "-w",
        "%{http_code}",
        "-T",
    ]);
    command.arg(&file).arg(format!("http://{}/public/file", target(&lab)));
    let said = ask(&lab, command);
    assert!(said.last().is_some_and(|code| code.ends_with("201")), "{said:?}");
    assert!(
        fs::read(root.join("public/file")).unwrap() == bytes,
        "what arrived differs"
    );
}

#[test]
fn grpc_methods_are_judged_by_their_path() {
    let Some(python) = python() else { return };
    let Some(mut lab) = stage("{method: POST, path: \"/shop[.]Items/(Get|GetStream)\"}") else {
        return;
    };
    python_server(&mut lab, &python, "grpc_server.py", &[format!("0.0.0.0:{PORT}")]);
    let calls = [
        "/shop.Items/Get",
        "/shop.Items/Delete",
        "/shop.Items/GetStream",
        "/shop.Items/DeleteStream",
        "/shop.Items/Get=1000000",
    ];
    assert_eq!(
        python_client(&lab, &python, "grpc_client.py", &calls),
        [
            "/shop.Items/Get OK",
            "/shop.Items/Delete PERMISSION_DENIED Access denied",
            "/shop.Items/GetStream OK",
            "/shop.Items/DeleteStream PERMISSION_DENIED Access denied",
            "/shop.Items/Get OK",
        ]
    );
    let logged = logged(&lab);
    assert_eq!(logged.len(), 9);
    assert!(logged.iter().all(|method| !method.contains("Delete")), "{logged:?}");
    assert_eq!(drops(&lab, "http_policy_denied"), 2);
    let told = flows(&lab, 9, &["--all", "--protocol", "http", "--http-status", "200"]);
    assert_eq!(told.len(), 9);
    for answer in told {
        let status = &answer["l7"]["http"]["headers"][0];
        assert_eq!(
            (&status["key"], &status["value"]),
            (&"grpc-status".into(), &"0".into()),
            "{answer}"
        );
    }
}

#[test]
fn websockets_are_let_through_when_the_server_agrees() {
    let Some(python) = python() else { return };
    let Some(mut lab) = stage(PUBLIC) else { return };
    let address = ["0.0.0.0".to_owned(), PORT.to_string()];
    python_server(&mut lab, &python, "websocket_server.py", &address);
    let paths = ["/public/chat", "/denied", "/public/refused", "/public/again"];
    assert_eq!(
        python_client(&lab, &python, "websocket_client.py", &paths),
        [
            "/public/chat OK",
            "/denied 403",
            "/public/refused 426",
            "/public/again OK"
        ]
    );
    assert_eq!(logged(&lab), ["/public/chat", "/public/again"]);
    for (code, count) in [("101", 2), ("426", 1)] {
        assert_eq!(flows(&lab, count, &["--all", "--http-status", code]).len(), count);
    }
    assert_eq!(drops(&lab, "http_policy_denied"), 1);
}
