//! What happened on live traffic, as `seventh observe` tells it.

use std::{io::Read as _, net::SocketAddr};

use serde_json::Value;
use seventh::lab::Lab;

use crate::client::{Connection, IMPATIENCE, PATIENCE, fetch, get};
use crate::stage::{PUBLIC, binary, stage, until};

/// Records that these flags select, as JSON.
pub(crate) fn observe(lab: &Lab, flags: &[&str]) -> Vec<Value> {
    let output = lab
        .ask_agent(binary(), &[&["observe", "-o", "json"], flags].concat())
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", lab.agent_log());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Flows that these flags select, when there are at least so many.
#[track_caller]
pub(crate) fn flows(lab: &Lab, at_least: usize, flags: &[&str]) -> Vec<Value> {
    let mut records = Vec::new();
    until(&format!("{at_least} records of {flags:?}"), || {
        records = observe(lab, flags);
        records.len() >= at_least
    });
    records.into_iter().map(|mut record| record["flow"].take()).collect()
}

/// What `observe` prints with these flags.
fn printed(lab: &Lab, flags: &[&str]) -> String {
    let output = lab.ask_agent(binary(), &[&["observe"], flags].concat()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn requests_and_answers_are_told_with_their_policies() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let server: SocketAddr = (lab.endpoint("server").unwrap().ipv4, 8080).into();
    let client = lab.endpoint("client").unwrap();
    client
        .run(move || {
            let mut connection = Connection::open(server, PATIENCE).unwrap();
            for path in ["/public/1?token=secret", "/denied"] {
                connection.send(get(path).as_bytes()).unwrap();
                connection.answer().unwrap();
            }
        })
        .unwrap();
    let told = flows(&lab, 3, &["--type", "l7", "--protocol", "http"]);
    let [request, answer, refused] = told.as_slice() else {
        panic!("{told:#?}")
    };
    let url = assert_is_the_request(request);
    assert_is_the_answer(answer, &url);
    assert_eq!(
        (&refused["verdict"], &refused["drop_reason_desc"]),
        (&"DROPPED".into(), &"POLICY_DENIED".into())
    );
    assert_eq!(refused["decision"]["reason"], "http_policy_denied");
    assert_eq!(refused["ingress_denied_by"][0]["name"], "server");
    assert_refusal_is_printed(&lab);
    assert_a_file_says_the_same(&lab);
    assert_columns_come_without_being_many(&lab);
    assert_top_shows_what_happens(&lab, server);
}

/// The next two seconds, in which one is allowed something and refused something.
fn assert_top_shows_what_happens(lab: &Lab, server: SocketAddr) {
    let top = std::process::Command::new(binary())
        .args(["top", "--once", "--interval", "2s", "-o", "json", "--server"])
        .arg(format!("unix://{}", lab.socket().display()))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let client = lab.endpoint("client").unwrap();
    client
        .run(move || {
            for _ in 0..30 {
                for path in ["/public/top", "/denied"] {
                    fetch(server.ip(), path, PATIENCE).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        })
        .unwrap();
    let output = top.wait_with_output().unwrap();
    assert!(output.status.success());
    let top: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(top["http_per_s"].as_f64().unwrap() > 1.0, "{top}");
    assert_eq!(top["talkers"][0]["source"], "default/client", "{top}");
    assert_eq!(top["denials"][0]["policy"], "default/server", "{top}");
    assert_eq!(top["denials"][0]["reason"], "http_policy_denied");
    let latencies = top["latencies"].as_array().unwrap();
    for wanted in ["http answers", "verdicts"] {
        let latency = latencies.iter().find(|latency| latency["what"] == wanted);
        assert!(
            latency.is_some_and(|latency| latency["p99_ns"].as_u64() > Some(0)),
            "{top}"
        );
    }
}

/// What was written as JSON is read again, with the same filters and the same words.
fn assert_a_file_says_the_same(lab: &Lab) {
    let file = lab.dir().join("flows.json");
    std::fs::write(&file, printed(lab, &["--all", "-o", "json"])).unwrap();
    let file = file.display().to_string();
    for flags in [
        &["--protocol", "http"][..],
        &["--verdict", "DROPPED", "-o", "dict"],
        &["--type", "l7", "--last", "1", "-o", "json"],
    ] {
        let from_file = printed(lab, &[flags, &["--input-file", &file]].concat());
        assert!(!from_file.is_empty(), "{flags:?}");
        assert_eq!(from_file, printed(lab, flags), "{flags:?}");
    }
}

/// Rows that wait for the widths of their columns come when nothing else does.
fn assert_columns_come_without_being_many(lab: &Lab) {
    let out = lab.dir().join("columns");
    let mut follower = std::process::Command::new(binary())
        .args(["observe", "--follow", "--last", "2", "-o", "tab"])
        .arg("--server")
        .arg(format!("unix://{}", lab.socket().display()))
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    until("the rows are there", || {
        std::fs::read_to_string(&out).unwrap().lines().count() == 3
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// Returns its URL.
fn assert_is_the_request(request: &Value) -> String {
    assert_eq!(
        (&request["verdict"], &request["l7"]["type"]),
        (&"FORWARDED".into(), &"REQUEST".into())
    );
    assert_eq!(request["l7"]["http"]["method"], "GET");
    let url = request["l7"]["http"]["url"].as_str().unwrap();
    assert!(url.ends_with("/public/1?HUBBLE_REDACTED"), "{url}");
    assert_eq!(request["traffic_direction"], "INGRESS");
    assert_eq!(request["is_reply"], false);
    assert_eq!(
        (&request["source"]["pod_name"], &request["source"]["namespace"]),
        (&"client".into(), &"default".into())
    );
    assert!(
        request["source"]["labels"]
            .as_array()
            .unwrap()
            .contains(&"k8s:app=client".into())
    );
    assert_eq!(request["destination"]["pod_name"], "server");
    assert_eq!(request["destination"]["workloads"][0]["name"], "server");
    assert_eq!(request["l4"]["TCP"]["destination_port"], 8080);
    let policy = &request["ingress_allowed_by"][0];
    assert_eq!(
        (&policy["name"], &policy["namespace"], &policy["kind"]),
        (&"server".into(), &"default".into(), &"CiliumNetworkPolicy".into())
    );
    url.to_owned()
}

fn assert_is_the_answer(answer: &Value, url: &str) {
    assert_eq!(
        (&answer["verdict"], &answer["l7"]["type"]),
        (&"FORWARDED".into(), &"RESPONSE".into())
    );
    assert_eq!(
        (&answer["l7"]["http"]["code"], &answer["l7"]["http"]["url"]),
        (&200.into(), &url.into())
    );
    let latency: u64 = answer["l7"]["latency_ns"].as_str().unwrap().parse().unwrap();
    assert!((1..5_000_000_000).contains(&latency), "{latency}");
    assert_eq!(
        (&answer["source"]["pod_name"], &answer["is_reply"]),
        (&"server".into(), &true.into())
    );
    assert_eq!(answer["l4"]["TCP"]["source_port"], 8080);
}

fn assert_refusal_is_printed(lab: &Lab) {
    let line = printed(lab, &["--type", "l7", "--verdict", "DROPPED", "--print-policy-names"]);
    assert!(
        line.contains("default/client:") && line.contains("-> default/server:8080"),
        "{line}"
    );
    assert!(
        line.contains("http-request DROPPED BY server (CiliumNetworkPolicy) (HTTP/1.1 GET http://"),
        "{line}"
    );
    assert!(line.contains("Reason: http_policy_denied"), "{line}");
}

#[test]
fn first_decisions_and_drops_of_the_kernel_are_told() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let v4 = lab.endpoint("server").unwrap().ipv4;
    let v6 = lab.endpoint("server").unwrap().ipv6;
    lab.endpoint("friend")
        .unwrap()
        .run(move || fetch(v4, "/x", PATIENCE))
        .unwrap()
        .unwrap();
    let intruder = lab.endpoint("intruder").unwrap();
    intruder.run(move || fetch(v6, "/x", IMPATIENCE)).unwrap().unwrap_err();
    let allowed = flows(&lab, 1, &["--type", "policy-verdict", "--from-pod", "default/friend"]);
    assert_eq!(
        (&allowed[0]["verdict"], &allowed[0]["traffic_direction"]),
        (&"FORWARDED".into(), &"INGRESS".into())
    );
    assert_eq!(allowed[0]["l4"]["TCP"]["flags"], serde_json::json!({"SYN": true}));
    assert_eq!(
        (
            &allowed[0]["policy_match_type"],
            &allowed[0]["ingress_allowed_by"][0]["name"]
        ),
        (&2.into(), &"server".into())
    );
    let dropped = flows(&lab, 1, &["--type", "drop", "--from-label", "app=intruder", "-6"]);
    assert_eq!(
        (&dropped[0]["drop_reason_desc"], &dropped[0]["event_type"]["sub_type"]),
        (&"POLICY_DENIED".into(), &133.into())
    );
    assert_eq!(dropped[0]["IP"]["destination"], v6.to_string());
    assert!(dropped[0].get("is_reply").is_none(), "nobody knows");
    let verdicts = printed(
        &lab,
        &["--type", "policy-verdict", "--from-pod", "intruder", "--last", "1"],
    );
    assert!(
        verdicts.contains("policy-verdict:none INGRESS DENIED (TCP Flags: SYN)"),
        "{verdicts}"
    );
}

#[test]
fn a_final_answer_behind_an_interim_one_is_told_and_pipelined_ones_are_given_to_nobody() {
    let Some(mut lab) = crate::stage::lab() else { return };
    let _tally = crate::server::start(lab.endpoint("server").unwrap()).unwrap();
    lab.start_agent(binary(), &crate::stage::policy(PUBLIC), "").unwrap();
    let server: SocketAddr = (lab.endpoint("server").unwrap().ipv4, 8080).into();
    let client = lab.endpoint("client").unwrap();
    client
        .run(move || {
            let mut connection = Connection::open(server, PATIENCE).unwrap();
            let head = "PUT /public/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
            connection.send(head.as_bytes()).unwrap();
            let mut interim = [0; 25];
            connection.stream.read_exact(&mut interim).unwrap();
            assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
            connection.send(b"abc").unwrap();
            assert_eq!(connection.answer().unwrap().status, 200);
            let both = [get("/public/one"), get("/public/two")].concat();
            connection.send(both.as_bytes()).unwrap();
            for _ in 0..2 {
                assert_eq!(connection.answer().unwrap().status, 200);
            }
            connection.get("/public/after").unwrap();
        })
        .unwrap();
    // The last one's answer is the last of all.
    flows(&lab, 2, &["--http-path", "/public/after"]);
    let told: Vec<_> = flows(&lab, 6, &["--protocol", "http", "--all"])
        .iter()
        .map(|flow| {
            let (l7, http) = (&flow["l7"], &flow["l7"]["http"]);
            let path = http["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            (path, l7["type"] == "RESPONSE", http["code"].as_u64().unwrap_or(0))
        })
        .collect();
    let wanted = [
        ("upload", false, 0),
        ("upload", true, 200),
        ("one", false, 0),
        ("two", false, 0),
        ("after", false, 0),
        ("after", true, 200),
    ];
    assert_eq!(told, wanted.map(|(path, answer, code)| (path.to_owned(), answer, code)));
}

#[test]
fn a_dropped_reply_has_the_direction_of_its_flow() {
    let Some(mut lab) = crate::stage::lab() else { return };
    let short = "keepalive_timeout 5; location / { return 200 \"hello\"; }";
    lab.start_nginx("server", Some(short)).unwrap();
    lab.start_agent(binary(), &crate::stage::policy(PUBLIC), "").unwrap();
    let v4 = lab.endpoint("server").unwrap().ipv4;
    let address = SocketAddr::new(v4.into(), 8080);
    lab.endpoint("friend")
        .unwrap()
        .run(move || {
            let mut connection = Connection::open(address, PATIENCE).unwrap();
            connection.get("/x").unwrap();
            // The server ends the connection after its keep-alive time, when the policy has changed: its FIN is a reply.
            std::thread::spawn(move || connection.rest());
        })
        .unwrap();
    crate::stage::replace_policy(
        &lab,
        &crate::stage::policy(PUBLIC).replace("app: friend", "app: nobody"),
    );
    let dropped = flows(&lab, 1, &["--type", "drop", "--from-pod", "default/server"]);
    assert_eq!(
        (
            &dropped[0]["traffic_direction"],
            &dropped[0]["is_reply"],
            &dropped[0]["destination"]["pod_name"]
        ),
        (&"INGRESS".into(), &true.into(), &"friend".into())
    );
    let verdict = flows(
        &lab,
        1,
        &[
            "--type",
            "policy-verdict",
            "--verdict",
            "DROPPED",
            "--from-pod",
            "default/server",
        ],
    );
    assert_eq!(verdict[0]["traffic_direction"], "INGRESS");
}

#[test]
fn who_follows_sees_what_happens_and_a_hostile_path_is_only_text() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let v4 = lab.endpoint("server").unwrap().ipv4;
    let out = lab.dir().join("followed");
    let mut follower = std::process::Command::new(binary())
        .args(["observe", "--follow", "--http-path", "^/denied/"])
        .arg("--server")
        .arg(format!("unix://{}", lab.socket().display()))
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let client = lab.endpoint("client").unwrap();
    until("the follower sees a request", || {
        for path in ["/denied/\u{202e}%e2%80%ae", "/denied/%1b[2J\u{1b}]0;", "/denied/x"] {
            client.run(move || fetch(v4, path, PATIENCE)).unwrap().unwrap();
        }
        std::fs::read_to_string(&out).unwrap().contains("http-request DROPPED")
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(
        text.lines().all(|line| line.contains("http-request DROPPED")),
        "{text:?}"
    );
    let all = text + &printed(&lab, &["--all"]) + &printed(&lab, &["--all", "-o", "json"]);
    let hostile = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!all.contains(hostile), "{all:?}");
}

#[test]
fn the_agent_tells_of_itself_and_of_its_servers() {
    let Some(lab) = stage(PUBLIC, "hubble: {listen: '127.0.0.1:4244', eventBufferCapacity: 127}\n") else {
        return;
    };
    let events = printed(&lab, &["agent-events", "--all"]);
    assert!(
        events.contains("AGENT_STARTED (start time: ") && events.contains("ENDPOINT_CREATED (id: "),
        "{events}"
    );
    crate::stage::replace_policy(&lab, &crate::stage::policy("{method: GET}"));
    until("the change is told", || {
        printed(&lab, &["agent-events", "--all"]).contains("POLICY_UPDATED (labels: [], revision: ")
    });
}
