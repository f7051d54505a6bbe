//! Connections that follow one another on the same addresses and ports: each has its number.

use crate::wire::Sent;
use crate::world::{Connection, NUMBER, SECOND, World, get, post};
use seventh_abi::{DropReason, InjectAction};

fn numbers<'a>(sent: impl IntoIterator<Item = &'a Sent>) -> Vec<u16> {
    sent.into_iter().map(|sent| sent.meta.connection).collect()
}

#[test]
fn whatever_the_engine_sends_names_the_connection_of_the_frame_that_it_answers() {
    let mut world = World::new();
    let mut connection = Connection::new();
    assert_eq!(
        connection
            .send(&mut world, 0, get("/public"))
            .forwarded()
            .meta
            .connection,
        NUMBER
    );
    connection.answered(get("/public").len(), 10);
    let refused = connection.send(&mut world, get("/public").len(), get("/secret"));
    assert_eq!(numbers(&refused.made), [NUMBER; 2], "the refusal and the reset");
    // A part that goes on.
    let mut world = World::new();
    let connection = Connection::new();
    let both = get("/public") + &get("/secret");
    let part = connection.send(&mut world, 0, both);
    assert_eq!(numbers(&part.made), [NUMBER]);
    // Resets because of time.
    let mut world = World::new();
    connection.send(&mut world, 0, "GET /public").forwarded();
    world.now_ns += 1000 * SECOND;
    let resets = world.tick();
    assert!(!resets.is_empty() && numbers(&resets).iter().all(|number| *number == NUMBER));
}

#[test]
fn what_was_given_free_is_not_free_in_the_next_connection_that_begins_at_the_same_number() {
    let mut world = World::new();
    let connection = Connection::new();
    let head = post(100_000);
    let told = connection.send(&mut world, 0, &head).forwarded().meta.action;
    let InjectAction::Bypass { start, end, .. } = told else {
        panic!("{told:?}")
    };
    assert_eq!(
        (start, end),
        (connection.seq(head.len()), connection.seq(head.len() + 100_000))
    );
    connection.send(&mut world, head.len(), [b'x'; 100]).forwarded();
    world.connection += 1;
    connection.send(&mut world, head.len(), get("/secret")).nothing();
    assert_eq!(world.reason(DropReason::OutOfOrder), 1, "its beginning was not read");
    connection.send(&mut world, 0, get("/secret")).refusal();
}

#[test]
fn a_connection_outlives_the_loss_of_its_flow_entry() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, "GET /pub").forwarded();
    // The entry is made anew, and knows nothing of the beginning.
    connection.meta.base_seq = None;
    connection.meta.acked_seq = None;
    world.connection += 1;
    let rest = &get("/public")["GET /pub".len()..];
    let sent = connection.send(&mut world, "GET /pub".len(), rest);
    assert_eq!(sent.forwarded().meta.connection, NUMBER + 1);
    world.now_ns += SECOND;
    let secret = connection.send(&mut world, get("/public").len(), get("/secret"));
    assert!(secret.made.is_empty(), "the answer to the one before is under way");
}

#[test]
fn of_a_range_that_began_long_ago_the_kernel_is_told_the_part_from_here_on() {
    let mut world = World::new();
    let connection = Connection::new();
    let head = post(10_000_000);
    connection.send(&mut world, 0, &head).forwarded();
    let far = head.len() + 9_000_000;
    let again = connection.send(&mut world, far, [b'x'; 1000]);
    let InjectAction::Bypass { start, end, .. } = again.forwarded().meta.action else {
        panic!("{again:?}")
    };
    let (start, end) = (start.wrapping_sub(connection.base), end.wrapping_sub(connection.base));
    assert_eq!(end as usize, head.len() + 10_000_000);
    assert!(start as usize > head.len() && start as usize <= far, "{start}");
}
