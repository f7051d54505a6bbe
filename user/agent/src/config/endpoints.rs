//! `endpoints:` of the configuration.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use serde::Deserialize;
use seventh_policy::{Label, LabelFilter, Labels, NamedPorts};

use super::{Wrong, wrong};

/// Bytes of an interface's name at most (`IFNAMSIZ` - 1).
const INTERFACE_LEN_MAX: usize = 15;

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `namespace/name`.
    pub name: String,
    /// Tells it from an earlier one of its name; empty for those of a file.
    pub instance: String,
    /// The labels that make its identity, that of its namespace included: policies select by these.
    pub labels: Labels,
    /// Its other labels: they tell instances apart and count for nothing.
    pub ignored_labels: Labels,
    /// Host-side device.
    pub interface: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Ports by name.
    pub named_ports: NamedPorts,
    /// It is in audit: nothing is enforced, what would be denied is told.
    pub audit: bool,
    /// Requests that no rule has read are shown, too.
    pub observe: bool,
}

impl EndpointConfig {
    /// What tells it from all others, also from earlier ones.
    pub(crate) fn key(&self) -> String {
        if self.instance.is_empty() {
            self.name.clone()
        } else {
            format!("{}@{}", self.name, self.instance)
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawEndpoint {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) interface: String,
    ips: Vec<String>,
    #[serde(default)]
    named_ports: BTreeMap<String, u16>,
    #[serde(default)]
    audit: bool,
    #[serde(default)]
    observe: bool,
}

pub(super) fn check_endpoints(raw: Vec<RawEndpoint>, filter: &LabelFilter) -> Result<Vec<EndpointConfig>, Wrong> {
    let (mut names, mut interfaces, mut addresses) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut endpoints = Vec::with_capacity(raw.len());
    for (i, endpoint) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("endpoints[{i}].{field}");
        let endpoint = endpoint.check(&at, filter)?;
        if !names.insert(endpoint.name.clone()) {
            return Err(wrong(at("name"), format!("`{}` is there twice", endpoint.name)));
        }
        if !interfaces.insert(endpoint.interface.clone()) {
            return Err(wrong(
                at("interface"),
                format!("`{}` belongs to another endpoint", endpoint.interface),
            ));
        }
        for ip in &endpoint.ips {
            if !addresses.insert(*ip) {
                return Err(wrong(at("ips"), format!("{ip} belongs to another endpoint")));
            }
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

impl RawEndpoint {
    fn check(self, at: &dyn Fn(&str) -> String, filter: &LabelFilter) -> Result<EndpointConfig, Wrong> {
        let Some((namespace, name)) = self.name.split_once('/') else {
            return Err(wrong(at("name"), format!("`{}` is not `namespace/name`", self.name)));
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(wrong(at("name"), format!("`{}` is not `namespace/name`", self.name)));
        }
        if self.interface.is_empty() || self.interface.len() > INTERFACE_LEN_MAX {
            return Err(wrong(
                at("interface"),
                format!("must be 1 to {INTERFACE_LEN_MAX} bytes, the name of a device"),
            ));
        }
        if self.ips.is_empty() {
            return Err(wrong(
                at("ips"),
                "is empty; an endpoint without an address cannot send anything",
            ));
        }
        let mut ips = Vec::with_capacity(self.ips.len());
        for (j, text) in self.ips.iter().enumerate() {
            let ip = text.parse().map_err(|_| {
                wrong(
                    at(&format!("ips[{j}]")),
                    format!("`{text}` is not an IPv4 or IPv6 address"),
                )
            })?;
            ips.push(ip);
        }
        let all = labels(namespace, &self.labels);
        let labels = filter.apply(&all);
        let ignored = all.iter().filter(|label| !labels.iter().any(|counts| counts == *label));
        Ok(EndpointConfig {
            ignored_labels: Labels::new(ignored.cloned()),
            labels,
            named_ports: NamedPorts::new(self.named_ports.into_iter().map(|(name, port)| (name, port, None))),
            name: self.name,
            instance: String::new(),
            interface: self.interface,
            ips,
            audit: self.audit,
            observe: self.observe,
        })
    }
}

/// Source `k8s` is implied; `source:key` is allowed.
fn labels(namespace: &str, written: &BTreeMap<String, String>) -> Labels {
    let mut labels: Vec<Label> = written
        .iter()
        .map(|(key, value)| match key.split_once(':') {
            Some((source, key)) => Label::new(source, key, value),
            None => Label::new("k8s", key, value),
        })
        .collect();
    labels.push(Label::new("k8s", "io.kubernetes.pod.namespace", namespace));
    Labels::new(labels)
}
