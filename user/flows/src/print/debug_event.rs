//! Words of a debugging event.

use crate::pb::flow::{DebugEvent, Endpoint};
use crate::safe_text::printable;

pub(super) struct Text {
    pub(super) kind: String,
    pub(super) from: String,
    pub(super) mark: String,
    pub(super) cpu: String,
    pub(super) message: String,
}

impl Text {
    pub(super) fn of(event: &DebugEvent) -> Self {
        Self {
            kind: event.r#type().as_str_name().to_owned(),
            from: printable(&event.source.as_ref().map_or_else(|| "N/A".to_owned(), from)).into_owned(),
            mark: event.hash.map_or_else(|| "N/A".to_owned(), |hash| format!("{hash:#x}")),
            cpu: event.cpu.map_or_else(|| "N/A".to_owned(), |cpu| format!("{cpu:02}")),
            message: printable(&event.message).into_owned(),
        }
    }
}

fn from(end: &Endpoint) -> String {
    match (end.pod_name.as_str(), end.id) {
        ("", id) => format!("ID: {id}"),
        (pod, id) => format!("{}/{pod} (ID: {id})", end.namespace),
    }
}
