//! What a rule misses of some traffic, field by field.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use seventh_abi::Direction;

use crate::automaton::Patterns;
use crate::compile::EndpointFacts;
use crate::finding::RuleOrigin;
use crate::http::{HeaderRule, HttpRequest, HttpRule, Mismatch, header_holds};
use crate::identity::Identity;
use crate::name_pattern::{NamePattern, ServerNamePattern, normal_name};
use crate::rule::{L7Rules, PeerSelector, Peers, PortMatch, PortRange, Ports, Rule};
use crate::trace::Content;

/// One thing that did not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// Which.
    pub field: MissedField,
    /// What the rule wants.
    pub wanted: String,
    /// What the traffic has.
    pub found: String,
}

/// What can fail to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MissedField {
    /// The other side.
    Peer,
    /// The port, under the right IP protocol.
    Port,
    /// The IP protocol.
    Transport,
    /// The protocol inside.
    Protocol,
    /// HTTP method.
    Method,
    /// HTTP path with query.
    Path,
    /// HTTP authority.
    Host,
    /// An HTTP header.
    Header,
    /// The name of a DNS query.
    Query,
    /// The server name of a TLS ClientHello.
    ServerName,
}

impl Miss {
    /// How far the rule is from matching: peers weigh more than ports, ports more than what is inside.
    pub(crate) fn weight(&self) -> u32 {
        match self.field {
            MissedField::Peer => 100,
            MissedField::Transport => 60,
            MissedField::Port => 50,
            MissedField::Protocol => 20,
            MissedField::Host => 3,
            MissedField::Path | MissedField::Query | MissedField::ServerName => 2,
            MissedField::Method | MissedField::Header => 1,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.field {
            MissedField::Peer => "peer",
            MissedField::Port => "port",
            MissedField::Transport => "transport",
            MissedField::Protocol => "protocol",
            MissedField::Method => "method",
            MissedField::Path => "path",
            MissedField::Host => "host",
            MissedField::Header => "header",
            MissedField::Query => "query",
            MissedField::ServerName => "server name",
        };
        write!(f, "{name}: wants {}, is {}", self.wanted, self.found)
    }
}

/// What the rule misses; one answer for each of its L7 rules (or one, if it has none or no content is given).
pub(crate) fn misses_of(
    rule: &Rule,
    direction: Direction,
    endpoint: &EndpointFacts,
    identity: &Identity,
    (protocol, port): (u8, u16),
    content: Option<&Content<'_>>,
) -> Vec<(Arc<RuleOrigin>, Vec<Miss>)> {
    let mut outside = Vec::new();
    if let Peers::Selected(selectors) = &rule.peers
        && !selectors.iter().any(|s| s.selects(identity))
    {
        let wanted = selectors.iter().map(show_peer).collect::<Vec<_>>().join(" or ");
        let wanted = if wanted.is_empty() { "nobody".to_owned() } else { wanted };
        outside.push(Miss {
            field: MissedField::Peer,
            wanted,
            found: identity.labels.to_string(),
        });
    }
    if let Ports::Some(matches) = &rule.ports {
        let declared = if direction == Direction::Ingress {
            &endpoint.named_ports
        } else {
            &identity.named_ports
        };
        let covers = |m: &PortMatch| {
            m.protocol == protocol
                && match &m.ports {
                    PortRange::All => true,
                    PortRange::Numbers(first, last) => (*first..=*last).contains(&port),
                    PortRange::Name(name) => declared.resolve(name, protocol).any(|p| p == port),
                }
        };
        if !matches.iter().any(covers) {
            let wanted = matches.iter().map(show_port).collect::<Vec<_>>().join(" or ");
            let wanted = if wanted.is_empty() { "none".to_owned() } else { wanted };
            let near = matches.iter().any(|m| m.protocol == protocol);
            outside.push(Miss {
                field: if near {
                    MissedField::Port
                } else {
                    MissedField::Transport
                },
                wanted,
                found: format!("{port}/{}", protocol_name(protocol)),
            });
        }
    }
    let (Some(content), Some(l7)) = (content, &rule.l7) else {
        return vec![(rule.origin.clone(), outside)];
    };
    inside(l7, content)
        .unwrap_or_else(|| vec![(rule.origin.clone(), vec![other_protocol(l7, content)])])
        .into_iter()
        .map(|(origin, misses)| (origin, outside.iter().cloned().chain(misses).collect()))
        .collect()
}

/// What each L7 rule misses of the content; `None` if they are of another protocol.
fn inside(l7: &L7Rules, content: &Content<'_>) -> Option<Vec<(Arc<RuleOrigin>, Vec<Miss>)>> {
    match (l7, content) {
        (L7Rules::Http(rules), Content::Http(request)) => Some(
            rules
                .iter()
                .map(|rule| (rule.origin.clone(), http_misses(rule, request)))
                .collect(),
        ),
        (L7Rules::Dns(rules), Content::Dns(name)) => {
            let name = normal_name(name);
            let judge = |patterns: &[NamePattern]| {
                if patterns.iter().any(|p| p.is_everything() || p.matches(&name)) {
                    return Vec::new();
                }
                let wanted = patterns
                    .iter()
                    .map(NamePattern::as_str)
                    .collect::<Vec<_>>()
                    .join(" or ");
                let wanted = if wanted.is_empty() {
                    "no name".to_owned()
                } else {
                    wanted
                };
                vec![Miss {
                    field: MissedField::Query,
                    wanted,
                    found: name.clone(),
                }]
            };
            Some(
                rules
                    .iter()
                    .map(|rule| (rule.origin.clone(), judge(&rule.patterns)))
                    .collect(),
            )
        }
        (L7Rules::Tls(rules), Content::Tls(name)) => {
            let miss = |wanted: &str| Miss {
                field: MissedField::ServerName,
                wanted: wanted.to_owned(),
                found: show_text(name),
            };
            let judge = |pattern: &ServerNamePattern| {
                if !name.is_empty() && pattern.matches(name) {
                    Vec::new()
                } else {
                    vec![miss(pattern.as_str())]
                }
            };
            Some(
                rules
                    .iter()
                    .map(|rule| (rule.origin.clone(), judge(&rule.pattern)))
                    .collect(),
            )
        }
        _ => None,
    }
}

fn other_protocol(l7: &L7Rules, content: &Content<'_>) -> Miss {
    let wanted = match l7 {
        L7Rules::Http(_) => "HTTP",
        L7Rules::Dns(_) => "DNS",
        L7Rules::Tls(_) => "TLS",
    };
    let found = match content {
        Content::Http(_) | Content::BadHttp(_) => "HTTP",
        Content::Dns(_) => "DNS",
        Content::Tls(_) => "TLS",
    };
    Miss {
        field: MissedField::Protocol,
        wanted: wanted.to_owned(),
        found: found.to_owned(),
    }
}

fn http_misses(rule: &HttpRule, request: &HttpRequest<'_>) -> Vec<Miss> {
    let parts = [
        (MissedField::Method, &rule.method, request.method),
        (MissedField::Path, &rule.path, request.path),
        (MissedField::Host, &rule.host, request.host),
    ];
    let mut misses: Vec<Miss> = parts
        .into_iter()
        .filter_map(|(field, pattern, found)| {
            let wanted = pattern.as_ref()?;
            let is_absent = field == MissedField::Path && !request.has_path();
            (is_absent || !matches_whole(wanted, found)).then(|| Miss {
                field,
                wanted: wanted.clone(),
                found: show_text(found),
            })
        })
        .collect();
    let failed = |h: &&HeaderRule| h.mismatch == Mismatch::Fail && !header_holds(h, request);
    misses.extend(rule.headers.iter().filter(failed).map(|header| {
        Miss {
            field: MissedField::Header,
            wanted: match &header.value {
                // The value may be a secret.
                Some(_) => format!("{} with the value of the rule", header.name),
                None => header.name.clone(),
            },
            found: match request
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(&header.name))
            {
                true => "another value".to_owned(),
                false => "absent".to_owned(),
            },
        }
    }));
    misses
}

fn matches_whole(pattern: &str, text: &str) -> bool {
    Patterns::new(&[pattern]).is_ok_and(|patterns| patterns.read(text).has(0))
}

fn show_text(text: &str) -> String {
    if text.is_empty() {
        "absent".to_owned()
    } else {
        text.to_owned()
    }
}

fn show_peer(selector: &PeerSelector) -> String {
    match selector {
        PeerSelector::Labels(selector) => selector.to_string(),
        PeerSelector::Prefix { net, except } if except.is_empty() => net.to_string(),
        PeerSelector::Prefix { net, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{net} except {}", except.join(", "))
        }
        PeerSelector::Name(name) => name.to_string(),
        PeerSelector::Cluster(_) => "the cluster".to_owned(),
    }
}

fn show_port(port: &PortMatch) -> String {
    let protocol = protocol_name(port.protocol);
    match &port.ports {
        PortRange::All => format!("any/{protocol}"),
        PortRange::Numbers(first, last) if first == last => format!("{first}/{protocol}"),
        PortRange::Numbers(first, last) => format!("{first}-{last}/{protocol}"),
        PortRange::Name(name) => format!("{name}/{protocol}"),
    }
}

fn protocol_name(number: u8) -> String {
    let known = crate::document::Protocol::ALL
        .iter()
        .find(|(protocol, _)| protocol.numbers() == [number]);
    match number {
        crate::document::ICMP_V4 => "ICMP".to_owned(),
        crate::document::ICMP_V6 => "ICMPv6".to_owned(),
        _ => known.map_or_else(|| format!("protocol {number}"), |(_, name)| (*name).to_owned()),
    }
}
