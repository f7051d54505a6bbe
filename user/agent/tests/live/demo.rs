//! The demo as a user runs it.

use std::{
    fs,
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::stage::{binary, lab, until};

/// Whether a lab of this process is still there.
fn leftovers(pid: u32) -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| line.starts_with(&format!("svd{pid}x")))
        .collect()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_verdict_is_as_expected_in_time_and_nothing_is_left() {
    if lab().is_none() {
        return;
    }
    let started = Instant::now();
    let child = Command::new(binary())
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(text.matches('✓').count() >= 10 && !text.contains('✗'), "{text}");
    assert!(
        text.contains("kind: CiliumNetworkPolicy") && text.contains("http_policy_denied"),
        "{text}"
    );
    // Into a pipe there are no colours.
    assert!(!text.contains('\u{1b}'));
    assert_eq!(leftovers(pid), "");
}

/// A demo that has begun to ask.
fn begun() -> Child {
    let mut child = Command::new(binary())
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    while !seen.contains("GET /public") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{seen}");
        seen.push(char::from(byte[0]));
    }
    child
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if lab().is_none() {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let child = begun();
        let pid = child.id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("interrupted"), "{}", said(&output));
        assert_eq!(leftovers(pid), "", "{signal}");
    }
}

#[test]
fn a_killed_demo_leaves_nothing_either() {
    if lab().is_none() {
        return;
    }
    let mut child = begun();
    let pid = child.id();
    assert_ne!(leftovers(pid), "");
    child.kill().unwrap();
    child.wait().unwrap();
    until("its keeper has cleaned up", || leftovers(pid).is_empty());
}

#[test]
fn what_is_missing_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("seventh");
    fs::copy(binary(), &copy).unwrap();
    if lab().is_none() {
        return;
    }
    let output = Command::new(&copy)
        .arg("demo")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("needs root; try `sudo`"), "{}", said(&output));
    let output = Command::new(&copy)
        .arg("demo")
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("apt-get install iproute2"), "{}", said(&output));
}
