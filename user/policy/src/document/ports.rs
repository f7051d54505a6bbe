//! Protocols and ports as written.

use super::Place;
use super::cilium::{Position, transpose};
use super::l7::{self, L7Text};
use crate::fields::{Field, Object};

/// Ports of one item of `toPorts` at most.
const PORTS_MAX: usize = 40;

/// One item of `toPorts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// Where it stands.
    pub place: Place,
    /// `ports`; absent and empty are the same.
    pub ports: Vec<Port>,
    /// What is read inside; `None` = nothing.
    pub l7: Option<L7Text>,
}

/// One item of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Number or name.
    pub port: PortValue,
    /// The protocol.
    pub protocol: Protocol,
}

/// What `port` and `endPort` say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortValue {
    /// All ports: `0`.
    All,
    /// From the first to the last, both included.
    Numbers(u16, u16),
    /// A name in lower case.
    Name(String),
}

macro_rules! protocols {
    ($($variant:ident $name:literal $number:expr),+ $(,)?) => {
        /// A protocol as documents name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Protocol {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl Protocol {
            /// Every protocol with its name.
            pub const ALL: &[(Protocol, &'static str)] = &[$((Protocol::$variant, $name)),+];

            /// IP protocol numbers.
            #[must_use]
            pub const fn numbers(self) -> &'static [u8] {
                match self { $(Protocol::$variant => $number,)+ }
            }
        }
    };
}

protocols! {
    Any "ANY" &[6, 17, 132],
    Tcp "TCP" &[6],
    Udp "UDP" &[17],
    Sctp "SCTP" &[132],
    Vrrp "VRRP" &[112],
    Igmp "IGMP" &[2],
    Gre "GRE" &[47],
    IpIp "IPIP" &[4],
    Ipv6 "IPV6" &[41],
    Esp "ESP" &[50],
    Ah "AH" &[51],
}

impl Protocol {
    /// Whether it has ports.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::Any | Protocol::Tcp | Protocol::Udp | Protocol::Sctp)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(p, _)| *p == self).map_or("", |(_, name)| name)
    }
}

impl PortRule {
    pub(super) fn read(field: &Field<'_>, position: Position) -> Option<Self> {
        let mut object = field.object()?;
        let ports_field = object.optional("ports");
        let ports = ports_field.as_ref().map(|f| f.list_of(port));
        let ports = transpose(ports);
        if let (Some(f), Some(Some(ports))) = (&ports_field, &ports)
            && ports.len() > PORTS_MAX
        {
            f.fail(format!("has {} ports, at most {PORTS_MAX} are taken", ports.len()));
            return None;
        }
        let l7 = if position.deny {
            None
        } else {
            l7::read(&mut object, position)
        };
        let refused = refuse_unsupported(&mut object, position);
        object.finish();
        let ports = ports?.unwrap_or_default();
        let l7 = if position.deny { None } else { l7? };
        refused?;
        if let Some(l7) = &l7 {
            check_l7(field, &ports, l7, position)?;
        }
        Some(Self {
            place: Place::of(field),
            ports,
            l7,
        })
    }
}

/// Fields that only a terminating proxy can serve, and in a deny rule everything about what is inside.
fn refuse_unsupported(object: &mut Object<'_>, position: Position) -> Option<()> {
    if position.deny {
        return refuse(object, &["rules", "serverNames"].map(|name| (name, DENY_INSIDE)));
    }
    refuse(object, &PROXY_FIELDS)
}

const DENY_INSIDE: &str = "a deny rule looks at peers and ports only; deny what is inside by not allowing it";

const PROXY_FIELDS: [(&str, &str); 3] = [
    (
        "terminatingTLS",
        "TLS is not terminated here; match the server name with serverNames instead",
    ),
    (
        "originatingTLS",
        "TLS is not originated here; let the client speak TLS itself",
    ),
    (
        "listener",
        "there is no Envoy to hand the traffic to; express the rule in rules.http, rules.dns or serverNames",
    ),
];

fn refuse(object: &mut Object<'_>, refusals: &[(&'static str, &str)]) -> Option<()> {
    let mut refused = false;
    for (name, reason) in refusals {
        if let Some(field) = object.optional(name) {
            field.fail(*reason);
            refused = true;
        }
    }
    (!refused).then_some(())
}

fn port(field: &Field<'_>) -> Option<Port> {
    let mut object = field.object()?;
    let port = object.optional("port");
    let end = object.optional("endPort");
    let protocol = object
        .optional("protocol")
        .map_or(Some(Protocol::Any), |f| protocol(&f));
    object.finish();
    let end = transpose(end.map(|f| f.integer(0, i64::from(u16::MAX))))?;
    let end = end.and_then(|n| u16::try_from(n).ok());
    let protocol = protocol?;
    if !protocol.has_ports() {
        if let Some(port) = port.filter(|f| !f.is_empty_string())
            && port.string()? != "0"
        {
            port.fail(format!(
                "{} has no ports: leave `port` out or give \"0\"",
                protocol.name()
            ));
            return None;
        }
        return Some(Port {
            port: PortValue::All,
            protocol,
        });
    }
    let Some(port) = port.filter(|f| !f.is_empty_string()) else {
        field.fail("`port` must be given; \"0\" stands for all ports");
        return None;
    };
    let text = port.string()?;
    let value = match number(text) {
        Some(Ok(0)) => PortValue::All,
        Some(Ok(first)) => {
            if text.starts_with('0') {
                port.warn(format!("a number with a leading 0 is octal: this is port {first}"));
            }
            match end {
                Some(last) if last > first => PortValue::Numbers(first, last),
                Some(last) if last < first && last != 0 => {
                    port.warn(format!(
                        "endPort {last} lies below the port and is ignored: this is port {first} alone"
                    ));
                    PortValue::Numbers(first, first)
                }
                _ => PortValue::Numbers(first, first),
            }
        }
        Some(Err(reason)) => {
            port.fail(reason);
            return None;
        }
        None => {
            if end.is_some() {
                port.warn("endPort is ignored for a port name");
            }
            PortValue::Name(name(&port, text)?)
        }
    };
    Some(Port { port: value, protocol })
}

/// A port number, if the text is one: digits, octal with a leading 0. Other notations (`0x50`) are names, if anything.
fn number(text: &str) -> Option<Result<u16, String>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let parsed = match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u16::from_str_radix(octal, 8),
        _ => text.parse(),
    };
    Some(parsed.map_err(|_| format!("{text:?} is not a port number from 0 to 65535")))
}

/// A port name as IANA has it, in lower case.
pub(super) fn name(field: &Field<'_>, text: &str) -> Option<String> {
    let valid = text.len() <= 15
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if valid {
        return Some(text.to_ascii_lowercase());
    }
    field.fail(format!(
        "{text:?} is neither a port number nor a port name (up to 15 of a-z, 0-9 and single inner -, with a letter)"
    ));
    None
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    let text = field.string()?;
    if text.is_empty() {
        return Some(Protocol::Any);
    }
    let found = Protocol::ALL
        .iter()
        .find(|(_, name)| name.eq_ignore_ascii_case(text))
        .map(|(p, _)| *p);
    if found.is_none() {
        let known: Vec<&str> = Protocol::ALL.iter().map(|(_, name)| *name).collect();
        field.fail(format!("unknown protocol {text:?}; known are {}", known.join(", ")));
    }
    found
}

/// What L7 rules demand of the ports beside them.
fn check_l7(field: &Field<'_>, ports: &[Port], l7: &L7Text, position: Position) -> Option<()> {
    let fail = |reason: &str| {
        field.fail(reason);
        None
    };
    let dns = matches!(l7, L7Text::Dns(_));
    // Names of servers stand in TLS over TCP and in QUIC over UDP.
    let over_udp = matches!(l7, L7Text::Dns(_) | L7Text::Tls(_));
    if position.host && !position.egress {
        return fail("L7 rules are not supported for connections to the node itself");
    }
    if position.host && !dns {
        return fail("for connections of the node itself only DNS rules are supported");
    }
    if dns && !position.egress {
        return fail("DNS rules are not allowed on ingress");
    }
    if ports.is_empty() {
        return fail("L7 rules need ports; without any the rule would allow nothing");
    }
    for port in ports {
        match (&port.port, dns) {
            (PortValue::All, _) => return fail("L7 rules cannot be used with port 0; name the ports"),
            (PortValue::Numbers(first, last), true) if first != last => {
                return fail("DNS rules do not support port ranges; list the ports");
            }
            _ => {}
        }
        let allowed = match port.protocol {
            Protocol::Tcp => true,
            Protocol::Udp | Protocol::Any => over_udp,
            _ => false,
        };
        if !allowed {
            let wanted = if over_udp { "TCP, UDP or ANY" } else { "TCP" };
            return fail(&format!(
                "these L7 rules need protocol {wanted}, not {}",
                port.protocol.name()
            ));
        }
    }
    Some(())
}
