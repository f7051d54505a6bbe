//! What a replay has come to.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use seventh_abi::Event;
use seventh_engine::{Inside, L7Record, RecordVerdict};
use seventh_flows::pb::flow::{Endpoint, Flow, Verdict, layer4, layer7};
use seventh_policy::RuleOrigin;

use super::timeline::Timeline;

/// Kinds of denials that are told one by one at most.
const DENIALS_MAX: usize = 1000;
/// Pairs of who asks and who is asked that are counted by themselves at most.
const PAIRS_MAX: usize = 1000;

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
    pub(crate) requests: BTreeMap<(&'static str, &'static str), u64>,
    /// By the rule's place in memory, which stays as long as it is held here.
    hits: HashMap<usize, (Arc<RuleOrigin>, u64)>,
    /// What was (or would be) denied, and how often.
    pub(crate) denials: BTreeMap<Denial, u64>,
    /// Denials of kinds beyond those.
    pub(crate) denials_untold: u64,
    /// What went on and what did not, by who asked whom, and how they are called.
    by_ends: AHashMap<Ends, (Pair, Outcome)>,
    /// Of ends beyond those.
    pub(crate) pairs_untold: Outcome,
    pub(crate) timeline: Timeline,
}

/// Who wanted what of whom, and why not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Denial {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) what: String,
    pub(crate) why: String,
}

/// Who asks whom by what, as packets tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    source: [u8; 16],
    destination: [u8; 16],
    port: u16,
    protocol: &'static str,
}

/// Who asks whom by what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) port: u32,
    pub(crate) protocol: &'static str,
}

/// How many went on, and how many were (or would be) denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) forwarded: u64,
    pub(crate) denied: u64,
}

impl Outcome {
    /// Counts one.
    pub(crate) fn count(&mut self, is_denied: bool) {
        if is_denied {
            self.denied += 1;
        } else {
            self.forwarded += 1;
        }
    }

    /// All of them.
    pub(crate) const fn sum(self) -> u64 {
        self.forwarded + self.denied
    }
}

impl Tally {
    /// Counts a packet.
    pub(crate) fn packet(&mut self, wire_len: u32, time_ns: u64) {
        self.packets += 1;
        self.bytes += u64::from(wire_len);
        self.timeline.see(time_ns);
    }

    /// Counts a record; `flow` is made of it where its names are needed.
    pub(crate) fn record(&mut self, record: &L7Record, flow: impl FnOnce() -> Flow) {
        let verdict = match record.verdict {
            RecordVerdict::Forwarded => "forwarded",
            RecordVerdict::Dropped => "denied",
            RecordVerdict::Audit => "would be denied",
        };
        let protocol = protocol(record);
        *self.requests.entry((protocol, verdict)).or_default() += 1;
        if let Some(rule) = &record.rule {
            let (_, hits) = self
                .hits
                .entry(Arc::as_ptr(rule).addr())
                .or_insert_with(|| (Arc::clone(rule), 0));
            *hits += 1;
        }
        let is_denied = record.verdict != RecordVerdict::Forwarded;
        self.timeline.count(record.time_ns, is_denied);
        let is_answer = record.dns().is_some_and(|dns| dns.answer().is_some());
        let ends = Ends {
            source: record.source,
            destination: record.destination,
            port: record.destination_port,
            protocol,
        };
        let is_full = self.by_ends.len() >= PAIRS_MAX;
        // An answer is told the other way round; who asked was counted.
        match self.by_ends.get_mut(&ends) {
            _ if is_answer && !is_denied => {}
            Some((_, outcome)) if !is_denied => outcome.count(false),
            // Nobody asks for their names.
            None if !is_denied && is_full => self.pairs_untold.count(false),
            _ => self.count(ends, &flow(), is_denied),
        }
    }

    /// Counts a conversation that was decided without looking inside; those that pass are no requests.
    pub(crate) fn event(&mut self, event: &Event, flow: &Flow) {
        if flow.verdict() == Verdict::Dropped || flow.verdict() == Verdict::Audit {
            let protocol = match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
                Some(layer4::Protocol::Tcp(_)) => "TCP",
                Some(layer4::Protocol::Udp(_)) => "UDP",
                _ => "IP",
            };
            self.timeline.count(event.time_ns, true);
            let ends = Ends {
                source: event.source,
                destination: event.destination,
                port: event.destination_port,
                protocol,
            };
            self.count(ends, flow, true);
        }
    }

    /// Whether something was (or would be) denied.
    pub(crate) fn denied(&self) -> bool {
        !self.denials.is_empty()
    }

    /// Each rule, and how often it was the one that allowed something.
    pub(crate) fn hits<'r>(&self, rules: &'r [Arc<RuleOrigin>]) -> Vec<(&'r RuleOrigin, u64)> {
        let mut by_place: HashMap<(&str, u32, &str), u64> = HashMap::new();
        for (rule, hits) in self.hits.values() {
            *by_place.entry((&rule.file, rule.line, &rule.path)).or_default() += hits;
        }
        let hits = |rule: &RuleOrigin| by_place.get(&(&*rule.file, rule.line, &*rule.path)).copied();
        rules.iter().map(|rule| (&**rule, hits(rule).unwrap_or(0))).collect()
    }

    fn count(&mut self, ends: Ends, flow: &Flow, is_denied: bool) {
        let pair = Pair {
            source: end(flow.source.as_ref(), flow.ip.as_ref().map(|ip| &ip.source)),
            destination: end(flow.destination.as_ref(), flow.ip.as_ref().map(|ip| &ip.destination)),
            port: port(flow),
            protocol: ends.protocol,
        };
        if is_denied {
            self.deny(flow, &pair);
        }
        // An answer is told the other way round; who asked was counted.
        if flow.is_reply == Some(true) {
            return;
        }
        let known = self.by_ends.len() < PAIRS_MAX || self.by_ends.contains_key(&ends);
        let outcome = if known {
            &mut self.by_ends.entry(ends).or_insert_with(|| (pair, Outcome::default())).1
        } else {
            &mut self.pairs_untold
        };
        outcome.count(is_denied);
    }

    /// What went on and what did not, by who asked whom: ends of the same name together.
    pub(crate) fn pairs(&self) -> BTreeMap<&Pair, Outcome> {
        let mut pairs: BTreeMap<&Pair, Outcome> = BTreeMap::new();
        for (pair, outcome) in self.by_ends.values() {
            let sum = pairs.entry(pair).or_default();
            sum.forwarded += outcome.forwarded;
            sum.denied += outcome.denied;
        }
        pairs
    }

    #[cfg(test)]
    pub(super) fn insert(&mut self, pair: Pair, outcome: Outcome) {
        let ends = Ends {
            source: [0; 16],
            destination: [0; 16],
            port: 0,
            protocol: pair.protocol,
        };
        self.by_ends.insert(ends, (pair, outcome));
    }

    fn deny(&mut self, flow: &Flow, pair: &Pair) {
        let denial = Denial {
            source: pair.source.clone(),
            destination: format!("{}:{}", pair.destination, pair.port),
            what: what(flow).unwrap_or_else(|| pair.protocol.to_owned()),
            why: why(flow),
        };
        if self.denials.len() >= DENIALS_MAX && !self.denials.contains_key(&denial) {
            self.denials_untold += 1;
            return;
        }
        *self.denials.entry(denial).or_default() += 1;
    }

    /// For people.
    pub(crate) fn report(&self, rules: &[Arc<RuleOrigin>], took: Duration) -> String {
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
        for (denial, count) in &self.denials {
            let Denial {
                source,
                destination,
                what,
                why,
            } = denial;
            let _ = writeln!(out, "denied {count} times: {source} -> {destination} {what} ({why})");
        }
        if self.denials_untold > 0 {
            let _ = writeln!(out, "and {} further denials", self.denials_untold);
        }
        for (rule, hits) in self.hits(rules) {
            let place = format!("{}:{} {}", rule.file, rule.line, rule.path);
            let _ = match hits {
                0 => writeln!(out, "rule {place}: never"),
                hits => writeln!(out, "rule {place}: {hits} times"),
            };
        }
        out
    }

    /// For programs.
    pub(crate) fn json(&self, rules: &[Arc<RuleOrigin>]) -> serde_json::Value {
        let requests: Vec<_> = self
            .requests
            .iter()
            .map(|((protocol, verdict), count)| {
                serde_json::json!({"protocol": protocol, "verdict": verdict, "count": count})
            })
            .collect();
        let rules: Vec<_> = self
            .hits(rules)
            .into_iter()
            .map(|(rule, hits)| {
                serde_json::json!({"file": &*rule.file, "line": rule.line, "rule": rule.path, "hits": hits})
            })
            .collect();
        let denials: Vec<_> = self
            .denials
            .iter()
            .map(|(denial, count)| {
                serde_json::json!({
                    "source": denial.source, "destination": denial.destination, "what": denial.what,
                    "why": denial.why, "count": count,
                })
            })
            .collect();
        serde_json::json!({"summary": {
            "packets": self.packets, "bytes": self.bytes, "flows": self.conversations, "not_ip": self.not_ip,
            "other_protocols": self.other_protocols, "requests": requests, "rules": rules, "denials": denials,
            "denials_untold": self.denials_untold, "records_lost": self.records_lost,
        }})
    }
}

fn protocol(record: &L7Record) -> &'static str {
    match record.inside() {
        Inside::Http(http) if http.version.starts_with("HTTP/2") => "HTTP/2",
        Inside::Http(_) => "HTTP/1",
        Inside::Dns(_) => "DNS",
        Inside::Tls(tls) if tls.quic => "QUIC",
        Inside::Tls(_) => "TLS",
        Inside::Nothing => "frames",
    }
}

fn end(end: Option<&Endpoint>, ip: Option<&String>) -> String {
    match end {
        Some(end) if !end.pod_name.is_empty() => format!("{}/{}", end.namespace, end.pod_name),
        _ => ip.cloned().unwrap_or_default(),
    }
}

/// The destination's; 0 if there is none.
pub(super) fn port(flow: &Flow) -> u32 {
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(layer4::Protocol::Tcp(tcp)) => tcp.destination_port,
        Some(layer4::Protocol::Udp(udp)) => udp.destination_port,
        _ => 0,
    }
}

/// What was asked for, if that could be read.
fn what(flow: &Flow) -> Option<String> {
    match flow.l7.as_ref()?.record.as_ref()? {
        layer7::Record::Http(http) => Some(format!("{} {}", http.method, http.url)),
        layer7::Record::Dns(dns) => Some(format!("DNS {} {}", dns.qtypes.join(","), dns.query)),
        layer7::Record::Tls(tls) if tls.quic => Some(format!("QUIC {}", tls.sni)),
        layer7::Record::Tls(tls) => Some(format!("TLS {}", tls.sni)),
        layer7::Record::Kafka(_) => None,
    }
}

fn why(flow: &Flow) -> String {
    let decided = flow.decision.as_ref().map(|decision| decision.reason.clone());
    decided
        .filter(|reason| !reason.is_empty())
        .unwrap_or_else(|| flow.drop_reason_desc().as_str_name().to_ascii_lowercase())
}
