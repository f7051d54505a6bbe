//! `seventh policy get`, `seventh identity` and `seventh bpf`: what an agent and its kernel tables hold.

use anstream::{eprintln, print, println};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use seventh_policy::is_plain;
use tonic::Streaming;

use super::{Answer, Ask, Form, trace::protocol_name};
use crate::api::{
    self,
    v1::{
        FlowEntry, GetPolicyRequest, Identity, IpcacheEntry, ListFlowEntriesRequest, ListIdentitiesRequest,
        ListIpcacheRequest, ListNameRowsRequest, ListPolicyRowsRequest, NameRow, PolicyDocument, PolicyRow,
    },
};

/// `seventh policy get`: 1 if the one asked for is not there.
pub(super) async fn policy(ask: &Ask, name: Option<&str>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let request = GetPolicyRequest {
        name: name.unwrap_or_default().to_owned(),
    };
    let pieces = client.get_policy(request).await.context("policy get")?.into_inner();
    let documents = collect(pieces, |document| vec![document]).await?;
    if let (Some(name), true) = (name, documents.is_empty()) {
        eprintln!("seventh: no policy `{name}` is in force; see `seventh policy get`");
        return Ok(Answer::No);
    }
    match (ask.output, name) {
        (Form::Json, _) => documents
            .iter()
            .for_each(|document| println!("{}", document_json(document))),
        (Form::Text, Some(_)) => documents.iter().for_each(print_text),
        (Form::Text, None) => print_documents(&documents),
    }
    Ok(Answer::Yes)
}

fn print_text(document: &PolicyDocument) {
    let text = document.text.trim_start_matches("---").trim_start_matches(['\r', '\n']);
    println!("---\n# {} (document {})", document.file, document.document);
    for line in text.lines() {
        // A document must not write to the terminal.
        println!("{}", line.replace(|c: char| !is_plain(c) && c != '\t', "\u{fffd}"));
    }
}

fn print_documents(documents: &[PolicyDocument]) {
    let mut table = Table::new(&["KIND", "NAME", "FILE", "DOCUMENT", "ENDPOINTS"]);
    for document in documents {
        table.row([
            document.kind.clone(),
            policy_name(document),
            format!("{}:{}", document.file, document.line),
            document.document.to_string(),
            or_dash(document.endpoints.join(",")),
        ]);
    }
    table.print();
    println!("Revision {}", documents.first().map_or(0, |document| document.revision));
}

fn policy_name(document: &PolicyDocument) -> String {
    if document.namespace.is_empty() {
        document.name.clone()
    } else {
        format!("{}/{}", document.namespace, document.name)
    }
}

fn document_json(document: &PolicyDocument) -> Value {
    let mut object = json!({
        "kind": document.kind, "namespace": document.namespace, "name": document.name, "file": document.file,
        "document": document.document, "line": document.line, "endpoints": document.endpoints,
        "revision": document.revision,
    });
    if let (Some(object), false) = (object.as_object_mut(), document.text.is_empty()) {
        object.insert("text".to_owned(), document.text.clone().into());
    }
    object
}

/// `seventh identity list` and `get`: 1 if the one asked for is not there.
pub(super) async fn identities(ask: &Ask, wanted: Option<u32>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let pieces = client
        .list_identities(ListIdentitiesRequest {})
        .await
        .context("identity list")?;
    let mut list = collect(pieces.into_inner(), |piece| piece.items).await?;
    list.retain(|identity| wanted.is_none_or(|id| identity.id == id));
    if let (Some(id), true) = (wanted, list.is_empty()) {
        eprintln!("seventh: no identity {id}; see `seventh identity list`");
        return Ok(Answer::No);
    }
    show(
        ask.output,
        &list,
        &["ID", "LABELS", "ENDPOINTS"],
        identity_json,
        |identity: &Identity| {
            [
                identity.id.to_string(),
                identity.labels.join(","),
                or_dash(identity.endpoints.join(",")),
            ]
        },
    );
    Ok(Answer::Yes)
}

fn identity_json(identity: &Identity) -> Value {
    json!({"id": identity.id, "labels": identity.labels, "endpoints": identity.endpoints})
}

/// `seventh bpf policy list`.
pub(super) async fn policy_rows(ask: &Ask, endpoint: Option<&str>) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let pieces = client
        .list_policy_rows(ListPolicyRowsRequest {})
        .await
        .context("bpf policy list")?;
    let mut rows = collect(pieces.into_inner(), |piece| piece.items).await?;
    rows.retain(|row| endpoint.is_none_or(|name| row.endpoints.iter().any(|of| of == name)));
    let columns = [
        "POLICY",
        "ENDPOINTS",
        "DIRECTION",
        "IDENTITY",
        "LABELS",
        "PORT/PROTOCOL",
        "VERDICT",
    ];
    show(ask.output, &rows, &columns, row_json, |row: &PolicyRow| {
        let verdict = match row.verdict.as_str() {
            "deny" => format!("deny ({})", row.reason),
            "inspect" => format!("inspect (rule set {})", row.rule_set),
            other => other.to_owned(),
        };
        [
            row.policy_id.to_string(),
            or_dash(row.endpoints.join(",")),
            row.direction.clone(),
            if row.identity == 0 {
                "any".to_owned()
            } else {
                row.identity.to_string()
            },
            or_dash(row.labels.join(",")),
            ports(row),
            verdict,
        ]
    });
    Ok(Answer::Yes)
}

fn ports(row: &PolicyRow) -> String {
    let protocol = u8::try_from(row.protocol).map_or_else(|_| "ANY".to_owned(), protocol_name);
    match (row.first_port, row.last_port) {
        (0, 65_535) => format!("any/{protocol}"),
        (first, last) if first == last => format!("{first}/{protocol}"),
        (first, last) => format!("{first}-{last}/{protocol}"),
    }
}

fn row_json(row: &PolicyRow) -> Value {
    json!({
        "policy_id": row.policy_id, "endpoints": row.endpoints, "direction": row.direction, "identity": row.identity,
        "labels": row.labels, "protocol": u8::try_from(row.protocol).ok(), "first_port": row.first_port,
        "last_port": row.last_port, "verdict": row.verdict, "reason": row.reason, "rule_set": row.rule_set,
    })
}

/// `seventh bpf ipcache list`.
pub(super) async fn ipcache(ask: &Ask) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let pieces = client
        .list_ipcache(ListIpcacheRequest {})
        .await
        .context("bpf ipcache list")?;
    let entries = collect(pieces.into_inner(), |piece| piece.items).await?;
    let columns = ["IP PREFIX/ADDRESS", "IDENTITY", "LABELS", "ENDPOINT"];
    show(ask.output, &entries, &columns, ipcache_json, |entry: &IpcacheEntry| {
        [
            entry.prefix.clone(),
            entry.identity.to_string(),
            or_dash(entry.labels.join(",")),
            or_dash(entry.endpoint.clone()),
        ]
    });
    Ok(Answer::Yes)
}

/// `seventh bpf names list`.
pub(super) async fn name_rows(ask: &Ask) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let pieces = client
        .list_name_rows(ListNameRowsRequest {})
        .await
        .context("bpf names list")?;
    let rows = collect(pieces.into_inner(), |piece| piece.items).await?;
    let columns = ["ENDPOINT", "IP ADDRESS", "IDENTITY", "FLOW IDENTITY", "LABELS"];
    show(ask.output, &rows, &columns, name_row_json, |row: &NameRow| {
        [
            or_dash(row.endpoint.clone()),
            row.ip.clone(),
            row.identity.to_string(),
            row.flow_identity.to_string(),
            or_dash(row.labels.join(",")),
        ]
    });
    Ok(Answer::Yes)
}

fn name_row_json(row: &NameRow) -> Value {
    json!({
        "endpoint": row.endpoint, "ip": row.ip, "identity": row.identity, "flow_identity": row.flow_identity,
        "labels": row.labels,
    })
}

fn ipcache_json(entry: &IpcacheEntry) -> Value {
    json!({
        "prefix": entry.prefix, "identity": entry.identity, "labels": entry.labels, "endpoint": entry.endpoint,
    })
}

/// `seventh bpf flows list`.
pub(super) async fn flows(ask: &Ask, max: usize) -> Result<Answer> {
    let mut client = api::connect(&ask.server).await?;
    let request = ListFlowEntriesRequest {
        max: u32::try_from(max).unwrap_or(0),
    };
    let pieces = client
        .list_flow_entries(request)
        .await
        .context("bpf flows list")?
        .into_inner();
    let flows = collect(pieces, |piece| piece.items).await?;
    let columns = [
        "ENDPOINT",
        "DIRECTION",
        "PROTOCOL",
        "LOCAL",
        "PEER",
        "IDENTITY",
        "VERDICT",
        "EPOCH",
        "IDLE",
    ];
    show(ask.output, &flows, &columns, flow_json, |flow: &FlowEntry| {
        let verdict = match flow.verdict.as_str() {
            "inspect" => format!("inspect (rule set {})", flow.rule_set),
            other => other.to_owned(),
        };
        [
            flow.endpoint.clone(),
            flow.direction.clone(),
            u8::try_from(flow.protocol).map_or_else(|_| flow.protocol.to_string(), protocol_name),
            address(&flow.local_ip, flow.local_port),
            address(&flow.peer_ip, flow.peer_port),
            flow.peer_identity.to_string(),
            verdict,
            flow.epoch.to_string(),
            format!("{}.{:03} s", flow.idle_ms / 1000, flow.idle_ms % 1000),
        ]
    });
    if flows.len() == max {
        eprintln!("seventh: {max} flows are shown; there may be more");
    }
    Ok(Answer::Yes)
}

fn address(ip: &str, port: u32) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn flow_json(flow: &FlowEntry) -> Value {
    json!({
        "endpoint": flow.endpoint, "direction": flow.direction, "protocol": flow.protocol, "local_ip": flow.local_ip,
        "local_port": flow.local_port, "peer_ip": flow.peer_ip, "peer_port": flow.peer_port,
        "peer_identity": flow.peer_identity, "peer_labels": flow.peer_labels, "verdict": flow.verdict,
        "rule_set": flow.rule_set, "epoch": flow.epoch, "replied": flow.replied, "closing": flow.closing,
        "idle_ms": flow.idle_ms,
    })
}

/// All items of a list that comes in pieces.
pub(super) async fn collect<P, T>(mut pieces: Streaming<P>, items: impl Fn(P) -> Vec<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await.context("the agent's answer broke off")? {
        all.extend(items(piece));
    }
    Ok(all)
}

fn show<T, const N: usize>(
    form: Form,
    items: &[T],
    columns: &[&'static str; N],
    as_json: impl Fn(&T) -> Value,
    as_row: impl Fn(&T) -> [String; N],
) {
    match form {
        Form::Json => items.iter().for_each(|item| println!("{}", as_json(item))),
        Form::Text => {
            let mut table = Table::new(columns);
            items.iter().for_each(|item| table.row(as_row(item)));
            table.print();
        }
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Rows under a head, each column as wide as its widest cell.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: &[&'static str; N]) -> Self {
        Self {
            rows: vec![columns.map(str::to_owned)],
        }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(super) fn print(&self) {
        print!("{}", self.text());
    }

    fn text(&self) -> String {
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        });
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["wide".to_owned(), "x".to_owned()]);
        assert_eq!(table.text(), "A     LONG\nwide  x\n");
    }
}
