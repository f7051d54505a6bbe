//! What policies and the kernel's tables hold, in words.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use seventh_abi::{
    Direction, DropReason, FlowFlags, FlowKey, FlowState, IDENTITY_ANY, POLICY_PREFIX_ANY_PORT,
    POLICY_PREFIX_ANY_PROTO, POLICY_PREFIX_FULL, PolicyVerdict, Verdict,
};
use seventh_datapath::{IpcachePrefix, PolicyRow};

use seventh_policy::Identity;

use crate::{
    agent::State,
    api::{Flow, NameRow, Prefix, v1},
    observer::ip,
    publisher::Publisher,
};

/// Bits of a mapped IPv4 address that are the same in all of them.
const MAPPED_BITS: u32 = 96;

/// The documents in force, or those of this name with their texts.
pub(crate) fn policy(state: &State, name: &str) -> Vec<v1::PolicyDocument> {
    let endpoints = state.publisher.as_ref().map_or(&[][..], Publisher::endpoints);
    let revision = state.publisher.as_ref().map_or(0, Publisher::revision);
    let documents = state.store.documents().iter();
    documents
        .filter(|document| name.is_empty() || document.origin.policy() == name)
        .map(|document| {
            let governed = endpoints
                .iter()
                .filter(|endpoint| state.store.governs(document, &endpoint.config.labels));
            let origin = &document.origin;
            v1::PolicyDocument {
                kind: origin.kind.to_owned(),
                namespace: origin.namespace.to_string(),
                name: origin.name.to_string(),
                file: origin.file.to_string(),
                document: origin.document,
                line: origin.line,
                endpoints: governed.map(|endpoint| endpoint.config.name.clone()).collect(),
                text: if name.is_empty() {
                    String::new()
                } else {
                    document.text.to_string()
                },
                revision,
            }
        })
        .collect()
}

/// Identities with the endpoints that have them.
pub(crate) fn identities(state: &State, identities: &[Arc<Identity>]) -> Vec<v1::Identity> {
    let endpoints = state.publisher.as_ref().map_or(&[][..], Publisher::endpoints);
    let of = |identity: &Arc<Identity>| {
        let endpoints = endpoints.iter().filter(|endpoint| endpoint.identity == identity.id);
        v1::Identity {
            id: identity.id,
            labels: words(&identity.labels),
            endpoints: endpoints.map(|endpoint| endpoint.config.name.clone()).collect(),
        }
    };
    identities.iter().map(of).collect()
}

/// Rows of the kernel's policy table with the endpoints under their policy.
pub(crate) fn policy_rows(state: &State, rows: &[PolicyRow]) -> Vec<v1::PolicyRow> {
    let mut by_policy: HashMap<u32, Vec<String>> = HashMap::new();
    let names = Names::of(state);
    let in_kernel = state
        .publisher
        .iter()
        .flat_map(|publisher| publisher.datapath().endpoints());
    for (ifindex, endpoint) in in_kernel {
        by_policy
            .entry(endpoint.policy_id)
            .or_default()
            .push(names.endpoint(ifindex));
    }
    by_policy.values_mut().for_each(|names| names.sort());
    rows.iter().map(|row| policy_row(row, &by_policy, state)).collect()
}

fn policy_row((bits, key, entry): &PolicyRow, endpoints: &HashMap<u32, Vec<String>>, state: &State) -> v1::PolicyRow {
    let policy_id = u32::from_be_bytes(key.policy_id);
    let identity = u32::from_be_bytes(key.identity);
    let (first_port, last_port) = ports(*bits, u16::from_be_bytes(key.port));
    let any_protocol = *bits <= POLICY_PREFIX_ANY_PROTO;
    v1::PolicyRow {
        endpoints: endpoints.get(&policy_id).cloned().unwrap_or_default(),
        policy_id,
        direction: direction(key.direction).to_owned(),
        identity,
        labels: if identity == IDENTITY_ANY {
            Vec::new()
        } else {
            labels(state, identity)
        },
        protocol: if any_protocol { -1 } else { i32::from(key.protocol) },
        first_port: first_port.into(),
        last_port: last_port.into(),
        verdict: match entry.verdict {
            v if v == PolicyVerdict::Allow as u8 => "allow",
            v if v == PolicyVerdict::Deny as u8 => "deny",
            v if v == PolicyVerdict::Inspect as u8 => "inspect",
            _ => "unknown",
        }
        .to_owned(),
        reason: DropReason::from_code(entry.reason)
            .map_or("", DropReason::name)
            .to_owned(),
        rule_set: entry.rule_set,
    }
}

/// First and last port of a key of so many bits.
fn ports(bits: u32, port: u16) -> (u16, u16) {
    let open = POLICY_PREFIX_FULL.saturating_sub(bits.max(POLICY_PREFIX_ANY_PORT));
    let mask = u16::MAX.checked_shl(open).unwrap_or(0);
    (port & mask, port | !mask)
}

/// Prefixes of the kernel's ipcache.
pub(crate) fn ipcache(state: &State, prefixes: &[Prefix]) -> Vec<v1::IpcacheEntry> {
    let names = Names::of(state);
    let of = |(prefix, entry): &Prefix| v1::IpcacheEntry {
        prefix: show_prefix(prefix),
        identity: entry.identity,
        labels: labels(state, entry.identity),
        endpoint: match entry.ifindex {
            0 => String::new(),
            ifindex => names.endpoint(ifindex),
        },
    };
    prefixes.iter().map(of).collect()
}

/// Rows of the kernel's table of names.
pub(crate) fn name_rows(state: &State, rows: &[NameRow]) -> Vec<v1::NameRow> {
    let endpoints = state.publisher.iter().flat_map(Publisher::endpoints);
    let endpoints: HashMap<u32, &str> = endpoints.map(|e| (e.id, e.config.name.as_str())).collect();
    let of = |(scope, addr, entry): &NameRow| v1::NameRow {
        endpoint: endpoints.get(scope).copied().unwrap_or_default().to_owned(),
        ip: ip(*addr).to_string(),
        identity: entry.identity,
        labels: labels(state, entry.flow_identity),
        flow_identity: entry.flow_identity,
    };
    rows.iter().map(of).collect()
}

fn show_prefix(prefix: &IpcachePrefix) -> String {
    match (ip(prefix.addr), prefix.prefix_len.checked_sub(MAPPED_BITS)) {
        (address @ IpAddr::V4(_), Some(bits)) => format!("{address}/{bits}"),
        _ => format!("{}/{}", Ipv6Addr::from(prefix.addr), prefix.prefix_len),
    }
}

/// Flows of the kernel's table.
pub(crate) fn flows(state: &State, flows: &[Flow]) -> Vec<v1::FlowEntry> {
    let names = Names::of(state);
    // `bpf_ktime_get_ns` is this clock; a system without it has no flows either.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let of = |(key, flow): &Flow| flow_entry(key, flow, &names, state, now);
    flows.iter().map(of).collect()
}

fn flow_entry(key: &FlowKey, flow: &FlowState, names: &Names, state: &State, now: Duration) -> v1::FlowEntry {
    let idle = now.saturating_sub(Duration::from_nanos(flow.last_seen_ns));
    v1::FlowEntry {
        endpoint: names.endpoint(key.ifindex),
        direction: direction(key.direction).to_owned(),
        protocol: key.protocol.into(),
        local_ip: ip(key.local_addr).to_string(),
        local_port: key.local_port.into(),
        peer_ip: ip(key.peer_addr).to_string(),
        peer_port: key.peer_port.into(),
        peer_identity: flow.peer_identity,
        peer_labels: labels(state, flow.peer_identity),
        verdict: match flow.verdict {
            v if v == Verdict::Forward as u8 => "forward",
            v if v == Verdict::Inspect as u8 => "inspect",
            v if v == Verdict::Closed as u8 => "closed",
            _ => "unknown",
        }
        .to_owned(),
        rule_set: flow.rule_set,
        epoch: flow.epoch,
        replied: flow.flags & FlowFlags::REPLIED != 0,
        closing: flow.flags & FlowFlags::CLOSING != 0,
        idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Names of endpoints by their devices.
struct Names(HashMap<u32, String>);

impl Names {
    fn of(state: &State) -> Self {
        let endpoints = state.publisher.iter().flat_map(Publisher::endpoints);
        Self(
            endpoints
                .filter_map(|e| Some((e.ifindex?, e.config.name.clone())))
                .collect(),
        )
    }

    /// A device that no endpoint has: one of an earlier agent.
    fn endpoint(&self, ifindex: u32) -> String {
        self.0
            .get(&ifindex)
            .cloned()
            .unwrap_or_else(|| format!("interface {ifindex}"))
    }
}

fn labels(state: &State, identity: u32) -> Vec<String> {
    let known = state.store.identities().get(identity);
    known.map(|identity| words(&identity.labels)).unwrap_or_default()
}

fn words(labels: &seventh_policy::Labels) -> Vec<String> {
    labels.iter().map(ToString::to_string).collect()
}

fn direction(number: u8) -> &'static str {
    match number {
        d if d == Direction::Ingress as u8 => "ingress",
        d if d == Direction::Egress as u8 => "egress",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::{ports, show_prefix};
    use seventh_abi::{POLICY_PREFIX_ANY_PORT, POLICY_PREFIX_ANY_PROTO, POLICY_PREFIX_FULL, mapped_v4};
    use seventh_datapath::IpcachePrefix;

    #[test]
    fn a_key_covers_the_ports_that_its_bits_leave_open() {
        assert_eq!(ports(POLICY_PREFIX_FULL, 80), (80, 80));
        assert_eq!(ports(POLICY_PREFIX_FULL - 3, 80), (80, 87));
        assert_eq!(ports(POLICY_PREFIX_ANY_PORT, 0), (0, u16::MAX));
        assert_eq!(ports(POLICY_PREFIX_ANY_PROTO, 0), (0, u16::MAX));
    }

    #[test]
    fn prefixes_are_shown_in_their_family() {
        let show = |addr, prefix_len| show_prefix(&IpcachePrefix { addr, prefix_len });
        assert_eq!(show(mapped_v4([10, 0, 0, 0]), 104), "10.0.0.0/8");
        assert_eq!(show(mapped_v4([0, 0, 0, 0]), 96), "0.0.0.0/0");
        assert_eq!(show([0; 16], 0), "::/0");
        let mut address = [0; 16];
        address[0] = 0xfd;
        assert_eq!(show(address, 8), "fd00::/8");
    }
}
