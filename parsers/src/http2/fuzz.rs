//! Fuzz entries of the HTTP/2 parsers. Each asserts what the parser promises about any input.

use super::{AnswerReader, Decoder, Fields, FrameScanner, Http2Fault, Unit, check_trailers, join_block, read_request};
use crate::http1::Limits;

const LIMITS: Limits = Limits {
    head_len_max: 4096,
    headers_max: 20,
};

/// What one unit after the other is, until the bytes end or are refused; where each ends.
type Walk = (Vec<(usize, Unit)>, Option<Http2Fault>);

fn walk<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Walk {
    let mut units = Vec::new();
    let mut scanner = FrameScanner::new(&LIMITS);
    let (mut at, mut skip) = (0, 0usize);
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            let payload = skip.min(rest.len());
            (skip, rest, at) = (skip - payload, rest.get(payload..).unwrap_or_default(), at + payload);
            match scanner.advance(rest) {
                Ok(Some((taken, unit))) => {
                    (rest, at) = (rest.get(taken..).unwrap_or_default(), at + taken);
                    scanner = FrameScanner::new(&LIMITS);
                    if let Unit::Data { len, .. } = unit {
                        skip = usize::try_from(len).unwrap_or(usize::MAX);
                    }
                    units.push((at, unit));
                }
                Ok(None) => (rest, at) = (&[], at + rest.len()),
                Err(fault) => return (units, Some(fault)),
            }
        }
    }
    (units, None)
}

/// Any bytes as frames, whole, cut where the first byte says, and byte by byte.
///
/// # Panics
/// If the pieces are judged otherwise than the whole.
pub fn fuzz_frames(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = walk([bytes]);
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(whole, walk([first, second]));
    assert_eq!(whole, walk(bytes.chunks(1)));
    let mut decoder = Decoder::new();
    let mut start = 0;
    for (end, unit) in whole.0 {
        let unit_bytes = bytes.get(start..end).unwrap_or_default();
        start = end;
        match unit {
            Unit::Block { .. } => {
                let Ok(block) = join_block(unit_bytes) else { return };
                if !decode(&mut decoder, &block) {
                    return;
                }
            }
            Unit::Data { len, .. } => start += usize::try_from(len).unwrap_or(usize::MAX),
            Unit::Frame(_) => {}
        }
    }
}

/// Any bytes as the first two header blocks of a connection, the first of which is as long as the first byte says.
///
/// # Panics
/// If undoing a block leaves a trace, or an accepted request is none by an independent look.
pub fn fuzz_hpack(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let mut decoder = Decoder::new();
    if decode(&mut decoder, first) {
        decode(&mut decoder, second);
    }
    read_answers(first, second);
}

/// What is told with the table and without it is the same, as far as it is told.
fn read_answers(first: &[u8], second: &[u8]) {
    let (mut whole, mut partial) = (AnswerReader::new(), AnswerReader::new());
    whole.read(first);
    partial.miss();
    let (all, some) = (whole.read(second), partial.read(second));
    assert!(all.is_partial || some.is_partial || all == some, "{all:?} {some:?}");
    assert_eq!(partial.held(), 0);
}

/// Decodes a block twice, undone in between. False if it is refused.
fn decode(decoder: &mut Decoder, block: &[u8]) -> bool {
    let before = decoder.clone();
    let mut fields = Fields::default();
    let result = decoder.decode(block, &LIMITS, &mut fields);
    decoder.rollback();
    assert_eq!(*decoder, before, "undoing a block leaves a trace");
    let mut again = Fields::default();
    assert_eq!(decoder.decode(block, &LIMITS, &mut again), result);
    if result.is_err() {
        decoder.rollback();
        return false;
    }
    assert_eq!(fields, again);
    decoder.commit();
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    assert!(size <= LIMITS.head_len_max && fields.len() <= LIMITS.headers_max + 5);
    let _ = check_trailers(&fields);
    let mut lines = Vec::new();
    if let Ok(request) = read_request(&fields, &mut lines) {
        let head = request.head;
        assert!(head.path.starts_with('/') || head.path == "*" || head.method == "CONNECT");
        assert!(head.host.is_some() && !head.method.bytes().any(|b| b.is_ascii_lowercase()));
        let shown = head.headers.iter().count();
        let cookies = fields.iter().filter(|(name, _)| *name == b"cookie").count();
        let plain = fields.iter().filter(|(name, _)| name.first() != Some(&b':')).count();
        assert_eq!(shown, plain - cookies.saturating_sub(1));
    }
    true
}
