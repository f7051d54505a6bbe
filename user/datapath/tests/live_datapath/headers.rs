//! A packet is judged by its ports, whatever headers lie before them; and by the flow it speaks of.

use std::{thread, time::Duration};

use seventh_abi::{
    Counter, Direction, DropReason, IDENTITY_ANY, POLICY_PREFIX_FULL, PolicyEntry, PolicyKey, PolicyVerdict,
};
use seventh_datapath::AttachMode;

use super::{
    Lab, TCP, any, entry,
    frames::{End, SCTP, UDP, Wrapping, frame, icmp_error},
    from_endpoint, isolated, to_endpoint,
};

/// The endpoint `cl0`, and somebody outside who is not there.
const OWN: &str = "10.77.1.2";
const OTHER: &str = "10.77.2.9";
const OWN_V6: &str = "fd77:1::2";
const OTHER_V6: &str = "fd77:2::9";

const ALLOWED: u16 = 7000;
const DENIED: u16 = 7001;

fn row(direction: Direction, protocol: u8, port: u16, verdict: PolicyVerdict) -> (u32, PolicyKey, PolicyEntry) {
    let key = PolicyKey::new(1, IDENTITY_ANY, direction, protocol, port);
    let reason = if matches!(verdict, PolicyVerdict::Deny) {
        DropReason::PolicyDenyRule as u8
    } else {
        0
    };
    let entry = PolicyEntry {
        reason,
        ..entry(verdict, 0)
    };
    (POLICY_PREFIX_FULL, key, entry)
}

/// Everything may leave but what goes to one port; one port is open to the inside.
fn lab(protocol: u8) -> Lab {
    let rows = [
        any(Direction::Egress, PolicyVerdict::Allow),
        row(Direction::Egress, protocol, DENIED, PolicyVerdict::Deny),
        row(Direction::Ingress, protocol, ALLOWED, PolicyVerdict::Allow),
    ];
    Lab::new(AttachMode::Auto, 1500, &rows)
}

/// What was counted when a frame passed the endpoint's device. Neighbours may be looked for at any time: those are left
/// out.
fn counted(lab: &Lab, act: impl FnOnce()) -> Vec<(String, u64)> {
    let paths = Counter::ALL.iter().map(|(counter, name)| (*counter as usize, *name));
    let drops = DropReason::ALL.iter().map(|reason| (*reason as usize, reason.name()));
    let noise = [Counter::EventLost as usize, Counter::Unmanaged as usize];
    let all: Vec<_> = paths.chain(drops).filter(|(at, _)| !noise.contains(at)).collect();
    let before = lab.datapath.counters().unwrap();
    let grown = || {
        let now = lab.datapath.counters().unwrap();
        let grown = all.iter().filter(|(at, _)| now[*at] > before[*at]);
        let mut grown: Vec<_> = grown
            .map(|(at, name)| ((*name).to_owned(), now[*at] - before[*at]))
            .collect();
        grown.sort();
        grown
    };
    act();
    for _ in 0..200 {
        if !grown().is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    // What is counted once more shows, too.
    thread::sleep(Duration::from_millis(20));
    grown()
}

fn once(names: &[&str]) -> Vec<(String, u64)> {
    let mut names: Vec<_> = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    names.sort();
    names
}

fn leaves(lab: &Lab, protocol: u8, from: End, to: End, wrapping: &Wrapping) -> Vec<(String, u64)> {
    let frame = frame(protocol, from, to, wrapping);
    counted(lab, || from_endpoint(lab, frame))
}

fn arrives(lab: &Lab, protocol: u8, from: End, to: End, wrapping: &Wrapping) -> Vec<(String, u64)> {
    counted(lab, || to_endpoint(&frame(protocol, from, to, wrapping)))
}

#[test]
fn sctp_is_judged_by_its_ports_and_each_association_is_a_flow_of_its_own() {
    isolated(|| {
        let lab = lab(SCTP);
        let plain = Wrapping::default();
        for (own, other) in [(OWN, OTHER), (OWN_V6, OTHER_V6)] {
            let out = |port| leaves(&lab, SCTP, (own, 40_000), (other, port), &plain);
            let into = |from, to| arrives(&lab, SCTP, (other, from), (own, to), &plain);
            assert_eq!(out(DENIED), once(&["policy_deny_rule"]), "a deny beside allow-all");
            assert_eq!(out(7002), once(&["forwarded", "flow_created"]));
            assert_eq!(
                out(7003),
                once(&["forwarded", "flow_created"]),
                "another port, another flow"
            );
            assert_eq!(out(7003), once(&["forwarded"]));
            assert_eq!(into(7003, 40_000), once(&["forwarded_reply"]));
            // The same two addresses, but nobody has asked from there.
            assert_eq!(into(7004, 40_000), once(&["policy_denied"]));
            assert_eq!(into(50_000, ALLOWED), once(&["forwarded", "flow_created"]));
            assert_eq!(into(50_000, DENIED), once(&["policy_denied"]));
        }
        lab.end();
    });
}

#[test]
fn ports_are_found_behind_the_options_of_ipv4() {
    isolated(|| {
        let lab = lab(UDP);
        for words in [1_usize, 5, 10] {
            let options = vec![1; words * 4];
            let wrapping = Wrapping {
                options,
                ..Wrapping::default()
            };
            let port = 40_000 + u16::try_from(words).unwrap();
            let out = |to| leaves(&lab, UDP, (OWN, port), (OTHER, to), &wrapping);
            assert_eq!(out(DENIED), once(&["policy_deny_rule"]), "{words} words of options");
            assert_eq!(
                out(7002),
                once(&["forwarded", "flow_created"]),
                "{words} words of options"
            );
            let into = |to| arrives(&lab, UDP, (OTHER, port), (OWN, to), &wrapping);
            assert_eq!(
                into(ALLOWED),
                once(&["forwarded", "flow_created"]),
                "{words} words of options"
            );
            assert_eq!(into(DENIED), once(&["policy_denied"]), "{words} words of options");
        }
        lab.end();
    });
}

/// Hop-by-hop options: `PadN`.
fn hop_by_hop() -> (u8, Vec<u8>) {
    (0, vec![0, 0, 1, 4, 0, 0, 0, 0])
}

/// Destination options of so many times eight bytes.
fn destination(units: u8) -> (u8, Vec<u8>) {
    let padding = usize::from(units) * 8 - 4;
    let mut header = vec![0, units - 1, 1, u8::try_from(padding).unwrap()];
    header.resize(usize::from(units) * 8, 0);
    (60, header)
}

#[test]
fn ports_are_found_behind_extension_headers_and_what_could_hide_them_is_dropped() {
    isolated(|| {
        let lab = lab(UDP);
        let out = |extensions: Vec<(u8, Vec<u8>)>, port, to| {
            let wrapping = Wrapping {
                extensions,
                ..Wrapping::default()
            };
            leaves(&lab, UDP, (OWN_V6, port), (OTHER_V6, to), &wrapping)
        };
        for (at, chain) in [
            vec![hop_by_hop()],
            vec![destination(1)],
            vec![hop_by_hop(), destination(4), destination(1)],
            vec![destination(1); 5],
        ]
        .into_iter()
        .enumerate()
        {
            let port = 41_000 + u16::try_from(at).unwrap();
            assert_eq!(
                out(chain.clone(), port, DENIED),
                once(&["policy_deny_rule"]),
                "{chain:?}"
            );
            assert_eq!(
                out(chain.clone(), port, 7002),
                once(&["forwarded", "flow_created"]),
                "{chain:?}"
            );
        }
        let routing = (43, vec![0, 0, 4, 0, 0, 0, 0, 0]);
        let fragment = (44, vec![0, 0, 0, 0, 0, 0, 0, 9]);
        for (label, chain) in [
            ("a routing header may change the destination", vec![routing]),
            ("more headers than are followed", vec![destination(1); 6]),
            ("a fragment of a fragment", vec![fragment.clone(), fragment.clone()]),
        ] {
            assert_eq!(out(chain, 42_000, 7002), once(&["invalid_extension_header"]), "{label}");
        }
        assert_eq!(
            out(vec![fragment], 42_001, 7002),
            once(&["forwarded", "flow_created"]),
            "a whole packet with a fragment header is no fragment"
        );
        let later = (44, vec![0, 0, 0, 8 * 2, 0, 0, 0, 9]);
        assert_eq!(
            out(vec![later], 42_002, 7002),
            once(&["fragment_not_found"]),
            "nothing in front of it was allowed"
        );
        lab.end();
    });
}

#[test]
fn ports_are_found_behind_one_and_two_vlan_tags_and_three_are_dropped() {
    isolated(|| {
        let lab = lab(UDP);
        let tags = [(0x88a8, 100), (0x8100, 200), (0x8100, 300)];
        for (own, other) in [(OWN, OTHER), (OWN_V6, OTHER_V6)] {
            for tagged in [&tags[1..2], &tags[..2]] {
                let wrapping = Wrapping {
                    tags: tagged.to_vec(),
                    ..Wrapping::default()
                };
                let port = 43_000 + u16::try_from(tagged.len()).unwrap();
                let out = |to| leaves(&lab, UDP, (own, port), (other, to), &wrapping);
                assert_eq!(out(DENIED), once(&["policy_deny_rule"]), "{tagged:?}");
                assert_eq!(out(7002), once(&["forwarded", "flow_created"]), "{tagged:?}");
                let into = |to| arrives(&lab, UDP, (other, port), (own, to), &wrapping);
                assert_eq!(into(ALLOWED), once(&["forwarded", "flow_created"]), "{tagged:?}");
                assert_eq!(into(DENIED), once(&["policy_denied"]), "{tagged:?}");
            }
        }
        // A fourth, for the one that the kernel may take out of the frame before it comes here.
        let wrapping = Wrapping {
            tags: [&tags[..], &tags[2..]].concat(),
            ..Wrapping::default()
        };
        assert_eq!(
            leaves(&lab, UDP, (OWN, 43_003), (OTHER, 7002), &wrapping),
            once(&["unsupported_l3_protocol"])
        );
        lab.end();
    });
}

#[test]
fn an_icmp_error_passes_only_if_it_speaks_of_an_allowed_flow_of_the_endpoint() {
    isolated(|| {
        for protocol in [UDP, TCP, SCTP] {
            let lab = lab(protocol);
            let plain = Wrapping::default();
            for (own, other, router) in [(OWN, OTHER, "10.77.9.9"), (OWN_V6, OTHER_V6, "fd77:9::9")] {
                let error = |from: End, to: End| {
                    let frame = icmp_error(router, protocol, from, to);
                    counted(&lab, || to_endpoint(&frame))
                };
                leaves(&lab, protocol, (own, 44_000), (other, 7002), &plain);
                leaves(&lab, protocol, (own, 44_000), (other, DENIED), &plain);
                let allowed = error((own, 44_000), (other, 7002));
                assert_eq!(allowed, once(&["forwarded_reply"]), "{protocol}: about an allowed flow");
                for (label, from, to) in [
                    ("a denied flow", (own, 44_000), (other, DENIED)),
                    ("another port of the endpoint", (own, 44_001), (other, 7002)),
                    ("another port of the peer", (own, 44_000), (other, 7003)),
                    ("another peer", (own, 44_000), (router, 7002)),
                ] {
                    assert_eq!(error(from, to), once(&["policy_denied"]), "{protocol}: about {label}");
                }
            }
            lab.end();
        }
    });
}
