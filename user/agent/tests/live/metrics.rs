//! What a scraper reads after some traffic, and what exporters wrote meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use seventh::lab::Lab;

use crate::{
    client::{Connection, PATIENCE, fetch},
    stage::{PUBLIC, binary, policy, stage, until},
};

pub(crate) const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9964);

/// Status and body of a page.
pub(crate) fn page(lab: &Lab, path: &'static str) -> (u16, String) {
    let answer = lab.run_on_node(move || {
        let mut stream = TcpStream::connect(LISTEN)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    let text = answer.unwrap().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Names of metrics with the largest of their values; a histogram's is its count.
fn scrape(lab: &Lab) -> BTreeMap<String, f64> {
    let (status, body) = page(lab, "/metrics");
    assert_eq!(status, 200, "{body}");
    assert!(body.ends_with("# EOF\n"));
    let mut values = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let name = name.strip_suffix("_count").unwrap_or(name);
        let value: f64 = value.parse().unwrap();
        let most: &mut f64 = values.entry(name.to_owned()).or_insert(value);
        *most = most.max(value);
    }
    values
}

/// All plugins but the one whose names another one has.
const PLUGINS: &str = "[dns, drop, flow, flows-to-world, httpV2, icmp, policy, port-distribution, tcp]";

/// Levels that are zero while nothing is held or on its way, and a count of what never happens.
const MAY_BE_ZERO: &[&str] = &[
    "seventh_held_bytes",
    "seventh_connections",
    "seventh_worker_frames_unaccounted",
    "seventh_worker_panics_total",
    "seventh_fqdn_names",
    "seventh_fqdn_addresses",
    "seventh_unmanaged_pods",
    "seventh_kubernetes_stale_seconds",
    "seventh_kubernetes_refused_objects",
    "seventh_kubernetes_unreadable_objects_total",
];

/// Everything in the table is told by a running agent, and what counts has counted; nothing else is told.
#[test]
fn every_metric_is_told_and_counts() {
    let more = format!(
        "metrics: {{listen: '{LISTEN}', hubble: {PLUGINS}, seriesMax: 2}}\n\
         hubble:\n  eventBufferCapacity: 1\n  flowLogs: [{{name: full, filePath: /dev/full}}]\n  flowLogsConfig: flowlogs.yaml\n"
    );
    let Some(lab) = stage(PUBLIC, &more) else { return };
    std::fs::write(
        lab.dir().join("flowlogs.yaml"),
        "flowLogs: [{name: out, filePath: stdout}]",
    )
    .unwrap();
    assert_eq!(page(&lab, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(page(&lab, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(page(&lab, "/else").0, 404);
    scrape(&lab);
    let server = lab.endpoint("server").unwrap().ipv4;
    overflow_events(&lab, server);
    let mut seen = BTreeMap::new();
    let mut missing = BTreeSet::new();
    until_with(&lab, &mut missing, || {
        exercise(&lab, server);
        for (name, value) in scrape(&lab) {
            let most: &mut f64 = seen.entry(name).or_insert(value);
            *most = most.max(value);
        }
        missing_of(&seen)
    });
    for name in seen.keys() {
        let name = name
            .strip_suffix("_sum")
            .or(name.strip_suffix("_bucket"))
            .unwrap_or(name);
        assert!(
            seventh_metrics::all().any(|metric| metric.name == name),
            "{name} is in no table"
        );
    }
}

/// More drops, told while nobody reads, than the kernel's ring of events has room for.
fn overflow_events(lab: &Lab, server: Ipv4Addr) {
    const DROPS: usize = 40_000;
    lab.signal("agent", Signal::SIGSTOP).unwrap();
    let intruder = lab.endpoint("intruder").unwrap();
    let sent = intruder.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((server, 9))?;
        (0..DROPS).try_for_each(|_| socket.send(b"x").map(|_| ()))
    });
    lab.signal("agent", Signal::SIGCONT).unwrap();
    sent.unwrap().unwrap();
}

/// So much of a body is worth passing in the kernel.
const UPLOAD: usize = 1 << 20;

/// Traffic of every kind that the table tells of, as far as one machine has it.
fn exercise(lab: &Lab, server: Ipv4Addr) {
    for (who, path) in [("client", "/public/1"), ("client", "/denied"), ("friend", "/x")] {
        let endpoint = lab.endpoint(who).unwrap();
        let _ = endpoint.run(move || fetch(server, path, PATIENCE)).unwrap();
    }
    let client = lab.endpoint("client").unwrap();
    let uploaded = client.run(move || {
        let mut connection = Connection::open((server, 8080).into(), PATIENCE)?;
        connection.send(format!("PUT /public/1 HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n").as_bytes())?;
        connection.send(&vec![b'x'; UPLOAD])?;
        connection.answer()
    });
    assert_eq!(uploaded.unwrap().unwrap().status, 200);
    let intruder = lab.endpoint("intruder").unwrap();
    let refused = intruder.run(move || TcpStream::connect_timeout(&(server, 8080).into(), Duration::from_millis(50)));
    assert!(refused.unwrap().is_err());
}

/// Metrics of the table that were not told, or are still zero.
fn missing_of(seen: &BTreeMap<String, f64>) -> BTreeSet<&'static str> {
    let wanted = seventh_metrics::all().filter(|metric| !["http"].contains(&metric.plugin));
    wanted
        .filter(|metric| {
            let value = seen.get(metric.name).copied();
            let zero_is_fine = MAY_BE_ZERO.contains(&metric.name);
            !ELSEWHERE.contains(&metric.name) && value.is_none_or(|value| value == 0.0 && !zero_is_fine)
        })
        .map(|metric| metric.name)
        .collect()
}

/// Told of traffic that this lab does not have; the tests of the plugins count them.
const ELSEWHERE: &[&str] = &[
    "hubble_dns_queries_total",
    "hubble_dns_responses_total",
    "hubble_dns_response_types_total",
    "hubble_icmp_total",
    "hubble_flows_to_world_total",
];

#[track_caller]
fn until_with<'a>(lab: &Lab, missing: &mut BTreeSet<&'a str>, mut look: impl FnMut() -> BTreeSet<&'a str>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while {
        *missing = look();
        !missing.is_empty()
    } {
        assert!(
            Instant::now() < deadline,
            "nobody has counted {missing:?}\n{}",
            lab.agent_log()
        );
    }
}

#[test]
fn the_page_follows_its_file_and_the_worker_its_health() {
    let more = format!("metrics: {{listen: '{LISTEN}', hubbleConfig: metrics.yaml}}\n");
    let Some(lab) = stage(PUBLIC, &more) else { return };
    let has = |text: &str| page(&lab, "/metrics").1.contains(text);
    until("the missing file is told", || {
        has("seventh_dynamic_config_valid{file=\"metrics\"} 0")
    });
    std::fs::write(lab.dir().join("metrics.yaml"), "metrics: [{name: flow}]").unwrap();
    until("the file is in force", || {
        has("seventh_dynamic_config_valid{file=\"metrics\"} 1")
    });
    let server = lab.endpoint("server").unwrap().ipv4;
    lab.endpoint("client")
        .unwrap()
        .run(move || fetch(server, "/public/1", PATIENCE))
        .unwrap()
        .unwrap();
    until("flows are counted", || has("hubble_flows_processed_total{type=\"L7\""));
    std::fs::write(lab.dir().join("metrics.yaml"), "metrics: [{name: flaw}]").unwrap();
    until("the error is told", || {
        has("seventh_dynamic_config_valid{file=\"metrics\"} 0")
    });
    assert!(
        has("hubble_flows_processed_total{type=\"L7\""),
        "what was in force stays in force"
    );
}

/// What the exporter wrote is what `observe` tells, and a program that others have written reads it.
#[test]
fn exported_records_are_read_by_a_program_of_others() {
    let config = "hubble: {flowLogs: [{name: all, filePath: DIR/flows.log}]}\n";
    let Some(mut lab) = crate::stage::lab() else { return };
    lab.start_nginx("server", None).unwrap();
    let config = config.replace("DIR", &lab.dir().display().to_string());
    lab.start_agent(binary(), &policy(PUBLIC), &config).unwrap();
    let server = lab.endpoint("server").unwrap().ipv4;
    lab.endpoint("client")
        .unwrap()
        .run(move || fetch(server, "/public/1", PATIENCE))
        .unwrap()
        .unwrap();
    let file = lab.dir().join("flows.log");
    until("records are written", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"http\":") && text.ends_with('\n'))
    });
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/python/bin/hubble-audit2policy");
    let output = std::process::Command::new(&tools)
        .args([
            "--no-enrich",
            "--dry-run",
            "--verdict",
            "REDIRECTED",
            "--verdict",
            "FORWARDED",
            "--label-key",
            "k8s:app",
        ])
        .arg(&file)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; `./seventh-dev setup` installs it", tools.display()));
    let (text, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}\n{said}");
    assert!(
        text.contains("kind: CiliumNetworkPolicy") && text.contains("8080"),
        "{text}\n{said}"
    );
    assert_policies_are_made_of_them(&lab, &file);
}

/// Of the file as of the records that the agent holds.
fn assert_policies_are_made_of_them(lab: &Lab, file: &std::path::Path) {
    let file = file.display().to_string();
    let generated = lab
        .ask_agent(binary(), &["policy", "generate", "--from-flows", &file])
        .unwrap();
    let said = String::from_utf8_lossy(&generated.stderr);
    assert!(generated.status.success(), "{said}");
    let text = String::from_utf8(generated.stdout).unwrap();
    assert!(text.contains("/public/[0-9]+") && text.contains("k8s:app"), "{text}");
    let path = lab.dir().join("generated.yaml");
    let asked = lab.ask_agent(binary(), &["policy", "generate"]).unwrap();
    std::fs::write(&path, &asked.stdout).unwrap();
    // No agent is asked.
    let mut validate = std::process::Command::new(binary());
    let checked = validate.args(["policy", "validate"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success() && said.contains("1 documents valid, 0 errors, 0 warnings"),
        "{said}{text}"
    );
}
