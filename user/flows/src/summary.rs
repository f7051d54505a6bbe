//! One line on what happened, in Hubble's words.

use std::fmt::Write as _;

use crate::pb::flow::{Dns, Flow, Http, L7FlowType, Layer4, Layer7, TcpFlags, Tls, layer4::Protocol, layer7::Record};

/// What stands in `Summary`, without anything that the printer adds.
#[must_use]
pub fn summary(flow: &Flow) -> String {
    match (&flow.l7, &flow.l4) {
        (Some(l7), _) => of_l7(l7),
        (None, Some(l4)) => of_l4(l4),
        (None, None) => String::new(),
    }
}

fn of_l7(l7: &Layer7) -> String {
    let response = l7.r#type() == L7FlowType::Response;
    match &l7.record {
        Some(Record::Http(http)) => of_http(http, response.then_some(l7.latency_ns)),
        Some(Record::Dns(dns)) => of_dns(dns, response),
        Some(Record::Tls(tls)) => of_tls(tls),
        Some(Record::Kafka(kafka)) if response => format!(
            "Kafka response {} correlation id {} topic '{}' return code {}",
            kafka.api_key, kafka.correlation_id, kafka.topic, kafka.error_code
        ),
        Some(Record::Kafka(kafka)) => format!(
            "Kafka request {} correlation id {} topic '{}'",
            kafka.api_key, kafka.correlation_id, kafka.topic
        ),
        None => String::new(),
    }
}

fn of_http(http: &Http, latency_ns: Option<u64>) -> String {
    match latency_ns {
        // To the millisecond, as Hubble cuts it.
        Some(latency_ns) => format!(
            "{} {} {}ms ({} {})",
            http.protocol,
            http.code,
            latency_ns / 1_000_000,
            http.method,
            http.url
        ),
        None => format!("{} {} {}", http.protocol, http.method, http.url),
    }
}

fn of_dns(dns: &Dns, response: bool) -> String {
    let types = dns.qtypes.join(",");
    if !response {
        return format!("DNS Query {} {types}", dns.query);
    }
    let asked = format!("{} {} {types}", observer(&dns.observation_source), dns.query);
    if dns.rcode != 0 {
        return format!("DNS Answer RCode: {} TTL: {} ({asked})", rcode(dns.rcode), dns.ttl);
    }
    let mut out = String::from("DNS Answer");
    if !dns.ips.is_empty() {
        let _ = write!(out, " \"{}\"", dns.ips.join(","));
    }
    if !dns.cnames.is_empty() {
        let _ = write!(out, " CNAMEs: \"{}\"", dns.cnames.join(","));
    }
    let _ = write!(out, " TTL: {} ({asked})", dns.ttl);
    out
}

fn observer(source: &str) -> &str {
    if source == "proxy" { "Proxy" } else { source }
}

/// RFC 1035 section 4.1.1 and RFC 2136 section 2.2, in the words of Go's DNS library.
#[must_use]
pub fn rcode(code: u32) -> String {
    const WORDS: &[&str] = &[
        "No Error",
        "Format Error",
        "Server Failure",
        "Non-Existent Domain",
        "Not Implemented",
        "Query Refused",
        "Name Exists when it should not",
        "RR Set Exists when it should not",
        "RR Set that should exist does not",
        "Server Not Authoritative for zone",
        "Name not contained in zone",
    ];
    let known = usize::try_from(code).ok().and_then(|index| WORDS.get(index));
    known.map_or_else(|| code.to_string(), ToString::to_string)
}

fn of_tls(tls: &Tls) -> String {
    let mut out = String::from(if tls.quic {
        "QUIC ClientHello"
    } else {
        "TLS ClientHello"
    });
    let _ = if tls.sni.is_empty() {
        write!(out, " without SNI")
    } else {
        write!(out, " SNI: {}", tls.sni)
    };
    if !tls.version.is_empty() {
        let _ = write!(out, " {}", tls.version);
    }
    if !tls.alpn.is_empty() {
        let _ = write!(out, " ALPN: {}", tls.alpn.join(","));
    }
    if tls.ech {
        out.push_str(" ECH");
    }
    out
}

fn of_l4(l4: &Layer4) -> String {
    match &l4.protocol {
        Some(Protocol::Tcp(tcp)) => match &tcp.flags {
            Some(flags) => format!("TCP Flags: {}", tcp_flags(flags).join(", ")),
            None => "TCP".to_owned(),
        },
        Some(Protocol::Udp(_)) => "UDP".to_owned(),
        Some(Protocol::IcmPv4(icmp)) => format!("ICMPv4 {}", icmpv4(icmp.r#type, icmp.code)),
        Some(Protocol::IcmPv6(icmp)) => format!("ICMPv6 {}", icmpv6(icmp.r#type, icmp.code)),
        Some(Protocol::Sctp(_)) => "SCTP".to_owned(),
        Some(Protocol::Vrrp(_)) => "VRRP".to_owned(),
        Some(Protocol::Igmp(_)) => "IGMP".to_owned(),
        None => String::new(),
    }
}

/// Names of the flags that are set.
#[must_use]
pub fn tcp_flags(flags: &TcpFlags) -> Vec<&'static str> {
    let all = [
        (flags.syn, "SYN"),
        (flags.ack, "ACK"),
        (flags.rst, "RST"),
        (flags.fin, "FIN"),
        (flags.psh, "PSH"),
        (flags.urg, "URG"),
        (flags.ece, "ECE"),
        (flags.cwr, "CWR"),
        (flags.ns, "NS"),
    ];
    all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

/// RFC 792, in the words of the Go library for packets.
#[must_use]
pub fn icmpv4(kind: u32, code: u32) -> String {
    let name = match kind {
        0 => "EchoReply",
        3 => "DestinationUnreachable",
        4 => "SourceQuench",
        5 => "Redirect",
        8 => "EchoRequest",
        9 => "RouterAdvertisement",
        10 => "RouterSolicitation",
        11 => "TimeExceeded",
        12 => "ParameterProblem",
        13 => "TimestampRequest",
        14 => "TimestampReply",
        17 => "AddressMaskRequest",
        18 => "AddressMaskReply",
        _ => return format!("{kind}({code})"),
    };
    let why = match (kind, code) {
        (3, 0) => "(Net)",
        (3, 1) => "(Host)",
        (3, 2) => "(Protocol)",
        (3, 3) => "(Port)",
        (3, 4) => "(FragmentationNeeded)",
        (3, 13) => "(CommAdminProhibited)",
        (11, 0) => "(TTLExceeded)",
        (11, 1) => "(FragmentReassemblyTimeExceeded)",
        _ => "",
    };
    format!("{name}{why}")
}

/// RFC 4443 and RFC 4861, likewise.
#[must_use]
pub fn icmpv6(kind: u32, code: u32) -> String {
    let name = match kind {
        1 => "DestinationUnreachable",
        2 => "PacketTooBig",
        3 => "TimeExceeded",
        4 => "ParameterProblem",
        128 => "EchoRequest",
        129 => "EchoReply",
        133 => "RouterSolicitation",
        134 => "RouterAdvertisement",
        135 => "NeighborSolicitation",
        136 => "NeighborAdvertisement",
        137 => "Redirect",
        _ => return format!("{kind}({code})"),
    };
    let why = match (kind, code) {
        (1, 0) => "(NoRouteToDst)",
        (1, 1) => "(AdminProhibited)",
        (1, 3) => "(Address)",
        (1, 4) => "(Port)",
        (3, 0) => "(HopLimitExceeded)",
        (3, 1) => "(FragmentReassemblyTimeExceeded)",
        _ => "",
    };
    format!("{name}{why}")
}

#[cfg(test)]
mod tests {
    use super::summary;
    use crate::pb::flow::*;

    fn l7(kind: L7FlowType, latency_ns: u64, record: layer7::Record) -> String {
        summary(&Flow {
            l7: Some(Layer7 {
                r#type: kind.into(),
                latency_ns,
                record: Some(record),
            }),
            ..Flow::default()
        })
    }

    #[test]
    fn http_in_hubbles_words() {
        let http = Http {
            code: 200,
            method: "GET".into(),
            url: "http://host/path".into(),
            protocol: "HTTP/1.1".into(),
            headers: vec![],
        };
        let record = layer7::Record::Http(http);
        assert_eq!(
            l7(L7FlowType::Request, 0, record.clone()),
            "HTTP/1.1 GET http://host/path"
        );
        assert_eq!(
            l7(L7FlowType::Response, 3_900_000, record),
            "HTTP/1.1 200 3ms (GET http://host/path)"
        );
    }

    #[test]
    fn dns_in_hubbles_words() {
        let mut dns = Dns {
            query: "name.".into(),
            qtypes: vec!["A".into()],
            observation_source: "proxy".into(),
            ttl: 30,
            ..Dns::default()
        };
        let ask = |dns: &Dns, kind| l7(kind, 0, layer7::Record::Dns(dns.clone()));
        assert_eq!(ask(&dns, L7FlowType::Request), "DNS Query name. A");
        dns.ips = vec!["1.1.1.1".into(), "2.2.2.2".into()];
        dns.cnames = vec!["c1".into(), "c2".into()];
        let answer = "DNS Answer \"1.1.1.1,2.2.2.2\" CNAMEs: \"c1,c2\" TTL: 30 (Proxy name. A)";
        assert_eq!(ask(&dns, L7FlowType::Response), answer);
        dns.rcode = 3;
        let answer = "DNS Answer RCode: Non-Existent Domain TTL: 30 (Proxy name. A)";
        assert_eq!(ask(&dns, L7FlowType::Response), answer);
    }

    #[test]
    fn a_client_hello_tells_its_server_name() {
        let tls = Tls {
            sni: "a.b".into(),
            version: "TLS 1.3".into(),
            alpn: vec!["h2".into()],
            ech: true,
            quic: false,
        };
        let text = l7(L7FlowType::Request, 0, layer7::Record::Tls(tls));
        assert_eq!(text, "TLS ClientHello SNI: a.b TLS 1.3 ALPN: h2 ECH");
    }

    #[test]
    fn packets_in_hubbles_words() {
        let l4 = |protocol| {
            summary(&Flow {
                l4: Some(Layer4 {
                    protocol: Some(protocol),
                }),
                ..Flow::default()
            })
        };
        let flags = Some(TcpFlags {
            syn: true,
            ack: true,
            ..TcpFlags::default()
        });
        assert_eq!(
            l4(layer4::Protocol::Tcp(Tcp {
                flags,
                ..Tcp::default()
            })),
            "TCP Flags: SYN, ACK"
        );
        assert_eq!(l4(layer4::Protocol::Udp(Udp::default())), "UDP");
        assert_eq!(
            l4(layer4::Protocol::IcmPv4(IcmPv4 { r#type: 8, code: 0 })),
            "ICMPv4 EchoRequest"
        );
        assert_eq!(
            l4(layer4::Protocol::IcmPv6(IcmPv6 { r#type: 1, code: 4 })),
            "ICMPv6 DestinationUnreachable(Port)"
        );
    }
}
