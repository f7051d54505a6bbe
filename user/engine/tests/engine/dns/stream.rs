//! DNS over TCP: split, pipelined, refused, answered.

use super::message::{A, a, answer, query};
use super::node::{Node, SECOND, SHOP, address};
use crate::wire::{self, Sent, Shape};
use seventh_abi::{DropReason, Hook, PuntMeta};
use seventh_engine::{Fate, Outbox};

const BASE: u32 = 1000;
const ACK: u32 = 5000;

/// A connection to the resolver, as both sides see it.
struct Connection {
    sent: usize,
    answered: usize,
}

/// What left the engine for one segment.
struct Outcome {
    passed: bool,
    made: Vec<Sent>,
}

impl Connection {
    fn new() -> Self {
        Self { sent: 0, answered: 0 }
    }

    fn meta(&self, reply: bool) -> PuntMeta {
        let hook = if reply { Hook::ToEndpoint } else { Hook::FromEndpoint };
        PuntMeta {
            base_seq: Some(BASE),
            acked_seq: Some(BASE + self.sent as u32),
            reply,
            ..wire::punt(hook, SHOP.0)
        }
    }

    fn send(&mut self, node: &mut Node, payload: &[u8]) -> Outcome {
        let shape = Shape::new(1, 53, 53);
        let seq = BASE + self.sent as u32;
        let outcome = decide(
            node,
            shape.frame(&self.meta(false), seq, ACK + self.answered as u32, wire::ACK, payload),
        );
        if outcome.passed {
            self.sent += payload.len();
        }
        outcome
    }

    fn reply(&mut self, node: &mut Node, payload: &[u8]) -> Outcome {
        let mut shape = Shape::new(53, 1, 40_000);
        shape.source_port = 53;
        let seq = ACK + self.answered as u32;
        let outcome = decide(
            node,
            shape.frame(&self.meta(true), seq, BASE + self.sent as u32, wire::ACK, payload),
        );
        if outcome.passed {
            self.answered += payload.len();
        }
        outcome
    }
}

fn decide(node: &mut Node, mut frame: Vec<u8>) -> Outcome {
    let mut out = Outbox::new();
    wire::number(&mut frame, 0);
    let passed = node.engine.decide(&mut frame, node.now_ns, &mut out) == Fate::Forward;
    Outcome {
        passed,
        made: out.frames().map(Sent::read).collect(),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn asked(id: u16, name: &str) -> Vec<u8> {
    framed(&query(id, name, A))
}

fn told(id: u16, name: &str, last: u8) -> Vec<u8> {
    framed(&answer(id, name, A, &[a(name, address(last), 60)]))
}

#[test]
fn a_query_is_judged_and_its_answer_learned() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    assert!(connection.send(&mut node, &asked(7, "allowed.example")).passed);
    assert!(connection.reply(&mut node, &told(7, "allowed.example", 1)).passed);
    assert!(node.open(address(1)));
}

#[test]
fn cut_anywhere_it_comes_to_the_same() {
    let (question, reply) = (asked(7, "allowed.example"), told(7, "allowed.example", 1));
    for cut in 1..question.len() {
        let mut node = Node::new();
        let mut connection = Connection::new();
        assert!(connection.send(&mut node, &question[..cut]).passed);
        assert!(connection.send(&mut node, &question[cut..]).passed);
        let at = cut.min(reply.len() - 1);
        assert!(connection.reply(&mut node, &reply[..at]).passed);
        assert!(!node.open(address(1)), "open before the answer is complete");
        assert!(connection.reply(&mut node, &reply[at..]).passed);
        assert!(node.open(address(1)), "cut at {cut}");
    }
}

#[test]
fn one_byte_at_a_time() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    for byte in asked(7, "allowed.example") {
        assert!(connection.send(&mut node, &[byte]).passed);
    }
    for byte in told(7, "allowed.example", 1) {
        assert!(connection.reply(&mut node, &[byte]).passed);
    }
    assert!(node.open(address(1)));
    let refused = asked(8, "evil.example");
    let (last, rest) = refused.split_last().unwrap();
    for byte in rest {
        assert!(
            connection.send(&mut node, &[*byte]).passed,
            "nothing can be done with half a query"
        );
    }
    assert!(!connection.send(&mut node, &[*last]).passed);
}

#[test]
fn several_queries_and_answers_share_segments_in_any_order() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    let three = [
        asked(1, "allowed.example"),
        asked(2, "a.shop.example"),
        asked(3, "b.shop.example"),
    ]
    .concat();
    assert!(connection.send(&mut node, &three).passed);
    let answers = [
        told(3, "b.shop.example", 3),
        told(1, "allowed.example", 1),
        told(2, "a.shop.example", 2),
    ]
    .concat();
    let (first, second) = answers.split_at(answers.len() / 2);
    assert!(connection.reply(&mut node, first).passed);
    assert!(connection.reply(&mut node, second).passed);
    assert!((1..=3).all(|last| node.open(address(last))));
}

#[test]
fn a_refused_query_is_answered_in_a_frame_and_the_connection_ends() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    let denied = query(9, "evil.example", A);
    let outcome = connection.send(&mut node, &framed(&denied));
    assert!(!outcome.passed);
    let (refusal, resets) = outcome.made.split_first().unwrap();
    assert!(refusal.meta.reverse && refusal.flags() & wire::FIN != 0);
    let (len, message) = refusal.payload.split_at(2);
    assert_eq!(usize::from(u16::from_be_bytes([len[0], len[1]])), message.len());
    assert_eq!(
        (&message[..2], message[3] & 0xf, &message[12..]),
        (&denied[..2], 5, &denied[12..])
    );
    assert!(
        resets
            .iter()
            .all(|reset| !reset.meta.reverse && reset.flags() & wire::RST != 0)
    );
    assert_eq!(node.reason(DropReason::DnsPolicyDenied), 1);
}

#[test]
fn a_refused_query_behind_an_allowed_one_waits_for_its_turn() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    let (good, bad) = (asked(1, "allowed.example"), asked(2, "evil.example"));
    let outcome = connection.send(&mut node, &[good.clone(), bad.clone()].concat());
    assert!(!outcome.passed && outcome.made.len() == 1 && !outcome.made[0].meta.reverse);
    assert_eq!(outcome.made[0].payload, good, "only the allowed one goes on");
    connection.sent = good.len();
    assert!(connection.reply(&mut node, &told(1, "allowed.example", 1)).passed);
    let again = connection.send(&mut node, &bad);
    assert!(
        again.made[0].meta.reverse && again.made[0].payload.len() > 2,
        "now it is answered"
    );
}

#[test]
fn a_refusal_waits_until_everything_that_was_asked_before_is_answered_but_not_for_ever() {
    let names = ["allowed.example", "a.shop.example", "b.shop.example"];
    let bad = asked(9, "evil.example");
    let ask = |node: &mut Node| {
        let mut connection = Connection::new();
        for (id, name) in (0..).zip(names) {
            assert!(connection.send(node, &asked(id, name)).passed);
        }
        connection
    };
    let mut node = Node::new();
    let mut connection = ask(&mut node);
    for (id, name) in (0..).zip(names) {
        let outcome = connection.send(&mut node, &bad);
        assert!(!outcome.passed && outcome.made.is_empty(), "{id} are answered");
        assert!(connection.reply(&mut node, &told(id, name, 1)).passed);
    }
    assert!(
        connection.send(&mut node, &bad).made[0].meta.reverse,
        "its turn has come"
    );

    let mut node = Node::new();
    let mut connection = ask(&mut node);
    assert!(connection.reply(&mut node, &told(0, names[0], 1)).passed);
    assert!(connection.send(&mut node, &bad).made.is_empty());
    node.now_ns += 4 * SECOND;
    assert!(connection.send(&mut node, &bad).made.is_empty());
    node.now_ns += SECOND;
    assert!(
        connection.send(&mut node, &bad).made[0].meta.reverse,
        "the server is too slow"
    );
}

#[test]
fn an_answer_that_waits_for_an_identity_comes_again_as_a_whole() {
    let mut node = Node::new();
    node.resolve(SHOP, "other.wide.example", &[a("other.wide.example", address(2), 60)]);
    node.kernel().stubborn = true;
    let mut connection = Connection::new();
    let names = ["allowed.example", "a.shop.example"];
    for (id, name) in (0..).zip(names) {
        assert!(connection.send(&mut node, &asked(id, name)).passed);
    }
    // The second one leads to an address that another rule's name leads to, too.
    let both = [told(0, names[0], 1), told(1, names[1], 2)].concat();
    assert!(!connection.reply(&mut node, &both).passed && node.engine.parked() == 1);
    node.kernel().stubborn = false;
    node.define_missing();
    assert_eq!((node.retry(), node.engine.parked()), (1, 0));
    assert!(node.open(address(1)) && node.open(address(2)));
    connection.answered = both.len();
    let more = asked(3, "b.shop.example");
    assert!(connection.send(&mut node, &more).passed);
    assert!(connection.reply(&mut node, &told(3, "b.shop.example", 3)).passed);
}

#[test]
fn an_answer_to_nothing_ends_the_connection() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    assert!(connection.send(&mut node, &asked(7, "allowed.example")).passed);
    let outcome = connection.reply(&mut node, &told(8, "allowed.example", 1));
    assert!(!outcome.passed && outcome.made.iter().all(|frame| frame.flags() & wire::RST != 0));
    assert!(!outcome.made.is_empty() && !node.open(address(1)));
    assert_eq!(node.reason(DropReason::DnsUnsolicitedAnswer), 1);
}

#[test]
fn repeated_answers_teach_once_and_differing_ones_never_pass_for_new() {
    let mut node = Node::new();
    let mut connection = Connection::new();
    connection.send(&mut node, &asked(7, "allowed.example"));
    let reply = told(7, "allowed.example", 1);
    assert!(connection.reply(&mut node, &reply).passed);
    connection.answered = 0;
    assert!(
        connection.reply(&mut node, &told(7, "allowed.example", 2)).passed,
        "the client has these bytes"
    );
    assert!(node.open(address(1)) && !node.open(address(2)));
}

#[test]
fn what_is_no_message_is_refused() {
    for nonsense in [&[0, 0][..], &[0, 3, 1, 2, 3]] {
        let mut node = Node::new();
        let mut connection = Connection::new();
        assert!(!connection.send(&mut node, nonsense).passed);
        assert_eq!(node.reason(DropReason::DnsMalformed), 1);
    }
}

#[test]
fn acknowledging_bytes_that_were_never_sent_teaches_nothing_from_within_an_answer() {
    // What the resolver says truly holds what the endpoint would like it to have said.
    let forged = told(7, "allowed.example", 66);
    let honest = told(7, "allowed.example", 1);
    let said = [honest.clone(), forged].concat();
    for cut in [0, 1, 10] {
        let mut node = Node::new();
        let mut connection = Connection::new();
        let question = asked(7, "allowed.example");
        if cut > 0 {
            assert!(connection.send(&mut node, &question[..cut]).passed);
        }
        let shape = Shape::new(1, 53, 53);
        let mut meta = connection.meta(false);
        meta.reply_idle = false;
        let lie = ACK + honest.len() as u32;
        let frame = shape.frame(&meta, BASE + cut as u32, lie, wire::ACK, &question[cut..]);
        let lied = decide(&mut node, frame);
        assert!(lied.made.is_empty() && (cut > 0 || !lied.passed));
        assert!(connection.send(&mut node, &question[cut..]).passed);
        let outcome = connection.reply(&mut node, &said);
        assert!(!node.open(address(66)), "cut at {cut}");
        assert!(!outcome.passed, "the second answer is to nothing that was asked");
    }
}
