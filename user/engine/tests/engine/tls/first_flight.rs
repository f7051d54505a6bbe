//! The first ClientHello.

use super::hello::{Hello, record};
use super::{connection, world};
use crate::wire;
use crate::world::{Outcome, World};
use seventh_abi::{DropReason, InjectAction, Replies};
use seventh_engine::{EngineCounter, RecordVerdict};

const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// The opener got this and FIN, the other side a reset.
#[track_caller]
fn refused(outcome: &Outcome, alert: &[u8]) {
    assert!(outcome.forwarded.is_none(), "{outcome:?}");
    let (refusal, resets) = outcome.made.split_first().expect("a refusal");
    assert_eq!(refusal.payload, alert);
    let (reverse, flags, ..) = refusal.closing();
    assert!(reverse && flags == wire::ACK | wire::PSH | wire::FIN);
    assert!(!resets.is_empty());
    for reset in resets {
        let (reverse, flags, ..) = reset.closing();
        assert!(!reverse && flags == wire::RST | wire::ACK);
    }
}

/// What becomes of a first flight in one segment: the reason, or `None` if it went on.
fn verdict(port: u16, bytes: impl AsRef<[u8]>) -> Option<DropReason> {
    let mut world = world();
    let outcome = connection(port).send(&mut world, 0, bytes);
    let records = world.records();
    assert!(records.len() <= 1);
    assert_eq!(outcome.forwarded.is_some(), records.iter().all(|r| r.reason.is_none()));
    records.first().and_then(|record| record.reason)
}

#[test]
fn a_name_is_judged_by_the_patterns() {
    for (name, allowed) in [
        ("a.example", true),
        ("A.EXAMPLE", true),
        ("b.shop.example", true),
        ("b.c.shop.example", false),
        ("shop.example", false),
        ("x.y.deep.example", true),
        ("deep.example", false),
        ("a.example.", false),
        ("xa.example", false),
        ("192.0.2.1", false),
    ] {
        let expected = (!allowed).then_some(DropReason::TlsPolicyDenied);
        assert_eq!(verdict(443, Hello::new(name).records()), expected, "{name}");
    }
}

#[test]
fn a_denied_name_is_told_to_the_client_and_reset_at_the_server_and_recorded() {
    let mut world = world();
    let connection = connection(443);
    let hello = Hello {
        ech: true,
        ..Hello::new("Secret.Example")
    };
    let outcome = connection.send(&mut world, 0, hello.records());
    refused(&outcome, UNRECOGNIZED_NAME);
    let records = world.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.verdict, record.host()),
        (RecordVerdict::Dropped, "secret.example")
    );
    let tls = record.tls().expect("a record about TLS");
    assert_eq!(
        (tls.version, &*tls.alpn, tls.ech, tls.quic),
        (0x0304, "h2,http/1.1", true, false)
    );
    // Its retransmission gets the same again, without another record.
    let again = connection.send(&mut world, 0, hello.records());
    assert_eq!(
        again.made.first().map(|sent| &sent.payload[..]),
        Some(UNRECOGNIZED_NAME)
    );
    assert!(world.records().is_empty());
}

#[test]
fn without_tls_1_3_the_kernel_carries_on_alone_once_the_hello_was_received() {
    let mut world = world();
    let mut connection = connection(443);
    let hello = Hello::tls12("a.example").records();
    let outcome = connection.send(&mut world, 0, &hello);
    let meta = &outcome.forwarded().meta;
    assert_eq!((meta.action, meta.replies), (InjectAction::Keep, Replies::Pass));
    let records = world.records();
    assert_eq!(
        (records.len(), records[0].host(), records[0].tls().unwrap().version),
        (1, "a.example", 0x0303)
    );
    // More that is on its way before the server has acknowledged it goes on, too.
    let more = record(22, b"key exchange");
    let outcome = connection.send(&mut world, hello.len(), &more);
    assert_eq!(outcome.forwarded().meta.action, InjectAction::Keep);
    connection.answered(hello.len(), 100);
    let outcome = connection.send(&mut world, hello.len() + more.len(), record(23, b"data"));
    assert_eq!(
        outcome.forwarded().meta.action,
        InjectAction::Forward { epoch: world.epoch() }
    );
    world.tick();
    let held = world.count(EngineCounter::HeldBytes);
    assert_eq!(held, "a.example".len() as u64, "nothing is held but the name");
}

#[test]
fn a_hello_that_was_lost_on_its_way_cannot_come_again_with_another_name() {
    let good = Hello::tls12("a.example").records();
    let evil = Hello::tls12("b.example").records();
    let mut world = world();
    let connection = connection(443);
    // It dies between here and the server: the client has given it too few hops to live.
    connection.send(&mut world, 0, &good).forwarded();
    connection.send(&mut world, 0, &evil).nothing();
    connection
        .send(&mut world, good.len(), record(22, b"later"))
        .forwarded();
    connection.send(&mut world, 0, &evil).nothing();
    connection.send(&mut world, 40, &evil[40..]).nothing();
    assert_eq!(world.reason(DropReason::RetransmissionDiffers), 3);
    connection.send(&mut world, 0, &good).forwarded();
}

#[test]
fn cut_anywhere_and_in_any_records_the_verdict_is_the_same() {
    for (name, allowed) in [("a.example", true), ("b.example", false)] {
        for len in [1, 7, 100, 16384] {
            let bytes = Hello::tls12(name).records_of(len);
            let step = 1 + bytes.len() / 150;
            for cut in (1..bytes.len()).step_by(step) {
                let mut world = world();
                let connection = connection(443);
                connection.send(&mut world, 0, &bytes[..cut]).forwarded();
                let outcome = connection.send(&mut world, cut, &bytes[cut..]);
                assert_eq!(
                    outcome.forwarded.is_some(),
                    allowed,
                    "{name}, records of {len}, cut at {cut}"
                );
                let expected = u64::from(!allowed);
                assert_eq!(world.reason(DropReason::TlsPolicyDenied), expected);
                if !allowed {
                    refused(&outcome, UNRECOGNIZED_NAME);
                }
            }
        }
    }
}

#[test]
fn byte_by_byte_with_every_byte_acknowledged_it_is_still_read() {
    let mut world = world();
    let mut connection = connection(443);
    let bytes = Hello::tls12("a.example").records_of(3);
    for (at, byte) in bytes.iter().enumerate() {
        connection.send(&mut world, at, [*byte]).forwarded();
        connection.answered(at + 1, 0);
    }
    assert_eq!(world.count(EngineCounter::RequestAllowed), 1);
    let mut denied = super::connection(443);
    denied.shape.source_port = 1;
    let bytes = Hello::tls12("b.example").records_of(3);
    for (at, byte) in bytes[..bytes.len() - 1].iter().enumerate() {
        denied.send(&mut world, at, [*byte]).forwarded();
        denied.answered(at + 1, 0);
    }
    let last = bytes.len() - 1;
    refused(&denied.send(&mut world, last, &bytes[last..]), UNRECOGNIZED_NAME);
}

#[test]
fn large_hellos_pass_and_too_large_ones_do_not() {
    for padding in [2_000, 17_000, 60_000] {
        let mut world = world();
        let connection = connection(443);
        let hello = Hello {
            padding,
            ..Hello::tls12("a.example")
        };
        let bytes = hello.records();
        for (n, piece) in bytes.chunks(1400).enumerate() {
            connection.send(&mut world, n * 1400, piece).forwarded();
        }
        assert_eq!(world.count(EngineCounter::RequestAllowed), 1);
    }
    let too_large = [&[22, 3, 1, 0x40, 0][..], &[1, 1, 0, 0]].concat();
    assert_eq!(verdict(443, too_large), Some(DropReason::TlsHelloTooLarge));
}

#[test]
fn whatever_is_not_one_clear_hello_has_a_reason_of_its_own() {
    let hello = Hello::new("a.example");
    let (first, second) = (record(22, &hello.message()[..20]), record(22, &hello.message()[20..]));
    let twice = record(22, &[hello.message(), hello.message()].concat());
    let mut two_names = hello.message();
    two_names.splice(2..4, ((two_names.len() - 4 + 18) as u16).to_be_bytes());
    let no_name = Hello {
        name: None,
        ..hello.clone()
    };
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), DropReason::TlsNotTls),
        (b"SSH-2.0-x\r\n".to_vec(), DropReason::TlsNotTls),
        (vec![0x80, 0x2e, 1, 3, 1], DropReason::TlsSslv2Hello),
        (record(23, b"data"), DropReason::TlsNotClientHello),
        (record(22, &[2, 0, 0, 0]), DropReason::TlsNotClientHello),
        (
            [&first[..], &record(21, &[1, 0]), &second].concat(),
            DropReason::TlsBadRecord,
        ),
        (twice, DropReason::TlsBadRecord),
        (record(22, &[1, 0, 0, 1, 3]), DropReason::TlsBadHello),
        (
            Hello::new("b\u{fc}cher.example").records(),
            DropReason::TlsBadServerName,
        ),
        (no_name.records(), DropReason::TlsNoServerName),
    ] {
        assert_eq!(verdict(443, &bytes), Some(reason), "{}", bytes.escape_ascii());
    }
}

#[test]
fn beside_a_rule_without_names_everything_passes_and_names_are_recorded() {
    for bytes in [
        b"SSH-2.0-x\r\n".to_vec(),
        Hello::new("other.example").records(),
        Hello::new("b\u{fc}cher.example").records(),
        vec![0x80, 0x2e, 1, 3, 1],
    ] {
        assert_eq!(verdict(8443, &bytes), None, "{}", bytes.escape_ascii());
    }
    let mut world = world();
    connection(8443)
        .send(&mut world, 0, Hello::tls12("other.example").records())
        .forwarded();
    assert_eq!(
        world
            .records()
            .first()
            .map(|record| record.host().to_owned())
            .as_deref(),
        Some("other.example")
    );
    let outcome = connection(8443).send(&mut World::new(), 0, "x");
    assert!(outcome.forwarded.is_none(), "only under this policy");
}

#[test]
fn ech_is_judged_by_its_outer_name_or_refused() {
    let hello = Hello {
        ech: true,
        ..Hello::new("a.example")
    };
    assert_eq!(verdict(443, hello.records()), None);
    let mut world = World::with_limits(seventh_engine::EngineLimits {
        deny_ech: true,
        ..seventh_engine::EngineLimits::default()
    });
    world.set_policy(super::POLICY);
    refused(
        &connection(443).send(&mut world, 0, hello.records()),
        &[21, 3, 3, 0, 2, 2, 49],
    );
    assert_eq!(world.reason(DropReason::TlsEchDenied), 1);
}

#[test]
fn a_retransmitted_hello_that_differs_does_not_get_through() {
    let mut world = world();
    let connection = connection(443);
    let (good, bad) = (Hello::new("a.example").records(), Hello::new("b.example").records());
    let cut = good.len() - 5;
    connection.send(&mut world, 0, &good[..cut]).forwarded();
    connection.send(&mut world, 0, &bad).nothing();
    connection.send(&mut world, cut, &good[cut..]).forwarded();
    connection.send(&mut world, 0, &bad).nothing();
    assert_eq!(world.reason(DropReason::RetransmissionDiffers), 2);
}

#[test]
fn a_hello_that_is_not_finished_in_time_is_reset() {
    let mut world = world();
    connection(443)
        .send(&mut world, 0, &Hello::new("a.example").records()[..50])
        .forwarded();
    world.now_ns += 61 * crate::world::SECOND;
    let made = world.tick();
    assert!(!made.is_empty() && made.iter().all(|sent| sent.flags() & wire::RST != 0));
    assert_eq!(world.reason(DropReason::HeadTimeout), 1);
}
