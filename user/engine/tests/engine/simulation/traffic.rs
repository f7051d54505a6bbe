//! What openers say: request sequences, well-formed, denied and malformed.

use crate::http2::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, begin, fields, frame, literal};
use crate::tls::hello::{Hello, record};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http1,
    /// Mostly short requests without a body, one after the other: what the kernel judges by itself.
    ShortRequests,
    Http2,
    Tls,
}

/// What the opener asks for first, its streams, and where to cut them.
pub(crate) fn speeches(rng: &mut StdRng, speech: Speech) -> (Option<Ask>, Vec<Vec<u8>>, Vec<usize>) {
    let ask = Ask::ALL.choose(rng).copied();
    let ask = ask.filter(|_| speech == Speech::Http1 && rng.random_bool(0.4));
    let (streams, edges) = match speech {
        Speech::Http1 if matches!(ask, Some(Ask::Http2(_))) => switched_streams(rng, ask),
        Speech::Http1 => http1_streams(rng, ask, allowed, 2..6, 0.8),
        Speech::ShortRequests => http1_streams(rng, None, mostly_short, 8..24, 0.98),
        Speech::Http2 => http2_streams(rng, 1),
        Speech::Tls => tls_streams(rng),
    };
    (ask, streams, edges)
}

fn tls_streams(rng: &mut StdRng) -> (Vec<Vec<u8>>, Vec<usize>) {
    let flights = first_flights(rng);
    let edges = vec![0, 5, 9, flights[0].len() / 2, flights[0].len()];
    (flights.into(), edges)
}

/// A request that asks for HTTP/2, and then HTTP/2, or requests as if it had been refused.
fn switched_streams(rng: &mut StdRng, ask: Option<Ask>) -> (Vec<Vec<u8>>, Vec<usize>) {
    if rng.random_bool(0.3) {
        return http1_streams(rng, ask, allowed, 2..6, 0.8);
    }
    let first = ask.map_or("", Ask::request).as_bytes();
    let (streams, edges) = http2_streams(rng, 3);
    let streams = streams.iter().map(|stream| [first, stream].concat()).collect();
    let edges = edges.iter().map(|edge| first.len() + edge);
    (streams, std::iter::once(0).chain(edges).collect())
}

fn http1_streams(
    rng: &mut StdRng,
    ask: Option<Ask>,
    allowed: fn(&mut StdRng) -> Vec<u8>,
    count: Range<usize>,
    goodness: f64,
) -> (Vec<Vec<u8>>, Vec<usize>) {
    let first = ask.map_or("", Ask::request);
    let mut streams = vec![first.as_bytes().to_vec(); 2];
    let mut edges = vec![0, first.len()];
    for _ in 0..rng.random_range(count) {
        let good = allowed(rng);
        let mut bad = if rng.random() { denied(rng) } else { malformed(rng) };
        // The evil twin has the length of the good request wherever that can be, so that both fit one place.
        if bad.len() < good.len() && rng.random_bool(0.7) {
            let filler = good.len() - bad.len();
            if let Some(at) = bad.windows(4).position(|w| w == b"Host").filter(|_| filler > 5) {
                let header = format!("F: {}\r\n", "f".repeat(filler - 5));
                bad.splice(at..at, header.into_bytes());
            }
        }
        goes_on(rng, goodness, [&good, &bad], &mut streams, &mut edges);
    }
    (streams, edges)
}

fn http2_streams(rng: &mut StdRng, first: u32) -> (Vec<Vec<u8>>, Vec<usize>) {
    let mut streams = vec![begin(), begin()];
    let mut edges = vec![0, streams[0].len()];
    for number in 0..rng.random_range(2..6) {
        let stream = first + 2 * number;
        let mut good = http2(rng, stream, true);
        let mut bad = http2(rng, stream, false);
        // Both fit one place: what is missing is a frame that nobody reads.
        let (short, long) = if good.len() < bad.len() {
            (&mut good, bad.len())
        } else {
            (&mut bad, good.len())
        };
        if long - short.len() >= 9 {
            short.extend(frame(0xfa, 0, 0, &vec![b'f'; long - short.len() - 9]));
        }
        goes_on(rng, 0.8, [&good, &bad], &mut streams, &mut edges);
    }
    (streams, edges)
}

/// One of the two comes next in the first stream, with this probability the good one, and the other one in the second.
fn goes_on(rng: &mut StdRng, goodness: f64, [good, bad]: [&[u8]; 2], streams: &mut [Vec<u8>], edges: &mut Vec<usize>) {
    let (first, second) = if rng.random_bool(goodness) {
        (good, bad)
    } else {
        (bad, good)
    };
    streams[0].extend(first);
    streams[1].extend(second);
    edges.extend(streams.iter().map(Vec::len));
}

/// What a body holds if it wants to be taken for requests.
const DECOY: &str = "GET /secret HTTP/1.1\r\nHost: a\r\n\r\n";

fn short(rng: &mut StdRng) -> Vec<u8> {
    format!("GET /public/{} HTTP/1.1\r\nHost: a\r\n\r\n", rng.random_range(0..20)).into_bytes()
}

fn mostly_short(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..12) {
        0 => with_length(rng, 0..200),
        1 => chunked(rng),
        _ => short(rng),
    }
}

pub(crate) fn allowed(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..6) {
        0 | 1 => short(rng),
        2 => format!(
            "GET /public HTTP/1.1\r\nHost: a\r\nX-Filler: {}\r\n\r\n",
            "f".repeat(rng.random_range(0..3000))
        )
        .into_bytes(),
        3 => with_length(rng, 0..200),
        4 => with_length(rng, 3000..14_000),
        _ => chunked(rng),
    }
}

pub(crate) fn denied(rng: &mut StdRng) -> Vec<u8> {
    let request = match rng.random_range(0..4) {
        0 => DECOY.to_owned(),
        1 => "GET /private HTTP/1.1\r\nHost: a\r\nX-Token: guess\r\n\r\n".to_owned(),
        2 => "DELETE /public HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        _ => "POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
    };
    request.into_bytes()
}

/// What some server would act on and we must not let become complete.
fn malformed(rng: &mut StdRng) -> Vec<u8> {
    let choices = [
        "GET /secret\r\n",
        "GET /secret\n",
        "GET /secret HTTP/1.1\nHost: a\n\n",
        "GET /secret HTTP/1.1\r\nHost: a\n\n",
        "get /public HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public/../secret HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /public%2f..%2fsecret HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length : 44\r\n\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n",
        "\n\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /secret HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        "GET /public HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
    ];
    choices.choose(rng).unwrap().as_bytes().to_vec()
}

fn with_length(rng: &mut StdRng, lengths: Range<usize>) -> Vec<u8> {
    let body = body(rng, lengths);
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

fn chunked(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = b"PUT /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..rng.random_range(0..5) {
        let longest = if rng.random_bool(0.3) { 9000 } else { 60 };
        let chunk = body(rng, 1..longest);
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn body(rng: &mut StdRng, lengths: Range<usize>) -> Vec<u8> {
    let len = rng.random_range(lengths);
    let mut body = vec![b'b'; len];
    if rng.random() && len > DECOY.len() {
        let at = rng.random_range(0..=len - DECOY.len());
        body[at..at + DECOY.len()].copy_from_slice(DECOY.as_bytes());
    }
    body
}

/// A request on a new stream of an HTTP/2 connection, with what may surround it.
pub(crate) fn http2(rng: &mut StdRng, stream: u32, is_allowed: bool) -> Vec<u8> {
    let upload = rng.random_bool(0.4);
    let (method, path) = match (upload, is_allowed) {
        (true, true) => ("POST", "/upload".to_owned()),
        (true, false) => ("POST", "/secret".to_owned()),
        (false, true) => ("GET", format!("/public/{}", rng.random_range(0..20))),
        (false, false) => ("GET", "/private".to_owned()),
    };
    let mut block = Vec::new();
    for (name, value) in fields(method, &path) {
        // Sometimes added to the table, so that later blocks lean on it.
        let first = if rng.random_bool(0.3) { 0x40 } else { 0 };
        block.extend(literal(first, name, value));
    }
    for _ in 0..rng.random_range(0..4) {
        block.extend(literal(0x40, "x-filler", &"f".repeat(rng.random_range(0..120))));
        if rng.random() {
            // The newest entry of the table: what was just added.
            block.push(0xbe);
        }
    }
    let end = if upload { 0 } else { END_STREAM };
    let mut bytes = if rng.random_bool(0.3) {
        let (head, tail) = block.split_at(rng.random_range(0..=block.len()));
        [
            frame(HEADERS, end, stream, head),
            frame(CONTINUATION, END_HEADERS, stream, tail),
        ]
        .concat()
    } else {
        frame(HEADERS, END_HEADERS | end, stream, &block)
    };
    if upload {
        let longest = if rng.random_bool(0.3) { 14_000 } else { 200 };
        bytes.extend(frame(DATA, 0, stream, &body(rng, 0..longest)));
        bytes.extend(frame(DATA, END_STREAM, stream, &body(rng, 0..60)));
    }
    bytes
}

/// What a first request asks the connection to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Websocket,
    /// As a proxy does, to `a:443`.
    Connect,
    /// With a body, or without.
    Http2(bool),
}

impl Ask {
    pub(crate) const ALL: [Self; 4] = [Self::Websocket, Self::Connect, Self::Http2(false), Self::Http2(true)];

    /// The request, which the policy allows.
    pub(crate) fn request(self) -> &'static str {
        match self {
            Self::Websocket => {
                "GET /public/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            }
            Self::Connect => "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            Self::Http2(false) => "GET /public/h2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            Self::Http2(true) => {
                "POST /upload HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 18\r\n\r\nPRI * HTTP/2.0\r\n\r\n"
            }
        }
    }

    /// What a server answers; bodies look like an agreement.
    pub(crate) fn answer(self, rng: &mut StdRng, agrees: bool) -> Vec<u8> {
        const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
        let interim = *[
            "",
            "",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\na: b\r\n\r\n",
        ]
        .choose(rng)
        .unwrap();
        let agreed = match self {
            Self::Connect => "HTTP/1.1 200 Connection established\r\n\r\n",
            Self::Websocket | Self::Http2(_) => SWITCH,
        };
        if agrees {
            return [interim, agreed].concat().into_bytes();
        }
        // A proxy that refuses says so by its status.
        let refusal = if self == Self::Connect { "407 No" } else { "200 OK" };
        let body = agreed.repeat(rng.random_range(0..3));
        format!(
            "{interim}HTTP/1.1 {refusal}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// The first flight of a client, twice with names of the same length, and what may follow: other records, other hellos.
pub(crate) fn first_flights(rng: &mut StdRng) -> [Vec<u8>; 2] {
    let record_len = *[16384, 100, 30, 5].choose(rng).unwrap();
    let (tls13, padding) = (rng.random(), *[0, 0, 700, 3000].choose(rng).unwrap());
    let flight = |name| {
        let hello = Hello {
            tls13,
            padding,
            ..Hello::new(name)
        };
        hello.records_of(record_len)
    };
    let (good, evil) = (flight("a.example"), flight("b.example"));
    let after = [
        record(20, &[1]),
        record(22, &[16, 0, 0, 3, 1, 2, 3]),
        record(23, &[7; 200]),
    ];
    let mut flights = [good.clone(), evil.clone()];
    for _ in 0..rng.random_range(0..4) {
        let more = match rng.random_range(0..6) {
            0 => &good,
            1 => &evil,
            _ => after.choose(rng).unwrap(),
        };
        flights.iter_mut().for_each(|flight| flight.extend(more));
    }
    flights
}
