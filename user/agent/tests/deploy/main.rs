//! What `deploy/` has fits what the program is: objects are what Kubernetes takes, word for word; names, ports and settings are
//! the program's own; and what is made from the chart is what the chart makes.
#![forbid(unsafe_code)]

mod agreement;
mod chart;
mod crds;
mod examples;
mod helm;
mod host;
mod kinds;
mod monitoring;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A file of `deploy/`.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("deploy/{name}: {e}"))
}

/// The documents of a YAML stream.
fn documents(stream: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(stream).unwrap_or_else(|e| panic!("{e}\n{stream}"));
    all.into_iter().filter(|document| !document.is_null()).collect()
}
