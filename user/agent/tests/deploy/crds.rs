//! The definitions of Cilium's kinds: ours take what Cilium's take, under the same names.

use std::{collections::BTreeMap, fs, path::Path};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use super::{documents, kinds, text};

fn ours() -> Vec<Value> {
    documents(&text("manifests/crds.yaml"))
}

fn cilium_s(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/data/cilium");
    let plural = name.split_once('.').unwrap().0;
    let text = fs::read_to_string(folder.join(format!("crds/{plural}.yaml"))).unwrap();
    documents(&text).remove(0)
}

#[test]
fn names_versions_and_columns_are_those_that_clients_of_cilium_ask_for() {
    for crd in ours() {
        kinds::check(&crd);
        let theirs = cilium_s(crd["metadata"]["name"].as_str().unwrap());
        for field in ["group", "scope", "names"] {
            assert_eq!(crd["spec"][field], theirs["spec"][field]);
        }
        let told = |crd: &Value| -> Vec<Value> {
            let versions = crd["spec"]["versions"].as_array().unwrap().iter();
            let fields = ["name", "served", "storage", "deprecated", "subresources"];
            versions
                .map(|version| fields.iter().map(|field| version[field].clone()).collect())
                .collect()
        };
        assert_eq!(told(&crd), told(&theirs));
        for version in crd["spec"]["versions"].as_array().unwrap() {
            structural(&version["schema"]["openAPIV3Schema"], "");
        }
    }
}

/// What the API server asks of a schema before it takes it: a type for every value, and no second one.
fn structural(schema: &Value, path: &str) {
    let keys = schema.as_object().unwrap();
    let kind = schema["type"].as_str().unwrap_or_else(|| panic!("{path} has no type"));
    for (name, value) in schema["properties"].as_object().into_iter().flatten() {
        assert_eq!(kind, "object", "{path}");
        structural(value, &format!("{path}.{name}"));
    }
    assert_eq!(kind == "array", keys.contains_key("items"), "{path}");
    if let Some(items) = keys.get("items") {
        structural(items, &format!("{path}[]"));
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(
            !schema["properties"][required.as_str().unwrap()].is_null(),
            "{path}.{required}"
        );
    }
}

#[test]
fn an_object_that_is_valid_for_cilium_is_valid_here_and_nothing_of_it_is_cut_away() {
    let mut validators: BTreeMap<String, (Value, Validator)> = BTreeMap::new();
    for crd in ours() {
        let schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let validator = jsonschema::options().with_draft(Draft::Draft4).build(&schema).unwrap();
        validators.insert(
            crd["spec"]["names"]["kind"].as_str().unwrap().to_owned(),
            (schema, validator),
        );
    }
    let mut checked = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/data/cilium/examples");
    let mut open = vec![folder];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let Ok(documents) = serde_saphyr::from_multiple::<Value>(&text) else {
            continue;
        };
        for mut document in documents {
            let Some((schema, validator)) = document["kind"].as_str().and_then(|kind| validators.get(kind)) else {
                continue;
            };
            drop_nulls(&mut document);
            let errors: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
            assert_eq!(pruned(&document, schema), document, "{}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} documents");
    let (_, validator) = &validators["CiliumNetworkPolicy"];
    let metadata = json!({"name": "a"});
    assert!(!validator.is_valid(&json!({"metadata": metadata, "spec": {"ingress": {}}})));
    assert!(!validator.is_valid(&json!({"metadata": metadata, "specs": {}})));
    assert!(
        !validators["CiliumCIDRGroup"]
            .1
            .is_valid(&json!({"metadata": metadata, "spec": {}}))
    );
}

/// A null counts as absent, as it does for Kubernetes.
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

/// What the API server keeps of a value under a schema; metadata is its own affair.
fn pruned(value: &Value, schema: &Value) -> Value {
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter_map(|(name, field)| match &schema["properties"][name] {
                    Value::Null if keeps => Some((name.clone(), field.clone())),
                    Value::Null => None,
                    _ if name == "metadata" => Some((name.clone(), field.clone())),
                    known => Some((name.clone(), pruned(field, known))),
                });
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.iter().map(|item| pruned(item, &schema["items"])).collect(),
        other => other.clone(),
    }
}
