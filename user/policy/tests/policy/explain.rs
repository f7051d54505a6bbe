//! Traces and validation: the rule that decided, the nearest one, the line.

use std::fs;

use serde_json::{Value, json};
use seventh_policy::{
    CompileOptions, Content, EndpointFacts, HttpRequest, MissedField, NamedPorts, Outcome, Party, Severity,
    Surroundings, Trace, Tracer, Traffic, load_text, resolve, validate,
};

use crate::world::{TCP, UDP, labels, request};

const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: front}
    toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules:
        http:
        - method: GET
          path: /public
        - method: POST
          path: /orders/.*
          headers: ['X-Key: secret-key']
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {app: evil}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: front}
spec:
  endpointSelector: {matchLabels: {app: front}}
  egress:
  - toEndpoints: [{}]
  - toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
  - toPorts:
    - ports: [{port: '53', protocol: UDP}]
      rules: {dns: [{matchPattern: '*.example.com'}]}
  - toFQDNs: [{matchPattern: '*.example.com'}]
    toPorts:
    - ports: [{port: '443', protocol: TCP}]
      serverNames: ['*.example.com']
";

fn labelled(text: &str) -> Party {
    Party::Labelled(EndpointFacts {
        labels: labels(text),
        named_ports: NamedPorts::default(),
    })
}

fn trace(from: &str, to: Party, at: (u8, u16), content: Option<Content<'_>>) -> Trace {
    trace_under(POLICY, from, to, at, content)
}

fn trace_under(
    policy: &str,
    from: &str,
    to: Party,
    (protocol, port): (u8, u16),
    content: Option<Content<'_>>,
) -> Trace {
    let loaded = load_text("web.yaml", policy);
    assert!(!loaded.has_errors(), "{:?}", loaded.findings);
    let mut tracer = Tracer::new(
        resolve(&loaded.documents, &Surroundings::default()).rules,
        CompileOptions::default(),
    );
    tracer
        .trace(&Traffic {
            from: labelled(from),
            to,
            protocol,
            port,
            content,
        })
        .unwrap()
}

#[test]
fn an_allowed_request_names_its_http_rule() {
    let found = trace(
        "app=front",
        labelled("app=web"),
        (TCP, 80),
        Some(Content::Http(request("GET", "/public"))),
    );
    assert_eq!(found.verdict, Outcome::Allowed);
    let ingress = found.ingress.unwrap();
    let rule = ingress.rule.unwrap();
    assert_eq!(
        (rule.line, rule.path.as_str()),
        (13, "spec.ingress[0].toPorts[0].rules.http[0]")
    );
    let egress = found.egress.unwrap();
    assert_eq!(egress.rule.unwrap().path, "spec.egress[0]");
}

#[test]
fn a_request_without_a_path_misses_a_rule_for_any_path() {
    let policy = POLICY
        .replace("method: GET", "method: CONNECT")
        .replace("path: /public", "path: '.*'");
    let connect = Some(Content::Http(request("CONNECT", "")));
    let found = trace_under(&policy, "app=front", labelled("app=web"), (TCP, 80), connect);
    assert_eq!(found.verdict, Outcome::Denied);
    let near = found.ingress.unwrap().nearest.unwrap();
    assert_eq!(near.misses.len(), 1);
    assert_eq!(
        (near.misses[0].field, near.misses[0].found.as_str()),
        (MissedField::Path, "absent")
    );
}

#[test]
fn a_refused_request_names_the_nearest_rule_and_the_field_that_failed() {
    let found = trace(
        "app=front",
        labelled("app=web"),
        (TCP, 80),
        Some(Content::Http(request("GET", "/orders/1"))),
    );
    assert_eq!(found.verdict, Outcome::Denied);
    let ingress = found.ingress.unwrap();
    assert_eq!(ingress.reason, Some("http_policy_denied"));
    assert!(ingress.rule.is_none());
    let near = ingress.nearest.unwrap();
    // Of method and header against the path: the two light misses weigh as much as the heavy one; the first rule counts.
    assert_eq!(near.rule.path, "spec.ingress[0].toPorts[0].rules.http[0]");
    assert_eq!(near.misses.len(), 1);
    assert_eq!(near.misses[0].field, MissedField::Path);
    assert_eq!(
        (near.misses[0].wanted.as_str(), near.misses[0].found.as_str()),
        ("/public", "/orders/1")
    );
    let keyed = HttpRequest {
        headers: &[("x-key", "guess")],
        ..request("POST", "/orders/1")
    };
    let found = trace("app=front", labelled("app=web"), (TCP, 80), Some(Content::Http(keyed)));
    let near = found.ingress.as_ref().unwrap().nearest.clone().unwrap();
    assert_eq!(near.misses[0].field, MissedField::Header);
    assert!(
        !found.to_string().contains("secret-key"),
        "a header's value may be a secret"
    );
}

#[test]
fn a_denied_peer_or_port_names_what_the_nearest_rule_wanted() {
    let found = trace("app=other", labelled("app=web"), (TCP, 80), None)
        .ingress
        .unwrap();
    assert_eq!((found.verdict, found.reason), (Outcome::Denied, Some("policy_denied")));
    assert_eq!(&*found.default_deny_by[0].name, "web");
    let near = found.nearest.unwrap();
    assert_eq!(near.misses[0].field, MissedField::Peer);
    assert_eq!(
        near.misses[0].wanted,
        "any:app=front,k8s:io.kubernetes.pod.namespace=default"
    );
    let found = trace("app=front", labelled("app=web"), (TCP, 81), None)
        .ingress
        .unwrap();
    assert_eq!(found.nearest.unwrap().misses[0].field, MissedField::Port);
    let found = trace("app=front", labelled("app=web"), (UDP, 80), None)
        .ingress
        .unwrap();
    assert_eq!(found.nearest.unwrap().misses[0].field, MissedField::Transport);
}

#[test]
fn a_deny_rule_is_named_as_the_one_that_decided() {
    let found = trace("app=evil", labelled("app=web"), (TCP, 80), None).ingress.unwrap();
    assert_eq!(found.reason, Some("policy_deny_rule"));
    assert_eq!(found.rule.unwrap().path, "spec.ingressDeny[0]");
    assert!(found.nearest.is_none());
}

#[test]
fn without_content_an_inspected_connection_is_neither_allowed_nor_denied() {
    let found = trace("app=front", labelled("app=web"), (TCP, 80), None);
    assert_eq!(found.verdict, Outcome::Inspected);
    // Content of another protocol than the rules expect.
    let found = trace("app=front", labelled("app=web"), (TCP, 80), Some(Content::Tls("a.b")));
    assert_eq!(found.ingress.unwrap().reason, Some("http_tls_on_http_rule"));
    let to_name = Party::Name("a.example.com".to_owned());
    let http = Some(Content::Http(request("GET", "/")));
    let found = trace("app=front", to_name.clone(), (TCP, 443), http);
    assert_eq!(found.egress.unwrap().reason, Some("tls_not_tls"));
    let found = trace("app=front", to_name, (TCP, 443), Some(Content::Tls("")));
    assert_eq!(found.egress.unwrap().reason, Some("tls_no_server_name"));
}

#[test]
fn addresses_and_names_outside_have_no_policy_of_their_own() {
    let outside = |address: &str| Party::Address(address.parse().unwrap());
    let found = trace("app=front", outside("10.2.0.1"), (TCP, 5432), None);
    assert!(found.ingress.is_none());
    assert_eq!(found.verdict, Outcome::Allowed);
    assert_eq!(
        trace("app=front", outside("10.1.0.1"), (TCP, 5432), None).verdict,
        Outcome::Denied
    );
    assert_eq!(
        trace("app=front", outside("2001:db8::1"), (TCP, 5432), None).verdict,
        Outcome::Denied
    );
    let name = |name: &str| Party::Name(name.to_owned());
    let tls = |name| Some(Content::Tls(name));
    assert_eq!(
        trace("app=front", name("www.Example.com"), (TCP, 443), tls("www.example.com")).verdict,
        Outcome::Allowed
    );
    assert_eq!(
        trace("app=front", name("www.example.com"), (TCP, 443), tls("other.org")).verdict,
        Outcome::Denied
    );
    assert_eq!(
        trace("app=front", name("example.com"), (TCP, 443), tls("example.com")).verdict,
        Outcome::Denied
    );
    let dns = |name| {
        trace(
            "app=front",
            Party::Address("1.1.1.1".parse().unwrap()),
            (UDP, 53),
            Some(Content::Dns(name)),
        )
    };
    assert_eq!(dns("WWW.example.com").verdict, Outcome::Allowed);
    let refused = dns("example.org").egress.unwrap();
    assert_eq!(refused.reason, Some("dns_policy_denied"));
    assert_eq!(refused.nearest.unwrap().misses[0].field, MissedField::Query);
}

#[test]
fn traces_are_shown_to_people_and_programs() {
    let found = trace(
        "app=front",
        labelled("app=web"),
        (TCP, 80),
        Some(Content::Http(request("PUT", "/public"))),
    );
    let text = found.to_string();
    assert!(
        text.contains(
            "egress: allowed\n  by CiliumNetworkPolicy default/front spec.egress[0] (web.yaml:28, document 2)"
        ),
        "{text}"
    );
    assert!(
        text.contains("ingress: denied (http_policy_denied)\n  nearest: CiliumNetworkPolicy default/web"),
        "{text}"
    );
    assert!(
        text.ends_with("    method: wants GET, is PUT\nverdict: denied"),
        "{text}"
    );
    let json: Value = serde_json::to_value(&found).unwrap();
    assert_eq!(json["verdict"], "denied");
    assert_eq!(
        json["ingress"]["nearest"]["misses"][0],
        json!({"field": "method", "wanted": "GET", "found": "PUT"})
    );
    assert_eq!(json["ingress"]["nearest"]["rule"]["file"], "web.yaml");
}

#[test]
fn what_the_modes_add_is_named_too() {
    let loaded = load_text("web.yaml", POLICY);
    let rules = resolve(&loaded.documents, &Surroundings::default()).rules;
    let options = CompileOptions {
        allow_localhost: true,
        ..CompileOptions::default()
    };
    let mut tracer = Tracer::new(rules, options);
    let traffic = Traffic {
        from: labelled("reserved:host"),
        to: labelled("app=web"),
        protocol: TCP,
        port: 80,
        content: None,
    };
    let ingress = tracer.trace(&traffic).unwrap().ingress.unwrap();
    assert_eq!(
        (ingress.verdict, &*ingress.rule.unwrap().name),
        (Outcome::Allowed, "allow-localhost")
    );
}

#[test]
fn contradicting_rules_are_both_named() {
    let policy = POLICY.replace("app: evil", "app: nobody")
        + "\
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: more}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - toPorts:
    - ports: [{port: '80', protocol: TCP}]
      serverNames: [a.b]
";
    let loaded = load_text("web.yaml", &policy);
    let rules = resolve(&loaded.documents, &Surroundings::default()).rules;
    let mut tracer = Tracer::new(rules, CompileOptions::default());
    let traffic = Traffic {
        from: labelled("app=front"),
        to: labelled("app=web"),
        protocol: TCP,
        port: 80,
        content: None,
    };
    let ingress = tracer.trace(&traffic).unwrap().ingress.unwrap();
    assert_eq!(ingress.reason, Some("policy_conflict"));
    assert_eq!(ingress.conflicting.len(), 2);
}

const TRAPS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: voided}
spec:
  endpointSelector: {matchLabels: {app: a}}
  ingress:
  - fromEndpoints: [{}]
    toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules: {http: [{method: GET}]}
  - fromEndpoints: [{}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: conflict}
spec:
  endpointSelector: {matchLabels: {app: b}}
  egress:
  - toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.b]}]
  - toPorts: [{ports: [{port: '400', endPort: 500, protocol: TCP}], rules: {http: [{}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: visible}
spec:
  endpointSelector: {matchLabels: {app: c}}
  enableDefaultDeny: {egress: false}
  egress:
  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: groupless}
spec:
  endpointSelector: {matchLabels: {app: d}}
  egress:
  - toCIDRSet: [{cidrGroupRef: missing}]
";

#[test]
fn validation_finds_errors_traps_and_missing_references() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policies.yaml");
    fs::write(&file, TRAPS).unwrap();
    let found = validate([directory.path()], &Surroundings::default());
    assert_eq!((found.valid, found.is_valid()), (4, false));
    let found: Vec<(u32, Severity, &str)> = found
        .findings
        .iter()
        .map(|f| (f.line, f.severity, f.reason.split(": ").next().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            (9, Severity::Warning, "these L7 rules refuse nothing"),
            (19, Severity::Warning, found[1].2),
            (20, Severity::Warning, found[2].2),
            (29, Severity::Warning, found[3].2),
            (
                37,
                Severity::Error,
                "there is no CiliumCIDRGroup \"missing\"; the rule selects nobody until there is one"
            ),
        ]
    );
    assert!(
        found[1].2.starts_with("TLS rules here and HTTP rules at") && found[1].2.contains("conflict"),
        "{}",
        found[1].2
    );
    assert!(
        found[2].2.starts_with("HTTP rules here and TLS rules at") && found[2].2.contains("conflict"),
        "{}",
        found[2].2
    );
    assert!(found[3].2.starts_with("with enableDefaultDeny"), "{}", found[3].2);
}

#[test]
fn policies_of_one_priority_are_pointed_out() {
    let policy = |name: &str, priority: u32| {
        format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{tier: Admin, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tiers.yaml");
    fs::write(&file, policy("a", 1) + &policy("b", 2) + &policy("c", 1)).unwrap();
    let found = validate([&file], &Surroundings::default());
    assert!(found.is_valid());
    let [finding] = found.findings.as_slice() else {
        panic!("{:#?}", found.findings)
    };
    assert_eq!(finding.object, "ClusterNetworkPolicy c");
    assert!(finding.reason.contains("ClusterNetworkPolicy a"), "{finding}");
}

/// Everything that `validate` has to say of these documents: severity, field and reason.
fn findings(yaml: &str) -> Vec<(Severity, String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policies.yaml");
    fs::write(&file, yaml).unwrap();
    let found = validate([&file], &Surroundings::default());
    let findings = found.findings.into_iter();
    findings.map(|f| (f.severity, f.field, f.reason)).collect()
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}

fn cnp(name: &str, spec: &str) -> String {
    document("CiliumNetworkPolicy", name, spec)
}

#[test]
fn a_policy_for_nodes_is_an_error_because_nothing_enforces_it() {
    let found = findings(&document(
        "CiliumClusterwideNetworkPolicy",
        "host",
        "  nodeSelector: {matchLabels: {role: db}}\n  ingress: [{}]",
    ));
    let [(Severity::Error, field, reason)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(field, "spec.nodeSelector");
    assert!(
        reason.contains("governs nobody") && reason.contains("not enforced yet"),
        "{reason}"
    );
}

#[test]
fn a_foreign_namespace_in_the_endpoint_selector_is_pointed_out() {
    let said = |selector: &str| {
        let found = findings(&cnp(
            "x",
            &format!("  endpointSelector: {selector}\n  ingress: [{{fromEndpoints: [{{}}]}}]"),
        ));
        found
            .into_iter()
            .map(|(_, field, reason)| format!("{field}: {reason}"))
            .collect::<Vec<_>>()
    };
    let key = "io.kubernetes.pod.namespace";
    let overridden = said(&format!("{{matchLabels: {{'k8s:{key}': shop}}}}"));
    assert!(
        overridden.len() == 1
            && overridden[0].starts_with("spec.endpointSelector: a policy governs its own namespace only"),
        "{overridden:?}"
    );
    for nobody in [
        format!("{{matchLabels: {{{key}: shop}}}}"),
        format!("{{matchExpressions: [{{key: 'k8s:{key}', operator: In, values: [shop]}}]}}"),
        format!("{{matchExpressions: [{{key: {key}, operator: NotIn, values: [default]}}]}}"),
    ] {
        let found = said(&nobody);
        assert!(
            found.len() == 1 && found[0].contains("governs nobody"),
            "{nobody}: {found:?}"
        );
    }
    for own in [
        format!("{{matchLabels: {{'k8s:{key}': default}}}}"),
        format!("{{matchExpressions: [{{key: {key}, operator: In, values: [shop, default]}}]}}"),
        "{}".to_owned(),
    ] {
        assert_eq!(said(&own), Vec::<String>::new(), "{own}");
    }
}

#[test]
fn entities_that_nobody_has_on_a_node_alone_are_pointed_out() {
    for (entity, warned) in [
        ("health", true),
        ("kube-apiserver", true),
        ("ingress", true),
        ("remote-node", true),
        ("unmanaged", true),
        ("host", false),
        ("world", false),
        ("cluster", false),
        ("init", false),
        ("all", false),
    ] {
        let found = findings(&cnp(
            "x",
            &format!("  endpointSelector: {{}}\n  egress: [{{toEntities: [{entity}]}}]"),
        ));
        let said = found.iter().any(|(severity, _, reason)| {
            *severity == Severity::Warning && reason.contains(&format!("the entity {entity:?} is nobody here"))
        });
        assert_eq!(said, warned, "{entity}: {found:?}");
    }
}

/// Two policies: one with HTTP rules and one with server names, or without L7 part.
fn two(subjects: [&str; 2], peers: [&str; 2], second: &str) -> Vec<String> {
    let policy = |name: &str, subject: &str, peers: &str, l7: &str| {
        cnp(
            name,
            &format!(
                "  endpointSelector: {subject}\n  ingress:\n  - {peers}\n    toPorts: [{{ports: [{{port: '443', protocol: TCP}}]{l7}}}]"
            ),
        )
    };
    let yaml = policy("http", subjects[0], peers[0], ", rules: {http: [{method: GET}]}")
        + &policy("other", subjects[1], peers[1], second);
    findings(&yaml).into_iter().map(|(_, _, reason)| reason).collect()
}

#[test]
fn contradictions_are_found_between_selectors_one_of_which_covers_the_other() {
    let (all, web) = ("{}", "{matchLabels: {app: web}}");
    let (anybody, some) = ("fromEntities: [all]", "fromEndpoints: [{matchLabels: {role: front}}]");
    let exact = "fromEndpoints: [{matchLabels: {role: front, zone: a}}]";
    let names = ", serverNames: [a.example]";
    for (subjects, peers) in [
        ([all, web], [anybody, anybody]),
        ([web, all], [some, anybody]),
        ([web, web], [some, exact]),
        (
            ["{matchExpressions: [{key: app, operator: Exists}]}", web],
            ["fromCIDR: [10.0.0.0/8]", "fromCIDR: [10.1.0.0/16]"],
        ),
        (
            [
                "{matchExpressions: [{key: app, operator: In, values: [web, db]}]}",
                "{matchLabels: {'k8s:app': web}}",
            ],
            [anybody, anybody],
        ),
    ] {
        let found = two(subjects, peers, names);
        assert_eq!(
            found.iter().filter(|f| f.contains("which is therefore denied")).count(),
            2,
            "{subjects:?} {peers:?}: {found:?}"
        );
    }
    for (subjects, peers) in [
        ([web, "{matchLabels: {app: db}}"], [anybody, anybody]),
        ([web, web], ["fromCIDR: [10.0.0.0/8]", "fromCIDR: [172.16.0.0/12]"]),
        (
            ["{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}", web],
            [anybody, anybody],
        ),
    ] {
        assert_eq!(
            two(subjects, peers, names),
            Vec::<String>::new(),
            "{subjects:?} {peers:?}"
        );
    }
    // What voids L7 rules must govern all that they govern.
    assert_eq!(two([web, all], [some, anybody], "").len(), 1);
    assert_eq!(two([all, web], [some, anybody], ""), Vec::<String>::new());
}

#[test]
fn a_finding_shows_its_line_with_a_mark_under_the_place() {
    let yaml = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec:\n  endpointSelector: {}\n  ingres: [{}]\n";
    let loaded = load_text("a.yaml", yaml);
    let quoted = |column: &str| {
        let finding = loaded.findings.iter().find(|f| f.field == column).unwrap();
        loaded.sources.quote(finding).unwrap()
    };
    assert_eq!(quoted("spec.ingres"), "  6 |   ingres: [{}]\n    |   ^");
    // A line that is too long for a terminal is shown around the place; what could steer one is not.
    let long = format!("a: {}\u{7}[\n", "x".repeat(5000));
    let loaded = load_text("b.yaml", &long);
    let quoted = loaded
        .findings
        .iter()
        .filter_map(|f| loaded.sources.quote(f))
        .next()
        .unwrap();
    assert!(
        quoted.chars().count() < 400 && !quoted.contains('\u{7}') && quoted.ends_with('^'),
        "{quoted:?}"
    );
}
