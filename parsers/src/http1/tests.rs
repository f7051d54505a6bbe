use super::{
    BodyLength, ChunkProgress, ChunkedFollower, HeadError, HeadScanner, HttpFault, Limits, RequestHead, Version,
    fuzz_chunked, fuzz_head, fuzz_path, parse_head,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn parse(bytes: &[u8]) -> Result<RequestHead<'_>, HeadError> {
    parse_head(bytes, &Limits::default())
}

#[track_caller]
fn refused(bytes: impl AsRef<[u8]>, fault: HttpFault) {
    let bytes = bytes.as_ref();
    assert_eq!(parse(bytes), Err(HeadError::Invalid(fault)), "{}", bytes.escape_ascii());
}

/// A GET with `lines` as its header lines after Host.
fn with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes()
}

#[test]
fn a_plain_request_is_read_in_full() {
    let bytes = b"POST /a/../b?x=1#".strip_suffix(b"#").unwrap();
    let bytes = [
        bytes,
        b" HTTP/1.1\r\nHost: shop.example:8080\r\nAccept:  */* \r\nX-Empty:\r\nContent-Length: 12\r\n\r\nbody",
    ]
    .concat();
    let head = parse(&bytes).unwrap();
    assert_eq!(
        (head.method, head.target, &*head.path),
        ("POST", "/a/../b?x=1", "/b?x=1")
    );
    assert_eq!(
        (head.host, head.version, head.body),
        (Some("shop.example:8080"), Version::Http11, BodyLength::Fixed(12))
    );
    assert!(head.upgrade.is_none());
    assert_eq!(head.head_len, bytes.len() - 4);
    let headers: Vec<_> = head.headers.iter().collect();
    assert_eq!(
        headers,
        [
            ("Host", &b"shop.example:8080"[..]),
            ("Accept", b"*/*"),
            ("X-Empty", b""),
            ("Content-Length", b"12")
        ]
    );
    assert_eq!(head.headers.values("aCCept").collect::<Vec<_>>(), [b"*/*"]);
}

#[test]
fn one_empty_line_before_the_request_is_skipped_and_counted() {
    let head = b"\r\nGET / HTTP/1.0\r\nA: b\r\n\r\n";
    let read = parse(head).unwrap();
    assert_eq!((read.head_len, read.headers.iter().count()), (head.len(), 1));
    refused(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n", HttpFault::EmptyLines);
    refused(b"\nGET", HttpFault::BareLineEnd);
    refused(b"\rG", HttpFault::BareLineEnd);
}

#[test]
fn targets_of_each_form_give_the_path_that_policy_matches() {
    for (line, host, path) in [
        ("GET http://A.example/x?y HTTP/1.1", "a.example", "/x?y"),
        ("GET HTTP://a HTTP/1.1", "a", "/"),
        ("GET http://a?q HTTP/1.1", "a", "/?q"),
        ("OPTIONS * HTTP/1.1", "a", "*"),
    ] {
        let bytes = format!("{line}\r\nHost: {host}\r\n\r\n");
        assert_eq!(parse(bytes.as_bytes()).unwrap().path, path, "{line}");
    }
    refused(
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        HttpFault::HostContradictsTarget,
    );
    refused(
        "GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        HttpFault::HostContradictsTarget,
    );
    refused("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", HttpFault::BadHost);
    refused("GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", HttpFault::BadHost);
    refused("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", HttpFault::BadTargetForm);
    refused("GET * HTTP/1.1\r\nHost: a\r\n\r\n", HttpFault::BadTargetForm);
    refused("GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", HttpFault::BadTargetForm);
    for (target, host) in [("a:443", "A:443"), ("[::1]:443", "[::1]:443")] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = parse(bytes.as_bytes()).unwrap();
        assert_eq!((&*head.path, head.host), ("", Some(host)));
    }
    for target in ["a", "[::1]", "/", "http://a:1/", "a:443/x"] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        refused(bytes, HttpFault::BadTargetForm);
    }
}

#[test]
fn request_lines_that_readers_take_differently_are_refused_at_once() {
    use HttpFault::{
        BadRequestLine, BadVersion, BareLineEnd, ControlByte, Http2Preface, LowerCaseMethod, NotHttp, OldProtocol, Tls,
    };
    for (bytes, fault) in [
        (&b"g"[..], LowerCaseMethod),
        (b"Ge", LowerCaseMethod),
        (b"G@", BadRequestLine),
        (b"GET\t", BadRequestLine),
        (b"GET  ", BadRequestLine),
        (b"GET\r", BadRequestLine),
        (b"GET ?", BadRequestLine),
        (b"GET /a b", BadRequestLine),
        (b"GET /  ", BadRequestLine),
        (b"GET /\xc3", BadRequestLine),
        (b"GET / HTTP/1.1 ", BadRequestLine),
        (b"GET / HTTP/1.1\n", BareLineEnd),
        (b"GET / HTTP/1.1\rX", BareLineEnd),
        (b"GET /\r", OldProtocol),
        (b"GET /\n", OldProtocol),
        (b"GET / \r", OldProtocol),
        (b"GET / h", BadVersion),
        (b"GET / HTTP/1.2", BadVersion),
        (b"GET / HTTP/1.10", BadVersion),
        (b"GET / HTTP/2", BadVersion),
        (b"GET / HTTP/0", BadVersion),
        (b"G\0", ControlByte),
        (b"GET /\0", ControlByte),
        (b"GET /a\x7f", ControlByte),
        (b"GET /\x01", ControlByte),
        (b"PRI * HTTP/2", Http2Preface),
        (b"\x16", Tls),
        (b"\x80", NotHttp),
        (b"\0", NotHttp),
        (b" ", NotHttp),
        (b"2", NotHttp),
    ] {
        refused(bytes, fault);
        // Certain at the last byte shown, not before: all that comes earlier can still become a request.
        assert_eq!(
            parse(&bytes[..bytes.len() - 1]),
            Err(HeadError::Incomplete),
            "{}",
            bytes.escape_ascii()
        );
    }
    refused([b"A".repeat(33).as_slice(), b" "].concat(), BadRequestLine);
}

#[test]
fn malformed_header_lines_are_refused_at_once() {
    use HttpFault::{BadHeader, BareLineEnd, ControlByte, FoldedHeader, SpaceBeforeColon};
    for (line, fault) in [
        ("A : b", SpaceBeforeColon),
        ("A\t: b", SpaceBeforeColon),
        ("A b: c", SpaceBeforeColon),
        (": b", BadHeader),
        ("A", BadHeader),
        ("A(: b", BadHeader),
        (" A: b", FoldedHeader),
        ("A: b\r\n folded: c", FoldedHeader),
        ("A: b\r\n\tc", FoldedHeader),
        ("A: b\nC: d", BareLineEnd),
        ("A: b\rC", BareLineEnd),
        ("A: b\n\r", BareLineEnd),
        ("\n", BareLineEnd),
        ("A: \0", ControlByte),
        ("A: \x01", ControlByte),
        ("A: \x7f", ControlByte),
        ("A\0: b", ControlByte),
    ] {
        refused(with(line), fault);
    }
    assert!(
        parse(&with("A: \u{e9}\tb")).is_ok(),
        "obs-text and tabs are legal in values"
    );
}

#[test]
fn a_line_end_that_only_lenient_servers_take_never_leaves_us_waiting() {
    // Each of these is a complete request for some server.
    for bytes in [
        "GET /\r\n",
        "GET /\n\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\n\n",
    ] {
        assert!(
            matches!(parse(bytes.as_bytes()), Err(HeadError::Invalid(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn body_lengths_have_one_meaning_or_none() {
    let body = |lines: &str| parse(&with(lines)).map(|head| head.body);
    assert_eq!(body("A: b"), Ok(BodyLength::None));
    assert_eq!(body("Content-Length: 0"), Ok(BodyLength::None));
    assert_eq!(
        body("content-length:9223372036854775807"),
        Ok(BodyLength::Fixed(i64::MAX as u64))
    );
    assert_eq!(body("Transfer-Encoding: chunked"), Ok(BodyLength::Chunked));
    assert_eq!(
        body("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        Err(HttpFault::AmbiguousLength.into())
    );
}

#[test]
fn only_http_1_0_may_lack_a_host() {
    refused("GET / HTTP/1.1\r\n\r\n", HttpFault::MissingHost);
    assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().host, None);
}

#[test]
fn an_upgrade_is_read() {
    assert_eq!(
        parse(&with("Upgrade: websocket")).unwrap().upgrade,
        Some(&b"websocket"[..])
    );
}

#[test]
fn limits_hold_exactly() {
    let limits = Limits {
        head_len_max: 60,
        headers_max: 3,
    };
    let exact = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(60 - 32));
    assert_eq!(exact.len(), 60);
    assert!(parse_head(exact.as_bytes(), &limits).is_ok());
    let over = exact.replacen("A: ", "A: x", 1);
    assert_eq!(
        parse_head(over.as_bytes(), &limits),
        Err(HttpFault::HeadTooLarge.into())
    );
    let headers = |n: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(n));
    assert!(parse_head(headers(3).as_bytes(), &limits).is_ok());
    assert_eq!(
        parse_head(headers(4).as_bytes(), &limits),
        Err(HttpFault::TooManyHeaders.into())
    );
    assert!(parse(headers(100).as_bytes()).is_ok());
    refused(headers(101), HttpFault::TooManyHeaders);
    let endless = [b"GET /", "x".repeat(70_000).as_bytes()].concat();
    refused(endless, HttpFault::HeadTooLarge);
}

#[test]
fn chunked_bodies_are_followed_to_their_last_byte() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "A\r\n0123456789\r\n000\r\n\r\n",
        "1;a=b;c=\"d e\"\r\nx\r\n0;x\r\n\r\n",
        "1\r\nx\r\n0\r\nX-Sum: v\r\nOther:\r\n\r\n",
    ] {
        let bytes = [body.as_bytes(), b"GET"].concat();
        assert_eq!(
            ChunkedFollower::new().follow(&bytes),
            Ok(ChunkProgress::Done(body.len())),
            "{body:?}"
        );
        for cut in 0..body.len() {
            assert_eq!(
                ChunkedFollower::new().follow(&bytes[..cut]),
                Ok(ChunkProgress::More),
                "{body:?} at {cut}"
            );
        }
    }
}

#[test]
fn chunks_that_servers_read_differently_are_refused() {
    use HttpFault::{BadChunk, BadChunkExtension, BadTrailer};
    let long_extension = format!("1;{}\r\n", "a".repeat(257));
    let trailers = format!("0\r\n{}", "A: b\r\n".repeat(33));
    let long_trailer = format!("0\r\nA: {}", "b".repeat(9000));
    for body in [
        "\r\n",
        ";\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1\n",
        "1\rx",
        "1 ;a\r\n",
        "1;a\nb",
        "1\r\nxy\r\n",
        "1\r\nx\n",
        "1\r\nx\rx",
        "1;\0\r\n",
        "1;\u{e9}\r\n",
        "fffffffffffffffff\r\n",
        "0000000000000000\r\n",
        "0\r\nA : b\r\n",
        "0\r\n folded\r\n",
        "0\r\nA: b\n",
        "0\r\n\n",
        "0\r\n\rx",
        &long_extension,
        &trailers,
        &long_trailer,
    ] {
        let fault = ChunkedFollower::new().follow(body.as_bytes()).unwrap_err();
        assert!(
            matches!(fault, BadChunk | BadChunkExtension | BadTrailer),
            "{body:?}: {fault:?}"
        );
    }
}

#[test]
fn skipped_chunk_data_counts_like_read_data() {
    let mut follower = ChunkedFollower::new();
    assert_eq!(follower.follow(b"fffff\r\nab"), Ok(ChunkProgress::More));
    assert_eq!(follower.data_left(), 0xf_ffff - 2);
    follower.skip_data(follower.data_left());
    assert_eq!(follower.data_left(), 0);
    assert_eq!(follower.follow(b"\r\n0\r\n\r\n"), Ok(ChunkProgress::Done(7)));
}

#[test]
fn the_fuzz_entries_hold_on_mutated_requests() {
    let mut rng = StdRng::seed_from_u64(7);
    let heads = [
        with("Content-Length: 5\r\nConnection: close"),
        b"\r\nPUT http://a.b:80/x/./%41?q HTTP/1.1\r\nHost: a.b:80\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.0\r\nUpgrade: h2c\r\n\r\n".to_vec(),
    ];
    let bodies = [
        &b"5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\nGET"[..],
        b"A\r\n0123456789\r\n0\r\n\r\n",
    ];
    let odd = [
        0, b'\r', b'\n', b' ', b':', b'%', b'/', b'.', b';', b'G', b'1', b'\t', 0x80,
    ];
    for _ in 0..20_000 {
        for seed in heads.iter().map(Vec::as_slice).chain(bodies) {
            let mut bytes = seed.to_vec();
            for _ in 0..rng.random_range(0..3) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[at] = odd[rng.random_range(0..odd.len())],
                    1 => bytes.insert(at, odd[rng.random_range(0..odd.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            fuzz_chunked(&bytes);
            bytes.insert(0, rng.random());
            fuzz_head(&bytes);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_head(&bytes);
        fuzz_chunked(&bytes);
        fuzz_path(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn paths_of_suspicious_pieces_normalise_once(pieces in prop::collection::vec(prop::sample::select(vec!["/", ".", "..", "a", "%2e", "%41", "%25", ";", "%3b", "%c3", "?", "//", "b"]), 0..12)) {
        fuzz_path(&format!("/{}", pieces.concat()));
    }

    #[test]
    fn cut_anywhere_the_answer_is_the_same(lines in "(A|Host|Content-Length|B-c): ?(a|5|x:y|)(\r\n|\n|\r\n ){1,2}", method in "(GET|get|PUT) ?(/|/a/../b|\\*|http://a/) (HTTP/1.[012])?") {
        let bytes = format!("{method}\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes();
        let whole = HeadScanner::new(Limits::default()).advance(&bytes);
        for cut in 0..=bytes.len() {
            let mut scanner = HeadScanner::new(Limits::default());
            let answer = match scanner.advance(&bytes[..cut]) {
                Ok(None) => scanner.advance(&bytes[cut..]).map(|end| end.map(|n| n + cut)),
                other => other,
            };
            prop_assert_eq!(&whole, &answer, "cut at {}", cut);
        }
    }
}
