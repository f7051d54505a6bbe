//! Audit and visibility on live traffic: everything passes as if nobody looked, and what would not have passed is told.

use std::{fs, net::SocketAddr, process::Output};

use nix::sys::signal::Signal;
use serde_json::Value;
use seventh::lab::Lab;

use crate::{
    bulk,
    client::{Connection, IMPATIENCE, PATIENCE, fetch, get, is_silence},
    dns::{ZONE, connects, dig, dns_stage},
    flows::{flows, observe},
    requests::in_client,
    server,
    stage::{PUBLIC, binary, lab, policy, replace_policy, stage, status, until},
    tls::{CERTIFIED, curl},
};

/// Nothing of what the client does is allowed where it does it, nor anything at the server.
const NOTHING: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nothing, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: server}}, {matchLabels: {app: friend}}]
    toPorts:
    - ports: [{port: \"8080\", protocol: TCP}]
      rules: {http: [{method: GET, path: /never}]}
  - toEndpoints: [{matchLabels: {app: server}}]
    toPorts: [{ports: [{port: \"443\", protocol: TCP}], serverNames: [never.test]}]
  - toEndpoints: [{matchLabels: {app: server}}]
    toPorts: [{ports: [{port: \"53\", protocol: ANY}], rules: {dns: [{matchName: never.test}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nobody, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress: [{fromEndpoints: [{matchLabels: {app: nobody}}]}]
";

fn ask(lab: &Lab, from: &str, path: &'static str) -> Result<u16, std::io::ErrorKind> {
    let server = lab.endpoint("server").unwrap().ipv4;
    let from = lab.endpoint(from).unwrap();
    from.run(move || fetch(server, path, IMPATIENCE)).unwrap()
}

pub(crate) fn configure(lab: &Lab, endpoint: &str, mode: &str) -> Output {
    let setting = format!("PolicyAuditMode={mode}");
    lab.ask_agent(binary(), &["endpoint", "config", endpoint, &setting])
        .unwrap()
}

#[track_caller]
fn set_mode(lab: &Lab, mode: &str) {
    for endpoint in ["default/server", "default/client"] {
        let said = configure(lab, endpoint, mode);
        assert!(said.status.success(), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stdout).contains(mode), "{said:?}");
    }
}

fn audit_status(lab: &Lab, field: &str) -> u64 {
    status(lab)["audit"][field].as_u64().unwrap()
}

/// Reasons of what was dropped, of all that there is.
fn dropped(lab: &Lab) -> Value {
    status(lab)["drops"].clone()
}

#[test]
fn an_audit_that_denies_everything_carries_everything_and_tells_of_it() {
    let Some(mut lab) = lab() else { return };
    let tally = server::start(lab.endpoint("friend").unwrap()).unwrap();
    lab.start_tls("server", CERTIFIED, "").unwrap();
    lab.start_unbound("server", ZONE).unwrap();
    lab.start_agent(binary(), NOTHING, "audit: true\n").unwrap();
    let expected = bulk::expected();
    let friend: SocketAddr = (lab.endpoint("friend").unwrap().ipv4, 8080).into();
    let client = lab.endpoint("client").unwrap();
    assert_eq!(client.run(move || follow(bulk::send(friend))).unwrap(), expected);
    assert_eq!(client.run(move || follow(bulk::receive(friend))).unwrap(), expected);
    assert!(tally.lock().unwrap().iter().any(|line| line.contains("/denied")));
    let (code, said) = curl(&lab, "allowed.test", "/", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(dig(&lab, &["www.shop.test"]).0, "NOERROR");
    assert_eq!(dig(&lab, &["+tcp", "allowed.test"]).0, "NOERROR");
    assert_eq!(dropped(&lab), serde_json::json!({}));

    sees_requests(&lab);
    sees_names_questions_and_refusals(&lab);
    assert!(observe(&lab, &["--verdict", "DROPPED"]).is_empty());
    assert_eq!(audit_status(&lab, "lost"), 0);
    // A body is copied until somebody has seen how long it is, and no further.
    let copied = audit_status(&lab, "copied");
    assert!(copied < bulk::SIZE / (16 << 10), "{copied} frames were copied");
}

/// Every request that would be denied is told, with the rule that came nearest, and on what it failed.
fn sees_requests(lab: &Lab) {
    let http = flows(lab, 4, &["--verdict", "AUDIT", "--protocol", "http"]);
    let paths: Vec<&str> = http
        .iter()
        .filter_map(|flow| flow["l7"]["http"]["url"].as_str())
        .collect();
    for path in ["/bytes", "/denied"] {
        assert!(paths.iter().any(|url| url.contains(path)), "{paths:?}");
    }
    assert!(
        http.iter()
            .all(|flow| flow["decision"]["reason"] == "http_policy_denied"),
        "{http:#?}"
    );
    assert!(http.iter().all(|flow| flow["egress_denied_by"][0]["name"] == "nothing"));
    // The rule that came nearest, and on what it failed.
    let denied = http
        .iter()
        .find(|flow| flow["l7"]["http"]["url"].as_str().unwrap().contains("/denied"));
    let decision = &denied.unwrap()["decision"];
    assert_eq!(decision["rule"], "spec.egress[0].toPorts[0].rules.http[0]");
    assert_eq!(decision["misses"][0], "path: wants /never, is /denied");
}

fn sees_names_questions_and_refusals(lab: &Lab) {
    let names = flows(lab, 1, &["--verdict", "AUDIT", "--protocol", "tls"]);
    assert_eq!(names[0]["l7"]["tls"]["sni"], "allowed.test");
    let questions = flows(
        lab,
        2,
        &["--verdict", "AUDIT", "--from-pod", "default/client", "--to-port", "53"],
    );
    assert!(
        questions
            .iter()
            .any(|flow| flow["decision"]["reason"] == "dns_policy_denied"),
        "{questions:#?}"
    );
    let refused = flows(
        lab,
        1,
        &[
            "--verdict",
            "AUDIT",
            "--type",
            "policy-verdict",
            "--traffic-direction",
            "ingress",
        ],
    );
    assert!(
        refused
            .iter()
            .all(|flow| flow["drop_reason_desc"] == "POLICY_DENIED" && flow["destination"]["pod_name"] == "server"),
        "{refused:#?}"
    );
}

/// The connection goes on as before.
fn follow((mut connection, sum): (Connection, u64)) -> u64 {
    assert_eq!(connection.get("/public").unwrap().status, 200);
    assert_eq!(connection.get("/denied").unwrap().status, 200);
    sum
}

#[test]
fn a_policy_in_audit_stands_beside_those_that_are_enforced() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    assert_eq!(ask(&lab, "client", "/public/b"), Ok(200));
    let narrow = policy("{method: GET, path: /public/a}")
        .replace(
            "name: server,",
            "name: narrow, annotations: {seventh.io/audit: \"true\"},",
        )
        .replace(
            "endpointSelector: {matchLabels: {app: server}}",
            "endpointSelector: {matchLabels: {app: client}}",
        )
        .replace("ingress:", "egress:")
        .replace(
            "fromEndpoints: [{matchLabels: {app: client}}]",
            "toEndpoints: [{matchLabels: {app: server}}]",
        )
        .replace(
            "fromEndpoints: [{matchLabels: {app: friend}}]",
            "toEndpoints: [{matchLabels: {app: nobody}}]",
        );
    replace_policy(&lab, &format!("{}---\n{narrow}", policy(PUBLIC)));
    assert_eq!(ask(&lab, "client", "/public/a"), Ok(200));
    assert_eq!(ask(&lab, "client", "/public/b"), Ok(200));
    assert_eq!(ask(&lab, "client", "/secret"), Ok(403), "enforced at the server");
    assert!(is_silence(&ask(&lab, "intruder", "/public/a")));
    let told = flows(&lab, 2, &["--verdict", "AUDIT", "--protocol", "http"]);
    let paths: Vec<&str> = told
        .iter()
        .filter_map(|flow| flow["l7"]["http"]["url"].as_str())
        .collect();
    assert!(
        paths.len() == 2 && paths[0].ends_with("/public/b") && paths[1].ends_with("/secret"),
        "{paths:?}"
    );
    assert_eq!(told[0]["egress_denied_by"][0]["name"], "narrow");
    let state = status(&lab);
    assert_eq!(state["audit"]["endpoints_under_policies_in_audit"], 1);
    assert_eq!(state["audit"]["endpoints_in_audit"], 0);
    // Without the annotation it is enforced.
    replace_policy(
        &lab,
        &format!("{}---\n{}", policy(PUBLIC), narrow.replace("true", "false")),
    );
    assert_eq!(ask(&lab, "client", "/public/a"), Ok(200));
    assert_eq!(ask(&lab, "client", "/public/b"), Ok(403));
}

#[test]
fn one_command_enforces_and_another_audits_again_and_the_next_agent_remembers() {
    let Some(mut lab) = stage(PUBLIC, "audit: true\n") else {
        return;
    };
    let server: SocketAddr = (lab.endpoint("server").unwrap().ipv4, 8080).into();
    let denied_again = |lab: &Lab| {
        assert_eq!(ask(lab, "client", "/denied"), Ok(403));
        assert_eq!(ask(lab, "client", "/public"), Ok(200));
        assert!(is_silence(&ask(lab, "intruder", "/public")));
    };
    let audited = |lab: &Lab| {
        assert_eq!(ask(lab, "client", "/denied"), Ok(200));
        assert_eq!(ask(lab, "intruder", "/public"), Ok(200));
    };
    audited(&lab);
    for (value, check) in [("Disabled", &denied_again as &dyn Fn(&Lab)), ("Enabled", &audited)] {
        let said = lab
            .ask_agent(binary(), &["config", "set", "PolicyAuditMode", value])
            .unwrap();
        assert!(said.status.success(), "{said:?}");
        check(&lab);
    }
    let open = |from: &str| {
        let from = lab.endpoint(from).unwrap();
        let mut live = from.run(move || Connection::open(server, IMPATIENCE)).unwrap().unwrap();
        assert_eq!(live.get("/one").unwrap().status, 200);
        live
    };
    let (mut stranger, mut client) = (open("intruder"), open("client"));
    set_mode(&lab, "Disabled");
    stranger.get("/two").unwrap_err();
    // What passed unread before may be the beginning of anything: the connection ends.
    client.get("/denied").unwrap_err();
    denied_again(&lab);
    set_mode(&lab, "Enabled");
    audited(&lab);
    set_mode(&lab, "Disabled");
    lab.end("agent", Signal::SIGTERM).unwrap();
    lab.launch_agent(binary()).unwrap();
    denied_again(&lab);
    set_mode(&lab, "Enabled");
    lab.end("agent", Signal::SIGKILL).unwrap();
    audited(&lab);
    lab.launch_agent(binary()).unwrap();
    audited(&lab);
    let unknown = configure(&lab, "default/nobody", "Enabled");
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert_eq!(configure(&lab, "default/server", "Perhaps").status.code(), Some(2));
}

#[test]
fn when_nobody_reads_copies_traffic_goes_on_and_the_loss_is_told() {
    let Some(mut lab) = lab() else { return };
    server::start(lab.endpoint("server").unwrap()).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "audit: true\n").unwrap();
    lab.signal("agent", Signal::SIGSTOP).unwrap();
    // Nobody says that the bodies need not be copied, and there is not room for all of them, be they sent in ever so long frames.
    let sums = [(); 4].map(|()| in_client(&lab, |address| follow(bulk::send(address))));
    lab.signal("agent", Signal::SIGCONT).unwrap();
    assert_eq!(sums, [(); 4].map(|()| bulk::expected()));
    until("the loss is counted", || audit_status(&lab, "lost") > 0);
    until("the loss is told", || {
        let output = lab.ask_agent(binary(), &["observe", "-o", "json", "--all"]).unwrap();
        String::from_utf8_lossy(&output.stdout).contains("lost_events")
    });
    until("what came later is judged", || {
        assert_eq!(ask(&lab, "client", "/later"), Ok(200));
        !observe(&lab, &["--verdict", "AUDIT", "--http-path", "^/later"]).is_empty()
    });
    assert_eq!(dropped(&lab), serde_json::json!({}));
}

#[test]
fn who_is_observed_is_shown_and_nothing_else_changes() {
    let Some(mut lab) = lab() else { return };
    lab.start_nginx("server", None).unwrap();
    fs::create_dir_all(lab.dir().join("policies")).unwrap();
    let config = lab
        .agent_config("")
        .replace("interface: v-server,", "interface: v-server, observe: true,");
    fs::write(lab.dir().join("config.yaml"), config).unwrap();
    lab.launch_agent(binary()).unwrap();
    assert_eq!(ask(&lab, "client", "/shown"), Ok(200));
    let told = flows(&lab, 1, &["--protocol", "http"]);
    assert!(told[0]["l7"]["http"]["url"].as_str().unwrap().ends_with("/shown"));
    assert_eq!(
        (&told[0]["verdict"], &told[0]["traffic_direction"]),
        (&"FORWARDED".into(), &"INGRESS".into())
    );
    assert!(observe(&lab, &["--verdict", "AUDIT"]).is_empty());
    assert_eq!(dropped(&lab), serde_json::json!({}));
}

#[test]
fn names_that_copies_teach_are_gone_by() {
    let Some(lab) = dns_stage(ZONE, "audit: true\n") else {
        return;
    };
    assert_eq!(dig(&lab, &["www.shop.test"]).0, "NOERROR");
    assert!(connects(&lab, "198.18.1.1") && connects(&lab, "198.18.1.5"));
    assert_eq!(dig(&lab, &["denied.test"]).0, "NOERROR", "the question is only told");
    let would_be = flows(&lab, 1, &["--verdict", "AUDIT", "--to-port", "8080"]);
    let to: Vec<&str> = would_be
        .iter()
        .filter_map(|flow| flow["IP"]["destination"].as_str())
        .collect();
    assert_eq!(to, ["198.18.1.5"]);
    let asked = flows(&lab, 1, &["--verdict", "AUDIT", "--to-port", "53"]);
    assert_eq!(asked[0]["decision"]["reason"], "dns_policy_denied");
}

/// What stands in a record of these settings, and in none without them.
const TELLING: &str = "audit: true\nhubble: {cluster: lab, nodeLabels: {zone: a}, httpHeaders: true, redact: \
                       {httpHeadersAllow: [accept, traceparent]}}\n";

#[test]
fn what_is_audited_is_told_with_its_headers_its_answer_and_its_place_and_is_only_text() {
    let Some(mut lab) = lab() else { return };
    let server = "listen 8081 http2; large_client_header_buffers 4 96k; location / { return 200 \"hello\\n\"; }\n\
                  location /missing { return 404; }";
    lab.start_nginx("server", Some(server)).unwrap();
    let policies = format!(
        "{}---\n{}",
        policy(PUBLIC),
        policy(PUBLIC)
            .replace("8080", "8081")
            .replace(": server, n", ": two, n")
    );
    lab.start_agent(binary(), &policies, TELLING).unwrap();
    let parts = ["/missing HTTP/1.1", "Host: server", "Accept: text/x", "Cookie: secret"];
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let head = format!(
        "GET {}\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n",
        parts.join("\r\n")
    );
    in_client(&lab, move |address| {
        let mut connection = Connection::open(address, PATIENCE).unwrap();
        connection.send(head.as_bytes()).unwrap();
        assert_eq!(connection.answer().unwrap().status, 404);
        assert_eq!(connection.get("/denied?token=1").unwrap().status, 200);
    });
    let told = flows(&lab, 1, &["--verdict", "AUDIT", "--http-path", "^/missing"]);
    let http = &told[0]["l7"]["http"];
    let headers = http["headers"].as_array().unwrap().iter();
    let headers: Vec<_> = headers
        .map(|h| [&h["key"], &h["value"]].map(|s| s.as_str().unwrap()))
        .collect();
    assert_eq!(
        headers[1..3],
        [["Accept", "text/x"], ["Cookie", "HUBBLE_REDACTED"]],
        "{http}"
    );
    assert_eq!(told[0]["trace_context"]["parent"]["trace_id"], trace);
    assert_eq!(
        (&told[0]["node_labels"][0], &told[0]["source"]["cluster_name"]),
        (&"zone=a".into(), &"lab".into())
    );
    assert!(told[0]["node_name"].as_str().unwrap().starts_with("lab/"));
    assert_eq!(
        flows(&lab, 1, &["--trace-id", trace, "--type", "l7"])[0]["uuid"],
        told[0]["uuid"]
    );
    tells_answers(&lab);
    let decided = flows(
        &lab,
        1,
        &["--to-port", "8080", "--type", "policy-verdict", "--from-pod", "client"],
    );
    let mac = |end: &str| decided[0]["ethernet"][end].as_str().map(|mac| mac.split(':').count());
    assert_eq!(
        (mac("source"), mac("destination")),
        (Some(6), Some(6)),
        "{}",
        decided[0]
    );

    is_only_text(&lab, 200);
    set_mode(&lab, "Disabled");
    is_only_text(&lab, 403);
}

/// Answers to what passed and would not have, each with its status and the time that it took.
fn tells_answers(lab: &Lab) {
    let server = lab.endpoint("server").unwrap().ipv4;
    let mut command = lab.endpoint("client").unwrap().command("h2load");
    command
        .args(["-n", "200", "-c", "2", "-m", "10"])
        .arg(format!("http://{server}:8081/missing"));
    assert!(command.output().unwrap().status.success());
    for (path, code, protocol, count) in [
        ("/missing", "404", "HTTP/1.1", 1),
        ("/denied", "200", "HTTP/1.1", 1),
        ("/missing", "404", "HTTP/2", 200),
    ] {
        let told = || {
            let mut told = observe(lab, &["--all", "--http-status", code, "--http-path", path]);
            told.retain(|record| record["flow"]["l7"]["http"]["protocol"] == protocol);
            told
        };
        until(&format!("{count} answers {code} of {protocol} are told"), || {
            told().len() >= count
        });
        assert_eq!(told().len(), count, "each once");
        for answer in told() {
            let flow = &answer["flow"];
            assert_eq!(
                (&flow["verdict"], &flow["l7"]["type"]),
                (&"FORWARDED".into(), &"RESPONSE".into())
            );
            assert_eq!(
                (&flow["source"]["pod_name"], &flow["decision"]),
                (&"server".into(), &Value::Null)
            );
            assert!(flow["l7"]["latency_ns"].as_str().unwrap().parse::<u64>().unwrap() > 0);
        }
    }
}

/// Paths that command terminals or are long, in every form in which they are told.
fn is_only_text(lab: &Lab, status: u16) {
    let long = format!("/denied/{}", "x".repeat(60 << 10));
    let hostile = [
        "/denied/%1b[2J\u{1b}]0;x\u{7}",
        "/denied/\u{202e}%e2%80%ae\u{9b}31m",
        "/denied/\u{0}\u{8}\u{7f}",
        &long,
    ];
    let seen = |lab: &Lab| observe(lab, &["--all", "--http-path", "^/denied/"]).len();
    let before = seen(lab);
    for path in hostile.map(str::to_owned) {
        in_client(lab, move |address| {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            connection.send(get(&path).as_bytes()).unwrap();
            // A server refuses control characters, too.
            let got = connection.answer().map(|answer| answer.status);
            if path.len() > 1024 {
                assert_eq!(got.unwrap(), status);
            }
        });
    }
    until("they are told", || seen(lab) > before);
    for form in ["compact", "dict", "tab", "json", "jsonpb"] {
        let said = lab.ask_agent(binary(), &["observe", "--all", "-o", form]).unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        assert!(said.status.success() && text.contains("/denied/"), "{form}");
        let commands = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(commands), "{form}: {text:?}");
    }
}
