//! HTTP/2: every request on every stream is judged, and nothing that surrounds it is a way past.

use crate::wire::{ACK, FIN, PSH, RST, Sent};
use crate::world::{Connection, Outcome, SECOND, World, get};
use seventh_abi::{DropReason, InjectAction};
use seventh_engine::EngineCounter;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal; `first` says whether it is added to the table (0x40) or not (0).
pub(crate) fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![first];
    for text in [name, value] {
        assert!(text.len() < 127);
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
    out
}

pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| literal(0, name, value))
        .collect()
}

pub(crate) fn fields<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
    ]
}

/// A whole request without data.
pub(crate) fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields("GET", path)))
}

pub(crate) fn begin() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Type, flags, stream and payload of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        frames.push((bytes[3], bytes[4], stream, bytes[9..9 + len].to_vec()));
        bytes = &bytes[9 + len..];
    }
    frames
}

/// The frames of a refusal, and the number of GOAWAY's reason.
#[track_caller]
fn refusal(outcome: &Outcome) -> (Vec<(u8, u8, u32)>, u8) {
    assert!(outcome.forwarded.is_none(), "{outcome:?}");
    let (answer, resets) = outcome.made.split_first().expect("a refusal");
    assert_eq!((answer.meta.reverse, answer.flags()), (true, ACK | PSH | FIN));
    assert_eq!(answer.meta.action, InjectAction::Close);
    assert!(!resets.is_empty() && resets.iter().all(|r| !r.meta.reverse && r.flags() == RST | ACK));
    let frames = frames(&answer.payload);
    let code = frames.last().unwrap().3[7];
    (
        frames
            .into_iter()
            .map(|(kind, flags, stream, _)| (kind, flags, stream))
            .collect(),
        code,
    )
}

#[track_caller]
fn prefix(outcome: &Outcome) -> &Sent {
    assert!(outcome.forwarded.is_none() && outcome.made.len() == 1, "{outcome:?}");
    &outcome.made[0]
}

/// Sends all in segments of 1400 bytes until something does not go on; everything is acknowledged at once.
fn send_all(world: &mut World, connection: &mut Connection, bytes: &[u8]) -> Outcome {
    let mut at = 0;
    loop {
        let end = (at + 1400).min(bytes.len());
        let outcome = connection.send(world, at, &bytes[at..end]);
        if outcome.forwarded.is_none() || end == bytes.len() {
            return outcome;
        }
        at = end;
        connection.answered(at, 1);
    }
}

#[test]
fn every_stream_is_judged_cut_anywhere() {
    let all = [
        begin(),
        request(1, "/public/1"),
        frame(HEADERS, END_HEADERS, 3, &block(&fields("POST", "/upload"))),
        frame(WINDOW_UPDATE, 0, 3, &[0, 0, 1, 0]),
        frame(DATA, END_STREAM, 3, b"GET /no HTTP/1.1\r\n\r\n"),
        request(5, "/public/2"),
    ]
    .concat();
    let bad = request(7, "/secret");
    let whole = [&all[..], &bad].concat();
    for cut in 1..whole.len() {
        let mut world = World::new();
        let mut connection = Connection::new();
        let first = connection.send(&mut world, 0, &whole[..cut]);
        first.forwarded();
        connection.answered(cut, 100);
        let outcome = connection.send(&mut world, cut, &whole[cut..]);
        let outcome = if cut < all.len() {
            let sent = prefix(&outcome);
            assert_eq!(sent.payload, whole[cut..all.len()], "cut at {cut}");
            connection.answered(all.len(), 100);
            connection.send(&mut world, all.len(), &bad)
        } else {
            outcome
        };
        let (frames, code) = refusal(&outcome);
        assert_eq!(frames, [(4, 0, 0), (1, 4, 7), (0, 1, 7), (7, 0, 0)], "cut at {cut}");
        assert_eq!(code, 0);
        assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
        assert_eq!(world.count(EngineCounter::RequestAllowed), 3);
        let records = world.records();
        let shown: Vec<_> = records.iter().map(|r| (r.method(), r.host(), r.path())).collect();
        assert_eq!(
            shown,
            [
                ("GET", "a", "/public/1"),
                ("POST", "a", "/upload"),
                ("GET", "a", "/public/2"),
                ("GET", "a", "/secret")
            ]
        );
    }
}

#[test]
fn the_first_request_is_refused_before_the_server_has_said_a_word() {
    let mut world = World::new();
    let connection = Connection::new();
    let all = [begin(), request(1, "/secret")].concat();
    let sent = connection.send(&mut world, 0, &all);
    assert_eq!(prefix(&sent).payload, begin());
    // The rest comes again; the server has got the preface.
    let mut connection = connection;
    connection.answered(begin().len(), 0);
    let outcome = connection.send(&mut world, begin().len(), &all[begin().len()..]);
    let (frames, _) = refusal(&outcome);
    assert_eq!(frames[0], (4, 0, 0), "SETTINGS come first");
    assert_eq!(outcome.made[0].tcp.seq, connection.ack);
}

#[test]
fn grpc_is_refused_in_its_own_words() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let fields = [
        &fields("POST", "/pkg.Service/Method")[..],
        &[("content-type", "application/grpc"), ("te", "trailers")],
    ];
    let call = frame(HEADERS, END_HEADERS, 1, &block(&fields.concat()));
    connection.send(&mut world, 0, begin()).forwarded();
    connection.answered(begin().len(), 30);
    let outcome = connection.send(
        &mut world,
        begin().len(),
        [call, frame(DATA, END_STREAM, 1, b"\0\0\0\0\0")].concat(),
    );
    assert_eq!(refusal(&outcome).0, [(4, 0, 0), (1, 5, 1), (7, 0, 0)]);
    let payload = &outcome.made[0].payload;
    assert!(
        payload.windows(13).any(|w| w == b"grpc-status\x017"),
        "{}",
        payload.escape_ascii()
    );
}

#[test]
fn a_refused_block_leaves_no_trace_in_the_table() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let start = [begin(), request(1, "/public")].concat();
    connection.send(&mut world, 0, &start).forwarded();
    // Not idle: what is refused is dropped and comes again, as another block.
    connection.meta.reply_idle = false;
    let evil = [
        &literal(0x40, ":path", "/public/evil")[..],
        &block(&fields("GET", "/secret")[..2]),
    ]
    .concat();
    let evil = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        3,
        &[&evil[..], &block(&[(":path", "/x")])].concat(),
    );
    connection.send(&mut world, start.len(), &evil).nothing();
    // Index 62 is what the refused block would have added.
    let short = [
        &b"\xbe"[..],
        &block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")]),
    ]
    .concat();
    connection.meta.reply_idle = true;
    connection.answered(start.len(), 9);
    let outcome = connection.send(
        &mut world,
        start.len(),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &short),
    );
    assert_eq!(refusal(&outcome).1, 9, "COMPRESSION_ERROR");
    assert_eq!(world.reason(DropReason::Http2BadCompression), 1);
}

#[test]
fn every_fault_is_refused_with_its_own_reason() {
    for (bytes, reason) in [faulty_frames(), faulty_bodies()].concat() {
        let mut world = World::new();
        let mut connection = Connection::new();
        connection.send(&mut world, 0, begin()).forwarded();
        connection.answered(begin().len(), 30);
        // What comes before the fault goes on; then the fault comes again, alone.
        let mut at = 0;
        let mut outcome = connection.send(&mut world, begin().len(), &bytes);
        for _ in 0..3 {
            if let [sent] = &outcome.made[..]
                && !sent.meta.reverse
            {
                at += sent.payload.len();
                connection.answered(begin().len() + at, 5);
                outcome = connection.send(&mut world, begin().len() + at, &bytes[at..]);
            }
        }
        refusal(&outcome);
        assert_eq!(world.reason(reason), 1, "{reason:?}: {}", bytes.escape_ascii());
    }
}

/// What is wrong with a frame or a head.
fn faulty_frames() -> Vec<(Vec<u8>, DropReason)> {
    use DropReason as R;
    let head = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    let with =
        |name: &'static str, value: &'static str| head(&[&fields("GET", "/public")[..], &[(name, value)]].concat());
    vec![
        (frame(HEADERS, 0, 2, b""), R::Http2BadFrame),
        (frame(CONTINUATION, 4, 1, b""), R::Http2BadFrame),
        (frame(DATA, 0, 1, b"x"), R::Http2BadFrame),
        (frame(RST_STREAM, 0, 1, &[0; 4]), R::Http2BadFrame),
        (frame(PING, 0, 0, b"short"), R::Http2BadFrame),
        (frame(PRIORITY, 0, 3, &[0, 0, 0, 3, 9]), R::Http2BadFrame),
        (frame(PRIORITY, 0, 3, &[0x80, 0, 0, 3, 9]), R::Http2BadFrame),
        (
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | 0x20,
                1,
                &[&[0, 0, 0, 1, 9][..], &block(&fields("GET", "/public"))].concat(),
            ),
            R::Http2BadFrame,
        ),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), R::Http2BadFrame),
        (frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0]), R::Http2BadFrame),
        (
            [request(1, "/public"), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            R::Http2BadFrame,
        ),
        (
            [request(1, "/public"), frame(DATA, 0, 1, b"late")].concat(),
            R::Http2StreamClosed,
        ),
        (
            [request(1, "/public"), frame(HEADERS, END_HEADERS | END_STREAM, 1, &[])].concat(),
            R::Http2StreamClosed,
        ),
        (frame(5, 4, 1, &[0; 8]), R::Http2BadFrame),
        (frame(HEADERS, END_HEADERS, 1, b"\xc0"), R::Http2BadCompression),
        (
            [frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, b"").repeat(9)].concat(),
            R::Http2TooManyContinuations,
        ),
        (head(&fields("GET", "/public")[1..]), R::Http2BadPseudoHeader),
        (with(":status", "200"), R::Http2BadPseudoHeader),
        (with("X", "y"), R::Http2BadHeader),
        (with("x", "a\r\nb: c"), R::Http2BadHeader),
        (with("transfer-encoding", "chunked"), R::Http2ConnectionHeader),
        (with("upgrade", "h2c"), R::Http2ConnectionHeader),
        (with("host", "evil"), R::HttpHostContradictsTarget),
        (with("content-length", "+1"), R::HttpBadLength),
        (with("content-length", "1"), R::Http2LengthMismatch),
        (head(&fields("get", "/public")), R::HttpLowerCaseMethod),
        (head(&fields("GET", "/public/%2e%2e/x")), R::HttpAmbiguousPath),
        (head(&fields("GET", "/token")), R::HttpPolicyDenied),
    ]
}

/// What is wrong with what follows a head that is allowed.
fn faulty_bodies() -> Vec<(Vec<u8>, DropReason)> {
    use DropReason as R;
    let long = fields("POST", "/upload");
    let promise = |length: &'static str| {
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &block(&[&long[..], &[("content-length", length)]].concat()),
        )
    };
    let opened = frame(HEADERS, END_HEADERS, 1, &block(&long));
    vec![
        (
            [promise("5"), frame(DATA, 0, 1, b"too much")].concat(),
            R::Http2LengthMismatch,
        ),
        (
            [promise("5"), frame(DATA, END_STREAM, 1, b"few")].concat(),
            R::Http2LengthMismatch,
        ),
        (
            [
                promise("5"),
                frame(DATA, 0, 1, b"12345"),
                frame(DATA, END_STREAM, 1, b"6"),
            ]
            .concat(),
            R::Http2LengthMismatch,
        ),
        (
            [promise("5"), frame(HEADERS, END_HEADERS | END_STREAM, 1, &[])].concat(),
            R::Http2LengthMismatch,
        ),
        (
            [opened.clone(), request(1, "/public")].concat(),
            R::Http2BadPseudoHeader,
        ),
        (
            [opened.clone(), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))].concat(),
            R::Http2BadFrame,
        ),
        (
            [
                opened.clone(),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(DATA, 0, 1, b"after all"),
            ]
            .concat(),
            R::Http2StreamClosed,
        ),
        (
            [
                opened.clone(),
                frame(DATA, END_STREAM, 1, b"all"),
                frame(DATA, END_STREAM, 1, b"more"),
            ]
            .concat(),
            R::Http2StreamClosed,
        ),
        (
            [
                opened.clone(),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("content-length", "0")])),
            ]
            .concat(),
            R::HttpBadTrailer,
        ),
    ]
}

#[test]
fn what_is_allowed_around_requests_goes_on() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let upload = [&fields("POST", "/upload")[..], &[("content-length", "5")]].concat();
    let all = [
        begin(),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9]),
        frame(0xbe, 0, 0, b"an unknown type"),
        frame(HEADERS, END_HEADERS, 1, &block(&upload)),
        frame(SETTINGS, 1, 0, &[]),
        frame(DATA, 0, 1, b"123"),
        frame(DATA, 8, 1, b"\x024\0\0"),
        frame(DATA, 0, 1, b"5"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "1")])),
        frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        frame(PING, 1, 0, &[0; 8]),
        frame(7, 0, 0, &[0; 8]),
    ]
    .concat();
    send_all(&mut world, &mut connection, &all).forwarded();
    assert_eq!(world.count(EngineCounter::RequestAllowed), 1);
}

#[test]
fn the_preface_is_followed_by_settings() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n",
        &[PREFACE, &request(1, "/public")].concat(),
        &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
        &[PREFACE, &frame(SETTINGS, 1, 0, &[])].concat(),
    ] {
        for cut in [0, 11, 12, 13] {
            let mut world = World::new();
            let mut connection = Connection::new();
            if cut > 0 {
                connection.send(&mut world, 0, &bytes[..cut]).forwarded();
            }
            connection.answered(cut, 0);
            let outcome = connection.send(&mut world, cut, &bytes[cut..]);
            let outcome = if bytes.starts_with(PREFACE) {
                assert_eq!(prefix(&outcome).payload, PREFACE[cut..]);
                connection.answered(PREFACE.len(), 0);
                connection.send(&mut world, PREFACE.len(), &bytes[PREFACE.len()..])
            } else {
                outcome
            };
            refusal(&outcome);
            assert_eq!(world.reason(DropReason::Http2BadPreface), 1, "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_connection_that_began_with_http_1_stays_with_it() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let first = get("/public");
    connection.send(&mut world, 0, &first).forwarded();
    connection.answered(first.len(), 90);
    connection.send(&mut world, first.len(), begin()).refusal();
    assert_eq!(world.reason(DropReason::HttpNotHttp), 1);
    // Neither does one that was taken up in its middle.
    let mut taken = Connection::at(50_000);
    taken.shape.source_port = 9;
    taken.answered(100, 9);
    taken.request_begins_at(100);
    taken.send(&mut world, 100, begin()).refusal();
    assert_eq!(world.reason(DropReason::HttpNotHttp), 2);
}

#[test]
fn floods_end_the_connection() {
    let opened = [
        begin(),
        frame(HEADERS, END_HEADERS, 1, &block(&fields("POST", "/upload"))),
    ]
    .concat();
    for (flood, count, reason) in [
        (
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
            101,
            DropReason::Http2SettingsFlood,
        ),
        (frame(PING, 0, 0, &[0; 8]), 10_001, DropReason::Http2ControlFlood),
        (frame(PRIORITY, 0, 1, &[0; 5]), 10_001, DropReason::Http2ControlFlood),
        (frame(DATA, 0, 1, &[]), 10_001, DropReason::Http2ControlFlood),
        (frame(DATA, 8, 1, &[2, 0, 0]), 10_001, DropReason::Http2ControlFlood),
        (frame(0xaa, 0, 0, &[]), 10_001, DropReason::Http2ControlFlood),
        (frame(DATA, 0, 1, b"1"), 20_001, DropReason::Http2TinyDataFlood),
        (
            frame(DATA, 8, 1, &[[20].as_slice(), b"little", &[0; 20]].concat()),
            20_001,
            DropReason::Http2TinyDataFlood,
        ),
        (
            frame(WINDOW_UPDATE, 0, 1, &[1, 0, 0, 0]),
            1001,
            DropReason::Http2ResetFlood,
        ),
        (
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            100_001,
            DropReason::Http2ControlFlood,
        ),
        (
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            1001,
            DropReason::Http2ResetFlood,
        ),
    ] {
        for enough in [false, true] {
            let mut world = World::new();
            let mut connection = Connection::new();
            // The first SETTINGS of the connection count, too.
            let count = count - usize::from(flood[3] == SETTINGS) - usize::from(!enough);
            let bytes = [opened.clone(), flood.repeat(count)].concat();
            let mut at = 0;
            let mut outcome = None;
            while at < bytes.len() {
                let end = (at + 1400).min(bytes.len());
                let sent = connection.send(&mut world, at, &bytes[at..end]);
                let passed = sent
                    .forwarded
                    .as_ref()
                    .or(sent.made.first())
                    .map_or(0, |s| s.payload.len());
                if sent.made.iter().any(|s| s.meta.reverse) {
                    outcome = Some(sent);
                    break;
                }
                at += passed;
                connection.answered(at, 1);
            }
            if enough {
                assert_eq!(refusal(&outcome.expect("refused")).1, 11, "ENHANCE_YOUR_CALM");
                assert_eq!(world.reason(reason), 1);
            } else {
                assert!(outcome.is_none(), "frame type {}", flood[3]);
            }
        }
    }
}

#[test]
fn an_allowance_comes_back_with_time() {
    let mut world = World::new();
    let mut connection = Connection::new();
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let mut at = 0;
    let mut send = |world: &mut World, bytes: &[u8]| {
        let outcome = connection.send(world, at, bytes);
        if outcome.forwarded.is_some() {
            at += bytes.len();
            connection.answered(at, 1);
        }
        outcome
    };
    send(&mut world, &[begin(), request(1, "/public")].concat()).forwarded();
    for _ in 0..10 {
        send(&mut world, &reset.repeat(100)).forwarded();
    }
    for _ in 0..5 {
        world.now_ns += SECOND;
        send(&mut world, &reset.repeat(100)).forwarded();
    }
    let outcome = send(&mut world, &reset);
    refusal(&outcome);
}

#[test]
fn long_data_is_given_free() {
    let mut world = World::new();
    let connection = Connection::new();
    let head = [
        begin(),
        frame(HEADERS, END_HEADERS, 1, &block(&fields("POST", "/upload"))),
    ]
    .concat();
    let data = frame(DATA, END_STREAM, 1, &[7; 16_384]);
    let first = [&head[..], &data[..1000]].concat();
    let action = connection.send(&mut world, 0, &first).forwarded().meta.action;
    let end = head.len() + data.len();
    assert_eq!(
        action,
        InjectAction::Bypass {
            start: connection.seq(first.len()),
            end: connection.seq(end),
            boundary: false
        }
    );
    let mut connection = connection;
    connection.answered(end, 9);
    let outcome = connection.send(&mut world, end, request(3, "/secret"));
    assert_eq!(refusal(&outcome).0[1], (1, 4, 3));
}

#[test]
fn a_refusal_waits_for_answers_but_not_for_ever() {
    let open = |world: &mut World| {
        let mut connection = Connection::new();
        let start = [begin(), request(1, "/public")].concat();
        connection.send(world, 0, &start).forwarded();
        connection.meta.acked_seq = Some(connection.seq(start.len()));
        (connection, start.len())
    };
    let evil = request(3, "/secret");
    // The first answer does not come (a call that lasts): after a second the refusal cuts it off.
    let mut world = World::new();
    let (connection, at) = open(&mut world);
    connection.send(&mut world, at, &evil).nothing();
    world.now_ns += SECOND / 2;
    connection.send(&mut world, at, &evil).nothing();
    world.now_ns += SECOND / 2;
    refusal(&connection.send(&mut world, at, &evil));
    // Answers never stop: after ten seconds both sides are reset.
    let mut world = World::new();
    let (mut connection, at) = open(&mut world);
    connection.meta.reply_idle = false;
    for _ in 0..10 {
        connection.ack += 1000;
        connection.send(&mut world, at, &evil).nothing();
        world.now_ns += SECOND;
    }
    connection.send(&mut world, at, &evil).resets();
    assert_eq!(world.reason(DropReason::HttpPolicyDenied), 1);
}

#[test]
fn windows_that_only_a_reset_can_answer_count_as_resets() {
    for (initial, increment, provokes) in [
        (0x7fff_ffff_u32, 1_u32, true),
        (0x4000_0000, 1, true),
        (0x3fff_0000, 9, false),
    ] {
        let mut world = World::new();
        let mut connection = Connection::new();
        let settings = [&[0, 4][..], &initial.to_be_bytes()].concat();
        let opened = [PREFACE, &frame(SETTINGS, 0, 0, &settings), &request(1, "/public")].concat();
        connection.send(&mut world, 0, &opened).forwarded();
        let mut at = opened.len();
        connection.answered(at, 9);
        let update = frame(WINDOW_UPDATE, 0, 1, &increment.to_be_bytes()).repeat(100);
        for _ in 0..10 {
            connection.send(&mut world, at, &update).forwarded();
            at += update.len();
            connection.answered(at, 1);
        }
        let last = connection.send(&mut world, at, &update);
        assert_eq!(last.forwarded.is_none(), provokes, "{initial:x} {increment}");
        assert_eq!(world.reason(DropReason::Http2ResetFlood), u64::from(provokes));
    }
}

#[test]
fn streams_that_the_server_has_ended_do_not_use_up_what_is_remembered() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, begin()).forwarded();
    let mut at = begin().len();
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &block(&fields("POST", "/upload")));
    for n in 0..3000 {
        let bytes = open(1 + 2 * n);
        connection.send(&mut world, at, &bytes).forwarded();
        at += bytes.len();
        connection.answered(at, 1);
    }
    let newest = frame(DATA, END_STREAM, 5999, b"of the newest");
    connection.send(&mut world, at, &newest).forwarded();
    connection.answered(at + newest.len(), 1);
    let forgotten = frame(DATA, END_STREAM, 1, b"of one long forgotten");
    refusal(&connection.send(&mut world, at + newest.len(), forgotten));
    assert_eq!(world.reason(DropReason::Http2StreamClosed), 1);
}

#[test]
fn a_stream_that_lasts_is_remembered_while_something_is_heard_of_it() {
    let mut world = World::new();
    let mut connection = Connection::new();
    connection.send(&mut world, 0, begin()).forwarded();
    let mut at = begin().len();
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &block(&fields("POST", "/upload")));
    let windows = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0x80, 0]);
    let data = |stream| frame(DATA, 0, stream, b"a message of the one that lasts");
    for n in 0..3000 {
        let mut bytes = open(1 + 2 * n);
        if n % 500 == 499 {
            bytes.extend([windows(1), data(3)].concat());
        }
        connection.send(&mut world, at, &bytes).forwarded();
        at += bytes.len();
        connection.answered(at, 1);
        world.now_ns += SECOND / 10;
    }
    for stream in [1, 3] {
        let bytes = data(stream);
        connection.send(&mut world, at, &bytes).forwarded();
        at += bytes.len();
        connection.answered(at, 1);
    }
    refusal(&connection.send(&mut world, at, data(5)));
    assert_eq!(world.reason(DropReason::Http2StreamClosed), 1);
}
