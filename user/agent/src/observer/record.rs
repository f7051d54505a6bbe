//! Records of kernel and engine become flows.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prost_types::Timestamp;
use seventh_abi::{
    Direction, DropReason, Event, EventKind, Hook, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP,
    PROTOCOL_UDP, Verdict as KernelVerdict,
};
use seventh_engine::{DnsRecord, HttpRecord, Inside, L7Record, PolicyView, RecordVerdict, TlsRecord};
use seventh_flows::{
    event_type, hubble_reason,
    pb::flow::{
        CiliumEventType, Decision, Dns, Emitter, Ethernet, Flow, FlowType, Http, HttpHeader, IcmPv4, IcmPv6, Ip,
        IpVersion, L7FlowType, Layer4, Layer7, Policy, Sctp, Tcp, TcpFlags, Tls, TrafficDirection, Udp, Verdict,
        layer4, layer7,
    },
};
use seventh_policy::{Deciders, Matched, RowWidth, RuleOrigin, RuleSet};

use super::{
    directory::{Directory, Node},
    ip,
    names::EndNames,
    trace::trace_context,
};

/// `policy_match_type` where no row matched.
const MATCH_NONE: u32 = 0;
/// `observation_source` of DNS: the one that judges, in Hubble's word.
const DNS_OBSERVER: &str = "proxy";
/// Policies that are named in one record at most.
const POLICIES_MAX: usize = 16;

/// Numbers of records, different ones on every start and every node.
#[derive(Debug)]
pub(crate) struct Uuids {
    start: u64,
    next: AtomicU64,
}

impl Uuids {
    pub(super) fn new() -> Self {
        Self {
            // Its keys are random.
            start: RandomState::new().build_hasher().finish(),
            next: AtomicU64::new(1),
        }
    }

    /// The same on every start.
    pub(crate) fn counted() -> Self {
        Self {
            start: 0,
            next: AtomicU64::new(1),
        }
    }

    /// RFC 9562 section 5.8: version 8, whose bits are ours.
    fn next(&self) -> String {
        // Relaxed: nothing is ordered by it.
        let (a, b) = (self.start, self.next.fetch_add(1, Ordering::Relaxed));
        format!(
            "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            0x8000 | (b >> 48 & 0x3fff),
            b & 0xffff_ffff_ffff
        )
    }
}

/// What it takes to make flows of records.
pub(crate) struct Scribe<'a> {
    pub(crate) node: &'a Node,
    pub(crate) directory: &'a Directory,
    pub(crate) view: &'a PolicyView,
    pub(crate) uuids: &'a Uuids,
}

/// What has to be found out when something happens: it is another later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) time: Timestamp,
    pub(crate) names: EndNames,
}

/// What is told of an event of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// The first decision over a flow.
    Decision,
    /// That a policy dropped, as Hubble tells it before the drop.
    Denial,
    Drop,
    /// A flow or a packet that passed and would be denied if what is in audit were enforced.
    Audit,
}

/// In this order.
pub(crate) fn tellings(happened: &Event) -> &'static [Telling] {
    if happened.kind == EventKind::FlowDecided as u8 {
        &[Telling::Decision]
    } else if happened.kind == EventKind::Audited as u8 {
        &[Telling::Audit]
    } else if DropReason::from_code(happened.reason).is_some_and(is_of_policy) {
        &[Telling::Denial, Telling::Drop]
    } else {
        &[Telling::Drop]
    }
}

impl Scribe<'_> {
    /// A request, a ClientHello, a question or answer of DNS, or a frame that the engine dropped.
    pub(crate) fn of_engine(&self, record: &L7Record, seen: &Seen) -> Flow {
        let egress = record.hook == Hook::FromEndpoint;
        let peer = |is_peer: bool| if is_peer { record.peer_identity } else { 0 };
        let mut flow = self.frame(Packet {
            seen,
            source: record.source,
            destination: record.destination,
            source_identity: peer(!egress),
            destination_identity: peer(egress),
            ifindex: record.ifindex,
            egress,
            l4: layer4(record.protocol, record.source_port, record.destination_port, None),
        });
        flow.verdict = match record.verdict {
            RecordVerdict::Forwarded => Verdict::Forwarded,
            RecordVerdict::Dropped => Verdict::Dropped,
            RecordVerdict::Audit => Verdict::Audit,
        }
        .into();
        if let Some(reason) = record.reason.filter(|_| record.verdict != RecordVerdict::Forwarded) {
            give_reason(&mut flow, reason);
        }
        match layer7(record) {
            Some(l7) => {
                flow.r#type = FlowType::L7.into();
                flow.is_reply = Some(false);
                if l7.r#type() == L7FlowType::Response {
                    turn_round(&mut flow);
                }
                flow.l7 = Some(l7);
                flow.trace_context = record.http().and_then(trace_context);
                flow.event_type = event(event_type::L7, 0);
                self.name_policies(&mut flow, record, egress);
            }
            None => {
                flow.r#type = FlowType::L3L4.into();
                flow.event_type = if record.verdict == RecordVerdict::Dropped {
                    event(event_type::DROP, flow.drop_reason_desc)
                } else {
                    event(event_type::POLICY_VERDICT, 0)
                };
            }
        }
        flow
    }

    /// The answer to a request of HTTP that went on.
    pub(super) fn of_answer(&self, answer: &Answered, asked: &L7Record, seen: &Seen) -> Flow {
        let mut flow = self.of_engine(asked, seen);
        turn_round(&mut flow);
        if asked.verdict != RecordVerdict::Forwarded {
            pass(&mut flow);
        }
        if let Some(l7) = &mut flow.l7 {
            l7.r#type = L7FlowType::Response.into();
            l7.latency_ns = answer.latency_ns;
            if let Some(layer7::Record::Http(http)) = &mut l7.record {
                http.code = u32::from(answer.code);
                answer.protocol.clone_into(&mut http.protocol);
                // Those are the request's.
                http.headers.clear();
                http.headers.extend(answer.grpc_status.map(|status| HttpHeader {
                    key: "grpc-status".to_owned(),
                    value: status.to_string(),
                }));
            }
        }
        flow
    }

    /// One of [`tellings`].
    pub(crate) fn of_kernel(&self, happened: &Event, telling: Telling, seen: &Seen) -> Flow {
        let mut flow = self.of_event(happened, seen);
        match telling {
            Telling::Decision => {
                let inspected = happened.verdict == KernelVerdict::Inspect as u8;
                let verdict = if inspected {
                    Verdict::Redirected
                } else {
                    Verdict::Forwarded
                };
                flow.verdict = verdict.into();
                flow.is_reply = Some(false);
                flow.event_type = event(event_type::POLICY_VERDICT, 0);
                flow.policy_match_type = self.match_type(happened);
                self.name_deciders(&mut flow, &self.deciders(happened), true);
            }
            Telling::Denial | Telling::Audit => {
                let reason = self.tell_drop(&mut flow, happened);
                if telling == Telling::Audit {
                    flow.verdict = Verdict::Audit.into();
                }
                flow.event_type = event(event_type::POLICY_VERDICT, 0);
                flow.policy_match_type = match reason {
                    Some(reason) if is_of_policy(reason) && reason != DropReason::PolicyDenied => {
                        self.match_type(happened)
                    }
                    _ => MATCH_NONE,
                };
            }
            Telling::Drop => {
                self.tell_drop(&mut flow, happened);
                flow.event_type = event(event_type::DROP, flow.drop_reason_desc);
            }
        }
        flow
    }

    fn of_event(&self, happened: &Event, seen: &Seen) -> Flow {
        let from_endpoint = happened.hook == Hook::FromEndpoint as u8;
        let peer = |is_peer: bool| if is_peer { happened.peer_identity } else { 0 };
        let mut flow = self.frame(Packet {
            seen,
            source: happened.source,
            destination: happened.destination,
            source_identity: peer(!from_endpoint),
            destination_identity: peer(from_endpoint),
            ifindex: happened.ifindex,
            egress: happened.direction == Direction::Egress as u8,
            l4: layer4(
                happened.protocol,
                happened.source_port,
                happened.destination_port,
                Some(happened.tcp_flags),
            ),
        });
        if happened.ip_version == 0 {
            flow.ip = None;
        }
        flow.ethernet = ethernet(happened);
        flow.r#type = FlowType::L3L4.into();
        flow
    }

    fn tell_drop(&self, flow: &mut Flow, happened: &Event) -> Option<DropReason> {
        flow.verdict = Verdict::Dropped.into();
        if is_reply(happened) {
            flow.is_reply = Some(true);
            mark_reply(flow, true);
        }
        let reason = DropReason::from_code(happened.reason)?;
        give_reason(flow, reason);
        // What nothing allows has no rule that denies it.
        if is_of_policy(reason) && reason != DropReason::PolicyDenied {
            self.name_deciders(flow, &self.deciders(happened), false);
        }
        Some(reason)
    }

    fn match_type(&self, happened: &Event) -> u32 {
        let (direction, port) = asked(happened);
        let endpoint = self.view.endpoints.get(&happened.ifindex);
        let matched = endpoint.and_then(|endpoint| {
            endpoint
                .policy
                .matched(direction, happened.peer_identity, happened.protocol, port)
        });
        matched.map_or(MATCH_NONE, match_number)
    }

    /// The rules that decided the flow, under the policy of this moment.
    fn deciders(&self, happened: &Event) -> Deciders {
        let (direction, port) = asked(happened);
        let endpoint = self.view.endpoints.get(&happened.ifindex);
        endpoint.map_or_else(Deciders::default, |endpoint| {
            endpoint
                .policy
                .deciders(direction, happened.peer_identity, happened.protocol, port)
        })
    }

    fn name_deciders(&self, flow: &mut Flow, deciders: &Deciders, allowed: bool) {
        let policies = policies_of(deciders.iter(), self.directory.revision());
        let egress = flow.traffic_direction() == TrafficDirection::Egress;
        deciding_policies(flow, egress, allowed).extend(policies);
        for log in deciders.iter().filter_map(|rule| rule.log.as_deref()) {
            if flow.policy_log.len() < POLICIES_MAX && !flow.policy_log.iter().any(|known| known == log) {
                flow.policy_log.push(log.to_owned());
            }
        }
    }

    fn frame(&self, packet: Packet<'_>) -> Flow {
        let (source, destination) = (ip(packet.source), ip(packet.destination));
        let end = |address, identity| {
            self.directory
                .end(address, identity, &self.view.ipcache, &self.node.cluster)
        };
        let version = if source.is_ipv4() {
            IpVersion::IPv4
        } else {
            IpVersion::IPv6
        };
        let mut flow = Flow {
            time: Some(packet.seen.time),
            source: Some(end(source, packet.source_identity)),
            destination: Some(end(destination, packet.destination_identity)),
            uuid: self.uuids.next(),
            emitter: Some(Emitter {
                name: "seventh".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            ip: Some(Ip {
                source: source.to_string(),
                destination: destination.to_string(),
                ip_version: version.into(),
                ..Ip::default()
            }),
            l4: packet.l4,
            node_name: self.node.name.clone(),
            node_labels: self.node.labels.clone(),
            traffic_direction: if packet.egress {
                TrafficDirection::Egress
            } else {
                TrafficDirection::Ingress
            }
            .into(),
            interface: Some(self.directory.interface(packet.ifindex)),
            source_names: packet.seen.names.source.clone(),
            destination_names: packet.seen.names.destination.clone(),
            ..Flow::default()
        };
        mark_reply(&mut flow, false);
        flow
    }

    /// Who let it pass; or whose rules cover it and none of them let it pass.
    fn name_policies(&self, flow: &mut Flow, record: &L7Record, egress: bool) {
        let revision = self.directory.revision();
        match &record.rule {
            Some(rule) => {
                deciding_policies(flow, egress, true).push(policy(rule, revision));
                flow.policy_log.extend(rule.log.as_deref().map(str::to_owned));
                let decision = flow.decision.get_or_insert_default();
                decision.rule.clone_from(&rule.path);
                decision.file = rule.file.to_string();
                decision.line = rule.line;
                let logged = record.logged_headers().iter();
                decision.logged_headers = logged
                    .map(|header| format!("{} {}", header.name, if header.sent { "differs" } else { "missing" }))
                    .collect();
            }
            None => {
                let endpoint = self.view.endpoints.get(&record.ifindex);
                let rules = endpoint.and_then(|endpoint| endpoint.policy.rule_set(record.rule_set));
                let policies = rules.iter().flat_map(|rules| policies_in(rules, revision));
                deciding_policies(flow, egress, false).extend(policies);
            }
        }
    }
}

/// The field for the policies that decided a flow.
fn deciding_policies(flow: &mut Flow, egress: bool, allowed: bool) -> &mut Vec<Policy> {
    match (egress, allowed) {
        (true, true) => &mut flow.egress_allowed_by,
        (true, false) => &mut flow.egress_denied_by,
        (false, true) => &mut flow.ingress_allowed_by,
        (false, false) => &mut flow.ingress_denied_by,
    }
}

/// What is told of the answer to a request of HTTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// From the request to the answer's first byte.
    pub(super) latency_ns: u64,
    pub(super) protocol: &'static str,
    pub(super) code: u16,
    pub(super) grpc_status: Option<u32>,
}

/// What all records have.
struct Packet<'a> {
    seen: &'a Seen,
    source: [u8; 16],
    destination: [u8; 16],
    source_identity: u32,
    destination_identity: u32,
    ifindex: u32,
    egress: bool,
    l4: Option<Layer4>,
}

/// Whatever is to be said of a request that passed all the same: its answer passed, too, and no policy denied that.
#[expect(deprecated, reason = "see `give_reason`")]
fn pass(flow: &mut Flow) {
    flow.verdict = Verdict::Forwarded.into();
    flow.drop_reason = 0;
    flow.drop_reason_desc = 0;
    flow.decision = None;
    flow.egress_denied_by.clear();
    flow.ingress_denied_by.clear();
}

/// What comes back comes from the other side.
fn turn_round(flow: &mut Flow) {
    std::mem::swap(&mut flow.source, &mut flow.destination);
    std::mem::swap(&mut flow.source_names, &mut flow.destination_names);
    if let Some(ip) = &mut flow.ip {
        std::mem::swap(&mut ip.source, &mut ip.destination);
    }
    match flow.l4.as_mut().and_then(|l4| l4.protocol.as_mut()) {
        Some(layer4::Protocol::Tcp(tcp)) => std::mem::swap(&mut tcp.source_port, &mut tcp.destination_port),
        Some(layer4::Protocol::Udp(udp)) => std::mem::swap(&mut udp.source_port, &mut udp.destination_port),
        _ => {}
    }
    flow.is_reply = Some(true);
    mark_reply(flow, true);
}

fn event(kind: i32, sub_type: i32) -> Option<CiliumEventType> {
    Some(CiliumEventType { r#type: kind, sub_type })
}

#[expect(deprecated, reason = "older clients read it in the place of `is_reply`")]
fn mark_reply(flow: &mut Flow, reply: bool) {
    flow.reply = reply;
}

#[expect(deprecated, reason = "older clients read it in the place of `drop_reason_desc`")]
fn give_reason(flow: &mut Flow, reason: DropReason) {
    flow.drop_reason = reason.hubble_code();
    flow.drop_reason_desc = hubble_reason(reason).into();
    flow.decision = Some(Decision {
        reason_code: u32::from(reason as u8),
        reason: reason.name().to_owned(),
        ..Decision::default()
    });
}

/// Whether a policy dropped it.
fn is_of_policy(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::PolicyDenied | DropReason::PolicyDenyRule | DropReason::AuthRequired | DropReason::PolicyConflict
    )
}

/// Whether the packet goes against the direction in which its flow was opened.
pub(super) fn is_reply(happened: &Event) -> bool {
    let from_endpoint = happened.hook == Hook::FromEndpoint as u8;
    from_endpoint != (happened.direction == Direction::Egress as u8)
}

/// Direction and port by which the policy was asked.
pub(super) fn asked(happened: &Event) -> (Direction, u16) {
    let direction = if happened.direction == Direction::Egress as u8 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    let is_icmp = matches!(happened.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6);
    // Where ICMP has its type.
    let port = if is_icmp || is_reply(happened) {
        happened.source_port
    } else {
        happened.destination_port
    };
    (direction, port)
}

/// `policy_match_type`: L3-only, L3-L4, L4-only, all, L3-proto, proto-only.
const fn match_number(matched: Matched) -> u32 {
    match (matched.peer, matched.width) {
        (true, RowWidth::All) => 1,
        (true, RowWidth::Port) => 2,
        (false, RowWidth::Port) => 3,
        (false, RowWidth::All) => 4,
        (true, RowWidth::Protocol) => 5,
        (false, RowWidth::Protocol) => 6,
    }
}

fn layer4(protocol: u8, source_port: u16, destination_port: u16, tcp_flags: Option<u8>) -> Option<Layer4> {
    let (source_port, destination_port) = (u32::from(source_port), u32::from(destination_port));
    let protocol = match protocol {
        PROTOCOL_TCP => layer4::Protocol::Tcp(Tcp {
            source_port,
            destination_port,
            flags: tcp_flags.map(flags),
        }),
        PROTOCOL_UDP => layer4::Protocol::Udp(Udp {
            source_port,
            destination_port,
        }),
        PROTOCOL_SCTP => layer4::Protocol::Sctp(Sctp {
            source_port,
            destination_port,
        }),
        // The kernel's events have type and code in the place of ports.
        PROTOCOL_ICMP => layer4::Protocol::IcmPv4(IcmPv4 {
            r#type: source_port,
            code: destination_port,
        }),
        PROTOCOL_ICMPV6 => layer4::Protocol::IcmPv6(IcmPv6 {
            r#type: source_port,
            code: destination_port,
        }),
        _ => return None,
    };
    Some(Layer4 {
        protocol: Some(protocol),
    })
}

/// RFC 9293 section 3.1.
fn flags(bits: u8) -> TcpFlags {
    let set = |bit: u8| bits & 1 << bit != 0;
    TcpFlags {
        fin: set(0),
        syn: set(1),
        rst: set(2),
        psh: set(3),
        ack: set(4),
        urg: set(5),
        ece: set(6),
        cwr: set(7),
        ns: false,
    }
}

fn layer7(record: &L7Record) -> Option<Layer7> {
    let answer = record.dns().and_then(DnsRecord::answer);
    let inside = match record.inside() {
        Inside::Nothing => return None,
        Inside::Http(request) => layer7::Record::Http(http(request)),
        Inside::Dns(record) => layer7::Record::Dns(dns(record)),
        Inside::Tls(hello) => layer7::Record::Tls(tls(hello)),
    };
    let kind = match answer {
        Some(_) => L7FlowType::Response,
        None => L7FlowType::Request,
    };
    Some(Layer7 {
        r#type: kind.into(),
        latency_ns: answer.map_or(0, |answer| answer.latency_ns()),
        record: Some(inside),
    })
}

fn http(request: &HttpRecord) -> Http {
    let headers = request.headers().map(|(key, value)| HttpHeader {
        key: key.to_owned(),
        value: value.to_owned(),
    });
    Http {
        method: request.method().to_owned(),
        url: url(request),
        protocol: request.version.to_owned(),
        headers: headers.collect(),
        ..Http::default()
    }
}

/// The frame's addresses, if the kernel could read them.
fn ethernet(happened: &Event) -> Option<Ethernet> {
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    (happened.mac_source != [0; 6] || happened.mac_destination != [0; 6]).then(|| Ethernet {
        source: text(happened.mac_source),
        destination: text(happened.mac_destination),
    })
}

/// As it was sent: not what policy matches, where that differs.
fn url(request: &HttpRecord) -> String {
    let target = request.target();
    if request.method() == "CONNECT" || target.contains("://") && !target.starts_with('/') {
        return target.to_owned();
    }
    format!("http://{}{target}", request.host())
}

fn dns(record: &DnsRecord) -> Dns {
    let mut dns = Dns {
        query: record.query().to_owned(),
        qtypes: vec![record.query_type().into_owned()],
        observation_source: DNS_OBSERVER.to_owned(),
        ..Dns::default()
    };
    if let Some(answer) = record.answer() {
        dns.rcode = u32::from(answer.rcode());
        dns.ips = answer.ips().iter().map(ToString::to_string).collect();
        dns.ttl = answer.ttl_s();
        dns.cnames = answer.cnames().map(str::to_owned).collect();
        dns.rrtypes = answer.record_types().map(Cow::into_owned).collect();
    }
    dns
}

fn tls(hello: &TlsRecord) -> Tls {
    Tls {
        sni: hello.server_name.clone(),
        version: match hello.version {
            0 => String::new(),
            0x0301 => "TLS 1.0".to_owned(),
            0x0302 => "TLS 1.1".to_owned(),
            0x0303 => "TLS 1.2".to_owned(),
            0x0304 => "TLS 1.3".to_owned(),
            other => format!("{other:#06x}"),
        },
        alpn: hello
            .alpn
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        ech: hello.ech,
        quic: hello.quic,
    }
}

fn policy(origin: &RuleOrigin, revision: u64) -> Policy {
    Policy {
        name: origin.name.to_string(),
        namespace: origin.namespace.to_string(),
        labels: origin.labels.iter().map(ToString::to_string).collect(),
        revision,
        kind: origin.kind.to_owned(),
    }
}

/// The policies that a rule set is made of.
fn policies_in(rules: &RuleSet, revision: u64) -> Vec<Policy> {
    policies_of(rules.origins(), revision)
}

/// The policies of these rules, each once, by name, at most [`POLICIES_MAX`].
fn policies_of<'a>(origins: impl Iterator<Item = &'a Arc<RuleOrigin>>, revision: u64) -> Vec<Policy> {
    let mut policies = BTreeMap::new();
    for origin in origins {
        policies
            .entry((origin.namespace.clone(), origin.name.clone(), origin.kind))
            .or_insert_with(|| policy(origin, revision));
        if policies.len() == POLICIES_MAX {
            break;
        }
    }
    policies.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::{Uuids, flags};
    use std::collections::HashSet;

    #[test]
    fn no_number_is_given_twice_and_each_has_the_form_of_one() {
        let uuids = Uuids::new();
        let given: HashSet<String> = (0..1000).map(|_| uuids.next()).collect();
        assert_eq!(given.len(), 1000);
        assert_ne!(Uuids::new().next(), Uuids::new().next());
        for uuid in given {
            let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
            assert!(
                uuid.as_bytes()[14] == b'8' && b"89ab".contains(&uuid.as_bytes()[19]),
                "{uuid}"
            );
        }
    }

    #[test]
    fn flags_are_read_from_their_bits() {
        let syn_ack = flags(0x12);
        assert!(syn_ack.syn && syn_ack.ack && !syn_ack.fin && !syn_ack.rst && !syn_ack.psh);
    }
}
