//! Any arguments, as flags of filters.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use clap::{Args as _, Command, FromArgMatches as _};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use seventh_flows::{filter::FilterSet, json::to_json, pb::flow::FlowFilter};

use super::{Observe, filters::FLAGS};

const RUNS: u64 = 4000;
/// What flags understand, or nearly.
const VALUES: &[&str] = &[
    "",
    "a",
    "a/b",
    "/",
    "true",
    "DROPPED",
    "AUDIT",
    "http",
    "trace:to-host",
    "drop:133",
    "l7",
    "10.0.0.0/8",
    "::1",
    "1.2.3.4/99",
    "443",
    "65536",
    "-1",
    "99999999999999999999",
    "5+",
    "+",
    "k8s:app=web,tier in (a, b),!old",
    "a in (",
    "(((((",
    "[a-z]+(x|y)*$",
    "\\p{Greek}{9999}",
    "*.example.*",
    "Deployment/a",
    "syn,ack",
    "a:b",
    "ingress",
    "POLICY_DENIED",
    "4",
    "reserved:world",
    "{\"verdict\":[\"AUDIT\"]}",
    "{\"source_ip\":",
    "3m",
    "2026-01-02T15:04:05Z",
    "--not",
    "\u{1b}[31m",
    "\u{202e}\u{0}",
    "ÄÖ\u{10ffff}",
];
const OTHERS: &[&str] = &[
    "--not",
    "--all",
    "--first",
    "--last",
    "--since",
    "--until",
    "--allowlist",
    "--denylist",
    "-4",
    "-A",
];

fn value(random: &mut StdRng) -> Vec<u8> {
    let mut value = VALUES[random.random_range(0..VALUES.len())].as_bytes().to_vec();
    match random.random_range(0..8) {
        0 => value = value.repeat(random.random_range(1..200)),
        1 => value.extend((0..random.random_range(0..16)).map(|_| random.random::<u8>())),
        2 if !value.is_empty() => {
            let at = random.random_range(0..value.len());
            value[at] = random.random();
        }
        _ => {}
    }
    value
}

fn arguments(random: &mut StdRng) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let flag = if random.random_range(0..4) == 0 {
            OTHERS[random.random_range(0..OTHERS.len())].to_owned()
        } else {
            format!("--{}", FLAGS[random.random_range(0..FLAGS.len())].0)
        };
        let value = value(random);
        match random.random_range(0..4) {
            0 => arguments.push(OsString::from_vec([flag.as_bytes(), b"=", &value].concat())),
            1 => arguments.push(flag.into()),
            _ => arguments.extend([flag.into(), OsString::from_vec(value)]),
        }
    }
    arguments
}

/// What they come to: the filters, or why there are none.
fn read(arguments: &[OsString]) -> Result<(Vec<FlowFilter>, Vec<FlowFilter>), String> {
    let command = Observe::augment_args(Command::new("observe").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).map_err(|e| e.to_string())?;
    let observe = Observe::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    let request = observe.request().map_err(|e| format!("{e:#}"))?;
    Ok((request.whitelist, request.blacklist))
}

fn sets(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<(), String> {
    FilterSet::new(allow, deny).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn any_arguments_are_filters_or_an_error_and_the_same_when_they_are_read_as_printed() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..RUNS {
        let arguments = arguments(&mut StdRng::seed_from_u64(seed));
        let once = read(&arguments);
        assert_eq!(once, read(&arguments), "seed {seed}: {arguments:?}");
        let Ok((allow, deny)) = once else {
            refused += 1;
            continue;
        };
        accepted += 1;
        // As `--print-raw-filters` prints them.
        let raw = |flag: &str, filters: &[FlowFilter]| {
            let flags = filters
                .iter()
                .map(|filter| format!("--{flag}={}", to_json(filter)).into());
            flags.collect::<Vec<OsString>>()
        };
        let printed = [raw("allowlist", &allow), raw("denylist", &deny)].concat();
        assert_eq!(
            read(&printed),
            Ok((allow.clone(), deny.clone())),
            "seed {seed}: {arguments:?}"
        );
        assert_eq!(sets(&allow, &deny), sets(&allow, &deny), "seed {seed}: {arguments:?}");
    }
    assert!(
        accepted > RUNS / 20 && refused > RUNS / 20,
        "{accepted} accepted, {refused} refused"
    );
}
