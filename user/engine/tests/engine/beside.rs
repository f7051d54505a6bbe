//! Beside the traffic: what enforcement would have said, whatever is shown, in whatever order, however much of it.

use crate::http2::{END_HEADERS, HEADERS, begin, block, frame, request};
use crate::wire::{self, Shape};
use crate::world::{Connection, IFINDEX, POLICY, SECOND, World, get, post};
use seventh_abi::{DropReason, Hook};
use seventh_engine::{
    Beside, Denials, EndpointView, EngineCounter, EngineLimits, EngineShared, L7Record, PolicyView, RecordVerdict, Seen,
};
use seventh_policy::{CompiledPolicy, Ipcache};
use seventh_verdict_cache::KeyHasher;
use std::sync::Arc;

struct BesideWorld {
    shared: Arc<EngineShared>,
    beside: Beside,
}

impl BesideWorld {
    /// Under the policy of [`World`].
    fn audit() -> Self {
        let world = World::new();
        Self {
            beside: Beside::new(world.shared.clone(), EngineLimits::default(), Denials::Audited),
            shared: world.shared,
        }
    }

    /// Without rules.
    fn visibility() -> Self {
        let shared = Arc::new(EngineShared::new(KeyHasher::from_secret([3; 16]), 1024, 64));
        let endpoint = EndpointView {
            id: 1,
            name: "all".into(),
            epoch: 1,
            policy: Arc::new(CompiledPolicy::observe()),
        };
        shared.set_policy(Arc::new(PolicyView {
            endpoints: [(IFINDEX, endpoint)].into(),
            ipcache: Arc::new(Ipcache::new()),
        }));
        Self {
            beside: Beside::new(shared.clone(), EngineLimits::default(), Denials::Audited),
            shared,
        }
    }

    fn show(&mut self, frame: &[u8]) -> Seen {
        let seen = self.beside.observe(frame, SECOND);
        // Compares what it says it holds with what its connections hold, see `World::weigh`.
        self.beside.tick(SECOND);
        seen
    }

    /// Verdict, reason and path of each record since the last call.
    fn records(&self) -> Vec<(RecordVerdict, Option<DropReason>, String)> {
        let records = std::iter::from_fn(|| self.shared.take_record());
        records.map(|r| (r.verdict, r.reason, r.path().to_owned())).collect()
    }

    fn count(&self, counter: EngineCounter) -> u64 {
        self.shared.counters().path(counter)
    }
}

fn forwarded(path: &str) -> (RecordVerdict, Option<DropReason>, String) {
    (RecordVerdict::Forwarded, None, path.to_owned())
}

fn audited(reason: DropReason, path: &str) -> (RecordVerdict, Option<DropReason>, String) {
    (RecordVerdict::Audit, Some(reason), path.to_owned())
}

/// A segment of the other side that acknowledges the opener's bytes before `offset`.
fn reply(connection: &Connection, offset: usize, payload: &[u8]) -> Vec<u8> {
    let mut shape = connection.shape.clone();
    std::mem::swap(&mut shape.source, &mut shape.destination);
    std::mem::swap(&mut shape.source_port, &mut shape.destination_port);
    let mut meta = connection.meta;
    meta.reply = true;
    // It goes the other way.
    meta.hook = Hook::FromEndpoint;
    shape.frame(&meta, connection.ack, connection.seq(offset), wire::ACK, payload)
}

#[test]
fn a_denial_is_recorded_and_reading_goes_on() {
    let mut world = BesideWorld::audit();
    let connection = Connection::new();
    let bytes = get("/secret") + &get("/public") + "GET / HTTP/1.1\r\n\r\n" + &get("/public/2");
    assert_eq!(world.show(&connection.frame(0, &bytes)), Seen::More);
    assert_eq!(
        world.records(),
        [
            audited(DropReason::HttpPolicyDenied, "/secret"),
            forwarded("/public"),
            audited(DropReason::HttpMissingHost, "/"),
            forwarded("/public/2"),
        ]
    );
}

#[test]
fn cut_anywhere_and_in_any_order_it_is_the_same() {
    let bytes = get("/public") + &post(3) + "abc" + &get("/secret");
    for cut in 1..bytes.len() {
        let mut world = BesideWorld::audit();
        let connection = Connection::new();
        let (first, second) = bytes.split_at(cut);
        world.show(&connection.frame(cut, second));
        assert_eq!(world.records(), []);
        world.show(&connection.frame(0, first));
        world.show(&connection.frame(0, first));
        assert_eq!(
            world.records(),
            [
                forwarded("/public"),
                forwarded("/upload"),
                audited(DropReason::HttpPolicyDenied, "/secret")
            ],
            "cut at {cut}"
        );
    }
}

#[test]
fn the_rest_of_a_body_needs_not_be_shown() {
    let mut world = BesideWorld::audit();
    let mut connection = Connection::new();
    let head = post(100_000);
    let end = head.len() + 100_000;
    let seen = world.show(&connection.frame(0, &head));
    assert_eq!(
        seen,
        Seen::Skip {
            until: connection.seq(end)
        }
    );
    connection.answered(end, 100);
    world.show(&connection.frame(end, get("/public")));
    assert_eq!(world.records(), [forwarded("/upload"), forwarded("/public")]);
    assert_eq!(world.count(EngineCounter::LostTrack), 0);
}

#[test]
fn small_bodies_may_be_missing_too() {
    let mut world = BesideWorld::audit();
    let connection = Connection::new();
    let head = post(1000);
    world.show(&connection.frame(0, &head));
    world.show(&connection.frame(head.len() + 1000, get("/public")));
    assert_eq!(world.records(), [forwarded("/upload")], "it may still come");
    world.show(&reply(&connection, head.len() + 1000, b""));
    assert_eq!(world.records(), [forwarded("/public")]);
}

#[test]
fn behind_a_gap_requests_are_found_where_segments_begin() {
    let mut world = BesideWorld::audit();
    let connection = Connection::new();
    let first = get("/public");
    world.show(&connection.frame(0, &first));
    world.show(&connection.frame(first.len() + 500, b"x: y\r\n\r\n"));
    world.show(&connection.frame(first.len() + 508, get("/secret")));
    world.show(&reply(&connection, first.len() + 508, b""));
    assert_eq!(
        world.records(),
        [forwarded("/public"), audited(DropReason::HttpPolicyDenied, "/secret")]
    );
    assert_eq!(world.count(EngineCounter::LostTrack), 1);
}

#[test]
fn what_is_never_acknowledged_is_read_at_the_end() {
    let mut world = BesideWorld::audit();
    let mut connection = Connection::new();
    connection.meta.acked_seq = None;
    world.show(&connection.frame(700, get("/secret")));
    assert_eq!(world.records(), []);
    world.beside.finish(SECOND);
    assert_eq!(world.records(), [audited(DropReason::HttpPolicyDenied, "/secret")]);
}

#[test]
fn frames_cut_short_show_what_they_show() {
    let mut world = BesideWorld::audit();
    let connection = Connection::new();
    let bytes = get("/public") + "GET /secret HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    let mut frame = connection.frame(0, &bytes);
    frame.truncate(frame.len() - 10);
    world.show(&frame);
    world.show(&connection.frame(bytes.len(), get("/public/3")));
    assert_eq!(world.records(), [forwarded("/public"), forwarded("/public/3")]);
}

#[test]
fn a_repetition_that_differs_is_told() {
    let mut world = BesideWorld::audit();
    let connection = Connection::new();
    world.show(&connection.frame(0, &get("/public")[..10]));
    world.show(&connection.frame(0, "GET /secre"));
    assert_eq!(world.records(), [audited(DropReason::RetransmissionDiffers, "")]);
}

#[test]
fn an_upgrade_is_followed_by_its_answer() {
    let upgrade = "GET /public HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
    for (answer, followed) in [("HTTP/1.1 101 a\r\n\r\n", false), ("HTTP/1.1 200 a\r\n\r\n", true)] {
        let mut world = BesideWorld::audit();
        let connection = Connection::new();
        world.show(&connection.frame(0, upgrade.to_owned() + &get("/secret")));
        assert_eq!(world.records(), [forwarded("/public")]);
        world.show(&reply(&connection, 0, answer.as_bytes()));
        let expected = if followed {
            vec![audited(DropReason::HttpPolicyDenied, "/secret")]
        } else {
            Vec::new()
        };
        assert_eq!(world.records(), expected, "{answer}");
    }
}

#[test]
fn without_rules_protocols_are_known_on_any_port() {
    let mut world = BesideWorld::visibility();
    for (port, bytes) in [
        (4711, get("/a")),
        (25, "EHLO x\r\n".to_owned()),
        (5060, "INVITE sip:a SIP/2.0\r\n\r\n".to_owned()),
        (1, "GET /loose HTTP/1.1\nHost: b\n\n".to_owned()),
    ] {
        let mut connection = Connection::new();
        connection.shape = Shape::new(1, 2, port);
        connection.meta = wire::punt(Hook::FromEndpoint, IFINDEX);
        world.show(&connection.frame(0, &bytes));
    }
    assert_eq!(
        world.records(),
        [
            forwarded("/a"),
            (
                RecordVerdict::Forwarded,
                Some(DropReason::HttpBareLineEnd),
                "/loose".to_owned()
            )
        ]
    );
}

#[test]
fn what_is_nothing_is_given_up_and_nothing_grows() {
    let mut world = BesideWorld::visibility();
    let mut connection = Connection::new();
    connection.meta = wire::punt(Hook::FromEndpoint, IFINDEX);
    let seen: Vec<Seen> = (0..400)
        .map(|n| world.show(&connection.frame(n * 1000, vec![b'x'; 1000])))
        .collect();
    assert_eq!((seen[0], seen[399]), (Seen::More, Seen::Done));
    // Bytes far ahead, none of which is ever connected.
    let mut connection = Connection::at(5);
    connection.meta.acked_seq = None;
    for n in 0..3000 {
        world.show(&connection.frame(n * 2000 + 10, vec![b'x'; 1000]));
    }
    world.beside.tick(SECOND);
    let held = world.count(EngineCounter::HeldBytes);
    assert!(held < 1 << 20, "{held}");
}

#[test]
fn the_same_verdicts_as_in_the_way_of_the_traffic() {
    let requests = [
        get("/public/a"),
        get("/secret"),
        post(2) + "ab",
        get("/h"),
        get("/token"),
    ];
    let verdict = |record: &L7Record| (record.reason, record.path().to_owned(), record.rule.is_some());
    for request in requests {
        let mut world = World::new();
        Connection::new().send(&mut world, 0, &request);
        let mut other = BesideWorld::audit();
        other.show(&Connection::new().frame(0, &request));
        let beside: Vec<_> = std::iter::from_fn(|| other.shared.take_record()).collect();
        let inside = world.records();
        assert_eq!(
            beside.iter().map(|record| verdict(record)).collect::<Vec<_>>(),
            inside.iter().map(verdict).collect::<Vec<_>>(),
            "{request}"
        );
    }
}

/// Nothing is refused here, so no change of policy ends what is read.
#[test]
fn tunnels_are_not_judged_again() {
    let mut policies = World::new();
    let mut world = BesideWorld {
        shared: policies.shared.clone(),
        beside: Beside::new(policies.shared.clone(), EngineLimits::default(), Denials::Audited),
    };
    let connection = Connection::new();
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    let opened = [begin(), frame(HEADERS, END_HEADERS, 1, &block(&connect))].concat();
    world.show(&connection.frame(0, &opened));
    assert_eq!(world.records(), [audited(DropReason::HttpPolicyDenied, "")]);
    policies.set_policy(&POLICY.replace("/public.*", "/other"));
    world.show(&connection.frame(opened.len(), request(3, "/other")));
    assert_eq!(world.records(), [forwarded("/other")]);
}
