//! The rules. Each one is a function from what it looks at to findings, with a bad example in its tests.

mod arrows;
mod modules;
mod references;
mod source;
mod text;

use crate::{
    docs,
    repository::{File, Finding, Repository},
    rooms::{ROOMS, TESTS_MIN},
};

/// Everything that breaks a rule.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = arrows::check(&repository.metadata);
    findings.extend(modules::check(&repository.files));
    let mut tests = 0;
    for file in &repository.files {
        findings.extend(text::check(file));
        if file.is_rust() {
            match source::tokens(file) {
                Ok(tokens) => {
                    findings.extend(source::check(file, &tokens));
                    tests += source::count_tests(&tokens);
                }
                Err(finding) => findings.push(finding),
            }
        }
        if file.path.ends_with(".md") {
            findings.extend(references::check(repository, file));
        }
    }
    findings.extend(
        ROOMS
            .iter()
            .filter_map(|room| source::check_root(repository, room))
            .flatten(),
    );
    for (path, text, source) in [
        (docs::DROP_REASONS, docs::drop_reasons(), "kern/abi/src/reason.rs"),
        (docs::METRICS, docs::metrics(), "user/metrics/src"),
    ] {
        findings.extend(is_current(path, repository.file(path), &text, source));
    }
    findings.extend(enough_tests(tests));
    findings
}

fn is_current(path: &str, page: Option<&File>, text: &str, source: &str) -> Option<Finding> {
    let current = page.is_some_and(|page| page.text == text);
    (!current).then(|| Finding {
        path: path.to_owned(),
        line: 0,
        message: format!("differs from {source}: run `cargo xtask docs`"),
    })
}

fn enough_tests(tests: usize) -> Option<Finding> {
    (tests < TESTS_MIN).then(|| Finding {
        path: "xtask/src/rooms.rs".to_owned(),
        line: 0,
        message: format!("{tests} tests in the repository, at least {TESTS_MIN} must be there (TESTS_MIN)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_stale_page_is_found() {
        let check = |page| is_current(docs::DROP_REASONS, page, &docs::drop_reasons(), "");
        let stale = File {
            path: docs::DROP_REASONS.to_owned(),
            text: "| 1 | `policy_denied` |".to_owned(),
        };
        assert!(check(Some(&stale)).is_some());
        assert!(check(None).is_some());
        let current = File {
            path: docs::DROP_REASONS.to_owned(),
            text: docs::drop_reasons(),
        };
        assert_eq!(check(Some(&current)), None);
    }

    #[test]
    fn vanished_tests_are_found() {
        assert!(enough_tests(TESTS_MIN - 1).is_some());
        assert_eq!(enough_tests(TESTS_MIN), None);
    }
}
