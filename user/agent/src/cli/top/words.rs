//! Numbers as they are shown, and the picture without a terminal.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::board::{Latency, Picture};

/// Rows of each table without a terminal.
const ROWS_MAX: usize = 20;

/// A count of this span as a rate.
pub(super) fn rate(count: u64, span: Duration) -> f64 {
    let seconds = span.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// The same in words.
pub(super) fn per_second(count: u64, span: Duration) -> String {
    format!("{:.1}", rate(count, span))
}

/// A time in words of four digits; `None` is longer than anything that is told apart.
fn time(ns: Option<u64>) -> String {
    let Some(ns) = ns else { return "long".to_owned() };
    let (number, unit) = match ns {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (Duration::from_nanos(ns).as_secs_f64() * 1e6, "µs"),
        1_000_000..1_000_000_000 => (Duration::from_nanos(ns).as_secs_f64() * 1e3, "ms"),
        _ => (Duration::from_nanos(ns).as_secs_f64(), "s"),
    };
    format!("{number:.1}{unit}")
}

/// What, how often a second, median, the 99th percentile.
pub(super) fn latency_row(latency: &Latency, span: Duration) -> [String; 4] {
    [
        latency.what.to_owned(),
        per_second(latency.count, span),
        time(latency.p50),
        time(latency.p99),
    ]
}

/// The picture as columns. Its parts are sorted already.
pub(super) fn plain(picture: &Picture) -> String {
    let span = picture.span;
    let counts = picture.counts;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{:.1} s: flows/s {}, http/s {}, dns/s {}, tls/s {}, denied/s {}, audited/s {}, lost events {}",
        span.as_secs_f64(),
        per_second(counts.flows, span),
        per_second(counts.http, span),
        per_second(counts.dns, span),
        per_second(counts.tls, span),
        per_second(counts.denied, span),
        per_second(counts.audited, span),
        counts.lost,
    );
    let talkers = picture.talkers.iter().map(|talker| {
        vec![
            format!("{} -> {}", talker.source, talker.destination),
            per_second(talker.talk.flows, span),
            per_second(talker.talk.requests, span),
            per_second(talker.talk.denied, span),
        ]
    });
    columns(
        &mut out,
        &["ENDPOINTS", "FLOWS/S", "REQS/S", "DENIED/S"],
        talkers,
        picture.other_talkers,
    );
    let latencies = picture
        .latencies
        .iter()
        .map(|latency| latency_row(latency, span).to_vec());
    columns(&mut out, &["LATENCY", "PER S", "P50", "P99"], latencies, 0);
    let denials = picture.denials.iter().map(|denial| {
        vec![
            denial.policy.clone(),
            denial.reason.clone(),
            per_second(denial.now, span),
            denial.total.to_string(),
        ]
    });
    columns(
        &mut out,
        &["POLICY", "REASON", "PER S", "TOTAL"],
        denials,
        picture.other_denials,
    );
    out
}

/// A table, if it has rows. `others`: what found no room in it to begin with.
fn columns(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>, others: u64) {
    let mut rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let cut = rows.len().saturating_sub(ROWS_MAX);
    rows.truncate(ROWS_MAX);
    rows.insert(0, head.iter().map(|name| (*name).to_owned()).collect());
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    out.push('\n');
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(out, "{}", cells.join("   ").trim_end());
    }
    if cut > 0 {
        let _ = writeln!(out, "({cut} more rows)");
    }
    if others > 0 {
        let _ = writeln!(out, "({others} found no room)");
    }
}

/// The picture as JSON, whole.
pub(super) fn as_json(picture: &Picture) -> Value {
    let span = picture.span;
    let counts = picture.counts;
    json!({
        "seconds": span.as_secs_f64(),
        "flows_per_s": rate(counts.flows, span), "http_per_s": rate(counts.http, span),
        "dns_per_s": rate(counts.dns, span), "tls_per_s": rate(counts.tls, span),
        "denied_per_s": rate(counts.denied, span), "audited_per_s": rate(counts.audited, span),
        "lost": counts.lost,
        "talkers": picture.talkers.iter().map(|talker| json!({
            "source": talker.source, "destination": talker.destination,
            "flows_per_s": rate(talker.talk.flows, span), "requests_per_s": rate(talker.talk.requests, span),
            "denied_per_s": rate(talker.talk.denied, span),
        })).collect::<Vec<_>>(),
        "other_talkers": picture.other_talkers,
        "latencies": picture.latencies.iter().map(|latency| json!({
            "what": latency.what, "count": latency.count, "p50_ns": latency.p50, "p99_ns": latency.p99,
        })).collect::<Vec<_>>(),
        "denials": picture.denials.iter().map(|denial| json!({
            "policy": denial.policy, "reason": denial.reason, "count": denial.now, "total": denial.total,
        })).collect::<Vec<_>>(),
        "other_denials": picture.other_denials,
    })
}
