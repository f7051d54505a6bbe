//! What each plugin counts.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use seventh_flows::{
    drop_reason_text,
    event_type::{self, POLICY_MATCHES, TRACE_POINTS},
    filter::flags_of,
    pb::flow::{
        DropReason, Flow, Http, IpVersion, L7FlowType, Layer7, TrafficDirection, Verdict, layer4::Protocol,
        layer7::Record,
    },
    summary,
};
use seventh_metrics as table;

use super::{
    context::{Contexts, direction_name},
    spec::{Plugin, PluginSpec},
};
use crate::metrics::series::{Bounded, Labels, Maker};

/// Counts one flow.
pub(super) type Count = Box<dyn Fn(&Flow, &Contexts) + Send>;

/// Registers the families of a plugin.
pub(super) fn start(spec: &PluginSpec, make: &mut Maker<'_>) -> Count {
    match spec.plugin {
        Plugin::Dns => dns(spec, make),
        Plugin::Drop => dropped(make),
        Plugin::Flow => flows(make),
        Plugin::FlowsToWorld => to_world(spec, make),
        Plugin::Http => http(make),
        Plugin::HttpV2 => http_v2(make),
        Plugin::Icmp => icmp(make),
        Plugin::Policy => policy(make),
        Plugin::PortDistribution => ports(make),
        Plugin::Tcp => tcp(make),
    }
}

fn inc(family: &Bounded<Counter>, labels: Labels) {
    family.with(labels, |counter| {
        counter.inc();
    });
}

fn observe(family: &Bounded<Histogram>, labels: Labels, latency_ns: u64) {
    let seconds = std::time::Duration::from_nanos(latency_ns).as_secs_f64();
    family.with(labels, |histogram| histogram.observe(seconds));
}

fn dns(spec: &PluginSpec, make: &mut Maker<'_>) -> Count {
    let queries = make.counter(&table::DNS_QUERIES);
    let responses = make.counter(&table::DNS_RESPONSES);
    let types = make.counter(&table::DNS_TYPES);
    let (with_query, ignore_aaaa) = (spec.has("query"), spec.has("ignoreAAAA"));
    Box::new(move |flow, contexts| {
        let Some((l7, Record::Dns(dns))) = l7(flow) else { return };
        if ignore_aaaa && dns.qtypes == ["AAAA"] {
            return;
        }
        let query = |mut labels: Labels| {
            if with_query {
                labels.push(("query", dns.query.clone()));
            }
            labels
        };
        let qtypes = ("qtypes", dns.qtypes.join(","));
        let own = |rcode: String| {
            let ips = ("ips_returned", dns.ips.len().to_string());
            query(vec![("rcode", rcode), qtypes.clone(), ips])
        };
        if flow.verdict() == Verdict::Dropped {
            inc(&responses, contexts.labels(flow, own("Policy denied".to_owned())));
        } else if l7.r#type() == L7FlowType::Response {
            inc(
                &responses,
                contexts.labels_of_question(flow, own(summary::rcode(dns.rcode))),
            );
            for rrtype in &dns.rrtypes {
                let own = query(vec![("type", rrtype.clone()), qtypes.clone()]);
                inc(&types, contexts.labels_of_question(flow, own));
            }
        } else {
            inc(&queries, contexts.labels(flow, own(String::new())));
        }
    })
}

/// A drop by policy is told twice, as verdict and as drop; the second one counts.
fn dropped(make: &mut Maker<'_>) -> Count {
    let drops = make.counter(&table::DROP);
    Box::new(move |flow, contexts| {
        if flow.verdict() != Verdict::Dropped || kind(flow) == event_type::POLICY_VERDICT {
            return;
        }
        let own = vec![("reason", drop_reason(flow)), ("protocol", protocol(flow).to_owned())];
        inc(&drops, contexts.labels(flow, own));
    })
}

/// Hubble's words; ours where Hubble has none.
fn drop_reason(flow: &Flow) -> String {
    let text = drop_reason_text(flow.drop_reason_desc).map(str::to_owned);
    let ours = || flow.decision.as_ref().map(|decision| decision.reason.clone());
    text.or_else(ours).unwrap_or_else(|| flow.drop_reason_desc.to_string())
}

fn flows(make: &mut Maker<'_>) -> Count {
    let flows = make.counter(&table::FLOWS);
    Box::new(move |flow, contexts| {
        let (kind, sub_kind) = kind_names(flow);
        let own = vec![
            ("type", kind.to_owned()),
            ("subtype", sub_kind.to_owned()),
            ("verdict", flow.verdict().as_str_name().to_owned()),
        ];
        inc(&flows, contexts.labels(flow, own));
    })
}

fn kind_names(flow: &Flow) -> (&'static str, &'static str) {
    let event = flow.event_type.unwrap_or_default();
    match event.r#type {
        event_type::L7 => ("L7", l7(flow).map_or("", |(_, record)| record_name(record))),
        event_type::DROP => ("Drop", ""),
        event_type::CAPTURE => ("Capture", ""),
        event_type::POLICY_VERDICT => ("PolicyVerdict", ""),
        event_type::TRACE => {
            let point = usize::try_from(event.sub_type)
                .ok()
                .and_then(|index| TRACE_POINTS.get(index));
            ("Trace", point.copied().unwrap_or(""))
        }
        event_type::TRACE_SOCK => ("TraceSock", ""),
        _ => ("Unknown", ""),
    }
}

fn to_world(spec: &PluginSpec, make: &mut Maker<'_>) -> Count {
    let world = make.counter(&table::FLOWS_TO_WORLD);
    let (any_drop, port, syn_only) = (spec.has("any-drop"), spec.has("port"), spec.has("syn-only"));
    Box::new(move |flow, contexts| {
        let end = flow.destination.as_ref().map_or(&[][..], |end| end.labels.as_slice());
        let is_world = end.iter().any(|label| {
            matches!(
                label.as_str(),
                "reserved:world" | "reserved:world-ipv4" | "reserved:world-ipv6"
            )
        });
        let dropped = flow.verdict() == Verdict::Dropped;
        let by_policy = flow.drop_reason_desc() == DropReason::PolicyDenied;
        let only_syn = flags_of(flow).is_some_and(|flags| flags.syn && !flags.ack);
        if !is_world || !is_first(flow) || (dropped && !any_drop && !by_policy) || (syn_only && !only_syn) {
            return;
        }
        let mut own = vec![
            ("protocol", protocol(flow).to_owned()),
            ("verdict", flow.verdict().as_str_name().to_owned()),
        ];
        if port {
            own.push(("port", destination_port(flow)));
        }
        inc(&world, contexts.labels(flow, own));
    })
}

/// Whether it opens a flow: neither an answer nor something inside one, and not the second telling of a drop.
fn is_first(flow: &Flow) -> bool {
    let second = kind(flow) == event_type::DROP && policy_told(flow);
    flow.l7.is_none() && flow.is_reply != Some(true) && !second
}

/// Whether the same drop was told as a policy's verdict.
fn policy_told(flow: &Flow) -> bool {
    matches!(
        flow.drop_reason_desc(),
        DropReason::PolicyDenied | DropReason::PolicyDeny | DropReason::AuthRequired
    )
}

fn http(make: &mut Maker<'_>) -> Count {
    let requests = make.counter(&table::HTTP_REQUESTS_V1);
    let responses = make.counter(&table::HTTP_RESPONSES_V1);
    let seconds = make.seconds(&table::HTTP_SECONDS_V1);
    Box::new(move |flow, contexts| {
        let Some((l7, http)) = http_of(flow) else { return };
        let method = ("method", http.method.clone());
        if l7.r#type() == L7FlowType::Request {
            let own = vec![method, ("protocol", http.protocol.clone()), reporter(flow)];
            inc(&requests, contexts.labels(flow, own));
            return;
        }
        let own = vec![method.clone(), ("status", http.code.to_string()), reporter(flow)];
        inc(&responses, contexts.labels_of_question(flow, own));
        let own = vec![method, reporter(flow)];
        observe(&seconds, contexts.labels_of_question(flow, own), l7.latency_ns);
    })
}

fn http_v2(make: &mut Maker<'_>) -> Count {
    let requests = make.counter(&table::HTTP_REQUESTS);
    let seconds = make.seconds(&table::HTTP_SECONDS);
    Box::new(move |flow, contexts| {
        let Some((l7, http)) = http_of(flow).filter(|(l7, _)| l7.r#type() == L7FlowType::Response) else {
            return;
        };
        let method = ("method", http.method.clone());
        let own = vec![
            method.clone(),
            ("protocol", http.protocol.clone()),
            ("status", http.code.to_string()),
            reporter(flow),
        ];
        inc(&requests, contexts.labels_of_question(flow, own));
        let own = vec![method, reporter(flow)];
        observe(&seconds, contexts.labels_of_question(flow, own), l7.latency_ns);
    })
}

/// Which side told of it.
fn reporter(flow: &Flow) -> (&'static str, String) {
    let reporter = match flow.traffic_direction() {
        TrafficDirection::Ingress => "server",
        TrafficDirection::Egress => "client",
        TrafficDirection::Unknown => "unknown",
    };
    ("reporter", reporter.to_owned())
}

fn icmp(make: &mut Maker<'_>) -> Count {
    let messages = make.counter(&table::ICMP);
    Box::new(move |flow, contexts| {
        let (family, kind) = match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
            Some(Protocol::IcmPv4(icmp)) => ("IPv4", summary::icmpv4(icmp.r#type, icmp.code)),
            Some(Protocol::IcmPv6(icmp)) => ("IPv6", summary::icmpv6(icmp.r#type, icmp.code)),
            _ => return,
        };
        let own = vec![("family", family.to_owned()), ("type", kind)];
        inc(&messages, contexts.labels(flow, own));
    })
}

fn policy(make: &mut Maker<'_>) -> Count {
    let verdicts = make.counter(&table::POLICY_VERDICTS);
    Box::new(move |flow, contexts| {
        let matched = match l7(flow) {
            Some((l7, record)) if l7.r#type() == L7FlowType::Request => {
                format!("l7/{}", record_name(record).to_lowercase())
            }
            None if kind(flow) == event_type::POLICY_VERDICT => {
                let matched = usize::try_from(flow.policy_match_type).ok();
                let name = matched.and_then(|index| POLICY_MATCHES.get(index));
                name.map_or_else(|| flow.policy_match_type.to_string(), |name| name.to_lowercase())
            }
            _ => return,
        };
        let own = vec![
            ("direction", direction_name(flow.traffic_direction())),
            ("match", matched),
            ("action", flow.verdict().as_str_name().to_lowercase()),
        ];
        inc(&verdicts, contexts.labels(flow, own));
    })
}

fn ports(make: &mut Maker<'_>) -> Count {
    let ports = make.counter(&table::PORTS);
    Box::new(move |flow, contexts| {
        let passed = matches!(flow.verdict(), Verdict::Forwarded | Verdict::Redirected);
        if !passed || !is_first(flow) || flow.is_reply.is_none() || flow.l4.is_none() {
            return;
        }
        let own = vec![
            ("protocol", protocol(flow).to_owned()),
            ("port", destination_port(flow)),
        ];
        inc(&ports, contexts.labels(flow, own));
    })
}

fn tcp(make: &mut Maker<'_>) -> Count {
    let flags_seen = make.counter(&table::TCP_FLAGS);
    Box::new(move |flow, contexts| {
        let passed = matches!(flow.verdict(), Verdict::Forwarded | Verdict::Redirected);
        let Some(flags) = flags_of(flow).filter(|_| passed) else {
            return;
        };
        let family = match flow.ip.as_ref().map(seventh_flows::pb::flow::Ip::ip_version) {
            Some(IpVersion::IPv6) => "IPv6",
            _ => "IPv4",
        };
        let seen = [
            (flags.fin, "FIN"),
            (flags.syn && flags.ack, "SYN-ACK"),
            (flags.syn && !flags.ack, "SYN"),
            (flags.rst, "RST"),
        ];
        for (_, flag) in seen.into_iter().filter(|(set, _)| *set) {
            let own = vec![("flag", flag.to_owned()), ("family", family.to_owned())];
            inc(&flags_seen, contexts.labels(flow, own));
        }
    })
}

fn kind(flow: &Flow) -> i32 {
    flow.event_type.map_or(0, |event| event.r#type)
}

fn l7(flow: &Flow) -> Option<(&Layer7, &Record)> {
    let l7 = flow.l7.as_ref()?;
    Some((l7, l7.record.as_ref()?))
}

fn http_of(flow: &Flow) -> Option<(&Layer7, &Http)> {
    match l7(flow)? {
        (l7, Record::Http(http)) => Some((l7, http)),
        _ => None,
    }
}

fn record_name(record: &Record) -> &'static str {
    match record {
        Record::Http(_) => "HTTP",
        Record::Dns(_) => "DNS",
        Record::Kafka(_) => "Kafka",
        Record::Tls(_) => "TLS",
    }
}

/// As Hubble's metrics name protocols.
fn protocol(flow: &Flow) -> &'static str {
    if flow.l7.is_some() {
        return l7(flow).map_or("Unknown L7", |(_, record)| record_name(record));
    }
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(_)) => "TCP",
        Some(Protocol::Udp(_)) => "UDP",
        Some(Protocol::IcmPv4(_)) => "ICMPv4",
        Some(Protocol::IcmPv6(_)) => "ICMPv6",
        Some(Protocol::Sctp(_)) => "SCTP",
        Some(Protocol::Vrrp(_)) => "VRRP",
        Some(Protocol::Igmp(_)) => "IGMP",
        None => "Unknown L4",
    }
}

fn destination_port(flow: &Flow) -> String {
    let port = match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => tcp.destination_port,
        Some(Protocol::Udp(udp)) => udp.destination_port,
        Some(Protocol::Sctp(sctp)) => sctp.destination_port,
        _ => 0,
    };
    port.to_string()
}
