//! The stream: one sequence number, one value.

use crate::world::{Connection, World, get};
use seventh_abi::{DropReason, InjectAction};
use seventh_engine::EngineCounter;

#[test]
fn an_equal_retransmission_goes_on_and_a_different_one_does_not() {
    let mut world = World::new();
    let connection = Connection::new();
    let request = get("/public/a");
    connection.send(&mut world, 0, &request).forwarded();
    connection.send(&mut world, 0, &request).forwarded();
    connection.send(&mut world, 4, &request[4..9]).forwarded();
    connection
        .send(&mut world, 0, request.replace("/public/a", "/secret/a"))
        .nothing();
    assert_eq!(world.reason(DropReason::RetransmissionDiffers), 1);
    assert_eq!(world.count(EngineCounter::RequestAllowed), 1);
}

#[test]
fn an_incomplete_head_cannot_be_rewritten_before_its_end_comes() {
    let mut world = World::new();
    let connection = Connection::new();
    let (good, bad) = (get("/public/a"), get("/secret/a"));
    connection.send(&mut world, 0, &good[..20]).forwarded();
    connection.send(&mut world, 0, &bad).nothing();
    connection.send(&mut world, 0, &bad[..20]).nothing();
    connection.send(&mut world, 20, &good[20..]).forwarded();
    assert_eq!(world.reason(DropReason::RetransmissionDiffers), 2);
}

#[test]
fn an_overlap_counts_with_its_old_part_and_its_new_part() {
    let mut world = World::new();
    let connection = Connection::new();
    let request = get("/public");
    connection.send(&mut world, 0, &request[..10]).forwarded();
    connection.send(&mut world, 5, &request[5..]).forwarded();
    assert_eq!(world.count(EngineCounter::RequestAllowed), 1);
    let next = request.len();
    connection
        .send(&mut world, next - 4, "\r\n\r\n".to_owned() + &get("/public"))
        .forwarded();
    connection.send(&mut world, next + 10, "x".repeat(60)).nothing();
    assert_eq!(world.reason(DropReason::RetransmissionDiffers), 1);
}

#[test]
fn a_segment_after_a_gap_is_dropped_and_taken_in_its_turn() {
    let mut world = World::new();
    let connection = Connection::new();
    let request = get("/public");
    connection.send(&mut world, 10, &request[10..]).nothing();
    connection.send(&mut world, 0, &request[..10]).forwarded();
    connection.send(&mut world, 10, &request[10..]).forwarded();
    assert_eq!(
        (
            world.reason(DropReason::OutOfOrder),
            world.count(EngineCounter::RequestAllowed)
        ),
        (1, 1)
    );
}

#[test]
fn acknowledged_bytes_are_held_no_more_and_never_go_on_again() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let request = get("/public");
    connection.send(&mut world, 0, &request).forwarded();
    connection.answered(request.len(), 10);
    let next = get("/public/2");
    // The acknowledgement may be forged, and the other side still wait for these bytes.
    let outcome = connection.send(&mut world, 3, "?????");
    let empty = outcome.made.first().unwrap();
    assert_eq!((empty.payload.len(), empty.tcp.seq), (0, connection.seq(3)));
    let outcome = connection.send(&mut world, request.len() - 5, "?????".to_owned() + &next);
    let part = outcome.made.first().unwrap();
    assert_eq!(
        (part.payload.as_slice(), part.tcp.seq, outcome.made.len()),
        (next.as_bytes(), connection.seq(request.len()), 1)
    );
    // An incomplete head is remembered although the other side has it.
    let at = request.len() + next.len();
    connection.send(&mut world, at, "GET /pub").forwarded();
    connection.answered(at + 8, 10);
    connection.send(&mut world, at, "GET /sec").nothing();
    connection
        .send(&mut world, at + 8, "lic HTTP/1.1\r\nHost: a\r\n\r\n")
        .forwarded();
    assert_eq!(world.count(EngineCounter::RequestAllowed), 3);
    assert_eq!(world.count(EngineCounter::ForwardedPart), 2);
}

#[test]
fn a_connection_that_was_under_way_is_reset() {
    // No base: the opener's SYN was not seen. A base, and the other side has bytes already.
    for (base, acked) in [(None, None), (None, Some(1000)), (Some(1000), Some(1020))] {
        let mut world = World::new();
        let mut connection = Connection::new();
        (connection.meta.base_seq, connection.meta.acked_seq) = (base, acked);
        let outcome = connection.send(&mut world, 20, get("/public"));
        let (opener, others) = outcome.resets();
        assert_eq!(opener.closing().2, 5000, "what the opener expects");
        assert!(others.iter().any(|reset| reset.closing().2 == connection.seq(20)));
        assert_eq!(world.reason(DropReason::MidStream), 1);
    }
}

#[test]
fn bytes_that_reached_the_other_side_past_the_engine_end_the_connection() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let request = get("/public");
    connection.send(&mut world, 0, &request).forwarded();
    connection.answered(request.len() + 2, 10);
    let outcome = connection.send(&mut world, request.len(), get("/public"));
    outcome.resets();
    assert_eq!(world.reason(DropReason::MidStream), 1);
}

#[test]
fn a_lost_first_segment_of_a_new_connection_is_waited_for() {
    let mut world = World::new();
    let connection = Connection::new();
    let request = get("/public");
    connection.send(&mut world, 7, &request[7..]).nothing();
    assert_eq!(
        (
            world.reason(DropReason::OutOfOrder),
            world.reason(DropReason::MidStream)
        ),
        (1, 0)
    );
    connection.send(&mut world, 0, &request).forwarded();
}

#[test]
fn a_known_connection_goes_on_when_the_kernel_has_forgotten_its_base() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, get("/public")).forwarded();
    (connection.meta.base_seq, connection.meta.acked_seq) = (None, None);
    connection
        .send(&mut world, get("/public").len(), get("/public"))
        .forwarded();
}

#[test]
fn a_reused_pair_of_ports_is_a_new_connection() {
    let mut world = World::new();
    let old = Connection::new();
    old.send(&mut world, 0, &get("/public")[..12]).forwarded();
    let new = Connection::at(77_000);
    new.send(&mut world, 0, get("/public")).forwarded();
    assert_eq!(world.count(EngineCounter::FlowCreated), 2);
    // Also after a refusal.
    new.send(&mut world, get("/public").len(), "\0").nothing();
    let mut refused = Connection::at(90_000);
    refused.send(&mut world, 0, get("/secret")).refusal();
    refused = Connection::at(99_000);
    refused.send(&mut world, 0, get("/public")).forwarded();
}

#[test]
fn a_range_given_free_is_forgotten_long_before_its_numbers_come_round() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let total: u64 = 3 << 30;
    let head = format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n");
    connection.send(&mut world, 0, &head).forwarded();
    let mut position = head.len() as u64;
    let body_end = position + total;
    let mut grants = 0;
    let mut last = 0;
    while position < body_end {
        connection.meta.acked_seq = Some(connection.base.wrapping_add(position as u32));
        let seq = connection.base.wrapping_add(position as u32);
        let frame = connection
            .shape
            .frame(&connection.meta, seq, connection.ack, connection.flags, b"x");
        let outcome = world.decide(frame);
        let InjectAction::Bypass { start, end, .. } = outcome.forwarded().meta.action else {
            panic!("{outcome:?}")
        };
        assert!(end.wrapping_sub(start) <= 1 << 28);
        position += 1 + u64::from(end.wrapping_sub(seq.wrapping_add(1)));
        (grants, last) = (grants + 1, end);
    }
    assert_eq!((grants, position), (12, body_end));
    // Many small chunks of one body later the range is far behind: the kernel is told to forget it.
    let mut behind = 0;
    let chunks = format!("fa0\r\n{}\r\n", "z".repeat(4000)).repeat(15);
    let mut filler = format!("POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let told = loop {
        connection.meta.acked_seq = Some(last.wrapping_add(behind));
        connection.ack = connection.ack.wrapping_add(1);
        let seq = last.wrapping_add(behind);
        let frame = connection.shape.frame(
            &connection.meta,
            seq,
            connection.ack,
            connection.flags,
            filler.as_bytes(),
        );
        let outcome = world.decide(frame);
        behind += filler.len() as u32;
        if let InjectAction::Bypass { start, end, boundary } = outcome.forwarded().meta.action {
            assert!(!boundary);
            break (start, end);
        }
        filler.clone_from(&chunks);
    };
    assert_eq!(told, (last.wrapping_add(behind), last.wrapping_add(behind)));
    assert!(behind > 1 << 26 && behind < (1 << 26) + 100_000);
}

#[test]
fn what_the_kernel_let_pass_goes_on_again_with_what_the_engine_did_where_the_kernel_has_compared_it() {
    let (second, third) = (get("/public"), get("/public/3"));
    let begins = 5000 - second.len();
    let merged = [second.clone(), third.clone()].concat();
    for (compared_to, other, goes_on) in [
        (Some(5000), false, Some(0)),
        (None, false, Some(second.len())),
        (Some(4999), false, Some(second.len())),
        (Some(5000), true, None),
    ] {
        let mut world = World::new();
        let mut connection = Connection::new();
        connection.request_begins_at(5000);
        connection.meta.clean = false;
        connection.send(&mut world, 5000, &third).forwarded();
        connection.meta.frontier = None;
        connection.meta.compared_to = compared_to.map(|offset| connection.seq(offset));
        let again = if other {
            merged.replace("/public/3", "/secret/3")
        } else {
            merged.clone()
        };
        let outcome = connection.send(&mut world, begins, &again);
        match goes_on {
            Some(cut) => {
                let sent: Vec<_> = outcome.forwarded.iter().chain(&outcome.made).collect();
                assert!(
                    matches!(sent[..], [sent] if sent.payload == again.as_bytes()[cut..]),
                    "{outcome:?}"
                );
            }
            None => {
                outcome.nothing();
                assert_eq!(world.reason(DropReason::RetransmissionDiffers), 1);
            }
        }
    }
}

#[test]
fn bytes_do_not_take_the_place_of_what_somebody_else_let_through() {
    let (first, second) = (get("/public"), get("/public/2"));
    for something_went_on in [false, true] {
        let mut world = World::new();
        let mut connection = Connection::new();
        connection.send(&mut world, 0, &first).forwarded();
        connection.meta.acked_seq = Some(connection.seq(first.len()));
        connection.meta.clean = !something_went_on;
        let outcome = connection.send(&mut world, first.len(), &second);
        assert_eq!(outcome.forwarded.is_some(), !something_went_on, "{outcome:?}");
        assert_eq!(world.count(EngineCounter::DenialDeferred), u64::from(something_went_on));
    }
}

#[test]
fn a_connection_is_taken_up_only_where_the_kernel_knows_that_a_request_begins() {
    for (boundary, path, expected) in [
        (true, "/public", EngineCounter::RequestAllowed),
        (true, "/secret", EngineCounter::RequestDenied),
        (false, "/public", EngineCounter::FlowCreated),
    ] {
        let mut world = World::new();
        let mut connection = Connection::new();
        connection.answered(5000, 700);
        if boundary {
            connection.request_begins_at(5000);
        }
        let outcome = connection.send(&mut world, 5000, get(path));
        let taken_up = u64::from(boundary);
        assert_eq!(world.count(expected), taken_up, "{boundary} {path}");
        assert_eq!(world.reason(DropReason::MidStream), 1 - taken_up);
        if path == "/secret" {
            outcome.refusal();
        } else if boundary {
            // It goes on as any other: what was let through cannot be told differently.
            outcome.forwarded();
            connection.meta.frontier = None;
            let other = get(path).replace("/public", "/secret");
            connection.send(&mut world, 5000, other).nothing();
            assert_eq!(world.reason(DropReason::RetransmissionDiffers), 1);
        }
    }
}
