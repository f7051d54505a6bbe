//! What time does to names.

use super::message::a;
use super::node::{Node, OTHER, SECOND, SHOP, address};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seventh_abi::Addr;
use seventh_engine::{EngineLimits, NameLimits};
use std::collections::{HashMap, HashSet};

fn resolve(node: &mut Node, name: &str, last: u8, ttl_s: u32) {
    node.resolve(SHOP, name, &[a(name, address(last), ttl_s)]);
}

#[test]
fn an_address_is_open_for_its_time_and_at_least_for_the_shortest() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 0);
    resolve(&mut node, "allowed.example", 2, 90);
    node.pass_time(59);
    assert!(node.open(address(1)) && node.open(address(2)));
    node.pass_time(1);
    assert!(!node.open(address(1)) && node.open(address(2)));
    node.pass_time(30);
    assert!(!node.open(address(2)));
}

#[test]
fn no_answer_opens_an_address_for_more_than_a_day() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, i32::MAX.unsigned_abs());
    // The highest bit stands for no time at all.
    resolve(&mut node, "allowed.example", 2, u32::MAX);
    node.pass_time(60);
    assert!(node.open(address(1)) && !node.open(address(2)));
    node.pass_time(86_400 - 61);
    assert!(node.open(address(1)));
    node.pass_time(1);
    assert!(!node.open(address(1)));
}

#[test]
fn a_shorter_time_takes_nothing_away_and_a_new_answer_prolongs() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 200);
    resolve(&mut node, "allowed.example", 1, 1);
    node.pass_time(199);
    assert!(node.open(address(1)));
    resolve(&mut node, "allowed.example", 1, 100);
    node.pass_time(99);
    assert!(node.open(address(1)));
    node.pass_time(1);
    assert!(!node.open(address(1)));
}

#[test]
fn grace_prolongs_everything() {
    let limits = NameLimits {
        grace_ns: 30 * SECOND,
        ttl_min_ns: 5 * SECOND,
        ..NameLimits::default()
    };
    let mut node = Node::with(EngineLimits::default(), limits, false);
    resolve(&mut node, "allowed.example", 1, 1);
    node.pass_time(34);
    assert!(node.open(address(1)));
    node.pass_time(1);
    assert!(!node.open(address(1)));
}

#[test]
fn an_expired_address_serves_its_flows_until_they_end_and_no_new_ones() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 60);
    resolve(&mut node, "allowed.example", 2, 60);
    node.pass_time(60);
    for last in [1, 2] {
        assert!(!node.opens(SHOP, address(last), 443, false) && node.opens(SHOP, address(last), 443, true));
    }
    assert_eq!(node.shared.names().lingering(), 2);
    let with_flow: Addr = address(1);
    node.shared
        .names()
        .collect(|scope, addr| scope == SHOP.1 && *addr == with_flow);
    assert!(node.opens(SHOP, address(1), 443, true) && !node.opens(SHOP, address(2), 443, true));
    assert_eq!(node.kernel().names.len(), 1);
    node.shared.names().collect(|_, _| false);
    assert!(node.kernel().names.is_empty() && node.shared.names().lingering() == 0);
}

#[test]
fn an_address_that_loses_one_of_two_names_keeps_the_other_for_new_flows() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 60);
    resolve(&mut node, "other.wide.example", 1, 90);
    node.pass_time(60);
    assert!(!node.opens(SHOP, address(1), 443, false) && node.opens(SHOP, address(1), 443, true));
    assert!(node.opens(SHOP, address(1), 8443, false) && node.opens(SHOP, address(1), 8443, true));
}

#[test]
fn what_was_forgotten_by_hand_is_shut() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 60);
    resolve(&mut node, "a.shop.example", 2, 60);
    assert_eq!(
        node.shared.names().forget(|_, name| name.ends_with("shop.example.")),
        (1, true)
    );
    assert!(node.open(address(1)) && !node.open(address(2)));
}

#[test]
fn what_is_known_survives_the_process() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 60);
    resolve(&mut node, "a.shop.example", 2, 600);
    node.pass_time(60);
    let saved = node.shared.names().list();
    let mut next = Node::new();
    next.now_ns = node.now_ns;
    next.shared.names().restore(saved, next.now_ns);
    next.set_policy(super::node::POLICY, false);
    assert!(next.open(address(2)) && !next.open(address(1)));
    assert!(next.opens(SHOP, address(1), 443, true), "a lingering one still lingers");
    next.pass_time(540);
    assert!(!next.open(address(2)));
}

#[test]
fn what_expires_between_two_agents_lingers_for_the_next_and_opens_nothing() {
    let mut node = Node::new();
    resolve(&mut node, "allowed.example", 1, 60);
    let saved = node.shared.names().list();
    assert!(!saved[0].lingers);
    let mut next = Node::new();
    next.now_ns = node.now_ns + 100 * SECOND;
    next.shared.names().restore(saved, next.now_ns);
    next.set_policy(super::node::POLICY, false);
    assert!(next.opens(SHOP, address(1), 443, true) && !next.open(address(1)));
    assert!(!next.opens(SHOP, address(1), 8443, true), "only what the name gave");
    next.shared.names().collect(|_, _| false);
    assert!(next.kernel().names.is_empty());
}

/// Random lessons and random time against a model that is a list.
#[test]
fn the_table_agrees_with_a_list() {
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut node = Node::new();
        let names = [
            "allowed.example",
            "a.shop.example",
            "b.shop.example",
            "other.wide.example",
            "z.wide.example",
        ];
        let mut model: HashMap<(u32, &str, Addr), u64> = HashMap::new();
        for _ in 0..200 {
            if rng.random_bool(0.7) {
                let endpoint = if rng.random_bool(0.5) { SHOP } else { OTHER };
                let name = names[rng.random_range(0..names.len())];
                let addr = address(rng.random_range(0..6));
                let ttl_s = rng.random_range(0..200);
                node.resolve(endpoint, name, &[a(name, addr, ttl_s)]);
                let expires = node.now_ns + u64::from(ttl_s.max(60)) * SECOND;
                let known = model.entry((endpoint.1, name, addr)).or_default();
                *known = expires.max(*known);
            } else {
                node.now_ns += rng.random_range(0..90) * SECOND;
                while !node.shared.names().tend(node.now_ns).is_empty() {
                    node.define_missing();
                }
                node.shared.names().collect(|_, _| false);
            }
            model.retain(|_, expires| *expires > node.now_ns);
            assert_agrees(&node, &model, seed);
        }
    }
}

#[track_caller]
fn assert_agrees(node: &Node, model: &HashMap<(u32, &str, Addr), u64>, seed: u64) {
    for endpoint in [SHOP, OTHER] {
        for addr in (0..6).map(address) {
            let known: HashSet<&str> = model
                .keys()
                .filter(|k| k.0 == endpoint.1 && k.2 == addr)
                .map(|k| k.1)
                .collect();
            let https = known.contains("allowed.example") || known.iter().any(|n| n.ends_with("shop.example"));
            let other = known.contains("other.wide.example");
            assert_eq!(
                node.opens(endpoint, addr, 443, false),
                https,
                "seed {seed}: {addr:?} {known:?}"
            );
            assert_eq!(
                node.opens(endpoint, addr, 8443, false),
                other,
                "seed {seed}: {addr:?} {known:?}"
            );
        }
    }
}
