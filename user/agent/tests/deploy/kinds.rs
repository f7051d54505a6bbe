//! Objects as the types of Kubernetes; a field that a type does not have is an error.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Of the Prometheus operator: what the chart uses of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodMonitor {
    pub(crate) api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "metadata")]
    _metadata: ObjectMeta,
    pub(crate) spec: PodMonitorSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodMonitorSpec {
    pub(crate) selector: LabelSelector,
    pub(crate) pod_metrics_endpoints: Vec<PodMetricsEndpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodMetricsEndpoint {
    pub(crate) port: String,
    pub(crate) path: String,
    #[serde(rename = "interval")]
    _interval: String,
    pub(crate) relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Relabeling {
    #[serde(rename = "sourceLabels")]
    _source_labels: Vec<String>,
    pub(crate) target_label: String,
}

/// The same of alerts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PrometheusRule {
    pub(crate) api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "metadata")]
    _metadata: ObjectMeta,
    pub(crate) spec: RuleGroups,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleGroups {
    pub(crate) groups: Vec<RuleGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleGroup {
    #[serde(rename = "name")]
    _name: String,
    pub(crate) rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alert {
    pub(crate) alert: String,
    pub(crate) expr: String,
    #[serde(rename = "for")]
    _lasts: String,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// Reads an object as its type.
///
/// # Panics
/// A field is unknown, missing, or of another type.
pub(crate) fn read<T: DeserializeOwned>(object: &Value) -> T {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    assert!(unknown.is_empty(), "{name}: no such fields: {}", unknown.join(", "));
    read.unwrap_or_else(|e| panic!("{name}: {e}\n{object:#}"))
}

/// Reads an object as what it says it is.
///
/// # Panics
/// It is not that, or of a kind that nothing here should have.
pub(crate) fn check(object: &Value) {
    let text = |field: &str| {
        object[field]
            .as_str()
            .unwrap_or_else(|| panic!("no {field}: {object:#}"))
    };
    match (text("apiVersion"), text("kind")) {
        ("v1", "Namespace") => drop(read::<Namespace>(object)),
        ("v1", "ConfigMap") => drop(read::<ConfigMap>(object)),
        ("v1", "Service") => drop(read::<Service>(object)),
        ("v1", "ServiceAccount") => drop(read::<ServiceAccount>(object)),
        ("apps/v1", "DaemonSet") => drop(read::<DaemonSet>(object)),
        ("apps/v1", "Deployment") => drop(read::<Deployment>(object)),
        ("networking.k8s.io/v1", "NetworkPolicy") => drop(read::<NetworkPolicy>(object)),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => drop(read::<ClusterRole>(object)),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => drop(read::<ClusterRoleBinding>(object)),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => drop(read::<CustomResourceDefinition>(object)),
        ("monitoring.coreos.com/v1", "PodMonitor") => drop(read::<PodMonitor>(object)),
        ("monitoring.coreos.com/v1", "PrometheusRule") => drop(read::<PrometheusRule>(object)),
        (version, kind) => panic!("{kind} of {version} is not among what is deployed"),
    }
}

#[test]
fn a_field_that_kubernetes_does_not_have_is_found_wherever_it_is() {
    let service = |port: &str| {
        let text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{{port}}}]}}}}");
        std::panic::catch_unwind(|| check(&super::documents(&text)[0])).is_ok()
    };
    assert!(service("port: 1, targetPort: metrics"));
    assert!(!service("port: 1, targetport: metrics"));
    assert!(!service("port: one"));
}
