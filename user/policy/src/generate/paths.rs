//! Paths that differ in a parameter are one.

use std::collections::BTreeMap;

use regex_syntax::escape;

/// Bytes of a path at most.
const PATH_BYTES_MAX: usize = 2048;
/// Hexadecimal digits from which on they are taken for a number of something.
const HEX_MIN: usize = 16;

/// A part of a path between slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Digits,
    Uuid,
    Hex,
    /// Something, but not nothing.
    Any,
}

/// A tree of paths by their segments.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    below: BTreeMap<Segment, Paths>,
    /// A path ends here, and whether one of them had a query.
    ends: Option<bool>,
}

impl Segment {
    fn of(text: &str) -> Self {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            Self::Digits
        } else if is_uuid(text) {
            Self::Uuid
        } else if text.len() >= HEX_MIN && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Self::Hex
        } else {
            Self::Literal(text.to_owned())
        }
    }

    fn pattern(&self) -> String {
        match self {
            Self::Literal(text) => escape(text),
            Self::Digits => "[0-9]+".to_owned(),
            Self::Uuid => "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
            Self::Hex => format!("[0-9a-fA-F]{{{HEX_MIN},}}"),
            Self::Any => "[^/?]+".to_owned(),
        }
    }
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

impl Paths {
    /// Whether a rule can name the request.
    pub(super) fn takes(method: &str, path: &str) -> bool {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        !method.is_empty() && method.len() <= 64 && plain(method) && path.len() <= PATH_BYTES_MAX && plain(path)
    }

    pub(super) fn insert(&mut self, path: &str) {
        let (path, query) = match path.split_once('?') {
            Some((path, _)) => (path, true),
            None => (path, false),
        };
        let mut at = self;
        for segment in path.split('/') {
            at = at.below.entry(Segment::of(segment)).or_default();
        }
        at.ends = Some(query || at.ends.unwrap_or(false));
    }

    /// More than so many different texts side by side are a parameter, and so is what stands beside them.
    pub(super) fn fold(&mut self, siblings_max: usize) {
        let empty = Segment::Literal(String::new());
        let is_text = |segment: &&Segment| matches!(segment, Segment::Literal(_)) && **segment != empty;
        if self.below.keys().filter(is_text).count() > siblings_max {
            let mut any = Self::default();
            for (segment, below) in std::mem::take(&mut self.below) {
                if segment == empty {
                    self.below.insert(segment, below);
                } else {
                    any.merge(below);
                }
            }
            self.below.insert(Segment::Any, any);
        }
        for below in self.below.values_mut() {
            below.fold(siblings_max);
        }
    }

    fn merge(&mut self, other: Self) {
        if let Some(query) = other.ends {
            self.ends = Some(query || self.ends.unwrap_or(false));
        }
        for (segment, below) in other.below {
            self.below.entry(segment).or_default().merge(below);
        }
    }

    /// A regular expression for each path.
    pub(super) fn patterns(&self) -> Vec<String> {
        let mut patterns = Vec::new();
        for (segment, below) in &self.below {
            below.collect(segment.pattern(), &mut patterns);
        }
        patterns
    }

    fn collect(&self, so_far: String, patterns: &mut Vec<String>) {
        for (segment, below) in &self.below {
            below.collect(format!("{so_far}/{}", segment.pattern()), patterns);
        }
        if let Some(query) = self.ends {
            patterns.push(if query { so_far + "(\\?.*)?" } else { so_far });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Paths;

    fn patterns(paths: &[&str], siblings_max: usize) -> Vec<String> {
        let mut tree = Paths::default();
        for path in paths {
            tree.insert(path);
        }
        tree.fold(siblings_max);
        tree.patterns()
    }

    #[test]
    fn numbers_of_things_are_parameters() {
        let uuid = "/user/123e4567-e89b-12d3-a456-426614174000";
        assert_eq!(patterns(&["/user/1/pets", "/user/22/pets"], 9), ["/user/[0-9]+/pets"]);
        assert_eq!(
            patterns(&[uuid], 9),
            ["/user/[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"]
        );
        assert_eq!(patterns(&["/x/0123456789abcdef"], 9), ["/x/[0-9a-fA-F]{16,}"]);
        assert_eq!(patterns(&["/x/0123456789abcde"], 9), ["/x/0123456789abcde"]);
        assert_eq!(patterns(&["/v1.0/a+b", "/"], 9), ["/", "/v1\\.0/a\\+b"]);
    }

    #[test]
    fn many_siblings_are_a_parameter_but_the_empty_one_is_not() {
        let three = ["/p/a", "/p/b", "/p/c/x", "/p/7", "/p/"];
        assert_eq!(patterns(&three, 3).len(), 5);
        assert_eq!(patterns(&three, 2), ["/p/", "/p/[^/?]+/x", "/p/[^/?]+"]);
    }

    #[test]
    fn a_query_is_any_query() {
        assert_eq!(patterns(&["/q?a=1", "/q", "/r"], 9), ["/q(\\?.*)?", "/r"]);
    }
}
