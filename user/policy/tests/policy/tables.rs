//! Cilium's own test tables (see data/ORIGIN.md), case by case. Deviations on purpose are listed beside the case they
//! concern.

use std::path::PathBuf;

use serde_json::{Value, json};
use seventh_abi::Direction;
use seventh_policy::identity::{all_of, outside_labels};
use seventh_policy::name_pattern::{NamePattern, ServerNamePattern, ends_with_dot, normal_name};
use seventh_policy::rule::{PeerSelector, Peers, Subject};
use seventh_policy::selector::{Operator, Requirement, Selector, SelectorKey};
use seventh_policy::{L4Decision, Label, Loaded, Surroundings, load_text, resolve};

use crate::world::{TCP, World, request};

pub(crate) fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/cilium")
        .join(path)
}

pub(crate) fn table(name: &str) -> Value {
    let text = std::fs::read_to_string(data("tables").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// That of every object in the tables.
pub(crate) const UID: &str = "11bba160-ddca-11e8-b697-0800273b04ff";

/// Loads a rule as the spec of a policy; a cluster-wide one if it selects nodes.
pub(crate) fn load_rule(rule: &Value, namespace: &str, name: &str) -> Loaded {
    let mut metadata = json!({"name": name, "uid": UID});
    let kind = if namespace.is_empty() || rule.get("nodeSelector").is_some() {
        "CiliumClusterwideNetworkPolicy"
    } else {
        metadata["namespace"] = namespace.into();
        "CiliumNetworkPolicy"
    };
    let document = json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": rule});
    load_text("case.json", &document.to_string())
}

/// Cases of `rule_validation_cases.json` on which we differ, with the reason.
const STRICTER: &[(&str, &str)] = &[
    (
        "terminatingTLS",
        "TLS is not terminated here: refused with the field's name",
    ),
    ("listener", "there is no Envoy: refused with the field's name"),
    ("l7proto", "removed from the language in 1.20"),
    ("kafka", "removed from the language in 1.20"),
];

#[test]
fn rules_are_accepted_and_refused_as_by_cilium() {
    let table = table("policy__api__rule_validation_cases.json");
    let mut checked = 0;
    for (number, case) in list(&table["cases"]).iter().enumerate() {
        if case["complete"] != json!(true) {
            continue;
        }
        let mut rule = case["object"].clone();
        if case["kind"] == "CIDRRule" {
            if let Some(selector) = rule.pointer("/cidrGroupSelector/labelSelector").cloned() {
                // The table shows the Go structure; the document has the selector in place.
                rule["cidrGroupSelector"] = selector;
            }
            rule = json!({"endpointSelector": {}, "egress": [{"toCIDRSet": [rule]}]});
        }
        let loaded = load_rule(&rule, "default", "case");
        let deviation = STRICTER.iter().find(|(field, _)| rule.to_string().contains(field));
        let expected = case["valid"] == json!(true) && deviation.is_none();
        assert_eq!(
            !loaded.has_errors(),
            expected,
            "case {number} {}: {}\n{rule}\n{:#?}",
            case["test"],
            case["comment"],
            loaded.findings
        );
        checked += 1;
    }
    assert_eq!(checked, 48);
}

#[test]
fn limits_of_the_cases_that_the_table_only_describes() {
    let ports: Vec<Value> = (1..=41)
        .map(|p| json!({"port": p.to_string(), "protocol": "TCP"}))
        .collect();
    let types: Vec<Value> = (0..=40).map(|t| json!({"type": t})).collect();
    let selector = json!({"matchExpressions": [{"key": "any.foo", "operator": "asdfasdfasdf", "values": ["default"]}]});
    let icmp = json!([{"fields": [{"type": 8}]}]);
    for (side, peer) in [("ingress", "from"), ("egress", "to")] {
        for (list, deny) in [(side.to_owned(), false), (format!("{side}Deny"), true)] {
            let peers = format!("{peer}Endpoints");
            for (item, wanted) in [
                (json!({"toPorts": [{"ports": ports}]}), "at most 40"),
                (json!({"icmps": [{"fields": types}]}), "at most 40"),
                (
                    json!({"icmps": [{"fields": [{"family": "hoge", "type": 0}]}]}),
                    "unknown family",
                ),
                (
                    json!({"icmps": icmp, "toPorts": [{"ports": [{"port": "80"}]}]}),
                    "cannot stand beside toPorts",
                ),
                (json!({(peers): [selector]}), "unknown operator"),
            ] {
                let loaded = load_rule(
                    &json!({"endpointSelector": {}, (list.clone()): [item]}),
                    "default",
                    "case",
                );
                let reasons: Vec<&str> = loaded.findings.iter().map(|f| f.reason.as_str()).collect();
                assert!(
                    reasons.iter().any(|r| r.contains(wanted)),
                    "{list} deny {deny}: {reasons:?}"
                );
                assert!(loaded.documents.is_empty());
            }
        }
    }
}

#[test]
fn names_and_patterns_are_accepted_and_refused_as_by_cilium() {
    let table = table("policy__api__fqdn_selector_sanitize.json");
    for (field, accepted) in [("accept", true), ("reject", false)] {
        for selector in list(&table["toFQDNs"][field]) {
            let rule = json!({"endpointSelector": {}, "egress": [{"toFQDNs": [selector]}]});
            assert_eq!(
                !load_rule(&rule, "default", "case").has_errors(),
                accepted,
                "toFQDNs {selector}"
            );
        }
        for selector in list(&table["rules.dns"][field]) {
            let ports = json!([{"ports": [{"port": "53"}], "rules": {"dns": [selector]}}]);
            let rule = json!({"endpointSelector": {}, "egress": [{"toPorts": ports}]});
            assert_eq!(
                !load_rule(&rule, "default", "case").has_errors(),
                accepted,
                "rules.dns {selector}"
            );
        }
    }
}

#[test]
fn patterns_match_the_names_that_they_match_in_cilium() {
    let table = table("fqdn__matchpattern__matchpattern_cases.json");
    for case in list(&table["match"]) {
        let pattern = NamePattern::pattern(text(&case["pattern"])).unwrap();
        for (field, matches) in [("accept", true), ("reject", false)] {
            for name in list(&case[field]) {
                assert_eq!(pattern.matches(text(name)), matches, "{pattern} on {name}");
            }
        }
    }
    for (pattern, normal) in table["sanitize"].as_object().unwrap() {
        // The table keeps `*`, `**` and so on without a final dot; ours have one, and mean the same.
        let found = NamePattern::pattern(pattern).unwrap();
        assert_eq!(found.as_str().trim_end_matches('.'), text(normal).trim_end_matches('.'));
    }
}

#[test]
fn wildcards_mean_what_cilium_makes_of_them() {
    let table = table("wildcard_examples.json");
    for case in list(&table["toFQDNs_and_dns"]) {
        let pattern = NamePattern::pattern(text(&case["pattern"])).unwrap();
        for (field, matches) in [("match", true), ("no_match", false)] {
            for name in list(&case[field]) {
                assert_eq!(
                    pattern.matches(&normal_name(text(name))),
                    matches,
                    "{pattern} on {name}"
                );
            }
        }
    }
}

/// What an empty rule does, by a part of the table's words, and what is asked of it.
type Effect = (&'static str, fn(&mut World));

const EFFECTS: &[Effect] = &[
    ("every HTTP request passes", |world| {
        assert_eq!(world.egress("app=a", "app=b", 80), "inspect");
        for (method, path) in [("GET", "/"), ("DELETE", "/x?y"), ("X", "*")] {
            let request = request(method, path);
            assert_eq!(world.http(Direction::Egress, "app=a", "app=b", 80, &request), 200);
        }
    }),
    ("no L7 rules", |world| {
        assert_eq!(world.egress("app=a", "app=b", 80), "allow");
    }),
    ("matches only the empty name", |world| {
        let peer = world.identity("app=b");
        let policy = world.policy("app=a");
        let L4Decision::Inspect(rules) = policy.lookup(Direction::Egress, peer, TCP, 80) else {
            panic!("not inspected")
        };
        // No query that can be sent holds the empty name; the root's is a dot.
        for name in [".", "example.com.", "a."] {
            assert!(rules.dns().expect("DNS rules").judge(name).is_none(), "{name}");
        }
    }),
    ("selects only the root name", |world| {
        let mut verdict = |name: &str| {
            let pattern = NamePattern::name(name).unwrap();
            let learned = outside_labels(all_of(false), [&pattern]);
            let peer = world.compiler.add_identity(&learned).unwrap().0;
            let policy = world.policy("app=a");
            matches!(policy.lookup(Direction::Egress, peer, TCP, 80), L4Decision::Allow)
        };
        assert_eq!((verdict("."), verdict("example.com.")), (true, false));
    }),
];

#[test]
fn empty_rules_have_the_effects_that_they_have_in_cilium() {
    let table = table("wildcard_examples.json");
    let cases = list(&table["empty_rules"]);
    assert_eq!(cases.len(), 5);
    for case in cases {
        let (rule, effect) = (text(&case["rule"]), text(&case["effect"]));
        let item = if rule.starts_with("toFQDNs") {
            rule.to_owned()
        } else {
            format!("toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{{rule}}}}}]")
        };
        let policy = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: x}}\nspec: {{endpointSelector: {{}}, \
             egress: [{{{item}}}]}}\n"
        );
        let (_, check) = EFFECTS.iter().find(|(part, _)| effect.contains(part)).expect(effect);
        check(&mut World::new(&policy));
    }
}

#[test]
fn server_names_match_as_the_semantics_say() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("*", &["example.com", "a.b.example.com", "x"], &[""]),
        ("**", &["example.com", "x"], &[""]),
        (
            "*.example.com",
            &["www.example.com", "WWW.Example.COM"],
            &["example.com", "a.b.example.com"],
        ),
        (
            "**.example.com",
            &["www.example.com", "a.b.example.com"],
            &["example.com"],
        ),
        ("a.**.com", &["a.b.com", "a.b.c.com"], &["a.com"]),
        (
            "api-*.example.com",
            &["api-1.example.com", "api-.example.com"],
            &["api.example.com", "api-1.x.example.com"],
        ),
        ("Example.com", &["example.com"], &["examplexcom", "www.example.com"]),
    ];
    for (pattern, accepted, refused) in cases {
        let pattern = ServerNamePattern::new(pattern).unwrap();
        for name in *accepted {
            assert!(pattern.matches(name), "{} must match {name}", pattern.as_str());
        }
        for name in *refused {
            assert!(!pattern.matches(name), "{} must not match {name}", pattern.as_str());
        }
    }
    for invalid in [
        "",
        "example.com.",
        "***.example.com",
        "ex ample",
        "bücher.de",
        "a..b",
        "exam\nple",
    ] {
        assert!(ServerNamePattern::new(invalid).is_err(), "{invalid:?}");
    }
}

#[test]
fn names_get_their_final_dot_as_by_cilium() {
    let table = table("fqdn__dns__fqdn_cases.json");
    for case in list(&table["is_fqdn"]) {
        assert_eq!(json!(ends_with_dot(text(&case[0]))), case[1], "{case}");
    }
    for case in list(&table["to_fqdn"]) {
        assert_eq!(json!(normal_name(text(&case[0]))), case[1], "{case}");
    }
}

/// `{source:key: value}` and `matchExpressions` of the namespace table as a selector.
fn compact(value: &Value) -> Selector {
    let mut requirements = Vec::new();
    let (mut labels, mut expressions) = (Vec::new(), Vec::new());
    for (key, value) in value.as_object().unwrap() {
        match key.as_str() {
            "matchExpressions" => expressions.extend(list(value)),
            "matchLabels" => labels.extend(value.as_object().unwrap()),
            _ => labels.push((key, value)),
        }
    }
    for (key, value) in labels {
        let operator = Operator::In(vec![text(value).to_owned()]);
        requirements.push(Requirement {
            key: SelectorKey::parse(key),
            operator,
        });
    }
    for expression in expressions {
        let operator = match text(&expression["operator"]) {
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => panic!("operator {other}"),
        };
        requirements.push(Requirement {
            key: SelectorKey::parse(text(&expression["key"])),
            operator,
        });
    }
    Selector::new(requirements)
}

/// The compact form as a document has it.
fn expanded(value: &Value) -> Value {
    let mut selector = json!({});
    for (key, value) in value.as_object().unwrap() {
        match key.as_str() {
            "matchExpressions" | "matchLabels" => selector[key] = value.clone(),
            _ => selector["matchLabels"][key] = value.clone(),
        }
    }
    selector
}

#[test]
fn namespaces_and_clusters_are_written_into_selectors_as_by_cilium() {
    let table = table("k8s__apis__cilium.io__utils__namespace_injection_cases.json");
    for case in list(&table["cases"]) {
        let (rule, want) = (&case["rule"], &case["want"]);
        let mut document = json!({"endpointSelector": expanded(&rule["endpointSelector"])});
        let mut item = json!({});
        for list_name in ["fromEndpoints", "fromNodes"] {
            if let Some(peers) = rule.pointer(&format!("/ingress/0/{list_name}")) {
                item[list_name] = list(peers).iter().map(expanded).collect();
            }
        }
        document["ingress"] = json!([item]);
        let loaded = load_rule(&document, case["namespace"].as_str().unwrap(), text(&case["name"]));
        assert!(!loaded.has_errors(), "{document} {:#?}", loaded.findings);
        let surroundings = Surroundings {
            cluster: case["cluster"].as_str().map(str::to_owned),
            node_labels: true,
            ..Surroundings::default()
        };
        let resolved = resolve(&loaded.documents, &surroundings);
        let found = &resolved.rules[0];
        assert_eq!(
            found.subject,
            Subject::Endpoints(compact(&want["endpointSelector"])),
            "{}",
            case["name"]
        );
        let labels: Vec<String> = found.origin.labels.iter().map(ToString::to_string).collect();
        assert_eq!(json!(labels), case["labels"], "{}", case["name"]);
        let Some(want) = want
            .pointer("/ingress/0/fromEndpoints")
            .or(want.pointer("/ingress/0/fromNodes"))
        else {
            continue;
        };
        let want = list(want).iter().map(|s| PeerSelector::Labels(compact(s))).collect();
        assert_eq!(
            found.ingress.as_ref().unwrap().rules[0].peers,
            Peers::Selected(want),
            "{}",
            case["name"]
        );
    }
}

#[test]
fn rules_carry_the_labels_that_cilium_gives_them() {
    let table = table("k8s__apis__cilium.io__utils__namespace_injection_cases.json");
    for case in list(&table["rule_labels"]) {
        let labels: Vec<Value> = list(&case["in"]["labels"])
            .iter()
            .map(|label| {
                let label = Label::parse(text(label).trim_end_matches(" (no source)"), "");
                // An empty source and none at all are the same.
                json!({"source": label.source, "key": label.key, "value": label.value.trim_end_matches(" (no source)")})
            })
            .collect();
        let document = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": case["in"]["name"], "namespace": case["in"]["namespace"],
                "uid": UID},
            "spec": {"endpointSelector": {}, "labels": labels, "ingress": [{}]}});
        let loaded = load_text("case.json", &document.to_string());
        let resolved = resolve(&loaded.documents, &Surroundings::default());
        let found: Vec<String> = resolved.rules[0]
            .origin
            .labels
            .iter()
            .map(ToString::to_string)
            .collect();
        let want: Vec<&str> = list(&case["want"]).iter().map(text).collect();
        assert_eq!(found, want);
    }
}
