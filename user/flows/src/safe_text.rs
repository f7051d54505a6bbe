//! Strings of strangers on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a terminal could take the character for a command, or a reader could be shown another order than there is:
/// control characters (C0, DEL, C1) and those that turn the direction of writing, hide, or end lines.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with hostile characters in other words: ESC as Hubble's `[^`, line ends and the like as in Rust, others by number.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\u{1b}' => out.push_str("[^"),
            '\r' => out.push_str("\\r"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_hostile(c) => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::{is_hostile, printable};

    #[test]
    fn commands_for_a_terminal_become_words() {
        assert_eq!(
            printable("/a\u{1b}[2J\r\n\u{9b}31m\u{7f}"),
            "/a[^[2J\\r\\n\\u{9b}31m\\u{7f}"
        );
        assert_eq!(printable("gpj.exe\u{202e}"), "gpj.exe\\u{202e}");
        assert_eq!(printable("/plain/ü/漢"), "/plain/ü/漢");
    }

    #[test]
    fn nothing_hostile_is_left() {
        let all: String = (0..=0x0010_ffff).filter_map(char::from_u32).collect();
        assert!(!printable(&all).chars().any(is_hostile));
    }
}
