//! Labels: `source:key[=value]`, the language in which endpoints and peers are named.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Source of labels that Kubernetes gives; implied where a person names none.
pub const SOURCE_K8S: &str = "k8s";
/// Source of the labels of Node objects that a node's identity carries.
pub const SOURCE_NODE: &str = "node";
/// Source of the reserved labels (`reserved:host`, `reserved:world`, …).
pub const SOURCE_RESERVED: &str = "reserved";
/// Source in selectors that matches every source.
pub const SOURCE_ANY: &str = "any";
/// Source of a label whose origin was not given.
pub const SOURCE_UNSPEC: &str = "unspec";
/// Source of the label that names a prefix outside the cluster.
pub const SOURCE_CIDR: &str = "cidr";
/// Source of the label that names a toFQDNs selector under which an address was learned.
pub const SOURCE_FQDN: &str = "fqdn";
/// Source of the label that names the service to which an address belongs.
pub const SOURCE_SERVICE: &str = "service";
/// Key of the label that holds an endpoint's namespace.
pub const KEY_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of the labels that an endpoint's namespace lends it.
pub const KEY_NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
/// Key of the label that holds an endpoint's cluster.
pub const KEY_CLUSTER: &str = "io.cilium.k8s.policy.cluster";

/// One label. Ordered by source, key, value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// Who gave it.
    pub source: String,
    /// Its name.
    pub key: String,
    /// Its value, empty if it has none.
    pub value: String,
}

impl Label {
    /// A label of the three parts.
    pub fn new(source: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            key: key.into(),
            value: value.into(),
        }
    }

    /// `reserved:<name>`.
    pub fn reserved(name: impl Into<String>) -> Self {
        Self::new(SOURCE_RESERVED, name, "")
    }

    /// Reads `[source:]key[=value]`; `source_if_none` is taken where the text names none.
    #[must_use]
    pub fn parse(text: &str, source_if_none: &str) -> Self {
        let (source, rest) = split_source(text);
        // A second colon right behind the first belongs to the key, and takes the first one with it.
        let rest = if source.is_some() && rest.starts_with(':') {
            format!(":{rest}")
        } else {
            rest.to_owned()
        };
        let source = source.filter(|s| !s.is_empty()).unwrap_or(source_if_none);
        match rest.split_once('=') {
            None => Self::new(source, rest, ""),
            Some(("", value)) if !value.is_empty() && source == SOURCE_RESERVED => Self::new(source, value, ""),
            Some((key, value)) => Self::new(source, key, value),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        Ok(())
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Source and rest of a label or of a selector's key; `None` if the text names no source. `$x` and `reserved.x` are
/// older spellings of `reserved:x`.
pub(crate) fn split_source(text: &str) -> (Option<&str>, &str) {
    if let Some(rest) = text.strip_prefix('$') {
        return (Some(SOURCE_RESERVED), rest);
    }
    match text.split_once(':') {
        Some((source, rest)) => (Some(source), rest),
        None => match text.strip_prefix("reserved.") {
            Some(rest) => (Some(SOURCE_RESERVED), rest),
            None => (None, text),
        },
    }
}

/// A set of labels, sorted and without duplicates; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[Label]>);

impl Labels {
    /// Sorts and removes duplicates.
    #[must_use]
    pub fn new(labels: impl IntoIterator<Item = Label>) -> Self {
        let mut labels: Vec<Label> = labels.into_iter().collect();
        labels.sort();
        labels.dedup();
        Self(labels.into())
    }

    /// Reads `[source:]key[=value]` texts; the source k8s is implied.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(texts.into_iter().map(|t| Label::parse(t, SOURCE_K8S)))
    }

    /// The labels in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Label] {
        &self.0
    }

    /// The labels in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// The labels of one source, in order.
    pub fn of_source<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Label> {
        self.0.iter().filter(move |label| label.source == source)
    }

    /// Whether a label with this source and key is there; source [`SOURCE_ANY`] stands for all.
    #[must_use]
    pub fn has(&self, source: &str, key: &str) -> bool {
        self.values(source, key).next().is_some()
    }

    /// Values of the labels with this source and key; source [`SOURCE_ANY`] stands for all.
    pub fn values<'a>(&'a self, source: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |l| l.key == key && (source == SOURCE_ANY || l.source == source))
            .map(|l| l.value.as_str())
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, label) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{label}")?;
        }
        Ok(())
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
