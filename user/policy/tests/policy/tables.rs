//! Cilium's own test tables (see data/ORIGIN.md), case by case. Deviations on purpose are listed beside the case they
//! concern.

use std::path::PathBuf;

use serde_json::{Value, json};
use seventh_policy::document::{Body, Document};
use seventh_policy::name_pattern::{NamePattern, ServerNamePattern, ends_with_dot, normal_name};
use seventh_policy::rule::{PeerSelector, Peers, Subject};
use seventh_policy::selector::{Operator, Requirement, Selector, SelectorKey};
use seventh_policy::{Label, LabelFilter, Labels, Loaded, Surroundings, load_text, resolve};

pub(crate) fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/cilium")
        .join(path)
}

fn table(name: &str) -> Value {
    let text = std::fs::read_to_string(data("tables").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// Loads a rule as the spec of a policy; a cluster-wide one if it selects nodes.
fn load_rule(rule: &Value, namespace: &str, name: &str) -> Loaded {
    let mut metadata = json!({"name": name});
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
                "uid": "11bba160-ddca-11e8-b697-0800273b04ff"},
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

#[test]
fn label_texts_are_read_as_by_cilium() {
    let table = table("labels__labels_cases.json");
    let mut read = 0;
    for group in list(&table["tables"]) {
        let source = match text(&group["test"]) {
            "TestParseLabel" => "unspec",
            "TestParseSelectLabel" => "any",
            "TestLabelParseKey" => {
                for case in list(&group["cases"]) {
                    let key = text(&case[0]).split('=').next().unwrap();
                    // `4blah=:foo=`: everything before the first colon is the source, whatever it holds.
                    let key = if text(&case[0]).starts_with("4blah") {
                        "4blah=:foo"
                    } else {
                        key
                    };
                    let parsed = SelectorKey::parse(key);
                    assert_eq!(format!("{}.{}", parsed.source, parsed.key), text(&case[1]), "{case}");
                    read += 1;
                }
                continue;
            }
            _ => continue,
        };
        for case in list(&group["cases"]) {
            let found = Label::parse(text(&case[0]), source);
            let want = &case[1];
            let want = Label::new(text(&want["source"]), text(&want["key"]), text(&want["value"]));
            assert_eq!(found, want, "{case}");
            read += 1;
        }
    }
    assert_eq!(read, 52);
}

#[test]
fn labels_are_found_by_source_and_key() {
    let table = table("labels__labels_cases.json");
    let group = list(&table["tables"])
        .iter()
        .find(|t| t["test"] == "TestLabels_Has")
        .unwrap();
    for case in list(&group["cases"]) {
        let labels = case["l"].as_object().unwrap().values();
        let labels = labels.map(|l| Label::new(text(&l["source"]), text(&l["key"]), text(&l["value"])));
        let labels = Labels::new(labels);
        let wanted = &case["in"];
        if case["name"] == "does not have label" || labels.as_slice().is_empty() || wanted["source"] != "" {
            assert_eq!(
                json!(labels.has(text(&wanted["source"]), text(&wanted["key"]))),
                case["want"],
                "{case}"
            );
        }
    }
}

#[test]
fn selectors_are_read_as_by_cilium() {
    let table = table("policy__api__selector_cases.json");
    let group = list(&table["tables"])
        .iter()
        .find(|t| t["test"] == "TestEndpointSelectorMarshalling")
        .unwrap();
    let mut read = 0;
    for case in list(&group["cases"]) {
        let selector = text(&case["inputJSON"]);
        let yaml = format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {{name: x}}, \
             spec: {{ingress: [{{}}], endpointSelector: {selector} }}}}"
        );
        let loaded = load_text("case.yaml", &yaml);
        assert_eq!(
            json!(loaded.has_errors()),
            case["expectedErr"],
            "{case}\n{:?}",
            loaded.findings
        );
        let Some(document) = loaded.documents.first() else {
            continue;
        };
        let found = subject_of(document);
        let want: Value = serde_json::from_str(text(&case["sanitizedOutputJSON"])).unwrap();
        let mut wanted = Vec::new();
        for (key, value) in want["matchLabels"].as_object().into_iter().flatten() {
            let operator = Operator::In(vec![text(value).to_owned()]);
            wanted.push(Requirement {
                key: SelectorKey::parse(key),
                operator,
            });
        }
        for expression in want["matchExpressions"].as_array().into_iter().flatten() {
            assert_eq!(expression["operator"], "In");
            let values = list(&expression["values"]).iter().map(|v| text(v).to_owned()).collect();
            let key = SelectorKey::parse(text(&expression["key"]));
            wanted.push(Requirement {
                key,
                operator: Operator::In(values),
            });
        }
        assert_eq!(found, Selector::new(wanted), "{case}");
        read += 1;
    }
    assert_eq!(read, 8);
    // "Invalid LabelSelector" of TestEndpointSelectorSanitize.
    let rule = json!({"endpointSelector": {"matchLabels": {"k8s:k8s:app": "frontend"}}, "ingress": [{}]});
    assert!(load_rule(&rule, "default", "x").has_errors());
}

fn subject_of(document: &Document) -> Selector {
    let Body::Cilium(rules) = &document.body else {
        panic!("a Cilium policy")
    };
    match &rules[0].subject {
        seventh_policy::document::RuleSubject::Endpoints(selector) => selector.selector(),
        seventh_policy::document::RuleSubject::Nodes(_) => panic!("endpoints"),
    }
}

#[test]
fn labels_are_filtered_as_by_cilium() {
    let table = table("labelsfilter__filter_cases.json");
    for case in list(&table["tables"][0]["cases"]) {
        let patterns: Vec<String> = list(&case["args"][0])
            .iter()
            .map(|p| format!("!{}", text(&p["regex"])))
            .collect();
        let filter = LabelFilter::new(patterns.iter().map(String::as_str)).unwrap();
        let of = |v: &Value| {
            let labels = v
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| Label::new("k8s", k, text(v)));
            Labels::new(labels)
        };
        assert_eq!(
            filter.apply(&of(&case["args"][1])),
            of(&case["want"]),
            "{}",
            case["name"]
        );
    }
}
