//! Requests after which the connection speaks another protocol, if the server agrees.

use crate::http2::{END_HEADERS, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, begin, block, frame, request};
use crate::wire::{ACK, RST};
use crate::world::{Connection, Outcome, POLICY, World, get};
use seventh_abi::{DropReason, Hook, InjectAction, Replies};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n";

fn upgrade(protocol: &str) -> String {
    format!("GET /public/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
}

/// [`POLICY`] with a rule that allows CONNECT to `a:443`.
pub(crate) fn with_connect() -> String {
    let rule = "        - {method: OPTIONS, path: \"[*]\"}\n";
    let policy = POLICY.replace(rule, "        - {method: CONNECT, host: \"a:443\"}\n");
    assert_ne!(policy, POLICY);
    policy
}

/// The server's bytes, `offset` after its first; the opener has acknowledged those before.
fn reply(world: &mut World, connection: &Connection, at: usize, offset: u32, bytes: &[u8]) -> Outcome {
    let mut meta = connection.meta;
    // It is met where packets of the endpoint are.
    meta.hook = Hook::FromEndpoint;
    meta.reply = true;
    meta.acked_seq = Some(connection.seq(at));
    let mut shape = connection.shape.clone();
    std::mem::swap(&mut shape.source, &mut shape.destination);
    std::mem::swap(&mut shape.source_port, &mut shape.destination_port);
    let frame = shape.frame(&meta, 5000 + offset, connection.seq(at), connection.flags, bytes);
    world.decide(frame)
}

/// A connection whose first request asked for `protocol`, and its length.
fn asked(world: &mut World, protocol: &str) -> (Connection, usize) {
    let connection = Connection::new();
    let head = upgrade(protocol);
    let sent = connection.send(world, 0, &head);
    assert_eq!(sent.forwarded().meta.replies, Replies::PuntAndCopy);
    let mut connection = connection;
    connection.answered(head.len(), 0);
    (connection, head.len())
}

#[test]
fn the_connection_is_opaque_only_after_the_server_has_agreed() {
    let mut world = World::new();
    let (mut connection, at) = asked(&mut world, "websocket");
    connection.send(&mut world, at, "\x01frames").nothing();
    let half = reply(&mut world, &connection, at, 0, &SWITCH[..20]);
    assert_eq!(half.forwarded().meta.action, InjectAction::Keep);
    connection.send(&mut world, at, "\x01frames").nothing();
    let rest = reply(&mut world, &connection, at, 20, &SWITCH[20..]);
    let epoch = world.epoch();
    let meta = rest.forwarded().meta;
    assert_eq!(
        (meta.action, meta.replies),
        (InjectAction::Forward { epoch }, Replies::Pass)
    );
    connection.answered(at, SWITCH.len() as u32);
    let sent = connection.send(&mut world, at, "\x01frames");
    assert_eq!(sent.forwarded().meta.action, InjectAction::Forward { epoch });
}

#[test]
fn after_a_refused_upgrade_requests_go_on_being_judged() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 426 Upgrade Required\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let mut world = World::new();
        let (mut connection, at) = asked(&mut world, "websocket");
        connection.send(&mut world, at, get("/public")).nothing();
        let said = reply(&mut world, &connection, at, 0, answer.as_bytes());
        assert_eq!(
            (said.forwarded().meta.action, said.forwarded().meta.replies),
            (InjectAction::Keep, Replies::Pass)
        );
        connection.answered(at, answer.len() as u32);
        connection.send(&mut world, at, get("/public")).forwarded();
        let at = at + get("/public").len();
        connection.answered(at, 90);
        connection.send(&mut world, at, get("/secret")).refusal();
    }
}

#[test]
fn what_comes_with_the_request_waits_for_the_answer() {
    let mut world = World::new();
    let connection = Connection::new();
    let head = upgrade("websocket");
    let sent = connection.send(&mut world, 0, head.clone() + &get("/secret"));
    assert!(sent.forwarded.is_none());
    assert_eq!(
        (sent.made[0].payload.len(), sent.made[0].meta.replies),
        (head.len(), Replies::PuntAndCopy)
    );
    // The frame that told the kernel may be lost: the repeated request tells it again.
    let again = connection.send(&mut world, 0, &head);
    assert_eq!(again.forwarded().meta.replies, Replies::Punt);
    reply(&mut world, &connection, head.len(), 0, b"HTTP/1.1 200 OK\r\n\r\n").forwarded();
    let mut connection = connection;
    connection.answered(head.len(), 19);
    connection.send(&mut world, head.len(), get("/secret")).refusal();
}

#[test]
fn only_the_first_request_may_ask() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, get("/public")).forwarded();
    connection.answered(get("/public").len(), 90);
    connection
        .send(&mut world, get("/public").len(), upgrade("websocket"))
        .refusal();
    assert_eq!(world.reason(DropReason::HttpUpgradeUnsupported), 1);
    for several in ["h2c, websocket", "", "a b"] {
        let mut world = World::new();
        Connection::new().send(&mut world, 0, upgrade(several)).refusal();
        assert_eq!(world.reason(DropReason::HttpUpgradeUnsupported), 1, "{several}");
    }
    let mut taken = Connection::at(7000);
    taken.answered(100, 9);
    taken.request_begins_at(100);
    taken.send(&mut world, 100, upgrade("websocket")).refusal();
}

#[test]
fn an_opaque_connection_is_judged_again_when_the_rules_change() {
    let mut world = World::new();
    let (mut connection, at) = asked(&mut world, "websocket");
    reply(&mut world, &connection, at, 0, SWITCH).forwarded();
    connection.answered(at, SWITCH.len() as u32);
    world.set_policy(&POLICY.replace("/public.*", "/public/ws"));
    let epoch = world.epoch();
    let sent = connection.send(&mut world, at, "frames");
    assert_eq!(sent.forwarded().meta.action, InjectAction::Forward { epoch });
    world.set_policy(&POLICY.replace("/public.*", "/other"));
    connection.send(&mut world, at, "frames").resets();
    assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
}

/// A client can put the answer off as long as it likes, by a window of zero.
#[test]
fn an_upgrade_that_is_not_answered_yet_is_judged_again_when_the_rules_change() {
    for (protocol, forbidden) in [("websocket", true), ("websocket", false), ("h2c", true), ("h2c", false)] {
        for opener_first in [false, true] {
            let mut world = World::new();
            let (mut connection, at) = asked(&mut world, protocol);
            let path = if forbidden { "/other" } else { "/public/ws" };
            world.set_policy(&POLICY.replace("/public.*", path));
            let early = opener_first.then(|| connection.send(&mut world, at, "frames"));
            if forbidden {
                let outcome = early.unwrap_or_else(|| reply(&mut world, &connection, at, 0, SWITCH));
                assert!(outcome.forwarded.is_none(), "{outcome:?}");
                assert!(outcome.made.len() > 1 && outcome.made.iter().all(|sent| sent.flags() == RST | ACK));
                assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
                let agreed = reply(&mut world, &connection, at, 0, SWITCH);
                assert!(agreed.forwarded.is_none(), "{agreed:?}");
                connection.answered(at, SWITCH.len() as u32);
                assert!(connection.send(&mut world, at, "frames").forwarded.is_none());
            } else {
                assert!(early.is_none_or(|outcome| outcome.forwarded.is_none() && outcome.made.is_empty()));
                reply(&mut world, &connection, at, 0, SWITCH).forwarded();
                connection.answered(at, SWITCH.len() as u32);
                connection.send(&mut world, at, begin()).forwarded();
                assert_eq!(world.reason(DropReason::HttpPolicyDenied), 0);
            }
        }
    }
}

#[test]
fn a_connect_that_is_not_answered_yet_is_judged_again_when_the_rules_change() {
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let mut world = World::new();
    world.set_policy(&with_connect());
    let connection = Connection::new();
    connection.send(&mut world, 0, connect).forwarded();
    world.set_policy(POLICY);
    let said = reply(&mut world, &connection, connect.len(), 0, b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(said.forwarded.is_none(), "{said:?}");
    assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
}

#[test]
fn after_an_upgrade_to_http_2_every_stream_is_judged() {
    let mut world = World::new();
    let (mut connection, at) = asked(&mut world, "h2c");
    connection.send(&mut world, at, begin()).nothing();
    // Frames come with the agreement, and behind it.
    let with_frames = [SWITCH, &begin()].concat();
    let start = 5000 + SWITCH.len() as u32;
    for (offset, bytes, replies) in [
        (0, &with_frames[..], Replies::Keep),
        (with_frames.len() as u32, b"frame", Replies::Keep),
        (0, &with_frames, Replies::Keep),
        (70_000, b"frame", Replies::Pass),
    ] {
        let said = reply(&mut world, &connection, at, offset, bytes);
        assert_eq!(
            (said.forwarded().meta.action, said.forwarded().meta.replies),
            (InjectAction::FollowFrames { start }, replies)
        );
    }
    connection.answered(at, SWITCH.len() as u32);
    // Stream 1 is the request that asked.
    let good = [begin(), request(3, "/public")].concat();
    connection.send(&mut world, at, &good).forwarded();
    connection.answered(at + good.len(), 90);
    let outcome = connection.send(&mut world, at + good.len(), request(5, "/secret"));
    assert!(outcome.made[0].meta.reverse && outcome.made[0].payload.starts_with(&[0, 0, 0, 4]));
    assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
}

#[test]
fn connect_is_followed_where_a_rule_without_a_path_allows_it() {
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let mut world = World::new();
    Connection::new().send(&mut world, 0, connect).refusal();
    assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
    let policy = with_connect();
    for (answer, opaque) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 407 No\r\n\r\n", false)] {
        let mut world = World::new();
        world.set_policy(&policy);
        let connection = Connection::new();
        connection.send(&mut world, 0, connect).forwarded();
        let said = reply(&mut world, &connection, connect.len(), 0, answer.as_bytes());
        let is_forward = matches!(said.forwarded().meta.action, InjectAction::Forward { .. });
        assert_eq!(is_forward, opaque);
    }
}

#[test]
fn no_rule_with_a_path_allows_connect() {
    let rule = "        - {method: OPTIONS, path: \"[*]\"}\n";
    for pattern in [".*", "(/.*)?", "/.*"] {
        let policy = POLICY.replace(rule, &format!("        - {{path: \"{pattern}\", host: \"a:443\"}}\n"));
        assert_ne!(policy, POLICY);
        let mut world = World::new();
        world.set_policy(&policy);
        let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
        Connection::new().send(&mut world, 0, connect).refusal();
        assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1, "{pattern}");
        let mut world = World::new();
        world.set_policy(&policy);
        let mut connection = Connection::new();
        connection.send(&mut world, 0, begin()).forwarded();
        connection.answered(begin().len(), 9);
        let fields = block(&[(":method", "CONNECT"), (":authority", "a:443")]);
        let sent = connection.send(&mut world, begin().len(), frame(HEADERS, END_HEADERS, 1, &fields));
        assert!(sent.forwarded.is_none());
        assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1, "{pattern}");
    }
}

#[test]
fn acknowledging_bytes_that_were_never_sent_hides_nothing_of_the_answer() {
    let answer_head = "HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n";
    let answer = [answer_head.as_bytes(), SWITCH].concat();
    let head = upgrade("websocket");
    for cut in [0, 1, head.len() - 1] {
        let mut world = World::new();
        let mut connection = Connection::new();
        if cut > 0 {
            connection.send(&mut world, 0, &head[..cut]).forwarded();
        }
        let mut liar = connection.clone();
        liar.ack += answer_head.len() as u32;
        liar.meta.reply_idle = false;
        liar.send(&mut world, cut, &head[cut..]).nothing();
        assert!(
            world.records().is_empty(),
            "it is judged when it comes with the right one"
        );
        let sent = connection.send(&mut world, cut, &head[cut..]);
        assert_eq!(sent.forwarded().meta.replies, Replies::PuntAndCopy);
        let said = reply(&mut world, &connection, head.len(), 0, &answer);
        assert_eq!(
            (said.forwarded().meta.action, said.forwarded().meta.replies),
            (InjectAction::Keep, Replies::Pass)
        );
        connection.answered(head.len(), answer.len() as u32);
        connection.send(&mut world, head.len(), get("/secret")).refusal();
    }
}

fn upgrade_with_body(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A server that switches before it has read the body would take it for frames.
#[test]
fn a_body_that_some_server_could_take_for_http_2_is_refused() {
    let evil = [begin(), request(3, "/secret"), vec![b'x'; 9000]].concat();
    let whole = upgrade_with_body(&evil);
    let head_len = whole.len() - evil.len();
    for first in [
        head_len - 3,
        head_len,
        head_len + 1,
        head_len + PREFACE.len() - 1,
        head_len + 400,
    ] {
        let mut world = World::new();
        let connection = Connection::new();
        let mut passed = Vec::new();
        let mut at = 0;
        for end in [first, head_len + 600] {
            // It comes again, as what is refused does.
            for _ in 0..3 {
                let outcome = connection.send(&mut world, at, &whole[at..end]);
                let sent = outcome
                    .forwarded
                    .iter()
                    .chain(&outcome.made)
                    .filter(|s| !s.meta.reverse);
                let payload = sent.flat_map(|s| s.payload.clone()).collect::<Vec<_>>();
                assert!(
                    outcome.forwarded.is_none_or(|s| s.meta.action == InjectAction::Keep),
                    "nothing is given free"
                );
                if at + payload.len() > passed.len() {
                    passed.truncate(at);
                    passed.extend(payload);
                }
            }
            at = first;
        }
        assert!(
            !passed.windows(PREFACE.len()).any(|bytes| bytes == PREFACE),
            "cut at {first}"
        );
        assert!(world.reason(DropReason::HttpUpgradeUnsupported) > 0);
    }
}

#[test]
fn behind_the_body_of_an_upgrade_http_2_begins() {
    for body in [
        &b"PRI * HTTP/1.1\r\n\r\n and no preface"[..],
        &[b'P'; 5000],
        b"PRI * HTTP/2.0\r\n",
        b"{}",
    ] {
        let mut world = World::new();
        let mut connection = Connection::new();
        let whole = upgrade_with_body(body);
        let cut = whole.len() - body.len() + 1;
        connection.send(&mut world, 0, &whole[..cut]).forwarded();
        connection.send(&mut world, cut, &whole[cut..]).forwarded();
        let at = whole.len();
        connection.answered(at, 0);
        connection.send(&mut world, at, begin()).nothing();
        reply(&mut world, &connection, at, 0, SWITCH).forwarded();
        connection.answered(at, SWITCH.len() as u32);
        let good = [begin(), request(3, "/public")].concat();
        connection.send(&mut world, at, &good).forwarded();
        connection.answered(at + good.len(), 90);
        let outcome = connection.send(&mut world, at + good.len(), request(5, "/secret"));
        assert!(outcome.made[0].meta.reverse, "{outcome:?}");
    }
}

/// Window updates that go on after an upgrade to HTTP/2 with these header lines and these first SETTINGS, of 3000.
fn updates_that_go_on(lines: &str, settings: &[u8]) -> usize {
    let mut world = World::new();
    let mut connection = Connection::new();
    let head = upgrade("h2c").replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
    connection.send(&mut world, 0, &head).forwarded();
    let mut at = head.len();
    connection.answered(at, 0);
    reply(&mut world, &connection, at, 0, SWITCH).forwarded();
    connection.answered(at, SWITCH.len() as u32);
    let opened = [PREFACE, &frame(SETTINGS, 0, 0, settings), &request(3, "/public")].concat();
    connection.send(&mut world, at, &opened).forwarded();
    at += opened.len();
    let update = frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0x80, 0]).repeat(100);
    for sent in 0..30 {
        connection.answered(at, 1);
        if connection.send(&mut world, at, &update).forwarded.is_none() {
            assert_eq!(world.reason(DropReason::Http2ResetFlood), 1);
            return sent * 100;
        }
        at += update.len();
    }
    3000
}

#[test]
fn settings_that_came_with_an_upgrade_hide_no_flood() {
    for lines in [
        // 0x7fff_ffff, and 0xffff before it.
        "HTTP2-Settings: AAR_____\r\n",
        "HTTP2-Settings: AAQAAP__AAR_____\r\n",
        // What is not read alike by everybody.
        "",
        "HTTP2-Settings: AAQAAP__\r\nHTTP2-Settings: AAQAAP__\r\n",
        "HTTP2-Settings: AAQAAP//\r\n",
        "HTTP2-Settings: AAQAAP__AA\r\n",
        "HTTP2-Settings: AAMAAABk=\r\n",
    ] {
        assert_eq!(updates_that_go_on(lines, &[]), 1000, "{lines}");
        // Frames say what windows begin with from then on.
        assert_eq!(updates_that_go_on(lines, &[0, 4, 0, 0, 0xff, 0xff]), 3000, "{lines}");
    }
}

/// Clients that keep the window that is usual need not name it, neither with the request nor behind it.
#[test]
fn a_long_download_after_an_upgrade_is_not_cut() {
    for lines in [
        "HTTP2-Settings: AAQAAP__\r\n",
        "HTTP2-Settings: AAR_____AAQAAP__\r\n",
        "HTTP2-Settings: AAMAAABk\r\n",
        "HTTP2-Settings:\r\n",
    ] {
        assert_eq!(updates_that_go_on(lines, &[]), 3000, "{lines}");
        let large = [0, 4, 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(updates_that_go_on(lines, &large), 1000, "{lines}");
    }
}
