//! Fuzz entries of the HTTP/1 parsers. Each asserts what the parser promises about any input.

use super::{ChunkProgress, ChunkedFollower, HeadError, HeadScanner, Limits, normalise_path, parse_head};

/// Any bytes as a request head, whole and in two pieces cut where the first byte says.
///
/// # Panics
/// If the pieces are judged otherwise than the whole, or an accepted head is not one by an independent look.
pub fn fuzz_head(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let limits = Limits {
        head_len_max: 4096,
        headers_max: 20,
    };
    let whole = HeadScanner::new(limits).advance(bytes);
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let mut scanner = HeadScanner::new(limits);
    let pieces = match scanner.advance(first) {
        Ok(None) => scanner.advance(second).map(|end| end.map(|n| n + first.len())),
        other => other,
    };
    assert_eq!(whole, pieces);
    match parse_head(bytes, &limits) {
        Ok(head) => {
            let raw = bytes.get(..head.head_len).unwrap_or_default();
            assert!(raw.ends_with(b"\r\n\r\n") && head.head_len <= limits.head_len_max);
            assert!(!raw.contains(&0) && raw.array_windows().all(|&[a, b]| (a == b'\r') == (b == b'\n')));
            assert!(head.method.bytes().all(|b| !b.is_ascii_lowercase()));
            assert!(head.path.starts_with('/') || head.path == "*" || head.method == "CONNECT");
            assert!(head.headers.iter().count() <= limits.headers_max);
        }
        Err(HeadError::Incomplete) => assert_eq!(whole, Ok(None)),
        Err(HeadError::Invalid(_)) => assert_ne!(whole, Ok(None)),
    }
}

/// Any bytes as a chunked body, whole and byte by byte.
///
/// # Panics
/// If both ways do not end alike.
pub fn fuzz_chunked(bytes: &[u8]) {
    let whole = ChunkedFollower::new().follow(bytes);
    let mut follower = ChunkedFollower::new();
    let mut single = Ok(ChunkProgress::More);
    for (at, byte) in bytes.iter().enumerate() {
        single = follower.follow(&[*byte]).map(|progress| match progress {
            ChunkProgress::Done(_) => ChunkProgress::Done(at + 1),
            ChunkProgress::More => ChunkProgress::More,
        });
        if single != Ok(ChunkProgress::More) {
            break;
        }
    }
    assert_eq!(whole, single);
}

/// Any text as a path.
///
/// # Panics
/// If a normal form is not its own normal form, or still holds what normalising removes.
pub fn fuzz_path(text: &str) {
    let Ok(normal) = normalise_path(text) else { return };
    assert_eq!(normalise_path(&normal).as_deref(), Ok(&*normal), "from {text:?}");
    let path = normal.split('?').next().unwrap_or_default();
    assert!(path.starts_with('/') && !path.contains("//"));
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
}
