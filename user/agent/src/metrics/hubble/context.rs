//! Labels that say whose flows they are: `sourceContext`, `destinationContext`, `labelsContext` and their like.

use seventh_flows::pb::flow::{Endpoint, Flow, TrafficDirection};

use crate::metrics::series::Labels;

/// Labels of `labelsContext`.
const LABELS: &[&str] = &[
    "source_ip",
    "source_namespace",
    "source_pod",
    "source_workload",
    "source_workload_kind",
    "source_app",
    "destination_ip",
    "destination_namespace",
    "destination_pod",
    "destination_workload",
    "destination_workload_kind",
    "destination_app",
    "traffic_direction",
];

/// One way to name a side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    Identity,
    Namespace,
    Pod,
    PodName,
    Dns,
    Ip,
    ReservedIdentity,
    Workload,
    WorkloadName,
    App,
}

const NAMINGS: &[(&str, Naming)] = &[
    ("identity", Naming::Identity),
    ("namespace", Naming::Namespace),
    ("pod", Naming::Pod),
    ("pod-name", Naming::PodName),
    ("dns", Naming::Dns),
    ("ip", Naming::Ip),
    ("reserved-identity", Naming::ReservedIdentity),
    ("workload", Naming::Workload),
    ("workload-name", Naming::WorkloadName),
    ("app", Naming::App),
];

/// How one side is named; the first that gives something counts.
#[derive(Clone, Debug, Default, PartialEq)]
struct SideNames {
    any: Vec<Naming>,
    egress: Vec<Naming>,
    ingress: Vec<Naming>,
}

/// The contexts of a plugin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::metrics) struct Contexts {
    source: SideNames,
    destination: SideNames,
    labels: Vec<&'static str>,
}

impl Contexts {
    /// Takes an option if it is one of a context.
    ///
    /// # Errors
    /// It is one, with a value that cannot be.
    pub(super) fn take(&mut self, option: &str, values: &[String]) -> Result<bool, String> {
        let names = match option {
            "sourceContext" => &mut self.source.any,
            "sourceEgressContext" => &mut self.source.egress,
            "sourceIngressContext" => &mut self.source.ingress,
            "destinationContext" => &mut self.destination.any,
            "destinationEgressContext" => &mut self.destination.egress,
            "destinationIngressContext" => &mut self.destination.ingress,
            "labelsContext" => {
                self.labels = known(option, values, |value| {
                    LABELS.iter().find(|label| **label == value).copied()
                })?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *names = known(option, values, |value| {
            let found = NAMINGS.iter().find(|(name, _)| *name == value);
            found.map(|(_, naming)| *naming)
        })?;
        Ok(true)
    }

    /// Labels of a flow after those that the metric has itself.
    pub(super) fn labels(&self, flow: &Flow, mut own: Labels) -> Labels {
        self.append(flow, &Sides::of(flow), &mut own);
        own
    }

    /// The same, from the view of the one who asked: what comes back is named like the question.
    pub(super) fn labels_of_question(&self, answer: &Flow, mut own: Labels) -> Labels {
        self.append(answer, &Sides::of(answer).swapped(), &mut own);
        own
    }

    fn append(&self, flow: &Flow, sides: &Sides<'_>, labels: &mut Labels) {
        let direction = flow.traffic_direction();
        for (label, names, side) in [
            ("source", &self.source, &sides.source),
            ("destination", &self.destination, &sides.destination),
        ] {
            if names.is_some() {
                let chosen = names.for_direction(direction);
                let value = chosen
                    .iter()
                    .map(|naming| side.name(*naming))
                    .find(|name| !name.is_empty());
                labels.push((label, value.unwrap_or_default()));
            }
        }
        labels.extend(self.labels.iter().map(|label| (*label, sides.label(label, direction))));
    }
}

fn known<T>(option: &str, values: &[String], find: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    if values.is_empty() {
        return Err(format!("`{option}` has no value"));
    }
    let mut seen = Vec::new();
    for value in values {
        if seen.contains(&value) {
            return Err(format!("`{option}`: `{value}` is there twice"));
        }
        seen.push(value);
    }
    let find = |value: &String| find(value).ok_or_else(|| format!("`{option}`: there is no `{value}`"));
    values.iter().map(find).collect()
}

impl SideNames {
    fn is_some(&self) -> bool {
        !(self.any.is_empty() && self.egress.is_empty() && self.ingress.is_empty())
    }

    fn for_direction(&self, direction: TrafficDirection) -> &[Naming] {
        match direction {
            TrafficDirection::Egress if !self.egress.is_empty() => &self.egress,
            TrafficDirection::Ingress if !self.ingress.is_empty() => &self.ingress,
            _ => &self.any,
        }
    }
}

/// Both sides of a flow.
struct Sides<'a> {
    source: Side<'a>,
    destination: Side<'a>,
}

#[derive(Default)]
struct Side<'a> {
    end: Option<&'a Endpoint>,
    names: &'a [String],
    ip: &'a str,
}

impl<'a> Sides<'a> {
    fn of(flow: &'a Flow) -> Self {
        let ip = flow.ip.as_ref();
        Self {
            source: Side {
                end: flow.source.as_ref(),
                names: &flow.source_names,
                ip: ip.map_or("", |ip| &ip.source),
            },
            destination: Side {
                end: flow.destination.as_ref(),
                names: &flow.destination_names,
                ip: ip.map_or("", |ip| &ip.destination),
            },
        }
    }

    fn swapped(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }

    fn label(&self, label: &str, direction: TrafficDirection) -> String {
        let (side, what) = match label.split_once('_') {
            Some(("source", what)) => (&self.source, what),
            Some(("destination", what)) => (&self.destination, what),
            _ => return direction_name(direction),
        };
        let workload = side.end.and_then(|end| end.workloads.first());
        match what {
            "ip" => side.ip.to_owned(),
            "namespace" => side.name(Naming::Namespace),
            "pod" => side.name(Naming::PodName),
            "workload" => side.name(Naming::WorkloadName),
            "workload_kind" => workload.map(|workload| workload.kind.clone()).unwrap_or_default(),
            _ => side.name(Naming::App),
        }
    }
}

/// As Hubble's metrics write it.
pub(super) fn direction_name(direction: TrafficDirection) -> String {
    match direction {
        TrafficDirection::Ingress => "ingress",
        TrafficDirection::Egress => "egress",
        TrafficDirection::Unknown => "unknown",
    }
    .to_owned()
}

impl Side<'_> {
    fn name(&self, naming: Naming) -> String {
        if naming == Naming::Dns {
            return self.names.join(",");
        }
        if naming == Naming::Ip {
            return self.ip.to_owned();
        }
        let Some(end) = self.end else {
            return String::new();
        };
        let workload = end.workloads.first().map_or("", |workload| workload.name.as_str());
        match naming {
            Naming::Identity => end.labels.join(","),
            Naming::Namespace => end.namespace.clone(),
            Naming::Pod => in_namespace(&end.namespace, &end.pod_name),
            Naming::PodName => end.pod_name.clone(),
            Naming::Workload => in_namespace(&end.namespace, workload),
            Naming::WorkloadName => workload.to_owned(),
            Naming::ReservedIdentity => reserved_identity(&end.labels),
            Naming::App => app(&end.labels),
            Naming::Dns | Naming::Ip => String::new(),
        }
    }
}

fn in_namespace(namespace: &str, name: &str) -> String {
    if namespace.is_empty() || name.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

/// The API server before what else it is.
fn reserved_identity(labels: &[String]) -> String {
    const API_SERVER: &str = "reserved:kube-apiserver";
    let mut reserved = labels.iter().filter(|label| label.starts_with("reserved:"));
    if labels.iter().any(|label| label == API_SERVER) {
        return API_SERVER.to_owned();
    }
    reserved.next().cloned().unwrap_or_default()
}

fn app(labels: &[String]) -> String {
    let of = |key: &str| {
        let found = labels
            .iter()
            .find_map(|label| label.strip_prefix(key)?.strip_prefix('='));
        found.map(str::to_owned)
    };
    ["k8s:app.kubernetes.io/name", "k8s:k8s-app", "k8s:app"]
        .into_iter()
        .find_map(of)
        .unwrap_or_default()
}
