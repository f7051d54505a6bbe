//! What the decision does with single frames: allow, refuse, and what cannot be read.

use crate::wire::{self, ACK, FIN, PSH, RST, SYN, Sent, Shape, URG, punt, v6};
use crate::world::{Connection, IFINDEX, World, get};
use rand::{Rng, SeedableRng, rngs::StdRng};
use seventh_abi::{DropReason, Hook, InjectAction, Replies};
use seventh_engine::{EngineCounter, Fate, Outbox, RecordVerdict};

#[test]
fn an_allowed_request_goes_on_as_it_is() {
    let mut world = World::new();
    let connection = Connection::new();
    let outcome = connection.send(&mut world, 0, get("/public/a?b=c"));
    let sent = outcome.forwarded();
    let next = connection.seq(get("/public/a?b=c").len());
    let boundary = InjectAction::Bypass {
        start: next,
        end: next,
        boundary: true,
    };
    assert_eq!(
        (sent.meta.action, sent.meta.reverse, sent.meta.ifindex),
        (boundary, false, IFINDEX)
    );
    assert_eq!(
        sent.meta.replies,
        Replies::Copy,
        "the kernel is to look out for the answer"
    );
    assert_eq!(sent.meta.hook, Hook::ToEndpoint);
    let records = world.records();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.verdict, record.reason), (RecordVerdict::Forwarded, None));
    assert_eq!(
        (record.method(), record.host(), record.path()),
        ("GET", "a", "/public/a?b=c")
    );
    assert_eq!(
        (record.endpoint_id, record.source_port, record.destination_port),
        (12, 40_000, 80)
    );
    assert!(record.rule.is_some() && record.rule_set > 0 && record.peer_identity > 0);
}

#[test]
fn a_denied_request_is_answered_and_the_other_side_reset() {
    let mut world = World::new();
    let connection = Connection::new();
    let request = get("/secret");
    let outcome = connection.send(&mut world, 0, &request);
    let refusal = outcome.refusal();
    let end = connection.seq(request.len());
    assert_eq!(refusal.closing(), (true, ACK | PSH | FIN, 5000, end));
    assert_eq!(
        (refusal.source, refusal.tcp.source_port),
        (connection.shape.destination, 80)
    );
    assert_eq!(
        (refusal.destination, refusal.tcp.destination_port),
        (connection.shape.source, 40_000)
    );
    let text = String::from_utf8(refusal.payload.clone()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "Access denied\r\n");
    for line in ["content-length: 15", "content-type: text/plain", "connection: close"] {
        assert!(head.split("\r\n").any(|l| l == line), "{line}");
    }
    assert_eq!(outcome.made.len(), 2);
    assert_eq!(outcome.made[1].closing(), (false, RST | ACK, connection.seq(0), 5000));
    assert_eq!(
        (outcome.made[1].source, outcome.made[1].tcp.source_port),
        (connection.shape.source, 40_000)
    );
    let record = &world.records()[0];
    assert_eq!(
        (record.verdict, record.reason),
        (RecordVerdict::Dropped, Some(DropReason::HttpPolicyDenied))
    );
    assert_eq!(
        (record.method(), record.path(), record.rule.is_none()),
        ("GET", "/secret", true)
    );
    assert_eq!(
        (
            world.reason(DropReason::HttpPolicyDenied),
            world.count(EngineCounter::RequestDenied)
        ),
        (1, 1)
    );
}

#[test]
fn answers_wear_the_tags_addresses_and_timestamps_of_the_connection() {
    for tags in [vec![], vec![[0x81, 0, 0, 5]], vec![[0x88, 0xa8, 0, 9], [0x81, 0, 0, 5]]] {
        for ipv6 in [false, true] {
            let mut world = World::new();
            let mut connection = Connection::new();
            connection.shape.tags.clone_from(&tags);
            connection.shape.timestamps = Some((777, 888));
            if ipv6 {
                connection.shape.ipv6 = true;
                (connection.shape.source, connection.shape.destination) = (v6(1), v6(2));
            }
            connection.send(&mut world, 0, get("/public")).forwarded();
            connection.answered(get("/public").len(), 10);
            let outcome = connection.send(&mut world, get("/public").len(), get("/secret"));
            let refusal = outcome.refusal();
            assert_eq!(refusal.timestamps, Some((888, 777)));
            let ether_type: &[u8] = if ipv6 { &[0x86, 0xdd] } else { &[0x08, 0x00] };
            for sent in &outcome.made {
                assert_eq!(sent.link, [&tags.concat()[..], ether_type].concat());
            }
            assert_eq!(
                (refusal.source, refusal.destination),
                (connection.shape.destination, connection.shape.source)
            );
        }
    }
}

#[test]
fn only_the_segment_that_completes_a_denied_head_is_held() {
    for cut in 1..get("/secret").len() {
        let mut world = World::new();
        let connection = Connection::new();
        let request = get("/secret");
        connection.send(&mut world, 0, &request[..cut]).forwarded();
        let outcome = connection.send(&mut world, cut, &request[cut..]);
        assert_eq!(outcome.refusal().closing().3, connection.seq(request.len()));
        assert_eq!(
            outcome.made[1].closing().2,
            connection.seq(cut),
            "the other side expects this byte"
        );
    }
}

#[test]
fn egress_is_judged_by_the_egress_rules() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.meta.hook = Hook::FromEndpoint;
    assert_eq!(
        connection.send(&mut world, 0, get("/out")).forwarded().meta.hook,
        Hook::FromEndpoint
    );
    let mut connection = Connection::at(9);
    connection.meta.hook = Hook::FromEndpoint;
    connection.shape.source_port = 5;
    let outcome = connection.send(&mut world, 0, get("/public"));
    assert!(outcome.made.iter().all(|sent| sent.meta.hook == Hook::FromEndpoint));
    outcome.refusal();
}

#[test]
fn frames_with_wrong_checksums_are_dropped() {
    let good = Connection::new().frame(0, get("/public"));
    for (at, what) in [(24, "IP"), (50, "TCP"), (60, "payload")] {
        let mut world = World::new();
        let mut frame = good.clone();
        frame[at] ^= 1;
        world.decide(frame).nothing();
        assert_eq!(world.reason(DropReason::BadChecksum), 1, "{what}");
        world.decide(good.clone()).forwarded();
    }
}

#[test]
fn frames_that_cannot_be_read_are_dropped() {
    let mut world = World::new();
    let good = Connection::new().frame(0, get("/public"));
    let mut no_meta = good.clone();
    no_meta[0] = 0;
    let mut not_ip = good.clone();
    not_ip[12] = 0x88;
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    let unreadable = [no_meta, not_ip, fragment, good[..40].to_vec(), vec![]];
    for frame in &unreadable {
        world.decide(frame.clone()).nothing();
    }
    assert_eq!(world.reason(DropReason::EngineInvalidHeader), unreadable.len() as u64);
}

#[test]
fn data_under_flags_that_receivers_take_differently_is_dropped() {
    let mut world = World::new();
    let mut connection = Connection::new();
    for flags in [SYN, SYN | ACK, RST | ACK, PSH] {
        connection.flags = flags;
        connection.send(&mut world, 0, get("/public")).nothing();
    }
    assert_eq!(world.reason(DropReason::EngineInvalidHeader), 4);
    connection.flags = ACK | URG;
    connection.send(&mut world, 0, get("/public")).nothing();
    assert_eq!(world.reason(DropReason::UrgentData), 1);
}

#[test]
fn frames_without_data_pass() {
    let mut world = World::new();
    let mut connection = Connection::new();
    for flags in [ACK, FIN | ACK, RST] {
        connection.flags = flags;
        assert_eq!(
            connection.send(&mut world, 0, "").forwarded().meta.action,
            InjectAction::Keep
        );
    }
    assert_eq!(world.count(EngineCounter::FlowCreated), 0);
}

#[test]
fn datagrams_follow_the_policy() {
    let mut world = World::new();
    let mut shape = Shape::new(2, 1, 53);
    shape.protocol = 17;
    let egress = punt(Hook::FromEndpoint, IFINDEX);
    world.decide(shape.frame(&egress, 0, 0, 0, b"query")).nothing();
    assert_eq!(world.reason(DropReason::DnsMalformed), 1);
    shape.destination_port = 54;
    world.decide(shape.frame(&egress, 0, 0, 0, b"query")).nothing();
    assert_eq!(world.reason(DropReason::PolicyDenied), 1);
    assert_eq!(world.records().iter().map(|r| r.protocol).collect::<Vec<_>>(), [17, 17]);
}

#[test]
fn headers_that_a_rule_only_logs_are_in_the_record_of_the_request_and_hold_nothing_up() {
    for (headers, wanted) in [
        ("", vec![("x-team", false), ("x-run", false)]),
        ("X-Team: b\r\n", vec![("x-team", true), ("x-run", false)]),
        ("X-Team: a\r\nX-Run: 1\r\n", vec![]),
    ] {
        let (mut world, mut connection) = (World::new(), Connection::new());
        let request = format!("GET /logged HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        // From the rules, then from the memory of their verdict.
        for round in 0..2 {
            let sent = connection.send(&mut world, round * request.len(), request.as_bytes());
            sent.forwarded();
            connection.answered((round + 1) * request.len(), 1);
            let records = world.records();
            let [record] = &records[..] else { panic!("{records:?}") };
            let logged: Vec<(&str, bool)> = record
                .logged_headers()
                .iter()
                .map(|h| (h.name.as_str(), h.sent))
                .collect();
            assert_eq!(logged, wanted, "{headers:?}");
        }
        let plain = get("/public");
        connection.send(&mut world, 2 * request.len(), &plain).forwarded();
        assert!(
            world.records()[0].logged_headers().is_empty(),
            "the next record begins empty"
        );
    }
}

#[test]
fn records_that_nobody_takes_are_counted_as_lost() {
    let mut world = World::new();
    let mut connection = Connection::new();
    for offset in 0..100 {
        let request = get("/public");
        connection
            .send(&mut world, offset * request.len(), &request)
            .forwarded();
        connection.answered((offset + 1) * request.len(), 1);
    }
    assert_eq!((world.records().len(), world.shared.records_lost()), (64, 36));
}

/// Half of the frames keep right checksums and so get as far as the inspector.
#[test]
fn no_frame_makes_the_engine_panic() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut world = World::new();
    for round in 0..30_000u32 {
        let mut connection = Connection::at(rng.random());
        connection.shape.source_port = rng.random_range(0..50);
        connection.flags = if rng.random() { ACK } else { rng.random() };
        connection.meta.acked_seq = Some(rng.random())
            .filter(|_| rng.random_bool(0.1))
            .or(connection.meta.base_seq);
        connection.meta.closed = rng.random_bool(0.1);
        connection.meta.reply_idle = rng.random();
        let mut payload = [get("/public"), get("/secret")][rng.random_range(0..2)]
            .clone()
            .into_bytes();
        let at = rng.random_range(0..payload.len());
        payload[at] = rng.random();
        let mut frame = connection.frame(0, &payload[..rng.random_range(0..=payload.len())]);
        wire::number(&mut frame, rng.random());
        if round % 2 == 0 {
            let at = rng.random_range(0..frame.len());
            frame[at] = rng.random();
            frame.truncate(rng.random_range(0..=frame.len()));
        }
        world.now_ns += u64::from(round);
        let mut out = Outbox::new();
        let fate = world.engine.decide(&mut frame, world.now_ns, &mut out);
        assert!(fate == Fate::Consumed || out.is_empty(), "one answer to one frame");
        out.frames().for_each(|frame| drop(Sent::read(frame)));
        world.tick();
    }
}
