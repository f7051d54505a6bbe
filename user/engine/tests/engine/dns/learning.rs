//! What answers teach: which names get which addresses, for whom, and in which order.

use super::message::{A, HTTPS, a, answer, cname, header, name, query, question, record};
use super::node::{Became, Node, OTHER, POD, POLICY, SECOND, SHOP, address, resolver, v4_of};
use seventh_abi::{Addr, DropReason};
use seventh_engine::{Decided, EngineLimits, NameLimits, SCOPE_NODE};
use std::collections::HashSet;

#[test]
fn an_address_is_open_when_its_answer_goes_on_and_not_before() {
    let mut node = Node::new();
    assert!(!node.open(address(1)));
    node.resolve(
        SHOP,
        "allowed.example",
        &[
            a("allowed.example", address(1), 60),
            a("allowed.example", address(2), 60),
        ],
    );
    assert!(node.open(address(1)) && node.open(address(2)) && !node.open(address(3)));
    assert!(!node.opens(SHOP, address(1), 80, false), "only the port of the rule");
    assert_eq!(node.kernel().writes, 1, "one batch");
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    assert_eq!(node.kernel().writes, 1, "nothing new");
}

#[test]
fn an_answer_is_held_back_while_the_kernel_takes_nothing() {
    let mut node = Node::new();
    node.kernel().broken = true;
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    let sound = answer(7, "allowed.example", A, &[a("allowed.example", address(1), 60)]);
    assert_eq!(node.reply(SHOP, 1000, &sound), Became::Nothing);
    assert_eq!(node.reason(DropReason::DnsNotLearned), 1);
    node.kernel().broken = false;
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    assert_eq!(node.reply(SHOP, 1000, &sound), Became::Passed);
    assert!(node.open(address(1)));
}

#[test]
fn names_that_no_rule_asks_for_open_nothing() {
    let mut node = Node::new();
    node.resolve(SHOP, "a.wide.example", &[a("a.wide.example", address(1), 60)]);
    assert!(!node.open(address(1)) && node.kernel().names.is_empty());
    assert_eq!(node.shared.names().list().len(), 1, "but a later rule may");
}

#[test]
fn a_name_opens_addresses_only_for_the_endpoint_that_resolved_it() {
    let mut node = Node::new();
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    assert!(node.opens(SHOP, address(1), 443, false) && !node.opens(OTHER, address(1), 443, false));
    let mut shared = Node::with(EngineLimits::default(), NameLimits::default(), true);
    shared.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    assert!(shared.opens(OTHER, address(1), 443, false));
    assert_eq!(shared.shared.names().list()[0].scope, SCOPE_NODE);
}

#[test]
fn every_name_of_a_complete_chain_is_credited() {
    let mut node = Node::new();
    let chain = [
        cname("a.wide.example", "b.wide.example", 60),
        cname("b.wide.example", "allowed.example", 60),
        a("allowed.example", address(1), 60),
        a("stranger.example", address(2), 60),
    ];
    node.resolve(SHOP, "a.wide.example", &chain);
    assert!(node.open(address(1)) && !node.open(address(2)));
    let names: HashSet<String> = node.shared.names().list().into_iter().map(|n| n.name).collect();
    let expected = ["a.wide.example.", "b.wide.example.", "allowed.example."].map(String::from);
    assert_eq!(names, expected.into());
}

/// The resolver may be asked for some names only. Whoever answers for one of them says that it leads to a name of somebody
/// else, which rules do open, and where that is.
#[test]
fn a_chain_credits_no_name_for_which_this_server_may_not_be_asked() {
    let foreign = POLICY.replace(
        "  - toFQDNs:\n    - matchName: allowed.example\n",
        "  - toFQDNs:\n    - matchName: bank.test\n    - matchName: allowed.example\n",
    );
    let mut node = Node::new();
    node.set_policy(&foreign, false);
    let chain = |end: &str| {
        [
            cname("evil.wide.example", "bank.test", 60),
            cname("bank.test", end, 60),
            a(end, address(1), 60),
        ]
    };
    node.resolve(SHOP, "evil.wide.example", &chain("b.wide.example"));
    assert!(!node.open(address(1)), "bank.test");
    let names: Vec<String> = node.shared.names().list().into_iter().map(|n| n.name).collect();
    assert_eq!(names, ["b.wide.example.", "evil.wide.example."]);
    node.resolve(SHOP, "evil.wide.example", &chain("allowed.example"));
    assert!(node.open(address(1)), "but a name for which it may be asked");
}

/// Everything that an answer can hold beside what was asked for, each with an address of its own.
#[test]
fn records_of_other_names_and_sections_teach_nothing() {
    let mut node = Node::new();
    let hint = |last| [&[0, 1, 0][..], &[0, 4, 0, 4, 192, 0, 2, last]].concat();
    let other_class = {
        let mut record = a("allowed.example", address(8), 60);
        let class_at = name("allowed.example").len() + 2;
        record[class_at + 1] = 3;
        record
    };
    let answers = [
        a("allowed.example", address(1), 60),
        a("a.shop.example", address(2), 60),
        record("b.shop.example", HTTPS, 60, &hint(3)),
        cname("c.shop.example", "allowed.example", 60),
        // An address inside of a label, and one of a name that only looks the same.
        record("allowed.example", 16, 60, &[4, 192, 0, 2, 4]),
        a("allowed.example.shop.example", address(5), 60),
        other_class,
    ];
    let elsewhere = [
        a("allowed.example", address(6), 60),
        a("d.shop.example", address(7), 60),
    ];
    let counts = [1, answers.len() as u16, 1, 1];
    let message = [
        header(1, 0x8180, counts),
        question("allowed.example", A),
        answers.concat(),
        elsewhere.concat(),
    ]
    .concat();
    node.ask(SHOP, 1000, &query(1, "allowed.example", A));
    assert_eq!(node.reply(SHOP, 1000, &message), Became::Passed);
    let known: Vec<(String, Addr)> = node
        .shared
        .names()
        .list()
        .into_iter()
        .map(|n| (n.name, n.addr))
        .collect();
    assert_eq!(known, [("allowed.example.".to_owned(), address(1))]);
    assert_eq!(node.kernel().names.len(), 1);
}

/// What a rule forbids by address, no name opens.
#[test]
fn a_denied_prefix_stays_denied_whatever_name_leads_there() {
    let denied = format!("{POLICY}  egressDeny:\n  - toCIDR: [192.0.2.0/28]\n");
    let mut node = Node::new();
    node.set_policy(&denied, false);
    node.resolve(
        SHOP,
        "allowed.example",
        &[
            a("allowed.example", address(1), 60),
            a("allowed.example", address(100), 60),
        ],
    );
    assert!(!node.open(address(1)) && node.open(address(100)));
}

#[test]
fn chains_that_lead_nowhere_teach_nothing() {
    let mut node = Node::new();
    let nowhere: [&[Vec<u8>]; 4] = [
        &[cname("allowed.example", "b.example", 60)],
        &[cname("allowed.example", "allowed.example", 60)],
        &[
            cname("allowed.example", "b.example", 60),
            cname("b.example", "allowed.example", 60),
        ],
        &[a("b.example", address(1), 60), cname("c.example", "b.example", 60)],
    ];
    for records in nowhere {
        node.resolve(SHOP, "allowed.example", records);
    }
    let long: Vec<Vec<u8>> = (0..20)
        .map(|n| cname(&format!("a{n}.shop.example"), &format!("a{}.shop.example", n + 1), 60))
        .chain([a("a20.shop.example", address(1), 60)])
        .collect();
    node.resolve(SHOP, "a0.shop.example", &long);
    assert!(node.shared.names().list().is_empty());
    node.resolve(SHOP, "a4.shop.example", &long);
    assert_eq!(node.shared.names().list().len(), 17, "sixteen links are followed");
}

#[test]
fn hints_of_service_records_are_addresses() {
    let mut node = Node::new();
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let hints = [&[0, 1, 0][..], &[0, 4, 0, 4, 192, 0, 2, 1], &[0, 6, 0, 16], &v6].concat();
    let alias = [&[0, 0][..], &name("cdn.example")].concat();
    node.ask(SHOP, 1000, &query(7, "allowed.example", HTTPS));
    let records = [
        record("allowed.example", HTTPS, 60, &alias),
        record("allowed.example", HTTPS, 60, &hints),
    ];
    assert_eq!(
        node.reply(SHOP, 1000, &answer(7, "allowed.example", HTTPS, &records)),
        Became::Passed
    );
    assert!(node.open(address(1)) && node.open(v6));
}

#[test]
fn a_name_never_opens_a_pod_and_never_outranks_what_the_ipcache_tells_apart() {
    let mut node = Node::new();
    let inside = [a("allowed.example", POD, 60), a("allowed.example", resolver(), 60)];
    node.resolve(SHOP, "allowed.example", &inside);
    assert!(!node.open(POD));
    // The resolver lies in a prefix that a policy names: it keeps that one's rules and gets those of the name.
    assert!(node.open(resolver()));
    let in_prefix = v4_of([203, 0, 113, 5]);
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", in_prefix, 60)]);
    assert!(node.opens(SHOP, in_prefix, 443, false) && node.opens(SHOP, in_prefix, 80, false));
}

#[test]
fn addresses_share_one_identity_per_set_of_selectors() {
    let mut node = Node::new();
    for n in 0..=255 {
        for (domain, byte) in [("allowed.example", 1), ("x.shop.example", 2)] {
            node.resolve(SHOP, domain, &[a(domain, v4_of([198, 18, byte, n]), 60)]);
        }
    }
    let identities: HashSet<u32> = node.kernel().names.values().map(|entry| entry.identity).collect();
    assert_eq!((identities.len(), node.kernel().names.len()), (2, 512));
    assert_eq!(
        node.kernel().defined,
        0,
        "identities of single selectors are there before they are needed"
    );
}

#[test]
fn an_address_under_names_of_several_rules_gets_the_ports_of_all() {
    let mut node = Node::new();
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    assert!(!node.opens(SHOP, address(1), 8443, false));
    node.resolve(SHOP, "other.wide.example", &[a("other.wide.example", address(1), 60)]);
    assert!(node.opens(SHOP, address(1), 8443, false) && node.open(address(1)));
    assert_eq!(node.kernel().defined, 1, "an identity was made while the answer waited");
}

#[test]
fn without_an_identity_the_answer_does_not_go_on_and_what_was_open_stays_open() {
    let mut node = Node::new();
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    node.kernel().stubborn = true;
    for _ in 0..2 {
        node.ask(SHOP, 1000, &query(7, "other.wide.example", A));
        let records = [a("other.wide.example", address(1), 60)];
        assert_eq!(
            node.reply(SHOP, 1000, &answer(7, "other.wide.example", A, &records)),
            Became::Nothing
        );
    }
    assert_eq!((node.engine.parked(), node.reason(DropReason::DnsNotLearned)), (2, 0));
    assert!(node.open(address(1)) && !node.opens(SHOP, address(1), 8443, false));
    // Others do not suffer.
    node.resolve(SHOP, "x.shop.example", &[a("x.shop.example", address(2), 60)]);
    node.kernel().stubborn = false;
    node.define_missing();
    assert!(node.opens(SHOP, address(1), 8443, false));
    assert_eq!(node.retry(), 1, "the second answer is to the same query");
    assert_eq!(
        (node.engine.parked(), node.reason(DropReason::DnsUnsolicitedAnswer)),
        (0, 1)
    );
}

#[test]
fn an_answer_that_waits_in_vain_is_dropped_in_the_end() {
    let mut node = Node::new();
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    node.kernel().stubborn = true;
    node.ask(SHOP, 1000, &query(7, "other.wide.example", A));
    let records = [a("other.wide.example", address(1), 60)];
    node.reply(SHOP, 1000, &answer(7, "other.wide.example", A, &records));
    node.now_ns += SECOND;
    assert_eq!((node.retry(), node.engine.parked()), (0, 1));
    node.now_ns += 2 * SECOND;
    assert_eq!((node.retry(), node.engine.parked()), (0, 0));
    assert_eq!(node.reason(DropReason::DnsNotLearned), 1);
}

#[test]
fn a_row_that_the_kernel_refuses_stops_nobody_else_and_leaves_nothing_behind() {
    let mut node = Node::new();
    node.kernel().refused.insert(address(1));
    let both = [
        a("allowed.example", address(1), 60),
        a("allowed.example", address(2), 60),
    ];
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    assert_eq!(
        node.reply(SHOP, 1000, &answer(7, "allowed.example", A, &both)),
        Became::Nothing
    );
    assert_eq!(node.reason(DropReason::DnsNotLearned), 1);
    let writes = node.kernel().writes;
    node.resolve(OTHER, "a.shop.example", &[a("a.shop.example", address(3), 60)]);
    assert!(node.opens(OTHER, address(3), 443, false));
    assert_eq!(
        node.kernel().writes,
        writes + 1,
        "what was refused is not tried with every answer"
    );
    // What was written beside the refused row is known and goes with its name.
    assert!(node.open(address(2)) && !node.open(address(1)));
    node.kernel().refused.clear();
    node.pass_time(1);
    assert!(node.open(address(1)), "tried again");
    node.kernel().refused.insert(address(2));
    node.pass_time(60);
    node.shared.names().collect(|_, _| false);
    assert_eq!(node.kernel().names.len(), 1, "it cannot be taken away yet");
    node.kernel().refused.clear();
    node.pass_time(1);
    assert!(node.kernel().names.is_empty());
}

#[test]
fn rules_under_which_something_open_lacks_an_identity_are_not_in_force_before_it_has_one() {
    let mut node = Node::new();
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    let rules = node.rules_without_identities();
    let lacking = node.shared.names().set_rules(&rules, false).unwrap_err();
    assert!(node.open(address(1)), "nothing has changed");
    let identities = lacking.into_iter().map(|class| (class, 77)).collect();
    assert_eq!(
        node.shared
            .names()
            .set_rules(&rules.clone().with_identities(identities), false),
        Ok(())
    );
    assert_eq!(node.kernel().names[&(SHOP.1, address(1))].identity, 77);
    assert_eq!(node.shared.names().set_rules(&rules, true), Ok(()));
    assert!(
        node.kernel().names.is_empty(),
        "it must, and what has no identity is shut"
    );
}

/// The longest work that one answer can make: many owners, whose names are as long as they can be, a chain, more
/// addresses than are kept, and all of it again for each of eight questions. Against a plain answer of the same size.
#[test]
fn the_worst_answer_takes_little_longer_than_a_plain_one_of_its_size() {
    let long = |n: usize| format!("{n:03}{}.shop.example", format!(".{}", "x".repeat(60)).repeat(3));
    let mut worst: Vec<Vec<u8>> = (0..16).map(|n| cname(&long(n), &long(n + 1), 60)).collect();
    let mut size = worst.iter().map(Vec::len).sum::<usize>();
    for n in 0u32.. {
        let record = a(&long(16), v4_of([100, 65, (n >> 8) as u8, n as u8]), 60 + n % 7);
        size += record.len();
        if size > 60_000 {
            break;
        }
        worst.push(record);
    }
    let plain: Vec<Vec<u8>> = (0u32..60_000 / 32)
        .map(|n| a("000.shop.example", v4_of([100, 66, (n >> 8) as u8, n as u8]), 60))
        .collect();
    let time = |records: &[Vec<u8>], name: &str| {
        let took = |_| {
            let mut node = Node::new();
            node.ask(SHOP, 1000, &query(7, name, A));
            let message = answer(7, name, A, records);
            let begin = std::time::Instant::now();
            node.reply(SHOP, 1000, &message);
            begin.elapsed()
        };
        (0..5).map(took).min().unwrap()
    };
    let (worst, plain) = (time(&worst, &long(0)), time(&plain, "000.shop.example"));
    assert!(worst < 20 * plain, "{worst:?}, a plain one {plain:?}");
}

#[test]
fn another_policy_sorts_anew_what_is_known() {
    let mut node = Node::new();
    node.resolve(SHOP, "a.wide.example", &[a("a.wide.example", address(1), 60)]);
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(2), 60)]);
    let changed = POLICY.replace("- matchName: other.wide.example", "- matchName: a.wide.example");
    let changed = changed.replace("- matchName: allowed.example\n    - matchPattern", "- matchPattern");
    node.set_policy(&changed, false);
    assert!(node.opens(SHOP, address(1), 8443, false), "asked for now");
    assert!(!node.open(address(2)), "no longer asked for");
    node.set_policy(POLICY, false);
    assert!(!node.opens(SHOP, address(1), 8443, false) && node.open(address(2)));
}

#[test]
fn the_engine_knows_an_address_by_its_name_as_the_kernel_does() {
    // A port with HTTP rules behind toFQDNs: the engine must find the rules that the kernel found.
    let inspected = POLICY.replace(
        "- ports: [{port: \"443\", protocol: TCP}]",
        "- ports: [{port: \"443\", protocol: TCP}]\n      rules: {http: [{path: /a}]}",
    );
    let mut node = Node::new();
    node.set_policy(&inspected, false);
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 60)]);
    let mut connection = crate::world::Connection::new();
    connection.meta.hook = seventh_abi::Hook::FromEndpoint;
    connection.shape.destination_port = 443;
    // A flow that the kernel let begin by another name has that one's rights: none to this port.
    node.resolve(SHOP, "other.wide.example", &[a("other.wide.example", address(3), 60)]);
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(3), 60)]);
    let epoch = node.shared.policy().endpoints[&SHOP.0].epoch;
    let other = node.identity_of("other.wide.example");
    node.kernel().flows.insert(
        address(3),
        Decided::By {
            peer_identity: other,
            epoch,
        },
    );
    // One that it decided under another policy is not decided at all yet.
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(4), 60)]);
    let identity = node.kernel().names[&(SHOP.1, address(4))].identity;
    let earlier = Decided::By {
        peer_identity: identity,
        epoch: epoch - 1,
    };
    node.kernel().flows.insert(address(4), earlier);
    for (addr, passes) in [
        (address(1), true),
        (address(2), false),
        (address(3), false),
        (address(4), false),
    ] {
        connection.shape.destination = addr;
        let mut frame = connection.frame(0, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        crate::wire::number(&mut frame, 0);
        let mut out = seventh_engine::Outbox::new();
        let fate = node.engine.decide(&mut frame, node.now_ns, &mut out);
        assert_eq!(
            fate == seventh_engine::Fate::Forward,
            passes,
            "{:?}",
            node.shared.take_record()
        );
    }
    assert_eq!(node.engine.parked(), 1);
    let now = Decided::By {
        peer_identity: identity,
        epoch,
    };
    node.kernel().flows.insert(address(4), now);
    node.now_ns += SECOND / 10;
    assert_eq!((node.retry(), node.engine.parked()), (1, 0));
    // What waits until another connection has begun on its ports is not taken for that one's.
    connection.shape.source_port += 1;
    for (number, kernel) in [(1, earlier), (2, now)] {
        node.kernel().flows.insert(address(4), kernel);
        let mut frame = connection.frame(0, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        crate::wire::number(&mut frame, number);
        let mut out = seventh_engine::Outbox::new();
        let fate = node.engine.decide(&mut frame, node.now_ns, &mut out);
        assert_eq!(fate == seventh_engine::Fate::Forward, number == 2);
    }
    node.now_ns += SECOND / 10;
    assert_eq!((node.retry(), node.engine.parked()), (0, 0));
    assert_eq!(node.reason(DropReason::EngineOtherConnection), 1);
}

#[test]
fn a_name_whose_time_is_over_gives_a_new_flow_no_way_past_the_rules_that_are_left() {
    // The address lies in a prefix whose port 80 has HTTP rules; the name opens port 80 without any.
    let inspected = POLICY
        .replace(
            "- ports: [{port: \"80\", protocol: TCP}]",
            "- ports: [{port: \"80\", protocol: TCP}]\n      rules: {http: [{path: /a}]}",
        )
        .replace(
            "{port: \"443\", protocol: TCP}",
            "{port: \"443\", protocol: TCP}, {port: \"80\", protocol: TCP}",
        );
    let mut node = Node::new();
    node.set_policy(&inspected, false);
    let addr = v4_of([203, 0, 113, 5]);
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", addr, 60)]);
    let mut connection = crate::world::Connection::new();
    connection.meta.hook = seventh_abi::Hook::FromEndpoint;
    connection.shape.destination_port = 80;
    connection.shape.destination = addr;
    node.pass_time(61);
    assert_eq!(node.shared.names().lingering(), 1);
    let epoch = node.shared.policy().endpoints[&SHOP.0].epoch;
    let by_prefix = node
        .shared
        .policy()
        .ipcache
        .lookup("203.0.113.5".parse().unwrap())
        .identity;
    for kernel in [
        Decided::By {
            peer_identity: by_prefix,
            epoch,
        },
        Decided::NoKernel,
    ] {
        node.kernel().flows.insert(addr, kernel);
        let mut frame = connection.frame(0, "GET /other HTTP/1.1\r\nHost: a\r\n\r\n");
        crate::wire::number(&mut frame, 0);
        let mut out = seventh_engine::Outbox::new();
        let fate = node.engine.decide(&mut frame, node.now_ns, &mut out);
        assert_eq!(fate, seventh_engine::Fate::Consumed, "{kernel:?}");
        connection.shape.source_port += 1;
    }
    assert_eq!(node.reason(DropReason::HttpPolicyDenied), 2);
}

/// Pairs of name and address that are kept.
fn kept(node: &Node) -> usize {
    node.shared.names().list().len()
}

#[test]
fn names_that_no_rule_asks_for_push_out_none_that_one_does() {
    let mut node = Node::new();
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(1), 6000)]);
    let names_max = NameLimits::default().names_max;
    for n in 0..names_max as u32 + 500 {
        let name = format!("n{n:x}.wide.example");
        node.resolve(SHOP, &name, &[a(&name, numbered(n), 6000)]);
    }
    assert_eq!(kept(&node), names_max);
    assert!(node.open(address(1)));
}

#[test]
fn a_flood_of_names_that_rules_ask_for_pushes_out_the_oldest_and_stays_within_bounds() {
    let limits = NameLimits {
        names_max: 100,
        addresses_per_name_max: 4,
        addresses_max: 150,
        ..NameLimits::default()
    };
    let mut node = Node::with(EngineLimits::default(), limits, false);
    for n in 0..1000u32 {
        let name = format!("n{n}.shop.example");
        node.resolve(SHOP, &name, &[a(&name, numbered(n), 60)]);
    }
    assert_eq!(kept(&node) - node.shared.names().lingering(), 100);
    assert!(!node.open(numbered(0)) && node.open(numbered(999)) && node.open(numbered(900)));
    let many: Vec<_> = (0..20)
        .map(|n| a("allowed.example", numbered(5000 + n), 60 + n))
        .collect();
    node.resolve(SHOP, "allowed.example", &many);
    assert!(
        node.open(numbered(5019)) && !node.open(numbered(5000)),
        "four addresses, the longest-lived"
    );
    for n in 0..200u32 {
        let name = format!("m{n}.shop.example");
        node.resolve(
            OTHER,
            &name,
            &[a(&name, numbered(2 * n), 60), a(&name, numbered(2 * n + 1), 60)],
        );
    }
    let live = node.shared.names().list().into_iter().filter(|n| !n.lingers);
    assert!(live.count() <= 150, "over both endpoints");
}

fn numbered(n: u32) -> Addr {
    v4_of([100, 64, (n >> 8) as u8, n as u8])
}
