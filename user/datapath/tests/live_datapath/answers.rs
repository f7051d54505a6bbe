//! What the kernel copies of answers of HTTP/2, and what it says it has lost.

use super::*;
use seventh_abi::{AnswerPiece, Frames, PIECE_LEN_MAX};
use seventh_datapath::PieceReader;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// The server's first number.
const OWN_BASE: u32 = 5001;

/// A server whose packets are written by hand; every connection begins with another number.
struct Server {
    lab: Lab,
    pieces: PieceReader,
    base: u32,
    next: u32,
}

/// A frame as it was copied.
#[derive(Debug, PartialEq, Eq)]
struct Copied {
    kind: u8,
    stream: u32,
    bytes: Vec<u8>,
}

impl Server {
    fn new() -> Self {
        let mut lab = open_inspected();
        let pieces = lab.datapath.take_pieces().unwrap();
        Self {
            lab,
            pieces,
            base: 1001,
            next: OWN_BASE,
        }
    }

    /// Another connection, under the same ports.
    fn connect(&mut self) {
        self.base += 1_000_000;
        let lab = &self.lab;
        from_endpoint(lab, segment(OWN_CLIENT, OTHER_SERVER, self.base - 1, 0, SYN, 0));
        to_endpoint(&segment(
            OTHER_SERVER,
            OWN_CLIENT,
            OWN_BASE - 1,
            self.base,
            SYN | ACK,
            0,
        ));
        self.next = OWN_BASE;
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut frame = segment(OTHER_SERVER, OWN_CLIENT, self.next, self.base, ACK, bytes.len());
        let start = frame.len() - bytes.len();
        frame[start..].copy_from_slice(bytes);
        to_endpoint(&frame);
        self.next += u32::try_from(bytes.len()).unwrap();
    }

    /// What has been copied since the last time, frame by frame. Numbers must go on from `number`.
    fn copied(&mut self, mut number: u16) -> Vec<Copied> {
        thread::sleep(Duration::from_millis(60));
        let mut copied: Vec<Copied> = Vec::new();
        let base = self.base;
        let mut read = |piece: &AnswerPiece, bytes: &[u8]| {
            assert_eq!((piece.number, piece.base_seq), (number, base));
            assert_eq!(piece.key.peer_port, 8080);
            number += 1;
            if piece.kind == 0 {
                return copied.last_mut().expect("the frame's beginning").bytes.extend(bytes);
            }
            copied.push(Copied {
                kind: piece.kind,
                stream: piece.stream,
                bytes: bytes.to_vec(),
            });
        };
        while self.pieces.next_piece(&mut read).is_some() {}
        copied
    }

    fn lost(&self) -> u64 {
        self.lab.counter(Counter::AnswerLost)
    }

    fn follows(&self) -> bool {
        let flows = self.lab.datapath.flows(100);
        let mut tcp = flows.iter().filter(|(key, _)| key.protocol == TCP);
        tcp.next().expect("the flow").1.frames != Frames::None as u8
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn block(kind: u8, stream: u32, len: usize) -> (Vec<u8>, Copied) {
    let bytes: Vec<u8> = (0..=255).cycle().skip(len % 7).take(len).collect();
    let on_the_wire = frame(kind, END_HEADERS, stream, &bytes);
    (on_the_wire, Copied { kind, stream, bytes })
}

#[test]
fn header_blocks_of_http_2_are_copied_however_they_are_cut() {
    isolated(|| {
        let mut server = Server::new();
        let blocks = [
            block(HEADERS, 1, 20),
            block(HEADERS, 3, 2 * PIECE_LEN_MAX + 5),
            block(CONTINUATION, 3, 0),
            block(HEADERS, 1, 1),
        ];
        let [first, second, third, fourth] = &blocks;
        let stream = [
            settings(),
            first.0.clone(),
            frame(DATA, 0, 1, &[0; 300]),
            frame(SETTINGS, 1, 0, &[]),
            second.0.clone(),
            third.0.clone(),
            frame(DATA, 0, 1, &[]),
            fourth.0.clone(),
        ]
        .concat();
        let wanted: Vec<_> = blocks.into_iter().map(|(_, copied)| copied).collect();
        for cut in [1400, 500, 64, 11] {
            for piece in stream.chunks(cut) {
                server.send(piece);
                // Sent again, with and without the packet before: nothing is copied twice.
                server.next -= u32::try_from(piece.len()).unwrap();
                server.send(piece);
            }
            assert_eq!(server.copied(0), wanted, "cut to {cut}");
            server.connect();
        }
        assert_eq!(server.lost(), 0);
        server.lab.end();
    });
}

#[test]
fn what_is_missing_of_answers_is_counted_and_nothing_is_guessed() {
    isolated(|| {
        let mut server = Server::new();
        // A server of HTTP/1 has nothing to lose.
        server.send(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((server.copied(0), server.lost()), (Vec::new(), 0));
        server.connect();
        // A hole in data hides no frame.
        let (block, wanted) = block(HEADERS, 1, 20);
        let data = frame(DATA, 0, 1, &[0; 3000]);
        server.send(&settings());
        server.send(&data[..500]);
        server.next += 1000;
        server.send(&data[1500..2800]);
        server.send(&data[2800..]);
        server.send(&block);
        assert_eq!((server.copied(0), server.lost()), (vec![wanted], 0));
        // One in a header block costs it, and the others are told.
        server.send(&block[..15]);
        server.next += 5;
        server.send(&block[20..]);
        server.send(&block);
        thread::sleep(Duration::from_millis(60));
        let mut numbers = Vec::new();
        while server
            .pieces
            .next_piece(|piece, bytes| numbers.push((piece.number, bytes.len())))
            .is_some()
        {}
        assert_eq!((numbers, server.lost()), (vec![(1, 6), (3, 20)], 1));
        // After one where a frame may have begun nothing is followed.
        server.next += 1;
        server.send(&block);
        server.send(&block);
        assert_eq!((server.copied(4), server.lost()), (Vec::new(), 2));
        assert!(!server.follows());
        a_full_ring_is_counted(&mut server);
        server.lab.end();
    });
}

/// Nobody empties it.
fn a_full_ring_is_counted(server: &mut Server) {
    const SENT: u64 = 1200;
    server.connect();
    server.send(&settings());
    let (block, _) = block(HEADERS, 1, PIECE_LEN_MAX);
    let (copied, lost) = (server.lab.counter(Counter::AnswerCopied), server.lost());
    for _ in 0..SENT {
        server.send(&block);
    }
    thread::sleep(Duration::from_millis(60));
    let (copied, lost) = (server.lab.counter(Counter::AnswerCopied) - copied, server.lost() - lost);
    assert!(lost > 100 && copied > 800, "{lost} of {SENT} lost, {copied} copied");
    assert_eq!(copied + lost, SENT);
    assert_eq!(server.copied(0).len() as u64, copied);
    // The next one tells by its number how many are missing.
    server.send(&block);
    assert_eq!(server.copied(u16::try_from(SENT).unwrap()).len(), 1);
}
