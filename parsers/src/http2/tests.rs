use super::huffman::tests::encode as huffman;
use super::{
    CONTINUATIONS_MAX, Decoder, Fields, FrameScanner, Http2Fault, Unit, check_trailers, fuzz_frames, fuzz_hpack,
    join_block, read_request,
};
use crate::http1::{BodyLength, HttpFault, Limits, Version};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Literals without indexing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in fields.iter().flat_map(|(name, value)| [None, Some(name), Some(value)]) {
        match text {
            None => out.push(0),
            Some(text) => {
                if text.len() < 127 {
                    out.push(text.len() as u8);
                } else {
                    out.extend([127, (text.len() - 127) as u8 | 0x80, ((text.len() - 127) >> 7) as u8]);
                }
                out.extend(text.as_bytes());
            }
        }
    }
    out
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Http2Fault> {
    let mut fields = Fields::default();
    decoder.decode(block, &Limits::default(), &mut fields)?;
    decoder.commit();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(fields.iter().map(|(name, value)| (text(name), text(value))).collect())
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

/// RFC 7541, appendices C.2, C.3 and C.4.
#[test]
fn requests_of_the_standards_examples_are_decoded() {
    let mut decoder = Decoder::new();
    let custom = hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    assert_eq!(
        decode(&mut decoder, &custom),
        Ok(pairs(&[("custom-key", "custom-header")]))
    );
    assert_eq!(
        decode(&mut decoder, &hex("be")),
        Ok(pairs(&[("custom-key", "custom-header")]))
    );
    assert_eq!(
        decode(&mut decoder, &hex("040c 2f73 616d 706c 652f 7061 7468")),
        Ok(pairs(&[(":path", "/sample/path")]))
    );
    assert_eq!(
        decode(&mut decoder, &hex("1008 7061 7373 776f 7264 0673 6563 7265 74")),
        Ok(pairs(&[("password", "secret")]))
    );
    let first = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    let second = [&first[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::new();
        for (bytes, expected) in blocks.into_iter().zip([&first[..], &second, &third]) {
            assert_eq!(decode(&mut decoder, &hex(bytes)), Ok(pairs(expected)));
        }
    }
}

/// RFC 7541, appendices C.5 and C.6: a table of 256 bytes, with evictions.
#[test]
fn answers_of_the_standards_examples_are_decoded_with_their_evictions() {
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let date2 = "Mon, 21 Oct 2013 20:13:22 GMT";
    let (place, cookie) = (
        ("location", "https://www.example.com"),
        ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    );
    let first = [(":status", "302"), ("cache-control", "private"), ("date", date), place];
    let second = [(":status", "307"), ("cache-control", "private"), ("date", date), place];
    let third = [
        (":status", "200"),
        ("cache-control", "private"),
        ("date", date2),
        place,
        ("content-encoding", "gzip"),
        cookie,
    ];
    for blocks in [
        [
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 \
             3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
             666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
             3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad \
             1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut decoder = Decoder::new();
        for (bytes, expected) in blocks.into_iter().zip([&first[..], &second, &third]) {
            assert_eq!(decode(&mut decoder, &hex(bytes)), Ok(pairs(expected)));
        }
        assert_eq!(decode(&mut decoder, &hex("be")), Ok(pairs(&[cookie])));
        assert_eq!(
            decode(&mut decoder, &hex("c1")),
            Err(Http2Fault::BadCompression),
            "evicted"
        );
    }
}

#[test]
fn blocks_that_decoders_read_differently_are_refused() {
    for bytes in [
        "80",             // index 0
        "be",             // nothing was inserted
        "ff80 8080 8000", // an index that never ends
        "ffff ffff ff0f", // beyond 28 bits
        "40",             // a literal without anything
        "400a 61",        // shorter than it says
        "0003 6162",      // the same in the value's place
        "8220",           // a change of size after a field
        "2020 20",        // three changes
        "3fe1 ff07",      // a table over 16 KiB
        "0081 ff00",      // padding of a whole byte
        "0081 0000",      // padding of zeros
    ] {
        let bytes = hex(bytes);
        assert_eq!(
            decode(&mut Decoder::new(), &bytes),
            Err(Http2Fault::BadCompression),
            "{bytes:x?}"
        );
    }
    assert_eq!(
        decode(&mut Decoder::new(), &hex("203f e11f 82")),
        Ok(pairs(&[(":method", "GET")]))
    );
}

#[test]
fn what_a_block_expands_to_is_bounded_before_it_is_written() {
    let mut decoder = Decoder::new();
    // An entry of 4000 bytes, then its index again and again: the classic bomb.
    let mut bomb = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    bomb.extend([b'x'; 4000]);
    bomb.extend([0xbe; 60_000]);
    let mut fields = Fields::default();
    assert_eq!(
        decoder.decode(&bomb, &Limits::default(), &mut fields),
        Err(HttpFault::HeadTooLarge.into())
    );
    assert!(fields.len() <= 17);
    let many = [0x82; 200];
    assert_eq!(
        Decoder::new().decode(&many, &Limits::default(), &mut fields),
        Err(HttpFault::TooManyHeaders.into())
    );
    let mut string = vec![0, 0x83];
    string.extend(&huffman(b"aaa")[..]);
    let limits = Limits {
        head_len_max: 34,
        headers_max: 9,
    };
    assert_eq!(
        Decoder::new().decode(&string, &limits, &mut fields),
        Err(Http2Fault::BadCompression),
        "three bytes are announced, two are there"
    );
    string = vec![0, 0x82];
    string.extend(huffman(b"aaa"));
    string.push(0);
    assert_eq!(
        Decoder::new().decode(&string, &limits, &mut fields),
        Err(HttpFault::HeadTooLarge.into())
    );
}

#[test]
fn a_block_that_was_undone_leaves_no_trace() {
    let mut decoder = Decoder::new();
    let insert = |name: &str, len: usize| {
        let mut bytes = vec![0x40, name.len() as u8];
        bytes.extend(name.as_bytes());
        bytes.extend([0x7f, (len - 127) as u8 & 0x7f | 0x80, ((len - 127) >> 7) as u8]);
        bytes.extend(vec![b'v'; len]);
        bytes
    };
    for name in ["a", "b", "c"] {
        decode(&mut decoder, &insert(name, 1000)).unwrap();
    }
    let before = decoder.clone();
    let mut fields = Fields::default();
    let evil = [hex("20 3fe1 1f"), insert("x", 3000), insert("y", 3000), hex("be")].concat();
    decoder.decode(&evil, &Limits::default(), &mut fields).unwrap();
    assert_eq!(fields.len(), 3);
    decoder.rollback();
    assert_eq!(decoder, before);
    assert_eq!(decode(&mut decoder, &hex("c0")).unwrap()[0].0, "a");
}

fn walk(bytes: &[u8]) -> Result<Option<(usize, Unit)>, Http2Fault> {
    FrameScanner::new(&Limits::default()).advance(bytes)
}

#[test]
fn frames_of_wrong_size_stream_or_place_are_refused_by_their_header() {
    for (kind, flags, stream, len) in [
        (0, 0, 0, 1), // DATA on the connection
        (0, 0, 2, 1), // of the server's
        (0, 8, 1, 0), // padded, without the length of the padding
        (1, 4, 0, 1), // HEADERS on the connection
        (1, 4, 2, 1), // of the server's
        (2, 0, 1, 4), // PRIORITY
        (2, 0, 0, 5),
        (3, 0, 1, 5), // RST_STREAM
        (3, 0, 0, 4),
        (4, 0, 1, 6), // SETTINGS
        (4, 0, 0, 7),
        (4, 1, 0, 6), // an acknowledgement with settings
        (4, 0, 0, 6 * 65),
        (5, 4, 1, 8), // PUSH_PROMISE
        (6, 0, 1, 8), // PING
        (6, 0, 0, 7),
        (7, 0, 1, 8), // GOAWAY
        (7, 0, 0, 7),
        (7, 0, 0, 20_000),
        (8, 0, 0, 5), // WINDOW_UPDATE
        (9, 4, 1, 1), // CONTINUATION without HEADERS
        (200, 0, 0, 20_000),
    ] {
        let bytes = frame(kind, flags, stream, &vec![0; len]);
        assert_eq!(
            walk(&bytes[..9]),
            Err(Http2Fault::BadFrame),
            "{kind} {flags} {stream} {len}"
        );
        assert_eq!(walk(&bytes[..8]), Ok(None));
    }
    let padded = frame(0, 8, 1, &[5, 0, 0]);
    assert_eq!(
        walk(&padded),
        Err(Http2Fault::BadFrame),
        "more padding than there is room for"
    );
}

#[test]
fn nothing_stands_between_the_frames_of_a_header_block() {
    let begun = frame(1, 0, 1, b"\x82");
    for other in [
        frame(0, 0, 1, b"x"),
        frame(4, 0, 0, b""),
        frame(1, 4, 3, b""),
        frame(9, 4, 3, b""),
    ] {
        assert_eq!(walk(&[&begun[..], &other].concat()), Err(Http2Fault::BadFrame));
    }
    let mut flood = begun.clone();
    for _ in 0..CONTINUATIONS_MAX {
        flood.extend(frame(9, 0, 1, b""));
    }
    assert_eq!(walk(&flood), Ok(None));
    flood.extend(frame(9, 4, 1, b""));
    assert_eq!(walk(&flood), Err(Http2Fault::TooManyContinuations));
    let large = [begun, frame(9, 0, 1, &[0; 60_000]), frame(9, 4, 1, &[0; 60_000])].concat();
    assert_eq!(walk(&large), Err(HttpFault::HeadTooLarge.into()));
}

#[test]
fn header_blocks_are_joined_without_padding_and_priority() {
    let unit = [
        frame(1, 0x29, 5, b"\x03\x80\0\0\x01\x10\x82\x86\0\0\0"),
        frame(9, 0, 5, b""),
        frame(9, 4, 5, b"\x84"),
    ]
    .concat();
    let end = Ok(Some((
        unit.len(),
        Unit::Block {
            stream: 5,
            end_stream: true,
        },
    )));
    assert_eq!(walk(&unit), end);
    assert_eq!(walk(&[&unit[..], b"more"].concat()), end);
    assert_eq!(*join_block(&unit).unwrap(), [0x82, 0x86, 0x84]);
    for (flags, payload) in [
        (0x0c, &b"\x02\x82"[..]),
        (0x0c, b"\x01\x82\x01"),
        (0x24, b"\0\0\0\0"),
        (0x0c, b""),
    ] {
        assert_eq!(join_block(&frame(1, flags, 1, payload)), Err(Http2Fault::BadFrame));
    }
}

#[test]
fn data_is_a_unit_up_to_its_payload() {
    let bytes = frame(0, 9, 7, b"\x02abc\0\0");
    let unit = Unit::Data {
        stream: 7,
        end_stream: true,
        len: 5,
        padding: 2,
    };
    assert_eq!(walk(&bytes), Ok(Some((10, unit))));
    let huge = [&[0xff; 3][..], &[0, 0, 0, 0, 0, 1]].concat();
    let unit = Unit::Data {
        stream: 1,
        end_stream: false,
        len: 0xff_ffff,
        padding: 0,
    };
    assert_eq!(walk(&huge), Ok(Some((9, unit))));
}

fn request(fields: &[(&str, &str)]) -> Result<String, Http2Fault> {
    let mut read = Fields::default();
    Decoder::new().decode(&block(fields), &Limits::default(), &mut read)?;
    let mut lines = Vec::new();
    let request = read_request(&read, &mut lines)?;
    let head = request.head;
    assert_eq!(head.version, Version::Http2);
    let headers: String = head
        .headers
        .iter()
        .map(|(name, value)| format!(" {name}={}", String::from_utf8_lossy(value)))
        .collect();
    let grpc = if request.is_grpc { " grpc" } else { "" };
    let body = if head.body == BodyLength::None { "" } else { " body" };
    Ok(format!(
        "{} {} {}{headers}{grpc}{body}",
        head.method,
        head.path,
        head.host.unwrap()
    ))
}

const PLAIN: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/a/./b"),
    (":authority", "h"),
];

fn with(more: &[(&str, &str)]) -> Result<String, Http2Fault> {
    request(&[&PLAIN[..], more].concat())
}

#[test]
fn a_request_is_what_policy_matches() {
    assert_eq!(with(&[("x", "y")]).unwrap(), "GET /a/b h x=y");
    assert_eq!(with(&[("host", "H")]).unwrap(), "GET /a/b h host=H");
    assert_eq!(
        with(&[("te", "trailers"), ("content-length", "5")]).unwrap(),
        "GET /a/b h te=trailers content-length=5 body"
    );
    assert_eq!(
        with(&[("cookie", "a=1"), ("x", ""), ("cookie", "b=2")]).unwrap(),
        "GET /a/b h x= cookie=a=1; b=2"
    );
    assert_eq!(
        with(&[("content-type", "application/grpc+proto")]).unwrap(),
        "GET /a/b h content-type=application/grpc+proto grpc"
    );
    let no_authority = [&PLAIN[..3], &[("host", "other:80")]].concat();
    assert_eq!(request(&no_authority).unwrap(), "GET /a/b other:80 host=other:80");
    let options = [
        (":method", "OPTIONS"),
        (":scheme", "http"),
        (":path", "*"),
        (":authority", "h"),
    ];
    assert_eq!(request(&options).unwrap(), "OPTIONS * h");
    assert_eq!(
        request(&[(":method", "CONNECT"), (":authority", "h:1")]).unwrap(),
        "CONNECT  h:1"
    );
    let extended = [&[(":method", "CONNECT"), (":protocol", "websocket")], &PLAIN[1..]].concat();
    assert_eq!(request(&extended).unwrap(), "CONNECT /a/b h");
}

#[test]
fn pseudo_headers_are_all_there_once_and_first() {
    let pseudo = Err(Http2Fault::BadPseudoHeader);
    for (missing, (name, _)) in PLAIN.iter().enumerate().take(3) {
        let mut fields = PLAIN.to_vec();
        fields.remove(missing);
        assert_eq!(request(&fields), pseudo, "without {name}");
    }
    assert_eq!(request(&PLAIN[..3]), Err(HttpFault::MissingHost.into()));
    for twice in PLAIN {
        assert_eq!(request(&[&PLAIN[..], &[twice]].concat()), pseudo, "{} twice", twice.0);
    }
    assert_eq!(with(&[("x", "y"), (":path", "/")]), pseudo);
    assert_eq!(request(&[&[("x", "y")], &PLAIN[..]].concat()), pseudo);
    for unknown in [":status", ":", ":Path", ":x", ":protocol"] {
        assert_eq!(with(&[(unknown, "200")]), pseudo, "{unknown}");
    }
    for scheme in ["", "ftp", "http://evil/", "HTTP"] {
        let fields = [PLAIN[0], (":scheme", scheme), PLAIN[2], PLAIN[3]];
        assert_eq!(request(&fields), pseudo, "{scheme}");
    }
    let connect = |more: &[(&str, &str)]| request(&[&[(":method", "CONNECT")], more].concat());
    assert_eq!(connect(&[(":authority", "h:1"), (":path", "/")]), pseudo);
    assert_eq!(connect(&[(":authority", "h:1"), (":scheme", "http")]), pseudo);
    assert_eq!(connect(&[("host", "h:1")]), pseudo);
    assert_eq!(connect(&[(":protocol", "websocket"), (":authority", "h")]), pseudo);
}

#[test]
fn fields_that_translators_to_http_1_read_differently_are_refused() {
    use Http2Fault::{BadHeader, ConnectionHeader, Request};
    for ((name, value), fault) in [
        (("X", "y"), BadHeader),
        (("xY", "y"), BadHeader),
        (("", "y"), BadHeader),
        (("x y", "z"), BadHeader),
        (("x:y", "z"), BadHeader),
        (("x\r\ny", "z"), BadHeader),
        (("x\0", "z"), BadHeader),
        (("x", "a\r\nTransfer-Encoding: chunked"), BadHeader),
        (("x", "a\n"), BadHeader),
        (("x", "a\0b"), BadHeader),
        (("x", " a"), BadHeader),
        (("x", "a\t"), BadHeader),
        (("connection", "close"), ConnectionHeader),
        (("proxy-connection", "close"), ConnectionHeader),
        (("keep-alive", "1"), ConnectionHeader),
        (("transfer-encoding", "chunked"), ConnectionHeader),
        (("upgrade", "websocket"), ConnectionHeader),
        (("http2-settings", "x"), ConnectionHeader),
        (("te", "chunked"), ConnectionHeader),
        (("te", "trailers, chunked"), ConnectionHeader),
        (("host", "evil"), Request(HttpFault::HostContradictsTarget)),
        (("host", "h@evil"), Request(HttpFault::BadHost)),
        (("content-length", "+5"), Request(HttpFault::BadLength)),
        (("content-length", "5, 5"), Request(HttpFault::BadLength)),
        (("content_length", "5"), Request(HttpFault::UnderscoreHeader)),
        (("transfer_encoding", "chunked"), Request(HttpFault::UnderscoreHeader)),
        (("expect", "y 100-continue"), Request(HttpFault::BadExpectation)),
    ] {
        assert_eq!(with(&[(name, value)]), Err(fault), "{name:?}: {value:?}");
    }
    assert_eq!(
        with(&[("host", "h"), ("host", "h")]),
        Err(HttpFault::RepeatedHost.into())
    );
    assert_eq!(
        with(&[("content-length", "5"), ("content-length", "5")]),
        Err(HttpFault::RepeatedLength.into())
    );
}

#[test]
fn pseudo_headers_hold_what_a_request_line_can_hold() {
    use Http2Fault::{BadHeader, Request};
    for (at, value, fault) in [
        (0, "get", Request(HttpFault::LowerCaseMethod)),
        (0, "GET /admin HTTP/1.1", BadHeader),
        (0, "G\r\nT", BadHeader),
        (0, "", Request(HttpFault::BadRequestLine)),
        (0, "G@T", Request(HttpFault::BadRequestLine)),
        (2, "", Request(HttpFault::BadTargetForm)),
        (2, "a", Request(HttpFault::BadTargetForm)),
        (2, "*", Request(HttpFault::BadTargetForm)),
        (2, "http://evil/", Request(HttpFault::BadTargetForm)),
        (2, "/a b", BadHeader),
        (2, "/a HTTP/1.1\r\nHost: evil", BadHeader),
        (2, "/a\u{e9}", BadHeader),
        (2, "/%2e%2e/b", Request(HttpFault::AmbiguousPath)),
        (2, "/a#b", Request(HttpFault::AmbiguousPath)),
        (3, "", Request(HttpFault::BadHost)),
        (3, "u@h", Request(HttpFault::BadHost)),
        (3, "h/evil", Request(HttpFault::BadHost)),
        (3, "h, evil", BadHeader),
    ] {
        let mut fields = PLAIN;
        fields[at].1 = value;
        assert_eq!(request(&fields), Err(fault), "{} {value:?}", PLAIN[at].0);
    }
    let method = "A".repeat(33);
    assert_eq!(
        request(&[(":method", &method), PLAIN[1], PLAIN[2], PLAIN[3]]),
        Err(HttpFault::BadRequestLine.into())
    );
}

#[test]
fn trailers_hold_no_part_of_a_head() {
    let check = |fields: &[(&str, &str)]| {
        let mut read = Fields::default();
        Decoder::new()
            .decode(&block(fields), &Limits::default(), &mut read)
            .unwrap();
        check_trailers(&read)
    };
    assert_eq!(check(&[("grpc-status", "0"), ("x-sum", "1")]), Ok(()));
    assert_eq!(check(&PLAIN), Err(Http2Fault::BadPseudoHeader));
    assert_eq!(check(&[("content-length", "1")]), Err(HttpFault::BadTrailer.into()));
    assert_eq!(
        check(&[("transfer-encoding", "chunked")]),
        Err(Http2Fault::ConnectionHeader)
    );
    assert_eq!(check(&[("X", "y")]), Err(Http2Fault::BadHeader));
}

/// Frames and blocks of many kinds, to be cut and changed.
fn sample() -> Vec<u8> {
    let request = [
        hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"),
        hex("400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65"),
    ]
    .concat();
    [
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
        frame(1, 0x25, 1, &[&[0, 0, 0, 0, 9], &request[..]].concat()),
        frame(1, 0, 3, &request[..5]),
        frame(9, 4, 3, &request[5..]),
        frame(0, 9, 3, b"\x01data\0"),
        frame(8, 0, 0, &[0, 0, 1, 0]),
        frame(1, 5, 5, &hex("8286 84be bf")),
        frame(3, 0, 5, &[0, 0, 0, 8]),
        frame(6, 0, 0, b"12345678"),
    ]
    .concat()
}

#[test]
fn the_fuzz_entries_hold_on_mutated_frames() {
    let mut rng = StdRng::seed_from_u64(9);
    let sample = sample();
    for _ in 0..20_000 {
        let mut bytes = sample.clone();
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => bytes[at] ^= 1 << rng.random_range(0..8),
                2 => bytes.insert(at, rng.random()),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes.insert(0, rng.random());
        fuzz_frames(&bytes);
        bytes.drain(1..25);
        fuzz_hpack(&bytes);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_frames(&bytes);
        fuzz_hpack(&bytes);
    }
}

proptest! {
    // Each case is cut at 256 places.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn split_at_every_byte_the_answer_is_the_same(change in 0..400usize, to: u8) {
        let mut bytes = sample();
        let at = change % bytes.len();
        bytes[at] = to;
        for cut in 0..=255 {
            fuzz_frames(&[&[cut], &bytes[..]].concat());
        }
    }
}
