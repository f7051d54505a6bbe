//! What breaks around the agent while traffic flows: the gate stays as it was, or closes, and the agent says what is wrong.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

use prost_types::Timestamp;
use seventh::lab::Lab;

use crate::{
    client::{IMPATIENCE, PATIENCE, is_silence},
    flows::observe,
    requests::ask,
    restarts::{Load, STALL_MAX},
    server,
    stage::{CAST, MTU, PUBLIC, binary, lab_of, policy, stage, status, until},
};

/// For how long the agent is stopped.
const STOPPED: Duration = Duration::from_secs(10);
/// When it goes on, requests that wait for it are answered so soon.
const RECOVERY_MAX: Duration = Duration::from_secs(1);

#[test]
fn an_agent_that_is_stopped_for_seconds_under_load_cuts_nothing_and_lets_nothing_through() {
    let Some(mut lab) = lab_of(CAST, MTU) else { return };
    let tally = server::start(lab.endpoint("server").unwrap()).unwrap();
    // It is not down: this must open nothing.
    let pid = lab.start_agent(binary(), &policy(PUBLIC), "onAgentDown: open").unwrap();
    let load = Load::start(&lab);
    load.goes_on();
    lab.signal("agent", Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    until("it is stopped", || {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") T ")
    });
    thread::sleep(STOPPED);
    lab.signal("agent", Signal::SIGCONT).unwrap();
    let continued = Instant::now();
    load.goes_on();
    let ([by_kernel, by_engine], mut seen) = load.end(&tally, STALL_MAX);
    // What was on its way when it was stopped may have been answered a moment later.
    let meanwhile = |answered: &[Instant]| {
        let settled = stopped + Duration::from_millis(500);
        answered.iter().filter(|at| (settled..continued).contains(at)).count()
    };
    let (kernels, engines) = (meanwhile(&by_kernel), meanwhile(&by_engine));
    let first = by_engine.iter().find(|at| **at > continued).expect("it goes on");
    let recovery = *first - continued;
    let _ = writeln!(
        seen,
        "new connections answered while it was stopped: {kernels} that the kernel judges, {engines} that the engine judges; \
         the first of those {recovery:?} after it went on"
    );
    println!("{seen}");
    assert!(kernels > 100, "{kernels}");
    assert_eq!(engines, 0, "nobody has judged them");
    assert!(recovery < RECOVERY_MAX, "{recovery:?}");
}

/// A time of day of its own for an agent.
struct Clock {
    file: PathBuf,
    /// Starts the agent with it.
    program: PathBuf,
}

impl Clock {
    fn make(lab: &Lab) -> Self {
        let at = |name: &str| lab.dir().join(name);
        let (file, library, program) = (at("clock"), at("clock.so"), at("agent-with-a-clock"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/programs/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
        assert!(compiler.status().expect("a C compiler").success());
        fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        let script = format!(
            "#!/bin/sh\nexec env LD_PRELOAD={} CLOCK_OFFSET={} {} \"$@\"\n",
            library.display(),
            file.display(),
            binary().display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { file, program }
    }

    /// So many seconds from the time that it is. Others have the file mapped, so it is never empty.
    fn set(&self, offset_s: i64) {
        let file = OpenOptions::new().write(true).open(&self.file).unwrap();
        file.write_all_at(&offset_s.to_ne_bytes(), 0).unwrap();
    }
}

/// By how many seconds the newest record is ahead of the time that it is.
fn newest_record_ahead_s(lab: &Lab) -> i64 {
    let records = observe(lab, &["--last", "1"]);
    let time = records[0]["time"].as_str().unwrap();
    let now = Timestamp::from(SystemTime::now());
    time.parse::<Timestamp>().unwrap().seconds - now.seconds
}

#[test]
fn when_the_time_of_day_jumps_under_load_records_go_along_and_nothing_is_cut_or_let_through() {
    let Some(mut lab) = lab_of(CAST, MTU) else { return };
    let tally = server::start(lab.endpoint("server").unwrap()).unwrap();
    let clock = Clock::make(&lab);
    lab.start_agent(&clock.program, &policy(PUBLIC), "").unwrap();
    let load = Load::start(&lab);
    for days in [0, 2, -2] {
        let offset_s = days * 24 * 60 * 60;
        clock.set(offset_s);
        load.goes_on();
        until("records have the new time", || {
            newest_record_ahead_s(&lab).abs_diff(offset_s) < 60
        });
        thread::sleep(Duration::from_millis(300));
    }
    let (_, seen) = load.end(&tally, STALL_MAX);
    println!("{seen}");
}

#[test]
fn without_its_file_system_of_pins_an_agent_goes_on_and_says_that_nothing_will_outlive_it() {
    let Some(mut lab) = stage(PUBLIC, "") else { return };
    lab.end("agent", Signal::SIGTERM).unwrap();
    let pid = lab.launch_agent(binary()).unwrap();
    let assert_enforced = |lab: &Lab| {
        assert_eq!(ask(lab, "client", "/public", PATIENCE), Ok(200));
        assert_eq!(ask(lab, "client", "/denied", PATIENCE), Ok(403));
        assert!(is_silence(&ask(lab, "intruder", "/public", IMPATIENCE)));
    };
    assert_enforced(&lab);
    // The agent has a mount namespace of its own, as in a container.
    let agent = Command::new("nsenter")
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
    let flows = |lab: &Lab| {
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
    let (_, seen) = load.end(&tally, STALL_MAX);
    println!("{seen}");
}
