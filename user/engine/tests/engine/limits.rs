//! What strangers can make the engine hold is bounded.

use crate::world::{Connection, SECOND, World, get, post};
use seventh_abi::DropReason;
use seventh_engine::{EngineCounter, EngineLimits};

#[test]
fn the_table_of_connections_is_bounded_and_old_ones_give_way() {
    let mut world = World::with_limits(EngineLimits {
        flows_max: 8,
        ..EngineLimits::default()
    });
    let connection = |port| {
        let mut connection = Connection::new();
        connection.shape.source_port = port;
        connection
    };
    let lively = connection(1);
    lively.send(&mut world, 0, "G").forwarded();
    for port in 2..200 {
        connection(port).send(&mut world, 0, "G").forwarded();
        lively.send(&mut world, 0, "G").forwarded();
    }
    world.tick();
    assert_eq!(
        (
            world.count(EngineCounter::Flows),
            world.count(EngineCounter::FlowEvicted)
        ),
        (8, 191)
    );
    // A connection in use all the time stays; one that was evicted is not taken up in its middle.
    lively.send(&mut world, 1, "ET ").forwarded();
    let mut old = connection(2);
    old.meta.acked_seq = Some(old.seq(1));
    old.send(&mut world, 1, "ET ").resets();
    assert_eq!(world.reason(DropReason::MidStream), 1);
}

#[test]
fn bytes_that_are_never_acknowledged_are_bounded_per_connection() {
    let mut world = World::with_limits(EngineLimits {
        flow_bytes_max: 10_000,
        ..EngineLimits::default()
    });
    let mut connection = Connection::new();
    let request = get("/public");
    let mut sent = 0;
    while connection.send(&mut world, sent, &request).forwarded.is_some() {
        sent += request.len();
        assert!(sent <= 10_000);
    }
    assert_eq!(world.reason(DropReason::EngineLimit), 1);
    connection.answered(sent, 10);
    connection.send(&mut world, sent, &request).forwarded();
}

#[test]
fn bytes_held_for_all_connections_are_bounded() {
    let mut world = World::with_limits(EngineLimits {
        held_bytes_max: 100_000,
        ..EngineLimits::default()
    });
    let head = "GET /public HTTP/1.1\r\nX: ".to_owned() + &"x".repeat(1000);
    let mut forwarded = 0;
    for port in 1..2000 {
        let mut connection = Connection::new();
        connection.shape.source_port = port;
        forwarded += u32::from(connection.send(&mut world, 0, &head).forwarded.is_some());
        world.tick();
        assert!(world.count(EngineCounter::HeldBytes) <= 110_000);
    }
    assert!(
        forwarded > 1900,
        "new connections are served: old ones give way ({forwarded})"
    );
    assert!(world.count(EngineCounter::FlowEvicted) > 1000);
}

#[test]
fn idle_connections_are_forgotten_and_their_memory_given_back() {
    let mut world = World::with_limits(EngineLimits {
        quiet_timeout_ns: 100 * SECOND,
        idle_timeout_ns: 1000 * SECOND,
        ..EngineLimits::default()
    });
    let body = post(4000);
    for port in 1..3000 {
        let mut connection = Connection::new();
        connection.shape.source_port = port;
        let in_a_body = port % 3 == 0;
        let request = if in_a_body { body.clone() } else { get("/public") };
        connection.send(&mut world, 0, request).forwarded();
    }
    world.tick();
    assert_eq!(world.count(EngineCounter::Flows), 2999);
    for (later, left) in [(99, 2999), (1, 999), (899, 999), (1, 0)] {
        world.now_ns += later * SECOND;
        for _ in 0..3 {
            world.tick();
        }
        assert_eq!(world.count(EngineCounter::Flows), left, "{later} s later");
    }
    assert_eq!(world.count(EngineCounter::HeldBytes), 0);
}
