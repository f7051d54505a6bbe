//! Which request is it that was answered? The kernel tells the connection and the time; what was asked is remembered here.

use std::collections::{HashMap, VecDeque};

use seventh_abi::{Answer, Direction, FlowKey, Hook};
use seventh_engine::L7Record;
use seventh_flows::pb::flow::{Flow, Http, layer7};

/// Connections whose last requests are remembered at most; the oldest are forgotten.
const CONNECTIONS_MAX: usize = 8192;
/// Requests of one connection that are remembered: those that may have gone on before the answer to the first was read
/// here.
const REQUESTS_MAX: usize = 4;

/// An allowed request.
#[derive(Debug)]
pub(super) struct Request {
    /// When it went on, on the kernel's clock.
    pub(super) time_ns: u64,
    pub(super) flow: Flow,
}

/// The last requests of connections.
#[derive(Debug, Default)]
pub(super) struct Requests {
    by_connection: HashMap<FlowKey, VecDeque<Request>>,
    /// In the order in which they came.
    order: VecDeque<FlowKey>,
}

impl Requests {
    /// Remembers a request that went on.
    pub(super) fn remember(&mut self, key: FlowKey, request: Request) {
        let known = self.by_connection.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            VecDeque::with_capacity(1)
        });
        if known.len() == REQUESTS_MAX {
            known.pop_front();
        }
        known.push_back(request);
        while self.by_connection.len() > CONNECTIONS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.by_connection.remove(&oldest);
        }
    }

    /// The request that this is the answer to: the last one that went on before it. It and those before it are done.
    pub(super) fn answered(&mut self, answer: &Answer) -> Option<Request> {
        let known = self.by_connection.get_mut(&answer.key)?;
        let last = known.iter().rposition(|request| request.time_ns <= answer.time_ns)?;
        let mut done = known.drain(..=last);
        done.next_back()
    }
}

/// The connection of a request, as the kernel names it.
pub(super) fn connection(record: &L7Record) -> FlowKey {
    let egress = record.hook == Hook::FromEndpoint;
    let (local, peer) = (
        (record.source, record.source_port),
        (record.destination, record.destination_port),
    );
    let ((local_addr, local_port), (peer_addr, peer_port)) = if egress { (local, peer) } else { (peer, local) };
    FlowKey {
        local_addr,
        peer_addr,
        ifindex: record.ifindex,
        local_port,
        peer_port,
        protocol: record.protocol,
        direction: if egress { Direction::Egress } else { Direction::Ingress } as u8,
        pad: [0; 2],
    }
}

/// What the answer's first bytes say, together with what was asked; `None` if they are not an answer of HTTP/1
/// (RFC 9112 section 4: `HTTP/1.1 200 `).
pub(super) fn http(head: &[u8], request: &Request) -> Option<Http> {
    let layer7::Record::Http(asked) = request.flow.l7.as_ref()?.record.as_ref()? else {
        return None;
    };
    let text = std::str::from_utf8(head.get(..12)?).ok()?;
    let (protocol, code) = text.split_once(' ')?;
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let known = matches!(protocol, "HTTP/1.0" | "HTTP/1.1");
    Some(Http {
        code: code.parse().ok().filter(|_| digits && known)?,
        protocol: protocol.to_owned(),
        ..asked.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS_MAX, Request, Requests, http};
    use seventh_abi::{ANSWER_HEAD_LEN, Answer, FlowKey};
    use seventh_flows::pb::flow::{Flow, Http, Layer7, layer7};

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

    fn request(time_ns: u64, url: &str) -> Request {
        let http = Http {
            method: "GET".into(),
            url: url.into(),
            ..Http::default()
        };
        let l7 = Layer7 {
            record: Some(layer7::Record::Http(http)),
            ..Layer7::default()
        };
        Request {
            time_ns,
            flow: Flow {
                l7: Some(l7),
                uuid: url.into(),
                ..Flow::default()
            },
        }
    }

    fn answer(port: u16, time_ns: u64) -> Answer {
        Answer {
            time_ns,
            latency_ns: 1,
            key: key(port),
            pad: [0; 4],
            head: [0; ANSWER_HEAD_LEN],
        }
    }

    #[test]
    fn an_answer_belongs_to_the_last_request_before_it() {
        let mut requests = Requests::default();
        requests.remember(key(1), request(10, "a"));
        requests.remember(key(1), request(30, "b"));
        requests.remember(key(2), request(5, "c"));
        let mut answered = |port, time| requests.answered(&answer(port, time)).map(|request| request.flow.uuid);
        assert_eq!(answered(1, 20).as_deref(), Some("a"));
        assert_eq!(answered(1, 20), None);
        assert_eq!(answered(1, 40).as_deref(), Some("b"));
        assert_eq!(answered(2, 4), None);
        assert_eq!(answered(3, 99), None);
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
    }

    #[test]
    fn only_answers_of_http_1_have_a_code() {
        let asked = request(1, "http://a/");
        let read = http(b"HTTP/1.1 404 Not", &asked).unwrap();
        assert_eq!(
            (read.code, read.protocol.as_str(), read.url.as_str()),
            (404, "HTTP/1.1", "http://a/")
        );
        for other in [
            &b"HTTP/1.1 +04 xxx"[..],
            b"HTTP/2.0 200 xxx",
            b"\0\0\x12\x04\0\0\0\0\0\0\0\0\0\0\0\0",
            b"HTTP/1.1 2",
        ] {
            assert!(http(other, &asked).is_none());
        }
    }
}
