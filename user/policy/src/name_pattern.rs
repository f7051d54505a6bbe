//! Names with stars: `matchName` and `matchPattern` of DNS rules and toFQDNs, and `serverNames`.
//!
//! The two languages differ in `**`: in DNS patterns it means something only at the head (`**.` = one or more labels;
//! elsewhere it is one star), in server names it means one or more labels wherever it stands.

use std::fmt;

use regex_automata::meta::Regex;

/// Bytes of a name or pattern at most (the longest DNS name).
pub const NAME_BYTES_MAX: usize = 255;

/// A pattern for DNS names: lower case, with the final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamePattern(String);

impl NamePattern {
    /// An exact name (`matchName`).
    ///
    /// # Errors
    /// The reason: a character that no name has, or too long.
    pub fn name(text: &str) -> Result<Self, String> {
        Self::checked(text, false)
    }

    /// A name that may hold stars (`matchPattern`).
    ///
    /// # Errors
    /// The reason: a character that no pattern has, or too long.
    pub fn pattern(text: &str) -> Result<Self, String> {
        Self::checked(text, true)
    }

    /// What an empty rule (`{}`) comes to: the root name, or no name of a query at all.
    #[must_use]
    pub fn root() -> Self {
        Self(".".to_owned())
    }

    /// The pattern in its normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is stars only: every name.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        let stars = self.0.trim_end_matches('.');
        self.0.len() - stars.len() <= 1 && !stars.is_empty() && stars.bytes().all(|b| b == b'*')
    }

    /// Whether a name in normal form (see [`normal_name`]) matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if self.is_everything() {
            return name == "." || (name.ends_with('.') && name.split_terminator('.').all(is_label));
        }
        if let Some(rest) = self.0.strip_prefix("**").map(|r| r.trim_start_matches('*'))
            && rest.starts_with('.')
        {
            // One or more whole labels in front of what matches the rest.
            return name
                .match_indices('.')
                .skip_while(|(at, _)| *at == 0)
                .any(|(at, _)| name[..at].split('.').all(is_label) && glob(rest, &name[at..]));
        }
        glob(&self.0, name)
    }

    fn checked(text: &str, stars: bool) -> Result<Self, String> {
        if text.len() > NAME_BYTES_MAX {
            return Err(format!("has {} bytes, at most {NAME_BYTES_MAX} are taken", text.len()));
        }
        let valid = |c: char| c == '-' || c == '_' || c == '.' || c.is_ascii_alphanumeric() || (stars && c == '*');
        match text.chars().find(|c| !valid(*c)) {
            Some(c) if !c.is_ascii() => Err(format!(
                "holds {c:?}; write international names in their ASCII form (xn--…)"
            )),
            Some('*') => Err("holds a `*`; use matchPattern for names with stars".to_owned()),
            Some(c) => Err(format!("holds {c:?}, which no name has")),
            None => Ok(Self(normal_name(text))),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower case, with a final dot (an escaped dot at the end does not count as one).
#[must_use]
pub fn normal_name(name: &str) -> String {
    let mut normal = name.to_ascii_lowercase();
    if !ends_with_dot(name) {
        normal.push('.');
    }
    normal
}

/// Whether the name ends with a dot that is not escaped.
#[must_use]
pub fn ends_with_dot(name: &str) -> bool {
    name.strip_suffix('.').is_some_and(|rest| {
        let escapes = rest.len() - rest.trim_end_matches('\\').len();
        escapes % 2 == 0
    })
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(is_label_byte)
}

fn is_label_byte(b: u8) -> bool {
    b == b'-' || b == b'_' || b.is_ascii_alphanumeric()
}

/// Matches `*` (runs of stars count as one) against any number of label characters; everything else is itself.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let is_star = |&b: &u8| b == b'*';
    let (Some(first), Some(last)) = (pattern.iter().position(is_star), pattern.iter().rposition(is_star)) else {
        return pattern == name;
    };
    // What stands before the first star and behind the last one stands there in the name, too.
    let (head, tail) = (&pattern[..first], &pattern[last + 1..]);
    let Some(middle) = name.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)) else {
        return false;
    };
    let stars = &pattern[first..=last];
    if stars.iter().all(is_star) {
        middle.iter().copied().all(is_label_byte)
    } else {
        glob_between(stars, middle)
    }
}

/// The same by a table, for several stars. Takes time proportional to pattern × name, both of which are at most
/// [`NAME_BYTES_MAX`] long.
fn glob_between(pattern: &[u8], name: &[u8]) -> bool {
    // reached[j]: the pattern so far matches name[..j].
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for &p in pattern {
        if p == b'*' {
            for j in 0..name.len() {
                reached[j + 1] |= reached[j] && is_label_byte(name[j]);
            }
        } else {
            for j in (0..name.len()).rev() {
                reached[j + 1] = reached[j] && name[j] == p;
            }
            reached[0] = false;
        }
    }
    reached[name.len()]
}

/// A pattern of `serverNames`: lower case, no final dot, no runs of three stars.
#[derive(Clone, Debug)]
pub struct ServerNamePattern {
    text: String,
    regex: Regex,
}

impl ServerNamePattern {
    /// Reads one entry of `serverNames`.
    ///
    /// # Errors
    /// The reason: empty, a final dot, three stars in a row, or a character that no name has.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty server name is not allowed; write * for every name".to_owned());
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(format!("has {} bytes, at most {NAME_BYTES_MAX} are taken", text.len()));
        }
        if text.ends_with('.') {
            return Err("ends with a dot; clients send server names without it".to_owned());
        }
        if text.contains("***") {
            return Err("has three stars in a row; write * inside one label or ** for whole labels".to_owned());
        }
        if let Some(c) = text
            .chars()
            .find(|c| !(c.is_ascii() && (*c == '.' || *c == '*' || is_label_byte(*c as u8))))
        {
            return Err(format!("holds {c:?}, which no server name has"));
        }
        if text.split('.').any(str::is_empty) {
            return Err("has an empty label".to_owned());
        }
        let text = text.to_ascii_lowercase();
        let regex = Regex::new(&server_name_regex(&text)).map_err(|e| e.to_string())?;
        Ok(Self { text, regex })
    }

    /// The pattern in its normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the name that a client sent matches. No name matches nothing.
    #[must_use]
    pub fn matches(&self, server_name: &str) -> bool {
        !server_name.is_empty() && self.regex.is_match(&server_name.to_ascii_lowercase())
    }
}

fn server_name_regex(text: &str) -> String {
    if text == "*" || text == "**" {
        return r"\A.+\z".to_owned();
    }
    let mut regex = String::from(r"\A");
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = if rest.starts_with("**") {
            regex.push_str("[-a-z0-9_]+(?:[.][-a-z0-9_]+)*");
            2
        } else {
            match c {
                '*' => regex.push_str("[-a-z0-9_]*"),
                '.' => regex.push_str("[.]"),
                other => regex.push(other),
            }
            1
        };
        rest = &rest[taken..];
    }
    regex.push_str(r"\z");
    regex
}

impl PartialEq for ServerNamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ServerNamePattern {}

impl std::hash::Hash for ServerNamePattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::{glob, glob_between};
    use proptest::prelude::*;

    proptest! {
        /// The short way and the table say the same.
        #[test]
        fn a_pattern_matches_what_the_table_says(pattern in "[ab.*]{0,8}", name in "[ab.]{0,10}") {
            prop_assert_eq!(glob(&pattern, &name), glob_between(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
