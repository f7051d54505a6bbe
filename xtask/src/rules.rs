//! The rules. Each one is a function from what it looks at to findings, with a bad example in its tests.

mod arrows;
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
    findings.extend(drop_reasons_are_current(repository.file(docs::DROP_REASONS)));
    findings.extend(enough_tests(tests));
    findings
}

fn drop_reasons_are_current(page: Option<&File>) -> Option<Finding> {
    let current = page.is_some_and(|page| page.text == docs::drop_reasons());
    (!current).then(|| Finding {
        path: docs::DROP_REASONS.to_owned(),
        line: 0,
        message: "differs from kern/abi/src/reason.rs: run `cargo xtask docs`".to_owned(),
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
    fn a_missing_or_stale_page_of_reasons_is_found() {
        let stale = File {
            path: docs::DROP_REASONS.to_owned(),
            text: "| 1 | `policy_denied` |".to_owned(),
        };
        assert!(drop_reasons_are_current(Some(&stale)).is_some());
        assert!(drop_reasons_are_current(None).is_some());
        let current = File {
            path: docs::DROP_REASONS.to_owned(),
            text: docs::drop_reasons(),
        };
        assert_eq!(drop_reasons_are_current(Some(&current)), None);
    }

    #[test]
    fn vanished_tests_are_found() {
        assert!(enough_tests(TESTS_MIN - 1).is_some());
        assert_eq!(enough_tests(TESTS_MIN), None);
    }
}
