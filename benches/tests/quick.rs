//! The comparison of live traffic still works: every way is built, denies what it is to deny, and carries every kind of
//! load. Needs root, as all live tests do.

use std::process::Command;

#[test]
fn every_way_is_built_enforces_and_carries_every_kind_of_load() {
    // The binary that other crates' tests have built may be older than its sources. Built as all tests are, for without
    // them the crates that it needs have other features and are built once more.
    let built = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--workspace", "--no-run"])
        .status()
        .unwrap();
    assert!(built.success());
    let output = Command::new(env!("CARGO_BIN_EXE_e2e")).arg("--quick").output().unwrap();
    let (said, complaints) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{complaints}");
    for (way, tables) in [
        ("no enforcement", 8),
        ("Seventh, ports only", 6),
        ("Seventh, HTTP rules", 6),
        ("Seventh, server names", 1),
        ("Seventh, DNS rules", 1),
        ("Envoy, 1 worker", 7),
        ("Envoy, 2 workers", 7),
        ("HAProxy, 1 thread", 7),
        ("nginx, 1 worker", 6),
        ("dnsdist", 1),
    ] {
        let rows = said
            .lines()
            .filter(|line| line.starts_with(&format!("| {way} |")))
            .count();
        assert_eq!(rows, tables, "{way}:\n{said}");
    }
}
