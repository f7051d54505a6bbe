//! How a server is.

use std::fmt::Write as _;

use super::Output;
use super::table::Table;
use crate::json::to_json;
use crate::pb::observer::ServerStatusResponse;
use crate::safe_text::printable;

pub(super) fn text(status: &ServerStatusResponse, output: Output) -> String {
    match output {
        Output::Json => to_json(status) + "\n",
        Output::Compact => compact(status),
        Output::Dict => dict(status),
        Output::Tab => {
            let fields = fields(status);
            let mut table = Table::default();
            table.row(true, fields) + &table.take()
        }
    }
}

fn fields(status: &ServerStatusResponse) -> Vec<(&'static str, String)> {
    let nodes = |count: Option<u32>| count.map_or_else(|| "N/A".to_owned(), |count| count.to_string());
    vec![
        ("NUM FLOWS", grouped(status.num_flows)),
        ("MAX FLOWS", grouped(status.max_flows)),
        ("SEEN FLOWS", grouped(status.seen_flows)),
        ("FLOWS PER SECOND", rate(status)),
        ("UPTIME", duration(status.uptime_ns)),
        ("NUM CONNECTED NODES", nodes(status.num_connected_nodes)),
        ("NUM UNAVAILABLE NODES", nodes(status.num_unavailable_nodes)),
        ("VERSION", printable(&status.version).into_owned()),
    ]
}

fn dict(status: &ServerStatusResponse) -> String {
    let mut out = String::new();
    for (key, value) in fields(status) {
        let key = if key == "NUM UNAVAILABLE NODES" {
            "NUM UNAVAIL. NODES"
        } else {
            key
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "{key:>19}: {value}");
    }
    out
}

fn compact(status: &ServerStatusResponse) -> String {
    let (now, most) = (status.num_flows, status.max_flows);
    // Two places of a percentage, without floating point.
    let share = if most == 0 {
        String::new()
    } else {
        let hundredths = (u128::from(now) * 20_000 + u128::from(most)) / (u128::from(most) * 2);
        format!(" ({}.{:02}%)", hundredths / 100, hundredths % 100)
    };
    let mut out = format!("Current/Max Flows: {}/{}{share}\n", grouped(now), grouped(most));
    let _ = writeln!(out, "Flows/s: {}", rate(status));
    if let (Some(connected), unavailable) = (status.num_connected_nodes, status.num_unavailable_nodes.unwrap_or(0)) {
        let _ = writeln!(
            out,
            "Connected Nodes: {connected}/{}",
            u64::from(connected) + u64::from(unavailable)
        );
    }
    out
}

/// What the server says, or the mean since its start.
fn rate(status: &ServerStatusResponse) -> String {
    if status.flows_rate > 0.0 {
        return format!("{:.2}", status.flows_rate);
    }
    if status.uptime_ns == 0 {
        return "N/A".to_owned();
    }
    let hundredths = u128::from(status.seen_flows) * 100_000_000_000 / u128::from(status.uptime_ns);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// With a comma before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `5m1.515181665s`, as Go writes durations.
fn duration(ns: u64) -> String {
    let (seconds, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!("{rest:09}");
    let fraction = fraction.trim_end_matches('0');
    let mut out = String::new();
    if hours > 0 {
        let _ = write!(out, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(out, "{minutes}m");
    }
    let _ = write!(out, "{seconds}");
    if !fraction.is_empty() {
        let _ = write!(out, ".{fraction}");
    }
    out.push('s');
    out
}
