//! What IPv6 needs on the link passes beside the policy, and nothing in its disguise.

use std::{thread, time::Duration};

use seventh_abi::{Counter, DropReason};
use seventh_datapath::AttachMode;

use super::{
    Lab,
    frames::{Wrapping, icmp_v6},
    from_endpoint, isolated, to_endpoint,
};

const OWN: &str = "fd77:1::2";
const OTHER: &str = "fd77:2::9";
const LINK: &str = "fe80::1";
const FAR: &str = "2001:db8::9";
const NEIGHBOUR: &str = "fd77:1::1";
const ALL: &str = "ff02::1";
const GROUP: &str = "ff05::1:3";

/// Whether it leaves the endpoint.
const OUT: &[bool] = &[true];
const IN: &[bool] = &[false];
const BOTH: &[bool] = &[true, false];

/// Ways, type, hop limit, source, destination.
type Message = (&'static [bool], u8, u8, &'static str, &'static str);

const NEEDED: &[Message] = &[
    (IN, 130, 1, LINK, ALL),
    (BOTH, 131, 1, LINK, GROUP),
    (BOTH, 131, 1, "::", GROUP),
    (BOTH, 132, 1, LINK, "ff02::2"),
    (BOTH, 143, 1, LINK, "ff02::16"),
    (BOTH, 143, 1, "::", "ff02::16"),
    (BOTH, 133, 255, LINK, "ff02::2"),
    (IN, 134, 255, LINK, ALL),
    (BOTH, 135, 255, "::", "ff02::1:ff00:2"),
    (OUT, 135, 255, OWN, NEIGHBOUR),
    (IN, 135, 255, NEIGHBOUR, OWN),
    (BOTH, 136, 255, LINK, LINK),
];

const DISGUISED: &[(Message, &str)] = &[
    ((BOTH, 130, 64, LINK, ALL), "a query that a router forwards"),
    ((OUT, 130, 1, LINK, ALL), "an endpoint is no router"),
    ((IN, 130, 1, FAR, ALL), "a query of a stranger"),
    ((IN, 130, 1, "::", ALL), "a query of nobody"),
    ((BOTH, 131, 255, LINK, GROUP), "a report that a router forwards"),
    ((OUT, 131, 1, OWN, GROUP), "from an address that is known further away"),
    ((BOTH, 143, 2, LINK, "ff02::16"), "a report that is forwarded once"),
    ((OUT, 143, 1, LINK, FAR), "a report to a stranger"),
    ((OUT, 132, 1, LINK, OTHER), "the same to another endpoint"),
    ((OUT, 134, 255, LINK, ALL), "an endpoint is no router"),
    ((BOTH, 135, 254, LINK, LINK), "has been forwarded"),
    ((OUT, 135, 255, OWN, FAR), "a router would forward it"),
    ((OUT, 136, 255, LINK, FAR), "a router would forward it"),
    ((OUT, 136, 255, "fd77:1::7", NEIGHBOUR), "somebody else's address"),
    ((BOTH, 137, 255, LINK, LINK), "redirects are the policy's"),
];

/// Whether the message passes at the endpoint's device.
fn passes(lab: &Lab, leaves: bool, kind: u8, from: &str, to: &str, wrapping: &Wrapping) -> bool {
    let frame = icmp_v6(kind, from, to, wrapping);
    let all = || lab.datapath.counters().unwrap();
    let before = all();
    if leaves {
        from_endpoint(lab, frame);
    } else {
        to_endpoint(&frame);
    }
    let grown = |now: &[u64], at: usize| now[at] > before[at];
    let decided = |now: &[u64]| {
        let dropped = DropReason::ALL.iter().any(|reason| grown(now, *reason as usize));
        (dropped, dropped || grown(now, Counter::Unmanaged as usize))
    };
    for _ in 0..200 {
        if decided(&all()).1 {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let (dropped, counted) = decided(&all());
    assert!(counted, "type {kind} from {from} to {to}: in no counter");
    !dropped
}

/// Nothing of ICMP is allowed here.
#[test]
fn what_ipv6_needs_on_the_link_passes_and_nothing_in_its_disguise() {
    isolated(|| {
        let lab = Lab::new(AttachMode::Auto, 1500, &[]);
        let hops = |limit| Wrapping {
            hop_limit: Some(limit),
            ..Wrapping::default()
        };
        for (ways, kind, limit, from, to) in NEEDED {
            for leaves in *ways {
                let passed = passes(&lab, *leaves, *kind, from, to, &hops(*limit));
                assert!(passed, "type {kind} from {from} to {to}, leaves: {leaves}");
            }
        }
        for ((ways, kind, limit, from, to), why) in DISGUISED {
            for leaves in *ways {
                let passed = passes(&lab, *leaves, *kind, from, to, &hops(*limit));
                assert!(!passed, "type {kind} from {from} to {to}, leaves: {leaves}: {why}");
            }
        }
        let fragment = Wrapping {
            extensions: vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])],
            ..hops(255)
        };
        assert!(
            !passes(&lab, true, 135, LINK, LINK, &fragment),
            "the first of several fragments"
        );
        lab.end();
    });
}
