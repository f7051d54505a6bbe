//! Helm itself, by `deploy/helm/chart.py`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{documents, path};

/// What `chart.py` prints; why Helm refuses, if it does.
pub(crate) fn ask(arguments: &[&str], values: &Value) -> Result<Value, String> {
    let python = path("../.tools/python/bin/python");
    let mut child = Command::new(&python)
        .arg(path("helm/chart.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; run ./seventh-dev setup", python.display()));
    // A process that has ended before it read anything says why on its standard error.
    let _ = child.stdin.take().unwrap().write_all(values.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) => Err(String::from_utf8(output.stderr).unwrap()),
        _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// The objects that the chart makes of these values, with the template that each comes from.
pub(crate) fn objects(values: &Value) -> Vec<(String, Value)> {
    let rendered = ask(&["render"], values).unwrap_or_else(|e| panic!("{values}: {e}"));
    let files = rendered
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| name.ends_with(".yaml"));
    let objects = files.flat_map(|(name, text)| {
        let all = documents(text.as_str().unwrap()).into_iter();
        all.map(|object| (name.clone(), object))
    });
    objects.collect()
}

/// The only object of this kind.
pub(crate) fn only<'a>(objects: &'a [(String, Value)], kind: &str) -> &'a Value {
    let mut of_kind = objects.iter().filter(|(_, object)| object["kind"] == kind);
    match (of_kind.next(), of_kind.next()) {
        (Some((_, object)), None) => object,
        (first, _) => panic!("{} of kind {kind}", if first.is_some() { "several" } else { "none" }),
    }
}
