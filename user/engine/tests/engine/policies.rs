//! Policy changes while connections are open.

use crate::wire::Shape;
use crate::world::{Connection, IFINDEX, POLICY, World, get, post};
use seventh_abi::{DropReason, InjectAction};
use seventh_engine::EngineCounter;

#[test]
fn flows_that_need_no_look_inside_leave_at_the_second_tier() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.shape.destination_port = 81;
    let action = connection.send(&mut world, 0, "anything").forwarded().meta.action;
    assert_eq!(action, InjectAction::Forward { epoch: world.epoch() });
    connection.shape.destination_port = 82;
    connection.send(&mut world, 0, "anything").resets();
    assert_eq!(world.reason(DropReason::PolicyDenied), 1);
    assert_eq!(world.count(EngineCounter::FlowCreated), 0);
    connection.meta.ifindex = IFINDEX + 1;
    connection.send(&mut world, 0, get("/public")).nothing();
    assert_eq!(world.reason(DropReason::EngineNoPolicy), 1);
}

#[test]
fn a_change_of_rules_counts_from_the_next_request_on() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let head = get("/public/a");
    connection.send(&mut world, 0, &head[..10]).forwarded();
    world.set_policy(&POLICY.replace("/public.*", "/open.*"));
    // The head began under the old rules and ends under the new ones: the new ones judge.
    let outcome = connection.send(&mut world, 10, &head[10..]);
    outcome.refusal();
    connection = Connection::at(500);
    connection.send(&mut world, 0, get("/open")).forwarded();
    connection.answered(get("/open").len(), 10);
    connection.send(&mut world, get("/open").len(), post(5000)).forwarded();
    world.set_policy(POLICY);
    let at = get("/open").len() + post(5000).len();
    connection.answered(at + 5000, 10);
    connection.send(&mut world, at + 5000, get("/public")).forwarded();
    connection.answered(at + 5000 + get("/public").len(), 10);
    connection
        .send(&mut world, at + 5000 + get("/public").len(), get("/open"))
        .refusal();
}

#[test]
fn a_connection_that_is_now_denied_ends_at_its_next_frame() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, get("/public")).forwarded();
    connection.answered(get("/public").len(), 90);
    world.set_policy(&POLICY.replace("\"80\"", "\"8080\""));
    let outcome = connection.send(&mut world, get("/public").len(), "GET /pub");
    let (opener, others) = outcome.resets();
    assert_eq!(
        (opener.closing().2, others[0].closing().2),
        (5090, connection.seq(get("/public").len()))
    );
    assert_eq!(world.reason(DropReason::PolicyDenied), 1);
    connection.meta.closed = true;
    let outcome = connection.send(&mut world, get("/public").len(), "GET /pub");
    assert!(outcome.forwarded.is_none() && outcome.made.len() == 1, "{outcome:?}");
}

#[test]
fn a_connection_that_needs_no_inspection_any_more_is_left_to_the_kernel() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, "GET /pub").forwarded();
    world.set_policy(
        &POLICY
            .replace("\"81\"", "\"80\"")
            .replacen("port: \"80\"", "port: \"79\"", 1),
    );
    let outcome = connection.send(&mut world, 8, "lic");
    assert_eq!(outcome.forwarded().meta.action, InjectAction::Forward { epoch: 2 });
    // Inspected again later: nobody knows where its requests begin.
    world.set_policy(POLICY);
    connection.answered(5000, 10);
    connection.send(&mut world, 5000, get("/public")).resets();
    assert_eq!(world.reason(DropReason::MidStream), 1);
}

#[test]
fn cached_verdicts_of_other_rules_are_not_used() {
    let mut world = World::new();
    let mut shape = Shape::new(1, 2, 80);
    let mut judge = |world: &mut World, path: &str| {
        shape.source_port += 1;
        let mut connection = Connection::new();
        connection.shape = shape.clone();
        connection.send(world, 0, get(path)).forwarded.is_some()
    };
    for _ in 0..3 {
        assert!(judge(&mut world, "/public") && !judge(&mut world, "/other"));
        world.set_policy(&POLICY.replace("/public.*", "/other"));
        assert!(!judge(&mut world, "/public") && judge(&mut world, "/other"));
        world.set_policy(POLICY);
    }
}
