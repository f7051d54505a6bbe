//! Which queries go on, what the others are answered, and which answers come back.

use super::message::{A, a, answer, cname, header, query, question, record, with_flags};
use super::node::{Became, Node, OTHER, SECOND, SHOP, address};
use seventh_abi::DropReason;
use seventh_engine::{DnsRecord, DnsRefusal, EngineLimits, L7Record, NameLimits, RecordVerdict};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The rcode of an answer that echoes this query.
#[track_caller]
fn refused(became: Became, query: &[u8]) -> u8 {
    let Became::Answered(answer) = became else {
        panic!("{became:?}")
    };
    assert_eq!(answer[..2], query[..2], "the id");
    assert_eq!(answer[2] & 0x80, 0x80, "an answer");
    assert_eq!(answer[12..], query[12..], "the question");
    answer[3] & 0xf
}

#[test]
fn names_pass_as_their_rules_say() {
    let mut node = Node::new();
    for (name, allowed) in [
        ("allowed.example", true),
        ("ALLOWED.eXample", true),
        ("www.allowed.example", false),
        ("xallowed.example", false),
        ("a.shop.example", true),
        ("shop.example", false),
        ("a.b.shop.example", false),
        ("a.wide.example", true),
        ("a.b.wide.example", true),
        ("wide.example", false),
        ("example", false),
        ("", false),
        ("xn--mnchen-3ya.shop.example", true),
        ("*.shop.example", false),
        ("a b.shop.example", false),
    ] {
        for query_type in [1, 28, 16, 255, 65_280] {
            let query = query(9, name, query_type);
            match node.ask(SHOP, 1000, &query) {
                Became::Passed => assert!(allowed, "{name}"),
                denied => assert_eq!((refused(denied, &query), allowed), (5, false), "{name}"),
            }
        }
    }
}

#[test]
fn a_dot_inside_a_label_is_no_dot() {
    let mut node = Node::new();
    let query = [
        header(1, 0, [1, 0, 0, 0]),
        b"\x06a.shop\x07example\0\0\x01\0\x01".to_vec(),
    ]
    .concat();
    assert_eq!(refused(node.ask(SHOP, 1000, &query), &query), 5);
}

#[test]
fn every_question_must_be_allowed() {
    let mut node = Node::new();
    let both = |second| {
        [
            header(3, 0, [2, 0, 0, 0]),
            question("allowed.example", 1),
            question(second, 1),
        ]
        .concat()
    };
    assert_eq!(node.ask(SHOP, 1000, &both("a.shop.example")), Became::Passed);
    let mixed = both("evil.example");
    assert_eq!(refused(node.ask(SHOP, 1000, &mixed), &mixed), 5);
    assert_eq!(node.reason(DropReason::DnsPolicyDenied), 1);
}

#[test]
fn what_is_no_query_is_refused() {
    let mut node = Node::new();
    let update = [header(3, 5 << 11, [1, 0, 0, 0]), question("allowed.example", 6)].concat();
    assert_eq!(refused(node.ask(SHOP, 1000, &update), &update), 5);
    let empty = header(4, 0x0100, [0; 4]);
    assert_eq!(refused(node.ask(SHOP, 1000, &empty), &empty), 5);
    let reply = answer(5, "allowed.example", 1, &[]);
    assert_eq!(node.ask(SHOP, 1000, &reply), Became::Nothing);
    assert_eq!(node.reason(DropReason::DnsNotQuery), 3);
}

#[test]
fn what_cannot_be_read_is_refused_or_dropped() {
    let mut node = Node::new();
    let sound = query(7, "allowed.example", 1);
    let trailing = [&sound[..], b"x"].concat();
    let Became::Answered(answer) = node.ask(SHOP, 1000, &trailing) else {
        panic!("no answer")
    };
    assert_eq!((answer[3] & 0xf, &answer[12..]), (1, &sound[12..]), "FORMERR");
    let looped = [header(7, 0, [1, 0, 0, 0]), vec![0xc0, 12, 0, 1, 0, 1]].concat();
    assert_eq!(
        node.ask(SHOP, 1000, &looped),
        Became::Answered(header(7, 0x8081, [0; 4]))
    );
    for cut in 0..sound.len() {
        let became = node.ask(SHOP, 1000, &sound[..cut]);
        assert_eq!(matches!(became, Became::Answered(_)), cut >= 12, "cut at {cut}");
    }
    assert_eq!(node.reason(DropReason::DnsMalformed), 2 + sound.len() as u64);
}

#[test]
fn the_refusal_can_be_nxdomain() {
    let limits = EngineLimits {
        dns_refusal: DnsRefusal::NoSuchName,
        ..EngineLimits::default()
    };
    let mut node = Node::with(limits, NameLimits::default(), false);
    let denied = query(7, "evil.example", 1);
    assert_eq!(refused(node.ask(SHOP, 1000, &denied), &denied), 3);
}

#[test]
fn a_refused_query_is_told_with_its_name() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "Evil.example", 28));
    node.ask(SHOP, 1000, &query(7, "allowed.example", 1));
    let mut records = std::iter::from_fn(|| node.shared.take_record());
    let denied = records.next().unwrap();
    assert_eq!(asked(&denied), ("evil.example.", "AAAA".into()));
    assert!(denied.dns().unwrap().answer().is_none());
    assert_eq!(
        (denied.reason, denied.protocol),
        (Some(DropReason::DnsPolicyDenied), 17)
    );
    let allowed = records.next().unwrap();
    assert_eq!(asked(&allowed), ("allowed.example.", "A".into()));
    assert!(allowed.rule.is_some() && records.next().is_none());
}

fn asked(record: &L7Record) -> (&str, Cow<'static, str>) {
    let dns = record.dns().unwrap();
    (dns.query(), dns.query_type())
}

fn told(node: &Node) -> Vec<L7Record> {
    std::iter::from_fn(|| node.shared.take_record())
        .map(Arc::unwrap_or_clone)
        .collect()
}

#[test]
fn an_answer_is_told_with_what_it_says_and_how_long_it_took() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "a.shop.example", A));
    node.now_ns += 2_000_000;
    let records = [
        cname("a.shop.example", "Deep.example", 20),
        a("deep.example", address(1), 60),
        a("deep.example", address(2), 30),
    ];
    let message = answer(7, "a.shop.example", A, &records);
    assert_eq!(node.reply(SHOP, 1000, &message), Became::Passed);
    let records = told(&node);
    let [question, answer] = records.as_slice() else {
        panic!("{records:?}")
    };
    assert_eq!(
        (asked(question), asked(answer)),
        (("a.shop.example.", "A".into()), ("a.shop.example.", "A".into()))
    );
    assert_eq!(
        (answer.verdict, answer.rule.is_some()),
        (RecordVerdict::Forwarded, true)
    );
    let ip = |n| IpAddr::from(Ipv6Addr::from(address(n))).to_canonical();
    let answer = answer.dns().unwrap().answer().unwrap();
    assert_eq!(answer.ips(), [ip(1), ip(2)]);
    assert_eq!(answer.cnames().collect::<Vec<_>>(), ["deep.example."]);
    assert_eq!(answer.record_types().collect::<Vec<_>>(), ["CNAME", "A"]);
    assert_eq!(
        (answer.rcode(), answer.ttl_s(), answer.latency_ns()),
        (0, 20, 2_000_000)
    );
}

#[test]
fn what_an_answer_that_is_dropped_says_is_told_too() {
    let mut node = Node::new();
    let message = answer(7, "a.shop.example", A, &[a("a.shop.example", address(1), 60)]);
    node.reply(SHOP, 1000, &message);
    let records = told(&node);
    let [unsolicited] = records.as_slice() else {
        panic!("{records:?}")
    };
    assert_eq!(unsolicited.reason, Some(DropReason::DnsUnsolicitedAnswer));
    let answer = unsolicited.dns().unwrap().answer().unwrap();
    assert_eq!((answer.ips().len(), answer.latency_ns()), (1, 0));
}

#[test]
fn an_error_without_a_question_is_told_with_the_name_that_was_asked_for() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "allowed.example", 16));
    assert_eq!(node.reply(SHOP, 1000, &header(7, 0x8181, [0; 4])), Became::Passed);
    let records = told(&node);
    assert_eq!(asked(&records[1]), ("allowed.example.", "TXT".into()));
    assert_eq!(records[1].dns().unwrap().answer().unwrap().rcode(), 1);
}

#[test]
fn lists_of_a_long_answer_are_cut() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    let records: Vec<_> = (0..200).map(|n| a("allowed.example", address(n), 60)).collect();
    assert_eq!(
        node.reply(SHOP, 1000, &answer(7, "allowed.example", A, &records)),
        Became::Passed
    );
    let ips = told(&node)[1].dns().unwrap().answer().unwrap().ips().len();
    assert_eq!(ips, DnsRecord::LIST_MAX);
}

#[test]
fn each_question_of_a_message_is_told() {
    let mut node = Node::new();
    let both = [
        header(7, 0x0100, [2, 0, 0, 0]),
        question("allowed.example", A),
        question("a.shop.example", 28),
    ]
    .concat();
    assert_eq!(node.ask(SHOP, 1000, &both), Became::Passed);
    let records = told(&node);
    let asked: Vec<_> = records.iter().map(asked).collect();
    assert_eq!(
        asked,
        [("allowed.example.", "A".into()), ("a.shop.example.", "AAAA".into())]
    );
}

#[test]
fn only_an_answer_to_what_was_asked_comes_back_and_teaches() {
    let mut node = Node::new();
    let records = [a("allowed.example", address(1), 60)];
    let sound = answer(7, "allowed.example", A, &records);
    assert_eq!(node.reply(SHOP, 1000, &sound), Became::Nothing, "nobody asked");
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    let wrong = [
        answer(8, "allowed.example", A, &records),
        answer(7, "a.shop.example", A, &records),
        answer(7, "allowed.example", 28, &records),
        with_flags(7, 0x0180, "allowed.example", A, &records),
        [header(7, 0x8180, [0, 1, 0, 0]), records[0].clone()].concat(),
        [
            header(7, 0x8180, [2, 1, 0, 0]),
            question("allowed.example", A),
            question("b", A),
            records[0].clone(),
        ]
        .concat(),
    ];
    for wrong in &wrong {
        assert_eq!(node.reply(SHOP, 1000, wrong), Became::Nothing);
    }
    assert_eq!(node.reply(SHOP, 1001, &sound), Became::Nothing, "another port");
    assert_eq!(
        node.reply_from(54, SHOP, 1000, &sound),
        Became::Nothing,
        "another server"
    );
    assert_eq!(node.reply(OTHER, 1000, &sound), Became::Nothing, "another endpoint");
    // The other server is none that a rule lets answer.
    assert_eq!(node.reason(DropReason::DnsUnsolicitedAnswer), wrong.len() as u64 + 3);
    assert!(!node.open(address(1)) && node.shared.names().list().is_empty());
    assert_eq!(node.reply(SHOP, 1000, &sound), Became::Passed);
    assert!(node.open(address(1)));
    assert_eq!(node.reply(SHOP, 1000, &sound), Became::Nothing, "a second time");
}

#[test]
fn an_answer_that_comes_too_late_is_dropped() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    node.now_ns += 30 * SECOND;
    let late = answer(7, "allowed.example", A, &[a("allowed.example", address(1), 60)]);
    assert_eq!(node.reply(SHOP, 1000, &late), Became::Nothing);
}

#[test]
fn the_case_of_the_question_may_come_back_otherwise() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "AlLoWeD.eXaMpLe", A));
    let echoed = answer(7, "AlLoWeD.eXaMpLe", A, &[a("allowed.EXAMPLE", address(1), 60)]);
    assert_eq!(node.reply(SHOP, 1000, &echoed), Became::Passed);
    assert!(node.open(address(1)));
}

/// A flood between the right addresses and ports, as Kaminsky's: every id but a few is tried, the right one among them.
#[test]
fn a_flood_of_guessed_answers_teaches_nothing_even_if_one_is_right() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(0x4242, "allowed.example", A));
    node.ask(SHOP, 1001, &query(0x4242, "a.shop.example", A));
    for id in (0..=u16::MAX).step_by(11) {
        let forged = answer(id, "allowed.example", A, &[a("allowed.example", address(66), 9999)]);
        assert_eq!(node.reply(SHOP, 1000, &forged), Became::Nothing);
    }
    assert!(0x4242 % 11 == 0 && !node.open(address(66)));
    let sound = |name| answer(0x4242, name, A, &[a(name, address(1), 60)]);
    assert_eq!(
        node.reply(SHOP, 1000, &sound("allowed.example")),
        Became::Nothing,
        "nobody knows any more which one is sound"
    );
    assert_eq!(
        node.reply(SHOP, 1001, &sound("a.shop.example")),
        Became::Passed,
        "another port is not concerned"
    );
    node.resolve(SHOP, "allowed.example", &[a("allowed.example", address(2), 60)]);
    assert!(node.open(address(2)), "asked again");
}

#[test]
fn a_cut_answer_passes_so_that_tcp_is_tried() {
    let mut node = Node::new();
    let records = [a("allowed.example", address(1), 60)];
    let cut = with_flags(7, 0x8380, "allowed.example", A, &records);
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    assert_eq!(node.reply(SHOP, 1000, &cut[..cut.len() - 3]), Became::Passed);
    assert!(!node.open(address(1)), "a record that is not whole");
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    assert_eq!(node.reply(SHOP, 1000, &cut), Became::Passed);
    assert!(node.open(address(1)), "a client may use what is there");
}

#[test]
fn a_broken_answer_is_dropped_and_the_sound_one_still_awaited() {
    let mut node = Node::new();
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    let broken = answer(7, "allowed.example", A, &[record("allowed.example", A, 60, &[1, 2, 3])]);
    assert_eq!(node.reply(SHOP, 1000, &broken), Became::Nothing);
    assert_eq!(node.reason(DropReason::DnsMalformedAnswer), 1);
    let sound = answer(7, "allowed.example", A, &[]);
    assert_eq!(node.reply(SHOP, 1000, &sound), Became::Passed);
}

#[test]
fn errors_come_back_also_without_the_question() {
    let mut node = Node::new();
    for rcode in [1, 2, 4, 5] {
        node.ask(SHOP, 1000, &query(7, "allowed.example", A));
        assert_eq!(
            node.reply(SHOP, 1000, &header(7, 0x8180 | rcode, [0; 4])),
            Became::Passed
        );
        assert_eq!(
            node.reply(SHOP, 1000, &header(7, 0x8180 | rcode, [0; 4])),
            Became::Nothing
        );
    }
    node.ask(SHOP, 1000, &query(7, "allowed.example", A));
    let lying = with_flags(7, 0x8183, "allowed.example", A, &[a("allowed.example", address(1), 60)]);
    assert_eq!(node.reply(SHOP, 1000, &lying), Became::Passed);
    assert!(!node.open(address(1)), "NXDOMAIN teaches nothing");
}

#[test]
fn edns_passes_and_is_answered_in_kind() {
    let mut node = Node::new();
    let with_opt = |name: &str| {
        let opt = [&[0, 0, 41, 0x10, 0][..], &[0; 6]].concat();
        [header(7, 0x0100, [1, 0, 0, 1]), question(name, A), opt].concat()
    };
    assert_eq!(node.ask(SHOP, 1000, &with_opt("allowed.example")), Became::Passed);
    let Became::Answered(refusal) = node.ask(SHOP, 1000, &with_opt("evil.example")) else {
        panic!("no answer")
    };
    assert_eq!(refusal[10..12], [0, 1], "one additional record");
    assert_eq!(refusal[refusal.len() - 11..][..3], [0, 0, 41]);
}
