//! Field masks: which fields of a record somebody wants.

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _};

use crate::descriptors::{descriptor, dynamic, typed};
use crate::pb::flow::Flow;

/// Paths of a mask at most.
pub const PATHS_MAX: usize = 256;

/// Fields of a [`Flow`] that are wanted; everything if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMask {
    root: Wanted,
}

/// A field that the record does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// No such field.
    #[error("`{path}`: a flow has no field `{field}`")]
    NoSuchField {
        /// The path as written.
        path: String,
        /// The part of it that is wrong.
        field: String,
    },
    /// Too many paths.
    #[error("{0} paths; at most {PATHS_MAX} are read")]
    TooMany(usize),
}

/// Numbers of wanted fields, and what is wanted inside; an empty inside is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted(Vec<(u32, Wanted)>);

impl FieldMask {
    /// Reads paths such as `source.pod_name`.
    ///
    /// # Errors
    /// A path that is not one of a flow.
    pub fn new<P: AsRef<str>>(paths: impl IntoIterator<Item = P>) -> Result<Self, MaskError> {
        let mut mask = Self::default();
        for (count, path) in paths.into_iter().enumerate() {
            if count >= PATHS_MAX {
                return Err(MaskError::TooMany(count + 1));
            }
            mask.add(path.as_ref())?;
        }
        Ok(mask)
    }

    /// Whether every field is wanted.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.root.0.is_empty()
    }

    /// A record with the wanted fields only.
    #[must_use]
    pub fn apply(&self, flow: &Flow) -> Flow {
        let Some(mut message) = dynamic(flow).filter(|_| !self.is_everything()) else {
            return flow.clone();
        };
        self.root.keep(&mut message);
        typed(&message).unwrap_or_default()
    }

    fn add(&mut self, path: &str) -> Result<(), MaskError> {
        let no_such = |field: &str| MaskError::NoSuchField {
            path: path.to_owned(),
            field: field.to_owned(),
        };
        let mut message: Option<MessageDescriptor> = descriptor::<Flow>();
        let mut numbers = Vec::new();
        for part in path.split('.') {
            let field = message
                .as_ref()
                .and_then(|m| m.get_field_by_name(part))
                .ok_or_else(|| no_such(part))?;
            numbers.push(field.number());
            message = match field.kind() {
                // What lies inside a list is not chosen.
                Kind::Message(inner) if !field.is_list() => Some(inner),
                _ => None,
            };
        }
        self.root.want(&numbers);
        Ok(())
    }
}

impl Wanted {
    fn want(&mut self, path: &[u32]) {
        let Some((&number, rest)) = path.split_first() else {
            // A shorter path wants all of what longer ones want parts of.
            self.0.clear();
            return;
        };
        match self.0.iter_mut().find(|(known, _)| *known == number) {
            Some((_, inside)) if !inside.0.is_empty() => inside.want(rest),
            Some(_) => {}
            None => {
                let mut inside = Self::default();
                inside.want(rest);
                self.0.push((number, inside));
            }
        }
    }

    fn keep(&self, message: &mut DynamicMessage) {
        let fields: Vec<_> = message.descriptor().fields().collect();
        for field in fields {
            match self.0.iter().find(|(number, _)| *number == field.number()) {
                None => message.clear_field(&field),
                Some((_, inside)) if !inside.0.is_empty() && message.has_field(&field) => {
                    if let Some(inner) = message.get_field_mut(&field).as_message_mut() {
                        inside.keep(inner);
                    }
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FieldMask;
    use crate::pb::flow::{Endpoint, Flow, Ip, Verdict};

    fn record() -> Flow {
        Flow {
            verdict: Verdict::Dropped.into(),
            ip: Some(Ip {
                source: "1.1.1.1".into(),
                destination: "2.2.2.2".into(),
                ..Ip::default()
            }),
            source: Some(Endpoint {
                id: 7,
                namespace: "ns".into(),
                pod_name: "pod".into(),
                ..Endpoint::default()
            }),
            node_name: "node".into(),
            ..Flow::default()
        }
    }

    #[test]
    fn only_wanted_fields_are_left() {
        let mask = FieldMask::new(["verdict", "source.namespace", "source.pod_name", "IP"]).unwrap();
        let masked = mask.apply(&record());
        assert_eq!(masked.node_name, "");
        let source = masked.source.unwrap();
        assert_eq!(
            (source.id, source.namespace.as_str(), source.pod_name.as_str()),
            (0, "ns", "pod")
        );
        assert_eq!(masked.ip, record().ip);
        assert_eq!(masked.verdict, record().verdict);
    }

    #[test]
    fn the_shorter_path_wins_in_either_order() {
        for paths in [["source", "source.pod_name"], ["source.pod_name", "source"]] {
            let masked = FieldMask::new(paths).unwrap().apply(&record());
            assert_eq!(masked.source, record().source);
        }
    }

    #[test]
    fn an_empty_mask_wants_everything() {
        assert_eq!(FieldMask::default().apply(&record()), record());
    }

    #[test]
    fn what_a_flow_does_not_have_is_an_error() {
        for path in [
            "",
            "no",
            "source.no",
            "verdict.x",
            "source.labels.x",
            "source..pod_name",
        ] {
            assert!(FieldMask::new([path]).is_err(), "{path}");
        }
        assert!(FieldMask::new(vec!["verdict"; 257]).is_err());
    }
}
