//! What other servers make of the bytes that we let through: the collection of the parsers and mutations of it, sent to
//! nginx, Apache, `HAProxy` and node.
//!
//! Sent is exactly what could reach a server past the gate: all bytes before the one at which a request becomes
//! impossible. Each request that a server accepts then must be one that we have judged, with the same method, target
//! and host, and in the same order.

#[path = "../../../../parsers/corpus/escapes.rs"]
mod escapes;

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use escapes::unescape;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use seventh::lab::Lab;
use seventh_parsers::http1::{BodyLength, ChunkProgress, ChunkedFollower, HeadScanner, Limits, read_head};
use seventh_parsers::http2::PREFACE;

use crate::stage::{lab, until};

const CORPUS: &str = include_str!("../../../../parsers/corpus/http1-smuggling.tsv");
/// Each of these has every server read it.
const MUTATIONS: usize = 800;
const SEED: u64 = 4;

const SERVERS: [(&str, u16); 4] = [("nginx", 8080), ("apache", 8082), ("haproxy", 8083), ("node", 8084)];

/// Method, target from the path on, host in lower case.
type Request = (String, String, String);

/// What goes through, and the requests in it, as the engine reads a connection whose requests are all allowed.
fn judged(bytes: &[u8]) -> (usize, Vec<Request>) {
    // What is in the frames of HTTP/2 is judged as HTTP/2, and goes through: no request of HTTP/1 is in it.
    if bytes.starts_with(PREFACE) {
        return (bytes.len(), Vec::new());
    }
    let mut requests = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let mut scanner = HeadScanner::new(Limits::default());
        let start = at;
        let end = loop {
            let Some(byte) = bytes.get(at) else {
                return (at, requests);
            };
            match scanner.advance(std::slice::from_ref(byte)) {
                Ok(None) => at += 1,
                Ok(Some(_)) => break at + 1,
                Err(_) => return (at, requests),
            }
        };
        let Ok(head) = read_head(&bytes[start..end]) else {
            return (at, requests);
        };
        requests.push((
            head.method.to_owned(),
            origin(head.target),
            head.host.unwrap_or_default().to_ascii_lowercase(),
        ));
        at = end;
        match head.body {
            BodyLength::None => {}
            BodyLength::Fixed(len) => {
                at = usize::try_from(len).map_or(bytes.len(), |len| bytes.len().min(at.saturating_add(len)));
            }
            BodyLength::Chunked => {
                let mut follower = ChunkedFollower::new();
                loop {
                    let Some(byte) = bytes.get(at) else {
                        return (at, requests);
                    };
                    match follower.follow(std::slice::from_ref(byte)) {
                        Ok(ChunkProgress::More) => at += 1,
                        Ok(ChunkProgress::Done(_)) => break,
                        Err(_) => return (at, requests),
                    }
                }
                at += 1;
            }
        }
    }
    (at, requests)
}

/// A target without scheme and authority: servers show it so.
fn origin(target: &str) -> String {
    let Some(rest) = target
        .get(7..)
        .filter(|_| target.to_ascii_lowercase().starts_with("http://"))
    else {
        return target.to_owned();
    };
    let path = &rest[rest.find(['/', '?']).unwrap_or(rest.len())..];
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn inputs() -> Vec<Vec<u8>> {
    let cases: Vec<Vec<u8>> = CORPUS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| unescape(line.split('\t').nth(2).unwrap()))
        .collect();
    let mut rng = StdRng::seed_from_u64(SEED);
    let odd = b"\r\n \t\0:;,/?#%0aAzG1\x0b\x0c\x7f\x80\xff";
    let mut inputs = cases.clone();
    for _ in 0..MUTATIONS {
        let mut bytes = cases.choose(&mut rng).unwrap().clone();
        if rng.random_bool(0.3) {
            bytes.extend(cases.choose(&mut rng).unwrap());
        }
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            let byte = *odd.choose(&mut rng).unwrap();
            match rng.random_range(0..4) {
                0 => bytes[at] = byte,
                1 | 2 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'G');
            }
        }
        inputs.push(bytes);
    }
    inputs.extend(http2_inputs());
    inputs
}

/// A server of HTTP/1 that gets HTTP/2 must not look for requests in it, wherever they stand: in data, in fields, in
/// frames of no known type, right after a frame's header or behind line ends.
fn http2_inputs() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let literal = |name: &str, value: &str| {
        let len = |text: &str| u8::try_from(text.len()).unwrap();
        [&[0, len(name)], name.as_bytes(), &[len(value)], value.as_bytes()].concat()
    };
    let settings = frame(4, 0, 0, &[]);
    let mut inputs = Vec::new();
    for evil in [
        "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n",
        "\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n\r\n\r\n",
        "\n\nGET /evil HTTP/1.0\n\n",
        "\r\n\r\n\r\nGET /evil\r\n",
    ] {
        let field = evil.trim().replace(['\r', '\n'], " ");
        let head = [
            literal(":method", "POST"),
            literal(":scheme", "http"),
            literal(":path", "/public"),
            literal(":authority", "h"),
            literal("x", &field),
        ]
        .concat();
        let data = [frame(1, 4, 1, &head), frame(0, 1, 1, evil.as_bytes())].concat();
        for frames in [
            data.clone(),
            frame(0xfa, 0, 0, evil.as_bytes()),
            frame(6, 0, 0, evil.get(..8).unwrap().as_bytes()),
            [frame(0xfa, 0, 0, evil.as_bytes()), data].concat(),
        ] {
            inputs.push([&PREFACE[..], &settings, &frames].concat());
        }
        // The first frame of a client is SETTINGS; its values may be anything that is not known.
        let mut values = evil.as_bytes().to_vec();
        values.resize(values.len().next_multiple_of(6), b'\n');
        inputs.push([&PREFACE[..], &frame(4, 0, 0, &values)].concat());
    }
    inputs
}

/// What a server answers to all these bytes until it closes.
fn exchange(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut answer = Vec::new();
    // A server may close while we write, or reset what it did not read: what it said before counts.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The requests that were answered by 2xx.
fn accepted(answer: &[u8]) -> Vec<Request> {
    // Apache shows the target as it was sent only within the whole request line, whose version is no answer's.
    let text = String::from_utf8_lossy(answer)
        .replace(" HTTP/1.1|", "|")
        .replace(" HTTP/1.0|", "|");
    let mut requests = Vec::new();
    for head in text.split("HTTP/1.").skip(1) {
        let is_success = head.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        let seen = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("x-seen").then(|| value.to_owned())
        });
        let Some(seen) = seen.filter(|_| is_success) else {
            continue;
        };
        let mut words = seen.split('|');
        let mut word = || words.next().unwrap_or_default().trim().to_owned();
        let (method, shown, host) = (word(), word(), word());
        let target = shown.split(' ').nth(1).unwrap_or(&shown);
        requests.push((method, origin(target), host.to_ascii_lowercase()));
    }
    requests
}

fn is_subsequence(some: &[Request], all: &[Request]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|request| rest.any(|other| is_same(other, request)))
}

/// `HAProxy` tells the host of CONNECT without the port that its scheme implies; the target has it.
fn is_same(ours: &Request, theirs: &Request) -> bool {
    let told = ours.2.strip_suffix(":443").filter(|_| ours.0 == "CONNECT");
    (&ours.0, &ours.1) == (&theirs.0, &theirs.1) && (ours.2 == theirs.2 || told == Some(&theirs.2))
}

fn start_servers(lab: &mut Lab) {
    let dir = lab.dir().to_owned();
    lab.start_nginx(
        "server",
        Some("location / { add_header x-seen \"$request_method|$request_uri|$http_host\"; return 200 \"ok\"; }"),
    )
    .unwrap();
    let apache = dir.join("apache.conf");
    let modules = "/usr/lib/apache2/modules";
    let loaded = ["mpm_event", "authz_core", "headers", "rewrite"]
        .iter()
        .fold(String::new(), |mut text, name| {
            let _ = writeln!(text, "LoadModule {name}_module {modules}/mod_{name}.so");
            text
        });
    fs::write(
        &apache,
        format!(
            "{loaded}ServerRoot {d}\nPidFile {d}/apache.pid\nErrorLog {d}/apache.log\nListen 8082\nServerName h\n\
             DocumentRoot {d}/www\nUser nobody\nGroup nogroup\nHttpProtocolOptions Unsafe\n\
             RewriteEngine on\nRewriteRule .* - [R=204]\n\
             Header always set x-seen \"expr=%{{REQUEST_METHOD}}|%{{THE_REQUEST}}|%{{HTTP_HOST}}\"\n",
            d = dir.display()
        ),
    )
    .unwrap();
    fs::create_dir(dir.join("www")).unwrap();
    let haproxy = dir.join("haproxy.cfg");
    fs::write(
        &haproxy,
        "global\n  stats timeout 1s\ndefaults\n  mode http\n  timeout client 1s\n  timeout server 1s\n  timeout connect 1s\n\
         frontend f\n  bind 127.0.0.1:8083\n  option accept-invalid-http-request\n\
         \x20 http-request return status 200 hdr x-seen \"%[method]|%[url]|%[req.hdr(host)]\" content-type text/plain string ok\n",
    )
    .unwrap();
    let node = dir.join("server.js");
    fs::write(
        &node,
        "const s = require('http').createServer({insecureHTTPParser: true}, (q, a) => { q.resume(); q.on('end', () => { \
         a.setHeader('x-seen', [q.method, q.url, q.headers.host || ''].join('|')); a.end('ok'); }); });\n\
         s.httpAllowHalfOpen = true;\ns.listen(8084, '127.0.0.1');\n",
    )
    .unwrap();
    start(lab, "apache", "apache2", |command| {
        command.args(["-DFOREGROUND", "-f"]).arg(&apache)
    });
    start(lab, "haproxy", "haproxy", |command| command.arg("-f").arg(&haproxy));
    start(lab, "node", "node", |command| command.arg(&node));
}

fn start(lab: &mut Lab, name: &str, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = lab.endpoint("server").unwrap().command(program);
    arguments(&mut command).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    lab.adopt(name, child);
}

#[test]
fn servers_accept_only_requests_that_were_judged_as_they_read_them() {
    let Some(mut lab) = lab() else { return };
    start_servers(&mut lab);
    let server = lab.endpoint("server").unwrap();
    for (name, port) in SERVERS {
        until(&format!("{name} listens"), || {
            server
                .run(move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
                .unwrap()
        });
        let (wrong, requests) = server
            .run(move || {
                let (mut wrong, mut requests) = (Vec::new(), 0);
                for bytes in inputs() {
                    let (len, ours) = judged(&bytes);
                    assert!(
                        len == bytes.len() || !bytes.starts_with(PREFACE),
                        "all of HTTP/2 is sent"
                    );
                    let theirs = accepted(&exchange(port, &bytes[..len]));
                    requests += theirs.len();
                    if !is_subsequence(&theirs, &ours) {
                        wrong.push(format!(
                            "{}\n  ours {ours:?}\n  theirs {theirs:?}",
                            bytes[..len].escape_ascii()
                        ));
                    }
                }
                (wrong, requests)
            })
            .unwrap();
        assert!(
            wrong.is_empty(),
            "{name}, {} differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        assert!(
            requests > 100,
            "{name} accepted {requests} requests only: the test looks at nothing"
        );
    }
}
