//! The path as policy matches it.

use super::HttpFault;
use std::borrow::Cow;

/// Brings an origin-form target (`/path[?query]`) to the form that policy matches. Borrowed if it is in that form
/// already, which nearly every request is.
///
/// Changed: percent-encoded unreserved characters are decoded and other escapes written in upper case (RFC 3986
/// §6.2.2.1–2), `.` and `..` segments are removed (§5.2.4), runs of slashes are merged. The query is taken as it is.
///
/// # Errors
/// [`HttpFault::AmbiguousPath`] for paths that servers are known to read in more than one way: an escape that is not two
/// hex digits, an escaped slash, backslash, dot, percent sign before two hex digits (double encoding), NUL or other
/// control; a raw backslash or other character that no URI holds; `..` above the root; dot segments with path
/// parameters (`/..;x/`); dot segments and empty segments in one path (merging first or removing first differ); a
/// fragment.
pub fn normalise_path(target: &str) -> Result<Cow<'_, str>, HttpFault> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    if !path.starts_with('/') || query.contains('#') {
        return Err(HttpFault::AmbiguousPath);
    }
    if is_normal(path.as_bytes())? {
        return Ok(Cow::Borrowed(target));
    }
    let mut normal = merge_segments(&decode(path.as_bytes())?)?;
    normal.push_str(query);
    Ok(Cow::Owned(normal))
}

/// Whether the path needs no change. False alarms (`/.well-known`) only cost the slow way.
fn is_normal(path: &[u8]) -> Result<bool, HttpFault> {
    let mut normal = true;
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' => normal = false,
            b'/' | b'.' if previous == b'/' => normal = false,
            _ if is_path_byte(byte) => {}
            _ => return Err(HttpFault::AmbiguousPath),
        }
        previous = byte;
    }
    Ok(normal)
}

/// `pchar` and `/` of RFC 3986 §3.3, and the four characters that browsers send in paths unescaped.
const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
        )
        || matches!(byte, b':' | b'@' | b'/' | b'[' | b']' | b'|' | b'^')
}

/// Decodes escaped unreserved characters and refuses escapes that change the structure.
fn decode(path: &[u8]) -> Result<String, HttpFault> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(char::from(byte));
            continue;
        }
        let (value, after) = escape(rest).ok_or(HttpFault::AmbiguousPath)?;
        rest = after;
        match value {
            b'/' | b'\\' | b'.' => return Err(HttpFault::AmbiguousPath),
            _ if super::is_control(value) => return Err(HttpFault::AmbiguousPath),
            b'-' | b'_' | b'~' => out.push(char::from(value)),
            _ if value.is_ascii_alphanumeric() => out.push(char::from(value)),
            _ => {
                out.push('%');
                out.extend(
                    [value >> 4, value & 0x0f].map(|d| char::from(if d < 10 { b'0' + d } else { b'A' + d - 10 })),
                );
            }
        }
    }
    if is_escaped_twice(&out) {
        Err(HttpFault::AmbiguousPath)
    } else {
        Ok(out)
    }
}

/// Whether a second decoding would find an escape. Asked after decoding: `%25%34%31` is one as well.
fn is_escaped_twice(path: &str) -> bool {
    path.split("%25")
        .skip(1)
        .any(|after| escape(after.as_bytes()).is_some())
}

/// Value of two hex digits, and what follows them.
fn escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = bytes.split_first_chunk()?;
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some((digit(*high)? << 4 | digit(*low)?, rest))
}

fn merge_segments(path: &str) -> Result<String, HttpFault> {
    let mut kept: Vec<&str> = Vec::new();
    let (mut empty, mut dots) = (false, false);
    let mut segments = path.split('/').skip(1).peekable();
    let mut directory = false;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" if last => directory = true,
            "" => empty = true,
            "." | ".." => {
                dots = true;
                directory = last;
                if segment == ".." && kept.pop().is_none() {
                    return Err(HttpFault::AmbiguousPath);
                }
            }
            _ if has_dot_parameters(segment) => return Err(HttpFault::AmbiguousPath),
            _ => kept.push(segment),
        }
    }
    if empty && dots {
        return Err(HttpFault::AmbiguousPath);
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if directory || kept.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// `.;x`, `..;x`, also with the semicolon escaped: a dot segment for servers that cut parameters off first.
fn has_dot_parameters(segment: &str) -> bool {
    let tail = segment.trim_start_matches('.');
    let dots = segment.len() - tail.len();
    (1..=2).contains(&dots) && (tail.starts_with(';') || tail.starts_with("%3B"))
}

#[cfg(test)]
mod tests {
    use super::normalise_path;
    use crate::http1::HttpFault;
    use std::borrow::Cow;

    #[test]
    fn paths_in_normal_form_are_borrowed() {
        for path in ["/", "/a/b.c", "/a;v=1/b@c:d", "/x?y=//../%zz", "/a/", "/?", "/a|b[0]^c"] {
            assert!(
                matches!(normalise_path(path), Ok(Cow::Borrowed(p)) if p == path),
                "{path}"
            );
        }
    }

    #[test]
    fn equivalent_paths_have_one_form() {
        for (path, normal) in [
            ("/%61dmin", "/admin"),
            ("/%7euser/%C3%a9", "/~user/%C3%A9"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/./", "/"),
            ("//a///b//", "/a/b/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/100%25", "/100%25"),
            ("/a%3fb", "/a%3Fb"),
            ("/%41?%41", "/A?%41"),
        ] {
            assert_eq!(normalise_path(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn paths_with_two_meanings_are_refused() {
        for path in [
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/%2e%2e/x",
            "/a/%2e",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/%",
            "/%4",
            "/%zz",
            "/%u0041",
            "/%252e",
            "/%25b%41",
            "/%25%34%31",
            "/..",
            "/a/../../b",
            "/..;/x",
            "/.;a=b/x",
            "/..%3b/x",
            "/a//../b",
            "/a//./b",
            "/a#b",
            "/a?b#c",
            "/a\"b",
            "/<a>",
            "/a`b",
            "/{a}",
            "a",
            "",
        ] {
            assert_eq!(normalise_path(path), Err(HttpFault::AmbiguousPath), "{path}");
        }
    }
}
