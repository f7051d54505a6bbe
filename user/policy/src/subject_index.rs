//! Which rules may govern an endpoint, without asking each of them: by a label that the rule demands.

use std::collections::HashMap;
use std::sync::Arc;

use crate::label::{KEY_NAMESPACE, Labels};
use crate::rule::{PolicyRule, Subject};
use crate::selector::{Operator, Requirement};

/// Places of rules in their list, by key and value of one label that each of them demands.
#[derive(Debug, Default)]
pub(crate) struct SubjectIndex {
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    /// Rules that demand no label of a certain value.
    others: Vec<usize>,
}

impl SubjectIndex {
    /// The index of a list of rules.
    pub(crate) fn new<'a>(rules: impl Iterator<Item = &'a Arc<PolicyRule>>) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.enumerate() {
            let (Subject::Endpoints(selector) | Subject::Nodes(selector)) = &rule.subject;
            // Most endpoints share a namespace; any other label tells more of them apart.
            let demanded = selector.requirements().iter().filter_map(values);
            match demanded.min_by_key(|(key, _)| *key == KEY_NAMESPACE) {
                Some((key, values)) => {
                    let by_value = index.by_label.entry(key.to_owned()).or_default();
                    for value in values {
                        by_value.entry(value.clone()).or_default().push(at);
                    }
                }
                None => index.others.push(at),
            }
        }
        index
    }

    /// Places, in ascending order, of all rules that may govern an endpoint with these labels.
    pub(crate) fn candidates(&self, labels: &Labels) -> Vec<usize> {
        let named = labels
            .iter()
            .filter_map(|label| self.by_label.get(&label.key)?.get(&label.value));
        let mut places: Vec<usize> = named.flatten().chain(&self.others).copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// Key and values of a requirement that no endpoint without one of these fulfils.
fn values(requirement: &Requirement) -> Option<(&str, &[String])> {
    match &requirement.operator {
        Operator::In(values) => Some((&requirement.key.key, values)),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    }
}
