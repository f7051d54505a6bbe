//! Strict reading of a parsed document: every field must be taken by somebody, every mistake is noted with its path and
//! reading goes on, so that one look shows all of them.

use std::cell::{Cell, RefCell};

use crate::finding::Severity;
use crate::yaml::{Key, Node, Value};

/// Faults noted for one document at most; the rest would only hide the first ones.
const FAULTS_MAX: usize = 100;

/// A mistake or a trap at a place of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) severity: Severity,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) field: String,
    pub(crate) reason: String,
}

/// Collects what is wrong with one document.
#[derive(Debug, Default)]
pub(crate) struct Log {
    faults: RefCell<Vec<Fault>>,
    /// Bytes that the patterns read so far compile to.
    pattern_bytes: Cell<usize>,
}

impl Log {
    pub(crate) fn has_errors(&self) -> bool {
        self.faults.borrow().iter().any(|f| f.severity == Severity::Error)
    }

    /// Adds what a pattern compiles to.
    pub(crate) fn take_bytes(&self, bytes: usize) {
        self.pattern_bytes.set(self.pattern_bytes.get().saturating_add(bytes));
    }

    /// Whether more patterns may be compiled for this document.
    pub(crate) fn has_bytes_left(&self) -> bool {
        self.pattern_bytes.get() <= crate::pattern::AUTOMATA_BYTES_MAX
    }

    pub(crate) fn into_faults(self) -> Vec<Fault> {
        self.faults.into_inner()
    }

    fn note(&self, fault: Fault) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_MAX {
            faults.push(fault);
        } else if fault.severity == Severity::Error
            && let Some(warning) = faults.iter_mut().find(|f| f.severity == Severity::Warning)
        {
            *warning = fault;
        }
    }
}

/// A value with the path that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    node: &'a Node,
    path: String,
    log: &'a Log,
}

impl<'a> Field<'a> {
    /// The value at a path that others found.
    pub(crate) fn at(node: &'a Node, path: &str, log: &'a Log) -> Self {
        Self {
            node,
            path: path.to_owned(),
            log,
        }
    }

    /// Whether it is an object in which a field has this text; notes nothing.
    pub(crate) fn says(&self, name: &str, text: &str) -> bool {
        let Value::Map(entries) = &self.node.value else {
            return false;
        };
        entries
            .iter()
            .any(|(key, node)| key.name == name && node.value == Value::String(text.to_owned()))
    }

    pub(crate) fn log(&self) -> &'a Log {
        self.log
    }

    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    pub(crate) fn root(node: &'a Node, log: &'a Log) -> Self {
        Self {
            node,
            path: String::new(),
            log,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn line(&self) -> u32 {
        self.node.line
    }

    /// Notes an error here.
    pub(crate) fn fail(&self, reason: impl Into<String>) {
        self.note(Severity::Error, reason.into());
    }

    /// Notes a warning here.
    pub(crate) fn warn(&self, reason: impl Into<String>) {
        self.note(Severity::Warning, reason.into());
    }

    fn note(&self, severity: Severity, reason: String) {
        let (line, column) = (self.node.line, self.node.column);
        self.log.note(Fault {
            severity,
            line,
            column,
            field: self.path.clone(),
            reason,
        });
    }

    pub(crate) fn string(&self) -> Option<&'a str> {
        if let Value::String(text) = &self.node.value {
            return Some(text);
        }
        let hint = if matches!(self.node.value, Value::List(_) | Value::Map(_)) {
            ""
        } else {
            "; write it in quotes"
        };
        self.fail(format!("must be a string, not {}{hint}", self.node.value.type_name()));
        None
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            ref other => {
                self.fail(format!("must be true or false, not {}", other.type_name()));
                None
            }
        }
    }

    /// An integer between the bounds, both included.
    pub(crate) fn integer(&self, min: i64, max: i64) -> Option<i64> {
        match self.node.value {
            Value::Integer(value) => match i64::try_from(value) {
                Ok(value) if (min..=max).contains(&value) => Some(value),
                _ => {
                    self.fail(format!("must lie between {min} and {max}, is {value}"));
                    None
                }
            },
            ref other => {
                self.fail(format!("must be an integer, not {}", other.type_name()));
                None
            }
        }
    }

    /// A scalar that may be an integer or a string.
    pub(crate) fn integer_or_string(&self) -> Option<Scalar<'a>> {
        match &self.node.value {
            Value::Integer(value) => Some(Scalar::Integer(*value)),
            Value::String(text) => Some(Scalar::String(text)),
            other => {
                self.fail(format!("must be an integer or a string, not {}", other.type_name()));
                None
            }
        }
    }

    pub(crate) fn list(&self) -> Option<Vec<Field<'a>>> {
        let Value::List(items) = &self.node.value else {
            self.fail(format!("must be a list, not {}", self.node.value.type_name()));
            return None;
        };
        let field = |(i, node)| Field {
            node,
            path: format!("{}[{i}]", self.path),
            log: self.log,
        };
        Some(items.iter().enumerate().map(field).collect())
    }

    /// Whether the value is a list without items.
    pub(crate) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// Whether the value is the empty string, which Kubernetes' API takes as absent.
    pub(crate) fn is_empty_string(&self) -> bool {
        matches!(&self.node.value, Value::String(text) if text.is_empty())
    }

    /// Reads every item; `None` if the value is no list or any item cannot be read.
    pub(crate) fn list_of<T>(&self, read: impl FnMut(&Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        let items: Vec<Option<T>> = self.list()?.iter().map(read).collect();
        items.into_iter().collect()
    }

    pub(crate) fn object(&self) -> Option<Object<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.fail(format!("must be an object, not {}", self.node.value.type_name()));
            return None;
        };
        Some(Object {
            field: self.clone(),
            entries,
            taken: vec![false; entries.len()],
            names: Vec::new(),
        })
    }
}

/// See [`Field::integer_or_string`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Integer(i128),
    String(&'a str),
}

/// A mapping whose fields are taken by name. [`Object::finish`] must be called: it notes what nobody took.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    field: Field<'a>,
    entries: &'a [(Key, Node)],
    taken: Vec<bool>,
    names: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// The mapping itself, for faults about it as a whole.
    pub(crate) fn field(&self) -> &Field<'a> {
        &self.field
    }

    /// A field that may be absent. An explicit null is absence, as in Kubernetes; that may not be what was meant.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.names.push(name);
        let at = self.entries.iter().position(|(key, _)| key.name == name)?;
        self.taken[at] = true;
        let field = self.child(name, &self.entries[at].1);
        if field.node.value != Value::Null {
            return Some(field);
        }
        let selects_peers = ["from", "to"].iter().any(|side| name.starts_with(side)) && name != "toPorts";
        field.warn(match selects_peers {
            true => "has no value, which is the same as leaving it out: everybody is meant (`[]` means nobody)",
            false => "has no value, which is the same as leaving it out",
        });
        None
    }

    /// A field that must be there.
    pub(crate) fn required(&mut self, name: &'static str) -> Option<Field<'a>> {
        let field = self.optional(name);
        if field.is_none() {
            self.field.fail(format!("the field `{name}` is missing"));
        }
        field
    }

    /// Every entry, as a map from free names.
    pub(crate) fn all(mut self) -> Vec<(&'a Key, Field<'a>)> {
        self.taken.fill(true);
        self.entries
            .iter()
            .map(|(key, node)| (key, self.child(&key.name, node)))
            .collect()
    }

    /// Takes a field whose content nobody reads, because others own it (`status`, `metadata.annotations`, …).
    pub(crate) fn ignore(&mut self, name: &'static str) {
        self.names.push(name);
        if let Some(at) = self.entries.iter().position(|(key, _)| key.name == name) {
            self.taken[at] = true;
        }
    }

    /// Notes every field that was not taken.
    pub(crate) fn finish(self) {
        for ((key, _), _) in self.entries.iter().zip(&self.taken).filter(|(_, taken)| !**taken) {
            let mut reason = String::from("unknown field");
            if let Some(near) = nearest(&key.name, &self.names) {
                reason = format!("unknown field; did you mean `{near}`?");
            }
            self.field.log.note(Fault {
                severity: Severity::Error,
                line: key.line,
                column: key.column,
                field: join(&self.field.path, &key.name),
                reason,
            });
        }
    }

    fn child(&self, name: &str, node: &'a Node) -> Field<'a> {
        Field {
            node,
            path: join(&self.field.path, name),
            log: self.field.log,
        }
    }
}

fn join(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (path.is_empty(), plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}

/// The known name that a mistyped one is closest to, if it is close at all.
pub(crate) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|k| (edit_distance(&name.to_ascii_lowercase(), &k.to_ascii_lowercase()), *k))
        .min()
        .filter(|(distance, k)| *distance <= 2 && *distance < k.len())
        .map(|(_, k)| k)
}

/// Levenshtein distance; names longer than 64 bytes are far from everything.
fn edit_distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
