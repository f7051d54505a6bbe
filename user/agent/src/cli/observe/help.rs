//! Hubble's own help (tests/data/hubble): every flag that it names is here, with its letter.

use std::collections::BTreeMap;

use clap::{Args as _, Command};

use super::Observe;

const HELP: &str = include_str!("../../../tests/data/hubble/observe_help.txt");

/// Flags that are not here, and why.
const ABSENT: &[(&str, &str)] = &[
    ("basic-auth-password", "servers know their clients by certificates"),
    ("basic-auth-username", "the same"),
    ("config", "of the client: environment and command line say all"),
    ("debug", "the same"),
    ("kube-context", "Kubernetes is not asked"),
    ("kube-namespace", "the same"),
    ("kubeconfig", "the same"),
    ("port-forward", "the same"),
    ("port-forward-port", "the same"),
    ("help", "clap's own"),
    (
        "tls-allow-insecure",
        "a server whose certificate is not checked may be anybody",
    ),
    ("use-default-field-masks", "fields that are not shown are cheap"),
];

/// `-x, --name` or `--name` at the head of a line, and nothing of the text behind it.
fn flags_of(help: &str) -> BTreeMap<&str, Option<char>> {
    let flag = |line| {
        let line: &str = str::trim_start(line);
        let (short, rest) = match line.strip_prefix('-').and_then(|rest| rest.split_once(", ")) {
            Some((letter, rest)) if letter.len() == 1 => (letter.chars().next(), rest),
            _ => (None, line),
        };
        let name = rest.strip_prefix("--")?;
        let end = name
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .unwrap_or(name.len());
        Some((&name[..end], short))
    };
    help.lines().filter_map(flag).collect()
}

#[test]
fn every_flag_of_hubbles_observe_is_known_by_its_name_and_letter() {
    let wanted = flags_of(HELP);
    assert!(wanted.len() > 80 && wanted["follow"] == Some('f'), "{wanted:?}");
    let command = Observe::augment_args(Command::new("observe"));
    let known: BTreeMap<String, Option<char>> = command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.get_short())))
        .collect();
    for (name, short) in wanted {
        let absent = ABSENT.iter().any(|(absent, _)| *absent == name);
        assert_eq!(known.contains_key(name), !absent, "--{name}");
        if let Some(found) = known.get(name) {
            assert_eq!(*found, short, "--{name}");
        }
    }
}
