//! JSON as Hubble's clients write and read it: the JSON mapping of protobuf with the names of the .proto files, fields in
//! the order in which they stand there, and nothing in it that a terminal could take for a command.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use prost_reflect::{
    Cardinality, DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};

use crate::descriptors::{Described, descriptor, descriptors, dynamic, typed};

/// Why JSON cannot be read as a message.
#[derive(Debug, thiserror::Error)]
#[error("not a {message}: {reason}")]
pub struct JsonError {
    /// Full name of the message.
    message: &'static str,
    /// Line, column and what is wrong there.
    reason: String,
}

/// What happens to a field that the message does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// The text is refused: for what people write.
    Refuse,
    /// It is passed over: for records that another program wrote.
    PassOver,
}

/// One line, without its end.
#[must_use]
pub fn to_json<M: Described>(message: &M) -> String {
    let mut out = String::with_capacity(512);
    match dynamic(message) {
        Some(message) => write_message(&message, &mut out),
        None => out.push_str("{}"),
    }
    out
}

/// Reads one message.
///
/// # Errors
/// It is not JSON, or not of this message.
pub fn from_json<M: Described>(text: &str, unknown: UnknownFields) -> Result<M, JsonError> {
    let error = |reason: String| JsonError {
        message: M::NAME,
        reason,
    };
    let descriptor = descriptor::<M>().ok_or_else(|| error("no descriptor".to_owned()))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == UnknownFields::Refuse);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut reader, &options)
        .map_err(|e| error(e.to_string()))?;
    reader.end().map_err(|e| error(e.to_string()))?;
    typed(&message).ok_or_else(|| error("a value is out of its range".to_owned()))
}

/// Fields of every message in the order of the files; their reflection knows them by number only.
static ORDER: LazyLock<HashMap<String, Vec<FieldDescriptor>>> = LazyLock::new(|| {
    let in_order = |message: &MessageDescriptor| {
        let fields = message.descriptor_proto().field.iter();
        fields
            .filter_map(|field| message.get_field(u32::try_from(field.number()).ok()?))
            .collect()
    };
    descriptors()
        .all_messages()
        .map(|message| (message.full_name().to_owned(), in_order(&message)))
        .collect()
});

fn write_message(message: &DynamicMessage, out: &mut String) {
    let descriptor = message.descriptor();
    if descriptor.full_name().starts_with("google.protobuf.") {
        return write_well_known(message, out);
    }
    out.push('{');
    let mut first = true;
    for field in ORDER.get(descriptor.full_name()).into_iter().flatten() {
        if !message.has_field(field) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        write_string(field.name(), out);
        out.push(':');
        write_field(field, &message.get_field(field), out);
    }
    out.push('}');
}

/// Timestamps, wrappers, masks: their JSON is a form of their own.
fn write_well_known(message: &DynamicMessage, out: &mut String) {
    match serde_json::to_value(message) {
        Ok(value) => write_value(&value, out),
        // An `Any` of a type that is not ours.
        Err(_) => out.push_str("{}"),
    }
}

fn write_value(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::String(text) => write_string(text, out),
        other => out.push_str(&other.to_string()),
    }
}

fn write_field(field: &FieldDescriptor, value: &Value, out: &mut String) {
    match value {
        Value::List(items) if field.cardinality() == Cardinality::Repeated => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_one(&field.kind(), item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => write_map(field, entries, out),
        one => write_one(&field.kind(), one, out),
    }
}

fn write_map(field: &FieldDescriptor, entries: &HashMap<MapKey, Value>, out: &mut String) {
    let Kind::Message(entry) = field.kind() else { return };
    out.push('{');
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        match key {
            MapKey::String(text) => write_string(text, out),
            other => write_string(&format!("{:?}", Value::from(other.clone())), out),
        }
        out.push(':');
        write_one(&entry.map_entry_value_field().kind(), value, out);
    }
    out.push('}');
}

fn write_one(kind: &Kind, value: &Value, out: &mut String) {
    // Writing to a string does not fail.
    let _ = match value {
        Value::Bool(value) => write!(out, "{value}"),
        Value::I32(value) => write!(out, "{value}"),
        Value::U32(value) => write!(out, "{value}"),
        // As text: JavaScript's numbers are too small.
        Value::I64(value) => write!(out, "\"{value}\""),
        Value::U64(value) => write!(out, "\"{value}\""),
        Value::F32(value) => return write_float(f64::from(*value), out),
        Value::F64(value) => return write_float(*value, out),
        Value::String(text) => return write_string(text, out),
        Value::EnumNumber(number) => return write_enum(kind, *number, out),
        Value::Message(message) => return write_message(message, out),
        Value::Bytes(_) | Value::List(_) | Value::Map(_) => {
            // No field of ours is of such a kind.
            out.push_str("null");
            return;
        }
    };
}

fn write_float(value: f64, out: &mut String) {
    let _ = if value.is_finite() {
        write!(out, "{value}")
    } else if value.is_nan() {
        write!(out, "\"NaN\"")
    } else {
        write!(out, "\"{}Infinity\"", if value < 0.0 { "-" } else { "" })
    };
}

/// The name; the number if a newer program wrote it.
fn write_enum(kind: &Kind, number: i32, out: &mut String) {
    let name = |descriptor: &EnumDescriptor| descriptor.get_value(number).map(|value| value.name().to_owned());
    match kind.as_enum().and_then(name) {
        Some(name) => write_string(&name, out),
        None => {
            let _ = write!(out, "{number}");
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if crate::safe_text::is_hostile(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::{UnknownFields, from_json, to_json};
    use crate::pb::flow::{self, Flow, FlowFilter};
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_read_strictly_and_what_programs_wrote_is_not() {
        let text = r#"{"source_pod":["a"],"no_such_field":1}"#;
        let refused = from_json::<FlowFilter>(text, UnknownFields::Refuse).unwrap_err();
        assert!(refused.to_string().contains("no_such_field"), "{refused}");
        let read = from_json::<FlowFilter>(text, UnknownFields::PassOver).unwrap();
        assert_eq!(read.source_pod, ["a"]);
        assert!(from_json::<FlowFilter>("{} {}", UnknownFields::PassOver).is_err());
        assert!(from_json::<FlowFilter>("[]", UnknownFields::PassOver).is_err());
    }

    #[test]
    fn a_number_that_no_name_stands_for_is_written_as_number() {
        let record = Flow {
            verdict: 99,
            ..Flow::default()
        };
        assert_eq!(to_json(&record), r#"{"verdict":99}"#);
        assert_eq!(
            from_json::<Flow>(r#"{"verdict":99}"#, UnknownFields::Refuse).unwrap(),
            record
        );
    }

    #[test]
    fn our_own_fields_stand_in_their_places() {
        let tls = flow::Tls {
            sni: "a.b".into(),
            version: "TLS 1.3".into(),
            alpn: vec!["h2".into()],
            ech: true,
            quic: true,
        };
        let record = Flow {
            l7: Some(flow::Layer7 {
                r#type: flow::L7FlowType::Request.into(),
                latency_ns: 0,
                record: Some(flow::layer7::Record::Tls(tls)),
            }),
            ..Flow::default()
        };
        let text =
            r#"{"l7":{"type":"REQUEST","tls":{"sni":"a.b","version":"TLS 1.3","alpn":["h2"],"ech":true,"quic":true}}}"#;
        assert_eq!(to_json(&record), text);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_and_nothing_hostile_is_in_the_line(url in ".*", latency_ns: u64, code: u32) {
            let http = flow::Http { url, code, ..flow::Http::default() };
            let record = Flow {
                l7: Some(flow::Layer7 { latency_ns, record: Some(flow::layer7::Record::Http(http)), ..flow::Layer7::default() }),
                is_reply: Some(false),
                ..Flow::default()
            };
            let line = to_json(&record);
            prop_assert!(!line.chars().any(crate::safe_text::is_hostile), "{line:?}");
            prop_assert_eq!(from_json::<Flow>(&line, UnknownFields::Refuse).unwrap(), record);
        }
    }
}
