//! Rules about Rust source, on tokens: comments and strings cannot trip them.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::{
    repository::{File, Finding, Repository},
    rooms::{Room, room_of},
};

/// What a room that is sans-IO must not name outside its tests.
const IO_NAMES: &[&str] = &[
    "SystemTime",
    "Instant",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
];

/// Lints that a crate which must not panic denies at its head.
const PANIC_LINTS: &[&str] = &["unwrap_used", "expect_used", "panic", "indexing_slicing"];

/// A file's tokens; a file that is not Rust is a finding.
pub(crate) fn tokens(file: &File) -> Result<TokenStream, Finding> {
    file.text
        .parse()
        .map_err(|error: proc_macro2::LexError| file.finding(error.span().start().line, format!("not Rust: {error}")))
}

/// The rules for every file.
pub(crate) fn check(file: &File, tokens: &TokenStream) -> Vec<Finding> {
    let mut findings = Vec::new();
    let room = room_of(&file.path);
    let in_sources = file.path.contains("/src/");
    walk(tokens.clone(), false, &mut |token, in_test| {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(name) if name == "unsafe" && !room.is_some_and(|room| room.may_be_unsafe) => {
                findings.push(file.finding(line, "`unsafe` has no place in this room (xtask/src/rooms.rs)"));
            }
            TokenTree::Ident(name)
                if !in_test
                    && in_sources
                    && room.is_some_and(|room| room.sans_io)
                    && IO_NAMES.iter().any(|io| name == io) =>
            {
                findings.push(file.finding(
                    line,
                    format!("`{name}` in a room without clock and sockets: make it an argument"),
                ));
            }
            TokenTree::Group(group) if is_ignore(&group.stream()) => {
                findings.push(file.finding(line, "an ignored test: mend it or remove it"));
            }
            _ => {}
        }
    });
    findings
}

/// How many tests these tokens declare.
pub(crate) fn count_tests(tokens: &TokenStream) -> usize {
    let mut count = 0;
    walk(tokens.clone(), false, &mut |token, _| {
        if let TokenTree::Group(group) = token
            && group.delimiter() == Delimiter::Bracket
            && is_test(&group.stream())
        {
            count += 1;
        }
    });
    count
}

/// The rules for the head of a crate. None of them applies to a room whose sources are not there.
pub(crate) fn check_root(repository: &Repository, room: &Room) -> Option<Vec<Finding>> {
    let root = ["lib.rs", "main.rs"]
        .into_iter()
        .find_map(|name| repository.file(&format!("{}/src/{name}", room.folder)))?;
    Some(check_head(root, room))
}

fn check_head(root: &File, room: &Room) -> Vec<Finding> {
    let Ok(tokens) = tokens(root) else { return Vec::new() };
    let attributes: Vec<String> = inner_attributes(tokens);
    let has = |wanted: &str| attributes.iter().any(|attribute| attribute == wanted);
    let mut findings = Vec::new();
    if !room.may_be_unsafe && !has("forbid(unsafe_code)") {
        findings.push(root.finding(1, "`#![forbid(unsafe_code)]` is missing"));
    }
    if room.must_not_panic {
        let denied = |lint: &&&str| {
            attributes
                .iter()
                .any(|attribute| attribute.starts_with("deny(") && attribute.contains(&format!("clippy::{lint}")))
        };
        for lint in PANIC_LINTS.iter().filter(|lint| !denied(lint)) {
            findings.push(root.finding(
                1,
                format!("`#![deny(clippy::{lint})]` is missing: strangers' bytes reach this crate"),
            ));
        }
    }
    findings
}

/// `#![…]` at the top level, without spaces.
fn inner_attributes(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    tokens
        .windows(3)
        .filter_map(|three| match three {
            [TokenTree::Punct(hash), TokenTree::Punct(bang), TokenTree::Group(group)]
                if hash.as_char() == '#' && bang.as_char() == '!' =>
            {
                Some(group.stream().to_string().split_whitespace().collect())
            }
            _ => None,
        })
        .collect()
}

/// Calls `visit` for every token, groups before what is in them, and says whether it stands under `#[cfg(test)]`.
/// The depth is bounded: Rust's own parser refuses deeper nesting than it can recurse into.
fn walk(tokens: TokenStream, in_test: bool, visit: &mut dyn FnMut(&TokenTree, bool)) {
    let mut next_item_is_test = false;
    for token in tokens {
        let here = in_test || next_item_is_test;
        visit(&token, here);
        match &token {
            TokenTree::Group(group) => {
                let stream = group.stream();
                if group.delimiter() == Delimiter::Bracket && stream.to_string() == "cfg (test)" {
                    next_item_is_test = true;
                    continue;
                }
                walk(stream, here, visit);
                next_item_is_test &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Punct(end) if end.as_char() == ';' => next_item_is_test = false,
            _ => {}
        }
    }
}

/// `ignore` or `ignore = "reason"`, the inside of the attribute.
fn is_ignore(attribute: &TokenStream) -> bool {
    let mut tokens = attribute.clone().into_iter();
    let first = matches!(tokens.next(), Some(TokenTree::Ident(name)) if name == "ignore");
    first
        && tokens
            .next()
            .is_none_or(|next| matches!(next, TokenTree::Punct(equals) if equals.as_char() == '='))
}

/// `test`, or a path that ends in it (`tokio::test`), with or without arguments.
fn is_test(attribute: &TokenStream) -> bool {
    let last_name = attribute
        .clone()
        .into_iter()
        .take_while(|token| !matches!(token, TokenTree::Group(_)))
        .last();
    let starts_with_name = matches!(attribute.clone().into_iter().next(), Some(TokenTree::Ident(_)));
    starts_with_name && matches!(last_name, Some(TokenTree::Ident(name)) if name == "test")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::ROOMS;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&file, &tokens(&file).unwrap())
            .into_iter()
            .map(|finding| finding.to_string())
            .collect()
    }

    fn head(room: &str, text: &str) -> usize {
        let room = ROOMS.iter().find(|candidate| candidate.name == room).unwrap();
        check_head(
            &File {
                path: "lib.rs".to_owned(),
                text: text.to_owned(),
            },
            room,
        )
        .len()
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found_with_its_line() {
        let text = "fn a() {\n    unsafe { b() }\n}";
        assert_eq!(messages("user/engine/src/a.rs", text).len(), 1);
        assert!(messages("user/engine/src/a.rs", text)[0].starts_with("user/engine/src/a.rs:2:"));
        assert!(messages("user/datapath/src/a.rs", text).is_empty());
    }

    #[test]
    fn unsafe_in_words_and_strings_is_not_code() {
        assert!(messages("user/engine/src/a.rs", "// unsafe\nconst A: &str = \"unsafe {}\";").is_empty());
    }

    #[test]
    fn an_ignored_test_is_found() {
        assert_eq!(messages("parsers/src/a.rs", "#[test]\n#[ignore]\nfn a() {}").len(), 1);
        assert_eq!(
            messages("parsers/src/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}").len(),
            1
        );
        assert!(messages("parsers/src/a.rs", "fn a() { ignore(b) }").is_empty());
    }

    #[test]
    fn a_clock_in_the_engine_is_found_outside_its_tests() {
        assert_eq!(messages("user/engine/src/a.rs", "use std::time::Instant;").len(), 1);
        let tests = "#[cfg(test)]\nmod tests { use std::time::Instant; }\nfn a() {}";
        assert!(messages("user/engine/src/a.rs", tests).is_empty());
        let after = "#[cfg(test)]\nmod tests;\nuse std::time::Instant;";
        assert_eq!(
            messages("user/engine/src/a.rs", after).len(),
            1,
            "only the item below the attribute is a test"
        );
        assert!(messages("user/agent/src/a.rs", "use std::time::Instant;").is_empty());
    }

    #[test]
    fn a_crate_without_its_head_is_found() {
        assert_eq!(head("seventh-policy", "//! Policy.\nmod a;"), 1);
        assert_eq!(head("seventh-policy", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(head("seventh-datapath", ""), 0, "may be unsafe");
        assert_eq!(
            head(
                "seventh-parsers",
                "#![forbid(unsafe_code)]\n#![deny(clippy::unwrap_used, clippy::panic)]"
            ),
            2
        );
    }

    #[test]
    fn tests_are_counted_however_they_are_declared() {
        let text = "#[test] fn a() {}\n#[tokio::test(flavor = \"x\")] async fn b() {}\nproptest! { #[test] fn c() {} }\n#[cfg(test)] mod t {}";
        assert_eq!(count_tests(&text.parse().unwrap()), 3);
    }
}
