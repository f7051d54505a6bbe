//! HelloRetryRequest: a second ClientHello must carry the name of the first, however it is sent.

use super::hello::{Hello, record, server_hello, server_hello_message};
use super::{answer, connection, world};
use crate::world::{Connection, SECOND, World};
use seventh_abi::{DropReason, InjectAction, Replies};
use seventh_engine::EngineCounter;

const SKIPPED: [&[u8]; 2] = [&[20, 3, 3, 0, 1, 1], &[21, 3, 3, 0, 2, 1, 90]];

fn is_forward(outcome: &crate::world::Outcome) -> bool {
    matches!(outcome.forwarded().meta.action, InjectAction::Forward { .. })
}

/// A connection whose first hello was allowed, and how long it was.
fn begun(world: &mut World, hello: &Hello) -> (Connection, usize) {
    let connection = connection(443);
    let bytes = hello.records();
    let outcome = connection.send(world, 0, &bytes);
    assert_eq!(outcome.forwarded().meta.action, InjectAction::Keep);
    assert_eq!(outcome.forwarded().meta.replies, Replies::Punt);
    (connection, bytes.len())
}

#[test]
fn when_the_server_accepts_the_kernel_carries_on_alone() {
    for cut in [0, 1, 5, 20, 42] {
        let mut world = world();
        let (connection, sent) = begun(&mut world, &Hello::new("a.example"));
        let hello = server_hello(false);
        if cut > 0 {
            assert!(!is_forward(&answer(&mut world, &connection, 0, sent, &hello[..cut])));
        }
        let last = answer(&mut world, &connection, cut as u32, sent, &hello[cut..]);
        let meta = &last.forwarded().meta;
        assert_eq!(
            (meta.action, meta.replies),
            (InjectAction::Forward { epoch: world.epoch() }, Replies::Pass)
        );
        assert!(meta.reverse);
        // What was on its way meanwhile.
        assert!(is_forward(&connection.send(&mut world, sent, record(23, b"finished"))));
        world.tick();
        assert_eq!(
            world.count(EngineCounter::HeldBytes),
            "a.example".len() as u64,
            "the name"
        );
    }
}

#[test]
fn after_a_retry_the_same_name_passes_and_another_does_not() {
    for (name, allowed) in [("a.example", true), ("b.shop.example", false), ("x.example", false)] {
        let mut world = world();
        let (mut connection, sent) = begun(&mut world, &Hello::new("a.example"));
        let retry = server_hello(true);
        let outcome = answer(&mut world, &connection, 0, sent, &retry);
        assert!(!is_forward(&outcome));
        connection.answered(sent, retry.len() as u32);
        let second = [SKIPPED[0], &Hello::new(name).records()].concat();
        let outcome = connection.send(&mut world, sent, &second);
        if allowed {
            // Until it is received it could come again with another name.
            assert!(!is_forward(&outcome), "{outcome:?}");
            let other = [SKIPPED[0], &Hello::new("b.shop.example").records()].concat();
            connection.send(&mut world, sent, &other).nothing();
            assert_eq!(world.reason(DropReason::RetransmissionDiffers), 1);
            connection.answered(sent + second.len(), 90);
            let finished = record(23, b"finished");
            assert!(is_forward(&connection.send(&mut world, sent + second.len(), finished)));
            assert_eq!(world.count(EngineCounter::RequestAllowed), 2);
        } else {
            assert!(outcome.forwarded.is_none());
            assert_eq!(outcome.made[0].payload, [21, 3, 3, 0, 2, 2, 47]);
            assert_eq!(world.reason(DropReason::TlsNameChanged), 1);
        }
    }
}

#[test]
fn a_second_hello_that_does_not_wait_for_the_server_is_found_behind_anything_that_servers_skip() {
    let early = record(23, &[0; 700]);
    for (early_data, hidden) in [
        (false, SKIPPED.concat()),
        (true, [&early[..], SKIPPED[0], &early].concat()),
    ] {
        let first = Hello {
            early_data,
            ..Hello::new("a.example")
        };
        let bytes = [&hidden[..], &Hello::new("b.shop.example").records()].concat();
        for cut in (1..bytes.len()).step_by(13) {
            let mut world = world();
            let (mut connection, sent) = begun(&mut world, &first);
            let mut outcomes = Vec::new();
            for (at, piece) in [(0, &bytes[..cut]), (cut, &bytes[cut..])] {
                let outcome = connection.send(&mut world, sent + at, piece);
                outcomes.extend(outcome.forwarded);
            }
            let passed: usize = outcomes.iter().map(|sent| sent.payload.len()).sum();
            assert!(passed < bytes.len(), "cut at {cut}");
            // The server asks for it; now the client hears of it.
            connection.answered(sent + passed, 90);
            let outcome = connection.send(&mut world, sent + passed, &bytes[passed..]);
            assert!(outcome.forwarded.is_none(), "cut at {cut}: {outcome:?}");
            assert_eq!(world.reason(DropReason::TlsNameChanged), 1, "cut at {cut}");
        }
    }
}

#[test]
fn before_the_server_answers_nothing_else_can_be_sent() {
    for bytes in [
        record(23, b"data"),
        record(22, &[16, 0, 0, 0]),
        b"GET /".to_vec(),
        vec![0x80, 0x2e, 1],
    ] {
        let mut world = world();
        let (connection, sent) = begun(&mut world, &Hello::new("a.example"));
        let outcome = connection.send(&mut world, sent, &bytes);
        assert!(outcome.forwarded.is_none(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn early_data_passes_while_the_server_has_not_answered() {
    let mut world = world();
    let hello = Hello {
        early_data: true,
        ..Hello::new("a.example")
    };
    let (mut connection, sent) = begun(&mut world, &hello);
    let early = record(23, &[0; 900]);
    connection.send(&mut world, sent, &early).forwarded();
    connection.send(&mut world, sent + early.len(), SKIPPED[0]).forwarded();
    let flight = sent + early.len() + SKIPPED[0].len();
    let accepted = answer(&mut world, &connection, 0, sent, server_hello(false));
    assert_eq!(accepted.forwarded().meta.replies, Replies::Pass);
    // What was read of the early data is on its way: it must not become something else.
    assert!(!is_forward(&accepted));
    connection.answered(sent, 49);
    let finished = record(23, b"finished");
    assert!(!is_forward(&connection.send(&mut world, flight, &finished)));
    connection.send(&mut world, sent, record(23, &[1; 900])).nothing();
    connection.answered(flight, 0);
    let more = record(23, b"data");
    assert!(is_forward(&connection.send(&mut world, flight + finished.len(), more)));
}

#[test]
fn the_end_of_a_hello_that_no_server_asked_for_is_not_waited_for() {
    let mut world = world();
    let (connection, sent) = begun(&mut world, &Hello::new("a.example"));
    let second = Hello::new("a.example").records();
    connection.send(&mut world, sent, &second[..50]).forwarded();
    answer(&mut world, &connection, 0, sent, server_hello(false)).forwarded();
    world.now_ns += 61 * SECOND;
    assert!(world.tick().is_empty());
}

#[test]
fn a_server_that_speaks_first_or_no_tls_is_heard() {
    let mut world = world();
    let connection = connection(443);
    answer(&mut world, &connection, 0, 0, "220 mail\r\n").forwarded();
    let outcome = connection.send(&mut world, 0, "EHLO x\r\n");
    assert_eq!(outcome.made[0].payload, b"");
    assert_eq!(world.reason(DropReason::TlsNotTls), 1);
    let mut world = super::world();
    let (connection, sent) = begun(&mut world, &Hello::new("a.example"));
    answer(&mut world, &connection, 0, sent, "HTTP/1.1 400 Bad Request\r\n").forwarded();
    answer(&mut world, &connection, 26, sent, "\r\n").forwarded();
}

/// A HelloRetryRequest that looks like an accepting ServerHello from its session id on; and where that begins.
fn two_faced_retry() -> (Vec<u8>, usize) {
    let mut message = server_hello_message(true);
    message.truncate(38);
    let at = 5 + message.len() + 1;
    let mut session = vec![22, 3, 3, 0, 60, 2, 0, 0, 56, 3, 3];
    session.resize(32, 5);
    message.push(32);
    message.extend(session);
    // A cipher, no compression, supported_versions.
    message.extend([0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]);
    let len = (message.len() - 4) as u8;
    message[3] = len;
    (record(22, &message), at)
}

#[test]
fn acknowledging_bytes_that_were_never_sent_hides_no_retry() {
    let (retry, at) = two_faced_retry();
    let first = Hello::new("a.example").records();
    {
        let mut world = world();
        let (connection, sent) = begun(&mut world, &Hello::new("a.example"));
        let from_within = answer(&mut world, &connection, 0, sent, &retry[at..]);
        assert!(is_forward(&from_within), "the attack is worth something");
    }
    for cut in [0, 1, 40] {
        let mut world = world();
        let mut connection = connection(443);
        if cut > 0 {
            connection.send(&mut world, 0, &first[..cut]).forwarded();
        }
        let mut liar = connection.clone();
        liar.ack += at as u32;
        liar.meta.reply_idle = false;
        let lied = liar.send(&mut world, cut, &first[cut..]);
        if cut == 0 {
            lied.nothing();
        }
        let sent = connection.send(&mut world, cut, &first[cut..]);
        assert_eq!(sent.forwarded().meta.action, InjectAction::Keep);
        let said = answer(&mut world, &connection, 0, first.len(), &retry);
        assert!(!is_forward(&said), "cut at {cut}");
        connection.answered(first.len(), retry.len() as u32);
        let second = connection.send(&mut world, first.len(), Hello::new("b.shop.example").records());
        assert!(second.forwarded.is_none());
        assert_eq!(world.reason(DropReason::TlsNameChanged), 1);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_before_the_hello_is_read() {
    let mut world = world();
    let mut connection = connection(443);
    let banner = b"220 ready";
    answer(&mut world, &connection, 0, 0, banner).forwarded();
    connection.meta.reply_idle = false;
    let hello = Hello::new("a.example").records();
    connection.send(&mut world, 0, &hello).nothing();
    connection.meta.reply_idle = true;
    connection.ack += banner.len() as u32;
    assert!(!is_forward(&connection.send(&mut world, 0, &hello)));
    let accepted = answer(
        &mut world,
        &connection,
        banner.len() as u32,
        hello.len(),
        server_hello(false),
    );
    assert!(is_forward(&accepted));
}
