//! What a replay has come to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use seventh_engine::{L7Record, RecordVerdict};
use seventh_flows::pb::flow::{Flow, Verdict, layer7};
use seventh_policy::RuleOrigin;

/// Denials that are told one by one at most.
const DENIALS_MAX: usize = 1000;

/// Counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Not IP, or of a link that is not read.
    pub(crate) not_ip: u64,
    /// Neither TCP nor UDP.
    pub(crate) other_protocols: u64,
    pub(crate) conversations: u64,
    /// Records for which there was no room.
    pub(crate) records_lost: u64,
    /// By protocol and verdict.
    requests: BTreeMap<(&'static str, &'static str), u64>,
    /// By file, line and field of a rule.
    hits: BTreeMap<(String, u32, String), u64>,
    /// What was (or would be) denied, and how often.
    denials: BTreeMap<String, u64>,
    /// Kinds of denials beyond those.
    pub(crate) denials_untold: u64,
}

impl Tally {
    /// Counts a record.
    pub(crate) fn record(&mut self, record: &L7Record, flow: &Flow) {
        let verdict = match record.verdict {
            RecordVerdict::Forwarded => "forwarded",
            RecordVerdict::Dropped => "denied",
            RecordVerdict::Audit => "would be denied",
        };
        *self.requests.entry((protocol(flow), verdict)).or_default() += 1;
        if let Some(rule) = &record.rule {
            *self.hits.entry(key(rule)).or_default() += 1;
        }
        if record.verdict != RecordVerdict::Forwarded {
            self.deny(flow);
        }
    }

    /// Counts a flow that was decided without looking inside.
    pub(crate) fn flow(&mut self, flow: &Flow) {
        if flow.verdict() == Verdict::Dropped || flow.verdict() == Verdict::Audit {
            self.deny(flow);
        }
    }

    /// Whether something was (or would be) denied.
    pub(crate) fn denied(&self) -> bool {
        !self.denials.is_empty()
    }

    fn deny(&mut self, flow: &Flow) {
        let text = denial(flow);
        if self.denials.len() >= DENIALS_MAX && !self.denials.contains_key(&text) {
            self.denials_untold += 1;
            return;
        }
        *self.denials.entry(text).or_default() += 1;
    }

    /// For people.
    pub(crate) fn report(&self, rules: &[std::sync::Arc<RuleOrigin>], took: Duration) -> String {
        let mut out = String::new();
        let seconds = took.as_secs_f64().max(1e-9);
        // Sums of a capture are far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "for people, who read three digits")]
        let (packets, bits) = (self.packets as f64, self.bytes as f64 * 8.0);
        let _ = writeln!(
            out,
            "{} packets, {} bytes, {} flows in {seconds:.3} s: {:.0} packets/s, {:.2} Gbit/s",
            self.packets,
            self.bytes,
            self.conversations,
            packets / seconds,
            bits / seconds / 1e9
        );
        if self.not_ip + self.other_protocols > 0 {
            let _ = writeln!(
                out,
                "{} packets are not IP, {} neither TCP nor UDP",
                self.not_ip, self.other_protocols
            );
        }
        if self.records_lost > 0 {
            let _ = writeln!(out, "{} requests are not told: too many at once", self.records_lost);
        }
        for ((protocol, verdict), count) in &self.requests {
            let _ = writeln!(out, "{protocol:>6}  {verdict:<15} {count}");
        }
        for (text, count) in &self.denials {
            let _ = writeln!(out, "denied {count} times: {text}");
        }
        if self.denials_untold > 0 {
            let _ = writeln!(out, "and {} further denials", self.denials_untold);
        }
        for rule in rules {
            let place = format!("{}:{} {}", rule.file, rule.line, rule.path);
            match self.hits.get(&key(rule)) {
                Some(count) => {
                    let _ = writeln!(out, "rule {place}: {count} times");
                }
                None => {
                    let _ = writeln!(out, "rule {place}: never");
                }
            }
        }
        out
    }

    /// For programs.
    pub(crate) fn json(&self, rules: &[std::sync::Arc<RuleOrigin>]) -> serde_json::Value {
        let requests: Vec<_> = self
            .requests
            .iter()
            .map(|((protocol, verdict), count)| {
                serde_json::json!({"protocol": protocol, "verdict": verdict, "count": count})
            })
            .collect();
        let rules: Vec<_> = rules
            .iter()
            .map(|rule| {
                let hits = self.hits.get(&key(rule)).copied().unwrap_or(0);
                serde_json::json!({"file": &*rule.file, "line": rule.line, "rule": rule.path, "hits": hits})
            })
            .collect();
        let denials: Vec<_> = self
            .denials
            .iter()
            .map(|(what, count)| serde_json::json!({"what": what, "count": count}))
            .collect();
        serde_json::json!({"summary": {
            "packets": self.packets, "bytes": self.bytes, "flows": self.conversations, "not_ip": self.not_ip,
            "other_protocols": self.other_protocols, "requests": requests, "rules": rules, "denials": denials,
            "denials_untold": self.denials_untold, "records_lost": self.records_lost,
        }})
    }
}

fn key(rule: &RuleOrigin) -> (String, u32, String) {
    (rule.file.to_string(), rule.line, rule.path.clone())
}

fn protocol(flow: &Flow) -> &'static str {
    match flow.l7.as_ref().and_then(|l7| l7.record.as_ref()) {
        Some(layer7::Record::Http(http)) if http.protocol.starts_with("HTTP/2") => "HTTP/2",
        Some(layer7::Record::Http(_)) => "HTTP/1",
        Some(layer7::Record::Dns(_)) => "DNS",
        Some(layer7::Record::Tls(tls)) if tls.quic => "QUIC",
        Some(layer7::Record::Tls(_)) => "TLS",
        _ => "frames",
    }
}

/// Who wanted what of whom, and why not.
fn denial(flow: &Flow) -> String {
    let end = |end: Option<&seventh_flows::pb::flow::Endpoint>, ip: Option<&String>| match end {
        Some(end) if !end.pod_name.is_empty() => format!("{}/{}", end.namespace, end.pod_name),
        _ => ip.cloned().unwrap_or_default(),
    };
    let ip = flow.ip.as_ref();
    let what = match flow.l7.as_ref().and_then(|l7| l7.record.as_ref()) {
        Some(layer7::Record::Http(http)) => format!("{} {}", http.method, http.url),
        Some(layer7::Record::Dns(dns)) => format!("DNS {} {}", dns.qtypes.join(","), dns.query),
        Some(layer7::Record::Tls(tls)) => format!("TLS {}", tls.sni),
        _ => String::new(),
    };
    let why = flow.decision.as_ref().map_or("", |decision| &decision.reason);
    format!(
        "{} -> {} {what} ({why})",
        end(flow.source.as_ref(), ip.map(|ip| &ip.source)),
        end(flow.destination.as_ref(), ip.map(|ip| &ip.destination)),
    )
}
