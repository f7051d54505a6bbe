//! Tables of Go tests: their values are Go structs written as JSON.

use serde_json::{Map, Value};

/// The cases of a table.
pub(crate) fn cases(text: &str) -> Vec<Value> {
    let table: Value = serde_json::from_str(text).unwrap();
    table["cases"].as_array().unwrap().clone()
}

/// A Go struct in the JSON mapping of protobuf: wrappers are their values, times are texts, what is nil is not there.
pub(crate) fn from_go(value: &Value) -> Value {
    match value {
        Value::Object(map) => from_go_struct(map),
        Value::Array(items) => items.iter().map(from_go).collect(),
        other => other.clone(),
    }
}

fn from_go_struct(map: &Map<String, Value>) -> Value {
    if let Some(inner) = map.get("Value").filter(|_| map.len() == 1) {
        return inner.clone();
    }
    if let (Some(seconds), Some(nanos)) = (map.get("Seconds"), map.get("Nanos")) {
        let time = prost_types::Timestamp {
            seconds: seconds.as_i64().unwrap(),
            nanos: i32::try_from(nanos.as_i64().unwrap()).unwrap(),
        };
        return time.to_string().into();
    }
    let there = map.iter().filter(|(_, value)| !value.is_null());
    there
        .map(|(key, value)| (field_name(key), from_go(value)))
        .collect::<Map<_, _>>()
        .into()
}

/// The only field that is named as in Go.
fn field_name(key: &str) -> String {
    if key == "CelExpression" {
        "cel_expression".into()
    } else {
        key.into()
    }
}

/// Every member of `over` takes the place of the one in `value`.
pub(crate) fn merged(value: &Value, over: &Value) -> Value {
    let mut value = value.clone();
    for (key, member) in over.as_object().into_iter().flatten() {
        value[key] = member.clone();
    }
    value
}
