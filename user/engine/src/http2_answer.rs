//! What a refused HTTP/2 connection is answered with.
//!
//! Each answer can stand anywhere between two frames of the server, and at its very beginning: it starts with SETTINGS
//! that change nothing (RFC 9113 §3.4 wants them first), its header block starts with a table of size 0 (RFC 7541 §4.2
//! may want that) and uses only what every decompressor knows.

use bytes::BufMut as _;

/// RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    None = 0,
    Protocol = 1,
    StreamClosed = 5,
    Compression = 9,
    EnhanceYourCalm = 11,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The same as HTTP/1's refusal.
const BODY: &[u8] = b"Access denied\r\n";
/// `:status: 403`, `content-type: text/plain`, `content-length: 15`.
const HEAD: &[u8] = b"\x20\x08\x03403\x0f\x10\x0atext/plain\x0f\x0d\x0215";
/// `:status: 200`, `content-type: application/grpc`, `grpc-status: 7` (permission denied), `grpc-message`: an answer
/// whose head is its trailers.
const GRPC_HEAD: &[u8] =
    b"\x20\x88\x0f\x10\x10application/grpc\x00\x0bgrpc-status\x017\x00\x0cgrpc-message\x0dAccess denied";

/// Refuses the request on `stream`, and every further one.
pub(crate) fn forbidden(stream: u32, is_grpc: bool) -> Vec<u8> {
    let mut answer = Vec::new();
    frame(&mut answer, SETTINGS, 0, 0, &[]);
    if is_grpc {
        frame(&mut answer, HEADERS, END_HEADERS | END_STREAM, stream, GRPC_HEAD);
    } else {
        frame(&mut answer, HEADERS, END_HEADERS, stream, HEAD);
        frame(&mut answer, DATA, END_STREAM, stream, BODY);
    }
    end(&mut answer, stream, ErrorCode::None);
    answer
}

/// Ends the connection; streams after `newest` were not looked at.
pub(crate) fn go_away(newest: u32, code: ErrorCode) -> Vec<u8> {
    let mut answer = Vec::new();
    frame(&mut answer, SETTINGS, 0, 0, &[]);
    end(&mut answer, newest, code);
    answer
}

fn end(answer: &mut Vec<u8>, newest: u32, code: ErrorCode) {
    let mut payload = [0; 8];
    let mut rest = &mut payload[..];
    rest.put_u32(newest);
    rest.put_u32(code as u32);
    frame(answer, GO_AWAY, 0, 0, &payload);
}

fn frame(answer: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    answer.put_uint(payload.len() as u64, 3);
    answer.put_u8(kind);
    answer.put_u8(flags);
    answer.put_u32(stream);
    answer.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::{ErrorCode, forbidden, go_away};
    use seventh_parsers::http1::Limits;
    use seventh_parsers::http2::{Decoder, Fields};

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

    fn fields(block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Fields::default();
        Decoder::new().decode(block, &Limits::default(), &mut fields).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields.iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn a_refusal_is_a_whole_answer_and_the_end() {
        let answer = frames(&forbidden(5, false));
        let kinds: Vec<_> = answer.iter().map(|f| (f.0, f.1, f.2)).collect();
        assert_eq!(kinds, [(4, 0, 0), (1, 4, 5), (0, 1, 5), (7, 0, 0)]);
        let head = fields(&answer[1].3);
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            head,
            [
                pair(":status", "403"),
                pair("content-type", "text/plain"),
                pair("content-length", "15")
            ]
        );
        assert_eq!(answer[2].3, b"Access denied\r\n");
        assert_eq!(answer[3].3, [0, 0, 0, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn grpc_is_told_in_trailers_only() {
        let answer = frames(&forbidden(0x7fff_ffff, true));
        assert_eq!((answer.len(), answer[1].1), (3, 5));
        let head = fields(&answer[1].3);
        let get = |name: &str| head.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(
            (get(":status"), get("content-type")),
            (Some("200"), Some("application/grpc"))
        );
        assert_eq!(
            (get("grpc-status"), get("grpc-message")),
            (Some("7"), Some("Access denied"))
        );
    }

    #[test]
    fn the_end_names_its_reason() {
        let answer = frames(&go_away(3, ErrorCode::EnhanceYourCalm));
        assert_eq!(answer[1], (7, 0, 0, vec![0, 0, 0, 3, 0, 0, 0, 11]));
    }
}
