//! The words of one flow.

use std::fmt::Write as _;

use super::Options;
use crate::event_type::{self, POLICY_MATCHES, TRACE_POINTS};
use crate::filter::ports_of;
use crate::pb::flow::{
    AuthType, Endpoint, Flow, Policy, Service, SocketTranslationPoint, TrafficDirection, Verdict, layer7::Record,
};
use crate::reason::drop_reason_text;
use crate::safe_text::printable;

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const MAGENTA: &str = "35";
const CYAN: &str = "36";

/// What kind of record it is.
#[must_use]
pub fn flow_type(flow: &Flow) -> String {
    if let Some(l7) = &flow.l7 {
        let kind = l7.r#type().as_str_name().to_lowercase();
        return match &l7.record {
            Some(Record::Http(_)) => format!("http-{kind}"),
            Some(Record::Dns(dns)) => format!("dns-{kind} {}", dns.observation_source),
            Some(Record::Kafka(_)) => format!("kafka-{kind}"),
            Some(Record::Tls(_)) => format!("tls-{kind}"),
            None => format!("l7-{kind}"),
        };
    }
    let event = flow.event_type.unwrap_or_default();
    match event.r#type {
        event_type::TRACE => named(TRACE_POINTS, event.sub_type),
        event_type::DROP => drop_type(flow, event.sub_type),
        event_type::POLICY_VERDICT => {
            let matched = i32::try_from(flow.policy_match_type).unwrap_or(i32::MAX);
            let direction = flow.traffic_direction().as_str_name();
            format!("policy-verdict:{} {direction}", named(POLICY_MATCHES, matched))
        }
        event_type::CAPTURE => flow.debug_capture_point().as_str_name().to_owned(),
        event_type::TRACE_SOCK => match flow.sock_xlate_point() {
            SocketTranslationPoint::SockXlatePointPostDirectionFwd => "post-xlate-fwd",
            SocketTranslationPoint::SockXlatePointPostDirectionRev => "post-xlate-rev",
            SocketTranslationPoint::SockXlatePointPreDirectionFwd => "pre-xlate-fwd",
            SocketTranslationPoint::SockXlatePointPreDirectionRev => "pre-xlate-rev",
            unknown @ SocketTranslationPoint::SockXlatePointUnknown => unknown.as_str_name(),
        }
        .to_owned(),
        _ => "UNKNOWN".to_owned(),
    }
}

fn named(names: &[&str], number: i32) -> String {
    let known = usize::try_from(number).ok().and_then(|index| names.get(index));
    known.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// Hubble's words; ours where Hubble has none.
fn drop_type(flow: &Flow, code: i32) -> String {
    let ours = flow.decision.as_ref().filter(|decision| !decision.reason.is_empty());
    match (drop_reason_text(code), ours) {
        (Some(text), _) => text.to_owned(),
        (None, Some(decision)) => decision.reason.clone(),
        (None, None) => code.to_string(),
    }
}

/// ` BY name (Kind), name (Kind)`; those without either are passed over.
#[must_use]
pub fn policy_names(policies: &[Policy]) -> String {
    let whole = policies
        .iter()
        .filter(|policy| !policy.name.is_empty() && !policy.kind.is_empty());
    let names: Vec<String> = whole
        .map(|policy| format!("{} ({})", policy.name, policy.kind))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" BY {}", names.join(", "))
    }
}

/// Names of source and destination, as they are printed, without ports. Nothing in them is a command for a terminal.
#[must_use]
pub fn end_names(flow: &Flow) -> (String, String) {
    let options = Options::default();
    let words = Words {
        options: &options,
        flow,
    };
    let ip = flow.ip.clone().unwrap_or_default();
    (
        words.name(
            &ip.source,
            flow.source.as_ref(),
            flow.source_service.as_ref(),
            &flow.source_names,
        ),
        words.name(
            &ip.destination,
            flow.destination.as_ref(),
            flow.destination_service.as_ref(),
            &flow.destination_names,
        ),
    )
}

pub(super) struct Words<'a> {
    pub(super) options: &'a Options,
    pub(super) flow: &'a Flow,
}

impl Words<'_> {
    /// Source and destination.
    pub(super) fn hosts(&self) -> (String, String) {
        let Some(ip) = &self.flow.ip else {
            let ethernet = self.flow.ethernet.clone().unwrap_or_default();
            return (self.host(&ethernet.source, ""), self.host(&ethernet.destination, ""));
        };
        let (source_port, destination_port) = ports_of(self.flow).unwrap_or_default();
        let f = self.flow;
        let source = self.name(
            &ip.source,
            f.source.as_ref(),
            f.source_service.as_ref(),
            &f.source_names,
        );
        let end = f.destination.as_ref();
        let destination = self.name(
            &ip.destination,
            end,
            f.destination_service.as_ref(),
            &f.destination_names,
        );
        (
            self.with_port(&source, source_port),
            self.with_port(&destination, destination_port),
        )
    }

    /// Pod, else service, else DNS names, else address.
    fn name(&self, address: &str, end: Option<&Endpoint>, service: Option<&Service>, names: &[String]) -> String {
        let pod = end.filter(|end| !end.pod_name.is_empty());
        let service = service.filter(|service| !service.name.is_empty());
        let name = match (pod, service) {
            _ if !self.options.ip_translation || self.options.numeric => address.to_owned(),
            (Some(end), _) => format!("{}/{}", end.namespace, end.pod_name),
            (None, Some(service)) => format!("{}/{}", service.namespace, service.name),
            (None, None) if !names.is_empty() => names.join(","),
            (None, None) => address.to_owned(),
        };
        printable(name.trim_start_matches('/')).into_owned()
    }

    fn with_port(&self, name: &str, port: u32) -> String {
        if port == 0 {
            return self.host(name, "");
        }
        let port = self.color(YELLOW, &port.to_string());
        if name.contains(':') {
            self.host(&format!("[{name}]:"), &port)
        } else {
            self.host(&format!("{name}:"), &port)
        }
    }

    fn host(&self, name: &str, port: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        self.color(CYAN, &format!("{name}{port}"))
    }

    /// Identities of source and destination.
    pub(super) fn identities(&self) -> (String, String) {
        let of = |end: &Option<Endpoint>| self.identity(end.as_ref().map_or(0, |end| end.identity));
        (of(&self.flow.source), of(&self.flow.destination))
    }

    fn identity(&self, number: u32) -> String {
        let reserved = reserved_identity(number).filter(|_| !self.options.numeric);
        let text = reserved.map_or_else(|| format!("(ID:{number})"), |name| format!("({name})"));
        self.color(MAGENTA, &text)
    }

    pub(super) fn verdict(&self) -> String {
        let f = self.flow;
        let verdict = f.verdict();
        let is_policy = f
            .event_type
            .is_some_and(|event| event.r#type == event_type::POLICY_VERDICT);
        let (color, policy_word) = match verdict {
            Verdict::Forwarded | Verdict::Redirected => (Some(GREEN), Some("ALLOWED")),
            Verdict::Dropped | Verdict::Error => (Some(RED), Some("DENIED")),
            Verdict::Audit => (Some(YELLOW), Some("AUDITED")),
            Verdict::Traced | Verdict::Translated => (Some(YELLOW), None),
            Verdict::Unknown => (None, None),
        };
        let word = match policy_word.filter(|_| is_policy) {
            Some(word) => word.to_owned(),
            // A number that a newer program wrote.
            None if Verdict::try_from(f.verdict).is_err() => f.verdict.to_string(),
            None => verdict.as_str_name().to_owned(),
        };
        let word = color.map_or_else(|| word.clone(), |color| self.color(color, &word));
        let shows_names = self.options.policy_names && (is_policy || f.l7.is_some());
        if shows_names {
            word + &printable(&policy_names(self.policies()))
        } else {
            word
        }
    }

    /// Those that made the verdict.
    fn policies(&self) -> &[Policy] {
        let f = self.flow;
        let allowed = matches!(f.verdict(), Verdict::Forwarded | Verdict::Redirected);
        match (f.traffic_direction(), allowed) {
            (TrafficDirection::Ingress, true) => &f.ingress_allowed_by,
            (TrafficDirection::Ingress, false) => &f.ingress_denied_by,
            (TrafficDirection::Egress, true) => &f.egress_allowed_by,
            (TrafficDirection::Egress, false) => &f.egress_denied_by,
            (TrafficDirection::Unknown, _) => &[],
        }
    }

    pub(super) fn summary(&self) -> String {
        let f = self.flow;
        let mut out = String::new();
        // Writing to a string does not fail.
        if let Some(id) = f.ip_trace_id.as_ref().filter(|id| id.trace_id > 0) {
            let _ = write!(out, "IP Trace ID: {}; ", id.trace_id);
        }
        #[expect(deprecated, reason = "it is what Hubble's servers send and its clients print")]
        let sent = &f.summary;
        if sent.is_empty() {
            out.push_str(&printable(&crate::summary::summary(f)));
        } else {
            out.push_str(&printable(sent));
        }
        match f.auth_type() {
            AuthType::Disabled => {}
            AuthType::TestAlwaysFail => {
                let _ = write!(out, "; Auth: {}", self.color(RED, "TEST_ALWAYS_FAIL"));
            }
            AuthType::Spire => {
                let _ = write!(out, "; Auth: {}", self.color(GREEN, "SPIRE"));
            }
        }
        // Why a request was refused: Hubble has no place for it.
        let refused = f.decision.as_ref().filter(|d| f.l7.is_some() && !d.reason.is_empty());
        if let Some(decision) = refused {
            let _ = write!(out, "; Reason: {}", printable(&decision.reason));
        }
        out
    }

    fn color(&self, color: &str, text: &str) -> String {
        if self.options.color {
            format!("\u{1b}[{color}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Name of an identity that is the same everywhere.
fn reserved_identity(number: u32) -> Option<&'static str> {
    const NAMES: &[&str] = &[
        "unknown",
        "host",
        "world",
        "unmanaged",
        "health",
        "init",
        "remote-node",
        "kube-apiserver",
        "ingress",
        "world-ipv4",
        "world-ipv6",
        "encrypted-overlay",
    ];
    usize::try_from(number).ok().and_then(|index| NAMES.get(index)).copied()
}
