//! A host without Kubernetes: the unit and the configuration beside it.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use seventh::{cli, config::Config};

use super::text;

/// The values of a setting of the unit.
fn unit(setting: &str) -> Vec<String> {
    let text = text("systemd/seventh.service");
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let of_setting = lines.filter(|(name, _)| *name == setting);
    of_setting.map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn the_configuration_is_what_the_agent_reads_and_the_unit_lets_it_write_there() {
    let text = text("host/config.yaml");
    let config = Config::parse(Path::new("/etc/seventh/config.yaml"), &text).unwrap();
    assert_eq!(config.endpoints.len(), 2);
    assert_eq!(config.policy_dirs, [Path::new("/etc/seventh/policies/")]);
    assert_eq!(
        config.api.parent().unwrap(),
        Path::new("/run").join(&unit("RuntimeDirectory")[0])
    );
    assert!(config.bpffs.starts_with(&unit("ReadWritePaths")[0]));
    let log = Path::new("/var/log").join(&unit("LogsDirectory")[0]);
    assert!(text.contains(&format!("filePath: {}/", log.display())));
}

#[test]
fn the_unit_starts_the_agent_with_flags_that_it_has() {
    let start = &unit("ExecStart")[0];
    let words: Vec<&str> = start.split_whitespace().collect();
    let matches = cli::command()
        .try_get_matches_from(&words)
        .unwrap_or_else(|e| panic!("{e}"));
    let agent = matches.subcommand_matches("agent").unwrap();
    assert!(agent.get_flag("keep_enforcing"));
    assert_eq!(unit("Type"), ["exec"], "the agent tells systemd nothing");
}

#[test]
fn every_capability_that_is_given_is_explained_and_a_host_gives_fewer() {
    let values: Value = serde_saphyr::from_str(&text("helm/seventh/values.yaml")).unwrap();
    let given = values["securityContext"]["capabilities"].as_array().unwrap().iter();
    let given: BTreeSet<String> = given.map(|name| format!("CAP_{}", name.as_str().unwrap())).collect();
    let page = text("../docs/kubernetes.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `CAP_")?.split_once('`'));
    let explained: BTreeSet<String> = rows.map(|(name, _)| format!("CAP_{name}")).collect();
    assert_eq!(given, explained);
    let of_host: BTreeSet<String> = unit("CapabilityBoundingSet")[0].split(' ').map(str::to_owned).collect();
    // On a host the limit of locked memory can be set.
    let of_pods = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_IPC_LOCK"].map(str::to_owned);
    assert_eq!(of_host, &given - &BTreeSet::from(of_pods));
    assert_eq!(unit("LimitMEMLOCK"), ["infinity"]);
}
