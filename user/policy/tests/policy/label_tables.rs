//! Cilium's own test tables about labels and selectors (see data/ORIGIN.md), case by case.

use serde_json::{Value, json};
use seventh_policy::document::{Body, Document};
use seventh_policy::selector::{Operator, Requirement, Selector, SelectorKey};
use seventh_policy::{Label, LabelFilter, Labels, Surroundings, load_text, resolve};

use crate::tables::{UID, data, list, load_rule, table, text};

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
        assert_eq!(
            json!(labels.has(text(&wanted["source"]), text(&wanted["key"]))),
            case["want"],
            "{case}"
        );
    }
}

/// Labels as the table writes them: the whole label behind its key.
fn labels_of(value: &Value) -> Labels {
    let labels = value.as_object().into_iter().flatten().map(|(key, label)| {
        assert_eq!(text(&label["key"]), key);
        Label::new(text(&label["source"]), key, text(&label["value"]))
    });
    Labels::new(labels)
}

fn cases(test: &str) -> Vec<Value> {
    let table = table("labels__labels_cases.json");
    let group = list(&table["tables"]).iter().find(|t| t["test"] == test).expect(test);
    list(&group["cases"]).clone()
}

#[test]
fn a_set_holds_the_labels_that_it_is_made_of() {
    let cases = cases("TestNewFrom");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let labels = labels_of(&case["lbls"]);
        assert_eq!(labels, labels_of(&case["want"]), "{case}");
        // Whatever stands in key and value, the label is found by it, once.
        assert_eq!(
            labels.as_slice().len(),
            case["lbls"].as_object().map_or(0, serde_json::Map::len)
        );
        for label in &labels {
            let values: Vec<&str> = labels.values(&label.source, &label.key).collect();
            assert_eq!(values, [label.value.as_str()], "{case}");
        }
        assert_eq!(
            Labels::new(labels.iter().rev().cloned()),
            labels,
            "whatever their order"
        );
    }
}

#[test]
fn labels_are_told_apart_by_their_source() {
    let from_source = cases("TestLabels_GetFromSource");
    let has_source = cases("TestLabels_HasSource");
    assert_eq!((from_source.len(), has_source.len()), (2, 3));
    for case in from_source {
        let labels = labels_of(&case["l"]);
        let found = labels.of_source(text(&case["args"]["source"]));
        assert_eq!(Labels::new(found.cloned()), labels_of(&case["want"]), "{case}");
    }
    for case in has_source {
        let labels = labels_of(&case["l"]);
        let found = labels.of_source(text(&case["args"]["source"])).next().is_some();
        assert_eq!(json!(found), case["want"], "{case}");
    }
}

#[test]
fn the_labels_of_a_rule_name_its_policy() {
    let table = table("k8s__apis__cilium.io__utils__namespace_injection_cases.json");
    let cases = list(&table["policy_from_labels"]);
    assert_eq!(cases.len(), 2);
    for case in cases {
        let want = &case["want"];
        let mut metadata = json!({"name": want["name"], "uid": UID});
        if want["namespace"] != "" {
            metadata["namespace"] = want["namespace"].clone();
        }
        let document = json!({"apiVersion": "cilium.io/v2", "kind": want["kind"], "metadata": metadata,
            "spec": {"endpointSelector": {}, "ingress": [{}]}});
        let loaded = load_text("case.json", &document.to_string());
        let resolved = resolve(&loaded.documents, &Surroundings::default());
        let origin = &resolved.rules[0].origin;
        let labels: Vec<String> = origin.labels.iter().map(ToString::to_string).collect();
        assert_eq!(json!(labels), case["labels"]);
        let named = (json!(origin.kind), json!(*origin.namespace), json!(*origin.name));
        assert_eq!(
            named,
            (want["kind"].clone(), want["namespace"].clone(), want["name"].clone())
        );
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
}

/// A selector in the table's inner form, in which a dot stands behind the source.
fn inner(selector: &Value) -> Selector {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let requirements = labels.map(|(key, value)| {
        let (source, key) = key.split_once('.').expect("a source");
        Requirement {
            key: SelectorKey::new(source, key),
            operator: Operator::In(vec![text(value).to_owned()]),
        }
    });
    Selector::new(requirements.collect())
}

#[test]
fn selectors_are_checked_as_by_cilium() {
    let table = table("policy__api__selector_cases.json");
    let group = list(&table["tables"])
        .iter()
        .find(|t| t["test"] == "TestEndpointSelectorSanitize")
        .unwrap();
    let (mut sound, mut refused) = (0, 0);
    for case in list(&group["cases"]) {
        let (name, given, want) = (text(&case[0]), &case[1], &case[2]);
        let written = given.get("labelSelector").unwrap_or(given);
        // Two cases begin with the inner form: a document has a colon behind the source.
        let is_inner = name == "EndpointSelector from Cilium Labels" || given["sanitized"] == true;
        let mut selector = json!({});
        for (key, value) in written["matchLabels"].as_object().into_iter().flatten() {
            let key = if is_inner {
                key.replacen('.', ":", 1)
            } else {
                key.clone()
            };
            selector["matchLabels"][key] = value.clone();
        }
        let loaded = load_rule(&json!({"endpointSelector": selector, "ingress": [{}]}), "", "x");
        assert_eq!(json!(loaded.has_errors()), case[3], "{name}: {:?}", loaded.findings);
        if let Some(document) = loaded.documents.first() {
            assert_eq!(
                subject_of(document),
                inner(want.get("labelSelector").unwrap_or(want)),
                "{name}"
            );
            sound += 1;
        } else {
            refused += 1;
        }
    }
    assert_eq!((sound, refused), (5, 1));
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

/// The prefixes of Cilium's example of a list of own inclusions, as patterns.
#[test]
fn only_labels_with_the_prefixes_of_a_list_make_an_identity() {
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(data("examples/valid-labels.lpc")).unwrap()).unwrap();
    let prefixes = list(&file["valid-prefixes"]).iter();
    let patterns: Vec<String> = prefixes
        .map(|p| format!("{}:{}", text(&p["source"]), text(&p["prefix"]).replace('.', "\\.")))
        .collect();
    assert_eq!(patterns.len(), 2);
    let filter = LabelFilter::new(patterns.iter().map(String::as_str)).unwrap();
    let all = Labels::parse([
        "id.service1",
        "io.cilium.app=web",
        "id",
        "identity=x",
        "app=web",
        "io.kubernetes.pod.namespace=shop",
        "container:id.x",
    ]);
    let counting: Vec<String> = filter.apply(&all).iter().map(ToString::to_string).collect();
    assert_eq!(
        counting,
        [
            "container:id.x",
            "k8s:id.service1",
            "k8s:io.cilium.app=web",
            "k8s:io.kubernetes.pod.namespace=shop"
        ]
    );
}
