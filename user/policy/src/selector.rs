//! Label selectors: which endpoints or peers a rule means.

use std::fmt;

use crate::label::{KEY_CLUSTER, KEY_NAMESPACE, KEY_NAMESPACE_LABELS, Labels, SOURCE_ANY, SOURCE_K8S, SOURCE_RESERVED};

/// A key in a selector: the source may be [`SOURCE_ANY`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectorKey {
    /// Source of the label, `any` for every source.
    pub source: String,
    /// Name of the label.
    pub key: String,
}

impl SelectorKey {
    /// A key of the two parts.
    pub fn new(source: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            key: key.into(),
        }
    }

    /// Reads `[source:]key`; without a source, or with an empty one, it is `any`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (source, key) = crate::label::split_source(text);
        Self::new(source.filter(|s| !s.is_empty()).unwrap_or(SOURCE_ANY), key)
    }

    fn is_namespace(&self) -> bool {
        (self.source == SOURCE_K8S || self.source == SOURCE_ANY)
            && (self.key == KEY_NAMESPACE || self.key.starts_with(KEY_NAMESPACE_LABELS))
    }
}

impl fmt::Display for SelectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)
    }
}

/// What is demanded of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// Present, with one of these values (sorted).
    In(Vec<String>),
    /// Absent, or with none of these values (sorted).
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

/// One demand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label.
    pub key: SelectorKey,
    /// What is demanded of it.
    pub operator: Operator,
}

impl Requirement {
    /// Whether the labels fulfil it. If several sources carry the key, `In` needs one of them to have a listed value and
    /// `NotIn` that none of them has.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let mut values = labels.values(&self.key.source, &self.key.key);
        match &self.operator {
            Operator::In(wanted) => values.any(|v| wanted.iter().any(|w| w == v)),
            Operator::NotIn(unwanted) => !values.any(|v| unwanted.iter().any(|w| w == v)),
            Operator::Exists => values.next().is_some(),
            Operator::DoesNotExist => values.next().is_none(),
        }
    }
}

impl Requirement {
    /// Whether labels that fulfil the other plainly fulfil this one.
    fn follows_from(&self, other: &Self) -> bool {
        let same_key = self.key == other.key || (self.key.source == SOURCE_ANY && self.key.key == other.key.key);
        let all_in = |some: &[String], all: &[String]| some.iter().all(|v| all.contains(v));
        match (&self.operator, &other.operator) {
            (Operator::In(all), Operator::In(some)) => same_key && all_in(some, all),
            (Operator::Exists, Operator::In(_) | Operator::Exists) => same_key,
            // That no label has a value does not follow from one of another source.
            (Operator::NotIn(some), Operator::NotIn(all)) => self.key == other.key && all_in(some, all),
            (Operator::NotIn(_) | Operator::DoesNotExist, Operator::DoesNotExist) => self.key == other.key,
            (Operator::NotIn(unwanted), Operator::In(values)) => {
                self.key == other.key && !values.iter().any(|v| unwanted.contains(v))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.operator {
            Operator::In(values) => match values.as_slice() {
                [one] => write!(f, "{}={one}", self.key),
                many => write!(f, "{} in ({})", self.key, many.join("|")),
            },
            Operator::NotIn(values) => write!(f, "{} not in ({})", self.key, values.join("|")),
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

/// All requirements must hold; none at all selects everything. Requirements are sorted, so that selectors of the same
/// meaning written in another order are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// A selector of these requirements.
    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }

    /// The requirements in order.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the labels fulfil every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether it plainly selects whatever the other selects. `false` if that takes more than one look to see.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let follows = |own: &Requirement| other.requirements.iter().any(|theirs| own.follows_from(theirs));
        self.requirements.iter().all(follows)
    }

    /// Whether it names the namespace, by name or by the namespace's labels.
    #[must_use]
    pub fn names_namespace(&self) -> bool {
        self.requirements.iter().any(|r| r.key.is_namespace())
    }

    /// Whether it names the namespace by name.
    #[must_use]
    pub fn names_namespace_itself(&self) -> bool {
        self.requirements
            .iter()
            .any(|r| r.key.is_namespace() && r.key.key == KEY_NAMESPACE)
    }

    /// Whether it names the cluster.
    #[must_use]
    pub fn names_cluster(&self) -> bool {
        self.requirements.iter().any(|r| r.key.key == KEY_CLUSTER)
    }

    /// Whether it demands a reserved label (`reserved:host`, …): such peers have no namespace.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.requirements.iter().any(|r| r.key.source == SOURCE_RESERVED)
    }

    /// With one more requirement.
    #[must_use]
    pub fn and(&self, requirement: Requirement) -> Self {
        let mut requirements = self.requirements.clone();
        requirements.push(requirement);
        Self::new(requirements)
    }

    /// With `io.kubernetes.pod.namespace=<namespace>`.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        self.and(equals(KEY_NAMESPACE, namespace))
    }

    /// With `io.cilium.k8s.policy.cluster=<cluster>`.
    #[must_use]
    pub fn in_cluster(&self, cluster: &str) -> Self {
        self.and(equals(KEY_CLUSTER, cluster))
    }

    /// With `Exists k8s:io.kubernetes.pod.namespace`: any endpoint that lives in a namespace.
    #[must_use]
    pub fn in_any_namespace(&self) -> Self {
        self.and(Requirement {
            key: SelectorKey::new(SOURCE_K8S, KEY_NAMESPACE),
            operator: Operator::Exists,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("everything");
        }
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

fn equals(key: &str, value: &str) -> Requirement {
    Requirement {
        key: SelectorKey::new(SOURCE_K8S, key),
        operator: Operator::In(vec![value.to_owned()]),
    }
}
