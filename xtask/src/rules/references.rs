//! Documents must not point to what is no longer there: links to files, and `file.rs::function` in code spans.

use crate::repository::{File, Finding, Repository};

pub(crate) fn check(repository: &Repository, page: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in page.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let dead_links = links(line).filter(|link| !is_there(repository, &page.path, link));
        findings.extend(dead_links.map(|link| page.finding(index + 1, format!("the link to {link} leads nowhere"))));
        let lost = code_spans(line).filter_map(|span| check_span(repository, span));
        findings.extend(lost.map(|message| page.finding(index + 1, message)));
    }
    findings
}

/// Targets of `[text](target)` inside the repository, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        let file = target.split('#').next()?;
        (!file.is_empty() && !file.contains("://") && !file.starts_with("mailto:")).then_some(file)
    })
}

fn is_there(repository: &Repository, page: &str, link: &str) -> bool {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let path = parts.join("/");
    let folder = format!("{path}/");
    repository
        .files
        .iter()
        .any(|file| file.path == path || file.path.starts_with(&folder))
}

fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// `path/file.rs`, `path/file.rs::name` or `path/file.rs::Type::name`: the file is there and declares the name.
fn check_span(repository: &Repository, span: &str) -> Option<String> {
    let end = span.find(".rs").map(|at| at + ".rs".len())?;
    let (path, rest) = span.split_at(end);
    let is_path = path.contains('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if !is_path || !(rest.is_empty() || rest.starts_with("::")) {
        return None;
    }
    let Some(file) = repository.file(path) else {
        return Some(format!("{path} is not there"));
    };
    let name = rest.rsplit("::").next().unwrap_or_default();
    (!name.is_empty() && !declares(&file.text, name)).then(|| format!("{path} declares no `{name}`"))
}

fn declares(text: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "const", "static", "trait", "type", "mod"]
        .iter()
        .any(|keyword| {
            text.match_indices(&format!("{keyword} {name}")).any(|(at, found)| {
                let after = text.get(at + found.len()..).and_then(|rest| rest.chars().next());
                !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(page: &str, text: &str) -> Vec<String> {
        let mut repository = Repository::read().unwrap();
        repository.files = vec![
            File {
                path: "docs/drop-reasons.md".to_owned(),
                text: String::new(),
            },
            File {
                path: "user/engine/src/engine.rs".to_owned(),
                text: "pub fn decide(frame: &[u8]) {}".to_owned(),
            },
        ];
        let page = File {
            path: page.to_owned(),
            text: text.to_owned(),
        };
        check(&repository, &page)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_dead_link_is_found_and_a_living_one_is_not() {
        assert_eq!(messages("README.md", "see [this](docs/gone.md)").len(), 1);
        assert!(
            messages(
                "README.md",
                "see [this](docs/drop-reasons.md#codes) and [that](https://example.org)"
            )
            .is_empty()
        );
        assert!(messages("docs/a.md", "see [this](drop-reasons.md) and [that](../user/engine)").is_empty());
    }

    #[test]
    fn a_function_that_moved_away_is_found() {
        assert!(messages("a.md", "`user/engine/src/engine.rs::Engine::decide`").is_empty());
        assert_eq!(messages("a.md", "`user/engine/src/engine.rs::judge`").len(), 1);
        assert_eq!(
            messages("a.md", "`user/engine/src/engine.rs::dec`").len(),
            1,
            "part of a name"
        );
        assert_eq!(messages("a.md", "`user/engine/src/gone.rs`").len(), 1);
    }

    #[test]
    fn code_blocks_and_other_code_are_left_alone() {
        assert!(
            messages(
                "a.md",
                "```\n[x](gone.md) `a/gone.rs`\n```\n`Fate::Forward` and `main.rs`"
            )
            .is_empty()
        );
    }
}
