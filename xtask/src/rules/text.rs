//! Rules about every text file: leftovers, places of one machine, length, names.

use crate::repository::{File, Finding};

/// Longest file of code, in lines.
const LINES_MAX: usize = 800;

/// Words for work that was put off; it belongs into an issue. Written in halves, so that this file keeps its own rule.
const LEFTOVERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders of one machine and hosts of registries: neither is the same for the next reader.
const PLACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("deb.deb", "ian.org"),
    concat!("crates", ".io/"),
    concat!("index.cra", "tes"),
    concat!("proxy.gol", "ang"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Files that are made by tools and not by people.
fn is_made(file: &File) -> bool {
    file.path.ends_with("Cargo.lock") || file.path.ends_with(".snap") || file.path.contains("/proptest-regressions/")
}

pub(crate) fn check(file: &File) -> Vec<Finding> {
    if is_made(file) {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = file
        .text
        .lines()
        .enumerate()
        .flat_map(|(index, line)| check_line(line).map(move |message| (index + 1, message)))
        .map(|(line, message)| file.finding(line, message))
        .collect();
    let lines = file.text.lines().count();
    if is_code(file) && lines > LINES_MAX {
        findings.push(file.finding(0, format!("{lines} lines, more than {LINES_MAX}: two rooms in one?")));
    }
    if let Some(name) = file
        .path
        .split(['/', '.'])
        .find(|part| is_code(file) && EMPTY_NAMES.contains(part))
    {
        findings.push(file.finding(0, format!("`{name}` does not say what is inside")));
    }
    findings
}

fn check_line(line: &str) -> impl Iterator<Item = String> {
    let leftover = LEFTOVERS.iter().find(|word| has_word(line, word));
    let place = PLACES.iter().find(|place| line.contains(**place));
    leftover
        .map(|word| format!("`{word}`: do it now, or write an issue"))
        .into_iter()
        .chain(place.map(|place| format!("`{place}` is a place of one machine or registry")))
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|part| part == word)
}

fn is_code(file: &File) -> bool {
    file.is_rust() || file.text.starts_with("#!")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&file).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn work_put_off_is_found_as_a_word_only() {
        for word in LEFTOVERS {
            assert_eq!(
                messages("a.rs", &format!("fn a() {{}}\n// {word}: later")).len(),
                1,
                "{word}"
            );
            assert!(
                messages("a.rs", &format!("const {word}LIST: u8 = 1;")).is_empty(),
                "part of a longer word"
            );
        }
    }

    #[test]
    fn a_folder_of_one_machine_is_found() {
        for place in PLACES {
            assert_eq!(messages("README.md", &format!("see {place}here")).len(), 1, "{place}");
        }
    }

    #[test]
    fn a_file_over_the_limit_is_found_and_one_at_the_limit_is_not() {
        assert_eq!(messages("a.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert!(messages("a.rs", &"\n".repeat(LINES_MAX)).is_empty());
        assert!(
            messages("CHANGELOG.md", &"\n".repeat(LINES_MAX + 1)).is_empty(),
            "prose may be long"
        );
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        assert_eq!(messages("user/engine/src/utils.rs", "").len(), 1);
        assert_eq!(messages("user/common/src/lib.rs", "").len(), 1);
        assert!(messages("user/engine/src/commonality.rs", "").is_empty());
    }

    #[test]
    fn lock_files_are_left_alone() {
        assert!(messages("Cargo.lock", &format!("source = {}", PLACES[4])).is_empty());
    }
}
