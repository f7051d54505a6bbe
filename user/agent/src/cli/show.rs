//! Commands that show what a running agent answers.

use std::str::FromStr;

use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};
use serde_json::json;
use tonic::Code;

use super::{Answer, Ask, Form, config};
use crate::{
    api::{
        self,
        v1::{
            AuditStatus, ConfigureEndpointRequest, Endpoint, ListEndpointsRequest, NamedCount, StatusRequest,
            StatusResponse,
        },
    },
    settings::read_switch,
};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// `seventh status`: 1 if anything needs attention.
pub(super) async fn status(ask: &Ask) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let status = client.status(StatusRequest {}).await.context("status")?.into_inner();
    match ask.output {
        Form::Json => println!("{}", status_json(&status)),
        Form::Text => print_status(&status),
    }
    Ok(if status.problems.is_empty() {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn print_status(status: &StatusResponse) {
    let policy = status.policy.clone().unwrap_or_default();
    if status.problems.is_empty() {
        println!("{GOOD}OK{GOOD:#}");
    }
    for problem in &status.problems {
        println!("{BAD}PROBLEM{BAD:#} {problem}");
    }
    println!("Node       {}", status.node);
    println!(
        "Version    {}, up {} s, attached by {}",
        status.version, status.uptime_s, status.attach
    );
    println!("Endpoints  {}", status.endpoints);
    println!(
        "Policy     revision {}, {} documents, {} errors",
        policy.revision, policy.documents, policy.errors
    );
    for finding in &policy.findings {
        println!("           {finding}");
    }
    for setting in &status.changed {
        println!(
            "Changed    {} = {} until the agent ends (configured: {})",
            setting.name, setting.value, setting.configured
        );
    }
    print_audit(&status.audit.unwrap_or_default());
    for worker in &status.workers {
        let state = if worker.alive { "alive" } else { "DEAD" };
        println!(
            "Worker {}   {state}, frames: {} in, {} out, {} lost",
            worker.index, worker.frames_received, worker.frames_sent, worker.frames_lost
        );
    }
    print_counts("Packets", &status.paths);
    print_counts("Engine", &status.engine);
    print_counts("Drops", &status.drops);
}

fn print_audit(audit: &AuditStatus) {
    let looked_at = [
        (audit.endpoints_in_audit, "endpoints in audit"),
        (
            audit.endpoints_under_policies_in_audit,
            "endpoints under policies in audit",
        ),
        (audit.endpoints_observed, "endpoints observed"),
    ];
    let mut looked_at = looked_at.iter().filter(|(number, _)| *number > 0).peekable();
    if looked_at.peek().is_none() {
        return;
    }
    let words: Vec<String> = looked_at.map(|(number, what)| format!("{number} {what}")).collect();
    println!(
        "Audit      {}; copies: {} made, {} judged, {} lost",
        words.join(", "),
        audit.copied,
        audit.judged,
        audit.lost
    );
}

fn print_counts(title: &str, counts: &[NamedCount]) {
    for (i, count) in counts.iter().enumerate() {
        println!(
            "{:<10} {:<28} {:>12}",
            if i == 0 { title } else { "" },
            count.name,
            count.count
        );
    }
}

fn status_json(status: &StatusResponse) -> serde_json::Value {
    let counts = |list: &[NamedCount]| -> serde_json::Map<String, serde_json::Value> {
        list.iter()
            .map(|count| (count.name.clone(), json!(count.count)))
            .collect()
    };
    let policy = status.policy.clone().unwrap_or_default();
    json!({
        "version": status.version, "node": status.node, "uptime_s": status.uptime_s, "attach": status.attach,
        "endpoints": status.endpoints, "problems": status.problems,
        "policy": {
            "revision": policy.revision, "documents": policy.documents, "errors": policy.errors,
            "findings": policy.findings,
        },
        "workers": status.workers.iter().map(|w| json!({
            "index": w.index, "alive": w.alive, "frames_received": w.frames_received, "frames_sent": w.frames_sent,
            "frames_lost": w.frames_lost,
        })).collect::<Vec<_>>(),
        "changed": status.changed.iter().map(config::as_json).collect::<Vec<_>>(),
        "audit": audit_json(&status.audit.unwrap_or_default()),
        "paths": counts(&status.paths), "engine": counts(&status.engine), "drops": counts(&status.drops),
    })
}

fn audit_json(audit: &AuditStatus) -> serde_json::Value {
    json!({
        "endpoints_in_audit": audit.endpoints_in_audit,
        "endpoints_under_policies_in_audit": audit.endpoints_under_policies_in_audit,
        "endpoints_observed": audit.endpoints_observed,
        "copied": audit.copied, "lost": audit.lost, "judged": audit.judged,
    })
}

/// `seventh endpoint config`: 1 if there is no such endpoint. Without a setting it shows them.
pub(super) async fn configure(ask: &Ask, endpoint: &str, setting: Option<EndpointSetting>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let request = ConfigureEndpointRequest {
        endpoint: endpoint.to_owned(),
        policy_audit_mode: setting.map(|EndpointSetting::PolicyAuditMode(on)| on),
    };
    let endpoint = match client.configure_endpoint(request).await {
        Ok(answer) => answer.into_inner().endpoint.unwrap_or_default(),
        Err(refused) if refused.code() == Code::NotFound => {
            anstream::eprintln!("seventh: {}; see `seventh endpoint list`", refused.message());
            return Ok(Answer::No);
        }
        Err(e) => return Err(e).context("endpoint config"),
    };
    match ask.output {
        Form::Json => println!("{}", endpoint_json(&endpoint)),
        Form::Text => println!("{:<24} : {}", "PolicyAuditMode", on_or_off(endpoint.in_audit)),
    }
    Ok(Answer::Yes)
}

/// A setting as it is typed: `PolicyAuditMode=Enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointSetting {
    PolicyAuditMode(bool),
}

impl FromStr for EndpointSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(("PolicyAuditMode", value)) = text.split_once('=') else {
            return Err("there is only PolicyAuditMode=Enabled and PolicyAuditMode=Disabled".to_owned());
        };
        read_switch(value).map(Self::PolicyAuditMode).map_err(|e| e.to_string())
    }
}

fn on_or_off(on: bool) -> &'static str {
    if on { "Enabled" } else { "Disabled" }
}

/// In one word, as Cilium's list has it.
fn enforcement(e: &Endpoint, enforced: bool) -> &'static str {
    match (enforced, e.in_audit, e.under_policies_in_audit) {
        (_, true, _) => "Disabled (Audit)",
        (true, _, true) => "Enabled (+Audit)",
        (false, _, true) => "Disabled (+Audit)",
        (on, false, false) => on_or_off(on),
    }
}

/// `seventh endpoint list` and `get`: 1 if the one asked for is not there.
pub(super) async fn endpoints(ask: &Ask, wanted: Option<&str>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let list = client
        .list_endpoints(ListEndpointsRequest {})
        .await
        .context("endpoint list")?
        .into_inner()
        .endpoints;
    let is_wanted = |e: &Endpoint| wanted.is_none_or(|w| e.name == w || e.id.to_string() == w);
    let list: Vec<Endpoint> = list.into_iter().filter(is_wanted).collect();
    if let (Some(wanted), true) = (wanted, list.is_empty()) {
        anstream::eprintln!("seventh: no endpoint `{wanted}`; see `seventh endpoint list`");
        return Ok(Answer::No);
    }
    match ask.output {
        Form::Json => list.iter().for_each(|endpoint| println!("{}", endpoint_json(endpoint))),
        Form::Text => print_endpoints(&list),
    }
    Ok(Answer::Yes)
}

fn print_endpoints(list: &[Endpoint]) {
    println!(
        "{:<9} {:<18} {:<18} {:<10} {:<28} {:<40} {:<24} {:<16} STATUS",
        "ENDPOINT", "POLICY (ingress)", "POLICY (egress)", "IDENTITY", "NAME", "LABELS", "IPv6", "IPv4"
    );
    for e in list {
        let ips = |v6: bool| {
            let of_family: Vec<&str> = e
                .ips
                .iter()
                .map(String::as_str)
                .filter(|ip| ip.contains(':') == v6)
                .collect();
            of_family.join(",")
        };
        println!(
            "{:<9} {:<18} {:<18} {:<10} {:<28} {:<40} {:<24} {:<16} {}",
            e.id,
            enforcement(e, e.ingress_enforced),
            enforcement(e, e.egress_enforced),
            e.identity,
            e.name,
            e.labels.join(","),
            ips(true),
            ips(false),
            e.state
        );
    }
}

fn endpoint_json(e: &Endpoint) -> serde_json::Value {
    json!({
        "id": e.id, "name": e.name, "identity": e.identity, "labels": e.labels, "ips": e.ips,
        "interface": e.interface, "ingress_enforced": e.ingress_enforced, "egress_enforced": e.egress_enforced,
        "policy_id": e.policy_id, "epoch": e.epoch, "state": e.state, "in_audit": e.in_audit,
        "under_policies_in_audit": e.under_policies_in_audit, "observed": e.observed,
    })
}

/// `seventh version`.
pub(super) fn version(output: Form) {
    let version = env!("CARGO_PKG_VERSION");
    match output {
        Form::Text => println!("seventh {version}, kernel ABI {}", seventh_abi::ABI_VERSION),
        Form::Json => println!("{}", json!({"version": version, "abi": seventh_abi::ABI_VERSION})),
    }
}
