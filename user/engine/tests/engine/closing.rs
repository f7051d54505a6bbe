//! After the end: what a closed connection still gets.

use crate::wire::{ACK, FIN, PSH, RST};
use crate::world::{Connection, SECOND, World, get};
use seventh_abi::DropReason;
use seventh_engine::{EngineCounter, EngineLimits};

fn refused(world: &mut World) -> (Connection, usize) {
    let mut connection = Connection::new();
    connection.send(world, 0, get("/secret")).refusal();
    connection.meta.closed = true;
    (connection, get("/secret").len())
}

#[test]
fn a_retransmission_gets_the_refusal_again() {
    let mut world = World::new();
    let (connection, len) = refused(&mut world);
    for _ in 0..3 {
        let outcome = connection.send(&mut world, 0, get("/secret"));
        assert_eq!(outcome.made.len(), 1);
        assert_eq!(
            outcome.refusal().closing(),
            (true, ACK | PSH | FIN, 5000, connection.seq(len))
        );
    }
    assert_eq!(world.records().len(), 1);
    assert_eq!(world.count(EngineCounter::AnsweredClosed), 3);
}

#[test]
fn who_was_told_something_else_before_the_refusal_gets_it_behind_that() {
    let mut world = World::new();
    let (mut connection, len) = refused(&mut world);
    let end = connection.seq(len);
    // Shorter than the refusal, as SETTINGS are; longer, as an answer on another stream.
    for more in [60, 5000] {
        connection.ack += more;
        for _ in 0..2 {
            let outcome = connection.send(&mut world, 0, get("/secret"));
            let expected = (true, ACK | PSH | FIN, connection.ack, end);
            assert_eq!(outcome.refusal().closing(), expected);
        }
    }
    let refusal_len = connection.send(&mut world, 0, get("/secret")).refusal().payload.len();
    connection.ack += u32::try_from(refusal_len).unwrap() + 1;
    let outcome = connection.send(&mut world, 0, get("/secret"));
    assert_eq!(outcome.made[0].closing(), (true, ACK, connection.ack, end));
}

#[test]
fn what_the_opener_sends_after_the_refusal_is_acknowledged() {
    let mut world = World::new();
    let (mut connection, len) = refused(&mut world);
    let refusal_len = connection.send(&mut world, 0, get("/secret")).refusal().payload.len();
    connection.ack += u32::try_from(refusal_len).unwrap();
    let outcome = connection.send(&mut world, len, get("/public"));
    let end = len + get("/public").len();
    assert_eq!(
        outcome.made[0].closing(),
        (true, ACK, connection.ack, connection.seq(end))
    );
    connection.flags = FIN | ACK;
    let outcome = connection.send(&mut world, end, "");
    assert_eq!(outcome.made.len(), 1);
    assert_eq!(
        outcome.made[0].closing(),
        (true, ACK, connection.ack, connection.seq(end + 1))
    );
    connection.flags = ACK;
    connection.send(&mut world, end + 1, "").nothing();
}

#[test]
fn nothing_gets_through_a_closed_connection_even_if_the_kernel_was_not_told() {
    let mut world = World::new();
    let (mut connection, _) = refused(&mut world);
    connection.meta.closed = false;
    let outcome = connection.send(&mut world, 0, get("/secret"));
    assert!(
        outcome
            .made
            .iter()
            .any(|sent| !sent.meta.reverse && sent.flags() == RST | ACK),
        "the reset again"
    );
    outcome.refusal();
    let outcome = connection.send(&mut world, 0, get("/public"));
    outcome.refusal();
}

#[test]
fn a_closed_connection_that_the_engine_has_forgotten_is_reset() {
    let mut world = World::with_limits(EngineLimits {
        closed_timeout_ns: 10 * SECOND,
        ..EngineLimits::default()
    });
    let (connection, _) = refused(&mut world);
    world.now_ns += 10 * SECOND;
    assert!(world.tick().is_empty());
    assert_eq!(
        (
            world.count(EngineCounter::FlowExpired),
            world.count(EngineCounter::Flows)
        ),
        (1, 0)
    );
    let outcome = connection.send(&mut world, 0, get("/public"));
    assert_eq!(outcome.made.len(), 1);
    assert_eq!(outcome.made[0].closing().1, RST | ACK);
    assert!(outcome.made[0].meta.reverse);
}

#[test]
fn a_head_that_does_not_end_in_time_is_reset() {
    let mut world = World::with_limits(EngineLimits {
        head_timeout_ns: 10 * SECOND,
        ..EngineLimits::default()
    });
    let mut connection = Connection::new();
    connection.send(&mut world, 0, get("/public")).forwarded();
    let at = get("/public").len();
    connection.answered(at, 100);
    world.now_ns += 20 * SECOND;
    assert!(world.tick().is_empty(), "between requests there is no hurry");
    connection.send(&mut world, at, "GET ").forwarded();
    world.now_ns += 6 * SECOND;
    connection.send(&mut world, at + 4, "/pub").forwarded();
    assert!(world.tick().is_empty());
    world.now_ns += 4 * SECOND;
    let made = world.tick();
    assert_eq!(made.len(), 2);
    assert_eq!(made[0].closing(), (true, RST | ACK, 5100, connection.seq(at + 8)));
    assert_eq!(made[1].closing(), (false, RST | ACK, connection.seq(at + 8), 5100));
    assert_eq!(world.reason(DropReason::HeadTimeout), 1);
    assert_eq!(world.records().last().unwrap().reason, Some(DropReason::HeadTimeout));
    assert!(world.tick().is_empty(), "once");
    connection.meta.closed = true;
    let outcome = connection.send(&mut world, at + 8, "lic HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(outcome.made[0].closing().1, RST | ACK);
}
