//! Answers of HTTP/2: header blocks are put together from the pieces that the kernel copied, and each stream's status
//! goes to the request that was asked on it.
//!
//! A piece may be missing. Then the connection's compression is not known any more: what can only be said with it is not
//! told (see [`AnswerReader`]). Nothing is guessed.

use ahash::AHashMap as HashMap;
use std::collections::{BTreeMap, VecDeque};

use seventh_abi::{AnswerPiece, FlowKey};
use seventh_engine::Http2Stream;
use seventh_parsers::http2::{AnswerHead, AnswerReader, join_block};

use super::answers::{Request, is_interim};

/// Connections that are remembered at most; the oldest are forgotten.
const CONNECTIONS_MAX: usize = 8192;
/// Requests of one connection that wait for their answers at most; those of the lowest streams are forgotten.
const REQUESTS_MAX: usize = 1024;
/// Bytes that all connections take at most; the oldest are forgotten.
const BYTES_MAX: usize = 16 << 20;
/// Bytes of a header block, its frames' headers included, that is put together.
const BLOCK_LEN_MAX: usize = 32 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection: its flow, and the number of its opener's first byte.
type ConnectionKey = (FlowKey, u32);

/// A whole header block of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// When its first byte came, on the kernel's clock.
    pub(super) time_ns: u64,
    key: ConnectionKey,
    stream: u32,
    head: AnswerHead,
    ends: bool,
    /// What is asked on the connection is judged beside the traffic.
    pub(super) beside: bool,
}

/// What there is to say about a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<T> {
    /// This request is answered.
    Answer(StreamAnswer<T>),
    /// Nothing yet, or nothing more.
    Nothing,
    /// An answer whose status or whose request is not known.
    Lost,
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamAnswer<T> {
    pub(super) asked: T,
    /// When the request went on, and when the answer's first byte came.
    pub(super) asked_ns: u64,
    pub(super) time_ns: u64,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u32>,
}

/// Connections, and the requests on them that wait.
#[derive(Debug)]
pub(super) struct Streams<T> {
    by_connection: HashMap<ConnectionKey, Connection<T>>,
    /// In the order in which they came.
    order: VecDeque<ConnectionKey>,
    bytes: usize,
}

#[derive(Debug)]
struct Connection<T> {
    /// Number of the next piece.
    next: u16,
    reader: AnswerReader,
    /// The block that is not complete.
    block: Option<Block>,
    /// By stream.
    waiting: BTreeMap<u32, Waiting<T>>,
    waiting_bytes: usize,
    /// Bytes that it was last counted with.
    counted: usize,
}

#[derive(Debug)]
struct Block {
    time_ns: u64,
    stream: u32,
    ends: bool,
    /// No further frame belongs to it.
    is_last: bool,
    /// Bytes of the present frame that are still to come.
    left: usize,
    /// Frames with their headers, as the wire had them.
    unit: Vec<u8>,
}

#[derive(Debug)]
struct Waiting<T> {
    request: Request<T>,
    is_grpc: bool,
    /// Time and status of the answer, whose trailers are still to come.
    answered: Option<(u64, u16)>,
}

impl<T> Default for Streams<T> {
    fn default() -> Self {
        Self {
            by_connection: HashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Connection<T> {
    fn new() -> Self {
        Self {
            next: 0,
            reader: AnswerReader::new(),
            block: None,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            counted: 0,
        }
    }

    /// What a lost piece held is not known.
    fn miss(&mut self) {
        self.reader.miss();
        self.block = None;
    }

    fn take(&mut self, piece: &AnswerPiece, bytes: &[u8]) -> Option<Told> {
        if piece.number != self.next {
            self.miss();
        }
        self.next = piece.number.wrapping_add(1);
        if piece.kind != 0 && !self.begin(piece) {
            self.miss();
        }
        self.add(bytes, piece.kind)?;
        let block = self.block.take_if(|block| block.left == 0 && block.is_last)?;
        let Ok(fields) = join_block(&block.unit) else {
            self.miss();
            return None;
        };
        Some(Told {
            time_ns: block.time_ns,
            key: (piece.key, piece.base_seq),
            stream: block.stream,
            head: self.reader.read(&fields),
            ends: block.ends,
            beside: piece.beside != 0,
        })
    }

    /// A frame begins; false if it is none that can be read. Streams that servers promise (RFC 9113 §8.4) are none of a
    /// request.
    fn begin(&mut self, piece: &AnswerPiece) -> bool {
        let is_last = piece.frame_flags & END_HEADERS != 0;
        let left = usize::try_from(piece.frame_len).unwrap_or(usize::MAX);
        match (&mut self.block, piece.kind) {
            (None, HEADERS) => {
                self.block = Some(Block {
                    time_ns: piece.time_ns,
                    stream: piece.stream,
                    ends: piece.frame_flags & END_STREAM != 0,
                    is_last,
                    left,
                    unit: Vec::new(),
                });
            }
            (Some(block), CONTINUATION) if block.left == 0 && block.stream == piece.stream => {
                block.is_last = is_last;
                block.left = left;
            }
            _ => return false,
        }
        if let Some(block) = &mut self.block {
            let [_, len @ ..] = piece.frame_len.to_be_bytes();
            block.unit.extend_from_slice(&len);
            block.unit.extend_from_slice(&[piece.kind, piece.frame_flags]);
            block.unit.extend_from_slice(&piece.stream.to_be_bytes());
        }
        true
    }

    /// Bytes of the present frame; `None` if there is none whose bytes are wanted.
    fn add(&mut self, bytes: &[u8], kind: u8) -> Option<()> {
        let block = self.block.as_mut()?;
        let left = block.left.checked_sub(bytes.len());
        let fits = block.unit.len() + bytes.len() <= BLOCK_LEN_MAX;
        let (Some(left), true) = (left, fits && (kind != 0 || !bytes.is_empty())) else {
            self.miss();
            return None;
        };
        block.left = left;
        block.unit.extend_from_slice(bytes);
        Some(())
    }

    /// What is to be counted for it.
    fn bytes(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.unit.capacity());
        size_of::<Self>() + self.reader.held() + block + self.waiting_bytes
    }

    fn said(&mut self, told: &Told) -> Said<T> {
        let Some(waiting) = self.waiting.get_mut(&told.stream) else {
            // Trailers of an answer that was told, or an answer to nothing that is known.
            let is_answer = told.head.status.is_some_and(|status| !is_interim(status));
            return if is_answer { Said::Lost } else { Said::Nothing };
        };
        let (time_ns, status) = match (waiting.answered, told.head.status) {
            (Some(answered), _) => answered,
            (None, Some(status)) if is_interim(status) => return Said::Nothing,
            (None, Some(status)) => (told.time_ns, status),
            (None, None) => {
                self.remove(told.stream);
                return Said::Lost;
            }
        };
        if waiting.is_grpc && !told.ends {
            waiting.answered = Some((time_ns, status));
            return Said::Nothing;
        }
        self.remove(told.stream).map_or(Said::Nothing, |request| {
            Said::Answer(StreamAnswer {
                asked: request.what,
                asked_ns: request.time_ns,
                time_ns,
                status,
                grpc_status: told.head.grpc_status,
            })
        })
    }

    fn insert(&mut self, stream: u32, waiting: Waiting<T>) {
        if self.waiting.len() >= REQUESTS_MAX
            && let Some(&lowest) = self.waiting.keys().next()
        {
            self.remove(lowest);
        }
        self.waiting_bytes += waiting.request.bytes;
        self.waiting.insert(stream, waiting);
    }

    fn remove(&mut self, stream: u32) -> Option<Request<T>> {
        let request = self.waiting.remove(&stream)?.request;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(request.bytes);
        Some(request)
    }
}

impl<T> Streams<T> {
    /// Remembers a request that went on.
    pub(super) fn remember(&mut self, key: ConnectionKey, stream: Http2Stream, request: Request<T>) {
        let waiting = Waiting {
            request,
            is_grpc: stream.is_grpc,
            answered: None,
        };
        self.at(key, |connection| connection.insert(stream.number, waiting));
    }

    /// Takes the next piece of a connection; the block that it completes.
    pub(super) fn piece(&mut self, piece: &AnswerPiece, bytes: &[u8]) -> Option<Told> {
        self.at((piece.key, piece.base_seq), |connection| connection.take(piece, bytes))
    }

    /// What that says. Blocks of a stream must come in their order.
    pub(super) fn said(&mut self, told: &Told) -> Said<T> {
        self.at(told.key, |connection| connection.said(told))
    }

    fn at<R>(&mut self, key: ConnectionKey, change: impl FnOnce(&mut Connection<T>) -> R) -> R {
        let connection = self.by_connection.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            Connection::new()
        });
        let result = change(connection);
        let bytes = connection.bytes();
        self.bytes = (self.bytes + bytes).saturating_sub(connection.counted);
        connection.counted = bytes;
        while self.by_connection.len() > CONNECTIONS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            let gone = self.by_connection.remove(&oldest).map_or(0, |gone| gone.counted);
            self.bytes = self.bytes.saturating_sub(gone);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, CONNECTIONS_MAX, Connection, REQUESTS_MAX, Said, StreamAnswer, Streams};
    use crate::observer::answers::Request;
    use seventh_abi::{AnswerPiece, FlowKey, PIECE_LEN_MAX};
    use seventh_engine::Http2Stream;

    const KEY: FlowKey = FlowKey {
        local_addr: [0; 16],
        peer_addr: [1; 16],
        ifindex: 1,
        local_port: 80,
        peer_port: 9,
        protocol: 6,
        direction: 1,
        pad: [0; 2],
    };
    const OK: &[u8] = b"\x88";
    const CONTINUE: &[u8] = b"\x08\x03100";
    /// `:status: 418` for the table, and by its number there.
    const TEAPOT: &[u8] = b"\x48\x03418";
    const AGAIN: &[u8] = b"\xbe";
    const GRPC: &[u8] = b"\x00\x0bgrpc-status\x017";
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;

    /// A server, as the kernel copies it.
    struct Server {
        streams: Streams<&'static str>,
        base_seq: u32,
        number: u16,
        time_ns: u64,
    }

    impl Server {
        fn new() -> Self {
            Self {
                streams: Streams::default(),
                base_seq: 7,
                number: 0,
                time_ns: 100,
            }
        }

        fn asked(&mut self, stream: u32, is_grpc: bool, what: &'static str) {
            let request = Request {
                time_ns: self.time_ns,
                bytes: 100,
                what,
            };
            let stream = Http2Stream {
                number: stream,
                is_grpc,
            };
            self.streams.remember((KEY, self.base_seq), stream, request);
        }

        fn piece(
            &mut self,
            stream: u32,
            kind: u8,
            frame_flags: u8,
            frame_len: usize,
            bytes: &[u8],
        ) -> Said<&'static str> {
            self.time_ns += 1;
            let piece = AnswerPiece {
                time_ns: self.time_ns,
                key: KEY,
                stream,
                frame_len: u32::try_from(frame_len).unwrap(),
                base_seq: self.base_seq,
                number: self.number,
                len: u16::try_from(bytes.len()).unwrap(),
                kind,
                frame_flags,
                beside: 0,
                pad: 0,
            };
            self.number = self.number.wrapping_add(1);
            match self.streams.piece(&piece, bytes) {
                Some(told) => self.streams.said(&told),
                None => Said::Nothing,
            }
        }

        fn block(&mut self, stream: u32, ends: bool, block: &[u8]) -> Said<&'static str> {
            self.piece(stream, HEADERS, 4 | u8::from(ends), block.len(), block)
        }
    }

    fn answer(said: Said<&'static str>) -> (&'static str, u16, Option<u32>) {
        match said {
            Said::Answer(StreamAnswer {
                asked,
                status,
                grpc_status,
                asked_ns,
                time_ns,
            }) => {
                assert!(time_ns > asked_ns);
                (asked, status, grpc_status)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_go_to_the_requests_of_their_streams() {
        let mut server = Server::new();
        for (stream, what) in [(1, "a"), (3, "b"), (5, "c")] {
            server.asked(stream, false, what);
        }
        assert_eq!(answer(server.block(5, false, TEAPOT)), ("c", 418, None));
        assert_eq!(server.block(3, false, CONTINUE), Said::Nothing);
        assert_eq!(answer(server.block(1, true, AGAIN)), ("a", 418, None));
        assert_eq!(answer(server.block(3, false, OK)), ("b", 200, None));
        assert_eq!(server.block(3, true, GRPC), Said::Nothing, "trailers of what was told");
        assert_eq!(server.block(7, true, OK), Said::Lost, "nobody is known to have asked");
    }

    #[test]
    fn a_call_of_grpc_is_told_with_the_status_in_its_trailers() {
        let mut server = Server::new();
        server.asked(1, true, "call");
        server.asked(3, true, "refused");
        assert_eq!(server.block(1, false, OK), Said::Nothing);
        let trailers_only = [OK, GRPC].concat();
        assert_eq!(answer(server.block(3, true, &trailers_only)), ("refused", 200, Some(7)));
        let asked_ns = 100;
        match server.block(1, true, GRPC) {
            Said::Answer(told) => {
                assert_eq!((told.asked, told.status, told.grpc_status), ("call", 200, Some(7)));
                assert_eq!(
                    (told.asked_ns, told.time_ns),
                    (asked_ns, 101),
                    "the answer's first byte counts"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_may_come_in_any_pieces() {
        let padding = [0; 3];
        let padded = [&[3][..], TEAPOT, &padding].concat();
        for cut in 0..padded.len() {
            let mut server = Server::new();
            server.asked(1, false, "a");
            let (head, tail) = padded.split_at(cut);
            assert_eq!(server.piece(1, HEADERS, 8, padded.len(), head), Said::Nothing);
            assert_eq!(server.piece(1, 0, 0, 0, tail), Said::Nothing, "{cut}");
            let (head, tail) = OK.split_at(cut % 2);
            assert_eq!(server.piece(1, CONTINUATION, 0, head.len(), head), Said::Nothing);
            let said = server.piece(1, CONTINUATION, 4, tail.len(), tail);
            // The second `:status` counts: it is a server's fault, and a reader's of ours to tell it.
            assert_eq!(answer(said).0, "a", "{cut}");
        }
    }

    #[test]
    fn a_lost_piece_costs_what_hangs_on_it_and_nothing_is_guessed() {
        let mut server = Server::new();
        for (stream, what) in [(1, "a"), (3, "b"), (5, "c"), (7, "d")] {
            server.asked(stream, false, what);
        }
        assert_eq!(answer(server.block(1, true, TEAPOT)), ("a", 418, None));
        server.number += 1;
        assert_eq!(server.block(3, true, AGAIN), Said::Lost);
        assert_eq!(answer(server.block(5, true, OK)), ("c", 200, None));
        // The beginning of a block is lost, and then its end.
        assert_eq!(server.piece(7, 0, 0, 0, b"\x88"), Said::Nothing);
        server.piece(7, HEADERS, 4, 2, b"\x88");
        server.number += 1;
        assert_eq!(server.piece(7, 0, 0, 0, b"\x88"), Said::Nothing);
        assert_eq!(answer(server.block(7, true, OK)).0, "d");
    }

    #[test]
    fn what_is_no_block_of_an_answer_counts_as_missed() {
        const PUSH_PROMISE: u8 = 5;
        for (kind, flags, len, bytes) in [
            (PUSH_PROMISE, 4, 5, &b"\0\0\0\x02\x88"[..]),
            (CONTINUATION, 4, 1, b"\x88"),
            (HEADERS, 4, 1, b"\x88\x88"),
            (HEADERS, 12, 2, b"\xff\x88"),
        ] {
            let mut server = Server::new();
            server.asked(1, false, "a");
            server.asked(3, false, "b");
            server.block(1, true, TEAPOT);
            assert_eq!(server.piece(3, kind, flags, len, bytes), Said::Nothing);
            assert_eq!(server.block(3, true, AGAIN), Said::Lost, "kind {kind}");
        }
    }

    #[test]
    fn connections_under_the_same_ports_are_told_apart() {
        let mut server = Server::new();
        server.asked(1, false, "old");
        server.block(9, true, TEAPOT);
        (server.base_seq, server.number) = (8, 0);
        assert_eq!(server.block(1, true, OK), Said::Lost);
        server.asked(3, false, "new");
        assert_eq!(server.block(3, true, AGAIN), Said::Lost, "the other one's compression");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut server = Server::new();
        for stream in 0..3000 {
            server.asked(2 * stream + 1, true, "x");
        }
        let connection: &Connection<_> = &server.streams.by_connection[&(KEY, 7)];
        assert_eq!(connection.waiting.len(), REQUESTS_MAX);
        assert_eq!(connection.waiting_bytes, 100 * REQUESTS_MAX);
        // A block without an end.
        server.piece(1, HEADERS, 0, 1 << 20, &[0; PIECE_LEN_MAX]);
        for _ in 0..1000 {
            server.piece(0, 0, 0, 0, &[0; PIECE_LEN_MAX]);
        }
        assert!(server.streams.bytes < 1 << 20);
        for base_seq in 0..20_000 {
            server.base_seq = base_seq;
            server.asked(1, true, "x");
            server.number = 0;
            server.block(1, false, &[b"\x40\x01a\x7f\x80\x06".as_slice(), &[b'x'; 895]].concat());
        }
        let streams = &server.streams;
        assert!(streams.by_connection.len() <= CONNECTIONS_MAX && streams.order.len() == streams.by_connection.len());
        assert!(streams.bytes <= BYTES_MAX);
        let counted: usize = streams.by_connection.values().map(Connection::bytes).sum();
        assert_eq!(streams.bytes, counted);
    }
}
