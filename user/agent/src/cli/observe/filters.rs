//! Filter flags become filters of the API. Their order counts: `--not` turns the next one around.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use seventh_flows::{
    event_type,
    pb::flow::{
        DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags, TrafficDirection,
        Verdict, Workload, flow_filter::Experimental,
    },
};
use seventh_policy::identity::RESERVED;

/// A filter flag: long name, short name, what its value is called (empty: it needs none), help.
type Flag = (&'static str, Option<char>, &'static str, &'static str);

/// Every filter flag, with Hubble's names.
pub(super) const FLAGS: &[Flag] = &[
    ("all-namespaces", Some('A'), "", "Flows in any namespace"),
    (
        "cel-expression",
        None,
        "EXPRESSION",
        "Flows for which this CEL expression is true",
    ),
    (
        "cluster",
        None,
        "NAME",
        "Flows from or to this cluster; `*` stands for any letters",
    ),
    (
        "drop-reason-desc",
        None,
        "REASON",
        "Flows dropped for this reason, such as POLICY_DENIED",
    ),
    ("encrypted", None, "", "Flows that are encrypted on their way"),
    (
        "fqdn",
        None,
        "NAME",
        "Flows from or to this DNS name; `*` stands for any letters",
    ),
    ("from-all-namespaces", None, "", "Flows from any namespace"),
    ("from-cluster", None, "NAME", "Flows from this cluster"),
    ("from-fqdn", None, "NAME", "Flows from this DNS name"),
    (
        "from-identity",
        None,
        "IDENTITY",
        "Flows from this identity (a number, or a name such as world)",
    ),
    ("from-ip", None, "IP", "Flows from this address or CIDR range"),
    ("from-label", None, "SELECTOR", "Flows from endpoints with these labels"),
    ("from-namespace", None, "NAMESPACE", "Flows from this namespace"),
    (
        "from-pod",
        None,
        "POD",
        "Flows from pods whose name begins so: [namespace/]name",
    ),
    ("from-port", None, "PORT", "Flows from this port"),
    (
        "from-service",
        None,
        "SERVICE",
        "Flows from services whose name begins so: [namespace/]name",
    ),
    (
        "from-workload",
        None,
        "WORKLOAD",
        "Flows from this workload: [kind/]name",
    ),
    ("http-header", None, "NAME:VALUE", "HTTP with this header"),
    ("http-method", None, "METHOD", "HTTP with this method"),
    ("http-path", None, "REGEX", "HTTP with a path in which this is found"),
    (
        "http-status",
        None,
        "CODE",
        "HTTP with this status code, or one that begins so (5+)",
    ),
    ("http-url", None, "REGEX", "HTTP with a URL in which this is found"),
    ("identity", None, "IDENTITY", "Flows from or to this identity"),
    ("interface", None, "NAME", "Flows seen at this interface"),
    ("ip", None, "IP", "Flows from or to this address or CIDR range"),
    ("ip-trace-id", None, "ID", "Flows with this IP trace ID"),
    ("ip-version", None, "VERSION", "Flows of this version: v4, v6, none"),
    ("ipv4", Some('4'), "", "Flows of IPv4"),
    ("ipv6", Some('6'), "", "Flows of IPv6"),
    (
        "label",
        Some('l'),
        "SELECTOR",
        "Flows from or to endpoints with these labels",
    ),
    ("namespace", Some('n'), "NAMESPACE", "Flows from or to this namespace"),
    ("node-label", None, "SELECTOR", "Flows seen on nodes with these labels"),
    (
        "node-name",
        None,
        "NAME",
        "Flows seen on this node; `*` stands for any letters",
    ),
    ("not", None, "", "Turns the next filter around"),
    (
        "pod",
        None,
        "POD",
        "Flows from or to pods whose name begins so: [namespace/]name",
    ),
    ("port", None, "PORT", "Flows from or to this port"),
    (
        "protocol",
        None,
        "PROTOCOL",
        "Flows of this protocol, such as udp, http",
    ),
    (
        "service",
        None,
        "SERVICE",
        "Flows from or to services whose name begins so: [namespace/]name",
    ),
    (
        "snat-ip",
        None,
        "IP",
        "Flows whose source was translated to this address or CIDR range",
    ),
    ("tcp-flags", None, "FLAGS", "TCP with these flags, such as syn,ack"),
    ("to-all-namespaces", None, "", "Flows to any namespace"),
    ("to-cluster", None, "NAME", "Flows to this cluster"),
    ("to-fqdn", None, "NAME", "Flows to this DNS name"),
    ("to-identity", None, "IDENTITY", "Flows to this identity"),
    ("to-ip", None, "IP", "Flows to this address or CIDR range"),
    ("to-label", None, "SELECTOR", "Flows to endpoints with these labels"),
    ("to-namespace", None, "NAMESPACE", "Flows to this namespace"),
    (
        "to-pod",
        None,
        "POD",
        "Flows to pods whose name begins so: [namespace/]name",
    ),
    ("to-port", None, "PORT", "Flows to this port"),
    (
        "to-service",
        None,
        "SERVICE",
        "Flows to services whose name begins so: [namespace/]name",
    ),
    ("to-workload", None, "WORKLOAD", "Flows to this workload: [kind/]name"),
    ("trace-id", None, "ID", "Flows of this trace"),
    (
        "traffic-direction",
        None,
        "DIRECTION",
        "Flows in this direction: ingress, egress",
    ),
    (
        "type",
        Some('t'),
        "TYPE[:SUBTYPE]",
        "Records of this type: capture, drop, l7, policy-verdict, trace[:POINT], trace-sock",
    ),
    ("unencrypted", None, "", "Flows that are not encrypted on their way"),
    ("uuid", None, "UUID", "The flow with this number"),
    (
        "verdict",
        None,
        "VERDICT",
        "Flows with this verdict: FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED, TRANSLATED",
    ),
    (
        "workload",
        None,
        "WORKLOAD",
        "Flows from or to this workload: [kind/]name",
    ),
];

/// Flags of one line contradict each other, or would have to be combined in a way that filters have not.
const CONFLICTS: &[&[&str]] = &[
    &[
        "from-fqdn",
        "from-ip",
        "ip",
        "fqdn",
        "from-namespace",
        "namespace",
        "from-all-namespaces",
        "all-namespaces",
    ],
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"],
    &[
        "to-fqdn",
        "to-ip",
        "ip",
        "fqdn",
        "to-namespace",
        "namespace",
        "to-all-namespaces",
        "all-namespaces",
    ],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-service", "namespace", "all-namespaces"],
    &["from-service", "namespace", "all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
    &["workload", "to-workload"],
    &["workload", "from-workload"],
    &["cluster", "to-cluster"],
    &["cluster", "from-cluster"],
    &["encrypted", "unencrypted"],
];

/// Filters from the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filters {
    pub(super) allow: Vec<FlowFilter>,
    pub(super) deny: Vec<FlowFilter>,
}

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, &(name, short, value, help)| {
            let arg = Arg::new(name)
                .long(name)
                .help(help)
                .help_heading("Filters")
                .action(ArgAction::Append);
            let arg = if value.is_empty() {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .value_parser(["true"])
                    .hide_possible_values(true)
            } else {
                arg.value_name(value)
            };
            command.arg(match short {
                Some(short) => arg.short(short),
                None => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given: Vec<(usize, &'static str, String)> = Vec::new();
        for &(name, ..) in FLAGS {
            if let (Some(values), Some(indices)) = (matches.get_many::<String>(name), matches.indices_of(name)) {
                given.extend(indices.zip(values).map(|(index, value)| (index, name, value.clone())));
            }
        }
        given.sort_unstable_by_key(|(index, ..)| *index);
        let in_order = given.iter().map(|(_, name, value)| (*name, value.as_str()));
        Self::of(in_order).map_err(|reason| clap::Error::raw(ErrorKind::ValueValidation, reason + "\n"))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Filters {
    fn of<'a>(flags: impl Iterator<Item = (&'static str, &'a str)>) -> Result<Self, String> {
        let (mut allow, mut deny) = (Sides::default(), Sides::default());
        let mut turned = false;
        for (name, value) in flags {
            if name == "not" {
                if turned {
                    return Err("--not stands before another --not".to_owned());
                }
                turned = true;
                continue;
            }
            let sides = if std::mem::take(&mut turned) {
                &mut deny
            } else {
                &mut allow
            };
            sides.set(name, value)?;
        }
        if turned {
            return Err("--not stands before nothing that it could turn around".to_owned());
        }
        Ok(Self {
            allow: allow.filters()?,
            deny: deny.filters()?,
        })
    }
}

/// A flag about either end becomes two filters, of which one must match: one about the source (left), one about the
/// destination (right).
#[derive(Default)]
struct Sides {
    left: FlowFilter,
    right: FlowFilter,
    namespaces: Vec<String>,
    from_namespaces: Vec<String>,
    to_namespaces: Vec<String>,
    given: Vec<&'static str>,
}

impl Sides {
    fn set(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        self.given.push(name);
        for group in CONFLICTS.iter().filter(|group| group.contains(&name)) {
            if let Some(other) = self.given.iter().find(|other| **other != name && group.contains(other)) {
                return Err(format!("filters --{other} and --{name} cannot be combined"));
            }
        }
        if self.set_end(name, value)? || self.set_namespace(name, value) {
            return Ok(());
        }
        self.both(|filter| set_other(filter, name, value))
    }

    fn both(&mut self, mut set: impl FnMut(&mut FlowFilter) -> Result<(), String>) -> Result<(), String> {
        set(&mut self.left)?;
        set(&mut self.right)
    }

    /// Flags about an end: `x`, `from-x`, `to-x`. Says whether it is one.
    fn set_end(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let (side, what) = match (name.strip_prefix("from-"), name.strip_prefix("to-")) {
            (Some(what), _) => (Some(false), what),
            (_, Some(what)) => (Some(true), what),
            _ => (None, name),
        };
        let Some(set) = end_setter(what, value)? else {
            return Ok(false);
        };
        match side {
            None => {
                set(&mut self.left, false);
                set(&mut self.right, true);
            }
            Some(destination) => {
                set(&mut self.left, destination);
                set(&mut self.right, destination);
            }
        }
        Ok(true)
    }

    fn set_namespace(&mut self, name: &str, value: &str) -> bool {
        let (list, value) = match name {
            "namespace" => (&mut self.namespaces, value),
            "from-namespace" => (&mut self.from_namespaces, value),
            "to-namespace" => (&mut self.to_namespaces, value),
            "all-namespaces" => (&mut self.namespaces, ""),
            "from-all-namespaces" => (&mut self.from_namespaces, ""),
            "to-all-namespaces" => (&mut self.to_namespaces, ""),
            _ => return false,
        };
        list.push(value.to_owned());
        true
    }

    fn filters(mut self) -> Result<Vec<FlowFilter>, String> {
        if self.given.is_empty() {
            return Ok(Vec::new());
        }
        let to = self.to_namespaces;
        let from = self.from_namespaces;
        for filter in [&mut self.left, &mut self.right] {
            in_namespaces(&mut filter.destination_pod, &mut filter.destination_service, &to)?;
            in_namespaces(&mut filter.source_pod, &mut filter.source_service, &from)?;
        }
        in_namespaces(
            &mut self.left.source_pod,
            &mut self.left.source_service,
            &self.namespaces,
        )?;
        in_namespaces(
            &mut self.right.destination_pod,
            &mut self.right.destination_service,
            &self.namespaces,
        )?;
        if self.left == self.right {
            return Ok(vec![self.left]);
        }
        Ok(vec![self.left, self.right])
    }
}

/// Puts namespaces before names that have none; without a name, any in the namespace is meant.
fn in_namespaces(pods: &mut Vec<String>, services: &mut Vec<String>, namespaces: &[String]) -> Result<(), String> {
    if namespaces.is_empty() {
        return Ok(());
    }
    if pods.is_empty() && services.is_empty() {
        pods.push(String::new());
    }
    for names in [pods, services] {
        let mut all = Vec::new();
        for name in names.iter() {
            match name.split_once('/') {
                Some((namespace, _)) if namespaces.iter().any(|n| n == namespace) => all.push(name.clone()),
                Some((namespace, _)) => {
                    return Err(format!(
                        "`{name}` is in namespace `{namespace}`, which is not the one asked for"
                    ));
                }
                None => all.extend(namespaces.iter().map(|namespace| format!("{namespace}/{name}"))),
            }
        }
        *names = all;
    }
    Ok(())
}

/// Sets a field of the source (`false`) or of the destination (`true`).
type Setter = Box<dyn Fn(&mut FlowFilter, bool)>;

fn end_setter(what: &str, value: &str) -> Result<Option<Setter>, String> {
    let text = value.to_owned();
    let list: fn(&mut FlowFilter, bool) -> &mut Vec<String> = match what {
        "fqdn" => |f, to| {
            if to {
                &mut f.destination_fqdn
            } else {
                &mut f.source_fqdn
            }
        },
        "pod" => |f, to| if to { &mut f.destination_pod } else { &mut f.source_pod },
        "ip" => |f, to| if to { &mut f.destination_ip } else { &mut f.source_ip },
        "label" => |f, to| {
            if to {
                &mut f.destination_label
            } else {
                &mut f.source_label
            }
        },
        "service" => |f, to| {
            if to {
                &mut f.destination_service
            } else {
                &mut f.source_service
            }
        },
        "port" => |f, to| {
            if to {
                &mut f.destination_port
            } else {
                &mut f.source_port
            }
        },
        "cluster" => |f, to| {
            if to {
                &mut f.destination_cluster_name
            } else {
                &mut f.source_cluster_name
            }
        },
        "identity" => {
            let identity = identity(value)?;
            return Ok(Some(Box::new(move |f, to| {
                if to {
                    &mut f.destination_identity
                } else {
                    &mut f.source_identity
                }
                .push(identity);
            })));
        }
        "workload" => {
            let (kind, name) = value.split_once('/').unwrap_or(("", value));
            let workload = Workload {
                kind: kind.to_owned(),
                name: name.to_owned(),
            };
            return Ok(Some(Box::new(move |f, to| {
                if to {
                    &mut f.destination_workload
                } else {
                    &mut f.source_workload
                }
                .push(workload.clone());
            })));
        }
        _ => return Ok(None),
    };
    Ok(Some(Box::new(move |f, to| list(f, to).push(text.clone()))))
}

fn identity(value: &str) -> Result<u32, String> {
    let named = RESERVED.iter().find(|(_, name)| *name == value).map(|(id, _)| *id);
    // Nobody's.
    let unknown = (value == "unknown").then_some(0);
    named
        .or(unknown)
        .or_else(|| value.parse().ok())
        .ok_or_else(|| format!("`{value}` is neither the number of an identity nor a reserved one (world, host, ...)"))
}

fn set_other(filter: &mut FlowFilter, name: &str, value: &str) -> Result<(), String> {
    let text = value.to_owned();
    match name {
        "uuid" => filter.uuid.push(text),
        "snat-ip" => filter.source_ip_xlated.push(text),
        "ipv4" => filter.ip_version.push(IpVersion::IPv4.into()),
        "ipv6" => filter.ip_version.push(IpVersion::IPv6.into()),
        "ip-version" => filter.ip_version.push(ip_version(value)?.into()),
        "trace-id" => filter.trace_id.push(text),
        "ip-trace-id" => {
            let id = value.parse().ok().filter(|id| *id > 0);
            filter
                .ip_trace_id
                .push(id.ok_or_else(|| format!("--ip-trace-id `{value}` is not a number above 0"))?);
        }
        "verdict" => {
            let verdict = Verdict::from_str_name(&value.to_ascii_uppercase());
            filter
                .verdict
                .push(verdict.ok_or_else(|| format!("there is no verdict `{value}`"))?.into());
        }
        "drop-reason-desc" => {
            let reason = DropReason::from_str_name(&value.to_ascii_uppercase());
            filter.drop_reason_desc.push(
                reason
                    .ok_or_else(|| format!("there is no drop reason `{value}`"))?
                    .into(),
            );
        }
        "http-status" => filter.http_status_code.push(text),
        "http-method" => filter.http_method.push(text),
        "http-path" => filter.http_path.push(text),
        "http-url" => filter.http_url.push(text),
        "http-header" => {
            let header = value.split_once(':').map(|(key, value)| HttpHeader {
                key: key.into(),
                value: value.into(),
            });
            filter
                .http_header
                .push(header.ok_or_else(|| format!("--http-header `{value}` is not name:value"))?);
        }
        "protocol" => filter.protocol.push(text),
        "type" => filter.event_type.push(event_type_filter(value)?),
        "tcp-flags" => filter.tcp_flags.push(tcp_flags(value)?),
        "node-name" => filter.node_name.push(text),
        "node-label" => filter.node_labels.push(text),
        "interface" => filter.interface.push(NetworkInterface { index: 0, name: text }),
        "traffic-direction" => filter.traffic_direction.push(direction(value)?.into()),
        "encrypted" => filter.encrypted.push(true),
        "unencrypted" => filter.encrypted.push(false),
        "cel-expression" => filter
            .experimental
            .get_or_insert_with(Experimental::default)
            .cel_expression
            .push(text),
        other => return Err(format!("there is no filter --{other}")),
    }
    Ok(())
}

fn ip_version(value: &str) -> Result<IpVersion, String> {
    match value.to_ascii_lowercase().as_str() {
        "4" | "v4" | "ipv4" | "ip4" => Ok(IpVersion::IPv4),
        "6" | "v6" | "ipv6" | "ip6" => Ok(IpVersion::IPv6),
        "none" => Ok(IpVersion::IpNotUsed),
        _ => Err(format!("--ip-version `{value}` is none of v4, v6, none")),
    }
}

fn direction(value: &str) -> Result<TrafficDirection, String> {
    match value.to_ascii_lowercase().as_str() {
        "ingress" => Ok(TrafficDirection::Ingress),
        "egress" => Ok(TrafficDirection::Egress),
        _ => Err(format!("--traffic-direction `{value}` is neither ingress nor egress")),
    }
}

fn event_type_filter(value: &str) -> Result<EventTypeFilter, String> {
    let (name, point) = value
        .split_once(':')
        .map_or((value, None), |(name, point)| (name, Some(point)));
    let known = event_type::NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number);
    let number = known.or_else(|| name.parse().ok()).ok_or_else(|| {
        let names: Vec<&str> = event_type::NAMES.iter().map(|(name, _)| *name).collect();
        format!("there is no type `{name}`; types are {}", names.join(", "))
    })?;
    let sub_type = point.map(|point| {
        let named = event_type::TRACE_POINTS.iter().position(|known| *known == point);
        let named = named
            .filter(|_| number == event_type::TRACE)
            .and_then(|index| i32::try_from(index).ok());
        named
            .or_else(|| point.parse().ok())
            .ok_or_else(|| format!("type `{name}` has no sub-type `{point}`"))
    });
    let sub_type = sub_type.transpose()?;
    Ok(EventTypeFilter {
        r#type: number,
        match_sub_type: sub_type.is_some(),
        sub_type: sub_type.unwrap_or(0),
    })
}

fn tcp_flags(value: &str) -> Result<TcpFlags, String> {
    let mut flags = TcpFlags::default();
    for name in value.split(',') {
        let flag = match name.to_ascii_uppercase().as_str() {
            "FIN" => &mut flags.fin,
            "SYN" => &mut flags.syn,
            "RST" => &mut flags.rst,
            "PSH" => &mut flags.psh,
            "ACK" => &mut flags.ack,
            "URG" => &mut flags.urg,
            "ECE" => &mut flags.ece,
            "CWR" => &mut flags.cwr,
            "NS" => &mut flags.ns,
            _ => return Err(format!("there is no TCP flag `{name}`")),
        };
        *flag = true;
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::Filters;
    use clap::{Args as _, Command, FromArgMatches as _};
    use seventh_flows::json::to_json;

    fn read(line: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let command = Filters::augment_args(Command::new("observe").no_binary_name(true));
        let matches = command
            .try_get_matches_from(line.split_whitespace())
            .map_err(|e| e.to_string())?;
        let filters = Filters::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        let texts = |list: &[_]| list.iter().map(to_json).collect();
        Ok((texts(&filters.allow), texts(&filters.deny)))
    }

    #[track_caller]
    fn allows(line: &str, expected: &[&str]) {
        let (allow, deny) = read(line).unwrap();
        assert_eq!(allow, expected, "{line}");
        assert!(deny.is_empty());
    }

    #[test]
    fn flags_about_either_end_become_two_filters() {
        allows(
            "--pod a/b",
            &[r#"{"source_pod":["a/b"]}"#, r#"{"destination_pod":["a/b"]}"#],
        );
        allows(
            "--from-pod a --to-port 80",
            &[r#"{"source_pod":["a"],"destination_port":["80"]}"#],
        );
        allows(
            "--ip 1.1.1.1 --verdict DROPPED",
            &[
                r#"{"source_ip":["1.1.1.1"],"verdict":["DROPPED"]}"#,
                r#"{"destination_ip":["1.1.1.1"],"verdict":["DROPPED"]}"#,
            ],
        );
        allows("", &[]);
    }

    #[test]
    fn namespaces_stand_before_names() {
        allows(
            "-n kube-system",
            &[
                r#"{"source_pod":["kube-system/"]}"#,
                r#"{"destination_pod":["kube-system/"]}"#,
            ],
        );
        allows("-A", &[r#"{"source_pod":["/"]}"#, r#"{"destination_pod":["/"]}"#]);
        allows("--from-namespace a --from-pod x", &[r#"{"source_pod":["a/x"]}"#]);
        allows(
            "--to-namespace a --to-namespace b --to-service x",
            &[r#"{"destination_service":["a/x","b/x"]}"#],
        );
        assert!(
            read("--from-namespace a --from-pod b/x")
                .unwrap_err()
                .contains("namespace `b`")
        );
    }

    #[test]
    fn not_turns_exactly_the_next_filter_around() {
        let (allow, deny) = read("--not --from-ip 2.2.2.2 --protocol tcp --not --verdict AUDIT").unwrap();
        assert_eq!(allow, [r#"{"protocol":["tcp"]}"#]);
        assert_eq!(deny, [r#"{"source_ip":["2.2.2.2"],"verdict":["AUDIT"]}"#]);
        assert!(read("--not --not --ip 1.1.1.1").is_err() && read("--ip 1.1.1.1 --not").is_err());
    }

    #[test]
    fn values_have_names_and_numbers() {
        allows(
            "--identity world",
            &[r#"{"source_identity":[2]}"#, r#"{"destination_identity":[2]}"#],
        );
        allows(
            "--from-identity unknown --from-identity world-ipv6 --from-identity 70000",
            &[r#"{"source_identity":[0,10,70000]}"#],
        );
        allows(
            "-t trace:to-host -t l7",
            &[r#"{"event_type":[{"type":4,"match_sub_type":true,"sub_type":2},{"type":129}]}"#],
        );
        allows(
            "--tcp-flags syn,ack -4",
            &[r#"{"tcp_flags":[{"SYN":true,"ACK":true}],"ip_version":["IPv4"]}"#],
        );
        allows(
            "--to-workload Deployment/a",
            &[r#"{"destination_workload":[{"name":"a","kind":"Deployment"}]}"#],
        );
        allows(
            "--http-header a:b --traffic-direction ingress",
            &[r#"{"traffic_direction":["INGRESS"],"http_header":[{"key":"a","value":"b"}]}"#],
        );
    }

    #[test]
    fn what_is_no_value_is_refused_by_its_name() {
        for line in [
            "--verdict MAYBE",
            "--type l8",
            "--type drop:x",
            "--tcp-flags foo",
            "--ip-version 5",
            "--identity nobody",
            "--http-header a",
            "--drop-reason-desc WHY",
            "--traffic-direction up",
            "--ip-trace-id 0",
            "--ip 1.1.1.1 --pod a",
            "--label a --from-label b",
            "--encrypted --unencrypted",
            "--no-such-filter x",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
