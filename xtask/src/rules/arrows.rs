//! Which crate uses which: Cargo's answer against the table of rooms.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata};

use crate::{
    repository::Finding,
    rooms::{RESERVED, ROOMS, Room},
};

/// A dependency as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrow {
    from: String,
    to: String,
    /// Of the crate's tests and benches only.
    in_tests: bool,
}

pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let arrows: Vec<Arrow> = metadata
        .packages
        .iter()
        .flat_map(|package| {
            package.dependencies.iter().map(|dependency| Arrow {
                from: package.name.to_string(),
                to: dependency.name.clone(),
                in_tests: dependency.kind == DependencyKind::Development,
            })
        })
        .collect();
    let mut findings: Vec<Finding> = members
        .iter()
        .filter(|member| room(member).is_none())
        .map(|member| finding(format!("crate {member} is not in the table of rooms")))
        .collect();
    findings.extend(arrows.iter().filter_map(check_arrow));
    findings
}

fn check_arrow(arrow: &Arrow) -> Option<Finding> {
    let Arrow { from, to, in_tests } = arrow;
    if ROOMS.iter().any(|room| room.name == to) {
        let room = room(from)?;
        let allowed = room.may_use.contains(&to.as_str()) || (*in_tests && room.tests_may_use.contains(&to.as_str()));
        return (!allowed).then(|| {
            finding(format!(
                "{from} must not use {to}: the arrows of the rooms point down only"
            ))
        });
    }
    let (_, knowing) = RESERVED.iter().find(|(name, _)| name == to)?;
    (!in_tests && !knowing.contains(&from.as_str()))
        .then(|| finding(format!("{from} must not know {to}: only {} may", knowing.join(", "))))
}

fn room(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}

fn finding(message: String) -> Finding {
    Finding {
        path: "xtask/src/rooms.rs".to_owned(),
        line: 0,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(from: &str, to: &str, in_tests: bool) -> bool {
        check_arrow(&Arrow {
            from: from.to_owned(),
            to: to.to_owned(),
            in_tests,
        })
        .is_some()
    }

    #[test]
    fn an_arrow_that_points_up_is_found_in_tests_too() {
        assert!(refused("seventh-parsers", "seventh-engine", false));
        assert!(refused("seventh-parsers", "seventh-engine", true));
        assert!(!refused("seventh-engine", "seventh-parsers", false));
    }

    #[test]
    fn what_only_tests_may_use_is_refused_elsewhere() {
        assert!(refused("seventh", "seventh-fixtures", false));
        assert!(!refused("seventh", "seventh-fixtures", true));
    }

    #[test]
    fn a_library_of_one_room_is_refused_in_others_but_not_in_their_tests() {
        assert!(refused("seventh-engine", "tokio", false));
        assert!(!refused("seventh-engine", "tokio", true));
        assert!(!refused("seventh", "tokio", false));
        assert!(refused("seventh-policy", "aya", false));
    }

    #[test]
    fn the_table_names_every_crate_of_this_workspace() {
        let repository = crate::repository::Repository::read().unwrap();
        for package in &repository.metadata.packages {
            assert!(room(&package.name).is_some(), "{}", package.name);
        }
    }
}
