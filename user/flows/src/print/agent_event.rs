//! Details of what an agent tells of itself, in Hubble's words.

use std::fmt::Write as _;

use crate::pb::flow::{
    AgentEvent, AgentEventType, IpCacheNotification, ServiceUpsertNotification, ServiceUpsertNotificationAddr,
    agent_event::Notification,
};
use crate::timestamp::{self, TimeFormat};

/// One line on the event; `UNKNOWN` if what it tells does not fit its type.
#[must_use]
pub fn details(event: &AgentEvent, time_format: TimeFormat) -> String {
    use AgentEventType as T;
    let known = match (event.r#type(), &event.notification) {
        (T::AgentEventUnknown, Some(Notification::Unknown(told))) => {
            Some(format!("type: {}, notification: {}", told.r#type, told.notification))
        }
        (T::AgentStarted, Some(Notification::AgentStart(told))) => Some(format!(
            "start time: {}",
            timestamp::format(told.time.as_ref(), time_format)
        )),
        (T::PolicyUpdated | T::PolicyDeleted, Some(Notification::PolicyUpdate(told))) => Some(format!(
            "labels: [{}], revision: {}, count: {}",
            told.labels.join(","),
            told.revision,
            told.rule_count
        )),
        (T::EndpointRegenerateSuccess | T::EndpointRegenerateFailure, Some(Notification::EndpointRegenerate(told))) => {
            let text = format!("id: {}, labels: [{}]", told.id, told.labels.join(","));
            Some(text + &part("error", &told.error))
        }
        (T::EndpointCreated | T::EndpointDeleted, Some(Notification::EndpointUpdate(told))) => {
            Some(format!("id: {}", told.id) + &part("namespace", &told.namespace) + &part("pod name", &told.pod_name))
        }
        (T::IpcacheUpserted | T::IpcacheDeleted, Some(Notification::IpcacheUpdate(told))) => Some(ipcache(told)),
        (T::ServiceUpserted, Some(Notification::ServiceUpsert(told))) => Some(service(told)),
        (T::ServiceDeleted, Some(Notification::ServiceDelete(told))) => Some(format!("id: {}", told.id)),
        _ => None,
    };
    known.unwrap_or_else(|| "UNKNOWN".to_owned())
}

/// `, name: value` if there is one.
fn part(name: &str, value: &str) -> String {
    if value.is_empty() {
        String::new()
    } else {
        format!(", {name}: {value}")
    }
}

fn ipcache(told: &IpCacheNotification) -> String {
    let mut out = format!("cidr: {}, identity: {}", told.cidr, told.identity);
    // Writing to a string does not fail.
    if let Some(old) = told.old_identity {
        let _ = write!(out, ", old identity: {old}");
    }
    out += &part("host ip", &told.host_ip);
    out += &part("old host ip", &told.old_host_ip);
    let _ = write!(out, ", encrypt key: {}", told.encrypt_key);
    out
}

fn service(told: &ServiceUpsertNotification) -> String {
    let address = |a: &ServiceUpsertNotificationAddr| {
        if a.ip.contains(':') {
            format!("[{}]:{}", a.ip, a.port)
        } else {
            format!("{}:{}", a.ip, a.port)
        }
    };
    let mut out = format!("id: {}", told.id);
    if let Some(frontend) = &told.frontend_address {
        out += &part("frontend", &address(frontend));
    }
    if !told.backend_addresses.is_empty() {
        let backends: Vec<String> = told.backend_addresses.iter().map(address).collect();
        out += &part("backends", &format!("[{}]", backends.join(",")));
    }
    #[expect(deprecated, reason = "older programs send it")]
    let policy = part("traffic policy", &told.traffic_policy);
    out + &part("type", &told.r#type) + &policy + &part("namespace", &told.namespace) + &part("name", &told.name)
}
