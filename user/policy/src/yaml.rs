//! YAML (and JSON, which is YAML) to a tree with source positions, under budgets.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, MessageFormatter as _, Spanned, UserMessageFormatter};

/// Bytes of one document at most; the API server of Kubernetes takes about as many.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 2 << 20;
/// Nesting of one document at most.
pub(crate) const DEPTH_MAX: usize = 32;
/// Nodes of one document at most, aliases counted as often as they are used.
pub(crate) const NODES_MAX: usize = 200_000;

/// A document's text inside its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    pub(crate) text: &'a str,
    /// Line of the file on which the text begins, from 1.
    pub(crate) first_line: u32,
}

/// Cuts a stream at its `---` lines. In YAML these end a document wherever they stand, so a document that cannot be
/// parsed does not take the ones behind it along. Documents without content are left out.
pub(crate) fn split_documents(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut at, mut line) = (0, 1);
    for piece in text.split_inclusive('\n') {
        if is_separator(piece) && at > start {
            chunks.push(Chunk {
                text: &text[start..at],
                first_line: start_line,
            });
            (start, start_line) = (at, line);
        }
        at += piece.len();
        line += 1;
    }
    chunks.push(Chunk {
        text: &text[start..],
        first_line: start_line,
    });
    chunks.retain(|c| c.text.lines().any(has_content));
    chunks
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !(line.is_empty() || line.starts_with('#') || line == "...")
}

/// A value and where it was written; lines and columns count from 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// What YAML can say. Mappings keep their order; duplicate keys were refused by the parser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Node {
    fn shift(&mut self, lines: u32) {
        self.line += lines;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.shift(lines)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    key.line += lines;
                    value.shift(lines);
                }
            }
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::String(_) => {}
        }
    }
}

impl Value {
    /// Name of the type, for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a floating-point number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// Why a text is not YAML, or more of it than we take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) reason: String,
}

/// Parses one document of YAML 1.2 (`yes` and `on` are strings). Lines are those of the file.
pub(crate) fn parse(chunk: Chunk<'_>) -> Result<Node, SyntaxError> {
    let before = chunk.first_line.saturating_sub(1);
    match parse_text(chunk.text) {
        Ok(mut node) => {
            node.shift(before);
            Ok(node)
        }
        Err(error) => Err(SyntaxError {
            line: error.line + before,
            ..error
        }),
    }
}

fn parse_text(text: &str) -> Result<Node, SyntaxError> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let reason = format!(
            "the document has {} bytes, at most {DOCUMENT_BYTES_MAX} are taken",
            text.len()
        );
        return Err(SyntaxError {
            line: 1,
            column: 1,
            reason,
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: NODES_MAX,
            max_documents: 1,
            max_total_scalar_bytes: DOCUMENT_BYTES_MAX,
            max_merge_keys: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((1, 1), |l| (clamp(l.line()), clamp(l.column())));
        SyntaxError {
            line,
            column,
            reason: reason(error.without_snippet()),
        }
    })
}

/// In the words of a document's author, without the place, which the finding has.
fn reason(error: &Error) -> String {
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the field `{key}` is there twice"),
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Depth { .. } => format!("nested deeper than {DEPTH_MAX} levels"),
            BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } | BudgetBreach::RecordedAnchorEvents { .. } => {
                format!("holds more than {NODES_MAX} values")
            }
            BudgetBreach::Documents { .. } => {
                "a further document begins here; write `---` on a line of its own before it".to_owned()
            }
            other => format!("more than is taken from one document: {other:?}"),
        },
        // Of a stream with aliases in aliases, the library has other errors for the same thing.
        other
            if UserMessageFormatter
                .format_message(other)
                .starts_with("YAML document too large") =>
        {
            format!(
                "too large or too complex: holds more than {NODES_MAX} values (an alias counts as all that it stands for), or \
             aliases that stand for each other too deeply"
            )
        }
        other => {
            let text = UserMessageFormatter.format_message(other).into_owned();
            match text.rsplit_once(" at line ") {
                Some((reason, place)) if place.contains("column") => reason.to_owned(),
                _ => text,
            }
        }
    }
}

fn clamp(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Self {
            value: spanned.value,
            line: clamp(at.line()),
            column: clamp(at.column()),
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Value, E> {
        Ok(Value::Integer(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, Node>()? {
            let at = key.referenced;
            entries.push((
                Key {
                    name: key.value,
                    line: clamp(at.line()),
                    column: clamp(at.column()),
                },
                value,
            ));
        }
        Ok(Value::Map(entries))
    }
}
