//! Fuzz entries of the TLS parsers. Each asserts what the parser promises about any input.

use super::{HelloError, HelloScanner, Limits, ServerHelloScanner, join_records, parse_hello, read_hello};

/// Any bytes as the beginning of a connection, whole and in two pieces cut where the first byte says.
///
/// # Panics
/// If the pieces are judged otherwise than the whole, or an accepted hello is not one by an independent look.
pub fn fuzz_records(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let limits = Limits { hello_len_max: 2048 };
    for scanner in [
        HelloScanner::new(limits),
        HelloScanner::after_hello(false, limits),
        HelloScanner::after_hello(true, limits),
    ] {
        let mut whole = scanner;
        let at_once = whole.advance(bytes);
        let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
        let mut pieces = scanner;
        let in_two = match pieces.advance(first) {
            Ok(None) => pieces.advance(second).map(|end| end.map(|n| n + first.len())),
            other => other,
        };
        assert_eq!(at_once, in_two);
        if let Ok(Some(end)) = at_once {
            assert_eq!(whole, pieces);
            let records = bytes.get(end - whole.taken()..end).unwrap_or_default();
            let message = join_records(records);
            let message = message.unwrap_or_default();
            assert!(message.first() == Some(&1) && message.len() <= limits.hello_len_max);
        }
    }
    match parse_hello(bytes, &limits) {
        Ok((message, end)) => {
            assert!(end > message.len() && end <= message.len() * 6);
            fuzz_hello(&message);
        }
        Err(HelloError::Incomplete) => assert_eq!(HelloScanner::new(limits).advance(bytes), Ok(None)),
        Err(HelloError::Invalid(_)) => {}
    }
}

/// Any bytes as a ClientHello message.
///
/// # Panics
/// If a name that was read does not stand in the bytes or is not plain.
pub fn fuzz_hello(message: &[u8]) {
    let Ok(hello) = read_hello(message) else { return };
    if let Some(name) = hello.server_name {
        assert!(name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()) && !name.is_empty());
        assert!(
            message
                .windows(name.len())
                .any(|w| w.eq_ignore_ascii_case(name.as_bytes()))
        );
    }
    assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
}

/// Any bytes as what a server answers, whole and byte by byte.
///
/// # Panics
/// If both ways do not end alike.
pub fn fuzz_server_hello(bytes: &[u8]) {
    let whole = ServerHelloScanner::new().advance(bytes);
    let mut scanner = ServerHelloScanner::new();
    let single = bytes.iter().find_map(|byte| scanner.advance(&[*byte]));
    assert_eq!(whole, single);
}
