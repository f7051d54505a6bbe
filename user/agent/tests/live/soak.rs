//! Mixed load while policies change: what the agent holds stays what it was.

use std::{
    fmt::Write as _,
    fs, thread,
    time::{Duration, Instant},
};

use seventh::lab::Lab;

use crate::{
    metrics::page,
    overload::{policies, resident_kib},
    restarts::Load,
    server,
    stage::{CAST, MTU, binary, lab_of, replace_policy, until},
};

/// How long it takes in the ordinary run, in seconds; `SEVENTH_SOAK_S` says otherwise (`./seventh-dev soak`).
const SOAK_S: u64 = 12;
/// Between two changes of the policy.
const CHURN: Duration = Duration::from_millis(400);
/// A connection that waits for so long is stuck. On a machine that is busy with other things for half an hour some wait for seconds.
const STUCK: Duration = Duration::from_secs(15);
/// What resident memory may have grown by since the first third: the ring of records still fills, and allocators keep a little.
const GROWTH_MAX_KIB: u64 = 48 << 10;

/// What must not grow.
#[derive(Debug)]
struct Holdings {
    resident_kib: u64,
    descriptors: usize,
    /// Entries of the kernel's tables that policies and names fill.
    policy: usize,
    ipcache: usize,
    names: usize,
}

impl Holdings {
    fn of(lab: &Lab, pid: u32) -> Self {
        let entries = |map| {
            let output = lab.ask_agent(binary(), &["bpf", map, "list", "-o", "json"]).unwrap();
            assert!(output.status.success(), "{map}: {output:?}");
            String::from_utf8_lossy(&output.stdout).lines().count()
        };
        Self {
            resident_kib: resident_kib(pid),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            policy: entries("policy"),
            ipcache: entries("ipcache"),
            names: entries("names"),
        }
    }
}

/// Places for frames that are nowhere, of all workers.
fn unaccounted(lab: &Lab) -> f64 {
    let (_, body) = page(lab, "/metrics");
    let series = body
        .lines()
        .filter(|line| line.starts_with("seventh_worker_frames_unaccounted{"));
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[test]
fn under_mixed_load_and_changing_policies_nothing_grows() {
    let Some(mut lab) = lab_of(&[CAST, &[("flood", "flood")]].concat(), MTU) else {
        return;
    };
    let tally = server::start(lab.endpoint("server").unwrap()).unwrap();
    let more = "metrics: {listen: \"127.0.0.1:9964\"}";
    let pid = lab.start_agent(binary(), &policies(), more).unwrap();
    let time = Duration::from_secs(std::env::var("SEVENTH_SOAK_S").map_or(SOAK_S, |seconds| seconds.parse().unwrap()));
    // The same rules under other names: every row is written anew, and every flow decided again.
    let churned = policies().replace("name: server", "name: other");
    let texts = [policies(), churned];
    let idle = Holdings::of(&lab, pid);
    let load = Load::start(&lab);
    let (began, mut changes, mut warm) = (Instant::now(), 0_usize, None);
    let mut resident_kib_each_tenth = Vec::new();
    while began.elapsed() < time {
        thread::sleep(CHURN);
        changes += 1;
        replace_policy(&lab, &texts[changes % 2]);
        if began.elapsed() > time / 10 * u32::try_from(resident_kib_each_tenth.len() + 1).unwrap() {
            resident_kib_each_tenth.push(resident_kib(pid));
        }
        if warm.is_none() && began.elapsed() > time / 3 {
            warm = Some(Holdings::of(&lab, pid));
        }
    }
    if !changes.is_multiple_of(2) {
        replace_policy(&lab, &texts[0]);
    }
    load.goes_on();
    let (_, mut seen) = load.end(&tally, STUCK);
    let warm = warm.unwrap();
    until("all places for frames are accounted for", || unaccounted(&lab) < 1.0);
    let end = Holdings::of(&lab, pid);
    let _ = writeln!(
        seen,
        "{changes} changes of policy in {time:?}\nidle {idle:?}\nwarm {warm:?}\nend  {end:?}\nresident KiB at each tenth: \
         {resident_kib_each_tenth:?}"
    );
    println!("{seen}");
    assert!(end.resident_kib < warm.resident_kib + GROWTH_MAX_KIB, "resident memory");
    assert!(end.descriptors <= idle.descriptors + 4, "descriptors");
    assert_eq!(
        (end.policy, end.ipcache, end.names),
        (idle.policy, idle.ipcache, idle.names),
        "rows of policies that are gone"
    );
}
