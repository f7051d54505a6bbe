//! `seventh policy generate`: flow records to the policy that allows them and nothing else.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anstream::{eprintln, println};
use anyhow::Result;
use seventh_abi::{Direction, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};
use seventh_flows::{
    pb::{
        flow::{Endpoint, Flow, L7FlowType, TrafficDirection, Verdict, layer4::Protocol, layer7::Record},
        observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    safe_text::printable,
};
use seventh_parsers::http1::normalise_path;
use seventh_policy::{
    Labels,
    generate::{Observation, ObservedL4, ObservedL7, ObservedPeer, Options, generate},
};
use tokio_stream::StreamExt as _;

use super::{Answer, Form, records::Records};
use crate::{api, config::API_SOCKET, hubble_api::observer::observer_client::ObserverClient};

/// Where flows come from, and what becomes of choices.
#[derive(Debug, clap::Args)]
pub(super) struct Generate {
    /// A file of flow records (`-` = standard input), a JSON object per line: an export, or what `observe -o json` prints
    #[arg(long, value_name = "FILE")]
    from_flows: Option<PathBuf>,
    /// The agent whose records are read if no file is given: `unix://PATH` or `host:port`
    #[arg(long, env = "SEVENTH_SERVER", default_value_t = format!("unix://{API_SOCKET}"))]
    server: String,
    /// Segments of a path side by side, beyond which they are taken for a parameter
    #[arg(long, value_name = "N", default_value_t = Options::default().siblings_max)]
    path_siblings: usize,
    /// Leave a direction open in which nothing was seen, in the place of closing it
    #[arg(long)]
    leave_unseen_open: bool,
    /// Form of the output: YAML, or JSON with a document per line
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Status 1: there was nothing to make a policy of, or lines that are no records.
pub(super) async fn run(command: Generate) -> Result<Answer> {
    let mut seen = Seen::default();
    match &command.from_flows {
        Some(file) => read_file(file, &mut seen)?,
        None => read_server(&command.server, &mut seen).await?,
    }
    let options = Options {
        siblings_max: command.path_siblings,
        leave_unseen_open: command.leave_unseen_open,
    };
    let outcome = generate(seen.observations, options)?;
    for policy in &outcome.policies {
        match command.output {
            Form::Json => println!("{}", serde_json::to_string(policy)?),
            Form::Text => println!("---\n{}", serde_saphyr::to_string(policy)?.trim_end()),
        }
    }
    for note in &outcome.notes {
        eprintln!("seventh: {}", printable(note));
    }
    eprintln!(
        "seventh: {} policies from {} of {} records; {} were refused or dropped, {} are answers or say too little",
        outcome.policies.len(),
        seen.used,
        seen.records,
        seen.refused,
        seen.records - seen.used - seen.refused
    );
    if seen.unread > 0 {
        eprintln!("seventh: {} lines are no flow records", seen.unread);
    }
    let complete = seen.unread == 0 && !outcome.policies.is_empty();
    Ok(if complete { Answer::Yes } else { Answer::No })
}

/// What was read.
#[derive(Default)]
struct Seen {
    observations: HashSet<Observation>,
    records: u64,
    used: u64,
    refused: u64,
    unread: u64,
}

impl Seen {
    fn take(&mut self, record: &GetFlowsResponse) {
        let Some(ResponseTypes::Flow(flow)) = &record.response_types else {
            return;
        };
        self.records += 1;
        if !matches!(
            flow.verdict(),
            Verdict::Forwarded | Verdict::Redirected | Verdict::Audit
        ) {
            self.refused += 1;
        } else if let Some(observation) = observation(flow) {
            self.used += 1;
            self.observations.insert(observation);
        }
    }
}

fn read_file(file: &Path, seen: &mut Seen) -> Result<()> {
    for record in Records::open(file)? {
        match record? {
            Ok(record) => seen.take(&record),
            Err(trouble) => {
                eprintln!("seventh: {trouble}");
                seen.unread += 1;
            }
        }
    }
    Ok(())
}

async fn read_server(server: &str, seen: &mut Seen) -> Result<()> {
    let mut client = ObserverClient::new(api::channel(server).await?);
    let mut records = client.get_flows(GetFlowsRequest::default()).await?.into_inner();
    while let Some(record) = records.next().await {
        seen.take(&record?);
    }
    Ok(())
}

/// What a flow shows of the side whose policy it is about; `None` if it is an answer, or does not say enough.
fn observation(flow: &Flow) -> Option<Observation> {
    let (direction, subject, peer) = match flow.traffic_direction() {
        TrafficDirection::Ingress => (Direction::Ingress, &flow.destination, &flow.source),
        TrafficDirection::Egress => (Direction::Egress, &flow.source, &flow.destination),
        TrafficDirection::Unknown => return None,
    };
    // A record without that word is an answer as well as not, unless it is a request.
    let request = flow.l7.as_ref().is_some_and(|l7| l7.r#type() == L7FlowType::Request);
    let asks = flow.is_reply.map_or(request, |reply| !reply);
    if !asks || flow.l7.is_some() != request {
        return None;
    }
    let ip = flow.ip.as_ref()?;
    let (address, names) = match direction {
        Direction::Ingress => (&ip.source, &flow.source_names),
        Direction::Egress => (&ip.destination, &flow.destination_names),
    };
    Some(Observation {
        direction,
        subject: labels(subject.as_ref()?),
        peer: observed_peer(peer.as_ref()?, address, names)?,
        l4: observed_l4(flow.l4.as_ref()?.protocol.as_ref()?)?,
        l7: match flow.l7.as_ref().and_then(|l7| l7.record.as_ref()) {
            None => None,
            Some(record) => Some(observed_l7(record)?),
        },
    })
}

fn labels(end: &Endpoint) -> Labels {
    Labels::parse(end.labels.iter().map(String::as_str))
}

fn observed_peer(end: &Endpoint, address: &str, names: &[String]) -> Option<ObservedPeer> {
    let labels = labels(end);
    let outside = ["world", "world-ipv4", "world-ipv6"]
        .iter()
        .any(|name| labels.has("reserved", name));
    if outside && !labels.has("reserved", "kube-apiserver") {
        return Some(ObservedPeer::Outside {
            address: address.parse().ok()?,
            names: names.to_vec(),
        });
    }
    (!labels.as_slice().is_empty()).then_some(ObservedPeer::Labelled(labels))
}

fn observed_l4(protocol: &Protocol) -> Option<ObservedL4> {
    let port = |protocol, port: u32| {
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        Some(ObservedL4::Port { protocol, port })
    };
    let icmp = |v6, kind: u32| {
        let kind = u8::try_from(kind).ok()?;
        Some(ObservedL4::Icmp { v6, kind })
    };
    match protocol {
        Protocol::Tcp(tcp) => port(PROTOCOL_TCP, tcp.destination_port),
        Protocol::Udp(udp) => port(PROTOCOL_UDP, udp.destination_port),
        Protocol::Sctp(sctp) => port(PROTOCOL_SCTP, sctp.destination_port),
        Protocol::IcmPv4(message) => icmp(false, message.r#type),
        Protocol::IcmPv6(message) => icmp(true, message.r#type),
        Protocol::Vrrp(_) | Protocol::Igmp(_) => None,
    }
}

fn observed_l7(record: &Record) -> Option<ObservedL7> {
    match record {
        Record::Http(http) => {
            // Host and path, or a path alone.
            let url = http.url.split_once("://").map_or(http.url.as_str(), |(_, rest)| rest);
            let path = url.find('/').and_then(|at| url.get(at..)).unwrap_or("/");
            Some(ObservedL7::Http {
                method: http.method.clone(),
                path: normalise_path(path).ok()?.into_owned(),
            })
        }
        Record::Dns(dns) => Some(ObservedL7::Dns {
            name: dns.query.clone(),
        }),
        Record::Tls(tls) => Some(ObservedL7::Tls {
            server_name: Some(tls.sni.clone()).filter(|name| !name.is_empty()),
        }),
        Record::Kafka(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ObservedL4, ObservedL7, ObservedPeer, observation};
    use seventh_flows::{
        json::{UnknownFields, from_json},
        pb::flow::Flow,
    };

    const FLOW: &str = r#"{"verdict":"FORWARDED","traffic_direction":"EGRESS","is_reply":false,
        "IP":{"source":"10.0.0.1","destination":"192.0.2.1"},"l4":{"TCP":{"destination_port":80}},
        "source":{"labels":["k8s:app=front","k8s:io.kubernetes.pod.namespace=shop"]},
        "destination":{"labels":["reserved:world","cidr:192.0.2.0/24"]},"destination_names":["a.example"],
        "l7":{"type":"REQUEST","http":{"method":"GET","url":"http://a.example/x//y?q=1"}}}"#;

    fn read(text: &str) -> Option<super::Observation> {
        let flow: Flow = from_json(text, UnknownFields::Refuse).unwrap();
        observation(&flow)
    }

    #[test]
    fn a_request_shows_endpoint_peer_port_and_normal_path() {
        let seen = read(FLOW).unwrap();
        assert!(seen.subject.has("k8s", "app"));
        let address = "192.0.2.1".parse().unwrap();
        let names = vec!["a.example".to_owned()];
        assert_eq!(seen.peer, ObservedPeer::Outside { address, names });
        assert_eq!(seen.l4, ObservedL4::Port { protocol: 6, port: 80 });
        let (method, path) = ("GET".to_owned(), "/x/y?q=1".to_owned());
        assert_eq!(seen.l7, Some(ObservedL7::Http { method, path }));
    }

    #[test]
    fn answers_and_what_says_too_little_show_nothing() {
        for (from, to) in [
            (r#""is_reply":false"#, r#""is_reply":true"#),
            ("REQUEST", "RESPONSE"),
            ("EGRESS", "TRAFFIC_DIRECTION_UNKNOWN"),
            ("192.0.2.1", "somewhere"),
            (r#"["reserved:world","cidr:192.0.2.0/24"]"#, "[]"),
            ("/x//y", "/x%2fy"),
            (r#"{"destination_port":80}"#, r#"{"destination_port":0}"#),
        ] {
            assert!(FLOW.contains(from), "{from}");
            assert_eq!(read(&FLOW.replace(from, to)), None, "{to}");
        }
    }
}
