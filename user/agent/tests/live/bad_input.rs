//! Wrong configurations, interfaces and policies: an error that names file, field and reason, and what was in force stays.

use std::fs;

use nix::sys::signal::Signal;

use crate::{
    client::{IMPATIENCE, PATIENCE, fetch, is_silence},
    requests::in_client,
    stage::{PUBLIC, binary, lab, policy, replace_policy, stage, status, until, write_policy},
};

/// Runs an agent that must not start; what it said. One that starts is ended after a while, and has another status.
fn refused(lab: &seventh::lab::Lab, config: &str) -> String {
    let path = lab.dir().join("config.yaml");
    fs::create_dir_all(lab.dir().join("policies")).unwrap();
    fs::write(&path, config).unwrap();
    let output = lab
        .node_command("timeout")
        .arg("20")
        .arg(binary())
        .args(["agent", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[test]
fn a_wrong_configuration_is_refused_by_file_field_and_reason_and_nothing_is_touched() {
    let Some(lab) = lab() else { return };
    let sound = lab.agent_config("");
    let cases = [
        (sound.replace("node: lab", "nodes: lab"), "nodes"),
        (lab.agent_config("workers: 99"), "workers: 99; must be 1 to 16"),
        (lab.agent_config("audit: perhaps"), "audit: perhaps"),
        (lab.agent_config("onAgentDown: ajar"), "ajar"),
        (
            sound.replace("v-server", "v-nothing"),
            "endpoints[3].interface (default/server): there is no device `v-nothing`",
        ),
        (
            sound.replace("default/server", "server"),
            "endpoints[3].name: `server` is not `namespace/name`",
        ),
        (
            sound.replace("10.0.4.2", "10.0.4.256"),
            "endpoints[3].ips[0]: `10.0.4.256` is not",
        ),
        (sound.replace("[policies]", "[nowhere]"), "policyDirs: cannot watch"),
    ];
    for (config, expected) in cases {
        let said = refused(&lab, &config);
        assert!(
            said.contains(expected) && said.contains("config.yaml"),
            "wanted {expected:?}: {said}"
        );
    }
    let links = lab.node_command("ip").args(["-br", "link"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("seventh"));
    assert!(!lab.pin_dir().join("links").exists());
}

#[test]
fn an_agent_does_not_start_with_a_part_of_its_policies() {
    let Some(lab) = lab() else { return };
    fs::create_dir_all(lab.dir().join("policies")).unwrap();
    write_policy(&lab, &policy("{path: \"/(unclosed\"}"));
    let said = refused(&lab, &lab.agent_config(""));
    let named = [
        "policy.yaml:",
        "document 1",
        "rules.http[0].path",
        "1 errors in policy documents",
    ];
    assert!(named.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn a_broken_policy_leaves_the_one_in_force_and_is_shown_until_it_is_mended() {
    let Some(lab) = stage(PUBLIC, "") else { return };
    let server = lab.endpoint("server").unwrap().ipv4;
    let enforced = || {
        assert_eq!(in_client(&lab, |to| fetch(to.ip(), "/public", PATIENCE)), Ok(200));
        assert_eq!(in_client(&lab, |to| fetch(to.ip(), "/denied", PATIENCE)), Ok(403));
        let intruder = lab.endpoint("intruder").unwrap();
        assert!(is_silence(
            &intruder.run(move || fetch(server, "/public", IMPATIENCE)).unwrap()
        ));
    };
    let broken = [
        (policy("{path: \"/(unclosed\"}"), "rules.http[0].path"),
        (
            policy(PUBLIC).replace("endpointSelector", "endpointSelektor"),
            "spec.endpointSelektor",
        ),
        (
            policy(PUBLIC).replace("kind: CiliumNetworkPolicy", "kind: ["),
            "policy.yaml:",
        ),
        (String::new(), "is empty now"),
    ];
    for (text, field) in broken {
        write_policy(&lab, &text);
        until(field, || status(&lab)["policy"]["findings"].to_string().contains(field));
        assert!(
            status(&lab)["problems"]
                .to_string()
                .contains("errors in policy documents")
        );
        assert!(lab.agent_log().contains(field));
        enforced();
    }
    replace_policy(&lab, &policy("{path: \"/denied\"}"));
    assert_eq!(in_client(&lab, |to| fetch(to.ip(), "/denied", PATIENCE)), Ok(200));
    assert!(status(&lab)["problems"].as_array().unwrap().is_empty());
}

#[test]
fn an_agent_that_cannot_start_leaves_the_gate_of_the_one_before_it_closed() {
    let Some(mut lab) = stage(PUBLIC, "") else { return };
    lab.end("agent", Signal::SIGKILL).unwrap();
    let sound = fs::read_to_string(lab.dir().join("config.yaml")).unwrap();
    write_policy(&lab, "kind: [");
    refused(&lab, &sound);
    let server = lab.endpoint("server").unwrap().ipv4;
    let from = |name: &str| {
        lab.endpoint(name)
            .unwrap()
            .run(move || fetch(server, "/denied", IMPATIENCE))
            .unwrap()
    };
    assert!(is_silence(&from("intruder")) && is_silence(&from("client")));
    assert_eq!(from("friend"), Ok(200));
}

#[test]
fn questions_without_an_agent_say_what_to_do() {
    let Some(lab) = lab() else { return };
    let commands = [
        &["status"][..],
        &["endpoint", "list"],
        &["endpoint", "get", "1"],
        &["policy", "get"],
        &["identity", "list"],
        &["identity", "get", "1"],
        &["bpf", "policy", "list"],
        &["bpf", "ipcache", "list"],
        &["bpf", "flows", "list"],
    ];
    for command in commands {
        let output = lab.ask_agent(binary(), command).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            said.contains("is it running?") && said.contains("seventh agent --config"),
            "{said}"
        );
    }
}
