//! `seventh policy validate` and `trace` as a person meets them: output, exit status, what they say to mistakes.
#![forbid(unsafe_code)]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

const POLICIES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: front}}]
    toPorts:
    - ports: [{port: http, protocol: TCP}]
      rules:
        http:
        - {method: GET, path: '/public(/.*)?'}
        - {method: POST, path: /orders, headers: ['X-Key: k']}
  ingressDeny:
  - fromEntities: [world]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: front, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: front}}
  egress:
  - toEndpoints: [{matchLabels: {app: web}}]
  - icmps: [{fields: [{type: EchoRequest}]}]
  - toFQDNs: [{matchPattern: '*.example.com'}]
    toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['api.example.com']}]
  - toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*.example.com'}]}}]
";

struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.err))
    }
}

fn seventh(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_seventh"))
        .args(arguments)
        .output()
        .unwrap();
    Said {
        status: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn directory(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("shop.yaml"), text).unwrap();
    directory
}

fn trace(policies: &Path, from: &str, to: &str, more: &[&str]) -> Said {
    let mut arguments = vec![
        "policy",
        "trace",
        "--policy",
        policies.to_str().unwrap(),
        "--from",
        from,
        "--to",
        to,
    ];
    arguments.extend(more);
    seventh(&arguments)
}

const WEB: &str = "app=web,io.kubernetes.pod.namespace=shop";
const FRONT: &str = "app=front,io.kubernetes.pod.namespace=shop";
const ON_HTTP: &[&str] = &["--port", "8080", "--named-port", "http=8080"];

fn request(line: &str, more: &[&str]) -> Said {
    let dir = directory(POLICIES);
    trace(
        dir.path(),
        FRONT,
        WEB,
        &[ON_HTTP, &["--http", line, "-o", "json"], more].concat(),
    )
}

#[test]
fn a_trace_ends_with_zero_and_the_deciding_rule_if_allowed() {
    let said = request("GET web/public/1", &[]);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let json = said.json();
    assert_eq!(
        (&json["verdict"], &json["from"], &json["port"]),
        (
            &"allowed".into(),
            &"k8s:app=front,k8s:io.kubernetes.pod.namespace=shop".into(),
            &8080.into()
        )
    );
    let rule = &json["ingress"]["rule"];
    assert_eq!(rule["path"], "spec.ingress[0].toPorts[0].rules.http[0]");
    assert_eq!(
        (&rule["document"], &rule["line"], &rule["name"]),
        (&1.into(), &12.into(), &"web".into())
    );
    assert!(rule["file"].as_str().unwrap().ends_with("shop.yaml"));
    assert_eq!(json["egress"]["rule"]["path"], "spec.egress[0]");
}

#[test]
fn a_trace_ends_with_one_and_the_nearest_rule_if_denied() {
    let said = request("POST web/orders", &["--header", "X-Key: guess"]);
    assert_eq!(said.status, Some(1), "{}", said.err);
    let json = said.json();
    assert_eq!(json["ingress"]["reason"], "http_policy_denied");
    let near = &json["ingress"]["nearest"];
    assert_eq!(near["rule"]["path"], "spec.ingress[0].toPorts[0].rules.http[1]");
    assert_eq!(near["misses"][0]["field"], "header");
    assert_eq!(request("POST web/orders", &["--header", "x-key: k"]).status, Some(0));
}

#[test]
fn a_trace_refuses_what_the_engine_refuses_whatever_the_rules_say() {
    let said = request("GET web/public/%2e%2e/orders", &[]);
    assert_eq!(
        (said.status, said.json()["ingress"]["reason"].clone()),
        (Some(1), "http_ambiguous_path".into())
    );
    // Where no rule reads it, it passes.
    let dir = directory(&POLICIES.replace("app: web}}\n  ingress:", "app: nobody}}\n  ingress:"));
    let said = trace(dir.path(), FRONT, WEB, &["--port", "8080", "--http", "GET web/%2e%2e/"]);
    assert_eq!(said.status, Some(0), "{}{}", said.out, said.err);
}

#[test]
fn a_trace_knows_names_addresses_icmp_and_reserved_labels() {
    let dir = directory(POLICIES);
    let ask = |to: &str, more: &[&str]| trace(dir.path(), FRONT, to, more).status;
    assert_eq!(
        ask("api.example.com", &["--port", "443", "--sni", "api.example.com"]),
        Some(0)
    );
    assert_eq!(
        ask("api.example.com", &["--port", "443", "--sni", "other.example.com"]),
        Some(1)
    );
    assert_eq!(ask("api.example.com", &["--port", "443", "--sni", ""]), Some(1));
    assert_eq!(
        ask("example.org", &["--port", "443", "--sni", "api.example.com"]),
        Some(1)
    );
    // DNS goes over UDP unless told otherwise.
    assert_eq!(ask("10.0.0.53", &["--port", "53", "--dns", "WWW.example.com"]), Some(0));
    assert_eq!(
        ask("10.0.0.53", &["--port", "53/TCP", "--dns", "www.example.org."]),
        Some(1)
    );
    assert_eq!(ask("192.0.2.1", &["--port", "8/ICMP"]), Some(0));
    assert_eq!(ask("192.0.2.1", &["--port", "0/ICMP"]), Some(1));
    assert_eq!(ask("fd00::1", &["--port", "8/ICMP"]), Some(2));
    let from = |from: &str, more: &[&str]| trace(dir.path(), from, WEB, &[ON_HTTP, more].concat());
    let world = from("reserved:world", &[]);
    assert!(
        world.out.contains("policy_deny_rule") && world.out.contains("spec.ingressDeny[0]"),
        "{}",
        world.out
    );
    assert_eq!(world.status, Some(1));
    assert_eq!(from("reserved:host", &[]).status, Some(0));
    assert_eq!(from("reserved:host", &["--allow-localhost", "false"]).status, Some(1));
    // Nobody governs the namespace `default`.
    let elsewhere = trace(dir.path(), "app=front", "app=web", &["--port", "1"]);
    assert!(
        elsewhere.out.contains("k8s:io.kubernetes.pod.namespace=default"),
        "{}",
        elsewhere.out
    );
    assert_eq!(elsewhere.status, Some(0));
    assert!(
        elsewhere
            .err
            .contains("no document is of namespace `default`; they are of: shop"),
        "{}",
        elsewhere.err
    );
    // Whoever comes from another namespace is no mistake, nor is one that a policy of the whole cluster governs.
    assert_eq!(from("app=front", &[]).err, "");
    let everywhere = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: a}\n\
                      spec: {endpointSelector: {}, ingress: [{}]}\n";
    let everywhere = directory(everywhere);
    assert_eq!(
        trace(everywhere.path(), "app=front", "app=web", &["--port", "1"]).err,
        ""
    );
    assert_eq!(
        trace(
            dir.path(),
            "app=front",
            "app=web",
            &["--port", "1", "--enforcement", "always"]
        )
        .status,
        Some(1)
    );
}

#[test]
fn a_trace_without_content_says_that_the_content_decides() {
    let dir = directory(POLICIES);
    let said = trace(dir.path(), FRONT, WEB, ON_HTTP);
    assert!(
        said.status == Some(0) && said.out.contains("ask again with --http"),
        "{}",
        said.out
    );
}

#[test]
fn a_question_that_cannot_be_answered_ends_with_two() {
    let dir = directory(POLICIES);
    let cases: &[(&str, &str, &[&str], &str)] = &[
        ("10.0.0.1", "10.0.0.2", &["--port", "80"], "neither"),
        (
            FRONT,
            "reserved:wrold",
            &["--port", "80"],
            "there is no `reserved:wrold`",
        ),
        (FRONT, WEB, &["--port", "http"], "a port is a number"),
        (FRONT, WEB, &["--port", "80", "--http", "GET"], "METHOD host/path"),
        (
            FRONT,
            WEB,
            &["--port", "80/UDP", "--http", "GET a/"],
            "HTTP is carried by TCP",
        ),
        (
            FRONT,
            WEB,
            &["--port", "80", "--http", "GET a/", "--dns", "a"],
            "cannot be used with",
        ),
        (FRONT, WEB, &["--port", "53", "--dns", "a*"], "--dns"),
        (FRONT, WEB, &["--port", "80", "--header", "A: b"], "--http"),
        (FRONT, WEB, &[], "--port"),
    ];
    for (from, to, more, wanted) in cases {
        let said = trace(dir.path(), from, to, more);
        assert!(
            said.status == Some(2) && said.err.contains(wanted),
            "{more:?}: {:?} {}",
            said.status,
            said.err
        );
    }
    let missing = trace(Path::new("no-such-folder"), FRONT, WEB, &["--port", "80"]);
    assert!(
        missing.status == Some(2) && missing.err.contains("no such file"),
        "{}",
        missing.err
    );
    let empty = tempfile::tempdir().unwrap();
    let said = trace(empty.path(), FRONT, WEB, &["--port", "80"]);
    assert!(
        said.status == Some(2) && said.err.contains("no policy document"),
        "{}",
        said.err
    );
    // An answer from the documents that are left would be the answer to another question.
    let broken = directory(&POLICIES.replace("ingressDeny", "ingressDenied"));
    let said = trace(broken.path(), FRONT, WEB, &["--port", "80"]);
    assert!(
        said.status == Some(2) && said.err.contains("spec.ingressDenied"),
        "{}",
        said.err
    );
}

#[test]
fn validation_shows_file_line_document_field_and_reason() {
    let dir = directory(&POLICIES.replace("endpointSelector: {matchLabels: {app: front}}", "endpointSelektor: {}"));
    let said = seventh(&["policy", "validate", dir.path().to_str().unwrap()]);
    assert_eq!(said.status, Some(1));
    assert!(
        said.out
            .contains("shop.yaml:21:3: error: document 2 (CiliumNetworkPolicy shop/front): spec.endpointSelektor: "),
        "{}",
        said.out
    );
    assert!(
        said.out
            .ends_with("1 documents valid, 2 errors, 0 warnings, 0 other objects passed over\n"),
        "{}",
        said.out
    );
    let json = seventh(&["policy", "validate", "-o", "json", dir.path().to_str().unwrap()]);
    assert_eq!(json.status, Some(1));
    let json = json.json();
    assert_eq!(json["valid"], 1);
    let findings = json["findings"].as_array().unwrap();
    let unknown = findings.iter().find(|f| f["field"] == "spec.endpointSelektor").unwrap();
    assert_eq!(
        (unknown["line"].as_u64(), unknown["column"].as_u64()),
        (Some(21), Some(3)),
        "{json}"
    );
    assert_eq!(
        (&unknown["document"], &unknown["severity"]),
        (&2.into(), &"error".into())
    );
    assert_eq!(unknown["object"], "CiliumNetworkPolicy shop/front");
    assert!(
        unknown["reason"]
            .as_str()
            .unwrap()
            .contains("did you mean `endpointSelector`")
    );
}

#[test]
fn validation_warns_of_traps_and_still_ends_with_zero() {
    let dir = directory(
        &POLICIES
            .replace("dns: [{matchPattern: '*.example.com'}]", "dns: [{}]")
            .replace("- icmps:", "- authentication: {mode: required}\n    icmps:"),
    );
    let said = seventh(&["policy", "validate", dir.path().to_str().unwrap()]);
    assert_eq!(said.status, Some(0), "{}", said.out);
    for wanted in [
        "shop.yaml:24:28: warning",
        "no authenticator",
        "shop.yaml:28:53: warning",
        "every query is refused",
    ] {
        assert!(said.out.contains(wanted), "wanted {wanted:?}: {}", said.out);
    }
    assert_eq!(seventh(&["policy", "validate", "no-such-folder"]).status, Some(2));
    assert_eq!(seventh(&["policy", "validate"]).status, Some(2));
}
