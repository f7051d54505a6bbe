//! Which request is it that was answered? The kernel tells the connection and the time; what was asked is remembered here.

use ahash::AHashMap as HashMap;
use std::collections::VecDeque;

use seventh_abi::{Answer, FlowKey};
use seventh_engine::L7Record;

/// Connections whose last requests are remembered at most; the oldest are forgotten.
const CONNECTIONS_MAX: usize = 8192;
/// Requests of one connection that are remembered: those that may have gone on before the answer to the first was read
/// here.
const REQUESTS_MAX: usize = 4;
/// Bytes that all remembered requests take at most; the oldest connections are forgotten.
const BYTES_MAX: usize = 16 << 20;

/// An allowed request.
#[derive(Debug)]
pub(super) struct Request<T> {
    /// When it went on, on the kernel's clock.
    pub(super) time_ns: u64,
    /// Bytes that it takes.
    pub(super) bytes: usize,
    pub(super) what: T,
}

/// Whose answer it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<T> {
    /// The answer to this request, which is done.
    Request(T),
    /// The final answer is still to come (RFC 9110 section 15.2).
    Interim,
    /// Several requests wait, and only one of their answers was copied: nobody knows whose it is. They are done.
    Several,
    /// No request is known that went on before it.
    Nothing,
}

/// The last requests of connections.
#[derive(Debug)]
pub(super) struct Requests<T> {
    by_connection: HashMap<FlowKey, VecDeque<Request<T>>>,
    /// In the order in which they came.
    order: VecDeque<FlowKey>,
    bytes: usize,
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self {
            by_connection: HashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Requests<T> {
    /// Remembers a request that went on.
    pub(super) fn remember(&mut self, key: FlowKey, request: Request<T>) {
        let known = self.by_connection.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            VecDeque::with_capacity(1)
        });
        if known.len() == REQUESTS_MAX {
            let gone = known.pop_front().map_or(0, |oldest| oldest.bytes);
            self.bytes = self.bytes.saturating_sub(gone);
        }
        self.bytes += request.bytes;
        known.push_back(request);
        while self.by_connection.len() > CONNECTIONS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            let gone = self.by_connection.remove(&oldest).unwrap_or_default();
            let gone: usize = gone.iter().map(|request| request.bytes).sum();
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    /// The request that this is the answer to. Requests that went on before it are done, unless it is an interim one.
    pub(super) fn answered(&mut self, answer: &Answer) -> Asked<T> {
        let Some(known) = self.by_connection.get_mut(&answer.key) else {
            return Asked::Nothing;
        };
        let Some(last) = known.iter().rposition(|request| request.time_ns <= answer.time_ns) else {
            return Asked::Nothing;
        };
        if status(&answer.head).is_some_and(Status::is_interim) {
            return Asked::Interim;
        }
        let gone: usize = known.iter().take(last + 1).map(|request| request.bytes).sum();
        self.bytes = self.bytes.saturating_sub(gone);
        let mut done = known.drain(..=last);
        match (done.next(), done.next()) {
            (Some(request), None) => Asked::Request(request.what),
            _ => Asked::Several,
        }
    }
}

/// The connection of a request, as the kernel names it.
pub(super) fn connection(record: &L7Record) -> FlowKey {
    FlowKey::of_opener(
        record.hook,
        record.ifindex,
        (record.source, record.source_port),
        (record.destination, record.destination_port),
        record.protocol,
    )
}

/// What the first bytes of an answer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) protocol: &'static str,
    pub(super) code: u16,
}

impl Status {
    fn is_interim(self) -> bool {
        is_interim(self.code)
    }
}

/// Whether another answer follows one with this status; 101 is the last one of HTTP/1.
pub(super) const fn is_interim(code: u16) -> bool {
    code >= 100 && code < 200 && code != 101
}

/// Version and code; `None` if the bytes are not an answer of HTTP/1 (RFC 9112 section 4: `HTTP/1.1 200 `).
pub(super) fn status(head: &[u8]) -> Option<Status> {
    let text = std::str::from_utf8(head.get(..12)?).ok()?;
    let (protocol, code) = text.split_once(' ')?;
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let protocol = ["HTTP/1.1", "HTTP/1.0"].into_iter().find(|known| *known == protocol)?;
    Some(Status {
        protocol,
        code: code.parse().ok().filter(|_| digits)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Asked, BYTES_MAX, CONNECTIONS_MAX, Request, Requests, Status, status};
    use seventh_abi::{ANSWER_HEAD_LEN, Answer, FlowKey};

    fn key(port: u16) -> FlowKey {
        FlowKey {
            local_addr: [0; 16],
            peer_addr: [1; 16],
            ifindex: 1,
            local_port: 80,
            peer_port: port,
            protocol: 6,
            direction: 1,
            pad: [0; 2],
        }
    }

    fn request(time_ns: u64, what: &'static str) -> Request<&'static str> {
        Request {
            time_ns,
            bytes: 100,
            what,
        }
    }

    fn answer(port: u16, time_ns: u64, head: &[u8; ANSWER_HEAD_LEN]) -> Answer {
        Answer {
            time_ns,
            latency_ns: 1,
            key: key(port),
            beside: 0,
            pad: [0; 3],
            head: *head,
        }
    }

    const OK: &[u8; ANSWER_HEAD_LEN] = b"HTTP/1.1 200 OK\r";
    const CONTINUE: &[u8; ANSWER_HEAD_LEN] = b"HTTP/1.1 100 Con";
    const SWITCHING: &[u8; ANSWER_HEAD_LEN] = b"HTTP/1.1 101 Swi";

    #[test]
    fn an_answer_belongs_to_the_request_before_it() {
        let mut requests = Requests::default();
        requests.remember(key(1), request(10, "a"));
        requests.remember(key(1), request(30, "b"));
        requests.remember(key(2), request(5, "c"));
        let mut answered = |port, time| requests.answered(&answer(port, time, OK));
        assert_eq!(answered(1, 20), Asked::Request("a"));
        assert_eq!(answered(1, 20), Asked::Nothing);
        assert_eq!(answered(1, 40), Asked::Request("b"));
        assert_eq!(answered(2, 4), Asked::Nothing);
        assert_eq!(answered(3, 99), Asked::Nothing);
        assert_eq!(requests.bytes, 100, "the one that is not answered");
    }

    #[test]
    fn an_interim_answer_leaves_the_request_for_the_final_one() {
        let mut requests = Requests::default();
        requests.remember(key(1), request(10, "upload"));
        for _ in 0..2 {
            assert_eq!(requests.answered(&answer(1, 20, CONTINUE)), Asked::Interim);
        }
        assert_eq!(requests.answered(&answer(1, 30, OK)), Asked::Request("upload"));
        requests.remember(key(1), request(40, "websocket"));
        assert_eq!(
            requests.answered(&answer(1, 50, SWITCHING)),
            Asked::Request("websocket")
        );
    }

    #[test]
    fn an_answer_to_one_of_several_requests_is_given_to_none() {
        let mut requests = Requests::default();
        requests.remember(key(1), request(10, "a"));
        requests.remember(key(1), request(11, "b"));
        requests.remember(key(1), request(90, "c"));
        assert_eq!(requests.answered(&answer(1, 20, CONTINUE)), Asked::Interim);
        assert_eq!(requests.answered(&answer(1, 20, OK)), Asked::Several);
        assert_eq!(requests.answered(&answer(1, 30, OK)), Asked::Nothing);
        assert_eq!(requests.answered(&answer(1, 95, OK)), Asked::Request("c"));
    }

    #[test]
    fn the_oldest_connections_are_forgotten() {
        let mut requests = Requests::default();
        for number in 0..70_000_u64 {
            let mut key = key(u16::try_from(number % 60_000).unwrap());
            key.ifindex = u32::try_from(number / 60_000).unwrap();
            requests.remember(key, request(number, "x"));
            requests.remember(key, request(number, "y"));
        }
        assert!(requests.by_connection.len() <= CONNECTIONS_MAX && requests.order.len() <= CONNECTIONS_MAX);
        assert_eq!(requests.bytes, 2 * 100 * requests.by_connection.len());
    }

    #[test]
    fn long_requests_are_bounded_by_their_bytes() {
        let mut requests = Requests::default();
        for port in 0..60_000 {
            let long = Request {
                time_ns: 1,
                bytes: 4096,
                what: (),
            };
            requests.remember(key(port), long);
            assert!(requests.bytes <= BYTES_MAX);
        }
        assert_eq!(requests.by_connection.len(), BYTES_MAX / 4096);
    }

    #[test]
    fn only_answers_of_http_1_have_a_code() {
        let read = Status {
            protocol: "HTTP/1.1",
            code: 404,
        };
        assert_eq!(status(b"HTTP/1.1 404 Not"), Some(read));
        for other in [
            &b"HTTP/1.1 +04 xxx"[..],
            b"HTTP/2.0 200 xxx",
            b"\0\0\x12\x04\0\0\0\0\0\0\0\0\0\0\0\0",
            b"HTTP/1.1 2",
        ] {
            assert_eq!(status(other), None);
        }
    }
}
