//! The schemas by which Kubernetes takes or refuses these documents. What is written here as an example is valid under
//! them, what is accepted here is accepted there, and every property that they name is read or refused by its name.

use std::fs;
use std::path::Path;

use jsonschema::{Draft, Validator};
use rand::prelude::*;
use serde_json::{Map, Value, json};
use seventh_policy::{Loaded, load_text};

use crate::documents::collect;
use crate::random::Generator;
use crate::tables::data;

/// The schema of one version of a kind.
struct Schema {
    api_version: String,
    kind: String,
    text: Value,
    validator: Validator,
}

fn schemas() -> Vec<Schema> {
    let mut schemas = Vec::new();
    for entry in fs::read_dir(data("crds")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let crd: Value = serde_saphyr::from_str(&text).unwrap();
        let (group, kind) = (&crd["spec"]["group"], &crd["spec"]["names"]["kind"]);
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let mut text = version["schema"]["openAPIV3Schema"].clone();
            in_other_words(&mut text);
            let validator = jsonschema::options()
                .with_draft(Draft::Draft4)
                .with_format("cidr", |text: &str| text.parse::<ipnet::IpNet>().is_ok())
                .build(&text)
                .unwrap();
            schemas.push(Schema {
                api_version: format!("{}/{}", group.as_str().unwrap(), version["name"].as_str().unwrap()),
                kind: kind.as_str().unwrap().to_owned(),
                text,
                validator,
            });
        }
    }
    // CiliumCIDRGroup has two versions.
    assert_eq!(schemas.len(), 6);
    schemas
}

/// The patterns are RE2's; of what they hold, JSON schemas know only this by another spelling.
fn in_other_words(schema: &mut Value) {
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(in_other_words),
        Value::Array(items) => items.iter_mut().for_each(in_other_words),
        Value::String(text) if text == "^\\PC*$" => "^\\P{C}*$".clone_into(text),
        _ => {}
    }
}

/// What the schema of its kind has against a document; `None` if there is no schema for it. A null counts as absent, as
/// it does for Kubernetes.
fn faults(schemas: &[Schema], document: &Value) -> Option<Vec<String>> {
    let of_kind = |s: &&Schema| document["kind"] == s.kind.as_str() && document["apiVersion"] == s.api_version.as_str();
    let schema = schemas.iter().find(of_kind)?;
    let mut document = document.clone();
    drop_nulls(&mut document);
    let errors = schema.validator.iter_errors(&document);
    Some(errors.map(|e| format!("{}: {e}", e.instance_path())).collect())
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Whether Cilium itself takes what its schema complains of.
fn is_taken(fault: &str) -> bool {
    let (path, complaint) = fault.split_once(": ").unwrap();
    let steps: Vec<&str> = path.split('/').collect();
    match steps.as_slice() {
        // An empty text counts as absent in the code, and in files that no API server has seen.
        _ if complaint.starts_with("\"\" ") => true,
        // The same for empty rules. Of a DNS rule both forms may stand side by side: either may match.
        [.., "rules"] | [.., "dns" | "toFQDNs", _] => complaint.contains("'oneOf'"),
        // The code takes them in any case, and 1.20 knows GRE, IPIP, IPV6, ESP and AH, too.
        [.., "protocol"] => true,
        // 1.20 takes stars anywhere in a name.
        [.., "serverNames", _] => complaint.contains("does not match"),
        // The code knows cluster-mesh, world-ipv4 and world-ipv6, too.
        [.., "toEntities" | "fromEntities", _] => complaint.contains("is not one of"),
        _ => false,
    }
}

/// Every document of a file.
fn documents_of(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    if Path::new(path).extension().is_some_and(|e| e == "json") {
        vec![serde_json::from_str(&text).unwrap()]
    } else {
        serde_saphyr::from_multiple(&text).unwrap()
    }
}

/// Policies of Cilium and of this repository, as people write them.
fn examples() -> Vec<(String, Value)> {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for directory in [data("examples"), root.join("deploy/examples")] {
        collect(&directory, &mut files);
    }
    let of_file = |file: String| {
        let documents = documents_of(&file);
        documents.into_iter().map(move |document| (file.clone(), document))
    };
    files.into_iter().flat_map(of_file).collect()
}

fn load(document: &Value) -> Loaded {
    load_text("document.json", &document.to_string())
}

#[test]
fn every_example_is_valid_under_the_schema_of_its_kind() {
    let schemas = schemas();
    let mut checked = 0;
    for (file, document) in examples() {
        let Some(faults) = faults(&schemas, &document) else {
            continue;
        };
        checked += 1;
        let faults: Vec<String> = faults.into_iter().filter(|fault| !is_taken(fault)).collect();
        assert!(faults.is_empty(), "{file}: {faults:#?}");
    }
    assert!(checked > 60, "{checked}");
}

/// Values that somebody might write where another is wanted.
fn intruder(rng: &mut StdRng) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(65_536),
        json!(1.5),
        json!(""),
        json!("x"),
        json!("*"),
        json!("10.0.0.1"),
        json!("a".repeat(300)),
        json!([]),
        json!([null]),
        json!([{}]),
        json!({}),
        json!({"x": "y"}),
    ];
    values.choose(rng).unwrap().clone()
}

/// A random place below a value, itself included.
fn place<'a>(value: &'a mut Value, rng: &mut StdRng) -> &'a mut Value {
    let size = match value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if size == 0 || rng.random_range(0..5) == 0 {
        return value;
    }
    let at = rng.random_range(0..size);
    match value {
        Value::Object(fields) => place(fields.values_mut().nth(at).unwrap(), rng),
        Value::Array(items) => place(&mut items[at], rng),
        scalar => scalar,
    }
}

const MUTATED: usize = 3_000;

/// Documents of random policies and examples with one value in a wrong place: who is accepted here must be accepted by
/// Kubernetes, or a policy would be tested that can never be applied.
#[test]
fn what_is_accepted_here_is_accepted_by_kubernetes() {
    let schemas = schemas();
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut generator = Generator {
        rng: StdRng::seed_from_u64(seed),
        cluster: true,
    };
    let mut whole: Vec<Value> = examples().into_iter().map(|(_, document)| document).collect();
    for _ in 0..100 {
        let stream = generator.documents();
        whole.extend(serde_saphyr::from_multiple::<Value>(&stream).unwrap());
    }
    whole.retain(|document| faults(&schemas, document).is_some() && !load(document).has_errors());
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..whole.len() + MUTATED {
        let mut document = match whole.get(number) {
            Some(document) => document.clone(),
            None => whole.choose(&mut generator.rng).unwrap().clone(),
        };
        if number >= whole.len() {
            let spec = if document["spec"].is_object() { "spec" } else { "specs" };
            let new = intruder(&mut generator.rng);
            *place(&mut document[spec], &mut generator.rng) = new;
        }
        if load(&document).has_errors() {
            refused += 1;
            continue;
        }
        accepted += 1;
        let faults: Vec<String> = faults(&schemas, &document).unwrap_or_default();
        let faults: Vec<&String> = faults.iter().filter(|fault| !is_taken(fault)).collect();
        assert!(faults.is_empty(), "seed {seed}: {faults:#?}\n{document}");
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > whole.len() + 50 && refused > 1_000, "{accepted} {refused}");
}

/// Properties that are refused, by a part of their path, with a part of the reason.
const REFUSED: &[(&str, &str)] = &[
    ("Groups", "groups of a cloud provider cannot be resolved"),
    (".terminatingTLS", "TLS is not terminated"),
    (".originatingTLS", "TLS is not originated"),
    (".listener", "there is no Envoy"),
    (".rules.kafka", "was removed"),
    (".rules.l7", "was removed"),
    (".headerMatches[0].secret", "secrets cannot be read"),
    ("ingress[0].toPorts[0].rules.dns", "not allowed on ingress"),
];

/// Each property of the schemas is either understood or refused under its own path with a reason of its own: never
/// unknown, never taken in silence.
#[test]
fn every_property_of_the_schema_is_understood_or_refused_by_name() {
    for schema in schemas().iter().filter(|schema| schema.kind.contains("Policy")) {
        let (mut understood, mut refused) = (0, 0);
        for (path, spec) in samples(&schema.text["properties"]["spec"], "spec") {
            for field in ["spec", "specs"] {
                let specs = if field == "spec" { spec.clone() } else { json!([spec]) };
                let document = json!({"apiVersion": schema.api_version, "kind": schema.kind,
                    "metadata": {"name": "x"}, (field): specs});
                let errors: Vec<String> = schema.validator.iter_errors(&document).map(|e| e.to_string()).collect();
                assert!(errors.is_empty(), "no sample of {path}: {errors:?}\n{document}");
                let reason = match REFUSED.iter().find(|(part, _)| path.contains(part)) {
                    None if path.contains("nodeSelector") && schema.kind == "CiliumNetworkPolicy" => "may select nodes",
                    None => {
                        let loaded = load(&document);
                        assert!(!loaded.has_errors(), "{path}: {:#?}\n{document}", loaded.findings);
                        understood += 1;
                        continue;
                    }
                    Some((_, reason)) => reason,
                };
                let path = path.replacen("spec", if field == "spec" { "spec" } else { "specs[0]" }, 1);
                let findings = load(&document).findings;
                let named = |f: &seventh_policy::Finding| path.starts_with(&f.field) && f.reason.contains(reason);
                assert!(findings.iter().any(named), "{path}: {findings:#?}\n{document}");
                refused += 1;
            }
        }
        assert!(understood > 250 && refused > 50, "{understood} {refused}");
    }
}

/// For every leaf below a schema its path and a valid value that holds this leaf and what must stand beside it.
fn samples(schema: &Value, path: &str) -> Vec<(String, Value)> {
    if let Some(properties) = schema["properties"].as_object() {
        let of_property = |(name, inner): (&String, &Value)| {
            let beside = company(schema, properties, name);
            let inner = samples(inner, &format!("{path}.{name}")).into_iter();
            let whole = inner.map(|(path, value)| {
                let mut object = beside.clone();
                object.insert(name.clone(), value);
                (path, Value::Object(object))
            });
            whole.collect::<Vec<_>>()
        };
        return properties.iter().flat_map(of_property).collect();
    }
    if schema["items"].is_object() {
        let items = samples(&schema["items"], &format!("{path}[0]"));
        return items.into_iter().map(|(path, value)| (path, json!([value]))).collect();
    }
    vec![(path.to_owned(), leaf(schema, path))]
}

/// What must stand beside a property: by the schema, and by the words of its descriptions.
fn company(schema: &Value, properties: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let has = |wanted: &str| properties.contains_key(wanted);
    let mut beside = Map::new();
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let value = smallest(&properties[required], required);
        beside.insert(required.to_owned(), value);
    }
    let more = if has("operator") {
        json!({"key": "app", "operator": "In", "values": ["web"]})
    } else if has("endPort") {
        json!({"port": "80", "protocol": "TCP"})
    } else if has("serviceName") {
        json!({"serviceName": "web"})
    } else if name == "l7" {
        json!({"l7proto": "x"})
    } else if name == "except" {
        json!({"cidr": "10.0.0.0/8"})
    } else if has("serverNames") {
        json!({"ports": [{"port": "80", "protocol": "TCP"}]})
    } else if has("nodeSelector") {
        let mut more = json!({});
        if name != "nodeSelector" {
            more["endpointSelector"] = json!({});
        }
        if !["ingress", "ingressDeny", "egress", "egressDeny"].contains(&name) {
            more["ingress"] = json!([{}]);
        }
        more
    } else {
        json!({})
    };
    beside.extend(more.as_object().cloned().unwrap_or_default());
    beside
}

/// The smallest value that a schema takes.
fn smallest(schema: &Value, name: &str) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            Value::Object(company(schema, &properties, name))
        }
        Some("array") => json!([]),
        _ => leaf(schema, name),
    }
}

fn leaf(schema: &Value, path: &str) -> Value {
    let name = path.rsplit('.').next().unwrap_or(path);
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    if schema["format"] == "cidr" {
        return json!("10.1.0.0/16");
    }
    match (schema["type"].as_str(), name) {
        (Some("integer"), "endPort") => json!(90),
        (Some("integer"), _) => json!(1),
        (Some("boolean"), _) => json!(true),
        (Some("object"), _) => json!({"app": "web"}),
        (None, _) => json!(8),
        (_, "port") => json!("80"),
        (_, "matchName" | "matchPattern" | "serverNames[0]") => json!("example.com"),
        (_, "host") => json!("example\\.com"),
        (_, "method") => json!("GET"),
        (_, "path") => json!("/x"),
        _ => json!("x"),
    }
}

#[test]
fn every_property_of_the_schema_of_groups_is_understood() {
    for schema in schemas().iter().filter(|schema| schema.kind == "CiliumCIDRGroup") {
        let samples = samples(&schema.text["properties"]["spec"], "spec");
        assert_eq!(
            samples,
            [(
                "spec.externalCIDRs[0]".to_owned(),
                json!({"externalCIDRs": ["10.1.0.0/16"]})
            )]
        );
        let group = |prefix: &str| {
            json!({"apiVersion": schema.api_version, "kind": "CiliumCIDRGroup", "metadata": {"name": "x"},
                "spec": {"externalCIDRs": [prefix]}})
        };
        let sound = load(&group("192.0.2.0/24"));
        assert!(
            sound.findings.is_empty() && sound.documents.len() == 1,
            "{:?}",
            sound.findings
        );
        assert_eq!(load(&group("x")).findings[0].field, "spec.externalCIDRs[0]");
        assert!(!schema.validator.is_valid(&group("x")));
    }
}

#[test]
fn endpoints_and_identities_of_a_cluster_are_passed_over() {
    for schema in schemas() {
        if schema.kind != "CiliumEndpoint" && schema.kind != "CiliumIdentity" {
            continue;
        }
        let mut documents = 0;
        for (name, property) in schema.text["properties"].as_object().unwrap() {
            if ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
                continue;
            }
            for (_, value) in samples(property, name) {
                let document = json!({"apiVersion": schema.api_version, "kind": schema.kind,
                    "metadata": {"name": "x"}, (name.clone()): value});
                let loaded = load(&document);
                assert_eq!((loaded.documents.len(), loaded.others), (0, 1), "{document}");
                assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
                documents += 1;
            }
        }
        assert!(documents > 0, "{}", schema.kind);
    }
}
