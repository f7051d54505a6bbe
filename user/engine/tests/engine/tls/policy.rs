//! Changes of policy: what a connection goes on under is judged again, without another hello.

use super::hello::{Hello, server_hello};
use super::{POLICY, answer, connection, world};
use crate::wire;
use crate::world::{Connection, World};
use seventh_abi::{DropReason, InjectAction};

fn without_a() -> String {
    POLICY.replace("\"a.example\", ", "")
}

/// A connection to a.example that nothing more is read of, and how long its hello was.
fn settled(world: &mut World) -> (Connection, usize) {
    let connection = connection(443);
    let bytes = Hello::new("a.example").records();
    connection.send(world, 0, &bytes).forwarded();
    answer(world, &connection, 0, bytes.len(), server_hello(false)).forwarded();
    assert_eq!(world.records().len(), 1);
    (connection, bytes.len())
}

#[test]
fn a_connection_that_the_new_policy_allows_goes_on() {
    let mut world = world();
    let (connection, sent) = settled(&mut world);
    world.set_policy(&POLICY.replace("*.shop.example", "*.other.example"));
    let outcome = connection.send(&mut world, sent, "data");
    assert_eq!(
        outcome.forwarded().meta.action,
        InjectAction::Forward { epoch: world.epoch() }
    );
    assert!(world.records().is_empty(), "it is no new request");
}

#[test]
fn a_connection_that_the_new_policy_denies_is_reset_with_the_next_bytes_of_either_side() {
    for from_server in [false, true] {
        let mut world = world();
        let (mut connection, sent) = settled(&mut world);
        world.set_policy(&without_a());
        connection.answered(sent, 51);
        let outcome = if from_server {
            answer(&mut world, &connection, 51, sent, "more")
        } else {
            connection.send(&mut world, sent, "data")
        };
        let (opener, others) = outcome.resets();
        assert_eq!(
            opener.closing(),
            (
                true,
                wire::RST | wire::ACK,
                5051,
                connection.seq(sent + if from_server { 0 } else { 4 })
            )
        );
        assert!(others.iter().any(|reset| reset.tcp.seq == connection.seq(sent)));
        let records = world.records();
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!(
            (record.host(), record.reason),
            ("a.example", Some(DropReason::TlsPolicyDenied))
        );
        connection.meta.closed = true;
        let again = connection.send(&mut world, sent, "data");
        assert!(again.forwarded.is_none());
    }
}

#[test]
fn a_connection_that_comes_under_names_without_ever_having_been_read_ends() {
    let mut world = world();
    let connection = connection(8443);
    connection.send(&mut world, 0, "SSH-2.0-x\r\n").forwarded();
    world.set_policy(
        &without_a()
            .replace(
                "\"8443\", protocol: ANY}]\n      serverNames: [\"a.example\"]",
                "\"1\", protocol: ANY}]",
            )
            .replace(
                "    - ports: [{port: \"8443\", protocol: ANY}]\n",
                "    - ports: [{port: \"8443\", protocol: ANY}]\n      serverNames: [\"b.example\"]\n",
            ),
    );
    connection.send(&mut world, 11, "data").resets();
    assert_eq!(world.reason(DropReason::TlsNotTls), 1);
}

#[test]
fn a_name_that_was_judged_holds_through_many_changes() {
    let mut world = world();
    let (connection, sent) = settled(&mut world);
    for round in 0..20 {
        world.set_policy(POLICY);
        let outcome = connection.send(&mut world, sent + round, "d");
        assert_eq!(
            outcome.forwarded().meta.action,
            InjectAction::Forward { epoch: world.epoch() }
        );
    }
    world.set_policy(&without_a());
    connection.send(&mut world, sent + 20, "d").resets();
}
