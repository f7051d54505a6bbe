//! Filters on everything but what is inside.

use std::net::IpAddr;

use ipnet::IpNet;

use super::label::LabelSelector;
use super::pattern::{Room, full_node_name, name_pattern, node_pattern, regex};
use super::{Check, FilterError, error, http};
use crate::pb::flow::{
    Endpoint, Flow, FlowFilter, NetworkInterface, Service, TcpFlags, Verdict, Workload, layer4::Protocol,
    layer7::Record,
};

/// Namespace of a pod or service that names none.
const NAMESPACE_DEFAULT: &str = "default";

pub(super) fn of(filter: &FlowFilter, room: &mut Room) -> Result<Vec<Check>, FilterError> {
    let mut checks: Vec<Check> = Vec::new();
    ends(filter, room, &mut checks)?;
    packets(filter, &mut checks)?;
    origins(filter, room, &mut checks)?;
    Ok(checks)
}

/// What is asked of source and destination alike.
fn ends(f: &FlowFilter, room: &mut Room, checks: &mut Vec<Check>) -> Result<(), FilterError> {
    checks.extend(address("source_ip", &f.source_ip, |flow| {
        Some(&flow.ip.as_ref()?.source)
    })?);
    checks.extend(address("source_ip_xlated", &f.source_ip_xlated, |flow| {
        Some(&flow.ip.as_ref()?.source_xlated)
    })?);
    checks.extend(address("destination_ip", &f.destination_ip, |flow| {
        Some(&flow.ip.as_ref()?.destination)
    })?);
    checks.extend(named("source_pod", &f.source_pod, |flow| pod(flow.source.as_ref()))?);
    checks.extend(named("destination_pod", &f.destination_pod, |flow| {
        pod(flow.destination.as_ref())
    })?);
    checks.extend(named("source_service", &f.source_service, |flow| {
        service(flow.source_service.as_ref())
    })?);
    checks.extend(named("destination_service", &f.destination_service, |flow| {
        service(flow.destination_service.as_ref())
    })?);
    checks.extend(names("source_fqdn", &f.source_fqdn, room, |flow| {
        flow.source_names.clone()
    })?);
    checks.extend(names("destination_fqdn", &f.destination_fqdn, room, |flow| {
        flow.destination_names.clone()
    })?);
    checks.extend(names("source_cluster_name", &f.source_cluster_name, room, |flow| {
        cluster(flow.source.as_ref())
    })?);
    let destination = |flow: &Flow| cluster(flow.destination.as_ref());
    checks.extend(names(
        "destination_cluster_name",
        &f.destination_cluster_name,
        room,
        destination,
    )?);
    checks.extend(labels("source_label", &f.source_label, |flow| {
        end_labels(flow.source.as_ref())
    })?);
    checks.extend(labels("destination_label", &f.destination_label, |flow| {
        end_labels(flow.destination.as_ref())
    })?);
    checks.extend(workloads(&f.source_workload, |flow| flow.source.as_ref()));
    checks.extend(workloads(&f.destination_workload, |flow| flow.destination.as_ref()));
    checks.extend(one_of(&f.source_identity, |flow| {
        flow.source.as_ref().map(|end| end.identity)
    }));
    checks.extend(one_of(&f.destination_identity, |flow| {
        flow.destination.as_ref().map(|end| end.identity)
    }));
    checks.extend(ports("source_port", &f.source_port, |flow| Some(ports_of(flow)?.0))?);
    checks.extend(ports("destination_port", &f.destination_port, |flow| {
        Some(ports_of(flow)?.1)
    })?);
    Ok(())
}

/// What is asked of the packet.
fn packets(f: &FlowFilter, checks: &mut Vec<Check>) -> Result<(), FilterError> {
    checks.extend(protocols(&f.protocol)?);
    checks.extend(one_of(&f.ip_version, |flow| flow.ip.as_ref().map(|ip| ip.ip_version)));
    checks.extend(one_of(&f.encrypted, |flow| flow.ip.as_ref().map(|ip| ip.encrypted)));
    checks.extend(one_of(&f.ip_trace_id, |flow| {
        flow.ip_trace_id.as_ref().map(|id| id.trace_id)
    }));
    checks.extend(interfaces(&f.interface));
    if !f.tcp_flags.is_empty() {
        let wanted = f.tcp_flags.clone();
        checks.push(Box::new(move |flow| {
            flags_of(flow).is_some_and(|flags| wanted.iter().any(|wanted| has_flags(flags, wanted)))
        }));
    }
    Ok(())
}

/// What is asked of the record.
fn origins(f: &FlowFilter, room: &mut Room, checks: &mut Vec<Check>) -> Result<(), FilterError> {
    checks.extend(one_of(&f.verdict, |flow| Some(flow.verdict)));
    checks.extend(one_of(&f.traffic_direction, |flow| Some(flow.traffic_direction)));
    // Only what was dropped has a reason.
    let reason = |flow: &Flow| (flow.verdict() == Verdict::Dropped).then_some(flow.drop_reason_desc);
    checks.extend(one_of(&f.drop_reason_desc, reason));
    checks.extend(one_of(&f.reply, reply));
    checks.extend(one_of(&f.uuid, |flow| Some(flow.uuid.clone())));
    checks.extend(one_of(&f.trace_id, |flow| {
        let parent = flow.trace_context.as_ref().and_then(|context| context.parent.as_ref());
        Some(parent.map_or_else(String::new, |parent| parent.trace_id.clone()))
    }));
    checks.extend(labels("node_labels", &f.node_labels, |flow| {
        flow.node_labels.as_slice()
    })?);
    if !f.node_name.is_empty() {
        let pattern = node_pattern(f.node_name.iter().map(String::as_str)).map_err(|e| error("node_name", e))?;
        let pattern = regex("node_name", &pattern, room)?;
        checks.push(Box::new(move |flow| {
            full_node_name(&flow.node_name).is_some_and(|name| pattern.is_match(&name))
        }));
    }
    if !f.event_type.is_empty() {
        let wanted = f.event_type.clone();
        checks.push(Box::new(move |flow| {
            flow.event_type.as_ref().is_some_and(|is| {
                wanted
                    .iter()
                    .any(|w| w.r#type == is.r#type && (!w.match_sub_type || w.sub_type == is.sub_type))
            })
        }));
    }
    Ok(())
}

/// A drop of which nobody knows the direction counts as one on the way there.
fn reply(flow: &Flow) -> Option<bool> {
    flow.is_reply
        .or_else(|| (flow.verdict() == Verdict::Dropped).then_some(false))
}

fn one_of<T: PartialEq + Clone + Send + Sync + 'static>(
    wanted: &[T],
    is: impl Fn(&Flow) -> Option<T> + Send + Sync + 'static,
) -> Option<Check> {
    let wanted = wanted.to_vec();
    (!wanted.is_empty()).then(|| -> Check { Box::new(move |flow| is(flow).is_some_and(|is| wanted.contains(&is))) })
}

fn address(
    field: &'static str,
    wanted: &[String],
    is: impl Fn(&Flow) -> Option<&String> + Send + Sync + 'static,
) -> Result<Option<Check>, FilterError> {
    let parse = |text: &String| -> Result<IpNet, FilterError> {
        let whole = text.parse::<IpAddr>().map(IpNet::from);
        whole
            .or_else(|_| text.parse::<IpNet>())
            .map_err(|_| error(field, format!("`{text}` is neither an IP address nor a CIDR range")))
    };
    let wanted = wanted.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok((!wanted.is_empty()).then(|| -> Check {
        Box::new(move |flow| {
            let address = is(flow).and_then(|text| text.parse::<IpAddr>().ok());
            address.is_some_and(|address| wanted.iter().any(|net| net.contains(&address)))
        })
    }))
}

fn pod(end: Option<&Endpoint>) -> (&str, &str) {
    end.map_or(("", ""), |end| (end.namespace.as_str(), end.pod_name.as_str()))
}

fn service(service: Option<&Service>) -> (&str, &str) {
    service.map_or(("", ""), |service| (service.namespace.as_str(), service.name.as_str()))
}

/// `[namespace/]prefix`: without a slash the namespace is the default one, an empty namespace is any.
fn named(
    field: &'static str,
    wanted: &[String],
    is: impl Fn(&Flow) -> (&str, &str) + Send + Sync + 'static,
) -> Result<Option<Check>, FilterError> {
    if wanted.iter().any(String::is_empty) {
        return Err(error(field, "is empty; it must be [namespace/][name-prefix]"));
    }
    let split = |text: &String| -> (String, String) {
        let (namespace, prefix) = text.split_once('/').unwrap_or((NAMESPACE_DEFAULT, text));
        (namespace.to_owned(), prefix.to_owned())
    };
    let wanted: Vec<_> = wanted.iter().map(split).collect();
    Ok((!wanted.is_empty()).then(|| -> Check {
        Box::new(move |flow| {
            let (namespace, name) = is(flow);
            let something = !namespace.is_empty() || !name.is_empty();
            let fits = |(wanted_in, prefix): &(String, String)| {
                (wanted_in.is_empty() || wanted_in == namespace) && name.starts_with(prefix)
            };
            something && wanted.iter().any(fits)
        })
    }))
}

fn cluster(end: Option<&Endpoint>) -> Vec<String> {
    let name = end.map(|end| end.cluster_name.clone());
    name.filter(|name| !name.is_empty()).into_iter().collect()
}

fn names(
    field: &'static str,
    wanted: &[String],
    room: &mut Room,
    is: impl Fn(&Flow) -> Vec<String> + Send + Sync + 'static,
) -> Result<Option<Check>, FilterError> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let pattern = name_pattern(wanted.iter().map(String::as_str)).map_err(|e| error(field, e))?;
    let pattern = regex(field, &pattern, room)?;
    Ok(Some(Box::new(move |flow| {
        is(flow).iter().any(|name| pattern.is_match(name))
    })))
}

fn end_labels(end: Option<&Endpoint>) -> &[String] {
    end.map_or(&[], |end| end.labels.as_slice())
}

fn labels(
    field: &'static str,
    wanted: &[String],
    is: impl Fn(&Flow) -> &[String] + Send + Sync + 'static,
) -> Result<Option<Check>, FilterError> {
    let parse = |text: &String| LabelSelector::parse(text).map_err(|e| error(field, e.to_string()));
    let wanted = wanted.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok((!wanted.is_empty())
        .then(|| -> Check { Box::new(move |flow| wanted.iter().any(|selector| selector.matches(is(flow)))) }))
}

/// An empty kind or name is any.
fn workloads(wanted: &[Workload], end: impl Fn(&Flow) -> Option<&Endpoint> + Send + Sync + 'static) -> Option<Check> {
    let wanted = wanted.to_vec();
    let fits = |wanted: &Workload, is: &Workload| {
        (wanted.name.is_empty() || wanted.name == is.name) && (wanted.kind.is_empty() || wanted.kind == is.kind)
    };
    (!wanted.is_empty()).then(|| -> Check {
        Box::new(move |flow| {
            let workloads = end(flow).map_or(&[][..], |end| end.workloads.as_slice());
            workloads.iter().any(|is| wanted.iter().any(|wanted| fits(wanted, is)))
        })
    })
}

/// Likewise.
fn interfaces(wanted: &[NetworkInterface]) -> Option<Check> {
    let wanted = wanted.to_vec();
    let fits = |wanted: &NetworkInterface, is: &NetworkInterface| {
        (wanted.index == 0 || wanted.index == is.index) && (wanted.name.is_empty() || wanted.name == is.name)
    };
    (!wanted.is_empty()).then(|| -> Check {
        Box::new(move |flow| {
            let is = flow.interface.as_ref();
            is.is_some_and(|is| wanted.iter().any(|wanted| fits(wanted, is)))
        })
    })
}

fn ports(
    field: &'static str,
    wanted: &[String],
    is: impl Fn(&Flow) -> Option<u32> + Send + Sync + 'static,
) -> Result<Option<Check>, FilterError> {
    let parse = |text: &String| {
        let port = text.parse::<u16>().map(u32::from);
        port.map_err(|_| error(field, format!("`{text}` is not a port (0 to 65535)")))
    };
    let wanted = wanted.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(one_of(&wanted, is))
}

/// Source and destination port, for protocols that have such.
pub(crate) fn ports_of(flow: &Flow) -> Option<(u32, u32)> {
    match flow.l4.as_ref()?.protocol.as_ref()? {
        Protocol::Tcp(l4) => Some((l4.source_port, l4.destination_port)),
        Protocol::Udp(l4) => Some((l4.source_port, l4.destination_port)),
        Protocol::Sctp(l4) => Some((l4.source_port, l4.destination_port)),
        _ => None,
    }
}

/// The flags of TCP, if the flow tells them.
pub fn flags_of(flow: &Flow) -> Option<&TcpFlags> {
    match flow.l4.as_ref()?.protocol.as_ref()? {
        Protocol::Tcp(tcp) => tcp.flags.as_ref(),
        _ => None,
    }
}

/// Whether all wanted flags are set.
fn has_flags(is: &TcpFlags, wanted: &TcpFlags) -> bool {
    let list = |f: &TcpFlags| [f.fin, f.syn, f.rst, f.psh, f.ack, f.urg, f.ece, f.cwr, f.ns];
    list(wanted).into_iter().zip(list(is)).all(|(wanted, is)| is || !wanted)
}

const PROTOCOLS: &[&str] = &[
    "icmp", "icmpv4", "icmpv6", "tcp", "udp", "sctp", "vrrp", "igmp", "dns", "http", "kafka", "tls",
];

fn protocols(wanted: &[String]) -> Result<Option<Check>, FilterError> {
    let mut names = Vec::with_capacity(wanted.len());
    for text in wanted {
        let lower = text.to_ascii_lowercase();
        let known = PROTOCOLS.iter().find(|known| **known == lower);
        names.push(*known.ok_or_else(|| {
            error(
                "protocol",
                format!("unknown protocol `{text}`; known are {}", PROTOCOLS.join(", ")),
            )
        })?);
    }
    Ok((!names.is_empty()).then(|| -> Check {
        Box::new(move |flow| {
            let l4 = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
            names.iter().any(|name| is_l4(name, l4) || is_l7(name, flow))
        })
    }))
}

fn is_l4(name: &str, l4: Option<&Protocol>) -> bool {
    match l4 {
        Some(Protocol::Tcp(_)) => name == "tcp",
        Some(Protocol::Udp(_)) => name == "udp",
        Some(Protocol::IcmPv4(_)) => name == "icmp" || name == "icmpv4",
        Some(Protocol::IcmPv6(_)) => name == "icmp" || name == "icmpv6",
        Some(Protocol::Sctp(_)) => name == "sctp",
        Some(Protocol::Vrrp(_)) => name == "vrrp",
        Some(Protocol::Igmp(_)) => name == "igmp",
        None => false,
    }
}

fn is_l7(name: &str, flow: &Flow) -> bool {
    match name {
        "http" => http::http(flow).is_some(),
        "dns" => http::dns(flow).is_some(),
        "kafka" => matches!(record(flow), Some(Record::Kafka(_))),
        "tls" => matches!(record(flow), Some(Record::Tls(_))),
        _ => false,
    }
}

fn record(flow: &Flow) -> Option<&Record> {
    flow.l7.as_ref()?.record.as_ref()
}
