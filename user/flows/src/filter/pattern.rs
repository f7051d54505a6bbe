//! Patterns: regular expressions, and names with stars.

use std::fmt::Write as _;

use regex_automata::meta::Regex;

use super::{FilterError, error};

/// Bytes of a regular expression at most.
pub(super) const PATTERN_BYTES_MAX: usize = 4096;
/// Bytes of what becomes of it at most.
const PROGRAM_BYTES_MAX: usize = 1 << 20;
/// Bytes of what becomes of all regular expressions of a set at most.
const PROGRAMS_BYTES_MAX: usize = 4 << 20;
/// Bytes that matching one may keep for the next match, for each way through a text.
const CACHE_BYTES_MAX: usize = 64 << 10;

/// Any name, for the empty part of a node pattern.
const ANY_NAME: &str = r"(?:[-0-9_a-z]+(?:\.[-0-9_a-z]+)*)";
/// The cluster of a node that names none.
const CLUSTER_DEFAULT: &str = "default";

/// What the regular expressions of a set may still take.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(PROGRAMS_BYTES_MAX)
    }
}

/// A regular expression that is searched for, not anchored.
pub(super) fn regex(field: &'static str, pattern: &str, room: &mut Room) -> Result<Regex, FilterError> {
    if pattern.len() > PATTERN_BYTES_MAX {
        let reason = format!(
            "a pattern of {} bytes; at most {PATTERN_BYTES_MAX} are read",
            pattern.len()
        );
        return Err(error(field, reason));
    }
    let config = Regex::config()
        .nfa_size_limit(Some(PROGRAM_BYTES_MAX))
        .onepass_size_limit(Some(PROGRAM_BYTES_MAX))
        .hybrid_cache_capacity(CACHE_BYTES_MAX);
    let regex = Regex::builder().configure(config).build(pattern).map_err(|e| {
        error(
            field,
            format!(
                "`{pattern}`: {}",
                e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string)
            ),
        )
    })?;
    room.0 = room.0.checked_sub(regex.memory_usage()).ok_or_else(|| {
        let reason = format!("the patterns of all filters together are too large (over {PROGRAMS_BYTES_MAX} bytes)");
        error(field, reason)
    })?;
    Ok(regex)
}

/// One expression for names with stars, such as `*.cilium.io`; a star stands for letters, digits, dots and hyphens.
///
/// # Errors
/// What is wrong with a pattern.
pub fn name_pattern<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
    joined(patterns, append_name)
}

/// The same for nodes: `node`, `cluster/node`, `cluster/`, `/node`.
///
/// # Errors
/// What is wrong with a pattern.
pub fn node_pattern<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
    joined(patterns, append_node)
}

/// A node with its cluster; `None` if it has no name.
pub(crate) fn full_node_name(name: &str) -> Option<String> {
    match name {
        "" => None,
        name if name.contains('/') => Some(name.to_owned()),
        name => Some(format!("{CLUSTER_DEFAULT}/{name}")),
    }
}

fn joined<'a>(
    patterns: impl IntoIterator<Item = &'a str>,
    append: impl Fn(&mut String, &str) -> Result<(), String>,
) -> Result<String, String> {
    let mut out = String::from(r"\A(?:");
    for (index, pattern) in patterns.into_iter().enumerate() {
        if index > 0 {
            out.push('|');
        }
        append(&mut out, pattern)?;
    }
    out.push_str(r")\z");
    Ok(out)
}

fn append_name(out: &mut String, pattern: &str) -> Result<(), String> {
    let pattern = pattern.trim();
    let pattern = pattern.strip_suffix('.').unwrap_or(pattern).to_lowercase();
    if pattern.is_empty() {
        return Err("empty pattern".to_owned());
    }
    if pattern.ends_with('.') {
        return Err(format!("`{pattern}.`: multiple trailing dots in pattern"));
    }
    for c in pattern.chars() {
        match c {
            '.' => out.push_str(r"\."),
            '*' => out.push_str("[-.0-9a-z]*"),
            '-' | '_' | '0'..='9' | 'a'..='z' => out.push(c),
            // Writing to a string does not fail; the words are Hubble's.
            other => {
                let mut reason = String::new();
                let _ = write!(reason, "{other:?}: invalid rune in pattern");
                return Err(reason);
            }
        }
    }
    Ok(())
}

fn append_node(out: &mut String, pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("empty pattern".to_owned());
    }
    let (cluster, node) = pattern.split_once('/').unwrap_or(("", pattern));
    if node.contains('/') {
        return Err(format!("`{pattern}`: too many slashes in pattern"));
    }
    for (index, part) in [cluster, node].into_iter().enumerate() {
        if index > 0 {
            out.push('/');
        }
        if part.is_empty() {
            out.push_str(ANY_NAME);
        } else {
            append_name(out, part)?;
        }
    }
    Ok(())
}
