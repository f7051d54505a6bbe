use super::{
    ClientHello, EXTENSIONS_MAX, HELLO_LEN_MAX, HelloError, HelloScanner, Limits, ServerAnswer, ServerHelloScanner,
    TlsFault, fuzz_hello, fuzz_records, fuzz_server_hello, parse_hello, read_hello,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A vector with `width` bytes of length.
fn vector(width: usize, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = (content.len() as u32).to_be_bytes();
    [&length[4 - width..], content].concat()
}

fn extension(kind: u16, content: impl AsRef<[u8]>) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector(2, content)].concat()
}

fn server_name(name: impl AsRef<[u8]>) -> Vec<u8> {
    extension(0, vector(2, [&[0][..], &vector(2, name)].concat()))
}

fn versions(list: &[u16]) -> Vec<u8> {
    extension(
        43,
        vector(1, list.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>()),
    )
}

/// A ClientHello message with these extensions.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, [9; 32]),
        &vector(2, [0x13, 0x01, 0x13, 0x02]),
        &vector(1, [0]),
        &vector(2, extensions.concat()),
    ]
    .concat();
    [&[1][..], &vector(3, body)].concat()
}

fn record(kind: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![kind, 3, 1], vector(2, content)].concat()
}

/// The message in records of `len` bytes.
fn records(message: &[u8], len: usize) -> Vec<u8> {
    message.chunks(len).flat_map(|chunk| record(22, chunk)).collect()
}

fn named(name: &str) -> Vec<u8> {
    hello(&[server_name(name), versions(&[0x0304, 0x0303])])
}

#[track_caller]
fn refused(message: impl AsRef<[u8]>, fault: TlsFault) {
    assert_eq!(read_hello(message.as_ref()).map(drop), Err(fault));
}

#[track_caller]
fn scan_fails(bytes: impl AsRef<[u8]>, fault: TlsFault) {
    let result = parse_hello(bytes.as_ref(), &Limits::default());
    assert_eq!(result.map(drop), Err(HelloError::Invalid(fault)));
}

#[test]
fn a_hello_is_read_in_full() {
    let alpn = extension(16, vector(2, [vector(1, "h2"), vector(1, "http/1.1")].concat()));
    let message = hello(&[
        extension(0x3a3a, ""),
        server_name("Shop.Example"),
        alpn,
        versions(&[0x2a2a, 0x0304, 0x0303]),
        extension(42, ""),
        extension(0xfe0d, [0, 1, 2]),
    ]);
    let read = read_hello(&message).unwrap();
    assert_eq!(read.server_name.as_deref(), Some("shop.example"));
    assert_eq!((read.legacy_version, read.version), (0x0303, 0x0304));
    assert!(read.offers_tls13 && read.ech && read.early_data);
    assert_eq!(read.alpn.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn an_old_hello_has_neither_extensions_nor_a_name() {
    let mut message = hello(&[]);
    message.truncate(message.len() - 2);
    message[3] -= 2;
    message[5] = 1;
    let read = read_hello(&message).unwrap();
    let expected = ClientHello {
        server_name: None,
        legacy_version: 0x0301,
        version: 0x0301,
        offers_tls13: false,
        alpn: read.alpn,
        ech: false,
        early_data: false,
    };
    assert_eq!(read, expected);
    assert_eq!(read.alpn.iter().count(), 0);
}

#[test]
fn names_are_kept_as_sent_but_in_lower_case() {
    let long = format!("{}.example", "a".repeat(64));
    for (name, kept) in [
        ("a.example", "a.example"),
        ("XN--BCHER-KVA.Example", "xn--bcher-kva.example"),
        ("a.example.", "a.example."),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("a..b", "a..b"),
        ("server4:443", "server4:443"),
        (".", "."),
        (&long, &long),
    ] {
        let message = named(name);
        assert_eq!(read_hello(&message).unwrap().server_name.as_deref(), Some(kept));
    }
}

#[test]
fn names_that_are_not_plain_text_are_refused() {
    for name in ["", "a b", "a\0.example", "a\n", "b\u{fc}cher.example", &"a".repeat(256)] {
        refused(named(name), TlsFault::BadName);
    }
    refused(hello(&[server_name([b'a', 0xff])]), TlsFault::BadName);
    assert!(read_hello(&named(&"a".repeat(255))).is_ok());
}

#[test]
fn two_names_are_refused_in_every_form() {
    refused(
        hello(&[server_name("a.example"), server_name("b.example")]),
        TlsFault::DuplicateExtension,
    );
    let entry = |kind: u8, name: &str| [&[kind][..], &vector(2, name)].concat();
    let list = |entries: &[Vec<u8>]| hello(&[extension(0, vector(2, entries.concat()))]);
    refused(list(&[entry(0, "a"), entry(0, "b")]), TlsFault::SeveralNames);
    refused(list(&[entry(0, "a"), entry(1, "b")]), TlsFault::SeveralNames);
    refused(list(&[entry(1, "a")]), TlsFault::SeveralNames);
    refused(list(&[]), TlsFault::Malformed);
}

#[test]
fn whatever_contradicts_itself_is_refused() {
    let twice = hello(&[versions(&[0x0304]), server_name("a"), versions(&[0x0303])]);
    refused(twice, TlsFault::DuplicateExtension);
    for bad in [
        extension(0, ""),
        extension(0, [0, 9, 0, 0, 1, b'a']),
        extension(0, [0, 4, 0, 0, 1, b'a', 0]),
        extension(0, [0, 4, 0, 0, 2, b'a']),
        extension(43, ""),
        extension(43, [0]),
        extension(43, [1, 3]),
        extension(43, [2, 3, 4, 0]),
        extension(16, [0, 0]),
        extension(16, [0, 1, 0]),
        extension(16, [0, 3, 5, b'h', b'2']),
        extension(42, "x"),
        extension(0xfe0d, ""),
        extension(0xfe0d, [1]),
        vec![0, 5, 0, 2, 0],
        vec![0],
    ] {
        refused(hello(std::slice::from_ref(&bad)), TlsFault::Malformed);
    }
    refused(
        hello(
            &(0..=EXTENSIONS_MAX as u16)
                .map(|n| extension(1000 + n, ""))
                .collect::<Vec<_>>(),
        ),
        TlsFault::TooLarge,
    );
    let good = named("a.example");
    for cut in 4..good.len() {
        let mut shorter = good[..cut].to_vec();
        refused(&shorter, TlsFault::Malformed);
        let body = (cut - 4) as u32;
        shorter[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
        // The only place where a hello may end early is where its extensions begin.
        assert_eq!(read_hello(&shorter).is_ok(), cut == 4 + 2 + 32 + 33 + 6 + 2, "{cut}");
    }
    let mut longer = good.clone();
    longer.push(0);
    longer[3] += 1;
    refused(longer, TlsFault::Malformed);
    let mut old = good;
    old[4] = 2;
    refused(old, TlsFault::Malformed);
}

#[test]
fn cut_anywhere_and_in_any_records_it_is_the_same_hello() {
    let message = named("a.example");
    for len in [1, 2, 3, 5, 50, 16384] {
        let bytes = [records(&message, len), b"after".to_vec()].concat();
        let end = bytes.len() - 5;
        for cut in 0..=bytes.len() {
            let mut scanner = HelloScanner::new(Limits::default());
            let (first, second) = bytes.split_at(cut);
            let found = match scanner.advance(first) {
                Ok(Some(found)) => found,
                Ok(None) => cut + scanner.advance(second).unwrap().expect("complete"),
                Err(fault) => panic!("{fault} at {cut}"),
            };
            assert_eq!((found, scanner.taken()), (end, end), "cut at {cut}, records of {len}");
        }
        let (joined, taken) = parse_hello(&bytes, &Limits::default()).unwrap();
        assert_eq!((&*joined, taken), (&message[..], end));
        for cut in 0..end {
            let part = parse_hello(&bytes[..cut], &Limits::default());
            assert_eq!(part, Err(HelloError::Incomplete), "cut at {cut}");
        }
    }
}

#[test]
fn post_quantum_sizes_pass_and_the_bound_holds() {
    for len in [1200, 5000, 20_000, 60_000] {
        let message = hello(&[extension(51, vec![0; len]), server_name("a.example")]);
        let bytes = records(&message, 16384);
        let (joined, _) = parse_hello(&bytes, &Limits::default()).unwrap();
        assert_eq!(read_hello(&joined).unwrap().server_name.as_deref(), Some("a.example"));
    }
    let body = vector(3, vec![0; HELLO_LEN_MAX - 3]);
    let too_large = records(&[&[1][..], &body].concat(), 16384);
    scan_fails(&too_large[..10], TlsFault::TooLarge);
    let small = Limits { hello_len_max: 100 };
    let bytes = records(&named("a.example"), 100);
    assert_eq!(
        parse_hello(&bytes, &small),
        Err(HelloError::Invalid(TlsFault::TooLarge))
    );
}

#[test]
fn what_is_no_hello_is_known_by_its_first_bytes() {
    scan_fails(b"GET / HTTP/1.1\r\n", TlsFault::NotTls);
    scan_fails(b"SSH-2.0-OpenSSH\r\n", TlsFault::NotTls);
    scan_fails([0], TlsFault::NotTls);
    scan_fails([22, 2], TlsFault::NotTls);
    scan_fails([22, 3, 9], TlsFault::NotTls);
    scan_fails([24, 3, 3], TlsFault::NotTls);
    scan_fails([0x80, 0x2e, 1, 3, 1], TlsFault::Sslv2Hello);
    scan_fails([0x80, 0x2e, 4], TlsFault::NotTls);
    assert_eq!(
        parse_hello(&[0x80, 0x2e], &Limits::default()),
        Err(HelloError::Incomplete)
    );
    for kind in [20, 21, 23] {
        scan_fails([kind], TlsFault::NotClientHello);
    }
    scan_fails(record(22, [2, 0, 0, 1, 0]), TlsFault::NotClientHello);
    scan_fails(record(22, ""), TlsFault::BadRecord);
    scan_fails([22, 3, 1, 0x40, 1], TlsFault::BadRecord);
}

#[test]
fn nothing_may_stand_inside_the_hello_or_follow_it_in_its_record() {
    let message = named("a.example");
    let (first, second) = message.split_at(30);
    for kind in [20, 21, 23] {
        let bytes = [record(22, first), record(kind, [1]), record(22, second)].concat();
        scan_fails(bytes, TlsFault::Interleaved);
    }
    scan_fails([record(22, first), record(22, "")].concat(), TlsFault::BadRecord);
    scan_fails([record(22, first), vec![22, 2]].concat(), TlsFault::BadRecord);
    scan_fails([record(22, first), vec![0x80]].concat(), TlsFault::BadRecord);
    scan_fails(record(22, [&message[..], &message].concat()), TlsFault::Coalesced);
    scan_fails(record(22, [&message[..], &[0]].concat()), TlsFault::Coalesced);
    // The very same in two records is two messages, of which the first ends here.
    let two = [record(22, &message), record(22, &message)].concat();
    assert_eq!(parse_hello(&two, &Limits::default()).unwrap().1, two.len() / 2);
}

#[test]
fn before_a_second_hello_only_what_servers_pass_over_is_passed_over() {
    let message = named("b.example");
    let skipped = [record(20, [1]), record(21, [1, 90]), record(20, [1])].concat();
    let early = record(23, [0; 500]);
    let bytes = [&skipped[..], &records(&message, 40)].concat();
    for cut in 0..bytes.len() {
        let mut scanner = HelloScanner::after_hello(false, Limits::default());
        assert_eq!(scanner.advance(&bytes[..cut]), Ok(None));
        assert_eq!(scanner.advance(&bytes[cut..]), Ok(Some(bytes.len() - cut)));
        assert_eq!(scanner.taken(), bytes.len() - skipped.len());
    }
    let with_early = [&early[..], &bytes].concat();
    let mut scanner = HelloScanner::after_hello(true, Limits::default());
    assert_eq!(scanner.advance(&with_early), Ok(Some(with_early.len())));
    let mut scanner = HelloScanner::after_hello(false, Limits::default());
    assert_eq!(scanner.advance(&with_early), Err(TlsFault::NotClientHello));
    for (bad, fault) in [
        (record(20, [1, 1]), TlsFault::BadRecord),
        (record(21, [1]), TlsFault::BadRecord),
        (record(22, [16, 0, 0, 1, 0]), TlsFault::NotClientHello),
        (vec![0x80, 0x2e, 1], TlsFault::BadRecord),
        (b"GET".to_vec(), TlsFault::BadRecord),
    ] {
        let mut scanner = HelloScanner::after_hello(true, Limits::default());
        assert_eq!(scanner.advance(&bad), Err(fault), "{bad:?}");
    }
}

/// A ServerHello's beginning, with this random value.
fn server_hello(random: [u8; 32]) -> Vec<u8> {
    [&[2, 0, 0, 80, 3, 3][..], &random, &[0; 46]].concat()
}

#[test]
fn a_server_that_asks_again_is_told_from_one_that_accepts() {
    let mut retry = [0; 32];
    for (slot, pair) in retry.iter_mut().zip(
        "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
            .as_bytes()
            .chunks(2),
    ) {
        *slot = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let warning = record(21, [1, 112]);
    for (random, answer) in [(retry, ServerAnswer::Retry), ([5; 32], ServerAnswer::Accepted)] {
        for len in [1, 7, 16384] {
            let bytes = [&warning[..], &records(&server_hello(random), len)].concat();
            assert_eq!(ServerHelloScanner::new().advance(&bytes), Some(answer));
            let mut scanner = ServerHelloScanner::new();
            let found: Vec<_> = bytes.iter().filter_map(|byte| scanner.advance(&[*byte])).collect();
            assert_eq!(found.first(), Some(&answer));
        }
        let message = server_hello(random);
        assert_eq!(ServerHelloScanner::new().message_bytes(&message[..37]), None);
        assert_eq!(ServerHelloScanner::new().message_bytes(&message), Some(answer));
    }
    for other in [&b"HTTP/1.1 400"[..], &[22, 3, 3, 0, 1, 11], &[22, 3, 3, 0, 0], &[22, 2]] {
        assert_eq!(ServerHelloScanner::new().advance(other), Some(ServerAnswer::Other));
    }
}

proptest! {
    #[test]
    fn any_bytes_keep_the_promises(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_records(&bytes);
        fuzz_hello(&bytes);
        fuzz_server_hello(&bytes);
    }
}

#[test]
fn damaged_hellos_keep_the_promises() {
    let mut random = StdRng::seed_from_u64(5);
    let alpn = extension(16, vector(2, vector(1, "h2")));
    let message = hello(&[server_name("a.example"), alpn, versions(&[0x0304])]);
    for round in 0..20_000 {
        let len = random.random_range(1..=message.len());
        let mut bytes = if round % 2 == 0 {
            message.clone()
        } else {
            [&[random.random()][..], &records(&message, len)].concat()
        };
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        if round % 2 == 0 {
            fuzz_hello(&bytes);
        } else {
            fuzz_records(&bytes);
        }
        fuzz_server_hello(&bytes);
    }
}
