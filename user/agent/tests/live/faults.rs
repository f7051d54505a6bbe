//! What breaks around the agent while traffic flows: the gate stays as it was, or closes, and the agent says what is wrong.

use std::{thread, time::Duration};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

use crate::{
    client::{IMPATIENCE, PATIENCE, is_silence},
    requests::ask,
    restarts::Load,
    server,
    stage::{CAST, MTU, PUBLIC, binary, lab_of, policy, stage, status, until},
};

/// For how long the agent is stopped in the ordinary run, in seconds; `SEVENTH_STOPPED_S` says otherwise.
const STOPPED_S: u64 = 2;

#[test]
fn an_agent_that_is_stopped_for_seconds_under_load_cuts_nothing_and_lets_nothing_through() {
    let Some(mut lab) = lab_of(CAST, MTU) else { return };
    let tally = server::start(lab.endpoint("server").unwrap()).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "").unwrap();
    let load = Load::start(&lab);
    load.goes_on();
    let stopped_s = std::env::var("SEVENTH_STOPPED_S").map_or(STOPPED_S, |seconds| seconds.parse().unwrap());
    lab.signal("agent", Signal::SIGSTOP).unwrap();
    thread::sleep(Duration::from_secs(stopped_s));
    lab.signal("agent", Signal::SIGCONT).unwrap();
    load.goes_on();
    let (_, seen) = load.end(&tally);
    println!("{seen}");
}

#[test]
fn without_its_file_system_of_pins_an_agent_goes_on_and_says_that_nothing_will_outlive_it() {
    let Some(mut lab) = stage(PUBLIC, "") else { return };
    lab.end("agent", Signal::SIGTERM).unwrap();
    let pid = lab.launch_agent(binary()).unwrap();
    let assert_enforced = |lab: &seventh::lab::Lab| {
        assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200));
        assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
        assert!(is_silence(&ask(lab, "intruder", "/public", IMPATIENCE)));
    };
    assert_enforced(&lab);
    // The agent has a mount namespace of its own, as in a container.
    let agent = std::process::Command::new("nsenter")
        .args(["--mount", "--target", &pid.to_string(), "umount", "--lazy"])
        .arg(lab.dir().join("bpf"))
        .output()
        .unwrap();
    assert!(agent.status.success(), "{}", String::from_utf8_lossy(&agent.stderr));
    umount2(&lab.dir().join("bpf"), MntFlags::MNT_DETACH).unwrap();
    assert_enforced(&lab);
    until("the loss is a problem", || {
        status(&lab)["problems"]
            .to_string()
            .contains("the pins on the bpf file system are gone")
    });
    // It ends in order, too.
    lab.end("agent", Signal::SIGTERM).unwrap();
}

#[test]
fn an_endpoint_that_vanishes_with_its_namespace_in_mid_flow_disturbs_nobody() {
    let Some(mut lab) = lab_of(&[CAST, &[("mayfly", "client")]].concat(), MTU) else {
        return;
    };
    let tally = server::start(lab.endpoint("server").unwrap()).unwrap();
    lab.start_agent(binary(), &policy(PUBLIC), "").unwrap();
    let load = Load::start(&lab);
    let mayfly = lab.endpoint("mayfly").unwrap();
    let url = format!(
        "http://{}:8080/bytes/{}",
        lab.endpoint("server").unwrap().ipv4,
        u64::MAX / 2
    );
    let mut download = mayfly.command("curl");
    let mut download = download
        .args(["-sS", "--limit-rate", "1M", "-o", "/dev/null", &url])
        .spawn()
        .unwrap();
    let flows = |lab: &seventh::lab::Lab| {
        let output = lab
            .ask_agent(binary(), &["bpf", "flows", "list", "-o", "json"])
            .unwrap();
        String::from_utf8(output.stdout).unwrap().matches("10.0.5.2").count()
    };
    until("its flow is there", || flows(&lab) > 0);
    lab.remove("mayfly").unwrap();
    download.kill().unwrap();
    download.wait().unwrap();
    until("the agent misses it", || {
        status(&lab)["problems"].to_string().contains("no interface `v-mayfly`")
    });
    load.goes_on();
    let (_, seen) = load.end(&tally);
    println!("{seen}");
}
