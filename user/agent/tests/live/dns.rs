//! DNS rules and toFQDNs on live traffic: who may ask what, and that what was answered is open at once and only that.

use std::{
    fmt::Write as _,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    ops::Range,
    process::Output,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use seventh::lab::Lab;
use seventh_parsers::dns::{Message, RecordData};

use crate::stage::{binary, drops, lab, replace_policy, until};

/// The world outside.
pub(crate) const OUTSIDE: &str = "198.18.0.0/16";
const OUTSIDE_V6: &str = "2001:db8::/64";
/// Connections that are to be refused get no answer; those that are not get theirs within a fraction of the second after
/// which a lost SYN would be sent again.
pub(crate) const FIRST_SYN_ONLY: Duration = Duration::from_millis(700);
/// Names of the measure of first packets; `SEVENTH_NEW_NAMES` says otherwise.
const NEW_NAMES: u16 = 2000;

pub(crate) const ZONE: &str = "
    www.shop.test. 300 IN A 198.18.1.1
    www.shop.test. 300 IN A 198.18.1.2
    www.shop.test. 300 IN AAAA 2001:db8::1
    alias.shop.test. 300 IN CNAME target.deep.test.
    target.deep.test. 300 IN A 198.18.1.3
    allowed.test. 300 IN A 198.18.1.4
    denied.test. 300 IN A 198.18.1.5
    quiet.test. 300 IN A 198.18.1.6
    pod.shop.test. 300 IN A 10.0.2.2
";

/// Names under `shop.test` and `allowed.test` may be asked for, and `quiet.test`, to which nothing may connect.
pub(crate) const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toCIDR: [10.0.4.2/32, \"fd00:4::2/128\"]
    toPorts:
    - ports: [{port: \"53\", protocol: ANY}]
      rules:
        dns:
        - matchPattern: \"**.shop.test\"
        - matchPattern: \"*.many.test\"
        - matchName: allowed.test
        - matchName: quiet.test
  - toFQDNs:
    - matchPattern: \"**.shop.test\"
    - matchPattern: \"*.many.test\"
    - matchName: allowed.test
    toPorts:
    - ports: [{port: \"8080\", protocol: TCP}]
";

/// An agent that enforces [`POLICY`] and does not know of the server: to it, that is the world outside.
fn start_agent(lab: &mut Lab, more_config: &str) {
    start_agent_with(lab, POLICY, more_config);
}

pub(crate) fn start_agent_with(lab: &mut Lab, policy: &str, more_config: &str) {
    let dir = lab.dir().to_path_buf();
    std::fs::create_dir_all(dir.join("policies")).unwrap();
    std::fs::write(dir.join("policies/policy.yaml"), policy).unwrap();
    let config = lab.agent_config(more_config);
    let without_server: Vec<&str> = config.lines().filter(|line| !line.contains("default/server")).collect();
    std::fs::write(dir.join("config.yaml"), without_server.join("\n")).unwrap();
    lab.launch_agent(binary()).unwrap();
}

/// A lab whose server resolves names and is the world outside, and whose client may what [`POLICY`] says.
pub(crate) fn dns_stage(zone: &str, more_config: &str) -> Option<Lab> {
    stage_with(zone, POLICY, more_config)
}

pub(crate) fn stage_with(zone: &str, policy: &str, more_config: &str) -> Option<Lab> {
    let mut lab = lab()?;
    lab.start_nginx("server", None).unwrap();
    lab.start_unbound("server", zone).unwrap();
    lab.play_outside("server", OUTSIDE).unwrap();
    lab.play_outside("server", OUTSIDE_V6).unwrap();
    start_agent_with(&mut lab, policy, more_config);
    Some(lab)
}

/// What dig says: its status (REFUSED, NOERROR, ...), or nothing if nobody answered, and the rest.
pub(crate) fn dig(lab: &Lab, args: &[&str]) -> (String, String) {
    let server = format!("@{}", lab.endpoint("server").unwrap().ipv4);
    dig_at(lab, &server, args)
}

/// The same, of this server.
pub(crate) fn dig_at(lab: &Lab, server: &str, args: &[&str]) -> (String, String) {
    let client = lab.endpoint("client").unwrap();
    let output = client
        .command("dig")
        .args(["+tries=1", "+time=2", server])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text
        .split_once("status: ")
        .and_then(|(_, rest)| rest.split(',').next())
        .unwrap_or_default();
    (status.to_owned(), text)
}

/// How long dig waited for the answer; what it takes to start it does not count.
fn query_ms(text: &str) -> u32 {
    let line = text.lines().find_map(|line| line.strip_prefix(";; Query time: "));
    let number = line.and_then(|rest| rest.split(' ').next());
    number
        .and_then(|ms| ms.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

fn resolver(lab: &Lab) -> SocketAddr {
    (lab.endpoint("server").unwrap().ipv4, 53).into()
}

/// Whether the client's first SYN to port 8080 of this address is answered.
pub(crate) fn connects(lab: &Lab, address: &str) -> bool {
    connects_from(lab, "client", address)
}

fn connects_from(lab: &Lab, endpoint: &str, address: &str) -> bool {
    let address: SocketAddr = (address.parse::<IpAddr>().unwrap(), 8080).into();
    let endpoint = lab.endpoint(endpoint).unwrap();
    endpoint
        .run(move || TcpStream::connect_timeout(&address, FIRST_SYN_ONLY).is_ok())
        .unwrap()
}

fn seventh(lab: &Lab, args: &[&str]) -> Output {
    lab.ask_agent(binary(), args).unwrap()
}

/// Lines of JSON of a listing.
pub(crate) fn listing(lab: &Lab, args: &[&str]) -> Vec<Value> {
    let output = seventh(lab, &[args, &["-o", "json"]].concat());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn names_are_asked_for_as_the_rules_say_over_udp_and_tcp() {
    let Some(lab) = dns_stage(ZONE, "") else { return };
    let v6 = format!("@{}", lab.endpoint("server").unwrap().ipv6);
    for transport in [&[][..], &["+tcp"], &[v6.as_str()], &[v6.as_str(), "+tcp"], &["+noedns"]] {
        let ask = |name: &str, kind: &str| dig(&lab, &[transport, &[name, kind]].concat()).0;
        for (name, kind) in [
            ("www.shop.test", "A"),
            ("WWW.sHop.tEst", "AAAA"),
            ("allowed.test", "TXT"),
        ] {
            assert_eq!(ask(name, kind), "NOERROR", "{name} {transport:?}");
        }
        assert_eq!(ask("nothing.shop.test", "A"), "NXDOMAIN");
        for name in ["denied.test", "shop.test", "xallowed.test", "test", "."] {
            let (status, text) = dig(&lab, &[transport, &[name, "A"]].concat());
            assert_eq!(status, "REFUSED", "{name} {transport:?}");
            assert!(query_ms(&text) < 1000, "at once: {text}");
        }
    }
    assert_eq!(
        (drops(&lab, "dns_policy_denied"), drops(&lab, "dns_unsolicited_answer")),
        (25, 0)
    );
}

#[test]
fn only_what_was_resolved_is_open_and_only_for_who_resolved_it() {
    let Some(lab) = dns_stage(ZONE, "") else { return };
    assert!(!connects(&lab, "198.18.1.1"), "not resolved yet");
    dig(&lab, &["www.shop.test", "A"]);
    assert!(connects(&lab, "198.18.1.1") && connects(&lab, "198.18.1.2"));
    assert!(!connects(&lab, "198.18.1.4") && !connects(&lab, "2001:db8::1"));
    dig(&lab, &["www.shop.test", "AAAA"]);
    assert!(connects(&lab, "2001:db8::1"));
    dig(&lab, &["+tcp", "allowed.test", "A"]);
    assert!(connects(&lab, "198.18.1.4"), "learned over TCP");
    dig(&lab, &["quiet.test", "A"]);
    assert!(
        !connects(&lab, "198.18.1.6"),
        "a name that may be asked for opens nothing by itself"
    );
    dig(&lab, &["alias.shop.test", "A"]);
    assert!(
        !connects(&lab, "198.18.1.3"),
        "this resolver does not say where the alias leads"
    );
    dig(&lab, &["pod.shop.test", "A"]);
    assert!(!connects(&lab, "10.0.2.2"), "a name opens no endpoint of this node");
    let other = lab.endpoint("friend").unwrap();
    let server = resolver(&lab);
    let dig = other
        .command("dig")
        .args([&format!("@{}", server.ip()), "denied.test"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&dig.stdout).contains("NOERROR"),
        "no rule is about the friend"
    );
}

#[test]
fn what_is_known_can_be_listed_and_forgotten() {
    let Some(lab) = dns_stage(ZONE, "") else { return };
    dig(&lab, &["www.shop.test", "A"]);
    dig(&lab, &["allowed.test", "A"]);
    let names = listing(&lab, &["fqdn", "cache", "list"]);
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(
        names
            .iter()
            .all(|n| n["endpoint"] == "default/client" && n["ttl_s"].as_u64() > Some(290))
    );
    let identity = names.iter().find(|n| n["name"] == "allowed.test.").unwrap()["identity"].clone();
    let rows = listing(&lab, &["bpf", "names", "list"]);
    let row = rows.iter().find(|row| row["ip"] == "198.18.1.4").unwrap();
    assert!(
        rows.len() == 3 && row["identity"] == identity && row["endpoint"] == "default/client",
        "{rows:?}"
    );
    let identities = listing(&lab, &["identity", "list"]);
    let known = identities.iter().find(|i| i["id"] == identity).unwrap();
    assert!(known["labels"].to_string().contains("fqdn:allowed.test."), "{known}");
    let text = seventh(&lab, &["fqdn", "cache", "list"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("www.shop.test."));
    assert!(connects(&lab, "198.18.1.1"));
    assert!(
        seventh(&lab, &["fqdn", "cache", "clean", "--pattern", "*.shop.test"])
            .status
            .success()
    );
    assert!(!connects(&lab, "198.18.1.1") && connects(&lab, "198.18.1.4"));
    let wrong = seventh(&lab, &["fqdn", "cache", "clean", "--pattern", "a b"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(seventh(&lab, &["fqdn", "cache", "clean"]).status.success());
    assert!(!connects(&lab, "198.18.1.4"));
}

#[test]
fn names_survive_the_agent_whether_it_is_stopped_or_killed() {
    let Some(mut lab) = dns_stage(ZONE, "") else { return };
    // Killed in the moment in which the answer has come, twice over: before all names have ever been written down,
    // and with what the agents before have noted.
    let known = |lab: &Lab| listing(lab, &["fqdn", "cache", "list"]);
    for (round, name) in ["www.shop.test", "quiet.test"].iter().enumerate() {
        dig(&lab, &[name, "A"]);
        lab.end("agent", Signal::SIGKILL).unwrap();
        assert!(connects(&lab, "198.18.1.1"), "without an agent");
        lab.launch_agent(binary()).unwrap();
        let known = known(&lab);
        assert_eq!(known.len(), 2 + round, "{known:?}");
        let last = known.iter().find(|n| n["name"] == format!("{name}.")).unwrap();
        assert!(last["endpoint"] == "default/client" && last["ttl_s"].as_u64() > Some(280));
        assert!(
            connects(&lab, "198.18.1.1") && !connects(&lab, "198.18.1.4"),
            "with the next one"
        );
    }
    assert!(seventh(&lab, &["fqdn", "cache", "clean"]).status.success());
    lab.end("agent", Signal::SIGKILL).unwrap();
    lab.launch_agent(binary()).unwrap();
    assert!(
        !connects(&lab, "198.18.1.1") && known(&lab).iter().all(|n| n["lingers"] == true),
        "what was forgotten by hand does not come back"
    );
    dig(&lab, &["www.shop.test", "A"]);
    dig(&lab, &["allowed.test", "A"]);
    lab.end("agent", Signal::SIGTERM).unwrap();
    lab.launch_agent(binary()).unwrap();
    assert!(
        connects(&lab, "198.18.1.1") && connects(&lab, "198.18.1.4"),
        "stopped in order"
    );
    assert!(!connects(&lab, "198.18.1.6"));
}

#[test]
fn while_no_agent_runs_questions_wait_or_pass_as_configured() {
    let Some(mut lab) = dns_stage(ZONE, "") else { return };
    let asked = |lab: &Lab, name: &str| dig(lab, &[name, "A"]).0;
    assert_eq!(asked(&lab, "denied.test"), "REFUSED");
    lab.end("agent", Signal::SIGKILL).unwrap();
    for name in ["www.shop.test", "denied.test"] {
        assert_eq!(asked(&lab, name), "", "{name}: closed");
    }
    start_agent(&mut lab, "onAgentDown: open");
    assert_eq!(asked(&lab, "denied.test"), "REFUSED");
    lab.end("agent", Signal::SIGKILL).unwrap();
    for name in ["www.shop.test", "denied.test"] {
        assert_eq!(asked(&lab, name), "NOERROR", "{name}: open");
    }
    assert!(!connects(&lab, "198.18.1.1"), "nobody was there to learn it");
    lab.launch_agent(binary()).unwrap();
    assert_eq!(asked(&lab, "denied.test"), "REFUSED");
}

/// Records that these flags select, at least so many.
#[track_caller]
fn observed(lab: &Lab, at_least: usize, flags: &[&str]) -> Vec<Value> {
    let mut records = Vec::new();
    until(&format!("{at_least} records of {flags:?}"), || {
        records = listing(lab, &[&["observe"], flags].concat());
        records.len() >= at_least
    });
    records.into_iter().map(|mut record| record["flow"].take()).collect()
}

#[test]
fn questions_and_answers_are_told_as_dns() {
    let Some(lab) = dns_stage(ZONE, "") else { return };
    dig(&lab, &["alias.shop.test", "A"]);
    dig(&lab, &["allowed.test", "A"]);
    dig(&lab, &["gone.shop.test", "A", "+tcp"]);
    dig(&lab, &["denied.test", "AAAA"]);
    assert_alias_is_told(&lab);
    let gone = observed(&lab, 2, &["--allowlist", r#"{"dns_query": ["gone"]}"#]);
    assert_eq!(
        (&gone[1]["l7"]["dns"]["rcode"], &gone[1]["l4"]["TCP"]["source_port"]),
        (&3.into(), &53.into())
    );
    let refused = r#"{"dns_query": ["denied"], "verdict": ["DROPPED"]}"#;
    let denied = observed(&lab, 1, &["--allowlist", refused]);
    assert_eq!(denied[0]["egress_denied_by"][0]["name"], "names");
    assert_eq!(denied[0]["decision"]["reason"], "dns_policy_denied");
    assert!(connects(&lab, "198.18.1.4"));
    let opened = observed(&lab, 1, &["--type", "policy-verdict", "--to-fqdn", "allowed.*"]);
    assert_eq!(
        (
            &opened[0]["destination_names"],
            &opened[0]["l4"]["TCP"]["destination_port"]
        ),
        (&serde_json::json!(["allowed.test"]), &8080.into())
    );
    assert!(listing(&lab, &["observe", "--protocol", "http"]).is_empty());
    let text = String::from_utf8(seventh(&lab, &["observe", "--protocol", "dns"]).stdout).unwrap();
    for words in [
        "dns-request proxy FORWARDED (DNS Query alias.shop.test. A)",
        "dns-response proxy FORWARDED (DNS Answer \"198.18.1.4\" TTL: 300 (Proxy allowed.test. A))",
        "dns-request proxy DROPPED (DNS Query denied.test. AAAA",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

/// What is told of a name that leads to another.
fn assert_alias_is_told(lab: &Lab) {
    let alias = observed(
        lab,
        2,
        &["--allowlist", r#"{"dns_query": ["^alias\\.shop\\.test\\.$"]}"#],
    );
    let [question, answer] = alias.as_slice() else {
        panic!("{alias:#?}")
    };
    assert_eq!(question["l7"]["type"], "REQUEST");
    assert_eq!(question["l7"]["dns"]["qtypes"], serde_json::json!(["A"]));
    assert_eq!(
        (&question["verdict"], &question["is_reply"]),
        (&"FORWARDED".into(), &false.into())
    );
    assert_eq!(question["egress_allowed_by"][0]["name"], "names");
    let told = &answer["l7"]["dns"];
    assert_eq!(
        (
            &answer["l7"]["type"],
            &told["ips"],
            &told["cnames"],
            &told["ttl"],
            &told["observation_source"]
        ),
        (
            &"RESPONSE".into(),
            // This resolver does not say where the alias leads.
            &Value::Null,
            &serde_json::json!(["target.deep.test."]),
            &300.into(),
            &"proxy".into()
        )
    );
    let latency: u64 = answer["l7"]["latency_ns"].as_str().unwrap().parse().unwrap();
    assert!((1..2_000_000_000).contains(&latency), "{latency}");
    assert_eq!(answer["is_reply"], true);
    assert_eq!(answer["IP"]["source"], resolver(lab).ip().to_string());
    assert_eq!(
        (&answer["l4"]["UDP"]["source_port"], &answer["destination"]["pod_name"]),
        (&53.into(), &"client".into())
    );
}

#[test]
fn names_known_beforehand_are_open_before_anybody_asks() {
    let Some(mut lab) = lab() else { return };
    lab.start_nginx("server", None).unwrap();
    lab.play_outside("server", OUTSIDE).unwrap();
    let known =
        "- {name: allowed.test, ips: [198.18.1.4], ttlS: 300}\n- {name: denied.test, ips: [198.18.1.5], ttlS: 300}\n";
    std::fs::write(lab.dir().join("known.yaml"), known).unwrap();
    start_agent(&mut lab, "fqdn: {preCache: known.yaml}");
    let names = listing(&lab, &["fqdn", "cache", "list"]);
    assert_eq!(names.len(), 6, "two names for each of three endpoints: {names:?}");
    assert!(connects(&lab, "198.18.1.4"), "{}", lab.agent_log());
    assert!(!connects(&lab, "198.18.1.5"));
}

#[test]
fn a_changed_policy_counts_for_names_that_are_known() {
    let Some(lab) = dns_stage(ZONE, "") else { return };
    dig(&lab, &["quiet.test", "A"]);
    dig(&lab, &["allowed.test", "A"]);
    let changed = POLICY.replace("  - toFQDNs:\n", "  - toFQDNs:\n    - matchName: quiet.test\n");
    replace_policy(
        &lab,
        &changed.replace("    - matchName: allowed.test\n    toPorts", "    toPorts"),
    );
    assert!(connects(&lab, "198.18.1.6") && !connects(&lab, "198.18.1.4"));
}

#[test]
fn one_node_may_share_its_names() {
    for (setting, shared) in [("fqdn: {scope: node}", true), ("", false)] {
        let Some(lab) = stage_with(ZONE, &for_both(POLICY), setting) else {
            return;
        };
        dig(&lab, &["allowed.test", "A"]);
        let names = listing(&lab, &["fqdn", "cache", "list"]);
        assert!(names.len() == 1 && (names[0]["endpoint"] == "") == shared);
        assert!(connects(&lab, "198.18.1.4"));
        assert_eq!(connects_from(&lab, "friend", "198.18.1.4"), shared, "who has not asked");
    }
}

/// The same rules for the friend.
fn for_both(policy: &str) -> String {
    let both = "{matchExpressions: [{key: app, operator: In, values: [client, friend]}]}";
    policy.replace("{matchLabels: {app: client}}", both)
}

/// Whether a program in the client resolves the name, with this resolv.conf.
fn resolves(lab: &Lab, program: &str, conf: &str, name: &str) -> bool {
    let file = lab.dir().join("resolv.conf");
    std::fs::write(&file, conf).unwrap();
    let mut command = lab.endpoint("client").unwrap().command("unshare");
    let script = format!("mount --bind {} /etc/resolv.conf && {program} {name}", file.display());
    let output = command.args(["--mount", "sh", "-c", &script]).output().unwrap();
    output.status.success()
}

/// A program that resolves as musl does.
fn musl_resolver(lab: &Lab) -> String {
    let program = lab.dir().join("resolve").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/programs/resolve.c");
    let built = std::process::Command::new("musl-gcc")
        .args(["-static", "-o", &program, source])
        .status()
        .expect("musl-gcc is there; `./seventh-dev setup` installs musl-tools");
    assert!(built.success());
    program
}

#[test]
fn search_lists_of_glibc_and_musl_end_at_a_refusal_and_go_on_after_a_name_error() {
    for (setting, finds) in [("", false), ("fqdn: {reject: nameError}", true)] {
        let Some(lab) = dns_stage(ZONE, setting) else { return };
        let server = resolver(&lab).ip();
        // `www.nowhere.test` may not be asked for, `www.shop.test` may.
        let conf = format!("nameserver {server}\nsearch nowhere.test shop.test\noptions timeout:1 attempts:1\n");
        for program in ["getent ahostsv4", &musl_resolver(&lab)] {
            assert_eq!(resolves(&lab, program, &conf, "www"), finds, "{program} {setting}");
            assert!(!resolves(&lab, program, &conf, "denied.test"), "{program}");
            assert!(resolves(&lab, program, &conf, "www.shop.test"), "{program}");
        }
        assert!(connects(&lab, "198.18.1.1"));
    }
}

pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Resolves a name with a query of its own and connects in the same breath. How often the first SYN failed.
fn race(resolver: SocketAddr, names: Range<u16>) -> (u16, Duration) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(resolver).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut failed = 0;
    let begin = Instant::now();
    for n in names {
        socket.send(&query(n, &format!("n{n}.many.test"))).unwrap();
        let mut buffer = [0; 1500];
        let len = socket.recv(&mut buffer).unwrap();
        let message = Message::parse(&buffer[..len]).unwrap();
        let address = message.answers().find_map(|record| match record.data {
            RecordData::A(address) => Some(Ipv4Addr::from(address)),
            _ => None,
        });
        let address = address.unwrap_or_else(|| panic!("n{n} has no address"));
        failed += u16::from(TcpStream::connect_timeout(&(address, 8080).into(), FIRST_SYN_ONLY).is_err());
    }
    (failed, begin.elapsed())
}

#[test]
fn not_one_first_packet_to_a_new_name_is_lost() {
    let new_names = std::env::var("SEVENTH_NEW_NAMES").map_or(NEW_NAMES, |count| count.parse().unwrap());
    let mut zone = ZONE.to_owned();
    for n in 0..new_names {
        let [high, low] = n.to_be_bytes();
        let _ = writeln!(zone, "n{n}.many.test. 300 IN A 198.18.{}.{low}", 100 + high);
    }
    // Names that several selectors match make combinations that nobody has thought of before, and every change of the
    // policy makes others.
    let policy = |more: &str| {
        for_both(POLICY).replace(
            "  - toFQDNs:\n",
            &format!("  - toFQDNs:\n    - matchPattern: \"*7.many.test\"\n{more}"),
        )
    };
    let Some(lab) = stage_with(&zone, &policy(""), "workers: 2") else {
        return;
    };
    let server = resolver(&lab);
    let half = new_names / 2;
    let run = |endpoint: &str, names: Range<u16>| {
        lab.endpoint(endpoint)
            .unwrap()
            .run(move || race(server, names))
            .unwrap()
    };
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| run("client", 0..half));
        let second = scope.spawn(|| run("friend", half..new_names));
        for digit in [1, 3, 5] {
            std::thread::sleep(Duration::from_millis(150));
            replace_policy(&lab, &policy(&format!("    - matchPattern: \"*{digit}.many.test\"\n")));
        }
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(
        (first.0, second.0, drops(&lab, "policy_denied")),
        (0, 0, 0),
        "{first:?} {second:?}"
    );
    assert_eq!(listing(&lab, &["fqdn", "cache", "list"]).len(), usize::from(new_names));
}

#[test]
fn many_queries_share_one_connection() {
    let Some(lab) = dns_stage(ZONE, "") else { return };
    let server = resolver(&lab);
    let answered = lab.endpoint("client").unwrap().run(move || {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let framed = |id, name: &str| {
            let query = query(id, name);
            [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat()
        };
        let names = ["www.shop.test", "allowed.test", "alias.shop.test"];
        let all: Vec<u8> = (0..).zip(names).flat_map(|(id, name)| framed(id, name)).collect();
        let (first, second) = all.split_at(all.len() / 2);
        stream.write_all(first).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(second).unwrap();
        let mut answered = 0;
        for _ in names {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut message).unwrap();
            answered += Message::parse(&message).unwrap().answers().count();
        }
        stream.write_all(&framed(9, "denied.test")).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(
            (rest[5] & 0xf, rest.len()),
            (5, 2 + query(9, "denied.test").len()),
            "REFUSED, then the end"
        );
        answered
    });
    assert_eq!(
        answered.unwrap(),
        4,
        "two addresses, one, and an alias of which it does not say where it leads"
    );
    assert!(connects(&lab, "198.18.1.1") && connects(&lab, "198.18.1.4") && !connects(&lab, "198.18.1.3"));
}

/// The name opens port 8080 without rules, the prefix with them: what a name once allowed gives a new connection no way
/// past the rules that are left when its time is over, and the connection that was there goes on.
#[test]
fn an_expired_name_serves_its_connections_and_lets_no_new_one_past_the_rules_of_the_address() {
    let policy = POLICY.to_owned()
        + "  - toCIDR: [198.18.1.4/32]\n    toPorts:\n    - ports: [{port: \"8080\", protocol: TCP}]\n      rules: {http: \
           [{path: /public}]}\n";
    let zone = ZONE.replace("allowed.test. 300", "allowed.test. 1");
    let Some(lab) = stage_with(&zone, &policy, "fqdn: {ttlMinS: 1}") else {
        return;
    };
    dig(&lab, &["allowed.test", "A"]);
    let get = |stream: &mut TcpStream, path: &str| {
        use std::io::Write as _;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream
            .read_exact(&mut head)
            .map(|()| String::from_utf8_lossy(&head).into_owned())
    };
    let address: SocketAddr = "198.18.1.4:8080".parse().unwrap();
    let client = lab.endpoint("client").unwrap();
    let mut old = client.run(move || TcpStream::connect(address).unwrap()).unwrap();
    until("the name's time is over", || {
        let names = listing(&lab, &["fqdn", "cache", "list"]);
        names.iter().any(|name| name["lingers"] == true)
    });
    let mut new = client.run(move || TcpStream::connect(address).unwrap()).unwrap();
    assert!(get(&mut new, "/private").unwrap().ends_with("403"));
    assert!(!get(&mut old, "/private").unwrap().ends_with("403"));
    replace_policy(
        &lab,
        &policy.replace("- matchName: quiet.test\n", "- matchName: silent.test\n"),
    );
    let mut new = client.run(move || TcpStream::connect(address).unwrap()).unwrap();
    assert!(
        get(&mut new, "/private").unwrap().ends_with("403"),
        "under the next policy, too"
    );
}
