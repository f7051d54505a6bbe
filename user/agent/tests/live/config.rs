//! Settings of a running agent: looked at, changed, and in force for the next packet.

use seventh::lab::Lab;

use crate::client::{IMPATIENCE, PATIENCE, is_silence};
use crate::listings::{endpoint, list, text};
use crate::requests::ask;
use crate::stage::{PUBLIC, binary, revision, stage, status, until};

/// Exit status, and what was said of an error.
fn refused(lab: &Lab, command: &[&str]) -> (Option<i32>, String) {
    let output = lab.ask_agent(binary(), command).unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn set(lab: &Lab, name: &str, value: &str) {
    let (code, said) = text(lab, &["config", "set", name, value]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with(&format!(" = {value}\n")), "{said}");
}

#[test]
fn a_mode_of_enforcement_that_is_set_holds_for_the_next_packet_until_it_is_reset() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let stranger = || ask(&lab, "intruder", "/denied", IMPATIENCE);
    assert!(is_silence(&stranger()));
    let before = revision(&lab);

    set(&lab, "enforcement", "never");
    assert!(revision(&lab) > before);
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(200));
    assert_eq!(ask(&lab, "intruder", "/denied", PATIENCE), Ok(200));
    let changed = &status(&lab)["changed"][0];
    assert_eq!(
        (&changed["name"], &changed["value"], &changed["configured"]),
        (&"enforcement".into(), &"never".into(), &"default".into())
    );
    let (code, said) = text(&lab, &["status"]);
    assert!(
        code == Some(0) && said.contains("enforcement = never until the agent ends"),
        "{said}"
    );

    // Cilium's name for it. Nobody has a rule for what the client sends.
    set(&lab, "PolicyEnforcement", "always");
    assert_eq!(endpoint(&lab, "default/client")["egress_enforced"], true);
    assert!(is_silence(&ask(&lab, "client", "/public", IMPATIENCE)));

    assert_eq!(
        text(&lab, &["config", "reset"]),
        (Some(0), "enforcement = default\n".to_owned())
    );
    assert_eq!(endpoint(&lab, "default/client")["egress_enforced"], false);
    assert_eq!(ask(&lab, "client", "/public", PATIENCE), Ok(200));
    assert_eq!(ask(&lab, "client", "/denied", PATIENCE), Ok(403));
    assert!(is_silence(&stranger()));
    assert_eq!(status(&lab)["changed"], serde_json::json!([]));
    // Nothing is left to take back.
    assert_eq!(text(&lab, &["config", "reset"]), (Some(0), String::new()));
}

#[test]
fn the_log_is_filtered_anew_and_what_cannot_be_changed_says_what_to_do() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    set(&lab, "log", "error");
    set(&lab, "allowLocalhost", "false");
    assert!(!lab.agent_log().contains("allowLocalhost"), "{}", lab.agent_log());
    set(&lab, "log", "info,hyper=off");
    set(&lab, "allowLocalhost", "true");
    until("the change is written", || lab.agent_log().contains("allowLocalhost"));

    for (command, wanted) in [
        (
            ["config", "set", "enforcement", "sometimes"],
            "none of default, always, never",
        ),
        (["config", "set", "allowLocalhost", "yes"], "neither true nor false"),
        (["config", "set", "log", "inof"], "is not a log filter"),
        (["config", "set", "flowsMax", "2048"], "start the agent again"),
        (
            ["config", "set", "fqdn.SCOPE", "node"],
            "`fqdn.scope` cannot be changed in a running agent",
        ),
        (["config", "set", "flowMax", "2048"], "there is no setting `flowMax`"),
    ] {
        let (code, said) = refused(&lab, &command);
        assert!(code == Some(2) && said.contains(wanted), "{command:?}: {code:?} {said}");
    }
    assert_eq!(refused(&lab, &["config", "reset", "workers"]).0, Some(2));
    assert_eq!(refused(&lab, &["config", "get", "flowMax"]).0, Some(1));

    assert_eq!(
        text(&lab, &["config", "get", "log"]),
        (Some(0), "info,hyper=off\n".to_owned())
    );
    assert_eq!(text(&lab, &["config", "get", "WORKERS"]), (Some(0), "1\n".to_owned()));
    let all = list(&lab, &["config", "view"]);
    let live: Vec<&str> = all
        .iter()
        .filter(|s| s["live"] == true)
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(live, ["enforcement", "audit", "allowLocalhost", "log"]);
    let socket = all.iter().find(|s| s["name"] == "api").unwrap();
    assert_eq!(socket["value"], lab.socket().display().to_string());
    let (_, table) = text(&lab, &["config", "view"]);
    assert!(
        table.starts_with("SETTING") && table.contains("configured: info,seventh=debug"),
        "{table}"
    );
}
