//! The dialect of regular expressions in policies: RE2, matched in full.
//!
//! The documents speak RE2 (Go and Envoy); we match with Rust's engine. On ASCII text, which is all that a method, an
//! authority or a normalised path may hold, the two agree except where [`check`] refuses: syntax that Rust's parser
//! knows and RE2 reads as something else (`[a&&b]`, nested classes, `(?x)`, `\<`, …) and RE2 syntax that Rust's parser
//! does not know (`\Q…\E`, `\C`, octal escapes, `{` as a literal).

use regex_syntax::ast::{self, Ast};

/// Bytes of one pattern at most.
pub const PATTERN_BYTES_MAX: usize = 16 << 10;
use crate::automaton::Examined;
pub use crate::automaton::{AUTOMATA_BYTES_MAX, AUTOMATON_BYTES_MAX};

/// Largest count in a repetition; RE2 has the same bound.
const REPEAT_MAX: u32 = 1000;

/// Whether the text is a pattern that we match exactly as RE2 would and that is not too large.
///
/// # Errors
/// The reason why not, fit to stand behind a field's path.
pub fn check(pattern: &str) -> Result<(), String> {
    check_syntax(pattern)?;
    Examined::new(pattern).map(|_| ())
}

/// Whether the text is a pattern that we match exactly as RE2 would.
///
/// # Errors
/// The reason why not.
pub(crate) fn check_syntax(pattern: &str) -> Result<(), String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "the regular expression has {} bytes, at most {PATTERN_BYTES_MAX} are taken",
            pattern.len()
        ));
    }
    let tree = ast::parse::ParserBuilder::new()
        .nest_limit(crate::automaton::NEST_MAX)
        .build()
        .parse(pattern)
        .map_err(|e| format!("not a regular expression: {}{}", e.kind(), hint(e.kind())))?;
    ast::visit(&tree, Dialect { pattern })
}

fn hint(kind: &ast::ErrorKind) -> &'static str {
    use ast::ErrorKind::{EscapeUnrecognized, RepetitionCountUnclosed, RepetitionMissing, UnsupportedBackreference};
    match kind {
        RepetitionMissing | RepetitionCountUnclosed | ast::ErrorKind::RepetitionCountDecimalEmpty => {
            "; a literal `*`, `+`, `?` or `{` is written with a backslash, any text is `.*`"
        }
        EscapeUnrecognized => "; \\Q…\\E, \\C and \\Z are not supported",
        UnsupportedBackreference => "; backreferences and octal escapes are not supported, write \\x41 for a byte",
        _ => "",
    }
}

/// Refuses syntax that RE2 reads differently.
struct Dialect<'p> {
    pattern: &'p str,
}

impl Dialect<'_> {
    fn refuse<T>(&self, span: ast::Span, why: &str) -> Result<T, String> {
        let text = self.pattern.get(span.start.offset..span.end.offset).unwrap_or_default();
        Err(format!("`{text}` {why}"))
    }
}

impl ast::Visitor for Dialect<'_> {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Flags(set) => self.flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(flags) => self.flags(flags),
                _ => Ok(()),
            },
            Ast::Assertion(a) => match a.kind {
                ast::AssertionKind::WordBoundaryStart
                | ast::AssertionKind::WordBoundaryEnd
                | ast::AssertionKind::WordBoundaryStartAngle
                | ast::AssertionKind::WordBoundaryEndAngle
                | ast::AssertionKind::WordBoundaryStartHalf
                | ast::AssertionKind::WordBoundaryEndHalf => self.refuse(a.span, "is not RE2 syntax; use \\b"),
                _ => Ok(()),
            },
            Ast::Literal(literal) => self.literal(literal),
            Ast::Repetition(repetition) => self.repetition(repetition),
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), String> {
        match item {
            ast::ClassSetItem::Bracketed(class) => self.refuse(
                class.span,
                "is a nested class, which RE2 reads differently; escape the `[`",
            ),
            ast::ClassSetItem::Literal(literal) => self.literal(literal),
            ast::ClassSetItem::Range(range) => {
                self.literal(&range.start)?;
                self.literal(&range.end)
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, op: &ast::ClassSetBinaryOp) -> Result<(), String> {
        self.refuse(
            op.span,
            "is a class operation (`&&`, `--`, `~~`), which RE2 reads differently; escape the characters",
        )
    }
}

impl Dialect<'_> {
    fn flags(&self, flags: &ast::Flags) -> Result<(), String> {
        for item in &flags.items {
            if let ast::FlagsItemKind::Flag(ast::Flag::IgnoreWhitespace | ast::Flag::CRLF | ast::Flag::Unicode) =
                item.kind
            {
                return self.refuse(item.span, "is a flag that RE2 does not know; it knows i, m, s and U");
            }
        }
        Ok(())
    }

    fn literal(&self, literal: &ast::Literal) -> Result<(), String> {
        use ast::{HexLiteralKind, LiteralKind};
        match literal.kind {
            LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
            | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
                self.refuse(literal.span, "is not RE2 syntax; write \\x{…}")
            }
            _ => Ok(()),
        }
    }

    fn repetition(&self, repetition: &ast::Repetition) -> Result<(), String> {
        use ast::{RepetitionKind, RepetitionRange};
        if let Ast::Repetition(_) = *repetition.ast {
            return self.refuse(repetition.span, "repeats a repetition, which RE2 refuses; group it");
        }
        let RepetitionKind::Range(range) = &repetition.op.kind else {
            return Ok(());
        };
        let largest = match *range {
            RepetitionRange::Exactly(n) | RepetitionRange::AtLeast(n) => n,
            RepetitionRange::Bounded(_, max) => max,
        };
        if self
            .pattern
            .get(repetition.op.span.start.offset..)
            .is_some_and(|t| t.starts_with("{,"))
        {
            return self.refuse(
                repetition.op.span,
                "is literal text in RE2; write {0,n} or escape the `{`",
            );
        }
        if largest > REPEAT_MAX {
            return self.refuse(repetition.op.span, "repeats more than 1000 times");
        }
        Ok(())
    }
}
