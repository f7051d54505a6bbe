//! HTTP rules as written.

use super::Place;
use super::cilium::transpose;
use crate::automaton::Examined;
use crate::fields::Field;
use crate::http::{HeaderRule, Mismatch};

/// One item of `rules.http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRuleText {
    /// Where it stands.
    pub place: Place,
    /// `method`, a regular expression for all of it.
    pub method: Option<String>,
    /// `path`, a regular expression for all of it.
    pub path: Option<String>,
    /// `host`, a regular expression for all of it.
    pub host: Option<String>,
    /// `headers` and `headerMatches`.
    pub headers: Vec<HeaderRule>,
}

pub(super) fn rule(field: &Field<'_>) -> Option<HttpRuleText> {
    let mut object = field.object()?;
    let mut given = |name| object.optional(name).filter(|f| !f.is_empty_string());
    let (method, path, host_field) = (given("method"), given("path"), given("host"));
    let method = transpose(method.map(|f| regex(&f, &METHOD)));
    let path = transpose(path.map(|f| regex(&f, &PATH)));
    let host = transpose(host_field.as_ref().map(|f| regex(f, &HOST)));
    let headers = object
        .optional("headers")
        .map_or(Some(Vec::new()), |f| f.list_of(header));
    let matches = object
        .optional("headerMatches")
        .map_or(Some(Vec::new()), |f| f.list_of(header_match));
    object.finish();
    if let (Some(Some(host)), Some(field)) = (&host, &host_field) {
        warn_of_dots(field, host);
    }
    let mut headers = headers?;
    headers.extend(matches?);
    Some(HttpRuleText {
        place: Place::of(field),
        method: method?,
        path: path?,
        host: host?,
        headers,
    })
}

/// What a part of a request can look like at all: a pattern that matches no such text is a mistake.
struct Part {
    first: fn(u8) -> bool,
    further: fn(u8) -> bool,
    never: &'static str,
}

const METHOD: Part = Part {
    first: is_method_byte,
    further: is_method_byte,
    never: "matches no method: methods are written in capitals (GET)",
};

const PATH: Part = Part {
    // `*` is the path of `OPTIONS *`.
    first: |b| b == b'/' || b == b'*',
    further: |b| b.is_ascii_graphic() && b != b'#',
    never: "matches no path: a path begins with `/` and holds no space, scheme or host",
};

const HOST: Part = Part {
    first: is_host_byte,
    further: is_host_byte,
    never: "matches no host: a host is a name or address, perhaps with a port, without scheme and path",
};

fn is_method_byte(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)
}

fn regex(field: &Field<'_>, part: &Part) -> Option<String> {
    let text = field.string()?;
    if let Err(reason) = crate::pattern::check_syntax(text) {
        field.fail(reason);
        return None;
    }
    // After one pattern too many the document is refused anyway; the others are not worth the time to compile them.
    if field.log().has_bytes_left() {
        match Examined::new(text) {
            Ok(automaton) => {
                field.log().take_bytes(automaton.bytes());
                if !field.log().has_bytes_left() {
                    field.fail(format!(
                        "the regular expressions of this document need more than {} bytes together; split it",
                        crate::pattern::AUTOMATA_BYTES_MAX
                    ));
                    return None;
                }
                if text.is_ascii() && !automaton.matches_some(part.first, part.further) {
                    field.warn(part.never);
                }
            }
            Err(reason) => {
                field.log().take_bytes(usize::MAX);
                field.fail(reason);
                return None;
            }
        }
    }
    if !text.is_ascii() {
        field.warn("holds characters beyond ASCII, which no request holds unencoded: it can never match them");
    }
    Some(text.to_owned())
}

/// A host that reads like a plain name is still a regular expression.
fn warn_of_dots(field: &Field<'_>, host: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    if host.contains('.') && host.bytes().all(plain) {
        let exact = host.replace('.', "\\.");
        field.warn(format!(
            "each `.` matches any character, and a port would have to be matched too; exact is {exact}"
        ));
    }
}

/// `Name: value` or `Name value` demands the value, `Name` alone that the header is there.
fn header(field: &Field<'_>) -> Option<HeaderRule> {
    let text = field.string()?;
    let (name, value) = match text.split_once(' ') {
        Some((name, value)) => (name.trim_end_matches(':'), Some(value)),
        None => (text, None),
    };
    Some(HeaderRule {
        name: header_name(field, name)?,
        value: value.map(str::to_owned),
        mismatch: Mismatch::Fail,
    })
}

fn header_match(field: &Field<'_>) -> Option<HeaderRule> {
    let mut object = field.object()?;
    let name = object.required("name").and_then(|f| header_name(&f, f.string()?));
    let value = transpose(object.optional("value").map(|f| f.string().map(str::to_owned)));
    let secret = object.optional("secret");
    let mismatch = object.optional("mismatch");
    object.finish();
    if let Some(secret) = secret {
        secret.fail("secrets cannot be read yet; give the value in `value`");
        return None;
    }
    let mismatch = match mismatch.as_ref().map_or(Some(""), Field::string)? {
        "" => Mismatch::Fail,
        "LOG" => Mismatch::Log,
        action => {
            let reason = match action {
                "ADD" | "DELETE" | "REPLACE" => {
                    format!("{action} would rewrite requests, which is not possible yet; use LOG or leave it out")
                }
                _ => format!("unknown action {action:?}; known are LOG, ADD, DELETE, REPLACE"),
            };
            mismatch.as_ref().unwrap_or(field).fail(reason);
            return None;
        }
    };
    // An empty value is the same as none: presence.
    Some(HeaderRule {
        name: name?,
        value: value?.filter(|v| !v.is_empty()),
        mismatch,
    })
}

/// A header name in lower case.
fn header_name(field: &Field<'_>, name: &str) -> Option<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() {
        field.fail("the header's name is missing");
        return None;
    }
    if !name.bytes().all(token) {
        let hint = if name.contains(':') {
            "; a value stands behind `: ` or a space"
        } else {
            ""
        };
        field.fail(format!("{name:?} is not a header name{hint}"));
        return None;
    }
    Some(name.to_ascii_lowercase())
}
