//! Every file of code must be part of a crate: one that no `mod` declares is neither compiled nor, if it holds tests, run.

use std::collections::{HashMap, HashSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::repository::{File, Finding};

pub(crate) fn check(files: &[File]) -> Vec<Finding> {
    let rust: HashMap<&str, &File> = files
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut reached: HashSet<&str> = HashSet::new();
    let mut to_read: Vec<&File> = rust.values().copied().filter(|file| is_root(&file.path)).collect();
    while let Some(file) = to_read.pop() {
        if !reached.insert(&file.path) {
            continue;
        }
        let Ok(tokens) = file.text.parse() else { continue };
        let mut declared = Vec::new();
        declarations(tokens, &module_folder(&file.path), folder(&file.path), &mut declared);
        to_read.extend(declared.iter().filter_map(|path| rust.get(path.as_str())));
    }
    let lost = rust.values().filter(|file| !reached.contains(file.path.as_str()));
    lost.map(|file| file.finding(0, "no `mod` declares this file: it is not compiled"))
        .collect()
}

/// Where Cargo begins by itself: the heads of libraries, programs, tests and benches, and build scripts.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [.., "build.rs"] => true,
        [.., "src", "lib.rs" | "main.rs"] => true,
        [.., "src", "bin", _] | [.., "src", "bin", _, "main.rs"] => true,
        [.., "tests" | "benches" | "examples", _] if !parts.contains(&"src") => true,
        [.., "tests" | "benches" | "examples", _, "main.rs"] => !parts.contains(&"src"),
        _ => false,
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Where the files of a file's modules lie.
fn module_folder(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    if is_root(path) || name == "mod.rs" {
        folder(path).to_owned()
    } else {
        path.trim_end_matches(".rs").to_owned()
    }
}

/// Files that `mod name;` may mean. `inside` is the folder for the modules here, `beside` the one of the file itself, by
/// which `#[path]` goes. The depth is bounded: Rust's own parser refuses deeper nesting than it can recurse into.
fn declarations(tokens: TokenStream, inside: &str, beside: &str, declared: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut path: Option<String> = None;
    for (at, token) in tokens.iter().enumerate() {
        let name = match tokens.get(at.wrapping_sub(1)) {
            Some(TokenTree::Ident(keyword)) if keyword == "mod" => tokens.get(at).and_then(identifier),
            _ => None,
        };
        match (token, name, tokens.get(at + 1)) {
            (TokenTree::Ident(_), Some(name), Some(TokenTree::Punct(end))) if end.as_char() == ';' => match path.take()
            {
                Some(path) => declared.push(resolved(beside, &path)),
                None => declared.extend([format!("{inside}/{name}.rs"), format!("{inside}/{name}/mod.rs")]),
            },
            (TokenTree::Ident(_), Some(name), Some(TokenTree::Group(body))) => {
                declarations(body.stream(), &format!("{inside}/{name}"), beside, declared);
            }
            (TokenTree::Group(group), ..) if group.delimiter() == Delimiter::Bracket => {
                path = path_attribute(&group.stream()).or(path);
            }
            // The body of an inline module has been looked at.
            (TokenTree::Group(group), ..) if !is_module_body(&tokens, at) => {
                declarations(group.stream(), inside, beside, declared);
            }
            _ => {}
        }
    }
}

/// A path that goes by a folder, without the ways back in it.
fn resolved(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn identifier(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(name) => Some(name.to_string()),
        _ => None,
    }
}

fn is_module_body(tokens: &[TokenTree], at: usize) -> bool {
    let keyword = at.checked_sub(2).and_then(|before| tokens.get(before));
    matches!(keyword, Some(TokenTree::Ident(keyword)) if keyword == "mod")
}

/// The path of `path = "file.rs"`, the inside of an attribute.
fn path_attribute(attribute: &TokenStream) -> Option<String> {
    let text: String = attribute.to_string().split_whitespace().collect();
    Some(text.strip_prefix("path=\"")?.strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{File, check};

    fn lost(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        let mut lost: Vec<String> = check(&files).into_iter().map(|finding| finding.path).collect();
        lost.sort();
        lost
    }

    #[test]
    fn a_file_that_no_mod_declares_is_found() {
        let files = [
            (
                "user/a/src/lib.rs",
                "mod one; pub(crate) mod two;\n#[cfg(test)]\nmod tests;",
            ),
            ("user/a/src/one.rs", "mod inner;"),
            ("user/a/src/one/inner.rs", ""),
            ("user/a/src/one/lost.rs", ""),
            ("user/a/src/two/mod.rs", "mod beside; // mod lost;"),
            ("user/a/src/two/beside.rs", ""),
            ("user/a/src/two/lost.rs", "const A: &str = \"mod three;\";"),
            ("user/a/src/tests.rs", ""),
            ("user/a/src/lost.rs", "mod two;"),
        ];
        assert_eq!(
            lost(&files),
            ["user/a/src/lost.rs", "user/a/src/one/lost.rs", "user/a/src/two/lost.rs"]
        );
    }

    #[test]
    fn programs_tests_benches_and_build_scripts_stand_by_themselves() {
        let files = [
            ("a/build.rs", ""),
            ("a/src/main.rs", ""),
            ("a/src/bin/b.rs", "mod c;"),
            ("a/src/bin/c.rs", ""),
            ("a/tests/d.rs", ""),
            ("a/tests/live/main.rs", "mod e;"),
            ("a/tests/live/e.rs", ""),
            ("a/tests/live/never_run.rs", "#[test] fn f() {}"),
            ("a/benches/g.rs", ""),
        ];
        assert_eq!(lost(&files), ["a/tests/live/never_run.rs"]);
    }

    #[test]
    fn inline_modules_and_paths_lead_where_the_compiler_goes() {
        let files = [
            (
                "a/src/lib.rs",
                "mod inline { mod deep; }\n#[path = \"other/name.rs\"]\nmod named;\n#[path = \"../beside/far.rs\"]\nmod far;\nmacro_rules! m { () => { mod made; } }",
            ),
            ("a/src/inline/deep.rs", ""),
            ("a/src/other/name.rs", ""),
            ("a/beside/far.rs", ""),
            ("a/src/made.rs", ""),
            ("a/src/named.rs", ""),
        ];
        assert_eq!(lost(&files), ["a/src/named.rs"]);
    }
}
