//! Label selectors as written.

use crate::fields::Field;
use crate::selector::{Operator, Requirement, Selector, SelectorKey};

/// `matchLabels` and `matchExpressions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Keys and their values.
    pub labels: Vec<(SelectorKey, String)>,
    /// Expressions.
    pub expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// The plain form.
    #[must_use]
    pub fn selector(&self) -> Selector {
        let labels = self.labels.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        });
        Selector::new(labels.chain(self.expressions.iter().cloned()).collect())
    }

    pub(crate) fn read(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let labels = object
            .optional("matchLabels")
            .map_or(Some(Vec::new()), |f| match_labels(&f));
        let expressions = object
            .optional("matchExpressions")
            .map_or(Some(Vec::new()), |f| f.list_of(match_expression));
        object.finish();
        Some(Self {
            labels: labels?,
            expressions: expressions?,
        })
    }

    /// A selector whose keys have no source of their own: all are labels of the one source (`podSelector`, …).
    pub(crate) fn read_from(source: &str, field: &Field<'_>) -> Option<Self> {
        let mut read = Self::read(field)?;
        let labels = read.labels.iter_mut().map(|(key, _)| key);
        for key in labels.chain(read.expressions.iter_mut().map(|r| &mut r.key)) {
            if key.source != crate::label::SOURCE_ANY {
                field.fail(format!("{key}: a label source cannot be given here"));
                return None;
            }
            source.clone_into(&mut key.source);
        }
        Some(read)
    }

    /// As [`LabelSelector::read_from`], for labels of pods and namespaces.
    pub(crate) fn read_kubernetes(field: &Field<'_>) -> Option<Self> {
        Self::read_from(crate::label::SOURCE_K8S, field)
    }
}

fn match_labels(field: &Field<'_>) -> Option<Vec<(SelectorKey, String)>> {
    let read = |key: &str, value: &Field<'_>| {
        let key = selector_key(value, key);
        let text = value.string()?;
        check_value(value, text)?;
        Some((key?, text.to_owned()))
    };
    let entries: Vec<_> = field
        .object()?
        .all()
        .iter()
        .map(|(key, value)| read(&key.name, value))
        .collect();
    entries.into_iter().collect()
}

fn match_expression(field: &Field<'_>) -> Option<Requirement> {
    let mut object = field.object()?;
    let key = object.required("key").and_then(|f| selector_key(&f, f.string()?));
    let operator = object.required("operator").and_then(|f| Some((f.string()?, f)));
    let values = object.optional("values");
    let listed = values.as_ref().map_or(Some(Vec::new()), |f| {
        f.list_of(|item| {
            let text = item.string()?;
            check_value(item, text).map(|()| text.to_owned())
        })
    });
    object.finish();
    let (operator, operator_field) = operator?;
    let mut listed = listed?;
    listed.sort();
    listed.dedup();
    let operator = match (operator, listed.is_empty()) {
        ("In", false) => Operator::In(listed),
        ("NotIn", false) => Operator::NotIn(listed),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => {
            field.fail(format!("operator {operator} needs `values`"));
            return None;
        }
        ("Exists" | "DoesNotExist", false) => {
            values
                .as_ref()
                .unwrap_or(field)
                .fail(format!("operator {operator} takes no values"));
            return None;
        }
        _ => {
            operator_field.fail(format!(
                "unknown operator {operator:?}; known are In, NotIn, Exists, DoesNotExist"
            ));
            return None;
        }
    };
    Some(Requirement { key: key?, operator })
}

fn selector_key(field: &Field<'_>, text: &str) -> Option<SelectorKey> {
    let key = SelectorKey::parse(text);
    match check_key(&key.key) {
        Ok(()) => Some(key),
        Err(reason) => {
            field.fail(format!("{text:?} is not a label key: {reason}"));
            None
        }
    }
}

/// A qualified name as Kubernetes has it: `[prefix/]name`.
fn check_key(key: &str) -> Result<(), &'static str> {
    let (prefix, name) = key
        .rsplit_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if let Some(prefix) = prefix {
        let label = |l: &str| {
            !l.is_empty()
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if prefix.len() > 253 || !prefix.split('.').all(label) {
            return Err("what stands before the / must be a DNS name");
        }
    }
    // Longer than Kubernetes' 63: labels that a namespace lends carry its label's key behind a prefix of ours.
    if name.is_empty() || name.len() > 317 {
        return Err("the name must have 1 to 317 characters");
    }
    if is_plain(name) {
        Ok(())
    } else {
        Err("the name may hold A-Z, a-z, 0-9, -, _ and . and must begin and end with a letter or digit")
    }
}

fn check_value(field: &Field<'_>, value: &str) -> Option<()> {
    if value.len() > 63 {
        field.fail(format!("a label value has at most 63 characters, not {}", value.len()));
        return None;
    }
    if !(value.is_empty() || is_plain(value)) {
        field.fail(format!(
            "{value:?} is not a label value: A-Z, a-z, 0-9, -, _ and ., a letter or digit at both ends"
        ));
        return None;
    }
    Some(())
}

fn is_plain(text: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
