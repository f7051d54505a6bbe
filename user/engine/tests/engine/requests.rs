//! Requests: every fault has its reason, every request on a connection is judged.

use crate::http2::{begin, request};
use crate::wire::{ACK, FIN, PSH};
use crate::world::{Connection, World, get, post};
use seventh_abi::{DropReason, InjectAction};
use seventh_engine::{EngineCounter, EngineLimits, RECORD_HEADERS_MAX};

#[test]
fn every_fault_is_refused_with_its_own_reason() {
    let long_head = format!("GET /public HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(66_000));
    let many = format!("GET /public HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(100));
    for (bytes, reason) in [
        ("get /public HTTP/1.1\r\n\r\n", DropReason::HttpLowerCaseMethod),
        ("GET /public\r\n", DropReason::HttpOldProtocol),
        (&long_head, DropReason::HttpHeadTooLarge),
        (&many, DropReason::HttpTooManyHeaders),
        (
            "GET /public HTTP/1.1\r\nHost : a\r\n\r\n",
            DropReason::HttpSpaceBeforeColon,
        ),
        (
            "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            DropReason::HttpAmbiguousLength,
        ),
        ("GET /public HTTP/1.1\r\n\r\n", DropReason::HttpMissingHost),
        (
            "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            DropReason::HttpBadChunk,
        ),
        ("\x16\x03\x01", DropReason::HttpTlsOnHttpRule),
        ("\x05\x01\0", DropReason::HttpNotHttp),
        ("\r\nPRI * HTTP/2.0\r\n\r\n", DropReason::HttpNotHttp),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            DropReason::HttpPolicyDenied,
        ),
        (
            "GET /public HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
            DropReason::HttpUpgradeUnsupported,
        ),
        (
            "GET /public/%2e%2e/secret HTTP/1.1\r\nHost: a\r\n\r\n",
            DropReason::HttpAmbiguousPath,
        ),
        ("GET /public\0 HTTP/1.1\r\nHost: a\r\n\r\n", DropReason::HttpControlByte),
        (
            "GET /token HTTP/1.1\r\nHost: a\r\nX-Token: \u{e9}",
            DropReason::HttpBadHeader,
        ),
    ] {
        let mut world = World::new();
        let mut connection = Connection::new();
        let mut bytes = bytes.as_bytes().to_vec();
        if bytes.ends_with("\u{e9}".as_bytes()) {
            bytes.truncate(bytes.len() - 2);
            bytes.extend(b"\xe9\r\n\r\n");
        }
        // The chunk's fault comes after a head that was let through: its answer has begun to arrive.
        let cut = bytes
            .windows(7)
            .position(|w| w == b"\r\n\r\nxyz")
            .map_or(0, |at| at + 4);
        if cut > 0 {
            connection.send(&mut world, 0, &bytes[..cut]).forwarded();
        }
        let mut at = cut;
        let outcome = loop {
            let end = (at + 1400).min(bytes.len());
            let outcome = connection.send(&mut world, at, &bytes[at..end]);
            if outcome.forwarded.is_none() {
                break outcome;
            }
            at = end;
            connection.meta.acked_seq = Some(connection.seq(at));
        };
        outcome.refusal();
        assert_eq!(world.reason(reason), 1, "{}", bytes.escape_ascii());
        assert_eq!(world.records().last().unwrap().reason, Some(reason));
    }
}

#[test]
fn thousands_of_requests_on_one_connection_are_each_judged() {
    let mut world = World::new();
    let mut connection = Connection::at(u32::MAX - 50_000);
    let mut offset = 0;
    for n in 0..3000 {
        let request = if n % 3 == 0 {
            post(4) + "body"
        } else {
            get(&format!("/public/{}", n % 7))
        };
        connection.send(&mut world, offset, &request).forwarded();
        offset += request.len();
        connection.answered(offset, 200);
    }
    assert_eq!(world.count(EngineCounter::RequestAllowed), 3000);
    connection.send(&mut world, offset, get("/secret")).refusal();
    assert_eq!(world.count(EngineCounter::CacheMiss), 9);
    assert!(connection.seq(offset) < 1_000_000, "the sequence numbers have wrapped");
}

#[test]
fn pipelined_requests_in_one_segment_are_each_judged() {
    let mut world = World::new();
    let connection = Connection::new();
    let all = [get("/public/1"), post(3) + "abc", get("/public/2"), get("/pub")].concat();
    connection.send(&mut world, 0, &all[..all.len() - 20]).forwarded();
    assert_eq!(world.count(EngineCounter::RequestAllowed), 3);
}

#[test]
fn a_denied_request_behind_an_allowed_one_waits_for_the_answer() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.flags = ACK | PSH | FIN;
    let (first, second) = (get("/public"), get("/secret"));
    let outcome = connection.send(&mut world, 0, [first.clone(), second.clone()].concat());
    assert!(outcome.forwarded.is_none());
    let [prefix] = &outcome.made[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (prefix.payload.as_slice(), prefix.tcp.seq),
        (first.as_bytes(), connection.seq(0))
    );
    assert_eq!(
        (prefix.flags(), prefix.meta.reverse),
        (ACK | PSH, false),
        "the stream does not end at the prefix"
    );
    assert_eq!(prefix.meta.action, InjectAction::Keep);
    // The opener sends the second again before it has got anything: still too early.
    connection.meta.acked_seq = Some(connection.seq(first.len()));
    connection.send(&mut world, first.len(), &second).nothing();
    // It has got a part of the answer and more is under way.
    connection.answered(first.len(), 100);
    connection.meta.reply_idle = false;
    connection.send(&mut world, first.len(), &second).nothing();
    assert_eq!(world.count(EngineCounter::DenialDeferred), 2);
    assert_eq!(world.count(EngineCounter::RequestDenied), 0);
    connection.answered(first.len(), 50);
    connection.meta.reply_idle = true;
    let outcome = connection.send(&mut world, first.len(), &second);
    assert_eq!(outcome.refusal().closing().2, 5150);
    assert_eq!(outcome.made[1].closing().2, connection.seq(first.len()));
    assert_eq!(
        world.records().len(),
        2,
        "one record per request, however often it was sent"
    );
}

#[test]
fn the_end_of_a_body_goes_on_before_a_denied_request() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let head = post(30);
    connection
        .send(&mut world, 0, head.clone() + &"x".repeat(20))
        .forwarded();
    let rest = "y".repeat(10) + &get("/secret");
    let at = head.len() + 20;
    let outcome = connection.send(&mut world, at, &rest);
    assert_eq!(outcome.made[0].payload, "y".repeat(10).as_bytes());
    // The same segment again, its first ten bytes let through before; the upload is answered by now.
    connection.answered(at + 10, 80);
    let outcome = connection.send(&mut world, at, &rest);
    let resets: Vec<u32> = outcome.made[1..].iter().map(|reset| reset.closing().2).collect();
    assert_eq!(outcome.refusal().closing().3, connection.seq(at + rest.len()));
    assert!(resets.contains(&connection.seq(at + 10)), "{resets:?}");
}

#[test]
fn long_bodies_are_given_free() {
    let mut world = World::new();
    let mut connection = Connection::at(u32::MAX - 3000);
    let head = post(100_000);
    let first = head.clone() + &"x".repeat(1000);
    let outcome = connection.send(&mut world, 0, &first);
    let (start, end) = (connection.seq(first.len()), connection.seq(head.len() + 100_000));
    let granted = InjectAction::Bypass {
        start,
        end,
        boundary: true,
    };
    assert_eq!(outcome.forwarded().meta.action, granted);
    // Bytes of the range come although the kernel was told: tell it again.
    let again = connection.send(&mut world, first.len(), "z".repeat(500));
    assert_eq!(again.forwarded().meta.action, granted);
    // The segment that straddles the end, two bytes of body and a request; then one beyond.
    let body_end = head.len() + 100_000;
    connection.answered(body_end - 2, 0);
    let outcome = connection.send(&mut world, body_end - 2, "xx".to_owned() + &get("/public"));
    outcome.forwarded();
    let next = body_end + get("/public").len();
    connection.answered(next, 300);
    let after = connection.seq(next + get("/public").len());
    assert_eq!(
        connection
            .send(&mut world, next, get("/public"))
            .forwarded()
            .meta
            .action,
        InjectAction::Bypass {
            start: after,
            end: after,
            boundary: true
        }
    );
    assert_eq!(world.count(EngineCounter::RequestAllowed), 3);
    assert_eq!(world.count(EngineCounter::BypassGranted), 1);
}

#[test]
fn a_denied_request_behind_a_range_given_free_is_never_let_through() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let head = post(10_000);
    connection.send(&mut world, 0, &head).forwarded();
    let end = head.len() + 10_000;
    connection.answered(end - 5, 60);
    let last = "xxxxx".to_owned() + &get("/secret");
    // The other side has not got the whole body: a reset would cut it off.
    let outcome = connection.send(&mut world, end - 5, &last);
    assert_eq!(
        (outcome.made.len(), outcome.made[0].payload.as_slice()),
        (1, &b"xxxxx"[..])
    );
    connection.answered(end, 60);
    let outcome = connection.send(&mut world, end - 5, &last);
    outcome.refusal();
    let resets: Vec<u32> = outcome.made[1..].iter().map(|reset| reset.closing().2).collect();
    assert!(
        resets.contains(&connection.seq(end)),
        "where the other side stands: {resets:?}"
    );
}

#[test]
fn chunked_bodies_are_followed_and_their_long_chunks_given_free() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = format!("{head}3\r\nGET\r\n8000\r\n");
    let outcome = connection.send(&mut world, 0, &first);
    let (start, end) = (connection.seq(first.len()), connection.seq(first.len() + 0x8000));
    assert_eq!(
        outcome.forwarded().meta.action,
        InjectAction::Bypass {
            start,
            end,
            boundary: false
        }
    );
    let last = first.len() + 0x8000;
    connection.answered(last, 10);
    let outcome = connection.send(&mut world, last, format!("\r\n0\r\n\r\n{}", get("/public")));
    outcome.forwarded();
    assert_eq!(world.count(EngineCounter::RequestAllowed), 2);
}

#[test]
fn cached_verdicts_depend_on_all_that_the_rules_read() {
    let mut world = World::new();
    let with = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\n{lines}\r\n\r\n");
    let token = with("/token", "Host: a\r\nX-Token: secret");
    let cases = [
        (token.clone(), true),
        (with("/token", "Host: a\r\nX-Token: guess"), false),
        (with("/token", "Host: a\r\nX-Token: secret\r\nX-Token: secret"), false),
        (with("/token", "Host: a"), false),
        (with("/token", "Host: a\r\nX-Other: secret"), false),
        (with("/h", "Host: a.example"), true),
        (with("/h", "Host: b.example"), false),
        (token.replace("GET", "PUT"), false),
        (token, true),
    ];
    for round in 0..2 {
        for (n, (request, allowed)) in cases.iter().enumerate() {
            let mut connection = Connection::new();
            connection.shape.source_port = 1000 + round * 100 + n as u16;
            let outcome = connection.send(&mut world, 0, request);
            assert_eq!(outcome.forwarded.is_some(), *allowed, "{request}");
        }
    }
    assert!(world.count(EngineCounter::CacheHit) >= cases.len() as u64);
    // One request comes twice, and a header that no rule reads makes no difference.
    assert_eq!(world.count(EngineCounter::CacheMiss), cases.len() as u64 - 2);
}

#[test]
fn records_say_which_version_of_http_it_was() {
    let mut world = World::new();
    for (port, bytes, version) in [
        (1, get("/public").into_bytes(), "HTTP/1.1"),
        (2, b"GET /public HTTP/1.0\r\n\r\n".to_vec(), "HTTP/1.0"),
        (3, [begin(), request(1, "/public")].concat(), "HTTP/2"),
        (4, b"GET /secret HTTP/1.0\r\n\r\n".to_vec(), "HTTP/1.0"),
    ] {
        let mut connection = Connection::new();
        connection.shape.source_port = port;
        connection.send(&mut world, 0, bytes);
        let records = world.records();
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!(record.http().map(|http| http.version), Some(version));
    }
    Connection::new().send(&mut world, 0, "\x16\x03\x01");
    assert!(world.records()[0].http().is_none());
}

#[test]
fn headers_are_recorded_if_somebody_wants_them_and_bounded() {
    let long = "x".repeat(RECORD_HEADERS_MAX);
    let head = format!("GET /public HTTP/1.1\r\nHost: a\r\nX-One:  b: c \r\nX-Long: {long}\r\nX-Last: d\r\n\r\n");
    for (record_headers, expected) in [(false, &[][..]), (true, &[("Host", "a"), ("X-One", "b: c")])] {
        let mut world = World::with_limits(EngineLimits {
            record_headers,
            ..EngineLimits::default()
        });
        Connection::new().send(&mut world, 0, head.as_bytes()).forwarded();
        let records = world.records();
        let http = records[0].http().unwrap();
        assert_eq!(http.headers().collect::<Vec<_>>(), expected);
        assert_eq!((http.path(), http.target(), http.host()), ("/public", "/public", "a"));
    }
}
