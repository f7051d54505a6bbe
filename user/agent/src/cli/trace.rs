//! `seventh policy trace`: one question about documents, answered with the rule that decides it.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, str::FromStr, sync::Arc};

use anstream::{eprintln, println};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use seventh_abi::{PROTOCOL_TCP, PROTOCOL_UDP};
use seventh_engine::{asks_for_upgrade, http_reason};
use seventh_parsers::http1::{HeadError, Limits, parse_head};
use seventh_policy::{
    CompileOptions, Content, HttpRequest, NamedPorts, Outcome, Party, Severity, Surroundings, Trace, Tracer, Traffic,
    document::{Body, Document, ICMP_V4, ICMP_V6, Protocol},
    label::{KEY_NAMESPACE, SOURCE_K8S},
    load_paths,
    name_pattern::NamePattern,
    resolve,
};

use super::{Answer, Form, policy::check_paths};
use crate::config::RawEnforcement;

/// The question.
#[derive(Debug, clap::Args)]
pub(super) struct Question {
    /// Files and directories of policies
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// Who opens the connection: labels (`app=web,io.kubernetes.pod.namespace=shop`, `reserved:host`) or an address
    #[arg(long, value_name = "LABELS|IP", value_parser = Party::read)]
    from: Party,
    /// To whom: labels, an address, or a name outside the cluster
    #[arg(long, value_name = "LABELS|IP|FQDN", value_parser = Party::read)]
    to: Party,
    /// Destination port (for ICMP, the type) and protocol; TCP if none is given, UDP for a DNS query
    #[arg(long, value_name = "N[/PROTO]")]
    port: PortAndProtocol,
    /// An HTTP request: method, host and path
    #[arg(long, value_name = "'GET host/path'", group = "content")]
    http: Option<String>,
    /// A header of the HTTP request; may be given several times
    #[arg(long, value_name = "'NAME: VALUE'", requires = "http")]
    header: Vec<String>,
    /// A DNS query for this name
    #[arg(long, value_name = "NAME", group = "content")]
    dns: Option<String>,
    /// A TLS ClientHello with this server name; empty = without one
    #[arg(long, value_name = "NAME", group = "content")]
    sni: Option<String>,
    /// A port that the destination declares by name; may be given several times
    #[arg(long, value_name = "NAME=N[/PROTO]")]
    named_port: Vec<NamedPort>,
    /// When endpoints are in default deny
    #[arg(long, value_enum, default_value_t)]
    enforcement: RawEnforcement,
    /// Whether the node itself may always reach its endpoints (the agent's `allowLocalhost`)
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    allow_localhost: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// `N[/PROTO]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PortAndProtocol {
    port: u16,
    protocol: Option<u8>,
}

impl FromStr for PortAndProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text
            .split_once('/')
            .map_or((text, None), |(port, name)| (port, Some(name)));
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits);
        let port: u16 = port.ok_or("a port is a number from 0 to 65535, such as 80 or 53/UDP")?;
        let protocol = protocol.map(protocol_number).transpose()?;
        if matches!(protocol, Some(ICMP_V4 | ICMP_V6)) && port > 255 {
            return Err("an ICMP type is a number from 0 to 255".to_owned());
        }
        Ok(Self { port, protocol })
    }
}

fn protocol_number(name: &str) -> Result<u8, String> {
    match name.to_ascii_uppercase().as_str() {
        "ICMP" | "ICMPV4" => return Ok(ICMP_V4),
        "ICMPV6" => return Ok(ICMP_V6),
        _ => {}
    }
    let found = Protocol::ALL.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
    match found.map(|(protocol, _)| protocol.numbers()) {
        Some([number]) => Ok(*number),
        _ => {
            let known: Vec<&str> = Protocol::ALL.iter().skip(1).map(|(_, name)| *name).collect();
            Err(format!("`{name}` is none of {}, ICMP, ICMPv6", known.join(", ")))
        }
    }
}

/// `NAME=N[/PROTO]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedPort {
    name: String,
    at: PortAndProtocol,
}

impl FromStr for NamedPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, at)) if !name.is_empty() => Ok(Self {
                name: name.to_owned(),
                at: at.parse()?,
            }),
            _ => Err("a named port is written NAME=N[/PROTO], such as http=8080".to_owned()),
        }
    }
}

/// Answers; 1 = denied.
pub(super) fn run(question: Question) -> Result<Answer> {
    let (mut tracer, namespaces) = tracer(&question)?;
    let protocol = protocol(&question)?;
    let Question { from, mut to, port, .. } = question;
    ensure!(
        from.is_governed() || to.is_governed(),
        "neither `--from` nor `--to` is an endpoint of this cluster, so no policy applies; give the labels of one"
    );
    if let Some(warning) = nobody_s(&namespaces, [&from, &to]) {
        eprintln!("warning: {warning}");
    }
    if let Party::Labelled(facts) = &mut to {
        let ports = question
            .named_port
            .into_iter()
            .map(|p| (p.name, p.at.port, p.at.protocol));
        facts.named_ports = NamedPorts::new(ports);
    }
    let head = question
        .http
        .as_deref()
        .map(|line| head(line, &question.header))
        .transpose()?;
    let request = head.as_deref().map(Request::read).transpose()?;
    let content = content(request.as_ref(), question.dns.as_deref(), question.sni.as_deref())?;
    let port = port.port;
    let traffic = Traffic {
        from,
        to,
        protocol,
        port,
        content,
    };
    let trace = tracer.trace(&traffic)?;
    match question.output {
        Form::Json => println!("{}", as_json(&traffic, &trace)?),
        Form::Text => {
            print(&traffic, &trace);
            if trace.verdict == Outcome::Allowed && matches!(request, Some(Request::Good { upgrades: true, .. })) {
                println!(
                    "it asks for another protocol: that is so for the first request of a connection; a later one is denied"
                );
            }
        }
    }
    Ok(match trace.verdict {
        Outcome::Denied => Answer::No,
        Outcome::Allowed | Outcome::Inspected => Answer::Yes,
    })
}

/// That the documents are of other namespaces than the endpoints in question, where that is so: then everything passes, and
/// most often it was a namespace that was left out.
fn nobody_s(namespaces: &BTreeSet<String>, parties: [&Party; 2]) -> Option<String> {
    let of = |party: &Party| match party {
        Party::Labelled(facts) if party.is_governed() => {
            facts.labels.values(SOURCE_K8S, KEY_NAMESPACE).next().map(str::to_owned)
        }
        _ => None,
    };
    let asked: BTreeSet<String> = parties.into_iter().filter_map(of).collect();
    // A policy of the whole cluster is of every namespace.
    if asked.is_empty() || namespaces.contains("") || !asked.is_disjoint(namespaces) {
        return None;
    }
    let list = |names: &BTreeSet<String>, before: &str| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.join(before)
    };
    let (asked, known) = (list(&asked, "` or `"), list(namespaces, ", "));
    Some(format!(
        "no document is of namespace `{asked}`; they are of: {known} (labels that name no namespace are of `default`: add \
         `{KEY_NAMESPACE}=NAMESPACE`)"
    ))
}

/// The namespaces that policies are of; empty = the whole cluster.
fn namespaces(documents: &[Arc<Document>]) -> BTreeSet<String> {
    let policies = documents
        .iter()
        .filter(|document| !matches!(document.body, Body::CidrGroup(_)));
    policies.map(|document| document.origin.namespace.to_string()).collect()
}

/// Over documents without an error only: an answer from the rest of them would be another question's. Beside it, which
/// namespaces they are of.
fn tracer(question: &Question) -> Result<(Tracer, BTreeSet<String>)> {
    check_paths(&question.policy)?;
    let loaded = load_paths(&question.policy);
    let resolved = resolve(&loaded.documents, &Surroundings::default());
    let findings = loaded.findings.iter().chain(&resolved.findings);
    let errors: Vec<_> = findings.filter(|finding| finding.severity == Severity::Error).collect();
    for error in &errors {
        eprintln!("{error}");
        if let Some(quotation) = loaded.sources.quote(error) {
            eprintln!("{quotation}");
        }
    }
    ensure!(
        errors.is_empty(),
        "{} errors in policy documents: mend them first (`seventh policy validate` shows warnings, too)",
        errors.len()
    );
    ensure!(
        !loaded.documents.is_empty(),
        "there is no policy document in {}",
        question
            .policy
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );
    let options = CompileOptions {
        enforcement: question.enforcement.into(),
        allow_localhost: question.allow_localhost,
    };
    Ok((Tracer::new(resolved.rules, options), namespaces(&loaded.documents)))
}

/// The protocol, which must be able to carry what is asked.
fn protocol(question: &Question) -> Result<u8> {
    // Queries go over UDP unless told otherwise.
    let usual = if question.dns.is_some() {
        PROTOCOL_UDP
    } else {
        PROTOCOL_TCP
    };
    let protocol = question.port.protocol.unwrap_or(usual);
    ensure!(
        question.http.is_none() || protocol == PROTOCOL_TCP,
        "--http: HTTP is carried by TCP; write --port {}/TCP",
        question.port.port
    );
    ensure!(
        (question.dns.is_none() && question.sni.is_none()) || [PROTOCOL_TCP, PROTOCOL_UDP].contains(&protocol),
        "--dns and --sni need TCP or UDP; write --port {}/TCP",
        question.port.port
    );
    for party in [&question.from, &question.to] {
        if let Party::Address(address) = party {
            let other = if address.is_ipv6() { ICMP_V4 } else { ICMP_V6 };
            ensure!(protocol != other, "{address} is of the other family than the ICMP type");
        }
    }
    Ok(protocol)
}

/// The request as it would be sent: what the engine would refuse is refused here.
fn head(line: &str, headers: &[String]) -> Result<Vec<u8>> {
    let wanted =
        "--http: written 'METHOD host/path', such as 'GET shop.example/items?id=1' or, without a host, 'GET /'";
    let (method, target) = line.trim().split_once(' ').context(wanted)?;
    let target = target.trim_start();
    ensure!(
        !target.starts_with("https://"),
        "--http: https cannot be read inside; ask with --sni for its server name"
    );
    let target = target.strip_prefix("http://").unwrap_or(target);
    let (host, path) = target.split_at(target.find(['/', '?']).unwrap_or(target.len()));
    let root = if path.starts_with('/') { "" } else { "/" };
    ensure!(!method.is_empty() && !target.is_empty(), wanted);
    // Only HTTP/1.0 may lack a host.
    let (version, host) = if host.is_empty() {
        ("1.0", String::new())
    } else {
        ("1.1", format!("Host: {host}\r\n"))
    };
    let mut text = format!("{method} {root}{path} HTTP/{version}\r\n{host}");
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("--header `{header}`: written 'NAME: VALUE'"))?;
        for framing in ["host", "content-length", "transfer-encoding"] {
            ensure!(
                !name.trim().eq_ignore_ascii_case(framing),
                "--header `{}`: not asked of rules by itself; the host stands in --http, and a body is not judged",
                name.trim()
            );
        }
        let _ = write!(text, "{name}: {}\r\n", value.trim());
    }
    ensure!(
        !line.contains(['\r', '\n']) && !headers.iter().any(|header| header.contains(['\r', '\n'])),
        "--http and --header are one line each"
    );
    text.push_str("\r\n");
    Ok(text.into_bytes())
}

/// A request as rules see it, or why it is refused before.
enum Request<'a> {
    Good {
        method: &'a str,
        path: String,
        host: &'a str,
        headers: Vec<(&'a str, &'a str)>,
        /// It asks for another protocol.
        upgrades: bool,
    },
    Bad(seventh_abi::DropReason),
}

impl<'a> Request<'a> {
    fn read(head: &'a [u8]) -> Result<Self> {
        let head = match parse_head(head, &Limits::default()) {
            Ok(head) => head,
            Err(HeadError::Invalid(fault)) => return Ok(Self::Bad(http_reason(fault))),
            Err(HeadError::Incomplete) => bail!("--http: this is not one request"),
        };
        let upgrades = match asks_for_upgrade(&head) {
            Ok(upgrades) => upgrades,
            Err(reason) => return Ok(Self::Bad(reason)),
        };
        let headers = head
            .headers
            .iter()
            .map(|(name, value)| Ok((name, std::str::from_utf8(value)?)));
        Ok(Self::Good {
            method: head.method,
            path: head.path.into_owned(),
            host: head.host.unwrap_or_default(),
            headers: headers.collect::<Result<_>>()?,
            upgrades,
        })
    }
}

fn content<'a>(
    request: Option<&'a Request<'_>>,
    dns: Option<&'a str>,
    sni: Option<&'a str>,
) -> Result<Option<Content<'a>>> {
    for (flag, name) in [("--dns", dns), ("--sni", sni.filter(|name| !name.is_empty()))] {
        let Some(name) = name else { continue };
        ensure!(!name.is_empty(), "{flag}: the name is empty");
        if let Err(reason) = NamePattern::name(name) {
            bail!("{flag} `{name}`: {reason}");
        }
    }
    Ok(match request {
        Some(Request::Bad(reason)) => Some(Content::BadHttp(*reason)),
        Some(Request::Good {
            method,
            path,
            host,
            headers,
            ..
        }) => Some(Content::Http(HttpRequest {
            method,
            path,
            host,
            headers,
        })),
        None => dns.map(Content::Dns).or(sni.map(Content::Tls)),
    })
}

fn as_json(traffic: &Traffic<'_>, trace: &Trace) -> Result<String> {
    let mut object = json!({
        "from": traffic.from.to_string(),
        "to": traffic.to.to_string(),
        "port": traffic.port,
        "protocol": protocol_name(traffic.protocol),
    });
    if let (Some(object), serde_json::Value::Object(trace)) = (object.as_object_mut(), serde_json::to_value(trace)?) {
        object.extend(trace);
    }
    Ok(object.to_string())
}

fn print(traffic: &Traffic<'_>, trace: &Trace) {
    println!("from: {}", traffic.from);
    println!(
        "to: {}, {}/{}",
        traffic.to,
        traffic.port,
        protocol_name(traffic.protocol)
    );
    match traffic.content {
        Some(Content::Http(request)) => println!("http: {} {}{}", request.method, request.host, request.path),
        Some(Content::BadHttp(reason)) => println!("http: {}", reason.description()),
        Some(Content::Dns(name)) => println!("dns: {name}"),
        Some(Content::Tls("")) => println!("sni: none"),
        Some(Content::Tls(name)) => println!("sni: {name}"),
        None => {}
    }
    println!("{trace}");
    if trace.verdict == Outcome::Inspected {
        println!("the connection opens, and what is in it is judged: ask again with --http, --dns or --sni");
    }
}

/// `TCP`, or the number of a protocol without a name.
pub(super) fn protocol_name(number: u8) -> String {
    let known = Protocol::ALL
        .iter()
        .find(|(protocol, _)| protocol.numbers() == [number]);
    match number {
        ICMP_V4 => "ICMP".to_owned(),
        ICMP_V6 => "ICMPv6".to_owned(),
        _ => known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{NamedPort, PortAndProtocol, Request, head};

    #[test]
    fn ports_and_protocols_are_read_and_everything_else_is_refused() {
        let read = |text: &str| text.parse::<PortAndProtocol>().map(|p| (p.port, p.protocol));
        assert_eq!(read("80"), Ok((80, None)));
        assert_eq!(read("53/udp"), Ok((53, Some(17))));
        assert_eq!(read("8/ICMP"), Ok((8, Some(1))));
        assert_eq!(read("0/ESP"), Ok((0, Some(50))));
        for bad in [
            "",
            "/",
            "80/",
            "+80",
            "65536",
            "80/ANY",
            "80/FOO",
            "http",
            "256/ICMPv6",
            "80/TCP/6",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!("http=80/TCP".parse::<NamedPort>().is_ok());
        assert!("=80".parse::<NamedPort>().is_err() && "http".parse::<NamedPort>().is_err());
    }

    #[test]
    fn a_request_is_read_as_the_engine_reads_it() {
        let parts = |line: &str| match Request::read(&head(line, &["X-Key:  v ".to_owned()]).unwrap()).unwrap() {
            Request::Good {
                method,
                path,
                host,
                headers,
                ..
            } => format!("{method} {host} {path} {}", headers.last().unwrap().1),
            Request::Bad(reason) => reason.name().to_owned(),
        };
        for (line, wanted) in [
            ("GET shop.example/items?id=1", "GET shop.example /items?id=1 v"),
            ("GET http://shop.example:8080", "GET shop.example:8080 / v"),
            ("POST /", "POST  / v"),
            ("GET a?x", "GET a /?x v"),
            ("GET a/b/%2e%2e/c", "http_ambiguous_path"),
            ("GET a/b/./c", "GET a /b/c v"),
            ("get a/", "http_lower_case_method"),
            ("GET a/b c", "http_bad_request_line"),
            ("GET user@a/", "http_bad_host"),
        ] {
            assert_eq!(parts(line), wanted, "{line}");
        }
        for bad in ["", "GET", "GET ", "GET https://a/", "GET a/\r\nX: y"] {
            assert!(head(bad, &[]).is_err(), "{bad:?}");
        }
        for bad in ["X", "Host: b", "Content-Length: 1", "X: a\r\nY: b"] {
            assert!(head("GET a/", &[bad.to_owned()]).is_err(), "{bad:?}");
        }
        // An upgrade is judged as the request that it is; two at once are refused whatever the rules say.
        let upgrade = |value: &str| {
            let head = head("GET a/", &[format!("Upgrade: {value}")]).unwrap();
            match Request::read(&head).unwrap() {
                Request::Good { upgrades, .. } => upgrades.to_string(),
                Request::Bad(reason) => reason.name().to_owned(),
            }
        };
        assert_eq!(upgrade("websocket"), "true");
        assert_eq!(upgrade("websocket, h2c"), "http_upgrade_unsupported");
    }
}
