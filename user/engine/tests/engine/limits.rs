//! What strangers can make the engine hold is bounded.

use crate::http2::{END_HEADERS, END_STREAM, HEADERS, begin, block, fields, frame, literal};
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

/// A request that fills the decompressor's table.
fn filling_request() -> Vec<u8> {
    let mut head = block(&fields("GET", "/public"));
    for n in 0..32 {
        head.extend(literal(0x40, &format!("x-{n}"), &"f".repeat(100)));
    }
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)
}

#[test]
fn what_http_2_keeps_for_its_connections_counts_and_is_bounded() {
    let mut world = World::with_limits(EngineLimits {
        held_bytes_max: 1_000_000,
        ..EngineLimits::default()
    });
    let bytes = [begin(), filling_request()].concat();
    for port in 1..2000 {
        let mut connection = Connection::new();
        connection.shape.source_port = port;
        connection.send(&mut world, 0, &bytes).forwarded();
        // Everything is acknowledged: the stream itself holds nothing any more.
        connection.answered(bytes.len(), 10);
        connection
            .send(&mut world, bytes.len(), frame(6, 0, 0, &[0; 8]))
            .forwarded();
        world.tick();
        assert!(world.count(EngineCounter::HeldBytes) <= 1_000_000);
    }
    let (flows, held) = (world.count(EngineCounter::Flows), world.count(EngineCounter::HeldBytes));
    assert!(
        held > 800_000 && held / flows > 4000,
        "{held} bytes for {flows} connections"
    );
    assert!(world.count(EngineCounter::FlowEvicted) > 1700);
    world.now_ns += 7 * 3600 * SECOND;
    for _ in 0..3 {
        world.tick();
    }
    assert_eq!(world.count(EngineCounter::HeldBytes), 0);
}

#[test]
fn a_closed_connection_gives_back_what_it_held() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let bytes = [begin(), filling_request()].concat();
    connection.send(&mut world, 0, &bytes).forwarded();
    connection.answered(bytes.len(), 10);
    let denied = crate::http2::request(3, "/secret");
    let outcome = connection.send(&mut world, bytes.len(), denied);
    assert!(outcome.made[0].meta.reverse);
    world.tick();
    let held = world.count(EngineCounter::HeldBytes);
    assert!(held > 0 && held < 300, "the answer alone, not {held}");
}

#[test]
fn what_an_upgrade_waits_with_counts() {
    let mut world = World::new();
    let head = format!(
        "GET /public/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nX: {}\r\n\r\n",
        "x".repeat(6000)
    );
    let mut connection = Connection::new();
    connection.send(&mut world, 0, &head).forwarded();
    connection.answered(head.len(), 0);
    connection.send(&mut world, head.len(), "waits").nothing();
    world.tick();
    assert!(world.count(EngineCounter::HeldBytes) > 6000);
}

#[test]
fn connections_are_taken_up_in_their_middle_only_where_that_is_wanted() {
    for take_up in [true, false] {
        let mut world = World::with_limits(EngineLimits {
            take_up,
            ..EngineLimits::default()
        });
        let mut connection = Connection::new();
        connection.answered(5000, 9);
        connection.request_begins_at(5000);
        let outcome = connection.send(&mut world, 5000, get("/public"));
        assert_eq!(outcome.forwarded.is_some(), take_up);
        assert_eq!(world.reason(DropReason::MidStream), u64::from(!take_up));
        // From its first byte on it is read either way; a quiet one is remembered where it could not be taken up.
        let mut fresh = Connection::new();
        fresh.shape.source_port = 9;
        fresh.send(&mut world, 0, get("/public")).forwarded();
        world.now_ns += 100 * SECOND;
        for _ in 0..3 {
            world.tick();
        }
        assert_eq!(world.count(EngineCounter::Flows), u64::from(!take_up));
    }
}

#[test]
fn what_an_acknowledgement_gives_back_counts_whichever_connection_is_next() {
    let mut world = World::new();
    let request = format!("GET /public HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(6000));
    let mut connections = [1, 2, 3].map(|port| {
        let mut connection = Connection::new();
        connection.shape.source_port = port;
        connection
    });
    for connection in &connections {
        connection.send(&mut world, 0, &request).forwarded();
    }
    world.weigh();
    assert!(world.count(EngineCounter::HeldBytes) > 3 * 6000);
    for connection in &mut connections {
        connection.answered(request.len(), 10);
        // Nothing new: whether there is room is not asked.
        connection.send(&mut world, 0, &request);
    }
    world.weigh();
    assert!(world.count(EngineCounter::HeldBytes) < 6000);
}
